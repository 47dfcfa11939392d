/*
 * Events into the picture. Nothing is decided here beyond admission; sched_plan() decides over
 * everything that is queued. An event about something the core no longer knows (a request that was
 * refused meanwhile, a worker that ended) is ignored: such races are ordinary.
 */
#include "sched/state.h"

#include <assert.h>

static struct worker *worker_live(struct sched *s, uint32_t index)
{
    assert(index < s->config.workers_max);
    struct worker *w = &s->workers[index];
    return w->state == WORKER_FREE ? NULL : w;
}

static uint32_t domain_take(struct sched *s, struct route_domain key)
{
    uint32_t free_index = SCHED_NONE;
    for (uint32_t i = 0; i < s->config.functions_max; i++) {
        struct domain *d = &s->domains[i];
        if (d->used && route_domain_equal(d->key, key))
            return i;
        if (!d->used && free_index == SCHED_NONE)
            free_index = i;
    }
    assert(free_index != SCHED_NONE); /* never more domains than functions */
    s->domains[free_index] = (struct domain){
        .key = key, .waiting = {SCHED_NONE, SCHED_NONE, 0}, .worker = SCHED_NONE, .used = true};
    return free_index;
}

static void on_deployed(struct sched *s, const struct sched_event *e)
{
    assert(e->function < s->config.functions_max);
    assert(e->backbone < s->config.backbones_max);
    struct function *f = &s->functions[e->function];
    assert(!f->used);
    struct route_domain key = route_domain_of(e->isolation, e->function, e->owner, e->backbone);
    *f = (struct function){.domain = domain_take(s, key), .backbone = e->backbone, .used = true};
    s->domains[f->domain].functions++;
    s->backbones[e->backbone].bytes = e->bytes;
}

static void on_removed(struct sched *s, const struct sched_event *e)
{
    struct function *f = &s->functions[e->function];
    assert(f->used);
    f->removing = true;
    if (function_is_forgettable(f))
        s->forgets_due = 1;
}

static void on_client_gone(struct sched *s, const struct sched_event *e)
{
    struct request *r = request_find(s, e->request);
    if (r == NULL)
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

static void on_done(struct sched *s, const struct sched_event *e)
{
    struct request *r = request_find(s, e->request);
    if (r == NULL || r->state != REQUEST_RUNNING)
        return;
    struct worker *w = &s->workers[r->worker];
    s->backbones[w->backbone].used_us = e->now_us;
    request_release(s, r);
    if (w->running.count == 0)
        w->idle_since_us = e->now_us;
}

static void turn_release(struct sched *s, uint32_t worker)
{
    if (s->turn_worker == worker)
        s->turn_worker = SCHED_NONE;
}

static void on_worker_ready(struct sched *s, const struct sched_event *e)
{
    struct worker *w = worker_live(s, e->worker);
    if (w == NULL || w->state != WORKER_STARTING)
        return;
    w->state = WORKER_READY;
    w->idle_since_us = e->now_us;
    s->domains[w->domain].spawn_failures = 0;
}

static void on_bound(struct sched *s, const struct sched_event *e)
{
    struct worker *w = worker_live(s, e->worker);
    struct slot *slot = w == NULL ? NULL : worker_slot(w, s->config.worker_slots_max, e->function);
    if (slot != NULL)
        slot->state = SLOT_BOUND;
}

static void on_bind_failed(struct sched *s, const struct sched_event *e)
{
    struct worker *w = worker_live(s, e->worker);
    struct slot *slot = w == NULL ? NULL : worker_slot(w, s->config.worker_slots_max, e->function);
    if (slot == NULL)
        return;
    slot->state = SLOT_EMPTY;
    struct function *f = &s->functions[e->function];
    domain_refuse_waiting(s, &s->domains[f->domain], e->function, SCHED_ADAPTER_FAILED);
}

static void on_worker_exited(struct sched *s, const struct sched_event *e)
{
    struct worker *w = worker_live(s, e->worker);
    if (w == NULL)
        return;
    for (uint32_t i = w->running.head, next; i != SCHED_NONE; i = next) {
        struct request *r = &s->requests[i];
        next = r->next;
        if (r->cancel_due || r->cancelled)
            request_release(s, r);
        else
            request_refuse(s, r, SCHED_WORKER_LOST);
    }
    struct domain *d = &s->domains[w->domain];
    if (d->used && d->worker == e->worker) {
        d->worker = SCHED_NONE;
        if (w->state == WORKER_STARTING && ++d->spawn_failures >= s->config.spawn_attempts_max) {
            domain_refuse_waiting(s, d, SCHED_NONE, SCHED_START_FAILED);
            d->spawn_failures = 0;
        }
    }
    struct backbone_entry *b = &s->backbones[w->backbone];
    assert(b->workers > 0);
    b->workers--;
    b->used_us = e->now_us;
    assert(s->memory_bytes >= s->config.worker_bytes);
    s->memory_bytes -= s->config.worker_bytes;
    turn_release(s, e->worker);
    w->state = WORKER_FREE;
}

static void on_image_gone(struct sched *s, const struct sched_event *e)
{
    struct backbone_entry *b = &s->backbones[e->backbone];
    if (b->state != BACKBONE_COLD) {
        assert(s->memory_bytes >= b->bytes);
        s->memory_bytes -= b->bytes;
        b->state = BACKBONE_COLD;
    }
    if (e->type != SCHED_IMAGE_FAILED)
        return;
    for (uint32_t i = s->hungry_head, next; i != SCHED_NONE; i = next) {
        struct domain *d = &s->domains[i];
        next = d->hungry_next;
        if (d->key.backbone == e->backbone)
            domain_refuse_waiting(s, d, SCHED_NONE, SCHED_LOAD_FAILED);
    }
}

void sched_apply(struct sched *s, const struct sched_event *e)
{
    switch ((enum sched_event_type)e->type) {
    case SCHED_DEPLOYED:
        on_deployed(s, e);
        break;
    case SCHED_REMOVED:
        on_removed(s, e);
        break;
    case SCHED_REQUEST:
        request_arrive(s, e);
        break;
    case SCHED_CLIENT_GONE:
        on_client_gone(s, e);
        break;
    case SCHED_ADMITTED:
        s->tokens_prompt += e->tokens;
        break;
    case SCHED_TOKENS:
        s->tokens_new += e->tokens;
        break;
    case SCHED_DONE:
        on_done(s, e);
        break;
    case SCHED_TURN_ENDED:
        turn_release(s, e->worker);
        break;
    case SCHED_WORKER_READY:
        on_worker_ready(s, e);
        break;
    case SCHED_WORKER_BOUND:
        on_bound(s, e);
        break;
    case SCHED_BIND_FAILED:
        on_bind_failed(s, e);
        break;
    case SCHED_WORKER_EXITED:
        on_worker_exited(s, e);
        break;
    case SCHED_IMAGE_LOADED:
        if (s->backbones[e->backbone].state == BACKBONE_LOADING)
            s->backbones[e->backbone].state = BACKBONE_RESIDENT;
        break;
    case SCHED_IMAGE_FAILED:
    case SCHED_IMAGE_DROPPED:
        on_image_gone(s, e);
        break;
    case SCHED_TICK:
        s->armed_us = UINT64_MAX;
        break;
    case SCHED_EVENT_COUNT:
        assert(!"not an event");
    }
}
