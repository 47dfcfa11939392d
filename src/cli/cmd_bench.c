/* `sllora bench`: every figure of PERF.md, by name. */
#include "cli/bench.h"
#include "cli/cli.h"

#include <argp.h>
#include <errno.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int run_decode(const struct bench_options *o, struct error *err)
{
    return bench_engine(o, "decode", err);
}

static int run_prefill(const struct bench_options *o, struct error *err)
{
    return bench_engine(o, "prefill", err);
}

static const struct {
    const char *name;
    int (*run)(const struct bench_options *o, struct error *err);
    const char *help;
} benches[] = {
    {"sharing", bench_sharing, "memory of 1, 4, 16 functions of as many owners on one backbone"},
    {"coldstart", bench_coldstart, "first token without a process, against the same request warm"},
    {"gateway", bench_gateway, "what the daemon adds, and requests a second"},
    {"decode", run_decode, "tokens a second beside the read ceiling"},
    {"prefill", run_prefill, "prompt tokens a second beside the arithmetic ceiling"},
};

#define BENCH_COUNT (sizeof benches / sizeof benches[0])

/* The engine is measured by the program that holds it. */
int bench_engine(const struct bench_options *o, const char *what, struct error *err)
{
    char checkpoint[700], program[PATH_MAX + 16], line[4096];
    const char *shape = o->shape != NULL ? o->shape : "qwen2.5-0.5b";
    int r = bench_checkpoint(o, shape, 0, checkpoint, sizeof checkpoint, err);
    if (r < 0)
        return r;
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0)
        return error_set(err, -errno, "cannot read /proc/self/exe");
    self[n] = '\0';
    *strrchr(self, '/') = '\0';
    snprintf(program, sizeof program, "%s/sllora-worker", self);
    char batch[16], tokens[16], threads[16], runs[16];
    snprintf(batch, sizeof batch, "%u", o->batch);
    snprintf(tokens, sizeof tokens, "%u", o->tokens > 0 ? o->tokens : *what == 'd' ? 64 : 512);
    snprintf(threads, sizeof threads, "%u", o->threads);
    snprintf(runs, sizeof runs, "%u", o->runs > 0 ? o->runs : 5);
    const char *argv[] = {program,     "bench",  what,      checkpoint, "--shape",  shape,
                          "--quant",   o->quant, "--batch", batch,      "--tokens", tokens,
                          "--threads", threads,  "--runs",  runs,       NULL};
    int pipe_fds[2];
    if (pipe(pipe_fds) < 0)
        return error_set(err, -errno, "cannot make a pipe: %s", strerror(errno));
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(pipe_fds[1], STDOUT_FILENO);
        execv(program, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    close(pipe_fds[1]);
    FILE *from = fdopen(pipe_fds[0], "r");
    while (from != NULL && fgets(line, sizeof line, from) != NULL) {
        json_t *figure = json_loads(line, 0, NULL);
        if (figure != NULL)
            bench_report(o, figure);
    }
    if (from != NULL)
        fclose(from);
    int status = 0;
    if (pid < 0 || waitpid(pid, &status, 0) < 0 || status != 0)
        return error_set(err, -EIO, "sllora-worker bench %s failed", what);
    return 0;
}

struct bench_arguments {
    struct bench_options options;
    const char *name;
    bool keep;
};

enum { OPT_DIR = 256, OPT_JSON };

static const struct argp_option options[] = {
    {"shape", 's', "NAME", 0, "qwen2.5-0.5b, llama-3.2-1b, ...: see sllora synth --help", 1},
    {"quant", 'q', "bf16|f32", 0, "how matrices are kept (bf16)", 1},
    {"batch", 'b', "N", 0, "decode: sequences at a time (1)", 1},
    {"tokens", 'n', "N", 0, "decode: tokens (64); prefill: length of the prompt (512)", 1},
    {"threads", 't', "N", 0, "of the engine (all processors)", 1},
    {"runs", 'r', "N", 0, "the median of so many is printed", 1},
    {"dir", OPT_DIR, "DIR", 0, "keep checkpoints here for the next time", 1},
    {"json", 'j', NULL, 0, "one JSON object a line", 1},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct bench_arguments *a = state->input;
    switch (key) {
    case 's':
        a->options.shape = arg;
        return 0;
    case 'q':
        a->options.quant = arg;
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
        return ARGP_ERR_UNKNOWN;
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
        fprintf(f, "  %-10s %s\n", benches[i].name, benches[i].help);
    fprintf(f, "  %-10s %s\n", "all", "each of them, one after the other");
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
        if (strcmp(a->name, "all") != 0 && strcmp(a->name, benches[i].name) != 0)
            continue;
        found = true;
        int r = benches[i].run(&a->options, err);
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
            "its own, both in a temporary directory.\v",
        .help_filter = add_list,
    };
    struct bench_arguments a = {.options = {.quant = "bf16", .batch = 1}};
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
    int r = run(&a, &err);
    if (r < 0)
        cli_complain("bench", "%s", err.text);
    if (!a.keep)
        nftw(a.options.dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    return r == 0 ? CLI_OK : r == -EINVAL ? CLI_USAGE : CLI_FAILED;
}
