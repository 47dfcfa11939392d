/*
 * Routing and admission: which isolation domain a function falls in, and whether a request may
 * wait. Pure: all facts are arguments, the answer is the return value.
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

enum route_verdict {
    ROUTE_ACCEPT = 0,
    ROUTE_FUNCTION_QUEUE_FULL, /* 429: this function has too many waiting */
    ROUTE_SERVER_FULL,         /* 503: the table of requests is full */
    ROUTE_TOO_LARGE,           /* 503: backbone and worker can never fit the memory budget */
};

struct route_load {
    uint32_t function_waiting;
    uint32_t function_waiting_max;
    uint32_t requests;
    uint32_t requests_max;
    uint64_t backbone_bytes;
    uint64_t worker_bytes;
    uint64_t budget_bytes;
};

enum route_verdict route_admit(const struct route_load *load);
