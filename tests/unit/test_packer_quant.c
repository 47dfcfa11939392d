/* Backbones packed as int8 and int4: every matrix read back by the layout's formula against the
 * same checkpoint packed as f32. */
#include "unit/packing_checks.h"
#include "unit/quantised.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define ROOT "tests/vectors/parity/"
#define MODEL ROOT "llama-mha"

struct opened {
    struct packed packed;
    struct backbone backbone;
};

static void open_packed(struct opened *o, const char *path, enum image_dtype dtype)
{
    struct error err = {0};
    pack(&o->packed, path, dtype);
    if (backbone_open(&o->backbone, o->packed.base, o->packed.result.bytes, &err) < 0)
        fail_msg("%s: %s", path, err.text);
}

static void close_packed(struct opened *o)
{
    backbone_close(&o->backbone);
    packing_release(&o->packed);
}

static void check_value(const uint8_t *panel, enum image_dtype dtype, uint32_t lane, uint32_t col,
                        double want)
{
    double scale = fabs((double)quantised_scale(panel, dtype, lane, col));
    double error = fabs(quantised_value(panel, dtype, lane, col) - want);
    int code = quantised_code(panel, dtype, lane, col);
    bool is_end = dtype == IMAGE_INT4 && (code == -8 || code == 7);
    if (!(error <= scale * (is_end ? 2 : 0.5001)))
        fail_msg("row %u of a panel, column %u: %g became %d * %g", lane, col, want, code, scale);
}

static void check_matrix(const struct weight *w, const struct weight *wide, enum image_dtype dtype)
{
    const float *values = wide->data;
    size_t panel_bytes = image_panel_bytes(dtype, w->cols);
    uint32_t rows = (w->rows + QUANTISED_ROWS - 1) / QUANTISED_ROWS * QUANTISED_ROWS;
    uint32_t cols = (w->cols + QUANTISED_GROUP - 1) / QUANTISED_GROUP * QUANTISED_GROUP;
    assert_int_equal(w->dtype, dtype);
    for (uint32_t row = 0; row < rows; row++) {
        const uint8_t *panel = (const uint8_t *)w->data + row / QUANTISED_ROWS * panel_bytes;
        for (uint32_t col = 0; col < cols; col++) {
            bool exists = row < w->rows && col < w->cols;
            check_value(panel, dtype, row % QUANTISED_ROWS, col,
                        exists ? (double)values[(size_t)row * w->cols + col] : 0);
        }
    }
}

static void check_model(const char *path, enum image_dtype dtype)
{
    struct opened wide;
    struct opened o;
    char words[32];
    open_packed(&wide, path, IMAGE_F32);
    open_packed(&o, path, dtype);
    snprintf(words, sizeof words, "\"dtype\":\"%s\"", image_quant_name(dtype));
    assert_non_null(strstr(o.packed.result.meta.data, words));
    assert_false(digest_equal(&wide.packed.result.digest, &o.packed.result.digest));
    const struct model_config *c = o.backbone.config;
    for (uint32_t l = 0; l < c->layer_count; l++) {
        const struct backbone_layer *layer = &o.backbone.layers[l];
        for (uint32_t i = 0; i < LINEAR_LAYER_COUNT; i++)
            check_matrix(&layer->linears[i].weight, &wide.backbone.layers[l].linears[i].weight,
                         dtype);
        assert_memory_equal(layer->norms[NORM_MLP], wide.backbone.layers[l].norms[NORM_MLP],
                            c->hidden * sizeof(float));
    }
    check_matrix(&o.backbone.head, &wide.backbone.head, dtype);
    check_matrix(&o.backbone.embed, &wide.backbone.embed, c->tied_embeddings ? dtype : IMAGE_INT8);
    close_packed(&wide);
    close_packed(&o);
}

/* phi3's projections are parts of one tensor of the checkpoint; qwen2's embedding is its head. */
static void test_matrices(void **state)
{
    (void)state;
    static const char *const models[] = {"llama-mha", "phi3", "qwen2-tied", "gemma3"};
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        char path[256];
        snprintf(path, sizeof path, ROOT "%s", models[i]);
        check_model(path, IMAGE_INT8);
        check_model(path, IMAGE_INT4);
    }
}

static void test_numbers(void **state)
{
    (void)state;
    static const float values[] = {NAN, INFINITY, -0x1.8p126f};
    static const char *const words[] = {
        "up_proj.weight holds a value that is not finite at index 100",
        "up_proj.weight holds a value that is not finite at index 100",
        "up_proj.weight holds a value that int4 cannot hold at index 100: pack it with f32"};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        struct packing_dir d;
        open_dir(&d, MODEL);
        patch_value(&d, "model.safetensors", "model.layers.1.mlp.up_proj.weight", 100 * 4,
                    &values[i], 4);
        refuse(&d, IMAGE_INT4, NULL, words[i]);
    }
}

/* An adapter is not quantised with its backbone; one in int8 is in test_codes.c. */
static void test_adapter(void **state)
{
    (void)state;
    struct opened base;
    struct packed p;
    struct adapter a;
    struct error err = {0};
    open_packed(&base, MODEL, IMAGE_INT4);
    const struct digest *digest = &base.packed.result.digest;
    assert_int_equal(
        packing_pack(&p, MODEL "/adapters/r8-all", IMAGE_BF16, &base.backbone, digest, &err), 0);
    assert_int_equal(adapter_open(&a, p.base, p.result.bytes, &base.backbone, digest, &err), 0);
    assert_int_equal(adapter_linear(&a, 0, LINEAR_DOWN)->a.dtype, IMAGE_BF16);
    assert_int_equal(adapter_linear(&a, 0, LINEAR_DOWN)->b.dtype, IMAGE_PANELS);
    adapter_close(&a);
    packing_release(&p);
    close_packed(&base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matrices),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_adapter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
