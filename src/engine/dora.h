/*
 * The norms that DoRA (Liu et al. 2024, section 4) divides by, computed once when an adapter is
 * packed: with them unmerged DoRA costs one multiplication an output. One decision: the adapted
 * matrix is never formed; |w + s b a|^2 = |w|^2 + 2 s b (a w) + s^2 b (a a^T) b^T needs one product
 * of the matrix with the rank's few rows.
 */
#pragma once

#include "base/error.h"
#include "weights/backbone.h"

#include <stdbool.h>

/* pack_options.adapted_norms. -ENOMEM. */
int dora_norms(const struct weight *w, bool by_column, const float *a, const float *b,
               uint32_t rank, float scale, float *ret, struct error *err);
