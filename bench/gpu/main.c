/*
 * The engine on a GPU by itself: `check` compares it with the scalar kernels of the host, `figures`
 * takes its speed. Needs gcc, nvcc and a driver to build and run, and nothing else that the
 * programs of the project need, so that it can be built on a machine that was made for something
 * else.
 *
 *   gpu-bench [--device N] [--json] check
 *   gpu-bench [--device N] [--json] [--shape NAME] [--weights bf16|int8|int4] [--batch N]
 *             [--context N] [--prompt N] [--matrix-tflops X] figures [STAGE...]
 *
 * bench/gpu/run.sh does all of it, beside a peer, and prints a table.
 */
#include "engine/engine.h"
#include "gpu/device.h"
#include "gpubench/check.h"
#include "gpubench/figures.h"
#include "gpubench/start.h"

#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    OPT_SHAPE = 256,
    OPT_WEIGHTS,
    OPT_BATCH,
    OPT_CONTEXT,
    OPT_PROMPT,
    OPT_MATRIX,
    OPT_STEPS,
    OPT_ROUNDS,
    OPT_JSON,
};

static const struct argp_option options[] = {
    {"device", 'd', "N", 0, "the GPU (0)", 0},
    {"json", OPT_JSON, NULL, 0, "a JSON object a line", 0},
    {"shape", OPT_SHAPE, "NAME", 0, "llama-2-7b (default), llama-3.2-1b, qwen2.5-0.5b, small", 0},
    {"weights", OPT_WEIGHTS, "FORM", 0, "bf16 (default), int8, int4", 0},
    {"batch", OPT_BATCH, "N", 0, "sequences and adapters at a time (32)", 0},
    {"context", OPT_CONTEXT, "N", 0, "tokens before those that are decoded (512)", 0},
    {"prompt", OPT_PROMPT, "N", 0, "tokens of the prefill (2048)", 0},
    {"matrix-tflops", OPT_MATRIX, "X", 0, "the card's bf16 rate, as measured in the same run", 0},
    {"steps", OPT_STEPS, "N", 0, "steps that are timed (64)", 0},
    {"rounds", OPT_ROUNDS, "N", 0, "rounds of everything else (7)", 0},
    {0},
};

struct arguments {
    struct figure_options figures;
    const char *command;
    bool json;
};

static uint32_t number(struct argp_state *state, const char *name, const char *text, uint32_t most)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || n > most)
        argp_error(state, "--%s %s: it must be a number up to %u", name, text, most);
    return (uint32_t)n;
}

static double rate(struct argp_state *state, const char *text)
{
    char *end;
    double x = strtod(text, &end);
    if (end == text || *end != '\0' || !(x > 0 && x < 1e6))
        argp_error(state, "--matrix-tflops %s: it must be a number above 0", text);
    return x * 1e12;
}

/* The first word is the command, those after it stages. */
static void word(struct argp_state *state, struct arguments *a, const char *text)
{
    if (a->command == NULL) {
        a->command = text;
        return;
    }
    uint32_t stage = figures_stage(text);
    if (strcmp(a->command, "figures") != 0 || stage == 0)
        argp_error(state, "%s: after figures there may be decode, batch, prefill, start and upload",
                   text);
    a->figures.stages |= stage;
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;
    struct figure_options *f = &a->figures;
    switch (key) {
    case 'd':
        f->index = number(state, "device", text, 64);
        break;
    case OPT_JSON:
        a->json = true;
        break;
    case OPT_SHAPE:
        f->shape = text;
        break;
    case OPT_WEIGHTS:
        f->weights = text;
        break;
    case OPT_BATCH:
        f->batch = number(state, "batch", text, 256);
        break;
    case OPT_CONTEXT:
        f->context = number(state, "context", text, 100000);
        break;
    case OPT_PROMPT:
        f->prompt_tokens = number(state, "prompt", text, 8192);
        break;
    case OPT_MATRIX:
        f->matrix_flops_s = rate(state, text);
        break;
    case OPT_STEPS:
        f->steps = number(state, "steps", text, 4096);
        break;
    case OPT_ROUNDS:
        f->rounds = number(state, "rounds", text, 64);
        break;
    case ARGP_KEY_ARG:
        word(state, a, text);
        break;
    case ARGP_KEY_END:
        if (a->command == NULL ||
            (strcmp(a->command, "check") != 0 && strcmp(a->command, "figures") != 0))
            argp_error(state, "say what to do: check or figures");
        if (f->batch == 0 || f->context == 0 || f->prompt_tokens == 0 || f->steps == 0 ||
            f->rounds == 0)
            argp_error(state, "a number of 0 measures nothing");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static void say_check(void *context, const struct check_result *r)
{
    const struct arguments *a = context;
    if (a->json)
        printf("{\"family\":\"%s\",\"weights\":\"%s\",\"adapter\":\"%s\",\"difference\":%.3g,"
               "\"bound\":%.3g,\"passed\":%s}\n",
               r->family, r->weights, r->adapter, r->difference, r->bound,
               r->passed ? "true" : "false");
    else
        printf("%-6s %-8s %-5s %-13s %.2e of at most %.0e\n", r->passed ? "ok" : "WRONG", r->family,
               r->weights, r->adapter, r->difference, r->bound);
    fflush(stdout);
}

static void say_figure(void *context, const struct figure *f)
{
    const struct arguments *a = context;
    double share = f->ceiling > 0 ? f->value / f->ceiling : 0;
    if (a->json) {
        printf("{\"cell\":\"%s\",\"value\":%.6g,\"unit\":\"%s\"", f->cell, f->value, f->unit);
        if (f->ceiling > 0)
            printf(",\"ceiling\":%.6g,\"share\":%.4f", f->ceiling, share);
        if (f->goal > 0)
            printf(",\"%s\":%.4g", f->is_cost ? "at_most" : "at_least", f->goal);
        printf(",\"shape\":\"%s\",\"weights\":\"%s\"}\n", a->figures.shape, a->figures.weights);
    } else {
        printf("%-28s %10.2f %-8s", f->cell, f->value, f->unit);
        if (f->ceiling > 0)
            printf(" %5.1f %% of %.1f", 100 * share, f->ceiling);
        if (f->goal > 0 && f->ceiling > 0)
            printf(" (goal %.0f %%)", 100 * f->goal);
        else if (f->goal > 0)
            printf(" (goal: %s %.2f)", f->is_cost ? "at most" : "at least", f->goal);
        printf("  %s\n", f->what);
    }
    fflush(stdout);
}

int main(int argc, char **argv)
{
    const struct argp argp = {options,
                              parse,
                              "check|figures [STAGE...]",
                              "The engine on a GPU: is it right, and how fast is it.",
                              NULL,
                              NULL,
                              NULL};
    struct arguments a = {.figures = {.shape = "llama-2-7b",
                                      .weights = "bf16",
                                      .context = 512,
                                      .prompt_tokens = 2048,
                                      .batch = 32,
                                      .steps = 64,
                                      .rounds = 7,
                                      .report = say_figure,
                                      .context_of_report = &a}};
    struct error err = {0};
    if (argc == 2 && strcmp(argv[1], START_WORKER) == 0)
        return start_worker(STDIN_FILENO);
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    int r = engine_gpu_open(&a.figures.gpu, a.figures.index, &err);
    if (r == 0 && strcmp(a.command, "check") == 0) {
        const struct check_options o = {.gpu = a.figures.gpu,
                                        .prompt_tokens = 300,
                                        .all_forms = true,
                                        .report = say_check,
                                        .context = &a};
        r = check_run(&o, &err);
    } else if (r == 0) {
        r = figures_run(&a.figures, &err);
    }
    gpu_device_close(a.figures.gpu);
    if (r < 0)
        fprintf(stderr, "gpu-bench: %s\n", err.text);
    else if (r > 0)
        fprintf(stderr, "gpu-bench: %d comparisons are out of their bounds\n", r);
    return r == 0 ? 0 : 1;
}
