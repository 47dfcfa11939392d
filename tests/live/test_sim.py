"""`sllora sim`: its modes as a user has them, the pages that they write, and every wrong use."""
import json
import subprocess
from html.parser import HTMLParser

import pytest

from conftest import ROOT, SLLORA

LATENCIES = {f"{what}_ms_{figure}" for what in ("ttft", "tpot", "e2e")
             for figure in ("mean", "p50", "p95", "p99")}
# As `sllora replay` names them, so that the two can be laid side by side.
KEYS = LATENCIES | {"trace", "class", "functions", "requests", "completed", "refused", "failed",
                    "slo_attainment", "tok_s", "gb_s", "cost_usd", "ce", "idle_gb_s",
                    "platform_gb_s", "device_s"}
SYSTEMS = ["sllora", "sllora-shared", "sllora-eager", "serverlesslora", "serverlessllm",
           "instainfer", "vllm", "dlora", "slora"]
SHORT = ["--rate", 2, "--duration", 30]


def run(*arguments):
    return subprocess.run([str(SLLORA), "sim", *map(str, arguments)], capture_output=True,
                          text=True, timeout=120)


def lines(*arguments):
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def conserved(figures):
    assert figures["requests"] == (figures["completed"] + figures["refused"] +
                                   figures["failed"]) > 0


class Page(HTMLParser):
    """Tags closed in their order, nothing from outside."""

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.plots = [], [], 0
        assert text.startswith("<!DOCTYPE html>") and "<script" not in text and "http" not in text
        self.feed(text)
        assert self.open == [], self.open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.plots += tag == "figure"
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (self.open, tag)
        self.open.pop()

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words.append(data)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system(system):
    figures, = lines("--trace", "normal", *SHORT, "--system", system)
    conserved(figures)
    assert KEYS <= set(figures) and figures["system"] == system
    assert figures["completed"] == figures["requests"]
    assert 0 < figures["ttft_ms_mean"] < figures["e2e_ms_mean"]
    assert figures["billed_usd"] <= figures["cost_usd"]
    assert lines("--trace", "normal", *SHORT, "--system", system) == [figures]


def test_the_same_requests_as_replay(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
        f"2023-11-16 18:15:4{i}.68,{5 + i},{1 + i}\n" for i in range(6)))
    figures, = lines("--trace", path, "--functions", 2, "--check")
    assert figures["requests"] == figures["completed"] == 6 and figures["functions"] == 2
    assert figures["tok_s"] * figures["span_s"] == pytest.approx(sum(range(1, 7)), rel=1e-3)


def test_what_switches_change():
    plain, = lines("--trace", "bursty", *SHORT)
    private, = lines("--trace", "bursty", *SHORT, "--no-sharing")
    assert private["gb_s"] > plain["gb_s"] and private["ttft_ms_mean"] > plain["ttft_ms_mean"]
    cold, = lines("--trace", "bursty", *SHORT, "--no-preload", "--keep-alive", "0.001")
    assert cold["cold"] > plain["cold"] and cold["ttft_ms_mean"] > plain["ttft_ms_mean"]
    single, = lines("--trace", "bursty", *SHORT, "--batch", "off")
    assert single["batch_peak"] == 1 < plain["batch_peak"]
    faulty, = lines("--trace", "bursty", *SHORT, "--worker-loss", 3, "--load-failures", 0.2,
                    "--check")
    conserved(faulty)
    assert faulty["failed"] > 0 == plain["failed"]
    nothing, = lines("--trace", "bursty", *SHORT, "--load-failures", 1, "--system", "instainfer")
    assert nothing["completed"] == 0 and nothing["ttft_ms_mean"] is None


def test_for_people():
    done = run("--trace", "predictable", *SHORT)
    for word in ("TTFT", "TPOT", "E2E", "within the objective", "USD", "completed"):
        assert word in done.stdout, done
    done = run("--trace", "predictable", *SHORT, "--load-failures", 1)
    assert "nan" not in done.stdout, done.stdout


def test_capacity(tmp_path):
    points = lines("--trace", "normal", "--rate", 12, "--duration", 60, "--refuse-late",
                   "--capacity", "1,2,4", "--report", tmp_path / "new")
    assert [p["devices"] for p in points] == [1, 2, 4]
    for p in points:
        conserved(p)
    assert points[0]["completed"] <= points[1]["completed"] <= points[2]["completed"]
    page = Page((tmp_path / "new/capacity.html").read_text())
    assert page.plots == 3 and "First tokens in time" in page.text


def test_scale():
    figures, = lines("--scale", "--devices", 40, "--functions", 2000, "--hours", 0.1)
    conserved(figures)
    assert figures["devices"] == 40 and figures["functions"] == 2000
    costs = lines("--plan-cost", "--hours", 0.01)
    assert [c["functions"] for c in costs] == [8, 100, 1000, 10000, 100000]
    assert all(c["plan_us_p50"] <= c["plan_us_p99"] <= c["plan_us_max"] for c in costs)


def test_paper(tmp_path):
    runs = lines("--paper", "--hours", 0.1, "--traces", 1, "--report", tmp_path)
    main = [r for r in runs if r["part"] == "main"]
    assert {(r["system"], r["class"]) for r in main} == {
        (s, c) for s in SYSTEMS for c in ("predictable", "normal", "bursty")}
    assert {r["ablation"] for r in runs} == {"none", "no-sharing", "no-preload", "no-offload",
                                             "no-batching"}
    assert {r["part"] for r in runs} == {"main", "ablation", "peak", "strong", "weak", "load",
                                         "price"}
    for r in runs:
        conserved(r)
    page = Page((tmp_path / "report.html").read_text())
    assert page.plots >= 18
    for word in ("Every number of the paper", "576 ms", "2977 ms", "7.53 USD", "19.3 x", "547 tok/s",
                 "more than 20 % off, and why", "Left out:", "crosses"):
        assert word in page.text, word
    for off in ("nan", "inf "):
        assert f" {off} " not in page.text


@pytest.mark.parametrize("arguments, words", [
    (["--trace", "bursty", "--hours", 3], "--hours is not for --trace"),
    (["--paper", "--devices", 3], "--devices is not for --paper"),
    (["--scale", "--system", "vllm"], "--system is not for --scale"),
    (["--plan-cost", "--functions", 8], "--functions is not for --plan-cost"),
    (["--capacity", "2", "--trace", "bursty", "--devices", 3], "--devices is not for --capacity"),
    (["--profile", "h200"], "--profile of what?"),
    (["--functions", 3], "--picture"),
    (["--paper", "--scale"], "exclude each other"),
    (["--capacity", "2,4"], "add --trace"),
    (["--capacity", "2,x", "--trace", "bursty"], '"2,x"'),
    (["--capacity", "0", "--trace", "bursty"], '"0"'),
    (["--trace", "bursty", "--cov", 1], "a CoV of 1 is not bursty"),
    (["--trace", "bursty", "--speed", 2], "--speed and --skip are for files"),
    (["--trace", "x.csv", "--rate", 2], "a file has its own"),
    (["--trace", "bursty", "--rate", "nan"], "rate"),
    (["--trace", "bursty", "--load-failures", 2], "load-failures"),
    (["--trace", "bursty", "--isolation", "none"], '"none"'),
    (["--trace", "bursty", "--batch", "fixed:0"], "batch"),
    (["--trace", "bursty", "--keep-alive", "long"], "keep-alive"),
    (["--trace", "bursty", "--hold", 0], "hold"),
    (["bursty"], 'unexpected argument "bursty"'),
])
def test_wrong_arguments(arguments, words):
    done = run(*arguments)
    assert done.returncode == 2 and words in done.stderr and not done.stdout, done


@pytest.mark.parametrize("arguments, words", [
    (["--trace", "bursty", "--system", "nobody"], 'there is no system "nobody"'),
    (["--trace", "bursty", "--profile", "nobody"], 'no profile "nobody"'),
    (["--trace", "bursty", "--profile", "./nobody.json"], "./nobody.json"),
    (["--trace", "/nobody.csv"], "/nobody.csv"),
    (["--trace", "bursty", "--memory", 1e9], "--memory"),
    (["--trace", "bursty", "--memory", 1e9, "--system", "serverlessllm"], "--memory"),
    (["--trace", "bursty", "--kv", 1], "--kv"),
    (["--trace", "bursty", "--system", "vllm", "--devices", 1], "take 2 devices"),
    (["--trace", "bursty", "--system", "vllm", "--no-sharing"], "always on"),
    (["--trace", "bursty", "--system", "vllm", "--refuse-late"], "refuses nobody"),
    (["--trace", "bursty", "--system", "instainfer", "--batch", "adaptive"], "static"),
    (["--trace", "predictable", "--system", "vllm", "--functions", 200, "--rate", 50],
     "adapters at most"),
    (["--paper", "--hours", 0.01], "hours"),
    (["--paper", "--report", "/dev/null/x"], "/dev/null/x"),
    (["--capacity", "2", "--trace", "bursty", "--report", "/dev/null"], "/dev/null"),
])
def test_what_cannot_be(arguments, words):
    done = run(*arguments)
    assert done.returncode == 1 and words in done.stderr and not done.stdout, done


def test_a_profile_of_ones_own(tmp_path):
    profile = json.loads((ROOT / "profiles/paper-l40s.json").read_text())
    path = tmp_path / "own.json"
    profile["backbones"].pop()
    path.write_text(json.dumps(profile))
    figures, = lines("--trace", "normal", *SHORT, "--profile", path)
    assert figures["profile"] == "paper-l40s" and figures["completed"] > 0
    done = run("--paper", "--profile", path)
    assert done.returncode == 1 and "llama2-13b" in done.stderr
    del profile["node"]["disk_gb_s"]
    path.write_text(json.dumps(profile))
    done = run("--trace", "normal", "--profile", path)
    assert done.returncode == 1 and f"{path}: node.disk_gb_s is missing" in done.stderr
    path.write_bytes(b"\xff" * 100)
    assert run("--trace", "normal", "--profile", path).returncode == 1
