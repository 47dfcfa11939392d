/*
 * An adapter image as the engine sees it. LoRA: for each adapted matrix A [rank, in], B [out, rank]
 * and PEFT's scale (lora_alpha / r, or / sqrt(r) with rsLoRA): y += B (scale (A x)). The weights
 * stay as they were trained; only the rank-wide vector between them is scaled. DoRA (Liu et al.
 * 2024) multiplies the outputs, without the bias, by magnitude / norm of the adapted row: the norms
 * need the backbone, so the packer computes them.
 *
 * In int8 a row of A and a column of B are codes, each with a scale of its own: the largest size in
 * it / 127. Both scales of a rank go to the number between them, so that products are made of codes
 * alone. What is looked up (the embedding's LoRA) and what is carried whole stay bf16.
 *
 * What an adapter carries whole (modules_to_save, trained biases) takes the place of the
 * backbone's: `view` is the backbone with those tensors exchanged.
 */
#pragma once

#include "weights/backbone.h"

#define ADAPTER_RANK_MAX 4096u

/* Stored in the image's IMAGE_CONFIG section, followed by float scales[adapter_scale_count()]: of
 * the layers' linears, of the head, of the embedding; 0 where there is no LoRA. */
struct adapter_config {
    struct digest backbone; /* of the only backbone image it fits */
    uint32_t layer_count;   /* of that backbone */
    uint32_t rank_max;      /* over all modules; 0: no LoRA at all, only whole tensors */
    uint64_t parameter_count;
};

_Static_assert(sizeof(struct adapter_config) == 48, "stored in images: the layout is fixed");

struct lora {
    struct weight a;   /* [rank, in]; a.data == NULL: no LoRA here. Parts of one fused projection
                        * share it. The embedding's is [rank, vocab] */
    struct weight b;   /* [out, rank] */
    const float *dora; /* [out] or NULL */
    const float *rank_scales; /* [rank], of A x, where a and b are codes; else NULL */
    uint32_t rank_scale_count;
    float scale;
};

struct adapter {
    struct image image;
    const struct adapter_config *config;
    struct lora *loras;   /* [adapter_scale_count], owned */
    struct backbone view; /* owns its table of layers */
    bool is_pure_lora;    /* neither DoRA nor a tensor of its own: the whole effect can be scaled */
    uint64_t weight_bytes;
};

/* Shapes are checked against the backbone; a foreign adapter (other digest) is refused. `b` stays
 * open as long as the adapter. */
int adapter_open(struct adapter *ret, const void *base, uint64_t bytes, const struct backbone *b,
                 const struct digest *backbone_digest, struct error *err);
void adapter_close(struct adapter *a);

uint32_t adapter_scale_count(uint32_t layer_count);
/* Index into scales and loras; LINEAR_HEAD ignores the layer. */
uint32_t adapter_linear_index(uint32_t layer_count, uint32_t layer, enum linear_index l);
uint32_t adapter_embed_index(uint32_t layer_count);

const struct lora *adapter_linear(const struct adapter *a, uint32_t layer, enum linear_index l);
const struct lora *adapter_embed(const struct adapter *a);

/* Outputs and inputs of what a LoRA of this role adds to, also where the head is tied. False for
 * roles that have none. */
bool adapter_lora_shape(const struct model_config *c, enum tensor_role role, uint32_t *ret_outputs,
                        uint32_t *ret_inputs);
