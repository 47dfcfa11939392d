#!/usr/bin/env python3
"""Makes tests/vectors/tokenizer/: small tokenizers of each kind, trained here on generated text,
and what Hugging Face tokenizers makes of a megabyte of mixed bytes with each of them.

    python3 tests/vectors/make_tokenizer_vectors.py      (needs tokenizers 0.22 or later)

text.bin        the text; chunk k is the bytes [4096 k, 4096 (k + 1)), so borders break characters
KIND.json       the tokenizer
KIND.chunks     a line a chunk: ADD_SPECIAL COUNT SHA256(ids as u32 LE) SHA256(decoded)
                SHA256(decoded without special tokens) [IDS, comma separated, of some chunks]
variants.json   other components, one short tokenizer each, with cases in full
"""
import hashlib
import json
import os
import random
import struct
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


def write_kind(name, t, text):
    with open(f"{OUT}/{name}.json", "w") as f:
        json.dump(json.loads(t.to_str()), f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")
    t = Tokenizer.from_file(f"{OUT}/{name}.json")
    with open(f"{OUT}/{name}.chunks", "w") as f:
        for k in range(0, len(text), CHUNK):
            special = (k // CHUNK) % 2
            s = text[k:k + CHUNK].decode("utf-8", "replace")
            ids = t.encode(s, add_special_tokens=bool(special)).ids
            row = [str(special), str(len(ids)), sha(struct.pack(f"<{len(ids)}I", *ids)),
                   sha(t.decode(ids, skip_special_tokens=False).encode()),
                   sha(t.decode(ids, skip_special_tokens=True).encode())]
            if (k // CHUNK) % 40 == 0:
                row.append(",".join(map(str, ids)))
            f.write(" ".join(row) + "\n")


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
    write_variants()
    print(f"unicode of this Python {unicodedata.unidata_version}, {len(text)} bytes of text")


if __name__ == "__main__":
    main()
