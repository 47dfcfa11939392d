/* See prices.h. */
#include "store/prices.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"

struct key {
    const char *name;
    const char *unit;
    size_t offset; /* of its double in struct price_table */
};

static const struct key keys[] = {
    {"gb_s_active_usd", "GB second of device memory while a request runs",
     offsetof(struct price_table, gb_s_active_usd)},
    {"gb_s_idle_usd", "GB second of device memory kept between requests",
     offsetof(struct price_table, gb_s_idle_usd)},
    {"device_s_usd", "second of computing", offsetof(struct price_table, device_s_usd)},
    {"request_usd", "request", offsetof(struct price_table, request_usd)},
    {"prompt_1k_usd", "1000 computed prompt tokens", offsetof(struct price_table, prompt_1k_usd)},
    {"cached_1k_usd", "1000 prompt tokens found in a cache",
     offsetof(struct price_table, cached_1k_usd)},
    {"new_1k_usd", "1000 generated tokens", offsetof(struct price_table, new_1k_usd)},
};

#define KEY_COUNT (sizeof keys / sizeof keys[0])

/* "KEY must be ..."; the value is shown when there is one. */
static int refuse(const char *path, const struct key *key, const json_t *value, struct error *err)
{
    char *text = value != NULL ? json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII) : NULL;
    int r = error_set(err, -EINVAL, "%s: %s must be a number from 0 to %g, USD per %s%s%.60s", path,
                      key->name, PRICE_UNIT_USD_MAX, key->unit, text != NULL ? ", not " : "",
                      text != NULL ? text : "; it is missing");
    free(text);
    return r;
}

static int refuse_unknown(const char *path, json_t *root, struct error *err)
{
    char known[256] = "";
    const char *name;
    json_t *value;
    for (size_t i = 0; i < KEY_COUNT; i++) {
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", i > 0 ? ", " : "", keys[i].name);
    }
    json_object_foreach(root, name, value)
    {
        size_t k = 0;
        while (k < KEY_COUNT && strcmp(keys[k].name, name) != 0)
            k++;
        if (k == KEY_COUNT)
            return error_set(err, -EINVAL, "%s: there is no price \"%.60s\"; there are %s", path,
                             name, known);
    }
    return 0;
}

/* The key whose value the parser stopped at, or NULL: what is no JSON (NaN, 1e999) has no value to
 * look at. */
static const struct key *key_before(const char *text, size_t position)
{
    const struct key *last = NULL;
    size_t last_at = 0;
    for (size_t i = 0; i < KEY_COUNT; i++) {
        size_t len = strlen(keys[i].name);
        for (size_t at = 0; at + len <= position; at++) {
            if (at >= last_at && memcmp(text + at, keys[i].name, len) == 0) {
                last = &keys[i];
                last_at = at;
            }
        }
    }
    return last;
}

static int refuse_text(const char *path, const char *text, size_t len, const json_error_t *e,
                       struct error *err)
{
    size_t position = e->position > 0 ? (size_t)e->position : 0;
    const struct key *key = key_before(text, position < len ? position : len);
    if (key == NULL || json_error_code(e) == json_error_duplicate_key)
        return error_set(err, -EINVAL, "%s, line %d: %s", path, e->line, e->text);
    return error_set(err, -EINVAL, "%s, line %d: %s; %s must be a number from 0 to %g, USD per %s",
                     path, e->line, e->text, key->name, PRICE_UNIT_USD_MAX, key->unit);
}

static int table_of(const char *path, json_t *root, struct price_table *ret, struct error *err)
{
    struct price_table table = {0};
    if (!json_is_object(root))
        return error_set(err, -EINVAL, "%s: prices are one JSON object", path);
    int r = refuse_unknown(path, root, err); /* first: a misspelt key is no missing one */
    if (r < 0)
        return r;
    for (size_t i = 0; i < KEY_COUNT; i++) {
        const json_t *value = json_object_get(root, keys[i].name);
        double usd = json_number_value(value);
        if (!json_is_number(value) || !(usd >= 0 && usd <= PRICE_UNIT_USD_MAX))
            return refuse(path, &keys[i], value, err);
        memcpy((char *)&table + keys[i].offset, &usd, sizeof usd);
    }
    *ret = table;
    return 0;
}

int prices_read(const char *path, struct price_table *ret, struct error *err)
{
    cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set(err, -errno, "cannot read the prices in %s: %s", path, strerror(errno));
    char text[PRICES_FILE_BYTES_MAX + 1];
    size_t len = 0;
    ssize_t n = 1;
    while (n > 0 && len < sizeof text) {
        n = read(fd, text + len, sizeof text - len);
        if (n < 0)
            return error_set(err, -errno, "cannot read the prices in %s: %s", path,
                             strerror(errno));
        len += (size_t)n;
    }
    if (len > PRICES_FILE_BYTES_MAX)
        return error_set(err, -EFBIG, "%s: prices take at most %d bytes", path,
                         PRICES_FILE_BYTES_MAX);
    json_error_t e;
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &e);
    if (root == NULL)
        return refuse_text(path, text, len, &e, err);
    int r = table_of(path, root, ret, err);
    json_decref(root);
    return r;
}
