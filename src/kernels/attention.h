/*
 * Attention over a paged KV cache: how a block lies in memory, and the kernels that write and read
 * it. One decision: positions are cut into spans at absolute places. A span gives each query its
 * largest score, its sum of weights and its weighted values; spans are joined in ascending order.
 * So a query's result does not depend on who computes which span, nor on its neighbours.
 *
 * A block holds KERNEL_KV_TOKENS positions of one KV head: keys, values, and for int8 the scales
 * [positions] of the keys, then of the values. It is made of 32-bit words of g elements (1 of f32,
 * 2 of bf16, 4 of int8), so that a vector of words serves as many positions, or as many dimensions,
 * as it has lanes:
 *   keys    [dim / g, positions, g]: g dimensions of each position; missing ones are 0
 *   values  [positions / g, dim, g]: g positions of each dimension
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum kernel_kv { KERNEL_KV_F32, KERNEL_KV_BF16, KERNEL_KV_INT8, KERNEL_KV_COUNT };

#define KERNEL_KV_TOKENS 16u
#define KERNEL_SPAN_BLOCKS 16u
#define KERNEL_SPAN_TOKENS (KERNEL_SPAN_BLOCKS * KERNEL_KV_TOKENS)

/* Elements of a word. */
static inline uint32_t kernel_kv_group(enum kernel_kv kv)
{
    return kv == KERNEL_KV_F32 ? 1 : kv == KERNEL_KV_BF16 ? 2 : 4;
}

/* Where a block's values begin, where its scales begin, and its size, a multiple of 64. */
static inline size_t kernel_kv_values_at(enum kernel_kv kv, uint32_t dim)
{
    uint32_t g = kernel_kv_group(kv);
    return (size_t)((dim + g - 1) / g) * KERNEL_KV_TOKENS * sizeof(uint32_t);
}

static inline size_t kernel_kv_scales_at(enum kernel_kv kv, uint32_t dim)
{
    return kernel_kv_values_at(kv, dim) +
           KERNEL_KV_TOKENS / kernel_kv_group(kv) * dim * sizeof(uint32_t);
}

static inline size_t kernel_kv_block_bytes(enum kernel_kv kv, uint32_t dim)
{
    size_t scales = kv == KERNEL_KV_INT8 ? 2 * KERNEL_KV_TOKENS * sizeof(float) : 0;
    return (kernel_kv_scales_at(kv, dim) + scales + 63) / 64 * 64;
}

/* Writes key and value [dim] of position `index` of a block and touches nothing of the others.
 * bf16: rounded to nearest even, a NaN stays one. int8: codes are x / scale rounded to nearest,
 * scale = the largest |x| / 127; values that are not all finite have a scale of NaN. */
typedef void kernel_kv_store(void *block, uint32_t index, const float *key, const float *value,
                             uint32_t dim);

/*
 * Rows of one sequence at successive positions, and a span of what they may see. A row at position
 * p sees the positions (p - window, p]. Of the blocks, only those that some row sees are read.
 */
struct kernel_attended {
    const void *const *blocks; /* [KERNEL_SPAN_BLOCKS] */
    uint32_t span_begin;       /* the span's first position, a multiple of KERNEL_SPAN_TOKENS */
    uint32_t position;         /* of the first row */
    uint32_t row_count;
    uint32_t window; /* UINT32_MAX: everything */
    const float *q;  /* row_count rows, q_stride floats apart: [heads, dim] */
    size_t q_stride;
    uint32_t heads; /* query heads that share the KV head */
    uint32_t dim;
    float scale;   /* of q . k */
    void *scratch; /* kernel_attend_scratch_bytes, aligned to 64 */
};

/* Of the queries [rows, heads]: sum = sum_p exp(s_p - largest) and values = sum_p exp(s_p -
 * largest) v_p. A query that sees nothing has sum = 0; its other numbers mean nothing. */
struct kernel_attention {
    float *values;  /* [queries, dim] */
    float *largest; /* [queries] */
    float *sum;     /* [queries] */
};

static inline size_t kernel_attend_scratch_bytes(uint32_t queries, uint32_t dim)
{
    size_t padded_dim = (size_t)(dim + 3) / 4 * 4;
    return (queries * (padded_dim + KERNEL_SPAN_TOKENS) * sizeof(float) + 63) / 64 * 64;
}

/* Positions of the span that row `row` sees, counted from the span's first: [begin, end), empty
 * when end is not above begin. */
static inline void kernel_seen(const struct kernel_attended *a, uint32_t row, uint32_t *ret_begin,
                               uint32_t *ret_end)
{
    uint32_t end = a->position + row + 1;
    uint32_t begin = end > a->window ? end - a->window : 0;
    *ret_begin = begin > a->span_begin ? begin - a->span_begin : 0;
    end = end > a->span_begin ? end - a->span_begin : 0;
    *ret_end = end < KERNEL_SPAN_TOKENS ? end : KERNEL_SPAN_TOKENS;
}

/* What one span gives. With products of bf16 pairs (and a cache of bf16 or int8), q and the
 * weights are rounded to bf16. */
typedef void kernel_attend(struct kernel_attention *ret, const struct kernel_attended *a);

/* Adds a later span to what the spans before it gave: [queries]. */
typedef void kernel_attend_join(struct kernel_attention *into, const struct kernel_attention *span,
                                uint32_t queries, uint32_t dim);

/* out[r][h][d] = values / sum; out_stride floats between rows. */
typedef void kernel_attend_end(float *out, size_t out_stride, const struct kernel_attention *all,
                               uint32_t rows, uint32_t heads, uint32_t dim);
