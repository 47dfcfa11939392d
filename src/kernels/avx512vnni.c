/* The kernels for AVX-512 with VNNI: products of fours of bytes. Of floats as AVX-512 has them, on
 * processors whose products of bf16 are missing, or slower than those of floats. */
#include "kernels/avx512.h"

#define VEC_TABLE kernels_avx512vnni
#define VEC_ISA KERNEL_ISA_AVX512VNNI
#include "kernels/vector.h"
