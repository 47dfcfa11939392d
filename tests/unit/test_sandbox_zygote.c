/*
 * What one copy of a zygote cannot do to another or to the zygote, and what the zygote itself
 * cannot do. That a copy is as confined as a worker that was started is in test_sandbox_denied.c,
 * what is in one and who lives on when one ends in test_sandbox_copies.c.
 */
#include "unit/attempts.h"

#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/uio.h>

#define SIBLING_UID 3u
#define PIDS_MAX 3000

/* The worst case: a copy that was left descriptors of the others. */
#define FD_ZYGOTE 6
#define FD_SIBLING 7

/* How a zygote makes copies, by its description in sandbox.h. */
#define COPY_FLAGS (CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_PIDFD | SIGCHLD)

static char secret[32];

/* --- what one copy tries with another, and with the zygote --- */

static long signal_behind(int pidfd)
{
    return syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
}

static long c_kill_sibling(char *map)
{
    (void)map;
    return signal_behind(FD_SIBLING);
}

static long c_kill_zygote(char *map)
{
    (void)map;
    return signal_behind(FD_ZYGOTE);
}

static long c_take_of_sibling(char *map)
{
    (void)map;
    return syscall(SYS_pidfd_getfd, FD_SIBLING, FD_SHARE, 0);
}

static long c_take_of_zygote(char *map)
{
    (void)map;
    return syscall(SYS_pidfd_getfd, FD_ZYGOTE, FD_SHARE, 0);
}

/* It is 1 itself; of the others it knows no number, so it tries all. */
static long c_read_others(char *map)
{
    char got[sizeof secret];
    struct iovec local = {got, sizeof got}, remote = {secret, sizeof secret};
    (void)map;
    for (pid_t pid = 2; pid < PIDS_MAX; pid++)
        if (process_vm_readv(pid, &local, 1, &remote, 1, 0) >= 0)
            return 0;
    return -1;
}

static long c_trace_others(char *map)
{
    (void)map;
    for (pid_t pid = 2; pid < PIDS_MAX; pid++)
        if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) == 0)
            return 0;
    return -1;
}

static long c_parent(char *map)
{
    (void)map;
    return syscall(SYS_kill, getppid() == 0 ? -1 : getppid(), SIGKILL);
}

static long c_wait_for_sibling(char *map)
{
    siginfo_t info;
    (void)map;
    return waitid(P_PIDFD, FD_SIBLING, &info, WEXITED | WNOHANG | WNOWAIT);
}

static long c_enter_sibling(char *map)
{
    (void)map;
    return setns(FD_SIBLING, CLONE_NEWPID | CLONE_NEWIPC);
}

static long c_enter_zygote(char *map)
{
    (void)map;
    return setns(FD_ZYGOTE, CLONE_NEWPID);
}

static long c_reclaim_of_sibling(char *map)
{
    struct iovec v = {secret, sizeof secret};
    (void)map;
    return syscall(SYS_process_madvise, FD_SIBLING, &v, 1, MADV_PAGEOUT, 0);
}

static long c_become_sibling(char *map)
{
    (void)map;
    return setresuid(SIBLING_UID, SIBLING_UID, SIBLING_UID);
}

static long c_copy_itself(char *map)
{
    int pidfd;
    (void)map;
    pid_t pid = sandbox_fork(&pidfd);
    if (pid == 0)
        _exit(0);
    errno = pid < 0 ? -pid : 0;
    return pid < 0 ? -1 : 0;
}

static long c_all_capabilities(char *map)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct all[2] = {{~0u, ~0u, ~0u}, {~0u, ~0u, ~0u}};
    (void)map;
    return syscall(SYS_capset, &head, all);
}

static long c_traceable(char *map)
{
    (void)map;
    return prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
}

static long c_outlive_zygote(char *map)
{
    (void)map;
    return prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0);
}

/* The zygote's network is its copies' too, empty as it is: the sibling listens in it. */
static socklen_t sibling_address(struct sockaddr_un *a)
{
    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(a->sun_path + 1, "sibling", 7);
    return offsetof(struct sockaddr_un, sun_path) + 8;
}

static long c_connect_to_sibling(char *map)
{
    struct sockaddr_un a;
    socklen_t bytes = sibling_address(&a);
    (void)map;
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return s < 0 ? -1 : connect(s, (struct sockaddr *)&a, bytes);
}

static const struct attempt AMONG_COPIES[] = {
    {"kill-sibling", c_kill_sibling, KILLED, DENIED},
    {"kill-zygote", c_kill_zygote, KILLED, DENIED},
    {"kill-parent", c_parent, KILLED, DENIED},
    {"take-of-sibling", c_take_of_sibling, KILLED, DENIED},
    {"take-of-zygote", c_take_of_zygote, KILLED, DENIED},
    {"read-others", c_read_others, KILLED, DENIED},
    {"trace-others", c_trace_others, KILLED, DENIED},
    {"wait-for-sibling", c_wait_for_sibling, KILLED, DENIED},
    {"enter-sibling", c_enter_sibling, KILLED, DENIED},
    {"enter-zygote", c_enter_zygote, KILLED, DENIED},
    {"reclaim-of-sibling", c_reclaim_of_sibling, KILLED, DENIED},
    {"become-sibling", c_become_sibling, KILLED, DENIED},
    {"copy-itself", c_copy_itself, REFUSED, DENIED},
    {"all-capabilities", c_all_capabilities, KILLED, DENIED},
    {"connect-to-sibling", c_connect_to_sibling, REFUSED, DENIED},
    {"become-traceable", c_traceable, REFUSED, MAY_WORK},
    {"outlive-zygote", c_outlive_zygote, REFUSED, MAY_WORK},
};

/* --- what the zygote tries --- */

static long with_flags(unsigned long flags)
{
    int pidfd;
    long pid = syscall(SYS_clone, flags, NULL, &pidfd, NULL, NULL);
    if (pid == 0)
        _exit(0);
    return pid;
}

static long z_open(char *map)
{
    (void)map;
    return open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static long z_socket(char *map)
{
    (void)map;
    return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static long z_exec(char *map)
{
    (void)map;
    return execl("/bin/true", "true", (char *)NULL);
}

static long z_mount(char *map)
{
    (void)map;
    return mount("none", "/", "tmpfs", 0, NULL);
}

static long z_umount(char *map)
{
    (void)map;
    return umount2("/", MNT_DETACH);
}

static long z_chroot(char *map)
{
    (void)map;
    return chroot("/");
}

static long z_hostname(char *map)
{
    (void)map;
    return sethostname("x", 1);
}

static long z_enter(char *map)
{
    (void)map;
    return setns(FD_ZYGOTE, CLONE_NEWPID);
}

static long z_unshare(char *map)
{
    (void)map;
    return unshare(CLONE_NEWNET);
}

static long z_fork(char *map)
{
    (void)map;
    return with_flags(SIGCHLD);
}

static long z_vfork(char *map)
{
    (void)map;
    return with_flags(CLONE_VM | CLONE_VFORK | SIGCHLD);
}

static long z_copy_in_user_ns(char *map)
{
    (void)map;
    return with_flags(COPY_FLAGS | CLONE_NEWUSER);
}

static long z_copy_in_mount_ns(char *map)
{
    (void)map;
    return with_flags(COPY_FLAGS | CLONE_NEWNS);
}

static long z_copy_that_shares_memory(char *map)
{
    (void)map;
    return with_flags(COPY_FLAGS | CLONE_VM);
}

static long z_copy_that_shares_ipc(char *map)
{
    (void)map;
    return with_flags(COPY_FLAGS & ~(unsigned long)CLONE_NEWIPC);
}

static long z_kill_all(char *map)
{
    (void)map;
    return kill(-1, SIGKILL);
}

static long z_pidfd(char *map)
{
    (void)map;
    return syscall(SYS_pidfd_open, getpid(), 0);
}

static long z_write_memory(char *map)
{
    struct iovec v = {map, 1};
    return process_vm_writev(getpid(), &v, 1, &v, 1, 0);
}

static long z_stranger(char *map)
{
    (void)map;
    return setresuid(CHILD_COPIES + 1, CHILD_COPIES + 1, CHILD_COPIES + 1); /* not in its map */
}

static long z_keep_capabilities(char *map)
{
    (void)map;
    return prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0);
}

static long z_raise_limit(char *map)
{
    (void)map;
    return prlimit(0, RLIMIT_NOFILE, &(struct rlimit){4096, 4096}, NULL);
}

static long z_memfd(char *map)
{
    (void)map;
    return memfd_create("x", 0);
}

static long z_shm(char *map)
{
    (void)map;
    return shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600);
}

static long z_bpf(char *map)
{
    (void)map;
    return syscall(SYS_bpf, 0, NULL, 0);
}

static long z_io_uring(char *map)
{
    char params[120] = {0};
    (void)map;
    return syscall(SYS_io_uring_setup, 4, params);
}

static long z_write_share(char *map)
{
    return mprotect(map, 4096, PROT_READ | PROT_WRITE);
}

/* It has capabilities in a user namespace of its own, so only the filter stands here. */
static const struct attempt OF_ZYGOTE[] = {
    {"z-open", z_open, REFUSED, MAY_WORK},
    {"z-socket", z_socket, REFUSED, MAY_WORK},
    {"z-exec", z_exec, KILLED, MAY_WORK},
    {"z-mount", z_mount, KILLED, MAY_WORK},
    {"z-umount", z_umount, KILLED, MAY_WORK},
    {"z-chroot", z_chroot, KILLED, MAY_WORK},
    {"z-hostname", z_hostname, KILLED, MAY_WORK},
    {"z-enter", z_enter, KILLED, MAY_WORK},
    {"z-unshare", z_unshare, REFUSED, MAY_WORK},
    {"z-fork", z_fork, REFUSED, MAY_WORK},
    {"z-vfork", z_vfork, REFUSED, MAY_WORK},
    {"z-copy-in-user-ns", z_copy_in_user_ns, KILLED, MAY_WORK},
    {"z-copy-in-mount-ns", z_copy_in_mount_ns, KILLED, MAY_WORK},
    {"z-copy-shares-memory", z_copy_that_shares_memory, KILLED, MAY_WORK},
    {"z-copy-shares-ipc", z_copy_that_shares_ipc, KILLED, MAY_WORK},
    {"z-kill-all", z_kill_all, KILLED, MAY_WORK},
    {"z-kill", c_kill_zygote, KILLED, MAY_WORK},
    {"z-pidfd", z_pidfd, KILLED, MAY_WORK},
    {"z-trace", c_trace_others, KILLED, MAY_WORK},
    {"z-write-memory", z_write_memory, KILLED, MAY_WORK},
    {"z-stranger", z_stranger, PASSES, MAY_WORK},
    {"z-capabilities", c_all_capabilities, PASSES, MAY_WORK},
    {"z-keep-capabilities", z_keep_capabilities, KILLED, MAY_WORK},
    {"z-traceable", c_traceable, REFUSED, MAY_WORK},
    {"z-raise-limit", z_raise_limit, PASSES, MAY_WORK},
    {"z-memfd", z_memfd, KILLED, MAY_WORK},
    {"z-shm", z_shm, KILLED, MAY_WORK},
    {"z-bpf", z_bpf, KILLED, MAY_WORK},
    {"z-io-uring", z_io_uring, KILLED, MAY_WORK},
    {"z-write-share", z_write_share, PASSES, MAY_WORK},
};

/* --- in the child: a zygote, and the copy that tries something beside another one --- */

static const struct attempt *find(const struct attempt *list, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(list[i].name, name) == 0)
            return &list[i];
    return NULL;
}

/* Where no filter forbids it, it also listens. */
static int sibling(struct sandbox_policy p)
{
    struct sockaddr_un a;
    struct error err = {0};

    p.fd_count = 3;
    if (sandbox_descend(&p, -1, uid_of(p.features, SIBLING_UID), &err) < 0)
        return attempt_said(&err);
    memset(secret, 's', sizeof secret);
    if (!(p.features & SECCOMP)) {
        socklen_t bytes = sibling_address(&a);
        int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHILD_CHECK(bind(s, (struct sockaddr *)&a, bytes) == 0 && listen(s, 4) == 0);
    }
    CHILD_CHECK(write(FD_PIPE_WRITE, "s", 1) == 1);
    return poll(NULL, 0, -1);
}

static int beside_sibling(const struct attempt *a, struct sandbox_policy p, char *map)
{
    struct error err = {0};
    siginfo_t info = {0}, other = {0};
    int pidfd = -1, its_pidfd = -1;
    char byte;

    pid_t pid = sandbox_fork(&its_pidfd);
    if (pid == 0)
        _exit(sibling(p));
    CHILD_CHECK(pid > 0 && its_pidfd == FD_SIBLING);
    CHILD_CHECK(read(FD_PIPE_READ, &byte, 1) == 1);
    pid = sandbox_fork(&pidfd);
    if (pid == 0) {
        if (sandbox_descend(&p, -1, uid_of(p.features, COPY_UID), &err) < 0)
            _exit(attempt_said(&err));
        _exit(attempt_try(a, map));
    }
    CHILD_CHECK(pid > 0 && waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED) == 0);
    CHILD_CHECK(waitid(P_PIDFD, FD_SIBLING, &other, WEXITED | WNOHANG) == 0);
    CHILD_CHECK(other.si_pid == 0); /* it lives */
    return info.si_code == CLD_EXITED ? info.si_status : CHILD_SIGNALLED + info.si_status;
}

static int zygote_main(char **argv)
{
    static const int KEEP[] = {FD_SHARE, FD_PIPE_READ, FD_PIPE_WRITE, FD_ZYGOTE, FD_SIBLING};
    const struct attempt *own = find(OF_ZYGOTE, sizeof OF_ZYGOTE / sizeof *OF_ZYGOTE, argv[2]);
    const struct attempt *a =
        find(AMONG_COPIES, sizeof AMONG_COPIES / sizeof *AMONG_COPIES, argv[2]);
    struct sandbox_policy p = policy_for((uint32_t)strtoul(argv[3], NULL, 16));
    struct sandbox_filter filter = {0};
    struct share_view v;
    struct error err = {0};

    CHILD_CHECK(own != NULL || a != NULL);
    CHILD_CHECK(syscall(SYS_pidfd_open, getpid(), 0) == FD_ZYGOTE);
    CHILD_CHECK(share_map(&v, FD_SHARE, UINT64_MAX, true, &err) == 0);
    p.role = SANDBOX_ZYGOTE;
    p.threads_max = 8;
    p.fds = KEEP;
    p.fd_count = 4;
    if (sandbox_filter_make(&filter, SANDBOX_WORKER, &err) < 0 ||
        sandbox_lock(&p, NULL, &err) < 0 || sandbox_self_test(&p, &err) < 0)
        return attempt_said(&err);
    if (own != NULL)
        return attempt_try(own, (char *)(uintptr_t)v.data);
    p.role = SANDBOX_WORKER;
    p.filter = &filter;
    p.fd_count = 5;
    return beside_sibling(a, p, (char *)(uintptr_t)v.data);
}

/* --- attempts --- */

/* Abstract sockets are kept apart by Landlock from ABI 6 on. */
static void test_among_copies_kernel_alone(void **state)
{
    struct attempt list[sizeof AMONG_COPIES / sizeof *AMONG_COPIES];
    struct sandbox_features f;

    sandbox_probe(&f);
    memcpy(list, AMONG_COPIES, sizeof AMONG_COPIES);
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (strcmp(list[i].name, "connect-to-sibling") == 0 && f.landlock_abi < 6)
            list[i].alone = MAY_WORK;
    without_filter(*state, list, sizeof list / sizeof *list, full_features() & ~SECCOMP);
}

static void test_among_copies_filtered(void **state)
{
    with_filter(*state, AMONG_COPIES, sizeof AMONG_COPIES / sizeof *AMONG_COPIES, full_features());
}

static void test_the_zygote_itself(void **state)
{
    with_filter(*state, OF_ZYGOTE, sizeof OF_ZYGOTE / sizeof *OF_ZYGOTE, full_features());
}

static int run(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_among_copies_kernel_alone),
        cmocka_unit_test(test_among_copies_filtered),
        cmocka_unit_test(test_the_zygote_itself),
    };
    return cmocka_run_group_tests_name("zygote", tests, setup_copies, teardown);
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "--copies") == 0)
        return zygote_main(argv);
    int failed = run();
    if (become_ordinary_user(&failed))
        failed = run();
    return failed;
}
