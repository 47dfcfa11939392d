/*
 * A process that computes on a device. Its driver must come before the lock, and must not come with
 * capabilities: threads that it starts would keep them, for capabilities and Landlock are a
 * thread's own. So one thread of ours stays behind with them, until the root is emptied, and ends.
 *
 * One decision: what the root holds is what the driver has open, whatever its name is, so nothing
 * here knows a maker's files.
 */
#include "sandbox/sandbox.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "sandbox/parts.h"

#define PATHS_MAX 32u
#define PATH_BYTES 128u

struct sandbox_device {
    pthread_t thread; /* with capabilities */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool may_go;
    char paths[PATHS_MAX][PATH_BYTES]; /* of device files */
    int fds[PATHS_MAX];                /* of the driver's, that lead to them */
    unsigned count;
    int result;
    struct error error;
};

static int fail(struct error *reterr, const char *what)
{
    return error_set(reterr, -errno, "cannot lock the sandbox: %s: %s", what, strerror(errno));
}

/* --- the device files --- */

static int add_path(struct sandbox_device *d, int fd, struct error *reterr)
{
    char link[48], path[PATH_BYTES];
    struct stat st;

    if (fstat(fd, &st) != 0 || !S_ISCHR(st.st_mode))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path);
    if (n <= 0 || (size_t)n >= sizeof path)
        return error_set(reterr, -ENAMETOOLONG,
                         "cannot lock the sandbox: a device file of %zd "
                         "bytes of name",
                         n);
    path[n] = '\0';
    if (strncmp(path, "/dev/", 5) != 0)
        return 0; /* none that a path leads to */
    for (unsigned i = 0; i < d->count; i++)
        if (strcmp(d->paths[i], path) == 0)
            return 0;
    if (d->count == PATHS_MAX)
        return error_set(reterr, -E2BIG, "cannot lock the sandbox: more than %u device files",
                         PATHS_MAX);
    memcpy(d->paths[d->count], path, (size_t)n + 1);
    d->fds[d->count++] = fd;
    return 0;
}

/* What was handed over is not the driver's. */
static bool is_listed(const struct sandbox_policy *p, int fd)
{
    for (size_t i = 0; i < p->fd_count; i++)
        if (p->fds[i] == fd)
            return true;
    return fd <= STDERR_FILENO;
}

static int find_paths(const struct sandbox_policy *p, struct error *reterr)
{
    DIR *dir = opendir("/proc/self/fd");
    int r = 0;

    if (dir == NULL)
        return fail(reterr, "/proc/self/fd");
    for (struct dirent *e; r == 0 && (e = readdir(dir)) != NULL;) {
        int fd = (int)strtol(e->d_name, NULL, 10);
        if (e->d_name[0] != '.' && !is_listed(p, fd))
            r = add_path(p->device, fd, reterr);
    }
    closedir(dir);
    return r;
}

const char *sandbox_device_path(const struct sandbox_device *d, unsigned index)
{
    return index < d->count ? d->paths[index] : NULL;
}

/* --- the root that holds them, by the thread that may --- */

static int place(const struct sandbox_device *d, unsigned index, struct error *reterr)
{
    char target[PATH_BYTES + 8], link[48];

    snprintf(target, sizeof target, "/dev%s", d->paths[index]);
    for (char *slash = strchr(target + 5, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(target, 0555) != 0 && errno != EEXIST)
            return fail(reterr, target);
        *slash = '/';
    }
    cleanup_fd int fd = open(target, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0);
    snprintf(link, sizeof link, "/proc/self/fd/%d", d->fds[index]);
    if (fd < 0 || mount(link, target, NULL, MS_BIND, NULL) != 0)
        return fail(reterr, d->paths[index]);
    return 0;
}

static int make_root(const struct sandbox_device *d, struct error *reterr)
{
    const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    int r = 0;

    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        return fail(reterr, "private mounts");
    if (mount("none", "/dev", "tmpfs", flags, "size=64k,nr_inodes=256,mode=755") != 0)
        return fail(reterr, "a tmpfs for device files");
    for (unsigned i = 0; r == 0 && i < d->count; i++)
        r = place(d, i, reterr);
    if (r < 0)
        return r;
    if (mount(NULL, "/dev", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | flags, NULL) != 0)
        return fail(reterr, "a read-only root");
    return sandbox_turn_root(reterr);
}

static void *stay_behind(void *argument)
{
    struct sandbox_device *d = argument;

    pthread_mutex_lock(&d->mutex);
    while (!d->may_go)
        pthread_cond_wait(&d->changed, &d->mutex);
    pthread_mutex_unlock(&d->mutex);
    d->result = make_root(d, &d->error);
    return NULL;
}

int sandbox_device_root(const struct sandbox_policy *p, struct error *reterr)
{
    struct sandbox_device *d = p->device;
    int r = find_paths(p, reterr);
    if (r < 0)
        return r;
    pthread_mutex_lock(&d->mutex);
    d->may_go = true;
    pthread_cond_signal(&d->changed);
    pthread_mutex_unlock(&d->mutex);
    pthread_join(d->thread, NULL);
    if (d->result < 0)
        return error_set(reterr, d->result, "%s", d->error.text);
    return 0;
}

int sandbox_device_begin(struct sandbox_device **ret, const struct sandbox_policy *p,
                         struct error *reterr)
{
    const uint32_t root = SANDBOX_BIT(SANDBOX_USER_NS) | SANDBOX_BIT(SANDBOX_EMPTY_ROOT);
    struct stat st;

    if (stat("/proc/self/task", &st) == 0 && st.st_nlink > 3)
        return error_set(reterr, -EBUSY, "cannot lock the sandbox: threads run already");
    struct sandbox_device *d = calloc(1, sizeof *d);
    if (d == NULL)
        return error_set(reterr, -ENOMEM, "cannot lock the sandbox: out of memory");
    pthread_mutex_init(&d->mutex, NULL);
    pthread_cond_init(&d->changed, NULL);
    if ((p->features & root) == root) {
        int code = pthread_create(&d->thread, NULL, stay_behind, d);
        if (code != 0)
            return error_set(reterr, -code, "cannot lock the sandbox: a thread: %s",
                             strerror(code));
    }
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return fail(reterr, "no_new_privs");
    *ret = d;
    return sandbox_drop_capabilities(p, reterr);
}
