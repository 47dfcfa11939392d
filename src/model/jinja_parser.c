/*
 * Tokens to a tree, with Jinja's grammar: precedence, trailing commas, tuples without brackets.
 * What Jinja has and chat templates have no use for is refused by name. Recursion is bounded by the
 * depth of the environment and by JINJA_TREE_DEPTH_MAX, which also holds for chains of operators.
 */
#include <string.h>

#include "model/jinja_ast.h"

struct parser {
    struct jinja_env *env;
    struct jinja_lexer lexer;
    struct jinja_token now;
    struct jinja_token then; /* one ahead */
    unsigned loops;          /* that a break here could leave */
    bool saw_varargs;
    bool saw_kwargs;
};

static struct jinja_node *parse_expression(struct parser *p);
static struct jinja_node *parse_or(struct parser *p);
static struct jinja_nodes parse_statements(struct parser *p, const char *const *ends);

/* --- tokens --- */

static void next(struct parser *p)
{
    p->now = p->then;
    p->env->line = p->now.line;
    if (p->then.type != JINJA_TOKEN_END)
        p->then = jinja_lexer_next(&p->lexer);
}

static bool is_op(const struct parser *p, int op)
{
    return p->now.type == JINJA_TOKEN_OP && p->now.op == op;
}

static bool is_word(const struct parser *p, const char *word)
{
    return p->now.type == JINJA_TOKEN_NAME && jinja_str_is(p->now.text, word);
}

static bool skip_op(struct parser *p, int op)
{
    bool yes = is_op(p, op);
    if (yes)
        next(p);
    return yes;
}

static bool skip_word(struct parser *p, const char *word)
{
    bool yes = is_word(p, word);
    if (yes)
        next(p);
    return yes;
}

static _Noreturn void fail_expected(struct parser *p, const char *what)
{
    int len = (int)(p->now.text.len < 60 ? p->now.text.len : 60);
    jinja_fail(p->env, "expected %s, got '%.*s'", what, len, p->now.text.s);
}

static void expect_op(struct parser *p, int op)
{
    char what[4] = {'\'', (char)op, '\''};
    if (!skip_op(p, op))
        fail_expected(p, what);
}

static struct jinja_str expect_name(struct parser *p)
{
    if (p->now.type != JINJA_TOKEN_NAME)
        fail_expected(p, "a name");
    struct jinja_str name = p->now.text;
    next(p);
    return name;
}

static void expect_block_end(struct parser *p)
{
    if (p->now.type != JINJA_TOKEN_BLOCK_END)
        fail_expected(p, "the end of the block");
    next(p);
}

/* --- nodes --- */

static struct jinja_node *node_new(struct parser *p, enum jinja_kind kind)
{
    struct jinja_node *n = jinja_alloc(p->env, sizeof *n);
    n->kind = kind;
    n->depth = 1;
    n->line = p->now.line;
    return n;
}

static void node_deepen(struct parser *p, struct jinja_node *n, const struct jinja_node *child)
{
    if (child == NULL || child->depth < n->depth)
        return;
    if (child->depth >= JINJA_TREE_DEPTH_MAX)
        jinja_fail_limit(p->env, "the depth of nesting");
    n->depth = child->depth + 1u;
}

static void nodes_push(struct parser *p, struct jinja_node *parent, struct jinja_nodes *list,
                       struct jinja_node *n)
{
    if (list->count == list->cap) {
        size_t cap = list->cap < 4 ? 4 : list->cap * 2;
        struct jinja_node **grown = jinja_alloc_array(p->env, cap, sizeof(struct jinja_node *));
        if (list->count > 0)
            memcpy(grown, list->at, list->count * sizeof(struct jinja_node *));
        list->at = grown;
        list->cap = cap;
    }
    list->at[list->count++] = n;
    if (parent != NULL)
        node_deepen(p, parent, n);
}

static struct jinja_node *node_of(struct parser *p, enum jinja_kind kind, struct jinja_node *a,
                                  struct jinja_node *b)
{
    struct jinja_node *n = node_new(p, kind);
    n->a = a;
    n->b = b;
    node_deepen(p, n, a);
    node_deepen(p, n, b);
    return n;
}

static void name_push(struct parser *p, struct jinja_node *n, struct jinja_str name)
{
    if ((n->name_count & (n->name_count - 1)) == 0) {
        size_t cap = n->name_count == 0 ? 1 : n->name_count * 2;
        struct jinja_str *grown = jinja_alloc_array(p->env, cap, sizeof *grown);
        if (n->name_count > 0)
            memcpy(grown, n->names, n->name_count * sizeof *grown);
        n->names = grown;
    }
    n->names[n->name_count++] = name;
}

static void add_body(struct parser *p, struct jinja_node *n, struct jinja_nodes *into,
                     const char *const *ends)
{
    *into = parse_statements(p, ends);
    for (size_t i = 0; i < into->count; i++)
        node_deepen(p, n, into->at[i]);
}

/* --- expressions, the tightest first --- */

static struct jinja_node *parse_tuple(struct parser *p, bool cond, bool brackets, const char *end);

static struct jinja_node *parse_list(struct parser *p)
{
    struct jinja_node *n = node_new(p, JINJA_NODE_LIST);
    expect_op(p, '[');
    while (!is_op(p, ']')) {
        if (n->items.count > 0)
            expect_op(p, ',');
        if (is_op(p, ']'))
            break;
        nodes_push(p, n, &n->items, parse_expression(p));
    }
    next(p);
    return n;
}

static struct jinja_node *parse_dict(struct parser *p)
{
    struct jinja_node *n = node_new(p, JINJA_NODE_DICT);
    expect_op(p, '{');
    while (!is_op(p, '}')) {
        if (n->items.count > 0)
            expect_op(p, ',');
        if (is_op(p, '}'))
            break;
        nodes_push(p, n, &n->items, parse_expression(p));
        expect_op(p, ':');
        nodes_push(p, n, &n->items, parse_expression(p));
    }
    next(p);
    return n;
}

static struct jinja_node *parse_name(struct parser *p)
{
    struct jinja_node *n = node_new(p, JINJA_NODE_CONST);
    struct jinja_str name = expect_name(p);
    if (jinja_str_is(name, "true") || jinja_str_is(name, "True"))
        n->value = jinja_bool(true);
    else if (jinja_str_is(name, "false") || jinja_str_is(name, "False"))
        n->value = jinja_bool(false);
    else if (jinja_str_is(name, "none") || jinja_str_is(name, "None"))
        n->value = jinja_none();
    else
        n->kind = JINJA_NODE_NAME;
    n->name = name;
    p->saw_varargs |= n->kind == JINJA_NODE_NAME && jinja_str_is(name, "varargs");
    p->saw_kwargs |= n->kind == JINJA_NODE_NAME && jinja_str_is(name, "kwargs");
    return n;
}

static struct jinja_node *parse_string(struct parser *p)
{
    struct jinja_node *n = node_new(p, JINJA_NODE_CONST);
    n->value = jinja_string(p->now.text);
    next(p);
    if (p->now.type != JINJA_TOKEN_STRING)
        return n;
    struct jinja_text t = jinja_text_begin(SIZE_MAX);
    jinja_text_add_str(p->env, &t, n->value.str);
    for (; p->now.type == JINJA_TOKEN_STRING; next(p))
        jinja_text_add_str(p->env, &t, p->now.text);
    n->value = jinja_string(jinja_text_end(&t));
    return n;
}

static struct jinja_node *parse_primary(struct parser *p)
{
    struct jinja_node *n;
    switch (p->now.type) {
    case JINJA_TOKEN_NAME:
        return parse_name(p);
    case JINJA_TOKEN_STRING:
        return parse_string(p);
    case JINJA_TOKEN_NUMBER:
        n = node_new(p, JINJA_NODE_CONST);
        n->value = p->now.value;
        next(p);
        return n;
    default:
        break;
    }
    if (skip_op(p, '(')) {
        n = parse_tuple(p, true, true, NULL);
        expect_op(p, ')');
        return n;
    }
    if (is_op(p, '['))
        return parse_list(p);
    if (is_op(p, '{'))
        return parse_dict(p);
    fail_expected(p, "an expression");
}

static void parse_args(struct parser *p, struct jinja_node *n)
{
    expect_op(p, '(');
    for (bool first = true; !is_op(p, ')'); first = false) {
        if (!first)
            expect_op(p, ',');
        if (is_op(p, ')'))
            break;
        bool named =
            p->now.type == JINJA_TOKEN_NAME && p->then.type == JINJA_TOKEN_OP && p->then.op == '=';
        if (is_op(p, '*') && n->b == NULL && n->c == NULL) {
            next(p);
            n->b = parse_expression(p);
        } else if (is_op(p, JINJA_OP2('*', '*')) && n->c == NULL) {
            next(p);
            n->c = parse_expression(p);
        } else if (named && n->c == NULL) {
            name_push(p, n, expect_name(p));
            next(p);
            nodes_push(p, n, &n->named, parse_expression(p));
        } else if (!named && n->b == NULL && n->c == NULL && n->named.count == 0) {
            nodes_push(p, n, &n->items, parse_expression(p));
        } else {
            jinja_fail(p->env, "invalid syntax for function call expression");
        }
    }
    next(p);
    node_deepen(p, n, n->b);
    node_deepen(p, n, n->c);
}

static struct jinja_node *parse_call(struct parser *p, struct jinja_node *of)
{
    struct jinja_node *n = node_of(p, JINJA_NODE_CALL, of, NULL);
    parse_args(p, n);
    return n;
}

static struct jinja_node *parse_slice_part(struct parser *p)
{
    if (is_op(p, ':') || is_op(p, ']') || is_op(p, ','))
        return NULL;
    return parse_expression(p);
}

static struct jinja_node *parse_index(struct parser *p, struct jinja_node *of)
{
    struct jinja_node *n = node_of(p, JINJA_NODE_GETITEM, of, NULL);
    next(p);
    n->b = parse_slice_part(p);
    if (skip_op(p, ':')) {
        n->kind = JINJA_NODE_SLICE;
        n->c = parse_slice_part(p);
        if (skip_op(p, ':'))
            n->d = parse_slice_part(p);
    }
    if (n->kind == JINJA_NODE_GETITEM && n->b == NULL)
        fail_expected(p, "an index");
    if (is_op(p, ','))
        jinja_fail(p->env, "an index of several parts is not supported");
    expect_op(p, ']');
    node_deepen(p, n, n->b);
    node_deepen(p, n, n->c);
    node_deepen(p, n, n->d);
    return n;
}

static struct jinja_node *parse_dot(struct parser *p, struct jinja_node *of)
{
    struct jinja_node *n = node_of(p, JINJA_NODE_GETATTR, of, NULL);
    next(p);
    if (p->now.type == JINJA_TOKEN_NUMBER && p->now.value.type == JINJA_INT) {
        n->kind = JINJA_NODE_GETITEM;
        n->b = parse_primary(p);
        return n;
    }
    n->name = expect_name(p);
    return n;
}

static struct jinja_node *parse_postfix(struct parser *p, struct jinja_node *n)
{
    for (;;) {
        if (is_op(p, '.'))
            n = parse_dot(p, n);
        else if (is_op(p, '['))
            n = parse_index(p, n);
        else if (is_op(p, '('))
            n = parse_call(p, n);
        else
            return n;
    }
}

static struct jinja_node *parse_filter(struct parser *p, struct jinja_node *of)
{
    struct jinja_node *n = node_of(p, JINJA_NODE_FILTER, of, NULL);
    n->name = expect_name(p);
    if (is_op(p, '('))
        parse_args(p, n);
    return n;
}

/* Does what follows the name of a test begin its one argument without brackets? */
static bool begins_argument(const struct parser *p)
{
    switch (p->now.type) {
    case JINJA_TOKEN_STRING:
    case JINJA_TOKEN_NUMBER:
        return true;
    case JINJA_TOKEN_NAME:
        return !is_word(p, "else") && !is_word(p, "or") && !is_word(p, "and");
    default:
        return is_op(p, '[') || is_op(p, '{');
    }
}

static struct jinja_node *parse_test(struct parser *p, struct jinja_node *of)
{
    struct jinja_node *n = node_of(p, JINJA_NODE_TEST, of, NULL);
    next(p);
    bool negated = skip_word(p, "not");
    n->name = expect_name(p);
    if (is_op(p, '(')) {
        parse_args(p, n);
    } else if (begins_argument(p)) {
        if (is_word(p, "is"))
            jinja_fail(p->env, "you cannot chain multiple tests with is");
        nodes_push(p, n, &n->items, parse_postfix(p, parse_primary(p)));
    }
    return negated ? node_of(p, JINJA_NODE_NOT, n, NULL) : n;
}

static struct jinja_node *parse_unary(struct parser *p, bool with_filter)
{
    struct jinja_node *n;
    jinja_enter(p->env);
    if (skip_op(p, '-'))
        n = node_of(p, JINJA_NODE_NEGATE, parse_unary(p, false), NULL);
    else if (skip_op(p, '+'))
        n = node_of(p, JINJA_NODE_PLUS, parse_unary(p, false), NULL);
    else
        n = parse_primary(p);
    n = parse_postfix(p, n);
    while (with_filter) {
        if (skip_op(p, '|'))
            n = parse_filter(p, n);
        else if (is_word(p, "is"))
            n = parse_test(p, n);
        else if (is_op(p, '('))
            n = parse_call(p, n);
        else
            break;
    }
    jinja_leave(p->env);
    return n;
}

/* --- operators, by their level --- */

enum level {
    LEVEL_NONE,
    LEVEL_OR,
    LEVEL_AND,
    LEVEL_NOT,
    LEVEL_COMPARE,
    LEVEL_ADD,
    LEVEL_CONCAT,
    LEVEL_MUL,
    LEVEL_POW,
    LEVEL_UNARY
};

static enum level level_of(const struct parser *p)
{
    if (p->now.type == JINJA_TOKEN_NAME) {
        if (is_word(p, "or"))
            return LEVEL_OR;
        if (is_word(p, "and"))
            return LEVEL_AND;
        bool not_in = is_word(p, "not") && p->then.type == JINJA_TOKEN_NAME &&
                      jinja_str_is(p->then.text, "in");
        return is_word(p, "in") || not_in ? LEVEL_COMPARE : LEVEL_NONE;
    }
    if (p->now.type != JINJA_TOKEN_OP)
        return LEVEL_NONE;
    switch (p->now.op) {
    case JINJA_OP2('=', '='):
    case JINJA_OP2('!', '='):
    case JINJA_OP2('>', '='):
    case JINJA_OP2('<', '='):
    case '<':
    case '>':
        return LEVEL_COMPARE;
    case '+':
    case '-':
        return LEVEL_ADD;
    case '~':
        return LEVEL_CONCAT;
    case '*':
    case '/':
    case '%':
    case JINJA_OP2('/', '/'):
        return LEVEL_MUL;
    case JINJA_OP2('*', '*'):
        return LEVEL_POW;
    default:
        return LEVEL_NONE;
    }
}

static struct jinja_node *parse_operators(struct parser *p, enum level min);

static struct jinja_node *parse_compare(struct parser *p, struct jinja_node *left)
{
    struct jinja_node *n = node_of(p, JINJA_NODE_COMPARE, left, NULL);
    while (level_of(p) == LEVEL_COMPARE) {
        struct jinja_node *o = node_new(p, JINJA_NODE_OPERAND);
        o->op = p->now.op;
        if (skip_word(p, "not"))
            o->op = JINJA_OP_NOT_IN;
        else if (is_word(p, "in"))
            o->op = JINJA_OP_IN;
        next(p);
        o->a = parse_operators(p, LEVEL_ADD);
        node_deepen(p, o, o->a);
        nodes_push(p, n, &n->items, o);
    }
    return n;
}

static struct jinja_node *parse_concat(struct parser *p, struct jinja_node *left)
{
    struct jinja_node *n = node_new(p, JINJA_NODE_CONCAT);
    nodes_push(p, n, &n->items, left);
    while (skip_op(p, '~'))
        nodes_push(p, n, &n->items, parse_operators(p, LEVEL_MUL));
    return n;
}

static struct jinja_node *parse_binary(struct parser *p, struct jinja_node *left, enum level level)
{
    int op = p->now.op;
    next(p);
    struct jinja_node *right = parse_operators(p, level + 1);
    enum jinja_kind kind = level == LEVEL_OR    ? JINJA_NODE_OR
                           : level == LEVEL_AND ? JINJA_NODE_AND
                                                : JINJA_NODE_BINARY;
    struct jinja_node *n = node_of(p, kind, left, right);
    n->op = op;
    return n;
}

/* Everything of level `min` and tighter; all operators are left-associative, `**` too. */
static struct jinja_node *parse_operators(struct parser *p, enum level min)
{
    struct jinja_node *n;
    jinja_enter(p->env);
    if (min <= LEVEL_NOT && skip_word(p, "not"))
        n = node_of(p, JINJA_NODE_NOT, parse_operators(p, LEVEL_NOT), NULL);
    else
        n = parse_unary(p, true);
    for (enum level level; (level = level_of(p)) >= min && level != LEVEL_NONE;) {
        if (level == LEVEL_COMPARE)
            n = parse_compare(p, n);
        else if (level == LEVEL_CONCAT)
            n = parse_concat(p, n);
        else
            n = parse_binary(p, n, level);
    }
    jinja_leave(p->env);
    return n;
}

static struct jinja_node *parse_or(struct parser *p)
{
    return parse_operators(p, LEVEL_OR);
}

static struct jinja_node *parse_expression(struct parser *p)
{
    jinja_enter(p->env);
    struct jinja_node *n = parse_or(p);
    while (skip_word(p, "if")) {
        struct jinja_node *test = parse_or(p);
        struct jinja_node *cond = node_of(p, JINJA_NODE_COND, test, n);
        if (skip_word(p, "else"))
            cond->c = parse_expression(p);
        node_deepen(p, cond, cond->c);
        n = cond;
    }
    jinja_leave(p->env);
    return n;
}

/* One expression, or several with commas: a tuple. `end`: a word that may follow. */
static struct jinja_node *parse_tuple(struct parser *p, bool cond, bool brackets, const char *end)
{
    struct jinja_node *n = node_new(p, JINJA_NODE_TUPLE);
    bool comma = false;
    for (;;) {
        bool ends = p->now.type == JINJA_TOKEN_PRINT_END || p->now.type == JINJA_TOKEN_BLOCK_END ||
                    is_op(p, ')') || (end != NULL && is_word(p, end));
        if (ends)
            break;
        nodes_push(p, n, &n->items, cond ? parse_expression(p) : parse_or(p));
        if (!skip_op(p, ','))
            break;
        comma = true;
    }
    if (!comma && n->items.count == 1)
        return n->items.at[0];
    if (!comma && !brackets)
        fail_expected(p, "an expression");
    return n;
}

/* --- statements --- */

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

static struct jinja_node *parse_target_name(struct parser *p, bool with_namespace)
{
    struct jinja_node *n = node_new(p, JINJA_NODE_NAME);
    if (skip_op(p, '(')) {
        jinja_enter(p->env);
        n->kind = JINJA_NODE_TUPLE;
        while (!skip_op(p, ')')) {
            nodes_push(p, n, &n->items, parse_target_name(p, with_namespace));
            if (!is_op(p, ')'))
                expect_op(p, ',');
        }
        jinja_leave(p->env);
        return n;
    }
    n->name = expect_name(p);
    if (is_reserved(n->name))
        jinja_fail(p->env, "can't assign to '%.*s'", (int)n->name.len, n->name.s);
    if (with_namespace && skip_op(p, '.')) {
        n->kind = JINJA_NODE_NSREF;
        n->value = jinja_string(expect_name(p));
    }
    return n;
}

static struct jinja_node *parse_target(struct parser *p, bool with_namespace)
{
    struct jinja_node *first = parse_target_name(p, with_namespace);
    if (!is_op(p, ','))
        return first;
    struct jinja_node *n = node_new(p, JINJA_NODE_TUPLE);
    nodes_push(p, n, &n->items, first);
    while (skip_op(p, ','))
        if (p->now.type == JINJA_TOKEN_NAME || is_op(p, '('))
            if (!is_word(p, "in"))
                nodes_push(p, n, &n->items, parse_target_name(p, with_namespace));
    return n;
}

static struct jinja_node *parse_for(struct parser *p)
{
    struct jinja_node *n = node_new(p, JINJA_NODE_FOR);
    n->a = parse_target(p, false);
    if (!skip_word(p, "in"))
        fail_expected(p, "'in'");
    n->b = parse_tuple(p, false, false, "recursive");
    if (skip_word(p, "if"))
        n->c = parse_expression(p);
    if (is_word(p, "recursive"))
        jinja_fail(p->env, "recursive loops are not supported");
    node_deepen(p, n, n->a);
    node_deepen(p, n, n->b);
    node_deepen(p, n, n->c);
    p->loops++;
    add_body(p, n, &n->body, (const char *const[]){"endfor", "else", NULL});
    p->loops--;
    if (skip_word(p, "else"))
        add_body(p, n, &n->other, (const char *const[]){"endfor", NULL});
    next(p);
    return n;
}

static struct jinja_node *parse_if(struct parser *p)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    struct jinja_node *n = node_new(p, JINJA_NODE_IF);
    n->a = parse_tuple(p, false, false, NULL);
    node_deepen(p, n, n->a);
    add_body(p, n, &n->body, ends);
    while (skip_word(p, "elif")) {
        struct jinja_node *e = node_new(p, JINJA_NODE_IF);
        e->a = parse_tuple(p, false, false, NULL);
        node_deepen(p, e, e->a);
        add_body(p, e, &e->body, ends);
        nodes_push(p, n, &n->items, e);
    }
    if (skip_word(p, "else"))
        add_body(p, n, &n->other, (const char *const[]){"endif", NULL});
    if (!skip_word(p, "endif"))
        fail_expected(p, "'endif'");
    return n;
}

static struct jinja_node *parse_set(struct parser *p)
{
    struct jinja_node *n = node_new(p, JINJA_NODE_SET);
    n->a = parse_target(p, true);
    if (skip_op(p, '=')) {
        n->b = parse_tuple(p, true, false, NULL);
        node_deepen(p, n, n->b);
        return n;
    }
    n->kind = JINJA_NODE_SET_BLOCK;
    while (skip_op(p, '|'))
        n->b = parse_filter(p, n->b);
    node_deepen(p, n, n->b);
    add_body(p, n, &n->body, (const char *const[]){"endset", NULL});
    next(p);
    return n;
}

static struct jinja_node *parse_macro(struct parser *p)
{
    struct jinja_node *n = node_new(p, JINJA_NODE_MACRO);
    bool varargs = p->saw_varargs, kwargs = p->saw_kwargs;
    unsigned loops = p->loops;
    n->name = expect_name(p);
    expect_op(p, '(');
    while (!is_op(p, ')')) {
        if (n->name_count > 0)
            expect_op(p, ',');
        name_push(p, n, expect_name(p));
        if (skip_op(p, '='))
            nodes_push(p, n, &n->named, parse_expression(p));
        else if (n->named.count > 0)
            jinja_fail(p->env, "non-default argument follows default argument");
    }
    next(p);
    p->saw_varargs = p->saw_kwargs = false;
    p->loops = 0;
    add_body(p, n, &n->body, (const char *const[]){"endmacro", NULL});
    next(p);
    n->uses_varargs = p->saw_varargs;
    n->uses_kwargs = p->saw_kwargs;
    p->saw_varargs = varargs;
    p->saw_kwargs = kwargs;
    p->loops = loops;
    return n;
}

static struct jinja_node *parse_with(struct parser *p)
{
    struct jinja_node *n = node_new(p, JINJA_NODE_WITH);
    while (p->now.type != JINJA_TOKEN_BLOCK_END) {
        if (n->items.count > 0)
            expect_op(p, ',');
        nodes_push(p, n, &n->items, parse_target_name(p, false));
        expect_op(p, '=');
        nodes_push(p, n, &n->items, parse_expression(p));
    }
    add_body(p, n, &n->body, (const char *const[]){"endwith", NULL});
    next(p);
    return n;
}

static struct jinja_node *parse_filtered(struct parser *p)
{
    struct jinja_node *n = node_new(p, JINJA_NODE_FILTERED);
    n->a = parse_filter(p, NULL);
    while (skip_op(p, '|'))
        n->a = parse_filter(p, n->a);
    node_deepen(p, n, n->a);
    add_body(p, n, &n->body, (const char *const[]){"endfilter", NULL});
    next(p);
    return n;
}

static struct jinja_node *parse_statement(struct parser *p)
{
    struct jinja_str word = expect_name(p);
    if (jinja_str_is(word, "if"))
        return parse_if(p);
    if (jinja_str_is(word, "for"))
        return parse_for(p);
    if (jinja_str_is(word, "set"))
        return parse_set(p);
    if (jinja_str_is(word, "macro"))
        return parse_macro(p);
    if (jinja_str_is(word, "with"))
        return parse_with(p);
    if (jinja_str_is(word, "filter"))
        return parse_filtered(p);
    if (jinja_str_is(word, "generation")) {
        struct jinja_node *n = node_new(p, JINJA_NODE_SCOPE);
        add_body(p, n, &n->body, (const char *const[]){"endgeneration", NULL});
        next(p);
        return n;
    }
    bool is_break = jinja_str_is(word, "break");
    if (is_break || jinja_str_is(word, "continue")) {
        if (p->loops == 0)
            jinja_fail(p->env, "'%.*s' outside of a loop", (int)word.len, word.s);
        return node_new(p, is_break ? JINJA_NODE_BREAK : JINJA_NODE_CONTINUE);
    }
    int len = (int)(word.len < 60 ? word.len : 60);
    jinja_fail(p->env, "the tag '%.*s' is unknown, out of place or not supported", len, word.s);
}

static bool is_one_of(const struct parser *p, const char *const *words)
{
    for (; words != NULL && *words != NULL; words++)
        if (is_word(p, *words))
            return true;
    return false;
}

/* Statements up to one of `ends` (left as the current token), or up to the end without them. */
static struct jinja_nodes parse_body(struct parser *p, const char *const *ends)
{
    struct jinja_nodes list = {0};
    jinja_enter(p->env);
    while (p->now.type != JINJA_TOKEN_END) {
        if (p->now.type == JINJA_TOKEN_DATA) {
            struct jinja_node *n = node_new(p, JINJA_NODE_TEXT);
            n->name = p->now.text;
            nodes_push(p, NULL, &list, n);
            next(p);
        } else if (p->now.type == JINJA_TOKEN_PRINT_BEGIN) {
            next(p);
            nodes_push(p, NULL, &list,
                       node_of(p, JINJA_NODE_PRINT, parse_tuple(p, true, false, NULL), NULL));
            if (p->now.type != JINJA_TOKEN_PRINT_END)
                fail_expected(p, "the end of the print statement");
            next(p);
        } else {
            next(p);
            if (is_one_of(p, ends))
                break;
            nodes_push(p, NULL, &list, parse_statement(p));
            expect_block_end(p);
        }
    }
    if (ends != NULL && p->now.type == JINJA_TOKEN_END)
        jinja_fail(p->env, "unexpected end of template, looking for '%s'", ends[0]);
    jinja_leave(p->env);
    return list;
}

static struct jinja_nodes parse_statements(struct parser *p, const char *const *ends)
{
    skip_op(p, ':');
    expect_block_end(p);
    return parse_body(p, ends);
}

struct jinja_nodes jinja_parse(struct jinja_env *env, struct jinja_str source)
{
    struct parser p = {.env = env};
    jinja_lexer_begin(&p.lexer, env, source);
    p.then = jinja_lexer_next(&p.lexer);
    next(&p);
    return parse_body(&p, NULL);
}
