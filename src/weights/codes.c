/* See codes.h. */
#include "weights/codes.h"

#include <float.h>
#include <math.h>

#define CODE_MAX 127.0f

/* What is so small that its scale were no normal number counts as 0. */
float codes_scale(float largest)
{
    return largest < CODE_MAX * FLT_MIN ? 0 : largest / CODE_MAX;
}

static int8_t code_of(float value, float scale)
{
    return scale > 0 ? (int8_t)lrintf(value / scale) : 0;
}

void codes_of_rows(int8_t *to, const float *rows, const float *scales, uint32_t row_count,
                   uint32_t cols)
{
    for (size_t r = 0; r < row_count; r++)
        for (size_t k = 0; k < cols; k++)
            to[r * cols + k] = code_of(rows[r * cols + k], scales[r]);
}

void codes_panel(int8_t *panel, const float *rows, const float *scales, uint32_t row_count,
                 uint32_t cols)
{
    for (size_t k = 0; k < cols; k++)
        for (size_t r = 0; r < IMAGE_PANEL_ROWS; r++)
            panel[k * IMAGE_PANEL_ROWS + r] =
                r < row_count ? code_of(rows[r * cols + k], scales[k]) : 0;
}
