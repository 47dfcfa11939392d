/* A gateway on real sockets and handlers that are told what to do by the model's name. Client and
 * server share one thread: the loop turns until the client has what it waits for. */
#pragma once

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

/* --- answers --- */

static inline void answer_text(struct exchange *x, const char *text, size_t bytes)
{
    const struct infer_piece p = {.text = text, .text_bytes = bytes};
    exchange_piece(x, &p);
}

static inline void answer_end(struct exchange *x, const struct infer_usage *usage)
{
    const struct infer_piece p = {.text = "", .finish = "stop", .usage = *usage};
    exchange_piece(x, &p);
    exchange_finish(x, usage);
}

/* --- handlers --- */

static inline int on_infer(void *context, struct exchange *x, const struct infer_request *r,
                           struct infer_refusal *ret_refusal, struct error *err)
{
    struct world *w = context;
    const struct infer_usage usage = {2, 1, 0};
    assert_true(r->body_bytes == strlen(r->body));
    if (strcmp(r->model, "hold") == 0) {
        w->held = x;
        w->held_count++;
        exchange_set_context(x, &w->held_count);
        return 0;
    }
    if (strcmp(r->model, "say") == 0) {
        answer_text(x, w->text, strlen(w->text));
        answer_end(x, &usage);
        return 0;
    }
    if (strcmp(r->model, "full") == 0) {
        *ret_refusal = (struct infer_refusal){429, "queue_full", NULL};
        return error_set(err, -EAGAIN, "the queue of 'full' is full");
    }
    *ret_refusal = (struct infer_refusal){404, "model_not_found", "model"};
    return error_set(err, -ENOENT, "the model '%s' does not exist", r->model);
}

static inline void on_gone(void *context, struct exchange *x)
{
    struct world *w = context;
    assert_ptr_equal(x, w->held);
    assert_ptr_equal(exchange_context(x), &w->held_count);
    w->held = NULL;
    w->gone_count++;
}

static inline void on_models(void *context, json_t *list)
{
    (void)context;
    json_array_append_new(list, json_pack("{s:s, s:i, s:s, s:s}", "id", "a/b", "created", 7,
                                          "owned_by", "acme", "parent", "base"));
}

static inline char *on_metrics(void *context)
{
    (void)context;
    return strdup("up 1\n");
}

static inline int on_ready(void *context, struct error *err)
{
    struct world *w = context;
    return w->text[0] != '\0' ? 0 : error_set(err, -EAGAIN, "no backbone is loaded");
}

static inline void on_admin(void *context, struct exchange *x, const char *method, const char *path,
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

static inline void on_lora(void *context, struct exchange *x, enum lora_verb verb,
                           const json_t *body)
{
    (void)context;
    if (verb == LORA_LIST)
        exchange_json(x, 200, json_pack("{s:[]}", "data"));
    else if (json_is_object(body))
        exchange_text(x, 200, verb == LORA_LOAD ? "loaded" : "unloaded");
    else
        exchange_error(x, 400, NULL, "lora_name", 0, "no body");
}

/* --- the world --- */

static inline void world_open(struct world *w)
{
    struct gateway_options options = {
        .base = w->base,
        .listen = "127.0.0.1:0",
        .admin_socket = w->socket_path,
        .limits = w->limits,
        .handlers = {w, on_infer, on_gone, on_models, on_metrics, on_ready, on_admin, on_lora},
    };
    struct error err;
    if (gateway_open(&w->gateway, &options, &err) < 0)
        fail_msg("%s", err.text);
}

static inline int set_up(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    w->base = event_base_new();
    w->limits = gateway_limits_default;
    snprintf(w->text, sizeof w->text, "%s", "hello");
    snprintf(w->directory, sizeof w->directory, "%s", "/tmp/gateway-test-XXXXXX");
    if (mkdtemp(w->directory) == NULL)
        return -1;
    snprintf(w->socket_path, sizeof w->socket_path, "%s/admin.sock", w->directory);
    *state = w;
    world_open(w);
    return 0;
}

static inline int tear_down(void **state)
{
    struct world *w = *state;
    gateway_close(w->gateway);
    event_base_free(w->base);
    rmdir(w->directory);
    free(w);
    return 0;
}

static inline void reopen(struct world *w)
{
    gateway_close(w->gateway);
    w->gateway = NULL;
    world_open(w);
}

static inline void turn(struct world *w)
{
    event_base_loop(w->base, EVLOOP_NONBLOCK);
}

static inline int dial(struct world *w)
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

static inline int dial_admin(struct world *w)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s", w->socket_path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    return fd;
}

static inline void say(struct world *w, int fd, const char *bytes, size_t len)
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
static inline bool hear(struct world *w, int fd, struct buf *got, const char *until)
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

static inline void wait_for(struct world *w, const int *count, int value)
{
    uint64_t end_us = clock_now_us() + PATIENCE_US;
    while (*count < value) {
        assert_true(clock_now_us() < end_us);
        turn(w);
    }
    assert_int_equal(*count, value);
}

/* One request on a connection of its own, closed by the server. */
static inline void ask(struct world *w, const char *bytes, struct buf *got)
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
static inline size_t post(char *to, size_t size, const char *path, const char *body)
{
    int n = snprintf(to, size, "POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %zu\r\n\r\n%s", path,
                     strlen(body), body);
    assert_true(n > 0 && (size_t)n < size);
    return (size_t)n;
}

static inline void say_post(struct world *w, int fd, const char *path, const char *body)
{
    char bytes[2048];
    say(w, fd, bytes, post(bytes, sizeof bytes, path, body));
}

static inline void hold(struct world *w, int fd, const char *path, const char *rest)
{
    char body[512];
    int before = w->held_count;
    snprintf(body, sizeof body,
             "{\"model\":\"hold\",\"prompt\":\"x\",\"messages\":[{\"role\":\"user\"}]%s}", rest);
    say_post(w, fd, path, body);
    wait_for(w, &w->held_count, before + 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
