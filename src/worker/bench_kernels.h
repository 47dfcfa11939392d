/* What the benchmarks of single kernels share: a job that a pool runs over and over, and the line
 * that says how fast it was beside the ceilings. */
#pragma once

#include "worker/bench_model.h"
#include "worker/bench_onednn.h"

/* One case on one number of threads. */
struct kernel_case {
    const struct bench *b;
    struct pool *pool;
    pool_fn *fn; /* what one thread does of one call */
    void *job;
    uint32_t chunks;            /* of one call of the pool */
    void (*advance)(void *job); /* between calls, to other memory; NULL: there is none */
    double units;               /* the results below are of one; a call does so many */
    double bytes;               /* read and written for one unit, beyond the caches */
    double operations;          /* of one unit; 0: none are counted */
    enum kernel_arithmetic arithmetic;
    /* A run of a peer, in microseconds of one unit, after each of ours; NULL or 0: there is none */
    double (*peer_us)(void *job);
    const char *peer;
};

/* Measures the machine's ceilings with these threads, then runs; adds times, rates and shares to
 * the line. Returns the median of the microseconds that a unit took. */
double kernel_measure(const struct kernel_case *c, json_t *line);

/* Memory on 2 MiB pages where it can be. */
void *kernel_memory(size_t bytes, struct error *err);
void kernel_memory_free(void *memory, size_t bytes);

/* In [-0.5, 0.5), the same each time. */
void kernel_random(float *to, size_t count);

/* Bytes that are more than the caches hold. */
size_t kernel_beyond_caches(const struct bench *b);

/* The kinds of kernels; each prints its lines for one number of threads. */
int kernels_products(const struct bench *b, struct pool *pool, const struct onednn *peer,
                     struct error *err);
int kernels_attention(const struct bench *b, struct pool *pool, struct error *err);
int kernels_rows(const struct bench *b, struct pool *pool, struct error *err);
