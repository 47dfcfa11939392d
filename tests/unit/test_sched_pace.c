/*
 * Scenarios of the scheduler core: first tokens that would be late beside answers that have time,
 * in one worker and across two.
 */
#include "unit/sched_stage.h"

/* One answers, another three come to the same worker. All four prompts: 556 us each in full steps,
 * (500 + 64 * 20) / 64 * 20. */
static struct stage *three_beside_one(uint64_t ttft_us, uint64_t tpot_us, uint32_t *ret_worker)
{
    struct sched_config config = stage_config();
    config.slo_ttft_us = ttft_us;
    config.slo_tpot_us = tpot_us;
    config.kv_step_bytes = 4 * KV_STEP; /* enough for all of them */
    struct stage *g = stage_new(&config);
    stage_deploy(g, 0, 0, 0, ROUTE_OWNER, 0);
    *ret_worker = stage_start(g, 1, 0); /* LOAD_US + SPAWN_US + BIND_US after it came */
    assert_int_equal(stage_said(g, SCHED_GRANT, 0)->prompts_first, 0); /* beside nobody */
    stage_tokens(g, 1, 1);
    stage_request(g, 2, 0);
    stage_expect(g, "submit");
    stage_request(g, 3, 0);
    stage_expect(g, "submit");
    stage_request(g, 4, 0);
    return g;
}

static const struct sched_action *next_turn(struct stage *g, uint32_t worker)
{
    stage_turn_ended(g, worker);
    stage_expect(g, "grant");
    return stage_said(g, SCHED_GRANT, 0);
}

/* After a turn of prompts alone. */
static const struct sched_action *turn_after_prompts(struct stage *g, uint32_t worker)
{
    stage_apply(
        g, (struct sched_event){
               .type = SCHED_TURN_ENDED, .worker = worker, .us = 1780, .steps = 1, .tokens = 64});
    stage_expect(g, "grant");
    return stage_said(g, SCHED_GRANT, 0);
}

/* 3 * 556 us fit into 2000; nobody waits. */
static void test_in_time_at_their_pace(void **state)
{
    (void)state;
    uint32_t worker;
    struct stage *g = three_beside_one(2000, 50000, &worker);
    stage_expect(g, "submit");
    assert_int_equal(next_turn(g, worker)->prompts_first, 0);
    stage_free(g);
}

/* Not into 1200: who has time waits, until the last of them has its first token. */
static void test_prompts_first(void **state)
{
    (void)state;
    uint32_t worker;
    struct stage *g = three_beside_one(1200, 50000, &worker);
    stage_expect(g, "submit revoke");
    const struct sched_action *grant = next_turn(g, worker);
    assert_int_equal(grant->prompts_first, 1);
    assert_int_equal(grant->rows, 64); /* a whole step */
    stage_tokens(g, 2, 1);
    stage_tokens(g, 3, 1);
    stage_expect(g, "");
    stage_tokens(g, 4, 1);
    stage_expect(g, "revoke");
    assert_int_equal(turn_after_prompts(g, worker)->prompts_first, 0);
    stage_pass(g, FOREVER_US);
    stage_expect(g, "");
    stage_free(g);
}

/* The third token is due 1200 + 2 * 4000 us after the arrival, which is 8090 from now; before it
 * there must be time for one more step of prompts (1780) and its own (550). */
static void test_until_a_token_is_due(void **state)
{
    (void)state;
    uint32_t worker;
    struct stage *g = three_beside_one(1200, 4000, &worker);
    stage_expect(g, "submit revoke");
    assert_int_equal(next_turn(g, worker)->prompts_first, 1);
    stage_pass(g, 5759);
    stage_expect(g, "");
    stage_pass(g, 1);
    stage_expect(g, "revoke");
    assert_int_equal(turn_after_prompts(g, worker)->prompts_first, 0);
    stage_free(g);
}

/* Its next token would be late: the pace is kept, and the others are late. */
static void test_nobody_is_made_late(void **state)
{
    (void)state;
    uint32_t worker;
    struct stage *g = three_beside_one(1200, 1000, &worker);
    stage_expect(g, "submit");
    assert_int_equal(next_turn(g, worker)->prompts_first, 0);
    stage_free(g);
}

/* Of two workers: one decodes, a token each `tpot_us` and the first within ttft_us, and the other's
 * first token takes 1056 us of the 100000 that it may. Which has the next turn? */
static uint32_t next_of_two(uint64_t ttft_us, uint64_t tpot_us, uint32_t *ret_decodes)
{
    struct sched_config config = stage_config();
    config.slo_ttft_us = ttft_us;
    config.slo_tpot_us = tpot_us;
    config.batch_window_us = 0;
    struct stage *g = stage_new(&config);
    stage_deploy(g, 0, 0, 0, ROUTE_OWNER, 0);
    stage_deploy(g, 1, 0, 1, ROUTE_OWNER, 100000);
    *ret_decodes = stage_start(g, 1, 0);
    stage_tokens(g, 1, 1);
    stage_request(g, 2, 1);
    stage_expect(g, "spawn");
    uint32_t other = stage_said(g, SCHED_SPAWN, 0)->worker;
    stage_ready(g, other);
    stage_expect(g, "bind");
    stage_bound(g, other, 1);
    stage_expect(g, "submit");
    stage_pass(g, config.turn_us);
    stage_expect(g, "revoke");
    stage_turn_ended(g, *ret_decodes);
    stage_expect(g, "grant");
    uint32_t next = stage_said(g, SCHED_GRANT, 0)->worker;
    stage_free(g);
    return next;
}

/* The first of an answer came early: so may the next ones be later than their pace. Without such
 * time they are not. */
static void test_early_answers_wait(void **state)
{
    (void)state;
    uint32_t decodes;
    assert_int_not_equal(next_of_two(100000, 1000, &decodes), decodes);
    assert_int_equal(next_of_two(2400, 1000, &decodes), decodes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_time_at_their_pace), cmocka_unit_test(test_prompts_first),
        cmocka_unit_test(test_until_a_token_is_due),  cmocka_unit_test(test_nobody_is_made_late),
        cmocka_unit_test(test_early_answers_wait),
    };
    return cmocka_run_group_tests_name("sched_pace", tests, NULL, NULL);
}
