/* What the roles share. See roles.h. */
#include "worker/roles.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

int role_lock(const struct role_options *o, enum sandbox_role role, uint32_t threads_max,
              const int *fds, size_t fd_count, struct error *err)
{
    static const char *const names[SANDBOX_ROLE_COUNT] = {[SANDBOX_WORKER] = "sllora-worker",
                                                          [SANDBOX_KEEPER] = "sllora-keeper",
                                                          [SANDBOX_STAGER] = "sllora-stager",
                                                          [SANDBOX_ZYGOTE] = "sllora-zygote",
                                                          [SANDBOX_PACKER] = "sllora-packer"};
    int keep[8];
    (void)prctl(PR_SET_NAME, names[role]); /* for ps and top */
    assert(fd_count < sizeof keep / sizeof keep[0]);
    for (size_t i = 0; i < fd_count; i++)
        keep[i] = fds[i];
    keep[fd_count] = o->chan;
    struct sandbox_policy policy = {
        .role = role,
        .features = o->features,
        .memory_bytes_max = o->memory_bytes_max,
        .file_bytes_max = o->file_bytes_max,
        .threads_max = threads_max,
        .fds_max = ROLE_FDS_MAX,
        .fds = keep,
        .fd_count = fd_count + 1,
    };
    int r = sandbox_lock(&policy, NULL, err);
    return r < 0 ? r : sandbox_self_test(&policy, err);
}

void role_send(int chan, enum wire_type type, const void *fixed, size_t fixed_bytes,
               const void *tail, size_t tail_bytes, int fd)
{
    static struct wire_out out;
    out.len = 0;
    out.fd_count = 0;
    bool fits = wire_put(&out, type, fixed, fixed_bytes, tail, tail_bytes, fd);
    assert(fits);
    if (chan_send(chan, out.bytes, out.len, out.fds, out.fd_count, 0) < 0)
        _exit(0);
}

void role_loaded(const struct role_options *o, const struct wire_load *load, const struct share *s,
                 uint64_t load_us, int fd)
{
    struct wire_loaded loaded = {
        .number = load->number,
        .bytes = share_bytes(s),
        .load_us = load_us,
        .page_bytes = share_huge_bytes(s) * 2 > share_bytes(s) ? SHARE_HUGE_BYTES : 4096,
    };
    role_send(o->chan, WIRE_LOADED, &loaded, sizeof loaded, NULL, 0, fd);
}

int role_fail(int chan, const struct error *err)
{
    struct wire_failed failed = {.scope = WIRE_FAILED_PROCESS, .status = (uint32_t)-err->code};
    role_send(chan, WIRE_FAILED, &failed, sizeof failed, err->text, strlen(err->text), -1);
    return 1;
}
