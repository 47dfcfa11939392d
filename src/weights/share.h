/*
 * A share: the memory that carries an image for many processes. The keeper makes it, fills it,
 * checks its digest and seals it; readers map it and nobody, root included, can change a byte of it
 * any more. One decision: the kernel enforces this (memfd seals on a read-only descriptor), not the
 * good manners of the readers.
 *
 * Keeper:  share_create, sandbox_lock, share_fill, share_seal, then hand out share_reader_fd.
 *          share_create comes before the lock because the read-only reopen needs /proc.
 * Reader:  share_map, and share_freeze for what stays until the process ends.
 *
 * Sizes: a share on 2 MiB pages of the hugetlb pool is padded with zeroes to a multiple of 2 MiB,
 * so a view may be longer than its image; the image's own header says where it ends.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/error.h"

#define SHARE_HUGE_BYTES (UINT64_C(2) << 20)

enum share_backing {
    SHARE_BACKING_HUGETLB, /* the reserved pool */
    SHARE_BACKING_MEMFD,   /* shared memory, collapsed to 2 MiB pages where the kernel agrees */
};

struct share;

struct share_options {
    const char *name; /* shown in /proc/PID/maps; NULL: "sllora-share" */
    bool no_hugetlb;  /* leave the reserved pool alone */
    bool no_collapse; /* 4 KiB pages */
};

/* `bytes` > 0. Room is fixed here for good (seals against growing and shrinking); memory is taken
 * by the fill. `o` may be NULL. Release with share_free, which does not disturb readers. */
int share_create(struct share **ret, uint64_t bytes, const struct share_options *o,
                 struct error *reterr);
void share_free(struct share *s);

/* A share in memory that somebody else made (base/memfile.h) and reads by a descriptor of his own:
 * filled and sealed here, never read. `fd` stays the caller's. -EINVAL when it is not such memory
 * of exactly `bytes`. */
int share_adopt(struct share **ret, int fd, uint64_t bytes, struct error *reterr);

typedef void (*share_progress_fn)(void *ctx, uint64_t bytes_done, uint64_t bytes_total);

/* Copies the first `bytes` (of share_create) of file `fd` in and compares the SHA-256 of what
 * arrived with `expect`: -EBADMSG when the file is damaged or not that image, -EIO when it is too
 * short or unreadable. `progress` may be NULL. Once per share. */
int share_fill(struct share *s, int fd, const struct digest *expect, share_progress_fn progress,
               void *ctx, struct error *reterr);

/* All seals. After it no process can write, map writable, resize or unseal. -EINVAL unfilled. */
int share_seal(struct share *s, struct error *reterr);

/* The read-only descriptor to hand out; owned by the share. -1 until sealed. */
int share_reader_fd(const struct share *s);

/* What sandbox_lock() must leave open between share_create and share_seal. */
void share_keep_fds(const struct share *s, int ret_fds[2]);

uint64_t share_bytes(const struct share *s);      /* as given to share_create */
uint64_t share_huge_bytes(const struct share *s); /* how many of them lie in 2 MiB pages */
enum share_backing share_backing(const struct share *s);

/* --- readers --- */

struct share_view {
    const void *data; /* 2 MiB aligned */
    uint64_t bytes;   /* of the descriptor; zero padding included */
};

/* Verifies that `fd` is a share (shared memory, every seal set, opened read-only, not longer than
 * `bytes_max`) and maps it read-only: -EPERM when it is not immutable, -EINVAL when it is no such
 * file, -E2BIG. The file's mode is not asked: its owner may change it, and the seals outrank it.
 * `populate`: enter all pages now rather than on first touch. `fd` stays the caller's and may be
 * closed. */
int share_map(struct share_view *ret, int fd, uint64_t bytes_max, bool populate,
              struct error *reterr);
/* From now on not even this process can unmap, move or replace the view (mseal). Returns 0 or
 * -ENOSYS on kernels without it (before 6.10). */
int share_freeze(const struct share_view *v);
void share_unmap(struct share_view *v); /* not after share_freeze */
