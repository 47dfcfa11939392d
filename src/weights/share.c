/*
 * Shares. One decision: a 2 MiB page is made before it is filled (one byte touched, then
 * MADV_COLLAPSE), so the kernel clears and maps it once instead of taking 512 faults, and readers
 * map 1 GiB in milliseconds, also where the system's own huge page switches are off.
 */
#include "weights/share.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/memfile.h"
#include "weights/nodes.h"

/* Newer than Debian 12's headers. */
#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21u << 26)
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#define SYS_MSEAL 462

#define PROGRESS_BYTES (UINT64_C(64) << 20)
#define BYTES_MAX (UINT64_C(1) << 46) /* below the address space, above any model */

enum state { STATE_EMPTY, STATE_FILLED, STATE_SEALED, STATE_BROKEN };

struct share {
    int fd;        /* the creator's, writable until sealed */
    int reader_fd; /* the read-only reopen */
    enum share_backing backing;
    enum state state;
    bool collapse;
    uint64_t bytes;      /* of the image */
    uint64_t file_bytes; /* of the file: padded on hugetlb */
    uint64_t huge_bytes;
};

static uint64_t round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

/* Maps a whole file at a 2 MiB border, so that its huge pages can be mapped as such. */
static void *map_aligned(int fd, uint64_t bytes, int prot, int flags)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), len = round_up(bytes, page);
    uint64_t reserved = len + SHARE_HUGE_BYTES;
    char *base =
        mmap(NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (base == MAP_FAILED)
        return NULL;
    uint64_t before = round_up((uintptr_t)base, SHARE_HUGE_BYTES) - (uintptr_t)base;
    uint64_t after = reserved - before - len;
    if (before > 0)
        (void)munmap(base, before);
    if (after > 0)
        (void)munmap(base + before + len, after);
    void *p = mmap(base + before, len, prot, flags | MAP_SHARED | MAP_FIXED, fd, 0);
    if (p == MAP_FAILED) {
        int code = errno;
        (void)munmap(base + before, len);
        errno = code;
        return NULL;
    }
    return p;
}

/* From the pool, when it has room for all of it: a shared mapping reserves its pages. */
static int memfd_hugetlb(const char *name, uint64_t bytes)
{
    cleanup_fd int fd = memfile_create(name, MFD_HUGETLB | MFD_HUGE_2MB, bytes);

    if (fd < 0)
        return -1;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return -1;
    (void)munmap(p, bytes);
    return steal_fd(&fd);
}

static int open_backing(struct share *s, const struct share_options *o, struct error *reterr)
{
    const char *name = o && o->name ? o->name : "sllora-share";

    s->collapse = !(o && o->no_collapse);
    if (!(o && o->no_hugetlb) && s->bytes >= SHARE_HUGE_BYTES) {
        s->file_bytes = round_up(s->bytes, SHARE_HUGE_BYTES);
        s->fd = memfd_hugetlb(name, s->file_bytes);
        s->backing = SHARE_BACKING_HUGETLB;
    }
    if (s->fd < 0) {
        s->file_bytes = s->bytes;
        s->backing = SHARE_BACKING_MEMFD;
        s->fd = memfile_create(name, 0, s->bytes);
        if (s->fd < 0)
            return error_set(reterr, s->fd, "cannot make a share of %" PRIu64 " bytes: %s",
                             s->bytes, strerror(-s->fd));
    }
    return 0;
}

/* Each huge page to be on a node of its own turn. It costs speed only where it is refused. */
static void spread_over_nodes(const struct share *s)
{
    struct nodes nodes;
    nodes_allowed(&nodes);
    if (nodes_count(&nodes) < 2)
        return;
    void *data = map_aligned(s->fd, s->file_bytes, PROT_READ | PROT_WRITE, 0);
    if (data) {
        (void)nodes_spread(&nodes, data, s->file_bytes, SHARE_HUGE_BYTES);
        (void)munmap(data, s->file_bytes);
    }
}

int share_create(struct share **ret, uint64_t bytes, const struct share_options *o,
                 struct error *reterr)
{
    if (bytes == 0 || bytes > BYTES_MAX)
        return error_set(reterr, -EINVAL, "a share cannot hold %" PRIu64 " bytes", bytes);
    struct share *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(reterr, -ENOMEM, "no memory for a share");
    s->fd = -1;
    s->reader_fd = -1;
    s->bytes = bytes;
    int r = open_backing(s, o, reterr);
    if (r == 0)
        spread_over_nodes(s);
    if (r == 0)
        r = memfile_reader(s->fd, &s->reader_fd, reterr);
    if (r < 0) {
        share_free(s);
        return r;
    }
    *ret = s;
    return 0;
}

int share_adopt(struct share **ret, int fd, uint64_t bytes, struct error *reterr)
{
    struct stat st;
    if (memfile_seals(fd) < 0 || fstat(fd, &st) != 0 || (uint64_t)st.st_size != bytes || bytes == 0)
        return error_set(reterr, -EINVAL, "no memory for a share of %" PRIu64 " bytes came", bytes);
    struct share *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(reterr, -ENOMEM, "no memory for a share");
    s->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    s->reader_fd = -1;
    s->bytes = s->file_bytes = bytes;
    s->backing = SHARE_BACKING_MEMFD;
    s->collapse = true;
    if (s->fd < 0) {
        share_free(s);
        return error_set(reterr, -EMFILE, "too many descriptors for a share");
    }
    *ret = s;
    return 0;
}

void share_free(struct share *s)
{
    if (!s)
        return;
    if (s->fd >= 0)
        (void)close(s->fd);
    if (s->reader_fd >= 0)
        (void)close(s->reader_fd);
    free(s);
}

/* Asks for a 2 MiB page at the next piece. A refusal costs speed only; the first one ends it, for
 * then this kernel, its settings or a fragmented memory say no. */
static void make_huge(struct share *s, char *piece)
{
    if (s->backing == SHARE_BACKING_HUGETLB) {
        s->huge_bytes += SHARE_HUGE_BYTES;
        return;
    }
    if (!s->collapse)
        return;
    *(volatile char *)piece = 0; /* an extent without any page is not collapsed */
    if (madvise(piece, SHARE_HUGE_BYTES, MADV_COLLAPSE) == 0)
        s->huge_bytes += SHARE_HUGE_BYTES;
    else if (errno != EINTR && errno != EAGAIN)
        s->collapse = false;
}

/* `bytes` at `offset` of an image of `image_bytes`. */
static int read_exactly(int fd, char *ret, uint64_t bytes, uint64_t offset, uint64_t image_bytes,
                        struct error *reterr)
{
    while (bytes > 0) {
        ssize_t n = pread(fd, ret, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_set(reterr, -EIO, "cannot read the image at byte %" PRIu64 ": %s", offset,
                             strerror(errno));
        if (n == 0)
            return error_set(reterr, -EIO,
                             "the image ends at byte %" PRIu64 ", %" PRIu64
                             " too early: it was cut; deploy it again",
                             offset, image_bytes - offset);
        ret += n;
        bytes -= (uint64_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

/* Read and hash by pieces of 2 MiB: the second pass finds the bytes in the cache. */
static int fill_pieces(struct share *s, char *data, int fd, struct digest_state *hash,
                       share_progress_fn progress, void *ctx, struct error *reterr)
{
    for (uint64_t at = 0; at < s->bytes; at += SHARE_HUGE_BYTES) {
        uint64_t left = s->bytes - at;
        uint64_t n = left < SHARE_HUGE_BYTES ? left : SHARE_HUGE_BYTES;
        if (s->file_bytes - at >= SHARE_HUGE_BYTES)
            make_huge(s, data + at);
        int r = read_exactly(fd, data + at, n, at, s->bytes, reterr);
        if (r < 0)
            return r;
        digest_update(hash, data + at, n);
        if (progress && ((at + n) % PROGRESS_BYTES == 0 || at + n == s->bytes))
            progress(ctx, at + n, s->bytes);
    }
    return 0;
}

int share_fill(struct share *s, int fd, const struct digest *expect, share_progress_fn progress,
               void *ctx, struct error *reterr)
{
    struct digest got;

    if (s->state != STATE_EMPTY)
        return error_set(reterr, -EINVAL, "a share is filled once");
    s->state = STATE_BROKEN;
    struct digest_state *hash = digest_begin();
    if (!hash)
        return error_set(reterr, -ENOMEM, "no memory for a digest");
    char *data = map_aligned(s->fd, s->file_bytes, PROT_READ | PROT_WRITE, 0);
    int r = data ? fill_pieces(s, data, fd, hash, progress, ctx, reterr)
                 : error_set(reterr, -errno, "cannot map a share of %" PRIu64 " bytes: %s",
                             s->file_bytes, strerror(errno));
    if (data)
        (void)munmap(data, s->file_bytes);
    digest_end(hash, &got);
    if (r < 0)
        return r;
    if (!digest_equal(&got, expect)) {
        char want_hex[DIGEST_HEX_BYTES], got_hex[DIGEST_HEX_BYTES];
        digest_hex(expect, want_hex);
        digest_hex(&got, got_hex);
        return error_set(reterr, -EBADMSG,
                         "the image is damaged: its SHA-256 is %.16s..., its name says %.16s...; "
                         "deploy it again",
                         got_hex, want_hex);
    }
    s->state = STATE_FILLED;
    return 0;
}

int share_seal(struct share *s, struct error *reterr)
{
    if (s->state != STATE_FILLED)
        return error_set(reterr, -EINVAL, "only a filled share can be sealed");
    int r = memfile_seal(s->fd, reterr);
    if (r < 0)
        return r;
    (void)close(steal_fd(&s->fd));
    s->state = STATE_SEALED;
    return 0;
}

int share_reader_fd(const struct share *s)
{
    return s->state == STATE_SEALED ? s->reader_fd : -1;
}

void share_keep_fds(const struct share *s, int ret_fds[2])
{
    ret_fds[0] = s->fd;
    ret_fds[1] = s->reader_fd;
}

uint64_t share_bytes(const struct share *s)
{
    return s->bytes;
}

uint64_t share_huge_bytes(const struct share *s)
{
    return s->huge_bytes < s->bytes ? s->huge_bytes : s->bytes;
}

enum share_backing share_backing(const struct share *s)
{
    return s->backing;
}

/* --- readers --- */

static int check_immutable(int fd, uint64_t bytes_max, uint64_t *ret_bytes, struct error *reterr)
{
    struct stat st;
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0 || fstat(fd, &st) != 0)
        return error_set(reterr, -EINVAL, "not a share: %s", strerror(errno));
    if (!S_ISREG(st.st_mode) || memfile_seals(fd) < 0)
        return error_set(reterr, -EINVAL, "not a share: a file without seals can change under us");
    if (!memfile_is_sealed(fd))
        return error_set(reterr, -EPERM, "the share is not sealed (it has seals %#x only)",
                         memfile_seals(fd));
    if ((flags & (O_ACCMODE | O_PATH)) != O_RDONLY)
        return error_set(reterr, -EPERM, "the share was not handed over read-only");
    if (st.st_size <= 0)
        return error_set(reterr, -EINVAL, "the share is empty");
    if ((uint64_t)st.st_size > bytes_max)
        return error_set(reterr, -E2BIG, "the share has %" PRIu64 " bytes, more than %" PRIu64,
                         (uint64_t)st.st_size, bytes_max);
    *ret_bytes = (uint64_t)st.st_size;
    return 0;
}

int share_map(struct share_view *ret, int fd, uint64_t bytes_max, bool populate,
              struct error *reterr)
{
    uint64_t bytes = 0;
    int r = check_immutable(fd, bytes_max, &bytes, reterr);

    if (r < 0)
        return r;
    void *data = map_aligned(fd, bytes, PROT_READ, populate ? MAP_POPULATE : 0);
    if (!data)
        return error_set(reterr, -errno, "cannot map the share's %" PRIu64 " bytes: %s", bytes,
                         strerror(errno));
    *ret = (struct share_view){data, bytes};
    return 0;
}

static void *view_address(const struct share_view *v)
{
    return (void *)(uintptr_t)v->data;
}

int share_freeze(const struct share_view *v)
{
    uint64_t len = round_up(v->bytes, (uint64_t)sysconf(_SC_PAGESIZE));
    return syscall(SYS_MSEAL, view_address(v), len, 0) == 0 ? 0 : -errno;
}

void share_unmap(struct share_view *v)
{
    if (v->data)
        (void)munmap(view_address(v), v->bytes);
    *v = (struct share_view){0};
}
