/* See keepalive.h. */
#include "policy/keepalive.h"

/* Times tried: from what the shortest start takes, each half as long again; the last is 9 hours. */
#define SHORTEST_US (UINT64_C(1) << 11)
#define TIMES 42

/* The best time, or with `any` the first that is above 0. */
static struct keepalive_choice choose(const struct forecast_outlook *o,
                                      const struct keepalive_cost *c, bool any)
{
    struct keepalive_choice best = {0};
    uint64_t t = SHORTEST_US, before_t = 0;
    double none_before = 1, idle_us = 0; /* E[min(t, time to the next request)] so far */
    if (c->price_bytes <= 0)
        return (struct keepalive_choice){KEEPALIVE_FOREVER, c->saved_us};
    for (int i = 0; i < TIMES && !(any && best.net_us > 0); i++, t += t / 2) {
        double none = forecast_none(o, t);
        idle_us += (none_before + none) / 2 * (double)(t - before_t);
        double net_us = c->saved_us * (1 - none) - c->bytes / c->price_bytes * idle_us;
        if (net_us > best.net_us)
            best = (struct keepalive_choice){t, net_us};
        if (c->bytes / c->price_bytes * idle_us > c->saved_us)
            break; /* nothing later can save more than everything */
        none_before = none;
        before_t = t;
    }
    return best;
}

struct keepalive_choice keepalive_choose(const struct forecast *f, uint64_t now_us,
                                         const struct keepalive_cost *c)
{
    struct forecast_outlook o = forecast_look(f, now_us);
    return choose(&o, c, false);
}

bool keepalive_is_worth(const struct forecast_outlook *o, const struct keepalive_cost *c)
{
    return choose(o, c, true).keep_us > 0;
}

uint64_t keepalive_ends_us(uint64_t idle_since_us, uint64_t keep_alive_us)
{
    if (keep_alive_us > UINT64_MAX - idle_since_us)
        return UINT64_MAX;
    return idle_since_us + keep_alive_us;
}
