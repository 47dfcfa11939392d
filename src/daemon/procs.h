/*
 * The daemon's processes: the only place that starts one, talks to it and sees it end. A process
 * is a sandboxed `sllora-worker` in some role with one channel. What its records mean is the
 * owner's business (workers.c, deploy.c).
 */
#pragma once

#include "sandbox/sandbox.h"
#include "wire/wire.h"

#include <event2/event.h>

struct procs; /* what all processes have in common */
struct proc;

struct proc_events {
    /* One record; descriptors are taken with wire_take_fd(c, r, i), the rest are closed. */
    void (*record)(void *context, struct proc *p, struct wire_cursor *c,
                   const struct wire_record *r);
    /* The process was reaped and everything it sent has been delivered; p is freed afterwards.
     * `how` says what happened, for a log line. */
    void (*exited)(void *context, struct proc *p, const char *how);
};

/* `features`: what the sandbox uses. */
int procs_open(struct procs **ret, struct event_base *base, const char *program,
               const struct sandbox_features *features, uint32_t use, struct error *err);
/* Kills every process, waits for them, frees. No events are delivered. */
void procs_close(struct procs *ps);
/* Sends what has been put to all processes since the last flush. */
void procs_flush(struct procs *ps);

struct proc_options {
    enum sandbox_role role;
    uint32_t number;           /* distinguishes uid, memory group and name among the living */
    uint64_t memory_bytes_max; /* private memory; the shared backbone does not count */
    uint64_t file_bytes_max;   /* packer: its output */
    uint32_t threads;
    bool has_gpu; /* keeper and worker: on a GPU */
    uint32_t gpu; /* its index */
    struct proc_events events;
    void *context;
};

int proc_start(struct proc **ret, struct procs *ps, const struct proc_options *o,
               struct error *err);
/* The same as a copy of a zygote, of role SANDBOX_WORKER. Whether it could be made is seen by its
 * end. Zygotes end with all their copies. */
int proc_fork(struct proc **ret, struct proc *zygote, const struct proc_options *o,
              struct error *err);
/* Queues a record; its descriptor is duplicated. A process that does not read for too long is
 * killed. */
void proc_put(struct proc *p, enum wire_type type, const void *fixed, size_t fixed_bytes,
              const void *tail, size_t tail_bytes, int fd);
/* The same without a tail and with up to WIRE_FDS_MAX descriptors. */
void proc_put_fds(struct proc *p, enum wire_type type, const void *fixed, size_t fixed_bytes,
                  const int *fds, uint32_t fd_count);
void proc_kill(struct proc *p);
/* Of its memory group, from now on; what cannot be set leaves the one before. */
void proc_limit_memory(struct proc *p, uint64_t bytes);
/* No more events from it; it is killed and reaped on its own. */
void proc_abandon(struct proc *p);

pid_t proc_pid(const struct proc *p);         /* 0: a copy that is still to be made */
uint64_t proc_spawn_us(const struct proc *p); /* clone, maps, exec; of a copy the clone */
uint64_t proc_started_us(const struct proc *p);
