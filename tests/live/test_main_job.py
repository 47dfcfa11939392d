"""The main job: functions of several owners stream from one shared, read-only backbone."""
import concurrent.futures
import json
import math
import os
import shutil
import signal
import struct

import httpx
import openai
import pytest

from conftest import ADAPTERS, DEMO, PARITY, SLLORA, wait_for


def ask(client, model, text, **more):
    more.setdefault("max_tokens", 24)
    more.setdefault("temperature", 0)
    return client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": text}], **more)


def test_three_functions_answer_differently(demo):
    answers = {n: ask(demo.client(), n, "What is a king?").choices[0].message.content
               for n in demo.names + ["bare"]}
    assert len(set(answers.values())) == len(answers), answers
    assert all(len(a.split()) >= 3 for a in answers.values()), answers


def test_streaming_gives_the_same_text(demo):
    client = demo.client()
    whole = ask(client, demo.names[0], "What is love?")
    chunks = list(ask(client, demo.names[0], "What is love?", stream=True,
                      stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    counts = {"completion_tokens", "prompt_tokens", "total_tokens"}
    assert chunks[-1].choices == []
    assert chunks[-1].usage.model_dump(include=counts) == whole.usage.model_dump(include=counts)
    assert all(c.usage is None for c in chunks[:-1])
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == \
        whole.choices[0].finish_reason


def test_backbone_is_shared_between_isolated_processes(demo):
    for name in demo.names:
        ask(demo.client(), name, "Hello", max_tokens=2)
    status = demo.status()
    assert len(status["backbones"]) == 1 and status["backbones"][0]["resident"]
    by_pid = {w["pid"]: {f["name"] for f in w["functions"]} for w in status["workers"]
              if w["functions"]}
    assert len(by_pid) == 2  # one process for each owner
    owners = [{demo.describe(f)["owner"] for f in functions} for functions in by_pid.values()]
    assert all(len(o) == 1 for o in owners)
    if os.geteuid() == 0:
        # Each under its own uid, the backbone mapped from one file, without write permission.
        uids = {os.stat(f"/proc/{pid}").st_uid for pid in by_pid}
        inodes = set()
        for pid in by_pid:
            status_text = open(f"/proc/{pid}/status").read()
            uids.add(int(status_text.split("Uid:")[1].split()[0]))
            assert "NoNewPrivs:\t1" in status_text
            assert "Seccomp:\t2" in status_text
            assert "CapEff:\t0000000000000000" in status_text
            maps = [line.split() for line in open(f"/proc/{pid}/maps") if "sllora" in line
                    and "memfd" in line]
            assert maps and all(m[1] == "r--s" for m in maps), maps
            inodes |= {m[4] for m in maps if "sllora-share" in m[5]}
            assert os.listdir(f"/proc/{pid}/root") == []
        assert len(inodes) == 1
        assert len(uids - {0}) >= 2


def test_mixed_adapters_in_one_batch_answer_as_alone(demo):
    client = demo.client()
    prompts = [(n, f"{word} it.") for n in demo.names for word in ("Tell", "Define", "Explain")]
    alone = [ask(client, n, p).choices[0].message.content for n, p in prompts]
    with concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
        together = list(pool.map(
            lambda x: ask(demo.client(), *x).choices[0].message.content, prompts))
    assert together == alone


def test_seed_decides_the_answer(demo):
    client = demo.client()

    def sample(seed):
        return ask(client, demo.names[0], "Tell me more.", temperature=0.9, top_p=0.95,
                   seed=seed).choices[0].message.content

    assert sample(5) == sample(5)
    assert len({sample(s) for s in range(6)}) > 1


def test_stop_strings_cut_the_text(demo):
    client = demo.client()
    whole = ask(client, demo.names[0], "What is a man?", max_tokens=40).choices[0].message.content
    stop = whole[len(whole) // 2:len(whole) // 2 + 3]
    for stream in (False, True):
        answer = ask(client, demo.names[0], "What is a man?", max_tokens=40, stop=[stop],
                     stream=stream)
        if stream:
            chunks = list(answer)
            text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
            reason = chunks[-1].choices[0].finish_reason
        else:
            text = answer.choices[0].message.content
            reason = answer.choices[0].finish_reason
        assert text == whole[:whole.index(stop)]
        assert reason == "stop"


def test_completions_take_text_and_tokens(demo):
    client = demo.client()
    a = client.completions.create(model="bare", prompt="In the beginning", max_tokens=8,
                                  temperature=0, echo=True, logprobs=3)
    assert a.choices[0].text.startswith("In the beginning")
    tokens = a.choices[0].logprobs.tokens
    assert len(tokens) == a.usage.prompt_tokens + a.usage.completion_tokens
    assert a.choices[0].logprobs.token_logprobs[0] is None
    assert all(x <= 0 for x in a.choices[0].logprobs.token_logprobs[1:])
    b = client.completions.create(model="bare", prompt=[5, 6, 7, 8], max_tokens=4, temperature=0)
    assert b.usage.prompt_tokens == 4 and b.usage.completion_tokens >= 1


@pytest.mark.parametrize("case", sorted(p.name for p in PARITY.iterdir() if p.is_dir()))
def test_reference_logprobs_through_the_api(daemon, case):
    """Anybody can check parity from outside: echo + logprobs reproduce transformers'."""
    daemon.deploy("f", PARITY / case, quant="f32")
    checked = 0
    for adapter in [None] + sorted(p.name for p in (PARITY / case / "adapters").iterdir()):
        name = adapter or "f"
        if adapter:
            daemon.deploy(adapter, PARITY / case, PARITY / case / "adapters" / adapter, quant="f32")
        for prompt, first, reference in expected_logprobs(case, adapter):
            answer = daemon.client().completions.create(
                model=name, prompt=prompt, max_tokens=0, temperature=0, echo=True,
                logprobs=5)
            got = answer.choices[0].logprobs.token_logprobs
            assert got[0] is None
            for mine, theirs in zip(got[first:], reference, strict=True):
                assert abs(mine - theirs) <= 2e-4
                checked += 1
    assert checked > 0


def expected_logprobs(case, adapter):
    """The reference's log-probability of each prompt token from `first` on, from its logits."""
    expected = json.loads((PARITY / case / "expected.json").read_text())
    data = (PARITY / case / "logits.bin").read_bytes()
    vocab = expected["vocab"]
    for entry in expected["cases"]:
        if entry["adapter"] != adapter:
            continue
        logprobs, first = [], entry["logits_first"] + 1
        for i, token in enumerate(entry["prompt"][first:]):
            row = struct.unpack_from(f"<{vocab}f", data, entry["logits_offset"] + 4 * i * vocab)
            top = max(row)
            logprobs.append(row[token] - top - math.log(sum(math.exp(x - top) for x in row)))
        yield entry["prompt"], first, logprobs


def test_killed_worker_harms_only_its_own_clients(demo):
    mine, other = demo.names[0], demo.names[2]
    client = demo.client()
    ask(client, other, "Hello", max_tokens=1)
    ask(client, mine, "Hello", max_tokens=1)
    pid = demo.describe(mine)["pid"]
    other_pid = demo.describe(other)["pid"]
    assert pid != other_pid
    stream = client.completions.create(model=mine, prompt="The", max_tokens=900, temperature=1.5,
                                       seed=1, stream=True,
                                       extra_body={"ignore_eos": True})
    next(iter(stream))
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(openai.APIError):
        for _ in stream:
            pass
    assert ask(client, other, "Hello", max_tokens=4).choices[0].message.content is not None
    assert demo.describe(other)["pid"] == other_pid
    assert ask(client, mine, "Hello", max_tokens=4).choices[0].message.content is not None
    assert demo.describe(mine)["pid"] not in (None, pid)


def test_hanging_worker_is_killed_and_replaced(daemon_with):
    d = daemon_with("--hang-timeout", 1)
    d.deploy("f", DEMO)
    client = d.client()
    stream = client.completions.create(model="f", prompt="The", max_tokens=900, temperature=1.5,
                                       seed=1, stream=True,
                                       extra_body={"ignore_eos": True})
    next(iter(stream))
    pid = d.describe("f")["pid"]
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(openai.APIError):
        for _ in stream:
            pass
    assert client.completions.create(model="f", prompt="The", max_tokens=2).choices
    assert d.describe("f")["pid"] != pid
    assert "says nothing" in d.log.read_text()


def test_scales_to_zero_and_back(daemon_with):
    d = daemon_with("--keep-alive", 0.3, "--no-preload")
    d.deploy("f", DEMO)
    d.client().completions.create(model="f", prompt="A", max_tokens=2)
    assert d.describe("f")["state"] in ("idle", "active")
    wait_for(lambda: d.describe("f")["state"] == "cold" and not d.worker_pids(), "scale to zero")
    answer = d.client().completions.create(model="f", prompt="A", max_tokens=2)
    assert answer.usage.completion_tokens >= 1
    assert d.describe("f")["totals"]["cold_starts"] == 2


def test_killed_daemon_loses_no_function(daemon_with):
    d = daemon_with()
    d.deploy("kept", DEMO, ADAPTERS / sorted(p.name for p in ADAPTERS.iterdir() if p.is_dir())[0],
             owner="acme")
    before = d.describe("kept")
    d.client().completions.create(model="kept", prompt="A", max_tokens=1)
    pids = d.worker_pids()
    d.kill()
    # Its processes go with it.
    wait_for(lambda: not any(os.path.exists(f"/proc/{p}") and "sllora" in open(
        f"/proc/{p}/comm").read() for p in pids), "workers of a killed daemon end")
    d.start()
    after = d.describe("kept")
    for key in ("name", "owner", "generation", "created", "isolation"):
        assert after[key] == before[key]
    assert d.client().completions.create(model="kept", prompt="A", max_tokens=1).choices


def test_client_that_leaves_frees_its_work(demo):
    running = wait_for(lambda: demo.status()["requests_running"] == 0 and "idle", "idle")
    assert running
    with httpx.Client() as http:
        with http.stream("POST", demo.url + "/v1/completions",
                         json={"model": "bare", "prompt": "The", "max_tokens": 1000,
                               "temperature": 1.5, "stream": True}) as answer:
            next(answer.iter_bytes())
    wait_for(lambda: demo.status()["requests_running"] == 0, "the work of a lost client ends")


def test_second_deploy_of_the_same_files_costs_nothing(daemon):
    first = daemon.json("deploy", "a", "--backbone", DEMO)
    second = daemon.json("deploy", "b", "--backbone", DEMO)
    assert not any(line["state"] == "packing" for line in second)
    assert first[-1]["backbone"] == second[-1]["backbone"]
    assert len(list((daemon.data / "images").glob("*.image"))) == 1


def test_new_generation_leaves_requests_in_flight_alone(daemon):
    names = sorted(p.name for p in ADAPTERS.iterdir() if p.is_dir())
    daemon.deploy("f", DEMO, ADAPTERS / names[0])
    client = daemon.client()
    stream = client.completions.create(model="f", prompt="The", max_tokens=400, temperature=1.2,
                                       seed=3, stream=True,
                                       extra_body={"ignore_eos": True})
    chunks = iter(stream)
    next(chunks)
    daemon.deploy("f", DEMO, ADAPTERS / names[1])
    assert daemon.describe("f")["generation"] == 2
    new = client.completions.create(model="f", prompt="The", max_tokens=8, temperature=0)
    assert new.choices[0].text
    assert list(chunks)[-1].choices[0].finish_reason in ("length", "stop")


def test_rm_of_a_function_in_use(daemon):
    daemon.deploy("f", DEMO)
    client = daemon.client()
    stream = client.completions.create(model="f", prompt="The", max_tokens=400, temperature=1.2,
                                       seed=3, stream=True,
                                       extra_body={"ignore_eos": True})
    chunks = iter(stream)
    next(chunks)
    assert json.loads(daemon.ok("rm", "f", "--json"))["finishing"] == 1
    assert list(chunks)[-1].choices[0].finish_reason in ("length", "stop")
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="f", prompt="The")
    assert daemon.cli("describe", "f").returncode == 4
    assert daemon.json("ls") == []


@pytest.mark.parametrize("isolation,processes", [("function", 2), ("owner", 1), ("shared", 1)])
def test_isolation_decides_who_shares_a_process(daemon_with, isolation, processes):
    daemon = daemon_with("--keep-alive", 600)
    for name in ("a", "b"):
        daemon.deploy(name, DEMO, owner="acme", isolation=isolation)
        daemon.client().completions.create(model=name, prompt="A", max_tokens=1)
    assert len(daemon.worker_pids()) == processes


def test_event_log_replays_to_identical_actions(daemon_with):
    d = daemon_with("--keep-alive", 0.2)
    for i, name in enumerate(("a", "b", "c")):
        d.deploy(name, DEMO, owner=f"o{i % 2}")
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda i: d.client().completions.create(
            model="abc"[i % 3], prompt="The", max_tokens=8), range(48)))
    os.kill(d.worker_pids()[0], signal.SIGKILL)
    d.client().completions.create(model="a", prompt="The", max_tokens=8)
    wait_for(lambda: not d.worker_pids(), "scale to zero")
    d.ok("rm", "c")
    d.stop()
    result = json.loads(d.ok("sim", "--log", d.data / "events.log", "--json"))
    assert result["identical"] and result["complete"], result
    assert result["events"] > 200


def test_cold_function_holds_the_request_and_says_so(daemon):
    daemon.deploy("f", DEMO)
    answer = httpx.post(daemon.url + "/v1/completions",
                        json={"model": "f", "prompt": "The", "max_tokens": 1}, timeout=60)
    assert answer.status_code == 200
    assert "cold" in answer.headers.get("server-timing", "")


def test_health_and_metrics(demo):
    assert httpx.get(demo.url + "/healthz").status_code == 200
    assert httpx.get(demo.url + "/readyz").status_code == 200
    text = httpx.get(demo.url + "/metrics").text
    for name in ("vllm:num_requests_running", "vllm:time_to_first_token_seconds_bucket",
                 "vllm:generation_tokens_total", "sllora_workers"):
        assert name in text
    ids = {m.id for m in demo.client().models.list()}
    assert ids == set(demo.names) | {"bare"}


def test_cli_chat_streams(demo):
    done = demo.cli("chat", demo.names[0], "-m", "What is a king?", "--temperature", 0,
                    "--max-tokens", 16)
    assert done.returncode == 0 and done.stdout.strip()
    assert demo.cli("chat", "nobody", "-m", "x").returncode == 4


def test_runs_as_an_ordinary_user(daemon_with, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("the other tests run as an ordinary user already")
    user = 65534
    os.chown(tmp_path, user, user)
    for parent in tmp_path.parents:
        if str(parent).startswith("/tmp/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    # The checkout may lie where other users cannot go.
    for program in ("sllora", "sllora-worker"):
        shutil.copy(SLLORA.parent / program, tmp_path / program)
    shutil.copytree(DEMO, tmp_path / "model")
    d = daemon_with("--keep-alive", 600, as_user=user, program=tmp_path / "sllora")
    d.deploy("f", tmp_path / "model")
    assert d.client().completions.create(model="f", prompt="A", max_tokens=2).choices[0].text
    pid = d.worker_pids()[0]
    assert f"Uid:\t{user}" in open(f"/proc/{pid}/status").read()
