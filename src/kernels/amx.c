/*
 * The kernels for Intel's matrix extensions (AMX) beside AVX-512 with VNNI: products in tiles of
 * sixteen rows by sixteen outputs, an order of magnitude above what its vectors multiply. A panel
 * is a tile's format as it stands: a line for each pair of inputs in bf16, for each four in int8.
 *
 * Of bf16 every number of rows takes the tiles, one row too: an output's products are added in the
 * order of inputs, sixteen pairs a step, whatever stands in the other rows, so it is bitwise the
 * same alone and in a batch. A tile's unused rows are not computed.
 */
#include "kernels/avx512.h"

#include <stdalign.h>

static kernel_matmul_half matmul_half_tiles;
static kernel_matmul_quantised matmul_int8_tiles, matmul_int4_tiles;
static kernel_ceiling_multiply ceiling_bf16_tiles, ceiling_int8_tiles;

#define MATMUL_HALF_PANELS matmul_half_tiles
#define MATMUL_INT8 matmul_int8_tiles
#define MATMUL_INT4 matmul_int4_tiles
#define CEILING_BF16 ceiling_bf16_tiles
#define CEILING_INT8 ceiling_int8_tiles
#define VEC_TABLE kernels_amx
#define VEC_ISA KERNEL_ISA_AMX
#include "kernels/vector.h"

#define TILE_HEIGHT 16 /* rows of x in a tile */
#define TILE_LINE 64   /* bytes: 16 pairs, or 16 sums */
#define TILE_PAIRS 16  /* lines of weights */
#define TILE_INPUTS (2 * TILE_PAIRS)
#define BLOCK_HEIGHT (2 * TILE_HEIGHT)

_Static_assert(KERNEL_PANEL_OUTS * 4 == 2 * TILE_LINE, "two tiles of weights side by side");

/* The registers, which the compiler wants as digits: sums of 2 x 2 tiles, x of two heights, weights
 * of both halves of a panel. */
#define SUMS_00 0
#define SUMS_01 1
#define SUMS_10 2
#define SUMS_11 3
#define X_0 4
#define X_1 5
#define WEIGHTS_0 6
#define WEIGHTS_1 7
#define TILES 8

/* What LDTILECFG loads (Intel's manual, volume 1, 18.1). */
struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t line_bytes[16];
    uint8_t rows[16];
};

/* The compiler does not know what memory its own instructions for tiles read. */
INLINE void written(void)
{
    __asm__ volatile("" ::: "memory");
}

/* For a block of so many rows, 1 to BLOCK_HEIGHT. Clears all tiles. */
static void configure(uint32_t rows)
{
    struct tile_config c = {.palette = 1};
    uint8_t upper = rows < TILE_HEIGHT ? (uint8_t)rows : TILE_HEIGHT;
    uint8_t lower = rows > TILE_HEIGHT ? (uint8_t)(rows - TILE_HEIGHT) : TILE_HEIGHT;
    for (int t = 0; t < TILES; t++) {
        c.line_bytes[t] = TILE_LINE;
        c.rows[t] = TILE_PAIRS;
    }
    c.rows[SUMS_00] = c.rows[SUMS_01] = c.rows[X_0] = upper;
    c.rows[SUMS_10] = c.rows[SUMS_11] = c.rows[X_1] = lower;
    written();
    _tile_loadconfig(&c);
}

INLINE void zero_sums(void)
{
    _tile_zero(SUMS_00);
    _tile_zero(SUMS_01);
    _tile_zero(SUMS_10);
    _tile_zero(SUMS_11);
}

/* sums += x [rows, TILE_INPUTS] * weights [TILE_PAIRS, 2 x 16 pairs] */
INLINE void tiles_step(const uint16_t *x, size_t x_bytes, const char *w, const int is_high)
{
    _tile_loadd(WEIGHTS_0, w, 2 * TILE_LINE);
    _tile_loadd(WEIGHTS_1, w + TILE_LINE, 2 * TILE_LINE);
    _tile_loadd(X_0, x, x_bytes);
    _tile_dpbf16ps(SUMS_00, X_0, WEIGHTS_0);
    _tile_dpbf16ps(SUMS_01, X_0, WEIGHTS_1);
    if (!is_high)
        return;
    _tile_loadd(X_1, (const char *)x + TILE_HEIGHT * x_bytes, x_bytes);
    _tile_dpbf16ps(SUMS_10, X_1, WEIGHTS_0);
    _tile_dpbf16ps(SUMS_11, X_1, WEIGHTS_1);
}

/* The last inputs, fewer than a tile has: what is missing is 0 in both. */
INLINE void tiles_rest(const uint16_t *x, size_t x_stride, const char *w, uint32_t rows, uint32_t n,
                       const int is_high)
{
    alignas(64) uint16_t part[BLOCK_HEIGHT][TILE_INPUTS] = {{0}};
    alignas(64) char weights[TILE_PAIRS * 2 * TILE_LINE] = {0};
    for (uint32_t r = 0; r < rows; r++)
        memcpy(part[r], x + r * x_stride, n * sizeof *x);
    memcpy(weights, w, (n + 1) / 2 * 2 * TILE_LINE);
    written();
    tiles_step(part[0], sizeof part[0], weights, is_high);
}

/* The outputs of one panel for up to BLOCK_HEIGHT rows. */
INLINE void tiles_block(float *y, size_t y_stride, const uint16_t *x, size_t x_stride,
                        const char *w, const char *ahead, const float *bias, uint32_t rows,
                        uint32_t in, uint32_t outs, int accumulate, const int is_high)
{
    alignas(64) float sums[BLOCK_HEIGHT][KERNEL_PANEL_OUTS];
    uint32_t k = 0;
    zero_sums();
    for (; in - k >= TILE_INPUTS; k += TILE_INPUTS) {
        for (int line = 0; line < 2 * TILE_PAIRS; line++)
            _mm_prefetch(ahead + line * TILE_LINE, _MM_HINT_T1);
        tiles_step(x + k, x_stride * sizeof *x, w, is_high);
        w += TILE_PAIRS * 2 * TILE_LINE;
        ahead += TILE_PAIRS * 2 * TILE_LINE;
    }
    if (k < in)
        tiles_rest(x + k, x_stride, w, rows, in - k, is_high);
    _tile_stored(SUMS_00, &sums[0][0], sizeof sums[0]);
    _tile_stored(SUMS_01, &sums[0][16], sizeof sums[0]);
    if (is_high) {
        _tile_stored(SUMS_10, &sums[TILE_HEIGHT][0], sizeof sums[0]);
        _tile_stored(SUMS_11, &sums[TILE_HEIGHT][16], sizeof sums[0]);
    }
    for (uint32_t r = 0; r < rows; r++) {
        vec acc[PANEL_VECS] = {vec_load_f32(sums[r]), vec_load_f32(sums[r] + VEC_LANES)};
        panel_store(y + r * y_stride, acc, bias, outs, accumulate);
    }
}

/* The weights to fetch while a panel is multiplied; near the end: the panel itself, which costs
 * nothing. */
INLINE const char *ahead_of(const char *panel, size_t panel_bytes, const char *end)
{
    return (size_t)(end - panel) < panel_bytes + AHEAD_BYTES ? panel : panel + AHEAD_BYTES;
}

/* Rows outside, panels inside: a block's x stays in the caches while the weights pass, which are
 * in the second level from the second block on. */
static void matmul_half_tiles(float *y, size_t y_stride, const uint16_t *x, size_t x_stride,
                              const void *w, const float *bias, uint32_t rows, uint32_t in,
                              uint32_t out_begin, uint32_t out_end, int accumulate)
{
    size_t panel_bytes = kernel_panel_bytes(KERNEL_PANELS, in);
    const char *first = (const char *)w + out_begin / KERNEL_PANEL_OUTS * panel_bytes;
    uint32_t panels = (out_end - out_begin + KERNEL_PANEL_OUTS - 1) / KERNEL_PANEL_OUTS;
    const char *end = first + panels * panel_bytes;
    for (uint32_t r = 0, count; r < rows; r += count) {
        count = rows - r < BLOCK_HEIGHT ? rows - r : BLOCK_HEIGHT;
        configure(count);
        const char *panel = first;
        for (uint32_t o = out_begin; o < out_end; o += KERNEL_PANEL_OUTS, panel += panel_bytes) {
            uint32_t outs = out_end - o < KERNEL_PANEL_OUTS ? out_end - o : KERNEL_PANEL_OUTS;
            const char *ahead = ahead_of(panel, panel_bytes, end);
            float *to = y + r * y_stride + o;
            const uint16_t *from = x + r * x_stride;
            const float *b = bias != NULL ? bias + o : NULL;
            if (count > TILE_HEIGHT)
                tiles_block(to, y_stride, from, x_stride, panel, ahead, b, count, in, outs,
                            accumulate, 1);
            else
                tiles_block(to, y_stride, from, x_stride, panel, ahead, b, count, in, outs,
                            accumulate, 0);
        }
    }
    _tile_release(); /* or every change of threads would save the tiles */
}

#include "kernels/amx_quantised.h"

/* --- ceilings --- */

/* What four tiles came to, so that nothing is left out. */
static float sum_of_tiles(int are_whole_numbers)
{
    alignas(64) char tiles[4][TILE_HEIGHT * TILE_LINE];
    _tile_stored(SUMS_00, tiles[0], TILE_LINE);
    _tile_stored(SUMS_01, tiles[1], TILE_LINE);
    _tile_stored(SUMS_10, tiles[2], TILE_LINE);
    _tile_stored(SUMS_11, tiles[3], TILE_LINE);
    _tile_release();
    vec all = vec_set1(0);
    for (size_t at = 0; at < sizeof tiles; at += sizeof(vec))
        all = vec_add(all, are_whole_numbers ? vec_of_veci(veci_load(tiles[0] + at))
                                             : vec_load_f32((float *)(void *)(tiles[0] + at)));
    return vec_sum(all);
}

static void load_tiles(const void *values)
{
    written();
    configure(BLOCK_HEIGHT);
    zero_sums();
    _tile_loadd(X_0, values, TILE_LINE);
    _tile_loadd(WEIGHTS_0, values, TILE_LINE);
}

static uint64_t ceiling_bf16_tiles(uint64_t rounds, float *factor)
{
    alignas(64) uint16_t values[TILE_HEIGHT * TILE_INPUTS];
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++)
        store_bf16(values + i, factor, 1);
    load_tiles(values);
    for (uint64_t r = 0; r < rounds; r++) {
        _tile_dpbf16ps(SUMS_00, X_0, WEIGHTS_0);
        _tile_dpbf16ps(SUMS_01, X_0, WEIGHTS_0);
        _tile_dpbf16ps(SUMS_10, X_0, WEIGHTS_0);
        _tile_dpbf16ps(SUMS_11, X_0, WEIGHTS_0);
    }
    *factor = sum_of_tiles(0);
    return rounds * 4 * TILE_HEIGHT * VEC_LANES * TILE_INPUTS * 2;
}

static uint64_t ceiling_int8_tiles(uint64_t rounds, float *factor)
{
    alignas(64) int8_t values[TILE_HEIGHT * TILE_LINE];
    memset(values, (int)(127 * *factor), sizeof values);
    load_tiles(values);
    for (uint64_t r = 0; r < rounds; r++) {
        _tile_dpbsud(SUMS_00, X_0, WEIGHTS_0);
        _tile_dpbsud(SUMS_01, X_0, WEIGHTS_0);
        _tile_dpbsud(SUMS_10, X_0, WEIGHTS_0);
        _tile_dpbsud(SUMS_11, X_0, WEIGHTS_0);
    }
    *factor = sum_of_tiles(1);
    return rounds * 4 * TILE_HEIGHT * VEC_LANES * TILE_LINE * 2;
}
