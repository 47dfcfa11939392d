/*
 * Device memory that one process fills and others read: made by the one, handed on as a file
 * descriptor, mapped read-only by the others (CUDA driver API, virtual memory management). Whoever
 * has the descriptor can map it; nobody else can.
 *
 * Keeper:  gpu_context_open, gpu_memory_create_shared, gpu_memory_upload, gpu_memory_export
 * Reader:  gpu_context_open, gpu_memory_import, and the descriptor closed
 *
 * Memory lives until its maker and all who imported it have freed it, or have ended.
 */
#pragma once

#include "base/error.h"
#include "gpu/driver.h"

#include <stdint.h>

/* A process on a device. It takes some hundreds of milliseconds to open, and device memory. */
struct gpu_context;

/* -ENOMEM: the device has no room for it. -EIO: the device does not answer, or is gone. `d` must
 * outlive it. The caller closes it, after all memory of it. */
int gpu_context_open(struct gpu_context **ret, const struct gpu_driver *d, uint32_t index,
                     struct error *err);
void gpu_context_close(struct gpu_context *c);

struct gpu_memory;

/* `bytes` > 0, rounded up to what the device hands out; readable and writable here. -ENOMEM: the
 * device has not so much, and how much it has. The caller frees it. */
int gpu_memory_create(struct gpu_memory **ret, const struct gpu_context *c, uint64_t bytes,
                      struct error *err);
/* The same for others to import too. */
int gpu_memory_create_shared(struct gpu_memory **ret, const struct gpu_context *c, uint64_t bytes,
                             struct error *err);
/* A descriptor for gpu_memory_import, the caller's. */
int gpu_memory_export(const struct gpu_memory *m, int *ret_fd, struct error *err);
/* Maps what `fd` stands for, as many bytes as it was made with, read-only. -EINVAL: it is no such
 * memory, or not so much. `fd` stays the caller's and may be closed. */
int gpu_memory_import(struct gpu_memory **ret, const struct gpu_context *c, int fd, uint64_t bytes,
                      struct error *err);
/* Asks for what an import has not: -EACCES where the driver refuses it. */
int gpu_memory_ask_to_write(struct gpu_memory *m, struct error *err);
void gpu_memory_free(struct gpu_memory *m);

/* Where it lies on the device, for its kernels, and how much of the device it takes. */
uint64_t gpu_memory_address(const struct gpu_memory *m);
uint64_t gpu_memory_bytes(const struct gpu_memory *m);

/* Between host and device memory, at once. -EACCES: the mapping does not allow it. After that, on a
 * device, the context is of no use any more. */
int gpu_memory_write(struct gpu_memory *m, uint64_t offset, const void *from, uint64_t bytes,
                     struct error *err);
/* The same of much, from pages that stay as they are meanwhile: piece after piece is made known to
 * the GPU, which then reads it by itself while the next is made known; where the driver refuses
 * that (memory that it cannot pin), as gpu_memory_write. `progress` may be NULL. */
typedef void gpu_progress_fn(void *context, uint64_t done, uint64_t total);
int gpu_memory_upload(struct gpu_memory *m, const void *from, uint64_t bytes,
                      gpu_progress_fn *progress, void *context, struct error *err);
int gpu_memory_read(const struct gpu_memory *m, uint64_t offset, void *to, uint64_t bytes,
                    struct error *err);
