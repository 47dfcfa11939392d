/* See figures.h. */
#include "gpubench/figures.h"

#include "base/clock.h"
#include "engine/engine.h"
#include "gpu/device.h"
#include "gpubench/bed.h"
#include "gpubench/start.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- an engine at work --- */

static int open_engine(const struct bed *b, uint32_t sequences, uint32_t rows, uint32_t tokens,
                       struct engine **ret, struct error *err)
{
    struct engine_sizes sizes;
    if (engine_measure(&sizes, &b->b.backbone, 1) < 0)
        return error_set(err, -ENOMEM, "no memory to plan an engine");
    uint64_t blocks = (tokens + 2ull * ENGINE_KV_BLOCK_TOKENS) * sequences;
    struct engine_options o = {.sequences_max = sequences,
                               .rows_max = rows > sequences ? rows : sequences,
                               .kv_bytes = blocks * sizes.kv_token_bytes[ENGINE_KV_BF16],
                               .adapters_max = sequences,
                               .context_max = tokens + ENGINE_KV_BLOCK_TOKENS,
                               .gpu = b->o->gpu,
                               .backbone_address = gpu_memory_address(b->memory)};
    if (o.context_max > b->config.context_max)
        o.context_max = b->config.context_max;
    int r = engine_open(ret, &b->b.backbone, &o, err);
    if (r == 0)
        engine_prompts_first(*ret, true); /* then all of a batch decode from the same step on */
    return r;
}

/* Sequences of `prompt` tokens each, with the adapter of their number or none; `ids` [count]. */
static int add_sequences(const struct bed *b, struct engine *e, uint32_t count, uint32_t prompt,
                         uint32_t tokens_new, bool adapted, uint32_t *ids, struct error *err)
{
    uint32_t *tokens = malloc(prompt * sizeof(*tokens));
    int r = tokens ? 0 : error_set(err, -ENOMEM, "no memory for a prompt");
    for (uint32_t i = 0; r == 0 && i < count; i++) {
        bed_prompt(tokens, prompt, i, b->config.vocab_count);
        const struct engine_request q = {.tokens = tokens,
                                         .token_count = prompt,
                                         .tokens_new_max = tokens_new,
                                         .adapter_slot = adapted ? (int32_t)i : -1,
                                         .adapter_scale = 1,
                                         .sampling = {.top_p = 1}};
        r = engine_add(e, &q, &ids[i], err);
    }
    free(tokens);
    return r;
}

static int step(struct engine *e, struct engine_step_stats *stats, struct error *err)
{
    static struct engine_output out[1024];
    return engine_step(e, out, sizeof out / sizeof out[0], stats, err);
}

/* Seconds of a step in which all `count` sequences decode: the median over steps, the first few
 * left out. */
static int decode_time(const struct bed *b, struct engine *e, uint32_t count, bool adapted,
                       double *ret_s, struct error *err)
{
    const struct figure_options *o = b->o;
    uint32_t steps = o->steps, taken = 0;
    double *times = malloc(steps * sizeof(*times));
    uint32_t *ids = malloc(count * sizeof(*ids));
    int r = times && ids ? add_sequences(b, e, count, o->context, steps + 4, adapted, ids, err)
                         : error_set(err, -ENOMEM, "no memory for %u times", steps);
    while (r == 0 && engine_has_work(e)) {
        struct engine_step_stats stats = {0};
        uint64_t began_us = clock_now_us();
        r = step(e, &stats, err);
        double s = (double)(clock_now_us() - began_us) / 1e6;
        bool decodes = stats.rows == count && stats.prompt_rows == 0;
        if (r == 0 && decodes && taken < steps)
            times[taken++] = s;
    }
    for (uint32_t i = 0; r == 0 && i < count; i++)
        engine_remove(e, ids[i]);
    if (r == 0 && taken < steps / 2)
        r = error_set(err, -EIO, "only %u of %u steps were of %u sequences", taken, steps, count);
    if (r == 0)
        *ret_s = bed_median(times, taken);
    free(times);
    free(ids);
    return r;
}

/* The least that a step of `rows` sequences takes: all weights read once and their KV caches, or
 * the arithmetic, whichever is more. */
static double least_time(const struct bed *b, uint32_t rows, uint32_t context)
{
    const struct model_config *c = &b->config;
    double kv = 4.0 * c->layer_count * c->kv_head_count * c->head_dim * context * rows;
    double bytes = (double)b->b.backbone.weight_bytes + kv;
    double weights = 0;
    for (uint32_t i = 0; i < LINEAR_LAYER_COUNT; i++) {
        const struct weight *w = &b->b.backbone.layers[0].linears[i].weight;
        weights += (double)c->layer_count * w->rows * w->cols;
    }
    weights += (double)c->vocab_count * c->hidden;
    double reading = bytes / b->copy_bytes_s;
    double computing = b->o->matrix_flops_s > 0 ? 2 * weights * rows / b->o->matrix_flops_s : 0;
    return reading > computing ? reading : computing;
}

static int decode_figure(const struct bed *b, struct engine *e, const char *cell, const char *what,
                         uint32_t count, double goal, double *ret_s, struct error *err)
{
    int r = decode_time(b, e, count, false, ret_s, err);
    if (r < 0)
        return r;
    double least = least_time(b, count, b->o->context + b->o->steps / 2);
    bed_tell(b, &(struct figure){.cell = cell,
                                 .what = what,
                                 .unit = "tok/s",
                                 .value = count / *ret_s,
                                 .ceiling = count / least,
                                 .goal = goal});
    return 0;
}

static int decode_alone(struct bed *b, struct error *err)
{
    struct engine *e = NULL;
    double s = 0;
    int r = open_engine(b, 1, 512, b->o->context + b->o->steps + 8, &e, err);
    if (r == 0)
        r = decode_figure(b, e, "decode 1", "one sequence decodes", 1, 0.85, &s, err);
    engine_close(e);
    return r;
}

/* --- many sequences, with as many adapters --- */

static int set_adapters(struct engine *e, const struct synthetic_adapter *adapters, uint32_t count,
                        struct error *err)
{
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < count; i++)
        r = engine_adapter_set(e, i, &adapters[i].adapter, &adapters[i].digest, err);
    return r;
}

/* Steps of `count` sequences: without adapters there, with adapters that nobody uses, with one for
 * each, and then the same backwards, so that a card that becomes warmer is so for all. */
static int take_turns(const struct bed *b, struct engine *e, uint32_t count,
                      const struct synthetic_adapter *adapters, struct error *err)
{
    double none[2] = {0}, unused[2] = {0}, used = 0;
    int r = decode_figure(b, e, "decode batch", "sequences decode together", count, 0.75, &none[0],
                          err);
    if (r == 0)
        r = set_adapters(e, adapters, count, err);
    if (r == 0)
        r = decode_time(b, e, count, false, &unused[0], err);
    if (r == 0)
        r = decode_time(b, e, count, true, &used, err);
    if (r == 0)
        r = decode_time(b, e, count, false, &unused[1], err);
    for (uint32_t i = 0; i < count; i++)
        engine_adapter_clear(e, i);
    if (r == 0)
        r = decode_time(b, e, count, false, &none[1], err);
    if (r < 0)
        return r;
    double bare = (none[0] + none[1]) / 2, idle = (unused[0] + unused[1]) / 2;
    bed_tell(b, &(struct figure){.cell = "decode adapters",
                                 .what = "the same, each with an adapter of its own",
                                 .unit = "tok/s",
                                 .value = count / used});
    bed_tell(b, &(struct figure){.cell = "adapters",
                                 .what = "a step of as many adapters of rank 16, to one of none",
                                 .unit = "times",
                                 .value = used / idle,
                                 .goal = 1.25,
                                 .is_cost = 1});
    bed_tell(b, &(struct figure){.cell = "adapters unused",
                                 .what = "a step with adapters that none uses, to one without",
                                 .unit = "times",
                                 .value = idle / bare,
                                 .goal = 1.01, /* none; such steps differ by as much */
                                 .is_cost = 1});
    return 0;
}

static int decode_together(struct bed *b, struct error *err)
{
    uint32_t count = b->o->batch;
    struct engine *e = NULL;
    struct synthetic_adapter *adapters = calloc(count, sizeof(*adapters));
    int r = adapters ? open_engine(b, count, 512, b->o->context + b->o->steps + 8, &e, err)
                     : error_set(err, -ENOMEM, "no memory for %u adapters", count);
    for (uint32_t i = 0; r == 0 && i < count; i++) {
        const struct synthetic_lora l = {.rank = RANK, .scale = 1, .seed = 100 + i};
        r = synthetic_adapter_open(&adapters[i], &b->b, &l, err);
    }
    if (r == 0)
        r = take_turns(b, e, count, adapters, err);
    engine_close(e);
    for (uint32_t i = 0; adapters && i < count; i++)
        synthetic_adapter_close(&adapters[i]);
    free(adapters);
    return r;
}

/* --- a prompt --- */

static int prefill(struct bed *b, struct error *err)
{
    const struct figure_options *o = b->o;
    const struct model_config *c = &b->config;
    struct engine *e = NULL;
    double times[ROUNDS_MAX], weights = 0;
    uint32_t rounds = bed_rounds(b);
    int r = open_engine(b, 1, o->prompt_tokens, o->prompt_tokens + 8, &e, err);
    for (uint32_t i = 0; r == 0 && i < rounds + 1; i++) {
        struct engine_step_stats stats;
        uint32_t id = 0;
        r = add_sequences(b, e, 1, o->prompt_tokens, 1, false, &id, err);
        uint64_t began_us = clock_now_us();
        if (r == 0)
            r = step(e, &stats, err);
        if (i > 0)
            times[i - 1] = (double)(clock_now_us() - began_us) / 1e6;
        engine_remove(e, id);
    }
    engine_close(e);
    if (r < 0)
        return r;
    for (uint32_t i = 0; i < LINEAR_LAYER_COUNT; i++) {
        const struct weight *w = &b->b.backbone.layers[0].linears[i].weight;
        weights += (double)c->layer_count * w->rows * w->cols;
    }
    double n = o->prompt_tokens;
    /* Scores and values of half of all pairs of positions. */
    double flops = 2 * weights * n + 2.0 * c->layer_count * c->head_count * c->head_dim * n * n;
    double s = bed_median(times, rounds);
    bed_tell(b, &(struct figure){.cell = "prefill",
                                 .what = "a prompt in one step",
                                 .unit = "TFLOP/s",
                                 .value = flops / s / 1e12,
                                 .ceiling = o->matrix_flops_s / 1e12,
                                 .goal = o->matrix_flops_s > 0 ? 0.6 : 0});
    bed_tell(b, &(struct figure){
                    .cell = "prefill rate", .what = "the same", .unit = "tok/s", .value = n / s});
    return 0;
}

/* --- a backbone --- */

/* Again into the memory where it lies. */
static int upload(struct bed *b, struct error *err)
{
    double rates[ROUNDS_MAX];
    uint32_t rounds = bed_rounds(b);
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < rounds; i++) {
        uint64_t began_us = clock_now_us();
        r = gpu_memory_upload(b->memory, b->b.base, b->b.bytes, NULL, NULL, err);
        rates[i] = (double)b->b.bytes * 1e6 / (double)(clock_now_us() - began_us);
    }
    if (r < 0)
        return r;
    bed_tell(b, &(struct figure){.cell = "upload",
                                 .what = "the backbone from the host's memory",
                                 .unit = "GB/s",
                                 .value = bed_median(rates, rounds) / 1e9,
                                 .ceiling = b->host_bytes_s / 1e9,
                                 .goal = 0.85});
    return 0;
}

/* --- all of them --- */

static const struct {
    const char *name;
    int (*run)(struct bed *b, struct error *err);
} stages[] = {
    {"decode", decode_alone}, {"batch", decode_together}, {"prefill", prefill},
    {"start", start_run},     {"upload", upload},
};
#define STAGE_COUNT (sizeof stages / sizeof stages[0])

uint32_t figures_stage(const char *name)
{
    for (uint32_t i = 0; i < STAGE_COUNT; i++) {
        if (strcmp(stages[i].name, name) == 0)
            return 1u << i;
    }
    return 0;
}

int figures_run(const struct figure_options *o, struct error *err)
{
    struct bed b;
    int r = bed_open(&b, o, err);
    for (uint32_t i = 0; r == 0 && i < STAGE_COUNT; i++) {
        if (o->stages == 0 || (o->stages & 1u << i) != 0)
            r = stages[i].run(&b, err);
    }
    bed_close(&b);
    return r;
}
