/* See fixed.h. */
#include "sim/fixed.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct fixed_request {
    uint64_t id;
    uint64_t arrived_us, first_us, submitted_us;
    uint32_t function, engine;
    uint32_t next; /* waiting */
};

struct fixed_engine {
    uint32_t slots; /* functions bound, or being bound */
    uint32_t bound;
    uint32_t running;
    uint32_t head, tail, waiting;
    uint32_t of_function[SCHED_SLOTS_MAX]; /* requests, by slot */
    bool is_ready, has_turn;
};

struct fixed {
    struct fixed_options o;
    struct fixed_engine *engines; /* [devices] */
    uint32_t *slot_of;            /* [function_count]: in its backbone's engines */
    struct fixed_request *requests;
    uint32_t request_count;
    struct sched_action *actions; /* to be told, from action_at on */
    size_t action_count, action_cap, action_at;
    uint64_t bytes[PROFILE_BACKBONES_MAX]; /* of each backbone */
    bool has_begun;
};

static struct sched_action *emit(struct fixed *f, enum sched_action_type type)
{
    if (f->action_count == f->action_cap) {
        f->action_cap = f->action_cap > 0 ? 2 * f->action_cap : 64;
        f->actions = realloc(f->actions, f->action_cap * sizeof *f->actions);
        assert(f->actions != NULL); /* a few hundred at most: never more than the world has */
    }
    struct sched_action *a = &f->actions[f->action_count++];
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

/* --- coming up: engine e is worker e on device e with copy e --- */

static void begin(struct fixed *f)
{
    for (uint32_t e = 0; e < f->o.devices; e++) {
        struct sched_action *a = emit(f, SCHED_LOAD);
        a->copy = a->place = e;
        a->backbone = f->o.backbones[e];
        a->bytes = f->bytes[a->backbone];
    }
}

static void spawn(struct fixed *f, uint32_t e)
{
    struct sched_action *a = emit(f, SCHED_SPAWN);
    a->worker = a->device = a->copy = e;
    a->backbone = f->o.backbones[e];
    a->bytes = f->o.kv_bytes;
}

static void bind_all(struct fixed *f, uint32_t e)
{
    for (uint32_t i = 0; i < f->o.function_count; i++) {
        if (f->o.functions[i].backbone != f->o.backbones[e])
            continue;
        struct sched_action *a = emit(f, SCHED_BIND);
        a->worker = e;
        a->function = i;
        a->slot = f->slot_of[i];
        f->engines[e].slots++;
    }
    /* An engine knows that it gets no more. */
    struct sched_action *a = emit(f, SCHED_RESIZE);
    a->worker = e;
    a->bytes = f->o.kv_bytes;
    a->is_most = 1;
    f->engines[e].is_ready = true;
}

/* --- requests --- */

static struct fixed_request *request_of(struct fixed *f, uint64_t id)
{
    uint32_t index = (uint32_t)id - 1;
    if (index >= f->request_count) {
        uint32_t count = 2 * index + 64;
        f->requests = realloc(f->requests, count * sizeof *f->requests);
        assert(f->requests != NULL); /* as large as the world's own table */
        f->request_count = count;
    }
    return &f->requests[index];
}

static uint32_t choose(const struct fixed *f, uint32_t function)
{
    uint32_t best = SCHED_NONE, home = SCHED_NONE, slot = f->slot_of[function];
    for (uint32_t e = 0; e < f->o.devices; e++) {
        const struct fixed_engine *g = &f->engines[e];
        if (f->o.backbones[e] != f->o.functions[function].backbone)
            continue;
        if (best == SCHED_NONE ||
            g->running + g->waiting < f->engines[best].running + f->engines[best].waiting)
            best = e;
        if (g->of_function[slot] > 0 &&
            (home == SCHED_NONE || g->of_function[slot] > f->engines[home].of_function[slot]))
            home = e;
    }
    assert(best != SCHED_NONE);
    if (!f->o.keeps_together || home == SCHED_NONE)
        return best;
    uint32_t least = f->engines[best].running + f->engines[best].waiting;
    return f->engines[home].running + f->engines[home].waiting < 2 * least + 2 ? home : best;
}

static void feed(struct fixed *f, uint32_t e, uint64_t now_us)
{
    struct fixed_engine *g = &f->engines[e];
    while (g->waiting > 0 && g->bound == g->slots && g->is_ready && g->running < f->o.running_max) {
        struct fixed_request *r = &f->requests[g->head];
        g->head = r->next;
        g->waiting--;
        g->running++;
        r->submitted_us = now_us;
        struct sched_action *a = emit(f, SCHED_SUBMIT);
        a->worker = e;
        a->function = r->function;
        a->request = r->id;
        a->slot = f->slot_of[r->function];
    }
    if (g->running == 0 || g->has_turn)
        return;
    g->has_turn = true;
    struct sched_action *a = emit(f, SCHED_GRANT);
    a->worker = a->device = e;
    a->rows = f->o.step_rows;
}

static void arrive(struct fixed *f, const struct sched_event *e)
{
    uint32_t engine = choose(f, e->function);
    struct fixed_engine *g = &f->engines[engine];
    struct fixed_request *r = request_of(f, e->request);
    *r = (struct fixed_request){
        .id = e->request, .arrived_us = e->now_us, .function = e->function, .engine = engine};
    uint32_t index = (uint32_t)(r - f->requests);
    if (g->waiting == 0)
        g->head = index;
    else
        f->requests[g->tail].next = index;
    g->tail = index;
    g->waiting++;
    g->of_function[f->slot_of[e->function]]++;
    feed(f, engine, e->now_us);
}

static void end(struct fixed *f, const struct sched_event *e)
{
    struct fixed_request *r = request_of(f, e->request);
    struct fixed_engine *g = &f->engines[r->engine];
    struct sched_action *a = emit(f, SCHED_RECEIPT);
    a->request = r->id;
    a->function = r->function;
    a->receipt = (struct sched_receipt){.arrived_us = r->arrived_us,
                                        .queue_us = r->submitted_us - r->arrived_us,
                                        .first_us = r->first_us - r->arrived_us,
                                        .total_us = e->now_us - r->arrived_us,
                                        .device_us = e->us,
                                        .prompt_tokens = e->tokens,
                                        .new_tokens = e->more_tokens,
                                        .completed = 1};
    g->running--;
    g->of_function[f->slot_of[r->function]]--;
    feed(f, r->engine, e->now_us);
}

/* --- the policy --- */

static void apply(void *state, const struct sched_event *e)
{
    struct fixed *f = state;
    struct fixed_engine *g;
    switch (e->type) {
    case SCHED_BACKBONE:
        assert(e->backbone < PROFILE_BACKBONES_MAX);
        f->bytes[e->backbone] = e->bytes;
        break;
    case SCHED_COPY_LOADED:
        spawn(f, e->copy);
        break;
    case SCHED_WORKER_READY:
        bind_all(f, e->worker);
        break;
    case SCHED_WORKER_BOUND:
        g = &f->engines[e->worker];
        if (++g->bound == g->slots)
            feed(f, e->worker, e->now_us);
        break;
    case SCHED_REQUEST:
        arrive(f, e);
        break;
    case SCHED_TOKENS: {
        struct fixed_request *r = request_of(f, e->request);
        r->first_us = r->first_us > 0 ? r->first_us : e->now_us;
        break;
    }
    case SCHED_DONE:
        end(f, e);
        break;
    case SCHED_TURN_ENDED:
        f->engines[e->worker].has_turn = false;
        feed(f, e->worker, e->now_us);
        break;
    default:
        break;
    }
}

static uint32_t plan(void *state, uint64_t now_us, struct sched_action *actions, uint32_t max,
                     bool *ret_more)
{
    struct fixed *f = state;
    (void)now_us;
    if (!f->has_begun)
        begin(f);
    f->has_begun = true;
    size_t left = f->action_count - f->action_at;
    uint32_t n = left < max ? (uint32_t)left : max;
    memcpy(actions, f->actions + f->action_at, n * sizeof *actions);
    f->action_at += n;
    if (f->action_at == f->action_count)
        f->action_at = f->action_count = 0;
    *ret_more = f->action_count > 0;
    return n;
}

int fixed_open(struct fixed **ret, const struct fixed_options *o)
{
    struct fixed *f = calloc(1, sizeof *f);
    uint32_t slots[PROFILE_BACKBONES_MAX] = {0};
    if (f == NULL)
        return -ENOMEM;
    f->o = *o;
    f->engines = calloc(o->devices, sizeof *f->engines);
    f->slot_of = calloc(o->function_count, sizeof *f->slot_of);
    if (f->engines == NULL || f->slot_of == NULL) {
        fixed_close(f);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < o->function_count; i++) {
        f->slot_of[i] = slots[o->functions[i].backbone]++;
        if (f->slot_of[i] < SCHED_SLOTS_MAX)
            continue;
        fixed_close(f);
        return -E2BIG;
    }
    *ret = f;
    return 0;
}

void fixed_close(struct fixed *f)
{
    if (f == NULL)
        return;
    free(f->engines);
    free(f->slot_of);
    free(f->requests);
    free(f->actions);
    free(f);
}

struct world_policy fixed_policy(struct fixed *f)
{
    return (struct world_policy){.state = f, .apply = apply, .plan = plan};
}
