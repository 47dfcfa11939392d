"""What `sllora doctor` says of GPUs: of none, and of a driver library that is made for the tests."""
import json
import os
import subprocess

from conftest import BUILD, SLLORA


def findings(settings=None, *flags):
    env = dict(os.environ)
    if settings is not None:
        env |= {"LD_LIBRARY_PATH": str(BUILD / "tests/fake"), "FAKE_CUDA": settings}
    done = subprocess.run([SLLORA, "doctor", "--json", *flags], env=env, capture_output=True,
                          text=True, timeout=120)
    assert done.returncode in (0, 1), done.stderr  # 1: the sandbox lacks something here
    return {f["name"]: f for f in json.loads(done.stdout)["findings"]}


def test_a_gpu_is_described():
    f = findings("devices=2")
    assert f["NVIDIA driver"]["value"] == "for CUDA 13.0, 2 GPUs"
    assert f["GPU 1"]["value"].startswith("Fake GPU 1, ")
    assert "at 4917 GB/s, 132 SMs, compute capability 9.0" in f["GPU 1"]["value"]
    assert "serve --device gpu" in f["GPU 1"]["consequence"]
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


def test_gpus_are_tried():
    f = findings("devices=2", "--try-gpus")
    for i in range(2):
        shared = f[f"GPU {i}: shared memory"]
        assert shared["value"].startswith("64 MiB written at ")
        assert "read by another process" in shared["value"] and shared["consequence"] is None
        assert f[f"GPU {i}: writes of a reader"] == {
            "name": f"GPU {i}: writes of a reader", "value": "refused", "consequence": None,
            "needed": False}
        asked = f[f"GPU {i}: a reader that asks"]
        assert asked["value"] == "may write, and all others see it"
        assert "nothing but the sandbox" in asked["consequence"]
    assert "GPU 0: shared memory" not in findings("devices=2")  # only where it is asked for


def test_a_driver_that_protects_memory():
    f = findings("ask=800", "--try-gpus")
    assert f["GPU 0: a reader that asks"]["value"] == "may not write"
    assert f["GPU 0: a reader that asks"]["consequence"] is None


def test_a_driver_that_does_not():
    f = findings("careless=1", "--try-gpus")
    assert f["GPU 0: writes of a reader"]["value"] == "not refused"
    assert "does not protect" in f["GPU 0: writes of a reader"]["consequence"]


def test_a_gpu_that_is_full_or_busy():
    f = findings("free=62", "--try-gpus")["GPU 0: shared memory"]
    assert f["value"] == "does not work"
    assert "the GPU has no 0.06 GiB free, but 0.06 of 150.00" in f["consequence"]
    f = findings("context=2", "--try-gpus")["GPU 0: shared memory"]
    assert "takes no process" in f["consequence"]


def test_nothing_to_try():
    assert "GPU 0" not in findings("init=100", "--try-gpus")
    assert not any("shared memory" in name for name in findings(None, "--try-gpus"))
    f = findings("major=7 minor=5", "--try-gpus")
    assert "compute capability" in f["GPU 0"]["consequence"]
    assert "GPU 0: shared memory" not in f


def test_more_gpus_than_are_described():
    f = findings("devices=20", "--try-gpus")
    assert f["NVIDIA driver"]["value"] == "for CUDA 13.0, 20 GPUs"
    assert "GPU 15: a reader that asks" in f and "GPU 16" not in f
