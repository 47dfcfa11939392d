/* The largest logit on GPUs, against the scalar truth: equal ones, infinities, NaN, odd sizes. */
#include "unit/cuda_launch.h"

#include "base/rng.h"
#include "kernels/kernels.h"

#include <math.h>

#define ROWS 7u
#define VOCAB_MAX 5003u

static void compare(struct cuda_driver *c, const float *logits, uint32_t vocab)
{
    uint32_t got[ROWS];
    const struct cuda_best job = {
        .logits = cuda_new(c, logits, (size_t)ROWS * vocab * sizeof(float)),
        .tokens = cuda_new(c, NULL, sizeof got),
        .vocab = vocab,
    };
    cuda_run(c, CUDA_BEST, ROWS, 1, 1, CUDA_BEST_THREADS, 0, &job);
    cuda_read(c, got, job.tokens, sizeof got);
    for (uint32_t r = 0; r < ROWS; r++)
        assert_int_equal(got[r],
                         kernels_get(KERNEL_ISA_REF)->argmax(logits + (size_t)r * vocab, vocab));
    cuda_reset(c);
}

static void test_best(void **state)
{
    static const uint32_t vocabs[] = {1, 2, 31, 33, 1000, 1024, 1025, VOCAB_MAX};
    static float logits[ROWS * VOCAB_MAX];
    struct cuda_driver *c = *state;
    struct rng rng;
    rng_seed(&rng, 1);
    for (size_t v = 0; v < sizeof vocabs / sizeof vocabs[0]; v++) {
        uint32_t vocab = vocabs[v];
        for (uint32_t i = 0; i < ROWS * vocab; i++)
            logits[i] = (float)rng_below(&rng, 50) - 60; /* many are equal, all below 0 */
        for (uint32_t i = 0; i < vocab; i++) {
            logits[i] = NAN;
            logits[vocab + i] = -INFINITY;
            logits[2 * vocab + i] = i % 3 == 1 ? logits[2 * vocab + i] : NAN;
        }
        logits[3 * vocab + vocab / 2] = INFINITY;
        logits[5 * vocab - 1] = 1;
        compare(c, logits, vocab);
    }
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_best)};
    return cmocka_run_group_tests(tests, open_driver, NULL);
}
