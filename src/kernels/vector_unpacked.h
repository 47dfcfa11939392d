/*
 * Part of vector.h: a panel of bf16 times many rows, where both take conversions of bf16 and few
 * registers hold the sums. A slice of a panel is unpacked to float once, into the first-level
 * cache, for a block of rows. An output is summed as panel_tile does it, one input after the other,
 * so it is bitwise the same.
 */
#define SLICE_INPUTS 128u
#define SLICE_ROWS 66u
_Static_assert(SLICE_ROWS % UNPACK_ROWS == 0 && UNPACK_ROWS == 6, "whole tiles, and their cases");

/* to [inputs, outputs of a panel] */
INLINE void unpack_slice(float *to, const char *w, uint32_t inputs)
{
    for (uint32_t k = 0; k < inputs; k += 2, w += STEP_BYTES, to += 2 * KERNEL_PANEL_OUTS) {
#pragma GCC unroll 4
        for (int v = 0; v < PANEL_VECS; v++) {
            vec pairs = pairs_load(w + v * (int)sizeof(vec));
            vec_store_f32(to + v * VEC_LANES, vec_of_low_halves(pairs));
            vec_store_f32(to + KERNEL_PANEL_OUTS + v * VEC_LANES, vec_of_high_halves(pairs));
        }
    }
}

/* sums [row_count, outputs of a panel] += x times UNPACK_VECS vectors of a slice. Meanwhile a line
 * of what comes next is fetched for each input. */
INLINE void slice_tile(float *sums, const float *x, size_t x_stride, const float *w,
                       struct fetch ahead, uint32_t inputs, const int row_count)
{
    vec acc[UNPACK_ROWS][UNPACK_VECS];
#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++)
#pragma GCC unroll 4
        for (int v = 0; v < UNPACK_VECS; v++)
            acc[r][v] = vec_load_f32(sums + r * (int)KERNEL_PANEL_OUTS + v * VEC_LANES);
    for (uint32_t k = 0; k < inputs; k++, w += KERNEL_PANEL_OUTS, ahead.at += ahead.step) {
        _mm_prefetch(ahead.at, _MM_HINT_T1);
#pragma GCC unroll 8
        for (int r = 0; r < row_count; r++) {
            vec by = vec_set1(x[(size_t)r * x_stride + k]);
#pragma GCC unroll 4
            for (int v = 0; v < UNPACK_VECS; v++)
                acc[r][v] = vec_fma(by, vec_load_f32(w + v * VEC_LANES), acc[r][v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++)
#pragma GCC unroll 4
        for (int v = 0; v < UNPACK_VECS; v++)
            vec_store_f32(sums + r * (int)KERNEL_PANEL_OUTS + v * VEC_LANES, acc[r][v]);
}

/* `next` is the slice after this one, which the first tile fetches. */
INLINE void slice_multiply(float *sums, const float *x, size_t x_stride, const float *w,
                           const char *next, uint32_t rows, uint32_t inputs)
{
    struct fetch ahead = {next, STEP_BYTES / 2};
    const uint32_t tile_count = (rows + UNPACK_ROWS - 1) / UNPACK_ROWS;
    for (uint32_t t = 0, r = 0, count; t < tile_count; t++, r += count) {
        count = (rows - r + tile_count - t - 1) / (tile_count - t);
        for (uint32_t o = 0; o < KERNEL_PANEL_OUTS; o += UNPACK_VECS * VEC_LANES) {
            float *to = sums + r * KERNEL_PANEL_OUTS + o;
            const float *from = x + r * x_stride;
            switch (count) {
#define CASE(n)                                                                                    \
    case n:                                                                                        \
        slice_tile(to, from, x_stride, w + o, ahead, inputs, n);                                   \
        break;
                CASE(1)
                CASE(2)
                CASE(3)
                CASE(4)
                CASE(5)
                CASE(6)
#undef CASE
            default:
                assert(0);
            }
            ahead = (struct fetch){(const char *)w, 0};
        }
    }
}

/* The outputs of one panel for at most SLICE_ROWS rows. */
INLINE void unpacked_block(float *y, size_t y_stride, const float *x, size_t x_stride,
                           const char *panel, const float *bias, uint32_t rows, uint32_t in,
                           uint32_t outs, int accumulate)
{
    alignas(64) float w[SLICE_INPUTS * KERNEL_PANEL_OUTS];
    alignas(64) float sums[SLICE_ROWS * KERNEL_PANEL_OUTS];
    memset(sums, 0, rows * KERNEL_PANEL_OUTS * sizeof(float));
    for (uint32_t k = 0, inputs; k < in; k += inputs, panel += SLICE_INPUTS / 2 * STEP_BYTES) {
        inputs = in - k < SLICE_INPUTS ? in - k : SLICE_INPUTS;
        unpack_slice(w, panel, inputs);
        slice_multiply(sums, x + k, x_stride, w, panel + SLICE_INPUTS / 2 * STEP_BYTES, rows,
                       inputs);
    }
    for (uint32_t r = 0; r < rows; r++) {
        vec acc[PANEL_VECS];
#pragma GCC unroll 4
        for (int v = 0; v < PANEL_VECS; v++)
            acc[v] = vec_load_f32(sums + r * KERNEL_PANEL_OUTS + v * VEC_LANES);
        panel_store(y + r * y_stride, acc, bias, outs, accumulate);
    }
}

static void matmul_unpacked(float *y, size_t y_stride, const float *x, size_t x_stride,
                            const char *w, const float *bias, uint32_t rows, uint32_t in,
                            uint32_t out_begin, uint32_t out_end, int accumulate)
{
    size_t panel_bytes = kernel_panel_bytes(KERNEL_PANELS, in);
    for (uint32_t o = out_begin; o < out_end; o += KERNEL_PANEL_OUTS) {
        uint32_t outs = out_end - o < KERNEL_PANEL_OUTS ? out_end - o : KERNEL_PANEL_OUTS;
        for (uint32_t r = 0; r < rows; r += SLICE_ROWS)
            unpacked_block(y + r * y_stride + o, y_stride, x + r * x_stride, x_stride,
                           w + o / KERNEL_PANEL_OUTS * panel_bytes, bias != NULL ? bias + o : NULL,
                           rows - r < SLICE_ROWS ? rows - r : SLICE_ROWS, in, outs, accumulate);
    }
}
