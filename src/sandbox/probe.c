/*
 * What this machine offers. One decision: a feature is present when it worked just now, for this
 * user, in a throw-away child; kernel versions and configuration files are not asked.
 */
#include "sandbox/sandbox.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "sandbox/parts.h"

static const struct {
    const char *name;
    const char *promise;
} TEXT[SANDBOX_FEATURE_COUNT] = {
    [SANDBOX_USER_NS] = {"user-namespace",
                         "a worker has no identity of its own: its root directory is not emptied "
                         "and it stays a user of the host"},
    [SANDBOX_EMPTY_ROOT] = {"empty-root",
                            "the host's files stay in a worker's view; only Landlock and seccomp "
                            "stand before them"},
    [SANDBOX_PID_NS] = {"pid-namespace",
                        "a worker can name the host's processes; only seccomp keeps it from "
                        "signalling those of its own uid"},
    [SANDBOX_NET_NS] = {"net-namespace",
                        "the host's network is there for a worker; only seccomp and Landlock keep "
                        "it from connecting"},
    [SANDBOX_IPC_NS] = {"ipc-namespace",
                        "a worker shares System V and POSIX queues with the host; only seccomp "
                        "keeps it from using them"},
    [SANDBOX_UTS_NS] = {"uts-namespace", "a worker can read the host's name"},
    [SANDBOX_CGROUP_NS] = {"cgroup-namespace", "a worker shares the host's view of control groups"},
    [SANDBOX_SECCOMP] = {"seccomp",
                         "the whole system-call interface of the kernel is open to a worker, "
                         "executable memory and new namespaces included"},
    [SANDBOX_LANDLOCK] = {"landlock",
                          "the second lock on files and TCP ports is missing; the empty root, the "
                          "empty network and seccomp remain"},
    [SANDBOX_OWN_UID] = {"own-uid",
                         "workers run under the daemon's uid (only root can give them their own); "
                         "their namespaces and seccomp keep them apart"},
    [SANDBOX_MEMORY_CGROUP] = {"memory-cgroup",
                               "a worker's memory is bounded by RLIMIT_DATA alone, which does not "
                               "count page tables and socket buffers"},
};

const char *sandbox_feature_name(enum sandbox_feature f)
{
    return TEXT[f].name;
}

const char *sandbox_feature_promise(enum sandbox_feature f)
{
    return TEXT[f].promise;
}

/* In the child, once the parent has written the maps: does what the features are for work? */
static int trial_child(int sock, bool identity, bool root)
{
    char go;

    if (read(sock, &go, 1) != 1)
        return 1;
    if (identity && sandbox_become(0) < 0)
        return 2;
    if (root && sandbox_empty_root(NULL) < 0)
        return 3;
    return 0;
}

/* A child with the namespaces of `features`; with its root emptied where that is among them. */
static bool trial(uint32_t features, bool own_uid)
{
    uint64_t flags = sandbox_clone_flags(features);
    bool identity = features & SANDBOX_BIT(SANDBOX_USER_NS);
    bool root = features & SANDBOX_BIT(SANDBOX_EMPTY_ROOT);
    int sv[2], pidfd = -1;
    siginfo_t info = {0};

    if (flags == 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) != 0)
        return false;
    cleanup_fd int ours = sv[0], theirs = sv[1];
    pid_t pid = sandbox_clone(flags, &pidfd);
    if (pid < 0)
        return false;
    if (pid == 0) {
        (void)close(ours);
        _exit(trial_child(theirs, identity, root));
    }
    (void)close(steal_fd(&theirs));
    const struct sandbox_spawn_options o = {.uid = SANDBOX_UID_BASE};
    bool mapped = !identity || sandbox_write_maps(pid, own_uid, &o) == 0;
    if (mapped)
        (void)!send(ours, "g", 1, MSG_NOSIGNAL);
    (void)close(steal_fd(&ours)); /* without "go" the child ends by itself */
    int r;
    do
        r = waitid(P_PID, (id_t)pid, &info, WEXITED);
    while (r != 0 && errno == EINTR);
    (void)close(pidfd);
    return mapped && r == 0 && info.si_code == CLD_EXITED && info.si_status == 0;
}

/* Root of a container may own no further uid: then taking one fails although the daemon is root. */
static bool can_become_another(void)
{
    siginfo_t info = {0};
    pid_t pid = fork();

    if (pid == 0)
        _exit(sandbox_become(SANDBOX_UID_BASE) < 0);
    if (pid < 0)
        return false;
    int r;
    do
        r = waitid(P_PID, (id_t)pid, &info, WEXITED);
    while (r != 0 && errno == EINTR);
    return r == 0 && info.si_code == CLD_EXITED && info.si_status == 0;
}

static bool seccomp_kills(void)
{
    uint32_t action = SECCOMP_RET_KILL_PROCESS;
    return syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;
}

void sandbox_probe(struct sandbox_features *ret)
{
    static const enum sandbox_feature NAMESPACES[] = {
        SANDBOX_EMPTY_ROOT, SANDBOX_PID_NS, SANDBOX_NET_NS,
        SANDBOX_IPC_NS,     SANDBOX_UTS_NS, SANDBOX_CGROUP_NS,
    };
    const uint32_t user = SANDBOX_BIT(SANDBOX_USER_NS);
    struct sandbox_features f = {0};

    if (trial(user, false))
        f.have |= user;
    if (geteuid() == 0 && (f.have ? trial(user, true) : can_become_another()))
        f.have |= SANDBOX_BIT(SANDBOX_OWN_UID);
    for (size_t i = 0; i < sizeof NAMESPACES / sizeof *NAMESPACES; i++) {
        bool needs_user = NAMESPACES[i] == SANDBOX_EMPTY_ROOT;
        if (needs_user && !(f.have & user))
            continue;
        if (trial((f.have & user) | SANDBOX_BIT(NAMESPACES[i]), false))
            f.have |= SANDBOX_BIT(NAMESPACES[i]);
    }
    if (seccomp_kills())
        f.have |= SANDBOX_BIT(SANDBOX_SECCOMP);
    f.landlock_abi = sandbox_landlock_abi();
    if (f.landlock_abi > 0)
        f.have |= SANDBOX_BIT(SANDBOX_LANDLOCK);
    sandbox_cgroup_find(&f);
    if (f.cgroup_version > 0)
        f.have |= SANDBOX_BIT(SANDBOX_MEMORY_CGROUP);
    *ret = f;
}
