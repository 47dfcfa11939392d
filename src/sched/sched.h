/*
 * The scheduler core: events in, actions out. It keeps the picture of the world (functions,
 * backbones, workers, requests) and decides; it does no I/O, reads no clock, allocates nothing
 * after sched_init and keeps no globals, so the daemon and the simulator run the same code and a
 * log of events replays to identical actions.
 *
 *   while (next_event(&ev)) {
 *           sched_apply(s, &ev);
 *           n = sched_plan(s, now_us, actions, max);   until it returns less than max
 *           execute(actions, n);
 *   }
 *
 * Functions, backbones and workers are numbered by small indices. Function and backbone numbers
 * are chosen by the caller and never reused while the core still names them; worker numbers are
 * slots that the core gives out in SPAWN and reuses after WORKER_EXITED.
 */
#pragma once

#include "policy/route.h"

#include <stddef.h>
#include <stdint.h>

struct sched_config {
    uint32_t functions_max;
    uint32_t backbones_max;
    uint32_t workers_max;
    uint32_t requests_max;         /* waiting or running, all functions */
    uint32_t function_waiting_max; /* waiting, one function */
    uint32_t worker_running_max;   /* requests submitted to one worker at a time */
    uint32_t worker_slots_max;     /* functions bound to one worker at a time, <= SCHED_SLOTS_MAX */
    uint32_t spawn_attempts_max;   /* workers that die before they are ready, in a row */
    uint64_t keep_alive_us;
    uint64_t turn_us;
    uint64_t budget_bytes; /* device memory: resident backbones and workers' private memory */
    uint64_t worker_bytes; /* what one worker may hold privately */
};

#define SCHED_SLOTS_MAX 64u
#define SCHED_NONE UINT32_MAX

enum sched_event_type {
    SCHED_DEPLOYED = 1,  /* function, backbone, owner, isolation; bytes of the backbone */
    SCHED_REMOVED,       /* function: no new requests; what runs ends */
    SCHED_REQUEST,       /* request (unique), function */
    SCHED_CLIENT_GONE,   /* request */
    SCHED_ADMITTED,      /* request, tokens of the prompt */
    SCHED_TOKENS,        /* request, tokens */
    SCHED_DONE,          /* request */
    SCHED_TURN_ENDED,    /* worker, us of device time, has_work */
    SCHED_WORKER_READY,  /* worker */
    SCHED_WORKER_BOUND,  /* worker, function */
    SCHED_BIND_FAILED,   /* worker, function */
    SCHED_WORKER_EXITED, /* worker */
    SCHED_IMAGE_LOADED,  /* backbone, bytes */
    SCHED_IMAGE_FAILED,  /* backbone */
    SCHED_IMAGE_DROPPED, /* backbone: its keeper ended, asked or not */
    SCHED_TICK,          /* the timer that ARM_TIMER asked for */
    SCHED_EVENT_COUNT,
};

struct sched_event {
    uint64_t now_us;
    uint64_t request;
    uint64_t bytes;
    uint64_t us;
    uint32_t type; /* enum sched_event_type */
    uint32_t function;
    uint32_t backbone;
    uint32_t worker;
    uint32_t owner;
    uint32_t isolation; /* enum route_isolation */
    uint32_t tokens;
    uint32_t has_work;
};

enum sched_action_type {
    SCHED_LOAD = 1,  /* backbone: put it into memory */
    SCHED_DROP,      /* backbone: give its memory back */
    SCHED_SPAWN,     /* worker, backbone, domain: a sandboxed process with the backbone mapped */
    SCHED_BIND,      /* worker, function, slot */
    SCHED_UNBIND,    /* worker, function, slot */
    SCHED_SUBMIT,    /* worker, request, slot */
    SCHED_CANCEL,    /* worker, request */
    SCHED_GRANT,     /* worker, turn */
    SCHED_REVOKE,    /* worker, turn */
    SCHED_KILL,      /* worker */
    SCHED_REFUSE,    /* request, reason: answer the client with an error; the core forgot it */
    SCHED_FORGET,    /* function: nothing refers to it any more, the number is free */
    SCHED_ARM_TIMER, /* us: the time of the next TICK, replaces the one before */
    SCHED_ACTION_COUNT,
};

enum sched_reason {
    SCHED_REASON_NONE = 0,
    SCHED_FUNCTION_QUEUE_FULL,
    SCHED_SERVER_FULL,
    SCHED_TOO_LARGE,
    SCHED_WORKER_LOST,    /* its worker ended while it ran */
    SCHED_START_FAILED,   /* workers for it die before they are ready */
    SCHED_LOAD_FAILED,    /* its backbone could not be put into memory */
    SCHED_ADAPTER_FAILED, /* its adapter could not be bound */
    SCHED_FUNCTION_GONE,  /* removed before it ran */
};

struct sched_action {
    uint64_t request;
    uint64_t us;   /* ARM_TIMER: absolute */
    uint64_t turn; /* GRANT, REVOKE: number of the turn */
    struct route_domain domain;
    uint32_t type; /* enum sched_action_type */
    uint32_t function;
    uint32_t backbone;
    uint32_t worker;
    uint32_t slot;
    uint32_t reason; /* enum sched_reason */
};

_Static_assert(sizeof(struct sched_event) == 64, "written to event logs as it is");
_Static_assert(sizeof(struct sched_action) == 64, "written to event logs as it is");

struct sched; /* lives in the memory that the caller gave */

/* Bytes needed for a configuration; 0 when it is out of range. */
size_t sched_bytes(const struct sched_config *config);

/* memory: sched_bytes() bytes, aligned to 16, the caller's, for as long as the core is used. */
struct sched *sched_init(void *memory, const struct sched_config *config);

void sched_apply(struct sched *s, const struct sched_event *event);

/* Writes up to `max` actions (max >= 8) and returns how many. Call again while it returns max. */
uint32_t sched_plan(struct sched *s, uint64_t now_us, struct sched_action *actions, uint32_t max);

/* Asserts every invariant: each request in one queue, counts add up, memory within budget, a worker
 * in one domain. For tests and the simulator: it visits everything. */
void sched_check(const struct sched *s);

/* --- the picture, for `ls`, metrics and the simulator --- */

struct sched_counts {
    uint32_t requests_waiting;
    uint32_t requests_running;
    uint32_t workers;
    uint32_t workers_idle;
    uint64_t memory_bytes;
    uint64_t tokens_prompt; /* since the start */
    uint64_t tokens_new;
    uint32_t turn_worker; /* SCHED_NONE: nobody runs */
};

enum sched_function_state { SCHED_COLD, SCHED_STARTING, SCHED_WARM, SCHED_ACTIVE };

struct sched_function_view {
    enum sched_function_state state;
    uint32_t waiting;
    uint32_t running;
    uint32_t worker; /* of its domain, or SCHED_NONE */
};

void sched_counts(const struct sched *s, struct sched_counts *ret);
void sched_function_view(const struct sched *s, uint32_t function, struct sched_function_view *ret);
const char *sched_reason_name(uint32_t reason);
const char *sched_event_name(uint32_t type);
const char *sched_action_name(uint32_t type);
