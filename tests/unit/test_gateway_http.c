/* HTTP/1.1 framing: what is accepted, what is refused with which status, and that the pieces in
 * which bytes arrive never matter. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gateway/http.h"

#define HEAD_MAX 512
#define BODY_MAX 64

struct framing {
    const char *name;
    const char *bytes;
    int status; /* 0: accepted */
    const char *body;
    size_t rest; /* bytes that belong to the next request */
};

#define POST "POST /x HTTP/1.1\r\nHost: a\r\n"

static const struct framing table[] = {
    /* Accepted. */
    {"get", "GET /x HTTP/1.1\r\nHost: a\r\n\r\n", 0, "", 0},
    {"blank line before", "\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n", 0, "", 0},
    {"length", POST "Content-Length: 5\r\n\r\nhello", 0, "hello", 0},
    {"length zero", POST "Content-Length: 0\r\n\r\n", 0, "", 0},
    {"no length", POST "\r\n", 0, "", 0},
    {"next follows", POST "Content-Length: 2\r\n\r\nhiGET / HTTP/1.1\r\n", 0, "hi", 16},
    {"next after no body", "GET /x HTTP/1.1\r\nHost: a\r\n\r\nGET", 0, "", 3},
    {"chunked", POST "Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", 0,
     "hello", 0},
    {"chunked, next follows",
     POST "Transfer-Encoding: Chunked\r\n\r\n1\r\nx\r\n0\r\n\r\nGET / HTTP/1.1\r\n", 0, "x", 16},
    {"chunk extension", POST "Transfer-Encoding: chunked\r\n\r\n1;a=b\r\nx\r\n0\r\n\r\n", 0, "x",
     0},
    {"trailer", POST "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nT: v\r\n\r\n", 0, "x", 0},
    {"1.0 without host", "GET /x HTTP/1.0\r\n\r\n", 0, "", 0},
    {"empty field value", "GET /x HTTP/1.1\r\nX:\r\nHost: a\r\n\r\n", 0, "", 0},
    {"empty value last", "GET /x HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n", 0, "", 0},
    {"query", "GET /x?a=b HTTP/1.1\r\nHost: a:80\r\n\r\n", 0, "", 0},
    {"absolute form", "GET http://a/x HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 0, "", 0},
    {"upgrade is ignored", POST "Connection: upgrade\r\nUpgrade: h2c\r\n\r\nGE", 0, "", 2},
    {"body at the limit",
     POST "Content-Length: 64\r\n\r\n"
          "0123456789012345678901234567890123456789012345678901234567890123",
     0, "0123456789012345678901234567890123456789012345678901234567890123", 0},
    /* Refused: where a message ends must never be open to doubt. */
    {"two lengths", POST "Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi", 400, NULL, 0},
    {"two equal lengths", POST "Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi", 400, NULL, 0},
    {"length list", POST "Content-Length: 2, 2\r\n\r\nhi", 400, NULL, 0},
    {"length with sign", POST "Content-Length: +2\r\n\r\nhi", 400, NULL, 0},
    {"negative length", POST "Content-Length: -2\r\n\r\nhi", 400, NULL, 0},
    {"length in hex", POST "Content-Length: 0x2\r\n\r\nhi", 400, NULL, 0},
    {"length overflow", POST "Content-Length: 99999999999999999999\r\n\r\nhi", 400, NULL, 0},
    {"empty length", POST "Content-Length:\r\n\r\nhi", 400, NULL, 0},
    {"space before colon", POST "Content-Length : 2\r\n\r\nhi", 400, NULL, 0},
    {"length and coding", POST "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
     400, NULL, 0},
    {"coding and length", POST "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
     400, NULL, 0},
    {"unknown coding", POST "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501, NULL, 0},
    {"coding list", POST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, NULL, 0},
    {"chunked twice", POST "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400, NULL, 0},
    {"two codings", POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400,
     NULL, 0},
    {"identity", POST "Transfer-Encoding: identity\r\n\r\n", 501, NULL, 0},
    {"coding in 1.0", "POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, NULL,
     0},
    {"chunk size not hex", POST "Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400, NULL, 0},
    {"chunk size overflow",
     POST "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nx\r\n0\r\n\r\n", 400, NULL, 0},
    {"chunk size negative", POST "Transfer-Encoding: chunked\r\n\r\n-1\r\nx", 400, NULL, 0},
    {"chunk longer than said", POST "Transfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n", 400,
     NULL, 0},
    {"chunk ended by LF", POST "Transfer-Encoding: chunked\r\n\r\n1\nx\n0\n\n", 400, NULL, 0},
    {"folded field", "GET /x HTTP/1.1\r\nHost: a\r\n b: c\r\n\r\n", 400, NULL, 0},
    {"folded length", "POST /x HTTP/1.1\r\nHost: a\r\n Content-Length: 5\r\n\r\nhello", 400, NULL,
     0},
    {"folded by tab", "GET /x HTTP/1.1\r\nHost: a\r\n\tb\r\n\r\n", 400, NULL, 0},
    {"bare LF", "GET /x HTTP/1.1\nHost: a\n\n", 400, NULL, 0},
    {"bare CR", "GET /x HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400, NULL, 0},
    {"NUL", "GET /x HTTP/1.1\r\nHost: a\x01\r\n\r\n", 400, NULL, 0},
    {"no host", "GET /x HTTP/1.1\r\n\r\n", 400, NULL, 0},
    {"two hosts", "GET /x HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, NULL, 0},
    {"host list", "GET /x HTTP/1.1\r\nHost: a, b\r\n\r\n", 400, NULL, 0},
    {"host with path", "GET /x HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, NULL, 0},
    {"two blank lines", "\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n", 400, NULL, 0},
    {"field without colon", "GET /x HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n", 400, NULL, 0},
    {"field without name", "GET /x HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", 400, NULL, 0},
    {"space in name", "GET /x HTTP/1.1\r\nHost: a\r\nA B: x\r\n\r\n", 400, NULL, 0},
    {"unknown method", "BREW /x HTTP/1.1\r\nHost: a\r\n\r\n", 501, NULL, 0},
    {"lower case method", "get /x HTTP/1.1\r\nHost: a\r\n\r\n", 501, NULL, 0},
    {"connect", "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 501, NULL, 0},
    {"other scheme", "GET ftp://a/x HTTP/1.1\r\nHost: a\r\n\r\n", 400, NULL, 0},
    {"version 2", "GET /x HTTP/2.0\r\nHost: a\r\n\r\n", 505, NULL, 0},
    {"version 1.2", "GET /x HTTP/1.2\r\nHost: a\r\n\r\n", 505, NULL, 0},
    {"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, NULL, 0},
    {"no version (0.9)", "GET /x\r\n\r\n", 505, NULL, 0},
    {"TLS", "\x16\x03\x01\x02", 400, NULL, 0},
    {"expectation", POST "Expect: a miracle\r\n\r\n", 417, NULL, 0},
    {"body over the limit", POST "Content-Length: 65\r\n\r\n", 413, NULL, 0},
    {"chunks over the limit",
     POST "Transfer-Encoding: chunked\r\n\r\n3f\r\n"
          "012345678901234567890123456789012345678901234567890123456789012\r\n"
          "2\r\nxx\r\n0\r\n\r\n",
     413, NULL, 0},
};

static enum http_result feed_pieces(struct http *h, const char *bytes, size_t len, size_t piece,
                                    size_t *ret_used)
{
    enum http_result result = HTTP_RESULT_MORE;
    size_t at = 0;
    while (at < len && result == HTTP_RESULT_MORE) {
        size_t n = len - at < piece ? len - at : piece;
        size_t used = 0;
        /* An exact copy lets ASan see a byte too far. */
        char *copy = malloc(n);
        assert_non_null(copy);
        memcpy(copy, bytes + at, n);
        result = http_feed(h, copy, n, &used);
        free(copy);
        assert_true(used <= n);
        assert_true(used == n || result != HTTP_RESULT_MORE);
        at += used;
    }
    *ret_used = at;
    return result;
}

static void check_framing(const struct framing *f, struct http *h, size_t piece)
{
    size_t len = strlen(f->bytes);
    size_t used;
    http_next(h);
    enum http_result result = feed_pieces(h, f->bytes, len, piece, &used);
    if (f->status != 0) {
        if (result != HTTP_RESULT_BAD || h->status != f->status)
            fail_msg("%s in pieces of %zu: result %d status %d (%s), expected %d", f->name, piece,
                     (int)result, h->status, h->why.text, f->status);
        assert_true(h->why.text[0] != '\0');
        return;
    }
    if (result != HTTP_RESULT_DONE)
        fail_msg("%s in pieces of %zu: result %d status %d (%s)", f->name, piece, (int)result,
                 h->status, h->why.text);
    assert_int_equal(used, len - f->rest);
    assert_string_equal(h->path, "/x");
    assert_int_equal(h->body.len, strlen(f->body));
    if (h->body.len > 0)
        assert_memory_equal(h->body.data, f->body, h->body.len);
}

static void test_framing(void **state)
{
    (void)state;
    struct http h;
    assert_int_equal(http_init(&h, HEAD_MAX, BODY_MAX), 0);
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        for (size_t piece = 1; piece <= 400; piece = piece < 8 ? piece + 1 : piece * 3)
            check_framing(&table[i], &h, piece);
    http_free(&h);
}

static int status_of(struct http *h, const char *bytes, size_t len)
{
    size_t used;
    http_next(h);
    if (http_feed(h, bytes, len, &used) != HTTP_RESULT_BAD)
        return 0;
    return h->status;
}

static void test_head_limits(void **state)
{
    (void)state;
    struct http h;
    char bytes[4 * HEAD_MAX];
    assert_int_equal(http_init(&h, HEAD_MAX, BODY_MAX), 0);
    int n = snprintf(bytes, sizeof bytes, "GET /%0*d HTTP/1.1\r\nHost: a\r\n\r\n", HEAD_MAX, 0);
    assert_int_equal(status_of(&h, bytes, 16 + HEAD_MAX), 431);
    (void)n;
    memset(bytes, 'a', sizeof bytes);
    assert_int_equal(status_of(&h, bytes, sizeof bytes), 414);
    n = snprintf(bytes, sizeof bytes, "GET /x HTTP/1.1\r\nHost: a\r\nX: %0*d\r\n\r\n", HEAD_MAX, 0);
    assert_int_equal(status_of(&h, bytes, (size_t)n), 431);
    n = snprintf(bytes, sizeof bytes, POST "Transfer-Encoding: chunked\r\n\r\n0\r\nX: %0*d\r\n\r\n",
                 HEAD_MAX, 0);
    assert_int_equal(status_of(&h, bytes, (size_t)n), 431);
    /* A NUL cannot be written in the table. */
    assert_int_equal(status_of(&h, "GET /x HTTP/1.1\r\nHost: a\0\r\n\r\n", 29), 400);
    http_free(&h);
}

static void test_facts(void **state)
{
    (void)state;
    struct http h;
    size_t used;
    assert_int_equal(http_init(&h, HEAD_MAX, BODY_MAX), 0);
    static const struct {
        const char *bytes;
        bool keep_alive;
        bool http10;
        bool wants_continue;
    } facts[] = {
        {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", true, false, false},
        {"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", false, false, false},
        {"GET / HTTP/1.0\r\nHost: a\r\n\r\n", false, true, false},
        {"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true, true, false},
        {POST "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n", true, false, true},
        {POST "Expect: 100-continue\r\nContent-Length: 2\r\n\r\nh", true, false, false},
        {"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n", false, true,
         false},
    };
    for (size_t i = 0; i < sizeof facts / sizeof facts[0]; i++) {
        http_next(&h);
        http_feed(&h, facts[i].bytes, strlen(facts[i].bytes), &used);
        if (h.keep_alive != facts[i].keep_alive || h.http10 != facts[i].http10 ||
            h.wants_continue != facts[i].wants_continue)
            fail_msg("%s: keep_alive %d http10 %d wants_continue %d", facts[i].bytes, h.keep_alive,
                     h.http10, h.wants_continue);
    }
    http_free(&h);
}

static void test_paths(void **state)
{
    (void)state;
    struct http h;
    static const char *const paths[][2] = {
        {"/", "/"},        {"/a/b?c=/d", "/a/b"},     {"/a#b", "/a"},
        {"http://h", "/"}, {"http://h:80/a?b", "/a"}, {"HTTP://h/a/b", "/a/b"},
        {"/%41", "/%41"},  {"/a/../b", "/a/../b"},
    };
    assert_int_equal(http_init(&h, HEAD_MAX, BODY_MAX), 0);
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        char bytes[128];
        size_t used;
        int n = snprintf(bytes, sizeof bytes, "GET %s HTTP/1.1\r\nHost: h\r\n\r\n", paths[i][0]);
        http_next(&h);
        assert_int_equal(http_feed(&h, bytes, (size_t)n, &used), HTTP_RESULT_DONE);
        assert_string_equal(h.path, paths[i][1]);
    }
    http_free(&h);
}

static void test_answer_head(void **state)
{
    (void)state;
    struct buf out;
    size_t at;
    buf_init(&out, 4096);
    struct http_head head = {.status = 200,
                             .content_type = "text/event-stream",
                             .extra = "Cache-Control: no-cache\r\n",
                             .stream = true,
                             .keep_alive = true,
                             .now_s = 784111777};
    assert_int_equal(http_write_head(&out, &head), 0);
    assert_int_equal(http_chunk_begin(&out, &at), 0);
    assert_int_equal(http_chunk_end(&out, at), 0); /* empty: leaves nothing */
    assert_int_equal(http_chunk_begin(&out, &at), 0);
    assert_int_equal(buf_append_str(&out, "hello, hello, hello"), 0);
    assert_int_equal(http_chunk_end(&out, at), 0);
    assert_string_equal(out.data, "HTTP/1.1 200 OK\r\n"
                                  "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
                                  "Content-Type: text/event-stream\r\n"
                                  "Transfer-Encoding: chunked\r\n"
                                  "Cache-Control: no-cache\r\n\r\n"
                                  "00000013\r\nhello, hello, hello\r\n");
    buf_clear(&out);
    head = (struct http_head){
        .status = 429, .content_type = "application/json", .length = 7, .now_s = 784111777};
    assert_int_equal(http_write_head(&out, &head), 0);
    assert_string_equal(out.data, "HTTP/1.1 429 Too Many Requests\r\n"
                                  "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
                                  "Content-Type: application/json\r\n"
                                  "Content-Length: 7\r\n"
                                  "Connection: close\r\n\r\n");
    buf_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_framing),     cmocka_unit_test(test_head_limits),
        cmocka_unit_test(test_facts),       cmocka_unit_test(test_paths),
        cmocka_unit_test(test_answer_head),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
