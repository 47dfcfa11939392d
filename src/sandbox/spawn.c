/*
 * The parent's half: a program in new namespaces, under its own uid, in its memory group, with
 * nothing of the daemon but the listed descriptors. One decision: the daemon waits for the exec
 * (about a millisecond), so a child that it knows of is a program that runs, and every failure
 * before that has a sentence.
 */
#include "sandbox/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "sandbox/parts.h"

#define FIRST_FD 3

enum step { STEP_GROUP, STEP_IDS, STEP_PARENT, STEP_FDS, STEP_EXEC };

static const char *const STEP_NAMES[] = {
    [STEP_GROUP] = "cannot enter its memory group",
    [STEP_IDS] = "cannot take its uid",
    [STEP_PARENT] = "cannot tie its life to the daemon's",
    [STEP_FDS] = "cannot arrange its descriptors (is the open-files limit too low?)",
    [STEP_EXEC] = "cannot be executed (it must be executable for others, chmod o+rx)",
};

struct failure {
    int step;
    int code;
};

/* All that the child needs, prepared before the clone: after it only system calls are safe. */
struct launch {
    const struct sandbox_spawn_options *o;
    char *const *env;
    int null_fd, log_fd;
    int group_fd; /* where a process enters its memory group; -1: it has none */
    int go_read, go_write;
    int status_read, status_write;
};

uint64_t sandbox_clone_flags(uint32_t features)
{
    static const struct {
        uint32_t feature;
        uint64_t flag;
    } MAP[] = {
        {SANDBOX_BIT(SANDBOX_USER_NS), CLONE_NEWUSER},
        {SANDBOX_BIT(SANDBOX_EMPTY_ROOT), CLONE_NEWNS},
        {SANDBOX_BIT(SANDBOX_PID_NS), CLONE_NEWPID},
        {SANDBOX_BIT(SANDBOX_NET_NS), CLONE_NEWNET},
        {SANDBOX_BIT(SANDBOX_IPC_NS), CLONE_NEWIPC},
        {SANDBOX_BIT(SANDBOX_UTS_NS), CLONE_NEWUTS},
        {SANDBOX_BIT(SANDBOX_CGROUP_NS), CLONE_NEWCGROUP},
    };
    uint64_t flags = 0;

    if (!(features & SANDBOX_BIT(SANDBOX_USER_NS)) && geteuid() != 0)
        return 0;
    for (size_t i = 0; i < sizeof MAP / sizeof *MAP; i++)
        if (features & MAP[i].feature)
            flags |= MAP[i].flag;
    return flags;
}

pid_t sandbox_clone(uint64_t flags, int *ret_pidfd)
{
    int pidfd = -1;
    long pid = syscall(SYS_clone, flags | CLONE_PIDFD | SIGCHLD, NULL, &pidfd, NULL, NULL);

    if (pid < 0)
        return -errno;
    if (pid > 0)
        *ret_pidfd = pidfd;
    return (pid_t)pid;
}

static int write_proc(pid_t pid, const char *file, const char *text)
{
    char path[64];

    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, file);
    cleanup_fd int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    size_t len = strlen(text);
    return write(fd, text, len) == (ssize_t)len ? 0 : -errno;
}

int sandbox_write_maps(pid_t child, bool own_uid, const struct sandbox_spawn_options *o)
{
    char uid_map[64], gid_map[64], more[32] = "";
    int r;

    if (own_uid && o->child_uids > 0)
        snprintf(more, sizeof more, "1 %u %u\n", o->child_uid, o->child_uids);
    snprintf(uid_map, sizeof uid_map, "0 %u 1\n%s", own_uid ? o->uid : geteuid(), more);
    snprintf(gid_map, sizeof gid_map, "0 %u 1\n%s", own_uid ? o->uid : getegid(), more);
    if (geteuid() != 0) {
        r = write_proc(child, "setgroups", "deny");
        if (r < 0)
            return r;
    }
    r = write_proc(child, "uid_map", uid_map);
    return r < 0 ? r : write_proc(child, "gid_map", gid_map);
}

int sandbox_become(uid_t id)
{
    /* Refused where an ordinary user had to write "deny": then the groups are his own. */
    (void)syscall(SYS_setgroups, 0, NULL);
    if (syscall(SYS_setresgid, id, id, id) != 0 || syscall(SYS_setresuid, id, id, id) != 0)
        return -errno;
    return 0;
}

/* --- the child, between clone and exec: system calls only --- */

/* The child moves itself, one thread and its own: only so the kernel (v1) does without the lock on
 * all threads of the machine, which costs 15 ms. */
static int child_group(const struct launch *l)
{
    if (l->group_fd < 0)
        return 0;
    return write(l->group_fd, "0", 1) == 1 ? 0 : -errno;
}

static int child_ids(const struct sandbox_spawn_options *o)
{
    if (o->features & SANDBOX_BIT(SANDBOX_USER_NS))
        return sandbox_become(0);
    if ((o->features & SANDBOX_BIT(SANDBOX_OWN_UID)) && geteuid() == 0)
        return sandbox_become(o->uid);
    return 0;
}

/* After a change of ids, which would clear it. The daemon holds its end of the "go" pipe until the
 * exec is done, so a hang-up means that it died before the kernel knew to tell us. */
static int child_parent(const struct launch *l)
{
    struct pollfd p = {.fd = l->go_read};

    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0)
        return -errno;
    return poll(&p, 1, 0) == 0 ? 0 : -ESRCH;
}

/* Everything moves out of the way first, then to its number. `*ret_exe` and `*ret_status` follow
 * the listed ones and vanish in the exec. */
static int child_fds(const struct launch *l, int *ret_exe, int *ret_status)
{
    size_t count = l->o->fd_count;
    int moved[SANDBOX_SPAWN_FDS_MAX + 4];
    int targets[SANDBOX_SPAWN_FDS_MAX + 4];
    int above = FIRST_FD + (int)count + 2;

    for (size_t i = 0; i < count + 4; i++) {
        int fd = i < count        ? l->o->fds[i]
                 : i == count     ? l->o->exe_fd
                 : i == count + 1 ? l->status_write
                 : i == count + 2 ? l->null_fd
                                  : l->log_fd;
        targets[i] = i < count + 2 ? FIRST_FD + (int)i : i == count + 2 ? 0 : 1;
        moved[i] = fcntl(fd, F_DUPFD_CLOEXEC, above);
        if (moved[i] < 0)
            return -errno;
    }
    for (size_t i = 0; i < count + 4; i++) {
        int flags = i == count || i == count + 1 ? O_CLOEXEC : 0;
        if (dup3(moved[i], targets[i], flags) < 0)
            return -errno;
    }
    if (dup3(1, 2, 0) < 0 || syscall(SYS_close_range, above, ~0u, 0) != 0)
        return -errno;
    *ret_exe = FIRST_FD + (int)count;
    *ret_status = *ret_exe + 1;
    return 0;
}

static void child_signals(void)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    sigset_t none;

    for (int sig = 1; sig < NSIG; sig++)
        (void)sigaction(sig, &action, NULL);
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static _Noreturn void child_run(const struct launch *l)
{
    int exe = -1, status = l->status_write, r;
    enum step step = STEP_GROUP;
    char go;

    (void)close(l->go_write);
    if (read(l->go_read, &go, 1) != 1)
        _exit(127); /* the daemon gave up on us */
    r = child_group(l);
    if (r == 0) {
        step = STEP_IDS;
        r = child_ids(l->o);
    }
    if (r == 0) {
        step = STEP_PARENT;
        r = child_parent(l);
    }
    if (r == 0) {
        step = STEP_FDS;
        r = child_fds(l, &exe, &status);
    }
    if (r == 0) {
        step = STEP_EXEC;
        (void)setsid(); /* a Ctrl-C on the daemon's terminal is the daemon's to handle */
        (void)!chdir("/");
        child_signals();
        (void)syscall(SYS_execveat, exe, "", l->o->argv, l->env, AT_EMPTY_PATH);
        r = -errno;
    }
    struct failure f = {step, r};
    (void)!write(status, &f, sizeof f);
    _exit(127);
}

/* --- the parent --- */

static int parent_setup(const struct launch *l, pid_t pid, struct error *reterr)
{
    const struct sandbox_spawn_options *o = l->o;
    bool own_uid = (o->features & SANDBOX_BIT(SANDBOX_OWN_UID)) && geteuid() == 0;
    int r;

    if (o->features & SANDBOX_BIT(SANDBOX_USER_NS)) {
        r = sandbox_write_maps(pid, own_uid, o);
        if (r < 0)
            return error_set(reterr, r, "the sandbox's uid map (0 to %u) was refused: %s",
                             own_uid ? o->uid : geteuid(), strerror(-r));
    }
    return write(l->go_write, "g", 1) == 1
               ? 0
               : error_set(reterr, -EPIPE, "the sandboxed process died before it started");
}

/* Waits for the exec: end of file is success, for the status pipe closes itself in it. */
static int parent_await_exec(struct launch *l, struct error *reterr)
{
    struct failure f;
    ssize_t n;

    do
        n = read(l->status_read, &f, sizeof f);
    while (n < 0 && errno == EINTR);
    if (n == 0)
        return 0;
    if (n != (ssize_t)sizeof f || f.step < 0 || f.step > STEP_EXEC || f.code >= 0)
        return error_set(reterr, -EPROTO, "the sandboxed process died before its program started");
    return error_set(reterr, f.code, "the sandboxed program %s: %s", STEP_NAMES[f.step],
                     strerror(-f.code));
}

static int run_child(struct launch *l, struct sandbox_child *c, struct error *reterr)
{
    uint64_t flags = sandbox_clone_flags(l->o->features), t0 = clock_now_ns();
    sigset_t all, before;

    sigfillset(&all);
    (void)sigprocmask(SIG_SETMASK, &all, &before); /* no handler of ours runs in the child */
    c->pid = sandbox_clone(flags, &c->pidfd);
    if (c->pid == 0)
        child_run(l);
    (void)sigprocmask(SIG_SETMASK, &before, NULL);
    if (c->pid < 0)
        return error_set(reterr, c->pid,
                         "cannot start a process in new namespaces: %s (see `sllora doctor`)",
                         strerror(-c->pid));
    uint64_t t1 = clock_now_ns();
    (void)close(steal_fd(&l->status_write));
    int r = parent_setup(l, c->pid, reterr);
    uint64_t t2 = clock_now_ns();
    if (r == 0)
        r = parent_await_exec(l, reterr);
    c->clone_ns = t1 - t0;
    c->setup_ns = t2 - t1;
    c->exec_ns = clock_now_ns() - t2;
    if (r < 0) {
        siginfo_t info;
        (void)syscall(SYS_pidfd_send_signal, c->pidfd, SIGKILL, NULL, 0);
        (void)waitid(P_PID, (id_t)c->pid, &info, WEXITED);
        (void)close(c->pidfd);
    }
    return r;
}

int sandbox_spawn(struct sandbox_child *ret, const struct sandbox_spawn_options *o,
                  struct error *reterr)
{
    static char *const no_env[] = {NULL};
    struct sandbox_child c = {.pidfd = -1};
    int go[2], status[2];

    if (o->fd_count > SANDBOX_SPAWN_FDS_MAX)
        return error_set(reterr, -E2BIG, "a sandbox takes at most %d descriptors, not %zu",
                         SANDBOX_SPAWN_FDS_MAX, o->fd_count);
    cleanup_fd int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null_fd < 0)
        return error_set(reterr, -errno, "cannot open /dev/null: %s", strerror(errno));
    int group = -1, r = 0;
    if (o->cgroup != NULL)
        r = sandbox_cgroup_open(o->cgroup, &group, reterr);
    if (r < 0)
        return r;
    cleanup_fd int group_fd = group;
    if (pipe2(go, O_CLOEXEC) != 0)
        return error_set(reterr, -errno, "no pipe for a new process: %s", strerror(errno));
    cleanup_fd int go_read = go[0], go_write = go[1];
    if (pipe2(status, O_CLOEXEC) != 0)
        return error_set(reterr, -errno, "no pipe for a new process: %s", strerror(errno));
    struct launch l = {
        .o = o,
        .group_fd = group_fd,
        .env = o->env ? (char *const *)(uintptr_t)o->env : no_env,
        .null_fd = null_fd,
        .log_fd = o->log_fd >= 0 ? o->log_fd : STDERR_FILENO,
        .go_read = go_read,
        .go_write = go_write,
        .status_read = status[0],
        .status_write = status[1],
    };
    r = run_child(&l, &c, reterr);
    (void)close(l.status_read);
    if (l.status_write >= 0)
        (void)close(l.status_write);
    if (r == 0)
        *ret = c;
    return r;
}
