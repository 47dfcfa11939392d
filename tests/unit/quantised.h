/* Reads a panel of int8 or int4: the formula of image.h, written out a second time. */
#pragma once

#include "weights/image.h"

#include <stdint.h>
#include <string.h>

#define QUANTISED_ROWS 32u
#define QUANTISED_GROUP 64u

static inline const uint8_t *quantised_group(const uint8_t *panel, enum image_dtype dtype,
                                             uint32_t col)
{
    size_t codes = dtype == IMAGE_INT8 ? QUANTISED_ROWS * QUANTISED_GROUP
                                       : QUANTISED_ROWS * QUANTISED_GROUP / 2;
    return panel + col / QUANTISED_GROUP * (QUANTISED_ROWS * 2 + codes);
}

static inline float quantised_scale(const uint8_t *panel, enum image_dtype dtype, uint32_t row,
                                    uint32_t col)
{
    uint16_t half;
    memcpy(&half, quantised_group(panel, dtype, col) + (size_t)row * 2, 2);
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline int quantised_code(const uint8_t *panel, enum image_dtype dtype, uint32_t row,
                                 uint32_t col)
{
    const uint8_t *codes = quantised_group(panel, dtype, col) + QUANTISED_ROWS * 2;
    col %= QUANTISED_GROUP;
    if (dtype == IMAGE_INT8)
        return codes[(col / 4 * QUANTISED_ROWS + row) * 4 + col % 4] - 128;
    uint8_t both = codes[(col / 8 * QUANTISED_ROWS + row) * 4 + col % 4];
    return (col % 8 < 4 ? both & 15 : both >> 4) - 8;
}

static inline double quantised_value(const uint8_t *panel, enum image_dtype dtype, uint32_t row,
                                     uint32_t col)
{
    return (double)quantised_scale(panel, dtype, row, col) * quantised_code(panel, dtype, row, col);
}
