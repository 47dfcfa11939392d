/* See load.h. */
#include "cli/load.h"

#include "base/clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define ANSWER_BYTES_MAX (64u << 10)

struct connection {
    int fd;
    uint64_t sent_us;
    size_t have;
    char answer[ANSWER_BYTES_MAX];
};

struct load {
    const struct load_options *o;
    int epoll;
    struct connection *connections;
    char *request;
    size_t request_bytes;
    uint32_t sent, done, failures;
    uint32_t *latencies_us; /* [requests] */
};

static int connect_one(struct load *l, struct connection *c, struct error *err)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(l->o->port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&a, sizeof a) < 0)
        return error_set(err, -errno, "cannot connect to port %u: %s", l->o->port, strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(l->epoll, EPOLL_CTL_ADD, c->fd, &e);
    return 0;
}

static int send_one(struct load *l, struct connection *c, struct error *err)
{
    if (l->sent == l->o->requests)
        return 0;
    l->sent++;
    c->have = 0;
    c->sent_us = clock_now_us();
    if (send(c->fd, l->request, l->request_bytes, MSG_NOSIGNAL) != (ssize_t)l->request_bytes)
        return error_set(err, -EPIPE, "the server does not take requests");
    return 0;
}

/* True when the whole answer is there. */
static bool is_whole(const struct connection *c)
{
    const char *end = memmem(c->answer, c->have, "\r\n\r\n", 4);
    if (end == NULL)
        return false;
    const char *length = memmem(c->answer, (size_t)(end - c->answer), "Content-Length:", 15);
    if (length == NULL)
        return false;
    size_t head = (size_t)(end - c->answer) + 4;
    return c->have >= head + strtoul(length + 15, NULL, 10);
}

static int on_readable(struct load *l, struct connection *c, struct error *err)
{
    ssize_t n = recv(c->fd, c->answer + c->have, ANSWER_BYTES_MAX - 1 - c->have, 0);
    if (n <= 0)
        return error_set(err, -EPIPE, "the server closed a connection");
    c->have += (size_t)n;
    c->answer[c->have] = '\0';
    if (!is_whole(c))
        return c->have + 1 < ANSWER_BYTES_MAX
                   ? 0
                   : error_set(err, -E2BIG, "an answer without Content-Length, or too long");
    l->latencies_us[l->done++] = (uint32_t)(clock_now_us() - c->sent_us);
    l->failures += strncmp(c->answer, "HTTP/1.1 200", 12) != 0;
    return send_one(l, c, err);
}

static int order(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static int run(struct load *l, struct load_result *ret, struct error *err)
{
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < l->o->connections; i++)
        r = connect_one(l, &l->connections[i], err);
    uint64_t began_us = clock_now_us();
    for (uint32_t i = 0; r == 0 && i < l->o->connections; i++)
        r = send_one(l, &l->connections[i], err);
    while (r == 0 && l->done < l->o->requests) {
        struct epoll_event events[LOAD_CONNECTIONS_MAX];
        int n = epoll_wait(l->epoll, events, LOAD_CONNECTIONS_MAX, 30000);
        if (n <= 0 && errno != EINTR)
            r = error_set(err, -ETIMEDOUT, "no answer in 30 s");
        for (int i = 0; r == 0 && i < n; i++)
            r = on_readable(l, events[i].data.ptr, err);
    }
    if (r < 0)
        return r;
    double took_s = (double)(clock_now_us() - began_us) / 1e6;
    qsort(l->latencies_us, l->done, sizeof *l->latencies_us, order);
    *ret = (struct load_result){
        .requests_per_s = l->done / took_s,
        .p50_ms = l->latencies_us[l->done / 2] / 1e3,
        .p99_ms = l->latencies_us[(uint64_t)l->done * 99 / 100] / 1e3,
        .failures = l->failures,
    };
    return 0;
}

int load_run(const struct load_options *o, struct load_result *ret, struct error *err)
{
    struct load l = {.o = o, .epoll = epoll_create1(EPOLL_CLOEXEC)};
    if (o->connections < 1 || o->connections > LOAD_CONNECTIONS_MAX || o->requests < 1 ||
        o->requests > LOAD_REQUESTS_MAX)
        return error_set(err, -EINVAL, "connections or requests out of range");
    l.connections = calloc(o->connections, sizeof *l.connections);
    l.latencies_us = calloc(o->requests, sizeof *l.latencies_us);
    int n = asprintf(&l.request,
                     "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                     "Content-Length: %zu\r\n\r\n%s",
                     o->path, strlen(o->body), o->body);
    int r = -ENOMEM;
    if (l.connections == NULL || l.latencies_us == NULL || n < 0 || l.epoll < 0) {
        error_set(err, r, "out of memory");
    } else {
        l.request_bytes = (size_t)n;
        for (uint32_t i = 0; i < o->connections; i++)
            l.connections[i].fd = -1;
        r = run(&l, ret, err);
        for (uint32_t i = 0; i < o->connections; i++) {
            if (l.connections[i].fd >= 0)
                close(l.connections[i].fd);
        }
    }
    close(l.epoll);
    free(l.request);
    free(l.connections);
    free(l.latencies_us);
    return r;
}
