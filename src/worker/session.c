/* Requests in a worker: SUBMIT to DONE. See session.h. */
#include "worker/session.h"

#include "base/cleanup.h"
#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define OUTPUTS_MAX 64u
#define ECHO_BYTES_MAX (16u << 20)
#define TEXT_RECORD_BYTES_MAX (32u << 10)

void session_init(struct session *s, int chan, uint32_t threads)
{
    *s = (struct session){.chan = chan, .threads = threads};
}

void session_send(struct session *s)
{
    if (s->out.len == 0)
        return;
    if (chan_send(s->chan, s->out.bytes, s->out.len, NULL, 0, 0) < 0)
        _exit(0); /* The daemon is gone, and with it everybody who waits for an answer. */
    s->out.len = 0;
}

void session_put(struct session *s, enum wire_type type, const void *fixed, size_t fixed_bytes,
                 const void *tail, size_t tail_bytes)
{
    if (wire_put(&s->out, type, fixed, fixed_bytes, tail, tail_bytes, -1))
        return;
    session_send(s);
    bool fits = wire_put(&s->out, type, fixed, fixed_bytes, tail, tail_bytes, -1);
    assert(fits);
}

void session_fail(struct session *s, enum wire_failed_scope scope, uint64_t subject,
                  const struct answer_refusal *refusal, const char *message)
{
    struct wire_failed f = {.subject = subject, .scope = scope, .status = refusal->status};
    snprintf(f.code, sizeof f.code, "%s", refusal->code);
    snprintf(f.param, sizeof f.param, "%s", refusal->param);
    session_put(s, WIRE_FAILED, &f, sizeof f, message, strlen(message));
}

/* --- out: text and tokens --- */

/* Text of any length, cut between characters into records that fit a message. */
static void put_text(struct session *s, const struct answer *a, const char *text, size_t len,
                     uint32_t tokens_new)
{
    do {
        size_t n = len < TEXT_RECORD_BYTES_MAX ? len : TEXT_RECORD_BYTES_MAX;
        while (n < len && n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80)
            n--;
        struct wire_tokens t = {
            .request = a->request, .text_bytes = (uint32_t)n, .tokens_new = tokens_new};
        session_put(s, WIRE_TOKENS, &t, sizeof t, text, n);
        tokens_new = 0;
        text += n;
        len -= n;
    } while (len > 0);
}

static int append_padded(struct buf *b, const void *fixed, size_t fixed_bytes, const char *text,
                         size_t len)
{
    static const char zeros[4];
    int r = buf_append(b, fixed, fixed_bytes);
    if (r == 0)
        r = buf_append(b, text, len);
    return r < 0 ? r : buf_append(b, zeros, -len & 3);
}

static int append_token(struct session *s, struct buf *b, const struct engine_output *o)
{
    const char *text = "";
    size_t len = 0;
    tokenizer_token_bytes(s->tokenizer, o->token, &text, &len);
    struct wire_token token = {.byte_count = (uint32_t)len,
                               .top_count = o->has_logprob ? o->top_count : 0,
                               .has_logprob = o->has_logprob,
                               .logprob = o->logprob};
    int r = append_padded(b, &token, sizeof token, text, len);
    for (uint32_t i = 0; r == 0 && i < token.top_count; i++) {
        text = "";
        len = 0;
        tokenizer_token_bytes(s->tokenizer, o->top[i].token, &text, &len);
        struct wire_alternative top = {.byte_count = (uint32_t)len, .logprob = o->top[i].logprob};
        r = append_padded(b, &top, sizeof top, text, len);
    }
    return r;
}

/* One token with its log-probabilities, and the text that became certain with it. */
static int put_token(struct session *s, const struct answer *a, const struct engine_output *o,
                     const struct buf *text)
{
    static const char zeros[4];
    struct buf tail;
    buf_init(&tail, WIRE_RECORD_BYTES_MAX - sizeof(struct wire_tokens));
    int r = text->len > 0 ? buf_append(&tail, text->data, text->len) : 0;
    if (r == 0)
        r = buf_append(&tail, zeros, -text->len & 3);
    if (r == 0)
        r = append_token(s, &tail, o);
    if (r == 0) {
        struct wire_tokens t = {.request = a->request,
                                .text_bytes = (uint32_t)text->len,
                                .token_count = 1,
                                .tokens_new = o->is_prompt ? 0 : 1};
        session_put(s, WIRE_TOKENS, &t, sizeof t, tail.data, tail.len);
    }
    buf_free(&tail);
    return r;
}

/* --- the end of an answer --- */

static void close_answer(struct session *s, struct answer *a)
{
    if (a->begun)
        engine_remove(s->engine, a->sequence);
    answer_close(a);
}

static void finish(struct session *s, struct answer *a, enum wire_done_reason reason)
{
    struct wire_done done = {
        .request = a->request,
        .reason = reason,
        .prompt_tokens = a->prompt_tokens,
        .completion_tokens = a->completion_tokens,
        .cached_tokens = a->begun ? engine_cached_tokens(s->engine, a->sequence) : 0,
        .device_us = a->device_us,
        .worker_us = clock_now_us() - a->submitted_us,
    };
    session_put(s, WIRE_DONE, &done, sizeof done, NULL, 0);
    close_answer(s, a);
}

static void fail(struct session *s, struct answer *a, uint32_t status, const char *code,
                 const char *message)
{
    const struct answer_refusal refusal = {.status = status, .code = code, .param = ""};
    session_fail(s, WIRE_FAILED_REQUEST, a->request, &refusal, message);
    close_answer(s, a);
}

/* --- in --- */

static struct answer *free_answer(struct session *s)
{
    for (uint32_t i = 0; i < SESSION_ANSWERS_MAX; i++) {
        if (!s->answers[i].active)
            return &s->answers[i];
    }
    return NULL;
}

static int add_to_engine(struct session *s, struct answer *a, const struct wire_submit *w,
                         struct error *err)
{
    const struct model_config *c = s->backbone.config;
    uint32_t room = s->text.context_max - a->prompt_tokens;
    struct engine_request r = {
        .tokens = s->tokens.ids,
        .token_count = a->prompt_tokens,
        .tokens_new_max = w->max_tokens < room ? w->max_tokens : room,
        .adapter_slot =
            s->slots[w->slot].has_adapter && w->adapter_scale != 0 ? (int32_t)w->slot : -1,
        .adapter_scale = w->adapter_scale,
        .sampling = {.temperature = w->temperature,
                     .top_p = w->top_p,
                     .min_p = w->min_p,
                     .top_k = w->top_k,
                     .seed = w->seed},
        .stop_token_count = c->eos_count,
        .top_logprobs = w->top_logprobs,
        .logprobs = a->wants_tokens,
        .prompt_logprobs = a->wants_tokens && (w->flags & WIRE_ECHO) != 0,
    };
    memcpy(r.stop_tokens, c->eos_ids, c->eos_count * sizeof c->eos_ids[0]);
    if (r.tokens_new_max == 0 && !r.prompt_logprobs)
        return 1; /* echo alone: there is nothing to compute */
    int n = engine_add(s->engine, &r, &a->sequence, err);
    a->begun = n == 0;
    return n;
}

static void submit(struct session *s, const struct wire_submit *w, const char *body)
{
    struct answer *a = free_answer(s);
    struct answer_refusal refusal = {.status = 503, .code = "server_full", .param = ""};
    struct error err = {0};
    struct buf echo;
    buf_init(&echo, ECHO_BYTES_MAX);
    uint64_t now_us = clock_now_us();
    int r = a == NULL ? error_set(&err, -EBUSY, "this worker is full") : 0;
    if (r == 0)
        r = answer_open(a, &s->text, w, body, w->body_bytes, &s->tokens, &echo, &refusal, &err);
    if (r < 0) {
        session_fail(s, WIRE_FAILED_REQUEST, w->request, &refusal, err.text);
        buf_free(&echo);
        return;
    }
    a->submitted_us = now_us;
    r = add_to_engine(s, a, w, &err);
    if (r < 0) {
        const char *code = r == -E2BIG ? "context_length_exceeded" : "out_of_memory";
        fail(s, a, r == -EINVAL || r == -E2BIG ? 400 : 503, r == -EINVAL ? "" : code, err.text);
        buf_free(&echo);
        return;
    }
    struct wire_admitted admitted = {.request = a->request, .prompt_tokens = a->prompt_tokens};
    session_put(s, WIRE_ADMITTED, &admitted, sizeof admitted, NULL, 0);
    if ((w->flags & WIRE_ECHO) && echo.len > 0)
        put_text(s, a, echo.data, echo.len, 0);
    buf_free(&echo);
    if (r == 1)
        finish(s, a, WIRE_DONE_LENGTH);
}

int session_submit(struct session *s, const struct wire_record *r, int fd, struct error *err)
{
    cleanup_fd int own = fd;
    struct wire_submit w;
    memcpy(&w, r->fixed, sizeof w);
    if (s->engine == NULL || w.slot >= SESSION_SLOTS_MAX || !s->slots[w.slot].bound)
        return error_set(err, -EPROTO, "SUBMIT for a slot that is not bound");
    if (own < 0) {
        if (w.body_bytes != r->tail_bytes)
            return error_set(err, -EPROTO, "SUBMIT with a body of the wrong length");
        submit(s, &w, (const char *)r->tail);
        return 0;
    }
    void *body = mmap(NULL, w.body_bytes, PROT_READ, MAP_SHARED, own, 0);
    if (body == MAP_FAILED)
        return error_set(err, -errno, "cannot map a request's body: %s", strerror(errno));
    submit(s, &w, body);
    munmap(body, w.body_bytes);
    return 0;
}

void session_cancel(struct session *s, uint64_t request)
{
    for (uint32_t i = 0; i < SESSION_ANSWERS_MAX; i++) {
        if (s->answers[i].active && s->answers[i].request == request)
            finish(s, &s->answers[i], WIRE_DONE_CANCELLED);
    }
}

/* --- a step --- */

static struct answer *answer_of(struct session *s, uint32_t sequence)
{
    for (uint32_t i = 0; i < SESSION_ANSWERS_MAX; i++) {
        if (s->answers[i].active && s->answers[i].begun && s->answers[i].sequence == sequence)
            return &s->answers[i];
    }
    return NULL;
}

/* The last of an answer's text, then DONE. */
static int end_answer(struct session *s, struct answer *a, enum engine_finish reason)
{
    struct buf text;
    buf_init(&text, ANSWER_HELD_BYTES_MAX);
    int r = answer_flush(a, &text);
    if (r >= 0 && text.len > 0)
        put_text(s, a, text.data, text.len, 0);
    buf_free(&text);
    if (r < 0)
        return r;
    bool stopped = r == 1 || reason == ENGINE_STOP_TOKEN;
    finish(s, a, stopped ? WIRE_DONE_STOP : WIRE_DONE_LENGTH);
    return 0;
}

static int give_out(struct session *s, struct answer *a, const struct engine_output *o)
{
    struct buf text;
    buf_init(&text, ANSWER_HELD_BYTES_MAX);
    bool is_end = o->finish == ENGINE_STOP_TOKEN; /* the end-of-text token is no text */
    int stop = 0;
    if (o->has_token) {
        a->completion_tokens++;
        stop = is_end ? 0 : answer_push(a, o->token, &text);
    }
    int r = stop < 0 ? stop : 0;
    if (r == 0 && a->wants_tokens && !is_end)
        r = put_token(s, a, o, &text);
    else if (r == 0 && o->has_token)
        put_text(s, a, text.data != NULL ? text.data : "", text.len, 1);
    buf_free(&text);
    return r < 0 ? r : stop;
}

static void on_output(struct session *s, const struct engine_output *o)
{
    struct answer *a = answer_of(s, o->sequence);
    if (a == NULL)
        return; /* ended by a stop string or a cancel in this very step */
    int r = o->has_token || o->is_prompt ? give_out(s, a, o) : 0;
    if (r == 1)
        finish(s, a, WIRE_DONE_STOP);
    else if (r == 0 && o->finish == ENGINE_OUT_OF_KV)
        fail(s, a, 503, "out_of_memory", "the answer outgrew the KV cache of its worker");
    else if (r == 0 && o->finish != ENGINE_GOES_ON)
        r = end_answer(s, a, o->finish);
    if (r < 0)
        fail(s, a, 500, "", "the answer could not be written: out of memory");
}

static void charge(struct session *s, uint64_t us, uint32_t sequences)
{
    if (sequences == 0)
        return;
    for (uint32_t i = 0; i < SESSION_ANSWERS_MAX; i++) {
        if (s->answers[i].active && s->answers[i].begun)
            s->answers[i].device_us += us / sequences;
    }
}

/* The memory limit was hit: the youngest answer gives way, the others go on. */
static int shed(struct session *s, const struct error *reason, struct error *err)
{
    struct answer *youngest = NULL;
    for (uint32_t i = 0; i < SESSION_ANSWERS_MAX; i++) {
        struct answer *a = &s->answers[i];
        if (a->active && a->begun && (youngest == NULL || a->request > youngest->request))
            youngest = a;
    }
    if (youngest == NULL)
        return error_set(err, -ENOMEM, "%s", reason->text);
    fail(s, youngest, 503, "out_of_memory", "the worker's memory limit was reached");
    return 0;
}

int session_step(struct session *s, struct error *err)
{
    static struct engine_output outputs[OUTPUTS_MAX];
    struct engine_step_stats stats;
    struct error reason = {0};
    uint64_t began_us = clock_now_us();
    int r = engine_step(s->engine, outputs, OUTPUTS_MAX, &stats, &reason);
    uint64_t took_us = clock_now_us() - began_us;
    s->untrimmed = true;
    if (r == -ENOMEM)
        return shed(s, &reason, err);
    if (r < 0)
        return error_set(err, r, "%s", reason.text);
    s->turn.device_us += took_us;
    s->turn.steps++;
    s->turn.rows += stats.rows;
    charge(s, took_us, stats.sequences);
    for (uint32_t i = 0; i < stats.output_count; i++)
        on_output(s, &outputs[i]);
    return 0;
}

void session_end_turn(struct session *s)
{
    struct wire_turn_ended t = {
        .turn = s->turn.number,
        .device_us = s->turn.device_us,
        .steps = s->turn.steps,
        .rows = s->turn.rows,
        .has_work = engine_has_work(s->engine),
        .kv_bytes = engine_kv_bytes(s->engine),
    };
    session_put(s, WIRE_TURN_ENDED, &t, sizeof t, NULL, 0);
    s->turn = (struct session_turn){0};
}
