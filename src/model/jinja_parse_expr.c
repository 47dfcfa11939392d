/*
 * Expressions, with Jinja's precedence, trailing commas and tuples without brackets; and the tokens
 * and nodes that statements are made of too. Recursion is bounded by the depth of the environment
 * and by JINJA_TREE_DEPTH_MAX, which also holds for chains of operators.
 */
#include "model/jinja_parse.h"

#include <string.h>

/* --- tokens --- */

void jinja_parse_next(struct jinja_parser *p)
{
    p->now = p->then;
    p->env->line = p->now.line;
    if (p->then.type != JINJA_TOKEN_END)
        p->then = jinja_lexer_next(&p->lexer);
}

bool jinja_parse_is_op(const struct jinja_parser *p, int op)
{
    return p->now.type == JINJA_TOKEN_OP && p->now.op == op;
}

bool jinja_parse_is_word(const struct jinja_parser *p, const char *word)
{
    return p->now.type == JINJA_TOKEN_NAME && jinja_str_is(p->now.text, word);
}

bool jinja_parse_skip_op(struct jinja_parser *p, int op)
{
    bool yes = jinja_parse_is_op(p, op);
    if (yes)
        jinja_parse_next(p);
    return yes;
}

bool jinja_parse_skip_word(struct jinja_parser *p, const char *word)
{
    bool yes = jinja_parse_is_word(p, word);
    if (yes)
        jinja_parse_next(p);
    return yes;
}

_Noreturn void jinja_parse_fail_expected(struct jinja_parser *p, const char *what)
{
    int len = (int)(p->now.text.len < 60 ? p->now.text.len : 60);
    jinja_fail(p->env, "expected %s, got '%.*s'", what, len, p->now.text.s);
}

void jinja_parse_expect_op(struct jinja_parser *p, int op)
{
    char what[4] = {'\'', (char)op, '\''};
    if (!jinja_parse_skip_op(p, op))
        jinja_parse_fail_expected(p, what);
}

struct jinja_str jinja_parse_expect_name(struct jinja_parser *p)
{
    if (p->now.type != JINJA_TOKEN_NAME)
        jinja_parse_fail_expected(p, "a name");
    struct jinja_str name = p->now.text;
    jinja_parse_next(p);
    return name;
}

/* --- nodes --- */

struct jinja_node *jinja_parse_node_new(struct jinja_parser *p, enum jinja_kind kind)
{
    struct jinja_node *n = jinja_alloc(p->env, sizeof *n);
    n->kind = kind;
    n->depth = 1;
    n->line = p->now.line;
    return n;
}

void jinja_parse_node_deepen(struct jinja_parser *p, struct jinja_node *n,
                             const struct jinja_node *child)
{
    if (child == NULL || child->depth < n->depth)
        return;
    if (child->depth >= JINJA_TREE_DEPTH_MAX)
        jinja_fail_limit(p->env, "the depth of nesting");
    n->depth = child->depth + 1u;
}

void jinja_parse_nodes_push(struct jinja_parser *p, struct jinja_node *parent,
                            struct jinja_nodes *list, struct jinja_node *n)
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
        jinja_parse_node_deepen(p, parent, n);
}

struct jinja_node *jinja_parse_node_of(struct jinja_parser *p, enum jinja_kind kind,
                                       struct jinja_node *a, struct jinja_node *b)
{
    struct jinja_node *n = jinja_parse_node_new(p, kind);
    n->a = a;
    n->b = b;
    jinja_parse_node_deepen(p, n, a);
    jinja_parse_node_deepen(p, n, b);
    return n;
}

void jinja_parse_name_push(struct jinja_parser *p, struct jinja_node *n, struct jinja_str name)
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

/* --- expressions, the tightest first --- */

static struct jinja_node *parse_list(struct jinja_parser *p)
{
    struct jinja_node *n = jinja_parse_node_new(p, JINJA_NODE_LIST);
    jinja_parse_expect_op(p, '[');
    while (!jinja_parse_is_op(p, ']')) {
        if (n->items.count > 0)
            jinja_parse_expect_op(p, ',');
        if (jinja_parse_is_op(p, ']'))
            break;
        jinja_parse_nodes_push(p, n, &n->items, jinja_parse_expression(p));
    }
    jinja_parse_next(p);
    return n;
}

static struct jinja_node *parse_dict(struct jinja_parser *p)
{
    struct jinja_node *n = jinja_parse_node_new(p, JINJA_NODE_DICT);
    jinja_parse_expect_op(p, '{');
    while (!jinja_parse_is_op(p, '}')) {
        if (n->items.count > 0)
            jinja_parse_expect_op(p, ',');
        if (jinja_parse_is_op(p, '}'))
            break;
        jinja_parse_nodes_push(p, n, &n->items, jinja_parse_expression(p));
        jinja_parse_expect_op(p, ':');
        jinja_parse_nodes_push(p, n, &n->items, jinja_parse_expression(p));
    }
    jinja_parse_next(p);
    return n;
}

static struct jinja_node *parse_name(struct jinja_parser *p)
{
    struct jinja_node *n = jinja_parse_node_new(p, JINJA_NODE_CONST);
    struct jinja_str name = jinja_parse_expect_name(p);
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
    p->saw_caller |= n->kind == JINJA_NODE_NAME && jinja_str_is(name, "caller");
    return n;
}

static struct jinja_node *parse_string(struct jinja_parser *p)
{
    struct jinja_node *n = jinja_parse_node_new(p, JINJA_NODE_CONST);
    n->value = jinja_string(p->now.text);
    jinja_parse_next(p);
    if (p->now.type != JINJA_TOKEN_STRING)
        return n;
    struct jinja_text t = jinja_text_begin(SIZE_MAX);
    jinja_text_add_str(p->env, &t, n->value.str);
    for (; p->now.type == JINJA_TOKEN_STRING; jinja_parse_next(p))
        jinja_text_add_str(p->env, &t, p->now.text);
    n->value = jinja_string(jinja_text_end(&t));
    return n;
}

static struct jinja_node *parse_primary(struct jinja_parser *p)
{
    struct jinja_node *n;
    switch (p->now.type) {
    case JINJA_TOKEN_NAME:
        return parse_name(p);
    case JINJA_TOKEN_STRING:
        return parse_string(p);
    case JINJA_TOKEN_NUMBER:
        n = jinja_parse_node_new(p, JINJA_NODE_CONST);
        n->value = p->now.value;
        jinja_parse_next(p);
        return n;
    default:
        break;
    }
    if (jinja_parse_skip_op(p, '(')) {
        n = jinja_parse_tuple(p, true, true, NULL);
        jinja_parse_expect_op(p, ')');
        return n;
    }
    if (jinja_parse_is_op(p, '['))
        return parse_list(p);
    if (jinja_parse_is_op(p, '{'))
        return parse_dict(p);
    jinja_parse_fail_expected(p, "an expression");
}

static void parse_args(struct jinja_parser *p, struct jinja_node *n)
{
    jinja_parse_expect_op(p, '(');
    for (bool first = true; !jinja_parse_is_op(p, ')'); first = false) {
        if (!first)
            jinja_parse_expect_op(p, ',');
        if (jinja_parse_is_op(p, ')'))
            break;
        bool named =
            p->now.type == JINJA_TOKEN_NAME && p->then.type == JINJA_TOKEN_OP && p->then.op == '=';
        if (jinja_parse_is_op(p, '*') && n->b == NULL && n->c == NULL) {
            jinja_parse_next(p);
            n->b = jinja_parse_expression(p);
        } else if (jinja_parse_is_op(p, JINJA_OP2('*', '*')) && n->c == NULL) {
            jinja_parse_next(p);
            n->c = jinja_parse_expression(p);
        } else if (named && n->c == NULL) {
            jinja_parse_name_push(p, n, jinja_parse_expect_name(p));
            jinja_parse_next(p);
            jinja_parse_nodes_push(p, n, &n->named, jinja_parse_expression(p));
        } else if (!named && n->b == NULL && n->c == NULL && n->named.count == 0) {
            jinja_parse_nodes_push(p, n, &n->items, jinja_parse_expression(p));
        } else {
            jinja_fail(p->env, "invalid syntax for function call expression");
        }
    }
    jinja_parse_next(p);
    jinja_parse_node_deepen(p, n, n->b);
    jinja_parse_node_deepen(p, n, n->c);
}

static struct jinja_node *parse_call(struct jinja_parser *p, struct jinja_node *of)
{
    struct jinja_node *n = jinja_parse_node_of(p, JINJA_NODE_CALL, of, NULL);
    parse_args(p, n);
    return n;
}

static struct jinja_node *parse_slice_part(struct jinja_parser *p)
{
    if (jinja_parse_is_op(p, ':') || jinja_parse_is_op(p, ']') || jinja_parse_is_op(p, ','))
        return NULL;
    return jinja_parse_expression(p);
}

static struct jinja_node *parse_index(struct jinja_parser *p, struct jinja_node *of)
{
    struct jinja_node *n = jinja_parse_node_of(p, JINJA_NODE_GETITEM, of, NULL);
    jinja_parse_next(p);
    n->b = parse_slice_part(p);
    if (jinja_parse_skip_op(p, ':')) {
        n->kind = JINJA_NODE_SLICE;
        n->c = parse_slice_part(p);
        if (jinja_parse_skip_op(p, ':'))
            n->d = parse_slice_part(p);
    }
    if (n->kind == JINJA_NODE_GETITEM && n->b == NULL)
        jinja_parse_fail_expected(p, "an index");
    if (jinja_parse_is_op(p, ','))
        jinja_fail(p->env, "an index of several parts is not supported");
    jinja_parse_expect_op(p, ']');
    jinja_parse_node_deepen(p, n, n->b);
    jinja_parse_node_deepen(p, n, n->c);
    jinja_parse_node_deepen(p, n, n->d);
    return n;
}

static struct jinja_node *parse_dot(struct jinja_parser *p, struct jinja_node *of)
{
    struct jinja_node *n = jinja_parse_node_of(p, JINJA_NODE_GETATTR, of, NULL);
    jinja_parse_next(p);
    if (p->now.type == JINJA_TOKEN_NUMBER && p->now.value.type == JINJA_INT) {
        n->kind = JINJA_NODE_GETITEM;
        n->b = parse_primary(p);
        return n;
    }
    n->name = jinja_parse_expect_name(p);
    return n;
}

static struct jinja_node *parse_postfix(struct jinja_parser *p, struct jinja_node *n)
{
    for (;;) {
        if (jinja_parse_is_op(p, '.'))
            n = parse_dot(p, n);
        else if (jinja_parse_is_op(p, '['))
            n = parse_index(p, n);
        else if (jinja_parse_is_op(p, '('))
            n = parse_call(p, n);
        else
            return n;
    }
}

struct jinja_node *jinja_parse_filter(struct jinja_parser *p, struct jinja_node *of)
{
    struct jinja_node *n = jinja_parse_node_of(p, JINJA_NODE_FILTER, of, NULL);
    n->name = jinja_parse_expect_name(p);
    if (jinja_parse_is_op(p, '('))
        parse_args(p, n);
    return n;
}

/* Does what follows the name of a test begin its one argument without brackets? */
static bool begins_argument(const struct jinja_parser *p)
{
    switch (p->now.type) {
    case JINJA_TOKEN_STRING:
    case JINJA_TOKEN_NUMBER:
        return true;
    case JINJA_TOKEN_NAME:
        return !jinja_parse_is_word(p, "else") && !jinja_parse_is_word(p, "or") &&
               !jinja_parse_is_word(p, "and");
    default:
        return jinja_parse_is_op(p, '[') || jinja_parse_is_op(p, '{');
    }
}

static struct jinja_node *parse_test(struct jinja_parser *p, struct jinja_node *of)
{
    struct jinja_node *n = jinja_parse_node_of(p, JINJA_NODE_TEST, of, NULL);
    jinja_parse_next(p);
    bool negated = jinja_parse_skip_word(p, "not");
    n->name = jinja_parse_expect_name(p);
    if (jinja_parse_is_op(p, '(')) {
        parse_args(p, n);
    } else if (begins_argument(p)) {
        if (jinja_parse_is_word(p, "is"))
            jinja_fail(p->env, "you cannot chain multiple tests with is");
        jinja_parse_nodes_push(p, n, &n->items, parse_postfix(p, parse_primary(p)));
    }
    return negated ? jinja_parse_node_of(p, JINJA_NODE_NOT, n, NULL) : n;
}

static struct jinja_node *parse_unary(struct jinja_parser *p, bool with_filter)
{
    struct jinja_node *n;
    jinja_enter(p->env);
    if (jinja_parse_skip_op(p, '-'))
        n = jinja_parse_node_of(p, JINJA_NODE_NEGATE, parse_unary(p, false), NULL);
    else if (jinja_parse_skip_op(p, '+'))
        n = jinja_parse_node_of(p, JINJA_NODE_PLUS, parse_unary(p, false), NULL);
    else
        n = parse_primary(p);
    n = parse_postfix(p, n);
    while (with_filter) {
        if (jinja_parse_skip_op(p, '|'))
            n = jinja_parse_filter(p, n);
        else if (jinja_parse_is_word(p, "is"))
            n = parse_test(p, n);
        else if (jinja_parse_is_op(p, '('))
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

static enum level level_of(const struct jinja_parser *p)
{
    if (p->now.type == JINJA_TOKEN_NAME) {
        if (jinja_parse_is_word(p, "or"))
            return LEVEL_OR;
        if (jinja_parse_is_word(p, "and"))
            return LEVEL_AND;
        bool not_in = jinja_parse_is_word(p, "not") && p->then.type == JINJA_TOKEN_NAME &&
                      jinja_str_is(p->then.text, "in");
        return jinja_parse_is_word(p, "in") || not_in ? LEVEL_COMPARE : LEVEL_NONE;
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

static struct jinja_node *parse_operators(struct jinja_parser *p, enum level min);

static struct jinja_node *parse_compare(struct jinja_parser *p, struct jinja_node *left)
{
    struct jinja_node *n = jinja_parse_node_of(p, JINJA_NODE_COMPARE, left, NULL);
    while (level_of(p) == LEVEL_COMPARE) {
        struct jinja_node *o = jinja_parse_node_new(p, JINJA_NODE_OPERAND);
        o->op = p->now.op;
        if (jinja_parse_skip_word(p, "not"))
            o->op = JINJA_OP_NOT_IN;
        else if (jinja_parse_is_word(p, "in"))
            o->op = JINJA_OP_IN;
        jinja_parse_next(p);
        o->a = parse_operators(p, LEVEL_ADD);
        jinja_parse_node_deepen(p, o, o->a);
        jinja_parse_nodes_push(p, n, &n->items, o);
    }
    return n;
}

static struct jinja_node *parse_concat(struct jinja_parser *p, struct jinja_node *left)
{
    struct jinja_node *n = jinja_parse_node_new(p, JINJA_NODE_CONCAT);
    jinja_parse_nodes_push(p, n, &n->items, left);
    while (jinja_parse_skip_op(p, '~'))
        jinja_parse_nodes_push(p, n, &n->items, parse_operators(p, LEVEL_MUL));
    return n;
}

static struct jinja_node *parse_binary(struct jinja_parser *p, struct jinja_node *left,
                                       enum level level)
{
    int op = p->now.op;
    jinja_parse_next(p);
    struct jinja_node *right = parse_operators(p, level + 1);
    enum jinja_kind kind = level == LEVEL_OR    ? JINJA_NODE_OR
                           : level == LEVEL_AND ? JINJA_NODE_AND
                                                : JINJA_NODE_BINARY;
    struct jinja_node *n = jinja_parse_node_of(p, kind, left, right);
    n->op = op;
    return n;
}

/* Everything of level `min` and tighter; all operators are left-associative, `**` too. */
static struct jinja_node *parse_operators(struct jinja_parser *p, enum level min)
{
    struct jinja_node *n;
    jinja_enter(p->env);
    if (min <= LEVEL_NOT && jinja_parse_skip_word(p, "not"))
        n = jinja_parse_node_of(p, JINJA_NODE_NOT, parse_operators(p, LEVEL_NOT), NULL);
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

struct jinja_node *jinja_parse_or(struct jinja_parser *p)
{
    return parse_operators(p, LEVEL_OR);
}

struct jinja_node *jinja_parse_expression(struct jinja_parser *p)
{
    jinja_enter(p->env);
    struct jinja_node *n = jinja_parse_or(p);
    while (jinja_parse_skip_word(p, "if")) {
        struct jinja_node *test = jinja_parse_or(p);
        struct jinja_node *cond = jinja_parse_node_of(p, JINJA_NODE_COND, test, n);
        if (jinja_parse_skip_word(p, "else"))
            cond->c = jinja_parse_expression(p);
        jinja_parse_node_deepen(p, cond, cond->c);
        n = cond;
    }
    jinja_leave(p->env);
    return n;
}

/* One expression, or several with commas: a tuple. `end`: a word that may follow. */
struct jinja_node *jinja_parse_tuple(struct jinja_parser *p, bool cond, bool brackets,
                                     const char *end)
{
    struct jinja_node *n = jinja_parse_node_new(p, JINJA_NODE_TUPLE);
    bool comma = false;
    for (;;) {
        bool ends = p->now.type == JINJA_TOKEN_PRINT_END || p->now.type == JINJA_TOKEN_BLOCK_END ||
                    jinja_parse_is_op(p, ')') || (end != NULL && jinja_parse_is_word(p, end));
        if (ends)
            break;
        jinja_parse_nodes_push(p, n, &n->items,
                               cond ? jinja_parse_expression(p) : jinja_parse_or(p));
        if (!jinja_parse_skip_op(p, ','))
            break;
        comma = true;
    }
    if (!comma && n->items.count == 1)
        return n->items.at[0];
    if (!comma && !brackets)
        jinja_parse_fail_expected(p, "an expression");
    return n;
}
