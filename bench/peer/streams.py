"""Streams with adapters on llama-server: each stream one request, all sent at once.

The server batches only what has the same adapters; the others wait. Its speed is the tokens of all
streams divided by the time that no prompt was being read, because our side measures decoding alone.
"""
import json
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from peers import KV_ROUND, Result
from programs import Failed, Watch

START_TIMEOUT_S = 120
ANSWER_TIMEOUT_S = 600
FIRST_TOKEN = 1000  # ids below are bytes and control tokens


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """llama-server with these adapters, none applied but by request."""

    def __init__(self, program, model, adapters, slots, length, threads, flags):
        length = -(-length // KV_ROUND) * KV_ROUND
        self.url = f"http://127.0.0.1:{free_port()}"
        self.directory = tempfile.TemporaryDirectory(prefix="sllora-peer-")
        self.log = Path(self.directory.name) / "log"
        command = [program, "-m", model, "-t", threads, "-tb", threads, "-np", slots,
                   "-c", slots * length, "--host", "127.0.0.1", "--port",
                   self.url.rsplit(":", 1)[1], "--cache-ram", 0, "--lora-init-without-apply"]
        command += ["--lora", ",".join(str(a) for a in adapters)] if adapters else []
        with self.log.open("w") as log:
            self.process = subprocess.Popen([str(c) for c in command + flags], stdout=log,
                                            stderr=log, cwd=self.directory.name)

    def __enter__(self):
        try:
            self.wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.directory.cleanup()

    def wait_until_ready(self):
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end and self.process.poll() is None:
            try:
                with urllib.request.urlopen(self.url + "/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.05)
        said = self.log.read_text(errors="replace").strip().splitlines()[-1:] or ["nothing"]
        raise Failed(f"llama-server did not start; it said: {said[0]}")

    def ask(self, prompt, tokens, adapter):
        body = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "ignore_eos": True,
                "cache_prompt": False, "lora": [] if adapter is None
                else [{"id": adapter, "scale": 1.0}]}
        request = urllib.request.Request(self.url + "/completion", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_TIMEOUT_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as e:
            raise Failed(f"llama-server answered {e.code}: {e.read()[:200]!r}") from e
        except OSError as e:
            raise Failed(f"llama-server does not answer: {e}") from e


def decode_speed(answers, tokens, took_s):
    """Tokens a second of all streams while no prompt was read."""
    for a in answers:
        if a["tokens_predicted"] != tokens:
            raise Failed(f"llama-server stopped after {a['tokens_predicted']} of {tokens} tokens")
    prompts_s = sum(a["timings"]["prompt_ms"] for a in answers) / 1000
    return len(answers) * tokens / (took_s - prompts_s)


def run_streams(server, count, prompt, tokens, adapters):
    """`count` requests at once, request i with adapter i modulo `adapters` (0: none)."""
    answers = [None] * count

    def one(i):
        ids = [FIRST_TOKEN + (t * 37 + i * 101) % 10000 for t in range(prompt)]
        try:
            answers[i] = server.ask(ids, tokens, i % adapters if adapters else None)
        except Failed as e:
            answers[i] = e

    threads = [threading.Thread(target=one, args=(i,)) for i in range(count)]
    began = time.monotonic()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    took_s = time.monotonic() - began
    for a in answers:
        if isinstance(a, Failed):
            raise a
    return decode_speed(answers, tokens, took_s)


def measure(peer, model, adapters, work, threads, flags):
    """A server of its own, a request to warm it, and the streams: one a sequence of `work`."""
    watch = Watch()
    with Server(peer.program("llama-server"), model, adapters, work.batch,
                work.prompt + work.tokens, threads, flags) as server:
        run_streams(server, 1, work.prompt, 4, 1)
        tok_s = run_streams(server, work.batch, work.prompt, work.tokens,
                            min(len(adapters), work.batch))
    return Result(tok_s, watch.others())
