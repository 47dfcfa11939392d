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
    bool include_usage;
    json_t *root; /* owned; freed by openai_request_done */
};

/* 0, or -EINVAL with the refusal filled in. The body must outlive the request. */
int openai_request_parse(struct openai_request *ret, enum infer_kind kind, const char *body,
                         size_t body_bytes, uint32_t depth_max, struct openai_refusal *refusal);
void openai_request_done(struct openai_request *r);
/* A whole JSON document, strict: duplicate keys, deep nesting and trailing bytes are refused. */
int openai_parse_json(json_t **ret, const char *body, size_t body_bytes, uint32_t depth_max,
                      struct error *err);

/* One answer, from its first token to its end. Buffers are kept from one answer to the next. */
struct openai_reply {
    enum infer_kind kind;
    bool include_usage;
    bool logprobs;
    bool begun; /* the stream's first event is written */
    char id[OPENAI_ID_BYTES];
    uint64_t created_s;
    uint64_t offset_chars; /* of the next token in the answer's text */
    uint64_t token_count;
    size_t held_bytes_max;
    struct buf model;   /* as the inside of a JSON string */
    struct buf event;   /* what every event of a stream starts with */
    struct buf text;    /* not streamed: the text so far, as the inside of a JSON string */
    struct buf part[4]; /* not streamed: the arrays of log-probabilities so far */
};

void openai_reply_init(struct openai_reply *a, size_t held_bytes_max);
void openai_reply_free(struct openai_reply *a);
/* `id` is the part after "chatcmpl-" or "cmpl-". */
int openai_reply_begin(struct openai_reply *a, const struct openai_request *r, const char *id,
                       uint64_t created_s);
/* Streams: events for these tokens, or for the end. All return 0, -E2BIG or -ENOMEM. */
int openai_reply_event(struct openai_reply *a, struct buf *out, const char *text, size_t text_bytes,
                       const struct infer_token *tokens, uint32_t token_count);
int openai_reply_last_event(struct openai_reply *a, struct buf *out, const char *reason,
                            const struct infer_usage *usage);
/* Not streamed: gather, then the whole document. */
int openai_reply_add(struct openai_reply *a, const char *text, size_t text_bytes,
                     const struct infer_token *tokens, uint32_t token_count);
int openai_reply_whole(struct openai_reply *a, struct buf *out, const char *reason,
                       const struct infer_usage *usage);

/* {"error":{...}}: type by status; code and param may be NULL, message may be any bytes. */
int openai_append_error(struct buf *out, int status, const char *code, const char *param,
                        const char *message);
/* Appends any bytes as the inside of a JSON string; what is not UTF-8 becomes U+FFFD. */
int openai_append_text(struct buf *out, const char *bytes, size_t len);
/* Length of the UTF-8 sequence at the start of `s`, 0 when there is no valid one. */
size_t openai_utf8_length(const char *s, size_t len);
