/* What the PTX of the GPU probe does (tests/gpu_probe_try.c): the fake driver reads no PTX. */
#pragma once

#include "../gpu_probe_job.h"
#include "emulation.h"

static inline uint32_t *gpu_probe_word(const struct gpu_probe_job &job)
{
    return reinterpret_cast<uint32_t *>(job.at) + threadIdx.x;
}

extern "C" __global__ void gpu_probe_store(const struct gpu_probe_job job)
{
    *static_cast<volatile uint32_t *>(gpu_probe_word(job)) = job.value;
}

extern "C" __global__ void gpu_probe_atomic(const struct gpu_probe_job job)
{
    __atomic_fetch_add(gpu_probe_word(job), job.value, __ATOMIC_RELAXED);
}
