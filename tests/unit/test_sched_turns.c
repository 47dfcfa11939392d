/*
 * Scenarios of the scheduler core: batches and turns, memory that is too small; and that the
 * core is a function of its events.
 */
#include "unit/sched_stage.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "policy/batch.h"
#include "unit/seeded.h"

/* A worker for a further function, bound, while another has the turn. */
static uint32_t join(struct stage *g, uint64_t request, uint32_t function)
{
    stage_request(g, request, function);
    stage_expect(g, "spawn");
    uint32_t worker = stage_said(g, SCHED_SPAWN, 0)->worker;
    stage_ready(g, worker);
    stage_expect(g, "bind");
    stage_bound(g, worker, function);
    return worker;
}

/* --- batches --- */

static struct stage *batching(enum sched_batching mode, uint32_t fixed)
{
    struct sched_config config = stage_config();
    config.batching = mode;
    config.batch_fixed = fixed;
    struct stage *g = stage_new(&config);
    stage_deploy(g, 0, 0, 0, ROUTE_OWNER, 0);
    return g;
}

/* The first request, to where its worker could take it. */
static uint32_t to_bound(struct stage *g)
{
    stage_request(g, 1, 0);
    stage_expect(g, "load");
    stage_loaded(g, stage_said(g, SCHED_LOAD, 0)->copy);
    stage_expect(g, "spawn");
    uint32_t worker = stage_said(g, SCHED_SPAWN, 0)->worker;
    stage_ready(g, worker);
    stage_expect(g, "bind");
    stage_bound(g, worker, 0);
    return worker;
}

/* An idle device is not kept waiting, and what runs is joined. While another domain has the device
 * they wait for more, for as long as the window, or for as many as may be: where more are to be
 * expected; one that is alone is not kept waiting for company. */
static void test_adaptive(void **state)
{
    (void)state;
    struct stage *g = batching(SCHED_BATCH_ADAPTIVE, 0);
    uint32_t first = to_bound(g);
    stage_expect(g, "submit grant");
    stage_request(g, 2, 0);
    stage_expect(g, "submit");
    stage_deploy(g, 1, 0, 1, ROUTE_OWNER, 0);
    for (uint64_t request = 100; request < 104; request++) { /* they seldom come alone */
        stage_request(g, request, 1);
        stage_gone(g, request);
    }
    stage_expect(g, "spawn");
    uint32_t other = stage_said(g, SCHED_SPAWN, 0)->worker;
    stage_ready(g, other);
    stage_request(g, 11, 1);
    stage_expect(g, "bind");
    stage_bound(g, other, 1);
    stage_expect(g, "");
    stage_request(g, 12, 1);
    stage_pass(g, 4999);
    stage_expect(g, "");
    stage_pass(g, 1);
    stage_expect(g, "submit submit revoke"); /* the other's turn has been long enough */
    stage_done(g, 11);
    stage_done(g, 12);
    stage_expect(g, "receipt receipt");
    stage_pass(g, 1);
    for (uint64_t request = 13; request < 16; request++)
        stage_request(g, request, 1);
    stage_expect(g, "");
    stage_request(g, 16, 1); /* four are as many as a worker may run: nobody else is waited for */
    stage_expect(g, "submit submit resize submit submit");
    for (uint64_t request = 13; request < 17; request++)
        stage_done(g, request);
    stage_expect(g, "receipt receipt receipt receipt");
    stage_pass(g, 1);
    stage_request(g, 17, 1);
    stage_expect(g, "");
    stage_turn_ended(g, first); /* the device is free for a moment */
    stage_expect(g, "submit grant");
    assert_int_equal(stage_said(g, SCHED_SUBMIT, 0)->worker, other);
    stage_free(g);
}

/* The paper's: filled or expired, and until the last of a batch has ended nothing is admitted. */
static void test_static(void **state)
{
    (void)state;
    struct stage *g = batching(SCHED_BATCH_STATIC, 0);
    (void)to_bound(g);
    stage_expect(g, ""); /* it may fill for a while, though the device is idle */
    stage_request(g, 2, 0);
    stage_pass(g, 4999);
    stage_expect(g, "");
    stage_pass(g, 1);
    stage_expect(g, "submit submit grant");
    stage_pass(g, 1);
    stage_request(g, 3, 0);
    stage_request(g, 4, 0);
    stage_request(g, 5, 0);
    stage_request(g, 6, 0);
    stage_pass(g, 100000);
    stage_expect(g, ""); /* filled and expired, and yet */
    stage_done(g, 2);
    stage_pass(g, 100000);
    stage_expect(g, "receipt");
    stage_done(g, 1);
    stage_expect(g, "receipt submit submit resize submit submit");
    stage_pass(g, 1);
    stage_request(g, 7, 0);
    for (uint64_t request = 3; request < 7; request++)
        stage_done(g, request);
    stage_expect(g, "receipt receipt receipt receipt");
    stage_pass(g, 5000);
    stage_expect(g, "submit"); /* a batch of one, expired */
    stage_free(g);
}

static void test_fixed(void **state)
{
    (void)state;
    struct stage *g = batching(SCHED_BATCH_FIXED, 2);
    (void)to_bound(g);
    stage_expect(g, "");
    stage_request(g, 2, 0);
    stage_expect(g, "submit submit grant");
    stage_pass(g, 1);
    stage_request(g, 3, 0);
    stage_done(g, 1);
    stage_expect(g, "receipt"); /* there is room for one, and it waits for another */
    stage_pass(g, 1);
    stage_request(g, 4, 0);
    stage_expect(g, "submit"); /* they are two: one has room */
    stage_done(g, 2);
    stage_pass(g, 5000);
    stage_expect(g, "receipt submit"); /* never more than two at a time */
    stage_done(g, 3);
    stage_done(g, 4);
    stage_expect(g, "receipt receipt");
    stage_request(g, 5, 0);
    stage_pass(g, 4999);
    stage_expect(g, "");
    stage_pass(g, 1);
    stage_expect(g, "submit"); /* expired, alone */
    stage_free(g);
}

static void test_one_at_a_time(void **state)
{
    (void)state;
    struct stage *g = batching(SCHED_BATCH_OFF, 0);
    (void)to_bound(g);
    stage_expect(g, "submit grant");
    stage_request(g, 2, 0);
    stage_request(g, 3, 0);
    stage_pass(g, 100000);
    stage_expect(g, "");
    stage_done(g, 1);
    stage_expect(g, "receipt submit");
    assert_int_equal(stage_said(g, SCHED_SUBMIT, 0)->request, 2); /* first in, first out */
    stage_free(g);
}

/* --- turns --- */

/* Alone a turn never ends. Two take turns: who waits for a first token goes first, as long as who
 * decodes can wait, and who has the device gives it back in time. */
static void test_turns(void **state)
{
    (void)state;
    struct stage *g = batching(SCHED_BATCH_ADAPTIVE, 0);
    uint32_t first = to_bound(g);
    stage_expect(g, "submit grant");
    uint64_t turn = stage_said(g, SCHED_GRANT, 0)->turn;
    stage_tokens(g, 1, 1);
    stage_pass(g, FOREVER_US);
    stage_expect(g, "");
    stage_deploy(g, 1, 0, 1, ROUTE_OWNER, 0);
    uint32_t other = join(g, 11, 1);
    stage_pass(g, 5000);
    stage_expect(g, "submit revoke");
    assert_int_equal(stage_said(g, SCHED_REVOKE, 0)->worker, first);
    assert_int_equal(stage_said(g, SCHED_REVOKE, 0)->turn, turn);
    stage_pass(g, 100);
    stage_expect(g, ""); /* once is enough */
    stage_turn_ended(g, first);
    stage_expect(g, "grant");
    assert_int_equal(stage_said(g, SCHED_GRANT, 0)->worker, other);
    assert_true(stage_said(g, SCHED_GRANT, 0)->turn > turn);
    stage_pass(g, 1999);
    stage_expect(g, "");
    stage_pass(g, 1);
    stage_expect(g, "revoke");
    stage_tokens(g, 11, 1);
    stage_turn_ended(g, other);
    stage_expect(g, "grant"); /* both decode: whose next token is due first */
    assert_int_equal(stage_said(g, SCHED_GRANT, 0)->worker, first);
    stage_done(g, 1); /* nothing is left for the turn to do */
    stage_turn_ended(g, first);
    stage_expect(g, "receipt grant");
    assert_int_equal(stage_said(g, SCHED_GRANT, 0)->worker, other);
    stage_free(g);
}

/* One decodes and can be put off for hours; the other has a new prompt each time. Neither waits for
 * more turns of the other than policy/batch.h has it, and both get them. */
static void test_both_get_turns(void **state)
{
    (void)state;
    struct sched_config config = stage_config();
    config.slo_tpot_us = FOREVER_US;
    config.slo_ttft_us = FOREVER_US;
    struct stage *g = stage_new(&config);
    stage_deploy(g, 0, 0, 0, ROUTE_OWNER, 0);
    stage_deploy(g, 1, 0, 1, ROUTE_OWNER, 0);
    uint32_t patient = stage_start(g, 1, 0), has_turn = patient, in_a_row = 0, turns[2] = {0};
    stage_tokens(g, 1, 1);
    uint32_t other = join(g, 2, 1);
    stage_pass(g, config.batch_window_us);
    stage_expect(g, "submit revoke");
    for (uint64_t request = 3; request < 200; request++) {
        stage_turn_ended(g, has_turn);
        uint32_t next = stage_said(g, SCHED_GRANT, 0)->worker;
        assert_true(next == patient || next == other);
        turns[next == patient]++;
        in_a_row = next == has_turn ? in_a_row + 1 : 1;
        assert_true(in_a_row <= 2 * BATCH_PASSED_OVER_MAX + 1);
        if (next == other) { /* it answers, and another prompt comes */
            stage_done(g, request - 1);
            stage_request(g, request, 1);
        } else {
            request--; /* it is the same one's turn still */
            stage_tokens(g, 1, 1);
        }
        has_turn = next;
        g->expected = g->said_count;
        if (turns[1] > 20)
            break;
    }
    print_message("turns: %u of who has prompts, %u of who decodes\n", turns[0], turns[1]);
    assert_true(turns[0] > turns[1] && turns[1] > 0);
    stage_free(g);
}

/* A prompt that joins others takes no more rows of a step than their pace leaves. */
static void test_rows_of_prompts(void **state)
{
    (void)state;
    const struct sched_config config = stage_config();
    struct stage *g = stage_new(&config);
    stage_apply(
        g, (struct sched_event){.type = SCHED_DEPLOYED, .isolation = ROUTE_OWNER, .more_us = 1500});
    uint32_t worker = stage_start(g, 1, 0);
    assert_int_equal(stage_said(g, SCHED_GRANT, 0)->rows, 64);
    stage_tokens(g, 1, 1);
    stage_request(g, 2, 0);
    stage_expect(g, "submit");
    stage_turn_ended(g, worker);
    stage_expect(g, "grant");
    assert_int_equal(stage_said(g, SCHED_GRANT, 0)->rows, 47); /* (1500 - 500 - 50) / 20 */
    stage_free(g);
}

/* --- memory --- */

/* Two backbones that do not fit beside each other, and a function of each. */
static struct stage *crowded(const struct sched_config *config)
{
    struct stage *g = stage_new(config);
    stage_backbone(g, 1, 3000);
    stage_backbone(g, 2, 2500);
    stage_deploy(g, 1, 1, 0, ROUTE_OWNER, 0);
    stage_deploy(g, 2, 2, 1, ROUTE_OWNER, 0);
    return g;
}

/* Worker `first` and its backbone `copy` go, in this order, and only then the other one comes. */
static void make_room(struct stage *g, uint32_t first, uint32_t copy)
{
    stage_exited(g, first);
    stage_expect(g, "drop");
    assert_int_equal(stage_said(g, SCHED_DROP, 0)->copy, copy);
    stage_dropped(g, copy);
    stage_expect(g, "load");
}

/* What runs is not touched, however long the other one waits; what is idle goes at once. */
static void test_room_is_made(void **state)
{
    (void)state;
    const struct sched_config config = stage_config();
    struct stage *g = crowded(&config);
    stage_request(g, 1, 1);
    stage_expect(g, "load");
    uint32_t copy = stage_said(g, SCHED_LOAD, 0)->copy;
    stage_gone(g, 1);
    stage_loaded(g, copy);
    stage_request(g, 2, 1);
    stage_expect(g, "spawn");
    uint32_t first = stage_said(g, SCHED_SPAWN, 0)->worker;
    stage_ready(g, first);
    stage_bound(g, first, 1);
    stage_expect(g, "bind submit grant");
    stage_request(g, 3, 2);
    stage_pass(g, FOREVER_US);
    stage_expect(g, "");
    stage_done(g, 2);
    stage_expect(g, "receipt kill");
    assert_int_equal(stage_said(g, SCHED_KILL, 0)->worker, first);
    make_room(g, first, copy);
    stage_free(g);
}

/* Without offloading it waits until the time of what is idle is up. */
static void test_no_offload(void **state)
{
    (void)state;
    struct sched_config config = stage_config();
    config.no_offload = 1;
    config.keep_alive_us = 50000;
    config.plan_period_us = 7000;
    struct stage *g = crowded(&config);
    uint32_t first = stage_start(g, 1, 1);
    stage_finish(g, 1, first);
    stage_request(g, 2, 2);
    stage_pass(g, 49999);
    stage_expect(g, "");
    stage_pass(g, 1);
    stage_expect(g, "kill");
    stage_exited(g, first);
    stage_expect(g, "");
    stage_pass(g, 50000 + 2 * config.plan_period_us);
    stage_expect(g, "drop");
    stage_dropped(g, stage_said(g, SCHED_DROP, 0)->copy);
    stage_expect(g, "load");
    stage_free(g);
}

/* What passed through the host's memory on its way stays there, and the next load is from it. */
static void test_host_memory(void **state)
{
    (void)state;
    const struct sched_config config = stage_config();
    struct stage *g = crowded(&config);
    stage_apply(g, (struct sched_event){.type = SCHED_NODE, .bytes = 10000});
    uint32_t place = sched_host_place(&config, 0), copy;
    stage_request(g, 1, 1);
    stage_expect(g, "load");
    copy = stage_said(g, SCHED_LOAD, 0)->copy;
    assert_true(stage_said(g, SCHED_LOAD, 0)->host_copy != SCHED_NONE);
    assert_true(stage_said(g, SCHED_LOAD, 0)->from == SCHED_NONE);
    stage_gone(g, 1);
    stage_loaded(g, copy);
    stage_request(g, 2, 2); /* idle as it is, the first one goes for this */
    stage_expect(g, "drop");
    stage_dropped(g, copy);
    stage_expect(g, "load");
    copy = stage_said(g, SCHED_LOAD, 0)->copy;
    stage_gone(g, 2);
    stage_loaded(g, copy);
    stage_request(g, 3, 1);
    stage_expect(g, "drop");
    stage_dropped(g, copy);
    stage_expect(g, "load");
    assert_int_equal(stage_said(g, SCHED_LOAD, 0)->from, place);
    assert_true(stage_said(g, SCHED_LOAD, 0)->host_copy == SCHED_NONE);
    stage_free(g);
}

/* KV memory grows with what is found to be needed, by whole steps, and never beyond the most. */
static void test_kv_memory(void **state)
{
    (void)state;
    const struct sched_config config = stage_config();
    struct stage *g = stage_new(&config);
    stage_deploy(g, 0, 0, 0, ROUTE_OWNER, 0);
    uint32_t worker = stage_start(g, 1, 0);
    stage_apply(g, (struct sched_event){.type = SCHED_ADMITTED, .request = 1, .tokens = 100});
    stage_expect(g, "resize"); /* 100 and some to come */
    assert_int_equal(stage_said(g, SCHED_RESIZE, 0)->worker, worker);
    assert_int_equal(stage_said(g, SCHED_RESIZE, 0)->bytes, 3 * KV_STEP);
    stage_tokens(g, 1, 90);
    stage_expect(g, "resize");
    assert_int_equal(stage_said(g, SCHED_RESIZE, 0)->bytes, 4 * KV_STEP);
    /* A turn that could not go on: a step more, before it gets the next one. */
    stage_apply(g, (struct sched_event){.type = SCHED_TURN_ENDED,
                                        .worker = worker,
                                        .us = 550,
                                        .steps = 1,
                                        .more_tokens = 1,
                                        .stalled = 1});
    stage_expect(g, "resize grant");
    assert_int_equal(stage_said(g, SCHED_RESIZE, 0)->bytes, 5 * KV_STEP);
    assert_int_equal(stage_said(g, SCHED_RESIZE, 0)->is_most, 0);
    stage_tokens(g, 1, 3000);
    stage_expect(g, "resize");
    assert_int_equal(stage_said(g, SCHED_RESIZE, 0)->bytes, config.kv_worker_bytes_max);
    assert_int_equal(stage_said(g, SCHED_RESIZE, 0)->is_most, 1);
    stage_free(g);
}

/* What cannot go on without more memory wants no turn until there is some: here when the other one,
 * which has all that is left, ends. */
static void test_stalled(void **state)
{
    (void)state;
    const struct sched_config config = stage_config();
    struct stage *g = stage_new(&config);
    stage_backbone(g, 1, DEVICE_BYTES - 2 * (IDLE_BYTES + WORK_BYTES + KV_STEP));
    stage_deploy(g, 0, 1, 0, ROUTE_OWNER, 0);
    stage_deploy(g, 1, 1, 1, ROUTE_OWNER, 0);
    uint32_t stalled = stage_start(g, 1, 0);
    uint32_t other = join(g, 2, 1);
    stage_pass(g, config.batch_window_us);
    stage_expect(g, "submit revoke");
    stage_apply(g, (struct sched_event){.type = SCHED_TURN_ENDED,
                                        .worker = stalled,
                                        .us = 550,
                                        .steps = 1,
                                        .more_tokens = 1,
                                        .stalled = 1});
    stage_expect(g, "grant");
    assert_int_equal(stage_said(g, SCHED_GRANT, 0)->worker, other);
    for (int i = 0; i < 20; i++) { /* whatever the other's turns */
        stage_turn_ended(g, other);
        stage_expect(g, "grant");
        assert_int_equal(stage_said(g, SCHED_GRANT, 0)->worker, other);
    }
    stage_done(g, 2);
    stage_turn_ended(g, other);
    stage_expect(g, "receipt kill");
    assert_int_equal(stage_said(g, SCHED_KILL, 0)->worker, other);
    stage_exited(g, other);
    stage_expect(g, "resize grant");
    assert_int_equal(stage_said(g, SCHED_GRANT, 0)->worker, stalled);
    stage_free(g);
}

/* --- the core is a function of its events --- */

struct wild {
    struct seeded *c;
    struct stage *g;
    struct sched_event pending[STAGE_SAID_MAX];
    uint32_t count;
    bool used[8], removing[8];
    uint64_t requests;
};

static void answer_later(struct wild *w, struct sched_event e)
{
    if (w->count < STAGE_SAID_MAX)
        w->pending[w->count++] = e;
}

/* What was asked for happens some time, or does not. */
static void hear(struct wild *w)
{
    for (uint32_t i = 0; i < w->g->said_count; i++) {
        const struct sched_action *a = &w->g->said[i];
        struct sched_event e = {.worker = a->worker,
                                .function = a->function,
                                .copy = a->copy,
                                .request = a->request,
                                .bytes = a->bytes,
                                .us = seeded_pick(w->c, 5000)};
        static const uint32_t answers[SCHED_ACTION_COUNT] = {
            [SCHED_LOAD] = SCHED_COPY_LOADED,      [SCHED_DROP] = SCHED_COPY_DROPPED,
            [SCHED_SPAWN] = SCHED_WORKER_READY,    [SCHED_BIND] = SCHED_WORKER_BOUND,
            [SCHED_RESIZE] = SCHED_WORKER_RESIZED, [SCHED_SUBMIT] = SCHED_TOKENS,
            [SCHED_CANCEL] = SCHED_DONE,           [SCHED_GRANT] = SCHED_TURN_ENDED,
            [SCHED_KILL] = SCHED_WORKER_EXITED};
        e.type = answers[a->type];
        e.steps = e.more_tokens = e.type == SCHED_DONE ? 0 : 1;
        e.tokens = 1 + seeded_pick(w->c, 100);
        if (e.type > 0)
            answer_later(w, e);
        if (e.type == SCHED_TOKENS) {
            e.type = SCHED_DONE;
            answer_later(w, e);
        }
        if (a->type == SCHED_FORGET)
            w->used[a->function] = w->removing[a->function] = false;
    }
    w->g->said_count = w->g->expected = 0;
}

/* A new function, a request, a removal, or news of a worker or a copy, true or not. */
static void something_else(struct wild *w)
{
    uint32_t function = seeded_pick(w->c, 8), dice = seeded_pick(w->c, 20);
    struct sched_event e = {.function = function,
                            .worker = seeded_pick(w->c, 6),
                            .copy = seeded_pick(w->c, 16),
                            .request = 1 + seeded_pick(w->c, (uint32_t)w->requests + 1),
                            .backbone = seeded_pick(w->c, 3),
                            .owner = seeded_pick(w->c, 4),
                            .isolation = 1 + seeded_pick(w->c, 3),
                            .tokens = seeded_pick(w->c, 100),
                            .more_tokens = seeded_pick(w->c, 100)};
    if (!w->used[function]) {
        e.type = SCHED_DEPLOYED;
        e.bytes = seeded_one_in(w->c, 2) * ADAPTER_BYTES;
        e.us = seeded_one_in(w->c, 3) * UINT64_C(20000);
        w->used[function] = true;
    } else if (dice < 12) {
        e.type = SCHED_REQUEST;
        e.request = ++w->requests;
    } else if (dice < 13 && !w->removing[function]) {
        e.type = SCHED_REMOVED;
        w->removing[function] = true;
    } else if (dice < 15) {
        e.type = SCHED_CLIENT_GONE;
    } else if (dice < 16) {
        e.type = SCHED_WORKER_EXITED;
    } else {
        static const uint32_t news[] = {SCHED_COPY_FAILED, SCHED_BIND_FAILED, SCHED_ADMITTED,
                                        SCHED_TURN_ENDED};
        e.type = news[seeded_pick(w->c, 4)];
        e.stalled = seeded_one_in(w->c, 2);
        e.steps = 1;
    }
    stage_apply(w->g, e);
}

static void run_wild(struct seeded *c)
{
    struct sched_config config = stage_config();
    config.batching = seeded_pick(c, 4);
    config.no_sharing = seeded_one_in(c, 4);
    config.no_preload = seeded_one_in(c, 3);
    config.price_bytes = seeded_one_in(c, 2) * 1e6;
    struct wild w = {.c = c, .g = stage_new(&config)};
    for (int step = 0; step < 400; step++) {
        if (w.count > 0 && seeded_one_in(c, 2)) {
            uint32_t i = seeded_pick(c, w.count);
            struct sched_event e = w.pending[i];
            w.pending[i] = w.pending[--w.count];
            stage_apply(w.g, e);
        } else if (seeded_one_in(c, 2)) {
            something_else(&w);
        } else {
            stage_pass(w.g, seeded_pick(c, 4000));
        }
        hear(&w);
    }
    stage_free(w.g);
}

/* Whatever happens: the same actions, byte by byte, from two cores whose memory was different
 * rubbish before; and the invariants hold, and the parts of receipts stay within their whole. Each
 * seed in a process of its own, which an assert of the core ends. */
static void test_the_same_events_the_same_actions(void **state)
{
    (void)state;
    for (struct seeded c = seeded_cases(200); seeded_next(&c);) {
        fflush(NULL);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            signal(SIGABRT, SIG_DFL);
            setenv("CMOCKA_TEST_ABORT", "1", 1);
            run_wild(&c);
            _exit(0);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_seeded(&c, WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_adaptive),
        cmocka_unit_test(test_static),
        cmocka_unit_test(test_fixed),
        cmocka_unit_test(test_one_at_a_time),
        cmocka_unit_test(test_turns),
        cmocka_unit_test(test_both_get_turns),
        cmocka_unit_test(test_rows_of_prompts),
        cmocka_unit_test(test_room_is_made),
        cmocka_unit_test(test_no_offload),
        cmocka_unit_test(test_host_memory),
        cmocka_unit_test(test_kv_memory),
        cmocka_unit_test(test_stalled),
        cmocka_unit_test(test_the_same_events_the_same_actions),
    };
    return cmocka_run_group_tests_name("sched_turns", tests, NULL, NULL);
}
