/*
 * Part of vector.h: rows rounded to int8, and a quantised panel times a few of them. Within a group
 * all arithmetic is of whole numbers and exact, so its order is free; between groups it is the
 * order of the inputs.
 */
#define QUANTISED_VECS ((int)KERNEL_PANEL_OUTS / VEC_LANES)
#define SCALES_BYTES (KERNEL_PANEL_OUTS * sizeof(uint16_t))

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

/* Tables have room for the rows of any kind of panel. */
_Static_assert(QUANTISED_ROWS <= PANEL_ROWS, "one switch serves both kinds");

/* The 4 codes from k on in every lane. */
INLINE veci codes_set1(const int8_t *codes)
{
    int32_t four;
    memcpy(&four, codes, sizeof four);
    return veci_set1(four);
}

INLINE veci dot_int4(veci codes, const int8_t *x, veci acc)
{
#ifdef INT4_PARTS
    return veci_dot_narrow(codes, codes_set1(x), acc);
#else
    return veci_dot(codes, codes_set1(x), acc);
#endif
}

/* acc[r] += the products of one word of each output with the codes of x from k on */
INLINE void quantised_step(veci acc[PANEL_ROWS][QUANTISED_VECS], const char *word,
                           struct fetch *fetch, const struct quantised_row x[PANEL_ROWS], size_t k,
                           const int is_int4, const int row_count)
{
    fetch_step(fetch);
#pragma GCC unroll 4
    for (int v = 0; v < QUANTISED_VECS; v++) {
        veci codes = veci_load(word + v * (int)sizeof(veci));
        if (is_int4) {
            veci low = veci_low_halves(codes), high = veci_high_halves(codes);
#pragma GCC unroll 8
            for (int r = 0; r < row_count; r++) {
                acc[r][v] = dot_int4(low, x[r].codes + k, acc[r][v]);
                acc[r][v] = dot_int4(high, x[r].codes + k + 4, acc[r][v]);
            }
        } else {
            veci_int8 w = veci_int8_of(codes);
#pragma GCC unroll 8
            for (int r = 0; r < row_count; r++)
                acc[r][v] = veci_dot_int8(w, codes_set1(x[r].codes + k), acc[r][v]);
        }
    }
}

/* Whether so few rows that memory is what they wait for: then a group's steps are a loop. Written
 * out one after the other, which multiplies faster, each load has an address of its own and a
 * stride of a whole group, and the processor's prefetchers follow thirty-two such streams past what
 * is needed: 42 GB/s instead of 51. */
INLINE int is_streamed(struct fetch fetch, const int is_int4, const int row_count)
{
    return fetch.step == STEP_BYTES && row_count <= (is_int4 ? 4 : 8);
}

/* acc[r] += the products of the inputs [k, end) of the group at input `at`, which has these words
 */
INLINE void quantised_steps(veci acc[PANEL_ROWS][QUANTISED_VECS], const char *words,
                            struct fetch *fetch, const struct quantised_row x[PANEL_ROWS],
                            size_t at, size_t k, size_t end, const int is_int4, const int streamed,
                            const int row_count)
{
    const size_t step = is_int4 ? 8 : 4;
    if (streamed) {
#pragma GCC unroll 1
        for (; k < end; k += step)
            quantised_step(acc, words + k / step * STEP_BYTES, fetch, x, at + k, is_int4,
                           row_count);
    }
#pragma GCC unroll 16
    for (; k < end; k += step)
        quantised_step(acc, words + k / step * STEP_BYTES, fetch, x, at + k, is_int4, row_count);
}

#ifdef INT4_PARTS
/* As quantised_steps over a whole group of int4, in parts whose sums are narrow. */
INLINE void int4_parts(veci acc[PANEL_ROWS][QUANTISED_VECS], const char *words, struct fetch *fetch,
                       const struct quantised_row x[PANEL_ROWS], size_t at, const int streamed,
                       const int row_count)
{
    const size_t length = KERNEL_GROUP / INT4_PARTS;
#pragma GCC unroll 2
    for (size_t k = 0; k < KERNEL_GROUP; k += length) {
        veci part[PANEL_ROWS][QUANTISED_VECS];
#pragma GCC unroll 8
        for (int r = 0; r < row_count; r++)
#pragma GCC unroll 4
            for (int v = 0; v < QUANTISED_VECS; v++)
                part[r][v] = veci_set1(0);
        quantised_steps(part, words, fetch, x, at, k, k + length, 1, streamed, row_count);
#pragma GCC unroll 8
        for (int r = 0; r < row_count; r++)
#pragma GCC unroll 4
            for (int v = 0; v < QUANTISED_VECS; v++)
                acc[r][v] = veci_join(acc[r][v], part[r][v]);
    }
}
#endif

/* What a group's sum begins with: less what the codes' offset adds, where products have it. */
INLINE veci group_begin(int32_t minus_sum, const int is_int4)
{
    if (!is_int4 && !INT8_HAS_OFFSET)
        return veci_set1(0);
    return veci_shift_left(veci_set1(minus_sum), is_int4 ? INT4_OFFSET_BITS : INT8_OFFSET_BITS);
}

/* sums[r] += the group's products, as floats */
INLINE void quantised_group(vec sums[PANEL_ROWS][QUANTISED_VECS], const char *group,
                            struct fetch *fetch, const struct quantised_row x[PANEL_ROWS], size_t g,
                            const int is_int4, const int streamed, const int row_count)
{
    const char *words = group + SCALES_BYTES;
    const size_t at = g * KERNEL_GROUP;
    veci acc[PANEL_ROWS][QUANTISED_VECS];
#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++)
#pragma GCC unroll 4
        for (int v = 0; v < QUANTISED_VECS; v++)
            acc[r][v] = group_begin(x[r].minus_sums[g], is_int4);
    _mm_prefetch(fetch->at, _MM_HINT_T1);
    fetch->at += SCALES_BYTES;
#ifdef INT4_PARTS
    if (is_int4)
        int4_parts(acc, words, fetch, x, at, streamed, row_count);
    else
#endif
        quantised_steps(acc, words, fetch, x, at, 0, KERNEL_GROUP, is_int4, streamed, row_count);
#pragma GCC unroll 4
    for (int v = 0; v < QUANTISED_VECS; v++) {
        vec scale = vec_load_bf16((const uint16_t *)(const void *)group + v * VEC_LANES);
#pragma GCC unroll 8
        for (int r = 0; r < row_count; r++)
            sums[r][v] = vec_fma(vec_of_veci(acc[r][v]), vec_mul(scale, vec_set1(x[r].scales[g])),
                                 sums[r][v]);
    }
}

/* The outputs of one panel for row_count rows of x, x_bytes apart. */
INLINE void quantised_tile(float *y, size_t y_stride, const char *x, size_t x_bytes,
                           const char *panel, struct fetch fetch, const float *bias, uint32_t in,
                           uint32_t outs, int accumulate, const int is_int4, const int row_count)
{
    struct quantised_row rows[PANEL_ROWS];
    vec sums[PANEL_ROWS][QUANTISED_VECS];
#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++) {
        rows[r] = quantised_row_of(x + (size_t)r * x_bytes, in);
#pragma GCC unroll 4
        for (int v = 0; v < QUANTISED_VECS; v++)
            sums[r][v] = vec_set1(0);
    }
    const size_t group_bytes = kernel_group_bytes(is_int4 ? KERNEL_INT4 : KERNEL_INT8);
    if (is_streamed(fetch, is_int4, row_count))
        for (uint32_t g = 0; g < kernel_groups(in); g++, panel += group_bytes)
            quantised_group(sums, panel, &fetch, rows, g, is_int4, 1, row_count);
    else
        for (uint32_t g = 0; g < kernel_groups(in); g++, panel += group_bytes)
            quantised_group(sums, panel, &fetch, rows, g, is_int4, 0, row_count);
#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++)
        panel_store(y + r * y_stride, sums[r], bias, outs, accumulate);
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
        const char *words = group + SCALES_BYTES + k % KERNEL_GROUP / step * STEP_BYTES;
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
