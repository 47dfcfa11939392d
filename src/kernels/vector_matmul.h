/*
 * Part of vector.h: products with a matrix that lies in rows. Tiles of a few rows of x and a few
 * outputs share what they load.
 */
/* What a product takes: x as float or as bf16, w of any dtype. */
struct operands {
    enum kernel_dtype x;
    enum kernel_dtype w;
};

#ifdef DOT_LANES
#define IS_DOT(types) ((types).x == KERNEL_BF16)
#define STEP_LANES(types) (IS_DOT(types) ? DOT_LANES : VEC_LANES)
#else
#define IS_DOT(types) 0
#define STEP_LANES(types) VEC_LANES
#endif

/* One step's elements from `index` on, n = STEP_LANES or the part that is left, as vec_multiply_add
 * takes them: two bf16 a lane, or one float. */
INLINE vec operand_load(const void *from, enum kernel_dtype dtype, size_t index, uint32_t n,
                        const int is_dot)
{
#ifdef DOT_LANES
    if (is_dot)
        return n == DOT_LANES ? dot_load((const uint16_t *)from + index)
                              : dot_load_part((const uint16_t *)from + index, n);
#else
    (void)is_dot;
#endif
    return n == VEC_LANES ? vec_load(from, dtype, index) : vec_load_part(from, dtype, index, n);
}

INLINE vec multiply_add(vec a, vec b, vec acc, const int is_dot)
{
#ifdef DOT_LANES
    if (is_dot)
        return dot(a, b, acc);
#else
    (void)is_dot;
#endif
    return vec_fma(a, b, acc);
}

/* acc[r][o] += x[r, k .. k + n) * w[o, k .. k + n), n = STEP_LANES or the part that is left */
INLINE void tile_step(vec acc[TILE_ROWS][TILE_OUTS], const void *x, size_t x_stride, const void *w,
                      const struct operands types, uint32_t in, uint32_t k, uint32_t n,
                      const int row_count, const int out_count)
{
    vec xs[TILE_ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++)
        xs[r] = operand_load(x, types.x, r * x_stride + k, n, IS_DOT(types));
#pragma GCC unroll 8
    for (int o = 0; o < out_count; o++) {
        vec ws = operand_load(w, types.w, (size_t)o * in + k, n, IS_DOT(types));
#pragma GCC unroll 8
        for (int r = 0; r < row_count; r++)
            acc[r][o] = multiply_add(xs[r], ws, acc[r][o], IS_DOT(types));
    }
}

/*
 * y[r, o] for row_count rows and out_count outputs (TILE_OUTS or 1), all pointers at the tile's
 * first. The counts are constants where this is inlined, so that acc stays in registers.
 *
 * ahead: the weights to fetch into the second-level cache meanwhile, as many bytes as the tile has.
 * A tile of several outputs reads as many rows of w side by side, which the processor's own
 * prefetchers follow at a third of the memory's speed; asked for in the order of addresses they
 * arrive at two thirds of it. A tile of one output lets both work, at nine tenths.
 */
INLINE void tile(float *y, size_t y_stride, const void *x, size_t x_stride, const void *w,
                 const struct operands types, const char *ahead, const float *bias, uint32_t in,
                 int accumulate, const int row_count, const int out_count)
{
    const uint32_t lanes = STEP_LANES(types);
    const int step_bytes = out_count * (int)lanes * (int)element_bytes(types.w);
    vec acc[TILE_ROWS][TILE_OUTS];
#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++)
#pragma GCC unroll 8
        for (int o = 0; o < out_count; o++)
            acc[r][o] = vec_set1(0);

    uint32_t k = 0;
    for (; in - k >= lanes; k += lanes) {
#pragma GCC unroll 4
        for (int line = 0; line < step_bytes; line += 64)
            _mm_prefetch(ahead + line, _MM_HINT_T1);
        ahead += step_bytes;
        tile_step(acc, x, x_stride, w, types, in, k, lanes, row_count, out_count);
    }
    if (k < in)
        tile_step(acc, x, x_stride, w, types, in, k, in - k, row_count, out_count);

#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++) {
        float *to = y + r * y_stride;
        if (out_count == TILE_OUTS) {
            __m128 sums = vec_sum4(acc[r][0], acc[r][1], acc[r][2], acc[r][3]);
            if (bias != NULL)
                sums = _mm_add_ps(sums, _mm_loadu_ps(bias));
            if (accumulate)
                sums = _mm_add_ps(sums, _mm_loadu_ps(to));
            _mm_storeu_ps(to, sums);
        } else {
            float sum = vec_sum(acc[r][0]);
            if (bias != NULL)
                sum += *bias;
            *to = accumulate ? sum + *to : sum;
        }
    }
}

/* How far ahead of their use weights are fetched, at least: what memory delivers in a third of a
 * microsecond. */
#define AHEAD_BYTES (8u << 10)

/* All outputs [0, outs) of row_count rows, tile_outs at once. Weights before w_end are fetched
 * ahead. */
INLINE void strip(float *y, size_t y_stride, const void *x, size_t x_stride, const void *w,
                  const struct operands types, const char *w_end, const float *bias, uint32_t in,
                  uint32_t outs, int accumulate, const int row_count, const uint32_t tile_outs)
{
    const char *row = w;
    size_t row_bytes = in * element_bytes(types.w);
    size_t tile_bytes = tile_outs * row_bytes;
    size_t distance = tile_bytes > AHEAD_BYTES ? tile_bytes : AHEAD_BYTES;
    uint32_t o = 0;
    for (; outs - o >= tile_outs; o += tile_outs, row += tile_bytes) {
        /* Near the end: the tile itself, which costs nothing. */
        const char *ahead = (size_t)(w_end - row) >= distance + tile_bytes ? row + distance : row;
        tile(y + o, y_stride, x, x_stride, row, types, ahead, bias != NULL ? bias + o : NULL, in,
             accumulate, row_count, (int)tile_outs);
    }
    for (; o < outs; o++, row += row_bytes)
        tile(y + o, y_stride, x, x_stride, row, types, row, bias != NULL ? bias + o : NULL, in,
             accumulate, row_count, 1);
}

/* What the weights of one block of outputs may take of the 2nd-level cache, in which they stay
 * while all rows pass; the other half is for a tile's rows of x. */
#define BLOCK_WEIGHT_BYTES (256u << 10)

INLINE void matmul(float *y, size_t y_stride, const void *x, size_t x_stride, const void *w,
                   const struct operands types, const float *bias, uint32_t rows, uint32_t in,
                   uint32_t out_begin, uint32_t out_end, int accumulate)
{
    size_t row_bytes = in * element_bytes(types.w);
    uint32_t block_outs = (uint32_t)(BLOCK_WEIGHT_BYTES / row_bytes) / TILE_OUTS * TILE_OUTS;
    if (block_outs < TILE_OUTS)
        block_outs = TILE_OUTS;
    const char *w_end = element_at(w, types.w, (size_t)out_end * in);
    uint32_t tile_count = rows / TILE_ROWS + (rows % TILE_ROWS != 0);
    /* While one sum waits for itself it could take in half as much of bytes as of bf16. */
    const uint32_t lone_row_outs = types.w == KERNEL_CODES ? TILE_OUTS : LONE_ROW_OUTS;
    if (rows == 1) {
        /* Nothing came before that could have fetched the first weights. */
        const char *first = element_at(w, types.w, (size_t)out_begin * in);
        for (size_t at = 0; at < AHEAD_BYTES && at < (size_t)(w_end - first); at += 64)
            _mm_prefetch(first + at, _MM_HINT_T1);
    }

    for (uint32_t o = out_begin, outs; o < out_end; o += outs) {
        outs = out_end - o < block_outs ? out_end - o : block_outs;
        const void *wo = element_at(w, types.w, (size_t)o * in);
        const float *b = bias != NULL ? bias + o : NULL;
        /* Rows are dealt evenly: 7 as 4 + 3, since a tile of 1 row would wait for its sums. */
        for (uint32_t t = 0, r = 0, count; t < tile_count; t++, r += count) {
            count = (rows - r + tile_count - t - 1) / (tile_count - t);
            float *yr = y + r * y_stride + o;
            const void *xr = element_at(x, types.x, r * x_stride);
            switch (count) {
#define CASE(n, tile_outs)                                                                         \
    case n:                                                                                        \
        strip(yr, y_stride, xr, x_stride, wo, types, w_end, b, in, outs, accumulate, n,            \
              tile_outs);                                                                          \
        break;
                CASE(1, lone_row_outs)
                CASE(2, TILE_OUTS)
                CASE(3, TILE_OUTS)
#if TILE_ROWS > 3
                CASE(4, TILE_OUTS)
                CASE(5, TILE_OUTS)
                CASE(6, TILE_OUTS)
#endif
#undef CASE
            default:
                assert(0);
            }
        }
    }
}

static void matmul_f32(float *y, size_t y_stride, const float *x, size_t x_stride, const void *w,
                       const float *bias, uint32_t rows, uint32_t in, uint32_t out_begin,
                       uint32_t out_end, int accumulate)
{
    matmul(y, y_stride, x, x_stride, w, (struct operands){KERNEL_F32, KERNEL_F32}, bias, rows, in,
           out_begin, out_end, accumulate);
}

static void matmul_bf16(float *y, size_t y_stride, const float *x, size_t x_stride, const void *w,
                        const float *bias, uint32_t rows, uint32_t in, uint32_t out_begin,
                        uint32_t out_end, int accumulate)
{
    matmul(y, y_stride, x, x_stride, w, (struct operands){KERNEL_F32, KERNEL_BF16}, bias, rows, in,
           out_begin, out_end, accumulate);
}

static void matmul_codes(float *y, size_t y_stride, const float *x, size_t x_stride, const void *w,
                         const float *bias, uint32_t rows, uint32_t in, uint32_t out_begin,
                         uint32_t out_end, int accumulate)
{
    matmul(y, y_stride, x, x_stride, w, (struct operands){KERNEL_F32, KERNEL_CODES}, bias, rows, in,
           out_begin, out_end, accumulate);
}

#ifdef DOT_LANES
static void matmul_half(float *y, size_t y_stride, const uint16_t *x, size_t x_stride,
                        const void *w, const float *bias, uint32_t rows, uint32_t in,
                        uint32_t out_begin, uint32_t out_end, int accumulate)
{
    matmul(y, y_stride, x, x_stride, w, (struct operands){KERNEL_BF16, KERNEL_BF16}, bias, rows, in,
           out_begin, out_end, accumulate);
}
#endif
