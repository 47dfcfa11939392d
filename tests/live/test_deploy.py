"""A deploy: its certificate, identity by content, generations, and adapters that clients load."""
import concurrent.futures
import json
import re
import shutil
import struct

import httpx
import openai
import pytest

from conftest import ADAPTERS, DEMO, PARITY, Daemon, wait_for

NAMES = sorted(p.name for p in ADAPTERS.iterdir() if p.is_dir())
MODEL_FILE = "adapter_model.safetensors"
PROBE_TOKENS = 16


def copy_adapter(tmp_path, name=NAMES[0], to="adapter"):
    shutil.copytree(ADAPTERS / name, tmp_path / to)
    return tmp_path / to


def tensors(adapter):
    """name -> (dtype, shape, first byte, end) in the file."""
    data = (adapter / MODEL_FILE).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    return {k: (v["dtype"], v["shape"], *(8 + size + o for o in v["data_offsets"]))
            for k, v in header.items() if k != "__metadata__"}


def fill_b(adapter, value):
    """Every lora_B becomes this number."""
    data = bytearray((adapter / MODEL_FILE).read_bytes())
    for name, (dtype, _, begin, end) in tensors(adapter).items():
        word = struct.pack("<f", value)
        word = word if dtype == "F32" else word[2:]
        assert dtype in ("F32", "BF16")
        if "lora_B" in name:
            data[begin:end] = word * ((end - begin) // len(word))
    (adapter / MODEL_FILE).write_bytes(data)


def edit_config(adapter, **changes):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def deploy(d, name, adapter, *flags):
    return d.json("deploy", name, "--backbone", DEMO, "--adapter", adapter, *flags)[-1]


def greedy(d, name, prompt="The king", tokens=24):
    return d.client().completions.create(model=name, prompt=prompt, max_tokens=tokens,
                                         temperature=0).choices[0].text


# --- the certificate ---

def test_certificate_says_what_was_packed_and_survives_a_restart(daemon):
    adapter = ADAPTERS / NAMES[0]
    line = deploy(daemon, "f", adapter)
    c = line["certificate"]
    config = json.loads((adapter / "adapter_config.json").read_text())
    files = tensors(adapter)
    assert c["adapter"] == line["adapter"] and c["backbone"] == line["backbone"]
    assert c["tensors_matched"] == len(files) and c["tensors_unmatched"] == 0
    assert c["parameters"] == sum(shape[0] * shape[1] for _, shape, _, _ in files.values())
    assert c["bytes"] == (daemon.data / "images" / (c["adapter"] + ".image")).stat().st_size
    assert c["rank_max"] == config["r"]
    modules = {re.search(r"\.(\w+\.\w+_proj)\.", name).group(1) for name in files}
    assert {m["module"] for m in c["modules"]} == modules
    assert all(m["scale"] == config["lora_alpha"] / config["r"] and m["rank"] == config["r"]
               for m in c["modules"])
    assert c["probe"]["tokens"] == PROBE_TOKENS
    assert c["probe"]["max_logit_change"] > 0 and c["probe"]["mean_kl"] > 0
    assert daemon.describe("f")["certificate"] == c
    again = daemon.json("deploy", "g", "--backbone", DEMO, "--adapter", adapter)
    assert [o["state"] for o in again] == ["deployed"]  # nothing is packed or probed twice
    assert again[0]["certificate"] == c
    daemon.kill()
    daemon.start()
    assert daemon.describe("f")["certificate"] == c
    daemon.deploy("bare", DEMO)
    assert daemon.describe("bare")["certificate"] is None


def test_probe_is_what_a_client_sees(daemon):
    """The positions that prefer another token, counted once more through the public API."""
    c = deploy(daemon, "f", ADAPTERS / NAMES[1])["certificate"]
    daemon.deploy("bare", DEMO)
    vocab = json.loads((DEMO / "config.json").read_text())["vocab_size"]
    prompt = [vocab * (2 * i + 1) // (2 * PROBE_TOKENS) for i in range(PROBE_TOKENS)]

    def preferred(name):
        a = daemon.client().completions.create(model=name, prompt=prompt, max_tokens=1,
                                               temperature=0, echo=True, logprobs=1)
        tops = [t for t in a.choices[0].logprobs.top_logprobs[1:]]
        return [max(t, key=t.get) for t in tops]

    mine, bare = preferred("f"), preferred("bare")
    assert len(mine) == len(bare) == PROBE_TOKENS
    assert sum(a != b for a, b in zip(mine, bare)) == c["probe"]["argmax_changed"]


def test_certificate_for_people(daemon):
    text = daemon.deploy("f", DEMO, ADAPTERS / NAMES[0])
    c = daemon.describe("f")["certificate"]
    first = c["modules"][0]
    assert f"{c['tensors_matched']} matched, 0 unmatched" in text
    assert f"{first['module']} " in text
    assert f"scale {first['scale']:g}, rank {first['rank']}, {first['layers']} layers" in text
    assert f"{c['probe']['argmax_changed']} positions prefer another token" in text
    assert c["adapter"][:12] in text and c["backbone"][:12] in text
    assert "matched" not in daemon.deploy("bare", DEMO)


def test_certificate_of_everything_an_adapter_can_hold(daemon):
    """One entry a way of being changed: DoRA, a bias, a module that was saved whole."""
    case = PARITY / "llama3"
    for adapter in sorted((case / "adapters").iterdir()):
        text = daemon.deploy("f", case, adapter, quant="f32")
        c = daemon.describe("f")["certificate"]
        files = tensors(adapter)
        assert c["tensors_matched"] == len(files) and c["tensors_unmatched"] == 0
        for key, part, word in (("dora", "lora_magnitude_vector", "DoRA"),
                                ("saved", "", "saved whole"), ("bias", ".bias", "bias")):
            held = any(m.get(key) for m in c["modules"])
            assert held == (f"{word}" in text), (adapter.name, key, text)
            if part:
                assert held == any(part in name for name in files), (adapter.name, key)
            else:
                assert held == bool(json.loads((adapter / "adapter_config.json").read_text())
                                    .get("modules_to_save")), adapter.name
        assert c["probe"]["max_logit_change"] > 0


def test_adapter_that_changes_nothing_is_refused(daemon, tmp_path):
    adapter = copy_adapter(tmp_path)
    fill_b(adapter, 0)
    daemon.deploy("f", DEMO, ADAPTERS / NAMES[1])
    before = daemon.describe("f")
    for _ in range(2):
        done = daemon.cli("deploy", "f", "--backbone", DEMO, "--adapter", adapter)
        assert done.returncode == 1, done
        assert "changes nothing" in done.stderr and "--allow-noop" in done.stderr, done.stderr
    assert len(list((daemon.data / "images").iterdir())) == 2  # nothing of it is kept
    line = deploy(daemon, "noop", adapter, "--allow-noop")
    assert line["certificate"]["probe"]["max_logit_change"] == 0
    assert line["certificate"]["probe"]["mean_kl"] == 0
    assert line["certificate"]["probe"]["argmax_changed"] == 0
    # Its image is in the store now; without the flag it is refused as before.
    done = daemon.cli("deploy", "f", "--backbone", DEMO, "--adapter", adapter)
    assert done.returncode == 1 and "changes nothing" in done.stderr, done
    refusal = f"refused function=f backbone={line['backbone'][:12]} adapter={line['adapter'][:12]} "
    assert daemon.log.read_text().count(refusal) == 3
    after = daemon.describe("f")
    assert after["generation"] == before["generation"] and after["adapter"] == before["adapter"]


def test_adapter_whose_logits_are_not_finite_is_refused(daemon, tmp_path):
    adapter = copy_adapter(tmp_path)
    fill_b(adapter, 1e38)
    done = daemon.cli("deploy", "f", "--backbone", DEMO, "--adapter", adapter, "--allow-noop")
    assert done.returncode == 1 and "not finite" in done.stderr, done
    assert daemon.cli("describe", "f").returncode == 4


# --- identity ---

def test_digest_is_of_the_content(daemon, tmp_path):
    certificate = deploy(daemon, "f", ADAPTERS / NAMES[0])["certificate"]
    first = certificate["adapter"]
    same = copy_adapter(tmp_path, to="same")
    config = json.loads((same / "adapter_config.json").read_text())
    text = json.dumps(dict(reversed(config.items())), indent=7)
    assert text != (same / "adapter_config.json").read_text()
    (same / "adapter_config.json").write_text(text)
    # Packed again, and known: what was said of the content stays.
    assert deploy(daemon, "same", same)["certificate"] == certificate
    other = copy_adapter(tmp_path, to="other")
    edit_config(other, lora_alpha=config["lora_alpha"] * 2)
    assert deploy(daemon, "other", other)["adapter"] != first
    # The same weights on another backbone are another adapter.
    f32 = daemon.json("deploy", "f32", "--backbone", DEMO, "--adapter", same, "--quant", "f32")[-1]
    assert f32["backbone"] != daemon.describe("f")["backbone"]["digest"]
    assert f32["adapter"] != first


def test_logs_and_metrics_name_adapters_by_content(daemon):
    lines = [deploy(daemon, "f", ADAPTERS / name) for name in NAMES[:2]]
    greedy(daemon, "f", tokens=3)
    metrics = [m for m in httpx.get(daemon.url + "/metrics").text.splitlines() if '"f"' in m]
    assert metrics
    for m in metrics:
        labels = dict(re.findall(r'(\w+)="([^"]*)"', m))
        line = lines[int(labels["generation"]) - 1]
        assert labels["adapter"] == line["adapter"] and labels["backbone"] == line["backbone"]
    status = daemon.status()
    bound = [f for w in status["workers"] for f in w["functions"]]
    assert bound == [{"name": "f", "generation": 2, "adapter": lines[1]["adapter"]}]
    assert status["workers"][0]["backbone"] == lines[1]["backbone"]
    model = httpx.get(daemon.url + "/v1/models/f").json()
    assert model["adapter"] == lines[1]["adapter"] and model["generation"] == 2
    daemon.ok("rm", "f")
    named = [line for line in daemon.log.read_text().splitlines() if "function=" in line]
    assert any(" removed " in line for line in named)
    for line in named:
        generation = int(re.search(r"generation=(\d+)", line).group(1))
        assert f"adapter={lines[generation - 1]['adapter'][:12]} " in line, line
        assert f"backbone={lines[generation - 1]['backbone'][:12]} " in line, line


def test_metrics_show_a_generation_until_it_has_finished(daemon):
    daemon.deploy("f", DEMO)
    stream = daemon.client().completions.create(model="f", prompt="The", max_tokens=900, seed=1,
                                                temperature=1.5, stream=True,
                                                extra_body={"ignore_eos": True})
    chunks = iter(stream)
    next(chunks)
    daemon.deploy("f", DEMO)

    def generations():
        return set(re.findall(r'sllora_requests_total{model_name="f",.*?generation="(\d+)"',
                              httpx.get(daemon.url + "/metrics").text))

    assert generations() == {"1", "2"}
    assert list(chunks)[-1].choices[0].finish_reason
    wait_for(lambda: generations() == {"2"}, "the old generation is forgotten")


def test_failed_bind_names_the_adapter_by_content(daemon_with):
    d = daemon_with("--keep-alive", 0.1, "--no-preload")
    line = deploy(d, "f", ADAPTERS / NAMES[0])
    image = d.data / "images" / (line["adapter"] + ".image")
    image.chmod(0o644)
    data = bytearray(image.read_bytes())
    data[-100] ^= 1
    image.write_bytes(data)
    with pytest.raises(openai.InternalServerError):
        greedy(d, "f")
    wanted = f"adapter={line['adapter'][:12]} function=f refused: the image is damaged"
    wait_for(lambda: wanted in d.log.read_text(), "the log says which adapter it was")


# --- generations ---

def test_requests_in_flight_finish_on_their_generation(daemon):
    client = daemon.client()
    ask = {"prompt": "The king", "max_tokens": 300, "temperature": 0}
    texts = []
    for name in NAMES[:2]:
        daemon.deploy("reference", DEMO, ADAPTERS / name)
        texts.append(client.completions.create(model="reference", **ask).choices[0].text)
    assert texts[0] != texts[1]
    daemon.deploy("f", DEMO, ADAPTERS / NAMES[0])
    stream = iter(client.completions.create(model="f", stream=True, **ask))
    began = next(stream).choices[0].text
    daemon.deploy("f", DEMO, ADAPTERS / NAMES[1])
    assert daemon.describe("f")["generation"] == 2
    assert client.completions.create(model="f", **ask).choices[0].text == texts[1]
    assert began + "".join(c.choices[0].text for c in stream) == texts[0]


def test_failed_redeploy_leaves_the_old_generation_serving(daemon, tmp_path):
    first = deploy(daemon, "f", ADAPTERS / NAMES[0])
    answer = greedy(daemon, "f")
    adapter = copy_adapter(tmp_path, NAMES[1])
    data = (adapter / MODEL_FILE).read_bytes()
    (adapter / MODEL_FILE).write_bytes(data[:len(data) // 2])
    done = daemon.cli("deploy", "f", "--backbone", DEMO, "--adapter", adapter)
    assert done.returncode == 1 and MODEL_FILE in done.stderr, done
    after = daemon.describe("f")
    assert after["generation"] == 1 and after["adapter"]["digest"] == first["adapter"]
    assert greedy(daemon, "f") == answer
    # A failure costs no generation.
    assert deploy(daemon, "f", ADAPTERS / NAMES[1])["generation"] == 2
    assert greedy(daemon, "f") != answer


def test_compare_and_set(daemon):
    def attempt(generation, adapter=NAMES[0]):
        return daemon.cli("deploy", "f", "--backbone", DEMO, "--adapter", ADAPTERS / adapter,
                          "--if-generation", generation, "--json")

    done = attempt(1)
    assert done.returncode == 1 and "does not exist" in done.stderr, done
    assert json.loads(attempt(0).stdout.splitlines()[-1])["generation"] == 1
    done = attempt(0, NAMES[1])
    assert done.returncode == 1 and "exists already" in done.stderr, done
    done = attempt(7, NAMES[1])
    assert done.returncode == 1 and "generation 1, not 7" in done.stderr, done
    assert daemon.describe("f")["generation"] == 1
    assert json.loads(attempt(1, NAMES[1]).stdout.splitlines()[-1])["generation"] == 2
    assert attempt(1).returncode == 1
    daemon.ok("rm", "f")
    assert attempt(2).returncode == 1
    assert json.loads(attempt(0).stdout.splitlines()[-1])["generation"] == 3
    assert daemon.cli("deploy", "f", "--backbone", DEMO, "--if-generation", "x").returncode == 2


def test_of_two_that_compare_one_sets(daemon):
    daemon.deploy("f", DEMO)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda name: daemon.cli(
            "deploy", "f", "--backbone", DEMO, "--adapter", ADAPTERS / name, "--if-generation", 1),
            NAMES[:3]))
    assert sorted(r.returncode for r in done) == [0, 1, 1], done
    assert all("generation 2, not 1" in r.stderr for r in done if r.returncode), done
    assert daemon.describe("f")["generation"] == 2


def test_compare_and_set_through_the_admin_api(daemon):
    daemon.deploy("f", DEMO)
    transport = httpx.HTTPTransport(uds=str(daemon.data / "admin.sock"))
    with httpx.Client(transport=transport, base_url="http://localhost") as http:
        def post(**more):
            return http.post("/admin/functions", json={"name": "f", "backbone": str(DEMO), **more})

        answer = post(if_generation=4)
        assert answer.status_code == 409 and answer.headers["x-should-retry"] == "false"
        error = answer.json()["error"]
        assert error["code"] == "generation_mismatch" and "generation 1, not 4" in error["message"]
        answer = post(if_generation=1)
        assert answer.status_code == 200
        assert json.loads(answer.text.splitlines()[-1])["generation"] == 2
        for bad in ({"if_generation": -1}, {"if_generation": "1"}, {"allow_noop": 1}):
            answer = post(**bad)
            assert answer.status_code == 400 and next(iter(bad)) in answer.text


# --- vLLM's endpoints ---

class Loader:
    def __init__(self, d, root):
        self.daemon = d
        self.root = root

    def load(self, name, path, **more):
        return httpx.post(self.daemon.url + "/v1/load_lora_adapter", timeout=60,
                          json={"lora_name": name, "lora_path": str(path), **more})

    def unload(self, name):
        return httpx.post(self.daemon.url + "/v1/unload_lora_adapter", json={"lora_name": name})

    def list(self):
        answer = httpx.get(self.daemon.url + "/v1/lora_adapters")
        assert answer.status_code == 200
        return {a["name"]: a for a in answer.json()["data"]}


@pytest.fixture
def loader(daemon_with, tmp_path):
    """A daemon with one backbone, and a root with every adapter of the demo."""
    root = tmp_path / "root"
    shutil.copytree(ADAPTERS, root)
    d = daemon_with("--lora-root", root)
    d.deploy("base", DEMO)
    return Loader(d, root)


def refused(answer, status, word, code=None):
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and word in error["message"], error
    assert code is None or error["code"] == code, error


def test_clients_load_nothing_without_a_root(daemon):
    daemon.deploy("base", DEMO)
    nowhere = Loader(daemon, None)
    for answer in (nowhere.load("a", ADAPTERS / NAMES[0]), nowhere.unload("base"),
                   httpx.get(daemon.url + "/v1/lora_adapters")):
        refused(answer, 403, "--lora-root", "lora_loading_disabled")
    assert [f["name"] for f in daemon.json("ls")] == ["base"]


def test_loaded_ones_are_as_exact_as_their_backbone(daemon_with):
    d = daemon_with("--lora-root", ADAPTERS)
    d.deploy("base", DEMO, quant="f32")
    assert Loader(d, ADAPTERS).load("a", NAMES[0]).status_code == 200
    assert d.describe("a")["certificate"]["dtype"] == "f32"


def test_load_list_use_and_unload(loader):
    d = loader.daemon
    answer = loader.load("a", NAMES[0], is_3d_lora_weight=False)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text == "Success: LoRA adapter 'a' added successfully."
    assert loader.load("b", loader.root / NAMES[1]).status_code == 200
    assert greedy(d, "a") != greedy(d, "b")
    seen = d.describe("a")
    config = json.loads((loader.root / NAMES[0] / "adapter_config.json").read_text())
    assert loader.list()["a"] == {
        "name": "a", "digest": seen["adapter"]["digest"], "generation": 1, "rank": config["r"],
        "backbone": {"name": "demo", "digest": seen["backbone"]["digest"]}}
    assert str(loader.root) not in json.dumps(loader.list())
    # It is a deploy like every other: the same image, the same certificate, after a restart too.
    assert deploy(d, "c", ADAPTERS / NAMES[0])["certificate"] == seen["certificate"]
    d.kill()
    d.start()
    assert sorted(loader.list()) == ["a", "b"]
    answer = loader.unload("a")
    assert answer.status_code == 200
    assert answer.text == "Success: LoRA adapter 'a' removed successfully."
    assert sorted(loader.list()) == ["b"]
    with pytest.raises(openai.NotFoundError):
        greedy(d, "a")
    refused(loader.unload("a"), 404, "'a' cannot be found", "lora_adapter_not_found")


def test_load_in_place_is_a_generation(loader):
    d = loader.daemon
    assert loader.load("a", NAMES[0], load_inplace=True).status_code == 200
    first = loader.list()["a"]
    answer = greedy(d, "a")
    refused(loader.load("a", NAMES[1]), 400, "has already been loaded",
            "lora_adapter_already_loaded")
    assert loader.list()["a"] == first
    assert loader.load("a", NAMES[1], load_inplace=True).status_code == 200
    second = loader.list()["a"]
    assert second["generation"] == 2 and second["digest"] != first["digest"]
    assert greedy(d, "a") != answer


def test_bad_loads(loader, tmp_path):
    post = lambda body: httpx.post(loader.daemon.url + "/v1/load_lora_adapter", content=body)
    for body in ('{"lora_name": "a"}', '{"lora_path": "x"}', "{}", "[]", "",
                 '{"lora_name": "", "lora_path": "x"}', '{"lora_name": 1, "lora_path": "x"}',
                 '{"lora_name": "a", "lora_path": "x\\u0000y"}'):
        refused(post(body), 400, "Both 'lora_name' and 'lora_path' must be provided.")
    answer = httpx.post(loader.daemon.url + "/v1/unload_lora_adapter", json={})
    refused(answer, 400, "'lora_name' needs to be provided")
    refused(post("{"), 400, "")
    refused(loader.load("a", NAMES[0], load_inplace=1), 400, "load_inplace")
    refused(loader.load("a", NAMES[0], base_model_name=1), 400, "base_model_name")
    refused(loader.load("../x", NAMES[0]), 400, "lora_name", "invalid_name")
    refused(loader.load("a", "nothing"), 404, "nothing", "lora_adapter_not_found")
    refused(loader.load("a", NAMES[0] + "/" + MODEL_FILE), 400, "Not a directory")
    (loader.root / "empty").mkdir()
    refused(loader.load("a", "empty"), 404, "no model files", "lora_adapter_not_found")
    fill_b(loader.root / NAMES[0], 0)
    refused(loader.load("a", NAMES[0]), 400, "changes nothing", "lora_load_failed")
    fill_b(loader.root / NAMES[0], 1e38)
    refused(loader.load("a", NAMES[0]), 400, "not finite", "lora_load_failed")
    # What served before goes on.
    assert loader.load("b", NAMES[1]).status_code == 200
    before = loader.list()["b"]
    refused(loader.load("b", NAMES[0], load_inplace=True), 400, "not finite")
    assert loader.list() == {"b": before}


def test_paths_stay_below_the_roots(loader, tmp_path):
    root = loader.root
    outside = tmp_path / "outside"
    shutil.copytree(ADAPTERS / NAMES[0], outside)
    shutil.copytree(ADAPTERS / NAMES[0], tmp_path / "root-not")
    (root / "link-out").symlink_to("../outside")
    (root / "link-absolute").symlink_to(root / NAMES[0])
    (root / "link-in").symlink_to(NAMES[0])
    for path in ("../outside", f"{NAMES[0]}/../../outside", root / ".." / "outside", outside,
                 tmp_path / "root-not", "/", "/proc/self/cwd", "link-out", root / "link-out",
                 "link-absolute"):
        refused(loader.load("a", path), 403, "", "adapter_path_forbidden")
    # A directory inside whose file leads out.
    shutil.copytree(ADAPTERS / NAMES[0], root / "half")
    (root / "half" / MODEL_FILE).unlink()
    (root / "half" / MODEL_FILE).symlink_to(outside / MODEL_FILE)
    refused(loader.load("a", "half"), 403, "leads out", "adapter_path_forbidden")
    assert loader.list() == {}
    # Links that stay inside are followed: the cache of Hugging Face's hub is made of them.
    (root / "half" / MODEL_FILE).unlink()
    (root / "half" / MODEL_FILE).symlink_to(f"../{NAMES[0]}/{MODEL_FILE}")
    assert loader.load("a", "half").status_code == 200
    assert loader.load("b", "link-in").status_code == 200
    assert loader.list()["a"]["digest"] == loader.list()["b"]["digest"]


def test_which_backbone(loader, daemon_with):
    d = loader.daemon
    d.deploy("other", PARITY / "llama-mha")
    refused(loader.load("a", NAMES[0]), 400, "'base_model_name'")
    refused(loader.load("a", NAMES[0], base_model_name="nobody"), 404, "nobody")
    refused(loader.load("a", NAMES[0], base_model_name="other"), 400, "")  # does not fit it
    digest = d.describe("base")["backbone"]["digest"]
    for i, base in enumerate(("base", "demo", digest)):
        assert loader.load(f"a{i}", NAMES[0], base_model_name=base).status_code == 200
    assert {a["backbone"]["digest"] for a in loader.list().values()} == {digest}
    d.deploy("twin", DEMO, quant="f32")
    refused(loader.load("b", NAMES[0], base_model_name="demo"), 400, "digest")
    empty = Loader(daemon_with("--lora-root", loader.root), loader.root)
    refused(empty.load("a", NAMES[0]), 404, "no backbone is deployed")


def test_clients_do_not_touch_what_the_operator_deployed(loader):
    d = loader.daemon
    d.deploy("mine", DEMO, ADAPTERS / NAMES[0])
    for name in ("mine", "base"):
        before = d.describe(name)["generation"]
        refused(loader.load(name, NAMES[1], load_inplace=True), 403, name, "name_taken")
        refused(loader.unload(name), 404, name)
        assert d.describe(name)["generation"] == before
    assert loader.list() == {}
    assert loader.load("theirs", NAMES[0]).status_code == 200
    greedy(d, "mine", tokens=1)
    greedy(d, "theirs", tokens=1)
    assert d.describe("mine")["pid"] != d.describe("theirs")["pid"]


def test_bad_roots_stop_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    for root in ("nothing", "file"):
        d = Daemon(tmp_path / "data", "--lora-root", tmp_path / root)
        with pytest.raises(RuntimeError, match="--lora-root"):
            d.start()
