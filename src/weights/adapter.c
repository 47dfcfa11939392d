/* See adapter.h. */
#include "weights/adapter.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>

static const enum tensor_role module_roles[ADAPTER_MODULE_COUNT] = {
    [ADAPTER_Q] = TENSOR_Q,       [ADAPTER_K] = TENSOR_K,       [ADAPTER_V] = TENSOR_V,
    [ADAPTER_O] = TENSOR_O,       [ADAPTER_GATE] = TENSOR_GATE, [ADAPTER_UP] = TENSOR_UP,
    [ADAPTER_DOWN] = TENSOR_DOWN,
};

enum tensor_role adapter_module_role(enum adapter_module m)
{
    assert(m < ADAPTER_MODULE_COUNT);
    return module_roles[m];
}

const struct lora *adapter_module(const struct adapter *a, uint32_t layer, enum adapter_module m)
{
    assert(layer < a->config->layer_count);
    assert(m < ADAPTER_MODULE_COUNT);
    return &a->modules[layer * ADAPTER_MODULE_COUNT + m];
}

static struct lora *find_module(struct adapter *a, const struct image_tensor *t)
{
    if (t->layer >= a->config->layer_count)
        return NULL;
    for (uint32_t m = 0; m < ADAPTER_MODULE_COUNT; m++)
        if (module_roles[m] == t->role)
            return &a->modules[t->layer * ADAPTER_MODULE_COUNT + m];
    return NULL;
}

static int place(struct adapter *a, const struct model_config *c, const struct image_tensor *t,
                 struct error *err)
{
    const char *name = image_role_name(t->role);
    struct lora *l = find_module(a, t);
    if (l == NULL || t->part == TENSOR_WHOLE)
        return error_set(err, -EBADMSG, "no adapter can change %s of layer %u", name, t->layer);
    uint32_t outputs = 0;
    uint32_t inputs = 0;
    bool present = backbone_shape(c, t->role, &outputs, &inputs);
    assert(present); /* every model has all of the modules' matrices */
    bool is_a = t->part == TENSOR_LORA_A;
    uint32_t rank = is_a ? t->rows : t->cols;
    if ((is_a ? t->cols : t->rows) != (is_a ? inputs : outputs) || rank > ADAPTER_RANK_MAX)
        return error_set(err, -EBADMSG,
                         "lora_%c for %s of layer %u is [%u, %u], the backbone's matrix is "
                         "[%u, %u]",
                         is_a ? 'A' : 'B', name, t->layer, t->rows, t->cols, outputs, inputs);
    struct weight *slot = is_a ? &l->a : &l->b;
    if (slot->data != NULL)
        return error_set(err, -EBADMSG, "lora_%c for %s of layer %u is there twice",
                         is_a ? 'A' : 'B', name, t->layer);
    *slot = (struct weight){a->image.base + t->offset, t->dtype, t->rows, t->cols};
    a->weight_bytes += t->bytes;
    return 0;
}

/* A and B in pairs, one rank each, a finite scale exactly where there is a pair. */
static int check_modules(struct adapter *a, const float *scales, struct error *err)
{
    uint32_t rank_max = 0;
    uint64_t parameter_count = 0;
    for (uint32_t i = 0; i < a->config->layer_count * ADAPTER_MODULE_COUNT; i++) {
        struct lora *l = &a->modules[i];
        const char *name = image_role_name(module_roles[i % ADAPTER_MODULE_COUNT]);
        if ((l->a.data == NULL) != (l->b.data == NULL) || l->a.rows != l->b.cols)
            return error_set(err, -EBADMSG, "lora_A and lora_B for %s of layer %u do not fit", name,
                             i / ADAPTER_MODULE_COUNT);
        if (!isfinite(scales[i]) || (l->a.data == NULL && scales[i] != 0))
            return error_set(err, -EBADMSG, "the scale for %s of layer %u is %g", name,
                             i / ADAPTER_MODULE_COUNT, (double)scales[i]);
        l->scale = scales[i];
        rank_max = l->a.rows > rank_max ? l->a.rows : rank_max;
        parameter_count += (uint64_t)l->a.rows * l->a.cols + (uint64_t)l->b.rows * l->b.cols;
    }
    if (rank_max == 0)
        return error_set(err, -EBADMSG, "the adapter changes nothing");
    if (rank_max != a->config->rank_max || parameter_count != a->config->parameter_count)
        return error_set(err, -EBADMSG, "the adapter's summary does not fit its tensors");
    return 0;
}

static int open_config(struct adapter *a, const struct backbone *b,
                       const struct digest *backbone_digest, struct error *err)
{
    uint64_t bytes = 0;
    a->config = image_section(&a->image, IMAGE_CONFIG, &bytes);
    if (bytes < sizeof *a->config)
        return error_set(err, -EBADMSG, "the adapter's configuration has %llu bytes",
                         (unsigned long long)bytes);
    if (!digest_equal(&a->config->backbone, backbone_digest)) {
        char wants[DIGEST_HEX_BYTES];
        char is[DIGEST_HEX_BYTES];
        digest_hex(&a->config->backbone, wants);
        digest_hex(backbone_digest, is);
        return error_set(err, -EINVAL,
                         "the adapter was packed for backbone %.12s, this is backbone %.12s: "
                         "deploy it again for this one",
                         wants, is);
    }
    if (a->config->layer_count != b->config->layer_count ||
        bytes != sizeof *a->config + (uint64_t)a->config->layer_count * ADAPTER_MODULE_COUNT * 4)
        return error_set(err, -EBADMSG, "the adapter has %u layers, the backbone %u",
                         a->config->layer_count, b->config->layer_count);
    return 0;
}

int adapter_open(struct adapter *ret, const void *base, uint64_t bytes, const struct backbone *b,
                 const struct digest *backbone_digest, struct error *err)
{
    struct adapter a = {0};
    int r = image_open(&a.image, base, bytes, IMAGE_ADAPTER, err);
    if (r == 0)
        r = open_config(&a, b, backbone_digest, err);
    if (r < 0)
        return r;
    a.modules = calloc((size_t)a.config->layer_count * ADAPTER_MODULE_COUNT, sizeof *a.modules);
    if (a.modules == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    for (uint32_t i = 0; r == 0 && i < a.image.tensor_count; i++)
        r = place(&a, b->config, &a.image.tensors[i], err);
    if (r == 0)
        r = check_modules(&a, (const float *)(a.config + 1), err);
    if (r < 0) {
        adapter_close(&a);
        return r;
    }
    *ret = a;
    return 0;
}

void adapter_close(struct adapter *a)
{
    free(a->modules);
    *a = (struct adapter){0};
}
