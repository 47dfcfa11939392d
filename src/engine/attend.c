/* See attend.h. */
#include "engine/attend.h"

#include <assert.h>

#include "engine/forward.h"

/* Queries (rows x heads of a group) of a tile: enough that keys and values come from cache once for
 * many, few enough that their scores stay in the second-level cache. */
#define TILE_QUERIES 64u

/* So that threads end together. */
#define CHUNKS_PER_THREAD 4u

struct attend_job {
    struct forward *forward;
    const struct batch *batch;
    uint32_t layer;
    uint32_t spans_max; /* most that a tile of this batch sees */
};

/* What one tile attends to in one KV head. */
struct attended_tile {
    struct kernel_attended a;
    const struct kv_blocks *kv;
    uint32_t kv_head;
    uint32_t query_count;
    uint32_t first_span;
    uint32_t span_count;
    float *out;
};

static uint32_t group_heads(const struct forward *f)
{
    return f->backbone->config->head_count / f->backbone->config->kv_head_count;
}

static uint32_t window_of(const struct forward *f, uint32_t layer)
{
    const struct model_config *c = f->backbone->config;
    bool slides = model_layer_kind(c, layer) == MODEL_LAYER_SLIDING && c->sliding_window > 0;
    return slides ? c->sliding_window : UINT32_MAX;
}

/* --- before the layers --- */

static void angles(struct forward *f, const struct batch *b)
{
    for (uint32_t kind = 0; kind < MODEL_LAYER_KIND_COUNT; kind++) {
        const struct rope *rope = &f->ropes[kind];
        if (!f->has_kind[kind])
            continue;
        size_t half = rope->half_dim;
        for (size_t r = 0; r < b->row_count; r++)
            rope_angles(rope, b->rows[r].position, b->rows[r].is_long, f->act.cos[kind] + r * half,
                        f->act.sin[kind] + r * half);
    }
}

/* As many rows to a tile as leave work for every thread. */
static void cut_tiles(struct forward *f, const struct batch *b)
{
    struct attend *at = &f->attend;
    uint32_t rows_max = b->row_count * f->backbone->config->kv_head_count / at->split_max;
    rows_max = rows_max < at->tile_rows_max ? rows_max : at->tile_rows_max;
    at->tile_count = 0;
    for (uint32_t r = 0; r < b->row_count; r++) {
        struct attend_tile *t = at->tile_count > 0 ? &at->tiles[at->tile_count - 1] : NULL;
        if (t && t->row_count < rows_max && b->rows[r].kv == b->rows[r - 1].kv &&
            b->rows[r].position == b->rows[r - 1].position + 1)
            t->row_count++;
        else
            at->tiles[at->tile_count++] = (struct attend_tile){r, 1};
    }
}

void attend_begin(struct forward *f, const struct batch *b)
{
    angles(f, b);
    cut_tiles(f, b);
}

/* --- the cache --- */

/* Rotates q and k of a tile's rows and stores k and v in the cache. */
static void remember_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct attend_job *job = argument;
    const struct forward *f = job->forward;
    const struct model_config *c = f->backbone->config;
    const struct attend_tile *tile = &f->attend.tiles[chunk];
    enum model_layer_kind kind = model_layer_kind(c, job->layer);
    size_t half = f->ropes[kind].half_dim;
    (void)thread;

    for (size_t r = tile->row; r < tile->row + tile->row_count; r++) {
        const struct forward_row *row = &job->batch->rows[r];
        const float *cos = f->act.cos[kind] + r * half, *sin = f->act.sin[kind] + r * half;
        float *k = f->act.k + r * f->kv_width;
        const float *v = f->act.v + r * f->kv_width;
        f->kernels->rope(f->act.q + r * f->q_width, cos, sin, c->head_count, c->head_dim,
                         c->rotary_dim);
        f->kernels->rope(k, cos, sin, c->kv_head_count, c->head_dim, c->rotary_dim);
        assert(row->position / KERNEL_KV_TOKENS < row->kv->count);
        uint32_t block = row->kv->ids[row->position / KERNEL_KV_TOKENS];
        for (uint32_t h = 0; h < c->kv_head_count; h++)
            f->kernels->kv_store[f->kv_type](kv_head_at(f->kv, block, job->layer, h),
                                             row->position % KERNEL_KV_TOKENS, k + h * c->head_dim,
                                             v + h * c->head_dim, c->head_dim);
    }
}

/* --- attention --- */

static struct kernel_attention attention_at(float *at, uint32_t queries, uint32_t dim)
{
    float *largest = at + (size_t)queries * dim;
    return (struct kernel_attention){at, largest, largest + queries};
}

static uint64_t attention_bytes(uint32_t queries, uint32_t dim)
{
    return ((uint64_t)queries * (dim + 2) * sizeof(float) + 63) / 64 * 64;
}

/* Tiles of one KV head follow each other. */
static struct attended_tile attended_tile(const struct attend_job *job, uint32_t index,
                                          uint32_t thread)
{
    const struct forward *f = job->forward;
    const struct model_config *c = f->backbone->config;
    const struct attend_tile *tile = &f->attend.tiles[index % f->attend.tile_count];
    const struct forward_row *row = &job->batch->rows[tile->row];
    uint32_t heads = group_heads(f), window = window_of(f, job->layer);
    uint32_t begin = row->position + 1 > window ? row->position + 1 - window : 0;
    uint32_t last_position = row->position + tile->row_count - 1;
    struct attended_tile t = {
        .kv = row->kv,
        .kv_head = index / f->attend.tile_count,
        .query_count = tile->row_count * heads,
        .first_span = begin / KERNEL_SPAN_TOKENS,
    };
    size_t at = (size_t)tile->row * f->q_width + (size_t)t.kv_head * heads * c->head_dim;
    t.span_count = last_position / KERNEL_SPAN_TOKENS - t.first_span + 1;
    t.out = f->act.h + at;
    t.a = (struct kernel_attended){
        .position = row->position,
        .row_count = tile->row_count,
        .window = window,
        .q = f->act.q + at,
        .q_stride = f->q_width,
        .heads = heads,
        .dim = c->head_dim,
        .scale = c->attention_scale,
        .scratch = f->scratch[thread].attend,
    };
    return t;
}

/* Span `index` of those that the tile sees. */
static void attend_span(const struct attend_job *job, struct attended_tile *t, uint32_t index,
                        struct kernel_attention *ret)
{
    const struct forward *f = job->forward;
    const void *blocks[KERNEL_SPAN_BLOCKS] = {0};
    uint32_t first_block = (t->first_span + index) * KERNEL_SPAN_BLOCKS;
    uint32_t first_position = t->a.position + 1 > t->a.window ? t->a.position + 1 - t->a.window : 0;
    uint32_t seen = first_position / KERNEL_KV_TOKENS;
    uint32_t last = (t->a.position + t->a.row_count - 1) / KERNEL_KV_TOKENS;
    for (uint32_t i = 0; i < KERNEL_SPAN_BLOCKS && first_block + i <= last; i++)
        if (first_block + i >= seen)
            blocks[i] = kv_head_at(f->kv, t->kv->ids[first_block + i], job->layer, t->kv_head);
    t->a.blocks = blocks;
    t->a.span_begin = first_block * KERNEL_KV_TOKENS;
    f->kernels->attend[f->kv_type](ret, &t->a);
}

/* All that a tile sees. */
static void attend_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct attend_job *job = argument;
    const struct forward *f = job->forward;
    struct attended_tile t = attended_tile(job, chunk, thread);
    const struct forward_scratch *s = &f->scratch[thread];
    struct kernel_attention all = attention_at(s->spans[0], t.query_count, t.a.dim);
    struct kernel_attention span = attention_at(s->spans[1], t.query_count, t.a.dim);
    attend_span(job, &t, 0, &all);
    for (uint32_t i = 1; i < t.span_count; i++) {
        attend_span(job, &t, i, &span);
        f->kernels->attend_join(&all, &span, t.query_count, t.a.dim);
    }
    f->kernels->attend_end(t.out, f->q_width, &all, t.a.row_count, t.a.heads, t.a.dim);
}

/* Of tile `index`, a single row. */
static struct kernel_attention span_of(const struct forward *f, uint32_t index, uint32_t span)
{
    uint32_t heads = group_heads(f), dim = f->backbone->config->head_dim;
    uint64_t floats = attention_bytes(heads, dim) / sizeof(float);
    uint64_t at = (uint64_t)index * f->attend.spans_max + span;
    return attention_at(f->attend.spans + at * floats, heads, dim);
}

static void span_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct attend_job *job = argument;
    uint32_t index = chunk / job->spans_max, span = chunk % job->spans_max;
    struct attended_tile t = attended_tile(job, index, thread);
    struct kernel_attention ret = span_of(job->forward, index, span);
    if (span < t.span_count)
        attend_span(job, &t, span, &ret);
}

static void join_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct attend_job *job = argument;
    const struct forward *f = job->forward;
    struct attended_tile t = attended_tile(job, chunk, thread);
    struct kernel_attention all = span_of(f, chunk, 0);
    for (uint32_t i = 1; i < t.span_count; i++) {
        struct kernel_attention span = span_of(f, chunk, i);
        f->kernels->attend_join(&all, &span, t.query_count, t.a.dim);
    }
    f->kernels->attend_end(t.out, f->q_width, &all, t.a.row_count, t.a.heads, t.a.dim);
}

void forward_attend(struct forward *f, const struct batch *b, uint32_t layer)
{
    struct attend_job job = {f, b, layer, 0};
    uint32_t window = window_of(f, layer);
    uint32_t index_count = f->attend.tile_count * f->backbone->config->kv_head_count;
    uint64_t positions = 0;
    for (uint32_t r = 0; r < b->row_count; r++) {
        uint32_t end = b->rows[r].position + 1, begin = end > window ? end - window : 0;
        uint32_t spans = (end - 1) / KERNEL_SPAN_TOKENS - begin / KERNEL_SPAN_TOKENS + 1;
        job.spans_max = spans > job.spans_max ? spans : job.spans_max;
        positions += end - begin;
    }
    forward_run(f, (uint64_t)b->row_count * (f->q_width + 2 * f->kv_width), remember_chunk, &job,
                f->attend.tile_count);
    if (index_count >= f->attend.split_max || job.spans_max == 1) {
        forward_run(f, positions * f->q_width * 2, attend_chunk, &job, index_count);
        return;
    }
    forward_run(f, positions * f->q_width * 2, span_chunk, &job, index_count * job.spans_max);
    forward_run(f, (uint64_t)b->row_count * job.spans_max * f->q_width, join_chunk, &job,
                index_count);
}

/* --- memory --- */

void attend_init(struct forward *f, uint32_t threads, uint32_t context_max)
{
    struct attend *at = &f->attend;
    at->tile_rows_max = TILE_QUERIES / group_heads(f);
    at->tile_rows_max = at->tile_rows_max > 0 ? at->tile_rows_max : 1;
    at->split_max = threads * CHUNKS_PER_THREAD;
    at->spans_max = (context_max + KERNEL_SPAN_TOKENS - 1) / KERNEL_SPAN_TOKENS;
}

void attend_lay_out(struct forward *f, uint32_t threads, uint8_t *base, uint64_t *offset)
{
    struct attend *at = &f->attend;
    uint32_t heads = group_heads(f), dim = f->backbone->config->head_dim;
    uint32_t queries = at->tile_rows_max * heads;
    at->tiles = forward_carve(base, offset, f->rows_max * sizeof(*at->tiles));
    at->spans = forward_carve(
        base, offset, (uint64_t)at->split_max * at->spans_max * attention_bytes(heads, dim));
    for (uint32_t t = 0; t < threads; t++) {
        struct forward_scratch *s = &f->scratch[t];
        s->attend = forward_carve(base, offset, kernel_attend_scratch_bytes(queries, dim));
        for (uint32_t i = 0; i < 2; i++)
            s->spans[i] = forward_carve(base, offset, attention_bytes(queries, dim));
    }
}
