/*
 * The kernels for GPUs that work on rows, and attention, against kernels/ref.c and, for attention,
 * the formula in double over what the cache holds. Whatever a kernel should not read is NaN; what
 * it should not write is looked at. Tolerances: UNIT is a float's rounding, HALF that of bf16.
 */
#include "unit/cuda_launch.h"

#include <math.h>
#include <stdbool.h>

#include "kernels/kernels.h"
#include "unit/kernel_checks.h"

#define HALF 0x1p-8

static const uint32_t widths[] = {1, 63, 64, 65, 300, 1024, 2100};
static struct cuda_driver cuda;

static const struct kernels *ref(void)
{
    return kernels_get(KERNEL_ISA_REF);
}

static uint32_t stride_of(uint32_t width)
{
    return (width + 63) / 64 * 64;
}

static float *random_floats(struct rng *rng, size_t count)
{
    float *x = malloc(count * sizeof *x);
    assert_non_null(x);
    fill(rng, x, KERNEL_F32, count);
    return x;
}

static void *read_back(const void *from, size_t bytes)
{
    void *to = malloc(bytes);
    assert_non_null(to);
    cuda_read(&cuda, to, from, bytes);
    return to;
}

static void assert_untouched(const void *from, size_t bytes, const char *what)
{
    for (size_t i = 0; i < bytes; i++)
        if (((const unsigned char *)from)[i] != 0xff)
            fail_msg("%s: byte %zu was written", what, i);
}

/* A row in bf16: its values near those wanted, 0 behind them. */
static void check_half(const uint16_t *half, const float *want, uint32_t width, uint32_t stride,
                       double relative, const char *what)
{
    for (uint32_t i = 0; i < stride; i++) {
        double w = i < width ? (double)want[i] : 0;
        check_near(bf16_expand(half[i]), w, fabs(w) * (HALF + relative), "%s, width %u, value %u",
                   what, width, i);
    }
}

/* --- embedding --- */

static uint64_t matrix_bytes(enum kernel_dtype dtype, uint32_t rows, uint32_t cols)
{
    if (dtype == KERNEL_BF16)
        return (uint64_t)rows * cols * 2;
    return (rows + KERNEL_PANEL_OUTS - 1) / KERNEL_PANEL_OUTS * kernel_panel_bytes(dtype, cols);
}

/* Codes of any kind; pairs of bf16, and scales, that are no NaN. */
static uint8_t *random_matrix(struct rng *rng, enum kernel_dtype dtype, uint64_t bytes)
{
    uint8_t *m = malloc(bytes);
    assert_non_null(m);
    for (uint64_t i = 0; i < bytes; i++)
        m[i] = (uint8_t)rng_u64(rng);
    if (dtype == KERNEL_BF16 || dtype == KERNEL_PANELS)
        fill(rng, m, KERNEL_BF16, bytes / 2);
    else
        for (uint64_t at = 0; at < bytes; at += kernel_group_bytes(dtype))
            fill(rng, m + at, KERNEL_BF16, KERNEL_PANEL_OUTS);
    return m;
}

static void check_embed(struct rng *rng, enum kernel_dtype dtype, uint32_t cols)
{
    enum { VOCAB = 70, ROWS = 5, FIRST = 2 };
    static const struct cuda_row rows[ROWS] = {
        {.token = 0}, {.token = 1}, {.token = 69}, {.token = 32}, {.token = 31}};
    uint64_t bytes = matrix_bytes(dtype, VOCAB, cols);
    uint8_t *matrix = random_matrix(rng, dtype, bytes);
    struct cuda_embed job = {
        .x = cuda_new(&cuda, NULL, ROWS * cols * sizeof(float)),
        .rows = cuda_new(&cuda, rows, sizeof rows),
        .embed = {cuda_new(&cuda, matrix, bytes), dtype, VOCAB, cols, 0},
        .scale = 1.7f,
        .row = FIRST,
    };
    cuda_run(&cuda, CUDA_EMBED, ROWS - FIRST, 1, 1, CUDA_EMBED_THREADS, 0, &job);
    float *got = read_back(job.x, ROWS * cols * sizeof(float)),
          *want = malloc(cols * sizeof(float));
    assert_non_null(want);
    assert_untouched(got, FIRST * cols * sizeof(float), "rows before the first");
    for (uint32_t r = FIRST; r < ROWS; r++) {
        ref()->load_row[dtype](want, matrix, cols, rows[r].token);
        for (uint32_t i = 0; i < cols; i++)
            check_near(got[r * cols + i], want[i] * job.scale, 0, "dtype %d, %u columns, %u of %u",
                       dtype, cols, i, r);
    }
    free(got);
    free(want);
    free(matrix);
    cuda_reset(&cuda);
}

static void test_embed(void **state)
{
    static const enum kernel_dtype dtypes[] = {KERNEL_BF16, KERNEL_PANELS, KERNEL_INT8,
                                               KERNEL_INT4};
    struct rng rng;
    (void)state;
    rng_seed(&rng, 1);
    for (size_t i = 0; i < COUNT(widths) * COUNT(dtypes); i++)
        check_embed(&rng, dtypes[i % COUNT(dtypes)], widths[i / COUNT(dtypes)]);
}

/* --- norms --- */

enum { VECTORS = 5 };
#define EPS 1e-5f

/* A sum of squares in float, of `width` / threads steps and the joining of the threads', has less
 * than (steps + 16) roundings; the root halves them, and there are 6 more. */
static double norm_error(uint32_t width)
{
    return ((width + CUDA_NORM_THREADS - 1) / CUDA_NORM_THREADS + 16) / 2.0 * UNIT + 6 * UNIT;
}

/* Vectors [1, 5), of which each reads another; y only, half only, and both. */
static void check_norm(struct rng *rng, uint32_t width, bool has_y, bool has_half)
{
    static const uint32_t from[VECTORS] = {99, 4, 4, 0, 2};
    uint32_t stride = stride_of(width) + 64;
    float *x = random_floats(rng, VECTORS * width), *weight = random_floats(rng, width);
    struct cuda_norm job = {
        .x = cuda_new(&cuda, x, VECTORS * width * sizeof(float)),
        .y = has_y ? cuda_new(&cuda, NULL, VECTORS * width * sizeof(float)) : NULL,
        .half = has_half ? cuda_new(&cuda, NULL, VECTORS * stride * 2) : NULL,
        .weight = cuda_new(&cuda, weight, width * sizeof(float)),
        .from = cuda_new(&cuda, from, sizeof from),
        .width = width,
        .half_stride = stride,
        .first = 1,
        .eps = EPS,
    };
    cuda_run(&cuda, CUDA_NORM, VECTORS - 1, 1, 1, CUDA_NORM_THREADS, 0, &job);
    float *want = malloc(width * sizeof(float));
    float *y = has_y ? read_back(job.y, VECTORS * width * sizeof(float)) : NULL;
    uint16_t *half = has_half ? read_back(job.half, VECTORS * stride * 2) : NULL;
    assert_non_null(want);
    for (uint32_t v = 0; v < VECTORS; v++) {
        if (v > 0)
            ref()->rms_norm(want, x + from[v] * width, weight, width, EPS);
        else if (has_y)
            assert_untouched(y, width * sizeof(float), "the vector before the first");
        for (uint32_t i = 0; i < width && v > 0 && has_y; i++)
            check_near(y[v * width + i], want[i], norm_error(width) * fabs((double)want[i]),
                       "width %u, vector %u, value %u", width, v, i);
        if (v > 0 && has_half)
            check_half(half + v * stride, want, width, stride, norm_error(width), "norm");
    }
    if (has_y) /* two that read the same */
        assert_memory_equal(y + width, y + 2 * width, width * sizeof(float));
    free(y);
    free(half);
    free(want);
    free(x);
    free(weight);
    cuda_reset(&cuda);
}

/* In place, and all at once as each alone. */
static void check_norm_in_place(struct rng *rng, uint32_t width)
{
    size_t bytes = VECTORS * width * sizeof(float);
    float *x = random_floats(rng, VECTORS * width), *weight = random_floats(rng, width), *got[2];
    void *weight_there = cuda_new(&cuda, weight, width * sizeof(float));
    for (int alone = 0; alone < 2; alone++) {
        float *there = cuda_new(&cuda, x, bytes);
        struct cuda_norm job = {
            .x = there, .y = there, .weight = weight_there, .width = width, .eps = EPS};
        for (; job.first < (alone ? VECTORS : 1); job.first++)
            cuda_run(&cuda, CUDA_NORM, alone ? 1 : VECTORS, 1, 1, CUDA_NORM_THREADS, 0, &job);
        got[alone] = read_back(there, bytes);
    }
    assert_memory_equal(got[0], got[1], bytes);
    ref()->rms_norm(x, x, weight, width, EPS);
    for (uint32_t i = 0; i < width; i++)
        check_near(got[0][i], x[i], norm_error(width) * fabs((double)x[i]), "in place, value %u",
                   i);
    free(got[0]);
    free(got[1]);
    free(x);
    free(weight);
    cuda_reset(&cuda);
}

static void test_norm(void **state)
{
    struct rng rng;
    (void)state;
    rng_seed(&rng, 2);
    for (size_t i = 0; i < COUNT(widths); i++) {
        check_norm(&rng, widths[i], true, false);
        check_norm(&rng, widths[i], false, true);
        check_norm(&rng, widths[i], true, true);
        check_norm_in_place(&rng, widths[i]);
    }
}

static void check_residual(struct rng *rng, uint32_t width, bool has_post, bool has_next)
{
    enum { ROWS = 4, FIRST = 1 };
    size_t bytes = ROWS * width * sizeof(float);
    uint32_t stride = stride_of(width);
    float *x = random_floats(rng, ROWS * width), *y = random_floats(rng, ROWS * width);
    float *post = random_floats(rng, width), *next = random_floats(rng, width);
    struct cuda_residual job = {
        .x = cuda_new(&cuda, x, bytes),
        .y = cuda_new(&cuda, y, bytes),
        .post = has_post ? cuda_new(&cuda, post, width * sizeof(float)) : NULL,
        .next = has_next ? cuda_new(&cuda, next, width * sizeof(float)) : NULL,
        .half = cuda_new(&cuda, NULL, ROWS * stride * 2),
        .width = width,
        .half_stride = stride,
        .row = FIRST,
        .eps = EPS,
    };
    cuda_run(&cuda, CUDA_RESIDUAL, ROWS - FIRST, 1, 1, CUDA_NORM_THREADS, 0, &job);
    float *got = read_back(job.x, bytes), *want = malloc(width * sizeof(float));
    uint16_t *half = read_back(job.half, ROWS * stride * 2);
    assert_non_null(want);
    assert_memory_equal(got, x, width * sizeof(float));
    assert_untouched(half, FIRST * stride * 2, "the row before the first");
    for (uint32_t r = FIRST; r < ROWS; r++) {
        float *to = x + r * width, *add = y + r * width;
        if (has_post)
            ref()->rms_norm(add, add, post, width, EPS);
        for (uint32_t i = 0; i < width; i++)
            check_near(got[r * width + i], (double)to[i] + add[i],
                       norm_error(width) * fabs((double)add[i]) +
                           UNIT * fabs((double)to[i] + add[i]),
                       "residual, width %u, row %u, value %u", width, r, i);
        if (!has_next) {
            assert_untouched(half + r * stride, stride * 2, "half without a norm");
            continue;
        }
        /* Of what the kernel left in x, so that what differs is this norm alone. */
        ref()->rms_norm(want, got + r * width, next, width, EPS);
        check_half(half + r * stride, want, width, stride, norm_error(width), "residual");
    }
    free(got);
    free(want);
    free(half);
    free(x);
    free(y);
    free(post);
    free(next);
    cuda_reset(&cuda);
}

static void test_residual(void **state)
{
    struct rng rng;
    (void)state;
    rng_seed(&rng, 3);
    for (size_t i = 0; i < COUNT(widths); i++)
        for (int kind = 0; kind < 4; kind++)
            check_residual(&rng, widths[i], kind & 1, kind & 2);
}

/* exp of a float is off by 2 units, and by as much of its argument as that is off: 4 units of up to
 * 200. All of it is little beside the rounding to bf16. What is less than 1e-30 may be 0. */
static void check_gated(struct rng *rng, uint32_t width, bool is_gelu)
{
    enum { ROWS = 3 };
    static const float extremes[] = {0, -0.0f, 100, -100, 20, -20, 1e-20f, -1e-20f};
    size_t count = (size_t)ROWS * width;
    uint32_t stride = stride_of(width) + 320;
    float *gate = random_floats(rng, count), *up = random_floats(rng, count);
    for (size_t i = 0; i < count && i < COUNT(extremes); i++)
        gate[i] = extremes[i];
    struct cuda_gated job = {
        .gate = cuda_new(&cuda, gate, count * sizeof(float)),
        .up = cuda_new(&cuda, up, count * sizeof(float)),
        .half = cuda_new(&cuda, NULL, ROWS * stride * 2),
        .width = width,
        .half_stride = stride,
        .is_gelu = is_gelu,
    };
    cuda_run(&cuda, CUDA_GATED, (width + CUDA_GATED_THREADS - 1) / CUDA_GATED_THREADS, ROWS, 1,
             CUDA_GATED_THREADS, 0, &job);
    uint16_t *half = read_back(job.half, ROWS * stride * 2);
    (is_gelu ? ref()->gelu_mul : ref()->silu_mul)(gate, up, (uint32_t)count);
    for (uint32_t i = 0; i < ROWS * stride; i++) {
        double want = i % stride < width ? (double)gate[i / stride * width + i % stride] : 0;
        check_near(bf16_expand(half[i]), want, fabs(want) * (HALF + 1000 * UNIT) + 1e-30,
                   "gelu %d, width %u, %u", is_gelu, width, i);
    }
    free(half);
    free(gate);
    free(up);
    cuda_reset(&cuda);
}

static void test_gated(void **state)
{
    struct rng rng;
    (void)state;
    rng_seed(&rng, 4);
    for (size_t i = 0; i < COUNT(widths); i++) {
        check_gated(&rng, widths[i], false);
        check_gated(&rng, widths[i], true);
    }
}

/* --- the cache --- */

/* Sequences of a batch over one cache of two layers, the second of which is used. Ids of blocks are
 * high, and below the first there is no memory. */
enum { SEQUENCES = 9, LAYERS = 2, LAYER = 1, ROWS_MAX = 64, ID_FIRST = 5000001 };
static const uint32_t positions[SEQUENCES] = {700, 0, 1, 15, 16, 17, 255, 256, 257};
static const uint32_t head_dims[] = {2, 16, 34, 64, 80, 96, 128, 250, 256};

struct world {
    uint32_t dim, heads, kv_heads, window;
    uint32_t row_counts[SEQUENCES], first_rows[SEQUENCES], row_count;
    struct cuda_row rows[ROWS_MAX];
    uint32_t *table, table_count; /* of blocks */
    uint64_t head_bytes, block_bytes, kv_bytes;
    uint8_t *kv; /* NaN where no row sees a position */
};

static struct world world_of(struct rng *rng, uint32_t dim, uint32_t heads, uint32_t kv_heads,
                             uint32_t window)
{
    static const uint32_t counts[] = {3, 1, 6, 17, 2};
    struct world w = {.dim = dim, .heads = heads, .kv_heads = kv_heads, .window = window};
    w.head_bytes = kernel_kv_block_bytes(KERNEL_KV_BF16, dim);
    w.block_bytes = LAYERS * kv_heads * w.head_bytes;
    for (uint32_t s = 0; s < SEQUENCES; s++) {
        w.row_counts[s] = counts[(s + dim / 16 + heads) % COUNT(counts)];
        w.first_rows[s] = w.row_count;
        for (uint32_t r = 0; r < w.row_counts[s]; r++)
            w.rows[w.row_count++] =
                (struct cuda_row){.position = positions[s] + r, .blocks = w.table_count};
        w.table_count += (positions[s] + w.row_counts[s] - 1) / KERNEL_KV_TOKENS + 1;
    }
    assert_true(w.row_count <= ROWS_MAX);
    w.kv_bytes = (w.table_count + 3) * w.block_bytes; /* 3 are nobody's */
    w.table = malloc(w.table_count * sizeof *w.table);
    w.kv = malloc(w.kv_bytes);
    assert_true(w.table != NULL && w.kv != NULL);
    memset(w.kv, 0xff, w.kv_bytes);
    for (uint32_t i = 0; i < w.table_count; i++) {
        uint32_t other = rng_below(rng, i + 1);
        w.table[i] = w.table[other];
        w.table[other] = ID_FIRST + i + 2;
    }
    return w;
}

static void free_world(struct world *w)
{
    free(w->table);
    free(w->kv);
    cuda_reset(&cuda);
}

static uint8_t *head_of(const struct world *w, const struct cuda_row *row, uint32_t position,
                        uint32_t kv_head)
{
    uint32_t block = w->table[row->blocks + position / KERNEL_KV_TOKENS] - ID_FIRST;
    return w->kv + block * w->block_bytes + (LAYER * w->kv_heads + kv_head) * w->head_bytes;
}

static struct cuda_kv kv_there(const struct world *w)
{
    uintptr_t first = (uintptr_t)cuda_new(&cuda, w->kv, w->kv_bytes);
    return (struct cuda_kv){
        .base = (uint8_t *)(first - ID_FIRST * w->block_bytes),
        .blocks = cuda_new(&cuda, w->table, w->table_count * sizeof *w->table),
        .block_bytes = w->block_bytes,
        .head_bytes = w->head_bytes,
        .layer = LAYER,
        .kv_heads = w->kv_heads,
        .dim = w->dim,
    };
}

/* Near the reference to 3 roundings of its terms, and then to the bit or to one of bf16; values to
 * the bit; nothing else of the cache is touched. */
static void check_rope_store(struct rng *rng, uint32_t dim, uint32_t heads, uint32_t kv_heads,
                             uint32_t rotary_dim)
{
    struct world w = world_of(rng, dim, heads, kv_heads, UINT32_MAX);
    size_t q_count = (size_t)w.row_count * heads * dim, k_count = w.row_count * kv_heads * dim;
    uint32_t half = rotary_dim / 2;
    float *q = random_floats(rng, q_count), *k = random_floats(rng, k_count);
    float *v = random_floats(rng, k_count), *cos = random_floats(rng, w.row_count * half);
    float *sin = random_floats(rng, w.row_count * half);
    struct cuda_rope_store job = {
        .q = cuda_new(&cuda, q, q_count * sizeof(float)),
        .k = cuda_new(&cuda, k, k_count * sizeof(float)),
        .v = cuda_new(&cuda, v, k_count * sizeof(float)),
        .cos = cuda_new(&cuda, cos, w.row_count * half * sizeof(float)),
        .sin = cuda_new(&cuda, sin, w.row_count * half * sizeof(float)),
        .rows = cuda_new(&cuda, w.rows, w.row_count * sizeof *w.rows),
        .kv = kv_there(&w),
        .heads = heads,
        .rotary_dim = rotary_dim,
    };
    cuda_run(&cuda, CUDA_ROPE_STORE, w.row_count, 1, 1, CUDA_ROPE_THREADS, 0, &job);
    float *got = read_back(job.q, q_count * sizeof(float));
    uint16_t *cache = read_back(job.kv.base + ID_FIRST * w.block_bytes, w.kv_bytes),
             *want = (uint16_t *)(void *)w.kv;
    for (uint32_t r = 0; r < w.row_count; r++) {
        const struct cuda_row *row = &w.rows[r];
        float *q_row = q + r * heads * dim, *k_row = k + r * kv_heads * dim;
        ref()->rope(q_row, cos + r * half, sin + r * half, heads, dim, rotary_dim);
        ref()->rope(k_row, cos + r * half, sin + r * half, kv_heads, dim, rotary_dim);
        for (uint32_t h = 0; h < kv_heads; h++)
            ref()->kv_store[KERNEL_KV_BF16](head_of(&w, row, row->position, h),
                                            row->position % KERNEL_KV_TOKENS, k_row + h * dim,
                                            v + (r * kv_heads + h) * dim, dim);
    }
    for (size_t i = 0; i < q_count; i++) /* terms of less than 25 */
        check_near(got[i], q[i], 3 * UNIT * 25, "q %zu of dim %u, rotary %u", i, dim, rotary_dim);
    for (size_t i = 0; i < w.kv_bytes / 2; i++) {
        bool is_key = i * 2 % w.head_bytes < kernel_kv_values_at(KERNEL_KV_BF16, dim);
        double x = bf16_expand(want[i]);
        if (cache[i] != want[i] && (!is_key || want[i] == 0xffff))
            fail_msg("dim %u: %04x in the cache at %zu, want %04x", dim, cache[i], i, want[i]);
        if (cache[i] != want[i])
            check_near(bf16_expand(cache[i]), x, 2 * HALF * fabs(x) + 3 * UNIT * 25, "key %zu", i);
    }
    free(got);
    free(cache);
    free(q);
    free(k);
    free(v);
    free(cos);
    free(sin);
    free_world(&w);
}

static void test_rope_store(void **state)
{
    struct rng rng;
    (void)state;
    rng_seed(&rng, 5);
    for (size_t i = 0; i < COUNT(head_dims); i++) {
        uint32_t dim = head_dims[i];
        check_rope_store(&rng, dim, 10, 1, dim);
        check_rope_store(&rng, dim, 4, 2, dim >= 16 ? dim / 4 * 2 : dim);
        check_rope_store(&rng, dim, 2, 2, dim >= 16 ? dim - 6 : dim);
    }
}

/* --- attention --- */

static uint32_t seen_from(const struct world *w, uint32_t position)
{
    return position + 1 > w->window ? position + 1 - w->window : 0;
}

/* Keys and values of the positions that some row sees; blocks that none sees are nowhere. */
static void fill_cache(struct rng *rng, struct world *w)
{
    float key[CUDA_HEAD_DIM_MAX], value[CUDA_HEAD_DIM_MAX];
    for (uint32_t s = 0; s < SEQUENCES; s++) {
        const struct cuda_row *row = &w->rows[w->first_rows[s]];
        uint32_t end = row->position + w->row_counts[s];
        for (uint32_t p = seen_from(w, row->position); p < end; p++)
            for (uint32_t h = 0; h < w->kv_heads; h++) {
                fill(rng, key, KERNEL_F32, w->dim);
                fill(rng, value, KERNEL_F32, w->dim);
                ref()->kv_store[KERNEL_KV_BF16](head_of(w, row, p, h), p % KERNEL_KV_TOKENS, key,
                                                value, w->dim);
            }
        for (uint32_t b = 0; b < seen_from(w, row->position) / KERNEL_KV_TOKENS; b++)
            w->table[row->blocks + b] = UINT32_MAX;
    }
}

static double stored_key(const uint8_t *head, uint32_t position, uint32_t d)
{
    uint32_t index = position % KERNEL_KV_TOKENS;
    return bf16_expand(((const uint16_t *)(const void *)head)[(d / 2 * 16 + index) * 2 + d % 2]);
}

static double stored_value(const uint8_t *head, uint32_t dim, uint32_t position, uint32_t d)
{
    const uint16_t *values = (const uint16_t *)(const void *)(head + dim / 2 * 64);
    uint32_t index = position % KERNEL_KV_TOKENS;
    return bf16_expand(values[(index / 2 * dim + d) * 2 + index % 2]);
}

/* Rounding the weights to bf16 moves the result by HALF of the mean of |v|, rounding it by HALF of
 * itself. Scores are sums of dim products in float, so that a weight is off by dim units of the sum
 * of |q k| at most; with what exp and the joins add, 1e-3 of the mean of |v| is plenty. */
static void check_query(const struct world *w, const uint16_t *got, const float *q,
                        const struct cuda_row *row, uint32_t head, float scale)
{
    static double scores[1024];
    uint32_t begin = seen_from(w, row->position), kv_head = head / (w->heads / w->kv_heads);
    double largest = -INFINITY, sum = 0;
    for (uint32_t p = begin; p <= row->position; p++) {
        const uint8_t *at = head_of(w, row, p, kv_head);
        scores[p] = 0;
        for (uint32_t d = 0; d < w->dim; d++)
            scores[p] += (double)q[d] * stored_key(at, p, d) * scale;
        largest = fmax(largest, scores[p]);
    }
    for (uint32_t p = begin; p <= row->position; p++)
        sum += scores[p] = exp(scores[p] - largest);
    for (uint32_t d = 0; d < w->dim; d++) {
        double mean = 0, size = 0;
        for (uint32_t p = begin; p <= row->position; p++) {
            double v = stored_value(head_of(w, row, p, kv_head), w->dim, p, d);
            mean += scores[p] * v / sum;
            size += scores[p] * fabs(v) / sum;
        }
        check_near(bf16_expand(got[d]), mean, HALF * (size + fabs(mean)) + 1e-3 * size,
                   "dim %u, %u/%u heads, window %u, position %u, head %u, value %u", w->dim,
                   w->heads, w->kv_heads, w->window, row->position, head, d);
    }
}

/* Tiles of up to `rows_max` rows. */
static uint32_t cut_tiles(const struct world *w, uint32_t rows_max, struct cuda_tile *ret)
{
    uint32_t n = 0;
    for (uint32_t s = 0; s < SEQUENCES; s++)
        for (uint32_t r = 0; r < w->row_counts[s]; r += rows_max)
            ret[n++] = (struct cuda_tile){w->first_rows[s] + r, w->row_counts[s] - r < rows_max
                                                                    ? w->row_counts[s] - r
                                                                    : rows_max};
    return n;
}

/* What all queries find: [row_count, half_stride]. */
static uint16_t *attend(const struct world *w, const float *q, float scale, uint32_t half_stride,
                        uint32_t rows_max, uint32_t splits)
{
    struct cuda_tile tiles[ROWS_MAX];
    uint32_t tile_count = cut_tiles(w, rows_max, tiles), group = w->heads / w->kv_heads;
    size_t spans = (size_t)tile_count * w->kv_heads * splits * CUDA_SPAN_QUERIES(group);
    size_t half_bytes = (size_t)w->row_count * half_stride * 2;
    struct cuda_attend job = {
        .q = cuda_new(&cuda, q, (size_t)w->row_count * w->heads * w->dim * sizeof(float)),
        .half = cuda_new(&cuda, NULL, half_bytes),
        .spans = splits > 1 ? cuda_new(&cuda, NULL, spans * (w->dim + 2) * sizeof(float)) : NULL,
        .rows = cuda_new(&cuda, w->rows, w->row_count * sizeof *w->rows),
        .tiles = cuda_new(&cuda, tiles, tile_count * sizeof *tiles),
        .kv = kv_there(w),
        .heads = w->heads,
        .half_stride = half_stride,
        .window = w->window,
        .splits = splits,
        .scale = scale,
    };
    cuda_run(&cuda, CUDA_ATTEND, tile_count, w->kv_heads, splits, CUDA_ATTEND_THREADS, 0, &job);
    if (splits > 1)
        cuda_run(&cuda, CUDA_ATTEND_JOIN, tile_count, w->kv_heads, 1, CUDA_ATTEND_THREADS, 0, &job);
    uint16_t *half = read_back(job.half, half_bytes);
    cuda_reset(&cuda);
    return half;
}

/* With scores up to some ten: of the order that models have. */
static void check_attend(struct rng *rng, uint32_t dim, uint32_t group, uint32_t kv_heads,
                         uint32_t window)
{
    struct world w = world_of(rng, dim, group * kv_heads, kv_heads, window);
    uint32_t width = w.heads * dim, half_stride = stride_of(width) + 64;
    uint32_t rows_max = group < CUDA_TILE_QUERIES ? CUDA_TILE_QUERIES / group : 1;
    size_t count = (size_t)w.row_count * width;
    float *q = random_floats(rng, count), scale = 2 / sqrtf((float)dim);
    fill_cache(rng, &w);
    uint16_t *whole = attend(&w, q, scale, half_stride, rows_max, 1);
    uint16_t *split = attend(&w, q, scale, half_stride, rows_max, 4);
    uint16_t *alone = attend(&w, q, scale, half_stride, 1, 1);
    for (size_t i = 0; i < count; i++) {
        uint16_t rounded;
        ref()->store[KERNEL_BF16](&rounded, &q[i], 1);
        q[i] = bf16_expand(rounded);
    }
    for (uint32_t r = 0; r < w.row_count; r++)
        for (uint32_t h = 0; h < w.heads; h++)
            check_query(&w, whole + r * half_stride + h * dim, q + r * width + h * dim, &w.rows[r],
                        h, scale);
    for (uint32_t i = 0; i < w.row_count * half_stride; i++)
        if (i % half_stride >= width && whole[i] != 0)
            fail_msg("behind the heads of row %u: %04x", i / half_stride, whole[i]);
    size_t bytes = (size_t)w.row_count * half_stride * 2;
    if (memcmp(whole, split, bytes) != 0)
        fail_msg("dim %u, group %u, window %u: other bits from spans apart", dim, group, window);
    if (memcmp(whole, alone, bytes) != 0)
        fail_msg("dim %u, group %u, window %u: other bits in tiles of a row", dim, group, window);
    free(whole);
    free(split);
    free(alone);
    free(q);
    free_world(&w);
}

static void test_attend(void **state)
{
    static const uint32_t groups[] = {1, 2, 7, 8, 32}, windows[] = {1, 5, 300, UINT32_MAX};
    struct rng rng;
    (void)state;
    rng_seed(&rng, 6);
    for (size_t i = 0; i < COUNT(head_dims) * COUNT(groups); i++) {
        size_t d = i % COUNT(head_dims), g = i / COUNT(head_dims);
        check_attend(&rng, head_dims[d], groups[g], g == 1 ? 2 : 1,
                     windows[(d + g) % COUNT(windows)]);
    }
}

/* A weight of 0 for all but the last position of many: the largest counts, whatever its sign. */
static void test_attend_far_scores(void **state)
{
    struct rng rng;
    (void)state;
    rng_seed(&rng, 7);
    for (int sign = -1; sign <= 1; sign += 2) {
        struct world w = world_of(&rng, 64, 4, 1, UINT32_MAX);
        size_t count = (size_t)w.row_count * 4 * 64;
        float *q = random_floats(&rng, count);
        fill_cache(&rng, &w);
        for (size_t i = 0; i < count; i++)
            q[i] = bf16_expand(bf16_truncate(q[i] * 32 * (float)sign));
        uint16_t *half = attend(&w, q, 1, 256, 4, 1);
        for (uint32_t i = 0; i < w.row_count * 4; i++)
            check_query(&w, half + i * 64, q + i * 64, &w.rows[i / 4], i % 4, 1);
        free(half);
        free(q);
        free_world(&w);
    }
}

static int open_driver(void **state)
{
    (void)state;
    cuda_open(&cuda);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_embed),
        cmocka_unit_test(test_norm),
        cmocka_unit_test(test_residual),
        cmocka_unit_test(test_gated),
        cmocka_unit_test(test_rope_store),
        cmocka_unit_test(test_attend),
        cmocka_unit_test(test_attend_far_scores),
    };
    return cmocka_run_group_tests_name("cuda rows", tests, open_driver, NULL);
}
