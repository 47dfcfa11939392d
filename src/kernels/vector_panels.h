/*
 * Part of vector.h: a panel of bf16 times a few rows. One stream of weights in the order of
 * addresses; a lane belongs to one output, so nothing is added across lanes at the end.
 */
#define PANEL_VECS ((int)KERNEL_PANEL_OUTS / VEC_LANES)

/* Both inputs of a pair, for as many outputs as there are lanes: as they stand, two bf16 a lane. */
INLINE vec pairs_load(const char *from)
{
    return vec_load_f32((const float *)(const void *)from);
}

/* What one row brings to a pair of inputs; the second is missing at the end of an odd number. */
struct pair {
    vec first;
    vec second; /* not with a dot product, which takes both from the first */
};

INLINE struct pair pair_of(const void *x, const struct operands types, size_t index,
                           const int is_whole)
{
    struct pair p = {vec_set1(0), vec_set1(0)};
#ifdef DOT_LANES
    if (IS_DOT(types)) {
        uint32_t bits = ((const uint16_t *)x)[index];
        if (is_whole)
            memcpy(&bits, (const uint16_t *)x + index, sizeof bits);
        p.first = dot_set1(bits);
        return p;
    }
#else
    (void)types;
#endif
    p.first = vec_set1(((const float *)x)[index]);
    if (is_whole)
        p.second = vec_set1(((const float *)x)[index + 1]);
    return p;
}

/* acc += the pair's two products, one after the other */
INLINE vec pair_multiply_add(struct pair x, vec pairs, vec acc, const struct operands types,
                             int is_whole)
{
#ifdef DOT_LANES
    if (IS_DOT(types))
        return dot(pairs, x.first, acc); /* the second one may come from memory */
#else
    (void)types;
#endif
    acc = vec_fma(x.first, vec_of_low_halves(pairs), acc);
    return is_whole ? vec_fma(x.second, vec_of_high_halves(pairs), acc) : acc;
}

INLINE void panel_step(vec acc[PANEL_ROWS][PANEL_VECS], const void *const xs[PANEL_ROWS],
                       const char *w, const struct operands types, size_t k, const int is_whole,
                       const int row_count)
{
    vec pairs[PANEL_VECS];
#pragma GCC unroll 4
    for (int v = 0; v < PANEL_VECS; v++)
        pairs[v] = pairs_load(w + v * (int)sizeof(vec));
#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++) {
        struct pair p = pair_of(xs[r], types, k, is_whole);
#pragma GCC unroll 4
        for (int v = 0; v < PANEL_VECS; v++)
            acc[r][v] = pair_multiply_add(p, pairs[v], acc[r][v], types, is_whole);
    }
}

/* n outputs of a panel: y (+)= acc + bias */
INLINE void panel_store(float *y, vec acc[PANEL_VECS], const float *bias, uint32_t outs,
                        int accumulate)
{
#pragma GCC unroll 4
    for (int v = 0; v < PANEL_VECS; v++) {
        uint32_t first = (uint32_t)(v * VEC_LANES);
        uint32_t n = outs > first ? outs - first : 0;
        if (n >= VEC_LANES) {
            vec sum = bias != NULL ? vec_add(acc[v], vec_load_f32(bias + first)) : acc[v];
            vec_store_f32(y + first, accumulate ? vec_add(sum, vec_load_f32(y + first)) : sum);
        } else if (n > 0) {
            vec sum = bias != NULL ? vec_add(acc[v], vec_load_f32_part(bias + first, n)) : acc[v];
            if (accumulate)
                sum = vec_add(sum, vec_load_f32_part(y + first, n));
            vec_store_f32_part(y + first, sum, n);
        }
    }
}

/* What is fetched into the second-level cache while weights are used: two cache lines a step, from
 * `at`, which then moves on by `step` bytes, 128 or less. */
struct fetch {
    const char *at;
    size_t step;
};

#define STEP_BYTES 128 /* of a panel: all outputs of two inputs in bf16, of four in int8 */
_Static_assert(KERNEL_PANEL_OUTS * 4 == STEP_BYTES, "four bytes of each output");

INLINE void fetch_step(struct fetch *f)
{
    _mm_prefetch(f->at, _MM_HINT_T1);
    _mm_prefetch(f->at + 64, _MM_HINT_T1);
    f->at += f->step;
}

/* The outputs of one panel for row_count rows of x, x_bytes apart. */
INLINE void panel_tile(float *y, size_t y_stride, const char *x, size_t x_bytes, const char *w,
                       const struct operands types, struct fetch fetch, const float *bias,
                       uint32_t in, uint32_t outs, int accumulate, const int row_count)
{
    vec acc[PANEL_ROWS][PANEL_VECS];
    const void *xs[PANEL_ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++) {
        xs[r] = x + (size_t)r * x_bytes;
#pragma GCC unroll 4
        for (int v = 0; v < PANEL_VECS; v++)
            acc[r][v] = vec_set1(0);
    }
    size_t k = 0;
    for (; in - k >= 2; k += 2) {
        fetch_step(&fetch);
        panel_step(acc, xs, w, types, k, 1, row_count);
        w += STEP_BYTES;
    }
    if (k < in)
        panel_step(acc, xs, w, types, k, 0, row_count);
#pragma GCC unroll 8
    for (int r = 0; r < row_count; r++)
        panel_store(y + r * y_stride, acc[r], bias, outs, accumulate);
}
