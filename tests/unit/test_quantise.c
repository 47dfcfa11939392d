/* Rounding to int8 and int4: what stands in a panel, read by the formula of image.h as it is
 * written out here, is as near to the values as quantise.h says. */
#include "base/rng.h"
#include "unit/quantised.h"
#include "weights/quantise.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ROWS QUANTISED_ROWS
#define GROUP QUANTISED_GROUP

static const enum image_dtype dtypes[] = {IMAGE_INT8, IMAGE_INT4};

static uint8_t *make(enum image_dtype dtype, const float *rows, uint32_t row_count, uint32_t cols)
{
    size_t bytes = image_panel_bytes(dtype, cols);
    uint8_t *panel = malloc(bytes);
    assert_non_null(panel);
    memset(panel, 0xa5, bytes);
    assert_true(quantise_panel(panel, dtype, rows, row_count, cols) == PANEL_ALL);
    return panel;
}

/* --- how far a group may be off --- */

static float largest_of(const float *values, uint32_t count)
{
    float largest = 0;
    for (uint32_t i = 0; i < count; i++)
        largest = fmaxf(largest, fabsf(values[i]));
    return largest;
}

static double square_error(const float *values, uint32_t count, double scale, double low,
                           double high)
{
    double sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        double code = scale != 0 ? fmin(fmax(rint(values[i] / scale), low), high) : 0;
        sum += (values[i] - scale * code) * (values[i] - scale * code);
    }
    return sum;
}

/* As llama.cpp's Q4_0: the extreme value at -8, no search. */
static double square_error_plain(const float *values, uint32_t count)
{
    float extreme = 0;
    for (uint32_t i = 0; i < count; i++)
        extreme = fabsf(values[i]) > fabsf(extreme) ? values[i] : extreme;
    return square_error(values, count, (double)extreme / -8, -8, 7);
}

static void check_group(const char *what, const uint8_t *panel, enum image_dtype dtype,
                        uint32_t cols, uint32_t row, uint32_t first, const float *values)
{
    uint32_t count = cols - first < GROUP ? cols - first : GROUP;
    double scale = (double)quantised_scale(panel, dtype, row, first);
    double largest = (double)largest_of(values, count);
    double low = dtype == IMAGE_INT8 ? -127 : -8;
    double high = dtype == IMAGE_INT8 ? 127 : 7;
    double sum = 0;
    double squares = 0;
    if (largest < (double)QUANTISE_ABS_MIN)
        assert_true(scale == 0);
    else if (dtype == IMAGE_INT8 &&
             (scale * 127 < largest || scale > largest / 127 * (1 + 1 / 128.)))
        fail_msg("%s: scale %g for values up to %g", what, scale, largest);
    for (uint32_t i = 0; i < count; i++) {
        int code = quantised_code(panel, dtype, row, first + i);
        double error = quantised_value(panel, dtype, row, first + i) - (double)values[i];
        double bound = fabs(scale) * (0.5 + 1e-6);
        if (scale != 0) /* what lies beyond an end is cut off there */
            bound += fabs(scale) * fmax(0, fmax((double)values[i] / scale - high - 0.5,
                                                low - 0.5 - (double)values[i] / scale));
        else
            bound = (double)QUANTISE_ABS_MIN;
        if (code < low || code > high || fabs(error) > bound)
            fail_msg("%s: %g became %d * %g, row %u", what, (double)values[i], code, scale, row);
        sum += error * error;
        squares += (double)values[i] * (double)values[i];
    }
    /* The scale itself is rounded, by up to 1 / 256. */
    double plain = square_error_plain(values, count) * 1.01 + squares * 0x1p-16;
    if (dtype == IMAGE_INT4 && scale != 0 && sum > plain)
        fail_msg("%s: squared error %g, without a search %g", what, sum, plain);
    for (uint32_t i = first + count; i < first + GROUP; i++)
        assert_int_equal(quantised_code(panel, dtype, row, i), 0);
}

static void check(const char *what, const float *rows, uint32_t row_count, uint32_t cols)
{
    for (size_t d = 0; d < sizeof dtypes / sizeof dtypes[0]; d++) {
        uint8_t *panel = make(dtypes[d], rows, row_count, cols);
        for (uint32_t row = 0; row < row_count; row++)
            for (uint32_t first = 0; first < cols; first += GROUP)
                check_group(what, panel, dtypes[d], cols, row, first,
                            rows + (size_t)row * cols + first);
        for (uint32_t row = row_count; row < ROWS; row++)
            for (uint32_t col = 0; col < (cols + GROUP - 1) / GROUP * GROUP; col++) {
                assert_int_equal(quantised_code(panel, dtypes[d], row, col), 0);
                assert_true(quantised_scale(panel, dtypes[d], row, col) == 0);
            }
        free(panel);
    }
}

/* --- tests --- */

/* To the fifth power, normal numbers have long tails. */
static float random_value(struct rng *rng, uint32_t way)
{
    double x = rng_normal(rng);
    return (float)(way % 2 == 0 ? x : x * x * x * x * x) * ldexpf(1, (int)(way % 5 * 40) - 80);
}

static void test_random(void **state)
{
    (void)state;
    static const uint32_t sizes[][2] = {{32, 64}, {32, 256}, {1, 1}, {31, 63}, {7, 65}, {32, 704}};
    for (uint32_t way = 0; way < 10; way++)
        for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
            struct rng rng;
            rng_seed(&rng, way);
            uint32_t rows = sizes[s][0];
            uint32_t cols = sizes[s][1];
            float *values = malloc((size_t)rows * cols * sizeof *values);
            assert_non_null(values);
            for (uint32_t i = 0; i < rows * cols; i++)
                values[i] = random_value(&rng, way);
            check(way % 2 == 0 ? "normal" : "long tails", values, rows, cols);
            free(values);
        }
}

static void test_special(void **state)
{
    (void)state;
    static const float levels[] = {0,      -0.0f,   1,      -1,        0x1p126f,         -0x1p126f,
                                   1e-30f, -1e-38f, 1e-45f, 0x1p-110f, 0x1.fffffep-111f, 3e-33f};
    enum { LEVELS = sizeof levels / sizeof levels[0] };
    float rows[LEVELS * GROUP];
    for (uint32_t way = 0; way < 4; way++) {
        for (uint32_t i = 0; i < LEVELS * GROUP; i++) {
            float level = levels[i / GROUP];
            rows[i] = way == 0   ? level                              /* constant */
                      : way == 1 ? (i % GROUP == 17 ? level : 0)      /* alone */
                      : way == 2 ? (i % 2 == 0 ? level : -level)      /* both signs */
                                 : level * ((float)(i % GROUP) / 63); /* rising */
        }
        check("special", rows, LEVELS, GROUP);
    }
    /* A constant group is nothing lost but the scale's rounding. */
    for (size_t d = 0; d < sizeof dtypes / sizeof dtypes[0]; d++) {
        for (uint32_t i = 0; i < LEVELS * GROUP; i++)
            rows[i] = levels[2 + i / GROUP % 2];
        uint8_t *panel = make(dtypes[d], rows, LEVELS, GROUP);
        for (uint32_t i = 0; i < LEVELS * GROUP; i++)
            if (fabs(quantised_value(panel, dtypes[d], i / GROUP, i % GROUP) / (double)rows[i] -
                     1) > 1 / 128.)
                fail_msg("%g became %g", (double)rows[i],
                         quantised_value(panel, dtypes[d], i / GROUP, i % GROUP));
        free(panel);
    }
}

/* Whole multiples of a scale that bf16 holds come back as they are. */
static void test_exact(void **state)
{
    (void)state;
    float rows[ROWS * GROUP];
    for (uint32_t i = 0; i < ROWS * GROUP; i++)
        rows[i] = 0.375f * (float)((int)(i * 7 % 16) - 8);
    uint8_t *panel = make(IMAGE_INT4, rows, ROWS, GROUP);
    for (uint32_t i = 0; i < ROWS * GROUP; i++)
        assert_true(quantised_value(panel, IMAGE_INT4, i / GROUP, i % GROUP) == (double)rows[i]);
    free(panel);
    for (uint32_t i = 0; i < ROWS * GROUP; i++)
        rows[i] = 0.375f * (float)((int)(i * 31 % 255) - 127) + 0.0f;
    for (uint32_t r = 0; r < ROWS; r++)
        rows[r * GROUP] = 127 * 0.375f;
    panel = make(IMAGE_INT8, rows, ROWS, GROUP);
    for (uint32_t i = 0; i < ROWS * GROUP; i++)
        assert_true(quantised_value(panel, IMAGE_INT8, i / GROUP, i % GROUP) == (double)rows[i]);
    free(panel);
}

/* A group is rounded by itself: other rows, columns and groups are of no consequence. */
static void test_alone(void **state)
{
    (void)state;
    enum { COLS = 200 };
    float rows[ROWS * COLS];
    struct rng rng;
    rng_seed(&rng, 5);
    for (uint32_t i = 0; i < ROWS * COLS; i++)
        rows[i] = random_value(&rng, 4);
    for (size_t d = 0; d < sizeof dtypes / sizeof dtypes[0]; d++) {
        uint8_t *all = make(dtypes[d], rows, ROWS, COLS);
        for (uint32_t row = 0; row < ROWS; row += 5)
            for (uint32_t first = 0; first < COLS; first += GROUP) {
                uint32_t count = COLS - first < GROUP ? COLS - first : GROUP;
                uint8_t *one = make(dtypes[d], rows + row * COLS + first, 1, count);
                assert_true(quantised_scale(one, dtypes[d], 0, 0) ==
                            quantised_scale(all, dtypes[d], row, first));
                for (uint32_t i = 0; i < count; i++)
                    assert_int_equal(quantised_code(one, dtypes[d], 0, i),
                                     quantised_code(all, dtypes[d], row, first + i));
                free(one);
            }
        free(all);
    }
}

static void test_refused(void **state)
{
    (void)state;
    static const float bad[] = {0x1.000002p126f, -0x1p127f, INFINITY, -INFINITY, NAN};
    float rows[3 * 70] = {0};
    uint8_t *panel = malloc(image_panel_bytes(IMAGE_INT8, 70));
    assert_non_null(panel);
    for (size_t d = 0; d < sizeof dtypes / sizeof dtypes[0]; d++)
        for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
            rows[150] = bad[i];
            rows[160] = bad[i];
            assert_true(quantise_panel(panel, dtypes[d], rows, 3, 70) == 150);
        }
    free(panel);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random), cmocka_unit_test(test_special), cmocka_unit_test(test_exact),
        cmocka_unit_test(test_alone),  cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
