/*
 * A closed-loop HTTP client for measuring the service: so many connections, each sends its next
 * request when it has its answer. One thread, epoll, no parsing beyond what ends an answer.
 */
#pragma once

#include "base/error.h"

#include <stdint.h>

struct load_options {
    uint16_t port; /* on 127.0.0.1 */
    const char *path;
    const char *body; /* JSON */
    uint32_t connections;
    uint32_t requests; /* in all, at most LOAD_REQUESTS_MAX */
};

#define LOAD_REQUESTS_MAX 1000000u
#define LOAD_CONNECTIONS_MAX 256u

struct load_result {
    double requests_per_s;
    double p50_ms, p99_ms;
    uint32_t failures; /* answers that are not 200 */
};

int load_run(const struct load_options *o, struct load_result *ret, struct error *err);
