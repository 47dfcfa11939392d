/*
 * Domains: who shares a worker with whom, over every pair. Admission: each reason by itself, which
 * one is given when there are several, and when to come again.
 */
#include "policy/route.h"

#include "unit/seeded.h"

#include <stdio.h>

/* --- domains --- */

struct who {
    enum route_isolation isolation;
    uint32_t function, owner, backbone;
};

/* Two functions share a worker when both allow it, in the same way, on the same backbone. */
static bool may_share(const struct who *a, const struct who *b)
{
    if (a->backbone != b->backbone || a->isolation != b->isolation)
        return false;
    return a->isolation == ROUTE_FUNCTION ? a->function == b->function
           : a->isolation == ROUTE_OWNER  ? a->owner == b->owner
                                          : true;
}

/* Numbers that could be mixed up: equal ones of different kinds, and the largest. */
static const uint32_t numbers[] = {0, 1, 2, UINT32_MAX};

#define NUMBERS (sizeof numbers / sizeof numbers[0])
#define ALL (3 * NUMBERS * NUMBERS * NUMBERS)

static struct who who_of(size_t i)
{
    return (struct who){.isolation = (enum route_isolation)(1 + i % 3),
                        .function = numbers[i / 3 % NUMBERS],
                        .owner = numbers[i / 3 / NUMBERS % NUMBERS],
                        .backbone = numbers[i / 3 / NUMBERS / NUMBERS]};
}

static void test_domains(void **state)
{
    (void)state;
    for (size_t i = 0; i < ALL; i++) {
        for (size_t k = 0; k < ALL; k++) {
            const struct who a = who_of(i), b = who_of(k);
            bool equal =
                route_domain_equal(route_domain_of(a.isolation, a.function, a.owner, a.backbone),
                                   route_domain_of(b.isolation, b.function, b.owner, b.backbone));
            if (equal != may_share(&a, &b))
                fail_msg("isolation %u function %u owner %u backbone %u and %u %u %u %u: %s",
                         (unsigned)a.isolation, a.function, a.owner, a.backbone,
                         (unsigned)b.isolation, b.function, b.owner, b.backbone,
                         equal ? "one domain" : "two domains");
        }
    }
}

/* A domain is never the one that means none. */
static void test_no_domain_is_none(void **state)
{
    (void)state;
    for (size_t i = 0; i < ALL; i++) {
        const struct who w = who_of(i);
        assert_true(route_domain_of(w.isolation, w.function, w.owner, w.backbone).group > 0);
    }
}

/* --- where --- */

static void test_start(void **state)
{
    (void)state;
    static const struct {
        struct route_start start;
        double us;
    } cases[] = {
        {{0, 0, 0, 0}, 0},
        {{1000, 0, 0, 0}, 1000},
        {{1000, 200, 0, 0}, 1200}, /* a process maps a backbone that is there */
        {{1000, 200, 700, 0}, 1200},
        {{1000, 200, 1500, 0}, 1500}, /* the adapter takes longer, beside both */
        {{1000, 200, 1500, 30}, 1530},
        {{0, 0, 0, 30}, 30},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_float_equal(route_start_us(&cases[i].start), cases[i].us, 1e-9);
}

static void test_budget(void **state)
{
    (void)state;
    struct route_load load = {.slo_us = 900, .alone_us = 100};
    assert_float_equal(route_budget_us(&load), 900, 0);
    load.alone_us = 1000; /* it is missed on an idle machine: half as long again */
    assert_float_equal(route_budget_us(&load), 1500, 0);
}

/* --- whether --- */

static const struct route_load idle = {.function_waiting_max = 4,
                                       .owner_live_max = 6,
                                       .requests_max = 8,
                                       .fits = true,
                                       .has_deadline = true,
                                       .alone_us = 100,
                                       .slo_us = 1000};

/* What stands in the way, as bits, in the order in which it is told: of several the first. What is
 * full is told before what can never be, and that before what is late. */
enum { SERVER, FUNCTION, OWNER, LARGE, LATE, OBSTACLES };

static const enum route_verdict verdicts[OBSTACLES] = {
    [SERVER] = ROUTE_SERVER_FULL, [FUNCTION] = ROUTE_FUNCTION_QUEUE_FULL,
    [OWNER] = ROUTE_OWNER_LIMIT,  [LARGE] = ROUTE_TOO_LARGE,
    [LATE] = ROUTE_TOO_LATE,
};

static struct route_load load_with(uint32_t obstacles)
{
    struct route_load load = idle;
    load.requests = obstacles >> SERVER & 1 ? 8 : 7;
    load.function_waiting = obstacles >> FUNCTION & 1 ? 4 : 3;
    load.owner_live = obstacles >> OWNER & 1 ? 6 : 5;
    load.fits = !(obstacles >> LARGE & 1);
    load.backlog_us = obstacles >> LATE & 1 ? 901 : 900; /* to the point is in time */
    return load;
}

static void test_verdicts(void **state)
{
    (void)state;
    for (uint32_t obstacles = 0; obstacles < 1u << OBSTACLES; obstacles++) {
        struct route_load load = load_with(obstacles);
        enum route_verdict expected = ROUTE_ACCEPT;
        for (uint32_t i = OBSTACLES; i-- > 0;)
            expected = obstacles >> i & 1 ? verdicts[i] : expected;
        uint64_t retry_us = 77;
        enum route_verdict v = route_admit(&load, &retry_us);
        if (v != expected)
            fail_msg("obstacles %#x: verdict %u, not %u", obstacles, (unsigned)v,
                     (unsigned)expected);
        /* When to come again is known of what is late only. */
        assert_int_equal(retry_us, v == ROUTE_TOO_LATE ? 1 : 0);
    }
}

static void test_beyond_a_limit_is_full_too(void **state)
{
    (void)state;
    uint64_t retry_us;
    struct route_load load = idle;
    load.owner_live = 100; /* OWNER lowered it meanwhile */
    assert_int_equal(route_admit(&load, &retry_us), ROUTE_OWNER_LIMIT);
    load.owner_live = load.owner_live_max = 0; /* nothing at all is allowed */
    assert_int_equal(route_admit(&load, &retry_us), ROUTE_OWNER_LIMIT);
}

static void test_late(void **state)
{
    (void)state;
    static const struct {
        double alone_us, backlog_us, slo_us;
        bool has_deadline;
        enum route_verdict verdict;
        uint64_t retry_us;
    } cases[] = {
        {100, 900, 1000, true, ROUTE_ACCEPT, 0},
        {100, 1500, 1000, true, ROUTE_TOO_LATE, 600},
        {100, 1e9, 1000, false, ROUTE_ACCEPT, 0}, /* no objective of its own: it waits */
        /* An idle machine misses the objective: what takes half as long again is let in. */
        {5000, 0, 1000, true, ROUTE_ACCEPT, 0},
        {5000, 2500, 1000, true, ROUTE_ACCEPT, 0},
        {5000, 2600, 1000, true, ROUTE_TOO_LATE, 100},
        {100, 1e30, 1000, true, ROUTE_TOO_LATE, UINT64_C(1000000000000000000)},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct route_load load = idle;
        uint64_t retry_us = 77;
        load.alone_us = cases[i].alone_us;
        load.backlog_us = cases[i].backlog_us;
        load.slo_us = cases[i].slo_us;
        load.has_deadline = cases[i].has_deadline;
        enum route_verdict v = route_admit(&load, &retry_us);
        if (v != cases[i].verdict || retry_us != cases[i].retry_us)
            fail_msg("case %zu: verdict %u, again after %llu us", i, (unsigned)v,
                     (unsigned long long)retry_us);
    }
}

/* Whoever comes again after that time, when the backlog has shrunk by it, is let in. */
static void test_retry_is_long_enough(void **state)
{
    (void)state;
    for (struct seeded c = seeded_cases(10000); seeded_next(&c);) {
        struct route_load load = idle;
        uint64_t retry_us, never_us;
        load.alone_us = seeded_pick(&c, 3000);
        load.backlog_us = seeded_pick(&c, 20000);
        load.slo_us = seeded_pick(&c, 5000);
        if (route_admit(&load, &retry_us) == ROUTE_ACCEPT)
            continue;
        load.backlog_us -= (double)retry_us + 1; /* it is told in whole microseconds */
        load.backlog_us = load.backlog_us > 0 ? load.backlog_us : 0;
        assert_seeded(&c, route_admit(&load, &never_us) == ROUTE_ACCEPT);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_domains),  cmocka_unit_test(test_no_domain_is_none),
        cmocka_unit_test(test_start),    cmocka_unit_test(test_budget),
        cmocka_unit_test(test_verdicts), cmocka_unit_test(test_beyond_a_limit_is_full_too),
        cmocka_unit_test(test_late),     cmocka_unit_test(test_retry_is_long_enough),
    };
    return cmocka_run_group_tests_name("route", tests, NULL, NULL);
}
