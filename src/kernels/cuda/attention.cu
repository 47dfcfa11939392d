/*
 * Attention over the paged KV cache. One decision: the words of a block of the cache are what a
 * tensor core takes, so keys and values go from memory straight into registers; only the queries
 * and the weights, which all warps need, lie in shared memory.
 *
 * A block of threads has up to 16 queries (rows x heads that share a KV head). Of a span, warp w
 * scores the KV blocks w, w + 4, ...; then all warps mix all values, each its own dimensions, so
 * that no sums of values have to be joined. A lane is (g, t) = (lane / 4, lane % 4) as in the
 * fragments of mma.m16n8k16: it has the queries g and g + 8. Columns of a fragment are dealt out so
 * that a lane's loads are wide: of keys, column c of tile i is position 2c + i of its block, so
 * that a lane ends up with the scores of positions 4t to 4t + 3; of values, column c of tile i is
 * dimension 2c + i of its 16.
 */
#include "kernels/cuda/cuda.h"
#include "kernels/kernels.h"

#include <primitives.cuh>

#define KV_TOKENS KERNEL_KV_TOKENS
#define SPAN_BLOCKS KERNEL_SPAN_BLOCKS
#define ATTEND_WARPS (CUDA_ATTEND_THREADS / 32)
#define SLOTS (SPAN_BLOCKS / ATTEND_WARPS) /* KV blocks of a span that one warp scores */
#define DIM_STEPS_MAX (CUDA_HEAD_DIM_MAX / 16)
#define LOG2_E 1.4426950408889634f

static_assert(CUDA_SPAN_TOKENS == KERNEL_SPAN_TOKENS, "spans of the cache's layout");

static __device__ __forceinline__ uint8_t *kv_head_of(const struct cuda_kv &kv, uint32_t block,
                                                      uint32_t head)
{
    return kv.base + block * kv.block_bytes +
           ((uint64_t)kv.layer * kv.kv_heads + head) * kv.head_bytes;
}

/* --- writing the cache --- */

#define ROPE_AHEAD 8u /* pairs that a thread has under way */

/* Queries in place. Pairs are asked for before one is written, which a compiler would not do. */
static __device__ __forceinline__ void rotate_queries(float *q, const float *cos, const float *sin,
                                                      uint32_t heads, uint32_t dim, uint32_t half)
{
    for (uint32_t begin = threadIdx.x; begin < heads * half;
         begin += ROPE_AHEAD * CUDA_ROPE_THREADS) {
        float low[ROPE_AHEAD], high[ROPE_AHEAD];
#pragma unroll
        for (uint32_t k = 0; k < ROPE_AHEAD; k++) {
            uint32_t i = begin + k * CUDA_ROPE_THREADS, at = i / half * dim + i % half;
            if (i < heads * half) {
                low[k] = q[at];
                high[k] = q[at + half];
            }
        }
#pragma unroll
        for (uint32_t k = 0; k < ROPE_AHEAD; k++) {
            uint32_t i = begin + k * CUDA_ROPE_THREADS, at = i / half * dim + i % half;
            if (i < heads * half) {
                float c = load_kept(&cos[i % half]), s = load_kept(&sin[i % half]);
                q[at] = fmaf(low[k], c, -(high[k] * s));
                q[at + half] = fmaf(high[k], c, low[k] * s);
            }
        }
    }
}

/* Value d of a head, rotated. */
static __device__ __forceinline__ float rotated(const float *x, const float *cos, const float *sin,
                                                uint32_t d, uint32_t half)
{
    float value = load_kept(&x[d]);
    if (d >= 2 * half)
        return value;
    float c = load_kept(&cos[d % half]), s = load_kept(&sin[d % half]);
    return d < half ? fmaf(value, c, -(load_kept(&x[d + half]) * s))
                    : fmaf(value, c, load_kept(&x[d - half]) * s);
}

extern "C" __global__ void __launch_bounds__(CUDA_ROPE_THREADS)
    sllora_rope_store(const __grid_constant__ struct cuda_rope_store job)
{
    grid_begin();
    uint32_t half = job.rotary_dim / 2, dim = job.kv.dim, words = dim / 2;
    uint64_t r = blockIdx.x;
    const float *cos = job.cos + r * half, *sin = job.sin + r * half;
    const float *k = job.k + r * job.kv.kv_heads * dim, *v = job.v + r * job.kv.kv_heads * dim;
    struct cuda_row row = job.rows[r];
    uint32_t index = row.position % KV_TOKENS;
    uint32_t block = job.kv.blocks[row.blocks + row.position / KV_TOKENS];
    rotate_queries(job.q + r * job.heads * dim, cos, sin, job.heads, dim, half);
#pragma unroll 4
    for (uint32_t i = threadIdx.x; i < job.kv.kv_heads * words; i += CUDA_ROPE_THREADS) {
        uint32_t head = i / words, w = i % words;
        uint32_t *keys = (uint32_t *)kv_head_of(job.kv, block, head);
        uint16_t *values = (uint16_t *)(keys + words * KV_TOKENS + index / 2 * dim) + index % 2;
        const float *key = k + head * dim, *value = v + head * dim;
        keys[w * KV_TOKENS + index] = bf16_round_pair(rotated(key, cos, sin, 2 * w, half),
                                                      rotated(key, cos, sin, 2 * w + 1, half));
        values[4 * w] = bf16_round(load_kept(&value[2 * w]));
        values[4 * w + 2] = bf16_round(load_kept(&value[2 * w + 1]));
    }
}

/* --- what is attended to --- */

/* A tile in one KV head. Positions are absolute. */
struct attended {
    uint32_t row, query_count, group; /* query heads that share the KV head */
    uint32_t position;                /* of the first row */
    uint32_t begin, end;              /* what some row sees */
    uint32_t first_span, span_count;
    uint32_t blocks; /* in the table */
};

static __device__ __forceinline__ struct attended attended_of(const struct cuda_attend &job)
{
    struct cuda_tile tile = job.tiles[blockIdx.x];
    struct cuda_row row = job.rows[tile.row];
    struct attended a;
    a.row = tile.row;
    a.group = job.heads / job.kv.kv_heads;
    a.query_count = tile.row_count * a.group;
    a.position = row.position;
    a.begin = row.position + 1 > job.window ? row.position + 1 - job.window : 0;
    a.end = row.position + tile.row_count;
    a.first_span = a.begin / CUDA_SPAN_TOKENS;
    a.span_count = (a.end - 1) / CUDA_SPAN_TOKENS - a.first_span + 1;
    a.blocks = row.blocks;
    return a;
}

/* Where in `spans` a query's numbers begin: dim values, the largest, the sum. */
static __device__ __forceinline__ float *span_at(const struct cuda_attend &job, uint32_t split,
                                                 uint32_t query)
{
    uint64_t pair = (uint64_t)blockIdx.x * job.kv.kv_heads + blockIdx.y;
    uint32_t queries = CUDA_SPAN_QUERIES(job.heads / job.kv.kv_heads);
    return job.spans + ((pair * job.splits + split) * queries + query) * (job.kv.dim + 2);
}

/* Where a query's values go. */
static __device__ __forceinline__ uint16_t *half_at(const struct cuda_attend &job,
                                                    const struct attended &a, uint32_t query)
{
    uint64_t row = a.row + query / a.group;
    return job.half + row * job.half_stride + (blockIdx.y * a.group + query % a.group) * job.kv.dim;
}

/* What lies beyond the heads of the tile's rows, by the blocks of the first KV head. */
static __device__ __forceinline__ void zero_rest_of_rows(const struct cuda_attend &job,
                                                         const struct attended &a)
{
    uint32_t width = job.heads * job.kv.dim;
    if (blockIdx.y != 0)
        return;
    for (uint32_t r = 0; r < a.query_count / a.group; r++)
        for (uint32_t i = width + threadIdx.x; i < job.half_stride; i += CUDA_ATTEND_THREADS)
            job.half[(uint64_t)(a.row + r) * job.half_stride + i] = 0;
}

/* --- joining spans --- */

/* How a later span joins what was: values = values * old + those of the span * fresh. */
struct join {
    float old, fresh;
};

/* A sum of 0: nothing was seen. Without branches, so that loads can go ahead. */
static __device__ __forceinline__ struct join join_stats(float *largest, float *sum,
                                                         float span_largest, float span_sum)
{
    float most = *sum == 0       ? span_largest
                 : span_sum == 0 ? *largest
                                 : fmaxf(*largest, span_largest);
    struct join by;
    by.old = *sum == 0 ? 0 : exp2f((*largest - most) * LOG2_E);
    by.fresh = span_sum == 0 ? 0 : exp2f((span_largest - most) * LOG2_E);
    *largest = most;
    *sum = fmaf(*sum, by.old, span_sum * by.fresh);
    return by;
}

static __device__ __forceinline__ float join_value(struct join by, float value, float span_value)
{
    return fmaf(value, by.old, span_value * by.fresh);
}

/* --- one span --- */

struct attend_shared {
    uint4 q[DIM_STEPS_MAX][32];     /* fragments: 16 queries x 16 dimensions */
    uint4 weights[SPAN_BLOCKS][32]; /* fragments: 16 queries x 16 positions */
    float largest[ATTEND_WARPS][CUDA_TILE_QUERIES], sum[ATTEND_WARPS][CUDA_TILE_QUERIES];
};

/* Of a span, what this lane needs to know. Positions count from the span's first. */
struct span {
    uint32_t begin, end;                   /* what some row sees */
    uint32_t query_begin[2], query_end[2]; /* what the queries g and g + 8 see */
    uint32_t id;                           /* lane b has the id of block b of the span */
};

static __device__ __forceinline__ uint32_t in_span(uint32_t position, uint32_t first)
{
    uint32_t p = position > first ? position - first : 0;
    return p < CUDA_SPAN_TOKENS ? p : CUDA_SPAN_TOKENS;
}

/* Lane b has the id of block b of a span of the tile, where some row sees it. */
static __device__ __forceinline__ uint32_t block_id_of(const struct cuda_attend &job,
                                                       const struct attended &a, uint32_t index)
{
    uint32_t block = index * SPAN_BLOCKS + threadIdx.x % 32;
    bool is_seen = threadIdx.x % 32 < SPAN_BLOCKS && block * KV_TOKENS < a.end &&
                   (block + 1) * KV_TOKENS > a.begin;
    return is_seen ? load_kept(&job.kv.blocks[a.blocks + block]) : 0;
}

static __device__ __forceinline__ struct span span_of(const struct cuda_attend &job,
                                                      const struct attended &a, uint32_t index,
                                                      uint32_t first_query, uint32_t id)
{
    uint32_t first = index * CUDA_SPAN_TOKENS;
    struct span s = {};
    s.begin = in_span(a.begin, first);
    s.end = in_span(a.end, first);
    s.id = id;
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t query = first_query + threadIdx.x % 32 / 4 + 8 * i;
        uint32_t end = query < a.query_count ? a.position + query / a.group + 1 : 0;
        s.query_begin[i] = in_span(end > job.window ? end - job.window : 0, first);
        s.query_end[i] = in_span(end, first);
    }
    return s;
}

static __device__ __forceinline__ bool sees_block(const struct span &s, uint32_t block)
{
    return block * KV_TOKENS < s.end && (block + 1) * KV_TOKENS > s.begin;
}

static __device__ __forceinline__ void multiply(float (&sums)[4], uint4 a, uint32_t b0, uint32_t b1)
{
    const uint32_t words[4] = {a.x, a.y, a.z, a.w};
    mma_bf16(sums, words, b0, b1);
}

/* Keys of dimensions [16 step, 16 (step + COUNT)): rows t and t + 4 of each 8 of words. */
template <uint32_t COUNT>
static __device__ __forceinline__ void load_keys(uint2 (&ret)[COUNT][2], const uint8_t *head,
                                                 uint32_t step, uint32_t dim)
{
    uint32_t g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const uint2 *pairs = (const uint2 *)head; /* of positions */
#pragma unroll
    for (uint32_t i = 0; i < COUNT; i++) {
        uint32_t row = (step + i) * 8 + t;
        ret[i][0] = row < dim / 2 ? load_once(&pairs[row * 8 + g]) : make_uint2(0, 0);
        row += 4;
        ret[i][1] = row < dim / 2 ? load_once(&pairs[row * 8 + g]) : make_uint2(0, 0);
    }
}

template <uint32_t COUNT>
static __device__ __forceinline__ void score(float (&scores)[2][4], const uint2 (&keys)[COUNT][2],
                                             const uint4 (*q)[32])
{
#pragma unroll
    for (uint32_t i = 0; i < COUNT; i++) {
        uint4 a = q[i][threadIdx.x % 32];
        multiply(scores[0], a, keys[i][0].x, keys[i][1].x);
        multiply(scores[1], a, keys[i][0].y, keys[i][1].y);
    }
}

/* q . k of this warp's KV blocks. The keys of a block, or of 64 of its dimensions where they are
 * many, are under way while the ones before them are multiplied. */
template <uint32_t STEPS>
static __device__ __forceinline__ void score_blocks(float (&scores)[SLOTS][2][4],
                                                    const struct attend_shared &shared,
                                                    const struct cuda_attend &job,
                                                    const struct span &s)
{
    const uint32_t COUNT = STEPS <= 8 ? STEPS : 4, PARTS = STEPS / COUNT, STAGES = SLOTS * PARTS;
    uint32_t warp = threadIdx.x / 32;
    uint2 keys[2][COUNT][2] = {}; /* or registers would keep those of the span before */
#pragma unroll
    for (uint32_t next = 0; next <= STAGES; next++) {
        uint32_t block = warp + next / PARTS * ATTEND_WARPS;
        if (next < STAGES && sees_block(s, block)) {
            uint32_t id = __shfl_sync(WARP_ALL, s.id, block);
            load_keys<COUNT>(keys[next % 2], kv_head_of(job.kv, id, blockIdx.y),
                             next % PARTS * COUNT, job.kv.dim);
        }
        const uint32_t stage = next - 1, slot = stage / PARTS;
        if (next > 0 && sees_block(s, warp + slot * ATTEND_WARPS))
            score<COUNT>(scores[slot], keys[stage % 2], shared.q + stage % PARTS * COUNT);
    }
}

/* Scales the scores, and hides those that a query does not see; of both queries the largest. */
static __device__ __forceinline__ void mask_scores(float (&scores)[SLOTS][2][4],
                                                   float (&largest)[2], const struct span &s,
                                                   float scale)
{
    uint32_t first = threadIdx.x / 32 * KV_TOKENS + threadIdx.x % 4 * 4;
    largest[0] = largest[1] = -INFINITY;
#pragma unroll
    for (uint32_t i = 0; i < SLOTS * 8; i++) {
        const uint32_t slot = i / 8, tile = i / 4 % 2, c = i % 4;
        uint32_t p = first + slot * ATTEND_WARPS * KV_TOKENS + c % 2 * 2 + tile;
        bool is_seen = p >= s.query_begin[c / 2] && p < s.query_end[c / 2];
        float value = is_seen ? scores[slot][tile][c] * scale : -INFINITY;
        scores[slot][tile][c] = value;
        largest[c / 2] = fmaxf(largest[c / 2], value);
    }
    for (uint32_t i = 0; i < 2; i++) {
        largest[i] = fmaxf(largest[i], __shfl_xor_sync(WARP_ALL, largest[i], 1));
        largest[i] = fmaxf(largest[i], __shfl_xor_sync(WARP_ALL, largest[i], 2));
    }
}

/* Writes the weights of this warp's blocks, and their sums. */
static __device__ __forceinline__ void weigh(struct attend_shared &shared,
                                             float (&scores)[SLOTS][2][4],
                                             const float (&largest)[2])
{
    uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4;
    float sum[2] = {0, 0}, from[2];
    for (uint32_t i = 0; i < 2; i++)
        from[i] = largest[i] == -INFINITY ? 0 : largest[i]; /* a query that sees nothing */
#pragma unroll
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        float(&w)[2][4] = scores[slot];
#pragma unroll
        for (uint32_t i = 0; i < 8; i++) {
            float &weight = w[i % 2][i / 2];
            weight = exp2f((weight - from[i / 4]) * LOG2_E);
            sum[i / 4] += weight;
        }
        shared.weights[slot * ATTEND_WARPS + warp][lane] =
            make_uint4(bf16_round_pair(w[0][0], w[1][0]), bf16_round_pair(w[0][2], w[1][2]),
                       bf16_round_pair(w[0][1], w[1][1]), bf16_round_pair(w[0][3], w[1][3]));
    }
    for (uint32_t i = 0; i < 2; i++) {
        sum[i] += __shfl_xor_sync(WARP_ALL, sum[i], 1);
        sum[i] += __shfl_xor_sync(WARP_ALL, sum[i], 2);
        if (lane % 4 == 0)
            shared.sum[warp][g + 8 * i] = sum[i];
    }
}

/* The values of COUNT KV blocks from `block` on, in the units of 16 dimensions of this warp:
 * positions 4t and 4t + 1 of each, 4t + 2 and 4t + 3. */
template <uint32_t UNITS, uint32_t COUNT>
static __device__ __forceinline__ void load_values(uint2 (&ret)[COUNT][UNITS][2],
                                                   const struct cuda_attend &job,
                                                   const struct span &s, uint32_t block)
{
    uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, dim = job.kv.dim;
#pragma unroll
    for (uint32_t i = 0; i < COUNT; i++) {
        if (!sees_block(s, block + i))
            continue;
        uint32_t id = __shfl_sync(WARP_ALL, s.id, block + i);
        const uint32_t *words = (const uint32_t *)kv_head_of(job.kv, id, blockIdx.y) +
                                (KV_TOKENS / 2 + lane % 4 * 2) * dim;
#pragma unroll
        for (uint32_t u = 0; u < UNITS; u++) {
            uint32_t d = (u * ATTEND_WARPS + warp) * 16 + lane / 4 * 2;
            ret[i][u][0] = ret[i][u][1] = make_uint2(0, 0);
            if (d < dim) {
                ret[i][u][0] = load_once((const uint2 *)(words + d));
                ret[i][u][1] = load_once((const uint2 *)(words + dim + d));
            }
        }
    }
}

/* Of the pair of positions from p on, the bits that stand for something: what is not seen may be
 * anything, and 0 times anything is not always 0. */
static __device__ __forceinline__ uint32_t seen_bits(const struct span &s, uint32_t p)
{
    return (p >= s.begin && p < s.end ? 0x0000ffff : 0) |
           (p + 1 >= s.begin && p + 1 < s.end ? 0xffff0000 : 0);
}

/* Adds weights times values. */
template <uint32_t UNITS, uint32_t COUNT>
static __device__ __forceinline__ void mix(float (&sums)[UNITS][2][4],
                                           const uint2 (&values)[COUNT][UNITS][2],
                                           const struct attend_shared &shared, const struct span &s,
                                           uint32_t block)
{
    uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (uint32_t i = 0; i < COUNT; i++) {
        if (!sees_block(s, block + i))
            continue;
        uint32_t p = (block + i) * KV_TOKENS + lane % 4 * 4;
        uint32_t low = seen_bits(s, p), high = seen_bits(s, p + 2);
        uint4 a = shared.weights[block + i][lane];
#pragma unroll
        for (uint32_t u = 0; u < UNITS; u++) {
            const uint2(&v)[2] = values[i][u];
            multiply(sums[u][0], a, v[0].x & low, v[1].x & high);
            multiply(sums[u][1], a, v[0].y & low, v[1].y & high);
        }
    }
}

/* The queries' numbers in this lane: of g and of g + 8, dimensions 4t to 4t + 3 of each unit. */
template <uint32_t UNITS> struct mixed {
    float values[UNITS][2][4]; /* in the order of the fragments */
    float largest[2], sum[2];
};

/* All warps have read what the span before left in shared memory when they pass the first barrier,
 * but for the largest, which nobody needs after the second. */
template <uint32_t STEPS, uint32_t UNITS>
static __device__ __forceinline__ void attend_span(struct mixed<UNITS> &ret,
                                                   struct attend_shared &shared,
                                                   const struct cuda_attend &job,
                                                   const struct span &s)
{
    const uint32_t COUNT = UNITS == 4 ? 1 : 8 / UNITS; /* KV blocks that are loaded together */
    uint32_t warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4;
    uint32_t block = s.begin / KV_TOKENS / COUNT * COUNT;
    float scores[SLOTS][2][4] = {}, largest[2];
    uint2 values[2][COUNT][UNITS][2] = {};
    score_blocks<STEPS>(scores, shared, job, s);
    load_values<UNITS, COUNT>(values[0], job, s, block);
    mask_scores(scores, largest, s, job.scale);
    if (threadIdx.x % 4 == 0)
        for (uint32_t i = 0; i < 2; i++)
            shared.largest[warp][g + 8 * i] = largest[i];
    __syncthreads();
    for (uint32_t i = 0; i < 2; i++) {
        for (uint32_t w = 0; w < ATTEND_WARPS; w++)
            largest[i] = fmaxf(largest[i], shared.largest[w][g + 8 * i]);
        ret.largest[i] = largest[i];
    }
    weigh(shared, scores, largest);
    __syncthreads();
    for (uint32_t i = 0; i < 2; i++) {
        ret.sum[i] = 0;
        for (uint32_t w = 0; w < ATTEND_WARPS; w++)
            ret.sum[i] += shared.sum[w][g + 8 * i];
    }
    for (uint32_t i = 0; i < UNITS * 8; i++)
        ret.values[i / 8][i / 4 % 2][i % 4] = 0;
    for (; block * KV_TOKENS < s.end; block += 2 * COUNT) {
        load_values<UNITS, COUNT>(values[1], job, s, block + COUNT);
        mix<UNITS, COUNT>(ret.values, values[0], shared, s, block);
        load_values<UNITS, COUNT>(values[0], job, s, block + 2 * COUNT);
        mix<UNITS, COUNT>(ret.values, values[1], shared, s, block + COUNT);
    }
}

/* --- all spans --- */

/* Rounds the chunk's queries to bf16 and lays them out as fragments; what there is not is 0. */
template <uint32_t STEPS>
static __device__ __forceinline__ void load_queries(struct attend_shared &shared,
                                                    const struct cuda_attend &job,
                                                    const struct attended &a, uint32_t first_query)
{
    const uint32_t WORDS = STEPS * 8;
#pragma unroll 4
    for (uint32_t i = threadIdx.x; i < CUDA_TILE_QUERIES * WORDS; i += CUDA_ATTEND_THREADS) {
        uint32_t m = i / WORDS, w = i % WORDS, query = first_query + m, word = 0;
        if (query < a.query_count && 2 * w < job.kv.dim) {
            uint64_t row = a.row + query / a.group, head = blockIdx.y * a.group + query % a.group;
            const float *q = job.q + (row * job.heads + head) * job.kv.dim + 2 * w;
            float2 pair = load_kept((const float2 *)q);
            word = bf16_round_pair(pair.x, pair.y);
        }
        uint32_t *fragment = (uint32_t *)&shared.q[w / 8][m % 8 * 4 + w % 4];
        fragment[m / 8 + w % 8 / 4 * 2] = word;
    }
}

/* Value k of the 4 that a lane has of a unit for query g + 8 q. */
template <uint32_t UNITS>
static __device__ __forceinline__ float &value_at(struct mixed<UNITS> &m, uint32_t u, uint32_t q,
                                                  uint32_t k)
{
    return m.values[u][k % 2][q * 2 + k / 2];
}

template <uint32_t UNITS>
static __device__ __forceinline__ void join_span(struct mixed<UNITS> &into,
                                                 struct mixed<UNITS> &span)
{
#pragma unroll
    for (uint32_t q = 0; q < 2; q++) {
        struct join by = join_stats(&into.largest[q], &into.sum[q], span.largest[q], span.sum[q]);
#pragma unroll
        for (uint32_t i = 0; i < UNITS * 4; i++) {
            float &value = value_at(into, i / 4, q, i % 4);
            value = join_value(by, value, value_at(span, i / 4, q, i % 4));
        }
    }
}

template <uint32_t UNITS>
static __device__ __forceinline__ void write_mixed(struct mixed<UNITS> &m,
                                                   const struct cuda_attend &job,
                                                   const struct attended &a, uint32_t first_query)
{
    uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, dim = job.kv.dim;
#pragma unroll
    for (uint32_t q = 0; q < 2; q++) {
        uint32_t query = first_query + lane / 4 + 8 * q;
        if (query >= a.query_count)
            continue;
        float *span = job.splits > 1 ? span_at(job, blockIdx.z, query) : NULL;
        uint16_t *half = half_at(job, a, query);
#pragma unroll
        for (uint32_t i = 0; i < UNITS * 2; i++) {
            uint32_t d = (i / 2 * ATTEND_WARPS + warp) * 16 + lane % 4 * 4 + i % 2 * 2;
            float x = value_at(m, i / 2, q, i % 2 * 2), y = value_at(m, i / 2, q, i % 2 * 2 + 1);
            if (d < dim && span != NULL)
                *(float2 *)(span + d) = make_float2(x, y);
            else if (d < dim)
                *(uint32_t *)(half + d) = bf16_round_pair(x / m.sum[q], y / m.sum[q]);
        }
        if (span != NULL && threadIdx.x % 4 == 0 && warp == 0)
            *(float2 *)(span + dim) = make_float2(m.largest[q], m.sum[q]);
    }
}

/* Queries beyond 16, of a group that is larger, come one chunk after the other. */
template <uint32_t STEPS, uint32_t UNITS>
static __device__ __forceinline__ void attend(const struct cuda_attend &job,
                                              struct attend_shared &shared)
{
    struct attended a = attended_of(job);
    uint32_t first = a.first_span + (job.splits > 1 ? blockIdx.z : 0);
    uint32_t end = job.splits > 1 ? first + 1 : a.first_span + a.span_count;
    if (first >= a.first_span + a.span_count)
        return;
    for (uint32_t query = 0; query < a.query_count; query += CUDA_TILE_QUERIES) {
        uint32_t id = block_id_of(job, a, first);   /* under way while others are waited for */
        load_queries<STEPS>(shared, job, a, query); /* the last barrier ended the use of others */
        __syncthreads();
        struct mixed<UNITS> all = {}, one;
        for (uint32_t i = first; i < end; i++) {
            struct span s = span_of(job, a, i, query, id);
            id = block_id_of(job, a, i + 1);
            attend_span<STEPS, UNITS>(one, shared, job, s);
            join_span(all, one);
        }
        write_mixed(all, job, a, query);
    }
    if (job.splits == 1)
        zero_rest_of_rows(job, a);
}

extern "C" __global__ void __launch_bounds__(CUDA_ATTEND_THREADS, 3)
    sllora_attend(const __grid_constant__ struct cuda_attend job)
{
    SHARED(struct attend_shared, shared, 1);
    grid_begin();
    if (job.kv.dim <= 64)
        attend<4, 1>(job, *shared);
    else if (job.kv.dim <= 96)
        attend<6, 2>(job, *shared);
    else if (job.kv.dim <= 128)
        attend<8, 2>(job, *shared);
    else
        attend<16, 4>(job, *shared);
}

#define JOIN_AHEAD 8u /* spans whose numbers are under way */

/* A thread has 4 dimensions of a query. */
static __device__ __forceinline__ void join_spans(float (&values)[4], float *sum, const float *span,
                                                  uint64_t stride, uint32_t count, uint32_t d,
                                                  uint32_t dim)
{
    float largest = 0;
    for (uint32_t s = 0; s < count; s += JOIN_AHEAD) {
        float2 parts[JOIN_AHEAD][3];
#pragma unroll
        for (uint32_t i = 0; i < JOIN_AHEAD && s + i < count; i++, span += stride) {
            parts[i][0] = *(const float2 *)(span + d);
            parts[i][1] = d + 2 < dim ? *(const float2 *)(span + d + 2) : make_float2(0, 0);
            parts[i][2] = *(const float2 *)(span + dim);
        }
#pragma unroll
        for (uint32_t i = 0; i < JOIN_AHEAD && s + i < count; i++) {
            struct join by = join_stats(&largest, sum, parts[i][2].x, parts[i][2].y);
            values[0] = join_value(by, values[0], parts[i][0].x);
            values[1] = join_value(by, values[1], parts[i][0].y);
            values[2] = join_value(by, values[2], parts[i][1].x);
            values[3] = join_value(by, values[3], parts[i][1].y);
        }
    }
}

extern "C" __global__ void __launch_bounds__(CUDA_ATTEND_THREADS)
    sllora_attend_join(const __grid_constant__ struct cuda_attend job)
{
    grid_begin();
    struct attended a = attended_of(job);
    uint32_t dim = job.kv.dim, quads = (dim + 3) / 4;
    uint64_t stride = (uint64_t)CUDA_SPAN_QUERIES(a.group) * (dim + 2);
    for (uint32_t i = threadIdx.x; i < a.query_count * quads; i += CUDA_ATTEND_THREADS) {
        uint32_t query = i / quads, d = i % quads * 4;
        float values[4] = {}, sum = 0;
        join_spans(values, &sum, span_at(job, 0, query), stride, a.span_count, d, dim);
        uint32_t *half = (uint32_t *)(half_at(job, a, query) + d);
        half[0] = bf16_round_pair(values[0] / sum, values[1] / sum);
        if (d + 2 < dim)
            half[1] = bf16_round_pair(values[2] / sum, values[3] / sum);
    }
    zero_rest_of_rows(job, a);
}
