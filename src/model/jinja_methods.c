/* The methods of str, list, tuple and dict. Those that change their object do not exist here. */
#include <string.h>
#include <utf8proc.h>

#include "model/jinja_run.h"
#include "model/jinja_text.h"

#define COUNT(a) (sizeof(a) / sizeof(a)[0])
#define METHOD(name)                                                                               \
    static struct jinja_value method_##name(struct jinja_run *r, struct jinja_value of,            \
                                            const struct jinja_bound *b)

static struct jinja_value sub(struct jinja_str s, size_t from, size_t to)
{
    return jinja_string((struct jinja_str){s.s + from, to - from});
}

/* --- str --- */

static struct jinja_value strip(struct jinja_run *r, struct jinja_value of,
                                const struct jinja_bound *b, bool left, bool right)
{
    struct jinja_str chars;
    bool given = b->given[0] && b->at[0].type != JINJA_NONE;
    if (given)
        chars = jinja_arg_str(r, b, 0, "");
    return jinja_string(jinja_str_strip(&r->env, of.str, given ? &chars : NULL, left, right));
}

METHOD(strip)
{
    return strip(r, of, b, true, true);
}

METHOD(lstrip)
{
    return strip(r, of, b, true, false);
}

METHOD(rstrip)
{
    return strip(r, of, b, false, true);
}

static size_t space_run(struct jinja_str s, size_t at, bool space)
{
    while (at < s.len && jinja_char_is_space(jinja_char_decode(s.s + at)) == space)
        at += jinja_char_bytes(s.s[at]);
    return at;
}

static struct jinja_value split_space(struct jinja_run *r, struct jinja_str s, int64_t max)
{
    struct jinja_value list = jinja_list_new(&r->env, JINJA_LIST);
    jinja_step_bytes(&r->env, s.len);
    for (size_t at = space_run(s, 0, true); at < s.len;) {
        size_t end = space_run(s, at, false);
        if (max >= 0 && (int64_t)list.list->count >= max) {
            jinja_list_push(&r->env, list.list, sub(s, at, s.len));
            break;
        }
        jinja_list_push(&r->env, list.list, sub(s, at, end));
        at = space_run(s, end, true);
    }
    return list;
}

static struct jinja_value split_at(struct jinja_run *r, struct jinja_str s, struct jinja_str by,
                                   int64_t max)
{
    struct jinja_value list = jinja_list_new(&r->env, JINJA_LIST);
    size_t at = 0;
    if (by.len == 0)
        jinja_fail(&r->env, "empty separator");
    jinja_step_bytes(&r->env, s.len);
    while (max < 0 || (int64_t)list.list->count < max) {
        const char *hit = s.len > at ? memmem(s.s + at, s.len - at, by.s, by.len) : NULL;
        if (hit == NULL)
            break;
        jinja_list_push(&r->env, list.list, sub(s, at, (size_t)(hit - s.s)));
        at = (size_t)(hit - s.s) + by.len;
    }
    jinja_list_push(&r->env, list.list, sub(s, at, s.len));
    return list;
}

METHOD(split)
{
    int64_t max = jinja_arg_int(r, b, 1, -1);
    if (!b->given[0] || b->at[0].type == JINJA_NONE)
        return split_space(r, of.str, max);
    return split_at(r, of.str, jinja_arg_str(r, b, 0, ""), max);
}

/* All parts, and the surplus on the left put back together: the parts are views of one text. */
METHOD(rsplit)
{
    int64_t max = jinja_arg_int(r, b, 1, -1);
    bool space = !b->given[0] || b->at[0].type == JINJA_NONE;
    struct jinja_value parts =
        space ? split_space(r, of.str, -1) : split_at(r, of.str, jinja_arg_str(r, b, 0, ""), -1);
    if (max < 0 || (int64_t)parts.list->count <= max + 1)
        return parts;
    size_t keep = parts.list->count - (size_t)max - 1;
    struct jinja_value last = parts.list->items[keep];
    size_t end = (size_t)(last.str.s - of.str.s) + last.str.len;
    parts.list->items[keep] = sub(of.str, 0, end);
    return jinja_list_view(&r->env, JINJA_LIST, parts.list->items + keep, (size_t)max + 1);
}

METHOD(splitlines)
{
    return jinja_str_lines(&r->env, of.str, jinja_arg_truth(b, 0, false));
}

static bool begins(struct jinja_str s, struct jinja_str with, bool at_end)
{
    return s.len >= with.len &&
           memcmp(s.s + (at_end ? s.len - with.len : 0), with.s, with.len) == 0;
}

static struct jinja_value begins_any(struct jinja_run *r, struct jinja_value of,
                                     const struct jinja_bound *b, bool at_end)
{
    if (b->given[1] || b->given[2])
        jinja_fail(&r->env, "startswith and endswith with a start are not supported");
    if (b->at[0].type != JINJA_TUPLE)
        return jinja_bool(begins(of.str, jinja_arg_str(r, b, 0, ""), at_end));
    for (size_t i = 0; i < b->at[0].list->count; i++) {
        struct jinja_value with = b->at[0].list->items[i];
        jinja_step(&r->env, 1);
        if (with.type != JINJA_STR)
            jinja_fail(&r->env, "a tuple for startswith or endswith must hold str");
        if (begins(of.str, with.str, at_end))
            return jinja_bool(true);
    }
    return jinja_bool(false);
}

METHOD(startswith)
{
    return begins_any(r, of, b, false);
}

METHOD(endswith)
{
    return begins_any(r, of, b, true);
}

static struct jinja_value to_case(struct jinja_run *r, struct jinja_value of, enum jinja_case to)
{
    return jinja_string(jinja_str_case(&r->env, of.str, to));
}

#define CASE_METHOD(name, to)                                                                      \
    METHOD(name)                                                                                   \
    {                                                                                              \
        (void)b;                                                                                   \
        return to_case(r, of, to);                                                                 \
    }

CASE_METHOD(upper, JINJA_UPPER)
CASE_METHOD(lower, JINJA_LOWER)
CASE_METHOD(title, JINJA_TITLE)
CASE_METHOD(capitalize, JINJA_CAPITALIZE)
CASE_METHOD(swapcase, JINJA_SWAP)

METHOD(replace)
{
    struct jinja_str from = jinja_arg_str(r, b, 0, ""), to = jinja_arg_str(r, b, 1, "");
    return jinja_string(jinja_str_replace(&r->env, of.str, from, to, jinja_arg_int(r, b, 2, -1)));
}

METHOD(join)
{
    struct jinja_text t = jinja_text_begin(SIZE_MAX);
    struct jinja_value list = jinja_to_list(&r->env, b->at[0]);
    for (size_t i = 0; i < list.list->count; i++) {
        struct jinja_value item = list.list->items[i];
        if (item.type != JINJA_STR)
            jinja_fail(&r->env, "sequence item %zu: expected str instance, %s found", i,
                       jinja_type_name(item));
        if (i > 0)
            jinja_text_add_str(&r->env, &t, of.str);
        jinja_text_add_str(&r->env, &t, item.str);
    }
    return jinja_string(jinja_text_end(&t));
}

/* The last place of `what`, by scanning forward: every hit moves on by one character. */
static const char *find_last(struct jinja_run *r, struct jinja_str s, struct jinja_str what)
{
    const char *hit = NULL;
    for (size_t at = 0; at <= s.len;) {
        const char *p = what.len == 0 ? s.s + s.len
                        : s.len > at  ? memmem(s.s + at, s.len - at, what.s, what.len)
                                      : NULL;
        if (p == NULL)
            break;
        jinja_step(&r->env, 1 + what.len / 16);
        hit = p;
        at = (size_t)(p - s.s) + 1;
    }
    return hit;
}

static int64_t find(struct jinja_run *r, struct jinja_value of, const struct jinja_bound *b,
                    bool last)
{
    struct jinja_str what = jinja_arg_str(r, b, 0, "");
    if (b->given[1] || b->given[2])
        jinja_fail(&r->env, "find and index with a start are not supported");
    const char *hit = what.len == 0    ? of.str.s
                      : of.str.len > 0 ? memmem(of.str.s, of.str.len, what.s, what.len)
                                       : NULL;
    jinja_step_bytes(&r->env, of.str.len);
    if (last)
        hit = find_last(r, of.str, what);
    if (hit == NULL)
        return -1;
    return jinja_str_count(&r->env, (struct jinja_str){of.str.s, (size_t)(hit - of.str.s)});
}

METHOD(find)
{
    return jinja_int(find(r, of, b, false));
}

METHOD(rfind)
{
    return jinja_int(find(r, of, b, true));
}

METHOD(index)
{
    int64_t i = find(r, of, b, false);
    if (i < 0)
        jinja_fail(&r->env, "substring not found");
    return jinja_int(i);
}

METHOD(rindex)
{
    int64_t i = find(r, of, b, true);
    if (i < 0)
        jinja_fail(&r->env, "substring not found");
    return jinja_int(i);
}

METHOD(count)
{
    struct jinja_str what = jinja_arg_str(r, b, 0, "");
    if (what.len == 0)
        return jinja_int(jinja_str_count(&r->env, of.str) + 1);
    return jinja_int((int64_t)split_at(r, of.str, what, -1).list->count - 1);
}

METHOD(removeprefix)
{
    struct jinja_str with = jinja_arg_str(r, b, 0, "");
    return begins(of.str, with, false) ? sub(of.str, with.len, of.str.len) : of;
}

METHOD(removesuffix)
{
    struct jinja_str with = jinja_arg_str(r, b, 0, "");
    return begins(of.str, with, true) ? sub(of.str, 0, of.str.len - with.len) : of;
}

static struct jinja_value partition(struct jinja_run *r, struct jinja_value of,
                                    const struct jinja_bound *b, bool last)
{
    struct jinja_str by = jinja_arg_str(r, b, 0, ""), s = of.str;
    struct jinja_value *items = jinja_alloc_array(&r->env, 3, sizeof *items);
    if (by.len == 0)
        jinja_fail(&r->env, "empty separator");
    const char *hit = s.len > 0 ? memmem(s.s, s.len, by.s, by.len) : NULL;
    if (hit != NULL && last)
        hit = find_last(r, s, by);
    size_t at = hit != NULL ? (size_t)(hit - s.s) : last ? 0 : s.len;
    size_t end = hit != NULL ? at + by.len : at;
    items[0] = sub(s, 0, at);
    items[1] = sub(s, at, end);
    items[2] = sub(s, end, s.len);
    return jinja_list_view(&r->env, JINJA_TUPLE, items, 3);
}

METHOD(partition)
{
    return partition(r, of, b, false);
}

METHOD(rpartition)
{
    return partition(r, of, b, true);
}

static struct jinja_value pad(struct jinja_run *r, struct jinja_value of,
                              const struct jinja_bound *b, int side)
{
    struct jinja_text t = jinja_text_begin(SIZE_MAX);
    struct jinja_str fill = jinja_arg_str(r, b, 1, " ");
    int64_t width = jinja_arg_int(r, b, 0, 0), n = jinja_str_count(&r->env, of.str);
    int64_t more = width > n ? width - n : 0;
    if (jinja_str_count(&r->env, fill) != 1)
        jinja_fail(&r->env, "The fill character must be exactly one character long");
    int64_t left = side < 0 ? 0 : side > 0 ? more : more / 2 + (more & width & 1);
    jinja_text_add_repeat(&r->env, &t, fill, left);
    jinja_text_add_str(&r->env, &t, of.str);
    jinja_text_add_repeat(&r->env, &t, fill, more - left);
    return jinja_string(jinja_text_end(&t));
}

METHOD(ljust)
{
    return pad(r, of, b, -1);
}

METHOD(rjust)
{
    return pad(r, of, b, 1);
}

METHOD(center)
{
    return pad(r, of, b, 0);
}

enum chars { CHARS_SPACE, CHARS_DIGIT, CHARS_ALPHA, CHARS_ALNUM, CHARS_ASCII };

static bool char_is(uint32_t c, enum chars what)
{
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    bool alpha = k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
    switch (what) {
    case CHARS_SPACE:
        return jinja_char_is_space(c);
    case CHARS_DIGIT:
        return k == UTF8PROC_CATEGORY_ND;
    case CHARS_ALPHA:
        return alpha;
    case CHARS_ALNUM:
        return alpha || k == UTF8PROC_CATEGORY_ND;
    default:
        return c < 0x80;
    }
}

static struct jinja_value all_are(struct jinja_run *r, struct jinja_value of, enum chars what)
{
    for (size_t i = 0; i < of.str.len; i += jinja_char_bytes(of.str.s[i])) {
        jinja_step(&r->env, 1);
        if (!char_is(jinja_char_decode(of.str.s + i), what))
            return jinja_bool(false);
    }
    return jinja_bool(of.str.len > 0 || what == CHARS_ASCII);
}

#define CHARS_METHOD(name, what)                                                                   \
    METHOD(name)                                                                                   \
    {                                                                                              \
        (void)b;                                                                                   \
        return all_are(r, of, what);                                                               \
    }

CHARS_METHOD(isspace, CHARS_SPACE)
CHARS_METHOD(isdigit, CHARS_DIGIT)
CHARS_METHOD(isalpha, CHARS_ALPHA)
CHARS_METHOD(isalnum, CHARS_ALNUM)
CHARS_METHOD(isascii, CHARS_ASCII)

METHOD(islower)
{
    return jinja_call_bound(r, jinja_find_test(JINJA_STR("lower")), of, b->raw);
}

METHOD(isupper)
{
    return jinja_call_bound(r, jinja_find_test(JINJA_STR("upper")), of, b->raw);
}

/* --- str.format --- */

struct format_fields {
    const struct jinja_args *args;
    size_t next;   /* of the fields without a number */
    bool numbered; /* the other kind was seen: Python has no mixture */
};

static struct jinja_value format_at(struct jinja_run *r, const struct format_fields *f,
                                    size_t index)
{
    if (f->numbered && f->next > 0)
        jinja_fail(&r->env, "cannot switch between automatic field numbering and numbers");
    if (index >= f->args->count)
        jinja_fail(&r->env, "Replacement index %zu out of range for positional args tuple", index);
    return f->args->items[index];
}

static bool is_number(struct jinja_str s, size_t *ret)
{
    *ret = 0;
    for (size_t i = 0; i < s.len; i++) {
        if (s.s[i] < '0' || s.s[i] > '9')
            return false;
        if (*ret < SIZE_MAX / 20)
            *ret = *ret * 10 + (size_t)(s.s[i] - '0');
    }
    return s.len > 0;
}

/* "", a number or a name; a field that says more is refused. */
static struct jinja_value format_field(struct jinja_run *r, struct format_fields *f,
                                       struct jinja_str field)
{
    size_t index;
    for (size_t i = 0; i < field.len; i++)
        if (field.s[i] != '\0' && strchr(".[:!{", field.s[i]) != NULL)
            jinja_fail(&r->env, "a field of format() that holds '%c' is not supported", field.s[i]);
    if (field.len == 0) {
        index = f->next++;
        return format_at(r, f, index);
    }
    if (is_number(field, &index)) {
        f->numbered = true;
        return format_at(r, f, index);
    }
    for (size_t k = 0; k < f->args->named_count; k++)
        if (jinja_str_equal(f->args->names[k], field))
            return f->args->named[k];
    jinja_fail(&r->env, "format() was not given '%.*s'", (int)(field.len < 60 ? field.len : 60),
               field.s);
}

METHOD(format)
{
    struct format_fields f = {.args = b->raw};
    struct jinja_text t = jinja_text_begin(SIZE_MAX);
    struct jinja_str s = of.str;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.s[i];
        bool doubled = i + 1 < s.len && s.s[i + 1] == c;
        jinja_step(&r->env, 1);
        if ((c != '{' && c != '}') || doubled) {
            jinja_text_add_char(&r->env, &t, c);
            i += c == '{' || c == '}';
            continue;
        }
        const char *end = c == '{' ? memchr(s.s + i, '}', s.len - i) : NULL;
        if (end == NULL)
            jinja_fail(&r->env, "Single '%c' encountered in format string", c);
        struct jinja_str field = {s.s + i + 1, (size_t)(end - s.s) - i - 1};
        jinja_print(&r->env, &t, format_field(r, &f, field));
        i = (size_t)(end - s.s);
    }
    return jinja_string(jinja_text_end(&t));
}

static const struct jinja_callable str_methods[] = {
    {"strip", method_strip, "chars"},
    {"lstrip", method_lstrip, "chars"},
    {"rstrip", method_rstrip, "chars"},
    {"split", method_split, "sep maxsplit"},
    {"rsplit", method_rsplit, "sep maxsplit"},
    {"splitlines", method_splitlines, "keepends"},
    {"startswith", method_startswith, "!prefix start end"},
    {"endswith", method_endswith, "!suffix start end"},
    {"upper", method_upper, ""},
    {"lower", method_lower, ""},
    {"title", method_title, ""},
    {"capitalize", method_capitalize, ""},
    {"swapcase", method_swapcase, ""},
    {"replace", method_replace, "!old !new count"},
    {"join", method_join, "!iterable"},
    {"find", method_find, "!sub start end"},
    {"rfind", method_rfind, "!sub start end"},
    {"index", method_index, "!sub start end"},
    {"rindex", method_rindex, "!sub start end"},
    {"count", method_count, "!sub"},
    {"removeprefix", method_removeprefix, "!prefix"},
    {"removesuffix", method_removesuffix, "!suffix"},
    {"partition", method_partition, "!sep"},
    {"rpartition", method_rpartition, "!sep"},
    {"ljust", method_ljust, "!width fillchar"},
    {"rjust", method_rjust, "!width fillchar"},
    {"center", method_center, "!width fillchar"},
    {"isspace", method_isspace, ""},
    {"isdigit", method_isdigit, ""},
    {"isdecimal", method_isdigit, ""},
    {"isalpha", method_isalpha, ""},
    {"isalnum", method_isalnum, ""},
    {"isascii", method_isascii, ""},
    {"islower", method_islower, ""},
    {"isupper", method_isupper, ""},
    {"casefold", NULL, ""},
    {"encode", NULL, ""},
    {"expandtabs", NULL, ""},
    {"format", method_format, "*"},
    {"format_map", NULL, ""},
    {"isidentifier", NULL, ""},
    {"isnumeric", NULL, ""},
    {"isprintable", NULL, ""},
    {"istitle", NULL, ""},
    {"maketrans", NULL, ""},
    {"translate", NULL, ""},
    {"zfill", NULL, ""},
};

/* --- list, tuple --- */

METHOD(list_index)
{
    for (size_t i = 0; i < of.list->count; i++)
        if (jinja_equal(&r->env, of.list->items[i], b->at[0]))
            return jinja_int((int64_t)i);
    jinja_fail(&r->env, "the value is not in the %s", jinja_type_name(of));
}

METHOD(list_count)
{
    int64_t n = 0;
    for (size_t i = 0; i < of.list->count; i++)
        n += jinja_equal(&r->env, of.list->items[i], b->at[0]);
    return jinja_int(n);
}

METHOD(copy)
{
    (void)r;
    (void)b;
    return of; /* nothing here ever changes */
}

/* Tuples have all but the last. */
static const struct jinja_callable list_methods[] = {
    {"index", method_list_index, "!value"},
    {"count", method_list_count, "!value"},
    {"copy", method_copy, ""},
};

/* --- dict --- */

static struct jinja_value view(struct jinja_run *r, struct jinja_value of,
                               enum jinja_view_kind kind)
{
    struct jinja_view *v = jinja_alloc(&r->env, sizeof *v);
    *v = (struct jinja_view){of.dict, kind};
    return (struct jinja_value){.type = JINJA_VIEW, .view = v};
}

METHOD(keys)
{
    (void)b;
    return view(r, of, JINJA_KEYS);
}

METHOD(values)
{
    (void)b;
    return view(r, of, JINJA_VALUES);
}

METHOD(items)
{
    (void)b;
    return view(r, of, JINJA_ITEMS);
}

METHOD(get)
{
    if (!jinja_is_hashable(b->at[0]))
        jinja_fail(&r->env, "unhashable type: '%s'", jinja_type_name(b->at[0]));
    const struct jinja_value *v = jinja_dict_find(&r->env, of.dict, b->at[0]);
    return v != NULL ? *v : jinja_arg_or(b, 1, jinja_none());
}

static const struct jinja_callable dict_methods[] = {
    {"keys", method_keys, ""},           {"values", method_values, ""}, {"items", method_items, ""},
    {"get", method_get, "!key default"}, {"copy", method_copy, ""},     {"fromkeys", NULL, ""},
};

static const struct jinja_callable number_methods[] = {
    {"bit_length", NULL, ""}, {"bit_count", NULL, ""},
    {"to_bytes", NULL, ""},   {"as_integer_ratio", NULL, ""},
    {"conjugate", NULL, ""},  {"is_integer", NULL, ""},
    {"hex", NULL, ""},
};

static bool is_one_of(struct jinja_str name, const char *const *names)
{
    for (; *names != NULL; names++)
        if (jinja_str_is(name, *names))
            return true;
    return false;
}

const struct jinja_callable *jinja_find_method(struct jinja_value of, struct jinja_str name,
                                               bool *ret_mutates)
{
    static const char *const list_mutators[] = {"append", "clear",  "pop",    "reverse", "insert",
                                                "sort",   "extend", "remove", NULL};
    static const char *const dict_mutators[] = {"clear",      "pop",    "popitem",
                                                "setdefault", "update", NULL};
    switch (of.type) {
    case JINJA_STR:
        return jinja_find_in(str_methods, COUNT(str_methods), name);
    case JINJA_LIST:
        *ret_mutates = is_one_of(name, list_mutators);
        return jinja_find_in(list_methods, COUNT(list_methods), name);
    case JINJA_TUPLE:
        return jinja_find_in(list_methods, COUNT(list_methods) - 1, name);
    case JINJA_DICT:
        *ret_mutates = is_one_of(name, dict_mutators);
        return jinja_find_in(dict_methods, COUNT(dict_methods), name);
    case JINJA_BOOL:
    case JINJA_INT:
    case JINJA_FLOAT:
        return jinja_find_in(number_methods, COUNT(number_methods), name);
    default:
        return NULL;
    }
}
