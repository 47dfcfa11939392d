/*
 * `sllora sim`: the scheduler core without machines. Without a mode it replays a live run's event
 * log; every mode is a line of a table and a function of cli/sim.h.
 */
#include "cli/sim.h"
#include "sim/replay.h"

#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    OPT_LOG = 256,
    OPT_PAPER,
    OPT_SCALE,
    OPT_PLAN_COST,
    OPT_CAPACITY,
    OPT_TRACE,
    OPT_REPORT,
    OPT_PROFILE,
    OPT_SYSTEM,
    OPT_FUNCTIONS,
    OPT_DEVICES,
    OPT_MEMORY,
    OPT_KV,
    OPT_ADAPTER,
    OPT_TRACES,
    OPT_HOURS,
    OPT_DURATION,
    OPT_RATE,
    OPT_COV,
    OPT_ZIPF,
    OPT_SPEED,
    OPT_SKIP,
    OPT_PROMPT_TOKENS,
    OPT_NEW_TOKENS,
    OPT_SEED,
    OPT_SLO_TTFT,
    OPT_SLO_TPOT,
    OPT_REFUSE_LATE,
    OPT_ISOLATION,
    OPT_OWNERS,
    OPT_NO_SHARING,
    OPT_NO_PRELOAD,
    OPT_NO_OFFLOAD,
    OPT_BATCH,
    OPT_KEEP_ALIVE,
    OPT_PRICE,
};

static const struct sim_mode modes[] = {
    {"paper", OPT_PAPER, NULL, "the paper's evaluation, all systems (--report DIR: a page)",
     sim_paper},
    {"trace", OPT_TRACE, "FILE|CLASS",
     "requests of a published trace, or generated: predictable, normal, bursty", sim_trace},
    {"capacity", OPT_CAPACITY, "K1,K2,...",
     "the same requests (--trace) with so many devices each time (--report DIR: a page)",
     sim_capacity},
    {"scale", OPT_SCALE, NULL, "1,000 GPUs, 100,000 functions, 24 hours: how long it takes",
     sim_scale},
    {"plan-cost", OPT_PLAN_COST, NULL, "what a decision takes with 8 to 100,000 functions",
     sim_plan_cost},
};

#define MODES (sizeof modes / sizeof modes[0])

static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "What is simulated, and where:", 2},
    {"log", OPT_LOG, "FILE", 0, "an event log of `sllora serve` (DATA/events.log)", 2},
    {"profile", OPT_PROFILE, "NAME|FILE", 0,
     "what things cost: paper-l40s (default), h200, or a "
     "file that `sllora bench calibrate` wrote",
     2},
    {"system", OPT_SYSTEM, "NAME", 0,
     "sllora (default), sllora-shared, sllora-eager, "
     "serverlesslora, serverlessllm, instainfer, vllm, dlora, "
     "slora",
     2},
    {"devices", OPT_DEVICES, "N", 0, "devices (a node's)", 2},
    {"memory", OPT_MEMORY, "BYTES", 0, "of each device (the profile's)", 2},
    {"kv", OPT_KV, "BYTES", 0, "KV memory of one process at most (the device's memory)", 2},
    {"functions", OPT_FUNCTIONS, "N", 0, "functions (8; of a file: as it names them)", 2},
    {"adapter", OPT_ADAPTER, "BYTES", 0, "of each adapter (the profile's)", 2},
    {"isolation", OPT_ISOLATION, "KIND", 0, "function, owner or shared (the system's own)", 2},
    {"owners", OPT_OWNERS, "N", 0, "who have them, in turns (as many as functions)", 2},
    {"report", OPT_REPORT, "DIR", 0, "write a page with tables and plots there", 2},
    {NULL, 0, NULL, 0, "What is asked:", 3},
    {"duration", OPT_DURATION, "S", 0, "seconds (generated: 60; a file: all of it)", 3},
    {"rate", OPT_RATE, "R", 0, "generated: requests a second of all functions together (1)", 3},
    {"cov", OPT_COV, "C", 0, "generated: CoV of the times between a function's requests", 3},
    {"zipf", OPT_ZIPF, "S", 0, "popularity of functions: shares like i^-S (equal)", 3},
    {"speed", OPT_SPEED, "X", 0, "a file: so many times as fast (1)", 3},
    {"skip", OPT_SKIP, "S", 0, "a file: begin so many seconds after its first request", 3},
    {"prompt-tokens", OPT_PROMPT_TOKENS, "N", 0, "length of every prompt", 3},
    {"new-tokens", OPT_NEW_TOKENS, "N", 0, "length of every answer", 3},
    {"seed", OPT_SEED, "N", 0, "of everything that is drawn (0; --paper 1)", 3},
    {"traces", OPT_TRACES, "N", 0, "--paper: traces of each class (3)", 3},
    {"hours", OPT_HOURS, "H", 0, "--scale (24), --plan-cost (1)", 3},
    {"slo-ttft", OPT_SLO_TTFT, "MS", 0, "objective for the first token (2500)", 3},
    {"slo-tpot", OPT_SLO_TPOT, "MS", 0, "objective for the time between tokens (200)", 3},
    {"refuse-late", OPT_REFUSE_LATE, NULL, 0, "refuse what cannot meet its objective", 3},
    {NULL, 0, NULL, 0, "How it is decided, as in `sllora serve`:", 4},
    {"no-sharing", OPT_NO_SHARING, NULL, 0, "a private backbone for each domain", 4},
    {"no-preload", OPT_NO_PRELOAD, NULL, 0, "nothing is loaded or started ahead of need", 4},
    {"no-offload", OPT_NO_OFFLOAD, NULL, 0, "nothing goes before its time is up", 4},
    {"batch", OPT_BATCH, "adaptive|fixed:N|off", 0, "how requests are batched", 4},
    {"keep-alive", OPT_KEEP_ALIVE, "auto|fixed:S", 0, "how long what is idle stays", 4},
    {"price-bytes", OPT_PRICE, "BYTES", 0,
     "memory that may be held for as long as somebody waits without it (1e12)", 4},
    {0},
};

static uint64_t bytes_of(const struct argp_state *state, const char *flag, const char *arg)
{
    return (uint64_t)cli_number(state, flag, arg, 1, 1e15);
}

static void parse_capacity(struct sim_arguments *a, const char *arg, struct argp_state *state)
{
    const char *at = arg;
    do {
        char *end;
        errno = 0;
        unsigned long k = strtoul(at, &end, 10);
        if (errno != 0 || end == at || *at == '-' || k == 0 || k > 65536 ||
            (*end != ',' && *end != '\0') || a->capacity_count == SIM_CAPACITY_MAX)
            argp_error(state,
                       "--capacity is up to %u numbers of devices, 1 to 65536 each, like "
                       "2,4,8; not \"%s\"",
                       SIM_CAPACITY_MAX, arg);
        a->capacity[a->capacity_count++] = (uint32_t)k;
        at = *end == ',' ? end + 1 : end;
    } while (*at != '\0');
}

static error_t parse_where(int key, char *arg, struct argp_state *state)
{
    struct sim_arguments *a = state->input;
    switch (key) {
    case OPT_LOG:
        a->log = arg;
        return 0;
    case OPT_PROFILE:
        a->profile_name = arg;
        return 0;
    case OPT_SYSTEM:
        a->system_name = arg;
        return 0;
    case OPT_DEVICES:
        a->devices = (uint32_t)cli_whole(state, "devices", arg, 1, 65536);
        return 0;
    case OPT_MEMORY:
        a->memory_bytes = bytes_of(state, "memory", arg);
        return 0;
    case OPT_KV:
        a->kv_bytes = bytes_of(state, "kv", arg);
        return 0;
    case OPT_FUNCTIONS:
        a->functions = (uint32_t)cli_whole(state, "functions", arg, 1, TRACE_FUNCTIONS_MAX);
        return 0;
    case OPT_ADAPTER:
        a->adapter_bytes = bytes_of(state, "adapter", arg);
        return 0;
    case OPT_ISOLATION:
        a->isolation = strcmp(arg, "function") == 0 ? ROUTE_FUNCTION
                       : strcmp(arg, "owner") == 0  ? ROUTE_OWNER
                       : strcmp(arg, "shared") == 0 ? ROUTE_SHARED
                                                    : 0;
        if (a->isolation == 0)
            argp_error(state, "--isolation is function, owner or shared, not \"%s\"", arg);
        return 0;
    case OPT_OWNERS:
        a->owners = (uint32_t)cli_whole(state, "owners", arg, 1, TRACE_FUNCTIONS_MAX);
        return 0;
    case OPT_REPORT:
        a->report = arg;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse_what(int key, char *arg, struct argp_state *state)
{
    struct sim_arguments *a = state->input;
    switch (key) {
    case OPT_DURATION:
        a->duration_s = cli_number(state, "duration", arg, 0.001, 3e7);
        return 0;
    case OPT_RATE:
        a->rate = cli_number(state, "rate", arg, 1e-6, 1e6);
        return 0;
    case OPT_COV:
        a->cov = cli_number(state, "cov", arg, 1e-6, TRACE_COV_MAX);
        return 0;
    case OPT_ZIPF:
        a->zipf = cli_number(state, "zipf", arg, 0, 10);
        return 0;
    case OPT_SPEED:
        a->speed = cli_number(state, "speed", arg, 1e-3, 1e6);
        return 0;
    case OPT_SKIP:
        a->skip_s = cli_number(state, "skip", arg, 0, 3e8);
        return 0;
    case OPT_PROMPT_TOKENS:
        a->prompt_tokens = (uint32_t)cli_whole(state, "prompt-tokens", arg, 1, TRACE_TOKENS_MAX);
        return 0;
    case OPT_NEW_TOKENS:
        a->new_tokens = (uint32_t)cli_whole(state, "new-tokens", arg, 1, TRACE_TOKENS_MAX);
        return 0;
    case OPT_SEED:
        a->seed = cli_whole(state, "seed", arg, 0, UINT64_MAX);
        a->has_seed = true;
        return 0;
    case OPT_TRACES:
        a->traces = (uint32_t)cli_whole(state, "traces", arg, 1, 16);
        return 0;
    case OPT_HOURS:
        a->hours = cli_number(state, "hours", arg, 0.001, 1000);
        return 0;
    case OPT_SLO_TTFT:
        a->slo_ttft_ms = cli_number(state, "slo-ttft", arg, 0.001, 1e9);
        return 0;
    case OPT_SLO_TPOT:
        a->slo_tpot_ms = cli_number(state, "slo-tpot", arg, 0.001, 1e9);
        return 0;
    case OPT_REFUSE_LATE:
        a->refuses_late = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void parse_batch(struct sim_arguments *a, const char *arg, struct argp_state *state)
{
    if (strcmp(arg, "off") == 0)
        a->without.batching = true;
    else if (strncmp(arg, "fixed:", 6) == 0)
        a->batch_fixed = (uint32_t)cli_whole(state, "batch fixed:", arg + 6, 1, 4096);
    else if (strcmp(arg, "adaptive") != 0)
        argp_error(state, "--batch is adaptive, fixed:N or off, not \"%s\"", arg);
}

static error_t parse_how(int key, char *arg, struct argp_state *state)
{
    struct sim_arguments *a = state->input;
    switch (key) {
    case OPT_NO_SHARING:
        a->without.sharing = true;
        return 0;
    case OPT_NO_PRELOAD:
        a->without.preload = true;
        return 0;
    case OPT_NO_OFFLOAD:
        a->without.offload = true;
        return 0;
    case OPT_BATCH:
        parse_batch(a, arg, state);
        return 0;
    case OPT_KEEP_ALIVE:
        if (strncmp(arg, "fixed:", 6) == 0)
            a->keep_alive_us =
                (uint64_t)(cli_number(state, "keep-alive fixed:", arg + 6, 1e-6, 1e9) * 1e6);
        else if (strcmp(arg, "auto") != 0)
            argp_error(state, "--keep-alive is auto or fixed:S, not \"%s\"", arg);
        return 0;
    case OPT_PRICE:
        a->price_bytes = cli_number(state, "price-bytes", arg, 1, 1e30);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse_mode(int key, char *arg, struct argp_state *state)
{
    struct sim_arguments *a = state->input;
    for (size_t i = 0; i < MODES; i++) {
        if (modes[i].key != key)
            continue;
        /* --capacity has its requests from --trace. */
        bool goes_along = a->mode != NULL && (key == OPT_TRACE || a->mode->key == OPT_TRACE) &&
                          (key == OPT_CAPACITY || a->mode->key == OPT_CAPACITY);
        if (a->mode != NULL && !goes_along)
            argp_error(state, "--%s and --%s exclude each other", a->mode->flag, modes[i].flag);
        if (a->mode == NULL || key == OPT_CAPACITY)
            a->mode = &modes[i];
        if (key == OPT_CAPACITY)
            parse_capacity(a, arg, state);
        if (key == OPT_TRACE) {
            a->trace = arg;
            if (trace_class_parse(arg, &a->class) < 0)
                a->class = TRACE_UNKNOWN;
        }
        return 0;
    }
    return ARGP_ERR_UNKNOWN;
}

static void check(const struct sim_arguments *a, struct argp_state *state)
{
    bool has_trace = a->trace != NULL;
    if (a->mode != NULL && a->mode->key == OPT_CAPACITY && !has_trace)
        argp_error(state, "--capacity of which requests? add --trace FILE, or --trace bursty");
    if (has_trace && a->class == TRACE_UNKNOWN && (a->rate > 0 || a->cov > 0))
        argp_error(state, "--rate and --cov are for generated requests; a file has its own");
    if (has_trace && a->class != TRACE_UNKNOWN && (a->speed > 0 || a->skip_s > 0))
        argp_error(state, "--speed and --skip are for files");
    if (a->cov > 0 && trace_class_of(a->cov) != a->class)
        argp_error(state,
                   "a CoV of %g is not %s: predictable has at most 1, normal above 1 to 4, bursty "
                   "above 4",
                   a->cov, trace_class_name(a->class));
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct sim_arguments *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->common;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument \"%s\"", arg);
        return 0;
    case ARGP_KEY_END:
        check(a, state);
        return 0;
    default: {
        error_t (*const parts[])(int, char *, struct argp_state *) = {parse_mode, parse_where,
                                                                      parse_what, parse_how};
        for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
            if (parts[i](key, arg, state) == 0)
                return 0;
        return ARGP_ERR_UNKNOWN;
    }
    }
}

/* --- the event log --- */

static int replay(const struct sim_arguments *a)
{
    struct replay_result r;
    struct error err = {0};
    char path[4200];
    snprintf(path, sizeof path, "%s/events.log", a->common.data_dir);
    if (replay_log(a->log != NULL ? a->log : path, &r, &err) < 0) {
        cli_complain("sim", "%s", err.text);
        return CLI_FAILED;
    }
    if (a->common.json) {
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

int cmd_sim(int argc, char **argv)
{
    struct argp_option all[MODES + sizeof options / sizeof options[0]] = {{0}};
    const struct argp_child children[] = {{&cli_common_argp, 0, NULL, 0}, {0}};
    for (size_t i = 0; i < MODES; i++)
        all[i] = (struct argp_option){
            modes[i].flag, modes[i].key, modes[i].argument, 0, modes[i].help, 1};
    memcpy(all + MODES, options, sizeof options);
    const struct argp argp = {
        .options = all,
        .parser = parse,
        .doc = "The scheduler without machines. Without a mode it replays the event log of a live "
               "run and compares every action with what was done then: exit status 1 when they "
               "differ. With one it runs a world in virtual time around the same scheduler:",
        .children = children,
    };
    struct sim_arguments a = {0};
    struct error err = {0};
    cli_common_init(&a.common);
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    if (a.mode == NULL)
        return replay(&a);
    if (a.mode->run(&a, &err) == 0)
        return CLI_OK;
    cli_complain("sim", "%s", err.text);
    return CLI_FAILED;
}
