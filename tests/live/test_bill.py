"""The bill names every request once, at its price, and adds up to what the devices did: beside the
server, after it was killed, and over its restarts."""
import collections
import concurrent.futures
import http.client
import json
import os
import signal
import sqlite3
import subprocess
import time

import openai
import pytest

from conftest import ADAPTERS, DEMO, SLLORA, wait_for

NAMES = sorted(p.name for p in ADAPTERS.iterdir() if p.is_dir())[:2]
REQUEST_NANOUSD = 150  # 75 CU per 10000 requests, 0.00002 USD each
PRICES = {"gb_s_active_usd": 2, "gb_s_idle_usd": 1, "device_s_usd": 3, "request_usd": 0.5,
          "prompt_1k_usd": 4, "cached_1k_usd": 1, "new_1k_usd": 8}


def bill(d, *flags):
    *lines, last = d.json("bill", *flags)
    return lines, last["totals"]


def billed(d, count):
    """The bill, once it names so many requests: a receipt is on disk a moment after the answer."""
    return wait_for(lambda: (b := bill(d))[1]["requests"] >= count and b, f"{count} requests billed")


def check_sums(lines, totals):
    for line in [*lines, totals]:
        items = dict(line["nanousd"])
        assert items.pop("total") == sum(items.values())
    for key in ("requests", "lost", "prompt_tokens", "cached_tokens", "new_tokens", "device_us"):
        assert totals[key] == sum(line[key] for line in lines), key
    for key in totals["nanousd"]:
        assert totals["nanousd"][key] == sum(line["nanousd"][key] for line in lines), key
    s = totals["sum"]
    assert s["adds_up"]
    memory = s["memory_byte_s"]
    parts = sum(memory[k] for k in ("requests", "idle", "platform", "open"))
    assert parts == pytest.approx(memory["total"], rel=1e-9)
    assert s["device_us"]["requests"] + s["device_us"]["open"] == s["device_us"]["total"]


def ask_some(d, names, each=3):
    """What the API said of each function's use."""
    used = collections.defaultdict(collections.Counter)
    client = d.client()
    for i in range(each):
        for name in names:
            usage = client.completions.create(model=name, prompt="Once upon a time " * 5,
                                              max_tokens=4 + i).usage
            used[name].update(requests=1, prompt_tokens=usage.prompt_tokens,
                              cached_tokens=usage.prompt_tokens_details.cached_tokens,
                              new_tokens=usage.completion_tokens)
    return used


def deploy_all(d):
    for name, owner in zip(NAMES, ("acme", "globex")):
        d.deploy(name, DEMO, ADAPTERS / name, owner=owner)


def test_every_request_once_at_its_price(daemon):
    deploy_all(daemon)
    used = ask_some(daemon, NAMES)
    lines, totals = billed(daemon, 6)
    check_sums(lines, totals)
    assert [(line["function"], line["owner"]) for line in lines] == list(
        zip(NAMES, ("acme", "globex")))
    for line in lines:
        for key, value in used[line["function"]].items():
            assert line[key] == value, key
        assert line["lost"] == 0
        assert line["device_us"] > 0 and line["own_byte_s"] > 0 and line["backbone_byte_s"] > 0
        assert line["nanousd"]["request"] == 3 * REQUEST_NANOUSD
        # Tokens are free with the provider of the defaults.
        assert line["nanousd"]["prompt"] == line["nanousd"]["new"] == 0
    assert totals["sum"]["runs"] == 1


def test_groups_and_filters(daemon):
    deploy_all(daemon)
    ask_some(daemon, NAMES)
    billed(daemon, 6)
    daemon.stop()  # whatever was used is billed, and nothing moves any more
    _, whole = bill(daemon)
    for by in ("function", "owner", "day"):
        lines, totals = bill(daemon, "--by", by)
        check_sums(lines, totals)
        assert totals == whole
        assert all(by in line for line in lines)
    assert len(bill(daemon, "--by", "owner")[0]) == 2
    lines, totals = bill(daemon, "--owner", "acme")
    assert [line["function"] for line in lines] == NAMES[:1]
    assert totals["requests"] == 3
    # How it adds up is a matter of whole runs, whoever asks.
    assert totals["sum"] == whole["sum"]
    assert bill(daemon, "--function", NAMES[1])[1]["requests"] == 3
    assert bill(daemon, "--function", "nobody")[1]["requests"] == 0
    assert bill(daemon, "--since", "1h")[1]["requests"] == 6
    assert bill(daemon, "--until", "1h")[1]["requests"] == 0
    assert bill(daemon, "--until", "2020-01-01T00:00:00Z")[0] == []


def test_for_people(daemon):
    deploy_all(daemon)
    ask_some(daemon, NAMES, each=1)
    billed(daemon, 2)
    text = daemon.ok("bill")
    rows = text.splitlines()
    assert rows[0].split()[:3] == ["FUNCTION", "OWNER", "REQUESTS"]
    assert rows[1].split()[:3] == [NAMES[0], "acme", "1"]
    assert rows[2].split()[:2] == ["USD", "0.000000150"]
    assert rows[5].split()[:2] == ["all", "2"]
    assert "How it adds up over 1 run of the server" in text
    assert "nothing was used then" in daemon.ok("bill", "--until", "2020-01-01")


def test_kills_and_restarts(daemon):
    deploy_all(daemon)
    ask_some(daemon, NAMES, each=2)
    before, totals = billed(daemon, 4)
    daemon.kill()
    lines, totals = bill(daemon)  # no server runs
    check_sums(lines, totals)
    assert totals["requests"] == 4
    for old, new in zip(before, lines):
        assert new["nanousd"]["request"] == old["nanousd"]["request"]
    daemon.start()
    ask_some(daemon, NAMES, each=1)
    lines, totals = billed(daemon, 6)
    check_sums(lines, totals)
    assert totals["requests"] == 6 and totals["sum"]["runs"] == 2


def test_what_is_kept_until_the_end_is_billed(daemon_with):
    d = daemon_with("--keep-alive", "60")
    d.deploy("f", DEMO)
    ask_some(d, ["f"])
    pid = d.describe("f")["pid"]
    time.sleep(1)
    assert d.describe("f")["pid"] == pid  # kept, and not yet billed
    d.stop()
    lines, totals = billed(d, 3)
    check_sums(lines, totals)
    assert totals["nanousd"]["idle"] > 0
    memory = totals["sum"]["memory_byte_s"]
    assert memory["idle"] > 2**20  # for a second at least, by a process of some MiB
    # Open is what the end itself takes: less than a millisecond of what was held for a second.
    assert abs(memory["open"]) <= 1e-4 * memory["total"]


def test_a_request_that_the_end_cut_short_has_a_receipt(daemon):
    d = daemon
    d.deploy("f", DEMO)
    stream = d.client().completions.create(model="f", prompt="The", max_tokens=900, seed=1,
                                           temperature=1.5, stream=True,
                                           extra_body={"ignore_eos": True})
    next(iter(stream))
    d.process.send_signal(signal.SIGTERM)  # lets what runs end; and once more: at once
    wait_for(lambda: "stopping" in d.log.read_text(), "the first signal")
    d.stop()
    lines, totals = billed(d, 1)
    check_sums(lines, totals)
    assert totals["lost"] == 1


def test_a_request_lost_with_its_worker_costs_nothing(daemon):
    daemon.deploy("f", DEMO)
    client = daemon.client()
    stream = client.completions.create(model="f", prompt="The", max_tokens=900, temperature=1.5,
                                       seed=1, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    os.kill(daemon.describe("f")["pid"], signal.SIGKILL)
    with pytest.raises(openai.APIError):
        for _ in stream:
            pass
    lines, totals = billed(daemon, 1)
    check_sums(lines, totals)
    assert totals["lost"] == 1
    items = totals["nanousd"]
    assert items["total"] == items["idle"]
    assert "lost with their worker, which cost nothing: 1" in daemon.ok("bill")


def ask_quickly(port, name, count):
    """So many requests over one connection, or as many as are taken; the answer to the last."""
    body = json.dumps({"model": name, "prompt": "a", "max_tokens": 1})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for _ in range(count):
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            break
    return answer.status, json.loads(text)


def test_a_ledger_that_cannot_be_written(daemon):
    """Receipts wait in memory; before that is full of them requests are refused, and none is lost."""
    names = ["f0", "f1", "f2", "f3"]
    for name in names:
        daemon.deploy(name, DEMO, isolation="function")
    lock = sqlite3.connect(daemon.data / "ledger.sqlite", isolation_level=None, timeout=30)
    lock.execute("BEGIN IMMEDIATE")
    with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
        answers = list(pool.map(lambda name: ask_quickly(daemon.port, name, 2**14), names))
    assert [status for status, _ in answers] == [503] * 4
    assert "cannot write its ledger" in answers[0][1]["error"]["message"]
    assert bill(daemon)[1]["requests"] == 0
    lock.execute("ROLLBACK")
    lock.close()
    waited = billed(daemon, 2**13)[1]["requests"]
    assert ask_quickly(daemon.port, "f0", 1)[0] == 200
    lines, totals = billed(daemon, waited + 1)
    check_sums(lines, totals)
    assert totals["requests"] == waited + 1
    assert "the ledger is written again" in daemon.log.read_text()


def test_own_prices(daemon_with, tmp_path):
    prices = tmp_path / "prices.json"
    prices.write_text(json.dumps(PRICES))
    d = daemon_with("--prices", prices)
    d.deploy("f", DEMO)
    used = ask_some(d, ["f"])["f"]
    lines, totals = billed(d, 3)
    check_sums(lines, totals)
    items = totals["nanousd"]
    computed = used["prompt_tokens"] - used["cached_tokens"]
    assert items["request"] == 3 * 500_000_000
    assert items["prompt"] == computed * 4_000_000
    assert items["cached"] == used["cached_tokens"] * 1_000_000
    assert items["new"] == used["new_tokens"] * 8_000_000
    # Of each request the share is rounded by itself.
    assert items["device"] == pytest.approx(totals["device_us"] * 3000, abs=3)
    assert items["own"] == pytest.approx(totals["own_byte_s"] / 2**30 * 2e9, abs=3)
    assert items["backbone"] == pytest.approx(totals["backbone_byte_s"] / 2**30 * 2e9, abs=3)


def test_bad_prices_are_refused_at_the_start(tmp_path):
    prices = tmp_path / "prices.json"
    prices.write_text(json.dumps(PRICES | {"request_usd": -1}))
    done = subprocess.run([SLLORA, "serve", "--data", tmp_path / "data", "--listen", "127.0.0.1:0",
                           "--prices", prices], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "request_usd must be a number from 0 to 1000, USD per request, not -1" in done.stderr


@pytest.mark.parametrize("flags,says", [
    (["--by", "week"], "--by takes function, owner or day"),
    (["--since", "yesterday"], "--since takes 2025-11-25"),
    (["--until", "2025-02-30"], "--until takes 2025-11-25"),
    (["support"], 'unexpected argument "support"'),
])
def test_wrong_arguments(tmp_path, flags, says):
    done = subprocess.run([SLLORA, "bill", *flags, "--data", tmp_path], capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 2
    assert says in done.stderr


def test_no_ledger(tmp_path):
    done = subprocess.run([SLLORA, "bill", "--data", tmp_path], capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 1
    assert "there is no ledger" in done.stderr
    (tmp_path / "ledger.sqlite").write_text("not a database, but long enough to be looked at " * 40)
    done = subprocess.run([SLLORA, "bill", "--data", tmp_path], capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 1
    assert "the ledger is damaged" in done.stderr
