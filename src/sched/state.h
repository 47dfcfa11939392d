/*
 * The core's picture of the world; private to sched/. Fixed tables in the caller's memory, linked
 * by indices, so that a copy of the memory is a copy of the world.
 *
 * A request is in exactly one list: its domain's waiting list, its worker's running list, or the
 * list of refusals that the next plan gives out.
 */
#pragma once

#include "sched/sched.h"

#include <stdbool.h>

struct request_list {
    uint32_t head, tail, count;
};

enum request_state { REQUEST_FREE, REQUEST_WAITING, REQUEST_RUNNING, REQUEST_REFUSED };

struct request {
    uint64_t id;
    uint64_t arrived_us;
    uint32_t state; /* enum request_state */
    uint32_t function;
    uint32_t worker;     /* while running */
    uint32_t next, prev; /* in its list; next also links the free entries */
    uint32_t hash_next;
    uint32_t reason; /* while refused */
    bool cancel_due; /* the client left; CANCEL not sent yet */
    bool cancelled;  /* CANCEL sent */
};

struct function {
    uint32_t domain;
    uint32_t backbone;
    uint32_t waiting;
    uint32_t running;
    bool used;
    bool removing;
};

struct domain {
    struct route_domain key;
    struct request_list waiting;
    uint32_t worker; /* SCHED_NONE: no process */
    uint32_t functions;
    uint32_t spawn_failures;           /* in a row */
    uint32_t hungry_next, hungry_prev; /* list of domains with waiting requests */
    bool used;
};

enum backbone_state { BACKBONE_COLD, BACKBONE_LOADING, BACKBONE_RESIDENT, BACKBONE_DROPPING };

struct backbone_entry {
    uint64_t bytes;
    uint64_t used_us;
    uint32_t state; /* enum backbone_state */
    uint32_t workers;
    uint32_t waiting; /* requests of its functions */
};

enum slot_state { SLOT_EMPTY, SLOT_BINDING, SLOT_BOUND };

struct slot {
    uint32_t function;
    uint32_t state; /* enum slot_state */
    uint32_t running;
};

enum worker_state { WORKER_FREE, WORKER_STARTING, WORKER_READY, WORKER_ENDING };

struct worker {
    struct request_list running;
    struct slot slots[SCHED_SLOTS_MAX];
    uint64_t idle_since_us;
    uint32_t state; /* enum worker_state */
    uint32_t domain;
    uint32_t backbone;
};

struct sched {
    struct sched_config config;
    struct function *functions;           /* [functions_max] */
    struct domain *domains;               /* [functions_max] */
    struct backbone_entry *backbones;     /* [backbones_max] */
    struct worker *workers;               /* [workers_max] */
    struct request *requests;             /* [request_entries] */
    uint32_t *buckets;                    /* [bucket_count], heads of hash chains */
    bool *wants;                          /* [workers_max], scratch of one plan */
    struct offload_candidate *candidates; /* [max(workers_max, backbones_max)], scratch */
    uint32_t request_entries;
    uint32_t bucket_count;

    uint32_t request_free;
    struct request_list refused;
    uint32_t hungry_head, hungry_tail;
    uint32_t cancels_due;
    uint32_t forgets_due;
    uint32_t live; /* waiting and running requests */
    uint64_t memory_bytes;
    uint64_t tokens_prompt, tokens_new;

    uint32_t turn_worker; /* SCHED_NONE: the device is free */
    uint32_t turn_last;
    bool turn_revoked;
    uint64_t turn;
    uint64_t turn_began_us;
    uint64_t armed_us;
};

/* A REQUEST event: it waits in its domain, or it is refused. */
void request_arrive(struct sched *s, const struct sched_event *e);
struct request *request_find(struct sched *s, uint64_t id);
/* Takes the request out of the list that it is in and fixes every count. */
void request_unlink(struct sched *s, struct request *r);
void request_run(struct sched *s, struct request *r, uint32_t worker);
void request_refuse(struct sched *s, struct request *r, enum sched_reason reason);
void request_release(struct sched *s, struct request *r);
/* Refuses every waiting request of the domain; of one function only unless it is SCHED_NONE. */
void domain_refuse_waiting(struct sched *s, struct domain *d, uint32_t function,
                           enum sched_reason reason);
struct slot *worker_slot(struct worker *w, uint32_t slots_max, uint32_t function);
bool function_is_forgettable(const struct function *f);
