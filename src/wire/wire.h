/*
 * The records that the daemon and its processes exchange. A message holds one or more records; a
 * record is a header, a fixed struct and a tail of bytes, padded to 8. Both ends run the same
 * build, but neither trusts the other: wire_next() checks every length, and each reader checks
 * what it uses.
 *
 *   packer:  FILE* PACK → PROGRESS* (PACKED | FAILED)
 *   keeper:  LOAD → PROGRESS* (LOADED | FAILED)
 *   stager:  (TARGET LOAD → LOADED | FAILED)*
 *   zygote:  PREPARE → PREPARED; (GROUP? FORK → FORKED)*, and EXITED for each
 *   worker:  ATTACH → READY; BIND → BOUND; RESIZE → RESIZED; SUBMIT, CANCEL, GRANT, REVOKE
 *            → ADMITTED, TOKENS, DONE, TURN_ENDED; FAILED
 */
#pragma once

#include "base/digest.h"
#include "wire/chan.h"

#include <stdbool.h>

enum wire_type {
    WIRE_FILE = 1, /* wire_file, tail: name; one descriptor */
    WIRE_PACK,     /* wire_pack; one descriptor: the output */
    WIRE_PROGRESS, /* wire_progress, tail: what is being done */
    WIRE_PACKED,   /* wire_packed, tail: the image's description, JSON */
    WIRE_TARGET,   /* wire_target; one descriptor: memory for the image of the next LOAD */
    WIRE_LOAD,     /* wire_load; one descriptor: the image, a file or sealed memory */
    WIRE_LOADED,   /* wire_loaded; one descriptor: the sealed memory, read-only; none after TARGET,
                    * whose memory is sealed now; of a keeper on a GPU two: sealed memory that holds
                    * what the image has before its weights, and the GPU's memory with all of it */
    WIRE_PREPARE,  /* wire_prepare; one descriptor: the sealed memory */
    WIRE_PREPARED, /* wire_prepared */
    WIRE_GROUP, /* wire_group; one descriptor: where the next FORK's process enters its memory group
                 */
    WIRE_FORK,  /* wire_fork; one descriptor: the new process's channel */
    WIRE_FORKED,   /* wire_forked; one descriptor: its pidfd */
    WIRE_EXITED,   /* wire_exited */
    WIRE_ATTACH,   /* wire_attach; one descriptor: the sealed memory; none to a zygote's copy; on a
                    * GPU the two of LOADED */
    WIRE_READY,    /* wire_ready */
    WIRE_BIND,     /* wire_bind; one descriptor: sealed memory with the adapter image, none for the
                    * bare backbone */
    WIRE_BOUND,    /* wire_bound */
    WIRE_UNBIND,   /* wire_slot */
    WIRE_RESIZE,   /* wire_resize */
    WIRE_RESIZED,  /* wire_resize: what it is now; answers a RESIZE to less */
    WIRE_SUBMIT,   /* wire_submit, tail: the request body; or one descriptor that holds it */
    WIRE_CANCEL,   /* wire_request */
    WIRE_GRANT,    /* wire_grant */
    WIRE_REVOKE,   /* wire_turn */
    WIRE_ADMITTED, /* wire_admitted */
    WIRE_TOKENS,   /* wire_tokens, tail: text, then wire_token records when asked for */
    WIRE_DONE,     /* wire_done */
    WIRE_TURN_ENDED, /* wire_turn_ended */
    WIRE_FAILED,     /* wire_failed, tail: the sentence */
    WIRE_TYPE_COUNT,
};

struct wire_header {
    uint16_t type;
    uint16_t fd_count;
    uint32_t bytes; /* of fixed struct and tail, without the padding */
};

struct wire_file {
    uint32_t reserved[2];
};

enum wire_pack_kind { WIRE_PACK_BACKBONE = 1, WIRE_PACK_ADAPTER = 2 };

struct wire_pack {
    uint32_t kind;
    uint32_t dtype;  /* enum image_dtype of the matrices */
    uint32_t on_gpu; /* backbones: one that no GPU computes is refused */
    uint32_t reserved;
    struct digest backbone; /* adapters: the digest of the backbone image */
};

struct wire_progress {
    uint64_t done;
    uint64_t total;
};

struct wire_packed {
    struct digest digest;
    uint64_t bytes;
    /* Backbones: what an engine takes beside one; engine/engine.h. */
    uint64_t kv_token_bytes[3];
    uint64_t row_bytes, fixed_bytes;
    /* Adapters: what the probe prompt showed against the bare backbone. */
    double logit_change; /* largest of one logit */
    double mean_kl;      /* over the positions, bare from adapted, in nats */
    uint64_t probe_us;
    uint32_t probe_tokens;
    uint32_t argmax_changed; /* positions with another most likely token */
};

struct wire_target {
    uint64_t reserved;
};

struct wire_load {
    struct digest digest;
    uint64_t bytes;
    uint64_t number; /* comes back in LOADED, and in FAILED as subject */
};

struct wire_loaded {
    uint64_t number;
    uint64_t bytes;
    uint64_t load_us;
    uint32_t page_bytes; /* of the backing: 4096 or 2 MiB */
    uint32_t reserved;
};

struct wire_prepare {
    struct digest backbone;
};

struct wire_prepared {
    uint64_t prepare_us; /* mapping and checking the backbone, reading tokenizer and template */
};

struct wire_group {
    uint64_t reserved;
};

struct wire_fork {
    uint64_t number; /* comes back in FORKED, EXITED, and in FAILED as subject */
    uint64_t memory_bytes_max;
    uint32_t uid; /* inside; 0: the zygote's own */
    uint32_t threads;
};

struct wire_forked {
    uint64_t number;
    uint64_t fork_us;
};

struct wire_exited {
    uint64_t number;
    int32_t code;   /* CLD_EXITED, ... */
    int32_t status; /* exit status or signal */
};

struct wire_attach {
    struct digest backbone;
    uint64_t kv_bytes;       /* most that the KV cache may ever have */
    uint64_t kv_limit_bytes; /* and for now */
    uint32_t sequences_max;
    uint32_t rows_max;
    uint32_t adapters_max;
    uint32_t threads;
    uint32_t context_max;
    uint32_t prefix_cache; /* 1: on */
    uint32_t kv_dtype;     /* 0: as the backbone's matrices, 1: bf16, 2: int8 */
    uint32_t reserved;
};

struct wire_ready {
    uint64_t sandbox_us; /* from main() to the sandbox locked and tested */
    uint64_t attach_us;  /* mapping and checking the backbone */
    uint32_t context_max;
    uint32_t vocab_count;
};

struct wire_bind {
    uint64_t domain[2]; /* the first bind fixes the worker's domain; another one is refused */
    uint32_t slot;
    uint32_t has_adapter;
    struct digest adapter;
};

struct wire_bound {
    uint32_t slot;
    uint32_t reserved;
    uint64_t adapter_bytes;
};

struct wire_slot {
    uint32_t slot;
    uint32_t reserved;
};

struct wire_resize {
    uint64_t bytes;   /* of memory for the KV cache */
    uint32_t is_most; /* there will never be more */
    uint32_t reserved;
};

enum wire_submit_flags {
    WIRE_CHAT = 1u << 0,
    WIRE_STREAM = 1u << 1,
    WIRE_LOGPROBS = 1u << 2,
    WIRE_ECHO = 1u << 3,
    WIRE_IGNORE_EOS = 1u << 4,
    WIRE_SHOW_SPECIAL = 1u << 5, /* special tokens are text too */
};

struct wire_submit {
    uint64_t request;
    uint64_t seed;
    uint64_t body_bytes;
    uint32_t slot;
    uint32_t flags;
    uint32_t max_tokens; /* UINT32_MAX: as many as the context holds */
    uint32_t top_logprobs;
    uint32_t top_k;
    float temperature;
    float top_p;
    float min_p;
    float adapter_scale; /* 0: the bare backbone answers */
    float presence_penalty;
    float frequency_penalty;
    float repetition_penalty; /* 1: none */
    uint32_t min_tokens;
    uint32_t choices; /* answers to the same prompt, each with a seed of its own */
    uint64_t wall_us; /* for templates that print the date */
    uint64_t
        deadline_us; /* of the first token, by the monotonic clock: who is due first is first */
};

struct wire_request {
    uint64_t request;
};

struct wire_grant {
    uint64_t turn;
    uint32_t prompt_rows;   /* of a step, where others decode */
    uint32_t prompts_first; /* 1: others decode when no prompt is left */
};

struct wire_turn {
    uint64_t turn;
};

struct wire_admitted {
    uint64_t request;
    uint32_t prompt_tokens;
    uint32_t reserved;
};

enum wire_finish { WIRE_GOES_ON = 0, WIRE_FINISH_STOP = 1, WIRE_FINISH_LENGTH = 2 };

struct wire_tokens {
    uint64_t request;
    uint32_t choice;
    uint32_t finish; /* not WIRE_GOES_ON: the choice's last record */
    uint32_t text_bytes;
    uint32_t token_count; /* wire_token records in the tail */
    uint32_t tokens_new;  /* sampled tokens that this record accounts for */
    uint32_t reserved;
};

/* In the tail of TOKENS, each followed by its bytes padded to 4, then top_count times
 * wire_alternative with its bytes padded to 4. */
struct wire_token {
    uint32_t byte_count;
    uint32_t top_count;
    uint32_t has_logprob;
    float logprob;
};

struct wire_alternative {
    uint32_t byte_count;
    float logprob;
};

/* Every choice has had its last record, or the request was cancelled. */
struct wire_done {
    uint64_t request;
    uint32_t prompt_tokens;
    uint32_t completion_tokens; /* of all choices */
    uint32_t cached_tokens;     /* of the prompt's, not computed: found in the prefix cache */
    uint32_t reserved;
    uint64_t device_us; /* its share of the steps that it was in */
    uint64_t worker_us; /* from SUBMIT read to DONE written */
};

struct wire_turn_ended {
    uint64_t turn;
    uint64_t device_us; /* time spent in steps */
    uint32_t steps;
    uint32_t prompt_rows;
    uint32_t decode_rows;
    uint32_t has_work;   /* sequences remain */
    uint32_t is_stalled; /* none of them can go on: there is too little memory for the KV cache */
    uint32_t reserved;
    uint64_t kv_bytes; /* in use */
};

enum wire_failed_scope { WIRE_FAILED_PROCESS = 1, WIRE_FAILED_SLOT = 2, WIRE_FAILED_REQUEST = 3 };

struct wire_failed {
    uint64_t subject; /* request id or slot */
    uint32_t scope;
    uint32_t status; /* HTTP status for a request's client, else an errno (EBADMSG: damaged) */
    char code[32];   /* OpenAI's error code, or empty */
    char param[32];  /* or empty */
};

/* --- writing --- */

struct wire_out {
    _Alignas(8) uint8_t bytes[CHAN_MESSAGE_BYTES_MAX];
    size_t len;
    int fds[CHAN_FDS_MAX]; /* borrowed */
    uint32_t fd_count;
};

/* Of one record. */
#define WIRE_FDS_MAX 2u

/* Appends a record. False when the message has no room: send it and put again. A record of at most
 * WIRE_RECORD_BYTES_MAX always fits into an empty message. fd < 0: none. */
bool wire_put(struct wire_out *out, enum wire_type type, const void *fixed, size_t fixed_bytes,
              const void *tail, size_t tail_bytes, int fd);
/* The same with several descriptors, as many as the type may have. */
bool wire_put_fds(struct wire_out *out, enum wire_type type, const void *fixed, size_t fixed_bytes,
                  const void *tail, size_t tail_bytes, const int *fds, uint32_t fd_count);

#define WIRE_RECORD_BYTES_MAX (CHAN_MESSAGE_BYTES_MAX - sizeof(struct wire_header) - 8)

/* --- reading --- */

struct wire_record {
    enum wire_type type;
    const void *fixed; /* the type's struct, 8-aligned, whole */
    const uint8_t *tail;
    size_t tail_bytes;
    uint32_t fd_first; /* index into the message's descriptors */
    uint32_t fd_count;
};

struct wire_cursor {
    struct chan_message *message;
    size_t offset;
    uint32_t fd_next;
};

void wire_begin(struct wire_cursor *c, struct chan_message *m);
/* The next record: 1; 0 at the end; -EBADMSG when the bytes are not a record, or it has more
 * descriptors than its type may have. */
int wire_next(struct wire_cursor *c, struct wire_record *ret);
/* Takes the record's descriptor i; -1 when there is none. The caller owns it then. */
int wire_take_fd(struct wire_cursor *c, const struct wire_record *r, uint32_t i);

size_t wire_fixed_bytes(enum wire_type type);
