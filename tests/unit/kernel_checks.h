/*
 * What the tests of the kernels share: outputs between guard zones that start as NaN, random
 * inputs of either dtype, and running one check for every instruction set that is here. UNIT is
 * half a unit in the last place of a float, the largest relative error of one rounding.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "kernels/kernels.h"

#define UNIT 0x1p-24
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

#define GUARD_BYTES 128

/* Lengths around the lanes of each instruction set. */
static const uint32_t dims[] = {1, 2, 3, 15, 16, 17, 31, 33, 64, 100, 129, 896, 1000};

/* `bytes` between two guard zones, off every alignment but that of a float. */
struct guarded {
    unsigned char *all;
    size_t bytes;
    void *data;
};

static inline struct guarded guarded_make(size_t bytes)
{
    struct guarded g = {.bytes = bytes, .all = malloc(bytes + 2 * GUARD_BYTES + 4)};
    assert_non_null(g.all);
    memset(g.all, 0xa5, bytes + 2 * GUARD_BYTES + 4);
    g.data = g.all + GUARD_BYTES + 4;
    memset(g.data, 0xff, bytes); /* a NaN as float and as bf16 */
    return g;
}

static inline struct guarded guarded_floats(size_t count)
{
    return guarded_make(count * sizeof(float));
}

static inline void guarded_free(struct guarded *g)
{
    for (size_t i = 0; i < GUARD_BYTES + 4; i++)
        if (g->all[i] != 0xa5)
            fail_msg("written %zu bytes before the output", GUARD_BYTES + 4 - i);
    for (size_t i = 0; i < GUARD_BYTES; i++)
        if (g->all[GUARD_BYTES + 4 + g->bytes + i] != 0xa5)
            fail_msg("written %zu bytes after the output", i);
    free(g->all);
}

static inline float bf16_expand(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static inline uint16_t bf16_truncate(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return (uint16_t)(bits >> 16);
}

static inline size_t element_bytes(enum kernel_dtype dtype)
{
    return dtype == KERNEL_F32 ? 4 : dtype == KERNEL_CODES ? 1 : 2;
}

static inline double element(const void *from, enum kernel_dtype dtype, size_t index)
{
    if (dtype == KERNEL_CODES)
        return ((const int8_t *)from)[index];
    return dtype == KERNEL_F32 ? ((const float *)from)[index]
                               : bf16_expand(((const uint16_t *)from)[index]);
}

static inline void fill(struct rng *rng, void *to, enum kernel_dtype dtype, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        float value = (float)rng_normal(rng);
        if (dtype == KERNEL_CODES)
            ((int8_t *)to)[i] = (int8_t)rng_u64(rng);
        else if (dtype == KERNEL_BF16)
            ((uint16_t *)to)[i] = bf16_truncate(value);
        else
            ((float *)to)[i] = value;
    }
}

static inline struct guarded random_of(struct rng *rng, enum kernel_dtype dtype, size_t count)
{
    struct guarded g = guarded_make(count * element_bytes(dtype));
    fill(rng, g.data, dtype, count);
    return g;
}

static inline void check_near(double got, double want, double tolerance, const char *format, ...)
{
    if (fabs(got - want) <= tolerance)
        return;
    char what[200];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    fail_msg("%s: got %.9g, want %.9g, off by %.3g, tolerance %.3g", what, got, want,
             fabs(got - want), tolerance);
}

/* Runs one check for every instruction set that is here. */
static inline void for_each_isa(void **state)
{
    void (*check)(const struct kernels *) = *(void (**)(const struct kernels *)) * state;
    for (int isa = 0; isa < KERNEL_ISA_COUNT; isa++) {
        const struct kernels *k = kernels_get(isa);
        if (k != NULL)
            check(k);
        else
            print_message("not on this processor: %s\n", kernels_isa_name(isa));
    }
}

#define CHECK(f)                                                                                   \
    {                                                                                              \
        .name = #f, .test_func = for_each_isa,                                                     \
        .initial_state = &(void (*)(const struct kernels *))                                       \
        {                                                                                          \
            f                                                                                      \
        }                                                                                          \
    }
