/*
 * Directories that the operator opened to clients: a path that a client names is resolved below one
 * of them or refused. The kernel keeps it there (openat2, RESOLVE_BENEATH), whatever symbolic links
 * say and whoever changes them meanwhile.
 */
#pragma once

#include "base/error.h"

#include <stdint.h>

#define ROOTS_MAX 16u
#define ROOT_PATH_BYTES 4096

struct root {
    char path[ROOT_PATH_BYTES]; /* as the operator wrote it, made absolute */
    char real[ROOT_PATH_BYTES]; /* without symbolic links */
    int fd;                     /* a later rename leads nowhere else */
};

struct roots {
    struct root list[ROOTS_MAX];
    uint32_t count;
};

/* Opens one more of at most ROOTS_MAX; names what is wrong with it. */
int roots_add(struct roots *r, const char *path, struct error *err);
void roots_close(struct roots *r);

/* The directory that a client means: an absolute path below a root, or a relative one that exists
 * below one of them, the first that does. *ret_fd is that root's, borrowed; ret_path is relative to
 * it. -EACCES when it leads out of the roots, -ENOENT when it is not there, -ENOTDIR. */
int roots_resolve(const struct roots *r, const char *path, int *ret_fd,
                  char ret_path[ROOT_PATH_BYTES], struct error *err);

/* Opens `path` below the root for reading; -EXDEV or -ELOOP when a link leads out. */
int root_open(int root_fd, const char *path, int flags);
