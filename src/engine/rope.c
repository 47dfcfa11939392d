/* See rope.h. */
#include "engine/rope.h"

#include <assert.h>
#include <math.h>

/* Llama 3.1: long waves are stretched by the factor, short ones kept, those between blended. */
static float llama3_frequency(float frequency, const struct model_rope *p)
{
    float context = (float)p->original_context;
    float low_wavelength = context / p->low_freq_factor;
    float high_wavelength = context / p->high_freq_factor;
    float wavelength = (float)(2 * M_PI) / frequency;
    if (wavelength > low_wavelength)
        return frequency / p->factor;
    if (wavelength < high_wavelength)
        return frequency;
    float smooth =
        (context / wavelength - p->low_freq_factor) / (p->high_freq_factor - p->low_freq_factor);
    return (1 - smooth) * frequency / p->factor + smooth * frequency;
}

void rope_init(struct rope *r, const struct model_config *c, enum model_layer_kind kind)
{
    const struct model_rope *p = &c->ropes[kind];
    r->half_dim = c->rotary_dim / 2;
    r->scale = p->attention_factor;
    assert(r->half_dim <= MODEL_HEAD_DIM_MAX / 2);
    for (uint32_t i = 0; i < r->half_dim; i++) {
        float exponent = (float)(2 * i) / (float)c->rotary_dim;
        float wave = powf(p->theta, exponent);
        float frequency = 1.0f / wave;
        if (p->kind == MODEL_ROPE_LLAMA3)
            frequency = llama3_frequency(frequency, p);
        else if (p->kind == MODEL_ROPE_LINEAR)
            frequency /= p->factor;
        else if (p->kind == MODEL_ROPE_LONG)
            frequency = 1.0f / (c->rope_short_factors[i] * wave);
        r->frequencies[i] = frequency;
        r->long_frequencies[i] =
            p->kind == MODEL_ROPE_LONG ? 1.0f / (c->rope_long_factors[i] * wave) : frequency;
    }
}

uint32_t rope_long_from(const struct model_config *c)
{
    const struct model_rope *p = &c->ropes[MODEL_LAYER_FULL];
    return p->kind == MODEL_ROPE_LONG ? p->original_context : UINT32_MAX;
}

void rope_angles(const struct rope *r, uint32_t position, bool is_long, float *ret_cos,
                 float *ret_sin)
{
    const float *frequencies = is_long ? r->long_frequencies : r->frequencies;
    for (uint32_t i = 0; i < r->half_dim; i++) {
        float angle = (float)position * frequencies[i];
        ret_cos[i] = cosf(angle) * r->scale;
        ret_sin[i] = sinf(angle) * r->scale;
    }
}
