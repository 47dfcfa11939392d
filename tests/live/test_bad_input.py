"""Whatever is sent or asked, the answer is a clear error, and nobody else notices."""
import json
import os
import re
import shutil
import socket
import struct
import subprocess

import httpx
import openai
import pytest

from conftest import ADAPTERS, BUILD, DEMO, SLLORA, Daemon, wait_for


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    d = Daemon(tmp_path_factory.mktemp("bad") / "data").start()
    d.deploy("f", DEMO)
    yield d
    assert d.process.poll() is None, d.log.read_text()[-2000:]
    assert d.client().completions.create(model="f", prompt="A", max_tokens=1).choices
    d.stop()


def post(d, path, body, **headers):
    data = body if isinstance(body, (str, bytes)) else json.dumps(body)
    return httpx.post(d.url + path, content=data, headers=headers, timeout=60)


BAD_BODIES = [
    ("malformed JSON", "{", 400, None),
    ("trailing text", '{"model":"f","prompt":"x"} x', 400, None),
    ("duplicate keys", '{"model":"f","model":"f","prompt":"x"}', 400, None),
    ("not an object", "[1]", 400, None),
    ("deeply nested", '{"model":"f","prompt":' + "[" * 20000 + "]" * 20000 + "}", 400, None),
    ("broken UTF-8", b'{"model":"f","prompt":"\xff"}', 400, None),
    ("no model", {"prompt": "x"}, 400, "model"),
    ("unknown model", {"model": "nobody", "prompt": "x"}, 404, "model"),
    ("no prompt", {"model": "f"}, 400, "prompt"),
    ("prompt of a wrong type", {"model": "f", "prompt": {"a": 1}}, 400, "prompt"),
    ("empty prompt list", {"model": "f", "prompt": []}, 400, "prompt"),
    ("ids out of range", {"model": "f", "prompt": [999999999]}, 400, None),
    ("negative ids", {"model": "f", "prompt": [-1]}, 400, "prompt"),
    ("temperature", {"model": "f", "prompt": "x", "temperature": 3}, 400, "temperature"),
    ("top_p", {"model": "f", "prompt": "x", "top_p": 0}, 400, "top_p"),
    ("max_tokens", {"model": "f", "prompt": "x", "max_tokens": -1}, 400, "max_tokens"),
    ("max_tokens of a wrong type", {"model": "f", "prompt": "x", "max_tokens": "9"}, 400,
     "max_tokens"),
    ("n", {"model": "f", "prompt": "x", "n": 129}, 400, "n"),
    ("logprobs", {"model": "f", "prompt": "x", "logprobs": 99}, 400, "logprobs"),
    ("too many stops", {"model": "f", "prompt": "x", "stop": ["a", "b", "c", "d", "e"]}, 400,
     "stop"),
    ("stream of a wrong type", {"model": "f", "prompt": "x", "stream": 1}, 400, "stream"),
]


@pytest.mark.parametrize("body,status,param", [b[1:] for b in BAD_BODIES],
                         ids=[b[0] for b in BAD_BODIES])
def test_bad_body(served, body, status, param):
    answer = post(served, "/v1/completions", body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and isinstance(error["type"], str)
    assert error["code"] is None or isinstance(error["code"], str)
    if param:
        assert error["param"] == param


@pytest.mark.parametrize("messages", [
    None, [], "hello", [1], [{"content": "x"}], [{"role": 1, "content": "x"}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
])
def test_bad_messages(served, messages):
    answer = post(served, "/v1/chat/completions", {"model": "f", "messages": messages})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"].startswith("messages")


def test_prompt_longer_than_the_context(served):
    with pytest.raises(openai.BadRequestError) as e:
        served.client().completions.create(model="f", prompt=[5] * 5000)
    assert e.value.code == "context_length_exceeded"


def test_large_body_is_refused_early(served):
    answer = post(served, "/v1/completions", b"x" * (9 << 20))
    assert answer.status_code == 413


def test_large_prompt_travels_in_a_file(served):
    text = "word " * 20000
    answer = post(served, "/v1/completions", {"model": "f", "prompt": text})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"


RAW = [
    ("two lengths", b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
                    b"Content-Length: 5\r\n\r\n{}  "),
    ("length and chunked", b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
                           b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("unknown coding", b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
                       b"Transfer-Encoding: xchunked\r\n\r\n"),
    ("folded header", b"GET /healthz HTTP/1.1\r\nHost: x\r\n Content-Length: 5\r\n\r\n"),
    ("no host", b"GET /healthz HTTP/1.1\r\n\r\n"),
    ("blank before colon", b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length : 4\r\n\r\n"),
    ("signed length", b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: +4\r\n\r\n"),
    ("no request", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello"),
]


@pytest.mark.parametrize("raw", [r[1] for r in RAW], ids=[r[0] for r in RAW])
def test_conflicting_framing(served, raw):
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as s:
        s.sendall(raw)
        answer = b""
        while chunk := s.recv(65536):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 400 ") or answer.startswith(b"HTTP/1.1 501 "), answer


def test_headers_too_large(served):
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as s:
        s.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 100000)
        assert b" 431 " in s.recv(65536)


def test_clients_that_vanish_at_every_moment(served):
    body = json.dumps({"model": "f", "prompt": "The", "max_tokens": 50, "stream": True}).encode()
    request = (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: "
               + str(len(body)).encode() + b"\r\n\r\n" + body)
    for cut in list(range(0, len(request), 7)) + [len(request)] * 20:
        s = socket.create_connection(("127.0.0.1", served.port))
        s.sendall(request[:cut])
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()
    wait_for(lambda: served.status()["requests_running"] + served.status()["requests_waiting"] == 0,
             "the work of vanished clients ends")


def test_methods_and_paths(served):
    assert httpx.get(served.url + "/v1/completions").status_code == 405
    assert httpx.get(served.url + "/nowhere").status_code == 404
    assert httpx.get(served.url + "/admin/functions").status_code == 404  # only on the admin socket
    assert httpx.get(served.url + "/v1/models/nobody").status_code == 404


# --- files ---

def copy_model(tmp_path, name="model"):
    to = tmp_path / name
    shutil.copytree(DEMO, to)
    return to


def edit_json(path, **changes):
    value = json.loads(path.read_text())
    value.update(changes)
    path.write_text(json.dumps(value))


def break_truncated(m):
    data = (m / "model.safetensors").read_bytes()
    (m / "model.safetensors").write_bytes(data[:len(data) // 2])


def break_offsets(m):
    data = (m / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    name = sorted(k for k in header if k != "__metadata__")[0]
    begin, end = header[name]["data_offsets"]
    header[name]["data_offsets"] = [begin + (1 << 40), end + (1 << 40)]
    text = json.dumps(header).encode()
    (m / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size:])


def break_header(m):
    (m / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")


def break_nan(m):
    data = bytearray((m / "model.safetensors").read_bytes())
    data[-2:] = b"\xc0\x7f"  # bf16 NaN
    (m / "model.safetensors").write_bytes(data)


BROKEN = [
    ("truncated weights", break_truncated, "model.safetensors"),
    ("offsets out of range", break_offsets, "model.safetensors"),
    ("absurd header", break_header, "model.safetensors"),
    ("non-finite weights", break_nan, "finite"),
    ("unknown architecture", lambda m: edit_json(m / "config.json",
                                                 architectures=["GPT2LMHeadModel"]), "GPT2LMHead"),
    ("wrong shapes", lambda m: edit_json(m / "config.json", intermediate_size=64), "shape"),
    ("no tokenizer", lambda m: (m / "tokenizer.json").unlink(), "tokenizer.json"),
    ("no config", lambda m: (m / "config.json").unlink(), "config.json"),
    ("no weights", lambda m: (m / "model.safetensors").unlink(), "model.safetensors"),
    ("malformed config", lambda m: (m / "config.json").write_text("{"), "config.json"),
    ("malformed tokenizer", lambda m: (m / "tokenizer.json").write_text('{"model": 1}'),
     "tokenizer.json"),
]


@pytest.mark.parametrize("damage,word", [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN])
def test_damaged_backbone_is_refused(served, tmp_path, damage, word):
    model = copy_model(tmp_path)
    damage(model)
    done = served.cli("deploy", "broken", "--backbone", model)
    assert done.returncode == 1
    assert word in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert served.cli("describe", "broken").returncode == 4


def adapter_names():
    return sorted(p.name for p in ADAPTERS.iterdir() if p.is_dir())


def test_adapter_for_another_backbone_is_refused(served, tmp_path):
    from conftest import PARITY
    other = next(p for p in sorted(PARITY.iterdir()) if (p / "config.json").exists())
    done = served.cli("deploy", "broken", "--backbone", other, "--adapter",
                      ADAPTERS / adapter_names()[0])
    assert done.returncode == 1 and done.stderr.strip(), done.stderr


def test_unmatched_adapter_tensors_are_refused(served, tmp_path):
    adapter = tmp_path / "adapter"
    shutil.copytree(ADAPTERS / adapter_names()[0], adapter)
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes().replace(b"layers.0.", b"layers.9."))
    done = served.cli("deploy", "broken", "--backbone", DEMO, "--adapter", adapter)
    assert done.returncode == 1 and "layers.9." in done.stderr, done.stderr


def test_failed_deploy_leaves_the_old_function_serving(served, tmp_path):
    before = served.describe("f")
    model = copy_model(tmp_path)
    break_nan(model)
    assert served.cli("deploy", "f", "--backbone", model).returncode == 1
    assert served.describe("f")["generation"] == before["generation"]
    assert served.client().completions.create(model="f", prompt="A", max_tokens=1).choices


def flip_a_bit(d, kind):
    image = d.data / "images" / (d.describe("f")[kind]["digest"] + ".image")
    image.chmod(0o644)
    with image.open("r+b") as f:
        f.seek(-100, os.SEEK_END)
        byte = f.read(1)
        f.seek(-100, os.SEEK_END)
        f.write(bytes([byte[0] ^ 1]))


def test_damaged_image_is_refused_when_loaded(daemon_with):
    d = daemon_with("--keep-alive", 0.1, "--no-preload")
    d.deploy("f", DEMO)
    d.deploy("other", DEMO, quant="f32")
    flip_a_bit(d, "backbone")
    with pytest.raises(openai.InternalServerError) as e:
        d.client().completions.create(model="f", prompt="A", max_tokens=1)
    assert e.value.code == "load_failed"
    assert d.client().completions.create(model="other", prompt="A", max_tokens=1).choices
    d.deploy("f", DEMO)  # mends it
    assert d.client().completions.create(model="f", prompt="A", max_tokens=1).choices


def test_damaged_adapter_image_is_refused_when_loaded(daemon_with):
    d = daemon_with("--keep-alive", 0.1, "--no-preload")
    d.deploy("f", DEMO, ADAPTERS / adapter_names()[0])
    d.deploy("other", DEMO)
    flip_a_bit(d, "adapter")
    with pytest.raises(openai.InternalServerError) as e:
        d.client().completions.create(model="f", prompt="A", max_tokens=1)
    assert e.value.code == "adapter_failed"
    assert d.client().completions.create(model="other", prompt="A", max_tokens=1).choices
    d.deploy("f", DEMO, ADAPTERS / adapter_names()[0])  # mends it
    assert d.client().completions.create(model="f", prompt="A", max_tokens=1).choices


# --- traces ---

LLM = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
LINE = '{"timestamp": %s, "input_length": %s, "output_length": 3, "hash_ids": [1]}\n'
BAD_TRACES = [
    ("empty", "", "empty"),
    ("of no known kind", "hello\n", "no known trace"),
    ("a column is missing", LLM + "2023-11-16 18:15:46,1\n", ":2: the row has 2 columns"),
    ("a word for a number", LLM + "2023-11-16 18:15:46,1,x\n", ":2: GeneratedTokens"),
    ("unsorted", LINE % (500000, 9) + LINE % (0, 9), ":2: the row is 500.000 s before"),
    ("negative time", LINE % (-5, 9), ":1: \"timestamp\" is -0.005"),
    ("beyond all time", LINE % ("1e300", 9), "more than ten years"),
    ("enormous prompt", LINE % (5, 9999999999), ":1: \"input_length\""),
    ("enormous line", LLM + "9" * (2 << 20) + "\n", ":2: the line has more than"),
    ("enormous count", "HashOwner,HashApp,HashFunction,Trigger,1,2\no,a,f,http,4000000000,1\n",
     ":2: minute 1 is 4000000000"),
    ("enormous file", LLM + "2023-11-16 18:15:46.68,1,1\n" * ((8 << 20) + 1),
     "there are more than 8388608 requests"),
    ("a null byte", LLM + "2023-11-16 18:15:46\0,1,1\n", ":2: byte 20 is 0"),
    ("malformed JSON", "{\"timestamp\": 0\n", ":1: malformed JSON"),
]


@pytest.mark.parametrize("text,said", [t[1:] for t in BAD_TRACES], ids=[t[0] for t in BAD_TRACES])
def test_bad_traces(served, tmp_path, text, said):
    path = tmp_path / "trace"
    path.write_text(text)
    for done in (served.cli("replay", path),
                 subprocess.run([str(SLLORA), "sim", "--trace", str(path)], capture_output=True,
                                text=True, timeout=60)):
        assert done.returncode == 1 and done.stdout == "", done
        assert str(path) in done.stderr and said in done.stderr, done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr


# --- the command line and the start ---

def serve_fails(*arguments, **more):
    done = subprocess.run([str(SLLORA), "serve", *map(str, arguments)], capture_output=True,
                          text=True, timeout=60, **more)
    assert done.returncode != 0 and done.stderr.strip(), done
    return done.stderr


def test_second_daemon_on_the_same_directory(served):
    assert "another sllora serve" in serve_fails("--data", served.data, "--listen", "127.0.0.1:0")


def test_port_in_use(served, tmp_path):
    message = serve_fails("--data", tmp_path / "d", "--listen", f"127.0.0.1:{served.port}")
    assert str(served.port) in message and "in use" in message


@pytest.mark.parametrize("name", ["gb_s_active_usd", "gb_s_idle_usd", "device_s_usd",
                                  "request_usd", "prompt_1k_usd", "cached_1k_usd", "new_1k_usd"])
def test_prices_with_a_gap(tmp_path, name):
    names = ["gb_s_active_usd", "gb_s_idle_usd", "device_s_usd", "request_usd", "prompt_1k_usd",
             "cached_1k_usd", "new_1k_usd"]
    prices = tmp_path / "prices.json"
    prices.write_text(json.dumps({n: 1 for n in names if n != name}))
    message = serve_fails("--data", tmp_path / "d", "--listen", "127.0.0.1:0", "--prices", prices)
    assert str(prices) in message and name in message and "it is missing" in message


def test_public_address_is_refused(tmp_path):
    assert "127.0.0.1" in serve_fails("--data", tmp_path / "d", "--listen", "0.0.0.0:0")


@pytest.mark.parametrize("flags,word", [
    (["--memory", "lots"], "--memory"), (["--memory", "1M"], "--memory"),
    (["--kv", "1"], "--kv"), (["--keep-alive", "-1"], "--keep-alive"),
    (["--sandbox", "none"], "--sandbox"), (["--listen", "nowhere"], "nowhere"), (["x"], "x"),
])
def test_bad_flags(tmp_path, flags, word):
    assert word in serve_fails("--data", tmp_path / "d", *flags)


def test_directory_that_cannot_be_written(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert str(blocked) in serve_fails("--data", blocked / "d", "--listen", "127.0.0.1:0")


def test_read_only_directory(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a read-only directory")
    data = tmp_path / "ro"
    data.mkdir()
    script = (f"mount -t tmpfs -o ro none {data} && exec {SLLORA} serve --data {data} "
              "--listen 127.0.0.1:0")
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 1 and "cannot write" in done.stderr, done.stderr


def test_full_disk_fails_the_deploy_only(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small directory")
    data = tmp_path / "small"
    data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(data)], check=True)
    try:
        d = Daemon(data, "--event-log", "").start()
        done = d.cli("deploy", "f", "--backbone", DEMO)
        assert done.returncode == 1 and "space" in done.stderr.lower(), done.stderr
        assert d.json("ls") == [] and d.process.poll() is None
        d.stop()
    finally:
        subprocess.run(["umount", "-l", str(data)], check=True)


def test_foreign_registry_is_refused(tmp_path):
    data = tmp_path / "d"
    data.mkdir()
    (data / "registry.sqlite").write_bytes(b"this is no database, whatever it is called" * 100)
    assert "registry" in serve_fails("--data", data, "--listen", "127.0.0.1:0")


def test_backbone_larger_than_the_budget(daemon_with):
    d = daemon_with("--memory", "16M")
    done = d.cli("deploy", "f", "--backbone", DEMO)
    assert done.returncode == 1 and "the server's --memory is 16 MiB" in done.stderr, done
    assert d.json("ls") == []
    d.stop()
    said = re.search(r"needs (\d+) MiB with one worker, .* --quant int8 needs about (\d+) MiB, "
                     r"int4 (\d+) MiB; or start the server with more", done.stderr)
    assert said, done
    needed = dict(zip(("bf16", "int8", "int4"), map(int, said.groups())))
    assert needed["bf16"] > needed["int8"] > needed["int4"] > 16
    # What it says would fit does, and less does not.
    for quant, mib in needed.items():
        d = daemon_with("--memory", f"{mib + 1}M")
        d.deploy("f", DEMO, quant=quant)
        assert d.client().completions.create(model="f", prompt="A", max_tokens=1).choices
        d.stop()
        # Deployed with more memory, then served with less: the server runs, and says it.
        d.flags = ["--memory", f"{mib - 1}M"]
        d.start()
        assert "function=f" in d.log.read_text() and "not served" in d.log.read_text()
        assert d.cli("deploy", "g", "--backbone", DEMO, "--quant", quant).returncode == 1
        d.stop()


def test_commands_without_a_server(tmp_path):
    for arguments in (["ls"], ["describe", "f"], ["rm", "f"], ["chat", "f", "-m", "x"], ["status"],
                      ["deploy", "f", "--backbone", str(DEMO)]):
        done = subprocess.run([str(SLLORA), *arguments, "--data", str(tmp_path)],
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == 3, (arguments, done)
        assert "sllora serve" in done.stderr


@pytest.mark.parametrize("arguments", [
    [], ["nothing"], ["deploy"], ["deploy", "f"], ["rm"], ["describe"], ["chat"], ["ls", "x"],
    ["bench"], ["bench", "nothing"], ["synth"],
])
def test_wrong_arguments(arguments):
    done = subprocess.run([str(SLLORA), *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.strip(), done


def test_bad_names_and_paths(served):
    for name in ("../x", "a/b", "", "x" * 65, ".hidden", "ü"):
        assert served.cli("deploy", name, "--backbone", DEMO).returncode == 1, name
    done = served.cli("deploy", "f2", "--backbone", "/nowhere/at/all")
    assert done.returncode == 1 and "/nowhere/at/all" in done.stderr
    done = served.cli("deploy", "f2", "--backbone", BUILD)
    assert done.returncode == 1 and done.stderr.strip()
    assert served.cli("deploy", "f2", "--backbone", DEMO, "--isolation", "none").returncode == 1
    assert served.cli("deploy", "f2", "--backbone", DEMO, "--quant", "int3").returncode == 1


def test_machine_without_user_namespaces(tmp_path):
    """Refused with the promise that falls; weak on demand, and still serving."""
    if os.geteuid() != 0:
        pytest.skip("needs root to make such a machine")
    data = tmp_path / "d"
    script = (f"echo 0 > /proc/sys/user/max_user_namespaces; {SLLORA} serve --data {data} "
              f"--listen 127.0.0.1:0; echo status=$?; {SLLORA} serve --data {data} "
              f"--listen 127.0.0.1:0 --sandbox weak & pid=$!; "
              f"until {SLLORA} status --data {data} >/dev/null 2>&1; do sleep 0.05; done; "
              f"{SLLORA} deploy f --data {data} --backbone {DEMO} && "
              f"{SLLORA} chat f --data {data} -m hello --max-tokens 2 && echo answered; "
              "kill $pid; wait $pid")
    done = subprocess.run(["unshare", "-r", "sh", "-c", script], capture_output=True, text=True,
                          timeout=120)
    assert "status=1" in done.stdout and "promise falls" in done.stderr, done
    assert "sandbox is weak" in done.stderr and "answered" in done.stdout, done
