/*
 * How large a world the scheduler bears: a whole cluster for a day on one core, and what one
 * decision costs as the number of functions grows. Both measure this machine's time, so their
 * figures are printed, never compared in a test.
 */
#pragma once

#include "sim/systems.h"

struct scale_options {
    const struct profile *profile;
    uint32_t devices;
    uint32_t functions;
    double hours;
    double requests_per_s; /* of all functions, whose shares fall by Zipf's law */
    uint64_t seed;
};

struct scale_result {
    struct world_totals totals;
    double trace_s; /* of this machine: making the requests */
    double run_s;   /* and the run itself */
};

void scale_default(struct scale_options *o, const struct profile *p);
int scale_run(const struct scale_options *o, struct scale_result *ret, struct error *err);

/* What calls of the core take in a world of so many functions, in us of this machine. */
struct scale_cost {
    uint32_t functions;
    uint64_t plans; /* calls that decided something, or came with a tick; of one of them: */
    double plan_us_p50, plan_us_p99, plan_us_max;
    double event_us_mean; /* an event with the plans after it; ticks are told apart, for at them */
    double tick_us_mean;  /* memory is planned, once a period whatever else happens */
    double tick_share;    /* of a second that passes in the world: what ticks take of it here */
};

/* The core alone, without the world around it. */
int scale_plan_cost(const struct scale_options *o, struct scale_cost *ret, struct error *err);
