/*
 * This system. Models: the core as it runs in the daemon, a sandboxed process for each function
 * forked from one that has its libraries, a device context of its own, precompiled kernels, shared
 * read-only backbones, spares, continuous batches over paged KV memory, keep-alive by forecast.
 * Leaves out: prefix reuse (each prompt is computed whole), speculative decoding, the fused step
 * over domains that DESIGN has for later, the network to a node.
 *
 * Two variants beside it: one operator who owns all adapters, so that everybody's requests share a
 * batch, as in the one-process engines; and the same scheduling on the published system's engine,
 * which tells what of a difference is kernels and what is not.
 */
#include "sim/systems.h"

static void set_up(struct system_setup *s, const struct system_options *o)
{
    const struct profile *p = o->profile;
    s->world.spawn_us = p->fork_us + p->context_us + p->module_us;
    for (uint32_t i = 0; i < o->function_count; i++)
        s->functions[i].isolation = ROUTE_FUNCTION;
}

static void set_up_shared(struct system_setup *s, const struct system_options *o)
{
    set_up(s, o);
    for (uint32_t i = 0; i < o->function_count; i++)
        s->functions[i].isolation = ROUTE_SHARED;
}

static void set_up_eager(struct system_setup *s, const struct system_options *o)
{
    set_up(s, o);
    s->world.engine = PROFILE_EAGER;
}

const struct system system_sllora = {
    .name = "sllora",
    .title = "this system",
    .models = "this program's scheduler, strict isolation: a process for each function",
    .leaves_out = "prefix reuse, the fused step across domains",
    .set_up = set_up,
};

const struct system system_sllora_shared = {
    .name = "sllora-shared",
    .title = "this system, shared",
    .models = "this program's scheduler, one operator who owns all adapters: one batch a backbone",
    .leaves_out = "as sllora",
    .set_up = set_up_shared,
};

const struct system system_sllora_eager = {
    .name = "sllora-eager",
    .title = "this system, their engine",
    .models = "sllora with the step costs of the published system's engine",
    .leaves_out = "as sllora",
    .set_up = set_up_eager,
};
