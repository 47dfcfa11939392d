/*
 * Who has had how much of a memory: against a naive account that divides every moment by hand, and
 * that all parts add up to the whole whatever happens in which order.
 */
#include "policy/meter.h"

#include "unit/seeded.h"

#include <math.h>
#include <stdio.h>

#define SHARERS 12u
#define EVENTS 300u

/* A part is a difference of sums: it is as exact as the whole that has passed. */
static bool same(double a, double b, double whole)
{
    return fabs(a - b) <= 1e-12 * whole;
}

static void near(double a, double b)
{
    if (!same(a, b, 1e4))
        fail_msg("%.12g is not %.12g", a, b);
}

/* --- by hand --- */

static void test_by_hand(void **state)
{
    (void)state;
    struct meter_clock m = {.at_us = 100};
    meter_set_bytes(&m, 100, 60);
    near(meter_take_alone(&m, 110), 600); /* 10 us of 60 bytes, nobody's */
    double a = meter_join(&m, 120);
    double b = meter_join(&m, 130);
    double c = meter_join(&m, 140);
    meter_set_bytes(&m, 150, 30);
    /* a: 10 alone, 10 of two, 10 of three, 10 of three at half the bytes */
    near(meter_leave(&m, 160, a), 600 + 300 + 200 + 100);
    near(meter_leave(&m, 160, b), 300 + 200 + 100);
    near(meter_leave(&m, 180, c), 200 + 100 + 600);
    near(meter_take_alone(&m, 181), 600 + 30); /* 110 to 120, and the last */
    near(meter_take_alone(&m, 181), 0);
    near(m.passed, 600 + 600 + 600 + 600 + 600 + 300 + 600 + 30);
}

static void test_nobody_pays_for_no_time(void **state)
{
    (void)state;
    struct meter_clock m = {.at_us = 50, .bytes = 1000};
    double a = meter_join(&m, 50), b = meter_join(&m, 50);
    near(meter_leave(&m, 50, b), 0);
    near(meter_leave(&m, 40, a), 0); /* a clock that jumps back */
    near(m.passed, 0);
    assert_int_equal(m.at_us, 50);
    double c = meter_join(&m, 30); /* it has not been before 50 */
    near(meter_leave(&m, 60, c), 10000);
    near(m.passed, 10000);
}

/* --- whatever happens --- */

/* Second by second: each sharer's own sum. */
struct account {
    double had[SHARERS], alone, passed, taken;
    bool is_there[SHARERS];
    uint32_t there;
    uint64_t bytes, at_us;
};

static void account_advance(struct account *a, uint64_t now_us)
{
    if (now_us <= a->at_us)
        return;
    double passed = (double)a->bytes * (double)(now_us - a->at_us);
    a->at_us = now_us;
    a->passed += passed;
    if (a->there == 0)
        a->alone += passed;
    for (uint32_t i = 0; i < SHARERS; i++)
        a->had[i] += a->is_there[i] ? passed / a->there : 0;
}

struct meters {
    struct meter_clock m;
    struct account a;
    double marks[SHARERS];
    double left, taken; /* handed out so far */
};

static void comes_or_goes(const struct seeded *c, struct meters *t, uint32_t who, uint64_t now)
{
    if (t->a.is_there[who]) {
        double had = meter_leave(&t->m, now, t->marks[who]);
        assert_seeded(c, same(had, t->a.had[who], t->m.passed));
        assert_seeded(c, had >= 0);
        t->left += had;
        t->a.is_there[who] = false;
        t->a.there--;
        return;
    }
    t->marks[who] = meter_join(&t->m, now);
    t->a.is_there[who] = true;
    t->a.had[who] = 0;
    t->a.there++;
}

/* What has been handed out, and what those who are there would have, is what passed. */
static void check_sum(const struct seeded *c, const struct meters *t)
{
    double sum = t->left + t->taken + t->m.alone;
    for (uint32_t i = 0; i < SHARERS; i++)
        sum += t->a.is_there[i] ? t->m.each - t->marks[i] : 0;
    assert_seeded(c, same(sum, t->m.passed, t->m.passed));
    assert_seeded(c, same(t->m.passed, t->a.passed, t->m.passed));
    assert_seeded(c, t->m.sharers == t->a.there);
}

static void test_parts_add_up(void **state)
{
    (void)state;
    for (struct seeded c = seeded_cases(1000); seeded_next(&c);) {
        struct meters t = {.m = {.at_us = 1000}, .a = {.at_us = 1000}};
        uint64_t now = 1000, most = 1 + seeded_pick(&c, 1u << (1 + seeded_pick(&c, 30)));
        for (uint32_t e = 0; e < EVENTS; e++) {
            /* Often at the same moment, and at times before it. */
            now = seeded_one_in(&c, 3) ? now : now + rng_u64(&c.rng) % most;
            uint64_t at = seeded_one_in(&c, 10) ? now / 2 : now;
            account_advance(&t.a, at);
            switch (seeded_pick(&c, 8)) {
            case 0:
                t.a.bytes = rng_u64(&c.rng) >> (24 + seeded_pick(&c, 40));
                meter_set_bytes(&t.m, at, t.a.bytes);
                break;
            case 1:
                meter_advance(&t.m, at);
                break;
            case 2: {
                double alone = meter_take_alone(&t.m, at);
                assert_seeded(&c, same(alone, t.a.alone, t.m.passed));
                t.a.alone = 0;
                t.taken += alone;
                break;
            }
            default:
                comes_or_goes(&c, &t, seeded_pick(&c, SHARERS), at);
            }
            check_sum(&c, &t);
        }
    }
}

/* Who was there for the same time has the same, in whatever order they leave at its end. */
static void test_order_does_not_matter(void **state)
{
    (void)state;
    for (struct seeded c = seeded_cases(1000); seeded_next(&c);) {
        struct meter_clock m = {.bytes = 1 + seeded_pick(&c, 1000000)};
        double marks[SHARERS], first = -1;
        uint32_t count = 1 + seeded_pick(&c, SHARERS), order[SHARERS];
        for (uint32_t i = 0; i < count; i++) {
            marks[i] = meter_join(&m, 500);
            order[i] = i;
        }
        meter_set_bytes(&m, 500 + seeded_pick(&c, 100000), 1 + seeded_pick(&c, 1000000));
        for (uint32_t i = count; i > 0; i--) {
            uint32_t k = seeded_pick(&c, i), who = order[k];
            order[k] = order[i - 1];
            double had = meter_leave(&m, 200000, marks[who]);
            first = first < 0 ? had : first;
            assert_seeded(&c, same(had, first, m.passed));
        }
        assert_seeded(&c, same(first * count + m.alone, m.passed, m.passed));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_nobody_pays_for_no_time),
        cmocka_unit_test(test_parts_add_up),
        cmocka_unit_test(test_order_does_not_matter),
    };
    return cmocka_run_group_tests_name("meter", tests, NULL, NULL);
}
