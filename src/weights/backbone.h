/*
 * A backbone image as the engine sees it: typed pointers into read-only memory, each checked
 * against the configuration's shapes. Owns nothing but its table of layers.
 */
#pragma once

#include "model/config.h"
#include "weights/image.h"

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
    struct weight embed; /* [vocab, hidden] */
    struct weight head;  /* [vocab, hidden]; the embedding when tied */
    const float *out_norm;
    struct backbone_layer *layers; /* [layer_count], owned */
    uint64_t weight_bytes;         /* read by one decode step: everything but the embedding rows */
};

/* `base` stays mapped and unchanged as long as the backbone is in use. Every tensor that the
 * configuration calls for must be there with its shape, and no other. */
int backbone_open(struct backbone *ret, const void *base, uint64_t bytes, struct error *err);
void backbone_close(struct backbone *b);
