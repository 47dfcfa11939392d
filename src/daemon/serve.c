/*
 * The loop: what happened becomes events, the core plans over all of them once per turn, and its
 * actions are carried out. Start and end are here too.
 */
#include "daemon/serve.h"

#include "base/clock.h"
#include "base/log.h"
#include "daemon/daemon.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#define ACTIONS_MAX EVENTLOG_ACTIONS_MAX
#define TOTALS_US 60000000u /* the ledger's totals are no older than that */
#define SPAWN_GUESS_US 4000 /* of a worker, until the first has started */
#define GPU_SPAWN_GUESS_US 600000

void daemon_event(struct daemon *d, struct sched_event *e)
{
    e->now_us = clock_now_us();
    eventlog_event(d->eventlog, e);
    sched_apply(d->sched, e);
    d->dirty = true;
}

static void on_timer(evutil_socket_t fd, short what, void *argument)
{
    (void)fd;
    (void)what;
    struct sched_event e = {.type = SCHED_TICK};
    daemon_event(argument, &e);
}

static void arm_timer(struct daemon *d, uint64_t at_us)
{
    uint64_t now_us = clock_now_us();
    uint64_t wait_us = at_us > now_us ? at_us - now_us : 0;
    struct timeval tv = {(time_t)(wait_us / 1000000), (suseconds_t)(wait_us % 1000000)};
    evtimer_add(d->timer, &tv);
}

static void execute(struct daemon *d, const struct sched_action *a)
{
    switch ((enum sched_action_type)a->type) {
    case SCHED_SUBMIT:
        call_submit(d, a);
        break;
    case SCHED_REFUSE:
        call_refuse(d, a);
        break;
    case SCHED_RECEIPT:
        bills_receipt(d, a);
        call_receipt(d, a);
        break;
    case SCHED_IDLE_BILL:
        bills_idle(d, a);
        break;
    case SCHED_LOAD:
        copies_load(d, a);
        break;
    case SCHED_DROP:
        copies_drop(d, a);
        break;
    case SCHED_FORGET:
        function_forget(d, a->function);
        break;
    case SCHED_ARM_TIMER:
        arm_timer(d, a->us);
        break;
    default:
        worker_execute(d, a);
    }
}

/* Returns the number of actions. */
static uint32_t decide(struct daemon *d, struct sched_action *actions, bool *ret_more)
{
    uint64_t now_us = clock_now_us();
    uint32_t count = sched_plan(d->sched, now_us, actions, ACTIONS_MAX, ret_more);
    eventlog_plan(d->eventlog, now_us, actions, count);
    return count;
}

static void plan(struct daemon *d)
{
    struct sched_action actions[ACTIONS_MAX];
    bool more = false;
    while (d->dirty || more) {
        d->dirty = false;
        uint32_t count = decide(d, actions, &more);
        for (uint32_t i = 0; i < count; i++)
            execute(d, &actions[i]);
    }
    procs_flush(d->procs);
    if (d->calls_ended != SCHED_NONE) {
        bills_commit(d);
        calls_finish(d);
    }
}

/* At the end: all workers and copies have gone, what they were kept for until now is owed, and what
 * the core would begin in their place is not begun. */
static void settle(struct daemon *d)
{
    struct sched_action actions[ACTIONS_MAX];
    bool more = true;
    workers_close(d);
    copies_close(d);
    while (more) {
        uint32_t count = decide(d, actions, &more);
        for (uint32_t i = 0; i < count; i++) {
            if (actions[i].type == SCHED_RECEIPT || actions[i].type == SCHED_IDLE_BILL)
                execute(d, &actions[i]);
        }
    }
    bills_commit(d);
    calls_finish(d);
}

static void on_second(evutil_socket_t fd, short what, void *argument)
{
    (void)fd;
    (void)what;
    struct daemon *d = argument;
    workers_watch(d, clock_now_us());
    eventlog_flush(d->eventlog);
    if (ledger_waiting(d->ledger) > 0 || clock_now_us() - d->committed_us > TOTALS_US)
        bills_commit(d);
}

static void on_signal(evutil_socket_t number, short what, void *argument)
{
    (void)what;
    struct daemon *d = argument;
    log_info("serve", "stopping signal=%d running=%u", (int)number, d->calls_live);
    if (d->stopping)
        event_base_loopbreak(d->base); /* asked twice: at once */
    d->stopping = true;
    gateway_stop_listening(d->gateway);
}

static void list_models(void *context, json_t *list)
{
    struct daemon *d = context;
    for (uint32_t i = 0; i < d->config.sched.functions_max; i++) {
        const struct function_entry *f = &d->functions[i];
        if (!f->used || !f->current)
            continue;
        json_array_append_new(
            list,
            json_pack("{s:s, s:I, s:s, s:s, s:I, s:o, s:o}", "id", f->f.name, "created",
                      (json_int_t)(f->f.created_us / 1000000), "owned_by", f->f.owner, "parent",
                      d->backbones[f->backbone].image.label, "generation",
                      (json_int_t)f->f.generation, "backbone", digest_json(&f->f.backbone),
                      "adapter", f->f.has_adapter ? digest_json(&f->f.adapter) : json_null()));
    }
}

static int is_ready(void *context, struct error *err)
{
    const struct daemon *d = context;
    return d->stopping ? error_set(err, -ESHUTDOWN, "the server is shutting down") : 0;
}

/* --- start --- */

static int make_data_dir(const char *path, struct error *err)
{
    char part[4096];
    snprintf(part, sizeof part, "%s", path);
    for (char *p = part + 1; *p != '\0'; p++) {
        if (*p != '/')
            continue;
        *p = '\0';
        mkdir(part, 0755);
        *p = '/';
    }
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return error_set(err, -errno,
                         "cannot make the data directory %s: %s; choose one with "
                         "--data",
                         path, strerror(errno));
    return 0;
}

/* The lock lives as long as the process; the descriptor is never closed. */
static int lock_data_dir(const struct daemon_config *c, struct error *err)
{
    char path[4200];
    int r = make_data_dir(c->data_dir, err);
    if (r < 0)
        return r;
    snprintf(path, sizeof path, "%s/lock", c->data_dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_set(err, -errno, "cannot write into the data directory %s: %s", c->data_dir,
                         strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        r = -errno;
        close(fd);
        return error_set(err, r,
                         "another sllora serve runs on %s; stop it or choose another "
                         "--data",
                         c->data_dir);
    }
    return 0;
}

static int check_sandbox(struct daemon *d, struct error *err)
{
    sandbox_probe(&d->features);
    if (d->features.have & SANDBOX_BIT(SANDBOX_MEMORY_CGROUP)) {
        struct error reason = {0};
        if (sandbox_cgroup_prepare(&d->features, &reason) < 0)
            log_warn("serve", "no memory groups: %s", reason.text);
    }
    uint32_t missing = SANDBOX_NEEDED & ~d->features.have;
    for (int f = 0; f < SANDBOX_FEATURE_COUNT; f++) {
        if (!(missing & SANDBOX_BIT(f)))
            continue;
        if (!d->config.sandbox_weak)
            return error_set(err, -ENOTSUP,
                             "this machine lacks %s, so this promise falls: %s; mend that "
                             "(sllora doctor), or start with --sandbox weak",
                             sandbox_feature_name(f), sandbox_feature_promise(f));
        log_warn("serve", "sandbox is weak: no %s: %s", sandbox_feature_name(f),
                 sandbox_feature_promise(f));
    }
    d->sandbox_use = d->features.have;
    return 0;
}

static int look_at_gpu(struct daemon *d, struct error *err)
{
    int r = daemon_look_at_gpu(d->config.gpu, &d->gpu, err);
    if (r == 0)
        r = daemon_config_budget(&d->config, d->gpu.memory_bytes, err);
    if (r == 0)
        log_info("serve", "device=gpu:%u name=\"%s\" budget_mib=%llu", d->config.gpu, d->gpu.name,
                 (unsigned long long)(d->config.gpu_memory_bytes >> 20));
    return r;
}

static int make_tables(struct daemon *d, struct error *err)
{
    const struct sched_config *c = &d->config.sched;
    d->name_buckets = 16;
    while (d->name_buckets < c->functions_max)
        d->name_buckets *= 2;
    d->calls_max = 2 * c->requests_max;
    d->sched_memory = aligned_alloc(16, sched_bytes(c));
    d->functions = calloc(c->functions_max, sizeof *d->functions);
    d->names = malloc(d->name_buckets * sizeof *d->names);
    d->owners = calloc(c->owners_max, sizeof *d->owners);
    d->backbones = calloc(c->backbones_max, sizeof *d->backbones);
    d->copies = calloc(c->copies_max, sizeof *d->copies);
    d->workers = calloc(c->workers_max, sizeof *d->workers);
    d->calls = calloc(d->calls_max, sizeof *d->calls);
    d->journal = journal_new();
    if (d->sched_memory == NULL || d->functions == NULL || d->names == NULL || d->owners == NULL ||
        d->backbones == NULL || d->copies == NULL || d->workers == NULL || d->calls == NULL ||
        d->journal == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    d->sched = sched_init(d->sched_memory, c);
    for (uint32_t i = 0; i < d->name_buckets; i++)
        d->names[i] = SCHED_NONE;
    d->calls_ended = SCHED_NONE;
    for (uint32_t i = 0; i < d->calls_max; i++)
        d->calls[i].next_free = i + 1 < d->calls_max ? i + 1 : SCHED_NONE;
    return 0;
}

static int load_function(void *context, const struct registry_function *f)
{
    struct daemon *d = context;
    struct error err = {0};
    struct function_numbers numbers;
    char text[FUNCTION_TEXT_BYTES];
    function_text(f, text);
    if (function_reserve(d, f, &numbers, &err) < 0) {
        log_error("serve", "%s owner=%s not served: %s", text, f->owner, err.text);
        return 0;
    }
    function_add(d, &numbers, f);
    log_debug("serve", "%s owner=%s number=%u", text, f->owner, numbers.function);
    return 0;
}

/* One node with one device. Its processors have images come from the disk, which its cache speeds
 * up: there is no second memory to stage them in. A GPU has the host's below it. */
static void tell_machine(struct daemon *d)
{
    bool has_gpu = d->config.has_gpu;
    struct sched_event node = {.type = SCHED_NODE, .bytes = has_gpu ? d->config.memory_bytes : 0};
    struct sched_event device = {.type = SCHED_DEVICE,
                                 .bytes = device_budget_bytes(d),
                                 .more_bytes = worker_base_bytes(d),
                                 .keeps_work = has_gpu,
                                 .us = has_gpu ? GPU_SPAWN_GUESS_US : SPAWN_GUESS_US};
    daemon_event(d, &node);
    daemon_event(d, &device);
}

static int open_store(struct daemon *d, struct error *err)
{
    char path[4200];
    int r = images_open_dir(d, err);
    if (r < 0)
        return r;
    snprintf(path, sizeof path, "%s/registry.sqlite", d->config.data_dir);
    r = registry_open(&d->registry, path, err);
    if (r < 0)
        return r;
    images_sweep(d);
    r = bills_open(d, err);
    if (r < 0)
        return r;
    snprintf(path, sizeof path, "%s/events.log", d->config.data_dir);
    if (d->config.event_log == NULL || d->config.event_log[0] != '\0')
        r = eventlog_open(&d->eventlog, d->config.event_log != NULL ? d->config.event_log : path,
                          d->config.event_log_bytes_max, &d->config.sched, err);
    if (r < 0)
        return r;
    tell_machine(d);
    return registry_each_function(d->registry, load_function, d, err);
}

static int open_gateway(struct daemon *d, struct error *err)
{
    struct gateway_options o = {
        .base = d->base,
        .listen = d->config.listen,
        .admin_socket = d->config.admin_socket,
        .limits = d->config.gateway,
        .handlers = {.context = d,
                     .infer = call_infer,
                     .gone = call_gone,
                     .models = list_models,
                     .metrics = metrics_text,
                     .ready = is_ready,
                     .admin = admin_request,
                     .lora = lora_request},
    };
    return gateway_open(&d->gateway, &o, err);
}

static int open_roots(struct daemon *d, struct error *err)
{
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < d->config.lora_root_count; i++)
        r = roots_add(&d->lora_roots, d->config.lora_roots[i], err);
    return r;
}

static int add_timers(struct daemon *d, struct error *err)
{
    struct timeval second = {1, 0};
    d->timer = evtimer_new(d->base, on_timer, d);
    d->second = event_new(d->base, -1, EV_PERSIST, on_second, d);
    struct event *term = evsignal_new(d->base, SIGTERM, on_signal, d);
    struct event *interrupt = evsignal_new(d->base, SIGINT, on_signal, d);
    if (d->timer == NULL || d->second == NULL || term == NULL || interrupt == NULL ||
        event_add(d->second, &second) < 0 || event_add(term, NULL) < 0 ||
        event_add(interrupt, NULL) < 0)
        return error_set(err, -ENOMEM, "out of memory");
    return 0;
}

static int start(struct daemon *d, struct error *err)
{
    int r = lock_data_dir(&d->config, err);
    if (r == 0)
        r = open_roots(d, err);
    if (r == 0)
        r = check_sandbox(d, err);
    if (r == 0 && d->config.has_gpu)
        r = look_at_gpu(d, err);
    if (r == 0)
        r = make_tables(d, err);
    if (r == 0 && (d->base = event_base_new()) == NULL)
        r = error_set(err, -ENOMEM, "cannot make an event loop");
    if (r == 0)
        r = procs_open(&d->procs, d->base, d->config.worker_program, &d->features, d->sandbox_use,
                       err);
    if (r == 0)
        r = open_store(d, err);
    if (r == 0)
        r = add_timers(d, err);
    if (r == 0)
        r = open_gateway(d, err);
    return r;
}

static void run(struct daemon *d)
{
    uint64_t stop_at_us = 0;
    plan(d);
    while (event_base_loop(d->base, EVLOOP_ONCE) == 0) {
        if (d->dirty)
            plan(d);
        else
            procs_flush(d->procs);
        if (event_base_got_break(d->base))
            return;
        if (!d->stopping)
            continue;
        uint64_t now_us = clock_now_us();
        if (stop_at_us == 0)
            stop_at_us = now_us + (uint64_t)d->config.drain_timeout_ms * 1000;
        if (d->calls_live == 0 || now_us >= stop_at_us)
            return;
    }
}

static void finish(struct daemon *d)
{
    if (d->gateway != NULL) {
        settle(d);
        deploys_close(d);
        gateway_close(d->gateway);
        unlink(d->config.admin_socket);
    }
    procs_close(d->procs);
    bills_close(d);
    journal_free(d->journal);
    eventlog_close(d->eventlog);
    registry_close(d->registry);
    roots_close(&d->lora_roots);
}

int serve(const struct daemon_config *config, struct error *err)
{
    struct daemon *d = calloc(1, sizeof *d);
    if (d == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    d->config = *config;
    d->started_us = clock_now_us();
    signal(SIGPIPE, SIG_IGN);
    int r = start(d, err);
    if (r == 0) {
        log_info("serve", "listening address=http://%.*s:%u data=%s sandbox=%s",
                 (int)(strrchr(config->listen, ':') - config->listen), config->listen,
                 gateway_port(d->gateway), config->data_dir,
                 d->sandbox_use & SANDBOX_BIT(SANDBOX_OWN_UID) ? "own-uids" : "one-uid");
        run(d);
        log_info("serve", "stopped");
    }
    finish(d);
    /* The process ends here; its tables go with it. */
    return r;
}
