/*
 * Part of vector.h: a panel of bytes times a few rows. As in vector_panels.h a lane belongs to one
 * output; few inputs (the rank of an adapter) and many outputs, which whoever calls has fetched.
 */
INLINE void codes_tile(float *y, size_t y_stride, const float *x, size_t x_stride, const int8_t *w,
                       const float *bias, uint32_t in, uint32_t outs, int accumulate,
                       const int row_count)
{
    vec acc[PANEL_ROWS][PANEL_VECS];
#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++)
#pragma GCC unroll 4
        for (int v = 0; v < PANEL_VECS; v++)
            acc[r][v] = vec_set1(0);
    for (uint32_t k = 0; k < in; k++, w += KERNEL_PANEL_OUTS) {
        vec codes[PANEL_VECS];
#pragma GCC unroll 4
        for (int v = 0; v < PANEL_VECS; v++)
            codes[v] = vec_load_codes(w + v * VEC_LANES);
#pragma GCC unroll 8
        for (int r = 0; r < row_count; r++) {
            vec by = vec_set1(x[(size_t)r * x_stride + k]);
#pragma GCC unroll 4
            for (int v = 0; v < PANEL_VECS; v++)
                acc[r][v] = vec_fma(by, codes[v], acc[r][v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++)
        panel_store(y + r * y_stride, acc[r], bias, outs, accumulate);
}

static void matmul_code_panels(float *y, size_t y_stride, const float *x, size_t x_stride,
                               const void *w, const float *bias, uint32_t rows, uint32_t in,
                               uint32_t out_begin, uint32_t out_end, int accumulate)
{
    const uint32_t tile_count = rows / PANEL_ROWS + (rows % PANEL_ROWS != 0);
    assert(out_begin % KERNEL_PANEL_OUTS == 0);
    for (uint32_t o = out_begin; o < out_end; o += KERNEL_PANEL_OUTS) {
        const int8_t *panel = (const int8_t *)w + (size_t)o * in;
        const float *b = bias != NULL ? bias + o : NULL;
        uint32_t outs = out_end - o < KERNEL_PANEL_OUTS ? out_end - o : KERNEL_PANEL_OUTS;
        for (uint32_t t = 0, r = 0, count; t < tile_count; t++, r += count) {
            float *yr = y + r * y_stride + o;
            const float *xr = x + r * x_stride;
            count = (rows - r + tile_count - t - 1) / (tile_count - t);
            switch (count) {
#define CASE(n)                                                                                    \
    case n:                                                                                        \
        codes_tile(yr, y_stride, xr, x_stride, panel, b, in, outs, accumulate, n);                 \
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
