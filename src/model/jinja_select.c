/* Filters on sequences. What gives a generator in Jinja gives an iterator here, computed at once.
 */
#include <string.h>

#include "model/jinja_run.h"
#include "model/jinja_text.h"

#define COUNT(a) (sizeof(a) / sizeof(a)[0])
#define FILTER(name)                                                                               \
    static struct jinja_value select_##name(struct jinja_run *r, struct jinja_value v,             \
                                            const struct jinja_bound *b)

/* "a.0.b" or an index: Jinja's attribute paths. */
static struct jinja_value get_path(struct jinja_run *r, struct jinja_value v,
                                   struct jinja_value path)
{
    if (path.type == JINJA_NONE)
        return v;
    if (path.type != JINJA_STR)
        return jinja_get_item(r, v, path);
    struct jinja_str s = path.str;
    for (;;) {
        const char *dot = s.len > 0 ? memchr(s.s, '.', s.len) : NULL;
        struct jinja_str part = {s.s, dot != NULL ? (size_t)(dot - s.s) : s.len};
        int64_t i = 0;
        bool digits = part.len > 0 && part.len < 18;
        for (size_t k = 0; k < part.len && digits; k++) {
            digits = part.s[k] >= '0' && part.s[k] <= '9';
            i = i * 10 + (part.s[k] - '0');
        }
        v = jinja_get_item(r, v, digits ? jinja_int(i) : jinja_string(part));
        jinja_step(&r->env, 1);
        if (dot == NULL)
            return v;
        s.len -= part.len + 1;
        s.s = dot + 1;
    }
}

static struct jinja_value fold_case(struct jinja_run *r, struct jinja_value v)
{
    if (v.type != JINJA_STR)
        return v;
    return jinja_string(jinja_str_case(&r->env, v.str, JINJA_LOWER));
}

/* The key by which sort, unique, min and max compare. */
static struct jinja_value key_of(struct jinja_run *r, struct jinja_value v,
                                 struct jinja_value attribute, bool case_sensitive)
{
    v = get_path(r, v, attribute);
    return case_sensitive ? v : fold_case(r, v);
}

/* --- first, last, join... --- */

FILTER(first)
{
    (void)b;
    struct jinja_cursor c = jinja_iterate(&r->env, v);
    struct jinja_value item;
    if (jinja_next(&r->env, &c, &item))
        return item;
    return jinja_undefined_hint("No first item, sequence was empty.");
}

static struct jinja_value reversed(struct jinja_run *r, struct jinja_value v)
{
    struct jinja_value list = jinja_to_list(&r->env, v);
    for (size_t i = 0, n = list.list->count; i < n / 2; i++) {
        struct jinja_value swap = list.list->items[i];
        list.list->items[i] = list.list->items[n - 1 - i];
        list.list->items[n - 1 - i] = swap;
    }
    return list;
}

FILTER(last)
{
    (void)b;
    if (v.type == JINJA_ITER)
        jinja_fail(&r->env, "'generator' object is not reversible");
    if (v.type == JINJA_LIST || v.type == JINJA_TUPLE) {
        if (v.list->count > 0)
            return v.list->items[v.list->count - 1];
        return jinja_undefined_hint("No last item, sequence was empty.");
    }
    struct jinja_value list = jinja_to_list(&r->env, v);
    if (list.list->count > 0)
        return list.list->items[list.list->count - 1];
    return jinja_undefined_hint("No last item, sequence was empty.");
}

FILTER(reverse)
{
    (void)b;
    struct jinja_value list = reversed(r, v);
    if (v.type != JINJA_STR) {
        list.type = JINJA_ITER;
        return list;
    }
    struct jinja_text t = jinja_text_begin(SIZE_MAX);
    for (size_t i = 0; i < list.list->count; i++)
        jinja_text_add_str(&r->env, &t, list.list->items[i].str);
    return jinja_string(jinja_text_end(&t));
}

FILTER(list)
{
    (void)b;
    return jinja_to_list(&r->env, v);
}

FILTER(items)
{
    (void)b;
    struct jinja_view view = {.kind = JINJA_ITEMS};
    if (v.type == JINJA_UNDEFINED)
        return jinja_list_new(&r->env, JINJA_ITER);
    if (v.type != JINJA_DICT)
        jinja_fail(&r->env, "Can only get item pairs from a mapping.");
    view.dict = v.dict;
    struct jinja_value list =
        jinja_to_list(&r->env, (struct jinja_value){.type = JINJA_VIEW, .view = &view});
    list.type = JINJA_ITER;
    return list;
}

FILTER(join)
{
    struct jinja_value by = jinja_arg_or(b, 0, jinja_string(JINJA_STR("")));
    struct jinja_str between = jinja_to_str(&r->env, by);
    struct jinja_value list = jinja_to_list(&r->env, v);
    struct jinja_value path = jinja_arg_or(b, 1, jinja_none());
    for (size_t i = 0; i < list.list->count; i++) {
        struct jinja_value item = get_path(r, list.list->items[i], path);
        list.list->items[i] = jinja_string(jinja_to_str(&r->env, item));
    }
    struct jinja_text t = jinja_text_begin(SIZE_MAX);
    for (size_t i = 0; i < list.list->count; i++) {
        if (i > 0)
            jinja_text_add_str(&r->env, &t, between);
        jinja_text_add_str(&r->env, &t, list.list->items[i].str);
    }
    return jinja_string(jinja_text_end(&t));
}

FILTER(sum)
{
    struct jinja_value path = jinja_arg_or(b, 0, jinja_none());
    struct jinja_value total = jinja_arg_or(b, 1, jinja_int(0)), item;
    struct jinja_cursor c = jinja_iterate(&r->env, v);
    if (total.type == JINJA_STR)
        jinja_fail(&r->env, "sum() can't sum strings [use ''.join(seq) instead]");
    while (jinja_next(&r->env, &c, &item))
        total = jinja_binary(r, '+', total, get_path(r, item, path));
    return total;
}

/* --- order --- */

static void sort_merge(struct jinja_run *r, struct jinja_value *from[2], struct jinja_value *to[2],
                       const size_t edge[3], bool reverse)
{
    size_t i = edge[0], j = edge[1];
    for (size_t k = edge[0]; k < edge[2]; k++) {
        bool left = j >= edge[2];
        if (!left && i < edge[1]) { /* stable in both directions */
            int order = reverse ? jinja_order(&r->env, from[1][i], from[1][j], "<")
                                : jinja_order(&r->env, from[1][j], from[1][i], "<");
            left = order >= 0;
        }
        size_t take = left ? i++ : j++;
        to[0][k] = from[0][take];
        to[1][k] = from[1][take];
    }
}

void jinja_sort(struct jinja_run *r, struct jinja_value *items, struct jinja_value *keys,
                size_t count, bool reverse)
{
    struct jinja_value *a[2] = {items, keys};
    struct jinja_value *other[2] = {jinja_alloc_array(&r->env, count, sizeof *items),
                                    jinja_alloc_array(&r->env, count, sizeof *items)};
    struct jinja_value **from = a, **to = other;
    for (size_t width = 1; width < count; width *= 2) {
        for (size_t low = 0; low < count; low += 2 * width) {
            size_t edge[3] = {low, low + width < count ? low + width : count,
                              low + 2 * width < count ? low + 2 * width : count};
            sort_merge(r, from, to, edge, reverse);
        }
        struct jinja_value **swap = from;
        from = to;
        to = swap;
    }
    if (from != a && count > 0)
        memcpy(items, from[0], count * sizeof *items);
}

/* "a,b" sorts by a, then b. */
static struct jinja_value sort_key(struct jinja_run *r, struct jinja_value v,
                                   struct jinja_value attribute, bool case_sensitive)
{
    if (attribute.type != JINJA_STR || attribute.str.len == 0 ||
        memchr(attribute.str.s, ',', attribute.str.len) == NULL)
        return key_of(r, v, attribute, case_sensitive);
    struct jinja_value key = jinja_list_new(&r->env, JINJA_TUPLE);
    struct jinja_str s = attribute.str;
    for (;;) {
        const char *comma = s.len > 0 ? memchr(s.s, ',', s.len) : NULL;
        struct jinja_str part = {s.s, comma != NULL ? (size_t)(comma - s.s) : s.len};
        jinja_list_push(&r->env, key.list, key_of(r, v, jinja_string(part), case_sensitive));
        if (comma == NULL)
            return key;
        s.len -= part.len + 1;
        s.s = comma + 1;
    }
}

FILTER(sort)
{
    struct jinja_value list = jinja_to_list(&r->env, v);
    size_t n = list.list->count;
    struct jinja_value *keys = jinja_alloc_array(&r->env, n, sizeof *keys);
    for (size_t i = 0; i < n; i++)
        keys[i] = sort_key(r, list.list->items[i], jinja_arg_or(b, 2, jinja_none()),
                           jinja_arg_truth(b, 1, false));
    jinja_sort(r, list.list->items, keys, n, jinja_arg_truth(b, 0, false));
    return list;
}

FILTER(dictsort)
{
    struct jinja_str by = jinja_arg_str(r, b, 1, "key");
    bool case_sensitive = jinja_arg_truth(b, 0, false);
    jinja_need_defined(&r->env, v);
    if (v.type != JINJA_DICT)
        jinja_fail(&r->env, "'%s' object has no attribute 'items'", jinja_type_name(v));
    if (!jinja_str_is(by, "key") && !jinja_str_is(by, "value"))
        jinja_fail(&r->env, "You can only sort by either \"key\" or \"value\"");
    struct jinja_value list = jinja_list_new(&r->env, JINJA_LIST);
    struct jinja_value *keys = jinja_alloc_array(&r->env, v.dict->count, sizeof *keys);
    for (size_t i = 0; i < v.dict->count; i++) {
        const struct jinja_pair *p = &v.dict->pairs[i];
        jinja_list_push(&r->env, list.list, jinja_pair_tuple(&r->env, p->key, p->value));
        keys[i] = jinja_str_is(by, "key") ? p->key : p->value;
        if (!case_sensitive)
            keys[i] = fold_case(r, keys[i]);
    }
    jinja_sort(r, list.list->items, keys, v.dict->count, jinja_arg_truth(b, 2, false));
    return list;
}

FILTER(unique)
{
    struct jinja_value seen = jinja_dict_new(&r->env), list = jinja_list_new(&r->env, JINJA_ITER);
    struct jinja_cursor c = jinja_iterate(&r->env, v);
    struct jinja_value item;
    while (jinja_next(&r->env, &c, &item)) {
        struct jinja_value key =
            key_of(r, item, jinja_arg_or(b, 1, jinja_none()), jinja_arg_truth(b, 0, false));
        size_t before = seen.dict->count;
        jinja_dict_set(&r->env, seen.dict, key, jinja_none());
        if (seen.dict->count > before)
            jinja_list_push(&r->env, list.list, item);
    }
    return list;
}

static struct jinja_value extreme(struct jinja_run *r, struct jinja_value v,
                                  const struct jinja_bound *b, bool max)
{
    bool case_sensitive = jinja_arg_truth(b, 0, false);
    struct jinja_value path = jinja_arg_or(b, 1, jinja_none()), best, best_key, item;
    struct jinja_cursor c = jinja_iterate(&r->env, v);
    if (!jinja_next(&r->env, &c, &best))
        return jinja_undefined_hint("No aggregated item, sequence was empty.");
    best_key = key_of(r, best, path, case_sensitive);
    while (jinja_next(&r->env, &c, &item)) {
        struct jinja_value key = key_of(r, item, path, case_sensitive);
        int order = max ? jinja_order(&r->env, best_key, key, ">")
                        : jinja_order(&r->env, key, best_key, "<");
        if (order >= 0)
            continue;
        best = item;
        best_key = key;
    }
    return best;
}

FILTER(min)
{
    return extreme(r, v, b, false);
}

FILTER(max)
{
    return extreme(r, v, b, true);
}

/* --- map, select, reject --- */

static struct jinja_str name_arg(struct jinja_run *r, struct jinja_value v)
{
    if (v.type != JINJA_STR)
        jinja_fail(&r->env, "the name of a filter or test must be str, not %s", jinja_type_name(v));
    return v.str;
}

static struct jinja_value map_attribute(struct jinja_run *r, struct jinja_value v,
                                        const struct jinja_args *args)
{
    struct jinja_value list = jinja_list_new(&r->env, JINJA_ITER), path = jinja_none(), item;
    struct jinja_value other = jinja_none();
    for (size_t i = 0; i < args->named_count; i++) {
        if (jinja_str_is(args->names[i], "attribute"))
            path = args->named[i];
        else if (jinja_str_is(args->names[i], "default"))
            other = args->named[i];
        else
            jinja_fail(&r->env, "map got an unexpected keyword argument");
    }
    struct jinja_cursor c = jinja_iterate(&r->env, v);
    while (jinja_next(&r->env, &c, &item)) {
        item = get_path(r, item, path);
        bool missing = item.type == JINJA_UNDEFINED && other.type != JINJA_NONE;
        jinja_list_push(&r->env, list.list, missing ? other : item);
    }
    return list;
}

FILTER(map)
{
    struct jinja_args args = *b->raw;
    struct jinja_value list = jinja_list_new(&r->env, JINJA_ITER), item;
    if (!jinja_truth(v))
        return list;
    if (args.count == 0 && args.named_count > 0)
        return map_attribute(r, v, &args);
    if (args.count == 0)
        jinja_fail(&r->env, "map requires a filter argument");
    struct jinja_str name = name_arg(r, args.items[0]);
    args.items++;
    args.count--;
    struct jinja_cursor c = jinja_iterate(&r->env, v);
    jinja_enter(&r->env);
    while (jinja_next(&r->env, &c, &item))
        jinja_list_push(&r->env, list.list, jinja_apply_filter(r, name, item, &args));
    jinja_leave(&r->env);
    return list;
}

static struct jinja_value choose(struct jinja_run *r, struct jinja_value v,
                                 const struct jinja_bound *b, bool want, bool by_attribute)
{
    struct jinja_args args = *b->raw;
    struct jinja_value list = jinja_list_new(&r->env, JINJA_ITER), item;
    struct jinja_value path = jinja_none();
    struct jinja_str test = {0};
    if (!jinja_truth(v))
        return list;
    if (by_attribute && args.count == 0)
        jinja_fail(&r->env, "Missing parameter for attribute name");
    if (by_attribute) {
        path = *args.items++;
        args.count--;
    }
    if (args.count > 0) {
        test = name_arg(r, *args.items++);
        args.count--;
    }
    struct jinja_cursor c = jinja_iterate(&r->env, v);
    while (jinja_next(&r->env, &c, &item)) {
        struct jinja_value of = get_path(r, item, path);
        bool yes = test.s != NULL ? jinja_apply_test(r, test, of, &args) : jinja_truth(of);
        if (yes == want)
            jinja_list_push(&r->env, list.list, item);
    }
    return list;
}

FILTER(select)
{
    return choose(r, v, b, true, false);
}

FILTER(reject)
{
    return choose(r, v, b, false, false);
}

FILTER(selectattr)
{
    return choose(r, v, b, true, true);
}

FILTER(rejectattr)
{
    return choose(r, v, b, false, true);
}

static const struct jinja_callable filters[] = {
    {"first", select_first, ""},
    {"last", select_last, ""},
    {"reverse", select_reverse, ""},
    {"list", select_list, ""},
    {"items", select_items, ""},
    {"join", select_join, "d attribute"},
    {"sum", select_sum, "attribute start"},
    {"sort", select_sort, "reverse case_sensitive attribute"},
    {"dictsort", select_dictsort, "case_sensitive by reverse"},
    {"unique", select_unique, "case_sensitive attribute"},
    {"min", select_min, "case_sensitive attribute"},
    {"max", select_max, "case_sensitive attribute"},
    {"map", select_map, "*"},
    {"select", select_select, "*"},
    {"reject", select_reject, "*"},
    {"selectattr", select_selectattr, "*"},
    {"rejectattr", select_rejectattr, "*"},
};

const struct jinja_callable *jinja_find_select(struct jinja_str name)
{
    return jinja_find_in(filters, COUNT(filters), name);
}
