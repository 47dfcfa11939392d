/*
 * Domains with waiting requests: what is fed to which worker, and where one is started. First in,
 * first out within a domain. See plan.h.
 */
#include "sched/plan.h"

#include <assert.h>

/* KV memory is asked for by what requests of the function usually generate, with room for more; who
 * generates longer takes what is left of the step, or recomputes. */
#define NEW_TOKENS_FACTOR 1.5
#define NEW_TOKENS_MIN 32.0

/* --- starting --- */

bool plan_spawn(struct plan *p, uint32_t device, struct copy *c, uint32_t domain)
{
    struct sched *s = p->s;
    struct device *v = &s->devices[device];
    uint32_t index = s->worker_free;
    if (plan_room(p) == 0 || index == SCHED_NONE)
        return false;
    struct worker *w = &s->workers[index];
    s->worker_free = w->free_next;
    *w = (struct worker){.running = {SCHED_NONE, SCHED_NONE, 0},
                         .clock = {.at_us = p->now_us},
                         .state = WORKER_STARTING,
                         .device = device,
                         .domain = SCHED_NONE,
                         .domain_next = SCHED_NONE,
                         .backbone = c->object,
                         .copy = copy_index(s, c),
                         .spawned_us = p->now_us,
                         .device_prev = SCHED_NONE,
                         .device_next = v->workers};
    if (v->workers != SCHED_NONE)
        s->workers[v->workers].device_prev = index;
    v->workers = index;
    v->worker_count++;
    copy_enter(c);
    w->kv_bytes = s->config.kv_step_bytes;
    place_charge(s, device, p->now_us, worker_bytes(s, w));
    meter_set_bytes(&w->clock, p->now_us, worker_bytes(s, w));
    struct sched_action *a = plan_emit(p, SCHED_SPAWN);
    a->worker = index;
    a->device = device;
    a->copy = w->copy;
    a->backbone = c->object;
    a->bytes = w->kv_bytes;
    if (domain != SCHED_NONE)
        worker_join(s, index, domain);
    return true;
}

void worker_join(struct sched *s, uint32_t index, uint32_t domain)
{
    struct worker *w = &s->workers[index];
    struct domain *d = &s->domains[domain];
    assert(w->domain == SCHED_NONE);
    assert(d->key.backbone == w->backbone);
    w->domain = domain;
    w->domain_next = d->workers;
    d->workers = index;
    d->worker_count++;
    timers_set(&s->timers, timer_of_worker(index), TIMERS_NEVER);
}

/* Actions or tables are full: with the next plan, or when an entry becomes free. */
static void try_again(struct plan *p, uint32_t domain)
{
    if (plan_room(p) == 0)
        domain_look(p->s, domain);
    else
        p->s->tables_full = true;
}

/* A worker's number for another one: the one idle longest gives it. */
static void free_number(struct plan *p)
{
    struct sched *s = p->s;
    uint32_t oldest = SCHED_NONE;
    for (uint32_t i = 0; i < s->config.workers_max; i++) {
        const struct worker *w = &s->workers[i];
        if (w->state == WORKER_ENDING)
            return; /* one is on its way */
        if (worker_is_idle(s, w) &&
            (oldest == SCHED_NONE || w->turn_ended_us < s->workers[oldest].turn_ended_us))
            oldest = i;
    }
    if (oldest != SCHED_NONE && plan_room(p) > 0)
        plan_kill(p, oldest);
}

/* Adapters come while the backbone and the process do. */
static void load_adapter(struct plan *p, uint32_t function, uint32_t device, uint32_t domain)
{
    struct sched *s = p->s;
    const struct function *f = &s->functions[function];
    if (f->adapter_bytes == 0 || copy_find(s, COPY_ADAPTER, function, device, SCHED_NONE))
        return;
    if (plan_make_room(p, device, f->adapter_bytes, domain, PLAN_WAITS) &&
        !plan_load(p, COPY_ADAPTER, function, device, SCHED_NONE))
        try_again(p, domain);
}

/* One step of bringing up a worker for the domain on its device. True when one is ready. */
static bool start_worker(struct plan *p, uint32_t index)
{
    struct sched *s = p->s;
    struct domain *d = &s->domains[index];
    uint32_t device = d->device, backbone = (uint32_t)d->key.backbone;
    uint32_t instance = copy_instance(s, index);
    struct copy *c = copy_find(s, COPY_BACKBONE, backbone, device, instance);
    uint64_t bytes = process_bytes(s, device, backbone) + s->config.kv_step_bytes;
    bool is_ready = false;
    load_adapter(p, s->requests[d->waiting.head].function, device, index);
    if (!c) {
        if (plan_make_room(p, device, s->backbones[backbone].bytes + bytes, index, PLAN_WAITS) &&
            !plan_load(p, COPY_BACKBONE, backbone, device, instance))
            try_again(p, index);
    } else if (c->state == SCHED_COPY_LOADING) {
        copy_keep(s, c);
    } else if (copy_is_ready(c)) {
        uint32_t spare = spare_on(s, device, copy_index(s, c));
        if (spare != SCHED_NONE) {
            forecast_arrival(&s->backbones[backbone].starts, p->now_us);
            worker_join(s, spare, index);
            d->wants_worker = false;
            is_ready = s->workers[spare].state == WORKER_READY;
        } else if (plan_make_room(p, device, bytes, index, PLAN_WAITS)) {
            d->wants_worker = !plan_spawn(p, device, c, index);
            if (!d->wants_worker) {
                forecast_arrival(&s->backbones[backbone].starts, p->now_us);
            } else {
                if (s->worker_free == SCHED_NONE)
                    free_number(p);
                try_again(p, index);
            }
        }
    }
    return is_ready;
}

/* --- feeding --- */

/* The slot of the function, bound or being bound; NULL when every slot is busy for now, or the
 * adapter is not there yet. */
static struct slot *bind(struct plan *p, uint32_t worker, uint32_t function)
{
    struct sched *s = p->s;
    struct worker *w = &s->workers[worker];
    const struct function *f = &s->functions[function];
    struct slot *slot = worker_slot(w, s->config.worker_slots_max, function), *idle = NULL;
    if (slot)
        return slot;
    struct copy *adapter = NULL;
    if (f->adapter_bytes > 0) {
        load_adapter(p, function, w->device, w->domain);
        adapter = copy_find(s, COPY_ADAPTER, function, w->device, SCHED_NONE);
        if (adapter && adapter->state == SCHED_COPY_LOADING)
            copy_keep(s, adapter);
        if (!copy_is_ready(adapter))
            return NULL;
    }
    for (uint32_t i = 0; i < s->config.worker_slots_max && !slot; i++) {
        if (w->slots[i].state == SLOT_EMPTY)
            slot = &w->slots[i];
        else if (w->slots[i].state == SLOT_BOUND && w->slots[i].running == 0)
            idle = &w->slots[i];
    }
    if (plan_room(p) < 2 || (!slot && !idle)) {
        if (slot || idle)
            domain_look(s, w->domain);
        return NULL;
    }
    if (!slot) {
        plan_unbind(p, worker, idle);
        slot = idle;
    }
    *slot = (struct slot){.function = function, .state = SLOT_BINDING, .copy = SCHED_NONE};
    struct sched_action *a = plan_emit(p, SCHED_BIND);
    a->worker = worker;
    a->function = function;
    a->slot = (uint32_t)(slot - w->slots);
    a->domain = s->domains[w->domain].key;
    if (adapter) {
        copy_enter(adapter);
        slot->copy = a->copy = copy_index(s, adapter);
    }
    return slot;
}

void plan_unbind(struct plan *p, uint32_t worker, struct slot *slot)
{
    struct sched *s = p->s;
    struct sched_action *a = plan_emit(p, SCHED_UNBIND);
    assert(slot->running == 0);
    a->worker = worker;
    a->function = slot->function;
    a->slot = (uint32_t)(slot - s->workers[worker].slots);
    slot_clear(s, slot, p->now_us);
}

void slot_clear(struct sched *s, struct slot *slot, uint64_t now_us)
{
    if (slot->copy != SCHED_NONE)
        copy_leave(s, &s->copies[slot->copy], now_us);
    slot->copy = SCHED_NONE;
    slot->state = SLOT_EMPTY;
}

/* Requests that one worker may run at the same time. */
static uint32_t running_max(const struct sched *s)
{
    const struct sched_config *c = &s->config;
    if (c->batching == SCHED_BATCH_OFF)
        return 1;
    bool bounded = c->batch_fixed > 0 && c->batch_fixed < c->worker_running_max &&
                   c->batching != SCHED_BATCH_ADAPTIVE;
    return bounded ? c->batch_fixed : c->worker_running_max;
}

/* It would wait in vain: rather nobody comes within the window than somebody. */
static bool expects_nobody(const struct sched *s, const struct function *f, uint64_t now_us)
{
    return forecast_none_within(&f->forecast, now_us, s->config.batch_window_us) > 0.5;
}

/* Whether the first waiting request may be admitted now: fill or expire. */
static bool is_due(struct plan *p, uint32_t index, const struct worker *w, const struct request *r)
{
    struct sched *s = p->s;
    const struct domain *d = &s->domains[index];
    const struct device *v = &s->devices[w->device];
    const struct function *f = &s->functions[r->function];
    uint32_t mode = s->config.batching, count = d->waiting.count;
    bool is_free = v->turn_worker == SCHED_NONE || &s->workers[v->turn_worker] == w;
    if (mode == SCHED_BATCH_OFF || (mode == SCHED_BATCH_ADAPTIVE && is_free))
        return true;
    if (mode == SCHED_BATCH_ADAPTIVE && expects_nobody(s, f, p->now_us))
        return true;
    if (w->batch_us == p->now_us && w->running.count > 0)
        return true; /* of the batch that is being put together */
    struct cost_batch batch = forecast_batch(s, r->function, f->prompt_tokens.value);
    double slo_us = (double)f->slo_ttft_us;
    uint32_t limit =
        mode == SCHED_BATCH_FIXED ? running_max(s) : batch_limit(slo_us, &batch, running_max(s));
    uint64_t due_us = batch_due_us(r->receipt.arrived_us, slo_us, &batch, count, v->contention,
                                   s->config.batch_window_us);
    if (count >= limit || p->now_us >= due_us)
        return true;
    domain_wake(s, index, due_us);
    return false;
}

static uint64_t kv_needed(const struct sched *s, const struct request *r)
{
    const struct function *f = &s->functions[r->function];
    double new_tokens = maths_max(NEW_TOKENS_FACTOR * f->new_tokens.value, NEW_TOKENS_MIN);
    new_tokens = maths_min(new_tokens, r->new_tokens_max);
    return s->backbones[f->backbone].kv_token_bytes * (r->prompt_tokens + (uint64_t)new_tokens);
}

/* KV memory that the worker could have at most, were nothing in its device's memory but what it
 * needs for what it runs and for the function. */
static uint64_t kv_most(const struct sched *s, const struct worker *w, uint32_t function)
{
    uint64_t own = s->copies[w->copy].bytes + process_bytes(s, w->device, w->backbone);
    for (uint32_t i = 0; i < s->config.worker_slots_max; i++) {
        const struct slot *slot = &w->slots[i];
        bool is_needed = slot->running > 0 || slot->function == function;
        if (slot->state != SLOT_EMPTY && slot->copy != SCHED_NONE && is_needed)
            own += s->copies[slot->copy].bytes;
    }
    if (own > s->places[w->device].budget)
        return 0; /* beside the adapters that others run with */
    uint64_t left = s->places[w->device].budget - own;
    left -= left % s->config.kv_step_bytes;
    left = left > w->kv_bytes ? left : w->kv_bytes;
    return left < s->config.kv_worker_bytes_max ? left : s->config.kv_worker_bytes_max;
}

/* Memory for the request in the worker; false when it has to wait for some. */
static bool reserve(struct plan *p, uint32_t index, uint32_t worker, struct request *r)
{
    struct sched *s = p->s;
    struct worker *w = &s->workers[worker];
    uint64_t step = s->config.kv_step_bytes, most = kv_most(s, w, r->function);
    uint64_t needed = kv_needed(s, r);
    if (w->resizing)
        return false; /* it says soon what it is down to */
    if (w->kv_reserved + needed > most) {
        if (w->running.count > 0)
            return false; /* until others have ended */
        needed = most;    /* alone it has all there is; the engine refuses what does not fit that */
    }
    r->kv_bytes = needed;
    uint64_t wanted = (w->kv_reserved + needed + step - 1) / step * step;
    wanted = wanted < most ? wanted : most;
    uint64_t more = wanted > w->kv_bytes ? wanted - w->kv_bytes : 0;
    more += w->works ? 0 : work_bytes(s, w->device, w->backbone);
    if (plan_room(p) < 2) { /* for RESIZE and SUBMIT */
        domain_look(s, index);
        return false;
    }
    if (more > 0 && !plan_make_room(p, w->device, more, index, PLAN_WAITS))
        return false;
    worker_work(s, w, p->now_us);
    if (wanted <= w->kv_bytes)
        return true;
    worker_resize(s, w, p->now_us, wanted);
    struct sched_action *a = plan_emit(p, SCHED_RESIZE);
    a->worker = worker;
    a->bytes = wanted;
    return true;
}

/* More KV memory for what runs already and has come to need it. */
static void grow_kv(struct plan *p, uint32_t index, uint32_t worker)
{
    struct sched *s = p->s;
    struct worker *w = &s->workers[worker];
    uint64_t step = s->config.kv_step_bytes, most = kv_most(s, w, SCHED_NONE);
    uint64_t token_bytes = s->backbones[w->backbone].kv_token_bytes;
    for (uint32_t i = w->running.head; i != SCHED_NONE; i = s->requests[i].next) {
        struct request *r = &s->requests[i];
        uint64_t needed = token_bytes * ((uint64_t)r->prompt_tokens + r->receipt.new_tokens +
                                         (uint64_t)NEW_TOKENS_MIN);
        uint64_t left = most > w->kv_reserved ? most - w->kv_reserved : 0;
        uint64_t more = needed > r->kv_bytes ? needed - r->kv_bytes : 0;
        more = more < left ? more : left;
        r->kv_bytes += more;
        w->kv_reserved += more;
    }
    uint64_t wanted = (w->kv_reserved + step - 1) / step * step;
    if (w->stalled && wanted <= w->kv_bytes)
        wanted = w->kv_bytes + step;
    wanted = wanted < most ? wanted : most;
    if (plan_room(p) < 2) {
        domain_look(s, index);
        return;
    }
    if (wanted > w->kv_bytes &&
        !plan_make_room(p, w->device, wanted - w->kv_bytes, index, PLAN_RUNS))
        return;
    if (wanted > w->kv_bytes || w->stalled) {
        struct sched_action *a = plan_emit(p, SCHED_RESIZE);
        a->worker = worker;
        a->bytes = wanted;
        a->is_most = wanted == most;
        if (wanted > w->kv_bytes)
            worker_resize(s, w, p->now_us, wanted);
    }
    w->kv_short = w->stalled = false;
    device_look(s, w->device);
}

/* Where the time from arrival to submission went, in the order in which the parts come. */
static void account_wait(const struct domain *d, const struct worker *w, const struct slot *slot,
                         struct request *r, uint64_t now_us)
{
    struct sched_receipt *t = &r->receipt;
    uint64_t at = t->arrived_us;
    const struct {
        uint64_t end_us;
        uint64_t *part;
    } parts[] = {{d->load_seen_us, &t->load_us},
                 {w->ready_us, &t->start_us},
                 {slot->bound_us, &t->bind_us},
                 {now_us, &t->queue_us}};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (parts[i].end_us <= at)
            continue;
        *parts[i].part = parts[i].end_us - at;
        at = parts[i].end_us;
    }
}

/* Who waits for memory here waits for what runs to end, not for what comes long after him: so much
 * later, it waits behind him. */
static bool is_behind(struct plan *p, uint32_t index, const struct worker *w,
                      const struct request *r)
{
    struct sched *s = p->s;
    uint64_t since_us = r->receipt.arrived_us, patience_us = s->config.slo_ttft_us;
    if (since_us <= patience_us || !domain_is_behind(s, index, w->device, since_us - patience_us))
        return false;
    domain_block(s, &s->domains[index], w->device, since_us);
    return true;
}

/* Submits the first waiting request to the worker; false when it has to wait. */
static bool feed(struct plan *p, uint32_t index, uint32_t worker)
{
    struct sched *s = p->s;
    struct domain *d = &s->domains[index];
    struct worker *w = &s->workers[worker];
    struct request *r = &s->requests[d->waiting.head];
    struct slot *slot = bind(p, worker, r->function);
    if (!slot || slot->state != SLOT_BOUND || is_behind(p, index, w, r) ||
        !is_due(p, index, w, r) || !reserve(p, index, worker, r))
        return false;
    account_wait(d, w, slot, r, p->now_us);
    r->prefill_us = maths_max(forecast_batch(s, r->function, r->prompt_tokens).alpha_us, 1);
    w->batch_us = p->now_us;
    if (w->running.count == 0) {
        w->passed_over = 0;
        timers_set(&s->timers, timer_of_worker(worker), TIMERS_NEVER);
    }
    request_run(s, r, worker, (uint32_t)(slot - w->slots), p->now_us);
    struct sched_action *a = plan_emit(p, SCHED_SUBMIT);
    a->worker = worker;
    a->function = r->function;
    a->request = r->id;
    a->slot = r->slot;
    a->us = r->deadline_us;
    return true;
}

/* The domain's worker that takes the next request: the one with least at work. */
/* The worker that comes to the next request first; of those, which runs least. */
static uint32_t pick_worker(struct plan *p, const struct domain *d)
{
    struct sched *s = p->s;
    uint32_t best = SCHED_NONE, most = running_max(s);
    uint32_t function = s->requests[d->waiting.head].function;
    double best_us = 0;
    for (uint32_t i = d->workers; i != SCHED_NONE; i = s->workers[i].domain_next) {
        const struct worker *w = &s->workers[i];
        bool runs_batch = s->config.batching == SCHED_BATCH_STATIC && w->running.count > 0 &&
                          w->batch_us != p->now_us;
        if (w->state != WORKER_READY || w->running.count >= most || runs_batch ||
            !device_fits(s, w->device, function))
            continue;
        double us = forecast_busy_us(s, w->device, function);
        if (best == SCHED_NONE || us < best_us ||
            (us <= best_us && w->running.count < s->workers[best].running.count)) {
            best = i;
            best_us = us;
        }
    }
    return best;
}

/* A spare on a device with nothing to do, which comes to the domain's next request sooner than
 * `worker`, whose device is at work. */
static uint32_t pick_spare(struct plan *p, uint32_t index, uint32_t worker)
{
    struct sched *s = p->s;
    const struct domain *d = &s->domains[index];
    uint32_t function = s->requests[d->waiting.head].function, left = DEVICES_SAMPLED;
    double least_us = forecast_busy_us(s, s->workers[worker].device, function);
    uint32_t best = SCHED_NONE;
    if (least_us <= 0 || s->config.no_sharing || d->worker_count >= s->config.domain_workers_max)
        return SCHED_NONE;
    for (uint32_t i = s->backbones[d->key.backbone].copies; i != SCHED_NONE && left > 0;
         i = s->copies[i].object_next, left--) {
        const struct copy *c = &s->copies[i];
        uint32_t spare = SCHED_NONE;
        if (place_is_device(s, c->place) && copy_is_ready(c) && s->devices[c->place].active == 0 &&
            device_fits(s, c->place, function))
            spare = spare_on(s, c->place, i);
        if (spare == SCHED_NONE || s->workers[spare].state != WORKER_READY)
            continue;
        struct route_start start = forecast_parts(s, function, c->place, p->now_us);
        double us = route_start_us(&start) + forecast_busy_us(s, c->place, function);
        if (us < least_us) {
            best = spare;
            least_us = us;
        }
    }
    return best;
}

/* Where the domain's first request goes; SCHED_NONE: to nobody now. */
static uint32_t pick(struct plan *p, uint32_t index)
{
    struct sched *s = p->s;
    struct domain *d = &s->domains[index];
    uint32_t worker = pick_worker(p, d);
    if (worker == SCHED_NONE)
        return SCHED_NONE;
    uint32_t spare = pick_spare(p, index, worker);
    if (spare == SCHED_NONE)
        return worker;
    forecast_arrival(&s->backbones[d->key.backbone].starts, p->now_us);
    worker_join(s, spare, index);
    return spare;
}

/* --- the domain --- */

/* Another device serves the next request within its objective, where the present ones do not. */
static bool should_scale(struct plan *p, const struct domain *d, const struct request *r)
{
    struct sched *s = p->s;
    const struct function *f = &s->functions[r->function];
    struct cost_batch batch = forecast_batch(s, r->function, f->prompt_tokens.value);
    double slo_us = (double)f->slo_ttft_us, here = -1;
    bool has_fitting = false;
    for (uint32_t i = d->workers; i != SCHED_NONE; i = s->workers[i].domain_next) {
        const struct worker *w = &s->workers[i];
        if (w->state == WORKER_ENDING || !device_fits(s, w->device, r->function))
            continue;
        if (w->state == WORKER_STARTING)
            return false; /* one thing after the other */
        has_fitting = true;
        double us = s->devices[w->device].backlog_us + batch.alpha_us * d->waiting.count;
        us += w->running.count >= running_max(s) ? slo_us : 0;
        us += forecast_late_us(s, r->function, w->device) > 0 ? slo_us : 0;
        here = here < 0 || us < here ? us : here;
    }
    if (!has_fitting)
        return true;
    if (d->worker_count >= s->config.domain_workers_max || here + batch.t0_us <= slo_us)
        return false;
    struct start_forecast there = forecast_start(s, r->function, r->prompt_tokens, p->now_us);
    for (uint32_t i = d->workers; i != SCHED_NONE; i = s->workers[i].domain_next)
        if (s->workers[i].device == there.device && s->workers[i].state != WORKER_ENDING)
            return false;
    return there.device != SCHED_NONE;
}

/* The backbone is, or is on its way, where the domain's next worker is to start. */
static bool is_coming(const struct sched *s, uint32_t index)
{
    const struct domain *d = &s->domains[index];
    const struct copy *c =
        copy_find(s, COPY_BACKBONE, (uint32_t)d->key.backbone, d->device, copy_instance(s, index));
    return c && c->state != SCHED_COPY_DROPPING;
}

/* True when a worker has become ready for the domain by that. */
static bool decide_start(struct plan *p, uint32_t index)
{
    struct sched *s = p->s;
    struct domain *d = &s->domains[index];
    const struct request *r = &s->requests[d->waiting.head];
    /* No room there yet, or the first in line is another by now: think again. */
    if (d->wants_worker && (!is_coming(s, index) || !device_fits(s, d->device, r->function)))
        d->wants_worker = false;
    if (!d->wants_worker) {
        if (!should_scale(p, d, r))
            return false;
        struct start_forecast f = forecast_start(s, r->function, r->prompt_tokens, p->now_us);
        if (f.device == SCHED_NONE)
            return false;
        d->device = f.device;
        d->wants_worker = true;
    }
    return start_worker(p, index);
}

/* Those that have waited beyond what their objective can bear. */
static void give_up_late(struct plan *p, struct domain *d)
{
    struct sched *s = p->s;
    if (d->give_up_us > p->now_us)
        return;
    d->give_up_us = UINT64_MAX;
    for (uint32_t i = d->waiting.head; i != SCHED_NONE;) {
        struct request *r = &s->requests[i];
        i = r->next;
        if (r->give_up_us <= p->now_us)
            request_refuse(s, r, SCHED_TOO_LATE,
                           maths_us((double)s->functions[r->function].slo_ttft_us));
        else if (r->give_up_us < d->give_up_us)
            d->give_up_us = r->give_up_us;
    }
}

void domain_wake(struct sched *s, uint32_t domain, uint64_t at_us)
{
    struct timers *t = &s->timers;
    uint32_t timer = timer_of_domain(s, domain);
    if (at_us < timers_at_us(t, timer))
        timers_set(t, timer, at_us);
}

void plan_domain(struct plan *p, uint32_t index)
{
    struct sched *s = p->s;
    struct domain *d = &s->domains[index];
    if (!d->used)
        return;
    domain_unblock(s, d); /* it waits again for what it still lacks */
    timers_set(&s->timers, timer_of_domain(s, index), TIMERS_NEVER);
    give_up_late(p, d);
    for (uint32_t i = d->workers; i != SCHED_NONE; i = s->workers[i].domain_next)
        if ((s->workers[i].kv_short || s->workers[i].stalled) &&
            s->workers[i].state == WORKER_READY && !s->workers[i].resizing)
            grow_kv(p, index, i);
    do {
        while (d->waiting.head != SCHED_NONE) {
            uint32_t worker = pick(p, index);
            if (worker == SCHED_NONE || !feed(p, index, worker))
                break;
        }
    } while (d->waiting.head != SCHED_NONE && decide_start(p, index));
    if (d->waiting.head != SCHED_NONE) {
        uint64_t again_us = p->now_us + s->config.plan_period_us;
        domain_wake(s, index, d->give_up_us < again_us ? d->give_up_us : again_us);
        return;
    }
    d->wants_worker = false;
    for (uint32_t i = d->workers; i != SCHED_NONE; i = s->workers[i].domain_next)
        plan_idle(p, i);
}

/* --- the end of idle workers --- */

/* What its domain pays for while it is idle: the process, and the adapters bound in it. */
static uint64_t idle_bytes(const struct sched *s, const struct worker *w)
{
    uint64_t bytes = worker_bytes(s, w);
    if (s->config.no_sharing)
        bytes += s->backbones[w->backbone].bytes;
    for (uint32_t i = 0; i < s->config.worker_slots_max; i++) {
        const struct slot *slot = &w->slots[i];
        if (slot->state == SLOT_BOUND && slot->copy != SCHED_NONE)
            bytes += s->copies[slot->copy].bytes;
    }
    return bytes;
}

/* How long it stays is decided once, when it falls idle. */
void plan_idle(struct plan *p, uint32_t index)
{
    struct sched *s = p->s;
    struct worker *w = &s->workers[index];
    uint32_t timer = timer_of_worker(index);
    if (w->domain == SCHED_NONE || !worker_is_idle(s, w) ||
        timers_at_us(&s->timers, timer) != TIMERS_NEVER)
        return;
    uint64_t keep_us = s->config.keep_alive_us;
    uint32_t function = s->domains[w->domain].last_function;
    if (keep_us == SCHED_KEEP_ALIVE_AUTO && function == SCHED_NONE) {
        keep_us = 0; /* nothing of it has ever run here */
    } else if (keep_us == SCHED_KEEP_ALIVE_AUTO) {
        const struct keepalive_cost c = {
            .saved_us =
                forecast_restart_us(s, w, function) +
                (s->config.no_sharing ? copy_load_us(s, COPY_BACKBONE, w->backbone, w->device) : 0),
            .bytes = (double)idle_bytes(s, w),
            .price_bytes = s->config.price_bytes};
        keep_us = keepalive_choose(&s->functions[function].forecast, p->now_us, &c).keep_us;
    }
    timers_set(&s->timers, timer, keepalive_ends_us(p->now_us, keep_us));
}
