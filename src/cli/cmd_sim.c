/* `sllora sim`: the scheduler core without machines. */
#include "cli/cli.h"

#include "sim/replay.h"

#include <argp.h>
#include <stdio.h>

enum { OPT_LOG = 256 };

struct sim_arguments {
    struct cli_common common;
    const char *log;
};

static const struct argp_option options[] = {
    {"log", OPT_LOG, "FILE", 0, "an event log of `sllora serve` (DATA/events.log)", 1},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct sim_arguments *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->common;
        return 0;
    case OPT_LOG:
        a->log = arg;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument \"%s\"", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int cmd_sim(int argc, char **argv)
{
    static const struct argp_child children[] = {{&cli_common_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .doc =
            "Replays the event log of a live run through the scheduler and compares every action "
            "with what was done then. Exit status 1 when they differ.",
        .children = children,
    };
    struct sim_arguments a = {0};
    struct replay_result r;
    struct error err = {0};
    cli_common_init(&a.common);
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    char path[4200];
    snprintf(path, sizeof path, "%s/events.log", a.common.data_dir);
    if (replay_log(a.log != NULL ? a.log : path, &r, &err) < 0) {
        cli_complain("sim", "%s", err.text);
        return CLI_FAILED;
    }
    if (a.common.json) {
        json_t *o =
            json_pack("{s:I, s:I, s:I, s:b, s:b, s:s}", "events", (json_int_t)r.events, "plans",
                      (json_int_t)r.plans, "actions", (json_int_t)r.actions, "complete", r.complete,
                      "identical", r.identical, "difference", r.difference);
        cli_print_json(o);
        json_decref(o);
    } else {
        printf("%llu events, %llu plans, %llu actions: %s%s\n", (unsigned long long)r.events,
               (unsigned long long)r.plans, (unsigned long long)r.actions,
               r.identical ? "identical" : "they differ",
               r.complete ? "" : " (the log was full before the run ended)");
        if (!r.identical)
            printf("plan %llu: %s\n", (unsigned long long)r.differing_plan, r.difference);
    }
    return r.identical ? CLI_OK : CLI_FAILED;
}
