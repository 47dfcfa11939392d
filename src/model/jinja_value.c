/* See jinja_value.h. Equality, order, truth and iteration are Python's. */
#include "model/jinja_value.h"

#include <math.h>
#include <string.h>

#include "model/jinja_text.h"

#define DICT_LINEAR_MAX 8

struct jinja_value jinja_undefined_named(struct jinja_str name)
{
    return (struct jinja_value){.type = JINJA_UNDEFINED, .str = name};
}

struct jinja_value jinja_undefined_hint(const char *hint)
{
    return (struct jinja_value){
        .type = JINJA_UNDEFINED, .flags = JINJA_FLAG_HINT, .str = {hint, strlen(hint)}};
}

struct jinja_value jinja_undefined_in(struct jinja_env *env, struct jinja_value object,
                                      struct jinja_value key)
{
    if (key.type == JINJA_STR)
        return (struct jinja_value){
            .type = JINJA_UNDEFINED, .of = (uint8_t)(1 + object.type), .str = key.str};
    struct jinja_text t = jinja_text_begin(SIZE_MAX);
    jinja_text_printf(env, &t, "%s%s has no element ", jinja_type_name(object),
                      object.type == JINJA_NONE ? "" : " object");
    jinja_repr(env, &t, key);
    return (struct jinja_value){
        .type = JINJA_UNDEFINED, .flags = JINJA_FLAG_HINT, .str = jinja_text_end(&t)};
}

struct jinja_value jinja_none(void)
{
    return (struct jinja_value){.type = JINJA_NONE};
}

struct jinja_value jinja_bool(bool b)
{
    return (struct jinja_value){.type = JINJA_BOOL, .boolean = b};
}

struct jinja_value jinja_int(int64_t i)
{
    return (struct jinja_value){.type = JINJA_INT, .integer = i};
}

struct jinja_value jinja_real(double f)
{
    return (struct jinja_value){.type = JINJA_FLOAT, .real = f};
}

struct jinja_value jinja_string(struct jinja_str s)
{
    return (struct jinja_value){.type = JINJA_STR, .str = s};
}

struct jinja_value jinja_list_new(struct jinja_env *env, enum jinja_type type)
{
    return (struct jinja_value){.type = type, .list = jinja_alloc(env, sizeof(struct jinja_list))};
}

struct jinja_value jinja_list_view(struct jinja_env *env, enum jinja_type type,
                                   struct jinja_value *items, size_t count)
{
    struct jinja_value v = jinja_list_new(env, type);
    v.list->items = items;
    v.list->count = v.list->cap = count;
    return v;
}

struct jinja_value jinja_dict_new(struct jinja_env *env)
{
    return (struct jinja_value){.type = JINJA_DICT,
                                .dict = jinja_alloc(env, sizeof(struct jinja_dict))};
}

void jinja_list_push(struct jinja_env *env, struct jinja_list *list, struct jinja_value v)
{
    if (list->count == list->cap) {
        size_t cap = list->cap < 4 ? 4 : list->cap * 2;
        struct jinja_value *items = jinja_alloc_array(env, cap, sizeof *items);
        if (list->count > 0)
            memcpy(items, list->items, list->count * sizeof *items);
        list->items = items;
        list->cap = cap;
    }
    list->items[list->count++] = v;
}

/* --- dictionaries --- */

bool jinja_is_hashable(struct jinja_value v)
{
    if (v.type == JINJA_TUPLE) {
        for (size_t i = 0; i < v.list->count; i++)
            if (v.list->items[i].type == JINJA_TUPLE || !jinja_is_hashable(v.list->items[i]))
                return false; /* a tuple in a tuple as a key: nobody's template */
        return true;
    }
    return v.type <= JINJA_STR;
}

static bool real_is_int(double f)
{
    return f >= -0x1p63 && f < 0x1p63 && f == floor(f);
}

static uint64_t mix(uint64_t h)
{
    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93u;
    h ^= h >> 32;
    return h;
}

/* Equal values have equal hashes. Keys that collide cost steps like everything else. */
static uint64_t hash_of(struct jinja_env *env, struct jinja_value v)
{
    uint64_t h = 0xcbf29ce484222325u;
    switch (v.type) {
    case JINJA_STR:
        jinja_step_bytes(env, v.str.len);
        for (size_t i = 0; i < v.str.len; i++)
            h = (h ^ (unsigned char)v.str.s[i]) * 0x100000001b3u;
        return mix(h);
    case JINJA_BOOL:
    case JINJA_INT:
        return mix((uint64_t)jinja_as_int(v));
    case JINJA_FLOAT:
        if (real_is_int(v.real))
            return mix((uint64_t)(int64_t)v.real);
        memcpy(&h, &v.real, sizeof h);
        return mix(h);
    case JINJA_TUPLE:
        for (size_t i = 0; i < v.list->count; i++)
            h = mix(h + hash_of(env, v.list->items[i]));
        return h;
    default:
        return mix(v.type);
    }
}

static struct jinja_pair *pair_find(struct jinja_env *env, const struct jinja_dict *d,
                                    struct jinja_value key, uint64_t hash)
{
    if (d->slots == NULL) {
        for (size_t i = 0; i < d->count; i++)
            if (d->pairs[i].hash == hash && jinja_equal(env, d->pairs[i].key, key))
                return &d->pairs[i];
        return NULL;
    }
    for (size_t s = hash & (d->slot_count - 1); d->slots[s] != 0;
         s = (s + 1) & (d->slot_count - 1)) {
        struct jinja_pair *p = &d->pairs[d->slots[s] - 1];
        jinja_step(env, 1);
        if (p->hash == hash && jinja_equal(env, p->key, key))
            return p;
    }
    return NULL;
}

struct jinja_value *jinja_dict_find(struct jinja_env *env, const struct jinja_dict *d,
                                    struct jinja_value key)
{
    struct jinja_pair *p = pair_find(env, d, key, hash_of(env, key));
    return p != NULL ? &p->value : NULL;
}

struct jinja_value *jinja_dict_find_str(struct jinja_env *env, const struct jinja_dict *d,
                                        struct jinja_str key)
{
    return jinja_dict_find(env, d, jinja_string(key));
}

static void slot_take(struct jinja_env *env, struct jinja_dict *d, size_t pair_index)
{
    size_t s = d->pairs[pair_index].hash & (d->slot_count - 1);
    for (; d->slots[s] != 0; s = (s + 1) & (d->slot_count - 1))
        jinja_step(env, 1);
    d->slots[s] = (uint32_t)pair_index + 1;
}

static void dict_grow(struct jinja_env *env, struct jinja_dict *d)
{
    size_t cap = d->cap < 4 ? 4 : d->cap * 2;
    if (cap > UINT32_MAX / 4)
        jinja_fail_limit(env, "the memory");
    struct jinja_pair *pairs = jinja_alloc_array(env, cap, sizeof *pairs);
    if (d->count > 0)
        memcpy(pairs, d->pairs, d->count * sizeof *pairs);
    d->pairs = pairs;
    d->cap = cap;
    if (cap <= DICT_LINEAR_MAX)
        return;
    d->slot_count = cap * 2;
    d->slots = jinja_alloc_array(env, d->slot_count, sizeof *d->slots);
    for (size_t i = 0; i < d->count; i++)
        slot_take(env, d, i);
}

void jinja_dict_set(struct jinja_env *env, struct jinja_dict *d, struct jinja_value key,
                    struct jinja_value value)
{
    if (!jinja_is_hashable(key))
        jinja_fail(env, "unhashable type: '%s'", jinja_type_name(key));
    uint64_t hash = hash_of(env, key);
    struct jinja_pair *p = pair_find(env, d, key, hash);
    if (p != NULL) {
        p->value = value;
        return;
    }
    if (d->count == d->cap)
        dict_grow(env, d);
    d->pairs[d->count++] = (struct jinja_pair){key, value, hash};
    if (d->slots != NULL)
        slot_take(env, d, d->count - 1);
}

/* --- what a value is --- */

const char *jinja_type_name(struct jinja_value v)
{
    static const char *const names[] = {
        [JINJA_UNDEFINED] = "Undefined", [JINJA_NONE] = "None",
        [JINJA_BOOL] = "bool",           [JINJA_INT] = "int",
        [JINJA_FLOAT] = "float",         [JINJA_STR] = "str",
        [JINJA_LIST] = "list",           [JINJA_TUPLE] = "tuple",
        [JINJA_DICT] = "dict",           [JINJA_RANGE] = "range",
        [JINJA_VIEW] = "dict_view",      [JINJA_ITER] = "generator",
        [JINJA_NAMESPACE] = "Namespace", [JINJA_LOOP] = "LoopContext",
        [JINJA_MACRO] = "Macro",         [JINJA_METHOD] = "method",
        [JINJA_FUNCTION] = "function",
    };
    return names[v.type];
}

bool jinja_is_number(struct jinja_value v)
{
    return v.type == JINJA_BOOL || v.type == JINJA_INT || v.type == JINJA_FLOAT;
}

bool jinja_is_int(struct jinja_value v)
{
    return v.type == JINJA_BOOL || v.type == JINJA_INT;
}

int64_t jinja_as_int(struct jinja_value v)
{
    return v.type == JINJA_BOOL ? v.boolean : v.integer;
}

double jinja_as_real(struct jinja_value v)
{
    return v.type == JINJA_FLOAT ? v.real : (double)jinja_as_int(v);
}

bool jinja_is_sized(struct jinja_value v)
{
    switch (v.type) {
    case JINJA_UNDEFINED:
    case JINJA_STR:
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_DICT:
    case JINJA_RANGE:
    case JINJA_VIEW:
        return true;
    default:
        return false;
    }
}

int64_t jinja_length(struct jinja_env *env, struct jinja_value v)
{
    switch (v.type) {
    case JINJA_UNDEFINED:
        return 0;
    case JINJA_STR:
        return jinja_str_count(env, v.str);
    case JINJA_LIST:
    case JINJA_TUPLE:
        return (int64_t)v.list->count;
    case JINJA_DICT:
        return (int64_t)v.dict->count;
    case JINJA_RANGE:
        return v.range->count;
    case JINJA_VIEW:
        return (int64_t)v.view->dict->count;
    default:
        jinja_fail(env, "object of type '%s' has no len()", jinja_type_name(v));
    }
}

bool jinja_truth(struct jinja_value v)
{
    switch (v.type) {
    case JINJA_UNDEFINED:
    case JINJA_NONE:
        return false;
    case JINJA_BOOL:
        return v.boolean;
    case JINJA_INT:
        return v.integer != 0;
    case JINJA_FLOAT:
        return v.real != 0;
    case JINJA_STR:
        return v.str.len > 0;
    case JINJA_LIST:
    case JINJA_TUPLE:
        return v.list->count > 0;
    case JINJA_DICT:
        return v.dict->count > 0;
    case JINJA_RANGE:
        return v.range->count > 0;
    case JINJA_VIEW:
        return v.view->dict->count > 0;
    default:
        return true;
    }
}

bool jinja_same(struct jinja_value a, struct jinja_value b)
{
    if (a.type != b.type)
        return false;
    switch (a.type) {
    case JINJA_NONE:
        return true;
    case JINJA_BOOL:
        return a.boolean == b.boolean;
    case JINJA_INT:
        return a.integer == b.integer;
    case JINJA_STR:
        return a.str.s == b.str.s && a.str.len == b.str.len;
    case JINJA_UNDEFINED:
    case JINJA_FLOAT:
        return false;
    case JINJA_FUNCTION:
        return a.function == b.function;
    default:
        return a.list == b.list;
    }
}

/* --- equality and order --- */

static int order_numbers(struct jinja_value a, struct jinja_value b)
{
    if (a.type != JINJA_FLOAT && b.type != JINJA_FLOAT) {
        int64_t x = jinja_as_int(a), y = jinja_as_int(b);
        return (x > y) - (x < y);
    }
    double x = jinja_as_real(a), y = jinja_as_real(b);
    if (isnan(x) || isnan(y))
        return 2;
    if (x != y || (a.type == JINJA_FLOAT && b.type == JINJA_FLOAT))
        return (x > y) - (x < y);
    /* The integer may have been rounded on its way to a double. */
    struct jinja_value f = a.type == JINJA_FLOAT ? a : b;
    if (!real_is_int(f.real))
        return a.type == JINJA_FLOAT ? 1 : -1; /* 2^63 against an integer below it */
    int64_t i = a.type == JINJA_FLOAT ? (int64_t)a.real : jinja_as_int(a);
    int64_t j = b.type == JINJA_FLOAT ? (int64_t)b.real : jinja_as_int(b);
    return (i > j) - (i < j);
}

static bool equal_lists(struct jinja_env *env, const struct jinja_list *a,
                        const struct jinja_list *b)
{
    if (a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++)
        if (!jinja_equal(env, a->items[i], b->items[i]))
            return false;
    return true;
}

static bool equal_dicts(struct jinja_env *env, const struct jinja_dict *a,
                        const struct jinja_dict *b)
{
    if (a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++) {
        const struct jinja_value *v = jinja_dict_find(env, b, a->pairs[i].key);
        if (v == NULL || !jinja_equal(env, a->pairs[i].value, *v))
            return false;
    }
    return true;
}

static bool equal_ranges(const struct jinja_range *a, const struct jinja_range *b)
{
    return a->count == b->count && (a->count == 0 || a->start == b->start) &&
           (a->count <= 1 || a->step == b->step);
}

bool jinja_equal(struct jinja_env *env, struct jinja_value a, struct jinja_value b)
{
    jinja_step(env, 1);
    if (jinja_is_number(a) && jinja_is_number(b))
        return order_numbers(a, b) == 0;
    if (a.type != b.type)
        return false;
    bool equal = false;
    jinja_enter(env);
    switch (a.type) {
    case JINJA_UNDEFINED:
    case JINJA_NONE:
        equal = true;
        break;
    case JINJA_STR:
        jinja_step_bytes(env, a.str.len);
        equal = jinja_str_equal(a.str, b.str);
        break;
    case JINJA_LIST:
    case JINJA_TUPLE:
        equal = equal_lists(env, a.list, b.list);
        break;
    case JINJA_DICT:
        equal = equal_dicts(env, a.dict, b.dict);
        break;
    case JINJA_RANGE:
        equal = equal_ranges(a.range, b.range);
        break;
    default:
        equal = jinja_same(a, b);
    }
    jinja_leave(env);
    return equal;
}

static int order_strings(struct jinja_env *env, struct jinja_str a, struct jinja_str b)
{
    size_t n = a.len < b.len ? a.len : b.len;
    jinja_step_bytes(env, n);
    int r = n > 0 ? memcmp(a.s, b.s, n) : 0; /* UTF-8 keeps the order of code points */
    if (r != 0)
        return r < 0 ? -1 : 1;
    return (a.len > b.len) - (a.len < b.len);
}

int jinja_order(struct jinja_env *env, struct jinja_value a, struct jinja_value b, const char *op)
{
    jinja_step(env, 1);
    jinja_need_defined(env, a);
    jinja_need_defined(env, b);
    if (jinja_is_number(a) && jinja_is_number(b))
        return order_numbers(a, b);
    if (a.type == JINJA_STR && b.type == JINJA_STR)
        return order_strings(env, a.str, b.str);
    if (a.type != b.type || (a.type != JINJA_LIST && a.type != JINJA_TUPLE))
        jinja_fail(env, "'%s' not supported between instances of '%s' and '%s'", op,
                   jinja_type_name(a), jinja_type_name(b));
    jinja_enter(env);
    size_t n = a.list->count < b.list->count ? a.list->count : b.list->count;
    int r = (a.list->count > b.list->count) - (a.list->count < b.list->count);
    for (size_t i = 0; i < n; i++) {
        if (!jinja_equal(env, a.list->items[i], b.list->items[i])) {
            r = jinja_order(env, a.list->items[i], b.list->items[i], op);
            break;
        }
    }
    jinja_leave(env);
    return r;
}

bool jinja_contains(struct jinja_env *env, struct jinja_value in, struct jinja_value v)
{
    if (in.type == JINJA_STR) {
        jinja_need_defined(env, v);
        if (v.type != JINJA_STR)
            jinja_fail(env, "'in <string>' requires string as left operand, not %s",
                       jinja_type_name(v));
        jinja_step_bytes(env, in.str.len);
        return v.str.len == 0 ||
               (in.str.len > 0 && memmem(in.str.s, in.str.len, v.str.s, v.str.len) != NULL);
    }
    if (in.type == JINJA_DICT || (in.type == JINJA_VIEW && in.view->kind == JINJA_KEYS)) {
        if (!jinja_is_hashable(v))
            jinja_fail(env, "unhashable type: '%s'", jinja_type_name(v));
        const struct jinja_dict *d = in.type == JINJA_DICT ? in.dict : in.view->dict;
        return jinja_dict_find(env, d, v) != NULL;
    }
    if (!jinja_is_iterable(in))
        jinja_fail(env, "argument of type '%s' is not iterable",
                   in.type == JINJA_NONE ? "NoneType" : jinja_type_name(in));
    struct jinja_cursor c = jinja_iterate(env, in);
    struct jinja_value item;
    while (jinja_next(env, &c, &item))
        if (jinja_equal(env, item, v))
            return true;
    return false;
}

void jinja_fail_undefined(struct jinja_env *env, struct jinja_value v)
{
    int len = (int)(v.str.len < 256 ? v.str.len : 256);
    if ((v.flags & JINJA_FLAG_HINT) != 0)
        jinja_fail(env, "%.*s", len, v.str.s);
    if (v.of == 0)
        jinja_fail(env, "'%.*s' is undefined", len, v.str.s);
    struct jinja_value object = {.type = (enum jinja_type)(v.of - 1)};
    jinja_fail(env, "'%s%s' has no attribute '%.*s'", jinja_type_name(object),
               object.type == JINJA_NONE ? "" : " object", len, v.str.s);
}

void jinja_need_defined(struct jinja_env *env, struct jinja_value v)
{
    if (v.type == JINJA_UNDEFINED)
        jinja_fail_undefined(env, v);
}

/* --- iteration --- */

bool jinja_is_iterable(struct jinja_value v)
{
    return jinja_is_sized(v) || v.type == JINJA_ITER;
}

struct jinja_cursor jinja_iterate(struct jinja_env *env, struct jinja_value v)
{
    if (!jinja_is_iterable(v))
        jinja_fail(env, "'%s' object is not iterable",
                   v.type == JINJA_NONE ? "NoneType" : jinja_type_name(v));
    return (struct jinja_cursor){.of = v};
}

struct jinja_value jinja_pair_tuple(struct jinja_env *env, struct jinja_value a,
                                    struct jinja_value b)
{
    struct jinja_value *items = jinja_alloc_array(env, 2, sizeof *items);
    items[0] = a;
    items[1] = b;
    return jinja_list_view(env, JINJA_TUPLE, items, 2);
}

static struct jinja_value view_item(struct jinja_env *env, const struct jinja_view *v, size_t i)
{
    const struct jinja_pair *p = &v->dict->pairs[i];
    if (v->kind == JINJA_ITEMS)
        return jinja_pair_tuple(env, p->key, p->value);
    return v->kind == JINJA_KEYS ? p->key : p->value;
}

bool jinja_next(struct jinja_env *env, struct jinja_cursor *c, struct jinja_value *ret)
{
    jinja_step(env, 1);
    if (c->of.type == JINJA_UNDEFINED)
        return false;
    if (c->of.type == JINJA_STR) {
        if (c->at >= c->of.str.len)
            return false;
        size_t n = jinja_char_bytes(c->of.str.s[c->at]);
        *ret = jinja_string((struct jinja_str){c->of.str.s + c->at, n});
        c->at += n;
        return true;
    }
    if (c->of.type == JINJA_ITER) { /* every walker of it shares one place */
        if (c->of.list->taken >= c->of.list->count)
            return false;
        *ret = c->of.list->items[c->of.list->taken++];
        return true;
    }
    if (c->at >= (size_t)jinja_length(env, c->of))
        return false;
    size_t i = c->at++;
    switch (c->of.type) {
    case JINJA_DICT:
        *ret = c->of.dict->pairs[i].key;
        break;
    case JINJA_VIEW:
        *ret = view_item(env, c->of.view, i);
        break;
    case JINJA_RANGE:
        *ret = jinja_int(c->of.range->start + (int64_t)i * c->of.range->step);
        break;
    default:
        *ret = c->of.list->items[i];
    }
    return true;
}

struct jinja_value jinja_to_list(struct jinja_env *env, struct jinja_value v)
{
    struct jinja_value list = jinja_list_new(env, JINJA_LIST);
    struct jinja_cursor c = jinja_iterate(env, v);
    struct jinja_value item;
    while (jinja_next(env, &c, &item))
        jinja_list_push(env, list.list, item);
    return list;
}
