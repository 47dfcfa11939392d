/*
 * Bytes of a streamed answer as they come, understood as far as a load driver needs: status, when
 * the first text came, when the last, how many tokens, whether it ended as it should. Pure: bytes
 * and their time in, no sockets. HTTP/1.1 with Content-Length, chunks, or the connection's end;
 * server-sent events with OpenAI's chunks in them. Whatever comes, memory is bounded.
 */
#pragma once

#include "base/buf.h"
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STREAM_LINE_BYTES_MAX (1u << 20) /* of a header, of an event */
#define STREAM_MESSAGE_BYTES 200

enum stream_state {
    STREAM_STATUS, /* nothing of it has come, or not the whole first line */
    STREAM_HEADERS,
    STREAM_BODY,       /* so many bytes more */
    STREAM_CHUNK_SIZE, /* a line */
    STREAM_CHUNK,      /* so many bytes more */
    STREAM_CHUNK_END,  /* an empty line */
    STREAM_TRAILER,
    STREAM_UNTIL_CLOSE,
    STREAM_DONE
};

struct stream {
    enum stream_state state;
    struct buf line;  /* of the protocol, while it is not whole */
    struct buf event; /* a line of the body, likewise; the body of an error */
    uint64_t rest;    /* bytes of the body or of the chunk */
    uint32_t header_count;
    bool begun;      /* any byte has come */
    bool keep_alive; /* the connection can be used again after it */
    bool chunked;
    bool has_length;
    bool is_events; /* the body is a stream of events */

    int status;        /* 0 while unknown */
    uint64_t first_us; /* the first text, or the finish of an answer that has none; 0: none yet */
    uint64_t last_us;  /* the last text or the finish */
    uint32_t pieces;   /* events with text */
    uint32_t tokens;   /* as the usage tells, or `pieces` */
    bool has_usage;
    bool finished;                      /* a finish_reason came */
    bool broken;                        /* an error came as an event, or an event that is none */
    char message[STREAM_MESSAGE_BYTES]; /* of the error that it told, printable; "" */
};

void stream_init(struct stream *a);
void stream_free(struct stream *a);
/* Ready for the next one; keeps memory. */
void stream_reset(struct stream *a);

/* Takes bytes that came at this time (not 0). 1: the answer is whole; 0: more must come; -EINVAL or
 * -E2BIG: it is no answer, with the reason. Bytes behind a whole answer are an error: nobody asked
 * for them. */
int stream_feed(struct stream *a, const char *bytes, size_t len, uint64_t now_us,
                struct error *err);
/* The connection ended. 1: that is the answer's end; -EPIPE: it is cut off. */
int stream_close(struct stream *a, struct error *err);
