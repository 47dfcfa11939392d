/*
 * The core's picture of the world; private to sched/. Fixed tables in the caller's memory, linked
 * by indices, so that a copy of the memory is a copy of the world.
 *
 * A request is in exactly one list: its domain's waiting list, its worker's running list, or the
 * list of those whose end the next plan tells (refused, or with a receipt).
 *
 * What has to be looked at is queued when it changes (domains, devices, memories), so that a plan
 * costs what has happened, not what there is.
 */
#pragma once

#include "policy/batch.h"
#include "policy/keepalive.h"
#include "policy/meter.h"
#include "policy/offload.h"
#include "policy/preload.h"
#include "sched/timers.h"
#include "sched/view.h"

#include <stdbool.h>

struct list {
    uint32_t head, tail, count;
};

enum request_state {
    REQUEST_FREE,
    REQUEST_WAITING,
    REQUEST_RUNNING,
    REQUEST_REFUSED, /* its refusal is to be told */
    REQUEST_ENDED,   /* its receipt is */
};

struct request {
    uint64_t id;
    uint64_t deadline_us; /* of the first token */
    uint64_t give_up_us;  /* waiting, it is refused then; UINT64_MAX: never */
    uint64_t submitted_us;
    uint64_t kv_bytes; /* reserved in its worker */
    uint64_t retry_us; /* refused */
    double prefill_us; /* its part of the device's backlog until the first token; 0 after it */
    double own_mark, adapter_mark, backbone_mark;
    uint64_t decoded_mark; /* its worker's at its first token */
    struct sched_receipt receipt;
    uint32_t state; /* enum request_state */
    uint32_t function;
    uint32_t worker; /* while running */
    uint32_t slot;   /* likewise */
    uint32_t prompt_tokens, new_tokens_max;
    uint32_t next, prev; /* in its list; next also links the free entries */
    uint32_t hash_next;
    uint32_t reason; /* while refused */
    bool cancel_due; /* the client left; CANCEL not sent yet */
    bool cancelled;  /* CANCEL sent */
};

struct function {
    uint32_t domain;
    uint32_t backbone;
    uint32_t owner;
    uint32_t waiting;
    uint32_t running;
    uint32_t copies;                   /* of its adapter, head of a list */
    uint32_t device_copies;            /* of them in devices */
    uint32_t recent_next, recent_prev; /* functions of its backbone, the latest request first */
    uint32_t bill_next;                /* functions with idle_due */
    uint64_t adapter_bytes;            /* 0: none */
    uint64_t slo_ttft_us, slo_tpot_us;
    uint64_t met, missed;
    uint64_t failed_us; /* its adapter could not be loaded or bound last then; 0: never */
    struct cost_mean prompt_tokens, new_tokens; /* of a request */
    struct cost_mean cached_share; /* of prompts that a worker found that had served before */
    double idle_byte_s;            /* billed so far */
    double idle_due;               /* byte us, not billed yet */
    struct forecast forecast;
    bool used;
    bool removing;
    bool has_slo;   /* it named one: what cannot meet it is refused */
    bool is_billed; /* it is in the list of those with idle_due */
};

struct domain {
    struct route_domain key;
    struct list waiting;
    uint32_t workers; /* head of a list */
    uint32_t worker_count;
    uint32_t functions;
    uint32_t last_function;  /* that ran; who is billed for idle memory */
    uint32_t spawn_failures; /* in a row */
    uint32_t device;         /* where its next worker is to start; SCHED_NONE: not decided */
    uint32_t queue_next;     /* of domains to look at */
    uint32_t blocked_next;   /* of those that wait for memory in a place */
    uint32_t blocked_place;  /* SCHED_NONE: in none */
    uint64_t blocked_us;     /* when what it waits for was asked for, */
    uint64_t blocked_id;     /* and the request that did; of one moment the smaller id is first */
    uint64_t give_up_us;     /* of those who wait, nobody is to be given up before */
    uint32_t hungry_next, hungry_prev; /* domains of its backbone with waiting requests */
    uint64_t load_seen_us;             /* when the latest load that it waited for ended */
    bool used;
    bool queued;
    bool wants_worker; /* one is to be started on `device` */
};

struct backbone {
    uint64_t bytes;
    uint64_t kv_token_bytes;
    uint64_t work_bytes; /* of its workers, beside KV and what any worker holds */
    struct cost_fit fit;
    struct cost_mean load;      /* us a byte, from the disk */
    struct cost_mean load_host; /* from a node's host memory */
    struct cost_mean adapter, adapter_host;
    struct cost_mean bind;             /* us */
    struct cost_mean cached_share;     /* of its functions that show it: what of another one's */
    struct forecast starts;            /* workers that were asked for */
    struct forecast forecast;          /* requests of any function */
    uint32_t copies;                   /* head of a list */
    uint32_t device_copies;            /* of them in devices */
    uint32_t recent_head, recent_tail; /* functions, the latest request first */
    uint32_t functions;
    uint32_t hungry_head; /* domains with waiting requests */
    uint32_t waiting;     /* requests */
    uint64_t failed_us;   /* a load or a spare of it failed last then; 0: never */
    bool used;
};

enum copy_kind { COPY_BACKBONE, COPY_ADAPTER };

struct copy {
    struct meter_clock clock; /* shared by the requests that run on it */
    uint64_t bytes;
    uint64_t began_us; /* of the load */
    uint64_t used_us;
    uint64_t planned_us; /* an adapter: it was a candidate of the plan then */
    uint32_t state;      /* enum sched_copy_state */
    uint32_t kind;       /* enum copy_kind */
    uint32_t object;     /* backbone or function */
    uint32_t place;
    uint32_t instance;  /* SCHED_NONE: shared; else the domain that it belongs to alone */
    uint32_t users;     /* workers that map it, slots that bind it */
    uint32_t host_copy; /* being made along with it */
    bool from_host;     /* it comes from the node's host memory */
    uint32_t place_next, place_prev;   /* copies of its place */
    uint32_t object_next, object_prev; /* copies of its object */
    uint32_t hash_next;
    uint32_t free_next; /* of free ones; of those whose DROP is to be told */
    bool leaving;       /* it goes as soon as it is loaded and nobody uses it */
};

enum slot_state { SLOT_EMPTY, SLOT_BINDING, SLOT_BOUND };

struct slot {
    uint32_t function;
    uint32_t state; /* enum slot_state */
    uint32_t running;
    uint32_t copy; /* of the adapter, SCHED_NONE: none */
    uint64_t bound_us;
};

enum worker_state { WORKER_FREE, WORKER_STARTING, WORKER_READY, WORKER_ENDING };

struct worker {
    struct list running;
    struct meter_clock clock; /* its private memory, shared by what runs */
    struct slot slots[SCHED_SLOTS_MAX];
    uint64_t kv_bytes;    /* granted */
    uint64_t kv_asked;    /* resizing: to come down to */
    uint64_t kv_reserved; /* by what runs */
    uint64_t spawned_us, ready_us;
    uint64_t turn_ended_us;
    uint64_t decoded;    /* steps of the turns that ended in which what runs decoded, */
    uint64_t decoded_us; /* and when the last of them did */
    uint64_t batch_us; /* when requests were submitted to it last: a batch, as long as it is now */
    uint32_t state;    /* enum worker_state */
    uint32_t device;
    uint32_t domain; /* SCHED_NONE: a spare */
    uint32_t backbone;
    uint32_t copy; /* of its backbone */
    uint32_t passed_over;
    uint32_t device_next, device_prev; /* workers of its device */
    uint32_t domain_next;              /* workers of its domain */
    uint32_t free_next;
    bool has_served;
    bool works;    /* it runs something, and holds memory to compute in */
    bool resizing; /* RESIZE downwards was asked for */
    bool kv_short; /* what runs has come to need more than was reserved for it */
    bool stalled;  /* it cannot go on without more KV memory: it wants no turn */
};

/* A memory. */
struct place {
    uint64_t budget, used;
    uint64_t leaving; /* of `used`: on its way out */
    bool exists;
    double passed;   /* byte us of `used` */
    double platform; /* byte us of it that were nobody's */
    uint64_t at_us;
    uint32_t copies;  /* head of a list */
    uint32_t devices; /* of a node's: its devices, head of a list */
    uint32_t blocked; /* domains that wait for memory, the oldest first; head of a list */
};

struct device {
    uint64_t worker_bytes;
    struct cost_mean spawn; /* us */
    double contention;
    double backlog_us;
    uint64_t device_us;
    uint64_t turn, turn_began_us;
    uint32_t node;
    uint32_t node_next; /* devices of its node */
    uint32_t workers;   /* head of a list */
    uint32_t worker_count;
    uint32_t active;      /* workers with running requests */
    uint32_t backbones;   /* copies of them, whatever their state */
    uint32_t unanswered;  /* running requests without a first token */
    uint32_t turn_worker; /* SCHED_NONE: the device is free */
    uint32_t queue_next;  /* of devices to look at */
    bool exists;
    bool keeps_work; /* its workers hold what they compute in also while they are idle */
    bool queued;
    bool turn_revoked;
    bool prompts_first; /* of the turn */
};

struct sched {
    struct sched_config config;
    struct place *places;   /* [devices_max + nodes_max] */
    struct device *devices; /* [devices_max] */
    struct backbone *backbones;
    struct function *functions;
    struct domain *domains;   /* [functions_max] */
    uint32_t *domain_buckets; /* [domain_bucket_count], heads of hash chains by key */
    uint32_t *domain_next;    /* [functions_max], the chains; of free ones too */
    uint32_t *owner_live, *owner_max;
    struct worker *workers;
    struct copy *copies;
    struct request *requests; /* [request_entries] */
    uint32_t *buckets;        /* [bucket_count], heads of hash chains by id */
    uint32_t *copy_buckets;   /* [copy_bucket_count], by what is where */
    struct timers timers;

    /* scratch of one plan */
    struct offload_candidate *candidates;
    struct preload_item *items;
    struct preload_node *nodes;
    struct sched_item_view *views; /* see preload.c */
    struct batch_contender *contenders;

    uint32_t request_entries, bucket_count, domain_bucket_count, copy_bucket_count, items_max;
    uint32_t request_free, worker_free, copy_free, domain_free;
    uint32_t device_count, place_count;  /* that there are */
    struct list told;                    /* requests whose end is to be told */
    uint32_t queue_head, queue_tail;     /* domains */
    uint32_t devices_head, devices_tail; /* devices */
    uint32_t drops;                      /* copies whose DROP is to be told */
    uint32_t bills;                      /* functions with idle_due */
    uint32_t cancels_due;
    bool forgets_due;
    uint32_t live; /* waiting and running requests */
    uint32_t running;
    uint64_t tokens_prompt, tokens_new, receipts, met, missed;
    double receipts_byte_us, idle_byte_us; /* billed so far */
    uint32_t removing;                     /* functions */
    uint32_t blocked_count;                /* domains that wait for memory */
    bool tables_full;    /* somebody waits for a worker or a copy to become free */
    uint32_t plan_next;  /* the place that is planned next, */
    uint32_t plan_first; /* but for this one; SCHED_NONE */
    bool plan_due;
    uint64_t armed_us;
    uint64_t now_us; /* the latest that was seen: a clock that jumps back stands still here */
};

/* The instance of a copy whose keeper ended: who maps it keeps it, nobody else gets it. */
#define COPY_ORPHAN (SCHED_NONE - 1)

#define BACKBONE_FUNCTIONS_PLANNED 512u /* the most recently asked for */

static inline bool place_is_device(const struct sched *s, uint32_t place)
{
    return place < s->config.devices_max;
}

/* --- requests.c --- */

void list_append(struct sched *s, struct list *l, struct request *r);
void list_remove(struct sched *s, struct list *l, struct request *r);
/* A REQUEST event: it waits in its domain, or it is refused. */
void request_arrive(struct sched *s, const struct sched_event *e);
struct request *request_find(struct sched *s, uint64_t id);
void request_run(struct sched *s, struct request *r, uint32_t worker, uint32_t slot,
                 uint64_t now_us);
void request_refuse(struct sched *s, struct request *r, enum sched_reason reason,
                    uint64_t retry_us);
/* It ran and is over: its receipt is told by the next plan. */
void request_end(struct sched *s, struct request *r, uint64_t now_us, bool completed);
/* Its first token came, or never will: it is no part of the device's backlog any more. */
void request_answered(struct sched *s, struct request *r);
/* Takes it out of everything; the entry is free. */
void request_release(struct sched *s, struct request *r);
/* Refuses every waiting request of the domain; of one function only unless it is SCHED_NONE. */
void domain_refuse_waiting(struct sched *s, struct domain *d, uint32_t function,
                           enum sched_reason reason);
bool function_is_forgettable(const struct function *f);

/* --- queues.c: what is to be looked at --- */

void domain_look(struct sched *s, uint32_t domain);
void device_look(struct sched *s, uint32_t device);
/* All domains with waiting requests of a backbone. */
void backbone_look(struct sched *s, uint32_t backbone);
/* It waits for memory in the place for something that was asked for then, and is looked at when
 * there may be some and nobody waits for older things. */
void domain_block(struct sched *s, struct domain *d, uint32_t place, uint64_t since_us);
/* Others wait for memory there for something older: it is theirs first. */
bool domain_is_behind(const struct sched *s, uint32_t domain, uint32_t place, uint64_t since_us);
/* All domains with waiting requests, when somebody waits for a free entry of a table. */
void tables_look(struct sched *s);
uint32_t domain_take(struct sched *s, struct route_domain key);
void domain_free(struct sched *s, uint32_t domain);
void domain_unblock(struct sched *s, struct domain *d);
void domain_unwanted(struct sched *s, uint32_t domain);
void domain_claims_less(struct sched *s, uint32_t domain);
void place_unblock(struct sched *s, uint32_t place);
void function_touch(struct sched *s, uint32_t function);
/* It is looked at then, at the latest. */
void domain_wake(struct sched *s, uint32_t domain, uint64_t at_us);
void worker_join(struct sched *s, uint32_t worker, uint32_t domain);
void slot_clear(struct sched *s, struct slot *slot, uint64_t now_us);

/* --- memory.c: places, copies, what is charged and who is billed --- */

void place_charge(struct sched *s, uint32_t place, uint64_t now_us, uint64_t bytes);
void place_release(struct sched *s, uint32_t place, uint64_t now_us, uint64_t bytes);
double place_passed(const struct sched *s, uint32_t place, uint64_t now_us); /* byte us */
/* The copy in the place, whatever its state, or NULL. */
struct copy *copy_find(const struct sched *s, enum copy_kind kind, uint32_t object, uint32_t place,
                       uint32_t instance);
/* A new entry, LOADING, charged; NULL when the table is full. */
struct copy *copy_take(struct sched *s, enum copy_kind kind, uint32_t object, uint32_t place,
                       uint32_t instance, uint64_t now_us);
void copy_free(struct sched *s, struct copy *c, uint64_t now_us);
void copy_arrived(struct sched *s, struct copy *c);
/* A load under way is wanted after all. */
void copy_keep(struct sched *s, struct copy *c);
/* Its keeper ended. */
void copy_orphan(struct sched *s, struct copy *c);
/* It goes when it can: DROP is told by the next plan once it is loaded and nobody uses it. */
void copy_drop(struct sched *s, struct copy *c);
void copy_enter(struct copy *c);
void copy_leave(struct sched *s, struct copy *c, uint64_t now_us);
bool copy_is_ready(const struct copy *c);
uint32_t copy_index(const struct sched *s, const struct copy *c);
uint32_t copy_instance(const struct sched *s, uint32_t domain);
/* What a load into the place takes, in us, and what of it is left; `c` is the copy or NULL. */
double copy_load_us(const struct sched *s, enum copy_kind kind, uint32_t object, uint32_t place);
double copy_left_us(const struct sched *s, const struct copy *c, enum copy_kind kind,
                    uint32_t object, uint32_t place, uint64_t now_us);
/* The copy in the host memory of the device's node, or NULL. */
struct copy *copy_in_host(const struct sched *s, enum copy_kind kind, uint32_t object,
                          uint32_t device);
/* A worker that runs something, but for its KV memory. */
uint64_t process_bytes(const struct sched *s, uint32_t device, uint32_t backbone);
/* Of them, what it holds only while it runs something, and what it holds in any case. */
uint64_t work_bytes(const struct sched *s, uint32_t device, uint32_t backbone);
uint64_t resting_bytes(const struct sched *s, uint32_t device, uint32_t backbone);
/* What it is charged for: what it computes in comes with the first request that it runs, and goes
 * with the last. */
uint64_t worker_bytes(const struct sched *s, const struct worker *w);
void worker_work(struct sched *s, struct worker *w, uint64_t now_us);
void worker_rest(struct sched *s, struct worker *w, uint64_t now_us);
void worker_resize(struct sched *s, struct worker *w, uint64_t now_us, uint64_t kv_bytes);
/* What passed while nothing ran, for whom it was kept. */
void worker_bill(struct sched *s, struct worker *w, uint64_t now_us);
void copy_bill(struct sched *s, struct copy *c, uint64_t now_us);
void bill_idle(struct sched *s, uint32_t function, uint32_t place, double byte_us);
struct slot *worker_slot(struct worker *w, uint32_t slots_max, uint32_t function);
