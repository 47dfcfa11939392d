#!/usr/bin/env python3
"""Writes tests/vectors/chat/{families,features}.json: templates, contexts and what transformers makes of them.

Run from the repository root with transformers and jinja2 installed. Every expected text comes out of transformers' own
compiled template; a case that raises keeps the message (`error`), whole where the template itself raised it or an undefined
value was used (`exact`), else only the fact.
"""

import datetime
import json
import pathlib

import jinja2
import transformers.utils.chat_template_utils as chat

from make_chat_templates import ALL
from make_chat_features import EXPRESSIONS, CONTEXT, REFUSED, TEMPLATES

OUT = pathlib.Path(__file__).parent / "chat"
NOW_S = 1721995321  # 26 Jul 2024, 12:02:01 UTC


class Fixed(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(NOW_S, datetime.timezone.utc).replace(tzinfo=None)


chat.datetime = Fixed


def render(template, context):
    try:
        return {"output": chat._compile_jinja_template(template).render(**context)}
    except (jinja2.exceptions.UndefinedError, jinja2.exceptions.TemplateError) as e:
        exact = type(e) in (jinja2.exceptions.UndefinedError, jinja2.exceptions.TemplateError)
        return {"error": str(e), "exact": exact}
    except Exception as e:
        return {"error": f"{type(e).__name__}: {e}", "exact": False}


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the weather at a place, in °C & \"plain\" words.\nTwo lines.",
            "parameters": {
                "type": "object",
                "properties": {
                    "place": {"type": "string", "description": "City, e.g. \"Zürich\""},
                    "days": {"type": "integer", "minimum": 1, "default": 1.5},
                    "exact": {"type": "boolean", "default": False, "enum": [True, False, None]},
                },
                "required": ["place"],
            },
            "return": {"type": "string"},
        },
    },
    {"type": "function", "function": {"name": "now", "description": "The time", "parameters": {"type": "object", "properties": {}}}},
]


def m(role, content, **more):
    return {"role": role, "content": content, **more}


CALL = {"id": "abcdefgh1", "type": "function", "function": {"name": "get_weather", "arguments": {"place": "Zürich 🏔", "days": 2}}}
CALL2 = {"id": "abcdefgh2", "type": "function", "function": {"name": "now", "arguments": {}}}
CHATS = {
    "user": [m("user", "Hello")],
    "system": [m("system", "  Be brief. \n"), m("user", "Hello there!")],
    "turns": [m("user", "Hi"), m("assistant", "  Hello! "), m("user", "What is 2+2?"), m("assistant", "4"), m("user", "\n\nThanks\n")],
    "system_turns": [m("system", "You <are> 'a' \"bot\" & co."), m("user", "Hi"), m("assistant", "Hello"), m("user", "Bye")],
    "ends_assistant": [m("user", "Hi"), m("assistant", "Hello")],
    "unicode": [m("system", "Réponds en français – « oui »"), m("user", "日本語 🙂👩‍👩‍👧 \u00a0\u2003"), m("assistant", "\u3000こんにちは\u2028"), m("user", "é\u0301\u200b")],
    "empty": [m("user", ""), m("assistant", ""), m("user", "")],
    "no_messages": [],
    "two_users": [m("user", "a"), m("user", "b")],
    "assistant_first": [m("assistant", "a"), m("user", "b")],
    "two_systems": [m("system", "one"), m("user", "a"), m("system", "two"), m("assistant", "b"), m("user", "c")],
    "unknown_role": [m("user", "a"), m("critic", "b"), m("user", "c")],
    "parts": [m("user", [{"type": "text", "text": "part one"}, {"type": "image", "image": "x"}])],
    "no_content": [m("user", "a"), {"role": "assistant"}, m("user", "c")],
    "null_content": [m("user", "a"), m("assistant", None), m("user", "c")],
    "tool_call": [m("user", "Weather?"), m("assistant", None, tool_calls=[CALL])],
    "tool_call_text": [m("user", "Weather?"), m("assistant", "Let me see.", tool_calls=[CALL])],
    "tool_call_empty": [m("system", "S"), m("user", "Weather?"), m("assistant", "", tool_calls=[CALL])],
    "tool_reply": [
        m("user", "Weather?"), m("assistant", "", tool_calls=[CALL]),
        m("tool", "{\"t\": 21.5}", tool_call_id="abcdefgh1", name="get_weather"),
    ],
    "tool_reply_answer": [
        m("system", "Tools!"), m("user", "Weather?"), m("assistant", "", tool_calls=[CALL]),
        m("tool", "sunny & \"hot\"", tool_call_id="abcdefgh1", name="get_weather"),
        m("assistant", "Sunny."), m("user", "Thanks"),
    ],
    "two_calls": [
        m("user", "Both"), m("assistant", "", tool_calls=[CALL, CALL2]),
        m("tool", "a", tool_call_id="abcdefgh1"), m("tool", "b", tool_call_id="abcdefgh2"),
    ],
    "tool_mapping": [m("user", "W"), m("assistant", "", tool_calls=[CALL]), m("tool", {"content": 7, "ok": True}, tool_call_id="abcdefgh1")],
    "short_id": [m("user", "W"), m("assistant", "", tool_calls=[{**CALL, "id": "x"}])],
    "thinking": [m("user", "a"), m("assistant", "<think>\nhmm\n</think>\n\nyes"), m("user", "b"), m("assistant", "<think>\n\nh2\n\n</think>\n\nno")],
    "reasoning": [m("user", "a"), m("assistant", "yes", reasoning_content="\nbecause\n")],
    "long": [m("user" if i % 2 == 0 else "assistant", f"turn {i} " * 20) for i in range(21)],
}
VARIANTS = {
    "prompt": {"add_generation_prompt": True},
    "plain": {"add_generation_prompt": False},
    "tools": {"add_generation_prompt": True, "tools": TOOLS},
}
EXTRA = {
    "llama3.1": {"builtin": {"add_generation_prompt": True, "builtin_tools": ["brave_search", "code_interpreter", "get_weather"]},
                 "system_tools": {"add_generation_prompt": True, "tools": TOOLS, "tools_in_user_message": False, "date_string": "1 Jan 2025"}},
    "qwen3": {"no_thinking": {"add_generation_prompt": True, "enable_thinking": False}},
}


def families():
    cases = []
    for family, template in ALL.items():
        tokens = {"bos_token": "<s>", "eos_token": "</s>"}
        for variant, values in {**VARIANTS, **EXTRA.get(family, {})}.items():
            for name in CHATS:
                context = {"tools": None, "documents": None, **tokens, **values}
                result = render(template, {**context, "messages": CHATS[name]})
                cases.append({"name": f"{family}/{variant}/{name}", "template": family, "chat": name, "context": context, **result})
    # Contexts repeat: keep each once.
    contexts, keyed = {}, []
    for case in cases:
        key = json.dumps(case.pop("context"))
        keyed.append({**case, "context": contexts.setdefault(key, (len(contexts), json.loads(key)))[0]})
    return {"now_s": NOW_S, "templates": ALL, "chats": CHATS, "contexts": [c for _, c in contexts.values()], "cases": keyed}


def features():
    cases = []
    for expression in EXPRESSIONS:
        template = "{{ " + expression + " }}"
        cases.append({"template": template, **render(template, CONTEXT)})
    for template in [t for t in TEMPLATES if t not in REFUSED]:
        cases.append({"template": template, **render(template, CONTEXT)})
    cases = [c for c in cases if c["template"] not in REFUSED]
    cases += [{"template": template, "refused": True} for template in sorted(REFUSED)]
    # What prints an address differs from run to run.
    cases = [c for c in cases if " at 0x" not in c.get("output", "") + c.get("error", "")]
    return {"now_s": NOW_S, "context": CONTEXT, "cases": cases}


def main():
    OUT.mkdir(exist_ok=True)
    for name, data in (("families", families()), ("features", features())):
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace('},{"', '},\n{"')
        (OUT / f"{name}.json").write_text(text + "\n")
        print(name, len(data["cases"]), "cases", len(text.encode()), "bytes", sum("error" in c for c in data["cases"]), "raise")


main()
