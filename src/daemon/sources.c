/* See sources.h. */
#include "daemon/sources.h"

#include "daemon/roots.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ENTRIES_MAX (4 * SOURCES_MAX)

struct source_dir {
    int root_fd;
    int fd;
    const char *path;
};

void sources_close(struct sources *s)
{
    for (uint32_t i = 0; i < s->count; i++)
        close(s->files[i].fd);
    s->count = 0;
}

static bool is_wanted(const char *name)
{
    static const char *const exact[] = {"tokenizer.model", "chat_template.jinja",
                                        "adapter_model.bin"};
    for (size_t i = 0; i < sizeof exact / sizeof exact[0]; i++) {
        if (strcmp(name, exact[i]) == 0)
            return true;
    }
    const char *dot = strrchr(name, '.');
    return dot != NULL && (strcmp(dot, ".json") == 0 || strcmp(dot, ".safetensors") == 0);
}

/* A descriptor or -errno. Below a root a link may lead to another place below it, as in the cache
 * of Hugging Face's hub. */
static int open_file(const struct source_dir *d, const char *name)
{
    if (d->root_fd < 0) {
        int fd = openat(d->fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        return fd < 0 ? -errno : fd;
    }
    char path[ROOT_PATH_BYTES + SOURCE_NAME_BYTES];
    snprintf(path, sizeof path, "%s/%s", d->path, name);
    return root_open(d->root_fd, path, O_NONBLOCK);
}

static int add_file(struct sources *s, const struct source_dir *d, const char *name,
                    struct digest_state *hash, struct error *err)
{
    struct stat st;
    if (strlen(name) >= SOURCE_NAME_BYTES || !is_wanted(name))
        return 0;
    if (s->count == SOURCES_MAX)
        return error_set(err, -E2BIG, "%s has more than %u model files", d->path, SOURCES_MAX);
    int fd = open_file(d, name);
    if (fd == -EXDEV || fd == -ELOOP)
        return error_set(err, -EACCES, "%s/%s is a link that leads out of its --lora-root", d->path,
                         name);
    if (fd < 0)
        return error_set(err, fd, "cannot open %s/%s: %s", d->path, name, strerror(-fd));
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return 0;
    }
    struct source_file *f = &s->files[s->count++];
    snprintf(f->name, sizeof f->name, "%s", name);
    f->fd = fd;
    const uint64_t identity[] = {st.st_dev,
                                 st.st_ino,
                                 (uint64_t)st.st_size,
                                 (uint64_t)st.st_mtim.tv_sec,
                                 (uint64_t)st.st_mtim.tv_nsec,
                                 (uint64_t)st.st_ctim.tv_sec,
                                 (uint64_t)st.st_ctim.tv_nsec};
    digest_update(hash, f->name, strlen(f->name) + 1);
    digest_update(hash, identity, sizeof identity);
    return 0;
}

static int name_order(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int list_names(DIR *dir, const char *path, char *names[ENTRIES_MAX], uint32_t *count,
                      struct error *err)
{
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        if (e->d_name[0] == '.')
            continue;
        if (*count == ENTRIES_MAX)
            return error_set(err, -E2BIG, "%s has more than %u entries: is it a model directory?",
                             path, ENTRIES_MAX);
        if ((names[*count] = strdup(e->d_name)) == NULL)
            return error_set(err, -ENOMEM, "out of memory");
        (*count)++;
    }
    qsort(names, *count, sizeof names[0], name_order);
    return 0;
}

int sources_open(struct sources *s, int root_fd, const char *path, struct digest_state *hash,
                 struct error *err)
{
    struct source_dir d = {.root_fd = root_fd, .path = path};
    int fd = root_fd < 0 ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
                         : root_open(root_fd, path, O_DIRECTORY);
    if (fd < 0) {
        int code = root_fd < 0 ? -errno : fd;
        return error_set(err, code, "cannot open the directory %s: %s", path, strerror(-code));
    }
    DIR *dir = fdopendir(fd);
    if (dir == NULL) {
        close(fd);
        return error_set(err, -ENOMEM, "out of memory");
    }
    d.fd = fd;
    char *names[ENTRIES_MAX];
    uint32_t count = 0;
    int r = list_names(dir, path, names, &count, err);
    for (uint32_t i = 0; i < count; i++) {
        if (r == 0)
            r = add_file(s, &d, names[i], hash, err);
        free(names[i]);
    }
    closedir(dir);
    if (r == 0 && s->count == 0)
        r = error_set(err, -ENOENT,
                      "%s holds no model files (config.json, *.safetensors): is it the right "
                      "directory?",
                      path);
    return r;
}
