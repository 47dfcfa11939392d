/*
 * Unmerged LoRA: y += B (scale (A x)) for each group of rows with the same adapter, at the
 * adapter's true rank. One decision: two steps around the backbone's matrix. Shrink runs before it
 * for all groups; expand runs inside the chunk of outputs that the backbone's matrix just wrote. A
 * batch without adapters runs neither.
 */
#pragma once

#include "engine/forward.h"

/* y = x W^T + bias + the adapters' share, over the rows of the batch. */
struct linear {
    const struct weight *weight;
    const float *bias;          /* [weight->rows] or NULL */
    const float *x;             /* [rows, weight->cols] */
    float *y;                   /* [rows, weight->rows] */
    enum adapter_module module; /* ADAPTER_MODULE_COUNT: never adapted */
    int accumulate;             /* added to what y holds */
};

/* A x, scaled, for every adapted one of `count` <= 3 linears of a layer, into f->act.shrunk. */
void lora_shrink(struct forward *f, const struct batch *b, uint32_t layer,
                 const struct linear *linears, uint32_t count);

/* Adds outputs [begin, end) of linear `index` (as given to lora_shrink). */
void lora_expand(const struct forward *f, const struct batch *b, uint32_t layer,
                 const struct linear *linear, uint32_t index, uint32_t begin, uint32_t end);
