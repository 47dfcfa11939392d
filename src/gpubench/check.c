/* See check.h. */
#include "gpubench/check.h"

#include "engine/engine.h"
#include "gpu/device.h"
#include "gpubench/shapes.h"
#include "gpubench/synthetic.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

/* Inputs of products are rounded to bf16 on the GPU and not by the scalar kernels: 2^-9 / sqrt(3)
 * of each number, over the 2 layers' 7 products and attention's 3 roundings the square root of 20
 * times that, 5e-3, and through a residual stream and an adapter that adds as much again, 1e-2;
 * twice that is allowed. */
#define DIFFERENCE_MAX 2e-2
/* With codes the host rounds inputs to int8, in groups of 64 whose largest is some 2.5 times their
 * size: 2.5 / 127 / sqrt(12) of each number, 6e-3, where the GPU's bf16 is exact beside that; the
 * same square root of 20 makes 2.5e-2 of it, and an adapter half as much again. */
#define DIFFERENCE_OF_CODES_MAX 4e-2

#define SEQUENCES 8u
#define ADAPTERS 5u
#define NEW_TOKENS 6u
#define PROMPT_MAX 500u

static const char *const adapter_names[ADAPTERS] = {"rank 8", "rank 1", "rank 17 int8", "DoRA",
                                                    "own norms"};
static const struct synthetic_lora loras[ADAPTERS] = {
    {.rank = 8, .scale = 1, .seed = 11},
    {.rank = 1, .scale = 2, .seed = 12},
    {.rank = 17, .scale = 1, .is_int8 = true, .seed = 13},
    {.rank = 4, .scale = 1, .has_dora = true, .seed = 14},
    {.rank = 3, .scale = 1, .has_own_norms = true, .seed = 15},
};

/* A model with its adapters, on the host and on the GPU. */
struct pair {
    struct synthetic_backbone b;
    struct synthetic_adapter adapters[ADAPTERS];
    struct gpu_memory *memory;
    struct engine *host, *gpu;
};

static void pair_close(struct pair *p)
{
    engine_close(p->host);
    engine_close(p->gpu);
    gpu_memory_free(p->memory);
    for (uint32_t i = 0; i < ADAPTERS; i++)
        synthetic_adapter_close(&p->adapters[i]);
    synthetic_backbone_close(&p->b);
}

static int open_engines(struct pair *p, struct gpu_device *gpu, struct error *err)
{
    struct engine_options o = {.threads = 1,
                               .sequences_max = SEQUENCES,
                               .rows_max = 96, /* more than the skinny kernels take */
                               .kv_bytes = 16u << 20,
                               .adapters_max = ADAPTERS};
    int r = gpu_memory_create(&p->memory, gpu_device_context(gpu), p->b.bytes, err);
    if (r == 0)
        r = gpu_memory_write(p->memory, 0, p->b.base, p->b.bytes, err);
    if (r == 0)
        r = engine_open(&p->host, &p->b.backbone, &o, err);
    if (r < 0)
        return r;
    o.gpu = gpu;
    o.backbone_address = gpu_memory_address(p->memory);
    return engine_open(&p->gpu, &p->b.backbone, &o, err);
}

static int pair_open(struct pair *p, const struct model_config *c, enum image_dtype dtype,
                     struct gpu_device *gpu, struct error *err)
{
    *p = (struct pair){0};
    int r = synthetic_backbone_open(&p->b, c, dtype, 1, err);
    if (r == 0)
        r = open_engines(p, gpu, err);
    for (uint32_t i = 0; r == 0 && i < ADAPTERS; i++) {
        struct synthetic_adapter *a = &p->adapters[i];
        r = synthetic_adapter_open(a, &p->b, &loras[i], err);
        if (r == 0)
            r = engine_adapter_set(p->host, i, &a->adapter, &a->digest, err);
        if (r == 0)
            r = engine_adapter_set(p->gpu, i, &a->adapter, &a->digest, err);
    }
    return r;
}

static void make_prompt(uint32_t *tokens, uint32_t count, uint32_t vocab, uint32_t seed)
{
    for (uint32_t i = 0; i < count; i++)
        tokens[i] = (i * 7919 + seed * 104729 + 13) % vocab;
}

/* --- logits --- */

static double difference_of(const float *got, const float *want, size_t count)
{
    double differences = 0, sizes = 0;
    for (size_t i = 0; i < count; i++) {
        double d = (double)got[i] - (double)want[i];
        differences += d * d;
        sizes += (double)want[i] * (double)want[i];
    }
    return sqrt(differences / sizes);
}

static int compare_logits(const struct pair *p, int32_t slot, uint32_t tokens, double *ret,
                          struct error *err)
{
    uint32_t prompt[PROMPT_MAX], vocab = p->b.backbone.config->vocab_count;
    size_t count = (size_t)tokens * vocab;
    float *want = malloc(count * sizeof(*want)), *got = malloc(count * sizeof(*got));
    int r = want && got ? 0 : error_set(err, -ENOMEM, "no memory for the logits of %u", tokens);
    make_prompt(prompt, tokens, vocab, (uint32_t)(slot + 1));
    if (r == 0)
        r = engine_logits(p->host, prompt, tokens, slot, want, err);
    if (r == 0)
        r = engine_logits(p->gpu, prompt, tokens, slot, got, err);
    if (r == 0)
        *ret = difference_of(got, want, count);
    free(want);
    free(got);
    return r;
}

/* --- alone and among others --- */

/* What a sequence gave out. */
struct given {
    uint32_t tokens[NEW_TOKENS];
    float logprobs[NEW_TOKENS];
    uint32_t count;
};

static int add_sequence(struct engine *e, uint32_t vocab, uint32_t index, bool is_rated,
                        uint32_t *ret_id, struct error *err)
{
    uint32_t prompt[PROMPT_MAX], tokens = 5 + 9 * index;
    const struct engine_request q = {.tokens = prompt,
                                     .token_count = tokens,
                                     .tokens_new_max = NEW_TOKENS,
                                     .adapter_slot = (int32_t)(index % (ADAPTERS + 1)) - 1,
                                     .adapter_scale = 1,
                                     .logprobs = is_rated,
                                     .sampling = {.top_p = 1}};
    make_prompt(prompt, tokens, vocab, index);
    return engine_add(e, &q, ret_id, err);
}

/* Generates for `count` sequences from `first` on, together. */
static int generate(struct engine *e, uint32_t vocab, uint32_t first, uint32_t count, bool is_rated,
                    struct given *ret, struct error *err)
{
    uint32_t ids[SEQUENCES];
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < count; i++)
        r = add_sequence(e, vocab, first + i, is_rated, &ids[i], err);
    while (r == 0 && engine_has_work(e)) {
        struct engine_output out[32];
        struct engine_step_stats stats;
        r = engine_step(e, out, 32, &stats, err);
        for (uint32_t k = 0; r == 0 && k < stats.output_count; k++) {
            for (uint32_t i = 0; i < count; i++) {
                if (!out[k].has_token || ids[i] != out[k].sequence)
                    continue;
                ret[i].tokens[ret[i].count] = out[k].token;
                ret[i].logprobs[ret[i].count++] = out[k].logprob;
            }
        }
    }
    for (uint32_t i = 0; r == 0 && i < count; i++)
        engine_remove(e, ids[i]);
    return r;
}

/* Each sequence alone, all together, and all together where the GPU picks the tokens. */
static int compare_batch(const struct pair *p, double *ret, struct error *err)
{
    struct given alone[SEQUENCES] = {0}, together[SEQUENCES] = {0}, picked[SEQUENCES] = {0};
    uint32_t vocab = p->b.backbone.config->vocab_count, differing = 0;
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < SEQUENCES; i++)
        r = generate(p->gpu, vocab, i, 1, true, &alone[i], err);
    if (r == 0)
        r = generate(p->gpu, vocab, 0, SEQUENCES, true, together, err);
    if (r == 0)
        r = generate(p->gpu, vocab, 0, SEQUENCES, false, picked, err);
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        for (uint32_t k = 0; k < NEW_TOKENS; k++)
            differing += !(alone[i].logprobs[k] == together[i].logprobs[k]) ||
                         together[i].tokens[k] != picked[i].tokens[k];
    }
    *ret = differing;
    return r;
}

/* --- all of them --- */

static int report(const struct check_options *o, const char *family, const char *weights,
                  const char *adapter, double difference, double bound)
{
    const struct check_result r = {family,     weights, adapter,
                                   difference, bound,   difference <= bound}; /* NaN: no */
    o->report(o->context, &r);
    return r.passed ? 0 : 1;
}

static int check_model(const struct check_options *o, uint32_t family, enum image_dtype dtype,
                       const char *weights, struct error *err)
{
    struct model_config c;
    struct pair p;
    double difference = 0;
    int failed = 0;
    const char *name = shape_small(family, &c);
    double bound = dtype == IMAGE_PANELS ? DIFFERENCE_MAX : DIFFERENCE_OF_CODES_MAX;
    int r = pair_open(&p, &c, dtype, o->gpu, err);
    for (int32_t slot = -1; r == 0 && slot < (int32_t)ADAPTERS; slot++) {
        r = compare_logits(&p, slot, slot < 0 ? o->prompt_tokens : 45, &difference, err);
        if (r == 0)
            failed += report(o, name, weights, slot < 0 ? "none" : adapter_names[slot], difference,
                             bound);
    }
    if (r == 0)
        r = compare_batch(&p, &difference, err);
    if (r == 0)
        failed += report(o, name, weights, "batch", difference, 0);
    if (r < 0)
        error_prefix(err, "%s in %s", name, weights);
    pair_close(&p);
    return r < 0 ? r : failed;
}

int check_run(const struct check_options *o, struct error *err)
{
    static const struct {
        enum image_dtype dtype;
        const char *name;
    } forms[] = {{IMAGE_PANELS, "bf16"}, {IMAGE_INT8, "int8"}, {IMAGE_INT4, "int4"}};
    int failed = 0;
    for (uint32_t family = 0; family < SHAPE_FAMILIES; family++) {
        for (uint32_t i = 0; i < 3 && (i == 0 || family == 0 || o->all_forms); i++) {
            int r = check_model(o, family, forms[i].dtype, forms[i].name, err);
            if (r < 0)
                return r;
            failed += r;
        }
    }
    return failed;
}
