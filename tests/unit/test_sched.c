/*
 * Scenarios of the scheduler core, each a story of events and of what is asked for in between: cold
 * starts and receipts, what is shared, admission.
 */
#include "unit/sched_stage.h"

/* --- cold starts --- */

/* Everything that a first request needs, in order, each thing once and when it can be. */
static void test_cold_start(void **state)
{
    (void)state;
    const struct sched_config config = stage_config();
    struct stage *g = stage_new(&config);
    stage_deploy_adapter(g, 3, 1);
    uint64_t arrived_us = g->now_us;
    stage_apply(
        g,
        (struct sched_event){
            .type = SCHED_REQUEST, .request = 77, .function = 3, .tokens = 100, .more_tokens = 50});
    stage_expect(g, "load load");
    const struct sched_action adapter = *stage_said(g, SCHED_LOAD, 0);
    const struct sched_action backbone = *stage_said(g, SCHED_LOAD, 1);
    assert_int_equal(adapter.function, 3);
    assert_int_equal(adapter.bytes, ADAPTER_BYTES);
    assert_int_equal(backbone.backbone, 0);
    assert_int_equal(backbone.bytes, BACKBONE_BYTES);
    assert_int_equal(backbone.place, 0);
    assert_true(backbone.from == SCHED_NONE); /* the disk */
    stage_pass(g, 400);
    stage_loaded(g, adapter.copy);
    stage_expect(g, "");
    stage_pass(g, 600);
    stage_loaded(g, backbone.copy);
    stage_expect(g, "spawn");
    const struct sched_action spawn = *stage_said(g, SCHED_SPAWN, 0);
    assert_int_equal(spawn.copy, backbone.copy);
    assert_int_equal(spawn.device, 0);
    assert_int_equal(spawn.bytes, KV_STEP);
    stage_pass(g, 120);
    stage_ready(g, spawn.worker);
    stage_expect(g, "bind");
    const struct sched_action bind = *stage_said(g, SCHED_BIND, 0);
    assert_int_equal(bind.worker, spawn.worker);
    assert_int_equal(bind.function, 3);
    assert_int_equal(bind.copy, adapter.copy);
    assert_true(route_domain_equal(bind.domain, route_domain_of(ROUTE_OWNER, 3, 1, 0)));
    stage_pass(g, 30);
    stage_bound(g, spawn.worker, 3);
    stage_expect(g, "resize submit grant");
    assert_int_equal(stage_said(g, SCHED_RESIZE, 0)->bytes, 3 * KV_STEP); /* of 150 tokens */
    const struct sched_action *submit = stage_said(g, SCHED_SUBMIT, 0);
    assert_int_equal(submit->request, 77);
    assert_int_equal(submit->worker, spawn.worker);
    assert_int_equal(submit->slot, bind.slot);
    assert_int_equal(submit->us, arrived_us + config.slo_ttft_us);
    const struct sched_action *grant = stage_said(g, SCHED_GRANT, 0);
    assert_int_equal(grant->worker, spawn.worker);
    assert_int_equal(grant->rows, config.step_rows_max); /* nobody decodes: whole prompts */
    stage_free(g);
}

/* Where the time and the memory went, part by part. */
static void test_receipt(void **state)
{
    (void)state;
    const struct sched_config config = stage_config();
    struct stage *g = stage_new(&config);
    stage_deploy_adapter(g, 3, 1);
    stage_request(g, 77, 3);
    stage_expect(g, "load load");
    uint32_t adapter = stage_said(g, SCHED_LOAD, 0)->copy;
    uint32_t backbone = stage_said(g, SCHED_LOAD, 1)->copy;
    stage_pass(g, 1000);
    stage_loaded(g, adapter);
    stage_loaded(g, backbone);
    stage_expect(g, "spawn");
    uint32_t worker = stage_said(g, SCHED_SPAWN, 0)->worker;
    stage_pass(g, 120);
    stage_ready(g, worker);
    stage_pass(g, 30);
    stage_bound(g, worker, 3);
    stage_expect(g, "bind submit grant");
    stage_pass(g, 500);
    stage_tokens(g, 77, 1);
    stage_pass(g, 2000);
    stage_done(g, 77);
    stage_expect(g, "receipt");
    const struct sched_action *a = stage_said(g, SCHED_RECEIPT, 0);
    assert_int_equal(a->request, 77);
    assert_int_equal(a->function, 3);
    assert_int_equal(a->reason, SCHED_REASON_NONE);
    assert_int_equal(a->receipt.completed, 1);
    assert_int_equal(a->receipt.load_us, 1000);
    assert_int_equal(a->receipt.start_us, 120);
    assert_int_equal(a->receipt.bind_us, 30);
    assert_int_equal(a->receipt.queue_us, 0);
    assert_int_equal(a->receipt.first_us, 1650);
    assert_int_equal(a->receipt.total_us, 3650);
    assert_int_equal(a->receipt.device_us, 700);
    assert_int_equal(a->receipt.prompt_tokens, 20);
    assert_int_equal(a->receipt.new_tokens, 10);
    assert_int_equal(a->receipt.cached_tokens, 5);
    /* For 2,500 us alone in its worker, with its adapter, on its backbone. */
    assert_float_equal(a->receipt.own_byte_s,
                       (IDLE_BYTES + WORK_BYTES + KV_STEP + ADAPTER_BYTES) * 2500e-6, 1e-9);
    assert_float_equal(a->receipt.backbone_byte_s, BACKBONE_BYTES * 2500e-6, 1e-9);
    stage_free(g);
}

/* --- what is shared --- */

/* Two owners: one copy of the backbone, two workers, two domains. */
static void test_owners_share_the_backbone(void **state)
{
    (void)state;
    const struct sched_config config = stage_config();
    struct stage *g = stage_new(&config);
    stage_deploy(g, 0, 0, 0, ROUTE_OWNER, 0);
    stage_deploy(g, 1, 0, 1, ROUTE_OWNER, 0);
    uint32_t first = stage_start(g, 1, 0);
    struct sched_worker_view one, other;
    sched_worker_view(g->s, first, &one);
    stage_request(g, 2, 1);
    stage_expect(g, "spawn"); /* no load */
    uint32_t second = stage_said(g, SCHED_SPAWN, 0)->worker;
    uint32_t copy = stage_said(g, SCHED_SPAWN, 0)->copy;
    assert_true(second != first);
    stage_ready(g, second);
    stage_bound(g, second, 1);
    stage_expect(g, "bind submit"); /* the first has the turn */
    stage_pass(g, config.turn_us);
    stage_expect(g, "revoke");
    sched_worker_view(g->s, second, &other);
    assert_false(route_domain_equal(one.domain, other.domain));
    struct sched_copy_view view;
    sched_copy_view(g->s, copy, &view);
    assert_int_equal(view.users, 2);
    struct sched_counts counts;
    sched_counts(g->s, &counts);
    assert_int_equal(counts.memory_bytes, BACKBONE_BYTES + 2 * (IDLE_BYTES + WORK_BYTES + KV_STEP));
    stage_free(g);
}

/* One owner: a second slot in the same worker. Its functions share worker and backbone while both
 * run, and each is billed half of it. */
static void test_an_owner_shares_the_worker(void **state)
{
    (void)state;
    const struct sched_config config = stage_config();
    struct stage *g = stage_new(&config);
    stage_deploy(g, 0, 0, 0, ROUTE_OWNER, 0);
    stage_deploy(g, 1, 0, 0, ROUTE_OWNER, 0);
    uint32_t worker = stage_start(g, 1, 0);
    stage_request(g, 2, 1);
    stage_expect(g, "bind");
    assert_int_equal(stage_said(g, SCHED_BIND, 0)->worker, worker);
    assert_int_equal(stage_said(g, SCHED_BIND, 0)->slot, 1);
    stage_bound(g, worker, 1);
    stage_expect(g, "submit"); /* it joins the turn of its own worker */
    assert_int_equal(stage_said(g, SCHED_SUBMIT, 0)->slot, 1);
    stage_pass(g, 3000);
    stage_done(g, 1);
    stage_done(g, 2);
    stage_expect(g, "receipt receipt");
    for (uint32_t i = 0; i < 2; i++) {
        const struct sched_receipt *r = &stage_said(g, SCHED_RECEIPT, i)->receipt;
        assert_float_equal(r->backbone_byte_s, BACKBONE_BYTES * 3000e-6 / 2, 1e-9);
        assert_float_equal(r->own_byte_s, (IDLE_BYTES + WORK_BYTES + KV_STEP) * 3000e-6 / 2, 1e-9);
    }
    stage_free(g);
}

/* Who chose to be alone is, and who chose to share with everybody does. */
static void test_isolation(void **state)
{
    (void)state;
    const struct sched_config config = stage_config();
    struct stage *g = stage_new(&config);
    stage_deploy(g, 0, 0, 0, ROUTE_FUNCTION, 0);
    stage_deploy(g, 1, 0, 0, ROUTE_FUNCTION, 0);
    stage_deploy(g, 2, 0, 0, ROUTE_SHARED, 0);
    stage_deploy(g, 3, 0, 1, ROUTE_SHARED, 0);
    stage_deploy(g, 4, 0, 0, ROUTE_OWNER, 0);
    (void)stage_start(g, 1, 0);
    stage_request(g, 2, 1);
    stage_expect(g, "spawn");
    stage_request(g, 3, 2);
    stage_expect(g, "spawn");
    uint32_t shared = stage_said(g, SCHED_SPAWN, 0)->worker;
    stage_request(g, 4, 3);
    stage_expect(g, ""); /* another owner: the same worker, once it is ready */
    stage_request(g, 5, 4);
    stage_expect(g, "spawn");
    stage_ready(g, shared);
    stage_bound(g, shared, 2);
    stage_pass(g, config.batch_window_us);
    stage_expect(g, "bind submit bind revoke");
    assert_int_equal(stage_said(g, SCHED_BIND, 1)->worker, shared);
    assert_int_equal(stage_said(g, SCHED_BIND, 1)->function, 3);
    stage_free(g);
}

static void test_no_sharing(void **state)
{
    (void)state;
    struct sched_config config = stage_config();
    config.no_sharing = 1;
    struct stage *g = stage_new(&config);
    stage_deploy(g, 0, 0, 0, ROUTE_OWNER, 0);
    stage_deploy(g, 1, 0, 1, ROUTE_OWNER, 0);
    (void)stage_start(g, 1, 0);
    uint32_t first = stage_said(g, SCHED_SUBMIT, 0)->worker;
    stage_request(g, 2, 1);
    stage_expect(g, "load"); /* of its own */
    const struct sched_action load = *stage_said(g, SCHED_LOAD, 0);
    assert_int_equal(load.backbone, 0);
    stage_loaded(g, load.copy);
    stage_expect(g, "spawn");
    assert_int_equal(stage_said(g, SCHED_SPAWN, 0)->copy, load.copy);
    struct sched_counts counts;
    sched_counts(g->s, &counts);
    assert_int_equal(counts.memory_bytes, 2 * (BACKBONE_BYTES + IDLE_BYTES + KV_STEP) + WORK_BYTES);
    /* It is its domain's alone, and goes with it. */
    stage_exited(g, first);
    stage_expect(g, "receipt drop");
    stage_free(g);
}

/* --- admission --- */

static void owner_limit(struct stage *g, uint32_t owner, uint32_t limit)
{
    stage_apply(g, (struct sched_event){.type = SCHED_OWNER, .owner = owner, .tokens = limit});
    stage_expect(g, "");
}

/* Waiting or running, over all of an owner's functions; another's are not counted. */
static void test_owner_limit(void **state)
{
    (void)state;
    const struct sched_config config = stage_config();
    struct stage *g = stage_new(&config);
    stage_deploy(g, 0, 0, 0, ROUTE_OWNER, 0);
    stage_deploy(g, 1, 0, 0, ROUTE_FUNCTION, 0);
    stage_deploy(g, 2, 0, 1, ROUTE_OWNER, 0);
    owner_limit(g, 0, 2);
    uint32_t worker = stage_start(g, 1, 0);
    stage_request(g, 2, 1);
    stage_expect(g, "spawn");
    assert_int_equal(stage_refused(g, 3, 0), SCHED_OWNER_LIMIT);
    assert_int_equal(stage_refused(g, 4, 1), SCHED_OWNER_LIMIT);
    stage_request(g, 5, 2);
    stage_expect(g, "spawn");
    stage_finish(g, 1, worker);
    stage_expect(g, "");
    stage_request(g, 6, 0); /* one has ended: there is room for one */
    stage_expect(g, "submit grant");
    assert_int_equal(stage_refused(g, 7, 0), SCHED_OWNER_LIMIT);
    owner_limit(g, 0, 3);
    stage_request(g, 8, 0);
    stage_expect(g, "submit");
    owner_limit(g, 0, 0);
    assert_int_equal(stage_refused(g, 9, 0), SCHED_OWNER_LIMIT);
    stage_free(g);
}

static void test_function_queue_full(void **state)
{
    (void)state;
    struct sched_config config = stage_config();
    config.function_waiting_max = 2;
    struct stage *g = stage_new(&config);
    stage_deploy(g, 0, 0, 0, ROUTE_OWNER, 0);
    stage_deploy(g, 1, 0, 0, ROUTE_OWNER, 0);
    stage_request(g, 1, 0);
    stage_request(g, 2, 0);
    stage_expect(g, "load");
    uint32_t copy = stage_said(g, SCHED_LOAD, 0)->copy;
    assert_int_equal(stage_refused(g, 3, 0), SCHED_FUNCTION_QUEUE_FULL);
    stage_request(g, 4, 1); /* another one, of the same owner */
    stage_expect(g, "");
    stage_loaded(g, copy);
    stage_expect(g, "spawn");
    uint32_t worker = stage_said(g, SCHED_SPAWN, 0)->worker;
    stage_ready(g, worker);
    stage_bound(g, worker, 0);
    stage_expect(g, "bind submit submit bind grant");
    stage_request(g, 5, 0); /* what runs does not wait */
    stage_expect(g, "");
    stage_free(g);
}

static void test_server_full(void **state)
{
    (void)state;
    struct sched_config config = stage_config();
    config.requests_max = 2;
    struct stage *g = stage_new(&config);
    stage_deploy(g, 0, 0, 0, ROUTE_OWNER, 0);
    stage_deploy(g, 1, 0, 1, ROUTE_OWNER, 0);
    stage_request(g, 1, 0);
    stage_request(g, 2, 1);
    stage_expect(g, "load");
    assert_int_equal(stage_refused(g, 3, 0), SCHED_SERVER_FULL);
    stage_gone(g, 2);
    stage_request(g, 4, 1);
    stage_expect(g, "");
    stage_free(g);
}

/* Backbone, adapter, process and a step of KV memory must fit an empty device. */
static void test_too_large(void **state)
{
    (void)state;
    const struct sched_config config = stage_config();
    struct stage *g = stage_new(&config);
    uint64_t most = DEVICE_BYTES - (IDLE_BYTES + WORK_BYTES) - KV_STEP;
    stage_backbone(g, 1, most);
    stage_backbone(g, 2, most + 1);
    stage_deploy(g, 0, 1, 0, ROUTE_OWNER, 0);
    stage_deploy(g, 1, 2, 0, ROUTE_OWNER, 0);
    assert_int_equal(stage_refused(g, 1, 1), SCHED_TOO_LARGE);
    assert_int_equal(stage_said(g, SCHED_REFUSE, 0)->us, 0);
    stage_request(g, 2, 0);
    stage_expect(g, "load");
    stage_free(g);
}

/* Only who named an objective is refused for it, and told when to come again. An idle machine that
 * misses it anyway takes half as long again: so it serves one. */
static void test_too_late(void **state)
{
    (void)state;
    struct sched_config config = stage_config();
    config.slo_ttft_us = 800; /* of who names none: an order, never a refusal */
    struct stage *g = stage_new(&config);
    stage_deploy(g, 0, 0, 0, ROUTE_OWNER, 800);
    stage_deploy(g, 1, 0, 0, ROUTE_OWNER, 0);
    /* Load, start and a prompt of 20 in one step: 1000 + 100 + 500 + 400, of the 800 promised. */
    stage_request(g, 1, 0);
    stage_expect(g, "load");
    /* A second one behind it waits for 20 / 64 of a step and 400: 2556 of 3000, a third 3112. */
    stage_request(g, 2, 0);
    stage_expect(g, "");
    assert_int_equal(stage_refused(g, 3, 0), SCHED_TOO_LATE);
    uint64_t again_us = stage_said(g, SCHED_REFUSE, 0)->us;
    assert_true(again_us >= 112 && again_us <= 113);
    stage_request(g, 4, 1); /* no objective: the same wait, and no refusal */
    stage_expect(g, "");
    stage_free(g);
}

/* Admitted, and the load takes longer than thought: after twice what it may take it is told. */
static void test_given_up(void **state)
{
    (void)state;
    const struct sched_config config = stage_config();
    struct stage *g = stage_new(&config);
    stage_deploy(g, 0, 0, 0, ROUTE_OWNER, 30000);
    stage_request(g, 1, 0);
    stage_expect(g, "load");
    uint32_t copy = stage_said(g, SCHED_LOAD, 0)->copy;
    stage_pass(g, 59999);
    stage_expect(g, "");
    stage_pass(g, 1);
    stage_expect(g, "refuse");
    assert_int_equal(stage_said(g, SCHED_REFUSE, 0)->reason, SCHED_TOO_LATE);
    assert_true(stage_said(g, SCHED_REFUSE, 0)->us > 0);
    stage_loaded(g, copy);
    stage_expect(g, ""); /* nobody waits for it any more */
    stage_free(g);
}

/* The same for one that stands behind another, which named no objective. */
static void test_given_up_in_line(void **state)
{
    (void)state;
    const struct sched_config config = stage_config();
    struct stage *g = stage_new(&config);
    stage_deploy(g, 0, 0, 0, ROUTE_OWNER, 0);
    stage_deploy(g, 1, 0, 0, ROUTE_OWNER, 30000);
    stage_request(g, 1, 0);
    stage_expect(g, "load");
    stage_request(g, 2, 1);
    stage_expect(g, "");
    stage_pass(g, 60000);
    stage_expect(g, "refuse");
    assert_int_equal(stage_said(g, SCHED_REFUSE, 0)->request, 2);
    assert_int_equal(stage_said(g, SCHED_REFUSE, 0)->reason, SCHED_TOO_LATE);
    stage_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cold_start),
        cmocka_unit_test(test_receipt),
        cmocka_unit_test(test_owners_share_the_backbone),
        cmocka_unit_test(test_an_owner_shares_the_worker),
        cmocka_unit_test(test_isolation),
        cmocka_unit_test(test_no_sharing),
        cmocka_unit_test(test_owner_limit),
        cmocka_unit_test(test_function_queue_full),
        cmocka_unit_test(test_server_full),
        cmocka_unit_test(test_too_large),
        cmocka_unit_test(test_too_late),
        cmocka_unit_test(test_given_up),
        cmocka_unit_test(test_given_up_in_line),
    };
    return cmocka_run_group_tests_name("sched", tests, NULL, NULL);
}
