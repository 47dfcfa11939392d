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
    const char *base_model;
    uint32_t rank;
    double alpha;
    bool use_rslora;
    struct pattern_list ranks;
    struct pattern_list alphas;
    struct selection targets;
    struct selection excluded;
    const json_t *layers; /* layers_to_transform, in root; NULL: all */
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
    if (json_object_size(object) > PEFT_PATTERNS_MAX)
        return error_set(err, -E2BIG, "\"%s\" has %zu entries, the limit is %u", field,
                         json_object_size(object), PEFT_PATTERNS_MAX);
    ret->items = calloc(json_object_size(object) + 1, sizeof *ret->items);
    if (ret->items == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach(object, key, value)
    {
        double number = json_is_number(value) ? json_number_value(value) : NAN;
        if (!(number >= min && number <= max))
            return error_set(err, -EINVAL, "\"%s\" holds %s, supported is %g to %g", field,
                             jsonfile_show(value, shown), min, max);
        struct pattern *item = &ret->items[ret->count];
        int r = compile(key, "^(.*\\.)?(", ")$", field, &item->code, err);
        if (r < 0)
            return r;
        item->value = number;
        ret->count++;
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

static int parse_layers(struct peft *p, struct error *err)
{
    char shown[JSONFILE_SHOW_BYTES];
    p->layers = jsonfile_get(p->root, "layers_to_transform");
    if (p->layers == NULL)
        return 0;
    if (!json_is_integer(p->layers) && !json_is_array(p->layers))
        return error_set(err, -EINVAL, "\"layers_to_transform\" is %s, layer numbers are needed",
                         jsonfile_show(p->layers, shown));
    if (json_is_array(p->layers) && json_array_size(p->layers) == 0)
        p->layers = NULL;
    const json_t *pattern = jsonfile_get(p->root, "layers_pattern");
    if (json_is_array(pattern) && json_array_size(pattern) == 1)
        pattern = json_array_get(pattern, 0);
    bool any = pattern == NULL || (json_is_array(pattern) && json_array_size(pattern) == 0) ||
               (json_is_string(pattern) && json_string_length(pattern) == 0);
    if (!any && (!json_is_string(pattern) || strcmp(json_string_value(pattern), "layers") != 0))
        return error_set(err, -ENOTSUP, "\"layers_pattern\" is %s, supported is \"layers\"",
                         jsonfile_show(pattern, shown));
    return 0;
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
        "init_lora_weights", "bias",
        /* without influence on what a trained adapter computes */
        "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config", "inference_mode",
        "lora_dropout", "megatron_core", "peft_version", "qalora_group_size", "revision",
        "runtime_config"};
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
    static const char *const biases[] = {"none", NULL};
    static const char *const inits[] = {"gaussian", "eva", "orthogonal", NULL};
    if (jsonfile_get(root, "peft_type") == NULL)
        return error_set(err, -EINVAL, "no \"peft_type\": is this a PEFT adapter?");
    int r = check_word(root, "peft_type", types, "\"LORA\"", err);
    if (r == 0)
        r = check_word(root, "task_type", tasks, "\"CAUSAL_LM\"", err);
    if (r == 0)
        r = check_word(root, "bias", biases, "\"none\"", err);
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
    p->base_model = "";
    if (r == 0)
        r = jsonfile_string(p->root, "base_model_name_or_path", &p->base_model, err);
    p->alpha = (double)alpha;
    return r;
}

int peft_parse(const char *json, size_t len, struct peft **ret, struct error *err)
{
    struct peft *p = calloc(1, sizeof *p);
    if (p == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    p->limits = pcre2_match_context_create(NULL);
    p->match = pcre2_match_data_create(1, NULL);
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

/* 1: selected, 0: not, or -errno. */
static int select_module(const struct peft *p, const struct selection *s, const char *field,
                         const char *name, struct error *err)
{
    if (s->all)
        return 1;
    if (s->code != NULL)
        return match(p, s->code, name, field, err);
    for (size_t i = 0; i < json_array_size(s->names); i++)
        if (ends_with_module(name, json_string_value(json_array_get(s->names, i))))
            return 1;
    return 0;
}

/* Layer numbers go with a list of names only: an expression spells its layers itself. */
static bool has_layer(const struct peft *p, uint32_t layer)
{
    if (p->layers == NULL || p->targets.names == NULL)
        return true;
    if (json_is_integer(p->layers))
        return json_integer_value(p->layers) == layer;
    for (size_t i = 0; i < json_array_size(p->layers); i++)
        if (json_is_integer(json_array_get(p->layers, i)) &&
            json_integer_value(json_array_get(p->layers, i)) == layer)
            return true;
    return false;
}

int peft_find_module(const struct peft *p, const char *name, uint32_t layer,
                     struct peft_module *ret, struct error *err)
{
    int targeted = select_module(p, &p->targets, "target_modules", name, err);
    if (targeted < 0)
        return targeted;
    int excluded = select_module(p, &p->excluded, "exclude_modules", name, err);
    if (excluded < 0)
        return excluded;
    if (!targeted || excluded || !has_layer(p, layer))
        return error_set(err, -EINVAL,
                         "has tensors for %s, but %s leaves it out: PEFT would ignore them", name,
                         excluded    ? "\"exclude_modules\""
                         : !targeted ? "\"target_modules\""
                                     : "\"layers_to_transform\"");
    double rank = p->rank;
    double alpha = p->alpha;
    int r = find_pattern(p, &p->ranks, "rank_pattern", name, &rank, err);
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

const char *peft_base_model(const struct peft *p)
{
    return p->base_model;
}
