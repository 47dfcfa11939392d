/*
 * What checkpoints and adapters of each family call their modules, and which tensors of an image a
 * module becomes. One decision: a family that stores several matrices as one (Phi-3's qkv_proj) is
 * cut apart when it is packed, so that everything behind the packer knows one layout only.
 */
#pragma once

#include "weights/image.h"

#define NAMES_PARTS_MAX 3u
#define NAMES_BYTES_MAX 96u /* of a module's full name: "model.layers.255.self_attn.q_proj" */

enum names_kind { NAMES_LINEAR, NAMES_EMBEDDING, NAMES_NORM };

struct names_module {
    const char *name; /* "self_attn.q_proj" where it is part of a layer, else "model.norm" */
    enum names_kind kind;
    uint32_t part_count;
    enum tensor_role parts[NAMES_PARTS_MAX]; /* of its weight, from the first row on */
};

/* The modules of a family, ended by one without a name. */
const struct names_module *names_modules(const struct model_config *c);
/* The module that holds a weight of this role; which of its parts it is, in *ret_part. */
const struct names_module *names_of_role(const struct model_config *c, enum tensor_role role,
                                         uint32_t *ret_part);

/* Rows of the whole module's weight, and of the parts before `part`. */
uint32_t names_rows(const struct model_config *c, const struct names_module *m);
uint32_t names_first_row(const struct model_config *c, const struct names_module *m, uint32_t part);

bool names_in_layer(const struct names_module *m);
/* "model.layers.3.self_attn.q_proj"; `layer` is ignored where the module is not part of one. */
void names_full(const struct names_module *m, uint32_t layer, char ret[NAMES_BYTES_MAX]);

/* The module whose full name starts `text` and is followed by '.', its layer, and what follows the
 * dot; NULL when there is none. Of a layer's number nothing is known but that it is canonical. */
const struct names_module *names_parse(const struct model_config *c, const char *text,
                                       uint32_t *ret_layer, const char **ret_rest);
