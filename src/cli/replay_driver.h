/*
 * An open-loop load driver: every request of a trace is sent at its time, whether or not answers
 * to earlier ones have come, and every latency counts from that time, not from when the driver came
 * to send it: a server that stalls is charged for all who would have waited. One thread, epoll,
 * non-blocking sockets that are kept for the next request. At most `connections_max` requests are
 * under way; more wait for a connection, which is told as lateness.
 */
#pragma once

#include "base/error.h"
#include "sim/trace.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define DRIVER_CONNECTIONS_MAX 8192u
#define DRIVER_BODY_BYTES_MAX (64u << 20)

enum driver_outcome {
    DRIVER_UNSENT, /* the run ended before its time, or while it waited for a connection */
    DRIVER_RUNNING,
    DRIVER_DONE,      /* answered with 200, to its finish */
    DRIVER_REFUSED,   /* 429 or 503 */
    DRIVER_STATUS,    /* another status */
    DRIVER_NOCONNECT, /* no connection could be made */
    DRIVER_CUT,       /* the connection ended before the answer did */
    DRIVER_TIMEOUT,
    DRIVER_BROKEN, /* an error inside the stream, or what is no answer */
};

/* What became of one request; times from the beginning of the run, 0 while they have not come. */
struct driver_sample {
    uint64_t sent_us; /* when it was given to a connection */
    uint64_t first_us, last_us, end_us;
    uint32_t tokens;
    uint16_t status; /* HTTP's */
    uint8_t outcome; /* enum driver_outcome */
    bool waited;     /* for a connection */
};

struct driver_progress {
    double elapsed_s;
    size_t sent, running, done, refused, failed, waiting;
};

struct driver_options {
    const struct sockaddr *address;
    socklen_t address_bytes;
    const char *host; /* of the Host header */
    const struct trace *trace;
    const char *const *names; /* trace function i is asked for as names[i % name_count] */
    uint32_t name_count;
    bool chat; /* /v1/chat/completions in place of /v1/completions */
    uint64_t seed;
    uint32_t connections_max;
    uint64_t timeout_us; /* from the time a request was sent */
    int stop_fd;         /* readable: the run ends at once (a signalfd); -1: none */
    void (*progress)(void *context, const struct driver_progress *p); /* once a second */
    void *context;
};

struct driver_run {
    struct driver_sample *samples; /* [trace->count], owned */
    size_t due;                    /* requests whose time had come when the run ended */
    uint64_t duration_us;          /* until the last answer, or until it was stopped */
    bool stopped;
    char complaint[ERROR_TEXT_BYTES]; /* about the first request that failed; "" */
};

/* Errors are the driver's own; what becomes of requests is told by the samples. */
int driver_run(const struct driver_options *o, struct driver_run *ret, struct error *err);
void driver_run_free(struct driver_run *r);
