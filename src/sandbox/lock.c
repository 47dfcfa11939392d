/*
 * The child's half: a table of steps, run top to bottom, each for the features it serves. One
 * decision: every step is mandatory when its feature is in the mask; nothing is skipped quietly.
 */
#include "sandbox/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "sandbox/parts.h"

/* The Landlock of Debian 12's headers is of ABI 2; these are the kernel's words up to ABI 6. */
struct landlock_rules {
    uint64_t fs, net, scoped;
};

struct landlock_beneath {
    uint64_t allowed;
    int32_t parent_fd;
} __attribute__((packed));

#define LANDLOCK_VERSION_QUERY 1u
#define LANDLOCK_RULE_BENEATH 1
#define LANDLOCK_WRITE_FILE (UINT64_C(1) << 1)
#define LANDLOCK_READ_FILE (UINT64_C(1) << 2)
#define LANDLOCK_IOCTL_DEVICE (UINT64_C(1) << 15)
#define LANDLOCK_NET_ALL UINT64_C(3)    /* bind and connect TCP */
#define LANDLOCK_SCOPED_ALL UINT64_C(3) /* abstract unix sockets, signals */

#ifdef SLLORA_SANITIZED
/* The leak checker stops the world with clone and ptrace, which the filter answers by killing. */
static bool leak_check_off;
int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void)
{
    return leak_check_off;
}
#endif

static int fail(struct error *reterr, const char *what)
{
    return error_set(reterr, -errno, "cannot lock the sandbox: %s: %s", what, strerror(errno));
}

static int step_privileges(const struct sandbox_policy *p, struct error *reterr)
{
    struct stat st;

    /* Capabilities, Landlock and seccomp bind the calling thread and those it starts. */
#ifdef SLLORA_SANITIZED
    leak_check_off = true;
    st.st_nlink = 3;
#else
    if (stat("/proc/self/task", &st) != 0)
        st.st_nlink = 3; /* no /proc: the caller's word must do */
#endif
    if (st.st_nlink > 3 && p->device == NULL)
        return error_set(reterr, -EBUSY, "cannot lock the sandbox: threads run already");
    /* A write beyond RLIMIT_FSIZE is an error, not a signal. */
    if (signal(SIGXFSZ, SIG_IGN) == SIG_ERR)
        return fail(reterr, "SIGXFSZ");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return fail(reterr, "no_new_privs");
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0)
        return fail(reterr, "not dumpable");
    return 0;
}

int sandbox_empty_root(struct error *reterr)
{
    /* /dev is there, for stdin came from it. pivot_root(".", ".") stacks the old root on the new
     * one at the same place; detaching takes the old one away. */
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        return fail(reterr, "private mounts");
    if (mount("none", "/dev", "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
              "size=4k,nr_inodes=1,mode=555") != 0)
        return fail(reterr, "an empty tmpfs");
    return sandbox_turn_root(reterr);
}

int sandbox_turn_root(struct error *reterr)
{
    if (chdir("/dev") != 0 || syscall(SYS_pivot_root, ".", ".") != 0)
        return fail(reterr, "pivot_root");
    if (umount2(".", MNT_DETACH) != 0 || chdir("/") != 0)
        return fail(reterr, "leaving the old root");
    return 0;
}

static int step_root(const struct sandbox_policy *p, struct error *reterr)
{
    if (!(p->features & SANDBOX_BIT(SANDBOX_USER_NS)))
        return 0;
    return p->device != NULL ? sandbox_device_root(p, reterr) : sandbox_empty_root(reterr);
}

static int compare_fds(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

static int step_fds(const struct sandbox_policy *p, struct error *reterr)
{
    int keep[SANDBOX_SPAWN_FDS_MAX];
    unsigned next = STDERR_FILENO + 1;

    if (p->device != NULL)
        return 0; /* what is not listed is the driver's: a fresh program has the listed ones */
    if (p->fd_count > SANDBOX_SPAWN_FDS_MAX)
        return error_set(reterr, -E2BIG, "cannot lock the sandbox: more than %d descriptors",
                         SANDBOX_SPAWN_FDS_MAX);
    if (p->fd_count > 0)
        memcpy(keep, p->fds, p->fd_count * sizeof *keep);
    qsort(keep, p->fd_count, sizeof *keep, compare_fds);
    for (size_t i = 0; i < p->fd_count; i++) {
        if (keep[i] < 0 || fcntl(keep[i], F_GETFD) < 0)
            return error_set(reterr, -EBADF, "cannot lock the sandbox: descriptor %d is not open",
                             keep[i]);
        unsigned fd = (unsigned)keep[i];
        if (fd > next && syscall(SYS_close_range, next, fd - 1, 0) != 0)
            return fail(reterr, "close_range");
        if (fd >= next)
            next = fd + 1;
    }
    if (syscall(SYS_close_range, next, ~0u, 0) != 0)
        return fail(reterr, "close_range");
    return 0;
}

static int step_limits(const struct sandbox_policy *p, struct error *reterr)
{
    const struct {
        const char *name;
        int resource;
        uint64_t value;
        bool skip;
    } LIMITS[] = {
        {"RLIMIT_CORE", RLIMIT_CORE, 0, false},
        {"RLIMIT_FSIZE", RLIMIT_FSIZE, p->file_bytes_max, false},
        {"RLIMIT_NOFILE", RLIMIT_NOFILE, p->fds_max, false},
        {"RLIMIT_NPROC", RLIMIT_NPROC, p->threads_max, false},
        {"RLIMIT_MEMLOCK", RLIMIT_MEMLOCK, 0, false},
        {"RLIMIT_MSGQUEUE", RLIMIT_MSGQUEUE, 0, false},
        {"RLIMIT_RTPRIO", RLIMIT_RTPRIO, 0, false},
#ifdef SLLORA_SANITIZED
        {"RLIMIT_DATA", RLIMIT_DATA, 0, true}, /* the shadow memory counts by the terabyte */
#else
        {"RLIMIT_DATA", RLIMIT_DATA, p->memory_bytes_max, p->memory_bytes_max == 0},
#endif
    };

    for (size_t i = 0; i < sizeof LIMITS / sizeof *LIMITS; i++) {
        struct rlimit now, want;
        if (LIMITS[i].skip)
            continue;
        if (getrlimit(LIMITS[i].resource, &now) != 0)
            return fail(reterr, LIMITS[i].name);
        want.rlim_max = LIMITS[i].value < now.rlim_max ? LIMITS[i].value : now.rlim_max;
        want.rlim_cur = want.rlim_max;
        if (setrlimit(LIMITS[i].resource, &want) != 0)
            return fail(reterr, LIMITS[i].name);
    }
    return 0;
}

/* What a zygote makes copies with, in its own user namespace: each is given up in the copy. */
#define ZYGOTE_CAPABILITIES                                                                        \
    (1u << CAP_SYS_ADMIN | 1u << CAP_SETUID | 1u << CAP_SETGID | 1u << CAP_SETPCAP)

static uint32_t capabilities_of(const struct sandbox_policy *p)
{
    return p->role == SANDBOX_ZYGOTE ? ZYGOTE_CAPABILITIES : 0;
}

int sandbox_drop_capabilities(const struct sandbox_policy *p, struct error *reterr)
{
    const unsigned long bits = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP |
                               SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED |
                               SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;
    /* Without a user namespace an ordinary user has no capability to drop, and may not narrow. */
    bool may_lack = !(p->features & SANDBOX_BIT(SANDBOX_USER_NS));
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    uint32_t kept = capabilities_of(p);
    struct __user_cap_data_struct set[2] = {{.effective = kept, .permitted = kept}}, got[2];

    for (unsigned long cap = 0; cap < 64; cap++)
        if ((cap >= 32 || !(kept & 1u << cap)) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0) {
            if (errno == EINVAL)
                break; /* beyond the last one this kernel knows */
            if (errno == EPERM && may_lack)
                break;
            return fail(reterr, "bounding set");
        }
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0)
        return fail(reterr, "ambient capabilities");
    if (prctl(PR_SET_SECUREBITS, bits, 0, 0, 0) != 0 && !(errno == EPERM && may_lack))
        return fail(reterr, "secure bits");
    if (syscall(SYS_capset, &head, set) != 0 || syscall(SYS_capget, &head, got) != 0)
        return fail(reterr, "capabilities");
    if (got[0].effective != kept || got[0].permitted != kept || got[0].inheritable != 0 ||
        (got[1].effective | got[1].permitted | got[1].inheritable) != 0)
        return error_set(reterr, -EPERM, "cannot lock the sandbox: capabilities remain");
    return 0;
}

static int step_capabilities(const struct sandbox_policy *p, struct error *reterr)
{
    return p->device != NULL ? 0 /* gone since it began */ : sandbox_drop_capabilities(p, reterr);
}

int sandbox_landlock_abi(void)
{
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_VERSION_QUERY);
    return abi < 0 ? 0 : (int)abi;
}

/* The device files may be opened again; the highest right of ABI 5 is ioctl on them. */
static int allow_devices(int ruleset, const struct sandbox_policy *p, int abi)
{
    struct landlock_beneath rule = {.allowed = LANDLOCK_READ_FILE | LANDLOCK_WRITE_FILE};
    const char *path;
    if (abi >= 5)
        rule.allowed |= LANDLOCK_IOCTL_DEVICE;
    for (unsigned i = 0; p->device != NULL && (path = sandbox_device_path(p->device, i)); i++) {
        rule.parent_fd = open(path, O_PATH | O_CLOEXEC);
        if (rule.parent_fd < 0)
            return -1;
        long r = syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_BENEATH, &rule, 0);
        (void)close(rule.parent_fd);
        if (r != 0)
            return -1;
    }
    return 0;
}

/* Everything that this kernel can deny is handled and, but for devices, no rule allows any of it.
 */
static int step_landlock(const struct sandbox_policy *p, struct error *reterr)
{
    int abi = sandbox_landlock_abi();
    unsigned fs_rights = abi >= 5 ? 16 : abi >= 3 ? 15 : abi == 2 ? 14 : 13;
    struct landlock_rules rules = {.fs = (UINT64_C(1) << fs_rights) - 1};
    size_t bytes = abi >= 6 ? 24 : abi >= 4 ? 16 : 8;

    if (abi == 0)
        return error_set(reterr, -ENOSYS, "cannot lock the sandbox: this kernel has no Landlock");
    rules.net = abi >= 4 ? LANDLOCK_NET_ALL : 0;
    rules.scoped = abi >= 6 ? LANDLOCK_SCOPED_ALL : 0;
    long fd = syscall(SYS_landlock_create_ruleset, &rules, bytes, 0);
    if (fd < 0)
        return fail(reterr, "a Landlock ruleset");
    long r = allow_devices((int)fd, p, abi);
    if (r == 0)
        r = syscall(SYS_landlock_restrict_self, (int)fd, 0);
    int code = errno;
    (void)close((int)fd);
    errno = code;
    return r == 0 ? 0 : fail(reterr, "Landlock");
}

static int step_seccomp(const struct sandbox_policy *p, struct error *reterr)
{
    return sandbox_load_filter(p, reterr);
}

static const struct step {
    uint32_t feature; /* runs when in the mask; 0: always */
    size_t cost;      /* where its time goes in struct sandbox_lock_cost */
    int (*run)(const struct sandbox_policy *, struct error *);
} STEPS[] = {
    {0, offsetof(struct sandbox_lock_cost, caps_ns), step_privileges},
    {SANDBOX_BIT(SANDBOX_EMPTY_ROOT), offsetof(struct sandbox_lock_cost, root_ns), step_root},
    {0, offsetof(struct sandbox_lock_cost, fds_ns), step_fds},
    {0, offsetof(struct sandbox_lock_cost, limits_ns), step_limits},
    {0, offsetof(struct sandbox_lock_cost, caps_ns), step_capabilities},
    {SANDBOX_BIT(SANDBOX_LANDLOCK), offsetof(struct sandbox_lock_cost, landlock_ns), step_landlock},
    {SANDBOX_BIT(SANDBOX_SECCOMP), offsetof(struct sandbox_lock_cost, seccomp_ns), step_seccomp},
};

int sandbox_lock(const struct sandbox_policy *p, struct sandbox_lock_cost *ret_cost,
                 struct error *reterr)
{
    struct sandbox_lock_cost cost = {0};
    uint64_t start = clock_now_ns(), last = start;

    for (size_t i = 0; i < sizeof STEPS / sizeof *STEPS; i++) {
        if (STEPS[i].feature && !(p->features & STEPS[i].feature))
            continue;
        int r = STEPS[i].run(p, reterr);
        if (r < 0)
            return r;
        uint64_t now = clock_now_ns();
        *(uint64_t *)(void *)((char *)&cost + STEPS[i].cost) += now - last;
        last = now;
    }
    cost.total_ns = last - start;
    if (ret_cost)
        *ret_cost = cost;
    return 0;
}
