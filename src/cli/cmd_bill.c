/*
 * `sllora bill`: what was used, by whom, and what it costs. It reads the ledger in the data
 * directory itself, so it answers whether or not the server runs.
 */
#include "cli/cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "cli/when.h"
#include "store/ledger.h"
#include "store/ledger_bill.h"

enum { OPT_OWNER = 256, OPT_FUNCTION, OPT_SINCE, OPT_UNTIL, OPT_BY };

struct bill_arguments {
    struct cli_common common;
    struct ledger_query query;
    uint64_t now_us;
};

static const struct argp_option options[] = {
    {"owner", OPT_OWNER, "NAME", 0, "of this owner alone", 1},
    {"function", OPT_FUNCTION, "NAME", 0, "of this function alone", 1},
    {"since", OPT_SINCE, "TIME", 0,
     "from then on: 2025-11-25, 2025-11-25T09:30:00Z, or 2h, 7d before now", 1},
    {"until", OPT_UNTIL, "TIME", 0, "before then", 1},
    {"by", OPT_BY, "WHAT", 0, "function (the default), owner or day (UTC)", 1},
    {0},
};

static uint64_t parse_time(const struct bill_arguments *a, const struct argp_state *state,
                           const char *flag, const char *arg)
{
    uint64_t us = 0;
    if (when_parse(arg, a->now_us, &us) < 0)
        argp_error(state,
                   "--%s takes 2025-11-25, 2025-11-25T09:30:00Z, or 90s, 30m, 2h, 7d, 4w before "
                   "now, not \"%s\"",
                   flag, arg);
    return us;
}

static enum ledger_group parse_group(const struct argp_state *state, const char *arg)
{
    static const char *const names[] = {
        [LEDGER_BY_FUNCTION] = "function", [LEDGER_BY_OWNER] = "owner", [LEDGER_BY_DAY] = "day"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(arg, names[i]) == 0)
            return (enum ledger_group)i;
    }
    argp_error(state, "--by takes function, owner or day, not \"%s\"", arg);
    return LEDGER_BY_FUNCTION;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct bill_arguments *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->common;
        return 0;
    case OPT_OWNER:
        a->query.owner = arg;
        return 0;
    case OPT_FUNCTION:
        a->query.function = arg;
        return 0;
    case OPT_SINCE:
        a->query.since_us = parse_time(a, state, "since", arg);
        return 0;
    case OPT_UNTIL:
        a->query.until_us = parse_time(a, state, "until", arg);
        return 0;
    case OPT_BY:
        a->query.group = parse_group(state, arg);
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument \"%s\"", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* --- for people --- */

#define GIB 1073741824.0

static const char *usd_text(uint64_t nano, char to[32])
{
    snprintf(to, 32, "%" PRIu64 ".%09" PRIu64, nano / 1000000000, nano % 1000000000);
    return to;
}

static void print_head(enum ledger_group group)
{
    const char *what = group == LEDGER_BY_FUNCTION ? "FUNCTION"
                       : group == LEDGER_BY_OWNER  ? "OWNER"
                                                   : "DAY";
    printf("%-20s %-12s %13s %13s %13s %13s %13s %13s %14s %13s %14s\n", what,
           group == LEDGER_BY_FUNCTION ? "OWNER" : "", "REQUESTS", "PROMPT", "OF IT CACHED",
           "GENERATED", "DEVICE s", "OWN GiB s", "BACKBONE GiB s", "IDLE GiB s", "TOTAL");
}

/* What was used, and below each number what it costs. */
static void print_line(const char *name, const char *owner, const struct ledger_line *l)
{
    const struct price_items *p = &l->price;
    char usd[9][32];
    printf("%-20s %-12s %13" PRIu64 " %13" PRIu64 " %13" PRIu64 " %13" PRIu64
           " %13.3f %13.4f %14.4f %13.4f\n",
           name, owner, l->requests, l->prompt_tokens, l->cached_tokens, l->new_tokens,
           (double)l->device_us / 1e6, l->own_byte_s / GIB, l->backbone_byte_s / GIB,
           l->idle_byte_s / GIB);
    printf("%-20s %-12s %13s %13s %13s %13s %13s %13s %14s %13s %14s\n", "", "USD",
           usd_text(p->request, usd[0]), usd_text(p->prompt, usd[1]), usd_text(p->cached, usd[2]),
           usd_text(p->generated, usd[3]), usd_text(p->device, usd[4]), usd_text(p->own, usd[5]),
           usd_text(p->backbone, usd[6]), usd_text(p->idle, usd[7]),
           usd_text(price_total(p), usd[8]));
}

static const char *time_text(uint64_t us, char to[32])
{
    time_t s = (time_t)(us / 1000000);
    struct tm tm;
    if (gmtime_r(&s, &tm) == NULL || strftime(to, 32, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
        snprintf(to, 32, "?");
    return to;
}

static void print_sum(const struct ledger_sum *s)
{
    char from[32], to[32];
    printf("\nHow it adds up over %" PRIu32 " %s of the server, %s to %s, all owners:\n", s->runs,
           s->runs == 1 ? "run" : "runs", time_text(s->started_us, from),
           time_text(s->updated_us, to));
    printf("%-33s %14s %14s\n", "", "GiB s", "DEVICE s");
    printf("%-33s %14.4f %14.3f\n", "billed for requests", s->receipts_byte_s / GIB,
           (double)s->billed_device_us / 1e6);
    printf("%-33s %14.4f\n", "billed for memory kept idle", s->idle_byte_s / GIB);
    printf("%-33s %14.4f\n", "the platform's, for nobody", s->platform_byte_s / GIB);
    printf("%-33s %14.4f %14.3f\n", "still open when last written", s->open_byte_s / GIB,
           (double)s->open_device_us / 1e6);
    printf("%-33s %14.4f %14.3f\n", "in all", s->byte_s / GIB, (double)s->device_us / 1e6);
}

/* --- for machines --- */

static json_t *line_json(const struct ledger_line *l)
{
    const struct price_items *p = &l->price;
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
        "s:I}}",
        "requests", (json_int_t)l->requests, "lost", (json_int_t)l->lost, "prompt_tokens",
        (json_int_t)l->prompt_tokens, "cached_tokens", (json_int_t)l->cached_tokens, "new_tokens",
        (json_int_t)l->new_tokens, "device_us", (json_int_t)l->device_us, "own_byte_s",
        l->own_byte_s, "backbone_byte_s", l->backbone_byte_s, "idle_byte_s", l->idle_byte_s,
        "nanousd", "request", (json_int_t)p->request, "prompt", (json_int_t)p->prompt, "cached",
        (json_int_t)p->cached, "new", (json_int_t)p->generated, "device", (json_int_t)p->device,
        "own", (json_int_t)p->own, "backbone", (json_int_t)p->backbone, "idle", (json_int_t)p->idle,
        "total", (json_int_t)price_total(p));
}

static void print_line_json(const struct ledger_line *l, enum ledger_group group)
{
    json_t *o = line_json(l);
    if (group == LEDGER_BY_FUNCTION)
        json_object_set_new(o, "function", json_string(l->function));
    if (group == LEDGER_BY_DAY)
        json_object_set_new(o, "day", json_string(l->day));
    else
        json_object_set_new(o, "owner", json_string(l->owner));
    cli_print_json(o);
    json_decref(o);
}

static void print_totals_json(const struct ledger_line *total, const struct ledger_sum *s)
{
    json_t *o = line_json(total);
    json_t *sum =
        json_pack("{s:I, s:I, s:I, s:b, s:{s:f, s:f, s:f, s:f, s:f}, s:{s:I, s:I, s:I}}", "runs",
                  (json_int_t)s->runs, "started_us", (json_int_t)s->started_us, "updated_us",
                  (json_int_t)s->updated_us, "adds_up", s->adds_up, "memory_byte_s", "requests",
                  s->receipts_byte_s, "idle", s->idle_byte_s, "platform", s->platform_byte_s,
                  "open", s->open_byte_s, "total", s->byte_s, "device_us", "requests",
                  (json_int_t)s->billed_device_us, "open", (json_int_t)s->open_device_us, "total",
                  (json_int_t)s->device_us);
    json_object_set_new(o, "sum", sum);
    o = json_pack("{s:o}", "totals", o);
    cli_print_json(o);
    json_decref(o);
}

/* --- the bill --- */

struct printing {
    bool json;
    enum ledger_group group;
    uint64_t lines;
    struct ledger_line total;
};

static void add(struct ledger_line *to, const struct ledger_line *l)
{
    to->requests += l->requests;
    to->lost += l->lost;
    to->prompt_tokens += l->prompt_tokens;
    to->cached_tokens += l->cached_tokens;
    to->new_tokens += l->new_tokens;
    to->device_us += l->device_us;
    to->own_byte_s += l->own_byte_s;
    to->backbone_byte_s += l->backbone_byte_s;
    to->idle_byte_s += l->idle_byte_s;
    to->price.own += l->price.own;
    to->price.backbone += l->price.backbone;
    to->price.idle += l->price.idle;
    to->price.device += l->price.device;
    to->price.request += l->price.request;
    to->price.prompt += l->price.prompt;
    to->price.cached += l->price.cached;
    to->price.generated += l->price.generated;
}

static int on_line(void *context, const struct ledger_line *l)
{
    struct printing *p = context;
    if (p->json) {
        print_line_json(l, p->group);
    } else {
        if (p->lines == 0)
            print_head(p->group);
        print_line(p->group == LEDGER_BY_FUNCTION ? l->function
                   : p->group == LEDGER_BY_OWNER  ? l->owner
                                                  : l->day,
                   p->group == LEDGER_BY_FUNCTION ? l->owner : "", l);
    }
    p->lines++;
    add(&p->total, l);
    return 0;
}

static int print_bill(struct ledger_reader *ledger, const struct bill_arguments *a,
                      struct ledger_sum *ret_sum, struct error *err)
{
    struct printing p = {.json = a->common.json, .group = a->query.group};
    int r = ledger_sum(ledger, a->query.since_us, a->query.until_us, ret_sum, err);
    if (r == 0)
        r = ledger_bill(ledger, &a->query, on_line, &p, err);
    if (r < 0)
        return r;
    if (p.json) {
        print_totals_json(&p.total, ret_sum);
        return 0;
    }
    if (p.lines == 0)
        printf("nothing was used then\n");
    if (p.lines > 1)
        print_line("all", "", &p.total);
    if (p.total.lost > 0)
        printf("Requests lost with their worker, which cost nothing: %" PRIu64 "\n", p.total.lost);
    if (ret_sum->runs > 0)
        print_sum(ret_sum);
    return 0;
}

int cmd_bill(int argc, char **argv)
{
    static const struct argp_child children[] = {{&cli_common_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .doc = "Shows what requests and idle memory used and cost, item by item, and how that "
               "adds up to all that the devices did. Reads the ledger in the data directory, "
               "whether or not the server runs. Exit status 1 when it does not add up.",
        .children = children,
    };
    struct bill_arguments a = {.query = {.until_us = LEDGER_NOW}, .now_us = clock_wall_us()};
    struct ledger_reader *ledger;
    struct ledger_sum sum;
    struct error err = {0};
    cli_common_init(&a.common);
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    char path[sizeof a.common.data_dir + 32];
    snprintf(path, sizeof path, "%s/" LEDGER_FILE, a.common.data_dir);
    int r = ledger_reader_open(&ledger, path, &err);
    if (r == 0) {
        r = print_bill(ledger, &a, &sum, &err);
        ledger_reader_close(ledger);
    }
    if (r < 0) {
        cli_complain("bill", "%s", err.text);
        return CLI_FAILED;
    }
    if (!sum.adds_up) {
        cli_complain("bill", "this does not add up: more was billed than was used; keep the ledger "
                             "and report it");
        return CLI_FAILED;
    }
    return CLI_OK;
}
