/* See safetensors.h. */
#include "weights/safetensors.h"

#include "model/jsonfile.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LENGTH_BYTES 8

static const struct jsonfile_limits header_limits = {
    .bytes_max = SAFETENSORS_HEADER_BYTES_MAX,
    .depth_max = 3, /* { name: { shape: [] } } */
    .values_max = 16 * SAFETENSORS_TENSORS_MAX,
};

static const struct {
    const char *name;
    enum safetensors_dtype dtype;
    uint8_t bytes;
} dtypes[] = {
    {"F32", SAFETENSORS_F32, 4},       {"F16", SAFETENSORS_F16, 2},
    {"BF16", SAFETENSORS_BF16, 2},     {"F64", SAFETENSORS_OTHER, 8},
    {"I64", SAFETENSORS_OTHER, 8},     {"U64", SAFETENSORS_OTHER, 8},
    {"I32", SAFETENSORS_OTHER, 4},     {"U32", SAFETENSORS_OTHER, 4},
    {"I16", SAFETENSORS_OTHER, 2},     {"U16", SAFETENSORS_OTHER, 2},
    {"I8", SAFETENSORS_OTHER, 1},      {"U8", SAFETENSORS_OTHER, 1},
    {"BOOL", SAFETENSORS_OTHER, 1},    {"F8_E4M3", SAFETENSORS_OTHER, 1},
    {"F8_E5M2", SAFETENSORS_OTHER, 1},
};

int safetensors_head_bytes(const void *data, size_t size, uint64_t file_bytes, uint64_t *ret,
                           struct error *err)
{
    uint64_t length = 0;
    if (size < LENGTH_BYTES || file_bytes < LENGTH_BYTES)
        return error_set(err, -EINVAL, "truncated: only %llu bytes",
                         (unsigned long long)file_bytes);
    memcpy(&length, data, LENGTH_BYTES);
    if (length > SAFETENSORS_HEADER_BYTES_MAX)
        return error_set(err, -E2BIG,
                         "no safetensors file, or damaged: its header claims %llu bytes, the limit "
                         "is %u",
                         (unsigned long long)length, SAFETENSORS_HEADER_BYTES_MAX);
    if (length > file_bytes - LENGTH_BYTES)
        return error_set(err, -EINVAL, "truncated: a header of %llu bytes in a file of %llu",
                         (unsigned long long)length, (unsigned long long)file_bytes);
    *ret = LENGTH_BYTES + length;
    return 0;
}

static int parse_dtype(const json_t *value, struct safetensors_tensor *t, uint64_t *ret_size,
                       struct error *err)
{
    const char *name = json_string_value(value);
    for (size_t i = 0; name != NULL && i < sizeof dtypes / sizeof dtypes[0]; i++) {
        if (strcmp(dtypes[i].name, name) != 0)
            continue;
        t->dtype = dtypes[i].dtype;
        snprintf(t->dtype_name, sizeof t->dtype_name, "%s", name);
        *ret_size = dtypes[i].bytes;
        return 0;
    }
    char shown[JSONFILE_SHOW_BYTES];
    return error_set(err, -ENOTSUP, "dtype %s is not supported: bring F32, F16 or BF16",
                     jsonfile_show(value, shown));
}

static int parse_shape(const json_t *shape, struct safetensors_tensor *t, uint64_t *ret_count,
                       struct error *err)
{
    char shown[JSONFILE_SHOW_BYTES];
    size_t dim_count = json_array_size(shape);
    if (!json_is_array(shape) || dim_count > SAFETENSORS_DIMS_MAX)
        return error_set(err, -EINVAL, "shape %s is no list of at most %u sizes",
                         jsonfile_show(shape, shown), SAFETENSORS_DIMS_MAX);
    uint64_t count = 1;
    for (size_t i = 0; i < dim_count; i++) {
        const json_t *dim = json_array_get(shape, i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            return error_set(err, -EINVAL, "shape %s holds no sizes", jsonfile_show(shape, shown));
        t->dims[i] = (uint64_t)json_integer_value(dim);
        if (__builtin_mul_overflow(count, t->dims[i], &count))
            return error_set(err, -EINVAL, "shape %s overflows", jsonfile_show(shape, shown));
    }
    t->dim_count = (uint32_t)dim_count;
    *ret_count = count;
    return 0;
}

static int parse_tensor(const json_t *value, uint64_t data_begin, uint64_t data_bytes,
                        struct safetensors_tensor *t, struct error *err)
{
    char shown[JSONFILE_SHOW_BYTES];
    if (!json_is_object(value) || json_object_size(value) != 3)
        return error_set(err, -EINVAL,
                         "described by %s: dtype, shape and data_offsets are needed, nothing else",
                         jsonfile_show(value, shown));
    uint64_t size = 0;
    uint64_t count = 0;
    uint64_t bytes = 0;
    int r = parse_dtype(json_object_get(value, "dtype"), t, &size, err);
    if (r == 0)
        r = parse_shape(json_object_get(value, "shape"), t, &count, err);
    if (r < 0)
        return r;
    const json_t *offsets = json_object_get(value, "data_offsets");
    const json_t *begin_value = json_array_get(offsets, 0);
    const json_t *end_value = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin_value) ||
        !json_is_integer(end_value) || json_integer_value(begin_value) < 0 ||
        json_integer_value(end_value) < json_integer_value(begin_value))
        return error_set(err, -EINVAL, "data_offsets %s are no range of bytes",
                         jsonfile_show(offsets, shown));
    uint64_t begin = (uint64_t)json_integer_value(begin_value);
    uint64_t end = (uint64_t)json_integer_value(end_value);
    if (end > data_bytes)
        return error_set(err, -EINVAL,
                         "data_offsets end at %llu, but the file holds %llu bytes of data: it is "
                         "truncated or damaged",
                         (unsigned long long)end, (unsigned long long)data_bytes);
    if (__builtin_mul_overflow(count, size, &bytes) || bytes != end - begin)
        return error_set(
            err, -EINVAL, "%llu values of %s do not fill the %llu bytes of its data_offsets",
            (unsigned long long)count, t->dtype_name, (unsigned long long)(end - begin));
    t->offset = data_begin + begin;
    t->bytes = bytes;
    return 0;
}

static int by_offset(const void *a, const void *b)
{
    const struct safetensors_tensor *x = a;
    const struct safetensors_tensor *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    return 0;
}

static int check_cover(const struct safetensors *s, uint64_t begin, uint64_t end, struct error *err)
{
    uint64_t at = begin;
    char shown[JSONFILE_SHOW_BYTES];
    for (uint32_t i = 0; i < s->tensor_count; i++) {
        const struct safetensors_tensor *t = &s->tensors[i];
        if (t->offset != at)
            return error_set(err, -EINVAL, "tensor %s %s",
                             jsonfile_printable(t->name, strlen(t->name), shown, sizeof shown),
                             t->offset < at ? "overlaps another one"
                                            : "begins after a hole that no tensor describes");
        at += t->bytes;
    }
    if (at != end)
        return error_set(err, -EINVAL, "%llu bytes after the last tensor belong to none",
                         (unsigned long long)(end - at));
    return 0;
}

static bool is_metadata(const char *key)
{
    return strcmp(key, "__metadata__") == 0;
}

/* Room for every name and tensor, counted before anything is copied. */
static int make_room(json_t *root, struct safetensors *s, struct error *err)
{
    size_t names_bytes = 1;
    size_t count = 0;
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach(root, key, value)
    {
        if (is_metadata(key))
            continue;
        if (strlen(key) > SAFETENSORS_NAME_BYTES_MAX)
            return error_set(err, -E2BIG, "a tensor's name is longer than %u bytes",
                             SAFETENSORS_NAME_BYTES_MAX);
        names_bytes += strlen(key) + 1;
        count++;
    }
    if (count > SAFETENSORS_TENSORS_MAX)
        return error_set(err, -E2BIG, "%zu tensors, the limit is %u", count,
                         SAFETENSORS_TENSORS_MAX);
    s->names = malloc(names_bytes);
    s->tensors = calloc(count + 1, sizeof *s->tensors);
    if (s->names == NULL || s->tensors == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    return 0;
}

static int parse_root(json_t *root, uint64_t begin, uint64_t end, struct safetensors *s,
                      struct error *err)
{
    int r = make_room(root, s, err);
    if (r < 0)
        return r;
    char *name = s->names;
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach(root, key, value)
    {
        if (is_metadata(key))
            continue;
        struct safetensors_tensor *t = &s->tensors[s->tensor_count++];
        size_t len = strlen(key);
        memcpy(name, key, len + 1);
        t->name = name;
        name += len + 1;
        r = parse_tensor(value, begin, end - begin, t, err);
        if (r < 0) {
            char shown[JSONFILE_SHOW_BYTES];
            error_prefix(err, "tensor %s", jsonfile_printable(key, len, shown, sizeof shown));
            return r;
        }
    }
    qsort(s->tensors, s->tensor_count, sizeof *s->tensors, by_offset);
    return check_cover(s, begin, end, err);
}

int safetensors_parse(const void *data, size_t size, uint64_t file_bytes, struct safetensors *ret,
                      struct error *err)
{
    uint64_t head_bytes = 0;
    int r = safetensors_head_bytes(data, size, file_bytes, &head_bytes, err);
    if (r < 0)
        return r;
    if (head_bytes > size)
        return error_set(err, -EINVAL, "truncated in the header");
    const char *text = (const char *)data + LENGTH_BYTES;
    if (head_bytes == LENGTH_BYTES || text[0] != '{')
        return error_set(err, -EINVAL, "no safetensors file: the header is no JSON object");
    json_t *root = NULL;
    r = jsonfile_parse(text, head_bytes - LENGTH_BYTES, &header_limits, &root, err);
    if (r < 0)
        return r;
    struct safetensors s = {0};
    r = parse_root(root, head_bytes, file_bytes, &s, err);
    json_decref(root);
    if (r < 0) {
        safetensors_free(&s);
        return r;
    }
    *ret = s;
    return 0;
}

void safetensors_free(struct safetensors *s)
{
    free(s->tensors);
    free(s->names);
    *s = (struct safetensors){0};
}

const char *safetensors_shape(const struct safetensors_tensor *t, char ret[SAFETENSORS_SHAPE_BYTES])
{
    size_t at = 0;
    ret[at++] = '[';
    for (uint32_t i = 0; i < t->dim_count; i++)
        at += (size_t)snprintf(ret + at, SAFETENSORS_SHAPE_BYTES - at, "%s%llu", i > 0 ? ", " : "",
                               (unsigned long long)t->dims[i]);
    ret[at++] = ']';
    ret[at] = '\0';
    return ret;
}
