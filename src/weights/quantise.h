/*
 * Floats into codes of a few bits: rounding to nearest within a group, as pure as arithmetic. The
 * result depends on the numbers alone, not on the processor: equal checkpoints have equal images.
 *
 * A panel's rows are rounded side by side, each group of a row with a scale s (bf16) of its own,
 * and a value v stands for s * (code - offset):
 *
 * IMAGE_INT8  s = max |v| / 127 rounded up, code - offset = v / s to the nearest, ties to even:
 *             no value is beyond the ends, |v - v'| <= s / 2.
 * IMAGE_INT4  codes reach from -8 to 7, so the extreme value m (of largest size, the first of
 *             equals) takes the end that reaches further: s is near -m / 8 and has its sign
 * (llama.cpp's Q4_0). Of QUANTISE_INT4_TRIALS scales around it the one whose codes q leave the
 * least squared error counts, with s = sum(v q) / sum(q^2), the best for these codes (as
 *             llama.cpp's make_qx_quants). |v - v'| <= |s| / 2 but at the ends.
 *
 * A group below QUANTISE_ABS_MIN is all 0, for its scale would be no normal number.
 */
#pragma once

#include "weights/panel.h"

#define QUANTISE_ABS_MAX 0x1p126f
#define QUANTISE_ABS_MIN 0x1p-110f
#define QUANTISE_INT4_TRIALS 8u

/* As panel_make, for IMAGE_INT8 and IMAGE_INT4. */
size_t quantise_panel(void *panel, enum image_dtype dtype, const float *rows, uint32_t row_count,
                      uint32_t cols);
