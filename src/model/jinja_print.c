/* Values to text: str(), repr(), json.dumps and the % operator, byte for byte Python's. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "model/jinja_text.h"

/* The shortest digits that read back as the same double, in Python's layout. */
static void add_real(struct jinja_env *env, struct jinja_text *t, double f, bool json)
{
    if (isnan(f) || isinf(f)) {
        const char *names[2][3] = {{"nan", "inf", "-inf"}, {"NaN", "Infinity", "-Infinity"}};
        const char *name = names[json][isnan(f) ? 0 : f > 0 ? 1 : 2];
        jinja_text_add(env, t, name, strlen(name));
        return;
    }
    char text[40];
    for (int digits = 0; digits < 17; digits++) {
        snprintf(text, sizeof text, "%.*e", digits, f);
        if (strtod(text, NULL) == f)
            break;
    }
    char *e = strchr(text, 'e');
    int exponent = (int)strtol(e + 1, NULL, 10);
    if (exponent < -4 || exponent >= 16) {
        *e = '\0';
        jinja_text_printf(env, t, "%se%c%02d", text, exponent < 0 ? '-' : '+', abs(exponent));
        return;
    }
    int digits = (int)(e - text) - (text[0] == '-') - 1; /* after the first */
    digits = digits > 0 ? digits - 1 : 0;                /* the point */
    int decimals = digits - exponent;
    jinja_text_printf(env, t, "%.*f", decimals < 1 ? 1 : decimals, f);
}

static bool is_printable(uint32_t c)
{
    if (c < 0x7f)
        return c >= 0x20;
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
        return false;
    default:
        return true;
    }
}

static void repr_char(struct jinja_env *env, struct jinja_text *t, struct jinja_str one, char quote)
{
    uint32_t c = jinja_char_decode(one.s);
    if (c == (uint32_t)quote || c == '\\')
        jinja_text_printf(env, t, "\\%c", (char)c);
    else if (c == '\n' || c == '\r' || c == '\t')
        jinja_text_printf(env, t, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
    else if (is_printable(c))
        jinja_text_add_str(env, t, one);
    else if (c < 0x100)
        jinja_text_printf(env, t, "\\x%02x", c);
    else if (c < 0x10000)
        jinja_text_printf(env, t, "\\u%04x", c);
    else
        jinja_text_printf(env, t, "\\U%08x", c);
}

static void repr_string(struct jinja_env *env, struct jinja_text *t, struct jinja_str s)
{
    bool single = s.len > 0 && memchr(s.s, '\'', s.len) != NULL;
    bool twice = s.len > 0 && memchr(s.s, '"', s.len) != NULL;
    char quote = single && !twice ? '"' : '\'';
    jinja_text_add_char(env, t, quote);
    for (size_t i = 0; i < s.len;) {
        size_t n = jinja_char_bytes(s.s[i]);
        jinja_step(env, 1);
        repr_char(env, t, (struct jinja_str){s.s + i, n}, quote);
        i += n;
    }
    jinja_text_add_char(env, t, quote);
}

static void repr_items(struct jinja_env *env, struct jinja_text *t, struct jinja_value v)
{
    struct jinja_cursor c = jinja_iterate(env, v);
    struct jinja_value item;
    for (size_t i = 0; jinja_next(env, &c, &item); i++) {
        if (i > 0)
            jinja_text_add(env, t, ", ", 2);
        jinja_repr(env, t, item);
    }
}

static void repr_dict(struct jinja_env *env, struct jinja_text *t, const struct jinja_dict *d)
{
    jinja_text_add_char(env, t, '{');
    for (size_t i = 0; i < d->count; i++) {
        if (i > 0)
            jinja_text_add(env, t, ", ", 2);
        jinja_repr(env, t, d->pairs[i].key);
        jinja_text_add(env, t, ": ", 2);
        jinja_repr(env, t, d->pairs[i].value);
    }
    jinja_text_add_char(env, t, '}');
}

static void repr_other(struct jinja_env *env, struct jinja_text *t, struct jinja_value v)
{
    static const char *const views[] = {"dict_keys([", "dict_values([", "dict_items(["};
    switch (v.type) {
    case JINJA_LIST:
        jinja_text_add_char(env, t, '[');
        repr_items(env, t, v);
        jinja_text_add_char(env, t, ']');
        return;
    case JINJA_TUPLE:
        jinja_text_add_char(env, t, '(');
        repr_items(env, t, v);
        jinja_text_add(env, t, ",)", v.list->count == 1 ? 2 : 0);
        if (v.list->count != 1)
            jinja_text_add_char(env, t, ')');
        return;
    case JINJA_DICT:
        repr_dict(env, t, v.dict);
        return;
    case JINJA_VIEW:
        jinja_text_printf(env, t, "%s", views[v.view->kind]);
        repr_items(env, t, v);
        jinja_text_add(env, t, "])", 2);
        return;
    case JINJA_RANGE:
        jinja_text_printf(env, t, "range(%lld, %lld", (long long)v.range->start,
                          (long long)v.range->stop);
        if (v.range->step != 1)
            jinja_text_printf(env, t, ", %lld", (long long)v.range->step);
        jinja_text_add_char(env, t, ')');
        return;
    default:
        jinja_fail(env, "a %s cannot be printed; give it to `list` or call it", jinja_type_name(v));
    }
}

void jinja_repr(struct jinja_env *env, struct jinja_text *t, struct jinja_value v)
{
    jinja_step(env, 1);
    jinja_enter(env);
    switch (v.type) {
    case JINJA_UNDEFINED:
        jinja_text_add(env, t, "Undefined", 9);
        break;
    case JINJA_NONE:
        jinja_text_add(env, t, "None", 4);
        break;
    case JINJA_BOOL:
        jinja_text_printf(env, t, "%s", v.boolean ? "True" : "False");
        break;
    case JINJA_INT:
        jinja_text_printf(env, t, "%lld", (long long)v.integer);
        break;
    case JINJA_FLOAT:
        add_real(env, t, v.real, false);
        break;
    case JINJA_STR:
        if ((v.flags & JINJA_FLAG_MARKUP) != 0)
            jinja_text_add_str(env, t, JINJA_STR("Markup("));
        repr_string(env, t, v.str);
        if ((v.flags & JINJA_FLAG_MARKUP) != 0)
            jinja_text_add_char(env, t, ')');
        break;
    default:
        repr_other(env, t, v);
    }
    jinja_leave(env);
}

void jinja_print(struct jinja_env *env, struct jinja_text *t, struct jinja_value v)
{
    if (v.type == JINJA_STR)
        jinja_text_add_str(env, t, v.str);
    else if (v.type != JINJA_UNDEFINED)
        jinja_repr(env, t, v);
}

struct jinja_str jinja_to_str(struct jinja_env *env, struct jinja_value v)
{
    if (v.type == JINJA_STR)
        return v.str;
    struct jinja_text t = jinja_text_begin(SIZE_MAX);
    jinja_print(env, &t, v);
    return jinja_text_end(&t);
}

/* --- JSON --- */

static void json_escape(struct jinja_env *env, struct jinja_text *t, uint32_t c)
{
    static const char named[] = "\b\f\n\r\t\"\\";
    const char *at = c != 0 && c < 0x80 ? strchr(named, (int)c) : NULL;
    if (at != NULL)
        jinja_text_printf(env, t, "\\%c", "bfnrt\"\\"[at - named]);
    else if (c < 0x10000)
        jinja_text_printf(env, t, "\\u%04x", c);
    else
        jinja_text_printf(env, t, "\\u%04x\\u%04x", 0xd800 + ((c - 0x10000) >> 10),
                          0xdc00 + ((c - 0x10000) & 0x3ff));
}

static void json_string(struct jinja_env *env, struct jinja_text *t, struct jinja_str s, bool ascii)
{
    size_t start = 0;
    jinja_text_add_char(env, t, '"');
    for (size_t i = 0; i < s.len;) {
        uint32_t c = jinja_char_decode(s.s + i);
        size_t n = jinja_char_bytes(s.s[i]);
        if (c < 0x20 || c == '"' || c == '\\' || (ascii && c >= 0x7f)) {
            jinja_text_add(env, t, s.s + start, i - start);
            json_escape(env, t, c);
            jinja_step(env, 1);
            start = i + n;
        }
        i += n;
    }
    jinja_text_add(env, t, s.s + start, s.len - start);
    jinja_text_add_char(env, t, '"');
}

static void json_line(struct jinja_env *env, struct jinja_text *t,
                      const struct jinja_json_options *o, int64_t level)
{
    if (!o->has_indent)
        return;
    jinja_text_add_char(env, t, '\n');
    jinja_text_add_repeat(env, t, o->indent, level);
}

static void json_list(struct jinja_env *env, struct jinja_text *t, const struct jinja_list *list,
                      const struct jinja_json_options *o, int64_t level)
{
    jinja_text_add_char(env, t, '[');
    for (size_t i = 0; i < list->count; i++) {
        if (i > 0)
            jinja_text_add_str(env, t, o->item_separator);
        json_line(env, t, o, level + 1);
        jinja_dump_json(env, t, list->items[i], o, level + 1);
    }
    if (list->count > 0)
        json_line(env, t, o, level);
    jinja_text_add_char(env, t, ']');
}

static void json_key(struct jinja_env *env, struct jinja_text *t, struct jinja_value key,
                     const struct jinja_json_options *o)
{
    if (key.type == JINJA_STR) {
        json_string(env, t, key.str, o->ascii);
        return;
    }
    if (key.type == JINJA_UNDEFINED || key.type > JINJA_STR)
        jinja_fail(env, "keys must be str, int, float, bool or None, not %s", jinja_type_name(key));
    jinja_text_add_char(env, t, '"');
    jinja_dump_json(env, t, key, o, 0);
    jinja_text_add_char(env, t, '"');
}

/* Merge sort of pair indices by key; stable, n log n, no recursion. */
static size_t *json_order(struct jinja_env *env, const struct jinja_dict *d)
{
    size_t *from = jinja_alloc_array(env, d->count, sizeof *from);
    size_t *to = jinja_alloc_array(env, d->count, sizeof *to);
    for (size_t i = 0; i < d->count; i++)
        from[i] = i;
    for (size_t width = 1; width < d->count; width *= 2) {
        for (size_t lo = 0; lo < d->count; lo += 2 * width) {
            size_t mid = lo + width < d->count ? lo + width : d->count;
            size_t hi = lo + 2 * width < d->count ? lo + 2 * width : d->count;
            for (size_t i = lo, j = mid, k = lo; k < hi; k++) {
                bool left = j >= hi || (i < mid && jinja_order(env, d->pairs[from[j]].key,
                                                               d->pairs[from[i]].key, "<") >= 0);
                to[k] = left ? from[i++] : from[j++];
            }
        }
        size_t *swap = from;
        from = to;
        to = swap;
    }
    return from;
}

static void json_dict(struct jinja_env *env, struct jinja_text *t, const struct jinja_dict *d,
                      const struct jinja_json_options *o, int64_t level)
{
    const size_t *order = o->sort_keys ? json_order(env, d) : NULL;
    jinja_text_add_char(env, t, '{');
    for (size_t i = 0; i < d->count; i++) {
        const struct jinja_pair *p = &d->pairs[order != NULL ? order[i] : i];
        if (i > 0)
            jinja_text_add_str(env, t, o->item_separator);
        json_line(env, t, o, level + 1);
        json_key(env, t, p->key, o);
        jinja_text_add_str(env, t, o->key_separator);
        jinja_dump_json(env, t, p->value, o, level + 1);
    }
    if (d->count > 0)
        json_line(env, t, o, level);
    jinja_text_add_char(env, t, '}');
}

void jinja_dump_json(struct jinja_env *env, struct jinja_text *t, struct jinja_value v,
                     const struct jinja_json_options *o, int64_t level)
{
    jinja_step(env, 1);
    jinja_enter(env);
    switch (v.type) {
    case JINJA_NONE:
        jinja_text_add(env, t, "null", 4);
        break;
    case JINJA_BOOL:
        jinja_text_printf(env, t, "%s", v.boolean ? "true" : "false");
        break;
    case JINJA_INT:
        jinja_text_printf(env, t, "%lld", (long long)v.integer);
        break;
    case JINJA_FLOAT:
        add_real(env, t, v.real, true);
        break;
    case JINJA_STR:
        json_string(env, t, v.str, o->ascii);
        break;
    case JINJA_LIST:
    case JINJA_TUPLE:
        json_list(env, t, v.list, o, level);
        break;
    case JINJA_DICT:
        json_dict(env, t, v.dict, o, level);
        break;
    default:
        jinja_fail(env, "Object of type %s is not JSON serializable", jinja_type_name(v));
    }
    jinja_leave(env);
}

/* --- the % operator --- */

struct directive {
    bool left, zero, plus, space, alternate;
    int width;
    int precision; /* -1 none */
    char kind;
};

static size_t parse_number(struct jinja_env *env, struct jinja_str s, size_t at, int *ret)
{
    int n = 0;
    for (; at < s.len && s.s[at] >= '0' && s.s[at] <= '9'; at++) {
        n = n * 10 + (s.s[at] - '0');
        if (n > 100)
            jinja_fail(env, "a width or precision over 100 in a %% format is not supported");
    }
    *ret = n;
    return at;
}

static size_t parse_directive(struct jinja_env *env, struct jinja_str s, size_t at,
                              struct directive *d)
{
    *d = (struct directive){.precision = -1};
    for (; at < s.len && strchr("-0+ #", s.s[at]) != NULL && s.s[at] != '\0'; at++) {
        d->left |= s.s[at] == '-';
        d->zero |= s.s[at] == '0';
        d->plus |= s.s[at] == '+';
        d->space |= s.s[at] == ' ';
        d->alternate |= s.s[at] == '#';
    }
    at = parse_number(env, s, at, &d->width);
    if (at < s.len && s.s[at] == '.')
        at = parse_number(env, s, at + 1, &d->precision);
    if (at >= s.len)
        jinja_fail(env, "incomplete format");
    d->kind = s.s[at];
    return at + 1;
}

static void format_number(struct jinja_env *env, struct jinja_text *t, const struct directive *d,
                          struct jinja_value v)
{
    char format[32];
    bool whole = strchr("diuxXo", d->kind) != NULL;
    jinja_need_defined(env, v);
    if (!jinja_is_number(v) || (strchr("xXo", d->kind) != NULL && !jinja_is_int(v)))
        jinja_fail(env, "%%%c format: a real number is required, not %s", d->kind,
                   jinja_type_name(v));
    double real = jinja_as_real(v);
    if (whole && v.type == JINJA_FLOAT && !(fabs(real) < 0x1p63))
        jinja_fail(env, "cannot convert this float to a 64-bit integer");
    int64_t i = v.type == JINJA_FLOAT ? (int64_t)real : jinja_as_int(v);
    if (strchr("xXo", d->kind) != NULL && (i < 0 || d->alternate))
        jinja_fail(env, "%%%c of a negative number or with # is not supported", d->kind);
    int n = snprintf(format, sizeof format, "%%%s%s%s%s%d", d->left ? "-" : "", d->zero ? "0" : "",
                     d->plus ? "+" : "", d->space ? " " : "", d->width);
    if (d->width == 0)
        n--;
    if (d->precision >= 0)
        n += snprintf(format + n, sizeof format - (size_t)n, ".%d", d->precision);
    snprintf(format + n, sizeof format - (size_t)n, "%s%c", whole ? "ll" : "",
             d->kind == 'i' || d->kind == 'u' ? 'd' : d->kind);
    char out[512];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    n = whole ? snprintf(out, sizeof out, format, (long long)i)
              : snprintf(out, sizeof out, format, real);
#pragma GCC diagnostic pop
    if (n < 0 || (size_t)n >= sizeof out)
        jinja_fail(env, "a formatted number is too long");
    jinja_text_add(env, t, out, (size_t)n);
}

static void format_string(struct jinja_env *env, struct jinja_text *t, const struct directive *d,
                          struct jinja_value v)
{
    struct jinja_str s;
    if (d->kind == 'r') {
        struct jinja_text r = jinja_text_begin(SIZE_MAX);
        jinja_repr(env, &r, v);
        s = jinja_text_end(&r);
    } else {
        s = jinja_to_str(env, v);
    }
    if (d->precision >= 0)
        s.len = jinja_str_offset(env, s, d->precision);
    int64_t pad = d->width > 0 ? d->width - jinja_str_count(env, s) : 0;
    if (!d->left)
        jinja_text_add_repeat(env, t, JINJA_STR(" "), pad);
    jinja_text_add_str(env, t, s);
    if (d->left)
        jinja_text_add_repeat(env, t, JINJA_STR(" "), pad);
}

static struct jinja_value format_named(struct jinja_env *env, struct jinja_str text, size_t *at,
                                       struct jinja_value args)
{
    size_t start = *at + 1;
    const char *close = memchr(text.s + start, ')', text.len - start);
    if (close == NULL)
        jinja_fail(env, "incomplete format key");
    struct jinja_str key = {text.s + start, (size_t)(close - text.s) - start};
    if (args.type != JINJA_DICT)
        jinja_fail(env, "format requires a mapping");
    const struct jinja_value *v = jinja_dict_find_str(env, args.dict, key);
    if (v == NULL)
        jinja_fail(env, "the format's key is not in the mapping");
    *at = start + key.len + 1;
    return *v;
}

struct jinja_str jinja_format_percent(struct jinja_env *env, struct jinja_str text,
                                      struct jinja_value args)
{
    struct jinja_text t = jinja_text_begin(SIZE_MAX);
    size_t used = 0;
    size_t given = args.type == JINJA_TUPLE ? args.list->count : 1;
    bool named = false;
    for (size_t at = 0; at < text.len;) {
        const char *percent = memchr(text.s + at, '%', text.len - at);
        size_t plain = percent != NULL ? (size_t)(percent - text.s) - at : text.len - at;
        jinja_text_add(env, &t, text.s + at, plain);
        if (percent == NULL)
            break;
        at += plain + 1;
        struct jinja_value v = jinja_none();
        bool has_key = at < text.len && text.s[at] == '(';
        if (has_key)
            v = format_named(env, text, &at, args);
        named |= has_key;
        struct directive d;
        at = parse_directive(env, text, at, &d);
        if (d.kind == '%') {
            jinja_text_add_char(env, &t, '%');
            continue;
        }
        if (!has_key && used >= given)
            jinja_fail(env, "not enough arguments for format string");
        if (!has_key)
            v = args.type == JINJA_TUPLE ? args.list->items[used] : args;
        used += !has_key;
        if (d.kind == 's' || d.kind == 'r')
            format_string(env, &t, &d, v);
        else if (d.kind != '\0' && strchr("diuxXofFeEgG", d.kind) != NULL)
            format_number(env, &t, &d, v);
        else
            jinja_fail(env, "the %%%c format is not supported", d.kind);
    }
    if (!named && used < given && (args.type == JINJA_TUPLE || args.type != JINJA_DICT) &&
        args.type != JINJA_LIST)
        jinja_fail(env, "not all arguments converted during string formatting");
    return jinja_text_end(&t);
}
