/* See scale.h. */
#include "sim/scale.h"

#include "base/clock.h"
#include "sim/systems.h"
#include "sim/trace_generate.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

/* An owner's functions share a process, as by default. */
#define FUNCTIONS_PER_OWNER 20u
#define ZIPF 1.0
/* A plan looks at a thousand functions; a thousand devices are not planned once a second. */
#define PLAN_PERIOD_US_DEVICE 600000u

void scale_default(struct scale_options *o, const struct profile *p)
{
    *o = (struct scale_options){.profile = p,
                                .devices = 1000,
                                .functions = 100000,
                                .hours = 24,
                                .requests_per_s = 20,
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
    w.sched.price_bytes = SYSTEM_GPU_HOLD;
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

/* --- what a decision costs --- */

/* The core behind a clock. */
struct timed {
    struct sched *core;
    void *memory;
    double *plans_us; /* [count] */
    size_t count, cap;
    double event_us, tick_us;
    uint64_t events, ticks;
    bool is_tick; /* the latest event */
    int failed;
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void timed_apply(void *state, const struct sched_event *e)
{
    struct timed *t = state;
    uint64_t began = now_ns();
    sched_apply(t->core, e);
    t->is_tick = e->type == SCHED_TICK;
    *(t->is_tick ? &t->tick_us : &t->event_us) += (double)(now_ns() - began) / 1e3;
    (*(t->is_tick ? &t->ticks : &t->events))++;
}

static uint32_t timed_plan(void *state, uint64_t now_us, struct sched_action *actions, uint32_t max,
                           bool *ret_more)
{
    struct timed *t = state;
    uint64_t began = now_ns();
    uint32_t n = sched_plan(t->core, now_us, actions, max, ret_more);
    double us = (double)(now_ns() - began) / 1e3;
    *(t->is_tick ? &t->tick_us : &t->event_us) += us;
    if (n == 0 && !t->is_tick)
        return n; /* nothing to decide: what most calls are */
    if (t->count == t->cap) {
        size_t cap = t->cap > 0 ? 2 * t->cap : 65536;
        double *more = realloc(t->plans_us, cap * sizeof *more);
        if (more == NULL) {
            t->failed = -ENOMEM;
            return n;
        }
        t->plans_us = more;
        t->cap = cap;
    }
    t->plans_us[t->count++] = us;
    return n;
}

static int run_timed(struct timed *t, struct world_options *w, struct error *err)
{
    const struct sched_config config = world_sched_config(w);
    const struct world_policy policy = {.state = t, .apply = timed_apply, .plan = timed_plan};
    struct world_result r;
    size_t bytes = sched_bytes(&config);
    t->memory = bytes > 0 ? aligned_alloc(16, bytes) : NULL;
    if (t->memory == NULL)
        return error_set(err, -ENOMEM, "no memory for a core of this size");
    t->core = sched_init(t->memory, &config);
    w->policy = &policy;
    int n = world_run(w, &r, err);
    if (n == 0 && t->failed < 0)
        n = error_set(err, t->failed, "out of memory");
    return n;
}

int scale_plan_cost(const struct scale_options *o, struct scale_cost *ret, struct error *err)
{
    struct trace trace;
    struct timed t = {0};
    int n = make_trace(o, &trace, err);
    if (n < 0)
        return n;
    struct world_function *f = make_functions(o);
    struct world_options w = options(o, &trace, f);
    n = f == NULL ? error_set(err, -ENOMEM, "out of memory") : run_timed(&t, &w, err);
    if (n == 0) {
        stats_sort(t.plans_us, t.count);
        *ret = (struct scale_cost){.functions = o->functions,
                                   .plans = t.count,
                                   .plan_us_p50 = stats_percentile(t.plans_us, t.count, 50),
                                   .plan_us_p99 = stats_percentile(t.plans_us, t.count, 99),
                                   .plan_us_max = stats_percentile(t.plans_us, t.count, 100),
                                   .event_us_mean = t.event_us / (double)t.events,
                                   .tick_us_mean = t.tick_us / (double)t.ticks,
                                   .tick_share = t.tick_us / (o->hours * 3600e6)};
    }
    free(t.memory);
    free(t.plans_us);
    free(f);
    trace_free(&trace);
    return n;
}
