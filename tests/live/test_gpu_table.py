"""bench/gpu without a GPU: the arithmetic of its table, and what becomes of stages that fail. The
program under measurement is a script that prints what gpu-bench prints."""
import importlib.util
import json
import subprocess
import sys

from conftest import ROOT

GPU = ROOT / "bench/gpu"

PROGRAM = r"""#!/bin/sh
case "$*" in
*check*) echo '{"family":"llama","weights":"bf16","adapter":"none","difference":0.5,"bound":0.02,'\
'"passed":RIGHT}' ;;
*"figures decode"*) echo '{"cell":"decode 1","value":90,"unit":"tok/s","ceiling":100,'\
'"at_least":0.85}' ;;
*"figures batch"*) echo 'gpu-bench: no room on the device' >&2; exit 1 ;;
*) echo '{"cell":"start: whole","value":700,"unit":"ms","at_most":600}' ;;
esac
"""


def load(name):
    # By its path: bench/peer has a table too.
    spec = importlib.util.spec_from_file_location(f"gpu_{name}", GPU / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(tmp_path, right):
    program, out = tmp_path / "gpu-bench", tmp_path / "out.jsonl"
    program.write_text(PROGRAM.replace("RIGHT", right))
    program.chmod(0o755)
    done = subprocess.run([sys.executable, GPU / "stages.py", "--program", program, "--skip-peer",
                           "--out", out, "--card", "A Card"], capture_output=True, text=True)
    return done, [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def test_shares_and_ratios_are_of_medians():
    lines = [{"cell": "decode 1", "value": v, "unit": "tok/s", "ceiling": 100, "at_least": 0.85}
             for v in (80, 90, 84)]
    lines += [{"cell": "peer decode 1", "value": 30, "unit": "tok/s", "how": "by hand"},
              {"cell": "adapters", "value": 1.25, "unit": "times", "at_most": 1.25},
              {"cell": "ceiling copy", "value": 4000, "unit": "GB/s"}]
    rows = {r["figure"]: r for r in load("table").rows(lines)}
    decode = rows["decode 1"]
    assert (decode["value"], decode["share"], decode["rounds"]) == (84, 0.84, 3)
    assert decode["met"] is False
    ratio = rows["decode 1 to transformers"]
    assert (ratio["against"], ratio["share"], ratio["met"]) == (30, 2.8, False)
    assert rows["adapters"]["met"] is True
    assert rows["ceiling copy"]["met"] is None
    assert "decode adapters to peft" not in rows  # nothing was measured


def test_a_stage_that_fails_is_a_row(tmp_path):
    done, lines = run(tmp_path, "true")
    assert done.returncode == 1
    table = done.stdout.splitlines()
    assert table[0].startswith("A Card, llama-2-7b")
    assert table[-2:] == ["batch  failed: gpu-bench: no room on the device",
                          "batch, again  failed: gpu-bench: no room on the device"]
    assert [line.split()[-1] for line in table if line.startswith(("decode 1", "start:"))] == \
        ["met", "missed"]
    assert lines[0]["card"] == "A Card" and {s["stage"] for s in lines[0]["stages"]} >= {"batch"}
    assert [r["rounds"] for r in lines[1:] if "rounds" in r] == [1, 2, 6]


def test_wrong_numbers_are_not_timed(tmp_path):
    done, lines = run(tmp_path, "false")
    assert done.returncode == 1 and done.stdout == "" and lines == []
    assert "WRONG: llama, bf16, adapter none: 0.5 of at most 0.02" in done.stderr
