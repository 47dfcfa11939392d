#!/usr/bin/env python3
"""Writes tests/vectors/sampling/expected.json: what transformers' logits processors make of a few rows of logits.

Run from the repository root with torch and transformers installed. Each case holds a request's parameters and the tokens
that its sequence has so far; `edited` is each logit that logit_bias, min_tokens or a penalty changed (null: masked), `p` the
probabilities after temperature, top-k, top-p and min-p. frequency_penalty and presence_penalty have no processor in
transformers: they follow the formula in OpenAI's documentation. Logits are distinct, edited or not: where two are equal, transformers'
top-k keeps both, and this project the lower id.
"""

import json
import pathlib

import torch
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

OUT = pathlib.Path(__file__).parent / "sampling"
VOCAB = 120
SPREADS = (1.0, 2.5, 5.0)
STOPS = [3, 77]

FILTERS = [
    {},
    {"temperature": 0.6},
    {"temperature": 1.7},
    {"top_k": 12},
    {"top_p": 0.8},
    {"min_p": 0.08},
    {"temperature": 1.3, "top_k": 40, "top_p": 0.9},
    {"temperature": 0.8, "top_p": 0.95, "min_p": 0.05},
    {"temperature": 2.0, "top_k": 60, "top_p": 0.7, "min_p": 0.1},
]
BIAS = {"5": 4.51, "17": -100, "60": 2.23, "3": 1.47}
EDITS = [
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.8, "temperature": 0.9},
    {"presence_penalty": 1.47},
    {"presence_penalty": -0.73, "top_p": 0.9},
    {"frequency_penalty": 0.91},
    {"frequency_penalty": -0.43, "top_k": 25},
    {"logit_bias": BIAS},
    {"logit_bias": BIAS, "min_p": 0.05},
    {"min_tokens": 30},
    {"min_tokens": 5},
    {"min_tokens": 30, "logit_bias": BIAS, "top_k": 30},
    {
        "repetition_penalty": 1.15, "presence_penalty": 0.61, "frequency_penalty": 0.37, "logit_bias": BIAS,
        "min_tokens": 30, "temperature": 0.9, "top_k": 50, "top_p": 0.92, "min_p": 0.02,
    },
]


def rows(generator):
    """Distinct multiples of 1/256, which JSON and float32 both hold exactly."""
    for spread in SPREADS:
        while True:
            row = (torch.randn(VOCAB, generator=generator) * spread * 256).round() / 256
            if len(set(row.tolist())) == VOCAB:
                break
        yield row


def edit(case, logits, prompt, generated):
    known = torch.tensor([prompt + generated])
    scores = logits[None].clone()
    processors = LogitsProcessorList()
    if "logit_bias" in case:
        processors.append(SequenceBiasLogitsProcessor([[[int(t)], float(b)] for t, b in case["logit_bias"].items()]))
    if "min_tokens" in case:
        processors.append(MinNewTokensLengthLogitsProcessor(len(prompt), case["min_tokens"], STOPS, device="cpu"))
    if "repetition_penalty" in case:
        processors.append(RepetitionPenaltyLogitsProcessor(case["repetition_penalty"]))
    scores = processors(known, scores)[0]
    counts = torch.bincount(torch.tensor(generated), minlength=VOCAB)
    scores = scores - counts * case.get("frequency_penalty", 0)
    return scores - (counts > 0) * case.get("presence_penalty", 0)


def filtered(case, scores):
    warpers = LogitsProcessorList()
    if "temperature" in case:
        warpers.append(TemperatureLogitsWarper(case["temperature"]))
    if "top_k" in case:
        warpers.append(TopKLogitsWarper(case["top_k"]))
    if "top_p" in case:
        warpers.append(TopPLogitsWarper(case["top_p"]))
    if "min_p" in case:
        warpers.append(MinPLogitsWarper(case["min_p"]))
    return torch.softmax(warpers(None, scores[None])[0].double(), dim=-1)


def main():
    generator = torch.Generator().manual_seed(20)
    all_rows = list(rows(generator))
    cases = []
    for number, parameters in enumerate(FILTERS + EDITS):
        for row, logits in enumerate(all_rows):
            while True:
                prompt = torch.randint(VOCAB, (20,), generator=generator).tolist()
                generated = torch.randint(VOCAB // 4, (16,), generator=generator).tolist()
                scores = edit(parameters, logits, prompt, generated)
                if len(set(scores[scores.isfinite()].tolist())) == int(scores.isfinite().sum()):
                    break
            p = filtered(parameters, scores)
            cases.append({
                "row": row,
                "seed": 1000 * number + row,
                "parameters": parameters,
                "prompt": prompt,
                "generated": generated,
                "edited": [[t, x if x > float("-inf") else None] for t, x in enumerate(scores.tolist())
                           if x != logits[t]],
                "p": [[t, float(f"{x:.9g}")] for t, x in enumerate(p.tolist()) if x > 0],
            })
    OUT.mkdir(exist_ok=True)
    document = {"vocab": VOCAB, "stops": STOPS, "rows": [r.tolist() for r in all_rows], "cases": cases}
    text = json.dumps(document, separators=(",", ":")).replace('{"row"', '\n{"row"')
    (OUT / "expected.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
