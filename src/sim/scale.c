/* See scale.h. */
#include "sim/scale.h"

#include "base/clock.h"
#include "sim/trace_generate.h"

#include <errno.h>
#include <stdlib.h>

/* An owner's functions share a process, as by default. */
#define FUNCTIONS_PER_OWNER 20u
#define ZIPF 1.0
/* A plan looks at a thousand functions; a thousand devices are not planned once a second. */
#define PLAN_PERIOD_US_DEVICE 300000u

void scale_default(struct scale_options *o, const struct profile *p)
{
    *o = (struct scale_options){.profile = p,
                                .devices = 1000,
                                .functions = 100000,
                                .hours = 24,
                                .requests_per_s = 100,
                                .seed = 1};
}

static int make_trace(const struct scale_options *o, struct trace *ret, struct error *err)
{
    struct trace_generate_options g;
    trace_generate_default(&g);
    g.class = TRACE_PREDICTABLE;
    g.cov = 1;
    g.requests_per_s = o->requests_per_s;
    g.functions = o->functions;
    g.zipf = ZIPF;
    g.duration_us = (uint64_t)(o->hours * 3600e6);
    g.seed = o->seed;
    g.requests_max = 1u << 26;
    return trace_generate(&g, ret, err);
}

static struct world_function *make_functions(const struct scale_options *o)
{
    struct world_function *f = calloc(o->functions, sizeof *f);
    for (uint32_t i = 0; f != NULL && i < o->functions; i++)
        f[i] = (struct world_function){.backbone = i % o->profile->backbone_count,
                                       .owner = i / FUNCTIONS_PER_OWNER,
                                       .isolation = ROUTE_OWNER,
                                       .adapter_bytes = o->profile->adapter_bytes,
                                       .slo_ttft_us = 2500000,
                                       .slo_tpot_us = 200000};
    return f;
}

static struct world_options options(const struct scale_options *o, const struct trace *t,
                                    const struct world_function *f)
{
    const struct profile *p = o->profile;
    struct world_options w = {.profile = p,
                              .sched = world_config(p, o->devices, o->functions),
                              .devices = o->devices,
                              .functions = f,
                              .function_count = o->functions,
                              .worker_bytes = p->worker_bytes,
                              .spawn_us = p->fork_us + p->context_us + p->module_us,
                              .bind_us = p->bind_us,
                              .trace = t,
                              .keeps_no_samples = true};
    uint64_t period_us = (uint64_t)PLAN_PERIOD_US_DEVICE * o->devices;
    w.sched.plan_period_us =
        period_us > w.sched.plan_period_us ? period_us : w.sched.plan_period_us;
    return w;
}

int scale_run(const struct scale_options *o, struct scale_result *ret, struct error *err)
{
    struct trace t;
    struct world_result r;
    uint64_t began_us = clock_now_us();
    int n = make_trace(o, &t, err);
    if (n < 0)
        return n;
    struct world_function *f = make_functions(o);
    uint64_t made_us = clock_now_us();
    struct world_options w = options(o, &t, f);
    n = f == NULL ? error_set(err, -ENOMEM, "out of memory") : world_run(&w, &r, err);
    if (n == 0)
        *ret = (struct scale_result){.totals = r.totals,
                                     .trace_s = (double)(made_us - began_us) / 1e6,
                                     .run_s = (double)(clock_now_us() - made_us) / 1e6};
    free(f);
    trace_free(&t);
    return n;
}
