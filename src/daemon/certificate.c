/*
 * The certificate of an adapter: the packer's description of what it packed (tensors, scale per
 * module, parameters) and of what the image did to the logits of a probe prompt. Kept in the
 * registry beside the image, whose digest it names.
 */
#include "daemon/deploy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static json_t *probe_json(const struct wire_packed *p)
{
    return json_pack("{s:I, s:f, s:f, s:I, s:f}", "tokens", (json_int_t)p->probe_tokens,
                     "max_logit_change", p->logit_change, "mean_kl", p->mean_kl, "argmax_changed",
                     (json_int_t)p->argmax_changed, "ms", (double)p->probe_us / 1e3);
}

/* Moves the value of `from` to `to`. */
static int rename_key(json_t *o, const char *from, const char *to)
{
    int r = json_object_set(o, to, json_object_get(o, from));
    return r < 0 ? r : json_object_del(o, from);
}

int certificate_make(const struct wire_packed *p, const void *description, size_t bytes,
                     const struct digest *backbone, json_t **ret, struct error *err)
{
    char hex[DIGEST_HEX_BYTES];
    json_t *o = json_loadb(description, bytes, JSON_REJECT_DUPLICATES, NULL);
    json_t *modules = json_object_get(o, "modules");
    digest_hex(backbone, hex);
    const char *named = json_string_value(json_object_get(o, "backbone"));
    int r = named == NULL || strcmp(named, hex) != 0 || !json_is_array(modules) ? -1 : 0;
    digest_hex(&p->digest, hex);
    if (r == 0)
        r = json_object_set_new(o, "adapter", json_string(hex));
    if (r == 0)
        r = rename_key(o, "matched", "tensors_matched");
    if (r == 0)
        r = rename_key(o, "unmatched", "tensors_unmatched");
    if (r == 0)
        r = json_object_set_new(o, "bytes", json_integer((json_int_t)p->bytes));
    if (r == 0) /* NULL, and so refused, when a number is not finite */
        r = json_object_set_new(o, "probe", probe_json(p));
    if (r < 0) {
        json_decref(o);
        return error_set(err, -EPROTO, "the packer's description of the adapter is damaged");
    }
    json_object_del(o, "kind");
    json_object_del(o, "tensors"); /* of the image; the files' count is what a person can check */
    *ret = o;
    return 0;
}

int certificate_read(struct registry *r, const struct digest *adapter, json_t **ret,
                     struct error *err)
{
    char *text = NULL;
    int n = registry_get_certificate(r, adapter, &text, err);
    if (n < 0)
        return n;
    json_t *o = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    free(text);
    if (o == NULL)
        return error_set(err, -EBADMSG, "the registry's certificate of the adapter is damaged");
    *ret = o;
    return 0;
}

uint32_t certificate_rank(const json_t *certificate)
{
    return (uint32_t)json_integer_value(json_object_get(certificate, "rank_max"));
}

int certificate_check_effect(const json_t *certificate, struct error *err)
{
    const json_t *probe = json_object_get(certificate, "probe");
    if (json_number_value(json_object_get(probe, "max_logit_change")) > 0)
        return 0;
    return error_set(err, -EINVAL,
                     "the adapter changes nothing: on a probe prompt of %lld tokens every logit is "
                     "the bare backbone's, as before training (lora_B zero) or with lora_alpha 0; "
                     "deploy it all the same with --allow-noop",
                     json_integer_value(json_object_get(probe, "tokens")));
}
