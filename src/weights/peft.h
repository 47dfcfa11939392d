/*
 * adapter_config.json of PEFT: which rank and scale each matrix of a LoRA adapter has. The rules
 * are PEFT's, regular expressions included. A field that would change what is computed is honoured,
 * or the adapter is refused with the field's name; a field that this program does not know may only
 * be empty.
 */
#pragma once

#include "base/error.h"

#include <stdbool.h>
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

/* Names are those of the model: "model.layers.3.self_attn.q_proj", "lm_head".
 * -EINVAL when the configuration does not adapt this matrix, so that PEFT would ignore its tensors.
 */
int peft_find_module(const struct peft *p, const char *name, struct peft_module *ret,
                     struct error *err);
/* Whether LoRA is put on this module. */
int peft_is_target(const struct peft *p, const char *name, bool *ret, struct error *err);
/* Whether "modules_to_save" names this module, or one that it is part of. */
bool peft_saves_module(const struct peft *p, const char *name);

enum peft_bias { PEFT_BIAS_NONE, PEFT_BIAS_ALL, PEFT_BIAS_LORA_ONLY };
enum peft_bias peft_bias(const struct peft *p);
bool peft_uses_dora(const struct peft *p);
/* ensure_weight_tying: a tied head follows what is done to the embedding, with tensors of its own.
 */
bool peft_ties_weights(const struct peft *p);
