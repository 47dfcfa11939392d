/*
 * Rotary position embedding (Su et al. 2021): the frequencies of a model, and the cosines and sines
 * of a position. One decision: the float steps of transformers' modeling_rope_utils are followed
 * one by one, because at position 30000 one rounding more is visible in the logits.
 */
#pragma once

#include "model/config.h"

struct rope {
    uint32_t half_dim;
    float frequencies[MODEL_HEAD_DIM_MAX / 2]; /* radians per position */
};

void rope_init(struct rope *r, const struct model_config *c);

/* cos and sin [half_dim] of a position. */
void rope_angles(const struct rope *r, uint32_t position, float *ret_cos, float *ret_sin);
