/*
 * The machine's ceilings, measured: what a decode step can read and a prefill can multiply at best,
 * with this instruction set and these threads. A bench prints them beside each of its results.
 */
#pragma once

#include "base/error.h"
#include "kernels/kernels.h"
#include "kernels/pool.h"

#include <stddef.h>

/* Streams `bytes` of memory (more than the caches hold) with all threads of the pool: the best of
 * several passes, in GB/s (10^9). Takes `bytes` of memory meanwhile, on 2 MiB pages where it can.
 */
int ceiling_read_gbs(const struct kernels *k, struct pool *pool, size_t bytes, double *ret,
                     struct error *err);

/* float multiply-adds of all threads of the pool: the best of several passes, in GFLOP/s. */
double ceiling_fma_gflops(const struct kernels *k, struct pool *pool);
