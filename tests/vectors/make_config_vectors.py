#!/usr/bin/env python3
"""Makes tests/vectors/configs: config.json of each family as it was published, in the spellings
before and after transformers 5, and what transformers 5 makes of it.

    pip install torch transformers
    python tests/vectors/make_config_vectors.py

NAME.json is the file; expected.json has for each NAME

  head_dim, kv_heads, norm_eps, tied, score_scale (of q·k), embed_scale
  windows      per layer: the positions that a position sees, itself among them; 0: all
  rope         per layer: an index into frequencies
  frequencies  inverse frequencies (as many as half the values of a head that turn), `long` those of
               sequences longer than `original` (null: always the same), cos and sin times `scale`
"""

import importlib
import json
from pathlib import Path

from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import reference

OUT = Path(__file__).parent / "configs"

LLAMA = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu",
             attention_bias=False, torch_dtype="bfloat16", use_cache=True)
LLAMA3 = dict(factor=32.0, high_freq_factor=4.0, low_freq_factor=1.0,
              original_max_position_embeddings=8192, rope_type="llama3")
MISTRAL = dict(architectures=["MistralForCausalLM"], model_type="mistral", hidden_act="silu",
               hidden_size=4096, intermediate_size=14336, num_attention_heads=32,
               num_hidden_layers=32, num_key_value_heads=8, max_position_embeddings=32768,
               rms_norm_eps=1e-05, tie_word_embeddings=False, torch_dtype="bfloat16",
               bos_token_id=1, eos_token_id=2)
GEMMA = dict(architectures=["Gemma3ForCausalLM"], model_type="gemma3_text", attention_bias=False,
             attention_dropout=0.0, attn_logit_softcapping=None, bos_token_id=2,
             cache_implementation="hybrid", eos_token_id=[1, 106], final_logit_softcapping=None,
             head_dim=256, hidden_activation="gelu_pytorch_tanh", hidden_size=1152,
             intermediate_size=6912, max_position_embeddings=32768, num_attention_heads=4,
             num_hidden_layers=26, num_key_value_heads=1, pad_token_id=0,
             query_pre_attn_scalar=256, rms_norm_eps=1e-06, sliding_window=512,
             torch_dtype="bfloat16", vocab_size=262144)
PHI = dict(architectures=["Phi3ForCausalLM"], model_type="phi3", attention_bias=False,
           attention_dropout=0.0, embd_pdrop=0.0, resid_pdrop=0.0, hidden_act="silu",
           hidden_size=3072, intermediate_size=8192, num_hidden_layers=32, rms_norm_eps=1e-05,
           rope_theta=10000.0, original_max_position_embeddings=4096, torch_dtype="bfloat16")


def factors(count, to):
    """As many rising ones as a published file has; their values are this script's."""
    return [round(1 + (to - 1) * (i / (count - 1)) ** 2, 6) for i in range(count)]


def old_longrope(count):
    return dict(type="longrope", short_factor=factors(count, 2.5), long_factor=factors(count, 64.0))


CONFIGS = {
    "llama-2": dict(LLAMA, hidden_size=4096, intermediate_size=11008, num_attention_heads=32,
                    num_hidden_layers=32, num_key_value_heads=32, max_position_embeddings=4096,
                    rms_norm_eps=1e-05, pretraining_tp=1, rope_scaling=None, vocab_size=32000,
                    tie_word_embeddings=False, bos_token_id=1, eos_token_id=2),
    "llama-3.2": dict(LLAMA, hidden_size=2048, intermediate_size=8192, num_attention_heads=32,
                      num_hidden_layers=16, num_key_value_heads=8, head_dim=64, mlp_bias=False,
                      max_position_embeddings=131072, rms_norm_eps=1e-05, rope_scaling=LLAMA3,
                      rope_theta=500000.0, tie_word_embeddings=True, vocab_size=128256,
                      bos_token_id=128000, eos_token_id=[128001, 128008, 128009]),
    "tinyllama": dict(LLAMA, hidden_size=2048, intermediate_size=5632, num_attention_heads=32,
                      num_hidden_layers=22, num_key_value_heads=4, max_position_embeddings=2048,
                      rms_norm_eps=1e-05, pretraining_tp=1, rope_scaling=None, rope_theta=10000.0,
                      tie_word_embeddings=False, vocab_size=32000, bos_token_id=1, eos_token_id=2),
    "smollm2": dict(LLAMA, hidden_size=576, intermediate_size=1536, num_attention_heads=9,
                    num_hidden_layers=30, num_key_value_heads=3, max_position_embeddings=8192,
                    rms_norm_eps=1e-05, is_llama_config=True, rope_interleaved=False,
                    rope_scaling=None, rope_theta=100000, tie_word_embeddings=True,
                    vocab_size=49152, bos_token_id=1, eos_token_id=2, pad_token_id=2),
    "mistral-0.1": dict(MISTRAL, sliding_window=4096, rope_theta=10000.0, vocab_size=32000),
    "mistral-0.3": dict(MISTRAL, sliding_window=None, rope_theta=1000000.0, vocab_size=32768),
    "qwen2.5": dict(architectures=["Qwen2ForCausalLM"], model_type="qwen2", hidden_act="silu",
                    hidden_size=896, intermediate_size=4864, num_attention_heads=14,
                    num_hidden_layers=24, num_key_value_heads=2, max_position_embeddings=32768,
                    max_window_layers=21, sliding_window=32768, use_sliding_window=False,
                    rms_norm_eps=1e-06, rope_theta=1000000.0, tie_word_embeddings=True,
                    torch_dtype="bfloat16", vocab_size=151936, bos_token_id=151643,
                    eos_token_id=151645),
    "qwen3": dict(architectures=["Qwen3ForCausalLM"], model_type="qwen3", hidden_act="silu",
                  attention_bias=False, head_dim=128, hidden_size=1024, intermediate_size=3072,
                  num_attention_heads=16, num_hidden_layers=28, num_key_value_heads=8,
                  max_position_embeddings=40960, max_window_layers=28, sliding_window=None,
                  use_sliding_window=False, rms_norm_eps=1e-06, rope_scaling=None,
                  rope_theta=1000000, tie_word_embeddings=True, torch_dtype="bfloat16",
                  vocab_size=151936, bos_token_id=151643, eos_token_id=151645),
    "gemma-3": dict(GEMMA, rope_local_base_freq=10000, rope_scaling=None, rope_theta=1000000,
                    sliding_window_pattern=6),
    "gemma-3-linear": dict(GEMMA, rope_local_base_freq=5000, rope_theta=200000,
                           rope_scaling=dict(factor=8.0, rope_type="linear"),
                           sliding_window_pattern=4, num_hidden_layers=10),
    # the defaults of the class count
    "gemma-3-bare": {k: v for k, v in GEMMA.items()
                     if k not in ("head_dim", "num_key_value_heads", "sliding_window",
                                  "rms_norm_eps", "query_pre_attn_scalar",
                                  "max_position_embeddings")},
    "gemma-3-layer-types": dict(GEMMA, num_hidden_layers=3, rope_local_base_freq=10000,
                                rope_theta=1000000, sliding_window_pattern=2,
                                layer_types=["full_attention", "sliding_attention",
                                             "full_attention"]),
    "gemma-3-new": dict(GEMMA, layer_types=(["sliding_attention"] * 5 + ["full_attention"]) * 2,
                        num_hidden_layers=12, rope_parameters={
                            "sliding_attention": dict(rope_type="default", rope_theta=10000.0),
                            "full_attention": dict(rope_type="linear", rope_theta=1000000.0,
                                                   factor=8.0)}),
    "phi-3-4k": dict(PHI, num_attention_heads=32, num_key_value_heads=32, sliding_window=2047,
                     max_position_embeddings=4096, rope_scaling=None, vocab_size=32064,
                     tie_word_embeddings=False, bos_token_id=1, eos_token_id=32000,
                     pad_token_id=32000),
    "phi-3-128k": dict(PHI, num_attention_heads=32, num_key_value_heads=32, sliding_window=262144,
                       max_position_embeddings=131072, rope_scaling=old_longrope(48),
                       vocab_size=32064, tie_word_embeddings=False, bos_token_id=1,
                       eos_token_id=32000, pad_token_id=32000),
    "phi-4-mini": dict(PHI, num_attention_heads=24, num_key_value_heads=8, sliding_window=262144,
                       max_position_embeddings=131072, partial_rotary_factor=0.75,
                       full_attn_mod=1, interpolate_factor=1, lm_head_bias=False, mlp_bias=False,
                       rope_scaling=old_longrope(48), vocab_size=200064,
                       tie_word_embeddings=True, bos_token_id=199999, eos_token_id=199999,
                       pad_token_id=199999),
    # a factor that float32 has below its value: 56 of 80
    "phi-partial": dict(PHI, hidden_size=2560, num_attention_heads=32, num_key_value_heads=8,
                        max_position_embeddings=4096, partial_rotary_factor=0.7,
                        rope_scaling=None, vocab_size=51200, tie_word_embeddings=False,
                        bos_token_id=1, eos_token_id=2, pad_token_id=0),
    "phi-4-mini-new": dict({k: v for k, v in PHI.items() if k != "rope_theta"},
                           num_attention_heads=24, num_key_value_heads=8, sliding_window=None,
                           max_position_embeddings=131072, vocab_size=200064,
                           tie_word_embeddings=True, bos_token_id=199999, eos_token_id=199999,
                           pad_token_id=199999,
                           rope_parameters=dict(rope_type="longrope", rope_theta=10000.0,
                                                partial_rotary_factor=0.75, attention_factor=1.25,
                                                original_max_position_embeddings=4096,
                                                short_factor=factors(48, 1.0),
                                                long_factor=factors(48, 32.0))),
}


def numbers(tensor):
    return [float(f"{x:.9g}") for x in tensor.tolist()]


def frequencies(config):
    """One entry a kind of layer, in the order of the kinds."""
    name = type(config).__name__.removesuffix("Config").removesuffix("Text")
    module = importlib.import_module(type(config).__module__.replace("configuration", "modeling"))
    rotary = getattr(module, f"{name}RotaryEmbedding")(config)
    if name == "Gemma3":
        return [dict(short=numbers(getattr(rotary, f"{kind}_inv_freq")), long=None, original=0,
                     scale=getattr(rotary, f"{kind}_attention_scaling"))
                for kind in sorted(set(config.layer_types))]
    entry = dict(short=numbers(rotary.inv_freq), long=None, original=0,
                 scale=rotary.attention_scaling)
    if config.rope_parameters["rope_type"] == "longrope":
        original = config.rope_parameters["original_max_position_embeddings"]
        entry["original"] = original
        entry["long"] = numbers(ROPE_INIT_FUNCTIONS["longrope"](config, seq_len=original + 1)[0])
    return [entry]


def expected(config):
    layers = config.num_hidden_layers
    window = getattr(config, "sliding_window", None) or 0
    types = getattr(config, "layer_types", None)
    if types is not None:
        windows = [window if kind == "sliding_attention" else 0 for kind in types]
    else:
        windows = [window] * layers
    head_dim = getattr(config, "head_dim", None) or \
        config.hidden_size // config.num_attention_heads
    gemma = config.model_type == "gemma3_text"
    kinds = sorted(set(types)) if gemma else [None]
    return dict(head_dim=head_dim, kv_heads=config.num_key_value_heads,
                norm_eps=config.rms_norm_eps, tied=config.tie_word_embeddings,
                score_scale=(config.query_pre_attn_scalar if gemma else head_dim) ** -0.5,
                embed_scale=config.hidden_size ** 0.5 if gemma else 1.0, windows=windows,
                rope=[kinds.index(kind) for kind in types] if gemma else [0] * layers,
                frequencies=frequencies(config))


def main():
    reference.be_quiet()
    OUT.mkdir(exist_ok=True)
    results = {}
    for name, content in CONFIGS.items():
        path = OUT / f"{name}.json"
        path.write_text(json.dumps(content) + "\n")
        results[name] = expected(AutoConfig.for_model(**json.loads(path.read_text())))
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in results.items())
    (OUT / "expected.json").write_text("{\n" + lines + "\n}\n")
    print(f"{len(results)} configurations")


if __name__ == "__main__":
    main()
