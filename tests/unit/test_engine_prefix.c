/*
 * Prefix caching: what a sequence gives out when it finds keys and values in the cache is bitwise
 * what it gives out in a cold engine of its own, whatever ran before, and it finds only what its
 * own adapter computed.
 *
 *   SLLORA_SEED=N runs one world; SLLORA_WORLDS=N that many.
 */
#include "unit/engine_fixture.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/step.h"

#define ADAPTERS 3u
#define BLOCK ENGINE_KV_BLOCK_TOKENS
#define TOKENS_MAX 160u
#define SLOTS 4u

struct bench {
    struct fixture_model *model;
    struct fixture_adapter *adapters[ADAPTERS];
    uint32_t tokens[TOKENS_MAX];
};

static struct bench *bench_new(uint32_t family, uint32_t dtype)
{
    struct bench *b = calloc(1, sizeof(*b));
    struct rng rng;
    assert_non_null(b);
    b->model = fixture_model_new(&fixture_families[family], dtype, 60 + family);
    for (uint32_t i = 0; i < ADAPTERS; i++)
        b->adapters[i] = fixture_adapter_new(b->model, dtype, 4 + 3 * i, 0x7f, 90 + i);
    rng_seed(&rng, family);
    for (uint32_t i = 0; i < TOKENS_MAX; i++)
        b->tokens[i] = rng_below(&rng, b->model->config.vocab_count);
    return b;
}

static void bench_free(struct bench *b)
{
    for (uint32_t i = 0; i < ADAPTERS; i++)
        fixture_adapter_free(b->adapters[i]);
    fixture_model_free(b->model);
    free(b);
}

static struct engine_options options(uint32_t rows_max)
{
    return (struct engine_options){.threads = 2,
                                   .sequences_max = 8,
                                   .rows_max = rows_max,
                                   .kv_bytes = 4 << 20,
                                   .adapters_max = SLOTS,
                                   .prefix_cache = true};
}

static struct engine_request request(const struct bench *b, uint32_t token_count, int32_t slot)
{
    return (struct engine_request){.tokens = b->tokens,
                                   .token_count = token_count,
                                   .tokens_new_max = 20,
                                   .adapter_slot = slot,
                                   .adapter_scale = 1,
                                   .sampling = {.top_p = 1},
                                   .top_logprobs = 5,
                                   .logprobs = true};
}

struct cost {
    uint32_t cached; /* positions found */
    uint32_t rows;   /* positions computed */
};

/* Runs one request to its end. */
static struct cost run(struct engine *e, const struct engine_request *r, struct fixture_stream *s)
{
    struct cost cost = {0};
    fixture_add(e, r, s);
    while (engine_has_work(e)) {
        uint32_t cached = engine_cached_tokens(e, s->sequence);
        cost.cached = cached > cost.cached ? cached : cost.cached;
        cost.rows += fixture_step(e, s, 1, FIXTURE_OUTPUTS_MAX).rows;
    }
    return cost;
}

/* As `run`, and the same as in a cold engine; adapter `index` counts there, `r`'s slot here. */
static struct cost run_as_cold(struct engine *e, const struct bench *b,
                               const struct engine_request *r, int32_t index, const char *what)
{
    struct fixture_stream got, expect;
    struct engine_request cold = *r;
    cold.adapter_slot = index;
    fixture_alone(b->model, b->adapters, ADAPTERS, &cold, &expect);
    struct cost cost = run(e, r, &got);
    fixture_compare(&got, &expect, what);
    assert_true(got.done);
    return cost;
}

/* Full blocks before the last token of a prompt. */
static uint32_t full(uint32_t token_count)
{
    return (token_count - 1) / BLOCK * BLOCK;
}

static void test_known_prefixes_are_not_computed(void **state)
{
    static const uint32_t counts[] = {100, 100, 17, 16, 1, 33, 97, 96, 140, 80};
    static const uint32_t known[] = {0, 96, 16, 0, 0, 32, 96, 80, 96, 64};
    (void)state;
    /* All but LongRoPE, the last one: it computes short prompts by other angles. */
    for (uint32_t way = 0; way < 4 * (FIXTURE_FAMILIES - 1); way++) {
        static const uint32_t rows_max[] = {8, 13, 64, 256};
        struct bench *b = bench_new(way % (FIXTURE_FAMILIES - 1), way % 2 ? IMAGE_BF16 : IMAGE_F32);
        struct engine_options o = options(rows_max[way / (FIXTURE_FAMILIES - 1)]);
        struct engine *e = fixture_engine(b->model, &o, b->adapters, ADAPTERS);
        for (uint32_t i = 0; i < sizeof(counts) / sizeof(*counts); i++) {
            struct engine_request r = request(b, counts[i], 1);
            struct cost cost = run_as_cold(e, b, &r, 1, "a known prefix");
            assert_int_equal(cost.cached, known[i]);
            assert_int_equal(cost.rows, counts[i] - known[i] + r.tokens_new_max - 1);
        }
        assert_int_equal(engine_kv_bytes(e), 0);
        engine_close(e);
        bench_free(b);
    }
}

/* The next turn of a chat begins with the answer to the last. */
static void test_answers_become_known(void **state)
{
    (void)state;
    struct bench *b = bench_new(4, IMAGE_BF16);
    struct engine_options o = options(64);
    struct engine *e = fixture_engine(b->model, &o, b->adapters, ADAPTERS);
    struct fixture_stream s;
    uint32_t chat[TOKENS_MAX], count = 21;
    memcpy(chat, b->tokens, sizeof(chat));
    for (uint32_t turn = 0; turn < 3; turn++) {
        struct engine_request r = request(b, count, 2);
        r.tokens = chat;
        uint32_t known = turn == 0 ? 0 : (count - 5) / BLOCK * BLOCK;
        assert_int_equal(run_as_cold(e, b, &r, 2, "a turn of a chat").cached, known);
        run(e, &r, &s);
        for (uint32_t i = 0; i < s.count; i++)
            chat[count++] = s.outputs[i].token;
        /* The last token drawn was never computed; then comes what the user says. */
        for (uint32_t i = 0; i < 4; i++)
            chat[count++] = b->tokens[100 + turn * 4 + i];
    }
    engine_close(e);
    bench_free(b);
}

/* One prompt, three adapters and the bare backbone, in every order. */
static void test_adapters_share_nothing(void **state)
{
    (void)state;
    struct bench *b = bench_new(3, IMAGE_F32);
    for (uint32_t order = 0; order < 64; order++) {
        struct engine_options o = options(order % 2 ? 16 : 64);
        struct engine *e = fixture_engine(b->model, &o, b->adapters, ADAPTERS);
        bool was_there[ADAPTERS + 1] = {false};
        const int32_t slots[] = {(int32_t)(order % 4) - 1, (int32_t)(order / 4 % 4) - 1,
                                 (int32_t)(order / 16) - 1, (int32_t)(order % 4) - 1};
        for (uint32_t i = 0; i < 4; i++) {
            struct engine_request r = request(b, 50, slots[i]);
            r.tokens_new_max = 6;
            struct cost cost = run_as_cold(e, b, &r, slots[i], "adapters in turn");
            assert_int_equal(cost.cached, was_there[slots[i] + 1] ? 48 : 0);
            was_there[slots[i] + 1] = true;
        }
        engine_close(e);
    }
    bench_free(b);
}

static void test_scales_share_nothing(void **state)
{
    static const float scales[] = {1, 0.5f, 1, 0.25f, 0.5f};
    static const uint32_t known[] = {0, 0, 64, 0, 64};
    (void)state;
    struct bench *b = bench_new(1, IMAGE_F32);
    struct engine_options o = options(64);
    struct engine *e = fixture_engine(b->model, &o, b->adapters, ADAPTERS);
    for (uint32_t i = 0; i < sizeof(scales) / sizeof(*scales); i++) {
        struct engine_request r = request(b, 70, 0);
        r.adapter_scale = scales[i];
        assert_int_equal(run_as_cold(e, b, &r, 0, "scales in turn").cached, known[i]);
    }
    /* How much of no adapter counts does not matter. */
    struct engine_request r = request(b, 70, -1);
    assert_int_equal(run_as_cold(e, b, &r, -1, "bare").cached, 0);
    r.adapter_scale = 0.5f;
    assert_int_equal(run_as_cold(e, b, &r, -1, "bare").cached, 64);
    engine_close(e);
    bench_free(b);
}

/* A redeploy puts another adapter where one was, and perhaps the old one back somewhere else. */
static void test_slots_do_not_matter(void **state)
{
    static const struct {
        uint32_t slot, adapter, known;
    } turns[] = {{0, 0, 0}, {0, 1, 0}, {0, 0, 48}, {3, 1, 48}, {3, 2, 0}, {1, 2, 48}, {0, 1, 48}};
    (void)state;
    struct bench *b = bench_new(2, IMAGE_BF16);
    struct engine_options o = options(32);
    struct error err = {0};
    struct engine *e = fixture_engine(b->model, &o, b->adapters, 0);
    for (uint32_t i = 0; i < sizeof(turns) / sizeof(*turns); i++) {
        const struct fixture_adapter *a = b->adapters[turns[i].adapter];
        assert_int_equal(engine_adapter_set(e, turns[i].slot, &a->adapter, &a->digest, &err), 0);
        struct engine_request r = request(b, 60, (int32_t)turns[i].slot);
        struct cost cost = run_as_cold(e, b, &r, (int32_t)turns[i].adapter, "another adapter");
        assert_int_equal(cost.cached, turns[i].known);
        assert_int_equal(engine_adapter_clear(e, turns[i].slot), 0);
    }
    engine_close(e);
    bench_free(b);
}

/* A prompt whose own tokens are rated needs all its logits; what it computes serves others. */
static void test_rated_prompts_are_computed(void **state)
{
    (void)state;
    struct bench *b = bench_new(0, IMAGE_F32);
    struct engine_options o = options(20);
    struct engine *e = fixture_engine(b->model, &o, b->adapters, ADAPTERS);
    for (uint32_t i = 0; i < 3; i++) {
        struct engine_request r = request(b, 64, 0);
        r.prompt_logprobs = i < 2;
        struct cost cost = run_as_cold(e, b, &r, 0, "a rated prompt");
        assert_int_equal(cost.cached, i < 2 ? 0 : 48);
        assert_int_equal(cost.rows, 64 + 19 - cost.cached);
    }
    engine_close(e);
    bench_free(b);
}

/* Adds `count` requests at once and runs them all. */
static uint32_t run_together(struct engine *e, const struct engine_request *r, uint32_t count,
                             struct fixture_stream *streams, uint32_t *ret_cached)
{
    uint32_t rows = 0;
    *ret_cached = 0;
    for (uint32_t i = 0; i < count; i++)
        fixture_add(e, &r[i], &streams[i]);
    while (engine_has_work(e)) {
        uint32_t cached = 0;
        rows += fixture_step(e, streams, count, FIXTURE_OUTPUTS_MAX).rows;
        for (uint32_t i = 0; i < count; i++)
            cached += engine_cached_tokens(e, streams[i].sequence);
        *ret_cached = cached > *ret_cached ? cached : *ret_cached;
    }
    return rows;
}

/* Several answers to one prompt: it is computed once, also when they come in the same step. */
static void test_one_prompt_at_once(void **state)
{
    static const uint32_t rows_max[] = {16, 64, 256};
    (void)state;
    struct bench *b = bench_new(1, IMAGE_BF16);
    for (uint32_t w = 0; w < 3; w++) {
        struct engine_options o = options(rows_max[w]);
        struct engine *e = fixture_engine(b->model, &o, b->adapters, ADAPTERS);
        struct engine_request r[6];
        struct fixture_stream got[6], expect;
        uint32_t cached;
        for (uint32_t i = 0; i < 6; i++) {
            /* Four of one prompt and adapter, the bare backbone, and a prompt that differs late. */
            r[i] = request(b, i == 5 ? 110 : 100, i == 4 ? -1 : 1);
            r[i].sampling = (struct engine_sampling){.temperature = 1, .top_p = 1, .seed = i};
        }
        uint32_t rows = run_together(e, r, 6, got, &cached);
        assert_int_equal(cached, 4 * 96);
        assert_int_equal(rows, 5 * 100 + 110 + 6 * 19 - cached);
        for (uint32_t i = 0; i < 6; i++) {
            fixture_alone(b->model, b->adapters, ADAPTERS, &r[i], &expect);
            fixture_compare(&got[i], &expect, "one of several");
        }
        engine_close(e);
    }
    bench_free(b);
}

/* When memory is needed, what was not used for the longest time goes, the end of a prompt before
 * its beginning. */
static void test_oldest_goes_first(void **state)
{
    (void)state;
    struct bench *b = bench_new(0, IMAGE_F32);
    struct engine_options o = options(64);
    o.kv_bytes = 9 * fixture_kv_block_bytes(b->model);
    struct engine *e = fixture_engine(b->model, &o, b->adapters, ADAPTERS);
    struct engine_request r[3];
    for (uint32_t i = 0; i < 3; i++) {
        r[i] = request(b, 50, (int32_t)i); /* three blocks to know, and one more */
        r[i].tokens_new_max = 2;
    }
    assert_int_equal(run_as_cold(e, b, &r[0], 0, "first").cached, 0);
    assert_int_equal(run_as_cold(e, b, &r[1], 1, "second").cached, 0);
    assert_int_equal(run_as_cold(e, b, &r[0], 0, "first again").cached, 48);
    /* Six are known, three were free: one of the second's three goes, its last. */
    assert_int_equal(run_as_cold(e, b, &r[2], 2, "third").cached, 0);
    assert_int_equal(run_as_cold(e, b, &r[0], 0, "first stays").cached, 48);
    assert_int_equal(run_as_cold(e, b, &r[1], 1, "second").cached, 32);
    engine_close(e);
    bench_free(b);
}

/* A sequence that becomes long computes all of it anew, in blocks that it cannot share with those
 * that are short. Where memory for both is missing, the younger one gives way. */
static void test_long_ones_find_room(void **state)
{
    (void)state;
    struct bench *b = bench_new(FIXTURE_FAMILIES - 1, IMAGE_F32);
    for (uint32_t before = 0; before < 6; before++) {
        struct engine_options o = options(2);
        o.sequences_max = 2;
        o.kv_bytes = 3 * fixture_kv_block_bytes(b->model);
        struct engine *e = fixture_engine(b->model, &o, b->adapters, ADAPTERS);
        struct engine_request r[] = {request(b, 17, 0), request(b, FIXTURE_LONG_FROM, 0)};
        struct fixture_stream got[2] = {{.removed = true}, {.removed = true}}, expect;
        r[1].tokens_new_max = 1; /* it ends before it is long */
        fixture_add(e, &r[0], &got[0]);
        while (got[0].count < before)
            fixture_step(e, got, 2, FIXTURE_OUTPUTS_MAX);
        fixture_add(e, &r[1], &got[1]);
        for (uint32_t steps = 0; engine_has_work(e); steps++) {
            fixture_step(e, got, 2, FIXTURE_OUTPUTS_MAX);
            assert_true(steps < 200);
        }
        for (uint32_t i = 0; i < 2; i++) {
            fixture_alone(b->model, b->adapters, ADAPTERS, &r[i], &expect);
            fixture_compare(&got[i], &expect, "long and short");
        }
        engine_close(e);
    }
    bench_free(b);
}

static void test_trim_keeps_what_is_known(void **state)
{
    (void)state;
    struct bench *b = bench_new(2, IMAGE_F32);
    struct engine_options o = options(64);
    struct engine *e = fixture_engine(b->model, &o, b->adapters, ADAPTERS);
    struct engine_request r = request(b, 90, 0);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(run_as_cold(e, b, &r, 0, "after a trim").cached, i ? full(90) : 0);
        engine_trim(e);
        assert_int_equal(engine_activation_bytes(e), 0);
        assert_int_equal(engine_kv_bytes(e), 0);
    }
    engine_close(e);
    bench_free(b);
}

static void test_off_is_off(void **state)
{
    (void)state;
    struct bench *b = bench_new(3, IMAGE_F32);
    struct engine_options o = options(64);
    o.prefix_cache = false;
    struct engine *e = fixture_engine(b->model, &o, b->adapters, ADAPTERS);
    struct engine_request r = request(b, 90, 0);
    for (uint32_t i = 0; i < 2; i++) {
        struct cost cost = run_as_cold(e, b, &r, 0, "without the cache");
        assert_int_equal(cost.cached, 0);
        assert_int_equal(cost.rows, 90 + 19);
    }
    engine_close(e);
    bench_free(b);
}

/* --- what must hold of the pool after every step --- */

enum place { NOWHERE, FRESH, GIVEN_BACK, IDLE, HELD };

static void check_sequence(const struct kv_pool *p, const struct sequence *s, enum place *places,
                           uint32_t *holders)
{
    assert_true(s->known_count <= s->kv.count);
    assert_true(s->cached_count <= full(s->prompt_count));
    for (uint32_t i = 0; i < s->kv.count; i++) {
        uint32_t block = s->kv.ids[i];
        const struct prefix_node *n = &p->prefix.nodes[block];
        places[block] = HELD;
        holders[block]++;
        assert_int_equal(n->is_known, i < s->known_count);
        if (!n->is_known)
            continue;
        assert_memory_equal(n->tokens, s->tokens + i * BLOCK, sizeof(n->tokens));
        assert_memory_equal(&n->origin, &s->origin, sizeof(n->origin));
        assert_int_equal(n->parent, i ? s->kv.ids[i - 1] : PREFIX_NONE);
        assert_int_equal(prefix_find(&p->prefix, &n->origin, n->parent, n->tokens), block);
    }
}

static void place(enum place *places, uint32_t block, enum place at)
{
    assert_int_equal(places[block], NOWHERE);
    places[block] = at;
}

static void check_idle(const struct kv_pool *p, enum place *places)
{
    uint32_t older = PREFIX_NONE;
    for (uint32_t i = p->prefix.oldest; i != PREFIX_NONE; i = p->prefix.nodes[i].newer) {
        const struct prefix_node *n = &p->prefix.nodes[i];
        place(places, i, IDLE);
        assert_true(n->is_known && n->is_idle);
        assert_int_equal(n->older, older);
        assert_int_equal(prefix_find(&p->prefix, &n->origin, n->parent, n->tokens), i);
        /* What comes after it in a sequence is older. */
        assert_true(n->parent == PREFIX_NONE || places[n->parent] != IDLE);
        older = i;
    }
    assert_int_equal(p->prefix.newest, older);
}

/* Each block is in one place, held by as many as hold it, and the tree is whole. */
static void check_pool(const struct engine *e)
{
    const struct kv_pool *p = &e->kv;
    enum place places[256] = {NOWHERE};
    uint32_t holders[256] = {0}, children[256] = {0}, held = 0;
    assert_true(p->block_count <= 256);
    for (uint32_t i = 0; i < e->sequence_count; i++)
        check_sequence(p, e->sequences[i], places, holders);
    for (uint32_t i = p->fresh_index; i < p->block_count; i++)
        place(places, i, FRESH);
    for (uint32_t i = 0; i < p->given_count; i++)
        place(places, p->given_back[i], GIVEN_BACK);
    check_idle(p, places);
    for (uint32_t i = 0; i < p->block_count; i++) {
        const struct prefix_node *n = &p->prefix.nodes[i];
        assert_int_not_equal(places[i], NOWHERE);
        assert_int_equal(p->holders[i], holders[i]);
        assert_int_equal(n->is_idle, places[i] == IDLE);
        assert_true(places[i] == IDLE || places[i] == HELD || !n->is_known);
        held += places[i] == HELD;
        if (n->is_known && n->parent != PREFIX_NONE) {
            assert_true(p->prefix.nodes[n->parent].is_known);
            children[n->parent]++;
        }
    }
    for (uint32_t i = 0; i < p->block_count; i++) {
        if (p->prefix.nodes[i].is_known)
            assert_int_equal(p->prefix.nodes[i].child_count, children[i]);
    }
    assert_int_equal(p->held_count, held);
}

/* --- seeded worlds --- */

#define WORLD_REQUESTS 120u
#define WORLD_RUNNING 6u
#define WORLD_PREFIXES 4u

struct world_request {
    struct engine_request request;
    int32_t adapter; /* of the bench; the request's slot is where it was when it began */
    uint32_t tokens[TOKENS_MAX];
};

struct world {
    const struct bench *bench;
    struct engine *engine;
    struct rng rng;
    int32_t slot_adapter[SLOTS]; /* -1: empty */
    struct world_request requests[WORLD_RUNNING];
    struct fixture_stream streams[WORLD_RUNNING];
    uint32_t begun, ended, removed, cached, rebound;
};

/* Some adapter goes, some comes, wherever no sequence uses the slot. */
static void world_rebind(struct world *w)
{
    uint32_t slot = rng_below(&w->rng, SLOTS), adapter = rng_below(&w->rng, ADAPTERS);
    const struct fixture_adapter *a = w->bench->adapters[adapter];
    struct error err = {0};
    if (engine_adapter_clear(w->engine, slot) < 0)
        return;
    w->slot_adapter[slot] = -1;
    w->rebound++;
    if (rng_below(&w->rng, 4) == 0)
        return;
    assert_int_equal(engine_adapter_set(w->engine, slot, &a->adapter, &a->digest, &err), 0);
    w->slot_adapter[slot] = (int32_t)adapter;
}

/* Prompts grow out of a few beginnings, as those of applications do. */
static uint32_t world_prompt(struct world *w, uint32_t *tokens)
{
    uint32_t prefix = rng_below(&w->rng, WORLD_PREFIXES), count = 0;
    uint32_t shared = rng_below(&w->rng, 70), own = 1 + rng_below(&w->rng, 25);
    for (; count < shared; count++)
        tokens[count] = w->bench->tokens[(count + prefix * 11) % TOKENS_MAX];
    for (; count < shared + own; count++)
        tokens[count] = rng_below(&w->rng, 2); /* often the same as others' */
    return count;
}

static void world_begin(struct world *w, uint32_t index)
{
    struct world_request *x = &w->requests[index];
    int32_t slot = (int32_t)rng_below(&w->rng, SLOTS + 1) - 1;
    if (slot >= 0 && w->slot_adapter[slot] < 0)
        slot = -1;
    x->adapter = slot >= 0 ? w->slot_adapter[slot] : -1;
    x->request = (struct engine_request){
        .tokens = x->tokens,
        .token_count = world_prompt(w, x->tokens),
        .tokens_new_max = 1 + rng_below(&w->rng, 40),
        .adapter_slot = slot,
        .adapter_scale = rng_below(&w->rng, 3) ? 1 : 0.5f,
        .sampling = {.temperature = 1.5f, .top_p = 1, .top_k = 2, .seed = w->begun},
        .logprobs = true,
        .prompt_logprobs = rng_below(&w->rng, 10) == 0,
    };
    fixture_add(w->engine, &x->request, &w->streams[index]);
    w->begun++;
}

/* What a sequence gave out is what it gives out in a cold engine. */
static void world_end(struct world *w, uint32_t index)
{
    struct world_request *x = &w->requests[index];
    struct fixture_stream expect;
    x->request.adapter_slot = x->adapter;
    fixture_alone(w->bench->model, w->bench->adapters, ADAPTERS, &x->request, &expect);
    fixture_compare(&w->streams[index], &expect, "a request of a world");
    w->ended++;
}

static void world_step(struct world *w)
{
    fixture_step(w->engine, w->streams, WORLD_RUNNING, rng_below(&w->rng, 5) ? 64 : 1);
    check_pool(w->engine);
    for (uint32_t i = 0; i < WORLD_RUNNING; i++) {
        struct fixture_stream *s = &w->streams[i];
        if (s->done || s->removed)
            continue;
        w->cached += engine_cached_tokens(w->engine, s->sequence) > 0;
        if (rng_below(&w->rng, 150) > 0)
            continue;
        engine_remove(w->engine, s->sequence);
        s->removed = true;
        w->removed++;
        check_pool(w->engine);
    }
    if (rng_below(&w->rng, 20) == 0)
        engine_trim(w->engine);
    if (rng_below(&w->rng, 8) == 0)
        world_rebind(w);
}

static void world_open(struct world *w, struct bench *b, uint64_t seed)
{
    static const uint32_t rows_max[] = {8, 24, 100};
    rng_seed(&w->rng, seed);
    struct engine_options o = options(rows_max[rng_below(&w->rng, 3)]);
    uint64_t block_bytes = fixture_kv_block_bytes(b->model);
    o.kv_bytes = (10 + rng_below(&w->rng, 30)) * block_bytes;
    w->bench = b;
    w->engine = fixture_engine(b->model, &o, b->adapters, 0);
    for (uint32_t i = 0; i < SLOTS; i++)
        w->slot_adapter[i] = -1;
    for (uint32_t i = 0; i < WORLD_RUNNING; i++)
        w->streams[i].removed = true;
}

static void world_run(uint64_t seed)
{
    struct world *w = calloc(1, sizeof(*w));
    bool busy[WORLD_RUNNING] = {false};
    assert_non_null(w);
    struct bench *b =
        bench_new((uint32_t)(seed % FIXTURE_FAMILIES), seed % 2 ? IMAGE_BF16 : IMAGE_F32);
    world_open(w, b, seed);
    for (uint32_t steps = 0; w->ended < WORLD_REQUESTS; steps++) {
        for (uint32_t i = 0; i < WORLD_RUNNING; i++) {
            if (busy[i] && (w->streams[i].done || w->streams[i].removed)) {
                world_end(w, i);
                busy[i] = false;
            } else if (!busy[i] && rng_below(&w->rng, 3) == 0) {
                world_begin(w, i);
                busy[i] = true;
            }
        }
        world_step(w);
        assert_true(steps < 20000);
    }
    assert_true(w->cached > 0);
    assert_true(w->rebound > 0);
    engine_close(w->engine);
    bench_free(b);
    free(w);
}

/* The world that runs; 0 outside of one. */
static uint64_t current_seed;

static void say_seed(int number)
{
    (void)number;
    char line[96];
    int n = snprintf(line, sizeof line,
                     "this world alone: SLLORA_SEED=%llu build/tests/test_engine_prefix\n",
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

static void test_worlds(void **state)
{
    (void)state;
    const char *one = getenv("SLLORA_SEED");
    const char *many = getenv("SLLORA_WORLDS");
    uint64_t first = one != NULL ? strtoull(one, NULL, 10) : 1;
    uint64_t count = one != NULL ? 1 : many != NULL ? strtoull(many, NULL, 10) : 10;
    signal(SIGABRT, say_seed);
    for (current_seed = first; current_seed < first + count; current_seed++)
        world_run(current_seed);
    current_seed = 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_prefixes_are_not_computed),
        cmocka_unit_test(test_answers_become_known),
        cmocka_unit_test(test_adapters_share_nothing),
        cmocka_unit_test(test_scales_share_nothing),
        cmocka_unit_test(test_slots_do_not_matter),
        cmocka_unit_test(test_rated_prompts_are_computed),
        cmocka_unit_test(test_one_prompt_at_once),
        cmocka_unit_test(test_oldest_goes_first),
        cmocka_unit_test(test_long_ones_find_room),
        cmocka_unit_test(test_trim_keeps_what_is_known),
        cmocka_unit_test(test_off_is_off),
        cmocka_unit_test_teardown(test_worlds, after_worlds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
