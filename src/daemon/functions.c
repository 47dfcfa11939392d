/*
 * Names and numbers. A name's current generation takes requests; older ones only finish theirs.
 * The core speaks of functions and backbones by the numbers given here.
 */
#include "daemon/daemon.h"

#include "base/clock.h"
#include "base/log.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static uint32_t bucket_of(const struct daemon *d, const char *name)
{
    uint32_t h = 2166136261u; /* FNV-1a */
    for (; *name != '\0'; name++)
        h = (h ^ (uint8_t)*name) * 16777619u;
    return h & (d->name_buckets - 1);
}

uint32_t function_find(const struct daemon *d, const char *name)
{
    uint32_t i = d->names[bucket_of(d, name)];
    while (i != SCHED_NONE && strcmp(d->functions[i].f.name, name) != 0)
        i = d->functions[i].name_next;
    return i;
}

bool function_name_is_valid(const char *name)
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.");
    return n > 0 && n < REGISTRY_NAME_BYTES && name[n] == '\0' && name[0] != '.';
}

const char *function_text(const struct registry_function *f, char to[FUNCTION_TEXT_BYTES])
{
    char backbone[DIGEST_HEX_BYTES], adapter[DIGEST_HEX_BYTES] = "none";
    digest_hex(&f->backbone, backbone);
    if (f->has_adapter)
        digest_hex(&f->adapter, adapter);
    snprintf(to, FUNCTION_TEXT_BYTES, "function=%s generation=%llu backbone=%.12s adapter=%.12s",
             f->name, (unsigned long long)f->generation, backbone, adapter);
    return to;
}

/* --- owners --- */

static uint32_t owner_number(const struct daemon *d, uint32_t id)
{
    uint32_t free_index = SCHED_NONE;
    for (uint32_t i = 0; i < d->config.sched.owners_max; i++) {
        if (d->owners[i].functions > 0 && d->owners[i].id == id)
            return i;
        if (d->owners[i].functions == 0 && free_index == SCHED_NONE)
            free_index = i;
    }
    return free_index;
}

static void tell_owner(struct daemon *d, uint32_t index, uint32_t requests_max)
{
    struct sched_event e = {.type = SCHED_OWNER,
                            .owner = index,
                            .tokens =
                                requests_max > 0 ? requests_max : d->config.sched.owner_live_max};
    daemon_event(d, &e);
}

void owner_limit(struct daemon *d, uint32_t id, uint32_t requests_max)
{
    uint32_t index = owner_number(d, id);
    if (index != SCHED_NONE && d->owners[index].functions > 0)
        tell_owner(d, index, requests_max);
}

static void owner_enter(struct daemon *d, uint32_t index, const struct registry_function *f)
{
    struct owner_slot *o = &d->owners[index];
    if (o->functions++ > 0)
        return;
    o->id = f->owner_id;
    tell_owner(d, index, f->owner_requests_max);
}

/* --- functions --- */

int function_reserve(struct daemon *d, const struct registry_function *f,
                     struct function_numbers *ret, struct error *err)
{
    uint32_t index = 0;
    while (index < d->config.sched.functions_max && d->functions[index].used)
        index++;
    if (index == d->config.sched.functions_max)
        return error_set(err, -ENOSPC, "%u functions are deployed already, the limit", index);
    struct registry_image adapter = {.bytes = 0};
    if (f->has_adapter && (registry_get_image(d->registry, &f->adapter, &adapter, err) < 0 ||
                           backbone_check_dtype(d, adapter.dtype, "--adapter-quant", err) < 0))
        return err->code;
    uint32_t backbone = backbone_number(d, &f->backbone, err);
    if (backbone == SCHED_NONE)
        return err->code;
    /* An owner who is new to the registry has no id yet; there is a slot for him or there is not.
     */
    uint32_t owner = owner_number(d, f->owner_id);
    if (owner == SCHED_NONE)
        return error_set(err, -ENOSPC, "%u owners have functions already, the limit",
                         d->config.sched.owners_max);
    *ret = (struct function_numbers){index, backbone, adapter.bytes, adapter.rank};
    return 0;
}

void function_add(struct daemon *d, const struct function_numbers *n,
                  const struct registry_function *f)
{
    uint32_t index = n->function;
    uint32_t backbone = n->backbone;
    assert(!d->functions[index].used);
    uint32_t old = function_find(d, f->name);
    if (old != SCHED_NONE)
        function_retire(d, old);
    uint32_t owner = owner_number(d, f->owner_id);
    uint32_t *head = &d->names[bucket_of(d, f->name)];
    d->functions[index] = (struct function_entry){.used = true,
                                                  .current = true,
                                                  .name_next = *head,
                                                  .backbone = backbone,
                                                  .owner = owner,
                                                  .f = *f,
                                                  .adapter_bytes = n->adapter_bytes,
                                                  .adapter_rank = n->adapter_rank,
                                                  .idle_from_us = clock_wall_us()};
    *head = index;
    d->backbones[backbone].functions++;
    owner_enter(d, owner, f);
    journal_put(d->journal, f->name, f->generation, "deployed owner=%s", f->owner);
    struct sched_event e = {.type = SCHED_DEPLOYED,
                            .function = index,
                            .backbone = backbone,
                            .owner = owner,
                            .isolation = f->isolation,
                            .bytes = n->adapter_bytes,
                            .us = f->slo_ttft_us,
                            .more_us = f->slo_tpot_us};
    daemon_event(d, &e);
}

void function_retire(struct daemon *d, uint32_t index)
{
    struct function_entry *f = &d->functions[index];
    assert(f->used);
    assert(f->current);
    uint32_t *link = &d->names[bucket_of(d, f->f.name)];
    while (*link != index)
        link = &d->functions[*link].name_next;
    *link = f->name_next;
    f->current = false;
    journal_put(d->journal, f->f.name, f->f.generation, "removed: it takes no more requests");
    struct sched_event e = {.type = SCHED_REMOVED, .function = index};
    daemon_event(d, &e);
}

int function_remove(struct daemon *d, uint32_t index, uint32_t *ret_finishing, struct error *err)
{
    char text[FUNCTION_TEXT_BYTES];
    struct sched_function_view view;
    const struct registry_function *f = &d->functions[index].f;
    int r = registry_remove_function(d->registry, f->name, err);
    if (r < 0)
        return r;
    sched_function_view(d->sched, clock_now_us(), index, &view);
    log_info("functions", "removed %s owner=%s finishing=%u", function_text(f, text), f->owner,
             view.waiting + view.running);
    function_retire(d, index);
    if (ret_finishing != NULL)
        *ret_finishing = view.waiting + view.running;
    return 0;
}

void function_forget(struct daemon *d, uint32_t index)
{
    struct function_entry *f = &d->functions[index];
    assert(f->used);
    assert(!f->current);
    assert(d->backbones[f->backbone].functions > 0);
    assert(d->owners[f->owner].functions > 0);
    d->backbones[f->backbone].functions--;
    d->owners[f->owner].functions--;
    f->used = false;
}
