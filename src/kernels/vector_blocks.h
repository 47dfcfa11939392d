/*
 * Part of vector.h: products with a matrix in panels of any kind, as tiles of a few rows and one
 * panel. Weights come from memory once, at its speed, however many the rows.
 */

/* What the weights of one block of panels may take of the second-level cache, in which they stay
 * while all tiles of rows pass: they and the next block's are there together. At least one panel.
 */
#define BLOCK_PANEL_BYTES (64u << 10)

INLINE size_t panel_bytes_of(const struct operands types, uint32_t in)
{
    return kernel_panel_bytes(types.w == KERNEL_BF16 ? KERNEL_PANELS : types.w, in);
}

INLINE void tile_of_kind(float *y, size_t y_stride, const char *x, size_t x_bytes, const char *w,
                         const struct operands types, struct fetch fetch, const float *bias,
                         uint32_t in, uint32_t outs, int accumulate, const int row_count)
{
    if (types.w == KERNEL_BF16)
        panel_tile(y, y_stride, x, x_bytes, w, types, fetch, bias, in, outs, accumulate, row_count);
    else if (types.w == KERNEL_CODE_PANELS)
        codes_tile(y, y_stride, x, x_bytes, w, bias, in, outs, accumulate, row_count);
    else
        quantised_tile(y, y_stride, x, x_bytes, w, fetch, bias, in, outs, accumulate,
                       types.w == KERNEL_INT4, row_count);
}

/* Panels [0, outs) of row_count rows. */
INLINE void panel_strip(float *y, size_t y_stride, const char *x, size_t x_bytes, const char *w,
                        const struct operands types, struct fetch fetch, const float *bias,
                        uint32_t in, uint32_t outs, int accumulate, const int row_count)
{
    size_t panel_bytes = panel_bytes_of(types, in);
    for (uint32_t o = 0; o < outs; o += KERNEL_PANEL_OUTS) {
        uint32_t count = outs - o < KERNEL_PANEL_OUTS ? outs - o : KERNEL_PANEL_OUTS;
        tile_of_kind(y + o, y_stride, x, x_bytes, w, types, fetch, bias != NULL ? bias + o : NULL,
                     in, count, accumulate, row_count);
        w += panel_bytes;
        fetch.at += panel_bytes * fetch.step / STEP_BYTES;
    }
}

/*
 * What tile `tile` of `tile_count` fetches while it multiplies the block at w. One tile alone reads
 * the weights as they arrive: a little ahead of itself. Of several, the first two fetch a half of
 * the next block each, so that memory has work while later tiles multiply what is there.
 * All of it may lie beyond the matrix, whose end only the caller knows: there the next one of the
 * forward pass begins, and fetching what is no memory does nothing.
 */
INLINE struct fetch fetch_of(const char *w, size_t block_bytes, uint32_t tile, uint32_t tile_count)
{
    if (tile_count == 1)
        return (struct fetch){(const char *)((uintptr_t)w + AHEAD_BYTES), STEP_BYTES};
    if (tile < 2)
        return (struct fetch){(const char *)((uintptr_t)w + block_bytes + tile * block_bytes / 2),
                              STEP_BYTES / 2};
    return (struct fetch){w, 0};
}

INLINE void matmul_over_panels(float *y, size_t y_stride, const char *x, size_t x_bytes,
                               const char *w, const struct operands types, const float *bias,
                               uint32_t rows, uint32_t in, uint32_t out_begin, uint32_t out_end,
                               int accumulate)
{
    const uint32_t tile_rows = types.w == KERNEL_BF16 ? PANEL_ROWS : QUANTISED_ROWS;
    size_t panel_bytes = panel_bytes_of(types, in);
    uint32_t block_panels = (uint32_t)(BLOCK_PANEL_BYTES / panel_bytes);
    uint32_t block_outs = (block_panels > 0 ? block_panels : 1) * KERNEL_PANEL_OUTS;
    uint32_t tile_count = rows / tile_rows + (rows % tile_rows != 0);
    assert(out_begin % KERNEL_PANEL_OUTS == 0);

    for (uint32_t o = out_begin, outs; o < out_end; o += outs) {
        outs = out_end - o < block_outs ? out_end - o : block_outs;
        const char *wo = w + o / KERNEL_PANEL_OUTS * panel_bytes;
        const float *b = bias != NULL ? bias + o : NULL;
        for (uint32_t t = 0, r = 0, count; t < tile_count; t++, r += count) {
            struct fetch fetch =
                fetch_of(wo, outs / KERNEL_PANEL_OUTS * panel_bytes, t, tile_count);
            float *yr = y + r * y_stride + o;
            const char *xr = x + r * x_bytes;
            count = (rows - r + tile_count - t - 1) / (tile_count - t);
            switch (count) {
#define CASE(n)                                                                                    \
    case n:                                                                                        \
        if (n <= tile_rows) /* known where this is compiled */                                     \
            panel_strip(yr, y_stride, xr, x_bytes, wo, types, fetch, b, in, outs, accumulate, n);  \
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
#ifdef UNPACK_ROWS
    if (rows >= UNPACK_ROWS_MIN) {
        matmul_unpacked(y, y_stride, x, x_stride, w, bias, rows, in, out_begin, out_end,
                        accumulate);
        return;
    }
#endif
    matmul_over_panels(y, y_stride, (const char *)x, x_stride * sizeof(*x), w,
                       (struct operands){KERNEL_F32, KERNEL_BF16}, bias, rows, in, out_begin,
                       out_end, accumulate);
}

#ifdef DOT_LANES
static void matmul_half_panels(float *y, size_t y_stride, const uint16_t *x, size_t x_stride,
                               const void *w, const float *bias, uint32_t rows, uint32_t in,
                               uint32_t out_begin, uint32_t out_end, int accumulate)
{
    matmul_over_panels(y, y_stride, (const char *)x, x_stride * sizeof(*x), w,
                       (struct operands){KERNEL_BF16, KERNEL_BF16}, bias, rows, in, out_begin,
                       out_end, accumulate);
}
#endif

static void matmul_code_panels(float *y, size_t y_stride, const float *x, size_t x_stride,
                               const void *w, const float *bias, uint32_t rows, uint32_t in,
                               uint32_t out_begin, uint32_t out_end, int accumulate)
{
    matmul_over_panels(y, y_stride, (const char *)x, x_stride * sizeof(*x), w,
                       (struct operands){KERNEL_F32, KERNEL_CODE_PANELS}, bias, rows, in, out_begin,
                       out_end, accumulate);
}

static void matmul_int8(float *y, size_t y_stride, const void *x, const void *w, const float *bias,
                        uint32_t rows, uint32_t in, uint32_t out_begin, uint32_t out_end,
                        int accumulate)
{
    matmul_over_panels(y, y_stride, x, kernel_quantised_bytes(in), w,
                       (struct operands){KERNEL_INT8, KERNEL_INT8}, bias, rows, in, out_begin,
                       out_end, accumulate);
}

static void matmul_int4(float *y, size_t y_stride, const void *x, const void *w, const float *bias,
                        uint32_t rows, uint32_t in, uint32_t out_begin, uint32_t out_end,
                        int accumulate)
{
    matmul_over_panels(y, y_stride, x, kernel_quantised_bytes(in), w,
                       (struct operands){KERNEL_INT8, KERNEL_INT4}, bias, rows, in, out_begin,
                       out_end, accumulate);
}
