/* See names.h. */
#include "weights/names.h"

#include "weights/backbone.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define LINEAR(text, ...)                                                                          \
    {                                                                                              \
        .name = text, .kind = NAMES_LINEAR,                                                        \
        .part_count = sizeof((enum tensor_role[]){__VA_ARGS__}) / sizeof(enum tensor_role),        \
        .parts = {                                                                                 \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    }
#define NORM(text, role)                                                                           \
    {                                                                                              \
        .name = text, .kind = NAMES_NORM, .part_count = 1, .parts = { role }                       \
    }
#define OUTSIDE_LAYERS                                                                             \
    {.name = "model.embed_tokens",                                                                 \
     .kind = NAMES_EMBEDDING,                                                                      \
     .part_count = 1,                                                                              \
     .parts = {TENSOR_EMBED}},                                                                     \
        NORM("model.norm", TENSOR_OUT_NORM), LINEAR("lm_head", TENSOR_HEAD)

/* Llama, Mistral, Qwen. */
static const struct names_module modules_common[] = {
    OUTSIDE_LAYERS,
    NORM("input_layernorm", TENSOR_ATTN_NORM),
    LINEAR("self_attn.q_proj", TENSOR_Q),
    LINEAR("self_attn.k_proj", TENSOR_K),
    LINEAR("self_attn.v_proj", TENSOR_V),
    LINEAR("self_attn.o_proj", TENSOR_O),
    NORM("self_attn.q_norm", TENSOR_Q_NORM),
    NORM("self_attn.k_norm", TENSOR_K_NORM),
    NORM("post_attention_layernorm", TENSOR_MLP_NORM),
    LINEAR("mlp.gate_proj", TENSOR_GATE),
    LINEAR("mlp.up_proj", TENSOR_UP),
    LINEAR("mlp.down_proj", TENSOR_DOWN),
    {0},
};

static const struct names_module modules_gemma3[] = {
    OUTSIDE_LAYERS,
    NORM("input_layernorm", TENSOR_ATTN_NORM),
    LINEAR("self_attn.q_proj", TENSOR_Q),
    LINEAR("self_attn.k_proj", TENSOR_K),
    LINEAR("self_attn.v_proj", TENSOR_V),
    LINEAR("self_attn.o_proj", TENSOR_O),
    NORM("self_attn.q_norm", TENSOR_Q_NORM),
    NORM("self_attn.k_norm", TENSOR_K_NORM),
    NORM("post_attention_layernorm", TENSOR_POST_ATTN_NORM),
    NORM("pre_feedforward_layernorm", TENSOR_MLP_NORM),
    LINEAR("mlp.gate_proj", TENSOR_GATE),
    LINEAR("mlp.up_proj", TENSOR_UP),
    LINEAR("mlp.down_proj", TENSOR_DOWN),
    NORM("post_feedforward_layernorm", TENSOR_POST_MLP_NORM),
    {0},
};

static const struct names_module modules_phi3[] = {
    OUTSIDE_LAYERS,
    NORM("input_layernorm", TENSOR_ATTN_NORM),
    LINEAR("self_attn.qkv_proj", TENSOR_Q, TENSOR_K, TENSOR_V),
    LINEAR("self_attn.o_proj", TENSOR_O),
    NORM("post_attention_layernorm", TENSOR_MLP_NORM),
    LINEAR("mlp.gate_up_proj", TENSOR_GATE, TENSOR_UP),
    LINEAR("mlp.down_proj", TENSOR_DOWN),
    {0},
};

const struct names_module *names_modules(const struct model_config *c)
{
    switch (c->family) {
    case MODEL_GEMMA3:
        return modules_gemma3;
    case MODEL_PHI3:
        return modules_phi3;
    default:
        return modules_common;
    }
}

const struct names_module *names_of_role(const struct model_config *c, enum tensor_role role,
                                         uint32_t *ret_part)
{
    for (const struct names_module *m = names_modules(c); m->name != NULL; m++)
        for (uint32_t i = 0; i < m->part_count; i++)
            if (m->parts[i] == role) {
                *ret_part = i;
                return m;
            }
    return NULL;
}

uint32_t names_first_row(const struct model_config *c, const struct names_module *m, uint32_t part)
{
    uint32_t first = 0;
    for (uint32_t i = 0; i < part; i++) {
        uint32_t rows = 0;
        uint32_t cols = 0;
        (void)backbone_shape(c, m->parts[i], &rows, &cols); /* an absent part has no rows */
        first += rows;
    }
    return first;
}

uint32_t names_rows(const struct model_config *c, const struct names_module *m)
{
    return names_first_row(c, m, m->part_count);
}

bool names_in_layer(const struct names_module *m)
{
    return backbone_role_in_layer(m->parts[0]);
}

void names_full(const struct names_module *m, uint32_t layer, char ret[NAMES_BYTES_MAX])
{
    if (names_in_layer(m))
        snprintf(ret, NAMES_BYTES_MAX, "model.layers.%u.%s", layer, m->name);
    else
        snprintf(ret, NAMES_BYTES_MAX, "%s", m->name);
}

/* "model.layers.N." at *s: the number, and *s behind it. */
static bool eat_layer(const char **s, uint32_t *ret)
{
    static const char head[] = "model.layers.";
    if (strncmp(*s, head, sizeof head - 1) != 0)
        return false;
    const char *digits = *s + sizeof head - 1;
    uint32_t layer = 0;
    size_t n = 0;
    while (digits[n] >= '0' && digits[n] <= '9' && n < 6)
        layer = layer * 10 + (uint32_t)(digits[n++] - '0');
    if (n == 0 || digits[n] != '.' || (digits[0] == '0' && n > 1))
        return false;
    *s = digits + n + 1;
    *ret = layer;
    return true;
}

const struct names_module *names_parse(const struct model_config *c, const char *text,
                                       uint32_t *ret_layer, const char **ret_rest)
{
    const char *s = text;
    *ret_layer = 0;
    bool in_layer = eat_layer(&s, ret_layer);
    for (const struct names_module *m = names_modules(c); m->name != NULL; m++) {
        size_t len = strlen(m->name);
        if (names_in_layer(m) != in_layer || strncmp(s, m->name, len) != 0 || s[len] != '.')
            continue;
        *ret_rest = s + len + 1;
        return m;
    }
    return NULL;
}
