/*
 * `sllora sim`: the scheduler core without machines. Without a mode it replays a live run's event
 * log; every mode is a line of a table and a function of cli/sim.h.
 */
#include "cli/sim.h"
#include "sim/replay.h"

#include <argp.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    OPT_PAPER = 256,
    OPT_TRACE,
    OPT_CAPACITY,
    OPT_SCALE,
    OPT_PLAN_COST,
    OPT_LOG,
    OPT_PICTURE,
    OPT_FROM,
    OPT_TO,
    OPT_PROFILE,
    OPT_SYSTEM,
    OPT_DEVICES,
    OPT_MEMORY,
    OPT_KV,
    OPT_FUNCTIONS,
    OPT_ADAPTER,
    OPT_ISOLATION,
    OPT_OWNERS,
    OPT_WORKER_LOSS,
    OPT_LOAD_FAILURES,
    OPT_REPORT,
    OPT_DURATION,
    OPT_HOURS,
    OPT_RATE,
    OPT_COV,
    OPT_ZIPF,
    OPT_SPEED,
    OPT_SKIP,
    OPT_PROMPT_TOKENS,
    OPT_NEW_TOKENS,
    OPT_SEED,
    OPT_TRACES,
    OPT_SLO_TTFT,
    OPT_SLO_TPOT,
    OPT_REFUSE_LATE,
    OPT_NO_SHARING,
    OPT_NO_PRELOAD,
    OPT_NO_OFFLOAD,
    OPT_BATCH,
    OPT_KEEP_ALIVE,
    OPT_HOLD,
    OPT_CHECK,
};

static const struct sim_mode modes[] = {
    {"paper", OPT_PAPER, NULL, "the paper's evaluation, all systems", sim_paper},
    {"trace", OPT_TRACE, "FILE|CLASS",
     "requests of a published trace, or generated: predictable, normal, bursty", sim_trace},
    {"capacity", OPT_CAPACITY, "K1,K2,...",
     "the requests of --trace again with so many devices each time", sim_capacity},
    {"scale", OPT_SCALE, NULL, "1,000 GPUs, 100,000 functions, 24 hours: how long it takes",
     sim_scale},
    {"plan-cost", OPT_PLAN_COST, NULL, "what a decision takes with 8 to 100,000 functions",
     sim_plan_cost},
};

#define MODES (sizeof modes / sizeof modes[0])

/* Which modes an option is for: bit i for modes[i], and the last for the event log. */
enum {
    PAPER = 1 << 0,
    TRACE = 1 << 1,
    CAPACITY = 1 << 2,
    SCALE = 1 << 3,
    PLAN_COST = 1 << 4,
    LOG = 1 << MODES,
    RUNS = TRACE | CAPACITY,
    SIZES = SCALE | PLAN_COST,
};

static const struct {
    const char *name;
    int key;
    const char *argument;
    const char *help;
    int group;
    unsigned modes;
} options[] = {
    {"log", OPT_LOG, "FILE", "an event log of `sllora serve` (DATA/events.log)", 2, LOG},
    {"picture", OPT_PICTURE, "OUT",
     "instead: draw it, as the system lived it, to OUT (.svg, else a page)", 2, LOG},
    {"from", OPT_FROM, "S", "--picture: begin so many seconds into the log", 2, LOG},
    {"to", OPT_TO, "S", "--picture: end there", 2, LOG},
    {"profile", OPT_PROFILE, "NAME|FILE",
     "what things cost: paper-l40s (default), h200, or a file that `sllora bench calibrate` wrote",
     3, PAPER | RUNS | SIZES},
    {"system", OPT_SYSTEM, "NAME",
     "sllora (default), sllora-shared, sllora-eager, serverlesslora, serverlessllm, instainfer, "
     "vllm, dlora, slora",
     3, RUNS},
    {"devices", OPT_DEVICES, "N", "devices (a node's; --scale 1000, --plan-cost 16)", 3,
     TRACE | SIZES},
    {"memory", OPT_MEMORY, "BYTES", "of each device (the profile's)", 3, RUNS},
    {"kv", OPT_KV, "BYTES", "KV memory of one process at most (the device's memory)", 3, RUNS},
    {"functions", OPT_FUNCTIONS, "N",
     "functions (8; of a file: as it names them; --picture: lanes)", 3, LOG | RUNS | SCALE},
    {"adapter", OPT_ADAPTER, "BYTES", "of each adapter (the profile's)", 3, RUNS},
    {"isolation", OPT_ISOLATION, "KIND", "function, owner or shared (the system's own)", 3, RUNS},
    {"owners", OPT_OWNERS, "N", "who have them, in turns (as many as functions)", 3, RUNS},
    {"worker-loss", OPT_WORKER_LOSS, "S", "some process dies every S seconds on average", 3, RUNS},
    {"load-failures", OPT_LOAD_FAILURES, "SHARE", "so many of all loads fail, 0 to 1", 3, RUNS},
    {"report", OPT_REPORT, "DIR", "write a page with tables and plots there", 3, PAPER | CAPACITY},
    {"duration", OPT_DURATION, "S", "seconds (generated: 60; a file: all of it)", 4, RUNS},
    {"hours", OPT_HOURS, "H", "--paper (4), --scale (24), --plan-cost (1)", 4, PAPER | SIZES},
    {"rate", OPT_RATE, "R", "generated: requests a second of all functions together (1)", 4,
     RUNS | SIZES},
    {"cov", OPT_COV, "C", "generated: CoV of the times between a function's requests", 4, RUNS},
    {"zipf", OPT_ZIPF, "S", "popularity of functions: shares like i^-S (equal)", 4, RUNS},
    {"speed", OPT_SPEED, "X", "a file: so many times as fast (1)", 4, RUNS},
    {"skip", OPT_SKIP, "S", "a file: begin so many seconds after its first request", 4, RUNS},
    {"prompt-tokens", OPT_PROMPT_TOKENS, "N", "length of every prompt", 4, RUNS},
    {"new-tokens", OPT_NEW_TOKENS, "N", "length of every answer", 4, RUNS},
    {"seed", OPT_SEED, "N", "of everything that is drawn (0; --paper, --scale, --plan-cost 1)", 4,
     PAPER | RUNS | SIZES},
    {"traces", OPT_TRACES, "N", "--paper: traces of each class (3)", 4, PAPER},
    {"slo-ttft", OPT_SLO_TTFT, "MS", "objective for the first token (2500)", 4, RUNS},
    {"slo-tpot", OPT_SLO_TPOT, "MS", "objective for the time between tokens (200)", 4, RUNS},
    {"refuse-late", OPT_REFUSE_LATE, NULL, "refuse what cannot meet its objective", 4, RUNS},
    {"no-sharing", OPT_NO_SHARING, NULL, "a private backbone for each domain", 5, RUNS},
    {"no-preload", OPT_NO_PRELOAD, NULL, "nothing is loaded or started ahead of need", 5, RUNS},
    {"no-offload", OPT_NO_OFFLOAD, NULL, "nothing goes before its time is up", 5, RUNS},
    {"batch", OPT_BATCH, "adaptive|fixed:N|off", "how requests are batched", 5, RUNS},
    {"keep-alive", OPT_KEEP_ALIVE, "auto|SECONDS", "how long what is idle stays", 5, RUNS},
    {"hold", OPT_HOLD, "BYTES",
     "memory that may be held for a second to save a second of waiting (1e12)", 5, RUNS},
    {"check", OPT_CHECK, NULL, "assert every invariant of the scheduler after every event", 5,
     RUNS},
};

#define OPTIONS (sizeof options / sizeof options[0])

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
    case OPT_PICTURE:
        a->picture = arg;
        return 0;
    case OPT_FROM:
        a->from_s = cli_number(state, "from", arg, 0, 3e8);
        return 0;
    case OPT_TO:
        a->to_s = cli_number(state, "to", arg, 1e-6, 3e8);
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
    case OPT_WORKER_LOSS:
        a->worker_loss_s = cli_number(state, "worker-loss", arg, 0.001, 1e9);
        return 0;
    case OPT_LOAD_FAILURES:
        a->load_failures = cli_number(state, "load-failures", arg, 0, 1);
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
    if (strcmp(arg, "adaptive") == 0)
        a->batch_adaptive = true;
    else if (strcmp(arg, "off") == 0)
        a->without.batching = true;
    else if (strncmp(arg, "fixed:", 6) == 0)
        a->batch_fixed = (uint32_t)cli_whole(state, "batch fixed:", arg + 6, 1, 4096);
    else
        argp_error(state, "--batch is adaptive, fixed:N or off, not \"%s\"", arg);
}

static void parse_keep_alive(struct sim_arguments *a, const char *arg, struct argp_state *state)
{
    static const char fixed[] = "fixed:";
    a->keep_alive_us = SCHED_KEEP_ALIVE_AUTO;
    if (strcmp(arg, "auto") == 0)
        return;
    if (strncmp(arg, fixed, sizeof fixed - 1) == 0)
        arg += sizeof fixed - 1;
    a->keep_alive_us = (uint64_t)(cli_number(state, "keep-alive", arg, 1e-6, 1e6) * 1e6);
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
        parse_keep_alive(a, arg, state);
        return 0;
    case OPT_HOLD:
        a->price_bytes = cli_number(state, "hold", arg, 1, 1e30);
        return 0;
    case OPT_CHECK:
        a->checks = true;
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

/* An option that a mode would pass over in silence is an error. */
static void check_given(const struct sim_arguments *a, struct argp_state *state)
{
    size_t mode = a->mode != NULL ? (size_t)(a->mode - modes) : MODES;
    for (size_t i = 0; i < OPTIONS; i++) {
        if ((a->given >> i & 1) == 0 || (options[i].modes >> mode & 1) != 0)
            continue;
        if (a->mode != NULL)
            argp_error(state, "--%s is not for --%s", options[i].name, a->mode->flag);
        size_t other = 0;
        while ((options[i].modes >> other & 1) == 0)
            other++;
        argp_error(state, "--%s of what? It is for --%s and the like, not for an event log",
                   options[i].name, modes[other].flag);
    }
}

static void check(const struct sim_arguments *a, struct argp_state *state)
{
    bool has_trace = a->trace != NULL;
    check_given(a, state);
    bool has_window = !isnan(a->from_s) || !isnan(a->to_s);
    if (a->mode == NULL && a->picture == NULL && (has_window || a->functions > 0))
        argp_error(state, "--from, --to and --functions of an event log are of its --picture");
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
        for (size_t i = 0; i < OPTIONS; i++)
            a->given |= (uint64_t)(options[i].key == key) << i;
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
    if (a->picture != NULL) {
        if (sim_picture(a, a->log != NULL ? a->log : path, &err) == 0)
            return CLI_OK;
        cli_complain("sim", "%s", err.text);
        return CLI_FAILED;
    }
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

/* argp's table: what to do, then three groups of options with a title each. */
static void make_options(struct argp_option *to)
{
    static const char *const titles[] = {"Of an event log:", "Where it runs:", "What is asked:",
                                         "How it is decided, as in `sllora serve`:"};
    for (size_t i = 0; i < MODES; i++)
        *to++ = (struct argp_option){
            modes[i].flag, modes[i].key, modes[i].argument, 0, modes[i].help, 1};
    for (size_t i = 0; i < OPTIONS; i++) {
        if (i == 0 || options[i].group != options[i - 1].group)
            *to++ = (struct argp_option){
                NULL, 0, NULL, 0, titles[options[i].group - 2], options[i].group};
        *to++ = (struct argp_option){options[i].name, options[i].key,  options[i].argument, 0,
                                     options[i].help, options[i].group};
    }
}

int cmd_sim(int argc, char **argv)
{
    struct argp_option all[MODES + OPTIONS + 8] = {{0}};
    const struct argp_child children[] = {{&cli_common_argp, 0, NULL, 0}, {0}};
    make_options(all);
    const struct argp argp = {
        .options = all,
        .parser = parse,
        .doc = "The scheduler without machines. Without a mode it replays the event log of a live "
               "run and compares every action with what was done then: exit status 1 when they "
               "differ. With one it runs a world in virtual time around the same scheduler:",
        .children = children,
    };
    struct sim_arguments a = {.from_s = NAN, .to_s = NAN};
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
