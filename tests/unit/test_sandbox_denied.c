/* Every way out of a worker's sandbox: files, network, processes, namespaces, identity, memory;
 * from a worker that was started and from one that is a copy of a zygote. */
#include "unit/attempts.h"

#include <asm/prctl.h>
#include <linux/bpf.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ipc.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/stat.h>

static long d_open_file(char *map)
{
    (void)map;
    return open("/etc/passwd", O_RDONLY | O_CLOEXEC);
}

static long d_open_root(char *map)
{
    (void)map;
    return open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static long d_open_parent(char *map)
{
    (void)map;
    return open("../../../../etc/passwd", O_RDONLY | O_CLOEXEC);
}

static long d_create_file(char *map)
{
    (void)map;
    return open("/new", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
}

static long d_proc(char *map)
{
    (void)map;
    return open("/proc/self/status", O_RDONLY | O_CLOEXEC);
}

static long d_mkdir(char *map)
{
    (void)map;
    return mkdir("/new", 0700);
}

static long d_exec(char *map)
{
    (void)map;
    return execl("/bin/true", "true", (char *)NULL);
}

static long d_exec_fd(char *map)
{
    char *const none[] = {NULL};
    (void)map;
    return syscall(SYS_execveat, FD_SHARE, "", none, none, AT_EMPTY_PATH);
}

static long d_connect_tcp(char *map)
{
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons(1), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    (void)map;
    int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return s < 0 ? -1 : connect(s, (struct sockaddr *)&a, sizeof a);
}

static long d_send_udp(char *map)
{
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons(53), .sin_addr.s_addr = htonl(0x01010101)};
    (void)map;
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    return s < 0 ? -1 : sendto(s, "x", 1, 0, (struct sockaddr *)&a, sizeof a);
}

/* The test listens on this abstract name, in the host's network namespace. */
static long d_abstract_socket(char *map)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    (void)map;
    memcpy(a.sun_path + 1, "sllora-test-denied", 18);
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return s < 0 ? -1
                 : connect(s, (struct sockaddr *)&a, offsetof(struct sockaddr_un, sun_path) + 19);
}

static long d_kill_others(char *map)
{
    (void)map;
    return kill(-1, 0);
}

static long d_kill_host(char *map)
{
    (void)map;
    for (pid_t pid = 2; pid < 3000; pid++)
        if (kill(pid, 0) == 0 || errno != ESRCH)
            return 0;
    errno = ESRCH;
    return -1;
}

static long d_pidfd(char *map)
{
    (void)map;
    return syscall(SYS_pidfd_open, 2, 0);
}

static long d_ptrace(char *map)
{
    (void)map;
    return ptrace(PTRACE_ATTACH, 2, NULL, NULL);
}

static long d_mount(char *map)
{
    (void)map;
    return mount("none", "/", "tmpfs", 0, NULL);
}

static long d_umount(char *map)
{
    (void)map;
    return umount2("/", MNT_DETACH);
}

static long d_remount_writable(char *map)
{
    (void)map;
    return mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL);
}

static long d_chroot(char *map)
{
    (void)map;
    return chroot("/");
}

static long d_setns(char *map)
{
    (void)map;
    return setns(FD_SHARE, 0);
}

static long d_unshare_net(char *map)
{
    (void)map;
    return unshare(CLONE_NEWNET);
}

static long d_unshare_user(char *map)
{
    (void)map;
    return unshare(CLONE_NEWUSER);
}

static long d_clone_user(char *map)
{
    (void)map;
    long pid = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL);
    if (pid == 0)
        _exit(0);
    return pid;
}

static long d_clone_thread_user(char *map)
{
    (void)map;
    unsigned long thread = CLONE_VM | CLONE_SIGHAND | CLONE_THREAD;
    return syscall(SYS_clone, thread | CLONE_NEWUSER, NULL, NULL, NULL, NULL);
}

static long d_fork(char *map)
{
    (void)map;
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    return pid;
}

static long d_setuid(char *map)
{
    (void)map;
    return setresuid(1, 1, 1);
}

static long d_hostname(char *map)
{
    (void)map;
    return sethostname("x", 1);
}

static long d_shm(char *map)
{
    (void)map;
    return shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600);
}

static long d_shared_anonymous(char *map)
{
    (void)map;
    return of_map(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
}

static long d_memfd(char *map)
{
    (void)map;
    return memfd_create("x", 0);
}

static long d_growing_stack(char *map)
{
    (void)map;
    return of_map(mmap(NULL, 1 << 30, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_NORESERVE, -1, 0));
}

static long d_bpf(char *map)
{
    union bpf_attr a = {
        .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
    (void)map;
    return syscall(SYS_bpf, BPF_MAP_CREATE, &a, sizeof a);
}

static long d_io_uring(char *map)
{
    char params[120] = {0};
    (void)map;
    return syscall(SYS_io_uring_setup, 4, params);
}

static long d_userfaultfd(char *map)
{
    (void)map;
    return syscall(SYS_userfaultfd, 1);
}

static long d_keyring(char *map)
{
    (void)map;
    return syscall(SYS_add_key, "user", "x", "x", 1, -3);
}

static long d_raise_limit(char *map)
{
    (void)map;
    return prlimit(0, RLIMIT_NOFILE, &(struct rlimit){4096, 4096}, NULL);
}

static long d_segment_base(char *map)
{
    (void)map;
    return syscall(SYS_arch_prctl, ARCH_SET_GS, 0);
}

/* Registers may be asked for; others than those of tiles may not. */
static long d_other_registers(char *map)
{
    (void)map;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, 17);
}

static long d_thread_of_others(char *map)
{
    (void)map;
    return syscall(SYS_tgkill, 2, 2, 0);
}

static const struct attempt DENIALS[] = {
    {"open-file", d_open_file, REFUSED, DENIED},
    {"open-root", d_open_root, REFUSED, DENIED},
    {"open-parent", d_open_parent, REFUSED, DENIED},
    {"create-file", d_create_file, REFUSED, DENIED},
    {"proc", d_proc, REFUSED, DENIED},
    {"mkdir", d_mkdir, KILLED, DENIED},
    {"exec", d_exec, KILLED, DENIED},
    {"exec-fd", d_exec_fd, KILLED, DENIED},
    {"connect-tcp", d_connect_tcp, REFUSED, DENIED},
    {"send-udp", d_send_udp, REFUSED, DENIED},
    {"abstract-socket", d_abstract_socket, REFUSED, DENIED},
    {"kill-all", d_kill_others, KILLED, DENIED},
    {"kill-host", d_kill_host, KILLED, DENIED},
    {"pidfd-open", d_pidfd, KILLED, DENIED},
    {"ptrace", d_ptrace, KILLED, DENIED},
    {"mount", d_mount, KILLED, DENIED},
    {"umount", d_umount, KILLED, DENIED},
    {"remount-writable", d_remount_writable, KILLED, DENIED},
    {"chroot", d_chroot, KILLED, DENIED},
    {"setns", d_setns, KILLED, DENIED},
    {"unshare-net", d_unshare_net, REFUSED, DENIED},
    {"unshare-user", d_unshare_user, REFUSED, MAY_WORK},
    {"clone-user", d_clone_user, REFUSED, MAY_WORK},
    {"clone-thread-user", d_clone_thread_user, KILLED, DENIED},
    {"fork", d_fork, REFUSED, MAY_WORK},
    {"setuid", d_setuid, KILLED, DENIED},
    {"sethostname", d_hostname, KILLED, DENIED},
    {"shmget", d_shm, KILLED, MAY_WORK},
    {"shared-anonymous", d_shared_anonymous, REFUSED, MAY_WORK},
    {"memfd-create", d_memfd, KILLED, MAY_WORK},
    {"growing-stack", d_growing_stack, KILLED, MAY_WORK},
    {"bpf", d_bpf, KILLED, MAY_WORK},
    {"io-uring", d_io_uring, KILLED, MAY_WORK},
    {"userfaultfd", d_userfaultfd, KILLED, MAY_WORK},
    {"add-key", d_keyring, KILLED, MAY_WORK},
    {"raise-limit", d_raise_limit, KILLED, DENIED},
    {"segment-base", d_segment_base, KILLED, MAY_WORK},
    {"other-registers", d_other_registers, KILLED, MAY_WORK},
    {"tgkill-others", d_thread_of_others, KILLED, DENIED},
};

static void test_denials_kernel_alone(void **state)
{
    without_filter(*state, DENIALS, sizeof DENIALS / sizeof *DENIALS, full_features() & ~SECCOMP);
}

/* "/" of an emptied root may be opened, there is nothing in it; Landlock is what forbids that. */
static void test_denials_without_landlock(void **state)
{
    struct attempt list[sizeof DENIALS / sizeof *DENIALS];

    memcpy(list, DENIALS, sizeof DENIALS);
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (strcmp(list[i].name, "open-root") == 0)
            list[i].alone = MAY_WORK;
    without_filter(*state, list, sizeof list / sizeof *list,
                   full_features() & ~SECCOMP & ~SANDBOX_BIT(SANDBOX_LANDLOCK));
}

static void test_denials_filtered(void **state)
{
    with_filter(*state, DENIALS, sizeof DENIALS / sizeof *DENIALS, full_features());
}

/* As `--sandbox weak` may have to make do with. */
static void test_filter_alone(void **state)
{
    with_filter(*state, DENIALS, sizeof DENIALS / sizeof *DENIALS, features_here() & SECCOMP);
}

static int run(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_denials_kernel_alone),
        cmocka_unit_test(test_denials_without_landlock),
        cmocka_unit_test(test_denials_filtered),
        cmocka_unit_test(test_filter_alone),
    };
    /* A zygote needs the whole sandbox: no test_filter_alone. */
    const struct CMUnitTest in_copies[] = {
        cmocka_unit_test(test_denials_kernel_alone),
        cmocka_unit_test(test_denials_without_landlock),
        cmocka_unit_test(test_denials_filtered),
    };
    return cmocka_run_group_tests_name("denials", tests, setup, teardown) +
           cmocka_run_group_tests_name("denials in copies", in_copies, setup_copies, teardown);
}

int main(int argc, char **argv)
{
    if (is_attempt(argc, argv))
        return attempt_main(argc, argv, DENIALS, sizeof DENIALS / sizeof *DENIALS);
    int failed = run();
    if (become_ordinary_user(&failed))
        failed = run();
    return failed;
}
