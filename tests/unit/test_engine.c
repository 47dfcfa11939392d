/*
 * What a sequence gives out depends on nothing but itself: not on its neighbours in the batch, the
 * chunks of its prompt, the threads, nor on losing its cache in mid-generation. All compared
 * bitwise with the sequence alone.
 */
#include "kernels/kernels.h"
#include "unit/engine_fixture.h"

#include <errno.h>
#include <math.h>

#define SEQUENCES 8u
#define ADAPTERS 5u
#define PROMPT_MAX 48u

struct crowd {
    struct fixture_model *model;
    struct fixture_adapter *adapters[ADAPTERS];
    uint32_t tokens[SEQUENCES][PROMPT_MAX];
    struct engine_request requests[SEQUENCES];
    struct fixture_stream expect[SEQUENCES]; /* of each alone */
    struct fixture_stream got[SEQUENCES];
};

static struct crowd *crowd_new(uint32_t family, uint32_t dtype, uint32_t tokens_new_max)
{
    static const uint32_t ranks[ADAPTERS] = {1, 4, 8, 64, 4};
    static const int32_t slots[SEQUENCES] = {3, -1, 0, 1, 2, 1, 4, -1};
    struct crowd *c = calloc(1, sizeof(*c));
    struct rng rng;
    assert_non_null(c);
    rng_seed(&rng, 100 + family);
    c->model = fixture_model_new(&fixture_families[family], dtype, 40 + family);
    for (uint32_t i = 0; i < ADAPTERS; i++)
        c->adapters[i] =
            fixture_adapter_new(c->model, dtype, ranks[i], i == 0 ? 0x15 : FIXTURE_LINEARS, 7 + i);
    /* The last adapter gives nothing but NaN: its neighbours must not notice. */
    for (uint32_t i = 0; i < adapter_scale_count(c->model->config.layer_count); i++)
        c->adapters[4]->adapter.loras[i].scale = NAN;
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        struct engine_request *r = &c->requests[i];
        *r = (struct engine_request){.tokens = c->tokens[i],
                                     .token_count = 1 + rng_below(&rng, PROMPT_MAX),
                                     .tokens_new_max = tokens_new_max + i,
                                     .adapter_slot = slots[i],
                                     .adapter_scale = 1,
                                     .sampling = {.top_p = 1, .seed = i},
                                     .logprobs = i % 3 != 0,
                                     .top_logprobs = i % 4 * 5,
                                     .prompt_logprobs = i % 2 == 1};
        if (i % 2)
            r->sampling = (struct engine_sampling){1.5f, 0.95f, 0.01f, i == 3 ? 20 : 0, i};
        if (i % 4 >= 2) {
            r->penalties = (struct engine_penalties){
                .presence = 0.5f, .frequency = i == 3 ? 0 : 0.8f, .repetition = i == 2 ? 0 : 1.2f};
        }
        for (uint32_t t = 0; t < r->token_count; t++)
            c->tokens[i][t] = rng_below(&rng, c->model->config.vocab_count);
        fixture_alone(c->model, c->adapters, ADAPTERS, r, &c->expect[i]);
    }
    return c;
}

static void crowd_free(struct crowd *c)
{
    for (uint32_t i = 0; i < ADAPTERS; i++)
        fixture_adapter_free(c->adapters[i]);
    fixture_model_free(c->model);
    free(c);
}

static void crowd_compare(const struct crowd *c)
{
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        char what[64];
        snprintf(what, sizeof(what), "family %u, sequence %u", c->model->config.family, i);
        fixture_compare(&c->got[i], &c->expect[i], what);
    }
}

/* All eight through one engine; a new one joins every `every` steps, sequences 4 and 7 are
 * cancelled. */
static void crowd_run(struct crowd *c, const struct engine_options *o, uint32_t every,
                      uint32_t output_max, uint64_t *ret_rows)
{
    struct engine *e = fixture_engine(c->model, o, c->adapters, ADAPTERS);
    uint32_t joined = 0, steps = 0;
    memset(c->got, 0, sizeof(c->got));
    *ret_rows = 0;
    while (joined < SEQUENCES || engine_has_work(e)) {
        if (joined < SEQUENCES && steps % every == 0) {
            fixture_add(e, &c->requests[joined], &c->got[joined]);
            joined++;
        }
        struct engine_step_stats stats = fixture_step(e, c->got, joined, output_max);
        *ret_rows += stats.rows;
        assert_true(stats.rows <= o->rows_max);
        for (uint32_t i = 4; i < joined; i += 3) {
            if (c->got[i].count < 5 || c->got[i].done || c->got[i].removed)
                continue;
            c->got[i].removed = true;
            engine_remove(e, c->got[i].sequence);
        }
        assert_true(++steps < 10000);
    }
    for (uint32_t i = 0; i < SEQUENCES; i++)
        assert_true(c->got[i].done || c->got[i].removed);
    assert_int_equal(engine_kv_bytes(e), 0);
    engine_close(e);
}

static void test_alone_as_in_any_batch(void **state)
{
    static const struct {
        uint32_t threads, rows_max, every;
        bool prefix_cache;
    } ways[] = {{1, 64, 1, false}, {2, 64, 3, true},   {2, 8, 1, true},
                {3, 13, 2, false}, {2, 300, 1, false}, {2, 300, 1, true}};
    (void)state;
    for (uint32_t family = 0; family < FIXTURE_FAMILIES; family++) {
        for (uint32_t dtype = 0; dtype < 2; dtype++) {
            struct crowd *c = crowd_new(family, dtype ? IMAGE_BF16 : IMAGE_F32, 20);
            for (uint32_t w = 0; w < sizeof(ways) / sizeof(*ways); w++) {
                const struct engine_options o = {.threads = ways[w].threads,
                                                 .sequences_max = SEQUENCES,
                                                 .rows_max = ways[w].rows_max,
                                                 .kv_bytes = 16 << 20,
                                                 .adapters_max = ADAPTERS,
                                                 .prefix_cache = ways[w].prefix_cache};
                uint64_t rows;
                crowd_run(c, &o, ways[w].every, FIXTURE_OUTPUTS_MAX, &rows);
                crowd_compare(c);
            }
            crowd_free(c);
        }
    }
}

/* A caller with room for one output at a time gets the same, later. */
static void test_outputs_wait_for_room(void **state)
{
    (void)state;
    struct crowd *c = crowd_new(1, IMAGE_F32, 6);
    const struct engine_options o = {.threads = 1,
                                     .sequences_max = SEQUENCES,
                                     .rows_max = 32,
                                     .kv_bytes = 16 << 20,
                                     .adapters_max = ADAPTERS};
    uint64_t rows;
    crowd_run(c, &o, 1, 1, &rows);
    crowd_compare(c);
    crowd_run(c, &o, 1, 3, &rows);
    crowd_compare(c);
    crowd_free(c);
}

/* A pool too small for all: the youngest starts over, and nobody can tell from the tokens. */
static void test_preempted_gives_the_same(void **state)
{
    int64_t saved_rows = 0;
    (void)state;
    for (uint32_t family = 0; family < FIXTURE_FAMILIES; family++) {
        struct crowd *c = crowd_new(family, IMAGE_F32, 40);
        struct engine_options o = {.threads = 2,
                                   .sequences_max = SEQUENCES,
                                   .rows_max = 32,
                                   .kv_bytes = 64 << 20,
                                   .adapters_max = ADAPTERS};
        uint64_t roomy, tight, tightest;
        uint64_t block_bytes = fixture_kv_block_bytes(c->model);
        crowd_run(c, &o, 1, FIXTURE_OUTPUTS_MAX, &roomy);
        o.kv_bytes = 12 * block_bytes;
        crowd_run(c, &o, 1, FIXTURE_OUTPUTS_MAX, &tight);
        crowd_compare(c);
        assert_true(tight > roomy);   /* something was computed twice */
        o.kv_bytes = 6 * block_bytes; /* 96 tokens: the longest is 48 + 47 */
        crowd_run(c, &o, 2, FIXTURE_OUTPUTS_MAX, &tightest);
        crowd_compare(c);
        /* What a preempted sequence had computed can still be there when it starts over. */
        uint64_t found;
        o.prefix_cache = true;
        crowd_run(c, &o, 2, FIXTURE_OUTPUTS_MAX, &found);
        crowd_compare(c);
        saved_rows += (int64_t)(tightest - found);
        crowd_free(c);
    }
    assert_true(saved_rows > 0);
}

static void test_alone_and_out_of_kv(void **state)
{
    (void)state;
    struct crowd *c = crowd_new(0, IMAGE_F32, 40);
    struct engine_options o = {.threads = 1,
                               .sequences_max = 2,
                               .rows_max = 32,
                               .kv_bytes = 2 * fixture_kv_block_bytes(c->model),
                               .adapters_max = ADAPTERS};
    struct engine_request r = {.tokens = c->tokens[0],
                               .token_count = 20,
                               .tokens_new_max = 30,
                               .adapter_slot = -1,
                               .adapter_scale = 1,
                               .sampling = {.top_p = 1}};
    struct fixture_stream expect, got;
    fixture_alone(c->model, c->adapters, ADAPTERS, &r, &expect);
    struct engine *e = fixture_engine(c->model, &o, c->adapters, ADAPTERS);
    fixture_add(e, &r, &got);
    while (engine_has_work(e))
        fixture_step(e, &got, 1, FIXTURE_OUTPUTS_MAX);
    /* 32 positions in the pool; the last token drawn needs none yet. */
    assert_int_equal(got.count, 14);
    assert_int_equal(got.outputs[13].finish, ENGINE_OUT_OF_KV);
    assert_false(got.outputs[13].has_token);
    for (uint32_t i = 0; i < 13; i++)
        assert_int_equal(got.outputs[i].token, expect.outputs[i].token);
    engine_close(e);
    crowd_free(c);
}

static void test_prompt_logprobs_are_those_of_the_logits(void **state)
{
    (void)state;
    struct crowd *c = crowd_new(4, IMAGE_F32, 4);
    uint32_t vocab = c->model->config.vocab_count;
    float *logits = calloc((size_t)PROMPT_MAX * vocab, sizeof(*logits));
    assert_non_null(logits);
    for (uint32_t n = 1; n <= PROMPT_MAX; n += 47 - n % 2) {
        struct engine_options o = {.threads = 1,
                                   .sequences_max = 1,
                                   .rows_max = 5,
                                   .kv_bytes = 1 << 20,
                                   .adapters_max = ADAPTERS};
        struct engine_request r = {.tokens = c->tokens[3],
                                   .token_count = n,
                                   .adapter_slot = 2,
                                   .adapter_scale = 1,
                                   .sampling = {.top_p = 1},
                                   .prompt_logprobs = true,
                                   .top_logprobs = 3};
        struct fixture_stream got;
        struct error err = {0};
        struct engine *e = fixture_engine(c->model, &o, c->adapters, ADAPTERS);
        assert_int_equal(engine_logits(e, r.tokens, n, 2, logits, &err), 0);
        fixture_add(e, &r, &got);
        while (engine_has_work(e))
            fixture_step(e, &got, 1, FIXTURE_OUTPUTS_MAX);
        assert_int_equal(got.count, n);
        for (uint32_t i = 0; i < n; i++) {
            const struct engine_output *out = &got.outputs[i];
            assert_true(out->is_prompt && !out->has_token);
            assert_int_equal(out->token, r.tokens[i]);
            assert_int_equal(out->finish, i == n - 1 ? ENGINE_LENGTH : ENGINE_GOES_ON);
            assert_int_equal(out->has_logprob, i > 0);
            assert_int_equal(out->top_count, i > 0 ? 3 : 0);
            const float *row = logits + (size_t)(i ? i - 1 : 0) * vocab;
            double sum = 0, best = -INFINITY;
            for (uint32_t t = 0; t < vocab; t++) {
                sum += exp((double)row[t]);
                best = fmax(best, (double)row[t]);
            }
            if (i == 0)
                continue;
            assert_true(fabs((double)out->logprob - (double)row[out->token] + log(sum)) < 1e-5);
            assert_true(fabs((double)out->top[0].logprob - best + log(sum)) < 1e-5);
        }
        engine_close(e);
    }
    free(logits);
    crowd_free(c);
}

/* With logits that are all alike, what is drawn shows what the draws depend on: the seed and how
 * many were before, not the prompt. */
static void test_draws_count_generated_tokens(void **state)
{
    (void)state;
    struct crowd *c = crowd_new(0, IMAGE_F32, 1);
    const struct model_config *config = &c->model->config;
    c->model->backbone.head =
        fixture_weight(&c->model->memory, IMAGE_F32, config->vocab_count, config->hidden, 0);
    c->adapters[1]->adapter.view.head = c->model->backbone.head;
    struct fixture_stream longer, shorter;
    struct engine_request r = {.tokens = c->tokens[0],
                               .token_count = 30,
                               .tokens_new_max = 40,
                               .adapter_slot = -1,
                               .adapter_scale = 1,
                               .sampling = {.temperature = 1, .top_p = 1, .seed = 8}};
    fixture_alone(c->model, c->adapters, ADAPTERS, &r, &longer);
    r.token_count = 3;
    r.adapter_slot = 1;
    fixture_alone(c->model, c->adapters, ADAPTERS, &r, &shorter);
    fixture_compare(&longer, &shorter, "another prompt");
    r.sampling.seed = 9;
    fixture_alone(c->model, c->adapters, ADAPTERS, &r, &shorter);
    uint32_t same = 0;
    for (uint32_t i = 0; i < 40; i++)
        same += longer.outputs[i].token == shorter.outputs[i].token;
    assert_true(same < 10);
    crowd_free(c);
}

/* A sequence that outgrows LongRoPE's short context is computed anew by other angles: every token
 * is the best one of a pass over all tokens before it. */
static void test_sequences_become_long(void **state)
{
    (void)state;
    uint32_t family = FIXTURE_FAMILIES - 1, known[FIXTURE_LONG_FROM + 20];
    struct crowd *c = crowd_new(family, IMAGE_F32, 1);
    uint32_t vocab_count = c->model->config.vocab_count, count = FIXTURE_LONG_FROM - 8;
    assert_int_equal(c->model->config.ropes[MODEL_LAYER_FULL].kind, MODEL_ROPE_LONG);
    const struct engine_request r = {.tokens = c->tokens[0],
                                     .token_count = count,
                                     .tokens_new_max = 25,
                                     .adapter_slot = 1,
                                     .adapter_scale = 1,
                                     .sampling = {.top_p = 1}};
    const struct engine_options o = {.threads = 1,
                                     .sequences_max = 1,
                                     .rows_max = 7,
                                     .kv_bytes = 4 << 20,
                                     .adapters_max = ADAPTERS,
                                     .prefix_cache = true};
    struct engine *e = fixture_engine(c->model, &o, c->adapters, ADAPTERS);
    struct fixture_stream stream;
    fixture_alone(c->model, c->adapters, ADAPTERS, &r, &stream);
    assert_int_equal(stream.count, 25);
    float *logits = calloc((size_t)(count + 25) * vocab_count, sizeof(*logits));
    assert_non_null(logits);
    memcpy(known, c->tokens[0], count * sizeof(*known));
    for (uint32_t i = 0; i < 25; i++, count++) {
        struct error err = {0};
        assert_int_equal(engine_logits(e, known, count, 1, logits, &err), 0);
        known[count] = kernels_get(KERNEL_ISA_REF)
                           ->argmax(logits + (size_t)(count - 1) * vocab_count, vocab_count);
        assert_int_equal(stream.outputs[i].token, known[count]);
    }
    free(logits);
    engine_close(e);
    crowd_free(c);
}

/* Half of what a LoRA adds is what a LoRA of half the scale adds; of DoRA there is no half. */
static void test_scales(void **state)
{
    (void)state;
    struct crowd *c = crowd_new(1, IMAGE_F32, 1);
    struct engine_request r = {.tokens = c->tokens[0],
                               .token_count = 9,
                               .tokens_new_max = 12,
                               .adapter_slot = 2,
                               .adapter_scale = 0.5f,
                               .sampling = {.top_p = 1},
                               .logprobs = true};
    struct fixture_stream half, halved;
    fixture_alone(c->model, c->adapters, ADAPTERS, &r, &half);
    for (uint32_t i = 0; i < adapter_scale_count(c->model->config.layer_count); i++)
        c->adapters[2]->adapter.loras[i].scale *= 0.5f;
    r.adapter_scale = 1;
    fixture_alone(c->model, c->adapters, ADAPTERS, &r, &halved);
    fixture_compare(&half, &halved, "half a scale");
    crowd_free(c);
}

static void test_ends(void **state)
{
    (void)state;
    struct crowd *c = crowd_new(3, IMAGE_F32, 30);
    struct engine_request r = {.tokens = c->tokens[1],
                               .token_count = 10,
                               .tokens_new_max = 25,
                               .adapter_slot = 1,
                               .adapter_scale = 1,
                               .sampling = {.temperature = 2, .top_p = 1}};
    struct fixture_stream full, stopped;
    fixture_alone(c->model, c->adapters, ADAPTERS, &r, &full);
    assert_int_equal(full.count, 25);
    assert_int_equal(full.outputs[24].finish, ENGINE_LENGTH);
    uint32_t stop = full.outputs[9].token, first = 0;
    while (full.outputs[first].token != stop)
        first++;
    r.stop_tokens[0] = (stop + 1) % 120;
    for (uint32_t i = 0; i < 25; i++) /* one that does not occur */
        r.stop_tokens[0] = full.outputs[i].token == r.stop_tokens[0] ? 0 : r.stop_tokens[0];
    r.stop_tokens[1] = stop;
    r.stop_token_count = 2;
    fixture_alone(c->model, c->adapters, ADAPTERS, &r, &stopped);
    assert_true(stopped.count <= first + 1);
    const struct engine_output *last = &stopped.outputs[stopped.count - 1];
    assert_int_equal(last->finish, ENGINE_STOP_TOKEN);
    assert_true(last->has_token);
    assert_int_equal(last->token, full.outputs[stopped.count - 1].token);
    crowd_free(c);
}

/* Edits decide what is drawn and leave the log-probabilities the model's own. */
static void test_bias_and_min_tokens(void **state)
{
    (void)state;
    struct crowd *c = crowd_new(0, IMAGE_F32, 1);
    const struct engine_bias biases[] = {{11, 60}, {11, 40}, {12, 60}};
    struct engine_request r = {.tokens = c->tokens[1],
                               .token_count = 10,
                               .tokens_new_max = 12,
                               .adapter_slot = -1,
                               .sampling = {.top_p = 1},
                               .logprobs = true,
                               .top_logprobs = 20};
    struct fixture_stream plain, got;
    fixture_alone(c->model, NULL, 0, &r, &plain);
    assert_true(plain.outputs[0].token != 11);
    r.biases = biases;
    r.bias_count = 3;
    r.tokens_new_min = 5;
    r.stop_tokens[0] = 11;
    r.stop_token_count = 1;
    fixture_alone(c->model, NULL, 0, &r, &got);
    assert_int_equal(got.count, 6);
    for (uint32_t i = 0; i < 6; i++)
        assert_int_equal(got.outputs[i].token, i < 5 ? 12 : 11);
    assert_int_equal(got.outputs[5].finish, ENGINE_STOP_TOKEN);
    /* The same first logits, so the same alternatives, without the token that was drawn. */
    for (uint32_t t = 0; t < 20; t++) {
        assert_int_equal(got.outputs[0].top[t].token, plain.outputs[0].top[t].token);
        assert_int_equal(fixture_bits(got.outputs[0].top[t].logprob),
                         fixture_bits(plain.outputs[0].top[t].logprob));
    }
    assert_true(got.outputs[0].logprob < plain.outputs[0].logprob);
    assert_true(got.outputs[0].logprob > -30);
    crowd_free(c);
}

static void test_adapters_come_and_go(void **state)
{
    (void)state;
    struct crowd *c = crowd_new(2, IMAGE_F32, 5);
    struct crowd *foreign = crowd_new(0, IMAGE_F32, 5);
    struct engine_options o = {.threads = 1,
                               .sequences_max = 2,
                               .rows_max = 64,
                               .kv_bytes = 1 << 20,
                               .adapters_max = ADAPTERS};
    struct engine *e = fixture_engine(c->model, &o, c->adapters, ADAPTERS);
    struct error err = {0};
    struct engine_request r = c->requests[3];
    struct fixture_stream got;
    assert_int_equal(r.adapter_slot, 1);
    fixture_add(e, &r, &got);
    assert_int_equal(engine_adapter_clear(e, 1), -EBUSY);
    assert_int_equal(
        engine_adapter_set(e, 1, &c->adapters[2]->adapter, &c->adapters[2]->digest, &err), -EBUSY);
    assert_int_equal(engine_adapter_clear(e, 0), 0);
    assert_int_equal(engine_adapter_clear(e, ADAPTERS), -EINVAL);
    assert_int_equal(
        engine_adapter_set(e, ADAPTERS, &c->adapters[0]->adapter, &c->adapters[0]->digest, &err),
        -EINVAL);
    assert_int_equal(engine_adapter_set(e, 0, &foreign->adapters[0]->adapter,
                                        &foreign->adapters[0]->digest, &err),
                     -EINVAL);
    while (engine_has_work(e))
        fixture_step(e, &got, 1, FIXTURE_OUTPUTS_MAX);
    fixture_compare(&got, &c->expect[3], "after refusals");
    /* The same numbers through another slot; an adapter changes what comes out. */
    assert_int_equal(
        engine_adapter_set(e, 0, &c->adapters[1]->adapter, &c->adapters[1]->digest, &err), 0);
    r.adapter_slot = 0;
    fixture_add(e, &r, &got);
    while (engine_has_work(e))
        fixture_step(e, &got, 1, FIXTURE_OUTPUTS_MAX);
    fixture_compare(&got, &c->expect[3], "other slot");
    r.adapter_slot = -1;
    fixture_add(e, &r, &got);
    while (engine_has_work(e))
        fixture_step(e, &got, 1, FIXTURE_OUTPUTS_MAX);
    assert_true(fixture_bits(got.outputs[1].logprob) !=
                fixture_bits(c->expect[3].outputs[1].logprob));
    engine_close(e);
    crowd_free(foreign);
    crowd_free(c);
}

/* Memory is held while there is work and given back by a trim; what follows is the same. */
static void test_trim(void **state)
{
    (void)state;
    struct crowd *c = crowd_new(1, IMAGE_F32, 10);
    struct engine_options o = {.threads = 2,
                               .sequences_max = SEQUENCES,
                               .rows_max = 32,
                               .kv_bytes = 16 << 20,
                               .adapters_max = ADAPTERS};
    struct engine *e = fixture_engine(c->model, &o, c->adapters, ADAPTERS);
    assert_int_equal(engine_activation_bytes(e), 0);
    for (uint32_t round = 0; round < 2; round++) {
        uint64_t kv_bytes_most = 0;
        for (uint32_t i = 0; i < SEQUENCES; i++)
            fixture_add(e, &c->requests[i], &c->got[i]);
        while (engine_has_work(e)) {
            fixture_step(e, c->got, SEQUENCES, FIXTURE_OUTPUTS_MAX);
            uint64_t kv_bytes = engine_kv_bytes(e);
            kv_bytes_most = kv_bytes > kv_bytes_most ? kv_bytes : kv_bytes_most;
            engine_trim(e); /* between steps: what is in use stays */
        }
        crowd_compare(c);
        assert_true(kv_bytes_most > 0);
        assert_int_equal(engine_kv_bytes(e), 0);
        assert_int_equal(engine_activation_bytes(e), 0);
    }
    engine_close(e);
    crowd_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alone_as_in_any_batch),
        cmocka_unit_test(test_outputs_wait_for_room),
        cmocka_unit_test(test_preempted_gives_the_same),
        cmocka_unit_test(test_alone_and_out_of_kv),
        cmocka_unit_test(test_prompt_logprobs_are_those_of_the_logits),
        cmocka_unit_test(test_draws_count_generated_tokens),
        cmocka_unit_test(test_sequences_become_long),
        cmocka_unit_test(test_scales),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_bias_and_min_tokens),
        cmocka_unit_test(test_adapters_come_and_go),
        cmocka_unit_test(test_trim),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
