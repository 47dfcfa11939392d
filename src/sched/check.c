/* Every invariant of the picture, asserted. See sched.h. */
#include "sched/plan.h"

#include <assert.h>

/* What was metered may differ from what passed by the roundings of sums. */
#define ROUNDING 1e-6

static uint32_t check_waiting(const struct sched *s)
{
    uint32_t waiting = 0;
    for (uint32_t i = 0; i < s->config.functions_max; i++) {
        const struct domain *d = &s->domains[i];
        uint32_t count = 0, last = SCHED_NONE;
        if (!d->used)
            continue;
        for (uint32_t r = d->waiting.head; r != SCHED_NONE; r = s->requests[r].next) {
            const struct request *q = &s->requests[r];
            assert(q->state == REQUEST_WAITING);
            assert(s->functions[q->function].domain == i);
            assert(q->prev == last);
            last = r;
            count++;
        }
        assert(count == d->waiting.count);
        waiting += count;
    }
    return waiting;
}

static uint32_t check_running(const struct sched *s)
{
    uint32_t running = 0, cancels = 0;
    for (uint32_t i = 0; i < s->config.workers_max; i++) {
        const struct worker *w = &s->workers[i];
        uint32_t count = 0;
        uint64_t kv_bytes = 0;
        if (w->state == WORKER_FREE)
            continue;
        for (uint32_t r = w->running.head; r != SCHED_NONE; r = s->requests[r].next) {
            const struct request *q = &s->requests[r];
            assert(q->state == REQUEST_RUNNING);
            assert(q->worker == i);
            assert(s->functions[q->function].domain == w->domain);
            assert(w->slots[q->slot].function == q->function);
            cancels += q->cancel_due;
            kv_bytes += q->kv_bytes;
            count++;
        }
        assert(count == w->running.count);
        assert(count <= s->config.worker_running_max);
        assert(kv_bytes == w->kv_reserved);
        assert(!w->works || count > 0 || w->state == WORKER_ENDING);
        assert(kv_bytes <= s->config.kv_worker_bytes_max);
        running += count;
    }
    assert(cancels == s->cancels_due);
    return running;
}

static void check_workers(const struct sched *s)
{
    for (uint32_t i = 0; i < s->config.workers_max; i++) {
        const struct worker *w = &s->workers[i];
        if (w->state == WORKER_FREE)
            continue;
        const struct copy *c = &s->copies[w->copy];
        assert(c->kind == COPY_BACKBONE);
        assert(c->object == w->backbone);
        assert(c->place == w->device);
        assert(c->users > 0);
        assert(c->state == SCHED_COPY_RESIDENT);
        if (w->domain == SCHED_NONE)
            continue;
        const struct domain *d = &s->domains[w->domain];
        assert(d->used);
        assert(d->key.backbone == w->backbone);
        for (uint32_t k = 0; k < s->config.worker_slots_max; k++)
            if (w->slots[k].state != SLOT_EMPTY && s->functions[w->slots[k].function].used)
                assert(s->functions[w->slots[k].function].domain == w->domain);
    }
}

static void check_places(const struct sched *s)
{
    uint32_t places = s->config.devices_max + s->config.nodes_max;
    for (uint32_t p = 0; p < places; p++) {
        const struct place *m = &s->places[p];
        uint64_t used = 0, leaving = 0;
        uint32_t active = 0, backbones = 0;
        for (uint32_t i = m->copies; i != SCHED_NONE; i = s->copies[i].place_next) {
            const struct copy *c = &s->copies[i];
            assert(c->state != SCHED_COPY_NONE);
            assert(c->instance == COPY_ORPHAN ||
                   copy_find(s, c->kind, c->object, p, c->instance) == c);
            used += c->bytes;
            backbones += c->kind == COPY_BACKBONE;
            leaving += c->leaving ? c->bytes : 0;
        }
        uint32_t first = place_is_device(s, p) ? s->devices[p].workers : SCHED_NONE;
        for (uint32_t i = first; i != SCHED_NONE; i = s->workers[i].device_next) {
            const struct worker *w = &s->workers[i];
            used += worker_bytes(s, w);
            active += w->running.count > 0;
            if (w->state == WORKER_ENDING)
                leaving += worker_bytes(s, w);
            else if (w->resizing)
                leaving += w->kv_bytes - w->kv_asked;
        }
        assert(used == m->used);
        assert(leaving == m->leaving);
        assert(m->used <= m->budget);
        if (!place_is_device(s, p))
            continue;
        assert(active == s->devices[p].active);
        assert(backbones == s->devices[p].backbones);
        if (s->devices[p].turn_worker != SCHED_NONE)
            assert(s->workers[s->devices[p].turn_worker].state != WORKER_FREE);
    }
}

/* What is a sharer's, by the marks of those who run. */
static double open_shares(const struct sched *s)
{
    double sum = 0;
    for (uint32_t i = 0; i < s->config.workers_max; i++) {
        const struct worker *w = &s->workers[i];
        if (w->state == WORKER_FREE)
            continue;
        for (uint32_t r = w->running.head; r != SCHED_NONE; r = s->requests[r].next) {
            const struct request *q = &s->requests[r];
            const struct slot *slot = &w->slots[q->slot];
            sum += w->clock.each - q->own_mark;
            sum += s->copies[w->copy].clock.each - q->backbone_mark;
            if (slot->copy != SCHED_NONE)
                sum += s->copies[slot->copy].clock.each - q->adapter_mark;
        }
        sum += w->clock.alone;
    }
    return sum;
}

/* All that passed in every memory is somebody's: billed, to be billed, or nobody's and known. */
static void check_meters(const struct sched *s)
{
    uint32_t places = s->config.devices_max + s->config.nodes_max;
    double billed = s->receipts_byte_us + s->idle_byte_us + open_shares(s), passed = 0;
    for (uint32_t i = s->told.head; i != SCHED_NONE; i = s->requests[i].next)
        if (s->requests[i].state == REQUEST_ENDED)
            billed +=
                (s->requests[i].receipt.own_byte_s + s->requests[i].receipt.backbone_byte_s) * 1e6;
    for (uint32_t i = s->bills; i != SCHED_NONE; i = s->functions[i].bill_next)
        billed += s->functions[i].idle_due;
    for (uint32_t p = 0; p < places; p++) {
        billed += s->places[p].platform;
        passed += s->places[p].passed;
        /* Clocks run when they are looked at: each is brought to the time of its memory. */
        double behind = 0;
        for (uint32_t i = s->places[p].copies; i != SCHED_NONE; i = s->copies[i].place_next) {
            const struct copy *c = &s->copies[i];
            billed += c->clock.alone;
            behind += (double)c->bytes * ((double)s->places[p].at_us - (double)c->clock.at_us);
        }
        uint32_t first = place_is_device(s, p) ? s->devices[p].workers : SCHED_NONE;
        for (uint32_t i = first; i != SCHED_NONE; i = s->workers[i].device_next)
            behind += (double)worker_bytes(s, &s->workers[i]) *
                      ((double)s->places[p].at_us - (double)s->workers[i].clock.at_us);
        passed -= behind;
    }
    double off = billed > passed ? billed - passed : passed - billed;
    assert(off <= ROUNDING * (passed > 0 ? passed : 1) + 1);
}

void sched_check(const struct sched *s)
{
    uint32_t waiting = check_waiting(s), running = check_running(s);
    assert(waiting + running == s->live);
    assert(running == s->running);
    assert(s->live <= s->config.requests_max);
    check_workers(s);
    check_places(s);
    check_meters(s);
}
