/*
 * The admin socket's JSON: what the command line asks for.
 *
 *   POST   /admin/functions         deploy (admin_deploy.c); answers with lines of progress
 *   GET    /admin/functions         all functions
 *   GET    /admin/functions/NAME    one
 *   DELETE /admin/functions/NAME    removed; what runs ends
 *   GET    /admin/status            processes, memory, counts
 */
#include "daemon/deploy.h"

#include "base/clock.h"

#include <string.h>
#include <unistd.h>

json_t *digest_json(const struct digest *d)
{
    char hex[DIGEST_HEX_BYTES];
    digest_hex(d, hex);
    return json_string(hex);
}

static const char *isolation_word(uint32_t isolation)
{
    static const char *const words[] = {"", "function", "owner", "shared"};
    return isolation < 4 ? words[isolation] : "";
}

static const char *state_word(enum sched_function_state state)
{
    static const char *const words[] = {[SCHED_COLD] = "cold",
                                        [SCHED_STARTING] = "starting",
                                        [SCHED_WARM] = "warm",
                                        [SCHED_ACTIVE] = "active"};
    return words[state];
}

static json_t *start_json(const struct function_entry *f)
{
    return json_pack("{s:f, s:f, s:f, s:f}", "spawn_ms", (double)f->start_spawn_us / 1e3,
                     "sandbox_ms", (double)f->start_sandbox_us / 1e3, "attach_ms",
                     (double)f->start_attach_us / 1e3, "bind_ms", (double)f->start_bind_us / 1e3);
}

static json_t *function_json(const struct daemon *d, uint32_t index)
{
    const struct function_entry *f = &d->functions[index];
    const struct backbone_slot *b = &d->backbones[f->backbone];
    struct sched_function_view view;
    sched_function_view(d->sched, index, &view);
    json_t *o = json_pack("{s:s, s:s, s:s, s:I, s:I, s:s, s:i, s:i}", "name", f->f.name, "owner",
                          f->f.owner, "isolation", isolation_word(f->f.isolation), "generation",
                          (json_int_t)f->f.generation, "created",
                          (json_int_t)(f->f.created_us / 1000000), "state", state_word(view.state),
                          "waiting", (int)view.waiting, "running", (int)view.running);
    json_object_set_new(
        o, "backbone",
        json_pack("{s:s, s:s?, s:o, s:I, s:b, s:f, s:i}", "name", b->image.label, "quant",
                  image_quant_name(b->image.dtype), "digest", digest_json(&b->image.digest),
                  "bytes", (json_int_t)b->image.bytes, "resident", b->reader_fd >= 0, "load_ms",
                  (double)b->load_us / 1e3, "page_bytes", (int)b->page_bytes));
    json_object_set_new(o, "adapter",
                        !f->f.has_adapter
                            ? json_null()
                            : json_pack("{s:o, s:I, s:I}", "digest", digest_json(&f->f.adapter),
                                        "bytes", (json_int_t)f->adapter_bytes, "rank",
                                        (json_int_t)f->adapter_rank));
    json_object_set_new(
        o, "totals",
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:f, s:f}", "requests", (json_int_t)f->requests,
                  "failures", (json_int_t)f->failures, "cold_starts", (json_int_t)f->cold_starts,
                  "prompt_tokens", (json_int_t)f->tokens_prompt, "completion_tokens",
                  (json_int_t)f->tokens_new, "device_ms", (double)f->device_us / 1e3, "worker_ms",
                  (double)f->worker_us / 1e3));
    json_object_set_new(o, "last_start", start_json(f));
    const struct worker_slot *w = view.worker != SCHED_NONE ? &d->workers[view.worker] : NULL;
    json_object_set_new(
        o, "pid", w != NULL && w->proc != NULL ? json_integer(proc_pid(w->proc)) : json_null());
    return o;
}

static void list_functions(struct daemon *d, struct exchange *x)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < d->config.sched.functions_max; i++) {
        if (d->functions[i].used && d->functions[i].current)
            json_array_append_new(list, function_json(d, i));
    }
    exchange_json(x, 200, json_pack("{s:o}", "functions", list));
}

static void not_found(struct exchange *x, const char *name)
{
    char message[160];
    snprintf(message, sizeof message,
             "there is no function named %.64s; `sllora ls` lists what is deployed", name);
    exchange_error(x, 404, "function_not_found", NULL, 0, message);
}

static void describe_function(struct daemon *d, struct exchange *x, const char *name)
{
    struct error err = {0};
    json_t *certificate = NULL;
    uint32_t index = function_find(d, name);
    if (index == SCHED_NONE) {
        not_found(x, name);
        return;
    }
    const struct registry_function *f = &d->functions[index].f;
    if (f->has_adapter && certificate_read(d->registry, &f->adapter, &certificate, &err) < 0) {
        exchange_error(x, 500, NULL, NULL, 0, err.text);
        return;
    }
    json_t *o = function_json(d, index);
    json_object_set_new(o, "certificate", certificate != NULL ? certificate : json_null());
    exchange_json(x, 200, o);
}

static void remove_function(struct daemon *d, struct exchange *x, const char *name)
{
    struct error err = {0};
    uint32_t index = function_find(d, name);
    if (index == SCHED_NONE) {
        not_found(x, name);
        return;
    }
    uint64_t generation = d->functions[index].f.generation;
    uint32_t finishing = 0;
    if (function_remove(d, index, &finishing, &err) < 0)
        exchange_error(x, 500, NULL, NULL, 0, err.text);
    else
        exchange_json(x, 200,
                      json_pack("{s:s, s:I, s:I}", "removed", name, "generation",
                                (json_int_t)generation, "finishing", (json_int_t)finishing));
}

static json_t *bound_json(const struct registry_function *f)
{
    return json_pack("{s:s, s:I, s:o}", "name", f->name, "generation", (json_int_t)f->generation,
                     "adapter", f->has_adapter ? digest_json(&f->adapter) : json_null());
}

static json_t *workers_json(const struct daemon *d)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < d->config.sched.workers_max; i++) {
        const struct worker_slot *w = &d->workers[i];
        if (w->proc == NULL)
            continue;
        json_t *functions = json_array();
        for (uint32_t s = 0; s < SCHED_SLOTS_MAX; s++) {
            if (w->slot_function[s] != SCHED_NONE)
                json_array_append_new(functions, bound_json(&d->functions[w->slot_function[s]].f));
        }
        json_array_append_new(list, json_pack("{s:i, s:b, s:o, s:I, s:o}", "pid",
                                              (int)proc_pid(w->proc), "ready", w->ready, "backbone",
                                              digest_json(&d->backbones[w->backbone].image.digest),
                                              "kv_bytes", (json_int_t)w->kv_bytes, "functions",
                                              functions));
    }
    return list;
}

static json_t *backbones_json(const struct daemon *d)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < d->config.sched.backbones_max; i++) {
        const struct backbone_slot *b = &d->backbones[i];
        if (!b->used || (b->functions == 0 && b->keeper == NULL))
            continue;
        json_t *pid = b->keeper != NULL ? json_integer(proc_pid(b->keeper)) : json_null();
        json_array_append_new(
            list, json_pack("{s:s, s:s?, s:o, s:I, s:b, s:i, s:i, s:o}", "name", b->image.label,
                            "quant", image_quant_name(b->image.dtype), "digest",
                            digest_json(&b->image.digest), "bytes", (json_int_t)b->image.bytes,
                            "resident", b->reader_fd >= 0, "page_bytes", (int)b->page_bytes,
                            "functions", (int)b->functions, "keeper_pid", pid));
    }
    return list;
}

static void status(struct daemon *d, struct exchange *x)
{
    struct sched_counts c;
    sched_counts(d->sched, &c);
    exchange_json(x, 200,
                  json_pack("{s:i, s:i, s:I, s:i, s:i, s:I, s:I, s:o, s:o}", "pid", (int)getpid(),
                            "port", (int)gateway_port(d->gateway), "uptime_s",
                            (json_int_t)((clock_now_us() - d->started_us) / 1000000),
                            "requests_waiting", (int)c.requests_waiting, "requests_running",
                            (int)c.requests_running, "memory_bytes", (json_int_t)c.memory_bytes,
                            "memory_budget_bytes", (json_int_t)d->config.sched.budget_bytes,
                            "workers", workers_json(d), "backbones", backbones_json(d)));
}

void admin_request(void *context, struct exchange *x, const char *method, const char *path,
                   const json_t *body)
{
    static const char functions[] = "/admin/functions";
    struct daemon *d = context;
    exchange_set_context(x, NULL);
    const char *name = NULL;
    if (strncmp(path, functions, sizeof functions - 1) == 0 && path[sizeof functions - 1] == '/')
        name = path + sizeof functions;
    if (strcmp(path, "/admin/status") == 0 && strcmp(method, "GET") == 0)
        status(d, x);
    else if (strcmp(path, functions) == 0 && strcmp(method, "GET") == 0)
        list_functions(d, x);
    else if (strcmp(path, functions) == 0 && strcmp(method, "POST") == 0)
        admin_deploy(d, x, body);
    else if (name != NULL && strcmp(method, "GET") == 0)
        describe_function(d, x, name);
    else if (name != NULL && strcmp(method, "DELETE") == 0)
        remove_function(d, x, name);
    else
        exchange_error(x, 404, "unknown_url", NULL, 0, "no such admin request");
}
