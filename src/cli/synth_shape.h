/* The shapes of `sllora synth`, and the small files of a checkpoint and an adapter. */
#pragma once

#include "base/buf.h"

#include <stdbool.h>
#include <stdint.h>

struct synth_shape {
    const char *name;
    const char *architecture;
    const char *model_type;
    uint32_t hidden;
    uint32_t layers;
    uint32_t heads;
    uint32_t kv_heads;
    uint32_t head_dim;
    uint32_t ffn;
    uint32_t vocab;
    uint32_t context;
    uint32_t rope_theta;
    bool llama3_rope; /* scaled as in Llama 3.2 */
    bool tied;
    bool qkv_bias;
    const char *norm_eps;
};

/* NULL: there is none of that name. */
const struct synth_shape *synth_shape_find(const char *name);
/* "a, b, c" for sentences. */
int synth_shape_names(struct buf *ret);

/* Each appends one JSON document; 0, -E2BIG or -ENOMEM. */
int synth_config_json(const struct synth_shape *s, struct buf *ret);
int synth_generation_json(struct buf *ret);
int synth_tokenizer_json(const struct synth_shape *s, struct buf *ret);
int synth_tokenizer_config_json(struct buf *ret);
int synth_adapter_json(const struct synth_shape *s, uint32_t rank, struct buf *ret);
