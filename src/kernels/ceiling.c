/* See ceiling.h. The best pass counts, not the median: a ceiling is what the machine can do when
 * nothing disturbs it. */
#include "kernels/ceiling.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"

#define PASS_COUNT 9
#define CHUNK_BYTES ((size_t)1 << 20)
#define HUGE_PAGE_BYTES ((size_t)2 << 20)
#define CHUNKS_PER_THREAD 8u

static void fill_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct ceiling_memory *m = argument;
    (void)thread;
    memset(m->from + chunk * CHUNK_BYTES, 1, CHUNK_BYTES);
}

int ceiling_memory_open(struct ceiling_memory *ret, struct pool *pool, size_t bytes,
                        struct error *err)
{
    size_t chunk_count = bytes / CHUNK_BYTES;
    if (chunk_count == 0 || chunk_count > UINT32_MAX / sizeof(float))
        return error_set(err, -EINVAL, "cannot measure the reading of %zu bytes", bytes);
    /* Sums of all chunks are kept, so that no pass can be left out. */
    size_t map_bytes = chunk_count * (CHUNK_BYTES + sizeof(float)) + HUGE_PAGE_BYTES;
    char *map = mmap(NULL, map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return error_set(err, -errno, "no memory to measure the reading of %zu bytes: %s", bytes,
                         strerror(errno));
    char *from = map + (HUGE_PAGE_BYTES - (uintptr_t)map % HUGE_PAGE_BYTES) % HUGE_PAGE_BYTES;
    madvise(from, chunk_count * CHUNK_BYTES, MADV_HUGEPAGE); /* where it can */
    *ret = (struct ceiling_memory){.map = map,
                                   .map_bytes = map_bytes,
                                   .from = from,
                                   .sums = (float *)(void *)(from + chunk_count * CHUNK_BYTES),
                                   .chunk_count = (uint32_t)chunk_count};
    pool_run(pool, fill_chunk, ret, ret->chunk_count);
    return 0;
}

void ceiling_memory_close(struct ceiling_memory *m)
{
    if (m->map != NULL)
        munmap(m->map, m->map_bytes);
    *m = (struct ceiling_memory){0};
}

struct read_job {
    const struct kernels *k;
    const struct ceiling_memory *memory;
};

static void read_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct read_job *job = argument;
    const char *from = job->memory->from + chunk * CHUNK_BYTES;
    (void)thread;
    job->memory->sums[chunk] = job->k->ceiling_read((const float *)(const void *)from, CHUNK_BYTES);
}

double ceiling_read_gb_s(const struct kernels *k, struct pool *pool, const struct ceiling_memory *m)
{
    struct read_job job = {k, m};
    double best = 0;
    for (int pass = 0; pass < PASS_COUNT; pass++) {
        uint64_t begin_ns = clock_now_ns();
        pool_run(pool, read_chunk, &job, m->chunk_count);
        double rate =
            (double)m->chunk_count * CHUNK_BYTES / (double)(clock_now_ns() - begin_ns + 1);
        best = rate > best ? rate : best;
    }
    return best;
}

struct multiply_job {
    kernel_ceiling_multiply *multiply;
    uint64_t rounds;
};

static void multiply_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct multiply_job *job = argument;
    volatile float factor = 0.5f;
    float value = factor;
    (void)chunk;
    (void)thread;
    job->multiply(job->rounds, &value);
    factor = value;
}

double ceiling_multiply_gop_s(const struct kernels *k, struct pool *pool,
                              enum kernel_arithmetic arithmetic)
{
    float factor = 0.5f;
    struct multiply_job job = {k->ceiling_multiply[arithmetic], 100000}; /* about a millisecond */
    uint32_t chunk_count = CHUNKS_PER_THREAD * pool_threads(pool);
    if (job.multiply == NULL)
        return 0;
    double operations = (double)job.multiply(job.rounds, &factor) * chunk_count;
    double best = 0;
    for (int pass = 0; pass < PASS_COUNT; pass++) {
        uint64_t begin_ns = clock_now_ns();
        pool_run(pool, multiply_chunk, &job, chunk_count);
        double rate = operations / (double)(clock_now_ns() - begin_ns + 1);
        best = rate > best ? rate : best;
    }
    return best;
}
