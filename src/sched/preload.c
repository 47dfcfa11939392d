/*
 * What is loaded and started ahead of need, and what idle is let go: one memory at a time, by the
 * knapsack of policy/preload.h over what is worth its memory at all (policy/keepalive.h). Only free
 * memory is used: nothing goes for what may never be asked for. See plan.h.
 */
#include "sched/plan.h"

#include <assert.h>

/* A new load must be worth so many times the memory that keeping what is there must, or things
 * would come and go at the border. */
#define LOAD_FACTOR 1.5

#define FAILED_WAIT_US (60 * UINT64_C(1000000))

struct gathering {
    struct plan *p;
    uint32_t place;
    bool is_device;
    uint32_t backbones; /* that the device has, or is to have by what is gathered */
    uint32_t count;
};

/* --- candidates --- */

static uint32_t add(struct gathering *g, const struct sched_item_view *view, uint32_t needs)
{
    struct sched *s = g->p->s;
    if (g->count == s->items_max)
        return PRELOAD_NONE;
    s->views[g->count] = *view;
    s->items[g->count] = (struct preload_item){.value = view->value,
                                               .bytes = view->in_use ? 0 : view->bytes,
                                               .needs = needs,
                                               .chosen = view->in_use};
    return g->count++;
}

/* Waiting that it saves a second; 0 when its memory is too dear for that, or its time is up.
 * used_us: when it was used last, if it is there. */
static double worth(const struct gathering *g, const struct forecast *f,
                    const struct sched_item_view *v, uint64_t used_us)
{
    const struct sched *s = g->p->s;
    uint64_t now_us = g->p->now_us, keep_us = s->config.keep_alive_us;
    struct forecast_outlook o = forecast_look(f, now_us);
    double value = value_within(&o, v->saved_us);
    if (v->present && keep_us != SCHED_KEEP_ALIVE_AUTO)
        return now_us < keepalive_ends_us(used_us, keep_us) ? maths_max(value, 1e-9) : 0;
    const struct keepalive_cost c = {.saved_us = v->saved_us,
                                     .bytes = (double)v->bytes * (v->present ? 1 : LOAD_FACTOR),
                                     .price_bytes = s->config.price_bytes};
    return keepalive_is_worth(&o, &c) ? value : 0;
}

/* The copy of the object in the place of the gathering, into the view. */
static const struct copy *look_at(const struct gathering *g, enum copy_kind kind, uint32_t object,
                                  struct sched_item_view *v)
{
    const struct sched *s = g->p->s;
    struct copy *c = copy_find(s, kind, object, g->place, SCHED_NONE);
    if (c)
        c->planned_us = g->p->now_us;
    v->saved_us = copy_load_us(s, kind, object, g->place);
    v->present = c != NULL;
    v->in_use = c && !copy_is_ready(c);
    return c;
}

/* A copy below one of the node's devices saves nothing until that one goes. */
static bool is_above(const struct gathering *g, enum copy_kind kind, uint32_t object)
{
    const struct sched *s = g->p->s;
    for (uint32_t d = s->places[g->place].devices; d != SCHED_NONE; d = s->devices[d].node_next)
        if (copy_find(s, kind, object, d, SCHED_NONE))
            return true;
    return false;
}

#define BELOW_SHARE 0.1

/* What failed is not tried again and again ahead of need. */
static bool failed_lately(const struct gathering *g, uint64_t failed_us)
{
    return failed_us > 0 && g->p->now_us < failed_us + FAILED_WAIT_US;
}

static void add_adapter(struct gathering *g, uint32_t function, uint32_t needs)
{
    struct sched *s = g->p->s;
    const struct function *f = &s->functions[function];
    struct sched_item_view v = {.kind = SCHED_ITEM_ADAPTER,
                                .backbone = f->backbone,
                                .function = function,
                                .bytes = f->adapter_bytes};
    bool is_here = copy_find(s, COPY_ADAPTER, function, g->place, SCHED_NONE) != NULL;
    bool is_elsewhere = g->is_device
                            ? f->device_copies > 0
                            : f->copies != SCHED_NONE && !is_above(g, COPY_ADAPTER, function);
    /* Its next request goes where the adapter is: a second one would wait in vain. */
    if (!is_here && (is_elsewhere || failed_lately(g, f->failed_us)))
        return;
    const struct copy *c = look_at(g, COPY_ADAPTER, function, &v);
    v.in_use |= c && (c->users > 0 || f->waiting > 0);
    v.value = worth(g, &f->forecast, &v, c ? c->used_us : 0);
    if (!g->is_device && is_above(g, COPY_ADAPTER, function))
        v.value *= BELOW_SHARE;
    if (v.value > 0 || v.present)
        (void)add(g, &v, needs);
}

static void add_adapters(struct gathering *g, uint32_t backbone, uint32_t needs)
{
    struct sched *s = g->p->s;
    uint32_t left = BACKBONE_FUNCTIONS_PLANNED;
    for (uint32_t i = s->backbones[backbone].recent_head; i != SCHED_NONE && left > 0;
         i = s->functions[i].recent_next, left--)
        if (s->functions[i].adapter_bytes > 0 && !s->functions[i].removing)
            add_adapter(g, i, needs);
}

/* The next start may be of any function without a worker; what was asked for bounds it. */
static void add_spare(struct gathering *g, uint32_t backbone, const struct copy *c, uint32_t needs)
{
    struct sched *s = g->p->s;
    uint32_t spare = c ? spare_on(s, g->place, copy_index(s, c)) : SCHED_NONE;
    if (spare == SCHED_NONE && failed_lately(g, s->backbones[backbone].failed_us))
        return;
    struct sched_item_view v = {.kind = SCHED_ITEM_SPARE,
                                .backbone = backbone,
                                .function = SCHED_NONE,
                                .bytes = spare_bytes(s, g->place, backbone),
                                .saved_us = s->devices[g->place].spawn.value,
                                .present = spare != SCHED_NONE};
    v.value =
        worth(g, &s->backbones[backbone].starts, &v, v.present ? s->workers[spare].spawned_us : 0);
    if (v.value > 0 || v.present)
        (void)add(g, &v, needs);
}

/* Copies that the backbone's load calls for: as many devices as its answers keep busy. */
static uint32_t copies_wanted(const struct sched *s, const struct backbone *b, uint64_t now_us)
{
    if (b->recent_head == SCHED_NONE)
        return 1;
    const struct function *f = &s->functions[b->recent_head];
    double work_us = cost_turn_us(&b->fit.c, 1, f->prompt_tokens.value, f->new_tokens.value);
    double busy = forecast_rate(&b->forecast, now_us) * work_us / 1e6;
    return busy < s->device_count ? 1 + (uint32_t)busy : s->device_count;
}

/* What the last of n copies saves a request, beyond those that are wanted anyway: waiting for
 * others' turns. With a request on a device for part of the time, the next one finds it busy with
 * that probability, and about its own prefill passes until its turn. Spread over n devices the part
 * is an nth. */
static double spreading_saves_us(const struct sched *s, const struct backbone *b, uint32_t n,
                                 uint64_t now_us)
{
    if (b->recent_head == SCHED_NONE || n < 2)
        return 0;
    const struct function *f = &s->functions[b->recent_head];
    double first_us = forecast_batch(s, b->recent_head, f->prompt_tokens.value).t0_us;
    double answer_us = cost_turn_us(&b->fit.c, f->new_tokens.value, 0, f->new_tokens.value);
    double busy = forecast_rate(&b->forecast, now_us) * (first_us + answer_us) / 1e6;
    return (maths_min(busy / (n - 1), 1) - maths_min(busy / n, 1)) * first_us;
}

/* Another device with room for it has fewer backbones: it comes there, when that one is planned. */
static bool is_better_elsewhere(const struct gathering *g, const struct backbone *b)
{
    const struct sched *s = g->p->s;
    uint32_t count =
        s->config.devices_max < DEVICES_SAMPLED ? s->config.devices_max : DEVICES_SAMPLED;
    for (uint32_t i = 1; i <= count; i++) {
        uint32_t device = (g->place + i) % s->config.devices_max;
        const struct place *m = &s->places[device];
        if (m->exists && s->devices[device].backbones < g->backbones &&
            b->bytes <= m->budget - m->used)
            return true;
    }
    return false;
}

static void add_backbone(struct gathering *g, uint32_t index)
{
    struct sched *s = g->p->s;
    const struct backbone *b = &s->backbones[index];
    struct sched_item_view v = {
        .kind = SCHED_ITEM_BACKBONE, .backbone = index, .function = SCHED_NONE, .bytes = b->bytes};
    if (s->config.no_sharing) {
        add_adapters(g, index, PRELOAD_NONE);
        return;
    }
    const struct copy *c = look_at(g, COPY_BACKBONE, index, &v);
    uint32_t copies = b->device_copies + (c == NULL);
    if (g->is_device && copies > copies_wanted(s, b, g->p->now_us))
        v.saved_us = spreading_saves_us(s, b, copies, g->p->now_us);
    if (!c && (b->functions == 0 || failed_lately(g, b->failed_us) ||
               (g->is_device && is_better_elsewhere(g, b))))
        return;
    v.in_use |= c && (c->clock.sharers > 0 || b->waiting > 0);
    v.value = worth(g, &b->forecast, &v, c ? c->used_us : 0);
    if (!g->is_device && is_above(g, COPY_BACKBONE, index))
        v.value *= BELOW_SHARE;
    if (v.value <= 0 && !v.present)
        return;
    uint32_t item = add(g, &v, PRELOAD_NONE);
    if (item == PRELOAD_NONE)
        return;
    g->backbones += !v.present;
    if (g->is_device)
        add_spare(g, index, c, item);
    add_adapters(g, index, item);
}

/* Adapters that are there without their backbone, or beyond those that are planned: nothing keeps
 * them. */
static void add_strays(struct gathering *g)
{
    struct sched *s = g->p->s;
    for (uint32_t i = s->places[g->place].copies; i != SCHED_NONE; i = s->copies[i].place_next) {
        const struct copy *c = &s->copies[i];
        if (c->kind != COPY_ADAPTER || c->planned_us == g->p->now_us || !copy_is_ready(c) ||
            c->users > 0 || s->functions[c->object].waiting > 0)
            continue;
        const struct sched_item_view v = {.kind = SCHED_ITEM_ADAPTER,
                                          .backbone = s->functions[c->object].backbone,
                                          .function = c->object,
                                          .bytes = c->bytes,
                                          .present = true};
        (void)add(g, &v, PRELOAD_NONE);
    }
}

/* Gathers and chooses; the capacity is what is free, and what idle candidates hold already. */
static void choose(struct gathering *g)
{
    struct sched *s = g->p->s;
    const struct place *m = &s->places[g->place];
    uint64_t capacity = m->budget - m->used;
    g->is_device = place_is_device(s, g->place);
    g->backbones = g->is_device ? s->devices[g->place].backbones : 0;
    for (uint32_t b = 0; b < s->config.backbones_max; b++)
        if (s->backbones[b].used)
            add_backbone(g, b);
    add_strays(g);
    for (uint32_t i = 0; i < g->count; i++)
        if (s->views[i].present && !s->views[i].in_use)
            capacity += s->views[i].bytes;
    (void)preload_plan(s->items, g->count, capacity, s->nodes);
    for (uint32_t i = 0; i < g->count; i++)
        s->views[i].chosen = s->items[i].chosen && (s->views[i].value > 0 || s->views[i].in_use);
}

/* --- carrying it out --- */

/* Idle spares of the copy beyond the first `keep`. */
static void end_spares(struct plan *p, uint32_t device, uint32_t copy, uint32_t keep)
{
    struct sched *s = p->s;
    for (uint32_t i = s->devices[device].workers; i != SCHED_NONE; i = s->workers[i].device_next) {
        const struct worker *w = &s->workers[i];
        if (w->copy != copy || w->domain != SCHED_NONE || w->state != WORKER_READY)
            continue;
        if (keep > 0)
            keep--;
        else if (plan_room(p) > 0)
            plan_kill(p, i);
    }
}

static void let_go(const struct gathering *g, const struct sched_item_view *v)
{
    struct sched *s = g->p->s;
    bool is_adapter = v->kind == SCHED_ITEM_ADAPTER;
    struct copy *c = copy_find(s, is_adapter ? COPY_ADAPTER : COPY_BACKBONE,
                               is_adapter ? v->function : v->backbone, g->place, SCHED_NONE);
    if (!copy_is_ready(c))
        return;
    if (!is_adapter && g->is_device)
        end_spares(g->p, g->place, copy_index(s, c), 0);
    if (v->kind != SCHED_ITEM_SPARE && c->users == 0)
        copy_drop(s, c);
}

static void bring(const struct gathering *g, const struct sched_item_view *v)
{
    struct plan *p = g->p;
    struct sched *s = p->s;
    const struct place *m = &s->places[g->place];
    if (v->bytes > m->budget - m->used || m->blocked != SCHED_NONE)
        return; /* what goes has not gone yet, or somebody waits for memory now */
    const struct copy *c = copy_find(s, COPY_BACKBONE, v->backbone, g->place, SCHED_NONE);
    if (v->kind == SCHED_ITEM_BACKBONE)
        (void)plan_load(p, COPY_BACKBONE, v->backbone, g->place, SCHED_NONE);
    else if (v->kind == SCHED_ITEM_ADAPTER && c)
        (void)plan_load(p, COPY_ADAPTER, v->function, g->place, SCHED_NONE);
    else if (v->kind == SCHED_ITEM_SPARE && copy_is_ready(c))
        (void)plan_spawn(p, g->place, (struct copy *)(uintptr_t)c, SCHED_NONE);
}

static void carry_out(const struct gathering *g)
{
    struct sched *s = g->p->s;
    for (uint32_t i = 0; i < g->count; i++) {
        const struct sched_item_view *v = &s->views[i];
        if (v->present && !v->chosen && !v->in_use)
            let_go(g, v);
        else if (v->present && v->kind == SCHED_ITEM_SPARE)
            end_spares(
                g->p, g->place,
                copy_index(s, copy_find(s, COPY_BACKBONE, v->backbone, g->place, SCHED_NONE)), 1);
    }
    for (uint32_t i = 0; i < g->count && !s->config.no_preload; i++)
        if (!s->views[i].present && s->views[i].chosen)
            bring(g, &s->views[i]);
}

/* Idle memory is billed at least so often. */
static void bill(struct plan *p, uint32_t place)
{
    struct sched *s = p->s;
    uint32_t first = place_is_device(s, place) ? s->devices[place].workers : SCHED_NONE;
    for (uint32_t i = first; i != SCHED_NONE; i = s->workers[i].device_next)
        worker_bill(s, &s->workers[i], p->now_us);
    for (uint32_t i = s->places[place].copies; i != SCHED_NONE; i = s->copies[i].place_next)
        copy_bill(s, &s->copies[i], p->now_us);
}

static void plan_place(struct plan *p, uint32_t place)
{
    struct gathering g = {.p = p, .place = place};
    bill(p, place);
    choose(&g);
    carry_out(&g);
}

void plan_preload(struct plan *p)
{
    struct sched *s = p->s;
    uint32_t places = s->config.devices_max + s->config.nodes_max;
    if (s->plan_first != SCHED_NONE) {
        plan_place(p, s->plan_first);
        s->plan_first = SCHED_NONE;
        return;
    }
    for (uint32_t i = 0; i < places; i++) {
        uint32_t place = s->plan_next;
        s->plan_next = (s->plan_next + 1) % places;
        if (!s->places[place].exists)
            continue;
        plan_place(p, place);
        return;
    }
}

uint32_t sched_plan_view(struct sched *s, uint64_t now_us, uint32_t place,
                         struct sched_item_view *ret, uint32_t max)
{
    if (place >= s->config.devices_max + s->config.nodes_max || !s->places[place].exists)
        return 0;
    struct plan p = {.s = s, .now_us = now_us};
    struct gathering g = {.p = &p, .place = place};
    choose(&g);
    for (uint32_t i = 0; i < g.count && i < max; i++)
        ret[i] = s->views[i];
    return g.count;
}
