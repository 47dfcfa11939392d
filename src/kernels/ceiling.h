/*
 * The machine's ceilings, measured: what a decode step can read and a prefill can multiply at best,
 * with this instruction set and these threads. A bench prints them beside each of its results.
 */
#pragma once

#include "base/error.h"
#include "kernels/kernels.h"
#include "kernels/pool.h"

#include <stddef.h>

/* Memory to be read, more than the caches hold. */
struct ceiling_memory {
    char *map; /* owned */
    size_t map_bytes;
    char *from; /* in it, on 2 MiB pages where it can */
    float *sums;
    uint32_t chunk_count;
};

/* Takes `bytes` of memory, rounded down to whole MiB, touched by the threads of the pool. */
int ceiling_memory_open(struct ceiling_memory *ret, struct pool *pool, size_t bytes,
                        struct error *err);
void ceiling_memory_close(struct ceiling_memory *m);

/* Streams all of it with all threads of the pool: the best of several passes, in GB/s (10^9). */
double ceiling_read_gb_s(const struct kernels *k, struct pool *pool,
                         const struct ceiling_memory *m);

/* Products of all threads of the pool: the best of several passes, in 10^9 operations a second, a
 * multiplication and an addition each counting one. 0 where the instruction set has none such. */
double ceiling_multiply_gop_s(const struct kernels *k, struct pool *pool,
                              enum kernel_arithmetic arithmetic);
