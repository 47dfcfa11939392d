/*
 * The front door: bytes <-> structs. It owns the listening sockets, connections, HTTP/1.1, the
 * OpenAI envelope and its answers. It decides nothing: an inference request that is well formed is
 * given to the handlers, and whoever took it answers through the exchange, token by token.
 *
 * An exchange is one HTTP request being answered. It lives from `infer` or `admin` until the
 * handler ends it (exchange_finish, exchange_error, exchange_json, exchange_lines_end) or until
 * `gone` returns, whichever is first; after that the pointer is dead. It may be ended already
 * inside infer or admin. `gone` is never called from inside infer, admin or exchange_*, so a
 * handler is never entered twice. Everything runs on the thread of one event_base.
 */
#pragma once

#include "base/error.h"

#include <event2/event.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct gateway;
struct exchange;

enum infer_kind { INFER_COMPLETION, INFER_CHAT };

#define INFER_TOKENS_UNSET UINT32_MAX
#define INFER_TOP_LOGPROBS_MAX 20u
#define INFER_CHOICES_MAX 128u
#define INFER_BIASES_MAX 300u
#define INFER_STOP_TOKEN_IDS_MAX 32u
#define INFER_UNKNOWN_MAX 8u /* names of unknown fields that one request tells */

/* A request for tokens, its parameters validated and in range. Pointers are borrowed: valid during
 * the call of `infer` only. */
struct infer_request {
    enum infer_kind kind;
    /* Who shall answer. At least one is there; all that are must mean the same function. */
    const char *model;      /* FUNCTION, BACKBONE:FUNCTION, or beside another name its backbone */
    const char *adapter_id; /* LoRAX's way to name a function */
    const char *lora_id;    /* llama-server's */
    float adapter_scale;    /* [0, 1]; 1 without lora */
    const char *body;       /* the whole JSON body, valid UTF-8; the domain's worker reads prompt,
                               messages, tools, stop, stop_token_ids and logit_bias from it */
    size_t body_bytes;
    uint32_t choices; /* OpenAI's n */
    bool stream;
    bool echo;     /* completions only */
    bool logprobs; /* the chosen tokens' log-probabilities are wanted */
    uint32_t top_logprobs;
    uint32_t
        max_tokens; /* INFER_TOKENS_UNSET: as many as the context holds (chat), 16 (completion) */
    float temperature; /* OpenAI's default 1 */
    float top_p;
    float min_p;
    uint32_t top_k;
    bool has_seed;
    uint64_t seed;
    uint32_t min_tokens;
    bool ignore_eos;
    bool show_special; /* special tokens are text too */
    float presence_penalty;
    float frequency_penalty;
    float repetition_penalty;               /* 1: none */
    const char *unknown[INFER_UNKNOWN_MAX]; /* fields that mean nothing here */
    uint32_t unknown_count;
};

/* Why a handler refuses a request, as OpenAI's error object tells it; static strings or NULL. */
struct infer_refusal {
    int status;
    const char *code;
    const char *param;
};

/* One token as the answer needs it. */
struct infer_alternative {
    const char *bytes; /* the token's own text, raw bytes, maybe not UTF-8 alone */
    uint32_t byte_count;
    float logprob;
};

struct infer_token {
    const char *bytes;
    uint32_t byte_count;
    bool has_logprob;
    float logprob;
    uint32_t top_count;
    const struct infer_alternative *top; /* [top_count], descending */
};

struct infer_usage {
    uint32_t prompt_tokens;
    uint32_t completion_tokens; /* of all choices */
    uint32_t cached_tokens;     /* of the prompt's, found in the prefix cache; known at the end */
};

/* What became known of one choice of an answer. */
struct infer_piece {
    uint32_t choice;
    const char *text; /* complete UTF-8, possibly empty: held back by a stop string or in
                         mid-character */
    size_t text_bytes;
    const struct infer_token *tokens; /* with log-probabilities, when asked for */
    uint32_t token_count;
    const char *finish;       /* "stop" or "length" ends the choice; NULL: it goes on */
    struct infer_usage usage; /* so far */
};

/* Where a request's first token spent its time; becomes the Server-Timing header when it is known
 * before the headers go out. All in microseconds; 0: did not happen. */
struct infer_timing {
    uint64_t queue_us;
    uint64_t cold_us; /* from the need for a process to the process ready */
};

/* vLLM's endpoints for adapters: POST /v1/load_lora_adapter, POST /v1/unload_lora_adapter,
 * GET /v1/lora_adapters. */
enum lora_verb { LORA_LOAD, LORA_UNLOAD, LORA_LIST };

struct gateway_handlers {
    void *context;
    /* Takes the request (0), or refuses it: -errno with a sentence in err and *ret_refusal set. */
    int (*infer)(void *context, struct exchange *x, const struct infer_request *r,
                 struct infer_refusal *ret_refusal, struct error *err);
    /* The client left before the end (or does not read, or the answer outgrew its limit, or the
     * gateway closes); the handler forgets the exchange. */
    void (*gone)(void *context, struct exchange *x);
    /* GET /v1/models: appends {"id", "created" (s), "owned_by", "parent"} objects to `list`. */
    void (*models)(void *context, json_t *list);
    /* GET /metrics: the whole Prometheus text; malloc'ed, freed by the gateway. */
    char *(*metrics)(void *context);
    /* GET /readyz: 0, or -errno with the reason. */
    int (*ready)(void *context, struct error *err);
    /* Any request on the admin socket, from a peer with the daemon's uid or root. path starts with
     * "/admin/" and is as sent, without the query; body is NULL without one, borrowed during the
     * call. Answered by exchange_json, exchange_error or exchange_line. */
    void (*admin)(void *context, struct exchange *x, const char *method, const char *path,
                  const json_t *body);
    /* A request for adapters from any client; body is NULL without one, borrowed during the call.
     * Answered by exchange_json, exchange_text or exchange_error. */
    void (*lora)(void *context, struct exchange *x, enum lora_verb verb, const json_t *body);
};

struct gateway_limits {
    uint32_t connections_max;
    size_t header_bytes_max;
    size_t body_bytes_max;
    size_t answer_bytes_max; /* of one answer held in memory: not streamed, or a slow reader */
    uint32_t json_depth_max;
    uint32_t header_timeout_ms; /* from the first byte to the end of the headers */
    uint32_t body_timeout_ms;
    uint32_t idle_timeout_ms;   /* keep-alive connection without a request */
    uint32_t write_timeout_ms;  /* a client that does not read */
    uint32_t stream_comment_ms; /* a stream without its first token shows this often that it is
                                   alive; its headers go out with the first comment */
};

extern const struct gateway_limits gateway_limits_default;

struct gateway_options {
    struct event_base *base;
    const char *listen;       /* "127.0.0.1:8080", "[::1]:0" */
    const char *admin_socket; /* path of the unix socket, made with mode 0600 */
    struct gateway_limits limits;
    struct gateway_handlers handlers;
};

/* listen or admin_socket may be NULL: none of that kind. */
int gateway_open(struct gateway **ret, const struct gateway_options *options, struct error *err);
/* Stops accepting; open exchanges go on. */
void gateway_stop_listening(struct gateway *g);
/* Ends everything; open exchanges hear `gone`. Not from inside a handler. NULL is fine. */
void gateway_close(struct gateway *g);
uint16_t gateway_port(const struct gateway *g);

/* The worker's news of one exchange. The first call sends the stream's headers. */
void exchange_piece(struct exchange *x, const struct infer_piece *p);
/* What exchange_timing gave goes into the headers if it comes before the first tokens. */
void exchange_timing(struct exchange *x, const struct infer_timing *t);
/* Ends the answer, after each of its choices has ended. */
void exchange_finish(struct exchange *x, const struct infer_usage *usage);
/* Ends it with OpenAI's error object; in a stream that has begun, as an error event and the end of
 * the stream. retry_after_s > 0 adds Retry-After; 409 says that to ask again will not help, which
 * clients would do otherwise. code and param may be NULL. */
void exchange_error(struct exchange *x, int status, const char *code, const char *param,
                    uint32_t retry_after_s, const char *message);

/* Other answers: one JSON document (takes the reference), newline-delimited JSON documents, or
 * plain text. */
void exchange_json(struct exchange *x, int status, json_t *document);
void exchange_text(struct exchange *x, int status, const char *text);
void exchange_line(struct exchange *x, json_t *document);
void exchange_lines_end(struct exchange *x);

/* A place for the handler's own pointer. */
void exchange_set_context(struct exchange *x, void *context);
void *exchange_context(const struct exchange *x);
