"""Runs in the Python that has the package llama_cpp: decodes or reads a prompt as llama-bench and
llama-batched-bench do, after a warm-up, and prints {"tok_s"}.
"""
import argparse
import json
import time

import llama_cpp as api

UBATCH = 512
KV_ROUND = 256


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True, help="sequences at a time")
    parser.add_argument("--prompt", type=int, required=True, help="tokens of each prompt")
    parser.add_argument("--tokens", type=int, required=True, help="to decode; 0: prompt only")
    parser.add_argument("--flash", type=int, default=0)
    parser.add_argument("--unified", action="store_true")
    return parser.parse_args()


def open_context(model, a):
    length = -(-(a.prompt + a.tokens) // KV_ROUND) * KV_ROUND
    params = api.llama_context_default_params()
    params.n_ctx = a.batch * length
    params.n_batch = max(2048, a.batch)
    params.n_ubatch = UBATCH
    params.n_seq_max = a.batch
    params.n_threads = params.n_threads_batch = a.threads
    params.flash_attn_type = a.flash
    params.kv_unified = a.unified
    context = api.llama_init_from_model(model, params)
    if not context:
        raise SystemExit("llama_init_from_model failed")
    return context


def step(context, batch, rows, vocabulary):
    """One decode of [(sequence, position, wants logits)]."""
    batch.n_tokens = len(rows)
    for i, (sequence, position, wanted) in enumerate(rows):
        batch.token[i] = (i * 7919 + position * 104729 + 1000) % vocabulary
        batch.pos[i] = position
        batch.n_seq_id[i] = 1
        batch.seq_id[i][0] = sequence
        batch.logits[i] = wanted
    if api.llama_decode(context, batch) != 0:
        raise SystemExit("llama_decode failed")
    api.llama_synchronize(context)


def prompts(context, batch, a, vocabulary):
    rows = [(s, p, p == a.prompt - 1) for s in range(a.batch) for p in range(a.prompt)]
    if rows:
        step(context, batch, rows, vocabulary)


def main():
    a = arguments()
    api.llama_backend_init()
    model = api.llama_model_load_from_file(a.model.encode(), api.llama_model_default_params())
    if not model:
        raise SystemExit(f"cannot load {a.model}")
    vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
    context = open_context(model, a)
    batch = api.llama_batch_init(max(a.batch * max(a.prompt, 1), 16), 0, 1)
    memory = api.llama_get_memory(context)
    prompts(context, batch, a, vocabulary)  # the warm-up touches every weight
    if a.tokens > 0:
        step(context, batch, [(0, a.prompt, 1)], vocabulary)
    api.llama_memory_clear(memory, False)
    began = time.perf_counter()
    prompts(context, batch, a, vocabulary)
    if a.tokens > 0:
        began = time.perf_counter()
        for t in range(a.tokens):
            step(context, batch, [(s, a.prompt + t, 1) for s in range(a.batch)], vocabulary)
    took = time.perf_counter() - began
    print(json.dumps({"tok_s": a.batch * (a.tokens or a.prompt) / took}))


if __name__ == "__main__":
    main()
