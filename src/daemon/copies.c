/*
 * Copies of images in memory: LOAD and DROP carried out. A backbone's keeper makes the memory,
 * fills it and holds it until it is killed; a zygote that maps it is there for as long, and with
 * either of them the copy goes. An adapter's memory is made here and held by its descriptor; the
 * stager, one process for all of them, fills it and seals it. Both compare digests; what they say
 * is believed when the seals are there, for then nobody can change the bytes any more.
 *
 * With a GPU there are two memories. A backbone in the GPU's has a keeper of its own, which fills
 * it from a copy below when there is one, and no zygote. One LOAD may make two copies: then the one
 * below comes first, and the core hears of both when the one above is there, or of none.
 */
#include "daemon/daemon.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/memfile.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

/* A zygote's own memory: tokenizer and template, read. */
#define ZYGOTE_BYTES_MAX (UINT64_C(512) << 20)

static const char *copy_text(const struct daemon *d, const struct copy_slot *c,
                             char to[FUNCTION_TEXT_BYTES])
{
    char hex[DIGEST_HEX_BYTES];
    digest_hex(&c->image, hex);
    if (c->backbone != SCHED_NONE)
        snprintf(to, FUNCTION_TEXT_BYTES, "backbone=%.12s name=%s", hex,
                 d->backbones[c->backbone].image.label);
    else
        snprintf(to, FUNCTION_TEXT_BYTES, "adapter=%.12s function=%s", hex,
                 d->functions[c->function].f.name);
    return to;
}

static void copy_event(struct daemon *d, const struct copy_slot *c, enum sched_event_type type)
{
    struct sched_event e = {.type = type, .copy = (uint32_t)(c - d->copies), .us = c->load_us};
    daemon_event(d, &e);
}

static void copy_clear(struct copy_slot *c)
{
    if (c->reader_fd >= 0)
        close(c->reader_fd);
    if (c->gpu_fd >= 0)
        close(c->gpu_fd);
    c->reader_fd = c->gpu_fd = -1;
    c->is_loaded = c->is_ready = false;
    c->used = false;
}

/* A copy that was made on the way goes with the one that it was made for. */
static void drop_below(struct daemon *d, struct copy_slot *c)
{
    if (c->host_copy == SCHED_NONE)
        return;
    struct copy_slot *below = &d->copies[c->host_copy];
    c->host_copy = SCHED_NONE;
    if (below->keeper != NULL)
        proc_abandon(below->keeper);
    below->keeper = NULL;
    copy_clear(below);
}

/* It is gone, or never was. */
static void copy_end(struct daemon *d, struct copy_slot *c)
{
    enum sched_event_type type = c->is_ready ? SCHED_COPY_DROPPED : SCHED_COPY_FAILED;
    drop_below(d, c);
    copy_clear(c);
    copy_event(d, c, type);
}

/* That it never will be there is the end of the one above, which says so to the core. */
static void copy_fail(struct daemon *d, struct copy_slot *c)
{
    struct copy_slot *top = c->above != SCHED_NONE ? &d->copies[c->above] : c;
    if (top->keeper != NULL)
        proc_kill(top->keeper);
    else
        copy_end(d, top);
}

static void copy_filled(struct copy_slot *c, const struct wire_loaded *l)
{
    c->is_loaded = true;
    c->load_us = l->load_us;
    c->page_bytes = l->page_bytes;
}

/* Whoever waits for it may use it. */
static void copy_ready(struct daemon *d, struct copy_slot *c)
{
    char text[FUNCTION_TEXT_BYTES];
    c->is_ready = true;
    if (c->host_copy != SCHED_NONE) {
        d->copies[c->host_copy].above = SCHED_NONE;
        d->copies[c->host_copy].is_ready = true;
    }
    c->host_copy = SCHED_NONE;
    if (c->backbone != SCHED_NONE)
        log_info("keeper", "loaded %s bytes=%llu ms=%.1f page_bytes=%u%s", copy_text(d, c, text),
                 (unsigned long long)c->bytes, (double)c->load_us / 1e3, c->page_bytes,
                 c->gpu_fd >= 0 ? " on=gpu" : "");
    else
        journal_put(d->journal, d->functions[c->function].f.name,
                    d->functions[c->function].f.generation, "adapter loaded bytes=%llu ms=%.2f",
                    (unsigned long long)c->bytes, (double)c->load_us / 1e3);
    copy_event(d, c, SCHED_COPY_LOADED);
}

static void say_refused(struct daemon *d, const struct copy_slot *c, const struct wire_record *r)
{
    char text[FUNCTION_TEXT_BYTES];
    log_error("keeper", "%s refused: %.*s", copy_text(d, c, text), (int)r->tail_bytes,
              (const char *)r->tail);
    if (((const struct wire_failed *)r->fixed)->status == EBADMSG)
        image_discard(d, &c->image);
}

/* --- zygotes --- */

static struct copy_slot *copy_of_zygote(struct daemon *d, const struct proc *p)
{
    for (uint32_t i = 0; i < d->config.sched.copies_max; i++) {
        if (d->copies[i].used && d->copies[i].zygote == p)
            return &d->copies[i];
    }
    return NULL;
}

static void zygote_record(void *context, struct proc *p, struct wire_cursor *wire,
                          const struct wire_record *r)
{
    struct daemon *d = context;
    struct copy_slot *c = copy_of_zygote(d, p);
    (void)wire;
    if (c == NULL || c->is_ready)
        return;
    if (r->type == WIRE_PREPARED) {
        c->load_us += ((const struct wire_prepared *)r->fixed)->prepare_us;
        copy_ready(d, c);
    } else if (r->type == WIRE_FAILED) {
        say_refused(d, c, r);
    }
}

static void zygote_exited(void *context, struct proc *p, const char *how)
{
    struct daemon *d = context;
    struct copy_slot *c = copy_of_zygote(d, p);
    if (c == NULL)
        return;
    char text[FUNCTION_TEXT_BYTES];
    log_info("zygote", "ended %s how=\"%s\"", copy_text(d, c, text), how);
    c->zygote = NULL;
    if (c->keeper != NULL)
        proc_kill(c->keeper);
}

/* Copies are made where the sandbox is whole; elsewhere workers are started one by one. */
static void start_zygote(struct daemon *d, struct copy_slot *c)
{
    struct error err = {0};
    struct proc_options o = {
        .role = SANDBOX_ZYGOTE,
        .number = (uint32_t)(c - d->copies),
        .memory_bytes_max = ZYGOTE_BYTES_MAX,
        .threads = 1,
        .events = {zygote_record, zygote_exited},
        .context = d,
    };
    bool is_whole = (d->sandbox_use & SANDBOX_NEEDED) == SANDBOX_NEEDED;
    int r = is_whole ? proc_start(&c->zygote, d->procs, &o, &err) : -ENOTSUP;
    if (r < 0) {
        if (is_whole)
            log_error("zygote", "cannot be started: %s", err.text);
        c->zygote = NULL;
        copy_ready(d, c);
        return;
    }
    struct wire_prepare prepare = {.backbone = c->image};
    proc_put(c->zygote, WIRE_PREPARE, &prepare, sizeof prepare, NULL, 0, c->reader_fd);
}

/* --- backbones --- */

static struct copy_slot *copy_of_keeper(struct daemon *d, const struct proc *p)
{
    for (uint32_t i = 0; i < d->config.sched.copies_max; i++) {
        if (d->copies[i].used && d->copies[i].keeper == p)
            return &d->copies[i];
    }
    return NULL;
}

static bool is_on_gpu(const struct daemon *d, const struct copy_slot *c)
{
    return d->config.has_gpu && c->place == 0;
}

static void order_load(const struct copy_slot *c, int image)
{
    struct wire_load load = {.digest = c->image, .bytes = c->bytes, .number = c->number};
    proc_put(c->keeper, WIRE_LOAD, &load, sizeof load, NULL, 0, image);
}

/* Of the host's memory: for its zygote, for the copy above it, or as it is. */
static void filled_on_host(struct daemon *d, struct copy_slot *c)
{
    if (c->above != SCHED_NONE)
        order_load(&d->copies[c->above], c->reader_fd);
    else if (d->config.has_gpu)
        copy_ready(d, c);
    else
        start_zygote(d, c);
}

static void take_filled(struct daemon *d, struct copy_slot *c, struct wire_cursor *wire,
                        const struct wire_record *r)
{
    bool on_gpu = is_on_gpu(d, c);
    c->reader_fd = wire_take_fd(wire, r, 0);
    c->gpu_fd = on_gpu ? wire_take_fd(wire, r, 1) : -1;
    if (c->reader_fd < 0 || !memfile_is_sealed(c->reader_fd) || (on_gpu && c->gpu_fd < 0)) {
        proc_kill(c->keeper);
        return;
    }
    copy_filled(c, r->fixed);
    if (!on_gpu) {
        filled_on_host(d, c);
        return;
    }
    c->load_us = clock_now_us() - c->began_us; /* with the copy below, and the driver's start */
    copy_ready(d, c);
}

static void keeper_record(void *context, struct proc *p, struct wire_cursor *wire,
                          const struct wire_record *r)
{
    struct daemon *d = context;
    struct copy_slot *c = copy_of_keeper(d, p);
    if (c == NULL)
        return;
    if (r->type == WIRE_LOADED && !c->is_loaded)
        take_filled(d, c, wire, r);
    else if (r->type == WIRE_FAILED)
        say_refused(d, c, r);
}

static void keeper_exited(void *context, struct proc *p, const char *how)
{
    struct daemon *d = context;
    struct copy_slot *c = copy_of_keeper(d, p);
    if (c == NULL)
        return;
    char text[FUNCTION_TEXT_BYTES];
    log_info("keeper", "ended %s how=\"%s\"", copy_text(d, c, text), how);
    c->keeper = NULL;
    if (c->zygote != NULL)
        proc_abandon(c->zygote);
    c->zygote = NULL;
    if (c->above != SCHED_NONE)
        copy_fail(d, c);
    else
        copy_end(d, c);
}

static int start_keeper(struct daemon *d, struct copy_slot *c, struct error *err)
{
    struct proc_options o = {
        .role = SANDBOX_KEEPER,
        .number = (uint32_t)(c - d->copies),
        .threads = 1,
        .has_gpu = is_on_gpu(d, c),
        .gpu = d->config.gpu,
        .events = {keeper_record, keeper_exited},
        .context = d,
    };
    return proc_start(&c->keeper, d->procs, &o, err);
}

/* The copy below is read first and the one above is filled from it; the GPU is opened meanwhile. */
static int load_backbone(struct daemon *d, struct copy_slot *c, const struct copy_slot *from,
                         int image, struct error *err)
{
    struct copy_slot *below = c->host_copy != SCHED_NONE ? &d->copies[c->host_copy] : NULL;
    int r = start_keeper(d, c, err);
    if (r == 0 && below != NULL)
        r = start_keeper(d, below, err);
    if (r == 0)
        order_load(below != NULL ? below : c, from != NULL ? from->reader_fd : image);
    return r;
}

/* --- adapters --- */

/* The memory is the same; what it counts for differs. */
static void share_memory(struct copy_slot *c, const struct copy_slot *from)
{
    c->reader_fd = fcntl(from->reader_fd, F_DUPFD_CLOEXEC, 3);
    c->is_loaded = c->reader_fd >= 0;
}

static void share_below(struct daemon *d, struct copy_slot *c)
{
    if (c->host_copy == SCHED_NONE)
        return;
    share_memory(&d->copies[c->host_copy], c);
    if (!d->copies[c->host_copy].is_loaded)
        log_warn("keeper", "too many descriptors: an adapter is kept on the GPU only");
}

static void stager_record(void *context, struct proc *p, struct wire_cursor *wire,
                          const struct wire_record *r)
{
    struct daemon *d = context;
    (void)wire;
    uint64_t number = 0;
    if (r->type == WIRE_LOADED)
        number = ((const struct wire_loaded *)r->fixed)->number;
    else if (r->type == WIRE_FAILED)
        number = ((const struct wire_failed *)r->fixed)->subject;
    struct copy_slot *c = NULL;
    for (uint32_t i = 0; number != 0 && c == NULL && i < d->config.sched.copies_max; i++) {
        if (d->copies[i].used && d->copies[i].number == number && !d->copies[i].is_loaded &&
            d->copies[i].backbone == SCHED_NONE)
            c = &d->copies[i];
    }
    if (c == NULL)
        return;
    if (r->type == WIRE_FAILED) {
        say_refused(d, c, r);
        copy_end(d, c);
    } else if (memfile_is_sealed(c->reader_fd)) {
        copy_filled(c, r->fixed);
        share_below(d, c);
        copy_ready(d, c);
    } else {
        proc_kill(p);
    }
}

static void stager_exited(void *context, struct proc *p, const char *how)
{
    struct daemon *d = context;
    log_error("keeper", "the stager ended pid=%d how=\"%s\"", proc_pid(p), how);
    d->stager = NULL;
    for (uint32_t i = 0; i < d->config.sched.copies_max; i++) {
        struct copy_slot *c = &d->copies[i];
        if (c->used && c->backbone == SCHED_NONE && !c->is_loaded && c->above == SCHED_NONE)
            copy_end(d, c);
    }
}

static int need_stager(struct daemon *d, struct error *err)
{
    struct proc_options o = {
        .role = SANDBOX_STAGER,
        .threads = 1,
        .events = {stager_record, stager_exited},
        .context = d,
    };
    return d->stager != NULL ? 0 : proc_start(&d->stager, d->procs, &o, err);
}

static int load_adapter(struct daemon *d, struct copy_slot *c, int image, struct error *err)
{
    int r = need_stager(d, err);
    if (r < 0)
        return r;
    cleanup_fd int memory = memfile_create("sllora-adapter", 0, c->bytes);
    if (memory < 0)
        return error_set(err, memory, "no memory for an adapter of %llu bytes: %s",
                         (unsigned long long)c->bytes, strerror(-memory));
    r = memfile_reader(memory, &c->reader_fd, err);
    if (r < 0)
        return r;
    struct wire_target target = {0};
    struct wire_load load = {.digest = c->image, .bytes = c->bytes, .number = c->number};
    proc_put(d->stager, WIRE_TARGET, &target, sizeof target, NULL, 0, memory);
    proc_put(d->stager, WIRE_LOAD, &load, sizeof load, NULL, 0, image);
    return 0;
}

/* --- actions --- */

static struct copy_slot *copy_begin(struct daemon *d, const struct sched_action *a, uint32_t index,
                                    uint32_t place)
{
    struct copy_slot *c = &d->copies[index];
    assert(!c->used);
    *c = (struct copy_slot){.used = true,
                            .place = place,
                            .host_copy = SCHED_NONE,
                            .above = SCHED_NONE,
                            .backbone = a->backbone,
                            .function = a->function,
                            .reader_fd = -1,
                            .gpu_fd = -1,
                            .began_us = clock_now_us(),
                            .number = ++d->load_sequence};
    if (a->backbone != SCHED_NONE) {
        c->image = d->backbones[a->backbone].image.digest;
        c->bytes = d->backbones[a->backbone].image.bytes;
    } else {
        c->image = d->functions[a->function].f.adapter;
        c->bytes = d->functions[a->function].adapter_bytes;
    }
    return c;
}

/* The copy in that place; NULL: it has gone meanwhile, and the disk has it. */
static const struct copy_slot *copy_in(const struct daemon *d, const struct sched_action *a)
{
    for (uint32_t i = 0; a->from != SCHED_NONE && i < d->config.sched.copies_max; i++) {
        const struct copy_slot *c = &d->copies[i];
        if (c->used && c->is_ready && c->place == a->from && c->backbone == a->backbone &&
            c->function == a->function && c->reader_fd >= 0)
            return c;
    }
    return NULL;
}

void copies_load(struct daemon *d, const struct sched_action *a)
{
    struct copy_slot *c = copy_begin(d, a, a->copy, a->place);
    bool is_backbone = a->backbone != SCHED_NONE;
    const struct copy_slot *from = copy_in(d, a);
    if (a->host_copy != SCHED_NONE) {
        copy_begin(d, a, a->host_copy, host_place(d))->above = a->copy;
        c->host_copy = a->host_copy;
    }
    if (from != NULL && !is_backbone) {
        share_memory(c, from);
        from = NULL; /* too many descriptors, or done */
    }
    if (c->is_loaded) {
        copy_ready(d, c);
        return;
    }
    struct error err = {0};
    cleanup_fd int image = from == NULL ? image_open_file(d, &c->image, &err) : -1;
    int r = from == NULL ? image : 0;
    if (r >= 0)
        r = is_backbone ? load_backbone(d, c, from, image, &err) : load_adapter(d, c, image, &err);
    if (r >= 0)
        return;
    char text[FUNCTION_TEXT_BYTES];
    log_error("keeper", "%s cannot be loaded: %s", copy_text(d, c, text), err.text);
    copy_fail(d, c);
}

void copies_drop(struct daemon *d, const struct sched_action *a)
{
    struct copy_slot *c = &d->copies[a->copy];
    if (!c->used)
        return; /* its end is an event already */
    if (c->keeper != NULL)
        proc_kill(c->keeper);
    else
        copy_end(d, c);
}

/* Above first: what is made on the way goes with it. */
void copies_close(struct daemon *d)
{
    for (uint32_t i = 0; i < d->config.sched.copies_max; i++) {
        if (d->copies[i].used && d->copies[i].above == SCHED_NONE)
            copy_end(d, &d->copies[i]);
    }
}
