/*
 * InstaInfer-like (SoCC'24). Models: an instance for each function with a backbone of its own,
 * several on a device; what was loaded stays until the next request has become unlikely or another
 * function needs its memory; Transformers' own loader.
 * Leaves out: its knapsack by dynamic programming, and loading into other functions' idle instances
 * ahead of a request: with backbones of 13 to 26 GB there is hardly room beside an instance's own.
 */
#include "sim/systems.h"

/* Its window ends at a probability of 94 %, -ln(0.06) mean times between requests; its containers
 * stay for ten minutes. One figure for all functions here. */
#define KEEP_ALIVE_US (UINT64_C(90) * 1000000)
/* With which its tokens a second come near the paper's (row 5). */
#define BATCH_MAX 8u

static void set_up(struct system_setup *s, const struct system_options *o)
{
    const struct profile *p = o->profile;
    struct sched_config *c = &s->world.sched;
    s->world.engine = PROFILE_EAGER;
    s->world.batch = WORLD_STATIC;
    s->world.spawn_us = p->container_us + p->library_us + p->context_us + p->kernels_us;
    s->world.load_factor = SYSTEM_LOADER_FACTOR;
    c->batching = SCHED_BATCH_STATIC;
    c->batch_fixed = BATCH_MAX;
    c->no_sharing = c->no_preload = 1;
    c->keep_alive_us = KEEP_ALIVE_US;
    for (uint32_t i = 0; i < o->function_count; i++)
        s->functions[i].isolation = ROUTE_FUNCTION;
}

const struct system system_instainfer = {
    .name = "instainfer",
    .title = "InstaInfer-like",
    .models =
        "instances kept loaded while a request is likely, a private backbone for each function",
    .leaves_out = "pre-loading into other functions' instances",
    .set_up = set_up,
};
