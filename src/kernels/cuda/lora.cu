/*
 * LoRA beside the linears of the backbone: every row of the batch finds its own adapter by its
 * group, so that rows of many adapters, and of none, go through one launch. Adapters are read
 * through the caches: neighbours often have the same.
 */
#include "kernels/cuda/cuda.h"
#include "kernels/kernels.h"
#include <primitives.cuh>

#define SHRINK_WARPS (CUDA_SHRINK_THREADS / WARP_LANES)

/* What the adapter of row r does to one of the linears; a is NULL where that is nothing. */
static __device__ __forceinline__ struct cuda_lora_use use_of(const struct cuda_lora_use *uses,
                                                              const struct cuda_row *rows,
                                                              uint32_t group_count, uint32_t r)
{
    const uint32_t group = rows[r].group;
    struct cuda_lora_use use = {};
    if (group != CUDA_GROUP_NONE)
        use = uses[blockIdx.z * group_count + group];
    return use;
}

/* Eight values behind each other, as they come: bf16 or codes. */
static __device__ __forceinline__ uint4 load_eight(const uint16_t *from)
{
    return load_kept(reinterpret_cast<const uint4 *>(from));
}

static __device__ __forceinline__ uint2 load_eight(const int8_t *from)
{
    return load_kept(reinterpret_cast<const uint2 *>(from));
}

static __device__ __forceinline__ float value_of(const uint4 &eight, uint32_t i)
{
    const uint32_t pair = i < 2 ? eight.x : i < 4 ? eight.y : i < 6 ? eight.z : eight.w;
    return i % 2 == 0 ? bf16_low(pair) : bf16_high(pair);
}

static __device__ __forceinline__ float value_of(const uint2 &eight, uint32_t i)
{
    return (float)(int8_t)((i < 4 ? eight.x : eight.y) >> i % 4 * 8);
}

static __device__ __forceinline__ float load_one(const uint16_t *a)
{
    return bf16_value(load_kept(a));
}

static __device__ __forceinline__ float load_one(const int8_t *a)
{
    return (float)load_kept(a);
}

/* A thread's part of `count` rows of A times x: eight columns of every 2048, or, where the rows of
 * A are not aligned, one of every 256. */
template <typename value>
static __device__ __forceinline__ void dot(float sums[CUDA_SHRINK_RANKS], const value *a,
                                           uint32_t count, const uint16_t *x, uint32_t cols)
{
    if (cols % 8 != 0) {
        for (uint32_t i = threadIdx.x; i < cols; i += CUDA_SHRINK_THREADS)
#pragma unroll
            for (uint32_t k = 0; k < CUDA_SHRINK_RANKS; k++)
                if (k < count)
                    sums[k] =
                        __fmaf_rn(load_one(a + (size_t)k * cols + i), load_one(x + i), sums[k]);
        return;
    }
    for (uint32_t i = threadIdx.x * 8; i < cols; i += CUDA_SHRINK_THREADS * 8) {
        const uint4 xs = load_eight(x + i);
        decltype(load_eight(a)) as[CUDA_SHRINK_RANKS]; /* all under way before one is used */
#pragma unroll
        for (uint32_t k = 0; k < CUDA_SHRINK_RANKS; k++)
            as[k] = load_eight(a + (size_t)(k < count ? k : 0) * cols + i);
#pragma unroll
        for (uint32_t k = 0; k < CUDA_SHRINK_RANKS; k++)
#pragma unroll
            for (uint32_t j = 0; j < 8; j++)
                sums[k] = __fmaf_rn(value_of(as[k], j), value_of(xs, j), sums[k]);
    }
}

/* What a block reads of an adapter is nobody's result: it comes while the grid before this ends. */
static __device__ __forceinline__ void fetch_adapter(const void *from, size_t bytes,
                                                     uint32_t threads)
{
    const uint32_t line = 128;
    for (size_t at = threadIdx.x * line; at < bytes; at += (size_t)threads * line)
        fetch_ahead(static_cast<const uint8_t *>(from) + at);
}

extern "C" __global__ void __launch_bounds__(CUDA_SHRINK_THREADS)
    sllora_shrink(const __grid_constant__ struct cuda_shrink job)
{
    SHARED(float, partial, SHRINK_WARPS *CUDA_SHRINK_RANKS);
    grid_release();
    const uint32_t first = blockIdx.x * CUDA_SHRINK_RANKS, r = job.row + blockIdx.y;
    const uint32_t warp = threadIdx.x / WARP_LANES;
    const struct cuda_lora_use use = use_of(job.uses, job.rows, job.group_count, r);
    const bool is_idle = use.a == NULL || first >= use.rank; /* all of the block alike */
    const uint16_t *x = job.x + (size_t)r * job.half_stride;
    const uint32_t count = is_idle ? 0 : min(use.rank - first, (uint32_t)CUDA_SHRINK_RANKS);
    const size_t at = (size_t)first * job.cols, size = use.rank_scales != NULL ? 1 : 2;
    fetch_adapter(static_cast<const uint8_t *>(use.a) + at * size, count * job.cols * size,
                  CUDA_SHRINK_THREADS);
    grid_wait();
    if (is_idle)
        return;
    float sums[CUDA_SHRINK_RANKS] = {};
    if (use.rank_scales != NULL)
        dot(sums, static_cast<const int8_t *>(use.a) + at, count, x, job.cols);
    else
        dot(sums, static_cast<const uint16_t *>(use.a) + at, count, x, job.cols);
#pragma unroll
    for (uint32_t k = 0; k < CUDA_SHRINK_RANKS; k++) {
        sums[k] = warp_sum(sums[k]);
        if (threadIdx.x % WARP_LANES == 0)
            partial[warp * CUDA_SHRINK_RANKS + k] = sums[k];
    }
    __syncthreads();
    if (threadIdx.x >= count)
        return;
    float sum = 0, scale = use.scale;
    for (uint32_t w = 0; w < SHRINK_WARPS; w++)
        sum += partial[w * CUDA_SHRINK_RANKS + threadIdx.x];
    if (use.rank_scales != NULL)
        scale *= use.rank_scales[first + threadIdx.x];
    job.t[((size_t)blockIdx.z * job.row_count + r) * job.rank_stride + first + threadIdx.x] =
        scale * sum;
}

/* Output o of B t; B in panels of bf16. */
static __device__ __forceinline__ float times_panel(const void *b, uint32_t rank, uint32_t o,
                                                    const float *t)
{
    const uint32_t *words = static_cast<const uint32_t *>(b) +
                            (size_t)(o / KERNEL_PANEL_OUTS) * ((rank + 1) / 2) * KERNEL_PANEL_OUTS +
                            o % KERNEL_PANEL_OUTS;
    float sum = 0;
#pragma unroll 8
    for (uint32_t p = 0; p < rank / 2; p++) {
        const uint32_t pair = load_kept(words + (size_t)p * KERNEL_PANEL_OUTS);
        sum = __fmaf_rn(bf16_low(pair), t[2 * p], sum);
        sum = __fmaf_rn(bf16_high(pair), t[2 * p + 1], sum);
    }
    if (rank % 2 != 0)
        sum = __fmaf_rn(bf16_low(load_kept(words + (size_t)(rank / 2) * KERNEL_PANEL_OUTS)),
                        t[rank - 1], sum);
    return sum;
}

/* Likewise in panels of codes. */
static __device__ __forceinline__ float times_codes(const void *b, uint32_t rank, uint32_t o,
                                                    const float *t)
{
    const int8_t *codes = static_cast<const int8_t *>(b) +
                          (size_t)(o / KERNEL_PANEL_OUTS) * rank * KERNEL_PANEL_OUTS +
                          o % KERNEL_PANEL_OUTS;
    float sum = 0;
#pragma unroll 8
    for (uint32_t k = 0; k < rank; k++)
        sum = __fmaf_rn((float)codes[(size_t)k * KERNEL_PANEL_OUTS], t[k], sum);
    return sum;
}

extern "C" __global__ void __launch_bounds__(CUDA_EXPAND_THREADS)
    sllora_expand(const __grid_constant__ struct cuda_expand job)
{
    grid_release();
    const uint32_t o = blockIdx.x * CUDA_EXPAND_THREADS + threadIdx.x;
    const uint32_t r = job.row + blockIdx.y, linear = blockIdx.z;
    const struct cuda_lora_use use = use_of(job.uses, job.rows, job.group_count, r);
    const uint32_t first = o - threadIdx.x, outputs = job.outputs[linear];
    const size_t panel =
        KERNEL_PANEL_OUTS * (use.rank_scales != NULL ? use.rank : (use.rank + 1) / 2 * 4);
    const uint32_t outs = first < outputs ? min(outputs - first, (uint32_t)CUDA_EXPAND_THREADS) : 0;
    if (use.a != NULL)
        fetch_adapter(static_cast<const uint8_t *>(use.b) + first / KERNEL_PANEL_OUTS * panel,
                      (outs + KERNEL_PANEL_OUTS - 1) / KERNEL_PANEL_OUTS * panel,
                      CUDA_EXPAND_THREADS);
    grid_wait();
    if (use.a == NULL || o >= outputs)
        return;
    const float *t = job.t + ((size_t)linear * job.row_count + r) * job.rank_stride;
    const float sum = use.rank_scales != NULL ? times_codes(use.b, use.rank, o, t)
                                              : times_panel(use.b, use.rank, o, t);
    job.y[linear][r * job.y_stride[linear] + o] += sum;
}

extern "C" __global__ void __launch_bounds__(CUDA_EXPAND_THREADS)
    sllora_rescale(const __grid_constant__ struct cuda_rescale job)
{
    grid_begin();
    const uint32_t o = blockIdx.x * CUDA_EXPAND_THREADS + threadIdx.x;
    if (o >= job.outputs)
        return;
    float *y = job.y + (job.row + blockIdx.y) * job.y_stride + o;
    *y = __fmaf_rn(*y, job.dora[o], job.bias != NULL ? job.bias[o] : 0.0f);
}

extern "C" __global__ void __launch_bounds__(CUDA_EMBED_LORA_THREADS)
    sllora_embed_lora(const __grid_constant__ struct cuda_embed_lora job)
{
    DYNAMIC_SHARED(float, t);
    grid_begin();
    const uint32_t r = job.row + blockIdx.x, token = job.rows[r].token;
    const uint32_t rank = job.a.rows, width = job.b.rows;
    const uint16_t *a = static_cast<const uint16_t *>(job.a.data) + token;
    for (uint32_t k = threadIdx.x; k < rank; k += CUDA_EMBED_LORA_THREADS)
        t[k] = bf16_value(load_kept(a + (size_t)k * job.a.cols)) * job.scale;
    __syncthreads();
    float *x = job.x + (size_t)r * width;
    for (uint32_t o = threadIdx.x; o < width; o += CUDA_EMBED_LORA_THREADS) {
        float sum = 0;
        if (job.b.dtype == KERNEL_PANELS) {
            sum = times_panel(job.b.data, rank, o, t);
        } else {
            const uint16_t *b = static_cast<const uint16_t *>(job.b.data) + (size_t)o * rank;
            for (uint32_t k = 0; k < rank; k++)
                sum = __fmaf_rn(bf16_value(load_kept(b + k)), t[k], sum);
        }
        x[o] = (job.dora != NULL ? job.dora[o] : 1.0f) * (x[o] + sum);
    }
}
