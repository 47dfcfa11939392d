"""The serverless core on the real daemon: what is in memory when, who is refused, what it costs, and
what happens when one of its processes dies."""
import concurrent.futures
import json
import os
import re
import signal
import time

import httpx
import openai
import pytest

from conftest import ADAPTERS, DEMO, SLLORA, wait_for

NAMES = sorted(p.name for p in ADAPTERS.iterdir() if p.is_dir())
ASK = {"prompt": "The king", "max_tokens": 3, "temperature": 0}


def ask(d, name, **more):
    return d.client().completions.create(model=name, **{**ASK, **more})


def processes(d, role):
    """Pids of the daemon's processes of one role, copies of zygotes among them."""
    found, parents = [], {d.process.pid}
    table = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = open(f"/proc/{pid}/stat").read()
        except OSError:
            continue
        name = fields[fields.index("(") + 1:fields.rindex(")")]
        rest = fields[fields.rindex(")") + 2:].split()
        if rest[0] != "Z":
            table[int(pid)] = (name, int(rest[1]))
    grown = True
    while grown:
        more = {pid for pid, (_, parent) in table.items() if parent in parents} - parents
        grown = bool(more)
        parents |= more
    found = [pid for pid in parents if pid in table and table[pid][0] == f"sllora-{role}"]
    return sorted(found)


def parent_name(pid):
    fields = open(f"/proc/{pid}/stat").read()
    parent = fields[fields.rindex(")") + 2:].split()[1]
    return open(f"/proc/{parent}/comm").read().strip()


# --- what is in memory ahead of need ---

def test_a_backbone_and_its_adapters_come_with_the_deploy(daemon_with):
    """Where memory is cheap enough for a function that nobody has called yet."""
    daemon = daemon_with("--hold", "100T")
    daemon.deploy("f", DEMO, ADAPTERS / NAMES[0])
    wait_for(lambda: daemon.describe("f")["state"] in ("staged", "spare"), "preloaded")
    plan = daemon.json("plan")[0]
    items = {(i["kind"], i["name"]): i for i in plan["places"][0]["items"]}
    assert plan["preloading"]
    assert items["backbone", "demo"]["present"] and items["backbone", "demo"]["chosen"]
    adapter = items["adapter", "f"]
    wait_for(lambda: {(i["kind"], i["name"]): i for i in
                      daemon.json("plan")[0]["places"][0]["items"]}["adapter", "f"]["present"],
             "the adapter is in memory")
    assert adapter["bytes"] == daemon.describe("f")["adapter"]["bytes"]
    assert adapter["value_ms_per_s"] > 0 and adapter["saves_ms"] > 0
    text = daemon.ok("plan")
    assert "backbone" in text and "demo" in text and "MS/S PER GIB" in text


def test_no_preload_loads_nothing(daemon_with):
    d = daemon_with("--no-preload")
    d.deploy("f", DEMO, ADAPTERS / NAMES[0])
    time.sleep(1.5)  # more than a period of the plan
    assert d.describe("f")["state"] == "cold" and processes(d, "keeper") == []
    assert d.json("plan")[0]["preloading"] is False
    assert ask(d, "f").choices
    assert d.describe("f")["totals"]["cold_starts"] == 1


def test_workers_are_copies_of_a_zygote(daemon):
    daemon.deploy("f", DEMO, ADAPTERS / NAMES[0], owner="a")
    daemon.deploy("g", DEMO, ADAPTERS / NAMES[1], owner="b")
    ask(daemon, "f")
    ask(daemon, "g")
    pids = [w["pid"] for w in daemon.status()["workers"]]
    assert len(pids) >= 2 and len(processes(daemon, "zygote")) == 1
    for pid in pids:
        assert parent_name(pid) == "sllora-zygote"
    if os.geteuid() == 0:
        owners = {os.stat(f"/proc/{pid}").st_uid for pid in pids + processes(daemon, "zygote")}
        assert 0 not in owners and len(owners) == len(pids) + 1
        namespaces = {os.readlink(f"/proc/{pid}/ns/pid") for pid in pids}
        assert len(namespaces) == len(pids)
        for pid in pids:
            status = open(f"/proc/{pid}/status").read()
            assert re.search(r"^CapEff:\t0+$", status, re.M), status
            assert re.search(r"^CapBnd:\t0+$", status, re.M), status
            assert re.search(r"^Seccomp:\t2$", status, re.M), status
            assert re.search(r"^Seccomp_filters:\t2$", status, re.M), status


def test_copies_of_a_zygote_have_nothing_in_common(daemon_with):
    """But the log, and the backbone, which nobody can write."""
    if os.geteuid() != 0:
        pytest.skip("needs root to look into processes")
    daemon = daemon_with("--keep-alive", 600)
    for i, name in enumerate("fg"):
        daemon.deploy(name, DEMO, ADAPTERS / NAMES[i], owner=name)
        ask(daemon, name)
    sockets, backbones, adapters = [], set(), []
    pids = daemon.worker_pids()
    assert len(pids) == 2
    for pid in pids:
        opened = {int(fd): os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        assert opened.pop(0) == "/dev/null"
        assert opened.pop(1) == opened.pop(2) == str(daemon.log)
        sockets += opened.values()
        mapped = [line.split() for line in open(f"/proc/{pid}/maps") if line.split()[1].endswith("s")]
        assert all(m[1] == "r--s" for m in mapped), mapped
        backbones |= {m[4] for m in mapped if "share" in m[5]}
        adapters += [m[4] for m in mapped if "adapter" in m[5]]
        assert len(mapped) == 2, mapped
    assert len(set(sockets)) == 2 and all(s.startswith("socket:") for s in sockets), sockets
    assert len(backbones) == 1 and len(set(adapters)) == 2


def test_no_sharing_gives_each_owner_a_backbone(daemon_with):
    d = daemon_with("--no-sharing", "--keep-alive", 60)
    d.deploy("f", DEMO, owner="a")
    d.deploy("g", DEMO, owner="b")
    ask(d, "f")
    ask(d, "g")
    assert len(processes(d, "keeper")) == 2
    memory = d.status()["devices"][0]["memory"]
    assert memory["backbones"] == 2 * d.describe("f")["backbone"]["bytes"]


def test_keep_alive_decides_when_a_worker_ends(daemon_with):
    d = daemon_with("--keep-alive", "fixed:1")
    d.deploy("f", DEMO)
    ask(d, "f")
    worker = [w for w in d.status()["workers"] if w["functions"]][0]
    assert 0 <= worker["ends_in_s"] <= 1
    wait_for(lambda: not d.worker_pids(), "the idle worker ends")


def test_the_budget_holds(daemon_with):
    """Six owners at once where three workers fit: all are answered, one after the other, and no
    more memory is given out than there is."""
    d = daemon_with("--memory", "190M", "--keep-alive", 60, "--kv", "16M")
    for i in range(6):
        d.deploy(f"f{i}", DEMO, ADAPTERS / NAMES[i % 3], owner=f"o{i}")
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(ask, d, f"f{i % 6}", max_tokens=20) for i in range(24)]
        seen = []
        while not all(a.done() for a in answers):
            status = d.status()
            seen.append(status["devices"][0])
            assert status["memory_bytes"] <= status["memory_budget_bytes"]
            time.sleep(0.02)
        assert all(a.result().choices for a in answers)
    assert all(sum(v["memory"].values()) == v["used_bytes"] <= v["budget_bytes"] for v in seen)
    assert d.cli("sim", "--log", d.data / "events.log").returncode == 0


# --- refusals ---

def test_an_owner_has_so_many_requests(daemon_with):
    """Its worker is stopped meanwhile: what it has asked for stays asked for."""
    d = daemon_with("--keep-alive", 60)
    d.deploy("f", DEMO, owner="a")
    d.deploy("g", DEMO, owner="b")
    assert "2 requests" in d.ok("owner", "a", "--requests", 2)
    assert d.describe("f")["owner_requests_max"] == 2
    ask(d, "f")
    worker = next(w["pid"] for w in d.status()["workers"] if w["functions"])

    def live():
        return d.status()["requests_running"] + d.status()["requests_waiting"]

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        os.kill(worker, signal.SIGSTOP)
        try:
            of_a = [pool.submit(ask, d, "f") for _ in range(2)]
            wait_for(lambda: live() == 2, "the owner has as many as it may")
            for _ in range(4):
                with pytest.raises(openai.RateLimitError) as refused:
                    ask(d, "f")
                assert refused.value.code == "rate_limit_exceeded"
                assert int(refused.value.response.headers["retry-after"]) >= 1
            of_b = [pool.submit(ask, d, "g") for _ in range(4)]
            wait_for(lambda: live() >= 2 + sum(not x.done() for x in of_b), "others are taken")
        finally:
            os.kill(worker, signal.SIGCONT)
        assert all(x.result().choices for x in of_a + of_b)
    assert ask(d, "f").choices
    d.stop()
    d.start()
    assert d.describe("f")["owner_requests_max"] == 2
    d.ok("owner", "a", "--requests", 0)
    assert d.describe("f")["owner_requests_max"] > 2


def test_what_comes_too_late_is_refused_at_once(daemon_with):
    d = daemon_with("--sequences", 1)
    d.ok("deploy", "f", "--backbone", DEMO, "--slo-ttft", 150)
    d.deploy("patient", DEMO, owner="b")
    for _ in range(3):  # what steps cost becomes known
        ask(d, "f", max_tokens=30, extra_body={"ignore_eos": True})
    begun = time.monotonic()
    long = "word " * 600

    def one(name):
        try:
            return ask(d, name, prompt=long, max_tokens=1)
        except openai.APIStatusError as e:
            return e, time.monotonic() - begun

    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        results = [r.result() for r in [pool.submit(one, "f") for _ in range(40)]]
        others = [r.result() for r in [pool.submit(one, "patient") for _ in range(10)]]
    refused = [r for r in results if isinstance(r, tuple)]
    assert refused and len(refused) < 40
    error = refused[0][0]
    assert error.status_code == 503 and error.code == "objective_unattainable"
    assert int(error.response.headers["retry-after"]) >= 1
    assert not any(isinstance(r, tuple) for r in others)  # who names no objective waits


def test_objectives_that_cannot_be_met_are_said_at_deploy(daemon):
    line = daemon.json("deploy", "f", "--backbone", DEMO, "--slo-ttft", 0.001, "--slo-tpot",
                       0.001)[-1]
    assert len(line["warnings"]) == 2
    assert all(re.search(r"cannot be met even alone .* takes about \d+ ms", w)
               for w in line["warnings"])
    assert daemon.json("deploy", "g", "--backbone", DEMO, "--slo-ttft", 60000)[-1]["warnings"] == []
    objectives = daemon.describe("f")["objectives"]
    assert objectives["named"] and objectives["ttft_ms"] == pytest.approx(0.001)


# --- what is shown ---

def test_describe_tells_forecast_and_cost_model(daemon):
    daemon.deploy("f", DEMO)
    for _ in range(4):
        ask(daemon, "f")
    shown = daemon.describe("f")
    assert shown["forecast"]["seen"] == 4 and shown["forecast"]["requests_per_s"] > 0
    assert shown["forecast"]["error_factor"] >= 1
    assert shown["cost_model"]["turns"] >= 4 and shown["cost_model"]["t0_ms"] > 0
    assert shown["objectives"]["met"] + shown["objectives"]["missed"] == 4


TOP_CELLS = 60


def test_top(daemon_with):
    d = daemon_with("--memory", "120M", "--keep-alive", 60)
    d.deploy("f", DEMO, ADAPTERS / NAMES[0])
    ask(d, "f")
    device = d.status()["devices"][0]
    looks = re.split(r"^(?=sllora  up )", d.ok("top", "--count", 2, "--interval", 0.1), flags=re.M)
    assert len(looks) == 3 and looks[0] == ""
    for look in looks[1:]:
        head, name, bar, legend, _, titles, function = look.splitlines()
        assert re.search(r"running, \d+ waiting, \d+ spare  objectives met 1, missed 0  USD \d",
                         head), head
        assert name.startswith("cpu  busy") and name.endswith("of 120.0 MiB"), name
        assert re.fullmatch(rf"  \[B+A*W+K*\.*\]", bar) and len(bar) == TOP_CELLS + 4, bar
        backbones = TOP_CELLS * device["memory"]["backbones"] / device["budget_bytes"]
        assert abs(bar.count("B") - backbones) <= 0.5, bar
        assert re.fullmatch(r"  B backbones .* A adapters .* W processes .* K kv .*", legend), legend
        assert titles.split()[:6] == ["FUNCTION", "OWNER", "STATE", "WAIT", "RUN", "REQUESTS"]
        assert function.split()[:6] == ["f", "default", "idle", "0", "0", "1"], function
        ttft_p50, ttft_p95, gb_s, usd = map(float, function.split()[6:])
        assert 0 < ttft_p50 <= ttft_p95 and gb_s >= 0 and usd >= 0
    looks = d.json("top", "--count", 2, "--interval", 0.1)
    assert len(looks) == 2 and looks[0]["functions"][0]["name"] == "f"
    assert looks[0]["devices"][0]["memory"]["backbones"] == device["memory"]["backbones"]


def test_logs(daemon):
    daemon.deploy("f", DEMO, ADAPTERS / NAMES[0])
    ask(daemon, "f")
    log = daemon.ok("logs", "f")
    for word in ("deployed owner=default", "adapter loaded", "bound worker=", "done ms="):
        assert word in log, log
    numbers = [line["number"] for line in daemon.json("logs", "f")]
    assert numbers == sorted(numbers)
    assert daemon.cli("logs", "nobody").returncode == 4
    assert daemon.cli("logs", "../x").returncode == 2


def test_usage_is_the_sum_of_receipts(daemon):
    daemon.deploy("f", DEMO, owner="a")
    for _ in range(5):
        ask(daemon, "f", max_tokens=10)
    transport = httpx.HTTPTransport(uds=str(daemon.data / "admin.sock"))
    with httpx.Client(transport=transport, base_url="http://sllora") as http:
        usage = http.get("/admin/usage").json()
    assert usage["requests"] == 5
    assert 0 < usage["active_byte_s"] <= usage["total_byte_s"]
    held = usage["active_byte_s"] + usage["idle_byte_s"] + usage["platform_byte_s"]
    assert held <= usage["total_byte_s"] * (1 + 1e-6)
    wait_for(lambda: daemon.json("bill")[-1]["totals"]["requests"] == 5, "all is in the ledger")
    totals = daemon.json("bill")[-1]["totals"]
    assert totals["sum"]["adds_up"] is True
    receipts = totals["own_byte_s"] + totals["backbone_byte_s"]
    assert usage["active_byte_s"] == pytest.approx(receipts, rel=1e-6)
    assert usage["device_us"] == totals["device_us"] == totals["sum"]["device_us"]["requests"]
    used = totals["nanousd"]["total"] - totals["nanousd"]["idle"]
    assert usage["cost_usd"] >= used / 1e9 * (1 - 1e-6)


# --- what dies ---

def kill_while_it_works(d, role):
    for pid in processes(d, role):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("role", ["zygote", "keeper", "stager"])
def test_a_helper_that_dies_is_replaced(daemon_with, role):
    d = daemon_with("--keep-alive", 0.1)
    d.deploy("f", DEMO, ADAPTERS / NAMES[0], owner="a")
    d.deploy("g", DEMO, ADAPTERS / NAMES[1], owner="b")
    text = ask(d, "f").choices[0].text
    before = wait_for(lambda: processes(d, role), f"there is a {role}")
    kill_while_it_works(d, role)
    wait_for(lambda: not set(before) & set(processes(d, role)), "it is gone")

    def answers():
        try:
            return ask(d, "f").choices[0].text == text and ask(d, "g").choices
        except openai.InternalServerError:
            return False  # the one that ran on it when it died

    wait_for(answers, "functions answer again")
    d.deploy("h", DEMO, ADAPTERS / NAMES[2], owner="c")
    assert ask(d, "h").choices
    assert d.cli("sim", "--log", d.data / "events.log").returncode == 0


def test_requests_on_a_zygote_that_dies_are_told(daemon):
    daemon.deploy("f", DEMO, owner="a")
    ask(daemon, "f")

    def one():
        try:
            return ask(daemon, "f", max_tokens=1000, extra_body={"ignore_eos": True})
        except openai.InternalServerError as e:
            return e

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(one)
        wait_for(lambda: daemon.status()["requests_running"] == 1, "it runs")
        kill_while_it_works(daemon, "zygote")
        assert running.result().code == "worker_lost"
    assert ask(daemon, "f").choices
    lost = [line for line in daemon.json("bill") if line.get("lost")]
    assert lost, "the bill tells what was lost"


@pytest.mark.parametrize("flags", [
    ["--batch", "fixed"], ["--batch", "fixed:0"], ["--batch", "sometimes"], ["--keep-alive", "x"],
    ["--keep-alive", "fixed:"], ["--hold", "-1"], ["--slo-ttft", "0"], ["--prices", "/nowhere"],
    ["--sequences", "0"], ["--owner-requests", "0"], ["--memory", "1M"]])
def test_wrong_flags_of_serve(tmp_path, flags):
    import subprocess
    done = subprocess.run([str(SLLORA), "serve", "--data", str(tmp_path / "d"), "--listen",
                           "127.0.0.1:0", *flags], capture_output=True, text=True, timeout=60)
    assert done.returncode in (1, 2) and flags[0].lstrip("-") in done.stderr.replace("batch fixed",
                                                                                  "batch"), done


@pytest.mark.parametrize("batch,most", [("off", 1), ("fixed:2", 2), ("adaptive", 12)])
def test_batching_bounds_what_runs_together(daemon_with, batch, most):
    tokens = 240  # long enough to be seen together where others take the machine
    d = daemon_with("--batch", batch)
    d.deploy("f", DEMO)
    ask(d, "f")
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(ask, d, "f", max_tokens=tokens, extra_body={"ignore_eos": True})
                   for _ in range(12)]
        seen = [0]
        while not all(a.done() for a in answers):
            seen.append(d.status()["requests_running"])
            time.sleep(0.005)
        assert all(a.result().usage.completion_tokens == tokens for a in answers)
    assert 1 <= max(seen) <= most
    if batch == "adaptive":
        assert max(seen) > 2
