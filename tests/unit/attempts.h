/*
 * Attempts of a hostile worker, each in a child of its own with a share mapped and the sandbox
 * locked, or in a copy of a zygote in such a child; in two layers: without the seccomp filter the
 * kernel itself must refuse, and with it the call must not even get there. After each attempt the
 * share's bytes are compared.
 */
#pragma once

#include "unit/sandboxed.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/cleanup.h"
#include "weights/share.h"

#define SHARE_BYTES ((size_t)3 << 20)
#define FD_SHARE 3
#define FD_PIPE_READ 4
#define FD_PIPE_WRITE 5
#define SECCOMP SANDBOX_BIT(SANDBOX_SECCOMP)

/* What the filter makes of a call. */
enum verdict {
    PASSES,  /* reaches the kernel, which refuses */
    REFUSED, /* EPERM from the filter */
    KILLED,  /* SIGSYS */
};

/* What the kernel makes of it without the filter; where it lets something happen is why the filter
 * has to exist. None of these changes a byte of the share. */
enum alone {
    DENIED,
    DENIED_TO_OTHERS, /* the file's owner may: an ordinary user's worker has the keeper's uid */
    MAY_WORK,
};

struct attempt {
    const char *name;
    long (*try)(char *map); /* >= 0: it worked; -1 and errno: it did not */
    enum verdict filter;
    enum alone alone;
};

static inline struct sandbox_policy policy_for(uint32_t features)
{
    static const int KEEP[] = {FD_SHARE, FD_PIPE_READ, FD_PIPE_WRITE};
    return (struct sandbox_policy){
        .role = SANDBOX_WORKER,
        .features = features,
        .memory_bytes_max = (uint64_t)256 << 20,
        .threads_max = 4,
        .fds_max = 64,
        .fds = KEEP,
        .fd_count = 3,
    };
}

static inline long of_map(void *m)
{
    return m == MAP_FAILED ? -1 : 0;
}

/* --- in the child: attempt NAME, the share mapped, the sandbox locked --- */

enum { CHILD_FAILED_RIGHTLY = 0, CHILD_WORKED = 40, CHILD_EPERM = 41, CHILD_SIGNALLED = 128 };

/* What a copy of a zygote becomes: not the zygote, and nobody whom an attempt wants to be. */
#define COPY_UID 2u

static inline int attempt_try(const struct attempt *a, char *map)
{
    CHILD_CHECK(map[SHARE_BYTES - 1] == 'b');
    errno = 0;
    long r = a->try(map);
    int code = errno;
    dprintf(2, "%s -> %ld %s\n", a->name, r, r < 0 ? strerror(code) : "worked");
    return r >= 0 ? CHILD_WORKED : code == EPERM ? CHILD_EPERM : CHILD_FAILED_RIGHTLY;
}

static inline int attempt_said(const struct error *err)
{
    dprintf(2, "%s\n", err->text);
    return 1;
}

/* The same in a copy of a zygote; how it ends is how the zygote does. */
static inline int attempt_in_copy(const struct attempt *a, uint32_t features, char *map)
{
    struct sandbox_policy p = policy_for(features), own = p;
    struct sandbox_filter filter = {0};
    struct error err = {0};
    siginfo_t info = {0};
    int pidfd = -1;

    p.role = SANDBOX_ZYGOTE;
    if (((features & SECCOMP) && sandbox_filter_make(&filter, SANDBOX_WORKER, &err) < 0) ||
        sandbox_lock(&p, NULL, &err) < 0 || sandbox_self_test(&p, &err) < 0)
        return attempt_said(&err);
    own.filter = filter.program != NULL ? &filter : NULL;
    pid_t pid = sandbox_fork(&pidfd);
    CHILD_CHECK(pid >= 0);
    if (pid == 0) {
        if (sandbox_descend(&own, -1, uid_of(features, COPY_UID), &err) < 0)
            _exit(attempt_said(&err));
        _exit(attempt_try(a, map));
    }
    CHILD_CHECK(waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED) == 0);
    return info.si_code == CLD_EXITED ? info.si_status : CHILD_SIGNALLED + info.si_status;
}

static inline int attempt_main(int argc, char **argv, const struct attempt *list, size_t count)
{
    const struct attempt *a = NULL;
    struct share_view v;
    struct error err = {0};

    CHILD_CHECK(argc == 4);
    uint32_t features = (uint32_t)strtoul(argv[3], NULL, 16);
    for (size_t i = 0; i < count; i++)
        if (strcmp(list[i].name, argv[2]) == 0)
            a = &list[i];
    CHILD_CHECK(a != NULL);
    CHILD_CHECK(share_map(&v, FD_SHARE, UINT64_MAX, true, &err) == 0);
    char *map = (char *)(uintptr_t)v.data;
    if (strcmp(argv[1], "--copies") == 0)
        return attempt_in_copy(a, features, map);
    struct sandbox_policy p = policy_for(features);
    return sandbox_lock(&p, NULL, &err) < 0 ? attempt_said(&err) : attempt_try(a, map);
}

/* Whether this process is one that an attempt is made in. */
static inline bool is_attempt(int argc, char **argv)
{
    return argc > 1 && (strcmp(argv[1], "--child") == 0 || strcmp(argv[1], "--copies") == 0);
}

/* --- in the test --- */

struct fixture {
    int source, pipe[2], listener;
    struct share *share;
    char *bytes;
    bool in_copies; /* attempts are made by a zygote's copies, not by a worker that was started */
};

static inline int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct digest d;
    struct error err = {0};
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    f->bytes = malloc(SHARE_BYTES);
    memset(f->bytes, 'b', SHARE_BYTES);
    digest_of(f->bytes, SHARE_BYTES, &d);
    f->source = memfd_create("source", MFD_CLOEXEC);
    if (write(f->source, f->bytes, SHARE_BYTES) != (ssize_t)SHARE_BYTES ||
        pipe2(f->pipe, O_CLOEXEC) != 0 || share_create(&f->share, SHARE_BYTES, NULL, &err) < 0 ||
        share_fill(f->share, f->source, &d, NULL, NULL, &err) < 0 ||
        share_seal(f->share, &err) < 0) {
        print_message("%s\n", err.text);
        return -1;
    }
    memcpy(a.sun_path + 1, "sllora-test-denied", 18);
    f->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    *state = f;
    /* Another run of this test may have the name: any listener will do. */
    if (bind(f->listener, (struct sockaddr *)&a, offsetof(struct sockaddr_un, sun_path) + 19) != 0)
        return errno == EADDRINUSE ? 0 : -1;
    return listen(f->listener, 4);
}

static inline int setup_copies(void **state)
{
    int r = setup(state);
    if (r == 0)
        ((struct fixture *)*state)->in_copies = true;
    return r;
}

static inline int teardown(void **state)
{
    struct fixture *f = *state;

    share_free(f->share);
    close(f->source);
    close(f->listener);
    close(f->pipe[0]);
    close(f->pipe[1]);
    free(f->bytes);
    free(f);
    return 0;
}

static inline void share_is_whole(const char *name, const struct fixture *f)
{
    struct share_view v;
    struct error err = {0};

    if (share_map(&v, share_reader_fd(f->share), UINT64_MAX, false, &err) < 0)
        fail_msg("after %s: %s", name, err.text);
    if (v.bytes < SHARE_BYTES || memcmp(v.data, f->bytes, SHARE_BYTES) != 0)
        fail_msg("%s CHANGED THE SHARE", name);
    share_unmap(&v);
}

static inline struct outcome try_one(const struct fixture *f, const char *name, uint32_t features)
{
    int fds[] = {share_reader_fd(f->share), f->pipe[0], f->pipe[1]}, log;
    const char *mode = f->in_copies ? "--copies" : "--child";
    struct sandbox_child c;
    struct outcome o = {0};
    struct error err = {0};

    if (child_start_in(mode, &c, &log, name, features, fds, 3, NULL, &err) < 0)
        fail_msg("spawn %s: %s", name, err.text);
    child_finish(&o, &c, log);
    if (f->in_copies && o.code == CLD_EXITED && o.status > CHILD_SIGNALLED) {
        o.code = CLD_KILLED;
        o.status -= CHILD_SIGNALLED;
    }
    share_is_whole(name, f);
    return o;
}

static inline uint32_t full_features(void)
{
    uint32_t f = features_here();
    if ((f & SANDBOX_NEEDED) != SANDBOX_NEEDED) {
        print_message("skipped: features %#x of %#x here\n", f, SANDBOX_NEEDED);
        skip();
    }
    return f;
}

/* The kernel alone: no filter, and for the writes no other wall either, /proc included. */
static inline void without_filter(const struct fixture *f, const struct attempt *list, size_t count,
                                  uint32_t features)
{
    for (size_t i = 0; i < count; i++) {
        struct outcome o = try_one(f, list[i].name, features);
        bool may_work =
            list[i].alone == MAY_WORK || (list[i].alone == DENIED_TO_OTHERS && geteuid() != 0);
        if (o.code != CLD_EXITED || (o.status != CHILD_FAILED_RIGHTLY && o.status != CHILD_EPERM &&
                                     !(o.status == CHILD_WORKED && may_work)))
            fail_msg("%s without the filter: code %d status %d: %s", list[i].name, o.code, o.status,
                     o.log);
        if (o.status == CHILD_WORKED)
            print_message("only the filter stops %s\n", list[i].name);
    }
}

static inline void with_filter(const struct fixture *f, const struct attempt *list, size_t count,
                               uint32_t features)
{
    for (size_t i = 0; i < count; i++) {
        struct outcome o = try_one(f, list[i].name, features);
        if (list[i].filter == KILLED) {
            outcome_is_kill(list[i].name, &o, SIGSYS);
            continue;
        }
        bool right = list[i].filter == REFUSED
                         ? o.status == CHILD_EPERM
                         : o.status == CHILD_EPERM || o.status == CHILD_FAILED_RIGHTLY;
        if (o.code != CLD_EXITED || !right)
            fail_msg("%s under the filter: code %d status %d: %s", list[i].name, o.code, o.status,
                     o.log);
    }
}
