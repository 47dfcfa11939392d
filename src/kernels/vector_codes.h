/*
 * Part of vector.h: panels of bytes times a few rows. As in vector_panels.h a lane belongs to one
 * output; few inputs (the rank of an adapter) and many outputs, which whoever calls has fetched.
 */

/* One row has a sum for each vector of a panel, too few to hide each other's latency: then two
 * panels go side by side. */
#define LONE_ROW_PANELS 2

/* panel_count panels that have outs outputs together. */
INLINE void codes_tile(float *y, size_t y_stride, const float *x, size_t x_stride, const int8_t *w,
                       const float *bias, uint32_t in, uint32_t outs, int accumulate,
                       const int row_count, const int panel_count)
{
    vec acc[PANEL_ROWS][LONE_ROW_PANELS][PANEL_VECS];
#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++)
#pragma GCC unroll 4
        for (int p = 0; p < panel_count; p++)
#pragma GCC unroll 4
            for (int v = 0; v < PANEL_VECS; v++)
                acc[r][p][v] = vec_set1(0);
    for (size_t k = 0; k < in; k++)
#pragma GCC unroll 4
        for (int p = 0; p < panel_count; p++) {
            const int8_t *codes = w + ((size_t)p * in + k) * KERNEL_PANEL_OUTS;
#pragma GCC unroll 4
            for (int v = 0; v < PANEL_VECS; v++) {
                vec c = vec_load_codes(codes + v * VEC_LANES);
#pragma GCC unroll 8
                for (int r = 0; r < row_count; r++)
                    acc[r][p][v] = vec_fma(vec_set1(x[(size_t)r * x_stride + k]), c, acc[r][p][v]);
            }
        }
#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++)
#pragma GCC unroll 4
        for (int p = 0; p < panel_count; p++) {
            uint32_t first = (uint32_t)p * KERNEL_PANEL_OUTS;
            panel_store(y + r * y_stride + first, acc[r][p], bias != NULL ? bias + first : NULL,
                        outs - first < KERNEL_PANEL_OUTS ? outs - first : KERNEL_PANEL_OUTS,
                        accumulate);
        }
}

/* One panel, or with one row two whole ones, for all rows. */
INLINE void codes_strip(float *y, size_t y_stride, const float *x, size_t x_stride, const int8_t *w,
                        const float *bias, uint32_t rows, uint32_t in, uint32_t outs,
                        int accumulate)
{
    const uint32_t tile_count = rows / PANEL_ROWS + (rows % PANEL_ROWS != 0);
    for (uint32_t t = 0, r = 0, count; t < tile_count; t++, r += count) {
        float *yr = y + r * y_stride;
        const float *xr = x + r * x_stride;
        count = (rows - r + tile_count - t - 1) / (tile_count - t);
        switch (count) {
#define CASE(n)                                                                                    \
    case n:                                                                                        \
        codes_tile(yr, y_stride, xr, x_stride, w, bias, in, outs, accumulate, n, 1);               \
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

static void matmul_code_panels(float *y, size_t y_stride, const float *x, size_t x_stride,
                               const void *w, const float *bias, uint32_t rows, uint32_t in,
                               uint32_t out_begin, uint32_t out_end, int accumulate)
{
    const uint32_t together = LONE_ROW_PANELS * KERNEL_PANEL_OUTS;
    assert(out_begin % KERNEL_PANEL_OUTS == 0);
    for (uint32_t o = out_begin, outs; o < out_end; o += outs) {
        const int8_t *panel = (const int8_t *)w + (size_t)o * in;
        const float *b = bias != NULL ? bias + o : NULL;
        if (rows == 1 && out_end - o >= together) {
            outs = together;
            codes_tile(y + o, y_stride, x, x_stride, panel, b, in, outs, accumulate, 1,
                       LONE_ROW_PANELS);
            continue;
        }
        outs = out_end - o < KERNEL_PANEL_OUTS ? out_end - o : KERNEL_PANEL_OUTS;
        codes_strip(y + o, y_stride, x, x_stride, panel, b, rows, in, outs, accumulate);
    }
}
