/* What the machine can do at best: reading memory, multiplying, reading a disk, by threads. */
#include "worker/bench_model.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/rng.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>

#define DISK_BLOCK_BYTES ((size_t)4 << 20)

static json_t *ceiling_line(const struct bench *b, const char *ceiling, const struct pool *pool)
{
    json_t *line = bench_line(b, pool_threads(pool));
    bench_set_text(line, "ceiling", ceiling);
    return line;
}

static void print_read(const struct bench *b, struct pool *pool)
{
    double gb_s[BENCH_RUNS_MAX];
    for (uint32_t run = 0; run < b->runs; run++)
        gb_s[run] = ceiling_read_gb_s(b->kernels, pool, &b->memory);
    json_t *line = ceiling_line(b, "read", pool);
    bench_set_count(line, "mib", b->ceiling_bytes >> 20);
    bench_set_spread(line, "gb_s", gb_s, b->runs);
    bench_print(line);
}

static void print_multiply(const struct bench *b, struct pool *pool, enum kernel_arithmetic a)
{
    double gop_s[BENCH_RUNS_MAX];
    if (b->kernels->ceiling_multiply[a] == NULL) {
        bench_progress(b, "%s has no products of %s", kernels_isa_name(b->kernels->isa),
                       bench_arithmetic_name(a));
        return;
    }
    for (uint32_t run = 0; run < b->runs; run++)
        gop_s[run] = ceiling_multiply_gop_s(b->kernels, pool, a);
    json_t *line = ceiling_line(b, bench_arithmetic_name(a), pool);
    bench_set_spread(line, "gflop_s", gop_s, b->runs);
    bench_print(line);
}

/* --- disk --- */

struct disk {
    int fd; /* a nameless file of ceiling_bytes */
    bool direct;
    bool is_memory; /* the directory has no disk behind it */
    char *blocks;   /* [threads of the machine, DISK_BLOCK_BYTES], page aligned */
    atomic_int failure;
};

static int write_file(const struct bench *b, const struct disk *d, struct error *err)
{
    struct rng rng; /* what cannot be compressed on its way */
    rng_seed(&rng, 1);
    for (size_t i = 0; i < DISK_BLOCK_BYTES; i += sizeof(uint64_t)) {
        uint64_t value = rng_u64(&rng);
        memcpy(d->blocks + i, &value, sizeof value);
    }
    for (uint64_t at = 0; at < b->ceiling_bytes; at += DISK_BLOCK_BYTES) {
        memcpy(d->blocks, &at, sizeof at); /* no two blocks are the same */
        ssize_t n = pwrite(d->fd, d->blocks, DISK_BLOCK_BYTES, (off_t)at);
        if (n != (ssize_t)DISK_BLOCK_BYTES)
            return error_set(err, n < 0 ? -errno : -ENOSPC, "cannot write %llu MiB to %s: %s",
                             (unsigned long long)(b->ceiling_bytes >> 20), b->dir,
                             strerror(n < 0 ? errno : ENOSPC));
    }
    return fdatasync(d->fd) == 0
               ? 0
               : error_set(err, -errno, "cannot write to %s: %s", b->dir, strerror(errno));
}

static int disk_open(const struct bench *b, struct disk *ret, struct error *err)
{
    struct statfs fs;
    struct disk d = {.fd = open(b->dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)};
    if (d.fd < 0 || fstatfs(d.fd, &fs) < 0)
        return error_set(err, -errno, "cannot make a file in %s: %s; name another with --dir",
                         b->dir, strerror(errno));
    size_t bytes = DISK_BLOCK_BYTES * pool_threads(b->pool);
    void *blocks = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    d.blocks = blocks != MAP_FAILED ? blocks : NULL;
    int r = d.blocks != NULL ? write_file(b, &d, err)
                             : error_set(err, -ENOMEM, "no memory for %zu bytes", bytes);
    d.is_memory = fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC;
    d.direct = r == 0 && fcntl(d.fd, F_SETFL, O_DIRECT) == 0;
    *ret = d;
    return r;
}

static void disk_close(const struct bench *b, struct disk *d)
{
    if (d->blocks != NULL)
        munmap(d->blocks, DISK_BLOCK_BYTES * pool_threads(b->pool));
    if (d->fd >= 0)
        close(d->fd);
}

static void read_block(void *argument, uint32_t chunk, uint32_t thread)
{
    struct disk *d = argument;
    char *to = d->blocks + thread * DISK_BLOCK_BYTES;
    ssize_t n = pread(d->fd, to, DISK_BLOCK_BYTES, (off_t)chunk * (off_t)DISK_BLOCK_BYTES);
    if (n != (ssize_t)DISK_BLOCK_BYTES)
        atomic_store(&d->failure, n < 0 ? errno : EIO);
}

static int print_disk(const struct bench *b, struct pool *pool, struct disk *d, struct error *err)
{
    double gb_s[BENCH_RUNS_MAX];
    uint32_t blocks = (uint32_t)(b->ceiling_bytes / DISK_BLOCK_BYTES);
    for (uint32_t run = 0; run < b->runs; run++) {
        if (!d->direct)
            posix_fadvise(d->fd, 0, 0, POSIX_FADV_DONTNEED);
        uint64_t began_ns = clock_now_ns();
        pool_run(pool, read_block, d, blocks);
        gb_s[run] = (double)b->ceiling_bytes / (double)(clock_now_ns() - began_ns + 1);
        int failure = atomic_load(&d->failure);
        if (failure != 0)
            return error_set(err, -failure, "cannot read back what was written to %s: %s", b->dir,
                             strerror(failure));
    }
    json_t *line = ceiling_line(b, "disk", pool);
    bench_set_count(line, "mib", b->ceiling_bytes >> 20);
    bench_set_text(line, "by", d->is_memory ? "memory" : d->direct ? "direct" : "page cache");
    bench_set_spread(line, "gb_s", gb_s, b->runs);
    bench_print(line);
    return 0;
}

/* --- by threads --- */

int bench_ceilings(struct bench *b, struct error *err)
{
    uint32_t counts[BENCH_THREAD_COUNTS_MAX];
    uint32_t count = bench_thread_counts(b, counts);
    struct disk disk = {.fd = -1};
    bench_progress(b, "writing a file of %llu MiB to %s",
                   (unsigned long long)(b->ceiling_bytes >> 20), b->dir);
    int r = disk_open(b, &disk, err);
    for (uint32_t i = 0; r == 0 && i < count; i++) {
        struct pool *pool;
        r = pool_open(&pool, counts[i], err);
        if (r < 0)
            break;
        print_read(b, pool);
        for (enum kernel_arithmetic a = 0; a < KERNEL_MULTIPLY_COUNT; a++)
            print_multiply(b, pool, a);
        r = print_disk(b, pool, &disk, err);
        pool_close(pool);
    }
    disk_close(b, &disk);
    return r;
}
