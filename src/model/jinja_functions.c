/* The functions a chat template finds by name, and the tests behind `is`. */
#include <limits.h>
#include <string.h>
#include <time.h>
#include <utf8proc.h>

#include "model/jinja_run.h"
#include "model/jinja_text.h"

#define COUNT(a) (sizeof(a) / sizeof(a)[0])
#define RANGE_MAX 100000 /* Jinja's sandbox has the same */

static struct jinja_value fn_range(struct jinja_run *r, struct jinja_value of,
                                   const struct jinja_bound *b)
{
    (void)of;
    struct jinja_range *range = jinja_alloc(&r->env, sizeof *range);
    range->start = b->given[1] ? jinja_arg_int(r, b, 0, 0) : 0;
    range->stop = jinja_arg_int(r, b, b->given[1] ? 1 : 0, 0);
    range->step = jinja_arg_int(r, b, 2, 1);
    int64_t span;
    if (range->step == 0)
        jinja_fail(&r->env, "range() arg 3 must not be zero");
    bool up = range->step > 0;
    if (up ? range->start < range->stop : range->start > range->stop) {
        int64_t step = range->step == INT64_MIN ? INT64_MIN + 1 : range->step;
        if (__builtin_sub_overflow(up ? range->stop : range->start, up ? range->start : range->stop,
                                   &span))
            jinja_fail_limit(&r->env, "the length of a range");
        range->count = (span - 1) / (up ? step : -step) + 1;
    }
    if (range->count > RANGE_MAX)
        jinja_fail_limit(&r->env, "the length of a range (100000)");
    return (struct jinja_value){.type = JINJA_RANGE, .range = range};
}

/* dict(other, a=1): a mapping or pairs, then the names. */
static struct jinja_value fn_dict(struct jinja_run *r, struct jinja_value of,
                                  const struct jinja_bound *b)
{
    (void)of;
    struct jinja_value d = jinja_dict_new(&r->env);
    if (b->raw->count > 1)
        jinja_fail(&r->env, "dict expected at most 1 argument, got %zu", b->raw->count);
    if (b->raw->count == 1 && b->raw->items[0].type == JINJA_DICT) {
        const struct jinja_dict *from = b->raw->items[0].dict;
        for (size_t i = 0; i < from->count; i++)
            jinja_dict_set(&r->env, d.dict, from->pairs[i].key, from->pairs[i].value);
    } else if (b->raw->count == 1) {
        struct jinja_cursor c = jinja_iterate(&r->env, b->raw->items[0]);
        struct jinja_value item;
        while (jinja_next(&r->env, &c, &item)) {
            struct jinja_value pair = jinja_to_list(&r->env, item);
            if (pair.list->count != 2)
                jinja_fail(&r->env, "dict() takes pairs");
            jinja_dict_set(&r->env, d.dict, pair.list->items[0], pair.list->items[1]);
        }
    }
    for (size_t i = 0; i < b->raw->named_count; i++)
        jinja_dict_set(&r->env, d.dict, jinja_string(b->raw->names[i]), b->raw->named[i]);
    return d;
}

static struct jinja_value fn_namespace(struct jinja_run *r, struct jinja_value of,
                                       const struct jinja_bound *b)
{
    struct jinja_value ns = fn_dict(r, of, b);
    for (size_t i = 0; i < ns.dict->count; i++) {
        struct jinja_value key = ns.dict->pairs[i].key;
        if (key.type == JINJA_STR && key.str.len > 0 && key.str.s[0] == '_')
            jinja_fail(&r->env, "a namespace takes no names that begin with an underscore");
    }
    ns.type = JINJA_NAMESPACE;
    return ns;
}

static struct jinja_value fn_raise(struct jinja_run *r, struct jinja_value of,
                                   const struct jinja_bound *b)
{
    (void)of;
    jinja_raise(&r->env, jinja_to_str(&r->env, b->at[0]));
}

/* The directives that need neither a locale nor a time zone. */
static void add_time(struct jinja_run *r, struct jinja_text *t, const struct tm *tm, char minus,
                     char directive)
{
    char out[64];
    char format[4] = {'%', minus != '\0' ? minus : directive, minus != '\0' ? directive : '\0'};
    if (directive == 'f') {
        jinja_text_add(&r->env, t, "000000", 6);
        return;
    }
    if (directive == 'Z' || directive == 'z') /* a time without a zone, as datetime.now() gives */
        return;
    if (directive == '\0' || strchr("aAbBcCdDeFgGhHIjklmMnpPrRStTuUVwWxXyY%", directive) == NULL)
        jinja_fail(&r->env, "strftime_now does not support this format");
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    size_t n = strftime(out, sizeof out, format, tm);
#pragma GCC diagnostic pop
    jinja_text_add(&r->env, t, out, n);
}

static struct jinja_value fn_strftime_now(struct jinja_run *r, struct jinja_value of,
                                          const struct jinja_bound *b)
{
    (void)of;
    struct jinja_str f = jinja_arg_str(r, b, 0, "");
    struct jinja_text t = jinja_text_begin(SIZE_MAX);
    struct tm tm;
    time_t now = (time_t)r->now_s;
    if (gmtime_r(&now, &tm) == NULL)
        jinja_fail(&r->env, "strftime_now: the time is out of range");
    for (size_t i = 0; i < f.len; i++) {
        if (f.s[i] != '%') {
            jinja_text_add_char(&r->env, &t, f.s[i]);
            continue;
        }
        char minus = i + 1 < f.len && f.s[i + 1] == '-' ? '-' : '\0';
        i += minus != '\0' ? 2 : 1;
        add_time(r, &t, &tm, minus, i < f.len ? f.s[i] : '\0');
    }
    return jinja_string(jinja_text_end(&t));
}

static const struct jinja_callable functions[] = {
    {"range", fn_range, "!start stop step"},
    {"dict", fn_dict, "*"},
    {"namespace", fn_namespace, "*"},
    {"raise_exception", fn_raise, "!message"},
    {"strftime_now", fn_strftime_now, "!format"},
    {"lipsum", NULL, ""},
    {"cycler", NULL, ""},
    {"joiner", NULL, ""},
    {"self", NULL, ""},
};

const struct jinja_callable *jinja_find_function(struct jinja_str name)
{
    return jinja_find_in(functions, COUNT(functions), name);
}

const struct jinja_callable *jinja_function_at(unsigned function)
{
    return &functions[function];
}

unsigned jinja_function_id(const struct jinja_callable *c)
{
    return (unsigned)(c - functions);
}

/* --- tests --- */

#define TEST(name)                                                                                 \
    static struct jinja_value test_##name(struct jinja_run *r, struct jinja_value v,               \
                                          const struct jinja_bound *b)
#define SIMPLE_TEST(name, yes)                                                                     \
    TEST(name)                                                                                     \
    {                                                                                              \
        (void)r;                                                                                   \
        (void)b;                                                                                   \
        return jinja_bool(yes);                                                                    \
    }

SIMPLE_TEST(defined, v.type != JINJA_UNDEFINED)
SIMPLE_TEST(undefined, v.type == JINJA_UNDEFINED)
SIMPLE_TEST(none, v.type == JINJA_NONE)
SIMPLE_TEST(boolean, v.type == JINJA_BOOL)
SIMPLE_TEST(is_true, v.type == JINJA_BOOL && v.boolean)
SIMPLE_TEST(is_false, v.type == JINJA_BOOL && !v.boolean)
SIMPLE_TEST(integer, v.type == JINJA_INT)
SIMPLE_TEST(float, v.type == JINJA_FLOAT)
SIMPLE_TEST(number, jinja_is_number(v))
SIMPLE_TEST(string, v.type == JINJA_STR)
SIMPLE_TEST(mapping, v.type == JINJA_DICT)
SIMPLE_TEST(iterable, jinja_is_iterable(v))
SIMPLE_TEST(sequence, jinja_is_sized(v) && v.type != JINJA_VIEW)
SIMPLE_TEST(callable, v.type == JINJA_MACRO || v.type == JINJA_METHOD || v.type == JINJA_FUNCTION ||
                          v.type == JINJA_LOOP || v.type == JINJA_UNDEFINED)
SIMPLE_TEST(escaped, jinja_is_markup(v))
SIMPLE_TEST(sameas, jinja_same(v, b->at[0]))

static struct jinja_value mod_is(struct jinja_run *r, struct jinja_value v, int64_t by,
                                 int64_t rest)
{
    struct jinja_value m = jinja_binary(r, '%', v, jinja_int(by));
    return jinja_bool(jinja_equal(&r->env, m, jinja_int(rest)));
}

TEST(odd)
{
    (void)b;
    return mod_is(r, v, 2, 1);
}

TEST(even)
{
    (void)b;
    return mod_is(r, v, 2, 0);
}

TEST(divisibleby)
{
    struct jinja_value m = jinja_binary(r, '%', v, b->at[0]);
    return jinja_bool(jinja_equal(&r->env, m, jinja_int(0)));
}

static bool all_cased(struct jinja_run *r, struct jinja_value v, bool upper)
{
    struct jinja_str s = jinja_to_str(&r->env, v);
    bool any = false;
    for (size_t i = 0; i < s.len; i += jinja_char_bytes(s.s[i])) {
        utf8proc_int32_t c = (utf8proc_int32_t)jinja_char_decode(s.s + i);
        jinja_step(&r->env, 1);
        if (upper ? utf8proc_islower(c) : utf8proc_isupper(c))
            return false;
        any |= (upper ? utf8proc_isupper(c) : utf8proc_islower(c)) != 0;
    }
    return any;
}

TEST(lower)
{
    (void)b;
    return jinja_bool(all_cased(r, v, false));
}

TEST(upper)
{
    (void)b;
    return jinja_bool(all_cased(r, v, true));
}

TEST(in)
{
    return jinja_bool(jinja_contains(&r->env, b->at[0], v));
}

TEST(filter)
{
    (void)b;
    struct jinja_str s = jinja_to_str(&r->env, v);
    return jinja_bool(jinja_find_filter(s) != NULL || jinja_find_select(s) != NULL);
}

TEST(test)
{
    (void)b;
    return jinja_bool(jinja_find_test(jinja_to_str(&r->env, v)) != NULL);
}

#define COMPARE_TEST(name, op)                                                                     \
    TEST(name)                                                                                     \
    {                                                                                              \
        return jinja_bool(jinja_compare(r, op, v, b->at[0]));                                      \
    }

COMPARE_TEST(eq, JINJA_OP2('=', '='))
COMPARE_TEST(ne, JINJA_OP2('!', '='))
COMPARE_TEST(gt, '>')
COMPARE_TEST(ge, JINJA_OP2('>', '='))
COMPARE_TEST(lt, '<')
COMPARE_TEST(le, JINJA_OP2('<', '='))

static const struct jinja_callable tests[] = {
    {"defined", test_defined, ""},
    {"undefined", test_undefined, ""},
    {"none", test_none, ""},
    {"boolean", test_boolean, ""},
    {"true", test_is_true, ""},
    {"false", test_is_false, ""},
    {"integer", test_integer, ""},
    {"float", test_float, ""},
    {"number", test_number, ""},
    {"string", test_string, ""},
    {"mapping", test_mapping, ""},
    {"iterable", test_iterable, ""},
    {"sequence", test_sequence, ""},
    {"callable", test_callable, ""},
    {"escaped", test_escaped, ""},
    {"sameas", test_sameas, "!other"},
    {"odd", test_odd, ""},
    {"even", test_even, ""},
    {"lower", test_lower, ""},
    {"upper", test_upper, ""},
    {"in", test_in, "!seq"},
    {"divisibleby", test_divisibleby, "!num"},
    {"filter", test_filter, ""},
    {"test", test_test, ""},
    {"==", test_eq, "!b"},
    {"eq", test_eq, "!b"},
    {"equalto", test_eq, "!b"},
    {"!=", test_ne, "!b"},
    {"ne", test_ne, "!b"},
    {">", test_gt, "!b"},
    {"gt", test_gt, "!b"},
    {"greaterthan", test_gt, "!b"},
    {">=", test_ge, "!b"},
    {"ge", test_ge, "!b"},
    {"<", test_lt, "!b"},
    {"lt", test_lt, "!b"},
    {"lessthan", test_lt, "!b"},
    {"<=", test_le, "!b"},
    {"le", test_le, "!b"},
};

const struct jinja_callable *jinja_find_test(struct jinja_str name)
{
    return jinja_find_in(tests, COUNT(tests), name);
}
