/*
 * What is to be looked at: domains and devices in the order in which they changed, each once; and
 * who waits for what. See state.h.
 */
#include "sched/state.h"

#include <assert.h>

void domain_look(struct sched *s, uint32_t domain)
{
    struct domain *d = &s->domains[domain];
    if (d->queued)
        return;
    d->queued = true;
    d->queue_next = SCHED_NONE;
    if (s->queue_tail == SCHED_NONE)
        s->queue_head = domain;
    else
        s->domains[s->queue_tail].queue_next = domain;
    s->queue_tail = domain;
}

void device_look(struct sched *s, uint32_t device)
{
    struct device *v = &s->devices[device];
    if (v->queued)
        return;
    v->queued = true;
    v->queue_next = SCHED_NONE;
    if (s->devices_tail == SCHED_NONE)
        s->devices_head = device;
    else
        s->devices[s->devices_tail].queue_next = device;
    s->devices_tail = device;
}

void backbone_look(struct sched *s, uint32_t backbone)
{
    for (uint32_t d = s->backbones[backbone].hungry_head; d != SCHED_NONE;
         d = s->domains[d].hungry_next)
        domain_look(s, d);
}

/* --- who waits for memory: in the order in which they came --- */

/* What is needed at once, since_us of 0, goes before all. */
static uint64_t id_since(const struct sched *s, const struct domain *d, uint64_t since_us)
{
    return since_us > 0 && d->waiting.count > 0 ? s->requests[d->waiting.head].id : 0;
}

static bool is_before(uint64_t us, uint64_t id, uint64_t than_us, uint64_t than_id)
{
    return us != than_us ? us < than_us : id < than_id;
}

void domain_block(struct sched *s, struct domain *d, uint32_t place, uint64_t since_us)
{
    uint64_t id = id_since(s, d, since_us);
    if (d->blocked_place == place && !is_before(since_us, id, d->blocked_us, d->blocked_id))
        return;
    domain_unblock(s, d);
    d->blocked_place = place;
    d->blocked_us = since_us;
    d->blocked_id = id;
    uint32_t *link = &s->places[place].blocked;
    while (*link != SCHED_NONE &&
           !is_before(since_us, id, s->domains[*link].blocked_us, s->domains[*link].blocked_id))
        link = &s->domains[*link].blocked_next;
    d->blocked_next = *link;
    *link = (uint32_t)(d - s->domains);
    s->blocked_count++;
}

bool domain_is_behind(const struct sched *s, uint32_t domain, uint32_t place, uint64_t since_us)
{
    uint32_t first = s->places[place].blocked;
    if (s->config.no_offload)
        return false; /* what the first waits for may be idle for long, and he with it */
    return first != SCHED_NONE && first != domain &&
           is_before(s->domains[first].blocked_us, s->domains[first].blocked_id, since_us,
                     id_since(s, &s->domains[domain], since_us));
}

/* Whoever was behind the first is looked at: it may be his turn. */
void domain_unblock(struct sched *s, struct domain *d)
{
    if (d->blocked_place == SCHED_NONE)
        return;
    uint32_t index = (uint32_t)(d - s->domains);
    uint32_t *first = &s->places[d->blocked_place].blocked, *link = first;
    while (*link != index)
        link = &s->domains[*link].blocked_next;
    *link = d->blocked_next;
    d->blocked_place = SCHED_NONE;
    s->blocked_count--;
    if (link == first && *first != SCHED_NONE)
        domain_look(s, *first);
}

void place_unblock(struct sched *s, uint32_t place)
{
    if (s->places[place].blocked != SCHED_NONE)
        domain_look(s, s->places[place].blocked);
}

void tables_look(struct sched *s)
{
    if (!s->tables_full)
        return;
    s->tables_full = false;
    for (uint32_t b = 0; b < s->config.backbones_max; b++)
        if (s->backbones[b].used)
            backbone_look(s, b);
}

/* --- domains by their key --- */

static uint32_t *bucket_of(const struct sched *s, struct route_domain key)
{
    uint64_t hash = (key.group * 0x9e3779b97f4a7c15u) ^ (key.backbone * 0xc2b2ae3d27d4eb4fu);
    return &s->domain_buckets[(uint32_t)(hash >> 32) & (s->domain_bucket_count - 1)];
}

uint32_t domain_take(struct sched *s, struct route_domain key)
{
    uint32_t *bucket = bucket_of(s, key);
    for (uint32_t i = *bucket; i != SCHED_NONE; i = s->domain_next[i])
        if (route_domain_equal(s->domains[i].key, key))
            return i;
    uint32_t index = s->domain_free;
    assert(index != SCHED_NONE); /* never more domains than functions */
    s->domain_free = s->domain_next[index];
    s->domain_next[index] = *bucket;
    *bucket = index;
    bool queued = s->domains[index].queued; /* by who had this entry before */
    uint32_t queue_next = s->domains[index].queue_next;
    s->domains[index] = (struct domain){.key = key,
                                        .waiting = {SCHED_NONE, SCHED_NONE, 0},
                                        .workers = SCHED_NONE,
                                        .last_function = SCHED_NONE,
                                        .device = SCHED_NONE,
                                        .queue_next = queue_next,
                                        .queued = queued,
                                        .blocked_place = SCHED_NONE,
                                        .hungry_next = SCHED_NONE,
                                        .hungry_prev = SCHED_NONE,
                                        .used = true};
    return index;
}

void domain_free(struct sched *s, uint32_t domain)
{
    struct domain *d = &s->domains[domain];
    uint32_t *link = bucket_of(s, d->key);
    assert(d->workers == SCHED_NONE);
    assert(d->waiting.count == 0);
    while (*link != domain)
        link = &s->domain_next[*link];
    *link = s->domain_next[domain];
    s->domain_next[domain] = s->domain_free;
    s->domain_free = domain;
    domain_unblock(s, d);
    d->used = false;
}

/* Without sharing a copy is one domain's: without a worker or a request of it, it is nobody's. */
void domain_unwanted(struct sched *s, uint32_t domain)
{
    if (!s->config.no_sharing)
        return;
    uint32_t i = s->backbones[s->domains[domain].key.backbone].copies;
    for (; i != SCHED_NONE; i = s->copies[i].object_next)
        if (s->copies[i].instance == domain && s->copies[i].users == 0 &&
            s->copies[i].state != SCHED_COPY_DROPPING)
            copy_drop(s, &s->copies[i]);
}

/* A request of it waits no more: what it held its hand over may go for others now. */
void domain_claims_less(struct sched *s, uint32_t domain)
{
    struct domain *d = &s->domains[domain];
    if (s->blocked_count == 0)
        return;
    if (d->blocked_place != SCHED_NONE) { /* with another request at its head, at another place */
        domain_unblock(s, d);
        domain_look(s, domain);
    }
    for (uint32_t i = d->workers; i != SCHED_NONE; i = s->workers[i].domain_next)
        place_unblock(s, s->workers[i].device);
    for (uint32_t i = s->backbones[d->key.backbone].copies; i != SCHED_NONE;
         i = s->copies[i].object_next)
        place_unblock(s, s->copies[i].place);
}

/* The latest request's function stands first in its backbone's list. */
void function_touch(struct sched *s, uint32_t function)
{
    struct function *f = &s->functions[function];
    struct backbone *b = &s->backbones[f->backbone];
    if (b->recent_head == function)
        return;
    assert(f->recent_prev != SCHED_NONE);
    s->functions[f->recent_prev].recent_next = f->recent_next;
    if (f->recent_next != SCHED_NONE)
        s->functions[f->recent_next].recent_prev = f->recent_prev;
    else
        b->recent_tail = f->recent_prev;
    f->recent_prev = SCHED_NONE;
    f->recent_next = b->recent_head;
    s->functions[b->recent_head].recent_prev = function;
    b->recent_head = function;
}
