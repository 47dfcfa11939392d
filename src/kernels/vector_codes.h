/*
 * Part of vector.h: a panel of bytes times a few rows. As in vector_panels.h a lane belongs to one
 * output; few inputs (the rank of an adapter) and many outputs, which whoever calls has fetched.
 */
INLINE void codes_tile(float *y, size_t y_stride, const char *x, size_t x_bytes, const char *w,
                       const float *bias, uint32_t in, uint32_t outs, int accumulate,
                       const int row_count)
{
    vec acc[PANEL_ROWS][PANEL_VECS];
    const float *xs[PANEL_ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++) {
        xs[r] = (const float *)(const void *)(x + (size_t)r * x_bytes);
#pragma GCC unroll 4
        for (int v = 0; v < PANEL_VECS; v++)
            acc[r][v] = vec_set1(0);
    }
    for (uint32_t k = 0; k < in; k++, w += KERNEL_PANEL_OUTS) {
        vec codes[PANEL_VECS];
#pragma GCC unroll 4
        for (int v = 0; v < PANEL_VECS; v++)
            codes[v] = vec_load_codes((const int8_t *)w + v * VEC_LANES);
#pragma GCC unroll 8
        for (int r = 0; r < row_count; r++) {
            vec by = vec_set1(xs[r][k]);
#pragma GCC unroll 4
            for (int v = 0; v < PANEL_VECS; v++)
                acc[r][v] = vec_fma(by, codes[v], acc[r][v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++)
        panel_store(y + r * y_stride, acc[r], bias, outs, accumulate);
}
