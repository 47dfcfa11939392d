/*
 * POST /admin/functions: a deploy over the admin socket. Answers with lines of progress and the
 * function's identity with its certificate, or with an error object.
 */
#include "daemon/deploy.h"

#include <errno.h>
#include <string.h>

#define MS_MIN 0.001
#define MS_MAX 1e9

static int read_string(const json_t *body, const char *key, char *to, size_t bytes, bool needed,
                       struct error *err)
{
    const json_t *v = json_object_get(body, key);
    to[0] = '\0';
    if (v == NULL && !needed)
        return 0;
    if (!json_is_string(v) || json_string_length(v) == 0)
        return error_set(err, -EINVAL, "\"%s\" must be a non-empty string", key);
    if (json_string_length(v) >= bytes || strlen(json_string_value(v)) != json_string_length(v))
        return error_set(err, -EINVAL, "\"%s\" is too long or holds a NUL", key);
    snprintf(to, bytes, "%s", json_string_value(v));
    return 0;
}

static int read_isolation(const char *word, uint32_t *ret, struct error *err)
{
    static const struct {
        const char *word;
        enum route_isolation isolation;
    } words[] = {{"function", ROUTE_FUNCTION}, {"owner", ROUTE_OWNER}, {"shared", ROUTE_SHARED}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strcmp(word, words[i].word) == 0) {
            *ret = words[i].isolation;
            return 0;
        }
    }
    return error_set(err, -EINVAL, "isolation is function, owner or shared, not \"%s\"", word);
}

static int read_dtype(const char *word, uint32_t *ret, struct error *err)
{
    if (image_quant_parse(word, ret))
        return 0;
    return error_set(err, -EINVAL, "quant is " IMAGE_QUANT_WORDS ", not \"%s\"", word);
}

/* Absent: as is usual on such a backbone. */
static int read_adapter_dtype(const char *word, struct deploy_order *o, struct error *err)
{
    o->adapter_dtype = image_adapter_quant(o->dtype);
    if (word[0] == '\0' || image_adapter_quant_parse(word, &o->adapter_dtype))
        return 0;
    return error_set(err, -EINVAL, "adapter_quant is " IMAGE_ADAPTER_QUANT_WORDS ", not \"%s\"",
                     word);
}

static int read_conditions(const json_t *body, struct deploy_order *o, struct error *err)
{
    const json_t *noop = json_object_get(body, "allow_noop");
    const json_t *generation = json_object_get(body, "if_generation");
    if (noop != NULL && !json_is_boolean(noop))
        return error_set(err, -EINVAL, "\"allow_noop\" must be true or false");
    if (generation != NULL && (!json_is_integer(generation) || json_integer_value(generation) < 0))
        return error_set(err, -EINVAL,
                         "\"if_generation\" must be the generation that is there, or 0 for none");
    o->allow_noop = json_is_true(noop);
    if (generation != NULL)
        o->if_generation = (uint64_t)json_integer_value(generation);
    return 0;
}

/* A number of milliseconds; absent: none. */
static int read_ms(const json_t *body, const char *key, uint64_t *ret_us, struct error *err)
{
    const json_t *v = json_object_get(body, key);
    if (v == NULL)
        return 0;
    double ms = json_number_value(v);
    if (!json_is_number(v) || !(ms >= MS_MIN && ms <= MS_MAX))
        return error_set(err, -EINVAL, "\"%s\" must be a number of milliseconds, %g to %g", key,
                         MS_MIN, MS_MAX);
    *ret_us = (uint64_t)(ms * 1e3);
    return 0;
}

static int check_names(const struct deploy_order *o, struct error *err)
{
    if (!function_name_is_valid(o->f.name))
        return error_set(err, -EINVAL,
                         "\"%s\" is no function name: 1 to 64 letters, digits, '-', '_', '.', not "
                         "beginning with '.'",
                         o->f.name);
    if (!function_name_is_valid(o->f.owner))
        return error_set(err, -EINVAL,
                         "\"%s\" is no owner name: 1 to 64 letters, digits, '-', '_', '.', not "
                         "beginning with '.'",
                         o->f.owner);
    if (o->backbone_dir[0] != '/' || (o->adapter_dir[0] != '\0' && o->adapter_dir[0] != '/'))
        return error_set(err, -EINVAL, "backbone and adapter must be absolute paths");
    return 0;
}

static int read_order(struct deploy_order *o, const json_t *body, struct error *err)
{
    char isolation[16], quant[16], adapter_quant[16];
    if (!json_is_object(body))
        return error_set(err, -EINVAL, "the body must be a JSON object");
    int r = read_string(body, "name", o->f.name, sizeof o->f.name, true, err);
    if (r == 0)
        r = read_string(body, "owner", o->f.owner, sizeof o->f.owner, false, err);
    if (r == 0 && o->f.owner[0] == '\0')
        snprintf(o->f.owner, sizeof o->f.owner, "default");
    if (r == 0)
        r = read_string(body, "backbone", o->backbone_dir, sizeof o->backbone_dir, true, err);
    if (r == 0)
        r = read_string(body, "adapter", o->adapter_dir, sizeof o->adapter_dir, false, err);
    if (r == 0)
        r = read_string(body, "isolation", isolation, sizeof isolation, false, err);
    if (r == 0)
        r = read_isolation(isolation[0] != '\0' ? isolation : "owner", &o->f.isolation, err);
    if (r == 0)
        r = read_string(body, "quant", quant, sizeof quant, false, err);
    if (r == 0)
        r = read_dtype(quant[0] != '\0' ? quant : "bf16", &o->dtype, err);
    if (r == 0)
        r = read_string(body, "adapter_quant", adapter_quant, sizeof adapter_quant, false, err);
    if (r == 0)
        r = read_adapter_dtype(adapter_quant, o, err);
    if (r == 0 && adapter_quant[0] != '\0' && o->adapter_dir[0] == '\0')
        r = error_set(err, -EINVAL,
                      "adapter_quant says how an adapter is kept, and there is none: "
                      "name one with --adapter, or leave it out");
    if (r == 0)
        r = read_ms(body, "slo_ttft_ms", &o->f.slo_ttft_us, err);
    if (r == 0)
        r = read_ms(body, "slo_tpot_ms", &o->f.slo_tpot_us, err);
    if (r == 0)
        r = read_conditions(body, o, err);
    if (r == 0)
        r = check_names(o, err);
    return r;
}

/* --- answers --- */

static void tell_progress(struct exchange *x, const char *part, uint64_t done, uint64_t total)
{
    exchange_line(x, json_pack("{s:s, s:s, s:I, s:I}", "state", "packing", "part", part, "done",
                               (json_int_t)done, "total", (json_int_t)total));
}

static void tell_deployed(struct exchange *x, const struct deploy_result *r)
{
    json_t *adapter = r->f->has_adapter ? digest_json(&r->f->adapter) : json_null();
    exchange_line(x, json_pack("{s:s, s:s, s:s, s:I, s:o, s:o, s:O?, s:O, s:f}", "state",
                               "deployed", "name", r->f->name, "owner", r->f->owner, "generation",
                               (json_int_t)r->f->generation, "backbone",
                               digest_json(&r->f->backbone), "adapter", adapter, "certificate",
                               r->certificate, "warnings", r->warnings, "ms", r->took_ms));
    exchange_lines_end(x);
}

static void tell_failed(struct exchange *x, int code, const char *message)
{
    exchange_error(x, deploy_status(code), code == -ESTALE ? "generation_mismatch" : NULL, NULL, 0,
                   message);
}

static const struct deploy_events events = {tell_progress, tell_deployed, tell_failed};

void admin_deploy(struct daemon *d, struct exchange *x, const json_t *body)
{
    struct error err = {0};
    struct deploy_order order = {.adapter_root_fd = -1, .if_generation = REGISTRY_ANY_GENERATION};
    if (!deploy_has_room(d))
        exchange_error(x, 429, "too_many_deploys", NULL, 1,
                       "too many deploys are running; try again when one is done");
    else if (read_order(&order, body, &err) < 0)
        exchange_error(x, 400, NULL, NULL, 0, err.text);
    else
        deploy_start(d, x, &order, &events);
}
