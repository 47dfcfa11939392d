/*
 * A backbone image as the engine sees it: typed pointers into read-only memory, each checked
 * against the configuration's shapes. Owns nothing but its table of layers.
 */
#pragma once

#include "model/config.h"
#include "weights/image.h"

#include <stdbool.h>

/* One matrix of weights, [rows, cols], row-major or in panels. data == NULL: there is none. */
struct weight {
    const void *data;
    uint32_t dtype; /* enum image_dtype */
    uint32_t rows;  /* outputs */
    uint32_t cols;  /* inputs */
};

/* The matrices of a layer in the order of the forward pass, and the head after them. */
enum linear_index {
    LINEAR_Q,
    LINEAR_K,
    LINEAR_V,
    LINEAR_O,
    LINEAR_GATE,
    LINEAR_UP,
    LINEAR_DOWN,
    LINEAR_LAYER_COUNT,
    LINEAR_HEAD = LINEAR_LAYER_COUNT,
    LINEAR_COUNT,
};

enum norm_index {
    NORM_ATTN,      /* [hidden], like the next three */
    NORM_POST_ATTN, /* of what attention adds to the residual */
    NORM_MLP,
    NORM_POST_MLP,
    NORM_Q, /* [head_dim] */
    NORM_K, /* [head_dim] */
    NORM_LAYER_COUNT,
};

struct linear_weights {
    struct weight weight;
    const float *bias; /* [weight.rows] or NULL */
};

struct backbone_layer {
    struct linear_weights linears[LINEAR_LAYER_COUNT];
    const float *norms[NORM_LAYER_COUNT]; /* NULL where the model has none */
};

struct backbone {
    struct image image;
    const struct model_config *config;
    struct weight embed;           /* [vocab, hidden] */
    struct weight head;            /* [vocab, hidden]; the embedding when tied */
    const float *out_norm;         /* [hidden] */
    struct backbone_layer *layers; /* [layer_count], owned */
    uint64_t weight_bytes;         /* read by one decode step: everything but the embedding rows */
    const void *tokenizer;         /* compiled, see model/tokenizer.h; checked by its own opener */
    uint64_t tokenizer_bytes;
    const char *chat_template; /* Jinja, "" when the model has none */
    const char *bos_token;     /* as templates print it, "" when there is none */
    const char *eos_token;     /* likewise */
};

/* `base` stays mapped and unchanged as long as the backbone is in use. Every tensor that the
 * configuration calls for must be there with its shape, and no other. */
int backbone_open(struct backbone *ret, const void *base, uint64_t bytes, struct error *err);
void backbone_close(struct backbone *b);

/* Where a role's tensor stands: NULL for roles of another type. `layer` is ignored for those that
 * are not part of one. */
struct weight *backbone_matrix(struct backbone *b, enum tensor_role role, uint32_t layer);
const float **backbone_vector(struct backbone *b, enum tensor_role role, uint32_t layer);

/* The role of a linear's weight and of its bias; the head has no bias: TENSOR_ROLE_COUNT. */
enum tensor_role backbone_linear_role(enum linear_index l);
enum tensor_role backbone_bias_role(enum linear_index l);
/* The linear whose weight this role is, LINEAR_COUNT for others. */
enum linear_index backbone_role_linear(enum tensor_role role);

/* The shape of a role in a model: true when the model has such a tensor. Vectors have rows = 1.
 * This is the one place that knows which tensors a configuration calls for. */
bool backbone_shape(const struct model_config *c, enum tensor_role role, uint32_t *ret_rows,
                    uint32_t *ret_cols);
bool backbone_role_in_layer(enum tensor_role role);  /* one per layer, not one per model */
bool backbone_role_is_matrix(enum tensor_role role); /* of the packer's dtype; vectors are f32 */
