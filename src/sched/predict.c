/*
 * When a request would have its first token on which device: what admission, placement and `ls`
 * ask. See plan.h.
 */
#include "sched/plan.h"

/* Of a place where something else must go first: somebody else's loss, in parts of a load. */
#define CROWDED_SHARE 0.5
/* Tokens that come later than they could and yet in time: what that is worth, beside waiting for
 * the first one. */
#define IN_TIME_SHARE 0.1

struct cost_batch forecast_batch(const struct sched *s, uint32_t function, double prompt_tokens)
{
    const struct backbone *b = &s->backbones[s->functions[function].backbone];
    return cost_batch_of(&b->fit.c, maths_max(prompt_tokens, 1), s->config.step_rows_max);
}

double forecast_busy_us(const struct sched *s, uint32_t device, uint32_t function)
{
    const struct device *v = &s->devices[device];
    const struct backbone *b = &s->backbones[s->functions[function].backbone];
    return v->backlog_us + (v->active > 0 ? cost_turn_us(&b->fit.c, 1, 0, 1) / 2 : 0);
}

static const struct worker *worker_on(const struct sched *s, const struct domain *d,
                                      uint32_t device)
{
    for (uint32_t i = d->workers; i != SCHED_NONE; i = s->workers[i].domain_next)
        if (s->workers[i].device == device && s->workers[i].state != WORKER_ENDING)
            return &s->workers[i];
    return NULL;
}

uint32_t spare_on(const struct sched *s, uint32_t device, uint32_t copy)
{
    uint32_t starting = SCHED_NONE;
    for (uint32_t i = s->devices[device].workers; i != SCHED_NONE; i = s->workers[i].device_next) {
        const struct worker *w = &s->workers[i];
        if (w->domain != SCHED_NONE || w->copy != copy || w->state == WORKER_ENDING)
            continue;
        if (w->state == WORKER_READY)
            return i;
        starting = i;
    }
    return starting;
}

static double process_us(const struct sched *s, const struct worker *w, uint32_t device,
                         uint64_t now_us)
{
    double whole = s->devices[device].spawn.value;
    if (!w)
        return whole;
    if (w->state == WORKER_READY)
        return 0;
    double passed = now_us > w->spawned_us ? (double)(now_us - w->spawned_us) : 0;
    return maths_max(whole - passed, whole / 8);
}

double forecast_cached_us(const struct sched *s, uint32_t function)
{
    const struct function *f = &s->functions[function];
    const struct cost_mean *share =
        f->cached_share.samples > 0 ? &f->cached_share : &s->backbones[f->backbone].cached_share;
    double prompt = f->prompt_tokens.value;
    return forecast_batch(s, function, prompt).t0_us -
           forecast_batch(s, function, prompt * (1 - share->value)).t0_us;
}

bool spare_is_worth(const struct sched *s, uint32_t device, uint32_t backbone)
{
    struct forecast_outlook o = forecast_look(&s->backbones[backbone].starts, s->now_us);
    const struct keepalive_cost c = {.saved_us = s->devices[device].spawn.value,
                                     .bytes = (double)spare_bytes(s, device, backbone),
                                     .price_bytes = s->config.price_bytes};
    return keepalive_is_worth(&o, &c);
}

/* A spare that is worth its memory stands by with the device's next plan. */
static double without_spare(const struct sched *s, const struct worker *w, uint32_t function)
{
    if (spare_on(s, w->device, w->copy) != SCHED_NONE)
        return 0;
    if (s->config.no_preload || !spare_is_worth(s, w->device, w->backbone))
        return 1;
    struct forecast_outlook o = forecast_look(&s->functions[function].forecast, s->now_us);
    return 1 - forecast_none(&o, s->config.plan_period_us);
}

double forecast_restart_us(const struct sched *s, const struct worker *w, uint32_t function)
{
    return without_spare(s, w, function) * s->devices[w->device].spawn.value +
           s->backbones[w->backbone].bind.value + forecast_cached_us(s, function);
}

struct route_start forecast_parts(const struct sched *s, uint32_t function, uint32_t device,
                                  uint64_t now_us)
{
    const struct function *f = &s->functions[function];
    const struct domain *d = &s->domains[f->domain];
    const struct backbone *b = &s->backbones[f->backbone];
    const struct copy *backbone =
        copy_find(s, COPY_BACKBONE, f->backbone, device, copy_instance(s, f->domain));
    const struct worker *w = worker_on(s, d, device);
    struct route_start start = {
        .backbone_us = copy_left_us(s, backbone, COPY_BACKBONE, f->backbone, device, now_us)};
    if (!w && backbone) {
        uint32_t spare = spare_on(s, device, copy_index(s, backbone));
        w = spare == SCHED_NONE ? NULL : &s->workers[spare];
    }
    start.process_us = process_us(s, w, device, now_us);
    const struct slot *slot = NULL;
    for (uint32_t i = 0; w && i < s->config.worker_slots_max && !slot; i++)
        if (w->slots[i].state != SLOT_EMPTY && w->slots[i].function == function)
            slot = &w->slots[i];
    if (!slot || slot->state != SLOT_BOUND)
        start.bind_us = b->bind.value;
    if (f->adapter_bytes > 0 && !slot)
        start.adapter_us = copy_left_us(s, copy_find(s, COPY_ADAPTER, function, device, SCHED_NONE),
                                        COPY_ADAPTER, function, device, now_us);
    return start;
}

bool device_fits(const struct sched *s, uint32_t device, uint32_t function)
{
    const struct function *f = &s->functions[function];
    uint64_t needed = s->backbones[f->backbone].bytes + f->adapter_bytes +
                      process_bytes(s, device, f->backbone) + s->config.kv_step_bytes;
    return s->devices[device].exists && needed <= s->places[device].budget;
}

/* Whether the missing parts find room without anything going first. */
static double crowded_us(const struct sched *s, uint32_t device, uint32_t function,
                         const struct route_start *start)
{
    const struct function *f = &s->functions[function];
    const struct place *p = &s->places[device];
    uint64_t needed = start->backbone_us > 0 ? s->backbones[f->backbone].bytes : 0;
    needed += start->process_us > 0 ? process_bytes(s, device, f->backbone) : 0;
    if (needed <= p->budget - p->used)
        return 0;
    if (s->config.no_offload)
        return (double)s->config.keep_alive_us; /* until something's time is up */
    return CROWDED_SHARE * copy_load_us(s, COPY_BACKBONE, f->backbone, device);
}

/* Domains that would be at work on the device beside this one. */
static uint32_t others_active(const struct sched *s, uint32_t device, const struct worker *own)
{
    return s->devices[device].active - (own && own->running.count > 0);
}

/* A device is shared in time: by how much the tokens of an answer are late for that. */
double forecast_late_us(const struct sched *s, uint32_t function, uint32_t device)
{
    const struct function *f = &s->functions[function];
    const struct worker *own = worker_on(s, &s->domains[f->domain], device);
    uint32_t others = others_active(s, device, own);
    double step_us = cost_turn_us(&s->backbones[f->backbone].fit.c, 1, 0, 1);
    double late_us = (others + 1) * step_us - (double)f->slo_tpot_us;
    return others > 0 && late_us > 0 ? late_us * f->new_tokens.value : 0;
}

/* What the answer waits for others on its way: all that is late, and of the rest a part. */
static double pace_us(const struct sched *s, uint32_t device, uint32_t function)
{
    const struct function *f = &s->functions[function];
    const struct worker *own = worker_on(s, &s->domains[f->domain], device);
    double step_us = cost_turn_us(&s->backbones[f->backbone].fit.c, 1, 0, 1);
    return forecast_late_us(s, function, device) +
           IN_TIME_SHARE * others_active(s, device, own) * step_us * f->new_tokens.value;
}

/* Sooner; as soon, where fewer backbones are, which is where fewer others come to work. */
static bool is_better(const struct sched *s, const struct start_forecast *a,
                      const struct start_forecast *b)
{
    double now = a->alone_us + a->backlog_us + a->pace_us;
    double then = b->alone_us + b->backlog_us + b->pace_us;
    uint32_t here = s->devices[a->device].backbones, there = s->devices[b->device].backbones;
    if (now < then || now > then)
        return now < then;
    return here < there || (here == there && a->device < b->device);
}

static void consider(const struct sched *s, uint32_t device, uint32_t function,
                     const struct cost_batch *batch, uint64_t now_us, struct start_forecast *best)
{
    if (!device_fits(s, device, function))
        return;
    const struct domain *d = &s->domains[s->functions[function].domain];
    struct route_start parts = forecast_parts(s, function, device, now_us);
    struct start_forecast f = {.device = device};
    f.alone_us = route_start_us(&parts) + batch->t0_us;
    f.backlog_us = s->devices[device].backlog_us + batch->alpha_us * d->waiting.count +
                   crowded_us(s, device, function, &parts);
    f.pace_us = pace_us(s, device, function);
    if (best->device == SCHED_NONE || is_better(s, &f, best))
        *best = f;
}

/* Where its adapter is, and the devices of nodes that have it in host memory. */
static void consider_adapter_near(const struct sched *s, uint32_t function,
                                  const struct cost_batch *batch, uint64_t now_us,
                                  struct start_forecast *best)
{
    uint32_t left = DEVICES_SAMPLED;
    for (uint32_t i = s->functions[function].copies; i != SCHED_NONE && left > 0;
         i = s->copies[i].object_next) {
        uint32_t place = s->copies[i].place;
        bool is_device = place_is_device(s, place);
        for (uint32_t d = is_device ? place : s->places[place].devices; d != SCHED_NONE && left > 0;
             d = is_device ? SCHED_NONE : s->devices[d].node_next) {
            consider(s, d, function, batch, now_us, best);
            left--;
        }
    }
}

struct start_forecast forecast_start(const struct sched *s, uint32_t function, double prompt_tokens,
                                     uint64_t now_us)
{
    const struct function *f = &s->functions[function];
    const struct domain *d = &s->domains[f->domain];
    struct cost_batch batch = forecast_batch(s, function, prompt_tokens);
    struct start_forecast best = {.device = SCHED_NONE};
    for (uint32_t i = d->workers; i != SCHED_NONE; i = s->workers[i].domain_next)
        consider(s, s->workers[i].device, function, &batch, now_us, &best);
    consider_adapter_near(s, function, &batch, now_us, &best);
    uint32_t left = DEVICES_SAMPLED;
    for (uint32_t i = s->backbones[f->backbone].copies; i != SCHED_NONE && left > 0;
         i = s->copies[i].object_next, left--)
        if (place_is_device(s, s->copies[i].place))
            consider(s, s->copies[i].place, function, &batch, now_us, &best);
    uint32_t count =
        s->config.devices_max < DEVICES_SAMPLED ? s->config.devices_max : DEVICES_SAMPLED;
    uint32_t first = (uint32_t)(f->forecast.arrivals * 0x9e3779b9u + function);
    for (uint32_t i = 0; i < count; i++)
        consider(s, (first + i) % s->config.devices_max, function, &batch, now_us, &best);
    return best;
}
