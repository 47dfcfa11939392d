/* Statements. What Jinja has and chat templates have no use for is refused by its name. */
#include "model/jinja_parse.h"

static struct jinja_nodes parse_statements(struct jinja_parser *p, const char *const *ends);

static void expect_block_end(struct jinja_parser *p)
{
    if (p->now.type != JINJA_TOKEN_BLOCK_END)
        jinja_parse_fail_expected(p, "the end of the block");
    jinja_parse_next(p);
}

static void add_body(struct jinja_parser *p, struct jinja_node *n, struct jinja_nodes *into,
                     const char *const *ends)
{
    *into = parse_statements(p, ends);
    for (size_t i = 0; i < into->count; i++)
        jinja_parse_node_deepen(p, n, into->at[i]);
}

static bool is_reserved(struct jinja_str name)
{
    static const char *const words[] = {"true", "false", "none", "True",  "False", "None",
                                        "and",  "or",    "not",  "if",    "else",  "elif",
                                        "in",   "is",    "for",  "while", "loop"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (jinja_str_is(name, words[i]))
            return true;
    return false;
}

static struct jinja_node *parse_target_name(struct jinja_parser *p, bool with_namespace)
{
    struct jinja_node *n = jinja_parse_node_new(p, JINJA_NODE_NAME);
    if (jinja_parse_skip_op(p, '(')) {
        jinja_enter(p->env);
        n->kind = JINJA_NODE_TUPLE;
        while (!jinja_parse_skip_op(p, ')')) {
            jinja_parse_nodes_push(p, n, &n->items, parse_target_name(p, with_namespace));
            if (!jinja_parse_is_op(p, ')'))
                jinja_parse_expect_op(p, ',');
        }
        jinja_leave(p->env);
        return n;
    }
    n->name = jinja_parse_expect_name(p);
    if (is_reserved(n->name))
        jinja_fail(p->env, "can't assign to '%.*s'", (int)n->name.len, n->name.s);
    if (with_namespace && jinja_parse_skip_op(p, '.')) {
        n->kind = JINJA_NODE_NSREF;
        n->value = jinja_string(jinja_parse_expect_name(p));
    }
    return n;
}

static struct jinja_node *parse_target(struct jinja_parser *p, bool with_namespace)
{
    struct jinja_node *first = parse_target_name(p, with_namespace);
    if (!jinja_parse_is_op(p, ','))
        return first;
    struct jinja_node *n = jinja_parse_node_new(p, JINJA_NODE_TUPLE);
    jinja_parse_nodes_push(p, n, &n->items, first);
    while (jinja_parse_skip_op(p, ','))
        if (p->now.type == JINJA_TOKEN_NAME || jinja_parse_is_op(p, '('))
            if (!jinja_parse_is_word(p, "in"))
                jinja_parse_nodes_push(p, n, &n->items, parse_target_name(p, with_namespace));
    return n;
}

static struct jinja_node *parse_for(struct jinja_parser *p)
{
    struct jinja_node *n = jinja_parse_node_new(p, JINJA_NODE_FOR);
    n->a = parse_target(p, false);
    if (!jinja_parse_skip_word(p, "in"))
        jinja_parse_fail_expected(p, "'in'");
    n->b = jinja_parse_tuple(p, false, false, "recursive");
    if (jinja_parse_skip_word(p, "if"))
        n->c = jinja_parse_expression(p);
    if (jinja_parse_is_word(p, "recursive"))
        jinja_fail(p->env, "recursive loops are not supported");
    jinja_parse_node_deepen(p, n, n->a);
    jinja_parse_node_deepen(p, n, n->b);
    jinja_parse_node_deepen(p, n, n->c);
    p->loops++;
    add_body(p, n, &n->body, (const char *const[]){"endfor", "else", NULL});
    p->loops--;
    if (jinja_parse_skip_word(p, "else"))
        add_body(p, n, &n->other, (const char *const[]){"endfor", NULL});
    jinja_parse_next(p);
    return n;
}

static struct jinja_node *parse_if(struct jinja_parser *p)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    struct jinja_node *n = jinja_parse_node_new(p, JINJA_NODE_IF);
    n->a = jinja_parse_tuple(p, false, false, NULL);
    jinja_parse_node_deepen(p, n, n->a);
    add_body(p, n, &n->body, ends);
    while (jinja_parse_skip_word(p, "elif")) {
        struct jinja_node *e = jinja_parse_node_new(p, JINJA_NODE_IF);
        e->a = jinja_parse_tuple(p, false, false, NULL);
        jinja_parse_node_deepen(p, e, e->a);
        add_body(p, e, &e->body, ends);
        jinja_parse_nodes_push(p, n, &n->items, e);
    }
    if (jinja_parse_skip_word(p, "else"))
        add_body(p, n, &n->other, (const char *const[]){"endif", NULL});
    if (!jinja_parse_skip_word(p, "endif"))
        jinja_parse_fail_expected(p, "'endif'");
    return n;
}

static struct jinja_node *parse_set(struct jinja_parser *p)
{
    struct jinja_node *n = jinja_parse_node_new(p, JINJA_NODE_SET);
    n->a = parse_target(p, true);
    if (jinja_parse_skip_op(p, '=')) {
        n->b = jinja_parse_tuple(p, true, false, NULL);
        jinja_parse_node_deepen(p, n, n->b);
        return n;
    }
    n->kind = JINJA_NODE_SET_BLOCK;
    while (jinja_parse_skip_op(p, '|'))
        n->b = jinja_parse_filter(p, n->b);
    jinja_parse_node_deepen(p, n, n->b);
    add_body(p, n, &n->body, (const char *const[]){"endset", NULL});
    jinja_parse_next(p);
    return n;
}

static void parse_parameters(struct jinja_parser *p, struct jinja_node *n)
{
    jinja_parse_expect_op(p, '(');
    while (!jinja_parse_is_op(p, ')')) {
        if (n->name_count > 0)
            jinja_parse_expect_op(p, ',');
        jinja_parse_name_push(p, n, jinja_parse_expect_name(p));
        if (jinja_parse_skip_op(p, '='))
            jinja_parse_nodes_push(p, n, &n->named, jinja_parse_expression(p));
        else if (n->named.count > 0)
            jinja_fail(p->env, "non-default argument follows default argument");
    }
    jinja_parse_next(p);
}

/* A body that is called: what it names of the call's is known before it runs. */
static void add_called_body(struct jinja_parser *p, struct jinja_node *n, const char *end)
{
    bool varargs = p->saw_varargs, kwargs = p->saw_kwargs, caller = p->saw_caller;
    unsigned loops = p->loops;
    p->saw_varargs = p->saw_kwargs = p->saw_caller = false;
    p->loops = 0;
    add_body(p, n, &n->body, (const char *const[]){end, NULL});
    jinja_parse_next(p);
    n->uses_varargs = p->saw_varargs;
    n->uses_kwargs = p->saw_kwargs;
    n->uses_caller = p->saw_caller;
    p->saw_varargs = varargs;
    p->saw_kwargs = kwargs;
    p->saw_caller |= caller; /* of a macro within this one, as in Jinja */
    p->loops = loops;
}

static struct jinja_node *parse_macro(struct jinja_parser *p)
{
    struct jinja_node *n = jinja_parse_node_new(p, JINJA_NODE_MACRO);
    n->name = jinja_parse_expect_name(p);
    parse_parameters(p, n);
    add_called_body(p, n, "endmacro");
    return n;
}

static struct jinja_node *parse_call_block(struct jinja_parser *p)
{
    struct jinja_node *n = jinja_parse_node_new(p, JINJA_NODE_CALL_BLOCK);
    n->name = JINJA_STR("caller");
    if (jinja_parse_is_op(p, '('))
        parse_parameters(p, n);
    n->a = jinja_parse_expression(p);
    if (n->a->kind != JINJA_NODE_CALL)
        jinja_parse_fail_expected(p, "a call");
    jinja_parse_node_deepen(p, n, n->a);
    add_called_body(p, n, "endcall");
    return n;
}

static struct jinja_node *parse_with(struct jinja_parser *p)
{
    struct jinja_node *n = jinja_parse_node_new(p, JINJA_NODE_WITH);
    while (p->now.type != JINJA_TOKEN_BLOCK_END) {
        if (n->items.count > 0)
            jinja_parse_expect_op(p, ',');
        jinja_parse_nodes_push(p, n, &n->items, parse_target_name(p, false));
        jinja_parse_expect_op(p, '=');
        jinja_parse_nodes_push(p, n, &n->items, jinja_parse_expression(p));
    }
    add_body(p, n, &n->body, (const char *const[]){"endwith", NULL});
    jinja_parse_next(p);
    return n;
}

static struct jinja_node *parse_filtered(struct jinja_parser *p)
{
    struct jinja_node *n = jinja_parse_node_new(p, JINJA_NODE_FILTERED);
    n->a = jinja_parse_filter(p, NULL);
    while (jinja_parse_skip_op(p, '|'))
        n->a = jinja_parse_filter(p, n->a);
    jinja_parse_node_deepen(p, n, n->a);
    add_body(p, n, &n->body, (const char *const[]){"endfilter", NULL});
    jinja_parse_next(p);
    return n;
}

static struct jinja_node *parse_statement(struct jinja_parser *p)
{
    struct jinja_str word = jinja_parse_expect_name(p);
    if (jinja_str_is(word, "if"))
        return parse_if(p);
    if (jinja_str_is(word, "for"))
        return parse_for(p);
    if (jinja_str_is(word, "set"))
        return parse_set(p);
    if (jinja_str_is(word, "macro"))
        return parse_macro(p);
    if (jinja_str_is(word, "call"))
        return parse_call_block(p);
    if (jinja_str_is(word, "with"))
        return parse_with(p);
    if (jinja_str_is(word, "filter"))
        return parse_filtered(p);
    if (jinja_str_is(word, "generation")) {
        struct jinja_node *n = jinja_parse_node_new(p, JINJA_NODE_SCOPE);
        add_body(p, n, &n->body, (const char *const[]){"endgeneration", NULL});
        jinja_parse_next(p);
        return n;
    }
    bool is_break = jinja_str_is(word, "break");
    if (is_break || jinja_str_is(word, "continue")) {
        if (p->loops == 0)
            jinja_fail(p->env, "'%.*s' outside of a loop", (int)word.len, word.s);
        return jinja_parse_node_new(p, is_break ? JINJA_NODE_BREAK : JINJA_NODE_CONTINUE);
    }
    int len = (int)(word.len < 60 ? word.len : 60);
    jinja_fail(p->env, "the tag '%.*s' is unknown, out of place or not supported", len, word.s);
}

static bool is_one_of(const struct jinja_parser *p, const char *const *words)
{
    for (; words != NULL && *words != NULL; words++)
        if (jinja_parse_is_word(p, *words))
            return true;
    return false;
}

/* Statements up to one of `ends` (left as the current token), or up to the end without them. */
static struct jinja_nodes parse_body(struct jinja_parser *p, const char *const *ends)
{
    struct jinja_nodes list = {0};
    jinja_enter(p->env);
    while (p->now.type != JINJA_TOKEN_END) {
        if (p->now.type == JINJA_TOKEN_DATA) {
            struct jinja_node *n = jinja_parse_node_new(p, JINJA_NODE_TEXT);
            n->name = p->now.text;
            jinja_parse_nodes_push(p, NULL, &list, n);
            jinja_parse_next(p);
        } else if (p->now.type == JINJA_TOKEN_PRINT_BEGIN) {
            jinja_parse_next(p);
            jinja_parse_nodes_push(p, NULL, &list,
                                   jinja_parse_node_of(p, JINJA_NODE_PRINT,
                                                       jinja_parse_tuple(p, true, false, NULL),
                                                       NULL));
            if (p->now.type != JINJA_TOKEN_PRINT_END)
                jinja_parse_fail_expected(p, "the end of the print statement");
            jinja_parse_next(p);
        } else {
            jinja_parse_next(p);
            if (is_one_of(p, ends))
                break;
            jinja_parse_nodes_push(p, NULL, &list, parse_statement(p));
            expect_block_end(p);
        }
    }
    if (ends != NULL && p->now.type == JINJA_TOKEN_END)
        jinja_fail(p->env, "unexpected end of template, looking for '%s'", ends[0]);
    jinja_leave(p->env);
    return list;
}

static struct jinja_nodes parse_statements(struct jinja_parser *p, const char *const *ends)
{
    jinja_parse_skip_op(p, ':');
    expect_block_end(p);
    return parse_body(p, ends);
}

struct jinja_nodes jinja_parse(struct jinja_env *env, struct jinja_str source)
{
    struct jinja_parser p = {.env = env};
    jinja_lexer_begin(&p.lexer, env, source);
    p.then = jinja_lexer_next(&p.lexer);
    jinja_parse_next(&p);
    return parse_body(&p, NULL);
}
