/*
 * NVIDIA's driver library, looked up at run time: nothing of CUDA is needed to build, and a machine
 * without a GPU is an ordinary one. What is asked of it here needs no context on a device, so it
 * costs milliseconds and no memory there.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#define GPU_DRIVER_LIBRARY "libcuda.so.1"
#define GPU_NAME_BYTES 96

/* The first driver for CUDA 12: an older one runs no program that is made with a toolkit of today.
 */
#define GPU_DRIVER_VERSION_MIN 12000
/* bf16 on tensor cores, asynchronous copies: Ampere. */
#define GPU_CAPABILITY_MIN 80

struct gpu_driver;

struct gpu {
    char name[GPU_NAME_BYTES];
    uint32_t capability;      /* compute capability, ten times the major number: 90 is 9.0 */
    uint32_t multiprocessors; /* SMs */
    uint64_t memory_bytes;
    double memory_bytes_s; /* what its memory clock and bus give at most; 0: the driver hides it */
    uint32_t compute_mode; /* enum gpu_compute_mode */
    bool has_virtual_memory; /* cuMemCreate and cuMemMap */
    bool has_fd_handles;     /* and memory that goes to another process by a file descriptor */
};

/* As an administrator has set it (nvidia-smi -c). */
enum gpu_compute_mode {
    GPU_MODE_DEFAULT = 0,
    GPU_MODE_PROHIBITED = 2,
    GPU_MODE_EXCLUSIVE_PROCESS = 3,
};

/* Loads the driver and starts it; `library` names another file than GPU_DRIVER_LIBRARY, or is NULL.
 * -ENOENT: there is none, which is no fault. -ENODEV: it has no GPU. -ENOTSUP: it is too old, or
 * lacks a function. -EIO: it does not start, and says why. The caller closes it. */
int gpu_driver_open(struct gpu_driver **ret, const char *library, struct error *err);
void gpu_driver_close(struct gpu_driver *d);

/* 1000 times the major number of the newest CUDA that it runs, and 10 times the minor one. */
uint32_t gpu_driver_version(const struct gpu_driver *d);
uint32_t gpu_count(const struct gpu_driver *d);
/* The index-th GPU. -EIO: it does not answer, or it is gone. */
int gpu_look(const struct gpu_driver *d, uint32_t index, struct gpu *ret, struct error *err);

/* Why a backbone cannot be shared and computed with on it; 0 when it can. */
int gpu_check(const struct gpu *g, struct error *err);
