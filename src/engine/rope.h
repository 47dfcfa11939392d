/*
 * Rotary position embedding (Su et al. 2021): the frequencies of a kind of layer, and the cosines
 * and sines of a position. One decision: the float steps of transformers' modeling_rope_utils are
 * followed one by one, because at position 30000 one rounding more is visible in the logits.
 */
#pragma once

#include "model/config.h"

#include <stdbool.h>

struct rope {
    uint32_t half_dim;
    float scale;                               /* of cosines and sines (LongRoPE) */
    float frequencies[MODEL_HEAD_DIM_MAX / 2]; /* radians per position */
    float long_frequencies[MODEL_HEAD_DIM_MAX /
                           2]; /* LongRoPE: of sequences beyond rope_long_from() */
};

void rope_init(struct rope *r, const struct model_config *c, enum model_layer_kind kind);

/* LongRoPE has two sets of frequencies. A sequence of more tokens than this is computed with the
 * second one from its first token on; UINT32_MAX where a model has one set. */
uint32_t rope_long_from(const struct model_config *c);

/* cos and sin [half_dim] of a position. */
void rope_angles(const struct rope *r, uint32_t position, bool is_long, float *ret_cos,
                 float *ret_sin);
