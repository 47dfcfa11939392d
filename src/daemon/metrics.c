/*
 * Prometheus text. The names are vLLM's where the meaning is the same, because gateways and
 * dashboards know them; what only this system has begins with sllora_.
 */
#include "daemon/daemon.h"

#include "base/buf.h"
#include "base/clock.h"

#include <stdlib.h>

#define METRICS_BYTES_MAX (32u << 20)

/* Seconds; vLLM's buckets for the time to the first token. */
static const double bounds_s[HISTOGRAM_BUCKETS] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,
                                                   0.25,  0.5,   0.75, 1,    2.5,  5,    7.5,  10,
                                                   20,    40,    80,   160,  640,  2560};

void histogram_add(struct histogram *h, uint64_t us)
{
    double s = (double)us / 1e6;
    uint32_t i = 0;
    while (i < HISTOGRAM_BUCKETS && s > bounds_s[i])
        i++;
    h->counts[i]++;
    h->sum_s += s;
}

bool histogram_quantile_s(const struct histogram *h, double share, double *ret)
{
    uint64_t count = 0, below = 0;
    for (uint32_t i = 0; i <= HISTOGRAM_BUCKETS; i++)
        count += h->counts[i];
    for (uint32_t i = 0; i <= HISTOGRAM_BUCKETS && count > 0; i++) {
        below += h->counts[i];
        *ret = bounds_s[i < HISTOGRAM_BUCKETS ? i : HISTOGRAM_BUCKETS - 1];
        if ((double)below >= share * (double)count)
            break;
    }
    return count > 0;
}

static void put_histogram(struct buf *b, const char *name, const char *help,
                          const struct histogram *h)
{
    uint64_t count = 0;
    buf_printf(b, "# HELP %s %s\n# TYPE %s histogram\n", name, help, name);
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        count += h->counts[i];
        buf_printf(b, "%s_bucket{le=\"%g\"} %llu\n", name, bounds_s[i], (unsigned long long)count);
    }
    count += h->counts[HISTOGRAM_BUCKETS];
    buf_printf(b, "%s_bucket{le=\"+Inf\"} %llu\n%s_sum %.6f\n%s_count %llu\n", name,
               (unsigned long long)count, name, h->sum_s, name, (unsigned long long)count);
}

static void put_value(struct buf *b, const char *type, const char *name, const char *help,
                      uint64_t value)
{
    buf_printf(b, "# HELP %s %s\n# TYPE %s %s\n%s %llu\n", name, help, name, type, name,
               (unsigned long long)value);
}

struct function_metric {
    const char *name;
    const char *help;
    size_t offset; /* of a uint64_t in struct function_entry */
};

/* A name alone would mix what two generations did. An older one is shown until it has finished. */
static void put_function(struct buf *b, const struct function_metric *m,
                         const struct function_entry *f)
{
    char backbone[DIGEST_HEX_BYTES], adapter[DIGEST_HEX_BYTES] = "";
    const void *value = (const char *)f + m->offset;
    digest_hex(&f->f.backbone, backbone);
    if (f->f.has_adapter)
        digest_hex(&f->f.adapter, adapter);
    buf_printf(b,
               "%s{model_name=\"%s\",owner=\"%s\",generation=\"%llu\",backbone=\"%s\","
               "adapter=\"%s\"} %llu\n",
               m->name, f->f.name, f->f.owner, (unsigned long long)f->f.generation, backbone,
               adapter, *(const unsigned long long *)value);
}

static void put_functions(struct buf *b, const struct daemon *d)
{
    static const struct function_metric metrics[] = {
        {"vllm:prompt_tokens_total", "Prompt tokens.",
         offsetof(struct function_entry, tokens_prompt)},
        {"vllm:prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.",
         offsetof(struct function_entry, tokens_queried)},
        {"vllm:prefix_cache_hits_total", "Prompt tokens found there, so not computed.",
         offsetof(struct function_entry, tokens_cached)},
        {"vllm:generation_tokens_total", "Tokens generated.",
         offsetof(struct function_entry, tokens_new)},
        {"sllora_requests_total", "Requests that arrived.",
         offsetof(struct function_entry, requests)},
        {"sllora_request_failures_total", "Requests answered with an error.",
         offsetof(struct function_entry, failures)},
        {"sllora_cold_starts_total", "Requests that waited for a process.",
         offsetof(struct function_entry, cold_starts)},
        {"sllora_device_microseconds_total", "Time in engine steps.",
         offsetof(struct function_entry, device_us)},
    };
    for (size_t m = 0; m < sizeof metrics / sizeof metrics[0]; m++) {
        buf_printf(b, "# HELP %s %s\n# TYPE %s counter\n", metrics[m].name, metrics[m].help,
                   metrics[m].name);
        for (uint32_t i = 0; i < d->config.sched.functions_max; i++) {
            const struct function_entry *f = &d->functions[i];
            if (f->used)
                put_function(b, &metrics[m], f);
        }
    }
}

static void put_refusals(struct buf *b, const struct daemon *d)
{
    static const char name[] = "sllora_requests_refused_by_reason_total";
    buf_printf(b, "# HELP %s Requests refused or lost, by reason.\n# TYPE %s counter\n", name,
               name);
    for (uint32_t i = 1; i < SCHED_REASON_COUNT; i++)
        buf_printf(b, "%s{reason=\"%s\"} %llu\n", name, sched_reason_name(i),
                   (unsigned long long)d->totals.refused_by[i]);
}

static void put_number(struct buf *b, const char *name, const char *help, double value)
{
    buf_printf(b, "# HELP %s %s\n# TYPE %s counter\n%s %.9g\n", name, help, name, name, value);
}

/* What is paid for. */
static void put_usage(struct buf *b, const struct daemon *d)
{
    struct sched_device_view v;
    sched_device_view(d->sched, clock_now_us(), 0, &v);
    put_number(b, "sllora_device_seconds_total", "Time in engine steps.",
               (double)v.device_us / 1e6);
    put_number(b, "sllora_memory_byte_seconds_total", "Device memory held.", v.byte_s);
    put_number(b, "sllora_memory_active_byte_seconds_total", "Of it while requests ran.",
               d->totals.receipts_byte_s);
    put_number(b, "sllora_memory_idle_byte_seconds_total", "Of it kept for functions at rest.",
               d->totals.idle_byte_s);
    put_number(b, "sllora_memory_platform_byte_seconds_total", "Of it for nobody.",
               v.platform_byte_s);
    put_number(b, "sllora_cost_usd_total", "What was billed.",
               (double)d->totals.cost_nano_usd / 1e9);
}

static void put_process_metrics(struct buf *b, const struct daemon *d, const struct sched_counts *c)
{
    put_value(b, "gauge", "vllm:num_requests_running", "Requests in workers.", c->requests_running);
    put_value(b, "gauge", "vllm:num_requests_waiting", "Requests that wait.", c->requests_waiting);
    put_value(b, "gauge", "sllora_workers", "Worker processes.", c->workers);
    put_value(b, "gauge", "sllora_workers_idle", "Worker processes without a request.",
              c->workers_idle);
    put_value(b, "gauge", "sllora_memory_bytes", "Device memory given out.", c->memory_bytes);
    put_value(b, "gauge", "sllora_memory_budget_bytes", "Device memory there is to give.",
              device_budget_bytes(d));
    put_value(b, "gauge", "sllora_workers_spare", "Worker processes without a domain.", c->spares);
    put_value(b, "counter", "sllora_objectives_met_total", "First tokens in time.", c->met);
    put_value(b, "counter", "sllora_objectives_missed_total", "First tokens too late.", c->missed);
    put_value(b, "counter", "sllora_worker_deaths_total", "Workers that ended unasked.",
              d->totals.worker_deaths);
    put_value(b, "counter", "sllora_requests_refused_total", "Requests refused by the scheduler.",
              d->totals.refused);
    put_value(b, "counter", "sllora_clients_gone_total", "Clients that left before the end.",
              d->totals.client_gone);
}

/* What computes, and with a GPU the memory below it. */
static void put_device(struct buf *b, const struct daemon *d)
{
    static const char name[] = "sllora_device_info";
    struct place_bytes host;
    char device[PLACE_NAME_BYTES];
    buf_printf(b, "# HELP %s What computes.\n# TYPE %s gauge\n%s{device=\"%s\",model=\"%s\"} 1\n",
               name, name, name, place_name(d, 0, device), d->config.has_gpu ? d->gpu.name : "");
    if (!d->config.has_gpu)
        return;
    place_look(d, host_place(d), &host);
    put_value(b, "gauge", "sllora_host_memory_bytes", "Memory below the GPU's given out.",
              host.used);
    put_value(b, "gauge", "sllora_host_memory_budget_bytes", "Memory below the GPU's to give.",
              host.budget);
}

char *metrics_text(void *context)
{
    const struct daemon *d = context;
    struct sched_counts c;
    struct buf b;
    sched_counts(d->sched, &c);
    buf_init(&b, METRICS_BYTES_MAX);
    put_process_metrics(&b, d, &c);
    put_device(&b, d);
    put_refusals(&b, d);
    put_usage(&b, d);
    buf_printf(&b,
               "# HELP vllm:request_success_total Choices of requests that ended.\n"
               "# TYPE vllm:request_success_total counter\n"
               "vllm:request_success_total{finished_reason=\"stop\"} %llu\n"
               "vllm:request_success_total{finished_reason=\"length\"} %llu\n",
               (unsigned long long)d->totals.finished_stop,
               (unsigned long long)d->totals.finished_length);
    put_histogram(&b, "vllm:time_to_first_token_seconds", "From arrival to the first token.",
                  &d->totals.ttft);
    put_histogram(&b, "vllm:e2e_request_latency_seconds", "From arrival to the last token.",
                  &d->totals.e2e);
    put_functions(&b, d);
    return b.data;
}
