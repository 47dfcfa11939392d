/* The gateway over real sockets, with handlers that are told what to do by the model's name. Client
 * and server share one thread: the loop turns until the client has what it waits for. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <grp.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "gateway/gateway.h"

#define PATIENCE_US 10000000u
#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

struct world {
    struct event_base *base;
    struct gateway *gateway;
    struct gateway_limits limits;
    char directory[64];
    char socket_path[96];
    struct exchange *held; /* of the last request to the model "hold" */
    int held_count;
    int gone_count;
    char text[64]; /* what the model "say" answers */
};

/* --- handlers --- */

static int on_infer(void *context, struct exchange *x, const struct infer_request *r,
                    int *ret_status, const char **ret_code, struct error *err)
{
    struct world *w = context;
    const struct infer_usage usage = {2, 1};
    assert_true(r->body_bytes == strlen(r->body));
    if (strcmp(r->model, "hold") == 0) {
        w->held = x;
        w->held_count++;
        exchange_set_context(x, &w->held_count);
        return 0;
    }
    if (strcmp(r->model, "say") == 0) {
        exchange_tokens(x, w->text, strlen(w->text), NULL, 0);
        exchange_finish(x, "stop", &usage);
        return 0;
    }
    if (strcmp(r->model, "full") == 0) {
        *ret_status = 429;
        *ret_code = "queue_full";
        return error_set(err, -EAGAIN, "the queue of 'full' is full");
    }
    *ret_status = 404;
    *ret_code = "model_not_found";
    return error_set(err, -ENOENT, "the model '%s' does not exist", r->model);
}

static void on_gone(void *context, struct exchange *x)
{
    struct world *w = context;
    assert_ptr_equal(x, w->held);
    assert_ptr_equal(exchange_context(x), &w->held_count);
    w->held = NULL;
    w->gone_count++;
}

static void on_models(void *context, json_t *list)
{
    (void)context;
    json_array_append_new(list, json_pack("{s:s, s:i, s:s, s:s}", "id", "a/b", "created", 7,
                                          "owned_by", "acme", "parent", "base"));
}

static char *on_metrics(void *context)
{
    (void)context;
    return strdup("up 1\n");
}

static int on_ready(void *context, struct error *err)
{
    struct world *w = context;
    return w->text[0] != '\0' ? 0 : error_set(err, -EAGAIN, "no backbone is loaded");
}

static void on_admin(void *context, struct exchange *x, const char *method, const char *path,
                     const json_t *body)
{
    (void)context;
    if (strcmp(path, "/admin/lines") == 0) {
        exchange_line(x, json_pack("{s:i}", "n", 1));
        exchange_line(x, json_pack("{s:i}", "n", 2));
        exchange_lines_end(x);
        return;
    }
    if (strcmp(path, "/admin/error") == 0) {
        exchange_error(x, 409, "exists", "name", 0, "it exists");
        return;
    }
    exchange_json(x, 201,
                  json_pack("{s:s, s:s, s:O?}", "method", method, "path", path, "body", body));
}

/* --- the world --- */

static void world_open(struct world *w)
{
    struct gateway_options options = {
        .base = w->base,
        .listen = "127.0.0.1:0",
        .admin_socket = w->socket_path,
        .limits = w->limits,
        .handlers = {w, on_infer, on_gone, on_models, on_metrics, on_ready, on_admin},
    };
    struct error err;
    if (gateway_open(&w->gateway, &options, &err) < 0)
        fail_msg("%s", err.text);
}

static int set_up(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    w->base = event_base_new();
    w->limits = gateway_limits_default;
    strcpy(w->text, "hello");
    strcpy(w->directory, "/tmp/gateway-test-XXXXXX");
    if (mkdtemp(w->directory) == NULL)
        return -1;
    snprintf(w->socket_path, sizeof w->socket_path, "%s/admin.sock", w->directory);
    *state = w;
    world_open(w);
    return 0;
}

static int tear_down(void **state)
{
    struct world *w = *state;
    gateway_close(w->gateway);
    event_base_free(w->base);
    rmdir(w->directory);
    free(w);
    return 0;
}

static void reopen(struct world *w)
{
    gateway_close(w->gateway);
    w->gateway = NULL;
    world_open(w);
}

static void turn(struct world *w)
{
    event_base_loop(w->base, EVLOOP_NONBLOCK);
}

static int dial(struct world *w)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons(gateway_port(w->gateway)),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    return fd;
}

static int dial_admin(struct world *w)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    strcpy(a.sun_path, w->socket_path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    return fd;
}

static void say(struct world *w, int fd, const char *bytes, size_t len)
{
    uint64_t end_us = clock_now_us() + PATIENCE_US;
    while (len > 0) {
        ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN)
            return; /* the server hung up: what it said is still to be read */
        if (n > 0) {
            bytes += n;
            len -= (size_t)n;
        }
        turn(w);
        assert_true(clock_now_us() < end_us);
    }
}

/* Reads until `until` is in what came, or to the end of the connection when it is NULL. Returns
 * false when the connection ended first. */
static bool hear(struct world *w, int fd, struct buf *got, const char *until)
{
    uint64_t end_us = clock_now_us() + PATIENCE_US;
    for (;;) {
        char bytes[65536];
        ssize_t n = recv(fd, bytes, sizeof bytes, 0);
        if (n > 0)
            assert_int_equal(buf_append(got, bytes, (size_t)n), 0);
        if (until != NULL && got->len > 0 && strstr(got->data, until) != NULL)
            return true;
        if (n == 0 || (n < 0 && errno != EAGAIN))
            return until == NULL;
        if (clock_now_us() > end_us)
            fail_msg("waited in vain for %s, got: %s", until != NULL ? until : "the end",
                     got->len > 0 ? got->data : "nothing");
        turn(w);
    }
}

static void wait_for(struct world *w, const int *count, int value)
{
    uint64_t end_us = clock_now_us() + PATIENCE_US;
    while (*count < value) {
        assert_true(clock_now_us() < end_us);
        turn(w);
    }
    assert_int_equal(*count, value);
}

/* One request on a connection of its own, closed by the server. */
static void ask(struct world *w, const char *bytes, struct buf *got)
{
    int fd = dial(w);
    buf_free(got);
    say(w, fd, bytes, strlen(bytes));
    shutdown(fd, SHUT_WR);
    hear(w, fd, got, NULL);
    close(fd);
}

#define POST(path, body)                                                                           \
    "POST " path " HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" body
#define GET(path) "GET " path " HTTP/1.1\r\nHost: a\r\n\r\n"

/* A POST with its length. */
static size_t post(char *to, size_t size, const char *path, const char *body)
{
    int n = snprintf(to, size, "POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %zu\r\n\r\n%s", path,
                     strlen(body), body);
    assert_true(n > 0 && (size_t)n < size);
    return (size_t)n;
}

static void say_post(struct world *w, int fd, const char *path, const char *body)
{
    char bytes[2048];
    say(w, fd, bytes, post(bytes, sizeof bytes, path, body));
}

/* --- tests --- */

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
        assert_true(hear(w, fd, &got, "\"total_tokens\":3}}"));
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

static void hold(struct world *w, int fd, const char *path, const char *rest)
{
    char body[512];
    int before = w->held_count;
    snprintf(body, sizeof body,
             "{\"model\":\"hold\",\"prompt\":\"x\",\"messages\":[{\"role\":\"user\"}]%s}", rest);
    say_post(w, fd, path, body);
    wait_for(w, &w->held_count, before + 1);
}

static void test_stream(void **state)
{
    struct world *w = *state;
    struct buf got;
    const struct infer_usage usage = {3, 2};
    buf_init(&got, 1u << 20);
    int fd = dial(w);
    hold(w, fd, "/v1/chat/completions",
         ",\"stream\":true,\"stream_options\":{\"include_usage\":true}");
    exchange_timing(w->held, &(struct infer_timing){1500, 20250});
    exchange_tokens(w->held, "Hel", 3, NULL, 0);
    assert_true(hear(w, fd, &got, "Hel"));
    exchange_tokens(w->held, "", 0, NULL, 0);
    exchange_tokens(w->held, "lo", 2, NULL, 0);
    exchange_finish(w->held, "stop", &usage);
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
              "\"completion_tokens\":2,\"total_tokens\":5}}\n\ndata: [DONE]\n\n");
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
    exchange_tokens(w->held, "Hi", 2, NULL, 0);
    exchange_error(w->held, 500, "worker_lost", NULL, 2, "the worker died");
    assert_true(hear(w, fd, &got, "\r\n0\r\n\r\n"));
    unchunk(&got);
    assert_non_null(strstr(got.data, "\n\ndata: {\"error\":{\"message\":\"the worker died\","
                                     "\"type\":\"server_error\",\"param\":null,"
                                     "\"code\":\"worker_lost\"}}\n\n"));
    buf_clear(&got);
    hold(w, fd, "/v1/completions", "");
    exchange_tokens(w->held, "Hi", 2, NULL, 0);
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
    const struct infer_usage usage = {3, 2};
    buf_init(&got, 1u << 20);
    int fd = dial(w);
    static const char request[] = "POST /v1/completions HTTP/1.0\r\nConnection: keep-alive\r\n"
                                  "Content-Length: 44\r\n\r\n"
                                  "{\"model\":\"hold\",\"prompt\":\"x\",\"stream\":true} ";
    say(w, fd, request, sizeof request - 1);
    wait_for(w, &w->held_count, 1);
    exchange_tokens(w->held, "Hi", 2, NULL, 0);
    exchange_finish(w->held, "stop", &usage);
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

static void test_pipelining(void **state)
{
    struct world *w = *state;
    struct buf got;
    const struct infer_usage usage = {1, 1};
    char bytes[4096];
    size_t len = 0;
    buf_init(&got, 1u << 20);
    int fd = dial(w);
    /* Answered in order, one at a time, also when the first ones take their time. */
    for (int i = 0; i < 3; i++)
        len += post(bytes + len, sizeof bytes - len, "/v1/completions",
                    "{\"model\":\"hold\",\"prompt\":\"x\"}");
    len += post(bytes + len, sizeof bytes - len, "/v1/completions",
                "{\"model\":\"say\",\"prompt\":\"x\"}");
    strcpy(bytes + len, GET("/healthz"));
    say(w, fd, bytes, strlen(bytes));
    for (int i = 1; i <= 3; i++) {
        char text[] = {'n', (char)('0' + i)};
        wait_for(w, &w->held_count, i);
        exchange_tokens(w->held, text, 2, NULL, 0);
        exchange_finish(w->held, "stop", &usage);
    }
    assert_true(hear(w, fd, &got, "\r\n\r\nok\n"));
    const char *at = got.data;
    static const char *const order[] = {"\"n1\"", "\"n2\"", "\"n3\"", "\"hello\"", "ok\n"};
    for (size_t i = 0; i < COUNT(order); i++) {
        at = strstr(at, order[i]);
        assert_non_null(at);
    }
    buf_free(&got);
    close(fd);
}

static void test_pipelined_flood(void **state)
{
    struct world *w = *state;
    struct buf got;
    buf_init(&got, 16u << 20);
    int fd = dial(w);
    struct buf flood;
    buf_init(&flood, 1u << 20);
    for (int i = 0; i < 5000; i++)
        assert_int_equal(buf_append_str(&flood, GET("/healthz")), 0);
    say(w, fd, flood.data, flood.len);
    shutdown(fd, SHUT_WR);
    /* Half closing may cut what was not begun, so only order and form are certain: but here all
     * bytes arrived before the end, and every answer is written before the end is seen. */
    hear(w, fd, &got, NULL);
    size_t count = 0;
    for (const char *at = got.data; (at = strstr(at, "\r\n\r\nok\n")) != NULL; at++)
        count++;
    assert_int_equal(count, 5000);
    buf_free(&flood);
    buf_free(&got);
    close(fd);
}

static void test_vanishing_clients(void **state)
{
    struct world *w = *state;
    int gone = 0;
    for (int stream = 0; stream < 2; stream++) {
        for (int how = 0; how < 4; how++) {
            int fd = dial(w);
            hold(w, fd, "/v1/completions", stream ? ",\"stream\":true" : "");
            if (how & 1)
                exchange_tokens(w->held, "x", 1, NULL, 0);
            turn(w);
            if (how & 2) { /* a reset instead of an orderly end */
                struct linger now = {1, 0};
                setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
            }
            close(fd);
            wait_for(w, &w->gone_count, ++gone);
        }
    }
    /* Also with a next request already sent, and when only the writing side is closed. */
    int fd = dial(w);
    hold(w, fd, "/v1/completions", "");
    say(w, fd, GET("/healthz"), strlen(GET("/healthz")));
    shutdown(fd, SHUT_WR);
    wait_for(w, &w->gone_count, ++gone);
    close(fd);
    for (int i = 0; i < 10; i++)
        turn(w);
    assert_int_equal(w->gone_count, gone);
    assert_null(w->held);
}

static void test_close_tells_handlers(void **state)
{
    struct world *w = *state;
    int fd = dial(w);
    hold(w, fd, "/v1/completions", "");
    gateway_close(w->gateway);
    w->gateway = NULL;
    assert_int_equal(w->gone_count, 1);
    close(fd);
}

static void test_stop_listening(void **state)
{
    struct world *w = *state;
    struct buf got;
    const struct infer_usage usage = {1, 1};
    buf_init(&got, 1u << 20);
    int fd = dial(w);
    hold(w, fd, "/v1/completions", "");
    gateway_stop_listening(w->gateway);
    assert_int_equal(access(w->socket_path, F_OK), -1);
    exchange_finish(w->held, "stop", &usage);
    assert_true(hear(w, fd, &got, "\"total_tokens\":2}}"));
    buf_free(&got);
    close(fd);
}

static void test_slow_loris(void **state)
{
    struct world *w = *state;
    struct buf got;
    buf_init(&got, 1u << 20);
    w->limits.header_timeout_ms = 1;
    w->limits.body_timeout_ms = 1;
    w->limits.idle_timeout_ms = 1;
    reopen(w);
    static const char *const starts[] = {
        "GET /healthz HT", "GET /healthz HTTP/1.1\r\nHost: a\r\n",
        "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab"};
    for (size_t i = 0; i < COUNT(starts); i++) {
        int fd = dial(w);
        say(w, fd, starts[i], strlen(starts[i]));
        assert_true(hear(w, fd, &got, NULL));
        assert_memory_equal(got.data, "HTTP/1.1 408 ", 13);
        buf_clear(&got);
        close(fd);
    }
    int fd = dial(w); /* says nothing at all: closed without a word */
    assert_true(hear(w, fd, &got, NULL));
    assert_int_equal(got.len, 0);
    buf_free(&got);
    close(fd);
}

static void test_slow_reader(void **state)
{
    struct world *w = *state;
    struct buf got;
    char text[4096];
    buf_init(&got, 1u << 20);
    memset(text, 'x', sizeof text);
    w->limits.answer_bytes_max = 4u << 20;
    reopen(w);
    int other = dial(w);
    int fd = dial(w);
    hold(w, fd, "/v1/completions", ",\"stream\":true");
    bool slow = false;
    /* Far more than sockets and limit hold together; the client never reads. */
    for (int i = 0; i < 32768 && w->gone_count == 0; i++) {
        exchange_tokens(w->held, text, sizeof text, NULL, 0);
        slow |= exchange_is_slow(w->held);
        turn(w);
    }
    assert_true(slow);
    assert_int_equal(w->gone_count, 1);
    say(w, other, GET("/healthz"), strlen(GET("/healthz")));
    assert_true(hear(w, other, &got, "ok\n"));
    buf_free(&got);
    close(fd);
    close(other);
}

static void test_write_timeout(void **state)
{
    struct world *w = *state;
    char text[4096];
    memset(text, 'x', sizeof text);
    w->limits.write_timeout_ms = 1;
    reopen(w);
    int fd = dial(w);
    hold(w, fd, "/v1/completions", ",\"stream\":true");
    /* Until more waits than the sockets take. */
    while (w->held != NULL && !exchange_is_slow(w->held)) {
        for (int i = 0; i < 65; i++)
            exchange_tokens(w->held, text, sizeof text, NULL, 0);
        turn(w);
    }
    wait_for(w, &w->gone_count, 1);
    close(fd);
}

static void test_answer_too_big(void **state)
{
    struct world *w = *state;
    struct buf got;
    char text[4096];
    buf_init(&got, 1u << 20);
    memset(text, 'x', sizeof text);
    w->limits.answer_bytes_max = 65536;
    reopen(w);
    int fd = dial(w);
    hold(w, fd, "/v1/completions", "");
    for (int i = 0; i < 100; i++)
        exchange_tokens(w->held, text, sizeof text, NULL, 0);
    assert_int_equal(w->gone_count, 0); /* never from inside a call */
    wait_for(w, &w->gone_count, 1);
    assert_true(hear(w, fd, &got, "}}"));
    assert_memory_equal(got.data, "HTTP/1.1 500 ", 13);
    assert_non_null(strstr(got.data, "\"code\":\"answer_too_large\""));
    /* The connection is fine. */
    buf_clear(&got);
    say(w, fd, GET("/healthz"), strlen(GET("/healthz")));
    assert_true(hear(w, fd, &got, "ok\n"));
    buf_free(&got);
    close(fd);
}

static void test_connection_limit(void **state)
{
    struct world *w = *state;
    struct buf got;
    int fds[4];
    buf_init(&got, 1u << 20);
    w->limits.connections_max = 2;
    reopen(w);
    fds[0] = dial(w);
    hold(w, fds[0], "/v1/completions", "");
    fds[1] = dial(w);
    say(w, fds[1], GET("/healthz"), strlen(GET("/healthz")));
    assert_true(hear(w, fds[1], &got, "ok\n"));
    buf_clear(&got);
    fds[2] = dial(w); /* the idle one makes room */
    assert_true(hear(w, fds[1], &got, NULL));
    struct exchange *first = w->held;
    hold(w, fds[2], "/v1/completions", "");
    fds[3] = dial(w); /* nobody is idle now */
    buf_clear(&got);
    assert_true(hear(w, fds[3], &got, NULL));
    assert_memory_equal(got.data, "HTTP/1.1 503 ", 13);
    const char *body = strstr(got.data, "\r\n\r\n") + 4;
    json_t *error = json_loads(body, 0, NULL);
    assert_non_null(error);
    json_decref(error);
    const char *length = strstr(got.data, "Content-Length: ");
    assert_int_equal(strtoul(length + 16, NULL, 10), strlen(body));
    exchange_error(first, 500, NULL, NULL, 0, "end");
    exchange_error(w->held, 500, NULL, NULL, 0, "end");
    for (int i = 0; i < 4; i++)
        close(fds[i]);
    buf_free(&got);
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

/* A client that sends on while it is refused must still be able to read why. */
static void test_refused_while_sending(void **state)
{
    struct world *w = *state;
    struct buf got;
    buf_init(&got, 1u << 20);
    int fd = dial(w);
    static const char head[] = "POST /v1/completions HTTP/1.1\r\nHost: a\r\n"
                               "Content-Length: 99999999\r\n\r\n";
    char junk[65536];
    memset(junk, '{', sizeof junk);
    say(w, fd, head, sizeof head - 1);
    for (int i = 0; i < 16; i++)
        say(w, fd, junk, sizeof junk);
    assert_true(hear(w, fd, &got, "}}"));
    assert_memory_equal(got.data, "HTTP/1.1 413 ", 13);
    buf_free(&got);
    close(fd);
}

/* --- the admin socket --- */

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

/* Another user cannot connect; one to whom the file was opened by mistake is still refused. */
static void test_admin_peer(void **state)
{
    struct world *w = *state;
    if (geteuid() != 0)
        skip();
    assert_int_equal(chmod(w->directory, 0711), 0);
    for (int opened = 0; opened < 2; opened++) {
        if (opened)
            assert_int_equal(chmod(w->socket_path, 0666), 0);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            struct sockaddr_un a = {.sun_family = AF_UNIX};
            char answer[256] = "";
            strcpy(a.sun_path, w->socket_path);
            if (setgroups(0, NULL) < 0 || setgid(65534) < 0 || setuid(65534) < 0)
                _exit(3);
            int fd = socket(AF_UNIX, SOCK_STREAM, 0);
            if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0)
                _exit(errno == EACCES ? 1 : 4);
            if (send(fd, GET("/healthz"), strlen(GET("/healthz")), 0) < 0)
                _exit(5);
            recv(fd, answer, sizeof answer - 1, 0);
            _exit(strncmp(answer, "HTTP/1.1 403 ", 13) == 0 ? 2 : 6);
        }
        int status = 0;
        while (waitpid(pid, &status, WNOHANG) == 0)
            turn(w);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), opened ? 2 : 1);
    }
}

static int try_open(struct world *w, const char *listen_at, const char *socket_path,
                    struct error *err)
{
    struct gateway *g = NULL;
    struct gateway_options options = {.base = w->base,
                                      .listen = listen_at,
                                      .admin_socket = socket_path,
                                      .limits = gateway_limits_default};
    int r = gateway_open(&g, &options, err);
    gateway_close(g);
    return r;
}

static void test_admin_socket_file(void **state)
{
    struct world *w = *state;
    struct error err = {0};
    char path[128];
    assert_int_equal(try_open(w, NULL, w->socket_path, &err), -EADDRINUSE);
    assert_non_null(strstr(err.text, "another daemon"));
    /* What a killed daemon left behind is replaced. */
    snprintf(path, sizeof path, "%s/stale", w->directory);
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    strcpy(a.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    close(fd);
    assert_int_equal(try_open(w, NULL, path, &err), 0);
    assert_int_equal(access(path, F_OK), -1);
    /* Anything else at that path is nobody's to remove. */
    fd = open(path, O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(try_open(w, NULL, path, &err), -EEXIST);
    unlink(path);
    assert_int_equal(try_open(w, NULL, "/nonexistent-directory/admin.sock", &err), -ENOENT);
    char long_path[200];
    memset(long_path, 'a', sizeof long_path - 1);
    long_path[sizeof long_path - 1] = '\0';
    assert_int_equal(try_open(w, NULL, long_path, &err), -ENAMETOOLONG);
}

static void test_addresses(void **state)
{
    struct world *w = *state;
    struct error err = {0};
    static const struct {
        const char *address;
        int code;
        const char *part;
    } table[] = {
        {"127.0.0.1:0", 0, ""},
        {"localhost:0", 0, ""},
        {"127.0.0.1", -EINVAL, "has no port"},
        {"127.0.0.1:", -EINVAL, "has no port"},
        {"127.0.0.1:65536", -EINVAL, "has no port"},
        {"127.0.0.1:8o", -EINVAL, "has no port"},
        {"::1:80", -EINVAL, "IPv4"},
        {"[::1:80", -EINVAL, "IPv4"},
        {"[1.2.3.4]:80", -EINVAL, "IPv6"},
        {"example.com:80", -EINVAL, "IPv4"},
        {"0.0.0.0:0", -EACCES, "API keys"},
        {"192.168.1.1:0", -EACCES, "API keys"},
        {"[::]:0", -EACCES, "API keys"},
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        err.text[0] = '\0';
        int r = try_open(w, table[i].address, NULL, &err);
        if (r != table[i].code || strstr(err.text, table[i].part) == NULL)
            fail_msg("%s: %d %s", table[i].address, r, err.text);
    }
    char used[64];
    snprintf(used, sizeof used, "127.0.0.1:%u", gateway_port(w->gateway));
    assert_int_equal(try_open(w, used, NULL, &err), -EADDRINUSE);
    assert_non_null(strstr(err.text, "in use"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

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
        TEST(test_pipelining),
        TEST(test_pipelined_flood),
        TEST(test_vanishing_clients),
        TEST(test_close_tells_handlers),
        TEST(test_stop_listening),
        TEST(test_slow_loris),
        TEST(test_slow_reader),
        TEST(test_write_timeout),
        TEST(test_answer_too_big),
        TEST(test_connection_limit),
        TEST(test_expect_continue),
        TEST(test_refused_while_sending),
        TEST(test_admin),
        TEST(test_admin_peer),
        TEST(test_admin_socket_file),
        TEST(test_addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
