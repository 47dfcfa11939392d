/* Requests in a worker: SUBMIT to DONE. See session.h. */
#include "worker/session.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/rng.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define OUTPUTS_MAX 64u
#define ECHO_BYTES_MAX (16u << 20)
#define TEXT_RECORD_BYTES_MAX (32u << 10)

void session_init(struct session *s)
{
    *s = (struct session){.chan = -1};
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

static uint32_t choice_index(const struct answer *a, const struct answer_choice *c)
{
    return (uint32_t)(c - a->choices);
}

/* Text of any length, cut between characters into records that fit a message. */
static void put_text(struct session *s, const struct answer *a, const struct answer_choice *c,
                     const struct buf *text, uint32_t tokens_new, enum wire_finish finish)
{
    const char *at = text->data != NULL ? text->data : "";
    size_t len = text->len;
    do {
        size_t n = len < TEXT_RECORD_BYTES_MAX ? len : TEXT_RECORD_BYTES_MAX;
        while (n < len && n > 0 && ((unsigned char)at[n] & 0xc0) == 0x80)
            n--;
        struct wire_tokens t = {.request = a->request,
                                .choice = choice_index(a, c),
                                .finish = n == len ? finish : WIRE_GOES_ON,
                                .text_bytes = (uint32_t)n,
                                .tokens_new = tokens_new};
        session_put(s, WIRE_TOKENS, &t, sizeof t, at, n);
        tokens_new = 0;
        at += n;
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
static int put_token(struct session *s, const struct answer *a, const struct answer_choice *c,
                     const struct engine_output *o, const struct buf *text)
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
                                .choice = choice_index(a, c),
                                .text_bytes = (uint32_t)text->len,
                                .token_count = 1,
                                .tokens_new = o->is_prompt ? 0 : 1};
        session_put(s, WIRE_TOKENS, &t, sizeof t, tail.data, tail.len);
    }
    buf_free(&tail);
    return r;
}

/* --- the end of an answer --- */

static void end_choice(struct session *s, struct answer *a, struct answer_choice *c)
{
    if (c->state == CHOICE_RUNS) {
        if (c == a->choices) /* the prompt counts once */
            a->cached_tokens = engine_cached_tokens(s->engine, c->sequence);
        engine_remove(s->engine, c->sequence);
        s->sequences_left++;
    }
    if (c->state == CHOICE_WAITS)
        s->choices_waiting--;
    if (c->state != CHOICE_ENDED)
        a->choices_left--;
    c->state = CHOICE_ENDED;
}

static void end_choices(struct session *s, struct answer *a)
{
    for (uint32_t i = 0; i < a->choice_count; i++)
        end_choice(s, a, &a->choices[i]);
}

static void finish(struct session *s, struct answer *a)
{
    end_choices(s, a);
    struct wire_done done = {
        .request = a->request,
        .prompt_tokens = a->prompt_tokens,
        .completion_tokens = a->completion_tokens,
        .cached_tokens = a->cached_tokens,
        .device_us = a->device_us,
        .worker_us = clock_now_us() - a->submitted_us,
    };
    session_put(s, WIRE_DONE, &done, sizeof done, NULL, 0);
    answer_close(a);
}

/* The last of a choice's text; with the last choice, DONE. */
static void finish_choice(struct session *s, struct answer *a, struct answer_choice *c,
                          const struct buf *text, enum wire_finish reason)
{
    put_text(s, a, c, text, 0, reason);
    end_choice(s, a, c);
    if (a->choices_left == 0)
        finish(s, a);
}

static void fail(struct session *s, struct answer *a, const struct answer_refusal *refusal,
                 const char *message)
{
    session_fail(s, WIRE_FAILED_REQUEST, a->request, refusal, message);
    end_choices(s, a);
    answer_close(a);
}

static void fail_for_memory(struct session *s, struct answer *a, const char *message)
{
    const struct answer_refusal refusal = {.status = 503, .code = "out_of_memory", .param = ""};
    fail(s, a, &refusal, message);
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

/* The first choice is what the same request with n = 1 gives. */
static uint64_t choice_seed(uint64_t seed, uint32_t choice)
{
    struct rng r;
    rng_seed(&r, seed);
    for (uint32_t i = 0; i < choice; i++)
        seed = rng_u64(&r);
    return seed;
}

/* As many of the waiting choices as the engine has room for. */
static int begin_choices(struct session *s, struct answer *a, struct error *err)
{
    bool all = true;
    for (uint32_t i = 0; i < a->choice_count; i++) {
        struct answer_choice *c = &a->choices[i];
        if (c->state != CHOICE_WAITS)
            continue;
        all = all && s->sequences_left > 0;
        if (s->sequences_left == 0)
            break;
        struct engine_request r = a->engine;
        r.sampling.seed = choice_seed(r.sampling.seed, i);
        int n = engine_add(s->engine, &r, &c->sequence, err);
        if (n < 0)
            return n;
        c->state = CHOICE_RUNS;
        s->sequences_left--;
        s->choices_waiting--;
    }
    if (all)
        answer_drop_prompt(a);
    return 0;
}

static void fail_to_begin(struct session *s, struct answer *a, int code, const char *message)
{
    struct answer_refusal refusal = {.status = 503, .code = "out_of_memory", .param = ""};
    if (code == -E2BIG)
        refusal =
            (struct answer_refusal){.status = 400, .code = "context_length_exceeded", .param = ""};
    if (code == -EINVAL) /* all else is checked before; only the engine knows the adapter */
        refusal = (struct answer_refusal){.status = 400, .code = "", .param = "lora[0].scale"};
    fail(s, a, &refusal, message);
}

/* Sequences have ended: choices that wait take their places, in the order of the requests. */
static void begin_waiting(struct session *s)
{
    while (s->choices_waiting > 0 && s->sequences_left > 0) {
        struct answer *oldest = NULL;
        for (uint32_t i = 0; i < SESSION_ANSWERS_MAX; i++) {
            struct answer *a = &s->answers[i];
            if (a->active && a->prompt != NULL && (oldest == NULL || a->request < oldest->request))
                oldest = a;
        }
        assert(oldest != NULL);
        struct error err = {0};
        int r = begin_choices(s, oldest, &err);
        if (r < 0)
            fail_to_begin(s, oldest, r, err.text);
    }
}

/* What the engine is asked for, besides what the body said. */
static void fill_request(struct session *s, struct answer *a, const struct wire_submit *w)
{
    const struct model_config *c = s->backbone.config;
    struct engine_request *r = &a->engine;
    uint32_t room = s->text.context_max - a->prompt_tokens;
    bool adapted = s->slots[w->slot].has_adapter && w->adapter_scale != 0;
    r->tokens_new_max = w->max_tokens < room ? w->max_tokens : room;
    r->tokens_new_min = w->min_tokens < r->tokens_new_max ? w->min_tokens : r->tokens_new_max;
    r->adapter_slot = adapted ? (int32_t)w->slot : -1;
    r->adapter_scale = w->adapter_scale;
    r->sampling = (struct engine_sampling){.temperature = w->temperature,
                                           .top_p = w->top_p,
                                           .min_p = w->min_p,
                                           .top_k = w->top_k,
                                           .seed = w->seed};
    r->penalties =
        (struct engine_penalties){w->presence_penalty, w->frequency_penalty, w->repetition_penalty};
    r->order = w->deadline_us;
    r->logprobs = a->wants_tokens;
    r->top_logprobs = w->top_logprobs;
    r->prompt_logprobs = a->wants_tokens && (w->flags & WIRE_ECHO) != 0;
    for (uint32_t i = 0; i < c->eos_count && !(w->flags & WIRE_IGNORE_EOS); i++)
        r->stop_tokens[r->stop_token_count++] = c->eos_ids[i];
}

/* Tells the choices' echo; ends them when there is nothing to compute. */
static void begin_text(struct session *s, struct answer *a, const struct buf *echo, bool computes)
{
    for (uint32_t i = 0, count = a->choice_count; i < count; i++) {
        struct answer_choice *c = &a->choices[i];
        if (!computes)
            finish_choice(s, a, c, echo, WIRE_FINISH_LENGTH);
        else if (echo->len > 0)
            put_text(s, a, c, echo, 0, WIRE_GOES_ON);
    }
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
    s->choices_waiting += a->choice_count;
    fill_request(s, a, w);
    bool computes = a->engine.tokens_new_max > 0 || a->engine.prompt_logprobs;
    r = computes ? begin_choices(s, a, &err) : 0;
    if (r < 0) {
        fail_to_begin(s, a, r, err.text);
    } else {
        struct wire_admitted admitted = {.request = a->request, .prompt_tokens = a->prompt_tokens};
        session_put(s, WIRE_ADMITTED, &admitted, sizeof admitted, NULL, 0);
        if (!(w->flags & WIRE_ECHO))
            buf_clear(&echo);
        begin_text(s, a, &echo, computes);
    }
    buf_free(&echo);
}

int session_submit(struct session *s, const struct wire_record *r, int fd, struct error *err)
{
    cleanup_fd int own = fd;
    struct wire_submit w;
    memcpy(&w, r->fixed, sizeof w);
    if (s->engine == NULL || w.slot >= SESSION_SLOTS_MAX || !s->slots[w.slot].bound)
        return error_set(err, -EPROTO, "SUBMIT for a slot that is not bound");
    if (w.choices == 0 || w.choices > s->sequences_max)
        return error_set(err, -EPROTO, "SUBMIT for %u choices", w.choices);
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
            finish(s, &s->answers[i]);
    }
    begin_waiting(s);
}

/* --- a step --- */

static struct answer *answer_of(struct session *s, uint32_t sequence,
                                struct answer_choice **ret_choice)
{
    for (uint32_t i = 0; i < SESSION_ANSWERS_MAX; i++) {
        struct answer *a = &s->answers[i];
        for (uint32_t n = 0; n < a->choice_count; n++) {
            *ret_choice = &a->choices[n];
            if (a->choices[n].state == CHOICE_RUNS && a->choices[n].sequence == sequence)
                return a;
        }
    }
    return NULL;
}

/* 1: a stop string, or what is at the end of the text, ends the choice. `text` is what that leaves
 * to be given out with the end. */
static int give_out(struct session *s, struct answer *a, struct answer_choice *c,
                    const struct engine_output *o, struct buf *text)
{
    bool is_end = o->finish == ENGINE_STOP_TOKEN; /* the token that ends the text is no text */
    int stop = 0;
    if (o->has_token) {
        a->completion_tokens++;
        c->token_count++;
        stop = is_end ? 0 : answer_push(a, c, o->token, text);
    }
    int r = stop < 0 ? stop : 0;
    if (r == 0 && a->wants_tokens && !is_end)
        r = put_token(s, a, c, o, text);
    else if (r == 0 && o->has_token)
        put_text(s, a, c, text, 1, WIRE_GOES_ON);
    buf_clear(text);
    if (r == 0 && stop == 0 && o->finish != ENGINE_GOES_ON)
        r = answer_flush(a, c, text);
    return r < 0 ? r : stop | r;
}

static void on_output(struct session *s, const struct engine_output *o)
{
    struct answer_choice *c;
    struct answer *a = answer_of(s, o->sequence, &c);
    if (a == NULL)
        return; /* ended by a stop string or a cancel in this very step */
    if (o->finish == ENGINE_OUT_OF_KV) {
        fail_for_memory(s, a, "the answer outgrew the KV cache of its worker");
        return;
    }
    struct buf text;
    buf_init(&text, ANSWER_HELD_BYTES_MAX);
    int r = give_out(s, a, c, o, &text);
    if (r < 0) {
        const struct answer_refusal refusal = {.status = 500, .code = "", .param = ""};
        fail(s, a, &refusal, "the answer could not be written: out of memory");
    } else if (r == 1 || o->finish == ENGINE_STOP_TOKEN) {
        finish_choice(s, a, c, &text, WIRE_FINISH_STOP);
    } else if (o->finish == ENGINE_LENGTH) {
        finish_choice(s, a, c, &text, WIRE_FINISH_LENGTH);
    }
    buf_free(&text);
}

/* A step's time goes to those who were in it, by their rows. */
static void charge(struct session *s, uint64_t us, uint32_t rows)
{
    if (rows == 0)
        return;
    for (uint32_t i = 0; i < SESSION_ANSWERS_MAX; i++) {
        struct answer *a = &s->answers[i];
        for (uint32_t n = 0; n < a->choice_count; n++) {
            if (a->choices[n].state == CHOICE_RUNS)
                a->device_us += us * engine_rows_of(s->engine, a->choices[n].sequence) / rows;
        }
    }
}

/* The memory limit was hit: the youngest answer gives way, the others go on. */
static int shed(struct session *s, const struct error *reason, struct error *err)
{
    struct answer *youngest = NULL;
    for (uint32_t i = 0; i < SESSION_ANSWERS_MAX; i++) {
        struct answer *a = &s->answers[i];
        if (a->active && (youngest == NULL || a->request > youngest->request))
            youngest = a;
    }
    if (youngest == NULL)
        return error_set(err, -ENOMEM, "%s", reason->text);
    fail_for_memory(s, youngest, "the worker's memory limit was reached");
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
    if (r == -ENOMEM && (s->gpu == NULL || !gpu_has_failed(s->gpu))) {
        r = shed(s, &reason, err);
        begin_waiting(s);
        return r;
    }
    if (r < 0)
        return error_set(err, r, "%s", reason.text);
    s->turn.device_us += took_us;
    s->turn.steps += stats.rows > 0;
    s->turn.stalled = stats.rows == 0 && stats.output_count == 0;
    s->turn.prompt_rows += stats.prompt_rows;
    s->turn.decode_rows += stats.rows - stats.prompt_rows;
    charge(s, took_us, stats.rows);
    for (uint32_t i = 0; i < stats.output_count; i++)
        on_output(s, &outputs[i]);
    begin_waiting(s);
    return 0;
}

void session_take_turn(struct session *s, const struct wire_grant *g)
{
    s->turn = (struct session_turn){.held = true, .number = g->turn};
    if (s->engine == NULL)
        return;
    engine_prompt_rows(s->engine, g->prompt_rows);
    engine_prompts_first(s->engine, g->prompts_first != 0);
}

void session_end_turn(struct session *s)
{
    struct wire_turn_ended t = {
        .turn = s->turn.number,
        .device_us = s->turn.device_us,
        .steps = s->turn.steps,
        .prompt_rows = s->turn.prompt_rows,
        .decode_rows = s->turn.decode_rows,
        .has_work = engine_has_work(s->engine),
        .is_stalled = s->turn.stalled,
        .kv_bytes = engine_kv_bytes(s->engine),
    };
    session_put(s, WIRE_TURN_ENDED, &t, sizeof t, NULL, 0);
    s->turn = (struct session_turn){0};
}
