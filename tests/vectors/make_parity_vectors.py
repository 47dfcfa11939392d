#!/usr/bin/env python3
"""Makes tests/vectors/parity: tiny random models and LoRA adapters with what transformers and peft
compute for them in float32. test_parity.c packs these files as a user's and compares.

    pip install torch transformers peft safetensors tokenizers
    python tests/vectors/make_parity_vectors.py [NAME ...]

Each folder holds a Hugging Face checkpoint, adapters/NAME as PEFT saves them, and

  expected.json  cases: adapter (null: the bare model), prompt, greedy (64 ids), logits_offset
  logits.bin     float32, little endian, [len(prompt), vocab] for each case, from logits_offset on

The reference reads the files that are committed, after every change of dtype and spelling. Prompts
are drawn until no greedy step has its two best logits closer than GAP, so that the order of a sum
cannot flip a token.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig,
                          MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config,
                          Qwen3ForCausalLM)

OUT = Path(__file__).parent / "parity"
GREEDY = 64
GAP = 2e-3
CHATML = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]

# name: (LoRA settings, dtype of the file, suffix of the tensor names)
ADAPTERS = {
    "r1": (dict(r=1, lora_alpha=2, target_modules=["q_proj", "v_proj"]), None),
    "r4-rslora": (dict(r=4, lora_alpha=8, use_rslora=True, target_modules=ATTENTION), None),
    "r8-all": (dict(r=8, lora_alpha=16, target_modules=ATTENTION + MLP), torch.bfloat16),
    "r64": (dict(r=64, lora_alpha=32, target_modules=["k_proj", "down_proj"]), torch.bfloat16),
    "patterns": (dict(r=8, lora_alpha=8, target_modules=ATTENTION + MLP,
                      rank_pattern={"layers.0.self_attn.q_proj": 3, ".*down_proj": 5, "k_proj": 1},
                      alpha_pattern={"q_proj": 24, "model.layers.1.mlp.gate_proj": 1}), torch.bfloat16),
    "mlp-layer0": (dict(r=4, lora_alpha=4, target_modules=MLP, layers_to_transform=[0]), None),
    "regex": (dict(r=2, lora_alpha=3, target_modules=r"model\.layers\.\d+\.self_attn\.(k|o)_proj"),
              None),
    "r16-f16": (dict(r=16, lora_alpha=24, target_modules=["o_proj", "up_proj"]), torch.float16),
}
FEW = ["r1", "r8-all"]
ALL = list(ADAPTERS)


def tokenizer_files(folder, template):
    """256 bytes and the special tokens; no merges: what it does is another test's matter."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate(letters)}
    t = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    t.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>",
              "bos_token": {"content": "<|endoftext|>", "lstrip": False},
              "model_max_length": 1000000000000000019884624838656}
    if template == "string":
        config["chat_template"] = CHATML
    elif template == "list":
        config["chat_template"] = [{"name": "tool_use", "template": "{{ 1 }}"},
                                   {"name": "default", "template": CHATML}]
    elif template == "jinja":
        (folder / "chat_template.jinja").write_text(CHATML)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


def randomize(model, seed):
    """Weights large enough that the logits are well spread, norms and biases not trivial."""
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=g)
        if "norm" in name:
            p.data = 1 + 0.2 * noise
        elif name.endswith("bias"):
            p.data = 0.3 * noise
        elif "embed_tokens" in name:
            p.data = 0.6 * noise
        elif "lm_head" in name:
            p.data = 4 * noise / p.shape[1] ** 0.5
        else:
            p.data = 1.4 * noise / p.shape[1] ** 0.5


def make_adapter(base_dir, name, seed):
    settings, dtype = ADAPTERS[name]
    folder = base_dir / "adapters" / name
    base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
    peft = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **settings))
    g = torch.Generator().manual_seed(seed)
    for key, p in peft.named_parameters():
        noise = torch.randn(p.shape, generator=g)
        if "lora_A" in key:
            p.data = noise / p.shape[1] ** 0.5
        elif "lora_B" in key:
            p.data = 0.5 * noise / p.shape[1] ** 0.5
    peft.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = base_dir.name
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
    tensors = load_file(folder / "adapter_model.safetensors")
    if dtype is not None:
        tensors = {k: v.to(dtype) for k, v in tensors.items()}
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})


@torch.no_grad()
def greedy(model, prompt):
    """The continuation, or None where two candidates come too close to each other."""
    ids = list(prompt)
    for _ in range(GREEDY):
        logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        top = torch.topk(logits, 2)
        if top.values[0] - top.values[1] < GAP:
            return None
        ids.append(int(top.indices[0]))
    return ids[len(prompt):]


@torch.no_grad()
def make_case(model, adapter, vocab, seed, blob):
    for attempt in range(200):
        g = torch.Generator().manual_seed(seed * 1000 + attempt)
        length = int(torch.randint(9, 19, (1,), generator=g))
        prompt = torch.randint(0, vocab, (length,), generator=g).tolist()
        continuation = greedy(model, prompt)
        if continuation is not None:
            break
    else:
        raise SystemExit(f"no prompt without near-ties for {adapter}")
    logits = model(torch.tensor([prompt]), use_cache=False).logits[0]
    offset = len(blob)
    blob += logits.contiguous().numpy().astype("<f4").tobytes()
    print(f"  {adapter or '-':12} prompt {length:2}, {attempt} redrawn, logits std "
          f"{logits.std():.2f}, {len(set(continuation))} different tokens")
    return {"adapter": adapter, "prompt": prompt, "greedy": continuation, "logits_offset": offset}


def load(base_dir, adapter):
    base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32,
                                                attn_implementation="eager")
    if adapter is not None:
        base = PeftModel.from_pretrained(base, base_dir / "adapters" / adapter)
    assert all(p.dtype == torch.float32 for p in base.parameters())
    return base.eval()


def make_model(name, config_class, model_class, settings, dtype, adapters, seed, template="string",
               shard=None, edit=None):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(name)
    config = config_class(max_position_embeddings=128, bos_token_id=256, eos_token_id=258,
                          pad_token_id=None, **settings)
    torch.manual_seed(seed)
    model = model_class(config)
    randomize(model, seed)
    model.tie_weights()
    model = model.to(dtype)
    model.save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    tokenizer_files(folder, template)
    if edit is not None:
        path = folder / "config.json"
        c = json.loads(path.read_text())
        edit(c)
        path.write_text(json.dumps(c, indent=2) + "\n")
    blob = bytearray()
    cases = []
    for i, adapter in enumerate([None] + adapters):
        if adapter is not None:
            make_adapter(folder, adapter, seed * 100 + i)
        cases.append(make_case(load(folder, adapter), adapter, settings["vocab_size"],
                               seed * 100 + i, blob))
    (folder / "logits.bin").write_bytes(bytes(blob))
    expected = {"vocab": settings["vocab_size"], "cases": cases}
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def old_rope(**scaling):
    """config.json as transformers wrote it before version 5."""
    def edit(c):
        rope = c.pop("rope_parameters")
        c["rope_theta"] = rope["rope_theta"]
        c["rope_scaling"] = scaling or None
        c["torch_dtype"] = c.pop("dtype")
    return edit


def sizes(hidden, layers, heads, kv_heads, ffn, vocab, **more):
    return dict(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
                num_key_value_heads=kv_heads, intermediate_size=ffn, vocab_size=vocab, **more)


def rope(theta, kind="default", **more):
    return {"rope_parameters": {"rope_theta": theta, "rope_type": kind, **more}}


# The first three wavelengths of theta 500000 and 16 values a head are 6, 32 and 167 positions: one
# in each band (kept, blended, divided).
LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=100)
f32, bf16, f16 = torch.float32, torch.bfloat16, torch.float16

MODELS = {
    # odd head count, multi-head attention, untied
    "llama-mha": (LlamaConfig, LlamaForCausalLM,
                  sizes(48, 2, 3, 3, 64, 263, **rope(10000.0)), f32, FEW, 1),
    # grouped queries, tied, llama3 rope, several shards
    "llama3-gqa": (LlamaConfig, LlamaForCausalLM,
                   sizes(64, 2, 4, 2, 96, 272, tie_word_embeddings=True,
                         **rope(500000.0, "llama3", **LLAMA3)), bf16, ALL, 2, "jinja", "60KB"),
    # every bias, one key-value head, head_dim that is no hidden / heads, linear rope, old spelling
    "llama-bias": (LlamaConfig, LlamaForCausalLM,
                   sizes(40, 3, 5, 1, 56, 259, head_dim=12, attention_bias=True, mlp_bias=True,
                         **rope(20000.0, "linear", factor=2.0)), f16, FEW, 3, "list", None,
                   old_rope(type="linear", factor=2.0)),
    # a window shorter than the prompt and the continuation
    "mistral-window": (MistralConfig, MistralForCausalLM,
                       sizes(48, 2, 6, 3, 80, 265, sliding_window=8, **rope(10000.0)), f32, ALL, 4),
    "mistral-headdim": (MistralConfig, MistralForCausalLM,
                        sizes(32, 1, 3, 1, 48, 261, head_dim=20, sliding_window=None,
                              **rope(1000000.0)), bf16, FEW, 5, None, None, old_rope()),
    # biases on q, k, v; odd heads; tied
    "qwen2-tied": (Qwen2Config, Qwen2ForCausalLM,
                   sizes(56, 2, 7, 1, 72, 270, tie_word_embeddings=True, **rope(1000000.0)), f16,
                   ALL, 6, "string", None, old_rope()),
    "qwen2-window": (Qwen2Config, Qwen2ForCausalLM,
                     sizes(32, 2, 4, 4, 48, 260, use_sliding_window=True, sliding_window=10,
                           max_window_layers=0, **rope(10000.0)), f32, FEW, 7),
    # norms on q and k, head_dim of its own
    "qwen3": (Qwen3Config, Qwen3ForCausalLM,
              sizes(48, 2, 5, 5, 64, 267, head_dim=16, **rope(1000000.0)), bf16, ALL, 8),
    "qwen3-bias": (Qwen3Config, Qwen3ForCausalLM,
                   sizes(32, 3, 4, 2, 40, 266, head_dim=24, attention_bias=True,
                         tie_word_embeddings=True, **rope(5000.0)), f32, FEW, 9),
}


def main():
    torch.set_num_threads(2)
    chosen = sys.argv[1:] or list(MODELS)
    total = 0
    for name in chosen:
        total += make_model(name, *MODELS[name])
    print(f"{total / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
