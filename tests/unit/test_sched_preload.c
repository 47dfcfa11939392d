/* Scenarios of the scheduler core: what is there ahead of need, where, and what that spares. */
#include "unit/sched_stage.h"

/* Where memory costs nothing all is there before the first request: it is only bound. */
static void test_ahead_of_need(void **state)
{
    (void)state;
    struct sched_config config = stage_config();
    config.no_preload = 0;
    struct stage *g = stage_new(&config);
    stage_apply(g, (struct sched_event){
                       .type = SCHED_DEPLOYED, .isolation = ROUTE_OWNER, .bytes = ADAPTER_BYTES});
    stage_pass(g, 2 * config.plan_period_us);
    stage_expect(g, "load load");
    assert_int_equal(stage_said(g, SCHED_LOAD, 0)->backbone, 0); /* first what the other needs */
    assert_int_equal(stage_said(g, SCHED_LOAD, 1)->function, 0);
    uint32_t adapter = stage_said(g, SCHED_LOAD, 1)->copy;
    stage_loaded(g, stage_said(g, SCHED_LOAD, 0)->copy);
    stage_expect(g, "spawn");
    uint32_t spare = stage_said(g, SCHED_SPAWN, 0)->worker;
    stage_loaded(g, adapter);
    stage_ready(g, spare);
    stage_pass(g, 3 * config.plan_period_us);
    stage_expect(g, ""); /* nothing twice */
    struct sched_function_view view;
    sched_function_view(g->s, g->now_us, 0, &view);
    assert_int_equal(view.state, SCHED_SPARED);
    stage_request(g, 1, 0);
    stage_expect(g, "bind");
    assert_int_equal(stage_said(g, SCHED_BIND, 0)->worker, spare);
    stage_bound(g, spare, 0);
    stage_expect(g, "submit grant");
    stage_free(g);
}

/* Answers what was asked for ahead of need, until nothing more is; returns how many spares stand
 * ready. */
static uint32_t settle(struct stage *g, uint32_t *ret_spares)
{
    uint32_t spares = 0, answered = 0;
    stage_pass(g, 2 * g->config.plan_period_us);
    while (answered < g->said_count) {
        const struct sched_action a = g->said[answered++];
        g->expected = answered;
        if (a.type == SCHED_LOAD) {
            stage_loaded(g, a.copy);
        } else {
            assert_int_equal(a.type, SCHED_SPAWN);
            ret_spares[spares++] = a.worker;
            stage_ready(g, a.worker);
        }
        answered = g->expected; /* what was said before may be forgotten by now */
        if (answered == g->said_count)
            stage_pass(g, 2 * g->config.plan_period_us);
    }
    return spares;
}

/* While its worker's device is at work, the next request goes to a spare on an idle device. */
static void test_next_request_goes_to_an_idle_device(void **state)
{
    (void)state;
    for (uint32_t most = 1; most <= 2; most++) {
        struct sched_config config = stage_config();
        uint32_t spares[4];
        config.no_preload = 0;
        config.domain_workers_max = most;
        struct stage *g = stage_new(&config);
        stage_device(g, 1);
        stage_apply(g, (struct sched_event){.type = SCHED_DEPLOYED, .isolation = ROUTE_OWNER});
        assert_int_equal(settle(g, spares), 2);
        stage_request(g, 1, 0);
        stage_expect(g, "bind");
        uint32_t first = stage_said(g, SCHED_BIND, 0)->worker;
        assert_true(first == spares[0] || first == spares[1]);
        stage_bound(g, first, 0);
        stage_expect(g, "submit grant");
        stage_request(g, 2, 0);
        if (most == 1) {
            stage_expect(g, "submit");
            assert_int_equal(stage_said(g, SCHED_SUBMIT, 0)->worker, first);
        } else {
            stage_expect(g, "bind");
            assert_int_equal(stage_said(g, SCHED_BIND, 0)->worker, spares[0] + spares[1] - first);
        }
        stage_free(g);
    }
}

/* What is asked for ahead of need happens at once. */
static void answer(struct stage *g)
{
    while (g->expected < g->said_count) {
        const struct sched_action a = g->said[g->expected++];
        if (a.type == SCHED_LOAD)
            stage_loaded(g, a.copy);
        else if (a.type == SCHED_SPAWN)
            stage_ready(g, a.worker);
    }
}

/* The next request goes where the adapter is: it comes to one node, however much is free on both.
 */
static void test_an_adapter_comes_to_one_node(void **state)
{
    (void)state;
    struct sched_config config = stage_config();
    config.no_preload = 0;
    config.nodes_max = 2;
    struct stage *g = stage_new(&config);
    for (uint32_t node = 0; node < 2; node++)
        stage_apply(g, (struct sched_event){.type = SCHED_NODE, .node = node, .bytes = 10000});
    stage_apply(g, (struct sched_event){.type = SCHED_DEVICE,
                                        .device = 1,
                                        .node = 1,
                                        .bytes = DEVICE_BYTES,
                                        .more_bytes = IDLE_BYTES,
                                        .us = SPAWN_US});
    stage_apply(g, (struct sched_event){
                       .type = SCHED_DEPLOYED, .isolation = ROUTE_OWNER, .bytes = ADAPTER_BYTES});
    for (uint32_t period = 0; period < 8; period++) {
        stage_pass(g, config.plan_period_us);
        answer(g);
    }
    uint32_t nodes = 0, backbones = 0;
    for (uint32_t device = 0; device < 2; device++) {
        struct sched_item_view v[16];
        uint32_t places[] = {device, sched_host_place(&config, device)}, adapters = 0;
        for (uint32_t p = 0; p < 2; p++) {
            uint32_t n = sched_plan_view(g->s, g->now_us, places[p], v, 16);
            for (uint32_t i = 0; i < n; i++) {
                adapters += v[i].present && v[i].kind == SCHED_ITEM_ADAPTER;
                backbones += v[i].present && v[i].kind == SCHED_ITEM_BACKBONE;
            }
        }
        nodes += adapters > 0;
    }
    assert_int_equal(backbones, 4); /* in both memories of both */
    assert_int_equal(nodes, 1);
    stage_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ahead_of_need),
        cmocka_unit_test(test_next_request_goes_to_an_idle_device),
        cmocka_unit_test(test_an_adapter_comes_to_one_node),
    };
    return cmocka_run_group_tests_name("sched_preload", tests, NULL, NULL);
}
