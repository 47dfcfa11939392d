"""Every benchmark runs once on a tiny model: that its lines are there and sane, never how fast."""
import json
import math
import re
import statistics
import subprocess

import pytest

from conftest import ROOT, SLLORA

RATES = {"gb_s", "ceiling_gb_s", "read_share", "gflop_s", "ceiling_gflop_s", "multiply_share",
         "share", "tok_s", "tok_s_min", "tok_s_max"}
SPEED = RATES | {"shape", "quant", "batch", "tokens", "arithmetic"}

# Of each benchmark: flags, and the keys of its lines.
BENCHES = {
    "sharing": (["--shape", "tiny"], {"functions", "pss_per_further_function_kib", "adapter_kib"}),
    "coldstart": (["--shape", "tiny"], {"shape", "runs", "warm_ms", "cold_ms", "spawn_ms"}),
    "gateway": ([], {"path", "connections", "requests_s", "p50_ms", "p99_ms"}),
    "ceilings": ([], {"ceiling", "threads", "isa", "runs"}),
    "decode": (["--tokens", "8", "--batch", "3"], SPEED),
    "prefill": (["--tokens", "300"], SPEED),
    "batch": (["--tokens", "8", "--batch", "5"], SPEED),
    "longctx": (["--tokens", "8"], SPEED | {"context", "kv_bytes_per_token", "short_ratio",
                                            "predicted_tok_s", "ratio"}),
    "kernels": (["--threads", "2", "--quant", "f32"],
                {"kernel", "threads", "us", "gb_s", "ceiling_gb_s", "share"}),
    "quality": (["--tokens", "300"], {"shape", "quant", "tokens", "kl_mean", "kl_p99", "same_top",
                                      "logit_error", "weight_bytes"}),
    "mixed": (["--tokens", "8"], {"case", "tok_s", "base_tok_s", "ratio", "adapters", "rank"}),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("bench")


def bench(directory, name, *flags, **more):
    done = subprocess.run([str(SLLORA), "bench", name, "--runs", "1", "--dir", str(directory),
                           *flags], capture_output=True, text=True, timeout=300, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def lines_of(directory, name, *flags):
    model = ["--shape", "tiny", "--mib", "16"]
    lines = [json.loads(line) for line in bench(directory, name, "--json", *model, *flags)]
    for line in lines:
        assert line["bench"] == name
        for key, value in line.items():
            if isinstance(value, (int, float)) and ("tok_s" in key or key in RATES or
                                                    "ratio" in key):
                assert math.isfinite(value) and value > 0, (key, line)
    return lines


def test_all_names_are_here():
    text = subprocess.run([str(SLLORA), "bench", "--help"], capture_output=True, text=True).stdout
    names = set(re.findall(r"^  (\w+) {2,}\S", text, re.M)) - {
        "all", "table"}  # test_peer.py has the table
    assert names == set(BENCHES) | {"serverless", "slo", "calibrate", "truth"}  # below


@pytest.mark.parametrize("name", BENCHES)
def test_runs(directory, name):
    flags, keys = BENCHES[name]
    lines = lines_of(directory, name, *flags)
    assert lines
    for line in lines:
        assert keys <= set(line), line


def test_serverless_has_every_switch_and_both_figures(directory):
    lines = lines_of(directory, "serverless", "--seconds", "1", "--rate", "5")
    variants = {line["variant"]: line for line in lines if "variant" in line}
    assert set(variants) == {"sllora", "baseline", "no-sharing", "no-preload", "no-offload",
                             "batch-off", "batch-fixed-4", "keep-alive-60"}
    for line in variants.values():
        assert line["requests"] > 0 and line["lost"] == 0 and line["ttft_ms_p95"] > 0
    figures = {line["figure"]: line for line in lines if "figure" in line}
    assert set(figures) == {"ttft_ms_p95", "gb_s"}
    for key, line in figures.items():
        assert line["ours"] == variants["sllora"][key]
        assert math.isclose(line["value"], line["baseline"] / line["ours"])


def test_slo_is_told_of_every_class(directory):
    capacity, *classes = lines_of(directory, "slo", "--seconds", "1")
    assert capacity["figure"] == "capacity" and capacity["requests_per_s"] > 0
    assert [line["class"] for line in classes] == ["predictable", "normal", "bursty"]
    for line in classes:
        assert 0 <= line["value"] <= 1 and line["goal"] == 0.99 and line["requests"] > 0


def test_the_simulator_reads_what_is_calibrated(directory):
    profile = directory / "here.json"
    profile.write_text("\n".join(bench(directory, "calibrate", "--shape", "tiny")))
    here = json.loads(profile.read_text())
    assert here["name"] == "cpu-here" and here["backbones"][0]["name"] == "tiny"
    assert here["backbones"][0]["paged"]["prompt_us"]["value"] > 0
    lines = lines_of(directory, "truth", "--seconds", "2", "--rate", "5", "--profile", profile,
                     "--runs", "3")
    keys = ["ttft_ms_p50", "ttft_ms_p95", "device_s", "gb_s"]
    seeds, medians = lines[:-4], lines[-4:]
    assert [line["figure"] for line in seeds] == 3 * keys
    assert [line["figure"] for line in medians] == keys
    for line in seeds:
        assert math.isclose(line["value"], line["sim"] / line["live"])
    for line in medians:
        of_seeds = [s["value"] for s in seeds if s["figure"] == line["figure"]]
        assert math.isclose(line["value"], statistics.median(of_seeds)) and line["within"] == 0.15
    own = lines_of(directory, "truth", "--seconds", "2", "--rate", "5", "--runs", "1")
    assert [line["figure"] for line in own] == 2 * keys
    for k in range(2):
        profile = json.loads((directory / f"truth-{k}.json").read_text())
        assert profile["backbones"][0]["name"] == "tiny"


@pytest.mark.parametrize("quant, products", [
    ("bf16", {"matmul", "matmul_half"}), ("int8", {"matmul_quantised"}),
    ("int4", {"matmul_quantised"}),
])
def test_kernels_of_every_format(directory, quant, products):
    lines = lines_of(directory, "kernels", "--threads", "1", "--quant", quant)
    of_matrices = [line for line in lines if line.get("out") == 4096]
    found = {line["kernel"] for line in of_matrices}
    assert found and found <= products
    for line in of_matrices:
        assert line["gflop_s"] > 0 and line["rows"] in (1, 2, 4, 8, 16)
    assert {"attention", "rms_norm", "rope", "silu_mul", "argmax", "log_sum_exp"} <= {
        line["kernel"] for line in lines}


def test_ceilings_are_complete(directory):
    lines = lines_of(directory, "ceilings")
    found = {(line["ceiling"], line["threads"]) for line in lines}
    assert {("read", 1), ("f32", 1), ("int8", 1), ("disk", 1)} <= found
    for line in lines:
        assert ("gb_s" in line) == (line["ceiling"] in ("read", "disk"))
        assert ("gflop_s" in line) == (line["ceiling"] in ("f32", "bf16", "int8"))


def test_batches_double(directory):
    assert [line["batch"] for line in lines_of(directory, "batch", "--batch", "5")] == [1, 2, 4]


def test_quality_of_a_text(directory):
    demo = ROOT / "models/demo"
    text = ROOT / "models/demo-adapters/cynic/heldout.txt"
    words = directory / "words.txt"
    words.write_text(text.read_text()[:3000])
    lines = [json.loads(line) for line in bench(directory, "quality", "--json", "--mib", "4",
                                                "--checkpoint", demo, "--text", words)]
    assert [line["quant"] for line in lines] == ["int8", "int4"]
    for line, worst in zip(lines, (0.003, 0.1)):
        assert 500 < line["tokens"] < 3000
        assert 0 < line["kl_mean"] < worst and line["kl_mean"] < line["kl_p99"]
        assert abs(line["perplexity"] / line["bf16_perplexity"] - 1) < 0.1
    assert lines[1]["weight_bytes"] < 0.6 * lines[0]["weight_bytes"]
    line, = [json.loads(line) for line in bench(directory, "quality", "--json", "--mib", "4",
                                                "--checkpoint", demo, "--quant", "f32")]
    assert line["quant"] == "f32" and line["kl_mean"] < 0.003 and "perplexity" not in line


def test_quant_and_threads_are_those_asked_for(directory):
    line, = lines_of(directory, "decode", "--quant", "f32", "--threads", "1", "--tokens", "4")
    assert (line["quant"], line["threads"], line["arithmetic"]) == ("f32", 1, "f32")


def test_longctx_with_less_kv(directory):
    bf16, = lines_of(directory, "longctx", "--tokens", "8")
    int8, = lines_of(directory, "longctx", "--tokens", "8", "--kv-dtype", "int8")
    assert (bf16["context"], int8["context"], int8["kv_dtype"]) == (512, 512, "int8")
    assert int8["kv_bytes_per_token"] <= bf16["kv_bytes_per_token"]


def test_for_people(directory):
    line, = bench(directory, "decode", "--shape", "tiny", "--mib", "4", "--tokens", "4")
    assert line.startswith("bench decode") and "tok_s" in line and "{" not in line


@pytest.mark.parametrize("flags, said", [
    (["decode", "--quant", "int3"], "int3"),
    (["longctx", "--kv-dtype", "int4"], "int4"),
    (["decode", "--batch", "65"], "batch"),
    (["mixed", "--batch", "33"], "32"),
    (["decode", "--shape", "none"], "synth.log"),
])
def test_refusals(directory, flags, said):
    done = subprocess.run([str(SLLORA), "bench", "--dir", str(directory), *flags],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode in (1, 2) and said in done.stderr, done
