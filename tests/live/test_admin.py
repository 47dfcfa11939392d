"""The admin views as JSON: what is in each, that they agree with one another, and what is refused."""
import httpx
import pytest

from conftest import wait_for


@pytest.fixture(scope="module")
def admin(demo):
    for name in demo.names:
        demo.client().completions.create(model=name, prompt="The king", max_tokens=5)
    transport = httpx.HTTPTransport(uds=str(demo.data / "admin.sock"))
    with httpx.Client(transport=transport, base_url="http://sllora") as http:
        yield http


def get(admin, path):
    answer = admin.get("/admin/" + path)
    assert answer.status_code == 200, answer.text
    return answer.json()


def whole(value, least=0):
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


def test_status(demo, admin):
    s = get(admin, "status")
    assert s["pid"] == demo.process.pid and s["port"] == demo.port
    for key in ("uptime_s", "requests_waiting", "requests_running", "spares", "objectives_met",
                "objectives_missed", "memory_bytes", "memory_budget_bytes"):
        assert whole(s[key]), (key, s[key])
    assert s["objectives_met"] + s["objectives_missed"] >= len(demo.names)
    assert number(s["cost_usd"]) and s["cost_usd"] > 0
    assert 0 < s["ttft_ms_p50"] <= s["ttft_ms_p95"]
    device, = s["devices"]
    memory = device["memory"]
    assert set(memory) == {"backbones", "adapters", "processes", "kv"}
    assert sum(memory.values()) == device["used_bytes"] == s["memory_bytes"]
    assert device["used_bytes"] <= device["budget_bytes"] == s["memory_budget_bytes"]
    assert device["workers"] == len(s["workers"])
    assert sum(w["state"] == "spare" for w in s["workers"]) == s["spares"]
    for w in s["workers"]:
        assert w["state"] in ("starting", "spare", "serving", "ending") and whole(w["pid"], 1)
        assert w["kv_bytes"] <= w["kv_granted_bytes"] <= w["bytes"]
        assert bool(w["functions"]) <= (w["state"] in ("serving", "ending"))
    backbone, = s["backbones"]
    assert backbone["name"] == "demo" and backbone["functions"] == len(demo.names) + 1
    assert {w["backbone"] for w in s["workers"]} == {backbone["digest"]}
    assert memory["backbones"] == backbone["bytes"] and backbone["resident"] is True


def test_functions_and_each(demo, admin):
    listed = {f["name"]: f for f in get(admin, "functions")["functions"]}
    assert sorted(listed) == sorted(demo.names + ["bare"])
    for name, f in listed.items():
        alone = get(admin, "functions/" + name)
        assert set(f) <= set(alone)
        assert all(alone[key] == f[key] for key in ("name", "owner", "isolation", "generation",
                                                    "created", "backbone", "adapter"))
        assert set(alone) - set(f) == {"forecast", "cost_model", "objectives",
                                       "owner_requests_max", "certificate"}
        assert f["state"] in ("cold", "staged", "spare", "starting", "idle", "warm", "active")
        assert (f["adapter"] is None) == (name == "bare") == (alone["certificate"] is None)
        totals = alone["totals"]
        assert totals["requests"] == (0 if name == "bare" else 1) and totals["failures"] == 0
        assert totals["completion_tokens"] <= 5 * totals["requests"]
        assert all(number(totals[key]) for key in ("device_ms", "gb_s", "cost_usd", "cold_starts"))
        assert alone["objectives"]["met"] + alone["objectives"]["missed"] == totals["requests"]


def test_plan(admin):
    plan = get(admin, "plan")
    place, = plan["places"]
    assert plan["preloading"] is True and place["used_bytes"] <= place["budget_bytes"]
    assert place["items_count"] == len(place["items"]) > 0
    for item in place["items"]:
        assert item["kind"] in ("backbone", "adapter", "spare") and item["name"]
        assert all(isinstance(item[key], bool) for key in ("present", "in_use", "chosen"))
        assert all(number(item[key]) for key in ("bytes", "saves_ms", "value_ms_per_s"))
        if item["bytes"]:
            density = item["value_ms_per_s"] / item["bytes"] * 2**30
            assert item["density_ms_per_s_gib"] == pytest.approx(density, rel=1e-6)


def test_usage(demo, admin):
    before = get(admin, "usage")
    demo.client().completions.create(model=demo.names[0], prompt="The", max_tokens=3)
    after = get(admin, "usage")
    assert after["requests"] == before["requests"] + 1
    for key in ("device_us", "active_byte_s", "total_byte_s", "cost_usd"):
        assert after[key] > before[key], key
    wait_for(lambda: get(admin, "usage")["total_byte_s"] > after["total_byte_s"], "memory is held")
    assert get(admin, "usage")["device_us"] == after["device_us"]


def test_logs_go_on_where_they_ended(demo, admin):
    name = demo.names[0]
    lines = get(admin, "logs/" + name)["lines"]
    assert lines and [x["number"] for x in lines] == sorted({x["number"] for x in lines})
    rest = get(admin, f"logs/{name}/{lines[1]['number']}")["lines"]
    assert rest[:len(lines) - 1] == lines[1:]
    assert get(admin, f"logs/{name}/{10**18}")["lines"] == []


@pytest.mark.parametrize("method,path", [
    ("GET", "nothing"), ("GET", "functions/nobody"), ("GET", "functions/"), ("GET", "logs/nobody"),
    ("GET", "logs/" + "x" * 65), ("GET", "logs/.hidden"), ("DELETE", "functions/nobody"),
    ("DELETE", "functions"), ("POST", "status"), ("DELETE", "status"), ("GET", "owners/acme"),
    ("PUT", "functions/nobody")])
def test_what_is_not_there(admin, method, path):
    answer = admin.request(method, "/admin/" + path, json={} if method == "POST" else None)
    assert answer.status_code in (404, 405), answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("owner,body", [
    ("acme", {}), ("acme", {"requests": -1}), ("acme", {"requests": "9"}),
    ("acme", {"requests": 1.5}), ("acme", {"requests": True}), ("acme", {"requests": 10**9}),
    ("acme", {"requests": None}), (".hidden", {"requests": 1}), ("x" * 65, {"requests": 1})])
def test_limits_that_are_none(demo, admin, owner, body):
    answer = admin.post("/admin/owners/" + owner, json=body)
    assert answer.status_code == 400, answer.text
    assert "an owner's limit is" in answer.json()["error"]["message"]
    assert demo.describe("bare")["owner_requests_max"] > 1000
