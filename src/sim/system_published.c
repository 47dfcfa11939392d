/*
 * ServerlessLoRA as published. Models: one shared backbone for a device's functions, a process for
 * each function with a CUDA context of its own (473 MB), static batches within a function that are
 * filled or expire, turns by deadline margin, pre-loading by value density, offloading by the same,
 * a fixed keep-alive, Transformers' engine.
 * In its favour: its engine decodes one request as fast as memory allows (paper-l40s.json), which
 * Transformers with PEFT does not.
 * Leaves out: the placement by "pre-load score" (this core's placement decides instead), and that a
 * process that is pre-loaded already has the libraries of its function (a spare has those of all).
 *
 * What the paper does not give is chosen so that its own results come out as nearly as they will:
 * the keep-alive (SwarmLoRA's re-implementation has 60 s and an hour), the batching window (there
 * 50 to 250 ms), the largest batch (by the average that the paper reports at its peak).
 */
#include "sim/systems.h"

#define KEEP_ALIVE_US (UINT64_C(180) * 1000000)
#define WINDOW_US 150000u
#define BATCH_MAX 73u
/* Tokens later than this are a reason to go to another device: the busy penalty of its score. */
#define PACE_US 45000u

static void set_up(struct system_setup *s, const struct system_options *o)
{
    const struct profile *p = o->profile;
    struct sched_config *c = &s->world.sched;
    s->world.engine = PROFILE_EAGER;
    s->world.batch = WORLD_STATIC;
    s->world.spawn_us = p->container_us + p->library_us + p->context_us + p->kernels_us;
    s->world.bind_us = p->attach_us;
    c->batching = SCHED_BATCH_STATIC;
    c->batch_fixed = BATCH_MAX;
    c->batch_window_us = WINDOW_US;
    c->keep_alive_us = KEEP_ALIVE_US;
    c->slo_tpot_us = PACE_US;
    s->world.load_factor = SYSTEM_LOADER_FACTOR;
    for (uint32_t i = 0; i < o->function_count; i++)
        s->functions[i].isolation = ROUTE_FUNCTION;
}

const struct system system_published = {
    .name = "serverlesslora",
    .title = "ServerlessLoRA as published",
    .models = "the paper: shared backbone, process per function, static batches, pre-loading, "
              "offloading",
    .leaves_out = "its placement score",
    .set_up = set_up,
};
