/* See route.h. */
#include "policy/route.h"

#include "policy/maths.h"

#include <assert.h>

#define ALONE_FACTOR 1.5

struct route_domain route_domain_of(enum route_isolation isolation, uint32_t function,
                                    uint32_t owner, uint32_t backbone)
{
    assert(isolation >= ROUTE_FUNCTION);
    assert(isolation <= ROUTE_SHARED);
    uint64_t who = 0;
    if (isolation == ROUTE_FUNCTION)
        who = function;
    else if (isolation == ROUTE_OWNER)
        who = owner;
    return (struct route_domain){.group = (uint64_t)isolation << 32 | who, .backbone = backbone};
}

bool route_domain_equal(struct route_domain a, struct route_domain b)
{
    return a.group == b.group && a.backbone == b.backbone;
}

double route_start_us(const struct route_start *s)
{
    return maths_max(s->backbone_us + s->process_us, s->adapter_us) + s->bind_us;
}

double route_budget_us(const struct route_load *load)
{
    return maths_max(load->slo_us, ALONE_FACTOR * load->alone_us);
}

enum route_verdict route_admit(const struct route_load *load, uint64_t *ret_retry_us)
{
    *ret_retry_us = 0;
    if (load->requests >= load->requests_max)
        return ROUTE_SERVER_FULL;
    if (load->function_waiting >= load->function_waiting_max)
        return ROUTE_FUNCTION_QUEUE_FULL;
    if (load->owner_live >= load->owner_live_max)
        return ROUTE_OWNER_LIMIT;
    if (!load->fits)
        return ROUTE_TOO_LARGE;
    double late_us = load->alone_us + load->backlog_us - route_budget_us(load);
    if (load->has_deadline && late_us > 0) {
        *ret_retry_us = maths_us(late_us);
        return ROUTE_TOO_LATE;
    }
    return ROUTE_ACCEPT;
}
