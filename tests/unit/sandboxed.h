/*
 * For tests that need a process in the sandbox: the test program starts itself again, as
 * `--child CASE FEATURES`, and the case runs there. Its exit status is the verdict, its stderr the
 * explanation. Every child has a deadline.
 */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <grp.h>
#include <cmocka.h>

#include "base/error.h"
#include "sandbox/sandbox.h"

#define CHILD_MS_MAX 15000
#define CHILD_UID_SLOT 7
#define CHILD_COPIES 4
#define ORDINARY_UID 65534

struct child_case {
    const char *name;
    int (*run)(uint32_t features); /* 0: as it should be; else what to exit with */
};

struct outcome {
    int code;   /* CLD_EXITED, CLD_KILLED, CLD_DUMPED */
    int status; /* exit status or signal */
    struct sandbox_child child;
    char log[4096];
};

/* In the child: explain and fail. */
#define CHILD_CHECK(condition)                                                                     \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            dprintf(2, "%s:%d: %s (errno %d %s)\n", __FILE__, __LINE__, #condition, errno,         \
                    strerror(errno));                                                              \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)

/* What a copy of a zygote becomes. */
static inline uid_t uid_of(uint32_t features, uid_t uid)
{
    return features & SANDBOX_BIT(SANDBOX_OWN_UID) ? uid : 0;
}

static inline int child_main(int argc, char **argv, const struct child_case *cases, size_t count)
{
    for (size_t i = 0; argc == 4 && i < count; i++)
        if (strcmp(argv[2], cases[i].name) == 0)
            return cases[i].run((uint32_t)strtoul(argv[3], NULL, 16));
    dprintf(2, "no such case\n");
    return 99;
}

/* Starts a case in `mode` ("--child" or "--copies": as a zygote that may become CHILD_COPIES other
 * uids); its log comes through `*ret_log`. */
static inline int child_start_in(const char *mode, struct sandbox_child *ret, int *ret_log,
                                 const char *name, uint32_t features, const int *fds,
                                 size_t fd_count, const struct sandbox_cgroup *cgroup,
                                 struct error *err)
{
    char mask[16];
    int log[2], exe = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    const char *argv[] = {"test-child", mode, name, mask, NULL};

    assert_true(exe >= 0);
    assert_int_equal(pipe2(log, O_CLOEXEC), 0);
    snprintf(mask, sizeof mask, "%x", features);
    struct sandbox_spawn_options o = {
        .exe_fd = exe,
        .argv = argv,
        .fds = fds,
        .fd_count = fd_count,
        .log_fd = log[1],
        .uid = SANDBOX_UID_BASE + CHILD_UID_SLOT,
        .child_uid = SANDBOX_UID_BASE + CHILD_UID_SLOT + 1,
        .child_uids = strcmp(mode, "--copies") == 0 ? CHILD_COPIES : 0,
        .features = features,
        .cgroup = cgroup,
    };
    int r = sandbox_spawn(ret, &o, err);
    close(exe);
    close(log[1]);
    *ret_log = log[0];
    return r;
}

static inline int child_start(struct sandbox_child *ret, int *ret_log, const char *name,
                              uint32_t features, const int *fds, size_t fd_count,
                              const struct sandbox_cgroup *cgroup, struct error *err)
{
    return child_start_in("--child", ret, ret_log, name, features, fds, fd_count, cgroup, err);
}

static inline void child_finish(struct outcome *o, struct sandbox_child *c, int log)
{
    struct pollfd p = {.fd = c->pidfd, .events = POLLIN};
    siginfo_t info = {0};

    o->child = *c;
    if (poll(&p, 1, CHILD_MS_MAX) != 1) {
        kill(c->pid, SIGKILL);
        print_message("child ran past its deadline\n");
    }
    assert_int_equal(waitid(P_PID, (id_t)c->pid, &info, WEXITED), 0);
    o->code = info.si_code;
    o->status = info.si_status;
    ssize_t n = read(log, o->log, sizeof o->log - 1); /* fits a pipe; the writer is gone */
    o->log[n > 0 ? n : 0] = '\0';
    close(log);
    close(c->pidfd);
}

static inline struct outcome child_run_with(const char *name, uint32_t features, const int *fds,
                                            size_t fd_count, const struct sandbox_cgroup *cgroup)
{
    struct sandbox_child c;
    struct outcome o = {0};
    struct error err = {0};
    int log;

    int r = child_start(&c, &log, name, features, fds, fd_count, cgroup, &err);
    if (r < 0)
        fail_msg("spawn %s: %s", name, err.text);
    child_finish(&o, &c, log);
    return o;
}

static inline void outcome_is_success(const char *name, const struct outcome *o)
{
    if (o->code != CLD_EXITED || o->status != 0)
        fail_msg("%s: code %d status %d: %s", name, o->code, o->status, o->log);
}

static inline void outcome_is_kill(const char *name, const struct outcome *o, int sig)
{
    if ((o->code != CLD_KILLED && o->code != CLD_DUMPED) || o->status != sig)
        fail_msg("%s: code %d status %d instead of signal %d: %s", name, o->code, o->status, sig,
                 o->log);
}

/* Everything must hold for an ordinary user too. As root: true in a fork that has become one (and
 * exits with what main returns), false in the parent once that has ended, `*failed` grown. */
static inline bool become_ordinary_user(int *failed)
{
    int status = 0;

    if (geteuid() != 0)
        return false;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        if (setgroups(0, NULL) != 0 || setresgid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID) != 0 ||
            setresuid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID) != 0 ||
            prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) != 0)
            _exit(98);
        return true;
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
        *failed += 1;
    else
        *failed += WEXITSTATUS(status);
    return false;
}

/* Features of this machine for whoever we are now. */
static inline uint32_t features_here(void)
{
    struct sandbox_features f;
    sandbox_probe(&f);
    return f.have & ~SANDBOX_BIT(SANDBOX_MEMORY_CGROUP);
}
