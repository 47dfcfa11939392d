/*
 * A LoRA adapter image as the engine sees it: for each adapted matrix of each layer A [rank, in],
 * B [out, rank] and PEFT's scale (lora_alpha / r, or / sqrt(r) with rsLoRA): y += B (scale (A x)).
 * The weights stay as they were trained; only the rank-wide vector between them is scaled.
 */
#pragma once

#include "weights/backbone.h"

#define ADAPTER_RANK_MAX 4096u

/* The matrices an adapter can change, in the order of the forward pass. */
enum adapter_module {
    ADAPTER_Q,
    ADAPTER_K,
    ADAPTER_V,
    ADAPTER_O,
    ADAPTER_GATE,
    ADAPTER_UP,
    ADAPTER_DOWN,
    ADAPTER_MODULE_COUNT,
};

/* Stored in the image's IMAGE_CONFIG section, followed by
 * float scales[layer_count * ADAPTER_MODULE_COUNT] (0 where a module is not adapted). */
struct adapter_config {
    struct digest backbone; /* of the only backbone image it fits */
    uint32_t layer_count;   /* of that backbone */
    uint32_t rank_max;      /* over all modules */
    uint64_t parameter_count;
};

_Static_assert(sizeof(struct adapter_config) == 48, "stored in images: the layout is fixed");

struct lora {
    struct weight a; /* [rank, in]; a.data == NULL: this module is not adapted */
    struct weight b; /* [out, rank] */
    float scale;
};

struct adapter {
    struct image image;
    const struct adapter_config *config;
    struct lora *modules; /* [layer_count * ADAPTER_MODULE_COUNT], owned */
    uint64_t weight_bytes;
};

/* Shapes are checked against the backbone; a foreign adapter (other digest) is refused. */
int adapter_open(struct adapter *ret, const void *base, uint64_t bytes, const struct backbone *b,
                 const struct digest *backbone_digest, struct error *err);
void adapter_close(struct adapter *a);

/* The backbone's matrix that a module changes. */
enum tensor_role adapter_module_role(enum adapter_module m);
const struct lora *adapter_module(const struct adapter *a, uint32_t layer, enum adapter_module m);
