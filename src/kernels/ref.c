/*
 * The scalar truth: each operation as the loop that its formula reads like. Sums run in double in
 * the order of the index and are rounded once, so that what an optimised kernel differs by is that
 * kernel's own rounding.
 */
#include "kernels/isa.h"
#include "kernels/kv_store.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static float float_of_bf16(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* Round to nearest even; a NaN stays one (its payload could round away to infinity). */
static uint16_t bf16_of_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    if (isnan(value))
        return (uint16_t)(bits >> 16) | 0x40;
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float element(const void *from, enum kernel_dtype dtype, size_t index)
{
    if (dtype == KERNEL_CODES)
        return ((const int8_t *)from)[index];
    return dtype == KERNEL_BF16 ? float_of_bf16(((const uint16_t *)from)[index])
                                : ((const float *)from)[index];
}

/* --- matmul --- */

static inline void matmul(float *y, size_t y_stride, const float *x, size_t x_stride, const void *w,
                          enum kernel_dtype dtype, const float *bias, uint32_t rows, uint32_t in,
                          uint32_t out_begin, uint32_t out_end, int accumulate)
{
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t o = out_begin; o < out_end; o++) {
            double sum = 0;
            for (uint32_t i = 0; i < in; i++)
                sum += (double)x[r * x_stride + i] * element(w, dtype, (size_t)o * in + i);
            float *to = &y[r * y_stride + o];
            float value = (float)sum + (bias != NULL ? bias[o] : 0.0f);
            *to = accumulate ? *to + value : value;
        }
    }
}

static void matmul_f32(float *y, size_t y_stride, const float *x, size_t x_stride, const void *w,
                       const float *bias, uint32_t rows, uint32_t in, uint32_t out_begin,
                       uint32_t out_end, int accumulate)
{
    matmul(y, y_stride, x, x_stride, w, KERNEL_F32, bias, rows, in, out_begin, out_end, accumulate);
}

static void matmul_bf16(float *y, size_t y_stride, const float *x, size_t x_stride, const void *w,
                        const float *bias, uint32_t rows, uint32_t in, uint32_t out_begin,
                        uint32_t out_end, int accumulate)
{
    matmul(y, y_stride, x, x_stride, w, KERNEL_BF16, bias, rows, in, out_begin, out_end,
           accumulate);
}

/* Input k of output o stands in its panel at k, or in bf16 at pair k / 2. */
static size_t panel_index(enum kernel_dtype dtype, uint32_t in, uint32_t o, uint32_t k)
{
    if (dtype == KERNEL_CODE_PANELS)
        return ((size_t)(o / KERNEL_PANEL_OUTS) * in + k) * KERNEL_PANEL_OUTS +
               o % KERNEL_PANEL_OUTS;
    size_t pair = (size_t)(o / KERNEL_PANEL_OUTS) * ((in + 1) / 2) + k / 2;
    return (pair * KERNEL_PANEL_OUTS + o % KERNEL_PANEL_OUTS) * 2 + k % 2;
}

static inline void matmul_of_panels(float *y, size_t y_stride, const float *x, size_t x_stride,
                                    const void *w, enum kernel_dtype dtype, const float *bias,
                                    uint32_t rows, uint32_t in, uint32_t out_begin,
                                    uint32_t out_end, int accumulate)
{
    const enum kernel_dtype single = dtype == KERNEL_PANELS ? KERNEL_BF16 : KERNEL_CODES;
    assert(out_begin % KERNEL_PANEL_OUTS == 0);
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t o = out_begin; o < out_end; o++) {
            double sum = 0;
            for (uint32_t i = 0; i < in; i++)
                sum +=
                    (double)x[r * x_stride + i] * element(w, single, panel_index(dtype, in, o, i));
            float *to = &y[r * y_stride + o];
            float value = (float)sum + (bias != NULL ? bias[o] : 0.0f);
            *to = accumulate ? *to + value : value;
        }
    }
}

static void matmul_panels(float *y, size_t y_stride, const float *x, size_t x_stride, const void *w,
                          const float *bias, uint32_t rows, uint32_t in, uint32_t out_begin,
                          uint32_t out_end, int accumulate)
{
    matmul_of_panels(y, y_stride, x, x_stride, w, KERNEL_PANELS, bias, rows, in, out_begin, out_end,
                     accumulate);
}

static void matmul_codes(float *y, size_t y_stride, const float *x, size_t x_stride, const void *w,
                         const float *bias, uint32_t rows, uint32_t in, uint32_t out_begin,
                         uint32_t out_end, int accumulate)
{
    matmul(y, y_stride, x, x_stride, w, KERNEL_CODES, bias, rows, in, out_begin, out_end,
           accumulate);
}

static void matmul_code_panels(float *y, size_t y_stride, const float *x, size_t x_stride,
                               const void *w, const float *bias, uint32_t rows, uint32_t in,
                               uint32_t out_begin, uint32_t out_end, int accumulate)
{
    matmul_of_panels(y, y_stride, x, x_stride, w, KERNEL_CODE_PANELS, bias, rows, in, out_begin,
                     out_end, accumulate);
}

/* --- quantised matmul --- */

/* What a row of inputs consists of; see kernel_quantised_bytes. */
struct quantised {
    int8_t *codes;
    float *scales;
    int32_t *minus_sums;
};

static struct quantised quantised_at(void *row, uint32_t in)
{
    struct quantised q = {.codes = row};
    q.scales = (void *)(q.codes + (size_t)kernel_groups(in) * KERNEL_GROUP);
    q.minus_sums = (void *)(q.scales + kernel_groups(in));
    return q;
}

static void quantise(void *to, const float *from, uint32_t n)
{
    struct quantised q = quantised_at(to, n);
    for (uint32_t g = 0; g < kernel_groups(n); g++) {
        uint32_t begin = g * KERNEL_GROUP;
        uint32_t end = n - begin < KERNEL_GROUP ? n : begin + KERNEL_GROUP;
        float largest = 0;
        for (uint32_t i = begin; i < end; i++)
            if (!(fabsf(from[i]) <= largest)) /* a NaN is larger than everything, and stays */
                largest = isnan(largest) ? largest : fabsf(from[i]);
        float inverse = 127 / largest;
        if (!isfinite(inverse)) /* too small to matter: 0 */
            inverse = 0;
        q.scales[g] = largest / 127;
        q.minus_sums[g] = 0;
        for (uint32_t i = begin; i < begin + KERNEL_GROUP; i++) {
            float value = i < end && isfinite(largest) ? from[i] * inverse : 0;
            q.codes[i] = (int8_t)lrintf(value);
            q.minus_sums[g] -= q.codes[i];
        }
    }
}

/* Code less offset of input k of an output of a panel; KERNEL_INT8 or KERNEL_INT4. */
static inline int code_of(const uint8_t *panel, enum kernel_dtype dtype, uint32_t lane, uint32_t k)
{
    const uint8_t *group = panel + k / KERNEL_GROUP * kernel_group_bytes(dtype);
    const uint8_t *codes = group + KERNEL_PANEL_OUTS * sizeof(uint16_t);
    uint32_t per_word = dtype == KERNEL_INT4 ? 8 : 4;
    const uint8_t *word =
        codes + ((size_t)(k % KERNEL_GROUP / per_word) * KERNEL_PANEL_OUTS + lane) * 4;
    if (dtype == KERNEL_INT8)
        return word[k % 4] - KERNEL_INT8_OFFSET;
    return (k % 8 < 4 ? word[k % 4] & 15 : word[k % 4] >> 4) - KERNEL_INT4_OFFSET;
}

static inline float scale_of(const uint8_t *panel, enum kernel_dtype dtype, uint32_t lane,
                             uint32_t group)
{
    return element(panel + group * kernel_group_bytes(dtype), KERNEL_BF16, lane);
}

static inline void matmul_quantised(float *y, size_t y_stride, const void *x, const uint8_t *w,
                                    enum kernel_dtype dtype, const float *bias, uint32_t rows,
                                    uint32_t in, uint32_t out_begin, uint32_t out_end,
                                    int accumulate)
{
    for (uint32_t r = 0; r < rows; r++) {
        char *row = (char *)(uintptr_t)x + r * kernel_quantised_bytes(in);
        const struct quantised q = quantised_at(row, in);
        for (uint32_t o = out_begin; o < out_end; o++) {
            const uint8_t *panel = w + o / KERNEL_PANEL_OUTS * kernel_panel_bytes(dtype, in);
            uint32_t lane = o % KERNEL_PANEL_OUTS;
            double sum = 0;
            for (uint32_t g = 0; g < kernel_groups(in); g++) {
                int32_t codes = 0;
                for (uint32_t k = g * KERNEL_GROUP; k < (g + 1) * KERNEL_GROUP; k++)
                    codes += q.codes[k] * code_of(panel, dtype, lane, k);
                sum += (double)q.scales[g] * scale_of(panel, dtype, lane, g) * codes;
            }
            float *to = &y[r * y_stride + o];
            float value = (float)sum + (bias != NULL ? bias[o] : 0.0f);
            *to = accumulate ? *to + value : value;
        }
    }
}

static void matmul_int8(float *y, size_t y_stride, const void *x, const void *w, const float *bias,
                        uint32_t rows, uint32_t in, uint32_t out_begin, uint32_t out_end,
                        int accumulate)
{
    matmul_quantised(y, y_stride, x, w, KERNEL_INT8, bias, rows, in, out_begin, out_end,
                     accumulate);
}

static void matmul_int4(float *y, size_t y_stride, const void *x, const void *w, const float *bias,
                        uint32_t rows, uint32_t in, uint32_t out_begin, uint32_t out_end,
                        int accumulate)
{
    matmul_quantised(y, y_stride, x, w, KERNEL_INT4, bias, rows, in, out_begin, out_end,
                     accumulate);
}

static inline void load_row_quantised(float *to, const uint8_t *w, enum kernel_dtype dtype,
                                      uint32_t in, uint32_t row)
{
    const uint8_t *panel = w + row / KERNEL_PANEL_OUTS * kernel_panel_bytes(dtype, in);
    uint32_t lane = row % KERNEL_PANEL_OUTS;
    for (uint32_t i = 0; i < in; i++)
        to[i] =
            scale_of(panel, dtype, lane, i / KERNEL_GROUP) * (float)code_of(panel, dtype, lane, i);
}

static void load_row_int8(float *to, const void *w, uint32_t in, uint32_t row)
{
    load_row_quantised(to, w, KERNEL_INT8, in, row);
}

static void load_row_int4(float *to, const void *w, uint32_t in, uint32_t row)
{
    load_row_quantised(to, w, KERNEL_INT4, in, row);
}

/* --- attention --- */

/* Element `e` of the keys (or values) of position `index`, at what its scale makes of it. */
static float kv_element(const void *block, enum kernel_kv kv, uint32_t dim, int is_value,
                        uint32_t index, uint32_t d)
{
    const char *base = (const char *)block + (is_value ? kernel_kv_values_at(kv, dim) : 0);
    uint32_t g = kernel_kv_group(kv);
    size_t at = is_value ? (index / g * (size_t)dim + d) * g + index % g
                         : (d / g * (size_t)KERNEL_KV_TOKENS + index) * g + d % g;
    if (kv == KERNEL_KV_F32)
        return ((const float *)(const void *)base)[at];
    if (kv == KERNEL_KV_BF16)
        return float_of_bf16(((const uint16_t *)(const void *)base)[at]);
    float scale;
    memcpy(&scale,
           (const char *)block + kernel_kv_scales_at(kv, dim) +
               (is_value ? KERNEL_KV_TOKENS + index : index) * sizeof(float),
           sizeof scale);
    return (float)((const int8_t *)base)[at] * scale;
}

#define MIX_DIMS 64u /* dimensions that share the computation of a weight */

/* The query's scores go to scratch. */
static void attend_query(struct kernel_attention *ret, uint32_t query, const float *q,
                         const struct kernel_attended *a, enum kernel_kv kv, uint32_t begin,
                         uint32_t end)
{
    float *scores = a->scratch, largest = -INFINITY, *values = ret->values + (size_t)query * a->dim;
    double sum = 0;
    for (uint32_t p = begin; p < end; p++) {
        const void *block = a->blocks[p / KERNEL_KV_TOKENS];
        double score = 0;
        for (uint32_t d = 0; d < a->dim; d++)
            score += (double)q[d] * kv_element(block, kv, a->dim, 0, p % KERNEL_KV_TOKENS, d);
        scores[p] = (float)score * a->scale;
        largest = fmaxf(largest, scores[p]);
    }
    for (uint32_t p = begin; p < end; p++)
        sum += exp((double)scores[p] - largest);
    for (uint32_t d = 0; d < a->dim; d += MIX_DIMS) {
        uint32_t count = a->dim - d < MIX_DIMS ? a->dim - d : MIX_DIMS;
        double mixed[MIX_DIMS] = {0};
        for (uint32_t p = begin; p < end; p++) {
            double weight = exp((double)scores[p] - largest);
            for (uint32_t i = 0; i < count; i++)
                mixed[i] += weight * kv_element(a->blocks[p / KERNEL_KV_TOKENS], kv, a->dim, 1,
                                                p % KERNEL_KV_TOKENS, d + i);
        }
        for (uint32_t i = 0; i < count; i++)
            values[d + i] = (float)mixed[i];
    }
    ret->largest[query] = largest;
    ret->sum[query] = (float)sum;
}

static void attend(struct kernel_attention *ret, const struct kernel_attended *a, enum kernel_kv kv)
{
    for (uint32_t r = 0, query = 0; r < a->row_count; r++) {
        uint32_t begin, end;
        kernel_seen(a, r, &begin, &end);
        for (uint32_t h = 0; h < a->heads; h++, query++) {
            ret->sum[query] = 0;
            if (begin < end)
                attend_query(ret, query, a->q + r * a->q_stride + (size_t)h * a->dim, a, kv, begin,
                             end);
        }
    }
}

static void attend_f32(struct kernel_attention *ret, const struct kernel_attended *a)
{
    attend(ret, a, KERNEL_KV_F32);
}

static void attend_bf16(struct kernel_attention *ret, const struct kernel_attended *a)
{
    attend(ret, a, KERNEL_KV_BF16);
}

static void attend_int8(struct kernel_attention *ret, const struct kernel_attended *a)
{
    attend(ret, a, KERNEL_KV_INT8);
}

static void attend_join(struct kernel_attention *into, const struct kernel_attention *span,
                        uint32_t queries, uint32_t dim)
{
    for (size_t i = 0; i < queries; i++) {
        if (span->sum[i] == 0)
            continue;
        int is_first = into->sum[i] == 0;
        float largest = is_first ? span->largest[i] : fmaxf(into->largest[i], span->largest[i]);
        double old = is_first ? 0 : exp((double)into->largest[i] - largest);
        double new = exp((double)span->largest[i] - largest);
        for (size_t d = i * dim; d < (i + 1) * dim; d++)
            into->values[d] =
                is_first ? span->values[d] : (float)(into->values[d] * old + span->values[d] * new);
        into->sum[i] = is_first ? span->sum[i] : (float)(into->sum[i] * old + span->sum[i] * new);
        into->largest[i] = largest;
    }
}

static void attend_end(float *out, size_t out_stride, const struct kernel_attention *all,
                       uint32_t rows, uint32_t heads, uint32_t dim)
{
    for (size_t i = 0; i < (size_t)rows * heads; i++)
        for (size_t d = 0; d < dim; d++)
            out[i / heads * out_stride + i % heads * dim + d] =
                all->values[i * dim + d] / all->sum[i];
}

/* --- conversions --- */

static void store_f32(void *to, const float *from, uint32_t n)
{
    memcpy(to, from, n * sizeof(float));
}

static void store_bf16(void *to, const float *from, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        ((uint16_t *)to)[i] = bf16_of_float(from[i]);
}

static void load_f32(float *to, const void *from, uint32_t n)
{
    memcpy(to, from, n * sizeof(float));
}

static void load_bf16(float *to, const void *from, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        to[i] = float_of_bf16(((const uint16_t *)from)[i]);
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
    for (uint32_t i = 0; i < in; i++)
        to[i] = element(w, KERNEL_BF16, panel_index(KERNEL_PANELS, in, row, i));
}

/* --- rows --- */

static void rms_norm(float *y, const float *x, const float *w, uint32_t n, float eps)
{
    double squares = 0;
    for (uint32_t i = 0; i < n; i++)
        squares += (double)x[i] * x[i];
    float factor = (float)(1 / sqrt(squares / n + eps));
    for (uint32_t i = 0; i < n; i++)
        y[i] = x[i] * factor * w[i];
}

static void rope(float *x, const float *cos, const float *sin, uint32_t heads, uint32_t stride,
                 uint32_t dim)
{
    assert(dim % 2 == 0 && dim <= stride);
    uint32_t half = dim / 2;
    for (uint32_t h = 0; h < heads; h++) {
        float *low = x + (size_t)h * stride, *high = low + half;
        for (uint32_t d = 0; d < half; d++) {
            float a = low[d], b = high[d];
            low[d] = a * cos[d] - b * sin[d];
            high[d] = b * cos[d] + a * sin[d];
        }
    }
}

static void silu_mul(float *gate, const float *up, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        gate[i] = (float)(gate[i] / (1 + exp(-(double)gate[i]))) * up[i];
}

static void gelu_mul(float *gate, const float *up, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        double x = gate[i];
        double u = sqrt(2 / M_PI) * (x + 0.044715 * x * x * x);
        gate[i] = (float)(x / (1 + exp(-2 * u))) * up[i];
    }
}

static void add(float *y, const float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] += x[i];
}

static uint32_t argmax(const float *x, uint32_t n)
{
    float largest = -INFINITY;
    uint32_t index = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (x[i] > largest) {
            largest = x[i];
            index = i;
        }
    }
    return index;
}

static double log_sum_exp(const float *x, uint32_t n)
{
    float largest = x[argmax(x, n)];
    if (isinf(largest))
        return largest;
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += exp((double)x[i] - largest);
    return largest + log(sum);
}

static double weigh_logits(float *weights, const float *x, uint32_t n, float largest,
                           float inverse_temperature, float least)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        double exponent = ((double)x[i] - largest) * inverse_temperature;
        weights[i] = x[i] >= least ? (float)exp(exponent) : 0;
        sum += weights[i];
    }
    return sum;
}

static uint32_t select_between(float *ret, const float *x, uint32_t n, float least, float most)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < n; i++)
        if (x[i] >= least && x[i] <= most)
            ret[count++] = x[i];
    return count;
}

/* --- ceilings: four sums under way, one would wait for itself --- */

static float ceiling_read(const float *from, size_t bytes)
{
    float sums[4] = {0};
    for (size_t i = 0; i < bytes / sizeof(float); i += 4)
        for (size_t s = 0; s < 4; s++)
            sums[s] += from[i + s];
    return sums[0] + sums[1] + sums[2] + sums[3];
}

static uint64_t ceiling_f32(uint64_t rounds, float *factor)
{
    float sums[4] = {0.1f, 0.2f, 0.3f, 0.4f}, by = *factor;
    for (uint64_t r = 0; r < rounds; r++)
        for (size_t s = 0; s < 4; s++)
            sums[s] = sums[s] * by + by;
    *factor = sums[0] + sums[1] + sums[2] + sums[3];
    return rounds * 4 * 2;
}

static uint64_t ceiling_int8(uint64_t rounds, float *factor)
{
    uint8_t code = (uint8_t)(127 * *factor);
    uint32_t sums[4] = {0, 1, 2, 3};
    for (uint64_t r = 0; r < rounds; r++)
        for (int s = 0; s < 4; s++) {
            __asm__("" : "+r"(code)); /* each product is made */
            sums[s] += (uint32_t)code * code;
        }
    *factor = (float)(sums[0] + sums[1] + sums[2] + sums[3]);
    return rounds * 4 * 2;
}

const struct kernels kernels_ref = {
    .isa = KERNEL_ISA_REF,
    .matmul = {[KERNEL_F32] = matmul_f32,
               [KERNEL_BF16] = matmul_bf16,
               [KERNEL_PANELS] = matmul_panels,
               [KERNEL_CODES] = matmul_codes,
               [KERNEL_CODE_PANELS] = matmul_code_panels},
    .matmul_quantised = {[KERNEL_INT8] = matmul_int8, [KERNEL_INT4] = matmul_int4},
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
        {[KERNEL_MULTIPLY_F32] = ceiling_f32, [KERNEL_MULTIPLY_INT8] = ceiling_int8},
};
