/*
 * Images of a model's shape with random weights, made in memory: what the figures and the checks of
 * a GPU are taken on, where there is no checkpoint. The weights are in the form of the packer's,
 * and of a size that keeps numbers as in a trained model; each seed gives the same ones everywhere.
 */
#pragma once

#include "weights/adapter.h"

struct synthetic_backbone {
    void *base; /* owned mapping: the image */
    uint64_t bytes;
    struct digest digest; /* of nothing: the seed, where adapters ask for a name */
    struct backbone backbone;
};

/* Matrices in `dtype`: IMAGE_PANELS, IMAGE_INT8 or IMAGE_INT4. */
int synthetic_backbone_open(struct synthetic_backbone *ret, const struct model_config *c,
                            enum image_dtype dtype, uint64_t seed, struct error *err);
void synthetic_backbone_close(struct synthetic_backbone *b);

struct synthetic_adapter {
    void *base;
    uint64_t bytes;
    struct digest digest;
    struct adapter adapter;
};

struct synthetic_lora {
    uint32_t rank;      /* of every linear of the layers */
    bool is_int8;       /* in codes, else bf16 */
    bool has_dora;      /* magnitudes on every linear */
    bool has_own_norms; /* norms of its own in every layer, as modules_to_save brings them */
    float scale;
    uint64_t seed;
};

int synthetic_adapter_open(struct synthetic_adapter *ret, const struct synthetic_backbone *b,
                           const struct synthetic_lora *l, struct error *err);
void synthetic_adapter_close(struct synthetic_adapter *a);
