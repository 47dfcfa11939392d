/*
 * What the engine's benchmarks share: the machine with its ceilings, the model under measurement,
 * streams of tokens through an engine, and the lines in which results are given out.
 *
 * A function that can fail returns 0 or a negative errno and fills `err`.
 */
#pragma once

#include "base/error.h"
#include "engine/engine.h"
#include "kernels/ceiling.h"
#include "kernels/kernels.h"
#include "kernels/pool.h"
#include "weights/adapter.h"
#include "weights/backbone.h"
#include "weights/share.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define BENCH_RUNS_MAX 99u
#define BENCH_STREAMS_MAX 64u
#define BENCH_ADAPTERS_MAX 32u
#define BENCH_THREAD_COUNTS_MAX 9u
#define BENCH_STEP_ROWS 256u    /* the token budget of a step, as in the service */
#define BENCH_PROMPT_TOKENS 64u /* of what only decodes; llama-batched-bench is asked the same */

struct bench {
    const char *name;  /* of the benchmark */
    const char *dir;   /* the checkpoint, or where a file may be written */
    const char *shape; /* as it is printed */
    uint32_t dtype;    /* enum image_dtype of matrices, as asked for */
    uint32_t adapter_dtype;
    const char *kv_dtype; /* bf16 or int8; NULL: the engine's own choice */
    uint32_t batch;       /* sequences */
    uint32_t tokens;      /* to decode, or of the prompt */
    uint32_t threads;     /* 0: all processors */
    uint32_t runs;        /* the median of so many is given out */
    uint64_t ceiling_bytes;
    const char *text; /* a file to rate the model with; NULL: random tokens */
    bool has_gpu;     /* measured there: `gpu` is its index */
    uint32_t gpu;

    const struct kernels *kernels;
    struct pool *pool; /* `threads` of them */
    struct ceiling_memory memory;

    struct share_view view;
    struct digest digest; /* of the image */
    struct backbone backbone;
};

/* --- the machine --- */

int bench_machine_open(struct bench *b, struct error *err);
void bench_machine_close(struct bench *b);

/* The numbers of threads to measure with: the one asked for, else 1, 2, 4, ... and all. */
uint32_t bench_thread_counts(const struct bench *b, uint32_t ret[BENCH_THREAD_COUNTS_MAX]);

/* What the machine did at best between the runs. */
struct bench_ceilings {
    double read_gb_s[BENCH_RUNS_MAX];
    double multiply_gop_s[BENCH_RUNS_MAX];
};

/* Measures both, just before run `run`, with the arithmetic of the model's matrices. */
void bench_ceilings_take(const struct bench *b, struct bench_ceilings *c, uint32_t run);

/* --- the model: files, image, sealed memory: the same road as in the service --- */

int bench_model_open(struct bench *b, struct error *err);
void bench_model_close(struct bench *b);

/* What products with matrices of this dtype are made of, on this processor. */
enum kernel_arithmetic bench_arithmetic(const struct kernels *k, uint32_t dtype);
const char *bench_arithmetic_name(enum kernel_arithmetic a);
/* The dtype of the matrices of a layer as they were packed. */
uint32_t bench_matrix_dtype(const struct bench *b);

/* Products of one token, two operations each, without attention; with the head where logits are
 * made. */
double bench_token_operations(const struct bench *b, bool with_head);
/* Positions that one more token attends to after `positions` of them, over the layers' mean: those
 * with a sliding window see no more than it. */
double bench_seen_positions(const struct bench *b, uint32_t positions);

struct bench_adapter {
    struct share_view view;
    struct digest digest;
    struct adapter adapter;
};

/* DIR/adapters/adapter-0 and the following. */
int bench_adapters_open(const struct bench *b, struct bench_adapter *ret, uint32_t count,
                        struct error *err);
void bench_adapters_close(struct bench_adapter *adapters, uint32_t count);

/* `positions`: of all sequences together. */
int bench_engine_open(const struct bench *b, uint32_t sequences, uint32_t positions,
                      uint32_t adapters, bool prefix_cache, struct engine **ret, struct error *err);

/* --- streams --- */

struct bench_streams {
    uint32_t count;         /* sequences */
    uint32_t prompt;        /* tokens of each */
    uint32_t tokens;        /* to decode in each, after the prompt; 0: the prompt is measured */
    uint32_t adapter_count; /* sequence i has the adapter in slot i % adapter_count; 0: none has */
};

struct bench_speed {
    double tok_s; /* of all sequences together: decoded, or of the prompts */
    double steps_s;
    double position_bytes; /* of keys and values, of one position of one sequence */
};

/* One run: adds the sequences, steps, removes them. */
int bench_streams_run(const struct bench *b, struct engine *e, const struct bench_streams *s,
                      struct bench_speed *ret, struct error *err);

/* --- results --- */

double bench_middle(const double *values, uint32_t count); /* the median */

/* A line with what all have in common. Keys are added in the order in which they are printed. */
json_t *bench_line(const struct bench *b, uint32_t threads);
void bench_set_text(json_t *line, const char *key, const char *value);
void bench_set_count(json_t *line, const char *key, uint64_t value);
void bench_set(json_t *line, const char *key, double value);
/* The median as `key`, and KEY_min and KEY_max. Returns the median. */
double bench_set_spread(json_t *line, const char *key, const double *values, uint32_t count);
void bench_print(json_t *line); /* takes the reference */

/* What is being done, for whoever waits. */
void bench_progress(const struct bench *b, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* --- the benchmarks: each prints its lines --- */

typedef int bench_run(struct bench *b, struct error *err);

bench_run bench_on_gpu; /* whichever is asked for */
bench_run bench_ceilings;
bench_run bench_decode;
bench_run bench_prefill;
bench_run bench_batch;
bench_run bench_longctx;
bench_run bench_mixed;
bench_run bench_kernels;
bench_run bench_quality;
