/* Running requests through an engine and keeping what each sequence gave out, for tests. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "unit/model_fixture.h"

#define FIXTURE_OUTPUTS_MAX 512u

/* Everything one sequence gave out. */
struct fixture_stream {
    struct engine_output outputs[FIXTURE_OUTPUTS_MAX];
    uint32_t count;
    uint32_t sequence;
    bool done;
    bool removed; /* before its end: nothing more may come */
};

/* Of one KV block of a float32 model, in whole pages. */
static inline uint64_t fixture_kv_block_bytes(const struct fixture_model *m)
{
    const struct model_config *c = &m->config;
    uint64_t bytes =
        2ull * 4 * ENGINE_KV_BLOCK_TOKENS * c->head_dim * c->kv_head_count * c->layer_count;
    return (bytes + 4095) / 4096 * 4096;
}

static inline struct engine *fixture_engine(const struct fixture_model *m,
                                            const struct engine_options *o,
                                            struct fixture_adapter *const *adapters,
                                            uint32_t adapter_count)
{
    struct engine *e;
    struct error err = {0};
    if (engine_open(&e, &m->backbone, o, &err) < 0)
        fail_msg("%s", err.text);
    for (uint32_t i = 0; i < adapter_count; i++) {
        if (engine_adapter_set(e, i, &adapters[i]->adapter, &adapters[i]->digest, &err) < 0)
            fail_msg("%s", err.text);
    }
    return e;
}

static inline void fixture_add(struct engine *e, const struct engine_request *r,
                               struct fixture_stream *s)
{
    struct error err = {0};
    *s = (struct fixture_stream){0};
    if (engine_add(e, r, &s->sequence, &err) < 0)
        fail_msg("%s", err.text);
}

/* Rows of the latest step, of all these together. */
static inline uint32_t fixture_rows(const struct engine *e, const struct fixture_stream *streams,
                                    uint32_t stream_count)
{
    uint32_t rows = 0;
    for (uint32_t i = 0; i < stream_count; i++)
        if (!streams[i].done && !streams[i].removed)
            rows += engine_rows_of(e, streams[i].sequence);
    return rows;
}

/* One step; its outputs go to their streams. Finished sequences are removed. */
static inline struct engine_step_stats fixture_step(struct engine *e,
                                                    struct fixture_stream *streams,
                                                    uint32_t stream_count, uint32_t output_max)
{
    struct engine_output outputs[FIXTURE_OUTPUTS_MAX];
    struct engine_step_stats stats;
    struct error err = {0};
    assert_true(output_max <= FIXTURE_OUTPUTS_MAX);
    assert_int_equal(engine_step(e, outputs, output_max, &stats, &err), 0);
    assert_true(stats.output_count <= output_max);
    assert_true(stats.prompt_rows <= stats.rows);
    if (stats.rows > 0) /* they are all somebody's */
        assert_int_equal(fixture_rows(e, streams, stream_count), stats.rows);
    for (uint32_t i = 0; i < stats.output_count; i++) {
        struct fixture_stream *s = NULL;
        for (uint32_t n = 0; n < stream_count; n++) {
            if (!streams[n].done && !streams[n].removed &&
                streams[n].sequence == outputs[i].sequence)
                s = &streams[n];
        }
        assert_non_null(s);
        assert_true(s->count < FIXTURE_OUTPUTS_MAX);
        s->outputs[s->count++] = outputs[i];
        s->done = outputs[i].finish != ENGINE_GOES_ON;
        if (s->done)
            engine_remove(e, s->sequence);
    }
    return stats;
}

/* A sequence by itself, in an engine of its own. */
static inline void fixture_alone(const struct fixture_model *m,
                                 struct fixture_adapter *const *adapters, uint32_t adapter_count,
                                 const struct engine_request *r, struct fixture_stream *s)
{
    const struct engine_options o = {.threads = 1,
                                     .sequences_max = 1,
                                     .rows_max = 64,
                                     .kv_bytes = 8 << 20,
                                     .adapters_max = adapter_count};
    struct engine *e = fixture_engine(m, &o, adapters, adapter_count);
    fixture_add(e, r, s);
    while (engine_has_work(e))
        fixture_step(e, s, 1, FIXTURE_OUTPUTS_MAX);
    assert_true(s->done);
    assert_int_equal(engine_kv_bytes(e), 0);
    engine_close(e);
}

static inline uint32_t fixture_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

/* Bitwise, sequence ids aside; of a stream that was cut off, what there is. */
static inline void fixture_compare(const struct fixture_stream *got,
                                   const struct fixture_stream *expect, const char *what)
{
    if (got->done ? got->count != expect->count : got->count > expect->count)
        fail_msg("%s: %u outputs instead of %u", what, got->count, expect->count);
    for (uint32_t i = 0; i < got->count; i++) {
        const struct engine_output *a = &got->outputs[i], *b = &expect->outputs[i];
        bool same = a->token == b->token && a->has_token == b->has_token &&
                    a->is_prompt == b->is_prompt && a->has_logprob == b->has_logprob &&
                    a->finish == b->finish && a->top_count == b->top_count &&
                    fixture_bits(a->logprob) == fixture_bits(b->logprob);
        for (uint32_t t = 0; same && t < a->top_count; t++)
            same = a->top[t].token == b->top[t].token &&
                   fixture_bits(a->top[t].logprob) == fixture_bits(b->top[t].logprob);
        if (!same)
            fail_msg("%s: output %u is token %u logprob %.9g finish %d instead of %u %.9g %d", what,
                     i, a->token, (double)a->logprob, a->finish, b->token, (double)b->logprob,
                     b->finish);
    }
}
