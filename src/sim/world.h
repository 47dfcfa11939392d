/*
 * A discrete-event world around the scheduler core: nodes, devices, links, disks, workers and
 * faults in virtual time. It carries out every action as the daemon would and feeds the events
 * back; the policy behind it is the core's own code, or a baseline that speaks the same language.
 *
 * What the model is:
 * - A load has one bottleneck: from the disk its node's disk, from host memory its device's link.
 *   Loads under way at the same bottleneck share it evenly. What a disk load passes on the way to a
 *   device is faster in every profile and costs nothing more.
 * - A worker with the turn runs steps: rows of prompts in the order of submission, as many as the
 *   grant allows, and one row for each sequence that decodes; the time is the profile's. Steps that
 *   are all alike are one event, ended early at the next step's border by a submission or a revoke.
 *   Turns are exclusive: a device's processes share it in time, as without MPS.
 * - A static batch (enum world_batch) takes prompts padded to the longest in one step, then decodes
 *   all its rows until the longest answer is whole; each answer is complete with its batch.
 * - Keys and values take a token's bytes each, without the rounding to blocks. A worker whose
 *   sequences need more than it was granted ends its turn and says so; where there is no more, the
 *   latest sequence gives way and is computed again, and one that would not fit alone is cut short
 *   and has failed. Static batches are left to fit.
 * - Memory for intermediate results is held while a worker runs something.
 * - Starts, binds and ends take the profile's time, whatever else happens on the node. What leaves
 *   memory is gone at once, but for a process's end.
 * - Left out: the network between clients and nodes, the daemon's own computing, power, jitter.
 *
 * The same options give the same results, to the last bit.
 */
#pragma once

#include "base/error.h"
#include "policy/price.h"
#include "sched/view.h"
#include "sim/profile.h"
#include "sim/trace.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Who decides. */
struct world_policy {
    void *state;
    void (*apply)(void *state, const struct sched_event *e);
    uint32_t (*plan)(void *state, uint64_t now_us, struct sched_action *actions, uint32_t max,
                     bool *ret_more);
    void (*check)(const void *state); /* asserts its invariants; may be NULL */
};

enum world_batch {
    WORLD_CONTINUOUS,
    WORLD_STATIC,
};

struct world_function {
    uint32_t backbone; /* of the profile */
    uint32_t owner;
    uint32_t isolation; /* enum route_isolation */
    uint64_t adapter_bytes;
    uint64_t slo_ttft_us, slo_tpot_us; /* what counts as met */
    bool is_refused_late;              /* the core knows the objective as the function's own */
};

/* Faults, each as often as said on average, at times drawn from the seed. */
struct world_faults {
    uint64_t seed;
    double worker_loss_s; /* seconds between two deaths of some worker; 0: none */
    double load_failures; /* share of loads that fail */
};

struct world_options {
    const struct profile *profile;
    struct sched_config sched; /* of the core; nodes, devices, functions, backbones and owners are
                                * set from what is below */
    uint32_t devices;
    uint64_t device_bytes;                  /* 0: the profile's */
    const struct world_function *functions; /* [function_count] */
    uint32_t function_count;
    enum profile_engine engine;
    enum world_batch batch;
    uint64_t worker_bytes; /* that a process holds beside KV */
    uint64_t spawn_us;
    uint64_t bind_us;
    double load_factor; /* that loads take longer than the profile's; 0: 1 */
    uint64_t swap_us;   /* each time that a batch takes in a function that the one before had not */
    /* Decoding for one function alone its adapter is merged into the weights: steps cost no lora_us
     * then. What a merge takes and what undoing it takes, in us a byte of the backbone; 0: it never
     * merges. An engine without work undoes it in its own time. */
    double merge_us_byte;
    const struct world_policy *policy; /* NULL: the core, configured by `sched` */
    struct world_faults faults;
    const struct trace *trace;
    uint64_t lead_us;      /* before the trace begins, for what is always on to come up */
    bool checks;           /* every invariant after every event */
    bool keeps_no_samples; /* a single sum instead of a sample a request: for runs of millions */
};

enum world_outcome { WORLD_OPEN, WORLD_COMPLETED, WORLD_REFUSED, WORLD_FAILED };

/* What a request waits for before a worker has it, as in its receipt. */
enum world_wait {
    WORLD_WAIT_LOAD,
    WORLD_WAIT_START,
    WORLD_WAIT_BIND,
    WORLD_WAIT_QUEUE,
    WORLD_WAITS
};

/* What became of one request of the trace. */
struct world_sample {
    uint32_t function;
    uint32_t new_tokens;
    uint8_t outcome; /* enum world_outcome */
    bool was_cold;   /* it waited for a load, a process or a bind */
    bool met;        /* its first token came within the objective */
    float ttft_ms;
    float e2e_ms;
    float wait_ms[WORLD_WAITS];
};

struct world_totals {
    uint64_t requests, completed, refused, failed;
    uint64_t cold, met;
    uint64_t events; /* applied to the policy */
    uint64_t actions;
    uint64_t tokens_new;
    uint64_t batch_peak;    /* most sequences in one step */
    double batch_mean;      /* sequences in a step that decodes, over steps */
    double span_s;          /* from the first moment to the last answer, or the trace's end */
    double active_byte_s;   /* memory of devices while requests ran on it: receipts */
    double idle_byte_s;     /* kept for a function */
    double platform_byte_s; /* kept for nobody in particular */
    double device_byte_s;   /* the sum of these three, measured by the world itself */
    double host_byte_s;
    double device_s;                    /* of steps */
    double own_byte_s, backbone_byte_s; /* parts of active_byte_s */
    double ttft_ms_sum;                 /* of completed requests */
};

struct world_result {
    struct world_totals totals;
    struct world_sample *samples; /* [totals.requests], in the trace's order; owned; or NULL */
    size_t count;
};

/* Memory of each device. */
uint64_t world_device_bytes(const struct world_options *o);

/* The limits and periods that a daemon of this size would have; what a system decides is left to
 * it. */
struct sched_config world_config(const struct profile *p, uint32_t devices,
                                 uint32_t function_count);

/* `o->sched` with the sizes that the options call for: what a core of one's own is made with. */
struct sched_config world_sched_config(const struct world_options *o);

/* -EINVAL: the options fit no world (a sentence says which). */
int world_run(const struct world_options *o, struct world_result *ret, struct error *err);
void world_result_free(struct world_result *r);
