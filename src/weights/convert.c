/*
 * See convert.h. Loops without branches over whole blocks: the compiler vectorizes them, and a
 * packer is bound by hashing. Only a block that holds a bad value is searched a second time.
 */
#include "weights/convert.h"

#include <assert.h>
#include <string.h>

#define F32_EXPONENT 0x7f800000u
#define BF16_EXPONENT 0x7f80u
#define F16_EXPONENT 0x7c00u

size_t convert_source_bytes(enum safetensors_dtype dtype)
{
    switch (dtype) {
    case SAFETENSORS_F32:
        return 4;
    case SAFETENSORS_F16:
    case SAFETENSORS_BF16:
        return 2;
    case SAFETENSORS_OTHER:
        break;
    }
    return 0;
}

static inline uint32_t f32_of_f16(uint16_t h)
{
    /* The exponent is rebased by a multiplication, which also normalizes subnormal numbers. */
    union {
        uint32_t bits;
        float value;
    } u = {.bits = (uint32_t)(h & 0x7fffu) << 13};
    u.value *= 0x1p112f;
    return u.bits | (uint32_t)(h & 0x8000u) << 16;
}

/* Each returns whether some value was not finite, and goes on. */

static bool f32_to_f32(uint32_t *restrict to, const uint32_t *restrict from, size_t count)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < count; i++) {
        bad |= (from[i] & F32_EXPONENT) == F32_EXPONENT;
        to[i] = from[i];
    }
    return bad != 0;
}

static bool f16_to_f32(uint32_t *restrict to, const uint16_t *restrict from, size_t count)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < count; i++) {
        bad |= (from[i] & F16_EXPONENT) == F16_EXPONENT;
        to[i] = f32_of_f16(from[i]);
    }
    return bad != 0;
}

static bool bf16_to_f32(uint32_t *restrict to, const uint16_t *restrict from, size_t count)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < count; i++) {
        bad |= (from[i] & BF16_EXPONENT) == BF16_EXPONENT;
        to[i] = (uint32_t)from[i] << 16;
    }
    return bad != 0;
}

static bool f32_to_bf16(uint16_t *restrict to, const uint32_t *restrict from, size_t count)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < count; i++) {
        /* Rounding can overflow to infinity, and can carry a NaN over into the sign. */
        uint16_t h = convert_bf16_of_f32(from[i]);
        bad |= (h & BF16_EXPONENT) == BF16_EXPONENT || (from[i] & F32_EXPONENT) == F32_EXPONENT;
        to[i] = h;
    }
    return bad != 0;
}

static bool f16_to_bf16(uint16_t *restrict to, const uint16_t *restrict from, size_t count)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < count; i++) {
        bad |= (from[i] & F16_EXPONENT) == F16_EXPONENT;
        to[i] = convert_bf16_of_f32(f32_of_f16(from[i]));
    }
    return bad != 0;
}

static bool bf16_to_bf16(uint16_t *restrict to, const uint16_t *restrict from, size_t count)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < count; i++) {
        bad |= (from[i] & BF16_EXPONENT) == BF16_EXPONENT;
        to[i] = from[i];
    }
    return bad != 0;
}

static bool convert(void *to, enum image_dtype to_dtype, const void *from,
                    enum safetensors_dtype from_dtype, size_t count)
{
    bool wide = to_dtype == IMAGE_F32;
    switch (from_dtype) {
    case SAFETENSORS_F32:
        return wide ? f32_to_f32(to, from, count) : f32_to_bf16(to, from, count);
    case SAFETENSORS_F16:
        return wide ? f16_to_f32(to, from, count) : f16_to_bf16(to, from, count);
    case SAFETENSORS_BF16:
        return wide ? bf16_to_f32(to, from, count) : bf16_to_bf16(to, from, count);
    case SAFETENSORS_OTHER:
        break;
    }
    assert(!"convertible");
    return true;
}

size_t convert_block(void *to, enum image_dtype to_dtype, const void *from,
                     enum safetensors_dtype from_dtype, size_t count)
{
    if (!convert(to, to_dtype, from, from_dtype, count))
        return CONVERT_ALL;
    size_t from_bytes = convert_source_bytes(from_dtype);
    size_t to_bytes = image_dtype_bytes(to_dtype);
    size_t i = 0;
    while (i + 1 < count && !convert((char *)to + i * to_bytes, to_dtype,
                                     (const char *)from + i * from_bytes, from_dtype, 1))
        i++;
    return i;
}
