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
    bool has_gpu;      /* keeper and worker: on a GPU */
    uint32_t gpu;      /* its index */
    uint64_t began_us; /* when main() began */
};

int role_packer(const struct role_options *o);
int role_keeper(const struct role_options *o);
/* keeper_gpu.c: the same in a GPU's memory; returns when the copy is there. */
int keeper_load_on_gpu(const struct role_options *o, struct error *err);
int role_stager(const struct role_options *o);
int role_zygote(const struct role_options *o);
int role_worker(const struct role_options *o);

/* Of the engine's pool, which starts under the filter: it allows threads and nothing else of clone.
 */
#define WORKER_THREADS_MAX 256u
#define ROLE_FDS_MAX 512u
/* What a GPU's driver has beside. */
#define ROLE_GPU_THREADS 64u
#define ROLE_GPU_FDS 1024u

/* Locks the sandbox and tries what must not work. `fds`: stay open beside the channel. */
int role_lock(const struct role_options *o, enum sandbox_role role, uint32_t threads_max,
              const int *fds, size_t fd_count, struct error *err);
/* The first half of it where o->has_gpu: before the driver is opened. See sandbox_device_begin. */
int role_lock_begin(const struct role_options *o, enum sandbox_role role,
                    struct sandbox_device **ret, struct error *err);
/* And the second half, in place of role_lock. */
int role_lock_with(const struct role_options *o, enum sandbox_role role, uint32_t threads_max,
                   const int *fds, size_t fd_count, struct sandbox_device *device,
                   struct error *err);

/* Sends one record at once; blocks. The peer being gone ends the process: nothing is left to do. */
void role_send(int chan, enum wire_type type, const void *fixed, size_t fixed_bytes,
               const void *tail, size_t tail_bytes, int fd);
void role_send_fds(int chan, enum wire_type type, const void *fixed, size_t fixed_bytes,
                   const int *fds, uint32_t fd_count);
/* Waits for the one LOAD record of a keeper; *ret_fd, the image, is the caller's. */
int role_receive_load(int chan, struct wire_load *ret, int *ret_fd, struct error *err);
void role_progress(int chan, uint64_t done, uint64_t total); /* of a load, now and then */
/* LOADED of what fills `s` now. fd < 0: whoever asked has a reader already. */
void role_loaded(const struct role_options *o, const struct wire_load *load, const struct share *s,
                 uint64_t load_us, int fd);
/* Says why, and returns the exit status of a refusal. */
int role_fail(int chan, const struct error *err);
