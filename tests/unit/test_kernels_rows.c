/*
 * The kernels of single rows of every instruction set that this processor has, the scalar one
 * included, against the formula computed here in double. Outputs start as NaN between guard zones;
 * inputs outside of what a kernel may read are NaN. Each tolerance is derived from the length of
 * the sums.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/rng.h"
#include "kernels/ceiling.h"
#include "kernels/kernels.h"
#include "kernels/pool.h"
#include "unit/kernel_checks.h"

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
    for (int dtype = 0; dtype < KERNEL_ROWS_COUNT; dtype++) {
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

/* Heads of `dim` rotated values and `rest` that stay as they are. */
static void rope_is_right_beside(const struct kernels *k, uint32_t rest)
{
    static const uint32_t head_dims[] = {2, 6, 16, 30, 32, 64, 66, 80, 128, 200};
    enum { HEADS = 3 };
    struct rng rng;
    rng_seed(&rng, 7);
    for (size_t i = 0; i < COUNT(head_dims); i++) {
        uint32_t dim = head_dims[i], half = dim / 2, stride = dim + rest;
        struct guarded x = random_of(&rng, KERNEL_F32, HEADS * stride), c = guarded_floats(half);
        struct guarded s = guarded_floats(half), old = guarded_floats(HEADS * stride);
        float *xd = x.data, *cd = c.data, *sd = s.data, *before = old.data;
        for (uint32_t d = 0; d < half; d++) {
            double angle = 1000 * rng_unit(&rng);
            cd[d] = (float)cos(angle);
            sd[d] = (float)sin(angle);
        }
        memcpy(before, xd, x.bytes);
        k->rope(xd, cd, sd, HEADS, stride, dim);
        for (uint32_t j = 0; j < HEADS * stride; j++) {
            uint32_t d = j % stride % half;
            int low = j % stride < half;
            if (j % stride >= dim) {
                assert_memory_equal(&xd[j], &before[j], sizeof(*xd));
                continue;
            }
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

static void rope_is_right(const struct kernels *k)
{
    rope_is_right_beside(k, 0);
    rope_is_right_beside(k, 7);
}

static double exact_silu(double x)
{
    return x / (1 + exp(-x));
}

static double exact_gelu(double x)
{
    return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
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
            double want = exact_silu(before[j]) * (double)u[j];
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

/* Below -3 the true value is a small difference of large ones, and so is its error: it is held to
 * the size of x. */
static void gelu_mul_is_right(const struct kernels *k)
{
    struct rng rng;
    rng_seed(&rng, 9);
    for (size_t i = 0; i < COUNT(dims) + 1; i++) {
        uint32_t n = i < COUNT(dims) ? dims[i] : 250001;
        struct guarded gate = random_of(&rng, KERNEL_F32, n);
        struct guarded up = random_of(&rng, KERNEL_F32, n);
        struct guarded old = guarded_floats(n);
        float *g = gate.data, *u = up.data, *before = old.data;
        for (uint32_t j = 0; i == COUNT(dims) && j < n; j++)
            g[j] = (float)j * (60.0f / 250000) - 30;
        memcpy(before, g, gate.bytes);
        k->gelu_mul(g, u, n);
        for (uint32_t j = 0; j < n; j++)
            check_near(g[j], exact_gelu(before[j]) * (double)u[j],
                       6 * UNIT * fabs((double)before[j] * u[j]) + 0x1p-149,
                       "%s gelu_mul n %u of %.9g * %.9g", kernels_isa_name(k->isa), n,
                       (double)before[j], (double)u[j]);
        guarded_free(&gate);
        guarded_free(&up);
        guarded_free(&old);
    }
    float huge[] = {1e30f, -1e30f, NAN}, one[] = {1, 1, 1};
    k->gelu_mul(huge, one, 3);
    assert_true(huge[0] == 1e30f && huge[1] == 0 && isnan(huge[2]));
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

/* The weights of each temperature, one of 0 beyond `least` and where there is no number; each the
 * same wherever it stands. */
static void weigh_is_right(const struct kernels *k)
{
    static const float inverses[] = {0, 0.01f, 0.5f, 1, 1.7f, 1000, 3e38f};
    struct rng rng;
    rng_seed(&rng, 12);
    for (size_t i = 0; i < COUNT(dims) * COUNT(inverses); i++) {
        uint32_t n = dims[i / COUNT(inverses)];
        float inverse = inverses[i % COUNT(inverses)], largest = 0, least = -2;
        struct guarded x = random_of(&rng, KERNEL_F32, n), weights = guarded_floats(n);
        float *xd = x.data, *got = weights.data;
        double sum = 0;
        for (uint32_t j = 0; j < n; j++) {
            xd[j] = -fabsf(3 * xd[j]);
            if (j % 7 == 3)
                xd[j] = j % 2 ? NAN : -INFINITY;
            if (j % 11 == 5)
                xd[j] = j % 2 ? least : nextafterf(least, -INFINITY);
        }
        double total = k->weigh(got, xd, n, largest, inverse, least);
        for (uint32_t j = 0; j < n; j++) {
            double exponent = (double)xd[j] * (double)inverse;
            double want = xd[j] >= least ? exp(exponent) : 0;
            /* The exponent is rounded once, exp adds 3; below 2^-126 a rounding is absolute. */
            double tolerance = want > 0 ? (fabs(exponent) + 3) * UNIT * want + 0x1p-149 : 0;
            check_near(got[j], want, tolerance, "%s weigh n %u inverse %g of %.9g",
                       kernels_isa_name(k->isa), n, (double)inverse, (double)xd[j]);
            if (inverse == 0)
                assert_true(got[j] == (xd[j] >= least ? 1 : 0));
            float alone, any;
            k->weigh(&alone, &xd[j], 1, largest, inverse, least);
            any = got[j];
            assert_memory_equal(&alone, &any, sizeof(any));
            sum += got[j];
        }
        check_near(total, sum, n * 0x1p-52 * sum, "%s weigh sum n %u", kernels_isa_name(k->isa), n);
        guarded_free(&x);
        guarded_free(&weights);
    }
}

static void select_keeps_what_is_between(const struct kernels *k)
{
    static const float bounds[][2] = {{-INFINITY, INFINITY}, {-0.5f, 0.5f}, {1, INFINITY},
                                      {-1, 0.25f},           {9, 9},        {0.5f, -0.5f}};
    struct rng rng;
    rng_seed(&rng, 13);
    for (size_t i = 0; i < COUNT(dims) * COUNT(bounds); i++) {
        uint32_t n = dims[i / COUNT(bounds)], count = 0;
        float least = bounds[i % COUNT(bounds)][0], most = bounds[i % COUNT(bounds)][1];
        struct guarded x = random_of(&rng, KERNEL_F32, n), to = guarded_floats(n);
        struct guarded want = guarded_floats(n);
        float *xd = x.data, *wanted = want.data;
        for (uint32_t j = 0; j < n; j++) {
            if (j % 5 == 2)
                xd[j] = j % 2 ? NAN : INFINITY;
            if (j % 5 == 4)
                xd[j] = j % 2 ? -INFINITY : 0.25f;
            if (xd[j] >= least && xd[j] <= most)
                wanted[count++] = xd[j];
        }
        assert_int_equal(k->select(to.data, xd, n, least, most), count);
        assert_memory_equal(to.data, wanted, count * sizeof(*xd));
        assert_int_equal(k->select(xd, xd, n, least, most), count);
        assert_memory_equal(xd, wanted, count * sizeof(*xd));
        guarded_free(&x);
        guarded_free(&to);
        guarded_free(&want);
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

    /* A round less leaves a difference, and as many operations are counted as were done. */
    for (uint32_t m = 0; m < KERNEL_MULTIPLY_COUNT; m++) {
        float after[3];
        if (k->ceiling_multiply[m] == NULL)
            continue;
        for (uint64_t rounds = 0; rounds < 3; rounds++) {
            after[rounds] = 0.5f;
            uint64_t operations = k->ceiling_multiply[m](rounds, &after[rounds]);
            assert_int_equal(operations, rounds * k->ceiling_multiply[m](1, &(float){0.5f}));
        }
        assert_true(after[0] != after[1] && after[1] != after[2]);
    }
    /* s = s / 2 + 1 / 2 tends to 1 in each lane of each sum. */
    float settled = 0.5f;
    uint64_t sums = k->ceiling_multiply[KERNEL_MULTIPLY_F32](1000, &settled) / 1000 / 2;
    assert_true((double)settled == (double)sums);
    /* 63 * 63 for each product. */
    float before_int8 = 0.5f, grown_int8 = 0.5f;
    k->ceiling_multiply[KERNEL_MULTIPLY_INT8](0, &before_int8);
    uint64_t int8_products = k->ceiling_multiply[KERNEL_MULTIPLY_INT8](1, &grown_int8) / 2;
    assert_true(grown_int8 - before_int8 == (float)int8_products * 63 * 63);
    /* A round adds two products, 1 / 4 each, to each lane of each sum. */
    if (k->ceiling_multiply[KERNEL_MULTIPLY_BF16] != NULL) {
        float before = 0.5f, grown = 0.5f;
        k->ceiling_multiply[KERNEL_MULTIPLY_BF16](0, &before);
        uint64_t products = k->ceiling_multiply[KERNEL_MULTIPLY_BF16](8, &grown) / 2;
        assert_true((double)(grown - before) == (double)products / 4);
    }
}

static void ceilings_are_measured(const struct kernels *k)
{
    struct pool *pool = NULL;
    struct ceiling_memory memory = {0};
    struct error err = {0};
    assert_int_equal(pool_open(&pool, 2, &err), 0);
    assert_int_equal(ceiling_memory_open(&memory, pool, 0, &err), -EINVAL);
    assert_int_equal(ceiling_memory_open(&memory, pool, 8 << 20, &err), 0);
    assert_true(ceiling_read_gb_s(k, pool, &memory) > 0);
    for (uint32_t m = 0; m < KERNEL_MULTIPLY_COUNT; m++)
        assert_int_equal(ceiling_multiply_gop_s(k, pool, m) > 0, k->ceiling_multiply[m] != NULL);
    ceiling_memory_close(&memory);
    pool_close(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CHECK(store_rounds_to_nearest_even),
        CHECK(conversions_keep_the_value),
        CHECK(rms_norm_is_right),
        CHECK(rope_is_right),
        CHECK(silu_mul_is_right),
        CHECK(gelu_mul_is_right),
        CHECK(add_is_exact),
        CHECK(argmax_is_the_first_of_equals),
        CHECK(log_sum_exp_is_right),
        CHECK(weigh_is_right),
        CHECK(select_keeps_what_is_between),
        CHECK(ceilings_do_the_work),
        CHECK(ceilings_are_measured),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
