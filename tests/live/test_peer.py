"""bench/peer without a peer: its model file, what it reads of the peers' output, medians, the table.
The recorded outputs are those of llama.cpp and ik_llama.cpp."""
import json
import subprocess
import sys

import gguf
import numpy
import pytest

from conftest import ROOT, SLLORA

PEER = ROOT / "bench/peer"
sys.path.insert(0, str(PEER))

import goals  # noqa: E402
import jobs  # noqa: E402
import measure  # noqa: E402
import model  # noqa: E402
import peers  # noqa: E402
import programs  # noqa: E402
import streams  # noqa: E402
import table  # noqa: E402
from cells import PROMPT, QUANTS, SHAPES, WORKS  # noqa: E402

BENCH = """[
  {
    "build_commit": "0c1e570", "build_number": 1, "cpu_info": "AMD EPYC", "backends": "CPU",
    "model_type": "qwen2 1B (guessed) BF16", "model_size": 988208640, "n_threads": 2,
    "flash_attn": -1, "n_prompt": 0, "n_gen": 64, "n_depth": 64,
    "avg_ns": 7655952534, "stddev_ns": 0, "avg_ts": 2.089877, "stddev_ts": 0.000000,
    "samples_ns": [ 7655952534 ], "samples_ts": [ 2.08988 ]
  }
]
"""
BATCHED = """
llama_batched_bench: n_kv_max = 2048, n_batch = 2048, n_ubatch = 512, flash_attn = -1, n_threads = 2

|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |
|-------|--------|------|--------|----------|----------|----------|----------|----------|----------|
|    64 |     32 |    8 |    768 |    4.668 |   109.68 |    3.051 |    83.91 |    7.719 |    99.49 |
|    64 |     32 |   16 |   1536 |    9.336 |   109.68 |    4.100 |   124.88 |   13.436 |   114.32 |

llama_perf_context_print:        load time =     512.13 ms
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("peer") / "tiny-0"
    subprocess.run([SLLORA, "synth", directory, "--shape", "tiny"], check=True,
                   capture_output=True)
    return directory


# The published shapes, as their configurations say them.
QWEN = {"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864,
        "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
        "head_dim": 64, "vocab_size": 151936, "rope_scaling": None, "tie_word_embeddings": True}
LLAMA = {"model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192,
         "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
         "head_dim": 64, "vocab_size": 128256, "tie_word_embeddings": True,
         "rope_theta": 500000.0,
         "rope_scaling": {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                          "original_max_position_embeddings": 8192}}


@pytest.mark.parametrize("config,quant,head,megabytes", [
    (QWEN, "bf16", "BF16", 988), (QWEN, "int8", "Q8_0", 525), (QWEN, "int4", "Q8_0", 346),
    (LLAMA, "bf16", "BF16", 2472), (LLAMA, "int8", "Q8_0", 1313), (LLAMA, "int4", "Q6_K", 763)])
def test_types_and_bytes_are_those_of_llama_quantize(config, quant, head, megabytes):
    listed = {name: kind.name for name, _, kind in model.tensors(config, quant)}
    matrix = {"bf16": "BF16", "int8": "Q8_0", "int4": "Q4_0"}[quant]
    assert listed["token_embd.weight"] == head and "output.weight" not in listed
    assert {listed[f"blk.3.{n}.weight"] for n in (
        "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")} == {matrix}
    assert {k for n, k in listed.items() if "norm" in n or "bias" in n or "rope" in n} == {"F32"}
    assert round(model.token_bytes(config, quant) / 1e6) == pytest.approx(megabytes, abs=1)


def test_shapes_are_those_of_the_model():
    listed = {name: shape for name, shape, _ in model.tensors(QWEN, "bf16")}
    assert len(listed) == 2 + 24 * 12
    assert listed["token_embd.weight"] == (151936, 896)
    assert listed["blk.0.attn_k.weight"] == (128, 896) and listed["blk.0.attn_k.bias"] == (128,)
    assert listed["blk.23.ffn_down.weight"] == (896, 4864)
    untied = {n: k.name for n, _, k in model.tensors(LLAMA | {"tie_word_embeddings": False}, "int4")}
    assert (untied["token_embd.weight"], untied["output.weight"]) == ("Q4_0", "Q6_K")


def test_rope_factors_of_llama_3():
    factors = model.rope_factors(LLAMA)
    assert len(factors) == 32
    assert factors[0] == 1 and factors[-1] == 32  # short waves stay, long ones are stretched
    assert all(a <= b for a, b in zip(factors, factors[1:])) and 1 < factors[16] < 32


@pytest.mark.parametrize("quant", QUANTS)
def test_model_file_reads_back(checkpoint, quant, tmp_path):
    config = model.read_config(checkpoint)
    path = model.write_model(checkpoint, quant, tmp_path / "m.gguf")
    file = gguf.GGUFReader(path)
    written = {t.name: (tuple(reversed(t.shape.tolist())), t.tensor_type) for t in file.tensors}
    assert written == {n: (s, k) for n, s, k in model.tensors(config, quant)}
    assert file.fields["general.architecture"].contents() == "llama"
    assert file.fields["llama.block_count"].contents() == config["num_hidden_layers"]
    tokens = file.fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == config["vocab_size"] and tokens[256] == "<|endoftext|>"
    head = next(t for t in file.tensors if t.name == "token_embd.weight")
    values = gguf.quants.dequantize(head.data, head.tensor_type)
    assert numpy.isfinite(values).all()
    # Bytes and control tokens have logit 0; every other row is as spread as weights are.
    assert not values[:259].any() and values[259:].any(axis=1).all()
    assert values[259:].std() == pytest.approx(model.SPREAD, rel=0.25)
    assert not list(tmp_path.glob("*.part"))


def test_adapter_file_reads_back(checkpoint, tmp_path):
    path = model.write_adapter(checkpoint, 16, 1, tmp_path / "a.gguf")
    file = gguf.GGUFReader(path)
    shapes = {t.name: tuple(reversed(t.shape.tolist())) for t in file.tensors}
    assert len(shapes) == 14
    assert shapes["blk.0.ffn_down.weight.lora_a"] == (16, 128)
    assert shapes["blk.0.ffn_down.weight.lora_b"] == (64, 16)
    assert file.fields["general.type"].contents() == "adapter"
    assert file.fields["adapter.lora.alpha"].contents() == 32


def test_bench_output():
    assert peers.parse_bench(BENCH) == 2.089877
    assert peers.parse_bench("a warning\n" + BENCH) == 2.089877
    for bad in ("", "[]", "[{}]", "no model", BENCH[:-3]):
        with pytest.raises(programs.Failed, match="no single test"):
            peers.parse_bench(bad)


def test_batched_output():
    assert peers.parse_batched(BATCHED, 8) == 83.91
    assert peers.parse_batched(BATCHED, 16) == 124.88
    for text, batch in ((BATCHED, 4), ("", 8), (BATCHED.replace("S_TG", "X"), 8)):
        with pytest.raises(programs.Failed, match="no line for batch"):
            peers.parse_batched(text, batch)


def test_server_decodes_while_no_prompt_is_read():
    answers = [{"tokens_predicted": 32, "timings": {"prompt_ms": 500.0}}] * 8
    assert streams.decode_speed(answers, 32, took_s=12) == pytest.approx(8 * 32 / 8)
    with pytest.raises(programs.Failed, match="after 32 of 64"):
        streams.decode_speed(answers, 64, took_s=12)


def test_processor_time():
    # user nice system idle iowait irq softirq steal guest guest_nice
    stat = "cpu  100 10 20 5000 40 1 2 7 50 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n"
    assert programs.busy_seconds(stat) * programs.TICKS_S == 100 + 10 + 20 + 1 + 2 + 7


# --- rounds ---

def run_of(tok_s, others=0.0):
    return {"tok_s": tok_s, "gb_s": tok_s, "ceiling_gb_s": 100.0, "batch": 1, "others": others}


def test_rounds_alternate_and_disturbed_ones_are_repeated():
    order, others = [], iter([0.0, 0.9, 0.0, 0.0])

    def ours():
        order.append("ours")
        return run_of(float(len(order)), next(others))

    def peer():
        order.append("peer")
        return peers.Result(1.0, 0.0)

    results = measure.alternate({"ours": ours, "peer": peer}, 3, lambda _: None, lambda: None)
    assert order == ["ours", "peer", "peer", "ours", "ours", "peer", "peer", "ours"]
    assert [r["tok_s"] for r in results["ours"]] == [1, 5, 8]
    assert len(results["peer"]) == 3


def test_a_machine_that_is_never_quiet_gives_its_quietest_rounds():
    shares = iter([0.9, 0.2, 0.8, 0.1, 0.7, 0.6, 0.5, 0.4])
    results = measure.alternate({"ours": lambda: run_of(1.0, next(shares))}, 2, lambda _: None,
                                lambda: None)
    assert [r["others"] for r in results["ours"]] == [0.2, 0.1]


def test_fastest_flags_by_the_best_run():
    speeds = iter([5, 1, 4, 9])  # a, b, then again
    assert measure.fastest("ab", lambda v: peers.Result(next(speeds), 0), lambda: None) == "b"


def test_line_of_a_cell():
    ours = [run_of(90.0), run_of(80.0), run_of(100.0, 0.04)]
    beside = {"name": "llama.cpp", "quant": "BF16", "flags": "-fa 0", "token_bytes": 10 ** 9,
              "results": [peers.Result(60.0, 0.01), peers.Result(80.0, 0), peers.Result(50.0, 0)]}
    made = measure.line(ours, beside)
    assert (made["tok_s"], made["tok_s_min"], made["tok_s_max"]) == (90, 80, 100)
    assert (made["peer_tok_s"], made["peer_tok_s_min"], made["peer_tok_s_max"]) == (60, 50, 80)
    # The median of 1.5, 1 and 2: of each round, not of the medians.
    assert (made["ratio"], made["ratio_min"], made["ratio_max"]) == (1.5, 1.0, 2.0)
    assert (made["read_share"], made["peer_read_share"]) == (0.9, 0.6)
    assert made["runs"] == 3 and made["others"] == 0.04


# --- the table ---

class Recorded:
    """Both sides with recorded figures; what is missing fails."""

    name, is_fork = "llama.cpp", False

    def __init__(self, quants=QUANTS):
        self.quants = quants

    def measure(self, work, shape, quant, threads=2):
        if quant not in self.quants:
            raise programs.Failed(f"{quant} is not known")
        return run_of(96.0 if threads == 2 else 50.0)

    def bench(self, name, shape, quant, *more):
        if name == "longctx":
            return [{"context": c, "ratio": 0.95, "tok_s": 9.0, "predicted_tok_s": 9.5,
                     "ceiling_gb_s": 30.0} for c in (512, 8192)], 0.0
        return [{"case": case, "ratio": 0.97, "tok_s": 100.0} for case in goals.MIXED], 0.0

    def variants(self, work):
        return ["-fa 0"]

    def flags_text(self, work, variant):
        return variant


class RecordedPeer(Recorded):
    def measure(self, work, path, threads, variant):
        return peers.Result(48.0, 0.0)

    def program(self, name):
        raise programs.Failed(f"the Python package has no {name}")


class RecordedBench(jobs.Bench):
    def model(self, shape, quant):
        return "m.gguf", 10 ** 9


@pytest.fixture
def quiet(monkeypatch):
    monkeypatch.setattr(programs.Watch, "others", lambda self: 0.0)
    monkeypatch.setattr(measure, "QUIET_SAMPLE_S", 0)


def rows_of(bench):
    rows = {}
    for cell, job in jobs.JOBS.items():
        for shape in SHAPES:
            for quant in QUANTS:
                lines, more = job(bench, cell, shape, quant)
                json.dumps(lines + more)
                rows |= {r["cell"]: r for r in more}
    return rows


def test_table_with_a_peer(quiet, tmp_path):
    rows = rows_of(RecordedBench(Recorded(), [RecordedPeer()], tmp_path, 2, 2, lambda _: None))
    decode = rows["decode/qwen2.5-0.5b/bf16/llama.cpp"]
    assert (decode["value"], decode["goal"], decode["met"]) == (2.0, 1.08, True)
    assert (decode["ours"], decode["peer"], decode["ceiling"]) == (96.0, 48.0, 100.0)
    ceiling = rows["decode/qwen2.5-0.5b/bf16/ceiling"]
    assert (ceiling["value"], ceiling["goal"], ceiling["met"]) == (0.96, 0.95, True)
    assert rows["batch8/llama-3.2-1b/int8/llama.cpp"]["met"] is False  # 2 of 2.7
    assert rows["prefill512/llama-3.2-1b/int8/llama.cpp"]["goal"] == 2.4
    assert rows["stream_many_set/llama-3.2-1b/int4"]["met"] is False
    assert rows["longctx8192/llama-3.2-1b/int4"]["met"] is True
    assert rows["prefill512/llama-3.2-1b/bf16/2 cores against 1"]["value"] == 1.92
    assert rows["decode/llama-3.2-1b/bf16/1 core, ceiling"]["value"] == 0.5
    server = rows["streams_own_adapters/qwen2.5-0.5b/bf16/llama-server"]
    assert server["value"] is None and "has no llama-server" in server["reason"]
    assert all(list(r)[:6] == ["cell", "value", "goal", "ours", "peer", "ceiling"]
               for r in rows.values())


def test_table_without_a_peer(quiet, tmp_path):
    rows = rows_of(RecordedBench(Recorded(["bf16"]), [], tmp_path, 2, 2, lambda _: None))
    assert rows["decode/qwen2.5-0.5b/bf16/ceiling"]["met"] is True
    against = rows["decode/qwen2.5-0.5b/bf16/llama.cpp"]
    assert against["value"] is None and "--peer" in against["reason"]
    assert rows["decode/qwen2.5-0.5b/int8/ceiling"]["reason"] == "int8 is not known"
    shown = table.text(list(rows.values()))
    assert len(shown) == 1 + len(rows)
    assert "no peer was given" in shown[2] and shown[1].endswith("yes")


def test_a_peer_that_fails_spoils_its_cell_alone(quiet, tmp_path):
    class Broken(RecordedPeer):
        def measure(self, work, path, threads, variant):
            raise programs.Failed("it fell over")

    bench = RecordedBench(Recorded(), [Broken()], tmp_path, 2, 2, lambda _: None)
    lines, rows = jobs.speed(bench, "decode", SHAPES[0], "bf16")
    assert [r["reason"] for r in rows[1:]] == ["it fell over"]
    assert rows[0]["cell"].endswith("ceiling") and rows[0]["value"] == 0.96
    assert [line.get("error") for line in lines] == [None, "it fell over"]


def test_every_cell_has_a_goal():
    assert {(w, s) for w in WORKS for s in SHAPES} == set(goals.PEER)
    assert all(set(g) == set(QUANTS) for g in goals.PEER.values())
    header = (ROOT / "src/worker/bench_model.h").read_text()
    assert f"#define BENCH_PROMPT_TOKENS {PROMPT}u" in header


# --- the command line ---

def bench(*arguments):
    return subprocess.run([SLLORA, "bench", "table", *arguments], capture_output=True, text=True,
                          timeout=60)


def test_what_is_no_peer_is_said(tmp_path):
    done = bench("--peer", str(tmp_path), "--dir", str(tmp_path / "cache"))
    assert done.returncode == 1
    assert f'no peer is "{tmp_path}"' in done.stderr and "llama-bench" in done.stderr


def test_a_program_of_a_peer_that_fails_is_quoted(tmp_path):
    fake = tmp_path / "llama-bench"
    fake.write_text("#!/bin/sh\necho nothing works >&2\nexit 3\n")
    fake.chmod(0o755)
    done = bench("--peer", str(fake), "--dir", str(tmp_path / "cache"))
    assert done.returncode == 1 and "status 3 and said: nothing works" in done.stderr


def test_at_most_four_peers():
    done = bench(*["--peer", "x"] * 5)
    assert done.returncode == 2 and "at most 4 peers" in done.stderr
