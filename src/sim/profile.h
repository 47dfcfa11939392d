/*
 * What things cost on a machine, for the simulator: a JSON document in which each constant is
 *
 *   "step_us": {"value": 20300, "unit": "us", "source": "where the number comes from"}
 *
 * so that no number is without its origin. Strict: a constant that is missing, not known, of
 * another unit or absurd is refused by its name. The shipped profiles (profiles/NAME.json) are part
 * of the program and are found by their name.
 *
 * The cost of an engine step is linear, as in policy/cost.h, with the keys and values that decoding
 * reads beside it: us = step + prompt * rows of prompts + decode * rows that decode
 * + context * tokens in their caches (+ lora, where a step has rows of adapters unmerged).
 */
#pragma once

#include "base/error.h"
#include "policy/cost.h"

#include <stddef.h>
#include <stdint.h>

#define PROFILE_BACKBONES_MAX 16u
#define PROFILE_NAME_BYTES 64
#define PROFILE_BYTES_MAX (1u << 20)

/* eager: an engine without paged KV memory, captured graphs or kernels of its own (Transformers),
 * as the systems run on that batch statically. A profile without it has it as paged. */
enum profile_engine { PROFILE_PAGED, PROFILE_EAGER, PROFILE_ENGINES };

struct profile_step {
    struct cost_step linear;
    double context_us; /* each token of context of a row that decodes */
    double lora_us;    /* a step with adapters */
};

struct profile_backbone {
    char name[PROFILE_NAME_BYTES];
    uint64_t bytes;
    uint64_t kv_token_bytes;
    uint64_t work_bytes; /* that a process holds for its steps' intermediate results */
    struct profile_step steps[PROFILE_ENGINES];
};

struct profile {
    char name[PROFILE_NAME_BYTES];
    char device_name[PROFILE_NAME_BYTES];
    uint64_t device_bytes; /* memory of a device */
    uint64_t worker_bytes; /* that a process holds on it, beside KV */
    uint32_t node_devices;
    uint64_t host_bytes; /* of a node, for what is kept below its devices; 0: no such tier */
    uint64_t kv_step_bytes;
    uint32_t step_rows;  /* of prompts, in one step at most */
    double disk_us_byte; /* a node's disk, to everything */
    double link_us_byte; /* host memory to a device, each */
    uint64_t load_us;    /* of any load, beside its bytes */
    /* The start of a process: what of it a system pays is its own affair. */
    uint64_t container_us;
    uint64_t library_us; /* interpreter and libraries */
    uint64_t context_us; /* on the device */
    uint64_t kernels_us; /* compiled on first use */
    uint64_t module_us;  /* precompiled ones loaded */
    uint64_t fork_us;    /* of a process that has its libraries */
    uint64_t bind_us;    /* an adapter made known to a process that has it in memory */
    uint64_t attach_us;  /* the same by tensors over CUDA IPC, as the paper does it */
    uint64_t end_us;     /* of a process, until its memory is free */
    uint64_t turn_us;    /* from one process's turn to the next one's first step */
    uint64_t request_us; /* of a request, outside of engine and queue */
    uint64_t adapter_bytes;
    double always_on_usd_hour; /* a device by the hour, whatever runs on it */
    uint32_t vcpus;            /* that drive a device; of a CPU profile, that compute */
    uint32_t is_gpu;           /* for the prices */
    uint32_t backbone_count;
    struct profile_backbone backbones[PROFILE_BACKBONES_MAX];
};

/* `where` names the document in errors. */
int profile_parse(struct profile *ret, const char *where, const char *json, size_t len,
                  struct error *err);
/* The name of a shipped profile, or of a file (one with a '/' or a '.' in it). */
int profile_read(struct profile *ret, const char *name, struct error *err);
/* The names of the shipped ones; NULL after the last. */
const char *profile_shipped(size_t index);
