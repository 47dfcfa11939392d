/*
 * The kernels of one instruction set, written once in terms of its vectors. Included at the end of
 * each instruction set's file, after it has defined vec, VEC_LANES, TILE_ROWS, LONE_ROW_OUTS, the
 * vec_ functions, VEC_TABLE and VEC_ISA; with DOT_LANES also the dot functions.
 *
 * The order of every sum is fixed by its inputs alone: element k goes into lane k mod VEC_LANES of
 * one accumulator (with bf16 on both sides: pair k / 2), in rising k, zeros pad the last vector,
 * and the lanes are added as the tree l + (l + half). Tiles only decide how many such sums are
 * under way at once.
 */
#include <assert.h>
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

#define TILE_OUTS 4

/* --- lanes into one number --- */

INLINE float vec_sum(vec a)
{
    __m256 eight = vec_fold_sum(a);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* The four sums at once, each bitwise what vec_sum gives. */
INLINE __m128 vec_sum4(vec a, vec b, vec c, vec d)
{
    __m256 a8 = vec_fold_sum(a), b8 = vec_fold_sum(b), c8 = vec_fold_sum(c), d8 = vec_fold_sum(d);
    __m256 ab =
        _mm256_add_ps(_mm256_permute2f128_ps(a8, b8, 0x20), _mm256_permute2f128_ps(a8, b8, 0x31));
    __m256 cd =
        _mm256_add_ps(_mm256_permute2f128_ps(c8, d8, 0x20), _mm256_permute2f128_ps(c8, d8, 0x31));
    /* a0+a2 a1+a3 c0+c2 c1+c3 | b0+b2 b1+b3 d0+d2 d1+d3 */
    __m256 pairs = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, _MM_SHUFFLE(1, 0, 1, 0)),
                                 _mm256_shuffle_ps(ab, cd, _MM_SHUFFLE(3, 2, 3, 2)));
    __m256 sums = _mm256_hadd_ps(pairs, pairs); /* a c a c | b d b d */
    return _mm_unpacklo_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
}

INLINE float vec_largest(vec a)
{
    __m256 eight = vec_fold_max(a);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

/* --- elements of either dtype --- */

INLINE const void *element_at(const void *from, enum kernel_dtype dtype, size_t index)
{
    return (const char *)from + index * (dtype == KERNEL_BF16 ? sizeof(uint16_t) : sizeof(float));
}

INLINE vec vec_load(const void *from, enum kernel_dtype dtype, size_t index)
{
    return dtype == KERNEL_BF16 ? vec_load_bf16((const uint16_t *)from + index)
                                : vec_load_f32((const float *)from + index);
}

INLINE vec vec_load_part(const void *from, enum kernel_dtype dtype, size_t index, uint32_t n)
{
    return dtype == KERNEL_BF16 ? vec_load_bf16_part((const uint16_t *)from + index, n)
                                : vec_load_f32_part((const float *)from + index, n);
}

/* --- matmul --- */

/* What a product takes: x as float or as bf16, w of either dtype. */
struct operands {
    enum kernel_dtype x;
    enum kernel_dtype w;
};

#ifdef DOT_LANES
#define IS_DOT(types) ((types).x == KERNEL_BF16)
#define STEP_LANES(types) (IS_DOT(types) ? DOT_LANES : VEC_LANES)
#else
#define IS_DOT(types) 0
#define STEP_LANES(types) VEC_LANES
#endif

/* One step's elements from `index` on, n = STEP_LANES or the part that is left, as vec_multiply_add
 * takes them: two bf16 a lane, or one float. */
INLINE vec operand_load(const void *from, enum kernel_dtype dtype, size_t index, uint32_t n,
                        const int is_dot)
{
#ifdef DOT_LANES
    if (is_dot)
        return n == DOT_LANES ? dot_load((const uint16_t *)from + index)
                              : dot_load_part((const uint16_t *)from + index, n);
#else
    (void)is_dot;
#endif
    return n == VEC_LANES ? vec_load(from, dtype, index) : vec_load_part(from, dtype, index, n);
}

INLINE vec multiply_add(vec a, vec b, vec acc, const int is_dot)
{
#ifdef DOT_LANES
    if (is_dot)
        return dot(a, b, acc);
#else
    (void)is_dot;
#endif
    return vec_fma(a, b, acc);
}

/* acc[r][o] += x[r, k .. k + n) * w[o, k .. k + n), n = STEP_LANES or the part that is left */
INLINE void tile_step(vec acc[TILE_ROWS][TILE_OUTS], const void *x, size_t x_stride, const void *w,
                      const struct operands types, uint32_t in, uint32_t k, uint32_t n,
                      const int row_count, const int out_count)
{
    vec xs[TILE_ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++)
        xs[r] = operand_load(x, types.x, r * x_stride + k, n, IS_DOT(types));
#pragma GCC unroll 8
    for (int o = 0; o < out_count; o++) {
        vec ws = operand_load(w, types.w, (size_t)o * in + k, n, IS_DOT(types));
#pragma GCC unroll 8
        for (int r = 0; r < row_count; r++)
            acc[r][o] = multiply_add(xs[r], ws, acc[r][o], IS_DOT(types));
    }
}

/*
 * y[r, o] for row_count rows and out_count outputs (TILE_OUTS or 1), all pointers at the tile's
 * first. The counts are constants where this is inlined, so that acc stays in registers.
 *
 * ahead: the weights to fetch into the second-level cache meanwhile, as many bytes as the tile has.
 * A tile of several outputs reads as many rows of w side by side, which the processor's own
 * prefetchers follow at a third of the memory's speed; asked for in the order of addresses they
 * arrive at two thirds of it. A tile of one output lets both work, at nine tenths.
 */
INLINE void tile(float *y, size_t y_stride, const void *x, size_t x_stride, const void *w,
                 const struct operands types, const char *ahead, const float *bias, uint32_t in,
                 int accumulate, const int row_count, const int out_count)
{
    const uint32_t lanes = STEP_LANES(types);
    const int step_bytes = out_count * (int)lanes * (types.w == KERNEL_BF16 ? 2 : 4);
    vec acc[TILE_ROWS][TILE_OUTS];
#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++)
#pragma GCC unroll 8
        for (int o = 0; o < out_count; o++)
            acc[r][o] = vec_set1(0);

    uint32_t k = 0;
    for (; in - k >= lanes; k += lanes) {
#pragma GCC unroll 4
        for (int line = 0; line < step_bytes; line += 64)
            _mm_prefetch(ahead + line, _MM_HINT_T1);
        ahead += step_bytes;
        tile_step(acc, x, x_stride, w, types, in, k, lanes, row_count, out_count);
    }
    if (k < in)
        tile_step(acc, x, x_stride, w, types, in, k, in - k, row_count, out_count);

#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++) {
        float *to = y + r * y_stride;
        if (out_count == TILE_OUTS) {
            __m128 sums = vec_sum4(acc[r][0], acc[r][1], acc[r][2], acc[r][3]);
            if (bias != NULL)
                sums = _mm_add_ps(sums, _mm_loadu_ps(bias));
            if (accumulate)
                sums = _mm_add_ps(sums, _mm_loadu_ps(to));
            _mm_storeu_ps(to, sums);
        } else {
            float sum = vec_sum(acc[r][0]);
            if (bias != NULL)
                sum += *bias;
            *to = accumulate ? sum + *to : sum;
        }
    }
}

/* How far ahead of their use weights are fetched, at least: what memory delivers in a third of a
 * microsecond. */
#define AHEAD_BYTES (8u << 10)

/* All outputs [0, outs) of row_count rows, tile_outs at once. Weights before w_end are fetched
 * ahead. */
INLINE void strip(float *y, size_t y_stride, const void *x, size_t x_stride, const void *w,
                  const struct operands types, const char *w_end, const float *bias, uint32_t in,
                  uint32_t outs, int accumulate, const int row_count, const uint32_t tile_outs)
{
    const char *row = w;
    size_t row_bytes = (size_t)in * (types.w == KERNEL_BF16 ? sizeof(uint16_t) : sizeof(float));
    size_t tile_bytes = tile_outs * row_bytes;
    size_t distance = tile_bytes > AHEAD_BYTES ? tile_bytes : AHEAD_BYTES;
    uint32_t o = 0;
    for (; outs - o >= tile_outs; o += tile_outs, row += tile_bytes) {
        /* Near the end: the tile itself, which costs nothing. */
        const char *ahead = (size_t)(w_end - row) >= distance + tile_bytes ? row + distance : row;
        tile(y + o, y_stride, x, x_stride, row, types, ahead, bias != NULL ? bias + o : NULL, in,
             accumulate, row_count, (int)tile_outs);
    }
    for (; o < outs; o++, row += row_bytes)
        tile(y + o, y_stride, x, x_stride, row, types, row, bias != NULL ? bias + o : NULL, in,
             accumulate, row_count, 1);
}

/* What the weights of one block of outputs may take of the 2nd-level cache, in which they stay
 * while all rows pass; the other half is for a tile's rows of x. */
#define BLOCK_WEIGHT_BYTES (256u << 10)

INLINE void matmul(float *y, size_t y_stride, const void *x, size_t x_stride, const void *w,
                   const struct operands types, const float *bias, uint32_t rows, uint32_t in,
                   uint32_t out_begin, uint32_t out_end, int accumulate)
{
    size_t row_bytes = in * (types.w == KERNEL_BF16 ? sizeof(uint16_t) : sizeof(float));
    uint32_t block_outs = (uint32_t)(BLOCK_WEIGHT_BYTES / row_bytes) / TILE_OUTS * TILE_OUTS;
    if (block_outs < TILE_OUTS)
        block_outs = TILE_OUTS;
    const char *w_end = element_at(w, types.w, (size_t)out_end * in);
    uint32_t tile_count = rows / TILE_ROWS + (rows % TILE_ROWS != 0);
    if (rows == 1) {
        /* Nothing came before that could have fetched the first weights. */
        const char *first = element_at(w, types.w, (size_t)out_begin * in);
        for (size_t at = 0; at < AHEAD_BYTES && at < (size_t)(w_end - first); at += 64)
            _mm_prefetch(first + at, _MM_HINT_T1);
    }

    for (uint32_t o = out_begin, outs; o < out_end; o += outs) {
        outs = out_end - o < block_outs ? out_end - o : block_outs;
        const void *wo = element_at(w, types.w, (size_t)o * in);
        const float *b = bias != NULL ? bias + o : NULL;
        /* Rows are dealt evenly: 7 as 4 + 3, since a tile of 1 row would wait for its sums. */
        for (uint32_t t = 0, r = 0, count; t < tile_count; t++, r += count) {
            count = (rows - r + tile_count - t - 1) / (tile_count - t);
            float *yr = y + r * y_stride + o;
            const void *xr = element_at(x, types.x, r * x_stride);
            switch (count) {
#define CASE(n, tile_outs)                                                                         \
    case n:                                                                                        \
        strip(yr, y_stride, xr, x_stride, wo, types, w_end, b, in, outs, accumulate, n,            \
              tile_outs);                                                                          \
        break;
                CASE(1, LONE_ROW_OUTS)
                CASE(2, TILE_OUTS)
                CASE(3, TILE_OUTS)
#if TILE_ROWS > 3
                CASE(4, TILE_OUTS)
                CASE(5, TILE_OUTS)
                CASE(6, TILE_OUTS)
#endif
#undef CASE
            default:
                assert(0);
            }
        }
    }
}

static void matmul_f32(float *y, size_t y_stride, const float *x, size_t x_stride, const void *w,
                       const float *bias, uint32_t rows, uint32_t in, uint32_t out_begin,
                       uint32_t out_end, int accumulate)
{
    matmul(y, y_stride, x, x_stride, w, (struct operands){KERNEL_F32, KERNEL_F32}, bias, rows, in,
           out_begin, out_end, accumulate);
}

static void matmul_bf16(float *y, size_t y_stride, const float *x, size_t x_stride, const void *w,
                        const float *bias, uint32_t rows, uint32_t in, uint32_t out_begin,
                        uint32_t out_end, int accumulate)
{
    matmul(y, y_stride, x, x_stride, w, (struct operands){KERNEL_F32, KERNEL_BF16}, bias, rows, in,
           out_begin, out_end, accumulate);
}

#ifdef DOT_LANES
static void matmul_half(float *y, size_t y_stride, const uint16_t *x, size_t x_stride,
                        const void *w, const float *bias, uint32_t rows, uint32_t in,
                        uint32_t out_begin, uint32_t out_end, int accumulate)
{
    matmul(y, y_stride, x, x_stride, w, (struct operands){KERNEL_BF16, KERNEL_BF16}, bias, rows, in,
           out_begin, out_end, accumulate);
}
#endif

/* --- exp --- */

/*
 * e^x = 2^n e^r with n = round(x / ln 2), |r| <= ln 2 / 2 and e^r = 1 + r + r^2 q(r); q is the
 * polynomial of degree 4 with the smallest largest relative error of e^r, 3e-9. With the roundings
 * of float the error stays below 1.5 units in the last place. Overflows to infinity, underflows
 * through the subnormals to 0, a NaN stays one.
 */
INLINE vec vec_exp(vec x)
{
    /* Beyond these the result is infinity or 0; min and max give x where it is a NaN. */
    x = vec_max(vec_set1(-105), vec_min(vec_set1(90), x));
    vec n = vec_round(vec_mul(x, vec_set1(0x1.715476p+0f)));
    /* ln 2 as 9 leading bits, so that n times them is exact, and the rest. */
    vec r = vec_fma(n, vec_set1(-0x1.63p-1f), x);
    r = vec_fma(n, vec_set1(0x1.bd0106p-13f), r);
    vec q = vec_fma(vec_set1(0x1.6a2434p-10f), r, vec_set1(0x1.1239e2p-7f));
    q = vec_fma(q, r, vec_set1(0x1.5558f2p-5f));
    q = vec_fma(q, r, vec_set1(0x1.555492p-3f));
    q = vec_fma(q, r, vec_set1(0x1.fffffcp-2f));
    vec e = vec_add(vec_fma(vec_mul(r, r), q, r), vec_set1(1));
    return vec_scale(e, n);
}

/* --- attention --- */

/* The largest of n values that is not a NaN, or -infinity. */
INLINE float largest_of(const float *x, uint32_t n)
{
    vec largest = vec_set1(-INFINITY);
    uint32_t i = 0;
    for (; n - i >= VEC_LANES; i += VEC_LANES)
        largest = vec_max(vec_load_f32(x + i), largest);
    float value = vec_largest(largest);
    for (; i < n; i++)
        value = x[i] > value ? x[i] : value;
    return value;
}

/* x[i] = exp(x[i] - largest); returns their sum. */
INLINE float exp_in_place(float *x, uint32_t n, float largest)
{
    vec sum = vec_set1(0);
    uint32_t i = 0;
    for (; n - i >= VEC_LANES; i += VEC_LANES) {
        vec e = vec_exp(vec_sub(vec_load_f32(x + i), vec_set1(largest)));
        vec_store_f32(x + i, e);
        sum = vec_add(sum, e);
    }
    if (i < n) {
        vec e = vec_exp(vec_sub(vec_load_f32_part(x + i, n - i), vec_set1(largest)));
        vec_store_f32_part(x + i, e, n - i);
        sum = vec_add(sum, vec_load_f32_part(x + i, n - i));
    }
    return vec_sum(sum);
}

/* out[d] = factor * sum_p weights[p - begin] * v[p][d] for vec_count vectors of d, or, with
 * vec_count 0, for the `part` elements that are left, starting at d. */
INLINE void mix(float *out, const float *weights, const void *const *value_blocks,
                enum kernel_dtype dtype, uint32_t block_tokens, uint32_t begin, uint32_t end,
                uint32_t dim, uint32_t d, float factor, const int vec_count, uint32_t part)
{
    const int acc_count = vec_count > 0 ? vec_count : 1;
    vec acc[8];
#pragma GCC unroll 8
    for (int i = 0; i < acc_count; i++)
        acc[i] = vec_set1(0);
    for (uint32_t p = begin; p < end;) {
        const void *block = value_blocks[p / block_tokens];
        uint32_t row = p % block_tokens;
        for (; row < block_tokens && p < end; row++, p++) {
            vec weight = vec_set1(weights[p - begin]);
            size_t index = (size_t)row * dim + d;
#pragma GCC unroll 8
            for (int i = 0; i < acc_count; i++) {
                vec value = vec_count > 0 ? vec_load(block, dtype, index + (size_t)i * VEC_LANES)
                                          : vec_load_part(block, dtype, index, part);
                acc[i] = vec_fma(weight, value, acc[i]);
            }
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < acc_count; i++) {
        vec result = vec_mul(acc[i], vec_set1(factor));
        if (vec_count > 0)
            vec_store_f32(out + d + (size_t)i * VEC_LANES, result);
        else
            vec_store_f32_part(out + d, result, part);
    }
}

INLINE void attention(float *out, const float *q, const void *const *key_blocks,
                      const void *const *value_blocks, enum kernel_dtype dtype,
                      uint32_t block_tokens, uint32_t begin, uint32_t end, uint32_t dim,
                      float scale, float *scores)
{
    uint32_t n = end - begin;
    for (uint32_t p = begin, count; p < end; p += count) {
        uint32_t row = p % block_tokens;
        count = block_tokens - row < end - p ? block_tokens - row : end - p;
        const void *keys = element_at(key_blocks[p / block_tokens], dtype, (size_t)row * dim);
        strip(scores + (p - begin), 0, q, 0, keys, (struct operands){KERNEL_F32, dtype},
              element_at(keys, dtype, (size_t)count * dim), NULL, dim, count, 0, 1, TILE_OUTS);
    }
    for (uint32_t i = 0; i < n; i++)
        scores[i] *= scale;
    float factor = 1 / exp_in_place(scores, n, largest_of(scores, n));

    uint32_t d = 0;
    for (; dim - d >= 8 * VEC_LANES; d += 8 * VEC_LANES)
        mix(out, scores, value_blocks, dtype, block_tokens, begin, end, dim, d, factor, 8, 0);
    for (; dim - d >= 4 * VEC_LANES; d += 4 * VEC_LANES)
        mix(out, scores, value_blocks, dtype, block_tokens, begin, end, dim, d, factor, 4, 0);
    for (; dim - d >= VEC_LANES; d += VEC_LANES)
        mix(out, scores, value_blocks, dtype, block_tokens, begin, end, dim, d, factor, 1, 0);
    if (d < dim)
        mix(out, scores, value_blocks, dtype, block_tokens, begin, end, dim, d, factor, 0, dim - d);
}

static void attention_f32(float *out, const float *q, const void *const *key_blocks,
                          const void *const *value_blocks, uint32_t block_tokens, uint32_t begin,
                          uint32_t end, uint32_t dim, float scale, float *scores)
{
    attention(out, q, key_blocks, value_blocks, KERNEL_F32, block_tokens, begin, end, dim, scale,
              scores);
}

static void attention_bf16(float *out, const float *q, const void *const *key_blocks,
                           const void *const *value_blocks, uint32_t block_tokens, uint32_t begin,
                           uint32_t end, uint32_t dim, float scale, float *scores)
{
    attention(out, q, key_blocks, value_blocks, KERNEL_BF16, block_tokens, begin, end, dim, scale,
              scores);
}

/* --- conversions --- */

static void store_f32(void *to, const float *from, uint32_t n)
{
    memcpy(to, from, n * sizeof(float));
}

static void store_bf16(void *to, const float *from, uint32_t n)
{
    uint16_t *halves = to;
    uint32_t i = 0;
    for (; n - i >= VEC_LANES; i += VEC_LANES)
        vec_store_bf16(halves + i, vec_load_f32(from + i));
    if (i < n)
        vec_store_bf16_part(halves + i, vec_load_f32_part(from + i, n - i), n - i);
}

static void load_f32(float *to, const void *from, uint32_t n)
{
    memcpy(to, from, n * sizeof(float));
}

static void load_bf16(float *to, const void *from, uint32_t n)
{
    uint32_t i = 0;
    for (; n - i >= VEC_LANES; i += VEC_LANES)
        vec_store_f32(to + i, vec_load(from, KERNEL_BF16, i));
    if (i < n)
        vec_store_f32_part(to + i, vec_load_part(from, KERNEL_BF16, i, n - i), n - i);
}

/* --- rows --- */

static void rms_norm(float *y, const float *x, const float *w, uint32_t n, float eps)
{
    vec squares = vec_set1(0);
    uint32_t i = 0;
    for (; n - i >= VEC_LANES; i += VEC_LANES) {
        vec a = vec_load_f32(x + i);
        squares = vec_fma(a, a, squares);
    }
    if (i < n) {
        vec a = vec_load_f32_part(x + i, n - i);
        squares = vec_fma(a, a, squares);
    }
    vec factor = vec_set1(1 / sqrtf(vec_sum(squares) / (float)n + eps));
    for (i = 0; n - i >= VEC_LANES; i += VEC_LANES)
        vec_store_f32(y + i, vec_mul(vec_mul(vec_load_f32(x + i), factor), vec_load_f32(w + i)));
    if (i < n) {
        vec a = vec_mul(vec_load_f32_part(x + i, n - i), factor);
        vec_store_f32_part(y + i, vec_mul(a, vec_load_f32_part(w + i, n - i)), n - i);
    }
}

static void rope(float *x, const float *cos, const float *sin, uint32_t heads, uint32_t stride,
                 uint32_t dim)
{
    assert(dim % 2 == 0 && dim <= stride);
    uint32_t half = dim / 2;
    for (uint32_t h = 0; h < heads; h++) {
        float *low = x + (size_t)h * stride, *high = low + half;
        uint32_t d = 0;
        for (; half - d >= VEC_LANES; d += VEC_LANES) {
            vec a = vec_load_f32(low + d), b = vec_load_f32(high + d);
            vec c = vec_load_f32(cos + d), s = vec_load_f32(sin + d);
            vec_store_f32(low + d, vec_sub(vec_mul(a, c), vec_mul(b, s)));
            vec_store_f32(high + d, vec_fma(a, s, vec_mul(b, c)));
        }
        if (d < half) {
            uint32_t n = half - d;
            vec a = vec_load_f32_part(low + d, n), b = vec_load_f32_part(high + d, n);
            vec c = vec_load_f32_part(cos + d, n), s = vec_load_f32_part(sin + d, n);
            vec_store_f32_part(low + d, vec_sub(vec_mul(a, c), vec_mul(b, s)), n);
            vec_store_f32_part(high + d, vec_fma(a, s, vec_mul(b, c)), n);
        }
    }
}

/* -g for SiLU; -2u for GELU, whose 1 + tanh(u) is 2 / (1 + e^-2u) */
INLINE vec vec_gate_exponent(vec g, int gelu)
{
    if (!gelu)
        return vec_sub(vec_set1(0), g);
    vec cubic = vec_mul(vec_mul(vec_set1(0.044715f), vec_mul(g, g)), g);
    return vec_mul(vec_set1(-1.5957691216f), vec_add(g, cubic)); /* -2 sqrt(2 / pi) */
}

INLINE vec vec_gated_mul(vec g, vec u, int gelu)
{
    vec divisor = vec_add(vec_set1(1), vec_exp(vec_gate_exponent(g, gelu)));
    return vec_mul(vec_div(g, divisor), u);
}

INLINE void gated_mul(float *gate, const float *up, uint32_t n, int gelu)
{
    uint32_t i = 0;
    for (; n - i >= VEC_LANES; i += VEC_LANES)
        vec_store_f32(gate + i, vec_gated_mul(vec_load_f32(gate + i), vec_load_f32(up + i), gelu));
    if (i < n) {
        vec g = vec_load_f32_part(gate + i, n - i), u = vec_load_f32_part(up + i, n - i);
        vec_store_f32_part(gate + i, vec_gated_mul(g, u, gelu), n - i);
    }
}

static void silu_mul(float *gate, const float *up, uint32_t n)
{
    gated_mul(gate, up, n, 0);
}

static void gelu_mul(float *gate, const float *up, uint32_t n)
{
    gated_mul(gate, up, n, 1);
}

static void add(float *y, const float *x, uint32_t n)
{
    uint32_t i = 0;
    for (; n - i >= VEC_LANES; i += VEC_LANES)
        vec_store_f32(y + i, vec_add(vec_load_f32(y + i), vec_load_f32(x + i)));
    for (; i < n; i++)
        y[i] += x[i];
}

static uint32_t argmax(const float *x, uint32_t n)
{
    float largest = largest_of(x, n);
    if (largest == -INFINITY)
        return 0;
    uint32_t i = 0;
    for (; n - i >= VEC_LANES; i += VEC_LANES) {
        uint32_t equal = vec_equal_mask(vec_load_f32(x + i), vec_set1(largest));
        if (equal != 0)
            return i + (uint32_t)__builtin_ctz(equal);
    }
    while (x[i] != largest)
        i++;
    return i;
}

static double log_sum_exp(const float *x, uint32_t n)
{
    float largest = largest_of(x, n);
    if (isinf(largest))
        return largest;
    vecd sum = vecd_zero();
    uint32_t i = 0;
    for (; n - i >= VEC_LANES; i += VEC_LANES)
        sum = vecd_add_both(sum, vec_exp(vec_sub(vec_load_f32(x + i), vec_set1(largest))));
    double total = vecd_sum(sum);
    for (; i < n; i++)
        total += exp((double)x[i] - largest);
    return largest + log(total);
}

/* --- ceilings: as many sums under way as hide the latency of one --- */

static float ceiling_read(const float *from, size_t bytes)
{
    vec sums[4] = {vec_set1(0), vec_set1(0), vec_set1(0), vec_set1(0)};
    for (size_t i = 0; i < bytes / sizeof(float); i += 4 * VEC_LANES)
        for (size_t s = 0; s < 4; s++)
            sums[s] = vec_add(sums[s], vec_load_f32(from + i + s * VEC_LANES));
    return vec_sum(vec_add(vec_add(sums[0], sums[1]), vec_add(sums[2], sums[3])));
}

static uint64_t ceiling_fma(uint64_t rounds, float *factor)
{
    vec sums[12], by = vec_set1(*factor);
#pragma GCC unroll 12
    for (int s = 0; s < 12; s++)
        sums[s] = vec_set1((float)s);
    for (uint64_t r = 0; r < rounds; r++)
#pragma GCC unroll 12
        for (int s = 0; s < 12; s++)
            sums[s] = vec_fma(sums[s], by, by);
    vec all = sums[0];
    for (int s = 1; s < 12; s++)
        all = vec_add(all, sums[s]);
    *factor = vec_sum(all);
    return rounds * 12 * VEC_LANES * 2;
}

const struct kernels VEC_TABLE = {
    .isa = VEC_ISA,
    .matmul = {[KERNEL_F32] = matmul_f32, [KERNEL_BF16] = matmul_bf16},
#ifdef DOT_LANES
    .matmul_half = matmul_half,
#endif
    .attention = {[KERNEL_F32] = attention_f32, [KERNEL_BF16] = attention_bf16},
    .store = {[KERNEL_F32] = store_f32, [KERNEL_BF16] = store_bf16},
    .load = {[KERNEL_F32] = load_f32, [KERNEL_BF16] = load_bf16},
    .rms_norm = rms_norm,
    .rope = rope,
    .silu_mul = silu_mul,
    .gelu_mul = gelu_mul,
    .add = add,
    .argmax = argmax,
    .log_sum_exp = log_sum_exp,
    .ceiling_read = ceiling_read,
    .ceiling_fma = ceiling_fma,
};
