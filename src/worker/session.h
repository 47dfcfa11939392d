/*
 * A worker's state and what each record does to it. The turn's bookkeeping is the loop's
 * (worker.c); text is answer.c's; arithmetic is the engine's.
 */
#pragma once

#include "gpu/device.h"
#include "weights/share.h"
#include "worker/answer.h"

#define SESSION_SLOTS_MAX 64u
#define SESSION_ANSWERS_MAX 256u

struct session_slot {
    bool bound;
    bool has_adapter;
    struct share_view view; /* the adapter image */
    struct adapter adapter;
};

struct session_turn {
    bool held;
    bool revoked;
    bool stalled; /* a step had nothing that it could compute */
    uint64_t number;
    uint64_t device_us;
    uint32_t steps;
    uint32_t prompt_rows;
    uint32_t decode_rows;
};

struct session {
    int chan;
    uint32_t threads;
    uint64_t sandbox_us;
    struct gpu_device *gpu;    /* NULL: the processors compute */
    struct gpu_memory *on_gpu; /* the backbone's image there, read-only */
    struct share_view view;
    struct digest backbone_digest;
    struct backbone backbone;
    struct tokenizer *tokenizer;
    struct chat_template *chat;
    struct text_model text;
    struct engine *engine;
    bool has_domain;
    uint64_t domain[2];
    struct session_slot slots[SESSION_SLOTS_MAX];
    struct answer answers[SESSION_ANSWERS_MAX];
    uint32_t sequences_max, sequences_left; /* of the engine */
    uint32_t choices_waiting;               /* for one of them */
    struct token_list tokens;               /* of the prompt being read */
    struct session_turn turn;
    uint64_t kv_limit_bytes;
    bool untrimmed; /* worked since the last trim */
    struct wire_out out;
};

void session_init(struct session *s);

/* Each takes ownership of `fd` (and of `gpu_fd`, of which there is one on a GPU). An error ends the
 * process; what only concerns one request or one slot is answered with FAILED and returns 0. */
int session_attach(struct session *s, const struct wire_attach *a, int fd, int gpu_fd,
                   struct error *err);
/* The part of it that any worker of the backbone can begin with. */
int session_open_backbone(struct session *s, const struct digest *digest, int fd,
                          struct error *err);
int session_bind(struct session *s, const struct wire_bind *b, int fd, struct error *err);
int session_submit(struct session *s, const struct wire_record *r, int fd, struct error *err);
void session_resize(struct session *s, const struct wire_resize *r);
void session_unbind(struct session *s, const struct wire_slot *slot);
void session_cancel(struct session *s, uint64_t request);

/* One engine step and what it means for the answers. */
int session_step(struct session *s, struct error *err);
void session_take_turn(struct session *s, const struct wire_grant *g);
/* Queues TURN_ENDED. */
void session_end_turn(struct session *s);
/* Sends what is queued; blocks. */
void session_send(struct session *s);

/* bind.c's and session.c's common way to queue a record. */
void session_put(struct session *s, enum wire_type type, const void *fixed, size_t fixed_bytes,
                 const void *tail, size_t tail_bytes);
void session_fail(struct session *s, enum wire_failed_scope scope, uint64_t subject,
                  const struct answer_refusal *refusal, const char *message);

/* worker.c: serves until the daemon ends it; the process's exit status. */
int worker_serve(struct session *s, int chan, uint32_t threads, uint64_t sandbox_us);
