/*
 * A process that is copied instead of started. What takes time in a start (the program, its
 * libraries, a new root, the backbone's tables) is done once, in the zygote; a copy only gives up
 * what the zygote has beyond a worker: four capabilities in a user namespace of its own, and the
 * system calls that making copies takes.
 *
 * One decision: the zygote's walls stand in the copy as well (root, net, mounts, Landlock, filter,
 * no_new_privs), and the copy's own come on top; nothing is taken down.
 */
#include "sandbox/sandbox.h"

#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox/parts.h"

pid_t sandbox_fork(int *ret_pidfd)
{
    int pidfd = -1;
    /* The copy is 1 in its pid namespace, as the zygote is in its own: what the C library has
     * remembered of its thread's number stays right. */
    long pid = syscall(SYS_clone, SANDBOX_FORK_FLAGS, NULL, &pidfd, NULL, NULL);

    if (pid < 0)
        return -errno;
    if (pid > 0)
        *ret_pidfd = pidfd;
    return (pid_t)pid;
}

int sandbox_descend(const struct sandbox_policy *p, int group_fd, uid_t uid, struct error *reterr)
{
    struct sandbox_policy own = *p;

    if (group_fd >= 0 && write(group_fd, "0", 1) != 1)
        return error_set(reterr, -errno, "cannot enter the sandbox's memory group: %s",
                         strerror(errno));
    if (uid != 0) {
        int r = sandbox_become(uid);
        if (r < 0)
            return error_set(reterr, r, "cannot take the sandbox's uid: %s", strerror(-r));
    }
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0)
        return error_set(reterr, -errno, "cannot tie the sandbox's life to its zygote's: %s",
                         strerror(errno));
    /* The root is the zygote's, and empty. Landlock's denials are handed down too, but in a domain
     * of its own it meets no other copy, whose network namespace it shares. */
    own.features &= ~SANDBOX_BIT(SANDBOX_EMPTY_ROOT);
    int r = sandbox_lock(&own, NULL, reterr);
    return r < 0 ? r : sandbox_self_test(p, reterr);
}
