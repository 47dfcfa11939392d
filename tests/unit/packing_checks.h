/* Directories of checkpoints and adapters, damaged in one place, and the refusals they must meet.
 */
#pragma once

#include "packing.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

static inline void open_dir(struct packing_dir *d, const char *path)
{
    if (packing_open_dir(d, path) < 0)
        fail_msg("cannot open %s: the tests run from the repository's root", path);
}

/* Packs, expects the refusal, and closes the directory. */
static inline void refuse(struct packing_dir *d, enum image_dtype dtype, const struct packed *base,
                          const char *words)
{
    struct backbone b;
    struct packed p;
    struct error err = {0};
    if (base != NULL)
        assert_int_equal(backbone_open(&b, base->base, base->result.bytes, &err), 0);
    int r = packing_pack_files(&p, d, dtype, base != NULL ? &b : NULL,
                               base != NULL ? &base->result.digest : NULL, &err);
    if (r >= 0 || strstr(err.text, words) == NULL)
        fail_msg("%d \"%s\", expected \"%s\"", r, err.text, words);
    if (base != NULL)
        backbone_close(&b);
    packing_close_dir(d);
}

static inline void pack(struct packed *p, const char *path, enum image_dtype dtype)
{
    struct error err = {0};
    if (packing_pack(p, path, dtype, NULL, NULL, &err) < 0)
        fail_msg("%s: %s", path, err.text);
}

/* Replaces text in a file of the directory by text of any length; it must be there. */
static inline void edit(struct packing_dir *d, const char *name, const char *from, const char *to)
{
    size_t bytes = 0;
    char *data = packing_get(d, name, &bytes);
    assert_non_null(data);
    char *at = memmem(data, bytes, from, strlen(from));
    if (at == NULL)
        fail_msg("%s is not in %s", from, name);
    size_t before = (size_t)(at - data);
    size_t after = bytes - before - strlen(from);
    char *edited = malloc(bytes + strlen(to) + 1);
    memcpy(edited, data, before);
    memcpy(edited + before, to, strlen(to));
    memcpy(edited + before + strlen(to), at + strlen(from), after);
    packing_put(d, name, edited, before + strlen(to) + after);
    free(edited);
    free(data);
}

/* Where the data of a safetensors tensor begins in the file. */
static inline size_t data_of(const char *file, const char *tensor)
{
    uint64_t header = 0;
    unsigned long long begin = 0;
    memcpy(&header, file, 8);
    const char *at = memmem(file + 8, header, tensor, strlen(tensor));
    assert_non_null(at);
    at = strstr(at, "\"data_offsets\":[");
    assert_non_null(at);
    assert_int_equal(sscanf(at, "\"data_offsets\":[%llu", &begin), 1);
    return 8 + header + begin;
}

static inline void patch_value(struct packing_dir *d, const char *name, const char *tensor,
                               size_t offset, const void *value, size_t len)
{
    size_t bytes = 0;
    char *data = packing_get(d, name, &bytes);
    memcpy(data + data_of(data, tensor) + offset, value, len);
    packing_put(d, name, data, bytes);
    free(data);
}
