"""The real daemon, started for a test and stopped after it, driven by the real clients."""
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import openai
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("SLLORA_BUILD", ROOT / "build"))
if not BUILD.is_absolute():
    BUILD = ROOT / BUILD
SLLORA = BUILD / "sllora"
DEMO = ROOT / "models/demo"
ADAPTERS = ROOT / "models/demo-adapters"
PARITY = ROOT / "tests/vectors/parity"


class Daemon:
    """One `sllora serve` on a directory of its own."""

    def __init__(self, data, *flags, as_user=None, program=SLLORA, env=None):
        self.env = {**os.environ, **env} if env else None
        self.data = Path(data)
        self.flags = [str(f) for f in flags]
        self.as_user = as_user
        self.program = str(program)
        self.process = None
        self.port = 0
        self.log = self.data.parent / (self.data.name + ".log")

    def start(self):
        command = [self.program, "serve", "--data", str(self.data), "--listen", "127.0.0.1:0", "-v",
                   *self.flags]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=self.env,
                                        stdout=subprocess.DEVNULL, stderr=self.log.open("a"),
                                        user=self.as_user, group=self.as_user,
                                        extra_groups=[] if self.as_user is not None else None)
        for _ in range(1000):
            if self.process.poll() is not None:
                raise RuntimeError("the daemon did not start: " + self.log.read_text()[-2000:])
            done = self.cli("status", "--json")
            if done.returncode == 0:
                self.port = json.loads(done.stdout)["port"]
                return self
            time.sleep(0.01)
        raise RuntimeError("the daemon is not ready: " + self.log.read_text()[-2000:])

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def cli(self, *arguments, **more):
        return subprocess.run([self.program, *map(str, arguments), "--data", str(self.data)],
                              capture_output=True, text=True, timeout=120, **more)

    def ok(self, *arguments):
        done = self.cli(*arguments)
        assert done.returncode == 0, done.stderr + self.log.read_text()[-2000:]
        return done.stdout

    def json(self, *arguments):
        return [json.loads(line) for line in self.ok(*arguments, "--json").splitlines()]

    def status(self):
        return self.json("status")[0]

    def describe(self, name):
        return self.json("describe", name)[0]

    def deploy(self, name, backbone, adapter=None, owner=None, isolation=None, quant=None,
               adapter_quant=None):
        flags = ["--backbone", backbone]
        for flag, value in (("--adapter", adapter), ("--owner", owner),
                            ("--isolation", isolation), ("--quant", quant),
                            ("--adapter-quant", adapter_quant)):
            flags += [flag, value] if value else []
        return self.ok("deploy", name, *flags)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def client(self, **options):
        options.setdefault("max_retries", 0)
        options.setdefault("timeout", 60)
        return openai.OpenAI(base_url=self.url + "/v1", api_key="none", **options)

    def worker_pids(self):
        """Of those that belong to a domain; spares know nobody yet."""
        return [w["pid"] for w in self.status()["workers"] if w["functions"]]


def wait_for(condition, what, seconds=20):
    """Polls until the condition holds; no test depends on how long that takes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError("never happened: " + what)


@pytest.fixture
def daemon(tmp_path):
    d = Daemon(tmp_path / "data").start()
    yield d
    d.stop()


@pytest.fixture
def daemon_with(tmp_path):
    """A factory: daemon_with("--keep-alive", 1)."""
    started = []

    def make(*flags, **more):
        d = Daemon(tmp_path / f"data{len(started)}", *flags, **more).start()
        started.append(d)
        return d

    yield make
    for d in started:
        d.stop()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Three functions of two owners on the demo backbone, for tests that leave it as it is."""
    d = Daemon(tmp_path_factory.mktemp("demo") / "data").start()
    names = sorted(p.name for p in ADAPTERS.iterdir() if p.is_dir())
    for i, name in enumerate(names):
        d.deploy(name, DEMO, ADAPTERS / name, owner="acme" if i < 2 else "globex")
    d.deploy("bare", DEMO, owner="acme")
    d.names = names
    yield d
    d.stop()
