/*
 * Memory for the KV cache that comes and goes while sequences run: what the limit is shows in who
 * is computed when, and in nothing that is given out. All streams are compared bitwise with those
 * of the sequence alone, and what has memory is counted in the pages of the pool.
 */
#include "unit/engine_bench.h"

#include <signal.h>
#include <unistd.h>

/* --- a limit, less and more of it --- */

static void test_whole_blocks_and_one_at_least(void **state)
{
    (void)state;
    struct bench *b = bench_new(0, IMAGE_F32);
    struct engine *e = engine_of(b, 12, 64, false);
    uint64_t block = e->kv.block_bytes;
    assert_int_equal(engine_kv_limit(e, 3 * block, false), 3 * block);
    assert_int_equal(engine_kv_limit(e, 4 * block - 1, false), 3 * block);
    assert_int_equal(engine_kv_limit(e, 0, false), block);
    assert_int_equal(engine_kv_limit(e, block - 1, true), block);
    assert_int_equal(engine_kv_limit(e, 12 * block, true), 12 * block);
    assert_int_equal(engine_kv_limit(e, 13 * block, false), 12 * block);
    assert_int_equal(engine_kv_limit(e, UINT64_MAX, false), 12 * block);
    /* What the options give is what the context is, whatever the limit is now. */
    assert_int_equal(engine_kv_limit(e, block, false), block);
    assert_int_equal(engine_context_max(e), 12 * BLOCK);
    engine_close(e);
    bench_free(b);
}

/* Three sequences hold nine blocks when there are to be two: nobody loses anything, and the two are
 * there once the sequences are gone. */
static void test_what_is_held_stays(void **state)
{
    (void)state;
    for (uint32_t family = 0; family < FIXTURE_FAMILIES; family++) {
        struct bench *b = bench_new(family, IMAGE_F32);
        struct engine *e = engine_of(b, 20, 200, family % 2);
        struct engine_request requests[3];
        struct fixture_stream streams[3];
        for (uint32_t i = 0; i < 3; i++) {
            requests[i] = request(b, 50 * i + i, 40, 30);
            fixture_add(e, &requests[i], &streams[i]);
        }
        struct engine_step_stats stats = fixture_step(e, streams, 3, FIXTURE_OUTPUTS_MAX);
        assert_int_equal(stats.rows, 120);
        assert_int_equal(held_blocks(e), 9);
        assert_int_equal(limit_blocks(e, 2, false), 9);
        assert_int_equal(held_blocks(e), 9);
        while (engine_has_work(e)) {
            stats = fixture_step(e, streams, 3, FIXTURE_OUTPUTS_MAX);
            assert_true(stats.rows > 0);
            assert_true(held_blocks(e) <= 9);
            assert_true(resident_blocks(e) <= 9);
        }
        for (uint32_t i = 0; i < 3; i++)
            as_alone(b, &requests[i], &streams[i], "less memory than is held");
        assert_int_equal(held_blocks(e), 0);
        assert_true(resident_blocks(e) > 2);
        assert_int_equal(limit_blocks(e, 2, false), 2);
        assert_true(resident_blocks(e) <= 2);
        engine_close(e);
        bench_free(b);
    }
}

/* Of known prefixes, what is idle longest goes: their ends. What stays is found later. */
static void test_known_prefixes_go_too(void **state)
{
    (void)state;
    struct bench *b = bench_new(2, IMAGE_F32);
    struct engine *e = engine_of(b, 20, 200, true);
    struct engine_request r = request(b, 0, 100, 4);
    struct fixture_stream stream;
    for (uint32_t left = 7; left-- > 0;) {
        fixture_add(e, &r, &stream);
        while (engine_has_work(e))
            fixture_step(e, &stream, 1, FIXTURE_OUTPUTS_MAX);
        as_alone(b, &r, &stream, "after prefixes went");
        assert_int_equal(resident_blocks(e), 7);
        assert_int_equal(limit_blocks(e, left, false), left > 0 ? left : 1);
        assert_int_equal(resident_blocks(e), left > 0 ? left : 1);
        assert_int_equal(limit_blocks(e, 20, false), 20);
        fixture_add(e, &r, &stream);
        fixture_step(e, &stream, 1, FIXTURE_OUTPUTS_MAX);
        uint32_t whole = left > 0 ? left : 1;
        assert_int_equal(engine_cached_tokens(e, stream.sequence),
                         (whole < 6 ? whole : 6) * BLOCK); /* the last token is always computed */
        engine_remove(e, stream.sequence);
    }
    engine_close(e);
    bench_free(b);
}

/* --- too little memory --- */

static void stands_still(struct engine *e, struct fixture_stream *streams, uint32_t count)
{
    for (uint32_t i = 0; i < 4; i++) {
        struct engine_step_stats stats = fixture_step(e, streams, count, FIXTURE_OUTPUTS_MAX);
        assert_int_equal(stats.rows, 0);
        assert_int_equal(stats.prompt_rows, 0);
        assert_int_equal(stats.sequences, 0);
        assert_int_equal(stats.output_count, 0);
        assert_true(engine_has_work(e));
    }
}

/* A prompt of three blocks, and an answer that goes on into a fifth. */
static void test_waits_for_memory(void **state)
{
    (void)state;
    for (uint32_t family = 0; family < FIXTURE_FAMILIES; family++) {
        struct bench *b = bench_new(family, family % 2 ? IMAGE_BF16 : IMAGE_F32);
        struct engine *e = engine_of(b, 8, 64, family % 3 == 0);
        struct engine_request r = request(b, family, 40, 30);
        struct fixture_stream stream;
        fixture_add(e, &r, &stream);
        for (uint32_t blocks = 1; blocks <= 5; blocks++) {
            assert_int_equal(limit_blocks(e, blocks, false), blocks);
            /* The last token drawn needs no room yet. */
            uint32_t outputs = blocks < 3 ? 0 : blocks * BLOCK + 1 - r.token_count;
            outputs = outputs < r.tokens_new_max ? outputs : r.tokens_new_max;
            for (uint32_t steps = 0; stream.count < outputs; steps++) {
                fixture_step(e, &stream, 1, FIXTURE_OUTPUTS_MAX);
                assert_true(steps < 100);
            }
            assert_int_equal(stream.count, outputs);
            if (blocks < 5)
                stands_still(e, &stream, 1);
        }
        as_alone(b, &r, &stream, "with waits");
        assert_false(engine_has_work(e));
        engine_close(e);
        bench_free(b);
    }
}

/* The end that a sequence comes to when it can never fit: `outputs` tokens before. */
static void ends_without_kv(const struct bench *b, const struct engine_request *r,
                            struct fixture_stream *stream, uint32_t outputs)
{
    assert_true(stream->done);
    assert_int_equal(stream->count, outputs + 1);
    assert_int_equal(stream->outputs[outputs].finish, ENGINE_OUT_OF_KV);
    assert_false(stream->outputs[outputs].has_token);
    stream->count--;
    stream->done = false;
    stream->removed = true; /* for the comparison: the beginning only */
    as_alone(b, r, stream, "until the end");
}

static void test_ends_where_there_will_be_no_more(void **state)
{
    (void)state;
    struct bench *b = bench_new(1, IMAGE_F32);
    for (uint32_t blocks = 1; blocks <= 4; blocks++) {
        uint32_t outputs = blocks < 3 ? 0 : blocks * BLOCK + 1 - 40;
        for (uint32_t told_first = 0; told_first < 2; told_first++) {
            struct engine *e = engine_of(b, 8, 64, false);
            struct engine_request big = request(b, 3, 40, 30), small = request(b, 7, 9, 7);
            struct fixture_stream streams[2];
            small.order = 1;
            fixture_add(e, &big, &streams[0]);
            assert_int_equal(limit_blocks(e, blocks, told_first), blocks);
            if (!told_first) {
                while (streams[0].count < outputs)
                    fixture_step(e, streams, 1, FIXTURE_OUTPUTS_MAX);
                stands_still(e, streams, 1);
                assert_int_equal(limit_blocks(e, blocks, true), blocks);
            }
            fixture_add(e, &small, &streams[1]);
            for (uint32_t steps = 0; engine_has_work(e); steps++) {
                fixture_step(e, streams, 2, FIXTURE_OUTPUTS_MAX);
                assert_true(steps < 100);
            }
            ends_without_kv(b, &big, &streams[0], outputs);
            as_alone(b, &small, &streams[1], "what does fit");
            engine_close(e);
        }
    }
    bench_free(b);
}

/* Each fits alone, with 63 positions at its end in just that memory; no two do: they take turns. */
static void test_nobody_ends_who_fits_alone(void **state)
{
    (void)state;
    struct bench *b = bench_new(4, IMAGE_F32);
    for (uint32_t prefix_cache = 0; prefix_cache < 2; prefix_cache++) {
        struct engine *e = engine_of(b, 30, 64, prefix_cache);
        struct engine_request requests[4];
        struct fixture_stream streams[4];
        assert_int_equal(limit_blocks(e, 4, true), 4);
        for (uint32_t i = 0; i < 4; i++) {
            requests[i] = request(b, 30 * i + i, 30 + i % 2 * 30, 34 - i % 2 * 30);
            fixture_add(e, &requests[i], &streams[i]);
        }
        for (uint32_t steps = 0; engine_has_work(e); steps++) {
            struct engine_step_stats stats = fixture_step(e, streams, 4, FIXTURE_OUTPUTS_MAX);
            assert_true(stats.rows > 0);
            assert_true(resident_blocks(e) <= 4);
            assert_true(steps < 1000);
        }
        for (uint32_t i = 0; i < 4; i++)
            as_alone(b, &requests[i], &streams[i], "one after the other");
        engine_close(e);
    }
    bench_free(b);
}

/* More than the options' pool is never there, whatever is said. */
static void test_the_pool_is_the_most(void **state)
{
    (void)state;
    struct bench *b = bench_new(3, IMAGE_F32);
    struct engine *e = engine_of(b, 3, 64, false);
    struct engine_request r = request(b, 11, 20, 60);
    struct fixture_stream stream;
    assert_int_equal(limit_blocks(e, 3, false), 3);
    fixture_add(e, &r, &stream);
    while (engine_has_work(e))
        fixture_step(e, &stream, 1, FIXTURE_OUTPUTS_MAX);
    ends_without_kv(b, &r, &stream, 3 * BLOCK + 1 - 20);
    engine_close(e);
    bench_free(b);
}

/* --- seeded schedules --- */

#define WORLD_REQUESTS 14u
#define WORLD_BLOCKS 24u

struct world {
    struct bench *bench;
    struct engine *engine;
    struct rng rng;
    struct engine_request requests[WORLD_REQUESTS];
    struct fixture_stream streams[WORLD_REQUESTS];
    uint32_t begun;
    uint32_t largest; /* blocks of the largest request at its end */
    uint32_t limit;   /* blocks */
    bool is_most;
    uint32_t stalls, shrinks;
};

static void world_open(struct world *w, uint64_t seed)
{
    static const uint32_t rows_max[] = {SEQUENCES, 20, 90};
    rng_seed(&w->rng, seed);
    w->bench = bench_new((uint32_t)(seed % FIXTURE_FAMILIES), seed % 2 ? IMAGE_BF16 : IMAGE_F32);
    w->engine = engine_of(w->bench, WORLD_BLOCKS, rows_max[rng_below(&w->rng, 3)], seed / 2 % 2);
    w->limit = WORLD_BLOCKS;
    for (uint32_t i = 0; i < WORLD_REQUESTS; i++) {
        uint32_t first = rng_below(&w->rng, 3) ? rng_below(&w->rng, 100) : 0;
        uint32_t count = 1 + rng_below(&w->rng, 90), new_max = 1 + rng_below(&w->rng, 40);
        w->requests[i] = request(w->bench, first, count, new_max);
        w->requests[i].order = rng_below(&w->rng, 4);
        w->requests[i].prompt_logprobs = rng_below(&w->rng, 6) == 0;
        uint32_t blocks = (count + new_max - 1 + BLOCK - 1) / BLOCK;
        w->largest = blocks > w->largest ? blocks : w->largest;
    }
}

/* What is there is what was asked for, or what is held where that is more. */
static void world_limit(struct world *w, uint32_t blocks, bool is_most)
{
    struct engine *e = w->engine;
    uint32_t expect = blocks < WORLD_BLOCKS ? blocks : WORLD_BLOCKS, held = held_blocks(e);
    uint64_t extra = rng_below(&w->rng, (uint32_t)e->kv.block_bytes);
    expect = expect > 0 ? expect : 1;
    expect = expect > held ? expect : held;
    w->shrinks += expect < w->limit;
    w->limit = blocks_of(e, engine_kv_limit(e, blocks * e->kv.block_bytes + extra, is_most));
    w->is_most = is_most;
    assert_int_equal(w->limit, expect);
    assert_int_equal(held_blocks(e), held);
    assert_true(resident_blocks(e) <= w->limit);
}

static void world_change(struct world *w)
{
    if (w->begun < WORLD_REQUESTS && w->engine->sequence_count < SEQUENCES &&
        rng_below(&w->rng, 3) == 0) {
        fixture_add(w->engine, &w->requests[w->begun], &w->streams[w->begun]);
        w->begun++;
    }
    if (rng_below(&w->rng, 4) == 0) {
        uint32_t blocks = rng_below(&w->rng, WORLD_BLOCKS + 3);
        world_limit(w, blocks, blocks >= w->largest && rng_below(&w->rng, 2));
    }
    if (rng_below(&w->rng, 6) == 0)
        engine_prompt_rows(w->engine, rng_below(&w->rng, 12));
    if (rng_below(&w->rng, 20) == 0)
        engine_trim(w->engine);
    uint32_t gone = rng_below(&w->rng, 10 * WORLD_REQUESTS);
    if (gone < w->begun && !w->streams[gone].done) {
        engine_remove(w->engine, w->streams[gone].sequence);
        w->streams[gone].removed = true;
    }
}

static void world_step(struct world *w)
{
    uint32_t output_max = rng_below(&w->rng, 5) ? FIXTURE_OUTPUTS_MAX : 1;
    bool has_work = engine_has_work(w->engine);
    struct engine_step_stats stats = fixture_step(w->engine, w->streams, w->begun, output_max);
    assert_true(held_blocks(w->engine) <= w->limit);
    assert_true(resident_blocks(w->engine) <= w->limit);
    if (!has_work || stats.rows > 0 || stats.output_count > 0)
        return;
    /* Only want of memory stops everybody. */
    assert_true(w->limit < w->largest);
    w->stalls++;
    world_limit(w, w->limit + 1 + rng_below(&w->rng, 3), false);
}

/* Returns how often everybody stood still. */
static uint32_t world_run(uint64_t seed)
{
    struct world *w = calloc(1, sizeof(*w));
    assert_non_null(w);
    world_open(w, seed);
    for (uint32_t steps = 0; w->begun < WORLD_REQUESTS || engine_has_work(w->engine); steps++) {
        world_change(w);
        world_step(w);
        assert_true(steps < 5000);
    }
    for (uint32_t i = 0; i < WORLD_REQUESTS; i++)
        as_alone(w->bench, &w->requests[i], &w->streams[i], "a request of a world");
    assert_int_equal(held_blocks(w->engine), 0);
    assert_true(w->shrinks > 0);
    uint32_t stalls = w->stalls;
    engine_close(w->engine);
    bench_free(w->bench);
    free(w);
    return stalls;
}

/* The world that runs; 0 outside of one. */
static uint64_t current_seed;

static void say_seed(int number)
{
    (void)number;
    char line[96];
    int n = snprintf(line, sizeof line,
                     "this world alone: SLLORA_SEED=%llu build/tests/test_engine_limits\n",
                     (unsigned long long)current_seed);
    if (current_seed != 0 && write(STDERR_FILENO, line, (size_t)n) < 0)
        _exit(1);
}

static int after_worlds(void **state)
{
    (void)state;
    say_seed(0);
    return 0;
}

static void test_any_schedule(void **state)
{
    (void)state;
    const char *one = getenv("SLLORA_SEED");
    const char *many = getenv("SLLORA_WORLDS");
    uint64_t first = one != NULL ? strtoull(one, NULL, 10) : 1;
    uint64_t count = one != NULL ? 1 : many != NULL ? strtoull(many, NULL, 10) : 28;
    uint32_t stalls = 0;
    signal(SIGABRT, say_seed);
    for (current_seed = first; current_seed < first + count; current_seed++)
        stalls += world_run(current_seed);
    current_seed = 0;
    assert_true(one != NULL || stalls > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_blocks_and_one_at_least),
        cmocka_unit_test(test_what_is_held_stays),
        cmocka_unit_test(test_known_prefixes_go_too),
        cmocka_unit_test(test_waits_for_memory),
        cmocka_unit_test(test_ends_where_there_will_be_no_more),
        cmocka_unit_test(test_nobody_ends_who_fits_alone),
        cmocka_unit_test(test_the_pool_is_the_most),
        cmocka_unit_test_teardown(test_any_schedule, after_worlds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
