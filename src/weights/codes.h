/*
 * Floats into signed bytes that one scale stands for, as adapters in int8 are kept: a value v is
 * scale * code with code = v / scale to the nearest, ties to even, and scale = largest |v| / 127 of
 * the row or column that shares it, so |v - scale * code| <= scale / 2. Where a scale is 0, so are
 * the codes.
 */
#pragma once

#include "weights/image.h"

float codes_scale(float largest);

/* to [row_count, cols], rows [row_count, cols], a scale for each row: IMAGE_CODES. */
void codes_of_rows(int8_t *to, const float *rows, const float *scales, uint32_t row_count,
                   uint32_t cols);

/* One panel of IMAGE_CODE_PANELS of rows [row_count, cols], a scale for each column;
 * 1 <= row_count <= IMAGE_PANEL_ROWS. */
void codes_panel(int8_t *panel, const float *rows, const float *scales, uint32_t row_count,
                 uint32_t cols);
