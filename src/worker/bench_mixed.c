/*
 * What adapters cost: the same work with and without them, alternating in one process on one loaded
 * backbone. A ratio is the median of the ratios of the pairs, because both sides of a pair saw the
 * same minute of a machine whose speed changes.
 */
#include "worker/bench_model.h"

#define PROMPT_MEASURED 256u

struct mixed {
    struct engine *engine;
    struct bench_adapter adapters[BENCH_ADAPTERS_MAX];
    uint32_t set; /* adapters in the engine, slots 0 and up */
};

struct side {
    struct bench_streams streams;
    uint32_t set;
};

struct comparison {
    const char *name;
    struct side base, with;
};

static int set_adapters(struct mixed *m, uint32_t count, struct error *err)
{
    int r = 0;
    while (r == 0 && m->set > count)
        r = engine_adapter_clear(m->engine, --m->set);
    for (; r == 0 && m->set < count; m->set++)
        r = engine_adapter_set(m->engine, m->set, &m->adapters[m->set].adapter,
                               &m->adapters[m->set].digest, err);
    return r;
}

static int run_side(const struct bench *b, struct mixed *m, const struct side *s, double *ret_tok_s,
                    struct error *err)
{
    struct bench_speed speed;
    int r = set_adapters(m, s->set, err);
    if (r == 0)
        r = bench_streams_run(b, m->engine, &s->streams, &speed, err);
    if (r == 0)
        *ret_tok_s = speed.tok_s;
    return r;
}

/* Each side goes first in every second pair. */
static int run_pair(const struct bench *b, struct mixed *m, const struct comparison *c,
                    bool with_first, double *ret_with, double *ret_base, struct error *err)
{
    int r = 0;
    if (with_first)
        r = run_side(b, m, &c->with, ret_with, err);
    if (r == 0)
        r = run_side(b, m, &c->base, ret_base, err);
    if (r == 0 && !with_first)
        r = run_side(b, m, &c->with, ret_with, err);
    return r;
}

static int compare(const struct bench *b, struct mixed *m, const struct comparison *c,
                   struct error *err)
{
    double with[BENCH_RUNS_MAX], base[BENCH_RUNS_MAX], ratios[BENCH_RUNS_MAX];
    const struct bench_streams *s = &c->with.streams;
    bench_progress(b, "%s, %u pairs of runs", c->name, b->runs);
    int r = run_pair(b, m, c, false, with, base, err); /* warm */
    for (uint32_t run = 0; r == 0 && run < b->runs; run++) {
        r = run_pair(b, m, c, run % 2 == 1, &with[run], &base[run], err);
        ratios[run] = with[run] / base[run];
    }
    if (r < 0)
        return r;
    json_t *line = bench_line(b, pool_threads(b->pool));
    bench_set_text(line, "case", c->name);
    bench_set_count(line, "batch", s->count);
    bench_set_count(line, "tokens", s->tokens > 0 ? s->tokens : s->prompt);
    bench_set_count(line, "adapters", s->adapter_count);
    bench_set_count(line, "adapters_set", c->with.set);
    bench_set_count(line, "rank", m->adapters[0].adapter.config->rank_max);
    bench_set_text(line, "adapter_quant", image_quant_name(b->adapter_dtype));
    bench_set_spread(line, "tok_s", with, b->runs);
    bench_set_count(line, "base_adapters", c->base.streams.adapter_count);
    bench_set_count(line, "base_adapters_set", c->base.set);
    bench_set_spread(line, "base_tok_s", base, b->runs);
    bench_set_spread(line, "ratio", ratios, b->runs);
    bench_print(line);
    return 0;
}

static int compare_all(const struct bench *b, struct mixed *m, struct error *err)
{
    uint32_t many = b->batch, all = BENCH_ADAPTERS_MAX;
    const struct bench_streams streams = {many, BENCH_PROMPT_TOKENS, b->tokens, 0};
    const struct bench_streams streams_with = {many, BENCH_PROMPT_TOKENS, b->tokens, many};
    const struct bench_streams streams_one = {many, BENCH_PROMPT_TOKENS, b->tokens, 1};
    const struct bench_streams stream = {1, BENCH_PROMPT_TOKENS, b->tokens, 0};
    const struct bench_streams stream_with = {1, BENCH_PROMPT_TOKENS, b->tokens, 1};
    const struct bench_streams prompt = {1, PROMPT_MEASURED, 0, 0};
    const struct bench_streams prompt_with = {1, PROMPT_MEASURED, 0, 1};
    const struct comparison comparisons[] = {
        {"streams_own_adapters", {streams, all}, {streams_with, all}},
        {"streams_one_adapter", {streams, all}, {streams_one, all}},
        {"stream_one_adapter", {stream, all}, {stream_with, all}},
        {"stream_many_set", {stream_with, 1}, {stream_with, all}},
        {"streams_none_used", {streams, 0}, {streams, all}},
        {"prefill_one_adapter", {prompt, all}, {prompt_with, all}},
    };
    int r = 0;
    for (size_t i = 0; r == 0 && i < sizeof comparisons / sizeof comparisons[0]; i++)
        r = compare(b, m, &comparisons[i], err);
    return r;
}

int bench_mixed(struct bench *b, struct error *err)
{
    static struct mixed m;
    uint32_t positions = b->batch * (BENCH_PROMPT_TOKENS + b->tokens + 2 + b->batch);
    int r = bench_adapters_open(b, m.adapters, BENCH_ADAPTERS_MAX, err);
    if (r < 0)
        return r;
    r = bench_engine_open(b, b->batch, positions + PROMPT_MEASURED, BENCH_ADAPTERS_MAX, false,
                          &m.engine, err);
    if (r == 0)
        r = compare_all(b, &m, err);
    engine_close(m.engine);
    bench_adapters_close(m.adapters, BENCH_ADAPTERS_MAX);
    return r;
}
