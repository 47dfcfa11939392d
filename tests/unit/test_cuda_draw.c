/*
 * Tokens drawn on GPUs, against what sampler.h says: the largest logit (equal ones, infinities,
 * NaN, odd sizes) against the scalar truth, and draws with filters against a vocabulary that is
 * sorted and added up in double.
 */
#include "unit/cuda_launch.h"

#include "base/rng.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdbool.h>

#define ROWS 7u
#define VOCAB_MAX 151936u /* qwen2.5 */

/* What roundings of weights, float on one side, may shift a sum by. */
#define SLACK 2e-6

/* Draws from ROWS rows, and no row writes where it must not. */
static void draw(struct cuda_driver *c, const float *logits, uint32_t vocab,
                 const struct cuda_draw_row *rows, uint32_t ret_tokens[ROWS])
{
    const struct cuda_draw job = {
        .logits = cuda_new(c, logits, (size_t)ROWS * vocab * sizeof(float)),
        .rows = cuda_new(c, rows, ROWS * sizeof(*rows)),
        .tokens = cuda_new(c, NULL, ROWS * sizeof(uint32_t)),
        .vocab = vocab,
    };
    cuda_run(c, CUDA_DRAW, ROWS, 1, 1, CUDA_DRAW_THREADS, 0, &job);
    cuda_read(c, ret_tokens, job.tokens, ROWS * sizeof(uint32_t));
    cuda_reset(c);
}

static void test_best(void **state)
{
    static const uint32_t vocabs[] = {1, 2, 31, 33, 1000, 1024, 1025, 5003};
    static float logits[ROWS * 5003];
    struct rng rng;
    rng_seed(&rng, 1);
    for (size_t v = 0; v < sizeof vocabs / sizeof vocabs[0]; v++) {
        uint32_t vocab = vocabs[v], got[ROWS];
        struct cuda_draw_row rows[ROWS] = {0};
        for (uint32_t i = 0; i < ROWS * vocab; i++)
            logits[i] = (float)rng_below(&rng, 50) - 60; /* many are equal, all below 0 */
        for (uint32_t i = 0; i < vocab; i++) {
            logits[i] = NAN;
            logits[vocab + i] = -INFINITY;
            logits[2 * vocab + i] = i % 3 == 1 ? logits[2 * vocab + i] : NAN;
        }
        logits[3 * vocab + vocab / 2] = INFINITY;
        logits[5 * vocab - 1] = 1;
        rows[0].temperature = rows[1].temperature = rows[3].temperature = 1; /* no number to draw */
        draw(*state, logits, vocab, rows, got);
        for (uint32_t r = 0; r < ROWS; r++)
            assert_int_equal(
                got[r], kernels_get(KERNEL_ISA_REF)->argmax(logits + (size_t)r * vocab, vocab));
    }
}

/* --- the truth of a draw --- */

struct candidate {
    float logit;
    uint32_t token;
    double weight;
};

static int by_logit(const void *left, const void *right)
{
    const struct candidate *a = left, *b = right;
    if (a->logit != b->logit)
        return a->logit > b->logit ? -1 : 1;
    return a->token < b->token ? -1 : 1;
}

static int by_token(const void *left, const void *right)
{
    const struct candidate *a = left, *b = right;
    return a->token < b->token ? -1 : 1;
}

static uint32_t sort_vocabulary(struct candidate *all, const float *logits, uint32_t vocab,
                                float temperature)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < vocab; i++)
        if (!isnan(logits[i]))
            all[n++] = (struct candidate){logits[i], i, 0};
    qsort(all, n, sizeof(*all), by_logit);
    for (uint32_t i = 0; i < n; i++)
        all[i].weight = exp(((double)all[i].logit - all[0].logit) / temperature);
    return n;
}

/* How many of the sorted vocabulary the filters keep; top-p is that of the row times `share`. */
static uint32_t count_kept(const struct candidate *all, uint32_t n, const struct cuda_draw_row *row,
                           double share)
{
    if (row->top_k > 0 && row->top_k < n)
        n = row->top_k;
    if (row->top_p < 1) {
        double mass = 0, sum = 0;
        for (uint32_t i = 0; i < n; i++)
            mass += all[i].weight;
        uint32_t kept = 0;
        while (kept < n && (kept == 0 || sum < row->top_p * share * mass))
            sum += all[kept++].weight;
        n = kept;
    }
    while (n > 1 && log(all[n - 1].weight) < row->log_min_p - 1e-6)
        n--;
    return n;
}

/* Whether the number falls into the token, of the first `n`. */
static bool falls_into(const struct candidate *all, uint32_t n, double unit, uint32_t token)
{
    struct candidate *kept = malloc(n * sizeof(*kept));
    double total = 0, sum = 0;
    bool is_it = false;
    assert_non_null(kept);
    memcpy(kept, all, n * sizeof(*kept));
    qsort(kept, n, sizeof(*kept), by_token);
    for (uint32_t i = 0; i < n; i++)
        total += kept[i].weight;
    for (uint32_t i = 0; i < n; i++) {
        if (kept[i].token == token)
            is_it = unit * total >= sum - SLACK * total &&
                    unit * total < sum + kept[i].weight + SLACK * total && kept[i].weight > 1e-14;
        sum += kept[i].weight;
    }
    free(kept);
    return is_it;
}

static void check(const float *logits, uint32_t vocab, const struct cuda_draw_row *row,
                  uint32_t token)
{
    struct candidate *all = malloc(vocab * sizeof(*all));
    assert_non_null(all);
    uint32_t n = sort_vocabulary(all, logits, vocab, row->temperature);
    bool is_right = false;
    for (int side = -1; side <= 1; side++) /* where top-p is met but for a rounding */
        is_right |= falls_into(all, count_kept(all, n, row, 1 + side * SLACK), row->unit, token);
    free(all);
    if (!is_right)
        fail_msg("vocabulary %u, temperature %g, top_k %u, top_p %g, min_p %g, unit %.17g: "
                 "token %u is not what that draws",
                 vocab, (double)row->temperature, row->top_k, (double)row->top_p,
                 exp(row->log_min_p), row->unit, token);
}

/* --- draws --- */

enum form { NORMAL, FLAT, EQUAL, SPARSE, FORM_COUNT };

static float logit_of(struct rng *rng, enum form form)
{
    double sum = -6;
    for (uint32_t i = 0; i < 12; i++)
        sum += rng_unit(rng);
    switch (form) {
    case NORMAL:
        return (float)(3 * sum);
    case FLAT:
        return (float)(0.01 * sum);
    case EQUAL: /* many equal ones at every limit, zeros of both signs among them */
        return truncf((float)sum) * 0.5f;
    default: /* hardly any numbers, far from 0 */
        return rng_below(rng, 8) == 0 ? (float)(1000 + 5 * sum)
                                      : (rng_below(rng, 2) ? -INFINITY : NAN);
    }
}

static struct cuda_draw_row random_row(struct rng *rng, uint32_t vocab)
{
    static const float temperatures[] = {0.3f, 1, 1, 2}, top_ps[] = {1, 1, 0.9f, 0.5f, 1e-6f};
    static const double min_ps[] = {0, 0, 0.05, 0.6}, units[] = {0, 0x1.fffffffffffffp-1};
    const uint32_t top_ks[] = {0, 0, 1, 5, 50, vocab - 1, vocab, vocab + 10};
    uint32_t unit = rng_below(rng, 8);
    return (struct cuda_draw_row){
        .unit = unit < 2 ? units[unit] : rng_unit(rng),
        .log_min_p = log(min_ps[rng_below(rng, 4)]),
        .temperature = temperatures[rng_below(rng, 4)],
        .top_p = top_ps[rng_below(rng, 5)],
        .top_k = top_ks[rng_below(rng, 8)],
    };
}

static void draw_and_check(struct cuda_driver *c, struct rng *rng, float *logits, uint32_t vocab,
                           enum form form)
{
    struct cuda_draw_row rows[ROWS];
    uint32_t got[ROWS];
    for (uint32_t i = 0; i < ROWS * vocab; i++)
        logits[i] = logit_of(rng, form);
    for (uint32_t r = 0; r < ROWS; r++) {
        rows[r] = random_row(rng, vocab);
        logits[r * vocab + rng_below(rng, vocab)] = form == SPARSE ? 1003 : 1;
    }
    draw(c, logits, vocab, rows, got);
    for (uint32_t r = 0; r < ROWS; r++)
        check(logits + (size_t)r * vocab, vocab, &rows[r], got[r]);
}

static void test_draw(void **state)
{
    static const uint32_t vocabs[] = {1, 2, 31, 33, 1000, 1024, 1025, 5003};
    static float logits[ROWS * 5003];
    struct rng rng;
    rng_seed(&rng, 2);
    for (size_t v = 0; v < sizeof vocabs / sizeof vocabs[0]; v++)
        for (uint32_t i = 0; i < 12; i++)
            draw_and_check(*state, &rng, logits, vocabs[v], i % FORM_COUNT);
}

static void test_draw_from_many(void **state)
{
    float *logits = malloc((size_t)ROWS * VOCAB_MAX * sizeof(*logits));
    struct rng rng;
    rng_seed(&rng, 3);
    assert_non_null(logits);
    for (uint32_t i = 0; i < FORM_COUNT; i++)
        draw_and_check(*state, &rng, logits, VOCAB_MAX, i);
    free(logits);
}

/* Each token as often as it is likely, with the numbers that seeds give in turn. */
static void test_shares(void **state)
{
    enum { VOCAB = 5, UNITS = 10000 };
    static const float shares[VOCAB] = {0.4f, 0.3f, 0.2f, 0.07f, 0.03f};
    float logits[ROWS * VOCAB];
    uint32_t counts[VOCAB] = {0}, got[ROWS];
    for (uint32_t i = 0; i < ROWS * VOCAB; i++)
        logits[i] = logf(shares[i % VOCAB]);
    for (uint32_t i = 0; i < UNITS / 10; i += ROWS) {
        struct cuda_draw_row rows[ROWS];
        for (uint32_t r = 0; r < ROWS; r++)
            rows[r] = (struct cuda_draw_row){.unit = (i + r + 0.5) / (UNITS / 10),
                                             .log_min_p = -INFINITY,
                                             .temperature = 1,
                                             .top_p = 0.9f};
        draw(*state, logits, VOCAB, rows, got);
        for (uint32_t r = 0; r < ROWS && i + r < UNITS / 10; r++)
            counts[got[r]]++;
    }
    for (uint32_t t = 0; t < VOCAB; t++) /* the first three are 0.9 of all */
        assert_in_range(counts[t] + 1, t < 3 ? (uint32_t)(shares[t] / 0.9f * 1000) : 1,
                        t < 3 ? (uint32_t)(shares[t] / 0.9f * 1000) + 2 : 1);
}

static int open_driver(void **state)
{
    static struct cuda_driver c;
    cuda_open(&c);
    *state = &c;
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_best),
        cmocka_unit_test(test_draw),
        cmocka_unit_test(test_draw_from_many),
        cmocka_unit_test(test_shares),
    };
    return cmocka_run_group_tests(tests, open_driver, NULL);
}
