/*
 * How tensor cores read the weights of linears. A warp multiplies a panel (32 outputs) by a chunk
 * (64 columns) at a time: the weights are the operand a of mma_bf16, the rows of x are b. Which
 * output is which row of a, and which columns are which pair, is free as long as x agrees, and is
 * chosen so that lanes read 16 bytes each and a warp whole lines:
 *
 *   lane 4 g + t has the outputs 4 g .. 4 g + 3 and, of each half of a chunk, the columns 8 t ..
 *   8 t + 7: four words in a row of the panel, of bf16 4 rows of words, of int8 2, of int4 one.
 *
 * Of these, step s of a chunk (0 to 3) multiplies the columns 32 (s / 2) + 8 t + 4 (s % 2) + 0..3;
 * two products of 16 outputs each, the m-th of the outputs 4 g + 2 m and 4 g + 2 m + 1.
 *
 * The order of a sum: chunk c belongs to slice c % SLICES. A slice adds up its chunks in rising
 * order, and in each its steps; of quantised weights every chunk is summed by itself, and added
 * times its scale. Then the slices are added up in rising order, and the bias at last.
 */
#pragma once

#include "kernels/cuda/cuda.h"
#include "kernels/kernels.h"
#include <primitives.cuh>

#define CHUNK_COLS 64u
#define CHUNK_STEPS 4u
#define SLICES 8u
#define PANEL_OUTS 32u
#define LINE_BYTES 128u /* a word of each output of a panel */

/* A chunk of a panel, for each kind of weight: `LINES` rows of words behind its scales. */
template <int dtype> struct kind {
    static constexpr bool IS_QUANTISED = dtype != KERNEL_PANELS;
    static constexpr uint32_t LINES = dtype == KERNEL_PANELS ? 32 : dtype == KERNEL_INT8 ? 16 : 8;
    static constexpr uint32_t SCALE_BYTES = IS_QUANTISED ? PANEL_OUTS * 2 : 0;
    static constexpr uint32_t BYTES = SCALE_BYTES + LINES * LINE_BYTES;
    static constexpr uint32_t VECTORS = LINES / 4; /* of a lane: lines it reads */
    static constexpr uint32_t HALF = VECTORS / 2;  /* of these, for each half of the columns */

    /* The line that vector i of a lane is in. */
    static __device__ __forceinline__ uint32_t line(uint32_t i, uint32_t t)
    {
        return i / HALF * (LINES / 2) + t * HALF + i % HALF;
    }
};

/* What a lane has of a chunk of a panel. */
template <int dtype> struct chunk {
    uint4 vectors[kind<dtype>::VECTORS];
    uint2 scales; /* of its four outputs, in bf16; of quantised weights */
};

static __device__ __forceinline__ uint32_t chunks_of(const struct cuda_weight *w)
{
    return (w->cols + CHUNK_COLS - 1) / CHUNK_COLS;
}

/* Lines of a panel of bf16, whose last chunk may end early; of others a chunk is always whole. */
template <int dtype>
static __device__ __forceinline__ uint32_t lines_of(const struct cuda_weight *w)
{
    return kind<dtype>::IS_QUANTISED ? UINT32_MAX : (w->cols + 1) / 2;
}

template <int dtype>
static __device__ __forceinline__ const uint8_t *panel_at(const struct cuda_weight *w,
                                                          uint32_t panel)
{
    const uint64_t bytes = kind<dtype>::IS_QUANTISED ? (uint64_t)chunks_of(w) * kind<dtype>::BYTES
                                                     : (uint64_t)((w->cols + 1) / 2) * LINE_BYTES;
    return static_cast<const uint8_t *>(w->data) + panel * bytes;
}

/* Two bytes of a word, less 128, as bf16: 128 + the low seven bits, less 256 or, where the eighth
 * bit is set, less 128. Every step is exact. */
static __device__ __forceinline__ uint32_t int8_pair(uint32_t word, uint32_t selector)
{
    const uint32_t bytes = __byte_perm(word, 0, selector);
    return bf16_fma_pair((bytes & 0x007f007f) | 0x43004300, 0x3f803f80,
                         (bytes & 0x00800080) ^ 0xc380c380);
}

/* Likewise of half bytes, less 8: 128 + code, less 136. */
static __device__ __forceinline__ uint32_t int4_pair(uint32_t word, uint32_t selector,
                                                     uint32_t shift)
{
    const uint32_t bytes = __byte_perm(word >> shift, 0, selector);
    return bf16_fma_pair((bytes & 0x000f000f) | 0x43004300, 0x3f803f80, 0xc308c308);
}

#define FIRST_PAIR 0x4140 /* for __byte_perm: bytes 0 and 1, a zero behind each */
#define SECOND_PAIR 0x4342

/* The weights of one step as operands: of codes, what they are less their offset. */
template <int dtype>
static __device__ __forceinline__ void operands(uint32_t a[2][4], const chunk<dtype> &c,
                                                uint32_t step)
{
    if constexpr (dtype == KERNEL_PANELS) {
        const uint4 first = c.vectors[2 * step], second = c.vectors[2 * step + 1];
        const uint32_t all[8] = {first.x, first.y, second.x, second.y,
                                 first.z, first.w, second.z, second.w};
#pragma unroll
        for (uint32_t i = 0; i < 8; i++)
            a[i / 4][i % 4] = all[i];
    } else {
        const uint4 v = c.vectors[step * kind<dtype>::HALF / 2];
        const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (uint32_t i = 0; i < 8; i++) {
            const uint32_t selector = i % 2 == 0 ? FIRST_PAIR : SECOND_PAIR;
            a[i / 4][i % 2 * 2 + i / 2 % 2] = dtype == KERNEL_INT8
                                                  ? int8_pair(words[i / 2], selector)
                                                  : int4_pair(words[i / 2], selector, step % 2 * 4);
        }
    }
}

/* sums += the weights of a chunk times 8 rows of x; x[half]: this lane's 8 columns of row g.
 * sums[m][2 h + e] is of output 4 g + 2 m + h and row 2 t + e. */
template <int dtype>
static __device__ __forceinline__ void multiply(float sums[2][4],
                                                const uint32_t a[CHUNK_STEPS][2][4],
                                                const uint2 scales, const uint4 x[2])
{
    float own[2][4] = {};
    float(*to)[4] = kind<dtype>::IS_QUANTISED ? own : sums;
#pragma unroll
    for (uint32_t step = 0; step < CHUNK_STEPS; step++) {
        const uint4 v = x[step / 2];
#pragma unroll
        for (uint32_t m = 0; m < 2; m++)
            mma_bf16(to[m], a[step][m], step % 2 == 0 ? v.x : v.z, step % 2 == 0 ? v.y : v.w);
    }
    if constexpr (kind<dtype>::IS_QUANTISED) {
#pragma unroll
        for (uint32_t i = 0; i < 8; i++) {
            const uint32_t pair = i / 4 == 0 ? scales.x : scales.y;
            const float scale = i % 4 < 2 ? bf16_low(pair) : bf16_high(pair);
            sums[i / 4][i % 4] = __fmaf_rn(scale, own[i / 4][i % 4], sums[i / 4][i % 4]);
        }
    }
}

/* Which linear of a job a block works on, and its place among that one's blocks of `outs` outputs.
 */
struct linear_place {
    uint32_t linear, block;
};

static __device__ __forceinline__ struct linear_place place_of(const struct cuda_linears &job,
                                                               uint32_t outs)
{
    struct linear_place p = {0, blockIdx.x};
    for (; p.linear + 1 < job.count; p.linear++) {
        const uint32_t blocks = (job.linears[p.linear].w.rows + outs - 1) / outs;
        if (p.block < blocks)
            break;
        p.block -= blocks;
    }
    return p;
}
