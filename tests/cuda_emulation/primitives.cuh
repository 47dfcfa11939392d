/*
 * The emulation's side of src/kernels/cuda/primitives.cuh: the same functions, told what they do
 * there. Found in its place by the order of the include paths.
 */
#pragma once

#include "emulation.h"

#define WARP_LANES 32u
#define WARP_ALL 0xffffffffu

/* --- bf16 --- */

static inline float bf16_value(uint16_t half)
{
    return __uint_as_float((unsigned)half << 16);
}

static inline float bf16_low(uint32_t pair)
{
    return __uint_as_float(pair << 16);
}

static inline float bf16_high(uint32_t pair)
{
    return __uint_as_float(pair & 0xffff0000u);
}

static inline uint16_t bf16_round(float value)
{
    const uint32_t bits = __float_as_uint(value);
    if (value != value)
        return 0x7fff;
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline uint32_t bf16_round_pair(float low, float high)
{
    return (uint32_t)bf16_round(high) << 16 | bf16_round(low);
}

static inline uint32_t bf16_fma_pair(uint32_t a, uint32_t b, uint32_t c)
{
    return bf16_round_pair(fmaf(bf16_low(a), bf16_low(b), bf16_low(c)),
                           fmaf(bf16_high(a), bf16_high(b), bf16_high(c)));
}

/* --- warps --- */

static inline float warp_sum(float value)
{
    for (int mask = 16; mask > 0; mask /= 2)
        value += __shfl_xor_sync(WARP_ALL, value, mask);
    return value;
}

static inline float warp_max(float value)
{
    for (int mask = 16; mask > 0; mask /= 2)
        value = fmaxf(value, __shfl_xor_sync(WARP_ALL, value, mask));
    return value;
}

/* Slots: a, b and d of each lane, as the PTX ISA deals out the fragments of m16n8k16. */
static inline void emulation_mma(uint32_t (*all)[emulation::SLOT_WORDS])
{
    typedef float four __attribute__((vector_size(16)));
    float a[16][16];
    union {
        float at[8];
        four halves[2];
    } b[16], d[16];
    for (unsigned lane = 0; lane < 32; lane++) {
        const unsigned g = lane / 4, t = lane % 4;
#pragma GCC unroll 4
        for (unsigned i = 0; i < 4; i++) {
            a[g + i % 2 * 8][2 * t + i / 2 * 8] = bf16_low(all[lane][i]);
            a[g + i % 2 * 8][2 * t + i / 2 * 8 + 1] = bf16_high(all[lane][i]);
            d[g + i / 2 * 8].at[2 * t + i % 2] = __uint_as_float(all[lane][6 + i]);
        }
#pragma GCC unroll 2
        for (unsigned i = 0; i < 2; i++) {
            b[2 * t + i * 8].at[g] = bf16_low(all[lane][4 + i]);
            b[2 * t + i * 8 + 1].at[g] = bf16_high(all[lane][4 + i]);
        }
    }
    for (unsigned m = 0; m < 16; m++) {
        four low = d[m].halves[0], high = d[m].halves[1];
        for (unsigned k = 0; k < 16; k++) {
            low += a[m][k] * b[k].halves[0];
            high += a[m][k] * b[k].halves[1];
        }
        d[m].halves[0] = low;
        d[m].halves[1] = high;
    }
    for (unsigned lane = 0; lane < 32; lane++)
#pragma GCC unroll 4
        for (unsigned i = 0; i < 4; i++)
            all[lane][6 + i] = __float_as_uint(d[lane / 4 + i / 2 * 8].at[2 * (lane % 4) + i % 2]);
}

static inline void mma_bf16(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    uint32_t *mine = emulation::slot();
    memcpy(mine, a, 16);
    mine[4] = b0;
    mine[5] = b1;
    memcpy(mine + 6, d, 16);
    emulation::together("mma_bf16", emulation_mma);
    memcpy(d, mine + 6, 16);
}

/* Lane 8 i + r brings the address of row r of matrix i; every lane takes its pair of each. */
static inline void emulation_load_matrices(uint32_t ret[4], const void *row, bool is_transposed)
{
    const unsigned lane = emulation::current_lane;
    memcpy(emulation::slot(), &row, sizeof row);
    const auto all = emulation::together("load_matrices", [](auto) {});
    for (unsigned i = 0; i < 4; i++) {
        uint16_t pair[2];
        for (unsigned j = 0; j < 2; j++) {
            const unsigned at = 2 * (lane % 4) + j;
            const uint16_t *from;
            memcpy(&from, all[8 * i + (is_transposed ? at : lane / 4)], sizeof from);
            pair[j] = from[is_transposed ? lane / 4 : at];
        }
        ret[i] = (uint32_t)pair[1] << 16 | pair[0];
    }
}

static inline void load_matrices(uint32_t ret[4], const void *row)
{
    emulation_load_matrices(ret, row, false);
}

static inline void load_matrices_transposed(uint32_t ret[4], const void *row)
{
    emulation_load_matrices(ret, row, true);
}

/* --- memory --- */

template <typename T> static inline T emulation_load(const T *from)
{
    if ((uintptr_t)from % sizeof(T) != 0)
        emulation::fail("a load that is not aligned");
    return *from;
}

template <typename T> static inline T load_once(const T *from)
{
    return emulation_load(from);
}

template <typename T> static inline T load_kept(const T *from)
{
    return emulation_load(from);
}

/* Touches nothing, on a GPU neither where nothing is. */
static inline void fetch_ahead(const void *line)
{
    (void)line;
}

/* One grid after the other. */
static inline void grid_release()
{
}

static inline void grid_wait()
{
}

static inline void grid_begin()
{
}

static inline void copy_16(void *to_shared, const void *from, bool is_there)
{
    emulation::copy_ask(to_shared, is_there ? from : nullptr);
}

static inline void copy_commit()
{
    emulation::fibers[emulation::current_warp * 32 + emulation::current_lane].group++;
}

template <int groups_left> static inline void copy_wait()
{
    emulation::copy_wait(groups_left);
}
