"""Keys and values in int8: `sllora serve --kv-dtype`."""
from conftest import ADAPTERS, DEMO

TEXT = (ADAPTERS / "cynic/heldout.txt").read_text()[:800]


def logprobs(daemon):
    """Of the text's own tokens, behind the first few."""
    daemon.deploy("f", DEMO)
    answer = daemon.client().completions.create(model="f", prompt=TEXT, max_tokens=1, echo=True,
                                                logprobs=1, temperature=0)
    return [p for p in answer.choices[0].logprobs.token_logprobs[:-1] if p is not None]


def test_int8_answers_are_near(daemon_with):
    plain, bf16, int8 = (logprobs(daemon_with(*flags)) for flags in
                         ((), ("--kv-dtype", "bf16"), ("--kv-dtype", "int8")))
    assert len(plain) > 100 and plain == bf16 != int8
    assert sum(abs(a - b) for a, b in zip(plain, int8)) / len(plain) < 0.05


def test_other_words_are_refused(daemon):
    done = daemon.cli("serve", "--kv-dtype", "int4")
    assert done.returncode != 0 and "auto, bf16 or int8" in done.stderr
