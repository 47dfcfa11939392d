/* `sllora ls, describe, rm, status`: functions by name, over the admin socket. */
#include "cli/cli.h"

#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct name_arguments {
    struct cli_common common;
    const char *name;
    bool wants_name;
};

static error_t name_parse(int key, char *arg, struct argp_state *state)
{
    struct name_arguments *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->common;
        return 0;
    case ARGP_KEY_ARG:
        if (!a->wants_name || a->name != NULL)
            argp_error(state, "unexpected argument \"%s\"", arg);
        a->name = arg;
        return 0;
    case ARGP_KEY_END:
        if (a->wants_name && a->name == NULL)
            argp_error(state, "which function? sllora ls lists them");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void parse_name(struct name_arguments *a, bool wants_name, const char *doc, int argc,
                       char **argv)
{
    static const struct argp_child children[] = {{&cli_common_argp, 0, NULL, 0}, {0}};
    const struct argp argp = {.parser = name_parse,
                              .args_doc = wants_name ? "NAME" : NULL,
                              .doc = doc,
                              .children = children};
    *a = (struct name_arguments){.wants_name = wants_name};
    cli_common_init(&a->common);
    argp_parse(&argp, argc, argv, 0, NULL, a);
}

static void print_function_row(const json_t *f)
{
    char adapter[32] = "none";
    const json_t *a = json_object_get(f, "adapter");
    const json_t *b = json_object_get(f, "backbone");
    const json_t *totals = json_object_get(f, "totals");
    if (json_is_object(a))
        cli_bytes_text(json_number_value(json_object_get(a, "bytes")), adapter, sizeof adapter);
    printf("%-20s %-12s %-8s %-9s %4lld  %-20.20s %10s %8lld\n",
           json_string_value(json_object_get(f, "name")),
           json_string_value(json_object_get(f, "owner")),
           json_string_value(json_object_get(f, "state")),
           json_string_value(json_object_get(f, "isolation")),
           json_integer_value(json_object_get(f, "generation")),
           json_string_value(json_object_get(b, "name")), adapter,
           json_integer_value(json_object_get(totals, "requests")));
}

int cmd_ls(int argc, char **argv)
{
    struct name_arguments a;
    json_t *document;
    parse_name(&a, false, "Lists the deployed functions.", argc, argv);
    int result = cli_ask("ls", &a.common, "GET", "/admin/functions", NULL, &document);
    if (result != CLI_OK)
        return result;
    const json_t *functions = json_object_get(document, "functions");
    size_t i;
    json_t *f;
    if (!a.common.json && json_array_size(functions) == 0)
        printf("no functions; make one with: sllora deploy NAME --backbone DIR --adapter DIR\n");
    else if (!a.common.json)
        printf("%-20s %-12s %-8s %-9s %4s  %-20s %10s %8s\n", "NAME", "OWNER", "STATE", "ISOLATION",
               "GEN", "BACKBONE", "ADAPTER", "REQUESTS");
    json_array_foreach(functions, i, f)
    {
        if (a.common.json)
            cli_print_json(f);
        else
            print_function_row(f);
    }
    json_decref(document);
    return CLI_OK;
}

static void path_of(const char *name, char *to, size_t bytes)
{
    /* Names need no escapes; what is none gets the server's 404. */
    snprintf(to, bytes, "/admin/functions/%.*s",
             (int)strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."),
             name);
}

int cmd_describe(int argc, char **argv)
{
    struct name_arguments a;
    json_t *document;
    char path[512];
    parse_name(&a, true, "Shows everything about one function.", argc, argv);
    path_of(a.name, path, sizeof path);
    int result = cli_ask("describe", &a.common, "GET", path, NULL, &document);
    if (result != CLI_OK)
        return result;
    if (a.common.json) {
        cli_print_json(document);
    } else {
        json_dumpf(document, stdout, JSON_INDENT(2));
        putchar('\n');
    }
    json_decref(document);
    return CLI_OK;
}

int cmd_rm(int argc, char **argv)
{
    struct name_arguments a;
    json_t *document;
    char path[512];
    parse_name(&a, true, "Removes a function. What it is running ends undisturbed.", argc, argv);
    path_of(a.name, path, sizeof path);
    int result = cli_ask("rm", &a.common, "DELETE", path, NULL, &document);
    if (result != CLI_OK)
        return result;
    long long finishing = json_integer_value(json_object_get(document, "finishing"));
    if (a.common.json)
        cli_print_json(document);
    else if (finishing > 0)
        printf("removed %s; %lld requests are finishing\n", a.name, finishing);
    else
        printf("removed %s\n", a.name);
    json_decref(document);
    return CLI_OK;
}

static void print_status(const json_t *d)
{
    char used[32], budget[32], bytes[32];
    size_t i;
    json_t *o;
    printf("pid %lld, up %lld s, %lld running, %lld waiting, memory %s of %s\n",
           json_integer_value(json_object_get(d, "pid")),
           json_integer_value(json_object_get(d, "uptime_s")),
           json_integer_value(json_object_get(d, "requests_running")),
           json_integer_value(json_object_get(d, "requests_waiting")),
           cli_bytes_text(json_number_value(json_object_get(d, "memory_bytes")), used, sizeof used),
           cli_bytes_text(json_number_value(json_object_get(d, "memory_budget_bytes")), budget,
                          sizeof budget));
    json_array_foreach(json_object_get(d, "backbones"), i, o)
        printf("backbone %-20s %-4s %10s  %s, %lld functions, %lld KiB pages\n",
               json_string_value(json_object_get(o, "name")),
               json_string_value(json_object_get(o, "quant")),
               cli_bytes_text(json_number_value(json_object_get(o, "bytes")), bytes, sizeof bytes),
               json_is_true(json_object_get(o, "resident")) ? "resident" : "on disk",
               json_integer_value(json_object_get(o, "functions")),
               json_integer_value(json_object_get(o, "page_bytes")) / 1024);
    json_array_foreach(json_object_get(d, "workers"), i, o)
    {
        printf(
            "worker   pid %-8lld KV %10s  ", json_integer_value(json_object_get(o, "pid")),
            cli_bytes_text(json_number_value(json_object_get(o, "kv_bytes")), bytes, sizeof bytes));
        size_t j;
        json_t *f;
        json_array_foreach(json_object_get(o, "functions"), j, f)
            printf("%s%s", j > 0 ? ", " : "", json_string_value(json_object_get(f, "name")));
        putchar('\n');
    }
}

int cmd_status(int argc, char **argv)
{
    struct name_arguments a;
    json_t *document;
    parse_name(&a, false, "Shows the running service: backbones, workers, memory.", argc, argv);
    int result = cli_ask("status", &a.common, "GET", "/admin/status", NULL, &document);
    if (result != CLI_OK)
        return result;
    if (a.common.json)
        cli_print_json(document);
    else
        print_status(document);
    json_decref(document);
    return CLI_OK;
}
