/*
 * Requests. A call is born when the gateway hands over a well-formed request, waits in the core,
 * travels to a worker, and turns the worker's records into the answer. The prompt stays unread: the
 * body goes to the worker as it came.
 */
#include "daemon/daemon.h"

#include "base/clock.h"
#include "base/log.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Larger bodies travel in a sealed memory file beside the record. */
#define BODY_INLINE_BYTES_MAX (32u << 10)
#define TOKENS_MAX 64u
#define BYTES_OF_TOKEN 4
#define RETRY_AFTER_S_MAX 3600u

struct call *call_find(struct daemon *d, uint64_t id)
{
    uint32_t index = (uint32_t)(id & 0xffffff);
    if (id == 0 || index >= d->calls_max || d->calls[index].id != id)
        return NULL;
    return &d->calls[index];
}

static struct call *call_new(struct daemon *d)
{
    if (d->calls_free == SCHED_NONE)
        return NULL;
    uint32_t index = d->calls_free;
    struct call *c = &d->calls[index];
    d->calls_free = c->next_free;
    *c = (struct call){.id = ++d->call_sequence << 24 | index, .worker = SCHED_NONE};
    d->calls_live++;
    return c;
}

static void call_free(struct daemon *d, struct call *c)
{
    free(c->body);
    uint32_t index = (uint32_t)(c - d->calls);
    *c = (struct call){.next_free = d->calls_free};
    d->calls_free = index;
    d->calls_live--;
}

static uint64_t fresh_seed(const struct call *c)
{
    /* Not a secret: it only has to differ from request to request. */
    return c->id * 0x9e3779b97f4a7c15u ^ c->arrived_us;
}

static void fill_submit(struct call *c, const struct infer_request *r)
{
    uint32_t flags = 0;
    flags |= r->kind == INFER_CHAT ? WIRE_CHAT : 0;
    flags |= r->stream ? WIRE_STREAM : 0;
    flags |= r->logprobs ? WIRE_LOGPROBS : 0;
    flags |= r->echo ? WIRE_ECHO : 0;
    flags |= r->ignore_eos ? WIRE_IGNORE_EOS : 0;
    flags |= r->show_special ? WIRE_SHOW_SPECIAL : 0;
    c->submit = (struct wire_submit){
        .request = c->id,
        .seed = r->has_seed ? r->seed : fresh_seed(c),
        .body_bytes = r->body_bytes,
        .flags = flags,
        .max_tokens = r->max_tokens,
        .top_logprobs = r->top_logprobs,
        .top_k = r->top_k,
        .temperature = r->temperature,
        .top_p = r->top_p,
        .min_p = r->min_p,
        .adapter_scale = r->adapter_scale,
        .presence_penalty = r->presence_penalty,
        .frequency_penalty = r->frequency_penalty,
        .repetition_penalty = r->repetition_penalty,
        .min_tokens = r->min_tokens,
        .choices = r->choices,
    };
    c->choices_left = r->choices;
}

/* --- names --- */

static bool is_backbone_of(const struct daemon *d, uint32_t function, const char *name, size_t len)
{
    const char *label = d->backbones[d->functions[function].backbone].image.label;
    return strlen(label) == len && memcmp(label, name, len) == 0;
}

/* FUNCTION, or BACKBONE:FUNCTION when that is where the function is. */
static uint32_t find_named(const struct daemon *d, const char *name)
{
    const char *colon = strrchr(name, ':');
    if (colon == NULL)
        return function_find(d, name);
    uint32_t f = function_find(d, colon + 1);
    bool there = f != SCHED_NONE && is_backbone_of(d, f, name, (size_t)(colon - name));
    return there ? f : SCHED_NONE;
}

static int refuse(struct infer_refusal *ret, int status, const char *code, const char *param,
                  struct error *err)
{
    *ret = (struct infer_refusal){status, code, param};
    return err->code;
}

static int no_such_function(const char *name, const char *param, struct infer_refusal *ret,
                            struct error *err)
{
    error_set(err, -ENOENT,
              "The model '%.64s' does not exist: GET /v1/models lists what is deployed", name);
    return refuse(ret, 404, "model_not_found", param, err);
}

/* The one function that all the request's names mean. */
static int find_function(const struct daemon *d, const struct infer_request *r, uint32_t *ret,
                         struct infer_refusal *ret_refusal, struct error *err)
{
    const struct {
        const char *param, *name;
    } others[] = {{"adapter_id", r->adapter_id}, {"lora[0].id", r->lora_id}};
    uint32_t found = SCHED_NONE;
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        if (others[i].name == NULL)
            continue;
        uint32_t f = find_named(d, others[i].name);
        if (f == SCHED_NONE)
            return no_such_function(others[i].name, others[i].param, ret_refusal, err);
        if (found != SCHED_NONE && f != found) {
            error_set(err, -EINVAL, "adapter_id and lora name different functions: name one");
            return refuse(ret_refusal, 400, NULL, others[i].param, err);
        }
        found = f;
    }
    uint32_t f = r->model != NULL ? find_named(d, r->model) : found;
    bool is_backbone = f == SCHED_NONE && found != SCHED_NONE &&
                       is_backbone_of(d, found, r->model, strlen(r->model));
    if (f == SCHED_NONE && found == SCHED_NONE)
        return no_such_function(r->model, "model", ret_refusal, err);
    if (found != SCHED_NONE && f != found && !is_backbone) {
        error_set(err, -EINVAL,
                  "model '%.64s' is neither the function that %s names nor its backbone: leave "
                  "model out",
                  r->model, r->adapter_id != NULL ? "adapter_id" : "lora");
        return refuse(ret_refusal, 400, NULL, "model", err);
    }
    *ret = found != SCHED_NONE ? found : f;
    return 0;
}

/* --- unknown fields --- */

static void name_unknown_field(struct daemon *d, const char *field)
{
    char name[UNKNOWN_FIELD_BYTES];
    snprintf(name, sizeof name, "%s", field);
    for (char *c = name; *c != '\0'; c++)
        *c = *c > ' ' && *c <= '~' && *c != '"' ? *c : '?';
    for (uint32_t i = 0; i < d->unknown_field_count; i++) {
        if (strcmp(d->unknown_fields[i], name) == 0)
            return;
    }
    if (d->unknown_field_count == UNKNOWN_FIELDS_MAX)
        return;
    memcpy(d->unknown_fields[d->unknown_field_count++], name, sizeof name);
    log_info("calls", "unknown field=%s of a request is ignored, now and later%s", name,
             d->unknown_field_count == UNKNOWN_FIELDS_MAX ? "; no more such fields are named" : "");
}

/* --- requests --- */

static int check_choices(const struct daemon *d, const struct infer_request *r,
                         struct infer_refusal *ret_refusal, struct error *err)
{
    uint32_t max = d->config.sched.worker_running_max;
    if (r->choices <= max)
        return 0;
    error_set(err, -EINVAL, "n is %u: a worker of this server computes at most %u sequences",
              r->choices, max);
    return refuse(ret_refusal, 400, NULL, "n", err);
}

/* The prompt is not read here: roughly. The worker says how many there are (ADMITTED). */
static uint32_t prompt_tokens(const struct infer_request *r)
{
    return (uint32_t)(r->body_bytes / BYTES_OF_TOKEN) + 1;
}

static uint32_t new_tokens_max(const struct infer_request *r)
{
    uint64_t tokens = (uint64_t)r->max_tokens * r->choices;
    return tokens < UINT32_MAX ? (uint32_t)tokens : UINT32_MAX;
}

int call_infer(void *context, struct exchange *x, const struct infer_request *r,
               struct infer_refusal *ret_refusal, struct error *err)
{
    struct daemon *d = context;
    uint32_t function = SCHED_NONE;
    int found = find_function(d, r, &function, ret_refusal, err);
    if (found == 0)
        found = check_choices(d, r, ret_refusal, err);
    if (found < 0)
        return found;
    for (uint32_t i = 0; i < r->unknown_count; i++)
        name_unknown_field(d, r->unknown[i]);
    /* What runs must be able to leave its receipt. */
    bool is_full = ledger_waiting(d->ledger) > LEDGER_ROWS_MAX - d->config.sched.requests_max;
    struct call *c = d->stopping || is_full ? NULL : call_new(d);
    char *body = c == NULL ? NULL : malloc(r->body_bytes + 1);
    if (body == NULL) {
        if (c != NULL)
            call_free(d, c);
        error_set(err, -EBUSY,
                  d->stopping ? "The server is shutting down"
                  : is_full   ? "The server cannot write its ledger, so it takes no requests; its "
                                "log says why"
                              : "The server is full: try again shortly");
        return refuse(ret_refusal, 503, d->stopping ? "shutting_down" : "server_full", NULL, err);
    }
    memcpy(body, r->body, r->body_bytes);
    body[r->body_bytes] = '\0';
    c->x = x;
    c->body = body;
    c->body_bytes = r->body_bytes;
    c->function = function;
    c->arrived_us = clock_now_us();
    fill_submit(c, r);
    d->functions[function].requests++;
    struct sched_function_view view;
    sched_function_view(d->sched, c->arrived_us, function, &view);
    c->cold = view.worker == SCHED_NONE || view.state == SCHED_STARTING;
    exchange_set_context(x, c);
    struct sched_event e = {.type = SCHED_REQUEST,
                            .function = function,
                            .request = c->id,
                            .tokens = prompt_tokens(r),
                            .more_tokens = new_tokens_max(r)};
    daemon_event(d, &e);
    return 0;
}

void call_gone(void *context, struct exchange *x)
{
    struct daemon *d = context;
    struct call *c = exchange_context(x);
    if (c == NULL) {
        deploy_client_gone(d, x);
        return;
    }
    c->x = NULL;
    d->totals.client_gone++;
    struct sched_event e = {.type = SCHED_CLIENT_GONE, .request = c->id};
    daemon_event(d, &e);
    /* A waiting request is forgotten by the core at once; a running one ends with DONE. */
    if (c->worker == SCHED_NONE)
        call_free(d, c);
}

static int body_file(const struct call *c)
{
    int fd = memfd_create("sllora-body", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    if (write(fd, c->body, c->body_bytes) != (ssize_t)c->body_bytes ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0) {
        int r = -errno;
        close(fd);
        return r;
    }
    return fd;
}

static void fail(struct daemon *d, struct call *c, int status, const char *code, const char *param,
                 uint32_t retry_after_s, const char *message)
{
    d->totals.failed++;
    d->functions[c->function].failures++;
    if (c->x != NULL)
        exchange_error(c->x, status, code, param, retry_after_s, message);
    c->x = NULL;
}

void call_submit(struct daemon *d, const struct sched_action *a)
{
    struct call *c = call_find(d, a->request);
    struct worker_slot *w = &d->workers[a->worker];
    assert(c != NULL);
    if (w->proc == NULL)
        return; /* Its end is an event on the way; the core refuses the request then. */
    c->submit.slot = a->slot;
    c->submit.wall_us = clock_wall_us();
    c->submit.deadline_us = a->us;
    c->worker = a->worker;
    c->submitted_us = clock_now_us();
    bool is_inline = c->body_bytes <= BODY_INLINE_BYTES_MAX;
    int fd = is_inline ? -1 : body_file(c);
    if (!is_inline && fd < 0) {
        proc_kill(w->proc); /* Out of descriptors or memory: the request is answered as lost. */
        return;
    }
    proc_put(w->proc, WIRE_SUBMIT, &c->submit, sizeof c->submit, c->body,
             is_inline ? c->body_bytes : 0, fd);
    if (fd >= 0)
        close(fd);
    free(c->body);
    c->body = NULL;
    if (c->cold) {
        d->totals.cold_starts++;
        d->functions[c->function].cold_starts++;
    }
    if (c->x != NULL) {
        uint64_t waited_us = c->submitted_us - c->arrived_us;
        struct infer_timing t = {.queue_us = c->cold ? 0 : waited_us,
                                 .cold_us = c->cold ? waited_us : 0};
        exchange_timing(c->x, &t);
    }
}

struct refusal {
    int status;
    uint32_t retry_after_s; /* where the core does not know better; 0: it is no use */
    const char *code;
    const char *message;
};

static const struct refusal refusals[SCHED_REASON_COUNT] = {
    [SCHED_REASON_NONE] = {500, 0, "request_lost", "The request was lost; send it again"},
    [SCHED_FUNCTION_QUEUE_FULL] = {429, 1, "rate_limit_exceeded",
                                   "Too many requests are waiting for this function"},
    [SCHED_OWNER_LIMIT] =
        {429, 1, "rate_limit_exceeded",
         "This function's owner has as many requests waiting or running as he may "
         "have (sllora owner)"},
    [SCHED_SERVER_FULL] = {503, 1, "server_full", "Too many requests are waiting"},
    [SCHED_TOO_LARGE] = {503, 0, "insufficient_memory",
                         "This function's backbone does not fit the server's memory budget; "
                         "start sllora serve with a larger --memory"},
    [SCHED_TOO_LATE] = {503, 1, "objective_unattainable",
                        "So much is waiting that the first token would come later than the "
                        "function's objective (--slo-ttft) allows; come again shortly"},
    [SCHED_WORKER_LOST] = {500, 0, "worker_lost",
                           "The process that ran this request ended before the answer was "
                           "complete; other requests are not affected, send it again"},
    [SCHED_START_FAILED] = {503, 5, "start_failed",
                            "No process for this function could be started; the server's log "
                            "says why"},
    [SCHED_LOAD_FAILED] = {503, 5, "load_failed",
                           "The function's backbone could not be loaded; the server's log says "
                           "why"},
    [SCHED_ADAPTER_FAILED] = {503, 5, "adapter_failed",
                              "The function's adapter could not be loaded; the server's log says "
                              "why"},
    [SCHED_FUNCTION_GONE] = {404, 0, "model_not_found", "The function was removed"},
};

static void refuse_call(struct daemon *d, struct call *c, const struct sched_action *a)
{
    assert(a->reason < SCHED_REASON_COUNT);
    const struct refusal *r = &refusals[a->reason];
    uint64_t retry_s = a->us > 0 ? (a->us + 999999) / 1000000 : r->retry_after_s;
    d->totals.refused++;
    d->totals.refused_by[a->reason]++;
    fail(d, c, r->status, r->code, NULL,
         retry_s < RETRY_AFTER_S_MAX ? (uint32_t)retry_s : RETRY_AFTER_S_MAX, r->message);
    call_free(d, c);
}

void call_refuse(struct daemon *d, const struct sched_action *a)
{
    struct call *c = call_find(d, a->request);
    const struct function_entry *f = &d->functions[a->function];
    journal_put(d->journal, f->f.name, f->f.generation, "request=%llx refused: %s",
                (unsigned long long)a->request, sched_reason_name(a->reason));
    if (c != NULL)
        refuse_call(d, c, a);
}

void call_receipt(struct daemon *d, const struct sched_action *a)
{
    struct call *c = call_find(d, a->request);
    if (c == NULL)
        return;
    if (!a->receipt.completed) {
        refuse_call(d, c, a);
        return;
    }
    c->ended_next = d->calls_ended;
    d->calls_ended = (uint32_t)(c - d->calls);
}

void calls_finish(struct daemon *d)
{
    while (d->calls_ended != SCHED_NONE) {
        struct call *c = &d->calls[d->calls_ended];
        d->calls_ended = c->ended_next;
        if (c->x != NULL)
            exchange_finish(c->x, &c->usage);
        call_free(d, c);
    }
}

/* --- what the worker says --- */

struct token_reader {
    const uint8_t *at;
    size_t left;
};

static const void *read_bytes(struct token_reader *r, size_t bytes)
{
    size_t padded = (bytes + 3) & ~(size_t)3;
    if (padded > r->left)
        return NULL;
    const void *p = r->at;
    r->at += padded;
    r->left -= padded;
    return p;
}

static bool read_token(struct token_reader *r, struct infer_token *t,
                       struct infer_alternative top[INFER_TOP_LOGPROBS_MAX])
{
    const struct wire_token *w = read_bytes(r, sizeof *w);
    if (w == NULL || w->top_count > INFER_TOP_LOGPROBS_MAX)
        return false;
    const char *bytes = read_bytes(r, w->byte_count);
    if (bytes == NULL)
        return false;
    for (uint32_t i = 0; i < w->top_count; i++) {
        const struct wire_alternative *a = read_bytes(r, sizeof *a);
        const char *text = a == NULL ? NULL : read_bytes(r, a->byte_count);
        if (text == NULL)
            return false;
        top[i] = (struct infer_alternative){
            .bytes = text, .byte_count = a->byte_count, .logprob = a->logprob};
    }
    *t = (struct infer_token){.bytes = bytes,
                              .byte_count = w->byte_count,
                              .has_logprob = w->has_logprob != 0,
                              .logprob = w->logprob,
                              .top_count = w->top_count,
                              .top = top};
    return true;
}

/* A choice of this request, not ended before. */
static bool choice_goes_on(const struct call *c, const struct wire_tokens *t)
{
    return t->choice < c->submit.choices && t->finish <= WIRE_FINISH_LENGTH &&
           !(c->choices_ended[t->choice / 8] & 1u << t->choice % 8);
}

static void tell_piece(struct daemon *d, struct call *c, const struct wire_tokens *t,
                       const char *text, const struct infer_token *tokens)
{
    static const char *const reasons[] = {
        [WIRE_GOES_ON] = NULL, [WIRE_FINISH_STOP] = "stop", [WIRE_FINISH_LENGTH] = "length"};
    const struct infer_piece p = {.choice = t->choice,
                                  .text = text,
                                  .text_bytes = t->text_bytes,
                                  .tokens = tokens,
                                  .token_count = t->token_count,
                                  .finish = reasons[t->finish],
                                  .usage = {c->prompt_tokens, c->completion_tokens, 0}};
    d->totals.finished_stop += t->finish == WIRE_FINISH_STOP;
    d->totals.finished_length += t->finish == WIRE_FINISH_LENGTH;
    exchange_piece(c->x, &p);
}

static bool on_tokens(struct daemon *d, struct call *c, const struct wire_record *r)
{
    const struct wire_tokens *t = r->fixed;
    if (t->text_bytes > r->tail_bytes || t->token_count > TOKENS_MAX || !choice_goes_on(c, t))
        return false;
    struct infer_token tokens[TOKENS_MAX];
    struct infer_alternative top[TOKENS_MAX][INFER_TOP_LOGPROBS_MAX];
    size_t text_padded = ((size_t)t->text_bytes + 3) & ~(size_t)3;
    if (t->token_count > 0 && text_padded > r->tail_bytes)
        return false;
    struct token_reader reader = {r->tail + text_padded,
                                  t->token_count > 0 ? r->tail_bytes - text_padded : 0};
    for (uint32_t i = 0; i < t->token_count; i++) {
        if (!read_token(&reader, &tokens[i], top[i]))
            return false;
    }
    if (!c->first_token && t->tokens_new > 0) {
        uint64_t took_us = clock_now_us() - c->arrived_us;
        c->first_token = true;
        histogram_add(&d->totals.ttft, took_us);
        histogram_add(&d->functions[c->function].ttft, took_us);
    }
    struct sched_event e = {.type = SCHED_TOKENS, .request = c->id, .tokens = t->tokens_new};
    daemon_event(d, &e);
    c->completion_tokens += t->tokens_new;
    if (t->finish != WIRE_GOES_ON) {
        c->choices_left--;
        c->choices_ended[t->choice / 8] |= (uint8_t)(1u << t->choice % 8);
    }
    if (c->x != NULL)
        tell_piece(d, c, t, (const char *)r->tail, tokens);
    return true;
}

/* The core's receipt is what ends it. */
static void end(struct daemon *d, const struct call *c, const struct wire_done *done)
{
    /* A worker's word is worth no more than the time that passed. */
    uint64_t passed_us = clock_now_us() - c->submitted_us;
    uint64_t device_us = done->device_us < passed_us ? done->device_us : passed_us;
    struct sched_event e = {.type = SCHED_DONE,
                            .request = c->id,
                            .tokens = done->prompt_tokens,
                            .more_tokens = done->completion_tokens,
                            .steps = done->cached_tokens,
                            .us = device_us};
    daemon_event(d, &e);
}

static bool on_done(struct daemon *d, struct call *c, const struct wire_done *done)
{
    if (c->x != NULL && c->choices_left > 0)
        return false;
    struct function_entry *f = &d->functions[c->function];
    f->tokens_prompt += done->prompt_tokens;
    f->tokens_queried += d->config.prefix_cache ? done->prompt_tokens : 0;
    f->tokens_cached += done->cached_tokens;
    f->tokens_new += done->completion_tokens;
    f->device_us += done->device_us;
    f->worker_us += done->worker_us;
    c->usage =
        (struct infer_usage){done->prompt_tokens, done->completion_tokens, done->cached_tokens};
    if (c->x != NULL)
        histogram_add(&d->totals.e2e, clock_now_us() - c->arrived_us);
    end(d, c, done);
    return true;
}

static void on_failed(struct daemon *d, struct call *c, const struct wire_record *r)
{
    const struct wire_failed *f = r->fixed;
    char message[ERROR_TEXT_BYTES], code[sizeof f->code], param[sizeof f->param];
    snprintf(message, sizeof message, "%.*s", (int)r->tail_bytes, (const char *)r->tail);
    snprintf(code, sizeof code, "%.*s", (int)sizeof f->code - 1, f->code);
    snprintf(param, sizeof param, "%.*s", (int)sizeof f->param - 1, f->param);
    int status = f->status >= 400 && f->status <= 599 ? (int)f->status : 500;
    const struct wire_done nothing = {.request = c->id};
    fail(d, c, status, code[0] != '\0' ? code : NULL, param[0] != '\0' ? param : NULL, 0, message);
    end(d, c, &nothing);
}

void call_record(struct daemon *d, uint32_t worker, const struct wire_record *r)
{
    /* Every record that comes here begins with the request's id. */
    uint64_t id;
    memcpy(&id, r->fixed, sizeof id);
    struct call *c = call_find(d, id);
    if (c == NULL || c->worker != worker)
        return; /* A worker may speak of its own requests only. */
    if (r->type == WIRE_ADMITTED) {
        const struct wire_admitted *a = r->fixed;
        c->prompt_tokens = a->prompt_tokens;
        struct sched_event e = {.type = SCHED_ADMITTED, .request = id, .tokens = a->prompt_tokens};
        daemon_event(d, &e);
    } else if (r->type == WIRE_TOKENS) {
        if (!on_tokens(d, c, r))
            proc_kill(d->workers[worker].proc);
    } else if (r->type == WIRE_DONE) {
        if (!on_done(d, c, r->fixed))
            proc_kill(d->workers[worker].proc);
    } else {
        assert(r->type == WIRE_FAILED);
        on_failed(d, c, r);
    }
}
