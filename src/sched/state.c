/* The requests of the picture: one table, one hash, intrusive lists. See state.h. */
#include "sched/state.h"

#include <assert.h>

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
        if (s->requests[i].id == id && s->requests[i].state != REQUEST_REFUSED)
            return &s->requests[i];
    }
    return NULL;
}

static void list_append(struct sched *s, struct request_list *l, struct request *r)
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

static void list_remove(struct sched *s, struct request_list *l, struct request *r)
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
    d->hungry_next = SCHED_NONE;
    d->hungry_prev = s->hungry_tail;
    if (s->hungry_tail == SCHED_NONE)
        s->hungry_head = i;
    else
        s->domains[s->hungry_tail].hungry_next = i;
    s->hungry_tail = i;
}

static void hungry_remove(struct sched *s, struct domain *d)
{
    if (d->hungry_prev == SCHED_NONE)
        s->hungry_head = d->hungry_next;
    else
        s->domains[d->hungry_prev].hungry_next = d->hungry_next;
    if (d->hungry_next == SCHED_NONE)
        s->hungry_tail = d->hungry_prev;
    else
        s->domains[d->hungry_next].hungry_prev = d->hungry_prev;
}

static struct request *request_take(struct sched *s, const struct sched_event *e)
{
    assert(s->request_free != SCHED_NONE); /* plan after at most requests_max events */
    uint32_t i = s->request_free;
    struct request *r = &s->requests[i];
    s->request_free = r->next;
    uint32_t bucket = bucket_of(s, e->request);
    *r = (struct request){.id = e->request,
                          .arrived_us = e->now_us,
                          .function = e->function,
                          .worker = SCHED_NONE,
                          .hash_next = s->buckets[bucket]};
    s->buckets[bucket] = i;
    return r;
}

void request_arrive(struct sched *s, const struct sched_event *e)
{
    assert(request_find(s, e->request) == NULL);
    struct function *f = &s->functions[e->function];
    struct request *r = request_take(s, e);
    if (!f->used || f->removing) {
        r->state = REQUEST_REFUSED;
        r->reason = SCHED_FUNCTION_GONE;
        list_append(s, &s->refused, r);
        return;
    }
    const struct route_load load = {
        .function_waiting = f->waiting,
        .function_waiting_max = s->config.function_waiting_max,
        .requests = s->live,
        .requests_max = s->config.requests_max,
        .backbone_bytes = s->backbones[f->backbone].bytes,
        .worker_bytes = s->config.worker_bytes,
        .budget_bytes = s->config.budget_bytes,
    };
    static const enum sched_reason reasons[] = {
        [ROUTE_FUNCTION_QUEUE_FULL] = SCHED_FUNCTION_QUEUE_FULL,
        [ROUTE_SERVER_FULL] = SCHED_SERVER_FULL,
        [ROUTE_TOO_LARGE] = SCHED_TOO_LARGE,
    };
    enum route_verdict verdict = route_admit(&load);
    if (verdict != ROUTE_ACCEPT) {
        r->state = REQUEST_REFUSED;
        r->reason = reasons[verdict];
        list_append(s, &s->refused, r);
        return;
    }
    struct domain *d = &s->domains[f->domain];
    if (d->waiting.count == 0)
        hungry_add(s, d);
    list_append(s, &d->waiting, r);
    r->state = REQUEST_WAITING;
    f->waiting++;
    s->backbones[f->backbone].waiting++;
    s->live++;
}

void request_unlink(struct sched *s, struct request *r)
{
    struct function *f = &s->functions[r->function];
    if (r->state == REQUEST_WAITING) {
        struct domain *d = &s->domains[f->domain];
        list_remove(s, &d->waiting, r);
        if (d->waiting.count == 0)
            hungry_remove(s, d);
        f->waiting--;
        s->backbones[f->backbone].waiting--;
        s->live--;
    } else if (r->state == REQUEST_RUNNING) {
        struct worker *w = &s->workers[r->worker];
        list_remove(s, &w->running, r);
        struct slot *slot = worker_slot(w, s->config.worker_slots_max, r->function);
        if (slot != NULL)
            slot->running--;
        if (r->cancel_due)
            s->cancels_due--;
        f->running--;
        s->live--;
    } else {
        assert(r->state == REQUEST_REFUSED);
        list_remove(s, &s->refused, r);
    }
    r->state = REQUEST_FREE;
    if (function_is_forgettable(f))
        s->forgets_due = 1;
}

void request_run(struct sched *s, struct request *r, uint32_t worker)
{
    assert(r->state == REQUEST_WAITING);
    request_unlink(s, r);
    struct worker *w = &s->workers[worker];
    struct slot *slot = worker_slot(w, s->config.worker_slots_max, r->function);
    assert(slot != NULL);
    assert(slot->state == SLOT_BOUND);
    list_append(s, &w->running, r);
    slot->running++;
    r->state = REQUEST_RUNNING;
    r->worker = worker;
    s->functions[r->function].running++;
    s->live++;
}

void request_refuse(struct sched *s, struct request *r, enum sched_reason reason)
{
    request_unlink(s, r);
    r->state = REQUEST_REFUSED;
    r->reason = reason;
    list_append(s, &s->refused, r);
}

void request_release(struct sched *s, struct request *r)
{
    if (r->state != REQUEST_FREE)
        request_unlink(s, r);
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
            request_refuse(s, r, reason);
    }
}

struct slot *worker_slot(struct worker *w, uint32_t slots_max, uint32_t function)
{
    for (uint32_t i = 0; i < slots_max; i++) {
        if (w->slots[i].state != SLOT_EMPTY && w->slots[i].function == function)
            return &w->slots[i];
    }
    return NULL;
}

bool function_is_forgettable(const struct function *f)
{
    return f->used && f->removing && f->waiting == 0 && f->running == 0;
}
