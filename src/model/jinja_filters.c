/* Filters on one value: text, numbers, JSON. Filters on sequences are in jinja_select.c. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/jinja_run.h"
#include "model/jinja_text.h"

#define COUNT(a) (sizeof(a) / sizeof(a)[0])
#define FILTER(name)                                                                               \
    static struct jinja_value filter_##name(struct jinja_run *r, struct jinja_value v,             \
                                            const struct jinja_bound *b)

FILTER(trim)
{
    struct jinja_str chars;
    bool given = b->given[0] && b->at[0].type != JINJA_NONE;
    if (given)
        chars = jinja_arg_str(r, b, 0, "");
    return jinja_string(
        jinja_str_strip(&r->env, jinja_to_str(&r->env, v), given ? &chars : NULL, true, true));
}

FILTER(upper)
{
    (void)b;
    return jinja_string(jinja_str_case(&r->env, jinja_to_str(&r->env, v), JINJA_UPPER));
}

FILTER(lower)
{
    (void)b;
    return jinja_string(jinja_str_case(&r->env, jinja_to_str(&r->env, v), JINJA_LOWER));
}

FILTER(capitalize)
{
    (void)b;
    return jinja_string(jinja_str_case(&r->env, jinja_to_str(&r->env, v), JINJA_CAPITALIZE));
}

/* Jinja's words begin behind white space and -({[<, unlike str.title(). */
FILTER(title)
{
    (void)b;
    struct jinja_str s = jinja_to_str(&r->env, v);
    struct jinja_text t = jinja_text_begin(SIZE_MAX);
    for (size_t i = 0; i < s.len;) {
        size_t start = i;
        bool word = false;
        for (; i < s.len; i += jinja_char_bytes(s.s[i])) {
            bool edge = strchr("-({[<", s.s[i]) != NULL && s.s[i] != '\0';
            bool splits = edge || jinja_char_is_space(jinja_char_decode(s.s + i));
            if (i == start)
                word = !splits;
            else if (word == splits)
                break;
        }
        struct jinja_str part = {s.s + start, i - start};
        if (word)
            part = jinja_str_case(&r->env, part, JINJA_CAPITALIZE);
        jinja_text_add_str(&r->env, &t, part);
    }
    return jinja_string(jinja_text_end(&t));
}

FILTER(replace)
{
    struct jinja_str from = jinja_to_str(&r->env, b->at[0]), to = jinja_to_str(&r->env, b->at[1]);
    int64_t count = b->given[2] && b->at[2].type != JINJA_NONE ? jinja_arg_int(r, b, 2, -1) : -1;
    return jinja_string(jinja_str_replace(&r->env, jinja_to_str(&r->env, v), from, to, count));
}

FILTER(string)
{
    (void)b;
    return v.type == JINJA_STR ? v : jinja_string(jinja_to_str(&r->env, v));
}

FILTER(safe)
{
    (void)b;
    struct jinja_value s = jinja_string(jinja_to_str(&r->env, v));
    s.flags = JINJA_FLAG_MARKUP;
    return s;
}

FILTER(escape)
{
    (void)b;
    return jinja_escape(r, v);
}

FILTER(indent)
{
    struct jinja_text t = jinja_text_begin(SIZE_MAX), pad = jinja_text_begin(SIZE_MAX);
    bool first = jinja_arg_truth(b, 1, false), blank = jinja_arg_truth(b, 2, false);
    struct jinja_str by;
    jinja_need_defined(&r->env, v);
    if (v.type != JINJA_STR)
        jinja_fail(&r->env, "indent takes str, not %s", jinja_type_name(v));
    if (b->given[0] && b->at[0].type == JINJA_STR) {
        by = b->at[0].str;
    } else {
        jinja_text_add_repeat(&r->env, &pad, JINJA_STR(" "), jinja_arg_int(r, b, 0, 4));
        by = jinja_text_end(&pad);
    }
    jinja_text_add_str(&r->env, &t, v.str); /* Jinja adds a newline, so an end is a line too */
    jinja_text_add_char(&r->env, &t, '\n');
    struct jinja_value lines = jinja_str_lines(&r->env, jinja_text_end(&t), false);
    t = jinja_text_begin(SIZE_MAX);
    if (first)
        jinja_text_add_str(&r->env, &t, by);
    for (size_t i = 0; i < lines.list->count; i++) {
        struct jinja_str line = lines.list->items[i].str;
        if (i > 0)
            jinja_text_add_char(&r->env, &t, '\n');
        if (i > 0 && (blank || line.len > 0))
            jinja_text_add_str(&r->env, &t, by);
        jinja_text_add_str(&r->env, &t, line);
    }
    return jinja_string(jinja_text_end(&t));
}

FILTER(format)
{
    if (b->raw->count > 0 && b->raw->named_count > 0)
        jinja_fail(&r->env, "can't handle positional and keyword arguments at the same time");
    struct jinja_value args = jinja_list_view(&r->env, JINJA_TUPLE, b->raw->items, b->raw->count);
    if (b->raw->named_count > 0)
        args = jinja_dict_new(&r->env);
    for (size_t i = 0; i < b->raw->named_count; i++)
        jinja_dict_set(&r->env, args.dict, jinja_string(b->raw->names[i]), b->raw->named[i]);
    return jinja_string(jinja_format_percent(&r->env, jinja_to_str(&r->env, v), args));
}

/* --- numbers --- */

/* Python's int(text, 10) or float(text): white space around and single underscores between digits
 * are fine. Returns the clean digits, or false. */
static bool clean_number(struct jinja_run *r, struct jinja_str s, char *ret, size_t cap)
{
    size_t n = 0;
    s = jinja_str_strip(&r->env, s, NULL, true, true);
    for (size_t i = 0; i < s.len; i++) {
        bool digit = s.s[i] >= '0' && s.s[i] <= '9';
        if (s.s[i] == '_') {
            bool between = i > 0 && i + 1 < s.len && s.s[i - 1] >= '0' && s.s[i - 1] <= '9' &&
                           s.s[i + 1] >= '0' && s.s[i + 1] <= '9';
            if (!between)
                return false;
            continue;
        }
        if (!digit && strchr("+-.eEinfatyINFATY", s.s[i]) == NULL)
            return false;
        if (s.s[i] == '\0' || n + 1 >= cap)
            return false;
        ret[n++] = s.s[i];
    }
    ret[n] = '\0';
    return n > 0;
}

static bool parse_real(struct jinja_run *r, struct jinja_value v, double *ret)
{
    char digits[400];
    char *end;
    if (jinja_is_number(v)) {
        *ret = jinja_as_real(v);
        return true;
    }
    if (v.type != JINJA_STR || !clean_number(r, v.str, digits, sizeof digits))
        return false;
    *ret = strtod(digits, &end);
    return *end == '\0';
}

FILTER(int)
{
    char digits[64];
    char *end;
    double real;
    jinja_need_defined(&r->env, v);
    if (b->given[1] && jinja_arg_int(r, b, 1, 10) != 10)
        jinja_fail(&r->env, "int with a base other than 10 is not supported");
    if (jinja_is_int(v))
        return jinja_int(jinja_as_int(v));
    if (v.type == JINJA_STR && clean_number(r, v.str, digits, sizeof digits)) {
        errno = 0;
        int64_t i = strtoll(digits, &end, 10);
        if (*end == '\0' && errno == ERANGE)
            jinja_fail(&r->env, "the number does not fit 64 bits");
        if (*end == '\0')
            return jinja_int(i);
    }
    if (!parse_real(r, v, &real) || (v.type == JINJA_STR && !isfinite(real)))
        return jinja_arg_or(b, 0, jinja_int(0));
    if (isnan(real))
        return jinja_arg_or(b, 0, jinja_int(0));
    if (!(fabs(real) < 0x1p63))
        jinja_fail(&r->env, "cannot convert this float to a 64-bit integer");
    return jinja_int((int64_t)real);
}

FILTER(float)
{
    double real;
    jinja_need_defined(&r->env, v);
    if (parse_real(r, v, &real))
        return jinja_real(real);
    return jinja_arg_or(b, 0, jinja_real(0));
}

FILTER(abs)
{
    (void)b;
    jinja_need_defined(&r->env, v);
    if (v.type == JINJA_FLOAT)
        return jinja_real(fabs(v.real));
    if (!jinja_is_int(v))
        jinja_fail(&r->env, "bad operand type for abs(): '%s'", jinja_type_name(v));
    return jinja_as_int(v) < 0 ? jinja_negate(r, v, true) : jinja_int(jinja_as_int(v));
}

FILTER(round)
{
    char text[400];
    int64_t digits = jinja_arg_int(r, b, 0, 0);
    struct jinja_str method = jinja_arg_str(r, b, 1, "common");
    jinja_need_defined(&r->env, v);
    if (!jinja_is_number(v))
        jinja_fail(&r->env, "type %s doesn't define __round__ method", jinja_type_name(v));
    if (digits < 0 || digits > 20)
        jinja_fail(&r->env, "round to fewer than 0 or more than 20 digits is not supported");
    double real = jinja_as_real(v);
    if (jinja_str_is(method, "common")) {
        if (jinja_is_int(v))
            return jinja_int(jinja_as_int(v));
        /* printf rounds the exact value half to even, as Python does. */
        snprintf(text, sizeof text, "%.*f", (int)digits, real);
        return jinja_real(strtod(text, NULL));
    }
    if (!jinja_str_is(method, "ceil") && !jinja_str_is(method, "floor"))
        jinja_fail(&r->env, "method must be common, ceil or floor");
    double scale = pow(10, (double)digits);
    double scaled = jinja_str_is(method, "ceil") ? ceil(real * scale) : floor(real * scale);
    return jinja_real(scaled / scale);
}

/* --- JSON --- */

FILTER(tojson)
{
    struct jinja_json_options o = {.ascii = jinja_arg_truth(b, 0, false),
                                   .has_indent = b->given[1] && b->at[1].type != JINJA_NONE,
                                   .sort_keys = jinja_arg_truth(b, 3, false),
                                   .key_separator = JINJA_STR(": ")};
    struct jinja_text t = jinja_text_begin(SIZE_MAX), pad = jinja_text_begin(SIZE_MAX);
    o.item_separator = o.has_indent ? JINJA_STR(",") : JINJA_STR(", ");
    if (o.has_indent && b->at[1].type == JINJA_STR) {
        o.indent = b->at[1].str;
    } else if (o.has_indent) {
        jinja_text_add_repeat(&r->env, &pad, JINJA_STR(" "), jinja_arg_int(r, b, 1, 0));
        o.indent = jinja_text_end(&pad);
    }
    if (b->given[2] && b->at[2].type != JINJA_NONE) {
        struct jinja_value both = jinja_to_list(&r->env, b->at[2]);
        if (both.list->count != 2 || both.list->items[0].type != JINJA_STR ||
            both.list->items[1].type != JINJA_STR)
            jinja_fail(&r->env, "separators must be a pair of str");
        o.item_separator = both.list->items[0].str;
        o.key_separator = both.list->items[1].str;
    }
    jinja_dump_json(&r->env, &t, v, &o, 0);
    return jinja_string(jinja_text_end(&t));
}

/* --- whatever it is --- */

FILTER(default)
{
    (void)r;
    bool missing = v.type == JINJA_UNDEFINED || (jinja_arg_truth(b, 1, false) && !jinja_truth(v));
    return missing ? jinja_arg_or(b, 0, jinja_string(JINJA_STR(""))) : v;
}

FILTER(length)
{
    (void)b;
    return jinja_int(jinja_length(&r->env, v));
}

static const struct jinja_callable filters[] = {
    {"abs", filter_abs, ""},
    {"capitalize", filter_capitalize, ""},
    {"count", filter_length, ""},
    {"d", filter_default, "default_value boolean"},
    {"default", filter_default, "default_value boolean"},
    {"e", filter_escape, ""},
    {"escape", filter_escape, ""},
    {"float", filter_float, "default"},
    {"format", filter_format, "*"},
    {"indent", filter_indent, "width first blank"},
    {"int", filter_int, "default base"},
    {"length", filter_length, ""},
    {"lower", filter_lower, ""},
    {"replace", filter_replace, "!old !new count"},
    {"round", filter_round, "precision method"},
    {"safe", filter_safe, ""},
    {"string", filter_string, ""},
    {"title", filter_title, ""},
    {"tojson", filter_tojson, "ensure_ascii indent separators sort_keys"},
    {"trim", filter_trim, "chars"},
    {"upper", filter_upper, ""},
    /* What Jinja has and no chat template needs. */
    {"attr", NULL, ""},
    {"batch", NULL, ""},
    {"center", NULL, ""},
    {"filesizeformat", NULL, ""},
    {"forceescape", NULL, ""},
    {"groupby", NULL, ""},
    {"pprint", NULL, ""},
    {"random", NULL, ""},
    {"slice", NULL, ""},
    {"striptags", NULL, ""},
    {"truncate", NULL, ""},
    {"urlencode", NULL, ""},
    {"urlize", NULL, ""},
    {"wordcount", NULL, ""},
    {"wordwrap", NULL, ""},
    {"xmlattr", NULL, ""},
};

const struct jinja_callable *jinja_find_filter(struct jinja_str name)
{
    return jinja_find_in(filters, COUNT(filters), name);
}
