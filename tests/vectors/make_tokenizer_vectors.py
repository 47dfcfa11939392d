#!/usr/bin/env python3
"""Makes tests/vectors/tokenizer/: small tokenizers of each kind, trained here on generated text,
and what Hugging Face tokenizers makes of a megabyte of mixed bytes with each of them.

    python3 tests/vectors/make_tokenizer_vectors.py

needs tokenizers 0.22 or later; for tokenizer.model, whose reference is LlamaTokenizer of transformers
5.23 (4.x differs: it takes "legacy" and "add_bos_token" for true where they are missing), also
transformers, protobuf and sentencepiece, which trains these models and the pieces of Unigram.

text.bin        the text; chunk k is the bytes [4096 k, 4096 (k + 1)), so borders break characters
KIND.json       the tokenizer
NAME.model      a SentencePiece model; with a tokenizer_config.json of families.json, a tokenizer
families.json   kinds: lines full of each kind's added tokens, in full;
                models: the same of each model, with the files beside it, its added tokens and a
                digest of its merges as JSON
KIND.chunks     a line a chunk: ADD_SPECIAL COUNT SHA256(ids as u32 LE) SHA256(decoded)
                SHA256(decoded without special tokens) [IDS, comma separated, of some chunks]
variants.json   other components, one short tokenizer each, with cases in full
"""
import hashlib
import io
import json
import os
import random
import re
import struct
import tempfile
import unicodedata

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers,
                        pre_tokenizers, processors, trainers)

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokenizer")
CHUNK = 4096

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

# Syllables by script; words are random rows of them, so the text belongs to nobody.
SCRIPTS = {
    "latin": "ba ce di fo gu la me ni ro su ta ve wi xo zy an en in on un str ing tion er est th".split(),
    "accents": "é à ü ñ ç ø å ß œ ï ł ż č ğ ő ạ".split(),
    "greek": "α β γ δε ζη θι κα λο μυ ν ξ ς Ω ώ".split(),
    "cyrillic": "а б ви го де жи ло му на о пр ста ё й Ю".split(),
    "hebrew": "א ב גד ה ו שׁ ל ם ן תּ".split(),
    "arabic": "ا ب ت ال م ن و ي َ ّ ة ؟ ١ ٢".split(),
    "hindi": "क ख ग ना मि हि न् दी त्र श्र ि ् ० १".split(),
    "thai": "ก ข า เ แ ที่ น้ ำ ๑".split(),
    "han": "的 一 是 不 了 人 我 在 有 他 这 中 大 来 上 国 龍 語 𠀀 𰻞 𱍐".split(),
    "kana": "あ い か き の は を ん ア カ ー ッ ガ ぱ".split(),
    "hangul": "가 나 다 라 한 국 어 ᄀ ᅡ ᆨ 각".split(),
    "others": "ა Ա አ ᠠ \u180e ꦀ 𐐀 𐐨 𞤀 ⵣ ༀ Ჱ Ɤ 𐵐 𞗐 ༢ Ⅷ ² ½ 𝟘 ⓐ 🄰".split(),
}
EMOJI = "😀 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 ❤️ ☃ 🫨 🧑🏿‍🚀 1️⃣".split()
PUNCTUATION = ". , ; : ! ? - -- ... ( ) [ ] { } < > / \\ | @ # $ % ^ & * + = ~ ` \" ' 。 、 「 」 — … « » ¿ €".split()
CONTRACTIONS = "'s 'S 'ſ 't 'T 're 'RE 'Ve 'm 'll 'LL 'lL 'd 'D 'x ’s K's \u212a".split()
SPACES = [" ", "  ", "   ", " " * 7, " " * 33, "\t", "\t\t", "\n", "\n\n", "\r\n", " \n ", "\n\n\n  ",
          "\u00a0", "\u3000", "\u2028", "\u200b", "\u0085", "\u180e", "\u202f", "\u1680", "\x0b", "\x0c",
          "\ufeff", " " * 300, "\n" * 50, " \t" * 20]
CODE = ["def f(x):\n    return x + 1\n", "for (int i = 0; i < n; i++) {\n\tsum += a[i];\n}\n",
        "SELECT * FROM t WHERE id=42;\n", "<div class=\"a b\">&nbsp;</div>", "https://example.org/a?b=c&d=%20",
        "0x1F600 1e-9 3.14159 1,000,000", "#include <stdio.h>\r\n", "{\"key\": [1, 2, null, true]}\n",
        "if err != nil {\n\t\treturn err\n\t}\n", "snake_case CamelCase SCREAMING_CASE kebab-case\n"]
SPECIALS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "<unk>", "<|begin_of_text|>",
            "<|eot_id|>", "<|im_start", "im_end|>", "<mask>", " <mask> ", "\n<mask>\t", "word", " word ",
            "swordfish", "word.", "keyword", "▁", "▁▁the", "<0x0A>", "<0xE2>", "Ġthe", "<tool>", "</tool>",
            "<|im_start|>user\nHello<|im_end|>\n", "\u00e9<norm>", "<NORM>", "<norm>"]
BROKEN = [b"\xff", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80",
          b"\x80\x80\x80", b"\xe0\x80\xaf", b"\xf8\x88\x80\x80\x80", b"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41"]


def word(r, script=None):
    parts = SCRIPTS[script or r.choice(list(SCRIPTS))]
    return "".join(r.choice(parts) for _ in range(r.randint(1, 4)))


def piece(r):
    k = r.random()
    if k < 0.45:
        script = r.choice(list(SCRIPTS)) if r.random() < 0.5 else "latin"
        w = [word(r, script) for _ in range(r.randint(1, 9))]
        if r.random() < 0.3:
            w[0] = w[0].capitalize()
        s = " ".join(w)
        return s + r.choice(["", "", ". ", ", ", "?\n", r.choice(CONTRACTIONS)])
    if k < 0.52:
        return r.choice(CODE)
    if k < 0.58:
        return str(r.randint(0, 10 ** r.randint(1, 18)))
    if k < 0.66:
        return "".join(r.choice(PUNCTUATION) for _ in range(r.randint(1, 4)))
    if k < 0.76:
        return r.choice(SPACES)
    if k < 0.81:
        return r.choice(EMOJI)
    if k < 0.85:
        return word(r, "latin") + r.choice(CONTRACTIONS) + " "
    if k < 0.90:
        return r.choice(SPECIALS)
    if k < 0.93:  # letters with marks in every order
        marks = "\u0301\u0316\u0327\u0338\u0345\u05b0\u064b\u0323\u1df7\u0898"
        return r.choice("aeouAΩि가") + "".join(r.choice(marks) for _ in range(r.randint(1, 5)))
    if k < 0.95:
        return chr(r.randint(0, 31)) + chr(r.randint(127, 160))
    if k < 0.99:  # any assigned or unassigned character
        while True:
            c = r.randint(0x80, 0x3ffff if r.random() < 0.3 else 0x2fff)
            if not 0xd800 <= c < 0xe000:
                return chr(c)
    return None


def make_text(seed, size):
    r = random.Random(seed)
    out = bytearray()
    while len(out) < size:
        s = piece(r)
        out += r.choice(BROKEN) if s is None else s.encode()
        if r.random() < 0.4:
            out += b" "
        if r.random() < 0.0002:  # a long stretch without any split
            out += (r.choice("aЖ中-0") * r.randint(500, 3000)).encode()
    return bytes(out[:size])


def training_text(seed, count):
    r = random.Random(seed)
    words = [word(r, "latin") for _ in range(900)] + [word(r) for _ in range(500)]
    for _ in range(count):
        line = []
        for _ in range(r.randint(3, 14)):
            k = r.random()
            line.append(r.choice(words) if k < 0.8 else (piece(r) or "x"))
        yield " ".join(line)


def added(content, **flags):
    return AddedToken(content, **{"special": False, "normalized": False, **flags})


def byte_level(vocab, pre, normalizer=None, ignore_merges=False, specials=(), bos=None):
    t = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer is not None:
        t.normalizer = normalizer
    t.pre_tokenizer = pre
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(training_text(1, 6000), trainers.BpeTrainer(
        vocab_size=vocab, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    t.add_tokens(list(specials))
    if bos:
        t.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, t.token_to_id(bos))])])
    else:
        t.post_processor = processors.ByteLevel(trim_offsets=False)
    return t


def sentencepiece(vocab, legacy):
    """BPE as converted from SentencePiece: <unk>, <s>, </s>, the bytes, then the characters."""
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    mark = "\u2581"
    if legacy:
        t.normalizer = normalizers.Sequence([normalizers.Prepend(mark), normalizers.Replace(" ", mark)])
    else:
        t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    base.train_from_iterator(training_text(2, 6000), trainers.BpeTrainer(
        vocab_size=vocab, show_progress=False, limit_alphabet=150))
    model = json.loads(base.to_str())["model"]
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    names += [n for n, _ in sorted(model["vocab"].items(), key=lambda x: x[1])]
    # A converted vocabulary lists every way to make a token, not just the trained one.
    known = {n: i for i, n in enumerate(names)}
    merges = []
    for n in names[259:]:
        for cut in range(1, len(n)):
            if n[:cut] in known and n[cut:] in known:
                merges.append((known[n], n[:cut], n[cut:]))
    merges = [(a, b) for _, a, b in sorted(merges, key=lambda x: x[0])]
    full = json.loads(t.to_str())
    full["model"]["vocab"] = known
    full["model"]["merges"] = [list(m) for m in merges] if legacy else [f"{a} {b}" for a, b in merges]
    t = Tokenizer.from_str(json.dumps(full))
    t.decoder = decoders.Sequence([decoders.Replace(mark, " "), decoders.ByteFallback(), decoders.Fuse(),
                                   decoders.Strip(" ", 1, 0)])
    t.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in ("<unk>", "<s>", "</s>")])
    if legacy:
        t.add_tokens([added("<tool>", normalized=True), added("<norm>", normalized=True, special=True)])
    else:
        t.add_tokens([added("<tool>", lstrip=True, rstrip=True)])
    t.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return t


# gpt-4o's pattern, as Phi-4-mini has it.
O200K = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])


def whole(model, added_rows, normalizer=None, pre=None, post=None, decoder=None):
    """A tokenizer.json, part by part, as a family publishes it."""
    full = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added_rows, "normalizer": normalizer,
            "pre_tokenizer": pre, "post_processor": post, "decoder": decoder, "model": model}
    return Tokenizer.from_str(json.dumps(full))


def bpe_model(names, merges, **more):
    return {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {n: i for i, n in enumerate(names)}, "merges": merges, **more}


def rows(vocab, behind, *specs):
    """Rows of added_tokens from (content, flags); what is not in the vocabulary comes behind it."""
    out = []
    for content, f in specs:
        if content not in vocab:
            behind, number = behind + 1, behind
        else:
            number = vocab[content]
        out.append({"id": number, "content": content, "single_word": "w" in f, "lstrip": "l" in f, "rstrip": "r" in f,
                    "normalized": "n" in f, "special": "s" in f})
    return sorted(out, key=lambda x: x["id"])


def char_vocab(vocab, first):
    """Names and merges of the SentencePiece kind: `first`, the bytes, the trained pieces."""
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    t.train_from_iterator(training_text(4, 3000), trainers.BpeTrainer(
        vocab_size=vocab, show_progress=False, limit_alphabet=150))
    model = json.loads(t.to_str())["model"]
    trained = [n for n, _ in sorted(model["vocab"].items(), key=lambda x: x[1]) if n not in first]
    return list(first) + [f"<0x{b:02X}>" for b in range(256)] + trained, model["merges"]


def template(*names):
    """TemplateProcessing with these (token, id) before the text."""
    piece = [{"SpecialToken": {"id": n, "type_id": 0}} for n, _ in names] + [{"Sequence": {"id": "A", "type_id": 0}}]
    return {"type": "TemplateProcessing", "single": piece, "pair": piece + [{"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {n: {"id": n, "ids": [i], "tokens": [n]} for n, i in names}}


def char_decoder(strip):
    d = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
    return {"type": "Sequence", "decoders": d + [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] * strip}


def gemma3():
    breaks, spaces = ["\n" * n for n in range(1, 8)], ["▁" * n for n in range(2, 9)]
    first = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "[multimodal]", "<unused0>", "<unused1>"]
    turns = ["<start_of_turn>", "<end_of_turn>", "<start_of_image>"]
    tags = ["<table>", "</table>", "<b>", "</b>", "<unused2>"]
    names, merges = char_vocab(1500, first + breaks + spaces + tags + turns)
    known = {n: i for i, n in enumerate(names)}
    merges = [["▁" * n, "▁"] for n in range(1, 8)] + [["\n" * n, "\n"] for n in range(1, 7)] + merges
    added_rows = rows(known, len(names), *[(n, "s") for n in first + turns], *[(n, "") for n in breaks + spaces + tags],
                      ("<image_soft_token>", "s"))  # behind the vocabulary, as in the 1B checkpoint
    return whole(bpe_model(names, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True), added_rows,
                 normalizer={"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
                 pre={"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
                 post=template(("<bos>", 2)), decoder=char_decoder(False))


def phi3():
    names, merges = char_vocab(1200, ["<unk>", "<s>", "</s>"])
    chat = ["<|endoftext|>", "<|assistant|>", "<|placeholder1|>", "<|system|>", "<|end|>", "<|user|>"]
    added_rows = rows({n: i for i, n in enumerate(names)}, len(names), ("<unk>", "s"), ("<s>", "s"), ("</s>", "r"),
                      *[(n, "s" if n == "<|endoftext|>" else "sr") for n in chat])
    return whole(bpe_model(names, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True), added_rows,
                 normalizer={"type": "Sequence", "normalizers": [
                     {"type": "Prepend", "prepend": "▁"},
                     {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
                 post=template(), decoder=char_decoder(True))


def mistral_v3():
    control = ["[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[control_8]"]
    first = ["<unk>", "<s>", "</s>"] + control
    names, merges = char_vocab(1200, first)
    return whole(bpe_model(names, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True),
                 rows({n: i for i, n in enumerate(names)}, len(names), *[(n, "s") for n in first]),
                 pre={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
                 post=template(("<s>", 1)), decoder=char_decoder(True))


def byte_vocab(vocab, pre, first=()):
    t = byte_level(vocab, pre)
    model = json.loads(t.to_str())["model"]
    return list(first) + [n for n, _ in sorted(model["vocab"].items(), key=lambda x: x[1])], model["merges"]


def phi4_mini():
    pre = {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": O200K}, "behavior": "Removed", "invert": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]}
    names, merges = byte_vocab(1500, pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(O200K), "removed", True), pre_tokenizers.ByteLevel(False, use_regex=False)]))
    chat = [("<|endoftext|>", "s"), ("<|assistant|>", "sr"), ("<|system|>", "sr"), ("<|end|>", "sr"), ("<|user|>", "sr"),
            ("<|tool_call|>", "r"), ("<|/tool_call|>", "r"), ("<|endofprompt|>", "s")]
    return whole(bpe_model(names, [" ".join(m) for m in merges], continuing_subword_prefix="", end_of_word_suffix=""),
                 rows({n: i for i, n in enumerate(names)}, len(names), *chat), pre=pre,
                 post={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
                 decoder={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True})


def smollm2():
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    first = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<file_sep>", "<empty_output>"]
    names, merges = byte_vocab(1500, pre_tokenizers.Sequence([
        pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)]), first)
    return whole(bpe_model(names, merges), rows({n: i for i, n in enumerate(names)}, len(names),
                                                *[(n, "s") for n in first]),
                 pre={"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, level]},
                 decoder={**level, "add_prefix_space": True})


def unigram_vocab(vocab):
    """Trained by sentencepiece: the trainer of tokenizers gives other scores in each run."""
    import sentencepiece
    model = sentencepiece.SentencePieceProcessor(model_proto=spm_model(
        model_type="unigram", vocab_size=vocab, byte_fallback=False))
    return [[model.id_to_piece(i), round(model.get_score(i), 6)] for i in range(model.get_piece_size())]


def unigram(pieces, fallback):
    """T5's kind without bytes, and one that is shaped like Llama with them."""
    if fallback:
        pieces = pieces[:3] + [[f"<0x{b:02X}>", 0.0] for b in range(256)] + pieces[3:]
    added_rows = rows({p: i for i, (p, _) in enumerate(pieces)}, len(pieces), ("<unk>", "s"), ("<s>", "s"), ("</s>", "s"),
                      ("<tool>", "lr"), ("<norm>", "n"))
    model = {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": fallback}
    if fallback:
        return whole(model, added_rows, normalizer={"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
            post=template(("<s>", 1)), decoder=char_decoder(True))
    meta = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    return whole(model, added_rows, pre=meta, decoder=meta, post=template(("<s>", 1)),
                 normalizer={"type": "Sequence", "normalizers": [
                     {"type": "NFKC"}, {"type": "Strip", "strip_left": False, "strip_right": True},
                     {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]})


def families():
    return {"gemma3": gemma3, "phi3": phi3, "mistral_v3": mistral_v3, "phi4_mini": phi4_mini, "smollm2": smollm2}


def added_lines(t, count=60):
    """Lines full of added tokens, whole, broken, in a row and with every kind of space around."""
    names = [json.loads(json.dumps(x.content)) for x in t.get_added_tokens_decoder().values()]
    names = [n for n in names if n.strip()] + ["<|im_start|>", "<unk>"]
    r = random.Random(len(names))
    for _ in range(count):
        out = []
        for _ in range(r.randint(1, 9)):
            k, n = r.random(), r.choice(names)
            out.append(n if k < 0.5 else n[:-1] if k < 0.55 else n.upper() if k < 0.6 else word(r) if k < 0.75 else
                       r.choice(SPACES[:19]) if k < 0.95 else piece(r) or "x")
            out.append(r.choice(["", "", " ", "\n"]))
        yield "".join(out)


def cases(encode, decode, lines):
    out = []
    for s in lines:
        ids = encode(s)
        out.append({"text": s, "ids": ids, "decoded": decode(ids, False), "skipped": decode(ids, True)})
    return out


def kinds():
    split = lambda p: pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(p), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    special = lambda *names: [added(n, special=True) for n in names]
    return {
        "gpt2": byte_level(2000, pre_tokenizers.ByteLevel(add_prefix_space=False),
                           specials=special("<|endoftext|>") + [added("<mask>", special=True, lstrip=True)]),
        "llama3": byte_level(2500, split(LLAMA3), ignore_merges=True, bos="<|begin_of_text|>",
                             specials=special("<|begin_of_text|>", "<|eot_id|>") +
                             [added("word", single_word=True)]),
        "qwen2": byte_level(3000, split(QWEN2), normalizer=normalizers.NFC(),
                            specials=special("<|endoftext|>", "<|im_start|>", "<|im_end|>") +
                            [added("<tool>"), added("</tool>"), added("<mask>", rstrip=True),
                             added("<norm>", normalized=True)]),
        "llama2": sentencepiece(1800, True),
        "mistral": sentencepiece(1500, False),
    }


def sha(data):
    return hashlib.sha256(data).hexdigest()


def write_chunks(name, encode, decode, text, spelled):
    """`spelled`: of how many chunks one has its ids in full."""
    with open(f"{OUT}/{name}.chunks", "w") as f:
        for k in range(0, len(text), CHUNK):
            special = (k // CHUNK) % 2
            s = text[k:k + CHUNK].decode("utf-8", "replace")
            ids = encode(s, bool(special))
            row = [str(special), str(len(ids)), sha(struct.pack(f"<{len(ids)}I", *ids)),
                   sha(decode(ids, False).encode()), sha(decode(ids, True).encode())]
            if (k // CHUNK) % spelled == 0:
                row.append(",".join(map(str, ids)))
            f.write(" ".join(row) + "\n")


def write_kind(name, t, text, spelled=40):
    with open(f"{OUT}/{name}.json", "w") as f:
        json.dump(json.loads(t.to_str()), f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")
    t = Tokenizer.from_file(f"{OUT}/{name}.json")
    write_chunks(name, lambda s, special: t.encode(s, add_special_tokens=special).ids,
                 lambda ids, skip: t.decode(ids, skip_special_tokens=skip), text, spelled)
    return t


# --- tokenizer.model ---


def spm_model(**more):
    import sentencepiece
    out = io.BytesIO()
    lines = [re.sub(r"[\0\n]", " ", s)[:1000] for s in training_text(6, 3000)]
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=out, **{
        "vocab_size": 900, "character_coverage": 0.98, "model_type": "bpe", "byte_fallback": True, "num_threads": 1,
        "split_digits": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True, "minloglevel": 2, **more})
    return out.getvalue()


def llama(model, files):
    from transformers import LlamaTokenizer
    with tempfile.TemporaryDirectory() as d:
        with open(f"{d}/tokenizer.model", "wb") as f:
            f.write(model)
        for name, content in files.items():
            with open(f"{d}/{name}", "w") as f:
                json.dump(content, f)
        return LlamaTokenizer.from_pretrained(d)


def declared(content, flags):
    return {"content": content, "lstrip": "l" in flags, "normalized": "n" in flags, "rstrip": "r" in flags,
            "single_word": "w" in flags, "special": "s" in flags}


def token(content, flags):
    return {"__type": "AddedToken", **declared(content, flags)}


def write_models(text):
    """Returns the rows of families.json."""
    control = {"control_symbols": ["[INST]", "[/INST]"], "user_defined_symbols": ["<tool>"]}
    trained = {"llama": spm_model(), "control": spm_model(**control), "plain": spm_model(add_dummy_prefix=False)}
    yes = {"add_bos_token": True, "add_eos_token": False, "tokenizer_class": "LlamaTokenizer"}
    meta = {"0": declared("<unk>", "s"), "1": declared("<s>", "s"), "2": declared("</s>", "s")}
    first = {"bos_token": token("<s>", "ns"), "eos_token": token("</s>", "ns"), "unk_token": token("<unk>", "ns")}
    rows_ = [("bare", "llama", {**yes}, None),
             ("llama2", "llama", {**yes, "legacy": False, "added_tokens_decoder": meta, "pad_token": None}, None),
             ("llama1", "llama", {**yes, "legacy": True, **first}, None),
             ("map", "llama", {**yes}, {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": token("<unk>", "n")}),
             ("both ends", "llama", {**yes, "add_eos_token": True, "legacy": False}, None),
             ("no ends", "llama", {"add_bos_token": False}, None),
             ("other ends", "llama", {**yes, "add_eos_token": True, "bos_token": "<begin>", "eos_token": "<unk>"}, None),
             ("null ends", "llama", {**yes, "add_eos_token": True, "bos_token": None, "eos_token": None}, None),
             ("named", "llama", {**yes, "mask_token": "<mask>", "pad_token": "<pad>", "cls_token": "<cls>",
                                 "sep_token": "<sep>"}, None),
             ("flags", "llama", {**yes, "legacy": False, "added_tokens_decoder": {
                 **meta, "2": declared("</s>", "r"), "900": declared("<|x|>", "sr"), "901": declared("<|y|>", "nl"),
                 "902": declared("zqz", "w")}}, None),
             ("backwards", "llama", {**yes, "added_tokens_decoder": {
                 "901": declared("<|y|>", "s"), "900": declared("<|x|>", "")}}, {"pad_token": "<pad>"}),
             ("list", "llama", {**yes, "additional_special_tokens": ["<q>", token("<r>", "rs")], "pad_token": "<pad>"}, None),
             ("control", "control", {**yes, "legacy": True}, None),
             ("control first", "control", {**yes, "legacy": False}, None),
             ("control flags", "control", {**yes, "added_tokens_decoder": {
                 "3": declared("[INST]", "sr"), "5": declared("<tool>", "s")}}, None),
             ("no prefix", "plain", {**yes, "add_prefix_space": False}, None),
             ("no prefix legacy", "plain", {**yes, "add_prefix_space": False, "legacy": True}, None)]
    for name in sorted({m for _, m, _, _ in rows_}):
        with open(f"{OUT}/{name}.model", "wb") as f:
            f.write(trained[name])
    out = []
    for name, model, config, named in rows_:
        files = {"tokenizer_config.json": config, **({"special_tokens_map.json": named} if named else {})}
        t = llama(trained[model], files)
        whole_ = json.loads(t.backend_tokenizer.to_str())
        merges = json.dumps(whole_["model"]["merges"], ensure_ascii=False, separators=(",", ":"))
        out.append({"name": name, "model": model, "config": config, "map": named, "added": whole_["added_tokens"],
                    "merges": sha(merges.encode()), "cases": cases(
            t.encode, lambda ids, skip: t.decode(ids, skip_special_tokens=skip),
            VARIANT_TEXTS + list(added_lines(t.backend_tokenizer, 12)))})
        if name == "llama2":
            write_chunks("llama", lambda s, special: t.encode(s, add_special_tokens=special),
                         lambda ids, skip: t.decode(ids, skip_special_tokens=skip), text, 90)
    return out


VARIANT_TEXTS = [
    "", " ", "a", "Hello, World!  It's 12345 o'clock -- isn't IT?", "  two  spaces  ", "x-y--z---", "--", "-a-",
    "a1b22c333 ٣٤٥ ½² Ⅷ", "Ünïcödé ÀÉÎ ĲŒ İI ǅ ẞ Σς", "e\u0301 e\u0316\u0301 \u0301\u0316 a\u0301\u0316\u0327 \u1e0b\u0323 가 가",
    "ﬁ ﬃ ℌ ① ㍿ Å Å ½ ㌀ ㋿ \u0344", "<a> <b> <c><b>  <a>  <c>  ", "ab<c> c <b>b c<a>",
    "\u2581x \u2581\u2581 y\u2581", "中文，日本語。テスト", "\t\n x \r\n\u3000y\u00a0", "wordword word word-word \u0301word",
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~\u166d\u2e43\u061d¿", "a.b.c...", "😀👍🏽é\x00\x01\x7f",
]


def variant(name, base, texts, **parts):
    full = json.loads(base)
    full.update({k: v for k, v in parts.items() if k != "model"})
    full["model"].update(parts.get("model", {}))
    t = Tokenizer.from_str(json.dumps(full))
    cases = []
    for s in texts:
        ids = t.encode(s, add_special_tokens=True).ids
        cases.append({"text": s, "ids": ids, "decoded": t.decode(ids, skip_special_tokens=False),
                      "skipped": t.decode(ids, skip_special_tokens=True)})
    # Only what differs from the base goes into the file.
    return {"name": name, "parts": parts, "cases": cases}


def part(x):
    """A component as its JSON."""
    t = Tokenizer(models.BPE())
    role = {"normalizers": "normalizer", "pre_tokenizers": "pre_tokenizer", "decoders": "decoder",
            "processors": "post_processor"}[type(x).__module__.split(".")[-1]]
    setattr(t, role, x)
    return json.loads(t.to_str())[role]


def tokens_json(rows, first):
    return [{"id": first + i, "content": c, "single_word": "w" in f, "lstrip": "l" in f, "rstrip": "r" in f,
             "normalized": "n" in f, "special": "s" in f} for i, (c, f) in enumerate(rows)]


def write_variants():
    P, N, D = pre_tokenizers, normalizers, decoders
    byte = byte_level(400, P.ByteLevel(add_prefix_space=False)).to_str()
    chars = sorted({c for s in VARIANT_TEXTS for c in s if c not in "\0😀中"} | set("\u2581abcdefghijklmnopqrstuvwxyz "))
    vocab = {c: i for i, c in enumerate(["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + chars)}
    merges = []
    for a, b in ("he", "ll", "he ll".split(), "wo", "or", "- -".split(), "a b".split(), "i s".split()):
        merges.append([a, b])
        vocab.setdefault(a + b, len(vocab))
    plain = {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": None,
             "post_processor": None, "decoder": part(D.Sequence([D.ByteFallback(), D.Fuse()])),
             "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                       "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                       "vocab": vocab, "merges": merges}}
    char = json.dumps(plain)
    few = json.dumps({**plain, "model": {**plain["model"], "vocab": {
        k: v for k, v in vocab.items() if k not in ("<0xF0>", "z", "y")}}})
    rows = []
    abc = lambda *f: tokens_json(list(zip(("<a>", "<b>", "<c>"), f)), 600)
    seq = lambda *x: part(P.Sequence(list(x)))
    bl = lambda **k: P.ByteLevel(**{"add_prefix_space": False, **k})
    bases = {"byte": byte, "char": char, "few": few}

    def add(name, base, **parts):
        rows.append({**variant(name, bases[base], VARIANT_TEXTS, **parts), "base": base})

    for b in ("isolated", "removed", "merged_with_previous", "merged_with_next", "contiguous"):
        for inv in (False, True):
            add(f"split {b} {inv}", "byte", pre_tokenizer=seq(P.Split(Regex("-|[0-9]"), b, inv), bl(use_regex=False)))
    add("split string", "byte", pre_tokenizer=seq(P.Split(".", "isolated"), bl(use_regex=False)))
    add("split empty matches", "byte", pre_tokenizer=seq(P.Split(Regex("[0-9]*"), "isolated"), bl(use_regex=False)))
    add("split lines", "byte", pre_tokenizer=seq(P.Split(Regex(r"^.|x$|\S(?=-)"), "isolated"), bl(use_regex=False)))
    add("split gpt4", "byte", pre_tokenizer=seq(P.Split(Regex(
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
        r"|\s+(?!\S)|\s"), "isolated"), bl(use_regex=False)))
    add("split o200k", "byte", pre_tokenizer=seq(P.Split(Regex(
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"), "isolated"), bl(use_regex=False)))
    add("split deepseek", "byte", pre_tokenizer=seq(
        P.Split(Regex("[\r\n]"), "isolated"), P.Split(Regex(r"\s?\p{L}+"), "isolated"),
        P.Split(Regex(r"\s?\p{P}+"), "isolated"), P.Split(Regex("[一-龥ࠀ-一가-퟿]+"), "isolated"),
        P.Digits(individual_digits=True), bl(use_regex=False)))
    add("split words", "byte", pre_tokenizer=seq(P.Split(Regex(r"\w+|[^\w\s]+"), "removed", True), bl(use_regex=False)))
    add("digits", "byte", pre_tokenizer=seq(P.Digits(individual_digits=False), bl()))
    add("digits single", "byte", pre_tokenizer=seq(P.Digits(individual_digits=True), bl()))
    add("punctuation", "byte", pre_tokenizer=seq(P.Punctuation("contiguous"), bl(use_regex=False)))
    add("whitespace split", "byte", pre_tokenizer=seq(P.WhitespaceSplit(), bl(add_prefix_space=True)))
    add("prefix space", "byte", pre_tokenizer=part(bl(add_prefix_space=True)))
    add("roberta", "byte", added_tokens=abc("s", "s", "s"), post_processor={
        "type": "RobertaProcessing", "sep": ["!", 0], "cls": ["\"", 1], "trim_offsets": True, "add_prefix_space": False})
    for n, f in ("nfc", N.NFC()), ("nfd", N.NFD()), ("nfkc", N.NFKC()), ("nfkd", N.NFKD()), ("lower", N.Lowercase()):
        add(f"normalizer {n}", "byte", normalizer=part(f))
        add(f"normalizer {n} chars", "char", normalizer=part(f))
    for l in (False, True):
        add(f"normalizer strip {l}", "byte", normalizer=part(N.Strip(left=l, right=not l)))
    add("normalizer strip", "char", normalizer=part(N.Strip()))
    add("normalizer replace", "char", normalizer=part(N.Sequence([
        N.Replace(Regex(r"\s+"), " "), N.Replace("b", ""), N.Lowercase(), N.Prepend("x-")])))
    for flags in (("", "", ""), ("l", "r", "lr"), ("lr", "lr", "lr"), ("s", "ls", "rs"), ("w", "w", "wl"), ("n", "nl", "n")):
        add(f"added {flags}", "byte", added_tokens=abc(*flags))
        add(f"added {flags} chars", "char", added_tokens=abc(*flags), normalizer=part(
            N.Sequence([N.Prepend("\u2581"), N.Replace(" ", "\u2581")])))
    add("added words", "char", added_tokens=tokens_json(
        [("word", "w"), ("  ", ""), ("   ", ""), (" x", "r"), ("lo", "n"), ("é", "")], 600), normalizer=part(N.Lowercase()))
    for scheme in ("first", "always", "never"):
        for split in (False, True):
            add(f"metaspace {scheme} {split}", "char", added_tokens=abc("", "s", "r"),
                pre_tokenizer=part(P.Metaspace(prepend_scheme=scheme, split=split)),
                decoder=part(D.Metaspace(prepend_scheme=scheme)))
    add("metaspace bytes", "char", pre_tokenizer=part(P.Metaspace()),
        decoder=part(D.Sequence([D.Metaspace(), D.ByteFallback(), D.Fuse(), D.Strip("x", 2, 0)])))
    for fuse in (False, True):
        for fallback in (False, True):
            add(f"unknown {fuse} {fallback}", "few", model={"fuse_unk": fuse, "byte_fallback": fallback})
    add("no unknown", "few", model={"unk_token": None, "byte_fallback": False})
    add("ignore merges", "char", model={"ignore_merges": True}, pre_tokenizer=part(P.Metaspace()),
        decoder=part(D.Metaspace()))
    add("template", "char", post_processor=part(processors.Sequence([
        processors.ByteLevel(),
        processors.TemplateProcessing(single="<s> $A </s> <s>", special_tokens=[("<s>", 1), ("</s>", 2)])])))
    # Equal ways (w+o, wo), unknown characters in a row, the unknown token spelled out, bytes of some.
    low = [["<unk>", 0.0], ["w", -1.0], ["o", -1.0], ["wo", -2.0], ["r", -1.5], ["d", -3.0], ["rd", -4.25], ["▁", -2.0],
           ["▁wo", -4.0], ["ordw", -4.5], ["<0xC3>", -9.0], ["<0xA9>", -9.0], ["é", -7.0], ["<0xC3><", -1.0], ["a", -2.0]]
    # So much above zero that unknown characters beat pieces, and together are one.
    high = [["<unk>", 40.0], ["two", 30.0], ["spa", 30.0], ["word", 30.0], ["日本", 30.0], ["本語", 30.0], ["x", 31.0],
            ["<0x74>", 30.0], ["<0x77>", 30.0], ["<0x6F>", 30.0]]
    for n, pieces in ("low", low), ("high", high):
        bases[n] = json.dumps({**plain, "decoder": part(D.Fuse()), "model": {
            "type": "Unigram", "unk_id": 0, "byte_fallback": False, "vocab": pieces}})
        for fallback in (False, True):
            add(f"unigram {n} {fallback}", n, model={"byte_fallback": fallback}, pre_tokenizer=part(P.WhitespaceSplit()))
            add(f"unigram {n} {fallback} metaspace", n, model={"byte_fallback": fallback}, pre_tokenizer=part(P.Metaspace()),
                added_tokens=abc("", "s", "n"), decoder=part(D.Metaspace()))
    with open(f"{OUT}/variants.json", "w") as f:
        json.dump({"bases": {k: json.loads(v) for k, v in bases.items()}, "variants": rows}, f,
                  ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


def main():
    os.makedirs(OUT, exist_ok=True)
    text = make_text(7, 272 * CHUNK)
    with open(f"{OUT}/text.bin", "wb") as f:
        f.write(text)
    for name, t in kinds().items():
        write_kind(name, t, text)
    written = {name: write_kind(name, make(), text, 90) for name, make in families().items()}
    pieces = unigram_vocab(1500)
    for name, fallback in ("unigram", False), ("unigram_bytes", True):
        written[name] = write_kind(name, unigram(pieces, fallback), text, 90)
    lines = {name: cases(lambda s: t.encode(s).ids, lambda ids, skip: t.decode(ids, skip_special_tokens=skip),
                         VARIANT_TEXTS + list(added_lines(t))) for name, t in written.items()}
    with open(f"{OUT}/families.json", "w") as f:
        json.dump({"kinds": lines, "models": write_models(text)}, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")
    write_variants()
    print(f"unicode of this Python {unicodedata.unidata_version}, {len(text)} bytes of text")


if __name__ == "__main__":
    main()
