/* `sllora bench`: every figure of PERF.md, by name. */
#include "cli/bench.h"
#include "cli/cli.h"
#include "daemon/deploy.h"

#include <argp.h>
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define ENGINE_ADAPTERS 32u /* BENCH_ADAPTERS_MAX of the worker */

static const struct {
    const char *name;
    const char *help;
    int (*run)(const struct bench_options *o, struct error *err); /* NULL: sllora-worker's */
    bool has_model;
    uint32_t adapters;
    bool is_short; /* one of `all` */
} benches[] = {
    {"sharing", "memory of 1, 4, 16 functions of as many owners on one backbone", bench_sharing,
     false, 0, true},
    {"coldstart", "first token without a process, against the same request warm", bench_coldstart,
     false, 0, true},
    {"gateway", "what the daemon adds, and requests a second", bench_gateway, false, 0, true},
    {"ceilings", "reading, multiplying and disk at best, by threads", NULL, false, 0, true},
    {"decode", "tokens a second beside the read ceiling", NULL, true, 0, true},
    {"prefill", "prompt tokens a second beside the arithmetic ceiling", NULL, true, 0, true},
    {"batch", "decode of 1, 2, 4, ... sequences at a time, beside both ceilings", NULL, true, 0,
     true},
    {"longctx", "decode after 512, 2,048 and 8,192 tokens, against a short context", NULL, true, 0,
     true},
    {"kernels", "each kernel by itself over the shapes of the model", NULL, true, 0, true},
    {"quality", "int8 and int4 against bf16: perplexity, KL divergence, the same first choice",
     NULL, true, 0, true},
    {"mixed", "with adapters against without, in alternation", NULL, true, ENGINE_ADAPTERS, true},
    {"serverless", "8 functions of as many owners in little memory, against each switch",
     bench_serverless, false, 0, false},
    {"slo", "objectives met at 70 % of the capacity, by class of arrivals", bench_slo, false, 0,
     false},
    {"calibrate", "a profile of this machine for sllora sim, as JSON", bench_calibrate, false, 0,
     false},
    {"truth", "the simulator with such profiles against the live system", bench_truth, false, 0,
     false},
    {"table", "the engine's figures beside their goals, and beside peers (--peer)", bench_table,
     false, 0, false},
};

#define BENCH_COUNT (sizeof benches / sizeof benches[0])

struct bench_arguments {
    struct bench_options options;
    const char *name;
    bool keep;
};

enum {
    OPT_DIR = 256,
    OPT_DEVICE,
    OPT_KV_DTYPE,
    OPT_ADAPTER_QUANT,
    OPT_MIB,
    OPT_CHECKPOINT,
    OPT_TEXT,
    OPT_PEER,
    OPT_SECONDS,
    OPT_RATE,
    OPT_PROFILE
};

static const struct argp_option options[] = {
    {"shape", 's', "NAME", 0, "qwen2.5-0.5b, llama-3.2-1b, ...: see sllora synth --help", 1},
    {"quant", 'q', "TYPE", 0, "how matrices are kept: " IMAGE_QUANT_WORDS " (bf16)", 1},
    {"adapter-quant", OPT_ADAPTER_QUANT, "TYPE", 0,
     "mixed: how adapters are kept: " IMAGE_ADAPTER_QUANT_WORDS " (bf16; f32 with --quant f32)", 1},
    {"kv-dtype", OPT_KV_DTYPE, "bf16|int8", 0,
     "how the KV cache is kept (bf16; f32 with --quant f32)", 1},
    {"device", OPT_DEVICE, "cpu|gpu[:N]", 0,
     "gpu: ceilings, decode, batch, mixed, prefill there, with random weights in the shape of "
     "llama-2-7b, llama-3.2-1b or qwen2.5-0.5b (cpu)",
     1},
    {"batch", 'b', "N", 0,
     "sequences at a time: decode, prefill (1); mixed (8); batch: the most (32)", 1},
    {"tokens", 'n', "N", 0,
     "to decode (decode 64; batch, longctx, mixed 32); prefill: length of the prompt (512)", 1},
    {"threads", 't', "N", 0,
     "of the engine (all processors; ceilings and kernels: 1, 2, 4, ... and all)", 1},
    {"runs", 'r', "N", 0, "the median of so many is printed (5; coldstart 15)", 1},
    {"mib", OPT_MIB, "N", 0,
     "memory, and file, that ceilings are measured with (1024; kernels 256)", 1},
    {"checkpoint", OPT_CHECKPOINT, "DIR", 0,
     "a model's files, in place of random weights: what sllora-worker measures, but for mixed", 1},
    {"text", OPT_TEXT, "FILE", 0, "quality: text to rate the model with (random tokens)", 1},
    {"peer", OPT_PEER, "BINARY_OR_PACKAGE", 0,
     "table: llama.cpp's directory of programs, or a Python with llama-cpp-python; repeatable", 1},
    {"seconds", OPT_SECONDS, "S", 0, "of requests: serverless (300), slo, truth (120)", 1},
    {"rate", OPT_RATE, "R", 0,
     "requests a second: serverless (0.1), truth (1), slo (70 % of the capacity)", 1},
    {"profile", OPT_PROFILE, "FILE", 0,
     "truth: what `calibrate` printed (calibrates before and after each run)", 1},
    {"dir", OPT_DIR, "DIR", 0, "keep checkpoints here for the next time", 1},
    {"json", 'j', NULL, 0, "one JSON object a line", 1},
    {0},
};

static const char *gpu_of(struct argp_state *state, const char *device)
{
    if (strcmp(device, "cpu") == 0)
        return NULL;
    if (strcmp(device, "gpu") == 0)
        return "0";
    if (strncmp(device, "gpu:", 4) != 0)
        argp_error(state, "--device is cpu, gpu or gpu:N, not \"%s\"", device);
    (void)cli_whole(state, "device", device + 4, 0, 255);
    return device + 4;
}

/* Where, and how things are kept. */
static error_t parse_kept(int key, char *arg, struct argp_state *state)
{
    struct bench_arguments *a = state->input;
    switch (key) {
    case OPT_DEVICE:
        a->options.gpu = gpu_of(state, arg);
        return 0;
    case 'q':
        if (!image_quant_parse(arg, &(uint32_t){0}))
            argp_error(state, "--quant is %s, not \"%s\"", IMAGE_QUANT_WORDS, arg);
        a->options.quant = arg;
        return 0;
    case OPT_ADAPTER_QUANT:
        if (!image_adapter_quant_parse(arg, &(uint32_t){0}))
            argp_error(state, "--adapter-quant is %s, not \"%s\"", IMAGE_ADAPTER_QUANT_WORDS, arg);
        a->options.adapter_quant = arg;
        return 0;
    case OPT_KV_DTYPE:
        if (strcmp(arg, "bf16") != 0 && strcmp(arg, "int8") != 0)
            argp_error(state, "--kv-dtype is bf16 or int8, not \"%s\"", arg);
        a->options.kv_dtype = arg;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct bench_arguments *a = state->input;
    switch (key) {
    case 's':
        a->options.shape = arg;
        return 0;
    case 'b':
        a->options.batch = (uint32_t)cli_whole(state, "batch", arg, 1, 64);
        return 0;
    case 'n':
        a->options.tokens = (uint32_t)cli_whole(state, "tokens", arg, 4, 4096);
        return 0;
    case 't':
        a->options.threads = (uint32_t)cli_whole(state, "threads", arg, 0, 255);
        return 0;
    case 'r':
        a->options.runs = (uint32_t)cli_whole(state, "runs", arg, 1, 99);
        return 0;
    case OPT_MIB:
        a->options.mib = (uint32_t)cli_whole(state, "mib", arg, 4, 1 << 20);
        return 0;
    case OPT_CHECKPOINT:
        a->options.checkpoint = arg;
        return 0;
    case OPT_TEXT:
        a->options.text = arg;
        return 0;
    case OPT_PEER:
        if (a->options.peer_count == BENCH_PEERS_MAX)
            argp_error(state, "at most %u peers", BENCH_PEERS_MAX);
        a->options.peers[a->options.peer_count++] = arg;
        return 0;
    case OPT_SECONDS:
        a->options.seconds = cli_number(state, "seconds", arg, 1, 86400);
        return 0;
    case OPT_RATE:
        a->options.rate = cli_number(state, "rate", arg, 1e-3, 1e4);
        return 0;
    case OPT_PROFILE:
        a->options.profile = arg;
        return 0;
    case OPT_DIR:
        snprintf(a->options.dir, sizeof a->options.dir, "%s", arg);
        a->keep = true;
        return 0;
    case 'j':
        a->options.json = true;
        return 0;
    case ARGP_KEY_ARG:
        if (a->name != NULL)
            argp_error(state, "one benchmark at a time: \"%s\" is too much", arg);
        a->name = arg;
        return 0;
    case ARGP_KEY_END:
        if (a->name == NULL)
            argp_error(state, "which one? sllora bench --help lists them");
        return 0;
    default:
        return parse_kept(key, arg, state);
    }
}

static char *add_list(int key, const char *text, void *input)
{
    (void)input;
    if (key != ARGP_KEY_HELP_POST_DOC)
        return (char *)(uintptr_t)text;
    char *list = NULL;
    size_t bytes = 0;
    FILE *f = open_memstream(&list, &bytes);
    if (f == NULL)
        return NULL;
    for (size_t i = 0; i < BENCH_COUNT; i++)
        fprintf(f, "  %-11s %s\n", benches[i].name, benches[i].help);
    fprintf(f, "  %-11s %s\n", "all",
            "each of the first eleven, for about ten minutes, with 6 GB in --dir");
    fclose(f);
    return list;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static int run(const struct bench_arguments *a, struct error *err)
{
    bool found = false;
    for (size_t i = 0; i < BENCH_COUNT; i++) {
        bool all = strcmp(a->name, "all") == 0;
        if (all ? !benches[i].is_short : strcmp(a->name, benches[i].name) != 0)
            continue;
        found = true;
        if (a->options.gpu != NULL && benches[i].run != NULL)
            return error_set(err, -EINVAL,
                             "--device gpu is for what the engine alone does; start `sllora serve "
                             "--device gpu` for the rest");
        int r = benches[i].run != NULL
                    ? benches[i].run(&a->options, err)
                    : bench_engine(&a->options, benches[i].name, benches[i].has_model,
                                   benches[i].adapters, err);
        if (r < 0)
            return r;
    }
    return found ? 0
                 : error_set(err, -EINVAL,
                             "there is no benchmark \"%s\"; sllora bench --help "
                             "lists them",
                             a->name);
}

int cmd_bench(int argc, char **argv)
{
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .args_doc = "NAME",
        .doc =
            "Measures, on a checkpoint with random weights in a real model's shape and a server of "
            "its own, both in a temporary directory (--dir, or below TMPDIR).\v",
        .help_filter = add_list,
    };
    struct bench_arguments a = {0};
    struct error err = {0};
    argp_err_exit_status = CLI_USAGE;
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    if (!a.keep) {
        const char *tmp = getenv("TMPDIR");
        snprintf(a.options.dir, sizeof a.options.dir, "%s/sllora-bench-XXXXXX",
                 tmp != NULL ? tmp : "/tmp");
        if (mkdtemp(a.options.dir) == NULL) {
            cli_complain("bench", "cannot make %s: %s", a.options.dir, strerror(errno));
            return CLI_FAILED;
        }
    }
    if (a.keep && mkdir(a.options.dir, 0755) < 0 && errno != EEXIST) {
        cli_complain("bench", "cannot make %s: %s", a.options.dir, strerror(errno));
        return CLI_FAILED;
    }
    int r = run(&a, &err);
    if (r < 0)
        cli_complain("bench", "%s", err.text);
    if (!a.keep)
        nftw(a.options.dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    return r == 0 ? CLI_OK : r == -EINVAL ? CLI_USAGE : CLI_FAILED;
}
