/*
 * Launches recorded and done again. A decoding batch asks for hundreds of launches a step, the same
 * as in the step before; recorded they cost the host one call, and the GPU less between them. See
 * ops_gpu.h.
 */
#include "engine/ops_gpu.h"

#include <string.h>

/* --- attention in spans --- */

uint32_t gpu_splits(const struct forward *f, const struct batch *b, enum model_layer_kind kind)
{
    const struct forward_gpu *g = f->gpu;
    const struct model_config *c = f->backbone->config;
    bool slides = kind == MODEL_LAYER_SLIDING && c->sliding_window > 0;
    uint32_t window = slides ? c->sliding_window : UINT32_MAX;
    uint64_t blocks = (uint64_t)g->tile_count * c->kv_head_count, spans = 1;
    uint32_t heads = c->head_count / c->kv_head_count;
    uint64_t queries = CUDA_SPAN_QUERIES(heads);
    if (blocks >= 2ull * gpu_device_look(g->device)->multiprocessors)
        return 1;
    for (uint32_t i = 0; i < g->tile_count; i++) {
        const struct cuda_tile *t = &g->here.tiles[i];
        uint32_t position = b->rows[t->row].position;
        uint32_t begin = position + 1 > window ? position + 1 - window : 0;
        uint32_t last = position + t->row_count - 1;
        uint64_t n = last / CUDA_SPAN_TOKENS - begin / CUDA_SPAN_TOKENS + 1;
        spans = n > spans ? n : spans;
    }
    bool fits = blocks * spans * queries * (c->head_dim + 2) * sizeof(float) <= g->spans_bytes;
    return fits ? (uint32_t)spans : 1;
}

/* --- shapes --- */

/* What is not used of it is 0, so that shapes compare as bytes. */
static void take_shape(struct gpu_shape *s, const struct forward *f, const struct batch *b)
{
    memset(s, 0, sizeof(*s));
    s->row_count = b->row_count;
    s->tile_count = f->gpu->tile_count;
    s->group_count = b->group_count;
    for (uint32_t kind = 0; kind < MODEL_LAYER_KIND_COUNT; kind++)
        s->splits[kind] = f->has_kind[kind] ? gpu_splits(f, b, kind) : 0;
    for (uint32_t i = 0; i < b->group_count && i < CUDA_SKINNY_ROWS_MAX; i++) {
        s->groups[i].adapter = b->groups[i].adapter;
        s->groups[i].row = b->groups[i].row;
        s->groups[i].row_count = b->groups[i].row_count;
    }
}

static bool same_shape(const struct gpu_shape *a, const struct gpu_shape *b)
{
    return memcmp(a, b, sizeof(*a)) == 0;
}

/* The place of this shape, or NULL. */
static struct gpu_layers *find(struct forward_gpu *g, const struct gpu_shape *s)
{
    for (uint32_t i = 0; i < GPU_GRAPHS_MAX; i++) {
        if (g->layers[i].graph && same_shape(&g->layers[i].shape, s))
            return &g->layers[i];
    }
    return NULL;
}

/* A free place, or that of the shape that has been away for longest. */
static struct gpu_layers *make_place(struct forward_gpu *g)
{
    struct gpu_layers *oldest = &g->layers[0];
    for (uint32_t i = 0; i < GPU_GRAPHS_MAX && oldest->graph; i++) {
        if (!g->layers[i].graph || g->layers[i].used < oldest->used)
            oldest = &g->layers[i];
    }
    gpu_graph_free(oldest->graph);
    oldest->graph = NULL;
    return oldest;
}

/* --- the layers of a batch --- */

bool gpu_layers_begin(struct forward *f, const struct batch *b)
{
    struct forward_gpu *g = f->gpu;
    g->before = g->shape;
    take_shape(&g->shape, f, b);
    g->batch_number++;
    if (b->row_count > CUDA_SKINNY_ROWS_MAX) /* prompts: each has a shape of its own */
        return false;
    struct gpu_layers *known = find(g, &g->shape);
    if (known) {
        known->used = g->batch_number;
        gpu_replay(known->graph);
        return true;
    }
    if (same_shape(&g->shape, &g->before)) {
        g->recording = make_place(g);
        gpu_record_begin(g->device);
    }
    return false;
}

void gpu_layers_end(struct forward *f)
{
    struct forward_gpu *g = f->gpu;
    if (!g->recording)
        return;
    g->recording->graph = gpu_record_end(g->device);
    g->recording->shape = g->shape;
    g->recording->used = g->batch_number;
    if (g->recording->graph)
        gpu_replay(g->recording->graph);
    g->recording = NULL;
}

void gpu_layers_forget(struct forward *f)
{
    for (uint32_t i = 0; i < GPU_GRAPHS_MAX; i++) {
        gpu_graph_free(f->gpu->layers[i].graph);
        f->gpu->layers[i].graph = NULL;
    }
}
