"""What `sllora doctor` says of GPUs: of none, and of a driver library that is made for the tests."""
import json
import os
import subprocess

from conftest import BUILD, SLLORA


def findings(settings=None):
    env = dict(os.environ)
    if settings is not None:
        env |= {"LD_LIBRARY_PATH": str(BUILD / "tests/fake"), "FAKE_CUDA": settings}
    done = subprocess.run([SLLORA, "doctor", "--json"], env=env, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr  # 1: the sandbox lacks something here
    return {f["name"]: f for f in json.loads(done.stdout)["findings"]}


def test_a_gpu_is_described():
    f = findings("devices=2")
    assert f["NVIDIA driver"]["value"] == "for CUDA 13.0, 2 GPUs"
    assert f["GPU 1"]["value"].startswith("Fake GPU 1, ")
    assert "at 4917 GB/s, 132 SMs, compute capability 9.0" in f["GPU 1"]["value"]
    assert "not used" in f["GPU 1"]["consequence"]
    assert not f["GPU 1"]["needed"]


def test_why_a_gpu_cannot_be_used():
    assert "compute capability is 7.5" in findings("major=7 minor=5")["GPU 0"]["consequence"]
    f = findings("devices=2 dead=0")
    assert f["GPU 0"]["value"] == "no answer"
    assert "nvidia-smi" in f["GPU 0"]["consequence"]
    assert f["GPU 1"]["value"].startswith("Fake GPU 1, ")


def test_why_a_driver_is_not_used():
    assert "too old" in findings("version=11040")["NVIDIA driver"]["consequence"]
    assert "docker run --gpus" in findings("init=100")["NVIDIA driver"]["consequence"]
    assert "GPU 0" not in findings("init=100")
