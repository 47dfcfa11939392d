/*
 * Part of amx.c: quantised panels times rows of codes, a group's inputs in one tile. Sums of a
 * group are whole numbers and exact, and what follows them is what quantised_group does, in its
 * order: an output is bitwise the same from vectors and from tiles. So few rows take the vectors,
 * which keep up with memory, and many the tiles.
 */
_Static_assert(KERNEL_GROUP == TILE_LINE, "a line of x is a group's codes");
_Static_assert(KERNEL_GROUP == TILE_PAIRS * 4, "a tile of weights is half a group of a panel");
_Static_assert(KERNEL_PANEL_OUTS == 2 * VEC_LANES, "two vectors of outputs");

/* Rows from which the tiles take over: where the vectors' tiles of QUANTISED_ROWS end. Not tuned.
 */
#define TILED_ROWS QUANTISED_ROWS

/* A group's codes of int4 as those of int8. */
INLINE void unpack_group(char to[KERNEL_GROUP * KERNEL_PANEL_OUTS], const char *words)
{
#pragma GCC unroll 8
    for (size_t w = 0; w < KERNEL_GROUP / 8; w++, words += STEP_BYTES)
#pragma GCC unroll 2
        for (size_t v = 0; v < STEP_BYTES; v += sizeof(veci)) {
            veci codes = veci_load(words + v);
            _mm512_store_si512(to + 2 * w * STEP_BYTES + v, veci_low_halves(codes));
            _mm512_store_si512(to + (2 * w + 1) * STEP_BYTES + v, veci_high_halves(codes));
        }
}

/* sums [rows, outputs of a panel] = x's codes * weights' codes, over one group */
INLINE void group_multiply(int32_t sums[BLOCK_HEIGHT][KERNEL_PANEL_OUTS], const char *x,
                           size_t x_bytes, const char *words, const int is_high)
{
    zero_sums();
    _tile_loadd(WEIGHTS_0, words, 2 * TILE_LINE);
    _tile_loadd(WEIGHTS_1, words + TILE_LINE, 2 * TILE_LINE);
    _tile_loadd(X_0, x, x_bytes);
    _tile_dpbsud(SUMS_00, X_0, WEIGHTS_0);
    _tile_dpbsud(SUMS_01, X_0, WEIGHTS_1);
    if (is_high) {
        _tile_loadd(X_1, x + TILE_HEIGHT * x_bytes, x_bytes);
        _tile_dpbsud(SUMS_10, X_1, WEIGHTS_0);
        _tile_dpbsud(SUMS_11, X_1, WEIGHTS_1);
    }
    store_sums(sums[0], sizeof sums[0], is_high);
}

/* totals += the group's sums times both scales; x_scales and minus_sums of the first row, the
 * others' x_bytes apart. */
INLINE void group_scale(float totals[BLOCK_HEIGHT][KERNEL_PANEL_OUTS],
                        const int32_t sums[BLOCK_HEIGHT][KERNEL_PANEL_OUTS], const char *group,
                        const struct quantised_row x, size_t x_bytes, uint32_t g, uint32_t rows,
                        const int is_int4)
{
    const uint16_t *scales = (const uint16_t *)(const void *)group;
    const vec scale[2] = {vec_load_bf16(scales), vec_load_bf16(scales + VEC_LANES)};
    const char *x_scale = (const char *)(x.scales + g), *minus = (const char *)(x.minus_sums + g);
    for (uint32_t r = 0; r < rows; r++, x_scale += x_bytes, minus += x_bytes) {
        const vec by = vec_set1(*(const float *)(const void *)x_scale);
        const veci offset = veci_shift_left(veci_set1(*(const int32_t *)(const void *)minus),
                                            is_int4 ? INT4_OFFSET_BITS : INT8_OFFSET_BITS);
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++) {
            veci sum = veci_add(offset, veci_load(sums[r] + v * VEC_LANES));
            float *total = totals[r] + v * VEC_LANES;
            vec_store_f32(total,
                          vec_fma(vec_of_veci(sum), vec_mul(scale[v], by), vec_load_f32(total)));
        }
    }
}

/* A group's tiles are multiplied while the vectors scale what came of the one before. */
INLINE void quantised_block(const struct product *p, const struct block *b, struct ahead *ahead,
                            const int is_high, const int is_int4)
{
    alignas(64) float totals[BLOCK_HEIGHT][KERNEL_PANEL_OUTS];
    alignas(64) int32_t sums[2][BLOCK_HEIGHT][KERNEL_PANEL_OUTS];
    alignas(64) char unpacked[KERNEL_GROUP * KERNEL_PANEL_OUTS];
    const struct quantised_row row = quantised_row_of(b->x, p->in);
    const uint32_t groups = kernel_groups(p->in);
    const char *group = b->panel;
    memset(totals, 0, b->rows * sizeof totals[0]);
    for (uint32_t g = 0; g <= groups; g++, group += p->step_bytes) {
        if (g < groups) {
            const char *words = group + SCALES_BYTES;
            fetch_share(ahead);
            if (is_int4) {
                unpack_group(unpacked, words);
                words = unpacked;
            }
            written();
            group_multiply(sums[g % 2], b->x + (size_t)g * KERNEL_GROUP, p->x_bytes, words,
                           is_high);
            written();
        }
        if (g > 0)
            group_scale(totals, sums[(g - 1) % 2], group - p->step_bytes, row, p->x_bytes, g - 1,
                        b->rows, is_int4);
    }
    store_block(p, b, totals);
}

INLINE void int8_block(const struct product *p, const struct block *b, struct ahead *ahead,
                       const int is_high)
{
    quantised_block(p, b, ahead, is_high, 0);
}

INLINE void int4_block(const struct product *p, const struct block *b, struct ahead *ahead,
                       const int is_high)
{
    quantised_block(p, b, ahead, is_high, 1);
}

INLINE struct product quantised_product(float *y, size_t y_stride, const void *x, const void *w,
                                        const float *bias, uint32_t rows, uint32_t in,
                                        uint32_t out_begin, uint32_t out_end, int accumulate,
                                        enum kernel_dtype dtype)
{
    return (struct product){.y = y,
                            .y_stride = y_stride,
                            .x = x,
                            .x_bytes = kernel_quantised_bytes(in),
                            .w = w,
                            .panel_bytes = kernel_panel_bytes(dtype, in),
                            .step_bytes = kernel_group_bytes(dtype),
                            .step_inputs = KERNEL_GROUP,
                            .bias = bias,
                            .rows = rows,
                            .in = in,
                            .out_begin = out_begin,
                            .out_end = out_end,
                            .accumulate = accumulate};
}

static void matmul_int8_tiles(float *y, size_t y_stride, const void *x, const void *w,
                              const float *bias, uint32_t rows, uint32_t in, uint32_t out_begin,
                              uint32_t out_end, int accumulate)
{
    struct product p = quantised_product(y, y_stride, x, w, bias, rows, in, out_begin, out_end,
                                         accumulate, KERNEL_INT8);
    if (rows < TILED_ROWS)
        matmul_int8(y, y_stride, x, w, bias, rows, in, out_begin, out_end, accumulate);
    else
        tiles_product(&p, in, int8_block);
}

static void matmul_int4_tiles(float *y, size_t y_stride, const void *x, const void *w,
                              const float *bias, uint32_t rows, uint32_t in, uint32_t out_begin,
                              uint32_t out_end, int accumulate)
{
    struct product p = quantised_product(y, y_stride, x, w, bias, rows, in, out_begin, out_end,
                                         accumulate, KERNEL_INT4);
    if (rows < TILED_ROWS)
        matmul_int4(y, y_stride, x, w, bias, rows, in, out_begin, out_end, accumulate);
    else
        tiles_product(&p, in, int4_block);
}
