/* The sampler against a plain one that sorts the whole vocabulary and filters step by step. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "engine/sampler.h"

#define VOCAB 997u         /* one block of the sampler's */
#define VOCAB_BLOCKS 5003u /* a few */
#define VOCAB_MAX 30011u   /* more than are asked for as the most likely */

static union sampler_scratch scratch[VOCAB_MAX];

static const struct kernels *table(void)
{
    const struct kernels *k;
    struct error err = {0};
    assert_int_equal(kernels_select(&k, &err), 0);
    return k;
}

/* `spread`: standard deviation; ties: logits in steps of one half. */
static void random_logits(struct rng *rng, uint32_t vocab, double spread, int ties, float *ret)
{
    for (uint32_t i = 0; i < vocab; i++) {
        double x = spread * rng_normal(rng);
        ret[i] = (float)(ties ? round(x * 2) / 2 : x);
    }
}

struct entry {
    float logit;
    uint32_t token;
    double p;
};

static int descending(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return x->token < y->token ? -1 : 1;
}

static void renormalise(struct entry *e, uint32_t count)
{
    double sum = 0;
    for (uint32_t i = 0; i < count; i++)
        sum += e[i].p;
    for (uint32_t i = 0; i < count; i++)
        e[i].p /= sum;
}

/* What each token's probability is after temperature, top-k, top-p, min-p, in this order. */
static void plain_distribution(const float *logits, uint32_t vocab, const struct engine_sampling *s,
                               double *ret)
{
    struct entry *e = calloc(vocab, sizeof(*e));
    uint32_t count = vocab, kept = 0;
    double sum = 0;
    assert_non_null(e);
    for (uint32_t i = 0; i < vocab; i++)
        e[i] = (struct entry){logits[i], i, 0};
    qsort(e, vocab, sizeof(*e), descending);
    for (uint32_t i = 0; i < vocab; i++)
        e[i].p = exp(((double)e[i].logit - (double)e[0].logit) / (double)s->temperature);
    if (s->top_k && s->top_k < count)
        count = s->top_k;
    renormalise(e, count);
    while (kept < count && (kept == 0 || sum < (double)s->top_p))
        sum += e[kept++].p;
    count = s->top_p < 1 ? kept : count;
    renormalise(e, count);
    for (kept = 1; kept < count && e[kept].p >= (double)s->min_p * e[0].p;)
        kept++;
    renormalise(e, kept);
    memset(ret, 0, vocab * sizeof(*ret));
    for (uint32_t i = 0; i < kept; i++)
        ret[e[i].token] = e[i].p;
    free(e);
}

/* Draws follow the distribution: chi-square over the tokens that are expected often enough. */
static void compare_draws(const float *logits, uint32_t vocab, const struct engine_sampling *s)
{
    enum { DRAWS = 20000 };
    static double p[VOCAB_BLOCKS];
    static uint32_t seen[VOCAB_BLOCKS];
    double chi = 0;
    uint32_t bins = 0;
    assert_true(vocab <= VOCAB_BLOCKS);
    memset(seen, 0, sizeof(seen));
    plain_distribution(logits, vocab, s, p);
    for (uint32_t n = 0; n < DRAWS; n++)
        seen[sampler_draw(table(), logits, vocab, s, n, scratch)]++;
    double rest_expected = 0, rest_seen = 0;
    for (uint32_t i = 0; i < vocab; i++) {
        double expected = p[i] * DRAWS;
        if (seen[i] && p[i] == 0)
            fail_msg("token %u was filtered out and drawn (T %g, k %u, p %g, min %g)", i,
                     (double)s->temperature, s->top_k, (double)s->top_p, (double)s->min_p);
        if (!seen[i] && expected > 40)
            fail_msg("token %u was kept and never drawn (T %g, k %u, p %g, min %g)", i,
                     (double)s->temperature, s->top_k, (double)s->top_p, (double)s->min_p);
        if (expected < 8) {
            rest_expected += expected;
            rest_seen += seen[i];
            continue;
        }
        chi += (seen[i] - expected) * (seen[i] - expected) / expected;
        bins++;
    }
    if (rest_expected >= 8) {
        chi += (rest_seen - rest_expected) * (rest_seen - rest_expected) / rest_expected;
        bins++;
    }
    /* The draws are fixed by the seed, so this holds always or never; 6 sigma. */
    if (bins > 1 && chi > bins - 1 + 6 * sqrt(2.0 * (bins - 1)) + 6)
        fail_msg("chi-square %g over %u bins (T %g, k %u, p %g, min %g)", chi, bins,
                 (double)s->temperature, s->top_k, (double)s->top_p, (double)s->min_p);
}

static void test_draws_follow_the_filters(void **state)
{
    static const struct engine_sampling ways[] = {
        {1, 1, 0, 0, 1},         {0.7f, 1, 0, 0, 2},      {1.5f, 1, 0, 40, 3},
        {1, 0.9f, 0, 0, 4},      {1, 0.3f, 0, 0, 5},      {1, 1, 0.1f, 0, 6},
        {0.8f, 0.9f, 0, 20, 7},  {2, 0.95f, 0.05f, 0, 8}, {1.2f, 0.8f, 0.2f, 100, 9},
        {0.1f, 0.99f, 0, 5, 10}, {100, 1, 0, 0, 11},      {1, 1, 0, 1, 12},
        {1, 1e-6f, 0, 0, 13},    {1, 1, 0.999f, 0, 14},   {1e-30f, 1, 0, 0, 15},
    };
    float logits[VOCAB];
    struct rng rng;
    (void)state;
    rng_seed(&rng, 1);
    for (uint32_t w = 0; w < sizeof(ways) / sizeof(*ways); w++) {
        random_logits(&rng, VOCAB, w % 2 ? 2 : 4, w % 3 == 0, logits);
        compare_draws(logits, VOCAB, &ways[w]);
    }
}

enum shape { NORMAL, FLAT, EQUAL, TWO_VALUES, STEPS, RISING, PEAKED, SHAPE_COUNT };

/* Distributions of which a sample says much, little or the wrong thing. */
static void shaped_logits(struct rng *rng, enum shape shape, uint32_t vocab, float *ret)
{
    static const double spreads[SHAPE_COUNT] = {
        [NORMAL] = 3, [FLAT] = 0.01, [STEPS] = 2, [PEAKED] = 1};
    random_logits(rng, vocab, spreads[shape], shape == STEPS, ret);
    for (uint32_t i = 0; i < vocab; i++) {
        if (shape == TWO_VALUES)
            ret[i] = (float)(i % 2);
        if (shape == RISING)
            ret[i] = (float)i * (8.0f / (float)vocab);
    }
    if (shape == PEAKED)
        for (uint32_t i = 1; i < 6; i++)
            ret[i * i * 7] = 12 - (float)i / 4;
}

/* What is kept is more than is sorted at a time, the vocabulary more than a block. */
static void test_filters_keep_what_they_should_of_many(void **state)
{
    static const struct {
        enum shape shape;
        struct engine_sampling way;
    } cases[] = {
        {NORMAL, {1, 1, 0, 0, 1}},         {NORMAL, {2, 0.9f, 0, 0, 2}},
        {NORMAL, {1, 0.99999f, 0, 0, 3}},  {NORMAL, {1, 0.5f, 0, 4000, 4}},
        {NORMAL, {0.001f, 0.9f, 0, 5, 5}}, {NORMAL, {100, 1, 0, 300, 6}},
        {FLAT, {1, 0.06f, 0, 0, 7}},       {FLAT, {2, 0.1f, 0.5f, 4000, 8}},
        {EQUAL, {1, 0.08f, 0, 0, 9}},      {EQUAL, {1, 1, 0, 401, 10}},
        {EQUAL, {1, 0.5f, 0, 801, 11}},    {TWO_VALUES, {1, 0.1f, 0, 0, 12}},
        {TWO_VALUES, {1, 1, 0, 3000, 13}}, {TWO_VALUES, {1, 0.99f, 0, 2503, 14}},
        {STEPS, {1, 0.9f, 0, 0, 15}},      {STEPS, {0.7f, 0.9999f, 0, 777, 16}},
        {RISING, {1, 1, 0, 3, 17}},        {RISING, {1, 0.3f, 0, 1000, 18}},
        {RISING, {1, 0.9f, 0.2f, 0, 19}},  {PEAKED, {1, 0.9f, 0, 0, 20}},
        {PEAKED, {1, 0.9f, 0, 5, 21}},     {PEAKED, {2, 0.999f, 0, 600, 22}},
        {NORMAL, {1, 1, 0, 5002, 23}},     {NORMAL, {1e-40f, 0.9f, 0, 0, 24}},
        {EQUAL, {1, 0.9999f, 0, 101, 25}},
    };
    static float logits[VOCAB_BLOCKS];
    struct rng rng;
    (void)state;
    rng_seed(&rng, 8);
    for (uint32_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        shaped_logits(&rng, cases[i].shape, VOCAB_BLOCKS, logits);
        compare_draws(logits, VOCAB_BLOCKS, &cases[i].way);
    }
}

/* With ties all over, the filters keep exactly the tokens that the sorting one keeps. */
static void test_ties_go_to_the_lower_id(void **state)
{
    float logits[VOCAB];
    (void)state;
    for (uint32_t i = 0; i < VOCAB; i++)
        logits[i] = (float)(i % 3);
    struct engine_sampling s = {.temperature = 1, .top_p = 1, .top_k = 10};
    for (uint32_t n = 0; n < 2000; n++) {
        uint32_t token = sampler_draw(table(), logits, VOCAB, &s, n, scratch);
        assert_int_equal(token % 3, 2);
        assert_true(token < 30);
    }
    s = (struct engine_sampling){.temperature = 0, .top_p = 1};
    assert_int_equal(sampler_draw(table(), logits, VOCAB, &s, 0, scratch), 2);
}

static void test_a_draw_depends_on_seed_and_index(void **state)
{
    float logits[VOCAB];
    struct rng rng;
    struct engine_sampling s = {.temperature = 3, .top_p = 1, .seed = 5};
    struct engine_sampling other = {.temperature = 3, .top_p = 1, .seed = 6};
    uint32_t same_index = 0, same_seed = 0, shifted = 0;
    (void)state;
    rng_seed(&rng, 2);
    random_logits(&rng, VOCAB, 1, 0, logits);
    for (uint32_t n = 0; n < 300; n++) {
        uint32_t token = sampler_draw(table(), logits, VOCAB, &s, n, scratch);
        assert_int_equal(token, sampler_draw(table(), logits, VOCAB, &s, n, scratch));
        same_index += token == sampler_draw(table(), logits, VOCAB, &other, n, scratch);
        same_seed += token == sampler_draw(table(), logits, VOCAB, &s, n + 1, scratch);
        shifted += token == sampler_draw(table(), logits, VOCAB, &other, n + 1, scratch);
    }
    assert_true(same_index < 30);
    assert_true(same_seed < 30);
    assert_true(shifted < 30);
}

static void test_what_is_no_number_gives_some_token(void **state)
{
    static const float odd[] = {NAN, INFINITY, -INFINITY, -NAN};
    static const struct engine_sampling ways[] = {
        {0, 1, 0, 0, 1}, {1, 1, 0, 0, 1}, {1, 0.5f, 0, 0, 1}, {1, 0.9f, 0.1f, 7, 1}};
    static float logits[VOCAB_BLOCKS];
    struct rng rng;
    (void)state;
    rng_seed(&rng, 4);
    for (uint32_t n = 0; n < 400; n++) {
        uint32_t vocab = n % 2 ? VOCAB : VOCAB_BLOCKS;
        uint32_t bad = n % 5 == 4 ? vocab : rng_below(&rng, 5);
        random_logits(&rng, vocab, 2, 0, logits);
        for (uint32_t i = 0; i < bad; i++)
            logits[bad == vocab ? i : rng_below(&rng, vocab)] = odd[n % 4];
        assert_true(sampler_draw(table(), logits, vocab, &ways[n % 16 / 4], n, scratch) < vocab);
        struct engine_logprob top[ENGINE_TOP_LOGPROBS_MAX];
        double lse = table()->log_sum_exp(logits, vocab);
        uint32_t count = sampler_top(table(), logits, vocab, lse, 20, top);
        assert_int_equal(count, 20);
        for (uint32_t i = 0; i < count; i++) {
            assert_true(top[i].token < vocab);
            assert_true(isfinite(top[i].logprob));
        }
        assert_true(isfinite(sampler_logprob(logits[0], lse)));
    }
}

static void test_top_is_the_sorted_head(void **state)
{
    static float logits[VOCAB_MAX];
    static struct entry e[VOCAB_MAX];
    struct rng rng;
    (void)state;
    rng_seed(&rng, 7);
    for (uint32_t n = 0; n < 88; n++) {
        /* More and fewer blocks than tokens that are wanted. */
        uint32_t vocab = n % 4 == 3 ? VOCAB_MAX : n % 4 == 2 ? VOCAB_BLOCKS : VOCAB;
        struct engine_logprob top[ENGINE_TOP_LOGPROBS_MAX];
        uint32_t want = n / 4 % (ENGINE_TOP_LOGPROBS_MAX + 1);
        double sum = 0;
        random_logits(&rng, vocab, 3, n % 2, logits);
        for (uint32_t i = 0; i < vocab; i++) {
            e[i] = (struct entry){logits[i], i, 0};
            sum += exp((double)logits[i]);
        }
        qsort(e, vocab, sizeof(*e), descending);
        double lse = table()->log_sum_exp(logits, vocab);
        assert_int_equal(sampler_top(table(), logits, vocab, lse, want, top), want);
        for (uint32_t i = 0; i < want; i++) {
            assert_int_equal(top[i].token, e[i].token);
            assert_true(fabs((double)top[i].logprob - ((double)e[i].logit - log(sum))) < 1e-5);
        }
        assert_int_equal(sampler_top(table(), logits, 3, lse, 20, top), 3);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_draws_follow_the_filters),
        cmocka_unit_test(test_filters_keep_what_they_should_of_many),
        cmocka_unit_test(test_ties_go_to_the_lower_id),
        cmocka_unit_test(test_a_draw_depends_on_seed_and_index),
        cmocka_unit_test(test_what_is_no_number_gives_some_token),
        cmocka_unit_test(test_top_is_the_sorted_head),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
