/*
 * A small model with two adapters, and an engine over it whose KV pool has so many blocks, for
 * tests of who is computed when. What has memory is counted in the pool's own pages.
 */
#pragma once

#include <sys/mman.h>

#include "engine/step.h"
#include "unit/engine_fixture.h"

#define ADAPTERS 2u
#define SEQUENCES 6u
#define BLOCK ENGINE_KV_BLOCK_TOKENS
#define TOKENS_MAX 256u

struct bench {
    struct fixture_model *model;
    struct fixture_adapter *adapters[ADAPTERS];
    uint32_t tokens[TOKENS_MAX];
};

static inline struct bench *bench_new(uint32_t family, uint32_t dtype)
{
    struct bench *b = calloc(1, sizeof(*b));
    struct rng rng;
    assert_non_null(b);
    rng_seed(&rng, 60 + family);
    b->model = fixture_model_new(&fixture_families[family], dtype, 50 + family);
    for (uint32_t i = 0; i < ADAPTERS; i++)
        b->adapters[i] = fixture_adapter_new(b->model, dtype, 3 + i, FIXTURE_LINEARS, 20 + i);
    for (uint32_t i = 0; i < TOKENS_MAX; i++)
        b->tokens[i] = rng_below(&rng, b->model->config.vocab_count);
    return b;
}

static inline void bench_free(struct bench *b)
{
    for (uint32_t i = 0; i < ADAPTERS; i++)
        fixture_adapter_free(b->adapters[i]);
    fixture_model_free(b->model);
    free(b);
}

/* An engine with a pool of `blocks`. Its pages are told apart, so that what has memory can be
 * counted. */
static inline struct engine *engine_of(const struct bench *b, uint32_t blocks, uint32_t rows_max,
                                       bool prefix_cache)
{
    struct engine_options o = {.threads = 1,
                               .sequences_max = SEQUENCES,
                               .rows_max = rows_max,
                               .kv_bytes = (uint64_t)blocks * (1 << 20), /* for the first opening */
                               .adapters_max = ADAPTERS,
                               .prefix_cache = prefix_cache};
    struct engine *e = fixture_engine(b->model, &o, b->adapters, 0);
    o.kv_bytes = blocks * e->kv.block_bytes;
    engine_close(e);
    e = fixture_engine(b->model, &o, b->adapters, ADAPTERS);
    assert_int_equal(e->kv.block_count, blocks);
    (void)madvise(e->kv.base, o.kv_bytes, MADV_NOHUGEPAGE);
    return e;
}

static inline struct engine_request request(const struct bench *b, uint32_t first, uint32_t count,
                                            uint32_t new_max)
{
    return (struct engine_request){.tokens = b->tokens + first,
                                   .token_count = count,
                                   .tokens_new_max = new_max,
                                   .adapter_slot = (int32_t)(first % (ADAPTERS + 1)) - 1,
                                   .adapter_scale = 1,
                                   .sampling = {.temperature = 1, .top_p = 1, .seed = first},
                                   .logprobs = true};
}

static inline void as_alone(const struct bench *b, const struct engine_request *r,
                            const struct fixture_stream *got, const char *what)
{
    struct fixture_stream expect;
    fixture_alone(b->model, b->adapters, ADAPTERS, r, &expect);
    assert_true(got->done || got->removed);
    fixture_compare(got, &expect, what);
}

static inline uint32_t resident_blocks(const struct engine *e)
{
    uint64_t pages = e->kv.block_count * e->kv.block_bytes / 4096,
             per_block = e->kv.block_bytes / 4096;
    uint32_t count = 0;
    unsigned char *in = malloc(pages);
    assert_non_null(in);
    assert_int_equal(mincore(e->kv.base, pages * 4096, in), 0);
    for (uint64_t block = 0; block < e->kv.block_count; block++) {
        bool any = false;
        for (uint64_t i = 0; i < per_block; i++)
            any |= in[block * per_block + i] & 1;
        count += any;
    }
    free(in);
    return count;
}

static inline uint32_t blocks_of(const struct engine *e, uint64_t bytes)
{
    assert_int_equal(bytes % e->kv.block_bytes, 0);
    return (uint32_t)(bytes / e->kv.block_bytes);
}

static inline uint32_t held_blocks(const struct engine *e)
{
    return blocks_of(e, engine_kv_bytes(e));
}

static inline uint32_t limit_blocks(struct engine *e, uint32_t blocks, bool is_most)
{
    return blocks_of(e, engine_kv_limit(e, blocks * e->kv.block_bytes, is_most));
}
