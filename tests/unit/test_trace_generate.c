/* Generated traces: the classes' CoV and rate over seeds, reproducible to the bit, in order, and
 * measured rightly. */
#include "sim/trace_generate.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define FUNCTIONS 8u

static struct trace_generate_options options_of(enum trace_class class)
{
    struct trace_generate_options o;
    trace_generate_default(&o);
    o.class = class;
    o.functions = FUNCTIONS;
    o.requests_per_s = 4;
    o.duration_us = UINT64_C(3600) * 1000000;
    return o;
}

static struct trace generate(const struct trace_generate_options *o)
{
    struct trace t = {0};
    struct error err = {0};
    if (trace_generate(o, &t, &err) < 0)
        fail_msg("%s", err.text);
    assert_true(t.count > 0);
    assert_int_equal(t.functions, o->functions);
    assert_int_equal(t.span_us, o->duration_us);
    for (size_t i = 0; i < t.count; i++) {
        const struct trace_request *q = &t.requests[i];
        assert_true(q->at_us < o->duration_us && q->function < t.functions);
        assert_true(i == 0 || q->at_us >= t.requests[i - 1].at_us);
        assert_true(q->prompt_tokens >= o->prompt.min && q->prompt_tokens <= o->prompt.max);
        assert_true(q->new_tokens >= o->answer.min && q->new_tokens <= o->answer.max);
    }
    return t;
}

static bool same(const struct trace_request *a, const struct trace_request *b)
{
    return a->at_us == b->at_us && a->function == b->function &&
           a->prompt_tokens == b->prompt_tokens && a->new_tokens == b->new_tokens;
}

static void refuse(const struct trace_generate_options *o, const char *words)
{
    struct trace t = {.count = 77};
    struct error err = {0};
    int r = trace_generate(o, &t, &err);
    if (r >= 0 || strstr(err.text, words) == NULL)
        fail_msg("%d \"%s\", expected \"%s\"", r, err.text, words);
    assert_int_equal(t.count, 77);
}

/* Over many seeds: each function in its class and near its rate, all together near the CoV that was
 * asked for (short samples fall below it, the more so the burstier). */
static void test_classes(void **state)
{
    (void)state;
    static const struct {
        enum trace_class class;
        double cov, above, below; /* of the mean over functions and seeds */
    } classes[] = {
        {TRACE_PREDICTABLE, 0.7, 0.03, 0.03},
        {TRACE_NORMAL, 2.5, 0.15, 0.15},
        {TRACE_BURSTY, 8, 0.3, 0.8},
    };
    for (size_t c = 0; c < sizeof classes / sizeof classes[0]; c++) {
        double sum = 0, requests = 0;
        struct trace_generate_options o = options_of(classes[c].class);
        for (o.seed = 0; o.seed < 20; o.seed++) {
            struct trace t = generate(&o);
            double cov[FUNCTIONS];
            size_t counts[FUNCTIONS] = {0};
            assert_string_equal(t.name, trace_class_name(o.class));
            assert_int_equal(trace_cov(&t, cov), 0);
            assert_int_equal(trace_classify(&t), o.class);
            for (size_t i = 0; i < t.count; i++)
                counts[t.requests[i].function]++;
            for (uint32_t f = 0; f < FUNCTIONS; f++) {
                if (trace_class_of(cov[f]) != o.class || counts[f] < 1350 || counts[f] > 2250)
                    fail_msg("seed %llu function %u: CoV %g, %zu requests",
                             (unsigned long long)o.seed, f, cov[f], counts[f]);
                sum += cov[f] / FUNCTIONS / 20;
            }
            requests += (double)t.count / 20;
            trace_free(&t);
        }
        if (!(sum < classes[c].cov + classes[c].above && sum > classes[c].cov - classes[c].below))
            fail_msg("%s: CoV %g on average", trace_class_name(classes[c].class), sum);
        assert_true(fabs(requests / (4 * 3600) - 1) < 0.05);
    }
}

static void test_any_cov(void **state)
{
    (void)state;
    static const double covs[] = {0.3, 0.5, 0.9, 1.3, 2, 3.5, 4.6, 6, 12};
    for (size_t c = 0; c < sizeof covs / sizeof covs[0]; c++) {
        struct trace_generate_options o = options_of(trace_class_of(covs[c]));
        double cov[FUNCTIONS];
        double sum = 0;
        o.cov = covs[c];
        o.requests_per_s = 40;
        struct trace t = generate(&o);
        assert_int_equal(trace_cov(&t, cov), 0);
        for (uint32_t f = 0; f < FUNCTIONS; f++)
            sum += cov[f] / FUNCTIONS;
        if (!(fabs(sum / covs[c] - 1) < 0.1))
            fail_msg("CoV %g, asked for %g", sum, covs[c]);
        trace_free(&t);
    }
}

static void test_even_times(void **state)
{
    (void)state;
    struct trace_generate_options o = options_of(TRACE_PREDICTABLE);
    double cov;
    o.functions = 1;
    o.cov = 1e-5;
    struct trace t = generate(&o);
    assert_int_equal(trace_cov(&t, &cov), 0);
    assert_true(cov < 1e-5);
    assert_true(t.count == 14400);
    assert_in_range(t.requests[1].at_us - t.requests[0].at_us, 249999, 250001);
    trace_free(&t);
}

/* It does not begin with a burst of all functions: the first seconds are as any. */
static void test_begins_anywhere(void **state)
{
    (void)state;
    double first = 0, all = 0;
    struct trace_generate_options o = options_of(TRACE_BURSTY);
    o.functions = 100;
    o.requests_per_s = 100;
    o.duration_us = 1000000000;
    for (o.seed = 0; o.seed < 8; o.seed++) {
        struct trace t = generate(&o);
        for (size_t i = 0; i < t.count; i++)
            first += t.requests[i].at_us < 20000000;
        all += (double)t.count;
        trace_free(&t);
    }
    if (!(first / all > 0.01 && first / all < 0.03))
        fail_msg("%g of the requests in the first 2 %% of the time", first / all);
}

static void test_reproducible(void **state)
{
    (void)state;
    struct trace_generate_options o = options_of(TRACE_BURSTY);
    struct trace a = generate(&o);
    struct trace b = generate(&o);
    assert_int_equal(a.count, b.count);
    for (size_t i = 0; i < a.count; i++)
        assert_true(same(&a.requests[i], &b.requests[i]));
    o.seed = 1;
    struct trace c = generate(&o);
    size_t alike = 0;
    for (size_t i = 0; i < a.count && i < c.count; i++)
        alike += same(&a.requests[i], &c.requests[i]);
    assert_true(alike < a.count / 100);
    trace_free(&a);
    trace_free(&b);
    trace_free(&c);
}

/* The same on every machine and compiler: a digest of all bytes, as it was when this was written.
 */
static void test_same_everywhere(void **state)
{
    (void)state;
    static const uint64_t expected[] = {0xbcf97f0f7417d6a7, 0xa1167ee456513fd0, 0x2bf69e2b1ecba8e4};
    for (int c = TRACE_PREDICTABLE; c <= TRACE_BURSTY; c++) {
        struct trace_generate_options o = options_of((enum trace_class)c);
        struct trace t = generate(&o);
        uint64_t h = 0xcbf29ce484222325u;
        for (size_t i = 0; i < t.count; i++) {
            const struct trace_request *q = &t.requests[i];
            const uint64_t parts[] = {q->at_us, q->function, q->prompt_tokens, q->new_tokens};
            for (int k = 0; k < 4; k++)
                h = (h ^ parts[k]) * 0x100000001b3u;
        }
        if (h != expected[c - 1])
            fail_msg("%s: 0x%llx", trace_class_name(o.class), (unsigned long long)h);
        trace_free(&t);
    }
}

/* Another function more leaves the requests of the others as they are, at their rates. */
static void test_functions_are_apart(void **state)
{
    (void)state;
    struct trace_generate_options o = options_of(TRACE_NORMAL);
    struct trace a = generate(&o);
    o.functions = 2 * FUNCTIONS;
    o.requests_per_s *= 2;
    struct trace b = generate(&o);
    size_t at = 0;
    for (size_t i = 0; i < a.count; i++, at++) {
        while (b.requests[at].function >= FUNCTIONS)
            at++;
        assert_true(same(&a.requests[i], &b.requests[at]));
    }
    trace_free(&a);
    trace_free(&b);
}

static void test_popularity(void **state)
{
    (void)state;
    struct trace_generate_options o = options_of(TRACE_PREDICTABLE);
    double counts[FUNCTIONS] = {0};
    double all = 0;
    o.zipf = 1.5;
    o.requests_per_s = 40;
    struct trace t = generate(&o);
    for (size_t i = 0; i < t.count; i++)
        counts[t.requests[i].function] += 1.0 / (double)t.count;
    for (uint32_t f = 0; f < FUNCTIONS; f++)
        all += pow(f + 1, -1.5);
    for (uint32_t f = 0; f < FUNCTIONS; f++)
        assert_true(fabs(counts[f] - pow(f + 1, -1.5) / all) < 0.02);
    trace_free(&t);
}

static void test_lengths(void **state)
{
    (void)state;
    struct trace_generate_options o = options_of(TRACE_PREDICTABLE);
    double sum = 0;
    o.prompt = draw_length_fixed(17);
    o.answer = draw_length_mean(300, 0.5, 1, 5000);
    struct trace t = generate(&o);
    for (size_t i = 0; i < t.count; i++) {
        assert_int_equal(t.requests[i].prompt_tokens, 17);
        sum += t.requests[i].new_tokens;
    }
    assert_true(fabs(sum / (double)t.count - 300) < 6);
    trace_free(&t);
}

/* Too short for its class: still near its rate. */
static void test_short(void **state)
{
    (void)state;
    struct trace_generate_options o = options_of(TRACE_BURSTY);
    o.duration_us = 10000000;
    for (o.seed = 0; o.seed < 50; o.seed++) {
        struct trace t = generate(&o);
        assert_in_range(t.count, 24, 56);
        trace_free(&t);
    }
    o = options_of(TRACE_PREDICTABLE);
    o.functions = 1;
    o.requests_per_s = 0.1;
    o.duration_us = 10000000;
    struct trace t = generate(&o);
    assert_int_equal(t.count, 1);
    trace_free(&t);
}

static void test_measures(void **state)
{
    (void)state;
    /* function 0: gaps 1, 1, 4: mean 2, deviation sqrt 2; 1: equal gaps; 2: too few; 3: none;
     * 4: all at once */
    struct trace_request requests[] = {{0, 0, 1, 1}, {0, 4, 1, 1}, {0, 4, 1, 1}, {0, 4, 1, 1},
                                       {1, 0, 1, 1}, {2, 0, 1, 1}, {2, 1, 1, 1}, {3, 2, 1, 1},
                                       {4, 1, 1, 1}, {6, 0, 1, 1}, {6, 1, 1, 1}, {7, 2, 1, 1}};
    struct trace t = {.requests = requests, .count = 12, .functions = 5};
    double cov[5];
    assert_int_equal(trace_cov(&t, cov), 0);
    assert_true(fabs(cov[0] - sqrt(2) / 2) < 1e-12);
    assert_true(cov[1] == 0);
    assert_true(isnan(cov[2]) && isnan(cov[3]) && isnan(cov[4]));
    assert_int_equal(trace_classify(&t), TRACE_PREDICTABLE);
    t.count = 1;
    assert_int_equal(trace_classify(&t), TRACE_UNKNOWN);
    assert_int_equal(trace_class_of(0), TRACE_PREDICTABLE);
    assert_int_equal(trace_class_of(1), TRACE_PREDICTABLE);
    assert_int_equal(trace_class_of(1.0001), TRACE_NORMAL);
    assert_int_equal(trace_class_of(4), TRACE_NORMAL);
    assert_int_equal(trace_class_of(4.0001), TRACE_BURSTY);
    assert_int_equal(trace_class_of(NAN), TRACE_UNKNOWN);
}

static void test_names(void **state)
{
    (void)state;
    for (int c = TRACE_PREDICTABLE; c <= TRACE_BURSTY; c++) {
        enum trace_class found = TRACE_UNKNOWN;
        assert_int_equal(trace_class_parse(trace_class_name((enum trace_class)c), &found), 0);
        assert_int_equal(found, c);
    }
    assert_int_equal(trace_class_parse("unknown", &(enum trace_class){0}), -EINVAL);
    assert_int_equal(trace_class_parse("", &(enum trace_class){0}), -EINVAL);
}

static void test_refusals(void **state)
{
    (void)state;
    struct trace_generate_options o = options_of(TRACE_UNKNOWN);
    refuse(&o, "class");
    o = options_of(TRACE_BURSTY);
    o.cov = 4;
    refuse(&o, "a CoV of 4 is not that of a bursty trace");
    o.cov = 21;
    refuse(&o, "CoV");
    o.cov = NAN;
    o.requests_per_s = 0;
    refuse(&o, "rate");
    o.requests_per_s = NAN;
    refuse(&o, "rate");
    o = options_of(TRACE_BURSTY);
    o.functions = 0;
    refuse(&o, "functions");
    o = options_of(TRACE_BURSTY);
    o.zipf = 11;
    refuse(&o, "popularity");
    o = options_of(TRACE_BURSTY);
    o.duration_us = 0;
    refuse(&o, "year");
    o = options_of(TRACE_BURSTY);
    o.prompt = (struct draw_length){.min = 2, .max = 1};
    refuse(&o, "length");
    o = options_of(TRACE_BURSTY);
    o.requests_max = 1000;
    refuse(&o, "more than 1000 requests");
    o = options_of(TRACE_PREDICTABLE);
    o.duration_us = 1000;
    o.requests_per_s = 1e-3;
    refuse(&o, "no request");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_any_cov),
        cmocka_unit_test(test_even_times),
        cmocka_unit_test(test_begins_anywhere),
        cmocka_unit_test(test_reproducible),
        cmocka_unit_test(test_same_everywhere),
        cmocka_unit_test(test_functions_are_apart),
        cmocka_unit_test(test_popularity),
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_short),
        cmocka_unit_test(test_measures),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
