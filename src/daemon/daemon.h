/*
 * The daemon's own picture, private to daemon/. It executes what the core decides: the core knows
 * numbers, this knows names, descriptors, processes and exchanges behind them.
 *
 *   calls.c         requests: from the gateway to the core, from the workers' news to the gateway
 *   functions.c     names and numbers; backbones.c: likewise, and what a backbone takes
 *   gpus.c          what the driver says of the GPU that computes
 *   copies.c        keepers and the memory that they fill
 *   workers.c       workers: the core's actions on processes, their records as events
 *   bills.c         receipts into the ledger; journal.c: what happened to each function
 *   deploy.c        a deploy: files → packer → image → registry → the core
 *   sources.c       the files of a deploy; roots.c: directories below which clients may name them
 *   certificate.c   what a deploy proved of an adapter
 *   admin.c         the admin socket; admin_views.c, admin_places.c: what it shows;
 *                   admin_deploy.c: its deploy
 *   lora.c          vLLM's endpoints for adapters
 *   metrics.c       Prometheus text
 *   serve.c         event → apply → plan → execute; start and end
 */
#pragma once

#include "daemon/config.h"
#include "daemon/journal.h"
#include "daemon/procs.h"
#include "daemon/roots.h"
#include "gpu/driver.h"
#include "sched/view.h"
#include "store/eventlog.h"
#include "store/ledger.h"
#include "store/registry.h"

#include <stdio.h>

struct daemon;
struct deploy;

#define HISTOGRAM_BUCKETS 22

struct histogram {
    uint64_t counts[HISTOGRAM_BUCKETS + 1];
    double sum_s;
};

/* A deployed generation of a function; its index is the core's number. */
struct function_entry {
    bool used;
    bool current;       /* the name's present generation; older ones only finish what they run */
    uint32_t name_next; /* hash chain of current ones */
    uint32_t backbone;
    uint32_t owner; /* the core's number */
    struct registry_function f;
    uint64_t adapter_bytes;
    uint32_t adapter_rank;
    uint64_t requests, failures, tokens_prompt, tokens_new, cold_starts;
    uint64_t tokens_queried, tokens_cached; /* prompt tokens looked up in the prefix cache, found */
    uint64_t device_us, worker_us;
    struct histogram ttft;
    uint64_t cost_nano_usd; /* receipts and idle memory */
    double byte_s;
    uint64_t idle_from_us; /* wall clock: when its idle memory was billed last */
    /* The parts of the latest start of a process for it. */
    uint64_t start_spawn_us, start_sandbox_us, start_attach_us, start_bind_us;
};

/* Somebody's functions; its index is the core's number. */
struct owner_slot {
    uint32_t functions; /* 0: the slot is free */
    uint32_t id;        /* the registry's */
};

/* A backbone; its index is the core's number. */
struct backbone_slot {
    bool used;
    struct registry_image image;
    uint32_t functions;
};

/* Something in memory, or on its way there; its index is the core's number. A backbone's memory is
 * made and held by a keeper of its own; an adapter's is made here and filled by the stager. Of a
 * backbone in a GPU's memory the reader has the head (wire.h, LOADED); an adapter there is as it is
 * below, for who binds it copies it up. */
struct copy_slot {
    bool used;
    uint32_t place;     /* the core's number of the memory */
    uint32_t host_copy; /* that is made on the way; SCHED_NONE: none, or made */
    uint32_t above;     /* of which this one is that; SCHED_NONE: none, or made */
    uint32_t backbone;  /* SCHED_NONE: it is the adapter */
    uint32_t function;  /* of this function */
    struct digest image;
    uint64_t bytes;
    struct proc *keeper; /* a backbone's */
    struct proc *zygote; /* likewise: what its workers are copies of; NULL: they are started */
    int reader_fd;       /* read-only; of a backbone -1 until it is loaded */
    int gpu_fd;          /* a backbone's memory on the GPU; -1: it is on none */
    bool is_loaded;      /* filled and sealed */
    bool is_ready;       /* and the core was told */
    uint64_t number;     /* of the order to load it, never used twice */
    uint64_t began_us;
    uint64_t load_us;
    uint32_t page_bytes;
};

struct worker_slot {
    struct proc *proc; /* NULL: no process */
    uint32_t backbone;
    struct route_domain domain; /* group 0: it is a spare */
    bool ready;
    bool kill_asked;     /* by the core: its end is no surprise */
    uint64_t revoked_us; /* 0: the turn was not asked back */
    uint64_t granted_us; /* 0: no turn */
    uint64_t heard_us;
    uint64_t bind_began_us[SCHED_SLOTS_MAX];
    uint64_t spawn_us, sandbox_us, attach_us;
    uint64_t kv_granted_bytes;
    uint64_t kv_bytes; /* in use, at the end of its latest turn */
    uint32_t slot_function[SCHED_SLOTS_MAX];
};

/* A request between its arrival and its end. */
struct call {
    uint64_t id;        /* 0: free */
    struct exchange *x; /* NULL: the client left or was answered */
    char *body;         /* until SUBMIT */
    size_t body_bytes;
    struct wire_submit submit;
    uint32_t function;
    uint32_t worker;
    uint32_t next_free;
    bool cold; /* found no warm worker */
    bool first_token;
    uint32_t ended_next; /* in the list of those whose answers may end */
    uint32_t prompt_tokens, completion_tokens;
    struct infer_usage usage;
    uint32_t choices_left;
    uint8_t choices_ended[INFER_CHOICES_MAX / 8]; /* a bit each */
    uint64_t arrived_us, submitted_us;
};

/* Fields of requests that mean nothing here are named in the log, once each, up to so many. */
#define UNKNOWN_FIELDS_MAX 64u
#define UNKNOWN_FIELD_BYTES 48u

struct daemon_totals {
    uint64_t finished_stop, finished_length, refused, failed, client_gone;
    uint64_t cold_starts, worker_deaths;
    uint64_t refused_by[SCHED_REASON_COUNT];
    uint64_t receipts, cost_nano_usd;
    double receipts_byte_s, idle_byte_s;
    struct histogram ttft, e2e;
};

struct daemon {
    struct daemon_config config;
    struct gpu gpu; /* with config.has_gpu */
    struct event_base *base;
    struct gateway *gateway;
    struct registry *registry;
    struct procs *procs;
    struct sandbox_features features;
    uint32_t sandbox_use;
    struct eventlog *eventlog;
    struct ledger *ledger;
    struct price_table prices;
    bool ledger_failed, ledger_full; /* it was said */
    uint64_t committed_us;           /* the latest time that the ledger was written */
    struct journal *journal;
    struct roots lora_roots;

    void *sched_memory;
    struct sched *sched;
    bool dirty; /* events were applied since the last plan */
    struct event *timer, *second;
    uint64_t timer_at_us;

    struct function_entry *functions; /* [functions_max] */
    uint32_t *names;                  /* [name_buckets], heads of chains of function indices */
    uint32_t name_buckets;
    struct owner_slot *owners;       /* [owners_max] */
    struct backbone_slot *backbones; /* [backbones_max] */
    struct copy_slot *copies;        /* [copies_max] */
    struct proc *stager;             /* NULL until there is an adapter to load */
    uint64_t load_sequence;
    struct worker_slot *workers; /* [workers_max] */
    struct call *calls;          /* [calls_max] */
    uint32_t calls_max, calls_free, calls_live;
    uint32_t calls_ended; /* head of a list: their receipts are to be on disk first */
    uint64_t call_sequence;
    struct deploy *deploys;
    uint32_t deploy_count;
    uint32_t packer_number;
    uint64_t started_us;
    bool stopping;
    struct daemon_totals totals;
    char unknown_fields[UNKNOWN_FIELDS_MAX][UNKNOWN_FIELD_BYTES]; /* named in the log */
    uint32_t unknown_field_count;
};

/* serve.c */
void daemon_event(struct daemon *d, struct sched_event *e); /* sets its time */

/* functions.c: names and numbers of functions and owners */
uint32_t function_find(const struct daemon *d, const char *name); /* SCHED_NONE */
struct function_numbers {
    uint32_t function;
    uint32_t backbone;
    uint64_t adapter_bytes;
    uint32_t adapter_rank;
};

/* Finds numbers for the function, or says why it cannot be added; changes nothing that shows. To be
 * followed at once by function_add, which cannot fail: it makes the row the name's current
 * generation and tells the core. */
int function_reserve(struct daemon *d, const struct registry_function *f,
                     struct function_numbers *ret, struct error *err);
void function_add(struct daemon *d, const struct function_numbers *n,
                  const struct registry_function *f);
/* The name's current generation takes no new requests. */
void function_retire(struct daemon *d, uint32_t index);
/* The same, and out of the registry; *ret_finishing requests remain (NULL: nobody asks). */
int function_remove(struct daemon *d, uint32_t index, uint32_t *ret_finishing, struct error *err);
void function_forget(struct daemon *d, uint32_t index); /* the core's FORGET */
bool function_name_is_valid(const char *name);

#define FUNCTION_TEXT_BYTES 192
/* For log lines: the name with what it stands for, by content. */
const char *function_text(const struct registry_function *f, char to[FUNCTION_TEXT_BYTES]);
/* How many requests an owner may have at a time, from now on; 0: the default. */
void owner_limit(struct daemon *d, uint32_t id, uint32_t requests_max);

/* backbones.c: numbers of backbones, and what the core is told of them */
/* The number of the backbone with that digest, which may be new; SCHED_NONE: it cannot be served.
 */
uint32_t backbone_number(struct daemon *d, const struct digest *digest, struct error *err);
uint64_t backbone_kv_token_bytes(const struct daemon *d, const struct registry_image *image);
/* What any worker takes of the device's memory, */
uint64_t worker_base_bytes(const struct daemon *d);
uint64_t device_budget_bytes(const struct daemon *d);
/* and what one of this backbone computes in besides. KV memory is in neither. */
uint64_t backbone_work_bytes(const struct daemon *d, const struct registry_image *image);
/* Can the device compute with matrices kept so? With the flag that asked for it. */
int backbone_check_dtype(const struct daemon *d, uint32_t dtype, const char *flag,
                         struct error *err);
/* In the device's memory. */
bool backbone_is_resident(const struct daemon *d, uint32_t index);
/* The place of the memory below the device's; SCHED_NONE: there is none. */
uint32_t host_place(const struct daemon *d);

/* calls.c */
int call_infer(void *context, struct exchange *x, const struct infer_request *r,
               struct infer_refusal *ret_refusal, struct error *err);
void call_gone(void *context, struct exchange *x);
void call_submit(struct daemon *d, const struct sched_action *a);
void call_refuse(struct daemon *d, const struct sched_action *a);
/* A RECEIPT: who was not answered is, now; whose answer is complete, with calls_finish. */
void call_receipt(struct daemon *d, const struct sched_action *a);
void calls_finish(struct daemon *d);
/* A worker's record about one of its requests. */
void call_record(struct daemon *d, uint32_t worker, const struct wire_record *r);
struct call *call_find(struct daemon *d, uint64_t id);

/* gpus.c: asks the driver, by a child that ends with the answer; -errno with the reason why GPU
 * `index` is of no use */
int daemon_look_at_gpu(uint32_t index, struct gpu *ret, struct error *err);

/* copies.c: LOAD and DROP */
void copies_load(struct daemon *d, const struct sched_action *a);
void copies_drop(struct daemon *d, const struct sched_action *a);
void copies_close(struct daemon *d); /* at the end, when no worker is left */

/* workers.c: the core's other actions on processes */
void worker_execute(struct daemon *d, const struct sched_action *a);
void workers_watch(struct daemon *d, uint64_t now_us); /* once a second: hangs */
void workers_close(struct daemon *d); /* at the end: kills all, and tells the core */

/* bills.c: receipts and idle memory into the ledger */
int bills_open(struct daemon *d, struct error *err);
void bills_receipt(struct daemon *d, const struct sched_action *a);
void bills_idle(struct daemon *d, const struct sched_action *a);
/* Everything up to now, with the totals. */
void bills_commit(struct daemon *d);
void bills_close(struct daemon *d);

/* deploy.c */
void deploy_client_gone(struct daemon *d, struct exchange *x);
void deploys_close(struct daemon *d);

/* admin_places.c: memories, by the core's number of the place, and what computes in one */
#define PLACE_NAME_BYTES 16
const char *place_name(const struct daemon *d, uint32_t place, char to[PLACE_NAME_BYTES]);
struct place_bytes {
    uint64_t budget, used;
    uint64_t backbones, adapters, processes, kv; /* of `used` */
};
void place_look(const struct daemon *d, uint32_t place, struct place_bytes *ret);
json_t *device_json(const struct daemon *d);
json_t *host_json(const struct daemon *d); /* of the memory below it; NULL: there is none */

/* admin.c, admin_views.c: what is shown */
void admin_status(struct daemon *d, struct exchange *x);
void admin_plan(struct daemon *d, struct exchange *x);
void admin_usage(struct daemon *d, struct exchange *x);
json_t *function_json(const struct daemon *d, uint32_t index);
/* Adds forecast, fitted costs and objectives. */
void function_describe(const struct daemon *d, uint32_t index, json_t *o);

/* admin.c */
void admin_request(void *context, struct exchange *x, const char *method, const char *path,
                   const json_t *body);
void admin_deploy(struct daemon *d, struct exchange *x, const json_t *body);
json_t *digest_json(const struct digest *d);

/* lora.c */
void lora_request(void *context, struct exchange *x, enum lora_verb verb, const json_t *body);

/* metrics.c */
char *metrics_text(void *context);
void histogram_add(struct histogram *h, uint64_t us);
/* The border of the bucket that the quantile falls in; false: nothing was added. */
bool histogram_quantile_s(const struct histogram *h, double share, double *ret);

/* images.c: the files of the store */
int images_open_dir(struct daemon *d, struct error *err);
void image_path(const struct daemon *d, const struct digest *digest, char *to, size_t bytes);
int image_open_file(const struct daemon *d, const struct digest *digest, struct error *err);
/* A new file to pack into; its path goes to ret_path. */
int image_create(const struct daemon *d, char *ret_path, size_t bytes, struct error *err);
/* Makes a packed file the image of that digest: synced, read-only, renamed; or drops it, when there
 * is one of that digest already. */
int image_publish(const struct daemon *d, int fd, const char *path, const struct digest *digest,
                  bool *ret_was_there, struct error *err);
/* The file does not hold what its name says: it goes, and the next deploy packs it anew. */
void image_discard(struct daemon *d, const struct digest *digest);
void images_sweep(struct daemon *d); /* what nobody refers to, at start */
