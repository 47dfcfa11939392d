"""The real daemon on a GPU that is none: the driver library of the tests, whose device memory is
memory of the host's, and whose kernels are those of the GPU compiled for the processor."""
import json
import math
import os
import signal
import struct
import subprocess
from pathlib import Path

import openai
import pytest

from conftest import ADAPTERS, BUILD, DEMO, SLLORA, Daemon, wait_for

FAKE = {"LD_LIBRARY_PATH": str(BUILD / "tests/fake")}
DEVICE_MEMORY = "memfd:fake-gpu"
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="looks into processes of other uids")


def like(settings):
    """A driver that is so to the daemon's processes too, which get what begins with CUDA_."""
    return FAKE | {"CUDA_FAKE": settings}


PROMPT = "In the beginning"
# Logarithms of probabilities of this model in bf16, on the processors and on the GPU, whose sums
# have other orders and whose inputs of products are rounded: some 1e-2 of logits of a size of 5.
DIFFERENCE_MAX = 0.1


@pytest.fixture(scope="module")
def gpu(tmp_path_factory):
    """Three functions of two owners on the demo backbone; the driver has threads of its own and
    asks the system for everything by ioctl, as a real one does."""
    d = Daemon(tmp_path_factory.mktemp("gpu") / "data", "--device", "gpu", "--keep-alive", 300,
               env=like("threads=2 ioctl=2")).start()
    for name, owner in (("scripture", "acme"), ("hacker", "acme"), ("cynic", "globex")):
        d.deploy(name, DEMO, ADAPTERS / name, owner=owner)
    yield d
    d.stop()


def ask(d, name, tokens=3, **more):
    return d.client().completions.create(model=name, prompt=PROMPT, max_tokens=tokens,
                                         temperature=0, logprobs=3, **more).choices[0]


def used(d):
    return d.status()["devices"][0]["used_bytes"]


def workers(d):
    """The functions of each process."""
    return {w["pid"]: sorted(f["name"] if isinstance(f, dict) else f for f in w["functions"])
            for w in d.status()["workers"] if w["functions"]}


def processes(d):
    """The daemon's, itself among them: name by pid."""
    done = subprocess.run(["ps", "-o", "pid=,comm=", "--ppid", str(d.process.pid), "-p",
                           str(d.process.pid)], capture_output=True, text=True)
    return {int(line.split()[0]): line.split()[1] for line in done.stdout.splitlines()}


def maps(pid):
    """What a process has mapped: (permissions, name)."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [(line.split()[1], line.split(None, 5)[5]) for line in lines if len(line.split()) > 5]


def holders_of_device_memory(d):
    found = []
    for pid, name in processes(d).items():
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if DEVICE_MEMORY in os.readlink(fd):
                    found.append(name)
            except FileNotFoundError:
                pass
    return found


def refused(d, name):
    with pytest.raises(openai.APIStatusError) as e:
        ask(d, name, 1)
    return e.value.status_code, e.value.code


def test_answers_are_those_of_the_processors(gpu, demo):
    """Token for token as far as both choose the same, and each with the same probability."""
    for name in ("scripture", "hacker", "cynic"):
        here, there = ask(demo, name), ask(gpu, name)
        for i, (a, b) in enumerate(zip(here.logprobs.tokens, there.logprobs.tokens)):
            assert abs(here.logprobs.token_logprobs[i] -
                       there.logprobs.token_logprobs[i]) < DIFFERENCE_MAX, (name, i, a, b)
            if a != b:
                break
        assert here.logprobs.tokens[0] == there.logprobs.tokens[0], name


def test_adapters_of_an_owner_in_one_process_and_of_others_in_theirs(gpu):
    for name in ("scripture", "hacker", "cynic"):
        ask(gpu, name, 1)
    assert sorted(workers(gpu).values()) == [["cynic"], ["hacker", "scripture"]]


def test_a_stream_and_a_seed(gpu):
    def text(seed):
        stream = gpu.client().completions.create(model="cynic", prompt=PROMPT, max_tokens=4,
                                                 temperature=1, seed=seed, stream=True)
        return "".join(chunk.choices[0].text for chunk in stream)
    assert text(7) == text(7)


def test_what_is_where(gpu):
    ask(gpu, "scripture", 1)
    status = gpu.status()
    device, size = status["devices"][0], status["backbones"][0]["bytes"]
    assert device["kind"] == "gpu" and device["model"] == "Fake GPU 0"
    assert device["memory"]["backbones"] == size and device["memory"]["processes"] > 0
    assert status["host"]["memory"]["backbones"] in (0, size)
    for command in (["status"], ["top", "--count", "1"], ["plan"], ["describe", "scripture"]):
        done = gpu.cli(*command)
        assert done.returncode == 0, (command, done.stderr)
    assert "gpu:0" in gpu.ok("top", "--count", "1")


@AS_ROOT
def test_who_has_what(gpu):
    """The driver is in the keeper and the workers, never in the daemon; the backbone's memory is
    the keeper's to write and the workers' to read; their root holds device files alone."""
    ask(gpu, "scripture", 1)
    ask(gpu, "cynic", 1)
    assert not any("libcuda" in name for _, name in maps(gpu.process.pid))
    keeper = gpu.status()["backbones"][0]["keeper_pid"]
    assert {p for p, name in maps(keeper) if DEVICE_MEMORY in name} == {"rw-s"}
    for pid in workers(gpu):
        assert any("libcuda" in name for _, name in maps(pid))
        assert {p for p, name in maps(pid) if DEVICE_MEMORY in name} == {"r--s"}
        assert not any("w" in p and "x" in p for p, _ in maps(pid))
        root = Path(f"/proc/{pid}", "root")
        assert os.listdir(root) == ["dev"]
        assert os.listdir(root / "dev") == ["null"]  # what the driver has open
    assert "sllora-zygote" not in processes(gpu).values()


def test_a_worker_that_dies_takes_nobody_along(gpu):
    for name in ("scripture", "cynic"):
        ask(gpu, name, 1)
    victim = next(pid for pid, names in workers(gpu).items() if "cynic" in names)
    other = next(pid for pid, names in workers(gpu).items() if "scripture" in names)
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: victim not in workers(gpu), "the daemon sees it")
    assert other in workers(gpu)
    ask(gpu, "scripture", 1)
    ask(gpu, "cynic", 1)


def test_a_keeper_that_dies(daemon_with):
    d = daemon_with("--device", "gpu", env=FAKE)
    d.deploy("scripture", DEMO, ADAPTERS / "scripture")
    before = ask(d, "scripture", 2)
    keeper = subprocess.run(["pgrep", "-P", str(d.process.pid), "-x", "sllora-keeper"],
                            capture_output=True, text=True).stdout.split()
    assert keeper
    for pid in keeper:
        os.kill(int(pid), signal.SIGKILL)
    after = wait_for(lambda: try_to_ask(d), "it is loaded again", seconds=60)
    assert after.logprobs.token_logprobs == before.logprobs.token_logprobs


def try_to_ask(d):
    try:
        return ask(d, "scripture", 2)
    except openai.APIStatusError:
        return None


def test_scaled_to_zero(daemon_with):
    """Nobody's process, and nobody's memory of the device but what is kept ahead of need."""
    d = daemon_with("--device", "gpu", "--keep-alive", 1, "--no-preload", env=FAKE)
    d.deploy("scripture", DEMO, ADAPTERS / "scripture")
    ask(d, "scripture", 1)
    wait_for(lambda: not d.status()["workers"], "the worker ends", seconds=60)
    wait_for(lambda: used(d) == 0, "its memory is free", seconds=60)
    if os.geteuid() == 0:
        assert holders_of_device_memory(d) == []
    ask(d, "scripture", 1)
    if os.geteuid() == 0:
        assert "sllora-keeper" in holders_of_device_memory(d)


def test_it_comes_back_from_the_host(daemon_with):
    """A backbone that the device has lost is filled from the copy below it: no file is read."""
    d = daemon_with("--device", "gpu", env=FAKE)
    d.deploy("scripture", DEMO, ADAPTERS / "scripture")
    before = ask(d, "scripture", 2)
    assert d.status()["host"]["memory"]["backbones"] > 0
    for image in (d.data / "images").iterdir():
        image.unlink()
    os.kill(d.status()["backbones"][0]["keeper_pid"], signal.SIGKILL)
    after = wait_for(lambda: try_to_ask(d), "it is there again", seconds=60)
    assert after.logprobs.token_logprobs == before.logprobs.token_logprobs


def test_without_room_below(daemon_with):
    """The device is filled from the file."""
    d = daemon_with("--device", "gpu", "--memory", "1M", env=FAKE)
    d.deploy("scripture", DEMO, ADAPTERS / "scripture")
    assert ask(d, "scripture", 2).logprobs.tokens
    assert d.status()["host"]["memory"]["backbones"] == 0


@pytest.mark.parametrize("flags", [[], ["--memory", "1M"]])
def test_a_damaged_image_is_refused(daemon_with, flags):
    d = daemon_with("--device", "gpu", "--no-preload", *flags, env=FAKE)
    d.deploy("scripture", DEMO)
    image = next((d.data / "images").iterdir())
    image.chmod(0o600)
    with image.open("r+b") as f:  # in the last of its weights
        f.seek(-100, os.SEEK_END)
        f.write(b"\x55" * 8)
    assert refused(d, "scripture") == (503, "load_failed")
    assert "the image is damaged" in d.log.read_text()
    assert not image.exists()


def test_a_device_that_is_full(daemon_with):
    """Others may have it, whatever the budget says."""
    d = daemon_with("--device", "gpu", "--no-preload", env=like("free=2"))
    d.deploy("scripture", DEMO, ADAPTERS / "scripture")
    assert refused(d, "scripture") == (503, "load_failed")
    assert "the GPU has no" in d.log.read_text()
    assert d.status()["requests_waiting"] == 0


def test_a_device_that_is_gone(daemon_with):
    d = daemon_with("--device", "gpu", "--no-preload", env=like("context=100"))
    d.deploy("scripture", DEMO)
    assert refused(d, "scripture") == (503, "load_failed")
    assert "the GPU takes no process" in d.log.read_text()


def test_kernels_that_do_not_run(daemon_with):
    d = daemon_with("--device", "gpu", "--no-preload", env=like("module=209"))
    d.deploy("scripture", DEMO)
    assert refused(d, "scripture") == (503, "start_failed")
    assert "kernels do not run on a GPU" in d.log.read_text()


def test_a_kernel_that_faults_ends_its_own_process(daemon_with):
    """Its requests are told, its neighbour goes on, and it is started anew."""
    d = daemon_with("--device", "gpu", "--keep-alive", 300, env=like("kernels=400"))
    for name, owner in (("scripture", "acme"), ("cynic", "globex")):
        d.deploy(name, DEMO, ADAPTERS / name, owner=owner)
    ask(d, "scripture", 1)
    neighbour = next(pid for pid, names in workers(d).items() if "scripture" in names)
    with pytest.raises(openai.APIStatusError) as e:
        ask(d, "cynic", 200, extra_body={"ignore_eos": True})
    assert (e.value.status_code, e.value.code) == (500, "worker_lost")
    assert "a kernel touched memory that it must not" in d.log.read_text()
    assert neighbour in workers(d)
    ask(d, "scripture", 1)
    ask(d, "cynic", 1)


def test_more_than_the_device_has(daemon_with):
    d = daemon_with("--device", "gpu", "--gpu-memory", "710M", env=FAKE)
    done = d.cli("deploy", "scripture", "--backbone", str(DEMO))
    assert done.returncode == 1 and "--gpu-memory is 710 MiB" in done.stderr, done.stderr
    assert "--quant int8 needs about" in done.stderr


def test_what_a_gpu_does_not_compute(daemon_with):
    d = daemon_with("--device", "gpu", env=FAKE)
    done = d.cli("deploy", "scripture", "--backbone", str(DEMO), "--quant", "f32")
    assert done.returncode == 1 and "deploy with --quant bf16" in done.stderr, done.stderr


def widen_heads(checkpoint, dim):
    """Heads of so many values: q, k and v have more outputs, and o more inputs."""
    config = json.loads((checkpoint / "config.json").read_text())
    rows = {"q_proj.weight": config["num_attention_heads"] * dim,
            "k_proj.weight": config["num_key_value_heads"] * dim,
            "v_proj.weight": config["num_key_value_heads"] * dim}
    weights = checkpoint / "model.safetensors"
    (size,) = struct.unpack("<Q", weights.read_bytes()[:8])
    tensors = json.loads(weights.read_bytes()[8:8 + size])
    tensors.pop("__metadata__", None)
    end = 0
    for name, t in tensors.items():
        kind = ".".join(name.split(".")[-2:])
        if kind in rows:
            t["shape"][0] = rows[kind]
        if kind == "o_proj.weight":
            t["shape"][1] = rows["q_proj.weight"]
        t["data_offsets"] = [end, end + 2 * math.prod(t["shape"])]
        assert t["dtype"] == "BF16"
        end = t["data_offsets"][1]
    text = json.dumps(tensors).encode()
    weights.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    (checkpoint / "config.json").write_text(json.dumps(config | {"head_dim": dim}))


def test_heads_that_a_gpu_does_not_compute(daemon_with, tmp_path):
    d = daemon_with("--device", "gpu", env=FAKE)
    model = tmp_path / "wide"
    subprocess.run([SLLORA, "synth", model, "--shape", "tiny"], check=True, capture_output=True)
    widen_heads(model, 320)
    done = d.cli("deploy", "wide", "--backbone", str(model))
    assert done.returncode == 1 and "heads of up to 256 values" in done.stderr, done.stderr
    widen_heads(model, 256)
    d.deploy("wide", model)


@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_quantised(daemon_with, quant):
    d = daemon_with("--device", "gpu", env=FAKE)
    d.deploy("scripture", DEMO, ADAPTERS / "scripture", quant=quant, adapter_quant="int8")
    assert ask(d, "scripture", 2).logprobs.tokens


@pytest.mark.parametrize("settings, flags, words", [
    ("version=11040", [], "too old"),
    ("init=100", [], "finds no GPU"),
    ("major=7 minor=5", [], "compute capability"),
    ("vmm=0", [], "memory"),
    ("", ["--device", "gpu:3"], "there is no GPU 3"),
    ("", ["--gpu-memory", "100M"], "cannot hold one worker"),
    (None, [], "no NVIDIA driver"),
])
def test_refused_at_the_start(tmp_path, settings, flags, words):
    env = dict(os.environ)
    if settings is not None:
        env |= FAKE | {"FAKE_CUDA": settings}
    command = [SLLORA, "serve", "--device", "gpu", *flags, "--data", str(tmp_path / "data"),
               "--listen", "127.0.0.1:0"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and words in done.stderr, done.stderr


@pytest.mark.parametrize("flags", [["--device", "tpu"], ["--device", "gpu:x"],
                                   ["--gpu-memory", "1G"]])
def test_wrong_flags(tmp_path, flags):
    done = subprocess.run([SLLORA, "serve", *flags, "--data", str(tmp_path / "data")],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode in (1, 2) and "--" in done.stderr, done.stderr
