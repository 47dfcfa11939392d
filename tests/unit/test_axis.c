/* Ticks of axes: the numbers a reader expects, and something to draw for every input. */
#include "sim/axis.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"

/* The names of all ticks, a blank between two. */
static void names(const struct axis *a, char *ret, size_t bytes)
{
    size_t len = 0;
    ret[0] = '\0';
    for (size_t i = 0; i < a->tick_count; i++) {
        if (a->ticks[i].label[0] != '\0')
            len += (size_t)snprintf(ret + len, bytes - len, "%s%s", len > 0 ? " " : "",
                                    a->ticks[i].label);
        assert_true(len < bytes);
    }
}

static void test_ticks(void **state)
{
    (void)state;
    static const struct {
        double lo, hi;
        bool log;
        enum axis_ends ends;
        size_t labels;
        const char *expected;
    } cases[] = {
        {0, 1, false, AXIS_TIGHT, 5, "0 0.2 0.4 0.6 0.8 1"},
        {0.013, 0.97, false, AXIS_ROUND, 5, "0 0.2 0.4 0.6 0.8 1"},
        {0, 86400, false, AXIS_TIGHT, 8, "0 20k 40k 60k 80k"},
        {0, 9.3e6, false, AXIS_ROUND, 5, "0 2M 4M 6M 8M 10M"},
        {0, 2.4e9, false, AXIS_ROUND, 5, "0 500M 1G 1.5G 2G 2.5G"},
        {0, 3e13, false, AXIS_ROUND, 5, "0 10T 20T 30T"},
        {0, 0.04, false, AXIS_ROUND, 5, "0 0.01 0.02 0.03 0.04"},
        {0, 4e-7, false, AXIS_ROUND, 5, "0 1e-7 2e-7 3e-7 4e-7"},
        {-3, 7, false, AXIS_ROUND, 5, "-4 -2 0 2 4 6 8"},
        {900, 1000, false, AXIS_ROUND, 5, "900 920 940 960 980 1k"},
        {900, 1000, false, AXIS_ZERO, 5, "0 200 400 600 800 1k"},
        {1000000, 1000004, false, AXIS_ROUND, 5, "1000000 1000001 1000002 1000003 1000004"},
        {-90, -10, false, AXIS_ROUND, 5, "-100 -80 -60 -40 -20 0"},
        {1, 1e4, true, AXIS_TIGHT, 6, "1 10 100 1k 10k"},
        {3, 900, true, AXIS_ROUND, 8, "2 5 10 20 50 100 200 500 1k"},
        {0.002, 7e5, true, AXIS_TIGHT, 9, "0.01 0.1 1 10 100 1k 10k 100k"},
        {3, 900, true, AXIS_TIGHT, 6, "5 10 20 50 100 200 500"},
        {21, 38, true, AXIS_TIGHT, 5, "25 30 35"},
        {1e-6, 1e6, true, AXIS_ROUND, 6, "1e-6 0.0001 0.01 1 100 10k 1M"},
        /* the odd ones */
        {5, 5, false, AXIS_ROUND, 5, "0 2 4 6 8 10"},
        {-5, -5, false, AXIS_ROUND, 5, "-10 -8 -6 -4 -2 0"},
        {0, 0, false, AXIS_ROUND, 5, "0 0.2 0.4 0.6 0.8 1"},
        {5, 5, true, AXIS_TIGHT, 6, "0.5 1 2 5 10 20 50"},
        {1, 0, false, AXIS_ROUND, 5, ""},
        {1, 0, true, AXIS_ROUND, 5, ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct axis_range range = {.lo = cases[i].lo, .hi = cases[i].hi};
        struct axis axis;
        char got[256];
        axis_fit(&axis, &range, cases[i].log, cases[i].ends, cases[i].labels);
        names(&axis, got, sizeof got);
        if (strcmp(got, cases[i].expected) != 0)
            fail_msg("case %zu, %g to %g: \"%s\", expected \"%s\"", i, cases[i].lo, cases[i].hi,
                     got, cases[i].expected);
    }
}

static void test_values_that_are_not_shown(void **state)
{
    (void)state;
    assert_true(axis_shows(0, false));
    assert_true(axis_shows(-1e300, false));
    assert_true(axis_shows(1e-300, true));
    assert_false(axis_shows(0, true));
    assert_false(axis_shows(-1, true));
    assert_false(axis_shows(4e-320, true));
    assert_false(axis_shows(1e301, false));
    assert_false(axis_shows((double)NAN, false));
    assert_false(axis_shows(-(double)INFINITY, false));

    struct axis_range range;
    axis_range_init(&range);
    axis_range_add(&range, 0, true);
    axis_range_add(&range, (double)NAN, false);
    assert_true(axis_range_empty(&range));
    axis_range_add(&range, 7, true);
    assert_false(axis_range_empty(&range));
    assert_true(range.lo == 7 && range.hi == 7);
}

static void test_short_numbers(void **state)
{
    (void)state;
    static const struct {
        double value;
        const char *expected;
    } cases[] = {
        {0, "0"},           {1, "1"},
        {12.34, "12.3"},    {999.9, "1k"},
        {1250, "1.25k"},    {-1250, "-1.25k"},
        {2.5e6, "2.5M"},    {123456, "123k"},
        {0.01, "0.01"},     {0.000123, "0.000123"},
        {1.5e-7, "1.5e-7"}, {4.2e18, "4.2e18"},
        {5e-324, "0"},      {1e300, "1e300"},
        {0.1 + 0.2, "0.3"}, {(double)INFINITY, "inf"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char got[AXIS_LABEL_BYTES];
        axis_short_number(cases[i].value, got);
        assert_string_equal(got, cases[i].expected);
    }
}

static double any_value(struct rng *r)
{
    double size = pow(10, rng_unit(r) * 600 - 300);
    if (rng_below(r, 2) == 0)
        size = rng_unit(r) * 1e4;
    return rng_below(r, 3) == 0 ? -size : size;
}

static void check_axis(const struct axis *a, const struct axis_range *range, uint64_t seed)
{
    char where[96];
    snprintf(where, sizeof where, "seed %llu: %.17g to %.17g, log %d", (unsigned long long)seed,
             range->lo, range->hi, a->log);
    if (!(a->lo < a->hi) || (a->log && a->lo <= 0))
        fail_msg("%s: an axis from %g to %g", where, a->lo, a->hi);
    if (a->tick_count < 2)
        fail_msg("%s: %zu ticks", where, a->tick_count);
    double lo = axis_place(a, range->lo), hi = axis_place(a, range->hi);
    if (!(lo >= -1e-6 && lo <= hi && hi <= 1 + 1e-6))
        fail_msg("%s: placed at %g and %g", where, lo, hi);
    for (size_t i = 0; i < a->tick_count; i++) {
        double place = axis_place(a, a->ticks[i].value);
        if (!(place >= -1e-6 && place <= 1 + 1e-6))
            fail_msg("%s: tick %zu at %g", where, i, place);
        if (i > 0 && !(a->ticks[i].value > a->ticks[i - 1].value))
            fail_msg("%s: tick %zu is not above the one before", where, i);
    }
}

static void test_any_range_can_be_drawn(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 20000; seed++) {
        struct rng r;
        rng_seed(&r, seed);
        bool log = rng_below(&r, 2) == 0;
        double a = any_value(&r), b = any_value(&r);
        if (rng_below(&r, 8) == 0)
            b = a * (1 + rng_unit(&r) * 1e-9);
        struct axis_range range;
        axis_range_init(&range);
        axis_range_add(&range, log ? fabs(a) : a, log);
        axis_range_add(&range, log ? fabs(b) : b, log);
        if (axis_range_empty(&range))
            continue;
        struct axis axis;
        axis_fit(&axis, &range, log, rng_below(&r, 3),
                 AXIS_LABELS_MIN + rng_below(&r, AXIS_LABELS_MAX - AXIS_LABELS_MIN + 1));
        check_axis(&axis, &range, seed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ticks),
        cmocka_unit_test(test_values_that_are_not_shown),
        cmocka_unit_test(test_short_numbers),
        cmocka_unit_test(test_any_range_can_be_drawn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
