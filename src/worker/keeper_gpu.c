/*
 * The keeper on a GPU: puts one backbone image into the GPU's memory, once for all workers of it,
 * and lives as long as it is to stay. The bytes come from the image's file or from its sealed copy
 * in host memory. Of a file, what was uploaded is what was hashed, piece by piece, out of memory
 * that nobody else has. A sealed copy was hashed before it was sealed, and nobody can change it:
 * the GPU reads it where it is.
 *
 * Workers read an image's tables as always, from a *head*: sealed memory of the image's size in
 * which only what comes before the weights is filled. The rest is a hole and takes no memory.
 */
#include "base/clock.h"
#include "base/memfile.h"
#include "gpu/memory.h"
#include "weights/image.h"
#include "weights/share.h"
#include "worker/roles.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PIECE_BYTES (UINT64_C(4) << 20)

struct upload {
    struct wire_load load;
    int image;             /* where the bytes come from */
    int head, head_reader; /* the head, and what is handed on */
    uint8_t *head_map;
    uint64_t head_bytes; /* known from the first piece */
    struct gpu_driver *driver;
    struct gpu_context *context;
    struct gpu_memory *memory;
    int memory_fd;
    uint8_t *piece;
};

/* --- before the lock --- */

static int open_gpu(struct upload *u, uint32_t index, struct error *err)
{
    struct gpu look;
    int r = gpu_driver_open(&u->driver, NULL, err);
    if (r == 0 && index >= gpu_count(u->driver))
        r = error_set(err, -ENODEV, "there is no GPU %u any more", index);
    if (r == 0)
        r = gpu_look(u->driver, index, &look, err);
    if (r == 0)
        r = gpu_check(&look, err);
    return r == 0 ? gpu_context_open(&u->context, u->driver, index, err) : r;
}

/* All that a driver may open files for is done here: memory with its descriptor, a first copy. */
static int make_memory(struct upload *u, struct error *err)
{
    int r = gpu_memory_create_shared(&u->memory, u->context, u->load.bytes, err);
    if (r == 0)
        r = gpu_memory_export(u->memory, &u->memory_fd, err);
    uint64_t n = u->load.bytes < PIECE_BYTES ? u->load.bytes : PIECE_BYTES;
    return r == 0 ? gpu_memory_write(u->memory, 0, u->piece, n, err) : r;
}

static int make_head(struct upload *u, struct error *err)
{
    if (u->load.bytes < sizeof(struct image_header))
        return error_set(err, -EBADMSG, "an image of %llu bytes has no header",
                         (unsigned long long)u->load.bytes);
    u->head = memfile_create("sllora-head", 0, u->load.bytes);
    if (u->head < 0)
        return error_set(err, u->head, "no memory for the head of an image: %s",
                         strerror(-u->head));
    u->piece = mmap(NULL, PIECE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    u->head_map = mmap(NULL, u->load.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, u->head, 0);
    if (u->piece == MAP_FAILED || u->head_map == MAP_FAILED)
        return error_set(err, -errno, "no memory for the head of an image: %s", strerror(errno));
    return memfile_reader(u->head, &u->head_reader, err);
}

/* --- after it --- */

static int read_piece(const struct upload *u, uint64_t at, uint64_t bytes, struct error *err)
{
    for (uint64_t done = 0; done < bytes;) {
        ssize_t n = pread(u->image, u->piece + done, bytes - done, (off_t)(at + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return error_set(err, -EIO, "cannot read the image at byte %llu: %s",
                             (unsigned long long)(at + done),
                             n < 0 ? strerror(errno) : "it ends there; deploy it again");
        done += (uint64_t)n;
    }
    return 0;
}

/* Of an image that is damaged this is any number; the digest tells. */
static uint64_t weights_begin(const struct upload *u)
{
    struct image_header h;
    memcpy(&h, u->piece, sizeof h);
    uint64_t at = h.sections[IMAGE_WEIGHTS].offset;
    return at < u->load.bytes ? at : u->load.bytes;
}

static int take_piece(struct upload *u, uint64_t at, uint64_t bytes, struct error *err)
{
    if (at == 0)
        u->head_bytes = weights_begin(u);
    if (at < u->head_bytes) {
        uint64_t left = u->head_bytes - at;
        memcpy(u->head_map + at, u->piece, left < bytes ? left : bytes);
    }
    return gpu_memory_write(u->memory, at, u->piece, bytes, err);
}

static void on_progress(void *context, uint64_t done, uint64_t total)
{
    const struct role_options *o = context;
    role_progress(o->chan, done, total);
}

static int take_copy(const struct role_options *o, struct upload *u, struct error *err)
{
    struct share_view view;
    int r = share_map(&view, u->image, IMAGE_BYTES_MAX, false, err);
    if (r < 0)
        return r;
    if (view.bytes < u->load.bytes)
        r = error_set(err, -EBADMSG, "the copy of the image is shorter than the image");
    if (r == 0) {
        memcpy(u->piece, view.data, sizeof(struct image_header));
        memcpy(u->head_map, view.data, weights_begin(u));
        r = gpu_memory_upload(u->memory, view.data, u->load.bytes, on_progress,
                              (void *)(uintptr_t)o, err);
    }
    share_unmap(&view);
    return r;
}

static int take_file(const struct role_options *o, struct upload *u, struct error *err)
{
    struct digest got;
    struct digest_state *hash = digest_begin();
    int r = hash != NULL ? 0 : error_set(err, -ENOMEM, "no memory for a digest");
    for (uint64_t at = 0; r == 0 && at < u->load.bytes; at += PIECE_BYTES) {
        uint64_t left = u->load.bytes - at, bytes = left < PIECE_BYTES ? left : PIECE_BYTES;
        r = read_piece(u, at, bytes, err);
        if (r == 0) {
            digest_update(hash, u->piece, bytes);
            r = take_piece(u, at, bytes, err);
        }
        role_progress(o->chan, at + bytes, u->load.bytes);
    }
    if (hash != NULL)
        digest_end(hash, &got);
    if (r < 0 || digest_equal(&got, &u->load.digest))
        return r;
    return error_set(err, -EBADMSG,
                     "the image is damaged: its SHA-256 is not what its name says; deploy it "
                     "again");
}

static int take_all(const struct role_options *o, struct upload *u, struct error *err)
{
    return memfile_is_sealed(u->image) ? take_copy(o, u, err) : take_file(o, u, err);
}

static int seal_head(struct upload *u, struct error *err)
{
    (void)munmap(u->head_map, u->load.bytes);
    return memfile_seal(u->head, err);
}

/* The process stays, and what it was handed may be memory that is to go. */
static void let_go(struct upload *u)
{
    (void)munmap(u->piece, PIECE_BYTES);
    (void)close(u->image);
    (void)close(u->head);
    (void)close(u->head_reader);
    (void)close(u->memory_fd);
}

int keeper_load_on_gpu(const struct role_options *o, struct error *err)
{
    struct upload u = {.image = -1, .head = -1, .head_reader = -1, .memory_fd = -1};
    struct sandbox_device *device = NULL;
    int r = role_lock_begin(o, SANDBOX_KEEPER, &device, err);
    if (r == 0)
        r = open_gpu(&u, o->gpu, err);
    if (r == 0)
        r = role_receive_load(o->chan, &u.load, &u.image, err);
    uint64_t began_us = clock_now_us();
    if (r == 0)
        r = make_head(&u, err);
    if (r == 0)
        r = make_memory(&u, err);
    if (r < 0)
        return r;
    const int fds[] = {u.image, u.head, u.head_reader, u.memory_fd};
    r = role_lock_with(o, SANDBOX_KEEPER, 1, fds, sizeof fds / sizeof fds[0], device, err);
    if (r == 0)
        r = take_all(o, &u, err);
    if (r == 0)
        r = seal_head(&u, err);
    if (r < 0)
        return r;
    const struct wire_loaded loaded = {.number = u.load.number,
                                       .bytes = u.load.bytes,
                                       .load_us = clock_now_us() - began_us,
                                       .page_bytes = 0};
    const int answer[] = {u.head_reader, u.memory_fd};
    role_send_fds(o->chan, WIRE_LOADED, &loaded, sizeof loaded, answer, 2);
    let_go(&u);
    return 0;
}
