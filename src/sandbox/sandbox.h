/*
 * THE sandbox of every process that parses what a tenant sent: packer, keeper, stager, zygote and
 * the workers copied from it (sandbox_fork, sandbox_descend: below). It is data
 * (which features, which role, which limits, which descriptors) applied in one fixed order by two
 * halves: the daemon calls sandbox_spawn(), the fresh program calls sandbox_lock() before it reads
 * its first untrusted byte, then sandbox_self_test().
 *
 * The order, which SECURITY.md repeats:
 *   parent  1 clone into new user, mount, pid, net, ipc, uts and cgroup namespaces
 *           2 write its uid and gid maps: 0 inside is an unprivileged uid outside
 *   child   3 enter its memory cgroup
 *           4 become uid 0 inside, die with the parent, default signals, only the listed
 *             descriptors, empty environment, exec by descriptor
 *   program 5 no_new_privs, not dumpable
 *           6 root directory := an empty read-only tmpfs; the old tree is detached
 *           7 close every descriptor that is not listed
 *           8 rlimits: core, file size, threads, descriptors, private memory, locked memory
 *           9 drop the bounding set, ambient and all other capabilities, lock the secure bits
 *          10 Landlock: no file, no TCP port, no signal or abstract socket beyond the sandbox
 *          11 seccomp allow-list of the role, the last step
 *
 * The caller of sandbox_spawn() must be the thread that lives as long as the process: the child
 * dies with it (PDEATHSIG). No function here logs; none keeps state.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

/* --- features: what the machine offers, and what to use of it --- */

enum sandbox_feature {
    SANDBOX_USER_NS,
    SANDBOX_EMPTY_ROOT, /* mount namespace and pivot_root; needs SANDBOX_USER_NS */
    SANDBOX_PID_NS,
    SANDBOX_NET_NS,
    SANDBOX_IPC_NS,
    SANDBOX_UTS_NS,
    SANDBOX_CGROUP_NS,
    SANDBOX_SECCOMP,
    SANDBOX_LANDLOCK,
    SANDBOX_OWN_UID, /* each sandbox under a uid of its own; only root can give it */
    SANDBOX_MEMORY_CGROUP,
    SANDBOX_FEATURE_COUNT
};

#define SANDBOX_BIT(feature) (1u << (feature))
#define SANDBOX_ALL ((1u << SANDBOX_FEATURE_COUNT) - 1)

/* Without one of these `serve` refuses to start unless told `--sandbox weak`. The others are used
 * where present: Landlock, own uids and memory groups stand behind walls that are in this set. */
#define SANDBOX_NEEDED                                                                             \
    (SANDBOX_BIT(SANDBOX_USER_NS) | SANDBOX_BIT(SANDBOX_EMPTY_ROOT) |                              \
     SANDBOX_BIT(SANDBOX_PID_NS) | SANDBOX_BIT(SANDBOX_NET_NS) | SANDBOX_BIT(SANDBOX_IPC_NS) |     \
     SANDBOX_BIT(SANDBOX_UTS_NS) | SANDBOX_BIT(SANDBOX_CGROUP_NS) | SANDBOX_BIT(SANDBOX_SECCOMP))

/* Host uids for sandboxes, when root gives them: base + slot. Between the ranges that
 * distributions, /etc/subuid and systemd hand out. */
#define SANDBOX_UID_BASE 1900000000u
#define SANDBOX_UID_COUNT 65536u

#define SANDBOX_PATH_BYTES 512

struct sandbox_features {
    uint32_t have;                       /* SANDBOX_BIT(...) of what works here, for this user */
    int landlock_abi;                    /* 0: none */
    int cgroup_version;                  /* 1 or 2: where memory limits can be set; 0: nowhere */
    char cgroup_dir[SANDBOX_PATH_BYTES]; /* our groups are made under it; "" when version is 0 */
};

/* Tries everything for real (a few short-lived children, about 5 ms). Never fails: what cannot be
 * tried counts as missing. */
void sandbox_probe(struct sandbox_features *ret);

const char *sandbox_feature_name(enum sandbox_feature f);
/* The promise that falls without the feature, one sentence for people. */
const char *sandbox_feature_promise(enum sandbox_feature f);

/* --- memory groups: a hard limit on a sandbox's private memory, also against the OOM killer --- */

struct sandbox_cgroup {
    int version;
    char dir[SANDBOX_PATH_BYTES]; /* "" while there is none */
};

/* Once, when the daemon starts. cgroup v2 forbids processes beside limited children, so under v2
 * this moves the caller into a child group "sllora-main"; under v1 it does nothing. On failure
 * `f` loses SANDBOX_MEMORY_CGROUP and the reason is in `reterr`. */
int sandbox_cgroup_prepare(struct sandbox_features *f, struct error *reterr);
/* `name`: letters, digits, '-', '_', '.'; unique among the daemon's. A leftover group of that name
 * is reused when empty. */
int sandbox_cgroup_create(struct sandbox_cgroup *ret, const struct sandbox_features *f,
                          const char *name, uint64_t memory_bytes_max, struct error *reterr);
/* Where a process enters: it writes "0" there. -1 while there is no group. The caller's. */
int sandbox_cgroup_open(const struct sandbox_cgroup *cg, int *ret_fd, struct error *reterr);
/* Another limit. Below what is in use: under v2 the kernel reclaims what it can and kills for the
 * rest, under v1 the old limit stays and this is -EBUSY. */
int sandbox_cgroup_limit(const struct sandbox_cgroup *cg, uint64_t memory_bytes_max);
/* 0, or -EBUSY while a process is inside: call again after it was reaped. */
int sandbox_cgroup_remove(struct sandbox_cgroup *cg);
/* How many processes of the group the kernel killed for memory; 0 when unknown. */
uint64_t sandbox_cgroup_oom_kills(const struct sandbox_cgroup *cg);

/* --- parent side --- */

struct sandbox_spawn_options {
    int exe_fd;              /* the program, opened O_RDONLY or O_PATH; must be o+x on disk */
    const char *const *argv; /* NULL-terminated */
    const char *const *env;  /* NULL-terminated "NAME=value" list; NULL: empty environment */
    const int *fds;          /* appear in the child as 3, 4, ...; stay open here */
    size_t fd_count;         /* <= SANDBOX_SPAWN_FDS_MAX */
    int log_fd;              /* becomes stdout and stderr; -1: our stderr. A pipe or socket is
                              * best: RLIMIT_FSIZE stops writes to a regular file */
    uid_t uid;               /* as root: the host uid (and gid) behind 0 inside; else not used */
    uid_t child_uid; /* as root, of a zygote: the host uids behind 1, 2, ... inside begin here */
    uint32_t child_uids;                 /* so many; 0: none */
    uint32_t features;                   /* SANDBOX_BIT(...): what to use */
    const struct sandbox_cgroup *cgroup; /* NULL: none */
};

#define SANDBOX_SPAWN_FDS_MAX 64

struct sandbox_child {
    pid_t pid; /* as the daemon sees it */
    int pidfd; /* owned by the caller, close-on-exec; readable when the child has exited */
    uint64_t clone_ns, setup_ns, exec_ns; /* clone; cgroup and maps; until the exec succeeded */
};

/* Returns when the child's exec has succeeded, or an error and no child. */
int sandbox_spawn(struct sandbox_child *ret, const struct sandbox_spawn_options *o,
                  struct error *reterr);

/* --- child side --- */

enum sandbox_role {
    SANDBOX_WORKER, /* compute threads; messages and descriptors over its socket; maps memory */
    SANDBOX_KEEPER, /* the same, and may add seals to the share it made before the lock */
    SANDBOX_STAGER, /* the same, for shares that it is handed */
    SANDBOX_ZYGOTE, /* the same, and may make copies of itself (sandbox_fork) */
    SANDBOX_PACKER, /* the same, and may write, size and sync files by descriptor */
    SANDBOX_ROLE_COUNT
};

/* A role's filter, compiled: what takes longest in a lock, done once for all copies of a zygote. */
struct sandbox_filter {
    void *program; /* struct sock_filter[count] */
    uint16_t count;
};

/* Before the zygote's own lock; copies have the same number (1) in their pid namespaces as it has,
 * which the filter allows them to signal. Free with sandbox_filter_free. */
int sandbox_filter_make(struct sandbox_filter *ret, enum sandbox_role role, struct error *reterr);
void sandbox_filter_free(struct sandbox_filter *f);

struct sandbox_policy {
    enum sandbox_role role;
    const struct sandbox_filter *filter; /* of the role; NULL: it is made now */
    uint32_t features;                   /* the same mask that sandbox_spawn() used */
    uint64_t memory_bytes_max; /* private writable memory (RLIMIT_DATA); 0: no limit. Thread stacks
                                * count with their full size */
    uint64_t file_bytes_max;   /* largest file it may write (RLIMIT_FSIZE); 0 but for the packer */
    uint32_t threads_max;      /* the main thread counts */
    uint32_t fds_max;          /* descriptors at once, received ones included */
    const int *fds;            /* stay open beside 0, 1, 2; any order */
    size_t fd_count;
    struct sandbox_device *device; /* see sandbox_device_begin; NULL: it computes on none */
};

struct sandbox_lock_cost {
    uint64_t root_ns, fds_ns, limits_ns, caps_ns, landlock_ns, seccomp_ns, total_ns;
};

/* Call with one thread. On failure the process is half locked and must exit. `ret_cost` may be
 * NULL. Afterwards calls that libraries make in passing (open, stat, readlink, socket, ioctl,
 * prctl), forks, new namespaces, PROT_EXEC and shared anonymous memory return EPERM, clone3 ENOSYS;
 * everything else off the role's list kills the process (SIGSYS). */
int sandbox_lock(const struct sandbox_policy *p, struct sandbox_lock_cost *ret_cost,
                 struct error *reterr);

/*
 * A process that computes on a device (a GPU). The driver's library reads the host's files, opens
 * device files and starts threads, all of that before the lock, between these two:
 *
 *   sandbox_device_begin, the driver is opened, sandbox_lock with policy.device, the self test
 *
 * What is different then: the capabilities go before the driver comes, so that no thread of its
 * has any, and one thread of ours keeps them until it has emptied the root; the root holds the
 * device files that the driver has open and nothing else; its descriptors stay; device files may be
 * opened again, and ioctl is allowed; private memory has no limit of its own (drivers reserve
 * hundreds of gigabytes of addresses, and count what they map as they like), so a memory group must
 * bound it; calls off the list are refused and do not kill, for a driver tries what it can live
 * without. The filter binds the driver's threads too, Landlock the calling one.
 */
struct sandbox_device;

/* `p`: as for the lock. On failure the process must exit; so it must without a lock afterwards. */
int sandbox_device_begin(struct sandbox_device **ret, const struct sandbox_policy *p,
                         struct error *reterr);

/* Tries what must not work under this policy. Fails with -EPERM, naming it, if anything did. */
int sandbox_self_test(const struct sandbox_policy *p, struct error *reterr);

/* --- zygote's side: a process that is copied instead of started --- */

/* Of a process that was locked as SANDBOX_ZYGOTE: a copy in a pid, ipc and uts namespace of its
 * own, which dies with it; the other namespaces, all of them empty, it shares. Returns 0 in the
 * copy, which must call sandbox_descend() before anything else; in the zygote its pid with
 * *ret_pidfd, owned by the caller; or -errno. The zygote must have one thread. */
pid_t sandbox_fork(int *ret_pidfd);

/* In the copy: enters the memory group behind `group_fd` (-1: none), becomes `uid` (inside; 0:
 * stays who the zygote is), then sandbox_lock() with a role that may less, and sandbox_self_test().
 * `p` lists what stays open; its features are the zygote's. */
int sandbox_descend(const struct sandbox_policy *p, int group_fd, uid_t uid, struct error *reterr);
