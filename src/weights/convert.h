/*
 * Numbers of a checkpoint (f32, f16, bf16) into numbers of an image (f32, bf16), a block at a time.
 * Narrowing rounds to nearest, ties to even. Values that are not finite, or that become so, are
 * found here: one NaN in a weight turns every answer of a function into nonsense.
 */
#pragma once

#include "weights/image.h"
#include "weights/safetensors.h"

#define CONVERT_ALL SIZE_MAX

/* Of the bits of a finite number. */
static inline uint16_t convert_bf16_of_f32(uint32_t bits)
{
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

size_t convert_source_bytes(enum safetensors_dtype dtype); /* 0: cannot be converted */

/* `count` values; the areas do not overlap. Returns CONVERT_ALL, or the index of the first value
 * that is not finite in the target. */
size_t convert_block(void *to, enum image_dtype to_dtype, const void *from,
                     enum safetensors_dtype from_dtype, size_t count);
