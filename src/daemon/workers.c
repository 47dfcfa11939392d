/*
 * Keepers and workers: the core's actions on them carried out, their records turned into events.
 * A worker is made for one domain and dies with it; nothing of it is reused.
 */
#include "daemon/daemon.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static uint32_t worker_index(const struct daemon *d, const struct proc *p)
{
    for (uint32_t i = 0; i < d->config.sched.workers_max; i++) {
        if (d->workers[i].proc == p)
            return i;
    }
    return SCHED_NONE;
}

static struct backbone_slot *backbone_of_keeper(struct daemon *d, const struct proc *p)
{
    for (uint32_t i = 0; i < d->config.sched.backbones_max; i++) {
        if (d->backbones[i].used && d->backbones[i].keeper == p)
            return &d->backbones[i];
    }
    return NULL;
}

/* --- keeper --- */

#define BACKBONE_TEXT_BYTES 192

/* For log lines, as function_text. */
static const char *backbone_text(const struct backbone_slot *b, char to[BACKBONE_TEXT_BYTES])
{
    char hex[DIGEST_HEX_BYTES];
    digest_hex(&b->image.digest, hex);
    snprintf(to, BACKBONE_TEXT_BYTES, "backbone=%.12s name=%s", hex, b->image.label);
    return to;
}

static void backbone_event(struct daemon *d, const struct backbone_slot *b,
                           enum sched_event_type type)
{
    struct sched_event e = {
        .type = type, .backbone = (uint32_t)(b - d->backbones), .bytes = b->image.bytes};
    daemon_event(d, &e);
}

static void keeper_record(void *context, struct proc *p, struct wire_cursor *c,
                          const struct wire_record *r)
{
    struct daemon *d = context;
    char text[BACKBONE_TEXT_BYTES];
    struct backbone_slot *b = backbone_of_keeper(d, p);
    if (b == NULL)
        return;
    if (r->type == WIRE_LOADED && !b->keeper_loaded) {
        const struct wire_loaded *l = r->fixed;
        b->reader_fd = wire_take_fd(c, r, 0);
        b->load_us = l->load_us;
        b->page_bytes = l->page_bytes;
        b->keeper_loaded = b->reader_fd >= 0;
        log_info("keeper", "loaded %s bytes=%llu ms=%.1f page_bytes=%u", backbone_text(b, text),
                 (unsigned long long)l->bytes, (double)l->load_us / 1e3, l->page_bytes);
        backbone_event(d, b, b->keeper_loaded ? SCHED_IMAGE_LOADED : SCHED_IMAGE_FAILED);
    } else if (r->type == WIRE_LOADED) {
        /* Said again when background work gave it larger pages. */
        b->page_bytes = ((const struct wire_loaded *)r->fixed)->page_bytes;
    } else if (r->type == WIRE_FAILED) {
        log_error("keeper", "%s refused: %.*s", backbone_text(b, text), (int)r->tail_bytes,
                  (const char *)r->tail);
        if (((const struct wire_failed *)r->fixed)->status == EBADMSG)
            image_discard(d, &b->image.digest);
    }
}

static void keeper_exited(void *context, struct proc *p, const char *how)
{
    struct daemon *d = context;
    struct backbone_slot *b = backbone_of_keeper(d, p);
    if (b == NULL)
        return;
    char text[BACKBONE_TEXT_BYTES];
    bool was_loaded = b->keeper_loaded;
    b->keeper = NULL;
    b->keeper_loaded = false;
    if (b->reader_fd >= 0)
        close(b->reader_fd);
    b->reader_fd = -1;
    log_info("keeper", "ended %s how=\"%s\"", backbone_text(b, text), how);
    backbone_event(d, b, was_loaded ? SCHED_IMAGE_DROPPED : SCHED_IMAGE_FAILED);
}

static void load_backbone(struct daemon *d, uint32_t index)
{
    struct backbone_slot *b = &d->backbones[index];
    assert(b->keeper == NULL);
    struct error err = {0};
    cleanup_fd int image = image_open_file(d, &b->image.digest, &err);
    struct proc_options o = {
        .role = SANDBOX_KEEPER,
        .number = index,
        .threads = 1,
        .events = {keeper_record, keeper_exited},
        .context = d,
    };
    int r = image < 0 ? image : proc_start(&b->keeper, d->procs, &o, &err);
    if (r < 0) {
        char text[BACKBONE_TEXT_BYTES];
        log_error("keeper", "%s cannot be loaded: %s", backbone_text(b, text), err.text);
        b->keeper = NULL;
        backbone_event(d, b, SCHED_IMAGE_FAILED);
        return;
    }
    struct wire_load load = {.digest = b->image.digest, .bytes = b->image.bytes};
    proc_put(b->keeper, WIRE_LOAD, &load, sizeof load, NULL, 0, image);
}

static void drop_backbone(struct daemon *d, uint32_t index)
{
    struct backbone_slot *b = &d->backbones[index];
    if (b->keeper != NULL)
        proc_kill(b->keeper);
    else
        backbone_event(d, b, SCHED_IMAGE_DROPPED);
}

/* --- worker --- */

static void worker_event(struct daemon *d, uint32_t index, enum sched_event_type type,
                         uint32_t function)
{
    struct sched_event e = {.type = type, .worker = index, .function = function};
    daemon_event(d, &e);
}

static void on_ready(struct daemon *d, uint32_t index, const struct wire_ready *r)
{
    struct worker_slot *w = &d->workers[index];
    w->ready = true;
    w->sandbox_us = r->sandbox_us;
    w->attach_us = r->attach_us;
    worker_event(d, index, SCHED_WORKER_READY, SCHED_NONE);
}

static void on_bound(struct daemon *d, uint32_t index, const struct wire_bound *b)
{
    struct worker_slot *w = &d->workers[index];
    if (b->slot >= SCHED_SLOTS_MAX || w->slot_function[b->slot] == SCHED_NONE)
        return;
    struct function_entry *f = &d->functions[w->slot_function[b->slot]];
    f->start_spawn_us = proc_spawn_us(w->proc);
    f->start_sandbox_us = w->sandbox_us;
    f->start_attach_us = w->attach_us;
    f->start_bind_us = b->bind_us;
    worker_event(d, index, SCHED_WORKER_BOUND, w->slot_function[b->slot]);
}

static void on_turn_ended(struct daemon *d, uint32_t index, const struct wire_turn_ended *t)
{
    struct worker_slot *w = &d->workers[index];
    w->granted_us = 0;
    w->revoked_us = 0;
    w->kv_bytes = t->kv_bytes;
    struct sched_event e = {
        .type = SCHED_TURN_ENDED, .worker = index, .us = t->device_us, .has_work = t->has_work};
    daemon_event(d, &e);
}

static void on_failed(struct daemon *d, uint32_t index, const struct wire_record *r)
{
    struct worker_slot *w = &d->workers[index];
    const struct wire_failed *f = r->fixed;
    if (f->scope == WIRE_FAILED_REQUEST) {
        call_record(d, index, r);
        return;
    }
    bool of_slot = f->scope == WIRE_FAILED_SLOT && f->subject < SCHED_SLOTS_MAX;
    uint32_t function = of_slot ? w->slot_function[f->subject] : SCHED_NONE;
    if (function == SCHED_NONE) {
        log_error("worker", "worker=%u %.*s", index, (int)r->tail_bytes, (const char *)r->tail);
        return;
    }
    char text[FUNCTION_TEXT_BYTES];
    log_error("worker", "worker=%u %s not bound: %.*s", index,
              function_text(&d->functions[function].f, text), (int)r->tail_bytes,
              (const char *)r->tail);
    w->slot_function[f->subject] = SCHED_NONE;
    if (f->status == EBADMSG && d->functions[function].f.has_adapter)
        image_discard(d, &d->functions[function].f.adapter);
    worker_event(d, index, SCHED_BIND_FAILED, function);
}

static void worker_record(void *context, struct proc *p, struct wire_cursor *c,
                          const struct wire_record *r)
{
    (void)c;
    struct daemon *d = context;
    uint32_t index = worker_index(d, p);
    if (index == SCHED_NONE)
        return;
    d->workers[index].heard_us = clock_now_us();
    switch (r->type) {
    case WIRE_READY:
        on_ready(d, index, r->fixed);
        break;
    case WIRE_BOUND:
        on_bound(d, index, r->fixed);
        break;
    case WIRE_ADMITTED:
    case WIRE_TOKENS:
    case WIRE_DONE:
        call_record(d, index, r);
        break;
    case WIRE_TURN_ENDED:
        on_turn_ended(d, index, r->fixed);
        break;
    case WIRE_FAILED:
        on_failed(d, index, r);
        break;
    default:
        log_error("worker", "worker=%u killed: it sent a record of type %d", index, (int)r->type);
        proc_kill(p);
    }
}

static void worker_exited(void *context, struct proc *p, const char *how)
{
    struct daemon *d = context;
    uint32_t index = worker_index(d, p);
    if (index == SCHED_NONE)
        return;
    struct worker_slot *w = &d->workers[index];
    if (w->kill_asked) {
        log_debug("worker", "ended worker=%u pid=%d", index, proc_pid(p));
    } else {
        d->totals.worker_deaths++;
        log_warn("worker", "lost worker=%u pid=%d how=\"%s\"", index, proc_pid(p), how);
    }
    w->proc = NULL;
    worker_event(d, index, SCHED_WORKER_EXITED, SCHED_NONE);
}

static int send_attach(struct daemon *d, const struct worker_slot *w)
{
    const struct backbone_slot *b = &d->backbones[w->backbone];
    struct wire_attach attach = {
        .backbone = b->image.digest,
        .kv_bytes = d->config.kv_bytes,
        .sequences_max = d->config.sched.worker_running_max,
        .rows_max = d->config.rows_max,
        .adapters_max = d->config.sched.worker_slots_max,
        .threads = d->config.worker_threads,
        .context_max = d->config.context_max,
        .prefix_cache = d->config.prefix_cache,
        .kv_dtype = d->config.kv_dtype,
    };
    if (b->reader_fd < 0)
        return -ENOENT;
    proc_put(w->proc, WIRE_ATTACH, &attach, sizeof attach, NULL, 0, b->reader_fd);
    return 0;
}

static void spawn_worker(struct daemon *d, const struct sched_action *a)
{
    struct worker_slot *w = &d->workers[a->worker];
    assert(w->proc == NULL);
    *w = (struct worker_slot){
        .backbone = a->backbone, .domain = a->domain, .heard_us = clock_now_us()};
    for (uint32_t i = 0; i < SCHED_SLOTS_MAX; i++)
        w->slot_function[i] = SCHED_NONE;
    struct proc_options o = {
        .role = SANDBOX_WORKER,
        .number = a->worker,
        .memory_bytes_max = d->config.sched.worker_bytes,
        .threads = d->config.worker_threads,
        .events = {worker_record, worker_exited},
        .context = d,
    };
    struct error err = {0};
    int r = proc_start(&w->proc, d->procs, &o, &err);
    if (r == 0 && send_attach(d, w) < 0) {
        r = error_set(&err, -ENOENT, "its backbone is not in memory any more");
        proc_abandon(w->proc);
    }
    if (r < 0) {
        log_error("worker", "worker=%u cannot be started: %s", a->worker, err.text);
        w->proc = NULL;
        worker_event(d, a->worker, SCHED_WORKER_EXITED, SCHED_NONE);
        return;
    }
    log_debug("worker", "started worker=%u pid=%d", a->worker, proc_pid(w->proc));
}

static void bind_function(struct daemon *d, const struct sched_action *a)
{
    struct worker_slot *w = &d->workers[a->worker];
    const struct function_entry *f = &d->functions[a->function];
    if (w->proc == NULL)
        return;
    struct error err = {0};
    cleanup_fd int image = f->f.has_adapter ? image_open_file(d, &f->f.adapter, &err) : -1;
    if (f->f.has_adapter && image < 0) {
        char text[FUNCTION_TEXT_BYTES];
        log_error("worker", "%s %s", function_text(&f->f, text), err.text);
        worker_event(d, a->worker, SCHED_BIND_FAILED, a->function);
        return;
    }
    w->slot_function[a->slot] = a->function;
    struct wire_bind bind = {
        .domain = {w->domain.group, w->domain.backbone},
        .slot = a->slot,
        .has_adapter = f->f.has_adapter,
        .adapter = f->f.adapter,
    };
    proc_put(w->proc, WIRE_BIND, &bind, sizeof bind, NULL, 0, image);
}

static void give_turn(struct daemon *d, const struct sched_action *a)
{
    struct worker_slot *w = &d->workers[a->worker];
    if (w->proc == NULL)
        return;
    struct wire_turn turn = {.turn = a->turn};
    if (a->type == SCHED_GRANT) {
        w->granted_us = clock_now_us();
        proc_put(w->proc, WIRE_GRANT, &turn, sizeof turn, NULL, 0, -1);
    } else {
        w->revoked_us = clock_now_us();
        proc_put(w->proc, WIRE_REVOKE, &turn, sizeof turn, NULL, 0, -1);
    }
}

static void unbind_function(struct daemon *d, const struct sched_action *a)
{
    struct worker_slot *w = &d->workers[a->worker];
    if (w->proc == NULL)
        return;
    struct wire_slot slot = {.slot = a->slot};
    w->slot_function[a->slot] = SCHED_NONE;
    proc_put(w->proc, WIRE_UNBIND, &slot, sizeof slot, NULL, 0, -1);
}

static void cancel_request(struct daemon *d, const struct sched_action *a)
{
    struct worker_slot *w = &d->workers[a->worker];
    if (w->proc == NULL)
        return;
    struct wire_request request = {.request = a->request};
    proc_put(w->proc, WIRE_CANCEL, &request, sizeof request, NULL, 0, -1);
}

void worker_execute(struct daemon *d, const struct sched_action *a)
{
    switch ((enum sched_action_type)a->type) {
    case SCHED_LOAD:
        load_backbone(d, a->backbone);
        break;
    case SCHED_DROP:
        drop_backbone(d, a->backbone);
        break;
    case SCHED_SPAWN:
        spawn_worker(d, a);
        break;
    case SCHED_BIND:
        bind_function(d, a);
        break;
    case SCHED_UNBIND:
        unbind_function(d, a);
        break;
    case SCHED_CANCEL:
        cancel_request(d, a);
        break;
    case SCHED_GRANT:
    case SCHED_REVOKE:
        give_turn(d, a);
        break;
    case SCHED_KILL:
        d->workers[a->worker].kill_asked = true;
        if (d->workers[a->worker].proc != NULL)
            proc_kill(d->workers[a->worker].proc);
        break;
    default:
        assert(!"not an action on a process");
    }
}

void workers_watch(struct daemon *d, uint64_t now_us)
{
    uint64_t start_us = (uint64_t)d->config.start_timeout_ms * 1000;
    uint64_t hang_us = (uint64_t)d->config.hang_timeout_ms * 1000;
    for (uint32_t i = 0; i < d->config.sched.workers_max; i++) {
        struct worker_slot *w = &d->workers[i];
        if (w->proc == NULL)
            continue;
        const char *why = NULL;
        if (!w->ready && now_us - proc_started_us(w->proc) > start_us)
            why = "it was not ready in time";
        else if (w->revoked_us != 0 && now_us - w->revoked_us > hang_us)
            why = "it did not give its turn back";
        else if (w->granted_us != 0 && now_us - w->granted_us > hang_us &&
                 now_us - w->heard_us > hang_us)
            why = "it has its turn and says nothing";
        if (why != NULL) {
            log_error("worker", "worker=%u pid=%d killed: %s", i, proc_pid(w->proc), why);
            proc_kill(w->proc);
        }
    }
}

void workers_close(struct daemon *d)
{
    for (uint32_t i = 0; i < d->config.sched.backbones_max; i++) {
        if (d->backbones[i].used && d->backbones[i].reader_fd >= 0)
            close(d->backbones[i].reader_fd);
    }
}
