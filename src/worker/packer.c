/*
 * The packer: one shot. It receives the files of a checkpoint or an adapter as open descriptors and
 * an empty file to write the image to, and ends. An adapter's image is opened again and probed, the
 * way a worker will use it. Whatever is wrong with the files, the worst that can happen is that
 * this process dies in its sandbox.
 */
#include "base/cleanup.h"
#include "base/clock.h"
#include "engine/dora.h"
#include "engine/engine.h"
#include "kernels/pool.h"
#include "weights/pack.h"
#include "worker/probe.h"
#include "worker/roles.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define FILES_MAX 448u /* below the limit on descriptors */
#define FILE_NAME_BYTES 256
#define PROGRESS_STEP_BYTES (UINT64_C(8) << 20)

struct packer {
    const struct role_options *role;
    char names[FILES_MAX][FILE_NAME_BYTES];
    struct pack_file files[FILES_MAX];
    uint32_t file_count;
    int backbone; /* its image, for adapters; -1: none came */
    int out;
    struct wire_pack request;
    struct probe probe; /* of an adapter */
    uint64_t probe_us;
    struct engine_sizes sizes; /* of a backbone */
    uint64_t progress_bytes;   /* when the next progress is due */
};

static int add_file(struct packer *p, struct wire_cursor *c, const struct wire_record *r,
                    struct error *err)
{
    int fd = wire_take_fd(c, r, 0);
    if (fd < 0)
        return error_set(err, -EPROTO, "FILE came without a descriptor");
    if (r->tail_bytes == 0) {
        if (p->backbone >= 0)
            close(p->backbone);
        p->backbone = fd;
        return 0;
    }
    if (p->file_count == FILES_MAX || r->tail_bytes >= FILE_NAME_BYTES ||
        memchr(r->tail, '\0', r->tail_bytes) != NULL) {
        close(fd);
        return error_set(err, -E2BIG, "more than %u files, or a name over %d bytes", FILES_MAX,
                         FILE_NAME_BYTES - 1);
    }
    char *name = p->names[p->file_count];
    memcpy(name, r->tail, r->tail_bytes);
    name[r->tail_bytes] = '\0';
    p->files[p->file_count++] = (struct pack_file){name, fd};
    return 0;
}

/* Takes every record of one message. Returns 1 when PACK was there. */
static int take_message(struct packer *p, struct chan_message *message, struct error *err)
{
    struct wire_cursor c;
    struct wire_record r;
    wire_begin(&c, message);
    int n;
    while ((n = wire_next(&c, &r)) == 1) {
        if (r.type == WIRE_FILE) {
            int result = add_file(p, &c, &r, err);
            if (result < 0)
                return result;
            continue;
        }
        if (r.type != WIRE_PACK)
            return error_set(err, -EPROTO, "a packer takes FILE and PACK, not record %d", r.type);
        memcpy(&p->request, r.fixed, sizeof p->request);
        p->out = wire_take_fd(&c, &r, 0);
        if (p->out < 0)
            return error_set(err, -EPROTO, "PACK came without a file to write to");
        return 1;
    }
    return n < 0 ? error_set(err, -EPROTO, "a message is damaged") : 0;
}

static int receive(struct packer *p, struct error *err)
{
    static struct chan_message message;
    for (;;) {
        if (chan_receive(p->role->chan, &message, 0) <= 0)
            return error_set(err, -EPIPE, "the daemon is gone");
        int r = take_message(p, &message, err);
        chan_message_clear(&message);
        if (r != 0)
            return r < 0 ? r : 0;
    }
}

static void on_progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    struct packer *p = user;
    if (done < p->progress_bytes && done < total)
        return;
    p->progress_bytes = done + PROGRESS_STEP_BYTES;
    struct wire_progress progress = {done, total};
    role_send(p->role->chan, WIRE_PROGRESS, &progress, sizeof progress, what, strlen(what), -1);
}

/* What the image does to the backbone, computed from the image itself. */
static int probe_image(struct packer *p, const struct backbone *b, const struct pack_result *image,
                       struct error *err)
{
    uint64_t began_us = clock_now_us();
    void *base = mmap(NULL, image->bytes, PROT_READ, MAP_SHARED, p->out, 0);
    if (base == MAP_FAILED)
        return error_set(err, -errno, "cannot map the new image: %s", strerror(errno));
    struct adapter a;
    int r = adapter_open(&a, base, image->bytes, b, &p->request.backbone, err);
    if (r == 0) {
        r = probe_run(b, &a, &image->digest, &p->probe, err);
        adapter_close(&a);
    }
    munmap(base, image->bytes);
    p->probe_us = clock_now_us() - began_us;
    return r;
}

static int pack_for_backbone(struct packer *p, const struct pack_options *o,
                             struct pack_result *ret, struct error *err)
{
    struct stat st;
    struct backbone b;
    if (p->backbone < 0 || fstat(p->backbone, &st) < 0 || st.st_size <= 0)
        return error_set(err, -EPROTO, "the backbone's image did not come");
    size_t bytes = (size_t)st.st_size;
    void *base = mmap(NULL, bytes, PROT_READ, MAP_SHARED, p->backbone, 0);
    if (base == MAP_FAILED)
        return error_set(err, -errno, "cannot map the backbone: %s", strerror(errno));
    int r = backbone_open(&b, base, bytes, err);
    if (r < 0) {
        error_prefix(err, "the backbone's image");
    } else {
        r = pack_adapter(p->files, p->file_count, o, &b, &p->request.backbone, p->out, ret, err);
        if (r == 0)
            r = probe_image(p, &b, ret, err);
        backbone_close(&b);
    }
    munmap(base, bytes);
    return r;
}

/* What the scheduler will ask of a backbone, from the image itself, and whether the device can
 * compute it. */
static int look_at_backbone(struct packer *p, const struct pack_result *image, struct error *err)
{
    struct backbone b;
    void *base = mmap(NULL, image->bytes, PROT_READ, MAP_SHARED, p->out, 0);
    if (base == MAP_FAILED)
        return error_set(err, -errno, "cannot map the new image: %s", strerror(errno));
    int r = backbone_open(&b, base, image->bytes, err);
    if (r == 0) {
        if (p->request.on_gpu)
            r = engine_gpu_check(&b, err);
        if (r == 0) {
            r = engine_measure(&p->sizes, &b, pool_threads_allowed());
            if (r < 0)
                (void)error_set(err, r, "out of memory");
        }
        backbone_close(&b);
    }
    munmap(base, image->bytes);
    return r;
}

static int run(struct packer *p, struct pack_result *ret, struct error *err)
{
    const int none = -1;
    int r = role_lock(p->role, SANDBOX_PACKER, 1, &none, 0, err);
    if (r == 0)
        r = receive(p, err);
    if (r < 0)
        return r;
    const struct pack_options o = {
        .dtype = p->request.dtype, .progress = on_progress, .user = p, .adapted_norms = dora_norms};
    bool is_adapter = p->request.kind == WIRE_PACK_ADAPTER;
    if (image_quant_name(p->request.dtype) == NULL ||
        (is_adapter && p->request.dtype == IMAGE_INT4))
        return error_set(err, -EPROTO, "PACK asks for unknown numbers");
    if (is_adapter)
        r = pack_for_backbone(p, &o, ret, err);
    else if (p->request.kind == WIRE_PACK_BACKBONE)
        r = pack_backbone(p->files, p->file_count, &o, p->out, ret, err);
    else
        r = error_set(err, -EPROTO, "PACK asks for an unknown kind of image");
    if (r == 0 && !is_adapter)
        r = look_at_backbone(p, ret, err);
    /* Named only when it is on disk: a crash must not leave half an image under a good name. */
    if (r == 0 && fsync(p->out) < 0)
        r = error_set(err, -errno, "cannot write the image: %s", strerror(errno));
    return r;
}

int role_packer(const struct role_options *o)
{
    static struct packer p; /* too large for the stack */
    struct pack_result result = {0};
    struct error err = {0};
    p = (struct packer){.role = o, .backbone = -1, .out = -1};
    if (run(&p, &result, &err) < 0)
        return role_fail(o->chan, &err);
    struct wire_packed packed = {.digest = result.digest,
                                 .bytes = result.bytes,
                                 .kv_token_bytes = {p.sizes.kv_token_bytes[0],
                                                    p.sizes.kv_token_bytes[1],
                                                    p.sizes.kv_token_bytes[2]},
                                 .row_bytes = p.sizes.row_bytes,
                                 .fixed_bytes = p.sizes.fixed_bytes,
                                 .logit_change = p.probe.logit_change,
                                 .mean_kl = p.probe.mean_kl,
                                 .probe_us = p.probe_us,
                                 .probe_tokens = p.probe.token_count,
                                 .argmax_changed = p.probe.argmax_changed};
    _Static_assert(PACK_META_BYTES_MAX < WIRE_RECORD_BYTES_MAX - sizeof(struct wire_packed),
                   "the tail has room");
    role_send(o->chan, WIRE_PACKED, &packed, sizeof packed, result.meta.data, result.meta.len, -1);
    buf_free(&result.meta);
    return 0;
}
