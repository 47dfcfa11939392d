/* Answers: what the handlers say about an exchange, written into its connection's buffer. */
#include "base/clock.h"
#include "gateway/conn.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

/* The client is slow when this much of its answer waits for its socket. */
/* The shared scratch buffer keeps no more than this. */
#define SCRATCH_KEPT_BYTES (1u << 20)

void exchange_open(struct conn *c, enum exchange_kind kind, bool stream)
{
    struct exchange *x = &c->exchange;
    assert(!x->open);
    x->context = NULL;
    x->kind = kind;
    x->open = true;
    x->stream = stream;
    x->begun = false;
    x->waiting = stream && kind == EXCHANGE_INFER;
    x->too_big = false;
    x->timing = (struct infer_timing){0};
}

static void end(struct exchange *x)
{
    x->open = false;
    x->waiting = false;
}

void exchange_gone(struct exchange *x)
{
    struct gateway *g = x->conn->gateway;
    assert(x->open);
    g->handlers.gone(g->handlers.context, x);
    end(x);
}

/* --- heads and chunks --- */

static const char *timing_field(const struct exchange *x, char *text, size_t size)
{
    text[0] = '\0';
    if (x->timing.queue_us > 0 || x->timing.cold_us > 0)
        snprintf(text, size, "Server-Timing: queue;dur=%.3f, cold;dur=%.3f\r\n",
                 (double)x->timing.queue_us / 1000, (double)x->timing.cold_us / 1000);
    return text;
}

/* Before the first piece of a streamed answer. */
static void begin_stream(struct exchange *x)
{
    if (x->begun)
        return;
    struct conn *c = x->conn;
    char timing[128];
    char extra[256];
    bool infer = x->kind == EXCHANGE_INFER;
    snprintf(extra, sizeof extra, "Cache-Control: no-cache\r\n%s",
             timing_field(x, timing, sizeof timing));
    x->begun = true;
    c->keep_alive = c->keep_alive && !c->http10;
    struct http_head head = {
        .status = 200,
        .content_type = infer ? "text/event-stream" : "application/x-ndjson",
        .extra = extra,
        .stream = true,
        .keep_alive = c->keep_alive,
        .http10 = c->http10,
        .now_s = clock_wall_us() / 1000000,
    };
    c->broken |= http_write_head(&c->out, &head) < 0;
}

static void chunk_begin(struct conn *c, size_t *ret_at)
{
    *ret_at = 0;
    if (!c->http10)
        c->broken |= http_chunk_begin(&c->out, ret_at) < 0;
}

static void chunk_end(struct conn *c, size_t at)
{
    if (!c->http10 && !c->broken)
        c->broken |= http_chunk_end(&c->out, at) < 0;
    conn_touch(c);
}

static void end_stream(struct exchange *x)
{
    struct conn *c = x->conn;
    if (!c->http10 && !c->head_only)
        c->broken |= buf_append_str(&c->out, "0\r\n\r\n") < 0;
    end(x);
    conn_answer_done(c);
}

static void stream_text(struct exchange *x, const char *text, size_t len)
{
    struct conn *c = x->conn;
    size_t at;
    begin_stream(x);
    chunk_begin(c, &at);
    c->broken |= !c->head_only && buf_append(&c->out, text, len) < 0;
    chunk_end(c, at);
}

void exchange_comment(struct exchange *x)
{
    static const char comment[] = ": waiting\n\n";
    stream_text(x, comment, sizeof comment - 1);
}

/* --- inference --- */

void exchange_timing(struct exchange *x, const struct infer_timing *t)
{
    assert(x->open);
    x->timing = *t;
}

void exchange_piece(struct exchange *x, const struct infer_piece *p)
{
    struct conn *c = x->conn;
    assert(x->open);
    assert(x->kind == EXCHANGE_INFER);
    if (c->broken || x->too_big)
        return;
    if (!x->stream) {
        if (openai_reply_add(&x->reply, p) < 0) {
            x->too_big = true;
            conn_touch(c);
        }
        return;
    }
    size_t at;
    begin_stream(x);
    x->waiting = false;
    chunk_begin(c, &at);
    c->broken |= openai_reply_event(&x->reply, &c->out, p) < 0;
    chunk_end(c, at);
}

static void answer_too_big(struct exchange *x)
{
    exchange_error(x, 500, "answer_too_large", NULL, 0,
                   "the answer is larger than the server holds; ask with \"stream\": true");
}

void exchange_finish(struct exchange *x, const struct infer_usage *usage)
{
    struct conn *c = x->conn;
    struct gateway *g = c->gateway;
    assert(x->open);
    assert(x->kind == EXCHANGE_INFER);
    if (x->stream) {
        size_t at;
        begin_stream(x);
        chunk_begin(c, &at);
        c->broken |= openai_reply_last_event(&x->reply, &c->out, usage) < 0;
        chunk_end(c, at);
        end_stream(x);
        return;
    }
    char timing[128];
    buf_clear(&g->scratch);
    if (x->too_big || openai_reply_whole(&x->reply, &g->scratch, usage) < 0) {
        answer_too_big(x);
        return;
    }
    end(x);
    conn_answer(c, 200, "application/json", timing_field(x, timing, sizeof timing), g->scratch.data,
                g->scratch.len);
    if (g->scratch.cap > SCRATCH_KEPT_BYTES)
        buf_free(&g->scratch);
}

static void stream_error(struct exchange *x, int status, const char *code, const char *param,
                         const char *message)
{
    struct buf *text = &x->conn->gateway->scratch;
    bool infer = x->kind == EXCHANGE_INFER;
    buf_clear(text);
    int r = infer ? buf_append_str(text, "data: ") : 0;
    r |= openai_append_error(text, status, code, param, message);
    r |= buf_append_str(text, infer ? "\n\n" : "\n");
    if (r < 0)
        x->conn->broken = true;
    else
        stream_text(x, text->data, text->len);
    end_stream(x);
}

void exchange_error(struct exchange *x, int status, const char *code, const char *param,
                    uint32_t retry_after_s, const char *message)
{
    struct conn *c = x->conn;
    char extra[64] = "";
    assert(x->open);
    if (x->begun) {
        stream_error(x, status, code, param, message);
        return;
    }
    if (retry_after_s > 0)
        snprintf(extra, sizeof extra, "Retry-After: %u\r\n", retry_after_s);
    else if (status == 409)
        snprintf(extra, sizeof extra, "x-should-retry: false\r\n");
    end(x);
    conn_answer_error(c, status, code, param, extra, message, false);
}

void exchange_end_too_big(struct exchange *x)
{
    struct gateway *g = x->conn->gateway;
    g->handlers.gone(g->handlers.context, x);
    answer_too_big(x);
}

/* --- admin --- */

static int append_json(const char *text, size_t len, void *out)
{
    return buf_append(out, text, len) < 0 ? -1 : 0;
}

/* The document as one line in the scratch buffer; takes the reference. */
static int dump(struct buf *text, json_t *document)
{
    buf_clear(text);
    int r = json_dump_callback(document, append_json, text, JSON_COMPACT | JSON_ENCODE_ANY);
    json_decref(document);
    return r < 0 ? r : buf_append_char(text, '\n');
}

void exchange_json(struct exchange *x, int status, json_t *document)
{
    struct conn *c = x->conn;
    struct buf *text = &c->gateway->scratch;
    assert(x->open);
    assert(!x->begun);
    if (dump(text, document) < 0) {
        exchange_error(x, 500, NULL, NULL, 0, "the answer is too large or not JSON");
        return;
    }
    end(x);
    conn_answer(c, status, "application/json", NULL, text->data, text->len);
}

void exchange_text(struct exchange *x, int status, const char *text)
{
    assert(x->open);
    assert(!x->begun);
    end(x);
    conn_answer(x->conn, status, "text/plain; charset=utf-8", NULL, text, strlen(text));
}

void exchange_line(struct exchange *x, json_t *document)
{
    struct conn *c = x->conn;
    struct buf *text = &c->gateway->scratch;
    assert(x->open);
    assert(x->kind == EXCHANGE_ADMIN);
    if (dump(text, document) < 0)
        c->broken = true;
    else
        stream_text(x, text->data, text->len);
    conn_touch(c);
}

void exchange_lines_end(struct exchange *x)
{
    assert(x->open);
    begin_stream(x);
    end_stream(x);
}

void exchange_set_context(struct exchange *x, void *context)
{
    x->context = context;
}

void *exchange_context(const struct exchange *x)
{
    return x->context;
}
