/*
 * Every limit and choice of the daemon, in one struct, set from flags once at start.
 */
#pragma once

#include "base/error.h"
#include "daemon/roots.h"
#include "gateway/gateway.h"
#include "sched/sched.h"

#include <stdbool.h>
#include <stdint.h>

struct daemon_config {
    const char *listen;        /* "127.0.0.1:8080" */
    char data_dir[4096];       /* registry, images, lock, admin socket */
    char admin_socket[108];    /* data_dir/admin.sock */
    char worker_program[4096]; /* sllora-worker, beside sllora */
    const char *event_log;     /* NULL: data_dir/events.log; "": none */
    uint64_t event_log_bytes_max;
    bool sandbox_weak;
    const char *lora_roots[ROOTS_MAX]; /* below them clients may load adapters */
    uint32_t lora_root_count;

    const char *prices; /* file; NULL: policy/price.h's defaults */
    struct sched_config sched;
    struct gateway_limits gateway;

    bool has_gpu;              /* a GPU computes, not the processors */
    uint32_t gpu;              /* which one */
    uint64_t gpu_memory_bytes; /* budget there; 0: what daemon_config_budget makes of all it has */
    uint64_t memory_bytes;     /* budget for backbones, adapters and workers; with a GPU for what is
                                * kept below it, from where it comes back sooner than from disk */
    uint64_t kv_bytes;         /* of one worker, at most; 0 before daemon_config_finish: as usual */
    uint32_t kv_dtype;         /* see struct wire_attach */
    uint32_t rows_max;         /* token budget of one engine step */
    uint32_t worker_threads;   /* 0: all processors */
    uint32_t context_max;      /* 0: the model's */
    bool prefix_cache;         /* keep known KV blocks for prompts that begin alike */
    uint32_t deploys_max;      /* running at one time */
    uint32_t start_timeout_ms; /* a process that is not ready by then is killed */
    uint32_t hang_timeout_ms;  /* a worker that does not give its turn back is killed */
    uint32_t drain_timeout_ms; /* at shutdown, for answers that are being written */
};

/* What a worker holds beside its KV memory, activations and scratch: libraries, tables, stacks. */
#define WORKER_BASE_BYTES (UINT64_C(4) << 20)

/* The same on a GPU, of whose memory a context takes 300 to 500 MiB and the kernels a few more. */
#define GPU_WORKER_BYTES (UINT64_C(512) << 20)
/* What a worker computes in there beside what one on processors would: attention's spans and the
 * logits of 64 rows. */
#define GPU_WORK_BYTES (UINT64_C(128) << 20)
/* And of the host's memory, beside what no account holds: the driver's own, logits, what samples.
 */
#define GPU_HOST_BYTES (UINT64_C(2) << 30)

/* The defaults; data_dir and budget come from the environment and the machine. */
void daemon_config_default(struct daemon_config *c);
/* --device: cpu, gpu or gpu:N. */
int daemon_config_device(struct daemon_config *c, const char *text, struct error *err);
/* The budget on a GPU that has so many bytes; checked as --memory is without one. */
int daemon_config_budget(struct daemon_config *c, uint64_t gpu_bytes, struct error *err);
/* Derives paths and checks every number; names the flag that is wrong. */
int daemon_config_finish(struct daemon_config *c, struct error *err);
