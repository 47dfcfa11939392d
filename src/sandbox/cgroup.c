/*
 * Memory groups: the hard limit behind RLIMIT_DATA, which also counts page tables and socket
 * buffers. One decision: both cgroup versions are spoken, since hosts in between (hybrid) keep the
 * memory controller under v1; the difference is this table of file names.
 */
#include "sandbox/sandbox.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "sandbox/parts.h"

#define NAME_MAX_LEN 64

struct files {
    const char *limit;      /* the hard limit in bytes; must exist */
    const char *swap;       /* what bounds swap; may be missing */
    const char *oom_events; /* holds a line "oom_kill N" */
};

static const struct files FILES[3] = {
    [1] = {"memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.oom_control"},
    [2] = {"memory.max", "memory.swap.max", "memory.events"},
};

static int join(char ret[SANDBOX_PATH_BYTES], const char *dir, const char *name)
{
    int n = snprintf(ret, SANDBOX_PATH_BYTES, "%s/%s", dir, name);
    return n < 0 || n >= SANDBOX_PATH_BYTES ? -ENAMETOOLONG : 0;
}

static int file_write(const char *dir, const char *name, const char *text)
{
    char path[SANDBOX_PATH_BYTES];
    int r = join(path, dir, name);

    if (r < 0)
        return r;
    cleanup_fd int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    size_t len = strlen(text);
    return write(fd, text, len) == (ssize_t)len ? 0 : -errno;
}

static int file_read(const char *dir, const char *name, char *ret, size_t bytes)
{
    char path[SANDBOX_PATH_BYTES];
    int r = join(path, dir, name);

    if (r < 0)
        return r;
    cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t n = read(fd, ret, bytes - 1);
    if (n < 0)
        return -errno;
    ret[n] = '\0';
    return 0;
}

/* Is `word` one of the words of `list`? */
static bool has_word(const char *list, const char *word, const char *separators)
{
    size_t len = strlen(word);

    for (const char *p = list; *p;) {
        size_t n = strcspn(p, separators);
        if (n == len && memcmp(p, word, len) == 0)
            return true;
        p += n + strspn(p + n, separators);
    }
    return false;
}

/* Our own group in the memory hierarchy of a version, from /proc/self/cgroup. */
static int own_group(int version, char ret[SANDBOX_PATH_BYTES])
{
    FILE *f = fopen("/proc/self/cgroup", "re");
    cleanup_free char *line = NULL;
    size_t cap = 0;
    int r = -ENOENT;

    if (!f)
        return -errno;
    while (r < 0 && getline(&line, &cap, f) > 0) {
        char *controllers = strchr(line, ':');
        char *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = '\0';
        path[strcspn(path, "\n")] = '\0';
        bool ours = version == 2 ? strncmp(line, "0:", 2) == 0 && controllers[1] == '\0'
                                 : has_word(controllers + 1, "memory", ",");
        if (ours && strlen(path) < SANDBOX_PATH_BYTES) {
            memcpy(ret, path, strlen(path) + 1);
            r = 0;
        }
    }
    fclose(f);
    return r;
}

/* The directory of group `own` in the mount that a line of mountinfo describes: the mount shows
 * the hierarchy from its own root downwards. */
static int group_dir(char *line, int version, const char *own, char ret[SANDBOX_PATH_BYTES])
{
    char *field[5], *save = NULL, *tail = strstr(line, " - ");
    char *type, *source, *options;

    if (!tail)
        return -EINVAL;
    *tail = '\0';
    field[0] = strtok_r(line, " ", &save);
    for (int i = 1; i < 5; i++)
        field[i] = field[i - 1] ? strtok_r(NULL, " ", &save) : NULL;
    type = strtok_r(tail + 3, " ", &save);
    source = type ? strtok_r(NULL, " ", &save) : NULL;
    options = source ? strtok_r(NULL, " \n", &save) : NULL;
    if (!field[4] || !options || strchr(field[4], '\\'))
        return -EINVAL;
    if (version == 2 ? strcmp(type, "cgroup2") != 0
                     : strcmp(type, "cgroup") != 0 || !has_word(options, "memory", ","))
        return -ENOENT;
    size_t skip = strcmp(field[3], "/") == 0 ? 0 : strlen(field[3]);
    const char *below = strncmp(own, field[3], skip) == 0 ? own + skip : "";
    if (strcmp(below, "/") == 0)
        below = "";
    int n = snprintf(ret, SANDBOX_PATH_BYTES, "%s%s", field[4], below);
    return n < 0 || n >= SANDBOX_PATH_BYTES ? -ENAMETOOLONG : access(ret, W_OK) == 0 ? 0 : -errno;
}

static int find_dir(int version, char ret[SANDBOX_PATH_BYTES])
{
    char own[SANDBOX_PATH_BYTES];
    cleanup_free char *line = NULL;
    size_t cap = 0;
    int r = own_group(version, own);

    if (r < 0)
        return r;
    FILE *f = fopen("/proc/self/mountinfo", "re");
    if (!f)
        return -errno;
    r = -ENOENT;
    while (r < 0 && getline(&line, &cap, f) > 0)
        r = group_dir(line, version, own, ret);
    fclose(f);
    return r;
}

/* v2: the controllers of `dir` that its children get are those of cgroup.subtree_control. */
static bool memory_for_children(const char *dir)
{
    char words[512];
    return file_read(dir, "cgroup.subtree_control", words, sizeof words) == 0 &&
           has_word(words, "memory", " \n");
}

/* Would groups below `dir` have a memory limit, now or after sandbox_cgroup_prepare()? */
static bool can_limit(int version, const char *dir)
{
    char words[512], trial[SANDBOX_PATH_BYTES], name[NAME_MAX_LEN];
    bool ok = true;

    if (version == 2 && (file_read(dir, "cgroup.controllers", words, sizeof words) < 0 ||
                         !has_word(words, "memory", " \n")))
        return false;
    snprintf(name, sizeof name, "sllora-probe-%d", (int)getpid());
    if (join(trial, dir, name) < 0 || mkdir(trial, 0755) != 0)
        return false;
    if (version == 1 || memory_for_children(dir))
        ok = file_write(trial, FILES[version].limit, "67108864") == 0;
    else
        ok = join(words, dir, "cgroup.subtree_control") == 0 && access(words, W_OK) == 0;
    return rmdir(trial) == 0 && ok;
}

void sandbox_cgroup_find(struct sandbox_features *f)
{
    f->cgroup_version = 0;
    f->cgroup_dir[0] = '\0';
    for (int version = 2; version >= 1; version--) {
        char dir[SANDBOX_PATH_BYTES];
        if (find_dir(version, dir) == 0 && can_limit(version, dir)) {
            f->cgroup_version = version;
            memcpy(f->cgroup_dir, dir, sizeof dir);
            return;
        }
    }
}

int sandbox_cgroup_prepare(struct sandbox_features *f, struct error *reterr)
{
    char main_dir[SANDBOX_PATH_BYTES];
    int r;

    if (f->cgroup_version != 2 || memory_for_children(f->cgroup_dir))
        return 0;
    r = join(main_dir, f->cgroup_dir, "sllora-main");
    if (r == 0 && mkdir(main_dir, 0755) != 0 && errno != EEXIST)
        r = -errno;
    if (r == 0)
        r = file_write(main_dir, "cgroup.procs", "0");
    if (r == 0)
        r = file_write(f->cgroup_dir, "cgroup.subtree_control", "+memory");
    if (r == 0)
        return 0;
    f->have &= ~SANDBOX_BIT(SANDBOX_MEMORY_CGROUP);
    return error_set(reterr, r,
                     "the memory controller cannot be delegated below %s: %s; run the daemon alone "
                     "in a group of its own (systemd: Delegate=yes)",
                     f->cgroup_dir, strerror(-r));
}

static bool name_ok(const char *name)
{
    size_t len = strlen(name);

    if (len == 0 || len > NAME_MAX_LEN || name[0] == '.')
        return false;
    for (size_t i = 0; i < len; i++)
        if (!isalnum((unsigned char)name[i]) && !strchr("-_.", name[i]))
            return false;
    return true;
}

int sandbox_cgroup_create(struct sandbox_cgroup *ret, const struct sandbox_features *f,
                          const char *name, uint64_t memory_bytes_max, struct error *reterr)
{
    struct sandbox_cgroup cg = {.version = f->cgroup_version};
    char text[32];

    if (!(f->have & SANDBOX_BIT(SANDBOX_MEMORY_CGROUP)))
        return error_set(reterr, -ENOTSUP, "no memory group can be made on this machine");
    if (!name_ok(name) || memory_bytes_max == 0)
        return error_set(reterr, -EINVAL, "bad memory group \"%.80s\" of %" PRIu64 " bytes", name,
                         memory_bytes_max);
    int r = join(cg.dir, f->cgroup_dir, name);
    if (r < 0)
        return error_set(reterr, r, "the path of memory group %s is too long", name);
    if (mkdir(cg.dir, 0755) != 0 && (errno != EEXIST || rmdir(cg.dir) != 0 || mkdir(cg.dir, 0755)))
        return error_set(reterr, -errno, "cannot make the memory group %s: %s", cg.dir,
                         strerror(errno));
    snprintf(text, sizeof text, "%" PRIu64, memory_bytes_max);
    r = file_write(cg.dir, FILES[cg.version].limit, text);
    if (r < 0) {
        (void)rmdir(cg.dir);
        return error_set(reterr, r, "cannot limit the memory group %s: %s", cg.dir, strerror(-r));
    }
    (void)file_write(cg.dir, FILES[cg.version].swap, cg.version == 2 ? "0" : text);
    *ret = cg;
    return 0;
}

int sandbox_cgroup_open(const struct sandbox_cgroup *cg, int *ret_fd, struct error *reterr)
{
    char path[SANDBOX_PATH_BYTES + 16];

    *ret_fd = -1;
    if (cg->dir[0] == '\0')
        return 0;
    snprintf(path, sizeof path, "%s/%s", cg->dir, cg->version == 1 ? "tasks" : "cgroup.procs");
    *ret_fd = open(path, O_WRONLY | O_CLOEXEC);
    if (*ret_fd < 0)
        return error_set(reterr, -errno, "the sandbox's memory group %s: %s", path,
                         strerror(errno));
    return 0;
}

int sandbox_cgroup_limit(const struct sandbox_cgroup *cg, uint64_t memory_bytes_max)
{
    char text[32];

    if (!cg->dir[0])
        return 0;
    snprintf(text, sizeof text, "%" PRIu64, memory_bytes_max);
    /* Under v1 the limit with swap may never be the lower one: it leads the way up and follows
     * down. */
    if (cg->version == 1)
        (void)file_write(cg->dir, FILES[1].swap, text);
    int r = file_write(cg->dir, FILES[cg->version].limit, text);
    if (cg->version == 1)
        (void)file_write(cg->dir, FILES[1].swap, text);
    return r;
}

int sandbox_cgroup_remove(struct sandbox_cgroup *cg)
{
    if (cg->dir[0] && rmdir(cg->dir) != 0 && errno != ENOENT)
        return -errno;
    cg->dir[0] = '\0';
    return 0;
}

uint64_t sandbox_cgroup_oom_kills(const struct sandbox_cgroup *cg)
{
    char text[1024];

    if (!cg->dir[0] || file_read(cg->dir, FILES[cg->version].oom_events, text, sizeof text) < 0)
        return 0;
    for (const char *p = text; p; p = strchr(p, '\n')) {
        p += *p == '\n';
        if (strncmp(p, "oom_kill ", 9) == 0)
            return strtoull(p + 9, NULL, 10);
    }
    return 0;
}
