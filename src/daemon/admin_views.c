/* What the admin socket shows of functions, devices, memory, processes, the plan and the bill. */
#include "daemon/deploy.h"

#include "base/clock.h"

#include <string.h>
#include <unistd.h>

#define PLAN_ITEMS_MAX 4096u
#define NANO_USD 1e9

static const char *isolation_word(uint32_t isolation)
{
    static const char *const words[] = {"", "function", "owner", "shared"};
    return isolation < 4 ? words[isolation] : "";
}

static const char *state_word(enum sched_function_state state)
{
    static const char *const words[] = {
        [SCHED_COLD] = "cold",         [SCHED_STAGED] = "staged", [SCHED_SPARED] = "spare",
        [SCHED_STARTING] = "starting", [SCHED_IDLE] = "idle",     [SCHED_WARM] = "warm",
        [SCHED_ACTIVE] = "active"};
    return words[state];
}

static json_t *ms(double us)
{
    return json_real(us / 1e3);
}

/* --- a function --- */

static json_t *start_json(const struct function_entry *f)
{
    return json_pack("{s:o, s:o, s:o, s:o}", "spawn_ms", ms((double)f->start_spawn_us),
                     "sandbox_ms", ms((double)f->start_sandbox_us), "attach_ms",
                     ms((double)f->start_attach_us), "bind_ms", ms((double)f->start_bind_us));
}

static const struct copy_slot *backbone_copy(const struct daemon *d, uint32_t backbone)
{
    for (uint32_t i = 0; i < d->config.sched.copies_max; i++) {
        const struct copy_slot *c = &d->copies[i];
        if (c->used && c->backbone == backbone && c->is_loaded && c->place == 0)
            return c;
    }
    return NULL;
}

static json_t *backbone_json(const struct daemon *d, uint32_t index)
{
    const struct backbone_slot *b = &d->backbones[index];
    const struct copy_slot *c = backbone_copy(d, index);
    return json_pack("{s:s, s:s?, s:o, s:I, s:I, s:I, s:b, s:o, s:i}", "name", b->image.label,
                     "quant", image_quant_name(b->image.dtype), "digest",
                     digest_json(&b->image.digest), "bytes", (json_int_t)b->image.bytes,
                     "kv_token_bytes", (json_int_t)backbone_kv_token_bytes(d, &b->image),
                     "work_bytes", (json_int_t)backbone_work_bytes(d, &b->image), "resident",
                     c != NULL, "load_ms", ms(c != NULL ? (double)c->load_us : 0), "page_bytes",
                     (int)(c != NULL ? c->page_bytes : 0));
}

/* The time below which a share of the answers began, as exact as the buckets are. */
static json_t *quantile_ms(const struct histogram *h, double share)
{
    double s;
    return histogram_quantile_s(h, share, &s) ? json_real(s * 1e3) : json_null();
}

static json_t *totals_json(const struct function_entry *f)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:f, s:f}", "requests",
                     (json_int_t)f->requests, "failures", (json_int_t)f->failures, "cold_starts",
                     (json_int_t)f->cold_starts, "prompt_tokens", (json_int_t)f->tokens_prompt,
                     "completion_tokens", (json_int_t)f->tokens_new, "device_ms",
                     ms((double)f->device_us), "worker_ms", ms((double)f->worker_us), "ttft_ms_p50",
                     quantile_ms(&f->ttft, 0.5), "ttft_ms_p95", quantile_ms(&f->ttft, 0.95), "gb_s",
                     f->byte_s / PRICE_GB_BYTES, "cost_usd", (double)f->cost_nano_usd / NANO_USD);
}

json_t *function_json(const struct daemon *d, uint32_t index)
{
    const struct function_entry *f = &d->functions[index];
    struct sched_function_view view;
    sched_function_view(d->sched, clock_now_us(), index, &view);
    json_t *o = json_pack("{s:s, s:s, s:s, s:I, s:I, s:s, s:i, s:i}", "name", f->f.name, "owner",
                          f->f.owner, "isolation", isolation_word(f->f.isolation), "generation",
                          (json_int_t)f->f.generation, "created",
                          (json_int_t)(f->f.created_us / 1000000), "state", state_word(view.state),
                          "waiting", (int)view.waiting, "running", (int)view.running);
    json_object_set_new(o, "backbone", backbone_json(d, f->backbone));
    json_object_set_new(o, "adapter",
                        !f->f.has_adapter
                            ? json_null()
                            : json_pack("{s:o, s:I, s:I}", "digest", digest_json(&f->f.adapter),
                                        "bytes", (json_int_t)f->adapter_bytes, "rank",
                                        (json_int_t)f->adapter_rank));
    json_object_set_new(o, "totals", totals_json(f));
    json_object_set_new(o, "last_start", start_json(f));
    const struct worker_slot *w = view.worker != SCHED_NONE ? &d->workers[view.worker] : NULL;
    json_object_set_new(
        o, "pid", w != NULL && w->proc != NULL ? json_integer(proc_pid(w->proc)) : json_null());
    return o;
}

void function_describe(const struct daemon *d, uint32_t index, json_t *o)
{
    struct sched_function_view v;
    struct cost_fit fit;
    sched_function_view(d->sched, clock_now_us(), index, &v);
    sched_cost_view(d->sched, d->functions[index].backbone, &fit);
    const struct registry_function *f = &d->functions[index].f;
    json_object_set_new(o, "forecast",
                        json_pack("{s:f, s:f, s:f, s:I}", "requests_per_s", v.rate_s,
                                  "probability_next_minute", v.soon, "error_factor",
                                  v.forecast_error, "seen", (json_int_t)v.requests));
    json_object_set_new(o, "cost_model",
                        json_pack("{s:o, s:o, s:f, s:I, s:o, s:i}", "t0_ms", ms(v.t0_us),
                                  "alpha_ms", ms(v.alpha_us), "error", fit.error, "turns",
                                  (json_int_t)fit.samples, "start_to_first_token_ms",
                                  ms(v.start_us), "batch_limit", (int)v.batch_limit));
    json_object_set_new(o, "objectives",
                        json_pack("{s:o, s:o, s:b, s:I, s:I}", "ttft_ms", ms((double)v.slo_ttft_us),
                                  "tpot_ms", ms((double)v.slo_tpot_us), "named",
                                  f->slo_ttft_us > 0 || f->slo_tpot_us > 0, "met",
                                  (json_int_t)v.met, "missed", (json_int_t)v.missed));
    json_object_set_new(o, "owner_requests_max",
                        json_integer(f->owner_requests_max > 0 ? f->owner_requests_max
                                                               : d->config.sched.owner_live_max));
}

/* --- status --- */

static json_t *bound_json(const struct registry_function *f)
{
    return json_pack("{s:s, s:I, s:o}", "name", f->name, "generation", (json_int_t)f->generation,
                     "adapter", f->has_adapter ? digest_json(&f->adapter) : json_null());
}

static json_t *worker_json(const struct daemon *d, uint32_t index)
{
    static const char *const states[] = {[SCHED_WORKER_STARTING] = "starting",
                                         [SCHED_WORKER_SPARE] = "spare",
                                         [SCHED_WORKER_SERVING] = "serving",
                                         [SCHED_WORKER_ENDING] = "ending"};
    const struct worker_slot *w = &d->workers[index];
    struct sched_worker_view v;
    uint64_t now_us = clock_now_us();
    sched_worker_view(d->sched, index, &v);
    json_t *functions = json_array();
    for (uint32_t s = 0; s < SCHED_SLOTS_MAX; s++) {
        if (w->slot_function[s] != SCHED_NONE)
            json_array_append_new(functions, bound_json(&d->functions[w->slot_function[s]].f));
    }
    bool ends = v.ends_us != UINT64_MAX;
    return json_pack("{s:i, s:b, s:s, s:o, s:I, s:I, s:I, s:i, s:o, s:o}", "pid",
                     (int)proc_pid(w->proc), "ready", w->ready, "state", states[v.state],
                     "backbone", digest_json(&d->backbones[w->backbone].image.digest), "bytes",
                     (json_int_t)v.bytes, "kv_granted_bytes", (json_int_t)v.kv_bytes, "kv_bytes",
                     (json_int_t)w->kv_bytes, "running", (int)v.running, "ends_in_s",
                     ends ? json_real(v.ends_us > now_us ? (double)(v.ends_us - now_us) / 1e6 : 0)
                          : json_null(),
                     "functions", functions);
}

static json_t *workers_json(const struct daemon *d)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < d->config.sched.workers_max; i++) {
        if (d->workers[i].proc != NULL)
            json_array_append_new(list, worker_json(d, i));
    }
    return list;
}

static json_t *backbones_json(const struct daemon *d)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < d->config.sched.backbones_max; i++) {
        const struct backbone_slot *b = &d->backbones[i];
        const struct copy_slot *c = b->used ? backbone_copy(d, i) : NULL;
        if (!b->used || (b->functions == 0 && c == NULL))
            continue;
        json_t *o = backbone_json(d, i);
        json_object_set_new(o, "functions", json_integer(b->functions));
        json_object_set_new(o, "keeper_pid",
                            c != NULL && c->keeper != NULL ? json_integer(proc_pid(c->keeper))
                                                           : json_null());
        json_array_append_new(list, o);
    }
    return list;
}

void admin_status(struct daemon *d, struct exchange *x)
{
    struct sched_counts c;
    sched_counts(d->sched, &c);
    json_t *o =
        json_pack("{s:i, s:i, s:I, s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:o, s:o}", "pid",
                  (int)getpid(), "port", (int)gateway_port(d->gateway), "uptime_s",
                  (json_int_t)((clock_now_us() - d->started_us) / 1000000), "requests_waiting",
                  (int)c.requests_waiting, "requests_running", (int)c.requests_running, "spares",
                  (int)c.spares, "objectives_met", (json_int_t)c.met, "objectives_missed",
                  (json_int_t)c.missed, "memory_bytes", (json_int_t)c.memory_bytes,
                  "memory_budget_bytes", (json_int_t)device_budget_bytes(d), "workers",
                  workers_json(d), "backbones", backbones_json(d));
    json_object_set_new(o, "devices", json_pack("[o]", device_json(d)));
    if (d->config.has_gpu)
        json_object_set_new(o, "host", host_json(d));
    json_object_set_new(o, "ttft_ms_p50", quantile_ms(&d->totals.ttft, 0.5));
    json_object_set_new(o, "ttft_ms_p95", quantile_ms(&d->totals.ttft, 0.95));
    json_object_set_new(o, "cost_usd", json_real((double)d->totals.cost_nano_usd / NANO_USD));
    exchange_json(x, 200, o);
}

/* --- plan --- */

static json_t *item_json(const struct daemon *d, const struct sched_item_view *v)
{
    static const char *const kinds[] = {[SCHED_ITEM_BACKBONE] = "backbone",
                                        [SCHED_ITEM_SPARE] = "spare",
                                        [SCHED_ITEM_ADAPTER] = "adapter"};
    const char *name = v->kind == SCHED_ITEM_ADAPTER ? d->functions[v->function].f.name
                                                     : d->backbones[v->backbone].image.label;
    double mib = (double)v->bytes / (1 << 20);
    return json_pack("{s:s, s:s, s:I, s:f, s:f, s:f, s:b, s:b, s:b}", "kind", kinds[v->kind],
                     "name", name, "bytes", (json_int_t)v->bytes, "saves_ms", v->saved_us / 1e3,
                     "value_ms_per_s", v->value / 1e3, "density_ms_per_s_gib",
                     mib > 0 ? v->value / 1e3 / (mib / 1024) : 0.0, "present", v->present, "in_use",
                     v->in_use, "chosen", v->chosen);
}

static json_t *plan_json(struct daemon *d, uint32_t place)
{
    static struct sched_item_view items[PLAN_ITEMS_MAX];
    struct place_bytes bytes;
    char name[PLACE_NAME_BYTES];
    uint32_t count = sched_plan_view(d->sched, clock_now_us(), place, items, PLAN_ITEMS_MAX);
    json_t *list = json_array();
    place_look(d, place, &bytes);
    for (uint32_t i = 0; i < count && i < PLAN_ITEMS_MAX; i++)
        json_array_append_new(list, item_json(d, &items[i]));
    return json_pack("{s:s, s:I, s:I, s:I, s:o}", "name", place_name(d, place, name),
                     "budget_bytes", (json_int_t)bytes.budget, "used_bytes", (json_int_t)bytes.used,
                     "items_count", (json_int_t)count, "items", list);
}

void admin_plan(struct daemon *d, struct exchange *x)
{
    json_t *places = json_pack("[o]", plan_json(d, 0));
    if (d->config.has_gpu)
        json_array_append_new(places, plan_json(d, host_place(d)));
    exchange_json(
        x, 200,
        json_pack("{s:b, s:o}", "preloading", d->config.sched.no_preload == 0, "places", places));
}

/* --- usage --- */

void admin_usage(struct daemon *d, struct exchange *x)
{
    struct sched_device_view v;
    sched_device_view(d->sched, clock_now_us(), 0, &v);
    exchange_json(x, 200,
                  json_pack("{s:I, s:f, s:f, s:f, s:f, s:f, s:I}", "device_us",
                            (json_int_t)v.device_us, "active_byte_s", d->totals.receipts_byte_s,
                            "idle_byte_s", d->totals.idle_byte_s, "platform_byte_s",
                            v.platform_byte_s, "total_byte_s", v.byte_s, "cost_usd",
                            (double)d->totals.cost_nano_usd / NANO_USD, "requests",
                            (json_int_t)d->totals.receipts));
}
