/* Answers as a load driver reads them: in every cut of their bytes the same, and what is none is
 * refused. */
#include "cli/replay_stream.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define HEAD                                                                                       \
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
#define EVENT(json) "data: " json "\n\n"
#define TEXT(t) EVENT("{\"choices\":[{\"index\":0,\"text\":\"" t "\",\"finish_reason\":null}]}")
#define DELTA(t)                                                                                   \
    EVENT("{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"" t "\"},\"finish_reason\":null}]"  \
          "}")
#define FINISH EVENT("{\"choices\":[{\"index\":0,\"text\":\"\",\"finish_reason\":\"length\"}]}")
#define USAGE(n)                                                                                   \
    EVENT("{\"choices\":[],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":" n "}}")
#define DONE EVENT("[DONE]")

/* As one chunk of HTTP. */
static char *chunked(const char *body)
{
    size_t bytes = strlen(HEAD) + strlen(body) + 64;
    char *text = malloc(bytes);
    assert_non_null(text);
    snprintf(text, bytes, "%s%zx\r\n%s\r\n0\r\n\r\n", HEAD, strlen(body), body);
    return text;
}

static void whole(const char *bytes, struct stream *a)
{
    struct error err = {0};
    stream_init(a);
    int r = stream_feed(a, bytes, strlen(bytes), 7, &err);
    if (r != 1)
        fail_msg("%d \"%s\": %s", r, err.text, bytes);
}

/* Byte by byte, each at its own time. */
static void by_bytes(const char *bytes, struct stream *a)
{
    struct error err = {0};
    stream_init(a);
    size_t len = strlen(bytes);
    for (size_t i = 0; i < len; i++) {
        char *one = malloc(1);
        assert_non_null(one);
        *one = bytes[i];
        int r = stream_feed(a, one, 1, i + 1, &err);
        free(one);
        if (r != (i + 1 == len))
            fail_msg("%d after byte %zu of %zu \"%s\": %s", r, i, len, err.text, bytes);
    }
}

static void test_stream(void **state)
{
    (void)state;
    char *text = chunked(TEXT("a") ": still here\n\n" TEXT("b") TEXT("") FINISH USAGE("5") DONE);
    struct stream a;
    whole(text, &a);
    assert_int_equal(a.status, 200);
    assert_int_equal(a.first_us, 7);
    assert_int_equal(a.last_us, 7);
    assert_int_equal(a.pieces, 2);
    assert_int_equal(a.tokens, 5);
    assert_true(a.finished && a.has_usage && a.keep_alive);
    assert_false(a.broken);
    stream_free(&a);
    by_bytes(text, &a);
    assert_int_equal(a.pieces, 2);
    assert_int_equal(a.tokens, 5);
    /* the event of the first text is known when its line ends */
    assert_int_equal(a.first_us,
                     strstr(text, "\"a\"") - text + strlen("\"a\",\"finish_reason\":null}]}\n"));
    assert_true(a.last_us > a.first_us);
    /* and again, on the same connection */
    stream_reset(&a);
    assert_int_equal(a.first_us, 0);
    assert_int_equal(stream_feed(&a, text, strlen(text), 9, NULL), 1);
    assert_int_equal(a.tokens, 5);
    stream_free(&a);
    free(text);
}

static void test_chat(void **state)
{
    (void)state;
    struct stream a;
    char *text = chunked(
        EVENT("{\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}") DELTA("x")
            DELTA("y") EVENT("{\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}") DONE);
    by_bytes(text, &a);
    assert_int_equal(a.pieces, 2);
    assert_int_equal(a.tokens, 2); /* without usage, as many as there were pieces */
    assert_true(a.finished && !a.has_usage);
    assert_true(a.first_us > (uint64_t)(strstr(text, "\"x\"") - text)); /* not at the role */
    stream_free(&a);
    free(text);
}

/* Tokens without text, as random weights make them: the first is known by the finish. */
static void test_no_text(void **state)
{
    (void)state;
    struct stream a;
    char *text = chunked(FINISH USAGE("3") DONE);
    whole(text, &a);
    assert_int_equal(a.first_us, 7);
    assert_int_equal(a.tokens, 3);
    stream_free(&a);
    free(text);
}

static void test_framing(void **state)
{
    (void)state;
    struct stream a;
    by_bytes("HTTP/1.1 429 Too Many Requests\r\nContent-Length: 41\r\nretry-after: 1\r\n\r\n"
             "{\"error\":{\"message\":\"too\\nmany \\u00fc.\"}}",
             &a);
    assert_int_equal(a.status, 429);
    assert_string_equal(a.message, "too?many ??.");
    assert_true(a.keep_alive && !a.finished);
    stream_free(&a);
    by_bytes("HTTP/1.1 503\ncontent-length:0\nConnection: close\n\n", &a);
    assert_int_equal(a.status, 503);
    assert_false(a.keep_alive);
    stream_free(&a);
    by_bytes("HTTP/1.1 204 No Content\r\n\r\n", &a);
    stream_free(&a);
    by_bytes("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", &a);
    assert_int_equal(a.status, 200);
    stream_free(&a);
    by_bytes(HEAD "1;ext=1\r\nx\r\nA\r\n0123456789\r\n00\r\nTrailer: 1\r\n\r\n", &a);
    stream_free(&a);
}

static void test_until_close(void **state)
{
    (void)state;
    static const char text[] =
        "HTTP/1.0 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n" TEXT("a")
            FINISH;
    struct stream a;
    struct error err = {0};
    stream_init(&a);
    assert_int_equal(stream_feed(&a, text, strlen(text), 3, &err), 0);
    assert_int_equal(stream_close(&a, &err), 1);
    assert_true(a.finished && !a.keep_alive && a.pieces == 1);
    stream_free(&a);
    /* Before that, an end is a cut at every byte of one that tells its length. */
    char *cut = chunked(TEXT("a") FINISH DONE);
    for (size_t len = 0; len < strlen(cut); len++) {
        stream_init(&a);
        assert_int_equal(stream_feed(&a, cut, len, 3, &err), 0);
        assert_int_equal(stream_close(&a, &err), -EPIPE);
        stream_free(&a);
    }
    free(cut);
}

static void test_errors_in_streams(void **state)
{
    (void)state;
    static const struct {
        const char *event;
        bool broken;
        const char *message;
    } cases[] = {
        {EVENT("{\"error\":{\"message\":\"worker ended\",\"code\":null}}"), true, "worker ended"},
        {EVENT("{\"choices\""), true, ""},
        {EVENT("{\"a\":1,\"a\":2}"), true, ""},
        {EVENT("[]"), false, ""},
        {EVENT("{\"choices\":7,\"usage\":[]}"), false, ""},
        {EVENT("{\"choices\":[],\"usage\":{\"completion_tokens\":-4}}"), false, ""},
        {EVENT("{\"choices\":[],\"usage\":{\"completion_tokens\":99999999999}}"), false, ""},
        {"data\ndata:[DONE]\nevent: x\n\r\n", false, ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct stream a;
        char *text = chunked(cases[i].event);
        whole(text, &a);
        if (a.broken != cases[i].broken || strcmp(a.message, cases[i].message) != 0)
            fail_msg("%s: %d %s", cases[i].event, a.broken, a.message);
        assert_int_equal(a.tokens, 0);
        stream_free(&a);
        free(text);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "\r\n\r\n",
        "HTTP/2 200 OK\r\n",
        "HTTP/1.1 20 OK\r\n",
        "HTTP/1.1 2000 OK\r\n",
        "HTTP/1.1  200 OK\r\n",
        "SSH-2.0-OpenSSH\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1 1\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxy",
        HEAD "x\r\n",
        HEAD "\r\n",
        HEAD "1 \r\n",
        HEAD "1\r\nxy\r\n",
        HEAD "fffffffffffffffff\r\n",
        HEAD "0\r\n\r\nHTTP/1.1",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct stream a;
        struct error err = {0};
        stream_init(&a);
        int r = stream_feed(&a, texts[i], strlen(texts[i]), 1, &err);
        if (r != -EINVAL || err.text[0] == '\0')
            fail_msg("%s: %d %s", texts[i], r, err.text);
        stream_free(&a);
    }
}

/* Whatever a server sends without end, memory has one. */
static void test_endless(void **state)
{
    (void)state;
    static const char *const begins[] = {
        "",
        "HTTP/1.1 200 OK\r\nx: ",
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: ",
        "HTTP/1.1 500 no\r\n\r\n{\"error\":",
    };
    char *block = malloc(65536);
    assert_non_null(block);
    memset(block, 'x', 65536);
    for (size_t i = 0; i < sizeof begins / sizeof begins[0]; i++) {
        struct stream a;
        struct error err = {0};
        stream_init(&a);
        int r = stream_feed(&a, begins[i], strlen(begins[i]), 1, &err);
        for (int n = 0; r == 0 && n < 64; n++)
            r = stream_feed(&a, block, 65536, 1, &err);
        assert_int_equal(r, i < 3 ? -E2BIG : 0);
        assert_true(a.line.cap + a.event.cap < 4u << 20);
        stream_free(&a);
    }
    struct stream a;
    stream_init(&a);
    int r = stream_feed(&a, "HTTP/1.1 200 OK\n", 16, 1, NULL);
    for (int n = 0; r == 0 && n < 10000; n++)
        r = stream_feed(&a, "a: b\n", 5, 1, NULL);
    assert_int_equal(r, -E2BIG);
    stream_free(&a);
    free(block);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stream),      cmocka_unit_test(test_chat),
        cmocka_unit_test(test_no_text),     cmocka_unit_test(test_framing),
        cmocka_unit_test(test_until_close), cmocka_unit_test(test_errors_in_streams),
        cmocka_unit_test(test_refusals),    cmocka_unit_test(test_endless),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
