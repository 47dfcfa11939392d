"""tests/gpu_probe.c, what is tried on shared GPU memory: against a driver library that is made for
the tests. What a real one answers is seen where there is a GPU."""
import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from conftest import BUILD

PROGRAM = BUILD / "tests/gpu_probe"
MUST_WORK = ["read", "launch"]
WRITES = ["store", "atomic", "memset", "copy"]
GRANTS = ["ask-write", "second-map", "reimport"]
ALL = [(probe, denied) for denied in (False, True) for probe in MUST_WORK + WRITES + GRANTS]


def environment(settings, library=BUILD / "tests/fake"):
    return dict(os.environ) | {"LD_LIBRARY_PATH": str(library), "FAKE_CUDA": settings}


def run(settings, *flags, **options):
    return subprocess.run([PROGRAM, "--mib", "2", *flags], env=environment(settings, **options),
                          capture_output=True, text=True, timeout=300)


def by_probe(output):
    rows = [json.loads(line) for line in output.splitlines()]
    assert [(r["probe"], r["ioctl_denied"]) for r in rows] == ALL
    return dict(zip(ALL, rows))


def probed(settings, *flags):
    done = run(settings, "--json", *flags)
    assert done.returncode == 0, done.stderr
    return by_probe(done.stdout)


def verdicts(rows, probes, denied):
    return {rows[probe, denied]["verdict"] for probe in probes}


def refused(settings, *flags, **options):
    done = run(settings, *flags, **options)
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_a_driver_that_grants_writing():
    rows = probed("ask=0")
    for denied in (False, True):
        assert verdicts(rows, MUST_WORK, denied) == {"works"}
        assert verdicts(rows, WRITES, denied) == {"enforced"}
        assert verdicts(rows, GRANTS, denied) == {"convention"}
        assert {rows[probe, denied]["changed_bytes"] for probe in GRANTS} == {128}
    assert rows["store", False] == {
        "probe": "store", "ioctl_denied": False, "changed_bytes": 0, "verdict": "enforced",
        "answer": "a kernel's store: an illegal memory access was encountered (700)",
        "keeper": "healthy"}
    assert {r["keeper"] for r in rows.values()} == {"healthy"}


def test_a_driver_that_refuses_writing():
    rows = probed("ask=800")
    for denied in (False, True):
        assert verdicts(rows, MUST_WORK, denied) == {"works"}
        assert verdicts(rows, WRITES + GRANTS, denied) == {"enforced"}
    assert {r["changed_bytes"] for r in rows.values()} == {0}
    assert rows["ask-write", False]["answer"] == ("cuMemSetAccess for writing: operation not "
                                                  "permitted (800)")


def test_a_driver_that_protects_nothing():
    rows = probed("careless=1")
    for denied in (False, True):
        assert verdicts(rows, MUST_WORK, denied) == {"works"}
        assert verdicts(rows, WRITES + GRANTS, denied) == {"convention"}
        assert {rows[p, denied]["changed_bytes"] for p in WRITES + GRANTS} == {128}


def test_what_the_filter_takes_away():
    rows = probed("ioctl=1")
    assert verdicts(rows, GRANTS, False) == {"convention"}
    assert verdicts(rows, GRANTS, True) == {"enforced"}
    assert "(304)" in rows["ask-write", True]["answer"]
    assert verdicts(rows, MUST_WORK, True) == {"works"}


def test_a_filter_that_takes_away_work():
    rows = probed("ioctl=2")
    assert verdicts(rows, MUST_WORK, False) == {"works"}
    assert verdicts(rows, MUST_WORK, True) == {"fails"}
    # A write that its own memory does not take shows nothing of the mapping.
    assert verdicts(rows, WRITES, True) == {"fails"}
    assert rows["store", True]["answer"].startswith("the same to its own memory: ")
    assert verdicts(rows, GRANTS, True) == {"enforced"}


def test_a_probe_that_crashes():
    rows = probed("fault=9")
    for probe in "store", "atomic":
        assert rows[probe, False]["answer"] == "killed by signal 9"
        assert rows[probe, False]["verdict"] == "fails"
        assert rows[probe, False]["changed_bytes"] == 0
    assert rows["memset", False]["verdict"] == "enforced"
    assert {r["keeper"] for r in rows.values()} == {"healthy"}


def children(pid):
    """The youngest last."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        if int(fields[1]) == pid:
            found.append((int(fields[19]), int(path.parent.name)))
    return [number for _, number in sorted(found)]


def test_a_probe_that_hangs_and_a_keeper_that_dies():
    program = subprocess.Popen([PROGRAM, "--mib", "2", "--json", "--timeout", "4"],
                               env=environment("fault=0"), stdout=subprocess.PIPE, text=True)
    before = [program.stdout.readline() for _ in MUST_WORK]
    while len(children(program.pid)) < 2:  # the keeper, and "store", which will hang
        time.sleep(0.01)
    os.kill(children(program.pid)[0], 9)
    output, _ = program.communicate(timeout=300)
    assert program.returncode == 0
    rows = by_probe("".join(before) + output)
    assert rows["store", False] == {
        "probe": "store", "ioctl_denied": False, "answer": "no answer within 4 s",
        "changed_bytes": None, "verdict": "convention", "keeper": "killed by signal 9"}
    assert rows["atomic", False] == {
        "probe": "atomic", "ioctl_denied": False, "answer": "no answer within 4 s",
        "changed_bytes": 0, "verdict": "fails", "keeper": "healthy"}
    assert rows["read", True]["verdict"] == "works"


def test_kernels_that_the_driver_does_not_take():
    rows = probed("module=222")
    assert {r["verdict"] for r in rows.values()} == {"fails"}
    assert rows["store", False]["answer"].startswith("before the attempt: the driver does not take")


def test_nothing_to_probe(tmp_path):
    (tmp_path / "libcuda.so.1").write_text("")
    code, why = refused("", library=tmp_path)
    assert code == 3 and why.startswith("gpu_probe: no NVIDIA driver: ")
    for settings, words in (("init=100", "docker run --gpus"), ("version=11040", "too old"),
                            ("devices=0", "finds no GPU")):
        code, why = refused(settings)
        assert code == 3 and words in why
    code, why = refused("", "--device", "1")
    assert code == 3 and why == "gpu_probe: there is no GPU 1\n"


def test_a_gpu_that_cannot_be_probed():
    for settings, words in (("free=1", "the GPU has no 0.00 GiB free"),
                            ("context=2", "takes no process"),
                            ("major=7 minor=5", "compute capability is 7.5")):
        code, why = refused(settings)
        assert code == 1 and words in why


@pytest.mark.parametrize("flags", [["--device", "-1"], ["--mib", "0"], ["--timeout", "x"],
                                   ["--what"], ["more"]])
def test_bad_flags(flags):
    code, why = refused("", *flags)
    assert code == 2 and "usage: gpu_probe" in why


def test_the_table():
    done = run("devices=2", "--device", "1", "--mib", "64")
    lines = done.stdout.splitlines()
    assert lines[0] == "GPU 1: Fake GPU 1, driver for CUDA 13.0; 64 MiB are shared"
    assert lines[2].split() == ["probe", "ioctl", "verdict", "changed", "answer"]
    assert [tuple(line.split()[:3]) for line in lines[3:]] == [
        (probe, "denied" if denied else "allowed",
         "works" if probe in MUST_WORK else "enforced" if probe in WRITES else "convention")
        for probe, denied in ALL]
