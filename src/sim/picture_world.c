/*
 * What the records of a log say there is. It follows the core (sched/) in what an event or an
 * action changes, and decides nothing: a byte of memory is charged from the action that asks for it
 * until the event that says it is gone. See picture_parts.h.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "sim/picture_parts.h"

#define REQUESTS_FIRST 1024u

struct picture_worker {
    bool exists;
    bool is_resizing, works;
    uint8_t state; /* enum picture_state */
    uint32_t device, copy, running;
    uint64_t since_us;                                    /* of the state */
    uint64_t life;                                        /* tells processes of one number apart */
    double process_bytes, work_bytes, kv_bytes, kv_asked; /* work_bytes: while it works */
    struct route_domain domain;                           /* group 0: none yet */
};

struct picture_copy {
    bool exists, is_loading, is_adapter;
    bool is_along; /* made along with another */
    uint32_t place, object, users;
    uint32_t host_copy; /* being made along with it, or SCHED_NONE */
    uint64_t began_us;
    double bytes;
};

struct picture_live {
    bool is_used, is_submitted, is_at_work, has_left;
    uint32_t function, worker, prompt_tokens, new_tokens;
    uint32_t next; /* 1 + the next of its chain, or of the free ones */
    uint64_t id, arrived_us, submitted_us, first_us, life;
};

static uint64_t now_of(const struct picture_world *w)
{
    return w->log->now_us;
}

/* --- memory --- */

static void charge(struct picture_world *w, uint32_t place, enum picture_memory kind, double bytes)
{
    struct picture_world_place *m = &w->places[place];
    picture_take_memory(w->picture, place, m, now_of(w));
    m->since_us = now_of(w);
    m->now.bytes[kind] = fmax(m->now.bytes[kind] + bytes, 0);
}

static enum picture_memory kind_of(const struct picture_copy *c)
{
    return c->is_adapter ? PICTURE_ADAPTERS : PICTURE_BACKBONES;
}

static void copy_free(struct picture_world *w, struct picture_copy *c)
{
    charge(w, c->place, kind_of(c), -c->bytes);
    c->exists = false;
}

static void copy_make(struct picture_world *w, uint32_t index, const struct sched_action *a,
                      uint32_t place)
{
    struct picture_copy *c = &w->copies[index];
    if (c->exists)
        copy_free(w, c);
    *c = (struct picture_copy){.exists = true,
                               .is_loading = true,
                               .is_adapter = a->backbone == SCHED_NONE,
                               .place = place,
                               .object = a->backbone == SCHED_NONE ? a->function : a->backbone,
                               .host_copy = SCHED_NONE,
                               .began_us = now_of(w),
                               .bytes = (double)a->bytes};
    charge(w, place, kind_of(c), c->bytes);
}

static uint32_t node_place(const struct picture_world *w, const struct picture_world_place *m)
{
    return w->log->config.devices_max + m->node;
}

static void on_load(struct picture_world *w, const struct sched_action *a)
{
    copy_make(w, a->copy, a, a->place);
    if (a->host_copy == SCHED_NONE || a->place >= w->log->config.devices_max)
        return;
    copy_make(w, a->host_copy, a, node_place(w, &w->places[a->place]));
    w->copies[a->copy].host_copy = a->host_copy;
    w->copies[a->host_copy].is_along = true;
}

static void copy_told(struct picture_world *w, const struct picture_copy *c, bool has_failed)
{
    const struct picture_span s = {.begin_us = c->began_us,
                                   .end_us = now_of(w),
                                   .number = c->object,
                                   .state = PICTURE_LOADING,
                                   .is_adapter = c->is_adapter,
                                   .has_failed = has_failed};
    picture_take_load(w->picture, &s);
}

static void on_copy_ended(struct picture_world *w, struct picture_copy *c, bool is_there)
{
    if (!c->exists || !c->is_loading)
        return;
    copy_told(w, c, !is_there);
    c->is_loading = false;
    struct picture_copy *host = c->host_copy == SCHED_NONE ? NULL : &w->copies[c->host_copy];
    c->host_copy = SCHED_NONE;
    if (host != NULL)
        host->is_loading = false;
    if (is_there)
        return;
    if (host != NULL && host->exists)
        copy_free(w, host);
    copy_free(w, c);
}

/* Who maps it keeps it: then it is dropped once more when they have ended. */
static void on_copy_dropped(struct picture_world *w, struct picture_copy *c)
{
    if (c->exists && c->is_loading)
        on_copy_ended(w, c, false);
    else if (c->exists && c->users == 0)
        copy_free(w, c);
}

static void copy_leave(struct picture_world *w, uint32_t copy)
{
    if (w->copies[copy].users > 0)
        w->copies[copy].users--;
}

/* --- workers --- */

/* The time since the last of these was spent in the state that it had. */
static void worker_told(struct picture_world *w, uint32_t index)
{
    struct picture_worker *k = &w->workers[index];
    struct picture_span s = {
        .begin_us = k->since_us, .end_us = now_of(w), .number = index, .state = k->state};
    picture_take_worker(w->picture, &s, k->domain);
    k->since_us = now_of(w);
}

static void worker_set(struct picture_world *w, uint32_t index, enum picture_state state)
{
    struct picture_worker *k = &w->workers[index];
    if (!k->exists || k->state == state || k->state == PICTURE_ENDING)
        return;
    worker_told(w, index);
    k->state = (uint8_t)state;
}

static void worker_runs(struct picture_world *w, uint32_t index)
{
    struct picture_worker *k = &w->workers[index];
    if (k->exists && k->state != PICTURE_STARTING)
        worker_set(w, index,
                   k->running > 0        ? PICTURE_SERVING
                   : k->domain.group > 0 ? PICTURE_IDLE
                                         : PICTURE_SPARE);
}

/* One that is ending keeps its work memory to the end. */
static void worker_works(struct picture_world *w, struct picture_worker *k, bool works)
{
    if (k->works == works || k->state == PICTURE_ENDING)
        return;
    k->works = works;
    charge(w, k->device, PICTURE_PROCESSES, works ? k->work_bytes : -k->work_bytes);
}

static uint32_t *slot_of(struct picture_world *w, uint32_t worker, uint32_t slot)
{
    return &w->slots[(size_t)worker * w->log->config.worker_slots_max + slot];
}

static void slot_clear(struct picture_world *w, uint32_t worker, uint32_t slot)
{
    uint32_t *s = slot_of(w, worker, slot);
    if (*s > 0)
        copy_leave(w, *s - 1);
    *s = 0;
}

/* --- turns --- */

static void turn_end(struct picture_world *w, struct picture_world_place *m)
{
    m->turn.end_us = now_of(w);
    m->is_busy = false;
    picture_take_turn(w->picture, &m->turn, w->workers[m->turn.worker].domain);
}

static void on_turn_ended(struct picture_world *w, uint32_t worker)
{
    struct picture_world_place *m = &w->places[w->workers[worker].device];
    if (w->workers[worker].exists && m->is_busy && m->turn.worker == worker)
        turn_end(w, m);
}

static void on_grant(struct picture_world *w, const struct sched_action *a)
{
    struct picture_world_place *m = &w->places[a->device];
    if (m->is_busy)
        turn_end(w, m);
    m->is_busy = true;
    m->turn =
        (struct picture_turn){.begin_us = now_of(w), .device = a->device, .worker = a->worker};
}

/* --- lives of workers --- */

static void on_exited(struct picture_world *w, uint32_t index)
{
    struct picture_worker *k = &w->workers[index];
    if (!k->exists)
        return;
    on_turn_ended(w, index);
    worker_told(w, index);
    for (uint32_t i = 0; i < w->log->config.worker_slots_max; i++)
        slot_clear(w, index, i);
    copy_leave(w, k->copy);
    double work_bytes = k->works ? k->work_bytes : 0;
    charge(w, k->device, PICTURE_PROCESSES, -(k->process_bytes + work_bytes));
    charge(w, k->device, PICTURE_KV, -k->kv_bytes);
    k->exists = false;
}

static void on_spawn(struct picture_world *w, const struct sched_action *a)
{
    struct picture_worker *k = &w->workers[a->worker];
    on_exited(w, a->worker);
    *k = (struct picture_worker){.exists = true,
                                 .state = PICTURE_STARTING,
                                 .device = a->device,
                                 .copy = a->copy,
                                 .since_us = now_of(w),
                                 .life = ++w->lives,
                                 .process_bytes = w->places[a->device].worker_bytes,
                                 .work_bytes = w->work_bytes[a->backbone],
                                 .kv_bytes = (double)a->bytes};
    if (w->places[a->device].keeps_work) {
        k->process_bytes += k->work_bytes;
        k->work_bytes = 0;
    }
    w->copies[a->copy].users++;
    charge(w, a->device, PICTURE_PROCESSES, k->process_bytes);
    charge(w, a->device, PICTURE_KV, k->kv_bytes);
}

static void on_bind(struct picture_world *w, const struct sched_action *a)
{
    struct picture_worker *k = &w->workers[a->worker];
    if (!k->exists)
        return;
    slot_clear(w, a->worker, a->slot);
    if (a->copy != SCHED_NONE) {
        *slot_of(w, a->worker, a->slot) = a->copy + 1;
        w->copies[a->copy].users++;
    }
    if (!route_domain_equal(k->domain, a->domain))
        worker_told(w, a->worker);
    k->domain = a->domain;
    worker_runs(w, a->worker);
}

/* A slot is empty again whose adapter could not be bound; the event names the function. */
static void on_bind_failed(struct picture_world *w, uint32_t worker, uint32_t function)
{
    for (uint32_t i = 0; i < w->log->config.worker_slots_max; i++) {
        uint32_t copy = *slot_of(w, worker, i);
        if (copy > 0 && w->copies[copy - 1].object == function)
            slot_clear(w, worker, i);
    }
}

static void worker_resize(struct picture_world *w, uint32_t index, double bytes)
{
    struct picture_worker *k = &w->workers[index];
    charge(w, k->device, PICTURE_KV, bytes - k->kv_bytes);
    k->kv_bytes = bytes;
}

/* More is there at once; of less the worker says when it has come down, and to what. */
static void on_resize(struct picture_world *w, const struct sched_action *a)
{
    struct picture_worker *k = &w->workers[a->worker];
    if (!k->exists)
        return;
    k->is_resizing = (double)a->bytes < k->kv_bytes;
    k->kv_asked = (double)a->bytes;
    if (!k->is_resizing)
        worker_resize(w, a->worker, k->kv_asked);
}

static void on_resized(struct picture_world *w, uint32_t index, double bytes)
{
    struct picture_worker *k = &w->workers[index];
    if (!k->exists || !k->is_resizing)
        return;
    k->is_resizing = false;
    bytes = fmax(bytes, k->kv_asked);
    if (bytes < k->kv_bytes)
        worker_resize(w, index, bytes);
}

/* --- requests --- */

static uint32_t *bucket_of(struct picture_world *w, uint64_t id)
{
    return &w->buckets[(id * 0x9e3779b97f4a7c15u) >> 32 & (w->request_cap - 1)];
}

static struct picture_live *live_find(struct picture_world *w, uint64_t id)
{
    for (uint32_t i = *bucket_of(w, id); i > 0; i = w->requests[i - 1].next) {
        if (w->requests[i - 1].id == id)
            return &w->requests[i - 1];
    }
    return NULL;
}

static void live_link(struct picture_world *w, uint32_t index)
{
    uint32_t *bucket = bucket_of(w, w->requests[index].id);
    w->requests[index].next = *bucket;
    *bucket = index + 1;
}

static bool live_grow(struct picture_world *w)
{
    uint32_t old = w->request_cap, cap = old == 0 ? REQUESTS_FIRST : 2 * old;
    if (old >= w->requests_max)
        return false;
    struct picture_live *more = realloc(w->requests, cap * sizeof *more);
    uint32_t *buckets = calloc(cap, sizeof *buckets);
    w->requests = more != NULL ? more : w->requests;
    if (more == NULL || buckets == NULL) {
        free(buckets);
        w->failed = -ENOMEM;
        return false;
    }
    free(w->buckets);
    w->buckets = buckets;
    w->request_cap = cap;
    for (uint32_t i = 0; i < old; i++) /* all in use, or there were no need */
        live_link(w, i);
    for (uint32_t i = cap; i-- > old;) {
        more[i] = (struct picture_live){.next = w->request_free};
        w->request_free = i + 1;
    }
    return true;
}

static void live_remove(struct picture_world *w, struct picture_live *r)
{
    uint32_t index = (uint32_t)(r - w->requests);
    uint32_t *link = bucket_of(w, r->id);
    while (*link != index + 1)
        link = &w->requests[*link - 1].next;
    *link = r->next;
    *r = (struct picture_live){.next = w->request_free};
    w->request_free = index + 1;
}

/* At most as many as the log's core could know: a log that names more is not of one. */
static void on_request(struct picture_world *w, const struct sched_event *e)
{
    struct picture_live *same = live_find(w, e->request);
    if (same != NULL)
        live_remove(w, same);
    if (w->request_free == 0 && !live_grow(w))
        return;
    uint32_t index = w->request_free - 1;
    struct picture_live *r = &w->requests[index];
    w->request_free = r->next;
    *r = (struct picture_live){.is_used = true,
                               .function = e->function,
                               .worker = SCHED_NONE,
                               .prompt_tokens = e->tokens,
                               .id = e->request,
                               .arrived_us = now_of(w)};
    live_link(w, index);
}

static void on_submit(struct picture_world *w, const struct sched_action *a)
{
    struct picture_live *r = live_find(w, a->request);
    struct picture_worker *k = &w->workers[a->worker];
    if (r == NULL || r->is_submitted || !k->exists)
        return;
    r->is_submitted = r->is_at_work = true;
    r->submitted_us = now_of(w);
    r->worker = a->worker;
    r->life = k->life;
    k->running++;
    worker_works(w, k, true);
    worker_runs(w, a->worker);
}

static void live_stops(struct picture_world *w, struct picture_live *r)
{
    if (!r->is_at_work)
        return;
    r->is_at_work = false;
    struct picture_worker *k = &w->workers[r->worker];
    if (!k->exists || k->life != r->life || k->running == 0)
        return;
    k->running--;
    if (k->running == 0)
        worker_works(w, k, false);
    worker_runs(w, r->worker);
}

static void on_tokens(struct picture_world *w, const struct sched_event *e)
{
    struct picture_live *r = live_find(w, e->request);
    if (r == NULL || !r->is_submitted || e->tokens == 0)
        return;
    r->new_tokens += e->tokens;
    if (r->first_us == 0)
        r->first_us = now_of(w);
}

static uint64_t take(uint64_t *left, uint64_t us)
{
    uint64_t part = us < *left ? us : *left;
    *left -= part;
    return part;
}

/* What a receipt says; never more than has passed since the request came. */
static void tell_receipt(struct picture_request *t, const struct sched_receipt *r, uint64_t left)
{
    if (r->total_us < left)
        left = r->total_us;
    uint64_t whole = left;
    t->part_us[PICTURE_LOAD] = take(&left, r->load_us);
    t->part_us[PICTURE_START] = take(&left, r->start_us);
    t->part_us[PICTURE_BIND] = take(&left, r->bind_us);
    t->part_us[PICTURE_QUEUE] = take(&left, r->queue_us);
    uint64_t waited = whole - left;
    t->has_receipt = true;
    t->has_first = r->first_us > 0;
    t->part_us[PICTURE_FIRST] =
        t->has_first ? take(&left, r->first_us > waited ? r->first_us - waited : 0) : left;
    t->part_us[PICTURE_REST] = t->has_first ? left : 0;
    t->device_us = r->device_us;
    t->prompt_tokens = r->prompt_tokens;
    t->cached_tokens = r->cached_tokens;
    t->new_tokens = r->new_tokens;
}

static void tell_events(struct picture_request *t, const struct picture_live *r, uint64_t now_us)
{
    uint64_t submitted = r->is_submitted ? r->submitted_us : now_us;
    uint64_t first = r->first_us > 0 ? r->first_us : now_us;
    t->has_first = r->first_us > 0;
    t->part_us[PICTURE_QUEUE] = submitted - r->arrived_us;
    t->part_us[PICTURE_FIRST] = first - submitted;
    t->part_us[PICTURE_REST] = now_us - first;
    t->prompt_tokens = r->prompt_tokens;
    t->new_tokens = r->new_tokens;
}

static void request_over(struct picture_world *w, struct picture_live *r, enum picture_end end,
                         const struct sched_action *a)
{
    struct picture_request t = {.id = r->id,
                                .arrived_us = r->arrived_us,
                                .function = r->function,
                                .end = (uint8_t)end,
                                .reason = a != NULL ? (uint8_t)a->reason : SCHED_REASON_NONE};
    if (a != NULL && a->type == SCHED_RECEIPT)
        tell_receipt(&t, &a->receipt, now_of(w) - r->arrived_us);
    else
        tell_events(&t, r, now_of(w));
    live_stops(w, r);
    picture_take_request(w->picture, &t);
    live_remove(w, r);
}

static void on_client_gone(struct picture_world *w, uint64_t id)
{
    struct picture_live *r = live_find(w, id);
    if (r != NULL && r->is_submitted)
        r->has_left = true;
    else if (r != NULL)
        request_over(w, r, PICTURE_LEFT, NULL);
}

static void on_told(struct picture_world *w, const struct sched_action *a)
{
    struct picture_live *r = live_find(w, a->request);
    if (r == NULL)
        return;
    enum picture_end end = a->type == SCHED_REFUSE     ? PICTURE_REFUSED
                           : a->receipt.completed == 0 ? PICTURE_LOST
                           : r->has_left               ? PICTURE_LEFT
                                                       : PICTURE_DONE;
    request_over(w, r, end, a);
}

/* --- all of it --- */

static void on_place(struct picture_world *w, uint32_t place, const struct sched_event *e)
{
    struct picture_world_place *m = &w->places[place];
    picture_take_memory(w->picture, place, m, now_of(w));
    m->exists = e->bytes > 0;
    m->budget = (double)e->bytes;
    m->worker_bytes = e->type == SCHED_DEVICE ? (double)e->more_bytes : 0;
    m->keeps_work = e->type == SCHED_DEVICE && e->keeps_work != 0;
    m->node = e->node;
    m->since_us = now_of(w);
}

static void apply_event(struct picture_world *w, const struct sched_event *e)
{
    struct picture_live *r;
    switch ((enum sched_event_type)e->type) {
    case SCHED_NODE:
        on_place(w, w->log->config.devices_max + e->node, e);
        return;
    case SCHED_DEVICE:
        on_place(w, e->device, e);
        return;
    case SCHED_BACKBONE:
        w->work_bytes[e->backbone] = (double)e->work_bytes;
        return;
    case SCHED_DEPLOYED:
        w->domains[e->function] = route_domain_of(e->isolation, e->function, e->owner, e->backbone);
        return;
    case SCHED_REQUEST:
        on_request(w, e);
        return;
    case SCHED_CLIENT_GONE:
        on_client_gone(w, e->request);
        return;
    case SCHED_ADMITTED:
        r = live_find(w, e->request);
        if (r != NULL)
            r->prompt_tokens = e->tokens;
        return;
    case SCHED_TOKENS:
        on_tokens(w, e);
        return;
    case SCHED_DONE:
        r = live_find(w, e->request);
        if (r != NULL)
            live_stops(w, r);
        return;
    case SCHED_TURN_ENDED:
        on_turn_ended(w, e->worker);
        return;
    case SCHED_WORKER_READY:
        if (w->workers[e->worker].exists && w->workers[e->worker].state == PICTURE_STARTING)
            worker_set(w, e->worker, PICTURE_SPARE);
        worker_runs(w, e->worker);
        return;
    case SCHED_BIND_FAILED:
        on_bind_failed(w, e->worker, e->function);
        return;
    case SCHED_WORKER_RESIZED:
        on_resized(w, e->worker, (double)e->bytes);
        return;
    case SCHED_WORKER_EXITED:
        on_exited(w, e->worker);
        return;
    case SCHED_COPY_LOADED:
    case SCHED_COPY_FAILED:
        on_copy_ended(w, &w->copies[e->copy], e->type == SCHED_COPY_LOADED);
        return;
    case SCHED_COPY_DROPPED:
        on_copy_dropped(w, &w->copies[e->copy]);
        return;
    default:
        return;
    }
}

static void apply_action(struct picture_world *w, const struct sched_action *a)
{
    switch ((enum sched_action_type)a->type) {
    case SCHED_LOAD:
        on_load(w, a);
        return;
    case SCHED_SPAWN:
        on_spawn(w, a);
        return;
    case SCHED_BIND:
        on_bind(w, a);
        return;
    case SCHED_UNBIND:
        slot_clear(w, a->worker, a->slot);
        return;
    case SCHED_RESIZE:
        on_resize(w, a);
        return;
    case SCHED_SUBMIT:
        on_submit(w, a);
        return;
    case SCHED_GRANT:
        on_grant(w, a);
        return;
    case SCHED_KILL:
        worker_set(w, a->worker, PICTURE_ENDING);
        return;
    case SCHED_REFUSE:
    case SCHED_RECEIPT:
        on_told(w, a);
        return;
    default:
        return;
    }
}

void picture_world_apply(struct picture_world *w)
{
    if (w->log->is_event)
        apply_event(w, &w->log->event);
    else
        apply_action(w, &w->log->action);
}

void picture_world_end(struct picture_world *w)
{
    const struct sched_config *c = &w->log->config;
    for (uint32_t i = 0; i < w->request_cap; i++)
        if (w->requests[i].is_used)
            request_over(w, &w->requests[i],
                         w->requests[i].is_submitted && !w->requests[i].is_at_work ? PICTURE_DONE
                                                                                   : PICTURE_OPEN,
                         NULL);
    for (uint32_t i = 0; i < c->devices_max; i++)
        if (w->places[i].is_busy)
            turn_end(w, &w->places[i]);
    for (uint32_t i = 0; i < c->workers_max; i++)
        if (w->workers[i].exists)
            worker_told(w, i);
    /* What was asked for at the last instant, as when a daemon stops, has not begun. */
    for (uint32_t i = 0; i < c->copies_max; i++)
        if (w->copies[i].exists && w->copies[i].is_loading && !w->copies[i].is_along &&
            w->copies[i].began_us < now_of(w))
            copy_told(w, &w->copies[i], false);
    for (uint32_t i = 0; i < c->devices_max + c->nodes_max; i++)
        picture_take_memory(w->picture, i, &w->places[i], now_of(w));
}

int picture_world_init(struct picture_world *w, const struct picture_log *log, struct picture *p)
{
    const struct sched_config *c = &log->config;
    *w = (struct picture_world){.log = log, .picture = p};
    w->requests_max = 2 * c->requests_max; /* live ones, and those whose end is to be told */
    w->places = calloc((size_t)c->devices_max + c->nodes_max, sizeof *w->places);
    w->domains = calloc(c->functions_max, sizeof *w->domains);
    w->work_bytes = calloc(c->backbones_max, sizeof *w->work_bytes);
    w->workers = calloc(c->workers_max, sizeof *w->workers);
    w->slots = calloc((size_t)c->workers_max * c->worker_slots_max, sizeof *w->slots);
    w->copies = calloc(c->copies_max, sizeof *w->copies);
    if (w->places != NULL && w->domains != NULL && w->work_bytes != NULL && w->workers != NULL &&
        w->slots != NULL && w->copies != NULL && live_grow(w))
        return 0;
    picture_world_free(w);
    return -ENOMEM;
}

void picture_world_free(struct picture_world *w)
{
    free(w->places);
    free(w->domains);
    free(w->work_bytes);
    free(w->workers);
    free(w->slots);
    free(w->copies);
    free(w->requests);
    free(w->buckets);
    *w = (struct picture_world){0};
}
