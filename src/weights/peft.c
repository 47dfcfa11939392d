/* See peft.h. */
#include "weights/peft.h"

#include "base/buf.h"
#include "model/jsonfile.h"
#include "weights/adapter.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#define EXPRESSION_BYTES_MAX 4096u
#define GROUPS_MAX 16u        /* of an expression that names the layer */
#define MATCH_STEPS_MAX 5000u /* names are short: what needs more is an attack */

static const struct jsonfile_limits peft_limits = {
    .bytes_max = PEFT_JSON_BYTES_MAX, .depth_max = 16, .values_max = 32768};

/* One entry of rank_pattern or alpha_pattern. */
struct pattern {
    pcre2_code *code; /* owned */
    double value;
};

struct pattern_list {
    struct pattern *items; /* owned */
    uint32_t count;
};

/* target_modules and exclude_modules: names of modules, or one expression. */
struct selection {
    const json_t *names; /* in root; NULL: none given */
    pcre2_code *code;    /* owned; NULL: no expression */
    bool all;            /* "all-linear" */
};

struct peft {
    json_t *root; /* owned */
    uint32_t rank;
    double alpha;
    bool use_rslora;
    bool use_dora;
    bool ties_weights;
    enum peft_bias bias;
    struct pattern_list ranks;
    struct pattern_list alphas;
    struct selection targets;
    struct selection excluded;
    const json_t *saved;               /* modules_to_save, in root; NULL: none */
    struct pattern_list saved_exclude; /* the same as expressions: what is saved gets no LoRA */
    const json_t *layers;              /* layers_to_transform, in root; NULL: all */
    struct pattern_list layer_numbers; /* layers_pattern: the first that matches has group "idx" */
    pcre2_match_context *limits;
    pcre2_match_data *match;
};

/* --- regular expressions --- */

static int compile(const char *expression, const char *before, const char *after, const char *field,
                   pcre2_code **ret, struct error *err)
{
    char shown[JSONFILE_SHOW_BYTES];
    size_t len = strlen(expression);
    jsonfile_printable(expression, len, shown, sizeof shown);
    if (len > EXPRESSION_BYTES_MAX)
        return error_set(err, -E2BIG, "an expression of \"%s\" has %zu bytes, the limit is %u",
                         field, len, EXPRESSION_BYTES_MAX);
    struct buf whole;
    buf_init(&whole, EXPRESSION_BYTES_MAX + 64);
    int r = buf_printf(&whole, "%s%s%s", before, expression, after);
    if (r < 0)
        return error_set(err, r, "out of memory");
    int code = 0;
    PCRE2_SIZE at = 0;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (context != NULL)
        pcre2_set_parens_nest_limit(context, 50);
    pcre2_code *c = pcre2_compile((PCRE2_SPTR)whole.data, whole.len,
                                  PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C, &code, &at, context);
    pcre2_compile_context_free(context);
    buf_free(&whole);
    if (c == NULL)
        return error_set(err, -EINVAL, "\"%s\" holds %s, which is no regular expression", field,
                         shown);
    *ret = c;
    return 0;
}

/* 1, 0, or -errno. */
static int match(const struct peft *p, const pcre2_code *code, const char *name, const char *field,
                 struct error *err)
{
    int n = pcre2_match(code, (PCRE2_SPTR)name, strlen(name), 0, 0, p->match, p->limits);
    if (n >= 0)
        return 1;
    if (n == PCRE2_ERROR_NOMATCH)
        return 0;
    return error_set(err, -E2BIG, "an expression of \"%s\" takes too long to match %s", field,
                     name);
}

/* --- parsing --- */

static int reserve_patterns(struct pattern_list *l, size_t count, const char *field,
                            struct error *err)
{
    if (count > PEFT_PATTERNS_MAX)
        return error_set(err, -E2BIG, "\"%s\" has %zu entries, the limit is %u", field, count,
                         PEFT_PATTERNS_MAX);
    l->items = calloc(count + 1, sizeof *l->items);
    return l->items != NULL ? 0 : error_set(err, -ENOMEM, "out of memory");
}

static int add_pattern(struct pattern_list *l, const char *expression, const char *before,
                       const char *after, const char *field, double value, struct error *err)
{
    int r = compile(expression, before, after, field, &l->items[l->count].code, err);
    if (r == 0)
        l->items[l->count++].value = value;
    return r;
}

static int parse_patterns(const json_t *root, const char *field, double min, double max,
                          struct pattern_list *ret, struct error *err)
{
    json_t *object = jsonfile_get(root, field);
    if (object == NULL)
        return 0;
    char shown[JSONFILE_SHOW_BYTES];
    if (!json_is_object(object))
        return error_set(err, -EINVAL, "\"%s\" is %s, an object is needed", field,
                         jsonfile_show(object, shown));
    int r = reserve_patterns(ret, json_object_size(object), field, err);
    if (r < 0)
        return r;
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach(object, key, value)
    {
        double number = json_is_number(value) ? json_number_value(value) : NAN;
        if (!(number >= min && number <= max))
            return error_set(err, -EINVAL, "\"%s\" holds %s, supported is %g to %g", field,
                             jsonfile_show(value, shown), min, max);
        r = add_pattern(ret, key, "^(.*\\.)?(", ")$", field, number, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int parse_selection(const json_t *root, const char *field, struct selection *ret,
                           struct error *err)
{
    char shown[JSONFILE_SHOW_BYTES];
    const json_t *value = jsonfile_get(root, field);
    if (value == NULL)
        return 0;
    if (json_is_string(value)) {
        const char *expression = json_string_value(value);
        ret->all = strcasecmp(expression, "all-linear") == 0;
        return ret->all ? 0 : compile(expression, "\\A(?:", ")\\z", field, &ret->code, err);
    }
    for (size_t i = 0; i < json_array_size(value); i++)
        if (!json_is_string(json_array_get(value, i)))
            return error_set(err, -EINVAL, "\"%s\" holds %s, names of modules are needed", field,
                             jsonfile_show(json_array_get(value, i), shown));
    if (!json_is_array(value) || json_array_size(value) > PEFT_PATTERNS_MAX)
        return error_set(err, -EINVAL,
                         "\"%s\" is %s, a list of at most %u names or an expression is needed",
                         field, jsonfile_show(value, shown), PEFT_PATTERNS_MAX);
    ret->names = json_array_size(value) > 0 ? value : NULL;
    return 0;
}

/* One string or a list of them; *ret_count 0 when absent or empty. */
static int list_strings(const json_t *root, const char *field, size_t *ret_count, struct error *err)
{
    char shown[JSONFILE_SHOW_BYTES];
    const json_t *value = jsonfile_get(root, field);
    *ret_count = 0;
    if (json_is_string(value)) {
        *ret_count = json_string_length(value) > 0;
        return 0;
    }
    for (size_t i = 0; i < json_array_size(value); i++)
        if (!json_is_string(json_array_get(value, i)))
            return error_set(err, -EINVAL, "\"%s\" holds %s, strings are needed", field,
                             jsonfile_show(json_array_get(value, i), shown));
    if (value != NULL && !json_is_array(value))
        return error_set(err, -EINVAL, "\"%s\" is %s, a list of strings is needed", field,
                         jsonfile_show(value, shown));
    *ret_count = json_array_size(value);
    return 0;
}

static const char *string_at(const json_t *value, size_t index)
{
    return json_string_value(json_is_string(value) ? value : json_array_get(value, index));
}

/* Which group of a module's name is its layer's number. */
static int parse_layer_numbers(struct peft *p, struct error *err)
{
    static const char number[] = "\\.(?P<idx>\\d+)\\.";
    static const char field[] = "layers_pattern";
    size_t count = 0;
    int r = list_strings(p->root, field, &count, err);
    if (r == 0)
        r = reserve_patterns(&p->layer_numbers, count, field, err);
    if (r == 0 && count == 0)
        r = add_pattern(&p->layer_numbers, "[^.]*", "\\A.*?\\.", number, field, 0, err);
    for (size_t i = 0; r == 0 && i < count; i++)
        r = add_pattern(&p->layer_numbers, string_at(jsonfile_get(p->root, field), i),
                        "\\A(?:^|.*?\\.)", number, field, 0, err);
    return r;
}

static int parse_layers(struct peft *p, struct error *err)
{
    char shown[JSONFILE_SHOW_BYTES];
    const json_t *pattern = jsonfile_get(p->root, "layers_pattern");
    p->layers = jsonfile_get(p->root, "layers_to_transform");
    bool by_expression = json_is_string(jsonfile_get(p->root, "target_modules"));
    if (by_expression && (p->layers != NULL || pattern != NULL))
        return error_set(err, -EINVAL,
                         "\"%s\" does not go with an expression in \"target_modules\", which names "
                         "layers itself",
                         p->layers != NULL ? "layers_to_transform" : "layers_pattern");
    if (p->layers == NULL)
        return 0;
    if (!json_is_integer(p->layers) && !json_is_array(p->layers))
        return error_set(err, -EINVAL, "\"layers_to_transform\" is %s, layer numbers are needed",
                         jsonfile_show(p->layers, shown));
    if (json_is_array(p->layers) && json_array_size(p->layers) == 0)
        p->layers = NULL;
    return p->layers != NULL ? parse_layer_numbers(p, err) : 0;
}

static int parse_saved(struct peft *p, struct error *err)
{
    static const char field[] = "modules_to_save";
    size_t count = 0;
    int r = list_strings(p->root, field, &count, err);
    if (r == 0)
        r = reserve_patterns(&p->saved_exclude, count, field, err);
    for (size_t i = 0; r == 0 && i < count; i++)
        r = add_pattern(&p->saved_exclude, string_at(jsonfile_get(p->root, field), i),
                        "\\A(?:^|.*\\.)", "(?:$|\\..*)", field, 0, err);
    p->saved = count > 0 ? jsonfile_get(p->root, field) : NULL;
    return r;
}

static int parse_bias(struct peft *p, struct error *err)
{
    static const char *const names[] = {
        [PEFT_BIAS_NONE] = "none", [PEFT_BIAS_ALL] = "all", [PEFT_BIAS_LORA_ONLY] = "lora_only"};
    const char *name = names[PEFT_BIAS_NONE];
    int r = jsonfile_string(p->root, "bias", &name, err);
    if (r < 0)
        return r;
    for (uint32_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i]) == 0) {
            p->bias = i;
            return 0;
        }
    char shown[JSONFILE_SHOW_BYTES];
    return error_set(err, -ENOTSUP,
                     "\"bias\" is %s, supported are \"none\", \"all\" and \"lora_only\"",
                     jsonfile_show(jsonfile_get(p->root, "bias"), shown));
}

static bool is_empty(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_NULL:
    case JSON_FALSE:
        return true;
    case JSON_STRING:
        return json_string_length(value) == 0;
    case JSON_ARRAY:
        return json_array_size(value) == 0;
    case JSON_OBJECT:
        return json_object_size(value) == 0;
    case JSON_INTEGER:
    case JSON_REAL:
        return json_number_value(value) == 0;
    case JSON_TRUE:
        break;
    }
    return false;
}

static bool is_known(const char *key)
{
    static const char *const known[] = {
        /* honoured */
        "peft_type", "task_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern",
        "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
        "init_lora_weights", "bias", "modules_to_save", "use_dora", "ensure_weight_tying",
        /* without influence on what a trained adapter computes; fan_in_fan_out is for Conv1D, which
         * no supported architecture has */
        "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config", "fan_in_fan_out",
        "inference_mode", "lora_dropout", "megatron_core", "peft_version", "qalora_group_size",
        "revision", "runtime_config"};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(known[i], key) == 0)
            return true;
    return false;
}

/* What must have one of a few values. */
static int check_word(const json_t *root, const char *field, const char *const *words,
                      const char *supported, struct error *err)
{
    const json_t *value = jsonfile_get(root, field);
    if (value == NULL)
        return 0;
    for (; *words != NULL; words++)
        if (json_is_string(value) && strcmp(json_string_value(value), *words) == 0)
            return 0;
    char shown[JSONFILE_SHOW_BYTES];
    return error_set(err, -ENOTSUP, "\"%s\" is %s, supported is %s", field,
                     jsonfile_show(value, shown), supported);
}

static int check_fields(json_t *root, struct error *err)
{
    static const char *const types[] = {"LORA", NULL};
    static const char *const tasks[] = {"CAUSAL_LM", NULL};
    static const char *const inits[] = {"gaussian", "eva", "orthogonal", NULL};
    if (jsonfile_get(root, "peft_type") == NULL)
        return error_set(err, -EINVAL, "no \"peft_type\": is this a PEFT adapter?");
    int r = check_word(root, "peft_type", types, "\"LORA\"", err);
    if (r == 0)
        r = check_word(root, "task_type", tasks, "\"CAUSAL_LM\"", err);
    if (r < 0)
        return r;
    /* The other initialisations change the backbone's weights too. */
    const json_t *init = jsonfile_get(root, "init_lora_weights");
    if (init != NULL && !json_is_boolean(init)) {
        r = check_word(root, "init_lora_weights", inits,
                       "true, false, \"gaussian\", \"eva\" or \"orthogonal\" (convert it with "
                       "save_pretrained(path_initial_model_for_weight_conversion=...))",
                       err);
        if (r < 0)
            return r;
    }
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach(root, key, value)
    {
        char shown[JSONFILE_SHOW_BYTES];
        char name[JSONFILE_SHOW_BYTES];
        if (!is_known(key) && !is_empty(value))
            return error_set(err, -ENOTSUP, "\"%s\" is %s, which is not supported",
                             jsonfile_printable(key, strlen(key), name, sizeof name),
                             jsonfile_show(value, shown));
    }
    return 0;
}

static int parse_root(struct peft *p, struct error *err)
{
    int r = check_fields(p->root, err);
    if (r < 0)
        return r;
    p->rank = 8;
    float alpha = 8;
    r = jsonfile_u32(p->root, "r", 1, ADAPTER_RANK_MAX, &p->rank, err);
    if (r == 0)
        r = jsonfile_float(p->root, "lora_alpha", -1e6, 1e6, &alpha, err);
    if (r == 0)
        r = jsonfile_bool(p->root, "use_rslora", &p->use_rslora, err);
    if (r == 0)
        r = parse_patterns(p->root, "rank_pattern", 1, ADAPTER_RANK_MAX, &p->ranks, err);
    if (r == 0)
        r = parse_patterns(p->root, "alpha_pattern", -1e6, 1e6, &p->alphas, err);
    if (r == 0)
        r = parse_selection(p->root, "target_modules", &p->targets, err);
    if (r == 0)
        r = parse_selection(p->root, "exclude_modules", &p->excluded, err);
    if (r == 0)
        r = parse_layers(p, err);
    if (r == 0)
        r = parse_saved(p, err);
    if (r == 0)
        r = parse_bias(p, err);
    if (r == 0)
        r = jsonfile_bool(p->root, "use_dora", &p->use_dora, err);
    if (r == 0)
        r = jsonfile_bool(p->root, "ensure_weight_tying", &p->ties_weights, err);
    p->alpha = (double)alpha;
    return r;
}

int peft_parse(const char *json, size_t len, struct peft **ret, struct error *err)
{
    struct peft *p = calloc(1, sizeof *p);
    if (p == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    p->limits = pcre2_match_context_create(NULL);
    p->match = pcre2_match_data_create(GROUPS_MAX, NULL);
    int r = 0;
    if (p->limits == NULL || p->match == NULL)
        r = error_set(err, -ENOMEM, "out of memory");
    if (r == 0) {
        pcre2_set_match_limit(p->limits, MATCH_STEPS_MAX);
        pcre2_set_depth_limit(p->limits, MATCH_STEPS_MAX);
        r = jsonfile_parse(json, len, &peft_limits, &p->root, err);
    }
    if (r == 0)
        r = parse_root(p, err);
    if (r < 0) {
        peft_free(p);
        return r;
    }
    *ret = p;
    return 0;
}

static void free_patterns(struct pattern_list *l)
{
    for (uint32_t i = 0; i < l->count; i++)
        pcre2_code_free(l->items[i].code);
    free(l->items);
}

void peft_free(struct peft *p)
{
    if (p == NULL)
        return;
    free_patterns(&p->ranks);
    free_patterns(&p->alphas);
    free_patterns(&p->saved_exclude);
    free_patterns(&p->layer_numbers);
    pcre2_code_free(p->targets.code);
    pcre2_code_free(p->excluded.code);
    pcre2_match_data_free(p->match);
    pcre2_match_context_free(p->limits);
    json_decref(p->root);
    free(p);
}

/* --- asking --- */

/* The value of the first pattern that matches, as PEFT's get_pattern_key has it. */
static int find_pattern(const struct peft *p, const struct pattern_list *l, const char *field,
                        const char *name, double *ret, struct error *err)
{
    for (uint32_t i = 0; i < l->count; i++) {
        int r = match(p, l->items[i].code, name, field, err);
        if (r < 0)
            return r;
        if (r > 0) {
            *ret = l->items[i].value;
            return 0;
        }
    }
    return 0;
}

static bool ends_with_module(const char *name, const char *module)
{
    size_t len = strlen(name);
    size_t tail = strlen(module);
    if (tail > len || strcmp(name + len - tail, module) != 0)
        return false;
    return tail == len || name[len - tail - 1] == '.';
}

/* 1: selected, 0: not, or -errno. "all-linear" leaves out the head and the embedding. */
static int select_module(const struct peft *p, const struct selection *s, const char *field,
                         const char *name, struct error *err)
{
    if (s->all)
        return strcmp(name, "lm_head") != 0 && strcmp(name, "model.embed_tokens") != 0;
    if (s->code != NULL)
        return match(p, s->code, name, field, err);
    for (size_t i = 0; i < json_array_size(s->names); i++)
        if (ends_with_module(name, json_string_value(json_array_get(s->names, i))))
            return 1;
    return 0;
}

static bool lists_layer(const struct peft *p, long long layer)
{
    if (json_is_integer(p->layers))
        return json_integer_value(p->layers) == layer;
    for (size_t i = 0; i < json_array_size(p->layers); i++)
        if (json_is_integer(json_array_get(p->layers, i)) &&
            json_integer_value(json_array_get(p->layers, i)) == layer)
            return true;
    return false;
}

/* Whether the layer that a name has, by the first of the patterns that finds one, is among
 * layers_to_transform. A module named in full is adapted in any case. */
static int has_layer(const struct peft *p, const char *name, struct error *err)
{
    if (p->layers == NULL)
        return 1;
    for (size_t i = 0; i < json_array_size(p->targets.names); i++)
        if (strcmp(name, json_string_value(json_array_get(p->targets.names, i))) == 0)
            return 1;
    for (uint32_t i = 0; i < p->layer_numbers.count; i++) {
        const pcre2_code *code = p->layer_numbers.items[i].code;
        int r = match(p, code, name, "layers_pattern", err);
        if (r < 0)
            return r;
        int group = pcre2_substring_number_from_name(code, (PCRE2_SPTR) "idx");
        if (r == 0)
            continue;
        if (group < 0 || group >= (int)GROUPS_MAX)
            return error_set(err, -E2BIG, "an expression of \"layers_pattern\" has over %u groups",
                             GROUPS_MAX - 1);
        const size_t *at = pcre2_get_ovector_pointer(p->match);
        return lists_layer(p, strtoll(name + at[2 * group], NULL, 10));
    }
    return 0;
}

bool peft_saves_module(const struct peft *p, const char *name)
{
    size_t count = json_is_string(p->saved) ? 1 : json_array_size(p->saved);
    size_t name_bytes = strlen(name);
    /* The module itself, or one that holds it. */
    for (size_t end = name_bytes; end > 0; end--) {
        if (end != name_bytes && name[end] != '.')
            continue;
        for (size_t i = 0; i < count; i++) {
            const char *word = string_at(p->saved, i);
            size_t len = strlen(word);
            if (len > 0 && len <= end && memcmp(name + end - len, word, len) == 0)
                return true;
        }
    }
    return false;
}

/* Why PEFT would ignore LoRA tensors for this module: *ret_field is the name of a field, or NULL
 * when it would not. 0 or more, or -errno. */
static int leaves_out(const struct peft *p, const char *name, const char **ret_field,
                      struct error *err)
{
    *ret_field = NULL;
    int r = select_module(p, &p->excluded, "exclude_modules", name, err);
    if (r != 0) {
        *ret_field = "exclude_modules";
        return r;
    }
    for (uint32_t i = 0; r == 0 && i < p->saved_exclude.count; i++)
        r = match(p, p->saved_exclude.items[i].code, name, "modules_to_save", err);
    if (r != 0) {
        *ret_field = "modules_to_save";
        return r;
    }
    r = select_module(p, &p->targets, "target_modules", name, err);
    if (r <= 0) {
        *ret_field = "target_modules";
        return r;
    }
    r = has_layer(p, name, err);
    if (r == 0)
        *ret_field = "layers_to_transform";
    return r;
}

int peft_is_target(const struct peft *p, const char *name, bool *ret, struct error *err)
{
    const char *field = NULL;
    int r = leaves_out(p, name, &field, err);
    *ret = field == NULL;
    return r < 0 ? r : 0;
}

int peft_find_module(const struct peft *p, const char *name, struct peft_module *ret,
                     struct error *err)
{
    const char *field = NULL;
    int r = leaves_out(p, name, &field, err);
    /* PEFT trains a tied head by the embedding's LoRA and names the embedding only. */
    if (r >= 0 && field != NULL && p->ties_weights && strcmp(name, "lm_head") == 0)
        r = leaves_out(p, "model.embed_tokens", &field, err);
    if (r < 0)
        return r;
    if (field != NULL)
        return error_set(err, -EINVAL,
                         "has tensors for %s, but \"%s\" leaves it out: PEFT would ignore them",
                         name, field);
    double rank = p->rank;
    double alpha = p->alpha;
    r = find_pattern(p, &p->ranks, "rank_pattern", name, &rank, err);
    if (r == 0)
        r = find_pattern(p, &p->alphas, "alpha_pattern", name, &alpha, err);
    if (r < 0)
        return r;
    if (rank != floor(rank))
        return error_set(err, -EINVAL, "\"rank_pattern\" gives %s the rank %g", name, rank);
    ret->rank = (uint32_t)rank;
    ret->scale = (float)(alpha / (p->use_rslora ? sqrt(rank) : rank));
    return 0;
}

bool peft_uses_dora(const struct peft *p)
{
    return p->use_dora;
}

bool peft_ties_weights(const struct peft *p)
{
    return p->ties_weights;
}

enum peft_bias peft_bias(const struct peft *p)
{
    return p->bias;
}
