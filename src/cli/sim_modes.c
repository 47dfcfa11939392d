/* `sllora sim --paper`, `--scale` and `--plan-cost`: see sim/paper.h and sim/scale.h. */
#include "cli/sim.h"
#include "sim/paper.h"
#include "sim/scale.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int sim_profile(const struct sim_arguments *a, struct profile *ret, struct error *err)
{
    return profile_read(ret, a->profile_name != NULL ? a->profile_name : profile_shipped(0), err);
}

int sim_report_dir(const struct sim_arguments *a, struct error *err)
{
    if (a->report == NULL)
        return 0;
    if ((mkdir(a->report, 0777) < 0 && errno != EEXIST) || access(a->report, W_OK | X_OK) < 0)
        return error_set(err, -errno, "cannot write into %s: %s", a->report, strerror(errno));
    struct stat st;
    if (stat(a->report, &st) == 0 && !S_ISDIR(st.st_mode))
        return error_set(err, -ENOTDIR, "%s is no directory", a->report);
    return 0;
}

/* --- the paper --- */

static double number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static const char *word(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

static void show_line(void *context, const json_t *object)
{
    const struct sim_arguments *a = context;
    if (a->common.json) {
        cli_print_json(object);
        return;
    }
    printf("%-9s%-15s%-12s%-12s%5.4g/s %2.0f GPUs", word(object, "part"), word(object, "system"),
           word(object, "class"), word(object, "ablation"), number(object, "requests_per_s"),
           number(object, "devices"));
    printf("  TTFT %7.0f ms  E2E %7.0f ms  missed %5.1f %%  %6.2f USD per 1000\n",
           number(object, "ttft_ms_mean"), number(object, "e2e_ms_mean"),
           100 * number(object, "slo_miss"), number(object, "cost_usd_per_1k"));
}

int sim_paper(const struct sim_arguments *a, struct error *err)
{
    struct profile p;
    struct paper_options o;
    int r = sim_report_dir(a, err);
    if (r == 0)
        r = sim_profile(a, &p, err);
    if (r < 0)
        return r;
    paper_default(&o, &p);
    if (a->has_seed)
        o.seed = a->seed;
    if (a->traces > 0)
        o.traces = a->traces;
    if (a->hours > 0)
        o.hours = a->hours;
    o.report_dir = a->report;
    o.line = show_line;
    o.context = (void *)(uintptr_t)a;
    r = paper_run(&o, err);
    if (r == 0 && a->report != NULL && !a->common.json)
        printf("%s/report.html\n", a->report);
    return r;
}

/* --- scale --- */

/* A mean of nothing is null. */
static json_t *mean(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

static int scale_options(const struct sim_arguments *a, struct profile *p,
                         struct scale_options *ret, struct error *err)
{
    int r = sim_profile(a, p, err);
    if (r < 0)
        return r;
    scale_default(ret, p);
    if (a->devices > 0)
        ret->devices = a->devices;
    if (a->functions > 0)
        ret->functions = a->functions;
    if (a->hours > 0)
        ret->hours = a->hours;
    if (a->rate > 0)
        ret->requests_per_s = a->rate;
    if (a->has_seed)
        ret->seed = a->seed;
    return 0;
}

int sim_scale(const struct sim_arguments *a, struct error *err)
{
    struct profile p;
    struct scale_options o;
    struct scale_result s;
    int r = scale_options(a, &p, &o, err);
    if (r == 0)
        r = scale_run(&o, &s, err);
    if (r < 0)
        return r;
    double wall_s = s.trace_s + s.run_s, events_s = (double)s.totals.events / s.run_s;
    double met = (double)s.totals.met / (double)s.totals.requests;
    double ttft_ms = s.totals.ttft_ms_sum / (double)s.totals.completed;
    if (a->common.json) {
        json_t *j = json_pack(
            "{s:i, s:i, s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:o, s:o}", "devices",
            (int)o.devices, "functions", (int)o.functions, "hours", o.hours, "requests",
            (json_int_t)s.totals.requests, "completed", (json_int_t)s.totals.completed, "refused",
            (json_int_t)s.totals.refused, "failed", (json_int_t)s.totals.failed, "events",
            (json_int_t)s.totals.events, "actions", (json_int_t)s.totals.actions, "wall_s", wall_s,
            "trace_s", s.trace_s, "events_per_s", events_s, "slo_attainment", mean(met),
            "ttft_ms_mean", mean(ttft_ms));
        cli_print_json(j);
        json_decref(j);
    } else {
        printf("%u GPUs, %u functions, %g hours: %llu requests, %llu events, %llu actions\n"
               "%.1f s on one core, %.1f of them for the trace; %.0f events a second\n"
               "%.2f %% of first tokens in time, %.0f ms on average; %llu requests refused, %llu "
               "failed\n",
               o.devices, o.functions, o.hours, (unsigned long long)s.totals.requests,
               (unsigned long long)s.totals.events, (unsigned long long)s.totals.actions, wall_s,
               s.trace_s, events_s, 100 * met, ttft_ms, (unsigned long long)s.totals.refused,
               (unsigned long long)s.totals.failed);
    }
    return 0;
}

/* One GPU server's worth of devices, more and more functions. */
int sim_plan_cost(const struct sim_arguments *a, struct error *err)
{
    static const uint32_t functions[] = {8, 100, 1000, 10000, 100000};
    struct profile p;
    struct scale_options o;
    int r = scale_options(a, &p, &o, err);
    o.devices = a->devices > 0 ? a->devices : 16;
    o.hours = a->hours > 0 ? a->hours : 1;
    o.requests_per_s = a->rate > 0 ? a->rate : 2;
    for (size_t i = 0; i < sizeof functions / sizeof functions[0] && r == 0; i++) {
        struct scale_cost c;
        o.functions = functions[i];
        r = scale_plan_cost(&o, &c, err);
        if (r < 0)
            break;
        if (a->common.json) {
            json_t *j =
                json_pack("{s:i, s:i, s:I, s:f, s:f, s:f, s:o, s:o, s:f}", "functions",
                          (int)c.functions, "devices", (int)o.devices, "plans", (json_int_t)c.plans,
                          "plan_us_p50", c.plan_us_p50, "plan_us_p99", c.plan_us_p99, "plan_us_max",
                          c.plan_us_max, "event_us_mean", mean(c.event_us_mean), "tick_us_mean",
                          mean(c.tick_us_mean), "tick_share", c.tick_share);
            cli_print_json(j);
            json_decref(j);
        } else {
            printf(
                "%6u functions, %u GPUs: a plan %.2f us (p50), %.1f (p99), %.0f (most); an event "
                "with its plans %.2f us; memory planned in %.0f us, %.3f %% of the time\n",
                c.functions, o.devices, c.plan_us_p50, c.plan_us_p99, c.plan_us_max,
                c.event_us_mean, c.tick_us_mean, 100 * c.tick_share);
        }
    }
    return r;
}
