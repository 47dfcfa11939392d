/*
 * Events into the picture. Nothing is decided here beyond admission; sched_plan() decides over
 * everything that is queued. An event about something the core no longer knows (a request that was
 * refused meanwhile, a worker that ended) is ignored: such races are ordinary.
 */
#include "sched/plan.h"

#include <assert.h>

/* What is believed of requests of a function before there was one. */
#define PROMPT_TOKENS_FIRST 128
#define NEW_TOKENS_FIRST 128
#define CACHED_SHARE_FIRST 0.5
#define CONTENTION_FIRST 1

/* --- the machine --- */

static void on_node(struct sched *s, const struct sched_event *e)
{
    assert(e->node < s->config.nodes_max);
    struct place *p = &s->places[sched_host_place(&s->config, e->node)];
    p->budget = e->bytes;
    p->at_us = e->now_us;
    s->place_count += e->bytes > 0 && !p->exists;
    p->exists = e->bytes > 0;
}

static void on_device(struct sched *s, const struct sched_event *e)
{
    assert(e->device < s->config.devices_max);
    assert(e->node < s->config.nodes_max);
    struct device *v = &s->devices[e->device];
    struct place *p = &s->places[e->device];
    assert(!v->exists);
    *v = (struct device){.worker_bytes = e->more_bytes,
                         .contention = CONTENTION_FIRST,
                         .node = e->node,
                         .node_next = s->places[sched_host_place(&s->config, e->node)].devices,
                         .workers = SCHED_NONE,
                         .turn_worker = SCHED_NONE,
                         .keeps_work = e->keeps_work != 0,
                         .exists = true};
    s->places[sched_host_place(&s->config, e->node)].devices = e->device;
    cost_mean_seed(&v->spawn, (double)e->us);
    p->budget = e->bytes;
    p->at_us = e->now_us;
    p->exists = true;
    s->device_count++;
    s->place_count++;
    s->plan_due = true;
}

static void on_backbone(struct sched *s, const struct sched_event *e)
{
    assert(e->backbone < s->config.backbones_max);
    struct backbone *b = &s->backbones[e->backbone];
    assert(!b->used || (b->functions == 0 && b->copies == SCHED_NONE));
    double per_byte = 1 / maths_max((double)e->bytes, 1);
    *b = (struct backbone){.bytes = e->bytes,
                           .kv_token_bytes = e->more_bytes,
                           .work_bytes = e->work_bytes,
                           .copies = SCHED_NONE,
                           .recent_head = SCHED_NONE,
                           .recent_tail = SCHED_NONE,
                           .hungry_head = SCHED_NONE,
                           .used = true};
    cost_fit_seed(&b->fit, &e->step);
    cost_mean_seed(&b->load, (double)e->us * per_byte);
    cost_mean_seed(&b->load_host, (double)e->more_us * per_byte);
    cost_mean_seed(&b->adapter, (double)e->us * per_byte);
    cost_mean_seed(&b->adapter_host, (double)e->more_us * per_byte);
    cost_mean_seed(&b->cached_share, CACHED_SHARE_FIRST);
    forecast_begin(&b->forecast, e->now_us);
    forecast_begin(&b->starts, e->now_us);
}

/* --- functions --- */

static void on_deployed(struct sched *s, const struct sched_event *e)
{
    assert(e->function < s->config.functions_max);
    assert(e->backbone < s->config.backbones_max);
    assert(e->owner < s->config.owners_max);
    struct function *f = &s->functions[e->function];
    struct backbone *b = &s->backbones[e->backbone];
    assert(!f->used && b->used);
    struct route_domain key = route_domain_of(e->isolation, e->function, e->owner, e->backbone);
    *f = (struct function){.domain = domain_take(s, key),
                           .backbone = e->backbone,
                           .owner = e->owner,
                           .copies = SCHED_NONE,
                           .recent_prev = SCHED_NONE,
                           .recent_next = b->recent_head,
                           .adapter_bytes = e->bytes,
                           .slo_ttft_us = e->us > 0 ? e->us : s->config.slo_ttft_us,
                           .slo_tpot_us = e->more_us > 0 ? e->more_us : s->config.slo_tpot_us,
                           .used = true,
                           .has_slo = e->us > 0};
    cost_mean_seed(&f->prompt_tokens, PROMPT_TOKENS_FIRST);
    cost_mean_seed(&f->new_tokens, NEW_TOKENS_FIRST);
    forecast_begin(&f->forecast, e->now_us);
    if (b->recent_head != SCHED_NONE)
        s->functions[b->recent_head].recent_prev = e->function;
    else
        b->recent_tail = e->function;
    b->recent_head = e->function;
    if (b->functions++ == 0)
        forecast_begin(&b->forecast, e->now_us);
    s->domains[f->domain].functions++;
    s->plan_due = true;
}

static void on_removed(struct sched *s, const struct sched_event *e)
{
    struct function *f = &s->functions[e->function];
    assert(f->used && !f->removing);
    f->removing = true;
    s->removing++;
    s->forgets_due = true;
}

static void on_owner(struct sched *s, const struct sched_event *e)
{
    assert(e->owner < s->config.owners_max);
    s->owner_max[e->owner] = e->tokens;
}

/* --- requests --- */

static void on_client_gone(struct sched *s, const struct sched_event *e)
{
    struct request *r = request_find(s, e->request);
    if (!r)
        return;
    if (r->state == REQUEST_WAITING) {
        request_release(s, r);
        return;
    }
    if (!r->cancel_due && !r->cancelled) {
        r->cancel_due = true;
        s->cancels_due++;
    }
}

static struct request *running(struct sched *s, const struct sched_event *e)
{
    struct request *r = request_find(s, e->request);
    return r && r->state == REQUEST_RUNNING ? r : NULL;
}

/* Prompts are longer than their bytes let expect, and answers go on: then more is asked for. */
static void look_at_kv(struct sched *s, const struct request *r)
{
    const struct function *f = &s->functions[r->function];
    uint64_t held = ((uint64_t)r->prompt_tokens + r->receipt.new_tokens) *
                    s->backbones[f->backbone].kv_token_bytes;
    if (held <= r->kv_bytes)
        return;
    s->workers[r->worker].kv_short = true;
    domain_look(s, f->domain);
}

static void on_admitted(struct sched *s, const struct sched_event *e)
{
    struct request *r = running(s, e);
    if (!r)
        return;
    r->prompt_tokens = e->tokens;
    look_at_kv(s, r);
}

static void on_tokens(struct sched *s, const struct sched_event *e)
{
    struct request *r = running(s, e);
    s->tokens_new += e->tokens;
    if (!r || e->tokens == 0)
        return;
    r->receipt.new_tokens += e->tokens;
    look_at_kv(s, r);
    if (r->receipt.first_us > 0)
        return;
    struct function *f = &s->functions[r->function];
    bool met = e->now_us <= r->receipt.arrived_us + f->slo_ttft_us;
    r->receipt.first_us = e->now_us > r->receipt.arrived_us ? e->now_us - r->receipt.arrived_us : 1;
    f->met += met;
    f->missed += !met;
    s->met += met;
    s->missed += !met;
    r->decoded_mark = s->workers[r->worker].decoded;
    request_answered(s, r);
    device_look(s, s->workers[r->worker].device);
}

static void on_done(struct sched *s, const struct sched_event *e)
{
    struct request *r = running(s, e);
    if (!r)
        return;
    struct worker *w = &s->workers[r->worker];
    s->copies[w->copy].used_us = e->now_us;
    if (w->slots[r->slot].copy != SCHED_NONE)
        s->copies[w->slots[r->slot].copy].used_us = e->now_us;
    s->tokens_prompt += e->tokens;
    r->receipt.prompt_tokens = e->tokens;
    r->receipt.new_tokens = e->more_tokens;
    r->receipt.cached_tokens = e->steps;
    r->receipt.device_us = e->us;
    request_end(s, r, e->now_us, true);
}

/* --- workers --- */

static struct worker *worker_live(struct sched *s, uint32_t index)
{
    assert(index < s->config.workers_max);
    struct worker *w = &s->workers[index];
    return w->state == WORKER_FREE ? NULL : w;
}

static void turn_release(struct sched *s, uint32_t worker)
{
    struct worker *w = &s->workers[worker];
    struct device *v = &s->devices[w->device];
    if (v->turn_worker != worker)
        return;
    v->turn_worker = SCHED_NONE;
    timers_set(&s->timers, timer_of_device(s, w->device), TIMERS_NEVER);
    device_look(s, w->device);
    /* The device is free: what waits for a batch to fill need not. */
    for (uint32_t i = v->workers; i != SCHED_NONE; i = s->workers[i].device_next)
        if (s->workers[i].domain != SCHED_NONE &&
            s->domains[s->workers[i].domain].waiting.count > 0)
            domain_look(s, s->workers[i].domain);
}

static void on_turn_ended(struct sched *s, const struct sched_event *e)
{
    struct worker *w = worker_live(s, e->worker);
    if (!w)
        return;
    const struct cost_turn t = {
        .us = e->us, .steps = e->steps, .prompt_rows = e->tokens, .decode_rows = e->more_tokens};
    cost_fit_add(&s->backbones[w->backbone].fit, &t);
    s->devices[w->device].device_us += e->us;
    w->turn_ended_us = e->now_us;
    if (e->more_tokens > 0) {
        w->decoded += e->steps;
        w->decoded_us = e->now_us;
    }
    if (e->stalled && w->running.count > 0) {
        w->stalled = true;
        domain_look(s, w->domain);
    }
    turn_release(s, e->worker);
}

static void on_worker_ready(struct sched *s, const struct sched_event *e)
{
    struct worker *w = worker_live(s, e->worker);
    if (!w || w->state != WORKER_STARTING)
        return;
    w->state = WORKER_READY;
    w->ready_us = e->now_us;
    w->turn_ended_us = e->now_us;
    cost_mean_add_time(&s->devices[w->device].spawn, maths_max((double)e->us, 1));
    place_unblock(s, w->device); /* what has started may go */
    if (w->domain == SCHED_NONE)
        return;
    s->domains[w->domain].spawn_failures = 0;
    domain_look(s, w->domain);
}

static void on_bound(struct sched *s, const struct sched_event *e)
{
    struct worker *w = worker_live(s, e->worker);
    struct slot *slot = w ? worker_slot(w, s->config.worker_slots_max, e->function) : NULL;
    if (!slot || slot->state != SLOT_BINDING)
        return;
    slot->state = SLOT_BOUND;
    slot->bound_us = e->now_us;
    cost_mean_add_time(&s->backbones[w->backbone].bind, maths_max((double)e->us, 1));
    domain_look(s, w->domain);
    s->forgets_due |= s->functions[e->function].removing;
}

static void on_bind_failed(struct sched *s, const struct sched_event *e)
{
    struct worker *w = worker_live(s, e->worker);
    struct slot *slot = w ? worker_slot(w, s->config.worker_slots_max, e->function) : NULL;
    if (!slot || slot->state != SLOT_BINDING)
        return;
    uint32_t copy = slot->copy;
    slot_clear(s, slot, e->now_us);
    /* What could not be bound is not kept for the next attempt. */
    if (copy != SCHED_NONE && s->copies[copy].users == 0)
        copy_drop(s, &s->copies[copy]);
    struct function *f = &s->functions[e->function];
    f->failed_us = e->now_us;
    domain_refuse_waiting(s, &s->domains[f->domain], e->function, SCHED_ADAPTER_FAILED);
    domain_look(s, f->domain);
    s->forgets_due |= f->removing;
}

static void on_resized(struct sched *s, const struct sched_event *e)
{
    struct worker *w = worker_live(s, e->worker);
    if (!w || !w->resizing)
        return;
    uint64_t asked = w->kv_bytes - w->kv_asked;
    uint64_t bytes = e->bytes < w->kv_asked ? w->kv_asked : e->bytes;
    w->resizing = false;
    if (w->state != WORKER_ENDING)
        s->places[w->device].leaving -= asked;
    else /* all of it is leaving: what has gone is so no more */
        s->places[w->device].leaving -= bytes < w->kv_bytes ? w->kv_bytes - bytes : 0;
    if (bytes < w->kv_bytes)
        worker_resize(s, w, e->now_us, bytes);
    place_unblock(s, w->device);
    if (w->domain != SCHED_NONE)
        domain_look(s, w->domain);
}

static void leave_domain(struct sched *s, uint32_t index)
{
    struct worker *w = &s->workers[index];
    struct domain *d = &s->domains[w->domain];
    uint32_t *link = &d->workers;
    while (*link != index)
        link = &s->workers[*link].domain_next;
    *link = w->domain_next;
    d->worker_count--;
    if (w->state == WORKER_STARTING && ++d->spawn_failures >= s->config.spawn_attempts_max) {
        domain_refuse_waiting(s, d, SCHED_NONE, SCHED_START_FAILED);
        d->spawn_failures = 0;
    }
    domain_look(s, w->domain);
}

static void leave_device(struct sched *s, uint32_t index)
{
    struct worker *w = &s->workers[index];
    struct device *v = &s->devices[w->device];
    if (w->device_prev != SCHED_NONE)
        s->workers[w->device_prev].device_next = w->device_next;
    else
        v->workers = w->device_next;
    if (w->device_next != SCHED_NONE)
        s->workers[w->device_next].device_prev = w->device_prev;
    v->worker_count--;
}

static void on_worker_exited(struct sched *s, const struct sched_event *e)
{
    struct worker *w = worker_live(s, e->worker);
    if (!w)
        return;
    while (w->running.head != SCHED_NONE)
        request_end(s, &s->requests[w->running.head], e->now_us, false);
    for (uint32_t i = 0; i < s->config.worker_slots_max; i++)
        if (w->slots[i].state != SLOT_EMPTY)
            slot_clear(s, &w->slots[i], e->now_us);
    turn_release(s, e->worker);
    worker_bill(s, w, e->now_us);
    if (w->state == WORKER_ENDING)
        s->places[w->device].leaving -= worker_bytes(s, w);
    else if (w->resizing)
        s->places[w->device].leaving -= w->kv_bytes - w->kv_asked;
    if (w->state == WORKER_STARTING)
        s->backbones[w->backbone].failed_us = e->now_us;
    if (w->domain != SCHED_NONE)
        leave_domain(s, e->worker);
    leave_device(s, e->worker);
    copy_leave(s, &s->copies[w->copy], e->now_us);
    place_release(s, w->device, e->now_us, worker_bytes(s, w));
    timers_set(&s->timers, timer_of_worker(e->worker), TIMERS_NEVER);
    w->state = WORKER_FREE;
    w->free_next = s->worker_free;
    s->worker_free = e->worker;
    s->forgets_due |= s->removing > 0;
    s->plan_due = true; /* its room may be for something better */
    s->plan_first = w->device;
    tables_look(s);
}

/* --- copies --- */

static struct copy *copy_live(struct sched *s, const struct sched_event *e)
{
    assert(e->copy < s->config.copies_max);
    struct copy *c = &s->copies[e->copy];
    return c->state == SCHED_COPY_NONE ? NULL : c;
}

static struct cost_mean *load_mean(struct sched *s, const struct copy *c)
{
    bool is_backbone = c->kind == COPY_BACKBONE;
    struct backbone *b = &s->backbones[is_backbone ? c->object : s->functions[c->object].backbone];
    if (is_backbone)
        return c->from_host ? &b->load_host : &b->load;
    return c->from_host ? &b->adapter_host : &b->adapter;
}

/* Who waits for the copy has seen how long it took. */
static void look_after_load(struct sched *s, const struct copy *c, uint64_t now_us)
{
    if (c->kind == COPY_ADAPTER) {
        uint32_t domain = s->functions[c->object].domain;
        s->domains[domain].load_seen_us = now_us;
        domain_look(s, domain);
        s->forgets_due |= s->functions[c->object].removing;
        return;
    }
    for (uint32_t d = s->backbones[c->object].hungry_head; d != SCHED_NONE;
         d = s->domains[d].hungry_next)
        s->domains[d].load_seen_us = now_us;
    backbone_look(s, c->object);
}

static void on_copy_loaded(struct sched *s, const struct sched_event *e)
{
    struct copy *c = copy_live(s, e);
    if (!c || c->state != SCHED_COPY_LOADING)
        return;
    if (c->bytes > 0)
        cost_mean_add(load_mean(s, c), (double)e->us / (double)c->bytes);
    c->used_us = e->now_us;
    if (c->host_copy != SCHED_NONE) {
        s->copies[c->host_copy].used_us = e->now_us;
        copy_arrived(s, &s->copies[c->host_copy]);
        c->host_copy = SCHED_NONE;
    }
    copy_arrived(s, c);
    place_unblock(s, c->place);
    look_after_load(s, c, e->now_us);
    if (c->kind != COPY_BACKBONE || !place_is_device(s, c->place))
        return;
    s->plan_due = true; /* what hangs on it may come now */
    s->plan_first = c->place;
}

/* Everybody who waits for it is told; it is tried again when the next one asks. */
static void refuse_waiting(struct sched *s, const struct copy *c)
{
    if (c->kind == COPY_ADAPTER) {
        const struct function *f = &s->functions[c->object];
        domain_refuse_waiting(s, &s->domains[f->domain], c->object, SCHED_ADAPTER_FAILED);
        return;
    }
    for (uint32_t i = s->backbones[c->object].hungry_head, next; i != SCHED_NONE; i = next) {
        next = s->domains[i].hungry_next;
        if (c->instance == SCHED_NONE || c->instance == i)
            domain_refuse_waiting(s, &s->domains[i], SCHED_NONE, SCHED_LOAD_FAILED);
    }
}

static void on_copy_failed(struct sched *s, const struct sched_event *e)
{
    struct copy *c = copy_live(s, e);
    if (!c || c->state != SCHED_COPY_LOADING)
        return;
    *(c->kind == COPY_BACKBONE ? &s->backbones[c->object].failed_us
                               : &s->functions[c->object].failed_us) = e->now_us;
    if (place_is_device(s, c->place))
        refuse_waiting(s, c);
    if (c->host_copy != SCHED_NONE)
        copy_free(s, &s->copies[c->host_copy], e->now_us);
    look_after_load(s, c, e->now_us);
    copy_free(s, c, e->now_us);
}

/* Workers that map it, if any are left, keep what they have until they end. */
static void on_copy_dropped(struct sched *s, const struct sched_event *e)
{
    struct copy *c = copy_live(s, e);
    if (!c)
        return;
    if (c->state == SCHED_COPY_LOADING) {
        on_copy_failed(s, e);
        return;
    }
    look_after_load(s, c, e->now_us);
    if (c->users > 0)
        copy_orphan(s, c);
    else
        copy_free(s, c, e->now_us);
}

void sched_apply(struct sched *s, const struct sched_event *event)
{
    static void (*const handlers[SCHED_EVENT_COUNT])(struct sched *, const struct sched_event *) = {
        [SCHED_NODE] = on_node,
        [SCHED_DEVICE] = on_device,
        [SCHED_BACKBONE] = on_backbone,
        [SCHED_OWNER] = on_owner,
        [SCHED_DEPLOYED] = on_deployed,
        [SCHED_REMOVED] = on_removed,
        [SCHED_REQUEST] = request_arrive,
        [SCHED_CLIENT_GONE] = on_client_gone,
        [SCHED_ADMITTED] = on_admitted,
        [SCHED_TOKENS] = on_tokens,
        [SCHED_DONE] = on_done,
        [SCHED_TURN_ENDED] = on_turn_ended,
        [SCHED_WORKER_READY] = on_worker_ready,
        [SCHED_WORKER_BOUND] = on_bound,
        [SCHED_BIND_FAILED] = on_bind_failed,
        [SCHED_WORKER_RESIZED] = on_resized,
        [SCHED_WORKER_EXITED] = on_worker_exited,
        [SCHED_COPY_LOADED] = on_copy_loaded,
        [SCHED_COPY_FAILED] = on_copy_failed,
        [SCHED_COPY_DROPPED] = on_copy_dropped,
    };
    assert(event->type > 0 && event->type < SCHED_EVENT_COUNT);
    struct sched_event e = *event;
    e.now_us = s->now_us = event->now_us > s->now_us ? event->now_us : s->now_us;
    if (e.type == SCHED_TICK)
        s->armed_us = UINT64_MAX;
    else
        handlers[e.type](s, &e);
}
