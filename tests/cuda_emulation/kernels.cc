/*
 * The kernels of src/kernels/cuda, compiled for the CPU, and what the fake driver needs to find and
 * to launch them.
 */
#include "emulation.h"
#include "gpu_probe.cuh"

#include "kernels/cuda/kernels.cu"

#define KERNEL(name)                                                                               \
    {                                                                                              \
#name, emulation::trampoline < name> ::enter, emulation::trampoline < name> ::BYTES        \
    }

static const emulation::kernel kernels[] = {
    KERNEL(sllora_embed),       KERNEL(sllora_norm),       KERNEL(sllora_residual),
    KERNEL(sllora_gated),       KERNEL(sllora_rope_store), KERNEL(sllora_attend),
    KERNEL(sllora_attend_join), KERNEL(sllora_rescale),    KERNEL(sllora_linears),
    KERNEL(sllora_tiles),       KERNEL(sllora_shrink),     KERNEL(sllora_expand),
    KERNEL(sllora_embed_lora),  KERNEL(sllora_draw),       KERNEL(gpu_probe_store),
    KERNEL(gpu_probe_atomic),
};

const void *emulation_find(const char *name)
{
    for (const emulation::kernel &k : kernels)
        if (strcmp(k.name, name) == 0)
            return &k;
    return nullptr;
}

size_t emulation_parameter_bytes(const void *kernel)
{
    return static_cast<const emulation::kernel *>(kernel)->parameter_bytes;
}

int emulation_launch(const void *kernel, const void *parameter, const unsigned grid[3],
                     const unsigned block[3], size_t shared_bytes)
{
    const auto *k = static_cast<const emulation::kernel *>(kernel);
    const unsigned threads = block[0] * block[1] * block[2];
    if (threads % emulation::LANES != 0 || !emulation::allocate())
        return -1;
    emulation::kernel_name = k->name;
    emulation::kernel_entry = k->entry;
    emulation::kernel_parameter = parameter;
    emulation::warp_count = threads / emulation::LANES;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    for (blockIdx.z = 0; blockIdx.z < grid[2]; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid[1]; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid[0]; blockIdx.x++)
                emulation::run_block(shared_bytes);
    return 0;
}

void emulation_describe_fault(void)
{
    fprintf(stderr, "%s: block (%u, %u, %u), thread %u: touched an address that it must not\n",
            emulation::kernel_name, blockIdx.x, blockIdx.y, blockIdx.z,
            emulation::current_warp * emulation::LANES + emulation::current_lane);
}
