/* See adapter.h. */
#include "weights/adapter.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

uint32_t adapter_scale_count(uint32_t layer_count)
{
    return layer_count * LINEAR_LAYER_COUNT + 2;
}

uint32_t adapter_linear_index(uint32_t layer_count, uint32_t layer, enum linear_index l)
{
    assert(l < LINEAR_COUNT);
    return l == LINEAR_HEAD ? layer_count * LINEAR_LAYER_COUNT : layer * LINEAR_LAYER_COUNT + l;
}

uint32_t adapter_embed_index(uint32_t layer_count)
{
    return layer_count * LINEAR_LAYER_COUNT + 1;
}

const struct lora *adapter_linear(const struct adapter *a, uint32_t layer, enum linear_index l)
{
    assert(layer < a->config->layer_count);
    return &a->loras[adapter_linear_index(a->config->layer_count, layer, l)];
}

const struct lora *adapter_embed(const struct adapter *a)
{
    return &a->loras[adapter_embed_index(a->config->layer_count)];
}

bool adapter_lora_shape(const struct model_config *c, enum tensor_role role, uint32_t *ret_outputs,
                        uint32_t *ret_inputs)
{
    if (role == TENSOR_EMBED || role == TENSOR_HEAD) {
        *ret_outputs = role == TENSOR_EMBED ? c->hidden : c->vocab_count;
        *ret_inputs = role == TENSOR_EMBED ? c->vocab_count : c->hidden;
        return true;
    }
    return backbone_role_linear(role) != LINEAR_COUNT &&
           backbone_shape(c, role, ret_outputs, ret_inputs);
}

static struct lora *find_lora(struct adapter *a, const struct image_tensor *t)
{
    uint32_t layer_count = a->config->layer_count;
    enum linear_index l = backbone_role_linear(t->role);
    if (t->layer >= (l < LINEAR_LAYER_COUNT ? layer_count : 1))
        return NULL;
    if (t->role == TENSOR_EMBED)
        return &a->loras[adapter_embed_index(layer_count)];
    return l < LINEAR_COUNT ? &a->loras[adapter_linear_index(layer_count, t->layer, l)] : NULL;
}

static int is_twice(const struct image_tensor *t, struct error *err)
{
    return error_set(err, -EBADMSG, "part %u of %s of layer %u is there twice", t->part,
                     image_role_name(t->role), t->layer);
}

static int wrong_shape(const struct image_tensor *t, uint32_t rows, uint32_t cols,
                       struct error *err)
{
    return error_set(err, -EBADMSG,
                     "part %u of %s of layer %u is [%u, %u], the backbone's matrix is [%u, %u]",
                     t->part, image_role_name(t->role), t->layer, t->rows, t->cols, rows, cols);
}

/* A tensor that takes the place of the backbone's. */
static int place_whole(struct adapter *a, const struct backbone *b, const struct image_tensor *t,
                       struct error *err)
{
    const struct model_config *c = b->config;
    uint32_t layer_count = backbone_role_in_layer(t->role) ? c->layer_count : 1;
    uint32_t rows =
        c->vocab_count; /* a tied head is no tensor of the backbone, but may be one here */
    uint32_t cols = c->hidden;
    if (t->layer >= layer_count ||
        (t->role != TENSOR_HEAD && !backbone_shape(c, t->role, &rows, &cols)))
        return error_set(err, -EBADMSG, "the model has no tensor %s in layer %u",
                         image_role_name(t->role), t->layer);
    if (t->rows != rows || t->cols != cols)
        return wrong_shape(t, rows, cols, err);
    const void *data = a->image.base + t->offset;
    struct weight *matrix = backbone_matrix(&a->view, t->role, t->layer);
    if (matrix != NULL) {
        struct backbone original = *b;
        if (matrix->data != backbone_matrix(&original, t->role, t->layer)->data)
            return is_twice(t, err);
        *matrix = (struct weight){data, t->dtype, rows, cols};
        return 0;
    }
    const float **vector = backbone_vector(&a->view, t->role, t->layer);
    struct backbone original = *b;
    if (t->dtype != IMAGE_F32)
        return error_set(err, -EBADMSG, "%s of layer %u is not f32", image_role_name(t->role),
                         t->layer);
    if (*vector != *backbone_vector(&original, t->role, t->layer))
        return is_twice(t, err);
    *vector = data;
    return 0;
}

static int place_lora(struct adapter *a, const struct model_config *c, const struct image_tensor *t,
                      struct error *err)
{
    struct lora *l = find_lora(a, t);
    uint32_t outputs = 0;
    uint32_t inputs = 0;
    if (l == NULL || !adapter_lora_shape(c, t->role, &outputs, &inputs))
        return error_set(err, -EBADMSG, "no adapter can change %s of layer %u",
                         image_role_name(t->role), t->layer);
    const void *data = a->image.base + t->offset;
    if (t->part == TENSOR_DORA) {
        if (t->rows != 1 || t->cols != outputs || t->dtype != IMAGE_F32)
            return wrong_shape(t, 1, outputs, err);
        if (l->dora != NULL)
            return is_twice(t, err);
        l->dora = data;
        return 0;
    }
    if (t->part == TENSOR_LORA_SCALES) {
        if (t->rows != 1 || t->dtype != IMAGE_F32)
            return wrong_shape(t, 1, t->cols, err);
        if (l->rank_scales != NULL)
            return is_twice(t, err);
        l->rank_scales = data;
        l->rank_scale_count = t->cols;
        return 0;
    }
    bool is_a = t->part == TENSOR_LORA_A;
    if (image_is_codes(t->dtype) &&
        (t->role == TENSOR_EMBED || t->dtype != (is_a ? IMAGE_CODES : IMAGE_CODE_PANELS)))
        return error_set(err, -EBADMSG, "part %u of %s of layer %u cannot be codes like these",
                         t->part, image_role_name(t->role), t->layer);
    uint32_t rank = is_a ? t->rows : t->cols;
    if ((is_a ? t->cols : t->rows) != (is_a ? inputs : outputs) || rank > ADAPTER_RANK_MAX)
        return wrong_shape(t, outputs, inputs, err);
    struct weight *slot = is_a ? &l->a : &l->b;
    if (slot->data != NULL)
        return is_twice(t, err);
    *slot = (struct weight){data, t->dtype, t->rows, t->cols};
    return 0;
}

static int place(struct adapter *a, const struct backbone *b, const struct image_tensor *t,
                 struct error *err)
{
    if (image_group_bytes(t->dtype) > 0)
        return error_set(err, -EBADMSG,
                         "%s of layer %u is quantised, an adapter's matrices are not",
                         image_role_name(t->role), t->layer);
    if (image_is_codes(t->dtype) && t->part == TENSOR_WHOLE)
        return error_set(err, -EBADMSG, "%s of layer %u is codes, which only lora_A and lora_B are",
                         image_role_name(t->role), t->layer);
    a->weight_bytes += t->bytes;
    a->is_pure_lora &= t->part != TENSOR_WHOLE && t->part != TENSOR_DORA;
    return t->part == TENSOR_WHOLE ? place_whole(a, b, t, err) : place_lora(a, b->config, t, err);
}

static void share_a(struct lora *l, const struct lora *from)
{
    l->a = from->a;
    l->rank_scales = from->rank_scales;
    l->rank_scale_count = from->rank_scale_count;
}

/* k and v read q's A, up reads gate's: they are one matrix in the checkpoint. */
static void share_fused(struct adapter *a)
{
    for (uint32_t i = 0; i < a->config->layer_count; i++) {
        struct lora *l = &a->loras[i * LINEAR_LAYER_COUNT];
        share_a(&l[LINEAR_K], &l[LINEAR_Q]);
        share_a(&l[LINEAR_V], &l[LINEAR_Q]);
        share_a(&l[LINEAR_UP], &l[LINEAR_GATE]);
    }
}

/* Both are codes or none is, and only codes have scales: a finite one for each rank. */
static bool are_scaled(const struct lora *l)
{
    bool codes = image_is_codes(l->a.dtype);
    if (l->a.data == NULL)
        return l->rank_scales == NULL;
    if (codes != image_is_codes(l->b.dtype) || codes != (l->rank_scales != NULL) ||
        (codes && l->rank_scale_count != l->a.rows))
        return false;
    for (uint32_t i = 0; i < l->rank_scale_count; i++)
        if (!isfinite(l->rank_scales[i]))
            return false;
    return true;
}

/* A and B in pairs, one rank each, a finite scale exactly where there is a pair. */
static int check_loras(struct adapter *a, const float *scales, struct error *err)
{
    uint32_t rank_max = 0;
    for (uint32_t i = 0; i < adapter_scale_count(a->config->layer_count); i++) {
        struct lora *l = &a->loras[i];
        if ((l->a.data == NULL) != (l->b.data == NULL) || l->a.rows != l->b.cols ||
            (l->a.data == NULL && l->dora != NULL))
            return error_set(err, -EBADMSG, "lora_A and lora_B of matrix %u do not fit", i);
        if (!are_scaled(l))
            return error_set(err, -EBADMSG, "lora_A, lora_B and the scales of matrix %u do not fit",
                             i);
        if (!isfinite(scales[i]) || (l->a.data == NULL && scales[i] != 0))
            return error_set(err, -EBADMSG, "the scale of matrix %u is %g", i, (double)scales[i]);
        l->scale = scales[i];
        rank_max = l->a.rows > rank_max ? l->a.rows : rank_max;
    }
    if (a->image.tensor_count == 0)
        return error_set(err, -EBADMSG, "the adapter changes nothing");
    uint64_t parameter_count = 0;
    for (uint32_t i = 0; i < a->image.tensor_count; i++)
        if (a->image.tensors[i].part != TENSOR_LORA_SCALES)
            parameter_count += (uint64_t)a->image.tensors[i].rows * a->image.tensors[i].cols;
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
        bytes != sizeof *a->config + adapter_scale_count(a->config->layer_count) * sizeof(float))
        return error_set(err, -EBADMSG, "the adapter has %u layers, the backbone %u",
                         a->config->layer_count, b->config->layer_count);
    return 0;
}

static int open_tables(struct adapter *a, const struct backbone *b, struct error *err)
{
    size_t layers = b->config->layer_count;
    a->loras = calloc(adapter_scale_count(b->config->layer_count), sizeof *a->loras);
    a->view = *b;
    a->view.layers = calloc(layers, sizeof *a->view.layers);
    if (a->loras == NULL || a->view.layers == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    memcpy(a->view.layers, b->layers, layers * sizeof *b->layers);
    return 0;
}

int adapter_open(struct adapter *ret, const void *base, uint64_t bytes, const struct backbone *b,
                 const struct digest *backbone_digest, struct error *err)
{
    struct adapter a = {.is_pure_lora = true};
    int r = image_open(&a.image, base, bytes, IMAGE_ADAPTER, err);
    if (r == 0)
        r = open_config(&a, b, backbone_digest, err);
    if (r == 0)
        r = open_tables(&a, b, err);
    for (uint32_t i = 0; r == 0 && i < a.image.tensor_count; i++)
        r = place(&a, b, &a.image.tensors[i], err);
    if (r == 0 && b->config->fused_projections)
        share_fused(&a);
    if (r == 0)
        r = check_loras(&a, (const float *)(a.config + 1), err);
    if (r < 0) {
        adapter_close(&a);
        return r;
    }
    *ret = a;
    return 0;
}

void adapter_close(struct adapter *a)
{
    free(a->loras);
    free(a->view.layers);
    *a = (struct adapter){0};
}
