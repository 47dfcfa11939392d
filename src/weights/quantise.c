/*
 * See quantise.h. A lane is a row of the panel: sums go over columns, in their order, and the
 * lanes of a step are what the compiler makes vectors of.
 */
#include "weights/quantise.h"

#include "weights/convert.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define LANES IMAGE_PANEL_ROWS
#define COLS IMAGE_GROUP_COLS

/* Added to a number of less than 2^22, it leaves the nearest whole number in the low bits. */
#define ROUNDER 0x1.8p23f

#define INLINE static inline __attribute__((always_inline))

/* Compiled for each width of vectors, chosen at start; rounding is the same in all (the Makefile
 * forbids to contract). Sanitizers cannot look into the choice. */
#if defined(__x86_64__) && !defined(SLLORA_SANITIZED)
#define WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WIDE
#endif

/* One group of all rows, column by column. */
struct group {
    float values[COLS][LANES];
    uint32_t codes[COLS][LANES];
    uint16_t scales[LANES]; /* bf16 */
};

static inline uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Where a scale is 0, all codes are that of 0. */
static inline float divisor_of(uint16_t scale)
{
    return scale == 0 ? INFINITY : float_of((uint32_t)scale << 16);
}

/* The low bits of a whole number from -2^22 to 2^22, to which ROUNDER was added. */
static inline uint32_t code_of(float rounded, uint32_t offset)
{
    return bits_of(rounded) - bits_of(ROUNDER) + offset;
}

/* --- int8 --- */

static void quantise_int8(struct group *g)
{
    float largest[LANES] = {0};
    float divisors[LANES];
    for (uint32_t k = 0; k < COLS; k++)
        for (uint32_t l = 0; l < LANES; l++) {
            float size = fabsf(g->values[k][l]);
            largest[l] = size > largest[l] ? size : largest[l];
        }
    for (uint32_t l = 0; l < LANES; l++) {
        float scale = largest[l] < QUANTISE_ABS_MIN ? 0 : largest[l] / 127;
        g->scales[l] = (uint16_t)((bits_of(scale) + 0xffffu) >> 16);
        divisors[l] = divisor_of(g->scales[l]);
    }
    for (uint32_t k = 0; k < COLS; k++)
        for (uint32_t l = 0; l < LANES; l++)
            g->codes[k][l] = code_of(g->values[k][l] / divisors[l] + ROUNDER, IMAGE_INT8_OFFSET);
}

/* --- int4 --- */

/* Plus ROUNDER: the nearest whole number from -8 to 7. */
INLINE float round_int4(float value)
{
    float low = value > -8.0f ? value : -8.0f;
    return (low < 7.0f ? low : 7.0f) + ROUNDER;
}

/* What codes leave of the values, squared and summed, is least with s = fit / square; it is less by
 * fit^2 / square than with s = 0. */
struct trial {
    float fit[LANES];    /* sum of value * code */
    float square[LANES]; /* sum of code^2 */
};

INLINE void try_scale(struct trial *ret, const float (*values)[LANES], float factor)
{
    for (uint32_t l = 0; l < LANES; l++) {
        float fit = 0;
        float square = 0;
        for (uint32_t k = 0; k < COLS; k++) {
            float code = round_int4(values[k][l] * factor) - ROUNDER;
            fit += values[k][l] * code;
            square += code * code;
        }
        ret->fit[l] = fit;
        ret->square[l] = square;
    }
}

/* The best scale for the codes of the best trial. */
WIDE static void search_int4(const float (*restrict values)[LANES], float *restrict ret_scales)
{
    float best[LANES] = {0};
    for (uint32_t i = 0; i < QUANTISE_INT4_TRIALS; i++) {
        struct trial t;
        try_scale(&t, values, 0.88f + 0.04f * (float)i);
        for (uint32_t l = 0; l < LANES; l++) {
            float scale = t.fit[l] / (t.square[l] > 0 ? t.square[l] : 1);
            bool better = t.fit[l] * scale > best[l];
            best[l] = better ? t.fit[l] * scale : best[l];
            ret_scales[l] = better ? scale : ret_scales[l];
        }
    }
}

static void quantise_int4(struct group *g)
{
    float extreme[LANES] = {0};
    float scales[LANES] = {0};
    float divisors[LANES];
    float values[COLS][LANES]; /* so that the extreme is -8: their squares are moderate numbers */
    for (uint32_t k = 0; k < COLS; k++)
        for (uint32_t l = 0; l < LANES; l++)
            extreme[l] = fabsf(g->values[k][l]) > fabsf(extreme[l]) ? g->values[k][l] : extreme[l];
    for (uint32_t l = 0; l < LANES; l++)
        divisors[l] = fabsf(extreme[l]) < QUANTISE_ABS_MIN ? INFINITY : extreme[l] / -8;
    for (uint32_t k = 0; k < COLS; k++)
        for (uint32_t l = 0; l < LANES; l++)
            values[k][l] = g->values[k][l] / divisors[l];
    search_int4(values, scales);
    for (uint32_t l = 0; l < LANES; l++) {
        float scale = isinf(divisors[l]) ? 0 : scales[l] * divisors[l];
        g->scales[l] = convert_bf16_of_f32(bits_of(scale));
        divisors[l] = divisor_of(g->scales[l]);
    }
    for (uint32_t k = 0; k < COLS; k++)
        for (uint32_t l = 0; l < LANES; l++)
            g->codes[k][l] = code_of(round_int4(g->values[k][l] / divisors[l]), IMAGE_INT4_OFFSET);
}

/* --- panels --- */

static void load_group(struct group *g, const float *rows, uint32_t row_count, uint32_t cols,
                       uint32_t first)
{
    uint32_t count = cols - first < COLS ? cols - first : COLS;
    if (row_count < LANES || count < COLS)
        memset(g->values, 0, sizeof g->values);
    for (uint32_t l = 0; l < row_count; l++)
        for (uint32_t k = 0; k < count; k++)
            g->values[k][l] = rows[(size_t)l * cols + first + k];
}

/* A word of each row from four columns, a byte each. */
static void put_words(uint32_t *to, const uint32_t (*codes)[LANES])
{
    for (uint32_t l = 0; l < LANES; l++)
        to[l] = codes[0][l] | codes[1][l] << 8 | codes[2][l] << 16 | codes[3][l] << 24;
}

static void put_codes(uint32_t *to, struct group *g, enum image_dtype dtype)
{
    for (uint32_t k = 0; dtype == IMAGE_INT8 && k < COLS; k += 4, to += LANES)
        put_words(to, g->codes + k);
    for (uint32_t k = 0; dtype == IMAGE_INT4 && k < COLS; k += 8, to += LANES) {
        for (uint32_t i = k; i < k + 4; i++)
            for (uint32_t l = 0; l < LANES; l++)
                g->codes[i][l] |= g->codes[i + 4][l] << 4;
        put_words(to, g->codes + k);
    }
}

size_t quantise_panel(void *panel, enum image_dtype dtype, const float *rows, uint32_t row_count,
                      uint32_t cols)
{
    size_t count = (size_t)row_count * cols;
    char *to = panel;
    assert(dtype == IMAGE_INT8 || dtype == IMAGE_INT4);
    for (size_t i = 0; i < count; i++)
        if (!(fabsf(rows[i]) <= QUANTISE_ABS_MAX))
            return i;
    for (uint32_t first = 0; first < cols; first += COLS, to += image_group_bytes(dtype)) {
        struct group g;
        load_group(&g, rows, row_count, cols, first);
        if (dtype == IMAGE_INT8)
            quantise_int8(&g);
        else
            quantise_int4(&g);
        memcpy(to, g.scales, sizeof g.scales);
        put_codes((uint32_t *)(void *)(to + sizeof g.scales), &g, dtype);
    }
    return PANEL_ALL;
}
