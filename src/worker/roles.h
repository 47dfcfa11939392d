/*
 * What a started sllora-worker can be. Each role gets a channel and its limits, locks itself into
 * its sandbox before it looks at anything untrusted, and returns the process's exit status.
 */
#pragma once

#include "base/error.h"
#include "sandbox/sandbox.h"
#include "weights/share.h"
#include "wire/wire.h"

#include <stdint.h>

struct role_options {
    int chan;
    uint32_t features;         /* of the sandbox */
    uint64_t memory_bytes_max; /* private memory; 0: no limit */
    uint64_t file_bytes_max;
    uint32_t threads;  /* 0: as many as it may run on */
    uint64_t began_us; /* when main() began */
};

int role_packer(const struct role_options *o);
int role_keeper(const struct role_options *o);
int role_stager(const struct role_options *o);
int role_zygote(const struct role_options *o);
int role_worker(const struct role_options *o);

/* Of the engine's pool, which starts under the filter: it allows threads and nothing else of clone.
 */
#define WORKER_THREADS_MAX 256u
#define ROLE_FDS_MAX 512u

/* Locks the sandbox and tries what must not work. `fds`: stay open beside the channel. */
int role_lock(const struct role_options *o, enum sandbox_role role, uint32_t threads_max,
              const int *fds, size_t fd_count, struct error *err);

/* Sends one record at once; blocks. The peer being gone ends the process: nothing is left to do. */
void role_send(int chan, enum wire_type type, const void *fixed, size_t fixed_bytes,
               const void *tail, size_t tail_bytes, int fd);
/* LOADED of what fills `s` now. fd < 0: whoever asked has a reader already. */
void role_loaded(const struct role_options *o, const struct wire_load *load, const struct share *s,
                 uint64_t load_us, int fd);
/* Says why, and returns the exit status of a refusal. */
int role_fail(int chan, const struct error *err);
