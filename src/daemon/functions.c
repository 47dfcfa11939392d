/*
 * Names and numbers. A name's current generation takes requests; older ones only finish theirs.
 * The core speaks of functions and backbones by the numbers given here.
 */
#include "daemon/daemon.h"

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

static uint32_t backbone_number(struct daemon *d, const struct digest *digest, struct error *err)
{
    uint32_t free_index = SCHED_NONE;
    for (uint32_t i = 0; i < d->config.sched.backbones_max; i++) {
        struct backbone_slot *b = &d->backbones[i];
        if (b->used && digest_equal(&b->image.digest, digest))
            return i;
        /* A backbone without functions, process or memory may give its number away. */
        bool unused = !b->used || (b->functions == 0 && b->keeper == NULL && b->reader_fd < 0);
        for (uint32_t w = 0; unused && b->used && w < d->config.sched.workers_max; w++)
            unused = d->workers[w].proc == NULL || d->workers[w].backbone != i;
        if (unused && free_index == SCHED_NONE)
            free_index = i;
    }
    if (free_index == SCHED_NONE) {
        error_set(err, -ENOSPC, "%u backbones are deployed already, the limit; remove functions",
                  d->config.sched.backbones_max);
        return SCHED_NONE;
    }
    struct registry_image image;
    if (registry_get_image(d->registry, digest, &image, err) < 0)
        return SCHED_NONE;
    d->backbones[free_index] =
        (struct backbone_slot){.used = true, .image = image, .reader_fd = -1};
    return free_index;
}

int function_reserve(struct daemon *d, const struct registry_function *f,
                     struct function_numbers *ret, struct error *err)
{
    uint32_t index = 0;
    while (index < d->config.sched.functions_max && d->functions[index].used)
        index++;
    if (index == d->config.sched.functions_max)
        return error_set(err, -ENOSPC, "%u functions are deployed already, the limit", index);
    struct registry_image adapter = {.bytes = 0};
    if (f->has_adapter && registry_get_image(d->registry, &f->adapter, &adapter, err) < 0)
        return err->code;
    uint32_t backbone = backbone_number(d, &f->backbone, err);
    if (backbone == SCHED_NONE)
        return err->code;
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
    uint32_t *head = &d->names[bucket_of(d, f->name)];
    d->functions[index] = (struct function_entry){.used = true,
                                                  .current = true,
                                                  .name_next = *head,
                                                  .backbone = backbone,
                                                  .f = *f,
                                                  .adapter_bytes = n->adapter_bytes,
                                                  .adapter_rank = n->adapter_rank};
    *head = index;
    d->backbones[backbone].functions++;
    struct sched_event e = {.type = SCHED_DEPLOYED,
                            .function = index,
                            .backbone = backbone,
                            .owner = f->owner_id,
                            .isolation = f->isolation,
                            .bytes = d->backbones[backbone].image.bytes};
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
    sched_function_view(d->sched, index, &view);
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
    d->backbones[f->backbone].functions--;
    f->used = false;
}
