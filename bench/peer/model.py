"""The peer's model file (GGUF): random weights in the shape of one of our checkpoints, each matrix
in the type that llama-quantize gives it by default. Speed does not depend on the weights' values,
so blocks are made of random bytes; only their scales are set, so that logits stay finite.

Read from the checkpoint: config.json (the shape) and tokenizer.json (the vocabulary, so that the
peer loads and answers in text).
"""
import json
import math
import os
from pathlib import Path

import gguf
import numpy

from cells import PEER_QUANTS

TYPES = gguf.GGMLQuantizationType
ARCHITECTURES = {"qwen2": ("qwen2", "qwen2"), "llama": ("llama", "llama-bpe")}
SPREAD = 0.02  # standard deviation of the weights
Q6_K_BLOCK = 256

# Where a block keeps its float16 scale, and the standard deviation of what it scales.
SCALES = {TYPES.Q8_0: (0, 73.9), TYPES.Q4_0: (0, 4.61), TYPES.Q6_K: (208, 18.5)}


def matrix_type(quant):
    return TYPES[PEER_QUANTS[quant]]


def head_type(quant, columns):
    """The head, which is the embedding where they are tied, keeps more bits than Q4_0."""
    if quant != "int4":
        return matrix_type(quant)
    return TYPES.Q6_K if columns % Q6_K_BLOCK == 0 else TYPES.Q8_0


def tensors(config, quant):
    """[(name, (outputs, inputs) or (size,), type)] in the order of the file."""
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    head = config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    tied = config["tie_word_embeddings"]
    matrix, single = matrix_type(quant), TYPES.F32
    vocabulary = (config["vocab_size"], hidden)
    all_tensors = [("token_embd.weight", vocabulary,
                    head_type(quant, hidden) if tied else matrix)]
    if config["rope_scaling"]:
        all_tensors.append(("rope_freqs.weight", (head // 2,), single))
    biased = config["model_type"] == "qwen2"
    for layer in range(config["num_hidden_layers"]):
        parts = [("attn_norm.weight", (hidden,), single)]
        for name, size in (("attn_q", queries), ("attn_k", keys), ("attn_v", keys)):
            parts.append((name + ".weight", (size, hidden), matrix))
            if biased:
                parts.append((name + ".bias", (size,), single))
        parts += [("attn_output.weight", (hidden, queries), matrix),
                  ("ffn_norm.weight", (hidden,), single),
                  ("ffn_gate.weight", (ffn, hidden), matrix),
                  ("ffn_up.weight", (ffn, hidden), matrix),
                  ("ffn_down.weight", (hidden, ffn), matrix)]
        all_tensors += [(f"blk.{layer}.{name}", shape, kind) for name, shape, kind in parts]
    all_tensors.append(("output_norm.weight", (hidden,), single))
    if not tied:
        all_tensors.append(("output.weight", vocabulary, head_type(quant, hidden)))
    return all_tensors


def bytes_per_row(kind, columns):
    block, size = gguf.GGML_QUANT_SIZES[kind]
    if columns % block != 0:
        raise ValueError(f"{columns} columns are no whole number of {kind.name} blocks of {block}")
    return columns // block * size


def token_bytes(config, quant):
    """Bytes of weights that a token of decoding reads: all but an embedding beside the head."""
    total = 0
    for name, shape, kind in tensors(config, quant):
        if config["tie_word_embeddings"] or name != "token_embd.weight":
            total += 4 * shape[0] if kind == TYPES.F32 else shape[0] * bytes_per_row(kind, shape[1])
    return total


def random_rows(random, kind, rows, columns):
    """Rows of a matrix as the bytes of the file, (rows, bytes)."""
    width = bytes_per_row(kind, columns)
    data = random.integers(0, 256, size=(rows, width), dtype=numpy.uint8)
    if kind == TYPES.BF16:  # any sign and mantissa, 2^-7 to 2^-5
        words = data.view(numpy.uint16)
        words &= 0x80FF
        words |= 0x3C00
        return data
    offset, unit = SCALES[kind]
    block = gguf.GGML_QUANT_SIZES[kind][1]
    blocks = data.reshape(rows, width // block, block)
    if kind == TYPES.Q6_K:
        blocks[..., 192:208] = 1  # the scales within a block
    scale = numpy.frombuffer(numpy.float16(SPREAD / unit).tobytes(), numpy.uint8)
    blocks[..., offset:offset + 2] = scale
    return data


def rope_factors(config):
    """By what Llama 3 divides each frequency: 1, `factor`, or between."""
    s = config["rope_scaling"]
    old = s["original_max_position_embeddings"]
    low, high = s["low_freq_factor"], s["high_freq_factor"]
    factors = []
    for i in range(0, config["head_dim"], 2):
        wavelength = 2 * math.pi * config["rope_theta"] ** (i / config["head_dim"])
        smooth = min(max((old / wavelength - low) / (high - low), 0), 1)
        factors.append(1 / ((1 - smooth) / s["factor"] + smooth))
    return numpy.array(factors, numpy.float32)


def vocabulary(checkpoint):
    """Tokens in the order of their ids, and the ids that are control tokens or raw bytes."""
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
    by_id = {i: token for token, i in tokenizer["model"]["vocab"].items()}
    added = {t["id"]: t["content"] for t in tokenizer["added_tokens"]}
    by_id.update(added)
    if sorted(by_id) != list(range(len(by_id))):
        raise ValueError(f"{checkpoint}/tokenizer.json: the ids have gaps")
    silent = sorted(i for i, token in by_id.items() if i in added or len(token) == 1)
    return [by_id[i] for i in range(len(by_id))], set(added), silent


def describe(writer, config, checkpoint):
    """Every key but the tensors. Returns the ids that must never be generated."""
    writer.add_name(checkpoint.name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    tokens, control, silent = vocabulary(checkpoint)
    kinds = [gguf.TokenType.CONTROL if i in control else gguf.TokenType.NORMAL
             for i in range(len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(ARCHITECTURES[config["model_type"]][1])
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([f"{tokens[0]} {tokens[1]}"])  # an empty list has no type
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)
    return silent


def write_tensors(writer, config, quant, silent):
    random = numpy.random.default_rng(1)
    listed = tensors(config, quant)
    for name, shape, kind in listed:
        if kind == TYPES.F32:
            writer.add_tensor_info(name, shape, numpy.dtype(numpy.float32), 4 * shape[0])
        else:
            width = bytes_per_row(kind, shape[1])
            writer.add_tensor_info(name, (shape[0], width), numpy.dtype(numpy.uint8),
                                   shape[0] * width, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, shape, kind in listed:
        if name == "rope_freqs.weight":
            data = rope_factors(config)
        elif kind == TYPES.F32:
            data = numpy.full(shape, 1 if name.endswith("_norm.weight") else 0, numpy.float32)
        else:
            data = random_rows(random, kind, *shape)
            # A server answers raw bytes and control tokens with an error: their logits are 0.
            if name == ("token_embd.weight" if config["tie_word_embeddings"] else "output.weight"):
                data[silent] = 0
        writer.write_tensor_data(data)


def write_file(path, architecture, fill):
    """`fill(writer)`; the file appears under its name only when it is complete."""
    unfinished = path.with_suffix(".part")
    writer = gguf.GGUFWriter(unfinished, architecture)
    try:
        fill(writer)
        writer.close()
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def read_config(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    if config["model_type"] not in ARCHITECTURES:
        raise ValueError(f"{checkpoint}: no model file for the peer can be made of "
                         f"\"{config['model_type']}\", only of {', '.join(ARCHITECTURES)}")
    return config


def write_model(checkpoint, quant, path):
    """Writes the model file unless it is there; returns its path."""
    checkpoint, path = Path(checkpoint), Path(path)
    if path.exists():
        return path
    config = read_config(checkpoint)

    def fill(writer):
        write_tensors(writer, config, quant, describe(writer, config, checkpoint))

    return write_file(path, ARCHITECTURES[config["model_type"]][0], fill)


def adapter_tensors(config, rank):
    """[(name, shape)] of a LoRA on all seven linears."""
    pairs = []
    for name, shape, kind in tensors(config, "bf16"):
        if name.startswith("blk.") and kind != TYPES.F32:
            pairs += [(name + ".lora_a", (rank, shape[1])), (name + ".lora_b", (shape[0], rank))]
    return pairs


def write_adapter(checkpoint, rank, seed, path):
    """A LoRA adapter of this rank in float16 unless it is there; returns its path."""
    checkpoint, path = Path(checkpoint), Path(path)
    if path.exists():
        return path
    config = read_config(checkpoint)
    random = numpy.random.default_rng(seed)

    def fill(writer):
        writer.add_type("adapter")
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 2.0 * rank)
        for name, shape in adapter_tensors(config, rank):
            data = random.normal(0, SPREAD, shape).astype(numpy.float16)
            writer.add_tensor(name, data)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()

    return write_file(path, ARCHITECTURES[config["model_type"]][0], fill)
