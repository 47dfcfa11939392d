"""Functions on the same checkpoint with int8, int4, bf16 and f32 matrices."""
import pytest

from conftest import ADAPTERS, DEMO, PARITY

QUANTS = ("f32", "bf16", "int8", "int4")
TEXT = (ADAPTERS / "cynic/heldout.txt").read_text()[:800]


def logprobs(daemon, name):
    """Of the text's own tokens."""
    answer = daemon.client().completions.create(model=name, prompt=TEXT, max_tokens=1, echo=True,
                                                logprobs=1, temperature=0)
    return [p for p in answer.choices[0].logprobs.token_logprobs[:-1] if p is not None]


def distance(a, b):
    assert len(a) == len(b) > 100
    return sum(abs(x - y) for x, y in zip(a, b)) / len(a)


@pytest.fixture
def deployed(daemon):
    for quant in QUANTS:
        daemon.deploy("bare-" + quant, DEMO, quant=quant)
        daemon.deploy("cynic-" + quant, DEMO, ADAPTERS / "cynic", quant=quant)
    return daemon


def test_each_quantisation_is_a_backbone_of_its_own(deployed):
    functions = [deployed.describe("cynic-" + quant) for quant in QUANTS]
    backbones = [f["backbone"] for f in functions]
    assert [b["quant"] for b in backbones] == list(QUANTS)
    assert len({b["digest"] for b in backbones}) == len(QUANTS)
    assert len({f["adapter"]["digest"] for f in functions}) == len(QUANTS)
    assert all(f["certificate"]["backbone"] == f["backbone"]["digest"] for f in functions)
    sizes = [b["bytes"] for b in backbones]
    assert sizes == sorted(sizes, reverse=True) and sizes[1] > 3 * sizes[3]
    # An adapter is not quantised with its backbone, only where it is asked for.
    assert [f["certificate"]["dtype"] for f in functions] == ["f32", "bf16", "bf16", "bf16"]
    # Known again, one by one, and after a restart.
    deployed.stop()
    deployed.start()
    for quant, before in zip(QUANTS, backbones):
        deployed.deploy("again", DEMO, quant=quant)
        again = deployed.describe("again")["backbone"]
        assert (again["digest"], again["quant"]) == (before["digest"], quant)
    assert sorted(b["quant"] for b in deployed.status()["backbones"]) == sorted(QUANTS)
    assert "int4" in deployed.ok("status")


def test_answers_are_near_to_bf16(deployed):
    for name in ("bare-", "cynic-"):
        bf16 = logprobs(deployed, name + "bf16")
        assert distance(bf16, logprobs(deployed, name + "f32")) < 0.03
        assert distance(bf16, logprobs(deployed, name + "int8")) < 0.05
        assert distance(bf16, logprobs(deployed, name + "int4")) < 0.4
    # The adapter is felt on every one of them: it knows this kind of text.
    for quant in QUANTS:
        bare, cynic = (logprobs(deployed, name + quant) for name in ("bare-", "cynic-"))
        assert sum(cynic) > sum(bare)


@pytest.mark.parametrize("quant", ["bf16", "int4"])
def test_adapters_in_int8(daemon, quant):
    """Half the bytes, another image, and answers that hardly differ."""
    for name, adapter_quant in (("wide", "bf16"), ("narrow", "int8")):
        daemon.deploy(name, DEMO, ADAPTERS / "cynic", quant=quant, adapter_quant=adapter_quant)
    wide, narrow = (daemon.describe(name) for name in ("wide", "narrow"))
    assert wide["backbone"]["digest"] == narrow["backbone"]["digest"]
    assert narrow["certificate"]["dtype"] == "int8" and wide["certificate"]["dtype"] == "bf16"
    assert narrow["certificate"]["parameters"] == wide["certificate"]["parameters"]
    assert narrow["adapter"]["bytes"] < 0.6 * wide["adapter"]["bytes"]
    assert 0 < distance(logprobs(daemon, "wide"), logprobs(daemon, "narrow")) < 0.03


@pytest.mark.parametrize("case", ["llama-mha", "phi3", "gemma3", "qwen3-tied"])
@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_families(daemon, case, quant):
    """Untied and tied heads, fused projections, sizes that fill no group."""
    daemon.deploy("f", PARITY / case, quant=quant)
    answer = daemon.client().completions.create(model="f", prompt="a b c", max_tokens=8,
                                                temperature=0)
    assert answer.usage.completion_tokens > 0
    assert daemon.describe("f")["backbone"]["quant"] == quant


def test_other_words_are_refused(daemon):
    done = daemon.cli("deploy", "f", "--backbone", DEMO, "--quant", "int3")
    assert done.returncode == 1 and "bf16, int8, int4 or f32" in done.stderr
    for word in ("int4", "int3"):
        done = daemon.cli("deploy", "f", "--backbone", DEMO, "--adapter-quant", word)
        assert done.returncode == 1 and "bf16, int8 or f32" in done.stderr


def test_adapter_quant_without_an_adapter_is_refused(daemon):
    done = daemon.cli("deploy", "f", "--backbone", DEMO, "--adapter-quant", "int8")
    assert done.returncode == 1 and "name one with --adapter" in done.stderr
