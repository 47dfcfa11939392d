/*
 * Every attempt that a hostile worker could make on the shared backbone and on the host, each in a
 * child of its own, in two layers: without the seccomp filter the kernel itself must refuse (seals,
 * read-only descriptor, other uid, namespaces, empty root), and with it the call must not even get
 * there. After each attempt the share's bytes are compared.
 */
#include "unit/sandboxed.h"

#include <linux/bpf.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "base/cleanup.h"
#include "weights/share.h"

#define SHARE_BYTES ((size_t)3 << 20)
#define FD_SHARE 3
#define FD_PIPE_READ 4
#define FD_PIPE_WRITE 5
#define SECCOMP SANDBOX_BIT(SANDBOX_SECCOMP)

/* What the filter makes of a call. */
enum verdict {
    PASSES,  /* reaches the kernel, which refuses */
    REFUSED, /* EPERM from the filter */
    KILLED,  /* SIGSYS */
};

/* What the kernel makes of it without the filter; where it lets something happen is why the filter
 * has to exist. None of these changes a byte of the share. */
enum alone {
    DENIED,
    DENIED_TO_OTHERS, /* the file's owner may: an ordinary user's worker has the keeper's uid */
    MAY_WORK,
};

struct attempt {
    const char *name;
    long (*try)(char *map); /* >= 0: it worked; -1 and errno: it did not */
    enum verdict filter;
    enum alone alone;
};

static struct sandbox_policy policy_for(uint32_t features)
{
    static const int KEEP[] = {FD_SHARE, FD_PIPE_READ, FD_PIPE_WRITE};
    return (struct sandbox_policy){
        .role = SANDBOX_WORKER,
        .features = features,
        .memory_bytes_max = (uint64_t)256 << 20,
        .threads_max = 4,
        .fds_max = 64,
        .fds = KEEP,
        .fd_count = 3,
    };
}

static long of_map(void *m)
{
    return m == MAP_FAILED ? -1 : 0;
}

/* --- writing the share --- */

static long w_write(char *map)
{
    (void)map;
    return write(FD_SHARE, "x", 1);
}

static long w_writev(char *map)
{
    struct iovec v = {(char[]){"x"}, 1};
    (void)map;
    return writev(FD_SHARE, &v, 1);
}

static long w_pwrite(char *map)
{
    (void)map;
    return pwrite(FD_SHARE, "x", 1, 0);
}

static long w_shrink(char *map)
{
    (void)map;
    return ftruncate(FD_SHARE, 0);
}

static long w_grow(char *map)
{
    (void)map;
    return ftruncate(FD_SHARE, SHARE_BYTES + 4096);
}

static long w_punch_hole(char *map)
{
    (void)map;
    return fallocate(FD_SHARE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096);
}

static long w_madv_remove(char *map)
{
    return madvise(map, 4096, MADV_REMOVE);
}

static long w_mprotect_write(char *map)
{
    return mprotect(map, 4096, PROT_READ | PROT_WRITE);
}

static long w_mmap_write(char *map)
{
    (void)map;
    return of_map(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, FD_SHARE, 0));
}

static long w_upgrade_flags(char *map)
{
    (void)map;
    if (fcntl(FD_SHARE, F_SETFL, O_RDWR) == 0 && (fcntl(FD_SHARE, F_GETFL) & O_ACCMODE) == O_RDWR)
        return 0;
    errno = EBADF;
    return -1;
}

static long w_add_seals(char *map)
{
    (void)map;
    return fcntl(FD_SHARE, F_ADD_SEALS, F_SEAL_WRITE);
}

static long w_fchmod(char *map)
{
    (void)map;
    return fchmod(FD_SHARE, 0666);
}

static long w_fchown(char *map)
{
    (void)map;
    return fchown(FD_SHARE, 0, 0);
}

/* The mode 0444 refuses the open, but the file's owner may have changed that: then the seals must
 * make the new descriptor worthless. */
static long w_reopen(char *map)
{
    (void)map;
    cleanup_fd int fd = open("/proc/self/fd/3", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -1;
    if (of_map(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) == 0 ||
        ftruncate(fd, 4096) == 0 || fallocate(fd, 0, 0, SHARE_BYTES + 4096) == 0)
        return 0;
    return pwrite(fd, "x", 1, 0);
}

static long w_reopen_truncate(char *map)
{
    (void)map;
    return open("/proc/self/fd/3", O_RDONLY | O_TRUNC | O_CLOEXEC);
}

static long w_proc_mem(char *map)
{
    (void)prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); /* else the file is not even ours to open */
    cleanup_fd int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
    return fd < 0 ? -1 : pwrite(fd, "x", 1, (off_t)(uintptr_t)map);
}

static long w_process_vm(char *map)
{
    struct iovec local = {(char[]){"x"}, 1}, remote = {map, 1};
    return process_vm_writev(getpid(), &local, 1, &remote, 1, 0);
}

static long w_splice(char *map)
{
    loff_t at = 0;
    (void)map;
    if (write(FD_PIPE_WRITE, "zzzz", 4) != 4)
        return 0; /* shows up as a failure of the test */
    return splice(FD_PIPE_READ, NULL, FD_SHARE, &at, 4, 0);
}

static long w_vmsplice(char *map)
{
    struct iovec v = {map, 4};
    if (write(FD_PIPE_WRITE, "zzzz", 4) != 4)
        return 0;
    return vmsplice(FD_PIPE_READ, &v, 1, 0);
}

static long w_sendfile(char *map)
{
    off_t at = 0;
    (void)map;
    return sendfile(FD_SHARE, FD_SHARE, &at, 4096);
}

static long w_copy_range(char *map)
{
    loff_t from = 0, to = 8192;
    (void)map;
    return copy_file_range(FD_SHARE, &from, FD_SHARE, &to, 4096, 0);
}

static long w_read_into_map(char *map)
{
    if (write(FD_PIPE_WRITE, "zzzz", 4) != 4)
        return 0;
    return read(FD_PIPE_READ, map, 4);
}

static long w_mprotect_exec(char *map)
{
    return mprotect(map, 4096, PROT_READ | PROT_EXEC);
}

static long w_mmap_exec(char *map)
{
    (void)map;
    return of_map(mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, FD_SHARE, 0));
}

static const struct attempt WRITES[] = {
    {"write", w_write, PASSES, DENIED},
    {"writev", w_writev, PASSES, DENIED},
    {"pwrite", w_pwrite, KILLED, DENIED},
    {"ftruncate-shrink", w_shrink, KILLED, DENIED},
    {"ftruncate-grow", w_grow, KILLED, DENIED},
    {"fallocate-punch-hole", w_punch_hole, KILLED, DENIED},
    {"madvise-remove", w_madv_remove, PASSES, DENIED},
    {"mprotect-write", w_mprotect_write, PASSES, DENIED},
    {"mmap-write", w_mmap_write, PASSES, DENIED},
    {"fcntl-rdwr", w_upgrade_flags, PASSES, DENIED},
    {"fcntl-add-seals", w_add_seals, KILLED, DENIED},
    {"fchmod", w_fchmod, KILLED, DENIED_TO_OTHERS},
    {"fchown", w_fchown, KILLED, DENIED_TO_OTHERS},
    {"proc-fd-reopen", w_reopen, REFUSED, DENIED},
    {"proc-fd-truncate", w_reopen_truncate, REFUSED, DENIED},
    {"proc-mem", w_proc_mem, REFUSED, DENIED},
    {"process-vm-writev", w_process_vm, KILLED, DENIED},
    {"splice", w_splice, KILLED, DENIED},
    {"vmsplice", w_vmsplice, KILLED, DENIED},
    {"sendfile", w_sendfile, KILLED, DENIED},
    {"copy-file-range", w_copy_range, KILLED, DENIED},
    {"read-into-map", w_read_into_map, PASSES, DENIED},
    {"mprotect-exec", w_mprotect_exec, REFUSED, MAY_WORK},
    {"mmap-exec", w_mmap_exec, REFUSED, MAY_WORK},
};

/* --- leaving the sandbox --- */

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
    {"tgkill-others", d_thread_of_others, KILLED, DENIED},
};

/* --- in the child: "NAME" of either table, the share mapped, the sandbox locked --- */

enum { CHILD_FAILED_RIGHTLY = 0, CHILD_WORKED = 40, CHILD_EPERM = 41 };

static const struct attempt *find_attempt(const char *name)
{
    for (size_t i = 0; i < sizeof WRITES / sizeof *WRITES; i++)
        if (strcmp(WRITES[i].name, name) == 0)
            return &WRITES[i];
    for (size_t i = 0; i < sizeof DENIALS / sizeof *DENIALS; i++)
        if (strcmp(DENIALS[i].name, name) == 0)
            return &DENIALS[i];
    return NULL;
}

static int attempt_main(const char *name, uint32_t features)
{
    const struct attempt *a = find_attempt(name);
    struct sandbox_policy p = policy_for(features);
    struct share_view v;
    struct error err = {0};

    CHILD_CHECK(a != NULL);
    CHILD_CHECK(share_map(&v, FD_SHARE, UINT64_MAX, true, &err) == 0);
    if (sandbox_lock(&p, NULL, &err) < 0) {
        dprintf(2, "%s\n", err.text);
        return 1;
    }
    CHILD_CHECK(((const char *)v.data)[SHARE_BYTES - 1] == 'b');
    errno = 0;
    long r = a->try((char *)(uintptr_t)v.data);
    int code = errno;
    dprintf(2, "%s -> %ld %s\n", name, r, r < 0 ? strerror(code) : "worked");
    return r >= 0 ? CHILD_WORKED : code == EPERM ? CHILD_EPERM : CHILD_FAILED_RIGHTLY;
}

/* --- the tests --- */

struct fixture {
    int source, pipe[2], listener;
    struct share *share;
    char *bytes;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct digest d;
    struct error err = {0};
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    f->bytes = malloc(SHARE_BYTES);
    memset(f->bytes, 'b', SHARE_BYTES);
    digest_of(f->bytes, SHARE_BYTES, &d);
    f->source = memfd_create("source", MFD_CLOEXEC);
    if (write(f->source, f->bytes, SHARE_BYTES) != (ssize_t)SHARE_BYTES ||
        pipe2(f->pipe, O_CLOEXEC) != 0 || share_create(&f->share, SHARE_BYTES, NULL, &err) < 0 ||
        share_fill(f->share, f->source, &d, NULL, NULL, &err) < 0 ||
        share_seal(f->share, &err) < 0) {
        print_message("%s\n", err.text);
        return -1;
    }
    memcpy(a.sun_path + 1, "sllora-test-denied", 18);
    f->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    *state = f;
    /* Another run of this test may have the name: any listener will do. */
    if (bind(f->listener, (struct sockaddr *)&a, offsetof(struct sockaddr_un, sun_path) + 19) != 0)
        return errno == EADDRINUSE ? 0 : -1;
    return listen(f->listener, 4);
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    share_free(f->share);
    close(f->source);
    close(f->listener);
    close(f->pipe[0]);
    close(f->pipe[1]);
    free(f->bytes);
    free(f);
    return 0;
}

static void share_is_whole(const char *name, const struct fixture *f)
{
    struct share_view v;
    struct error err = {0};

    if (share_map(&v, share_reader_fd(f->share), UINT64_MAX, false, &err) < 0)
        fail_msg("after %s: %s", name, err.text);
    if (v.bytes < SHARE_BYTES || memcmp(v.data, f->bytes, SHARE_BYTES) != 0)
        fail_msg("%s CHANGED THE SHARE", name);
    share_unmap(&v);
}

static struct outcome try_one(const struct fixture *f, const char *name, uint32_t features)
{
    int fds[] = {share_reader_fd(f->share), f->pipe[0], f->pipe[1]};
    struct outcome o = child_run_with(name, features, fds, 3, NULL);
    share_is_whole(name, f);
    return o;
}

static uint32_t full_features(void)
{
    uint32_t f = features_here();
    if ((f & SANDBOX_NEEDED) != SANDBOX_NEEDED) {
        print_message("skipped: features %#x of %#x here\n", f, SANDBOX_NEEDED);
        skip();
    }
    return f;
}

/* The kernel alone: no filter, and for the writes no other wall either, /proc included. */
static void without_filter(const struct fixture *f, const struct attempt *list, size_t count,
                           uint32_t features)
{
    for (size_t i = 0; i < count; i++) {
        struct outcome o = try_one(f, list[i].name, features);
        bool may_work =
            list[i].alone == MAY_WORK || (list[i].alone == DENIED_TO_OTHERS && geteuid() != 0);
        if (o.code != CLD_EXITED || (o.status != CHILD_FAILED_RIGHTLY && o.status != CHILD_EPERM &&
                                     !(o.status == CHILD_WORKED && may_work)))
            fail_msg("%s without the filter: code %d status %d: %s", list[i].name, o.code, o.status,
                     o.log);
        if (o.status == CHILD_WORKED)
            print_message("only the filter stops %s\n", list[i].name);
    }
}

static void with_filter(const struct fixture *f, const struct attempt *list, size_t count,
                        uint32_t features)
{
    for (size_t i = 0; i < count; i++) {
        struct outcome o = try_one(f, list[i].name, features);
        if (list[i].filter == KILLED) {
            outcome_is_kill(list[i].name, &o, SIGSYS);
            continue;
        }
        bool right = list[i].filter == REFUSED
                         ? o.status == CHILD_EPERM
                         : o.status == CHILD_EPERM || o.status == CHILD_FAILED_RIGHTLY;
        if (o.code != CLD_EXITED || !right)
            fail_msg("%s under the filter: code %d status %d: %s", list[i].name, o.code, o.status,
                     o.log);
    }
}

static void test_writes_kernel_alone(void **state)
{
    uint32_t keep = SANDBOX_BIT(SANDBOX_USER_NS) | SANDBOX_BIT(SANDBOX_OWN_UID);
    without_filter(*state, WRITES, sizeof WRITES / sizeof *WRITES, full_features() & keep);
}

static void test_writes_nothing_but_uid(void **state)
{
    without_filter(*state, WRITES, sizeof WRITES / sizeof *WRITES,
                   full_features() & SANDBOX_BIT(SANDBOX_OWN_UID));
}

static void test_writes_filtered(void **state)
{
    with_filter(*state, WRITES, sizeof WRITES / sizeof *WRITES, full_features());
}

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

/* The filter alone, as `--sandbox weak` may have to make do with. */
static void test_filter_alone(void **state)
{
    uint32_t features = features_here() & SECCOMP;
    with_filter(*state, DENIALS, sizeof DENIALS / sizeof *DENIALS, features);
    with_filter(*state, WRITES, sizeof WRITES / sizeof *WRITES, features);
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "--child") == 0)
        return attempt_main(argv[2], (uint32_t)strtoul(argv[3], NULL, 16));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_writes_kernel_alone),
        cmocka_unit_test(test_writes_nothing_but_uid),
        cmocka_unit_test(test_writes_filtered),
        cmocka_unit_test(test_denials_kernel_alone),
        cmocka_unit_test(test_denials_without_landlock),
        cmocka_unit_test(test_denials_filtered),
        cmocka_unit_test(test_filter_alone),
    };
    int failed = cmocka_run_group_tests_name("denials", tests, setup, teardown);
    if (become_ordinary_user(&failed))
        failed = cmocka_run_group_tests_name("denials as ordinary user", tests, setup, teardown);
    return failed;
}
