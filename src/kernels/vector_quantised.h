/*
 * Part of vector.h: quantised rows, and their products with quantised matrices. Within a group all
 * arithmetic is of whole numbers and exact, so its order is free; between groups it is the order of
 * the inputs.
 */
#define QUANTISED_VECS ((int)KERNEL_PANEL_OUTS / VEC_LANES)
#define SCALES_BYTES (KERNEL_PANEL_OUTS * sizeof(uint16_t))
#define WORD_BYTES ((size_t)KERNEL_PANEL_OUTS * 4)

/* The offsets of codes as powers of two. */
#define INT8_OFFSET_BITS 7
#define INT4_OFFSET_BITS 3
_Static_assert(KERNEL_INT8_OFFSET == 1 << INT8_OFFSET_BITS, "a shift multiplies by it");
_Static_assert(KERNEL_INT4_OFFSET == 1 << INT4_OFFSET_BITS, "a shift multiplies by it");

/* One row of inputs; see kernel_quantised_bytes. */
struct quantised_row {
    const int8_t *codes;
    const float *scales;
    const int32_t *minus_sums;
};

INLINE struct quantised_row quantised_row_of(const void *x, uint32_t in)
{
    struct quantised_row q = {.codes = x};
    q.scales = (const void *)(q.codes + (size_t)kernel_groups(in) * KERNEL_GROUP);
    q.minus_sums = (const void *)(q.scales + kernel_groups(in));
    return q;
}

/* --- rounding --- */

/* KERNEL_GROUP values; returns the sum of their codes. */
INLINE int32_t quantise_group(int8_t *codes, float *scale, const float *from)
{
    veci size = veci_set1(0);
#pragma GCC unroll 8
    for (uint32_t i = 0; i < KERNEL_GROUP; i += VEC_LANES)
        size = veci_max(size, veci_size(vec_load_f32(from + i)));
    int32_t bits = veci_largest(size);
    float largest;
    memcpy(&largest, &bits, sizeof largest);
    float inverse = 127 / largest;
    *scale = largest / 127;
    if (!isfinite(largest) || !isfinite(inverse)) {
        memset(codes, 0, KERNEL_GROUP);
        return 0;
    }
    veci sum = veci_set1(0);
#pragma GCC unroll 8
    for (uint32_t i = 0; i < KERNEL_GROUP; i += VEC_LANES) {
        veci code = veci_of_vec(vec_mul(vec_load_f32(from + i), vec_set1(inverse)));
        veci_store_bytes(codes + i, code);
        sum = veci_add(sum, code);
    }
    return veci_sum(sum);
}

static void quantise(void *to, const float *from, uint32_t n)
{
    const struct quantised_row row = quantised_row_of(to, n);
    int8_t *codes = to;
    float *scales = (float *)(uintptr_t)row.scales;
    int32_t *minus_sums = (int32_t *)(uintptr_t)row.minus_sums;
    uint32_t g = 0, whole = n / KERNEL_GROUP;
    for (; g < whole; g++, codes += KERNEL_GROUP, from += KERNEL_GROUP)
        minus_sums[g] = -quantise_group(codes, &scales[g], from);
    if (n % KERNEL_GROUP != 0) {
        float padded[KERNEL_GROUP] = {0};
        memcpy(padded, from, n % KERNEL_GROUP * sizeof(float));
        minus_sums[g] = -quantise_group(codes, &scales[g], padded);
    }
}

/* --- products --- */

/* The 4 codes from k on in every lane. */
INLINE veci codes_set1(const int8_t *codes)
{
    int32_t four;
    memcpy(&four, codes, sizeof four);
    return veci_set1(four);
}

/* acc[r] += the products of one word of each output with the codes of x from k on */
INLINE void quantised_step(veci acc[QUANTISED_ROWS][QUANTISED_VECS], const char *word,
                           const struct quantised_row x[QUANTISED_ROWS], size_t k,
                           const int is_int4, const int row_count)
{
#pragma GCC unroll 4
    for (int v = 0; v < QUANTISED_VECS; v++) {
        veci codes = veci_load(word + v * (int)sizeof(veci));
        veci low = is_int4 ? veci_low_halves(codes) : codes;
        veci high = is_int4 ? veci_high_halves(codes) : codes;
#pragma GCC unroll 8
        for (int r = 0; r < row_count; r++) {
            acc[r][v] = veci_dot(low, codes_set1(x[r].codes + k), acc[r][v]);
            if (is_int4)
                acc[r][v] = veci_dot(high, codes_set1(x[r].codes + k + 4), acc[r][v]);
        }
    }
}

/* sums[r] += the group's products, as floats */
INLINE void quantised_group(vec sums[QUANTISED_ROWS][QUANTISED_VECS], const char *group,
                            const char *ahead, const struct quantised_row x[QUANTISED_ROWS],
                            size_t g, const int is_int4, const int row_count)
{
    const size_t step = is_int4 ? 8 : 4;
    const char *words = group + SCALES_BYTES;
    veci acc[QUANTISED_ROWS][QUANTISED_VECS];
#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++)
#pragma GCC unroll 4
        for (int v = 0; v < QUANTISED_VECS; v++)
            acc[r][v] = veci_shift_left(veci_set1(x[r].minus_sums[g]),
                                        is_int4 ? INT4_OFFSET_BITS : INT8_OFFSET_BITS);
    _mm_prefetch(ahead, _MM_HINT_T1);
    ahead += SCALES_BYTES;
#pragma GCC unroll 16
    for (size_t k = 0; k < KERNEL_GROUP; k += step) {
#pragma GCC unroll 2
        for (size_t line = 0; line < WORD_BYTES; line += 64)
            _mm_prefetch(ahead + k / step * WORD_BYTES + line, _MM_HINT_T1);
        quantised_step(acc, words + k / step * WORD_BYTES, x, g * KERNEL_GROUP + k, is_int4,
                       row_count);
    }
#pragma GCC unroll 4
    for (int v = 0; v < QUANTISED_VECS; v++) {
        vec scale = vec_load_bf16((const uint16_t *)(const void *)group + v * VEC_LANES);
#pragma GCC unroll 8
        for (int r = 0; r < row_count; r++)
            sums[r][v] = vec_fma(vec_of_veci(acc[r][v]), vec_mul(scale, vec_set1(x[r].scales[g])),
                                 sums[r][v]);
    }
}

/* The outputs of one panel for row_count rows. */
INLINE void quantised_tile(float *y, size_t y_stride, const char *x, const char *panel,
                           const char *ahead, const float *bias, uint32_t in, uint32_t outs,
                           int accumulate, const int is_int4, const int row_count)
{
    const size_t group_bytes = kernel_group_bytes(is_int4 ? KERNEL_INT4 : KERNEL_INT8);
    struct quantised_row rows[QUANTISED_ROWS];
    vec sums[QUANTISED_ROWS][QUANTISED_VECS];
#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++) {
        rows[r] = quantised_row_of(x + (size_t)r * kernel_quantised_bytes(in), in);
#pragma GCC unroll 4
        for (int v = 0; v < QUANTISED_VECS; v++)
            sums[r][v] = vec_set1(0);
    }
    for (uint32_t g = 0; g < kernel_groups(in); g++) {
        quantised_group(sums, panel, ahead, rows, g, is_int4, row_count);
        panel += group_bytes;
        ahead += group_bytes;
    }
#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++)
        panel_store(y + r * y_stride, sums[r], bias, outs, accumulate);
}

INLINE void quantised_strip(float *y, size_t y_stride, const char *x, const char *w,
                            const float *bias, uint32_t in, uint32_t outs, int accumulate,
                            const int is_int4, const int row_count)
{
    size_t panel_bytes = kernel_panel_bytes(is_int4 ? KERNEL_INT4 : KERNEL_INT8, in);
    for (uint32_t o = 0; o < outs; o += KERNEL_PANEL_OUTS, w += panel_bytes) {
        uint32_t count = outs - o < KERNEL_PANEL_OUTS ? outs - o : KERNEL_PANEL_OUTS;
        quantised_tile(y + o, y_stride, x, w, ahead_of(w), bias != NULL ? bias + o : NULL, in,
                       count, accumulate, is_int4, row_count);
    }
}

INLINE void quantised_matmul(float *y, size_t y_stride, const char *x, const char *w,
                             const float *bias, uint32_t rows, uint32_t in, uint32_t out_begin,
                             uint32_t out_end, int accumulate, const int is_int4)
{
    size_t panel_bytes = kernel_panel_bytes(is_int4 ? KERNEL_INT4 : KERNEL_INT8, in);
    uint32_t block_panels = (uint32_t)(BLOCK_WEIGHT_BYTES / panel_bytes);
    uint32_t block_outs = (block_panels > 0 ? block_panels : 1) * KERNEL_PANEL_OUTS;
    uint32_t tile_count = rows / QUANTISED_ROWS + (rows % QUANTISED_ROWS != 0);
    assert(out_begin % KERNEL_PANEL_OUTS == 0);

    for (uint32_t o = out_begin, outs; o < out_end; o += outs) {
        outs = out_end - o < block_outs ? out_end - o : block_outs;
        const char *wo = w + o / KERNEL_PANEL_OUTS * panel_bytes;
        const float *b = bias != NULL ? bias + o : NULL;
        for (uint32_t t = 0, r = 0, count; t < tile_count; t++, r += count) {
            count = (rows - r + tile_count - t - 1) / (tile_count - t);
            float *yr = y + r * y_stride + o;
            const char *xr = x + (size_t)r * kernel_quantised_bytes(in);
            switch (count) {
#define CASE(n)                                                                                    \
    case n:                                                                                        \
        quantised_strip(yr, y_stride, xr, wo, b, in, outs, accumulate, is_int4, n);                \
        break;
                CASE(1)
                CASE(2)
#if QUANTISED_ROWS > 2
                CASE(3)
                CASE(4)
                CASE(5)
                CASE(6)
#endif
#undef CASE
            default:
                assert(0);
            }
        }
    }
}

static void matmul_int8(float *y, size_t y_stride, const void *x, const void *w, const float *bias,
                        uint32_t rows, uint32_t in, uint32_t out_begin, uint32_t out_end,
                        int accumulate)
{
    quantised_matmul(y, y_stride, x, w, bias, rows, in, out_begin, out_end, accumulate, 0);
}

static void matmul_int4(float *y, size_t y_stride, const void *x, const void *w, const float *bias,
                        uint32_t rows, uint32_t in, uint32_t out_begin, uint32_t out_end,
                        int accumulate)
{
    quantised_matmul(y, y_stride, x, w, bias, rows, in, out_begin, out_end, accumulate, 1);
}

/* --- single rows --- */

INLINE void load_row_quantised(float *to, const char *w, uint32_t in, uint32_t row,
                               const int is_int4)
{
    const enum kernel_dtype dtype = is_int4 ? KERNEL_INT4 : KERNEL_INT8;
    const uint32_t step = is_int4 ? 8 : 4, lane = row % KERNEL_PANEL_OUTS;
    w += row / KERNEL_PANEL_OUTS * kernel_panel_bytes(dtype, in);
    for (uint32_t k = 0; k < in; k += step) {
        const char *group = w + k / KERNEL_GROUP * kernel_group_bytes(dtype);
        const char *words = group + SCALES_BYTES + k % KERNEL_GROUP / step * WORD_BYTES;
        uint32_t bits = (uint32_t)((const uint16_t *)(const void *)group)[lane] << 16;
        uint8_t word[4];
        float scale, values[8];
        memcpy(&scale, &bits, sizeof scale);
        memcpy(word, words + lane * sizeof word, sizeof word);
        for (int i = 0; i < 4; i++) {
            int code = is_int4 ? (word[i] & 15) - KERNEL_INT4_OFFSET : word[i] - KERNEL_INT8_OFFSET;
            values[i] = scale * (float)code;
            values[4 + i] = scale * (float)((word[i] >> 4) - KERNEL_INT4_OFFSET);
        }
        memcpy(to + k, values, (in - k < step ? in - k : step) * sizeof(float));
    }
}

static void load_row_int8(float *to, const void *w, uint32_t in, uint32_t row)
{
    load_row_quantised(to, w, in, row, 0);
}

static void load_row_int4(float *to, const void *w, uint32_t in, uint32_t row)
{
    load_row_quantised(to, w, in, row, 1);
}
