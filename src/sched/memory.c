/*
 * Places and copies: what is in which memory, what it is charged, and for how long. One decision: a
 * byte is charged from the moment that an action asks for it until the event that says it is gone,
 * so the budget holds at every instant, whatever the world does in between. See state.h.
 */
#include "sched/plan.h"

#include <assert.h>

/* --- places --- */

static void place_advance(struct place *p, uint64_t now_us)
{
    if (now_us <= p->at_us)
        return;
    p->passed += (double)p->used * (double)(now_us - p->at_us);
    p->at_us = now_us;
}

void place_charge(struct sched *s, uint32_t place, uint64_t now_us, uint64_t bytes)
{
    struct place *p = &s->places[place];
    place_advance(p, now_us);
    assert(bytes <= p->budget - p->used);
    p->used += bytes;
}

void place_release(struct sched *s, uint32_t place, uint64_t now_us, uint64_t bytes)
{
    struct place *p = &s->places[place];
    place_advance(p, now_us);
    assert(bytes <= p->used);
    p->used -= bytes;
    place_unblock(s, place);
}

double place_passed(const struct sched *s, uint32_t place, uint64_t now_us)
{
    struct place p = s->places[place];
    place_advance(&p, now_us);
    return p.passed;
}

/* --- copies --- */

uint32_t copy_index(const struct sched *s, const struct copy *c)
{
    return (uint32_t)(c - s->copies);
}

uint32_t copy_instance(const struct sched *s, uint32_t domain)
{
    return s->config.no_sharing ? domain : SCHED_NONE;
}

static uint32_t *object_head(const struct sched *s, enum copy_kind kind, uint32_t object)
{
    return kind == COPY_BACKBONE ? &s->backbones[object].copies : &s->functions[object].copies;
}

static uint32_t *bucket_of(const struct sched *s, enum copy_kind kind, uint32_t object,
                           uint32_t place, uint32_t instance)
{
    uint64_t what = (uint64_t)object << 1 | kind, where = (uint64_t)instance << 32 | place;
    uint64_t hash = what * 0x9e3779b97f4a7c15u ^ where * 0xc2b2ae3d27d4eb4fu;
    return &s->copy_buckets[(uint32_t)(hash >> 32) & (s->copy_bucket_count - 1)];
}

struct copy *copy_find(const struct sched *s, enum copy_kind kind, uint32_t object, uint32_t place,
                       uint32_t instance)
{
    for (uint32_t i = *bucket_of(s, kind, object, place, instance); i != SCHED_NONE;
         i = s->copies[i].hash_next) {
        struct copy *c = &s->copies[i];
        if (c->object == object && c->place == place && c->kind == kind && c->instance == instance)
            return c;
    }
    return NULL;
}

static void link_hash(struct sched *s, struct copy *c)
{
    uint32_t *bucket = bucket_of(s, c->kind, c->object, c->place, c->instance);
    c->hash_next = *bucket;
    *bucket = copy_index(s, c);
}

static void unlink_hash(struct sched *s, const struct copy *c)
{
    uint32_t *link = bucket_of(s, c->kind, c->object, c->place, c->instance);
    while (*link != copy_index(s, c))
        link = &s->copies[*link].hash_next;
    *link = c->hash_next;
}

static uint64_t object_bytes(const struct sched *s, enum copy_kind kind, uint32_t object)
{
    return kind == COPY_BACKBONE ? s->backbones[object].bytes : s->functions[object].adapter_bytes;
}

static void count_copy(struct sched *s, const struct copy *c, bool comes)
{
    bool is_backbone = c->kind == COPY_BACKBONE;
    uint32_t *of_object = is_backbone ? &s->backbones[c->object].device_copies
                                      : &s->functions[c->object].device_copies;
    if (!place_is_device(s, c->place))
        return;
    *of_object += comes ? 1 : UINT32_MAX;
    if (is_backbone)
        s->devices[c->place].backbones += comes ? 1 : UINT32_MAX;
}

static void link_copy(struct sched *s, struct copy *c)
{
    uint32_t index = copy_index(s, c);
    count_copy(s, c, true);
    link_hash(s, c);
    uint32_t *head = object_head(s, c->kind, c->object);
    c->object_prev = SCHED_NONE;
    c->object_next = *head;
    if (*head != SCHED_NONE)
        s->copies[*head].object_prev = index;
    *head = index;
    head = &s->places[c->place].copies;
    c->place_prev = SCHED_NONE;
    c->place_next = *head;
    if (*head != SCHED_NONE)
        s->copies[*head].place_prev = index;
    *head = index;
}

static void unlink_copy(struct sched *s, struct copy *c)
{
    count_copy(s, c, false);
    unlink_hash(s, c);
    if (c->object_prev != SCHED_NONE)
        s->copies[c->object_prev].object_next = c->object_next;
    else
        *object_head(s, c->kind, c->object) = c->object_next;
    if (c->object_next != SCHED_NONE)
        s->copies[c->object_next].object_prev = c->object_prev;
    if (c->place_prev != SCHED_NONE)
        s->copies[c->place_prev].place_next = c->place_next;
    else
        s->places[c->place].copies = c->place_next;
    if (c->place_next != SCHED_NONE)
        s->copies[c->place_next].place_prev = c->place_prev;
}

struct copy *copy_take(struct sched *s, enum copy_kind kind, uint32_t object, uint32_t place,
                       uint32_t instance, uint64_t now_us)
{
    if (s->copy_free == SCHED_NONE)
        return NULL;
    struct copy *c = &s->copies[s->copy_free];
    s->copy_free = c->free_next;
    *c = (struct copy){.clock = {.at_us = now_us},
                       .bytes = object_bytes(s, kind, object),
                       .began_us = now_us,
                       .used_us = now_us,
                       .state = SCHED_COPY_LOADING,
                       .kind = kind,
                       .object = object,
                       .place = place,
                       .instance = instance,
                       .host_copy = SCHED_NONE};
    c->clock.bytes = c->bytes;
    link_copy(s, c);
    place_charge(s, place, now_us, c->bytes);
    return c;
}

/* Whose a private copy is: of the function that ran on it last, or that it is loaded for. */
static uint32_t owner_of_private(const struct sched *s, uint32_t domain)
{
    const struct domain *d = &s->domains[domain];
    if (d->last_function != SCHED_NONE)
        return d->last_function;
    return d->waiting.count > 0 ? s->requests[d->waiting.head].function : SCHED_NONE;
}

/* What passed for nobody in particular: for the function that alone may use it, or for nobody. */
void copy_bill(struct sched *s, struct copy *c, uint64_t now_us)
{
    double alone = meter_take_alone(&c->clock, now_us);
    uint32_t function = SCHED_NONE;
    if (c->kind == COPY_ADAPTER && c->users > 0)
        function = c->object;
    else if (c->instance < s->config.functions_max)
        function = owner_of_private(s, c->instance);
    bill_idle(s, function, c->place, alone);
}

/* Its DROP may not have been told yet. */
static void forget_drop(struct sched *s, const struct copy *c)
{
    uint32_t index = copy_index(s, c);
    for (uint32_t *link = &s->drops; *link != SCHED_NONE; link = &s->copies[*link].free_next) {
        if (*link == index) {
            *link = c->free_next;
            return;
        }
    }
}

void copy_free(struct sched *s, struct copy *c, uint64_t now_us)
{
    assert(c->users == 0);
    if (c->state == SCHED_COPY_DROPPING)
        forget_drop(s, c);
    assert(c->clock.sharers == 0);
    copy_bill(s, c, now_us);
    if (c->leaving)
        s->places[c->place].leaving -= c->bytes;
    unlink_copy(s, c);
    place_release(s, c->place, now_us, c->bytes);
    c->state = SCHED_COPY_NONE;
    c->free_next = s->copy_free;
    s->copy_free = copy_index(s, c);
    tables_look(s);
}

static void copy_leaves(struct sched *s, struct copy *c)
{
    if (c->leaving)
        return;
    c->leaving = true;
    s->places[c->place].leaving += c->bytes;
}

static void queue_drop(struct sched *s, struct copy *c)
{
    assert(c->users == 0);
    c->state = SCHED_COPY_DROPPING;
    c->free_next = s->drops;
    s->drops = copy_index(s, c);
}

void copy_drop(struct sched *s, struct copy *c)
{
    copy_leaves(s, c);
    if (c->state == SCHED_COPY_RESIDENT && c->users == 0)
        queue_drop(s, c);
}

void copy_keep(struct sched *s, struct copy *c)
{
    assert(c->state == SCHED_COPY_LOADING);
    if (!c->leaving)
        return;
    c->leaving = false;
    s->places[c->place].leaving -= c->bytes;
}

void copy_orphan(struct sched *s, struct copy *c)
{
    copy_leaves(s, c);
    unlink_hash(s, c);
    c->instance = COPY_ORPHAN;
    link_hash(s, c);
}

void copy_arrived(struct sched *s, struct copy *c)
{
    assert(c->state == SCHED_COPY_LOADING);
    c->state = SCHED_COPY_RESIDENT;
    if (c->leaving)
        queue_drop(s, c);
}

void copy_enter(struct copy *c)
{
    assert(c->state == SCHED_COPY_RESIDENT);
    c->users++;
}

void copy_leave(struct sched *s, struct copy *c, uint64_t now_us)
{
    assert(c->users > 0);
    copy_bill(s, c, now_us);
    c->users--;
    c->used_us = now_us;
    if (c->users == 0 && (c->leaving || c->instance != SCHED_NONE))
        copy_drop(s, c);
}

bool copy_is_ready(const struct copy *c)
{
    return c && c->state == SCHED_COPY_RESIDENT && !c->leaving;
}

struct copy *copy_in_host(const struct sched *s, enum copy_kind kind, uint32_t object,
                          uint32_t device)
{
    uint32_t host = sched_host_place(&s->config, s->devices[device].node);
    return copy_find(s, kind, object, host, SCHED_NONE);
}

double copy_load_us(const struct sched *s, enum copy_kind kind, uint32_t object, uint32_t place)
{
    uint32_t backbone = kind == COPY_BACKBONE ? object : s->functions[object].backbone;
    const struct backbone *b = &s->backbones[backbone];
    bool from_host =
        place_is_device(s, place) && copy_is_ready(copy_in_host(s, kind, object, place));
    const struct cost_mean *m = kind == COPY_BACKBONE ? (from_host ? &b->load_host : &b->load)
                                : from_host           ? &b->adapter_host
                                                      : &b->adapter;
    return m->value * (double)object_bytes(s, kind, object);
}

double copy_left_us(const struct sched *s, const struct copy *c, enum copy_kind kind,
                    uint32_t object, uint32_t place, uint64_t now_us)
{
    if (copy_is_ready(c))
        return 0;
    double whole = copy_load_us(s, kind, object, place);
    if (!c || c->state != SCHED_COPY_LOADING)
        return whole;
    double passed = now_us > c->began_us ? (double)(now_us - c->began_us) : 0;
    return maths_max(whole - passed, whole / 8); /* a load that is late is not over */
}

/* --- workers --- */

uint64_t process_bytes(const struct sched *s, uint32_t device, uint32_t backbone)
{
    return s->devices[device].worker_bytes + s->backbones[backbone].work_bytes;
}

uint64_t work_bytes(const struct sched *s, uint32_t device, uint32_t backbone)
{
    return s->devices[device].keeps_work ? 0 : s->backbones[backbone].work_bytes;
}

uint64_t resting_bytes(const struct sched *s, uint32_t device, uint32_t backbone)
{
    return process_bytes(s, device, backbone) - work_bytes(s, device, backbone);
}

uint64_t worker_bytes(const struct sched *s, const struct worker *w)
{
    return w->kv_bytes + (w->works ? process_bytes(s, w->device, w->backbone)
                                   : resting_bytes(s, w->device, w->backbone));
}

void worker_work(struct sched *s, struct worker *w, uint64_t now_us)
{
    if (w->works)
        return;
    w->works = true;
    place_charge(s, w->device, now_us, work_bytes(s, w->device, w->backbone));
    meter_set_bytes(&w->clock, now_us, worker_bytes(s, w));
}

/* One that is ending keeps it to its end, which gives all back. */
void worker_rest(struct sched *s, struct worker *w, uint64_t now_us)
{
    if (!w->works || w->state == WORKER_ENDING)
        return;
    w->works = false;
    place_release(s, w->device, now_us, work_bytes(s, w->device, w->backbone));
    meter_set_bytes(&w->clock, now_us, worker_bytes(s, w));
}

void worker_bill(struct sched *s, struct worker *w, uint64_t now_us)
{
    double alone = meter_take_alone(&w->clock, now_us);
    uint32_t function = w->domain == SCHED_NONE ? SCHED_NONE : s->domains[w->domain].last_function;
    bill_idle(s, function, w->device, alone);
}

void worker_resize(struct sched *s, struct worker *w, uint64_t now_us, uint64_t kv_bytes)
{
    if (kv_bytes > w->kv_bytes)
        place_charge(s, w->device, now_us, kv_bytes - w->kv_bytes);
    else
        place_release(s, w->device, now_us, w->kv_bytes - kv_bytes);
    w->kv_bytes = kv_bytes;
    meter_set_bytes(&w->clock, now_us, worker_bytes(s, w));
}

/* Idle memory of a function that is there no more, or of none, is nobody's. */
void bill_idle(struct sched *s, uint32_t function, uint32_t place, double byte_us)
{
    if (function == SCHED_NONE || !s->functions[function].used) {
        s->places[place].platform += byte_us;
        return;
    }
    struct function *f = &s->functions[function];
    f->idle_due += byte_us;
    if (f->is_billed)
        return;
    f->is_billed = true;
    f->bill_next = s->bills;
    s->bills = function;
}

struct slot *worker_slot(struct worker *w, uint32_t slots_max, uint32_t function)
{
    for (uint32_t i = 0; i < slots_max; i++) {
        if (w->slots[i].state != SLOT_EMPTY && w->slots[i].function == function)
            return &w->slots[i];
    }
    return NULL;
}
