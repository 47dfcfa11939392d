/*
 * One render: the interpreter's state and the calls between its files. Expressions are in
 * jinja_eval.c, statements in jinja_exec.c, operators and access in jinja_ops.c, and what templates
 * may call in jinja_methods.c, jinja_filters.c, jinja_select.c, jinja_tests.c, jinja_functions.c.
 */
#pragma once

#include "model/jinja_ast.h"

struct jinja_binding {
    struct jinja_binding *next;
    struct jinja_str name;
    struct jinja_value value;
};

struct jinja_scope {
    struct jinja_scope *parent; /* NULL: behind it are the context and the built-in functions */
    struct jinja_binding *first;
};

struct jinja_run {
    struct jinja_env env;
    const struct jinja_dict *context;
    int64_t now_s; /* seconds since 1970, for strftime_now */
    struct jinja_scope *scope;
    struct jinja_text *out;
};

struct jinja_macro {
    const struct jinja_node *node;
    struct jinja_scope *scope; /* where it was defined */
};

struct jinja_loop {
    struct jinja_cursor cursor;
    const struct jinja_node *node;
    struct jinja_scope *outer; /* of the statement, for its `if` */
    int64_t index0;
    struct jinja_value before, current, after;
    bool has_after;
    bool changed_once;
    struct jinja_value changed;
};

#define JINJA_PARAMS_MAX 6

struct jinja_args {
    struct jinja_value *items;
    size_t count;
    struct jinja_str *names;
    struct jinja_value *named;
    size_t named_count;
};

/* Arguments in their places. */
struct jinja_bound {
    struct jinja_value at[JINJA_PARAMS_MAX];
    bool given[JINJA_PARAMS_MAX];
    const struct jinja_args *raw;
};

typedef struct jinja_value jinja_call_fn(struct jinja_run *r, struct jinja_value of,
                                         const struct jinja_bound *b);

struct jinja_callable {
    const char *name;
    jinja_call_fn *fn; /* NULL: Jinja has it, this interpreter refuses it */
    /* Names of the parameters, "!" before those that must be given; "*": any, unbound. */
    const char *params;
};

struct jinja_method {
    struct jinja_value of;
    const struct jinja_callable *callable;
};

/* jinja_eval.c */
struct jinja_value jinja_eval(struct jinja_run *r, const struct jinja_node *n);
struct jinja_args jinja_eval_args(struct jinja_run *r, const struct jinja_node *n);
struct jinja_value jinja_call_bound(struct jinja_run *r, const struct jinja_callable *c,
                                    struct jinja_value of, const struct jinja_args *args);
struct jinja_value jinja_arg_or(const struct jinja_bound *b, size_t i, struct jinja_value other);
struct jinja_str jinja_arg_str(struct jinja_run *r, const struct jinja_bound *b, size_t i,
                               const char *other);
int64_t jinja_arg_int(struct jinja_run *r, const struct jinja_bound *b, size_t i, int64_t other);
bool jinja_arg_truth(const struct jinja_bound *b, size_t i, bool other);

/* jinja_exec.c */
struct jinja_str jinja_exec_captured(struct jinja_run *r, const struct jinja_nodes *body);
void jinja_exec_template(struct jinja_run *r, const struct jinja_nodes *body);
struct jinja_value jinja_call_macro(struct jinja_run *r, const struct jinja_macro *m,
                                    const struct jinja_args *args);
bool jinja_loop_peek(struct jinja_run *r, struct jinja_loop *loop);
struct jinja_value jinja_loop_attribute(struct jinja_run *r, struct jinja_value loop,
                                        struct jinja_str name);
struct jinja_value jinja_lookup(struct jinja_run *r, struct jinja_str name);
void jinja_bind(struct jinja_run *r, struct jinja_str name, struct jinja_value v);

/* jinja_ops.c */
/* The result of `safe` or `escape`: Python escapes what is joined to it. */
bool jinja_is_markup(struct jinja_value v);
struct jinja_value jinja_escape(struct jinja_run *r, struct jinja_value v);
struct jinja_value jinja_binary(struct jinja_run *r, int op, struct jinja_value a,
                                struct jinja_value b);
struct jinja_value jinja_negate(struct jinja_run *r, struct jinja_value v, bool minus);
bool jinja_compare(struct jinja_run *r, int op, struct jinja_value a, struct jinja_value b);
struct jinja_value jinja_get_attr(struct jinja_run *r, struct jinja_value of,
                                  struct jinja_str name);
struct jinja_value jinja_get_item(struct jinja_run *r, struct jinja_value of,
                                  struct jinja_value key);
struct jinja_value jinja_slice(struct jinja_run *r, struct jinja_value of,
                               const struct jinja_value *start, const struct jinja_value *stop,
                               const struct jinja_value *step);

/* What can be called by name; NULL when Jinja has no such thing either. */
const struct jinja_callable *jinja_find_method(struct jinja_value of, struct jinja_str name,
                                               bool *ret_mutates);
const struct jinja_callable *jinja_find_filter(struct jinja_str name);
const struct jinja_callable *jinja_find_select(struct jinja_str name); /* map, select, sort... */
const struct jinja_callable *jinja_find_test(struct jinja_str name);
const struct jinja_callable *jinja_find_function(struct jinja_str name);
const struct jinja_callable *jinja_function_at(unsigned function);
unsigned jinja_function_id(const struct jinja_callable *c);
const struct jinja_callable *jinja_find_in(const struct jinja_callable *table, size_t count,
                                           struct jinja_str name);
struct jinja_value jinja_apply_filter(struct jinja_run *r, struct jinja_str name,
                                      struct jinja_value v, const struct jinja_args *args);
bool jinja_apply_test(struct jinja_run *r, struct jinja_str name, struct jinja_value v,
                      const struct jinja_args *args);
/* Python's sorted(). The keys are compared, the items move. */
void jinja_sort(struct jinja_run *r, struct jinja_value *items, struct jinja_value *keys,
                size_t count, bool reverse);
