/* See dora.h. */
#include "engine/dora.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "kernels/kernels.h"

#define ROWS_AT_ONCE 64u

/* What the norms of a few outputs are made of. */
struct norm_terms {
    const struct kernels *kernels;
    float *gram;  /* [rank, rank]: a a^T */
    float *inner; /* [outputs, rank]: b (a a^T) */
    float *cross; /* [rank, stride]: a w */
    size_t stride;
    uint32_t rank;
    float scale;
};

/* b (a a^T) of `count` outputs. */
static void fill_inner(const struct norm_terms *t, const float *b, uint32_t count)
{
    t->kernels->matmul[KERNEL_F32](t->inner, t->rank, b, t->rank, t->gram, NULL, count, t->rank, 0,
                                   t->rank, 0);
}

static float norm_of(const struct norm_terms *t, double square, const float *b, uint32_t output)
{
    double linear = 0, quadratic = 0;
    for (uint32_t k = 0; k < t->rank; k++) {
        linear += (double)b[k] * t->cross[k * t->stride + output];
        quadratic += (double)b[k] * t->inner[(size_t)output * t->rank + k];
    }
    double sum = square + t->scale * (2 * linear + t->scale * quadratic);
    return (float)sqrt(sum > 0 ? sum : 0);
}

/* x [ROWS_AT_ONCE, cols] */
static void norms_of_rows(const struct norm_terms *t, const struct weight *w, const float *a,
                          const float *b, float *x, float *ret)
{
    const struct kernels *kernels = t->kernels;
    for (uint32_t begin = 0; begin < w->rows; begin += ROWS_AT_ONCE) {
        uint32_t count = w->rows - begin < ROWS_AT_ONCE ? w->rows - begin : ROWS_AT_ONCE;
        const float *b_rows = b + (size_t)begin * t->rank;
        for (uint32_t i = 0; i < count; i++)
            kernels->load_row[w->dtype](x + (size_t)i * w->cols, w->data, w->cols, begin + i);
        kernels->matmul[KERNEL_F32](t->cross, t->stride, a, w->cols, x, NULL, t->rank, w->cols, 0,
                                    count, 0);
        fill_inner(t, b_rows, count);
        for (uint32_t i = 0; i < count; i++) {
            const float *row = x + (size_t)i * w->cols;
            float square = 0;
            kernels->matmul[KERNEL_F32](&square, 1, row, w->cols, row, NULL, 1, w->cols, 0, 1, 0);
            ret[begin + i] = norm_of(t, square, b_rows + (size_t)i * t->rank, i);
        }
    }
}

/* x, squares [cols]; cross and squares are zero before. */
static void norms_of_columns(const struct norm_terms *t, const struct weight *w, const float *a,
                             const float *b, float *x, double *squares, float *ret)
{
    for (uint32_t r = 0; r < w->rows; r++) {
        t->kernels->load_row[w->dtype](x, w->data, w->cols, r);
        for (uint32_t i = 0; i < w->cols; i++)
            squares[i] += (double)x[i] * x[i];
        for (uint32_t k = 0; k < t->rank; k++) {
            float factor = a[(size_t)k * w->rows + r];
            float *sums = t->cross + (size_t)k * t->stride;
            for (uint32_t i = 0; i < w->cols; i++)
                sums[i] += factor * x[i];
        }
    }
    fill_inner(t, b, w->cols);
    for (uint32_t i = 0; i < w->cols; i++)
        ret[i] = norm_of(t, squares[i], b + (size_t)i * t->rank, i);
}

int dora_norms(const struct weight *w, bool by_column, const float *a, const float *b,
               uint32_t rank, float scale, float *ret, struct error *err)
{
    struct norm_terms t = {.rank = rank, .scale = scale};
    int rc = kernels_select(&t.kernels, err);
    if (rc < 0)
        return rc;
    uint32_t inputs = by_column ? w->rows : w->cols;
    t.stride = by_column ? w->cols : ROWS_AT_ONCE; /* also the outputs done at once */
    cleanup_free float *gram = t.gram = malloc((size_t)rank * rank * sizeof(*gram));
    cleanup_free float *inner = t.inner = malloc(rank * t.stride * sizeof(*inner));
    cleanup_free float *cross = t.cross = calloc(rank * t.stride, sizeof(*cross));
    cleanup_free float *x = malloc((size_t)ROWS_AT_ONCE * w->cols * sizeof(*x));
    cleanup_free double *squares = calloc(w->cols, sizeof(*squares));
    if (!gram || !inner || !cross || !x || !squares)
        return error_set(err, -ENOMEM, "no memory for the norms of a rank of %u", rank);
    t.kernels->matmul[KERNEL_F32](gram, rank, a, inputs, a, NULL, rank, inputs, 0, rank, 0);
    if (by_column)
        norms_of_columns(&t, w, a, b, x, squares, ret);
    else
        norms_of_rows(&t, w, a, b, x, ret);
    return 0;
}
