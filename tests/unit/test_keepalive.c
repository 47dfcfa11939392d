/*
 * How long something idle is kept: against the best of all times, computed finely from the same
 * forecast, and what must be so whatever the numbers are.
 */
#include "policy/keepalive.h"

#include "unit/seeded.h"

#include <math.h>
#include <stdio.h>

#define S UINT64_C(1000000)
#define DAY (86400 * S)
#define GB 1e9

/* Arrivals of some kind, the latest of them at the time that is returned. */
static uint64_t arrivals(struct seeded *c, struct forecast *f)
{
    uint64_t now = seeded_pick(c, 100) * S, gap = 1 + seeded_pick(c, 300) * S;
    uint32_t kind = seeded_pick(c, 4);
    forecast_begin(f, now);
    for (uint32_t i = seeded_pick(c, 60); i > 0; i--) {
        uint64_t wait = gap; /* regular */
        if (kind == 1)       /* without memory */
            wait = (uint64_t)(-log(1 - rng_unit(&c->rng)) * (double)gap);
        else if (kind == 2) /* in bursts */
            wait = i % 8 == 0 ? 20 * gap : gap / 50;
        else if (kind == 3) /* of every size */
            wait = UINT64_C(1) << (12 + seeded_pick(c, 24));
        now += wait;
        forecast_arrival(f, now);
    }
    return now;
}

static struct keepalive_cost some_cost(struct seeded *c)
{
    return (struct keepalive_cost){.saved_us = pow(10, 3 + 5 * rng_unit(&c->rng)),
                                   .bytes = pow(10, 6 + 4 * rng_unit(&c->rng)),
                                   .price_bytes = pow(10, 6 + 6 * rng_unit(&c->rng))};
}

/* net(t) as the header has it, for many times at once: the integral of what is held in steps of a
 * fiftieth. Returns the largest, and net(at_us) in ret_at. */
static double largest_net(const struct forecast *f, uint64_t now, const struct keepalive_cost *c,
                          uint64_t at_us, double *ret_at)
{
    double none_before = 1, held_us = 0, largest = 0, t_before = 0;
    *ret_at = 0;
    for (double t = 1000; t < 40000e6; t *= 1.02) {
        bool passes = t_before < (double)at_us && t >= (double)at_us;
        double to = passes ? (double)at_us : t;
        double none = forecast_none_within(f, now, (uint64_t)to);
        held_us += (none_before + none) / 2 * (to - t_before);
        double net = c->saved_us * (1 - none) - c->bytes * held_us / c->price_bytes;
        largest = net > largest ? net : largest;
        if (passes)
            *ret_at = net;
        none_before = none;
        t_before = to;
    }
    return largest;
}

/* The times that are tried are half as long again each, and so is the step of the integral: what is
 * lost by that is little of what there is to save. */
static void test_near_the_best_time(void **state)
{
    (void)state;
    double lost = 0, worst = 0, off = 0;
    uint32_t kept = 0, cases = 0;
    for (struct seeded c = seeded_cases(3000); seeded_next(&c);) {
        struct forecast f;
        uint64_t now = arrivals(&c, &f) + (seeded_one_in(&c, 2) ? seeded_pick(&c, 500) * S : 0);
        const struct keepalive_cost cost = some_cost(&c);
        struct keepalive_choice k = keepalive_choose(&f, now, &cost);
        double at, largest = largest_net(&f, now, &cost, k.keep_us, &at);
        double regret = (largest - at) / cost.saved_us;
        assert_seeded(&c, regret <= 0.1);
        assert_seeded(&c, fabs(k.net_us - at) <= 0.1 * cost.saved_us);
        lost += regret;
        worst = regret > worst ? regret : worst;
        off = fmax(off, fabs(k.net_us - at) / cost.saved_us);
        kept += k.keep_us > 0;
        cases++;
    }
    if (getenv("SLLORA_SEED") != NULL)
        return;
    print_message("of what there is to save %.2f %% is lost on average, %.1f %% at worst; its own "
                  "account is off by %.1f %% at most; %u of %u are kept\n",
                  100 * lost / cases, 100 * worst, 100 * off, kept, cases);
    assert_true(lost / cases <= 0.005);
    assert_true(kept > cases / 5 && kept < cases * 4 / 5); /* both ends are tried */
}

static bool is_worth(const struct forecast *f, uint64_t now, const struct keepalive_cost *c)
{
    struct forecast_outlook o = forecast_look(f, now);
    return keepalive_is_worth(&o, c);
}

/* Worth keeping and kept for some time are the same; nothing nets more than all of the waiting. */
static void test_worth_is_some_time(void **state)
{
    (void)state;
    for (struct seeded c = seeded_cases(5000); seeded_next(&c);) {
        struct forecast f;
        uint64_t now = arrivals(&c, &f) + seeded_pick(&c, 1000) * S;
        const struct keepalive_cost cost = some_cost(&c);
        struct keepalive_choice k = keepalive_choose(&f, now, &cost);
        assert_seeded(&c, is_worth(&f, now, &cost) == (k.keep_us > 0));
        assert_seeded(&c, (k.net_us > 0) == (k.keep_us > 0));
        assert_seeded(&c, k.net_us >= 0 && k.net_us <= cost.saved_us);
        assert_seeded(&c, k.keep_us <= DAY);
    }
}

/* At least as long; or hardly anything comes in between, and the sums are the same but for their
 * last digits. */
static bool as_long(const struct forecast *f, uint64_t now, uint64_t longer, uint64_t shorter)
{
    return longer >= shorter || forecast_none_within(f, now, longer) < 1e-9;
}

/* The more it saves, or the less it holds, or the cheaper memory is, the longer it stays. */
static void test_the_dearer_the_shorter(void **state)
{
    (void)state;
    for (struct seeded c = seeded_cases(3000); seeded_next(&c);) {
        struct forecast f;
        uint64_t now = arrivals(&c, &f);
        const struct keepalive_cost cost = some_cost(&c);
        struct keepalive_cost slower = cost, larger = cost, cheaper = cost;
        slower.saved_us *= 1 + 3 * rng_unit(&c.rng);
        larger.bytes *= 1 + 3 * rng_unit(&c.rng);
        cheaper.price_bytes *= 1 + 3 * rng_unit(&c.rng);
        uint64_t keep = keepalive_choose(&f, now, &cost).keep_us;
        assert_seeded(&c, as_long(&f, now, keepalive_choose(&f, now, &slower).keep_us, keep));
        assert_seeded(&c, as_long(&f, now, keep, keepalive_choose(&f, now, &larger).keep_us));
        assert_seeded(&c, as_long(&f, now, keepalive_choose(&f, now, &cheaper).keep_us, keep));
    }
}

static uint64_t keep_us(uint64_t gap_us, uint64_t idle_us, double saved_us, double bytes)
{
    struct forecast f;
    uint64_t now = S;
    forecast_begin(&f, now);
    for (int i = 0; i < 100; i++)
        forecast_arrival(&f, now += gap_us);
    const struct keepalive_cost c = {saved_us, bytes, 100 * GB};
    return keepalive_choose(&f, now + idle_us, &c).keep_us;
}

static void test_by_hand(void **state)
{
    (void)state;
    /* Ten gigabytes that load for 20 s, a tenth of the price: with a request a minute, holding them
     * until it comes is worth 6 s of waiting. */
    assert_true(keep_us(60 * S, 0, 20e6, 10 * GB) >= 60 * S);
    /* A process that starts in 2 s is not worth the same memory for a minute; it is for 5 s. */
    assert_int_equal(keep_us(60 * S, 0, 2e6, 10 * GB), 0);
    assert_true(keep_us(5 * S, 0, 2e6, 10 * GB) >= 5 * S);
    /* One in a day: not for a load of 20 s. */
    assert_int_equal(keep_us(DAY, 0, 20e6, 10 * GB), 0);
    /* It used to come every minute, and has not for an hour. */
    assert_true(keep_us(60 * S, 3600 * S, 20e6, 10 * GB) < 60 * S);
    /* Just after one that comes once an hour nothing is worth it; shortly before the next it is. */
    assert_int_equal(keep_us(3600 * S, 0, 20e6, 10 * GB), 0);
    assert_true(keep_us(3600 * S, 3590 * S, 200e6, 10 * GB) > 0);
    /* Nothing to save. */
    assert_int_equal(keep_us(S, 0, 0, 1), 0);
}

/* Many a second, and a start of 20 ms, which is what starts take here: between two it stays. */
static void test_what_starts_in_milliseconds(void **state)
{
    (void)state;
    assert_true(keep_us(S / 200, 0, 20e3, 100 * GB) >= S / 200);
}

static void test_free_memory(void **state)
{
    (void)state;
    struct forecast f;
    forecast_begin(&f, 0);
    const struct keepalive_cost c = {.saved_us = 5, .bytes = 1e12};
    struct keepalive_choice k = keepalive_choose(&f, S, &c);
    assert_true(k.keep_us == KEEPALIVE_FOREVER);
    assert_float_equal(k.net_us, 5, 0);
    assert_true(is_worth(&f, S, &c));
    /* No bytes cost nothing either: as long as anything is tried. */
    const struct keepalive_cost weightless = {.saved_us = 5, .price_bytes = 1};
    uint64_t keep = keepalive_choose(&f, S, &weightless).keep_us;
    assert_true(forecast_none_within(&f, S, keep) < 1e-9);
}

static void test_ends(void **state)
{
    (void)state;
    assert_true(keepalive_ends_us(5, 7) == 12);
    assert_true(keepalive_ends_us(5, 0) == 5);
    assert_true(keepalive_ends_us(5, UINT64_MAX) == UINT64_MAX);
    assert_true(keepalive_ends_us(5, UINT64_MAX - 5) == UINT64_MAX);
    assert_true(keepalive_ends_us(5, UINT64_MAX - 6) == UINT64_MAX - 1);
    assert_true(keepalive_ends_us(0, KEEPALIVE_FOREVER) == UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_near_the_best_time),
        cmocka_unit_test(test_worth_is_some_time),
        cmocka_unit_test(test_the_dearer_the_shorter),
        cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_what_starts_in_milliseconds),
        cmocka_unit_test(test_free_memory),
        cmocka_unit_test(test_ends),
    };
    return cmocka_run_group_tests_name("keepalive", tests, NULL, NULL);
}
