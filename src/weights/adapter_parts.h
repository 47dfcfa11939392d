/*
 * The tensors of a PEFT adapter, each given its place in the model: which module, what of it, which
 * rank and scale. The rule: every tensor of the file is explained by adapter_config.json and
 * changes what PEFT would change by it, or the adapter is refused.
 */
#pragma once

#include "weights/adapter.h"
#include "weights/names.h"
#include "weights/peft.h"
#include "weights/source.h"

#define ADAPTER_PARTS_FILE "adapter_model.safetensors"

/* What an adapter brings for one module of the model. */
struct adapter_module {
    const struct names_module *name;
    uint32_t layer;
    struct source_tensor *a; /* with b: LoRA */
    struct source_tensor *b;
    struct source_tensor *magnitude; /* DoRA */
    struct source_tensor *whole;     /* takes the place of the weight */
    struct source_tensor *base;      /* the weight that LoRA is added to, saved along */
    bool base_differs;               /* it is not the backbone's, so it takes its place */
    struct source_tensor *bias;      /* takes the place of the bias */
    bool bias_in_base_layer;         /* its name says that the module has LoRA */
    struct peft_module peft;         /* where there is LoRA */
    float *dora;                     /* [rows of the module], owned: magnitude / norm, or NULL */
};

struct adapter_parts {
    struct peft *peft;
    struct source source;
    struct adapter_module *modules; /* owned, in the order of the model */
    uint32_t module_count;
};

/* Reads adapter_config.json and the table of tensors, and computes DoRA's scales. The files and `b`
 * must outlive it. */
int adapter_parts_open(struct adapter_parts *ret, const struct pack_file *files,
                       uint32_t file_count, const struct backbone *b,
                       const struct pack_options *options, struct error *err);
void adapter_parts_close(struct adapter_parts *p);
