/* The speed of the whole engine on the bare backbone: decode, prefill, batches, long contexts. Each
 * figure stands beside the machine's ceilings, measured between the runs, because memory on shared
 * machines changes its speed with time. */
#include "worker/bench_model.h"

#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* --- streams --- */

static int add_sequences(const struct bench *b, struct engine *e, const struct bench_streams *s,
                         uint32_t ids[BENCH_STREAMS_MAX], uint32_t *ret_added, struct error *err)
{
    uint32_t *tokens = malloc(s->prompt * sizeof *tokens);
    int r = tokens != NULL ? 0 : error_set(err, -ENOMEM, "no memory for %u tokens", s->prompt);
    for (*ret_added = 0; r == 0 && *ret_added < s->count;) {
        uint32_t i = *ret_added;
        for (uint32_t t = 0; t < s->prompt; t++)
            tokens[t] = (t * 37 + i * 101 + 11) % b->backbone.config->vocab_count;
        struct engine_request request = {
            .tokens = tokens,
            .token_count = s->prompt,
            /* more than are measured: none may end before the others */
            .tokens_new_max = s->tokens > 0 ? s->tokens + 2 + s->count : 1,
            .adapter_slot = s->adapter_count > 0 ? (int32_t)(i % s->adapter_count) : -1,
            .adapter_scale = 1,
            .sampling = {.top_p = 1},
        };
        r = engine_add(e, &request, &ids[i], err);
        if (r == 0)
            ++*ret_added;
    }
    free(tokens);
    return r;
}

static int step(struct engine *e, struct engine_step_stats *ret, struct error *err)
{
    static struct engine_output outputs[BENCH_STREAMS_MAX];
    return engine_step(e, outputs, BENCH_STREAMS_MAX, ret, err);
}

/* The prompts, and the first decode step of all sequences. */
static int pass_prompts(struct engine *e, struct error *err)
{
    struct engine_step_stats stats = {.prompt_rows = 1};
    int r = 0;
    while (r == 0 && stats.prompt_rows > 0)
        r = step(e, &stats, err);
    return r;
}

/* Positions in the blocks of all sequences after a run. */
static double held_positions(const struct bench_streams *s)
{
    uint32_t each = s->tokens > 0 ? s->prompt + s->tokens + 1 : s->prompt;
    uint32_t blocks = (each + ENGINE_KV_BLOCK_TOKENS - 1) / ENGINE_KV_BLOCK_TOKENS;
    return (double)s->count * blocks * ENGINE_KV_BLOCK_TOKENS;
}

int bench_streams_run(const struct bench *b, struct engine *e, const struct bench_streams *s,
                      struct bench_speed *ret, struct error *err)
{
    uint32_t ids[BENCH_STREAMS_MAX], added, steps = 0;
    uint64_t tokens = s->tokens > 0 ? 0 : (uint64_t)s->count * s->prompt;
    struct engine_step_stats stats;
    int r = add_sequences(b, e, s, ids, &added, err);
    if (r == 0 && s->tokens > 0)
        r = pass_prompts(e, err);
    uint64_t began_ns = clock_now_ns();
    while (r == 0 && engine_has_work(e) && (s->tokens == 0 || steps < s->tokens)) {
        r = step(e, &stats, err);
        tokens += s->tokens > 0 ? stats.output_count : 0;
        steps++;
    }
    double took_s = (double)(clock_now_ns() - began_ns + 1) / 1e9;
    double position_bytes = (double)engine_kv_bytes(e) / held_positions(s);
    for (uint32_t i = 0; i < added; i++)
        engine_remove(e, ids[i]);
    if (r == 0 && s->tokens > 0 && tokens != (uint64_t)s->count * s->tokens)
        return error_set(err, -EIO, "%llu of %llu tokens came: the streams did not decode together",
                         (unsigned long long)tokens, (unsigned long long)s->count * s->tokens);
    *ret = (struct bench_speed){(double)tokens / took_s, steps / took_s, position_bytes};
    return r;
}

/* --- one figure --- */

struct figure {
    struct bench_streams streams;
    struct bench_ceilings ceilings;
    double tok_s[BENCH_RUNS_MAX];
    double steps_s[BENCH_RUNS_MAX];
    double position_bytes;
};

static int run_figure(const struct bench *b, struct engine *e, struct figure *f, uint32_t run,
                      struct error *err)
{
    struct bench_speed speed;
    bench_ceilings_take(b, &f->ceilings, run);
    int r = bench_streams_run(b, e, &f->streams, &speed, err);
    if (r < 0)
        return r;
    f->tok_s[run] = speed.tok_s;
    f->steps_s[run] = speed.steps_s;
    f->position_bytes = speed.position_bytes;
    return 0;
}

/* Speed, and what it reached of both ceilings; weights are read once for all rows of a step, and
 * `more_bytes` beside them. */
static json_t *figure_line(const struct bench *b, const struct figure *f, double more_bytes)
{
    const struct bench_streams *s = &f->streams;
    enum kernel_arithmetic a = bench_arithmetic(b->kernels, bench_matrix_dtype(b));
    json_t *line = bench_line(b, pool_threads(b->pool));
    bench_set_count(line, "batch", s->count);
    bench_set_count(line, "tokens", s->tokens > 0 ? s->tokens : s->prompt);
    double tok_s = bench_set_spread(line, "tok_s", f->tok_s, b->runs);
    double step_bytes = (double)b->backbone.weight_bytes + more_bytes;
    double gb_s = bench_middle(f->steps_s, b->runs) * step_bytes / 1e9;
    double gop_s = tok_s * bench_token_operations(b, s->tokens > 0) / 1e9;
    double read = bench_middle(f->ceilings.read_gb_s, b->runs);
    double multiply = bench_middle(f->ceilings.multiply_gop_s, b->runs);
    bench_set(line, "gb_s", gb_s);
    bench_set(line, "ceiling_gb_s", read);
    bench_set(line, "read_share", gb_s / read);
    bench_set_text(line, "arithmetic", bench_arithmetic_name(a));
    bench_set(line, "gflop_s", gop_s);
    bench_set(line, "ceiling_gflop_s", multiply);
    bench_set(line, "multiply_share", gop_s / multiply);
    bench_set(line, "share", gb_s / read > gop_s / multiply ? gb_s / read : gop_s / multiply);
    return line;
}

static int print_figure(const struct bench *b, struct engine *e, struct figure *f,
                        struct error *err)
{
    struct bench_speed warm;
    int r = bench_streams_run(b, e, &f->streams, &warm, err);
    for (uint32_t run = 0; r == 0 && run < b->runs; run++)
        r = run_figure(b, e, f, run, err);
    if (r < 0)
        return r;
    json_t *line = figure_line(b, f, 0);
    bench_set(line, "activation_mib", (double)engine_activation_bytes(e) / (1 << 20));
    bench_print(line);
    return 0;
}

/* Positions that the sequences of `s` take. */
static uint32_t positions(const struct bench_streams *s)
{
    return s->count * (s->prompt + s->tokens + 2 + s->count);
}

static int bench_streams(const struct bench *b, struct bench_streams s, struct error *err)
{
    static struct figure f;
    struct engine *e;
    f.streams = s;
    int r = bench_engine_open(b, s.count, positions(&s), 0, false, &e, err);
    if (r < 0)
        return r;
    r = print_figure(b, e, &f, err);
    engine_close(e);
    return r;
}

int bench_decode(struct bench *b, struct error *err)
{
    struct bench_streams s = {
        .count = b->batch, .prompt = BENCH_PROMPT_TOKENS, .tokens = b->tokens};
    return bench_streams(b, s, err);
}

int bench_prefill(struct bench *b, struct error *err)
{
    struct bench_streams s = {.count = b->batch, .prompt = b->tokens};
    return bench_streams(b, s, err);
}

int bench_batch(struct bench *b, struct error *err)
{
    int r = 0;
    for (uint32_t count = 1; r == 0 && count <= b->batch; count *= 2) {
        struct bench_streams s = {
            .count = count, .prompt = BENCH_PROMPT_TOKENS, .tokens = b->tokens};
        bench_progress(b, "%u of %u sequences", count, b->batch);
        r = bench_streams(b, s, err);
    }
    return r;
}

/* --- long contexts --- */

static const uint32_t contexts[] = {512, 2048, 8192};

#define CONTEXT_COUNT (sizeof contexts / sizeof contexts[0])

struct longctx {
    uint32_t count; /* contexts that the model has */
    struct figure base;
    struct figure figures[CONTEXT_COUNT];
};

/* What a token of the middle of a run reads of keys and values. */
static double kv_bytes(const struct bench *b, const struct figure *f)
{
    return f->position_bytes * bench_seen_positions(b, f->streams.prompt + b->tokens / 2);
}

/* Beside the speed: what the short context's speed and the added keys and values at the read
 * ceiling predict. */
static void print_context(const struct bench *b, const struct longctx *l, uint32_t index)
{
    const struct figure *f = &l->figures[index];
    double predicted[BENCH_RUNS_MAX], ratios[BENCH_RUNS_MAX], to_short[BENCH_RUNS_MAX];
    double base_kv = kv_bytes(b, &l->base);
    double kv = kv_bytes(b, f);
    for (uint32_t i = 0; i < b->runs; i++) {
        double added_s = (kv - base_kv) / (f->ceilings.read_gb_s[i] * 1e9);
        predicted[i] = 1 / (1 / l->base.tok_s[i] + added_s);
        ratios[i] = f->tok_s[i] / predicted[i];
        to_short[i] = f->tok_s[i] / l->base.tok_s[i];
    }
    json_t *line = figure_line(b, f, kv);
    bench_set_count(line, "context", f->streams.prompt);
    bench_set_count(line, "kv_bytes_per_token", (uint64_t)kv);
    bench_set(line, "short_tok_s", bench_middle(l->base.tok_s, b->runs));
    bench_set(line, "short_ratio", bench_middle(to_short, b->runs));
    bench_set(line, "predicted_tok_s", bench_middle(predicted, b->runs));
    bench_set(line, "ratio", bench_middle(ratios, b->runs));
    bench_print(line);
}

static int run_contexts(const struct bench *b, struct engine *e, struct longctx *l,
                        struct error *err)
{
    struct bench_speed warm;
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < l->count; i++) {
        bench_progress(b, "filling %u tokens", l->figures[i].streams.prompt);
        r = bench_streams_run(b, e, &l->figures[i].streams, &warm, err);
    }
    for (uint32_t run = 0; r == 0 && run < b->runs; run++) {
        r = run_figure(b, e, &l->base, run, err);
        for (uint32_t i = 0; r == 0 && i < l->count; i++)
            r = run_figure(b, e, &l->figures[i], run, err);
    }
    for (uint32_t i = 0; r == 0 && i < l->count; i++)
        print_context(b, l, i);
    return r;
}

/* The prompts are computed once: the engine's prefix cache keeps them for the runs. */
int bench_longctx(struct bench *b, struct error *err)
{
    static struct longctx l;
    struct engine *e;
    uint32_t needed = 0, context_max = b->backbone.config->context_max;
    l.base.streams = (struct bench_streams){1, BENCH_PROMPT_TOKENS, b->tokens, 0};
    for (size_t i = 0; i < CONTEXT_COUNT; i++) {
        struct bench_streams s = {1, contexts[i], b->tokens, 0};
        if (positions(&s) > context_max) {
            bench_progress(b, "a context of %u and %u new tokens is too long for this model's %u",
                           contexts[i], b->tokens, context_max);
            continue;
        }
        l.figures[l.count++].streams = s;
        needed += positions(&s);
    }
    if (l.count == 0)
        return error_set(err, -E2BIG,
                         "longctx: this model has a context of %u tokens, the shortest one "
                         "measured is %u; take another shape",
                         context_max, contexts[0]);
    int r = bench_engine_open(b, 1, needed, 0, true, &e, err);
    if (r < 0)
        return r;
    r = run_contexts(b, e, &l, err);
    engine_close(e);
    return r;
}
