/*
 * OpenAI's envelope as pure functions: a request's JSON into struct infer_request, and tokens into
 * answers, appended to buffers. Of a request only the small fields become a jansson tree (skim.h
 * walks the rest in place); answers are written by hand, since they are most of the daemon's work
 * for a token.
 */
#pragma once

#include "base/buf.h"
#include "base/error.h"
#include "gateway/gateway.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OPENAI_ID_BYTES 40
#define OPENAI_PARAM_BYTES 64

/* Why a request is refused, as OpenAI's error object tells it. */
struct openai_refusal {
    int status;
    const char *code;               /* static, or NULL */
    char param[OPENAI_PARAM_BYTES]; /* "" : none */
    struct error why;
};

struct openai_request {
    struct infer_request infer; /* borrows from root and from the body */
    const char *name;           /* the answer's "model" */
    bool include_usage;
    bool continuous_usage; /* in every event */
    json_t *root;          /* owned; freed by openai_request_done */
};

/* 0, or -EINVAL with the refusal filled in. The body must outlive the request. */
int openai_request_parse(struct openai_request *ret, enum infer_kind kind, const char *body,
                         size_t body_bytes, uint32_t depth_max, struct openai_refusal *refusal);
void openai_request_done(struct openai_request *r);
/* A whole JSON document, strict: duplicate keys, deep nesting and trailing bytes are refused. */
int openai_parse_json(json_t **ret, const char *body, size_t body_bytes, uint32_t depth_max,
                      struct error *err);

#define OPENAI_PARTS 4u

/* One choice of an answer. */
struct openai_choice {
    bool begun;            /* the stream's first event of it is written */
    const char *finish;    /* NULL: it goes on */
    uint64_t offset_chars; /* of the next token in its text */
    uint64_t token_count;
    struct buf text; /* not streamed: the text so far, as the inside of a JSON string */
    struct buf part[OPENAI_PARTS]; /* not streamed: the arrays of log-probabilities so far */
};

/* One answer, from its first token to its end. Buffers are kept from one answer to the next. */
struct openai_reply {
    enum infer_kind kind;
    bool include_usage;
    bool continuous_usage;
    bool logprobs;
    char id[OPENAI_ID_BYTES];
    uint64_t created_s;
    size_t held_bytes;
    size_t held_bytes_max;
    struct buf model;              /* as the inside of a JSON string */
    struct buf event;              /* what every event of a stream starts with */
    struct openai_choice *choices; /* [choice_count], owned */
    uint32_t choice_count;
};

void openai_reply_init(struct openai_reply *a, size_t held_bytes_max);
void openai_reply_free(struct openai_reply *a);
/* `id` is the part after "chatcmpl-" or "cmpl-". */
int openai_reply_begin(struct openai_reply *a, const struct openai_request *r, const char *id,
                       uint64_t created_s);
/* Streams: the events of one piece, or the end. All return 0, -E2BIG or -ENOMEM. */
int openai_reply_event(struct openai_reply *a, struct buf *out, const struct infer_piece *p);
int openai_reply_last_event(struct openai_reply *a, struct buf *out,
                            const struct infer_usage *usage);
/* Not streamed: gather, then the whole document. */
int openai_reply_add(struct openai_reply *a, const struct infer_piece *p);
int openai_reply_whole(struct openai_reply *a, struct buf *out, const struct infer_usage *usage);

/* {"error":{...}}: type by status; code and param may be NULL, message may be any bytes. */
int openai_append_error(struct buf *out, int status, const char *code, const char *param,
                        const char *message);
/* Appends any bytes as the inside of a JSON string; what is not UTF-8 becomes U+FFFD. */
int openai_append_text(struct buf *out, const char *bytes, size_t len);
/* Length of the UTF-8 sequence at the start of `s`, 0 when there is no valid one. */
size_t openai_utf8_length(const char *s, size_t len);
