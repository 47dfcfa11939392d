/*
 * A persistent pool of threads that runs one function over a range of chunks. The caller is thread
 * 0 and takes part. Each thread claims the chunks of a range of its own in order, then what others
 * have left; between jobs the others spin for a short while and then sleep, so that a worker
 * without a turn burns no processor time.
 */
#pragma once

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

struct pool;

/* chunk in [0, chunk_count); thread in [0, pool_threads()). */
typedef void pool_fn(void *argument, uint32_t chunk, uint32_t thread);

/* As many as this process may run on. */
uint32_t pool_threads_allowed(void);

/* threads >= 1; 1 starts none. 0: as many as are allowed. */
int pool_open(struct pool **ret, uint32_t threads, struct error *err);
void pool_close(struct pool *p);
uint32_t pool_threads(const struct pool *p);

/* Some memory that a job reads from its first chunk to its last. */
struct pool_part {
    const void *data;
    size_t bytes;
};

#define POOL_PARTS_MAX 2u

/* What the job after the next one will read: those who are done with the next one early fetch the
 * beginning of their shares into their caches instead of waiting idly. It holds for one job;
 * nothing depends on it but time. */
void pool_expect(struct pool *p, const struct pool_part *parts, uint32_t count);

/* Returns when every chunk is done; all effects are then visible to the caller. Not reentrant. */
void pool_run(struct pool *p, pool_fn *fn, void *argument, uint32_t chunk_count);
