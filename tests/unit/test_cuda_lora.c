/*
 * LoRA on GPUs against the scalar truth: adapters of many ranks, in bf16 and in codes, and rows
 * without any, in one launch.
 *
 * Tolerance: as many roundings of half a unit as a value goes through additions, of no more than
 * the sum of the products' magnitudes. In A x these are a thread's columns and those that join its
 * warp (5) and the block (8); in B t one for each of the rank. Four more are of the scales and of
 * what y was.
 */
#include "unit/kernel_checks.h"

#include "unit/cuda_launch.h"
#include "weights/panel.h"

#define GROUPS 6u
#define LINEARS CUDA_LINEARS_MAX
#define RANK_MAX 64u
#define RANK_STRIDE (RANK_MAX + 3)
#define ROWS 9u
#define ROW_FIRST 1u /* of those that are launched; one behind them is not either */
#define ROW_COUNT (ROWS - 2)
#define GAP 3u
#define ABSENT (1 * GROUPS + 1) /* an adapter does nothing to one of the linears */

static const uint32_t columns[] = {1, 63, 64, 65, 300, 2056};
static const uint32_t outputs[LINEARS] = {33, 200, 1};
static const uint32_t ranks[GROUPS] = {1, 8, 15, 16, 64, 15};
static const int is_codes[GROUPS] = {0, 0, 0, 1, 0, 1};
static const uint32_t group_of_row[ROWS] = {0, 4, CUDA_GROUP_NONE, 2, 3, 0, 5, 1, 4};

/* What one adapter does to one linear. */
struct adapter {
    enum kernel_dtype a_dtype, b_dtype;
    void *a, *b;
    float rank_scales[RANK_MAX], scale;
    uint32_t rank;
};

struct world {
    struct cuda_driver *c;
    struct rng rng;
    uint32_t cols, half_stride;
    float *x; /* [ROWS, cols] */
    const uint16_t *half;
    struct adapter adapters[LINEARS * GROUPS];
    const struct cuda_row *rows;
    const struct cuda_lora_use *uses;
    float *t;
};

static const struct kernels *truth(void)
{
    return kernels_get(KERNEL_ISA_REF);
}

static size_t b_bytes(const struct adapter *a, uint32_t outs)
{
    uint32_t panels = (outs + KERNEL_PANEL_OUTS - 1) / KERNEL_PANEL_OUTS;
    return panels * kernel_panel_bytes(a->b_dtype, a->rank);
}

static void fill_b(struct adapter *a, struct rng *rng, uint32_t outs)
{
    uint16_t rows[KERNEL_PANEL_OUTS * RANK_MAX];
    size_t panel_bytes = kernel_panel_bytes(a->b_dtype, a->rank);
    for (uint32_t first = 0; first < outs; first += KERNEL_PANEL_OUTS) {
        uint32_t count = outs - first < KERNEL_PANEL_OUTS ? outs - first : KERNEL_PANEL_OUTS;
        uint8_t *panel = (uint8_t *)a->b + first / KERNEL_PANEL_OUTS * panel_bytes;
        fill(rng, rows, KERNEL_BF16, (size_t)count * a->rank);
        if (a->b_dtype == KERNEL_PANELS)
            panel_make(panel, IMAGE_PANELS, rows, count, a->rank);
        else
            fill(rng, panel, KERNEL_CODES, panel_bytes);
    }
}

static void adapter_make(struct adapter *a, struct rng *rng, uint32_t group, uint32_t outs,
                         uint32_t cols)
{
    a->rank = ranks[group];
    a->a_dtype = is_codes[group] ? KERNEL_CODES : KERNEL_BF16;
    a->b_dtype = is_codes[group] ? KERNEL_CODE_PANELS : KERNEL_PANELS;
    a->a = malloc(a->rank * cols * element_bytes(a->a_dtype));
    a->b = malloc(b_bytes(a, outs));
    assert_true(a->a != NULL && a->b != NULL);
    fill(rng, a->a, a->a_dtype, (size_t)a->rank * cols);
    fill_b(a, rng, outs);
    a->scale = (float)rng_normal(rng);
    for (uint32_t k = 0; k < a->rank; k++)
        a->rank_scales[k] = is_codes[group] ? (float)rng_unit(rng) / 1000 : 1;
}

static struct cuda_lora_use adapter_send(struct world *w, const struct adapter *a, uint32_t outs)
{
    struct cuda_lora_use use = {.rank = a->rank, .scale = a->scale};
    use.a = cuda_new(w->c, a->a, a->rank * w->cols * element_bytes(a->a_dtype));
    use.b = cuda_new(w->c, a->b, b_bytes(a, outs));
    if (a->a_dtype == KERNEL_CODES)
        use.rank_scales = cuda_new(w->c, a->rank_scales, a->rank * sizeof(float));
    return use;
}

static void world_make(struct world *w, struct cuda_driver *c, uint32_t cols)
{
    struct cuda_row rows[ROWS] = {0};
    struct cuda_lora_use uses[LINEARS * GROUPS] = {0};
    *w = (struct world){.c = c, .cols = cols, .half_stride = (cols + 63) / 64 * 64};
    rng_seed(&w->rng, cols);
    uint16_t *half = calloc((size_t)ROWS * w->half_stride, 2);
    w->x = malloc((size_t)ROWS * cols * sizeof(float));
    assert_true(half != NULL && w->x != NULL);
    for (uint32_t r = 0; r < ROWS; r++) {
        fill(&w->rng, half + r * w->half_stride, KERNEL_BF16, cols);
        for (uint32_t i = 0; i < cols; i++)
            w->x[r * cols + i] = bf16_expand(half[r * w->half_stride + i]);
        rows[r].group = group_of_row[r];
    }
    for (uint32_t i = 0; i < LINEARS * GROUPS; i++) {
        adapter_make(&w->adapters[i], &w->rng, i % GROUPS, outputs[i / GROUPS], cols);
        if (i != ABSENT)
            uses[i] = adapter_send(w, &w->adapters[i], outputs[i / GROUPS]);
    }
    w->half = cuda_new(c, half, (size_t)ROWS * w->half_stride * 2);
    w->rows = cuda_new(c, rows, sizeof rows);
    w->uses = cuda_new(c, uses, sizeof uses);
    w->t = cuda_new(c, NULL, (size_t)LINEARS * ROWS * RANK_STRIDE * sizeof(float));
    free(half);
}

static void world_free(struct world *w)
{
    cuda_reset(w->c);
    for (uint32_t i = 0; i < LINEARS * GROUPS; i++) {
        free(w->adapters[i].a);
        free(w->adapters[i].b);
    }
    free(w->x);
}

/* The adapter that row r has for a linear, or NULL. */
static const struct adapter *adapter_of(const struct world *w, uint32_t linear, uint32_t r)
{
    uint32_t i = linear * GROUPS + group_of_row[r];
    int is_launched = r >= ROW_FIRST && r < ROW_FIRST + ROW_COUNT;
    return is_launched && group_of_row[r] != CUDA_GROUP_NONE && i != ABSENT ? &w->adapters[i]
                                                                            : NULL;
}

static void shrink(const struct world *w, uint32_t first, uint32_t count)
{
    const struct cuda_shrink job = {
        .t = w->t,
        .x = w->half,
        .rows = w->rows,
        .uses = w->uses,
        .half_stride = w->half_stride,
        .cols = w->cols,
        .group_count = GROUPS,
        .rank_stride = RANK_STRIDE,
        .row = first,
        .row_count = ROWS,
    };
    cuda_run(w->c, CUDA_SHRINK, RANK_MAX / CUDA_SHRINK_RANKS, count, LINEARS, CUDA_SHRINK_THREADS,
             0, &job);
}

static float *read_t(const struct world *w)
{
    size_t bytes = (size_t)LINEARS * ROWS * RANK_STRIDE * sizeof(float);
    float *t = malloc(bytes);
    assert_non_null(t);
    cuda_read(w->c, t, w->t, bytes);
    return t;
}

static void compare_t(const struct world *w, const float *t, uint32_t linear, uint32_t r)
{
    const struct adapter *a = adapter_of(w, linear, r);
    const float *got = t + ((size_t)linear * ROWS + r) * RANK_STRIDE;
    const float *x = w->x + (size_t)r * w->cols;
    float want[RANK_MAX];
    if (a != NULL)
        truth()->matmul[a->a_dtype](want, RANK_MAX, x, w->cols, a->a, NULL, 1, w->cols, 0, a->rank,
                                    0);
    for (uint32_t k = 0; k < RANK_STRIDE; k++) {
        if (a == NULL || k >= a->rank) {
            assert_true(isnan(got[k]));
            continue;
        }
        double magnitude = 0, scale = (double)a->scale * a->rank_scales[k];
        for (uint32_t i = 0; i < w->cols; i++)
            magnitude += fabs(x[i] * element(a->a, a->a_dtype, (size_t)k * w->cols + i) * scale);
        double roundings = (w->cols + 2047) / 2048 * 8 + 5 + 8 + 4;
        check_near(got[k], want[k] * scale, UNIT * roundings * magnitude,
                   "%u columns, linear %u, row %u, rank %u of %u", w->cols, linear, r, k, a->rank);
    }
}

static void test_shrink(void **state)
{
    for (size_t i = 0; i < COUNT(columns); i++) {
        struct world w;
        world_make(&w, *state, columns[i]);
        shrink(&w, ROW_FIRST, ROW_COUNT);
        float *t = read_t(&w);
        for (uint32_t linear = 0; linear < LINEARS; linear++)
            for (uint32_t r = 0; r < ROWS; r++)
                compare_t(&w, t, linear, r);
        free(t);
        world_free(&w);
    }
}

/* A row's bits do not depend on which other rows there are. */
static void test_shrink_row_by_row(void **state)
{
    struct world w;
    world_make(&w, *state, 300);
    shrink(&w, ROW_FIRST, ROW_COUNT);
    float *together = read_t(&w);
    w.t = cuda_new(w.c, NULL, (size_t)LINEARS * ROWS * RANK_STRIDE * sizeof(float));
    for (uint32_t r = ROW_FIRST; r < ROW_FIRST + ROW_COUNT; r++)
        shrink(&w, r, 1);
    float *alone = read_t(&w);
    assert_memory_equal(alone, together, (size_t)LINEARS * ROWS * RANK_STRIDE * sizeof(float));
    free(together);
    free(alone);
    world_free(&w);
}

/* --- y += B t --- */

struct expansion {
    struct cuda_expand job;
    float *y[LINEARS]; /* as they are before */
    size_t bytes[LINEARS];
};

static struct expansion expansion_make(struct world *w)
{
    struct expansion e = {.job = {.t = w->t,
                                  .rows = w->rows,
                                  .uses = w->uses,
                                  .group_count = GROUPS,
                                  .rank_stride = RANK_STRIDE,
                                  .row = ROW_FIRST,
                                  .row_count = ROWS}};
    for (uint32_t i = 0; i < LINEARS; i++) {
        e.job.outputs[i] = outputs[i];
        e.job.y_stride[i] = outputs[i] + GAP;
        e.bytes[i] = ROWS * e.job.y_stride[i] * sizeof(float);
        e.y[i] = malloc(e.bytes[i]);
        assert_non_null(e.y[i]);
        fill(&w->rng, e.y[i], KERNEL_F32, ROWS * e.job.y_stride[i]);
        e.job.y[i] = cuda_new(w->c, e.y[i], e.bytes[i]);
    }
    return e;
}

static void compare_y(const struct world *w, const struct expansion *e, const float *got,
                      const float *t, uint32_t linear, uint32_t r)
{
    const struct adapter *a = adapter_of(w, linear, r);
    uint32_t outs = outputs[linear], stride = outs + GAP;
    const float *before = e->y[linear] + (size_t)r * stride;
    t += ((size_t)linear * ROWS + r) * RANK_STRIDE;
    got += (size_t)r * stride;
    if (a == NULL) {
        assert_memory_equal(got, before, stride * sizeof(float));
        return;
    }
    assert_memory_equal(got + outs, before + outs, GAP * sizeof(float));
    float *want = malloc(outs * sizeof(float)), magnitude = 0;
    assert_non_null(want);
    memcpy(want, before, outs * sizeof(float));
    truth()->matmul[a->b_dtype](want, outs, t, a->rank, a->b, NULL, 1, a->rank, 0, outs, 1);
    for (uint32_t k = 0; k < a->rank; k++) /* no code and no value drawn here is larger */
        magnitude += fabsf(t[k]) * (a->b_dtype == KERNEL_CODE_PANELS ? 128 : 6);
    for (uint32_t o = 0; o < outs; o++)
        check_near(got[o], want[o], UNIT * (a->rank + 4) * (magnitude + fabsf(before[o])),
                   "linear %u, row %u, rank %u, output %u", linear, r, a->rank, o);
    free(want);
}

static void test_expand(void **state)
{
    struct world w;
    world_make(&w, *state, 64);
    shrink(&w, ROW_FIRST, ROW_COUNT);
    struct expansion e = expansion_make(&w);
    cuda_run(w.c, CUDA_EXPAND, (200 + CUDA_EXPAND_THREADS - 1) / CUDA_EXPAND_THREADS, ROW_COUNT,
             LINEARS, CUDA_EXPAND_THREADS, 0, &e.job);
    float *t = read_t(&w);
    for (uint32_t linear = 0; linear < LINEARS; linear++) {
        float *got = malloc(e.bytes[linear]);
        assert_non_null(got);
        cuda_read(w.c, got, e.job.y[linear], e.bytes[linear]);
        for (uint32_t r = 0; r < ROWS; r++)
            compare_y(&w, &e, got, t, linear, r);
        free(got);
        free(e.y[linear]);
    }
    free(t);
    world_free(&w);
}

/* --- DoRA, and LoRA of the embedding --- */

static void check_rescale(struct cuda_driver *c, uint32_t outs, int has_bias)
{
    struct rng rng;
    rng_seed(&rng, outs);
    size_t stride = outs + GAP, bytes = ROWS * stride * sizeof(float);
    float *y = malloc(bytes), *got = malloc(bytes), *dora = malloc(outs * sizeof(float));
    float *bias = malloc(outs * sizeof(float));
    assert_true(y != NULL && got != NULL && dora != NULL && bias != NULL);
    fill(&rng, y, KERNEL_F32, ROWS * stride);
    fill(&rng, dora, KERNEL_F32, outs);
    fill(&rng, bias, KERNEL_F32, outs);
    const struct cuda_rescale job = {
        .y = cuda_new(c, y, bytes),
        .y_stride = stride,
        .dora = cuda_new(c, dora, outs * sizeof(float)),
        .bias = has_bias ? cuda_new(c, bias, outs * sizeof(float)) : NULL,
        .outputs = outs,
        .row = ROW_FIRST,
    };
    cuda_run(c, CUDA_RESCALE, (outs + CUDA_EXPAND_THREADS - 1) / CUDA_EXPAND_THREADS, ROW_COUNT, 1,
             CUDA_EXPAND_THREADS, 0, &job);
    cuda_read(c, got, job.y, bytes);
    for (uint32_t i = 0; i < ROWS * stride; i++) {
        uint32_t r = i / (uint32_t)stride, o = i % (uint32_t)stride;
        int is_done = r >= ROW_FIRST && r < ROW_FIRST + ROW_COUNT && o < outs;
        double want = is_done ? (double)y[i] * dora[o] + (has_bias ? bias[o] : 0) : y[i];
        double roundings = is_done ? fabs((double)y[i] * dora[o]) + fabsf(bias[o]) : 0;
        check_near(got[i], want, 2 * UNIT * roundings, "%u outputs: row %u, output %u", outs, r, o);
    }
    free(y);
    free(got);
    free(dora);
    free(bias);
    cuda_reset(c);
}

static void test_rescale(void **state)
{
    for (uint32_t i = 0; i < LINEARS; i++) {
        check_rescale(*state, outputs[i], 0);
        check_rescale(*state, outputs[i], 1);
    }
}

#define VOCAB 50u
#define WIDTH 300u

/* B [WIDTH, rank] for the device, in rows or in panels. */
static void *send_b(struct cuda_driver *c, const uint16_t *b, uint32_t rank, int in_panels)
{
    if (!in_panels)
        return cuda_new(c, b, (size_t)WIDTH * rank * 2);
    uint32_t panels = (WIDTH + KERNEL_PANEL_OUTS - 1) / KERNEL_PANEL_OUTS;
    size_t bytes = kernel_panel_bytes(KERNEL_PANELS, rank);
    uint8_t *all = malloc(panels * bytes);
    assert_non_null(all);
    for (uint32_t p = 0, first = 0; p < panels; p++, first += KERNEL_PANEL_OUTS)
        panel_make(all + p * bytes, IMAGE_PANELS, b + (size_t)first * rank,
                   WIDTH - first < KERNEL_PANEL_OUTS ? WIDTH - first : KERNEL_PANEL_OUTS, rank);
    void *sent = cuda_new(c, all, panels * bytes);
    free(all);
    return sent;
}

static void compare_embedding(const float *got, const float *x, const uint16_t *a,
                              const uint16_t *b, const float *dora, uint32_t rank, uint32_t token)
{
    for (uint32_t o = 0; o < WIDTH; o++) {
        double sum = x[o], magnitude = fabsf(x[o]), by = dora != NULL ? dora[o] : 1;
        for (uint32_t k = 0; k < rank; k++) {
            double product =
                (double)bf16_expand(b[o * rank + k]) * bf16_expand(a[k * VOCAB + token]) * 0.7f;
            sum += product;
            magnitude += fabs(product);
        }
        check_near(got[o], by * sum, UNIT * (rank + 4) * fabs(by) * magnitude,
                   "rank %u, token %u, value %u", rank, token, o);
    }
}

static void check_embedding(struct cuda_driver *c, uint32_t rank, int in_panels, int has_dora)
{
    static const uint32_t tokens[] = {0, VOCAB - 1, 7};
    struct cuda_row rows[COUNT(tokens) + 1] = {0};
    float x[(COUNT(tokens) + 1) * WIDTH], got[COUNT(x)], dora[WIDTH];
    uint16_t a[RANK_MAX * VOCAB], b[RANK_MAX * WIDTH];
    struct rng rng;
    rng_seed(&rng, rank);
    fill(&rng, x, KERNEL_F32, COUNT(x));
    fill(&rng, dora, KERNEL_F32, WIDTH);
    fill(&rng, a, KERNEL_BF16, rank * VOCAB);
    fill(&rng, b, KERNEL_BF16, rank * WIDTH);
    for (uint32_t i = 0; i < COUNT(tokens); i++)
        rows[i + 1].token = tokens[i];
    const struct cuda_embed_lora job = {
        .x = cuda_new(c, x, sizeof x),
        .rows = cuda_new(c, rows, sizeof rows),
        .a = {cuda_new(c, a, rank * VOCAB * 2), KERNEL_BF16, rank, VOCAB, 0},
        .b = {send_b(c, b, rank, in_panels), in_panels ? KERNEL_PANELS : KERNEL_BF16, WIDTH, rank,
              0},
        .dora = has_dora ? cuda_new(c, dora, sizeof dora) : NULL,
        .scale = 0.7f,
        .row = 1,
    };
    cuda_run(c, CUDA_EMBED_LORA, COUNT(tokens), 1, 1, CUDA_EMBED_LORA_THREADS,
             rank * (uint32_t)sizeof(float), &job);
    cuda_read(c, got, job.x, sizeof got);
    assert_memory_equal(got, x, WIDTH * sizeof(float));
    for (uint32_t i = 0; i < COUNT(tokens); i++)
        compare_embedding(got + (i + 1) * WIDTH, x + (i + 1) * WIDTH, a, b, has_dora ? dora : NULL,
                          rank, tokens[i]);
    cuda_reset(c);
}

static void test_embedding(void **state)
{
    for (uint32_t i = 0; i < GROUPS; i++)
        for (int how = 0; how < 4; how++)
            check_embedding(*state, ranks[i], how % 2, how / 2);
}

static int open_driver(void **state)
{
    static struct cuda_driver driver;
    cuda_open(&driver);
    *state = &driver;
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shrink),    cmocka_unit_test(test_shrink_row_by_row),
        cmocka_unit_test(test_expand),    cmocka_unit_test(test_rescale),
        cmocka_unit_test(test_embedding),
    };
    return cmocka_run_group_tests_name("cuda lora", tests, open_driver, NULL);
}
