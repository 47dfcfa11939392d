/*
 * A run as numbers: what users saw, what was held and for how long, what it costs. The same names
 * as `sllora replay` prints of a live run, so that the two can be laid side by side.
 *
 * Memory is device memory by the GB (2^30 bytes) and second, in three parts that add up to what the
 * devices held: while a request ran on it (gb_s), kept for a function between requests
 * (idle_gb_s), and for nobody in particular, loaded ahead or shared and waiting (platform_gb_s).
 * Somebody pays for all three here: the first at the active price, the others at the idle one.
 */
#pragma once

#include "sim/stats.h"
#include "sim/world.h"

#include <jansson.h>

enum figures_billing {
    FIGURES_SERVERLESS, /* by use, as above, with policy/price.h's defaults */
    FIGURES_ALWAYS_ON,  /* by the hour and device, whatever runs on it */
};

struct figures {
    uint64_t requests, completed, refused, failed, cold;
    struct stats_summary ttft_ms, tpot_ms, e2e_ms; /* of completed requests; tpot of more than one
                                                    * token */
    double cold_ttft_ms;                           /* mean of those that waited for a start */
    double slo_attainment; /* of all requests, the refused too: first tokens in time */
    double gb_s, idle_gb_s, platform_gb_s;
    double device_s;
    double cost_usd, cost_usd_per_1k; /* per 1000 completed requests */
    double ce;                        /* 1 / (mean E2E in s * cost) */
    double tok_s, req_s;              /* over the run's span */
    double batch_mean;                /* sequences in a step that decodes */
    uint64_t batch_peak;
    double span_s;
    uint64_t events;
    uint32_t devices; /* paid for by the hour; 0: by use */
};

/* -ENOMEM */
int figures_of(const struct world_options *o, const struct world_result *r,
               enum figures_billing billing, struct figures *ret);
/* Into an object; NULL: out of memory. */
json_t *figures_json(const struct figures *f);
