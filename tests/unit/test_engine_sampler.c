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

#define VOCAB 997u

static struct sampler_candidate scratch[VOCAB];

static const struct kernels *table(void)
{
    const struct kernels *k;
    struct error err = {0};
    assert_int_equal(kernels_select(&k, &err), 0);
    return k;
}

/* `spread`: standard deviation; ties: logits in steps of one half. */
static void random_logits(struct rng *rng, double spread, int ties, float *ret)
{
    for (uint32_t i = 0; i < VOCAB; i++) {
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
static void plain_distribution(const float *logits, const struct engine_sampling *s, double *ret)
{
    struct entry *e = calloc(VOCAB, sizeof(*e));
    uint32_t count = VOCAB, kept = 0;
    double sum = 0;
    assert_non_null(e);
    for (uint32_t i = 0; i < VOCAB; i++)
        e[i] = (struct entry){logits[i], i, 0};
    qsort(e, VOCAB, sizeof(*e), descending);
    for (uint32_t i = 0; i < VOCAB; i++)
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
    memset(ret, 0, VOCAB * sizeof(*ret));
    for (uint32_t i = 0; i < kept; i++)
        ret[e[i].token] = e[i].p;
    free(e);
}

/* Draws follow the distribution: chi-square over the tokens that are expected often enough. */
static void compare_draws(const float *logits, const struct engine_sampling *s)
{
    enum { DRAWS = 20000 };
    double p[VOCAB], chi = 0;
    uint32_t seen[VOCAB] = {0}, bins = 0;
    plain_distribution(logits, s, p);
    for (uint32_t n = 0; n < DRAWS; n++)
        seen[sampler_draw(table(), logits, VOCAB, s, n, scratch)]++;
    double rest_expected = 0, rest_seen = 0;
    for (uint32_t i = 0; i < VOCAB; i++) {
        double expected = p[i] * DRAWS;
        if (seen[i] && p[i] == 0)
            fail_msg("token %u was filtered out and drawn (T %g, k %u, p %g, min %g)", i,
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
        random_logits(&rng, w % 2 ? 2 : 4, w % 3 == 0, logits);
        compare_draws(logits, &ways[w]);
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
    random_logits(&rng, 1, 0, logits);
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
    float logits[VOCAB];
    struct rng rng;
    (void)state;
    rng_seed(&rng, 4);
    for (uint32_t n = 0; n < 400; n++) {
        uint32_t bad = n % 5 == 4 ? VOCAB : rng_below(&rng, 5);
        random_logits(&rng, 2, 0, logits);
        for (uint32_t i = 0; i < bad; i++)
            logits[bad == VOCAB ? i : rng_below(&rng, VOCAB)] = odd[n % 4];
        assert_true(sampler_draw(table(), logits, VOCAB, &ways[n % 16 / 4], n, scratch) < VOCAB);
        struct engine_logprob top[ENGINE_TOP_LOGPROBS_MAX];
        double lse = table()->log_sum_exp(logits, VOCAB);
        uint32_t count = sampler_top(logits, VOCAB, lse, 20, top);
        for (uint32_t i = 0; i < count; i++) {
            assert_true(top[i].token < VOCAB);
            assert_true(isfinite(top[i].logprob));
        }
        assert_true(isfinite(sampler_logprob(logits[0], lse)));
    }
}

static void test_top_is_the_sorted_head(void **state)
{
    float logits[VOCAB];
    struct rng rng;
    (void)state;
    rng_seed(&rng, 7);
    for (uint32_t n = 0; n < 200; n++) {
        struct entry e[VOCAB];
        struct engine_logprob top[ENGINE_TOP_LOGPROBS_MAX];
        uint32_t want = n % (ENGINE_TOP_LOGPROBS_MAX + 1);
        double sum = 0;
        random_logits(&rng, 3, n % 2, logits);
        for (uint32_t i = 0; i < VOCAB; i++) {
            e[i] = (struct entry){logits[i], i, 0};
            sum += exp((double)logits[i]);
        }
        qsort(e, VOCAB, sizeof(*e), descending);
        double lse = table()->log_sum_exp(logits, VOCAB);
        assert_int_equal(sampler_top(logits, VOCAB, lse, want, top), want);
        for (uint32_t i = 0; i < want; i++) {
            assert_int_equal(top[i].token, e[i].token);
            assert_true(fabs((double)top[i].logprob - ((double)e[i].logit - log(sum))) < 1e-5);
        }
        assert_int_equal(sampler_top(logits, 3, lse, 20, top), 3);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_draws_follow_the_filters),
        cmocka_unit_test(test_ties_go_to_the_lower_id),
        cmocka_unit_test(test_a_draw_depends_on_seed_and_index),
        cmocka_unit_test(test_what_is_no_number_gives_some_token),
        cmocka_unit_test(test_top_is_the_sorted_head),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
