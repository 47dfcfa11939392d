/* Making a core, looking at it, checking it. See sched.h; apply.c and plan.c do the work. */
#include "policy/offload.h"
#include "sched/state.h"

#include <assert.h>
#include <string.h>

static size_t aligned(size_t n)
{
    return (n + 15) & ~(size_t)15;
}

static uint32_t bucket_count(const struct sched_config *c)
{
    uint32_t n = 16;
    while (n < 2 * c->requests_max)
        n *= 2;
    return n;
}

static bool config_in_range(const struct sched_config *c)
{
    return c->functions_max > 0 && c->functions_max <= 1u << 20 && c->backbones_max > 0 &&
           c->backbones_max <= 1u << 16 && c->workers_max > 0 && c->workers_max <= 1u << 16 &&
           c->requests_max > 0 && c->requests_max <= 1u << 20 && c->function_waiting_max > 0 &&
           c->worker_running_max > 0 && c->worker_slots_max > 0 &&
           c->worker_slots_max <= SCHED_SLOTS_MAX && c->spawn_attempts_max > 0 && c->turn_us > 0 &&
           c->worker_bytes <= c->budget_bytes;
}

/* Where each table stands, and the total. */
struct layout {
    size_t functions, domains, backbones, workers, requests, buckets, wants, candidates, total;
};

static struct layout layout_of(const struct sched_config *c)
{
    struct layout l;
    uint32_t candidates = c->workers_max > c->backbones_max ? c->workers_max : c->backbones_max;
    size_t at = aligned(sizeof(struct sched));
    l.functions = at;
    at += aligned(c->functions_max * sizeof(struct function));
    l.domains = at;
    at += aligned(c->functions_max * sizeof(struct domain));
    l.backbones = at;
    at += aligned(c->backbones_max * sizeof(struct backbone_entry));
    l.workers = at;
    at += aligned(c->workers_max * sizeof(struct worker));
    l.requests = at; /* as many refused ones as live ones between two plans */
    at += aligned((size_t)2 * c->requests_max * sizeof(struct request));
    l.buckets = at;
    at += aligned(bucket_count(c) * sizeof(uint32_t));
    l.wants = at;
    at += aligned(c->workers_max * sizeof(bool));
    l.candidates = at;
    at += aligned(candidates * sizeof(struct offload_candidate));
    l.total = at;
    return l;
}

size_t sched_bytes(const struct sched_config *config)
{
    return config_in_range(config) ? layout_of(config).total : 0;
}

struct sched *sched_init(void *memory, const struct sched_config *config)
{
    assert(config_in_range(config));
    const struct layout l = layout_of(config);
    uint8_t *base = memory;
    memset(base, 0, l.total);
    struct sched *s = memory;
    s->config = *config;
    s->functions = (void *)(base + l.functions);
    s->domains = (void *)(base + l.domains);
    s->backbones = (void *)(base + l.backbones);
    s->workers = (void *)(base + l.workers);
    s->requests = (void *)(base + l.requests);
    s->buckets = (void *)(base + l.buckets);
    s->wants = (void *)(base + l.wants);
    s->candidates = (void *)(base + l.candidates);
    s->request_entries = 2 * config->requests_max;
    s->bucket_count = bucket_count(config);
    for (uint32_t i = 0; i < s->bucket_count; i++)
        s->buckets[i] = SCHED_NONE;
    for (uint32_t i = 0; i < s->request_entries; i++)
        s->requests[i].next = i + 1 < s->request_entries ? i + 1 : SCHED_NONE;
    s->refused = (struct request_list){SCHED_NONE, SCHED_NONE, 0};
    s->hungry_head = SCHED_NONE;
    s->hungry_tail = SCHED_NONE;
    s->turn_worker = SCHED_NONE;
    s->turn_last = config->workers_max - 1;
    s->armed_us = UINT64_MAX;
    return s;
}

void sched_counts(const struct sched *s, struct sched_counts *ret)
{
    struct sched_counts c = {.memory_bytes = s->memory_bytes, .turn_worker = s->turn_worker};
    for (uint32_t i = 0; i < s->config.workers_max; i++) {
        const struct worker *w = &s->workers[i];
        if (w->state == WORKER_FREE)
            continue;
        c.workers++;
        c.workers_idle += w->state == WORKER_READY && w->running.count == 0;
        c.requests_running += w->running.count;
    }
    c.requests_waiting = s->live - c.requests_running;
    c.tokens_prompt = s->tokens_prompt;
    c.tokens_new = s->tokens_new;
    *ret = c;
}

void sched_function_view(const struct sched *s, uint32_t function, struct sched_function_view *ret)
{
    assert(function < s->config.functions_max);
    const struct function *f = &s->functions[function];
    struct sched_function_view v = {
        .state = SCHED_COLD, .waiting = f->waiting, .running = f->running, .worker = SCHED_NONE};
    if (f->used) {
        v.worker = s->domains[f->domain].worker;
        if (v.running > 0)
            v.state = SCHED_ACTIVE;
        else if (v.worker != SCHED_NONE)
            v.state = s->workers[v.worker].state == WORKER_STARTING ? SCHED_STARTING : SCHED_WARM;
    }
    *ret = v;
}

static void check_requests(const struct sched *s)
{
    uint32_t waiting = 0;
    uint32_t running = 0;
    uint32_t cancels = 0;
    for (uint32_t i = s->hungry_head; i != SCHED_NONE; i = s->domains[i].hungry_next) {
        assert(s->domains[i].used);
        assert(s->domains[i].waiting.count > 0);
        uint32_t count = 0;
        uint32_t last = SCHED_NONE;
        for (uint32_t r = s->domains[i].waiting.head; r != SCHED_NONE; r = s->requests[r].next) {
            assert(s->requests[r].state == REQUEST_WAITING);
            assert(s->functions[s->requests[r].function].domain == i);
            assert(last == SCHED_NONE || s->requests[last].arrived_us <= s->requests[r].arrived_us);
            last = r;
            count++;
        }
        assert(count == s->domains[i].waiting.count);
        waiting += count;
    }
    for (uint32_t w = 0; w < s->config.workers_max; w++) {
        if (s->workers[w].state == WORKER_FREE)
            continue;
        uint32_t count = 0;
        for (uint32_t r = s->workers[w].running.head; r != SCHED_NONE; r = s->requests[r].next) {
            assert(s->requests[r].state == REQUEST_RUNNING);
            assert(s->requests[r].worker == w);
            assert(s->functions[s->requests[r].function].domain == s->workers[w].domain);
            cancels += s->requests[r].cancel_due;
            count++;
        }
        assert(count == s->workers[w].running.count);
        assert(count <= s->config.worker_running_max);
        running += count;
    }
    assert(waiting + running == s->live);
    assert(s->live <= s->config.requests_max);
    assert(cancels == s->cancels_due);
}

static void check_memory(const struct sched *s)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < s->config.workers_max; i++) {
        const struct worker *w = &s->workers[i];
        if (w->state == WORKER_FREE)
            continue;
        bytes += s->config.worker_bytes;
        if (w->state != WORKER_ENDING) {
            assert(s->domains[w->domain].used);
            assert(s->domains[w->domain].worker == i);
            assert(s->domains[w->domain].key.backbone == w->backbone);
        }
    }
    for (uint32_t i = 0; i < s->config.backbones_max; i++)
        bytes += s->backbones[i].state == BACKBONE_COLD ? 0 : s->backbones[i].bytes;
    assert(bytes == s->memory_bytes);
    assert(bytes <= s->config.budget_bytes);
}

void sched_check(const struct sched *s)
{
    check_requests(s);
    check_memory(s);
    if (s->turn_worker != SCHED_NONE)
        assert(s->workers[s->turn_worker].state != WORKER_FREE);
}

const char *sched_reason_name(uint32_t reason)
{
    static const char *const names[] = {
        [SCHED_REASON_NONE] = "none",
        [SCHED_FUNCTION_QUEUE_FULL] = "function_queue_full",
        [SCHED_SERVER_FULL] = "server_full",
        [SCHED_TOO_LARGE] = "too_large",
        [SCHED_WORKER_LOST] = "worker_lost",
        [SCHED_START_FAILED] = "start_failed",
        [SCHED_LOAD_FAILED] = "load_failed",
        [SCHED_ADAPTER_FAILED] = "adapter_failed",
        [SCHED_FUNCTION_GONE] = "function_gone",
    };
    return reason < sizeof names / sizeof names[0] ? names[reason] : "unknown";
}

const char *sched_event_name(uint32_t type)
{
    static const char *const names[SCHED_EVENT_COUNT] = {
        "none",          "deployed",    "removed",       "request",      "client_gone",
        "admitted",      "tokens",      "done",          "turn_ended",   "worker_ready",
        "worker_bound",  "bind_failed", "worker_exited", "image_loaded", "image_failed",
        "image_dropped", "tick",
    };
    return type < SCHED_EVENT_COUNT ? names[type] : "unknown";
}

const char *sched_action_name(uint32_t type)
{
    static const char *const names[SCHED_ACTION_COUNT] = {
        "none",   "load",  "drop",   "spawn", "bind",   "unbind", "submit",
        "cancel", "grant", "revoke", "kill",  "refuse", "forget", "arm_timer",
    };
    return type < SCHED_ACTION_COUNT ? names[type] : "unknown";
}
