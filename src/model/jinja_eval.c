/* Expressions. See jinja_run.h; recursion is bounded by the tree's depth and the run's. */
#include <string.h>

#include "model/jinja_run.h"
#include "model/jinja_text.h"

/* --- arguments --- */

static void spread_items(struct jinja_run *r, const struct jinja_node *n, struct jinja_list *into)
{
    struct jinja_value item;
    if (n->b == NULL)
        return;
    struct jinja_cursor c = jinja_iterate(&r->env, jinja_eval(r, n->b));
    while (jinja_next(&r->env, &c, &item))
        jinja_list_push(&r->env, into, item);
}

static const struct jinja_dict *spread_named(struct jinja_run *r, const struct jinja_node *n)
{
    if (n->c == NULL)
        return NULL;
    struct jinja_value v = jinja_eval(r, n->c);
    if (v.type != JINJA_DICT)
        jinja_fail(&r->env, "argument after ** must be a mapping, not %s", jinja_type_name(v));
    for (size_t i = 0; i < v.dict->count; i++)
        if (v.dict->pairs[i].key.type != JINJA_STR)
            jinja_fail(&r->env, "keywords must be strings");
    return v.dict;
}

struct jinja_args jinja_eval_args(struct jinja_run *r, const struct jinja_node *n)
{
    struct jinja_list items = {0};
    for (size_t i = 0; i < n->items.count; i++)
        jinja_list_push(&r->env, &items, jinja_eval(r, n->items.at[i]));
    spread_items(r, n, &items);
    const struct jinja_dict *more = spread_named(r, n);
    size_t count = n->named.count + (more != NULL ? more->count : 0);
    struct jinja_args args = {.items = items.items, .count = items.count, .named_count = count};
    if (count == 0)
        return args;
    args.names = jinja_alloc_array(&r->env, count, sizeof *args.names);
    args.named = jinja_alloc_array(&r->env, count, sizeof *args.named);
    for (size_t i = 0; i < n->named.count; i++) {
        args.names[i] = n->names[i];
        args.named[i] = jinja_eval(r, n->named.at[i]);
    }
    for (size_t i = n->named.count; i < count; i++) {
        args.names[i] = more->pairs[i - n->named.count].key.str;
        args.named[i] = more->pairs[i - n->named.count].value;
    }
    return args;
}

struct params {
    struct jinja_str at[JINJA_PARAMS_MAX];
    bool must[JINJA_PARAMS_MAX];
    size_t count;
};

static struct params split_params(const char *s)
{
    struct params p = {0};
    while (*s != '\0') {
        p.must[p.count] = *s == '!';
        s += *s == '!';
        size_t len = strcspn(s, " ");
        p.at[p.count++] = (struct jinja_str){s, len};
        s += len + (s[len] == ' ');
    }
    return p;
}

struct jinja_value jinja_call_bound(struct jinja_run *r, const struct jinja_callable *c,
                                    struct jinja_value of, const struct jinja_args *args)
{
    struct jinja_bound b = {.raw = args};
    if (c->fn == NULL)
        jinja_fail(&r->env, "'%s' is not supported", c->name);
    if (c->params[0] == '*')
        return c->fn(r, of, &b);
    struct params p = split_params(c->params);
    if (args->count > p.count)
        jinja_fail(&r->env, "'%s' takes at most %zu arguments, %zu given", c->name, p.count,
                   args->count);
    for (size_t i = 0; i < args->count; i++) {
        b.at[i] = args->items[i];
        b.given[i] = true;
    }
    for (size_t i = 0; i < args->named_count; i++) {
        size_t k = 0;
        while (k < p.count && !jinja_str_equal(p.at[k], args->names[i]))
            k++;
        if (k == p.count || b.given[k])
            jinja_fail(&r->env, "'%s' got an unexpected keyword argument '%.*s'", c->name,
                       (int)(args->names[i].len < 60 ? args->names[i].len : 60), args->names[i].s);
        b.at[k] = args->named[i];
        b.given[k] = true;
    }
    for (size_t i = 0; i < p.count; i++)
        if (p.must[i] && !b.given[i])
            jinja_fail(&r->env, "'%s' lacks its argument '%.*s'", c->name, (int)p.at[i].len,
                       p.at[i].s);
    return c->fn(r, of, &b);
}

struct jinja_value jinja_arg_or(const struct jinja_bound *b, size_t i, struct jinja_value other)
{
    return b->given[i] ? b->at[i] : other;
}

struct jinja_str jinja_arg_str(struct jinja_run *r, const struct jinja_bound *b, size_t i,
                               const char *other)
{
    if (!b->given[i])
        return (struct jinja_str){other, strlen(other)};
    jinja_need_defined(&r->env, b->at[i]);
    if (b->at[i].type != JINJA_STR)
        jinja_fail(&r->env, "an argument must be str, not %s", jinja_type_name(b->at[i]));
    return b->at[i].str;
}

int64_t jinja_arg_int(struct jinja_run *r, const struct jinja_bound *b, size_t i, int64_t other)
{
    if (!b->given[i])
        return other;
    jinja_need_defined(&r->env, b->at[i]);
    if (!jinja_is_int(b->at[i]))
        jinja_fail(&r->env, "'%s' object cannot be interpreted as an integer",
                   jinja_type_name(b->at[i]));
    return jinja_as_int(b->at[i]);
}

bool jinja_arg_truth(const struct jinja_bound *b, size_t i, bool other)
{
    return b->given[i] ? jinja_truth(b->at[i]) : other;
}

/* --- calls, filters, tests --- */

const struct jinja_callable *jinja_find_in(const struct jinja_callable *table, size_t count,
                                           struct jinja_str name)
{
    for (size_t i = 0; i < count; i++)
        if (jinja_str_is(name, table[i].name))
            return &table[i];
    return NULL;
}

/* What is made of a marked string is marked in Python too, as by these; others escape their
 * arguments then, and are refused. */
static struct jinja_value keep_mark(struct jinja_run *r, const char *name, struct jinja_value v)
{
    static const char *const keeping[] = {"strip", "lstrip", "rstrip", "trim",       "lower",
                                          "upper", "title",  "indent", "capitalize", "swapcase"};
    bool keeps = false;
    for (size_t i = 0; i < sizeof keeping / sizeof keeping[0]; i++)
        keeps |= strcmp(name, keeping[i]) == 0;
    if (!keeps || v.type != JINJA_STR)
        jinja_fail(&r->env, "'%s' on the result of `safe` or `escape` is not supported", name);
    v.flags = JINJA_FLAG_MARKUP;
    return v;
}

static struct jinja_value call_method(struct jinja_run *r, const struct jinja_method *m,
                                      const struct jinja_args *args)
{
    struct jinja_value v = jinja_call_bound(r, m->callable, m->of, args);
    bool text = v.type == JINJA_STR || v.type == JINJA_LIST || v.type == JINJA_TUPLE;
    return text && jinja_is_markup(m->of) ? keep_mark(r, m->callable->name, v) : v;
}

static struct jinja_value eval_call(struct jinja_run *r, const struct jinja_node *n)
{
    struct jinja_value f = jinja_eval(r, n->a);
    struct jinja_args args = jinja_eval_args(r, n);
    r->env.line = n->line;
    switch (f.type) {
    case JINJA_UNDEFINED:
        jinja_fail_undefined(&r->env, f);
    case JINJA_MACRO:
        return jinja_call_macro(r, f.macro, &args);
    case JINJA_METHOD:
        return call_method(r, f.method, &args);
    case JINJA_FUNCTION:
        return jinja_call_bound(r, jinja_function_at(f.function), f, &args);
    case JINJA_LOOP:
        jinja_fail(&r->env, "recursive loops are not supported");
    default:
        jinja_fail(&r->env, "'%s' object is not callable", jinja_type_name(f));
    }
}

struct jinja_value jinja_apply_filter(struct jinja_run *r, struct jinja_str name,
                                      struct jinja_value v, const struct jinja_args *args)
{
    const struct jinja_callable *c = jinja_find_filter(name);
    if (c == NULL)
        c = jinja_find_select(name);
    if (c == NULL)
        jinja_fail(&r->env, "No filter named '%.*s'", (int)(name.len < 60 ? name.len : 60), name.s);
    struct jinja_value out = jinja_call_bound(r, c, v, args);
    /* Of the filters only these keep to Python's marked strings; the others take plain ones. */
    static const char *const marking[] = {"trim",       "lower",  "upper",
                                          "capitalize", "indent", "format"};
    for (size_t i = 0; jinja_is_markup(v) && i < sizeof marking / sizeof marking[0]; i++)
        if (strcmp(c->name, marking[i]) == 0)
            return keep_mark(r, c->name, out);
    return out;
}

bool jinja_apply_test(struct jinja_run *r, struct jinja_str name, struct jinja_value v,
                      const struct jinja_args *args)
{
    const struct jinja_callable *c = jinja_find_test(name);
    if (c == NULL)
        jinja_fail(&r->env, "No test named '%.*s'", (int)(name.len < 60 ? name.len : 60), name.s);
    return jinja_truth(jinja_call_bound(r, c, v, args));
}

static struct jinja_value eval_filter(struct jinja_run *r, const struct jinja_node *n)
{
    struct jinja_value v = jinja_eval(r, n->a);
    struct jinja_args args = jinja_eval_args(r, n);
    r->env.line = n->line;
    return jinja_apply_filter(r, n->name, v, &args);
}

static struct jinja_value eval_test(struct jinja_run *r, const struct jinja_node *n)
{
    struct jinja_value v = jinja_eval(r, n->a);
    struct jinja_args args = jinja_eval_args(r, n);
    r->env.line = n->line;
    return jinja_bool(jinja_apply_test(r, n->name, v, &args));
}

/* --- the rest --- */

static struct jinja_value eval_items(struct jinja_run *r, const struct jinja_node *n,
                                     enum jinja_type type)
{
    struct jinja_value v = jinja_list_new(&r->env, type);
    for (size_t i = 0; i < n->items.count; i++)
        jinja_list_push(&r->env, v.list, jinja_eval(r, n->items.at[i]));
    return v;
}

static struct jinja_value eval_dict(struct jinja_run *r, const struct jinja_node *n)
{
    struct jinja_value v = jinja_dict_new(&r->env);
    for (size_t i = 0; i + 1 < n->items.count; i += 2) {
        struct jinja_value key = jinja_eval(r, n->items.at[i]);
        jinja_dict_set(&r->env, v.dict, key, jinja_eval(r, n->items.at[i + 1]));
    }
    return v;
}

static struct jinja_value eval_compare(struct jinja_run *r, const struct jinja_node *n)
{
    struct jinja_value left = jinja_eval(r, n->a);
    for (size_t i = 0; i < n->items.count; i++) {
        struct jinja_value right = jinja_eval(r, n->items.at[i]->a);
        r->env.line = n->line;
        if (!jinja_compare(r, n->items.at[i]->op, left, right))
            return jinja_bool(false);
        left = right;
    }
    return jinja_bool(true);
}

static struct jinja_value eval_concat(struct jinja_run *r, const struct jinja_node *n)
{
    /* All parts first: a part may itself build text, and this one should grow in place. */
    struct jinja_value parts = eval_items(r, n, JINJA_LIST);
    struct jinja_text t = jinja_text_begin(SIZE_MAX);
    for (size_t i = 0; i < parts.list->count; i++)
        jinja_print(&r->env, &t, parts.list->items[i]);
    return jinja_string(jinja_text_end(&t));
}

static struct jinja_value eval_slice(struct jinja_run *r, const struct jinja_node *n)
{
    const struct jinja_node *parts[3] = {n->b, n->c, n->d};
    struct jinja_value v[3];
    struct jinja_value of = jinja_eval(r, n->a);
    for (size_t i = 0; i < 3; i++)
        v[i] = parts[i] != NULL ? jinja_eval(r, parts[i]) : jinja_none();
    return jinja_slice(r, of, &v[0], &v[1], &v[2]);
}

static struct jinja_value eval_cond(struct jinja_run *r, const struct jinja_node *n)
{
    if (jinja_truth(jinja_eval(r, n->a)))
        return jinja_eval(r, n->b);
    if (n->c != NULL)
        return jinja_eval(r, n->c);
    return jinja_undefined_hint("the inline if-expression evaluated to false and no else section "
                                "was defined.");
}

static struct jinja_value eval_operator(struct jinja_run *r, const struct jinja_node *n)
{
    struct jinja_value a = jinja_eval(r, n->a);
    if (n->kind == JINJA_NODE_NEGATE || n->kind == JINJA_NODE_PLUS)
        return jinja_negate(r, a, n->kind == JINJA_NODE_NEGATE);
    struct jinja_value b = jinja_eval(r, n->b);
    r->env.line = n->line;
    return jinja_binary(r, n->op, a, b);
}

static struct jinja_value eval_access(struct jinja_run *r, const struct jinja_node *n)
{
    struct jinja_value of = jinja_eval(r, n->a);
    if (n->kind == JINJA_NODE_GETATTR) {
        r->env.line = n->line;
        return jinja_get_attr(r, of, n->name);
    }
    struct jinja_value key = jinja_eval(r, n->b);
    r->env.line = n->line;
    return jinja_get_item(r, of, key);
}

static struct jinja_value eval_kind(struct jinja_run *r, const struct jinja_node *n)
{
    struct jinja_value v;
    switch (n->kind) {
    case JINJA_NODE_CONST:
        return n->value;
    case JINJA_NODE_NAME:
        return jinja_lookup(r, n->name);
    case JINJA_NODE_TUPLE:
        return eval_items(r, n, JINJA_TUPLE);
    case JINJA_NODE_LIST:
        return eval_items(r, n, JINJA_LIST);
    case JINJA_NODE_DICT:
        return eval_dict(r, n);
    case JINJA_NODE_GETATTR:
    case JINJA_NODE_GETITEM:
        return eval_access(r, n);
    case JINJA_NODE_SLICE:
        return eval_slice(r, n);
    case JINJA_NODE_CALL:
        return eval_call(r, n);
    case JINJA_NODE_FILTER:
        return eval_filter(r, n);
    case JINJA_NODE_TEST:
        return eval_test(r, n);
    case JINJA_NODE_NOT:
        return jinja_bool(!jinja_truth(jinja_eval(r, n->a)));
    case JINJA_NODE_AND:
        v = jinja_eval(r, n->a);
        return jinja_truth(v) ? jinja_eval(r, n->b) : v;
    case JINJA_NODE_OR:
        v = jinja_eval(r, n->a);
        return jinja_truth(v) ? v : jinja_eval(r, n->b);
    case JINJA_NODE_COMPARE:
        return eval_compare(r, n);
    case JINJA_NODE_CONCAT:
        return eval_concat(r, n);
    case JINJA_NODE_COND:
        return eval_cond(r, n);
    default:
        return eval_operator(r, n);
    }
}

struct jinja_value jinja_eval(struct jinja_run *r, const struct jinja_node *n)
{
    jinja_step(&r->env, 1);
    jinja_enter(&r->env);
    struct jinja_value v = eval_kind(r, n);
    jinja_leave(&r->env);
    return v;
}
