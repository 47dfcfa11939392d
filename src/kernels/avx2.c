/*
 * The kernels for AVX2 with FMA: 8 lanes, 16 registers. Only what the instruction set is asked for
 * stands here; what is computed stands in vector.h.
 */
#include "kernels/isa.h"

#include <immintrin.h>
#include <string.h>

#define VEC_LANES 8

/* 3 x 4 sums, 3 of x and 1 of w fill the 16 registers. */
#define TILE_ROWS 3

/* One row: a single sum, 16 bytes of bf16 in 4 cycles, would take in half of what memory gives. */
#define LONE_ROW_OUTS 4

/* 4 queries x the 2 vectors of a word's positions: 8 sums, 2 of k, their words, 1 of q. */
#define SCORE_QUERIES 4

/* 4 queries x 2 vectors of values, or up to 2 x 4: 8 sums, their v and its words, 1 of weight. */
#define MIX_QUERIES 4
#define MIX_VECS 4

/* 2 rows of a panel are 8 sums; 4 of w, the halves of one and x take the rest. */
#define PANEL_ROWS 2

/* From 12 rows on a panel is unpacked for all of them: 6 rows of two vectors are 12 sums, the
 * others hold w and x. */
#define UNPACK_ROWS_MIN 12
#define UNPACK_ROWS 6
#define UNPACK_VECS 2

/* Of quantised ones: 8 sums of a group, those of all groups wait in memory. */
#define QUANTISED_ROWS 2

typedef __m256 vec;
typedef __m256d vecd;
typedef __m256i veci;

/* All ones in the first n lanes, n < VEC_LANES. */
static inline __m256i lanes_below(uint32_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline vec vec_set1(float value)
{
    return _mm256_set1_ps(value);
}

static inline vec vec_load_f32(const float *from)
{
    return _mm256_loadu_ps(from);
}

/* The first n lanes, n < VEC_LANES; the others are 0 and their memory is not touched. */
static inline vec vec_load_f32_part(const float *from, uint32_t n)
{
    return _mm256_maskload_ps(from, lanes_below(n));
}

static inline vec vec_load_bf16(const uint16_t *from)
{
    __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
}

static inline vec vec_load_bf16_part(const uint16_t *from, uint32_t n)
{
    uint16_t padded[VEC_LANES] = {0};
    memcpy(padded, from, n * sizeof(padded[0]));
    return vec_load_bf16(padded);
}

static inline vec vec_load_codes(const int8_t *from)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from)));
}

static inline vec vec_load_codes_part(const int8_t *from, uint32_t n)
{
    int8_t padded[VEC_LANES] = {0};
    memcpy(padded, from, n);
    return vec_load_codes(padded);
}

/* Of two bf16 a lane, the first and the second. */
static inline vec vec_of_low_halves(vec pairs)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(pairs), 16));
}

static inline vec vec_of_high_halves(vec pairs)
{
    __m256i mask = _mm256_set1_epi32((int)0xffff0000u);
    return _mm256_castsi256_ps(_mm256_and_si256(_mm256_castps_si256(pairs), mask));
}

/* Of four signed bytes a lane, byte `index` as a number. */
static inline vec vec_of_byte(vec words, int index)
{
    __m256i up = _mm256_sll_epi32(_mm256_castps_si256(words), _mm_cvtsi32_si128(24 - 8 * index));
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(up, 24));
}

/* The bits of `mask` in every lane. */
static inline vec vec_masked(vec words, uint32_t mask)
{
    return _mm256_and_ps(words, _mm256_castsi256_ps(_mm256_set1_epi32((int)mask)));
}

static inline void vec_store_f32(float *to, vec a)
{
    _mm256_storeu_ps(to, a);
}

static inline void vec_store_f32_part(float *to, vec a, uint32_t n)
{
    _mm256_maskstore_ps(to, lanes_below(n), a);
}

/* Round to nearest even; a NaN keeps its upper bits and becomes quiet. */
static inline __m128i bf16_of(vec a)
{
    __m256i bits = _mm256_castps_si256(a);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    __m256i upper = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1));
}

static inline void vec_store_bf16(uint16_t *to, vec a)
{
    _mm_storeu_si128((__m128i *)to, bf16_of(a));
}

static inline void vec_store_bf16_part(uint16_t *to, vec a, uint32_t n)
{
    uint16_t padded[VEC_LANES];
    vec_store_bf16(padded, a);
    memcpy(to, padded, n * sizeof(padded[0]));
}

static inline vec vec_add(vec a, vec b)
{
    return _mm256_add_ps(a, b);
}

static inline vec vec_sub(vec a, vec b)
{
    return _mm256_sub_ps(a, b);
}

static inline vec vec_mul(vec a, vec b)
{
    return _mm256_mul_ps(a, b);
}

static inline vec vec_div(vec a, vec b)
{
    return _mm256_div_ps(a, b);
}

/* a * b, and 0 where a is 0, whatever b is */
static inline vec vec_mul_or_0(vec a, vec b)
{
    __m256 is_not_0 = _mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_NEQ_UQ);
    return _mm256_and_ps(_mm256_mul_ps(a, b), is_not_0);
}

/* a * b + c with one rounding */
static inline vec vec_fma(vec a, vec b, vec c)
{
    return _mm256_fmadd_ps(a, b, c);
}

/* Both give b where either is a NaN. */
static inline vec vec_max(vec a, vec b)
{
    return _mm256_max_ps(a, b);
}

static inline vec vec_min(vec a, vec b)
{
    return _mm256_min_ps(a, b);
}

static inline uint32_t vec_equal_mask(vec a, vec b)
{
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ));
}

/* Lanes from least to most; a NaN is not. */
static inline uint32_t vec_between_mask(vec a, float least, float most)
{
    __m256 from = _mm256_cmp_ps(a, vec_set1(least), _CMP_GE_OQ);
    __m256 to = _mm256_cmp_ps(a, vec_set1(most), _CMP_LE_OQ);
    return (uint32_t)_mm256_movemask_ps(_mm256_and_ps(from, to));
}

/* a, and 0 where x is below least or a NaN */
static inline vec vec_or_0_below(vec a, vec x, float least)
{
    return _mm256_and_ps(a, _mm256_cmp_ps(x, vec_set1(least), _CMP_GE_OQ));
}

/* Stores the lanes of the mask one behind the other; behind them, up to VEC_LANES, anything. */
static inline void vec_pack(float *to, vec a, uint32_t mask)
{
    /* A byte for each lane: all ones where it is taken, and its number. */
    uint64_t taken = _pdep_u64(mask, 0x0101010101010101) * 0xff;
    uint64_t lanes = _pext_u64(0x0706050403020100, taken);
    __m256i order = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)lanes));
    _mm256_storeu_ps(to, _mm256_permutevar8x32_ps(a, order));
}

static inline vec vec_round(vec a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline vec power_of_two(__m256i n)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

/* a * 2^n, n whole and |n| <= 250. In two steps, as 2^n itself may lie outside of a float; the
 * first step of a normal a near 1 is exact. */
static inline vec vec_scale(vec a, vec n)
{
    __m256i whole = _mm256_cvtps_epi32(n);
    __m256i half = _mm256_srai_epi32(whole, 1);
    a = _mm256_mul_ps(a, power_of_two(half));
    return _mm256_mul_ps(a, power_of_two(_mm256_sub_epi32(whole, half)));
}

static inline __m256 vec_fold_sum(vec a)
{
    return a;
}

static inline __m256 vec_fold_max(vec a)
{
    return a;
}

static inline vecd vecd_zero(void)
{
    return _mm256_setzero_pd();
}

/* a plus the lower, then the upper half of b */
static inline vecd vecd_add_both(vecd a, vec b)
{
    a = _mm256_add_pd(a, _mm256_cvtps_pd(_mm256_castps256_ps128(b)));
    return _mm256_add_pd(a, _mm256_cvtps_pd(_mm256_extractf128_ps(b, 1)));
}

static inline double vecd_sum(vecd a)
{
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(two) + _mm_cvtsd_f64(_mm_unpackhi_pd(two, two));
}

/* --- whole numbers: 32 bits a lane, or 4 codes of 8 bits --- */

static inline veci veci_set1(int32_t value)
{
    return _mm256_set1_epi32(value);
}

static inline veci veci_load(const void *from)
{
    return _mm256_loadu_si256(from);
}

static inline veci veci_add(veci a, veci b)
{
    return _mm256_add_epi32(a, b);
}

static inline veci veci_shift_left(veci a, const int bits)
{
    return _mm256_slli_epi32(a, bits);
}

/* Of each byte the lower, and the upper four bits. */
static inline veci veci_low_halves(veci a)
{
    return _mm256_and_si256(a, _mm256_set1_epi8(0x0f));
}

static inline veci veci_high_halves(veci a)
{
    return veci_low_halves(_mm256_srli_epi16(a, 4));
}

#define INT8_HAS_OFFSET 0 /* of codes, in products of them */

/* Codes of int8 as products take them: less their offset, and the sizes of that. */
typedef struct {
    veci codes, sizes;
} veci_int8;

static inline veci_int8 veci_int8_of(veci codes)
{
    veci_int8 w = {.codes = _mm256_xor_si256(codes, _mm256_set1_epi8((char)0x80))};
    w.sizes = _mm256_abs_epi8(w.codes);
    return w;
}

/* acc[l] + the sum of w[4l + i] * x[4l + i] for i below 4, x from -127 to 127. Of bytes the
 * instruction set multiplies such without a sign by such with one, in pairs whose sums, 2 * 128 *
 * 127 at most, fit 16 bits: the sign of w goes to x. */
static inline veci veci_dot_int8(veci_int8 w, veci x, veci acc)
{
    veci pairs = _mm256_maddubs_epi16(w.sizes, _mm256_sign_epi8(x, w.codes));
    return veci_add(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* Products of int4 add up in 16 bits for half of a group: 8 * 2 * 15 * 127 is below 2^15. */
#define INT4_PARTS 2

/* acc[p] + codes[2p] * x[2p] + codes[2p + 1] * x[2p + 1], codes below 16 */
static inline veci veci_dot_narrow(veci codes, veci x, veci acc)
{
    return _mm256_add_epi16(acc, _mm256_maddubs_epi16(codes, x));
}

/* acc[l] + part[2l] + part[2l + 1] */
static inline veci veci_join(veci acc, veci part)
{
    return veci_add(acc, _mm256_madd_epi16(part, _mm256_set1_epi16(1)));
}

static inline vec vec_of_veci(veci a)
{
    return _mm256_cvtepi32_ps(a);
}

/* To the nearest, ties to even. */
static inline veci veci_of_vec(vec a)
{
    return _mm256_cvtps_epi32(a);
}

/* |a| as bits: in the order of the numbers, and a NaN above all of them. */
static inline veci veci_size(vec a)
{
    return _mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi32(0x7fffffff));
}

static inline veci veci_max(veci a, veci b)
{
    return _mm256_max_epi32(a, b);
}

static inline int32_t veci_largest(veci a)
{
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, _MM_SHUFFLE(1, 0, 3, 2)));
    return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 1)));
}

static inline int32_t veci_sum(veci a)
{
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, _MM_SHUFFLE(1, 0, 3, 2)));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1)));
}

/* Numbers from -128 to 127 as bytes. */
static inline void veci_store_bytes(int8_t *to, veci a)
{
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    _mm_storel_epi64((__m128i *)to, _mm_packs_epi16(words, words));
}

#define VEC_TABLE kernels_avx2
#define VEC_ISA KERNEL_ISA_AVX2
#include "kernels/vector.h"
