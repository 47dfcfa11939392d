/* The tables behind kernels_get(), one per instruction set. Only dispatch.c may look at those of an
 * instruction set that this processor could lack. */
#pragma once

#include "kernels/kernels.h"

extern const struct kernels kernels_ref;
extern const struct kernels kernels_avx2;
extern const struct kernels kernels_avx512;
extern const struct kernels kernels_avx512vnni;
extern const struct kernels kernels_avx512bf16;
extern const struct kernels kernels_amx;
