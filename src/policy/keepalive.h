/*
 * How long something idle is kept. Held memory is paid for by the byte and second, waiting by the
 * second; keeping is worth it as long as the waiting that it may still save outweighs the memory it
 * will take:
 *
 *   net(t) = saved * P(next request within t) - bytes * E[min(t, time to the next request)] / price
 *
 * price: bytes that may be held for as long as one waits without them. The time with the largest
 * net is how long to keep it; 0 when none is above 0. With what starts in milliseconds this is
 * short by itself, with gigabytes that load for seconds it follows what is known of the requests.
 */
#pragma once

#include "policy/forecast.h"

#include <stdbool.h>

struct keepalive_cost {
    double saved_us;    /* what the next request would wait without it */
    double bytes;       /* that it holds */
    double price_bytes; /* see above; 0: memory costs nothing, keep it for ever */
};

struct keepalive_choice {
    uint64_t keep_us; /* from now; KEEPALIVE_FOREVER */
    double net_us;    /* of waiting, what that is worth */
};

#define KEEPALIVE_FOREVER UINT64_MAX

struct keepalive_choice keepalive_choose(const struct forecast *f, uint64_t now_us,
                                         const struct keepalive_cost *c);

/* Whether it is worth keeping at all: keep_us of the choice is not 0. */
bool keepalive_is_worth(const struct forecast_outlook *o, const struct keepalive_cost *c);

/* a + b without overflow, for the fixed times that may be asked for in its place. */
uint64_t keepalive_ends_us(uint64_t idle_since_us, uint64_t keep_alive_us);
