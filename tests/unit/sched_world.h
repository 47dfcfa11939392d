/*
 * A world for the scheduler core to live in, made by a seed: machines, deployments, bursts,
 * crashes, slow and failing loads, lost clients, removals, too little memory, clocks that jump.
 * After every event the core's own invariants are checked, and the world checks from outside that
 * every request is answered once, that every memory stays within its budget, that a worker serves
 * one domain and that one worker has a device's turn at a time.
 *
 * A world is a list of steps, each with random numbers of its own, so that steps can be left out: a
 * failing world is run again with fewer and fewer of them.
 */
#pragma once

#include "unit/sched_world_acts.h"

/* --- what happens --- */

static void world_end_worker(struct world *w, uint32_t index)
{
    struct world_worker *k = &w->workers[index];
    k->alive = false;
    if (w->turn_worker[k->device] == index)
        w->turn_worker[k->device] = UINT32_MAX;
    for (uint64_t r = 1; r <= w->request_count; r++)
        if (w->requests[r].worker == index)
            w->requests[r].worker = UINT32_MAX;
    world_happen(w, (struct sched_event){.type = SCHED_WORKER_EXITED, .worker = index});
}

static bool world_is_stale(const struct world *w, const struct world_later *l)
{
    const struct sched_event *e = &l->e;
    if (e->type == SCHED_COPY_LOADED || e->type == SCHED_COPY_FAILED ||
        e->type == SCHED_COPY_DROPPED)
        return w->copies[e->copy].state == COPY_ABSENT || w->copies[e->copy].life != l->life;
    uint32_t index = e->worker;
    if (e->type == SCHED_DONE || e->type == SCHED_TOKENS || e->type == SCHED_ADMITTED)
        index = w->requests[e->request].worker;
    return index >= WORLD_WORKERS || !w->workers[index].alive || w->workers[index].life != l->life;
}

static void world_copy_ends(struct world *w, uint32_t copy, bool there)
{
    struct world_copy *c = &w->copies[copy];
    if (c->host_copy != SCHED_NONE)
        w->copies[c->host_copy].state = there ? COPY_THERE : COPY_ABSENT;
    c->host_copy = SCHED_NONE;
    c->state = there ? COPY_THERE : COPY_ABSENT;
}

/* Who still maps a copy whose keeper has gone keeps its bytes: the copy is away when they are. */
static bool world_is_mapped(const struct world *w, uint32_t copy)
{
    for (uint32_t i = 0; i < WORLD_WORKERS; i++)
        if (w->workers[i].alive && w->workers[i].copy == copy)
            return true;
    return false;
}

static void world_deliver(struct world *w, const struct world_later *l)
{
    struct sched_event e = l->e;
    if (world_is_stale(w, l))
        return;
    switch (e.type) {
    case SCHED_WORKER_EXITED:
        world_end_worker(w, e.worker);
        return;
    case SCHED_WORKER_READY:
        w->workers[e.worker].ready = true;
        break;
    case SCHED_WORKER_RESIZED:
        w->workers[e.worker].kv_bytes = e.bytes;
        break;
    case SCHED_BIND_FAILED:
        for (uint32_t i = 0; i < SCHED_SLOTS_MAX; i++)
            if (w->workers[e.worker].slot_function[i] == e.function)
                w->workers[e.worker].slot_function[i] = UINT32_MAX;
        break;
    case SCHED_TURN_ENDED:
        MUST(w->turn_worker[w->workers[e.worker].device] == e.worker);
        w->turn_worker[w->workers[e.worker].device] = UINT32_MAX;
        break;
    case SCHED_DONE:
        w->workers[w->requests[e.request].worker].running--;
        w->requests[e.request].worker = UINT32_MAX;
        break;
    case SCHED_COPY_LOADED:
        world_copy_ends(w, e.copy, true);
        break;
    case SCHED_COPY_FAILED:
    case SCHED_COPY_DROPPED:
        world_copy_ends(w, e.copy, false);
        break;
    default:
        break;
    }
    world_happen(w, e);
}

static bool world_advance(struct world *w)
{
    uint32_t first = UINT32_MAX;
    for (uint32_t i = 0; i < w->pending_count; i++) {
        const struct world_later *l = &w->pending[i];
        const struct world_later *f = first == UINT32_MAX ? NULL : &w->pending[first];
        if (!f || l->at_us < f->at_us || (l->at_us == f->at_us && l->order < f->order))
            first = i;
    }
    uint64_t timer_us = UINT64_MAX;
    if (w->timer_us != UINT64_MAX) {
        int64_t at = (int64_t)w->timer_us - w->skew_us;
        timer_us = at > 0 ? (uint64_t)at : 0;
    }
    if (timer_us != UINT64_MAX && (first == UINT32_MAX || timer_us < w->pending[first].at_us)) {
        w->now_us = timer_us > w->now_us ? timer_us : w->now_us;
        w->timer_us = UINT64_MAX;
        world_happen(w, (struct sched_event){.type = SCHED_TICK});
        return true;
    }
    if (first == UINT32_MAX)
        return false;
    struct world_later now = w->pending[first];
    w->pending[first] = w->pending[--w->pending_count];
    w->now_us = now.at_us > w->now_us ? now.at_us : w->now_us;
    world_deliver(w, &now);
    return true;
}

/* --- what users and bad luck do --- */

static void world_deploy(struct world *w)
{
    uint32_t f = world_pick(w, WORLD_FUNCTIONS);
    if (w->deployed[f])
        return;
    w->deployed[f] = true;
    w->backbone_of[f] = world_pick(w, WORLD_BACKBONES);
    w->isolation_of[f] = 1 + world_pick(w, 3);
    w->adapter_bytes[f] = world_pick(w, 4) == 0 ? 0 : 1 + world_pick(w, 40);
    world_happen(w, (struct sched_event){.type = SCHED_DEPLOYED,
                                         .function = f,
                                         .backbone = w->backbone_of[f],
                                         .owner = world_pick(w, WORLD_OWNERS),
                                         .isolation = w->isolation_of[f],
                                         .bytes = w->adapter_bytes[f],
                                         .us = world_pick(w, 2) * (uint64_t)world_pick(w, 60000),
                                         .more_us = world_pick(w, 2) * 5000ull});
}

static void world_request(struct world *w)
{
    uint32_t f = world_pick(w, WORLD_FUNCTIONS);
    if (!w->deployed[f] || w->removing[f] || w->request_count + 1 >= WORLD_REQUESTS)
        return;
    MUST(!w->has_fault);
    uint64_t id = ++w->request_count;
    w->requests[id].fate = FATE_OPEN;
    w->requests[id].function = f;
    w->requests[id].worker = UINT32_MAX;
    world_happen(w, (struct sched_event){.type = SCHED_REQUEST,
                                         .request = id,
                                         .function = f,
                                         .tokens = world_pick(w, 60),
                                         .more_tokens = 1 + world_pick(w, 90)});
}

static void world_leave(struct world *w)
{
    if (w->request_count == 0)
        return;
    uint64_t id = 1 + world_pick(w, (uint32_t)w->request_count);
    if (w->requests[id].fate != FATE_OPEN)
        return;
    bool waits = w->requests[id].worker == UINT32_MAX && !w->requests[id].ran;
    w->requests[id].fate = FATE_GONE;
    world_happen(w, (struct sched_event){.type = SCHED_CLIENT_GONE, .request = id});
    if (waits && w->requests[id].worker == UINT32_MAX && !w->requests[id].ran)
        w->requests[id].fate = FATE_GONE; /* forgotten without a word, or told it is refused */
}

static void world_remove(struct world *w)
{
    uint32_t f = world_pick(w, WORLD_FUNCTIONS);
    if (!w->deployed[f] || w->removing[f])
        return;
    w->removing[f] = true;
    world_happen(w, (struct sched_event){.type = SCHED_REMOVED, .function = f});
}

/* A keeper dies; who maps its memory goes on. The world forgets the bytes with the last of them,
 * which it cannot see here: so only copies that nobody maps. */
static void world_lose_copy(struct world *w)
{
    uint32_t c = world_pick(w, WORLD_COPIES);
    if (w->copies[c].state != COPY_THERE || w->copies[c].backbone == SCHED_NONE ||
        world_is_mapped(w, c))
        return;
    w->copies[c].state = COPY_ABSENT;
    world_happen(w, (struct sched_event){.type = SCHED_COPY_DROPPED, .copy = c});
}

static void world_step(struct world *w)
{
    uint32_t dice = world_pick(w, 100);
    if (dice < 12) {
        world_deploy(w);
    } else if (dice < 72) {
        for (uint32_t n = 1 + world_pick(w, dice < 18 ? 30 : 2); n > 0; n--)
            world_request(w);
    } else if (dice < 82) {
        world_leave(w);
    } else if (dice < 87) {
        world_remove(w);
    } else if (dice < 92) {
        uint32_t k = world_pick(w, WORLD_WORKERS);
        if (w->workers[k].alive)
            world_end_worker(w, k);
    } else if (dice < 94) {
        world_lose_copy(w);
    } else if (dice < 96) { /* the machine slept, or its clock was set */
        w->skew_us += (int64_t)world_pick(w, 2) * 3600000000ll - (int64_t)world_pick(w, 50000);
    } else if (dice < 97) {
        world_happen(w, (struct sched_event){.type = SCHED_OWNER,
                                             .owner = world_pick(w, WORLD_OWNERS),
                                             .tokens = 1 + world_pick(w, 40)});
    }
    world_settle(w);
    for (uint32_t n = world_pick(w, 12); n > 0 && world_advance(w); n--)
        ;
}

/* --- a whole world --- */

static void world_machine(struct world *w)
{
    static const uint64_t bytes[WORLD_BACKBONES] = {300, 500, 400, 980};
    for (uint32_t n = 0; n < WORLD_NODES; n++) {
        w->budgets[WORLD_DEVICES + n] = n == 0 ? 0 : 400 + world_pick(w, 1500);
        world_happen(w, (struct sched_event){
                            .type = SCHED_NODE, .node = n, .bytes = w->budgets[WORLD_DEVICES + n]});
    }
    uint32_t devices = 1 + world_pick(w, WORLD_DEVICES);
    for (uint32_t d = 0; d < devices; d++) {
        w->budgets[d] = 700 + world_pick(w, 1200);
        w->worker_bytes[d] = 20 + world_pick(w, 60);
        w->node_of[d] = d % WORLD_NODES;
        w->keeps_work[d] = d % 2 == 1;
        world_happen(w, (struct sched_event){.type = SCHED_DEVICE,
                                             .device = d,
                                             .node = w->node_of[d],
                                             .bytes = w->budgets[d],
                                             .more_bytes = w->worker_bytes[d],
                                             .keeps_work = w->keeps_work[d],
                                             .us = 2000});
    }
    for (uint32_t b = 0; b < WORLD_BACKBONES; b++) {
        w->backbone_bytes[b] = bytes[b];
        w->work_bytes[b] = 15 * b;
        world_happen(w, (struct sched_event){.type = SCHED_BACKBONE,
                                             .backbone = b,
                                             .bytes = bytes[b],
                                             .more_bytes = 1,
                                             .work_bytes = w->work_bytes[b],
                                             .step = {500, 20, 50},
                                             .us = 10000,
                                             .more_us = 3000});
    }
}

static struct sched_config world_config(struct world *w)
{
    struct sched_config c = {
        .nodes_max = WORLD_NODES,
        .devices_max = WORLD_DEVICES,
        .functions_max = WORLD_FUNCTIONS,
        .backbones_max = WORLD_BACKBONES,
        .owners_max = WORLD_OWNERS,
        .workers_max = WORLD_WORKERS,
        .copies_max = WORLD_COPIES,
        .requests_max = 64,
        .function_waiting_max = 12,
        .owner_live_max = 30,
        .domain_workers_max = 1 + world_pick(w, WORLD_DEVICES),
        .worker_running_max = 4,
        .worker_slots_max = 3,
        .spawn_attempts_max = 2,
        .step_rows_max = 64,
        .batching = world_pick(w, 4),
        .batch_fixed = world_pick(w, 4),
        .no_sharing = world_pick(w, 5) == 0,
        .no_preload = world_pick(w, 4) == 0,
        .no_offload = world_pick(w, 8) == 0,
        .keep_alive_us = world_pick(w, 3) == 0 ? 50000 : SCHED_KEEP_ALIVE_AUTO,
        .turn_us = 2000,
        .plan_period_us = 20000,
        .batch_window_us = 5000,
        .slo_ttft_us = 25000,
        .slo_tpot_us = 4000,
        .kv_step_bytes = 16,
        .kv_worker_bytes_max = 160,
        .price_bytes = world_pick(w, 3) == 0 ? 0 : 10.0 * (1 + world_pick(w, 10000)),
    };
    return c;
}

/* Everything that can end has ended: each request answered, or its client was gone before. */
static void world_check_end(const struct world *w)
{
    struct sched_counts c;
    sched_counts(w->s, &c);
    MUST(c.requests_waiting == 0);
    MUST(c.requests_running == 0);
    for (uint64_t r = 1; r <= w->request_count; r++)
        MUST(w->requests[r].fate != FATE_OPEN);
}

static bool world_is_at_rest(const struct world *w)
{
    struct sched_counts c;
    sched_counts(w->s, &c);
    return c.requests_waiting == 0 && c.requests_running == 0;
}

/* Runs the steps whose bit in `steps` is set (all of them when it is NULL). Returns the events. */
static uint64_t world_run(uint64_t seed, const uint8_t *steps, bool verbose)
{
    struct world *w = calloc(1, sizeof *w);
    MUST(w != NULL);
    rng_seed(&w->rng, seed);
    w->config = world_config(w);
    w->verbose = verbose;
    w->has_fault = getenv("SLLORA_WORLD_FAULT") != NULL;
    w->now_us = 1000000;
    w->memory = aligned_alloc(16, sched_bytes(&w->config));
    MUST(w->memory != NULL);
    w->s = sched_init(w->memory, &w->config);
    w->timer_us = UINT64_MAX;
    memset(w->turn_worker, 0xff, sizeof w->turn_worker);
    world_machine(w);
    for (uint32_t step = 0; step < WORLD_STEPS; step++) {
        if (steps && !(steps[step / 8] >> step % 8 & 1))
            continue;
        rng_seed(&w->rng, seed * 1000003 + step + 1);
        if (verbose)
            printf("step %u\n", step);
        world_step(w);
    }
    world_settle(w);
    /* Left alone, the world comes to rest. Its ticks go on. */
    for (uint32_t i = 0; i < 100000 && !world_is_at_rest(w) && world_advance(w); i++)
        world_settle(w);
    world_check_end(w);
    uint64_t events = w->events;
    free(w->memory);
    free(w);
    return events;
}
