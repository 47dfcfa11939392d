/*
 * Linears of a few rows, which take as long as their weights take to be read. A block is a panel of
 * 32 outputs; its eight warps are the slices of the columns, so that as many bytes are under way as
 * a processor of today needs to keep its memory busy: two chunks of each warp, 64 KiB of bf16 a
 * block, and two blocks at a time. The weights go from memory into the registers of the lane that
 * multiplies them; x comes out of the caches.
 */
#include "kernels/cuda/panels.cuh"

#define ROW_GROUP 8u /* rows of one product */
/* Slices are joined through shared memory: [row][output], with rows apart so that the banks do not
 * meet, of one group of rows, twice: one is read while the next is written. */
#define PARTIAL_STRIDE (PANEL_OUTS + 4)
#define PARTIAL_FLOATS (ROW_GROUP * PARTIAL_STRIDE)

static_assert(SLICES * WARP_LANES == CUDA_LINEARS_THREADS, "a warp is a slice");
static_assert(PANEL_OUTS == CUDA_LINEARS_OUTS, "a block is a panel");
static_assert(PANEL_OUTS * ROW_GROUP == CUDA_LINEARS_THREADS,
              "a thread joins one value of a group");

/* How many chunks a warp has under way, and whether x comes with them: as many registers as 128 for
 * a thread leave beside the sums. */
template <int dtype, uint32_t groups> struct flight {
    static constexpr uint32_t CHUNKS = groups > 2 ? 1 : dtype == KERNEL_PANELS ? 2 : 3;
    static constexpr bool HAS_X = groups == 1;
    struct stage {
        chunk<dtype> weights;
        uint4 x[HAS_X ? 2 : 1];
    };
};

template <int dtype>
static __device__ __forceinline__ void load_weights(chunk<dtype> *ret, const uint8_t *panel,
                                                    uint32_t c, uint32_t lines)
{
    using kind = ::kind<dtype>;
    const uint32_t g = threadIdx.x % WARP_LANES / 4, t = threadIdx.x % 4;
    const uint8_t *at = panel + (size_t)c * kind::BYTES;
    const uint4 *words = reinterpret_cast<const uint4 *>(at + kind::SCALE_BYTES) + g;
    const uint32_t left = lines - c * kind::LINES;
    if (kind::IS_QUANTISED || left >= kind::LINES) {
#pragma unroll
        for (uint32_t i = 0; i < kind::VECTORS; i++)
            ret->vectors[i] = load_once(words + kind::line(i, t) * (LINE_BYTES / 16));
    } else {
#pragma unroll
        for (uint32_t i = 0; i < kind::VECTORS; i++)
            ret->vectors[i] = kind::line(i, t) < left
                                  ? load_once(words + kind::line(i, t) * (LINE_BYTES / 16))
                                  : make_uint4(0, 0, 0, 0);
    }
    if (kind::IS_QUANTISED)
        ret->scales = load_once(reinterpret_cast<const uint2 *>(at) + g);
}

/* This lane's columns of row g of a group; rows that are not there are 0. */
static __device__ __forceinline__ void load_x(uint4 ret[2], const struct cuda_linears &job,
                                              uint32_t group, uint32_t c)
{
    const uint32_t row = group * ROW_GROUP + threadIdx.x % WARP_LANES / 4;
    const uint16_t *at =
        job.x + (size_t)row * job.half_stride + c * CHUNK_COLS + threadIdx.x % 4 * 8;
#pragma unroll
    for (uint32_t half = 0; half < 2; half++)
        ret[half] = row < job.row_count
                        ? load_kept(reinterpret_cast<const uint4 *>(at + half * (CHUNK_COLS / 2)))
                        : make_uint4(0, 0, 0, 0);
}

template <int dtype, uint32_t groups>
static __device__ __forceinline__ void load_stage(typename flight<dtype, groups>::stage *ret,
                                                  const struct cuda_linears &job,
                                                  const uint8_t *panel, uint32_t c, uint32_t lines)
{
    load_weights<dtype>(&ret->weights, panel, c, lines);
    if (flight<dtype, groups>::HAS_X)
        load_x(ret->x, job, 0, c);
}

template <int dtype, uint32_t groups>
static __device__ __forceinline__ void multiply_stage(
    float sums[][2][4], const typename flight<dtype, groups>::stage &s,
    const struct cuda_linears &job, uint32_t c)
{
    uint32_t a[CHUNK_STEPS][2][4];
#pragma unroll
    for (uint32_t step = 0; step < CHUNK_STEPS; step++)
        operands<dtype>(a[step], s.weights, step);
#pragma unroll
    for (uint32_t n = 0; n < groups; n++) {
        uint4 x[2];
        if (flight<dtype, groups>::HAS_X) {
            x[0] = s.x[0];
            x[1] = s.x[sizeof s.x / sizeof s.x[0] - 1];
        } else {
            load_x(x, job, n, c);
        }
        multiply<dtype>(sums[n], a, s.weights.scales, x);
    }
}

/* Adds up the slices of each group of rows, and writes them. */
template <uint32_t groups>
static __device__ __forceinline__ void join_slices(float *partial, const float sums[][2][4],
                                                   const struct cuda_linear &l, uint32_t first,
                                                   uint32_t row_count)
{
    const uint32_t slice = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
    const uint32_t g = lane / 4, t = lane % 4;
#pragma unroll
    for (uint32_t n = 0; n < groups; n++) {
        float *all = partial + n % 2 * SLICES * PARTIAL_FLOATS;
#pragma unroll
        for (uint32_t e = 0; e < 2; e++)
            *reinterpret_cast<float4 *>(all + slice * PARTIAL_FLOATS +
                                        (2 * t + e) * PARTIAL_STRIDE + 4 * g) =
                make_float4(sums[n][0][e], sums[n][0][2 + e], sums[n][1][e], sums[n][1][2 + e]);
        __syncthreads();
        /* Now a warp is a row, and a lane an output. */
        const float *mine = all + slice * PARTIAL_STRIDE + lane;
        float sum = mine[0];
#pragma unroll
        for (uint32_t s = 1; s < SLICES; s++)
            sum += mine[s * PARTIAL_FLOATS];
        const uint32_t row = n * ROW_GROUP + slice, o = first + lane;
        if (row < row_count && o < l.w.rows)
            l.y[row * l.y_stride + o] = sum + (l.bias != NULL ? l.bias[o] : 0.0f);
    }
}

template <int dtype, uint32_t groups>
static __device__ __forceinline__ void multiply_panel(float *partial,
                                                      const struct cuda_linears &job)
{
    using flight = ::flight<dtype, groups>;
    const struct linear_place p = place_of(job, CUDA_LINEARS_OUTS);
    const struct cuda_linear &l = job.linears[p.linear];
    const uint8_t *panel = panel_at<dtype>(&l.w, p.block);
    const uint32_t chunks = chunks_of(&l.w), lines = lines_of<dtype>(&l.w);
    const uint32_t slice = threadIdx.x / WARP_LANES;
    float sums[groups][2][4] = {};
    typename flight::stage stages[flight::CHUNKS];
    /* Weights are nobody's result: they come while the grid before this one ends. */
#pragma unroll
    for (uint32_t i = 0; i < flight::CHUNKS; i++)
        if (slice + i * SLICES < chunks)
            load_weights<dtype>(&stages[i].weights, panel, slice + i * SLICES, lines);
    grid_wait();
#pragma unroll
    for (uint32_t i = 0; i < flight::CHUNKS; i++)
        if (flight::HAS_X && slice + i * SLICES < chunks)
            load_x(stages[i].x, job, 0, slice + i * SLICES);
    for (uint32_t begin = slice; begin < chunks; begin += flight::CHUNKS * SLICES) {
#pragma unroll
        for (uint32_t i = 0; i < flight::CHUNKS; i++) {
            const uint32_t c = begin + i * SLICES, next = c + flight::CHUNKS * SLICES;
            if (c < chunks)
                multiply_stage<dtype, groups>(sums, stages[i], job, c);
            if (next < chunks)
                load_stage<dtype, groups>(&stages[i], job, panel, next, lines);
        }
    }
    join_slices<groups>(partial, sums, l, p.block * PANEL_OUTS, job.row_count);
}

template <int dtype>
static __device__ __forceinline__ void multiply_rows(float *partial, const struct cuda_linears &job)
{
    if (job.row_count <= ROW_GROUP)
        multiply_panel<dtype, 1>(partial, job);
    else if (job.row_count <= 2 * ROW_GROUP)
        multiply_panel<dtype, 2>(partial, job);
    else if (job.row_count <= 4 * ROW_GROUP)
        multiply_panel<dtype, 4>(partial, job);
    else
        multiply_panel<dtype, 8>(partial, job);
}

extern "C" __global__ void __launch_bounds__(CUDA_LINEARS_THREADS, 2)
    sllora_linears(const __grid_constant__ struct cuda_linears job)
{
    SHARED(float, partial, 2 * SLICES * PARTIAL_FLOATS);
    grid_release();
    if (job.linears[0].w.dtype == KERNEL_PANELS)
        multiply_rows<KERNEL_PANELS>(partial, job);
    else if (job.linears[0].w.dtype == KERNEL_INT8)
        multiply_rows<KERNEL_INT8>(partial, job);
    else
        multiply_rows<KERNEL_INT4>(partial, job);
}
