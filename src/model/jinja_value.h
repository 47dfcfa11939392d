/*
 * The values of the template language: Python's, as far as templates can see them. A value is small
 * and passed by copy; what it points to lives in the arena of the render (or in the context, which
 * outlives it) and never changes after it is made, except namespaces and consumed iterators. So
 * slices and substrings are views.
 */
#pragma once

#include "model/jinja_env.h"

enum jinja_type {
    JINJA_UNDEFINED,
    JINJA_NONE,
    JINJA_BOOL,
    JINJA_INT,
    JINJA_FLOAT,
    JINJA_STR,
    JINJA_LIST,
    JINJA_TUPLE,
    JINJA_DICT,
    JINJA_RANGE,
    JINJA_VIEW, /* dict.keys(), .values(), .items() */
    JINJA_ITER, /* what map, select, reversed... give: it can be walked once */
    JINJA_NAMESPACE,
    JINJA_LOOP,
    JINJA_MACRO,
    JINJA_METHOD,
    JINJA_FUNCTION,
};

/* Flags of a JINJA_STR and of a JINJA_UNDEFINED. */
#define JINJA_FLAG_MARKUP 1 /* made by `safe` or `escape`: Python would escape what is added */
#define JINJA_FLAG_HINT 2   /* the text is the whole message, not a name */

struct jinja_loop;
struct jinja_macro;
struct jinja_method;

struct jinja_value {
    enum jinja_type type : 8;
    uint8_t flags;
    uint8_t of; /* JINJA_UNDEFINED: 1 + the type of the object that lacks it, 0 none */
    union {
        bool boolean;
        int64_t integer;
        double real;
        struct jinja_str str; /* also what is undefined: its name */
        struct jinja_list *list;
        struct jinja_dict *dict;
        struct jinja_range *range;
        struct jinja_view *view;
        struct jinja_loop *loop;
        const struct jinja_macro *macro;
        const struct jinja_method *method;
        unsigned function;
    };
};

struct jinja_list { /* LIST, TUPLE, ITER */
    struct jinja_value *items;
    size_t count;
    size_t cap;
    size_t taken; /* ITER: how many are gone */
};

struct jinja_pair {
    struct jinja_value key;
    struct jinja_value value;
    uint64_t hash;
};

struct jinja_dict {           /* DICT, NAMESPACE */
    struct jinja_pair *pairs; /* in the order of insertion */
    size_t count;
    size_t cap;
    uint32_t *slots; /* 1 + pair index, 0 free; NULL while small */
    size_t slot_count;
};

struct jinja_range {
    int64_t start;
    int64_t stop; /* as given, for printing */
    int64_t step;
    int64_t count;
};

enum jinja_view_kind { JINJA_KEYS, JINJA_VALUES, JINJA_ITEMS };

struct jinja_view {
    const struct jinja_dict *dict;
    enum jinja_view_kind kind;
};

/* Walks anything that Python can iterate. */
struct jinja_cursor {
    struct jinja_value of;
    size_t at;
};

struct jinja_value jinja_undefined_named(struct jinja_str name);
struct jinja_value jinja_undefined_hint(const char *hint);
struct jinja_value jinja_undefined_in(struct jinja_env *env, struct jinja_value object,
                                      struct jinja_value key);
struct jinja_value jinja_none(void);
struct jinja_value jinja_bool(bool b);
struct jinja_value jinja_int(int64_t i);
struct jinja_value jinja_real(double f);
struct jinja_value jinja_string(struct jinja_str s);
struct jinja_value jinja_list_new(struct jinja_env *env, enum jinja_type type);
struct jinja_value jinja_list_view(struct jinja_env *env, enum jinja_type type,
                                   struct jinja_value *items, size_t count);
struct jinja_value jinja_dict_new(struct jinja_env *env);
void jinja_list_push(struct jinja_env *env, struct jinja_list *list, struct jinja_value v);

/* NULL when absent. The key must be hashable. */
struct jinja_value *jinja_dict_find(struct jinja_env *env, const struct jinja_dict *d,
                                    struct jinja_value key);
struct jinja_value *jinja_dict_find_str(struct jinja_env *env, const struct jinja_dict *d,
                                        struct jinja_str key);
void jinja_dict_set(struct jinja_env *env, struct jinja_dict *d, struct jinja_value key,
                    struct jinja_value value);
bool jinja_is_hashable(struct jinja_value v);

const char *jinja_type_name(struct jinja_value v); /* Python's: "str", "NoneType"... */
bool jinja_is_number(struct jinja_value v);
bool jinja_is_int(struct jinja_value v); /* bool included */
int64_t jinja_as_int(struct jinja_value v);
double jinja_as_real(struct jinja_value v); /* of a number */
bool jinja_is_sized(struct jinja_value v);
int64_t jinja_length(struct jinja_env *env, struct jinja_value v); /* fails when not sized */
bool jinja_truth(struct jinja_value v);
bool jinja_same(struct jinja_value a, struct jinja_value b);
bool jinja_equal(struct jinja_env *env, struct jinja_value a, struct jinja_value b);
/* < 0, 0, > 0; 2 when unordered (NaN); fails on types that Python does not order. */
int jinja_order(struct jinja_env *env, struct jinja_value a, struct jinja_value b, const char *op);
bool jinja_contains(struct jinja_env *env, struct jinja_value in, struct jinja_value v);
_Noreturn void jinja_fail_undefined(struct jinja_env *env, struct jinja_value v);
/* Fails with the value's own message when it is undefined. */
void jinja_need_defined(struct jinja_env *env, struct jinja_value v);

bool jinja_is_iterable(struct jinja_value v);
struct jinja_cursor jinja_iterate(struct jinja_env *env, struct jinja_value v);
bool jinja_next(struct jinja_env *env, struct jinja_cursor *c, struct jinja_value *ret);
struct jinja_value jinja_to_list(struct jinja_env *env, struct jinja_value v);
struct jinja_value jinja_pair_tuple(struct jinja_env *env, struct jinja_value a,
                                    struct jinja_value b);
