/*
 * Fill or expire by hand and by its definition; turns against their description, and that nobody
 * starves whatever the deadlines; chunks of prompts within the pace that was promised.
 */
#include "policy/batch.h"

#include "unit/seeded.h"

#include <math.h>
#include <stdio.h>

/* --- fill or expire --- */

static void test_limit_by_hand(void **state)
{
    (void)state;
    static const struct {
        double slo_us, t0_us, alpha_us;
        uint32_t most, expected;
    } cases[] = {
        {100, 40, 20, 64, 4}, /* 40 + 3 * 20 is 100, to the point */
        {99, 40, 20, 64, 3},  /* and no less */
        {119, 40, 20, 64, 4},     {41, 40, 20, 64, 1},
        {40, 40, 20, 64, 1}, /* nothing is left for a second one */
        {10, 40, 20, 64, 1}, /* missed already: one all the same */
        {0, 40, 20, 64, 1},       {100, 40, 20, 3, 3},
        {100, 40, 20, 1, 1},      {100, 40, 0, 64, 64}, /* more cost nothing */
        {1e18, 40, 1e-9, 64, 64},                       /* further than a count reaches */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct cost_batch b = {cases[i].t0_us, cases[i].alpha_us};
        uint32_t limit = batch_limit(cases[i].slo_us, &b, cases[i].most);
        if (limit != cases[i].expected)
            fail_msg("case %zu: %u, not %u", i, limit, cases[i].expected);
    }
}

/* The largest batch within the objective: it is, and one more is not. */
static void test_limit_is_the_largest(void **state)
{
    (void)state;
    for (struct seeded c = seeded_cases(20000); seeded_next(&c);) {
        const struct cost_batch b = {.t0_us = seeded_pick(&c, 1000),
                                     .alpha_us = 1 + seeded_pick(&c, 300)};
        double slo_us = seeded_pick(&c, 5000);
        uint32_t most = 1 + seeded_pick(&c, 40), limit = batch_limit(slo_us, &b, most);
        assert_seeded(&c, limit >= 1 && limit <= most);
        assert_seeded(&c, limit == 1 || cost_batch_us(&b, limit) <= slo_us);
        assert_seeded(&c, limit == most || cost_batch_us(&b, limit + 1) > slo_us);
    }
}

static void test_delay_by_hand(void **state)
{
    (void)state;
    const struct cost_batch b = {.t0_us = 400, .alpha_us = 100};
    /* d = 2000 - M * (400 + 100 * (count - 1)), after 50000 */
    assert_int_equal(batch_due_us(50000, 2000, &b, 1, 1, 9999), 51600);
    assert_int_equal(batch_due_us(50000, 2000, &b, 3, 1, 9999), 51400);
    assert_int_equal(batch_due_us(50000, 2000, &b, 3, 2, 9999), 50800);
    assert_int_equal(batch_due_us(50000, 2000, &b, 3, 1, 250), 50250);
    assert_int_equal(batch_due_us(50000, 2000, &b, 3, 1, 0), 50000);
    /* It cannot be met any more: at once, and not before it came. */
    assert_int_equal(batch_due_us(50000, 2000, &b, 3, 9, 9999), 50000);
    assert_int_equal(batch_due_us(50000, 0, &b, 1, 1, 9999), 50000);
}

/* Who waits until then and is served at once, at this contention, meets the objective; and the more
 * there are, or the fuller the device, the sooner it is. */
static void test_delay_meets_the_objective(void **state)
{
    (void)state;
    for (struct seeded c = seeded_cases(20000); seeded_next(&c);) {
        const struct cost_batch b = {.t0_us = seeded_pick(&c, 1000),
                                     .alpha_us = seeded_pick(&c, 300)};
        double slo_us = seeded_pick(&c, 6000), contention = 1 + 3 * rng_unit(&c.rng);
        uint64_t oldest_us = seeded_pick(&c, 1000000), window_us = seeded_pick(&c, 4000);
        uint32_t count = 1 + seeded_pick(&c, 10);
        uint64_t due_us = batch_due_us(oldest_us, slo_us, &b, count, contention, window_us);
        double served_us = (double)due_us + contention * cost_batch_us(&b, count);
        assert_seeded(&c, due_us >= oldest_us && due_us <= oldest_us + window_us);
        assert_seeded(&c, due_us == oldest_us || served_us <= (double)oldest_us + slo_us);
        assert_seeded(&c, batch_due_us(oldest_us, slo_us, &b, count + 1, contention, window_us) <=
                              due_us);
        assert_seeded(&c, batch_due_us(oldest_us, slo_us, &b, count, contention + 1, window_us) <=
                              due_us);
        /* No sooner than it must: a moment later is too late, or beyond the window. */
        assert_seeded(&c, due_us == oldest_us + window_us || due_us == oldest_us ||
                              served_us + 1 >= (double)oldest_us + slo_us);
    }
}

static void test_margins(void **state)
{
    (void)state;
    assert_float_equal(batch_margin_us(1000, 300, 1, 200), 500, 0);
    assert_float_equal(batch_margin_us(1000, 300, 2.5, 200), 200, 0);
    assert_float_equal(batch_margin_us(1000, 900, 2, 200), -300, 0);
    assert_float_equal(batch_margin_us(1000, 1500, 2, 0), -500, 0); /* below 0, not around it */
    assert_true(batch_margin_us(UINT64_MAX, 0, 4, 1e6) > 1e18);
}

/* --- turns --- */

static void test_turns_by_hand(void **state)
{
    (void)state;
    assert_int_equal(batch_next_turn(NULL, 0), BATCH_NONE);
    struct batch_contender c[3] = {
        {.margin_us = 300, .slack_us = 500, .index = 7},
        {.margin_us = 200, .slack_us = 400, .index = 5},
        {.margin_us = 200, .slack_us = 400, .index = 4},
    };
    assert_int_equal(batch_next_turn(c, 1), 0);
    assert_int_equal(batch_next_turn(c, 2), 1);
    assert_int_equal(batch_next_turn(c, 3), 2); /* of equal margins, the smaller index */
    /* Who waits for a first token goes before who decodes, as long as those can be put off. */
    c[0].first_us = 400;
    assert_int_equal(batch_next_turn(c, 3), 0);
    c[0].first_us = 401;
    assert_int_equal(batch_next_turn(c, 3), 2);
    c[0].first_us = 400;
    c[1].slack_us = -1; /* behind already: it is not made later still */
    assert_int_equal(batch_next_turn(c, 3), 2);
    /* Who waits itself for a first token is not asked. */
    c[1].first_us = 1;
    c[1].margin_us = 1000;
    assert_int_equal(batch_next_turn(c, 3), 0);
    c[1].margin_us = -1000;
    assert_int_equal(batch_next_turn(c, 3), 1);
    /* Passed over for too long: whatever the margins. */
    c[2].passed_over = 3 * BATCH_PASSED_OVER_MAX - 1;
    assert_int_equal(batch_next_turn(c, 3), 1);
    c[2].passed_over++;
    assert_int_equal(batch_next_turn(c, 3), 2);
    c[0].passed_over = c[2].passed_over + 1;
    assert_int_equal(batch_next_turn(c, 3), 0); /* the longest of them */
}

/* The description of batch_next_turn, written down once more, one question after the other. */
static uint32_t described(const struct batch_contender *c, uint32_t count)
{
    uint32_t longest = 0, found = BATCH_NONE;
    double smallest = INFINITY, first_us = 0;
    for (uint32_t i = 0; i < count; i++)
        longest = c[i].passed_over > longest ? c[i].passed_over : longest;
    bool starves = count > 0 && longest >= BATCH_PASSED_OVER_MAX * count, waits = false;
    for (uint32_t i = 0; i < count && !starves; i++) {
        if (c[i].first_us > 0 && (!waits || c[i].margin_us < smallest ||
                                  (c[i].margin_us <= smallest && c[i].index < c[found].index))) {
            smallest = c[i].margin_us;
            first_us = c[i].first_us;
            found = i;
            waits = true;
        }
    }
    for (uint32_t i = 0; i < count && waits; i++)
        waits = c[i].first_us > 0 || c[i].slack_us >= first_us;
    if (waits)
        return found;
    found = BATCH_NONE;
    for (uint32_t i = 0; i < count; i++) {
        if (starves && c[i].passed_over < longest)
            continue;
        if (found == BATCH_NONE || c[i].margin_us < c[found].margin_us ||
            (c[i].margin_us <= c[found].margin_us && c[i].index < c[found].index))
            found = i;
    }
    return found;
}

static void test_turns_as_described(void **state)
{
    (void)state;
    for (struct seeded c = seeded_cases(50000); seeded_next(&c);) {
        struct batch_contender all[6];
        uint32_t count = 1 + seeded_pick(&c, 6), shift = seeded_pick(&c, count);
        for (uint32_t i = 0; i < count; i++)
            all[i] = (struct batch_contender){
                .margin_us = (double)seeded_pick(&c, 5) - 2, /* so few that many are equal */
                .slack_us = (double)seeded_pick(&c, 6) - 1,
                .first_us = seeded_one_in(&c, 2) ? 0 : seeded_pick(&c, 5),
                .passed_over = seeded_pick(&c, seeded_one_in(&c, 2) ? 4 : 4 * count + 2),
                .index = (i + shift) % count};
        assert_seeded(&c, batch_next_turn(all, count) == described(all, count));
    }
}

/* --- nobody starves --- */

#define SLOTS 12u
#define TURNS 4000u

enum malice {
    ANYHOW,         /* deadlines drawn anew for every turn */
    OVERDUE_OTHERS, /* the victim's deadline is far, everybody else's has passed */
    FIRST_TOKENS, /* the victim decodes and can be put off for ever; the others want first tokens */
    BROODING,     /* the victim wants a first token, somebody who decodes cannot be put off */
    FAVOURITE,    /* one has all the turns until the others starve, then those go first */
    NEWCOMERS,    /* who had a turn leaves, and somebody new with a passed deadline comes */
    MALICES,
};

struct queue {
    struct batch_contender slots[SLOTS];
    bool present[SLOTS];
    uint32_t waited[SLOTS]; /* turns of others since it wants the device, counted from outside */
    uint32_t most;          /* that may be there at a time */
};

/* Slot 0 is the victim; its index is the largest, so that it loses every tie. */
static void choose_deadlines(struct seeded *c, struct queue *q, enum malice m)
{
    static const double margins[] = {-INFINITY, -1e12, -1, 0, 1, 1e12, INFINITY};
    for (uint32_t i = 0; i < SLOTS; i++) {
        struct batch_contender *b = &q->slots[i];
        b->index = i == 0 ? SLOTS : i;
        b->margin_us = m == ANYHOW ? margins[seeded_pick(c, 7)] : i == 0 ? INFINITY : -1e9;
        b->slack_us = m == ANYHOW ? margins[seeded_pick(c, 7)] : INFINITY;
        b->first_us = m == ANYHOW && seeded_one_in(c, 2) ? 1 : 0;
        if (m == FIRST_TOKENS)
            b->first_us = i == 0 ? 0 : 1;
        if (m == BROODING) {
            b->first_us = i == 0 ? 1 : 0;
            b->slack_us = -1;
        }
        if (m == FAVOURITE && i != 1)
            b->margin_us = i == 0 ? INFINITY : 0;
    }
}

static void come_and_go(struct seeded *c, struct queue *q, enum malice m)
{
    uint32_t present = 0;
    for (uint32_t i = 0; i < SLOTS; i++)
        present += q->present[i];
    for (uint32_t i = 1; i < SLOTS && (m == ANYHOW || m == NEWCOMERS); i++) {
        if (q->present[i] && (q->waited[i] == 0 || m == ANYHOW) && seeded_one_in(c, 3)) {
            q->present[i] = false;
            present--;
        } else if (!q->present[i] && present < q->most && seeded_one_in(c, 2)) {
            q->present[i] = true;
            q->slots[i].passed_over = q->waited[i] = 0;
            present++;
        }
    }
}

/* One turn, as the scheduler keeps count of them. */
static void one_turn(struct seeded *c, struct queue *q, uint32_t *worst)
{
    struct batch_contender now[SLOTS];
    uint32_t slot_of[SLOTS], count = 0;
    for (uint32_t i = 0; i < SLOTS; i++) {
        if (!q->present[i])
            continue;
        slot_of[count] = i;
        now[count++] = q->slots[i];
    }
    uint32_t next = batch_next_turn(now, count);
    assert_seeded(c, next < count);
    for (uint32_t k = 0; k < count; k++) {
        uint32_t i = slot_of[k];
        q->slots[i].passed_over = k == next ? 0 : q->slots[i].passed_over + 1;
        q->waited[i] = k == next ? 0 : q->waited[i] + 1;
        *worst = q->waited[i] > *worst ? q->waited[i] : *worst;
    }
}

/* With at most M contenders nobody waits for more than 4 M + M - 1 turns of others, and there is a
 * malice that makes somebody wait for nearly as long: the bound is one, and the tests are no
 * comedy. */
static void test_nobody_starves(void **state)
{
    (void)state;
    uint32_t worst_of[MALICES] = {0}, closest = UINT32_MAX;
    for (struct seeded c = seeded_cases(600); seeded_next(&c);) {
        enum malice m = (enum malice)(c.seed % MALICES);
        struct queue q = {.most = 2 + seeded_pick(&c, SLOTS - 1)};
        uint32_t bound = BATCH_PASSED_OVER_MAX * q.most + q.most - 1, worst = 0;
        for (uint32_t i = 0; i < q.most; i++)
            q.present[i] = true;
        for (uint32_t turn = 0; turn < TURNS; turn++) {
            choose_deadlines(&c, &q, m);
            come_and_go(&c, &q, m);
            one_turn(&c, &q, &worst);
            assert_seeded(&c, worst <= bound);
        }
        worst_of[m] = worst > worst_of[m] ? worst : worst_of[m];
        closest = m == FAVOURITE && bound - worst < closest ? bound - worst : closest;
    }
    for (uint32_t m = 0; m < MALICES; m++)
        print_message("malice %u: at most %u turns of others, of %u that may be\n", m, worst_of[m],
                      (BATCH_PASSED_OVER_MAX + 1) * SLOTS - 1);
    if (getenv("SLLORA_SEED") == NULL)
        assert_true(closest <= 1);
}

static void test_turn_ends(void **state)
{
    (void)state;
    assert_true(batch_turn_ends_us(5000, 200, true) == 5200);
    assert_true(batch_turn_ends_us(5000, 200, false) == UINT64_MAX);
}

/* --- chunks of prompts --- */

static void test_prompt_rows_by_hand(void **state)
{
    (void)state;
    const struct cost_step c = {.step_us = 100, .prompt_us = 10, .decode_us = 5};
    assert_int_equal(batch_prompt_rows(&c, 1000, 0, 16, 256), 256); /* nobody to keep waiting */
    assert_int_equal(batch_prompt_rows(&c, 1000, 4, 16, 256), 88);  /* (1000 - 100 - 20) / 10 */
    assert_int_equal(batch_prompt_rows(&c, 1009, 4, 16, 256), 88);
    assert_int_equal(batch_prompt_rows(&c, 1010, 4, 16, 256), 89);
    assert_int_equal(batch_prompt_rows(&c, 1e9, 4, 16, 256), 256);
    assert_int_equal(batch_prompt_rows(&c, 281, 4, 16, 256), 16);
    assert_int_equal(batch_prompt_rows(&c, 100, 4, 16, 256), 16); /* late anyway: prompts go on */
    const struct cost_step free_rows = {.step_us = 100, .decode_us = 5};
    assert_int_equal(batch_prompt_rows(&free_rows, 50, 4, 16, 256), 256);
}

static void test_prompt_rows_keep_the_pace(void **state)
{
    (void)state;
    for (struct seeded c = seeded_cases(20000); seeded_next(&c);) {
        const struct cost_step cost = {.step_us = seeded_pick(&c, 2000),
                                       .prompt_us = 1 + seeded_pick(&c, 40),
                                       .decode_us = seeded_pick(&c, 90)};
        double tpot_us = seeded_pick(&c, 20000);
        uint32_t decoding = 1 + seeded_pick(&c, 32), least = 1 + seeded_pick(&c, 20);
        uint32_t most = least + seeded_pick(&c, 500);
        uint32_t rows = batch_prompt_rows(&cost, tpot_us, decoding, least, most);
        assert_seeded(&c, rows >= least && rows <= most);
        assert_seeded(&c, rows == least || cost_turn_us(&cost, 1, rows, decoding) <= tpot_us);
        assert_seeded(&c, rows == most || cost_turn_us(&cost, 1, rows + 1, decoding) > tpot_us);
    }
}

/* 200 rows in steps of 100 take 2 * (100 + 100 * 10); in steps of 50 beside 4 that decode 4 * (100
 * + 50 * 10 + 4 * 5). */
static void test_paced_by_hand(void **state)
{
    (void)state;
    const struct cost_step c = {.step_us = 100, .prompt_us = 10, .decode_us = 5};
    assert_true(fabs(batch_paced_us(&c, 2200, 50, 4, 100) - 2480) < 1e-9);
    assert_true(fabs(batch_paced_us(&c, 2200, 100, 0, 100) - 2200) < 1e-9);
    const struct cost_step nothing = {0};
    assert_true(batch_paced_us(&nothing, 0, 50, 4, 100) == 0.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_limit_by_hand),
        cmocka_unit_test(test_limit_is_the_largest),
        cmocka_unit_test(test_delay_by_hand),
        cmocka_unit_test(test_delay_meets_the_objective),
        cmocka_unit_test(test_margins),
        cmocka_unit_test(test_turns_by_hand),
        cmocka_unit_test(test_turns_as_described),
        cmocka_unit_test(test_nobody_starves),
        cmocka_unit_test(test_turn_ends),
        cmocka_unit_test(test_prompt_rows_by_hand),
        cmocka_unit_test(test_prompt_rows_keep_the_pace),
        cmocka_unit_test(test_paced_by_hand),
    };
    return cmocka_run_group_tests_name("batch", tests, NULL, NULL);
}
