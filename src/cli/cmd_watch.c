/* `sllora plan, logs, owner`: what the scheduler means to do, what happened, who may have how much.
 */
#include "cli/cli.h"

#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NAME_CHARACTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
#define FOLLOW_US 500000

static const struct argp_child children[] = {{&cli_common_argp, 0, NULL, 0}, {0}};

static double number_of(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

/* --- plan --- */

static void print_item(const json_t *o)
{
    char bytes[32];
    bool present = json_is_true(json_object_get(o, "present"));
    bool chosen = json_is_true(json_object_get(o, "chosen"));
    printf("%-9s %-24.24s %10s %10.2f %12.4f %14.4f  %s%s\n",
           json_string_value(json_object_get(o, "kind")),
           json_string_value(json_object_get(o, "name")),
           cli_bytes_text(number_of(o, "bytes"), bytes, sizeof bytes), number_of(o, "saves_ms"),
           number_of(o, "value_ms_per_s"), number_of(o, "density_ms_per_s_gib"),
           present && chosen ? "kept"
           : present         ? "may go"
           : chosen          ? "to be loaded"
                             : "not worth it",
           json_is_true(json_object_get(o, "in_use")) ? ", in use" : "");
}

static void print_plan(const json_t *document)
{
    size_t i, j;
    json_t *place, *item;
    char used[32], budget[32];
    if (!json_is_true(json_object_get(document, "preloading")))
        printf("preloading is off (--no-preload); this is what it would do\n");
    json_array_foreach(json_object_get(document, "places"), i, place)
    {
        printf("%s: %s of %s\n", json_string_value(json_object_get(place, "name")),
               cli_bytes_text(number_of(place, "used_bytes"), used, sizeof used),
               cli_bytes_text(number_of(place, "budget_bytes"), budget, sizeof budget));
        printf("%-9s %-24s %10s %10s %12s %14s  %s\n", "KIND", "OF", "BYTES", "SAVES MS",
               "VALUE MS/S", "MS/S PER GIB", "PLAN");
        json_array_foreach(json_object_get(place, "items"), j, item) print_item(item);
    }
}

static error_t plan_parse(int key, char *arg, struct argp_state *state)
{
    if (key == ARGP_KEY_INIT)
        state->child_inputs[0] = state->input;
    else if (key == ARGP_KEY_ARG)
        argp_error(state, "unexpected argument \"%s\"", arg);
    else
        return ARGP_ERR_UNKNOWN;
    return 0;
}

int cmd_plan(int argc, char **argv)
{
    static const struct argp argp = {
        .parser = plan_parse,
        .doc = "Shows what the scheduler would have in memory ahead of need: for each backbone, "
               "spare process and adapter its bytes, the waiting that it saves when it is needed, "
               "what that is worth a second by the forecasts, and the same for a GiB, by which "
               "memory is given out.",
        .children = children,
    };
    struct cli_common common;
    json_t *document;
    cli_common_init(&common);
    argp_parse(&argp, argc, argv, 0, NULL, &common);
    int result = cli_ask("plan", &common, "GET", "/admin/plan", NULL, &document);
    if (result != CLI_OK)
        return result;
    if (common.json)
        cli_print_json(document);
    else
        print_plan(document);
    json_decref(document);
    return CLI_OK;
}

/* --- logs --- */

struct logs_arguments {
    struct cli_common common;
    const char *name;
    bool follow;
};

static const struct argp_option logs_options[] = {
    {"follow", 'f', NULL, 0, "wait for more, until ^C", 1},
    {0},
};

static error_t logs_parse(int key, char *arg, struct argp_state *state)
{
    struct logs_arguments *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->common;
        return 0;
    case 'f':
        a->follow = true;
        return 0;
    case ARGP_KEY_ARG:
        if (a->name != NULL || arg[strspn(arg, NAME_CHARACTERS)] != '\0' || strlen(arg) > 64)
            argp_error(state, "one function: \"%s\" is none", arg);
        a->name = arg;
        return 0;
    case ARGP_KEY_END:
        if (a->name == NULL)
            argp_error(state, "whose? sllora ls lists the functions");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void print_lines(const json_t *document, bool as_json)
{
    size_t i;
    json_t *l;
    json_array_foreach(json_object_get(document, "lines"), i, l)
    {
        char when[32];
        double at = number_of(l, "time");
        time_t second = (time_t)at;
        struct tm tm;
        if (as_json) {
            cli_print_json(l);
            continue;
        }
        gmtime_r(&second, &tm);
        strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &tm);
        printf("%s.%03dZ gen=%lld %s\n", when, (int)((at - (double)second) * 1e3),
               json_integer_value(json_object_get(l, "generation")),
               json_string_value(json_object_get(l, "text")));
    }
    fflush(stdout);
}

int cmd_logs(int argc, char **argv)
{
    static const struct argp argp = {
        .options = logs_options,
        .parser = logs_parse,
        .args_doc = "NAME",
        .doc = "Shows what happened to a function lately: loads, starts, each request with the "
               "parts of its waiting, its tokens and its cost, and refusals.",
        .children = children,
    };
    struct logs_arguments a = {0};
    json_int_t next = 0;
    cli_common_init(&a.common);
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    for (;;) {
        char path[160];
        json_t *document;
        snprintf(path, sizeof path, "/admin/logs/%s/%lld", a.name, (long long)next);
        if (next == 0)
            snprintf(path, sizeof path, "/admin/logs/%s", a.name);
        int result = cli_ask("logs", &a.common, "GET", path, NULL, &document);
        if (result != CLI_OK)
            return result;
        print_lines(document, a.common.json);
        json_int_t before = next;
        bool is_all = json_array_size(json_object_get(document, "lines")) == 0;
        next = json_integer_value(json_object_get(document, "next"));
        json_decref(document);
        if (!a.follow && (is_all || next == before))
            return CLI_OK;
        if (a.follow && is_all)
            usleep(FOLLOW_US);
    }
}

/* --- owner --- */

struct owner_arguments {
    struct cli_common common;
    const char *name;
    bool has_requests;
    uint32_t requests;
};

static const struct argp_option owner_options[] = {
    {"requests", 'n', "N", 0, "waiting or running at a time; 0: the server's default", 1},
    {0},
};

static error_t owner_parse(int key, char *arg, struct argp_state *state)
{
    struct owner_arguments *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->common;
        return 0;
    case 'n':
        a->has_requests = true;
        a->requests = (uint32_t)cli_whole(state, "requests", arg, 0, 1000000);
        return 0;
    case ARGP_KEY_ARG:
        if (a->name != NULL || arg[strspn(arg, NAME_CHARACTERS)] != '\0' || strlen(arg) > 64)
            argp_error(state, "one owner: \"%s\" is none", arg);
        a->name = arg;
        return 0;
    case ARGP_KEY_END:
        if (a->name == NULL || !a->has_requests)
            argp_error(state, "needed: a name and --requests N");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int cmd_owner(int argc, char **argv)
{
    static const struct argp argp = {
        .options = owner_options,
        .parser = owner_parse,
        .args_doc = "NAME",
        .doc = "Sets how many requests an owner may have waiting or running at a time. More are "
               "refused at once, with 429.",
        .children = children,
    };
    struct owner_arguments a = {0};
    char path[128];
    json_t *document;
    cli_common_init(&a.common);
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    snprintf(path, sizeof path, "/admin/owners/%s", a.name);
    json_t *body = json_pack("{s:I}", "requests", (json_int_t)a.requests);
    int result = cli_ask("owner", &a.common, "POST", path, body, &document);
    json_decref(body);
    if (result != CLI_OK)
        return result;
    if (a.common.json)
        cli_print_json(document);
    else if (a.requests > 0)
        printf("%s may have %u requests at a time\n", a.name, a.requests);
    else
        printf("%s may have as many requests as the server allows\n", a.name);
    json_decref(document);
    return CLI_OK;
}
