/* What the halves of the sandbox share among themselves; nobody outside src/sandbox includes it. */
#pragma once

#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "sandbox/sandbox.h"

/* The CLONE_NEW* flags of a feature mask. Without SANDBOX_USER_NS only root gets any. */
uint64_t sandbox_clone_flags(uint32_t features);

/* clone(2) with CLONE_PIDFD, no shared memory: returns like fork, -errno on failure. clone3 would
 * read better, but container runtimes answer ENOSYS to it. */
pid_t sandbox_clone(uint64_t flags, int *ret_pidfd);

/* Writes the maps of a child in a new user namespace: 0 inside is o->uid outside (also the gid)
 * when `own_uid`, and o->child_uids more behind it, else whoever we are. 0 or -errno. */
int sandbox_write_maps(pid_t child, bool own_uid, const struct sandbox_spawn_options *o);

/* In the child: no supplementary groups where allowed, all ids := `id`. Raw system calls, for
 * glibc's would wait for threads that do not exist in a clone. 0 or -errno. */
int sandbox_become(uid_t id);

/* In a mount namespace with CAP_SYS_ADMIN: the root directory becomes an empty read-only tmpfs. */
int sandbox_empty_root(struct error *reterr);
/* /dev, on which there is a new one, becomes the root; the old one is detached. */
int sandbox_turn_root(struct error *reterr);

/* In sandbox_lock, of a process on a device: the thread that kept its capabilities empties the root
 * and ends. */
int sandbox_device_root(const struct sandbox_policy *p, struct error *reterr);
/* The device files that the root then holds. */
const char *sandbox_device_path(const struct sandbox_device *d, unsigned index); /* NULL: no more */
/* Of the calling thread, all but what its role keeps. */
int sandbox_drop_capabilities(const struct sandbox_policy *p, struct error *reterr);

/* How a zygote makes a copy: these, and no other namespace. */
#define SANDBOX_FORK_FLAGS (CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_PIDFD | SIGCHLD)

/* 0: this kernel has no Landlock. */
int sandbox_landlock_abi(void);

/* Loads the allow-list of a role; the process lives under it from the return on. */
int sandbox_load_filter(const struct sandbox_policy *p, struct error *reterr);

/* Where memory groups can be made: sets cgroup_version and cgroup_dir. */
void sandbox_cgroup_find(struct sandbox_features *f);
