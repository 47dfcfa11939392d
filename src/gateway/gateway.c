/*
 * Opens and closes the front door: addresses, listening sockets, who may use the admin socket, how
 * many connections there may be, and the one timer that all deadlines hang on. See gateway.h.
 */
#include "base/cleanup.h"
#include "base/clock.h"
#include "gateway/conn.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define TICK_MS 100u
#define BACKLOG 1024
#define ACCEPTS_PER_TURN 64

const struct gateway_limits gateway_limits_default = {
    .connections_max = 4096,
    .header_bytes_max = 16u << 10,
    .body_bytes_max = 8u << 20,
    .answer_bytes_max = 64u << 20,
    .json_depth_max = 64,
    .header_timeout_ms = 10000,
    .body_timeout_ms = 60000,
    .idle_timeout_ms = 75000,
    .write_timeout_ms = 30000,
    .stream_comment_ms = 5000,
};

/* --- accepting --- */

static bool peer_permitted(int fd)
{
    struct ucred peer;
    socklen_t len = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
        return false;
    return peer.uid == 0 || peer.uid == geteuid();
}

/* Makes room for one more: the connection that has been idle longest goes. */
static bool make_room(struct gateway *g)
{
    if (g->conn_count < g->limits.connections_max)
        return true;
    struct conn *idle = TAILQ_FIRST(&g->timers[TIMER_IDLE]);
    if (idle != NULL)
        conn_drop(idle);
    return idle != NULL;
}

static void refuse_full(int fd)
{
    static const char body[] =
        "{\"error\":{\"message\":\"the server has as many connections as it may\","
        "\"type\":\"server_error\",\"param\":null,\"code\":\"too_many_connections\"}}";
    char answer[512];
    int len = snprintf(answer, sizeof answer,
                       "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
                       "Content-Length: %zu\r\nRetry-After: 1\r\nConnection: close\r\n\r\n%s",
                       sizeof body - 1, body);
    ssize_t n = send(fd, answer, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT);
    (void)n; /* whoever is refused gets the reason when it fits, and the end in any case */
    close(fd);
}

static void on_connection(int listener_fd, short what, void *arg)
{
    (void)what;
    struct listener *l = arg;
    struct gateway *g = l->gateway;
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        int fd = accept4(listener_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)) {
            /* The listener would stay readable: wait for the next tick instead of spinning. */
            g->accept_paused = true;
            event_del(l->event);
            struct timeval tick = {0, TICK_MS * 1000};
            event_add(g->tick, &tick);
            return;
        }
        if (fd < 0)
            return;
        if (!make_room(g)) {
            refuse_full(fd);
            continue;
        }
        int one = 1;
        if (!l->admin)
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (g->conn_count == 0) {
            struct timeval tick = {0, TICK_MS * 1000};
            event_add(g->tick, &tick);
        }
        conn_open(g, fd, l->admin, !l->admin || peer_permitted(fd));
    }
}

static void on_tick(int fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct gateway *g = arg;
    conn_expire_all(g, clock_now_us());
    if (g->accept_paused && !g->stopping) {
        g->accept_paused = false;
        for (int i = 0; i < GATEWAY_LISTENERS; i++)
            if (g->listeners[i].event != NULL)
                event_add(g->listeners[i].event, NULL);
    }
    if (g->conn_count == 0)
        event_del(g->tick);
}

static void on_settle(int fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct gateway *g = arg;
    struct conn *c;
    while ((c = TAILQ_FIRST(&g->dirty)) != NULL)
        conn_settle(c);
}

/* --- addresses --- */

struct address {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_un un;
    } at;
    socklen_t len;
};

static int parse_port(const char *s, uint16_t *ret)
{
    unsigned port = 0;
    size_t len = strlen(s);
    if (len == 0 || len > 5 || strspn(s, "0123456789") != len)
        return -EINVAL;
    for (size_t i = 0; i < len; i++)
        port = port * 10 + (unsigned)(s[i] - '0');
    if (port > UINT16_MAX)
        return -EINVAL;
    *ret = (uint16_t)port;
    return 0;
}

static int parse_address(const char *text, struct address *ret, struct error *err)
{
    static const char form[] = "write it like 127.0.0.1:8080 or [::1]:8080";
    const char *colon = strrchr(text, ':');
    uint16_t port;
    char host[64];
    if (colon == NULL || parse_port(colon + 1, &port) < 0)
        return error_set(err, -EINVAL, "the address to listen on, '%s', has no port; %s", text,
                         form);
    size_t len = (size_t)(colon - text);
    bool v6 = len >= 2 && text[0] == '[' && text[len - 1] == ']';
    if (v6) {
        text++;
        len -= 2;
    }
    if (len >= sizeof host)
        return error_set(err, -EINVAL, "the address to listen on is too long; %s", form);
    memcpy(host, text, len);
    host[len] = '\0';
    struct address a = {0};
    bool loopback;
    if (v6) {
        a.at.v6.sin6_family = AF_INET6;
        a.at.v6.sin6_port = htons(port);
        a.len = sizeof a.at.v6;
        if (inet_pton(AF_INET6, host, &a.at.v6.sin6_addr) != 1)
            return error_set(err, -EINVAL, "'%s' is not an IPv6 address; %s", host, form);
        loopback = IN6_IS_ADDR_LOOPBACK(&a.at.v6.sin6_addr);
    } else {
        a.at.v4.sin_family = AF_INET;
        a.at.v4.sin_port = htons(port);
        a.len = sizeof a.at.v4;
        const char *number = strcmp(host, "localhost") == 0 ? "127.0.0.1" : host;
        if (inet_pton(AF_INET, number, &a.at.v4.sin_addr) != 1)
            return error_set(err, -EINVAL, "'%s' is not an IPv4 address; %s", host, form);
        loopback = ntohl(a.at.v4.sin_addr.s_addr) >> 24 == 127;
    }
    if (!loopback)
        return error_set(err, -EACCES,
                         "refusing to listen on %s: anybody who reaches it could use every "
                         "function, since there are no API keys; use 127.0.0.1 or [::1]",
                         host);
    *ret = a;
    return 0;
}

/* --- opening --- */

static int start_listener(struct gateway *g, int slot, int fd, struct error *err)
{
    struct listener *l = &g->listeners[slot];
    *l = (struct listener){.gateway = g, .fd = fd, .admin = slot == 1};
    l->event = event_new(g->base, fd, EV_READ | EV_PERSIST, on_connection, l);
    if (l->event == NULL || event_add(l->event, NULL) < 0)
        return error_set(err, -ENOMEM, "no memory for a listening socket");
    return 0;
}

static int listen_tcp(struct gateway *g, const char *text, struct error *err)
{
    struct address a;
    int r = parse_address(text, &a, err);
    if (r < 0)
        return r;
    int type = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC;
    cleanup_fd int fd = socket(a.at.any.sa_family, type, 0);
    int one = 1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0)
        return error_set(err, -errno, "cannot make a socket: %s", strerror(errno));
    if (bind(fd, &a.at.any, a.len) < 0 || listen(fd, BACKLOG) < 0) {
        if (errno == EADDRINUSE)
            return error_set(err, -EADDRINUSE,
                             "%s is in use by another program; stop it or listen on another port",
                             text);
        return error_set(err, -errno, "cannot listen on %s: %s", text, strerror(errno));
    }
    socklen_t len = sizeof a.at;
    if (getsockname(fd, &a.at.any, &len) < 0)
        return error_set(err, -errno, "cannot read the address of a socket: %s", strerror(errno));
    g->port = ntohs(a.at.any.sa_family == AF_INET ? a.at.v4.sin_port : a.at.v6.sin6_port);
    return start_listener(g, 0, steal_fd(&fd), err);
}

/* A socket file that nobody answers on is left over from a daemon that was killed. */
static int remove_stale(const struct address *a, const char *path, struct error *err)
{
    struct stat st;
    if (lstat(path, &st) < 0)
        return errno == ENOENT
                   ? 0
                   : error_set(err, -errno, "cannot look at %s: %s", path, strerror(errno));
    if (!S_ISSOCK(st.st_mode))
        return error_set(err, -EEXIST, "%s exists and is not a socket; move it away", path);
    cleanup_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_set(err, -errno, "cannot make a socket: %s", strerror(errno));
    if (connect(fd, &a->at.any, a->len) == 0 || errno == EAGAIN)
        return error_set(err, -EADDRINUSE, "another daemon answers on %s; stop it first", path);
    if (errno != ECONNREFUSED)
        return error_set(err, -errno, "cannot tell whether a daemon answers on %s: %s", path,
                         strerror(errno));
    if (unlink(path) < 0)
        return error_set(err, -errno, "cannot remove the stale socket %s: %s", path,
                         strerror(errno));
    return 0;
}

static int listen_admin(struct gateway *g, const char *path, struct error *err)
{
    struct address a = {.at.un.sun_family = AF_UNIX, .len = sizeof a.at.un};
    size_t path_bytes = strlen(path);
    if (path_bytes >= sizeof a.at.un.sun_path)
        return error_set(err, -ENAMETOOLONG,
                         "the path of the admin socket, %s, is longer than %zu bytes; use a "
                         "shorter data directory",
                         path, sizeof a.at.un.sun_path - 1);
    memcpy(a.at.un.sun_path, path, path_bytes + 1);
    int r = remove_stale(&a, path, err);
    if (r < 0)
        return r;
    cleanup_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    /* The mode of the socket becomes the mode of the file: it never exists with a wider one. */
    if (fd < 0 || fchmod(fd, 0600) < 0 || bind(fd, &a.at.any, a.len) < 0)
        return error_set(err, -errno, "cannot make the admin socket %s: %s", path, strerror(errno));
    g->admin_path = strdup(path);
    if (g->admin_path == NULL || listen(fd, BACKLOG) < 0)
        return error_set(err, -errno, "cannot listen on %s: %s", path, strerror(errno));
    return start_listener(g, 1, steal_fd(&fd), err);
}

static int check_limits(const struct gateway_limits *l, struct error *err)
{
    bool ok = l->connections_max > 0 && l->header_bytes_max > 0 && l->body_bytes_max > 0 &&
              l->answer_bytes_max > 0 && l->json_depth_max > 0 && l->header_timeout_ms > 0 &&
              l->body_timeout_ms > 0 && l->idle_timeout_ms > 0 && l->write_timeout_ms > 0 &&
              l->stream_comment_ms > 0;
    return ok ? 0 : error_set(err, -EINVAL, "every limit of the gateway must be above zero");
}

int gateway_open(struct gateway **ret, const struct gateway_options *options, struct error *err)
{
    int r = check_limits(&options->limits, err);
    if (r < 0)
        return r;
    struct gateway *g = calloc(1, sizeof *g);
    if (g == NULL)
        return error_set(err, -ENOMEM, "no memory for the gateway");
    g->base = options->base;
    g->limits = options->limits;
    g->handlers = options->handlers;
    g->id_pool_used = sizeof g->id_pool;
    for (int i = 0; i < GATEWAY_LISTENERS; i++)
        g->listeners[i].fd = -1;
    for (int i = 0; i < TIMER_COUNT; i++)
        TAILQ_INIT(&g->timers[i]);
    TAILQ_INIT(&g->dirty);
    buf_init(&g->scratch, g->limits.answer_bytes_max);
    g->read_buffer = malloc(CONN_READ_BYTES);
    g->tick = event_new(g->base, -1, EV_PERSIST, on_tick, g);
    g->settle = event_new(g->base, -1, 0, on_settle, g);
    if (g->read_buffer == NULL || g->tick == NULL || g->settle == NULL)
        r = error_set(err, -ENOMEM, "no memory for the gateway");
    if (r == 0 && options->listen != NULL)
        r = listen_tcp(g, options->listen, err);
    if (r == 0 && options->admin_socket != NULL)
        r = listen_admin(g, options->admin_socket, err);
    if (r < 0) {
        gateway_close(g);
        return r;
    }
    *ret = g;
    return 0;
}

void gateway_stop_listening(struct gateway *g)
{
    g->stopping = true;
    for (int i = 0; i < GATEWAY_LISTENERS; i++) {
        struct listener *l = &g->listeners[i];
        if (l->event != NULL)
            event_free(l->event);
        if (l->fd >= 0)
            close(l->fd);
        *l = (struct listener){.fd = -1};
    }
    if (g->admin_path != NULL)
        unlink(g->admin_path);
    free(g->admin_path);
    g->admin_path = NULL;
}

void gateway_close(struct gateway *g)
{
    if (g == NULL)
        return;
    gateway_stop_listening(g);
    on_settle(-1, 0, g); /* answers that are ready go out as far as sockets take them */
    for (int i = 0; i < TIMER_COUNT; i++)
        while (!TAILQ_EMPTY(&g->timers[i]))
            conn_drop(TAILQ_FIRST(&g->timers[i]));
    if (g->tick != NULL)
        event_free(g->tick);
    if (g->settle != NULL)
        event_free(g->settle);
    buf_free(&g->scratch);
    free(g->read_buffer);
    free(g);
}

uint16_t gateway_port(const struct gateway *g)
{
    return g->port;
}
