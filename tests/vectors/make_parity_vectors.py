#!/usr/bin/env python3
"""Makes tests/vectors/parity: tiny random models and LoRA adapters with what transformers and peft
compute for them in float32. test_parity.c packs these files as a user's and compares.

    pip install torch transformers peft safetensors tokenizers
    python tests/vectors/make_parity_vectors.py [NAME ...]

manifest.json lists the families with their models, and the adapter features: each pair of the two
has a case. Each folder holds a Hugging Face checkpoint, adapters/NAME as PEFT saves them, and

  expected.json  cases: feature, adapter (null: the bare model), prompt, greedy ids and their
                 log-probabilities, logits_offset, logits_first; or refused, the words of why
  logits.bin     float32, little endian, [len(prompt) - logits_first, vocab] for each case, from
                 logits_offset on: the positions from logits_first on

The reference reads the files that are committed, after every change of dtype and spelling. Prompts
are drawn until no greedy step has its two best logits closer than GAP, so that the order of a sum
cannot flip a token, and until what the roundings of float32 do is below NOISE.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import (Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM,
                          MistralConfig, MistralForCausalLM, Phi3Config, Phi3ForCausalLM,
                          Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM)

import reference

OUT = Path(__file__).parent / "parity"
GAP = 2e-3
NOISE = 1e-4
ROUNDINGS = 4
PROMPTS_MAX = 40
f32, bf16, f16 = torch.float32, torch.bfloat16, torch.float16
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
FUSED = {"q_proj": "qkv_proj", "gate_proj": "gate_up_proj"}


def word(key, value):
    return lambda config: config.update({key: value})


# What an adapter can be, each with every family: (LoRA settings, arguments of save_adapter). The
# names of modules are those of the families that fuse nothing; fused() has the others.
FEATURES = {
    "plain": (dict(r=4, lora_alpha=8, target_modules=ATTENTION), {}),
    "rslora": (dict(r=4, lora_alpha=4, use_rslora=True, target_modules=ATTENTION + MLP), {}),
    "patterns": (dict(r=6, lora_alpha=6, target_modules=ATTENTION + MLP,
                      rank_pattern={"layers.0.self_attn.q_proj": 3, ".*down_proj": 5, "o_proj": 1},
                      alpha_pattern={"q_proj": 18, "model.layers.1.mlp.gate_proj": 1}), {}),
    "mixed-ranks": (dict(r=2, lora_alpha=3, target_modules=ATTENTION + MLP,
                         rank_pattern={"q_proj": 1, "o_proj": 7, "layers.1.mlp.down_proj": 16}),
                    {}),
    "high-rank": (dict(r=56, lora_alpha=40, target_modules=["q_proj"], layers_to_transform=[1]),
                  {}),
    "regex": (dict(r=2, lora_alpha=3, target_modules=r"model\.layers\.\d+\."
                   r"(self_attn\.(q_proj|qkv_proj)|mlp\.down_proj)"), {}),
    "all-linear": (dict(r=2, lora_alpha=3, target_modules="all-linear"), {}),
    # peft resolves the word when it saves; files that other tools wrote keep it.
    "all-linear-word": (dict(r=2, lora_alpha=4, target_modules="all-linear"),
                        dict(edit=word("target_modules", "all-linear"))),
    "exclude": (dict(r=2, lora_alpha=4, target_modules=ATTENTION + MLP,
                     exclude_modules=["o_proj", "layers.0.mlp.down_proj"]), {}),
    "exclude-regex": (dict(r=2, lora_alpha=4, target_modules="all-linear",
                           exclude_modules=r".*\.layers\.1\.mlp\..*"), {}),
    "layers": (dict(r=4, lora_alpha=4, target_modules=MLP, layers_to_transform=[1]), {}),
    "layers-pattern": (dict(r=4, lora_alpha=4, target_modules=ATTENTION, layers_to_transform=[0],
                            layers_pattern="layers"), {}),
    "bias-all": (dict(r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"], bias="all"), {}),
    "bias-lora-only": (dict(r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"],
                            bias="lora_only"), {}),
    "save-head": (dict(r=2, lora_alpha=4, target_modules=["q_proj"],
                       modules_to_save=["lm_head"]), {}),
    "save-embed": (dict(r=2, lora_alpha=4, target_modules=["q_proj"],
                        modules_to_save=["embed_tokens"]), {}),
    "save-embed-head": (dict(r=2, lora_alpha=4, target_modules=["down_proj"],
                             modules_to_save=["embed_tokens", "lm_head"]), {}),
    "save-tied": (dict(r=2, lora_alpha=4, target_modules=["q_proj"],
                       modules_to_save=["embed_tokens"], ensure_weight_tying=True), {}),
    # peft looks for the end of the name: every norm, those of q and k too
    "save-norms": (dict(r=2, lora_alpha=4, target_modules=["q_proj"], modules_to_save=["norm"]),
                   {}),
    "save-one-norm": (dict(r=2, lora_alpha=4, target_modules=["q_proj"],
                           modules_to_save=["input_layernorm"]), {}),
    # by default peft saves the backbone's matrix beside the adapter of an embedding
    "lora-embed": (dict(r=4, lora_alpha=8, target_modules=["q_proj", "embed_tokens"]), {}),
    "lora-head": (dict(r=4, lora_alpha=8, target_modules=["q_proj", "lm_head"]), {}),
    "lora-embed-head": (dict(r=4, lora_alpha=4, target_modules=["embed_tokens", "lm_head"],
                             use_rslora=True), dict(embedding_layers=False)),
    "lora-tied": (dict(r=3, lora_alpha=6, target_modules=["q_proj", "embed_tokens"],
                       ensure_weight_tying=True), {}),
    "lora-tied-head": (dict(r=3, lora_alpha=6, target_modules=["q_proj", "lm_head"],
                            ensure_weight_tying=True), {}),
    # peft says so and goes on without it
    "fan-in-fan-out": (dict(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj",
                                                               "embed_tokens"]),
                       dict(embedding_layers=False, edit=word("fan_in_fan_out", True))),
    "dora": (dict(r=4, lora_alpha=8, target_modules=ATTENTION + MLP, use_dora=True), {}),
    "dora-rslora": (dict(r=4, lora_alpha=4, target_modules=["q_proj", "o_proj", "down_proj"],
                         use_dora=True, use_rslora=True, bias="all"), {}),
    "dora-embed": (dict(r=4, lora_alpha=8, target_modules=["down_proj", "embed_tokens"],
                        use_dora=True), {}),
    "dora-head": (dict(r=4, lora_alpha=8, target_modules=["q_proj", "lm_head"], use_dora=True),
                  dict(embedding_layers=False)),
    "together": (dict(r=4, lora_alpha=6, use_dora=True, use_rslora=True, bias="all",
                      target_modules=ATTENTION + MLP + ["embed_tokens", "lm_head"],
                      exclude_modules=["layers.0.self_attn.o_proj"], modules_to_save=["norm"],
                      rank_pattern={"q_proj": 2, "lm_head": 3, "embed_tokens": 5},
                      alpha_pattern={"down_proj": 9, "embed_tokens": 2}),
                 dict(embedding_layers=False)),
}

# Adapters of the first models, before there was a list of features: (feature, settings, dtype)
ADAPTERS = {
    "r1": ("plain", dict(r=1, lora_alpha=2, target_modules=["q_proj", "v_proj"]), None),
    "r4-rslora": ("rslora", dict(r=4, lora_alpha=8, use_rslora=True, target_modules=ATTENTION),
                  None),
    "r8-all": ("plain", dict(r=8, lora_alpha=16, target_modules=ATTENTION + MLP), bf16),
    "r64": ("high-rank", dict(r=64, lora_alpha=32, target_modules=["k_proj", "down_proj"]), bf16),
    "patterns": ("patterns",
                 dict(r=8, lora_alpha=8, target_modules=ATTENTION + MLP,
                      rank_pattern={"layers.0.self_attn.q_proj": 3, ".*down_proj": 5, "k_proj": 1},
                      alpha_pattern={"q_proj": 24, "model.layers.1.mlp.gate_proj": 1}), bf16),
    "mlp-layer0": ("layers", dict(r=4, lora_alpha=4, target_modules=MLP, layers_to_transform=[0]),
                   None),
    "regex": ("regex", dict(r=2, lora_alpha=3,
                            target_modules=r"model\.layers\.\d+\.self_attn\.(k|o)_proj"), None),
    "r16-f16": ("plain", dict(r=16, lora_alpha=24, target_modules=["o_proj", "up_proj"]), f16),
}
FEW = ["r1", "r8-all"]
ALL = list(ADAPTERS)


def sizes(hidden, layers, heads, kv_heads, ffn, vocab, **more):
    return dict(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
                num_key_value_heads=kv_heads, intermediate_size=ffn, vocab_size=vocab, **more)


def rope(theta, kind="default", **more):
    return {"rope_parameters": {"rope_theta": theta, "rope_type": kind, **more}}


def old_rope(**scaling):
    """config.json as transformers wrote it before version 5."""
    def edit(c):
        parameters = c.pop("rope_parameters")
        c["rope_theta"] = parameters["rope_theta"]
        c["rope_scaling"] = scaling or None
        c["torch_dtype"] = c.pop("dtype")
    return edit


# The first three wavelengths of theta 500000 and 16 values a head are 6, 32 and 167 positions: one
# in each band (kept, blended, divided).
LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=100)

# name: (family, config class, model class, settings, dtype, adapters, seed, chat template, size of
# a shard, change of config.json)
FIRST_MODELS = {
    # odd head count, multi-head attention, untied
    "llama-mha": ("Llama 2", LlamaConfig, LlamaForCausalLM,
                  sizes(48, 2, 3, 3, 64, 263, **rope(10000.0)), f32, FEW, 1),
    # grouped queries, tied, llama3 rope, several shards
    "llama3-gqa": ("Llama 3", LlamaConfig, LlamaForCausalLM,
                   sizes(64, 2, 4, 2, 96, 272, tie_word_embeddings=True,
                         **rope(500000.0, "llama3", **LLAMA3)), bf16, ALL, 2, "jinja", "60KB"),
    # every bias, one key-value head, head_dim that is no hidden / heads, linear rope, old spelling
    "llama-bias": ("Llama 2", LlamaConfig, LlamaForCausalLM,
                   sizes(40, 3, 5, 1, 56, 259, head_dim=12, attention_bias=True, mlp_bias=True,
                         **rope(20000.0, "linear", factor=2.0)), f16, FEW, 3, "list", None,
                   old_rope(type="linear", factor=2.0)),
    # a window shorter than the prompt and the continuation
    "mistral-window": ("Mistral v0.1", MistralConfig, MistralForCausalLM,
                       sizes(48, 2, 6, 3, 80, 265, sliding_window=8, **rope(10000.0)), f32, ALL, 4),
    "mistral-headdim": ("Mistral v0.3", MistralConfig, MistralForCausalLM,
                        sizes(32, 1, 3, 1, 48, 261, head_dim=20, sliding_window=None,
                              **rope(1000000.0)), bf16, FEW, 5, None, None, old_rope()),
    # biases on q, k, v; odd heads; tied
    "qwen2-tied": ("Qwen2.5", Qwen2Config, Qwen2ForCausalLM,
                   sizes(56, 2, 7, 1, 72, 270, tie_word_embeddings=True, **rope(1000000.0)), f16,
                   ALL, 6, "string", None, old_rope()),
    "qwen2-window": ("Qwen2.5", Qwen2Config, Qwen2ForCausalLM,
                     sizes(32, 2, 4, 4, 48, 260, use_sliding_window=True, sliding_window=10,
                           max_window_layers=0, **rope(10000.0)), f32, FEW, 7),
    # norms on q and k, head_dim of its own
    "qwen3": ("Qwen3", Qwen3Config, Qwen3ForCausalLM,
              sizes(48, 2, 5, 5, 64, 267, head_dim=16, **rope(1000000.0)), bf16, ALL, 8),
    "qwen3-bias": ("Qwen3", Qwen3Config, Qwen3ForCausalLM,
                   sizes(32, 3, 4, 2, 40, 266, head_dim=24, attention_bias=True,
                         tie_word_embeddings=True, **rope(5000.0)), f32, FEW, 9),
}

VOCAB = 112
SHORT = [(12, 19)]  # prompt lengths to draw from, [first, last), in turn from case to case
LONGROPE = dict(short_factor=[1.0, 1.1, 1.3, 1.2, 1.7, 2.0],
                long_factor=[1.5, 2.0, 4.5, 7.0, 11.0, 16.0],
                original_max_position_embeddings=48)


def gemma_rope(local, full, **scaling):
    return {"rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": local},
                                "full_attention": {"rope_theta": full,
                                                   **(scaling or {"rope_type": "default"})}}}


# One model a family with every feature. name: (family, config class, model class, settings, seed,
# prompt lengths, features: all unless named)
MODELS = {
    "llama2": ("Llama 2", LlamaConfig, LlamaForCausalLM,
               sizes(32, 2, 4, 4, 48, VOCAB, rms_norm_eps=1e-5, **rope(10000.0)), 21, SHORT),
    "llama3": ("Llama 3", LlamaConfig, LlamaForCausalLM,
               sizes(32, 2, 4, 2, 48, VOCAB, head_dim=16, rms_norm_eps=1e-5,
                     tie_word_embeddings=True, **rope(500000.0, "llama3", **LLAMA3)), 22, SHORT),
    "tinyllama": ("TinyLlama", LlamaConfig, LlamaForCausalLM,
                  sizes(32, 2, 8, 1, 44, VOCAB, rms_norm_eps=1e-5, **rope(10000.0)), 23, SHORT),
    "smollm2": ("SmolLM2", LlamaConfig, LlamaForCausalLM,
                sizes(36, 2, 3, 1, 52, VOCAB, rms_norm_eps=1e-5, tie_word_embeddings=True,
                      **rope(100000.0)), 24, SHORT),
    "mistral1": ("Mistral v0.1", MistralConfig, MistralForCausalLM,
                 sizes(32, 2, 4, 2, 48, VOCAB, sliding_window=7, **rope(10000.0)), 25, SHORT),
    "mistral3": ("Mistral v0.3", MistralConfig, MistralForCausalLM,
                 sizes(40, 2, 4, 2, 48, VOCAB, head_dim=8, sliding_window=None,
                       **rope(1000000.0)), 26, SHORT),
    "qwen25": ("Qwen2.5", Qwen2Config, Qwen2ForCausalLM,
               sizes(32, 2, 4, 2, 48, VOCAB, tie_word_embeddings=True, **rope(1000000.0)), 27,
               SHORT),
    "qwen3-tied": ("Qwen3", Qwen3Config, Qwen3ForCausalLM,
                   sizes(32, 2, 4, 2, 48, VOCAB, head_dim=12, tie_word_embeddings=True,
                         **rope(1000000.0)), 28, SHORT),
    # local, global, local; the window is shorter than the prompt
    "gemma3": ("Gemma 3", Gemma3TextConfig, Gemma3ForCausalLM,
               sizes(32, 3, 4, 2, 48, VOCAB, head_dim=12, query_pre_attn_scalar=20,
                     sliding_window=6, layer_types=["sliding_attention", "full_attention",
                                                    "sliding_attention"],
                     **gemma_rope(10000.0, 1000000.0)), 29, SHORT),
    # global layers with scaled positions, no window after the last global layer
    "gemma3-linear": ("Gemma 3", Gemma3TextConfig, Gemma3ForCausalLM,
                      sizes(32, 4, 2, 1, 40, VOCAB, head_dim=16, query_pre_attn_scalar=24,
                            sliding_window=5, layer_types=["sliding_attention"] * 2 +
                            ["full_attention"] * 2,
                            **gemma_rope(500.0, 20000.0, rope_type="linear", factor=8.0)), 30,
                      SHORT, ["plain", "dora", "together"]),
    "phi3": ("Phi-3", Phi3Config, Phi3ForCausalLM,
             sizes(32, 2, 4, 4, 48, VOCAB, sliding_window=9, rms_norm_eps=1e-5, **rope(10000.0)),
             31, SHORT),
    # three quarters of a head turn; prompts on both sides of the length where the factors change,
    # and greedy continuations that pass it
    "phi4-mini": ("Phi-4-mini", Phi3Config, Phi3ForCausalLM,
                  sizes(48, 2, 3, 1, 64, VOCAB, rms_norm_eps=1e-5, tie_word_embeddings=True,
                        original_max_position_embeddings=48, max_position_embeddings=192,
                        **rope(10000.0, "longrope", partial_rotary_factor=0.75, **LONGROPE)), 32,
                  [(12, 16), (52, 60), (36, 44)]),
}


def fused(value):
    """The same feature where q, k, v and gate, up are one matrix each."""
    if isinstance(value, list):
        return [FUSED.get(v, v) for v in value if v not in ("k_proj", "v_proj", "up_proj")]
    if isinstance(value, dict):
        return {k.replace("q_proj", "qkv_proj").replace("gate_proj", "gate_up_proj"): v
                for k, v in value.items()}
    return value


@torch.no_grad()
def greedy(model, prompt, count):
    """The continuation and its log-probabilities, or None where two candidates come too close."""
    ids, logprobs = list(prompt), []
    for _ in range(count):
        last = reference.logits(model, ids)[-1]
        top = torch.topk(last, 2)
        if top.values[0] - top.values[1] < GAP:
            return None
        ids.append(int(top.indices[0]))
        logprobs.append(round(float(torch.log_softmax(last.double(), 0)[ids[-1]]), 6))
    return ids[len(prompt):], logprobs


@torch.no_grad()
def noise(model, ids, seed):
    """What roundings of float32 can do to the logits: those that transformers' order of sums makes,
    and those of weights, which find where another order would make more."""
    single = reference.logits(model, ids)
    exact = reference.logits(model.double(), ids)
    worst = float((single - exact).abs().max())
    weights = [p.data.clone() for p in model.parameters()]
    g = torch.Generator().manual_seed(seed)
    for _ in range(ROUNDINGS):
        for p, w in zip(model.parameters(), weights):
            p.data = w * (1 + 2.0 ** -24 * torch.randn(w.shape, generator=g, dtype=w.dtype))
        worst = max(worst, float((reference.logits(model, ids) - exact).abs().max()))
    for p, w in zip(model.parameters(), weights):
        p.data = w
    model.float()
    return worst


class NoPrompt(Exception):
    """None of those drawn is one where a comparison means something."""


class Cases:
    """The cases of one model, with the bytes of logits.bin."""

    def __init__(self, folder, family, vocab, greedy_count, lengths, logits_count, noise_max=NOISE,
                 report=print):
        self.noise_max, self.report = noise_max, report
        self.folder, self.vocab, self.greedy_count = folder, vocab, greedy_count
        self.lengths, self.logits_count = lengths, logits_count
        self.family, self.cases, self.blob = family, [], bytearray()
        self.bare = reference.load(folder)

    def add(self, feature, adapter, seed):
        model = reference.load(self.folder, adapter and self.folder / "adapters" / adapter)
        low, high = self.lengths[len(self.cases) % len(self.lengths)]
        for attempt in range(PROMPTS_MAX):
            g = torch.Generator().manual_seed(seed * 1000 + attempt)
            length = int(torch.randint(low, high, (1,), generator=g))
            prompt = torch.randint(0, self.vocab, (length,), generator=g).tolist()
            continuation = greedy(model, prompt, self.greedy_count)
            if continuation is not None and noise(model, prompt, seed) < self.noise_max:
                break
        else:
            raise NoPrompt(f"without near-ties or noise for {adapter} of {self.folder}")
        logits = reference.logits(model, prompt)
        first = max(0, length - self.logits_count)
        case = {"feature": feature, "adapter": adapter, "prompt": prompt,
                "greedy": continuation[0], "logprobs": continuation[1],
                "logits_offset": len(self.blob), "logits_first": first}
        self.cases.append(case)
        change = float((logits - reference.logits(self.bare, prompt)).abs().max())
        self.blob += logits[first:].contiguous().numpy().astype("<f4").tobytes()
        self.report(f"  {adapter or '-':16} prompt {length:2}, {attempt} redrawn, logits std "
                    f"{logits.std():.2f}, {len(set(continuation[0]))} different tokens, "
                    f"{change:.2f} from the bare model")
        return change

    def refuse(self, feature, adapter, words):
        self.cases.append({"feature": feature, "adapter": adapter, "refused": words})

    def write(self):
        (self.folder / "logits.bin").write_bytes(bytes(self.blob))
        head = json.dumps({"family": self.family, "vocab": self.vocab})[:-1]
        lines = ",\n".join(json.dumps(c) for c in self.cases)
        (self.folder / "expected.json").write_text(f'{head}, "cases": [\n{lines}\n]}}\n')


def make_first(name, family, config_class, model_class, settings, dtype, adapters, seed,
               template="string", shard=None, edit=None):
    folder = OUT / name
    config = config_class(max_position_embeddings=128, **reference.special_ids(1 << 20), **settings)
    reference.save_model(folder, config, model_class, dtype, seed, template, shard)
    if edit is not None:
        reference.edit_json(folder / "config.json", edit)
    cases = Cases(folder, family, settings["vocab_size"], 64, [(9, 19)], 64)
    cases.add("bare", None, seed * 100)
    for i, adapter in enumerate(adapters):
        feature, adapter_settings, recast = ADAPTERS[adapter]
        reference.save_adapter(folder, folder / "adapters" / adapter, adapter_settings,
                               seed * 100 + i + 1, recast=recast)
        cases.add(feature, adapter, seed * 100 + i + 1)
    cases.write()


def make_model(name, family, config_class, model_class, settings, seed, lengths, features=None):
    folder = OUT / name
    config = config_class(**{"max_position_embeddings": 128, **settings},
                          **reference.special_ids(VOCAB))
    reference.save_model(folder, config, model_class, bf16, seed)
    cases = Cases(folder, family, VOCAB, 32, lengths, 8)
    for i in range(len(lengths)):
        cases.add("bare", None, seed * 100 + i)
    for i, feature in enumerate(features or FEATURES):
        adapter_settings, arguments = FEATURES[feature]
        if model_class is Phi3ForCausalLM:
            adapter_settings = {k: fused(v) for k, v in adapter_settings.items()}
        reference.save_adapter(folder, folder / "adapters" / feature, adapter_settings,
                               seed * 100 + 10 + i, bf16, **arguments)
        change = cases.add(feature, feature, seed * 100 + 10 + i)
        assert change > 0.1, "an adapter that changes little would test little"
    cases.write()


def write_manifest():
    families = {}
    for name, row in {**FIRST_MODELS, **MODELS}.items():
        families.setdefault(row[0], []).append(name)
    manifest = {"features": ["bare", *FEATURES], "families": families}
    (OUT / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def main():
    reference.be_quiet()
    torch.set_num_threads(2)
    chosen = sys.argv[1:] or [*FIRST_MODELS, *MODELS]
    for name in chosen:
        print(name)
        if name in FIRST_MODELS:
            make_first(name, *FIRST_MODELS[name])
        else:
            make_model(name, *MODELS[name])
        files = [f for f in (OUT / name).rglob("*") if f.is_file()]
        print(f"  {sum(f.stat().st_size for f in files) / 1024:.0f} KiB")
    write_manifest()


if __name__ == "__main__":
    main()
