/*
 * Decisions over everything that is queued, once per turn of the event loop: that is where
 * batching comes from. Each step below emits actions and changes the picture with them; a full
 * action buffer ends the plan, and the next call goes on where it stood.
 */
#include "policy/batch.h"
#include "policy/keepalive.h"
#include "policy/offload.h"
#include "sched/state.h"

#include <assert.h>

struct plan {
    struct sched *s;
    uint64_t now_us;
    struct sched_action *actions;
    uint32_t count;
    uint32_t max;
};

static bool full(const struct plan *p)
{
    return p->count == p->max;
}

static struct sched_action *emit(struct plan *p, enum sched_action_type type)
{
    assert(!full(p));
    struct sched_action *a = &p->actions[p->count++];
    *a = (struct sched_action){.type = type,
                               .function = SCHED_NONE,
                               .backbone = SCHED_NONE,
                               .worker = SCHED_NONE,
                               .slot = SCHED_NONE};
    return a;
}

static void plan_refusals(struct plan *p)
{
    struct sched *s = p->s;
    while (s->refused.head != SCHED_NONE && !full(p)) {
        struct request *r = &s->requests[s->refused.head];
        struct sched_action *a = emit(p, SCHED_REFUSE);
        a->request = r->id;
        a->function = r->function;
        a->reason = r->reason;
        request_release(s, r);
    }
}

static void plan_cancels(struct plan *p)
{
    struct sched *s = p->s;
    for (uint32_t w = 0; w < s->config.workers_max && s->cancels_due > 0; w++) {
        if (s->workers[w].state == WORKER_FREE)
            continue;
        for (uint32_t i = s->workers[w].running.head; i != SCHED_NONE; i = s->requests[i].next) {
            struct request *r = &s->requests[i];
            if (!r->cancel_due)
                continue;
            if (full(p))
                return;
            struct sched_action *a = emit(p, SCHED_CANCEL);
            a->worker = w;
            a->request = r->id;
            r->cancel_due = false;
            r->cancelled = true;
            s->cancels_due--;
        }
    }
}

static void kill_worker(struct plan *p, uint32_t index)
{
    struct worker *w = &p->s->workers[index];
    assert(w->state == WORKER_STARTING || w->state == WORKER_READY);
    emit(p, SCHED_KILL)->worker = index;
    w->state = WORKER_ENDING;
    struct domain *d = &p->s->domains[w->domain];
    if (d->worker == index)
        d->worker = SCHED_NONE;
}

static void unbind(struct plan *p, uint32_t worker, struct slot *slot)
{
    struct sched_action *a = emit(p, SCHED_UNBIND);
    a->worker = worker;
    a->function = slot->function;
    a->slot = (uint32_t)(slot - p->s->workers[worker].slots);
    slot->state = SLOT_EMPTY;
}

/* A removed function that nothing refers to: unbound, its number given back; the domain ends with
 * its last function. */
static void forget(struct plan *p, uint32_t index)
{
    struct sched *s = p->s;
    struct function *f = &s->functions[index];
    struct domain *d = &s->domains[f->domain];
    assert(d->functions > 0);
    if (d->worker != SCHED_NONE) {
        struct slot *slot = worker_slot(&s->workers[d->worker], s->config.worker_slots_max, index);
        if (d->functions == 1)
            kill_worker(p, d->worker);
        else if (slot != NULL)
            unbind(p, d->worker, slot);
    }
    emit(p, SCHED_FORGET)->function = index;
    f->used = false;
    if (--d->functions == 0)
        d->used = false;
}

static void plan_forgets(struct plan *p)
{
    struct sched *s = p->s;
    if (s->forgets_due == 0)
        return;
    for (uint32_t i = 0; i < s->config.functions_max; i++) {
        if (!function_is_forgettable(&s->functions[i]))
            continue;
        if (p->max - p->count < 2)
            return;
        forget(p, i);
    }
    s->forgets_due = 0;
}

static uint32_t idle_worker(struct sched *s)
{
    for (uint32_t i = 0; i < s->config.workers_max; i++) {
        const struct worker *w = &s->workers[i];
        s->candidates[i] =
            (struct offload_candidate){.idle = w->state == WORKER_READY && w->running.count == 0 &&
                                               s->domains[w->domain].waiting.count == 0,
                                       .used_us = w->idle_since_us};
    }
    return offload_victim(s->candidates, s->config.workers_max);
}

static uint32_t idle_backbone(struct sched *s)
{
    for (uint32_t i = 0; i < s->config.backbones_max; i++) {
        const struct backbone_entry *b = &s->backbones[i];
        s->candidates[i] = (struct offload_candidate){.idle = b->state == BACKBONE_RESIDENT &&
                                                              b->workers == 0 && b->waiting == 0,
                                                      .used_us = b->used_us};
    }
    return offload_victim(s->candidates, s->config.backbones_max);
}

/* Bytes that are on their way out already: ending workers and dropped backbones. */
static uint64_t leaving_bytes(const struct sched *s)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < s->config.workers_max; i++)
        bytes += s->workers[i].state == WORKER_ENDING ? s->config.worker_bytes : 0;
    for (uint32_t i = 0; i < s->config.backbones_max; i++)
        bytes += s->backbones[i].state == BACKBONE_DROPPING ? s->backbones[i].bytes : 0;
    return bytes;
}

/* True when `bytes` fit now. Otherwise asks for idle things to go, one at a time, and the request
 * waits for their memory. */
static bool make_room(struct plan *p, uint64_t bytes)
{
    struct sched *s = p->s;
    if (bytes <= s->config.budget_bytes - s->memory_bytes)
        return true;
    uint64_t kept = s->memory_bytes - leaving_bytes(s);
    if (bytes <= s->config.budget_bytes - kept)
        return false;
    uint32_t worker = idle_worker(s);
    if (worker != OFFLOAD_NONE) {
        kill_worker(p, worker);
        return false;
    }
    uint32_t backbone = idle_backbone(s);
    if (backbone != OFFLOAD_NONE) {
        emit(p, SCHED_DROP)->backbone = backbone;
        s->backbones[backbone].state = BACKBONE_DROPPING;
    }
    return false;
}

static uint32_t free_worker(struct plan *p)
{
    struct sched *s = p->s;
    for (uint32_t i = 0; i < s->config.workers_max; i++) {
        if (s->workers[i].state == WORKER_FREE)
            return i;
    }
    bool ending = false;
    for (uint32_t i = 0; i < s->config.workers_max; i++)
        ending = ending || s->workers[i].state == WORKER_ENDING;
    uint32_t victim = ending ? OFFLOAD_NONE : idle_worker(s);
    if (victim != OFFLOAD_NONE)
        kill_worker(p, victim);
    return SCHED_NONE;
}

static void start_worker(struct plan *p, struct domain *d)
{
    struct sched *s = p->s;
    uint32_t backbone = (uint32_t)d->key.backbone;
    struct backbone_entry *b = &s->backbones[backbone];
    if (b->state == BACKBONE_COLD) {
        if (!make_room(p, b->bytes + s->config.worker_bytes) || full(p))
            return;
        emit(p, SCHED_LOAD)->backbone = backbone;
        b->state = BACKBONE_LOADING;
        s->memory_bytes += b->bytes;
    }
    if (b->state != BACKBONE_RESIDENT || full(p))
        return;
    uint32_t index = free_worker(p);
    if (index == SCHED_NONE || full(p) || !make_room(p, s->config.worker_bytes) || full(p))
        return;
    struct sched_action *a = emit(p, SCHED_SPAWN);
    a->worker = index;
    a->backbone = backbone;
    a->domain = d->key;
    s->workers[index] = (struct worker){.running = {SCHED_NONE, SCHED_NONE, 0},
                                        .state = WORKER_STARTING,
                                        .domain = (uint32_t)(d - s->domains),
                                        .backbone = backbone,
                                        .idle_since_us = p->now_us};
    d->worker = index;
    b->workers++;
    b->used_us = p->now_us;
    s->memory_bytes += s->config.worker_bytes;
}

/* The slot of the function, bound or being bound; NULL when every slot is busy for now. */
static struct slot *bind(struct plan *p, uint32_t worker, uint32_t function)
{
    struct sched *s = p->s;
    struct worker *w = &s->workers[worker];
    struct slot *slot = worker_slot(w, s->config.worker_slots_max, function);
    if (slot != NULL)
        return slot;
    struct slot *idle = NULL;
    for (uint32_t i = 0; i < s->config.worker_slots_max && slot == NULL; i++) {
        if (w->slots[i].state == SLOT_EMPTY)
            slot = &w->slots[i];
        else if (w->slots[i].state == SLOT_BOUND && w->slots[i].running == 0)
            idle = &w->slots[i];
    }
    if (p->max - p->count < 2 || (slot == NULL && idle == NULL))
        return NULL;
    if (slot == NULL) {
        unbind(p, worker, idle);
        slot = idle;
    }
    *slot = (struct slot){.function = function, .state = SLOT_BINDING};
    struct sched_action *a = emit(p, SCHED_BIND);
    a->worker = worker;
    a->function = function;
    a->slot = (uint32_t)(slot - w->slots);
    return slot;
}

/* First in, first out within a domain. */
static void feed_worker(struct plan *p, struct domain *d)
{
    struct sched *s = p->s;
    struct worker *w = &s->workers[d->worker];
    while (d->waiting.head != SCHED_NONE && !full(p)) {
        struct request *r = &s->requests[d->waiting.head];
        if (w->running.count >= s->config.worker_running_max)
            return;
        struct slot *slot = bind(p, d->worker, r->function);
        if (slot == NULL || slot->state != SLOT_BOUND || full(p))
            return;
        request_run(s, r, d->worker);
        struct sched_action *a = emit(p, SCHED_SUBMIT);
        a->worker = d->worker;
        a->function = r->function;
        a->request = r->id;
        a->slot = (uint32_t)(slot - w->slots);
    }
}

static void plan_domains(struct plan *p)
{
    struct sched *s = p->s;
    for (uint32_t i = s->hungry_head, next; i != SCHED_NONE && !full(p); i = next) {
        struct domain *d = &s->domains[i];
        next = d->hungry_next;
        if (d->worker == SCHED_NONE)
            start_worker(p, d);
        else if (s->workers[d->worker].state == WORKER_READY)
            feed_worker(p, d);
    }
}

static bool another_wants(const struct sched *s)
{
    for (uint32_t i = 0; i < s->config.workers_max; i++) {
        if (s->wants[i] && i != s->turn_worker)
            return true;
    }
    return false;
}

static void plan_turns(struct plan *p, uint64_t *timer_us)
{
    struct sched *s = p->s;
    for (uint32_t i = 0; i < s->config.workers_max; i++)
        s->wants[i] = s->workers[i].state == WORKER_READY && s->workers[i].running.count > 0;
    if (full(p))
        return;
    if (s->turn_worker == SCHED_NONE) {
        uint32_t next = batch_next_turn(s->wants, s->config.workers_max, s->turn_last);
        if (next == BATCH_NONE)
            return;
        struct sched_action *a = emit(p, SCHED_GRANT);
        a->worker = next;
        a->turn = ++s->turn;
        s->turn_worker = next;
        s->turn_last = next;
        s->turn_revoked = false;
        s->turn_began_us = p->now_us;
    }
    if (s->turn_revoked)
        return;
    uint64_t ends_us = batch_turn_ends_us(s->turn_began_us, s->config.turn_us, another_wants(s));
    if (ends_us > p->now_us) {
        *timer_us = ends_us < *timer_us ? ends_us : *timer_us;
    } else if (!full(p)) {
        struct sched_action *a = emit(p, SCHED_REVOKE);
        a->worker = s->turn_worker;
        a->turn = s->turn;
        s->turn_revoked = true;
    }
}

static void plan_keepalive(struct plan *p, uint64_t *timer_us)
{
    struct sched *s = p->s;
    for (uint32_t i = 0; i < s->config.workers_max; i++) {
        const struct worker *w = &s->workers[i];
        if (w->state != WORKER_READY || w->running.count > 0 ||
            s->domains[w->domain].waiting.count > 0)
            continue;
        uint64_t ends_us = keepalive_ends_us(w->idle_since_us, s->config.keep_alive_us);
        if (ends_us > p->now_us)
            *timer_us = ends_us < *timer_us ? ends_us : *timer_us;
        else if (!full(p))
            kill_worker(p, i);
    }
}

uint32_t sched_plan(struct sched *s, uint64_t now_us, struct sched_action *actions, uint32_t max)
{
    assert(max >= 8);
    struct plan p = {.s = s, .now_us = now_us, .actions = actions, .max = max};
    uint64_t timer_us = UINT64_MAX;
    plan_refusals(&p);
    plan_cancels(&p);
    plan_forgets(&p);
    plan_domains(&p);
    plan_turns(&p, &timer_us);
    plan_keepalive(&p, &timer_us);
    if (timer_us < s->armed_us && !full(&p)) {
        emit(&p, SCHED_ARM_TIMER)->us = timer_us;
        s->armed_us = timer_us;
    }
    return p.count;
}
