/* See systems.h. */
#include "sim/systems.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Everything is deployed so long before the first request: engines are up, forecasts know nothing.
 */
#define LEAD_US (UINT64_C(600) * 1000000)
#define DEVICES_MAX 4096u

const struct system *system_at(size_t index)
{
    static const struct system *const all[] = {
        &system_sllora,    &system_sllora_shared, &system_sllora_eager,
        &system_published, &system_serverlessllm, &system_instainfer,
        &system_vllm,      &system_dlora,         &system_slora,
    };
    return index < sizeof all / sizeof all[0] ? all[index] : NULL;
}

const struct system *system_find(const char *name)
{
    for (size_t i = 0; system_at(i) != NULL; i++)
        if (strcmp(system_at(i)->name, name) == 0)
            return system_at(i);
    return NULL;
}

static void begin(struct system_setup *s, const struct system_options *o)
{
    const struct profile *p = o->profile;
    s->world = (struct world_options){.profile = p,
                                      .sched = world_config(p, o->devices, o->function_count),
                                      .devices = o->devices,
                                      .device_bytes = o->device_bytes,
                                      .functions = s->functions,
                                      .function_count = o->function_count,
                                      .engine = PROFILE_PAGED,
                                      .batch = WORLD_CONTINUOUS,
                                      .worker_bytes = p->worker_bytes,
                                      .bind_us = p->bind_us,
                                      .faults = o->faults,
                                      .trace = o->trace,
                                      .lead_us = LEAD_US,
                                      .checks = o->checks};
    memcpy(s->functions, o->functions, o->function_count * sizeof *s->functions);
}

static int run(const struct system_setup *s, struct figures *ret, struct error *err)
{
    struct world_result r;
    int n = world_run(&s->world, &r, err);
    if (n < 0)
        return n;
    if (figures_of(&s->world, &r, s->billing, ret) < 0)
        n = error_set(err, -ENOMEM, "out of memory");
    world_result_free(&r);
    return n;
}

uint64_t system_whole_device_bytes(const struct system_setup *s)
{
    const struct world_options *o = &s->world;
    uint64_t memory = world_device_bytes(o), largest = 0;
    for (uint32_t i = 0; i < o->function_count; i++) {
        const struct world_function *f = &s->functions[i];
        const struct profile_backbone *b = &o->profile->backbones[f->backbone];
        uint64_t bytes = b->bytes + b->work_bytes + f->adapter_bytes;
        largest = bytes > largest ? bytes : largest;
    }
    largest += o->sched.kv_step_bytes;
    uint64_t rest =
        memory > largest ? memory - largest : 0; /* what does not fit the world refuses */
    return rest - rest / 20;                     /* some KV memory to grow into */
}

/* --- always on --- */

/* Backbones that functions are of, dealt in turn, `engines` devices each. */
static uint32_t deal(const struct system_setup *s, uint32_t engines, uint32_t *ret_backbones)
{
    bool used[PROFILE_BACKBONES_MAX] = {false};
    uint32_t count = 0;
    for (uint32_t i = 0; i < s->world.function_count; i++)
        used[s->functions[i].backbone] = true;
    for (uint32_t e = 0; e < engines; e++)
        for (uint32_t b = 0; b < s->world.profile->backbone_count; b++)
            if (used[b] && count < DEVICES_MAX)
                ret_backbones[count++] = b;
    return count;
}

static uint64_t kv_bytes_of(const struct system_setup *s, const uint32_t *backbones, uint32_t count)
{
    uint64_t memory = world_device_bytes(&s->world), least = UINT64_MAX;
    for (uint32_t i = 0; i < count; i++) {
        const struct profile_backbone *b = &s->world.profile->backbones[backbones[i]];
        uint64_t rest = memory - b->bytes - b->work_bytes - s->world.worker_bytes;
        least = rest < least ? rest : least;
    }
    return least;
}

static int run_engines(struct system_setup *s, uint32_t engines, struct figures *ret,
                       struct error *err)
{
    uint32_t backbones[DEVICES_MAX];
    uint32_t devices = deal(s, engines, backbones);
    const struct fixed_options o = {.devices = devices,
                                    .backbones = backbones,
                                    .functions = s->functions,
                                    .function_count = s->world.function_count,
                                    .running_max = s->world.sched.worker_running_max,
                                    .step_rows = s->world.sched.step_rows_max,
                                    .kv_bytes = kv_bytes_of(s, backbones, devices),
                                    .keeps_together = s->keeps_together};
    struct fixed *f;
    int n = fixed_open(&f, &o);
    if (n < 0)
        return error_set(err, n,
                         n == -E2BIG ? "an always-on engine holds %u adapters at most"
                                     : "out of memory (%u slots)",
                         SCHED_SLOTS_MAX);
    struct world_policy policy = fixed_policy(f);
    s->world.policy = &policy;
    s->world.devices = devices;
    n = run(s, ret, err);
    fixed_close(f);
    return n;
}

/* The fewest engines of each backbone that hold the objectives, where devices for so many are
 * there; else as many as there are devices for. */
static int run_fewest(struct system_setup *s, uint32_t devices, struct figures *ret,
                      struct error *err)
{
    uint32_t backbones[DEVICES_MAX], kinds = deal(s, 1, backbones);
    if (kinds > devices)
        return error_set(err, -EINVAL, "always-on engines of %u backbones take %u devices", kinds,
                         kinds);
    for (uint32_t engines = 1;; engines++) {
        int n = run_engines(s, engines, ret, err);
        if (n < 0 || ret->slo_attainment >= SYSTEM_ATTAINMENT || (engines + 1) * kinds > devices)
            return n;
    }
}

/* What an always-on deployment would pass over in silence. */
static int check_always_on(const struct system_options *o, struct error *err)
{
    const struct {
        bool is_asked;
        const char *what;
    } questions[] = {
        {o->without.sharing || o->without.preload || o->without.offload || o->without.batching ||
             o->batch_fixed > 0 || o->batch_adaptive,
         "nothing to take away: sharing, pre-loading, offloading and batching are as they are"},
        {o->keep_alive_us > 0 || o->price_bytes > 0, "no keep-alive: it holds its memory for ever"},
        {o->isolation > 0 || o->owners > 0, "no isolation: one process has all adapters"},
        {o->kv_bytes > 0, "all of a device's memory for KV"},
        {o->faults.worker_loss_s > 0 || o->faults.load_failures > 0,
         "nobody who would start an engine again: no faults are simulated for it"},
    };
    for (size_t i = 0; i < sizeof questions / sizeof questions[0]; i++)
        if (questions[i].is_asked)
            return error_set(err, -EINVAL, "it is always on and has %s", questions[i].what);
    for (uint32_t i = 0; i < o->function_count; i++)
        if (o->functions[i].is_refused_late)
            return error_set(err, -EINVAL, "it is always on and refuses nobody");
    return 0;
}

/* Likewise of the others. */
static int check_serverless(const struct system_setup *s, const struct system_options *o,
                            struct error *err)
{
    const struct sched_config *c = &s->world.sched;
    if (o->batch_adaptive && s->world.batch == WORLD_STATIC)
        return error_set(err, -EINVAL, "its batches are static: of at most N, or off");
    if (o->price_bytes > 0 && c->no_preload && c->keep_alive_us != SCHED_KEEP_ALIVE_AUTO)
        return error_set(err, -EINVAL,
                         "with a fixed keep-alive and without pre-loading nothing is held for what "
                         "it is worth");
    return 0;
}

/* What is asked for in place of the system's own. */
static void take_options(struct system_setup *s, const struct system_options *o)
{
    struct sched_config *c = &s->world.sched;
    for (uint32_t i = 0; i < o->function_count; i++) {
        s->functions[i].owner = o->owners > 0 ? i % o->owners : i;
        if (o->isolation > 0)
            s->functions[i].isolation = o->isolation;
    }
    c->kv_worker_bytes_max = o->kv_bytes > 0 ? o->kv_bytes : world_device_bytes(&s->world);
    c->no_sharing |= o->without.sharing;
    c->no_preload |= o->without.preload;
    c->no_offload |= o->without.offload;
    if (o->without.batching)
        c->batching = SCHED_BATCH_OFF;
    if (o->batch_fixed > 0) {
        c->batching = s->world.batch == WORLD_STATIC ? SCHED_BATCH_STATIC : SCHED_BATCH_FIXED;
        c->batch_fixed = o->batch_fixed;
    }
    if (o->keep_alive_us > 0)
        c->keep_alive_us = o->keep_alive_us;
    if (o->price_bytes > 0)
        c->price_bytes = o->price_bytes;
}

int system_run(const struct system *system, const struct system_options *o, struct figures *ret,
               struct error *err)
{
    struct system_setup s = {.functions = calloc(o->function_count + 1, sizeof *s.functions)};
    if (s.functions == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    begin(&s, o);
    system->set_up(&s, o);
    take_options(&s, o);
    int n = s.is_always_on ? check_always_on(o, err) : check_serverless(&s, o, err);
    if (n == 0 && !s.is_always_on)
        n = run(&s, ret, err);
    else if (n == 0 && o->engines > 0)
        n = run_engines(&s, o->engines, ret, err);
    else if (n == 0)
        n = run_fewest(&s, o->devices, ret, err);
    free(s.functions);
    return n < 0 ? error_prefix(err, "%s", system->name) : 0;
}
