/*
 * Timers against a table that is searched from end to end: whatever is set, cleared and taken, the
 * earliest comes first, and of those at one time the smaller subject.
 */
#include "sched/timers.h"

#include "unit/seeded.h"

#include <stdio.h>
#include <string.h>

#define SUBJECTS_MAX 200u
#define STEPS 400u

struct model {
    uint64_t at_us[SUBJECTS_MAX];
    uint32_t subjects;
};

static uint32_t earliest(const struct model *m)
{
    uint32_t first = 0;
    for (uint32_t i = 1; i < m->subjects; i++)
        first = m->at_us[i] < m->at_us[first] ? i : first;
    return first;
}

static void check(const struct seeded *c, const struct timers *t, const struct model *m)
{
    uint32_t set = 0;
    assert_seeded(c, timers_next_us(t) == m->at_us[earliest(m)]);
    for (uint32_t i = 0; i < m->subjects; i++) {
        assert_seeded(c, timers_at_us(t, i) == m->at_us[i]);
        set += m->at_us[i] != TIMERS_NEVER;
    }
    assert_seeded(c, t->count == set);
}

static void take(const struct seeded *c, struct timers *t, struct model *m, uint64_t now_us)
{
    uint32_t subject = 12345, first = earliest(m);
    bool is_due = m->at_us[first] != TIMERS_NEVER && m->at_us[first] <= now_us;
    assert_seeded(c, timers_take(t, now_us, &subject) == is_due);
    assert_seeded(c, subject == (is_due ? first : 12345));
    if (is_due)
        m->at_us[first] = TIMERS_NEVER;
}

static void test_against_a_table(void **state)
{
    (void)state;
    for (struct seeded c = seeded_cases(500); seeded_next(&c);) {
        struct model m = {.subjects = 1 + seeded_pick(&c, SUBJECTS_MAX)};
        struct timers t;
        uint64_t now_us = 0, span = 1 + seeded_pick(&c, 2000);
        void *memory =
            malloc(timers_bytes(m.subjects)); /* to the byte: a sanitizer sees one more */
        assert_non_null(memory);
        memset(memory, 0xa5, timers_bytes(m.subjects));
        timers_init(&t, memory, m.subjects);
        memset(m.at_us, 0xff, sizeof m.at_us);
        check(&c, &t, &m);
        for (uint32_t step = 0; step < STEPS; step++) {
            uint32_t subject = seeded_pick(&c, m.subjects), what = seeded_pick(&c, 10);
            if (what < 6) { /* earlier, later, the same time again, or in the past */
                m.at_us[subject] = rng_u64(&c.rng) % (now_us + span);
                timers_set(&t, subject, m.at_us[subject]);
            } else if (what < 7) {
                m.at_us[subject] = TIMERS_NEVER;
                timers_set(&t, subject, TIMERS_NEVER);
            } else {
                now_us += seeded_pick(&c, 100);
                take(&c, &t, &m, now_us);
            }
            check(&c, &t, &m);
        }
        free(memory);
    }
}

/* All that is due comes in order, and what is set meanwhile among it. */
static void test_in_order(void **state)
{
    (void)state;
    struct timers t;
    uint32_t subject;
    _Alignas(16) uint8_t memory[16 * SUBJECTS_MAX];
    assert_true(timers_bytes(6) <= sizeof memory);
    timers_init(&t, memory, 6);
    assert_true(timers_next_us(&t) == TIMERS_NEVER);
    assert_false(timers_take(&t, UINT64_MAX, &subject));
    timers_set(&t, 4, 30);
    timers_set(&t, 1, 20);
    timers_set(&t, 5, 20);
    timers_set(&t, 0, 0);
    timers_set(&t, 2, TIMERS_NEVER - 1);
    timers_set(&t, 3, TIMERS_NEVER); /* it was not set: nothing happens */
    static const uint32_t order[] = {0, 1, 5, 4};
    for (size_t i = 0; i < sizeof order / sizeof order[0]; i++) {
        assert_true(timers_take(&t, 30, &subject));
        assert_int_equal(subject, order[i]);
    }
    assert_false(timers_take(&t, 30, &subject));
    assert_true(timers_next_us(&t) == TIMERS_NEVER - 1);
    timers_set(&t, 4, 29);
    assert_true(timers_take(&t, 30, &subject));
    assert_int_equal(subject, 4);
    assert_false(timers_take(&t, TIMERS_NEVER - 2, &subject));
    assert_true(timers_take(&t, TIMERS_NEVER - 1, &subject));
    assert_int_equal(subject, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_a_table),
        cmocka_unit_test(test_in_order),
    };
    return cmocka_run_group_tests_name("timers", tests, NULL, NULL);
}
