/*
 * The store's files: images/<digest>.image, mode 0444, written under a temporary name and renamed
 * when they are whole and on disk.
 */
#include "daemon/daemon.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

int images_open_dir(struct daemon *d, struct error *err)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/images", d->config.data_dir);
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return error_set(err, -errno, "cannot make %s: %s", path, strerror(errno));
    if (access(path, W_OK) < 0)
        return error_set(err, -errno, "cannot write into %s: %s", path, strerror(errno));
    return 0;
}

void image_path(const struct daemon *d, const struct digest *digest, char *to, size_t bytes)
{
    char hex[DIGEST_HEX_BYTES];
    digest_hex(digest, hex);
    snprintf(to, bytes, "%s/images/%s.image", d->config.data_dir, hex);
}

int image_open_file(const struct daemon *d, const struct digest *digest, struct error *err)
{
    char path[4300];
    image_path(d, digest, path, sizeof path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set(err, -errno, "cannot open image %s: %s; deploy the function again", path,
                         strerror(errno));
    return fd;
}

int image_create(const struct daemon *d, char *ret_path, size_t bytes, struct error *err)
{
    snprintf(ret_path, bytes, "%s/images/packing-XXXXXX", d->config.data_dir);
    int fd = mkostemp(ret_path, O_CLOEXEC);
    if (fd < 0)
        return error_set(err, -errno, "cannot make a file in %s/images: %s", d->config.data_dir,
                         strerror(errno));
    return fd;
}

static int sync_dir(const struct daemon *d)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/images", d->config.data_dir);
    cleanup_fd int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd >= 0 && fsync(fd) == 0 ? 0 : -errno;
}

int image_publish(const struct daemon *d, int fd, const char *path, const struct digest *digest,
                  bool *ret_was_there, struct error *err)
{
    char final[4300];
    image_path(d, digest, final, sizeof final);
    /* An image that is there stays: a packer's word must not replace another's bytes. */
    int r = fsync(fd) < 0 || fchmod(fd, 0444) < 0 ? -errno : 0;
    *ret_was_there = false;
    if (r == 0 && renameat2(AT_FDCWD, path, AT_FDCWD, final, RENAME_NOREPLACE) < 0) {
        *ret_was_there = errno == EEXIST;
        r = errno == EEXIST ? unlink(path) : -errno;
    }
    if (r == 0)
        r = sync_dir(d);
    return r < 0 ? error_set(err, r, "cannot store image %s: %s", final, strerror(-r)) : 0;
}

void image_discard(struct daemon *d, const struct digest *digest)
{
    char path[4300];
    struct error err = {0};
    image_path(d, digest, path, sizeof path);
    if (registry_forget_sources(d->registry, digest, &err) < 0)
        log_warn("images", "ignoring: %s", err.text);
    if (unlink(path) == 0)
        log_warn("images", "removed damaged image=%s; deploy its functions again", path);
}

static void delete_image(void *context, const struct digest *digest)
{
    char path[4300];
    image_path(context, digest, path, sizeof path);
    if (unlink(path) == 0)
        log_info("images", "removed unused image=%s", path);
}

void images_sweep(struct daemon *d)
{
    struct error err = {0};
    if (registry_sweep_images(d->registry, delete_image, d, &err) < 0)
        log_warn("images", "ignoring: %s", err.text);
    /* What a packer left half done when the daemon was killed. */
    char path[4200];
    snprintf(path, sizeof path, "%s/images", d->config.data_dir);
    DIR *dir = opendir(path);
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        if (strncmp(e->d_name, "packing-", 8) == 0)
            unlinkat(dirfd(dir), e->d_name, 0);
    }
    if (dir != NULL)
        closedir(dir);
}
