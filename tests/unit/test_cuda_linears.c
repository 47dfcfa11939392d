/*
 * The linears of GPUs against the scalar truth, over shapes that are whole panels, chunks and tiles
 * and shapes that are not; and against each other, bit by bit.
 *
 * Tolerance: x is bf16 on both sides, so that all products are exact. A value goes through the
 * additions of its slice, one for each column there, and those that join slices and bias; each
 * rounds by half a unit, or a whole one where a tensor core cuts off, of what is there so far,
 * which is no more than the sum of the products' magnitudes.
 */
#include "unit/kernel_checks.h"

#include "unit/cuda_launch.h"
#include "weights/panel.h"

#define CHUNK 64u
#define SLICE_COUNT 8u
#define COLS_MAX 1000u
#define GAP 3u /* floats between rows of y that nobody may write */

static const enum kernel_dtype kinds[] = {KERNEL_PANELS, KERNEL_INT8, KERNEL_INT4};
static const uint32_t outputs[] = {1, 31, 32, 33, 200};
static const uint32_t columns[] = {1, 63, 64, 65, 300, 600};

static double tolerance_of(uint32_t cols, double magnitude)
{
    uint32_t chunks = (cols + CHUNK - 1) / CHUNK;
    uint32_t of_slice = (chunks + SLICE_COUNT - 1) / SLICE_COUNT * CHUNK;
    return 2 * UNIT * (of_slice + SLICE_COUNT + 1) * magnitude;
}

static uint32_t half_stride_of(uint32_t cols)
{
    return (cols + CHUNK - 1) / CHUNK * CHUNK;
}

/* Rows of x: as a GPU has them, zeros behind their columns, and as floats [rows, cols]. */
struct inputs {
    uint32_t rows, cols;
    uint16_t *half;
    float *values;
};

static struct inputs inputs_make(struct rng *rng, uint32_t rows, uint32_t cols)
{
    uint32_t stride = half_stride_of(cols);
    struct inputs x = {rows, cols, calloc((size_t)rows * stride, 2),
                       malloc((size_t)rows * cols * sizeof(float))};
    assert_true(x.half != NULL && x.values != NULL);
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t i = 0; i < cols; i++) {
            uint16_t half = bf16_truncate((float)rng_normal(rng));
            x.half[(size_t)r * stride + i] = half;
            x.values[(size_t)r * cols + i] = bf16_expand(half);
        }
    return x;
}

static void inputs_free(struct inputs *x)
{
    free(x->half);
    free(x->values);
}

/* A matrix in panels, and as floats [outs, cols]: what the panels say. */
struct matrix {
    enum kernel_dtype dtype;
    uint32_t outs, cols;
    size_t bytes;
    uint8_t *panels;
    float *values, *bias;
};

static void matrix_panel(struct matrix *m, struct rng *rng, uint32_t panel)
{
    uint32_t first = panel * KERNEL_PANEL_OUTS;
    uint32_t count = m->outs - first < KERNEL_PANEL_OUTS ? m->outs - first : KERNEL_PANEL_OUTS;
    float rows[KERNEL_PANEL_OUTS * COLS_MAX];
    uint16_t halves[KERNEL_PANEL_OUTS * COLS_MAX];
    for (size_t i = 0; i < (size_t)count * m->cols; i++) {
        rows[i] = (float)rng_normal(rng);
        halves[i] = bf16_truncate(rows[i]);
    }
    size_t bytes = kernel_panel_bytes(m->dtype, m->cols);
    const void *from = m->dtype == KERNEL_PANELS ? (const void *)halves : rows;
    assert_int_equal(
        panel_make(m->panels + panel * bytes, (enum image_dtype)m->dtype, from, count, m->cols),
        PANEL_ALL);
}

static struct matrix matrix_make(struct rng *rng, enum kernel_dtype dtype, uint32_t outs,
                                 uint32_t cols)
{
    const struct kernels *k = kernels_get(KERNEL_ISA_REF);
    uint32_t panels = (outs + KERNEL_PANEL_OUTS - 1) / KERNEL_PANEL_OUTS;
    struct matrix m = {dtype, outs, cols, panels * kernel_panel_bytes(dtype, cols),
                       NULL,  NULL, NULL};
    assert_true(cols <= COLS_MAX);
    m.panels = malloc(m.bytes);
    m.values = malloc((size_t)outs * cols * sizeof(float));
    m.bias = malloc(outs * sizeof(float));
    assert_true(m.panels != NULL && m.values != NULL && m.bias != NULL);
    for (uint32_t p = 0; p < panels; p++)
        matrix_panel(&m, rng, p);
    for (uint32_t o = 0; o < outs; o++) {
        k->load_row[dtype](m.values + (size_t)o * cols, m.panels, cols, o);
        m.bias[o] = (float)rng_normal(rng);
    }
    return m;
}

static void matrix_free(struct matrix *m)
{
    free(m->panels);
    free(m->values);
    free(m->bias);
}

/* A job of up to three matrices on the device. */
struct job {
    struct cuda_linears linears;
    uint32_t rows;
};

static struct job job_make(struct cuda_driver *c, const struct inputs *x, const struct matrix *m,
                           uint32_t count, int has_bias)
{
    uint32_t stride = half_stride_of(x->cols);
    struct job j = {{.half_stride = stride, .row_count = x->rows, .count = count}, x->rows};
    j.linears.x = cuda_new(c, x->half, (size_t)x->rows * stride * 2);
    for (uint32_t i = 0; i < count; i++) {
        struct cuda_linear *l = &j.linears.linears[i];
        l->w = (struct cuda_weight){cuda_new(c, m[i].panels, m[i].bytes), m[i].dtype, m[i].outs,
                                    m[i].cols, 0};
        l->bias = has_bias ? cuda_new(c, m[i].bias, m[i].outs * sizeof(float)) : NULL;
        l->y_stride = m[i].outs + GAP;
        l->y = cuda_new(c, NULL, x->rows * l->y_stride * sizeof(float));
    }
    return j;
}

/* Computes rows [first, first + count), with either kernel. */
static void job_run(struct cuda_driver *c, const struct job *j, enum cuda_kernel kernel,
                    uint32_t first, uint32_t count)
{
    struct cuda_linears part = j->linears;
    part.x += (size_t)first * part.half_stride;
    part.row_count = count;
    for (uint32_t i = 0; i < part.count; i++)
        part.linears[i].y += first * part.linears[i].y_stride;
    if (kernel == CUDA_TILES)
        cuda_run(c, kernel, cuda_linears_blocks(&part, CUDA_TILE_OUTS),
                 (count + CUDA_TILE_ROWS - 1) / CUDA_TILE_ROWS, 1, CUDA_TILES_THREADS,
                 CUDA_TILES_SHARED_BYTES, &part);
    else
        cuda_run(c, kernel, cuda_linears_blocks(&part, CUDA_LINEARS_OUTS), 1, 1,
                 CUDA_LINEARS_THREADS, 0, &part);
}

/* y of a linear, [rows, outs + GAP]; what is between the rows was not written. */
static float *job_read(const struct cuda_driver *c, const struct job *j, uint32_t linear)
{
    const struct cuda_linear *l = &j->linears.linears[linear];
    size_t count = j->rows * l->y_stride;
    float *y = malloc(count * sizeof(float));
    assert_non_null(y);
    cuda_read(c, y, l->y, count * sizeof(float));
    for (uint32_t r = 0; r < j->rows; r++)
        for (uint32_t i = 0; i < GAP; i++)
            if (!isnan(y[r * l->y_stride + l->w.rows + i]))
                fail_msg("row %u: written %u outputs behind the last", r, i + 1);
    return y;
}

static void compare(const float *y, const struct inputs *x, const struct matrix *m, int has_bias)
{
    for (uint32_t r = 0; r < x->rows; r++) {
        for (uint32_t o = 0; o < m->outs; o++) {
            const float *row = x->values + (size_t)r * m->cols;
            const float *w = m->values + (size_t)o * m->cols;
            double magnitude = has_bias ? fabsf(m->bias[o]) : 0;
            float want;
            kernels_get(KERNEL_ISA_REF)
                ->matmul[KERNEL_F32](&want, 1, row, m->cols, w, has_bias ? &m->bias[o] : NULL, 1,
                                     m->cols, 0, 1, 0);
            for (uint32_t i = 0; i < m->cols; i++)
                magnitude += fabs((double)row[i] * w[i]);
            check_near(y[r * (m->outs + GAP) + o], want, tolerance_of(m->cols, magnitude),
                       "dtype %d, %u rows, %u outputs, %u columns: row %u, output %u", m->dtype,
                       x->rows, m->outs, m->cols, r, o);
        }
    }
}

static void check_shape(struct cuda_driver *c, enum cuda_kernel kernel, enum kernel_dtype dtype,
                        uint32_t rows, uint32_t outs, uint32_t cols)
{
    struct rng rng;
    rng_seed(&rng, rows * 1000000ull + outs * 1000ull + cols);
    struct inputs x = inputs_make(&rng, rows, cols);
    struct matrix m = matrix_make(&rng, dtype, outs, cols);
    int has_bias = (rows + outs + cols) % 2 == 0;
    struct job j = job_make(c, &x, &m, 1, has_bias);
    job_run(c, &j, kernel, 0, rows);
    float *y = job_read(c, &j, 0);
    compare(y, &x, &m, has_bias);
    free(y);
    cuda_reset(c);
    matrix_free(&m);
    inputs_free(&x);
}

static void check_shapes(struct cuda_driver *c, enum cuda_kernel kernel, const uint32_t *rows,
                         size_t count)
{
    for (size_t d = 0; d < COUNT(kinds); d++)
        for (size_t o = 0; o < COUNT(outputs); o++)
            for (size_t i = 0; i < COUNT(columns); i++)
                for (size_t r = 0; r < count; r++)
                    check_shape(c, kernel, kinds[d], rows[r], outputs[o], columns[i]);
}

static void test_few_rows(void **state)
{
    static const uint32_t rows[] = {1, 2, 7, 8, 9, 17, 64};
    check_shapes(*state, CUDA_LINEARS, rows, COUNT(rows));
}

static void test_many_rows(void **state)
{
    static const uint32_t rows[] = {1, 65, 129, 200};
    check_shapes(*state, CUDA_TILES, rows, COUNT(rows));
}

static void assert_same_bits(const float *got, const float *want, size_t count, const char *what)
{
    for (size_t i = 0; i < count; i++)
        if (memcmp(&got[i], &want[i], sizeof(float)) != 0)
            fail_msg("%s: value %zu is %.9g and %.9g", what, i, got[i], want[i]);
}

/* However the rows are cut into launches, and whichever kernel computes them. */
static void check_cuts(struct cuda_driver *c, enum kernel_dtype dtype, uint32_t outs, uint32_t cols)
{
    static const struct {
        enum cuda_kernel kernel;
        uint32_t rows;
    } cuts[] = {{CUDA_LINEARS, 1}, {CUDA_LINEARS, 9}, {CUDA_LINEARS, 30},
                {CUDA_TILES, 25},  {CUDA_TILES, 100}, {CUDA_TILES, 150}};
    struct rng rng;
    rng_seed(&rng, outs * 1000ull + cols);
    struct inputs x = inputs_make(&rng, 150, cols);
    struct matrix m = matrix_make(&rng, dtype, outs, cols);
    struct job j = job_make(c, &x, &m, 1, 1);
    for (uint32_t first = 0; first < x.rows; first += CUDA_SKINNY_ROWS_MAX)
        job_run(c, &j, CUDA_LINEARS, first,
                x.rows - first < CUDA_SKINNY_ROWS_MAX ? x.rows - first : CUDA_SKINNY_ROWS_MAX);
    float *want = job_read(c, &j, 0);
    for (size_t i = 0; i < COUNT(cuts); i++) {
        char what[100];
        snprintf(what, sizeof what, "dtype %d, %u columns, kernel %d, %u rows at a time", dtype,
                 cols, cuts[i].kernel, cuts[i].rows);
        struct job again = job_make(c, &x, &m, 1, 1);
        for (uint32_t first = 0; first < x.rows; first += cuts[i].rows)
            job_run(c, &again, cuts[i].kernel, first,
                    x.rows - first < cuts[i].rows ? x.rows - first : cuts[i].rows);
        float *got = job_read(c, &again, 0);
        for (uint32_t r = 0; r < x.rows; r++)
            assert_same_bits(got + r * (outs + GAP), want + r * (outs + GAP), outs, what);
        free(got);
    }
    free(want);
    cuda_reset(c);
    matrix_free(&m);
    inputs_free(&x);
}

static void test_same_bits_in_any_batch(void **state)
{
    for (size_t d = 0; d < COUNT(kinds); d++) {
        check_cuts(*state, kinds[d], 33, 65);
        check_cuts(*state, kinds[d], 40, COLS_MAX);
    }
}

static void check_three(struct cuda_driver *c, enum cuda_kernel kernel, enum kernel_dtype dtype,
                        uint32_t rows)
{
    static const uint32_t outs[CUDA_LINEARS_MAX] = {33, 1, 200};
    struct rng rng;
    rng_seed(&rng, rows);
    struct inputs x = inputs_make(&rng, rows, 130);
    struct matrix m[CUDA_LINEARS_MAX];
    for (uint32_t i = 0; i < CUDA_LINEARS_MAX; i++)
        m[i] = matrix_make(&rng, dtype, outs[i], x.cols);
    struct job j = job_make(c, &x, m, CUDA_LINEARS_MAX, 1);
    j.linears.linears[1].bias = NULL;
    job_run(c, &j, kernel, 0, rows);
    for (uint32_t i = 0; i < CUDA_LINEARS_MAX; i++) {
        float *y = job_read(c, &j, i);
        compare(y, &x, &m[i], i != 1);
        free(y);
        matrix_free(&m[i]);
    }
    cuda_reset(c);
    inputs_free(&x);
}

static void test_three_linears_at_once(void **state)
{
    for (size_t d = 0; d < COUNT(kinds); d++) {
        check_three(*state, CUDA_LINEARS, kinds[d], 5);
        check_three(*state, CUDA_TILES, kinds[d], 130);
    }
}

/* What a kernel makes of codes is exact: seen one column at a time, so that nothing is added. */
static void test_codes_are_exact(void **state)
{
    struct cuda_driver *c = *state;
    struct rng rng;
    rng_seed(&rng, 1);
    for (size_t d = 1; d < COUNT(kinds); d++) {
        struct matrix m = matrix_make(&rng, kinds[d], 32, CHUNK);
        for (size_t i = KERNEL_PANEL_OUTS * 2; i < m.bytes; i++)
            m.panels[i] = (uint8_t)(i * 37);
        for (uint32_t o = 0; o < m.outs; o++)
            kernels_get(KERNEL_ISA_REF)
                ->load_row[kinds[d]](m.values + o * CHUNK, m.panels, CHUNK, o);
        struct inputs x = inputs_make(&rng, CHUNK, CHUNK);
        memset(x.half, 0, CHUNK * CHUNK * 2);
        for (uint32_t r = 0; r < CHUNK; r++)
            x.half[r * CHUNK + r] = 0x3f80; /* 1 */
        struct job j = job_make(c, &x, &m, 1, 0);
        job_run(c, &j, CUDA_LINEARS, 0, x.rows);
        float *y = job_read(c, &j, 0);
        for (uint32_t r = 0; r < CHUNK; r++)
            for (uint32_t o = 0; o < m.outs; o++)
                assert_true(y[r * (m.outs + GAP) + o] == m.values[o * CHUNK + r]);
        free(y);
        cuda_reset(c);
        inputs_free(&x);
        matrix_free(&m);
    }
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
        cmocka_unit_test(test_few_rows),
        cmocka_unit_test(test_many_rows),
        cmocka_unit_test(test_same_bits_in_any_batch),
        cmocka_unit_test(test_three_linears_at_once),
        cmocka_unit_test(test_codes_are_exact),
    };
    return cmocka_run_group_tests_name("cuda linears", tests, open_driver, NULL);
}
