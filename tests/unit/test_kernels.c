/*
 * Every kernel of every instruction set that this processor has, the scalar one included, against
 * the formula computed here in double. Outputs start as NaN between guard zones; inputs outside of
 * what a kernel may read are NaN. Each tolerance is derived from the length of the sums; UNIT is
 * half a unit in the last place of a float, the largest relative error of one rounding.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "kernels/ceiling.h"
#include "kernels/kernels.h"
#include "kernels/pool.h"

#define UNIT 0x1p-24
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

#define GUARD_BYTES 128

static const uint32_t dims[] = {1, 2, 3, 15, 16, 17, 31, 33, 64, 100, 129, 896, 1000};

/* --- buffers --- */

/* `bytes` between two guard zones, off every alignment but that of a float. */
struct guarded {
    unsigned char *all;
    size_t bytes;
    void *data;
};

static struct guarded guarded_make(size_t bytes)
{
    struct guarded g = {.bytes = bytes, .all = malloc(bytes + 2 * GUARD_BYTES + 4)};
    assert_non_null(g.all);
    memset(g.all, 0xa5, bytes + 2 * GUARD_BYTES + 4);
    g.data = g.all + GUARD_BYTES + 4;
    memset(g.data, 0xff, bytes); /* a NaN as float and as bf16 */
    return g;
}

static struct guarded guarded_floats(size_t count)
{
    return guarded_make(count * sizeof(float));
}

static void guarded_free(struct guarded *g)
{
    for (size_t i = 0; i < GUARD_BYTES + 4; i++)
        if (g->all[i] != 0xa5)
            fail_msg("written %zu bytes before the output", GUARD_BYTES + 4 - i);
    for (size_t i = 0; i < GUARD_BYTES; i++)
        if (g->all[GUARD_BYTES + 4 + g->bytes + i] != 0xa5)
            fail_msg("written %zu bytes after the output", i);
    free(g->all);
}

static float bf16_expand(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static uint16_t bf16_truncate(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return (uint16_t)(bits >> 16);
}

static size_t element_bytes(enum kernel_dtype dtype)
{
    return dtype == KERNEL_BF16 ? 2 : 4;
}

static double element(const void *from, enum kernel_dtype dtype, size_t index)
{
    return dtype == KERNEL_BF16 ? bf16_expand(((const uint16_t *)from)[index])
                                : ((const float *)from)[index];
}

static void fill(struct rng *rng, void *to, enum kernel_dtype dtype, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        float value = (float)rng_normal(rng);
        if (dtype == KERNEL_BF16)
            ((uint16_t *)to)[i] = bf16_truncate(value);
        else
            ((float *)to)[i] = value;
    }
}

static struct guarded random_of(struct rng *rng, enum kernel_dtype dtype, size_t count)
{
    struct guarded g = guarded_make(count * element_bytes(dtype));
    fill(rng, g.data, dtype, count);
    return g;
}

static void check_near(double got, double want, double tolerance, const char *format, ...)
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

/* --- matmul --- */

struct matmul_case {
    enum kernel_dtype dtype;
    uint32_t rows, in, outs, out_begin, out_end;
    int with_bias, accumulate;
};

/*
 * A sum of `in` products in 8 lanes or more makes at most in / 8 + 1 roundings in a lane (an FMA
 * rounds once), 4 while the lanes are added, one for the bias and one for the accumulation, each
 * relative to at most the sum of the absolute values.
 */
static void check_matmul(const struct kernels *k, struct rng *rng, const struct matmul_case *c)
{
    size_t x_stride = c->in + 5, y_stride = c->outs + 3;
    struct guarded x = guarded_floats(c->rows * x_stride), y = guarded_floats(c->rows * y_stride);
    struct guarded w = random_of(rng, c->dtype, (size_t)c->outs * c->in);
    struct guarded bias = random_of(rng, KERNEL_F32, c->outs);
    struct guarded before = guarded_floats(c->rows * y_stride);
    float *yd = y.data, *xd = x.data, *bd = bias.data, *old = before.data;
    for (uint32_t r = 0; r < c->rows; r++) {
        fill(rng, xd + r * x_stride, KERNEL_F32, c->in);
        if (c->accumulate)
            fill(rng, yd + r * y_stride + c->out_begin, KERNEL_F32, c->out_end - c->out_begin);
    }
    memcpy(old, yd, y.bytes);

    k->matmul[c->dtype](yd, y_stride, xd, x_stride, w.data, c->with_bias ? bd : NULL, c->rows,
                        c->in, c->out_begin, c->out_end, c->accumulate);

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
                    xd[r * x_stride + i] * element(w.data, c->dtype, (size_t)o * c->in + i);
                sum += product;
                size += fabs(product);
            }
            check_near(yd[at], sum, (c->in / 8 + 7) * UNIT * size,
                       "%s matmul dtype %d rows %u in %u out %u..%u bias %d accumulate %d at "
                       "[%u, %u]",
                       kernels_isa_name(k->isa), c->dtype, c->rows, c->in, c->out_begin, c->out_end,
                       c->with_bias, c->accumulate, r, o);
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
            for (int i = 0; i < 8; i++) {
                uint32_t outs = 1 + rng_below(&rng, 21), begin = rng_below(&rng, outs);
                struct matmul_case c = {
                    .dtype = i & 1 ? KERNEL_BF16 : KERNEL_F32,
                    .rows = rows[r],
                    .in = dims[d],
                    .outs = outs,
                    .out_begin = begin,
                    .out_end = begin + 1 + rng_below(&rng, outs - begin),
                    .with_bias = i >> 1 & 1,
                    .accumulate = i >> 2 & 1,
                };
                check_matmul(k, &rng, &c);
            }
        }
    }
    /* Weights of several blocks of the second-level cache. */
    struct matmul_case wide = {KERNEL_BF16, 7, 14336, 43, 1, 42, 1, 0};
    check_matmul(k, &rng, &wide);
}

/* An output is bitwise the same alone, among any number of rows and in any range of outputs. */
static void matmul_order_is_fixed(const struct kernels *k)
{
    enum { ROWS = 70, OUTS = 23 };
    static const uint32_t ins[] = {7, 129, 896, 9001};
    struct rng rng;
    rng_seed(&rng, 2);
    for (size_t d = 0; d < 2 * COUNT(ins); d++) {
        enum kernel_dtype dtype = d % 2 ? KERNEL_BF16 : KERNEL_F32;
        uint32_t in = ins[d / 2];
        struct guarded x = random_of(&rng, KERNEL_F32, (size_t)ROWS * in);
        struct guarded w = random_of(&rng, dtype, (size_t)OUTS * in);
        struct guarded bias = random_of(&rng, KERNEL_F32, OUTS);
        struct guarded alone = guarded_floats(ROWS * OUTS);
        for (uint32_t r = 0; r < ROWS; r++)
            for (uint32_t o = 0; o < OUTS; o++)
                k->matmul[dtype]((float *)alone.data + r * OUTS, OUTS, (float *)x.data + r * in, in,
                                 w.data, bias.data, 1, in, o, o + 1, 0);
        for (uint32_t rows = 1; rows <= ROWS; rows += in > 1000 ? 9 : 1) {
            struct guarded y = guarded_floats((size_t)rows * OUTS);
            for (uint32_t o = 0, end; o < OUTS; o = end) {
                end = o + 1 + rng_below(&rng, OUTS - o);
                k->matmul[dtype](y.data, OUTS, x.data, in, w.data, bias.data, rows, in, o, end, 0);
            }
            if (memcmp(y.data, alone.data, y.bytes) != 0)
                fail_msg("%s matmul dtype %d in %u: %u rows differ from each row alone",
                         kernels_isa_name(k->isa), dtype, in, rows);
            guarded_free(&y);
        }
        guarded_free(&x);
        guarded_free(&w);
        guarded_free(&bias);
        guarded_free(&alone);
    }
}

/* --- attention --- */

struct attention_case {
    enum kernel_dtype dtype;
    uint32_t dim, block_tokens, begin, end;
};

/* out[d] and the sum of the absolute values of its terms, in double. */
static void attention_truth(const struct attention_case *c, const float *q, void *const *keys,
                            void *const *values, float scale, double *out, double *size,
                            double *score_size_max)
{
    double *scores = calloc(c->end, sizeof(*scores)), largest = -INFINITY, total = 0;
    assert_non_null(scores);
    *score_size_max = 0;
    for (uint32_t p = c->begin; p < c->end; p++) {
        double score_size = 0;
        for (uint32_t d = 0; d < c->dim; d++) {
            double product = q[d] * element(keys[p / c->block_tokens], c->dtype,
                                            (size_t)(p % c->block_tokens) * c->dim + d);
            scores[p] += product * scale;
            score_size += fabs(product * scale);
        }
        largest = fmax(largest, scores[p]);
        *score_size_max = fmax(*score_size_max, score_size);
    }
    for (uint32_t p = c->begin; p < c->end; p++)
        total += exp(scores[p] - largest);
    for (uint32_t d = 0; d < c->dim; d++) {
        out[d] = size[d] = 0;
        for (uint32_t p = c->begin; p < c->end; p++) {
            double term = exp(scores[p] - largest) / total *
                          element(values[p / c->block_tokens], c->dtype,
                                  (size_t)(p % c->block_tokens) * c->dim + d);
            out[d] += term;
            size[d] += fabs(term);
        }
    }
    free(scores);
}

/*
 * A score is off by at most dim / 8 + 7 roundings of its terms; that is the relative error of its
 * exp, which adds 3 of its own, and enters the terms and their total. The sum over n positions
 * makes n roundings; independent as they are, they add up to a few times sqrt(n).
 */
static void check_attention(const struct kernels *k, struct rng *rng,
                            const struct attention_case *c)
{
    uint32_t block_count = (c->end + c->block_tokens - 1) / c->block_tokens;
    size_t block_elements = (size_t)c->block_tokens * c->dim;
    struct guarded *blocks = calloc(2 * block_count, sizeof(*blocks));
    void **keys = calloc(block_count, sizeof(*keys)), **values = calloc(block_count, sizeof(*keys));
    assert_true(blocks != NULL && keys != NULL && values != NULL);
    for (uint32_t b = c->begin / c->block_tokens; b < block_count; b++) {
        /* Positions outside of [begin, end) stay NaN, blocks before begin stay NULL. */
        blocks[2 * b] = guarded_make(block_elements * element_bytes(c->dtype));
        blocks[2 * b + 1] = guarded_make(block_elements * element_bytes(c->dtype));
        keys[b] = blocks[2 * b].data;
        values[b] = blocks[2 * b + 1].data;
    }
    for (uint32_t p = c->begin; p < c->end; p++) {
        size_t at = (size_t)(p % c->block_tokens) * c->dim * element_bytes(c->dtype);
        fill(rng, (char *)keys[p / c->block_tokens] + at, c->dtype, c->dim);
        fill(rng, (char *)values[p / c->block_tokens] + at, c->dtype, c->dim);
    }
    uint32_t n = c->end - c->begin;
    struct guarded q = random_of(rng, KERNEL_F32, c->dim), out = guarded_floats(c->dim);
    struct guarded scores = guarded_floats(n);
    double *want = calloc(2 * c->dim, sizeof(*want)), *size = want + c->dim, score_size;
    assert_non_null(want);
    float scale = 1 / sqrtf((float)c->dim);
    attention_truth(c, q.data, keys, values, scale, want, size, &score_size);

    k->attention[c->dtype](out.data, q.data, (const void *const *)keys, (const void *const *)values,
                           c->block_tokens, c->begin, c->end, c->dim, scale, scores.data);

    double relative = 2 * ((c->dim / 8 + 7) * score_size + 3) + 4 * sqrt(n) + 4;
    for (uint32_t d = 0; d < c->dim; d++)
        check_near(((float *)out.data)[d], want[d], relative * UNIT * size[d],
                   "%s attention dtype %d dim %u block %u positions %u..%u at %u",
                   kernels_isa_name(k->isa), c->dtype, c->dim, c->block_tokens, c->begin, c->end,
                   d);
    for (uint32_t b = c->begin / c->block_tokens; b < block_count; b++) {
        guarded_free(&blocks[2 * b]);
        guarded_free(&blocks[2 * b + 1]);
    }
    guarded_free(&q);
    guarded_free(&out);
    guarded_free(&scores);
    free(want);
    free(keys);
    free(values);
    free(blocks);
}

static void attention_is_right(const struct kernels *k)
{
    static const uint32_t head_dims[] = {1, 3, 8, 15, 16, 17, 33, 64, 80, 100, 128, 129, 256};
    static const uint32_t ranges[][2] = {{0, 1},  {0, 2},   {0, 16},  {0, 17},  {5, 6},
                                         {5, 40}, {15, 16}, {16, 33}, {31, 133}};
    struct rng rng;
    rng_seed(&rng, 3);
    for (size_t d = 0; d < COUNT(head_dims); d++) {
        for (size_t i = 0; i < COUNT(ranges); i++) {
            for (int dtype = 0; dtype < KERNEL_DTYPE_COUNT; dtype++) {
                struct attention_case c = {dtype, head_dims[d], i % 2 ? 16 : 7, ranges[i][0],
                                           ranges[i][1]};
                check_attention(k, &rng, &c);
            }
        }
    }
    struct attention_case all = {KERNEL_F32, 64, 16, 0, 4000};
    struct attention_case window = {KERNEL_BF16, 128, 16, 1003, 4099};
    check_attention(k, &rng, &all);
    check_attention(k, &rng, &window);
}

/* Scores far apart: what is far below the largest weighs nothing, and nothing overflows. */
static void attention_survives_large_scores(const struct kernels *k)
{
    enum { DIM = 32, TOKENS = 40 };
    float keys[TOKENS * DIM], values[TOKENS * DIM], q[DIM], out[DIM], scores[TOKENS];
    for (int i = 0; i < TOKENS * DIM; i++) {
        keys[i] = i / DIM == 23 ? 100 : -100;
        values[i] = (float)(i / DIM);
    }
    for (int d = 0; d < DIM; d++)
        q[d] = 100;
    const void *key_block = keys, *value_block = values;
    k->attention[KERNEL_F32](out, q, &key_block, &value_block, TOKENS, 0, TOKENS, DIM, 1, scores);
    for (int d = 0; d < DIM; d++)
        check_near(out[d], 23, 0, "%s attention to one position", kernels_isa_name(k->isa));
}

/* One damaged key must not pass for a very large or very small score. */
static void attention_passes_on_a_nan(const struct kernels *k)
{
    enum { DIM = 16, TOKENS = 21 };
    float values[TOKENS * DIM], q[DIM], out[DIM], scores[TOKENS];
    for (int at = 0; at < TOKENS; at++) {
        float keys[TOKENS * DIM];
        for (int i = 0; i < TOKENS * DIM; i++)
            keys[i] = values[i] = i == at * DIM ? NAN : 1;
        values[at * DIM] = 1;
        for (int d = 0; d < DIM; d++)
            q[d] = 1;
        const void *key_block = keys, *value_block = values;
        k->attention[KERNEL_F32](out, q, &key_block, &value_block, TOKENS, 0, TOKENS, DIM, 1,
                                 scores);
        for (int d = 0; d < DIM; d++)
            assert_true(isnan(out[d]));
    }
}

/* --- conversions --- */

/* The nearer of the two bf16 around value; of two as near, the even one. */
static uint16_t bf16_nearest(float value)
{
    uint16_t low = bf16_truncate(value), high = low + 1; /* away from zero */
    double below = fabs((double)value - bf16_expand(low));
    double above = (high & 0x7fff) == 0x7f80 ? 0x1p128 - fabs((double)value)
                                             : fabs((double)value - bf16_expand(high));
    if (below == above)
        return low % 2 == 0 ? low : high;
    return below < above ? low : high;
}

static void store_rounds_to_nearest_even(const struct kernels *k)
{
    enum { N = 1 << 14 };
    struct rng rng;
    rng_seed(&rng, 4);
    struct guarded from = guarded_floats(N), to = guarded_make(N * sizeof(uint16_t));
    uint32_t *bits = from.data;
    for (uint32_t i = 0; i < N; i++) {
        bits[i] = (uint32_t)rng_u64(&rng);
        if (i % 4 == 1)
            bits[i] = (bits[i] & 0xffff0000) | 0x8000; /* halfway */
        if (i % 16 == 2)
            bits[i] &= 0x807fffff; /* subnormal */
        if (i % 64 == 3)
            bits[i] = 0x7f7fffff | (bits[i] & 0x80000000); /* the largest: to infinity */
        if (i % 64 == 7)
            bits[i] = 0x7f800000 | (bits[i] & 0x80000000);
        if (i % 64 == 11)
            bits[i] = 0x7f800001; /* a NaN whose payload does not fit */
        if (i % 64 == 13)
            bits[i] = 0xffffffff; /* a NaN that a carry would turn into -0 */
    }
    k->store[KERNEL_BF16](to.data, from.data, N);
    for (uint32_t i = 0; i < N; i++) {
        float value = ((float *)from.data)[i];
        uint16_t got = ((uint16_t *)to.data)[i];
        int right = isnan(value)   ? isnan(bf16_expand(got))
                    : isinf(value) ? got == bf16_truncate(value)
                                   : got == bf16_nearest(value);
        if (!right)
            fail_msg("%s: %a (%08x) stored as %04x", kernels_isa_name(k->isa), (double)value,
                     bits[i], got);
    }
    guarded_free(&from);
    guarded_free(&to);
}

static void conversions_keep_the_value(const struct kernels *k)
{
    struct rng rng;
    rng_seed(&rng, 5);
    for (int dtype = 0; dtype < KERNEL_DTYPE_COUNT; dtype++) {
        for (size_t i = 0; i < COUNT(dims); i++) {
            uint32_t n = dims[i];
            struct guarded stored = random_of(&rng, dtype, n), floats = guarded_floats(n);
            struct guarded again = guarded_make(n * element_bytes(dtype));
            k->load[dtype](floats.data, stored.data, n);
            for (uint32_t j = 0; j < n; j++)
                assert_true(((float *)floats.data)[j] == element(stored.data, dtype, j));
            k->store[dtype](again.data, floats.data, n);
            assert_memory_equal(again.data, stored.data, stored.bytes);
            guarded_free(&stored);
            guarded_free(&floats);
            guarded_free(&again);
        }
    }
}

/* --- rows --- */

static void rms_norm_is_right(const struct kernels *k)
{
    const float eps = 1e-5f;
    struct rng rng;
    rng_seed(&rng, 6);
    for (size_t i = 0; i < COUNT(dims); i++) {
        uint32_t n = dims[i];
        struct guarded x = random_of(&rng, KERNEL_F32, n), w = random_of(&rng, KERNEL_F32, n);
        struct guarded y = guarded_floats(n);
        float *xd = x.data, *wd = w.data, *yd = y.data;
        double squares = 0;
        for (uint32_t j = 0; j < n; j++)
            squares += (double)xd[j] * xd[j];
        k->rms_norm(yd, xd, wd, n, eps);
        for (uint32_t j = 0; j < n; j++) {
            double want = xd[j] * wd[j] / sqrt(squares / n + (double)eps);
            /* The squares' relative error halves under the root; 6 roundings follow. */
            check_near(yd[j], want, ((n / 8 + 6) / 2 + 6) * UNIT * fabs(want),
                       "%s rms_norm n %u at %u", kernels_isa_name(k->isa), n, j);
        }
        k->rms_norm(xd, xd, wd, n, eps);
        assert_memory_equal(xd, yd, y.bytes);
        guarded_free(&x);
        guarded_free(&w);
        guarded_free(&y);
    }
}

static void rope_is_right(const struct kernels *k)
{
    static const uint32_t head_dims[] = {2, 6, 16, 30, 32, 64, 66, 80, 128, 200};
    enum { HEADS = 3 };
    struct rng rng;
    rng_seed(&rng, 7);
    for (size_t i = 0; i < COUNT(head_dims); i++) {
        uint32_t dim = head_dims[i], half = dim / 2;
        struct guarded x = random_of(&rng, KERNEL_F32, HEADS * dim), c = guarded_floats(half);
        struct guarded s = guarded_floats(half), old = guarded_floats(HEADS * dim);
        float *xd = x.data, *cd = c.data, *sd = s.data, *before = old.data;
        for (uint32_t d = 0; d < half; d++) {
            double angle = 1000 * rng_unit(&rng);
            cd[d] = (float)cos(angle);
            sd[d] = (float)sin(angle);
        }
        memcpy(before, xd, x.bytes);
        k->rope(xd, cd, sd, HEADS, dim);
        for (uint32_t j = 0; j < HEADS * dim; j++) {
            uint32_t d = j % dim % half;
            int low = j % dim < half;
            double a = before[j], b = low ? -before[j + half] : before[j - half];
            double size = fabs(a * cd[d]) + fabs(b * sd[d]);
            check_near(xd[j], a * cd[d] + b * sd[d], 3 * UNIT * size, "%s rope dim %u at %u",
                       kernels_isa_name(k->isa), dim, j);
        }
        guarded_free(&x);
        guarded_free(&c);
        guarded_free(&s);
        guarded_free(&old);
    }
}

static void silu_mul_is_right(const struct kernels *k)
{
    struct rng rng;
    rng_seed(&rng, 8);
    for (size_t i = 0; i < COUNT(dims) + 1; i++) {
        /* Odd lengths of usual values, then a fine sweep over all that exp can take. */
        uint32_t n = i < COUNT(dims) ? dims[i] : 250001;
        struct guarded gate = random_of(&rng, KERNEL_F32, n);
        struct guarded up = random_of(&rng, KERNEL_F32, n);
        struct guarded old = guarded_floats(n);
        float *g = gate.data, *u = up.data, *before = old.data;
        for (uint32_t j = 0; i == COUNT(dims) && j < n; j++)
            g[j] = (float)j * (250.0f / 250000) - 125;
        memcpy(before, g, gate.bytes);
        k->silu_mul(g, u, n);
        for (uint32_t j = 0; j < n; j++) {
            double want = before[j] / (1 + exp(-(double)before[j])) * (double)u[j];
            /* exp 3, sum, quotient and product one each; below 2^-126 a rounding is absolute, and
             * from exp(89) on the sum is infinite. */
            double tolerance = 6 * UNIT * fabs(want) + 0x1p-149;
            if (before[j] < -88)
                tolerance = 0x1p-119 * fabs((double)u[j]);
            check_near(g[j], want, tolerance, "%s silu_mul n %u of %.9g * %.9g",
                       kernels_isa_name(k->isa), n, (double)before[j], (double)u[j]);
        }
        guarded_free(&gate);
        guarded_free(&up);
        guarded_free(&old);
    }
    /* A NaN must reach the logits, where it is seen, in every lane and in the tail. */
    float gate[21], up[21];
    for (int at = 0; at < 21; at++) {
        for (int j = 0; j < 21; j++) {
            gate[j] = j == at ? NAN : 1;
            up[j] = 1;
        }
        k->silu_mul(gate, up, 21);
        for (int j = 0; j < 21; j++)
            assert_int_equal(isnan(gate[j]) != 0, j == at);
    }
}

static void add_is_exact(const struct kernels *k)
{
    struct rng rng;
    rng_seed(&rng, 9);
    for (size_t i = 0; i < COUNT(dims); i++) {
        uint32_t n = dims[i];
        struct guarded y = random_of(&rng, KERNEL_F32, n), x = random_of(&rng, KERNEL_F32, n);
        struct guarded want = guarded_floats(n);
        for (uint32_t j = 0; j < n; j++)
            ((float *)want.data)[j] = ((float *)y.data)[j] + ((float *)x.data)[j];
        k->add(y.data, x.data, n);
        assert_memory_equal(y.data, want.data, y.bytes);
        guarded_free(&y);
        guarded_free(&x);
        guarded_free(&want);
    }
}

static void argmax_is_the_first_of_equals(const struct kernels *k)
{
    struct rng rng;
    rng_seed(&rng, 10);
    for (size_t i = 0; i < COUNT(dims); i++) {
        uint32_t n = dims[i];
        struct guarded x = random_of(&rng, KERNEL_F32, n);
        float *xd = x.data;
        for (int round = 0; round < 20; round++) {
            uint32_t first = rng_below(&rng, n);
            fill(&rng, xd, KERNEL_F32, n);
            for (uint32_t j = first; j < n; j += 1 + rng_below(&rng, 5))
                xd[j] = 1000 + (float)round;
            for (uint32_t j = rng_below(&rng, n); j > 0 && j < n && j != first; j += 7)
                xd[j] = j > first ? NAN : -INFINITY;
            assert_int_equal(k->argmax(xd, n), first);
        }
        for (uint32_t j = 0; j < n; j++)
            xd[j] = j % 3 ? -INFINITY : NAN;
        assert_int_equal(k->argmax(xd, n), 0);
        xd[n - 1] = -3;
        assert_int_equal(k->argmax(xd, n), n - 1);
        xd[n / 2] = INFINITY;
        assert_int_equal(k->argmax(xd, n), n / 2);
        guarded_free(&x);
    }
}

static void log_sum_exp_is_right(const struct kernels *k)
{
    struct rng rng;
    rng_seed(&rng, 11);
    for (size_t i = 0; i < COUNT(dims) + 1; i++) {
        uint32_t n = i < COUNT(dims) ? dims[i] : 151936;
        struct guarded x = random_of(&rng, KERNEL_F32, n);
        float *xd = x.data;
        for (int spread = 1; spread <= 1000; spread *= 10) {
            double largest = -INFINITY, sum = 0;
            for (uint32_t j = 0; j < n; j++) {
                xd[j] = (float)(spread * (rng_normal(&rng) + 30));
                largest = fmax(largest, (double)xd[j]);
            }
            for (uint32_t j = 0; j < n; j++)
                sum += exp((double)xd[j] - largest);
            /* An exponent above -32 is off by at most 16 units, its exp by 3 more; the terms
             * below that weigh nothing. Sums are in double. */
            check_near(k->log_sum_exp(xd, n), largest + log(sum), 20 * UNIT,
                       "%s log_sum_exp n %u spread %d", kernels_isa_name(k->isa), n, spread);
        }
        if (n > 1) {
            float old = xd[n / 3];
            xd[n / 3] = NAN;
            assert_true(isnan(k->log_sum_exp(xd, n)));
            xd[n / 3] = old;
        }
        xd[n / 2] = INFINITY;
        assert_true(k->log_sum_exp(xd, n) == (double)INFINITY);
        for (uint32_t j = 0; j < n; j++)
            xd[j] = -INFINITY;
        assert_true(k->log_sum_exp(xd, n) == -(double)INFINITY);
        guarded_free(&x);
    }
}

/* --- ceilings --- */

/* The loops that are timed do the work that is counted: every byte is read, every product made. */
static void ceilings_do_the_work(const struct kernels *k)
{
    enum { N = 4096 };
    static float x[N];
    for (int i = 0; i < N; i++)
        x[i] = (float)(i % 100); /* sums below 2^24: exact in any order */
    double want = 0;
    for (int i = 0; i < N; i++)
        want += (double)x[i];
    assert_true((double)k->ceiling_read(x, sizeof(x)) == want);

    /* s = s / 2 + 1 / 2 tends to 1 in each lane of each sum, and a round less leaves a difference.
     */
    float after[3];
    for (uint64_t rounds = 0; rounds < 3; rounds++) {
        after[rounds] = 0.5f;
        uint64_t operations = k->ceiling_fma(rounds, &after[rounds]);
        assert_int_equal(operations, rounds * k->ceiling_fma(1, &(float){0.5f}));
    }
    assert_true(after[0] != after[1] && after[1] != after[2]);
    float settled = 0.5f;
    uint64_t sums = k->ceiling_fma(1000, &settled) / 1000 / 2;
    assert_true((double)settled == (double)sums);

    struct pool *pool = NULL;
    struct error err = {0};
    double rate = -1;
    assert_int_equal(pool_open(&pool, 2, &err), 0);
    assert_int_equal(ceiling_read_gbs(k, pool, 0, &rate, &err), -EINVAL);
    assert_true(rate == -1);
    assert_int_equal(ceiling_read_gbs(k, pool, 8 << 20, &rate, &err), 0);
    assert_true(rate > 0);
    assert_true(ceiling_fma_gflops(k, pool) > 0);
    pool_close(pool);
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
    assert_ptr_equal(chosen, best);
}

/* Runs one check for every instruction set that is here. */
static void for_each_isa(void **state)
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_environment_chooses),
        CHECK(matmul_is_right),
        CHECK(matmul_order_is_fixed),
        CHECK(attention_is_right),
        CHECK(attention_survives_large_scores),
        CHECK(attention_passes_on_a_nan),
        CHECK(store_rounds_to_nearest_even),
        CHECK(conversions_keep_the_value),
        CHECK(rms_norm_is_right),
        CHECK(rope_is_right),
        CHECK(silu_mul_is_right),
        CHECK(add_is_exact),
        CHECK(argmax_is_the_first_of_equals),
        CHECK(log_sum_exp_is_right),
        CHECK(ceilings_do_the_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
