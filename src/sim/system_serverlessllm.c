/*
 * ServerlessLLM-like (OSDI'24). Models: an instance for each function with a backbone of its own
 * that takes a whole device, checkpoints kept in host memory and loaded at the link's speed, a
 * start of interpreter, libraries, context and kernels each time, a short keep-alive. Where there
 * are fewer devices than functions an idle instance goes at once for another function; elsewhere it
 * has its time, for this core's placement would rather end one whose node has the checkpoint in
 * memory than load from a disk. Leaves out: live migration, its start-up-time-optimised placement
 * (this core's placement by predicted start is of that kind), multi-device instances.
 */
#include "sim/systems.h"

/* Chosen so that its misses and first tokens come near the paper's (rows 1 and 13); its own
 * evaluation keeps an instance for about as long as it takes to load, which gives more misses. */
#define KEEP_ALIVE_US (UINT64_C(60) * 1000000)
/* With which its tokens a second come near the paper's (row 5). */
#define BATCH_MAX 16u

static void set_up(struct system_setup *s, const struct system_options *o)
{
    const struct profile *p = o->profile;
    struct sched_config *c = &s->world.sched;
    s->world.engine = PROFILE_EAGER;
    s->world.batch = WORLD_STATIC;
    s->world.spawn_us = p->container_us + p->library_us + p->context_us + p->kernels_us;
    s->world.worker_bytes = system_whole_device_bytes(s);
    c->batching = SCHED_BATCH_STATIC;
    c->batch_fixed = BATCH_MAX;
    c->no_sharing = c->no_preload = 1;
    c->no_offload = o->function_count <= o->devices;
    c->keep_alive_us = KEEP_ALIVE_US;
    for (uint32_t i = 0; i < o->function_count; i++)
        s->functions[i].isolation = ROUTE_FUNCTION;
}

const struct system system_serverlessllm = {
    .name = "serverlessllm",
    .title = "ServerlessLLM-like",
    .models =
        "fast loads from host memory, a whole device and a private backbone for each function",
    .leaves_out = "live migration",
    .set_up = set_up,
};
