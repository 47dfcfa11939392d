/*
 * The zygote: one for each backbone in memory. It maps the backbone, reads its tokenizer and its
 * chat template, and from then on makes copies of itself, each of which becomes a worker for one
 * domain: what every worker of the backbone would do first is done once, and its memory stands
 * once.
 *
 * It has seen a backbone and nothing else, and hears from the daemon only: no prompt, no adapter,
 * and nothing of what its copies do.
 */
#include "base/clock.h"
#include "worker/roles.h"
#include "worker/session.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define COPIES_MAX 256u

struct copy {
    uint64_t number;
    int pidfd;
};

struct zygote {
    const struct role_options *o;
    struct session session; /* what a copy begins with */
    struct sandbox_filter filter;
    struct copy copies[COPIES_MAX];
    uint32_t copy_count;
    int group; /* of the next copy; -1: none */
};

/* Where the exit status of a copy goes to: the process ends with it. */
struct descent {
    const struct wire_fork *order;
    int chan;
    int group;
    uint64_t began_us;
};

/* In the copy. */
static _Noreturn void become_worker(struct zygote *z, const struct descent *d)
{
    struct error err = {0};
    const struct sandbox_policy policy = {
        .role = SANDBOX_WORKER,
        .filter = &z->filter,
        .features = z->o->features,
        .memory_bytes_max = d->order->memory_bytes_max,
        .threads_max = WORKER_THREADS_MAX,
        .fds_max = ROLE_FDS_MAX,
        .fds = &d->chan,
        .fd_count = 1,
    };
    (void)prctl(PR_SET_NAME, "sllora-worker");
    if (sandbox_descend(&policy, d->group, d->order->uid, &err) < 0)
        _exit(role_fail(d->chan, &err));
    _exit(worker_serve(&z->session, d->chan, d->order->threads, clock_now_us() - d->began_us));
}

static void say_failed(struct zygote *z, uint64_t number, int code)
{
    struct wire_failed failed = {
        .scope = WIRE_FAILED_SLOT, .subject = number, .status = (uint32_t)-code};
    const char *why = code == -EAGAIN ? "there are too many processes" : strerror(-code);
    role_send(z->o->chan, WIRE_FAILED, &failed, sizeof failed, why, strlen(why), -1);
}

static void make_copy(struct zygote *z, const struct wire_fork *order, int chan)
{
    struct descent d = {
        .order = order, .chan = chan, .group = z->group, .began_us = clock_now_us()};
    int pidfd = -1;
    pid_t pid = z->copy_count < COPIES_MAX ? sandbox_fork(&pidfd) : -EAGAIN;
    if (pid == 0)
        become_worker(z, &d);
    if (pid < 0) {
        say_failed(z, order->number, pid);
        return;
    }
    struct wire_forked forked = {.number = order->number, .fork_us = clock_now_us() - d.began_us};
    z->copies[z->copy_count++] = (struct copy){order->number, pidfd};
    role_send(z->o->chan, WIRE_FORKED, &forked, sizeof forked, NULL, 0, pidfd);
}

static int dispatch(struct zygote *z, struct wire_cursor *c, const struct wire_record *r,
                    struct error *err)
{
    int fd = wire_take_fd(c, r, 0);
    if (r->type == WIRE_PREPARE) {
        uint64_t began_us = clock_now_us();
        const struct wire_prepare *p = r->fixed;
        int n = session_open_backbone(&z->session, &p->backbone, fd, err);
        struct wire_prepared prepared = {.prepare_us = clock_now_us() - began_us};
        if (n == 0)
            role_send(z->o->chan, WIRE_PREPARED, &prepared, sizeof prepared, NULL, 0, -1);
        return n;
    }
    if (r->type == WIRE_GROUP && z->group < 0) {
        z->group = fd;
        return 0;
    }
    if (r->type != WIRE_FORK || fd < 0 || z->session.view.data == NULL)
        return error_set(err, -EPROTO, "a zygote takes PREPARE, then GROUP and FORK");
    make_copy(z, r->fixed, fd);
    close(fd);
    if (z->group >= 0)
        close(z->group);
    z->group = -1;
    return 0;
}

/* One message. 0 at the end of the channel. */
static int receive(struct zygote *z, struct error *err)
{
    static struct chan_message message;
    struct wire_cursor c;
    struct wire_record r;
    if (chan_receive(z->o->chan, &message, 0) <= 0)
        return 0;
    wire_begin(&c, &message);
    int n;
    while ((n = wire_next(&c, &r)) > 0) {
        n = dispatch(z, &c, &r, err);
        if (n < 0)
            break;
    }
    chan_message_clear(&message);
    return n < 0 ? n : 1;
}

static void reap(struct zygote *z, uint32_t index)
{
    siginfo_t info = {0};
    struct copy *c = &z->copies[index];
    if (waitid(P_PIDFD, (id_t)c->pidfd, &info, WEXITED | WNOHANG) < 0 || info.si_pid == 0)
        return;
    struct wire_exited exited = {
        .number = c->number, .code = info.si_code, .status = info.si_status};
    close(c->pidfd);
    *c = z->copies[--z->copy_count];
    role_send(z->o->chan, WIRE_EXITED, &exited, sizeof exited, NULL, 0, -1);
}

static int serve(struct zygote *z, struct error *err)
{
    static struct pollfd polls[1 + COPIES_MAX];
    for (;;) {
        polls[0] = (struct pollfd){.fd = z->o->chan, .events = POLLIN};
        for (uint32_t i = 0; i < z->copy_count; i++)
            polls[1 + i] = (struct pollfd){.fd = z->copies[i].pidfd, .events = POLLIN};
        uint32_t count = z->copy_count;
        if (poll(polls, 1 + count, -1) < 0 && errno != EINTR)
            return error_set(err, -errno, "poll: %s", strerror(errno));
        for (uint32_t i = count; i-- > 0;)
            if (polls[1 + i].revents != 0)
                reap(z, i);
        if (polls[0].revents == 0)
            continue;
        int r = receive(z, err);
        if (r <= 0)
            return r;
    }
}

int role_zygote(const struct role_options *o)
{
    static struct zygote z; /* too large for the stack */
    struct error err = {0};
    z.o = o;
    z.group = -1;
    session_init(&z.session);
    int r = sandbox_filter_make(&z.filter, SANDBOX_WORKER, &err);
    if (r == 0)
        r = role_lock(o, SANDBOX_ZYGOTE, COPIES_MAX + WORKER_THREADS_MAX, NULL, 0, &err);
    if (r == 0)
        r = serve(&z, &err);
    return r < 0 ? role_fail(o->chan, &err) : 0;
}
