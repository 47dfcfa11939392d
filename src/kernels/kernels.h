/*
 * The arithmetic of a forward pass as plain functions with primitive arguments, and the table that
 * holds one implementation of each, filled once at start. ref.c defines the truth; every other
 * implementation is checked against it over odd shapes.
 *
 * Shapes are written [rows, columns], row-major. Unless said otherwise, pointers need no alignment
 * beyond that of one element, counts may be any number >= 1, and outputs never overlap inputs.
 *
 * Order of summation: an output depends only on its own inputs, never on how many rows are in the
 * call nor on how outputs are split over calls, so results are bitwise the same alone, in a batch
 * and with any number of threads (for one instruction set).
 */
#pragma once

#include "base/error.h"
#include "kernels/attention.h"

#include <stddef.h>
#include <stdint.h>

/* The numeric values of enum image_dtype, so that a weight's dtype indexes the table. */
enum kernel_dtype {
    KERNEL_F32 = 0,
    KERNEL_BF16 = 1,
    KERNEL_ROWS_COUNT, /* the dtypes of single values */
    /* A matrix of bf16 [outs, in] in panels of KERNEL_PANEL_OUTS outputs. A panel holds, for each
     * pair of inputs in turn, the pair of each output: what all outputs of the panel need at the
     * same time. Outputs and inputs that are missing are 0 there. */
    KERNEL_PANELS = KERNEL_ROWS_COUNT,
    /* Quantised matrices in panels, over groups of KERNEL_GROUP inputs. A panel is, for each
     * group in turn, the scales, bf16 [outputs], and the codes, [words, outputs] of
     * 4 bytes; a value is scale * (code - offset). INT8: offset 128, a word is 4 inputs. INT4:
     * offset 8, a word is 8 inputs: the low halves of its bytes, then the high halves. */
    KERNEL_INT8,
    KERNEL_INT4,
    /* Signed bytes that stand for themselves: what they are worth is known to the caller, who gives
     * it to x or y. A matrix [outs, in] in rows; and in panels of KERNEL_PANEL_OUTS outputs, for
     * each input in turn the byte of each output. Outputs that are missing are 0 there. */
    KERNEL_CODES,
    KERNEL_CODE_PANELS,
    KERNEL_DTYPE_COUNT,
};

#define KERNEL_PANEL_OUTS 32u
#define KERNEL_GROUP 64u
#define KERNEL_INT8_OFFSET 128
#define KERNEL_INT4_OFFSET 8

static inline uint32_t kernel_groups(uint32_t in)
{
    return (in + KERNEL_GROUP - 1) / KERNEL_GROUP;
}

/* Bytes of a group of a panel of KERNEL_INT8 or KERNEL_INT4. */
static inline size_t kernel_group_bytes(enum kernel_dtype dtype)
{
    size_t codes = (size_t)KERNEL_PANEL_OUTS * KERNEL_GROUP;
    return KERNEL_PANEL_OUTS * sizeof(uint16_t) + (dtype == KERNEL_INT4 ? codes / 2 : codes);
}

/* Bytes of one panel of a dtype that has panels. */
static inline size_t kernel_panel_bytes(enum kernel_dtype dtype, uint32_t in)
{
    if (dtype == KERNEL_PANELS)
        return (size_t)((in + 1) / 2) * KERNEL_PANEL_OUTS * 2 * sizeof(uint16_t);
    if (dtype == KERNEL_CODE_PANELS)
        return (size_t)in * KERNEL_PANEL_OUTS;
    return kernel_groups(in) * kernel_group_bytes(dtype);
}

/* A row of inputs as kernel_quantise leaves it: codes int8 [groups * KERNEL_GROUP], scales float
 * [groups], and int32 [groups], minus the sum of a group's codes, which times the offset is what
 * the weights' offset adds too much. Bytes of it, whole cache lines. */
static inline size_t kernel_quantised_bytes(uint32_t in)
{
    return ((size_t)kernel_groups(in) * (KERNEL_GROUP + sizeof(float) + sizeof(int32_t)) + 63) /
           64 * 64;
}

enum kernel_isa {
    KERNEL_ISA_REF,
    KERNEL_ISA_AVX2,
    KERNEL_ISA_AVX512,
    KERNEL_ISA_AVX512VNNI,
    KERNEL_ISA_AVX512BF16,
    KERNEL_ISA_AMX,
    KERNEL_ISA_COUNT,
};

/*
 * y[r, o] = sum_i x[r, i] * w[o, i]  for o in [out_begin, out_end), r in [0, rows)
 * x [rows, in] with x_stride floats between rows; w [*, in] of the function's dtype; y with
 * y_stride floats between rows, indexed by the absolute o. bias [*] by absolute o, or NULL.
 * accumulate != 0: added to what y holds. In panels out_begin is a multiple of KERNEL_PANEL_OUTS.
 *
 * Calls split over threads by output should read 128 KiB of weights or more each (for one row,
 * 1 MiB reaches the memory's speed, 64 KiB three quarters of it).
 */
typedef void kernel_matmul(float *y, size_t y_stride, const float *x, size_t x_stride,
                           const void *w, const float *bias, uint32_t rows, uint32_t in,
                           uint32_t out_begin, uint32_t out_end, int accumulate);

/* As kernel_matmul for w of bf16 (rows or panels), with x rounded to bf16 too (by kernel_store):
 * instructions that multiply pairs of them do twice the arithmetic. A product of two bf16 is exact
 * in float; the rounding of x is the whole difference, 2^-8 of each element at most. */
typedef void kernel_matmul_half(float *y, size_t y_stride, const uint16_t *x, size_t x_stride,
                                const void *w, const float *bias, uint32_t rows, uint32_t in,
                                uint32_t out_begin, uint32_t out_end, int accumulate);

/* As kernel_matmul for w of KERNEL_INT8 or KERNEL_INT4, with x quantised too: x [rows], each of
 * kernel_quantised_bytes(in). Products of codes are summed exactly within a group; the groups' sums
 * are added as floats in rising order, each times both scales. */
typedef void kernel_matmul_quantised(float *y, size_t y_stride, const void *x, const void *w,
                                     const float *bias, uint32_t rows, uint32_t in,
                                     uint32_t out_begin, uint32_t out_end, int accumulate);

/* Rounds n values to int8, group by group: scale = max |x| / 127, code = x / scale to the nearest,
 * ties to even. A group with a value that is not finite has the scale NaN or infinity. */
typedef void kernel_quantise(void *to, const float *from, uint32_t n);

/* y[i] = x[i] * w[i] / sqrt(mean(x^2) + eps), n values (RMSNorm, Zhang and Sennrich 2019).
 * y may be x. */
typedef void kernel_rms_norm(float *y, const float *x, const float *w, uint32_t n, float eps);

/* Rotates the two halves of the first `dim` values of each head in place (the "rotate half" form of
 * Hugging Face): x [heads, stride], cos and sin [dim / 2] of the row's position; dim is even. */
typedef void kernel_rope(float *x, const float *cos, const float *sin, uint32_t heads,
                         uint32_t stride, uint32_t dim);

/* gate[i] = f(gate[i]) * up[i], f(x) = x / (1 + e^-x) (SiLU), or x / (1 + e^-2u) with
 * u = sqrt(2 / pi) (x + 0.044715 x^3) (GELU by tanh, Hendrycks and Gimpel 2016). */
typedef void kernel_gated_mul(float *gate, const float *up, uint32_t n);

/* y[i] += x[i] */
typedef void kernel_add(float *y, const float *x, uint32_t n);

/* Stores n floats as the KV dtype of the function, rounding to nearest even; a NaN stays one. */
typedef void kernel_store(void *to, const float *from, uint32_t n);

/* Expands n values of the dtype to float. */
typedef void kernel_load(float *to, const void *from, uint32_t n);

/* Expands row `row` of w [*, in] to float [in]. */
typedef void kernel_load_row(float *to, const void *w, uint32_t in, uint32_t row);

/* The index of the largest value, the first of equals. A NaN never wins; 0 when nothing is above
 * -infinity. */
typedef uint32_t kernel_argmax(const float *x, uint32_t n);

/* log(sum(exp(x))), computed from the largest value, in double where it sums. A NaN
 * among finite values gives a NaN. */
typedef double kernel_log_sum_exp(const float *x, uint32_t n);

/* weights[i] = exp((x[i] - largest) * inverse_temperature), and 0 where x[i] is below `least` or a
 * NaN; returns their sum, in double. No x[i] is above `largest`; all parameters are finite. A
 * weight depends on its x[i] alone; with inverse_temperature 0 each is exactly 1. */
typedef double kernel_weigh(float *weights, const float *x, uint32_t n, float largest,
                            float inverse_temperature, float least);

/* The values from `least` to `most`, in their order, to ret [n], which may be x; returns how many
 * there are. A NaN is none of them. What stands in ret behind them may be anything. */
typedef uint32_t kernel_select(float *ret, const float *x, uint32_t n, float least, float most);

/* Reads `bytes` (a multiple of 256) as fast as the instruction set can: the sum of the floats. */
typedef float kernel_ceiling_read(const float *from, size_t bytes);

/* What products are made of. */
enum kernel_arithmetic {
    KERNEL_MULTIPLY_F32,
    KERNEL_MULTIPLY_BF16, /* pairs of bf16, added up as float */
    KERNEL_MULTIPLY_INT8, /* fours of bytes, added up as int32 */
    KERNEL_MULTIPLY_COUNT,
};

/* Multiplies and adds in registers only, for `rounds` rounds; *factor in [0, 1) becomes a number
 * that depends on all of them. Returns the operations, two for each product that is added. */
typedef uint64_t kernel_ceiling_multiply(uint64_t rounds, float *factor);

struct kernels {
    enum kernel_isa isa;
    kernel_matmul *matmul[KERNEL_DTYPE_COUNT]; /* by dtype of w; NULL for quantised ones */
    /* NULL but for bf16, and where the instruction set has no such products */
    kernel_matmul_half *matmul_half[KERNEL_DTYPE_COUNT];
    kernel_matmul_quantised *matmul_quantised[KERNEL_DTYPE_COUNT]; /* NULL but for quantised ones */
    kernel_quantise *quantise;
    kernel_kv_store *kv_store[KERNEL_KV_COUNT];
    kernel_attend *attend[KERNEL_KV_COUNT];
    kernel_attend_join *attend_join;
    kernel_attend_end *attend_end;
    kernel_store *store[KERNEL_ROWS_COUNT];
    kernel_load *load[KERNEL_ROWS_COUNT];
    kernel_load_row *load_row[KERNEL_DTYPE_COUNT];
    kernel_rms_norm *rms_norm;
    kernel_rope *rope;
    kernel_gated_mul *silu_mul;
    kernel_gated_mul *gelu_mul;
    kernel_add *add;
    kernel_argmax *argmax;
    kernel_log_sum_exp *log_sum_exp;
    kernel_weigh *weigh;
    kernel_select *select;
    kernel_ceiling_read *ceiling_read; /* for ceiling.c */
    /* NULL where the instruction set has no such products */
    kernel_ceiling_multiply *ceiling_multiply[KERNEL_MULTIPLY_COUNT];
};

/* The table of the best instruction set of this processor, or of the one that the environment
 * variable SLLORA_ISA (scalar, avx2, avx512, avx512vnni, avx512bf16, amx) asks for. -EINVAL: no
 * such name; -ENOTSUP: this processor lacks it. The table is constant and lives forever. */
int kernels_select(const struct kernels **ret, struct error *err);

/* The table of one instruction set, or NULL where the processor lacks it. */
const struct kernels *kernels_get(enum kernel_isa isa);
const char *kernels_isa_name(enum kernel_isa isa);
