/* See profile.h. One table says which constants there are, of what unit, and within which bounds.
 */
#include "sim/profile.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB (1024.0 * 1024)

enum kind { KIND_BYTES, KIND_COUNT, KIND_DOUBLE, KIND_MS, KIND_US_BYTE };

struct constant {
    const char *key, *unit;
    double min, max;
    size_t offset;
    enum kind kind;
};

#define AT(type, member) offsetof(struct type, member)

static const struct constant device_constants[] = {
    {"memory_bytes", "bytes", MIB, 1e15, AT(profile, device_bytes), KIND_BYTES},
    {"worker_bytes", "bytes", 0, 1e12, AT(profile, worker_bytes), KIND_BYTES},
    {"kv_step_bytes", "bytes", 4096, 1e12, AT(profile, kv_step_bytes), KIND_BYTES},
    {"step_rows", "rows", 1, 1e6, AT(profile, step_rows), KIND_COUNT},
    {"turn_ms", "ms", 0, 1e3, AT(profile, turn_us), KIND_MS},
    {"vcpus", "cpus", 1, 4096, AT(profile, vcpus), KIND_COUNT},
    {"always_on_usd_hour", "USD/h", 0, 1e4, AT(profile, always_on_usd_hour), KIND_DOUBLE},
    {0},
};

static const struct constant node_constants[] = {
    {"devices", "devices", 1, 64, AT(profile, node_devices), KIND_COUNT},
    {"host_bytes", "bytes", 0, 1e15, AT(profile, host_bytes), KIND_BYTES},
    {"disk_gb_s", "GB/s", 1e-3, 1e3, AT(profile, disk_us_byte), KIND_US_BYTE},
    {"link_gb_s", "GB/s", 1e-2, 1e4, AT(profile, link_us_byte), KIND_US_BYTE},
    {"load_ms", "ms", 0, 1e5, AT(profile, load_us), KIND_MS},
    {0},
};

static const struct constant process_constants[] = {
    {"container_ms", "ms", 0, 1e6, AT(profile, container_us), KIND_MS},
    {"library_ms", "ms", 0, 1e6, AT(profile, library_us), KIND_MS},
    {"context_ms", "ms", 0, 1e6, AT(profile, context_us), KIND_MS},
    {"kernels_ms", "ms", 0, 1e6, AT(profile, kernels_us), KIND_MS},
    {"module_ms", "ms", 0, 1e6, AT(profile, module_us), KIND_MS},
    {"fork_ms", "ms", 0, 1e6, AT(profile, fork_us), KIND_MS},
    {"bind_ms", "ms", 0, 1e6, AT(profile, bind_us), KIND_MS},
    {"attach_ms", "ms", 0, 1e6, AT(profile, attach_us), KIND_MS},
    {"end_ms", "ms", 0, 1e6, AT(profile, end_us), KIND_MS},
    {"request_ms", "ms", 0, 1e4, AT(profile, request_us), KIND_MS},
    {"adapter_bytes", "bytes", 0, 1e11, AT(profile, adapter_bytes), KIND_BYTES},
    {0},
};

static const struct constant backbone_constants[] = {
    {"bytes", "bytes", 4096, 1e13, AT(profile_backbone, bytes), KIND_BYTES},
    {"work_bytes", "bytes", 0, 1e12, AT(profile_backbone, work_bytes), KIND_BYTES},
    {"kv_token_bytes", "bytes/token", 1, 1e9, AT(profile_backbone, kv_token_bytes), KIND_BYTES},
    {0},
};

static const struct constant step_constants[] = {
    {"step_us", "us", 1, 1e8, AT(profile_step, linear.step_us), KIND_DOUBLE},
    {"prompt_us", "us/row", 0, 1e6, AT(profile_step, linear.prompt_us), KIND_DOUBLE},
    {"decode_us", "us/row", 0, 1e6, AT(profile_step, linear.decode_us), KIND_DOUBLE},
    {"context_us", "us/token", 0, 1e5, AT(profile_step, context_us), KIND_DOUBLE},
    {"lora_us", "us", 0, 1e8, AT(profile_step, lora_us), KIND_DOUBLE},
    {0},
};

struct reading {
    const char *where;
    struct error *err;
};

static void store(void *to, const struct constant *c, double value)
{
    uint8_t *at = (uint8_t *)to + c->offset;
    switch (c->kind) {
    case KIND_BYTES:
        *(uint64_t *)(void *)at = (uint64_t)value;
        break;
    case KIND_COUNT:
        *(uint32_t *)(void *)at = (uint32_t)value;
        break;
    case KIND_MS:
        *(uint64_t *)(void *)at = (uint64_t)(value * 1e3 + 0.5);
        break;
    case KIND_US_BYTE:
        *(double *)(void *)at = 1 / (value * 1e3);
        break;
    case KIND_DOUBLE:
        *(double *)(void *)at = value;
        break;
    }
}

static int read_constant(const struct reading *r, const json_t *entry, const char *in,
                         const struct constant *c, void *to)
{
    const json_t *value = json_object_get(entry, "value");
    const char *unit = json_string_value(json_object_get(entry, "unit"));
    const char *source = json_string_value(json_object_get(entry, "source"));
    if (!json_is_object(entry))
        return error_set(r->err, -EINVAL,
                         "%s: %s.%s is missing: it is an object of value, unit and source",
                         r->where, in, c->key);
    if (!json_is_number(value) || unit == NULL || source == NULL || source[0] == '\0' ||
        json_object_size(entry) != 3)
        return error_set(r->err, -EINVAL,
                         "%s: %s.%s has a value, a unit, a source and nothing else", r->where, in,
                         c->key);
    if (strcmp(unit, c->unit) != 0)
        return error_set(r->err, -EINVAL, "%s: %s.%s is in %s, not in %.32s", r->where, in, c->key,
                         c->unit, unit);
    double v = json_number_value(value);
    bool is_whole = c->kind == KIND_COUNT || c->kind == KIND_BYTES;
    if (!(v >= c->min && v <= c->max) || (is_whole && v != floor(v)))
        return error_set(r->err, -EINVAL, "%s: %s.%s is %g; it must be %s from %g to %g %s",
                         r->where, in, c->key, v, is_whole ? "a whole number" : "a number", c->min,
                         c->max, c->unit);
    store(to, c, v);
    return 0;
}

/* Every constant of the table, and besides them `others` (NULL-terminated) and nothing else. */
static int read_constants(const struct reading *r, const json_t *object, const char *in,
                          const struct constant *table, const char *const *others, void *to)
{
    if (!json_is_object(object))
        return error_set(r->err, -EINVAL, "%s: %s is missing or no object", r->where, in);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        bool known = false;
        for (const struct constant *c = table; c->key != NULL; c++)
            known |= strcmp(key, c->key) == 0;
        for (size_t i = 0; others[i] != NULL; i++)
            known |= strcmp(key, others[i]) == 0;
        if (!known)
            return error_set(r->err, -EINVAL, "%s: %s has no constant \"%.64s\"", r->where, in,
                             key);
    }
    for (const struct constant *c = table; c->key != NULL; c++) {
        int n = read_constant(r, json_object_get(object, c->key), in, c, to);
        if (n < 0)
            return n;
    }
    return 0;
}

static int read_name(const struct reading *r, const json_t *object, const char *in, char *to)
{
    const char *name = json_string_value(json_object_get(object, "name"));
    if (name == NULL || name[0] == '\0' || strlen(name) >= PROFILE_NAME_BYTES)
        return error_set(r->err, -EINVAL, "%s: %s.name is a text of 1 to %d bytes", r->where, in,
                         PROFILE_NAME_BYTES - 1);
    memcpy(to, name, strlen(name) + 1);
    return 0;
}

static int read_backbone(const struct reading *r, const json_t *object, size_t index,
                         struct profile_backbone *b)
{
    static const char *const engines[PROFILE_ENGINES] = {"paged", "eager"};
    static const char *const others[] = {"name", "paged", "eager", NULL};
    static const char *const none[] = {NULL};
    char in[64];
    snprintf(in, sizeof in, "backbones[%zu]", index);
    int n = read_constants(r, object, in, backbone_constants, others, b);
    if (n == 0)
        n = read_name(r, object, in, b->name);
    for (int e = 0; n == 0 && e < PROFILE_ENGINES; e++) {
        const json_t *steps = json_object_get(object, engines[e]);
        if (steps == NULL && e == PROFILE_EAGER) {
            b->steps[e] = b->steps[PROFILE_PAGED];
            continue;
        }
        snprintf(in, sizeof in, "backbones[%zu].%s", index, engines[e]);
        n = read_constants(r, steps, in, step_constants, none, &b->steps[e]);
    }
    return n;
}

static int read_backbones(const struct reading *r, const json_t *root, struct profile *p)
{
    const json_t *list = json_object_get(root, "backbones");
    size_t count = json_array_size(list);
    if (count == 0 || count > PROFILE_BACKBONES_MAX)
        return error_set(r->err, -EINVAL, "%s: backbones is a list of 1 to %u", r->where,
                         PROFILE_BACKBONES_MAX);
    for (size_t i = 0; i < count; i++) {
        int n = read_backbone(r, json_array_get(list, i), i, &p->backbones[i]);
        if (n < 0)
            return n;
        for (size_t k = 0; k < i; k++)
            if (strcmp(p->backbones[k].name, p->backbones[i].name) == 0)
                return error_set(r->err, -EINVAL, "%s: two backbones are named %s", r->where,
                                 p->backbones[i].name);
    }
    p->backbone_count = (uint32_t)count;
    return 0;
}

static int check_whole(const struct reading *r, const struct profile *p)
{
    for (uint32_t i = 0; i < p->backbone_count; i++) {
        uint64_t least =
            p->backbones[i].bytes + p->backbones[i].work_bytes + p->worker_bytes + p->kv_step_bytes;
        if (least > p->device_bytes)
            return error_set(r->err, -EINVAL,
                             "%s: device.memory_bytes holds no process of %s: that takes %.0f",
                             r->where, p->backbones[i].name, (double)least);
    }
    return 0;
}

static int read_root(const struct reading *r, const json_t *root, struct profile *p)
{
    static const char *const keys[] = {"name", "about",   "prices",    "device",
                                       "node", "process", "backbones", NULL};
    static const struct constant nothing[] = {{0}};
    static const char *const device_others[] = {"name", NULL};
    static const char *const none[] = {NULL};
    const json_t *device = json_object_get(root, "device");
    int n = read_constants(r, root, "the profile", nothing, keys, p);
    if (n == 0)
        n = read_name(r, root, "the profile", p->name);
    if (n == 0 && !json_is_string(json_object_get(root, "about")))
        n = error_set(r->err, -EINVAL, "%s: about, a text, is missing", r->where);
    const char *prices = json_string_value(json_object_get(root, "prices"));
    p->is_gpu = prices != NULL && strcmp(prices, "gpu") == 0;
    if (n == 0 && !p->is_gpu && (prices == NULL || strcmp(prices, "cpu") != 0))
        n = error_set(r->err, -EINVAL, "%s: prices is \"gpu\" or \"cpu\"", r->where);
    if (n == 0)
        n = read_constants(r, device, "device", device_constants, device_others, p);
    if (n == 0)
        n = read_name(r, device, "device", p->device_name);
    if (n == 0)
        n = read_constants(r, json_object_get(root, "node"), "node", node_constants, none, p);
    if (n == 0)
        n = read_constants(r, json_object_get(root, "process"), "process", process_constants, none,
                           p);
    if (n == 0)
        n = read_backbones(r, root, p);
    return n == 0 ? check_whole(r, p) : n;
}

int profile_parse(struct profile *ret, const char *where, const char *json, size_t len,
                  struct error *err)
{
    json_error_t e;
    const struct reading r = {where, err};
    if (len > PROFILE_BYTES_MAX)
        return error_set(err, -E2BIG, "%s has more than %u bytes", where, PROFILE_BYTES_MAX);
    json_t *root = json_loadb(json, len, JSON_REJECT_DUPLICATES, &e);
    if (root == NULL)
        return error_set(err, -EINVAL, "%s, line %d: %s", where, e.line, e.text);
    struct profile p = {0};
    int n = read_root(&r, root, &p);
    json_decref(root);
    if (n == 0)
        *ret = p;
    return n;
}

/* --- where it is --- */

extern const char profiles_paper_l40s[], profiles_paper_l40s_end[];
extern const char profiles_h200[], profiles_h200_end[];

static const struct {
    const char *name, *begin, *end;
} shipped[] = {
    {"paper-l40s", profiles_paper_l40s, profiles_paper_l40s_end},
    {"h200", profiles_h200, profiles_h200_end},
};

const char *profile_shipped(size_t index)
{
    return index < sizeof shipped / sizeof shipped[0] ? shipped[index].name : NULL;
}

static int read_file(struct profile *ret, const char *path, struct error *err)
{
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return error_set(err, -errno, "cannot open the profile %s: %s", path, strerror(errno));
    char *text = malloc(PROFILE_BYTES_MAX + 1);
    size_t len = text == NULL ? 0 : fread(text, 1, PROFILE_BYTES_MAX + 1, f);
    int n = text == NULL ? error_set(err, -ENOMEM, "out of memory")
            : ferror(f)  ? error_set(err, -EIO, "cannot read %s", path)
                         : profile_parse(ret, path, text, len, err);
    free(text);
    fclose(f);
    return n;
}

int profile_read(struct profile *ret, const char *name, struct error *err)
{
    for (size_t i = 0; i < sizeof shipped / sizeof shipped[0]; i++)
        if (strcmp(name, shipped[i].name) == 0)
            return profile_parse(ret, name, shipped[i].begin,
                                 (size_t)(shipped[i].end - shipped[i].begin), err);
    if (strpbrk(name, "/.") == NULL)
        return error_set(
            err, -ENOENT,
            "there is no profile \"%s\": shipped are paper-l40s and h200, and a file is "
            "named with its path",
            name);
    return read_file(ret, name, err);
}
