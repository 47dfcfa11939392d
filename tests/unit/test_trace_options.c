/* What is taken of a trace and how: windows, speed, spread over functions, limits, seeds. */
#include "unit/trace_fixture.h"

#include <errno.h>
#include <math.h>

static void test_window_and_speed(void **state)
{
    (void)state;
    struct trace_options o = defaults();
    o.functions = 3;
    o.skip_us = 2500000;
    o.limit_us = 3500000;
    o.speed = 2;
    struct trace t = parse(TEN, &o);
    assert_int_equal(t.count, 3);
    is_request(&t, 0, 250000, 0, 13, 1); /* the fourth row: the turns are those of the whole */
    is_request(&t, 1, 750000, 1, 14, 1);
    is_request(&t, 2, 1250000, 2, 15, 1);
    assert_int_equal(t.span_us, 1750000);
    trace_free(&t);
    o.limit_us = 0;
    t = parse(TEN, &o);
    assert_int_equal(t.count, 7);
    assert_int_equal(t.span_us, 3250000);
    trace_free(&t);
    o.skip_us = 0;
    o.limit_us = 1;
    t = parse(TEN, &o);
    assert_int_equal(t.count, 1);
    trace_free(&t);
    o.skip_us = 9000001;
    o.limit_us = 0;
    refuse_bytes(TEN, strlen(TEN), &o, "no request from 9 s to its end|until 9 s");
    o.skip_us = 100000000;
    o.limit_us = 5000000;
    refuse_bytes(TEN, strlen(TEN), &o, "no request from 100 s to 105 s");
}

/* What follows a window is not read: a week's file costs what its first minutes cost. */
static void test_window_ends_reading(void **state)
{
    (void)state;
    struct trace_options o = defaults();
    o.limit_us = 3000000;
    struct trace t = parse(TEN "2023-11-16 10:00:09,this,is no row\n", &o);
    assert_int_equal(t.count, 3);
    trace_free(&t);
}

static bool same(const struct trace_request *a, const struct trace_request *b, uint64_t shift_us)
{
    return a->at_us + shift_us == b->at_us && a->prompt_tokens == b->prompt_tokens &&
           a->new_tokens == b->new_tokens;
}

/* A window of the formats for which something is drawn has what the whole has there. */
static void test_windows_of_drawn(void **state)
{
    (void)state;
    static const char *const texts[] = {
        F2019 "o,a,f,http,300,200,400,300\no,a,g,http,30,20,40,30\n",
        F2021 "a,b,10,1\na,c,70,1\na,d,75,70\na,b,130,1\na,b,150,29\na,d,200,1\na,b,300,1\n",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct trace_options o = defaults();
        struct trace whole = parse(texts[i], &o);
        o.skip_us = 45000000;
        o.limit_us = 100000000;
        struct trace part = parse(texts[i], &o);
        size_t at = 0;
        while (whole.requests[at].at_us < o.skip_us)
            at++;
        for (size_t k = 0; k < part.count; k++)
            assert_true(same(&part.requests[k], &whole.requests[at + k], o.skip_us));
        at += part.count;
        assert_true(at == whole.count || whole.requests[at].at_us >= o.skip_us + o.limit_us);
        assert_true(part.count > 1);
        assert_int_equal(part.requests[0].function, 0); /* numbered anew */
        trace_free(&whole);
        trace_free(&part);
    }
}

static void test_seeds(void **state)
{
    (void)state;
    static const char text[] = F2019 "o,a,f,http,300,200,400,300\n";
    struct trace_options o = defaults();
    struct trace a = parse(text, &o);
    struct trace b = parse(text, &o);
    o.seed = 1;
    struct trace c = parse(text, &o);
    assert_true(a.count == b.count && a.count == c.count);
    size_t others = 0;
    for (size_t i = 0; i < a.count; i++) {
        assert_true(same(&a.requests[i], &b.requests[i], 0));
        others += !same(&a.requests[i], &c.requests[i], 0);
    }
    assert_true(others > a.count / 2);
    trace_free(&a);
    trace_free(&b);
    trace_free(&c);
}

static void test_spread(void **state)
{
    (void)state;
    struct trace_options o = defaults();
    char *text = calloc(1, 200000);
    assert_non_null(text);
    size_t len = (size_t)snprintf(text, 200000, "%s", LLM);
    for (int i = 0; i < 3600; i++)
        len += (size_t)snprintf(text + len, 200000 - len, "2023-11-16 10:%02d:%02d,1,1\n", i / 60,
                                i % 60);
    for (int spread = TRACE_SPREAD_ROUND_ROBIN; spread <= TRACE_SPREAD_ZIPF; spread++) {
        o.functions = 4;
        o.zipf = 1;
        o.spread = (enum trace_spread)spread;
        struct trace t = parse(text, &o);
        double counts[4] = {0};
        for (size_t i = 0; i < t.count; i++)
            counts[t.requests[i].function] += 1.0 / (double)t.count;
        for (int f = 0; f < 4; f++) {
            double share = spread == TRACE_SPREAD_ZIPF ? 12 / 25.0 / (f + 1) : 0.25;
            assert_true(fabs(counts[f] - share) < 0.03);
        }
        assert_int_equal(t.functions, 4);
        trace_free(&t);
    }
    o.spread = TRACE_SPREAD_SESSION;
    refuse_bytes(text, strlen(text), &o, "azure-llm has no sessions");
    refuse_bytes(MOON("0", "1", "1"), strlen(MOON("0", "1", "1")), &o, "mooncake has no sessions");
    free(text);
}

static void test_limits(void **state)
{
    (void)state;
    struct trace_options o = defaults();
    o.prompt_max = 12;
    o.requests_max = 10;
    struct trace t = parse(TEN, &o);
    assert_int_equal(t.requests[0].prompt_tokens, 10);
    assert_int_equal(t.requests[9].prompt_tokens, 12);
    trace_free(&t);
    o.requests_max = 9;
    refuse_bytes(TEN, strlen(TEN), &o, "sample.csv:11:|more than 9 requests|shorter window");
    o = defaults();
    o.answer_max = 5;
    t = parse(F2019 "o,a,f,http,300,0,0,0\n", &o);
    for (size_t i = 0; i < t.count; i++)
        assert_true(t.requests[i].new_tokens <= 5);
    trace_free(&t);
}

static void test_bad_options(void **state)
{
    (void)state;
    static const char text[] = TEN;
    struct trace_options o = defaults();
    o.functions = 0;
    refuse_bytes(text, strlen(text), &o, "functions, not 0");
    o = defaults();
    o.speed = 0;
    refuse_bytes(text, strlen(text), &o, "speed");
    o.speed = NAN;
    refuse_bytes(text, strlen(text), &o, "speed");
    o = defaults();
    o.zipf = -1;
    refuse_bytes(text, strlen(text), &o, "popularity");
    o = defaults();
    o.skip_us = UINT64_MAX;
    refuse_bytes(text, strlen(text), &o, "ten years");
    o = defaults();
    o.answer.min = 700;
    refuse_bytes(text, strlen(text), &o, "lengths");
    o = defaults();
    o.requests_max = UINT64_MAX;
    refuse_bytes(text, strlen(text), &o, "at most");
}

static void test_forced_formats(void **state)
{
    (void)state;
    struct trace_options o = defaults();
    for (int f = TRACE_FORMAT_ANY; f < TRACE_FORMAT_COUNT; f++) {
        enum trace_format found;
        assert_int_equal(trace_format_parse(trace_format_name((enum trace_format)f), &found), 0);
        assert_int_equal(found, f);
        o.format = (enum trace_format)f;
        if (f == TRACE_FORMAT_ANY || f == TRACE_FORMAT_AZURE_LLM) {
            struct trace t = parse(TEN, &o);
            trace_free(&t);
        } else {
            refuse_bytes(TEN, strlen(TEN), &o, "sample.csv:1:");
        }
    }
    assert_int_equal(trace_format_parse("csv", &(enum trace_format){0}), -EINVAL);
    o.format = TRACE_FORMAT_MOONCAKE; /* what the keys alone would not tell */
    refuse_bytes(SWARM("0", "1", "1", "1"), strlen(SWARM("0", "1", "1", "1")), &o,
                 "no \"input_length\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_window_and_speed), cmocka_unit_test(test_window_ends_reading),
        cmocka_unit_test(test_windows_of_drawn), cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_spread),           cmocka_unit_test(test_limits),
        cmocka_unit_test(test_bad_options),      cmocka_unit_test(test_forced_formats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
