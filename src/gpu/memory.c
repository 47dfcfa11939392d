/* See memory.h. */
#include "gpu/memory.h"

#include "gpu/library.h"
#include "gpu/parts.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

struct gpu_memory {
    const struct gpu_context *context;
    uint64_t handle;
    uint64_t address;
    uint64_t bytes;  /* as it was asked for, */
    uint64_t padded; /* and as the device hands it out */
    bool has_handle, is_mapped;
};

static int check(const struct gpu_context *c, int result, const char *what, struct error *err)
{
    return gpu_check_result(c->driver, result, what, err);
}

/* --- a process on a device --- */

int gpu_context_open(struct gpu_context **ret, const struct gpu_driver *d, uint32_t index,
                     struct error *err)
{
    void *context = NULL;
    *ret = NULL;
    struct gpu_context *c = calloc(1, sizeof *c);
    if (c == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    c->driver = d;
    int r = check(c, d->device_get(&c->device, (int)index), "the GPU does not answer", err);
    if (r == 0)
        r = check(c, d->context_retain(&context, c->device), "the GPU takes no process", err);
    if (r < 0) {
        free(c);
        return r;
    }
    r = check(c, d->context_set(context), "the GPU takes no process", err);
    if (r < 0) {
        gpu_context_close(c);
        return r;
    }
    *ret = c;
    return 0;
}

void gpu_context_close(struct gpu_context *c)
{
    if (c == NULL)
        return;
    (void)c->driver->context_release(c->device);
    free(c);
}

/* --- memory --- */

static struct cuda_allocation allocation_of(const struct gpu_context *c, bool is_shared)
{
    return (struct cuda_allocation){.type = CUDA_ALLOCATION_PINNED,
                                    .handle_types = is_shared ? CUDA_HANDLE_FD : 0,
                                    .location = {CUDA_LOCATION_DEVICE, c->device}};
}

static int memory_new(struct gpu_memory **ret, const struct gpu_context *c, uint64_t bytes,
                      bool is_shared, struct error *err)
{
    const struct cuda_allocation a = allocation_of(c, is_shared);
    size_t step = 0;
    *ret = NULL;
    int r = check(c, c->driver->granularity(&step, &a, CUDA_GRANULARITY_RECOMMENDED),
                  is_shared ? "the GPU hands out no memory that can be shared"
                            : "the GPU hands out no memory",
                  err);
    if (r < 0)
        return r;
    if (bytes == 0 || step == 0 || bytes > UINT64_MAX - step)
        return error_set(err, -EINVAL, "no GPU has memory of %llu bytes",
                         (unsigned long long)bytes);
    struct gpu_memory *m = calloc(1, sizeof *m);
    if (m == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    m->context = c;
    m->bytes = bytes;
    m->padded = (bytes + step - 1) / step * step;
    *ret = m;
    return 0;
}

static int set_access(struct gpu_memory *m, int flags, const char *what, struct error *err)
{
    const struct cuda_access access = {{CUDA_LOCATION_DEVICE, m->context->device}, flags};
    return check(m->context, m->context->driver->access_set(m->address, m->padded, &access, 1),
                 what, err);
}

/* The memory of its handle, at an address of this process. */
static int map(struct gpu_memory *m, int access, struct error *err)
{
    const struct gpu_driver *d = m->context->driver;
    int r = check(m->context, d->address_reserve(&m->address, m->padded, 0, 0, 0),
                  "no addresses for the GPU's memory", err);
    if (r < 0) {
        m->address = 0;
        return r;
    }
    r = check(m->context, d->memory_map(m->address, m->padded, 0, m->handle, 0),
              "the GPU's memory cannot be mapped", err);
    m->is_mapped = r == 0;
    return r == 0 ? set_access(m, access, "the GPU's memory cannot be mapped", err) : r;
}

static int say_what_is_free(const struct gpu_context *c, uint64_t bytes, struct error *err)
{
    size_t left = 0, total = 0;
    char text[64] = "";
    if (c->driver->memory_info(&left, &total) == CUDA_SUCCESS)
        snprintf(text, sizeof text, ", but %.2f of %.2f", (double)left / 0x1p30,
                 (double)total / 0x1p30);
    return error_set(err, -ENOMEM, "the GPU has no %.2f GiB free%s", (double)bytes / 0x1p30, text);
}

static int create(struct gpu_memory **ret, const struct gpu_context *c, uint64_t bytes,
                  bool is_shared, struct error *err)
{
    const struct cuda_allocation a = allocation_of(c, is_shared);
    int r = memory_new(ret, c, bytes, is_shared, err);
    if (r < 0)
        return r;
    struct gpu_memory *m = *ret;
    int result = c->driver->memory_create(&m->handle, m->padded, &a, 0);
    m->has_handle = result == CUDA_SUCCESS;
    if (result == CUDA_ERROR_OUT_OF_MEMORY)
        r = say_what_is_free(c, m->padded, err);
    else
        r = check(c, result, "the GPU hands out no memory that can be shared", err);
    if (r == 0)
        r = map(m, CUDA_ACCESS_READ_WRITE, err);
    if (r < 0) {
        gpu_memory_free(m);
        *ret = NULL;
    }
    return r;
}

int gpu_memory_create(struct gpu_memory **ret, const struct gpu_context *c, uint64_t bytes,
                      struct error *err)
{
    return create(ret, c, bytes, false, err);
}

int gpu_memory_create_shared(struct gpu_memory **ret, const struct gpu_context *c, uint64_t bytes,
                             struct error *err)
{
    return create(ret, c, bytes, true, err);
}

int gpu_memory_export(const struct gpu_memory *m, int *ret_fd, struct error *err)
{
    *ret_fd = -1;
    return check(m->context,
                 m->context->driver->memory_export(ret_fd, m->handle, CUDA_HANDLE_FD, 0),
                 "the GPU's memory has no descriptor", err);
}

int gpu_memory_import(struct gpu_memory **ret, const struct gpu_context *c, int fd, uint64_t bytes,
                      struct error *err)
{
    int r = memory_new(ret, c, bytes, true, err);
    if (r < 0)
        return r;
    struct gpu_memory *m = *ret;
    /* The interface takes the number itself for a pointer. */
    int result = c->driver->memory_import(&m->handle, (void *)(intptr_t)fd, CUDA_HANDLE_FD);
    m->has_handle = result == CUDA_SUCCESS;
    r = check(c, result, "the descriptor is no memory of this GPU", err);
    if (r == 0)
        r = map(m, CUDA_ACCESS_READ, err);
    if (r < 0) {
        gpu_memory_free(m);
        *ret = NULL;
    }
    return r;
}

int gpu_memory_ask_to_write(struct gpu_memory *m, struct error *err)
{
    return set_access(m, CUDA_ACCESS_READ_WRITE, "no write access to the GPU's memory", err);
}

uint64_t gpu_memory_address(const struct gpu_memory *m)
{
    return m->address;
}

uint64_t gpu_memory_bytes(const struct gpu_memory *m)
{
    return m->padded;
}

void gpu_memory_free(struct gpu_memory *m)
{
    if (m == NULL)
        return;
    const struct gpu_driver *d = m->context->driver;
    if (m->is_mapped)
        (void)d->memory_unmap(m->address, m->padded);
    if (m->address != 0)
        (void)d->address_free(m->address, m->padded);
    if (m->has_handle)
        (void)d->memory_release(m->handle);
    free(m);
}

static int check_range(const struct gpu_memory *m, uint64_t offset, uint64_t bytes,
                       struct error *err)
{
    if (offset <= m->bytes && bytes <= m->bytes - offset)
        return 0;
    return error_set(err, -EINVAL, "%llu bytes from %llu on are not in memory of %llu",
                     (unsigned long long)bytes, (unsigned long long)offset,
                     (unsigned long long)m->bytes);
}

int gpu_memory_write(struct gpu_memory *m, uint64_t offset, const void *from, uint64_t bytes,
                     struct error *err)
{
    int r = check_range(m, offset, bytes, err);
    if (r < 0)
        return r;
    return check(m->context, m->context->driver->copy_to_device(m->address + offset, from, bytes),
                 "the GPU's memory was not written", err);
}

int gpu_memory_read(const struct gpu_memory *m, uint64_t offset, void *to, uint64_t bytes,
                    struct error *err)
{
    int r = check_range(m, offset, bytes, err);
    if (r < 0)
        return r;
    return check(m->context, m->context->driver->copy_to_host(to, m->address + offset, bytes),
                 "the GPU's memory was not read", err);
}

/* --- much of it --- */

#define PIECE_BYTES (UINT64_C(64) << 20)
#define LANES 2u /* one is made known while the other is read */

/* A piece on its way. */
struct lane {
    void *stream;
    void *piece; /* known to the GPU; NULL: none */
};

static int lane_finish(const struct gpu_memory *m, struct lane *l, struct error *err)
{
    const struct gpu_driver *d = m->context->driver;
    if (l->piece == NULL)
        return 0;
    int result = d->stream_wait(l->stream);
    (void)d->host_unregister(l->piece);
    l->piece = NULL;
    return check(m->context, result, "the GPU's memory was not written", err);
}

/* `from` is whole pages, but for the end of the last piece. */
static int lane_send(struct gpu_memory *m, struct lane *l, uint64_t at, const uint8_t *from,
                     uint64_t bytes, struct error *err)
{
    const struct gpu_driver *d = m->context->driver;
    void *piece = (void *)(uintptr_t)(from + at); /* only read */
    if (d->host_register(piece, bytes, CUDA_HOST_READ_ONLY) != CUDA_SUCCESS)
        return gpu_memory_write(m, at, piece, bytes, err);
    l->piece = piece;
    return check(m->context, d->send(m->address + at, piece, bytes, l->stream),
                 "the GPU's memory was not written", err);
}

int gpu_memory_upload(struct gpu_memory *m, const void *from, uint64_t bytes,
                      gpu_progress_fn *progress, void *context, struct error *err)
{
    const struct gpu_driver *d = m->context->driver;
    struct lane lanes[LANES] = {0};
    int r = check_range(m, 0, bytes, err);
    for (uint32_t i = 0; r == 0 && i < LANES; i++)
        r = check(m->context, d->stream_create(&lanes[i].stream, CUDA_STREAM_NON_BLOCKING),
                  "the GPU takes no work", err);
    for (uint64_t at = 0, i = 0; r == 0 && at < bytes; at += PIECE_BYTES, i++) {
        uint64_t left = bytes - at;
        r = lane_finish(m, &lanes[i % LANES], err);
        if (r == 0)
            r = lane_send(m, &lanes[i % LANES], at, from, left < PIECE_BYTES ? left : PIECE_BYTES,
                          err);
        if (progress != NULL)
            progress(context, at + (left < PIECE_BYTES ? left : PIECE_BYTES), bytes);
    }
    for (uint32_t i = 0; i < LANES; i++) {
        struct error later = {0};
        int rc = lane_finish(m, &lanes[i], r == 0 ? err : &later);
        r = r == 0 ? rc : r;
        if (lanes[i].stream != NULL)
            (void)d->stream_destroy(lanes[i].stream);
    }
    return r;
}
