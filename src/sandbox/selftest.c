/*
 * The locked process tries the door handles. One decision: what is tried follows from the policy's
 * own features, so that a weak sandbox is tested for what it promises and a full one for all.
 */
#include "sandbox/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SECCOMP SANDBOX_BIT(SANDBOX_SECCOMP)
#define FILES (SECCOMP | SANDBOX_BIT(SANDBOX_LANDLOCK))
#define PAGE_BYTES 4096

/* Each returns true when the forbidden thing worked. */

static bool opened(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC);
    if (fd >= 0)
        (void)close(fd);
    return fd >= 0;
}

static bool try_open_root(const struct sandbox_policy *p)
{
    (void)p;
    return opened("/", O_RDONLY | O_DIRECTORY);
}

static bool try_open_proc(const struct sandbox_policy *p)
{
    (void)p;
    return opened("/proc/self/status", O_RDONLY);
}

static bool try_socket(const struct sandbox_policy *p)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    (void)p;
    if (fd >= 0)
        (void)close(fd);
    return fd >= 0;
}

static bool try_namespace(const struct sandbox_policy *p)
{
    (void)p;
    return unshare(CLONE_NEWUSER) == 0;
}

static bool try_fork(const struct sandbox_policy *p)
{
    long pid = syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    (void)p;
    if (pid == 0)
        _exit(0);
    return pid > 0;
}

static bool mapped(uint64_t bytes, int prot, int flags)
{
    void *m = mmap(NULL, bytes, prot, flags | MAP_ANONYMOUS, -1, 0);
    if (m == MAP_FAILED)
        return false;
    (void)munmap(m, bytes);
    return true;
}

static bool try_executable_map(const struct sandbox_policy *p)
{
    (void)p;
    return mapped(PAGE_BYTES, PROT_READ | PROT_EXEC, MAP_PRIVATE);
}

static bool try_make_executable(const struct sandbox_policy *p)
{
    void *m = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    (void)p;
    if (m == MAP_FAILED)
        return false;
    bool worked = mprotect(m, PAGE_BYTES, PROT_READ | PROT_EXEC) == 0;
    (void)munmap(m, PAGE_BYTES);
    return worked;
}

static bool try_shared_memory(const struct sandbox_policy *p)
{
    (void)p;
    return mapped(PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED);
}

static bool try_dumpable(const struct sandbox_policy *p)
{
    (void)p;
    return prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0;
}

static bool try_ioctl(const struct sandbox_policy *p)
{
    int bytes;
    (void)p;
    return ioctl(STDERR_FILENO, FIONREAD, &bytes) == 0;
}

static bool try_memory(const struct sandbox_policy *p)
{
#ifdef SLLORA_SANITIZED
    (void)p;
    return false; /* the limit is off: shadow memory counts against it */
#else
    return p->memory_bytes_max > 0 &&
           mapped(p->memory_bytes_max + PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE);
#endif
}

static const struct attempt {
    const char *what;
    uint32_t stopped_by; /* any of these features in the policy must stop it; 0: always stopped */
    bool (*worked)(const struct sandbox_policy *);
    bool of_device; /* with a device the filter allows it: what else stops it must */
} ATTEMPTS[] = {
    {"opening the root directory", FILES, try_open_root, true},
    {"opening /proc/self/status", FILES | SANDBOX_BIT(SANDBOX_EMPTY_ROOT), try_open_proc, true},
    {"making a socket", SECCOMP, try_socket, false},
    {"making a user namespace", SECCOMP, try_namespace, false},
    {"forking", SECCOMP, try_fork, false},
    {"mapping executable memory", SECCOMP, try_executable_map, false},
    {"making memory executable", SECCOMP, try_make_executable, false},
    {"taking shared memory", SECCOMP, try_shared_memory, false},
    {"becoming traceable", SECCOMP, try_dumpable, false},
    {"an ioctl", SECCOMP, try_ioctl, true},
    {"taking more memory than allowed", 0, try_memory, false},
};

int sandbox_self_test(const struct sandbox_policy *p, struct error *reterr)
{
    for (size_t i = 0; i < sizeof ATTEMPTS / sizeof *ATTEMPTS; i++) {
        const struct attempt *a = &ATTEMPTS[i];
        uint32_t stopped_by = a->stopped_by;
        if (a->of_device && p->device != NULL)
            stopped_by &= ~SECCOMP;
        bool must_fail = a->stopped_by == 0 || (p->features & stopped_by);
        if (must_fail && a->worked(p))
            return error_set(reterr, -EPERM,
                             "the sandbox does not hold: %s worked; refusing to run", a->what);
    }
    return 0;
}
