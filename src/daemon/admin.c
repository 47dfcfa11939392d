/*
 * The admin socket: what the command line asks for.
 *
 *   POST   /admin/functions         deploy (admin_deploy.c); answers with lines of progress
 *   GET    /admin/functions         all functions
 *   GET    /admin/functions/NAME    one
 *   DELETE /admin/functions/NAME    removed; what runs ends
 *   GET    /admin/logs/NAME[/FROM]  what happened to one lately
 *   POST   /admin/owners/NAME       his limit
 *   GET    /admin/status            devices, memory, processes, counts
 *   GET    /admin/plan              what is to be in memory ahead of need, and why
 *   GET    /admin/usage             what was used since the start, and what it cost
 */
#include "daemon/deploy.h"

#include "base/log.h"

#include <stdlib.h>
#include <string.h>

#define LOG_LINES_MAX 1000u

json_t *digest_json(const struct digest *d)
{
    char hex[DIGEST_HEX_BYTES];
    digest_hex(d, hex);
    return json_string(hex);
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
    function_describe(d, index, o);
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

/* --- owners, logs --- */

static void put_owner(struct daemon *d, struct exchange *x, const char *name, const json_t *body)
{
    struct error err = {0};
    uint32_t id = 0;
    const json_t *requests = json_object_get(body, "requests");
    if (!function_name_is_valid(name) || !json_is_integer(requests) ||
        json_integer_value(requests) < 0 ||
        json_integer_value(requests) > (json_int_t)d->config.sched.requests_max) {
        char message[160];
        snprintf(
            message, sizeof message,
            "an owner's limit is {\"requests\": 0 to %u} (0: the server's default), for a name "
            "of letters, digits, '-', '_', '.'",
            d->config.sched.requests_max);
        exchange_error(x, 400, NULL, "requests", 0, message);
        return;
    }
    uint32_t limit = (uint32_t)json_integer_value(requests);
    if (registry_put_owner_limit(d->registry, name, limit, &id, &err) < 0) {
        exchange_error(x, 500, NULL, NULL, 0, err.text);
        return;
    }
    for (uint32_t i = 0; i < d->config.sched.functions_max; i++) {
        if (d->functions[i].used && d->functions[i].f.owner_id == id)
            d->functions[i].f.owner_requests_max = limit;
    }
    owner_limit(d, id, limit);
    log_info("admin", "owner=%s requests=%u", name, limit);
    exchange_json(x, 200, json_pack("{s:s, s:I}", "owner", name, "requests", (json_int_t)limit));
}

/* NAME, or NAME/FROM: from the line of that number on. */
static void logs(struct daemon *d, struct exchange *x, const char *path)
{
    char name[REGISTRY_NAME_BYTES];
    const char *slash = strchr(path, '/');
    size_t len = slash != NULL ? (size_t)(slash - path) : strlen(path);
    snprintf(name, sizeof name, "%.*s", (int)(len < sizeof name ? len : sizeof name - 1), path);
    if (len >= sizeof name || !function_name_is_valid(name)) {
        not_found(x, name);
        return;
    }
    uint64_t from = slash != NULL ? strtoull(slash + 1, NULL, 10) : 0;
    json_t *lines = journal_json(d->journal, name, from, LOG_LINES_MAX);
    bool is_known = function_find(d, name) != SCHED_NONE ||
                    json_array_size(json_object_get(lines, "lines")) > 0 || from > 0;
    if (is_known) {
        exchange_json(x, 200, lines);
        return;
    }
    json_decref(lines);
    not_found(x, name);
}

/* What follows `prefix` in the path; NULL: it is another path. */
static const char *after(const char *path, const char *prefix)
{
    size_t len = strlen(prefix);
    return strncmp(path, prefix, len) == 0 && path[len] != '\0' ? path + len : NULL;
}

void admin_request(void *context, struct exchange *x, const char *method, const char *path,
                   const json_t *body)
{
    struct daemon *d = context;
    exchange_set_context(x, NULL);
    bool is_get = strcmp(method, "GET") == 0, is_post = strcmp(method, "POST") == 0;
    const char *function = after(path, "/admin/functions/");
    const char *owner = after(path, "/admin/owners/"), *log = after(path, "/admin/logs/");
    if (is_get && strcmp(path, "/admin/status") == 0)
        admin_status(d, x);
    else if (is_get && strcmp(path, "/admin/plan") == 0)
        admin_plan(d, x);
    else if (is_get && strcmp(path, "/admin/usage") == 0)
        admin_usage(d, x);
    else if (is_get && strcmp(path, "/admin/functions") == 0)
        list_functions(d, x);
    else if (is_post && strcmp(path, "/admin/functions") == 0)
        admin_deploy(d, x, body);
    else if (is_get && function != NULL)
        describe_function(d, x, function);
    else if (function != NULL && strcmp(method, "DELETE") == 0)
        remove_function(d, x, function);
    else if (is_post && owner != NULL)
        put_owner(d, x, owner, body);
    else if (is_get && log != NULL)
        logs(d, x, log);
    else
        exchange_error(x, 404, "unknown_url", NULL, 0, "no such admin request");
}
