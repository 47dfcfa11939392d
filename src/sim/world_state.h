/*
 * The inside of a world; private to world*.c. Everything is numbered as the policy numbers it;
 * requests have slots of their own, since the trace may hold more of them than live at a time.
 */
#pragma once

#include "base/rng.h"
#include "sim/heap.h"
#include "sim/world.h"

#define WORLD_ACTIONS 64u
#define WORLD_BEGIN_US UINT64_C(1000000) /* a clock never stands at 0 */
#define WORLD_SLOTS SCHED_SLOTS_MAX

enum world_kind {
    WORLD_READY,   /* index: worker */
    WORLD_BOUND,   /* worker, detail: slot */
    WORLD_EXITED,  /* worker */
    WORLD_RESIZED, /* worker */
    WORLD_SEGMENT, /* worker, detail: number of the segment */
    WORLD_LINK,    /* link, detail: number of its latest change */
    WORLD_LOADED,  /* copy */
    WORLD_DROPPED, /* copy */
    WORLD_LOSS,    /* of some worker */
};

struct world_request {
    uint64_t id; /* slot + 1, and above it how often the slot was used */
    uint64_t arrived_us;
    size_t index; /* in the trace */
    double device_mark;
    uint64_t ends_at;     /* decoding: it is whole when its worker has decoded so many steps */
    uint32_t prompt;      /* tokens */
    uint32_t new_tokens;  /* of the whole answer */
    uint32_t context;     /* tokens to be in its cache before the next one is made */
    uint32_t prompt_left; /* of them: rows to compute */
    uint32_t left;        /* tokens to make; decoding: when it began to */
    bool is_answered;     /* its first token came */
    bool is_cut;          /* it never fitted: its answer is not whole */
    uint32_t worker;      /* SCHED_NONE: not submitted */
    uint32_t slot;        /* of its function in the worker */
    uint32_t next, prev;  /* in its list of the worker; next also links the free ones */
};

struct world_list {
    uint32_t head, tail, count;
};

/* What a turn has come to. */
struct world_turn {
    uint64_t us;
    uint32_t steps, prompt_rows, decode_rows;
};

/* Steps under way: one with rows of prompts, or alike ones that only decode. */
struct world_segment {
    bool is_on;
    uint32_t number; /* counts the worker's, so that an event of an earlier plan is known as such */
    uint32_t steps;
    uint32_t prompt_rows;
    uint64_t began_us;
    uint64_t lead_us; /* before the first step: the turn's change, adapters taken in */
};

struct world_worker {
    bool alive, ready;
    bool has_turn, revoked;
    uint32_t life;
    uint32_t device, backbone, copy;
    uint64_t kv_bytes, kv_asked;
    bool kv_is_most; /* there will never be more */
    uint32_t slot_function[WORLD_SLOTS];
    uint32_t slot_running[WORLD_SLOTS];
    uint32_t slots_running;    /* with requests */
    uint32_t swaps;            /* functions taken in since the last segment */
    uint32_t merged;           /* slot of the adapter that is in the weights; SCHED_NONE: none */
    struct world_list prompts; /* with rows left, in order of submission */
    struct world_list decodes;
    uint64_t decoded;    /* steps that decoded */
    uint64_t ends_next;  /* the smallest ends_at of those that decode */
    uint64_t context;    /* tokens in the caches of those that decode, */
    uint64_t computed;   /* and of prompts that are computed in part */
    uint32_t rows_max;   /* of prompts in a step, of the grant */
    bool prompts_first;  /* likewise: who decodes waits for them */
    uint32_t batch_rows; /* of a static batch */
    double device_each;  /* us of device time that each sequence has had */
    struct world_turn turn;
    struct world_segment segment;
};

enum world_copy_state { WORLD_COPY_NONE, WORLD_COPY_LOADING, WORLD_COPY_THERE };

struct world_copy {
    uint32_t state; /* enum world_copy_state */
    uint32_t life;
    uint32_t place;
    uint32_t backbone, function;
    uint32_t host_copy;  /* made along with it */
    uint32_t link, next; /* while bytes are moving */
    uint64_t bytes;
    uint64_t began_us;
    double ends_at; /* of the link's progress */
};

/* A bottleneck, shared evenly. */
struct world_link {
    double us_byte;
    double progress; /* bytes that a load under way since the beginning would have had */
    uint64_t at_us;
    uint32_t head, count; /* copies under way */
    uint32_t number;
};

struct world_place {
    uint64_t budget, used;
    uint64_t at_us;
    double byte_us;
    uint32_t turn_worker; /* of a device; SCHED_NONE */
};

struct world {
    const struct world_options *o;
    const struct profile *profile;
    struct world_policy policy;
    struct sched_config config;
    void *core;                     /* the memory of a core of its own; owned */
    struct world_worker *workers;   /* [config.workers_max] */
    struct world_copy *copies;      /* [config.copies_max] */
    struct world_place *places;     /* [devices_max + nodes_max] */
    struct world_link *links;       /* [devices_max] the devices', then [nodes_max] the disks' */
    struct world_request *requests; /* [request_count] */
    uint32_t request_count, request_free;
    uint32_t live; /* requests in it */
    struct heap heap;
    struct rng rng;
    uint64_t now_us;
    uint64_t timer_us;
    size_t next;                       /* request of the trace */
    uint32_t new_tokens_max;           /* that a request asks for: the trace's longest answer */
    int failed;                        /* -errno of an allocation: the run ends */
    uint64_t last_us;                  /* when the last answer was whole */
    uint64_t end_us;                   /* the trace's */
    bool has_begun;                    /* the trace */
    double device_before, host_before; /* byte s that passed before it */
    uint64_t device_us;
    double decode_sequences, decode_steps;
    struct world_sample *samples;
    struct world_totals totals;
};

/* --- world.c --- */

void world_apply(struct world *w, struct sched_event e);
void world_at(struct world *w, uint64_t at_us, enum world_kind kind, uint32_t index,
              uint32_t detail, uint32_t life);
void world_charge(struct world *w, uint32_t place, uint64_t bytes);
void world_release(struct world *w, uint32_t place, uint64_t bytes);
struct world_request *world_request_of(struct world *w, uint64_t id);

/* --- world_load.c --- */

void world_load(struct world *w, const struct sched_action *a);
void world_drop(struct world *w, uint32_t copy);
void world_link_event(struct world *w, uint32_t link, uint32_t number);
void world_loaded_event(struct world *w, uint32_t copy);
void world_dropped_event(struct world *w, uint32_t copy);

/* --- world_worker.c --- */

void world_spawn(struct world *w, const struct sched_action *a);
/* BIND, UNBIND, RESIZE, SUBMIT, CANCEL, GRANT, REVOKE, KILL */
void world_worker_act(struct world *w, const struct sched_action *a);
void world_ready_event(struct world *w, uint32_t worker);
void world_bound_event(struct world *w, uint32_t worker, uint32_t slot);
void world_exited_event(struct world *w, uint32_t worker);
void world_resized_event(struct world *w, uint32_t worker);
/* Some worker dies. */
void world_loss_event(struct world *w);

/* --- world_engine.c --- */

void world_submit(struct world *w, uint32_t worker, struct world_request *r);
void world_grant(struct world *w, uint32_t worker, uint32_t rows, bool prompts_first);
void world_revoke(struct world *w, uint32_t worker);
void world_segment_event(struct world *w, uint32_t worker, uint32_t number);
/* Its sequences are gone. */
void world_engine_clear(struct world *w, uint32_t worker);
