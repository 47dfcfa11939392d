/* The kernels for AVX-512 with BF16 and VNNI: products of pairs of bf16, two for the price of one,
 * and of fours of bytes. */
#include "kernels/avx512.h"

/* Lanes of bf16 that one product takes. */
#define DOT_LANES 32

static inline vec dot_load(const uint16_t *from)
{
    return _mm512_castsi512_ps(_mm512_loadu_si512(from));
}

/* The first n of the lanes, n < DOT_LANES; the others are 0 and their memory is not touched. */
static inline vec dot_load_part(const uint16_t *from, uint32_t n)
{
    return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16((__mmask32)((1u << n) - 1), from));
}

/* The same pair of bf16 in every lane. */
static inline vec dot_set1(uint32_t pair)
{
    return _mm512_castsi512_ps(_mm512_set1_epi32((int)pair));
}

/* acc[l] + a[2l] * b[2l] + a[2l + 1] * b[2l + 1], each step rounded; subnormals count as 0 */
static inline vec dot(vec a, vec b, vec acc)
{
    return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b);
}

/* Of four signed bytes a lane, those at `index` and `index` + 1 as bf16, which holds them exactly:
 * the lower half of such a float is 0. */
static inline vec dot_of_bytes(vec words, int index)
{
    __m512i first = _mm512_castps_si512(vec_of_byte(words, index));
    __m512i second = _mm512_castps_si512(vec_of_byte(words, index + 1));
    return _mm512_castsi512_ps(_mm512_or_si512(_mm512_srli_epi32(first, 16), second));
}

/* Stores as bf16, rounded to nearest even with subnormals as 0, and returns what that is. */
static inline vec dot_store(uint16_t *to, vec a)
{
    __m256i halves = (__m256i)_mm512_cvtneps_pbh(a);
    _mm256_storeu_si256((__m256i *)to, halves);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

#define VEC_TABLE kernels_avx512bf16
#define VEC_ISA KERNEL_ISA_AVX512BF16
#include "kernels/vector.h"
