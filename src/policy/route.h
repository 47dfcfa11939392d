/*
 * Routing and admission: which isolation domain a function falls in, when a request would have its
 * first token on a device, and whether it may wait for that at all. Pure: all facts are arguments,
 * the answer is the return value.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum route_isolation {
    ROUTE_FUNCTION = 1, /* a process for each function */
    ROUTE_OWNER = 2,    /* an owner's functions share one; the default */
    ROUTE_SHARED = 3,   /* everybody who chose it shares one */
};

/* Names a domain on one backbone. Two functions share a worker if and only if their domains are
 * equal. */
struct route_domain {
    uint64_t group;    /* isolation kind and the function's or owner's number */
    uint64_t backbone; /* a worker maps one backbone */
};

struct route_domain route_domain_of(enum route_isolation isolation, uint32_t function,
                                    uint32_t owner, uint32_t backbone);
bool route_domain_equal(struct route_domain a, struct route_domain b);

/* --- where --- */

/* What is in place on a device for a function, and what each missing part takes, in us. */
struct route_start {
    double backbone_us; /* 0: resident; what is left of a load under way */
    double process_us;  /* 0: a worker of the domain, or a spare, is ready */
    double adapter_us;  /* 0: in memory */
    double bind_us;     /* 0: bound already */
};

/* Backbone and adapter load beside each other, and so does the process start that needs no more
 * than the backbone: the slower way counts. */
double route_start_us(const struct route_start *s);

/* --- whether --- */

enum route_verdict {
    ROUTE_ACCEPT = 0,
    ROUTE_FUNCTION_QUEUE_FULL, /* 429: this function has too many waiting */
    ROUTE_OWNER_LIMIT,         /* 429: its owner has too many waiting or running */
    ROUTE_SERVER_FULL,         /* 503: the table of requests is full */
    ROUTE_TOO_LARGE,           /* 503: backbone and worker can never fit a device */
    ROUTE_TOO_LATE,            /* 503: it cannot meet its objective */
};

struct route_load {
    uint32_t function_waiting;
    uint32_t function_waiting_max;
    uint32_t owner_live; /* waiting or running */
    uint32_t owner_live_max;
    uint32_t requests;
    uint32_t requests_max;
    bool fits;         /* some device could hold backbone and worker, were it empty */
    bool has_deadline; /* the function has an objective of its own */
    double alone_us;   /* to the first token, were nobody else there */
    double backlog_us; /* of others, before it */
    double slo_us;
};

/* An objective that even an idle machine misses must not refuse everything for ever: half as long
 * again as it takes alone is granted. */
double route_budget_us(const struct route_load *load);

/* ret_retry_us: when to come again, where that is known; else 0. */
enum route_verdict route_admit(const struct route_load *load, uint64_t *ret_retry_us);
