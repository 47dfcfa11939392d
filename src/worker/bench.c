/* See bench.h. */
#include "worker/bench.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "engine/engine.h"
#include "kernels/ceiling.h"
#include "weights/pack.h"
#include "weights/share.h"

#include <argp.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILES_MAX 256u
#define RUNS_MAX 99u
#define BATCH_MAX 64u
#define PREFILL_ROWS 256u /* the token budget of a step, as in the service */
#define CEILING_BYTES (UINT64_C(1) << 30)

struct bench {
    const char *what; /* decode, prefill */
    const char *dir;
    const char *shape;
    enum image_dtype dtype;
    uint32_t batch;
    uint32_t tokens; /* of the prompt, or to decode */
    uint32_t threads;
    uint32_t runs;

    struct share_view view;
    struct backbone backbone;
    struct engine *engine;
    const struct kernels *kernels;
    struct pool *pool;
};

/* --- the model: files → image → sealed memory, the same road as in the service --- */

static uint32_t open_files(const char *dir, struct pack_file files[FILES_MAX])
{
    uint32_t count = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL && count < FILES_MAX;) {
        int fd = e->d_name[0] == '.' ? -1 : openat(dirfd(d), e->d_name, O_RDONLY | O_CLOEXEC);
        if (fd >= 0)
            files[count++] = (struct pack_file){strdup(e->d_name), fd};
    }
    if (d != NULL)
        closedir(d);
    return count;
}

static int load(struct bench *b, struct error *err)
{
    struct pack_file files[FILES_MAX];
    uint32_t count = open_files(b->dir, files);
    struct pack_options o = {.dtype = b->dtype};
    struct pack_result packed;
    cleanup_fd int image = open(b->dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (image < 0)
        return error_set(err, -errno, "cannot make a file in %s: %s", b->dir, strerror(errno));
    int r = pack_backbone(files, count, &o, image, &packed, err);
    for (uint32_t i = 0; i < count; i++) {
        free((void *)(uintptr_t)files[i].name);
        close(files[i].fd);
    }
    if (r < 0)
        return r;
    buf_free(&packed.meta);
    struct share *share;
    r = share_create(&share, packed.bytes, NULL, err);
    if (r == 0)
        r = share_fill(share, image, &packed.digest, NULL, NULL, err);
    if (r == 0)
        r = share_seal(share, err);
    if (r == 0)
        r = share_map(&b->view, share_reader_fd(share), IMAGE_BYTES_MAX, true, err);
    return r < 0 ? r : backbone_open(&b->backbone, b->view.data, b->view.bytes, err);
}

static int open_engine(struct bench *b, struct error *err)
{
    const struct model_config *c = b->backbone.config;
    uint32_t positions = b->tokens + 512;
    uint64_t token_bytes = (uint64_t)2 * c->layer_count * c->kv_head_count * c->head_dim * 4;
    struct engine_options o = {
        .threads = b->threads,
        .sequences_max = b->batch,
        .rows_max = strcmp(b->what, "prefill") == 0 ? PREFILL_ROWS : b->batch,
        .kv_bytes = token_bytes * (positions + ENGINE_KV_BLOCK_TOKENS) * b->batch,
        .adapters_max = 1,
    };
    int r = engine_open(&b->engine, &b->backbone, &o, err);
    if (r == 0)
        r = kernels_select(&b->kernels, err);
    return r < 0 ? r : pool_open(&b->pool, b->threads, err);
}

/* --- one run --- */

static int add_sequences(struct bench *b, uint32_t prompt, uint32_t new_tokens,
                         uint32_t ids[BATCH_MAX], struct error *err)
{
    uint32_t tokens[8192];
    for (uint32_t i = 0; i < b->batch; i++) {
        for (uint32_t t = 0; t < prompt; t++)
            tokens[t] = (t * 37 + i * 101 + 11) % b->backbone.config->vocab_count;
        struct engine_request r = {.tokens = tokens,
                                   .token_count = prompt,
                                   .tokens_new_max = new_tokens,
                                   .adapter_slot = -1,
                                   .sampling = {.top_p = 1}};
        int n = engine_add(b->engine, &r, &ids[i], err);
        if (n < 0)
            return n;
    }
    return 0;
}

static int step(struct bench *b, uint32_t *ret_prompt_rows, struct error *err)
{
    struct engine_output outputs[BATCH_MAX];
    struct engine_step_stats stats;
    int r = engine_step(b->engine, outputs, BATCH_MAX, &stats, err);
    *ret_prompt_rows = stats.prompt_rows;
    return r;
}

/* Tokens per second of the part that is measured: decode steps alone, or prompt steps alone. */
static int run_once(struct bench *b, double *ret, struct error *err)
{
    bool decode = strcmp(b->what, "decode") == 0;
    uint32_t ids[BATCH_MAX];
    uint32_t rows = 1;
    int r = decode ? add_sequences(b, 8, b->tokens + 1, ids, err)
                   : add_sequences(b, b->tokens, 1, ids, err);
    while (decode && r == 0 && rows > 0)
        r = step(b, &rows, err); /* the prompts, and the first decode step after them */
    uint64_t began_us = clock_now_us();
    uint32_t count = 0;
    while (r == 0 && engine_has_work(b->engine) && (!decode || count < b->tokens - 2)) {
        r = step(b, &rows, err);
        count++;
    }
    double took_s = (double)(clock_now_us() - began_us) / 1e6;
    for (uint32_t i = 0; i < b->batch; i++)
        engine_remove(b->engine, ids[i]);
    *ret = (double)b->batch * (decode ? count : b->tokens) / took_s;
    return r;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, uint32_t count)
{
    qsort(values, count, sizeof values[0], compare_doubles);
    return count % 2 == 1 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

/* Multiply-adds of one token, two operations each; the head only where logits are made. */
static double prefill_flop(const struct backbone *b)
{
    const struct model_config *c = b->config;
    double flop = 0;
    for (uint32_t l = 0; l < c->layer_count; l++) {
        for (uint32_t i = 0; i < LINEAR_LAYER_COUNT; i++) {
            const struct weight *w = &b->layers[l].linears[i].weight;
            flop += 2.0 * w->rows * w->cols;
        }
    }
    return flop;
}

static void print(const struct bench *b, double *speeds, double read_gb_s, double fma_gflop_s)
{
    bool decode = strcmp(b->what, "decode") == 0;
    double tok_s = median(speeds, b->runs); /* sorts them */
    /* Weights are read once for all rows of a step. */
    double steps_s = tok_s / (decode ? b->batch : PREFILL_ROWS);
    double gb_s = steps_s * (double)b->backbone.weight_bytes / 1e9;
    double gflop_s = tok_s * prefill_flop(&b->backbone) / 1e9;
    printf("{\"bench\":\"%s\",\"shape\":\"%s\",\"quant\":\"%s\",\"batch\":%u,\"tokens\":%u,"
           "\"threads\":%u,\"isa\":\"%s\",\"runs\":%u,\"tok_s\":%.2f,\"tok_s_min\":%.2f,"
           "\"tok_s_max\":%.2f,\"gb_s\":%.2f,\"ceiling_gb_s\":%.2f,",
           b->what, b->shape, b->dtype == IMAGE_F32 ? "f32" : "bf16", b->batch, b->tokens,
           pool_threads(b->pool), kernels_isa_name(b->kernels->isa), b->runs, tok_s, speeds[0],
           speeds[b->runs - 1], gb_s, read_gb_s);
    if (!decode)
        printf("\"gflop_s\":%.2f,\"ceiling_gflop_s\":%.2f,", gflop_s, fma_gflop_s);
    printf("\"share\":%.3f}\n", decode ? gb_s / read_gb_s : gflop_s / fma_gflop_s);
}

static int measure(struct bench *b, struct error *err)
{
    double speeds[RUNS_MAX], read_gb_s[RUNS_MAX], fma_gflop_s[RUNS_MAX];
    double warm;
    int r = run_once(b, &warm, err);
    for (uint32_t i = 0; r == 0 && i < b->runs; i++) {
        r = ceiling_read_gbs(b->kernels, b->pool, CEILING_BYTES, &read_gb_s[i], err);
        fma_gflop_s[i] = ceiling_fma_gflops(b->kernels, b->pool);
        if (r == 0)
            r = run_once(b, &speeds[i], err);
    }
    if (r == 0)
        print(b, speeds, median(read_gb_s, b->runs), median(fma_gflop_s, b->runs));
    return r;
}

/* --- arguments --- */

static const struct argp_option options[] = {
    {"shape", 's', "NAME", 0, "the name printed with the result", 0},
    {"quant", 'q', "bf16|f32", 0, "how matrices are kept", 0},
    {"batch", 'b', "N", 0, "sequences", 0},
    {"tokens", 'n', "N", 0, "tokens of the prompt, or to decode", 0},
    {"threads", 't', "N", 0, "0: all processors", 0},
    {"runs", 'r', "N", 0, "the median of so many is printed", 0},
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

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct bench *b = state->input;
    switch (key) {
    case 's':
        b->shape = arg;
        return 0;
    case 'q':
        if (strcmp(arg, "bf16") != 0 && strcmp(arg, "f32") != 0)
            argp_error(state, "quant is bf16 or f32, not \"%s\"", arg);
        b->dtype = strcmp(arg, "f32") == 0 ? IMAGE_F32 : IMAGE_BF16;
        return 0;
    case 'b':
        b->batch = number(state, arg, 1, BATCH_MAX);
        return 0;
    case 'n':
        b->tokens = number(state, arg, 4, 4096);
        return 0;
    case 't':
        b->threads = number(state, arg, 0, 255);
        return 0;
    case 'r':
        b->runs = number(state, arg, 1, RUNS_MAX);
        return 0;
    case ARGP_KEY_ARG:
        if (state->arg_num == 0 && strcmp(arg, "decode") != 0 && strcmp(arg, "prefill") != 0)
            argp_error(state, "decode or prefill, not \"%s\"", arg);
        *(state->arg_num == 0 ? &b->what : &b->dir) = arg;
        return 0;
    case ARGP_KEY_END:
        if (b->dir == NULL)
            argp_error(state, "needed: decode or prefill, and the checkpoint's directory");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int bench_main(int argc, char **argv)
{
    static const struct argp argp = {.options = options,
                                     .parser = parse,
                                     .args_doc = "decode|prefill DIR",
                                     .doc = "Measures the engine; started by `sllora bench`."};
    static struct bench b = {
        .shape = "own", .dtype = IMAGE_BF16, .batch = 1, .tokens = 64, .runs = 5};
    struct error err = {0};
    argp_parse(&argp, argc, argv, 0, NULL, &b);
    int r = load(&b, &err);
    if (r == 0)
        r = open_engine(&b, &err);
    if (r == 0)
        r = measure(&b, &err);
    if (r < 0)
        fprintf(stderr, "sllora bench: %s\n", err.text);
    return r < 0 ? 1 : 0;
}
