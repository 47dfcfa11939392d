/*
 * What is done to each row of the batch on its own: embedding, norms, the residual stream and the
 * gate of the MLP. One decision: a row is one block's work, and its sum of squares is made of
 * strided sums per thread, joined in one order, so that it is the same wherever the row stands.
 */
#include "kernels/cuda/cuda.h"
#include "kernels/kernels.h"

#include <primitives.cuh>

#define ROW_WARPS (CUDA_NORM_THREADS / WARP_LANES)

/* --- embedding --- */

static __device__ __forceinline__ float panel_value(const struct cuda_weight &w, uint32_t row,
                                                    uint32_t col)
{
    const uint32_t *pairs = (const uint32_t *)w.data;
    uint64_t pair = (uint64_t)(row / KERNEL_PANEL_OUTS) * ((w.cols + 1) / 2) + col / 2;
    uint32_t word = load_kept(&pairs[pair * KERNEL_PANEL_OUTS + row % KERNEL_PANEL_OUTS]);
    return col % 2 ? bf16_high(word) : bf16_low(word);
}

static __device__ __forceinline__ float quantised_value(const struct cuda_weight &w, uint32_t row,
                                                        uint32_t col)
{
    bool is_int4 = w.dtype == KERNEL_INT4;
    uint32_t k = col % KERNEL_GROUP, lane = row % KERNEL_PANEL_OUTS;
    uint32_t scales_bytes = KERNEL_PANEL_OUTS * 2, cols_of_word = is_int4 ? 8 : 4;
    uint32_t group_bytes = scales_bytes + KERNEL_GROUP / cols_of_word * KERNEL_PANEL_OUTS * 4;
    uint64_t groups = (w.cols + KERNEL_GROUP - 1) / KERNEL_GROUP;
    const uint8_t *group = (const uint8_t *)w.data +
                           (row / KERNEL_PANEL_OUTS * groups + col / KERNEL_GROUP) * group_bytes;
    const uint8_t *word = group + scales_bytes + (k / cols_of_word * KERNEL_PANEL_OUTS + lane) * 4;
    float scale = bf16_value(((const uint16_t *)group)[lane]);
    if (!is_int4)
        return scale * (float)(word[k % 4] - KERNEL_INT8_OFFSET);
    int code = k % 8 < 4 ? word[k % 4] & 15 : word[k % 4] >> 4;
    return scale * (float)(code - KERNEL_INT4_OFFSET);
}

extern "C" __global__ void __launch_bounds__(CUDA_EMBED_THREADS)
    sllora_embed(const __grid_constant__ struct cuda_embed job)
{
    grid_begin();
    uint32_t r = job.row + blockIdx.x, token = job.rows[r].token, cols = job.embed.cols;
    float *x = job.x + (uint64_t)r * cols;
    for (uint32_t i = threadIdx.x; i < cols; i += CUDA_EMBED_THREADS) {
        float value;
        if (job.embed.dtype == KERNEL_BF16)
            value = bf16_value(((const uint16_t *)job.embed.data)[(uint64_t)token * cols + i]);
        else if (job.embed.dtype == KERNEL_PANELS)
            value = panel_value(job.embed, token, i);
        else
            value = quantised_value(job.embed, token, i);
        x[i] = value * job.scale;
    }
}

/* --- norms --- */

#define ROW_AHEAD 8u /* values that a thread has under way */
#define ROW_STEP (ROW_AHEAD * CUDA_NORM_THREADS)

/* Values begin, begin + CUDA_NORM_THREADS, ...; 0 beyond width. All of them are asked for before
 * one is used, which a compiler that cannot tell x from y would not do. */
static __device__ __forceinline__ void load_values_of_row(float (&ret)[ROW_AHEAD],
                                                          const float *from, uint32_t begin,
                                                          uint32_t width)
{
#pragma unroll
    for (uint32_t k = 0; k < ROW_AHEAD; k++) {
        uint32_t i = begin + k * CUDA_NORM_THREADS;
        ret[k] = i < width ? from[i] : 0;
    }
}

static __device__ __forceinline__ float add_squares(const float (&values)[ROW_AHEAD], float squares)
{
#pragma unroll
    for (uint32_t k = 0; k < ROW_AHEAD; k++)
        squares = fmaf(values[k], values[k], squares);
    return squares;
}

/* 1 / sqrt(mean of squares + eps), from each thread's part of the squares. `sums` is used once in a
 * kernel. */
static __device__ __forceinline__ float norm_factor(float part, float *sums, uint32_t width,
                                                    float eps)
{
    part = warp_sum(part);
    if (threadIdx.x % WARP_LANES == 0)
        sums[threadIdx.x / WARP_LANES] = part;
    __syncthreads();
    float squares = 0;
    for (uint32_t i = 0; i < ROW_WARPS; i++)
        squares += sums[i];
    return 1.0f / sqrtf(squares / (float)width + eps);
}

static __device__ __forceinline__ float row_factor(const float *x, float *sums, uint32_t width,
                                                   float eps)
{
    float values[ROW_AHEAD], squares = 0;
    for (uint32_t begin = threadIdx.x; begin < width; begin += ROW_STEP) {
        load_values_of_row(values, x, begin, width);
        squares = add_squares(values, squares);
    }
    return norm_factor(squares, sums, width, eps);
}

/* What is normed goes to y and to half, where they are; half is 0 from width to stride. */
static __device__ __forceinline__ void write_normed(float *y, uint16_t *half, const float *x,
                                                    const float *weight, float factor,
                                                    uint32_t width, uint32_t stride)
{
    float values[ROW_AHEAD], weights[ROW_AHEAD];
    for (uint32_t begin = threadIdx.x; begin < width; begin += ROW_STEP) {
        load_values_of_row(values, x, begin, width);
        load_values_of_row(weights, weight, begin, width);
#pragma unroll
        for (uint32_t k = 0; k < ROW_AHEAD; k++) {
            uint32_t i = begin + k * CUDA_NORM_THREADS;
            float value = values[k] * factor * weights[k];
            if (i < width && y != NULL)
                y[i] = value;
            if (i < width && half != NULL)
                half[i] = bf16_round(value);
        }
    }
    for (uint32_t i = width + threadIdx.x; i < stride && half != NULL; i += CUDA_NORM_THREADS)
        half[i] = 0;
}

extern "C" __global__ void __launch_bounds__(CUDA_NORM_THREADS)
    sllora_norm(const __grid_constant__ struct cuda_norm job)
{
    SHARED(float, sums, ROW_WARPS);
    grid_begin();
    uint64_t vector = (uint64_t)job.first + blockIdx.x;
    const float *x = job.x + (job.from != NULL ? job.from[vector] : vector) * job.width;
    float factor = row_factor(x, sums, job.width, job.eps);
    write_normed(job.y != NULL ? job.y + vector * job.width : NULL,
                 job.half != NULL ? job.half + vector * job.half_stride : NULL, x, job.weight,
                 factor, job.width, job.half_stride);
}

/* A thread goes through the same values of the row each time: what it reads of x, it wrote. */
extern "C" __global__ void __launch_bounds__(CUDA_NORM_THREADS)
    sllora_residual(const __grid_constant__ struct cuda_residual job)
{
    SHARED(float, sums, 2 * ROW_WARPS);
    grid_begin();
    uint64_t r = (uint64_t)job.row + blockIdx.x;
    float *x = job.x + r * job.width, squares = 0, post_factor = 1;
    const float *y = job.y + r * job.width;
    if (job.post != NULL)
        post_factor = row_factor(y, sums, job.width, job.eps);
    float values[ROW_AHEAD], added[ROW_AHEAD], weights[ROW_AHEAD];
    for (uint32_t begin = threadIdx.x; begin < job.width; begin += ROW_STEP) {
        load_values_of_row(values, x, begin, job.width);
        load_values_of_row(added, y, begin, job.width);
        if (job.post != NULL)
            load_values_of_row(weights, job.post, begin, job.width);
#pragma unroll
        for (uint32_t k = 0; k < ROW_AHEAD; k++) {
            uint32_t i = begin + k * CUDA_NORM_THREADS;
            values[k] += job.post != NULL ? added[k] * post_factor * weights[k] : added[k];
            if (i < job.width)
                x[i] = values[k];
        }
        squares = add_squares(values, squares);
    }
    if (job.next == NULL)
        return;
    float factor = norm_factor(squares, sums + ROW_WARPS, job.width, job.eps);
    write_normed(NULL, job.half + r * job.half_stride, x, job.next, factor, job.width,
                 job.half_stride);
}

/* --- the gate --- */

#define SQRT_2_OVER_PI 0.7978845608028654f

static __device__ __forceinline__ float gated(float x, bool is_gelu)
{
    float u = is_gelu ? 2 * SQRT_2_OVER_PI * (x + 0.044715f * x * x * x) : x;
    return x / (1 + expf(-u));
}

/* The last block of a row also writes what lies beyond width. */
extern "C" __global__ void __launch_bounds__(CUDA_GATED_THREADS)
    sllora_gated(const __grid_constant__ struct cuda_gated job)
{
    grid_begin();
    uint32_t end =
        blockIdx.x + 1 < gridDim.x ? (blockIdx.x + 1) * CUDA_GATED_THREADS : job.half_stride;
    uint64_t at = (uint64_t)blockIdx.y * job.width;
    uint16_t *half = job.half + (uint64_t)blockIdx.y * job.half_stride;
    for (uint32_t i = blockIdx.x * CUDA_GATED_THREADS + threadIdx.x; i < end;
         i += CUDA_GATED_THREADS)
        half[i] =
            i < job.width ? bf16_round(gated(job.gate[at + i], job.is_gelu) * job.up[at + i]) : 0;
}
