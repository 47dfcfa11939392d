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
};

enum model_rope_kind {
    MODEL_ROPE_PLAIN = 0,
    MODEL_ROPE_LLAMA3 = 1, /* frequencies scaled in three bands, Llama 3.1 "rope_type": "llama3" */
    MODEL_ROPE_LINEAR = 2, /* positions divided by rope_factor */
};

/* Limits on what a checkpoint may claim; larger is refused with the field's name. */
#define MODEL_LAYERS_MAX 256u
#define MODEL_HEADS_MAX 256u
#define MODEL_HEAD_DIM_MAX 512u
#define MODEL_WIDTH_MAX 65536u /* hidden and feed-forward width */
#define MODEL_VOCAB_MAX 1048576u
#define MODEL_CONTEXT_MAX 1048576u
#define MODEL_EOS_MAX 8u

struct model_config {
    uint32_t family; /* enum model_family */
    uint32_t vocab_count;
    uint32_t hidden;
    uint32_t layer_count;
    uint32_t head_count;
    uint32_t kv_head_count;  /* divides head_count */
    uint32_t head_dim;       /* even; head_count * head_dim need not equal hidden */
    uint32_t ffn;            /* width of gate and up */
    uint32_t context_max;    /* max_position_embeddings */
    uint32_t sliding_window; /* a position sees itself and the sliding_window - 1 before; 0: all */
    uint32_t rope_kind;      /* enum model_rope_kind */
    uint32_t rope_original_context;
    float rope_theta;
    float rope_factor;
    float rope_low_freq_factor;
    float rope_high_freq_factor;
    float norm_eps;
    uint32_t tied_embeddings; /* 1: the head is the embedding matrix */
    uint32_t qkv_bias;        /* 1: q, k, v projections carry a bias */
    uint32_t o_bias;
    uint32_t mlp_bias;
    uint32_t qk_norm; /* 1: RMS norm over head_dim on q and k before rope (Qwen3) */
    uint32_t eos_count;
    uint32_t eos_ids[MODEL_EOS_MAX];
    uint32_t bos_id; /* UINT32_MAX: none */
    uint32_t reserved;
};

_Static_assert(sizeof(struct model_config) == 33 * 4, "stored in images: the layout is fixed");

/* Reads a Hugging Face config.json; `generation_json` (may be NULL) adds its eos ids. Refuses an
 * architecture or a field value that forward() would compute differently, by name. */
int model_config_parse(const char *json, size_t len, const char *generation_json,
                       size_t generation_len, struct model_config *ret, struct error *err);

/* Every relation that the engine relies on; for bytes that came from an image. */
int model_config_check(const struct model_config *c, struct error *err);

const char *model_family_name(uint32_t family);
