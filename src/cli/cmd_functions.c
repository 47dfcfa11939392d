/* `sllora deploy, ls, describe, rm, status`: functions by name, over the admin socket. */
#include "cli/cli.h"
#include "cli/client.h"

#include <argp.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Says what the server said, and what it means for the exit status. */
static int refused(const char *command, int status, json_t *document)
{
    const char *message = NULL;
    json_unpack(document, "{s:{s:s}}", "error", "message", &message);
    if (message != NULL)
        cli_complain(command, "%s", message);
    else
        cli_complain(command, "the server answered with status %d", status);
    return status == 404 ? CLI_NOT_FOUND : CLI_FAILED;
}

/* One request, one JSON answer. CLI_OK with *ret_document, or a status that has been explained. */
static int ask(const char *command, const struct cli_common *common, const char *method,
               const char *path, json_t **ret_document)
{
    struct error err = {0};
    struct client *client;
    json_t *document = NULL;
    int status = client_open(&client, common->data_dir, &err);
    if (status == 0) {
        status = client_json(client, method, path, NULL, &document, &err);
        client_close(client);
    }
    int result = CLI_OK;
    if (status < 0) {
        cli_complain(command, "%s", err.text);
        result = status == -ECONNREFUSED ? CLI_NO_SERVER : CLI_FAILED;
    } else if (status != 200 || document == NULL) {
        result = refused(command, status, document);
    }
    if (result != CLI_OK) {
        json_decref(document);
        return result;
    }
    *ret_document = document;
    return CLI_OK;
}

/* --- deploy --- */

enum { OPT_BACKBONE = 256, OPT_ADAPTER, OPT_OWNER, OPT_ISOLATION, OPT_QUANT };

struct deploy_arguments {
    struct cli_common common;
    const char *name;
    const char *backbone;
    const char *adapter;
    const char *owner;
    const char *isolation;
    const char *quant;
};

static const struct argp_option deploy_options[] = {
    {"backbone", OPT_BACKBONE, "DIR", 0, "a Hugging Face checkpoint directory", 1},
    {"adapter", OPT_ADAPTER, "DIR", 0, "a PEFT adapter directory; without it the bare backbone", 1},
    {"owner", OPT_OWNER, "NAME", 0, "who it belongs to (default)", 1},
    {"isolation", OPT_ISOLATION, "function|owner|shared", 0,
     "who shares its process: nobody, its owner's functions, every shared one (owner)", 1},
    {"quant", OPT_QUANT, "bf16|f32", 0, "how matrices are kept (bf16)", 1},
    {0},
};

static error_t deploy_parse(int key, char *arg, struct argp_state *state)
{
    struct deploy_arguments *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->common;
        return 0;
    case OPT_BACKBONE:
        a->backbone = arg;
        return 0;
    case OPT_ADAPTER:
        a->adapter = arg;
        return 0;
    case OPT_OWNER:
        a->owner = arg;
        return 0;
    case OPT_ISOLATION:
        a->isolation = arg;
        return 0;
    case OPT_QUANT:
        a->quant = arg;
        return 0;
    case ARGP_KEY_ARG:
        if (a->name != NULL)
            argp_error(state, "one function at a time: \"%s\" is too much", arg);
        a->name = arg;
        return 0;
    case ARGP_KEY_END:
        if (a->name == NULL || a->backbone == NULL)
            argp_error(state, "needed: a name and --backbone DIR");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

struct deploy_progress {
    const struct deploy_arguments *arguments;
    bool terminal;
    bool deployed;
    bool explained;
};

static void draw_bar(const char *part, double done, double total)
{
    int width = total > 0 ? (int)(30 * done / total) : 0;
    char a[32], b[32];
    fprintf(stderr, "\r%-8s [%-30.*s] %s of %s   ", part, width, "##############################",
            cli_bytes_text(done, a, sizeof a), cli_bytes_text(total, b, sizeof b));
    fflush(stderr);
}

static int on_deploy_line(void *context, const char *line, size_t len)
{
    struct deploy_progress *p = context;
    json_t *o = json_loadb(line, len, JSON_REJECT_DUPLICATES, NULL);
    const char *state = json_string_value(json_object_get(o, "state"));
    if (state == NULL) {
        json_decref(o);
        return 0;
    }
    if (p->arguments->common.json)
        cli_print_json(o);
    if (strcmp(state, "packing") == 0) {
        if (p->terminal)
            draw_bar(json_string_value(json_object_get(o, "part")),
                     json_number_value(json_object_get(o, "done")),
                     json_number_value(json_object_get(o, "total")));
    } else {
        if (p->terminal)
            fprintf(stderr, "\r%72s\r", "");
        p->deployed = strcmp(state, "deployed") == 0;
        p->explained = true;
        const char *message = json_string_value(json_object_get(o, "error"));
        if (!p->deployed)
            cli_complain("deploy", "%s", message != NULL ? message : "refused");
        else if (!p->arguments->common.json)
            printf("deployed %s generation %lld in %.0f ms (backbone %.12s, adapter %.12s)\n",
                   p->arguments->name, json_integer_value(json_object_get(o, "generation")),
                   json_number_value(json_object_get(o, "ms")),
                   json_string_value(json_object_get(o, "backbone")),
                   json_is_string(json_object_get(o, "adapter"))
                       ? json_string_value(json_object_get(o, "adapter"))
                       : "none");
    }
    json_decref(o);
    return 0;
}

static int put_path(json_t *body, const char *key, const char *path)
{
    char absolute[PATH_MAX];
    if (realpath(path, absolute) == NULL) {
        cli_complain("deploy", "--%s %s: %s", key, path, strerror(errno));
        return -1;
    }
    return json_object_set_new(body, key, json_string(absolute));
}

static int deploy_body(const struct deploy_arguments *a, json_t *body)
{
    int r = json_object_set_new(body, "name", json_string(a->name));
    if (r == 0)
        r = put_path(body, "backbone", a->backbone);
    if (r == 0 && a->adapter != NULL)
        r = put_path(body, "adapter", a->adapter);
    if (r == 0 && a->owner != NULL)
        r = json_object_set_new(body, "owner", json_string(a->owner));
    if (r == 0 && a->isolation != NULL)
        r = json_object_set_new(body, "isolation", json_string(a->isolation));
    if (r == 0 && a->quant != NULL)
        r = json_object_set_new(body, "quant", json_string(a->quant));
    return r;
}

static int deploy(const struct deploy_arguments *a, const json_t *body)
{
    struct deploy_progress progress = {.arguments = a,
                                       .terminal = isatty(STDERR_FILENO) && !a->common.json};
    struct error err = {0};
    struct client *client;
    json_t *document = NULL;
    int status = client_open(&client, a->common.data_dir, &err);
    if (status == 0) {
        status = client_lines(client, "POST", "/admin/functions", body, on_deploy_line, &progress,
                              &document, &err);
        client_close(client);
    }
    int result = progress.deployed ? CLI_OK : CLI_FAILED;
    if (status < 0 && !progress.explained) {
        cli_complain("deploy", "%s", err.text);
        result = status == -ECONNREFUSED ? CLI_NO_SERVER : CLI_FAILED;
    } else if (!progress.explained) {
        result = refused("deploy", status, document);
    }
    json_decref(document);
    return result;
}

int cmd_deploy(int argc, char **argv)
{
    static const struct argp_child children[] = {{&cli_common_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {
        .options = deploy_options,
        .parser = deploy_parse,
        .args_doc = "NAME",
        .doc = "Makes NAME a function: checks and packs the files (once per content), stores them, "
               "and serves NAME as a model. A name that exists gets a new generation; requests in "
               "flight finish on the old one.\v"
               "Example: sllora deploy support --backbone ./Qwen2.5-0.5B-Instruct "
               "--adapter ./adapters/support --owner acme",
        .children = children,
    };
    struct deploy_arguments a = {0};
    cli_common_init(&a.common);
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    json_t *body = json_object();
    int result = deploy_body(&a, body) == 0 ? deploy(&a, body) : CLI_FAILED;
    json_decref(body);
    return result;
}

/* --- ls, describe, rm, status --- */

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
    int result = ask("ls", &a.common, "GET", "/admin/functions", &document);
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
    int result = ask("describe", &a.common, "GET", path, &document);
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
    int result = ask("rm", &a.common, "DELETE", path, &document);
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
        printf("backbone %-20s %10s  %s, %lld functions, %lld KiB pages\n",
               json_string_value(json_object_get(o, "name")),
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
        json_t *name;
        json_array_foreach(json_object_get(o, "functions"), j, name)
            printf("%s%s", j > 0 ? ", " : "", json_string_value(name));
        putchar('\n');
    }
}

int cmd_status(int argc, char **argv)
{
    struct name_arguments a;
    json_t *document;
    parse_name(&a, false, "Shows the running service: backbones, workers, memory.", argc, argv);
    int result = ask("status", &a.common, "GET", "/admin/status", &document);
    if (result != CLI_OK)
        return result;
    if (a.common.json)
        cli_print_json(document);
    else
        print_status(document);
    json_decref(document);
    return CLI_OK;
}
