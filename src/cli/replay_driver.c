/*
 * The load driver's loop. See replay_driver.h. A lane is a place for one request at a time, with or
 * without an open connection; those with one are taken first.
 */
#include "cli/replay_driver.h"

#include "base/clock.h"
#include "cli/replay_stream.h"
#include "cli/replay_request.h"

#include <assert.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define EVENTS_MAX 256
#define READ_BYTES 65536u
#define TICK_US 1000000u
#define SPARE_FDS 64u
#define KEPT_BYTES 65536u

enum lane_state { LANE_CLOSED, LANE_IDLE, LANE_CONNECTING, LANE_SENDING, LANE_READING };

struct lane {
    int fd; /* -1: none */
    enum lane_state state;
    bool used; /* the connection has carried an answer before this one */
    size_t request;
    struct lane *before, *after; /* under way, in the order of their requests */
    struct buf out;              /* the request's bytes */
    size_t out_sent;
    struct stream stream;
};

struct driver {
    const struct driver_options *o;
    struct driver_sample *samples;
    struct lane *lanes; /* [connections_max] */
    uint32_t *closed;   /* stacks of indices into lanes: without a connection, and with one */
    uint32_t *idle;
    uint32_t closed_count, idle_count;
    struct lane *oldest, *newest; /* of those under way, whose count is `active` */
    uint32_t active;
    int epoll, timer;
    uint64_t start_us;
    size_t next;  /* the first request that is not sent */
    bool starved; /* one is due and has no lane */
    bool stopped;
    struct driver_progress progress;
    uint64_t next_tick_us;
    struct error complaint;
    char bytes[READ_BYTES];
};

static uint64_t elapsed_us(const struct driver *d)
{
    /* 0 means "not yet" in a sample */
    return clock_now_us() - d->start_us + 1;
}

static void complain(struct driver *d, const struct error *why)
{
    if (d->complaint.code == 0)
        d->complaint = *why;
}

/* --- lanes --- */

/* Changes what is waited for on a connection that is watched already. */
static void watch(struct driver *d, struct lane *l, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.ptr = l};
    int r = epoll_ctl(d->epoll, EPOLL_CTL_MOD, l->fd, &e);
    assert(r == 0);
}

static void hang_up(struct lane *l)
{
    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
    l->used = false;
}

static void join(struct driver *d, struct lane *l)
{
    l->before = d->newest;
    l->after = NULL;
    *(d->newest != NULL ? &d->newest->after : &d->oldest) = l;
    d->newest = l;
    d->active++;
}

static void leave(struct driver *d, struct lane *l)
{
    *(l->before != NULL ? &l->before->after : &d->oldest) = l->after;
    *(l->after != NULL ? &l->after->before : &d->newest) = l->before;
    d->active--;
}

/* Gives the lane back, with its connection or without. */
static void release(struct driver *d, struct lane *l, bool keep)
{
    uint32_t index = (uint32_t)(l - d->lanes);
    if (l->out.cap > KEPT_BYTES)
        buf_free(&l->out);
    leave(d, l);
    if (keep) {
        l->used = true;
        l->state = LANE_IDLE;
        d->idle[d->idle_count++] = index;
        return;
    }
    hang_up(l);
    l->state = LANE_CLOSED;
    d->closed[d->closed_count++] = index;
}

static void end_request(struct driver *d, struct lane *l, enum driver_outcome outcome, bool keep)
{
    struct driver_sample *s = &d->samples[l->request];
    const struct stream *a = &l->stream;
    s->outcome = (uint8_t)outcome;
    s->status = (uint16_t)a->status;
    s->first_us = a->first_us;
    s->last_us = a->last_us;
    s->tokens = a->has_usage ? a->tokens : a->pieces;
    s->end_us = elapsed_us(d);
    if (outcome == DRIVER_DONE)
        d->progress.done++;
    else if (outcome == DRIVER_REFUSED)
        d->progress.refused++;
    else
        d->progress.failed++;
    release(d, l, keep);
}

static void fail(struct driver *d, struct lane *l, enum driver_outcome outcome, struct error *why)
{
    error_prefix(why, "request %zu", l->request + 1);
    complain(d, why);
    end_request(d, l, outcome, false);
}

/* --- one request --- */

static void connect_lane(struct driver *d, struct lane *l)
{
    struct error why = {0};
    int one = 1;
    l->out_sent = 0;
    l->fd = socket(d->o->address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (l->fd >= 0)
        setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event e = {.events = EPOLLOUT, .data.ptr = l};
    if (l->fd < 0 ||
        (connect(l->fd, d->o->address, d->o->address_bytes) < 0 && errno != EINPROGRESS) ||
        epoll_ctl(d->epoll, EPOLL_CTL_ADD, l->fd, &e) < 0) {
        error_set(&why, -errno, "cannot connect: %s", strerror(errno));
        fail(d, l, DRIVER_NOCONNECT, &why);
        return;
    }
    l->state = LANE_CONNECTING;
}

/* The server closed a kept connection as it was used again: that request was never seen. */
static bool try_again(struct driver *d, struct lane *l)
{
    if (!l->used || l->stream.begun)
        return false;
    hang_up(l);
    stream_reset(&l->stream);
    connect_lane(d, l);
    return true;
}

static void send_more(struct driver *d, struct lane *l)
{
    while (l->out_sent < l->out.len) {
        ssize_t n = send(l->fd, l->out.data + l->out_sent, l->out.len - l->out_sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            l->state = LANE_SENDING;
            watch(d, l, EPOLLIN | EPOLLOUT);
            return;
        }
        if (n < 0) {
            struct error why = {0};
            error_set(&why, -errno, "cannot send: %s", strerror(errno));
            if (!try_again(d, l))
                fail(d, l, DRIVER_CUT, &why);
            return;
        }
        l->out_sent += (size_t)n;
    }
    l->state = LANE_READING;
    watch(d, l, EPOLLIN);
}

static struct lane *take_lane(struct driver *d)
{
    if (d->idle_count > 0)
        return &d->lanes[d->idle[--d->idle_count]];
    if (d->closed_count > 0)
        return &d->lanes[d->closed[--d->closed_count]];
    return NULL;
}

static int start_request(struct driver *d, struct lane *l, size_t index, struct error *err)
{
    const struct trace_request *t = &d->o->trace->requests[index];
    struct driver_sample *s = &d->samples[index];
    const struct replay_request q = {
        .host = d->o->host,
        .model = d->o->names[t->function % d->o->name_count],
        .chat = d->o->chat,
        .seed = d->o->seed,
        .index = index,
        .prompt_tokens = t->prompt_tokens,
        .new_tokens = t->new_tokens,
    };
    l->request = index;
    l->out_sent = 0;
    buf_clear(&l->out);
    stream_reset(&l->stream);
    join(d, l);
    d->progress.sent++;
    *s = (struct driver_sample){
        .sent_us = elapsed_us(d), .outcome = DRIVER_RUNNING, .waited = d->starved};
    int r = replay_request_write(&q, &l->out);
    if (r < 0)
        return error_set(err, r, "a prompt of %u tokens cannot be sent: %s", q.prompt_tokens,
                         strerror(-r));
    if (l->state == LANE_IDLE)
        send_more(d, l);
    else
        connect_lane(d, l);
    return 0;
}

/* --- what the sockets say --- */

static void on_whole(struct driver *d, struct lane *l)
{
    const struct stream *a = &l->stream;
    bool keep = a->keep_alive && l->out_sent == l->out.len;
    if (a->status == 200 && a->finished && !a->broken) {
        end_request(d, l, DRIVER_DONE, keep);
        return;
    }
    enum driver_outcome outcome = a->status == 429 || a->status == 503 ? DRIVER_REFUSED
                                  : a->status != 200                   ? DRIVER_STATUS
                                                                       : DRIVER_BROKEN;
    struct error why = {0};
    if (outcome == DRIVER_BROKEN)
        error_set(&why, -EPROTO, "the answer %s",
                  a->broken ? "told of an error" : "ended before its finish");
    else
        error_set(&why, -EPROTO, "answered with status %d", a->status);
    if (a->message[0] != '\0')
        error_set(&why, -EPROTO, "%s", a->message);
    error_prefix(&why, "request %zu", l->request + 1);
    if (outcome != DRIVER_REFUSED)
        complain(d, &why);
    end_request(d, l, outcome, keep);
}

static void on_readable(struct driver *d, struct lane *l)
{
    struct error why = {0};
    ssize_t n = recv(l->fd, d->bytes, sizeof d->bytes, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    int r;
    if (n > 0)
        r = stream_feed(&l->stream, d->bytes, (size_t)n, elapsed_us(d), &why);
    else if (n == 0)
        r = stream_close(&l->stream, &why);
    else
        r = error_set(&why, -errno, "cannot read: %s", strerror(errno));
    if (r > 0) {
        on_whole(d, l);
        return;
    }
    if (r < 0 && n <= 0 && try_again(d, l))
        return;
    if (r < 0)
        fail(d, l, n > 0 ? DRIVER_BROKEN : DRIVER_CUT, &why);
}

static void on_connected(struct driver *d, struct lane *l)
{
    int code = 0;
    socklen_t bytes = sizeof code;
    struct error why = {0};
    getsockopt(l->fd, SOL_SOCKET, SO_ERROR, &code, &bytes);
    if (code == 0) {
        send_more(d, l);
        return;
    }
    error_set(&why, -code, "cannot connect: %s", strerror(code));
    fail(d, l, DRIVER_NOCONNECT, &why);
}

/* A kept connection that the server closes, or speaks on unasked. */
static void on_idle(struct driver *d, struct lane *l)
{
    uint32_t index = (uint32_t)(l - d->lanes);
    uint32_t at = 0;
    while (d->idle[at] != index)
        at++;
    d->idle[at] = d->idle[--d->idle_count];
    hang_up(l);
    l->state = LANE_CLOSED;
    d->closed[d->closed_count++] = index;
}

static void on_event(struct driver *d, struct lane *l, uint32_t events)
{
    switch (l->state) {
    case LANE_CONNECTING:
        on_connected(d, l);
        break;
    case LANE_SENDING:
        if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) /* it may refuse before it has read all */
            on_readable(d, l);
        else
            send_more(d, l);
        break;
    case LANE_READING:
        on_readable(d, l);
        break;
    case LANE_IDLE:
        on_idle(d, l);
        break;
    case LANE_CLOSED:
        break;
    }
}

/* --- the loop --- */

static bool is_over(const struct driver *d)
{
    return d->stopped || (d->next == d->o->trace->count && d->active == 0);
}

static int send_due(struct driver *d, struct error *err)
{
    const struct trace *t = d->o->trace;
    int r = 0;
    while (r == 0 && d->next < t->count && elapsed_us(d) > t->requests[d->next].at_us) {
        struct lane *l = take_lane(d);
        if (l == NULL) {
            d->starved = true;
            return 0;
        }
        r = start_request(d, l, d->next++, err);
    }
    d->starved = false;
    return r;
}

/* When the oldest request under way has had its time. */
static uint64_t deadline_us(const struct driver *d)
{
    if (d->oldest == NULL)
        return UINT64_MAX;
    return d->samples[d->oldest->request].sent_us + d->o->timeout_us;
}

static void expire(struct driver *d)
{
    while (deadline_us(d) <= elapsed_us(d)) {
        struct error why = {0};
        error_set(&why, -ETIMEDOUT, "no end of its answer in %g s", (double)d->o->timeout_us / 1e6);
        fail(d, d->oldest, DRIVER_TIMEOUT, &why);
    }
}

/* Requests whose time has come, sent or not. */
static size_t count_due(const struct driver *d, uint64_t now_us)
{
    const struct trace *t = d->o->trace;
    size_t low = d->next;
    size_t high = t->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (t->requests[middle].at_us < now_us)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void tick(struct driver *d)
{
    uint64_t now_us = elapsed_us(d);
    if (now_us < d->next_tick_us)
        return;
    d->next_tick_us = now_us - now_us % TICK_US + TICK_US;
    if (d->o->progress == NULL)
        return;
    d->progress.elapsed_s = (double)now_us / 1e6;
    d->progress.running = d->active;
    d->progress.waiting = count_due(d, now_us) - d->next;
    d->o->progress(d->o->context, &d->progress);
}

/* Wakes for the next tick, for a request whose time is over, and for the next one to send if there
 * is a lane for it. */
static void set_timer(struct driver *d)
{
    const struct trace *t = d->o->trace;
    uint64_t at_us = d->next_tick_us;
    if (d->next < t->count && !d->starved && t->requests[d->next].at_us < at_us)
        at_us = t->requests[d->next].at_us;
    if (deadline_us(d) < at_us)
        at_us = deadline_us(d);
    at_us += d->start_us;
    struct itimerspec when = {.it_value = {.tv_sec = (time_t)(at_us / 1000000),
                                           .tv_nsec = (long)(at_us % 1000000) * 1000}};
    timerfd_settime(d->timer, TFD_TIMER_ABSTIME, &when, NULL);
}

static int loop(struct driver *d, struct error *err)
{
    d->start_us = clock_now_us();
    d->next_tick_us = TICK_US;
    while (!is_over(d)) {
        struct epoll_event events[EVENTS_MAX];
        int r = send_due(d, err);
        if (r < 0)
            return r;
        expire(d);
        tick(d);
        set_timer(d);
        int n = is_over(d) ? 0 : epoll_wait(d->epoll, events, EVENTS_MAX, -1);
        if (n < 0 && errno != EINTR)
            return error_set(err, -errno, "cannot wait for answers: %s", strerror(errno));
        for (int i = 0; i < n; i++) {
            uint64_t expirations;
            if (events[i].data.ptr == &d->timer)
                (void)!read(d->timer, &expirations, sizeof expirations);
            else if (events[i].data.ptr == d)
                d->stopped = true;
            else
                on_event(d, events[i].data.ptr, events[i].events);
        }
    }
    return 0;
}

/* --- the whole --- */

/* Room for so many connections among the files this process may open. */
static int raise_file_limit(uint32_t connections, struct error *err)
{
    struct rlimit limit;
    rlim_t need = connections + SPARE_FDS;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= need)
        return 0;
    limit.rlim_cur = limit.rlim_max < need ? limit.rlim_max : need;
    if (limit.rlim_cur < need || setrlimit(RLIMIT_NOFILE, &limit) < 0)
        return error_set(err, -EMFILE,
                         "%u connections need %llu open files, and %llu are allowed; raise it "
                         "(ulimit -n) or use fewer",
                         connections, (unsigned long long)need, (unsigned long long)limit.rlim_max);
    return 0;
}

static int open_driver(struct driver *d, struct error *err)
{
    uint32_t lanes = d->o->connections_max;
    struct epoll_event timer = {.events = EPOLLIN, .data.ptr = &d->timer};
    struct epoll_event stop = {.events = EPOLLIN, .data.ptr = d};
    int r = raise_file_limit(lanes, err);
    if (r < 0)
        return r;
    d->samples = calloc(d->o->trace->count, sizeof *d->samples);
    d->closed = calloc(lanes, sizeof *d->closed);
    d->idle = calloc(lanes, sizeof *d->idle);
    d->lanes = calloc(lanes, sizeof *d->lanes);
    if (d->samples == NULL || d->closed == NULL || d->idle == NULL || d->lanes == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    for (uint32_t i = 0; i < lanes; i++) {
        d->lanes[i].fd = -1;
        buf_init(&d->lanes[i].out, DRIVER_BODY_BYTES_MAX);
        stream_init(&d->lanes[i].stream);
        d->closed[d->closed_count++] = lanes - 1 - i;
    }
    d->epoll = epoll_create1(EPOLL_CLOEXEC);
    d->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (d->epoll < 0 || d->timer < 0 || epoll_ctl(d->epoll, EPOLL_CTL_ADD, d->timer, &timer) < 0 ||
        (d->o->stop_fd >= 0 && epoll_ctl(d->epoll, EPOLL_CTL_ADD, d->o->stop_fd, &stop) < 0))
        return error_set(err, -errno, "cannot make a timer: %s", strerror(errno));
    return 0;
}

static void close_driver(struct driver *d)
{
    for (uint32_t i = 0; d->lanes != NULL && i < d->o->connections_max; i++) {
        hang_up(&d->lanes[i]);
        buf_free(&d->lanes[i].out);
        stream_free(&d->lanes[i].stream);
    }
    free(d->lanes);
    free(d->closed);
    free(d->idle);
    free(d->samples);
    if (d->epoll >= 0)
        close(d->epoll);
    if (d->timer >= 0)
        close(d->timer);
    free(d);
}

/* Of what was under way when the run was stopped, what is known stays. */
static void keep_unfinished(struct driver *d)
{
    for (const struct lane *l = d->oldest; l != NULL; l = l->after) {
        d->samples[l->request].first_us = l->stream.first_us;
        d->samples[l->request].tokens = l->stream.pieces;
    }
}

int driver_run(const struct driver_options *o, struct driver_run *ret, struct error *err)
{
    assert(o->name_count > 0);
    if (o->connections_max < 1 || o->connections_max > DRIVER_CONNECTIONS_MAX)
        return error_set(err, -EINVAL, "1 to %u connections are possible", DRIVER_CONNECTIONS_MAX);
    struct driver *d = calloc(1, sizeof *d);
    if (d == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    d->o = o;
    d->epoll = d->timer = -1;
    int r = open_driver(d, err);
    r = r == 0 ? loop(d, err) : r;
    if (r == 0) {
        keep_unfinished(d);
        *ret = (struct driver_run){.samples = d->samples,
                                   .due = count_due(d, elapsed_us(d)),
                                   .duration_us = elapsed_us(d),
                                   .stopped = d->stopped};
        snprintf(ret->complaint, sizeof ret->complaint, "%s", d->complaint.text);
        d->samples = NULL;
    }
    close_driver(d);
    return r;
}

void driver_run_free(struct driver_run *r)
{
    free(r->samples);
    *r = (struct driver_run){0};
}
