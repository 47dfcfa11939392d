/*
 * Workers: the core's actions on them carried out, their records turned into events. A worker
 * begins as a spare that maps its backbone and knows nobody; its first BIND gives it a domain for
 * good, and it dies with that. Nothing of a process is used for a second domain.
 */
#include "daemon/daemon.h"

#include "base/clock.h"
#include "base/log.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

/* Memory that no account holds and that comes and goes with a request: its body, a chat template at
 * work (64 MiB at most), a prompt being cut into tokens. */
#define UNCOUNTED_BYTES (UINT64_C(128) << 20)
/* Address space of the threads' stacks, which counts in full against the process's own limit. */
#define STACKS_BYTES (UINT64_C(256) << 20)

static uint32_t worker_index(const struct daemon *d, const struct proc *p)
{
    for (uint32_t i = 0; i < d->config.sched.workers_max; i++) {
        if (d->workers[i].proc == p)
            return i;
    }
    return SCHED_NONE;
}

static void worker_event(struct daemon *d, uint32_t index, enum sched_event_type type,
                         uint32_t function)
{
    struct sched_event e = {.type = type, .worker = index, .function = function};
    daemon_event(d, &e);
}

/* What it may have of the host's memory in all: what the core counts, and that. On a GPU the core
 * counts what is there. */
static uint64_t memory_limit(const struct daemon *d, const struct worker_slot *w, uint64_t kv_bytes)
{
    uint64_t work = backbone_work_bytes(d, &d->backbones[w->backbone].image);
    return UNCOUNTED_BYTES + work +
           (d->config.has_gpu ? GPU_HOST_BYTES : worker_base_bytes(d) + kv_bytes);
}

static void on_ready(struct daemon *d, uint32_t index, const struct wire_ready *r)
{
    struct worker_slot *w = &d->workers[index];
    w->ready = true;
    w->spawn_us = proc_spawn_us(w->proc);
    w->sandbox_us = r->sandbox_us;
    w->attach_us = r->attach_us;
    struct sched_event e = {.type = SCHED_WORKER_READY,
                            .worker = index,
                            .us = clock_now_us() - proc_started_us(w->proc)};
    daemon_event(d, &e);
}

static void on_bound(struct daemon *d, uint32_t index, const struct wire_bound *b)
{
    struct worker_slot *w = &d->workers[index];
    if (b->slot >= SCHED_SLOTS_MAX || w->slot_function[b->slot] == SCHED_NONE)
        return;
    uint32_t function = w->slot_function[b->slot];
    struct function_entry *f = &d->functions[function];
    f->start_spawn_us = w->spawn_us;
    f->start_sandbox_us = w->sandbox_us;
    f->start_attach_us = w->attach_us;
    f->start_bind_us = clock_now_us() - w->bind_began_us[b->slot];
    journal_put(d->journal, f->f.name, f->f.generation, "bound worker=%u pid=%d ms=%.2f", index,
                proc_pid(w->proc), (double)f->start_bind_us / 1e3);
    struct sched_event e = {
        .type = SCHED_WORKER_BOUND, .worker = index, .function = function, .us = f->start_bind_us};
    daemon_event(d, &e);
}

static void on_resized(struct daemon *d, uint32_t index, const struct wire_resize *r)
{
    struct worker_slot *w = &d->workers[index];
    if (r->bytes < w->kv_granted_bytes) {
        w->kv_granted_bytes = r->bytes;
        proc_limit_memory(w->proc, memory_limit(d, w, r->bytes));
    }
    struct sched_event e = {.type = SCHED_WORKER_RESIZED, .worker = index, .bytes = r->bytes};
    daemon_event(d, &e);
}

static void on_turn_ended(struct daemon *d, uint32_t index, const struct wire_turn_ended *t)
{
    struct worker_slot *w = &d->workers[index];
    if (w->granted_us == 0)
        return; /* it had no turn to end */
    /* Its word is worth no more than the time that passed. */
    uint64_t passed_us = clock_now_us() - w->granted_us;
    w->granted_us = 0;
    w->revoked_us = 0;
    w->kv_bytes = t->kv_bytes;
    struct sched_event e = {.type = SCHED_TURN_ENDED,
                            .worker = index,
                            .us = t->device_us < passed_us ? t->device_us : passed_us,
                            .steps = t->steps,
                            .tokens = t->prompt_rows,
                            .more_tokens = t->decode_rows,
                            .stalled = t->is_stalled};
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
    journal_put(d->journal, d->functions[function].f.name, d->functions[function].f.generation,
                "not bound worker=%u: see the server's log", index);
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
    case WIRE_RESIZED:
        on_resized(d, index, r->fixed);
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
        for (uint32_t i = 0; i < SCHED_SLOTS_MAX; i++) {
            const struct function_entry *f = &d->functions[w->slot_function[i]];
            if (w->slot_function[i] != SCHED_NONE)
                journal_put(d->journal, f->f.name, f->f.generation, "lost worker=%u pid=%d: %s",
                            index, proc_pid(p), how);
        }
    }
    w->proc = NULL;
    worker_event(d, index, SCHED_WORKER_EXITED, SCHED_NONE);
}

void workers_close(struct daemon *d)
{
    for (uint32_t i = 0; i < d->config.sched.workers_max; i++) {
        struct worker_slot *w = &d->workers[i];
        if (w->proc == NULL)
            continue;
        proc_kill(w->proc);
        w->proc = NULL;
        worker_event(d, i, SCHED_WORKER_EXITED, SCHED_NONE);
    }
}

static void send_attach(struct daemon *d, const struct worker_slot *w, const struct sched_action *a)
{
    const struct copy_slot *c = &d->copies[a->copy];
    const int fds[] = {c->reader_fd, c->gpu_fd};
    uint32_t fd_count = c->zygote != NULL ? 0 : c->gpu_fd >= 0 ? 2 : 1;
    struct wire_attach attach = {
        .backbone = d->backbones[w->backbone].image.digest,
        .kv_bytes = d->config.kv_bytes,
        .kv_limit_bytes = a->bytes,
        .sequences_max = d->config.sched.worker_running_max,
        .rows_max = d->config.rows_max,
        .adapters_max = d->config.sched.worker_slots_max,
        .threads = d->config.worker_threads,
        .context_max = d->config.context_max,
        .prefix_cache = d->config.prefix_cache,
        .kv_dtype = d->config.kv_dtype,
    };
    proc_put_fds(w->proc, WIRE_ATTACH, &attach, sizeof attach, fds, fd_count);
}

static void spawn_worker(struct daemon *d, const struct sched_action *a)
{
    struct worker_slot *w = &d->workers[a->worker];
    assert(w->proc == NULL);
    *w = (struct worker_slot){
        .backbone = a->backbone, .kv_granted_bytes = a->bytes, .heard_us = clock_now_us()};
    for (uint32_t i = 0; i < SCHED_SLOTS_MAX; i++)
        w->slot_function[i] = SCHED_NONE;
    struct proc_options o = {
        .role = SANDBOX_WORKER,
        .number = a->worker,
        .memory_bytes_max = memory_limit(d, w, d->config.kv_bytes) + STACKS_BYTES,
        .threads = d->config.worker_threads,
        .has_gpu = d->config.has_gpu,
        .gpu = d->config.gpu,
        .events = {worker_record, worker_exited},
        .context = d,
    };
    struct error err = {0};
    const struct copy_slot *c = &d->copies[a->copy];
    int r;
    if (!c->is_ready)
        r = error_set(&err, -ENOENT, "its backbone is not in memory any more");
    else if (c->zygote != NULL)
        r = proc_fork(&w->proc, c->zygote, &o, &err);
    else
        r = proc_start(&w->proc, d->procs, &o, &err);
    if (r < 0) {
        log_error("worker", "worker=%u cannot be started: %s", a->worker, err.text);
        w->proc = NULL;
        worker_event(d, a->worker, SCHED_WORKER_EXITED, SCHED_NONE);
        return;
    }
    send_attach(d, w, a);
    proc_limit_memory(w->proc, memory_limit(d, w, a->bytes));
    log_debug("worker", "started worker=%u", a->worker);
}

static void resize_worker(struct daemon *d, const struct sched_action *a)
{
    struct worker_slot *w = &d->workers[a->worker];
    if (w->proc == NULL)
        return;
    if (a->bytes > w->kv_granted_bytes) {
        w->kv_granted_bytes = a->bytes;
        proc_limit_memory(w->proc, memory_limit(d, w, a->bytes));
    }
    struct wire_resize resize = {.bytes = a->bytes, .is_most = a->is_most};
    proc_put(w->proc, WIRE_RESIZE, &resize, sizeof resize, NULL, 0, -1);
}

static void bind_function(struct daemon *d, const struct sched_action *a)
{
    struct worker_slot *w = &d->workers[a->worker];
    const struct function_entry *f = &d->functions[a->function];
    if (w->proc == NULL)
        return;
    int adapter = a->copy != SCHED_NONE ? d->copies[a->copy].reader_fd : -1;
    w->domain = a->domain;
    w->slot_function[a->slot] = a->function;
    w->bind_began_us[a->slot] = clock_now_us();
    struct wire_bind bind = {
        .domain = {w->domain.group, w->domain.backbone},
        .slot = a->slot,
        .has_adapter = f->f.has_adapter,
        .adapter = f->f.adapter,
    };
    proc_put(w->proc, WIRE_BIND, &bind, sizeof bind, NULL, 0, adapter);
}

static void give_turn(struct daemon *d, const struct sched_action *a)
{
    struct worker_slot *w = &d->workers[a->worker];
    if (w->proc == NULL)
        return;
    if (a->type == SCHED_GRANT) {
        struct wire_grant grant = {
            .turn = a->turn, .prompt_rows = a->rows, .prompts_first = a->prompts_first};
        w->granted_us = clock_now_us();
        proc_put(w->proc, WIRE_GRANT, &grant, sizeof grant, NULL, 0, -1);
    } else {
        struct wire_turn turn = {.turn = a->turn};
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
    case SCHED_SPAWN:
        spawn_worker(d, a);
        break;
    case SCHED_BIND:
        bind_function(d, a);
        break;
    case SCHED_RESIZE:
        resize_worker(d, a);
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
