/*
 * config.json → struct model_config. The rule: a field that changes what the model computes is
 * either honoured or refused by name and value; nothing is guessed.
 */
#include "model/config_parse.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#define KINDS_COMMON                                                                               \
    (CONFIG_ROPE_KIND(MODEL_ROPE_PLAIN) | CONFIG_ROPE_KIND(MODEL_ROPE_LLAMA3) |                    \
     CONFIG_ROPE_KIND(MODEL_ROPE_LINEAR))
#define KINDS_PHI (CONFIG_ROPE_KIND(MODEL_ROPE_PLAIN) | CONFIG_ROPE_KIND(MODEL_ROPE_LONG))

static const struct config_family families[] = {
    {MODEL_LLAMA, "llama", "LlamaForCausalLM", 0, 0, 2048, 0, 2, 1e-6f, KINDS_COMMON},
    {MODEL_MISTRAL, "mistral", "MistralForCausalLM", 8, 0, 131072, 4096, 2, 1e-6f, KINDS_COMMON},
    {MODEL_QWEN2, "qwen2", "Qwen2ForCausalLM", 32, 0, 32768, 4096, UINT32_MAX, 1e-6f, KINDS_COMMON},
    {MODEL_QWEN3, "qwen3", "Qwen3ForCausalLM", 32, 128, 32768, 4096, UINT32_MAX, 1e-6f,
     KINDS_COMMON},
    {MODEL_GEMMA3, "gemma3_text", "Gemma3ForCausalLM", 4, 256, 131072, 4096, 1, 1e-6f,
     KINDS_COMMON},
    {MODEL_PHI3, "phi3", "Phi3ForCausalLM", 0, 0, 4096, 0, 32000, 1e-5f, KINDS_PHI},
};

#define FAMILY_COUNT (sizeof families / sizeof families[0])
#define MAX_WINDOW_LAYERS_DEFAULT 28
#define WINDOW_PATTERN_DEFAULT 6

static const struct jsonfile_limits config_limits = {
    .bytes_max = 4u << 20, .depth_max = 16, .values_max = 65536};

const char *model_family_name(uint32_t family)
{
    for (size_t i = 0; i < FAMILY_COUNT; i++)
        if (families[i].family == family)
            return families[i].name;
    return "unknown";
}

static int find_family(const json_t *root, const struct config_family **ret, struct error *err)
{
    static const char supported[] =
        "supported are LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, "
        "Gemma3ForCausalLM, Phi3ForCausalLM";
    const json_t *list = jsonfile_get(root, "architectures");
    const json_t *architecture = json_array_get(list, 0);
    char shown[JSONFILE_SHOW_BYTES];
    if (json_array_size(list) != 1 || !json_is_string(architecture)) {
        if (list == NULL)
            return error_set(err, -EINVAL, "no \"architectures\": %s", supported);
        return error_set(err, -EINVAL, "\"architectures\" is %s: %s", jsonfile_show(list, shown),
                         supported);
    }
    const struct config_family *found = NULL;
    for (size_t i = 0; i < FAMILY_COUNT; i++)
        if (strcmp(families[i].architecture, json_string_value(architecture)) == 0)
            found = &families[i];
    if (found == NULL)
        return error_set(err, -ENOTSUP, "architecture %s is not supported: %s",
                         jsonfile_show(architecture, shown), supported);
    const char *type = found->name;
    int r = jsonfile_string(root, "model_type", &type, err);
    if (r < 0)
        return r;
    if (strcmp(type, found->name) != 0)
        return error_set(err, -EINVAL, "\"model_type\" is %s, but the architecture is %s",
                         jsonfile_show(json_object_get(root, "model_type"), shown),
                         found->architecture);
    *ret = found;
    return 0;
}

static int parse_activation(const json_t *root, const struct config_family *f,
                            struct model_config *c, struct error *err)
{
    bool gemma = f->family == MODEL_GEMMA3;
    const char *key = gemma ? "hidden_activation" : "hidden_act";
    const char *supported = gemma ? "gelu_pytorch_tanh" : "silu";
    const json_t *act = jsonfile_get(root, key);
    char shown[JSONFILE_SHOW_BYTES];
    c->activation = gemma ? MODEL_GELU_TANH : MODEL_SILU;
    if (act == NULL || (json_is_string(act) && strcmp(json_string_value(act), supported) == 0))
        return 0;
    return error_set(err, -ENOTSUP, "\"%s\" is %s, supported for %s is \"%s\"", key,
                     jsonfile_show(act, shown), f->name, supported);
}

/* What forward() does one way only. */
static int check_fixed(const json_t *root, struct error *err)
{
    static const char *const none[] = {"final_logit_softcapping", "attn_logit_softcapping"};
    char shown[JSONFILE_SHOW_BYTES];
    if (jsonfile_get(root, "quantization_config") != NULL)
        return error_set(err, -ENOTSUP,
                         "\"quantization_config\" is set: bring the checkpoint as it was before "
                         "quantization (bf16, f16 or f32)");
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++)
        if (jsonfile_get(root, none[i]) != NULL)
            return error_set(err, -ENOTSUP, "\"%s\" is %s, supported is null", none[i],
                             jsonfile_show(jsonfile_get(root, none[i]), shown));
    bool both_ways = false;
    int r = jsonfile_bool(root, "use_bidirectional_attention", &both_ways, err);
    if (r == 0 && both_ways)
        r = error_set(err, -ENOTSUP, "\"use_bidirectional_attention\" is true, supported is false");
    return r;
}

static int missing(const char *key, struct error *err)
{
    return error_set(err, -EINVAL, "no \"%s\"", key);
}

static int parse_sizes(const json_t *root, const struct config_family *f, struct model_config *c,
                       struct error *err)
{
    const struct {
        const char *key;
        uint32_t max;
        uint32_t *ret;
    } required[] = {
        {"vocab_size", MODEL_VOCAB_MAX, &c->vocab_count},
        {"hidden_size", MODEL_WIDTH_MAX, &c->hidden},
        {"num_hidden_layers", MODEL_LAYERS_MAX, &c->layer_count},
        {"num_attention_heads", MODEL_HEADS_MAX, &c->head_count},
        {"intermediate_size", MODEL_WIDTH_MAX, &c->ffn},
    };
    for (size_t i = 0; i < sizeof required / sizeof required[0]; i++) {
        int r = jsonfile_u32(root, required[i].key, 1, required[i].max, required[i].ret, err);
        if (r < 0)
            return r;
        if (*required[i].ret == 0)
            return missing(required[i].key, err);
    }
    /* Absent is the class's default, an explicit null is one key-value head per head. */
    bool kv_default =
        f->kv_heads_default > 0 && json_object_get(root, "num_key_value_heads") == NULL;
    c->kv_head_count = kv_default ? f->kv_heads_default : c->head_count;
    int r = jsonfile_u32(root, "num_key_value_heads", 1, MODEL_HEADS_MAX, &c->kv_head_count, err);
    if (r < 0)
        return r;
    c->head_dim = f->head_dim_default;
    r = jsonfile_u32(root, "head_dim", 1, MODEL_HEAD_DIM_MAX, &c->head_dim, err);
    if (r < 0)
        return r;
    if (c->head_dim == 0) {
        if (c->hidden % c->head_count != 0)
            return error_set(err, -EINVAL,
                             "\"hidden_size\" %u is no multiple of \"num_attention_heads\" %u and "
                             "there is no \"head_dim\"",
                             c->hidden, c->head_count);
        c->head_dim = c->hidden / c->head_count;
    }
    c->context_max = f->context_default;
    return jsonfile_u32(root, "max_position_embeddings", 1, MODEL_CONTEXT_MAX, &c->context_max,
                        err);
}

static void set_sliding(struct model_config *c, uint32_t layer)
{
    c->sliding_layers[layer / 32] |= 1u << layer % 32;
}

/* "layer_types" lists the kind of every layer; false when there is none. */
static int parse_layer_types(const json_t *root, struct model_config *c, bool *ret_found,
                             struct error *err)
{
    const json_t *types = jsonfile_get(root, "layer_types");
    *ret_found = types != NULL;
    if (types == NULL)
        return 0;
    if (!json_is_array(types) || json_array_size(types) != c->layer_count)
        return error_set(err, -EINVAL, "\"layer_types\" is no list of %u strings", c->layer_count);
    for (uint32_t i = 0; i < c->layer_count; i++) {
        const char *type = json_string_value(json_array_get(types, i));
        bool sliding = type != NULL && strcmp(type, "sliding_attention") == 0;
        char shown[JSONFILE_SHOW_BYTES];
        if (!sliding && (type == NULL || strcmp(type, "full_attention") != 0))
            return error_set(err, -ENOTSUP,
                             "\"layer_types\" holds %s, supported are \"full_attention\" and "
                             "\"sliding_attention\"",
                             jsonfile_show(json_array_get(types, i), shown));
        if (sliding)
            set_sliding(c, i);
    }
    return 0;
}

/* Which layers slide where "layer_types" does not say: Qwen's first ones do not, of Gemma's every
 * sixth does not, elsewhere all do. */
static int parse_sliding_rule(const json_t *root, const struct config_family *f,
                              struct model_config *c, struct error *err)
{
    uint32_t full_layers = 0;
    uint32_t pattern = 0;
    int r = 0;
    if (f->family == MODEL_QWEN2 || f->family == MODEL_QWEN3) {
        full_layers = MAX_WINDOW_LAYERS_DEFAULT;
        r = jsonfile_u32(root, "max_window_layers", 0, UINT32_MAX, &full_layers, err);
    } else if (f->family == MODEL_GEMMA3) {
        pattern = WINDOW_PATTERN_DEFAULT;
        r = jsonfile_u32(root, "sliding_window_pattern", 1, UINT32_MAX, &pattern, err);
    }
    for (uint32_t i = full_layers; r == 0 && i < c->layer_count; i++)
        if (pattern == 0 || (i + 1) % pattern != 0)
            set_sliding(c, i);
    return r;
}

static bool slides(const struct model_config *c)
{
    for (uint32_t i = 0; i < c->layer_count; i++)
        if (model_layer_kind(c, i) == MODEL_LAYER_SLIDING)
            return true;
    return false;
}

static int parse_window(const json_t *root, const struct config_family *f, struct model_config *c,
                        struct error *err)
{
    bool by_flag = f->family == MODEL_QWEN2 || f->family == MODEL_QWEN3;
    bool use = !by_flag;
    if (f->family == MODEL_LLAMA)
        return 0;
    if (json_object_get(root, "sliding_window") == NULL)
        c->sliding_window = f->window_default;
    int r = jsonfile_u32(root, "sliding_window", 1, UINT32_MAX, &c->sliding_window, err);
    if (r == 0 && by_flag)
        r = jsonfile_bool(root, "use_sliding_window", &use, err);
    if (r < 0)
        return r;
    if (!use)
        c->sliding_window = 0;
    bool listed = false;
    if (by_flag || f->family == MODEL_GEMMA3)
        r = parse_layer_types(root, c, &listed, err);
    if (r == 0 && !listed && c->sliding_window > 0)
        r = parse_sliding_rule(root, f, c, err);
    if (r < 0)
        return r;
    if (by_flag && slides(c) && c->sliding_window == 0)
        return error_set(err, -EINVAL,
                         "\"layer_types\" asks for a sliding window, but "
                         "\"use_sliding_window\" or \"sliding_window\" is not set");
    if (!slides(c) || c->sliding_window >= c->context_max)
        c->sliding_window = 0; /* wider than every context: no window */
    return 0;
}

/* What the scores are multiplied by: Gemma says it by a number of its own. */
static int parse_scales(const json_t *root, const struct config_family *f, struct model_config *c,
                        struct error *err)
{
    float scalar = (float)c->head_dim;
    c->embed_scale = 1;
    if (f->family == MODEL_GEMMA3) {
        scalar = 256;
        c->embed_scale = (float)sqrt((double)c->hidden);
        int r = jsonfile_float(root, "query_pre_attn_scalar", 1e-3, 1e6, &scalar, err);
        if (r < 0)
            return r;
    }
    c->attention_scale = (float)(1 / sqrt((double)scalar));
    return 0;
}

static int parse_flags(const json_t *root, const struct config_family *f, struct model_config *c,
                       struct error *err)
{
    bool gemma = f->family == MODEL_GEMMA3;
    bool tied = gemma;
    bool attention_bias = false;
    bool mlp_bias = false;
    int r = jsonfile_bool(root, "tie_word_embeddings", &tied, err);
    if (r == 0 && (f->family == MODEL_LLAMA || f->family == MODEL_QWEN3 || gemma))
        r = jsonfile_bool(root, "attention_bias", &attention_bias, err);
    if (r == 0 && f->family == MODEL_LLAMA)
        r = jsonfile_bool(root, "mlp_bias", &mlp_bias, err);
    if (r < 0)
        return r;
    c->tied_embeddings = tied;
    c->qkv_bias = attention_bias || f->family == MODEL_QWEN2;
    c->o_bias = attention_bias;
    c->mlp_bias = mlp_bias;
    c->qk_norm = f->family == MODEL_QWEN3 || gemma;
    c->post_norms = gemma;
    c->norm_offset = gemma;
    c->fused_projections = f->family == MODEL_PHI3;
    c->norm_eps = f->norm_eps_default;
    return jsonfile_float(root, "rms_norm_eps", 1e-12, 1, &c->norm_eps, err);
}

static int add_eos(struct model_config *c, const json_t *id, struct error *err)
{
    char shown[JSONFILE_SHOW_BYTES];
    if (!json_is_integer(id) && !json_is_real(id))
        return error_set(err, -EINVAL, "\"eos_token_id\" is %s, a token id or a list is needed",
                         jsonfile_show(id, shown));
    double value = json_number_value(id);
    if (!(value >= 0 && value < c->vocab_count && value == floor(value)))
        return error_set(err, -EINVAL, "\"eos_token_id\" %.0f is outside the vocabulary of %u",
                         value, c->vocab_count);
    for (uint32_t i = 0; i < c->eos_count; i++)
        if (c->eos_ids[i] == (uint32_t)value)
            return 0;
    if (c->eos_count == MODEL_EOS_MAX)
        return error_set(err, -E2BIG, "more than %u different \"eos_token_id\"", MODEL_EOS_MAX);
    c->eos_ids[c->eos_count++] = (uint32_t)value;
    return 0;
}

static int parse_eos(const json_t *root, struct model_config *c, struct error *err)
{
    const json_t *value = jsonfile_get(root, "eos_token_id");
    if (value == NULL)
        return 0;
    if (!json_is_array(value))
        return add_eos(c, value, err);
    for (size_t i = 0; i < json_array_size(value); i++) {
        int r = add_eos(c, json_array_get(value, i), err);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ret_eos_default: UINT32_MAX when the file speaks of the end of a text, were it by null. */
static int parse_root(const json_t *root, struct model_config *c, uint32_t *ret_eos_default,
                      struct error *err)
{
    const struct config_family *f = NULL;
    int r = find_family(root, &f, err);
    if (r < 0)
        return r;
    c->family = f->family;
    r = check_fixed(root, err);
    if (r == 0)
        r = parse_sizes(root, f, c, err);
    if (r == 0)
        r = parse_activation(root, f, c, err);
    if (r == 0)
        r = parse_window(root, f, c, err);
    if (r == 0)
        r = config_parse_rope(root, f, c, err);
    if (r == 0)
        r = parse_scales(root, f, c, err);
    if (r == 0)
        r = parse_flags(root, f, c, err);
    if (r == 0)
        r = parse_eos(root, c, err);
    if (r < 0)
        return r;
    *ret_eos_default = json_object_get(root, "eos_token_id") == NULL ? f->eos_default : UINT32_MAX;
    c->bos_id = UINT32_MAX;
    r = jsonfile_u32(root, "bos_token_id", 0, UINT32_MAX, &c->bos_id, err);
    if (c->bos_id >= c->vocab_count)
        c->bos_id = UINT32_MAX;
    return r;
}

int model_config_parse(const char *json, size_t len, const char *generation_json,
                       size_t generation_len, struct model_config *ret, struct error *err)
{
    struct model_config c = {0};
    json_t *root = NULL;
    uint32_t eos_default = UINT32_MAX;
    int r = jsonfile_parse(json, len, &config_limits, &root, err);
    if (r == 0)
        r = parse_root(root, &c, &eos_default, err);
    json_decref(root);
    if (r < 0) {
        error_prefix(err, "config.json");
        return r;
    }
    if (generation_json != NULL) {
        json_t *generation = NULL;
        r = jsonfile_parse(generation_json, generation_len, &config_limits, &generation, err);
        if (r == 0)
            r = parse_eos(generation, &c, err);
        json_decref(generation);
        if (r < 0) {
            error_prefix(err, "generation_config.json");
            return r;
        }
    }
    if (c.eos_count == 0 && eos_default < c.vocab_count)
        c.eos_ids[c.eos_count++] = eos_default;
    r = model_config_check(&c, err);
    if (r < 0) {
        error_prefix(err, "config.json");
        return r;
    }
    *ret = c;
    return 0;
}
