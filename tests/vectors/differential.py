#!/usr/bin/env python3
"""Random small models and adapters, each through transformers + peft and through our packer and
engine: `make differential`, with SEED=, CASES= and CASE= (only this one).

Each case is a folder of the form of tests/vectors/parity with one model and a few adapters, which
test_parity reads. A difference prints the case, keeps its folder in build/differential and says how
to run it again. So does a refusal, unless the case was made to be refused.
"""

import argparse
import json
import random
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import (Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM,
                          MistralConfig, MistralForCausalLM, Phi3Config, Phi3ForCausalLM,
                          Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM)

import reference
from make_parity_vectors import ATTENTION, MLP, Cases, NoPrompt, bf16, f16, f32, fused

ROOT = Path(__file__).resolve().parent.parent.parent
ADAPTER_ATTEMPTS = 50
GREEDY = 6
OTHER_RANK = "lm_head"  # in the sentence about its shapes
CONTEXT = 128
NOISE = 5e-5  # a quarter of what may differ


def chance(rng, probability):
    return rng.random() < probability


def some(rng, items):
    return rng.sample(items, rng.randint(1, len(items)))


# --- models ---

def random_rope(rng):
    theta = round(10 ** rng.uniform(2, 6), 1)
    kind = rng.choice(["default", "default", "linear", "llama3"])
    more = {}
    if kind == "linear":
        more = dict(factor=rng.choice([1.0, 2.5, 8.0]))
    elif kind == "llama3":
        more = dict(factor=rng.choice([2.0, 8.0, 32.0]), low_freq_factor=1.0,
                    high_freq_factor=rng.choice([2.0, 4.0]),
                    original_max_position_embeddings=rng.randint(20, 100))
    return dict(rope_type=kind, rope_theta=theta, **more)


def random_sizes(rng, own_head_dim):
    """Sizes that divide no power of two, where the classes allow them."""
    heads = rng.randint(1, 9)
    kv_heads = rng.choice([n for n in range(1, heads + 1) if heads % n == 0])
    per_head = rng.randint(3, max(4, 72 // heads))
    sizes = dict(num_attention_heads=heads, num_key_value_heads=kv_heads,
                 num_hidden_layers=rng.randint(1, 4), intermediate_size=rng.randint(5, 90),
                 vocab_size=rng.randint(12, 300), max_position_embeddings=CONTEXT,
                 rms_norm_eps=rng.choice([1e-6, 1e-5, 1e-3]),
                 tie_word_embeddings=chance(rng, 0.5))
    if own_head_dim and chance(rng, 0.6):
        sizes["head_dim"] = 2 * rng.randint(2, 14)
    else:
        per_head = max(4, per_head // 2 * 2)
        if own_head_dim:
            sizes["head_dim"] = per_head
    return dict(sizes, hidden_size=heads * per_head)


def random_llama(rng):
    return dict(random_sizes(rng, True), rope_parameters=random_rope(rng),
                attention_bias=chance(rng, 0.3), mlp_bias=chance(rng, 0.3))


def random_mistral(rng):
    return dict(random_sizes(rng, True), rope_parameters=random_rope(rng),
                sliding_window=rng.choice([None, rng.randint(1, 20)]))


def random_qwen2(rng):
    sizes = random_sizes(rng, False)
    window = rng.choice([None, rng.randint(1, 20)])
    kinds = ["full_attention", "sliding_attention" if window is not None else "full_attention"]
    listed = dict(layer_types=[rng.choice(kinds) for _ in range(sizes["num_hidden_layers"])])
    return dict(sizes, rope_parameters=random_rope(rng), use_sliding_window=window is not None,
                sliding_window=window, max_window_layers=rng.randint(0, 3),
                **rng.choice([listed, {}]))


def random_qwen3(rng):
    return dict(random_qwen2(rng), head_dim=2 * rng.randint(2, 14),
                attention_bias=chance(rng, 0.3))


def random_gemma3(rng):
    sizes = random_sizes(rng, True)
    kinds = ["sliding_attention", "full_attention"]
    full = dict(rope_type="default", rope_theta=round(10 ** rng.uniform(3, 6), 1))
    if chance(rng, 0.4):
        full.update(rope_type="linear", factor=rng.choice([2.0, 8.0]))
    local = dict(rope_type="default", rope_theta=round(10 ** rng.uniform(2, 5), 1))
    return dict(sizes, query_pre_attn_scalar=rng.randint(4, 40),
                attention_bias=chance(rng, 0.3), sliding_window=rng.randint(1, 20),
                layer_types=[rng.choice(kinds) for _ in range(sizes["num_hidden_layers"])],
                rope_parameters=dict(sliding_attention=local, full_attention=full))


def random_phi3(rng):
    sizes = random_sizes(rng, False)
    head_dim = sizes["hidden_size"] // sizes["num_attention_heads"]
    turning = 2 * rng.randint(1, head_dim // 2)
    part = rng.choice([1.0, turning / head_dim])
    if int(head_dim * part) % 2 != 0:
        part = 1.0
    rope = dict(rope_type="default", rope_theta=round(10 ** rng.uniform(2, 5), 1),
                partial_rotary_factor=part)
    original = 4096
    if chance(rng, 0.6):
        pairs = int(head_dim * part) // 2
        original = rng.randint(8, 60)
        rope.update(rope_type="longrope",
                    short_factor=[round(rng.uniform(1, 3), 3) for _ in range(pairs)],
                    long_factor=[round(rng.uniform(1, 30), 3) for _ in range(pairs)])
        if chance(rng, 0.2):
            rope["attention_factor"] = round(rng.uniform(0.8, 1.5), 3)
    return dict(sizes, rope_parameters=rope, original_max_position_embeddings=original,
                sliding_window=rng.choice([None, rng.randint(1, 20)]))


FAMILIES = {
    "Llama": (LlamaConfig, LlamaForCausalLM, random_llama),
    "Mistral": (MistralConfig, MistralForCausalLM, random_mistral),
    "Qwen2": (Qwen2Config, Qwen2ForCausalLM, random_qwen2),
    "Qwen3": (Qwen3Config, Qwen3ForCausalLM, random_qwen3),
    "Gemma 3": (Gemma3TextConfig, Gemma3ForCausalLM, random_gemma3),
    "Phi-3": (Phi3Config, Phi3ForCausalLM, random_phi3),
}


def spell_as_before(c):
    """config.json as it was written before transformers 5."""
    rope = c.pop("rope_parameters")
    c["torch_dtype"] = c.pop("dtype")
    if c["model_type"] == "gemma3_text":
        c["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    c["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        c["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    rope.pop("original_max_position_embeddings" if c["model_type"] == "phi3" else None, None)
    c["rope_scaling"] = rope if rope["rope_type"] != "default" else None


# --- adapters ---

def random_targets(rng, attention, mlp):
    kind = rng.random()
    if kind < 0.15:
        return "all-linear"
    if kind < 0.3:
        names = "|".join(some(rng, attention + mlp))
        return r"model\.layers\.\d+\.(self_attn|mlp)\." + f"({names})"
    return some(rng, attention + mlp)


def random_patterns(rng, names, values):
    patterns = {}
    for name in some(rng, names):
        layer = rng.choice(["", "", f"layers.{rng.randint(0, 3)}.*", ".*"])
        patterns[layer + name] = rng.choice(values)
    return patterns


def random_adapter(rng, attention, mlp, tied):
    names = attention + mlp
    rank = rng.choice([1, 2, 3, 4, 5, 8, 16, 75])
    settings = dict(r=rank, lora_alpha=rng.randint(1, 2 * rank), use_rslora=chance(rng, 0.35),
                    use_dora=chance(rng, 0.35),
                    bias=rng.choice(["none", "none", "all", "lora_only"]),
                    target_modules=random_targets(rng, attention, mlp))
    if settings["use_rslora"]:
        settings["lora_alpha"] = rng.randint(1, int(2 * rank ** 0.5))
    arguments = dict(embedding_layers=rng.choice(["auto", False]))
    if isinstance(settings["target_modules"], list):
        settings["target_modules"] += [n for n in ("embed_tokens", "lm_head") if chance(rng, 0.2)]
        if chance(rng, 0.2):
            settings["layers_to_transform"] = rng.choice([rng.randint(0, 3), [0, 2], [1]])
            settings["layers_pattern"] = rng.choice([None, "layers", ["layers"]])
    if chance(rng, 0.3):
        settings["rank_pattern"] = random_patterns(rng, names + ["lm_head"], [1, 2, 3, 6, 9])
    if chance(rng, 0.3):
        settings["alpha_pattern"] = random_patterns(rng, names + ["embed_tokens"], [1, 2, 3])
    if chance(rng, 0.2):
        settings["exclude_modules"] = rng.choice([
            some(rng, names), r".*\.layers\.0\..*", [f"layers.0.mlp.{mlp[-1]}"]])
    if chance(rng, 0.3):
        settings["modules_to_save"] = some(rng, ["lm_head", "embed_tokens", "model.norm", "norm",
                                                 "input_layernorm", "post_attention_layernorm"])
    if tied and chance(rng, 0.3):
        settings["ensure_weight_tying"] = True
    if chance(rng, 0.2):
        arguments["edit"] = lambda config: config.update(fan_in_fan_out=True)
    arguments["dtype"] = rng.choice([f32, bf16])
    if chance(rng, 0.2):
        arguments["recast"] = rng.choice([f32, f16, bf16])
    return settings, arguments


# --- cases ---

def make_adapter(rng, folder, name, attention, mlp, tied):
    """One that peft takes: it refuses, say, to adapt nothing, or to save what is adapted."""
    for _ in range(ADAPTER_ATTEMPTS):
        settings, arguments = random_adapter(rng, attention, mlp, tied)
        try:
            reference.save_adapter(folder, folder / "adapters" / name, settings,
                                   rng.getrandbits(32), **arguments)
            return settings, reference.load(folder, folder / "adapters" / name)
        except (TypeError, ValueError):
            shutil.rmtree(folder / "adapters" / name, ignore_errors=True)
    raise SystemExit(f"{folder}: no adapter that peft takes")


def refusal(model):
    """Why we do not take what peft takes, or None."""
    for layer in model.modules():
        for name, a in getattr(layer, "lora_A", {}).items():
            if a.weight.shape[0] != layer.r[name]:
                return OTHER_RANK  # a tied head's own: peft takes it for the scale only
    return None


def make_case(rng, folder):
    """Says what was made."""
    family = rng.choice(list(FAMILIES))
    config_class, model_class, draw = FAMILIES[family]
    settings = draw(rng)
    model = folder / "model"
    config = config_class(**settings, **reference.special_ids(settings["vocab_size"]))
    dtype = rng.choice([f32, bf16, f16])
    reference.save_model(model, config, model_class, dtype, rng.getrandbits(32),
                         shard=rng.choice([None, None, "20KB"]))
    if chance(rng, 0.4):
        reference.edit_json(model / "config.json", spell_as_before)
    low = rng.randint(1, 60)
    cases = Cases(model, family, settings["vocab_size"], GREEDY, [(low, low + 8)], CONTEXT,
                  noise_max=NOISE, report=lambda line: None)
    cases.add("bare", None, rng.getrandbits(32))
    attention, mlp = ATTENTION, MLP
    if model_class is Phi3ForCausalLM:
        attention, mlp = fused(attention), fused(mlp)
    made = [f"{family}, {dtype}: {json.dumps(settings)}"]
    for i in range(rng.randint(1, 4)):
        adapter, loaded = make_adapter(rng, model, f"a{i}", attention, mlp,
                                       settings["tie_word_embeddings"])
        words = refusal(loaded)
        if words is not None:
            cases.refuse("random", f"a{i}", words)
        else:
            cases.add("random", f"a{i}", rng.getrandbits(32))
        made.append(f"a{i}: {json.dumps(adapter, default=str)}")
    cases.write()
    manifest = {"features": ["bare", "random"], "families": {family: ["model"]}}
    (folder / "manifest.json").write_text(json.dumps(manifest) + "\n")
    return made, len(cases.cases)


def run_case(seed, number, build):
    """(differs, adapters compared)"""
    folder = ROOT / build / "differential" / f"{seed}-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rng = random.Random(f"{seed}/{number}")
    while True:
        try:
            made, count = make_case(rng, folder)
            break
        except NoPrompt:
            shutil.rmtree(folder / "model")
    program = ROOT / build / "tests" / "test_parity"
    done = subprocess.run([program, "--root", folder], cwd=ROOT, text=True, errors="replace",
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    if done.returncode == 0:
        shutil.rmtree(folder)
        return False, count
    print(f"case {number} of seed {seed} differs:", *made, sep="\n  ")
    print(done.stdout)
    print(f"run it again: make differential SEED={seed} CASE={number}\n"
          f"  or, with the files as they lie now: {build}/tests/test_parity --root {folder}\n",
          flush=True)
    return True, count


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", default="build")
    parser.add_argument("--seed", type=int, default=secrets.randbits(31))
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--case", type=int, help="only this one of the seed")
    options = parser.parse_args()
    reference.be_quiet()
    torch.set_num_threads(1)
    numbers = range(options.cases) if options.case is None else [options.case]
    print(f"differential: seed {options.seed}, {len(numbers)} cases", flush=True)
    failed = compared = 0
    began = time.monotonic()
    for number in numbers:
        differs, count = run_case(options.seed, number, options.build)
        failed += differs
        compared += count
        if (number + 1) % 20 == 0:
            print(f"  {number + 1} cases, {compared} models and adapters, {failed} differ, "
                  f"{time.monotonic() - began:.0f} s", flush=True)
    print(f"differential: seed {options.seed}, {len(numbers)} cases, {failed} differ")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
