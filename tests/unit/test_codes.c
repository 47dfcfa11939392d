/* Adapters in int8: codes are as near to the values as codes.h says, with adapters packed from the
 * parity vectors against the same ones packed as f32; and images whose codes make no sense are
 * refused. */
#include "base/rng.h"
#include "unit/model_fixture.h"
#include "unit/packing_checks.h"
#include "weights/codes.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define ROOT "tests/vectors/parity/"

/* --- codes --- */

static void check_value(double v, float scale, int code)
{
    double bound = scale > 0 ? (double)scale * 0.50001 : 127 * (double)FLT_MIN;
    if (!(fabs(v - (double)scale * code) <= bound))
        fail_msg("%g became %g * %d", v, (double)scale, code);
}

static void check_codes(struct rng *rng, uint32_t row_count, uint32_t cols, double sigma)
{
    float *values = calloc((size_t)row_count * cols, sizeof *values);
    float *of_rows = calloc(row_count, sizeof *of_rows), *of_cols = calloc(cols, sizeof *of_cols);
    int8_t *rows = malloc((size_t)row_count * cols);
    int8_t *panel = malloc(image_panel_bytes(IMAGE_CODE_PANELS, cols));
    assert_true(values && of_rows && of_cols && rows && panel);
    memset(panel, 0x55, image_panel_bytes(IMAGE_CODE_PANELS, cols));
    for (uint32_t r = 0; r < row_count; r++)
        for (uint32_t k = 0; k < cols; k++) {
            float v = values[(size_t)r * cols + k] = (float)(sigma * rng_normal(rng));
            of_rows[r] = fmaxf(of_rows[r], fabsf(v));
            of_cols[k] = fmaxf(of_cols[k], fabsf(v));
        }
    for (uint32_t r = 0; r < row_count; r++)
        of_rows[r] = codes_scale(of_rows[r]);
    for (uint32_t k = 0; k < cols; k++)
        of_cols[k] = codes_scale(of_cols[k]);
    codes_of_rows(rows, values, of_rows, row_count, cols);
    codes_panel(panel, values, of_cols, row_count, cols);
    for (uint32_t r = 0; r < IMAGE_PANEL_ROWS; r++)
        for (uint32_t k = 0; k < cols; k++) {
            int in_panel = panel[k * IMAGE_PANEL_ROWS + r];
            if (r >= row_count) {
                assert_int_equal(in_panel, 0);
                continue;
            }
            double v = (double)values[(size_t)r * cols + k];
            int in_row = rows[(size_t)r * cols + k];
            check_value(v, of_rows[r], in_row);
            check_value(v, of_cols[k], in_panel);
            assert_true(in_row >= -127 && in_panel >= -127);
        }
    free(values);
    free(of_rows);
    free(of_cols);
    free(rows);
    free(panel);
}

static void test_codes(void **state)
{
    static const double sigmas[] = {1, 1e-3, 1e30, 1e-44};
    struct rng rng;
    (void)state;
    rng_seed(&rng, 7);
    for (uint32_t i = 0; i < 200; i++)
        check_codes(&rng, 1 + rng_below(&rng, IMAGE_PANEL_ROWS), 1 + rng_below(&rng, 70),
                    sigmas[i % 4]);
    /* Ties go to even, the largest to the end; what has no scale is 0. */
    const float values[] = {127, -127, 2.5f, 3.5f, -0.5f, 0};
    const float scales[] = {1};
    int8_t codes[6];
    codes_of_rows(codes, values, scales, 1, 6);
    const int8_t expected[] = {127, -127, 2, 4, 0, 0};
    assert_memory_equal(codes, expected, sizeof codes);
    assert_true(codes_scale(254) == 2 && codes_scale(0) == 0 && codes_scale(1e-40f) == 0);
}

/* --- adapters --- */

struct pair {
    struct packed base, wide, narrow;
    struct backbone backbone;
    struct adapter f32, int8;
};

static void pack_adapter_as(struct packed *p, struct adapter *a, const struct pair *pair,
                            const char *path, enum image_dtype dtype)
{
    struct error err = {0};
    const struct digest *digest = &pair->base.result.digest;
    if (packing_pack(p, path, dtype, &pair->backbone, digest, &err) < 0 ||
        adapter_open(a, p->base, p->result.bytes, &pair->backbone, digest, &err) < 0)
        fail_msg("%s: %s", path, err.text);
}

static void open_pair(struct pair *p, const char *model, const char *adapter)
{
    struct error err = {0};
    char path[256];
    snprintf(path, sizeof path, ROOT "%s", model);
    pack(&p->base, path, IMAGE_F32);
    assert_int_equal(backbone_open(&p->backbone, p->base.base, p->base.result.bytes, &err), 0);
    snprintf(path, sizeof path, ROOT "%s/adapters/%s", model, adapter);
    pack_adapter_as(&p->wide, &p->f32, p, path, IMAGE_F32);
    pack_adapter_as(&p->narrow, &p->int8, p, path, IMAGE_INT8);
}

static void close_pair(struct pair *p)
{
    adapter_close(&p->f32);
    adapter_close(&p->int8);
    backbone_close(&p->backbone);
    packing_release(&p->wide);
    packing_release(&p->narrow);
    packing_release(&p->base);
}

/* The largest size of a rank in A's row (is_a) or in the columns of all parts of B that share it.
 */
static double largest_of(const struct adapter *a, uint32_t first, uint32_t rank, bool is_a)
{
    double largest = 0;
    const struct lora *l = &a->loras[first];
    for (uint32_t i = 0; is_a && i < l->a.cols; i++)
        largest = fmax(largest, fabs(fixture_value(&l->a, rank, i)));
    for (uint32_t at = first; !is_a && at < adapter_scale_count(a->config->layer_count); at++)
        for (uint32_t o = 0; a->loras[at].a.data == l->a.data && o < a->loras[at].b.rows; o++)
            largest = fmax(largest, fabs(fixture_value(&a->loras[at].b, o, rank)));
    return largest;
}

/* Products of a value of A and one of B, of which int8 has the product of both scales only. */
static void check_lora(const struct pair *p, uint32_t index, uint32_t first, struct rng *rng)
{
    const struct lora *wide = &p->f32.loras[index], *l = &p->int8.loras[index];
    assert_int_equal(l->a.dtype, IMAGE_CODES);
    assert_int_equal(l->b.dtype, IMAGE_CODE_PANELS);
    assert_true(l->scale == wide->scale && (l->dora == NULL) == (wide->dora == NULL));
    for (uint32_t k = 0; k < wide->a.rows; k++) {
        double of_a = largest_of(&p->f32, first, k, true) / 127;
        double of_b = largest_of(&p->f32, first, k, false) / 127;
        for (int i = 0; i < 50; i++) {
            uint32_t in = rng_below(rng, l->a.cols), out = rng_below(rng, l->b.rows);
            double a = fixture_value(&wide->a, k, in), b = fixture_value(&wide->b, out, k);
            double got = fixture_value(&l->a, k, in) * fixture_value(&l->b, out, k) *
                         (double)l->rank_scales[k];
            double bound = of_a / 2 * fabs(b) + of_b / 2 * fabs(a) + of_a * of_b / 4;
            if (!(fabs(got - a * b) <= bound * 1.0001 + 1e-30))
                fail_msg("matrix %u rank %u: %g x %g became %g", index, k, a, b, got);
        }
    }
}

static void test_adapters(void **state)
{
    static const char *const cases[][2] = {
        {"qwen25", "all-linear"}, {"qwen25", "mixed-ranks"}, {"qwen25", "lora-embed-head"},
        {"qwen25", "dora"},       {"phi3", "all-linear"},    {"gemma3", "together"},
    };
    struct rng rng;
    (void)state;
    rng_seed(&rng, 11);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct pair p = {0};
        open_pair(&p, cases[i][0], cases[i][1]);
        uint32_t count = adapter_scale_count(p.backbone.config->layer_count), found = 0;
        for (uint32_t at = 0, first = 0; at < count; at++) {
            const struct lora *l = &p.f32.loras[at];
            if (l->a.data == NULL)
                continue;
            if (at == adapter_embed_index(p.backbone.config->layer_count)) {
                assert_int_equal(p.int8.loras[at].a.dtype, IMAGE_BF16);
                assert_null(p.int8.loras[at].rank_scales);
                continue;
            }
            first = p.f32.loras[first].a.data == l->a.data ? first : at;
            check_lora(&p, at, first, &rng);
            found++;
        }
        assert_true(found > 0);
        assert_true(p.f32.config->parameter_count == p.int8.config->parameter_count);
        assert_int_equal(p.f32.is_pure_lora, p.int8.is_pure_lora);
        assert_non_null(strstr(p.narrow.result.meta.data, "\"dtype\":\"int8\""));
        close_pair(&p);
    }
}

/* Both scales of a rank may be numbers, and their product none. */
static void test_too_large(void **state)
{
    const uint16_t huge[2] = {0x7180, 0x7180}; /* 2^100, for both ranks */
    struct pair p = {0};
    struct packing_dir d;
    struct packed packed;
    struct error err = {0};
    (void)state;
    open_pair(&p, "qwen25", "all-linear");
    open_dir(&d, ROOT "qwen25/adapters/all-linear");
    patch_value(&d, "adapter_model.safetensors", "layers.0.mlp.down_proj.lora_A", 0, huge, 2);
    patch_value(&d, "adapter_model.safetensors", "layers.0.mlp.down_proj.lora_B", 0, huge,
                sizeof huge);
    assert_int_equal(
        packing_pack_files(&packed, &d, IMAGE_INT8, &p.backbone, &p.base.result.digest, &err),
        -EINVAL);
    assert_non_null(strstr(err.text, "int8 cannot hold"));
    packing_close_dir(&d);
    close_pair(&p);
}

/* --- images that nobody packed --- */

struct forgery {
    uint8_t *base;
    struct image_tensor *tensors;
    uint32_t count;
};

static struct forgery forge(const struct packed *p)
{
    struct image im;
    struct error err = {0};
    struct forgery f = {.base = aligned_alloc(IMAGE_ALIGN, (p->result.bytes + 4095) / 4096 * 4096)};
    assert_non_null(f.base);
    memcpy(f.base, p->base, p->result.bytes);
    const struct image_header *h = (const void *)f.base;
    assert_int_equal(image_open(&im, f.base, p->result.bytes, h->kind, &err), 0);
    f.tensors = (void *)(f.base + h->sections[IMAGE_TENSORS].offset);
    f.count = im.tensor_count;
    return f;
}

static struct image_tensor *tensor_of(const struct forgery *f, uint32_t role, uint32_t part)
{
    for (uint32_t i = 0; i < f->count; i++)
        if (f->tensors[i].role == role && f->tensors[i].part == part)
            return &f->tensors[i];
    fail_msg("no part %u of %s", part, image_role_name(role));
    return NULL;
}

static void expect_refusal(const struct pair *p, struct forgery *f, const char *words)
{
    struct adapter a;
    struct error err = {0};
    int r = adapter_open(&a, f->base, p->narrow.result.bytes, &p->backbone, &p->base.result.digest,
                         &err);
    if (r != -EBADMSG || strstr(err.text, words) == NULL)
        fail_msg("%d \"%s\", expected \"%s\"", r, err.text, words);
    free(f->base);
}

/* Says that a tensor is of another type, whose bytes are fewer. */
static void retype(struct image_tensor *t, enum image_dtype dtype)
{
    t->dtype = dtype;
    assert_true(image_tensor_bytes(t->rows, t->cols, dtype, &t->bytes));
}

static void test_forgeries(void **state)
{
    struct pair p = {0};
    struct forgery f;
    (void)state;
    open_pair(&p, "qwen25", "together");

    f = forge(&p.narrow);
    struct image_tensor *scales = tensor_of(&f, TENSOR_DOWN, TENSOR_LORA_SCALES);
    ((float *)(void *)(f.base + scales->offset))[scales->cols - 1] = NAN;
    expect_refusal(&p, &f, "the scales of matrix");

    f = forge(&p.narrow);
    scales = tensor_of(&f, TENSOR_DOWN, TENSOR_LORA_SCALES);
    scales->cols--;
    scales->bytes -= sizeof(float);
    expect_refusal(&p, &f, "the scales of matrix");

    f = forge(&p.narrow); /* twice at one, not at all at the other */
    tensor_of(&f, TENSOR_DOWN, TENSOR_LORA_SCALES)->role = TENSOR_UP;
    expect_refusal(&p, &f, "part 4 of up of layer 0 is there twice");

    f = forge(&p.narrow);
    retype(tensor_of(&f, TENSOR_DOWN, TENSOR_LORA_B), IMAGE_CODES);
    expect_refusal(&p, &f, "cannot be codes like these");

    f = forge(&p.narrow);
    retype(tensor_of(&f, TENSOR_EMBED, TENSOR_LORA_A), IMAGE_CODES);
    expect_refusal(&p, &f, "cannot be codes like these");
    close_pair(&p);

    open_pair(&p, "qwen25", "save-head");
    f = forge(&p.narrow);
    retype(tensor_of(&f, TENSOR_HEAD, TENSOR_WHOLE), IMAGE_CODE_PANELS);
    expect_refusal(&p, &f, "which only lora_A and lora_B are");

    f = forge(&p.narrow);
    retype(tensor_of(&f, TENSOR_HEAD, TENSOR_WHOLE), IMAGE_INT4);
    expect_refusal(&p, &f, "is quantised, an adapter's matrices are not");

    struct backbone b;
    struct error err = {0};
    f = forge(&p.base);
    retype(tensor_of(&f, TENSOR_DOWN, TENSOR_WHOLE), IMAGE_CODES);
    assert_int_equal(backbone_open(&b, f.base, p.base.result.bytes, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "is kept as adapters are"));
    free(f.base);
    close_pair(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_codes),
        cmocka_unit_test(test_adapters),
        cmocka_unit_test(test_too_large),
        cmocka_unit_test(test_forgeries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
