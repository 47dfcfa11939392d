/*
 * config.json → struct model_config. The rule: a field that changes what the model computes is
 * either honoured or refused by name and value; nothing is guessed. Defaults are those of the
 * configuration classes of transformers, because that is what a file without the field means.
 */
#include "model/config.h"

#include "model/jsonfile.h"

#include <errno.h>
#include <math.h>
#include <string.h>

struct family {
    uint32_t family;
    const char *name;
    const char *architecture;
    uint32_t kv_heads_default; /* 0: as many as heads */
    uint32_t head_dim_default; /* 0: hidden / heads */
    uint32_t context_default;
    bool sliding_window_by_flag; /* Qwen: only with use_sliding_window, and not in every layer */
};

static const struct family families[] = {
    {MODEL_LLAMA, "llama", "LlamaForCausalLM", 0, 0, 2048, false},
    {MODEL_MISTRAL, "mistral", "MistralForCausalLM", 8, 0, 131072, false},
    {MODEL_QWEN2, "qwen2", "Qwen2ForCausalLM", 32, 0, 32768, true},
    {MODEL_QWEN3, "qwen3", "Qwen3ForCausalLM", 32, 128, 32768, true},
};

#define FAMILY_COUNT (sizeof families / sizeof families[0])
#define SLIDING_WINDOW_DEFAULT 4096
#define MAX_WINDOW_LAYERS_DEFAULT 28

static const struct jsonfile_limits config_limits = {
    .bytes_max = 4u << 20, .depth_max = 16, .values_max = 65536};

const char *model_family_name(uint32_t family)
{
    for (size_t i = 0; i < FAMILY_COUNT; i++)
        if (families[i].family == family)
            return families[i].name;
    return "unknown";
}

static int find_family(const json_t *root, const struct family **ret, struct error *err)
{
    static const char supported[] =
        "supported are LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM";
    const json_t *list = jsonfile_get(root, "architectures");
    const json_t *architecture = json_array_get(list, 0);
    char shown[JSONFILE_SHOW_BYTES];
    if (json_array_size(list) != 1 || !json_is_string(architecture)) {
        if (list == NULL)
            return error_set(err, -EINVAL, "no \"architectures\": %s", supported);
        return error_set(err, -EINVAL, "\"architectures\" is %s: %s", jsonfile_show(list, shown),
                         supported);
    }
    const struct family *found = NULL;
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

/* What forward() does one way only. */
static int check_fixed(const json_t *root, struct error *err)
{
    char shown[JSONFILE_SHOW_BYTES];
    const json_t *act = jsonfile_get(root, "hidden_act");
    if (act != NULL && (!json_is_string(act) || strcmp(json_string_value(act), "silu") != 0))
        return error_set(err, -ENOTSUP, "\"hidden_act\" is %s, supported is \"silu\"",
                         jsonfile_show(act, shown));
    if (jsonfile_get(root, "quantization_config") != NULL)
        return error_set(err, -ENOTSUP,
                         "\"quantization_config\" is set: bring the checkpoint as it was before "
                         "quantization (bf16, f16 or f32)");
    const json_t *partial = jsonfile_get(root, "partial_rotary_factor");
    if (partial != NULL && json_number_value(partial) != 1.0)
        return error_set(err, -ENOTSUP, "\"partial_rotary_factor\" is %s, supported is 1",
                         jsonfile_show(partial, shown));
    return 0;
}

static int missing(const char *key, struct error *err)
{
    return error_set(err, -EINVAL, "no \"%s\"", key);
}

static int parse_sizes(const json_t *root, const struct family *f, struct model_config *c,
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

/* Qwen's per-layer rule, or its outcome in "layer_types": supported where all layers agree. */
static int parse_layer_types(const json_t *root, struct model_config *c, struct error *err)
{
    uint32_t full_layers = MAX_WINDOW_LAYERS_DEFAULT; /* the first layers have no window */
    int r = jsonfile_u32(root, "max_window_layers", 0, UINT32_MAX, &full_layers, err);
    if (r < 0)
        return r;
    uint32_t sliding_count =
        c->sliding_window > 0 && full_layers < c->layer_count ? c->layer_count - full_layers : 0;
    const json_t *types = jsonfile_get(root, "layer_types");
    if (types != NULL) {
        if (!json_is_array(types) || json_array_size(types) != c->layer_count)
            return error_set(err, -EINVAL, "\"layer_types\" is no list of %u strings",
                             c->layer_count);
        sliding_count = 0;
        for (uint32_t i = 0; i < c->layer_count; i++) {
            const char *type = json_string_value(json_array_get(types, i));
            bool sliding = type != NULL && strcmp(type, "sliding_attention") == 0;
            bool full = type != NULL && strcmp(type, "full_attention") == 0;
            char shown[JSONFILE_SHOW_BYTES];
            if (!sliding && !full)
                return error_set(err, -ENOTSUP,
                                 "\"layer_types\" holds %s, supported are \"full_attention\" and "
                                 "\"sliding_attention\"",
                                 jsonfile_show(json_array_get(types, i), shown));
            sliding_count += sliding ? 1 : 0;
        }
    }
    if (sliding_count == 0) {
        c->sliding_window = 0;
        return 0;
    }
    if (sliding_count != c->layer_count)
        return error_set(err, -ENOTSUP,
                         "%u of %u layers have a sliding window (\"layer_types\", "
                         "\"max_window_layers\"), supported is all or none",
                         sliding_count, c->layer_count);
    if (c->sliding_window == 0)
        return error_set(err, -EINVAL,
                         "\"layer_types\" asks for a sliding window, but "
                         "\"use_sliding_window\" or \"sliding_window\" is not set");
    return 0;
}

static int parse_window(const json_t *root, const struct family *f, struct model_config *c,
                        struct error *err)
{
    c->sliding_window = 0;
    if (f->family == MODEL_LLAMA)
        return 0;
    if (json_object_get(root, "sliding_window") == NULL)
        c->sliding_window = SLIDING_WINDOW_DEFAULT;
    int r = jsonfile_u32(root, "sliding_window", 1, UINT32_MAX, &c->sliding_window, err);
    if (r < 0)
        return r;
    if (f->sliding_window_by_flag) {
        bool use = false;
        r = jsonfile_bool(root, "use_sliding_window", &use, err);
        if (r < 0)
            return r;
        if (!use)
            c->sliding_window = 0;
        r = parse_layer_types(root, c, err);
        if (r < 0)
            return r;
    }
    if (c->sliding_window >= c->context_max)
        c->sliding_window = 0; /* wider than every context: no window */
    return 0;
}

static int parse_llama3(const json_t *rope, struct model_config *c, struct error *err)
{
    static const char *const needed[] = {"factor", "low_freq_factor", "high_freq_factor",
                                         "original_max_position_embeddings"};
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++)
        if (jsonfile_get(rope, needed[i]) == NULL)
            return error_set(err, -EINVAL, "rope type \"llama3\" without \"%s\"", needed[i]);
    c->rope_kind = MODEL_ROPE_LLAMA3;
    int r = jsonfile_float(rope, "factor", 1, 1e6, &c->rope_factor, err);
    if (r == 0)
        r = jsonfile_float(rope, "low_freq_factor", 1e-3, 1e6, &c->rope_low_freq_factor, err);
    if (r == 0)
        r = jsonfile_float(rope, "high_freq_factor", 1e-3, 1e6, &c->rope_high_freq_factor, err);
    if (r == 0)
        r = jsonfile_u32(rope, "original_max_position_embeddings", 1, MODEL_CONTEXT_MAX,
                         &c->rope_original_context, err);
    return r;
}

/* `rope`: rope_parameters (transformers 5) or rope_scaling (before). */
static int parse_rope_type(const json_t *rope, const char *key, struct model_config *c,
                           struct error *err)
{
    char shown[JSONFILE_SHOW_BYTES];
    if (!json_is_object(rope))
        return error_set(err, -EINVAL, "\"%s\" is %s, an object is needed", key,
                         jsonfile_show(rope, shown));
    const json_t *partial = jsonfile_get(rope, "partial_rotary_factor");
    if (partial != NULL && json_number_value(partial) != 1.0)
        return error_set(err, -ENOTSUP, "\"partial_rotary_factor\" is %s, supported is 1",
                         jsonfile_show(partial, shown));
    const json_t *value = jsonfile_get(rope, "rope_type");
    if (value == NULL)
        value = jsonfile_get(rope, "type");
    const char *type = value == NULL ? "default" : json_string_value(value);
    if (type != NULL && strcmp(type, "default") == 0)
        return 0;
    if (type != NULL && strcmp(type, "llama3") == 0)
        return parse_llama3(rope, c, err);
    if (type != NULL && strcmp(type, "linear") == 0) {
        c->rope_kind = MODEL_ROPE_LINEAR;
        if (jsonfile_get(rope, "factor") == NULL)
            return error_set(err, -EINVAL, "rope type \"linear\" without \"factor\"");
        return jsonfile_float(rope, "factor", 1, 1e6, &c->rope_factor, err);
    }
    return error_set(err, -ENOTSUP,
                     "rope type %s in \"%s\" is not supported: supported are \"default\", "
                     "\"linear\" and \"llama3\"",
                     jsonfile_show(value, shown), key);
}

static int parse_rope(const json_t *root, struct model_config *c, struct error *err)
{
    c->rope_kind = MODEL_ROPE_PLAIN;
    c->rope_theta = 10000;
    c->rope_factor = 1;
    int r = jsonfile_float(root, "rope_theta", 1, 1e12, &c->rope_theta, err);
    if (r < 0)
        return r;
    const char *key = "rope_parameters";
    const json_t *rope = jsonfile_get(root, key);
    if (rope == NULL) {
        key = "rope_scaling";
        rope = jsonfile_get(root, key);
    }
    if (rope == NULL)
        return 0;
    r = parse_rope_type(rope, key, c, err);
    if (r < 0)
        return r;
    return jsonfile_float(rope, "rope_theta", 1, 1e12, &c->rope_theta, err);
}

static int parse_flags(const json_t *root, const struct family *f, struct model_config *c,
                       struct error *err)
{
    bool tied = false;
    bool attention_bias = false;
    bool mlp_bias = false;
    int r = jsonfile_bool(root, "tie_word_embeddings", &tied, err);
    if (r == 0 && (f->family == MODEL_LLAMA || f->family == MODEL_QWEN3))
        r = jsonfile_bool(root, "attention_bias", &attention_bias, err);
    if (r == 0 && f->family == MODEL_LLAMA)
        r = jsonfile_bool(root, "mlp_bias", &mlp_bias, err);
    if (r < 0)
        return r;
    c->tied_embeddings = tied;
    c->qkv_bias = attention_bias || f->family == MODEL_QWEN2;
    c->o_bias = attention_bias;
    c->mlp_bias = mlp_bias;
    c->qk_norm = f->family == MODEL_QWEN3;
    c->norm_eps = 1e-6f;
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

static int parse_root(const json_t *root, struct model_config *c, struct error *err)
{
    const struct family *f = NULL;
    int r = find_family(root, &f, err);
    if (r < 0)
        return r;
    c->family = f->family;
    r = check_fixed(root, err);
    if (r == 0)
        r = parse_sizes(root, f, c, err);
    if (r == 0)
        r = parse_window(root, f, c, err);
    if (r == 0)
        r = parse_rope(root, c, err);
    if (r == 0)
        r = parse_flags(root, f, c, err);
    if (r == 0)
        r = parse_eos(root, c, err);
    if (r < 0)
        return r;
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
    int r = jsonfile_parse(json, len, &config_limits, &root, err);
    if (r == 0)
        r = parse_root(root, &c, err);
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
    r = model_config_check(&c, err);
    if (r < 0) {
        error_prefix(err, "config.json");
        return r;
    }
    *ret = c;
    return 0;
}

static int check_sizes(const struct model_config *c, struct error *err)
{
    const struct {
        const char *name;
        uint32_t value;
        uint32_t max;
    } sizes[] = {
        {"vocab_size", c->vocab_count, MODEL_VOCAB_MAX},
        {"hidden_size", c->hidden, MODEL_WIDTH_MAX},
        {"num_hidden_layers", c->layer_count, MODEL_LAYERS_MAX},
        {"num_attention_heads", c->head_count, MODEL_HEADS_MAX},
        {"num_key_value_heads", c->kv_head_count, c->head_count},
        {"head_dim", c->head_dim, MODEL_HEAD_DIM_MAX},
        {"intermediate_size", c->ffn, MODEL_WIDTH_MAX},
        {"max_position_embeddings", c->context_max, MODEL_CONTEXT_MAX},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        if (sizes[i].value == 0 || sizes[i].value > sizes[i].max)
            return error_set(err, -EINVAL, "\"%s\" is %u, supported is 1 to %u", sizes[i].name,
                             sizes[i].value, sizes[i].max);
    if (c->head_count % c->kv_head_count != 0)
        return error_set(err, -EINVAL,
                         "\"num_attention_heads\" %u is no multiple of \"num_key_value_heads\" %u",
                         c->head_count, c->kv_head_count);
    if (c->head_dim % 2 != 0)
        return error_set(err, -EINVAL, "\"head_dim\" is %u, an even number is needed", c->head_dim);
    if (c->head_count * c->head_dim > MODEL_WIDTH_MAX)
        return error_set(err, -EINVAL, "%u heads of %u are wider than %u", c->head_count,
                         c->head_dim, MODEL_WIDTH_MAX);
    return 0;
}

static bool in_range(float value, float min, float max)
{
    return value >= min && value <= max; /* false for NaN */
}

static int check_rope(const struct model_config *c, struct error *err)
{
    if (c->rope_kind > MODEL_ROPE_LINEAR || !in_range(c->rope_theta, 1, 1e12f) ||
        !in_range(c->rope_factor, 1, 1e6f))
        return error_set(err, -EINVAL, "rope kind %u, theta %g or factor %g is out of range",
                         c->rope_kind, (double)c->rope_theta, (double)c->rope_factor);
    if (c->rope_kind != MODEL_ROPE_LLAMA3)
        return 0;
    if (!in_range(c->rope_low_freq_factor, 1e-3f, 1e6f) ||
        !in_range(c->rope_high_freq_factor, 1e-3f, 1e6f) ||
        !(c->rope_low_freq_factor < c->rope_high_freq_factor))
        return error_set(err, -EINVAL,
                         "\"low_freq_factor\" %g is not below \"high_freq_factor\" %g",
                         (double)c->rope_low_freq_factor, (double)c->rope_high_freq_factor);
    if (c->rope_original_context == 0 || c->rope_original_context > MODEL_CONTEXT_MAX)
        return error_set(err, -EINVAL, "\"original_max_position_embeddings\" is %u",
                         c->rope_original_context);
    return 0;
}

int model_config_check(const struct model_config *c, struct error *err)
{
    if (c->family < MODEL_LLAMA || c->family > MODEL_QWEN3)
        return error_set(err, -EINVAL, "unknown model family %u", c->family);
    int r = check_sizes(c, err);
    if (r == 0)
        r = check_rope(c, err);
    if (r < 0)
        return r;
    if (!in_range(c->norm_eps, 1e-12f, 1))
        return error_set(err, -EINVAL, "\"rms_norm_eps\" is %g", (double)c->norm_eps);
    if (c->sliding_window >= c->context_max)
        return error_set(err, -EINVAL, "a sliding window of %u in a context of %u",
                         c->sliding_window, c->context_max);
    if (c->tied_embeddings > 1 || c->qkv_bias > 1 || c->o_bias > 1 || c->mlp_bias > 1 ||
        c->qk_norm > 1 || c->reserved != 0)
        return error_set(err, -EINVAL, "a flag is neither 0 nor 1");
    if (c->eos_count > MODEL_EOS_MAX)
        return error_set(err, -EINVAL, "%u end tokens, the limit is %u", c->eos_count,
                         MODEL_EOS_MAX);
    for (uint32_t i = 0; i < c->eos_count; i++)
        if (c->eos_ids[i] >= c->vocab_count)
            return error_set(err, -EINVAL, "end token %u is outside the vocabulary of %u",
                             c->eos_ids[i], c->vocab_count);
    if (c->bos_id != UINT32_MAX && c->bos_id >= c->vocab_count)
        return error_set(err, -EINVAL, "begin token %u is outside the vocabulary of %u", c->bos_id,
                         c->vocab_count);
    return 0;
}
