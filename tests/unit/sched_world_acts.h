/*
 * The half of a world that obeys the core: what there is, and what becomes of what it asks for. See
 * sched_world.h.
 */
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "sched/view.h"

#define WORLD_STEPS 400u
#define WORLD_NODES 2u
#define WORLD_DEVICES 3u
#define WORLD_FUNCTIONS 24u
#define WORLD_BACKBONES 4u
#define WORLD_OWNERS 3u
#define WORLD_WORKERS 8u
#define WORLD_COPIES 40u
#define WORLD_REQUESTS 8192u
#define WORLD_PENDING 16384u
#define WORLD_ACTIONS 8u

/* Asserts of the world itself: they end the process like the core's. */
#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: the world saw that !(%s)\n", __FILE__, __LINE__, #condition);  \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

enum world_fate { FATE_UNSENT, FATE_OPEN, FATE_GONE, FATE_ANSWERED };

struct world_worker {
    bool alive, ready, has_domain;
    uint64_t life;    /* tells late events of an earlier process apart */
    uint32_t running; /* requests: it holds memory to compute in as long as there are some */
    uint32_t device, backbone, copy;
    uint64_t kv_bytes;
    struct route_domain domain;
    uint32_t slot_function[SCHED_SLOTS_MAX];
};

struct world_copy {
    enum { COPY_ABSENT, COPY_COMING, COPY_THERE } state;
    uint64_t life;
    uint64_t bytes;
    uint32_t place;
    uint32_t backbone, function;
    uint32_t host_copy;
};

struct world_later {
    uint64_t at_us;
    uint64_t order;
    uint64_t life; /* of a worker or a copy; 0: of neither */
    struct sched_event e;
};

struct world {
    struct sched_config config;
    struct rng rng;
    uint64_t now_us;
    int64_t skew_us; /* of the clock that events are stamped with */
    void *memory;
    struct sched *s;
    bool verbose;
    struct world_worker workers[WORLD_WORKERS];
    struct world_copy copies[WORLD_COPIES];
    uint64_t lives;
    uint64_t budgets[WORLD_DEVICES + WORLD_NODES];
    uint64_t worker_bytes[WORLD_DEVICES];
    bool keeps_work[WORLD_DEVICES];
    uint32_t node_of[WORLD_DEVICES];
    uint64_t backbone_bytes[WORLD_BACKBONES], work_bytes[WORLD_BACKBONES];
    bool deployed[WORLD_FUNCTIONS], removing[WORLD_FUNCTIONS];
    uint32_t backbone_of[WORLD_FUNCTIONS], isolation_of[WORLD_FUNCTIONS];
    uint64_t adapter_bytes[WORLD_FUNCTIONS];
    struct {
        enum world_fate fate;
        uint32_t function;
        uint32_t worker; /* UINT32_MAX: not submitted */
        bool ran;
    } requests[WORLD_REQUESTS];
    uint64_t request_count;
    struct world_later pending[WORLD_PENDING];
    uint32_t pending_count;
    uint64_t order;
    uint32_t turn_worker[WORLD_DEVICES];
    uint64_t timer_us;
    uint64_t events;
    bool has_fault; /* it fails at the first request: a test of the tests */
};

static uint32_t world_pick(struct world *w, uint32_t below)
{
    return rng_below(&w->rng, below);
}

static uint64_t world_clock(const struct world *w)
{
    int64_t now = (int64_t)w->now_us + w->skew_us;
    return now > 0 ? (uint64_t)now : 0;
}

static void world_later(struct world *w, uint64_t delay_us, uint64_t life, struct sched_event e)
{
    MUST(w->pending_count < WORLD_PENDING);
    w->pending[w->pending_count++] =
        (struct world_later){w->now_us + delay_us, w->order++, life, e};
}

static uint64_t world_soon(struct world *w, uint32_t max_us)
{
    return world_pick(w, max_us) + 1;
}

static void world_execute(struct world *w, const struct sched_action *a);

static void world_settle(struct world *w)
{
    struct sched_action actions[WORLD_ACTIONS];
    bool more;
    uint32_t rounds = 0;
    do {
        uint32_t n = sched_plan(w->s, world_clock(w), actions, WORLD_ACTIONS, &more);
        for (uint32_t i = 0; i < n; i++)
            world_execute(w, &actions[i]);
        sched_check(w->s);
        MUST(rounds++ < 10000);
    } while (more);
}

static void world_happen(struct world *w, struct sched_event e)
{
    e.now_us = world_clock(w);
    if (w->verbose)
        printf("%12llu %-14s function %d worker %d copy %d request %llu bytes %llu\n",
               (unsigned long long)e.now_us, sched_event_name(e.type), (int)e.function,
               (int)e.worker, (int)e.copy, (unsigned long long)e.request,
               (unsigned long long)e.bytes);
    w->events++;
    sched_apply(w->s, &e);
    sched_check(w->s);
    if (world_pick(w, 3) > 0) /* several events before a plan are ordinary */
        world_settle(w);
}

/* --- what the core asks for --- */

static uint64_t world_used(const struct world *w, uint32_t place)
{
    uint64_t used = 0;
    for (uint32_t i = 0; i < WORLD_COPIES; i++)
        if (w->copies[i].state != COPY_ABSENT && w->copies[i].place == place)
            used += w->copies[i].bytes;
    for (uint32_t i = 0; i < WORLD_WORKERS; i++) {
        const struct world_worker *k = &w->workers[i];
        if (k->alive && k->device == place)
            used += w->worker_bytes[place] + k->kv_bytes +
                    (k->running > 0 || w->keeps_work[place] ? w->work_bytes[k->backbone] : 0);
    }
    return used;
}

static void world_check_place(const struct world *w, uint32_t place)
{
    MUST(world_used(w, place) <= w->budgets[place]);
}

static void world_load_one(struct world *w, uint32_t copy, const struct sched_action *a,
                           uint32_t place)
{
    struct world_copy *c = &w->copies[copy];
    MUST(c->state == COPY_ABSENT);
    *c = (struct world_copy){.state = COPY_COMING,
                             .life = ++w->lives,
                             .bytes = a->bytes,
                             .place = place,
                             .backbone = a->backbone,
                             .function = a->function,
                             .host_copy = SCHED_NONE};
    world_check_place(w, place);
}

static void world_load(struct world *w, const struct sched_action *a)
{
    world_load_one(w, a->copy, a, a->place);
    if (a->host_copy != SCHED_NONE) {
        world_load_one(w, a->host_copy, a, WORLD_DEVICES + w->node_of[a->place]);
        w->copies[a->copy].host_copy = a->host_copy;
    }
    MUST((a->backbone == SCHED_NONE) != (a->function == SCHED_NONE));
    if (a->from != SCHED_NONE)
        MUST(a->from == WORLD_DEVICES + w->node_of[a->place]);
    uint32_t type = world_pick(w, 8) == 0 ? SCHED_COPY_FAILED : SCHED_COPY_LOADED;
    world_later(w, world_soon(w, 20000), w->copies[a->copy].life,
                (struct sched_event){.type = type, .copy = a->copy, .us = 10000});
}

static void world_spawn(struct world *w, const struct sched_action *a)
{
    struct world_worker *k = &w->workers[a->worker];
    const struct world_copy *c = &w->copies[a->copy];
    MUST(!k->alive);
    MUST(c->state == COPY_THERE && c->place == a->device);
    MUST(c->backbone == a->backbone);
    *k = (struct world_worker){.alive = true,
                               .life = ++w->lives,
                               .device = a->device,
                               .backbone = a->backbone,
                               .copy = a->copy,
                               .kv_bytes = a->bytes};
    memset(k->slot_function, 0xff, sizeof k->slot_function);
    world_check_place(w, a->device);
    uint32_t type = world_pick(w, 12) == 0 ? SCHED_WORKER_EXITED : SCHED_WORKER_READY;
    world_later(w, world_soon(w, 4000), k->life,
                (struct sched_event){.type = type, .worker = a->worker, .us = 2000});
}

static void world_bind(struct world *w, const struct sched_action *a)
{
    struct world_worker *k = &w->workers[a->worker];
    MUST(k->slot_function[a->slot] == UINT32_MAX);
    MUST(k->ready);
    MUST(!k->has_domain || route_domain_equal(k->domain, a->domain));
    k->has_domain = true;
    k->domain = a->domain;
    k->slot_function[a->slot] = a->function;
    if (w->adapter_bytes[a->function] > 0) {
        const struct world_copy *c = &w->copies[a->copy];
        MUST(c->state == COPY_THERE && c->place == k->device && c->function == a->function);
    }
    world_later(w, world_soon(w, 500), k->life,
                (struct sched_event){.type = world_pick(w, 15) == 0 ? SCHED_BIND_FAILED
                                                                    : SCHED_WORKER_BOUND,
                                     .worker = a->worker,
                                     .function = a->function,
                                     .us = 300});
}

static void world_resize(struct world *w, const struct sched_action *a)
{
    struct world_worker *k = &w->workers[a->worker];
    MUST(a->bytes <= w->config.kv_worker_bytes_max);
    if (a->bytes >= k->kv_bytes) {
        k->kv_bytes = a->bytes;
        world_check_place(w, k->device);
        return;
    }
    uint64_t down = world_pick(w, 4) == 0 ? k->kv_bytes : a->bytes; /* some cannot */
    world_later(
        w, world_soon(w, 1000), k->life,
        (struct sched_event){.type = SCHED_WORKER_RESIZED, .worker = a->worker, .bytes = down});
}

static void world_submit(struct world *w, const struct sched_action *a)
{
    struct world_worker *k = &w->workers[a->worker];
    MUST(k->alive && k->ready);
    MUST(k->slot_function[a->slot] == a->function);
    MUST(w->requests[a->request].function == a->function);
    MUST(w->requests[a->request].worker == UINT32_MAX);
    /* One domain: same backbone, and the isolation that the function asked for. */
    MUST(k->backbone == w->backbone_of[a->function]);
    MUST(k->domain.group >> 32 == w->isolation_of[a->function]);
    w->requests[a->request].worker = a->worker;
    w->requests[a->request].ran = true;
    k->running++;
    world_check_place(w, k->device);
    uint64_t at = world_soon(w, 3000);
    world_later(w, at, k->life,
                (struct sched_event){.type = SCHED_ADMITTED,
                                     .request = a->request,
                                     .tokens = 1 + world_pick(w, 90)});
    at += world_soon(w, 3000);
    if (world_pick(w, 8) > 0)
        world_later(w, at, k->life,
                    (struct sched_event){.type = SCHED_TOKENS,
                                         .request = a->request,
                                         .tokens = 1 + world_pick(w, 40)});
    at += world_soon(w, 6000);
    world_later(
        w, at, k->life,
        (struct sched_event){
            .type = SCHED_DONE, .request = a->request, .tokens = 7, .more_tokens = 3, .us = 900});
}

static void world_execute_worker(struct world *w, const struct sched_action *a)
{
    struct world_worker *k = &w->workers[a->worker];
    MUST(k->alive);
    switch (a->type) {
    case SCHED_BIND:
        world_bind(w, a);
        break;
    case SCHED_UNBIND:
        MUST(k->slot_function[a->slot] == a->function);
        k->slot_function[a->slot] = UINT32_MAX;
        break;
    case SCHED_RESIZE:
        world_resize(w, a);
        break;
    case SCHED_GRANT:
        MUST(w->turn_worker[k->device] == UINT32_MAX);
        MUST(a->rows > 0 && a->rows <= w->config.step_rows_max);
        w->turn_worker[k->device] = a->worker;
        world_later(w, world_soon(w, 3000), k->life,
                    (struct sched_event){.type = SCHED_TURN_ENDED,
                                         .worker = a->worker,
                                         .us = 1500,
                                         .steps = 1 + world_pick(w, 4),
                                         .tokens = world_pick(w, 64),
                                         .more_tokens = world_pick(w, 8),
                                         .stalled = world_pick(w, 12) == 0});
        break;
    case SCHED_REVOKE:
        MUST(w->turn_worker[k->device] == a->worker);
        break;
    case SCHED_CANCEL:
        MUST(w->requests[a->request].worker == a->worker);
        world_later(w, world_soon(w, 300), k->life,
                    (struct sched_event){.type = SCHED_DONE, .request = a->request});
        break;
    default:
        MUST(a->type == SCHED_KILL);
        world_later(w, world_soon(w, 800), k->life,
                    (struct sched_event){.type = SCHED_WORKER_EXITED, .worker = a->worker});
    }
}

static void world_execute(struct world *w, const struct sched_action *a)
{
    if (w->verbose)
        printf("%12s   %-12s function %d worker %d copy %d place %d request %llu\n", "",
               sched_action_name(a->type), (int)a->function, (int)a->worker, (int)a->copy,
               (int)a->place, (unsigned long long)a->request);
    switch (a->type) {
    case SCHED_LOAD:
        world_load(w, a);
        break;
    case SCHED_DROP:
        MUST(w->copies[a->copy].state == COPY_THERE);
        world_later(w, world_soon(w, 500), w->copies[a->copy].life,
                    (struct sched_event){.type = SCHED_COPY_DROPPED, .copy = a->copy});
        break;
    case SCHED_SPAWN:
        world_spawn(w, a);
        break;
    case SCHED_SUBMIT:
        world_submit(w, a);
        break;
    case SCHED_REFUSE:
    case SCHED_RECEIPT:
        MUST(w->requests[a->request].fate == FATE_OPEN ||
             w->requests[a->request].fate == FATE_GONE);
        MUST(w->requests[a->request].ran == (a->type == SCHED_RECEIPT));
        w->requests[a->request].fate = FATE_ANSWERED;
        break;
    case SCHED_IDLE_BILL:
        MUST(w->deployed[a->function]);
        MUST(a->byte_s >= 0);
        break;
    case SCHED_FORGET:
        MUST(w->removing[a->function]);
        w->deployed[a->function] = false;
        w->removing[a->function] = false;
        break;
    case SCHED_ARM_TIMER:
        w->timer_us = a->us;
        break;
    default:
        world_execute_worker(w, a);
    }
}
