/*
 * Decisions over everything that is queued, once per turn of the event loop: that is where batching
 * comes from. What is to be told of requests goes first, then what timers and events have queued.
 */
#include "sched/plan.h"

#include <assert.h>

struct sched_action *plan_emit(struct plan *p, enum sched_action_type type)
{
    assert(plan_room(p) > 0);
    struct sched_action *a = &p->actions[p->count++];
    *a = (struct sched_action){.type = type,
                               .function = SCHED_NONE,
                               .backbone = SCHED_NONE,
                               .worker = SCHED_NONE,
                               .device = SCHED_NONE,
                               .slot = SCHED_NONE,
                               .copy = SCHED_NONE,
                               .host_copy = SCHED_NONE,
                               .place = SCHED_NONE,
                               .from = SCHED_NONE};
    return a;
}

/* --- what is to be told --- */

static void tell_requests(struct plan *p)
{
    struct sched *s = p->s;
    while (s->told.head != SCHED_NONE && plan_room(p) > 0) {
        struct request *r = &s->requests[s->told.head];
        bool ran = r->state == REQUEST_ENDED;
        struct sched_action *a = plan_emit(p, ran ? SCHED_RECEIPT : SCHED_REFUSE);
        a->request = r->id;
        a->function = r->function;
        a->reason = r->reason;
        a->us = r->retry_us;
        a->receipt = r->receipt;
        if (ran) {
            s->receipts++;
            s->receipts_byte_us += (r->receipt.own_byte_s + r->receipt.backbone_byte_s) * 1e6;
        }
        request_release(s, r);
    }
}

static void tell_cancels(struct plan *p)
{
    struct sched *s = p->s;
    for (uint32_t w = 0; w < s->config.workers_max && s->cancels_due > 0; w++) {
        if (s->workers[w].state == WORKER_FREE)
            continue;
        for (uint32_t i = s->workers[w].running.head; i != SCHED_NONE; i = s->requests[i].next) {
            struct request *r = &s->requests[i];
            if (!r->cancel_due)
                continue;
            if (plan_room(p) == 0)
                return;
            struct sched_action *a = plan_emit(p, SCHED_CANCEL);
            a->worker = w;
            a->request = r->id;
            r->cancel_due = false;
            r->cancelled = true;
            s->cancels_due--;
        }
    }
}

static void tell_bills(struct plan *p)
{
    struct sched *s = p->s;
    while (s->bills != SCHED_NONE && plan_room(p) > 0) {
        struct function *f = &s->functions[s->bills];
        struct sched_action *a = plan_emit(p, SCHED_IDLE_BILL);
        a->function = s->bills;
        a->byte_s = f->idle_due / 1e6;
        f->idle_byte_s += a->byte_s;
        s->idle_byte_us += f->idle_due;
        f->idle_due = 0;
        f->is_billed = false;
        s->bills = f->bill_next;
        s->forgets_due |= f->removing;
    }
}

static void tell_drops(struct plan *p)
{
    struct sched *s = p->s;
    while (s->drops != SCHED_NONE && plan_room(p) > 0) {
        struct copy *c = &s->copies[s->drops];
        struct sched_action *a = plan_emit(p, SCHED_DROP);
        a->copy = s->drops;
        a->place = c->place;
        s->drops = c->free_next;
    }
}

/* --- functions that go --- */

static void forget_adapter(struct plan *p, struct function *f)
{
    struct sched *s = p->s;
    for (uint32_t i = f->copies; i != SCHED_NONE; i = s->copies[i].object_next)
        copy_drop(s, &s->copies[i]);
}

/* True when no worker has it in a slot any more. */
static bool unbind_everywhere(struct plan *p, uint32_t index)
{
    struct sched *s = p->s;
    struct domain *d = &s->domains[s->functions[index].domain];
    for (uint32_t i = d->workers; i != SCHED_NONE; i = s->workers[i].domain_next) {
        struct worker *w = &s->workers[i];
        if (w->state == WORKER_ENDING)
            continue;
        struct slot *slot = worker_slot(w, s->config.worker_slots_max, index);
        if (plan_room(p) == 0)
            return false;
        if (d->functions == 1)
            plan_kill(p, i);
        else if (slot && slot->state == SLOT_BOUND)
            plan_unbind(p, i, slot);
    }
    return true;
}

static void remove_from_backbone(struct sched *s, uint32_t index)
{
    struct function *f = &s->functions[index];
    struct backbone *b = &s->backbones[f->backbone];
    if (f->recent_prev != SCHED_NONE)
        s->functions[f->recent_prev].recent_next = f->recent_next;
    else
        b->recent_head = f->recent_next;
    if (f->recent_next != SCHED_NONE)
        s->functions[f->recent_next].recent_prev = f->recent_prev;
    else
        b->recent_tail = f->recent_prev;
    b->functions--;
}

/* Something in memory is still its own: the function's number is not free before that has gone. */
static bool is_referred_to(const struct sched *s, uint32_t index)
{
    const struct function *f = &s->functions[index];
    const struct domain *d = &s->domains[f->domain];
    if (f->copies != SCHED_NONE)
        return true;
    if (d->functions == 1 && d->workers != SCHED_NONE)
        return true;
    for (uint32_t i = d->workers; i != SCHED_NONE; i = s->workers[i].domain_next)
        if (worker_slot(&s->workers[i], s->config.worker_slots_max, index))
            return true;
    return false;
}

static void forget(struct plan *p, uint32_t index)
{
    struct sched *s = p->s;
    struct function *f = &s->functions[index];
    struct domain *d = &s->domains[f->domain];
    assert(d->functions > 0);
    plan_emit(p, SCHED_FORGET)->function = index;
    remove_from_backbone(s, index);
    if (d->last_function == index)
        d->last_function = SCHED_NONE;
    f->used = false;
    s->removing--;
    if (--d->functions == 0)
        domain_free(s, f->domain);
}

/* Functions that are being removed are looked at until nothing of theirs is left. */
static void plan_forgets(struct plan *p)
{
    struct sched *s = p->s;
    if (!s->forgets_due)
        return;
    s->forgets_due = false;
    for (uint32_t i = 0; i < s->config.functions_max; i++) {
        struct function *f = &s->functions[i];
        if (!function_is_forgettable(f))
            continue;
        if (!unbind_everywhere(p, i) || plan_room(p) == 0) {
            s->forgets_due = true;
            return;
        }
        forget_adapter(p, f);
        if (!is_referred_to(s, i) && !f->is_billed)
            forget(p, i);
    }
}

/* --- what time has queued --- */

static void expire_worker(struct plan *p, uint32_t index)
{
    struct sched *s = p->s;
    const struct worker *w = &s->workers[index];
    if (w->state != WORKER_READY || w->domain == SCHED_NONE || !worker_is_idle(s, w))
        return;
    if (plan_room(p) > 0)
        plan_kill(p, index);
    else
        timers_set(&s->timers, timer_of_worker(index), p->now_us);
}

static void take_timers(struct plan *p)
{
    struct sched *s = p->s;
    uint32_t subject, left = s->timers.count; /* those that are set anew come later */
    while (left-- > 0 && timers_take(&s->timers, p->now_us, &subject)) {
        if (subject == timer_of_plan())
            s->plan_due = true;
        else if (subject < timer_of_device(s, 0))
            expire_worker(p, subject - timer_of_worker(0));
        else if (subject < timer_of_domain(s, 0))
            device_look(s, subject - timer_of_device(s, 0));
        else
            domain_look(s, subject - timer_of_domain(s, 0));
    }
}

static void plan_memory(struct plan *p)
{
    struct sched *s = p->s;
    if (!s->plan_due || plan_room(p) < SCHED_ACTIONS_MIN / 2)
        return;
    s->plan_due = false;
    plan_preload(p);
    if (timers_at_us(&s->timers, timer_of_plan()) != TIMERS_NEVER)
        return; /* what has come was planned between two turns */
    timers_set(&s->timers, timer_of_plan(),
               p->now_us + s->config.plan_period_us / (s->place_count > 0 ? s->place_count : 1));
}

static void plan_domains(struct plan *p)
{
    struct sched *s = p->s;
    /* Those that are queued anew meanwhile are looked at by the next plan. */
    uint32_t last = s->queue_tail;
    while (s->queue_head != SCHED_NONE && plan_room(p) > 0) {
        uint32_t index = s->queue_head;
        struct domain *d = &s->domains[index];
        s->queue_head = d->queue_next;
        if (s->queue_head == SCHED_NONE)
            s->queue_tail = SCHED_NONE;
        d->queued = false;
        plan_domain(p, index);
        if (index == last)
            break;
    }
}

static void plan_devices(struct plan *p)
{
    struct sched *s = p->s;
    uint32_t last = s->devices_tail;
    while (s->devices_head != SCHED_NONE && plan_room(p) > 0) {
        uint32_t index = s->devices_head;
        struct device *v = &s->devices[index];
        s->devices_head = v->queue_next;
        if (s->devices_head == SCHED_NONE)
            s->devices_tail = SCHED_NONE;
        v->queued = false;
        plan_device(p, index);
        if (index == last)
            break;
    }
}

static bool has_more(const struct sched *s)
{
    return s->told.head != SCHED_NONE || s->cancels_due > 0 || s->bills != SCHED_NONE ||
           s->drops != SCHED_NONE || s->forgets_due || s->queue_head != SCHED_NONE ||
           s->devices_head != SCHED_NONE || s->plan_due;
}

uint32_t sched_plan(struct sched *s, uint64_t now_us, struct sched_action *actions, uint32_t max,
                    bool *ret_more)
{
    assert(max >= SCHED_ACTIONS_MIN);
    s->now_us = now_us > s->now_us ? now_us : s->now_us;
    struct plan p = {.s = s, .now_us = s->now_us, .actions = actions, .max = max};
    tell_requests(&p);
    tell_cancels(&p);
    take_timers(&p);
    plan_forgets(&p);
    plan_domains(&p);
    plan_devices(&p);
    plan_memory(&p);
    tell_requests(&p); /* whom this plan has given up */
    tell_drops(&p);
    tell_bills(&p);
    uint64_t next_us = timers_next_us(&s->timers);
    if (next_us < s->armed_us && plan_room(&p) > 0) {
        plan_emit(&p, SCHED_ARM_TIMER)->us = next_us;
        s->armed_us = next_us;
    }
    *ret_more = p.count > 0 && (has_more(s) || next_us < s->armed_us);
    return p.count;
}
