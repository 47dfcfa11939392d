/* What a replay asks its server for besides answers: where it listens, which functions it has, and
 * what it has used up, before and after. */
#pragma once

#include "base/error.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#define SERVER_NAMES_MAX 4096u

/* Where requests go. */
struct server_address {
    struct sockaddr_storage address;
    socklen_t bytes;
    char host[300]; /* of the Host header */
};

/* The local server with this data directory; -ECONNREFUSED: none answers. */
int server_find_local(const char *data_dir, struct server_address *ret, struct error *err);
/* "host:port", "http://host:port", "[::1]:port". Nobody is asked yet. */
int server_find_url(const char *url, struct server_address *ret, struct error *err);
/* -ECONNREFUSED: no server answers there. */
int server_check(const struct server_address *a, struct error *err);

/* Names of functions, owned. */
struct server_names {
    char **names; /* [count] */
    uint32_t count;
};

/* All that the local server has. */
int server_functions(const char *data_dir, struct server_names *ret, struct error *err);
/* Of "a,b,c". */
int server_names_parse(const char *list, struct server_names *ret, struct error *err);
void server_names_free(struct server_names *n);

/* What the local server has used since it began, or between two times. */
struct server_usage {
    bool known; /* false: the server does not tell */
    double device_s;
    double active_byte_s, idle_byte_s, platform_byte_s;
    double cost_usd;
};

/* Unknown is no error. */
struct server_usage server_usage(const char *data_dir);
struct server_usage server_usage_between(const struct server_usage *before,
                                         const struct server_usage *after);
