/* Every way to write a share, or to execute it, from inside a worker's sandbox, started or copied.
 */
#include "unit/attempts.h"

#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>

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
    return ftruncate(FD_SHARE, 4 * SHARE_BYTES);
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
        ftruncate(fd, 4096) == 0 || fallocate(fd, 0, 0, 4 * SHARE_BYTES) == 0)
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

/* As `--sandbox weak` may have to make do with. */
static void test_filter_alone(void **state)
{
    with_filter(*state, WRITES, sizeof WRITES / sizeof *WRITES, features_here() & SECCOMP);
}

static int run(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_writes_kernel_alone),
        cmocka_unit_test(test_writes_nothing_but_uid),
        cmocka_unit_test(test_writes_filtered),
        cmocka_unit_test(test_filter_alone),
    };
    const struct CMUnitTest in_copies[] = {
        cmocka_unit_test(test_writes_kernel_alone),
        cmocka_unit_test(test_writes_filtered),
    };
    return cmocka_run_group_tests_name("writes", tests, setup, teardown) +
           cmocka_run_group_tests_name("writes in copies", in_copies, setup_copies, teardown);
}

int main(int argc, char **argv)
{
    if (is_attempt(argc, argv))
        return attempt_main(argc, argv, WRITES, sizeof WRITES / sizeof *WRITES);
    int failed = run();
    if (become_ordinary_user(&failed))
        failed = run();
    return failed;
}
