/*
 * Linears of many rows: a block computes 128 outputs (four panels) of 128 rows, a warp one panel of
 * half the rows. Weights and x come through shared memory, a chunk of columns at a time, two chunks
 * ahead of the one that is multiplied; words of 16 bytes lie there so that the eight lanes that
 * read at once meet no bank twice.
 *
 * A warp goes through the chunks of one slice after the other, so that its sums are those of the
 * eight warps of a block of linears.cu, added up in the same order: the price is a second set of
 * sums in registers, and none in time.
 */
#include "kernels/cuda/panels.cuh"

#define STAGES 3u
#define TILE_PANELS (CUDA_TILE_OUTS / PANEL_OUTS)
#define ROW_BYTES (CHUNK_COLS * 2) /* of x in a chunk */
#define WARP_ROWS 64u
#define WARP_GROUPS (WARP_ROWS / 8) /* products of 8 rows that a warp makes */

static_assert(TILE_PANELS * CUDA_TILE_ROWS / WARP_ROWS * WARP_LANES == CUDA_TILES_THREADS,
              "a warp is a panel of half the rows");

/* What lies in shared memory for one chunk: x [rows], the lines of each panel, their scales. */
template <int dtype> struct stage {
    static constexpr uint32_t LINES_AT = CUDA_TILE_ROWS * ROW_BYTES;
    static constexpr uint32_t SCALES_AT = LINES_AT + TILE_PANELS * kind<dtype>::LINES * LINE_BYTES;
    static constexpr uint32_t BYTES = SCALES_AT + TILE_PANELS * kind<dtype>::SCALE_BYTES;
    static_assert(STAGES * BYTES <= CUDA_TILES_SHARED_BYTES, "what the host asks for");
};

/* Where the 16 bytes `word` of a row of x stand: lanes read a half of two rows at once. */
static __device__ __forceinline__ uint32_t x_at(uint32_t row, uint32_t word)
{
    return row * ROW_BYTES + (word ^ (row % 2 * 4)) * 16;
}

/* Where the 16 bytes `word` of a line of weights stand: lanes read two of four lines at once, which
 * are as far apart as a lane has lines. */
template <int dtype>
static __device__ __forceinline__ uint32_t word_at(uint32_t line, uint32_t word)
{
    return line * LINE_BYTES + (word ^ (line / kind<dtype>::HALF % 4 * 2)) * 16;
}

/* The chunks of one slice after the other. */
struct walk {
    uint32_t chunk, slice;

    __device__ __forceinline__ void advance(uint32_t chunks)
    {
        chunk += SLICES;
        if (chunk >= chunks)
            chunk = ++slice;
    }
};

/* What a block reads, and where. */
struct tile {
    const struct cuda_linears &job;
    const struct cuda_linear &linear;
    uint32_t panel, row; /* the first */
    uint32_t chunks;
};

template <int dtype>
static __device__ __forceinline__ void ask_for_weights(uint8_t *at, const struct tile &tile,
                                                       uint32_t c)
{
    using kind = ::kind<dtype>;
    const struct cuda_weight &w = tile.linear.w;
    const uint32_t panels = (w.rows + PANEL_OUTS - 1) / PANEL_OUTS;
    const uint32_t left = lines_of<dtype>(&w) - c * kind::LINES;
    const uint32_t word = threadIdx.x % 8;
#pragma unroll
    for (uint32_t i = 0; i < TILE_PANELS * kind::LINES * 8 / CUDA_TILES_THREADS; i++) {
        const uint32_t at_line = threadIdx.x / 8 + i * (CUDA_TILES_THREADS / 8);
        const uint32_t p = at_line / kind::LINES, line = at_line % kind::LINES;
        const bool is_there = tile.panel + p < panels && (kind::IS_QUANTISED || line < left);
        const uint8_t *from = panel_at<dtype>(&w, tile.panel + p) + (size_t)c * kind::BYTES +
                              kind::SCALE_BYTES + line * LINE_BYTES + word * 16;
        copy_16(at + stage<dtype>::LINES_AT + p * kind::LINES * LINE_BYTES +
                    word_at<dtype>(line, word),
                is_there ? from : w.data, is_there);
    }
    if (kind::IS_QUANTISED && threadIdx.x < TILE_PANELS * 4) {
        const uint32_t p = threadIdx.x / 4, part = threadIdx.x % 4;
        const bool is_there = tile.panel + p < panels;
        const uint8_t *from =
            panel_at<dtype>(&w, tile.panel + p) + (size_t)c * kind::BYTES + part * 16;
        copy_16(at + stage<dtype>::SCALES_AT + threadIdx.x * 16, is_there ? from : w.data,
                is_there);
    }
}

template <int dtype>
static __device__ __forceinline__ void ask_for_stage(uint8_t *at, const struct tile &tile,
                                                     uint32_t c)
{
    ask_for_weights<dtype>(at, tile, c);
    const uint32_t word = threadIdx.x % 8;
#pragma unroll
    for (uint32_t i = 0; i < CUDA_TILE_ROWS * 8 / CUDA_TILES_THREADS; i++) {
        const uint32_t row = threadIdx.x / 8 + i * (CUDA_TILES_THREADS / 8);
        const bool is_there = tile.row + row < tile.job.row_count;
        const uint16_t *from =
            tile.job.x + (size_t)(is_there ? tile.row + row : 0) * tile.job.half_stride;
        copy_16(at + x_at(row, word), from + c * CHUNK_COLS + word * 8, is_there);
    }
}

template <int dtype>
static __device__ __forceinline__ void multiply_stage(float sums[WARP_GROUPS][2][4],
                                                      const uint8_t *at, uint32_t panel,
                                                      uint32_t row)
{
    using kind = ::kind<dtype>;
    const uint32_t g = threadIdx.x % WARP_LANES / 4, t = threadIdx.x % 4;
    const uint8_t *lines = at + stage<dtype>::LINES_AT + panel * kind::LINES * LINE_BYTES;
    chunk<dtype> weights;
#pragma unroll
    for (uint32_t i = 0; i < kind::VECTORS; i++)
        weights.vectors[i] =
            *reinterpret_cast<const uint4 *>(lines + word_at<dtype>(kind::line(i, t), g));
    weights.scales = make_uint2(0, 0);
    if (kind::IS_QUANTISED)
        weights.scales = *reinterpret_cast<const uint2 *>(at + stage<dtype>::SCALES_AT +
                                                          panel * kind::SCALE_BYTES + g * 8);
    uint32_t a[CHUNK_STEPS][2][4];
#pragma unroll
    for (uint32_t step = 0; step < CHUNK_STEPS; step++)
        operands<dtype>(a[step], weights, step);
#pragma unroll
    for (uint32_t n = 0; n < WARP_GROUPS; n++) {
        uint4 x[2];
#pragma unroll
        for (uint32_t half = 0; half < 2; half++)
            x[half] = *reinterpret_cast<const uint4 *>(at + x_at(row + n * 8 + g, half * 4 + t));
        multiply<dtype>(sums[n], a, weights.scales, x);
    }
}

/* Adds the sums of a slice to what the slices before it have, and begins anew. */
static __device__ __forceinline__ void join_slice(float totals[WARP_GROUPS][2][4],
                                                  float sums[WARP_GROUPS][2][4])
{
#pragma unroll
    for (uint32_t i = 0; i < WARP_GROUPS * 8; i++) {
        totals[i / 8][i / 4 % 2][i % 4] += sums[i / 8][i / 4 % 2][i % 4];
        sums[i / 8][i / 4 % 2][i % 4] = 0;
    }
}

/* The four outputs of a lane from `o` on, for one row. */
static __device__ __forceinline__ void write_outputs(const struct cuda_linear &l, uint32_t row,
                                                     uint32_t o, const float values[4],
                                                     const float bias[4])
{
    float *y = l.y + row * l.y_stride + o;
    if (o + 4 <= l.w.rows && reinterpret_cast<uintptr_t>(y) % 16 == 0) {
        *reinterpret_cast<float4 *>(y) = make_float4(values[0] + bias[0], values[1] + bias[1],
                                                     values[2] + bias[2], values[3] + bias[3]);
        return;
    }
#pragma unroll
    for (uint32_t i = 0; i < 4; i++)
        if (o + i < l.w.rows)
            y[i] = values[i] + bias[i];
}

static __device__ __forceinline__ void write_tile(const struct cuda_linear &l, uint32_t row_count,
                                                  uint32_t panel, uint32_t row,
                                                  const float totals[WARP_GROUPS][2][4])
{
    const uint32_t g = threadIdx.x % WARP_LANES / 4, t = threadIdx.x % 4;
    const uint32_t o = panel * PANEL_OUTS + 4 * g;
    float bias[4];
#pragma unroll
    for (uint32_t i = 0; i < 4; i++)
        bias[i] = l.bias != NULL && o + i < l.w.rows ? l.bias[o + i] : 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < WARP_GROUPS * 2; i++) {
        const uint32_t n = i / 2, e = i % 2, r = row + n * 8 + 2 * t + e;
        const float values[4] = {totals[n][0][e], totals[n][0][2 + e], totals[n][1][e],
                                 totals[n][1][2 + e]};
        if (r < row_count)
            write_outputs(l, r, o, values, bias);
    }
}

template <int dtype>
static __device__ __forceinline__ void multiply_tile(uint8_t *shared,
                                                     const struct cuda_linears &job)
{
    const struct linear_place p = place_of(job, CUDA_TILE_OUTS);
    const struct cuda_linear &l = job.linears[p.linear];
    const struct tile tile = {job, l, p.block * TILE_PANELS, blockIdx.y * CUDA_TILE_ROWS,
                              chunks_of(&l.w)};
    const uint32_t warp = threadIdx.x / WARP_LANES, panel = warp % TILE_PANELS;
    const uint32_t row = warp / TILE_PANELS * WARP_ROWS;
    const bool is_idle = tile.row + row >= job.row_count;
    float sums[WARP_GROUPS][2][4] = {}, totals[WARP_GROUPS][2][4];
#pragma unroll
    for (uint32_t i = 0; i < WARP_GROUPS * 8; i++)
        totals[i / 8][i / 4 % 2][i % 4] = -0.0f; /* to which adding anything makes that */
    struct walk ahead = {0, 0}, now = {0, 0};
    for (uint32_t i = 0; i < STAGES - 1; i++, ahead.advance(tile.chunks)) {
        if (i < tile.chunks)
            ask_for_stage<dtype>(shared + i * stage<dtype>::BYTES, tile, ahead.chunk);
        copy_commit();
    }
    for (uint32_t i = 0; i < tile.chunks; i++, ahead.advance(tile.chunks)) {
        copy_wait<STAGES - 2>();
        __syncthreads(); /* chunk i is there, and chunk i - 1 read by all */
        if (i + STAGES - 1 < tile.chunks)
            ask_for_stage<dtype>(shared + (i + STAGES - 1) % STAGES * stage<dtype>::BYTES, tile,
                                 ahead.chunk);
        copy_commit();
        if (!is_idle)
            multiply_stage<dtype>(sums, shared + i % STAGES * stage<dtype>::BYTES, panel, row);
        const uint32_t slice = now.slice;
        now.advance(tile.chunks);
        if (now.slice != slice)
            join_slice(totals, sums);
    }
    if (tile.chunks < SLICES) /* the slices that have no chunk are 0 */
        join_slice(totals, sums);
    write_tile(l, job.row_count, tile.panel + panel, tile.row + row, totals);
}

extern "C" __global__ void __launch_bounds__(CUDA_TILES_THREADS, 1)
    sllora_tiles(const __grid_constant__ struct cuda_linears job)
{
    DYNAMIC_SHARED(uint8_t, shared);
    grid_begin();
    if (job.linears[0].w.dtype == KERNEL_PANELS)
        multiply_tile<KERNEL_PANELS>(shared, job);
    else if (job.linears[0].w.dtype == KERNEL_INT8)
        multiply_tile<KERNEL_INT8>(shared, job);
    else
        multiply_tile<KERNEL_INT4>(shared, job);
}
