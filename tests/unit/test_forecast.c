/*
 * Forecasts: the rate that forgets, against a sum over all arrivals; what a histogram knows that a
 * rate does not; that whatever the clock says, an answer is a probability.
 */
#include "policy/forecast.h"

#include "unit/seeded.h"

#include <math.h>
#include <stdio.h>

#define S UINT64_C(1000000)
#define DAY (86400 * S)

/* Rounding of sums of halves, and what e^-x by seven terms is off. */
#define NEARLY 1e-6

static void near(double a, double b, double off)
{
    if (!(fabs(a - b) <= off))
        fail_msg("%.12g is not %.12g", a, b);
}

/* --- the rate --- */

static void test_before_the_first(void **state)
{
    (void)state;
    struct forecast f;
    forecast_begin(&f, 5 * S);
    near(forecast_rate(&f, 5 * S), 1.0 / 60, NEARLY);
    near(forecast_error(&f), 0, 0);
    /* Nothing comes: less and less is expected, and never nothing at all. */
    double before = forecast_rate(&f, 5 * S);
    for (uint64_t t = 65 * S; t < DAY; t += 60 * S) {
        double rate = forecast_rate(&f, t);
        assert_true(rate <= before && rate > 0);
        before = rate;
    }
}

/* Each arrival halved every FORECAST_HALF_US: the weight as the header has it, arrival by arrival.
 */
static void test_weight_is_the_decayed_sum(void **state)
{
    (void)state;
    for (struct seeded c = seeded_cases(300); seeded_next(&c);) {
        uint64_t at[200], now = seeded_pick(&c, 1000) * S;
        uint32_t count = 1 + seeded_pick(&c, 200);
        struct forecast f;
        forecast_begin(&f, now);
        for (uint32_t i = 0; i < count; i++) {
            now += seeded_pick(&c, 3) * (uint64_t)seeded_pick(&c, 200000000);
            forecast_arrival(&f, now);
            at[i] = now;
        }
        double sum = 0;
        for (uint32_t i = 0; i < count; i++)
            sum += exp2(-(double)(now - at[i]) / (double)FORECAST_HALF_US);
        assert_seeded(&c, fabs(f.weight - sum) <= NEARLY * sum);
        assert_seeded(&c, f.arrivals == count && f.last_us == now);
    }
}

static void poisson(struct seeded *c, struct forecast *f, uint64_t *now, double rate_s,
                    uint64_t until)
{
    while (*now < until) {
        *now += (uint64_t)(-log(1 - rng_unit(&c->rng)) / rate_s * 1e6);
        forecast_arrival(f, *now);
    }
}

static void test_rate_follows(void **state)
{
    (void)state;
    for (struct seeded c = seeded_cases(20); seeded_next(&c);) {
        static const double rates[] = {0.5, 2, 20};
        double rate_s = rates[c.seed % 3];
        uint64_t now = 0;
        struct forecast f;
        forecast_begin(&f, 0);
        poisson(&c, &f, &now, rate_s, 3600 * S);
        /* Some 866 s count, so it is off by 1 / sqrt(433 n) of itself: four times that. */
        double off = 4 / sqrt(433 * rate_s);
        assert_seeded(&c, fabs(forecast_rate(&f, now) / rate_s - 1) <= off);
        /* It quickens, and it ends: ten half lives later the rate is the new one. */
        poisson(&c, &f, &now, 4 * rate_s, now + 6000 * S);
        assert_seeded(&c, fabs(forecast_rate(&f, now) / (4 * rate_s) - 1) <= off);
        double last = forecast_rate(&f, now);
        assert_seeded(&c, forecast_rate(&f, now + FORECAST_HALF_US) <= 0.51 * last);
        assert_seeded(&c, forecast_rate(&f, now + 10 * FORECAST_HALF_US) <= 0.01 * last);
    }
}

/* --- how likely none comes --- */

/* Requests once a minute: none soon, one within the bin of the histogram that they fall in. Known
 * by when the last one was: after half a minute the next is near. A rate would say the same at any
 * moment. */
static void test_regular(void **state)
{
    (void)state;
    struct forecast f;
    uint64_t now = 7 * S;
    forecast_begin(&f, now);
    for (int i = 0; i < 200; i++)
        forecast_arrival(&f, now += 60 * S);
    assert_true(forecast_none_within(&f, now, 30 * S) > 0.98);
    assert_true(forecast_none_within(&f, now, 68 * S) < 0.02);
    /* The bin is of 33.6 to 67.1 s. */
    assert_true(forecast_none_within(&f, now + 50 * S, 5 * S) < 0.8);
    assert_true(forecast_none_within(&f, now + 60 * S, 8 * S) < 0.1);
    /* It has stopped coming: what is left is little, and it is not the old expectation. */
    assert_true(forecast_none_within(&f, now + 3600 * S, 60 * S) > 0.5);
    near(forecast_error(&f), 67.1 / 60, 0.4); /* the median of a bin is off by half a bin at most */
}

/* Without a memory a rate says all: so does the histogram, as far as its bins reach. */
static void test_memoryless(void **state)
{
    (void)state;
    double worst = 0;
    for (struct seeded c = seeded_cases(20); seeded_next(&c);) {
        uint64_t now = 0;
        struct forecast f;
        forecast_begin(&f, 0);
        poisson(&c, &f, &now, 0.2, 20000 * S);
        for (uint64_t idle = 0; idle <= 8 * S; idle += 2 * S) {
            for (uint64_t within = S / 2; within <= 20 * S; within += S / 2) {
                double off = fabs(forecast_none_within(&f, now + idle, within) -
                                  exp(-0.2 * (double)within / 1e6));
                worst = off > worst ? off : worst;
                assert_seeded(&c, off < 0.2);
            }
        }
    }
    print_message("memoryless: off by %.3f at most\n", worst);
}

/* Bursts of ten, ten minutes apart: right after one request the next is near, after a quiet minute
 * it is far. */
static void test_bursts(void **state)
{
    (void)state;
    struct forecast f;
    uint64_t now = 0;
    forecast_begin(&f, 0);
    for (int burst = 0; burst < 30; burst++) {
        now += 600 * S;
        for (int i = 0; i < 10; i++)
            forecast_arrival(&f, now += S / 2);
    }
    double just = forecast_none_within(&f, now, 2 * S);
    double quiet = forecast_none_within(&f, now + 60 * S, 2 * S);
    assert_true(just < 0.2);
    assert_true(quiet > 0.9);
}

/* --- any clock, any time --- */

static uint64_t any_time(struct seeded *c)
{
    uint64_t bits = seeded_pick(c, 64);
    return rng_u64(&c->rng) >> bits;
}

/* Whatever came when, on whatever clock: a probability, that falls with the time, from 1; and the
 * outlook says the same. */
static void test_answers_are_probabilities(void **state)
{
    (void)state;
    for (struct seeded c = seeded_cases(3000); seeded_next(&c);) {
        struct forecast f;
        forecast_begin(&f, any_time(&c));
        for (uint32_t i = seeded_pick(&c, 50); i > 0; i--)
            forecast_arrival(&f, any_time(&c));
        uint64_t now = any_time(&c);
        double rate = forecast_rate(&f, now), error = forecast_error(&f), before = 1;
        assert_seeded(&c, isfinite(rate) && rate >= 0);
        assert_seeded(&c, isfinite(error) && (error >= 1 || !(error > 0)));
        assert_seeded(&c, forecast_none_within(&f, now, 0) >= 1);
        struct forecast_outlook o = forecast_look(&f, now);
        for (uint64_t within = 1; within < UINT64_MAX / 3; within *= 3) {
            double none = forecast_none(&o, within);
            double again = forecast_none_within(&f, now, within);
            assert_seeded(&c, none >= 0 && none <= before);
            assert_seeded(&c, !(none < again) && !(none > again));
            before = none;
        }
    }
}

static void test_clock_jumps_back(void **state)
{
    (void)state;
    struct forecast jumps, stands;
    forecast_begin(&jumps, 100 * S);
    forecast_begin(&stands, 100 * S);
    forecast_arrival(&jumps, 200 * S);
    forecast_arrival(&stands, 200 * S);
    forecast_arrival(&jumps, 50 * S);
    forecast_arrival(&stands, 200 * S);
    assert_int_equal(jumps.last_us, 200 * S);
    assert_memory_equal(&jumps, &stands, sizeof jumps);
}

/* What came between arrivals counts in bins of twice the length each; what is known beforehand
 * counts as one more, of ten minutes or so. */
static void test_histogram(void **state)
{
    (void)state;
    struct forecast f;
    uint64_t now = 0;
    forecast_begin(&f, 0);
    forecast_arrival(&f, now);
    forecast_arrival(&f, now += FORECAST_UNIT_US);         /* [1, 2) units, or below */
    forecast_arrival(&f, now += 2 * FORECAST_UNIT_US - 1); /* the same bin */
    forecast_arrival(&f, now += 2 * FORECAST_UNIT_US);     /* [2, 4) */
    forecast_arrival(&f, now += 9 * DAY);                  /* beyond the last bin: in it */
    near(forecast_none_within(&f, now, FORECAST_UNIT_US), 4.0 / 5, 0.001);
    near(forecast_none_within(&f, now, 2 * FORECAST_UNIT_US), 3.0 / 5, 0.001);
    near(forecast_none_within(&f, now, 3 * FORECAST_UNIT_US), 2.5 / 5, 0.001);
    near(forecast_none_within(&f, now, 4 * FORECAST_UNIT_US), 2.0 / 5, 0.001);
    near(forecast_none_within(&f, now, DAY), 1.0 / 5, 0.01);
    near(forecast_none_within(&f, now, 4 * DAY), 0, 0.01);
}

/* Older ones fade, so that a change is seen, and however many there are none is lost by that. */
static void test_histogram_fades(void **state)
{
    (void)state;
    struct forecast f;
    uint64_t now = 0;
    forecast_begin(&f, 0);
    for (int i = 0; i < 100000; i++) {
        forecast_arrival(&f, now += (i < 50000 ? 1 : 8) * S);
        if (i > 100 && i < 50000)
            assert_true(forecast_none_within(&f, now, 2 * S) < 0.05);
    }
    assert_true(forecast_none_within(&f, now, 4 * S) > 0.95);
    assert_true(forecast_none_within(&f, now, 17 * S) < 0.05);
}

/* --- how good it is --- */

static void test_error_by_hand(void **state)
{
    (void)state;
    /* In the middle of a bin, which is what a median of one is taken for. */
    const uint64_t gap = UINT64_C(3) * 512 * FORECAST_UNIT_US;
    static const struct {
        uint64_t times, over;
        double factor;
    } seconds[] = {{1, 1, 1}, {2, 1, 2}, {4, 1, 4}, {3, 1, 3}, {1, 2, 2}, {1, 8, 8}, {3, 2, 1.5}};
    for (size_t i = 0; i < sizeof seconds / sizeof seconds[0]; i++) {
        struct forecast f;
        forecast_begin(&f, 0);
        forecast_arrival(&f, S);
        forecast_arrival(&f, S + gap);
        near(forecast_error(&f), 0, 0); /* nothing was foretold yet */
        forecast_arrival(&f, S + gap + gap * seconds[i].times / seconds[i].over);
        near(forecast_error(&f), seconds[i].factor, 0.01);
    }
}

static void test_error_tells_regular_from_wild(void **state)
{
    (void)state;
    for (struct seeded c = seeded_cases(50); seeded_next(&c);) {
        struct forecast regular, wild;
        uint64_t now = 0, gap = 1 + seeded_pick(&c, 100000000);
        forecast_begin(&regular, 0);
        forecast_begin(&wild, 0);
        for (int i = 0; i < 300; i++)
            forecast_arrival(&regular, now += gap);
        for (int i = 0; i < 300; i++)
            forecast_arrival(&wild, now += UINT64_C(1) << (10 + seeded_pick(&c, 20)));
        assert_seeded(&c, forecast_error(&regular) >= 1 && forecast_error(&regular) <= 1.6);
        assert_seeded(&c, forecast_error(&wild) >= 4);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_before_the_first),
        cmocka_unit_test(test_weight_is_the_decayed_sum),
        cmocka_unit_test(test_rate_follows),
        cmocka_unit_test(test_regular),
        cmocka_unit_test(test_memoryless),
        cmocka_unit_test(test_bursts),
        cmocka_unit_test(test_answers_are_probabilities),
        cmocka_unit_test(test_clock_jumps_back),
        cmocka_unit_test(test_histogram),
        cmocka_unit_test(test_histogram_fades),
        cmocka_unit_test(test_error_by_hand),
        cmocka_unit_test(test_error_tells_regular_from_wild),
    };
    return cmocka_run_group_tests_name("forecast", tests, NULL, NULL);
}
