/*
 * What distinguishes one model from another, as data. A family is not a code path: forward()
 * reads these fields. The struct is stored as it is in a backbone image (fixed layout, little
 * endian), so it is validated again wherever an image is mapped.
 */
#pragma once

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

enum model_family {
    MODEL_LLAMA = 1,
    MODEL_MISTRAL = 2,
    MODEL_QWEN2 = 3,
    MODEL_QWEN3 = 4,
    MODEL_GEMMA3 = 5,
    MODEL_PHI3 = 6,
};

enum model_rope_kind {
    MODEL_ROPE_PLAIN = 0,
    MODEL_ROPE_LLAMA3 = 1, /* frequencies scaled in three bands, Llama 3.1 "rope_type": "llama3" */
    MODEL_ROPE_LINEAR = 2, /* positions divided by the factor */
    MODEL_ROPE_LONG = 3,   /* LongRoPE (Phi-3): a divisor per frequency, two sets of them */
    MODEL_ROPE_KIND_COUNT,
};

enum model_activation { MODEL_SILU = 0, MODEL_GELU_TANH = 1, MODEL_ACTIVATION_COUNT };

/* Limits on what a checkpoint may claim; larger is refused with the field's name. */
#define MODEL_LAYERS_MAX 256u
#define MODEL_HEADS_MAX 256u
#define MODEL_HEAD_DIM_MAX 512u
#define MODEL_WIDTH_MAX 65536u /* hidden and feed-forward width */
#define MODEL_VOCAB_MAX 1048576u
#define MODEL_CONTEXT_MAX 1048576u
#define MODEL_EOS_MAX 8u

/* Rotary position embedding of one kind of layer. */
struct model_rope {
    uint32_t kind; /* enum model_rope_kind */
    float theta;
    float factor;
    float low_freq_factor; /* llama3 only, like the next */
    float high_freq_factor;
    uint32_t original_context; /* llama3 and long: the context of pre-training */
    float attention_factor;    /* long: cosines and sines are multiplied by it; else 1 */
};

enum model_layer_kind { MODEL_LAYER_FULL = 0, MODEL_LAYER_SLIDING = 1, MODEL_LAYER_KIND_COUNT };

struct model_config {
    uint32_t family; /* enum model_family */
    uint32_t vocab_count;
    uint32_t hidden;
    uint32_t layer_count;
    uint32_t head_count;
    uint32_t kv_head_count;  /* divides head_count */
    uint32_t head_dim;       /* even; head_count * head_dim need not equal hidden */
    uint32_t rotary_dim;     /* even; the first ones of a head that are rotated */
    uint32_t ffn;            /* width of gate and up */
    uint32_t context_max;    /* max_position_embeddings */
    uint32_t sliding_window; /* in sliding layers a position sees itself and the sliding_window - 1
                              * before; 0: no layer slides */
    uint32_t sliding_layers[MODEL_LAYERS_MAX / 32]; /* bit set */
    struct model_rope ropes[MODEL_LAYER_KIND_COUNT];
    /* MODEL_ROPE_LONG: divisors for sequences of up to original_context tokens, and for longer. */
    float rope_short_factors[MODEL_HEAD_DIM_MAX / 2]; /* [rotary_dim / 2] */
    float rope_long_factors[MODEL_HEAD_DIM_MAX / 2];
    float norm_eps;
    float attention_scale;    /* of q . k */
    float embed_scale;        /* embeddings are multiplied by it */
    uint32_t activation;      /* enum model_activation, of the gate */
    uint32_t tied_embeddings; /* 1: the head is the embedding matrix */
    uint32_t qkv_bias;        /* 1: q, k, v projections carry a bias */
    uint32_t o_bias;
    uint32_t mlp_bias;
    uint32_t qk_norm;           /* 1: RMS norm over head_dim on q and k before rope */
    uint32_t post_norms;        /* 1: RMS norm on what attention and MLP add to the residual */
    uint32_t norm_offset;       /* 1: checkpoints store norm weights less one; images do not */
    uint32_t fused_projections; /* 1: checkpoints store q, k, v as one matrix, gate and up too */
    uint32_t eos_count;
    uint32_t eos_ids[MODEL_EOS_MAX];
    uint32_t bos_id; /* UINT32_MAX: none */
};

_Static_assert(sizeof(struct model_config) == (55 + 2 * 256) * 4,
               "stored in images: the layout is fixed");

static inline enum model_layer_kind model_layer_kind(const struct model_config *c, uint32_t layer)
{
    return c->sliding_layers[layer / 32] >> layer % 32 & 1 ? MODEL_LAYER_SLIDING : MODEL_LAYER_FULL;
}

/* Reads a Hugging Face config.json; `generation_json` (may be NULL) adds its eos ids. Refuses an
 * architecture or a field value that forward() would compute differently, by name. */
int model_config_parse(const char *json, size_t len, const char *generation_json,
                       size_t generation_len, struct model_config *ret, struct error *err);

/* Every relation that the engine relies on; for bytes that came from an image. */
int model_config_check(const struct model_config *c, struct error *err);

const char *model_family_name(uint32_t family);
