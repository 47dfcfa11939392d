/*
 * A run as numbers: what users saw, what was held and for how long, what it costs. The same names
 * as `sllora replay` prints of a live run, so that the two can be laid side by side.
 *
 * Memory is device memory by the GB (1e9 bytes) and second. What owners pay for (gb_s) is what was
 * held while a request ran on it (active_gb_s), and what was kept for a function between requests
 * (idle_gb_s); beside it is what was held for nobody in particular, loaded ahead or shared and
 * waiting (platform_gb_s). All of it adds up to what the devices held, and somebody pays for all
 * of it in cost_usd: the first at the active price, the others at the idle one. billed_usd is
 * without the platform's part: what `sllora replay` calls the cost of a live run. Host memory is
 * counted and not paid for, by no system.
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
    double wait_ms[WORLD_WAITS];                   /* means, of completed requests */
    double slo_attainment; /* of all requests, the refused too: first tokens in time */
    double gb_s, active_gb_s, idle_gb_s, platform_gb_s, host_gb_s;
    double device_s;
    double billed_usd, cost_usd;
    double cost_usd_per_1k; /* per 1000 completed requests */
    double ce;              /* 1 / (mean E2E in s * cost) */
    double tok_s, req_s;    /* over the run's span */
    double batch_mean;      /* sequences in a step that decodes */
    uint64_t batch_peak;
    double span_s;
    uint64_t events;
    uint32_t devices; /* paid for by the hour; 0: by use */
};

/* -ENOMEM */
int figures_of(const struct world_options *o, const struct world_result *r,
               enum figures_billing billing, struct figures *ret);
/* Of several runs of one kind: each figure's mean, percentiles too; counts are rounded. A figure
 * that one of them does not have is not in its mean. */
struct figures figures_mean(const struct figures *all, size_t count);
/* Into an object; NULL: out of memory. */
json_t *figures_json(const struct figures *f);
