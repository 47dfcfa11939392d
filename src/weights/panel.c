/* See panel.h. */
#include "weights/panel.h"

#include "weights/quantise.h"

#include <string.h>

enum image_dtype panel_source_dtype(enum image_dtype dtype)
{
    return dtype == IMAGE_PANELS ? IMAGE_BF16 : IMAGE_F32;
}

static void interleave(uint16_t *panel, const uint16_t *rows, uint32_t row_count, uint32_t cols)
{
    for (uint32_t r = 0; r < row_count; r++)
        for (uint32_t k = 0; k < cols; k++)
            panel[image_panel_index(cols, r, k)] = rows[(size_t)r * cols + k];
}

size_t panel_make(void *panel, enum image_dtype dtype, const void *rows, uint32_t row_count,
                  uint32_t cols)
{
    if (dtype != IMAGE_PANELS)
        return quantise_panel(panel, dtype, rows, row_count, cols);
    memset(panel, 0, image_panel_bytes(dtype, cols));
    interleave(panel, rows, row_count, cols);
    return PANEL_ALL;
}
