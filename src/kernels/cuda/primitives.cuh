/*
 * What the kernels take from a GPU beside plain CUDA C++: bf16, tensor cores, sums of a warp, and
 * ways to read memory. In inline PTX of sm_80, which every later GPU runs. The tests have their own
 * file of this name for the CPU (tests/cuda_emulation), so that kernels say nothing of either.
 */
#pragma once

#include <cstddef>
#include <cstdint>

#define WARP_LANES 32u
#define WARP_ALL 0xffffffffu

/* Arrays of a block, 16-byte aligned: of a size that is known here, and of the launch's. */
#define SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define DYNAMIC_SHARED(type, name)                                                                 \
    extern __shared__ uint4 dynamic_shared[];                                                      \
    type *const name = reinterpret_cast<type *>(dynamic_shared)

/* --- bf16: a pair of values is a word, the first in its low half --- */

static __device__ __forceinline__ float bf16_value(uint16_t half)
{
    return __uint_as_float((unsigned)half << 16);
}

static __device__ __forceinline__ float bf16_low(uint32_t pair)
{
    return __uint_as_float(pair << 16);
}

static __device__ __forceinline__ float bf16_high(uint32_t pair)
{
    return __uint_as_float(pair & 0xffff0000u);
}

/* Round to nearest even; a NaN becomes the one NaN 0x7fff. */
static __device__ __forceinline__ uint32_t bf16_round_pair(float low, float high)
{
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

static __device__ __forceinline__ uint16_t bf16_round(float value)
{
    uint16_t half;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(half) : "f"(value));
    return half;
}

/* a * b + c of both halves, rounded once. */
static __device__ __forceinline__ uint32_t bf16_fma_pair(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

/* --- warps --- */

/* Every lane has the sum, added up in an order of lanes that is always the same. */
static __device__ __forceinline__ float warp_sum(float value)
{
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2)
        value += __shfl_xor_sync(WARP_ALL, value, mask);
    return value;
}

static __device__ __forceinline__ float warp_max(float value)
{
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2)
        value = fmaxf(value, __shfl_xor_sync(WARP_ALL, value, mask));
    return value;
}

/*
 * d += a b on a tensor core: a [16, 16] and b [16, 8] in bf16, d [16, 8] in float. Lane 4 g + t has
 * of a the pairs of columns 2 t (words 0 and 1) and 2 t + 8 (2 and 3) in the rows g (0 and 2) and
 * g + 8 (1 and 3); of b in column g the pairs of rows 2 t (b0) and 2 t + 8 (b1); of d the columns
 * 2 t and 2 t + 1 in the rows g (d[0], d[1]) and g + 8 (d[2], d[3]).
 */
static __device__ __forceinline__ void mma_bf16(float d[4], const uint32_t a[4], uint32_t b0,
                                                uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Four matrices of [8, 8] bf16 in shared memory: lane 8 i + r brings the address of row r of the
 * i-th, 16 bytes; lane 4 g + t gets of each the columns 2 t and 2 t + 1 of row g. Transposed: the
 * rows 2 t and 2 t + 1 of column g. */
static __device__ __forceinline__ void load_matrices(uint32_t ret[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(ret[0]), "=r"(ret[1]), "=r"(ret[2]), "=r"(ret[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}

static __device__ __forceinline__ void load_matrices_transposed(uint32_t ret[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(ret[0]), "=r"(ret[1]), "=r"(ret[2]), "=r"(ret[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}

/* --- memory that no kernel writes while it is read --- */

/* What is read once in a forward pass: it leaves what is used again in the L1 cache. */
static __device__ __forceinline__ uint4 load_once(const uint4 *from)
{
    uint4 v;
    asm volatile("ld.global.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(from));
    return v;
}

static __device__ __forceinline__ uint2 load_once(const uint2 *from)
{
    uint2 v;
    asm volatile("ld.global.L1::no_allocate.L2::128B.v2.u32 {%0, %1}, [%2];"
                 : "=r"(v.x), "=r"(v.y)
                 : "l"(from));
    return v;
}

template <typename T> static __device__ __forceinline__ T load_kept(const T *from)
{
    return *from;
}

/* Asks for a line of memory that is read later; nothing waits for it. */
static __device__ __forceinline__ void fetch_ahead(const void *line)
{
    asm volatile("prefetch.global.L2 [%0];" : : "l"(line));
}

/*
 * From sm_90 on a grid begins while the one before it in the stream ends. grid_release: the next
 * one may, as soon as every block of this one is at work or done. grid_wait: until the one before
 * has ended and what it wrote can be read; so no load of that may be of the read-only kind. Every
 * thread of every kernel waits once, or its end would say nothing of the grids before it.
 */
static __device__ __forceinline__ void grid_release()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

static __device__ __forceinline__ void grid_wait()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* Of a kernel that has nothing to do before. */
static __device__ __forceinline__ void grid_begin()
{
    grid_release();
    grid_wait();
}

/* Asks for 16 aligned bytes in shared memory, zeros where nothing is there (`from` is then not
 * read, but must be an address of the device). They are there for this thread after the wait, for
 * the others after a barrier behind it. */
static __device__ __forceinline__ void copy_16(void *to_shared, const void *from, bool is_there)
{
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
                 :
                 : "r"((uint32_t)__cvta_generic_to_shared(to_shared)), "l"(from),
                   "r"(is_there ? 16 : 0)
                 : "memory");
}

/* Ends a group of copies. */
static __device__ __forceinline__ void copy_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Until all groups but the last `groups_left` have arrived. */
template <int groups_left> static __device__ __forceinline__ void copy_wait()
{
    asm volatile("cp.async.wait_group %0;" : : "n"(groups_left) : "memory");
}
