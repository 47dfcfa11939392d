/*
 * vLLM's endpoints for adapters, for clients that know them. Loading is a deploy like every other,
 * of files below the operator's --lora-root, on a backbone that is deployed already, as a function
 * of an owner of their own, so in a process of their own. What the operator deployed for others is
 * neither listed nor touched.
 */
#include "daemon/deploy.h"

#include <errno.h>
#include <string.h>

#define OWNER_LORA "lora"

/* What a request to load names; borrowed from its body. */
struct lora_names {
    const char *name;
    const char *path;
    const char *base; /* NULL: not given */
    bool in_place;
};

static void refuse(struct exchange *x, int status, const char *code, const char *param,
                   const char *message)
{
    exchange_error(x, status, code, param, 0, message);
}

static bool was_loaded_here(const struct registry_function *f)
{
    return f->has_adapter && strcmp(f->owner, OWNER_LORA) == 0;
}

/* --- which backbone --- */

static bool is_deployed(const struct daemon *d, uint32_t backbone)
{
    return d->backbones[backbone].used && d->backbones[backbone].functions > 0;
}

/* By digest, by the name of its directory, or as the bare function of that name. */
static bool is_meant(const struct daemon *d, uint32_t backbone, const char *base)
{
    const struct registry_image *image = &d->backbones[backbone].image;
    char hex[DIGEST_HEX_BYTES];
    digest_hex(&image->digest, hex);
    if (base == NULL || strcmp(base, hex) == 0 || strcmp(base, image->label) == 0)
        return true;
    uint32_t function = function_find(d, base);
    return function != SCHED_NONE && !d->functions[function].f.has_adapter &&
           d->functions[function].backbone == backbone;
}

static int find_backbone(const struct daemon *d, const char *base,
                         const struct registry_image **ret, struct error *err)
{
    uint32_t found = 0;
    for (uint32_t i = 0; i < d->config.sched.backbones_max; i++) {
        if (!is_deployed(d, i) || !is_meant(d, i, base))
            continue;
        *ret = &d->backbones[i].image;
        found++;
    }
    if (found == 1)
        return 0;
    if (base == NULL && found == 0)
        return error_set(err, -ENOENT,
                         "no backbone is deployed: sllora deploy NAME --backbone DIR makes one");
    if (found == 0)
        return error_set(err, -ENOENT, "no backbone that is deployed is called '%.128s'", base);
    if (base == NULL)
        return error_set(err, -EINVAL,
                         "%u backbones are deployed: say with 'base_model_name' which one", found);
    return error_set(err, -EINVAL, "%u backbones are called '%.128s': say which one by its digest",
                     found, base);
}

/* --- load --- */

static const char *string_of(const json_t *body, const char *key)
{
    const json_t *v = json_object_get(body, key);
    const char *s = json_string_value(v);
    return s != NULL && s[0] != '\0' && strlen(s) == json_string_length(v) ? s : NULL;
}

/* What is under the name may be replaced: nothing, or an adapter that was loaded here. */
static bool check_name(struct daemon *d, struct exchange *x, const struct lora_names *n,
                       uint64_t *ret_generation)
{
    char message[512];
    uint32_t index = function_find(d, n->name);
    *ret_generation = 0;
    if (!function_name_is_valid(n->name)) {
        refuse(x, 400, "invalid_name", "lora_name",
               "'lora_name' must be 1 to 64 letters, digits, '-', '_', '.', not beginning with "
               "'.'");
        return false;
    }
    if (index == SCHED_NONE)
        return true;
    const struct registry_function *f = &d->functions[index].f;
    *ret_generation = f->generation;
    if (!was_loaded_here(f)) {
        snprintf(message, sizeof message,
                 "The name '%s' is taken by a function that was not loaded here.", n->name);
        refuse(x, 403, "name_taken", "lora_name", message);
        return false;
    }
    if (!n->in_place) {
        snprintf(message, sizeof message,
                 "The lora adapter '%s' has already been loaded. If you want to load the adapter "
                 "in place, set 'load_inplace' to True.",
                 n->name);
        refuse(x, 400, "lora_adapter_already_loaded", "lora_name", message);
        return false;
    }
    return true;
}

static void tell_loaded(struct exchange *x, const struct deploy_result *r)
{
    char text[128];
    snprintf(text, sizeof text, "Success: LoRA adapter '%s' added successfully.", r->f->name);
    exchange_text(x, 200, text);
}

static void tell_failed(struct exchange *x, int code, const char *message)
{
    if (code == -EACCES)
        refuse(x, 403, "adapter_path_forbidden", "lora_path", message);
    else if (code == -ENOENT)
        refuse(x, 404, "lora_adapter_not_found", "lora_path", message);
    else
        refuse(x, deploy_status(code), code == -ESTALE ? "generation_mismatch" : "lora_load_failed",
               NULL, message);
}

static const struct deploy_events events = {NULL, tell_loaded, tell_failed};

static bool read_names(struct exchange *x, const json_t *body, struct lora_names *n)
{
    const json_t *in_place = json_object_get(body, "load_inplace");
    const json_t *base = json_object_get(body, "base_model_name");
    *n = (struct lora_names){.name = string_of(body, "lora_name"),
                             .path = string_of(body, "lora_path"),
                             .base = string_of(body, "base_model_name"),
                             .in_place = json_is_true(in_place)};
    if (n->name == NULL || n->path == NULL)
        refuse(x, 400, NULL, n->name == NULL ? "lora_name" : "lora_path",
               "Both 'lora_name' and 'lora_path' must be provided.");
    else if (in_place != NULL && !json_is_boolean(in_place))
        refuse(x, 400, NULL, "load_inplace", "'load_inplace' must be true or false.");
    else if (base != NULL && !json_is_null(base) && n->base == NULL)
        refuse(x, 400, NULL, "base_model_name", "'base_model_name' must be a non-empty string.");
    else
        return true;
    return false;
}

static void load(struct daemon *d, struct exchange *x, const json_t *body)
{
    struct lora_names n;
    struct error err = {0};
    struct deploy_order o = {.has_backbone = true, .f.isolation = ROUTE_OWNER};
    const struct registry_image *backbone = NULL;
    if (!read_names(x, body, &n) || !check_name(d, x, &n, &o.if_generation))
        return;
    int r = find_backbone(d, n.base, &backbone, &err);
    if (r < 0) {
        refuse(x, r == -ENOENT ? 404 : 400, NULL, "base_model_name", err.text);
        return;
    }
    o.f.backbone = backbone->digest;
    o.adapter_dtype = image_adapter_quant(backbone->dtype);
    r = roots_resolve(&d->lora_roots, n.path, &o.adapter_root_fd, o.adapter_dir, &err);
    if (r < 0) {
        tell_failed(x, r, err.text);
        return;
    }
    snprintf(o.f.name, sizeof o.f.name, "%s", n.name);
    snprintf(o.f.owner, sizeof o.f.owner, "%s", OWNER_LORA);
    if (deploy_has_room(d))
        deploy_start(d, x, &o, &events);
    else
        exchange_error(x, 429, "too_many_deploys", NULL, 1, "too many adapters are being loaded");
}

/* --- unload and list --- */

static void unload(struct daemon *d, struct exchange *x, const json_t *body)
{
    const char *name = string_of(body, "lora_name");
    struct error err = {0};
    char message[512];
    if (name == NULL) {
        refuse(x, 400, NULL, "lora_name",
               "'lora_name' needs to be provided to unload a LoRA adapter.");
        return;
    }
    uint32_t index = function_find(d, name);
    if (index == SCHED_NONE || !was_loaded_here(&d->functions[index].f)) {
        snprintf(message, sizeof message, "The lora adapter '%.64s' cannot be found.", name);
        refuse(x, 404, "lora_adapter_not_found", "lora_name", message);
        return;
    }
    if (function_remove(d, index, NULL, &err) < 0) {
        refuse(x, 500, NULL, NULL, err.text);
        return;
    }
    snprintf(message, sizeof message, "Success: LoRA adapter '%s' removed successfully.", name);
    exchange_text(x, 200, message);
}

static void list(const struct daemon *d, struct exchange *x)
{
    json_t *data = json_array();
    for (uint32_t i = 0; i < d->config.sched.functions_max; i++) {
        const struct function_entry *f = &d->functions[i];
        if (!f->used || !f->current || !was_loaded_here(&f->f))
            continue;
        json_array_append_new(
            data, json_pack("{s:s, s:o, s:{s:s, s:o}, s:I, s:I}", "name", f->f.name, "digest",
                            digest_json(&f->f.adapter), "backbone", "name",
                            d->backbones[f->backbone].image.label, "digest",
                            digest_json(&f->f.backbone), "generation", (json_int_t)f->f.generation,
                            "rank", (json_int_t)f->adapter_rank));
    }
    exchange_json(x, 200, json_pack("{s:s, s:o}", "object", "list", "data", data));
}

void lora_request(void *context, struct exchange *x, enum lora_verb verb, const json_t *body)
{
    struct daemon *d = context;
    exchange_set_context(x, NULL);
    if (d->lora_roots.count == 0)
        refuse(x, 403, "lora_loading_disabled", NULL,
               "Clients may not load adapters here. The operator allows it below a directory: "
               "sllora serve --lora-root DIR");
    else if (verb == LORA_LOAD)
        load(d, x, body);
    else if (verb == LORA_UNLOAD)
        unload(d, x, body);
    else
        list(d, x);
}
