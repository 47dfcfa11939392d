/* See view.h. */
#include "sched/view.h"

#include "sched/plan.h"

#include <assert.h>

#define SOON_US (60 * UINT64_C(1000000))

void sched_counts(const struct sched *s, struct sched_counts *ret)
{
    struct sched_counts c = {.requests_waiting = s->live - s->running,
                             .requests_running = s->running,
                             .tokens_prompt = s->tokens_prompt,
                             .tokens_new = s->tokens_new,
                             .receipts = s->receipts,
                             .met = s->met,
                             .missed = s->missed};
    for (uint32_t i = 0; i < s->config.workers_max; i++) {
        const struct worker *w = &s->workers[i];
        if (w->state == WORKER_FREE)
            continue;
        c.workers++;
        c.workers_idle += w->state == WORKER_READY && w->running.count == 0;
        c.spares += w->domain == SCHED_NONE;
    }
    for (uint32_t i = 0; i < s->config.devices_max; i++)
        c.memory_bytes += s->places[i].used;
    *ret = c;
}

static enum sched_function_state function_state(const struct sched *s, uint32_t function,
                                                uint64_t now_us, uint32_t *ret_worker)
{
    const struct function *f = &s->functions[function];
    const struct domain *d = &s->domains[f->domain];
    bool starting = false;
    for (uint32_t i = d->workers; i != SCHED_NONE; i = s->workers[i].domain_next) {
        const struct worker *w = &s->workers[i];
        if (w->state == WORKER_ENDING)
            continue;
        starting |= w->state == WORKER_STARTING;
        if (*ret_worker == SCHED_NONE || w->running.count > s->workers[*ret_worker].running.count)
            *ret_worker = i;
    }
    if (f->running > 0)
        return SCHED_ACTIVE;
    if (*ret_worker != SCHED_NONE && !starting)
        return s->workers[*ret_worker].running.count > 0 ? SCHED_WARM : SCHED_IDLE;
    if (*ret_worker != SCHED_NONE || d->wants_worker)
        return SCHED_STARTING;
    for (uint32_t i = s->backbones[f->backbone].copies; i != SCHED_NONE;
         i = s->copies[i].object_next) {
        if (!place_is_device(s, s->copies[i].place))
            continue;
        struct route_start p = forecast_parts(s, function, s->copies[i].place, now_us);
        if (p.backbone_us <= 0 && p.adapter_us <= 0)
            return p.process_us <= 0 ? SCHED_SPARED : SCHED_STAGED;
    }
    return SCHED_COLD;
}

void sched_function_view(const struct sched *s, uint64_t now_us, uint32_t function,
                         struct sched_function_view *ret)
{
    assert(function < s->config.functions_max);
    const struct function *f = &s->functions[function];
    struct sched_function_view v = {.state = SCHED_COLD, .worker = SCHED_NONE};
    if (f->used) {
        struct cost_batch batch = forecast_batch(s, function, f->prompt_tokens.value);
        v = (struct sched_function_view){
            .worker = SCHED_NONE,
            .waiting = f->waiting,
            .running = f->running,
            .requests = f->forecast.arrivals,
            .met = f->met,
            .missed = f->missed,
            .rate_s = forecast_rate(&f->forecast, now_us),
            .soon = 1 - forecast_none_within(&f->forecast, now_us, SOON_US),
            .forecast_error = forecast_error(&f->forecast),
            .start_us = forecast_start(s, function, f->prompt_tokens.value, now_us).alone_us,
            .t0_us = batch.t0_us,
            .alpha_us = batch.alpha_us,
            .batch_limit =
                batch_limit((double)f->slo_ttft_us, &batch, s->config.worker_running_max),
            .slo_ttft_us = f->slo_ttft_us,
            .slo_tpot_us = f->slo_tpot_us,
            .idle_byte_s = f->idle_byte_s,
        };
        v.state = function_state(s, function, now_us, &v.worker);
    }
    *ret = v;
}

void sched_device_view(const struct sched *s, uint64_t now_us, uint32_t device,
                       struct sched_device_view *ret)
{
    assert(device < s->config.devices_max);
    const struct device *v = &s->devices[device];
    const struct place *p = &s->places[device];
    *ret = (struct sched_device_view){.exists = v->exists,
                                      .budget_bytes = p->budget,
                                      .used_bytes = p->used,
                                      .workers = v->worker_count,
                                      .turn_worker = v->turn_worker,
                                      .contention = v->contention,
                                      .backlog_us = v->backlog_us,
                                      .device_us = v->device_us,
                                      .byte_s = place_passed(s, device, now_us) / 1e6,
                                      .platform_byte_s = p->platform / 1e6};
}

void sched_worker_view(const struct sched *s, uint32_t worker, struct sched_worker_view *ret)
{
    assert(worker < s->config.workers_max);
    const struct worker *w = &s->workers[worker];
    *ret = (struct sched_worker_view){.exists = w->state != WORKER_FREE};
    if (!ret->exists)
        return;
    ret->state = w->state == WORKER_STARTING ? SCHED_WORKER_STARTING
                 : w->state == WORKER_ENDING ? SCHED_WORKER_ENDING
                 : w->domain == SCHED_NONE   ? SCHED_WORKER_SPARE
                                             : SCHED_WORKER_SERVING;
    ret->device = w->device;
    ret->backbone = w->backbone;
    if (w->domain != SCHED_NONE)
        ret->domain = s->domains[w->domain].key;
    ret->running = w->running.count;
    ret->bytes = worker_bytes(s, w);
    ret->kv_bytes = w->kv_bytes;
    ret->ends_us = timers_at_us(&s->timers, timer_of_worker(worker));
}

void sched_copy_view(const struct sched *s, uint32_t copy, struct sched_copy_view *ret)
{
    assert(copy < s->config.copies_max);
    const struct copy *c = &s->copies[copy];
    *ret = (struct sched_copy_view){.state = c->state};
    if (c->state == SCHED_COPY_NONE)
        return;
    ret->place = c->place;
    ret->backbone = c->kind == COPY_BACKBONE ? c->object : SCHED_NONE;
    ret->function = c->kind == COPY_ADAPTER ? c->object : SCHED_NONE;
    ret->bytes = c->bytes;
    ret->users = c->users;
}

void sched_cost_view(const struct sched *s, uint32_t backbone, struct cost_fit *ret)
{
    assert(backbone < s->config.backbones_max);
    *ret = s->backbones[backbone].fit;
}
