/*
 * Prometheus text. The names are vLLM's where the meaning is the same, because gateways and
 * dashboards know them; what only this system has begins with sllora_.
 */
#include "daemon/daemon.h"

#include "base/buf.h"

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

static void put_process_metrics(struct buf *b, const struct daemon *d, const struct sched_counts *c)
{
    put_value(b, "gauge", "vllm:num_requests_running", "Requests in workers.", c->requests_running);
    put_value(b, "gauge", "vllm:num_requests_waiting", "Requests that wait.", c->requests_waiting);
    put_value(b, "gauge", "sllora_workers", "Worker processes.", c->workers);
    put_value(b, "gauge", "sllora_workers_idle", "Worker processes without a request.",
              c->workers_idle);
    put_value(b, "gauge", "sllora_memory_bytes", "Device memory given out.", c->memory_bytes);
    put_value(b, "gauge", "sllora_memory_budget_bytes", "Device memory there is to give.",
              d->config.sched.budget_bytes);
    put_value(b, "counter", "sllora_worker_deaths_total", "Workers that ended unasked.",
              d->totals.worker_deaths);
    put_value(b, "counter", "sllora_requests_refused_total", "Requests refused by the scheduler.",
              d->totals.refused);
    put_value(b, "counter", "sllora_clients_gone_total", "Clients that left before the end.",
              d->totals.client_gone);
}

char *metrics_text(void *context)
{
    const struct daemon *d = context;
    struct sched_counts c;
    struct buf b;
    sched_counts(d->sched, &c);
    buf_init(&b, METRICS_BYTES_MAX);
    put_process_metrics(&b, d, &c);
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
