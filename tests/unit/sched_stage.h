/*
 * A stage for the scheduler core: a scenario applies one event after the other, and says what the
 * core must ask for. Two cores see the same events and must ask for the same, to the byte; their
 * memory is full of different rubbish before. After every event the core's invariants are checked.
 */
#pragma once

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "sched/view.h"

#define STAGE_ACTIONS 64u
#define STAGE_SAID_MAX 64u

/* The machine: one device, one node without host memory unless a scenario adds some. */
#define DEVICE_BYTES 5000u
#define BACKBONE_BYTES 1000u
#define ADAPTER_BYTES 100u
#define IDLE_BYTES 50u /* of any process */
#define WORK_BYTES 10u /* more that it computes in, while it runs something */
#define KV_STEP 64u
#define LOAD_US 1000u
#define SPAWN_US 100u
#define BIND_US 10u
#define FOREVER_US (UINT64_C(3600) * 1000000)

struct stage {
    struct sched_config config;
    void *memory[2];
    struct sched *s, *twin;
    uint64_t now_us;
    uint64_t timer_us;
    struct sched_action
        said[STAGE_SAID_MAX]; /* since the latest stage_expect; no timers or bills */
    uint32_t said_count;
    uint32_t expected;  /* how many of them were */
    double idle_byte_s; /* billed */
};

static inline struct sched_config stage_config(void)
{
    return (struct sched_config){.nodes_max = 1,
                                 .devices_max = 2,
                                 .functions_max = 8,
                                 .backbones_max = 3,
                                 .owners_max = 4,
                                 .workers_max = 6,
                                 .copies_max = 16,
                                 .requests_max = 16,
                                 .function_waiting_max = 8,
                                 .owner_live_max = 12,
                                 .domain_workers_max = 1,
                                 .worker_running_max = 4,
                                 .worker_slots_max = 4,
                                 .spawn_attempts_max = 2,
                                 .step_rows_max = 64,
                                 .no_preload = 1,
                                 .keep_alive_us = SCHED_KEEP_ALIVE_AUTO,
                                 .turn_us = 2000,
                                 .plan_period_us = 1000000,
                                 .batch_window_us = 5000,
                                 .slo_ttft_us = 1000000,
                                 .slo_tpot_us = 50000,
                                 .kv_step_bytes = KV_STEP,
                                 .kv_worker_bytes_max = 1024,
                                 .price_bytes = 0}; /* memory costs nothing: all is kept */
}

/* --- what is asked for --- */

static inline void stage_check_receipt(const struct sched_receipt *r)
{
    assert_true(r->load_us + r->start_us + r->bind_us + r->queue_us <= r->total_us);
    assert_true(r->first_us <= r->total_us || r->total_us == 0);
    assert_true(r->own_byte_s >= 0 && r->backbone_byte_s >= 0);
}

static inline void stage_hear(struct stage *g, const struct sched_action *a)
{
    if (a->type == SCHED_ARM_TIMER) {
        g->timer_us = a->us;
        return;
    }
    if (a->type == SCHED_IDLE_BILL) {
        assert_true(a->byte_s >= 0);
        g->idle_byte_s += a->byte_s;
        return;
    }
    if (a->type == SCHED_RECEIPT)
        stage_check_receipt(&a->receipt);
    assert_true(g->said_count < STAGE_SAID_MAX);
    g->said[g->said_count++] = *a;
}

static inline void stage_plan(struct stage *g)
{
    struct sched_action actions[STAGE_ACTIONS], same[STAGE_ACTIONS];
    bool more, more_too;
    do {
        uint32_t n = sched_plan(g->s, g->now_us, actions, STAGE_ACTIONS, &more);
        assert_int_equal(sched_plan(g->twin, g->now_us, same, STAGE_ACTIONS, &more_too), n);
        assert_int_equal(more, more_too);
        if (n > 0)
            assert_memory_equal(actions, same, n * sizeof actions[0]);
        for (uint32_t i = 0; i < n; i++)
            stage_hear(g, &actions[i]);
    } while (more);
    sched_check(g->s);
}

/* An event before which what was expected has been, and the plan after it. */
static inline void stage_apply(struct stage *g, struct sched_event e)
{
    if (g->expected == g->said_count)
        g->expected = g->said_count = 0;
    e.now_us = g->now_us;
    sched_apply(g->s, &e);
    sched_apply(g->twin, &e);
    stage_plan(g);
}

static inline void stage_at(struct stage *g, const char *file, int line, const char *words)
{
    char said[512] = "";
    size_t at = 0;
    for (uint32_t i = g->expected; i < g->said_count && at < sizeof said - 16; i++)
        at += (size_t)snprintf(said + at, sizeof said - at, "%s%s", at > 0 ? " " : "",
                               sched_action_name(g->said[i].type));
    if (strcmp(said, words) != 0)
        fail_msg("%s:%d: asked for \"%s\", not \"%s\"", file, line, said, words);
    g->expected = g->said_count;
}

/* All that was asked for since the latest of these, by name. */
#define stage_expect(g, words) stage_at(g, __FILE__, __LINE__, words)

/* The action of this type among what was expected last, the nth of them, from 0. */
static inline const struct sched_action *stage_said(const struct stage *g, uint32_t type,
                                                    uint32_t nth)
{
    for (uint32_t i = 0; i < g->said_count; i++)
        if (g->said[i].type == type && nth-- == 0)
            return &g->said[i];
    fail_msg("nothing like %s was asked for", sched_action_name(type));
    return NULL;
}

/* --- time --- */

/* Time passes, with the ticks that were asked for. */
static inline void stage_pass(struct stage *g, uint64_t us)
{
    uint64_t until_us = g->now_us + us;
    while (g->timer_us <= until_us) {
        g->now_us = g->timer_us > g->now_us ? g->timer_us : g->now_us;
        g->timer_us = UINT64_MAX;
        stage_apply(g, (struct sched_event){.type = SCHED_TICK});
    }
    g->now_us = until_us;
}

/* --- what happens --- */

static inline void stage_loaded(struct stage *g, uint32_t copy)
{
    stage_apply(g, (struct sched_event){.type = SCHED_COPY_LOADED, .copy = copy, .us = LOAD_US});
}

static inline void stage_ready(struct stage *g, uint32_t worker)
{
    stage_apply(g,
                (struct sched_event){.type = SCHED_WORKER_READY, .worker = worker, .us = SPAWN_US});
}

static inline void stage_bound(struct stage *g, uint32_t worker, uint32_t function)
{
    stage_apply(
        g, (struct sched_event){
               .type = SCHED_WORKER_BOUND, .worker = worker, .function = function, .us = BIND_US});
}

static inline void stage_exited(struct stage *g, uint32_t worker)
{
    stage_apply(g, (struct sched_event){.type = SCHED_WORKER_EXITED, .worker = worker});
}

static inline void stage_dropped(struct stage *g, uint32_t copy)
{
    stage_apply(g, (struct sched_event){.type = SCHED_COPY_DROPPED, .copy = copy});
}

static inline void stage_tokens(struct stage *g, uint64_t request, uint32_t tokens)
{
    stage_apply(g,
                (struct sched_event){.type = SCHED_TOKENS, .request = request, .tokens = tokens});
}

static inline void stage_done(struct stage *g, uint64_t request)
{
    stage_apply(g, (struct sched_event){.type = SCHED_DONE,
                                        .request = request,
                                        .tokens = 20,
                                        .more_tokens = 10,
                                        .steps = 5,
                                        .us = 700});
}

static inline void stage_turn_ended(struct stage *g, uint32_t worker)
{
    stage_apply(
        g,
        (struct sched_event){
            .type = SCHED_TURN_ENDED, .worker = worker, .us = 550, .steps = 1, .more_tokens = 1});
}

static inline void stage_gone(struct stage *g, uint64_t request)
{
    stage_apply(g, (struct sched_event){.type = SCHED_CLIENT_GONE, .request = request});
}

/* Twenty tokens and ten new ones: half of a step of KV memory. */
static inline void stage_request(struct stage *g, uint64_t request, uint32_t function)
{
    stage_apply(g, (struct sched_event){.type = SCHED_REQUEST,
                                        .request = request,
                                        .function = function,
                                        .tokens = 20,
                                        .more_tokens = 10});
}

/* Without an adapter, and without an objective of its own unless slo_us is above 0. */
static inline void stage_deploy(struct stage *g, uint32_t function, uint32_t backbone,
                                uint32_t owner, enum route_isolation isolation, uint64_t slo_us)
{
    stage_apply(g, (struct sched_event){.type = SCHED_DEPLOYED,
                                        .function = function,
                                        .backbone = backbone,
                                        .owner = owner,
                                        .isolation = isolation,
                                        .us = slo_us});
    stage_expect(g, "");
}

static inline void stage_deploy_adapter(struct stage *g, uint32_t function, uint32_t owner)
{
    stage_apply(g, (struct sched_event){.type = SCHED_DEPLOYED,
                                        .function = function,
                                        .owner = owner,
                                        .isolation = ROUTE_OWNER,
                                        .bytes = ADAPTER_BYTES});
    stage_expect(g, "");
}

static inline void stage_remove(struct stage *g, uint32_t function)
{
    stage_apply(g, (struct sched_event){.type = SCHED_REMOVED, .function = function});
}

/* Why a request is refused, which it must be. */
static inline uint32_t stage_refused(struct stage *g, uint64_t request, uint32_t function)
{
    stage_request(g, request, function);
    stage_expect(g, "refuse");
    const struct sched_action *a = stage_said(g, SCHED_REFUSE, 0);
    assert_int_equal(a->request, request);
    assert_int_equal(a->function, function);
    return a->reason;
}

/* A request of the function from its arrival to its turn, from cold: all that happens on the way
 * happens as it should. Returns the worker. */
static inline uint32_t stage_start(struct stage *g, uint64_t request, uint32_t function)
{
    stage_request(g, request, function);
    stage_expect(g, "load");
    stage_pass(g, LOAD_US);
    stage_loaded(g, stage_said(g, SCHED_LOAD, 0)->copy);
    stage_expect(g, "spawn");
    uint32_t worker = stage_said(g, SCHED_SPAWN, 0)->worker;
    stage_pass(g, SPAWN_US);
    stage_ready(g, worker);
    stage_expect(g, "bind");
    stage_pass(g, BIND_US);
    stage_bound(g, worker, function);
    stage_expect(g, "submit grant");
    return worker;
}

/* Its first tokens, its end, and the end of its turn. */
static inline void stage_finish(struct stage *g, uint64_t request, uint32_t worker)
{
    stage_tokens(g, request, 1);
    stage_expect(g, "");
    stage_done(g, request);
    stage_expect(g, "receipt");
    stage_turn_ended(g, worker);
}

/* --- the machine --- */

static inline void stage_backbone(struct stage *g, uint32_t backbone, uint64_t bytes)
{
    stage_apply(g, (struct sched_event){.type = SCHED_BACKBONE,
                                        .backbone = backbone,
                                        .bytes = bytes,
                                        .more_bytes = 1,
                                        .work_bytes = WORK_BYTES,
                                        .step = {500, 20, 50},
                                        .us = LOAD_US,
                                        .more_us = LOAD_US / 4});
    stage_expect(g, "");
}

static inline void stage_device(struct stage *g, uint32_t device)
{
    stage_apply(g, (struct sched_event){.type = SCHED_DEVICE,
                                        .device = device,
                                        .bytes = DEVICE_BYTES,
                                        .more_bytes = IDLE_BYTES,
                                        .us = SPAWN_US});
    stage_expect(g, "");
}

static inline struct stage *stage_new(const struct sched_config *config)
{
    struct stage *g = calloc(1, sizeof *g);
    assert_non_null(g);
    g->config = *config;
    g->now_us = 1000000;
    g->timer_us = UINT64_MAX;
    for (int i = 0; i < 2; i++) {
        g->memory[i] = aligned_alloc(16, sched_bytes(config));
        assert_non_null(g->memory[i]);
        memset(g->memory[i], i == 0 ? 0x5a : 0xc3, sched_bytes(config));
    }
    g->s = sched_init(g->memory[0], config);
    g->twin = sched_init(g->memory[1], config);
    stage_device(g, 0);
    for (uint32_t b = 0; b < config->backbones_max; b++)
        stage_backbone(g, b, BACKBONE_BYTES);
    return g;
}

static inline void stage_free(struct stage *g)
{
    free(g->memory[0]);
    free(g->memory[1]);
    free(g);
}
