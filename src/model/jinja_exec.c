/*
 * Statements, scopes, loops and macros. A `for`, a macro, a captured block open a scope; an `if`
 * does not: what it sets stays set. Scopes live as long as the render, so a macro may outlive the
 * place where it was defined.
 */
#include <string.h>

#include "model/jinja_run.h"
#include "model/jinja_text.h"

enum flow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE };

static enum flow exec_body(struct jinja_run *r, const struct jinja_nodes *body);

/* --- names --- */

struct jinja_value jinja_lookup(struct jinja_run *r, struct jinja_str name)
{
    for (struct jinja_scope *s = r->scope; s != NULL; s = s->parent) {
        for (struct jinja_binding *b = s->first; b != NULL; b = b->next) {
            jinja_step(&r->env, 1);
            if (jinja_str_equal(b->name, name))
                return b->value;
        }
    }
    const struct jinja_value *v = jinja_dict_find_str(&r->env, r->context, name);
    if (v != NULL)
        return *v;
    const struct jinja_callable *f = jinja_find_function(name);
    if (f != NULL)
        return (struct jinja_value){.type = JINJA_FUNCTION, .function = jinja_function_id(f)};
    return jinja_undefined_named(name);
}

void jinja_bind(struct jinja_run *r, struct jinja_str name, struct jinja_value v)
{
    struct jinja_binding *b = r->scope->first;
    for (; b != NULL; b = b->next) {
        jinja_step(&r->env, 1);
        if (jinja_str_equal(b->name, name))
            break;
    }
    if (b == NULL) {
        b = jinja_alloc(&r->env, sizeof *b);
        b->next = r->scope->first;
        b->name = name;
        r->scope->first = b;
    }
    b->value = v;
}

static struct jinja_scope *scope_open(struct jinja_run *r, struct jinja_scope *parent)
{
    struct jinja_scope *before = r->scope;
    r->scope = jinja_alloc(&r->env, sizeof *r->scope);
    r->scope->parent = parent;
    return before;
}

static void assign(struct jinja_run *r, const struct jinja_node *target, struct jinja_value v)
{
    if (target->kind == JINJA_NODE_NAME) {
        jinja_bind(r, target->name, v);
        return;
    }
    if (target->kind == JINJA_NODE_NSREF) {
        struct jinja_value ns = jinja_lookup(r, target->name);
        if (ns.type != JINJA_NAMESPACE)
            jinja_fail(&r->env, "cannot assign attribute on non-namespace object");
        if (target->value.str.s[0] == '_')
            jinja_fail(&r->env, "a namespace takes no names that begin with an underscore");
        jinja_dict_set(&r->env, ns.dict, target->value, v);
        return;
    }
    struct jinja_value list = jinja_to_list(&r->env, v);
    if (list.list->count != target->items.count)
        jinja_fail(&r->env, "%s values to unpack (expected %zu, got %zu)",
                   list.list->count > target->items.count ? "too many" : "not enough",
                   target->items.count, list.list->count);
    for (size_t i = 0; i < target->items.count; i++)
        assign(r, target->items.at[i], list.list->items[i]);
}

/* --- loops --- */

/* The next item that passes the loop's own `if`. */
static bool loop_fetch(struct jinja_run *r, struct jinja_loop *loop, struct jinja_value *ret)
{
    while (jinja_next(&r->env, &loop->cursor, ret)) {
        if (loop->node->c == NULL)
            return true;
        struct jinja_scope *before = scope_open(r, loop->outer);
        assign(r, loop->node->a, *ret);
        bool passes = jinja_truth(jinja_eval(r, loop->node->c));
        r->scope = before;
        if (passes)
            return true;
    }
    return false;
}

bool jinja_loop_peek(struct jinja_run *r, struct jinja_loop *loop)
{
    if (!loop->has_after)
        loop->has_after = loop_fetch(r, loop, &loop->after);
    return loop->has_after;
}

static bool loop_advance(struct jinja_run *r, struct jinja_loop *loop)
{
    struct jinja_value v;
    if (loop->has_after)
        v = loop->after;
    else if (!loop_fetch(r, loop, &v))
        return false;
    loop->has_after = false;
    loop->index0++;
    loop->before = loop->current;
    loop->current = v;
    return true;
}

static int64_t loop_length(struct jinja_run *r, struct jinja_loop *loop)
{
    if (loop->node->c == NULL && jinja_is_sized(loop->cursor.of))
        return jinja_length(&r->env, loop->cursor.of);
    /* As Python does it: what is left is read into a list, and the loop goes on from there. */
    struct jinja_value rest = jinja_list_new(&r->env, JINJA_LIST);
    struct jinja_value v;
    while (loop_fetch(r, loop, &v))
        jinja_list_push(&r->env, rest.list, v);
    static const struct jinja_node plain = {.kind = JINJA_NODE_FOR};
    struct jinja_node *node = jinja_alloc(&r->env, sizeof *node);
    *node = plain;
    loop->node = node;
    int64_t length = (int64_t)rest.list->count + loop->index0 + 1 + loop->has_after;
    /* The list stands for the whole, so that the length stays what it is. */
    struct jinja_value whole = jinja_list_new(&r->env, JINJA_LIST);
    for (int64_t i = 0; i < length - (int64_t)rest.list->count; i++)
        jinja_list_push(&r->env, whole.list, jinja_none());
    loop->cursor = (struct jinja_cursor){.of = whole, .at = whole.list->count};
    for (size_t i = 0; i < rest.list->count; i++)
        jinja_list_push(&r->env, whole.list, rest.list->items[i]);
    return length;
}

static struct jinja_value loop_cycle(struct jinja_run *r, struct jinja_value of,
                                     const struct jinja_bound *b)
{
    if (b->raw->count == 0)
        jinja_fail(&r->env, "no items for cycling given");
    return b->raw->items[(size_t)of.loop->index0 % b->raw->count];
}

static struct jinja_value loop_changed(struct jinja_run *r, struct jinja_value of,
                                       const struct jinja_bound *b)
{
    struct jinja_value now = jinja_list_view(&r->env, JINJA_TUPLE, b->raw->items, b->raw->count);
    bool same = of.loop->changed_once && jinja_equal(&r->env, of.loop->changed, now);
    of.loop->changed = now;
    of.loop->changed_once = true;
    return jinja_bool(!same);
}

struct jinja_value jinja_loop_attribute(struct jinja_run *r, struct jinja_value v,
                                        struct jinja_str name)
{
    static const struct jinja_callable calls[] = {{"cycle", loop_cycle, "*"},
                                                  {"changed", loop_changed, "*"}};
    struct jinja_loop *loop = v.loop;
    if (jinja_str_is(name, "index"))
        return jinja_int(loop->index0 + 1);
    if (jinja_str_is(name, "index0"))
        return jinja_int(loop->index0);
    if (jinja_str_is(name, "first"))
        return jinja_bool(loop->index0 == 0);
    if (jinja_str_is(name, "last"))
        return jinja_bool(!jinja_loop_peek(r, loop));
    if (jinja_str_is(name, "length"))
        return jinja_int(loop_length(r, loop));
    if (jinja_str_is(name, "revindex"))
        return jinja_int(loop_length(r, loop) - loop->index0);
    if (jinja_str_is(name, "revindex0"))
        return jinja_int(loop_length(r, loop) - loop->index0 - 1);
    if (jinja_str_is(name, "depth") || jinja_str_is(name, "depth0"))
        return jinja_int(name.len == 5);
    if (jinja_str_is(name, "previtem"))
        return loop->index0 > 0 ? loop->before : jinja_undefined_hint("there is no previous item");
    if (jinja_str_is(name, "nextitem"))
        return jinja_loop_peek(r, loop) ? loop->after
                                        : jinja_undefined_hint("there is no next item");
    const struct jinja_callable *c = jinja_find_in(calls, 2, name);
    if (c == NULL)
        return jinja_undefined_in(&r->env, v, jinja_string(name));
    struct jinja_method *m = jinja_alloc(&r->env, sizeof *m);
    *m = (struct jinja_method){v, c};
    return (struct jinja_value){.type = JINJA_METHOD, .method = m};
}

static enum flow exec_for(struct jinja_run *r, const struct jinja_node *n)
{
    struct jinja_loop *loop = jinja_alloc(&r->env, sizeof *loop);
    struct jinja_scope *outer = r->scope;
    enum flow flow = FLOW_NEXT;
    bool none = true;
    *loop = (struct jinja_loop){.node = n, .outer = outer, .index0 = -1};
    loop->cursor = jinja_iterate(&r->env, jinja_eval(r, n->b));
    while (flow != FLOW_BREAK && loop_advance(r, loop)) {
        scope_open(r, outer);
        jinja_bind(r, JINJA_STR("loop"), (struct jinja_value){.type = JINJA_LOOP, .loop = loop});
        assign(r, n->a, loop->current);
        flow = exec_body(r, &n->body);
        r->scope = outer;
        /* Python clears its mark behind the body, so a first turn cut short leaves the else. */
        none = none && flow != FLOW_NEXT;
    }
    if (!none)
        return FLOW_NEXT;
    scope_open(r, outer);
    flow = exec_body(r, &n->other);
    r->scope = outer;
    return flow;
}

/* --- captured text and macros --- */

struct jinja_str jinja_exec_captured(struct jinja_run *r, const struct jinja_nodes *body)
{
    struct jinja_text text = jinja_text_begin(SIZE_MAX);
    struct jinja_text *before = r->out;
    r->out = &text;
    exec_body(r, body);
    r->out = before;
    return jinja_text_end(&text);
}

static void bind_named(struct jinja_run *r, const struct jinja_node *n,
                       const struct jinja_args *args, bool *taken)
{
    size_t first_default = n->name_count - n->named.count;
    for (size_t i = 0; i < n->name_count; i++) {
        if (i < args->count) {
            jinja_bind(r, n->names[i], args->items[i]);
            continue;
        }
        struct jinja_value v = {.type = JINJA_UNDEFINED,
                                .flags = JINJA_FLAG_HINT,
                                .str = JINJA_STR("a parameter of a macro was not provided")};
        bool found = false;
        for (size_t k = 0; k < args->named_count && !found; k++) {
            found = !taken[k] && jinja_str_equal(args->names[k], n->names[i]);
            if (found) {
                v = args->named[k];
                taken[k] = true;
            }
            jinja_step(&r->env, 1);
        }
        if (!found && i >= first_default)
            v = jinja_eval(r, n->named.at[i - first_default]);
        jinja_bind(r, n->names[i], v);
    }
}

/* What a call block brings; a parameter of that name has taken it already. */
static void bind_caller(struct jinja_run *r, const struct jinja_node *n,
                        const struct jinja_args *args, bool *taken)
{
    struct jinja_value v = {
        .type = JINJA_UNDEFINED, .flags = JINJA_FLAG_HINT, .str = JINJA_STR("No caller defined")};
    for (size_t i = 0; i < n->name_count; i++)
        if (jinja_str_is(n->names[i], "caller"))
            return;
    for (size_t k = 0; k < args->named_count; k++) {
        if (!taken[k] && jinja_str_is(args->names[k], "caller")) {
            v = args->named[k];
            taken[k] = true;
        }
    }
    jinja_bind(r, JINJA_STR("caller"), v);
}

static void bind_rest(struct jinja_run *r, const struct jinja_node *n,
                      const struct jinja_args *args, const bool *taken)
{
    struct jinja_value kwargs = jinja_dict_new(&r->env);
    for (size_t k = 0; k < args->named_count; k++) {
        if (taken[k])
            continue;
        if (!n->uses_kwargs)
            jinja_fail(&r->env, "macro '%.*s' takes no keyword argument '%.*s'",
                       (int)(n->name.len < 60 ? n->name.len : 60), n->name.s,
                       (int)(args->names[k].len < 60 ? args->names[k].len : 60), args->names[k].s);
        jinja_dict_set(&r->env, kwargs.dict, jinja_string(args->names[k]), args->named[k]);
    }
    if (args->count > n->name_count && !n->uses_varargs)
        jinja_fail(&r->env, "macro '%.*s' takes not more than %zu argument(s)",
                   (int)(n->name.len < 60 ? n->name.len : 60), n->name.s, n->name_count);
    if (n->uses_kwargs)
        jinja_bind(r, JINJA_STR("kwargs"), kwargs);
    if (!n->uses_varargs)
        return;
    size_t more = args->count > n->name_count ? args->count - n->name_count : 0;
    jinja_bind(
        r, JINJA_STR("varargs"),
        jinja_list_view(&r->env, JINJA_TUPLE, more > 0 ? args->items + n->name_count : NULL, more));
}

struct jinja_value jinja_call_macro(struct jinja_run *r, const struct jinja_macro *m,
                                    const struct jinja_args *args)
{
    jinja_enter(&r->env);
    struct jinja_scope *before = scope_open(r, m->scope);
    bool *taken = jinja_alloc_array(&r->env, args->named_count + 1, sizeof *taken);
    bind_named(r, m->node, args, taken);
    if (m->node->uses_caller)
        bind_caller(r, m->node, args, taken);
    bind_rest(r, m->node, args, taken);
    struct jinja_str text = jinja_exec_captured(r, &m->node->body);
    r->scope = before;
    jinja_leave(&r->env);
    return jinja_string(text);
}

/* --- statements --- */

/* Text through a chain of filters, the innermost of which has no operand. */
static struct jinja_value filter_text(struct jinja_run *r, const struct jinja_node *filter,
                                      struct jinja_str text)
{
    if (filter == NULL)
        return jinja_string(text);
    struct jinja_value v = filter_text(r, filter->a, text);
    struct jinja_args args = jinja_eval_args(r, filter);
    return jinja_apply_filter(r, filter->name, v, &args);
}

static enum flow exec_if(struct jinja_run *r, const struct jinja_node *n)
{
    if (jinja_truth(jinja_eval(r, n->a)))
        return exec_body(r, &n->body);
    for (size_t i = 0; i < n->items.count; i++)
        if (jinja_truth(jinja_eval(r, n->items.at[i]->a)))
            return exec_body(r, &n->items.at[i]->body);
    return exec_body(r, &n->other);
}

/* A body whose text is kept: `set` blocks and `filter` blocks. A break in it ends the loop. */
static enum flow exec_kept(struct jinja_run *r, const struct jinja_node *n)
{
    struct jinja_scope *before = scope_open(r, r->scope);
    struct jinja_text text = jinja_text_begin(SIZE_MAX);
    struct jinja_text *out = r->out;
    r->out = &text;
    enum flow flow = exec_body(r, &n->body);
    r->out = out;
    bool set = n->kind == JINJA_NODE_SET_BLOCK;
    struct jinja_value v = jinja_none();
    if (flow == FLOW_NEXT)
        v = filter_text(r, set ? n->b : n->a, jinja_text_end(&text));
    r->scope = before;
    if (flow == FLOW_NEXT && set)
        assign(r, n->a, v);
    else if (flow == FLOW_NEXT)
        jinja_print(&r->env, r->out, v);
    return flow;
}

static enum flow exec_with(struct jinja_run *r, const struct jinja_node *n)
{
    struct jinja_list values = {0};
    for (size_t i = 1; i < n->items.count; i += 2)
        jinja_list_push(&r->env, &values, jinja_eval(r, n->items.at[i]));
    struct jinja_scope *before = scope_open(r, r->scope);
    for (size_t i = 0; i + 1 < n->items.count; i += 2)
        assign(r, n->items.at[i], values.items[i / 2]);
    enum flow flow = exec_body(r, &n->body);
    r->scope = before;
    return flow;
}

static struct jinja_value macro_new(struct jinja_run *r, const struct jinja_node *n)
{
    struct jinja_macro *m = jinja_alloc(&r->env, sizeof *m);
    *m = (struct jinja_macro){n, r->scope};
    return (struct jinja_value){.type = JINJA_MACRO, .macro = m};
}

static void exec_call_block(struct jinja_run *r, const struct jinja_node *n)
{
    struct jinja_value f = jinja_eval(r, n->a->a);
    jinja_need_defined(&r->env, f);
    if (f.type != JINJA_MACRO)
        jinja_fail(&r->env, "a call block calls a macro, not '%s'", jinja_type_name(f));
    struct jinja_args given = jinja_eval_args(r, n->a), args = given;
    args.named_count = given.named_count + 1;
    args.names = jinja_alloc_array(&r->env, args.named_count, sizeof *args.names);
    args.named = jinja_alloc_array(&r->env, args.named_count, sizeof *args.named);
    for (size_t k = 0; k < given.named_count; k++) {
        args.names[k] = given.names[k];
        args.named[k] = given.named[k];
    }
    args.names[given.named_count] = n->name;
    args.named[given.named_count] = macro_new(r, n);
    jinja_print(&r->env, r->out, jinja_call_macro(r, f.macro, &args));
}

static enum flow exec_node(struct jinja_run *r, const struct jinja_node *n)
{
    switch (n->kind) {
    case JINJA_NODE_TEXT:
        jinja_text_add_str(&r->env, r->out, n->name);
        return FLOW_NEXT;
    case JINJA_NODE_PRINT:
        jinja_print(&r->env, r->out, jinja_eval(r, n->a));
        return FLOW_NEXT;
    case JINJA_NODE_IF:
        return exec_if(r, n);
    case JINJA_NODE_FOR:
        return exec_for(r, n);
    case JINJA_NODE_SET:
        assign(r, n->a, jinja_eval(r, n->b));
        return FLOW_NEXT;
    case JINJA_NODE_SET_BLOCK:
    case JINJA_NODE_FILTERED:
        return exec_kept(r, n);
    case JINJA_NODE_MACRO:
        jinja_bind(r, n->name, macro_new(r, n));
        return FLOW_NEXT;
    case JINJA_NODE_CALL_BLOCK:
        exec_call_block(r, n);
        return FLOW_NEXT;
    case JINJA_NODE_BREAK:
        return FLOW_BREAK;
    case JINJA_NODE_CONTINUE:
        return FLOW_CONTINUE;
    default: /* WITH, and SCOPE which sets nothing */
        return exec_with(r, n);
    }
}

static enum flow exec_body(struct jinja_run *r, const struct jinja_nodes *body)
{
    enum flow flow = FLOW_NEXT;
    jinja_enter(&r->env);
    for (size_t i = 0; i < body->count && flow == FLOW_NEXT; i++) {
        jinja_step(&r->env, 1);
        r->env.line = body->at[i]->line;
        flow = exec_node(r, body->at[i]);
    }
    jinja_leave(&r->env);
    return flow;
}

void jinja_exec_template(struct jinja_run *r, const struct jinja_nodes *body)
{
    scope_open(r, NULL);
    exec_body(r, body);
}
