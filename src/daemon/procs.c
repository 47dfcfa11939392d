/* See procs.h. */
#include "daemon/procs.h"

#include "base/cleanup.h"
#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* Host uids of one role. */
#define ROLE_UIDS (SANDBOX_UID_COUNT / SANDBOX_ROLE_COUNT)

/* Messages that wait because the process does not read; 64 KiB each at most. */
#define PENDING_MAX 256u
/* Settings that a process gets of our environment. */
#define ENVIRONMENT_MAX 32u

struct pending {
    struct pending *next;
    size_t len;
    int fds[CHAN_FDS_MAX]; /* owned */
    uint32_t fd_count;
    uint8_t bytes[];
};

struct proc {
    struct procs *procs;
    struct proc *next, *prev; /* all processes */
    struct proc *dirty_next;  /* those with something to flush */
    bool dirty;
    bool abandoned;
    bool ended;    /* reaped */
    bool kill_due; /* a copy whose pidfd has not come yet */
    bool is_zygote;
    struct proc *zygote; /* that it is a copy of; NULL: it was started */
    uint64_t number;     /* of the order to make it, never used twice */
    int code, status;    /* how a copy ended, by its zygote's word */
    struct sandbox_child child;
    struct sandbox_cgroup cgroup;
    int chan;
    struct event *read_event, *write_event, *exit_event;
    struct pending *pending_first, *pending_last;
    uint32_t pending_count;
    uint64_t started_us;
    struct proc_events events;
    void *context;
    struct wire_out out;
};

struct procs {
    struct event_base *base;
    struct sandbox_features features;
    uint32_t use;
    int exe_fd;
    int log_fd; /* our stderr, for writing only */
    struct proc *first;
    struct proc *dirty_first;
    uint64_t forks;
    struct chan_message message; /* of the record being delivered */
};

int procs_open(struct procs **ret, struct event_base *base, const char *program,
               const struct sandbox_features *features, uint32_t use, struct error *err)
{
    struct procs *ps = calloc(1, sizeof *ps);
    if (ps == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    ps->base = base;
    ps->features = *features;
    ps->use = use;
    ps->exe_fd = open(program, O_RDONLY | O_CLOEXEC);
    if (ps->exe_fd < 0) {
        int r = error_set(err, -errno, "cannot open %s: %s", program, strerror(errno));
        free(ps);
        return r;
    }
    /* A terminal is open both ways: what the operator types is not for a process to read. A log
     * file then has two descriptions, so both must append. */
    int flags = fcntl(STDERR_FILENO, F_GETFL);
    if (flags >= 0)
        (void)fcntl(STDERR_FILENO, F_SETFL, flags | O_APPEND);
    ps->log_fd = open("/proc/self/fd/2", O_WRONLY | O_APPEND | O_NOCTTY | O_CLOEXEC);
    *ret = ps;
    return 0;
}

static void pending_free(struct pending *m)
{
    for (uint32_t i = 0; i < m->fd_count; i++)
        close(m->fds[i]);
    free(m);
}

static void out_clear(struct wire_out *out)
{
    for (uint32_t i = 0; i < out->fd_count; i++)
        close(out->fds[i]);
    out->len = 0;
    out->fd_count = 0;
}

static void proc_free(struct proc *p)
{
    struct procs *ps = p->procs;
    if (p->dirty) {
        struct proc **link = &ps->dirty_first;
        while (*link != p)
            link = &(*link)->dirty_next;
        *link = p->dirty_next;
    }
    if (p->prev != NULL)
        p->prev->next = p->next;
    else
        ps->first = p->next;
    if (p->next != NULL)
        p->next->prev = p->prev;
    struct event *events[] = {p->read_event, p->write_event, p->exit_event};
    for (size_t i = 0; i < sizeof events / sizeof events[0]; i++) {
        if (events[i] != NULL)
            event_free(events[i]);
    }
    for (struct pending *m = p->pending_first, *next; m != NULL; m = next) {
        next = m->next;
        pending_free(m);
    }
    out_clear(&p->out);
    if (p->chan >= 0)
        close(p->chan);
    if (p->child.pidfd >= 0)
        close(p->child.pidfd);
    /* -EBUSY cannot happen: the only process inside was reaped. */
    if (p->cgroup.dir[0] != '\0')
        sandbox_cgroup_remove(&p->cgroup);
    free(p);
}

/* --- copies of a zygote --- */

static struct proc *copy_of(const struct proc *zygote, uint64_t number)
{
    for (struct proc *p = zygote->procs->first; p != NULL; p = p->next) {
        if (p->zygote == zygote && p->number == number)
            return p;
    }
    return NULL;
}

/* The number that the kernel has for it here; the zygote sees another one. */
static pid_t pid_behind(int pidfd)
{
    char path[48], line[128];
    int pid = 0;
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", pidfd);
    FILE *f = fopen(path, "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL && sscanf(line, "Pid:\t%d", &pid) != 1)
        ;
    if (f != NULL)
        fclose(f);
    return pid;
}

static void copy_made(struct proc *p, const struct wire_forked *f, int pidfd)
{
    p->child.pidfd = pidfd;
    p->child.pid = pid_behind(pidfd);
    p->child.clone_ns = f->fork_us * 1000;
    if (p->kill_due)
        proc_kill(p);
}

static void copy_ended(struct proc *p, int code, int status)
{
    p->code = code;
    p->status = status;
    event_active(p->exit_event, EV_TIMEOUT, 0); /* not from within the delivery of a message */
}

/* What a zygote says of its copies; true: that was it, and it is nobody else's business. */
static bool hear_zygote(struct proc *z, struct wire_cursor *c, const struct wire_record *r)
{
    if (r->type == WIRE_FORKED) {
        const struct wire_forked *f = r->fixed;
        struct proc *p = copy_of(z, f->number);
        int pidfd = p != NULL && p->child.pidfd < 0 ? wire_take_fd(c, r, 0) : -1;
        if (pidfd >= 0)
            copy_made(p, f, pidfd);
        return true;
    }
    if (r->type == WIRE_EXITED) {
        const struct wire_exited *e = r->fixed;
        struct proc *p = copy_of(z, e->number);
        if (p != NULL)
            copy_ended(p, e->code, e->status);
        return true;
    }
    const struct wire_failed *failed = r->fixed;
    if (r->type != WIRE_FAILED || failed->scope != WIRE_FAILED_SLOT)
        return false;
    struct proc *p = copy_of(z, failed->subject);
    if (p != NULL)
        copy_ended(p, 0, (int)failed->status);
    return true;
}

/* --- what they say --- */

/* Delivers one message; false when there is none now. */
static bool deliver(struct proc *p)
{
    struct procs *ps = p->procs;
    struct chan_message *m = &ps->message;
    int n = chan_receive(p->chan, m, MSG_DONTWAIT);
    if (n == -EAGAIN)
        return false;
    if (n <= 0) {
        /* The process closed its end or sent something that is no message; either way it is over.
         */
        event_del(p->read_event);
        proc_kill(p);
        return false;
    }
    struct wire_cursor c;
    struct wire_record r;
    wire_begin(&c, m);
    while ((n = wire_next(&c, &r)) > 0) {
        if (!(p->is_zygote && hear_zygote(p, &c, &r)) && !p->abandoned)
            p->events.record(p->context, p, &c, &r);
    }
    chan_message_clear(m);
    if (n < 0)
        proc_kill(p);
    return true;
}

static void on_readable(evutil_socket_t fd, short what, void *argument)
{
    (void)fd;
    (void)what;
    /* A few at a time, so that one chatty process does not starve the others. */
    for (int i = 0; i < 16 && deliver(argument); i++)
        ;
}

static void describe_end(struct proc *p, char *to, size_t bytes)
{
    bool out_of_memory = p->cgroup.dir[0] != '\0' && sandbox_cgroup_oom_kills(&p->cgroup) > 0;
    if (out_of_memory)
        snprintf(to, bytes, "killed by the kernel for exceeding its memory limit");
    else if (p->code == 0)
        snprintf(to, bytes, "it could not be made: %s", strerror(p->status));
    else if (p->code == CLD_EXITED)
        snprintf(to, bytes, "exit status %d", p->status);
    else if (p->status == SIGSYS)
        snprintf(to, bytes, "killed by its sandbox (SIGSYS: a forbidden system call)");
    else
        snprintf(to, bytes, "signal %d (%s)", p->status, strsignal(p->status));
}

/* Everything that it sent is delivered first. */
static void finish(struct proc *p)
{
    char how[128];
    p->ended = true;
    while (deliver(p))
        ;
    describe_end(p, how, sizeof how);
    if (!p->abandoned)
        p->events.exited(p->context, p, how);
    proc_free(p);
}

/* With a zygote all its copies have ended: the kernel ends what is in its pid namespace. */
static void finish_copies(struct proc *zygote)
{
    struct proc *p = zygote->procs->first;
    while (p != NULL) {
        if (p->zygote != zygote) {
            p = p->next;
            continue;
        }
        p->code = CLD_KILLED;
        p->status = SIGKILL;
        finish(p);
        p = zygote->procs->first; /* whatever its owner did meanwhile */
    }
}

static void on_exit_event(evutil_socket_t fd, short what, void *argument)
{
    (void)what;
    struct proc *p = argument;
    siginfo_t info = {0};
    if (p->zygote == NULL) {
        if (waitid(P_PIDFD, (id_t)fd, &info, WEXITED | WNOHANG) < 0 || info.si_pid == 0)
            return;
        p->code = info.si_code;
        p->status = info.si_status;
        finish_copies(p);
    }
    finish(p);
}

static void send_pending(struct proc *p)
{
    while (p->pending_first != NULL) {
        struct pending *m = p->pending_first;
        int r = chan_send(p->chan, m->bytes, m->len, m->fds, m->fd_count, MSG_DONTWAIT);
        if (r == -EAGAIN)
            return;
        if (r < 0)
            proc_kill(p);
        p->pending_first = m->next;
        p->pending_count--;
        pending_free(m);
    }
    p->pending_last = NULL;
    event_del(p->write_event);
}

static void on_writable(evutil_socket_t fd, short what, void *argument)
{
    (void)fd;
    (void)what;
    send_pending(argument);
}

static void queue_out(struct proc *p)
{
    struct pending *m = NULL;
    if (p->pending_count < PENDING_MAX)
        m = malloc(sizeof *m + p->out.len);
    if (m == NULL) {
        proc_kill(p);
        out_clear(&p->out);
        return;
    }
    *m = (struct pending){.len = p->out.len, .fd_count = p->out.fd_count};
    memcpy(m->bytes, p->out.bytes, p->out.len);
    memcpy(m->fds, p->out.fds, sizeof m->fds);
    p->out.len = 0;
    p->out.fd_count = 0;
    if (p->pending_last != NULL)
        p->pending_last->next = m;
    else
        p->pending_first = m;
    p->pending_last = m;
    p->pending_count++;
    event_add(p->write_event, NULL);
}

static void flush(struct proc *p)
{
    if (p->out.len == 0)
        return;
    if (p->pending_first != NULL) {
        queue_out(p);
        return;
    }
    int r = chan_send(p->chan, p->out.bytes, p->out.len, p->out.fds, p->out.fd_count, MSG_DONTWAIT);
    if (r == -EAGAIN) {
        queue_out(p);
        return;
    }
    if (r < 0)
        proc_kill(p); /* Its end is on the way already; this only makes sure. */
    out_clear(&p->out);
}

void procs_flush(struct procs *ps)
{
    while (ps->dirty_first != NULL) {
        struct proc *p = ps->dirty_first;
        ps->dirty_first = p->dirty_next;
        p->dirty = false;
        flush(p);
    }
}

/* What the process gets is its own. */
static int duplicate(const int *fds, uint32_t count, int *ret)
{
    for (uint32_t i = 0; i < count; i++) {
        ret[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
        if (ret[i] >= 0)
            continue;
        while (i > 0)
            close(ret[--i]);
        return -EMFILE;
    }
    return 0;
}

static void put(struct proc *p, enum wire_type type, const void *fixed, size_t fixed_bytes,
                const void *tail, size_t tail_bytes, const int *fds, uint32_t count)
{
    int own[WIRE_FDS_MAX];
    if (duplicate(fds, count, own) < 0) {
        proc_kill(p);
        return;
    }
    if (!wire_put_fds(&p->out, type, fixed, fixed_bytes, tail, tail_bytes, own, count)) {
        flush(p);
        bool fits = wire_put_fds(&p->out, type, fixed, fixed_bytes, tail, tail_bytes, own, count);
        assert(fits);
    }
    if (!p->dirty) {
        p->dirty = true;
        p->dirty_next = p->procs->dirty_first;
        p->procs->dirty_first = p;
    }
}

void proc_put(struct proc *p, enum wire_type type, const void *fixed, size_t fixed_bytes,
              const void *tail, size_t tail_bytes, int fd)
{
    put(p, type, fixed, fixed_bytes, tail, tail_bytes, &fd, fd >= 0 ? 1 : 0);
}

void proc_put_fds(struct proc *p, enum wire_type type, const void *fixed, size_t fixed_bytes,
                  const int *fds, uint32_t fd_count)
{
    put(p, type, fixed, fixed_bytes, NULL, 0, fds, fd_count);
}

static const char *role_name(enum sandbox_role role)
{
    static const char *const names[] = {[SANDBOX_WORKER] = "worker",
                                        [SANDBOX_KEEPER] = "keeper",
                                        [SANDBOX_STAGER] = "stager",
                                        [SANDBOX_ZYGOTE] = "zygote",
                                        [SANDBOX_PACKER] = "packer"};
    return names[role];
}

static int make_cgroup(struct proc *p, const struct proc_options *o, struct error *err)
{
    if ((p->procs->use & SANDBOX_BIT(SANDBOX_MEMORY_CGROUP)) == 0 || o->memory_bytes_max == 0)
        return 0;
    char name[64];
    snprintf(name, sizeof name, "sllora-%d-%s-%u", getpid(), role_name(o->role), o->number);
    return sandbox_cgroup_create(&p->cgroup, &p->procs->features, name, o->memory_bytes_max, err);
}

/* What processes get of our environment: which instructions, and on a GPU where its driver is and
 * which GPUs it is to see, for its index counts among those. */
static bool is_handed_on(const char *setting, const struct proc_options *o)
{
    static const char isa[] = "SLLORA_ISA=", path[] = "LD_LIBRARY_PATH=", cuda[] = "CUDA_";
    if (strncmp(setting, isa, sizeof isa - 1) == 0)
        return setting[sizeof isa - 1] != '\0';
    return o->has_gpu && (strncmp(setting, path, sizeof path - 1) == 0 ||
                          strncmp(setting, cuda, sizeof cuda - 1) == 0);
}

static void pick_environment(const char *ret[ENVIRONMENT_MAX + 1], const struct proc_options *o)
{
    size_t count = 0;
    for (char **e = environ; *e != NULL && count < ENVIRONMENT_MAX; e++)
        if (is_handed_on(*e, o))
            ret[count++] = *e;
    ret[count] = NULL;
}

static int spawn(struct proc *p, const struct proc_options *o, int child_chan, struct error *err)
{
    char memory[24], file[24], threads[16], use[16], gpu[16] = "-";
    snprintf(memory, sizeof memory, "%llu", (unsigned long long)o->memory_bytes_max);
    snprintf(file, sizeof file, "%llu", (unsigned long long)o->file_bytes_max);
    snprintf(threads, sizeof threads, "%u", o->threads);
    snprintf(use, sizeof use, "%u", p->procs->use);
    if (o->has_gpu)
        snprintf(gpu, sizeof gpu, "%u", o->gpu);
    const char *argv[] = {
        "sllora-worker", role_name(o->role), use, memory, file, threads, gpu, NULL};
    const char *env[ENVIRONMENT_MAX + 1];
    pick_environment(env, o);
    uid_t slot = (uid_t)o->role * ROLE_UIDS + o->number;
    struct sandbox_spawn_options so = {
        .exe_fd = p->procs->exe_fd,
        .argv = argv,
        .env = env,
        .fds = &child_chan,
        .fd_count = 1,
        .log_fd = p->procs->log_fd,
        .uid = SANDBOX_UID_BASE + slot % SANDBOX_UID_COUNT,
        .child_uid = SANDBOX_UID_BASE + SANDBOX_WORKER * ROLE_UIDS,
        .child_uids = o->role == SANDBOX_ZYGOTE ? ROLE_UIDS : 0,
        .features = p->procs->use,
        .cgroup = p->cgroup.dir[0] != '\0' ? &p->cgroup : NULL,
    };
    return sandbox_spawn(&p->child, &so, err);
}

static int add_events(struct proc *p, struct error *err)
{
    struct event_base *base = p->procs->base;
    p->read_event = event_new(base, p->chan, EV_READ | EV_PERSIST, on_readable, p);
    p->write_event = event_new(base, p->chan, EV_WRITE | EV_PERSIST, on_writable, p);
    p->exit_event = event_new(base, p->child.pidfd, p->zygote != NULL ? 0 : EV_READ | EV_PERSIST,
                              on_exit_event, p);
    if (p->read_event == NULL || p->write_event == NULL || p->exit_event == NULL ||
        event_add(p->read_event, NULL) < 0 ||
        (p->zygote == NULL && event_add(p->exit_event, NULL) < 0))
        return error_set(err, -ENOMEM, "cannot watch a process: out of memory");
    return 0;
}

/* With its channel, the other end of which goes to *ret_chan. */
static struct proc *proc_new(struct procs *ps, const struct proc_options *o, int *ret_chan,
                             struct error *err)
{
    int pair[2];
    if (chan_pair(pair, err) < 0)
        return NULL;
    struct proc *p = calloc(1, sizeof *p);
    if (p == NULL) {
        close(pair[0]);
        close(pair[1]);
        error_set(err, -ENOMEM, "out of memory");
        return NULL;
    }
    p->procs = ps;
    p->chan = pair[0];
    p->child.pidfd = -1;
    p->is_zygote = o->role == SANDBOX_ZYGOTE;
    p->events = o->events;
    p->context = o->context;
    p->started_us = clock_now_us();
    p->next = ps->first;
    if (ps->first != NULL)
        ps->first->prev = p;
    ps->first = p;
    *ret_chan = pair[1];
    return p;
}

int proc_start(struct proc **ret, struct procs *ps, const struct proc_options *o, struct error *err)
{
    int chan = -1;
    struct proc *p = proc_new(ps, o, &chan, err);
    if (p == NULL)
        return err->code;
    cleanup_fd int child_chan = chan;
    int r = make_cgroup(p, o, err);
    if (r == 0)
        r = spawn(p, o, child_chan, err);
    if (r == 0) {
        r = add_events(p, err);
        if (r < 0) {
            proc_kill(p);
            waitid(P_PID, (id_t)p->child.pid, NULL, WEXITED);
        }
    }
    if (r < 0) {
        proc_free(p);
        return r;
    }
    *ret = p;
    return 0;
}

static void put_order(struct proc *zygote, const struct proc *p, const struct proc_options *o,
                      int child_chan, int group)
{
    bool own_uid = (zygote->procs->use & SANDBOX_BIT(SANDBOX_OWN_UID)) != 0;
    struct wire_group enter = {0};
    struct wire_fork order = {.number = p->number,
                              .memory_bytes_max = o->memory_bytes_max,
                              .uid = own_uid ? 1 + o->number % ROLE_UIDS : 0,
                              .threads = o->threads};
    if (group >= 0)
        proc_put(zygote, WIRE_GROUP, &enter, sizeof enter, NULL, 0, group);
    proc_put(zygote, WIRE_FORK, &order, sizeof order, NULL, 0, child_chan);
}

int proc_fork(struct proc **ret, struct proc *zygote, const struct proc_options *o,
              struct error *err)
{
    int chan = -1, group = -1;
    struct proc *p = proc_new(zygote->procs, o, &chan, err);
    if (p == NULL)
        return err->code;
    cleanup_fd int child_chan = chan;
    p->zygote = zygote;
    p->number = ++zygote->procs->forks;
    int r = make_cgroup(p, o, err);
    if (r == 0)
        r = sandbox_cgroup_open(&p->cgroup, &group, err);
    cleanup_fd int own_group = group;
    if (r == 0)
        r = add_events(p, err);
    if (r < 0) {
        proc_free(p);
        return r;
    }
    put_order(zygote, p, o, child_chan, own_group);
    *ret = p;
    return 0;
}

void proc_kill(struct proc *p)
{
    p->kill_due = true;
    if (!p->ended && p->child.pidfd >= 0)
        syscall(SYS_pidfd_send_signal, p->child.pidfd, SIGKILL, NULL, 0);
}

void proc_limit_memory(struct proc *p, uint64_t bytes)
{
    /* Where it cannot be set the one before holds. */
    if (p->cgroup.dir[0] != '\0')
        (void)sandbox_cgroup_limit(&p->cgroup, bytes);
}

void proc_abandon(struct proc *p)
{
    p->abandoned = true;
    proc_kill(p);
}

void procs_close(struct procs *ps)
{
    if (ps == NULL)
        return;
    for (struct proc *p = ps->first; p != NULL; p = p->next)
        proc_kill(p);
    /* What was started is waited for, and with a zygote its copies have gone. */
    for (struct proc *p = ps->first; p != NULL; p = p->next) {
        siginfo_t info;
        if (p->zygote == NULL)
            waitid(P_PIDFD, (id_t)p->child.pidfd, &info, WEXITED);
        p->ended = true;
    }
    while (ps->first != NULL)
        proc_free(ps->first);
    close(ps->exe_fd);
    if (ps->log_fd >= 0)
        close(ps->log_fd);
    free(ps);
}

pid_t proc_pid(const struct proc *p)
{
    return p->child.pid;
}

uint64_t proc_spawn_us(const struct proc *p)
{
    return (p->child.clone_ns + p->child.setup_ns + p->child.exec_ns) / 1000;
}

uint64_t proc_started_us(const struct proc *p)
{
    return p->started_us;
}
