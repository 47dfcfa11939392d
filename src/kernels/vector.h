/*
 * The kernels of one instruction set, written once in terms of its vectors. Included at the end of
 * each instruction set's file, after it has defined vec, VEC_LANES, TILE_ROWS, LONE_ROW_OUTS,
 * PANEL_ROWS, QUANTISED_ROWS, the vec_ functions, VEC_TABLE and VEC_ISA; with DOT_LANES also the
 * dot functions; INT8_HAS_OFFSET and veci_dot_int8; veci_dot, or with INT4_PARTS veci_dot_narrow
 * and veci_join; UNPACK_ROWS, UNPACK_ROWS_MIN and UNPACK_VECS where vector_unpacked.h pays.
 *
 * The order of every sum is fixed by its inputs alone: element k goes into lane k mod VEC_LANES of
 * one accumulator (with bf16 on both sides: pair k / 2), in rising k, zeros pad the last vector,
 * and the lanes are added as the tree l + (l + half). Tiles only decide how many such sums are
 * under way at once.
 */
#include <assert.h>
#include <immintrin.h>
#include <math.h>
#include <stdalign.h>
#include <stdint.h>
#include <string.h>

#include "kernels/kv_store.h"

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

/* --- elements of dtypes that lie in rows --- */

INLINE size_t element_bytes(enum kernel_dtype dtype)
{
    return dtype == KERNEL_BF16    ? sizeof(uint16_t)
           : dtype == KERNEL_CODES ? sizeof(int8_t)
                                   : sizeof(float);
}

INLINE const void *element_at(const void *from, enum kernel_dtype dtype, size_t index)
{
    return (const char *)from + index * element_bytes(dtype);
}

INLINE vec vec_load(const void *from, enum kernel_dtype dtype, size_t index)
{
    const void *at = element_at(from, dtype, index);
    return dtype == KERNEL_BF16    ? vec_load_bf16(at)
           : dtype == KERNEL_CODES ? vec_load_codes(at)
                                   : vec_load_f32(at);
}

INLINE vec vec_load_part(const void *from, enum kernel_dtype dtype, size_t index, uint32_t n)
{
    const void *at = element_at(from, dtype, index);
    return dtype == KERNEL_BF16    ? vec_load_bf16_part(at, n)
           : dtype == KERNEL_CODES ? vec_load_codes_part(at, n)
                                   : vec_load_f32_part(at, n);
}

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

#include "kernels/vector_matmul.h"
#include "kernels/vector_panels.h"
#ifdef UNPACK_ROWS
#include "kernels/vector_unpacked.h"
#endif
#include "kernels/vector_quantised.h"
#include "kernels/vector_codes.h"
#include "kernels/vector_blocks.h"

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

static void load_row_f32(float *to, const void *w, uint32_t in, uint32_t row)
{
    load_f32(to, (const float *)w + (size_t)row * in, in);
}

static void load_row_bf16(float *to, const void *w, uint32_t in, uint32_t row)
{
    load_bf16(to, (const uint16_t *)w + (size_t)row * in, in);
}

static void load_row_panels(float *to, const void *w, uint32_t in, uint32_t row)
{
    const char *at = (const char *)w +
                     row / KERNEL_PANEL_OUTS * kernel_panel_bytes(KERNEL_PANELS, in) +
                     row % KERNEL_PANEL_OUTS * sizeof(uint32_t);
    for (uint32_t k = 0; k < in; k += 2, at += KERNEL_PANEL_OUTS * sizeof(uint32_t)) {
        uint16_t pair[2];
        float values[2];
        memcpy(pair, at, sizeof pair);
        load_bf16(values, pair, 2);
        memcpy(to + k, values, (in - k < 2 ? 1 : 2) * sizeof(float));
    }
}

#include "kernels/vector_attention.h"

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

INLINE vec vec_weigh(vec x, float largest, float inverse_temperature, float least)
{
    if (vec_between_mask(x, least, INFINITY) == 0)
        return vec_set1(0);
    vec exponent = vec_mul(vec_sub(x, vec_set1(largest)), vec_set1(inverse_temperature));
    return vec_or_0_below(vec_exp(exponent), x, least);
}

static double weigh_logits(float *weights, const float *x, uint32_t n, float largest,
                           float inverse_temperature, float least)
{
    vecd sum = vecd_zero();
    uint32_t i = 0;
    for (; n - i >= VEC_LANES; i += VEC_LANES) {
        vec w = vec_weigh(vec_load_f32(x + i), largest, inverse_temperature, least);
        vec_store_f32(weights + i, w);
        sum = vecd_add_both(sum, w);
    }
    if (i < n) {
        float rest[VEC_LANES];
        for (uint32_t lane = 0; lane < VEC_LANES; lane++)
            rest[lane] = i + lane < n ? x[i + lane] : -INFINITY; /* weighs 0 */
        vec w = vec_weigh(vec_load_f32(rest), largest, inverse_temperature, least);
        vec_store_f32_part(weights + i, w, n - i);
        sum = vecd_add_both(sum, w);
    }
    return vecd_sum(sum);
}

/* What is written is never ahead of what is read, so ret may be x. */
static uint32_t select_between(float *ret, const float *x, uint32_t n, float least, float most)
{
    uint32_t i = 0, count = 0;
    for (; n - i >= VEC_LANES; i += VEC_LANES) {
        vec a = vec_load_f32(x + i);
        uint32_t mask = vec_between_mask(a, least, most);
        if (mask == 0)
            continue;
        vec_pack(ret + count, a, mask);
        count += (uint32_t)__builtin_popcount(mask);
    }
    for (; i < n; i++)
        if (x[i] >= least && x[i] <= most)
            ret[count++] = x[i];
    return count;
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

static uint64_t ceiling_f32(uint64_t rounds, float *factor)
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

#ifdef DOT_LANES
static uint64_t ceiling_bf16(uint64_t rounds, float *factor)
{
    uint16_t values[DOT_LANES];
    vec sums[12];
    for (int i = 0; i < DOT_LANES; i++)
        store_bf16(values + i, factor, 1);
    vec by = dot_load(values);
#pragma GCC unroll 12
    for (int s = 0; s < 12; s++)
        sums[s] = vec_set1((float)s);
    for (uint64_t r = 0; r < rounds; r++)
#pragma GCC unroll 12
        for (int s = 0; s < 12; s++)
            sums[s] = dot(by, by, sums[s]);
    vec all = sums[0];
    for (int s = 1; s < 12; s++)
        all = vec_add(all, sums[s]);
    *factor = vec_sum(all);
    return rounds * 12 * DOT_LANES * 2;
}
#endif

#ifndef CEILING_INT8
static uint64_t ceiling_int8(uint64_t rounds, float *factor)
{
    const uint32_t value = (uint32_t)(127 * *factor);
    const uint32_t code = INT8_HAS_OFFSET ? value : value + KERNEL_INT8_OFFSET;
    veci sums[12], by = veci_set1((int32_t)(value * 0x01010101));
    const veci_int8 w = veci_int8_of(veci_set1((int32_t)(code * 0x01010101)));
#pragma GCC unroll 12
    for (int s = 0; s < 12; s++)
        sums[s] = veci_set1(s);
    for (uint64_t r = 0; r < rounds; r++)
#pragma GCC unroll 12
        for (int s = 0; s < 12; s++) {
            __asm__(""
                    : "+x"(by)); /* where a product is several instructions, each makes its own */
            sums[s] = veci_dot_int8(w, by, sums[s]);
        }
    veci all = sums[0];
    for (int s = 1; s < 12; s++)
        all = veci_add(all, sums[s]);
    *factor = vec_sum(vec_of_veci(all)); /* as floats: whole numbers would overflow */
    return rounds * 12 * VEC_LANES * 4 * 2;
}
#endif

const struct kernels VEC_TABLE = {
    .isa = VEC_ISA,
    .matmul = {[KERNEL_F32] = matmul_f32,
               [KERNEL_BF16] = matmul_bf16,
               [KERNEL_PANELS] = matmul_panels,
               [KERNEL_CODES] = matmul_codes,
               [KERNEL_CODE_PANELS] = matmul_code_panels},
#ifdef DOT_LANES
    .matmul_half = {[KERNEL_BF16] = matmul_half, [KERNEL_PANELS] = matmul_half_panels},
#elif defined(MATMUL_HALF_PANELS)
    .matmul_half = {[KERNEL_PANELS] = MATMUL_HALF_PANELS},
#endif
#ifdef MATMUL_INT8
    .matmul_quantised = {[KERNEL_INT8] = MATMUL_INT8, [KERNEL_INT4] = MATMUL_INT4},
#else
    .matmul_quantised = {[KERNEL_INT8] = matmul_int8, [KERNEL_INT4] = matmul_int4},
#endif
    .quantise = quantise,
    .kv_store = {[KERNEL_KV_F32] = kv_store_f32,
                 [KERNEL_KV_BF16] = kv_store_bf16,
                 [KERNEL_KV_INT8] = kv_store_int8},
    .attend = {[KERNEL_KV_F32] = attend_f32,
               [KERNEL_KV_BF16] = attend_bf16,
               [KERNEL_KV_INT8] = attend_int8},
    .attend_join = attend_join,
    .attend_end = attend_end,
    .store = {[KERNEL_F32] = store_f32, [KERNEL_BF16] = store_bf16},
    .load = {[KERNEL_F32] = load_f32, [KERNEL_BF16] = load_bf16},
    .load_row = {[KERNEL_F32] = load_row_f32,
                 [KERNEL_BF16] = load_row_bf16,
                 [KERNEL_PANELS] = load_row_panels,
                 [KERNEL_INT8] = load_row_int8,
                 [KERNEL_INT4] = load_row_int4},
    .rms_norm = rms_norm,
    .rope = rope,
    .silu_mul = silu_mul,
    .gelu_mul = gelu_mul,
    .add = add,
    .argmax = argmax,
    .log_sum_exp = log_sum_exp,
    .weigh = weigh_logits,
    .select = select_between,
    .ceiling_read = ceiling_read,
    .ceiling_multiply =
        {
            [KERNEL_MULTIPLY_F32] = ceiling_f32,
#ifdef DOT_LANES
            [KERNEL_MULTIPLY_BF16] = ceiling_bf16,
#elif defined(CEILING_BF16)
            [KERNEL_MULTIPLY_BF16] = CEILING_BF16,
#endif
#ifdef CEILING_INT8
            [KERNEL_MULTIPLY_INT8] = CEILING_INT8,
#else
            [KERNEL_MULTIPLY_INT8] = ceiling_int8,
#endif
        },
};
