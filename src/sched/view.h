/*
 * The core's picture as others may see it: for `ls`, `top`, `plan`, metrics and the simulator.
 * Reads only; a view is a copy of numbers at this moment.
 */
#pragma once

#include "sched/sched.h"

#include <stdbool.h>

struct sched_counts {
    uint32_t requests_waiting;
    uint32_t requests_running;
    uint32_t workers;
    uint32_t workers_idle;
    uint32_t spares;
    uint64_t memory_bytes;  /* all devices */
    uint64_t tokens_prompt; /* since the start */
    uint64_t tokens_new;
    uint64_t receipts;
    uint64_t met, missed; /* first tokens within and beyond their objective */
};

enum sched_function_state {
    SCHED_COLD,     /* nothing of it is in memory */
    SCHED_STAGED,   /* backbone and adapter are, somewhere */
    SCHED_SPARED,   /* the same, and a spare waits beside them */
    SCHED_STARTING, /* a worker is on its way */
    SCHED_IDLE,     /* it has a worker that does nothing */
    SCHED_WARM,     /* it has a worker that runs others of its domain */
    SCHED_ACTIVE,
};

struct sched_function_view {
    enum sched_function_state state;
    uint32_t waiting;
    uint32_t running;
    uint32_t worker; /* of its domain, the busiest, or SCHED_NONE */
    uint64_t requests;
    uint64_t met, missed;
    double rate_s;          /* arrivals a second, forecast */
    double soon;            /* probability of a request within the next minute */
    double forecast_error;  /* mean factor, see policy/forecast.h */
    double start_us;        /* to the first token now, were nobody else there */
    double t0_us, alpha_us; /* of T(b); policy/cost.h */
    uint32_t batch_limit;
    uint64_t slo_ttft_us, slo_tpot_us;
    double idle_byte_s; /* kept for it while it did not run, billed so far */
};

struct sched_device_view {
    bool exists;
    uint64_t budget_bytes, used_bytes;
    uint32_t workers;
    uint32_t turn_worker;   /* SCHED_NONE: nobody runs */
    double contention;      /* domains that want it at the same time, decayed mean at each grant */
    double backlog_us;      /* prefills that wait for it or are at work on it */
    uint64_t device_us;     /* time in steps, since the start */
    double byte_s;          /* what its memory held, since the start, */
    double platform_byte_s; /* and of that for nobody: loaded ahead, or kept */
};

enum sched_worker_state {
    SCHED_WORKER_STARTING,
    SCHED_WORKER_SPARE,
    SCHED_WORKER_SERVING,
    SCHED_WORKER_ENDING
};

struct sched_worker_view {
    bool exists;
    enum sched_worker_state state;
    uint32_t device, backbone;
    struct route_domain domain; /* group 0: none yet */
    uint32_t running;
    uint64_t bytes, kv_bytes;
    uint64_t ends_us; /* when it will be ended, idle; UINT64_MAX: it is not idle */
};

enum sched_copy_state {
    SCHED_COPY_NONE,
    SCHED_COPY_LOADING,
    SCHED_COPY_RESIDENT,
    SCHED_COPY_DROPPING
};

struct sched_copy_view {
    enum sched_copy_state state;
    uint32_t place;
    uint32_t backbone; /* or SCHED_NONE, and then */
    uint32_t function; /* whose adapter it is */
    uint64_t bytes;
    uint32_t users;
};

enum sched_item_kind { SCHED_ITEM_BACKBONE, SCHED_ITEM_SPARE, SCHED_ITEM_ADAPTER };

/* A line of the preloading plan of one place. */
struct sched_item_view {
    enum sched_item_kind kind;
    uint32_t backbone, function; /* function: of an adapter */
    uint64_t bytes;
    double value;    /* us of waiting saved a second */
    double saved_us; /* when it is there and needed */
    bool present;
    bool in_use;
    bool chosen;
};

void sched_counts(const struct sched *s, struct sched_counts *ret);
void sched_function_view(const struct sched *s, uint64_t now_us, uint32_t function,
                         struct sched_function_view *ret);
void sched_device_view(const struct sched *s, uint64_t now_us, uint32_t device,
                       struct sched_device_view *ret);
void sched_worker_view(const struct sched *s, uint32_t worker, struct sched_worker_view *ret);
void sched_copy_view(const struct sched *s, uint32_t copy, struct sched_copy_view *ret);

/* The plan as it would be made now; returns how many items there are, and writes at most `max`. */
uint32_t sched_plan_view(struct sched *s, uint64_t now_us, uint32_t place,
                         struct sched_item_view *ret, uint32_t max);

/* The fitted cost of a backbone's steps, and its error. */
void sched_cost_view(const struct sched *s, uint32_t backbone, struct cost_fit *ret);
