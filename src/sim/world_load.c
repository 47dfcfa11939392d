/*
 * Loads and the bottlenecks that they share. Each link has one clock, the bytes that a load under
 * way since the beginning would have had; a load is through when the clock has moved by its bytes,
 * so that a start or an end of another one changes nothing but the clock's pace.
 */
#include "sim/world_state.h"

#include <assert.h>
#include <math.h>

/* Of a byte: what rounding may leave of a load. */
#define ROUNDING 1e-3

static void advance(struct world *w, struct world_link *l)
{
    if (l->count > 0)
        l->progress += (double)(w->now_us - l->at_us) / (l->us_byte * l->count);
    else
        l->progress = 0; /* small numbers stay exact */
    l->at_us = w->now_us;
}

/* The moment of the next end. */
static void arm(struct world *w, uint32_t link)
{
    struct world_link *l = &w->links[link];
    double least = INFINITY;
    l->number++;
    for (uint32_t i = l->head; i != SCHED_NONE; i = w->copies[i].next)
        least = fmin(least, w->copies[i].ends_at);
    if (l->count == 0)
        return;
    double us = ceil((least - l->progress) * l->us_byte * l->count);
    world_at(w, w->now_us + (us > 0 ? (uint64_t)us : 0), WORLD_LINK, link, l->number, 0);
}

static void begin(struct world *w, uint32_t copy, const struct sched_action *a, uint32_t place)
{
    struct world_copy *c = &w->copies[copy];
    assert(c->state == WORLD_COPY_NONE);
    *c = (struct world_copy){.state = WORLD_COPY_LOADING,
                             .life = c->life + 1,
                             .place = place,
                             .backbone = a->backbone,
                             .function = a->function,
                             .host_copy = SCHED_NONE,
                             .bytes = a->bytes,
                             .began_us = w->now_us};
    world_charge(w, place, a->bytes);
}

void world_load(struct world *w, const struct sched_action *a)
{
    const struct sched_config *g = &w->config;
    bool is_device = a->place < g->devices_max;
    uint32_t node = is_device ? a->place / w->profile->node_devices : a->place - g->devices_max;
    uint32_t link = a->from == SCHED_NONE ? g->devices_max + node : a->place;
    struct world_link *l = &w->links[link];
    struct world_copy *c = &w->copies[a->copy];
    begin(w, a->copy, a, a->place);
    if (a->host_copy != SCHED_NONE) {
        begin(w, a->host_copy, a, g->devices_max + node);
        c->host_copy = a->host_copy;
    }
    if (a->from != SCHED_NONE)
        assert(is_device && a->from == g->devices_max + node);
    advance(w, l);
    c->link = link;
    c->ends_at = l->progress + (double)a->bytes;
    c->next = l->head;
    l->head = a->copy;
    l->count++;
    arm(w, link);
}

void world_link_event(struct world *w, uint32_t link, uint32_t number)
{
    struct world_link *l = &w->links[link];
    if (number != l->number)
        return;
    advance(w, l);
    for (uint32_t *at = &l->head; *at != SCHED_NONE;) {
        struct world_copy *c = &w->copies[*at];
        if (c->ends_at > l->progress + ROUNDING) {
            at = &c->next;
            continue;
        }
        world_at(w, w->now_us + w->profile->load_us, WORLD_LOADED, *at, 0, c->life);
        *at = c->next;
        l->count--;
    }
    arm(w, link);
}

static void end(struct world *w, uint32_t copy)
{
    world_release(w, w->copies[copy].place, w->copies[copy].bytes);
    w->copies[copy].state = WORLD_COPY_NONE;
}

void world_loaded_event(struct world *w, uint32_t copy)
{
    struct world_copy *c = &w->copies[copy];
    uint32_t host = c->host_copy;
    uint64_t us = w->now_us - c->began_us;
    bool fails = w->o->faults.load_failures > 0 && rng_unit(&w->rng) < w->o->faults.load_failures;
    c->host_copy = SCHED_NONE;
    if (fails) {
        end(w, copy);
        if (host != SCHED_NONE)
            end(w, host);
        world_apply(w, (struct sched_event){.type = SCHED_COPY_FAILED, .copy = copy});
        return;
    }
    c->state = WORLD_COPY_THERE;
    if (host != SCHED_NONE)
        w->copies[host].state = WORLD_COPY_THERE;
    world_apply(w, (struct sched_event){.type = SCHED_COPY_LOADED, .copy = copy, .us = us});
}

void world_drop(struct world *w, uint32_t copy)
{
    assert(w->copies[copy].state == WORLD_COPY_THERE);
    world_at(w, w->now_us, WORLD_DROPPED, copy, 0, w->copies[copy].life);
}

void world_dropped_event(struct world *w, uint32_t copy)
{
    end(w, copy);
    world_apply(w, (struct sched_event){.type = SCHED_COPY_DROPPED, .copy = copy});
}
