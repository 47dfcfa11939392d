/* The parser's state, and what its two halves share: expressions are in jinja_parse_expr.c,
 * statements in jinja_parser.c. */
#pragma once

#include "model/jinja_ast.h"

struct jinja_parser {
    struct jinja_env *env;
    struct jinja_lexer lexer;
    struct jinja_token now;
    struct jinja_token then; /* one ahead */
    unsigned loops;          /* that a break here could leave */
    bool saw_varargs;
    bool saw_kwargs;
    bool saw_caller;
};

/* Tokens. `skip` takes the current one when it is the one named. */
void jinja_parse_next(struct jinja_parser *p);
bool jinja_parse_is_op(const struct jinja_parser *p, int op);
bool jinja_parse_is_word(const struct jinja_parser *p, const char *word);
bool jinja_parse_skip_op(struct jinja_parser *p, int op);
bool jinja_parse_skip_word(struct jinja_parser *p, const char *word);
_Noreturn void jinja_parse_fail_expected(struct jinja_parser *p, const char *what);
void jinja_parse_expect_op(struct jinja_parser *p, int op);
struct jinja_str jinja_parse_expect_name(struct jinja_parser *p);

/* Nodes. A node is deeper than each of its children, and too deep a one is refused. */
struct jinja_node *jinja_parse_node_new(struct jinja_parser *p, enum jinja_kind kind);
void jinja_parse_node_deepen(struct jinja_parser *p, struct jinja_node *n,
                             const struct jinja_node *child);
void jinja_parse_nodes_push(struct jinja_parser *p, struct jinja_node *parent,
                            struct jinja_nodes *list, struct jinja_node *n);
struct jinja_node *jinja_parse_node_of(struct jinja_parser *p, enum jinja_kind kind,
                                       struct jinja_node *a, struct jinja_node *b);
void jinja_parse_name_push(struct jinja_parser *p, struct jinja_node *n, struct jinja_str name);

/* One expression; several with commas, up to the word `end`; one without an inline `if`. */
struct jinja_node *jinja_parse_expression(struct jinja_parser *p);
struct jinja_node *jinja_parse_tuple(struct jinja_parser *p, bool cond, bool brackets,
                                     const char *end);
struct jinja_node *jinja_parse_filter(struct jinja_parser *p, struct jinja_node *of);
struct jinja_node *jinja_parse_or(struct jinja_parser *p);
