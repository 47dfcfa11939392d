/* Rotary position embedding in config.json: "rope_parameters" (transformers 5), or "rope_scaling"
 * and "rope_theta" beside it (before). See config_parse.h. */
#include "model/config_parse.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define THETA_MAX 1e12
#define FACTOR_MAX 1e6

/* Phi-3 calls LongRoPE by its older names too. */
static const struct rope_name {
    const char *name;
    enum model_rope_kind kind;
    bool phi_only;
} rope_names[] = {
    {"default", MODEL_ROPE_PLAIN, false}, {"llama3", MODEL_ROPE_LLAMA3, false},
    {"linear", MODEL_ROPE_LINEAR, false}, {"longrope", MODEL_ROPE_LONG, false},
    {"su", MODEL_ROPE_LONG, true},        {"yarn", MODEL_ROPE_LONG, true},
};

#define NAME_COUNT (sizeof rope_names / sizeof rope_names[0])

static int need(const json_t *rope, const char *type, const char *key, struct error *err)
{
    if (jsonfile_get(rope, key) != NULL)
        return 0;
    return error_set(err, -EINVAL, "rope type \"%s\" without \"%s\"", type, key);
}

static int parse_llama3(const json_t *rope, struct model_rope *ret, struct error *err)
{
    static const char *const needed[] = {"factor", "low_freq_factor", "high_freq_factor",
                                         "original_max_position_embeddings"};
    int r = 0;
    for (size_t i = 0; r == 0 && i < sizeof needed / sizeof needed[0]; i++)
        r = need(rope, "llama3", needed[i], err);
    if (r == 0)
        r = jsonfile_float(rope, "low_freq_factor", 1e-3, FACTOR_MAX, &ret->low_freq_factor, err);
    if (r == 0)
        r = jsonfile_float(rope, "high_freq_factor", 1e-3, FACTOR_MAX, &ret->high_freq_factor, err);
    if (r == 0)
        r = jsonfile_u32(rope, "original_max_position_embeddings", 1, MODEL_CONTEXT_MAX,
                         &ret->original_context, err);
    return r;
}

static int parse_divisors(const json_t *rope, const char *key, uint32_t count, float *ret,
                          struct error *err)
{
    char shown[JSONFILE_SHOW_BYTES];
    const json_t *list = jsonfile_get(rope, key);
    int r = need(rope, "longrope", key, err);
    if (r < 0)
        return r;
    if (!json_is_array(list) || json_array_size(list) != count)
        return error_set(err, -EINVAL, "\"%s\" is %s, a list of %u numbers is needed", key,
                         jsonfile_show(list, shown), count);
    for (uint32_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(list, i);
        double value = json_is_number(item) ? json_number_value(item) : NAN;
        if (!(value >= 1e-3 && value <= FACTOR_MAX))
            return error_set(err, -EINVAL, "\"%s\" holds %s, supported is 0.001 to %g", key,
                             jsonfile_show(item, shown), FACTOR_MAX);
        ret[i] = (float)value;
    }
    return 0;
}

/* LongRoPE (Ding et al. 2024) as Phi-3 has it: the context of pre-training stands at the root. */
static int parse_long(const json_t *root, const json_t *rope, struct model_config *c,
                      struct model_rope *ret, struct error *err)
{
    uint32_t count = c->rotary_dim / 2;
    int r = parse_divisors(rope, "short_factor", count, c->rope_short_factors, err);
    if (r == 0)
        r = parse_divisors(rope, "long_factor", count, c->rope_long_factors, err);
    ret->original_context = 4096;
    if (r == 0)
        r = jsonfile_u32(root, "original_max_position_embeddings", 2, MODEL_CONTEXT_MAX,
                         &ret->original_context, err);
    if (r < 0)
        return r;
    double original = ret->original_context;
    double factor = jsonfile_get(rope, "factor") ? (double)ret->factor : c->context_max / original;
    ret->factor = 1;
    ret->attention_factor = factor <= 1 ? 1 : (float)sqrt(1 + log(factor) / log(original));
    return jsonfile_float(rope, "attention_factor", 1e-3, 1e3, &ret->attention_factor, err);
}

static int find_kind(const json_t *rope, const char *key, const struct config_family *f,
                     enum model_rope_kind *ret, struct error *err)
{
    const json_t *value = jsonfile_get(rope, "rope_type");
    if (value == NULL)
        value = jsonfile_get(rope, "type");
    const char *type = value == NULL ? "default" : json_string_value(value);
    char list[96] = "";
    for (size_t i = 0; i < NAME_COUNT; i++) {
        const struct rope_name *n = &rope_names[i];
        if (!(f->rope_kinds & CONFIG_ROPE_KIND(n->kind)) ||
            (n->phi_only && f->family != MODEL_PHI3))
            continue;
        if (type != NULL && strcmp(type, n->name) == 0) {
            *ret = n->kind;
            return 0;
        }
        size_t len = strlen(list);
        snprintf(list + len, sizeof list - len, "%s\"%s\"", len > 0 ? ", " : "", n->name);
    }
    char shown[JSONFILE_SHOW_BYTES];
    return error_set(err, -ENOTSUP,
                     "rope type %s in \"%s\" is not supported for %s: supported are %s",
                     jsonfile_show(value, shown), key, f->name, list);
}

/* `rope`: one object of parameters, or NULL. *ret holds the theta that stands elsewhere. */
static int parse_one(const json_t *root, const json_t *rope, const char *key,
                     const struct config_family *f, struct model_config *c, struct model_rope *ret,
                     struct error *err)
{
    char shown[JSONFILE_SHOW_BYTES];
    if (rope == NULL)
        return 0;
    if (!json_is_object(rope))
        return error_set(err, -EINVAL, "\"%s\" is %s, an object is needed", key,
                         jsonfile_show(rope, shown));
    enum model_rope_kind kind = MODEL_ROPE_PLAIN;
    int r = find_kind(rope, key, f, &kind, err);
    if (r == 0)
        r = jsonfile_float(rope, "rope_theta", 1, THETA_MAX, &ret->theta, err);
    ret->kind = kind;
    if (r < 0 || kind == MODEL_ROPE_PLAIN)
        return r;
    if (kind == MODEL_ROPE_LINEAR)
        r = need(rope, "linear", "factor", err);
    if (r == 0)
        r = jsonfile_float(rope, "factor", 1, FACTOR_MAX, &ret->factor, err);
    if (r == 0 && kind == MODEL_ROPE_LLAMA3)
        r = parse_llama3(rope, ret, err);
    if (r == 0 && kind == MODEL_ROPE_LONG)
        r = parse_long(root, rope, c, ret, err);
    return r;
}

/* Full and sliding layers each have their own (Gemma 3). */
static int parse_two(const json_t *root, const struct config_family *f, struct model_config *c,
                     struct error *err)
{
    struct model_rope *full = &c->ropes[MODEL_LAYER_FULL];
    struct model_rope *sliding = &c->ropes[MODEL_LAYER_SLIDING];
    const json_t *both = jsonfile_get(root, "rope_parameters");
    full->theta = 1e6f;
    sliding->theta = 1e4f;
    int r = jsonfile_float(root, "rope_theta", 1, THETA_MAX, &full->theta, err);
    if (r == 0)
        r = jsonfile_float(root, "rope_local_base_freq", 1, THETA_MAX, &sliding->theta, err);
    if (r < 0)
        return r;
    if (both != NULL &&
        (jsonfile_get(both, "rope_type") != NULL || jsonfile_get(both, "rope_theta") != NULL))
        return error_set(err, -ENOTSUP,
                         "\"rope_parameters\" is one set, %s has \"full_attention\" and "
                         "\"sliding_attention\" in it",
                         f->name);
    r = parse_one(root, jsonfile_get(both, "full_attention"), "full_attention", f, c, full, err);
    if (r == 0)
        r = parse_one(root, jsonfile_get(both, "sliding_attention"), "sliding_attention", f, c,
                      sliding, err);
    if (r == 0)
        r = parse_one(root, jsonfile_get(root, "rope_scaling"), "rope_scaling", f, c, full, err);
    return r;
}

/* How many of a head's dimensions are rotated: Phi-4-mini leaves a quarter of them alone. */
static int parse_rotary_dim(const json_t *root, const json_t *rope, const struct config_family *f,
                            struct model_config *c, struct error *err)
{
    static const char key[] = "partial_rotary_factor";
    const json_t *const places[] = {root, rope};
    double partial = 1; /* 0.7f of 80 would be 55, in Python it is 56 */
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        float in_range = 1;
        int r = jsonfile_float(places[i], key, 0, 1, &in_range, err);
        if (r < 0)
            return r;
        if (jsonfile_get(places[i], key) != NULL)
            partial = json_number_value(jsonfile_get(places[i], key));
    }
    c->rotary_dim = (uint32_t)(c->head_dim * partial);
    if (partial != 1 && f->family != MODEL_PHI3)
        return error_set(err, -ENOTSUP, "\"partial_rotary_factor\" is %g, supported is 1 for %s",
                         partial, f->name);
    if (c->rotary_dim == 0 || c->rotary_dim % 2 != 0)
        return error_set(
            err, -EINVAL,
            "\"partial_rotary_factor\" %g of a \"head_dim\" of %u is %u, an even number "
            "is needed",
            partial, c->head_dim, c->rotary_dim);
    return 0;
}

int config_parse_rope(const json_t *root, const struct config_family *f, struct model_config *c,
                      struct error *err)
{
    for (uint32_t i = 0; i < MODEL_LAYER_KIND_COUNT; i++)
        c->ropes[i] = (struct model_rope){.theta = 1e4f, .factor = 1, .attention_factor = 1};
    const char *key = "rope_parameters";
    if (jsonfile_get(root, "rope_scaling") != NULL && jsonfile_get(root, key) == NULL)
        key = "rope_scaling";
    const json_t *rope = jsonfile_get(root, key);
    int r = parse_rotary_dim(root, rope, f, c, err);
    if (r < 0 || f->family == MODEL_GEMMA3)
        return r < 0 ? r : parse_two(root, f, c, err);
    struct model_rope *full = &c->ropes[MODEL_LAYER_FULL];
    r = jsonfile_float(root, "rope_theta", 1, THETA_MAX, &full->theta, err);
    if (r == 0)
        r = parse_one(root, rope, key, f, c, full, err);
    c->ropes[MODEL_LAYER_SLIDING] = *full;
    return r;
}
