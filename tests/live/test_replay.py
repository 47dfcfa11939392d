"""`sllora replay`: traces as load on the real daemon, and on a server that misbehaves as told."""
import http.server
import json
import signal
import subprocess
import threading
import time

import pytest

from conftest import SLLORA

LATENCIES = {f"{what}_ms_{figure}" for what in ("ttft", "tpot", "e2e")
             for figure in ("mean", "p50", "p95", "p99")}
KEYS = LATENCIES | {"trace", "class", "functions", "requests", "completed", "refused", "failed",
                    "duration_s", "slo_attainment", "tok_s", "late_ms_p99"}
USAGE = {"gb_s", "cost_usd", "ce", "idle_gb_s", "platform_gb_s", "device_s"}

LLM = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
TRACES = {
    "azure-llm": LLM + "".join(f"2023-11-16 18:15:4{i}.68,{5 + i},{1 + i}\n" for i in range(6)),
    "azure-functions-2019": "HashOwner,HashApp,HashFunction,Trigger,1,2\n"
                            "o,a,f,http,2,1\no,a,g,timer,1,2\n",
    "azure-functions-2021": "app,func,end_timestamp,duration\n" + "".join(
        f"a,f{i % 4},{5160 + i},0.5\n" for i in range(6)),
    "burstgpt": "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n" + "".join(
        f"{5 + i},ChatGPT,{7 + i},{2 + i},0,API log\n" for i in range(6)),
    "mooncake": "".join(f'{{"timestamp": {i * 500}, "input_length": 9, "output_length": 3, '
                        f'"hash_ids": [1]}}\n' for i in range(6)),
    "swarmlora": "".join(f'{{"timestamp": {i}.5, "adapter_id": {i % 3}, "input_text": "x", '
                         f'"input_tokens": 4, "output_tokens": 3}}\n' for i in range(6)),
}


def run(*arguments, data=None, **more):
    where = ["--data", str(data)] if data else []
    return subprocess.run([str(SLLORA), "replay", *map(str, arguments), *where],
                          capture_output=True, text=True, timeout=120, **more)


def replay(*arguments, data=None, code=0):
    done = run(*arguments, "--json", data=data)
    assert done.returncode == code, done
    figures = json.loads(done.stdout)
    assert KEYS | USAGE <= set(figures)
    assert figures["requests"] == (figures["completed"] + figures["refused"] + figures["failed"] +
                                   figures["unfinished"])
    assert sum(figures["codes"].values()) == figures["requests"] - figures["unfinished"]
    return figures


def totals(d):
    return {f["name"]: f["totals"] for f in d.json("ls")}


# --- against the daemon ---

@pytest.mark.parametrize("name", ["predictable", "normal", "bursty"])
def test_generated(demo, name):
    # So many that an answer outlasts a slice of a busy machine: a few tokens can reach the driver
    # all at once, and then there is no time between them.
    tokens = 64
    before = totals(demo)
    figures = replay(name, "--rate", 12, "--duration", 2, "--prompt-tokens", 20, "--new-tokens",
                     tokens, "--slo-tpot", 1000, data=demo.data)
    after = totals(demo)
    assert figures["completed"] == figures["requests"] > 10, figures
    assert figures["class"] == name and figures["functions"] == len(after)
    asked = {f: after[f]["requests"] - before[f]["requests"] for f in after}
    assert sum(asked.values()) == figures["requests"] and all(asked.values())
    # The lengths are those that were asked for, to the token.
    for what, each in (("prompt_tokens", 20), ("completion_tokens", tokens)):
        grown = sum(after[f][what] - before[f][what] for f in after)
        assert grown == each * figures["requests"]
    assert figures["tok_s"] * figures["duration_s"] == pytest.approx(tokens * figures["completed"])
    for what in LATENCIES:
        assert figures[what] > 0, what
    assert 0 <= figures["slo_attainment"] <= 1 and 0 <= figures["slo_tpot_attainment"] <= 1
    # The server tells all of its usage, or none.
    told = {key for key in USAGE if figures[key] is not None}
    assert told in (set(), USAGE), told


@pytest.mark.parametrize("name", TRACES)
def test_published(demo, tmp_path, name):
    path = tmp_path / "trace"
    path.write_text(TRACES[name])
    figures = replay(path, "--speed", 100, "--prompt-max", 30, "--new-max", 8, data=demo.data)
    assert figures["format"] == name and figures["trace"] == str(path)
    assert figures["completed"] == figures["requests"] == 6, figures
    figures = replay(path, "--format", name, "--speed", 1000, "--functions", demo.names[0],
                     "--prompt-tokens", 3, "--new-tokens", 2, data=demo.data)
    assert figures["completed"] == 6 and figures["functions"] == 1


def test_chat(demo):
    figures = replay("predictable", "--chat", "--rate", 5, "--duration", 1, "--prompt-tokens", 12,
                     "--new-tokens", 4, data=demo.data)
    assert figures["completed"] == figures["requests"] > 0
    assert figures["tok_s"] * figures["duration_s"] == pytest.approx(4 * figures["completed"])


def test_elsewhere(demo):
    figures = replay("predictable", "--url", demo.url, "--functions", ",".join(demo.names),
                     "--rate", 10, "--duration", 1, "--new-tokens", 2)
    assert figures["completed"] == figures["requests"] > 0
    assert all(figures[key] is None for key in USAGE)


def test_for_people_and_report(demo, tmp_path):
    page = tmp_path / "report.html"
    done = run("normal", "--rate", 10, "--duration", 2, "--new-tokens", 3, "--report", page,
               data=demo.data)
    assert done.returncode == 0, done
    for word in ("normal", "TTFT", "TPOT", "E2E", "completed", "tokens/s", "sent late"):
        assert word in done.stdout
    assert "completed" in done.stderr  # a line of progress a second
    text = page.read_text()
    assert text.startswith("<!DOCTYPE html>") and text.rstrip().endswith("</html>")
    for word in ("TTFT", "Distributions of latencies", "Arrivals", "objective", *demo.names):
        assert word in text, word
    assert text.count("<figure") == 3 and "<script" not in text


def test_interrupted(demo):
    command = [str(SLLORA), "replay", "predictable", "--rate", "5", "--duration", "100",
               "--new-tokens", "2", "--json", "--data", str(demo.data)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if not line.rstrip().endswith(" 0 completed"):
            break  # something was done
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    figures = json.loads(out)
    assert process.returncode == 0 and figures["stopped"]
    assert 0 < figures["completed"] <= figures["requests"] < 500
    assert demo.process.poll() is None


def test_names_that_are_none(demo):
    figures = replay("predictable", "--functions", "nobody", "--rate", 5, "--duration", 1,
                     data=demo.data, code=1)
    assert figures["failed"] == figures["codes"]["404"] == figures["requests"]
    assert figures["slo_attainment"] == 0 and figures["ttft_ms_p50"] is None


# --- against a server that does as it is told ---

class Told(http.server.BaseHTTPRequestHandler):
    """Answers the i-th request as server.plan(i) says."""
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            index = len(self.server.bodies)
            self.server.bodies.append(body)
        getattr(self, self.server.plan(index))(body)

    def answer(self, code, content, text, **headers):
        self.send_response(code)
        self.send_header("Content-Type", content)
        self.send_header("Content-Length", str(len(text)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def events(self, tokens, finish=True):
        chunk = '{"choices":[{"index":0,"text":"%s","finish_reason":%s}]}'
        lines = [chunk % ("x", "null")] * tokens + [chunk % ("", '"length"')] * finish
        return "".join(f"data: {line}\n\n" for line in lines + ["[DONE]"])

    def good(self, body):
        self.answer(200, "text/event-stream", self.events(body["max_tokens"]))

    def slow(self, body):
        time.sleep(0.3)
        self.good(body)

    def closing(self, body):
        """Without saying so beforehand: the next request on this connection meets its end."""
        self.good(body)
        self.wfile.flush()
        self.close_connection = True

    def busy(self, body):
        self.answer(429, "application/json", '{"error":{"message":"too many"}}')

    def full(self, body):
        self.answer(503, "application/json", "{}", Connection="close")

    def wrong(self, body):
        self.answer(500, "text/plain", "no JSON")

    def cut(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Length", "100000")
        self.end_headers()
        self.wfile.write(self.events(1, finish=False).encode())
        self.close_connection = True

    def endless(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.server.stop.wait(60)
        self.close_connection = True

    def unfinished(self, body):
        self.answer(200, "text/event-stream", self.events(2, finish=False))

    def broken(self, body):
        self.answer(200, "text/event-stream", 'data: {"error":{"message":"it broke"}}\n\n')

    def garbage(self, body):
        self.wfile.write(b"\x00\xff\n\n")
        self.close_connection = True


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


@pytest.fixture
def told():
    """A factory: told(plan) is a server; its url and what it was asked are attributes."""
    servers = []

    def make(plan):
        server = Server(("127.0.0.1", 0), Told)
        server.plan = plan if callable(plan) else lambda index: plan
        server.lock, server.stop, server.bodies = threading.Lock(), threading.Event(), []
        server.url = f"127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield make
    for server in servers:
        server.stop.set()
        server.shutdown()
        server.server_close()


EVEN = ["predictable", "--cov", "0.000001", "--functions", "f"]


def test_counts_from_when_it_should_have_been_sent(told):
    """One connection, 0.3 s a request, ten requests a second: each waits for all before it, and is
    charged for that although the driver came to send it late."""
    server = told("slow")
    figures = replay(*EVEN, "--url", server.url, "--rate", 10, "--duration", 0.8, "--connections",
                     1, "--new-tokens", 2)
    assert figures["completed"] == figures["requests"] == 8
    assert figures["waited"] == 7
    # The last was due at most 0.8 s after the first and came after 8 * 0.3 s.
    assert figures["late_ms_p99"] > 1000
    assert figures["e2e_ms_p99"] > 1400
    assert figures["ttft_ms_mean"] > 700


def test_sends_without_waiting(told):
    """With connections for all, a slow answer keeps nobody."""
    server = told("slow")
    figures = replay(*EVEN, "--url", server.url, "--rate", 40, "--duration", 0.5, "--new-tokens", 2)
    assert figures["completed"] == 20 and figures["waited"] == 0


@pytest.mark.parametrize("plan, outcome, word", [
    ("busy", "refused", "429"), ("full", "refused", "503"), ("wrong", "failed", "500"),
    ("cut", "failed", "cut"), ("unfinished", "failed", "broken"), ("broken", "failed", "broken"),
    ("garbage", "failed", "broken"), ("endless", "failed", "timeout"),
])
def test_what_is_no_answer(told, plan, outcome, word):
    server = told(lambda index: "good" if index % 2 else plan)
    figures = replay(*EVEN, "--url", server.url, "--rate", 20, "--duration", 0.5, "--new-tokens", 2,
                     "--timeout", 1)
    assert figures["requests"] == len(server.bodies) == 10
    assert figures["completed"] == figures["codes"]["200"] == 5, figures
    assert figures[outcome] == figures["codes"][word] == 5, figures
    assert figures["slo_attainment"] >= 0.5
    done = run(*EVEN, "--url", server.url, "--rate", 20, "--duration", 0.5, "--timeout", 1)
    assert done.returncode == 0 and f"5 x {word}" in done.stdout


def test_kept_connections_that_end(told):
    server = told("closing")
    figures = replay(*EVEN, "--url", server.url, "--rate", 50, "--duration", 1, "--new-tokens", 2)
    assert figures["completed"] == figures["requests"] == 50


def test_a_server_that_goes_away(told):
    server = told("good")
    command = [str(SLLORA), "replay", *EVEN, "--url", server.url, "--rate", "20", "--duration", "3",
               "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stderr.readline()
    server.shutdown()
    server.server_close()
    out, _ = process.communicate(timeout=60)
    figures = json.loads(out)
    assert figures["requests"] == 60 and figures["completed"] > 0
    assert figures["completed"] + figures["failed"] == 60


def test_what_is_sent(told):
    server = told("good")
    sent = []
    for seed in (1, 1, 2):
        replay("normal", "--functions", "f,g,h", "--url", server.url, "--rate", 30, "--duration",
               1, "--seed", seed, "--connections", 1)
        sent.append(list(server.bodies))
        server.bodies.clear()
    assert sent[0] == sent[1] != sent[2]
    assert {body["model"] for body in sent[0]} == {"f", "g", "h"}
    for body in sent[0]:
        assert body["stream"] and body["ignore_eos"] and body["temperature"] == 0
        assert 50 <= len(body["prompt"]) <= 150 and 100 <= body["max_tokens"] <= 300
    prompts = [tuple(body["prompt"][:8]) for body in sent[0]]
    assert len(set(prompts)) == len(prompts)  # nothing for a prefix cache


def test_long_prompts(told, demo):
    """More than a socket takes at once; and a server that refuses before it has read all."""
    server = told("good")
    figures = replay(*EVEN, "--url", server.url, "--rate", 2, "--duration", 1, "--prompt-tokens",
                     400000, "--new-tokens", 1)
    assert figures["completed"] == 2
    assert [len(body["prompt"]) for body in server.bodies] == [400000, 400000]
    figures = replay("predictable", "--functions", demo.names[0], "--rate", 3, "--duration", 1,
                     "--prompt-tokens", 5000000, data=demo.data, code=1)
    assert figures["failed"] == figures["codes"]["413"] == figures["requests"], figures


def test_popularity_and_order(told):
    server = told("good")
    replay("predictable", "--functions", "f,g,h", "--url", server.url, "--rate", 200, "--duration",
           1, "--zipf", 2, "--new-tokens", 1)
    counts = [sum(body["model"] == name for body in server.bodies) for name in "fgh"]
    assert counts[0] > 2 * counts[1] > 2 * counts[2] > 0, counts


# --- whatever a user can do wrong ---

@pytest.mark.parametrize("arguments, said", [
    ([], "which trace"), (["normal", "bursty"], "bursty"),
    (["normal", "--cov", "5"], "CoV"), (["normal", "--cov", "x"], "cov"),
    (["normal", "--rate", "0"], "rate"), (["normal", "--speed", "2"], "--speed"),
    (["normal", "--format", "mooncake"], "--format"), (["x.csv", "--rate", "2"], "--rate"),
    (["x.csv", "--format", "csv"], "csv"), (["normal", "--connections", "0"], "connections"),
    (["normal", "--prompt-tokens", "-1"], "prompt-tokens"), (["normal", "--url", "x:1"], "--functions"),
    (["x.csv", "--zipf", "1", "--by-session"], "exclude"),
])
def test_wrong_arguments(arguments, said):
    done = run(*arguments)
    assert done.returncode == 2 and said in done.stderr, done


def test_no_server(tmp_path):
    done = run("normal", data=tmp_path)
    assert done.returncode == 3 and "sllora serve" in done.stderr
    done = run("normal", "--url", "127.0.0.1:1", "--functions", "f")
    assert done.returncode == 3 and "127.0.0.1:1" in done.stderr
    done = run("normal", "--url", "127.0.0.1", "--functions", "f")
    assert done.returncode == 1 and "HOST:PORT" in done.stderr


def test_traces_that_are_not_there(told, tmp_path):
    where = ["--url", told("good").url, "--functions", "f"]
    path = tmp_path / "trace.csv"
    done = run(tmp_path / "nothing", *where)
    assert done.returncode == 1 and "nothing" in done.stderr
    path.write_text(TRACES["azure-llm"])
    done = run(path, *where, "--skip", 100)
    assert done.returncode == 1 and "no request from 100 s" in done.stderr
    done = run(path, *where, "--by-session")
    assert done.returncode == 1 and "sessions" in done.stderr
    done = run(path, *where, "--report", tmp_path / "no" / "page.html")
    assert done.returncode == 1 and "page.html" in done.stderr
