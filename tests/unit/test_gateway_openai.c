/* OpenAI's envelope: hostile JSON, and answers byte for byte. */
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

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

/* --- bodies --- */

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
        .infer = {.kind = kind, .choices = 1, .stream = stream, .logprobs = logprobs},
        .name = "m\"1",
        .include_usage = usage};
    openai_reply_init(a, 4096);
    assert_int_equal(openai_reply_begin(a, &r, "ID", 1700000000), 0);
}

static int event(struct openai_reply *a, struct buf *out, const char *text, size_t bytes,
                 const struct infer_token *tokens, uint32_t count)
{
    const struct infer_piece p = {
        .text = text, .text_bytes = bytes, .tokens = tokens, .token_count = count};
    return openai_reply_event(a, out, &p);
}

static int last_event(struct openai_reply *a, struct buf *out, const char *finish,
                      const struct infer_usage *usage)
{
    const struct infer_piece p = {.text = "", .finish = finish};
    return openai_reply_event(a, out, &p) | openai_reply_last_event(a, out, usage);
}

static int add(struct openai_reply *a, const char *text, size_t bytes,
               const struct infer_token *tokens, uint32_t count)
{
    const struct infer_piece p = {
        .text = text, .text_bytes = bytes, .tokens = tokens, .token_count = count};
    return openai_reply_add(a, &p);
}

static int whole(struct openai_reply *a, struct buf *out, const char *finish,
                 const struct infer_usage *usage)
{
    const struct infer_piece p = {.text = "", .finish = finish};
    return openai_reply_add(a, &p) | openai_reply_whole(a, out, usage);
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
static const struct infer_usage usage_3_2 = {3, 2, 1};

static void test_chat_stream(void **state)
{
    (void)state;
    struct openai_reply a;
    struct buf out;
    buf_init(&out, 8192);
    begin(&a, INFER_CHAT, true, true, false);
    assert_int_equal(event(&a, &out, "", 0, NULL, 0), 0);
    assert_int_equal(event(&a, &out, "a\"\n\xe2\x82\xac", 6, NULL, 0), 0);
    assert_int_equal(last_event(&a, &out, "stop", &usage_3_2), 0);
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
          "],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5,\"prompt_"
          "tokens_details\":{\"cached_tokens\":1}}}\n\n"
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
    assert_int_equal(event(&a, &out, "Hi", 2, &token_a, 1), 0);
    assert_int_equal(event(&a, &out, "", 0, &token_b, 1), 0);
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
    assert_int_equal(event(&a, &out, "", 0, NULL, 0), 0);
    assert_int_equal(event(&a, &out, "Hi", 2, NULL, 0), 0);
    assert_int_equal(last_event(&a, &out, "length", &usage_3_2), 0);
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
    assert_int_equal(add(&a, "He", 2, NULL, 0), 0);
    assert_int_equal(add(&a, "y\xff", 2, NULL, 0), 0);
    assert_int_equal(whole(&a, &out, "stop", &usage_3_2), 0);
    check(&out, "{\"id\":\"chatcmpl-ID\",\"object\":\"chat.completion\",\"created\":1700000000,"
                "\"model\":\"m\\\"1\",\"choices\":[{\"index\":0,\"message\":{\"role\":"
                "\"assistant\",\"content\":\"Hey\xef\xbf\xbd\",\"refusal\":null},\"logprobs\":null,"
                "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":3,"
                "\"completion_tokens\":2,\"total_tokens\":5,\"prompt_tokens_details\":{\"cached_"
                "tokens\":1}}}");
    openai_reply_free(&a);

    begin(&a, INFER_COMPLETION, false, false, true);
    assert_int_equal(add(&a, "<s>", 3, &token_none, 1), 0);
    assert_int_equal(add(&a, "Hi", 2, &token_a, 1), 0);
    assert_int_equal(add(&a, "", 0, &token_b, 1), 0);
    assert_int_equal(whole(&a, &out, "length", &usage_3_2), 0);
    check(&out,
          "{\"id\":\"cmpl-ID\",\"object\":\"text_completion\",\"created\":1700000000,\"model\":"
          "\"m\\\"1\",\"choices\":[{\"index\":0,\"text\":\"<s>Hi\",\"logprobs\":{\"tokens\":["
          "\"<s>\",\"Hi\",\"bytes:\\\\xc3\"],\"token_logprobs\":[null,-0.5,-1.25],"
          "\"top_logprobs\":[null,{\"Hi\":-0.5,\"bytes:\\\\xc3\":-9999},{\"bytes:\\\\xc3\":-1.25}],"
          "\"text_offset\":[0,3,5]},\"finish_reason\":\"length\"}],\"usage\":{"
          "\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5,\"prompt_tokens_"
          "details\":{\"cached_tokens\":1}}}");
    openai_reply_free(&a);
}

/* Choices come in any order; each has its own role, text, offsets and end. */
static void test_choices(void **state)
{
    (void)state;
    struct openai_request r = {.infer = {.kind = INFER_CHAT, .choices = 2, .stream = true},
                               .name = "m\"1",
                               .include_usage = true,
                               .continuous_usage = true};
    struct infer_piece p = {.choice = 1, .text = "b", .text_bytes = 1, .usage = {3, 1, 0}};
    struct openai_reply a;
    struct buf out;
    buf_init(&out, 8192);
    openai_reply_init(&a, 4096);
    assert_int_equal(openai_reply_begin(&a, &r, "ID", 1700000000), 0);
    assert_int_equal(openai_reply_event(&a, &out, &p), 0);
    p = (struct infer_piece){.choice = 0, .text = "", .finish = "length", .usage = {3, 2, 0}};
    assert_int_equal(openai_reply_event(&a, &out, &p), 0);
#define USAGE(completion, total)                                                                   \
    "],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":" completion                           \
    ",\"total_tokens\":" total "}}\n\n"
    check(&out, CHUNK
          "{\"index\":1,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
          "\"finish_reason\":null}" USAGE("1", "4") CHUNK
          "{\"index\":1,\"delta\":{\"content\":\"b\"},\"logprobs\":null,\"finish_reason\":"
          "null}" USAGE("1", "4") CHUNK
          "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
          "\"finish_reason\":null}" USAGE("2", "5") CHUNK
          "{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"length\"}" USAGE("2",
                                                                                            "5"));

    r = (struct openai_request){.infer = {.kind = INFER_COMPLETION, .choices = 3, .logprobs = true},
                                .name = "m"};
    assert_int_equal(openai_reply_begin(&a, &r, "ID", 1), 0);
    for (uint32_t i = 3; i-- > 0;) {
        p = (struct infer_piece){
            .choice = i, .text = "Hi", .text_bytes = 2, .tokens = &token_a, .token_count = 1};
        for (uint32_t n = 0; n <= i; n++)
            assert_int_equal(openai_reply_add(&a, &p), 0);
        p = (struct infer_piece){.choice = i, .text = "", .finish = i == 1 ? "stop" : "length"};
        assert_int_equal(openai_reply_add(&a, &p), 0);
    }
    assert_int_equal(openai_reply_whole(&a, &out, &usage_3_2), 0);
#define LOGPROBS(tokens, logprobs, tops, offsets)                                                  \
    "\",\"logprobs\":{\"tokens\":[" tokens "],\"token_logprobs\":[" logprobs                       \
    "],\"top_logprobs\":[" tops "],\"text_offset\":[" offsets "]},\"finish_reason\":\""
#define TOP "{\"Hi\":-0.5,\"bytes:\\\\xc3\":-9999}"
    static const char *const want[] = {
        "{\"id\":\"cmpl-ID\",\"object\":\"text_completion\",\"created\":1,\"model\":\"m\",",
        "\"choices\":[{\"index\":0,\"text\":\"Hi",
        LOGPROBS("\"Hi\"", "-0.5", TOP, "0"),
        "length\"},{\"index\":1,\"text\":\"HiHi",
        LOGPROBS("\"Hi\",\"Hi\"", "-0.5,-0.5", TOP "," TOP, "0,2"),
        "stop\"},{\"index\":2,\"text\":\"HiHiHi",
        LOGPROBS("\"Hi\",\"Hi\",\"Hi\"", "-0.5,-0.5,-0.5", TOP "," TOP "," TOP, "0,2,4"),
        "length\"}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5,"
        "\"prompt_tokens_details\":{\"cached_tokens\":1}}}"};
    char joined[2048] = "";
    for (size_t i = 0; i < COUNT(want); i++)
        strncat(joined, want[i], sizeof joined - strlen(joined) - 1);
    check(&out, joined);
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
                                             .choices = 1,
                                             .logprobs = i & 2},
                                   .name = "m"};
        const struct infer_token both[] = {token_a, token_b};
        assert_int_equal(openai_reply_begin(&a, &r, "ID", 1), 0);
        for (int c = 0; c < 256; c++)
            assert_int_equal(add(&a, (char[]){(char)c}, 1, both, 2), 0);
        buf_clear(&out);
        assert_int_equal(whole(&a, &out, "stop", &usage_3_2), 0);
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
        assert_int_equal(add(&a, text, sizeof text, NULL, 0), 0);
    assert_true(add(&a, text, sizeof text, NULL, 0) < 0);
    openai_reply_free(&a);
    /* All choices together. */
    struct openai_request two = {.infer = {.kind = INFER_CHAT, .choices = 2}, .name = "m"};
    openai_reply_init(&a, 4096);
    assert_int_equal(openai_reply_begin(&a, &two, "ID", 1), 0);
    for (uint32_t i = 0; i < 5; i++) {
        const struct infer_piece p = {.choice = i % 2, .text = text, .text_bytes = sizeof text};
        assert_int_equal(openai_reply_add(&a, &p) == 0, i < 4);
    }
    openai_reply_free(&a);
    /* Log-probabilities count too. */
    begin(&a, INFER_COMPLETION, false, false, true);
    int e = 0;
    for (int i = 0; i < 100 && e == 0; i++)
        e = add(&a, "Hi", 2, &token_a, 1);
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
        cmocka_unit_test(test_hostile_json),
        cmocka_unit_test(test_large_bodies),
        cmocka_unit_test(test_skim),
        cmocka_unit_test(test_chat_stream),
        cmocka_unit_test(test_chat_stream_logprobs),
        cmocka_unit_test(test_completion_stream),
        cmocka_unit_test(test_whole_answers),
        cmocka_unit_test(test_choices),
        cmocka_unit_test(test_whole_answers_are_json),
        cmocka_unit_test(test_held_limit),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
