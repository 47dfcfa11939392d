/*
 * One connection: bytes in and out of a socket, one request at a time, one deadline at a time.
 * The socket is read all the time, also while an answer is being made, so that a client's leaving
 * is seen at once; what it sends ahead is kept, up to one request of the largest size. A half
 * closed connection counts as left. See conn.h.
 */
#include "gateway/conn.h"

#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Beyond this much unsent, no further request of the connection is begun. */
#define OUT_HIGH_BYTES (256u << 10)
/* What an answer of the largest size needs besides, for its head. */
#define HEAD_ROOM_BYTES 65536u
#define LINGER_MS 2000u
#define KEPT_BYTES 16384u

size_t conn_unsent_bytes(const struct conn *c)
{
    return c->out.len - c->out_start;
}

static size_t pending_bytes(const struct conn *c)
{
    return c->pending.len - c->pending_start;
}

/* --- deadlines --- */

static uint32_t timer_ms(const struct gateway *g, enum timer_kind kind)
{
    switch (kind) {
    case TIMER_IDLE:
        return g->limits.idle_timeout_ms;
    case TIMER_HEAD:
        return g->limits.header_timeout_ms;
    case TIMER_BODY:
        return g->limits.body_timeout_ms;
    case TIMER_COMMENT:
        return g->limits.stream_comment_ms;
    case TIMER_WRITE:
        return g->limits.write_timeout_ms;
    default:
        return LINGER_MS;
    }
}

static enum timer_kind timer_due(const struct conn *c)
{
    if (c->state == CONN_LINGERING)
        return TIMER_LINGER;
    if (conn_unsent_bytes(c) > 0)
        return TIMER_WRITE;
    if (c->state == CONN_ANSWERING)
        return c->exchange.waiting ? TIMER_COMMENT : TIMER_NONE;
    if (c->http.phase == HTTP_PHASE_HEAD)
        return TIMER_HEAD;
    return c->http.phase == HTTP_PHASE_BODY ? TIMER_BODY : TIMER_IDLE;
}

static void timer_update(struct conn *c)
{
    enum timer_kind kind = timer_due(c);
    if (kind == c->timer && !c->rearm)
        return;
    struct gateway *g = c->gateway;
    TAILQ_REMOVE(&g->timers[c->timer], c, timer_link);
    TAILQ_INSERT_TAIL(&g->timers[kind], c, timer_link);
    c->timer = kind;
    c->rearm = false;
    c->deadline_us = clock_now_us() + timer_ms(g, kind) * 1000ull;
}

static void expire(struct conn *c)
{
    switch (c->timer) {
    case TIMER_HEAD:
        conn_answer_error(c, 408, NULL, NULL, NULL, "the request's head took too long to arrive",
                          true);
        break;
    case TIMER_BODY:
        conn_answer_error(c, 408, NULL, NULL, NULL, "the request's body took too long to arrive",
                          true);
        break;
    case TIMER_COMMENT:
        exchange_comment(&c->exchange);
        break;
    default:
        conn_drop(c);
        return;
    }
    c->rearm = true;
    conn_settle(c);
}

void conn_expire_all(struct gateway *g, uint64_t now_us)
{
    for (int kind = TIMER_NONE + 1; kind < TIMER_COUNT; kind++) {
        struct conn *c;
        while ((c = TAILQ_FIRST(&g->timers[kind])) != NULL && c->deadline_us <= now_us)
            expire(c);
    }
}

/* --- bytes out --- */

static void on_writable(int fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    conn_settle(arg);
}

/* 0, or -errno when the connection is lost. */
static int flush(struct conn *c)
{
    size_t len = conn_unsent_bytes(c);
    while (len > 0) {
        ssize_t n = send(c->fd, c->out.data + c->out_start, len, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN)
            return -errno;
        if (n < 0)
            break;
        c->out_start += (size_t)n;
        len -= (size_t)n;
        c->rearm = true;
    }
    if (len == 0 && c->out_start > 0) {
        c->out_start = 0;
        if (c->out.cap > KEPT_BYTES)
            buf_free(&c->out);
        else
            buf_clear(&c->out);
    } else if (c->out_start > c->out.len / 2) {
        buf_consume(&c->out, c->out_start);
        c->out_start = 0;
    }
    if ((len > 0) == c->writable_armed)
        return 0;
    c->writable_armed = len > 0;
    return (len > 0 ? event_add(&c->writable, NULL) : event_del(&c->writable)) < 0 ? -EIO : 0;
}

/* --- bytes in --- */

static bool takes_requests(const struct conn *c)
{
    return c->state == CONN_READING && !c->broken && conn_unsent_bytes(c) < OUT_HIGH_BYTES;
}

static void begin_request(struct conn *c)
{
    c->keep_alive = c->http.keep_alive && !c->gateway->stopping;
    c->http10 = c->http.http10;
    c->head_only = strcmp(c->http.method, "HEAD") == 0;
    c->state = CONN_ANSWERING;
    c->rearm = true;
    route_request(c);
    http_next(&c->http);
}

/* Returns how many bytes were taken. */
static size_t feed(struct conn *c, const char *data, size_t len)
{
    size_t at = 0;
    while (at < len && takes_requests(c)) {
        size_t used;
        enum http_result result = http_feed(&c->http, data + at, len - at, &used);
        at += used;
        if (result == HTTP_RESULT_DONE)
            begin_request(c);
        else if (result == HTTP_RESULT_BAD)
            conn_answer_error(c, c->http.status, NULL, NULL, NULL, c->http.why.text, true);
        else if (c->http.wants_continue) {
            c->http.wants_continue = false;
            c->broken |= buf_append_str(&c->out, "HTTP/1.1 100 Continue\r\n\r\n") < 0;
        }
    }
    return at;
}

static void feed_pending(struct conn *c)
{
    c->pending_start += feed(c, c->pending.data + c->pending_start, pending_bytes(c));
    if (pending_bytes(c) == 0) {
        buf_free(&c->pending);
        c->pending_start = 0;
    } else if (c->pending_start > c->pending.len / 2) {
        buf_consume(&c->pending, c->pending_start);
        c->pending_start = 0;
    }
}

static void take(struct conn *c, const char *data, size_t len)
{
    size_t used = 0;
    if (c->state >= CONN_CLOSING)
        return; /* nothing more is answered here */
    if (pending_bytes(c) == 0)
        used = feed(c, data, len);
    if (used < len && c->state < CONN_CLOSING)
        c->broken |= buf_append(&c->pending, data + used, len - used) < 0;
}

/* The client closed its side. What is already written may still be read by it. */
static void on_end(struct conn *c)
{
    if (c->exchange.open || c->state == CONN_LINGERING || conn_unsent_bytes(c) == 0) {
        conn_drop(c);
        return;
    }
    event_del(&c->readable);
    c->state = CONN_CLOSING;
    buf_free(&c->pending);
    c->pending_start = 0;
    conn_settle(c);
}

static void on_readable(int fd, short what, void *arg)
{
    (void)what;
    struct conn *c = arg;
    ssize_t n = recv(fd, c->gateway->read_buffer, CONN_READ_BYTES, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n < 0) {
        conn_drop(c);
        return;
    }
    if (n == 0) {
        on_end(c);
        return;
    }
    c->settling = true;
    take(c, c->gateway->read_buffer, (size_t)n);
    conn_settle(c);
}

/* --- life --- */

void conn_open(struct gateway *g, int fd, bool admin, bool permitted)
{
    struct conn *c = calloc(1, sizeof *c);
    if (c == NULL || http_init(&c->http, g->limits.header_bytes_max, g->limits.body_bytes_max) < 0)
        goto fail;
    c->gateway = g;
    c->fd = fd;
    c->admin = admin;
    c->permitted = permitted;
    c->rearm = true;
    buf_init(&c->out, g->limits.answer_bytes_max + OUT_HIGH_BYTES + HEAD_ROOM_BYTES);
    buf_init(&c->pending, g->limits.header_bytes_max + g->limits.body_bytes_max);
    c->exchange.conn = c;
    openai_reply_init(&c->exchange.reply, g->limits.answer_bytes_max);
    if (event_assign(&c->readable, g->base, fd, EV_READ | EV_PERSIST, on_readable, c) < 0 ||
        event_assign(&c->writable, g->base, fd, EV_WRITE | EV_PERSIST, on_writable, c) < 0 ||
        event_add(&c->readable, NULL) < 0) {
        http_free(&c->http);
        goto fail;
    }
    g->conn_count++;
    TAILQ_INSERT_TAIL(&g->timers[TIMER_NONE], c, timer_link);
    timer_update(c);
    return;
fail:
    free(c);
    close(fd);
}

void conn_drop(struct conn *c)
{
    struct gateway *g = c->gateway;
    if (c->exchange.open)
        exchange_gone(&c->exchange);
    if (c->dirty)
        TAILQ_REMOVE(&g->dirty, c, dirty_link);
    TAILQ_REMOVE(&g->timers[c->timer], c, timer_link);
    assert(g->conn_count > 0);
    g->conn_count--;
    event_del(&c->readable);
    event_del(&c->writable);
    close(c->fd);
    http_free(&c->http);
    buf_free(&c->pending);
    buf_free(&c->out);
    openai_reply_free(&c->exchange.reply);
    free(c);
}

void conn_touch(struct conn *c)
{
    if (c->dirty || c->settling)
        return;
    c->dirty = true;
    TAILQ_INSERT_TAIL(&c->gateway->dirty, c, dirty_link);
    event_active(c->gateway->settle, EV_TIMEOUT, 0);
}

void conn_settle(struct conn *c)
{
    c->settling = true;
    for (;;) {
        if (c->exchange.open && c->exchange.too_big)
            exchange_end_too_big(&c->exchange);
        if (c->broken || flush(c) < 0) {
            conn_drop(c);
            return;
        }
        if (!takes_requests(c) || pending_bytes(c) == 0)
            break;
        feed_pending(c);
    }
    if (c->state == CONN_CLOSING && conn_unsent_bytes(c) == 0) {
        /* Closing with unread bytes would reset the connection before the client has read. */
        c->state = CONN_LINGERING;
        if (shutdown(c->fd, SHUT_WR) < 0 || !event_pending(&c->readable, EV_READ, NULL)) {
            conn_drop(c);
            return;
        }
    }
    timer_update(c);
    c->settling = false;
    if (c->dirty) {
        c->dirty = false;
        TAILQ_REMOVE(&c->gateway->dirty, c, dirty_link);
    }
}

/* --- answers --- */

void conn_answer_done(struct conn *c)
{
    c->state = c->keep_alive ? CONN_READING : CONN_CLOSING;
    c->rearm = true;
    conn_touch(c);
}

void conn_answer(struct conn *c, int status, const char *content_type, const char *extra,
                 const char *body, size_t body_bytes)
{
    struct http_head head = {
        .status = status,
        .content_type = content_type,
        .extra = extra,
        .length = body_bytes,
        .keep_alive = c->keep_alive,
        .http10 = c->http10,
        .now_s = clock_wall_us() / 1000000,
    };
    if (http_write_head(&c->out, &head) < 0 ||
        (!c->head_only && buf_append(&c->out, body, body_bytes) < 0))
        c->broken = true;
    conn_answer_done(c);
}

void conn_answer_error(struct conn *c, int status, const char *code, const char *param,
                       const char *extra, const char *message, bool fatal)
{
    struct buf *body = &c->gateway->scratch;
    buf_clear(body);
    if (fatal) {
        c->keep_alive = false;
        c->head_only = false;
    }
    if (openai_append_error(body, status, code, param, message) < 0)
        c->broken = true;
    conn_answer(c, status, "application/json", extra, body->data, body->len);
}
