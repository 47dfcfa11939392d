/*
 * Part of vector.h: products with a matrix that lies in panels. One stream of weights, in the order
 * of addresses, whatever the number of rows; a lane belongs to one output, so nothing is added
 * across lanes at the end.
 */
#define PANEL_VECS ((int)KERNEL_PANEL_OUTS / VEC_LANES)

/* Both inputs of a pair, for as many outputs as there are lanes: as they stand, two bf16 a lane. */
INLINE vec pairs_load(const char *from)
{
    return vec_load_f32((const float *)(const void *)from);
}

/* What one row brings to a pair of inputs; the second is missing at the end of an odd number. */
struct pair {
    vec first;
    vec second; /* not with a dot product, which takes both from the first */
};

INLINE struct pair pair_of(const void *x, const struct operands types, size_t index,
                           const int is_whole)
{
    struct pair p = {vec_set1(0), vec_set1(0)};
#ifdef DOT_LANES
    if (IS_DOT(types)) {
        uint32_t bits = ((const uint16_t *)x)[index];
        if (is_whole)
            memcpy(&bits, (const uint16_t *)x + index, sizeof bits);
        p.first = dot_set1(bits);
        return p;
    }
#else
    (void)types;
#endif
    p.first = vec_set1(((const float *)x)[index]);
    if (is_whole)
        p.second = vec_set1(((const float *)x)[index + 1]);
    return p;
}

/* acc += the pair's two products, one after the other */
INLINE vec pair_multiply_add(struct pair x, vec pairs, vec acc, const struct operands types,
                             int is_whole)
{
#ifdef DOT_LANES
    if (IS_DOT(types))
        return dot(pairs, x.first, acc); /* the second one may come from memory */
#else
    (void)types;
#endif
    acc = vec_fma(x.first, vec_of_low_halves(pairs), acc);
    return is_whole ? vec_fma(x.second, vec_of_high_halves(pairs), acc) : acc;
}

INLINE void panel_step(vec acc[PANEL_ROWS][PANEL_VECS], const void *const xs[PANEL_ROWS],
                       const char *w, const struct operands types, size_t k, const int is_whole,
                       const int row_count)
{
    vec pairs[PANEL_VECS];
#pragma GCC unroll 4
    for (int v = 0; v < PANEL_VECS; v++)
        pairs[v] = pairs_load(w + v * (int)sizeof(vec));
#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++) {
        struct pair p = pair_of(xs[r], types, k, is_whole);
#pragma GCC unroll 4
        for (int v = 0; v < PANEL_VECS; v++)
            acc[r][v] = pair_multiply_add(p, pairs[v], acc[r][v], types, is_whole);
    }
}

/* n outputs of a panel: y (+)= acc + bias */
INLINE void panel_store(float *y, vec acc[PANEL_VECS], const float *bias, uint32_t outs,
                        int accumulate)
{
#pragma GCC unroll 4
    for (int v = 0; v < PANEL_VECS; v++) {
        uint32_t first = (uint32_t)(v * VEC_LANES);
        uint32_t n = outs > first ? outs - first : 0;
        if (n >= VEC_LANES) {
            vec sum = bias != NULL ? vec_add(acc[v], vec_load_f32(bias + first)) : acc[v];
            vec_store_f32(y + first, accumulate ? vec_add(sum, vec_load_f32(y + first)) : sum);
        } else if (n > 0) {
            vec sum = bias != NULL ? vec_add(acc[v], vec_load_f32_part(bias + first, n)) : acc[v];
            if (accumulate)
                sum = vec_add(sum, vec_load_f32_part(y + first, n));
            vec_store_f32_part(y + first, sum, n);
        }
    }
}

/* What is fetched while w is used. It may lie beyond the matrix, whose end only the caller knows:
 * there the next one of the forward pass begins, and fetching what is no memory does nothing. */
INLINE const char *ahead_of(const char *w)
{
    return (const char *)((uintptr_t)w + AHEAD_BYTES);
}

/*
 * The outputs of one panel for row_count rows. Weights are read once and in the order of addresses,
 * however many the rows: `ahead` is what is fetched into the second-level cache meanwhile.
 */
INLINE void panel_tile(float *y, size_t y_stride, const void *x, size_t x_stride, const char *w,
                       const struct operands types, const char *ahead, const float *bias,
                       uint32_t in, uint32_t outs, int accumulate, const int row_count)
{
    const int step_bytes = PANEL_VECS * (int)sizeof(vec);
    vec acc[PANEL_ROWS][PANEL_VECS];
#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++)
#pragma GCC unroll 4
        for (int v = 0; v < PANEL_VECS; v++)
            acc[r][v] = vec_set1(0);
    const void *xs[PANEL_ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++)
        xs[r] = element_at(x, types.x, r * x_stride);
    size_t k = 0;
    for (; in - k >= 2; k += 2) {
#pragma GCC unroll 2
        for (int line = 0; line < step_bytes; line += 64)
            _mm_prefetch(ahead + line, _MM_HINT_T1);
        ahead += step_bytes;
        panel_step(acc, xs, w, types, k, 1, row_count);
        w += step_bytes;
    }
    if (k < in)
        panel_step(acc, xs, w, types, k, 0, row_count);
#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++)
        panel_store(y + r * y_stride, acc[r], bias, outs, accumulate);
}

/* Panels [0, outs) of row_count rows. */
INLINE void panel_strip(float *y, size_t y_stride, const void *x, size_t x_stride, const char *w,
                        const struct operands types, const float *bias, uint32_t in, uint32_t outs,
                        int accumulate, const int row_count)
{
    size_t panel_bytes = kernel_panel_bytes(KERNEL_PANELS, in);
    for (uint32_t o = 0; o < outs; o += KERNEL_PANEL_OUTS, w += panel_bytes) {
        uint32_t count = outs - o < KERNEL_PANEL_OUTS ? outs - o : KERNEL_PANEL_OUTS;
        panel_tile(y + o, y_stride, x, x_stride, w, types, ahead_of(w),
                   bias != NULL ? bias + o : NULL, in, count, accumulate, row_count);
    }
}

INLINE void matmul_over_panels(float *y, size_t y_stride, const void *x, size_t x_stride,
                               const char *w, const struct operands types, const float *bias,
                               uint32_t rows, uint32_t in, uint32_t out_begin, uint32_t out_end,
                               int accumulate)
{
    size_t panel_bytes = kernel_panel_bytes(KERNEL_PANELS, in);
    uint32_t block_panels = (uint32_t)(BLOCK_WEIGHT_BYTES / panel_bytes);
    uint32_t block_outs = (block_panels > 0 ? block_panels : 1) * KERNEL_PANEL_OUTS;
    uint32_t tile_count = rows / PANEL_ROWS + (rows % PANEL_ROWS != 0);
    assert(out_begin % KERNEL_PANEL_OUTS == 0);

    for (uint32_t o = out_begin, outs; o < out_end; o += outs) {
        outs = out_end - o < block_outs ? out_end - o : block_outs;
        const char *wo = w + o / KERNEL_PANEL_OUTS * panel_bytes;
        const float *b = bias != NULL ? bias + o : NULL;
        for (uint32_t t = 0, r = 0, count; t < tile_count; t++, r += count) {
            count = (rows - r + tile_count - t - 1) / (tile_count - t);
            float *yr = y + r * y_stride + o;
            const void *xr = element_at(x, types.x, r * x_stride);
            switch (count) {
#define CASE(n)                                                                                    \
    case n:                                                                                        \
        panel_strip(yr, y_stride, xr, x_stride, wo, types, b, in, outs, accumulate, n);            \
        break;
                CASE(1)
                CASE(2)
#if PANEL_ROWS > 2
                CASE(3)
                CASE(4)
                CASE(5)
                CASE(6)
                CASE(7)
                CASE(8)
#endif
#undef CASE
            default:
                assert(0);
            }
        }
    }
}

static void matmul_panels(float *y, size_t y_stride, const float *x, size_t x_stride, const void *w,
                          const float *bias, uint32_t rows, uint32_t in, uint32_t out_begin,
                          uint32_t out_end, int accumulate)
{
    matmul_over_panels(y, y_stride, x, x_stride, w, (struct operands){KERNEL_F32, KERNEL_BF16},
                       bias, rows, in, out_begin, out_end, accumulate);
}

#ifdef DOT_LANES
static void matmul_half_panels(float *y, size_t y_stride, const uint16_t *x, size_t x_stride,
                               const void *w, const float *bias, uint32_t rows, uint32_t in,
                               uint32_t out_begin, uint32_t out_end, int accumulate)
{
    matmul_over_panels(y, y_stride, x, x_stride, w, (struct operands){KERNEL_BF16, KERNEL_BF16},
                       bias, rows, in, out_begin, out_end, accumulate);
}
#endif
