/* Operators, attributes, indices and slices, with Python's rules for types and overflow refused. */
#include <math.h>
#include <string.h>

#include "model/jinja_run.h"
#include "model/jinja_text.h"

static _Noreturn void fail_types(struct jinja_run *r, const char *op, struct jinja_value a,
                                 struct jinja_value b)
{
    jinja_fail(&r->env, "unsupported operand type(s) for %s: '%s' and '%s'", op, jinja_type_name(a),
               jinja_type_name(b));
}

static _Noreturn void fail_overflow(struct jinja_run *r)
{
    jinja_fail(&r->env, "the integer result does not fit 64 bits");
}

/* --- arithmetic --- */

static int64_t floor_div(int64_t a, int64_t b)
{
    int64_t q = a / b;
    return q - (a % b != 0 && (a < 0) != (b < 0));
}

static int64_t int_power(struct jinja_run *r, int64_t base, int64_t exponent)
{
    int64_t result = 1;
    for (;;) {
        if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result))
            fail_overflow(r);
        exponent >>= 1;
        if (exponent == 0)
            return result;
        if (__builtin_mul_overflow(base, base, &base))
            fail_overflow(r);
    }
}

static struct jinja_value int_op(struct jinja_run *r, int op, int64_t a, int64_t b)
{
    int64_t v = 0;
    bool over = false;
    switch (op) {
    case '+':
        over = __builtin_add_overflow(a, b, &v);
        break;
    case '-':
        over = __builtin_sub_overflow(a, b, &v);
        break;
    case '*':
        over = __builtin_mul_overflow(a, b, &v);
        break;
    case JINJA_OP2('*', '*'):
        v = int_power(r, a, b);
        break;
    default:
        over = a == INT64_MIN && b == -1;
        if (!over && op == '%')
            v = a - floor_div(a, b) * b;
        else if (!over)
            v = floor_div(a, b);
    }
    if (over)
        fail_overflow(r);
    return jinja_int(v);
}

static double real_mod(double a, double b)
{
    double m = fmod(a, b);
    if (m != 0 && (b < 0) != (m < 0))
        m += b;
    return m == 0 ? copysign(0.0, b) : m;
}

static double real_floor_div(double a, double b)
{
    double div = (a - real_mod(a, b)) / b;
    double floored = floor(div);
    if (div != 0)
        return div - floored > 0.5 ? floored + 1 : floored;
    return copysign(0.0, a / b);
}

static struct jinja_value real_op(struct jinja_run *r, int op, double a, double b)
{
    switch (op) {
    case '+':
        return jinja_real(a + b);
    case '-':
        return jinja_real(a - b);
    case '*':
        return jinja_real(a * b);
    case '/':
        return jinja_real(a / b);
    case '%':
        return jinja_real(real_mod(a, b));
    case JINJA_OP2('/', '/'):
        return jinja_real(real_floor_div(a, b));
    default:
        if (a == 0 && b < 0)
            jinja_fail(&r->env, "0.0 cannot be raised to a negative power");
        double v = pow(a, b);
        if ((isnan(v) && !isnan(a) && !isnan(b)) || (isinf(v) && !isinf(a) && !isinf(b)))
            jinja_fail(&r->env, "the result of ** is complex or too large");
        return jinja_real(v);
    }
}

static struct jinja_value number_op(struct jinja_run *r, int op, struct jinja_value a,
                                    struct jinja_value b)
{
    bool divides = op == '/' || op == '%' || op == JINJA_OP2('/', '/');
    if (divides && jinja_as_real(b) == 0)
        jinja_fail(&r->env, "division by zero");
    bool whole = jinja_is_int(a) && jinja_is_int(b) && op != '/' &&
                 !(op == JINJA_OP2('*', '*') && jinja_as_int(b) < 0);
    if (whole)
        return int_op(r, op, jinja_as_int(a), jinja_as_int(b));
    return real_op(r, op, jinja_as_real(a), jinja_as_real(b));
}

/* --- sequences --- */

static struct jinja_value list_add(struct jinja_run *r, struct jinja_value a, struct jinja_value b)
{
    size_t count = a.list->count + b.list->count;
    struct jinja_value *items = jinja_alloc_array(&r->env, count, sizeof *items);
    if (a.list->count > 0)
        memcpy(items, a.list->items, a.list->count * sizeof *items);
    if (b.list->count > 0)
        memcpy(items + a.list->count, b.list->items, b.list->count * sizeof *items);
    return jinja_list_view(&r->env, a.type, items, count);
}

static struct jinja_value repeat(struct jinja_run *r, struct jinja_value v, int64_t times)
{
    if (v.type == JINJA_STR) {
        struct jinja_text t = jinja_text_begin(SIZE_MAX);
        jinja_text_add_repeat(&r->env, &t, v.str, times);
        return jinja_string(jinja_text_end(&t));
    }
    size_t count;
    if (times < 0)
        times = 0;
    if (__builtin_mul_overflow(v.list->count, (size_t)times, &count))
        jinja_fail_limit(&r->env, "the memory");
    struct jinja_value *items = jinja_alloc_array(&r->env, count, sizeof *items);
    for (size_t i = 0; i < count; i++)
        items[i] = v.list->items[i % v.list->count];
    return jinja_list_view(&r->env, v.type, items, count);
}

static bool is_repeatable(struct jinja_value v)
{
    return v.type == JINJA_STR || v.type == JINJA_LIST || v.type == JINJA_TUPLE;
}

/* --- what `safe` and `escape` made --- */

bool jinja_is_markup(struct jinja_value v)
{
    return v.type == JINJA_STR && (v.flags & JINJA_FLAG_MARKUP) != 0;
}

static struct jinja_value marked_as(struct jinja_value of, struct jinja_value v)
{
    v.flags = of.flags;
    return v;
}

struct jinja_value jinja_escape(struct jinja_run *r, struct jinja_value v)
{
    static const struct {
        char c;
        const char *text;
    } table[] = {{'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'\'', "&#39;"}, {'"', "&#34;"}};
    if (jinja_is_markup(v))
        return v;
    struct jinja_str s = jinja_to_str(&r->env, v);
    struct jinja_text t = jinja_text_begin(SIZE_MAX);
    jinja_step(&r->env, s.len / 4);
    for (size_t i = 0; i < s.len; i++) {
        size_t k = 0;
        while (k < sizeof table / sizeof table[0] && table[k].c != s.s[i])
            k++;
        if (k < sizeof table / sizeof table[0])
            jinja_text_add(&r->env, &t, table[k].text, strlen(table[k].text));
        else
            jinja_text_add_char(&r->env, &t, s.s[i]);
    }
    struct jinja_value out = jinja_string(jinja_text_end(&t));
    out.flags = JINJA_FLAG_MARKUP;
    return out;
}

/* Python escapes what is joined to a marked string, and marks the whole. */
static struct jinja_value markup_op(struct jinja_run *r, int op, struct jinja_value a,
                                    struct jinja_value b)
{
    jinja_need_defined(&r->env, b);
    if (op != '+' || a.type != JINJA_STR || b.type != JINJA_STR)
        jinja_fail(&r->env, "of the operators only + is supported on the result of `safe` or "
                            "`escape`");
    struct jinja_text t = jinja_text_begin(SIZE_MAX);
    jinja_text_add_str(&r->env, &t, jinja_escape(r, a).str);
    jinja_text_add_str(&r->env, &t, jinja_escape(r, b).str);
    struct jinja_value v = jinja_string(jinja_text_end(&t));
    v.flags = JINJA_FLAG_MARKUP;
    return v;
}

struct jinja_value jinja_binary(struct jinja_run *r, int op, struct jinja_value a,
                                struct jinja_value b)
{
    char name[3] = {op > 255 ? (char)(op >> 8) : (char)op, op > 255 ? (char)op : '\0'};
    jinja_need_defined(&r->env, a);
    if (jinja_is_markup(a) || (jinja_is_markup(b) && op != '%'))
        return markup_op(r, op, a, b);
    if (op == '%' && a.type == JINJA_STR)
        return jinja_string(jinja_format_percent(&r->env, a.str, b));
    jinja_need_defined(&r->env, b);
    if (jinja_is_number(a) && jinja_is_number(b))
        return number_op(r, op, a, b);
    if (op == '*' && is_repeatable(a) && jinja_is_int(b))
        return repeat(r, a, jinja_as_int(b));
    if (op == '*' && is_repeatable(b) && jinja_is_int(a))
        return repeat(r, b, jinja_as_int(a));
    if (op != '+' || a.type != b.type || !is_repeatable(a))
        fail_types(r, name, a, b);
    if (a.type != JINJA_STR)
        return list_add(r, a, b);
    struct jinja_text t = jinja_text_begin(SIZE_MAX);
    jinja_text_add_str(&r->env, &t, a.str);
    jinja_text_add_str(&r->env, &t, b.str);
    return jinja_string(jinja_text_end(&t));
}

struct jinja_value jinja_negate(struct jinja_run *r, struct jinja_value v, bool minus)
{
    jinja_need_defined(&r->env, v);
    if (v.type == JINJA_FLOAT)
        return jinja_real(minus ? -v.real : v.real);
    if (!jinja_is_int(v))
        jinja_fail(&r->env, "bad operand type for unary %c: '%s'", minus ? '-' : '+',
                   jinja_type_name(v));
    if (minus && jinja_as_int(v) == INT64_MIN)
        fail_overflow(r);
    return jinja_int(minus ? -jinja_as_int(v) : jinja_as_int(v));
}

bool jinja_compare(struct jinja_run *r, int op, struct jinja_value a, struct jinja_value b)
{
    int order;
    switch (op) {
    case JINJA_OP2('=', '='):
        return jinja_equal(&r->env, a, b);
    case JINJA_OP2('!', '='):
        return !jinja_equal(&r->env, a, b);
    case JINJA_OP_IN:
        return jinja_contains(&r->env, b, a);
    case JINJA_OP_NOT_IN:
        return !jinja_contains(&r->env, b, a);
    case '<':
        return jinja_order(&r->env, a, b, "<") < 0;
    case '>':
        return jinja_order(&r->env, a, b, ">") == 1;
    case JINJA_OP2('<', '='):
        return jinja_order(&r->env, a, b, "<=") <= 0;
    default:
        order = jinja_order(&r->env, a, b, ">=");
        return order == 0 || order == 1;
    }
}

/* --- access --- */

static struct jinja_value method_of(struct jinja_run *r, struct jinja_value of,
                                    struct jinja_str name, bool *ret_found)
{
    bool mutates = false;
    const struct jinja_callable *c = jinja_find_method(of, name, &mutates);
    *ret_found = c != NULL || mutates;
    if (mutates) {
        struct jinja_text t = jinja_text_begin(SIZE_MAX);
        jinja_text_printf(&r->env, &t, "access to attribute '%.*s' of '%s' object is unsafe.",
                          (int)(name.len < 60 ? name.len : 60), name.s, jinja_type_name(of));
        struct jinja_value v = jinja_undefined_hint("");
        v.str = jinja_text_end(&t);
        return v;
    }
    if (c == NULL)
        return jinja_none();
    struct jinja_method *m = jinja_alloc(&r->env, sizeof *m);
    *m = (struct jinja_method){of, c};
    return (struct jinja_value){.type = JINJA_METHOD, .method = m};
}

struct jinja_value jinja_get_attr(struct jinja_run *r, struct jinja_value of, struct jinja_str name)
{
    bool found = false;
    jinja_need_defined(&r->env, of);
    if (of.type == JINJA_LOOP)
        return jinja_loop_attribute(r, of, name);
    if (of.type == JINJA_MACRO && jinja_str_is(name, "name"))
        return of.macro->node->kind == JINJA_NODE_MACRO ? jinja_string(of.macro->node->name)
                                                        : jinja_none();
    struct jinja_value v = method_of(r, of, name, &found);
    if (found)
        return v;
    if (of.type == JINJA_DICT || of.type == JINJA_NAMESPACE) {
        const struct jinja_value *item = jinja_dict_find_str(&r->env, of.dict, name);
        if (item != NULL)
            return *item;
    }
    return jinja_undefined_in(&r->env, of, jinja_string(name));
}

static bool index_of(struct jinja_value key, int64_t count, int64_t *ret)
{
    if (!jinja_is_int(key))
        return false;
    int64_t i = jinja_as_int(key);
    if (i < 0)
        i += count;
    *ret = i;
    return i >= 0 && i < count;
}

static struct jinja_value char_at(struct jinja_run *r, struct jinja_str s, int64_t i)
{
    size_t at = jinja_str_offset(&r->env, s, i);
    return jinja_string((struct jinja_str){s.s + at, jinja_char_bytes(s.s[at])});
}

struct jinja_value jinja_get_item(struct jinja_run *r, struct jinja_value of,
                                  struct jinja_value key)
{
    int64_t i;
    jinja_need_defined(&r->env, of);
    if (of.type == JINJA_DICT && jinja_is_hashable(key)) {
        const struct jinja_value *v = jinja_dict_find(&r->env, of.dict, key);
        if (v != NULL)
            return *v;
    }
    bool indexed = of.type == JINJA_LIST || of.type == JINJA_TUPLE || of.type == JINJA_STR ||
                   of.type == JINJA_RANGE;
    if (indexed && jinja_is_int(key) && index_of(key, jinja_length(&r->env, of), &i)) {
        if (of.type == JINJA_STR)
            return marked_as(of, char_at(r, of.str, i));
        if (of.type == JINJA_RANGE)
            return jinja_int(of.range->start + i * of.range->step);
        return of.list->items[i];
    }
    if (key.type != JINJA_STR)
        return jinja_undefined_in(&r->env, of, key);
    if (of.type == JINJA_LOOP || of.type == JINJA_MACRO)
        return jinja_get_attr(r, of, key.str);
    if (of.type == JINJA_NAMESPACE) /* has no [] for templates, but its attributes */
        return jinja_undefined_in(&r->env, of, key);
    bool found = false;
    struct jinja_value v = method_of(r, of, key.str, &found);
    return found ? v : jinja_undefined_in(&r->env, of, key);
}

/* --- slices: Python's slice.indices --- */

static int64_t slice_bound(struct jinja_run *r, struct jinja_value v, int64_t count, int64_t low,
                           int64_t high, int64_t other)
{
    if (v.type == JINJA_NONE)
        return other;
    if (!jinja_is_int(v))
        jinja_fail(&r->env, "slice indices must be integers or None");
    int64_t i = jinja_as_int(v);
    if (i < 0)
        i += count;
    return i < low ? low : i > high ? high : i;
}

static struct jinja_value slice_string(struct jinja_run *r, struct jinja_str s, int64_t start,
                                       int64_t step, int64_t count)
{
    if (step == 1) {
        size_t from = jinja_str_offset(&r->env, s, start);
        struct jinja_str rest = {s.s + from, s.len - from};
        rest.len = jinja_str_offset(&r->env, rest, count);
        return jinja_string(rest);
    }
    struct jinja_value chars = jinja_to_list(&r->env, jinja_string(s));
    struct jinja_text t = jinja_text_begin(SIZE_MAX);
    for (int64_t i = 0; i < count; i++)
        jinja_text_add_str(&r->env, &t, chars.list->items[start + i * step].str);
    return jinja_string(jinja_text_end(&t));
}

static struct jinja_value slice_range(struct jinja_run *r, const struct jinja_range *of,
                                      int64_t start, int64_t stop, int64_t step, int64_t count)
{
    struct jinja_range *range = jinja_alloc(&r->env, sizeof *range);
    if (__builtin_mul_overflow(of->step, step, &range->step))
        fail_overflow(r);
    range->start = of->start + start * of->step;
    range->stop = of->start + stop * of->step;
    range->count = count;
    return (struct jinja_value){.type = JINJA_RANGE, .range = range};
}

struct jinja_value jinja_slice(struct jinja_run *r, struct jinja_value of,
                               const struct jinja_value *start, const struct jinja_value *stop,
                               const struct jinja_value *step)
{
    jinja_need_defined(&r->env, of);
    if (!is_repeatable(of) && of.type != JINJA_RANGE)
        jinja_fail(&r->env, "'%s' object cannot be sliced", jinja_type_name(of));
    int64_t by = step->type == JINJA_NONE ? 1 : 0;
    if (by == 0 && !jinja_is_int(*step))
        jinja_fail(&r->env, "slice indices must be integers or None");
    if (by == 0)
        by = jinja_as_int(*step);
    if (by == 0)
        jinja_fail(&r->env, "slice step cannot be zero");
    if (by == INT64_MIN)
        by++;
    int64_t n = jinja_length(&r->env, of);
    int64_t low = by < 0 ? -1 : 0, high = by < 0 ? n - 1 : n;
    int64_t from = slice_bound(r, *start, n, low, high, by < 0 ? high : low);
    int64_t to = slice_bound(r, *stop, n, low, high, by < 0 ? low : high);
    int64_t count = 0;
    if (by < 0 && to < from)
        count = (from - to - 1) / -by + 1;
    else if (by > 0 && from < to)
        count = (to - from - 1) / by + 1;
    if (count <= 1 && of.type != JINJA_RANGE)
        by = 1; /* and no product of it can overflow */
    if (of.type == JINJA_STR)
        return marked_as(of, slice_string(r, of.str, from < 0 ? 0 : from, by, count));
    if (of.type == JINJA_RANGE)
        return slice_range(r, of.range, from, to, by, count);
    if (by == 1 && count == 0)
        return jinja_list_view(&r->env, of.type, NULL, 0);
    if (by == 1)
        return jinja_list_view(&r->env, of.type, of.list->items + from, (size_t)count);
    struct jinja_value *items = jinja_alloc_array(&r->env, (size_t)count, sizeof *items);
    for (int64_t i = 0; i < count; i++)
        items[i] = of.list->items[from + i * by];
    return jinja_list_view(&r->env, of.type, items, (size_t)count);
}
