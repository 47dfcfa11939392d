/*
 * Writing a position into a block of the KV cache (layout: attention.h). Included by the file of
 * each instruction set: the same loops, compiled for each.
 */
#pragma once

#include "kernels/attention.h"

#include <math.h>
#include <string.h>

#define KV_INT8_MAX 127.0f
#define KV_INT8_LEAST 0x1p-100f /* what is all below counts as 0: 127 divided by it is a number */

/* Round to nearest even; a NaN stays one (its payload could round away to infinity). */
static inline uint16_t kv_half(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return (uint16_t)(isnan(value) ? bits >> 16 | 0x40 : rounded);
}

/* The scale of n values; its inverse in *ret_inverse, 0 where all codes are 0. */
static inline float kv_scale(const float *x, uint32_t n, float *ret_inverse)
{
    float largest = 0, finite = 0;
    for (uint32_t i = 0; i < n; i++) {
        largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
        finite += x[i] * 0;
    }
    *ret_inverse = largest >= KV_INT8_LEAST && finite == 0 ? KV_INT8_MAX / largest : 0;
    if (finite != 0)
        return NAN;
    return *ret_inverse > 0 ? largest / KV_INT8_MAX : 0;
}

static inline int8_t kv_code(float value, float inverse)
{
    return (int8_t)(inverse > 0 ? rintf(value * inverse) : 0);
}

static void kv_store_f32(void *block, uint32_t index, const float *key, const float *value,
                         uint32_t dim)
{
    float *keys = block, *values = keys + kernel_kv_values_at(KERNEL_KV_F32, dim) / sizeof(float);
    for (size_t d = 0; d < dim; d++)
        keys[d * KERNEL_KV_TOKENS + index] = key[d];
    memcpy(values + (size_t)index * dim, value, dim * sizeof(float));
}

static void kv_store_bf16(void *block, uint32_t index, const float *key, const float *value,
                          uint32_t dim)
{
    uint16_t *keys = block;
    uint16_t *values = keys + kernel_kv_values_at(KERNEL_KV_BF16, dim) / sizeof(uint16_t);
    for (size_t d = 0; d < dim; d++)
        keys[(d / 2 * KERNEL_KV_TOKENS + index) * 2 + d % 2] = kv_half(key[d]);
    if (dim % 2 != 0)
        keys[(dim / 2 * KERNEL_KV_TOKENS + index) * 2 + 1] = 0;
    for (size_t d = 0; d < dim; d++)
        values[(index / 2 * dim + d) * 2 + index % 2] = kv_half(value[d]);
}

static void kv_store_int8(void *block, uint32_t index, const float *key, const float *value,
                          uint32_t dim)
{
    int8_t *keys = block, *values = keys + kernel_kv_values_at(KERNEL_KV_INT8, dim);
    float scales[2], inverse;
    scales[0] = kv_scale(key, dim, &inverse);
    for (size_t d = 0; d < (dim + 3) / 4 * 4; d++)
        keys[(d / 4 * KERNEL_KV_TOKENS + index) * 4 + d % 4] =
            d < dim ? kv_code(key[d], inverse) : 0;
    scales[1] = kv_scale(value, dim, &inverse);
    for (size_t d = 0; d < dim; d++)
        values[(index / 4 * dim + d) * 4 + index % 4] = kv_code(value[d], inverse);
    char *at = (char *)block + kernel_kv_scales_at(KERNEL_KV_INT8, dim) + index * sizeof(float);
    memcpy(at, &scales[0], sizeof(float));
    memcpy(at + KERNEL_KV_TOKENS * sizeof(float), &scales[1], sizeof(float));
}
