/* What the files that read config.json share: config.c, config_rope.c. */
#pragma once

#include "model/config.h"
#include "model/jsonfile.h"

#define CONFIG_ROPE_KIND(kind) (1u << (kind))

/* The defaults are those of the configuration classes of transformers, because that is what a file
 * without the field means. */
struct config_family {
    uint32_t family;
    const char *name;
    const char *architecture;
    uint32_t kv_heads_default; /* 0: as many as heads */
    uint32_t head_dim_default; /* 0: hidden / heads */
    uint32_t context_default;
    uint32_t window_default; /* 0: none */
    uint32_t eos_default;    /* UINT32_MAX: none */
    float norm_eps_default;
    uint32_t rope_kinds; /* CONFIG_ROPE_KIND() of those that its code in transformers has */
};

/* Both kinds of layers; needs head_dim and context_max. */
int config_parse_rope(const json_t *root, const struct config_family *f, struct model_config *c,
                      struct error *err);
