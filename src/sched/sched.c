/* Making a core, checking it, names. See sched.h; apply.c and plan.c do the work. */
#include "sched/plan.h"

#include <assert.h>
#include <string.h>

#define PLAN_ITEMS_MAX 4096u
#define NO_OFFLOAD_KEEP_ALIVE_US (60 * UINT64_C(1000000))

static size_t aligned(size_t n)
{
    return (n + 15) & ~(size_t)15;
}

static uint32_t power_of_two_above(uint32_t n)
{
    uint32_t p = 16;
    while (p < n)
        p *= 2;
    return p;
}

static bool config_in_range(const struct sched_config *c)
{
    return c->nodes_max > 0 && c->nodes_max <= 1u << 16 && c->devices_max > 0 &&
           c->devices_max <= 1u << 16 && c->functions_max > 0 && c->functions_max <= 1u << 20 &&
           c->backbones_max > 0 && c->backbones_max <= 1u << 12 && c->owners_max > 0 &&
           c->owners_max <= 1u << 20 && c->workers_max > 0 && c->workers_max <= 1u << 16 &&
           c->copies_max > 0 && c->copies_max <= 1u << 20 && c->requests_max > 0 &&
           c->requests_max <= 1u << 20 && c->function_waiting_max > 0 && c->owner_live_max > 0 &&
           c->domain_workers_max > 0 && c->worker_running_max > 0 && c->worker_slots_max > 0 &&
           c->worker_slots_max <= SCHED_SLOTS_MAX && c->spawn_attempts_max > 0 &&
           c->step_rows_max > 0 && c->batching <= SCHED_BATCH_STATIC && c->turn_us > 0 &&
           c->plan_period_us > 0 && c->slo_ttft_us > 0 && c->slo_tpot_us > 0 &&
           c->kv_step_bytes > 0 && c->kv_worker_bytes_max >= c->kv_step_bytes &&
           c->price_bytes >= 0;
}

static uint32_t items_of(const struct sched_config *c)
{
    uint64_t items = (uint64_t)c->backbones_max * (2 + BACKBONE_FUNCTIONS_PLANNED);
    uint64_t least = 2 * (uint64_t)c->backbones_max + c->functions_max;
    items = items < least ? items : least;
    return items < PLAN_ITEMS_MAX ? (uint32_t)items : PLAN_ITEMS_MAX;
}

/* Where each table stands, and the total. */
struct layout {
    size_t places, devices, backbones, functions, domains, domain_buckets, domain_next;
    size_t owner_live, owner_max, workers, copies, copy_buckets, requests, buckets, timers;
    size_t candidates, items, nodes, views, contenders, total;
};

static size_t take(size_t *at, uint64_t count, size_t bytes)
{
    size_t here = *at;
    *at += aligned(count * bytes);
    return here;
}

static struct layout layout_of(const struct sched_config *c)
{
    struct layout l;
    size_t at = aligned(sizeof(struct sched));
    uint32_t items = items_of(c);
    l.places = take(&at, (uint64_t)c->devices_max + c->nodes_max, sizeof(struct place));
    l.devices = take(&at, c->devices_max, sizeof(struct device));
    l.backbones = take(&at, c->backbones_max, sizeof(struct backbone));
    l.functions = take(&at, c->functions_max, sizeof(struct function));
    l.domains = take(&at, c->functions_max, sizeof(struct domain));
    l.domain_buckets = take(&at, power_of_two_above(c->functions_max), sizeof(uint32_t));
    l.domain_next = take(&at, c->functions_max, sizeof(uint32_t));
    l.owner_live = take(&at, c->owners_max, sizeof(uint32_t));
    l.owner_max = take(&at, c->owners_max, sizeof(uint32_t));
    l.workers = take(&at, c->workers_max, sizeof(struct worker));
    l.copies = take(&at, c->copies_max, sizeof(struct copy));
    l.copy_buckets = take(&at, power_of_two_above(c->copies_max), sizeof(uint32_t));
    /* as many whose end is to be told as live ones between two plans */
    l.requests = take(&at, 2ull * c->requests_max, sizeof(struct request));
    l.buckets = take(&at, power_of_two_above(2 * c->requests_max), sizeof(uint32_t));
    l.timers = take(&at, 1, timers_bytes(timer_count(c)));
    l.candidates =
        take(&at, (uint64_t)c->workers_max + c->copies_max, sizeof(struct offload_candidate));
    l.items = take(&at, items, sizeof(struct preload_item));
    l.nodes = take(&at, items, sizeof(struct preload_node));
    l.views = take(&at, items, sizeof(struct sched_item_view));
    l.contenders = take(&at, c->workers_max, sizeof(struct batch_contender));
    l.total = at;
    return l;
}

size_t sched_bytes(const struct sched_config *config)
{
    return config_in_range(config) ? layout_of(config).total : 0;
}

static void place_tables(struct sched *s, const struct layout *l)
{
    uint8_t *base = (uint8_t *)s;
    s->places = (void *)(base + l->places);
    s->devices = (void *)(base + l->devices);
    s->backbones = (void *)(base + l->backbones);
    s->functions = (void *)(base + l->functions);
    s->domains = (void *)(base + l->domains);
    s->domain_buckets = (void *)(base + l->domain_buckets);
    s->domain_next = (void *)(base + l->domain_next);
    s->owner_live = (void *)(base + l->owner_live);
    s->owner_max = (void *)(base + l->owner_max);
    s->workers = (void *)(base + l->workers);
    s->copies = (void *)(base + l->copies);
    s->copy_buckets = (void *)(base + l->copy_buckets);
    s->requests = (void *)(base + l->requests);
    s->buckets = (void *)(base + l->buckets);
    s->candidates = (void *)(base + l->candidates);
    s->items = (void *)(base + l->items);
    s->nodes = (void *)(base + l->nodes);
    s->views = (void *)(base + l->views);
    s->contenders = (void *)(base + l->contenders);
    timers_init(&s->timers, base + l->timers, timer_count(&s->config));
}

static void link_free(struct sched *s)
{
    const struct sched_config *c = &s->config;
    for (uint32_t i = 0; i < s->request_entries; i++)
        s->requests[i].next = i + 1 < s->request_entries ? i + 1 : SCHED_NONE;
    for (uint32_t i = 0; i < c->workers_max; i++)
        s->workers[i].free_next = i + 1 < c->workers_max ? i + 1 : SCHED_NONE;
    for (uint32_t i = 0; i < c->copies_max; i++)
        s->copies[i].free_next = i + 1 < c->copies_max ? i + 1 : SCHED_NONE;
    for (uint32_t i = 0; i < c->functions_max; i++)
        s->domain_next[i] = i + 1 < c->functions_max ? i + 1 : SCHED_NONE;
    for (uint32_t i = 0; i < s->bucket_count; i++)
        s->buckets[i] = SCHED_NONE;
    for (uint32_t i = 0; i < s->copy_bucket_count; i++)
        s->copy_buckets[i] = SCHED_NONE;
    for (uint32_t i = 0; i < s->domain_bucket_count; i++)
        s->domain_buckets[i] = SCHED_NONE;
    for (uint32_t i = 0; i < c->owners_max; i++)
        s->owner_max[i] = c->owner_live_max;
    for (uint32_t i = 0; i < c->devices_max + c->nodes_max; i++)
        s->places[i].copies = s->places[i].blocked = s->places[i].devices = SCHED_NONE;
    for (uint32_t i = 0; i < c->devices_max; i++)
        s->devices[i].workers = s->devices[i].turn_worker = SCHED_NONE;
}

struct sched *sched_init(void *memory, const struct sched_config *config)
{
    assert(config_in_range(config));
    const struct layout l = layout_of(config);
    memset(memory, 0, l.total);
    struct sched *s = memory;
    s->config = *config;
    /* Where nothing goes before its time, there must be a time. */
    if (config->no_offload && config->keep_alive_us == SCHED_KEEP_ALIVE_AUTO)
        s->config.keep_alive_us = NO_OFFLOAD_KEEP_ALIVE_US;
    s->request_entries = 2 * config->requests_max;
    s->bucket_count = power_of_two_above(2 * config->requests_max);
    s->domain_bucket_count = power_of_two_above(config->functions_max);
    s->copy_bucket_count = power_of_two_above(config->copies_max);
    s->items_max = items_of(config);
    place_tables(s, &l);
    link_free(s);
    s->told = (struct list){SCHED_NONE, SCHED_NONE, 0};
    s->queue_head = s->queue_tail = SCHED_NONE;
    s->devices_head = s->devices_tail = SCHED_NONE;
    s->drops = s->bills = s->plan_first = SCHED_NONE;
    s->armed_us = UINT64_MAX;
    return s;
}

uint32_t sched_host_place(const struct sched_config *config, uint32_t node)
{
    return config->devices_max + node;
}

const char *sched_reason_name(uint32_t reason)
{
    static const char *const names[SCHED_REASON_COUNT] = {
        [SCHED_REASON_NONE] = "none",
        [SCHED_FUNCTION_QUEUE_FULL] = "function_queue_full",
        [SCHED_OWNER_LIMIT] = "owner_limit",
        [SCHED_SERVER_FULL] = "server_full",
        [SCHED_TOO_LARGE] = "too_large",
        [SCHED_TOO_LATE] = "too_late",
        [SCHED_WORKER_LOST] = "worker_lost",
        [SCHED_START_FAILED] = "start_failed",
        [SCHED_LOAD_FAILED] = "load_failed",
        [SCHED_ADAPTER_FAILED] = "adapter_failed",
        [SCHED_FUNCTION_GONE] = "function_gone",
    };
    return reason < SCHED_REASON_COUNT ? names[reason] : "unknown";
}

const char *sched_event_name(uint32_t type)
{
    static const char *const names[SCHED_EVENT_COUNT] = {
        "none",         "node",           "device",        "backbone",     "owner",
        "deployed",     "removed",        "request",       "client_gone",  "admitted",
        "tokens",       "done",           "turn_ended",    "worker_ready", "worker_bound",
        "bind_failed",  "worker_resized", "worker_exited", "copy_loaded",  "copy_failed",
        "copy_dropped", "tick",
    };
    return type < SCHED_EVENT_COUNT ? names[type] : "unknown";
}

const char *sched_action_name(uint32_t type)
{
    static const char *const names[SCHED_ACTION_COUNT] = {
        "none",   "load",    "drop",      "spawn",  "bind",      "unbind",
        "resize", "submit",  "cancel",    "grant",  "revoke",    "kill",
        "refuse", "receipt", "idle_bill", "forget", "arm_timer",
    };
    return type < SCHED_ACTION_COUNT ? names[type] : "unknown";
}
