/* See rope.h. */
#include "engine/rope.h"

#include <assert.h>
#include <math.h>

/* Llama 3.1: long waves are stretched by rope_factor, short ones kept, those between blended. */
static float llama3_frequency(float frequency, const struct model_config *c)
{
    float context = (float)c->rope_original_context;
    float low_wavelength = context / c->rope_low_freq_factor;
    float high_wavelength = context / c->rope_high_freq_factor;
    float wavelength = (float)(2 * M_PI) / frequency;
    if (wavelength > low_wavelength)
        return frequency / c->rope_factor;
    if (wavelength < high_wavelength)
        return frequency;
    float smooth = (context / wavelength - c->rope_low_freq_factor) /
                   (c->rope_high_freq_factor - c->rope_low_freq_factor);
    return (1 - smooth) * frequency / c->rope_factor + smooth * frequency;
}

void rope_init(struct rope *r, const struct model_config *c)
{
    r->half_dim = c->head_dim / 2;
    assert(r->half_dim <= MODEL_HEAD_DIM_MAX / 2);
    for (uint32_t i = 0; i < r->half_dim; i++) {
        float exponent = (float)(2 * i) / (float)c->head_dim;
        float frequency = 1.0f / powf(c->rope_theta, exponent);
        if (c->rope_kind == MODEL_ROPE_LLAMA3)
            frequency = llama3_frequency(frequency, c);
        else if (c->rope_kind == MODEL_ROPE_LINEAR)
            frequency /= c->rope_factor;
        r->frequencies[i] = frequency;
    }
}

void rope_angles(const struct rope *r, uint32_t position, float *ret_cos, float *ret_sin)
{
    for (uint32_t i = 0; i < r->half_dim; i++) {
        float angle = (float)position * r->frequencies[i];
        ret_cos[i] = cosf(angle);
        ret_sin[i] = sinf(angle);
    }
}
