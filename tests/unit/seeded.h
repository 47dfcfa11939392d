/*
 * Cases of a property, each made by a seed. What does not hold is told with the line that runs its
 * case alone:
 *
 *   SLLORA_SEED=17 build/tests/test_batch
 */
#pragma once

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/rng.h"

struct seeded {
    uint64_t seed, end;
    struct rng rng;
};

/* Before the first of `count` cases. */
static inline struct seeded seeded_cases(uint64_t count)
{
    const char *one = getenv("SLLORA_SEED");
    uint64_t first = one ? strtoull(one, NULL, 10) : 1;
    return (struct seeded){.seed = first - 1, .end = one ? first : count};
}

static inline bool seeded_next(struct seeded *c)
{
    if (c->seed >= c->end)
        return false;
    rng_seed(&c->rng, ++c->seed);
    return true;
}

static inline uint32_t seeded_pick(struct seeded *c, uint32_t below)
{
    return rng_below(&c->rng, below);
}

static inline bool seeded_one_in(struct seeded *c, uint32_t n)
{
    return rng_below(&c->rng, n) == 0;
}

#define assert_seeded(c, condition)                                                                \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail_msg("seed %llu: not so: %s\nagain: SLLORA_SEED=%llu build/tests/%s",              \
                     (unsigned long long)(c)->seed, #condition, (unsigned long long)(c)->seed,     \
                     program_invocation_short_name);                                               \
    } while (0)
