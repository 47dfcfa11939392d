/* xoshiro256** (Blackman, Vigna: "Scrambled linear pseudorandom number generators", 2018), seeded
 * by splitmix64. Deterministic: one seed, one sequence, on every machine. Not for secrets. */
#pragma once

#include <stdint.h>

struct rng {
    uint64_t s[4];
};

void rng_seed(struct rng *r, uint64_t seed);
uint64_t rng_u64(struct rng *r);
double rng_unit(struct rng *r);                /* [0, 1), 53 bits */
uint32_t rng_below(struct rng *r, uint32_t n); /* [0, n), n > 0, unbiased */
double rng_normal(struct rng *r);              /* mean 0, variance 1 */
