/*
 * Matrix products of every instruction set that this processor has, the scalar one
 * included, against the formula computed here in double. Outputs start as NaN between guard zones;
 * inputs outside of what a kernel may read are NaN. Each tolerance is derived from the length of
 * the sums.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "kernels/kernels.h"
#include "unit/kernel_checks.h"

/* --- matmul --- */

/* float x float, float x bf16, bf16 x bf16, float x bytes; the last three over panels too */
enum product {
    PRODUCT_F32,
    PRODUCT_BF16,
    PRODUCT_HALF,
    PRODUCT_CODES,
    PRODUCT_PANELS,
    PRODUCT_HALF_PANELS,
    PRODUCT_CODE_PANELS,
    PRODUCT_COUNT,
};

static int is_half(enum product p)
{
    return p == PRODUCT_HALF || p == PRODUCT_HALF_PANELS;
}

static int has_panels(enum product p)
{
    return p >= PRODUCT_PANELS;
}

static enum kernel_dtype x_dtype(enum product p)
{
    return is_half(p) ? KERNEL_BF16 : KERNEL_F32;
}

static enum kernel_dtype w_dtype(enum product p)
{
    static const enum kernel_dtype dtypes[PRODUCT_COUNT] = {
        [PRODUCT_F32] = KERNEL_F32,
        [PRODUCT_BF16] = KERNEL_BF16,
        [PRODUCT_HALF] = KERNEL_BF16,
        [PRODUCT_CODES] = KERNEL_CODES,
        [PRODUCT_PANELS] = KERNEL_PANELS,
        [PRODUCT_HALF_PANELS] = KERNEL_PANELS,
        [PRODUCT_CODE_PANELS] = KERNEL_CODE_PANELS,
    };
    return dtypes[p];
}

/* What w consists of. */
static enum kernel_dtype w_element(enum product p)
{
    if (p == PRODUCT_CODES || p == PRODUCT_CODE_PANELS)
        return KERNEL_CODES;
    return p == PRODUCT_F32 ? KERNEL_F32 : KERNEL_BF16;
}

/* Where input i of output o stands in w. */
static size_t w_index(enum product p, uint32_t in, uint32_t o, uint32_t i)
{
    if (p == PRODUCT_CODE_PANELS)
        return ((size_t)(o / KERNEL_PANEL_OUTS) * in + i) * KERNEL_PANEL_OUTS +
               o % KERNEL_PANEL_OUTS;
    size_t pair = (size_t)(o / KERNEL_PANEL_OUTS) * ((in + 1) / 2) + i / 2;
    if (has_panels(p))
        return (pair * KERNEL_PANEL_OUTS + o % KERNEL_PANEL_OUTS) * 2 + i % 2;
    return (size_t)o * in + i;
}

/* Random weights; in panels what is missing is 0. */
static struct guarded weights_of(struct rng *rng, enum product p, uint32_t outs, uint32_t in)
{
    if (!has_panels(p))
        return random_of(rng, w_dtype(p), (size_t)outs * in);
    uint32_t panels = (outs + KERNEL_PANEL_OUTS - 1) / KERNEL_PANEL_OUTS;
    size_t size = element_bytes(w_element(p));
    struct guarded g = guarded_make(panels * kernel_panel_bytes(w_dtype(p), in));
    memset(g.data, 0, g.bytes);
    for (uint32_t o = 0; o < outs; o++)
        for (uint32_t i = 0; i < in; i++)
            fill(rng, (char *)g.data + w_index(p, in, o, i) * size, w_element(p), 1);
    return g;
}

static int has_product(const struct kernels *k, enum product p)
{
    return !is_half(p) || k->matmul_half[w_dtype(p)] != NULL;
}

struct matmul_case {
    enum product product;
    uint32_t rows, in, outs, out_begin, out_end;
    int with_bias, accumulate;
};

static void multiply(const struct kernels *k, const struct matmul_case *c, float *y,
                     size_t y_stride, const void *x, size_t x_stride, const void *w,
                     const float *bias)
{
    const float *b = c->with_bias ? bias : NULL;
    if (is_half(c->product))
        k->matmul_half[w_dtype(c->product)](y, y_stride, x, x_stride, w, b, c->rows, c->in,
                                            c->out_begin, c->out_end, c->accumulate);
    else
        k->matmul[w_dtype(c->product)](y, y_stride, x, x_stride, w, b, c->rows, c->in, c->out_begin,
                                       c->out_end, c->accumulate);
}

/*
 * A sum of `in` products in 8 lanes or more makes at most in / 8 + 1 roundings in a lane (an FMA
 * rounds once, a product of two bf16 is exact), over panels all of them in one lane, 4 while the
 * lanes are added, one for the bias and one for the accumulation, each relative to at most the sum
 * of the absolute values.
 */
static void check_matmul(const struct kernels *k, struct rng *rng, const struct matmul_case *c)
{
    size_t x_stride = c->in + 5, y_stride = c->outs + 3,
           x_bytes = element_bytes(x_dtype(c->product));
    struct guarded x = guarded_make(c->rows * x_stride * x_bytes);
    struct guarded y = guarded_floats(c->rows * y_stride);
    struct guarded w = weights_of(rng, c->product, c->outs, c->in);
    struct guarded bias = random_of(rng, KERNEL_F32, c->outs);
    struct guarded before = guarded_floats(c->rows * y_stride);
    float *yd = y.data, *bd = bias.data, *old = before.data;
    for (uint32_t r = 0; r < c->rows; r++) {
        fill(rng, (char *)x.data + r * x_stride * x_bytes, x_dtype(c->product), c->in);
        if (c->accumulate)
            fill(rng, yd + r * y_stride + c->out_begin, KERNEL_F32, c->out_end - c->out_begin);
    }
    memcpy(old, yd, y.bytes);

    multiply(k, c, yd, y_stride, x.data, x_stride, w.data, bd);

    for (uint32_t r = 0; r < c->rows; r++) {
        for (uint32_t o = 0; o < y_stride; o++) {
            size_t at = r * y_stride + o;
            if (o < c->out_begin || o >= c->out_end) {
                if (memcmp(&yd[at], &old[at], sizeof(float)) != 0)
                    fail_msg("%s: y[%u, %u] outside of [%u, %u) was written",
                             kernels_isa_name(k->isa), r, o, c->out_begin, c->out_end);
                continue;
            }
            double sum = c->with_bias ? (double)bd[o] : 0;
            sum += c->accumulate ? (double)old[at] : 0;
            double size = c->with_bias ? fabs((double)bd[o]) : 0;
            size += c->accumulate ? fabs((double)old[at]) : 0;
            for (uint32_t i = 0; i < c->in; i++) {
                double product =
                    element(x.data, x_dtype(c->product), r * x_stride + i) *
                    element(w.data, w_element(c->product), w_index(c->product, c->in, o, i));
                sum += product;
                size += fabs(product);
            }
            uint32_t roundings = has_panels(c->product) ? c->in : c->in / 8;
            check_near(yd[at], sum, (roundings + 7) * UNIT * size,
                       "%s matmul product %d rows %u in %u out %u..%u bias %d accumulate %d at "
                       "[%u, %u]",
                       kernels_isa_name(k->isa), c->product, c->rows, c->in, c->out_begin,
                       c->out_end, c->with_bias, c->accumulate, r, o);
        }
    }
    guarded_free(&x);
    guarded_free(&y);
    guarded_free(&w);
    guarded_free(&bias);
    guarded_free(&before);
}

static void matmul_is_right(const struct kernels *k)
{
    static const uint32_t rows[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 64};
    struct rng rng;
    rng_seed(&rng, 1);
    for (size_t d = 0; d < COUNT(dims); d++) {
        for (size_t r = 0; r < COUNT(rows); r++) {
            if (dims[d] * rows[r] > 10000)
                continue;
            for (int i = 0; i < 4 * PRODUCT_COUNT; i++) {
                uint32_t outs = 1 + rng_below(&rng, 53), begin = rng_below(&rng, outs);
                if (has_panels(i % PRODUCT_COUNT))
                    begin = begin / KERNEL_PANEL_OUTS * KERNEL_PANEL_OUTS;
                struct matmul_case c = {
                    .product = i % PRODUCT_COUNT,
                    .rows = rows[r],
                    .in = dims[d],
                    .outs = outs,
                    .out_begin = begin,
                    .out_end = begin + 1 + rng_below(&rng, outs - begin),
                    .with_bias = i / PRODUCT_COUNT & 1,
                    .accumulate = i / PRODUCT_COUNT >> 1,
                };
                if (has_product(k, c.product))
                    check_matmul(k, &rng, &c);
            }
        }
    }
    /* Weights of several blocks of the second-level cache. */
    for (enum product p = PRODUCT_BF16; p < PRODUCT_COUNT; p++) {
        struct matmul_case wide = {p,  7, 14336, 43, has_panels(p) ? KERNEL_PANEL_OUTS : 1,
                                   42, 1, 0};
        struct matmul_case high = {p,  43, 4200, 67, has_panels(p) ? KERNEL_PANEL_OUTS : 1,
                                   64, 1,  0};
        if (!has_product(k, p))
            continue;
        check_matmul(k, &rng, &wide);
        check_matmul(k, &rng, &high); /* and of several slices of inputs */
    }
}

/* A row of a matrix, whichever way it lies. */
static void rows_are_found(const struct kernels *k)
{
    struct rng rng;
    rng_seed(&rng, 3);
    for (size_t d = 0; d < COUNT(dims); d++) {
        for (enum product p = PRODUCT_F32; p < PRODUCT_COUNT; p++) {
            uint32_t in = dims[d], outs = 35;
            if (w_element(p) == KERNEL_CODES) /* nobody looks up rows of these */
                continue;
            struct guarded w = weights_of(&rng, p, outs, in);
            for (uint32_t o = 0; o < outs; o++) {
                struct guarded row = guarded_floats(in);
                k->load_row[w_dtype(p)](row.data, w.data, in, o);
                for (uint32_t i = 0; i < in; i++)
                    assert_true(((float *)row.data)[i] ==
                                element(w.data, w_element(p), w_index(p, in, o, i)));
                guarded_free(&row);
            }
            guarded_free(&w);
        }
    }
}

/* An output is bitwise the same alone, among any number of rows and in any range of outputs. */
static void matmul_order_is_fixed(const struct kernels *k)
{
    enum { ROWS = 70 };
    /* Part of a panel, and whole ones, of which slices of inputs may be taken. */
    static const struct {
        uint32_t in, outs;
    } shapes[] = {{7, 23}, {129, 23}, {896, 23}, {9001, 23}, {9001, 64}};
    struct rng rng;
    rng_seed(&rng, 2);
    for (size_t d = 0; d < PRODUCT_COUNT * COUNT(shapes); d++) {
        struct matmul_case c = {.product = d % PRODUCT_COUNT, .rows = 1, .with_bias = 1};
        uint32_t in = c.in = shapes[d / PRODUCT_COUNT].in, outs = shapes[d / PRODUCT_COUNT].outs;
        if (!has_product(k, c.product))
            continue;
        struct guarded x = random_of(&rng, x_dtype(c.product), (size_t)ROWS * in);
        struct guarded w = weights_of(&rng, c.product, outs, in);
        uint32_t step = has_panels(c.product) ? KERNEL_PANEL_OUTS : 1;
        struct guarded bias = random_of(&rng, KERNEL_F32, outs);
        struct guarded alone = guarded_floats(ROWS * outs);
        for (uint32_t r = 0; r < ROWS; r++)
            for (c.out_begin = 0; c.out_begin < outs; c.out_begin += step) {
                size_t at = (size_t)r * in * element_bytes(x_dtype(c.product));
                c.out_end = c.out_begin + step < outs ? c.out_begin + step : outs;
                multiply(k, &c, (float *)alone.data + r * outs, outs, (char *)x.data + at, in,
                         w.data, bias.data);
            }
        for (uint32_t rows = 1; rows <= ROWS; rows += in > 1000 ? 9 : 1) {
            struct guarded y = guarded_floats((size_t)rows * outs);
            c.rows = rows;
            for (c.out_begin = 0; c.out_begin < outs; c.out_begin = c.out_end) {
                c.out_end = c.out_begin + (1 + rng_below(&rng, outs - c.out_begin)) * step;
                c.out_end = c.out_end < outs ? c.out_end : outs;
                multiply(k, &c, y.data, outs, x.data, in, w.data, bias.data);
            }
            if (memcmp(y.data, alone.data, y.bytes) != 0)
                fail_msg("%s matmul product %d in %u: %u rows differ from each row alone",
                         kernels_isa_name(k->isa), c.product, in, rows);
            guarded_free(&y);
        }
        guarded_free(&x);
        guarded_free(&w);
        guarded_free(&bias);
        guarded_free(&alone);
    }
}

/* --- dispatch --- */

static void the_environment_chooses(void **state)
{
    (void)state;
    const struct kernels *chosen = NULL;
    struct error err = {0};
    const struct kernels *best = NULL;
    for (int isa = 0; isa < KERNEL_ISA_COUNT; isa++) {
        const struct kernels *table = kernels_get(isa);
        best = table != NULL ? table : best;
        setenv("SLLORA_ISA", kernels_isa_name(isa), 1);
        chosen = NULL;
        int rc = kernels_select(&chosen, &err);
        assert_ptr_equal(chosen, table);
        assert_int_equal(rc, table != NULL ? 0 : -ENOTSUP);
        if (table != NULL)
            assert_int_equal(table->isa, isa);
        else
            assert_non_null(strstr(err.text, kernels_isa_name(isa)));
    }
    static const char *const wrong[] = {"", "AVX2", "avx", "avx5122", "neon"};
    for (size_t i = 0; i < COUNT(wrong); i++) {
        setenv("SLLORA_ISA", wrong[i], 1);
        chosen = NULL;
        assert_int_equal(kernels_select(&chosen, &err), -EINVAL);
        assert_null(chosen);
        assert_non_null(strstr(err.text, wrong[i]));
        assert_non_null(strstr(err.text, "avx512"));
    }
    unsetenv("SLLORA_ISA");
    assert_int_equal(kernels_select(&chosen, &err), 0);
    __builtin_cpu_init();
    /* With tiles nobody asks whether vectors of bf16 are slow. */
    bool is_slow = best->isa == KERNEL_ISA_AVX512BF16 && __builtin_cpu_is("intel");
    assert_ptr_equal(chosen, is_slow ? kernels_get(KERNEL_ISA_AVX512VNNI) : best);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_environment_chooses),
        CHECK(matmul_is_right),
        CHECK(rows_are_found),
        CHECK(matmul_order_is_fixed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
