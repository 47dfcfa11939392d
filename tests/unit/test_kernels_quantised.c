/*
 * Quantised rows and matrices of every instruction set that this processor has: the codes against
 * their definition, products against the same sum computed here from codes and scales, and the
 * vector instruction sets against each other bit by bit. Outputs start as NaN between guard zones.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "kernels/kernels.h"
#include "unit/kernel_checks.h"

static const enum kernel_dtype quantised[] = {KERNEL_INT8, KERNEL_INT4};

/* --- rows --- */

struct row {
    const int8_t *codes;
    const float *scales;
    const int32_t *minus_sums;
};

static struct row row_at(const void *x, uint32_t in, uint32_t r)
{
    uint32_t groups = (in + 63) / 64;
    const char *from = (const char *)x + r * kernel_quantised_bytes(in);
    return (struct row){(const void *)from, (const void *)(from + groups * 64u),
                        (const void *)(from + groups * 68u)};
}

static float largest_of_group(const float *x, uint32_t in, uint32_t g)
{
    float largest = 0;
    for (uint32_t i = g * 64; i < in && i < g * 64 + 64; i++)
        largest = fmaxf(largest, fabsf(x[i]));
    return largest;
}

static void check_row(const struct kernels *k, const float *x, uint32_t in)
{
    struct guarded to = guarded_make(kernel_quantised_bytes(in));
    k->quantise(to.data, x, in);
    struct row row = row_at(to.data, in, 0);
    for (uint32_t g = 0; g < (in + 63) / 64; g++) {
        int32_t sum = 0;
        float largest = largest_of_group(x, in, g);
        check_near(row.scales[g], largest / 127, 2 * UNIT * largest / 127, "%s: scale of group %u",
                   kernels_isa_name(k->isa), g);
        for (uint32_t i = g * 64; i < g * 64 + 64; i++) {
            float value = i < in ? x[i] : 0;
            /* Half a step, and the roundings of the quotient and of the product. */
            check_near((double)row.codes[i] * row.scales[g], value,
                       0.5 * row.scales[g] + 8 * UNIT * fabsf(value), "%s: value %u of %u",
                       kernels_isa_name(k->isa), i, in);
            sum += row.codes[i];
        }
        assert_int_equal(row.minus_sums[g], -sum);
    }
    guarded_free(&to);
}

static void rows_are_rounded(const struct kernels *k)
{
    struct rng rng;
    rng_seed(&rng, 71);
    for (size_t d = 0; d < COUNT(dims); d++) {
        struct guarded x = random_of(&rng, KERNEL_F32, dims[d]);
        float *values = x.data;
        check_row(k, values, dims[d]);
        values[0] = 1e30f; /* an outlier takes its own group along, no other */
        check_row(k, values, dims[d]);
        memset(values, 0, x.bytes);
        check_row(k, values, dims[d]);
        values[dims[d] - 1] = -1e-20f;
        check_row(k, values, dims[d]);
        guarded_free(&x);
    }
}

/* Numbers that are too small for a quotient count as 0; whatever is not finite is seen. */
static void extremes(const struct kernels *k)
{
    float x[64] = {1e-40f, -1e-38f};
    unsigned char to[128];
    assert_int_equal(sizeof(to), kernel_quantised_bytes(64));
    k->quantise(to, x, 64);
    struct row row = row_at(to, 64, 0);
    for (size_t i = 0; i < 64; i++)
        assert_int_equal(row.codes[i], 0);
    const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    for (size_t b = 0; b < COUNT(bad); b++) {
        for (size_t at = 0; at < 64; at++) {
            for (size_t i = 0; i < 64; i++)
                x[i] = (float)i;
            x[at] = bad[b];
            k->quantise(to, x, 64);
            assert_false(isfinite(row.scales[0]));
            assert_int_equal(row.minus_sums[0], 0);
        }
    }
}

/* --- matrices --- */

static size_t group_bytes(enum kernel_dtype dtype)
{
    return dtype == KERNEL_INT8 ? 64 + 2048 : 64 + 1024;
}

static int code_of(const uint8_t *panel, enum kernel_dtype dtype, uint32_t lane, uint32_t i)
{
    const uint8_t *codes = panel + i / 64 * group_bytes(dtype) + 64;
    if (dtype == KERNEL_INT8)
        return codes[(size_t)(i % 64 / 4) * 128 + lane * 4 + i % 4] - 128;
    uint8_t byte = codes[(size_t)(i % 64 / 8) * 128 + lane * 4 + i % 4];
    return (i % 8 < 4 ? byte & 15 : byte >> 4) - 8;
}

static float scale_of(const uint8_t *panel, enum kernel_dtype dtype, uint32_t lane, uint32_t g)
{
    return bf16_expand(((const uint16_t *)(const void *)(panel + g * group_bytes(dtype)))[lane]);
}

/* Any codes are a matrix; scales are small numbers of either sign. */
static struct guarded random_matrix(struct rng *rng, enum kernel_dtype dtype, uint32_t outs,
                                    uint32_t in)
{
    size_t panel_bytes = kernel_panel_bytes(dtype, in);
    struct guarded w = guarded_make((outs + 31) / 32 * panel_bytes);
    for (size_t i = 0; i < w.bytes; i++)
        ((uint8_t *)w.data)[i] = (uint8_t)rng_u64(rng);
    for (size_t at = 0; at < w.bytes; at += group_bytes(dtype))
        for (uint32_t lane = 0; lane < 32; lane++)
            ((uint16_t *)(void *)((char *)w.data + at))[lane] =
                bf16_truncate((float)rng_normal(rng) / 64);
    return w;
}

struct product_case {
    enum kernel_dtype dtype;
    uint32_t rows, in, outs, out_begin, out_end;
    int with_bias, accumulate;
};

/* The groups' sums are exact; each is converted, scaled and added: 3 roundings a group. */
static void check_output(const struct kernels *k, const struct product_case *c, const void *x,
                         const uint8_t *w, uint32_t r, uint32_t o, double before, double bias,
                         float got)
{
    const uint8_t *panel = w + o / 32 * kernel_panel_bytes(c->dtype, c->in);
    struct row row = row_at(x, c->in, r);
    double sum = before + bias, size = fabs(before) + fabs(bias);
    uint32_t groups = (c->in + 63) / 64;
    for (uint32_t g = 0; g < groups; g++) {
        int32_t codes = 0;
        for (uint32_t i = g * 64; i < g * 64 + 64; i++)
            codes += row.codes[i] * code_of(panel, c->dtype, o % 32, i);
        double product = (double)row.scales[g] * scale_of(panel, c->dtype, o % 32, g) * codes;
        sum += product;
        size += fabs(product);
    }
    check_near(got, sum, (groups + 4) * UNIT * size, "%s dtype %d rows %u in %u at [%u, %u]",
               kernels_isa_name(k->isa), c->dtype, c->rows, c->in, r, o);
}

static void check_product(const struct kernels *k, struct rng *rng, const struct product_case *c)
{
    size_t y_stride = c->outs + 3;
    struct guarded x = guarded_make(c->rows * kernel_quantised_bytes(c->in));
    struct guarded y = guarded_floats(c->rows * y_stride);
    struct guarded w = random_matrix(rng, c->dtype, c->outs, c->in);
    struct guarded bias = random_of(rng, KERNEL_F32, c->outs);
    struct guarded before = guarded_floats(c->rows * y_stride);
    float *yd = y.data, *old = before.data;
    for (uint32_t r = 0; r < c->rows; r++) {
        struct guarded values = random_of(rng, KERNEL_F32, c->in);
        k->quantise((char *)x.data + r * kernel_quantised_bytes(c->in), values.data, c->in);
        guarded_free(&values);
        if (c->accumulate)
            fill(rng, yd + r * y_stride + c->out_begin, KERNEL_F32, c->out_end - c->out_begin);
    }
    memcpy(old, yd, y.bytes);
    k->matmul_quantised[c->dtype](yd, y_stride, x.data, w.data, c->with_bias ? bias.data : NULL,
                                  c->rows, c->in, c->out_begin, c->out_end, c->accumulate);
    for (uint32_t r = 0; r < c->rows; r++) {
        for (uint32_t o = 0; o < y_stride; o++) {
            size_t at = r * y_stride + o;
            if (o < c->out_begin || o >= c->out_end)
                assert_memory_equal(&yd[at], &old[at], sizeof(float));
            else
                check_output(k, c, x.data, w.data, r, o, c->accumulate ? (double)old[at] : 0,
                             c->with_bias ? (double)((float *)bias.data)[o] : 0, yd[at]);
        }
    }
    guarded_free(&x);
    guarded_free(&y);
    guarded_free(&w);
    guarded_free(&bias);
    guarded_free(&before);
}

static void products(const struct kernels *k)
{
    static const uint32_t rows[] = {1, 2, 3, 4, 5, 7, 8, 9, 16, 19, 33, 47};
    static const uint32_t outs[] = {1, 15, 31, 32, 33, 100};
    struct rng rng;
    rng_seed(&rng, 72);
    uint32_t n = 0;
    for (size_t t = 0; t < COUNT(quantised); t++)
        for (size_t r = 0; r < COUNT(rows); r++)
            for (size_t d = 0; d < COUNT(dims); d++, n++) {
                struct product_case c = {
                    quantised[t], rows[r], dims[d], outs[n % COUNT(outs)], 0, 0, n % 2, n / 2 % 2};
                c.out_begin = c.outs > 48 ? 32 : 0;
                c.out_end = c.outs - (n % 3 == 0 && c.outs > 17);
                check_product(k, &rng, &c);
            }
}

/* More weights than one block of them; rows alone give the same bits as rows together. */
static void blocks_and_batches(const struct kernels *k)
{
    enum { IN = 1000, OUTS = 1021, ROWS = 45 };
    struct rng rng;
    rng_seed(&rng, 73);
    for (size_t t = 0; t < COUNT(quantised); t++) {
        struct guarded w = random_matrix(&rng, quantised[t], OUTS, IN);
        struct guarded values = random_of(&rng, KERNEL_F32, ROWS * IN);
        struct guarded x = guarded_make(ROWS * kernel_quantised_bytes(IN));
        struct guarded y = guarded_floats(ROWS * OUTS);
        for (size_t r = 0; r < ROWS; r++)
            k->quantise((char *)x.data + r * kernel_quantised_bytes(IN),
                        (float *)values.data + r * IN, IN);
        k->matmul_quantised[quantised[t]](y.data, OUTS, x.data, w.data, NULL, ROWS, IN, 0, OUTS, 0);
        for (size_t r = 0; r < ROWS; r++) {
            struct guarded alone = guarded_floats(OUTS);
            const char *row = (char *)x.data + r * kernel_quantised_bytes(IN);
            k->matmul_quantised[quantised[t]](alone.data, OUTS, row, w.data, NULL, 1, IN, 0, 512,
                                              0);
            k->matmul_quantised[quantised[t]](alone.data, OUTS, row, w.data, NULL, 1, IN, 512, OUTS,
                                              0);
            assert_memory_equal(alone.data, (float *)y.data + r * OUTS, OUTS * sizeof(float));
            guarded_free(&alone);
        }
        guarded_free(&w);
        guarded_free(&values);
        guarded_free(&x);
        guarded_free(&y);
    }
}

static void rows_are_loaded(const struct kernels *k)
{
    struct rng rng;
    rng_seed(&rng, 74);
    for (size_t t = 0; t < COUNT(quantised); t++) {
        for (size_t d = 0; d < COUNT(dims); d++) {
            struct guarded w = random_matrix(&rng, quantised[t], 37, dims[d]);
            for (uint32_t o = 0; o < 37; o++) {
                struct guarded to = guarded_floats(dims[d]);
                const uint8_t *panel =
                    (uint8_t *)w.data + o / 32 * kernel_panel_bytes(quantised[t], dims[d]);
                k->load_row[quantised[t]](to.data, w.data, dims[d], o);
                for (uint32_t i = 0; i < dims[d]; i++)
                    assert_true(((float *)to.data)[i] ==
                                scale_of(panel, quantised[t], o % 32, i / 64) *
                                    (float)code_of(panel, quantised[t], o % 32, i));
                guarded_free(&to);
            }
            guarded_free(&w);
        }
    }
}

/* Whole numbers leave no room for an instruction set of its own: all with vectors agree. */
static void vectors_agree(void **state)
{
    enum { IN = 300, OUTS = 40, ROWS = 45 };
    struct rng rng;
    (void)state;
    rng_seed(&rng, 75);
    for (size_t t = 0; t < COUNT(quantised); t++) {
        struct guarded w = random_matrix(&rng, quantised[t], OUTS, IN);
        struct guarded values = random_of(&rng, KERNEL_F32, ROWS * IN);
        float first[ROWS * OUTS], y[ROWS * OUTS];
        int seen = 0;
        for (int isa = KERNEL_ISA_AVX2; isa < KERNEL_ISA_COUNT; isa++) {
            const struct kernels *k = kernels_get(isa);
            if (k == NULL)
                continue;
            struct guarded x = guarded_make(ROWS * kernel_quantised_bytes(IN));
            for (size_t r = 0; r < ROWS; r++)
                k->quantise((char *)x.data + r * kernel_quantised_bytes(IN),
                            (float *)values.data + r * IN, IN);
            k->matmul_quantised[quantised[t]](y, OUTS, x.data, w.data, NULL, ROWS, IN, 0, OUTS, 0);
            if (seen++ == 0)
                memcpy(first, y, sizeof(y));
            assert_memory_equal(first, y, sizeof(y));
            guarded_free(&x);
        }
        guarded_free(&w);
        guarded_free(&values);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CHECK(rows_are_rounded),   CHECK(extremes),        CHECK(products),
        CHECK(blocks_and_batches), CHECK(rows_are_loaded), cmocka_unit_test(vectors_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
