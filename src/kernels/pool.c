/*
 * The thread pool. A job is open between two values of one word, `job`: odd while threads may
 * enter, even otherwise. A thread enters by counting itself in `inside` and then looking at the
 * word again; the caller closes the job and then waits for `inside` to fall to zero. So a thread
 * that sleeps or is not scheduled delays nobody: whoever is awake does its chunks.
 */
#include "kernels/pool.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"

#define POOL_THREADS_MAX 256
#define POOL_STACK_BYTES (1 << 20)
#define CACHE_LINE_BYTES 64

/* Longer than the gap between two matrix products of one layer, shorter than anybody minds. */
#define POOL_SPIN_NS 40000

/* What a thread fetches at most while it waits: a fraction of its second-level cache. */
#define POOL_FETCH_BYTES (256u << 10)
#define POOL_FETCH_LINES 8 /* at one look at the word */

struct pool_thread {
    pthread_t handle;
    struct pool *pool;
    uint32_t index;
};

/* The chunks that a thread takes first, in order: what follows each other in memory is then read by
 * one of them, as its prefetches assume. */
struct pool_range {
    _Alignas(CACHE_LINE_BYTES) _Atomic uint32_t next;
    uint32_t end;
};

struct pool {
    /* Written only while no thread is inside. */
    pool_fn *fn;
    void *argument;
    struct pool_part parts[POOL_PARTS_MAX]; /* see pool_expect */
    uint32_t part_count;
    uint32_t chunk_count;

    struct pool_range *ranges; /* [thread_count], owned */

    uint32_t thread_count;
    struct pool_thread *threads; /* owned; [0] is the caller and has no handle */

    _Alignas(CACHE_LINE_BYTES) _Atomic uint32_t job; /* futex word */
    _Atomic uint32_t sleeping;
    _Atomic int closing;
    _Alignas(CACHE_LINE_BYTES) _Atomic uint32_t inside; /* futex word */
    _Atomic int caller_sleeps;
};

/* The word may have changed already or the sleep may end early: callers look again. */
static void futex_sleep(_Atomic uint32_t *word, uint32_t value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* What a thread has still to fetch while it waits. */
struct fetch {
    const char *at[POOL_PARTS_MAX];
    const char *end[POOL_PARTS_MAX];
    uint32_t part; /* the one at work */
    uint32_t part_count;
};

/* Shares are dealt as chunks are. To be called inside, or by the caller. */
static struct fetch fetch_of(const struct pool *p, uint32_t thread)
{
    struct fetch f = {.part_count = p->part_count};
    for (uint32_t i = 0; i < p->part_count; i++) {
        size_t share = p->parts[i].bytes / p->thread_count;
        size_t most = POOL_FETCH_BYTES / p->part_count;
        f.at[i] = (const char *)p->parts[i].data + thread * share;
        f.end[i] = f.at[i] + (share < most ? share : most);
    }
    return f;
}

/* False when there is nothing left to fetch. */
static bool fetch_some(struct fetch *f)
{
    if (f->part == f->part_count)
        return false;
    for (int line = 0; line < POOL_FETCH_LINES; line++)
        __builtin_prefetch(f->at[f->part] + line * CACHE_LINE_BYTES, 0, 2);
    f->at[f->part] += POOL_FETCH_LINES * CACHE_LINE_BYTES;
    if (f->at[f->part] >= f->end[f->part])
        f->part++;
    return true;
}

/* Waits a moment; 0 once the spinning that began at *since_ns (0: now) has lasted long enough. */
static int spin(uint64_t *since_ns, struct fetch *f)
{
    if (fetch_some(f))
        return 1;
    for (int i = 0; i < 16; i++)
        __builtin_ia32_pause();
    uint64_t now_ns = clock_now_ns();
    if (*since_ns == 0)
        *since_ns = now_ns;
    return now_ns - *since_ns < POOL_SPIN_NS;
}

/* False when there are none left in this range. */
static bool take_chunk(struct pool_range *r, uint32_t *ret)
{
    if (atomic_load_explicit(&r->next, memory_order_relaxed) >= r->end)
        return false;
    *ret = atomic_fetch_add_explicit(&r->next, 1, memory_order_relaxed);
    return *ret < r->end;
}

/* The thread's own range, then what others have not come to. */
static void run_chunks(struct pool *p, uint32_t thread)
{
    uint32_t chunk;
    for (uint32_t i = 0; i < p->thread_count; i++) {
        struct pool_range *r = &p->ranges[(thread + i) % p->thread_count];
        while (take_chunk(r, &chunk))
            p->fn(p->argument, chunk, thread);
    }
}

static void deal_chunks(struct pool *p, uint32_t chunk_count)
{
    for (uint64_t t = 0; t < p->thread_count; t++) {
        uint32_t begin = (uint32_t)(t * chunk_count / p->thread_count);
        atomic_store_explicit(&p->ranges[t].next, begin, memory_order_relaxed);
        p->ranges[t].end = (uint32_t)((t + 1) * chunk_count / p->thread_count);
    }
}

/* Returns the value of an open job other than `last`, or 0 when the pool closes. */
static uint32_t wait_for_job(struct pool *p, uint32_t last, struct fetch *f)
{
    uint64_t since_ns = 0;
    for (;;) {
        uint32_t job = atomic_load(&p->job);
        if (atomic_load(&p->closing))
            return 0;
        if (job % 2 == 1 && job != last)
            return job;
        if (spin(&since_ns, f))
            continue;
        /* Counted before the kernel compares the word: either pool_run sees the count and wakes
         * us, or the word has changed and we do not sleep. */
        atomic_fetch_add(&p->sleeping, 1);
        futex_sleep(&p->job, job);
        atomic_fetch_sub(&p->sleeping, 1);
    }
}

static void *thread_main(void *argument)
{
    struct pool_thread *self = argument;
    struct pool *p = self->pool;
    struct fetch f = {0};
    uint32_t job = 0;
    while ((job = wait_for_job(p, job, &f)) != 0) {
        atomic_fetch_add(&p->inside, 1);
        /* Sequentially consistent with pool_run's "close, then read inside": one of us sees the
         * other, so the fields of the job are never read while they change. */
        if (atomic_load(&p->job) == job) {
            f = fetch_of(p, self->index);
            run_chunks(p, self->index);
        }
        if (atomic_fetch_sub(&p->inside, 1) == 1 && atomic_load(&p->caller_sleeps))
            futex_wake(&p->inside);
    }
    return NULL;
}

void pool_run(struct pool *p, pool_fn *fn, void *argument, uint32_t chunk_count)
{
    if (p->thread_count == 1 || chunk_count <= 1) {
        for (uint32_t chunk = 0; chunk < chunk_count; chunk++)
            fn(argument, chunk, 0);
        return;
    }
    assert(atomic_load(&p->job) % 2 == 0);
    p->fn = fn;
    p->argument = argument;
    deal_chunks(p, chunk_count);
    atomic_fetch_add(&p->job, 1);
    if (atomic_load(&p->sleeping) > 0)
        futex_wake(&p->job);
    run_chunks(p, 0);
    atomic_fetch_add(&p->job, 1);

    struct fetch f = fetch_of(p, 0);
    uint64_t since_ns = 0;
    uint32_t inside;
    while ((inside = atomic_load(&p->inside)) != 0) {
        if (spin(&since_ns, &f))
            continue;
        atomic_store(&p->caller_sleeps, 1);
        futex_sleep(&p->inside, inside);
        atomic_store(&p->caller_sleeps, 0);
    }
    p->part_count = 0;
}

void pool_expect(struct pool *p, const struct pool_part *parts, uint32_t count)
{
    assert(count <= POOL_PARTS_MAX);
    memcpy(p->parts, parts, count * sizeof(*parts));
    p->part_count = count;
}

uint32_t pool_threads_allowed(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) != 0)
        return 1;
    uint32_t count = (uint32_t)CPU_COUNT(&set);
    return count < POOL_THREADS_MAX ? count : POOL_THREADS_MAX;
}

/* Signals belong to the thread that opened the pool: the others block all of them. */
static int start_threads(struct pool *p, struct error *err)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    sigfillset(&all);
    if (pthread_attr_init(&attributes) != 0)
        return error_set(err, -ENOMEM, "no memory for the threads of the pool");
    pthread_attr_setstacksize(&attributes, POOL_STACK_BYTES);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = 0;
    for (uint32_t i = 1; i < p->thread_count && rc == 0; i++) {
        p->threads[i] = (struct pool_thread){.pool = p, .index = i};
        rc = -pthread_create(&p->threads[i].handle, &attributes, thread_main, &p->threads[i]);
        if (rc != 0) {
            error_set(err, rc,
                      "cannot start thread %u of %u of the pool: %s; lower the number of "
                      "threads or raise the limit on tasks",
                      i + 1, p->thread_count, strerror(-rc));
            p->thread_count = i; /* what pool_close has to join */
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return rc;
}

int pool_open(struct pool **ret, uint32_t threads, struct error *err)
{
    if (threads > POOL_THREADS_MAX)
        return error_set(err, -EINVAL, "a pool of %u threads: at most %d are possible", threads,
                         POOL_THREADS_MAX);
    struct pool *p = aligned_alloc(CACHE_LINE_BYTES, sizeof(*p));
    if (p == NULL)
        return error_set(err, -ENOMEM, "no memory for a thread pool");
    memset(p, 0, sizeof(*p));
    p->thread_count = threads > 0 ? threads : pool_threads_allowed();
    p->threads = calloc(p->thread_count, sizeof(*p->threads));
    p->ranges = aligned_alloc(CACHE_LINE_BYTES, p->thread_count * sizeof(*p->ranges));
    if (p->threads == NULL || p->ranges == NULL) {
        free(p->threads);
        free(p->ranges);
        free(p);
        return error_set(err, -ENOMEM, "no memory for a pool of %u threads", threads);
    }
    int rc = start_threads(p, err);
    if (rc != 0) {
        pool_close(p);
        return rc;
    }
    *ret = p;
    return 0;
}

void pool_close(struct pool *p)
{
    if (p == NULL)
        return;
    atomic_store(&p->closing, 1);
    atomic_fetch_add(&p->job, 2); /* whoever is about to sleep sees that the word has changed */
    futex_wake(&p->job);
    for (uint32_t i = 1; i < p->thread_count; i++)
        pthread_join(p->threads[i].handle, NULL);
    free(p->ranges);
    free(p->threads);
    free(p);
}

uint32_t pool_threads(const struct pool *p)
{
    return p->thread_count;
}
