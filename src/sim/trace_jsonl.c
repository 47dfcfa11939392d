/*
 * Traces of one JSON object a line: Mooncake's and SwarmLoRA's. They differ in the names of their
 * keys, in the unit of time and in whether a function is named.
 */
#include "sim/trace_parts.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <string.h>

#define DEPTH_MAX 16u

struct keys {
    const char *prompt, *answer, *function; /* function NULL: none is named */
    double unit_s;
};

static const struct keys mooncake = {"input_length", "output_length", NULL, 1e-3};
static const struct keys swarmlora = {"input_tokens", "output_tokens", "adapter_id", 1};

/* A text with fewer brackets than this inside each other; the parser would take 2,048. */
static bool is_shallow(const struct buf *line)
{
    uint32_t depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < line->len; i++) {
        char c = line->data[i];
        if (in_string && c == '\\')
            i++;
        else if (c == '"')
            in_string = !in_string;
        else if (!in_string && (c == '{' || c == '['))
            depth++;
        else if (!in_string && (c == '}' || c == ']') && depth > 0)
            depth--;
        if (depth > DEPTH_MAX)
            return false;
    }
    return true;
}

static int parse(const struct trace_reader *r, json_t **ret, struct error *err)
{
    char shown[TRACE_SHOW_BYTES];
    json_error_t why;
    if (r->line.data[0] != '{')
        return trace_refuse(r, err,
                            "each line must be a JSON object; jq -c '.[]' makes such lines "
                            "of an array");
    if (!is_shallow(&r->line))
        return trace_refuse(r, err, "JSON nested deeper than %u levels", DEPTH_MAX);
    json_t *o = json_loadb(r->line.data, r->line.len, JSON_REJECT_DUPLICATES, &why);
    if (o == NULL && json_error_code(&why) == json_error_out_of_memory)
        return error_set(err, -ENOMEM, "out of memory");
    if (o == NULL)
        return trace_refuse(r, err, "malformed JSON at column %d: %s; each line must be one object",
                            why.column, trace_show(why.text, shown));
    *ret = o;
    return 0;
}

int trace_jsonl_format(const struct trace_reader *r, enum trace_format *ret, struct error *err)
{
    json_t *o = NULL;
    int n = parse(r, &o, err);
    if (n < 0)
        return n;
    if (json_object_get(o, swarmlora.function) != NULL)
        *ret = TRACE_FORMAT_SWARMLORA;
    else if (json_object_get(o, mooncake.prompt) != NULL)
        *ret = TRACE_FORMAT_MOONCAKE;
    json_decref(o);
    return 0;
}

static int number(const struct trace_reader *r, const json_t *o, const char *key, double *ret,
                  struct error *err)
{
    const json_t *v = json_object_get(o, key);
    if (v == NULL)
        return trace_refuse(r, err, "there is no \"%s\"", key);
    if (!json_is_number(v))
        return trace_refuse(r, err, "\"%s\" is no number", key);
    *ret = json_number_value(v);
    return 0;
}

static int tokens(const struct trace_reader *r, const json_t *o, const char *key, uint32_t *ret,
                  struct error *err)
{
    double v = 0;
    int n = number(r, o, key, &v, err);
    if (n < 0)
        return n;
    if (!(v >= 0 && v <= TRACE_TOKENS_MAX) || v != floor(v))
        return trace_refuse(r, err, "\"%s\" is %g: a whole number from 0 to %u is needed", key, v,
                            TRACE_TOKENS_MAX);
    *ret = (uint32_t)v;
    return 0;
}

static int function_of(struct trace_reader *r, const json_t *o, const struct keys *k, uint32_t *ret,
                       struct error *err)
{
    char digits[32];
    if (k->function == NULL) {
        *ret = trace_function_spread(r, "");
        return 0;
    }
    const json_t *v = json_object_get(o, k->function);
    if (json_is_integer(v))
        snprintf(digits, sizeof digits, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
    else if (!json_is_string(v))
        return trace_refuse(r, err, "\"%s\" must be a string or a whole number", k->function);
    return trace_function_named(r, json_is_string(v) ? json_string_value(v) : digits, ret, err);
}

static int read_object(struct trace_reader *r, const struct keys *k, struct error *err)
{
    json_t *o = NULL;
    double time = 0;
    uint64_t at_us = 0;
    uint32_t prompt_tokens = 0, new_tokens = 0, function = 0;
    int n = parse(r, &o, err);
    if (n < 0)
        return n;
    n = number(r, o, "timestamp", &time, err);
    n = n == 0 ? trace_check_seconds(r, "\"timestamp\"", time * k->unit_s, &at_us, err) : n;
    n = n == 0 ? tokens(r, o, k->prompt, &prompt_tokens, err) : n;
    n = n == 0 ? tokens(r, o, k->answer, &new_tokens, err) : n;
    n = n == 0 ? trace_place(r, at_us, err) : n;
    if (n > 0) {
        n = function_of(r, o, k, &function, err);
        n = n == 0 ? trace_add(r, at_us, function, prompt_tokens, new_tokens, err) : n;
    }
    json_decref(o);
    return n;
}

int trace_read_jsonl(struct trace_reader *r, enum trace_format format, struct error *err)
{
    const struct keys *k = format == TRACE_FORMAT_SWARMLORA ? &swarmlora : &mooncake;
    r->functions_named = k->function != NULL;
    /* The first line is a request already. */
    int n = 1;
    while (n > 0) {
        n = read_object(r, k, err);
        if (n < 0 || r->window_is_behind)
            break;
        n = trace_next_line(r, err);
    }
    return n < 0 ? n : 0;
}
