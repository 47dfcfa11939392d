/*
 * The thread pool: every chunk runs once, by a thread in range, and its effects are seen by the
 * caller and by the next job; with threads that spin, that sleep, and with more threads than
 * processors. Under the thread sanitizer the plain fields that jobs write are the proof.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <assert.h>
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kernels/pool.h"

#define CHUNKS_MAX 1000

struct record {
    struct pool *pool;
    uint32_t base;
    uint32_t runs[CHUNKS_MAX];
    uint32_t values[CHUNKS_MAX];
    uint64_t by_thread[64];
};

static void record_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    struct record *r = argument;
    assert(thread < pool_threads(r->pool)); /* cmocka's may be called by its own thread only */
    r->runs[chunk]++;
    r->values[chunk] = r->base + chunk;
    r->by_thread[thread]++;
}

static struct pool *open_pool(uint32_t threads)
{
    struct pool *p = NULL;
    struct error err = {0};
    if (pool_open(&p, threads, &err) != 0)
        fail_msg("pool of %u threads: %s", threads, err.text);
    return p;
}

/* One job, and that it did what it should. */
static void run_and_check(struct pool *p, struct record *r, uint32_t chunk_count)
{
    r->pool = p;
    memset(r->runs, 0, sizeof(r->runs));
    pool_run(p, record_chunk, r, chunk_count);
    for (uint32_t c = 0; c < CHUNKS_MAX; c++) {
        if (r->runs[c] != (c < chunk_count))
            fail_msg("chunk %u of %u ran %u times", c, chunk_count, r->runs[c]);
        if (c < chunk_count && r->values[c] != r->base + c)
            fail_msg("chunk %u of %u: the caller does not see its effect", c, chunk_count);
    }
    r->base += chunk_count + 1;
}

static void every_chunk_runs_once(void **state)
{
    (void)state;
    static const uint32_t thread_counts[] = {1, 2, 3, 8, 33};
    static const uint32_t chunk_counts[] = {0, 1, 2, 3, 7, 64, CHUNKS_MAX};
    for (size_t t = 0; t < sizeof(thread_counts) / sizeof(thread_counts[0]); t++) {
        struct pool *p = open_pool(thread_counts[t]);
        struct record r = {0};
        assert_int_equal(pool_threads(p), thread_counts[t]);
        for (int round = 0; round < 50; round++)
            for (size_t c = 0; c < sizeof(chunk_counts) / sizeof(chunk_counts[0]); c++)
                run_and_check(p, &r, chunk_counts[c]);
        pool_close(p);
    }
}

/* Many short jobs back to back: threads arrive late, when a job is closed or the next one open. */
static void short_jobs_do_not_mix(void **state)
{
    (void)state;
    struct pool *p = open_pool(4);
    static struct record r;
    r.pool = p;
    for (uint32_t job = 0; job < 20000; job++) {
        uint32_t chunk_count = 2 + job % 3;
        r.base = job;
        pool_run(p, record_chunk, &r, chunk_count);
        for (uint32_t c = 0; c < chunk_count; c++)
            if (r.values[c] != job + c)
                fail_msg("job %u chunk %u: the effect is not seen", job, c);
    }
    uint64_t want = 0, got = 0;
    for (uint32_t job = 0; job < 20000; job++)
        want += 2 + job % 3;
    for (uint32_t t = 0; t < 64; t++)
        got += r.by_thread[t];
    assert_int_equal(got, want);
    pool_close(p);
}

/* Pauses longer than the threads spin: they sleep and must be woken, or left asleep. */
static void sleeping_threads_wake(void **state)
{
    (void)state;
    struct pool *p = open_pool(3);
    struct record r = {0};
    for (int round = 0; round < 100; round++) {
        nanosleep(&(struct timespec){.tv_nsec = (round % 5) * 30000}, NULL);
        run_and_check(p, &r, 20);
    }
    pool_close(p);
}

struct meeting {
    pthread_barrier_t barrier;
    uint32_t threads[2];
};

static void meet(void *argument, uint32_t chunk, uint32_t thread)
{
    struct meeting *m = argument;
    pthread_barrier_wait(&m->barrier);
    m->threads[chunk] = thread;
}

/* Two chunks that wait for each other: done only if two threads run them at the same time. */
static void chunks_run_side_by_side(void **state)
{
    (void)state;
    struct pool *p = open_pool(2);
    struct meeting m;
    assert_int_equal(pthread_barrier_init(&m.barrier, NULL, 2), 0);
    for (int round = 0; round < 100; round++) {
        if (round % 10 == 0)
            nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
        pool_run(p, meet, &m, 2);
        assert_int_equal(m.threads[0] + m.threads[1], 1);
    }
    pthread_barrier_destroy(&m.barrier);
    pool_close(p);
}

static void look_at_mask(void *argument, uint32_t chunk, uint32_t thread)
{
    struct meeting *m = argument;
    sigset_t mask;
    (void)chunk;
    pthread_barrier_wait(&m->barrier);
    pthread_sigmask(SIG_BLOCK, NULL, &mask);
    m->threads[thread] = (uint32_t)sigismember(&mask, SIGTERM);
}

static void signals_stay_with_the_caller(void **state)
{
    (void)state;
    struct pool *p = open_pool(2);
    struct meeting m;
    assert_int_equal(pthread_barrier_init(&m.barrier, NULL, 2), 0);
    pool_run(p, look_at_mask, &m, 2);
    assert_int_equal(m.threads[0], 0);
    assert_int_equal(m.threads[1], 1);
    pthread_barrier_destroy(&m.barrier);
    pool_close(p);
}

static void opening_and_closing(void **state)
{
    (void)state;
    for (int round = 0; round < 200; round++) {
        struct pool *p = open_pool(1 + (uint32_t)round % 4);
        if (round % 3 == 0)
            run_and_check(p, &(struct record){0}, 5);
        pool_close(p);
    }
    pool_close(NULL);

    struct pool *p = open_pool(0);
    assert_true(pool_threads(p) >= 1);
    assert_true(pool_threads(p) <= (uint32_t)sysconf(_SC_NPROCESSORS_CONF));
    pool_close(p);

    p = NULL;
    struct error err = {0};
    assert_int_equal(pool_open(&p, 100000, &err), -EINVAL);
    assert_null(p);
    assert_non_null(strstr(err.text, "100000"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_chunk_runs_once),        cmocka_unit_test(short_jobs_do_not_mix),
        cmocka_unit_test(sleeping_threads_wake),        cmocka_unit_test(chunks_run_side_by_side),
        cmocka_unit_test(signals_stay_with_the_caller), cmocka_unit_test(opening_and_closing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
