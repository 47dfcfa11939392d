"""Every parameter of a request does what its field's definition says, and what is not done is refused by name."""
import concurrent.futures
import json
import math

import httpx
import openai
import pytest

from conftest import ADAPTERS, DEMO, PARITY, wait_for

EOS, USER = 4091, 4092  # special tokens of the demo backbone


def complete(d, model="bare", prompt="In the beginning", **more):
    more.setdefault("max_tokens", 12)
    more.setdefault("temperature", 0)
    return d.client().completions.create(model=model, prompt=prompt, **more)


def text(d, **more):
    return complete(d, **more).choices[0].text


def chat(d, model, question="What is a king?", **more):
    more.setdefault("max_tokens", 24)
    more.setdefault("temperature", 0)
    return d.client().chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], **more)


def post(d, path="/v1/completions", **fields):
    fields.setdefault("max_tokens", 4)
    fields.setdefault("temperature", 0)
    if path == "/v1/completions":
        fields.setdefault("prompt", "In the beginning")
    else:
        fields.setdefault("messages", [{"role": "user", "content": "What is a king?"}])
    return httpx.post(d.url + path, json=fields, timeout=60)


def refused(answer, param, status=400):
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["param"] == param and error["message"], error
    return error


# --- the names of a function ---


def test_every_name_of_a_function_means_it(demo):
    name = demo.names[0]
    expected = post(demo, model=name).json()["choices"][0]["text"]
    assert expected != post(demo, model="bare").json()["choices"][0]["text"]
    ways = [
        {"model": f"demo:{name}"},
        {"adapter_id": name},
        {"adapter_id": name, "model": ""},
        {"adapter_id": name, "model": None},
        {"adapter_id": name, "model": "demo"},
        {"adapter_id": name, "model": name},
        {"adapter_id": f"demo:{name}", "model": f"demo:{name}"},
        {"lora": [{"id": name, "scale": 1}]},
        {"lora": [{"id": name, "scale": 1.0}], "model": "demo"},
        {"lora": [{"id": name, "scale": 1}], "adapter_id": name},
    ]
    for way in ways:
        answer = post(demo, **way)
        assert answer.status_code == 200, (way, answer.text)
        assert answer.json()["choices"][0]["text"] == expected, way
        assert answer.json()["model"] == (way.get("model") or name)
    assert chat(demo, f"demo:{name}").choices[0].message == chat(demo, name).choices[0].message


def test_names_that_do_not_agree_are_refused(demo):
    a, b = demo.names[:2]
    refused(post(demo, model=b, adapter_id=a), "model")
    refused(post(demo, model="nobody", adapter_id=a), "model")
    refused(post(demo, model=b, lora=[{"id": a, "scale": 1}]), "model")
    refused(post(demo, adapter_id=a, lora=[{"id": b, "scale": 1}]), "lora[0].id")
    refused(post(demo, adapter_id="nobody"), "adapter_id", 404)
    refused(post(demo, lora=[{"id": "nobody", "scale": 1}]), "lora[0].id", 404)
    refused(post(demo, lora=[{"id": 0, "scale": 1}]), "lora[0].id")
    refused(post(demo, lora=[{"id": a, "scale": 1.5}]), "lora[0].scale")
    refused(post(demo, lora=[{"id": a, "scale": 1}, {"id": b, "scale": 1}]), "lora")
    refused(post(demo), "model")
    for model in ("other:" + a, "demo:nobody", "demo:", ":" + a, "demo"):
        error = refused(post(demo, model=model), "model", 404)
        assert error["code"] == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        chat(demo, "other:" + a)


def test_scale_zero_is_the_bare_backbone(demo):
    bare = text(demo, model="bare")
    assert text(demo, model=demo.names[0]) != bare
    assert post(demo, lora=[{"id": demo.names[0], "scale": 0}],
                max_tokens=12).json()["choices"][0]["text"] == bare


def test_scale_between_is_between(demo):
    def logprobs(**who):
        answer = post(demo, **who, max_tokens=0, echo=True, logprobs=0).json()
        return answer["choices"][0]["logprobs"]["token_logprobs"][1:]

    def apart(a, b):
        return sum(abs(x - y) for x, y in zip(a, b, strict=True))

    name = demo.names[0]
    bare, whole = logprobs(model="bare"), logprobs(model=name)
    half, most = (logprobs(lora=[{"id": name, "scale": s}]) for s in (0.5, 0.9))
    assert 0 < apart(half, bare) and 0 < apart(most, whole) < apart(half, whole)
    # In one batch with other scales of the same adapter, each as alone.
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda s: logprobs(lora=[{"id": name, "scale": s}]), [0.5, 0.9] * 4))
    assert got == [half, most] * 4


def test_scale_of_what_is_more_than_lora_is_refused(daemon):
    case = PARITY / "tinyllama"
    for adapter in ("dora", "save-norms"):
        daemon.deploy(adapter, case, case / "adapters" / adapter, quant="f32")
        common = dict(prompt=[1, 2, 3])
        whole = post(daemon, lora=[{"id": adapter, "scale": 1}], **common)
        assert whole.status_code == 200, whole.text
        assert whole.json()["choices"] == post(daemon, model=adapter, **common).json()["choices"]
        refused(post(daemon, lora=[{"id": adapter, "scale": 0.5}], **common), "lora[0].scale")


# --- sampling ---


def test_temperature_and_filters(demo):
    greedy = text(demo)
    hot = {text(demo, temperature=1.5, seed=s) for s in range(5)}
    assert len(hot) > 3
    for filters in ({"top_p": 1e-6}, {"extra_body": {"top_k": 1}},
                    {"extra_body": {"min_p": 0.999}}):
        assert text(demo, temperature=1.5, seed=1, **filters) == greedy, filters
    assert text(demo, temperature=1.5, seed=1, extra_body={"top_k": 5}) != greedy


def test_presence_and_frequency_penalty(demo):
    def tokens(**more):
        answer = complete(demo, prompt="the the the the", max_tokens=60, logprobs=0,
                          extra_body={"ignore_eos": True}, **more)
        return answer.choices[0].logprobs.tokens

    plain = tokens()
    assert len(plain) == 60
    for penalty in ("presence_penalty", "frequency_penalty"):
        assert len(set(tokens(**{penalty: 2}))) > len(set(plain)), penalty
        assert len(set(tokens(**{penalty: -2}))) < len(set(tokens(**{penalty: 2}))), penalty


def test_repetition_penalty(demo):
    def tokens(penalty):
        return complete(demo, max_tokens=60, logprobs=0, extra_body={
            "ignore_eos": True, "repetition_penalty": penalty}).choices[0].logprobs.tokens

    assert tokens(1) == complete(demo, max_tokens=60, logprobs=0,
                                 extra_body={"ignore_eos": True}).choices[0].logprobs.tokens
    assert len(set(tokens(50))) == 60 > len(set(tokens(1)))


def test_logit_bias(demo):
    plain = complete(demo, logprobs=3)
    biased = complete(demo, logprobs=3, max_tokens=1, logit_bias={"77": 100})
    only = biased.choices[0].logprobs
    # The model's own log-probabilities are told: the token drawn was far from likely.
    assert only.token_logprobs[0] < min(plain.choices[0].logprobs.top_logprobs[0].values())
    for token, p in plain.choices[0].logprobs.top_logprobs[0].items():
        assert only.top_logprobs[0][token] == p
    # A bias of -100 on what was drawn gives something else.
    forced = complete(demo, max_tokens=1, logit_bias={"77": 100, "78": 99}).choices[0].text
    assert complete(demo, max_tokens=1,
                    logit_bias={"77": -100, "78": 99}).choices[0].text != forced
    refused(post(demo, model="bare", logit_bias={"4096": 1}), "logit_bias")
    refused(post(demo, model="bare", logit_bias={"1": 101}), "logit_bias")
    refused(post(demo, model="bare", logit_bias={str(i): 1 for i in range(301)}), "logit_bias")
    assert post(demo, model="bare", logit_bias={str(i): 1 for i in range(300)}).status_code == 200


def test_seed_reproduces_under_load(demo):
    """The same requests alone, and all at once with requests of another function."""
    functions = demo.names[:2]  # of one owner: they share a process and its batches
    jobs = [dict(model=f, temperature=1.1, top_p=0.95, seed=s, max_tokens=40, n=1 + s % 2,
                 frequency_penalty=0.5, extra_body={"top_k": 200})
            for f in functions for s in range(6)]
    alone = [[c.text for c in complete(demo, **j).choices] for j in jobs]
    assert len({tuple(a) for a in alone}) == len(alone)
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        load = [pool.submit(complete, demo, model=functions[i % 2], temperature=1.3, max_tokens=80)
                for i in range(12)]
        together = list(pool.map(lambda j: [c.text for c in complete(demo, **j).choices], jobs))
        concurrent.futures.wait(load)
    assert together == alone


# --- length and ends ---


def test_max_tokens_by_both_names(demo):
    body = {"ignore_eos": True}
    for key in ("max_tokens", "max_completion_tokens"):
        answer = demo.client().chat.completions.create(
            model="bare", messages=[{"role": "user", "content": "x"}], extra_body=body, **{key: 7})
        assert answer.usage.completion_tokens == 7
        assert answer.choices[0].finish_reason == "length"
    refused(post(demo, "/v1/chat/completions", model="bare", max_tokens=3,
                 max_completion_tokens=3), "max_completion_tokens")


def test_stop_token_ids_min_tokens_and_ignore_eos(demo):
    ended = complete(demo, logit_bias={EOS: 100})
    assert ended.usage.completion_tokens == 1 and ended.choices[0].finish_reason == "stop"
    assert ended.choices[0].text == ""
    on = complete(demo, logit_bias={EOS: 100}, extra_body={"ignore_eos": True})
    assert on.usage.completion_tokens == 12 and on.choices[0].finish_reason == "length"
    later = complete(demo, logit_bias={EOS: 100}, extra_body={"min_tokens": 5})
    assert later.usage.completion_tokens == 6 and later.choices[0].finish_reason == "stop"
    assert later.choices[0].text == text(demo, max_tokens=5)
    other = complete(demo, logit_bias={77: 100}, extra_body={"stop_token_ids": [5, 77]})
    assert other.usage.completion_tokens == 1 and other.choices[0].finish_reason == "stop"
    assert other.choices[0].text == ""
    other = complete(demo, logit_bias={77: 100},
                     extra_body={"stop_token_ids": [77], "min_tokens": 3})
    assert other.usage.completion_tokens == 4
    refused(post(demo, model="bare", stop_token_ids=[4096]), "stop_token_ids")
    refused(post(demo, model="bare", min_tokens=5, max_tokens=4), "min_tokens")


def test_stop_strings_of_any_kind(demo):
    whole = text(demo, max_tokens=40)
    pieces = complete(demo, max_tokens=40, logprobs=0).choices[0].logprobs.tokens
    # Every string that begins in one token and ends in the next, as the last of four.
    at = 0
    for left, right in zip(pieces[:10], pieces[1:11], strict=True):
        at += len(left)
        stop = whole[at - 1:at + 1]
        answer = complete(demo, max_tokens=40, stop=["\0", "no such", "\uffff", stop])
        assert answer.choices[0].text == whole[:whole.index(stop)]
        assert answer.choices[0].finish_reason == "stop"
    assert text(demo, max_tokens=40, stop="no such text") == whole
    with pytest.raises(openai.BadRequestError) as e:
        complete(demo, stop=["a", "b", "c", "d", "e"])
    assert e.value.param == "stop"
    # Text of the first min_tokens tokens ends nothing.
    stop = pieces[0]
    answer = complete(demo, max_tokens=40, stop=[stop], extra_body={"min_tokens": 20})
    assert answer.usage.completion_tokens > 20
    assert answer.choices[0].text.startswith("".join(pieces[:19]))


def test_stop_strings_in_each_choice(demo):
    common = dict(model=demo.names[0], temperature=1.2, seed=4, max_tokens=60, n=4)
    whole = [c.text for c in complete(demo, **common).choices]
    stops = [w[len(w) // 2:len(w) // 2 + 3] for w in whole]

    def cut(w):
        at = [w.index(s) for s in stops if s in w]
        return w[:min(at)] if at else w

    for stream in (False, True):
        answer = complete(demo, **common, stop=stops, stream=stream)
        got = gather(answer)[0] if stream else [c.text for c in answer.choices]
        assert got == [cut(w) for w in whole]


# --- several choices ---


def gather(stream):
    """The choices' texts and ends, whatever their order in the stream, and the last usage."""
    texts, reasons, usage = {}, {}, None
    for chunk in stream:
        usage = chunk.usage or usage
        for c in chunk.choices:
            assert c.index not in reasons
            piece = c.delta.content or "" if hasattr(c, "delta") else c.text
            texts[c.index] = texts.get(c.index, "") + piece
            if c.finish_reason:
                reasons[c.index] = c.finish_reason
    assert set(texts) == set(reasons)
    return [texts[i] for i in sorted(texts)], [reasons[i] for i in sorted(texts)], usage


def test_three_choices(demo):
    name = demo.names[0]
    ask = dict(n=3, temperature=1, seed=9, max_tokens=30)
    whole = chat(demo, name, **ask)
    assert [c.index for c in whole.choices] == [0, 1, 2]
    texts = [c.message.content for c in whole.choices]
    assert len(set(texts)) == 3
    one = chat(demo, name, **{**ask, "n": 1})
    assert one.choices[0].message.content == texts[0]
    assert whole.usage.prompt_tokens == one.usage.prompt_tokens
    assert one.usage.completion_tokens < whole.usage.completion_tokens <= 90
    streamed = gather(chat(demo, name, **ask, stream=True, stream_options={"include_usage": True}))
    assert streamed == (texts, [c.finish_reason for c in whole.choices], whole.usage)
    roles = [c.choices[0].index for c in chat(demo, name, **ask, stream=True)
             if c.choices[0].delta.role]
    assert sorted(roles) == [0, 1, 2]


def test_choices_interleave_in_a_stream(demo):
    order = [c.choices[0].index for c in complete(demo, n=3, max_tokens=40, temperature=1, seed=1,
                                                  stream=True, extra_body={"ignore_eos": True})]
    assert order != sorted(order)


def test_echo_and_logprobs_of_every_choice(demo):
    answer = complete(demo, n=2, temperature=1, seed=3, echo=True, logprobs=2, max_tokens=6,
                      extra_body={"ignore_eos": True})
    n_prompt = answer.usage.prompt_tokens
    first, second = answer.choices
    for c in answer.choices:
        assert c.text.startswith("In the beginning")
        assert len(c.logprobs.tokens) == n_prompt + 6
        assert c.logprobs.token_logprobs[0] is None
        assert all(p <= 0 for p in c.logprobs.token_logprobs[1:])
        assert all(len(t) in (2, 3) for t in c.logprobs.top_logprobs[1:])
    assert first.logprobs.token_logprobs[1:n_prompt] == second.logprobs.token_logprobs[1:n_prompt]
    assert first.text != second.text
    bare = complete(demo, n=2, echo=True, max_tokens=0)
    assert [c.text for c in bare.choices] == ["In the beginning"] * 2
    assert bare.usage.completion_tokens == 0


def test_logprobs_of_a_chat(demo):
    answer = chat(demo, demo.names[0], logprobs=True, top_logprobs=4, max_tokens=8)
    content = answer.choices[0].logprobs.content
    assert "".join(t.token for t in content).strip() == answer.choices[0].message.content.strip()
    for t in content:
        assert len(t.top_logprobs) == 4
        assert t.top_logprobs[0].token == t.token  # greedy
        assert math.isclose(t.top_logprobs[0].logprob, t.logprob)
    refused(post(demo, "/v1/chat/completions", model="bare", top_logprobs=2), "top_logprobs")


def test_more_choices_than_sequences_wait_their_turn(daemon_with):
    d = daemon_with("--step-tokens", 64)
    d.deploy("f", DEMO)
    jobs = [dict(model="f", n=40, temperature=1, seed=s, max_tokens=10 + s,
                 extra_body={"ignore_eos": True}) for s in range(4)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda j: [c.text for c in complete(d, **j).choices], jobs))
    assert together == [[c.text for c in complete(d, **j).choices] for j in jobs]
    assert all(len(set(t)) > 30 for t in together)
    assert post(d, model="f", n=64, max_tokens=1).status_code == 200
    refused(post(d, model="f", n=65), "n")
    refused(post(d, model="f", n=0), "n")
    refused(post(d, model="f", n=2, best_of=3), "best_of")


def test_a_lost_client_ends_every_choice(demo):
    wait_for(lambda: demo.status()["requests_running"] == 0, "idle")
    with httpx.Client() as http:
        with http.stream("POST", demo.url + "/v1/completions",
                         json={"model": "bare", "prompt": "The", "max_tokens": 1000, "n": 8,
                               "temperature": 1.5, "ignore_eos": True, "stream": True}) as answer:
            next(answer.iter_bytes())
    wait_for(lambda: demo.status()["requests_running"] == 0, "the work of a lost client ends")
    assert len(complete(demo, n=64, max_tokens=1).choices) == 64  # no place was lost


# --- how it is told ---


def test_special_tokens_are_text_when_asked_for(demo):
    common = dict(max_tokens=3, logit_bias={USER: 100})
    assert text(demo, **common) == ""
    assert text(demo, **common, extra_body={"skip_special_tokens": False}) == "<|user|>" * 3


def test_usage_in_a_stream(demo):
    def chunks(**options):
        return list(complete(demo, n=2, temperature=1, seed=2, max_tokens=5, stream=True,
                             stream_options=options, extra_body={"ignore_eos": True}))

    plain = chunks(include_usage=True)
    assert all(c.usage is None for c in plain[:-1])
    assert plain[-1].choices == [] and plain[-1].usage.completion_tokens == 10
    so_far = chunks(include_usage=True, continuous_usage_stats=True)
    counts = [c.usage.completion_tokens for c in so_far]
    assert counts == sorted(counts) and counts[0] < counts[-1] == 10
    assert {c.usage.prompt_tokens for c in so_far} == {plain[-1].usage.prompt_tokens}
    assert all(c.usage is None for c in chunks(include_usage=False))


def test_what_is_not_supported_is_refused_by_name(demo):
    for path in ("/v1/completions", "/v1/chat/completions"):
        for field, value in (("response_format", {"type": "json_object"}), ("suffix", "x"),
                             ("best_of", 2), ("functions", [{"name": "f"}]), ("audio", {}),
                             ("use_beam_search", True), ("prompt_logprobs", 1), ("guided_json", {}),
                             ("merged_adapters", {}), ("lora_path", "x"), ("temperature", 2.5),
                             ("top_p", 0), ("top_k", -2), ("min_p", 1), ("presence_penalty", 3),
                             ("frequency_penalty", -3), ("repetition_penalty", 0),
                             ("seed", "x"), ("user", 5), ("ignore_eos", "yes"),
                             ("skip_special_tokens", 1), ("tool_choice", "required")):
            refused(post(demo, path, model="bare", **{field: value}), field)
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    refused(post(demo, "/v1/chat/completions", model="bare", tools=[tool]), "tools")
    refused(post(demo, model="bare", tools=[tool]), "tools")
    with pytest.raises(openai.BadRequestError) as e:
        chat(demo, "bare", response_format={"type": "json_object"})
    assert e.value.param == "response_format" and e.value.code is None


def test_prompt_ids_are_of_the_vocabulary(demo):
    assert post(demo, model="bare", prompt=[0, 4095]).status_code == 200
    refused(post(demo, model="bare", prompt=[0, 4096]), "prompt")


def test_unknown_fields_are_named_once(daemon):
    daemon.deploy("f", DEMO, ADAPTERS / sorted(p.name for p in ADAPTERS.iterdir() if p.is_dir())[0])
    for _ in range(3):
        assert post(daemon, model="f", user="me", never_heard_of=1,
                    **{"bad name\n\"x": None}).status_code == 200
        assert post(daemon, "/v1/chat/completions", model="f", store=True,
                    never_heard_of=2).status_code == 200
    log = daemon.log.read_text()
    assert log.count("field=never_heard_of ") == 1
    assert log.count("field=store ") == 1
    assert log.count("field=bad?name??x ") == 1
    assert "field=user" not in log and "field=prompt" not in log and "field=model" not in log
    # The set is bounded: a client that makes names up does not fill the log.
    for i in range(12):
        assert post(daemon, model="f", **{f"made_up_{i}_{n}": json.dumps(n)
                                          for n in range(8)}).status_code == 200
    assert daemon.log.read_text().count("unknown field=") == 64
