/*
 * adapter_config.json of PEFT: which rank and scale each matrix of a LoRA adapter has. The rules
 * are PEFT's, regular expressions included. A field that would change what is computed is honoured,
 * or the adapter is refused with the field's name; a field that this program does not know may only
 * be empty.
 */
#pragma once

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

#define PEFT_JSON_BYTES_MAX (4u << 20)
#define PEFT_PATTERNS_MAX 2048u /* entries of rank_pattern and alpha_pattern each */

struct peft; /* opaque */

int peft_parse(const char *json, size_t len, struct peft **ret, struct error *err);
void peft_free(struct peft *p); /* NULL is fine */

struct peft_module {
    uint32_t rank;
    float scale; /* lora_alpha / rank, or / sqrt(rank) with use_rslora */
};

/* `name` as in the backbone: "model.layers.3.self_attn.q_proj"; `layer` is the number in it.
 * -EINVAL when the configuration does not adapt this matrix, so that PEFT would ignore its tensors.
 */
int peft_find_module(const struct peft *p, const char *name, uint32_t layer,
                     struct peft_module *ret, struct error *err);

const char *peft_base_model(const struct peft *p); /* base_model_name_or_path, or "" */
