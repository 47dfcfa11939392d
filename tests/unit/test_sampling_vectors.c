/*
 * The sampler against transformers' logits processors (tests/vectors/sampling/, made by
 * make_sampling_vectors.py): each edited logit, and draws against the whole distribution by a
 * chi-squared test. Seeds are fixed, so that it holds always or never.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sampler.h"

#define PATH "tests/vectors/sampling/expected.json"
#define VOCAB_MAX 256u
#define TOKENS_MAX 64u
#define DRAWS 20000u
#define BIN_EXPECTED_MIN 5.0
#define NORMAL_0999 3.0902 /* the standard normal distribution's 0.999 quantile */

struct vector_case {
    uint32_t number;
    uint32_t vocab_count;
    uint32_t prompt_count;
    uint32_t token_count;
    uint32_t tokens[TOKENS_MAX];
    float logits[VOCAB_MAX];
    float edited[VOCAB_MAX];
    double p[VOCAB_MAX];
    struct engine_bias biases[VOCAB_MAX];
    struct engine_request request;
};

static void read_tokens(const json_t *list, struct vector_case *c)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        assert_true(c->token_count < TOKENS_MAX);
        c->tokens[c->token_count++] = (uint32_t)json_integer_value(json_array_get(list, i));
    }
}

static float number(const json_t *object, const char *name, float otherwise)
{
    const json_t *v = json_object_get(object, name);
    return v ? (float)json_number_value(v) : otherwise;
}

static void read_parameters(json_t *p, const json_t *stops, struct vector_case *c)
{
    const char *key;
    json_t *v;
    c->request = (struct engine_request){
        .token_count = c->prompt_count,
        .tokens_new_max = TOKENS_MAX,
        .tokens_new_min = (uint32_t)number(p, "min_tokens", 0),
        .biases = c->biases,
        .stop_token_count = (uint32_t)json_array_size(stops),
        .sampling = {.temperature = number(p, "temperature", 1),
                     .top_p = number(p, "top_p", 1),
                     .min_p = number(p, "min_p", 0),
                     .top_k = (uint32_t)number(p, "top_k", 0)},
        .penalties = {.presence = number(p, "presence_penalty", 0),
                      .frequency = number(p, "frequency_penalty", 0),
                      .repetition = number(p, "repetition_penalty", 0)},
    };
    for (size_t i = 0; i < json_array_size(stops); i++)
        c->request.stop_tokens[i] = (uint32_t)json_integer_value(json_array_get(stops, i));
    json_object_foreach(json_object_get(p, "logit_bias"), key, v)
        c->biases[c->request.bias_count++] =
        (struct engine_bias){(uint32_t)strtoul(key, NULL, 10), (float)json_number_value(v)};
}

static void read_case(const json_t *root, size_t index, struct vector_case *c)
{
    json_t *from = json_array_get(json_object_get(root, "cases"), index), *v;
    const json_t *row = json_array_get(json_object_get(root, "rows"),
                                       (size_t)json_integer_value(json_object_get(from, "row")));
    size_t i;
    *c = (struct vector_case){.number = (uint32_t)index,
                              .vocab_count = (uint32_t)json_array_size(row)};
    assert_in_range(c->vocab_count, 1, VOCAB_MAX);
    for (i = 0; i < c->vocab_count; i++)
        c->logits[i] = c->edited[i] = (float)json_number_value(json_array_get(row, i));
    read_tokens(json_object_get(from, "prompt"), c);
    c->prompt_count = c->token_count;
    read_tokens(json_object_get(from, "generated"), c);
    read_parameters(json_object_get(from, "parameters"), json_object_get(root, "stops"), c);
    c->request.sampling.seed = (uint64_t)json_integer_value(json_object_get(from, "seed"));
    json_array_foreach(json_object_get(from, "edited"), i, v)
    {
        const json_t *x = json_array_get(v, 1);
        c->edited[json_integer_value(json_array_get(v, 0))] =
            json_is_null(x) ? -INFINITY : (float)json_number_value(x);
    }
    json_array_foreach(json_object_get(from, "p"), i, v)
        c->p[json_integer_value(json_array_get(v, 0))] = json_number_value(json_array_get(v, 1));
}

/* Wilson and Hilferty's approximation. */
static double chi_squared_0999(double degrees)
{
    double a = 2 / (9 * degrees);
    return degrees * pow(1 - a + NORMAL_0999 * sqrt(a), 3);
}

static void compare_draws(const struct vector_case *c, const uint32_t *seen)
{
    double chi = 0, rest_expected = 0, rest_seen = 0;
    uint32_t bins = 0;
    for (uint32_t i = 0; i < c->vocab_count; i++) {
        double expected = c->p[i] * DRAWS;
        if (c->p[i] == 0 && seen[i] > 0)
            fail_msg("case %u: token %u is filtered out, but was drawn", c->number, i);
        if (expected < BIN_EXPECTED_MIN) {
            rest_expected += expected;
            rest_seen += seen[i];
            continue;
        }
        chi += (seen[i] - expected) * (seen[i] - expected) / expected;
        bins++;
    }
    if (rest_expected >= BIN_EXPECTED_MIN) {
        chi += (rest_seen - rest_expected) * (rest_seen - rest_expected) / rest_expected;
        bins++;
    }
    assert_true(bins > 1);
    if (chi > chi_squared_0999(bins - 1))
        fail_msg("case %u: chi-squared is %g over %u bins, its 0.999 quantile %g", c->number, chi,
                 bins, chi_squared_0999(bins - 1));
}

static void run_case(const struct kernels *k, struct vector_case *c)
{
    static union sampler_scratch scratch[VOCAB_MAX];
    static struct sampler_candidate saved[VOCAB_MAX];
    const struct sampler_known known = {c->tokens, c->token_count, c->prompt_count};
    uint32_t seen[VOCAB_MAX] = {0};
    float raw[VOCAB_MAX];
    memcpy(raw, c->logits, sizeof raw);
    memset(scratch, 0xa5, sizeof scratch);
    uint32_t edits = sampler_edit(c->logits, &c->request, &known, scratch, saved);
    assert_true(edits <= sampler_edits_max(&c->request, c->vocab_count));
    for (uint32_t i = 0; i < c->vocab_count; i++) {
        if (!(fabsf(c->logits[i] - c->edited[i]) < 1e-5f || c->logits[i] == c->edited[i]))
            fail_msg("case %u: logit %u becomes %.9g instead of %.9g", c->number, i,
                     (double)c->logits[i], (double)c->edited[i]);
    }
    for (uint32_t n = 0; n < DRAWS; n++)
        seen[sampler_draw(k, c->logits, c->vocab_count, &c->request.sampling, n, scratch)]++;
    compare_draws(c, seen);
    sampler_restore(c->logits, saved, edits);
    assert_memory_equal(c->logits, raw, sizeof raw);
}

static void test_distributions(void **state)
{
    (void)state;
    static struct vector_case c;
    const struct kernels *k;
    struct error err = {0};
    assert_int_equal(kernels_select(&k, &err), 0);
    json_t *root = json_load_file(PATH, 0, NULL);
    size_t count = json_array_size(json_object_get(root, "cases"));
    assert_true(count > 60);
    for (size_t i = 0; i < count; i++) {
        read_case(root, i, &c);
        run_case(k, &c);
    }
    json_decref(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_distributions)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
