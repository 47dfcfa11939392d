/* What the roles share. See roles.h. */
#include "worker/roles.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define PROGRESS_STEP_BYTES (UINT64_C(32) << 20)

/* A driver reserves addresses and maps memory as it likes, so on a GPU the memory group is the
 * limit. */
static struct sandbox_policy policy_of(const struct role_options *o, enum sandbox_role role)
{
    return (struct sandbox_policy){
        .role = role,
        .features = o->features,
        .memory_bytes_max = o->has_gpu ? 0 : o->memory_bytes_max,
        .file_bytes_max = o->file_bytes_max,
        .fds_max = o->has_gpu ? ROLE_FDS_MAX + ROLE_GPU_FDS : ROLE_FDS_MAX,
    };
}

int role_lock_begin(const struct role_options *o, enum sandbox_role role,
                    struct sandbox_device **ret, struct error *err)
{
    const struct sandbox_policy policy = policy_of(o, role);
    return sandbox_device_begin(ret, &policy, err);
}

int role_lock_with(const struct role_options *o, enum sandbox_role role, uint32_t threads_max,
                   const int *fds, size_t fd_count, struct sandbox_device *device,
                   struct error *err)
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
    struct sandbox_policy policy = policy_of(o, role);
    policy.threads_max = device != NULL ? threads_max + ROLE_GPU_THREADS : threads_max;
    policy.fds = keep;
    policy.fd_count = fd_count + 1;
    policy.device = device;
    int r = sandbox_lock(&policy, NULL, err);
    return r < 0 ? r : sandbox_self_test(&policy, err);
}

int role_lock(const struct role_options *o, enum sandbox_role role, uint32_t threads_max,
              const int *fds, size_t fd_count, struct error *err)
{
    return role_lock_with(o, role, threads_max, fds, fd_count, NULL, err);
}

static void send_record(int chan, enum wire_type type, const void *fixed, size_t fixed_bytes,
                        const void *tail, size_t tail_bytes, const int *fds, uint32_t fd_count)
{
    static struct wire_out out;
    out.len = 0;
    out.fd_count = 0;
    bool fits = wire_put_fds(&out, type, fixed, fixed_bytes, tail, tail_bytes, fds, fd_count);
    assert(fits);
    if (chan_send(chan, out.bytes, out.len, out.fds, out.fd_count, 0) < 0)
        _exit(0);
}

void role_send(int chan, enum wire_type type, const void *fixed, size_t fixed_bytes,
               const void *tail, size_t tail_bytes, int fd)
{
    send_record(chan, type, fixed, fixed_bytes, tail, tail_bytes, &fd, fd >= 0 ? 1 : 0);
}

void role_send_fds(int chan, enum wire_type type, const void *fixed, size_t fixed_bytes,
                   const int *fds, uint32_t fd_count)
{
    send_record(chan, type, fixed, fixed_bytes, NULL, 0, fds, fd_count);
}

int role_receive_load(int chan, struct wire_load *ret, int *ret_fd, struct error *err)
{
    static struct chan_message message;
    struct wire_cursor c;
    struct wire_record r;
    if (chan_receive(chan, &message, 0) <= 0)
        return error_set(err, -EPIPE, "the daemon is gone");
    wire_begin(&c, &message);
    if (wire_next(&c, &r) != 1 || r.type != WIRE_LOAD)
        return error_set(err, -EPROTO, "the first record must be LOAD");
    memcpy(ret, r.fixed, sizeof *ret);
    *ret_fd = wire_take_fd(&c, &r, 0);
    chan_message_clear(&message);
    return *ret_fd >= 0 ? 0 : error_set(err, -EPROTO, "LOAD came without an image");
}

void role_progress(int chan, uint64_t done, uint64_t total)
{
    if (done % PROGRESS_STEP_BYTES != 0)
        return;
    struct wire_progress progress = {done, total};
    role_send(chan, WIRE_PROGRESS, &progress, sizeof progress, "loading", 7, -1);
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
