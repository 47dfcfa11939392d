/*
 * The daemon's own picture, private to daemon/. It executes what the core decides: the core knows
 * numbers, this knows names, descriptors, processes and exchanges behind them.
 *
 *   calls.c         requests: from the gateway to the core, from the workers' news to the gateway
 *   workers.c       workers and keepers: the core's actions on processes, their records as events
 *   deploy.c        a deploy: files → packer → image → registry → the core
 *   sources.c       the files of a deploy; roots.c: directories below which clients may name them
 *   certificate.c   what a deploy proved of an adapter
 *   admin.c         the admin socket's JSON; admin_deploy.c: its deploy
 *   lora.c          vLLM's endpoints for adapters
 *   metrics.c       Prometheus text
 *   serve.c         event → apply → plan → execute; start and end
 */
#pragma once

#include "daemon/config.h"
#include "store/eventlog.h"
#include "daemon/procs.h"
#include "daemon/roots.h"
#include "store/registry.h"

#include <stdio.h>

struct daemon;
struct deploy;

/* A deployed generation of a function; its index is the core's number. */
struct function_entry {
    bool used;
    bool current;       /* the name's present generation; older ones only finish what they run */
    uint32_t name_next; /* hash chain of current ones */
    uint32_t backbone;
    struct registry_function f;
    uint64_t adapter_bytes;
    uint32_t adapter_rank;
    uint64_t requests, failures, tokens_prompt, tokens_new, cold_starts;
    uint64_t tokens_queried, tokens_cached; /* prompt tokens looked up in the prefix cache, found */
    uint64_t device_us, worker_us;
    /* The parts of the latest start of a process for it. */
    uint64_t start_spawn_us, start_sandbox_us, start_attach_us, start_bind_us;
};

/* A backbone; its index is the core's number. */
struct backbone_slot {
    bool used;
    struct registry_image image;
    uint32_t functions;
    struct proc *keeper;
    bool keeper_loaded;
    int reader_fd; /* the sealed memory, -1 while not resident */
    uint64_t load_us;
    uint32_t page_bytes;
};

struct worker_slot {
    struct proc *proc; /* NULL: no process */
    uint32_t backbone;
    struct route_domain domain;
    bool ready;
    bool kill_asked;     /* by the core: its end is no surprise */
    uint64_t revoked_us; /* 0: the turn was not asked back */
    uint64_t granted_us; /* 0: no turn */
    uint64_t heard_us;
    uint64_t bind_began_us;
    uint64_t sandbox_us, attach_us;
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
    uint32_t prompt_tokens, completion_tokens;
    uint32_t choices_left;
    uint8_t choices_ended[INFER_CHOICES_MAX / 8]; /* a bit each */
    uint64_t arrived_us, submitted_us;
};

#define HISTOGRAM_BUCKETS 22

/* Fields of requests that mean nothing here are named in the log, once each, up to so many. */
#define UNKNOWN_FIELDS_MAX 64u
#define UNKNOWN_FIELD_BYTES 48u

struct histogram {
    uint64_t counts[HISTOGRAM_BUCKETS + 1];
    double sum_s;
};

struct daemon_totals {
    uint64_t finished_stop, finished_length, refused, failed, client_gone;
    uint64_t cold_starts, worker_deaths;
    struct histogram ttft, e2e;
};

struct daemon {
    struct daemon_config config;
    struct event_base *base;
    struct gateway *gateway;
    struct registry *registry;
    struct procs *procs;
    struct sandbox_features features;
    uint32_t sandbox_use;
    struct eventlog *eventlog;
    struct roots lora_roots;

    void *sched_memory;
    struct sched *sched;
    bool dirty; /* events were applied since the last plan */
    struct event *timer, *second;
    uint64_t timer_at_us;

    struct function_entry *functions; /* [functions_max] */
    uint32_t *names;                  /* [name_buckets], heads of chains of function indices */
    uint32_t name_buckets;
    struct backbone_slot *backbones; /* [backbones_max] */
    struct worker_slot *workers;     /* [workers_max] */
    struct call *calls;              /* [calls_max] */
    uint32_t calls_max, calls_free, calls_live;
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

/* functions.c: names, numbers, backbones */
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

/* calls.c */
int call_infer(void *context, struct exchange *x, const struct infer_request *r,
               struct infer_refusal *ret_refusal, struct error *err);
void call_gone(void *context, struct exchange *x);
void call_submit(struct daemon *d, const struct sched_action *a);
void call_refuse(struct daemon *d, const struct sched_action *a);
/* A worker's record about one of its requests. */
void call_record(struct daemon *d, uint32_t worker, const struct wire_record *r);
struct call *call_find(struct daemon *d, uint64_t id);

/* workers.c */
void worker_execute(struct daemon *d, const struct sched_action *a);
void workers_watch(struct daemon *d, uint64_t now_us); /* once a second: hangs */
void workers_close(struct daemon *d);

/* deploy.c */
void deploy_client_gone(struct daemon *d, struct exchange *x);
void deploys_close(struct daemon *d);

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
