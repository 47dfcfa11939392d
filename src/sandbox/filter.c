/*
 * The system calls of each role. One decision: off the list kills the process (SIGSYS), except for
 * calls that libraries make in passing and live without, and that the self test tries: those say
 * EPERM. Arguments that decide between harmless and not are part of the rule.
 */
#include "sandbox/parts.h"

#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"

#define ROLE(role) (1u << (role))
#define EVERY_ROLE ((1u << SANDBOX_ROLE_COUNT) - 1)
#define NO_ZYGOTE (EVERY_ROLE & ~ROLE(SANDBOX_ZYGOTE))
#define WITH_DEVICE ROLE(SANDBOX_ROLE_COUNT) /* whatever the role, if it computes on one */

#ifndef MAP_HUGETLB
#define MAP_HUGETLB 0x40000
#endif
#define SYS_MSEAL 462 /* newer than the library's table */

struct allowed {
    int call;
    uint32_t roles;
};

static const struct allowed ALLOWED[] = {
    /* bytes over descriptors it was handed */
    {SCMP_SYS(read), EVERY_ROLE},
    {SCMP_SYS(readv), EVERY_ROLE},
    {SCMP_SYS(pread64), EVERY_ROLE},
    {SCMP_SYS(preadv), EVERY_ROLE},
    {SCMP_SYS(write), EVERY_ROLE},
    {SCMP_SYS(writev), EVERY_ROLE},
    {SCMP_SYS(recvmsg), EVERY_ROLE},
    {SCMP_SYS(recvfrom), EVERY_ROLE},
    {SCMP_SYS(sendmsg), EVERY_ROLE},
    {SCMP_SYS(shutdown), EVERY_ROLE},
    {SCMP_SYS(getsockopt), EVERY_ROLE},
    {SCMP_SYS(close), EVERY_ROLE},
    {SCMP_SYS(fstat), EVERY_ROLE},
    {SCMP_SYS(newfstatat), EVERY_ROLE}, /* glibc's fstat */
    {SCMP_SYS(lseek), EVERY_ROLE},
    {SCMP_SYS(fadvise64), EVERY_ROLE},
    /* waiting */
    {SCMP_SYS(poll), EVERY_ROLE},
    {SCMP_SYS(ppoll), EVERY_ROLE},
    {SCMP_SYS(epoll_create1), EVERY_ROLE},
    {SCMP_SYS(epoll_ctl), EVERY_ROLE},
    {SCMP_SYS(epoll_wait), EVERY_ROLE},
    {SCMP_SYS(epoll_pwait), EVERY_ROLE},
    {SCMP_SYS(eventfd2), EVERY_ROLE},
    {SCMP_SYS(clock_gettime), EVERY_ROLE},
    {SCMP_SYS(clock_getres), EVERY_ROLE},
    {SCMP_SYS(clock_nanosleep), EVERY_ROLE},
    {SCMP_SYS(nanosleep), EVERY_ROLE},
    {SCMP_SYS(gettimeofday), EVERY_ROLE},
    {SCMP_SYS(time), EVERY_ROLE},
    {SCMP_SYS(restart_syscall), EVERY_ROLE},
    /* memory; mmap and mprotect have rules of their own below */
    {SCMP_SYS(munmap), EVERY_ROLE},
    {SCMP_SYS(mremap), EVERY_ROLE},
    {SCMP_SYS(madvise), EVERY_ROLE},
    {SCMP_SYS(brk), EVERY_ROLE},
    {SYS_MSEAL, EVERY_ROLE},
    /* threads */
    {SCMP_SYS(futex), EVERY_ROLE},
    {SCMP_SYS(set_robust_list), EVERY_ROLE},
    {SCMP_SYS(rseq), EVERY_ROLE},
    {SCMP_SYS(sched_yield), EVERY_ROLE},
    {SCMP_SYS(sched_getaffinity), EVERY_ROLE},
    {SCMP_SYS(sched_setaffinity), EVERY_ROLE},
    {SCMP_SYS(getcpu), EVERY_ROLE},
    {SCMP_SYS(membarrier), EVERY_ROLE},
    {SCMP_SYS(exit), EVERY_ROLE},
    {SCMP_SYS(exit_group), EVERY_ROLE},
    /* itself */
    {SCMP_SYS(rt_sigaction), EVERY_ROLE},
    {SCMP_SYS(rt_sigprocmask), EVERY_ROLE},
    {SCMP_SYS(rt_sigreturn), EVERY_ROLE},
    {SCMP_SYS(sigaltstack), EVERY_ROLE},
    {SCMP_SYS(getpid), EVERY_ROLE},
    {SCMP_SYS(gettid), EVERY_ROLE},
    {SCMP_SYS(getuid), EVERY_ROLE},
    {SCMP_SYS(geteuid), EVERY_ROLE},
    {SCMP_SYS(getgid), EVERY_ROLE},
    {SCMP_SYS(getegid), EVERY_ROLE},
    {SCMP_SYS(getrusage), EVERY_ROLE},
    {SCMP_SYS(getrandom), EVERY_ROLE},
    {SCMP_SYS(sysinfo), EVERY_ROLE}, /* glibc's qsort asks how much memory there is */
    {SCMP_SYS(uname), EVERY_ROLE},
    /* files by descriptor */
    {SCMP_SYS(pwrite64), ROLE(SANDBOX_PACKER)},
    {SCMP_SYS(pwritev), ROLE(SANDBOX_PACKER)},
    {SCMP_SYS(ftruncate), ROLE(SANDBOX_PACKER)},
    {SCMP_SYS(fallocate), ROLE(SANDBOX_PACKER)},
    {SCMP_SYS(fsync), ROLE(SANDBOX_PACKER)},
    {SCMP_SYS(fdatasync), ROLE(SANDBOX_PACKER)},
    {SCMP_SYS(sync_file_range), ROLE(SANDBOX_PACKER)},
    /* a device's driver: its files, and where memory of the host lies */
    {SCMP_SYS(ioctl), WITH_DEVICE},
    {SCMP_SYS(get_mempolicy), WITH_DEVICE},
    {SCMP_SYS(pipe2), WITH_DEVICE},
    /* copies of itself, and what sandbox_descend() does in them */
    {SCMP_SYS(waitid), ROLE(SANDBOX_ZYGOTE)},
    {SCMP_SYS(setgroups), ROLE(SANDBOX_ZYGOTE)},
    {SCMP_SYS(setresuid), ROLE(SANDBOX_ZYGOTE)},
    {SCMP_SYS(setresgid), ROLE(SANDBOX_ZYGOTE)},
    {SCMP_SYS(capget), ROLE(SANDBOX_ZYGOTE)},
    {SCMP_SYS(capset), ROLE(SANDBOX_ZYGOTE)},
    {SCMP_SYS(setrlimit), ROLE(SANDBOX_ZYGOTE)},
    {SCMP_SYS(getrlimit), ROLE(SANDBOX_ZYGOTE)},
    {SCMP_SYS(prlimit64), ROLE(SANDBOX_ZYGOTE)},
    {SCMP_SYS(close_range), ROLE(SANDBOX_ZYGOTE)},
    {SCMP_SYS(landlock_create_ruleset), ROLE(SANDBOX_ZYGOTE)},
    {SCMP_SYS(landlock_restrict_self), ROLE(SANDBOX_ZYGOTE)},
    {SCMP_SYS(seccomp), ROLE(SANDBOX_ZYGOTE)},
};

/* Refused without killing. */
static const int REFUSED[] = {
    SCMP_SYS(open),      SCMP_SYS(openat),     SCMP_SYS(openat2), SCMP_SYS(access),
    SCMP_SYS(faccessat), SCMP_SYS(faccessat2), SCMP_SYS(stat),    SCMP_SYS(statx),
    SCMP_SYS(readlink),  SCMP_SYS(readlinkat), SCMP_SYS(socket),  SCMP_SYS(setsockopt),
    SCMP_SYS(ioctl),     SCMP_SYS(unshare),    SCMP_SYS(fork),    SCMP_SYS(vfork),
};

/* Arguments that make a call harmless (allow) or not (EPERM, or the default: kill). */
struct argument_rule {
    int call;
    uint32_t action;
    uint32_t roles;
    struct scmp_arg_cmp arg[2];
    unsigned arg_count;
};

#define EPERM_ACTION SCMP_ACT_ERRNO(EPERM)
#define BITS(n, mask, value)                                                                       \
    {                                                                                              \
        .arg = (n), .op = SCMP_CMP_MASKED_EQ, .datum_a = (mask), .datum_b = (value)                \
    }
#define EQUAL(n, value)                                                                            \
    {                                                                                              \
        .arg = (n), .op = SCMP_CMP_EQ, .datum_a = (value)                                          \
    }
#define NOT_EQUAL(n, value)                                                                        \
    {                                                                                              \
        .arg = (n), .op = SCMP_CMP_NE, .datum_a = (value)                                          \
    }

/* New memory is private, so that RLIMIT_DATA counts it: neither shared and anonymous, nor a
 * growing "stack", nor from the huge page pool. Mapped files are descriptors it was given. */
#define MAP_FRESH (MAP_SHARED | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_HUGETLB)
#define MAP_OF_FILE (MAP_ANONYMOUS | MAP_GROWSDOWN)
#define CLONE_THREAD_BITS (CLONE_VM | CLONE_SIGHAND | CLONE_THREAD)
#define CLONE_NEW_BITS                                                                             \
    (CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS |     \
     CLONE_NEWCGROUP)
#define XFEATURE_XTILEDATA 18 /* no header of users has it */
#define FCNTL(command, roles)                                                                      \
    {                                                                                              \
        SCMP_SYS(fcntl), SCMP_ACT_ALLOW, roles, {EQUAL(1, command)}, 1                             \
    }

#define PRCTL(option)                                                                              \
    {                                                                                              \
        SCMP_SYS(prctl), SCMP_ACT_ALLOW, ROLE(SANDBOX_ZYGOTE), {EQUAL(0, option)}, 1               \
    }

static const struct argument_rule ARGUMENT_RULES[] = {
    {SCMP_SYS(mmap),
     SCMP_ACT_ALLOW,
     EVERY_ROLE,
     {BITS(2, PROT_EXEC, 0), BITS(3, MAP_OF_FILE, 0)},
     2},
    {SCMP_SYS(mmap),
     SCMP_ACT_ALLOW,
     EVERY_ROLE,
     {BITS(2, PROT_EXEC, 0), BITS(3, MAP_FRESH, MAP_ANONYMOUS)},
     2},
    {SCMP_SYS(mmap), EPERM_ACTION, EVERY_ROLE, {BITS(2, PROT_EXEC, PROT_EXEC)}, 1},
    {SCMP_SYS(mmap),
     EPERM_ACTION,
     EVERY_ROLE,
     {BITS(2, PROT_EXEC, 0), BITS(3, MAP_SHARED | MAP_ANONYMOUS, MAP_SHARED | MAP_ANONYMOUS)},
     2},
    {SCMP_SYS(mprotect), SCMP_ACT_ALLOW, EVERY_ROLE, {BITS(2, PROT_EXEC, 0)}, 1},
    /* Registers for tiles of matrices, where something is computed; nothing else of this call. */
    {SCMP_SYS(arch_prctl),
     SCMP_ACT_ALLOW,
     EVERY_ROLE & ~(ROLE(SANDBOX_KEEPER) | ROLE(SANDBOX_STAGER)),
     {EQUAL(0, ARCH_REQ_XCOMP_PERM), EQUAL(1, XFEATURE_XTILEDATA)},
     2},
    {SCMP_SYS(mprotect), EPERM_ACTION, EVERY_ROLE, {BITS(2, PROT_EXEC, PROT_EXEC)}, 1},
    /* A new thread, nothing else. clone3 hides its flags in memory: glibc falls back to clone. */
    {SCMP_SYS(clone),
     SCMP_ACT_ALLOW,
     EVERY_ROLE,
     {BITS(0, CLONE_THREAD_BITS | CLONE_NEW_BITS, CLONE_THREAD_BITS)},
     1},
    {SCMP_SYS(clone), EPERM_ACTION, NO_ZYGOTE, {BITS(0, CLONE_THREAD, 0)}, 1},
    /* A copy of the one form; and its threads, for the copy keeps this filter. */
    {SCMP_SYS(clone), SCMP_ACT_ALLOW, ROLE(SANDBOX_ZYGOTE), {EQUAL(0, SANDBOX_FORK_FLAGS)}, 1},
    {SCMP_SYS(clone),
     EPERM_ACTION,
     ROLE(SANDBOX_ZYGOTE),
     {BITS(0, CLONE_THREAD | CLONE_NEWPID, 0)},
     1},
    {SCMP_SYS(clone3), SCMP_ACT_ERRNO(ENOSYS), EVERY_ROLE, {{0}}, 0},
    {SCMP_SYS(prctl), SCMP_ACT_ALLOW, NO_ZYGOTE, {EQUAL(0, PR_SET_NAME)}, 1},
    {SCMP_SYS(prctl), EPERM_ACTION, NO_ZYGOTE, {NOT_EQUAL(0, PR_SET_NAME)}, 1},
    /* What a copy gives up its rights with. */
    PRCTL(PR_SET_NAME),
    PRCTL(PR_SET_PDEATHSIG),
    PRCTL(PR_SET_NO_NEW_PRIVS),
    PRCTL(PR_CAPBSET_DROP),
    PRCTL(PR_CAP_AMBIENT),
    PRCTL(PR_SET_SECUREBITS),
    {SCMP_SYS(prctl),
     SCMP_ACT_ALLOW,
     ROLE(SANDBOX_ZYGOTE),
     {EQUAL(0, PR_SET_DUMPABLE), EQUAL(1, 0)},
     2},
    {SCMP_SYS(prctl),
     EPERM_ACTION,
     ROLE(SANDBOX_ZYGOTE),
     {EQUAL(0, PR_SET_DUMPABLE), NOT_EQUAL(1, 0)},
     2},
    /* Reading its own limits; sending to who is at the other end. */
    {SCMP_SYS(prlimit64), SCMP_ACT_ALLOW, NO_ZYGOTE, {EQUAL(0, 0), EQUAL(2, 0)}, 2},
    {SCMP_SYS(sendto), SCMP_ACT_ALLOW, EVERY_ROLE, {EQUAL(4, 0)}, 1},
    FCNTL(F_GETFD, EVERY_ROLE),
    FCNTL(F_SETFD, EVERY_ROLE),
    FCNTL(F_GETFL, EVERY_ROLE),
    FCNTL(F_SETFL, EVERY_ROLE),
    FCNTL(F_DUPFD_CLOEXEC, EVERY_ROLE),
    FCNTL(F_GET_SEALS, EVERY_ROLE),
    FCNTL(F_ADD_SEALS, ROLE(SANDBOX_KEEPER) | ROLE(SANDBOX_STAGER)),
};

/* What a device's driver does with files: where the root holds nothing but those of the device. */
static bool opens_devices(const struct sandbox_policy *p, int call)
{
    return p->device != NULL && (p->features & SANDBOX_BIT(SANDBOX_EMPTY_ROOT)) &&
           (call == SCMP_SYS(open) || call == SCMP_SYS(openat));
}

/* What a call off the list comes to. */
static uint32_t otherwise(const struct sandbox_policy *p)
{
    return p->device != NULL ? EPERM_ACTION : SCMP_ACT_KILL_PROCESS;
}

static int refuse(scmp_filter_ctx f, const struct sandbox_policy *p, int call)
{
    if (opens_devices(p, call))
        return seccomp_rule_add_array(f, SCMP_ACT_ALLOW, call, 0, NULL);
    if (p->device != NULL)
        return 0; /* so is everything off the list */
    return seccomp_rule_add_array(f, EPERM_ACTION, call, 0, NULL);
}

static int add_rules(scmp_filter_ctx f, const struct sandbox_policy *p)
{
    uint32_t roles = ROLE(p->role) | (p->device != NULL ? WITH_DEVICE : 0);
    int r = 0;

    for (size_t i = 0; r == 0 && i < sizeof ALLOWED / sizeof *ALLOWED; i++)
        if (ALLOWED[i].roles & roles)
            r = seccomp_rule_add_array(f, SCMP_ACT_ALLOW, ALLOWED[i].call, 0, NULL);
    for (size_t i = 0; r == 0 && i < sizeof REFUSED / sizeof *REFUSED; i++)
        r = refuse(f, p, REFUSED[i]);
    for (size_t i = 0; r == 0 && i < sizeof ARGUMENT_RULES / sizeof *ARGUMENT_RULES; i++) {
        const struct argument_rule *rule = &ARGUMENT_RULES[i];
        if ((rule->roles & roles) && rule->action != otherwise(p))
            r = seccomp_rule_add_array(f, rule->action, rule->call, rule->arg_count, rule->arg);
    }
    /* abort() and assert() signal the own process; its number is known only now. */
    struct scmp_arg_cmp self = EQUAL(0, (scmp_datum_t)getpid());
    if (r == 0)
        r = seccomp_rule_add_array(f, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1, &self);
    return r;
}

static int filter_error(int code, struct error *reterr)
{
    return error_set(reterr, code, "cannot lock the sandbox: the seccomp filter: %s",
                     strerror(-code));
}

static int make(scmp_filter_ctx *ret, const struct sandbox_policy *p, struct error *reterr)
{
    scmp_filter_ctx f = seccomp_init(otherwise(p));

    if (!f)
        return error_set(reterr, -ENOMEM, "cannot lock the sandbox: no memory for the filter");
    int r = add_rules(f, p);
    if (r == 0)
        r = seccomp_attr_set(f, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a binary tree */
    if (r == 0 && p->device != NULL)
        r = seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1); /* the driver's threads too */
    if (r < 0) {
        seccomp_release(f);
        return filter_error(r, reterr);
    }
    *ret = f;
    return 0;
}

/* The library writes a program to a descriptor only. */
static int export(scmp_filter_ctx f, struct sandbox_filter *ret)
{
    cleanup_fd int fd = memfd_create("sllora-filter", MFD_CLOEXEC);
    struct stat st;

    if (fd < 0)
        return -errno;
    int r = seccomp_export_bpf(f, fd);
    if (r < 0 || fstat(fd, &st) != 0)
        return r < 0 ? r : -errno;
    size_t count = (size_t)st.st_size / sizeof(struct sock_filter);
    ret->program = count > 0 && count <= UINT16_MAX ? malloc((size_t)st.st_size) : NULL;
    if (!ret->program)
        return -ENOMEM;
    ret->count = (uint16_t)count;
    return pread(fd, ret->program, (size_t)st.st_size, 0) == st.st_size ? 0 : -EIO;
}

int sandbox_filter_make(struct sandbox_filter *ret, enum sandbox_role role, struct error *reterr)
{
    const struct sandbox_policy policy = {.role = role};
    scmp_filter_ctx f = NULL;
    int r = make(&f, &policy, reterr);

    if (r < 0)
        return r;
    *ret = (struct sandbox_filter){0};
    r = export(f, ret);
    seccomp_release(f);
    if (r < 0) {
        sandbox_filter_free(ret);
        return filter_error(r, reterr);
    }
    return 0;
}

void sandbox_filter_free(struct sandbox_filter *f)
{
    free(f->program);
    *f = (struct sandbox_filter){0};
}

int sandbox_load_filter(const struct sandbox_policy *p, struct error *reterr)
{
    scmp_filter_ctx f = NULL;

    if (p->filter) {
        const struct sock_fprog program = {.len = p->filter->count, .filter = p->filter->program};
        if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) != 0)
            return filter_error(-errno, reterr);
        return 0;
    }
    int r = make(&f, p, reterr);
    if (r < 0)
        return r;
    r = seccomp_load(f);
    seccomp_release(f);
    return r < 0 ? filter_error(r, reterr) : 0;
}
