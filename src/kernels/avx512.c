/* The kernels for AVX-512. */
#include "kernels/avx512.h"

#define VEC_TABLE kernels_avx512
#define VEC_ISA KERNEL_ISA_AVX512
#include "kernels/vector.h"
