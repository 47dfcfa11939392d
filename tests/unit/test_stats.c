/* Percentiles, means and distributions, against values computed by hand (or by numpy's default
 * definition, which is the same); and that draws have the moments of their distributions. */
#include "sim/draw.h"
#include "sim/stats.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void near(double a, double b, double off)
{
    if (!(fabs(a - b) <= off))
        fail_msg("%.17g is not %.17g", a, b);
}

static void test_percentiles(void **state)
{
    (void)state;
    const double v[] = {1, 2, 4, 8, 16};
    near(stats_percentile(v, 5, 0), 1, 0);
    near(stats_percentile(v, 5, 25), 2, 0);
    near(stats_percentile(v, 5, 50), 4, 0);
    near(stats_percentile(v, 5, 90), 12.8, 1e-12);
    near(stats_percentile(v, 5, 95), 14.4, 1e-12);
    near(stats_percentile(v, 5, 99), 15.68, 1e-12);
    near(stats_percentile(v, 5, 100), 16, 0);
    near(stats_percentile(v, 2, 50), 1.5, 0);
    near(stats_percentile(v, 1, 99), 1, 0);
    assert_true(isnan(stats_percentile(v, 0, 50)));
}

static void test_summary(void **state)
{
    (void)state;
    double v[] = {5, 1, 4, 2, 3};
    struct stats_summary s = stats_summarise(v, 5);
    for (int i = 0; i < 5; i++)
        near(v[i], i + 1, 0);
    assert_int_equal(s.count, 5);
    near(s.mean, 3, 0);
    near(s.p50, 3, 0);
    near(s.p95, 4.8, 1e-12);
    near(s.p99, 4.96, 1e-12);
    near(s.max, 5, 0);
    s = stats_summarise(v, 0);
    assert_int_equal(s.count, 0);
    assert_true(isnan(s.mean) && isnan(s.p50) && isnan(s.p95) && isnan(s.p99) && isnan(s.max));
}

static void test_cdf(void **state)
{
    (void)state;
    const double v[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
    double x[10], y[10];
    assert_int_equal(stats_cdf(v, 10, 10, x, y), 10);
    for (int i = 0; i < 10; i++) {
        near(x[i], i + 1, 0);
        near(y[i], (i + 1) / 10.0, 1e-12);
    }
    assert_int_equal(stats_cdf(v, 10, 4, x, y), 4);
    near(x[0], 1, 0);
    near(x[1], 4, 0);
    near(x[2], 7, 0);
    near(x[3], 10, 0);
    near(y[3], 1, 0);
    assert_int_equal(stats_cdf(v, 1, 5, x, y), 1);
    near(x[0], 1, 0);
    near(y[0], 1, 0);
    assert_int_equal(stats_cdf(v, 0, 5, x, y), 0);
}

/* Whatever the number of samples and points: ascending, ends at the largest and at 1. */
static void test_cdf_shapes(void **state)
{
    (void)state;
    double v[300], x[300], y[300];
    for (size_t i = 0; i < 300; i++)
        v[i] = (double)(i * i);
    for (size_t count = 1; count <= 300; count += 7) {
        for (size_t points = 2; points <= 60; points++) {
            size_t n = stats_cdf(v, count, points, x, y);
            assert_true(n == (count < points ? count : points));
            near(x[n - 1], v[count - 1], 0);
            near(y[n - 1], 1, 0);
            for (size_t i = 1; i < n; i++)
                assert_true(x[i] >= x[i - 1] && y[i] > y[i - 1]);
        }
    }
}

static void test_log_exp(void **state)
{
    (void)state;
    struct rng rng;
    rng_seed(&rng, 1);
    for (int i = 0; i < 200000; i++) {
        double x = ldexp(rng_unit(&rng) + 1e-9, (int)rng_below(&rng, 2000) - 1000);
        near(draw_log(x), log(x), 1e-15 * fmax(1, fabs(log(x))));
        double e = 1400 * rng_unit(&rng) - 700;
        near(draw_exp(e) / exp(e), 1, 4e-16 * fmax(1, fabs(e)));
    }
    near(draw_log(1), 0, 0);
    near(draw_exp(0), 1, 0);
    near(draw_exp(-1e6), 0, 0);
    assert_true(isfinite(draw_exp(1e6)));
}

struct moments {
    double mean, deviation;
};

static struct moments moments_of(const double *v, size_t count)
{
    double mean = stats_mean(v, count);
    double squares = 0;
    for (size_t i = 0; i < count; i++)
        squares += (v[i] - mean) * (v[i] - mean);
    return (struct moments){mean, sqrt(squares / (double)count)};
}

#define DRAWS 200000

static void test_normal(void **state)
{
    (void)state;
    struct rng rng;
    double *v = calloc(DRAWS, sizeof *v);
    assert_non_null(v);
    rng_seed(&rng, 2);
    for (int i = 0; i < DRAWS; i++)
        v[i] = draw_normal(&rng);
    struct moments m = moments_of(v, DRAWS);
    near(m.mean, 0, 0.01);
    near(m.deviation, 1, 0.01);
    stats_sort(v, DRAWS);
    near(stats_percentile(v, DRAWS, 97.725), 2, 0.03); /* two deviations */
    free(v);
}

static void test_gamma(void **state)
{
    (void)state;
    static const double shapes[] = {1.0 / 64, 0.16, 0.5, 1, 2.04, 30};
    struct rng rng;
    double *v = calloc(DRAWS, sizeof *v);
    assert_non_null(v);
    rng_seed(&rng, 3);
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        double k = shapes[s];
        for (int i = 0; i < DRAWS; i++)
            v[i] = draw_gamma(&rng, k);
        struct moments m = moments_of(v, DRAWS);
        double cov = 1 / sqrt(k);
        near(m.mean / k, 1, 6 * cov / sqrt(DRAWS));
        near(m.deviation / m.mean / cov, 1, k < 0.1 ? 0.05 : 0.02);
    }
    /* Shape 1 is the exponential distribution. */
    for (int i = 0; i < DRAWS; i++)
        v[i] = draw_gamma(&rng, 1);
    stats_sort(v, DRAWS);
    near(stats_percentile(v, DRAWS, 50), log(2), 0.01);
    near(stats_percentile(v, DRAWS, 99), log(100), 0.1);
    free(v);
}

static void test_lengths(void **state)
{
    (void)state;
    struct rng rng;
    double *v = calloc(DRAWS, sizeof *v);
    assert_non_null(v);
    rng_seed(&rng, 4);
    struct draw_length law = draw_length_mean(500, 0.8, 1, 1000000);
    for (int i = 0; i < DRAWS; i++)
        v[i] = draw_length(&rng, &law);
    near(stats_mean(v, DRAWS), 500, 6);
    law = draw_length_mean(500, 0.8, 300, 700);
    for (int i = 0; i < DRAWS; i++) {
        uint32_t n = draw_length(&rng, &law);
        assert_true(n >= 300 && n <= 700);
    }
    law = draw_length_fixed(77);
    for (int i = 0; i < 100; i++)
        assert_int_equal(draw_length(&rng, &law), 77);
    free(v);
}

static void test_zipf(void **state)
{
    (void)state;
    struct rng rng;
    double sums[10];
    double counts[10] = {0};
    double all = 0;
    for (int i = 0; i < 10; i++)
        all += 1 / (i + 1.0);
    draw_zipf_sums(1, 10, sums);
    near(sums[0], 1 / all, 1e-12);
    near(sums[9], 1, 0);
    rng_seed(&rng, 5);
    for (int i = 0; i < DRAWS; i++)
        counts[draw_zipf(&rng, sums, 10)]++;
    for (int i = 0; i < 10; i++)
        near(counts[i] / DRAWS, 1 / (i + 1.0) / all, 0.005);
    draw_zipf_sums(0, 4, sums);
    for (int i = 0; i < 4; i++)
        near(sums[i], (i + 1) / 4.0, 1e-12);
    assert_int_equal(draw_zipf(&rng, sums, 1), 0);
}

/* Neighbouring seeds, parts and indices begin with draws of their own. */
static void test_parts_are_apart(void **state)
{
    (void)state;
    uint64_t first[64];
    for (uint64_t i = 0; i < 64; i++) {
        struct rng rng;
        draw_seed(&rng, i / 16, i / 4 % 4, i % 4);
        first[i] = rng_u64(&rng);
        for (uint64_t k = 0; k < i; k++)
            assert_true(first[i] != first[k]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_percentiles), cmocka_unit_test(test_summary),
        cmocka_unit_test(test_cdf),         cmocka_unit_test(test_cdf_shapes),
        cmocka_unit_test(test_log_exp),     cmocka_unit_test(test_normal),
        cmocka_unit_test(test_gamma),       cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_zipf),        cmocka_unit_test(test_parts_are_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
