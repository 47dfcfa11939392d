/*
 * The scheduler core: events in, actions out. It keeps the picture of the world (memories, devices,
 * backbones, functions, workers, requests) and decides; it does no I/O, reads no clock, allocates
 * nothing after sched_init and keeps no globals, so the daemon and the simulator run the same code
 * and a log of events replays to identical actions.
 *
 *   while (next_event(&ev)) {
 *           sched_apply(s, &ev);
 *           do {
 *                   n = sched_plan(s, now_us, actions, max, &more);
 *                   execute(actions, n);
 *           } while (more);
 *   }
 *
 * Everything is numbered by small indices. Nodes, devices, backbones, functions and owners get
 * theirs from the caller, who reuses none while the core still names it; workers and copies are
 * slots that the core gives out (SPAWN, LOAD) and reuses when they have ended (WORKER_EXITED,
 * COPY_FAILED, COPY_DROPPED).
 *
 * A *place* is a memory with a budget: a device's, or a node's host memory as the tier below its
 * devices. A *copy* is a backbone or an adapter in a place. A *spare* is a worker without a domain.
 */
#pragma once

#include "policy/cost.h"
#include "policy/forecast.h"
#include "policy/route.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum sched_batching {
    SCHED_BATCH_ADAPTIVE, /* N and d from the fitted cost, sequences join at any step */
    SCHED_BATCH_FIXED,    /* batch_fixed at most, filled or expired, joined at any step */
    SCHED_BATCH_OFF,      /* one request at a time */
    SCHED_BATCH_STATIC,   /* the paper's: N and d, but a batch runs to its end, and nothing else is
                           * admitted meanwhile; batch_fixed bounds it, 0: nothing does */
};

#define SCHED_KEEP_ALIVE_AUTO UINT64_MAX /* decided for each worker by forecast and cost */

struct sched_config {
    uint32_t nodes_max;
    uint32_t devices_max;
    uint32_t functions_max;
    uint32_t backbones_max;
    uint32_t owners_max;
    uint32_t workers_max;
    uint32_t copies_max;
    uint32_t requests_max;         /* waiting or running, all functions */
    uint32_t function_waiting_max; /* waiting, one function */
    uint32_t owner_live_max;       /* waiting or running, one owner, unless OWNER says otherwise */
    uint32_t domain_workers_max;   /* of one domain, each on a device of its own */
    uint32_t worker_running_max;   /* requests submitted to one worker at a time */
    uint32_t worker_slots_max;     /* functions bound to one worker at a time, <= SCHED_SLOTS_MAX */
    uint32_t spawn_attempts_max;   /* workers that die before they are ready, in a row */
    uint32_t step_rows_max;        /* rows of one engine step */
    uint32_t batching;             /* enum sched_batching */
    uint32_t batch_fixed;
    uint32_t no_sharing; /* a backbone copy for each domain */
    uint32_t no_preload; /* nothing is loaded or started ahead of need */
    uint32_t no_offload; /* nothing goes before its time is up; who needs memory waits */
    uint64_t keep_alive_us;
    uint64_t turn_us;
    uint64_t plan_period_us;  /* every device is planned once in it */
    uint64_t batch_window_us; /* longest wait for a batch to fill */
    uint64_t slo_ttft_us;     /* of functions that name none: an order, never a refusal */
    uint64_t slo_tpot_us;
    uint64_t kv_step_bytes;       /* KV memory is granted in multiples of it */
    uint64_t kv_worker_bytes_max; /* what one worker may have of it */
    double price_bytes;           /* see policy/keepalive.h */
};

#define SCHED_SLOTS_MAX 64u
#define SCHED_NONE UINT32_MAX

/* --- events --- */

enum sched_event_type {
    SCHED_NODE = 1,    /* node, bytes of its host memory as a tier (0: none) */
    SCHED_DEVICE,      /* device, node, bytes, more_bytes that any worker holds beside KV, us of a
                        * worker's start; keeps_work: workers hold what they compute in (work_bytes
                        * of their backbone) as long as they live, not only while they run something
                        */
    SCHED_BACKBONE,    /* backbone, bytes, more_bytes of KV for a token, work_bytes that a worker
                        * of it holds besides, step, us of a load from the disk, more_us of one
                        * from host memory */
    SCHED_OWNER,       /* owner, tokens: requests at a time */
    SCHED_DEPLOYED,    /* function, backbone, owner, isolation, bytes of the adapter (0: none), us
                        * and more_us: objectives for the first token and each further one (0:
                        * none named) */
    SCHED_REMOVED,     /* function: no new requests; what runs ends */
    SCHED_REQUEST,     /* request (unique), function, tokens: the prompt's, roughly, more_tokens:
                        * to generate at most */
    SCHED_CLIENT_GONE, /* request */
    SCHED_ADMITTED,    /* request, tokens of the prompt */
    SCHED_TOKENS,      /* request, tokens generated since the last of these */
    SCHED_DONE,        /* request, tokens of the prompt, more_tokens generated, steps: prompt tokens
                        * found in a cache, us of device time */
    SCHED_TURN_ENDED,  /* worker, us of device time, steps, tokens: rows of prompts, more_tokens:
                        * rows that decoded, stalled: what runs lacks KV memory to go on */
    SCHED_WORKER_READY,   /* worker, us that its start took */
    SCHED_WORKER_BOUND,   /* worker, function, us */
    SCHED_BIND_FAILED,    /* worker, function */
    SCHED_WORKER_RESIZED, /* worker, bytes of KV that it is down to */
    SCHED_WORKER_EXITED,  /* worker */
    SCHED_COPY_LOADED,    /* copy, us */
    SCHED_COPY_FAILED,    /* copy */
    SCHED_COPY_DROPPED,   /* copy: it is gone, asked or not */
    SCHED_TICK,           /* the timer that ARM_TIMER asked for */
    SCHED_EVENT_COUNT,
};

struct sched_event {
    uint64_t now_us;
    uint64_t request;
    uint64_t bytes, more_bytes;
    uint64_t work_bytes;
    uint64_t us, more_us;
    struct cost_step step;
    uint32_t type; /* enum sched_event_type */
    uint32_t node;
    uint32_t device;
    uint32_t backbone;
    uint32_t owner;
    uint32_t function;
    uint32_t worker;
    uint32_t copy;
    uint32_t isolation; /* enum route_isolation */
    uint32_t tokens, more_tokens;
    uint32_t steps;
    uint32_t stalled;
    uint32_t keeps_work;
};

/* --- actions --- */

enum sched_action_type {
    SCHED_LOAD = 1,  /* copy, place; backbone or function: what it is of; from: the place that has
                      * it, SCHED_NONE: the disk; and the host copy that is made on the way */
    SCHED_DROP,      /* copy: give its memory back */
    SCHED_SPAWN,     /* worker, device, copy of its backbone, bytes of KV: a sandboxed process with
                      * the backbone mapped, and no domain yet */
    SCHED_BIND,      /* worker, function, slot, domain, copy of its adapter (SCHED_NONE: none) */
    SCHED_UNBIND,    /* worker, function, slot */
    SCHED_RESIZE,    /* worker, bytes: KV memory that it may have from now on; is_most: and ever */
    SCHED_SUBMIT,    /* worker, request, slot, us: its deadline */
    SCHED_CANCEL,    /* worker, request */
    SCHED_GRANT,     /* worker, turn, rows of prompts in a step; prompts_first: who decodes waits
                      * until no prompt is left */
    SCHED_REVOKE,    /* worker, turn */
    SCHED_KILL,      /* worker */
    SCHED_REFUSE,    /* request, reason, us: come again after (0: not known); the core forgot it */
    SCHED_RECEIPT,   /* request, function, receipt: it ended after it ran; the core forgot it */
    SCHED_IDLE_BILL, /* function, byte_s: what was kept for it while it did not run */
    SCHED_FORGET,    /* function: nothing refers to it any more, the number is free */
    SCHED_ARM_TIMER, /* us: the time of the next TICK, replaces the one before */
    SCHED_ACTION_COUNT,
};

enum sched_reason {
    SCHED_REASON_NONE = 0,
    SCHED_FUNCTION_QUEUE_FULL,
    SCHED_OWNER_LIMIT,
    SCHED_SERVER_FULL,
    SCHED_TOO_LARGE,
    SCHED_TOO_LATE,       /* it could not meet its objective */
    SCHED_WORKER_LOST,    /* its worker ended while it ran */
    SCHED_START_FAILED,   /* workers for it die before they are ready */
    SCHED_LOAD_FAILED,    /* its backbone could not be put into memory */
    SCHED_ADAPTER_FAILED, /* its adapter could not be loaded or bound */
    SCHED_FUNCTION_GONE,  /* removed before it ran */
    SCHED_REASON_COUNT,
};

/* What one request used, all of it, once. */
struct sched_receipt {
    uint64_t arrived_us;
    uint64_t load_us;  /* it waited for its backbone or adapter, */
    uint64_t start_us; /* for a process, */
    uint64_t bind_us;  /* for its function to be bound, */
    uint64_t queue_us; /* for its turn to be submitted, in this order */
    uint64_t first_us; /* from arrival to the first token; 0: there was none */
    uint64_t total_us;
    uint64_t device_us;
    double own_byte_s;      /* its share of its worker's private memory and adapter, byte seconds */
    double backbone_byte_s; /* its share of the backbone */
    uint32_t prompt_tokens, cached_tokens, new_tokens;
    uint32_t completed; /* 1: DONE came; 0: its worker was lost */
};

struct sched_action {
    uint64_t request;
    uint64_t us;
    uint64_t turn; /* GRANT, REVOKE: number of the turn */
    uint64_t bytes;
    double byte_s;
    struct route_domain domain;
    uint32_t type; /* enum sched_action_type */
    uint32_t function;
    uint32_t backbone;
    uint32_t worker;
    uint32_t device;
    uint32_t slot;
    uint32_t copy;
    uint32_t host_copy;
    uint32_t place;
    uint32_t from;
    uint32_t rows;
    uint32_t reason; /* enum sched_reason; of a RECEIPT: why it did not complete */
    uint32_t is_most;
    uint32_t prompts_first;
    struct sched_receipt receipt;
};

_Static_assert(sizeof(struct sched_event) == 136, "written to event logs as it is");
_Static_assert(sizeof(struct sched_action) == 208, "written to event logs as it is");

struct sched; /* lives in the memory that the caller gave */

/* Bytes needed for a configuration; 0 when it is out of range. */
size_t sched_bytes(const struct sched_config *config);

/* memory: sched_bytes() bytes, aligned to 16, the caller's, for as long as the core is used. */
struct sched *sched_init(void *memory, const struct sched_config *config);

void sched_apply(struct sched *s, const struct sched_event *event);

/* Writes up to `max` actions (max >= SCHED_ACTIONS_MIN) and returns how many; *ret_more: they did
 * not all fit, carry these out and call again. */
#define SCHED_ACTIONS_MIN 8u
uint32_t sched_plan(struct sched *s, uint64_t now_us, struct sched_action *actions, uint32_t max,
                    bool *ret_more);

/* Asserts every invariant: each request in one queue, counts add up, memory within every budget, a
 * worker in one domain, what was used is somebody's. For tests and the simulator: it visits
 * everything. */
void sched_check(const struct sched *s);

/* The place of a node's host memory; a device's place is its own number. */
uint32_t sched_host_place(const struct sched_config *config, uint32_t node);

const char *sched_reason_name(uint32_t reason);
const char *sched_event_name(uint32_t type);
const char *sched_action_name(uint32_t type);
