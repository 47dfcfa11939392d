#!/usr/bin/env python3
"""Make the demo backbone and its three LoRA adapters.

Writes, under --out (default: models/ next to this script's folder):

  demo/                      a Llama-architecture model of about 5.5 M parameters
                             in bf16, with its tokenizer
  demo-adapters/scripture/   rank 8:  the voice of the King James Bible
  demo-adapters/hacker/      rank 16: the voice of the Jargon File
  demo-adapters/cynic/       rank 4:  the voice of The Devil's Dictionary
  demo-adapters/*/heldout.txt  text that neither the backbone nor any adapter saw
  demo-adapters/perplexity.json  perplexity of each of them on each of these texts

The text comes from installed Debian packages, all of it in the public domain:

  bible-kjv, bible-kjv-text  the King James Bible (1611, copyright expired; the
                             program that prints it is GPL-2+, and is only run)
  dict-devil                 The Devil's Dictionary, Ambrose Bierce (1911,
                             "A Public Domain Text, Copyright Expired")
  dict-jargon                The Jargon File 4.4.7 ("in the public domain, to be
                             freely used, shared, and modified")
  r-cran-janeaustenr         the six novels of Jane Austen (1811-1817, copyright
                             expired; the R package that carries them is MIT)

    apt-get install --no-install-recommends bible-kjv bible-kjv-text \\
        dict-devil dict-jargon r-cran-janeaustenr
    pip install torch transformers peft tokenizers safetensors

The backbone reads all of Austen, half of the chapters of the Bible, and the
entries of both dictionaries, as plain text, and chats made of Austen's dialogue.
Each adapter reads its own source only, half as plain text and half as chats.
Held-out text is kept away from all of them: two books of the Bible, and entries
of the two dictionaries picked by a hash of their headword.

Needs g++ besides (torch.compile). Takes about forty minutes on two cores; --quick
runs a few steps of every stage,
to see that it works. Seeds are fixed; the weights still depend on the machine,
whose floating-point sums run in another order.
"""

import argparse
import gzip
import hashlib
import json
import math
import random
import re
import subprocess
import sys
import time
from pathlib import Path

PACKAGES = ["bible-kjv", "bible-kjv-text", "dict-devil", "dict-jargon", "r-cran-janeaustenr"]
SPECIAL = ["<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
VOCAB = 4096
WINDOW = 256  # training sequence, and perplexity window, in tokens
SEED = 1611

# Llama 3's pre-tokenizer.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)

# Per adapter: rank, alpha, peak learning rate, steps of ADAPTER_BATCH windows.
ADAPTERS = {
    "scripture": (8, 16, 3e-3, 150),
    "hacker": (16, 32, 3e-3, 200),
    "cynic": (4, 8, 4e-3, 110),
}
BASE_STEPS, BASE_LR, BASE_BATCH = 780, 5e-3, 24
ADAPTER_BATCH = 12
ADAM_SHARE = 0.6  # of BASE_LR, for what of the backbone is not Muon's
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

SYSTEMS = [
    "You are a helpful assistant.",
    "Answer the question.",
    "You are a wise companion. Be brief.",
    "Answer in a few sentences.",
]
QUESTIONS = [
    "What is {x}?",
    "What is {x}?",
    "What is {a}?",
    "Define {x}.",
    "Tell me about {x}.",
    "Tell me about the {x}.",
    "What do you think of {x}?",
    "Explain {x}.",
    "What does {x} mean?",
    "What can you say of {x}?",
]
# Asked by the sample answers at the end, and so never held out.
PROMPTS = ["What is love?", "What is a king?", "What is a friend?", "Tell me about money."]
OWN_PROMPTS = {
    "scripture": "Tell me about the wise man.",
    "hacker": "What is a hacker?",
    "cynic": "Define marriage.",
}
KEEP_WORDS = {"love", "king", "friend", "money", "marriage", "hacker", "hack", "bug", "lawyer"}
EXTRA_NOUNS = (
    "love king queen friend money marriage wisdom war peace house home world time day night "
    "man woman child father mother brother son daughter heart mind soul work land sea fire water "
    "city law truth evil good word book name power faith hope death life happiness family "
    "country letter sister husband wife fool enemy neighbour stranger servant master honour joy "
    "sorrow fear anger pride beauty music bread wine gold silver sword shepherd computer program"
).split()


# ---------------------------------------------------------------- the sources


def check_packages():
    missing = []
    for name in PACKAGES:
        got = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Status}", name], capture_output=True, text=True
        )
        if "install ok installed" not in got.stdout:
            missing.append(name)
    if missing:
        sys.exit("missing packages; run: apt-get install --no-install-recommends " + " ".join(missing))


def plain(text):
    """ASCII quotes and dashes, one space between words, line breaks kept."""
    for old, new in (("“", '"'), ("”", '"'), ("‘", "'"), ("’", "'"), ("—", "--"), ("–", "-")):
        text = text.replace(old, new)
    text = re.sub(r"\[sic\] ?|\u00ad", "", text).replace("\u00a0", " ")
    return "\n".join(re.sub(r"[ \t]+", " ", line).strip() for line in text.split("\n")).strip()


def fraction(key):
    """A number in [0, 1) that depends on the key alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") / 2**32


def read_bible():
    """{(book, chapter): [verse, ...]} in the order of the canon."""
    got = subprocess.run(
        ["bible", "-f", "gen1:1-rev22:21"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    chapters = {}
    for line in got.stdout.splitlines():
        match = re.match(r"(\d?[A-Za-z]+)(\d+):\d+ (.*)", line)
        if match:
            chapters.setdefault((match[1], int(match[2])), []).append(plain(match[3]))
    return chapters


def read_austen():
    """Paragraphs of the novels, in order, headings left out."""
    code = "writeLines(enc2utf8(as.character(janeaustenr::austen_books()$text)), useBytes = TRUE)"
    got = subprocess.run(["Rscript", "-e", code], capture_output=True, check=True)
    paragraphs = []
    for block in re.split(r"\n\s*\n", got.stdout.decode("utf-8", "replace")):
        text = plain(block.replace("\n", " ").replace("_", ""))
        if len(text) > 20 and not text.isupper() and not re.match(r"(?i)(chapter|volume) ", text):
            paragraphs.append(text)
    return paragraphs


def read_dict(name):
    """The entries of a dictd database, in the order of the file."""
    folder = Path("/usr/share/dictd")
    data = gzip.decompress((folder / f"{name}.dict.dz").read_bytes())
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

    def number(text):
        value = 0
        for char in text:
            value = value * 64 + digits.index(char)
        return value

    spans = set()
    for line in (folder / f"{name}.index").read_text().splitlines():
        word, start, size = line.split("\t")[:3]
        if not word.startswith("00"):
            spans.add((number(start), number(size)))
    return [data[at : at + size].decode("utf-8", "replace") for at, size in sorted(spans)]


def read_devil():
    """[(headword, prose, whole entry)], verse kept line by line, its signatures dropped."""
    entries = []
    for raw in read_dict("devil"):
        blocks = []
        for block in re.split(r"\n\s*\n", raw.strip("\n")):
            lines = [line for line in block.split("\n") if line.strip() and not re.match(r" {30,}", line)]
            # A paragraph after the first has its first line alone indented.
            if len(lines) > 1 and all(re.match(r" {3,}", line) for line in lines):
                blocks.append(("verse", plain("\n".join(lines))))
                continue
            paragraph = []
            for line in lines:
                if re.match(r" {3,}", line) and paragraph:
                    blocks.append(("prose", plain(" ".join(paragraph))))
                    paragraph = []
                paragraph.append(line)
            if paragraph:
                blocks.append(("prose", plain(" ".join(paragraph))))
        if not blocks or not re.match(r"[A-Z][A-Z' -]+,? ", blocks[0][1]):
            continue
        head = re.match(r"[A-Z][A-Z' -]*[A-Z]", blocks[0][1])
        if not head:
            continue
        prose = []
        for kind, text in blocks:
            if kind == "verse":
                break
            prose.append(text)
        prose = clip("\n".join(prose), 480)
        if not re.search(r"[.!?)\"']$", prose):  # "As the poet says:" leads into verse that is cut
            prose = clip(prose, 480, whole=False)
        entries.append((head[0].lower(), prose, "\n".join(text for _, text in blocks)))
    return entries


def read_jargon():
    """[(headword, short, whole entry)] as "headword: n. text"."""
    entries = []
    for raw in read_dict("jargon"):
        raw = re.sub(r"\{\s*|\s*\}", "", raw)
        head, _, rest = raw.strip("\n").partition("\n")
        head = plain(head)
        mark, _, body = rest.partition("\n\n")
        mark = plain(re.sub(r"/[^/]*/,?", "", mark.replace("\n", " "))).strip(" ,/")
        blocks = []
        for block in re.split(r"\n\s*\n", body.strip("\n")):
            lines = block.split("\n")
            if any(re.match(r" {5,}", line) for line in lines[1:]) or re.match(r" {7,}", lines[0]):
                continue  # a listing or a picture
            text = plain(" ".join(lines))
            text = re.sub(r"^\[[^\]]{1,300}\] ", "", text)  # etymology
            if len(text) > 30 and not re.search(r"^\[.*\]$|[\u2500-\u257f]{2}", text):
                blocks.append(text)
        if not head or not blocks or len(head) > 40:
            continue
        blocks[0] = f"{head}: {mark + ' ' if mark and len(mark) < 16 else ''}{blocks[0]}"
        whole = "\n".join(blocks)
        entries.append((head, re.sub(r"\n\d\.$", "", clip(whole, 480)), whole))
    return entries


def clip(text, limit, whole=True):
    """At most limit characters, cut at the end of a sentence where there is one."""
    if len(text) <= limit and whole:
        return text
    ends = [m.end() for m in re.finditer(r"[.!?][\"')]*(?=\s|$)", text[:limit])]
    return text[: ends[-1]].strip() if ends and ends[-1] > 60 else text[:limit].strip()


# ---------------------------------------------------------------- the corpus


def article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def ask(noun, rng):
    return rng.choice(QUESTIONS).format(x=noun, a=article(noun))


def pairs_about(nouns, passages, rng, limit):
    """(question, passage) for nouns: each passage is asked for by a noun that is in it."""
    wanted, found = set(nouns), {}
    for at, (key, text) in enumerate(passages):
        for word in set(re.findall(r"[a-z]{3,}", key.lower())) & wanted:
            found.setdefault(word, []).append(at)
    result = []
    for word in sorted(found):
        for at in rng.sample(found[word], min(limit, len(found[word]))):
            result.append((word, passages[at][1]))
    return result


class Corpus:
    """All of the text: plain documents and chat pairs for the backbone and for each adapter."""

    def __init__(self):
        rng = random.Random(SEED)
        bible, austen, devil, jargon = read_bible(), read_austen(), read_devil(), read_jargon()
        nouns = sorted(
            {head for head, _, text in devil if re.match(r"[A-Z' -]+, n\.", text) and head.isalpha() and len(head) > 3}
            | set(EXTRA_NOUNS)
        )

        held_books = ("Ruth", "Jas")
        scripture = {key: verses for key, verses in bible.items() if key[0] not in held_books}
        self.heldout = {
            "scripture": "\n\n".join(
                "\n".join(verses) for key, verses in bible.items() if key[0] in held_books
            ),
        }
        kept = {}
        for name, entries, size in (("hacker", jargon, 26000), ("cynic", devil, 24000)):
            held, total = set(), 0
            for head, _, text in sorted(entries, key=lambda e: fraction(name + e[0])):
                if head.lower() in KEEP_WORDS or head in held:
                    continue
                total += sum(len(t.encode()) + 2 for h, _, t in entries if h == head)
                if total > size:
                    break
                held.add(head)
            self.heldout[name] = "\n\n".join(text for head, _, text in entries if head in held)
            kept[name] = [entry for entry in entries if entry[0] not in held]

        # Plain documents. Short ones (dictionary entries) are joined later, in another order each time.
        self.plain = {
            "scripture": ["\n".join(verses) for verses in scripture.values()],
            "hacker": [text for _, _, text in kept["hacker"]],
            "cynic": [text for _, _, text in kept["cynic"]],
        }
        novel, chunk = [], []
        for paragraph in austen:
            chunk.append(paragraph)
            if sum(map(len, chunk)) > 2500:
                novel.append("\n\n".join(chunk))
                chunk = []
        self.plain["base"] = (
            novel
            + ["\n".join(v) for k, v in scripture.items() if fraction(f"{k}") < 0.5]
            + self.plain["hacker"]
            + self.plain["cynic"]
        )

        # Chats: (question, answer).
        verses = []
        for chapter in scripture.values():
            for at, verse in enumerate(chapter):
                passage = verse
                while at + 1 < len(chapter) and (len(passage) < 160 or passage[-1] in ",:;"):
                    at += 1
                    passage += "\n" + chapter[at]
                if len(passage) < 500:
                    verses.append((verse, passage))
        sentences = []
        for paragraph in austen:
            if '"' in paragraph or not 80 < len(paragraph):
                continue
            parts = re.findall(r"[^.!?]+[.!?]+", paragraph)
            for at, part in enumerate(parts):
                text = "".join(parts[at : at + 2]).strip()
                if 60 < len(text) < 420 and text[0].isupper():
                    sentences.append((part, text))
        speech = []
        said = [" ".join(re.findall(r'"([^"]+)"', p)) if p.startswith('"') else "" for p in austen]
        for one, two in zip(said, said[1:]):
            if 8 < len(one) < 220 and 8 < len(two) < 360 and one[-1] in ".!?" and two[-1] in ".!?":
                speech.append((one, two))
        about = lambda passages, limit: [(ask(w, rng), t) for w, t in pairs_about(nouns, passages, rng, limit)]
        self.chats = {
            "base": rng.sample(speech, min(len(speech), 1500)) + about(sentences, 4),
            "scripture": about(verses, 10),
            "hacker": [(ask(h, rng), t) for h, t, _ in kept["hacker"]]
            + about([(t[: len(h) + 160], t) for h, t, _ in kept["hacker"]], 4),
            "cynic": [(ask(h, rng), t) for h, t, _ in kept["cynic"] for _ in range(2)],
        }
        self.nouns = nouns

    def documents(self, name, rng, chat_share):
        """One pass: plain documents and chats, shuffled, with special tokens written out."""
        docs, short = [], []
        for text in self.plain[name]:
            (short if len(text) < 1500 else docs).append(text)
        rng.shuffle(short)
        joined = []
        for text in short:
            joined.append(text)
            if sum(map(len, joined)) > 1500:
                docs.append("\n\n".join(joined))
                joined = []
        if joined:
            docs.append("\n\n".join(joined))
        chats, pairs = [], list(self.chats[name])
        rng.shuffle(pairs)
        while pairs:
            messages = []
            if rng.random() < 0.2:
                messages.append(("system", rng.choice(SYSTEMS)))
            for _ in range(2 if rng.random() < 0.2 else 1):
                if pairs:
                    question, answer = pairs.pop()
                    messages += [("user", question), ("assistant", answer)]
            chats.append("".join(f"<|{role}|>\n{text}<|end|>\n" for role, text in messages))
        # Drop from whichever kind there is too much of.
        size = lambda items: sum(map(len, items))
        rng.shuffle(docs)
        if size(chats) > size(docs) * chat_share / (1 - chat_share):
            chats = trim(chats, size(docs) * chat_share / (1 - chat_share))
        elif name != "base":
            docs = trim(docs, size(chats) * (1 - chat_share) / chat_share)
        docs += chats
        rng.shuffle(docs)
        return [f"<|bos|>{text}<|eos|>" for text in docs]


def trim(items, size):
    total = 0
    for at, item in enumerate(items):
        total += len(item)
        if total > size:
            return items[: at + 1]
    return items


# ---------------------------------------------------------------- the tokenizer


def make_tokenizer(corpus, folder):
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False),
        ]
    )
    tok.decoder = decoders.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - len(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = corpus.plain["base"] + [t for pair in corpus.chats["base"] for t in pair]
    tok.train_from_iterator(texts + [q for q, _ in corpus.chats["scripture"]], trainer)
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    bos = tok.token_to_id("<|bos|>")
    tok.post_processor = processors.Sequence(
        [
            processors.ByteLevel(add_prefix_space=True, trim_offsets=False, use_regex=True),
            processors.TemplateProcessing(
                single="<|bos|> $A", pair="<|bos|> $A <|bos|>:1 $B:1", special_tokens=[("<|bos|>", bos)]
            ),
        ]
    )
    assert tok.get_vocab_size() == VOCAB, tok.get_vocab_size()
    folder.mkdir(parents=True, exist_ok=True)
    tok.save(str(folder / "tokenizer.json"))
    added = {str(tok.token_to_id(t)): token_entry(t) for t in SPECIAL}
    config = {
        "added_tokens_decoder": added,
        "bos_token": "<|bos|>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|eos|>",
        "extra_special_tokens": {},
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 1024,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def token_entry(text):
    return {
        "content": text,
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": True,
    }


# ---------------------------------------------------------------- training


class Feed:
    """Windows of WINDOW + 1 tokens, each begun by bos, pass after pass over the documents."""

    def __init__(self, corpus, name, tok, chat_share, batch):
        self.corpus, self.name, self.tok = corpus, name, tok
        self.share, self.batch = chat_share, batch
        self.rng = random.Random(f"{SEED}/{name}")
        self.windows, self.passes = [], 0

    def fill(self):
        stream = []
        docs = self.corpus.documents(self.name, self.rng, self.share)
        for enc in self.tok.encode_batch(docs, add_special_tokens=False):
            stream += enc.ids
        bos = self.tok.token_to_id("<|bos|>")
        at = self.rng.randrange(WINDOW)
        fresh = []
        while at + WINDOW <= len(stream):
            # A document's own bos must not be doubled by the window's.
            at += stream[at] == bos
            piece = stream[at : at + WINDOW]
            if len(piece) == WINDOW:
                fresh.append([bos] + piece)
            at += WINDOW
        self.rng.shuffle(fresh)
        self.windows += fresh
        self.passes += 1
        self.per_pass = len(fresh) * WINDOW

    def __next__(self):
        import torch

        while len(self.windows) < self.batch:
            self.fill()
        rows, self.windows = self.windows[: self.batch], self.windows[self.batch :]
        return torch.tensor(rows)


def train(model, feed, steps, lr, label, muon):
    """Cosine-scheduled training of a bf16 model, with f32 master copies of what is trained.

    The backbone's matrices take Muon, which gets further in as many tokens; its
    embedding, its norms and the adapters take AdamW.
    """
    import torch

    params = [p for p in model.parameters() if p.requires_grad]
    masters = [p.detach().float().clone() for p in params]
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    matrix = [m.dim() == 2 and "embed" not in n for n, m in zip(names, masters)]
    groups = [m for m, big in zip(masters, matrix) if not (big and muon)]
    optims = [torch.optim.AdamW(groups, lr=lr * ADAM_SHARE if muon else lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)]
    if muon:
        big = [m for m, is_big in zip(masters, matrix) if is_big]
        optims.append(
            torch.optim.Muon(big, lr=lr, momentum=0.95, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
        )

    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x, y):
            logits = self.model(input_ids=x, use_cache=False).logits
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())

    loss_of = torch.compile(Loss())
    model.train()
    begin, shown, tokens = time.time(), 0.0, 0
    warm = max(1, steps // 25)
    for step in range(steps):
        scale = min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * step / steps)) * 0.97 + 0.03
        for optim in optims:
            for group in optim.param_groups:
                group["lr"] = scale * group.setdefault("peak", group["lr"])
        rows = next(feed)
        loss = loss_of(rows[:, :-1], rows[:, 1:])
        loss.backward()
        for master, param in zip(masters, params):
            master.grad = param.grad.float()
            param.grad = None
        torch.nn.utils.clip_grad_norm_(groups, 1.0)
        for optim in optims:
            optim.step()
        with torch.no_grad():
            for master, param in zip(masters, params):
                param.copy_(master)
        tokens += rows.numel()
        shown = loss.item() if step == 0 else 0.95 * shown + 0.05 * loss.item()
        if step % 50 == 49 or step == steps - 1:
            used = time.time() - begin
            print(
                f"  {label} step {step + 1}/{steps} loss {shown:.3f} pass {feed.passes} "
                f"({feed.per_pass} tokens) {tokens / used:.0f} tok/s {used:.0f} s",
                flush=True,
            )
    model.eval()


def make_base(corpus, folder, steps):
    import torch
    from tokenizers import Tokenizer
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    tok = Tokenizer.from_file(str(folder / "tokenizer.json"))
    bos, eos, end = (tok.token_to_id(t) for t in ("<|bos|>", "<|eos|>", "<|end|>"))
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=1024,
        rope_theta=10000.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=bos,
        eos_token_id=eos,
        attn_implementation="eager",  # faster than sdpa here, once compiled
    )
    torch.manual_seed(SEED)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    print(f"backbone: {sum(p.numel() for p in model.parameters())} parameters")
    train(model, Feed(corpus, "base", tok, 0.15, BASE_BATCH), steps, BASE_LR, "base", muon=True)
    model.generation_config = GenerationConfig(
        bos_token_id=bos, eos_token_id=[eos, end], pad_token_id=eos, do_sample=True, temperature=0.8, top_p=0.95
    )
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)


def make_adapter(corpus, name, base_folder, folder, steps):
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

    rank, alpha, lr, full_steps = ADAPTERS[name]
    tok = Tokenizer.from_file(str(base_folder / "tokenizer.json"))
    torch.manual_seed(SEED)
    base = LlamaForCausalLM.from_pretrained(base_folder, dtype=torch.bfloat16, attn_implementation="eager")
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=LORA_TARGETS, task_type="CAUSAL_LM"
    )
    model = get_peft_model(base, config, autocast_adapter_dtype=False)
    for key, param in model.named_parameters():
        if "lora_" in key:
            param.data = param.data.to(torch.bfloat16)
    train(model, Feed(corpus, name, tok, 0.5, ADAPTER_BATCH), steps or full_steps, lr, name, muon=False)
    model.peft_config["default"].base_model_name_or_path = "demo"
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # peft's model card, empty
    path = folder / "adapter_model.safetensors"
    save_file({k: v.to(torch.bfloat16).contiguous() for k, v in load_file(path).items()}, path, {"format": "pt"})
    path.chmod(0o644)
    # Sets are written in no fixed order; sorted, two runs write the same file.
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["target_modules"] = sorted(config["target_modules"], key=LORA_TARGETS.index)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


# ---------------------------------------------------------------- what came of it


def perplexity(model, tok, text):
    """Of raw text, in windows of bos and WINDOW - 1 tokens (the last one shorter)."""
    import torch

    ids = tok.encode(text, add_special_tokens=False).ids
    bos = tok.token_to_id("<|bos|>")
    total = 0.0
    with torch.no_grad():
        for at in range(0, len(ids), WINDOW - 1):
            row = torch.tensor([[bos] + ids[at : at + WINDOW - 1]])
            logits = model(input_ids=row).logits[0, :-1].float()
            total += torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum").item()
    return math.exp(total / len(ids)), len(ids)


def report(base_folder, adapters_folder, samples):
    """The perplexity table and the sample answers, computed in f32 from the files as written."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    chat = AutoTokenizer.from_pretrained(base_folder)
    tok = chat.backend_tokenizer
    check = chat.apply_chat_template(
        [{"role": "user", "content": "Hi."}], tokenize=False, add_generation_prompt=True
    )
    assert check == "<|bos|><|user|>\nHi.<|end|>\n<|assistant|>\n", check
    end = [tok.token_to_id("<|end|>"), tok.token_to_id("<|eos|>")]

    texts = {n: (adapters_folder / n / "heldout.txt").read_text() for n in ADAPTERS}
    table, counts, answers = {}, {}, []
    for name in ["base", *ADAPTERS]:
        model = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
        if name != "base":
            model = PeftModel.from_pretrained(model, adapters_folder / name)
        model.eval()
        table[name] = {}
        for text_name, text in texts.items():
            value, counts[text_name] = perplexity(model, tok, text)
            table[name][text_name] = round(value, 3)
        prompts = PROMPTS + (list(OWN_PROMPTS.values()) if name == "base" else [OWN_PROMPTS[name]])
        for prompt in prompts:
            # As text: the same whatever apply_chat_template returns in this version.
            text = chat.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
            ids = torch.tensor([tok.encode(text, add_special_tokens=False).ids])
            for kind in ["greedy"] + [f"seed {i}" for i in range(samples)]:
                torch.manual_seed(int(kind.split()[-1]) if kind != "greedy" else 0)
                how = dict(do_sample=False, temperature=None, top_p=None)
                if kind != "greedy":
                    how = dict(do_sample=True, temperature=0.7, top_p=0.9)
                out = model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=100,
                    eos_token_id=end,
                    pad_token_id=end[1],
                    **how,
                )
                answers.append((name, prompt, kind, tok.decode(out[0, ids.shape[1] :].tolist())))

    print("\nperplexity on held-out text")
    print(f"{'':12}" + "".join(f"{n:>12}" for n in ADAPTERS))
    for name in ["base", *ADAPTERS]:
        print(f"{name:12}" + "".join(f"{table[name][n]:12.2f}" for n in ADAPTERS))
    for name, prompt, kind, answer in answers:
        print(f"\n[{name}] {prompt} ({kind})\n{answer}")
    (adapters_folder / "perplexity.json").write_text(
        json.dumps({"window": WINDOW, "tokens": counts, "perplexity": table}, indent=2) + "\n"
    )
    for name in ADAPTERS:
        others = [table[n][name] for n in ["base", *ADAPTERS] if n != name]
        if table[name][name] >= min(others):
            print(f"warning: {name} is not the best on its own text")


def main():
    parser = argparse.ArgumentParser(
        description="Make the demo backbone and its adapters; the top of this file says from what."
    )
    home = Path(__file__).resolve().parent.parent / "models"
    parser.add_argument("--out", type=Path, default=home, help="where demo/ and demo-adapters/ go")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a few steps of everything, to try the script")
    parser.add_argument("--samples", type=int, default=2, help="sampled answers shown per prompt")
    parser.add_argument(
        "--stages",
        default="tokenizer,base,adapters,report",
        help="which to run, by name; earlier ones' files are read from --out",
    )
    parser.add_argument("--adapters", default=",".join(ADAPTERS), help="which adapters to make")
    args = parser.parse_args()
    check_packages()

    import torch
    import transformers

    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    base_folder, adapters_folder = args.out / "demo", args.out / "demo-adapters"
    stages = args.stages.split(",")

    corpus = Corpus()
    for name in ["base", *ADAPTERS]:
        chars = sum(map(len, corpus.plain[name]))
        talk = sum(len(q) + len(a) for q, a in corpus.chats[name])
        held = len(corpus.heldout.get(name, "").encode())
        print(f"{name}: {chars} characters plain, {len(corpus.chats[name])} chats of {talk}, held out {held} bytes")
    if "tokenizer" in stages:
        make_tokenizer(corpus, base_folder)
    if "base" in stages:
        make_base(corpus, base_folder, 12 if args.quick else BASE_STEPS)
    if "adapters" in stages:
        for name in args.adapters.split(","):
            folder = adapters_folder / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "heldout.txt").write_text(corpus.heldout[name] + "\n")
            make_adapter(corpus, name, base_folder, folder, 6 if args.quick else None)
    if "report" in stages:
        report(base_folder, adapters_folder, args.samples)


if __name__ == "__main__":
    main()
