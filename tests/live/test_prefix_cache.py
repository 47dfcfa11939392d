"""Prefix caching, on by default: answers are those of a daemon that has none, whatever ran before,
and a domain's cache serves that domain alone."""
import concurrent.futures
import random
import re

import httpx
import pytest

from conftest import ADAPTERS, DEMO, Daemon, wait_for

BLOCK = 16
NAMES = sorted(p.name for p in ADAPTERS.iterdir() if p.is_dir())
SHARED = [5 + (i * 7) % 250 for i in range(70)]
# Prompts that begin alike and end apart, before and behind the end of a block.
PROMPTS = [SHARED, SHARED[:40], SHARED[:40] + [9, 8, 7] * 9, SHARED + [31] * 30, [6] + SHARED[1:]]


def ask(d, name, prompt, **more):
    return d.client().completions.create(model=name, prompt=prompt, max_tokens=20, temperature=0.8,
                                         seed=3, logprobs=5, **more)


def content(answer):
    choice = answer.choices[0]
    return choice.text, choice.finish_reason, choice.logprobs.model_dump()


def counters(d, name):
    """Prompt tokens of a function's present generation: looked up in the cache, found there."""
    text = httpx.get(d.url + "/metrics").text
    return tuple(int(re.search(rf'^vllm:prefix_cache_{what}_total{{model_name="{name}",.*}} (\d+)$',
                               text, re.M).group(1)) for what in ("queries", "hits"))


def cached(answer):
    return answer.usage.prompt_tokens_details.cached_tokens


def found(d, name, prompt):
    before = counters(d, name)
    hits = cached(ask(d, name, prompt))
    assert counters(d, name) == (before[0] + len(prompt), before[1] + hits)
    return hits


def full(prompt):
    """What can be found of a prompt: whole blocks, and its last token is always computed."""
    return (len(prompt) - 1) // BLOCK * BLOCK


def expected_found(known, adapter, prompt):
    for count in range(full(prompt), 0, -BLOCK):
        if (adapter, tuple(prompt[:count])) in known:
            return count
    return 0


def remember(known, adapter, prompt):
    for count in range(BLOCK, len(prompt) + 1, BLOCK):
        known.add((adapter, tuple(prompt[:count])))


@pytest.fixture(scope="module")
def cold(tmp_path_factory):
    """What each adapter answers to each prompt where nothing is cached."""
    d = Daemon(tmp_path_factory.mktemp("cold") / "data", "--no-prefix-cache").start()
    answers = {}
    for adapter in NAMES + [None]:
        d.deploy("f", DEMO, ADAPTERS / adapter if adapter else None)
        for i, prompt in enumerate(PROMPTS):
            answers[adapter, i] = content(ask(d, "f", prompt))
            again = ask(d, "f", prompt)
            assert content(again) == answers[adapter, i] and cached(again) == 0
        assert counters(d, "f") == (0, 0)
    assert len({a[0] for a in answers.values()}) > len(PROMPTS)
    yield answers
    d.stop()


@pytest.mark.parametrize("seed", range(3))
def test_redeploys_in_any_order_answer_as_cold(daemon_with, cold, seed):
    daemon = daemon_with("--keep-alive", 600)
    rng = random.Random(seed)
    known, current = set(), {}
    for turn in range(60):
        name = rng.choice(["a", "b"])
        if name not in current or rng.random() < 0.2:
            current[name] = rng.choice(NAMES + [None])
            daemon.deploy(name, DEMO, ADAPTERS / current[name] if current[name] else None,
                          owner="acme")
        adapter, i = current[name], rng.randrange(len(PROMPTS))
        answer = ask(daemon, name, PROMPTS[i])
        assert content(answer) == cold[adapter, i], (turn, name, adapter, i)
        # One process all along: what an adapter left is there when it comes back.
        assert cached(answer) == expected_found(known, adapter, PROMPTS[i])
        remember(known, adapter, PROMPTS[i])
    assert len(daemon.worker_pids()) == 1


def test_adapters_at_once_answer_as_cold(daemon, cold):
    work = [(adapter, i) for adapter in NAMES + [None] for i in range(len(PROMPTS))] * 2
    for adapter in NAMES + [None]:
        daemon.deploy(adapter or "bare", DEMO, ADAPTERS / adapter if adapter else None,
                      owner="acme")
    random.Random(1).shuffle(work)
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(
            lambda x: content(ask(daemon, x[0] or "bare", PROMPTS[x[1]])), work))
    assert answers == [cold[x] for x in work]


@pytest.mark.parametrize("isolation,owners,shares", [
    ("function", ("acme", "acme"), False), ("owner", ("acme", "acme"), True),
    ("owner", ("acme", "globex"), False), ("shared", ("acme", "globex"), True)])
def test_a_cache_is_private_to_its_domain(daemon, isolation, owners, shares):
    for name, owner in zip("ab", owners):
        daemon.deploy(name, DEMO, ADAPTERS / NAMES[0], owner=owner, isolation=isolation)
    assert found(daemon, "a", SHARED) == 0
    assert found(daemon, "b", SHARED) == (full(SHARED) if shares else 0)
    assert found(daemon, "a", SHARED) == full(SHARED)


def test_a_cache_dies_with_its_worker(daemon_with):
    d = daemon_with("--keep-alive", 0.3)
    d.deploy("f", DEMO)
    for _ in range(2):
        assert found(d, "f", SHARED) == 0
        wait_for(lambda: not d.worker_pids(), "scale to zero")


def test_rated_prompts_are_computed(daemon):
    daemon.deploy("f", DEMO)
    answers = [ask(daemon, "f", SHARED, echo=True) for _ in range(2)]
    assert content(answers[0]) == content(answers[1])
    assert cached(answers[1]) == 0
    assert found(daemon, "f", SHARED) == full(SHARED)


def test_streams_say_what_was_found(daemon):
    daemon.deploy("f", DEMO)
    for expect in (0, full(SHARED)):
        chunks = list(ask(daemon, "f", SHARED, stream=True, stream_options={"include_usage": True}))
        assert cached(chunks[-1]) == expect


def test_choices_of_one_prompt_answer_as_cold(daemon_with):
    d, plain = daemon_with(), daemon_with("--no-prefix-cache")
    for x in (d, plain):
        x.deploy("f", DEMO)
    answers = [x.client().completions.create(model="f", prompt=SHARED, max_tokens=20, n=4, seed=5,
                                             temperature=1) for x in (d, plain)]
    texts = [[c.text for c in a.choices] for a in answers]
    assert texts[0] == texts[1] and len(set(texts[0])) > 1
    # The prompt counts once, as the first choice found it.
    assert [cached(a) for a in answers] == [0, 0]
