/* Rows of a matrix into a panel of an image: interleaved, or rounded to codes. Packing makes panels
 * so, and so does whoever must know whether other rows are those of a panel. */
#pragma once

#include "weights/image.h"

#define PANEL_ALL SIZE_MAX

/* What rows must be before they become panels of `dtype`: IMAGE_BF16 for IMAGE_PANELS, else
 * IMAGE_F32. */
enum image_dtype panel_source_dtype(enum image_dtype dtype);

/* Writes one panel, image_panel_bytes(dtype, cols) long: rows [row_count, cols] of
 * panel_source_dtype(dtype), finite, 1 <= row_count <= IMAGE_PANEL_ROWS. Returns PANEL_ALL, or the
 * index of the first value that is too large to be quantised; then the panel is of no use. */
size_t panel_make(void *panel, enum image_dtype dtype, const void *rows, uint32_t row_count,
                  uint32_t cols);
