/* A replay's figures from samples made by hand, for all requests and for each function's; and the
 * bytes of the requests. */
#include "cli/replay_request.h"
#include "cli/replay_result.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void near(double a, double b)
{
    if (!(fabs(a - b) <= 1e-9 * fmax(1, fabs(b))))
        fail_msg("%.17g is not %.17g", a, b);
}

static char *names[] = {(char[]){"a"}, (char[]){"b"}};
static const struct server_names two = {.names = names, .count = 2};

/* Functions 0 and 2 are a, 1 is b. */
static struct trace_request requests[] = {
    {.at_us = 0, .function = 0},       {.at_us = 1000000, .function = 1},
    {.at_us = 2000000, .function = 2}, {.at_us = 3000000, .function = 1},
    {.at_us = 4000000, .function = 0}, {.at_us = 5000000, .function = 1},
    {.at_us = 6000000, .function = 0},
};
static struct driver_sample samples[] = {
    {.sent_us = 1000,
     .first_us = 100000,
     .last_us = 500000,
     .end_us = 510000,
     .tokens = 5,
     .status = 200,
     .outcome = DRIVER_DONE},
    {.sent_us = 1000000, .end_us = 1001000, .status = 429, .outcome = DRIVER_REFUSED},
    /* sent a second late: its latencies count from when it was due */
    {.sent_us = 3000000,
     .first_us = 3300000,
     .last_us = 3300000,
     .end_us = 3400000,
     .tokens = 1,
     .status = 200,
     .outcome = DRIVER_DONE,
     .waited = true},
    {.sent_us = 3000000,
     .first_us = 3200000,
     .end_us = 9000000,
     .tokens = 2,
     .status = 200,
     .outcome = DRIVER_TIMEOUT},
    {.sent_us = 4000000, .end_us = 4001000, .status = 503, .outcome = DRIVER_REFUSED},
    {.sent_us = 5000000, .end_us = 5001000, .status = 404, .outcome = DRIVER_STATUS},
    {.outcome = DRIVER_UNSENT},
};

static const struct trace trace = {
    .requests = requests, .count = 7, .functions = 3, .name = "normal"};

static struct result result_of(const struct driver_run *run)
{
    return (struct result){.trace_name = "normal",
                           .trace = &trace,
                           .run = run,
                           .names = &two,
                           .slo_ttft_ms = 250,
                           .slo_tpot_ms = 99};
}

static void test_figures(void **state)
{
    (void)state;
    const struct driver_run run = {.samples = samples, .due = 7, .duration_us = 6500000};
    struct result r = result_of(&run);
    assert_int_equal(result_finish(&r), 0);
    const struct result_figures *f = &r.figures;
    assert_int_equal(f->requests, 7);
    assert_int_equal(f->completed, 2);
    assert_int_equal(f->refused, 2);
    assert_int_equal(f->failed, 2);
    assert_int_equal(f->unfinished, 1);
    assert_int_equal(f->waited, 1);
    assert_int_equal(f->tokens, 6);
    assert_int_equal(f->ttft_ms.count, 3); /* of every answer that had one */
    near(f->ttft_ms.mean, (100 + 1300 + 200) / 3.0);
    near(f->ttft_ms.p50, 200);
    assert_int_equal(f->tpot_ms.count, 1);
    near(f->tpot_ms.p50, 100); /* 400 ms for four tokens after the first */
    near(f->e2e_ms.mean, (510 + 1400) / 2.0);
    near(f->late_ms.max, 1000);
    near(f->slo_attainment, 2 / 7.0);
    near(f->slo_tpot_attainment, 1 / 7.0); /* the one with a single token */
    near(result_tok_s(&r), 6 / 6.5);
    assert_int_equal(r.class, TRACE_PREDICTABLE);
    assert_int_equal(result_functions(&r), 2);
    assert_true(isnan(result_ce(&r)));
}

static void test_groups(void **state)
{
    (void)state;
    const struct driver_run run = {.samples = samples, .due = 6, .duration_us = 5500000};
    struct result r = result_of(&run);
    size_t indices[6], begin[3];
    struct result_figures f;
    result_group(&r, indices, begin);
    const size_t expected[] = {0, 2, 4, 1, 3, 5};
    assert_memory_equal(indices, expected, sizeof expected);
    assert_int_equal(begin[0], 0);
    assert_int_equal(begin[1], 3);
    assert_int_equal(begin[2], 6);
    assert_int_equal(result_figures(&r, indices + begin[0], begin[1] - begin[0], &f), 0);
    assert_int_equal(f.requests, 3);
    assert_int_equal(f.completed, 2);
    assert_int_equal(f.refused, 1);
    near(f.slo_attainment, 1 / 3.0);
    assert_int_equal(result_figures(&r, indices + begin[1], begin[2] - begin[1], &f), 0);
    assert_int_equal(f.completed, 0);
    assert_int_equal(f.failed, 2);
    assert_int_equal(f.ttft_ms.count, 1);
    assert_true(isnan(f.e2e_ms.mean));
}

static void test_json(void **state)
{
    (void)state;
    static const char *const keys[] = {
        "trace",       "class",       "functions",     "requests",     "completed",
        "refused",     "failed",      "duration_s",    "ttft_ms_mean", "ttft_ms_p50",
        "ttft_ms_p95", "ttft_ms_p99", "tpot_ms_mean",  "tpot_ms_p50",  "tpot_ms_p95",
        "tpot_ms_p99", "e2e_ms_mean", "e2e_ms_p50",    "e2e_ms_p95",   "e2e_ms_p99",
        "tok_s",       "late_ms_p99", "slo_attainment"};
    static const char *const usage[] = {"gb_s",      "cost_usd",      "ce",
                                        "idle_gb_s", "platform_gb_s", "device_s"};
    const struct driver_run run = {.samples = samples, .due = 7, .duration_us = 6500000};
    struct result r = result_of(&run);
    assert_int_equal(result_finish(&r), 0);
    json_t *o = result_json(&r);
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if (json_object_get(o, keys[i]) == NULL || json_is_null(json_object_get(o, keys[i])))
            fail_msg("no %s", keys[i]);
    for (size_t i = 0; i < sizeof usage / sizeof usage[0]; i++)
        assert_true(json_is_null(json_object_get(o, usage[i])));
    json_t *codes = json_object_get(o, "codes");
    assert_int_equal(json_object_size(codes), 5);
    assert_int_equal(json_integer_value(json_object_get(codes, "200")), 2);
    assert_int_equal(json_integer_value(json_object_get(codes, "timeout")), 1);
    json_decref(o);

    const struct server_usage before = {.known = true,
                                        .device_s = 1,
                                        .active_byte_s = 1e9,
                                        .idle_byte_s = 2e9,
                                        .platform_byte_s = 3e9,
                                        .cost_usd = 0.5};
    const struct server_usage after = {.known = true,
                                       .device_s = 3,
                                       .active_byte_s = 5e9,
                                       .idle_byte_s = 4e9,
                                       .platform_byte_s = 9e9,
                                       .cost_usd = 2.5};
    r.usage = server_usage_between(&before, &after);
    o = result_json(&r);
    near(json_real_value(json_object_get(o, "gb_s")), 6);
    near(json_real_value(json_object_get(o, "idle_gb_s")), 2);
    near(json_real_value(json_object_get(o, "platform_gb_s")), 6);
    near(json_real_value(json_object_get(o, "device_s")), 2);
    near(json_real_value(json_object_get(o, "cost_usd")), 2);
    near(json_real_value(json_object_get(o, "ce")), 1 / (0.955 * 2));
    json_decref(o);
}

/* A run that was stopped before its first request was due, or without an answer: no number. */
static void test_nothing(void **state)
{
    (void)state;
    const struct driver_run run = {
        .samples = samples, .due = 0, .duration_us = 10, .stopped = true};
    struct result r = result_of(&run);
    assert_int_equal(result_finish(&r), 0);
    json_t *o = result_json(&r);
    assert_true(json_is_null(json_object_get(o, "ttft_ms_mean")));
    assert_true(json_is_null(json_object_get(o, "slo_attainment")));
    assert_true(json_is_true(json_object_get(o, "stopped")));
    assert_int_equal(json_integer_value(json_object_get(o, "requests")), 0);
    json_decref(o);
}

/* More kinds of statuses than there is room for are counted all the same. */
static void test_many_codes(void **state)
{
    (void)state;
    enum { COUNT = 100 };
    struct trace_request many[COUNT] = {0};
    struct driver_sample odd[COUNT] = {0};
    size_t indices[COUNT], sum = 0;
    for (size_t i = 0; i < COUNT; i++) {
        odd[i] = (struct driver_sample){.status = (uint16_t)(400 + i), .outcome = DRIVER_STATUS};
        indices[i] = i;
    }
    const struct trace t = {.requests = many, .count = COUNT, .functions = 1};
    const struct driver_run run = {.samples = odd, .due = COUNT, .duration_us = 1};
    const struct result r = {.trace = &t, .run = &run, .names = &two};
    struct result_figures f;
    assert_int_equal(result_figures(&r, indices, COUNT, &f), 0);
    for (size_t i = 0; i < f.code_count; i++)
        sum += f.codes[i].count;
    assert_int_equal(sum, COUNT);
    assert_int_equal(f.code_count, RESULT_CODES_MAX);
    assert_string_equal(f.codes[f.code_count - 1].word, "other");
}

static json_t *body_of(const struct replay_request *q)
{
    struct buf out;
    buf_init(&out, 1 << 20);
    assert_int_equal(replay_request_write(q, &out), 0);
    char *body = strstr(out.data, "\r\n\r\n");
    assert_non_null(body);
    char length[64];
    snprintf(length, sizeof length, "Content-Length: %zu\r\n", strlen(body + 4));
    assert_non_null(strstr(out.data, length));
    assert_non_null(strstr(out.data, "Host: h:1\r\n"));
    json_t *o = json_loads(body + 4, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(o);
    buf_free(&out);
    return o;
}

static void test_requests(void **state)
{
    (void)state;
    struct replay_request q = {
        .host = "h:1", .model = "a\"b", .seed = 1, .index = 2, .prompt_tokens = 9, .new_tokens = 4};
    json_t *o = body_of(&q);
    json_t *again = body_of(&q);
    assert_true(json_equal(o, again));
    json_t *prompt = json_object_get(o, "prompt");
    assert_int_equal(json_array_size(prompt), 9);
    assert_string_equal(json_string_value(json_object_get(o, "model")), "a\"b");
    assert_int_equal(json_integer_value(json_object_get(o, "max_tokens")), 4);
    assert_true(json_is_true(json_object_get(o, "ignore_eos")));
    assert_true(json_is_true(json_object_get(o, "stream")));
    assert_true(
        json_is_true(json_object_get(json_object_get(o, "stream_options"), "include_usage")));
    q.index++;
    json_t *other = body_of(&q);
    assert_false(json_equal(prompt, json_object_get(other, "prompt")));
    q.chat = true;
    json_t *chat = body_of(&q);
    const char *text = NULL;
    assert_int_equal(json_unpack(chat, "{s:[{s:s}]}", "messages", "content", &text), 0);
    size_t words = 1;
    for (const char *c = text; *c != '\0'; c++)
        words += *c == ' ';
    assert_int_equal(words, 9);
    json_decref(o);
    json_decref(again);
    json_decref(other);
    json_decref(chat);
    struct buf small;
    buf_init(&small, 100);
    assert_int_equal(replay_request_write(&q, &small), -E2BIG);
    buf_free(&small);
}

static void test_names(void **state)
{
    (void)state;
    struct error err = {0};
    struct server_names n = {0};
    assert_int_equal(server_names_parse("a,b-c,meta/x:y", &n, &err), 0);
    assert_int_equal(n.count, 3);
    assert_string_equal(n.names[2], "meta/x:y");
    server_names_free(&n);
    static const char *const bad[] = {"", ",", "a,", ",a", "a,,b", "a b", "a\n", "\xc3\xbc"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(server_names_parse(bad[i], &n, &err), -EINVAL);
    assert_int_equal(n.count, 0);
}

static void test_urls(void **state)
{
    (void)state;
    static const struct {
        const char *url, *host;
        int family;
    } good[] = {{"127.0.0.1:8080", "127.0.0.1:8080", AF_INET},
                {"http://127.0.0.1:8080", "127.0.0.1:8080", AF_INET},
                {"http://127.0.0.1:1/", "127.0.0.1:1", AF_INET},
                {"[::1]:65535", "[::1]:65535", AF_INET6}};
    static const char *const bad[] = {"",
                                      ":",
                                      "localhost",
                                      ":80",
                                      "127.0.0.1:",
                                      "127.0.0.1:x",
                                      "127.0.0.1:80x",
                                      "127.0.0.1:80/v1",
                                      "https://127.0.0.1:80",
                                      "::1:80",
                                      "[::1]80",
                                      "[]:80",
                                      "127.0.0.1:123456"};
    struct error err = {0};
    struct server_address a;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        if (server_find_url(good[i].url, &a, &err) < 0)
            fail_msg("%s: %s", good[i].url, err.text);
        assert_string_equal(a.host, good[i].host);
        assert_int_equal(a.address.ss_family, good[i].family);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (server_find_url(bad[i], &a, &err) != -EINVAL)
            fail_msg("%s is taken", bad[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_figures),    cmocka_unit_test(test_groups),
        cmocka_unit_test(test_json),       cmocka_unit_test(test_nothing),
        cmocka_unit_test(test_many_codes), cmocka_unit_test(test_requests),
        cmocka_unit_test(test_names),      cmocka_unit_test(test_urls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
