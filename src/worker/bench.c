/* See bench.h: the names, the arguments. */
#include "worker/bench.h"

#include "worker/bench_model.h"

#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    bench_run *run;
    bool has_model; /* DIR is a checkpoint */
    uint32_t batch_max;
    uint32_t batch, tokens, runs, mib; /* where nothing else is asked for */
} benches[] = {
    {"ceilings", bench_ceilings, false, 1, 1, 1, 5, 1024},
    {"decode", bench_decode, true, BENCH_STREAMS_MAX, 1, 64, 5, 1024},
    {"prefill", bench_prefill, true, BENCH_STREAMS_MAX, 1, 512, 5, 1024},
    {"batch", bench_batch, true, BENCH_STREAMS_MAX, 32, 32, 5, 1024},
    {"longctx", bench_longctx, true, 1, 1, 32, 5, 1024},
    {"mixed", bench_mixed, true, BENCH_ADAPTERS_MAX, 8, 32, 5, 1024},
    {"kernels", bench_kernels, true, 1, 1, 1, 5, 256},
    {"quality", bench_quality, false, 1, 1, 512, 1, 4},
};

#define BENCH_COUNT (sizeof benches / sizeof benches[0])

struct arguments {
    struct bench bench;
    size_t index; /* into benches; BENCH_COUNT: none was named */
};

static const struct argp_option options[] = {
    {"shape", 's', "NAME", 0, "the name printed with the result", 0},
    {"quant", 'q', IMAGE_QUANT_WORDS, 0, "how matrices are kept", 0},
    {"adapter-quant", 'a', IMAGE_ADAPTER_QUANT_WORDS, 0, "how adapters are kept", 0},
    {"kv-dtype", 'k', "bf16|int8", 0, "how the KV cache is kept, not for kernels", 0},
    {"batch", 'b', "N", 0, "sequences", 0},
    {"tokens", 'n', "N", 0, "tokens of the prompt, or to decode", 0},
    {"threads", 't', "N", 0, "0: all processors", 0},
    {"runs", 'r', "N", 0, "the median of so many is printed", 0},
    {"text", 'x', "FILE", 0, "text to rate the model with (random tokens)", 0},
    {"gpu", 'g', "N", 0, "measure GPU N", 0},
    {"mib", 'm', "N", 0, "memory, and file, that ceilings are measured with", 0},
    {0},
};

static uint32_t number(struct argp_state *state, const char *arg, uint32_t min, uint32_t max)
{
    char *end;
    unsigned long v = strtoul(arg, &end, 10);
    if (end == arg || *end != '\0' || v < min || v > max)
        argp_error(state, "\"%s\" is no number from %u to %u", arg, min, max);
    return (uint32_t)v;
}

static size_t find(struct argp_state *state, const char *name)
{
    for (size_t i = 0; i < BENCH_COUNT; i++)
        if (strcmp(name, benches[i].name) == 0)
            return i;
    argp_error(state, "there is no benchmark \"%s\" of the engine", name);
    return BENCH_COUNT;
}

static void finish(struct argp_state *state, struct arguments *a)
{
    struct bench *b = &a->bench;
    if (b->dir == NULL)
        argp_error(state, "needed: the name of a benchmark and a directory");
    b->name = benches[a->index].name;
    if (b->adapter_dtype == IMAGE_DTYPE_COUNT)
        b->adapter_dtype = image_adapter_quant(b->dtype);
    b->batch = b->batch > 0 ? b->batch : benches[a->index].batch;
    b->tokens = b->tokens > 0 ? b->tokens : benches[a->index].tokens;
    b->runs = b->runs > 0 ? b->runs : benches[a->index].runs;
    if (b->ceiling_bytes == 0)
        b->ceiling_bytes = (uint64_t)benches[a->index].mib << 20;
    if (b->batch > benches[a->index].batch_max)
        argp_error(state, "%s: %u sequences at most", b->name, benches[a->index].batch_max);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct arguments *a = state->input;
    struct bench *b = &a->bench;
    switch (key) {
    case 's':
        b->shape = arg;
        return 0;
    case 'q':
        if (!image_quant_parse(arg, &b->dtype))
            argp_error(state, "quant is %s, not \"%s\"", IMAGE_QUANT_WORDS, arg);
        return 0;
    case 'a':
        if (!image_adapter_quant_parse(arg, &b->adapter_dtype))
            argp_error(state, "adapter-quant is %s, not \"%s\"", IMAGE_ADAPTER_QUANT_WORDS, arg);
        return 0;
    case 'k':
        if (strcmp(arg, "bf16") != 0 && strcmp(arg, "int8") != 0)
            argp_error(state, "kv-dtype is bf16 or int8, not \"%s\"", arg);
        b->kv_dtype = arg;
        return 0;
    case 'b':
        b->batch = number(state, arg, 1, BENCH_STREAMS_MAX);
        return 0;
    case 'n':
        b->tokens = number(state, arg, 4, 4096);
        return 0;
    case 't':
        b->threads = number(state, arg, 0, 255);
        return 0;
    case 'r':
        b->runs = number(state, arg, 1, BENCH_RUNS_MAX);
        return 0;
    case 'x':
        b->text = arg;
        return 0;
    case 'm':
        b->ceiling_bytes = (uint64_t)number(state, arg, 4, 1 << 20) << 20;
        return 0;
    case 'g':
        b->has_gpu = true;
        b->gpu = number(state, arg, 0, 255);
        return 0;
    case ARGP_KEY_ARG:
        if (state->arg_num > 1)
            return ARGP_ERR_UNKNOWN;
        if (state->arg_num == 0)
            a->index = find(state, arg);
        else
            b->dir = arg;
        return 0;
    case ARGP_KEY_END:
        finish(state, a);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static int measure(struct bench *b, size_t index, struct error *err)
{
    int r = bench_machine_open(b, err);
    if (r == 0 && benches[index].has_model)
        r = bench_model_open(b, err);
    return r == 0 ? benches[index].run(b, err) : r;
}

int bench_main(int argc, char **argv)
{
    static const struct argp argp = {.options = options,
                                     .parser = parse,
                                     .args_doc = "NAME DIR",
                                     .doc = "Measures the engine; started by `sllora bench`."};
    static struct arguments a = {
        .bench = {.shape = "own", .dtype = IMAGE_BF16, .adapter_dtype = IMAGE_DTYPE_COUNT}};
    struct error err = {0};
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    struct bench *b = &a.bench;
    int r = b->has_gpu ? bench_on_gpu(b, &err) : measure(b, a.index, &err);
    if (r < 0)
        fprintf(stderr, "sllora bench %s: %s\n", b->name, err.text);
    bench_model_close(b);
    bench_machine_close(b);
    return r < 0 ? 1 : 0;
}
