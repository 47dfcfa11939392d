/* See figures.h. */
#include "sim/figures.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>

/* The latencies of what was completed, and means into *f. */
static size_t gather(const struct world_result *r, double *ttft, double *tpot, double *e2e,
                     size_t *ret_tpots, struct figures *f)
{
    size_t count = 0, tpots = 0, cold = 0;
    double cold_ms = 0;
    for (size_t i = 0; i < r->count; i++) {
        const struct world_sample *m = &r->samples[i];
        if (m->outcome != WORLD_COMPLETED)
            continue;
        for (int w = 0; w < WORLD_WAITS; w++)
            f->wait_ms[w] += (double)m->wait_ms[w];
        ttft[count] = (double)m->ttft_ms;
        e2e[count++] = (double)m->e2e_ms;
        if (m->new_tokens > 1)
            tpot[tpots++] = ((double)m->e2e_ms - (double)m->ttft_ms) / (m->new_tokens - 1);
        cold += m->was_cold;
        cold_ms += m->was_cold ? (double)m->ttft_ms : 0;
    }
    *ret_tpots = tpots;
    f->cold_ttft_ms = cold > 0 ? cold_ms / (double)cold : NAN;
    for (int w = 0; w < WORLD_WAITS; w++)
        f->wait_ms[w] = count > 0 ? f->wait_ms[w] / (double)count : NAN;
    return count;
}

#define GB 1e9

/* The table's GB is 2^30 bytes. */
static double memory_usd(double gb_s, double gb_s_usd)
{
    return gb_s * GB / PRICE_GB_BYTES * gb_s_usd;
}

static void put_cost(const struct world_options *o, enum figures_billing billing, struct figures *f)
{
    const struct profile *p = o->profile;
    struct price_table t = price_table_default(p->is_gpu ? PRICE_GPU : PRICE_CPU, p->vcpus);
    f->billed_usd = memory_usd(f->active_gb_s, t.gb_s_active_usd) +
                    memory_usd(f->idle_gb_s, t.gb_s_idle_usd) + f->device_s * t.device_s_usd +
                    (double)f->completed * t.request_usd;
    f->cost_usd = f->billed_usd + memory_usd(f->platform_gb_s, t.gb_s_idle_usd);
    if (billing == FIGURES_ALWAYS_ON)
        f->billed_usd = f->cost_usd = o->devices * f->span_s / 3600 * p->always_on_usd_hour;
    f->cost_usd_per_1k = f->completed > 0 ? f->cost_usd / (double)f->completed * 1e3 : NAN;
}

int figures_of(const struct world_options *o, const struct world_result *r,
               enum figures_billing billing, struct figures *ret)
{
    const struct world_totals *s = &r->totals;
    size_t tpots;
    double *values = malloc((3 * r->count + 1) * sizeof *values);
    if (values == NULL)
        return -ENOMEM;
    double *ttft = values, *tpot = values + r->count, *e2e = values + 2 * r->count;
    struct figures f = {.requests = s->requests,
                        .completed = s->completed,
                        .refused = s->refused,
                        .failed = s->failed,
                        .cold = s->cold,
                        .gb_s = (s->active_byte_s + s->idle_byte_s) / GB,
                        .active_gb_s = s->active_byte_s / GB,
                        .idle_gb_s = s->idle_byte_s / GB,
                        .platform_gb_s = s->platform_byte_s / GB,
                        .host_gb_s = s->host_byte_s / GB,
                        .device_s = s->device_s,
                        .batch_mean = s->batch_mean,
                        .batch_peak = s->batch_peak,
                        .span_s = s->span_s,
                        .events = s->events,
                        .devices = billing == FIGURES_ALWAYS_ON ? o->devices : 0};
    size_t count = gather(r, ttft, tpot, e2e, &tpots, &f);
    f.ttft_ms = stats_summarise(ttft, count);
    f.tpot_ms = stats_summarise(tpot, tpots);
    f.e2e_ms = stats_summarise(e2e, count);
    free(values);
    f.slo_attainment = s->requests > 0 ? (double)s->met / (double)s->requests : NAN;
    put_cost(o, billing, &f);
    f.ce = count > 0 ? 1 / (f.e2e_ms.mean / 1e3 * f.cost_usd) : NAN;
    f.tok_s = f.span_s > 0 ? (double)s->tokens_new / f.span_s : NAN;
    f.req_s = f.span_s > 0 ? (double)f.completed / f.span_s : NAN;
    *ret = f;
    return 0;
}

/* Every double of the struct, and every count. */
#define WAIT(w) (offsetof(struct figures, wait_ms) + (w) * sizeof(double))
static const size_t doubles[] = {
    offsetof(struct figures, ttft_ms.mean),
    offsetof(struct figures, ttft_ms.p50),
    offsetof(struct figures, ttft_ms.p95),
    offsetof(struct figures, ttft_ms.p99),
    offsetof(struct figures, ttft_ms.max),
    offsetof(struct figures, tpot_ms.mean),
    offsetof(struct figures, tpot_ms.p50),
    offsetof(struct figures, tpot_ms.p95),
    offsetof(struct figures, tpot_ms.p99),
    offsetof(struct figures, tpot_ms.max),
    offsetof(struct figures, e2e_ms.mean),
    offsetof(struct figures, e2e_ms.p50),
    offsetof(struct figures, e2e_ms.p95),
    offsetof(struct figures, e2e_ms.p99),
    offsetof(struct figures, e2e_ms.max),
    offsetof(struct figures, cold_ttft_ms),
    offsetof(struct figures, slo_attainment),
    offsetof(struct figures, gb_s),
    offsetof(struct figures, idle_gb_s),
    offsetof(struct figures, platform_gb_s),
    offsetof(struct figures, device_s),
    offsetof(struct figures, cost_usd),
    offsetof(struct figures, cost_usd_per_1k),
    offsetof(struct figures, ce),
    offsetof(struct figures, tok_s),
    offsetof(struct figures, req_s),
    offsetof(struct figures, batch_mean),
    offsetof(struct figures, span_s),
    offsetof(struct figures, active_gb_s),
    offsetof(struct figures, host_gb_s),
    offsetof(struct figures, billed_usd),
    WAIT(WORLD_WAIT_LOAD),
    WAIT(WORLD_WAIT_START),
    WAIT(WORLD_WAIT_BIND),
    WAIT(WORLD_WAIT_QUEUE),
};
static const size_t counts[] = {
    offsetof(struct figures, requests), offsetof(struct figures, completed),
    offsetof(struct figures, refused),  offsetof(struct figures, failed),
    offsetof(struct figures, cold),     offsetof(struct figures, batch_peak),
    offsetof(struct figures, events),
};

static const void *field(const struct figures *f, size_t offset)
{
    return (const uint8_t *)f + offset;
}

struct figures figures_mean(const struct figures *all, size_t count)
{
    struct figures mean = all[0];
    for (size_t d = 0; d < sizeof doubles / sizeof doubles[0]; d++) {
        double sum = 0;
        size_t known = 0;
        for (size_t i = 0; i < count; i++) {
            double v = *(const double *)field(&all[i], doubles[d]);
            sum += isfinite(v) ? v : 0;
            known += isfinite(v);
        }
        *(double *)(void *)((uint8_t *)&mean + doubles[d]) = known > 0 ? sum / (double)known : NAN;
    }
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        uint64_t sum = 0;
        for (size_t i = 0; i < count; i++)
            sum += *(const uint64_t *)field(&all[i], counts[c]);
        *(uint64_t *)(void *)((uint8_t *)&mean + counts[c]) = (sum + count / 2) / count;
    }
    return mean;
}

/* What no sample decides is null, not a number. */
static json_t *number(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

static void put_summary(json_t *o, const char *name, const struct stats_summary *s)
{
    const struct {
        const char *suffix;
        double value;
    } parts[] = {{"mean", s->mean}, {"p50", s->p50}, {"p95", s->p95}, {"p99", s->p99}};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        char key[32];
        snprintf(key, sizeof key, "%s_ms_%s", name, parts[i].suffix);
        json_object_set_new(o, key, number(parts[i].value));
    }
}

json_t *figures_json(const struct figures *f)
{
    const struct {
        const char *key;
        double value;
    } numbers[] = {
        {"slo_attainment", f->slo_attainment},
        {"slo_miss", 1 - f->slo_attainment},
        {"gb_s", f->gb_s},
        {"active_gb_s", f->active_gb_s},
        {"idle_gb_s", f->idle_gb_s},
        {"platform_gb_s", f->platform_gb_s},
        {"host_gb_s", f->host_gb_s},
        {"cold_ttft_ms", f->cold_ttft_ms},
        {"wait_load_ms", f->wait_ms[WORLD_WAIT_LOAD]},
        {"wait_start_ms", f->wait_ms[WORLD_WAIT_START]},
        {"wait_bind_ms", f->wait_ms[WORLD_WAIT_BIND]},
        {"wait_queue_ms", f->wait_ms[WORLD_WAIT_QUEUE]},
        {"device_s", f->device_s},
        {"billed_usd", f->billed_usd},
        {"cost_usd", f->cost_usd},
        {"cost_usd_per_1k", f->cost_usd_per_1k},
        {"ce", f->ce},
        {"tok_s", f->tok_s},
        {"req_s", f->req_s},
        {"batch_mean", f->batch_mean},
        {"span_s", f->span_s},
    };
    json_t *o =
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:i}", "requests", (json_int_t)f->requests,
                  "completed", (json_int_t)f->completed, "refused", (json_int_t)f->refused,
                  "failed", (json_int_t)f->failed, "cold", (json_int_t)f->cold, "batch_peak",
                  (json_int_t)f->batch_peak, "always_on_devices", (int)f->devices);
    if (o == NULL)
        return NULL;
    put_summary(o, "ttft", &f->ttft_ms);
    put_summary(o, "tpot", &f->tpot_ms);
    put_summary(o, "e2e", &f->e2e_ms);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        json_object_set_new(o, numbers[i].key, number(numbers[i].value));
    return o;
}
