/* Scope-bound release of owned things, and giving them away explicitly. */
#pragma once

#include <stdlib.h>
#include <unistd.h>

static inline void cleanup_free_fn(void *p)
{
    free(*(void **)p);
}

static inline void cleanup_fd_fn(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

#define cleanup_free __attribute__((cleanup(cleanup_free_fn)))
#define cleanup_fd __attribute__((cleanup(cleanup_fd_fn)))

/* Returns the descriptor and leaves -1 behind, so that the cleanup has nothing to close. */
static inline int steal_fd(int *fd)
{
    int value = *fd;
    *fd = -1;
    return value;
}

#define steal_pointer(p)                                                                           \
    ({                                                                                             \
        __typeof__(*(p)) steal_value_ = *(p);                                                      \
        *(p) = NULL;                                                                               \
        steal_value_;                                                                              \
    })
