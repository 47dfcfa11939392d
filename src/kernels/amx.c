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
#include <stdbool.h>

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
#define CACHE_LINE 64
#define SLICE_INPUTS 2048u

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

INLINE void load_sums(const float *from, size_t row_bytes, const int is_high)
{
    const char *low = (const char *)from, *high = low + TILE_HEIGHT * row_bytes;
    _tile_loadd(SUMS_00, low, row_bytes);
    _tile_loadd(SUMS_01, low + TILE_LINE, row_bytes);
    if (!is_high)
        return;
    _tile_loadd(SUMS_10, high, row_bytes);
    _tile_loadd(SUMS_11, high + TILE_LINE, row_bytes);
}

INLINE void store_sums(void *to, size_t row_bytes, const int is_high)
{
    char *low = to, *high = low + TILE_HEIGHT * row_bytes;
    _tile_stored(SUMS_00, low, row_bytes);
    _tile_stored(SUMS_01, low + TILE_LINE, row_bytes);
    if (!is_high)
        return;
    _tile_stored(SUMS_10, high, row_bytes);
    _tile_stored(SUMS_11, high + TILE_LINE, row_bytes);
}

/* sums += x [rows, TILE_INPUTS] * weights [TILE_PAIRS, 2 x 16 pairs] */
INLINE void tiles_step(const char *x, size_t x_bytes, const char *w, const int is_high)
{
    _tile_loadd(WEIGHTS_0, w, 2 * TILE_LINE);
    _tile_loadd(WEIGHTS_1, w + TILE_LINE, 2 * TILE_LINE);
    _tile_loadd(X_0, x, x_bytes);
    _tile_dpbf16ps(SUMS_00, X_0, WEIGHTS_0);
    _tile_dpbf16ps(SUMS_01, X_0, WEIGHTS_1);
    if (!is_high)
        return;
    _tile_loadd(X_1, x + TILE_HEIGHT * x_bytes, x_bytes);
    _tile_dpbf16ps(SUMS_10, X_1, WEIGHTS_0);
    _tile_dpbf16ps(SUMS_11, X_1, WEIGHTS_1);
}

/* The last inputs, fewer than a tile has: what is missing is 0 in both. */
INLINE void tiles_rest(const char *x, size_t x_bytes, const char *w, uint32_t rows, uint32_t n,
                       const int is_high)
{
    alignas(64) uint16_t part[BLOCK_HEIGHT][TILE_INPUTS] = {{0}};
    alignas(64) char weights[TILE_PAIRS * 2 * TILE_LINE] = {0};
    for (uint32_t r = 0; r < rows; r++)
        memcpy(part[r], x + r * x_bytes, n * sizeof part[0][0]);
    memcpy(weights, w, (n + 1) / 2 * 2 * TILE_LINE);
    written();
    tiles_step((const char *)part[0], sizeof part[0], weights, is_high);
}

/* What memory is asked for in each step: so many lines of weights, and where sums will be written,
 * which costs as much as reading. */
struct ahead {
    const char *w;
    uint32_t lines;
    uint32_t y_rows; /* left */
    const char *y;
    size_t y_bytes; /* from a row to the next */
};

#define AHEAD_ROWS 4u

INLINE void fetch_share(struct ahead *a)
{
    for (uint32_t line = 0; line < a->lines; line++)
        _mm_prefetch(a->w + line * CACHE_LINE, _MM_HINT_T1);
    a->w += a->lines * CACHE_LINE;
    for (uint32_t i = 0; i < AHEAD_ROWS && a->y_rows > 0; i++, a->y_rows--, a->y += a->y_bytes) {
        __builtin_prefetch(a->y, 1);
        __builtin_prefetch(a->y + CACHE_LINE, 1);
    }
}

/* A product: rows of x, x_bytes apart, times panels of weights. A step is what stands in the tiles
 * at a time: so many inputs of a panel, step_bytes of it. */
struct product {
    float *y;
    size_t y_stride;
    const char *x;
    size_t x_bytes;
    const char *w;
    size_t panel_bytes, step_bytes;
    uint32_t step_inputs;
    const float *bias;
    uint32_t rows, in, out_begin, out_end;
    int accumulate;
};

/* The outputs of one panel for up to BLOCK_HEIGHT rows. */
struct block {
    float *y;
    const char *x, *panel;
    const float *bias;
    uint32_t rows, outs;
    uint32_t begin, end; /* of the inputs: sums of those before `begin` stand in y */
};

/* Few rows: what this product reads a little later; near its end the panel itself, which costs
 * nothing. Many: each of their blocks brings its part of the next product's panels, which follow
 * these. */
INLINE struct ahead ahead_of(const struct product *p, const struct block *b, const char *w_end,
                             uint32_t index, uint32_t count)
{
    uint32_t lines = (uint32_t)(p->step_bytes / CACHE_LINE), share = (lines + count - 1) / count;
    struct ahead a = {.lines = share,
                      .y_rows = b->begin == 0 ? b->rows : 0,
                      .y = (const char *)b->y,
                      .y_bytes = p->y_stride * sizeof *p->y};
    size_t distance = count == 1 ? AHEAD_BYTES : (size_t)(w_end - p->w);
    if (count == 1 && (size_t)(w_end - b->panel) < p->panel_bytes + AHEAD_BYTES)
        distance = 0;
    size_t before = index * (p->panel_bytes / lines * share);
    size_t step = b->begin / p->step_inputs * share * CACHE_LINE;
    a.w = (const char *)((uintptr_t)b->panel + distance + before + step);
    return a;
}

typedef void block_multiply(const struct product *p, const struct block *b, struct ahead *ahead,
                            int is_high);

/* Rows outside, panels inside: a block's x stays in the first level while the weights pass, which
 * are in the second from the second block on. For both, of long inputs a slice is taken at a time.
 */
INLINE void tiles_slice(const struct product *p, uint32_t begin, uint32_t end,
                        block_multiply *multiply)
{
    uint32_t blocks = (p->rows + BLOCK_HEIGHT - 1) / BLOCK_HEIGHT, configured = 0;
    uint32_t panels = (p->out_end - p->out_begin + KERNEL_PANEL_OUTS - 1) / KERNEL_PANEL_OUTS;
    const char *w_end = p->w + panels * p->panel_bytes;
    for (uint32_t i = 0; i < blocks; i++) {
        uint32_t r = i * BLOCK_HEIGHT;
        struct block b = {.x = p->x + r * p->x_bytes, .panel = p->w, .begin = begin, .end = end};
        b.rows = p->rows - r < BLOCK_HEIGHT ? p->rows - r : BLOCK_HEIGHT;
        if (b.rows != configured)
            configure(b.rows);
        configured = b.rows;
        for (uint32_t o = p->out_begin; o < p->out_end; o += KERNEL_PANEL_OUTS) {
            b.outs = p->out_end - o < KERNEL_PANEL_OUTS ? p->out_end - o : KERNEL_PANEL_OUTS;
            b.y = p->y + r * p->y_stride + o;
            b.bias = p->bias != NULL ? p->bias + o : NULL;
            struct ahead ahead = ahead_of(p, &b, w_end, i, blocks);
            if (b.rows > TILE_HEIGHT)
                multiply(p, &b, &ahead, 1);
            else
                multiply(p, &b, &ahead, 0);
            b.panel += p->panel_bytes;
        }
    }
}

/* Sums of a slice are left in y, as they are, where that is all theirs. */
INLINE void tiles_product(struct product *p, uint32_t slice, block_multiply *multiply)
{
    bool is_whole = p->rows <= BLOCK_HEIGHT || p->accumulate || p->out_end % KERNEL_PANEL_OUTS != 0;
    p->w += p->out_begin / KERNEL_PANEL_OUTS * p->panel_bytes;
    if (is_whole || slice > p->in)
        slice = p->in;
    for (uint32_t begin = 0, end; begin < p->in; begin = end) {
        end = p->in - begin < slice ? p->in : begin + slice;
        tiles_slice(p, begin, end, multiply);
    }
    _tile_release(); /* or every change of threads would save the tiles */
}

/* What the sums of a block come to. */
INLINE void store_block(const struct product *p, const struct block *b,
                        const float sums[BLOCK_HEIGHT][KERNEL_PANEL_OUTS])
{
    for (uint32_t r = 0; r < b->rows; r++) {
        vec acc[PANEL_VECS] = {vec_load_f32(sums[r]), vec_load_f32(sums[r] + VEC_LANES)};
        panel_store(b->y + r * p->y_stride, acc, b->bias, b->outs, p->accumulate);
    }
}

INLINE void half_block(const struct product *p, const struct block *b, struct ahead *ahead,
                       const int is_high)
{
    alignas(64) float sums[BLOCK_HEIGHT][KERNEL_PANEL_OUTS];
    uint32_t k = b->begin;
    const char *w = b->panel + k / TILE_INPUTS * p->step_bytes;
    if (b->begin == 0)
        zero_sums();
    else
        load_sums(b->y, p->y_stride * sizeof *b->y, is_high);
    for (; b->end - k >= TILE_INPUTS; k += TILE_INPUTS, w += p->step_bytes) {
        fetch_share(ahead);
        tiles_step(b->x + k * sizeof(uint16_t), p->x_bytes, w, is_high);
    }
    if (b->end < p->in) {
        store_sums(b->y, p->y_stride * sizeof *b->y, is_high);
        return;
    }
    if (k < p->in)
        tiles_rest(b->x + k * sizeof(uint16_t), p->x_bytes, w, b->rows, p->in - k, is_high);
    store_sums(sums[0], sizeof sums[0], is_high);
    store_block(p, b, sums);
}

static void matmul_half_tiles(float *y, size_t y_stride, const uint16_t *x, size_t x_stride,
                              const void *w, const float *bias, uint32_t rows, uint32_t in,
                              uint32_t out_begin, uint32_t out_end, int accumulate)
{
    struct product p = {.y = y,
                        .y_stride = y_stride,
                        .x = (const char *)x,
                        .x_bytes = x_stride * sizeof *x,
                        .w = w,
                        .panel_bytes = kernel_panel_bytes(KERNEL_PANELS, in),
                        .step_bytes = TILE_PAIRS * 2 * TILE_LINE,
                        .step_inputs = TILE_INPUTS,
                        .bias = bias,
                        .rows = rows,
                        .in = in,
                        .out_begin = out_begin,
                        .out_end = out_end,
                        .accumulate = accumulate};
    tiles_product(&p, SLICE_INPUTS, half_block);
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
