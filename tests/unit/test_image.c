/* Images: what the writer writes the readers accept, and they accept nothing else. */
#include "tiny_image.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static struct tiny_image backbone;
static struct tiny_image adapter;

/* A copy to damage. */
struct copy {
    uint8_t *bytes;
    struct image_header *header;
    struct image_tensor *tensors;
};

static struct copy copy_of(const struct tiny_image *t)
{
    struct copy c = {.bytes = aligned_alloc(IMAGE_ALIGN, (t->size + 4095) / 4096 * 4096)};
    assert_non_null(c.bytes);
    memcpy(c.bytes, t->bytes, t->size);
    c.header = (void *)c.bytes;
    c.tensors = (void *)(c.bytes + c.header->sections[IMAGE_TENSORS].offset);
    return c;
}

static void refuse_backbone(struct copy *c, uint64_t size, const char *words)
{
    struct backbone b = {.weight_bytes = 77};
    struct error err = {0};
    int r = backbone_open(&b, c->bytes, size, &err);
    if (r >= 0 || strstr(err.text, words) == NULL)
        fail_msg("%d \"%s\", expected \"%s\"", r, err.text, words);
    assert_int_equal(b.weight_bytes, 77);
    free(c->bytes);
    *c = copy_of(&backbone);
}

static void refuse_adapter(struct copy *c, const char *words)
{
    struct backbone b;
    struct adapter a = {.weight_bytes = 77};
    struct error err = {0};
    assert_int_equal(backbone_open(&b, backbone.bytes, backbone.size, &err), 0);
    int r = adapter_open(&a, c->bytes, adapter.size, &b, &backbone.digest, &err);
    if (r >= 0 || strstr(err.text, words) == NULL)
        fail_msg("%d \"%s\", expected \"%s\"", r, err.text, words);
    assert_int_equal(a.weight_bytes, 77);
    backbone_close(&b);
    free(c->bytes);
    *c = copy_of(&adapter);
}

static void test_open(void **state)
{
    (void)state;
    struct backbone b;
    struct adapter a;
    struct error err = {0};
    struct digest digest;
    digest_of(backbone.bytes, backbone.size, &digest);
    assert_true(digest_equal(&digest, &backbone.digest));
    assert_int_equal(backbone_open(&b, backbone.bytes, backbone.size, &err), 0);
    assert_string_equal(b.chat_template, "{{ 1 }}");
    assert_string_equal(b.bos_token, "<s>");
    assert_string_equal(b.eos_token, "</s>");
    assert_int_equal(b.tokenizer_bytes, 4);
    assert_memory_equal(b.tokenizer, "none", 4);
    assert_int_equal(b.layers[0].linears[LINEAR_K].weight.rows, 2);
    assert_int_equal(b.layers[0].linears[LINEAR_K].weight.cols, 4);
    assert_non_null(b.layers[0].linears[LINEAR_V].bias);
    assert_null(b.layers[0].linears[LINEAR_O].bias);
    assert_null(b.layers[0].norms[NORM_Q]);
    assert_int_equal(b.head.rows, 4);
    assert_ptr_not_equal(b.head.data, b.embed.data);
    for (uint32_t i = 0; i < b.image.tensor_count; i++)
        assert_int_equal(b.image.tensors[i].offset % IMAGE_TENSOR_ALIGN, 0);

    assert_int_equal(adapter_open(&a, adapter.bytes, adapter.size, &b, &backbone.digest, &err), 0);
    assert_int_equal(a.config->rank_max, 2);
    assert_true(adapter_linear(&a, 0, LINEAR_Q)->scale == 2);
    assert_int_equal(adapter_linear(&a, 0, LINEAR_DOWN)->a.cols, 3);
    assert_int_equal(adapter_linear(&a, 0, LINEAR_DOWN)->b.rows, 4);
    assert_int_equal(adapter_linear(&a, 0, LINEAR_DOWN)->b.dtype, IMAGE_F32);
    assert_null(adapter_linear(&a, 0, LINEAR_K)->a.data);
    adapter_close(&a);

    struct digest other = backbone.digest;
    other.bytes[0] ^= 1;
    assert_true(adapter_open(&a, adapter.bytes, adapter.size, &b, &other, &err) < 0);
    assert_non_null(strstr(err.text, "packed for backbone"));
    backbone_close(&b);
    /* A mapping may be longer than its image, never shorter. */
    struct copy c = copy_of(&backbone);
    assert_int_equal(backbone_open(&b, c.bytes, (backbone.size + 4095) / 4096 * 4096, &err), 0);
    assert_int_equal(b.image.bytes, backbone.size);
    backbone_close(&b);
    for (uint64_t size = 0; size < backbone.size; size += 37) {
        if (backbone_open(&b, c.bytes, size, &err) == 0)
            fail_msg("opened with %llu bytes", (unsigned long long)size);
    }
    free(c.bytes);
}

static void test_header(void **state)
{
    (void)state;
    struct copy c = copy_of(&backbone);
    uint64_t size = backbone.size;
    memset(c.header, 0, sizeof c.header->magic); /* as an unfinished image looks */
    refuse_backbone(&c, size, "magic");
    c.header->version++;
    refuse_backbone(&c, size, "version");
    c.header->kind = IMAGE_ADAPTER;
    refuse_backbone(&c, size, "kind");
    c.header->bytes = UINT64_MAX;
    refuse_backbone(&c, size, "truncated");
    c.header->bytes = 100;
    refuse_backbone(&c, size, "truncated");
    for (uint32_t i = 0; i < IMAGE_SECTION_COUNT; i++) {
        static const uint64_t values[] = {
            0, 1, 4097, UINT64_MAX, UINT64_MAX - 4095, UINT64_C(1) << 63};
        for (size_t v = 0; v < sizeof values / sizeof values[0]; v++) {
            c.header->sections[i].offset = values[v];
            refuse_backbone(&c, size, "section");
            if (values[v] > size) {
                c.header->sections[i].bytes = values[v];
                refuse_backbone(&c, size, "section");
            }
        }
    }
    c.header->sections[IMAGE_CONFIG].bytes--;
    refuse_backbone(&c, size, "configuration");
    c.header->sections[IMAGE_TENSORS].bytes--;
    refuse_backbone(&c, size, "tensor table");
    c.header->sections[IMAGE_TENSORS].bytes -= sizeof(struct image_tensor);
    refuse_backbone(&c, size, "the model needs");
    c.header->sections[IMAGE_CHAT].bytes--;
    refuse_backbone(&c, size, "chat");
    c.header->sections[IMAGE_CHAT].bytes++;
    refuse_backbone(&c, size, "chat");
    c.header->sections[IMAGE_CHAT].bytes = 0;
    refuse_backbone(&c, size, "chat");
    struct model_config *config = (void *)(c.bytes + c.header->sections[IMAGE_CONFIG].offset);
    config->head_dim = 3;
    refuse_backbone(&c, size, "head_dim");
    free(c.bytes);
}

static void test_tensors(void **state)
{
    (void)state;
    struct copy c = copy_of(&backbone);
    uint64_t size = backbone.size;
    c.tensors[0].role = TENSOR_ROLE_COUNT;
    refuse_backbone(&c, size, "impossible");
    c.tensors[0].dtype = 2;
    refuse_backbone(&c, size, "impossible");
    c.tensors[0].rows = 0;
    refuse_backbone(&c, size, "impossible");
    c.tensors[0].rows = UINT32_MAX;
    c.tensors[0].cols = UINT32_MAX;
    refuse_backbone(&c, size, "impossible");
    c.tensors[0].bytes++;
    refuse_backbone(&c, size, "impossible");
    c.tensors[1].offset = c.tensors[0].offset; /* overlap */
    refuse_backbone(&c, size, "lie in its weights");
    c.tensors[1].offset++;
    refuse_backbone(&c, size, "lie in its weights");
    c.tensors[0].offset = UINT64_MAX - 255;
    refuse_backbone(&c, size, "lie in its weights");
    c.tensors[0].offset = 0;
    refuse_backbone(&c, size, "lie in its weights");
    c.tensors[4].layer = 1;
    refuse_backbone(&c, size, "no tensor");
    c.tensors[0].layer = 1; /* the embedding is in no layer */
    refuse_backbone(&c, size, "no tensor");
    c.tensors[4].part = TENSOR_LORA_A;
    refuse_backbone(&c, size, "no tensor");
    c.tensors[4].rows = 2; /* q, [4, 4] */
    c.tensors[4].cols = 8;
    refuse_backbone(&c, size, "the model needs");
    assert_int_equal(c.tensors[5].role, TENSOR_K);
    assert_int_equal(c.tensors[6].role, TENSOR_V);
    c.tensors[6].role = TENSOR_K;
    refuse_backbone(&c, size, "twice");
    /* A norm as bf16 would be read beyond its end. */
    assert_int_equal(c.tensors[1].role, TENSOR_OUT_NORM);
    c.tensors[1].dtype = IMAGE_BF16;
    c.tensors[1].bytes /= 2;
    refuse_backbone(&c, size, "not f32");
    /* A matrix that says it is quantised is as long as its panels, or it is refused. */
    c.tensors[4].dtype = IMAGE_INT8;
    refuse_backbone(&c, size, "impossible description");
    c.tensors[4].dtype = IMAGE_INT4;
    c.tensors[4].bytes = image_panel_bytes(IMAGE_INT4, 4);
    refuse_backbone(&c, size, "does not lie in its weights");
    free(c.bytes);
}

static void test_sizes(void **state)
{
    (void)state;
    static const struct {
        enum image_dtype dtype;
        uint32_t rows, cols;
        uint64_t bytes;
    } sizes[] = {
        {IMAGE_F32, 3, 5, 60},
        {IMAGE_BF16, 3, 5, 30},
        {IMAGE_PANELS, 1, 1, 32 * 2 * 2},
        {IMAGE_PANELS, 33, 5, 2 * 32 * 6 * 2},
        {IMAGE_INT8, 1, 1, 32 * 2 + 32 * 64},
        {IMAGE_INT8, 32, 64, 32 * 2 + 32 * 64},
        {IMAGE_INT8, 33, 65, 4 * (32 * 2 + 32 * 64)},
        {IMAGE_INT4, 32, 64, 32 * 2 + 32 * 32},
        {IMAGE_INT4, 128256, 2048, 128256ull * 2048 * 17 / 32}, /* 4.25 bits a weight */
    };
    uint64_t bytes = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        assert_true(image_tensor_bytes(sizes[i].rows, sizes[i].cols, sizes[i].dtype, &bytes));
        assert_int_equal(bytes, sizes[i].bytes);
    }
    for (uint32_t dtype = 0; dtype <= IMAGE_DTYPE_COUNT; dtype++)
        assert_false(image_tensor_bytes(UINT32_MAX, UINT32_MAX, dtype, &bytes));
    assert_false(image_tensor_bytes(1, 1, IMAGE_DTYPE_COUNT, &bytes));
}

static void test_adapters(void **state)
{
    (void)state;
    struct copy c = copy_of(&adapter);
    struct adapter_config *config;
#define DAMAGE(statement, words)                                                                   \
    config = (void *)(c.bytes + c.header->sections[IMAGE_CONFIG].offset);                          \
    statement;                                                                                     \
    refuse_adapter(&c, words)
    DAMAGE(c.header->kind = IMAGE_BACKBONE, "kind");
    DAMAGE(config->backbone.bytes[31] ^= 1, "packed for backbone");
    DAMAGE(config->layer_count = 2, "layers");
    DAMAGE(config->layer_count = UINT32_MAX, "layers");
    DAMAGE(config->rank_max = 3, "summary");
    DAMAGE(config->parameter_count++, "summary");
    DAMAGE(((float *)(config + 1))[LINEAR_Q] = NAN, "scale");
    DAMAGE(((float *)(config + 1))[LINEAR_Q] = INFINITY, "scale");
    DAMAGE(((float *)(config + 1))[LINEAR_K] = 1, "scale");
    DAMAGE(c.header->sections[IMAGE_CONFIG].bytes = 8, "configuration");
    DAMAGE(c.tensors[0].layer = 1, "no adapter can");
    DAMAGE(c.tensors[0].part = TENSOR_WHOLE, "the backbone's matrix");
    DAMAGE(c.tensors[0].part = TENSOR_PART_COUNT, "impossible");
    DAMAGE(c.tensors[0].part = TENSOR_DORA, "the backbone's matrix");
    DAMAGE((c.tensors[0].role = TENSOR_EMBED, c.tensors[0].layer = 1), "no adapter can");
    DAMAGE((c.tensors[0].part = TENSOR_WHOLE, c.tensors[0].role = TENSOR_POST_MLP_NORM),
           "has no tensor");
    DAMAGE(c.tensors[0].role = TENSOR_EMBED, "do not fit");
    DAMAGE(c.tensors[0].role = TENSOR_ATTN_NORM, "no adapter can");
    DAMAGE(c.tensors[0].role = TENSOR_K, "do not fit");
    DAMAGE(c.tensors[1].part = TENSOR_LORA_A, "the backbone's matrix");
    DAMAGE((c.tensors[0].rows = 4, c.tensors[0].cols = 2), "the backbone's matrix");
    DAMAGE((c.tensors[0].rows = 1, c.tensors[0].bytes = 8), "do not fit");
    DAMAGE((c.tensors[2].role = TENSOR_Q, c.tensors[2].cols = 4, c.tensors[2].bytes = 32), "twice");
    DAMAGE((memset(config + 1, 0, (LINEAR_LAYER_COUNT + 2) * sizeof(float)),
            c.header->sections[IMAGE_TENSORS].bytes = 0),
           "changes nothing");
#undef DAMAGE
    free(c.bytes);
}

int main(void)
{
    backbone = tiny_backbone();
    adapter = tiny_adapter(&backbone.digest);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open),     cmocka_unit_test(test_header),
        cmocka_unit_test(test_tensors),  cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_adapters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
