/*
 * Who has the rows and the blocks of a step: those that decode first, then prompts by their order,
 * as many rows of them as may be beside others. Nothing of it shows in what is given out.
 */
#include "unit/engine_bench.h"

/* --- the rows of a step --- */

#define DECODERS 3u

/* One step while `waiting` prompt tokens are to be computed. Everybody who decoded before has one
 * row and gets one token; prompts have `most` of the rest. Returns what waits then. */
static uint32_t step_beside(struct engine *e, struct fixture_stream *streams, uint32_t count,
                            uint32_t waiting, uint32_t most)
{
    uint32_t before[SEQUENCES], decoding = 0, rows_max = e->options.rows_max;
    for (uint32_t i = 0; i < count; i++) {
        before[i] = streams[i].done ? 0 : streams[i].count;
        decoding += before[i] > 0;
    }
    uint32_t room = rows_max - decoding;
    most = decoding == 0 || most == 0 || most > room ? room : most;
    struct engine_step_stats stats = fixture_step(e, streams, count, FIXTURE_OUTPUTS_MAX);
    assert_int_equal(stats.rows - stats.prompt_rows, decoding);
    assert_int_equal(stats.prompt_rows, waiting < most ? waiting : most);
    for (uint32_t i = 0; i < count; i++) {
        if (before[i] > 0)
            assert_int_equal(streams[i].count, before[i] + 1);
    }
    return waiting - stats.prompt_rows;
}

/* Two prompts come while three sequences decode. */
static void test_prompts_beside_decoding(void **state)
{
    static const uint32_t most[] = {1, 2, 7, 61, 62, UINT32_MAX, 0};
    static const uint32_t rows_max[] = {SEQUENCES, 64};
    (void)state;
    struct bench *b = bench_new(5, IMAGE_F32);
    for (uint32_t way = 0; way < 2 * sizeof(most) / sizeof(*most); way++) {
        struct engine *e = engine_of(b, 60, rows_max[way % 2], false);
        struct engine_request requests[DECODERS + 2];
        struct fixture_stream streams[DECODERS + 2];
        engine_prompt_rows(e, most[way / 2]);
        for (uint32_t i = 0; i < DECODERS; i++) {
            requests[i] = request(b, 20 * i + i, 2, 120);
            fixture_add(e, &requests[i], &streams[i]);
        }
        assert_int_equal(step_beside(e, streams, DECODERS, 6, 64), 0); /* alone: all at once */
        uint32_t waiting = 0;
        for (uint32_t i = DECODERS; i < DECODERS + 2; i++) {
            requests[i] = request(b, 20 * i + i, 40 + i, 30);
            fixture_add(e, &requests[i], &streams[i]);
            waiting += requests[i].token_count;
        }
        while (waiting > 0)
            waiting = step_beside(e, streams, DECODERS + 2, waiting, most[way / 2]);
        while (engine_has_work(e))
            fixture_step(e, streams, DECODERS + 2, FIXTURE_OUTPUTS_MAX);
        for (uint32_t i = 0; i < DECODERS + 2; i++)
            as_alone(b, &requests[i], &streams[i], "a prompt beside others");
        engine_close(e);
    }
    bench_free(b);
}

/* It can change from step to step, and only holds where somebody decodes. */
static void test_prompt_rows_change(void **state)
{
    static const uint32_t most[] = {5, 1, 0, 3, UINT32_MAX, 2};
    (void)state;
    struct bench *b = bench_new(0, IMAGE_BF16);
    struct engine *e = engine_of(b, 60, 40, false);
    struct engine_request requests[3] = {request(b, 1, 100, 9), request(b, 5, 3, 60),
                                         request(b, 9, 120, 9)};
    struct fixture_stream streams[3];
    uint32_t waiting = 100;
    fixture_add(e, &requests[0], &streams[0]);
    for (uint32_t i = 0; waiting > 0; i++) {
        engine_prompt_rows(e, 1 + i);
        waiting = step_beside(e, streams, 1, waiting, 1 + i);
        assert_int_equal(waiting, 100 > 40 * (i + 1) ? 100 - 40 * (i + 1) : 0);
    }
    fixture_add(e, &requests[1], &streams[1]);
    engine_prompt_rows(e, 0);
    step_beside(e, streams, 2, 3, 0);
    fixture_add(e, &requests[2], &streams[2]);
    waiting = 120;
    for (uint32_t i = 0; waiting > 0; i++) {
        engine_prompt_rows(e, most[i % 6]);
        waiting = step_beside(e, streams, 3, waiting, most[i % 6]);
    }
    while (engine_has_work(e))
        fixture_step(e, streams, 3, FIXTURE_OUTPUTS_MAX);
    for (uint32_t i = 0; i < 3; i++)
        as_alone(b, &requests[i], &streams[i], "by changing chunks");
    engine_close(e);
    bench_free(b);
}

/* While prompts are first those that decode wait, and nothing of it shows in what they give. */
static void test_prompts_first(void **state)
{
    (void)state;
    struct bench *b = bench_new(2, IMAGE_F32);
    struct engine *e = engine_of(b, 60, 64, false);
    struct engine_request requests[4] = {request(b, 1, 3, 20), request(b, 5, 2, 20),
                                         request(b, 9, 100, 9), request(b, 13, 70, 9)};
    struct fixture_stream streams[4];
    for (uint32_t i = 0; i < 2; i++)
        fixture_add(e, &requests[i], &streams[i]);
    fixture_step(e, streams, 2, FIXTURE_OUTPUTS_MAX);
    engine_prompts_first(e, true);
    step_beside(e, streams, 2, 0, 0); /* nobody to wait for */
    for (uint32_t i = 2; i < 4; i++)
        fixture_add(e, &requests[i], &streams[i]);
    for (uint32_t step = 0; step < 2; step++) { /* the third's 100 rows, and what is left of 64 */
        struct engine_step_stats stats = fixture_step(e, streams, 4, FIXTURE_OUTPUTS_MAX);
        assert_int_equal(stats.prompt_rows, stats.rows);
        assert_int_equal(streams[0].count, 2);
        assert_int_equal(streams[1].count, 2);
    }
    assert_int_equal(streams[2].count, 1);
    engine_prompts_first(e, false);
    fixture_step(e, streams, 4, FIXTURE_OUTPUTS_MAX);
    assert_int_equal(streams[0].count, 3);
    engine_prompts_first(e, true);
    while (engine_has_work(e))
        fixture_step(e, streams, 4, FIXTURE_OUTPUTS_MAX);
    for (uint32_t i = 0; i < 4; i++)
        as_alone(b, &requests[i], &streams[i], "prompts first");
    engine_close(e);
    bench_free(b);
}

/* Where no prompt finds room those that decode go on. */
static void test_prompts_first_without_room(void **state)
{
    (void)state;
    struct bench *b = bench_new(2, IMAGE_F32);
    struct engine *e = engine_of(b, 8, 64, false);
    struct engine_request requests[3] = {request(b, 1, 3, 20), request(b, 5, 2, 20),
                                         request(b, 9, 7 * ENGINE_KV_BLOCK_TOKENS, 2)};
    struct fixture_stream streams[3];
    for (uint32_t i = 0; i < 2; i++)
        fixture_add(e, &requests[i], &streams[i]);
    fixture_step(e, streams, 2, FIXTURE_OUTPUTS_MAX);
    assert_int_equal(held_blocks(e), 2); /* 6 are left: one too few */
    engine_prompts_first(e, true);
    fixture_add(e, &requests[2], &streams[2]);
    for (uint32_t given = 2; given <= 20; given++) {
        struct engine_step_stats stats = fixture_step(e, streams, 3, FIXTURE_OUTPUTS_MAX);
        assert_int_equal(stats.prompt_rows, 0);
        assert_int_equal(streams[0].count, given);
        assert_int_equal(streams[1].count, given);
    }
    while (engine_has_work(e))
        fixture_step(e, streams, 3, FIXTURE_OUTPUTS_MAX);
    for (uint32_t i = 0; i < 3; i++)
        as_alone(b, &requests[i], &streams[i], "prompts first without room");
    engine_close(e);
    bench_free(b);
}

/* Whose rows they were: of who decodes one, of a prompt in all as many as it is long, of nobody
 * else any; at each step, and also of a sequence that has just given out its last token. */
static void test_rows_of_each(void **state)
{
    (void)state;
    struct bench *b = bench_new(0, IMAGE_F32);
    struct engine *e = engine_of(b, 60, 24, false);
    uint32_t sequences[4], prompt_rows[4] = {0}, given[4] = {0}, steps = 0, ended = 0;
    const uint32_t lengths[4] = {3, 70, 11, 40}, answers[4] = {30, 5, 1, 9};
    struct error err = {0};
    while (ended < 4) {
        struct engine_output outputs[FIXTURE_OUTPUTS_MAX];
        struct engine_step_stats stats;
        uint32_t present = steps + 1 < 4 ? steps + 1 : 4, sum = 0; /* one more each step */
        if (steps < 4) {
            struct engine_request r = request(b, 9 * steps, lengths[steps], answers[steps]);
            assert_int_equal(engine_add(e, &r, &sequences[steps], &err), 0);
        }
        assert_int_equal(engine_step(e, outputs, FIXTURE_OUTPUTS_MAX, &stats, &err), 0);
        for (uint32_t i = 0; i < present; i++) {
            uint32_t rows = given[i] == answers[i] ? 0 : engine_rows_of(e, sequences[i]);
            sum += rows;
            if (given[i] > 0 && given[i] < answers[i])
                assert_int_equal(rows, 1);
            else
                prompt_rows[i] += rows;
        }
        assert_int_equal(sum, stats.rows);
        assert_int_equal(engine_rows_of(e, sequences[present - 1] + 1000), 0);
        for (uint32_t n = 0; n < stats.output_count; n++)
            for (uint32_t i = 0; i < present; i++) {
                if (given[i] == answers[i] || outputs[n].sequence != sequences[i])
                    continue;
                if (given[i]++ == 0)
                    assert_int_equal(prompt_rows[i], lengths[i]);
                if (given[i] < answers[i])
                    continue;
                ended++;
                engine_remove(e, sequences[i]);
            }
        steps++;
    }
    engine_close(e);
    bench_free(b);
}

/* --- who is first --- */

static uint32_t blocks_held_by(const struct engine *e, const struct fixture_stream *s)
{
    for (uint32_t i = 0; i < e->sequence_count; i++) {
        if (e->sequences[i]->id == s->sequence)
            return e->sequences[i]->kv.count;
    }
    return 0;
}

/* Rows go by order, then by arrival, and who comes later with a lower order goes before. */
static void test_rows_go_by_order(void **state)
{
    static const uint64_t orders[] = {(UINT64_C(1) << 32) + 1, 3, UINT64_MAX, 3, 0};
    static const uint32_t expect[] = {1, 4, 3, 0, 2}; /* the last comes after the first step */
    (void)state;
    struct bench *b = bench_new(3, IMAGE_F32);
    struct engine *e = engine_of(b, 60, 20, false);
    struct engine_request requests[5];
    struct fixture_stream streams[5];
    uint32_t begun = 0, first_count = 0;
    for (uint32_t steps = 0; engine_has_work(e) || steps == 0; steps++) {
        for (; begun < (steps > 0 ? 5 : 4); begun++) {
            requests[begun] = request(b, 30 * begun + begun, 20, 12);
            requests[begun].order = orders[begun];
            fixture_add(e, &requests[begun], &streams[begun]);
        }
        fixture_step(e, streams, begun, FIXTURE_OUTPUTS_MAX);
        uint32_t answering = 0;
        for (uint32_t i = 0; i < begun; i++)
            answering += streams[i].count > 0;
        for (; first_count < answering; first_count++)
            assert_true(streams[expect[first_count]].count > 0);
        assert_true(first_count <= steps + 1); /* 20 rows are no two prompts */
    }
    assert_int_equal(first_count, 5);
    for (uint32_t i = 0; i < 5; i++)
        as_alone(b, &requests[i], &streams[i], "by order");
    engine_close(e);
    bench_free(b);
}

/* Two blocks each, and memory for two of three. */
static void test_blocks_go_by_order(void **state)
{
    (void)state;
    struct bench *b = bench_new(1, IMAGE_F32);
    struct engine *e = engine_of(b, 20, 90, false);
    static const uint64_t orders[] = {5, 1, 3};
    struct engine_request requests[3];
    struct fixture_stream streams[3];
    assert_int_equal(limit_blocks(e, 5, false), 5);
    for (uint32_t i = 0; i < 3; i++) {
        requests[i] = request(b, 40 * i + i, 30, 3);
        requests[i].order = orders[i];
        fixture_add(e, &requests[i], &streams[i]);
    }
    while (!streams[1].done) {
        struct engine_step_stats stats = fixture_step(e, streams, 3, FIXTURE_OUTPUTS_MAX);
        assert_int_equal(stats.sequences, 2);
        assert_int_equal(streams[0].count, 0);
        assert_int_equal(streams[1].count, streams[2].count);
        assert_int_equal(blocks_held_by(e, &streams[0]), 0);
    }
    while (engine_has_work(e))
        fixture_step(e, streams, 3, FIXTURE_OUTPUTS_MAX);
    for (uint32_t i = 0; i < 3; i++)
        as_alone(b, &requests[i], &streams[i], "by order of blocks");
    engine_close(e);
    bench_free(b);
}

/* Where the next in order lacks blocks nobody takes those that are free: it would never have all of
 * its own. */
static void test_nobody_overtakes(void **state)
{
    (void)state;
    struct bench *b = bench_new(6, IMAGE_F32);
    struct engine *e = engine_of(b, 20, 90, false);
    struct engine_request requests[3] = {request(b, 1, 18, 10), request(b, 30, 40, 5),
                                         request(b, 80, 10, 5)};
    struct fixture_stream streams[3];
    assert_int_equal(limit_blocks(e, 4, true), 4);
    for (uint32_t i = 0; i < 3; i++) {
        requests[i].order = i;
        fixture_add(e, &requests[i], &streams[i]);
    }
    while (!streams[0].done) {
        fixture_step(e, streams, 3, FIXTURE_OUTPUTS_MAX);
        assert_int_equal(blocks_held_by(e, &streams[1]), 0);
        assert_int_equal(blocks_held_by(e, &streams[2]), 0);
    }
    fixture_step(e, streams, 3, FIXTURE_OUTPUTS_MAX); /* four blocks, three and one */
    assert_int_equal(streams[1].count, 1);
    assert_int_equal(streams[2].count, 1);
    while (engine_has_work(e))
        fixture_step(e, streams, 3, FIXTURE_OUTPUTS_MAX);
    for (uint32_t i = 0; i < 3; i++)
        as_alone(b, &requests[i], &streams[i], "one after the other");
    engine_close(e);
    bench_free(b);
}

/* Three decode until each needs one block more, and there is none: the last by order gives all of
 * its blocks away and starts over, whoever came first. The others do not notice. */
static void test_the_last_by_order_starts_over(void **state)
{
    static const struct {
        uint64_t orders[3];
        uint32_t last;
    } cases[] = {{{9, 2, 4}, 0}, {{2, 9, 4}, 1}, {{2, 4, 9}, 2},
                 {{4, 4, 4}, 2}, {{4, 4, 1}, 1}, {{UINT64_MAX, 0, 7}, 0}};
    (void)state;
    struct bench *b = bench_new(2, IMAGE_F32);
    for (uint32_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct engine *e = engine_of(b, 20, 90, false);
        struct engine_request requests[3];
        struct fixture_stream streams[3];
        uint32_t last = cases[i].last, first = (last + 1) % 3, second = (last + 2) % 3;
        assert_int_equal(limit_blocks(e, 6, true), 6);
        for (uint32_t n = 0; n < 3; n++) {
            requests[n] = request(b, 40 * n + n, 30, 18);
            requests[n].order = cases[i].orders[n];
            fixture_add(e, &requests[n], &streams[n]);
        }
        for (uint32_t steps = 1; !streams[first].done; steps++) {
            fixture_step(e, streams, 3, FIXTURE_OUTPUTS_MAX);
            assert_int_equal(streams[first].count, steps);
            assert_int_equal(streams[second].count, steps);
            assert_int_equal(streams[last].count, steps < 3 ? steps : 3); /* 33: a third block */
            assert_int_equal(blocks_held_by(e, &streams[last]), steps <= 3 ? 2 : 0);
        }
        while (engine_has_work(e))
            fixture_step(e, streams, 3, FIXTURE_OUTPUTS_MAX);
        for (uint32_t n = 0; n < 3; n++)
            as_alone(b, &requests[n], &streams[n], "started over");
        engine_close(e);
    }
    bench_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prompts_beside_decoding),
        cmocka_unit_test(test_prompt_rows_change),
        cmocka_unit_test(test_prompts_first),
        cmocka_unit_test(test_prompts_first_without_room),
        cmocka_unit_test(test_rows_of_each),
        cmocka_unit_test(test_rows_go_by_order),
        cmocka_unit_test(test_blocks_go_by_order),
        cmocka_unit_test(test_nobody_overtakes),
        cmocka_unit_test(test_the_last_by_order_starts_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
