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

struct read_job {
    const struct kernels *k;
    char *from;
    float *sums; /* [chunk_count], so that no pass can be left out */
};

static void fill_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct read_job *job = argument;
    (void)thread;
    memset(job->from + chunk * CHUNK_BYTES, 1, CHUNK_BYTES);
}

static void read_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct read_job *job = argument;
    (void)thread;
    job->sums[chunk] =
        job->k->ceiling_read((const float *)(void *)(job->from + chunk * CHUNK_BYTES), CHUNK_BYTES);
}

int ceiling_read_gbs(const struct kernels *k, struct pool *pool, size_t bytes, double *ret,
                     struct error *err)
{
    size_t chunk_count = bytes / CHUNK_BYTES;
    if (chunk_count == 0 || chunk_count > UINT32_MAX / sizeof(float))
        return error_set(err, -EINVAL, "cannot measure the reading of %zu bytes", bytes);
    size_t sums_bytes = chunk_count * sizeof(float);
    size_t map_bytes = chunk_count * CHUNK_BYTES + sums_bytes + HUGE_PAGE_BYTES;
    char *map = mmap(NULL, map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return error_set(err, -errno, "no memory to measure the reading of %zu bytes: %s", bytes,
                         strerror(errno));
    char *from = map + (HUGE_PAGE_BYTES - (uintptr_t)map % HUGE_PAGE_BYTES) % HUGE_PAGE_BYTES;
    madvise(from, chunk_count * CHUNK_BYTES, MADV_HUGEPAGE); /* where it can */
    struct read_job job = {
        .k = k, .from = from, .sums = (float *)(void *)(from + chunk_count * CHUNK_BYTES)};
    pool_run(pool, fill_chunk, &job, (uint32_t)chunk_count);

    double best = 0;
    for (int pass = 0; pass < PASS_COUNT; pass++) {
        uint64_t begin_ns = clock_now_ns();
        pool_run(pool, read_chunk, &job, (uint32_t)chunk_count);
        double rate = (double)(chunk_count * CHUNK_BYTES) / (double)(clock_now_ns() - begin_ns + 1);
        best = rate > best ? rate : best;
    }
    munmap(map, map_bytes);
    *ret = best;
    return 0;
}

struct fma_job {
    const struct kernels *k;
    uint64_t rounds;
};

static void fma_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct fma_job *job = argument;
    volatile float factor = 0.5f;
    float value = factor;
    (void)chunk;
    (void)thread;
    job->k->ceiling_fma(job->rounds, &value);
    factor = value;
}

double ceiling_fma_gflops(const struct kernels *k, struct pool *pool)
{
    float factor = 0.5f;
    struct fma_job job = {.k = k, .rounds = 100000}; /* about a millisecond */
    uint32_t chunk_count = CHUNKS_PER_THREAD * pool_threads(pool);
    double operations = (double)k->ceiling_fma(job.rounds, &factor) * chunk_count;
    double best = 0;
    for (int pass = 0; pass < PASS_COUNT; pass++) {
        uint64_t begin_ns = clock_now_ns();
        pool_run(pool, fma_chunk, &job, chunk_count);
        double rate = operations / (double)(clock_now_ns() - begin_ns + 1);
        best = rate > best ? rate : best;
    }
    return best;
}
