/* See route.h. */
#include "policy/route.h"

#include <assert.h>

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

enum route_verdict route_admit(const struct route_load *load)
{
    if (load->requests >= load->requests_max)
        return ROUTE_SERVER_FULL;
    if (load->function_waiting >= load->function_waiting_max)
        return ROUTE_FUNCTION_QUEUE_FULL;
    if (load->backbone_bytes > load->budget_bytes ||
        load->worker_bytes > load->budget_bytes - load->backbone_bytes)
        return ROUTE_TOO_LARGE;
    return ROUTE_ACCEPT;
}
