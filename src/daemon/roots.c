/* See roots.h. */
#include "daemon/roots.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int roots_add(struct roots *r, const char *path, struct error *err)
{
    char here[PATH_MAX];
    assert(r->count < ROOTS_MAX);
    struct root *root = &r->list[r->count];
    char real[PATH_MAX];
    if (realpath(path, real) == NULL || getcwd(here, sizeof here) == NULL)
        return error_set(err, -errno, "--lora-root %s: %s", path, strerror(errno));
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/')
        len--;
    int n = path[0] == '/'
                ? snprintf(root->path, sizeof root->path, "%.*s", (int)len, path)
                : snprintf(root->path, sizeof root->path, "%s/%.*s", here, (int)len, path);
    if (n < 0 || (size_t)n >= sizeof root->path)
        return error_set(err, -ENAMETOOLONG, "--lora-root %s is too long", path);
    snprintf(root->real, sizeof root->real, "%s", real);
    root->fd = open(real, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root->fd < 0)
        return error_set(err, -errno, "--lora-root %s: %s", path, strerror(errno));
    r->count++;
    return 0;
}

void roots_close(struct roots *r)
{
    for (uint32_t i = 0; i < r->count; i++)
        close(r->list[i].fd);
    r->count = 0;
}

int root_open(int root_fd, const char *path, int flags)
{
    struct open_how how = {.flags = (uint64_t)flags | O_RDONLY | O_CLOEXEC,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS};
    int fd;
    /* -EAGAIN: something was renamed while the kernel looked; bounded, so that nobody can keep us
     * here by renaming all the time. */
    for (int i = 0; i < 8; i++) {
        fd = (int)syscall(SYS_openat2, root_fd, path, &how, sizeof how);
        if (fd >= 0 || errno != EAGAIN)
            break;
    }
    return fd < 0 ? -errno : fd;
}

static bool has_parent(const char *path)
{
    for (const char *p = path; p != NULL; p = strchr(p, '/')) {
        p += p[0] == '/' ? 1 : 0;
        if (p[0] == '.' && p[1] == '.' && (p[2] == '/' || p[2] == '\0'))
            return true;
    }
    return false;
}

/* What remains of an absolute path below `root`; NULL: it is not below. */
static const char *below(const char *path, const char *root)
{
    size_t len = strlen(root);
    len -= len == 1 ? 1 : 0; /* "/": everything is below */
    if (strncmp(path, root, len) != 0 || (path[len] != '/' && path[len] != '\0'))
        return NULL;
    path += len;
    while (*path == '/')
        path++;
    return *path != '\0' ? path : ".";
}

/* 0 when the directory is there. */
static int try_root(const struct root *root, const char *rest, int *ret_fd, char *ret_path)
{
    int fd = root_open(root->fd, rest, O_DIRECTORY);
    if (fd < 0)
        return fd;
    close(fd);
    *ret_fd = root->fd;
    snprintf(ret_path, ROOT_PATH_BYTES, "%s", rest);
    return 0;
}

int roots_resolve(const struct roots *r, const char *path, int *ret_fd,
                  char ret_path[ROOT_PATH_BYTES], struct error *err)
{
    int result = path[0] == '/' ? -EXDEV : -ENOENT;
    if (strlen(path) >= ROOT_PATH_BYTES)
        return error_set(err, -ENOENT, "the path has more than %d bytes", ROOT_PATH_BYTES - 1);
    if (has_parent(path))
        return error_set(err, -EACCES, "\"%s\" has a \"..\" in it, which is not followed", path);
    for (uint32_t i = 0; i < r->count; i++) {
        const struct root *root = &r->list[i];
        const char *rest = path[0] == '/' ? below(path, root->path) : path;
        if (rest == NULL)
            rest = below(path, root->real);
        if (rest == NULL)
            continue;
        result = try_root(root, rest, ret_fd, ret_path);
        if (result != -ENOENT)
            break; /* the first that has it; a link that leads out is no reason to look further */
    }
    if (result == -EXDEV || result == -ELOOP)
        return error_set(err, -EACCES,
                         "\"%s\" does not lie below a directory that the operator named with "
                         "--lora-root",
                         path);
    if (result == -ENOENT)
        return error_set(err, -ENOENT,
                         "there is no \"%s\" below the directories that the operator named with "
                         "--lora-root",
                         path);
    return result < 0 ? error_set(err, result, "cannot open \"%s\": %s", path, strerror(-result))
                      : 0;
}
