/* Tests pack the way the product does: a directory's files through the packer's functions into an
 * unlinked temporary file, which is then mapped. Header-only, for several test programs. */
#pragma once

#include "engine/dora.h"
#include "weights/adapter.h"
#include "weights/pack.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PACKING_FILES_MAX 64

struct packing_dir {
    struct pack_file files[PACKING_FILES_MAX];
    char names[PACKING_FILES_MAX][256];
    uint32_t count;
};

static inline void packing_close_dir(struct packing_dir *d)
{
    for (uint32_t i = 0; i < d->count; i++)
        close(d->files[i].fd);
    d->count = 0;
}

static inline int packing_open_dir(struct packing_dir *d, const char *path)
{
    d->count = 0;
    DIR *dir = opendir(path);
    if (dir == NULL)
        return -1;
    for (const struct dirent *e; (e = readdir(dir)) != NULL && d->count < PACKING_FILES_MAX;) {
        struct stat st;
        int fd = openat(dirfd(dir), e->d_name, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            continue;
        if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
            close(fd);
            continue;
        }
        snprintf(d->names[d->count], sizeof d->names[0], "%s", e->d_name);
        d->files[d->count] = (struct pack_file){d->names[d->count], fd};
        d->count++;
    }
    closedir(dir);
    return 0;
}

struct packed {
    struct pack_result result;
    void *base;
};

static inline int packing_temporary(void)
{
    char path[] = "/tmp/sllora-test-XXXXXX";
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0)
        unlink(path);
    return fd;
}

/* Another content for a file, or a new file. */
static inline void packing_put(struct packing_dir *d, const char *name, const void *data,
                               size_t bytes)
{
    uint32_t i = 0;
    while (i < d->count && strcmp(d->names[i], name) != 0)
        i++;
    if (i == d->count) {
        snprintf(d->names[i], sizeof d->names[0], "%s", name);
        d->files[i] = (struct pack_file){d->names[i], -1};
        d->count++;
    } else {
        close(d->files[i].fd);
    }
    int fd = packing_temporary();
    if (fd < 0 || write(fd, data, bytes) != (ssize_t)bytes)
        abort();
    d->files[i].fd = fd;
}

static inline void packing_remove(struct packing_dir *d, const char *name)
{
    for (uint32_t i = 0; i < d->count; i++)
        if (strcmp(d->names[i], name) == 0)
            snprintf(d->names[i], sizeof d->names[0], "removed-%u", i);
}

/* The content of a file, NUL-terminated; free() it. */
static inline char *packing_get(const struct packing_dir *d, const char *name, size_t *ret_bytes)
{
    for (uint32_t i = 0; i < d->count; i++) {
        struct stat st;
        if (strcmp(d->names[i], name) != 0 || fstat(d->files[i].fd, &st) < 0)
            continue;
        size_t bytes = (size_t)st.st_size;
        char *data = malloc(bytes + 1);
        if (data == NULL || pread(d->files[i].fd, data, bytes, 0) != (ssize_t)bytes)
            abort();
        data[bytes] = '\0';
        *ret_bytes = bytes;
        return data;
    }
    return NULL;
}

/* b == NULL: a backbone; else an adapter for it. */
static inline int packing_pack_files(struct packed *ret, const struct packing_dir *d,
                                     enum image_dtype dtype, const struct backbone *b,
                                     const struct digest *digest, struct error *err)
{
    const struct pack_options options = {.dtype = dtype, .adapted_norms = dora_norms};
    int fd = packing_temporary();
    memset(ret, 0, sizeof *ret);
    int r = b == NULL
                ? pack_backbone(d->files, d->count, &options, fd, &ret->result, err)
                : pack_adapter(d->files, d->count, &options, b, digest, fd, &ret->result, err);
    if (r == 0) {
        ret->base = mmap(NULL, ret->result.bytes, PROT_READ, MAP_SHARED, fd, 0);
        if (ret->base == MAP_FAILED)
            abort();
    }
    close(fd);
    return r;
}

static inline int packing_pack(struct packed *ret, const char *path, enum image_dtype dtype,
                               const struct backbone *b, const struct digest *digest,
                               struct error *err)
{
    struct packing_dir d;
    if (packing_open_dir(&d, path) < 0)
        return error_set(err, -ENOENT, "cannot open %s", path);
    int r = packing_pack_files(ret, &d, dtype, b, digest, err);
    packing_close_dir(&d);
    return r;
}

static inline void packing_release(struct packed *p)
{
    if (p->base != NULL)
        munmap(p->base, p->result.bytes);
    buf_free(&p->result.meta);
    memset(p, 0, sizeof *p);
}
