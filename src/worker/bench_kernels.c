/* Every kernel by itself, over the shapes of a model: how near to the machine's ceilings it comes
 * with its operands in memory, by threads. See bench_kernels.h. */
#include "worker/bench_kernels.h"

#include "base/clock.h"
#include "base/rng.h"

#include <errno.h>
#include <sys/mman.h>

#define RUN_NS 10000000u /* long beside a call, which takes about 100 us */

/* --- one case --- */

static void call(const struct kernel_case *c, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        pool_run(c->pool, c->fn, c->job, c->chunks);
        if (c->advance != NULL)
            c->advance(c->job);
    }
}

/* Of one unit: a run. */
static double seconds(const struct kernel_case *c)
{
    uint64_t calls = 0, took_ns = 0, began_ns = clock_now_ns();
    for (uint64_t more = 1; took_ns < RUN_NS; more = calls) {
        call(c, more);
        calls += more;
        took_ns = clock_now_ns() - began_ns;
    }
    return (double)took_ns / 1e9 / ((double)calls * c->units);
}

double kernel_measure(const struct kernel_case *c, json_t *line)
{
    const struct bench *b = c->b;
    double us[BENCH_RUNS_MAX], peer_us[BENCH_RUNS_MAX] = {0}, ratios[BENCH_RUNS_MAX];
    double read = ceiling_read_gb_s(b->kernels, c->pool, &b->memory);
    double multiply = ceiling_multiply_gop_s(b->kernels, c->pool, c->arithmetic);
    call(c, 1); /* warm */
    for (uint32_t run = 0; run < b->runs; run++) {
        us[run] = seconds(c) * 1e6;
        peer_us[run] = c->peer_us != NULL ? c->peer_us(c->job) : 0;
        ratios[run] = peer_us[run] / us[run];
    }
    double took_us = bench_set_spread(line, "us", us, b->runs);
    double gb_s = c->bytes / took_us / 1e3, gop_s = c->operations / took_us / 1e3;
    bench_set(line, "gb_s", gb_s);
    bench_set(line, "ceiling_gb_s", read);
    double share = gb_s / read;
    if (c->operations > 0) {
        bench_set_text(line, "arithmetic", bench_arithmetic_name(c->arithmetic));
        bench_set(line, "gflop_s", gop_s);
        bench_set(line, "ceiling_gflop_s", multiply);
        share = gop_s / multiply > share ? gop_s / multiply : share;
    }
    bench_set(line, "share", share);
    if (bench_middle(peer_us, b->runs) > 0) {
        bench_set_text(line, "peer", c->peer);
        bench_set_spread(line, "peer_us", peer_us, b->runs);
        bench_set_spread(line, "ratio", ratios, b->runs);
    }
    return took_us;
}

/* --- memory --- */

void *kernel_memory(size_t bytes, struct error *err)
{
    void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) {
        error_set(err, -ENOMEM, "no memory for %zu bytes", bytes);
        return NULL;
    }
    madvise(map, bytes, MADV_HUGEPAGE); /* where it can */
    return map;
}

void kernel_memory_free(void *memory, size_t bytes)
{
    if (memory != NULL)
        munmap(memory, bytes);
}

void kernel_random(float *to, size_t count)
{
    struct rng rng;
    rng_seed(&rng, 1);
    for (size_t i = 0; i < count; i++)
        to[i] = (float)(rng_unit(&rng) - 0.5);
}

size_t kernel_beyond_caches(const struct bench *b)
{
    return b->ceiling_bytes / 2;
}

/* --- all of them --- */

int bench_kernels(struct bench *b, struct error *err)
{
    uint32_t counts[BENCH_THREAD_COUNTS_MAX];
    uint32_t count = bench_thread_counts(b, counts);
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < count; i++) {
        struct pool *pool;
        r = pool_open(&pool, counts[i], err);
        if (r < 0)
            break;
        bench_progress(b, "%u of %u threads", counts[i], pool_threads(b->pool));
        struct onednn peer;
        if (!onednn_open(&peer, counts[i]))
            bench_progress(b, "without oneDNN: it is not installed (libdnnl-dev), or was not when "
                              "this was built");
        r = kernels_products(b, pool, &peer, err);
        onednn_close(&peer);
        if (r == 0)
            r = kernels_attention(b, pool, err);
        if (r == 0)
            r = kernels_rows(b, pool, err);
        pool_close(pool);
    }
    return r;
}
