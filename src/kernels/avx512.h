/*
 * What vector.h asks of AVX-512 (F, BW, VL, DQ, VNNI where there is): 16 lanes, 32 registers. Only
 * what the instruction set is asked for stands here; what is computed stands in vector.h.
 */
#pragma once

#include "kernels/isa.h"

#include <immintrin.h>

#define VEC_LANES 16

/* 6 x 4 sums, 6 of x and 1 of w fill 31 of the 32 registers. */
#define TILE_ROWS 6

/* One row: 32 bytes of bf16 in the 4 cycles that a sum waits for itself are as fast as memory. */
#define LONE_ROW_OUTS 1

/* Queries that go through a block of keys together: 8 sums under way hide their latency. */
#define SCORE_QUERIES 8

/* 8 queries x 2 vectors of values, or up to 4 x 4: 16 sums, their v and its words, 1 of weight. */
#define MIX_QUERIES 8
#define MIX_VECS 4

/* 8 rows of a panel are 16 sums, enough under way to hide each other's latency (6 cycles, two begun
 * in each); 2 of w and 1 of x beside them. */
#define PANEL_ROWS 8

/* Of quantised ones: 16 sums of a group, 4 of w, 1 of x; those of all groups wait in memory. */
#define QUANTISED_ROWS 8

typedef __m512 vec;
typedef __m512d vecd;
typedef __m512i veci;

static inline __mmask16 lanes_below(uint32_t n)
{
    return (__mmask16)((1u << n) - 1);
}

static inline vec vec_set1(float value)
{
    return _mm512_set1_ps(value);
}

static inline vec vec_load_f32(const float *from)
{
    return _mm512_loadu_ps(from);
}

/* The first n lanes, n < VEC_LANES; the others are 0 and their memory is not touched. */
static inline vec vec_load_f32_part(const float *from, uint32_t n)
{
    return _mm512_maskz_loadu_ps(lanes_below(n), from);
}

static inline vec vec_load_bf16(const uint16_t *from)
{
    __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

static inline vec vec_load_bf16_part(const uint16_t *from, uint32_t n)
{
    __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes_below(n), from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

static inline vec vec_load_codes(const int8_t *from)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from)));
}

static inline vec vec_load_codes_part(const int8_t *from, uint32_t n)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(lanes_below(n), from)));
}

/* Of two bf16 a lane, the first and the second. */
static inline vec vec_of_low_halves(vec pairs)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(pairs), 16));
}

static inline vec vec_of_high_halves(vec pairs)
{
    __m512i mask = _mm512_set1_epi32((int)0xffff0000u);
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(pairs), mask));
}

/* Of four signed bytes a lane, byte `index` as a number. */
static inline vec vec_of_byte(vec words, int index)
{
    __m512i up = _mm512_sll_epi32(_mm512_castps_si512(words), _mm_cvtsi32_si128(24 - 8 * index));
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(up, 24));
}

/* The bits of `mask` in every lane. */
static inline vec vec_masked(vec words, uint32_t mask)
{
    return _mm512_and_ps(words, _mm512_castsi512_ps(_mm512_set1_epi32((int)mask)));
}

static inline void vec_store_f32(float *to, vec a)
{
    _mm512_storeu_ps(to, a);
}

static inline void vec_store_f32_part(float *to, vec a, uint32_t n)
{
    _mm512_mask_storeu_ps(to, lanes_below(n), a);
}

/* Round to nearest even; a NaN keeps its upper bits and becomes quiet. */
static inline __m256i bf16_of(vec a)
{
    __m512i bits = _mm512_castps_si512(a);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    rounded = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), quiet);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}

static inline void vec_store_bf16(uint16_t *to, vec a)
{
    _mm256_storeu_si256((__m256i *)to, bf16_of(a));
}

static inline void vec_store_bf16_part(uint16_t *to, vec a, uint32_t n)
{
    _mm256_mask_storeu_epi16(to, lanes_below(n), bf16_of(a));
}

static inline vec vec_add(vec a, vec b)
{
    return _mm512_add_ps(a, b);
}

static inline vec vec_sub(vec a, vec b)
{
    return _mm512_sub_ps(a, b);
}

static inline vec vec_mul(vec a, vec b)
{
    return _mm512_mul_ps(a, b);
}

static inline vec vec_div(vec a, vec b)
{
    return _mm512_div_ps(a, b);
}

/* a * b, and 0 where a is 0, whatever b is */
static inline vec vec_mul_or_0(vec a, vec b)
{
    return _mm512_maskz_mul_ps(_mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_NEQ_UQ), a, b);
}

/* a * b + c with one rounding */
static inline vec vec_fma(vec a, vec b, vec c)
{
    return _mm512_fmadd_ps(a, b, c);
}

/* Both give b where either is a NaN. */
static inline vec vec_max(vec a, vec b)
{
    return _mm512_max_ps(a, b);
}

static inline vec vec_min(vec a, vec b)
{
    return _mm512_min_ps(a, b);
}

static inline uint32_t vec_equal_mask(vec a, vec b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}

/* Lanes from least to most; a NaN is not. */
static inline uint32_t vec_between_mask(vec a, float least, float most)
{
    return _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(a, vec_set1(least), _CMP_GE_OQ), a,
                                   vec_set1(most), _CMP_LE_OQ);
}

/* a, and 0 where x is below least or a NaN */
static inline vec vec_or_0_below(vec a, vec x, float least)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, vec_set1(least), _CMP_GE_OQ), a);
}

/* Stores the lanes of the mask one behind the other; behind them, up to VEC_LANES, anything. Packed
 * in a register: straight to memory is microcode on some processors. */
static inline void vec_pack(float *to, vec a, uint32_t mask)
{
    _mm512_storeu_ps(to, _mm512_maskz_compress_ps((__mmask16)mask, a));
}

static inline vec vec_round(vec a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* a * 2^n, n whole, rounded once */
static inline vec vec_scale(vec a, vec n)
{
    return _mm512_scalef_ps(a, n);
}

/* Lane l and lane l + 8, added. */
static inline __m256 vec_fold_sum(vec a)
{
    return _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
}

static inline __m256 vec_fold_max(vec a)
{
    return _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
}

static inline vecd vecd_zero(void)
{
    return _mm512_setzero_pd();
}

/* a plus the lower, then the upper half of b */
static inline vecd vecd_add_both(vecd a, vec b)
{
    a = _mm512_add_pd(a, _mm512_cvtps_pd(_mm512_castps512_ps256(b)));
    return _mm512_add_pd(a, _mm512_cvtps_pd(_mm512_extractf32x8_ps(b, 1)));
}

static inline double vecd_sum(vecd a)
{
    return _mm512_reduce_add_pd(a);
}

/* --- whole numbers: 32 bits a lane, or 4 codes of 8 bits --- */

static inline veci veci_set1(int32_t value)
{
    return _mm512_set1_epi32(value);
}

static inline veci veci_load(const void *from)
{
    return _mm512_loadu_si512(from);
}

static inline veci veci_add(veci a, veci b)
{
    return _mm512_add_epi32(a, b);
}

static inline veci veci_shift_left(veci a, const int bits)
{
    return _mm512_slli_epi32(a, bits);
}

/* Of each byte the lower, and the upper four bits. */
static inline veci veci_low_halves(veci a)
{
    return _mm512_and_si512(a, _mm512_set1_epi8(0x0f));
}

static inline veci veci_high_halves(veci a)
{
    return veci_low_halves(_mm512_srli_epi16(a, 4));
}

#ifdef __AVX512VNNI__

/* acc[l] + the sum of codes[4l + i] * x[4l + i] for i below 4; codes without, x with a sign */
static inline veci veci_dot(veci codes, veci x, veci acc)
{
    return _mm512_dpbusd_epi32(acc, codes, x);
}

#define INT8_HAS_OFFSET 1 /* of codes, in products of them */

/* Codes of int8 as products take them: as they stand. */
typedef veci veci_int8;

static inline veci_int8 veci_int8_of(veci codes)
{
    return codes;
}

static inline veci veci_dot_int8(veci_int8 w, veci x, veci acc)
{
    return veci_dot(w, x, acc);
}

#else

#define INT8_HAS_OFFSET 0 /* of codes, in products of them */

/* Codes of int8 as products take them: the sizes of what they are less their offset, and which of
 * that is negative. */
typedef struct {
    veci sizes;
    __mmask64 negative;
} veci_int8;

static inline veci_int8 veci_int8_of(veci codes)
{
    veci less = _mm512_xor_si512(codes, _mm512_set1_epi8((char)0x80));
    return (veci_int8){_mm512_abs_epi8(less), _mm512_movepi8_mask(less)};
}

/* acc[l] + the sum of w[4l + i] * x[4l + i] for i below 4, x from -127 to 127. Of bytes the
 * instruction set multiplies such without a sign by such with one, in pairs whose sums, 2 * 128 *
 * 127 at most, fit 16 bits: the sign of w goes to x. */
static inline veci veci_dot_int8(veci_int8 w, veci x, veci acc)
{
    veci by = _mm512_mask_sub_epi8(x, w.negative, _mm512_setzero_si512(), x);
    veci pairs = _mm512_maddubs_epi16(w.sizes, by);
    return veci_add(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}

/* Products of int4 add up in 16 bits for half of a group: 8 * 2 * 15 * 127 is below 2^15. */
#define INT4_PARTS 2

/* acc[p] + codes[2p] * x[2p] + codes[2p + 1] * x[2p + 1], codes below 16 */
static inline veci veci_dot_narrow(veci codes, veci x, veci acc)
{
    return _mm512_add_epi16(acc, _mm512_maddubs_epi16(codes, x));
}

/* acc[l] + part[2l] + part[2l + 1] */
static inline veci veci_join(veci acc, veci part)
{
    return veci_add(acc, _mm512_madd_epi16(part, _mm512_set1_epi16(1)));
}

#endif

static inline vec vec_of_veci(veci a)
{
    return _mm512_cvtepi32_ps(a);
}

/* To the nearest, ties to even. */
static inline veci veci_of_vec(vec a)
{
    return _mm512_cvtps_epi32(a);
}

/* |a| as bits: in the order of the numbers, and a NaN above all of them. */
static inline veci veci_size(vec a)
{
    return _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x7fffffff));
}

static inline veci veci_max(veci a, veci b)
{
    return _mm512_max_epi32(a, b);
}

static inline int32_t veci_largest(veci a)
{
    return _mm512_reduce_max_epi32(a);
}

static inline int32_t veci_sum(veci a)
{
    return _mm512_reduce_add_epi32(a);
}

/* Numbers from -128 to 127 as bytes. */
static inline void veci_store_bytes(int8_t *to, veci a)
{
    _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8(a));
}
