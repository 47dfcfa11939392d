/*
 * The systems that are compared, each a way to set up the same world: what is shared and with whom,
 * how a batch is made, what a start consists of, who pays for what. Each has a file of its own that
 * says what it models and what it leaves out. They get the same machines, the same requests, the
 * same objectives.
 */
#pragma once

#include "sim/figures.h"
#include "sim/fixed.h"

/* What is taken away, for comparison. */
struct system_without {
    bool sharing, preload, offload, batching;
};

struct system_options {
    const struct profile *profile;
    const struct trace *trace;
    const struct world_function *functions; /* isolation and owner are the system's affair */
    uint32_t function_count;
    uint32_t devices;
    uint64_t device_bytes; /* 0: the profile's */
    uint64_t kv_bytes;     /* of one process at most; 0: a device's memory */
    uint32_t owners;       /* who have the functions, in turns; 0: as many as functions */
    uint32_t isolation;    /* enum route_isolation, in place of the system's own; 0: that */
    struct system_without without;
    uint32_t engines;     /* always-on: of each backbone; 0: the fewest that hold the objectives */
    bool batch_adaptive;  /* asked for by name: not of a system whose batches are static */
    uint32_t batch_fixed; /* at most so many in a batch, filled or expired; 0: the system's own */
    uint64_t keep_alive_us; /* 0: the system's own */
    double price_bytes;     /* likewise */
    struct world_faults faults;
    bool checks;
};

/* --hold of this system on GPUs, in --paper: of an operator who sells first tokens, forty times
 * what `sllora serve` has by default. A load takes ten times as long there, and a second copy of a
 * backbone saves a step or two of waiting. */
#define SYSTEM_GPU_HOLD 4.45e13

/* What a system fills in; the machines, requests and functions are there already. */
struct system_setup {
    struct world_options world;
    struct world_function *functions; /* [function_count], the world's */
    enum figures_billing billing;
    bool is_always_on; /* engines of each backbone by themselves: sim/fixed.h */
    bool keeps_together;
};

struct system {
    const char *name;
    const char *title;
    const char *models; /* in a sentence */
    const char *leaves_out;
    void (*set_up)(struct system_setup *s, const struct system_options *o);
};

extern const struct system system_sllora;        /* this one, a process for each function */
extern const struct system system_sllora_shared; /* this one, one operator who owns all adapters */
extern const struct system system_sllora_eager;  /* this one on the published system's engine */
extern const struct system system_published;     /* ServerlessLoRA as in the paper */
extern const struct system system_serverlessllm;
extern const struct system system_instainfer;
extern const struct system system_vllm;
extern const struct system system_dlora;
extern const struct system system_slora;

/* NULL after the last. */
const struct system *system_at(size_t index);
const struct system *system_find(const char *name);

/* Loads by Transformers' own loader: ServerlessLLM's, which the profiles' rates are for, is 3.6
 * to 8.2 times faster than those of PyTorch and Safetensors. Within that, chosen by the paper's
 * row 10. */
#define SYSTEM_LOADER_FACTOR 8.0

/* Memory beside the backbone with which one instance of any function leaves no room for another. */
uint64_t system_whole_device_bytes(const struct system_setup *s);

/* The share of requests within their objectives that an always-on deployment is sized for. */
#define SYSTEM_ATTAINMENT 0.99

/* -EINVAL: also what the system does not have, such as the keep-alive of what is always on. */
int system_run(const struct system *s, const struct system_options *o, struct figures *ret,
               struct error *err);
