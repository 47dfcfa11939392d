/* See backbone.h. One table of shapes serves the packer that makes an image and the worker that
 * opens it. */
#include "weights/backbone.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

bool backbone_role_in_layer(enum tensor_role role)
{
    return role != TENSOR_EMBED && role != TENSOR_OUT_NORM && role != TENSOR_HEAD;
}

static const enum tensor_role linear_roles[LINEAR_COUNT] = {
    [LINEAR_Q] = TENSOR_Q,       [LINEAR_K] = TENSOR_K,       [LINEAR_V] = TENSOR_V,
    [LINEAR_O] = TENSOR_O,       [LINEAR_GATE] = TENSOR_GATE, [LINEAR_UP] = TENSOR_UP,
    [LINEAR_DOWN] = TENSOR_DOWN, [LINEAR_HEAD] = TENSOR_HEAD,
};

static const enum tensor_role bias_roles[LINEAR_COUNT] = {
    [LINEAR_Q] = TENSOR_Q_BIAS,       [LINEAR_K] = TENSOR_K_BIAS,
    [LINEAR_V] = TENSOR_V_BIAS,       [LINEAR_O] = TENSOR_O_BIAS,
    [LINEAR_GATE] = TENSOR_GATE_BIAS, [LINEAR_UP] = TENSOR_UP_BIAS,
    [LINEAR_DOWN] = TENSOR_DOWN_BIAS, [LINEAR_HEAD] = TENSOR_ROLE_COUNT,
};

static const enum tensor_role norm_roles[NORM_LAYER_COUNT] = {
    [NORM_ATTN] = TENSOR_ATTN_NORM, [NORM_POST_ATTN] = TENSOR_POST_ATTN_NORM,
    [NORM_MLP] = TENSOR_MLP_NORM,   [NORM_POST_MLP] = TENSOR_POST_MLP_NORM,
    [NORM_Q] = TENSOR_Q_NORM,       [NORM_K] = TENSOR_K_NORM,
};

enum tensor_role backbone_linear_role(enum linear_index l)
{
    assert(l < LINEAR_COUNT);
    return linear_roles[l];
}

enum tensor_role backbone_bias_role(enum linear_index l)
{
    assert(l < LINEAR_COUNT);
    return bias_roles[l];
}

enum linear_index backbone_role_linear(enum tensor_role role)
{
    for (uint32_t i = 0; i < LINEAR_COUNT; i++)
        if (linear_roles[i] == role)
            return i;
    return LINEAR_COUNT;
}

bool backbone_role_is_matrix(enum tensor_role role)
{
    return role == TENSOR_EMBED || backbone_role_linear(role) != LINEAR_COUNT;
}

struct shape {
    bool present;
    uint32_t rows;
    uint32_t cols;
};

static struct shape role_shape(const struct model_config *c, enum tensor_role role)
{
    uint32_t q = c->head_count * c->head_dim;
    uint32_t kv = c->kv_head_count * c->head_dim;
    switch (role) {
    case TENSOR_EMBED:
        return (struct shape){true, c->vocab_count, c->hidden};
    case TENSOR_HEAD:
        return (struct shape){!c->tied_embeddings, c->vocab_count, c->hidden};
    case TENSOR_OUT_NORM:
    case TENSOR_ATTN_NORM:
    case TENSOR_MLP_NORM:
        return (struct shape){true, 1, c->hidden};
    case TENSOR_POST_ATTN_NORM:
    case TENSOR_POST_MLP_NORM:
        return (struct shape){c->post_norms, 1, c->hidden};
    case TENSOR_Q:
        return (struct shape){true, q, c->hidden};
    case TENSOR_K:
    case TENSOR_V:
        return (struct shape){true, kv, c->hidden};
    case TENSOR_O:
        return (struct shape){true, c->hidden, q};
    case TENSOR_Q_BIAS:
        return (struct shape){c->qkv_bias, 1, q};
    case TENSOR_K_BIAS:
    case TENSOR_V_BIAS:
        return (struct shape){c->qkv_bias, 1, kv};
    case TENSOR_O_BIAS:
        return (struct shape){c->o_bias, 1, c->hidden};
    case TENSOR_Q_NORM:
    case TENSOR_K_NORM:
        return (struct shape){c->qk_norm, 1, c->head_dim};
    case TENSOR_GATE:
    case TENSOR_UP:
        return (struct shape){true, c->ffn, c->hidden};
    case TENSOR_DOWN:
        return (struct shape){true, c->hidden, c->ffn};
    case TENSOR_GATE_BIAS:
    case TENSOR_UP_BIAS:
        return (struct shape){c->mlp_bias, 1, c->ffn};
    case TENSOR_DOWN_BIAS:
        return (struct shape){c->mlp_bias, 1, c->hidden};
    case TENSOR_ROLE_COUNT:
        break;
    }
    return (struct shape){0};
}

bool backbone_shape(const struct model_config *c, enum tensor_role role, uint32_t *ret_rows,
                    uint32_t *ret_cols)
{
    struct shape s = role_shape(c, role);
    if (s.present) {
        *ret_rows = s.rows;
        *ret_cols = s.cols;
    }
    return s.present;
}

struct weight *backbone_matrix(struct backbone *b, enum tensor_role role, uint32_t layer)
{
    enum linear_index l = backbone_role_linear(role);
    if (role == TENSOR_EMBED)
        return &b->embed;
    if (l == LINEAR_HEAD)
        return &b->head;
    return l < LINEAR_LAYER_COUNT ? &b->layers[layer].linears[l].weight : NULL;
}

const float **backbone_vector(struct backbone *b, enum tensor_role role, uint32_t layer)
{
    if (role == TENSOR_OUT_NORM)
        return &b->out_norm;
    for (uint32_t i = 0; i < NORM_LAYER_COUNT; i++)
        if (norm_roles[i] == role)
            return &b->layers[layer].norms[i];
    for (uint32_t i = 0; i < LINEAR_LAYER_COUNT; i++)
        if (bias_roles[i] == role)
            return &b->layers[layer].linears[i].bias;
    return NULL;
}

static int place(struct backbone *b, const struct image_tensor *t, struct error *err)
{
    const char *name = image_role_name(t->role);
    uint32_t rows = 0;
    uint32_t cols = 0;
    uint32_t layer_count = backbone_role_in_layer(t->role) ? b->config->layer_count : 1;
    if (t->part != TENSOR_WHOLE || t->layer >= layer_count ||
        !backbone_shape(b->config, t->role, &rows, &cols))
        return error_set(err, -EBADMSG, "the model has no tensor %s in layer %u", name, t->layer);
    if (t->rows != rows || t->cols != cols)
        return error_set(err, -EBADMSG, "%s of layer %u is [%u, %u], the model needs [%u, %u]",
                         name, t->layer, t->rows, t->cols, rows, cols);
    if (image_is_codes(t->dtype))
        return error_set(err, -EBADMSG, "%s of layer %u is kept as adapters are", name, t->layer);
    const void *data = b->image.base + t->offset;
    const void *before = NULL;
    if (backbone_role_is_matrix(t->role)) {
        struct weight *slot = backbone_matrix(b, t->role, t->layer);
        before = slot->data;
        *slot = (struct weight){data, t->dtype, rows, cols};
    } else {
        const float **slot = backbone_vector(b, t->role, t->layer);
        before = *slot;
        *slot = data;
        if (t->dtype != IMAGE_F32)
            return error_set(err, -EBADMSG, "%s of layer %u is not f32", name, t->layer);
    }
    if (before != NULL)
        return error_set(err, -EBADMSG, "%s of layer %u is there twice", name, t->layer);
    if (t->role != TENSOR_EMBED || b->config->tied_embeddings)
        b->weight_bytes += t->bytes;
    return 0;
}

/* No tensor is there twice and none is foreign, so the count says whether one is missing. */
static uint32_t tensor_count_wanted(const struct model_config *c)
{
    uint32_t count = 0;
    for (uint32_t role = 0; role < TENSOR_ROLE_COUNT; role++) {
        uint32_t rows = 0;
        uint32_t cols = 0;
        if (backbone_shape(c, role, &rows, &cols))
            count += backbone_role_in_layer(role) ? c->layer_count : 1;
    }
    return count;
}

static int open_chat(struct backbone *b, struct error *err)
{
    uint64_t bytes = 0;
    const char *text = image_section(&b->image, IMAGE_CHAT, &bytes);
    const char **strings[] = {&b->chat_template, &b->bos_token, &b->eos_token};
    for (size_t i = 0; i < sizeof strings / sizeof strings[0]; i++) {
        const char *end = bytes > 0 ? memchr(text, '\0', bytes) : NULL;
        if (end == NULL)
            return error_set(err, -EBADMSG, "the image's chat section is damaged");
        *strings[i] = text;
        bytes -= (uint64_t)(end + 1 - text);
        text = end + 1;
    }
    if (bytes != 0)
        return error_set(err, -EBADMSG, "the image's chat section is too long");
    return 0;
}

static int open_tensors(struct backbone *b, struct error *err)
{
    b->layers = calloc(b->config->layer_count, sizeof *b->layers);
    if (b->layers == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    for (uint32_t i = 0; i < b->image.tensor_count; i++) {
        int r = place(b, &b->image.tensors[i], err);
        if (r < 0)
            return r;
    }
    if (b->image.tensor_count != tensor_count_wanted(b->config))
        return error_set(err, -EBADMSG, "the image has %u tensors, the model needs %u",
                         b->image.tensor_count, tensor_count_wanted(b->config));
    if (b->config->tied_embeddings)
        b->head = b->embed;
    return 0;
}

int backbone_open(struct backbone *ret, const void *base, uint64_t bytes, struct error *err)
{
    struct backbone b = {0};
    int r = image_open(&b.image, base, bytes, IMAGE_BACKBONE, err);
    if (r < 0)
        return r;
    uint64_t config_bytes = 0;
    b.config = image_section(&b.image, IMAGE_CONFIG, &config_bytes);
    if (config_bytes != sizeof *b.config)
        return error_set(err, -EBADMSG, "the image's configuration has %llu bytes",
                         (unsigned long long)config_bytes);
    r = model_config_check(b.config, err);
    if (r == 0)
        r = open_chat(&b, err);
    if (r == 0)
        r = open_tensors(&b, err);
    if (r < 0) {
        backbone_close(&b);
        return r;
    }
    b.tokenizer = image_section(&b.image, IMAGE_TOKENIZER, &b.tokenizer_bytes);
    *ret = b;
    return 0;
}

void backbone_close(struct backbone *b)
{
    free(b->layers);
    *b = (struct backbone){0};
}
