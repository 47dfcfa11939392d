/*
 * JSON files that a tenant brings (config.json, safetensors headers, adapter_config.json...), read
 * with limits: jansson does the parsing, but a scan before it bounds length, nesting and the number
 * of values, so that a small file cannot become a large tree. Duplicate keys are refused, because
 * two readers of such a file may see two different models.
 */
#pragma once

#include "base/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct jsonfile_limits {
    size_t bytes_max;
    uint32_t depth_max;  /* of nested objects and arrays; at most 1000 */
    uint32_t values_max; /* every element of every object and array counts */
};

/* The root object, a new reference in *ret. Integers beyond 64 bits are read as reals. */
int jsonfile_parse(const char *text, size_t len, const struct jsonfile_limits *limits, json_t **ret,
                   struct error *err);

/* A field of `object`, or NULL when it is absent or null: the two mean the same here. */
json_t *jsonfile_get(const json_t *object, const char *key);

/* Reads a field. Absent or null: *ret keeps the default that the caller put there, and 0. Another
 * type or a value out of [min, max]: -EINVAL, with key and value in the sentence. */
int jsonfile_u32(const json_t *object, const char *key, uint32_t min, uint32_t max, uint32_t *ret,
                 struct error *err);
int jsonfile_float(const json_t *object, const char *key, double min, double max, float *ret,
                   struct error *err);
int jsonfile_bool(const json_t *object, const char *key, bool *ret, struct error *err);
int jsonfile_string(const json_t *object, const char *key, const char **ret, struct error *err);

/* A value as it would stand in a sentence: shortened, printable ASCII. */
#define JSONFILE_SHOW_BYTES 96
const char *jsonfile_show(const json_t *value, char ret[JSONFILE_SHOW_BYTES]);

/* Copies text from outside into a sentence's reach: other than printable ASCII becomes '?', and
 * what is longer than `size` ends in "...". Returns `ret`. */
const char *jsonfile_printable(const char *text, size_t len, char *ret, size_t size);
