/* See lora.h. */
#include "engine/lora.h"

#include <assert.h>

/* Rows of A that one chunk takes. */
#define LORA_CHUNK_RANKS 16u

struct shrink_job {
    struct forward *forward;
    const struct batch *batch;
    const struct linear *linears;
    uint32_t count;
    uint32_t layer;
};

/* NULL when this group's adapter leaves the matrix alone. */
static const struct lora *lora_of(const struct lora_group *g, uint32_t layer,
                                  enum adapter_module module)
{
    if (module == ADAPTER_MODULE_COUNT)
        return NULL;
    const struct lora *l = adapter_module(g->adapter, layer, module);
    return l->a.data ? l : NULL;
}

/* [row_count of the group, rank], packed. */
static float *shrunk_at(const struct forward *f, const struct lora_group *g, uint32_t index)
{
    return f->act.shrunk + ((size_t)index * f->rows_max + g->row) * ADAPTER_RANK_MAX;
}

static void shrink_ranks(struct forward *f, const struct lora_group *g, const struct lora *l,
                         const struct linear *linear, uint32_t index, uint32_t begin)
{
    uint32_t rank = l->a.rows, in = l->a.cols;
    uint32_t end = begin + LORA_CHUNK_RANKS < rank ? begin + LORA_CHUNK_RANKS : rank;
    float *t = shrunk_at(f, g, index);
    assert(in == linear->weight->cols);
    f->kernels->matmul[l->a.dtype](t, rank, linear->x + (size_t)g->row * in, in, l->a.data, NULL,
                                   g->row_count, in, begin, end, 0);
    for (uint32_t r = 0; r < g->row_count; r++)
        for (uint32_t i = begin; i < end; i++)
            t[(size_t)r * rank + i] *= l->scale;
}

/* A chunk is a slice of ranks of one adapted linear of one group, counted in that order. */
static void shrink_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct shrink_job *job = argument;
    (void)thread;
    for (uint32_t g = 0; g < job->batch->group_count; g++) {
        const struct lora_group *group = &job->batch->groups[g];
        for (uint32_t i = 0; i < job->count; i++) {
            const struct lora *l = lora_of(group, job->layer, job->linears[i].module);
            uint32_t slices = l ? (l->a.rows + LORA_CHUNK_RANKS - 1) / LORA_CHUNK_RANKS : 0;
            if (chunk < slices) {
                shrink_ranks(job->forward, group, l, &job->linears[i], i, chunk * LORA_CHUNK_RANKS);
                return;
            }
            chunk -= slices;
        }
    }
}

void lora_shrink(struct forward *f, const struct batch *b, uint32_t layer,
                 const struct linear *linears, uint32_t count)
{
    struct shrink_job job = {f, b, linears, count, layer};
    uint32_t chunks = 0;
    uint64_t work = 0;
    assert(count <= 3);
    for (uint32_t g = 0; g < b->group_count; g++) {
        for (uint32_t i = 0; i < count; i++) {
            const struct lora *l = lora_of(&b->groups[g], layer, linears[i].module);
            if (!l)
                continue;
            chunks += (l->a.rows + LORA_CHUNK_RANKS - 1) / LORA_CHUNK_RANKS;
            work += (uint64_t)b->groups[g].row_count * l->a.rows * l->a.cols;
        }
    }
    if (chunks)
        forward_run(f, work, shrink_chunk, &job, chunks);
}

void lora_expand(const struct forward *f, const struct batch *b, uint32_t layer,
                 const struct linear *linear, uint32_t index, uint32_t begin, uint32_t end)
{
    uint32_t out = linear->weight->rows;
    for (uint32_t g = 0; g < b->group_count; g++) {
        const struct lora_group *group = &b->groups[g];
        const struct lora *l = lora_of(group, layer, linear->module);
        if (!l)
            continue;
        f->kernels->matmul[l->b.dtype](linear->y + (size_t)group->row * out, out,
                                       shrunk_at(f, group, index), l->b.cols, l->b.data, NULL,
                                       group->row_count, l->b.cols, begin, end, 1);
    }
}
