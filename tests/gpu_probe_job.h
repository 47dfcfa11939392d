/* The kernels of the GPU probe, as its PTX, its launches and the emulation know them. */
#pragma once

#include <stdint.h>

#define GPU_PROBE_STORE "gpu_probe_store"   /* puts the value into a word of each thread */
#define GPU_PROBE_ATOMIC "gpu_probe_atomic" /* adds it there */
#define GPU_PROBE_THREADS 32u

struct gpu_probe_job {
    uint64_t at;
    uint32_t value, padding;
};
