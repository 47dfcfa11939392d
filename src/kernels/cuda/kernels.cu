/* All kernels as one program for GPUs: the build makes one fatbin of it, the tests compile it for
 * the CPU. */
#include "kernels/cuda/attention.cu"
#include "kernels/cuda/draw.cu"
#include "kernels/cuda/linears.cu"
#include "kernels/cuda/lora.cu"
#include "kernels/cuda/rows.cu"
#include "kernels/cuda/tiles.cu"
