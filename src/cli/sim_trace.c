/*
 * `sllora sim --trace` and `--capacity`: any requests on any profile, by this system or another. A
 * live run's figures and these have the same names (sim/figures.h), and the same trace options give
 * the same requests as in `sllora replay`.
 */
#include "cli/load_trace.h"
#include "cli/sim.h"
#include "sim/capacity.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define FUNCTIONS_GENERATED 8u

static int make_trace(const struct sim_arguments *a, struct trace *ret, struct error *err)
{
    const struct load_trace l = {.path = a->trace,
                                 .class = a->class,
                                 .format = TRACE_FORMAT_ANY,
                                 .spread =
                                     a->zipf > 0 ? TRACE_SPREAD_ZIPF : TRACE_SPREAD_ROUND_ROBIN,
                                 .rate = a->rate,
                                 .cov = a->cov,
                                 .duration_s = a->duration_s,
                                 .speed = a->speed,
                                 .skip_s = a->skip_s,
                                 .zipf = a->zipf,
                                 .seed = a->seed};
    uint32_t functions = a->class != TRACE_UNKNOWN ? FUNCTIONS_GENERATED : 1;
    int r = load_trace_make(&l, a->functions > 0 ? a->functions : functions, ret, err);
    for (size_t i = 0; r == 0 && i < ret->count; i++) {
        struct trace_request *q = &ret->requests[i];
        /* A file's functions in turns, where there are fewer here. */
        q->function %= a->functions > 0 ? a->functions : UINT32_MAX;
        q->prompt_tokens = a->prompt_tokens > 0 ? a->prompt_tokens : q->prompt_tokens;
        q->new_tokens = a->new_tokens > 0 ? a->new_tokens : q->new_tokens;
    }
    if (r == 0 && a->functions > 0)
        ret->functions = a->functions;
    return r;
}

static struct world_function *make_functions(const struct sim_arguments *a, const struct profile *p,
                                             uint32_t count)
{
    struct world_function *f = calloc(count + 1, sizeof *f);
    for (uint32_t i = 0; f != NULL && i < count; i++)
        f[i] = (struct world_function){
            .backbone = i % p->backbone_count,
            .adapter_bytes = a->adapter_bytes > 0 ? a->adapter_bytes : p->adapter_bytes,
            .slo_ttft_us = (uint64_t)((a->slo_ttft_ms > 0 ? a->slo_ttft_ms : 2500) * 1e3),
            .slo_tpot_us = (uint64_t)(a->slo_tpot_ms * 1e3),
            .is_refused_late = a->refuses_late};
    return f;
}

/* All that a run needs, and who gives it back. */
struct setting {
    struct profile profile;
    struct trace trace;
    struct world_function *functions;
    const struct system *system;
    struct system_options options;
};

static void setting_free(struct setting *s)
{
    free(s->functions);
    trace_free(&s->trace);
}

static int setting_make(const struct sim_arguments *a, struct setting *ret, struct error *err)
{
    struct setting s = {.system = system_find(a->system_name != NULL ? a->system_name : "sllora")};
    if (s.system == NULL)
        return error_set(err, -EINVAL, "there is no system \"%s\"; --help lists them",
                         a->system_name);
    int r = sim_profile(a, &s.profile, err);
    if (r == 0)
        r = make_trace(a, &s.trace, err);
    if (r < 0)
        return r;
    s.functions = make_functions(a, &s.profile, s.trace.functions);
    if (s.functions == NULL) {
        trace_free(&s.trace);
        return error_set(err, -ENOMEM, "out of memory");
    }
    s.options =
        (struct system_options){.function_count = s.trace.functions,
                                .devices = a->devices > 0 ? a->devices : s.profile.node_devices,
                                .device_bytes = a->memory_bytes,
                                .kv_bytes = a->kv_bytes,
                                .owners = a->owners,
                                .isolation = a->isolation,
                                .without = a->without,
                                .batch_adaptive = a->batch_adaptive,
                                .batch_fixed = a->batch_fixed,
                                .keep_alive_us = a->keep_alive_us,
                                .price_bytes = a->price_bytes,
                                .faults = {.seed = a->seed,
                                           .worker_loss_s = a->worker_loss_s,
                                           .load_failures = a->load_failures},
                                .checks = a->checks};
    *ret = s;
    ret->options.profile = &ret->profile;
    ret->options.trace = &ret->trace;
    ret->options.functions = ret->functions;
    return 0;
}

static void put_setting(const struct setting *s, uint32_t devices, json_t *o)
{
    json_t *more =
        json_pack("{s:s, s:s, s:s, s:s, s:i, s:i}", "trace", s->trace.name, "class",
                  trace_class_name(trace_classify(&s->trace)), "profile", s->profile.name, "system",
                  s->system->name, "devices", (int)devices, "functions", (int)s->trace.functions);
    json_object_update(o, more);
    json_decref(more);
}

static void show(const struct sim_arguments *a, const struct setting *s, uint32_t devices,
                 const struct figures *f)
{
    if (a->common.json) {
        json_t *o = figures_json(f);
        if (o != NULL) {
            put_setting(s, devices, o);
            cli_print_json(o);
        }
        json_decref(o);
        return;
    }
    const struct {
        const char *name;
        const struct stats_summary *s;
    } rows[] = {{"TTFT", &f->ttft_ms}, {"TPOT", &f->tpot_ms}, {"E2E", &f->e2e_ms}};
    printf("%s on %u devices of %s: %llu requests, %llu completed, %llu refused, %llu failed\n",
           s->system->title, devices, s->profile.name, (unsigned long long)f->requests,
           (unsigned long long)f->completed, (unsigned long long)f->refused,
           (unsigned long long)f->failed);
    for (size_t i = 0; i < 3 && f->completed > 0; i++)
        printf("%-5s mean %.1f ms, p50 %.1f, p95 %.1f, p99 %.1f\n", rows[i].name, rows[i].s->mean,
               rows[i].s->p50, rows[i].s->p95, rows[i].s->p99);
    printf("%.2f %% within the objective, %.1f %% waited for a start\n"
           "%.4g GB s active, %.4g kept for functions, %.4g for nobody; %.4g s of device time\n"
           "%.4g USD (%.4g billed to owners)\n",
           100 * f->slo_attainment,
           f->completed > 0 ? 100.0 * (double)f->cold / (double)f->completed : 0, f->active_gb_s,
           f->idle_gb_s, f->platform_gb_s, f->device_s, f->cost_usd, f->billed_usd);
    if (f->completed > 0)
        printf("%.4g USD for 1000 requests; %.4g tokens a second\n", f->cost_usd_per_1k, f->tok_s);
}

int sim_trace(const struct sim_arguments *a, struct error *err)
{
    struct setting s;
    struct figures f;
    int r = setting_make(a, &s, err);
    if (r < 0)
        return r;
    r = system_run(s.system, &s.options, &f, err);
    if (r == 0)
        show(a, &s, f.devices > 0 ? f.devices : s.options.devices, &f);
    setting_free(&s);
    return r;
}

int sim_capacity(const struct sim_arguments *a, struct error *err)
{
    struct setting s;
    struct capacity_point points[SIM_CAPACITY_MAX];
    int r = sim_report_dir(a, err);
    if (r == 0)
        r = setting_make(a, &s, err);
    if (r < 0)
        return r;
    r = capacity_run(s.system, &s.options, a->capacity, a->capacity_count, points, err);
    for (size_t i = 0; i < a->capacity_count && r == 0; i++)
        show(a, &s, points[i].devices, &points[i].figures);
    if (r == 0 && a->report != NULL) {
        char what[256];
        snprintf(what, sizeof what, "%zu requests of %u functions (%s) on %s", s.trace.count,
                 s.trace.functions, s.trace.name, s.profile.name);
        r = capacity_page(a->report, s.system, what, points, a->capacity_count, err);
    }
    setting_free(&s);
    return r;
}
