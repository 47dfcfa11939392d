/* See lora.h. */
#include "engine/lora.h"

#include <assert.h>

/* Rows of A, and rows of the batch, that one chunk takes. */
#define LORA_CHUNK_RANKS 16u
#define LORA_CHUNK_ROWS 64u
#define CACHE_LINE_BYTES 64u

struct shrink_job {
    struct forward *forward;
    const struct batch *batch;
    const struct linear *linears;
    uint32_t count;
};

/* --- which weights a row sees --- */

static const struct lora_group *group_of(const struct batch *b, uint32_t row)
{
    for (uint32_t g = 0; g < b->group_count; g++)
        if (row >= b->groups[g].row && row - b->groups[g].row < b->groups[g].row_count)
            return &b->groups[g];
    return NULL;
}

const struct backbone *lora_view(const struct forward *f, const struct batch *b, uint32_t row)
{
    const struct lora_group *g = group_of(b, row);
    return g ? &g->adapter->view : f->backbone;
}

/* NULL when this group's adapter puts no LoRA on the matrix. */
static const struct lora *lora_of(const struct lora_group *g, const struct linear *l)
{
    const struct lora *lora = adapter_linear(g->adapter, l->layer, l->index);
    return lora->a.data ? lora : NULL;
}

static struct linear_weights weights_of(const struct lora_group *g, const struct linear *l)
{
    const struct backbone *view = &g->adapter->view;
    if (l->index == LINEAR_HEAD)
        return (struct linear_weights){.weight = view->head};
    return view->layers[l->layer].linears[l->index];
}

/* --- embedding --- */

/* (E[token] + B A[:, token] scale) * embed_scale, and DoRA's factors. */
static void embed_row(const struct forward *f, const struct forward_row *row,
                      const struct lora_group *g, float *x)
{
    const struct weight *w = g ? &g->adapter->view.embed : &f->backbone->embed;
    const struct lora *l = g ? adapter_embed(g->adapter) : NULL;
    float embed_scale = f->backbone->config->embed_scale;
    f->kernels->load_row[w->dtype](x, w->data, w->cols, row->token);
    for (uint32_t i = 0; embed_scale != 1 && i < w->cols; i++)
        x[i] *= embed_scale;
    if (!l || !l->a.data)
        return;
    float *t = f->act.shrunk;
    size_t size = image_dtype_bytes(l->a.dtype);
    for (uint32_t k = 0; k < l->a.rows; k++) {
        const uint8_t *at =
            (const uint8_t *)l->a.data + ((size_t)k * l->a.cols + row->token) * size;
        f->kernels->load[l->a.dtype](t + k, at, 1);
        t[k] *= l->scale * g->scale * embed_scale;
    }
    f->kernels->matmul[l->b.dtype](x, w->cols, t, l->b.cols, l->b.data, NULL, 1, l->b.cols, 0,
                                   w->cols, 1);
    for (uint32_t i = 0; l->dora && i < w->cols; i++)
        x[i] *= l->dora[i];
}

void lora_embed(struct forward *f, const struct batch *b)
{
    uint32_t hidden = f->backbone->config->hidden;
    for (uint32_t r = 0; r < b->row_count; r++)
        embed_row(f, &b->rows[r], group_of(b, r), f->act.x + (size_t)r * hidden);
}

/* --- A x --- */

static struct lora_use *use_of(const struct forward *f, uint32_t linear, uint32_t group)
{
    return &f->act.uses[(size_t)linear * f->rows_max + group];
}

/* Parts of a fused projection have one A: the first of them shrinks for all. */
static uint32_t shrunk_index(const struct forward *f, uint32_t index, uint32_t group,
                             const struct lora *l)
{
    for (uint32_t i = 0; i < index; i++) {
        const struct lora *before = use_of(f, i, group)->lora;
        if (before && before->a.data == l->a.data)
            return i;
    }
    return index;
}

/* Once for each pass, as every chunk of it asks for all groups. */
static void find_uses(struct forward *f, const struct batch *b, const struct linear *linears,
                      uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t g = 0; g < b->group_count; g++) {
            const struct lora_group *group = &b->groups[g];
            const struct linear_weights *shared = linears[i].weights;
            struct lora_use use = {.lora = lora_of(group, &linears[i]),
                                   .own = weights_of(group, &linears[i])};
            uint32_t at = use.lora ? shrunk_index(f, i, g, use.lora) : i;
            use.shrinks = use.lora && at == i;
            use.shrunk = f->act.shrunk + ((size_t)at * f->rows_max + group->row) * ADAPTER_RANK_MAX;
            use.apart = (use.lora && use.lora->dora) ||
                        use.own.weight.data != shared->weight.data || use.own.bias != shared->bias;
            *use_of(f, i, g) = use;
        }
}

/* Where output 0 of a row stands or would stand, as kernels count outputs. */
static float *row_of(const struct linear *l, uint32_t row)
{
    return (float *)((uintptr_t)(l->y + row * l->y_stride) - l->y_begin * sizeof(float));
}

/* y[r, o] = x w^T + bias over rows [row, row + count) of a linear's input, with y [count, y_stride]
 * at the first of them. The input is in the form that the product takes: round_inputs() was there.
 */
static void product(const struct forward *f, const struct linear *l, const struct weight *w,
                    const float *bias, uint32_t row, uint32_t count, float *y, size_t y_stride,
                    uint32_t begin, uint32_t end)
{
    const struct kernels *k = f->kernels;
    size_t at = (size_t)row * w->cols;
    if (k->matmul_quantised[w->dtype])
        k->matmul_quantised[w->dtype](y, y_stride,
                                      f->act.quantised + row * kernel_quantised_bytes(w->cols),
                                      w->data, bias, count, w->cols, begin, end, 0);
    else if (k->matmul_half[w->dtype])
        k->matmul_half[w->dtype](y, y_stride, f->act.half + row * forward_half_stride(w->cols),
                                 forward_half_stride(w->cols), w->data, bias, count, w->cols, begin,
                                 end, 0);
    else
        k->matmul[w->dtype](y, y_stride, l->x + at, w->cols, w->data, bias, count, w->cols, begin,
                            end, 0);
}

/* Ranks from `begin` on for the group's rows from `first` on, as many as a chunk takes. */
static void shrink_block(struct forward *f, const struct lora_group *g, const struct lora_use *use,
                         const struct linear *linear, uint32_t begin, uint32_t first)
{
    const struct lora *l = use->lora;
    uint32_t rank = l->a.rows;
    uint32_t end = begin + LORA_CHUNK_RANKS < rank ? begin + LORA_CHUNK_RANKS : rank;
    uint32_t left = g->row_count - first;
    uint32_t count = left < LORA_CHUNK_ROWS ? left : LORA_CHUNK_ROWS;
    float *t = use->shrunk + (size_t)first * rank;
    float scale = l->scale * g->scale;
    assert(l->a.cols == linear->weights->weight.cols);
    product(f, linear, &l->a, NULL, g->row + first, count, t, rank, begin, end);
    for (uint32_t r = 0; r < count; r++)
        for (uint32_t i = begin; i < end; i++)
            t[(size_t)r * rank + i] *= l->rank_scales ? scale * l->rank_scales[i] : scale;
}

static uint32_t row_blocks(const struct lora_group *g)
{
    return (g->row_count + LORA_CHUNK_ROWS - 1) / LORA_CHUNK_ROWS;
}

/* Chunks that a group's adapter has to compute for one linear. */
static uint32_t shrink_blocks(const struct lora_group *g, const struct lora_use *use)
{
    if (!use->shrinks)
        return 0;
    return (use->lora->a.rows + LORA_CHUNK_RANKS - 1) / LORA_CHUNK_RANKS * row_blocks(g);
}

/* A chunk is a slice of ranks for a block of rows of one adapted linear of one group, counted in
 * the opposite order. */
static void shrink_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct shrink_job *job = argument;
    (void)thread;
    for (uint32_t g = 0; g < job->batch->group_count; g++) {
        const struct lora_group *group = &job->batch->groups[g];
        for (uint32_t i = 0; i < job->count; i++) {
            const struct lora_use *use = use_of(job->forward, i, g);
            uint32_t blocks = shrink_blocks(group, use);
            if (chunk < blocks) {
                shrink_block(job->forward, group, use, &job->linears[i],
                             chunk / row_blocks(group) * LORA_CHUNK_RANKS,
                             chunk % row_blocks(group) * LORA_CHUNK_ROWS);
                return;
            }
            chunk -= blocks;
        }
    }
}

void lora_shrink(struct forward *f, const struct batch *b, const struct linear *linears,
                 uint32_t count)
{
    struct shrink_job job = {f, b, linears, count};
    uint32_t chunks = 0;
    uint64_t work = 0;
    assert(count <= 3);
    find_uses(f, b, linears, count);
    for (uint32_t g = 0; g < b->group_count; g++) {
        for (uint32_t i = 0; i < count; i++) {
            const struct lora_use *use = use_of(f, i, g);
            uint32_t blocks = shrink_blocks(&b->groups[g], use);
            if (blocks == 0)
                continue;
            chunks += blocks;
            work += (uint64_t)b->groups[g].row_count * use->lora->a.rows * use->lora->a.cols;
        }
    }
    if (chunks)
        forward_run(f, work, shrink_chunk, &job, chunks);
}

/* --- outputs --- */

/* Rows [row, row + count) through one matrix. */
static void multiply(const struct forward *f, const struct linear *l,
                     const struct linear_weights *w, const float *bias, uint32_t row,
                     uint32_t count, uint32_t begin, uint32_t end)
{
    if (count > 0)
        product(f, l, &w->weight, bias, row, count, row_of(l, row), l->y_stride, begin, end);
}

static void expand(const struct forward *f, const struct lora_group *g, const struct lora_use *use,
                   const struct linear *linear, uint32_t begin, uint32_t end)
{
    const struct lora *l = use->lora;
    if (l)
        f->kernels->matmul[l->b.dtype](row_of(linear, g->row), linear->y_stride, use->shrunk,
                                       l->b.cols, l->b.data, NULL, g->row_count, l->b.cols, begin,
                                       end, 1);
}

/* The slices that adapters bring to a chunk are short and lie far apart, so that each would be
 * waited for by itself. Asked for together, before the product that they add to, they are there
 * when it is done. */
static void fetch_slices(const struct lora_use *uses, uint32_t count, uint32_t begin, uint32_t end)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct lora *l = uses[i].lora;
        if (!l)
            continue;
        size_t panel = image_panel_bytes(l->b.dtype, l->b.cols);
        size_t row = panel > 0 ? panel / KERNEL_PANEL_OUTS
                               : (size_t)l->b.cols * image_dtype_bytes(l->b.dtype);
        const char *slice = (const char *)l->b.data + begin * row;
        for (size_t at = 0; at < (end - begin) * row; at += CACHE_LINE_BYTES)
            __builtin_prefetch(slice + at, 0, 2);
    }
}

/* DoRA: the bias is not scaled. */
static void rescale(const struct lora_group *g, const struct linear *linear, const float *dora,
                    const float *bias, uint32_t begin, uint32_t end)
{
    for (uint32_t r = g->row; r < g->row + g->row_count; r++) {
        float *y = row_of(linear, r);
        for (uint32_t i = begin; i < end; i++)
            y[i] = y[i] * dora[i] + (bias ? bias[i] : 0);
    }
}

void lora_apply(const struct forward *f, const struct batch *b, const struct linear *linears,
                uint32_t at, uint32_t begin, uint32_t end)
{
    const struct linear *linear = &linears[at];
    const struct linear_weights *shared = linear->weights;
    const struct lora_use *uses = use_of(f, at, 0);
    uint32_t row = 0; /* the first that is not done yet */
    fetch_slices(uses, b->group_count, begin, end);
    for (uint32_t i = 0; i < b->group_count; i++) {
        const struct lora_group *g = &b->groups[i];
        const struct lora *l = uses[i].lora;
        if (!uses[i].apart)
            continue;
        multiply(f, linear, shared, shared->bias, row, g->row - row, begin, end);
        multiply(f, linear, &uses[i].own, l && l->dora ? NULL : uses[i].own.bias, g->row,
                 g->row_count, begin, end);
        row = g->row + g->row_count;
    }
    multiply(f, linear, shared, shared->bias, row, b->row_count - row, begin, end);
    for (uint32_t i = 0; i < b->group_count; i++) {
        const struct lora_group *g = &b->groups[i];
        const struct lora *l = uses[i].lora;
        expand(f, g, &uses[i], linear, begin, end);
        if (l && l->dora)
            rescale(g, linear, l->dora, uses[i].own.bias, begin, end);
    }
}
