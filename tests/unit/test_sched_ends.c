/*
 * Scenarios of the scheduler core: clients that leave, functions that go, what goes wrong, and when
 * what is idle ends.
 */
#include "unit/sched_stage.h"

/* --- clients that leave --- */

/* Nobody is told anything, nothing is started for it, and its place is free. */
static void test_client_gone_while_waiting(void **state)
{
    (void)state;
    struct sched_config config = stage_config();
    config.function_waiting_max = 1;
    struct stage *g = stage_new(&config);
    stage_deploy(g, 0, 0, 0, ROUTE_OWNER, 0);
    stage_request(g, 1, 0);
    stage_expect(g, "load");
    uint32_t copy = stage_said(g, SCHED_LOAD, 0)->copy;
    stage_gone(g, 1);
    stage_gone(g, 1); /* told twice */
    stage_expect(g, "");
    struct sched_function_view view;
    sched_function_view(g->s, g->now_us, 0, &view);
    assert_int_equal(view.state, SCHED_COLD); /* nothing is on its way to it */
    stage_loaded(g, copy);
    stage_expect(g, "");
    stage_request(g, 2, 0);
    stage_expect(g, "spawn");
    uint32_t worker = stage_said(g, SCHED_SPAWN, 0)->worker;
    stage_gone(g, 2);
    stage_ready(g, worker);
    stage_expect(g, ""); /* it is not bound for nobody */
    struct sched_counts counts;
    sched_counts(g->s, &counts);
    assert_int_equal(counts.requests_waiting + counts.requests_running, 0);
    stage_free(g);
}

/* The worker is told once, and what was used until it stopped is a receipt. */
static void test_client_gone_while_running(void **state)
{
    (void)state;
    const struct sched_config config = stage_config();
    struct stage *g = stage_new(&config);
    stage_deploy(g, 0, 0, 0, ROUTE_OWNER, 0);
    uint32_t worker = stage_start(g, 1, 0);
    stage_request(g, 2, 0);
    stage_expect(g, "submit");
    stage_gone(g, 1);
    stage_expect(g, "cancel");
    assert_int_equal(stage_said(g, SCHED_CANCEL, 0)->request, 1);
    assert_int_equal(stage_said(g, SCHED_CANCEL, 0)->worker, worker);
    stage_gone(g, 1);
    stage_tokens(g, 1, 2); /* they were on their way */
    stage_expect(g, "");
    stage_pass(g, 100);
    stage_done(g, 1);
    stage_expect(g, "receipt");
    assert_int_equal(stage_said(g, SCHED_RECEIPT, 0)->request, 1);
    stage_done(g, 1); /* of what is over already */
    stage_gone(g, 1);
    stage_expect(g, "");
    stage_done(g, 2);
    stage_expect(g, "receipt");
    stage_gone(g, 999); /* of what never was */
    stage_expect(g, "");
    stage_free(g);
}

/* Leaving and ending at the same time: one receipt, no cancel of what is not there. */
static void test_client_gone_at_the_end(void **state)
{
    (void)state;
    const struct sched_config config = stage_config();
    struct stage *g = stage_new(&config);
    stage_deploy(g, 0, 0, 0, ROUTE_OWNER, 0);
    (void)stage_start(g, 1, 0);
    const struct sched_event gone = {.now_us = g->now_us, .type = SCHED_CLIENT_GONE, .request = 1};
    sched_apply(g->s, &gone);
    sched_apply(g->twin, &gone);
    stage_done(g, 1);
    stage_expect(g, "receipt");
    stage_free(g);
}

/* --- functions that go --- */

/* What runs ends, what comes is refused; then its adapter goes, and its number is free. */
static void test_removed(void **state)
{
    (void)state;
    const struct sched_config config = stage_config();
    struct stage *g = stage_new(&config);
    stage_deploy_adapter(g, 0, 0);
    stage_deploy(g, 1, 0, 0, ROUTE_OWNER, 0); /* its neighbour in the same worker */
    stage_request(g, 1, 0);
    stage_expect(g, "load load");
    uint32_t adapter = stage_said(g, SCHED_LOAD, 0)->copy;
    uint32_t backbone = stage_said(g, SCHED_LOAD, 1)->copy;
    stage_loaded(g, adapter);
    stage_loaded(g, backbone);
    stage_expect(g, "spawn");
    uint32_t worker = stage_said(g, SCHED_SPAWN, 0)->worker;
    stage_ready(g, worker);
    stage_bound(g, worker, 0);
    stage_expect(g, "bind submit grant");
    stage_remove(g, 0);
    stage_expect(g, "");
    assert_int_equal(stage_refused(g, 2, 0), SCHED_FUNCTION_GONE);
    stage_done(g, 1);
    stage_expect(g, "receipt unbind drop");
    assert_int_equal(stage_said(g, SCHED_RECEIPT, 0)->receipt.completed, 1);
    assert_int_equal(stage_said(g, SCHED_UNBIND, 0)->function, 0);
    assert_int_equal(stage_said(g, SCHED_DROP, 0)->copy, adapter);
    stage_dropped(g, adapter);
    stage_expect(g, "forget");
    assert_int_equal(stage_said(g, SCHED_FORGET, 0)->function, 0);
    stage_pass(g, 0);
    stage_expect(g, "kill"); /* nothing that is left has ever run there: there is no time to keep */
    /* The number is another function's now. */
    stage_deploy(g, 0, 0, 3, ROUTE_OWNER, 0);
    stage_request(g, 3, 0);
    stage_expect(g, "spawn");
    stage_free(g);
}

/* The last of its domain: the worker goes, and the domain is nobody's any more. */
static void test_the_last_of_a_domain(void **state)
{
    (void)state;
    const struct sched_config config = stage_config();
    struct stage *g = stage_new(&config);
    stage_deploy(g, 0, 0, 0, ROUTE_OWNER, 0);
    uint32_t worker = stage_start(g, 1, 0);
    stage_finish(g, 1, worker);
    stage_expect(g, "");
    stage_remove(g, 0);
    stage_expect(g, "kill");
    stage_exited(g, worker);
    stage_expect(g, "forget");
    stage_deploy(g, 0, 0, 0, ROUTE_OWNER, 0);
    stage_request(g, 2, 0);
    stage_expect(g, "spawn"); /* a process of its own */
    stage_free(g);
}

/* Nothing of it is anywhere: it is forgotten at once. What waits is served before. */
static void test_removed_before_it_ran(void **state)
{
    (void)state;
    const struct sched_config config = stage_config();
    struct stage *g = stage_new(&config);
    stage_deploy(g, 0, 0, 0, ROUTE_OWNER, 0);
    stage_remove(g, 0);
    stage_expect(g, "forget");
    stage_deploy(g, 1, 0, 0, ROUTE_OWNER, 0);
    stage_request(g, 1, 1);
    stage_expect(g, "load");
    uint32_t copy = stage_said(g, SCHED_LOAD, 0)->copy;
    stage_remove(g, 1);
    stage_expect(g, "");
    assert_int_equal(stage_refused(g, 2, 1), SCHED_FUNCTION_GONE);
    stage_loaded(g, copy);
    stage_expect(g, "spawn");
    uint32_t worker = stage_said(g, SCHED_SPAWN, 0)->worker;
    stage_ready(g, worker);
    stage_bound(g, worker, 1);
    stage_expect(g, "bind submit grant");
    stage_done(g, 1);
    stage_expect(g, "receipt kill");
    stage_exited(g, worker);
    stage_expect(g, "forget");
    stage_free(g);
}

/* --- what goes wrong --- */

/* Its own requests end with it, each with a receipt that says so; who waits gets another. */
static void test_worker_lost(void **state)
{
    (void)state;
    struct sched_config config = stage_config();
    config.worker_running_max = 2;
    struct stage *g = stage_new(&config);
    stage_deploy(g, 0, 0, 0, ROUTE_OWNER, 0);
    stage_deploy(g, 1, 0, 1, ROUTE_OWNER, 0);
    uint32_t worker = stage_start(g, 1, 0);
    stage_request(g, 2, 0);
    stage_request(g, 3, 0);
    stage_expect(g, "submit"); /* two at a time: one waits */
    stage_request(g, 4, 1);
    stage_expect(g, "spawn");
    uint32_t other = stage_said(g, SCHED_SPAWN, 0)->worker;
    stage_ready(g, other);
    stage_bound(g, other, 1);
    stage_expect(g, "bind submit");
    stage_pass(g, 250);
    stage_exited(g, worker);
    stage_expect(g, "receipt receipt spawn grant");
    for (uint32_t i = 0; i < 2; i++) {
        const struct sched_action *a = stage_said(g, SCHED_RECEIPT, i);
        assert_int_equal(a->request, 1 + i);
        assert_int_equal(a->reason, SCHED_WORKER_LOST);
        assert_int_equal(a->receipt.completed, 0);
        assert_int_equal(a->receipt.first_us, 0);
        assert_float_equal(a->receipt.backbone_byte_s, BACKBONE_BYTES * 250e-6 / 3, 1e-9);
    }
    assert_int_equal(stage_said(g, SCHED_GRANT, 0)->worker, other);
    stage_done(g, 1); /* late words of the one that is lost */
    stage_turn_ended(g, worker);
    stage_expect(g, "");
    stage_free(g);
}

/* As often as spawn_attempts_max in a row, then those who wait are told. */
static void test_workers_that_do_not_start(void **state)
{
    (void)state;
    const struct sched_config config = stage_config();
    struct stage *g = stage_new(&config);
    stage_deploy(g, 0, 0, 0, ROUTE_OWNER, 0);
    stage_request(g, 1, 0);
    stage_expect(g, "load");
    stage_loaded(g, stage_said(g, SCHED_LOAD, 0)->copy);
    stage_expect(g, "spawn");
    stage_exited(g, stage_said(g, SCHED_SPAWN, 0)->worker);
    stage_expect(g, "spawn");
    uint32_t second = stage_said(g, SCHED_SPAWN, 0)->worker;
    stage_request(g, 2, 0);
    stage_exited(g, second);
    stage_expect(g, "refuse refuse");
    for (uint32_t i = 0; i < 2; i++)
        assert_int_equal(stage_said(g, SCHED_REFUSE, i)->reason, SCHED_START_FAILED);
    stage_request(g, 3, 0); /* who comes later tries again */
    stage_expect(g, "spawn");
    stage_free(g);
}

static void test_loads_that_fail(void **state)
{
    (void)state;
    const struct sched_config config = stage_config();
    struct stage *g = stage_new(&config);
    stage_deploy_adapter(g, 0, 0);
    stage_deploy(g, 1, 0, 1, ROUTE_OWNER, 0);
    stage_request(g, 1, 0);
    stage_request(g, 2, 1); /* both wait for the backbone */
    stage_expect(g, "load load");
    uint32_t adapter = stage_said(g, SCHED_LOAD, 0)->copy;
    uint32_t backbone = stage_said(g, SCHED_LOAD, 1)->copy;
    stage_apply(g, (struct sched_event){.type = SCHED_COPY_FAILED, .copy = backbone});
    stage_expect(g, "refuse refuse");
    assert_int_equal(stage_said(g, SCHED_REFUSE, 0)->reason, SCHED_LOAD_FAILED);
    assert_int_equal(stage_said(g, SCHED_REFUSE, 1)->reason, SCHED_LOAD_FAILED);
    stage_request(g, 3, 0); /* only what failed is loaded again */
    stage_request(g, 4, 1);
    stage_expect(g, "load");
    stage_apply(g, (struct sched_event){.type = SCHED_COPY_FAILED, .copy = adapter});
    stage_expect(g, "refuse"); /* the adapter is one function's only */
    assert_int_equal(stage_said(g, SCHED_REFUSE, 0)->request, 3);
    assert_int_equal(stage_said(g, SCHED_REFUSE, 0)->reason, SCHED_ADAPTER_FAILED);
    stage_free(g);
}

static void test_a_bind_that_fails(void **state)
{
    (void)state;
    const struct sched_config config = stage_config();
    struct stage *g = stage_new(&config);
    stage_deploy(g, 0, 0, 0, ROUTE_OWNER, 0);
    stage_deploy(g, 1, 0, 0, ROUTE_OWNER, 0);
    uint32_t worker = stage_start(g, 1, 0);
    stage_request(g, 2, 1);
    stage_expect(g, "bind");
    stage_apply(g,
                (struct sched_event){.type = SCHED_BIND_FAILED, .worker = worker, .function = 1});
    stage_expect(g, "refuse"); /* the neighbour runs on */
    assert_int_equal(stage_said(g, SCHED_REFUSE, 0)->request, 2);
    assert_int_equal(stage_said(g, SCHED_REFUSE, 0)->reason, SCHED_ADAPTER_FAILED);
    stage_finish(g, 1, worker);
    stage_free(g);
}

/* --- what is idle --- */

/* A fixed time: the worker ends then, to the microsecond, unless a request comes before; and the
 * backbone after it. */
static void test_fixed_keep_alive(void **state)
{
    (void)state;
    struct sched_config config = stage_config();
    config.keep_alive_us = 50000;
    config.plan_period_us = 7000;
    struct stage *g = stage_new(&config);
    stage_deploy(g, 0, 0, 0, ROUTE_OWNER, 0);
    uint32_t worker = stage_start(g, 1, 0);
    stage_finish(g, 1, worker);
    stage_pass(g, 49999);
    stage_expect(g, "");
    stage_request(g, 2, 0);
    stage_expect(g, "submit grant"); /* warm */
    stage_pass(g, 60000);
    stage_expect(g, ""); /* it runs: no time is up */
    stage_finish(g, 2, worker);
    stage_pass(g, 49999);
    stage_expect(g, "");
    stage_pass(g, 1);
    stage_expect(g, "kill");
    assert_int_equal(stage_said(g, SCHED_KILL, 0)->worker, worker);
    stage_exited(g, worker);
    stage_expect(g, "");
    stage_pass(g, 50000 - 1);
    stage_expect(g, "");
    stage_pass(g, 2 * config.plan_period_us);
    stage_expect(g, "drop");
    stage_dropped(g, stage_said(g, SCHED_DROP, 0)->copy);
    stage_expect(g, "");
    struct sched_counts counts;
    sched_counts(g->s, &counts);
    assert_int_equal(counts.memory_bytes, 0); /* scaled to zero */
    stage_free(g);
}

/* Where memory has its price, a worker that nothing will ask for ends by itself, and one that is
 * asked for all the time stays in between. */
static void test_keep_alive_by_worth(void **state)
{
    (void)state;
    struct sched_config config = stage_config();
    config.price_bytes = 1000000;
    struct stage *g = stage_new(&config);
    stage_deploy(g, 0, 0, 0, ROUTE_OWNER, 0);
    uint32_t worker = stage_start(g, 1, 0);
    for (uint64_t request = 2; request < 40; request++) { /* beside the first: so it is known */
        stage_pass(g, 2000);
        stage_request(g, request, 0);
        stage_expect(g, "submit");
        stage_done(g, request);
        stage_expect(g, "receipt");
    }
    stage_finish(g, 1, worker);
    for (uint64_t request = 40; request < 80; request++) {
        stage_pass(g, 2000);
        stage_request(g, request, 0);
        stage_expect(g, "submit grant");
        stage_finish(g, request, worker);
        stage_expect(g, "");
    }
    stage_pass(g, FOREVER_US);
    stage_expect(g, "kill");
    stage_free(g);
}

/* Between requests the memory is the last function's; nobody else is billed for it, and nothing
 * twice. */
static void test_idle_is_billed(void **state)
{
    (void)state;
    struct sched_config config = stage_config();
    config.keep_alive_us = 50000;
    struct stage *g = stage_new(&config);
    stage_deploy(g, 0, 0, 0, ROUTE_OWNER, 0);
    uint32_t worker = stage_start(g, 1, 0);
    double starting = (IDLE_BYTES + KV_STEP) * (double)(SPAWN_US + BIND_US) * 1e-6;
    stage_finish(g, 1, worker);
    stage_pass(g, 50000);
    stage_expect(g, "kill");
    stage_pass(g, 300);
    stage_exited(g, worker);
    /* It ran for no time: all of its private memory, from its start to its end. */
    assert_float_equal(g->idle_byte_s, starting + (IDLE_BYTES + KV_STEP) * 50300e-6, 1e-9);
    stage_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_client_gone_while_waiting),
        cmocka_unit_test(test_client_gone_while_running),
        cmocka_unit_test(test_client_gone_at_the_end),
        cmocka_unit_test(test_removed),
        cmocka_unit_test(test_the_last_of_a_domain),
        cmocka_unit_test(test_removed_before_it_ran),
        cmocka_unit_test(test_worker_lost),
        cmocka_unit_test(test_workers_that_do_not_start),
        cmocka_unit_test(test_loads_that_fail),
        cmocka_unit_test(test_a_bind_that_fails),
        cmocka_unit_test(test_fixed_keep_alive),
        cmocka_unit_test(test_keep_alive_by_worth),
        cmocka_unit_test(test_idle_is_billed),
    };
    return cmocka_run_group_tests_name("sched_ends", tests, NULL, NULL);
}
