/* What the gateway answers: routes, refusals, streams byte for byte, the admin routes. */
#include "gateway_world.h"

static void test_routes(void **state)
{
    struct world *w = *state;
    static const struct {
        const char *request;
        const char *status;
        const char *part;
    } table[] = {
        {GET("/healthz"), "200", "\r\n\r\nok\n"},
        {GET("/readyz"), "200", "\r\n\r\nready\n"},
        {GET("/metrics"), "200", "text/plain; version=0.0.4"},
        {"HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n", "200", "Content-Length: 5\r\n"},
        {GET("/v1/models"), "200",
         "{\"object\":\"list\",\"data\":[{\"id\":\"a/b\",\"created\":7,\"owned_by\":\"acme\","
         "\"parent\":\"base\",\"object\":\"model\"}]}"},
        {GET("/v1/models/a/b"), "200", "\r\n\r\n{\"id\":\"a/b\""},
        {GET("/v1/models/a%2Fb"), "200", "\r\n\r\n{\"id\":\"a/b\""},
        {GET("/v1/models/%ff%00"), "404", "\"code\":\"model_not_found\""},
        {GET("/v1/lora_adapters"), "200", "\r\n\r\n{\"data\":[]}"},
        {POST("/v1/load_lora_adapter", "2\r\n{}\r\n0\r\n\r\n"), "200", "\r\n\r\nloaded"},
        {POST("/v1/unload_lora_adapter", "2\r\n{}\r\n0\r\n\r\n"), "200", "\r\n\r\nunloaded"},
        {POST("/v1/load_lora_adapter", "0\r\n\r\n"), "400", "\"param\":\"lora_name\""},
        {POST("/v1/load_lora_adapter", "2\r\n{]\r\n0\r\n\r\n"), "400",
         "\"type\":\"invalid_request_error\""},
        {GET("/v1/load_lora_adapter"), "405", "Allow: POST\r\n"},
        {POST("/v1/lora_adapters", "0\r\n\r\n"), "405", "Allow: GET, HEAD\r\n"},
        {GET("/nope"), "404", "\"code\":\"unknown_url\""},
        {GET("/admin/functions"), "404", "\"code\":\"unknown_url\""},
        {GET("/v1/completions"), "405", "Allow: POST\r\n"},
        {"POST /healthz HTTP/1.1\r\nHost: a\r\n\r\n", "405", "Allow: GET, HEAD\r\n"},
        {POST("/v1/completions", "0\r\n\r\n"), "400", "the request has no body"},
        {POST("/v1/completions", "2\r\n{]\r\n0\r\n\r\n"), "400", "not valid JSON"},
        {POST("/v1/completions", "f\r\n{\"prompt\":\"hi\"}\r\n0\r\n\r\n"), "400",
         "\"param\":\"model\""},
        {"GET / HTTP/1.1\r\n\r\n", "400", "Connection: close\r\n"},
        {"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n", "413",
         "\"type\":\"invalid_request_error\""},
    };
    struct buf got;
    buf_init(&got, 1u << 20);
    for (size_t i = 0; i < COUNT(table); i++) {
        ask(w, table[i].request, &got);
        if (got.len < 12 || strncmp(got.data + 9, table[i].status, 3) != 0 ||
            strstr(got.data, table[i].part) == NULL)
            fail_msg("%s answered with %s", table[i].request, got.len > 0 ? got.data : "nothing");
    }
    /* A request for an adapter is short: a long one is refused before it becomes a tree. */
    for (size_t len = 16 << 10; len <= (16 << 10) + 1; len++) {
        char *long_one = malloc(len + 128);
        int n = snprintf(long_one, 128,
                         "POST /v1/load_lora_adapter HTTP/1.1\r\nHost: a\r\nContent-Length: %zu"
                         "\r\n\r\n{}",
                         len);
        memset(long_one + n, ' ', len - 2);
        long_one[(size_t)n + len - 2] = '\0';
        ask(w, long_one, &got);
        assert_memory_equal(got.data + 9, len == 16 << 10 ? "200" : "413", 3);
        free(long_one);
    }
    ask(w, "HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n", &got);
    assert_string_equal(got.data + got.len - 4, "\r\n\r\n"); /* no body */
    w->text[0] = '\0';
    ask(w, GET("/readyz"), &got);
    assert_non_null(strstr(got.data, "503"));
    assert_non_null(strstr(got.data, "no backbone is loaded"));
    assert_non_null(strstr(got.data, "Retry-After: 1\r\n"));
    buf_free(&got);
}

static void test_refusals(void **state)
{
    struct world *w = *state;
    struct buf got;
    buf_init(&got, 1u << 20);
    int fd = dial(w);
    say_post(w, fd, "/v1/completions", "{\"model\":\"none\",\"prompt\":\"x\"}");
    hear(w, fd, &got, "}}");
    assert_non_null(strstr(got.data, "HTTP/1.1 404 Not Found\r\n"));
    assert_non_null(strstr(got.data, "{\"error\":{\"message\":\"the model 'none' does not exist\","
                                     "\"type\":\"not_found_error\",\"param\":\"model\","
                                     "\"code\":\"model_not_found\"}}"));
    buf_clear(&got);
    say_post(w, fd, "/v1/completions", "{\"model\":\"full\",\"prompt\":\"x\"}");
    hear(w, fd, &got, "}}");
    assert_non_null(strstr(got.data, "HTTP/1.1 429 Too Many Requests\r\n"));
    assert_non_null(strstr(got.data, "Retry-After: 1\r\n"));
    assert_non_null(strstr(got.data, "\"type\":\"rate_limit_error\""));
    buf_free(&got);
    close(fd);
}

/* curl -d says its JSON is a form: the body counts. */
static void test_form_content_type(void **state)
{
    struct world *w = *state;
    struct buf got;
    buf_init(&got, 1u << 20);
    ask(w,
        "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: "
        "application/x-www-form-urlencoded\r\nContent-Length: 30\r\n\r\n"
        "{\"model\":\"say\",\"prompt\":\"hi\"}  ",
        &got);
    assert_non_null(strstr(got.data, "\"text\":\"hello\""));
    buf_free(&got);
}

static void test_thousand_on_one_connection(void **state)
{
    struct world *w = *state;
    struct buf got;
    buf_init(&got, 1u << 20);
    int fd = dial(w);
    for (int i = 0; i < 1000; i++) {
        buf_clear(&got);
        say_post(w, fd, "/v1/chat/completions",
                 "{\"model\":\"say\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}");
        assert_true(hear(w, fd, &got, "\"cached_tokens\":0}}}"));
        assert_non_null(strstr(got.data, "\"content\":\"hello\""));
    }
    buf_free(&got);
    close(fd);
}

/* Takes the frames of a chunked body away. */
static void unchunk(struct buf *got)
{
    char *from = strstr(got->data, "\r\n\r\n");
    assert_non_null(from);
    char *to = got->data;
    from += 4;
    for (;;) {
        char *end;
        size_t len = strtoul(from, &end, 16);
        assert_true(end > from && end[0] == '\r' && end[1] == '\n');
        if (len == 0) {
            assert_string_equal(end, "\r\n\r\n");
            break;
        }
        memmove(to, end + 2, len);
        to += len;
        from = end + 2 + len;
        assert_true(from[0] == '\r' && from[1] == '\n');
        from += 2;
    }
    *to = '\0';
    got->len = (size_t)(to - got->data);
}

/* What is the same in every run. */
static void mask_after(char *text, const char *key, char stop)
{
    for (char *at = text; (at = strstr(at, key)) != NULL;)
        for (at += strlen(key); *at != stop && *at != '\0'; at++)
            *at = '_';
}

static void test_stream(void **state)
{
    struct world *w = *state;
    struct buf got;
    const struct infer_usage usage = {3, 2, 1};
    buf_init(&got, 1u << 20);
    int fd = dial(w);
    hold(w, fd, "/v1/chat/completions",
         ",\"stream\":true,\"stream_options\":{\"include_usage\":true}");
    exchange_timing(w->held, &(struct infer_timing){1500, 20250});
    answer_text(w->held, "Hel", 3);
    assert_true(hear(w, fd, &got, "Hel"));
    answer_text(w->held, "", 0);
    answer_text(w->held, "lo", 2);
    answer_end(w->held, &usage);
    assert_true(hear(w, fd, &got, "\r\n0\r\n\r\n"));
    mask_after(got.data, "Date: ", '\r');
    static const char head[] = "HTTP/1.1 200 OK\r\nDate: _____________________________\r\n"
                               "Content-Type: text/event-stream\r\n"
                               "Transfer-Encoding: chunked\r\nCache-Control: no-cache\r\n"
                               "Server-Timing: queue;dur=1.500, cold;dur=20.250\r\n\r\n";
    assert_memory_equal(got.data, head, sizeof head - 1);
    unchunk(&got);
    mask_after(got.data, "chatcmpl-", '"');
    mask_after(got.data, "\"created\":", ',');
#define CHUNK                                                                                      \
    "data: {\"id\":\"chatcmpl-________________________\",\"object\":\"chat.completion.chunk\","    \
    "\"created\":__________,\"model\":\"hold\",\"choices\":["
    assert_string_equal(
        got.data,
        CHUNK "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
              "\"finish_reason\":null}],\"usage\":null}\n\n" CHUNK
              "{\"index\":0,\"delta\":{\"content\":\"Hel\"},\"logprobs\":null,"
              "\"finish_reason\":null}],\"usage\":null}\n\n" CHUNK
              "{\"index\":0,\"delta\":{\"content\":\"lo\"},\"logprobs\":null,"
              "\"finish_reason\":null}],\"usage\":null}\n\n" CHUNK
              "{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}],"
              "\"usage\":null}\n\n" CHUNK "],\"usage\":{\"prompt_tokens\":3,"
              "\"completion_tokens\":2,\"total_tokens\":5,\"prompt_tokens_details\":{\"cached_"
              "tokens\":1}}}\n\ndata: [DONE]\n\n");
    /* The connection goes on. */
    buf_clear(&got);
    say(w, fd, GET("/healthz"), strlen(GET("/healthz")));
    assert_true(hear(w, fd, &got, "ok\n"));
    assert_int_equal(w->gone_count, 0);
    buf_free(&got);
    close(fd);
}

static void test_errors_in_answers(void **state)
{
    struct world *w = *state;
    struct buf got;
    buf_init(&got, 1u << 20);
    int fd = dial(w);
    /* Before the first token an error is an HTTP status, streamed or not. */
    hold(w, fd, "/v1/completions", ",\"stream\":true");
    exchange_error(w->held, 503, "worker_lost", NULL, 2, "the worker died");
    assert_true(hear(w, fd, &got, "}}"));
    assert_non_null(strstr(got.data, "HTTP/1.1 503 "));
    assert_non_null(strstr(got.data, "Retry-After: 2\r\n"));
    /* Afterwards it is an event, and the answer ends as it should. */
    buf_clear(&got);
    hold(w, fd, "/v1/completions", ",\"stream\":true");
    answer_text(w->held, "Hi", 2);
    exchange_error(w->held, 500, "worker_lost", NULL, 2, "the worker died");
    assert_true(hear(w, fd, &got, "\r\n0\r\n\r\n"));
    unchunk(&got);
    assert_non_null(strstr(got.data, "\n\ndata: {\"error\":{\"message\":\"the worker died\","
                                     "\"type\":\"server_error\",\"param\":null,"
                                     "\"code\":\"worker_lost\"}}\n\n"));
    buf_clear(&got);
    hold(w, fd, "/v1/completions", "");
    answer_text(w->held, "Hi", 2);
    exchange_error(w->held, 500, NULL, NULL, 0, "the worker died");
    assert_true(hear(w, fd, &got, "}}"));
    assert_non_null(strstr(got.data, "HTTP/1.1 500 "));
    assert_int_equal(w->gone_count, 0);
    buf_free(&got);
    close(fd);
}

static void test_http10_stream(void **state)
{
    struct world *w = *state;
    struct buf got;
    const struct infer_usage usage = {3, 2, 1};
    buf_init(&got, 1u << 20);
    int fd = dial(w);
    static const char request[] = "POST /v1/completions HTTP/1.0\r\nConnection: keep-alive\r\n"
                                  "Content-Length: 44\r\n\r\n"
                                  "{\"model\":\"hold\",\"prompt\":\"x\",\"stream\":true} ";
    say(w, fd, request, sizeof request - 1);
    wait_for(w, &w->held_count, 1);
    answer_text(w->held, "Hi", 2);
    answer_end(w->held, &usage);
    assert_true(hear(w, fd, &got, NULL));
    assert_null(strstr(got.data, "chunked"));
    assert_non_null(strstr(got.data, "Connection: close\r\n"));
    assert_string_equal(got.data + got.len - 14, "data: [DONE]\n\n");
    buf_free(&got);
    close(fd);
}

/* A stream that waits for its first token says so; an error is then an event. */
static void test_comments(void **state)
{
    struct world *w = *state;
    struct buf got;
    buf_init(&got, 1u << 20);
    w->limits.stream_comment_ms = 1;
    reopen(w);
    int fd = dial(w);
    hold(w, fd, "/v1/chat/completions", ",\"stream\":true");
    assert_true(hear(w, fd, &got, ": waiting\n\n\r\n0000000b\r\n: waiting\n\n"));
    exchange_error(w->held, 503, NULL, NULL, 1, "no memory");
    assert_true(hear(w, fd, &got, "\r\n0\r\n\r\n"));
    assert_non_null(strstr(got.data, "data: {\"error\""));
    /* An answer that is not streamed cannot say anything. */
    buf_clear(&got);
    hold(w, fd, "/v1/chat/completions", "");
    for (uint64_t end_us = clock_now_us() + 250000; clock_now_us() < end_us;)
        turn(w);
    exchange_error(w->held, 503, NULL, NULL, 1, "no memory");
    assert_true(hear(w, fd, &got, "}}"));
    assert_memory_equal(got.data, "HTTP/1.1 503 ", 13);
    buf_free(&got);
    close(fd);
}

static void test_expect_continue(void **state)
{
    struct world *w = *state;
    struct buf got;
    buf_init(&got, 1u << 20);
    int fd = dial(w);
    static const char head[] = "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n"
                               "Expect: 100-continue\r\n\r\n";
    say(w, fd, head, sizeof head - 1);
    assert_true(hear(w, fd, &got, "HTTP/1.1 100 Continue\r\n\r\n"));
    say(w, fd, "{\"model\":\"say\",\"prompt\":\"hi\"}  ", 30);
    assert_true(hear(w, fd, &got, "HTTP/1.1 200 OK\r\n"));
    /* What is too large is refused without asking for it. */
    buf_clear(&got);
    static const char large[] = "POST /v1/completions HTTP/1.1\r\nHost: a\r\n"
                                "Content-Length: 99999999\r\nExpect: 100-continue\r\n\r\n";
    say(w, fd, large, sizeof large - 1);
    assert_true(hear(w, fd, &got, NULL));
    assert_memory_equal(got.data, "HTTP/1.1 413 ", 13);
    buf_free(&got);
    close(fd);
}

static void test_admin(void **state)
{
    struct world *w = *state;
    struct buf got;
    struct stat st;
    buf_init(&got, 1u << 20);
    assert_int_equal(stat(w->socket_path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    int fd = dial_admin(w);
    say_post(w, fd, "/admin/functions", "{\"name\":\"x\"}");
    assert_true(hear(w, fd, &got, "}}\n"));
    assert_non_null(strstr(got.data, "HTTP/1.1 201 Created\r\n"));
    assert_non_null(strstr(got.data, "{\"method\":\"POST\",\"path\":\"/admin/functions\","
                                     "\"body\":{\"name\":\"x\"}}\n"));
    buf_clear(&got);
    static const char request[] = "DELETE /admin/functions/x?force HTTP/1.1\r\nHost: a\r\n\r\n";
    say(w, fd, request, sizeof request - 1);
    assert_true(hear(w, fd, &got, "null}\n"));
    assert_non_null(strstr(got.data, "{\"method\":\"DELETE\",\"path\":\"/admin/functions/x\""));
    buf_clear(&got);
    say_post(w, fd, "/admin/lines", "");
    assert_true(hear(w, fd, &got, "\r\n0\r\n\r\n"));
    unchunk(&got);
    assert_string_equal(got.data, "{\"n\":1}\n{\"n\":2}\n");
    buf_clear(&got);
    say_post(w, fd, "/admin/error", "{}");
    assert_true(hear(w, fd, &got, "}}"));
    assert_non_null(strstr(got.data, "HTTP/1.1 409 Conflict\r\n"));
    assert_non_null(strstr(got.data, "x-should-retry: false\r\n"));
    assert_non_null(strstr(got.data, "\"param\":\"name\",\"code\":\"exists\""));
    buf_clear(&got);
    say_post(w, fd, "/admin/functions", "{\"a\":1,\"a\":2}");
    assert_true(hear(w, fd, &got, "}}"));
    assert_non_null(strstr(got.data, "HTTP/1.1 400 "));
    buf_clear(&got);
    say_post(w, fd, "/v1/completions", "{\"model\":\"say\",\"prompt\":\"x\"}");
    assert_true(hear(w, fd, &got, "hello"));
    buf_free(&got);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_routes),
        TEST(test_refusals),
        TEST(test_form_content_type),
        TEST(test_thousand_on_one_connection),
        TEST(test_stream),
        TEST(test_errors_in_answers),
        TEST(test_http10_stream),
        TEST(test_comments),
        TEST(test_expect_continue),
        TEST(test_admin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
