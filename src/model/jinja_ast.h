/*
 * A template as a tree: tokens, nodes, the parser's one entry. The tree lives in the arena of the
 * parse and never changes afterwards, so any number of renders may share it.
 *
 * One struct serves all kinds of nodes: a tree has few of them, and one layout keeps the parser and
 * the interpreter short. The comment of each kind says which fields it uses.
 */
#pragma once

#include "model/jinja_value.h"

/* No chain of nodes is longer than this, so whoever walks the tree may recurse. */
#define JINJA_TREE_DEPTH_MAX 200

enum jinja_kind {
    /* expressions */
    JINJA_NODE_CONST,   /* value */
    JINJA_NODE_NAME,    /* name */
    JINJA_NODE_TUPLE,   /* items */
    JINJA_NODE_LIST,    /* items */
    JINJA_NODE_DICT,    /* items: key, value, key, value... */
    JINJA_NODE_GETATTR, /* a.name */
    JINJA_NODE_GETITEM, /* a[b] */
    JINJA_NODE_SLICE,   /* a[b:c:d], each of b, c, d may be NULL */
    JINJA_NODE_CALL,    /* a(items, names=named, *b, **c) */
    JINJA_NODE_FILTER,  /* a|name(items, names=named, *b, **c); a NULL: the captured text */
    JINJA_NODE_TEST,    /* a is name(items, names=named, *b, **c) */
    JINJA_NODE_NOT,     /* a */
    JINJA_NODE_NEGATE,  /* a */
    JINJA_NODE_PLUS,    /* a */
    JINJA_NODE_AND,     /* a, b */
    JINJA_NODE_OR,      /* a, b */
    JINJA_NODE_BINARY,  /* a op b */
    JINJA_NODE_COMPARE, /* a, then items: CONST-less nodes of kind OPERAND */
    JINJA_NODE_OPERAND, /* op, a */
    JINJA_NODE_CONCAT,  /* items */
    JINJA_NODE_COND,    /* b if a else c; c may be NULL */
    JINJA_NODE_NSREF,   /* namespace `name`, attribute `value`; only as a target */
    /* statements */
    JINJA_NODE_TEXT,       /* name */
    JINJA_NODE_PRINT,      /* a */
    JINJA_NODE_IF,         /* a, body; items: more IFs (elif); other: else */
    JINJA_NODE_FOR,        /* for a in b if c: body, else other */
    JINJA_NODE_SET,        /* a = b */
    JINJA_NODE_SET_BLOCK,  /* a = body, filtered by b when not NULL */
    JINJA_NODE_MACRO,      /* name, names: parameters, named: defaults of the last ones, body */
    JINJA_NODE_FILTERED,   /* body through the filter a */
    JINJA_NODE_WITH,       /* items: target, value, ...; body */
    JINJA_NODE_SCOPE,      /* body, in a scope of its own */
    JINJA_NODE_CALL_BLOCK, /* a: the CALL of a macro, which finds the rest of this as its `caller`
                            */
    JINJA_NODE_BREAK,
    JINJA_NODE_CONTINUE,
};

/* Operators: their characters, the last lowest. */
#define JINJA_OP2(x, y) ((x) << 8 | (y))
#define JINJA_OP_IN JINJA_OP2('i', 'n')
#define JINJA_OP_NOT_IN JINJA_OP2('n', 'i')

struct jinja_node;

struct jinja_nodes {
    struct jinja_node **at;
    size_t count;
    size_t cap;
};

struct jinja_node {
    enum jinja_kind kind : 8;
    unsigned depth : 16;
    bool uses_varargs; /* a macro whose body names them */
    bool uses_kwargs;
    bool uses_caller;
    int op;
    uint32_t line;
    struct jinja_str name;
    struct jinja_value value;
    struct jinja_node *a, *b, *c, *d;
    struct jinja_nodes items, body, other, named;
    struct jinja_str *names; /* as many as `named` in a call, else name_count */
    size_t name_count;
};

enum jinja_token_type {
    JINJA_TOKEN_END,
    JINJA_TOKEN_DATA,
    JINJA_TOKEN_PRINT_BEGIN,
    JINJA_TOKEN_PRINT_END,
    JINJA_TOKEN_BLOCK_BEGIN,
    JINJA_TOKEN_BLOCK_END,
    JINJA_TOKEN_NAME,
    JINJA_TOKEN_STRING,
    JINJA_TOKEN_NUMBER, /* value: INT or FLOAT */
    JINJA_TOKEN_OP,
};

struct jinja_token {
    enum jinja_token_type type;
    int op;
    uint32_t line;
    struct jinja_str text;
    struct jinja_value value;
};

struct jinja_lexer {
    struct jinja_env *env;
    struct jinja_str source; /* lines end in \n, the last one in nothing */
    size_t pos;
    uint32_t line;
    bool line_starting;            /* the last thing read ended a line */
    enum jinja_token_type mode;    /* DATA outside of tags, else the type that began the tag */
    enum jinja_token_type pending; /* a begin found behind the data just given, else END */
    char brackets[JINJA_TREE_DEPTH_MAX];
    size_t bracket_count;
};

void jinja_lexer_begin(struct jinja_lexer *lx, struct jinja_env *env, struct jinja_str source);
struct jinja_token jinja_lexer_next(struct jinja_lexer *lx);

struct jinja_nodes jinja_parse(struct jinja_env *env, struct jinja_str source);
