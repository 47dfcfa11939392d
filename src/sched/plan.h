/*
 * What the files of a plan share; private to sched/. A plan emits actions and changes the picture
 * with them; a full action buffer ends it, and the next call goes on where it stood.
 */
#pragma once

#include "policy/maths.h"
#include "sched/state.h"
#include "sched/view.h"

struct plan {
    struct sched *s;
    uint64_t now_us;
    struct sched_action *actions;
    uint32_t count;
    uint32_t max;
};

static inline uint32_t plan_room(const struct plan *p)
{
    return p->max - p->count;
}

struct sched_action *plan_emit(struct plan *p, enum sched_action_type type);

/* Subjects of the timers. */
static inline uint32_t timer_of_plan(void)
{
    return 0;
}

static inline uint32_t timer_of_worker(uint32_t worker)
{
    return 1 + worker;
}

static inline uint32_t timer_of_device(const struct sched *s, uint32_t device)
{
    return 1 + s->config.workers_max + device;
}

static inline uint32_t timer_of_domain(const struct sched *s, uint32_t domain)
{
    return 1 + s->config.workers_max + s->config.devices_max + domain;
}

static inline uint32_t timer_count(const struct sched_config *c)
{
    return 1 + c->workers_max + c->devices_max + c->functions_max;
}

/* --- predict.c --- */

/* Devices looked at of those that have the backbone, and as many of all, so that a request costs
 * the same on any number of them. */
#define DEVICES_SAMPLED 32u

struct start_forecast {
    double alone_us;   /* to the first token, were nobody else there */
    double backlog_us; /* what others before it take */
    double pace_us;    /* what the rest of its answer waits for others */
    uint32_t device;   /* the best one; SCHED_NONE: it fits none */
};

struct start_forecast forecast_start(const struct sched *s, uint32_t function, double prompt_tokens,
                                     uint64_t now_us);
/* By how much the tokens of an answer would be late there, all together: the device is shared. */
double forecast_late_us(const struct sched *s, uint32_t function, uint32_t device);
struct route_start forecast_parts(const struct sched *s, uint32_t function, uint32_t device,
                                  uint64_t now_us);
/* Of a prompt's time, what a worker saves that has computed such prompts before. */
double forecast_cached_us(const struct sched *s, uint32_t function);
/* Whether a spare is worth its memory there, by the forecast of starts. */
bool spare_is_worth(const struct sched *s, uint32_t device, uint32_t backbone);
/* What the function's next request waits when its idle worker has ended: for a process with the
 * probability that no spare will stand by. */
double forecast_restart_us(const struct sched *s, const struct worker *w, uint32_t function);
/* What passes until the device turns to a new request of the function: the prefills before it, and
 * about half of a step of what it is at. */
double forecast_busy_us(const struct sched *s, uint32_t device, uint32_t function);
struct cost_batch forecast_batch(const struct sched *s, uint32_t function, double prompt_tokens);
bool device_fits(const struct sched *s, uint32_t device, uint32_t function);
static inline uint64_t spare_bytes(const struct sched *s, uint32_t device, uint32_t backbone)
{
    return resting_bytes(s, device, backbone) + s->config.kv_step_bytes;
}
/* A spare that maps this copy, ready or at least starting; SCHED_NONE. */
uint32_t spare_on(const struct sched *s, uint32_t device, uint32_t copy);

/* --- room.c: memory for something --- */

enum plan_need {
    PLAN_WAITS, /* for the domain's first waiting request */
    PLAN_RUNS,  /* for what runs already, and goes before everything that waits */
};

/* True when `bytes` fit into the place now and nobody waits there for something older. Otherwise
 * the domain waits, and what is worth least is asked to go. */
bool plan_make_room(struct plan *p, uint32_t place, uint64_t bytes, uint32_t domain,
                    enum plan_need need);
/* Asks for room where what goes is worth less than `value`; nobody waits for it. */
void plan_make_room_worth(struct plan *p, uint32_t place, uint64_t bytes, double value);
void plan_kill(struct plan *p, uint32_t worker);
void plan_unbind(struct plan *p, uint32_t worker, struct slot *slot);
bool worker_is_idle(const struct sched *s, const struct worker *w);
/* Waiting that is saved a second by what saves saved_us of it each time that `f` comes. */
double value_of(const struct forecast *f, uint64_t now_us, double saved_us);
double value_within(const struct forecast_outlook *o, double saved_us);

/* --- loads.c --- */

/* LOAD of a copy into a place that has room for it; into a device's memory along with a host copy
 * where there is room for one. False when the actions or the tables are full. */
bool plan_load(struct plan *p, enum copy_kind kind, uint32_t object, uint32_t place,
               uint32_t instance);

/* --- workers.c, turns.c, preload.c --- */

void plan_domain(struct plan *p, uint32_t domain);
bool plan_spawn(struct plan *p, uint32_t device, struct copy *c, uint32_t domain);
void plan_idle(struct plan *p, uint32_t worker);
void plan_device(struct plan *p, uint32_t device);
/* The next place in turn. */
void plan_preload(struct plan *p);
