/*
 * Processes: started, bound, resized, ended, lost. What the core asks of one that it should not is
 * an error of the core and asserted.
 */
#include "sim/world_state.h"

#include <assert.h>
#include <string.h>

static uint64_t held_bytes(const struct world *w, const struct world_worker *k)
{
    return w->o->worker_bytes + k->kv_bytes;
}

void world_spawn(struct world *w, const struct sched_action *a)
{
    struct world_worker *k = &w->workers[a->worker];
    const struct world_copy *c = &w->copies[a->copy];
    assert(!k->alive);
    assert(c->state == WORLD_COPY_THERE && c->place == a->device && c->backbone == a->backbone);
    *k = (struct world_worker){.alive = true,
                               .life = k->life + 1,
                               .device = a->device,
                               .backbone = a->backbone,
                               .copy = a->copy,
                               .kv_bytes = a->bytes,
                               .prompts = {SCHED_NONE, SCHED_NONE, 0},
                               .decodes = {SCHED_NONE, SCHED_NONE, 0},
                               .merged = SCHED_NONE,
                               .segment.number = k->segment.number};
    memset(k->slot_function, 0xff, sizeof k->slot_function);
    world_charge(w, a->device, held_bytes(w, k));
    world_at(w, w->now_us + w->o->spawn_us, WORLD_READY, a->worker, 0, k->life);
}

void world_ready_event(struct world *w, uint32_t worker)
{
    w->workers[worker].ready = true;
    world_apply(w, (struct sched_event){
                       .type = SCHED_WORKER_READY, .worker = worker, .us = w->o->spawn_us});
}

static void bind(struct world *w, struct world_worker *k, const struct sched_action *a)
{
    assert(k->ready && k->slot_function[a->slot] == SCHED_NONE);
    if (w->o->functions[a->function].adapter_bytes > 0 && a->copy != SCHED_NONE) {
        const struct world_copy *c = &w->copies[a->copy];
        assert(c->state == WORLD_COPY_THERE && c->place == k->device && c->function == a->function);
    }
    k->slot_function[a->slot] = a->function;
    world_at(w, w->now_us + w->o->bind_us, WORLD_BOUND, a->worker, a->slot, k->life);
}

void world_bound_event(struct world *w, uint32_t worker, uint32_t slot)
{
    uint32_t function = w->workers[worker].slot_function[slot];
    if (function != SCHED_NONE)
        world_apply(w, (struct sched_event){.type = SCHED_WORKER_BOUND,
                                            .worker = worker,
                                            .function = function,
                                            .us = w->o->bind_us});
}

static void resize(struct world *w, struct world_worker *k, const struct sched_action *a)
{
    k->kv_is_most = a->is_most;
    if (a->bytes >= k->kv_bytes) {
        world_charge(w, k->device, a->bytes - k->kv_bytes);
        k->kv_bytes = a->bytes;
        return;
    }
    k->kv_asked = a->bytes;
    world_at(w, w->now_us, WORLD_RESIZED, a->worker, 0, k->life);
}

void world_resized_event(struct world *w, uint32_t worker)
{
    struct world_worker *k = &w->workers[worker];
    world_release(w, k->device, k->kv_bytes - k->kv_asked);
    k->kv_bytes = k->kv_asked;
    world_apply(w, (struct sched_event){
                       .type = SCHED_WORKER_RESIZED, .worker = worker, .bytes = k->kv_bytes});
}

void world_worker_act(struct world *w, const struct sched_action *a)
{
    struct world_worker *k = &w->workers[a->worker];
    assert(k->alive);
    switch (a->type) {
    case SCHED_BIND:
        bind(w, k, a);
        break;
    case SCHED_UNBIND:
        assert(k->slot_function[a->slot] == a->function && k->slot_running[a->slot] == 0);
        k->slot_function[a->slot] = SCHED_NONE;
        break;
    case SCHED_RESIZE:
        resize(w, k, a);
        break;
    case SCHED_SUBMIT: {
        struct world_request *r = world_request_of(w, a->request);
        assert(k->ready && k->slot_function[a->slot] == a->function);
        assert(w->o->functions[a->function].backbone == k->backbone);
        r->slot = a->slot;
        world_submit(w, a->worker, r);
        break;
    }
    case SCHED_GRANT:
        assert(w->places[k->device].turn_worker == SCHED_NONE);
        w->places[k->device].turn_worker = a->worker;
        world_grant(w, a->worker, a->rows, a->prompts_first);
        break;
    case SCHED_REVOKE:
        assert(w->places[k->device].turn_worker == a->worker);
        world_revoke(w, a->worker);
        break;
    default:
        assert(a->type == SCHED_KILL); /* nobody leaves, so nothing is cancelled */
        world_at(w, w->now_us + w->profile->end_us, WORLD_EXITED, a->worker, 0, k->life);
    }
}

void world_exited_event(struct world *w, uint32_t worker)
{
    struct world_worker *k = &w->workers[worker];
    if (w->places[k->device].turn_worker == worker)
        w->places[k->device].turn_worker = SCHED_NONE;
    world_engine_clear(w, worker);
    world_release(w, k->device, held_bytes(w, k));
    k->alive = false;
    world_apply(w, (struct sched_event){.type = SCHED_WORKER_EXITED, .worker = worker});
}

void world_loss_event(struct world *w)
{
    uint32_t alive = 0;
    for (uint32_t i = 0; i < w->config.workers_max; i++)
        alive += w->workers[i].alive;
    if (alive == 0)
        return;
    uint32_t chosen = rng_below(&w->rng, alive);
    for (uint32_t i = 0; i < w->config.workers_max; i++) {
        if (!w->workers[i].alive || chosen-- > 0)
            continue;
        world_exited_event(w, i);
        return;
    }
}
