/* See figures.h. */
#include "gpubench/figures.h"

#include "base/clock.h"
#include "engine/engine.h"
#include "gpu/device.h"
#include "gpubench/shapes.h"
#include "gpubench/synthetic.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDS_MAX 64u
#define COPY_BYTES (UINT64_C(2) << 30)
#define HOST_BYTES (UINT64_C(512) << 20)
#define RANK 16u

/* A model on the GPU. */
struct bed {
    const struct figure_options *o;
    struct model_config config;
    struct synthetic_backbone b;
    struct gpu_memory *memory;
    double copy_bytes_s; /* measured here */
};

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *values, uint32_t count)
{
    qsort(values, count, sizeof(*values), by_value);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

static uint32_t rounds_of(const struct figure_options *o)
{
    return o->rounds < ROUNDS_MAX ? o->rounds : ROUNDS_MAX;
}

static void tell(const struct figure_options *o, const struct figure *f)
{
    o->report(o->context_of_report, f);
}

/* --- ceilings --- */

/* Bytes a second of copies on the card, read and written ones counted. */
static int copy_rate(struct bed *b, struct error *err)
{
    struct gpu_device *d = b->o->gpu;
    struct gpu_memory *from = NULL, *to = NULL;
    struct gpu_timer *timer = NULL;
    double rates[ROUNDS_MAX];
    uint32_t rounds = rounds_of(b->o);
    int r = gpu_memory_create(&from, gpu_device_context(d), COPY_BYTES, err);
    if (r == 0)
        r = gpu_memory_create(&to, gpu_device_context(d), COPY_BYTES, err);
    if (r == 0)
        r = gpu_timer_open(&timer, d, err);
    for (uint32_t i = 0; r == 0 && i < rounds + 1; i++) {
        double us = 0;
        gpu_timer_begin(timer);
        gpu_move(d, gpu_memory_address(to), gpu_memory_address(from), COPY_BYTES);
        gpu_timer_end(timer);
        r = gpu_timer_us(timer, &us, err);
        if (i > 0) /* the first one warms up */
            rates[i - 1] = 2.0 * (double)COPY_BYTES * 1e6 / us;
    }
    gpu_timer_close(timer);
    gpu_memory_free(to);
    gpu_memory_free(from);
    if (r < 0)
        return r;
    b->copy_bytes_s = median(rates, rounds);
    tell(b->o, &(struct figure){.cell = "ceiling copy",
                                .what = "copies on the card, read and written",
                                .unit = "GB/s",
                                .value = b->copy_bytes_s / 1e9});
    return 0;
}

static int host_rate(const struct bed *b, struct error *err)
{
    struct gpu_device *d = b->o->gpu;
    struct gpu_memory *to = NULL;
    struct gpu_timer *timer = NULL;
    double rates[ROUNDS_MAX];
    uint32_t rounds = rounds_of(b->o);
    void *from = gpu_host_allocate(d, HOST_BYTES);
    int r = from ? gpu_memory_create(&to, gpu_device_context(d), HOST_BYTES, err)
                 : error_set(err, -ENOMEM, "no memory that the GPU can read");
    if (r == 0)
        r = gpu_timer_open(&timer, d, err);
    for (uint32_t i = 0; r == 0 && i < rounds + 1; i++) {
        double us = 0;
        gpu_timer_begin(timer);
        gpu_send(d, gpu_memory_address(to), from, HOST_BYTES);
        gpu_timer_end(timer);
        r = gpu_timer_us(timer, &us, err);
        if (i > 0)
            rates[i - 1] = (double)HOST_BYTES * 1e6 / us;
    }
    gpu_timer_close(timer);
    gpu_memory_free(to);
    gpu_host_free(d, from);
    if (r < 0)
        return r;
    tell(b->o, &(struct figure){.cell = "ceiling upload",
                                .what = "copies from the host's pinned memory",
                                .unit = "GB/s",
                                .value = median(rates, rounds) / 1e9});
    return 0;
}

/* --- an engine at work --- */

static int open_engine(const struct bed *b, uint32_t sequences, uint32_t rows, uint32_t tokens,
                       struct engine **ret, struct error *err)
{
    struct engine_sizes sizes;
    int r = engine_measure(&sizes, &b->b.backbone, 1);
    if (r < 0)
        return error_set(err, r, "no memory to plan an engine");
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
    return engine_open(ret, &b->b.backbone, &o, err);
}

/* Sequences of `prompt` tokens each, with the adapter of their number or none. */
static int add_sequences(const struct bed *b, struct engine *e, uint32_t count, uint32_t prompt,
                         uint32_t tokens_new, bool adapted, struct error *err)
{
    uint32_t *tokens = malloc(prompt * sizeof(*tokens));
    int r = tokens ? 0 : error_set(err, -ENOMEM, "no memory for a prompt");
    for (uint32_t i = 0; r == 0 && i < count; i++) {
        uint32_t id;
        for (uint32_t k = 0; k < prompt; k++)
            tokens[k] = (k * 7919 + i * 104729 + 13) % b->config.vocab_count;
        const struct engine_request q = {.tokens = tokens,
                                         .token_count = prompt,
                                         .tokens_new_max = tokens_new,
                                         .adapter_slot = adapted ? (int32_t)i : -1,
                                         .adapter_scale = 1,
                                         .sampling = {.top_p = 1}};
        r = engine_add(e, &q, &id, err);
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
    int r = times ? add_sequences(b, e, count, o->context, steps + 4, adapted, err)
                  : error_set(err, -ENOMEM, "no memory for %u times", steps);
    while (r == 0 && engine_has_work(e)) {
        struct engine_step_stats stats;
        uint64_t began_us = clock_now_us();
        r = step(e, &stats, err);
        double s = (double)(clock_now_us() - began_us) / 1e6;
        bool decodes = stats.rows == count && stats.prompt_rows == 0;
        if (r == 0 && decodes && taken < steps)
            times[taken++] = s;
    }
    for (uint32_t id = 0; id < 4 * count; id++)
        engine_remove(e, id);
    if (r == 0 && taken < steps / 2)
        r = error_set(err, -EIO, "only %u of %u steps were of %u sequences", taken, steps, count);
    if (r == 0)
        *ret_s = median(times, taken);
    free(times);
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
                         uint32_t count, double goal, struct error *err)
{
    double s = 0;
    int r = decode_time(b, e, count, false, &s, err);
    if (r < 0)
        return r;
    double least = least_time(b, count, b->o->context + b->o->steps / 2);
    tell(b->o, &(struct figure){.cell = cell,
                                .what = what,
                                .unit = "tok/s",
                                .value = count / s,
                                .ceiling = count / least,
                                .goal = goal});
    return 0;
}

static int decode_alone(const struct bed *b, struct error *err)
{
    struct engine *e = NULL;
    int r = open_engine(b, 1, 512, b->o->context + b->o->steps + 8, &e, err);
    if (r == 0)
        r = decode_figure(b, e, "decode 1", "one sequence decodes", 1, 0.85, err);
    engine_close(e);
    return r;
}

/* --- many sequences, with as many adapters --- */

static int decode_together(const struct bed *b, struct error *err)
{
    uint32_t count = b->o->batch;
    struct engine *e = NULL;
    struct synthetic_adapter *adapters = calloc(count, sizeof(*adapters));
    double bare = 0, adapted = 0, again = 0;
    int r = adapters ? open_engine(b, count, 512, b->o->context + b->o->steps + 8, &e, err)
                     : error_set(err, -ENOMEM, "no memory for %u adapters", count);
    if (r == 0)
        r = decode_figure(b, e, "decode batch", "sequences decode together", count, 0.75, err);
    for (uint32_t i = 0; r == 0 && i < count; i++) {
        const struct synthetic_lora l = {.rank = RANK, .scale = 1, .seed = 100 + i};
        r = synthetic_adapter_open(&adapters[i], &b->b, &l, err);
        if (r == 0)
            r = engine_adapter_set(e, i, &adapters[i].adapter, &adapters[i].digest, err);
    }
    if (r == 0)
        r = decode_time(b, e, count, false, &bare, err);
    if (r == 0)
        r = decode_time(b, e, count, true, &adapted, err);
    if (r == 0)
        r = decode_time(b, e, count, false, &again, err);
    if (r == 0)
        tell(b->o, &(struct figure){.cell = "adapters",
                                    .what = "a step of as many adapters of rank 16, to one of none",
                                    .unit = "times",
                                    .value = adapted / ((bare + again) / 2),
                                    .goal = 1.25,
                                    .is_cost = 1});
    engine_close(e);
    for (uint32_t i = 0; adapters && i < count; i++)
        synthetic_adapter_close(&adapters[i]);
    free(adapters);
    return r;
}

/* --- a prompt --- */

static int prefill(const struct bed *b, struct error *err)
{
    const struct figure_options *o = b->o;
    const struct model_config *c = &b->config;
    struct engine *e = NULL;
    double times[ROUNDS_MAX], weights = 0;
    uint32_t rounds = rounds_of(o);
    int r = open_engine(b, 1, o->prompt_tokens, o->prompt_tokens + 8, &e, err);
    for (uint32_t i = 0; r == 0 && i < rounds + 1; i++) {
        struct engine_step_stats stats;
        r = add_sequences(b, e, 1, o->prompt_tokens, 1, false, err);
        uint64_t began_us = clock_now_us();
        if (r == 0)
            r = step(e, &stats, err);
        if (i > 0)
            times[i - 1] = (double)(clock_now_us() - began_us) / 1e6;
        for (uint32_t id = 0; id < rounds + 2; id++)
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
    double s = median(times, rounds);
    tell(o, &(struct figure){.cell = "prefill",
                             .what = "a prompt in one step",
                             .unit = "TFLOP/s",
                             .value = flops / s / 1e12,
                             .ceiling = o->matrix_flops_s / 1e12,
                             .goal = 0.6});
    tell(o, &(struct figure){
                .cell = "prefill rate", .what = "the same", .unit = "tok/s", .value = n / s});
    return 0;
}

/* --- all of them --- */

static int open_bed(struct bed *b, struct error *err)
{
    static const struct {
        const char *name;
        enum image_dtype dtype;
    } forms[] = {{"bf16", IMAGE_PANELS}, {"int8", IMAGE_INT8}, {"int4", IMAGE_INT4}};
    uint32_t form = 0;
    while (form < 3 && strcmp(forms[form].name, b->o->weights) != 0)
        form++;
    if (form == 3)
        return error_set(err, -EINVAL, "weights \"%s\": there are bf16, int8 and int4",
                         b->o->weights);
    int r = shape_find(b->o->shape, &b->config, err);
    if (r == 0)
        r = synthetic_backbone_open(&b->b, &b->config, forms[form].dtype, 1, err);
    if (r == 0)
        r = gpu_memory_create(&b->memory, gpu_device_context(b->o->gpu), b->b.bytes, err);
    return r == 0 ? gpu_memory_write(b->memory, 0, b->b.base, b->b.bytes, err) : r;
}

int figures_run(const struct figure_options *o, struct error *err)
{
    struct bed b = {.o = o};
    int r = copy_rate(&b, err);
    if (r == 0)
        r = host_rate(&b, err);
    if (r == 0)
        r = open_bed(&b, err);
    if (r == 0)
        r = decode_alone(&b, err);
    if (r == 0)
        r = decode_together(&b, err);
    if (r == 0)
        r = prefill(&b, err);
    gpu_memory_free(b.memory);
    synthetic_backbone_close(&b.b);
    return r;
}
