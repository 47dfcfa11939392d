/* `sllora top`: the running service, drawn anew every second. */
#include "cli/cli.h"

#include "base/clock.h"

#include <argp.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BAR_CELLS 60
#define LINES_DEFAULT 40

struct top_arguments {
    struct cli_common common;
    double interval_s;
    uint64_t count; /* 0: until ^C */
};

static const struct argp_option options[] = {
    {"interval", 'i', "SECONDS", 0, "between two looks (1)", 1},
    {"count", 'n', "N", 0, "looks, then end (until ^C)", 1},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct top_arguments *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->common;
        return 0;
    case 'i':
        a->interval_s = cli_number(state, "interval", arg, 0.1, 3600);
        return 0;
    case 'n':
        a->count = cli_whole(state, "count", arg, 1, 1000000);
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument \"%s\"", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static double number_of(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

/* What the last look saw, for what passed since. */
struct look {
    bool is_first;
    double device_s;
    uint64_t at_us;
};

/* --- devices --- */

static void draw_bar(const json_t *memory, double budget)
{
    static const struct {
        const char *key;
        char cell;
    } parts[] = {{"backbones", 'B'}, {"adapters", 'A'}, {"processes", 'W'}, {"kv", 'K'}};
    char bar[BAR_CELLS + 1];
    double sum = 0;
    int at = 0;
    memset(bar, '.', BAR_CELLS);
    bar[BAR_CELLS] = '\0';
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        sum += number_of(memory, parts[i].key);
        int end = budget > 0 ? (int)lround(BAR_CELLS * sum / budget) : 0;
        for (; at < end && at < BAR_CELLS; at++)
            bar[at] = parts[i].cell;
    }
    printf("  [%s]\n ", bar);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        char text[32];
        printf(" %c %s %s", parts[i].cell, parts[i].key,
               cli_bytes_text(number_of(memory, parts[i].key), text, sizeof text));
    }
    printf("\n");
}

/* The memory below a GPU's. */
static void draw_host(const json_t *host)
{
    char used[32], budget[32];
    if (host == NULL)
        return;
    printf("host  memory %s of %s\n",
           cli_bytes_text(number_of(host, "used_bytes"), used, sizeof used),
           cli_bytes_text(number_of(host, "budget_bytes"), budget, sizeof budget));
    draw_bar(json_object_get(host, "memory"), number_of(host, "budget_bytes"));
}

static void draw_devices(const json_t *status, struct look *look)
{
    size_t i;
    json_t *v;
    double device_s = 0;
    uint64_t now_us = clock_now_us();
    json_array_foreach(json_object_get(status, "devices"), i, v)
    {
        char used[32], budget[32];
        device_s += number_of(v, "device_s");
        double passed_s = (double)(now_us - look->at_us) / 1e6;
        double busy =
            look->is_first || passed_s <= 0 ? 0 : 100 * (device_s - look->device_s) / passed_s;
        printf(
            "%s  busy %3.0f %%  backlog %.0f ms  contention %.1f  %d processes  memory %s of %s\n",
            json_string_value(json_object_get(v, "name")), fmin(busy, 100),
            number_of(v, "backlog_ms"), number_of(v, "contention"), (int)number_of(v, "workers"),
            cli_bytes_text(number_of(v, "used_bytes"), used, sizeof used),
            cli_bytes_text(number_of(v, "budget_bytes"), budget, sizeof budget));
        draw_bar(json_object_get(v, "memory"), number_of(v, "budget_bytes"));
    }
    draw_host(json_object_get(status, "host"));
    *look = (struct look){.device_s = device_s, .at_us = now_us};
}

/* --- functions --- */

/* Those that do something first, then those that did most. */
static int compare(const void *a, const void *b)
{
    const json_t *x = *(json_t *const *)a, *y = *(json_t *const *)b;
    double live_x = number_of(x, "running") + number_of(x, "waiting");
    double live_y = number_of(y, "running") + number_of(y, "waiting");
    if (live_x != live_y)
        return live_x < live_y ? 1 : -1;
    double asked_x = number_of(json_object_get(x, "totals"), "requests");
    double asked_y = number_of(json_object_get(y, "totals"), "requests");
    if (asked_x != asked_y)
        return asked_x < asked_y ? 1 : -1;
    return strcmp(json_string_value(json_object_get(x, "name")),
                  json_string_value(json_object_get(y, "name")));
}

static void put_ms(const json_t *totals, const char *key)
{
    const json_t *v = json_object_get(totals, key);
    if (json_is_number(v))
        printf(" %8.0f", json_number_value(v));
    else
        printf(" %8s", "-");
}

static void draw_function(const json_t *f)
{
    const json_t *totals = json_object_get(f, "totals");
    printf("%-20.20s %-12.12s %-8s %4.0f %4.0f %8.0f",
           json_string_value(json_object_get(f, "name")),
           json_string_value(json_object_get(f, "owner")),
           json_string_value(json_object_get(f, "state")), number_of(f, "waiting"),
           number_of(f, "running"), number_of(totals, "requests"));
    put_ms(totals, "ttft_ms_p50");
    put_ms(totals, "ttft_ms_p95");
    printf(" %9.1f %11.6f\n", number_of(totals, "gb_s"), number_of(totals, "cost_usd"));
}

static void draw_functions(const json_t *document, int lines)
{
    const json_t *functions = json_object_get(document, "functions");
    size_t count = json_array_size(functions), i;
    json_t **sorted = calloc(count > 0 ? count : 1, sizeof(json_t *)), *f;
    if (sorted == NULL)
        return;
    json_array_foreach(functions, i, f) sorted[i] = f;
    qsort(sorted, count, sizeof(json_t *), compare);
    printf("\n%-20s %-12s %-8s %4s %4s %8s %8s %8s %9s %11s\n", "FUNCTION", "OWNER", "STATE",
           "WAIT", "RUN", "REQUESTS", "TTFT P50", "P95 MS", "GB S", "USD");
    for (i = 0; i < count && (int)i < lines; i++)
        draw_function(sorted[i]);
    if ((int)count > lines)
        printf("... and %zu more\n", count - (size_t)lines);
    free(sorted);
}

static void draw(const json_t *status, const json_t *functions, struct look *look)
{
    struct winsize size = {0};
    bool is_terminal = isatty(STDOUT_FILENO);
    int lines = LINES_DEFAULT;
    if (is_terminal && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 10)
        lines = size.ws_row - 9;
    if (is_terminal)
        printf("\033[H\033[J");
    printf("sllora  up %.0f s  %.0f running, %.0f waiting, %.0f spare  objectives met %.0f, missed "
           "%.0f  USD %.6f\n",
           number_of(status, "uptime_s"), number_of(status, "requests_running"),
           number_of(status, "requests_waiting"), number_of(status, "spares"),
           number_of(status, "objectives_met"), number_of(status, "objectives_missed"),
           number_of(status, "cost_usd"));
    draw_devices(status, look);
    draw_functions(functions, lines);
    fflush(stdout);
}

int cmd_top(int argc, char **argv)
{
    static const struct argp_child children[] = {{&cli_common_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .doc = "Shows devices, memory by what it holds, and functions with their state, queue, "
               "time to the first token and cost, anew every second.",
        .children = children,
    };
    struct top_arguments a = {.interval_s = 1};
    struct look look = {.is_first = true};
    cli_common_init(&a.common);
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    for (uint64_t i = 0; a.count == 0 || i < a.count; i++) {
        json_t *status, *functions;
        if (i > 0)
            usleep((useconds_t)(a.interval_s * 1e6));
        int result = cli_ask("top", &a.common, "GET", "/admin/status", NULL, &status);
        if (result != CLI_OK)
            return result;
        result = cli_ask("top", &a.common, "GET", "/admin/functions", NULL, &functions);
        if (result == CLI_OK && a.common.json) {
            json_object_update(status, functions);
            cli_print_json(status);
        } else if (result == CLI_OK) {
            draw(status, functions, &look);
        }
        json_decref(status);
        if (result != CLI_OK)
            return result;
        json_decref(functions);
    }
    return CLI_OK;
}
