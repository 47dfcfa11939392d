/*
 * A backbone image as the engine sees it: typed pointers into read-only memory, each checked
 * against the configuration's shapes. Owns nothing but its table of layers.
 */
#pragma once

#include "model/config.h"
#include "weights/image.h"

#include <stdbool.h>

/* One matrix of weights, [rows, cols] row-major. data == NULL: the model has none. */
struct weight {
    const void *data;
    uint32_t dtype; /* enum image_dtype */
    uint32_t rows;  /* outputs */
    uint32_t cols;  /* inputs */
};

struct backbone_layer {
    const float *attn_norm; /* [hidden] */
    const float *mlp_norm;  /* [hidden] */
    const float *q_norm;    /* [head_dim] or NULL */
    const float *k_norm;    /* [head_dim] or NULL */
    struct weight q, k, v, o, gate, up, down;
    const float *q_bias, *k_bias, *v_bias, *o_bias; /* [rows of the matrix] or NULL */
    const float *gate_bias, *up_bias, *down_bias;   /* likewise */
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

/* The shape of a role in a model: true when the model has such a tensor. Vectors have rows = 1.
 * This is the one place that knows which tensors a configuration calls for. */
bool backbone_shape(const struct model_config *c, enum tensor_role role, uint32_t *ret_rows,
                    uint32_t *ret_cols);
bool backbone_role_in_layer(enum tensor_role role);  /* one per layer, not one per model */
bool backbone_role_is_matrix(enum tensor_role role); /* of the packer's dtype; vectors are f32 */
