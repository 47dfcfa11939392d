/* `sllora serve`: flags into struct daemon_config. */
#include "cli/cli.h"

#include "base/log.h"
#include "daemon/serve.h"

#include <argp.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    OPT_DEVICE = 256,
    OPT_GPU_MEMORY,
    OPT_MEMORY,
    OPT_KV,
    OPT_KV_DTYPE,
    OPT_KEEP_ALIVE,
    OPT_SANDBOX,
    OPT_THREADS,
    OPT_STEP_TOKENS,
    OPT_TURN,
    OPT_CONTEXT,
    OPT_NO_PREFIX_CACHE,
    OPT_QUEUE,
    OPT_EVENT_LOG,
    OPT_WORKER,
    OPT_HANG_TIMEOUT,
    OPT_LORA_ROOT,
    OPT_SEQUENCES,
    OPT_OWNER_REQUESTS,
    OPT_SLO_TTFT,
    OPT_SLO_TPOT,
    OPT_HOLD,
    OPT_PRICES,
    OPT_BATCH,
    OPT_NO_SHARING,
    OPT_NO_PRELOAD,
    OPT_NO_OFFLOAD,
};

static const struct argp_option options[] = {
    {"listen", 'l', "ADDRESS:PORT", 0, "where HTTP is served (127.0.0.1:8080); port 0: any", 1},
    {"data", 'd', "DIR", 0, "registry, images and the admin socket ($SLLORA_DATA)", 1},
    {"device", OPT_DEVICE, "cpu|gpu[:N]", 0, "what computes: the processors or an NVIDIA GPU (cpu)",
     2},
    {"memory", OPT_MEMORY, "SIZE", 0,
     "budget for backbones and workers (80 % of the machine); with a GPU for what is kept ready "
     "for "
     "it",
     2},
    {"gpu-memory", OPT_GPU_MEMORY, "SIZE", 0, "budget of the GPU's memory (90 % of what it has)",
     2},
    {"kv", OPT_KV, "SIZE", 0, "KV cache of one worker, at most (256M; 8G on a GPU)", 2},
    {"kv-dtype", OPT_KV_DTYPE, "auto|bf16|int8", 0,
     "how keys and values are kept (auto: as the base model's matrices, bf16 or float32)", 2},
    {"threads", OPT_THREADS, "N", 0, "of one worker (all processors)", 2},
    {"step-tokens", OPT_STEP_TOKENS, "N", 0, "token budget of one engine step (256)", 2},
    {"turn", OPT_TURN, "MS", 0, "how long a domain computes while another waits (20)", 2},
    {"context", OPT_CONTEXT, "TOKENS", 0, "refuse longer contexts than this (the model's)", 2},
    {"no-prefix-cache", OPT_NO_PREFIX_CACHE, NULL, 0,
     "compute every prompt, also when a domain's KV cache holds its beginning", 2},
    {"queue", OPT_QUEUE, "N", 0, "waiting requests of one function (1024)", 2},
    {"sequences", OPT_SEQUENCES, "N", 0, "that one worker computes at a time (128)", 2},
    {"owner-requests", OPT_OWNER_REQUESTS, "N", 0,
     "of one owner, waiting or running, unless sllora owner says otherwise (2048)", 2},
    {NULL, 0, NULL, 0, "What is kept, and for how long:", 4},
    {"keep-alive", OPT_KEEP_ALIVE, "auto|SECONDS", 0,
     "how long an idle worker stays (auto: as long as the waiting it may save is worth its memory)",
     4},
    {"hold", OPT_HOLD, "SIZE", 0,
     "memory that may be held for a second to save a second of waiting (1T)", 4},
    {"slo-ttft", OPT_SLO_TTFT, "MS", 0,
     "objective for the first token of functions that name none: who is due first is first (2500)",
     4},
    {"slo-tpot", OPT_SLO_TPOT, "MS", 0, "likewise for each further token (200)", 4},
    {"prices", OPT_PRICES, "FILE", 0, "a JSON table of unit prices (the paper's provider's)", 4},
    {NULL, 0, NULL, 0, "To compare with, each real:", 5},
    {"batch", OPT_BATCH, "adaptive|fixed:N|off", 0,
     "how prompts are gathered (adaptive: by fitted cost and objectives)", 5},
    {"no-sharing", OPT_NO_SHARING, NULL, 0, "a private backbone for each worker", 5},
    {"no-preload", OPT_NO_PRELOAD, NULL, 0, "load and start nothing ahead of need", 5},
    {"no-offload", OPT_NO_OFFLOAD, NULL, 0, "nothing idle goes before its time is up", 5},
    {"sandbox", OPT_SANDBOX, "strict|weak", 0,
     "weak: run although the machine lacks a part of the sandbox (strict)", 3},
    {"lora-root", OPT_LORA_ROOT, "DIR", 0,
     "let every HTTP client load adapters from below DIR (/v1/load_lora_adapter); repeatable", 3},
    {"event-log", OPT_EVENT_LOG, "FILE", 0, "where events are recorded (DIR/events.log); '': not",
     3},
    {"hang-timeout", OPT_HANG_TIMEOUT, "SECONDS", 0, "a silent worker is killed after (120)", 3},
    {"worker-program", OPT_WORKER, "PATH", 0, "sllora-worker (beside this program)", 3},
    {"verbose", 'v', NULL, 0, "log starts and ends of workers", 3},
    {0},
};

static uint64_t parse_size(struct argp_state *state, const char *flag, const char *arg)
{
    static const char units[] = "KMGT";
    char *end;
    double v = strtod(arg, &end);
    if (end != arg && *end != '\0') {
        const char *unit = strchr(units, *end >= 'a' && *end <= 'z' ? *end - 32 : *end);
        if (unit != NULL) {
            v *= pow(1024, (double)(unit - units + 1));
            end++;
        }
        if (strcmp(end, "iB") == 0 || strcmp(end, "B") == 0)
            end += strlen(end);
    }
    if (end == arg || *end != '\0' || !(v >= 1 && v < 1e15))
        argp_error(state, "--%s must be a size such as 512M or 8G, not \"%s\"", flag, arg);
    return (uint64_t)v;
}

/* The numbers of struct wire_attach. */
static uint32_t parse_kv_dtype(struct argp_state *state, const char *arg)
{
    static const char *const names[] = {"auto", "bf16", "int8"};
    for (uint32_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(arg, names[i]) == 0)
            return i;
    argp_error(state, "--kv-dtype is auto, bf16 or int8, not \"%s\"", arg);
    return 0;
}

/* auto, SECONDS or fixed:SECONDS */
static uint64_t parse_keep_alive(struct argp_state *state, const char *arg)
{
    static const char fixed[] = "fixed:";
    if (strcmp(arg, "auto") == 0)
        return SCHED_KEEP_ALIVE_AUTO;
    if (strncmp(arg, fixed, sizeof fixed - 1) == 0)
        arg += sizeof fixed - 1;
    return (uint64_t)(cli_number(state, "keep-alive", arg, 0, 1e6) * 1e6);
}

static void parse_batch(struct argp_state *state, struct sched_config *c, const char *arg)
{
    static const char fixed[] = "fixed:";
    if (strcmp(arg, "adaptive") == 0) {
        c->batching = SCHED_BATCH_ADAPTIVE;
    } else if (strcmp(arg, "off") == 0) {
        c->batching = SCHED_BATCH_OFF;
    } else if (strncmp(arg, fixed, sizeof fixed - 1) == 0) {
        c->batching = SCHED_BATCH_FIXED;
        c->batch_fixed = (uint32_t)cli_whole(state, "batch fixed", arg + sizeof fixed - 1, 1, 256);
    } else {
        argp_error(state, "--batch is adaptive, fixed:N or off, not \"%s\"", arg);
    }
}

static uint64_t parse_ms(struct argp_state *state, const char *flag, const char *arg)
{
    return (uint64_t)(cli_number(state, flag, arg, 0.001, 1e9) * 1e3);
}

static error_t parse_policies(int key, char *arg, struct argp_state *state)
{
    struct daemon_config *c = state->input;
    switch (key) {
    case OPT_KEEP_ALIVE:
        c->sched.keep_alive_us = parse_keep_alive(state, arg);
        return 0;
    case OPT_HOLD:
        c->sched.price_bytes = (double)parse_size(state, "hold", arg);
        return 0;
    case OPT_SLO_TTFT:
        c->sched.slo_ttft_us = parse_ms(state, "slo-ttft", arg);
        return 0;
    case OPT_SLO_TPOT:
        c->sched.slo_tpot_us = parse_ms(state, "slo-tpot", arg);
        return 0;
    case OPT_PRICES:
        c->prices = arg;
        return 0;
    case OPT_BATCH:
        parse_batch(state, &c->sched, arg);
        return 0;
    case OPT_NO_SHARING:
        c->sched.no_sharing = 1;
        return 0;
    case OPT_NO_PRELOAD:
        c->sched.no_preload = 1;
        return 0;
    case OPT_NO_OFFLOAD:
        c->sched.no_offload = 1;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse_limits(int key, char *arg, struct argp_state *state)
{
    struct daemon_config *c = state->input;
    struct error err = {0};
    switch (key) {
    case OPT_DEVICE:
        if (daemon_config_device(c, arg, &err) < 0)
            argp_error(state, "%s", err.text);
        return 0;
    case OPT_GPU_MEMORY:
        c->gpu_memory_bytes = parse_size(state, "gpu-memory", arg);
        return 0;
    case OPT_MEMORY:
        c->memory_bytes = parse_size(state, "memory", arg);
        return 0;
    case OPT_KV:
        c->kv_bytes = parse_size(state, "kv", arg);
        if (c->kv_bytes == 0)
            argp_error(state, "--kv must be at least 1 MiB");
        return 0;
    case OPT_KV_DTYPE:
        c->kv_dtype = parse_kv_dtype(state, arg);
        return 0;
    case OPT_THREADS:
        c->worker_threads = (uint32_t)cli_whole(state, "threads", arg, 0, 255);
        return 0;
    case OPT_STEP_TOKENS:
        c->rows_max = (uint32_t)cli_whole(state, "step-tokens", arg, 64, 8192);
        return 0;
    case OPT_TURN:
        c->sched.turn_us = (uint64_t)(cli_number(state, "turn", arg, 0.1, 60000) * 1e3);
        return 0;
    case OPT_CONTEXT:
        c->context_max = (uint32_t)cli_whole(state, "context", arg, 1, 1048576);
        return 0;
    case OPT_NO_PREFIX_CACHE:
        c->prefix_cache = false;
        return 0;
    case OPT_QUEUE:
        c->sched.function_waiting_max = (uint32_t)cli_whole(state, "queue", arg, 1, 4096);
        return 0;
    case OPT_SEQUENCES:
        c->sched.worker_running_max = (uint32_t)cli_whole(state, "sequences", arg, 1, 256);
        return 0;
    case OPT_OWNER_REQUESTS:
        c->sched.owner_live_max = (uint32_t)cli_whole(state, "owner-requests", arg, 1, 4096);
        return 0;
    case OPT_HANG_TIMEOUT:
        c->hang_timeout_ms = (uint32_t)(cli_number(state, "hang-timeout", arg, 1, 86400) * 1e3);
        return 0;
    default:
        return parse_policies(key, arg, state);
    }
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct daemon_config *c = state->input;
    switch (key) {
    case 'l':
        c->listen = arg;
        return 0;
    case 'd':
        snprintf(c->data_dir, sizeof c->data_dir, "%s", arg);
        return 0;
    case 'v':
        log_set_level(LOG_LEVEL_DEBUG);
        return 0;
    case OPT_SANDBOX:
        if (strcmp(arg, "weak") != 0 && strcmp(arg, "strict") != 0)
            argp_error(state, "--sandbox is strict or weak, not \"%s\"", arg);
        c->sandbox_weak = strcmp(arg, "weak") == 0;
        return 0;
    case OPT_LORA_ROOT:
        if (c->lora_root_count == ROOTS_MAX)
            argp_error(state, "--lora-root may be given %u times", ROOTS_MAX);
        c->lora_roots[c->lora_root_count++] = arg;
        return 0;
    case OPT_EVENT_LOG:
        c->event_log = arg;
        return 0;
    case OPT_WORKER:
        snprintf(c->worker_program, sizeof c->worker_program, "%s", arg);
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument \"%s\"", arg);
        return 0;
    default:
        return parse_limits(key, arg, state);
    }
}

static const struct argp argp = {
    .options = options,
    .parser = parse,
    .doc =
        "Starts the service: HTTP with OpenAI's API on a loopback address, and an admin socket in "
        "the data directory for the other commands.\v"
        "It runs until SIGTERM or ^C, finishes the answers that are being written (10 s at most) "
        "and loses no deployed function, also when it is killed.",
};

int cmd_serve(int argc, char **argv)
{
    static struct daemon_config config;
    struct error err = {0};
    argp_err_exit_status = CLI_USAGE;
    daemon_config_default(&config);
    argp_parse(&argp, argc, argv, 0, NULL, &config);
    if (daemon_config_finish(&config, &err) < 0) {
        cli_complain("serve", "%s", err.text);
        return CLI_USAGE;
    }
    if (serve(&config, &err) < 0) {
        cli_complain("serve", "%s", err.text);
        return CLI_FAILED;
    }
    return CLI_OK;
}
