/*
 * Costs that are learned: the fit finds the constants behind noisy turns, and finds new ones when
 * they change; whatever the turns say, a cost stays a cost, and can be learned anew.
 */
#include "policy/cost.h"

#include "unit/seeded.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define NOISE 0.1

static void near(double a, double b, double off)
{
    if (!(fabs(a - b) <= off))
        fail_msg("%.12g is not %.12g", a, b);
}

/* --- turns of an engine whose costs are known --- */

enum shape { MIXED, ALONE, EIGHT, SHAPES };

/* MIXED: prompts and answers of all kinds. ALONE: one request that generates, turn after turn, in
 * turns of any length; EIGHT: eight of them, a step each turn. The latter never tell a step from
 * its rows. */
static struct cost_turn turn_of(struct seeded *c, const struct cost_step *truth, enum shape shape)
{
    struct cost_turn t = {.steps = shape == EIGHT ? 1 : 1 + seeded_pick(c, 8)};
    t.decode_rows = shape == MIXED ? t.steps * seeded_pick(c, 17) : shape == ALONE ? t.steps : 8;
    if (shape == MIXED && seeded_one_in(c, 3))
        t.prompt_rows = seeded_pick(c, 256 * t.steps + 1);
    double us = cost_turn_us(truth, t.steps, t.prompt_rows, t.decode_rows);
    us *= 1 + NOISE * rng_normal(&c->rng);
    t.us = us < 1 ? 1 : (uint64_t)us;
    return t;
}

static struct cost_step some_costs(struct seeded *c)
{
    return (struct cost_step){.step_us = 100 + seeded_pick(c, 5000),
                              .prompt_us = 5 + seeded_pick(c, 100),
                              .decode_us = 20 + seeded_pick(c, 200)};
}

static struct cost_step scaled(const struct cost_step *c, double by)
{
    return (struct cost_step){c->step_us * by, c->prompt_us * by, c->decode_us * by};
}

static void learn(struct seeded *c, struct cost_fit *f, const struct cost_step *truth,
                  enum shape shape, uint32_t turns)
{
    for (uint32_t i = 0; i < turns; i++) {
        struct cost_turn t = turn_of(c, truth, shape);
        cost_fit_add(f, &t);
    }
}

/* By how much, as a part of the truth, the fit is off for turns of all kinds, at worst. */
static double off_of(struct seeded *c, const struct cost_fit *f, const struct cost_step *truth,
                     enum shape shape)
{
    double worst = 0;
    for (int i = 0; i < 100; i++) {
        struct cost_turn t = turn_of(c, truth, shape);
        double us = cost_turn_us(truth, t.steps, t.prompt_rows, t.decode_rows);
        double off = cost_turn_us(&f->c, t.steps, t.prompt_rows, t.decode_rows) / us - 1;
        worst = fmax(worst, fabs(off));
    }
    return worst;
}

static bool is_cost(double us)
{
    return isfinite(us) && us >= 0;
}

static void check_costs(const struct seeded *c, const struct cost_fit *f)
{
    assert_seeded(c, is_cost(f->c.step_us) && is_cost(f->c.prompt_us) && is_cost(f->c.decode_us));
    assert_seeded(c, is_cost(f->error));
    for (int i = 0; i < 9; i++)
        assert_seeded(c, isfinite(f->p[i / 3][i % 3]));
}

/* --- the fit --- */

/* From seeds that are ten times too small or too large. */
static void test_finds_the_constants(void **state)
{
    (void)state;
    double worst = 0, part = 0;
    for (struct seeded c = seeded_cases(200); seeded_next(&c);) {
        struct cost_step truth = some_costs(&c);
        struct cost_step seed = scaled(&truth, pow(10, 2 * rng_unit(&c.rng) - 1));
        struct cost_fit f;
        cost_fit_seed(&f, &seed);
        learn(&c, &f, &truth, MIXED, 400);
        double off = off_of(&c, &f, &truth, MIXED);
        assert_seeded(&c, f.samples == 400);
        assert_seeded(&c, off <= 0.3);
        /* What a turn is off by itself: the mean of a normal distribution's size. */
        assert_seeded(&c, f.error >= 0.05 && f.error <= 0.15);
        worst = fmax(worst, off);
        part = fmax(part, fabs(f.c.prompt_us / truth.prompt_us - 1));
        check_costs(&c, &f);
    }
    print_message("any turn within %.1f %%, a prompt's row within %.1f %%\n", 100 * worst,
                  100 * part);
    assert_true(part <= 0.3);
}

/* Without noise they are found to the point. */
static void test_exact_turns(void **state)
{
    (void)state;
    struct seeded c = seeded_cases(1);
    assert_true(seeded_next(&c));
    const struct cost_step truth = {2000, 30, 100}, seed = {500, 50, 300};
    struct cost_fit f;
    cost_fit_seed(&f, &seed);
    near(f.c.step_us, 500, 0);
    near(f.c.prompt_us, 50, 0);
    near(f.c.decode_us, 300, 0);
    for (int i = 0; i < 300; i++) {
        struct cost_turn t = turn_of(&c, &truth, MIXED);
        t.us = (uint64_t)cost_turn_us(&truth, t.steps, t.prompt_rows, t.decode_rows);
        cost_fit_add(&f, &t);
    }
    near(f.c.step_us, 2000, 20);
    near(f.c.prompt_us, 30, 0.3);
    near(f.c.decode_us, 100, 1);
    assert_true(f.error < 0.01);
}

/* The machine is another one from now on: twice or half as fast, or one of its costs is. */
static void test_forgets(void **state)
{
    (void)state;
    for (struct seeded c = seeded_cases(200); seeded_next(&c);) {
        struct cost_step old = some_costs(&c), new = old;
        struct cost_fit f;
        double by = seeded_one_in(&c, 2) ? 2 : 0.5;
        double *const costs[] = {&new.step_us, &new.prompt_us, &new.decode_us};
        if (seeded_one_in(&c, 2))
            new = scaled(&old, by);
        else
            *costs[seeded_pick(&c, 3)] *= by;
        cost_fit_seed(&f, &old);
        learn(&c, &f, &old, MIXED, 2000);
        learn(&c, &f, &new, MIXED, 600);
        assert_seeded(&c, off_of(&c, &f, &new, MIXED) <= 0.3);
    }
}

/* Turns all alike say nothing about how a step's time falls to its rows; what they do say is
 * known all the while, and when other turns come those are learned as quickly as ever. */
static void test_turns_all_alike(void **state)
{
    (void)state;
    for (struct seeded c = seeded_cases(200); seeded_next(&c);) {
        struct cost_step truth = some_costs(&c);
        struct cost_step seed = scaled(&truth, pow(10, 2 * rng_unit(&c.rng) - 1));
        enum shape shape = 1 + (enum shape)(c.seed % (SHAPES - 1));
        struct cost_fit f;
        cost_fit_seed(&f, &seed);
        learn(&c, &f, &truth, shape, 100);
        for (int i = 0; i < 40; i++) {
            learn(&c, &f, &truth, shape, 50);
            check_costs(&c, &f);
            assert_seeded(&c, off_of(&c, &f, &truth, shape) <= 0.25);
        }
        learn(&c, &f, &truth, MIXED, 600);
        assert_seeded(&c, off_of(&c, &f, &truth, MIXED) <= 0.25);
    }
}

/* One request that generates, in turns of sixteen steps, each off by a tenth: the costs were right
 * from the beginning and stay so. They were found at 1.8 times the truth after 155 turns. */
static void test_one_request_alone(void **state)
{
    (void)state;
    const struct cost_step truth = {800, 15, 40};
    struct cost_fit f;
    cost_fit_seed(&f, &truth);
    for (int i = 0; i < 5000; i++) {
        const struct cost_turn t = {.us = i % 2 ? 14784 : 12096, .steps = 16, .decode_rows = 16};
        cost_fit_add(&f, &t);
        near(f.c.step_us + f.c.decode_us, 840, 168);
    }
}

static uint32_t any_count(struct seeded *c)
{
    return (uint32_t)(rng_u64(&c->rng) >> (32 + seeded_pick(c, 32)));
}

/* Workers tell their turns: whatever they say, costs are numbers, and the truth is found after. */
static void test_whatever_turns_say(void **state)
{
    (void)state;
    for (struct seeded c = seeded_cases(1000); seeded_next(&c);) {
        struct cost_step truth = some_costs(&c), seed = some_costs(&c);
        struct cost_fit f;
        cost_fit_seed(&f, &seed);
        for (uint32_t i = seeded_pick(&c, 300); i > 0; i--) {
            const struct cost_turn t = {.us = rng_u64(&c.rng) >> seeded_pick(&c, 64),
                                        .steps = any_count(&c),
                                        .prompt_rows = any_count(&c),
                                        .decode_rows = any_count(&c)};
            cost_fit_add(&f, &t);
            check_costs(&c, &f);
        }
        learn(&c, &f, &truth, MIXED, 3000);
        check_costs(&c, &f);
        assert_seeded(&c, off_of(&c, &f, &truth, MIXED) <= 0.5);
    }
}

/* Two turns that cannot be: a cost came out below 0. */
static void test_no_cost_below_nothing(void **state)
{
    (void)state;
    const struct cost_step seed = {800, 15, 40};
    struct cost_fit f;
    cost_fit_seed(&f, &seed);
    cost_fit_add(&f, &(struct cost_turn){10762, 2306013974, 7, 104219529});
    cost_fit_add(&f, &(struct cost_turn){90, 195457, 25, 479318667});
    assert_true(f.c.step_us >= 0 && f.c.prompt_us >= 0 && f.c.decode_us >= 0);
}

static void test_empty_turns_teach_nothing(void **state)
{
    (void)state;
    const struct cost_step seed = {500, 50, 300};
    struct cost_fit f, before;
    cost_fit_seed(&f, &seed);
    memcpy(&before, &f, sizeof f);
    cost_fit_add(&f, &(struct cost_turn){.us = 0, .steps = 5, .decode_rows = 9});
    cost_fit_add(&f, &(struct cost_turn){.us = 900, .steps = 0, .decode_rows = 9});
    assert_memory_equal(&f, &before, sizeof f);
}

/* --- batches --- */

static void test_batches_by_hand(void **state)
{
    (void)state;
    const struct cost_step c = {.step_us = 100, .prompt_us = 2, .decode_us = 7};
    near(cost_turn_us(&c, 3, 10, 5), 355, 0);
    /* Two chunks of 256: as many steps for each further one. */
    struct cost_batch b = cost_batch_of(&c, 512, 256);
    near(b.t0_us, 2 * 100 + 1024, 0);
    near(b.alpha_us, 2 * 100 + 1024, 0);
    /* A quarter of a chunk: alone it has a step to itself, more share theirs. */
    b = cost_batch_of(&c, 64, 256);
    near(b.t0_us, 100 + 128, 0);
    near(b.alpha_us, 25 + 128, 0);
    near(cost_batch_us(&b, 1), 228, 0);
    near(cost_batch_us(&b, 4), 228 + 3 * 153, 0);
}

static void test_means(void **state)
{
    (void)state;
    struct cost_mean m;
    cost_mean_seed(&m, 80);
    near(m.value, 80, 0);
    cost_mean_add(&m, 1000); /* the seed was a guess */
    near(m.value, 1000, 0);
    cost_mean_add(&m, 200);
    near(m.value, 800, 1e-9);
    cost_mean_add(&m, 800);
    near(m.value, 800, 1e-9);
    assert_int_equal(m.samples, 3);
    for (int i = 0; i < 40; i++)
        cost_mean_add(&m, 50);
    near(m.value, 50, 0.1);
}

/* One that was held up counts for three times the mean; what stays longer is followed. */
static void test_mean_times(void **state)
{
    (void)state;
    struct cost_mean m;
    cost_mean_seed(&m, 80);
    cost_mean_add_time(&m, 1000); /* the seed was a guess */
    near(m.value, 1000, 0);
    cost_mean_add_time(&m, 200);
    near(m.value, 800, 0);
    cost_mean_add_time(&m, 2400);
    near(m.value, 1200, 0);
    cost_mean_add_time(&m, 1e6);
    near(m.value, 1800, 0);
    for (int i = 0; i < 150; i++)
        cost_mean_add_time(&m, 1e6);
    near(m.value, 1e6, 1e-3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_finds_the_constants),
        cmocka_unit_test(test_exact_turns),
        cmocka_unit_test(test_forgets),
        cmocka_unit_test(test_turns_all_alike),
        cmocka_unit_test(test_one_request_alone),
        cmocka_unit_test(test_whatever_turns_say),
        cmocka_unit_test(test_no_cost_below_nothing),
        cmocka_unit_test(test_empty_turns_teach_nothing),
        cmocka_unit_test(test_batches_by_hand),
        cmocka_unit_test(test_means),
        cmocka_unit_test(test_mean_times),
    };
    return cmocka_run_group_tests_name("cost", tests, NULL, NULL);
}
