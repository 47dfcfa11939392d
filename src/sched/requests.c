/*
 * The requests of the picture: one table, one hash, intrusive lists; admission, and what a request
 * used while it was there. See state.h.
 */
#include "sched/plan.h"

#include <assert.h>

/* Waiting, a request with an objective of its own is given up when it has taken so many times as
 * long as it may. */
#define GIVE_UP_BUDGETS 2

static uint32_t index_of(const struct sched *s, const struct request *r)
{
    return (uint32_t)(r - s->requests);
}

static uint32_t bucket_of(const struct sched *s, uint64_t id)
{
    return (uint32_t)((id * 0x9e3779b97f4a7c15u) >> 32) & (s->bucket_count - 1);
}

struct request *request_find(struct sched *s, uint64_t id)
{
    for (uint32_t i = s->buckets[bucket_of(s, id)]; i != SCHED_NONE; i = s->requests[i].hash_next) {
        struct request *r = &s->requests[i];
        if (r->id == id && (r->state == REQUEST_WAITING || r->state == REQUEST_RUNNING))
            return r;
    }
    return NULL;
}

void list_append(struct sched *s, struct list *l, struct request *r)
{
    uint32_t i = index_of(s, r);
    r->next = SCHED_NONE;
    r->prev = l->tail;
    if (l->tail == SCHED_NONE)
        l->head = i;
    else
        s->requests[l->tail].next = i;
    l->tail = i;
    l->count++;
}

void list_remove(struct sched *s, struct list *l, struct request *r)
{
    assert(l->count > 0);
    if (r->prev == SCHED_NONE)
        l->head = r->next;
    else
        s->requests[r->prev].next = r->next;
    if (r->next == SCHED_NONE)
        l->tail = r->prev;
    else
        s->requests[r->next].prev = r->prev;
    l->count--;
}

static void hungry_add(struct sched *s, struct domain *d)
{
    uint32_t i = (uint32_t)(d - s->domains);
    struct backbone *b = &s->backbones[d->key.backbone];
    d->hungry_prev = SCHED_NONE;
    d->hungry_next = b->hungry_head;
    if (b->hungry_head != SCHED_NONE)
        s->domains[b->hungry_head].hungry_prev = i;
    b->hungry_head = i;
}

static void hungry_remove(struct sched *s, struct domain *d)
{
    if (d->hungry_prev == SCHED_NONE)
        s->backbones[d->key.backbone].hungry_head = d->hungry_next;
    else
        s->domains[d->hungry_prev].hungry_next = d->hungry_next;
    if (d->hungry_next != SCHED_NONE)
        s->domains[d->hungry_next].hungry_prev = d->hungry_prev;
}

/* --- arrival --- */

static struct request *request_take(struct sched *s, const struct sched_event *e)
{
    assert(s->request_free != SCHED_NONE); /* plan after at most requests_max events */
    uint32_t i = s->request_free;
    struct request *r = &s->requests[i];
    s->request_free = r->next;
    uint32_t bucket = bucket_of(s, e->request);
    *r = (struct request){.id = e->request,
                          .receipt = {.arrived_us = e->now_us},
                          .give_up_us = UINT64_MAX,
                          .function = e->function,
                          .worker = SCHED_NONE,
                          .slot = SCHED_NONE,
                          .prompt_tokens = e->tokens,
                          .new_tokens_max = e->more_tokens,
                          .hash_next = s->buckets[bucket]};
    s->buckets[bucket] = i;
    return r;
}

static enum sched_reason reason_of(enum route_verdict v)
{
    static const enum sched_reason reasons[] = {
        [ROUTE_ACCEPT] = SCHED_REASON_NONE,
        [ROUTE_FUNCTION_QUEUE_FULL] = SCHED_FUNCTION_QUEUE_FULL,
        [ROUTE_OWNER_LIMIT] = SCHED_OWNER_LIMIT,
        [ROUTE_SERVER_FULL] = SCHED_SERVER_FULL,
        [ROUTE_TOO_LARGE] = SCHED_TOO_LARGE,
        [ROUTE_TOO_LATE] = SCHED_TOO_LATE,
    };
    return reasons[v];
}

static void refuse(struct sched *s, struct request *r, enum sched_reason reason, uint64_t retry_us)
{
    r->state = REQUEST_REFUSED;
    r->reason = reason;
    r->retry_us = retry_us;
    list_append(s, &s->told, r);
}

/* What admission asks; fills the request's deadline. */
static enum route_verdict admit(struct sched *s, struct request *r, uint64_t now_us,
                                uint64_t *ret_retry_us)
{
    const struct function *f = &s->functions[r->function];
    struct start_forecast start = forecast_start(s, r->function, r->prompt_tokens, now_us);
    const struct route_load load = {
        .function_waiting = f->waiting,
        .function_waiting_max = s->config.function_waiting_max,
        .owner_live = s->owner_live[f->owner],
        .owner_live_max = s->owner_max[f->owner],
        .requests = s->live,
        .requests_max = s->config.requests_max,
        .fits = start.device != SCHED_NONE,
        .has_deadline = f->has_slo,
        .alone_us = start.alone_us,
        .backlog_us = start.backlog_us,
        .slo_us = (double)f->slo_ttft_us,
    };
    double budget_us = route_budget_us(&load);
    r->deadline_us = now_us + maths_us(f->has_slo ? budget_us : (double)f->slo_ttft_us);
    if (f->has_slo)
        r->give_up_us = now_us + maths_us(GIVE_UP_BUDGETS * budget_us);
    return route_admit(&load, ret_retry_us);
}

void request_arrive(struct sched *s, const struct sched_event *e)
{
    assert(request_find(s, e->request) == NULL);
    struct function *f = &s->functions[e->function];
    struct request *r = request_take(s, e);
    uint64_t retry_us = 0;
    if (!f->used || f->removing) {
        refuse(s, r, SCHED_FUNCTION_GONE, 0);
        return;
    }
    forecast_arrival(&f->forecast, e->now_us);
    forecast_arrival(&s->backbones[f->backbone].forecast, e->now_us);
    function_touch(s, e->function);
    enum route_verdict verdict = admit(s, r, e->now_us, &retry_us);
    if (verdict != ROUTE_ACCEPT) {
        refuse(s, r, reason_of(verdict), retry_us);
        return;
    }
    struct domain *d = &s->domains[f->domain];
    if (d->waiting.count == 0)
        hungry_add(s, d);
    if (d->waiting.count == 0 || r->give_up_us < d->give_up_us)
        d->give_up_us = r->give_up_us;
    list_append(s, &d->waiting, r);
    r->state = REQUEST_WAITING;
    f->waiting++;
    s->backbones[f->backbone].waiting++;
    s->owner_live[f->owner]++;
    s->live++;
    domain_look(s, f->domain);
}

/* --- leaving lists --- */

static void unwait(struct sched *s, struct request *r)
{
    struct function *f = &s->functions[r->function];
    struct domain *d = &s->domains[f->domain];
    list_remove(s, &d->waiting, r);
    if (d->waiting.count == 0) {
        hungry_remove(s, d);
        domain_unblock(s, d);
        domain_unwanted(s, f->domain);
        domain_look(s, f->domain); /* nothing is to be started for it any more */
    }
    f->waiting--;
    s->backbones[f->backbone].waiting--;
    domain_claims_less(s, f->domain);
}

void request_answered(struct sched *s, struct request *r)
{
    if (r->state != REQUEST_RUNNING || r->prefill_us <= 0)
        return;
    struct device *v = &s->devices[s->workers[r->worker].device];
    assert(v->unanswered > 0);
    v->unanswered--;
    /* Sums of what comes and goes do not end at 0 by themselves. */
    v->backlog_us = v->unanswered == 0 ? 0 : maths_max(v->backlog_us - r->prefill_us, 0);
    r->prefill_us = 0;
}

/* Its shares of worker, adapter and backbone end. */
static void settle(struct sched *s, struct request *r, uint64_t now_us)
{
    struct worker *w = &s->workers[r->worker];
    struct slot *slot = &w->slots[r->slot];
    double own = meter_leave(&w->clock, now_us, r->own_mark);
    if (slot->copy != SCHED_NONE)
        own += meter_leave(&s->copies[slot->copy].clock, now_us, r->adapter_mark);
    double backbone = meter_leave(&s->copies[w->copy].clock, now_us, r->backbone_mark);
    r->receipt.own_byte_s = own / 1e6;
    r->receipt.backbone_byte_s = backbone / 1e6;
    r->receipt.total_us = now_us > r->receipt.arrived_us ? now_us - r->receipt.arrived_us : 0;
}

static void unrun(struct sched *s, struct request *r, uint64_t now_us)
{
    struct worker *w = &s->workers[r->worker];
    struct function *f = &s->functions[r->function];
    request_answered(s, r);
    settle(s, r, now_us);
    list_remove(s, &w->running, r);
    w->slots[r->slot].running--;
    w->kv_reserved -= r->kv_bytes;
    w->stalled = false; /* there is more for the others now */
    if (r->cancel_due)
        s->cancels_due--;
    f->running--;
    s->running--;
    domain_look(s, f->domain);
    device_look(s, w->device);
    if (w->running.count > 0)
        return;
    s->devices[w->device].active--;
    worker_rest(s, w, now_us);
    place_unblock(s, w->device); /* it may go now */
}

static void unlink_live(struct sched *s, struct request *r, uint64_t now_us)
{
    struct function *f = &s->functions[r->function];
    if (r->state == REQUEST_WAITING)
        unwait(s, r);
    else
        unrun(s, r, now_us);
    s->owner_live[f->owner]--;
    s->live--;
    if (function_is_forgettable(f))
        s->forgets_due = 1;
}

/* --- running --- */

void request_run(struct sched *s, struct request *r, uint32_t worker, uint32_t slot,
                 uint64_t now_us)
{
    struct function *f = &s->functions[r->function];
    struct worker *w = &s->workers[worker];
    assert(r->state == REQUEST_WAITING);
    assert(w->slots[slot].state == SLOT_BOUND);
    assert(w->slots[slot].function == r->function);
    assert(w->works);
    unwait(s, r);
    s->devices[w->device].active += w->running.count == 0;
    list_append(s, &w->running, r);
    r->state = REQUEST_RUNNING;
    r->worker = worker;
    r->slot = slot;
    r->submitted_us = now_us;
    w->slots[slot].running++;
    w->kv_reserved += r->kv_bytes;
    s->devices[w->device].unanswered += r->prefill_us > 0;
    s->devices[w->device].backlog_us += r->prefill_us;
    f->running++;
    s->running++;
    s->domains[f->domain].last_function = r->function;
    r->own_mark = meter_join(&w->clock, now_us);
    if (w->slots[slot].copy != SCHED_NONE)
        r->adapter_mark = meter_join(&s->copies[w->slots[slot].copy].clock, now_us);
    r->backbone_mark = meter_join(&s->copies[w->copy].clock, now_us);
    device_look(s, w->device);
}

/* --- ends --- */

void request_refuse(struct sched *s, struct request *r, enum sched_reason reason, uint64_t retry_us)
{
    assert(r->state == REQUEST_WAITING);
    unlink_live(s, r, s->now_us);
    refuse(s, r, reason, retry_us);
}

/* What requests of the function are like, for the next ones. */
static void learn(struct sched *s, struct function *f, struct worker *w,
                  const struct sched_receipt *u)
{
    cost_mean_add(&f->prompt_tokens, u->prompt_tokens);
    cost_mean_add(&f->new_tokens, u->new_tokens);
    if (w->has_served) {
        double share = (double)u->cached_tokens / u->prompt_tokens;
        cost_mean_add(&f->cached_share, share);
        cost_mean_add(&s->backbones[f->backbone].cached_share, share);
    }
    w->has_served = true;
}

void request_end(struct sched *s, struct request *r, uint64_t now_us, bool completed)
{
    assert(r->state == REQUEST_RUNNING);
    if (completed && r->receipt.prompt_tokens > 0)
        learn(s, &s->functions[r->function], &s->workers[r->worker], &r->receipt);
    unlink_live(s, r, now_us);
    r->receipt.completed = completed;
    r->reason = completed ? SCHED_REASON_NONE : SCHED_WORKER_LOST;
    r->state = REQUEST_ENDED;
    list_append(s, &s->told, r);
}

void request_release(struct sched *s, struct request *r)
{
    if (r->state == REQUEST_REFUSED || r->state == REQUEST_ENDED) {
        list_remove(s, &s->told, r);
    } else {
        assert(r->state == REQUEST_WAITING);
        unlink_live(s, r, s->now_us);
    }
    r->state = REQUEST_FREE;
    uint32_t i = index_of(s, r);
    uint32_t *link = &s->buckets[bucket_of(s, r->id)];
    while (*link != i) {
        assert(*link != SCHED_NONE);
        link = &s->requests[*link].hash_next;
    }
    *link = r->hash_next;
    r->next = s->request_free;
    s->request_free = i;
}

void domain_refuse_waiting(struct sched *s, struct domain *d, uint32_t function,
                           enum sched_reason reason)
{
    for (uint32_t i = d->waiting.head, next; i != SCHED_NONE; i = next) {
        struct request *r = &s->requests[i];
        next = r->next;
        if (function == SCHED_NONE || r->function == function)
            request_refuse(s, r, reason, 0);
    }
}

bool function_is_forgettable(const struct function *f)
{
    return f->used && f->removing && f->waiting == 0 && f->running == 0;
}
