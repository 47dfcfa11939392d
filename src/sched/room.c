/*
 * Memory for something: what goes when there is too little, by the worth of each byte. What runs is
 * never touched, nor what a running batch uses; a backbone goes only with all that hangs on it. See
 * plan.h and policy/offload.h.
 */
#include "sched/plan.h"

#include <assert.h>

/* Values are compared by what they save within this time. */
#define HORIZON_US (30 * UINT64_C(1000000))

enum { VICTIM_WORKER, VICTIM_SLOT, VICTIM_KV, VICTIM_COPY };

double value_within(const struct forecast_outlook *o, double saved_us)
{
    return saved_us * (1 - forecast_none(o, HORIZON_US)) / ((double)HORIZON_US / 1e6);
}

double value_of(const struct forecast *f, uint64_t now_us, double saved_us)
{
    struct forecast_outlook o = forecast_look(f, now_us);
    return value_within(&o, saved_us);
}

bool worker_is_idle(const struct sched *s, const struct worker *w)
{
    return w->state == WORKER_READY && w->running.count == 0 &&
           (w->domain == SCHED_NONE || s->domains[w->domain].waiting.count == 0);
}

/* --- what may go, and what it is worth --- */

struct gather {
    const struct sched *s;
    uint64_t now_us;
    const struct request *asking; /* for which room is made; NULL: for none */
    struct offload_candidate *candidates;
    uint32_t count;
};

/* Who came first keeps what it waits with, or two could wait for each other. */
static bool is_older(const struct request *a, const struct request *b)
{
    return a->receipt.arrived_us < b->receipt.arrived_us ||
           (a->receipt.arrived_us == b->receipt.arrived_us && a->id < b->id);
}

static bool gives_way(const struct gather *g, const struct domain *d)
{
    return d->waiting.count == 0 ||
           (g->asking && is_older(g->asking, &g->s->requests[d->waiting.head]));
}

/* Nobody waits for the function's adapter who was there before; of one domain the first in line is
 * served first. */
static bool function_gives_way(const struct gather *g, uint32_t function)
{
    const struct function *f = &g->s->functions[function];
    if (f->waiting == 0 || gives_way(g, &g->s->domains[f->domain]))
        return true;
    return g->asking && g->asking->function != function &&
           g->s->functions[g->asking->function].domain == f->domain;
}

static bool may_end(const struct gather *g, const struct worker *w)
{
    return w->state == WORKER_READY && w->running.count == 0 &&
           (w->domain == SCHED_NONE || gives_way(g, &g->s->domains[w->domain]));
}

/* is_idle: nobody at all waits for it. Without offloading that stays until its time is up; what
 * younger requests wait with gives way to older ones all the same, or all would wait for ever. */
static void add(struct gather *g, uint32_t kind, uint32_t index, uint32_t group, bool is_whole,
                bool is_idle, uint64_t bytes, double value)
{
    if (bytes > 0 && !(is_idle && g->s->config.no_offload))
        g->candidates[g->count++] =
            (struct offload_candidate){value, bytes, kind, index, group, is_whole};
}

static double worker_value(const struct gather *g, const struct worker *w)
{
    const struct sched *s = g->s;
    const struct backbone *b = &s->backbones[w->backbone];
    if (w->domain == SCHED_NONE)
        return value_of(&b->starts, g->now_us, s->devices[w->device].spawn.value);
    uint32_t function = s->domains[w->domain].last_function;
    if (function == SCHED_NONE)
        return 0;
    return value_of(&s->functions[function].forecast, g->now_us,
                    forecast_restart_us(s, w, function));
}

static uint64_t kv_surplus(const struct sched *s, const struct worker *w)
{
    uint64_t least = w->kv_reserved + s->config.kv_step_bytes - 1;
    least -= least % s->config.kv_step_bytes;
    least = least > s->config.kv_step_bytes ? least : s->config.kv_step_bytes;
    return w->kv_bytes > least ? w->kv_bytes - least : 0;
}

static double kv_value(const struct gather *g, const struct worker *w)
{
    const struct sched *s = g->s;
    uint32_t function = w->domain == SCHED_NONE ? SCHED_NONE : s->domains[w->domain].last_function;
    if (function == SCHED_NONE)
        return 0;
    return value_of(&s->functions[function].forecast, g->now_us, forecast_cached_us(s, function));
}

static double copy_value(const struct gather *g, const struct copy *c)
{
    const struct sched *s = g->s;
    const struct forecast *f = c->kind == COPY_BACKBONE ? &s->backbones[c->object].forecast
                                                        : &s->functions[c->object].forecast;
    return value_of(f, g->now_us, copy_load_us(s, c->kind, c->object, c->place));
}

/* A bound adapter that nothing runs with and nobody else has bound. */
static bool may_unbind(const struct gather *g, const struct slot *slot)
{
    const struct sched *s = g->s;
    return slot->state == SLOT_BOUND && slot->running == 0 && slot->copy != SCHED_NONE &&
           s->copies[slot->copy].users == 1 && !s->copies[slot->copy].leaving &&
           function_gives_way(g, slot->function);
}

static void add_slots(struct gather *g, uint32_t worker)
{
    const struct sched *s = g->s;
    const struct worker *w = &s->workers[worker];
    /* What the domain's own worker has bound makes room for its own next function in any case. */
    bool is_own = g->asking && s->functions[g->asking->function].domain == w->domain;
    for (uint32_t i = 0; i < s->config.worker_slots_max; i++) {
        const struct slot *slot = &w->slots[i];
        if (may_unbind(g, slot))
            add(g, VICTIM_SLOT, worker * SCHED_SLOTS_MAX + i, w->copy, false,
                !is_own && s->functions[slot->function].waiting == 0, s->copies[slot->copy].bytes,
                copy_value(g, &s->copies[slot->copy]));
    }
}

static void add_workers(struct gather *g, uint32_t device)
{
    const struct sched *s = g->s;
    for (uint32_t i = s->devices[device].workers; i != SCHED_NONE; i = s->workers[i].device_next) {
        const struct worker *w = &s->workers[i];
        if (may_end(g, w))
            add(g, VICTIM_WORKER, i, w->copy, false, worker_is_idle(s, w), worker_bytes(s, w),
                worker_value(g, w));
        else if (w->state == WORKER_READY && !w->resizing)
            add(g, VICTIM_KV, i, SCHED_NONE - 1 - i, false, false, kv_surplus(s, w),
                kv_value(g, w));
        if (w->state == WORKER_READY)
            add_slots(g, i);
    }
}

/* A worker that maps the copy may go with it. */
static bool hangs_loosely(const struct gather *g, uint32_t copy, uint32_t place)
{
    const struct sched *s = g->s;
    if (!place_is_device(s, place))
        return true;
    for (uint32_t i = s->devices[place].workers; i != SCHED_NONE; i = s->workers[i].device_next) {
        const struct worker *w = &s->workers[i];
        if (w->copy == copy && w->state != WORKER_ENDING && !may_end(g, w))
            return false;
    }
    return true;
}

static bool is_wanted(const struct gather *g, const struct copy *c)
{
    const struct sched *s = g->s;
    if (c->kind == COPY_ADAPTER)
        return !function_gives_way(g, c->object);
    if (c->instance != SCHED_NONE)
        return c->instance != COPY_ORPHAN && !gives_way(g, &s->domains[c->instance]);
    for (uint32_t i = s->backbones[c->object].hungry_head; i != SCHED_NONE;
         i = s->domains[i].hungry_next)
        if (!gives_way(g, &s->domains[i]))
            return true;
    return false;
}

/* A backbone with its idle workers and the adapters of the place that are for it. */
static void add_whole(struct gather *g, const struct copy *c)
{
    const struct sched *s = g->s;
    uint32_t index = copy_index(s, c);
    uint64_t bytes = c->bytes;
    double value = copy_value(g, c);
    for (uint32_t i = 0, n = g->count; i < n; i++) {
        const struct offload_candidate *part = &g->candidates[i];
        if (part->group != index || part->is_whole)
            continue;
        bytes += part->bytes;
        value += part->value;
    }
    add(g, VICTIM_COPY, index, index, true, s->backbones[c->object].waiting == 0, bytes, value);
}

/* The backbone copy of the place that an adapter is for, which is its group; itself without one. */
static uint32_t group_of_adapter(const struct sched *s, const struct copy *c)
{
    const struct function *f = &s->functions[c->object];
    const struct copy *b =
        copy_find(s, COPY_BACKBONE, f->backbone, c->place, copy_instance(s, f->domain));
    return b ? copy_index(s, b) : copy_index(s, c);
}

static void add_copies(struct gather *g, uint32_t place)
{
    const struct sched *s = g->s;
    for (uint32_t i = s->places[place].copies; i != SCHED_NONE; i = s->copies[i].place_next) {
        const struct copy *c = &s->copies[i];
        if (c->kind == COPY_ADAPTER && copy_is_ready(c) && c->users == 0 && !is_wanted(g, c))
            add(g, VICTIM_COPY, i, group_of_adapter(s, c), false,
                s->functions[c->object].waiting == 0, c->bytes, copy_value(g, c));
    }
    for (uint32_t i = s->places[place].copies; i != SCHED_NONE; i = s->copies[i].place_next) {
        const struct copy *c = &s->copies[i];
        if (c->kind == COPY_BACKBONE && copy_is_ready(c) && !is_wanted(g, c) &&
            hangs_loosely(g, i, place))
            add_whole(g, c);
    }
}

/* --- what goes --- */

void plan_kill(struct plan *p, uint32_t index)
{
    struct sched *s = p->s;
    struct worker *w = &s->workers[index];
    assert(w->state == WORKER_STARTING || w->state == WORKER_READY);
    plan_emit(p, SCHED_KILL)->worker = index;
    w->state = WORKER_ENDING;
    uint64_t counted = w->resizing ? w->kv_bytes - w->kv_asked : 0;
    s->places[w->device].leaving += worker_bytes(s, w) - counted;
    timers_set(&s->timers, timer_of_worker(index), TIMERS_NEVER);
    if (w->domain != SCHED_NONE)
        domain_look(s, w->domain);
}

static void give_up_kv(struct plan *p, uint32_t index)
{
    struct sched *s = p->s;
    struct worker *w = &s->workers[index];
    struct sched_action *a = plan_emit(p, SCHED_RESIZE);
    a->worker = index;
    a->bytes = w->kv_bytes - kv_surplus(s, w);
    w->resizing = true;
    s->places[w->device].leaving += kv_surplus(s, w);
    w->kv_asked = a->bytes;
}

/* The adapters that nobody else has bound go with their worker. */
static void drop_bound(struct sched *s, const struct worker *w)
{
    for (uint32_t i = 0; i < s->config.worker_slots_max; i++)
        if (w->slots[i].state != SLOT_EMPTY && w->slots[i].copy != SCHED_NONE &&
            s->copies[w->slots[i].copy].users == 1)
            copy_drop(s, &s->copies[w->slots[i].copy]);
}

/* The idle workers that map it are ended first; the copy goes when the last of them is gone. */
static bool drop_whole(struct plan *p, const struct gather *g, uint32_t copy)
{
    struct sched *s = p->s;
    struct copy *c = &s->copies[copy];
    uint32_t first = place_is_device(s, c->place) ? s->devices[c->place].workers : SCHED_NONE;
    for (uint32_t i = first; i != SCHED_NONE; i = s->workers[i].device_next) {
        if (s->workers[i].copy != copy || !may_end(g, &s->workers[i]))
            continue;
        if (plan_room(p) == 0)
            return false;
        drop_bound(s, &s->workers[i]);
        plan_kill(p, i);
    }
    for (uint32_t i = s->places[c->place].copies; i != SCHED_NONE; i = s->copies[i].place_next) {
        struct copy *a = &s->copies[i];
        if (a->kind == COPY_ADAPTER && copy_is_ready(a) && a->users == 0 && !is_wanted(g, a) &&
            group_of_adapter(s, a) == copy)
            copy_drop(s, a);
    }
    copy_drop(s, c);
    return true;
}

/* False when the actions are full: what is left is chosen anew. */
static bool give_up(struct plan *p, const struct gather *g, const struct offload_candidate *c)
{
    struct sched *s = p->s;
    if (c->is_whole)
        return drop_whole(p, g, c->index);
    if (c->kind == VICTIM_COPY) {
        copy_drop(s, &s->copies[c->index]);
        return true;
    }
    if (plan_room(p) == 0)
        return false;
    if (c->kind == VICTIM_WORKER) {
        plan_kill(p, c->index);
    } else if (c->kind == VICTIM_SLOT) {
        struct worker *w = &s->workers[c->index / SCHED_SLOTS_MAX];
        struct slot *slot = &w->slots[c->index % SCHED_SLOTS_MAX];
        struct copy *a = &s->copies[slot->copy];
        if (w->state == WORKER_READY)
            plan_unbind(p, c->index / SCHED_SLOTS_MAX, slot);
        copy_drop(s, a);
    } else {
        give_up_kv(p, c->index);
    }
    return true;
}

/* Chooses what of the place is to go for `bytes` more than are on their way out; returns how many
 * candidates, and their value. */
static uint32_t choose(struct gather *g, uint32_t place, uint64_t bytes, double *ret_value)
{
    if (place_is_device(g->s, place))
        add_workers(g, place);
    add_copies(g, place);
    uint32_t chosen = offload_choose(g->candidates, g->count, bytes);
    *ret_value = 0;
    for (uint32_t i = 0; i < chosen; i++)
        *ret_value += g->candidates[i].value;
    return chosen;
}

void plan_make_room_worth(struct plan *p, uint32_t place, uint64_t bytes, double value)
{
    struct sched *s = p->s;
    const struct place *m = &s->places[place];
    uint64_t coming = m->budget - m->used + m->leaving;
    double lost;
    if (bytes <= coming || bytes > m->budget || s->config.no_offload)
        return;
    struct gather g = {.s = s, .now_us = p->now_us, .candidates = s->candidates};
    uint32_t chosen = choose(&g, place, bytes - coming, &lost);
    for (uint32_t i = 0; i < chosen && lost < value; i++)
        (void)give_up(p, &g, &s->candidates[i]);
}

bool plan_make_room(struct plan *p, uint32_t place, uint64_t bytes, uint32_t domain,
                    enum plan_need need)
{
    struct sched *s = p->s;
    const struct place *m = &s->places[place];
    struct domain *d = &s->domains[domain];
    const struct request *head = d->waiting.count > 0 ? &s->requests[d->waiting.head] : NULL;
    uint64_t since_us = need == PLAN_RUNS || !head ? 0 : head->receipt.arrived_us;
    if (domain_is_behind(s, domain, place, since_us)) {
        domain_block(s, d, place, since_us);
        return false;
    }
    if (bytes <= m->budget - m->used)
        return true;
    domain_block(s, d, place, since_us);
    uint64_t coming = m->budget - m->used + m->leaving;
    if (bytes <= coming)
        return false;
    double lost;
    struct gather g = {.s = s, .now_us = p->now_us, .asking = head, .candidates = s->candidates};
    uint32_t chosen = choose(&g, place, bytes - coming, &lost);
    for (uint32_t i = 0; i < chosen; i++) {
        if (give_up(p, &g, &s->candidates[i]))
            continue;
        domain_look(s, domain);
        break;
    }
    return false;
}
