/* `sllora replay`: a trace, published or generated, as load on a running server. */
#include "cli/cli.h"
#include "cli/load_trace.h"
#include "cli/replay_page.h"
#include "cli/replay_result.h"
#include "cli/replay_server.h"
#include "sim/trace_generate.h"
#include "sim/trace_read.h"

#include <argp.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

struct replay_arguments {
    struct cli_common common;
    const char *trace;      /* a path or a class */
    enum trace_class class; /* TRACE_UNKNOWN: a path */
    enum trace_format format;
    const char *functions; /* NULL: all of the server */
    const char *url;       /* NULL: the local server */
    const char *report;
    double speed, skip_s, duration_s; /* 0: not given, like what follows */
    double rate, cov, zipf;
    bool has_zipf, by_session, chat;
    uint64_t seed;
    uint32_t prompt_tokens, new_tokens; /* of every request */
    uint32_t prompt_max, new_max;
    uint32_t connections;
    double timeout_s;
    double slo_ttft_ms, slo_tpot_ms; /* slo_tpot_ms NAN: none */
};

/* --- arguments --- */

enum {
    OPT_FORMAT = 256,
    OPT_URL,
    OPT_REPORT,
    OPT_SPEED,
    OPT_SKIP,
    OPT_COV,
    OPT_ZIPF,
    OPT_BY_SESSION,
    OPT_CHAT,
    OPT_SEED,
    OPT_PROMPT_TOKENS,
    OPT_NEW_TOKENS,
    OPT_PROMPT_MAX,
    OPT_NEW_MAX,
    OPT_TIMEOUT,
    OPT_SLO_TTFT,
    OPT_SLO_TPOT,
};

static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "What is asked:", 1},
    {"duration", 't', "S", 0, "seconds to replay (generated: 60; a file: all of it)", 1},
    {"rate", 'r', "R", 0, "generated: requests a second of all functions together (1)", 1},
    {"cov", OPT_COV, "C", 0,
     "generated: deviation over mean of the times between a function's requests (0.7, 2.5, 8)", 1},
    {"speed", OPT_SPEED, "X", 0, "a file: so many times as fast (1)", 1},
    {"skip", OPT_SKIP, "S", 0, "a file: begin so many of its seconds after its first request", 1},
    {"format", OPT_FORMAT, "NAME", 0,
     "a file: azure-llm, azure-functions-2019, azure-functions-2021, burstgpt, mooncake or "
     "swarmlora (recognised by its first line)",
     1},
    {"prompt-tokens", OPT_PROMPT_TOKENS, "N", 0, "length of every prompt, whatever the trace says",
     1},
    {"new-tokens", OPT_NEW_TOKENS, "N", 0, "length of every answer", 1},
    {"prompt-max", OPT_PROMPT_MAX, "N", 0, "cut longer prompts to this", 1},
    {"new-max", OPT_NEW_MAX, "N", 0, "cut longer answers to this", 1},
    {"seed", OPT_SEED, "N", 0, "of everything that is drawn (0)", 1},
    {NULL, 0, NULL, 0, "Of whom:", 2},
    {"functions", 'f', "A,B,...", 0,
     "the trace's functions are these, in turns (all that are deployed)", 2},
    {"zipf", OPT_ZIPF, "S", 0,
     "popularity: the i-th function gets a share like i^-S (equal shares; a file that names "
     "functions has its own)",
     2},
    {"by-session", OPT_BY_SESSION, NULL, 0, "BurstGPT: a session's requests go to one function", 2},
    {"url", OPT_URL, "HOST:PORT", 0, "a server elsewhere; needs --functions", 2},
    {"chat", OPT_CHAT, NULL, 0, "chats of about so many tokens, in place of completions", 2},
    {NULL, 0, NULL, 0, "How:", 3},
    {"connections", 'c', "N", 0, "requests under way at most; more wait and are late (256)", 3},
    {"timeout", OPT_TIMEOUT, "S", 0, "a request without an end after this has failed (600)", 3},
    {"slo-ttft", OPT_SLO_TTFT, "MS", 0, "objective for the first token (2500)", 3},
    {"slo-tpot", OPT_SLO_TPOT, "MS", 0, "objective for the time between tokens (none)", 3},
    {"report", OPT_REPORT, "FILE.html", 0, "write a page with tables and plots", 3},
    {0},
};

static error_t parse_what(int key, char *arg, struct argp_state *state)
{
    struct replay_arguments *a = state->input;
    switch (key) {
    case 't':
        a->duration_s = cli_number(state, "duration", arg, 0.001, 3e7);
        return 0;
    case 'r':
        a->rate = cli_number(state, "rate", arg, 1e-6, 1e6);
        return 0;
    case OPT_COV:
        a->cov = cli_number(state, "cov", arg, 1e-6, TRACE_COV_MAX);
        return 0;
    case OPT_SPEED:
        a->speed = cli_number(state, "speed", arg, 1e-3, 1e6);
        return 0;
    case OPT_SKIP:
        a->skip_s = cli_number(state, "skip", arg, 0, 3e8);
        return 0;
    case OPT_FORMAT:
        if (trace_format_parse(arg, &a->format) < 0)
            argp_error(state, "there is no format \"%s\"; --help lists them", arg);
        return 0;
    case OPT_PROMPT_TOKENS:
        a->prompt_tokens = (uint32_t)cli_whole(state, "prompt-tokens", arg, 1, TRACE_TOKENS_MAX);
        return 0;
    case OPT_NEW_TOKENS:
        a->new_tokens = (uint32_t)cli_whole(state, "new-tokens", arg, 1, TRACE_TOKENS_MAX);
        return 0;
    case OPT_PROMPT_MAX:
        a->prompt_max = (uint32_t)cli_whole(state, "prompt-max", arg, 1, TRACE_TOKENS_MAX);
        return 0;
    case OPT_NEW_MAX:
        a->new_max = (uint32_t)cli_whole(state, "new-max", arg, 1, TRACE_TOKENS_MAX);
        return 0;
    case OPT_SEED:
        a->seed = cli_whole(state, "seed", arg, 0, UINT64_MAX);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse_how(int key, char *arg, struct argp_state *state)
{
    struct replay_arguments *a = state->input;
    switch (key) {
    case 'f':
        a->functions = arg;
        return 0;
    case OPT_ZIPF:
        a->zipf = cli_number(state, "zipf", arg, 0, 10);
        a->has_zipf = true;
        return 0;
    case OPT_BY_SESSION:
        a->by_session = true;
        return 0;
    case OPT_URL:
        a->url = arg;
        return 0;
    case OPT_CHAT:
        a->chat = true;
        return 0;
    case 'c':
        a->connections = (uint32_t)cli_whole(state, "connections", arg, 1, DRIVER_CONNECTIONS_MAX);
        return 0;
    case OPT_TIMEOUT:
        a->timeout_s = cli_number(state, "timeout", arg, 0.001, 1e6);
        return 0;
    case OPT_SLO_TTFT:
        a->slo_ttft_ms = cli_number(state, "slo-ttft", arg, 0.001, 1e9);
        return 0;
    case OPT_SLO_TPOT:
        a->slo_tpot_ms = cli_number(state, "slo-tpot", arg, 0.001, 1e9);
        return 0;
    case OPT_REPORT:
        a->report = arg;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* What only a file, or only a generated trace can have. */
static void check_arguments(const struct replay_arguments *a, struct argp_state *state)
{
    if (a->trace == NULL)
        argp_error(state, "which trace? a file, or predictable, normal or bursty");
    if (a->class == TRACE_UNKNOWN && (a->rate > 0 || a->cov > 0))
        argp_error(state, "--rate and --cov are for generated traces; a file has its own, which "
                          "--speed changes");
    if (a->class != TRACE_UNKNOWN &&
        (a->speed > 0 || a->skip_s > 0 || a->by_session || a->format != TRACE_FORMAT_ANY))
        argp_error(state, "--speed, --skip, --format and --by-session are for files; a generated "
                          "trace has --rate and --duration");
    if (a->cov > 0 && trace_class_of(a->cov) != a->class)
        argp_error(state,
                   "a CoV of %g is not %s: predictable has at most 1, normal above 1 to 4, bursty "
                   "above 4",
                   a->cov, trace_class_name(a->class));
    if (a->by_session && a->has_zipf)
        argp_error(state, "--zipf and --by-session exclude each other");
    if (a->url != NULL && a->functions == NULL)
        argp_error(state, "--url needs --functions: the names to ask for there");
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct replay_arguments *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->common;
        return 0;
    case ARGP_KEY_ARG:
        if (a->trace != NULL)
            argp_error(state, "one trace at a time: \"%s\" is too much", arg);
        a->trace = arg;
        if (trace_class_parse(arg, &a->class) < 0)
            a->class = TRACE_UNKNOWN;
        return 0;
    case ARGP_KEY_END:
        check_arguments(a, state);
        return 0;
    default:
        return parse_what(key, arg, state) == 0 ? 0 : parse_how(key, arg, state);
    }
}

/* --- the trace --- */

static uint32_t length(uint32_t tokens, uint32_t fixed, uint32_t max)
{
    if (fixed > 0)
        return fixed;
    return max > 0 && tokens > max ? max : tokens;
}

static int make_trace(const struct replay_arguments *a, uint32_t functions, struct trace *ret,
                      struct error *err)
{
    const struct load_trace l = {.path = a->trace,
                                 .class = a->class,
                                 .format = a->format,
                                 .spread = a->by_session ? TRACE_SPREAD_SESSION
                                           : a->has_zipf ? TRACE_SPREAD_ZIPF
                                                         : TRACE_SPREAD_ROUND_ROBIN,
                                 .rate = a->rate,
                                 .cov = a->cov,
                                 .duration_s = a->duration_s,
                                 .speed = a->speed,
                                 .skip_s = a->skip_s,
                                 .zipf = a->zipf,
                                 .seed = a->seed};
    int r = load_trace_make(&l, functions, ret, err);
    for (size_t i = 0; r == 0 && i < ret->count; i++) {
        struct trace_request *q = &ret->requests[i];
        q->prompt_tokens = length(q->prompt_tokens, a->prompt_tokens, a->prompt_max);
        q->new_tokens = length(q->new_tokens, a->new_tokens, a->new_max);
    }
    return r;
}

/* --- the run --- */

static int find_server(const struct replay_arguments *a, struct server_address *ret_address,
                       struct server_names *ret_names, struct error *err)
{
    int r = a->url != NULL ? server_find_url(a->url, ret_address, err)
                           : server_find_local(a->common.data_dir, ret_address, err);
    r = r == 0 ? server_check(ret_address, err) : r;
    if (r < 0)
        return r;
    return a->functions != NULL ? server_names_parse(a->functions, ret_names, err)
                                : server_functions(a->common.data_dir, ret_names, err);
}

static void show_progress(void *context, const struct driver_progress *p)
{
    (void)context;
    bool terminal = isatty(STDERR_FILENO);
    fprintf(stderr, "%s%5.0f s  %zu sent, %zu running, %zu completed", terminal ? "\r" : "",
            p->elapsed_s, p->sent, p->running, p->done);
    if (p->refused > 0)
        fprintf(stderr, ", %zu refused", p->refused);
    if (p->failed > 0)
        fprintf(stderr, ", %zu failed", p->failed);
    if (p->waiting > 0)
        fprintf(stderr, ", %zu waiting for a connection", p->waiting);
    fputs(terminal ? "\033[K" : "\n", stderr);
}

/* Runs until the end or an interrupt, which is as good an end. */
static int drive(const struct replay_arguments *a, const struct trace *trace,
                 const struct server_address *server, const struct server_names *names,
                 struct driver_run *ret, struct error *err)
{
    sigset_t ends, before;
    sigemptyset(&ends);
    sigaddset(&ends, SIGINT);
    sigaddset(&ends, SIGTERM);
    sigprocmask(SIG_BLOCK, &ends, &before);
    int stop_fd = signalfd(-1, &ends, SFD_CLOEXEC | SFD_NONBLOCK);
    const struct driver_options o = {
        .address = (const struct sockaddr *)&server->address,
        .address_bytes = server->bytes,
        .host = server->host,
        .trace = trace,
        .names = (const char *const *)names->names,
        .name_count = names->count,
        .chat = a->chat,
        .seed = a->seed,
        .connections_max = a->connections,
        .timeout_us = (uint64_t)(a->timeout_s * 1e6),
        .stop_fd = stop_fd,
        .progress = show_progress,
    };
    int r = driver_run(&o, ret, err);
    if (isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr);
    struct signalfd_siginfo taken;
    while (stop_fd >= 0 && read(stop_fd, &taken, sizeof taken) > 0)
        continue;
    if (stop_fd >= 0)
        close(stop_fd);
    sigprocmask(SIG_SETMASK, &before, NULL);
    return r;
}

static int tell(const struct replay_arguments *a, struct result *result, struct page *page,
                struct error *err)
{
    if (result_finish(result) < 0)
        return error_set(err, -ENOMEM, "out of memory");
    if (a->common.json) {
        json_t *o = result_json(result);
        cli_print_json(o);
        json_decref(o);
    } else {
        result_print(result);
    }
    return page != NULL && replay_page_write(page, result) < 0
               ? error_set(err, -ENOMEM, "out of memory for the report")
               : 0;
}

/* With a server, functions and a trace: CLI_OK when anything was completed. */
static int replay(const struct replay_arguments *a, const struct trace *trace,
                  const struct server_address *server, const struct server_names *names)
{
    struct error err = {0};
    struct page *page = NULL;
    struct driver_run run = {0};
    struct server_usage before = {0}, after = {0};
    char title[300];
    snprintf(title, sizeof title, "Replay of %.250s", a->trace);
    /* Opened first: a report that cannot be written is known before the run. */
    int r = a->report != NULL ? page_open(&page, a->report, title, &err) : 0;
    if (r == 0 && a->url == NULL)
        before = server_usage(a->common.data_dir);
    r = r == 0 ? drive(a, trace, server, names, &run, &err) : r;
    if (r == 0 && a->url == NULL)
        after = server_usage(a->common.data_dir);
    struct result result = {
        .trace_name = a->trace,
        .trace = trace,
        .class = a->class,
        .run = &run,
        .names = names,
        .slo_ttft_ms = a->slo_ttft_ms,
        .slo_tpot_ms = a->slo_tpot_ms,
        .usage = server_usage_between(&before, &after),
    };
    r = r == 0 ? tell(a, &result, page, &err) : r;
    if (r < 0 && page != NULL)
        page_text(page, "The run failed: %s", err.text);
    int closed = page != NULL ? page_close(page, r == 0 ? &err : NULL) : 0;
    driver_run_free(&run);
    if (r < 0 || closed < 0)
        cli_complain("replay", "%s", err.text);
    return r == 0 && closed == 0 && result.figures.completed > 0 ? CLI_OK : CLI_FAILED;
}

int cmd_replay(int argc, char **argv)
{
    static const struct argp_child children[] = {{&cli_common_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .args_doc = "TRACE|predictable|normal|bursty",
        .doc = "Sends the requests of a trace to a server, each at its time, and measures how long "
               "after that time answers come.\v"
               "An interrupt (^C) ends a run early; what was done is told.\n"
               "Example: sllora replay bursty --rate 2 --duration 120 --report bursty.html",
        .children = children,
    };
    struct replay_arguments a = {
        .connections = 256, .timeout_s = 600, .slo_ttft_ms = 2500, .slo_tpot_ms = NAN};
    struct error err = {0};
    struct server_address server;
    struct server_names names = {0};
    struct trace trace = {0};
    cli_common_init(&a.common);
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    int r = find_server(&a, &server, &names, &err);
    int result = r == 0 ? CLI_OK : r == -ECONNREFUSED ? CLI_NO_SERVER : CLI_FAILED;
    if (r == 0) {
        r = make_trace(&a, names.count, &trace, &err);
        result = r == 0 ? replay(&a, &trace, &server, &names) : CLI_FAILED;
    }
    if (r < 0)
        cli_complain("replay", "%s", err.text);
    trace_free(&trace);
    server_names_free(&names);
    return result;
}
