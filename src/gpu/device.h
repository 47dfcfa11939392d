/*
 * Work on a GPU: a process's context there, its kernels, and one stream in which copies and
 * launches happen in the order in which they were asked for, while the process goes on.
 *
 * On GPUs that can (compute capability 9.0 on) a kernel begins while the one before it ends, and
 * waits for that one itself before it reads what it wrote (grid_wait in
 * kernels/cuda/primitives.cuh).
 *
 * What is asked for returns nothing: the first failure of anything is kept, what is asked for after
 * it is left out, and gpu_wait tells it. After a fault in a kernel the context is of no use any
 * more, and the process should end.
 */
#pragma once

#include "base/error.h"
#include "gpu/driver.h"
#include "gpu/memory.h"

#include <stdint.h>

struct gpu_device;

/* Kernels made ahead: a fatbin, and the names that are called, by their index. */
struct gpu_kernels {
    const void *image;
    uint64_t bytes;
    const char *const *names; /* [count] */
    uint32_t count;
};

/* Opens GPU `index` with these kernels, which must outlive it. -ENOENT, -ENODEV, -ENOTSUP: as
 * gpu_driver_open and gpu_check; -ENOEXEC: the kernels are not made for this GPU, or not made at
 * all; -ENOMEM; -EIO. */
int gpu_device_open(struct gpu_device **ret, uint32_t index, const struct gpu_kernels *k,
                    struct error *err);
void gpu_device_close(struct gpu_device *d);

const struct gpu *gpu_device_look(const struct gpu_device *d);
/* For gpu_memory_create and _import. */
const struct gpu_context *gpu_device_context(const struct gpu_device *d);
/* Memory of the device that no process has now. */
int gpu_device_free_bytes(const struct gpu_device *d, uint64_t *ret, struct error *err);

struct gpu_launch {
    uint32_t kernel; /* index into the names */
    uint32_t grid[3];
    uint32_t threads;
    uint32_t shared_bytes; /* dynamic */
};

/* `job` is the kernel's one parameter; copied. A grid of nothing is no launch. */
void gpu_launch(struct gpu_device *d, const struct gpu_launch *l, const void *job);

/* From memory of gpu_host_allocate, which must stay as it is until gpu_wait. */
void gpu_send(struct gpu_device *d, uint64_t to, const void *from, uint64_t bytes);
void gpu_fetch(struct gpu_device *d, void *to, uint64_t from, uint64_t bytes);
void gpu_move(struct gpu_device *d, uint64_t to, uint64_t from, uint64_t bytes);
void gpu_fill(struct gpu_device *d, uint64_t to, uint8_t byte, uint64_t bytes);

/* Launches that are asked for between begin and end are kept instead of done; gpu_replay does all
 * of them, with the same jobs, for a fraction of what asking for each takes. end gives NULL when
 * something failed, which gpu_wait tells. The device is open as long as the graph. */
struct gpu_graph;
void gpu_record_begin(struct gpu_device *d);
struct gpu_graph *gpu_record_end(struct gpu_device *d);
void gpu_replay(struct gpu_graph *g);
void gpu_graph_free(struct gpu_graph *g);

/* Until all that was asked for is done: 0, or the first failure since the device was opened.
 * -EFAULT: a kernel touched what it must not. */
int gpu_wait(struct gpu_device *d, struct error *err);
/* Has anything failed so far, as far as is known without waiting. */
bool gpu_has_failed(const struct gpu_device *d);

/* Memory of the host that the device can read and write by itself. NULL: there is none. */
void *gpu_host_allocate(struct gpu_device *d, uint64_t bytes);
void gpu_host_free(struct gpu_device *d, void *memory);

/* Microseconds between two places in the stream, as the device sees them. */
struct gpu_timer;
int gpu_timer_open(struct gpu_timer **ret, struct gpu_device *d, struct error *err);
void gpu_timer_close(struct gpu_timer *t);
void gpu_timer_begin(struct gpu_timer *t);
void gpu_timer_end(struct gpu_timer *t);
/* Waits for the end. */
int gpu_timer_us(struct gpu_timer *t, double *ret_us, struct error *err);
