/* OpenAI's envelope: every parameter's checks, hostile JSON, and answers byte for byte. */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gateway/openai.h"
#include "gateway/skim.h"

#define DEPTH_MAX 16

static int parse(struct openai_request *r, enum infer_kind kind, const char *body,
                 struct openai_refusal *refusal)
{
    return openai_request_parse(r, kind, body, strlen(body), DEPTH_MAX, refusal);
}

/* --- parameters --- */

struct parameter {
    const char *json;  /* after the fields that are always there */
    const char *param; /* NULL: accepted; "": refused without a parameter */
};

static const struct parameter for_both[] = {
    {"", NULL},
    {",\"max_tokens\":5", NULL},
    {",\"max_tokens\":null", NULL},
    {",\"max_tokens\":0", "max_tokens"},
    {",\"max_tokens\":-1", "max_tokens"},
    {",\"max_tokens\":1.5", "max_tokens"},
    {",\"max_tokens\":\"5\"", "max_tokens"},
    {",\"max_tokens\":true", "max_tokens"},
    {",\"max_tokens\":2147483648", "max_tokens"},
    {",\"max_tokens\":99999999999999999999", ""},
    {",\"temperature\":0", NULL},
    {",\"temperature\":2", NULL},
    {",\"temperature\":null", NULL},
    {",\"temperature\":2.01", "temperature"},
    {",\"temperature\":-0.1", "temperature"},
    {",\"temperature\":\"hot\"", "temperature"},
    {",\"temperature\":1e999", ""},
    {",\"temperature\":NaN", ""},
    {",\"top_p\":1", NULL},
    {",\"top_p\":1e-300", NULL},
    {",\"top_p\":0", "top_p"},
    {",\"top_p\":1.1", "top_p"},
    {",\"min_p\":0", NULL},
    {",\"min_p\":0.9999999999999", NULL},
    {",\"min_p\":1", "min_p"},
    {",\"top_k\":-1", NULL},
    {",\"top_k\":0", NULL},
    {",\"top_k\":40", NULL},
    {",\"top_k\":-2", "top_k"},
    {",\"top_k\":1.0", "top_k"},
    {",\"seed\":-9223372036854775808", NULL},
    {",\"seed\":9223372036854775807", NULL},
    {",\"seed\":\"1\"", "seed"},
    {",\"stop\":null", NULL},
    {",\"stop\":\"x\"", NULL},
    {",\"stop\":[]", NULL},
    {",\"stop\":[\"a\",\"b\",\"c\",\"d\"]", NULL},
    {",\"stop\":[\"a\",\"b\",\"c\",\"d\",\"e\"]", "stop"},
    {",\"stop\":\"\"", "stop"},
    {",\"stop\":[\"\"]", "stop"},
    {",\"stop\":[1]", "stop"},
    {",\"stop\":1", "stop"},
    {",\"stream\":true", NULL},
    {",\"stream\":1", "stream"},
    {",\"stream\":true,\"stream_options\":{\"include_usage\":true}", NULL},
    {",\"stream\":true,\"stream_options\":{}", NULL},
    {",\"stream\":true,\"stream_options\":null", NULL},
    {",\"stream_options\":{\"include_usage\":true}", "stream_options"},
    {",\"stream\":true,\"stream_options\":1", "stream_options"},
    {",\"stream\":true,\"stream_options\":{\"include_usage\":1}", "stream_options.include_usage"},
    {",\"n\":1", NULL},
    {",\"n\":2", "n"},
    {",\"best_of\":1", NULL},
    {",\"best_of\":2", "best_of"},
    {",\"presence_penalty\":0.0", NULL},
    {",\"presence_penalty\":0.5", "presence_penalty"},
    {",\"frequency_penalty\":-1", "frequency_penalty"},
    {",\"logit_bias\":{}", NULL},
    {",\"logit_bias\":{\"1\":5}", "logit_bias"},
    {",\"response_format\":{\"type\":\"text\"}", NULL},
    {",\"response_format\":{\"type\":\"json_object\"}", "response_format"},
    {",\"response_format\":\"text\"", "response_format"},
    {",\"tools\":[]", NULL},
    {",\"tools\":{}", "tools"},
    {",\"tools\":[1]", "tools"},
    {",\"tool_choice\":\"auto\"", NULL},
    {",\"tool_choice\":\"none\"", NULL},
    {",\"tool_choice\":\"required\"", "tool_choice"},
    {",\"tool_choice\":{\"type\":\"function\"}", "tool_choice"},
    {",\"suffix\":null", NULL},
    {",\"suffix\":\"x\"", "suffix"},
    {",\"user\":\"me\"", NULL},
    {",\"user\":1", "user"},
    {",\"guided_json\":{}", "guided_json"},
    {",\"parallel_tool_calls\":true,\"metadata\":{\"a\":1},\"never_heard_of\":[1]", NULL},
    {",\"model\":\"again\"", ""},
    {",\"x\":{\"a\":1,\"a\":2}", ""},
};

static const struct parameter for_completions[] = {
    {",\"echo\":true,\"max_tokens\":0", NULL},
    {",\"echo\":\"yes\"", "echo"},
    {",\"logprobs\":0", NULL},
    {",\"logprobs\":20", NULL},
    {",\"logprobs\":null", NULL},
    {",\"logprobs\":21", "logprobs"},
    {",\"logprobs\":-1", "logprobs"},
    {",\"logprobs\":true", "logprobs"},
    {",\"tools\":[{\"type\":\"function\"}]", "tools"},
};

static const struct parameter for_chats[] = {
    {",\"logprobs\":true", NULL},
    {",\"logprobs\":true,\"top_logprobs\":20", NULL},
    {",\"logprobs\":true,\"top_logprobs\":21", "top_logprobs"},
    {",\"logprobs\":1", "logprobs"},
    {",\"top_logprobs\":2", "top_logprobs"},
    {",\"top_logprobs\":0", NULL},
    {",\"max_completion_tokens\":7", NULL},
    {",\"max_completion_tokens\":0", "max_completion_tokens"},
    {",\"max_completion_tokens\":7,\"max_tokens\":7", "max_completion_tokens"},
    {",\"echo\":true", "echo"},
    {",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]", NULL},
};

static void check_parameters(enum infer_kind kind, const struct parameter *table, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct openai_request r;
        struct openai_refusal refusal;
        char body[1024];
        snprintf(body, sizeof body, "{\"model\":\"m\",%s%s}",
                 kind == INFER_CHAT ? "\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]"
                                    : "\"prompt\":\"x\"",
                 table[i].json);
        int e = parse(&r, kind, body, &refusal);
        if (e == 0)
            openai_request_done(&r);
        const char *got = e == 0 ? NULL : refusal.param;
        const char *want = table[i].param;
        if ((got == NULL) != (want == NULL) || (got != NULL && strcmp(got, want) != 0))
            fail_msg("%s: refused for %s (%s), expected %s", body, got != NULL ? got : "nothing",
                     e == 0 ? "" : refusal.why.text, want != NULL ? want : "nothing");
        if (e < 0) {
            assert_int_equal(refusal.status, 400);
            assert_true(refusal.why.text[0] != '\0');
        }
    }
}

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

static void test_parameters(void **state)
{
    (void)state;
    check_parameters(INFER_COMPLETION, for_both, COUNT(for_both));
    check_parameters(INFER_CHAT, for_both, COUNT(for_both));
    check_parameters(INFER_COMPLETION, for_completions, COUNT(for_completions));
    check_parameters(INFER_CHAT, for_chats, COUNT(for_chats));
}

static void test_subjects(void **state)
{
    (void)state;
    static const struct {
        enum infer_kind kind;
        const char *body;
        const char *param;
    } table[] = {
        {INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":\"\"}", NULL},
        {INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":\"a\\u0000b\"}", NULL},
        {INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":[\"a\"]}", NULL},
        {INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":[1,2,3]}", NULL},
        {INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":[[1,2,3]]}", NULL},
        {INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":[\"a\",\"b\"]}", "prompt"},
        {INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":[[1],[2]]}", "prompt"},
        {INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":[]}", "prompt"},
        {INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":[[]]}", "prompt"},
        {INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":[1,-1]}", "prompt"},
        {INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":[1,2147483648]}", "prompt"},
        {INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":[1,\"a\"]}", "prompt"},
        {INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":[1.5]}", "prompt"},
        {INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":{}}", "prompt"},
        {INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":null}", "prompt"},
        {INFER_COMPLETION, "{\"model\":\"m\"}", "prompt"},
        {INFER_COMPLETION, "{\"prompt\":\"a\"}", "model"},
        {INFER_COMPLETION, "{\"model\":1,\"prompt\":\"a\"}", "model"},
        {INFER_COMPLETION, "{\"model\":\"\",\"prompt\":\"a\"}", "model"},
        {INFER_COMPLETION, "{\"model\":\"a\\u0000b\",\"prompt\":\"a\"}", "model"},
        {INFER_CHAT, "{\"model\":\"m\"}", "messages"},
        {INFER_CHAT, "{\"model\":\"m\",\"messages\":[]}", "messages"},
        {INFER_CHAT, "{\"model\":\"m\",\"messages\":\"hi\"}", "messages"},
        {INFER_CHAT, "{\"model\":\"m\",\"messages\":[1]}", "messages[0]"},
        {INFER_CHAT, "{\"model\":\"m\",\"messages\":[{}]}", "messages[0].role"},
        {INFER_CHAT, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\"}]}", NULL},
        {INFER_CHAT, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":null}]}", NULL},
        {INFER_CHAT, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":1}]}",
         "messages[0].content"},
        {INFER_CHAT,
         "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\","
         "\"text\":\"x\"}]}]}",
         NULL},
        {INFER_CHAT,
         "{\"model\":\"m\",\"messages\":[{\"role\":\"user\"},{\"role\":\"user\",\"content\":[{"
         "\"type\":\"image_url\"}]}]}",
         "messages[1].content"},
        {INFER_CHAT, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[1]}]}",
         "messages[0].content"},
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        struct openai_request r;
        struct openai_refusal refusal;
        int e = parse(&r, table[i].kind, table[i].body, &refusal);
        if (e == 0)
            openai_request_done(&r);
        if ((e == 0) != (table[i].param == NULL) ||
            (e < 0 && strcmp(refusal.param, table[i].param) != 0))
            fail_msg("%s: %d %s (%s)", table[i].body, e, e < 0 ? refusal.param : "",
                     e < 0 ? refusal.why.text : "");
    }
}

static void test_values(void **state)
{
    (void)state;
    struct openai_request r;
    struct openai_refusal refusal;
    assert_int_equal(parse(&r, INFER_COMPLETION, "{\"model\":\"m\",\"prompt\":\"x\"}", &refusal),
                     0);
    assert_string_equal(r.infer.model, "m");
    assert_int_equal(r.infer.max_tokens, 16);
    assert_true(r.infer.temperature == 1 && r.infer.top_p == 1 && r.infer.min_p == 0);
    assert_int_equal(r.infer.top_k, 0);
    assert_false(r.infer.has_seed || r.infer.stream || r.infer.echo || r.infer.logprobs);
    openai_request_done(&r);

    assert_int_equal(parse(&r, INFER_CHAT,
                           "{\"model\":\"m\",\"messages\":[{\"role\":\"user\"}],\"stream\":true,"
                           "\"stream_options\":{\"include_usage\":true},\"seed\":-1,\"top_k\":-1,"
                           "\"min_p\":0.9999999999999,\"top_p\":1e-300,\"temperature\":0.5,"
                           "\"logprobs\":true,\"top_logprobs\":3}",
                           &refusal),
                     0);
    assert_int_equal(r.infer.max_tokens, INFER_TOKENS_UNSET);
    assert_true(r.infer.has_seed && r.infer.seed == UINT64_MAX);
    assert_int_equal(r.infer.top_k, 0);
    assert_true(r.infer.min_p < 1 && r.infer.min_p > 0.99f);
    assert_true(r.infer.top_p > 0);
    assert_true(r.infer.temperature == 0.5f);
    assert_true(r.infer.stream && r.include_usage && r.infer.logprobs);
    assert_int_equal(r.infer.top_logprobs, 3);
    openai_request_done(&r);

    assert_int_equal(parse(&r, INFER_COMPLETION,
                           "{\"model\":\"m\",\"prompt\":\"x\",\"logprobs\":0,\"echo\":true,"
                           "\"max_tokens\":0}",
                           &refusal),
                     0);
    assert_true(r.infer.logprobs && r.infer.echo && r.infer.top_logprobs == 0);
    assert_int_equal(r.infer.max_tokens, 0);
    openai_request_done(&r);
}

static void test_hostile_json(void **state)
{
    (void)state;
    static const char *const table[] = {
        "",
        " ",
        "null",
        "[]",
        "1",
        "\"x\"",
        "{",
        "{}x",
        "{\"model\":\"m\"",
        "{\"model\":\"m\",\"prompt\":\"\xff\"}",
        "{\"model\":\"m\",\"prompt\":\"\xed\xa0\x80\"}",
        "{\"model\":\"m\",\"prompt\":\"\\ud800\"}",
        "{\"model\":\"m\",\"prompt\":\"a\nb\"}",
        "{\"model\":\"m\",\"prompt\":\"x\"} {}",
        "{\"model\":\"m\",\"prompt\":\"x\",}",
        "{'model':'m'}",
        "{\"model\":\"m\",\"prompt\":[01]}",
        "model=m&prompt=x",
        "\xef\xbb\xbf{\"model\":\"m\",\"prompt\":\"x\"}",
        "{\"model\":\"m\",\"prompt\":\"x\",\"a\":[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]}",
    };
    struct openai_request r;
    struct openai_refusal refusal;
    for (size_t i = 0; i < COUNT(table); i++) {
        if (parse(&r, INFER_COMPLETION, table[i], &refusal) != -EINVAL)
            fail_msg("accepted: %s", table[i]);
        assert_string_equal(refusal.param, "");
    }
    /* Brackets in strings are no depth; a million of them elsewhere is refused, not recursed. */
    assert_int_equal(parse(&r, INFER_COMPLETION,
                           "{\"model\":\"m\",\"prompt\":\"[[[[[[[[[[[[[[[[[[[[\\\"[[[[[[[[[[[[\"}",
                           &refusal),
                     0);
    openai_request_done(&r);
    size_t len = 1000000;
    char *deep = malloc(len);
    assert_non_null(deep);
    memset(deep, '[', len);
    assert_int_equal(openai_request_parse(&r, INFER_CHAT, deep, len, DEPTH_MAX, &refusal), -EINVAL);
    free(deep);
}

/* Prompts of megabytes are fine; that much of anything else is not. */
static void test_large_bodies(void **state)
{
    (void)state;
    static const struct {
        const char *head;
        const char *repeat;
        const char *tail;
        const char *reason; /* NULL: accepted */
    } table[] = {
        {"{\"model\":\"m\",\"prompt\":\"", "x\\u0041\xc3\xa9", "\"}", NULL},
        {"{\"model\":\"m\",\"prompt\":[0", ", 151643", "]}", NULL},
        {"{\"model\":\"m\",\"prompt\":[[0", ",7", "] ] } \n", NULL},
        {"{\"model\":\"m\",\"prompt\":[0", ",7", ",-7]}", "is not a token id"},
        {"{\"model\":\"m\",\"prompt\":\"x\",\"user\":\"", "x", "\"}", "more than 65536 bytes"},
        {"{\"model\":\"m\",\"prompt\":\"x\",\"a\":[{\"b\":1}", ",{\"b\":1}", "]}",
         "more than 131072 keys"},
    };
    size_t size = 2u << 20;
    char *body = malloc(size);
    assert_non_null(body);
    for (size_t i = 0; i < COUNT(table); i++) {
        struct openai_request r;
        struct openai_refusal refusal;
        size_t len = (size_t)snprintf(body, size, "%s", table[i].head);
        while (len + 64 < size)
            len += (size_t)snprintf(body + len, size - len, "%s", table[i].repeat);
        len += (size_t)snprintf(body + len, size - len, "%s", table[i].tail);
        int e = openai_request_parse(&r, INFER_COMPLETION, body, len, DEPTH_MAX, &refusal);
        if ((e == 0) != (table[i].reason == NULL) ||
            (e < 0 && strstr(refusal.why.text, table[i].reason) == NULL))
            fail_msg("%.60s: %d %s", table[i].head, e, e < 0 ? refusal.why.text : "");
        if (e == 0)
            openai_request_done(&r);
    }
    free(body);
}

/* The grammar, with the reader that never builds a tree. */
static void test_skim(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        bool valid;
    } table[] = {
        {"{}", true},
        {" [ ] ", true},
        {"[0,-0,1.5,-1e5,1E+5,0.0e-0]", true},
        {"[\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0000\\ud83d\\ude00\"]", true},
        {"{\"a\":{\"a\":[{\"a\":1}]},\"b\":null}", true},
        {"{\"a\":1,\"b\":{\"c\":1,\"d\":2,\"c\":3}}", false},
        {"{\"a\":1,\"\\u0061\":2}", false},
        {"{\"\\ud83d\\ude00\":1,\"\xf0\x9f\x98\x80\":2}", false},
        {"{\"\\u00e9\\u20ac\":1,\"\xc3\xa9\xe2\x82\xac\":2}", false},
        {"{\"\\u0000\":1}", false},
        {"[1,]", false},
        {"[,1]", false},
        {"[1 2]", false},
        {"[01]", false},
        {"[1.]", false},
        {"[.5]", false},
        {"[+1]", false},
        {"[1e]", false},
        {"[--1]", false},
        {"[-]", false},
        {"[tru]", false},
        {"[nulll]", false},
        {"[\"\\x\"]", false},
        {"[\"\\u12g4\"]", false},
        {"[\"\\udc00\"]", false},
        {"[\"\\ud800\\u0041\"]", false},
        {"[\"", false},
        {"[\"\\", false},
        {"[\"\\u00", false},
        {"{\"a\"}", false},
        {"{\"a\":}", false},
        {"{a:1}", false},
        {"{1:1}", false},
        {"[}", false},
        {"{]", false},
        {"[[]", false},
        {"[]]", false},
        {"[\"12345678\x1f\"]", false},
        {"[\"1234567\x01 5678\"]", false},
        {"[\"1234567\x80 5678\"]", false},
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        struct error err = {0};
        /* An exact copy lets ASan see a byte too far. */
        size_t len = strlen(table[i].json);
        char *copy = malloc(len);
        assert_non_null(copy);
        memcpy(copy, table[i].json, len);
        int r = skim_check(copy, len, DEPTH_MAX, &err);
        free(copy);
        if ((r == 0) != table[i].valid)
            fail_msg("%s: %d %s", table[i].json, r, err.text);
    }
    /* Specials at every place of the eight bytes that are looked at together. */
    for (int at = 0; at < 24; at++) {
        for (int c = 1; c < 256; c++) {
            char json[32] = "\"aaaaaaaaaaaaaaaaaaaaaaaa\"";
            struct error err = {0};
            json[1 + at] = (char)c;
            bool plain = c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
            assert_int_equal(skim_check(json, 26, DEPTH_MAX, &err) == 0, plain);
        }
    }
}

/* --- answers --- */

static void begin(struct openai_reply *a, enum infer_kind kind, bool stream, bool usage,
                  bool logprobs)
{
    struct openai_request r = {
        .infer = {.kind = kind, .model = "m\"1", .stream = stream, .logprobs = logprobs},
        .include_usage = usage};
    openai_reply_init(a, 4096);
    assert_int_equal(openai_reply_begin(a, &r, "ID", 1700000000), 0);
}

static void check(struct buf *out, const char *want)
{
    assert_string_equal(out->data, want);
    buf_free(out);
}

static const struct infer_alternative top_a[] = {{"Hi", 2, -0.5f}, {"\xc3", 1, -INFINITY}};
static const struct infer_token token_a = {"Hi", 2, true, -0.5f, 2, top_a};
static const struct infer_token token_b = {"\xc3", 1, true, -1.25f, 0, NULL};
static const struct infer_token token_none = {"<s>", 3, false, 0, 0, NULL};
static const struct infer_usage usage_3_2 = {3, 2};

static void test_chat_stream(void **state)
{
    (void)state;
    struct openai_reply a;
    struct buf out;
    buf_init(&out, 8192);
    begin(&a, INFER_CHAT, true, true, false);
    assert_int_equal(openai_reply_event(&a, &out, "", 0, NULL, 0), 0);
    assert_int_equal(openai_reply_event(&a, &out, "a\"\n\xe2\x82\xac", 6, NULL, 0), 0);
    assert_int_equal(openai_reply_last_event(&a, &out, "stop", &usage_3_2), 0);
#define CHUNK                                                                                      \
    "data: {\"id\":\"chatcmpl-ID\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"   \
    "\"model\":\"m\\\"1\",\"choices\":["
    check(&out, CHUNK
          "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
          "\"finish_reason\":null}],\"usage\":null}\n\n" CHUNK
          "{\"index\":0,\"delta\":{\"content\":\"a\\\"\\n\xe2\x82\xac\"},\"logprobs\":null,"
          "\"finish_reason\":null}],\"usage\":null}\n\n" CHUNK
          "{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}],"
          "\"usage\":null}\n\n" CHUNK
          "],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5}}\n\n"
          "data: [DONE]\n\n");
    openai_reply_free(&a);
}

static void test_chat_stream_logprobs(void **state)
{
    (void)state;
    struct openai_reply a;
    struct buf out;
    buf_init(&out, 8192);
    begin(&a, INFER_CHAT, true, false, true);
    assert_int_equal(openai_reply_event(&a, &out, "Hi", 2, &token_a, 1), 0);
    assert_int_equal(openai_reply_event(&a, &out, "", 0, &token_b, 1), 0);
    check(
        &out, CHUNK
        "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
        "\"finish_reason\":null}]}\n\n" CHUNK
        "{\"index\":0,\"delta\":{\"content\":\"Hi\"},\"logprobs\":{\"content\":[{\"token\":\"Hi\","
        "\"logprob\":-0.5,\"bytes\":[72,105],\"top_logprobs\":[{\"token\":\"Hi\",\"logprob\":-0.5,"
        "\"bytes\":[72,105]},{\"token\":\"\xef\xbf\xbd\",\"logprob\":-9999,\"bytes\":[195]}]}],"
        "\"refusal\":null},\"finish_reason\":null}]}\n\n" CHUNK
        "{\"index\":0,\"delta\":{\"content\":\"\"},\"logprobs\":{\"content\":[{\"token\":"
        "\"\xef\xbf\xbd\",\"logprob\":-1.25,\"bytes\":[195],\"top_logprobs\":[]}],"
        "\"refusal\":null},\"finish_reason\":null}]}\n\n");
    openai_reply_free(&a);
}

static void test_completion_stream(void **state)
{
    (void)state;
    struct openai_reply a;
    struct buf out;
    buf_init(&out, 8192);
    begin(&a, INFER_COMPLETION, true, false, false);
    assert_int_equal(openai_reply_event(&a, &out, "", 0, NULL, 0), 0);
    assert_int_equal(openai_reply_event(&a, &out, "Hi", 2, NULL, 0), 0);
    assert_int_equal(openai_reply_last_event(&a, &out, "length", &usage_3_2), 0);
#define TEXT_CHUNK                                                                                 \
    "data: {\"id\":\"cmpl-ID\",\"object\":\"text_completion\",\"created\":1700000000,"             \
    "\"model\":\"m\\\"1\",\"choices\":[{\"index\":0,\"text\":"
    check(&out, TEXT_CHUNK "\"Hi\",\"logprobs\":null,\"finish_reason\":null}]}\n\n" TEXT_CHUNK
                           "\"\",\"logprobs\":null,\"finish_reason\":\"length\"}]}\n\n"
                           "data: [DONE]\n\n");
    openai_reply_free(&a);
}

static void test_whole_answers(void **state)
{
    (void)state;
    struct openai_reply a;
    struct buf out;
    buf_init(&out, 8192);
    begin(&a, INFER_CHAT, false, false, false);
    assert_int_equal(openai_reply_add(&a, "He", 2, NULL, 0), 0);
    assert_int_equal(openai_reply_add(&a, "y\xff", 2, NULL, 0), 0);
    assert_int_equal(openai_reply_whole(&a, &out, "stop", &usage_3_2), 0);
    check(&out, "{\"id\":\"chatcmpl-ID\",\"object\":\"chat.completion\",\"created\":1700000000,"
                "\"model\":\"m\\\"1\",\"choices\":[{\"index\":0,\"message\":{\"role\":"
                "\"assistant\",\"content\":\"Hey\xef\xbf\xbd\",\"refusal\":null},\"logprobs\":null,"
                "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":3,"
                "\"completion_tokens\":2,\"total_tokens\":5}}");
    openai_reply_free(&a);

    begin(&a, INFER_COMPLETION, false, false, true);
    assert_int_equal(openai_reply_add(&a, "<s>", 3, &token_none, 1), 0);
    assert_int_equal(openai_reply_add(&a, "Hi", 2, &token_a, 1), 0);
    assert_int_equal(openai_reply_add(&a, "", 0, &token_b, 1), 0);
    assert_int_equal(openai_reply_whole(&a, &out, "length", &usage_3_2), 0);
    check(&out,
          "{\"id\":\"cmpl-ID\",\"object\":\"text_completion\",\"created\":1700000000,\"model\":"
          "\"m\\\"1\",\"choices\":[{\"index\":0,\"text\":\"<s>Hi\",\"logprobs\":{\"tokens\":["
          "\"<s>\",\"Hi\",\"bytes:\\\\xc3\"],\"token_logprobs\":[null,-0.5,-1.25],"
          "\"top_logprobs\":[null,{\"Hi\":-0.5,\"bytes:\\\\xc3\":-9999},{\"bytes:\\\\xc3\":-1.25}],"
          "\"text_offset\":[0,3,5]},\"finish_reason\":\"length\"}],\"usage\":{"
          "\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5}}");
    openai_reply_free(&a);
}

/* Every answer is JSON that a strict parser reads back, and one reply serves many answers. */
static void test_whole_answers_are_json(void **state)
{
    (void)state;
    struct openai_reply a;
    struct buf out;
    buf_init(&out, 65536);
    openai_reply_init(&a, 65536);
    for (int i = 0; i < 4; i++) {
        struct openai_request r = {.infer = {.kind = i & 1 ? INFER_CHAT : INFER_COMPLETION,
                                             .model = "m",
                                             .logprobs = i & 2}};
        const struct infer_token both[] = {token_a, token_b};
        assert_int_equal(openai_reply_begin(&a, &r, "ID", 1), 0);
        for (int c = 0; c < 256; c++)
            assert_int_equal(openai_reply_add(&a, (char[]){(char)c}, 1, both, 2), 0);
        buf_clear(&out);
        assert_int_equal(openai_reply_whole(&a, &out, "stop", &usage_3_2), 0);
        json_error_t why;
        json_t *root = json_loadb(out.data, out.len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
        if (root == NULL)
            fail_msg("%s: %s", why.text, out.data);
        json_decref(root);
    }
    openai_reply_free(&a);
    buf_free(&out);
}

static void test_held_limit(void **state)
{
    (void)state;
    struct openai_reply a;
    char text[1000];
    memset(text, 'x', sizeof text);
    begin(&a, INFER_CHAT, false, false, false);
    for (int i = 0; i < 4; i++)
        assert_int_equal(openai_reply_add(&a, text, sizeof text, NULL, 0), 0);
    assert_true(openai_reply_add(&a, text, sizeof text, NULL, 0) < 0);
    openai_reply_free(&a);
    /* Log-probabilities count too. */
    begin(&a, INFER_COMPLETION, false, false, true);
    int e = 0;
    for (int i = 0; i < 100 && e == 0; i++)
        e = openai_reply_add(&a, "Hi", 2, &token_a, 1);
    assert_true(e < 0);
    openai_reply_free(&a);
}

static void test_errors(void **state)
{
    (void)state;
    static const struct {
        int status;
        const char *type;
    } types[] = {{400, "invalid_request_error"}, {401, "authentication_error"},
                 {403, "permission_error"},      {404, "not_found_error"},
                 {413, "invalid_request_error"}, {429, "rate_limit_error"},
                 {500, "server_error"},          {503, "server_error"}};
    struct buf out;
    char want[256];
    buf_init(&out, 4096);
    for (size_t i = 0; i < COUNT(types); i++) {
        snprintf(want, sizeof want,
                 "{\"error\":{\"message\":\"a\\\"\xef\xbf\xbd\",\"type\":\"%s\",\"param\":null,"
                 "\"code\":null}}",
                 types[i].type);
        assert_int_equal(openai_append_error(&out, types[i].status, NULL, NULL, "a\"\xc3"), 0);
        check(&out, want);
    }
    assert_int_equal(openai_append_error(&out, 400, "c", "p", "m"), 0);
    check(&out, "{\"error\":{\"message\":\"m\",\"type\":\"invalid_request_error\",\"param\":\"p\","
                "\"code\":\"c\"}}");
}

static void test_utf8(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t length;
    } table[] = {
        {"a", 1},
        {"\xc2\x80", 2},
        {"\xe0\xa0\x80", 3},
        {"\xf0\x90\x80\x80", 4},
        {"\x80", 0},
        {"\xc1\x80", 0},
        {"\xe0\x9f\xbf", 0},
        {"\xf0\x8f\xbf\xbf", 0},
        {"\xed\x9f\xbf", 3},
        {"\xed\xa0\x80", 0},
        {"\xf4\x8f\xbf\xbf", 4},
        {"\xf4\x90\x80\x80", 0},
        {"\xf5\x80\x80\x80", 0},
        {"\xe2\x82", 0},
        {"\xc3", 0},
        {"\xe2\x28\xa1", 0},
    };
    for (size_t i = 0; i < COUNT(table); i++)
        assert_int_equal(openai_utf8_length(table[i].bytes, strlen(table[i].bytes)),
                         table[i].length);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parameters),
        cmocka_unit_test(test_subjects),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_hostile_json),
        cmocka_unit_test(test_large_bodies),
        cmocka_unit_test(test_skim),
        cmocka_unit_test(test_chat_stream),
        cmocka_unit_test(test_chat_stream_logprobs),
        cmocka_unit_test(test_completion_stream),
        cmocka_unit_test(test_whole_answers),
        cmocka_unit_test(test_whole_answers_are_json),
        cmocka_unit_test(test_held_limit),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
