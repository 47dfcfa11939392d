/* See jsonfile.h. */
#include "model/jsonfile.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <string.h>

/* One pass over the bytes, knowing only strings and brackets: what is no JSON at all is left for
 * the parser to refuse. */
static int scan(const char *text, size_t len, const struct jsonfile_limits *limits,
                struct error *err)
{
    uint32_t depth = 0;
    uint32_t values = 1;
    bool in_string = false;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
            continue;
        }
        if (c == '"')
            in_string = true;
        else if (c == '{' || c == '[')
            depth++;
        else if ((c == '}' || c == ']') && depth > 0)
            depth--;
        if (c == '{' || c == '[' || c == ',')
            values++;
        if (depth > limits->depth_max)
            return error_set(err, -E2BIG, "JSON nested deeper than %u levels at byte %zu",
                             limits->depth_max, i);
        if (values > limits->values_max)
            return error_set(err, -E2BIG, "JSON with more than %u values", limits->values_max);
    }
    return 0;
}

int jsonfile_parse(const char *text, size_t len, const struct jsonfile_limits *limits, json_t **ret,
                   struct error *err)
{
    assert(limits->depth_max <= 1000);
    if (len > limits->bytes_max)
        return error_set(err, -E2BIG, "%zu bytes of JSON, the limit is %zu", len,
                         limits->bytes_max);
    int r = scan(text, len, limits, err);
    if (r < 0)
        return r;
    json_error_t why;
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
    /* Transformers writes integers beyond 64 bits where it means "no limit". */
    if (root == NULL && json_error_code(&why) == json_error_numeric_overflow)
        root = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, &why);
    if (root == NULL) {
        char shown[JSONFILE_SHOW_BYTES];
        return error_set(err, -EINVAL, "malformed JSON at line %d column %d: %s", why.line,
                         why.column,
                         jsonfile_printable(why.text, strlen(why.text), shown, sizeof shown));
    }
    if (!json_is_object(root)) {
        json_decref(root);
        return error_set(err, -EINVAL, "not a JSON object");
    }
    *ret = root;
    return 0;
}

json_t *jsonfile_get(const json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

static int refuse(const char *key, const json_t *value, const char *wanted, struct error *err)
{
    char shown[JSONFILE_SHOW_BYTES];
    return error_set(err, -EINVAL, "\"%s\" is %s, %s is needed", key, jsonfile_show(value, shown),
                     wanted);
}

int jsonfile_u32(const json_t *object, const char *key, uint32_t min, uint32_t max, uint32_t *ret,
                 struct error *err)
{
    const json_t *value = jsonfile_get(object, key);
    if (value == NULL)
        return 0;
    double number = json_is_number(value) ? json_number_value(value) : NAN;
    if (!(number >= 0) || number > UINT32_MAX || number != floor(number))
        return refuse(key, value, "a whole number", err);
    if (number < min || number > max)
        return error_set(err, -EINVAL, "\"%s\" is %.0f, supported is %u to %u", key, number, min,
                         max);
    *ret = (uint32_t)number;
    return 0;
}

int jsonfile_float(const json_t *object, const char *key, double min, double max, float *ret,
                   struct error *err)
{
    const json_t *value = jsonfile_get(object, key);
    if (value == NULL)
        return 0;
    if (!json_is_number(value))
        return refuse(key, value, "a number", err);
    double number = json_number_value(value);
    if (!(number >= min && number <= max))
        return error_set(err, -EINVAL, "\"%s\" is %g, supported is %g to %g", key, number, min,
                         max);
    *ret = (float)number;
    return 0;
}

int jsonfile_bool(const json_t *object, const char *key, bool *ret, struct error *err)
{
    const json_t *value = jsonfile_get(object, key);
    if (value == NULL)
        return 0;
    if (!json_is_boolean(value))
        return refuse(key, value, "true or false", err);
    *ret = json_is_true(value);
    return 0;
}

int jsonfile_string(const json_t *object, const char *key, const char **ret, struct error *err)
{
    const json_t *value = jsonfile_get(object, key);
    if (value == NULL)
        return 0;
    if (!json_is_string(value))
        return refuse(key, value, "a string", err);
    *ret = json_string_value(value);
    return 0;
}

const char *jsonfile_show(const json_t *value, char ret[JSONFILE_SHOW_BYTES])
{
    char raw[256];
    size_t len = json_dumpb(value, raw, sizeof raw, JSON_ENCODE_ANY | JSON_COMPACT);
    return jsonfile_printable(raw, len < sizeof raw ? len : sizeof raw, ret, JSONFILE_SHOW_BYTES);
}

const char *jsonfile_printable(const char *text, size_t len, char *ret, size_t size)
{
    assert(size >= 8);
    size_t n = len < size ? len : size - 4;
    for (size_t i = 0; i < n; i++)
        ret[i] = text[i] >= 0x20 && text[i] < 0x7f ? text[i] : '?';
    memcpy(ret + n, len < size ? "" : "...", len < size ? 1 : 4);
    return ret;
}
