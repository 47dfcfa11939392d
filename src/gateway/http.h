/*
 * HTTP/1.1 as pure functions: a request parser that is fed bytes in any pieces, and the head of an
 * answer. No sockets, no clock. The head of a request is collected whole, checked byte by byte for
 * what llhttp lets pass (obsolete line folding, bare CR or LF), and only then given to llhttp; so
 * a request is understood the same way however its bytes arrive.
 */
#pragma once

#include "base/buf.h"
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct llhttp__internal_s;

enum http_phase {
    HTTP_PHASE_IDLE, /* no byte of a request yet */
    HTTP_PHASE_HEAD,
    HTTP_PHASE_BODY,
    HTTP_PHASE_DONE,
    HTTP_PHASE_BAD,
};

enum http_result {
    HTTP_RESULT_MORE, /* everything was taken, the request is not complete */
    HTTP_RESULT_DONE, /* the request is complete; further bytes belong to the next one */
    HTTP_RESULT_BAD,  /* status and why are set; the connection cannot be used further */
};

struct http {
    struct llhttp__internal_s *parser; /* owned */
    struct buf head;                   /* request line and fields, raw */
    struct buf body;                   /* decoded; valid until http_next */
    enum http_phase phase;
    size_t line_bytes; /* of the head's current line, CR and LF not counted */
    uint32_t line_count;
    char last;         /* last byte of the head */
    bool blank_before; /* one empty line before the request line was skipped */

    /* Known once phase is BODY or DONE. */
    const char *method;   /* static: "GET" */
    char *path;           /* into head; without the query */
    size_t path_bytes;    /* while parsing: of the whole target */
    bool keep_alive;      /* the client wants and the version allows it */
    bool http10;          /* no chunked answers */
    bool wants_continue;  /* "100 Continue" is due; whoever sends it clears this */
    bool transfer_coding; /* the body comes in chunks */

    /* The field that llhttp is at, and what was seen so far. */
    const char *name;
    size_t name_bytes;
    const char *value;
    size_t value_bytes;
    size_t trailer_bytes;
    uint32_t host_count;

    int status; /* of a bad request */
    struct error why;
};

int http_init(struct http *h, size_t head_bytes_max, size_t body_bytes_max); /* 0, -ENOMEM */
void http_free(struct http *h);
/* Makes ready for the next request on the same connection. */
void http_next(struct http *h);
/* Takes bytes; *ret_used says how many. Once DONE or BAD, nothing is taken before http_next. */
enum http_result http_feed(struct http *h, const char *data, size_t len, size_t *ret_used);

/* The head of an answer. */
struct http_head {
    int status;
    const char *content_type;
    const char *extra; /* whole field lines, each ended by CR LF; may be NULL */
    bool stream;       /* length unknown: chunked, or until the end of the connection */
    uint64_t length;   /* otherwise */
    bool keep_alive;
    bool http10;
    uint64_t now_s; /* wall clock, for Date */
};

int http_write_head(struct buf *out, const struct http_head *h);
/* A chunk's frame: begin returns where its size goes, end fills it in. An empty chunk leaves
 * nothing behind, since it would end the body. */
int http_chunk_begin(struct buf *out, size_t *ret_at);
int http_chunk_end(struct buf *out, size_t at);
const char *http_status_text(int status);
