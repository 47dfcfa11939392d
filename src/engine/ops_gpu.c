/*
 * The boxes of forward() on a GPU: each one is a launch or two. Sums have the same order whatever
 * else is in the batch, as on the host. See ops_gpu.h and kernels/cuda/cuda.h.
 */
#include "engine/ops_gpu.h"

#include "engine/engine.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

static const char *const kernel_names[] = CUDA_KERNEL_NAMES;
_Static_assert(sizeof kernel_names / sizeof kernel_names[0] == CUDA_KERNEL_COUNT,
               "a kernel, a name");

extern const uint8_t cuda_image[];
extern const uint8_t cuda_image_end[];

int engine_gpu_open(struct gpu_device **ret, uint32_t index, struct error *err)
{
    const struct gpu_kernels kernels = {cuda_image, (uint64_t)(cuda_image_end - cuda_image),
                                        kernel_names, CUDA_KERNEL_COUNT};
    return gpu_device_open(ret, index, &kernels, err);
}

static void launch(const struct forward *f, enum cuda_kernel kernel, uint32_t x, uint32_t y,
                   uint32_t z, uint32_t threads, uint32_t shared_bytes, const void *job)
{
    const struct gpu_launch l = {kernel, {x, y, z}, threads, shared_bytes};
    gpu_launch(f->gpu->device, &l, job);
}

static uint16_t *half_of(const struct forward *f)
{
    return (uint16_t *)f->act.h;
}

/* --- runs of rows --- */

/* Rows that see the same tensor: of the bare backbone, or of groups whose adapters bring none of
 * their own. */
struct run {
    uint32_t row, end;
    uint32_t next; /* group to look at */
    const void *data;
    const struct lora_group *group; /* one of those that see it; NULL: the bare backbone does */
};

/* What the rows of a group see, or of the bare backbone (NULL), as it lies on the GPU. */
typedef const void *seen_fn(const struct forward *f, const struct lora_group *group,
                            const void *what);

/* The next run after *r, which begins as {0}; false at the end. */
static bool next_run(const struct forward *f, const struct batch *b, seen_fn *seen,
                     const void *what, struct run *r)
{
    r->row = r->end;
    r->data = NULL;
    while (r->end < b->row_count) {
        const struct lora_group *group = r->next < b->group_count ? &b->groups[r->next] : NULL;
        bool is_bare = !group || r->end < group->row;
        const void *data = seen(f, is_bare ? NULL : group, what);
        if (r->end > r->row && data != r->data)
            return true;
        if (r->end == r->row)
            r->group = is_bare ? NULL : group;
        r->data = data;
        r->end = is_bare ? group ? group->row : b->row_count : group->row + group->row_count;
        r->next += !is_bare;
    }
    return r->end > r->row;
}

static const struct backbone *view_of(const struct forward *f, const struct lora_group *group)
{
    return group ? &group->adapter->view : f->backbone;
}

static const void *place_of(const struct forward *f, const struct lora_group *group,
                            const void *data)
{
    return gpu_place(f, group ? group->adapter : NULL, data);
}

static struct cuda_weight weight_of(const struct forward *f, const struct lora_group *group,
                                    const struct weight *w)
{
    return (struct cuda_weight){place_of(f, group, w->data), w->dtype, w->rows, w->cols, 0};
}

/* --- embeddings --- */

static const void *seen_embed(const struct forward *f, const struct lora_group *group,
                              const void *what)
{
    (void)what;
    return place_of(f, group, view_of(f, group)->embed.data);
}

static void embed_lora(const struct forward *f, const struct lora_group *group)
{
    const struct lora *l = adapter_embed(group->adapter);
    if (!l->a.data)
        return;
    const struct cuda_embed_lora job = {
        .x = f->act.x,
        .rows = f->gpu->there.rows,
        .a = weight_of(f, group, &l->a),
        .b = weight_of(f, group, &l->b),
        .dora = place_of(f, group, l->dora),
        .scale = l->scale * group->scale * f->backbone->config->embed_scale,
        .row = group->row,
    };
    launch(f, CUDA_EMBED_LORA, group->row_count, 1, 1, CUDA_EMBED_LORA_THREADS,
           l->a.rows * (uint32_t)sizeof(float), &job);
}

static void gpu_begin(struct forward *f, const struct batch *b)
{
    struct run r = {0};
    gpu_tables_send(f, b);
    while (next_run(f, b, seen_embed, NULL, &r)) {
        const struct cuda_embed job = {
            .x = f->act.x,
            .rows = f->gpu->there.rows,
            .embed = weight_of(f, r.group, &view_of(f, r.group)->embed),
            .scale = f->backbone->config->embed_scale,
            .row = r.row,
        };
        launch(f, CUDA_EMBED, r.end - r.row, 1, 1, CUDA_EMBED_THREADS, 0, &job);
    }
    for (uint32_t i = 0; i < b->group_count; i++)
        embed_lora(f, &b->groups[i]);
}

/* --- norms and the residual stream --- */

struct norm_place {
    uint32_t layer;
    enum norm_index norm;
};

static const void *seen_norm(const struct forward *f, const struct lora_group *group,
                             const void *what)
{
    const struct norm_place *n = what;
    return place_of(f, group, view_of(f, group)->layers[n->layer].norms[n->norm]);
}

static void gpu_norm(struct forward *f, const struct batch *b, uint32_t layer, enum norm_index norm,
                     float *y, const float *x, uint32_t width, uint32_t count)
{
    const struct norm_place place = {layer, norm};
    bool is_input = y == f->act.h; /* of linears, which read bf16 */
    struct run r = {0};
    while (next_run(f, b, seen_norm, &place, &r)) {
        const struct cuda_norm job = {
            .x = x,
            .y = is_input ? NULL : y,
            .half = is_input ? half_of(f) : NULL,
            .weight = r.data,
            .width = width,
            .half_stride = gpu_half_stride(width),
            .first = r.row * count,
            .eps = f->backbone->config->norm_eps,
        };
        launch(f, CUDA_NORM, (r.end - r.row) * count, 1, 1, CUDA_NORM_THREADS, 0, &job);
    }
}

struct residual_place {
    uint32_t layer, next_layer;
    enum norm_index post, next;
};

/* Both norms are the backbone's, or at least one is the group's own. */
static const void *seen_layer(const struct forward *f, const struct lora_group *group,
                              const void *what)
{
    const struct residual_place *p = what;
    const struct backbone_layer *mine = view_of(f, group)->layers, *shared = f->backbone->layers;
    bool is_shared = mine[p->layer].norms[p->post] == shared[p->layer].norms[p->post] &&
                     (p->next == NORM_NONE ||
                      mine[p->next_layer].norms[p->next] == shared[p->next_layer].norms[p->next]);
    return is_shared ? NULL : group;
}

static void gpu_residual(struct forward *f, const struct batch *b, uint32_t layer,
                         enum norm_index post_norm, uint32_t next_layer, enum norm_index next_norm)
{
    const struct model_config *c = f->backbone->config;
    const struct residual_place place = {layer, next_layer, post_norm, next_norm};
    struct run r = {0};
    while (next_run(f, b, seen_layer, &place, &r)) {
        const struct backbone_layer *layers = view_of(f, r.group)->layers;
        const struct cuda_residual job = {
            .x = f->act.x,
            .y = f->act.y,
            .post = c->post_norms ? place_of(f, r.group, layers[layer].norms[post_norm]) : NULL,
            .next = next_norm == NORM_NONE
                        ? NULL
                        : place_of(f, r.group, layers[next_layer].norms[next_norm]),
            .half = half_of(f),
            .width = c->hidden,
            .half_stride = gpu_half_stride(c->hidden),
            .row = r.row,
            .eps = c->norm_eps,
        };
        launch(f, CUDA_RESIDUAL, r.end - r.row, 1, 1, CUDA_NORM_THREADS, 0, &job);
    }
}

/* --- linears --- */

static struct linear_weights own_of(const struct lora_group *group, const struct linear *l)
{
    const struct backbone *view = &group->adapter->view;
    if (l->index == LINEAR_HEAD)
        return (struct linear_weights){.weight = view->head};
    return view->layers[l->layer].linears[l->index];
}

static const float *dora_of(const struct lora_group *group, const struct linear *l)
{
    const struct lora *lora = adapter_linear(group->adapter, l->layer, l->index);
    return lora->a.data ? lora->dora : NULL;
}

/* The rows of a group go through other weights, or another order of bias and LoRA. */
static bool is_apart(const struct lora_group *group, const struct linear *l)
{
    struct linear_weights own = own_of(group, l);
    return dora_of(group, l) || own.weight.data != l->weights->weight.data ||
           own.bias != l->weights->bias;
}

/* Rows [row, end) through up to three linears; `group` has weights of its own, or is NULL. */
static void multiply(const struct forward *f, const struct lora_group *group,
                     const struct linear *linears, uint32_t count, uint32_t row, uint32_t end)
{
    uint32_t stride = gpu_half_stride(linears[0].weights->weight.cols);
    struct cuda_linears job = {
        .x = half_of(f) + (size_t)row * stride,
        .half_stride = stride,
        .row_count = end - row,
        .count = count,
    };
    if (row >= end)
        return;
    for (uint32_t i = 0; i < count; i++) {
        const struct linear *l = &linears[i];
        struct linear_weights w = group ? own_of(group, l) : *l->weights;
        bool is_later = group && dora_of(group, l); /* DoRA does not scale the bias */
        job.linears[i] = (struct cuda_linear){
            .w = weight_of(f, group, &w.weight),
            .bias = is_later ? NULL : place_of(f, group, w.bias),
            .y = l->y + row * l->y_stride,
            .y_stride = l->y_stride,
        };
    }
    if (job.row_count <= CUDA_SKINNY_ROWS_MAX)
        launch(f, CUDA_LINEARS, cuda_linears_blocks(&job, CUDA_LINEARS_OUTS), 1, 1,
               CUDA_LINEARS_THREADS, 0, &job);
    else
        launch(f, CUDA_TILES, cuda_linears_blocks(&job, CUDA_TILE_OUTS),
               (job.row_count + CUDA_TILE_ROWS - 1) / CUDA_TILE_ROWS, 1, CUDA_TILES_THREADS,
               CUDA_TILES_SHARED_BYTES, &job);
}

/* All rows through the backbone's weights, but those of groups that are apart in some of them. */
static void multiply_all(const struct forward *f, const struct batch *b,
                         const struct linear *linears, uint32_t count)
{
    uint32_t row = 0;
    for (uint32_t g = 0; g < b->group_count; g++) {
        const struct lora_group *group = &b->groups[g];
        bool apart = false;
        for (uint32_t i = 0; i < count; i++)
            apart |= is_apart(group, &linears[i]);
        if (!apart)
            continue;
        multiply(f, NULL, linears, count, row, group->row);
        for (uint32_t i = 0; i < count; i++) /* one by one: they may be of different kinds */
            multiply(f, group, &linears[i], 1, group->row, group->row + group->row_count);
        row = group->row + group->row_count;
    }
    multiply(f, NULL, linears, count, row, b->row_count);
}

/* The most ranks that any adapter of the batch has on these linears; 0: none has any. */
static uint32_t rank_of(const struct forward *f, const struct linear *linears, uint32_t count)
{
    const uint32_t *ranks = f->gpu->ranks + gpu_linear_at(f, linears[0].layer, linears[0].index);
    uint32_t most = 0;
    for (uint32_t i = 0; i < count; i++)
        most = ranks[i] > most ? ranks[i] : most;
    return most;
}

static const struct cuda_lora_use *uses_of(const struct forward *f, const struct linear *first)
{
    const struct forward_gpu *g = f->gpu;
    return g->there.uses + (size_t)gpu_linear_at(f, first->layer, first->index) * g->group_count;
}

/* t = scale (A x), for all rows with adapters, each at its true rank. */
static void shrink(const struct forward *f, const struct batch *b, const struct cuda_row *rows,
                   const struct linear *linears, uint32_t count, uint32_t rank)
{
    const struct forward_gpu *g = f->gpu;
    uint32_t cols = linears[0].weights->weight.cols, first = b->groups[0].row;
    const struct cuda_shrink job = {
        .t = (float *)(uintptr_t)gpu_memory_address(g->shrunk),
        .x = half_of(f),
        .rows = rows,
        .uses = uses_of(f, linears),
        .half_stride = gpu_half_stride(cols),
        .cols = cols,
        .group_count = g->group_count,
        .rank_stride = rank,
        .row = first,
        .row_count = b->row_count,
    };
    launch(f, CUDA_SHRINK, (rank + CUDA_SHRINK_RANKS - 1) / CUDA_SHRINK_RANKS, b->row_count - first,
           count, CUDA_SHRINK_THREADS, 0, &job);
}

/* y += B t */
static void expand(const struct forward *f, const struct batch *b, const struct cuda_row *rows,
                   const struct linear *linears, uint32_t count, uint32_t rank)
{
    const struct forward_gpu *g = f->gpu;
    uint32_t first = b->groups[0].row, most = 0;
    struct cuda_expand job = {
        .t = (const float *)(uintptr_t)gpu_memory_address(g->shrunk),
        .rows = rows,
        .uses = uses_of(f, linears),
        .group_count = g->group_count,
        .rank_stride = rank,
        .row = first,
        .row_count = b->row_count,
    };
    for (uint32_t i = 0; i < count; i++) {
        job.y[i] = linears[i].y;
        job.y_stride[i] = linears[i].y_stride;
        job.outputs[i] = linears[i].weights->weight.rows;
        most = job.outputs[i] > most ? job.outputs[i] : most;
    }
    launch(f, CUDA_EXPAND, (most + CUDA_EXPAND_THREADS - 1) / CUDA_EXPAND_THREADS,
           b->row_count - first, count, CUDA_EXPAND_THREADS, 0, &job);
}

static void rescale(const struct forward *f, const struct batch *b, const struct linear *l)
{
    for (uint32_t i = 0; i < b->group_count; i++) {
        const struct lora_group *group = &b->groups[i];
        const float *dora = dora_of(group, l);
        if (!dora)
            continue;
        const struct cuda_rescale job = {
            .y = l->y,
            .y_stride = l->y_stride,
            .dora = place_of(f, group, dora),
            .bias = place_of(f, group, own_of(group, l).bias),
            .outputs = l->weights->weight.rows,
            .row = group->row,
        };
        launch(f, CUDA_RESCALE, (job.outputs + CUDA_EXPAND_THREADS - 1) / CUDA_EXPAND_THREADS,
               group->row_count, 1, CUDA_EXPAND_THREADS, 0, &job);
    }
}

/* A x comes first: the products with the backbone, which are many, begin meanwhile. */
static void apply(const struct forward *f, const struct batch *b, const struct cuda_row *rows,
                  const struct linear *linears, uint32_t count)
{
    uint32_t rank = b->group_count > 0 ? rank_of(f, linears, count) : 0;
    if (rank > 0)
        shrink(f, b, rows, linears, count, rank);
    multiply_all(f, b, linears, count);
    if (rank > 0)
        expand(f, b, rows, linears, count, rank);
    for (uint32_t i = 0; i < count; i++)
        rescale(f, b, &linears[i]);
}

static void gpu_linears(struct forward *f, const struct batch *b, const struct linear *linears,
                        uint32_t count)
{
    apply(f, b, f->gpu->there.rows, linears, count);
}

static void gpu_gated(struct forward *f, const struct batch *b, const struct linear linears[2])
{
    const struct model_config *c = f->backbone->config;
    struct linear gate_up[2] = {linears[0], linears[1]};
    gate_up[1].y = f->gpu->up;
    apply(f, b, f->gpu->there.rows, gate_up, 2);
    const struct cuda_gated job = {
        .gate = gate_up[0].y,
        .up = gate_up[1].y,
        .half = half_of(f),
        .width = c->ffn,
        .half_stride = gpu_half_stride(c->ffn),
        .is_gelu = c->activation == MODEL_GELU_TANH,
    };
    launch(f, CUDA_GATED, (job.half_stride + CUDA_GATED_THREADS - 1) / CUDA_GATED_THREADS,
           b->row_count, 1, CUDA_GATED_THREADS, 0, &job);
}

/* The matrices were asked for long before they are read: launches do not wait for each other. */
static void gpu_expect(const struct forward *f, const struct linear_weights *first, uint32_t count,
                       bool beside)
{
    (void)f;
    (void)first;
    (void)count;
    (void)beside;
}

/* --- attention --- */

static void gpu_attend(struct forward *f, const struct batch *b, uint32_t layer)
{
    const struct forward_gpu *g = f->gpu;
    const struct model_config *c = f->backbone->config;
    enum model_layer_kind kind = model_layer_kind(c, layer);
    const struct cuda_kv kv = {
        .base = f->kv->base,
        .blocks = g->there.blocks,
        .block_bytes = f->kv->block_bytes,
        .head_bytes = f->kv->head_bytes,
        .layer = layer,
        .kv_heads = c->kv_head_count,
        .dim = c->head_dim,
    };
    const struct cuda_rope_store store = {
        .q = f->act.q,
        .k = f->act.k,
        .v = f->act.v,
        .cos = g->there.cos[kind],
        .sin = g->there.sin[kind],
        .rows = g->there.rows,
        .kv = kv,
        .heads = c->head_count,
        .rotary_dim = c->rotary_dim,
    };
    launch(f, CUDA_ROPE_STORE, b->row_count, 1, 1, CUDA_ROPE_THREADS, 0, &store);
    bool slides = kind == MODEL_LAYER_SLIDING && c->sliding_window > 0;
    const struct cuda_attend attend = {
        .q = f->act.q,
        .half = half_of(f),
        .spans = g->spans,
        .rows = g->there.rows,
        .tiles = g->there.tiles,
        .kv = kv,
        .heads = c->head_count,
        .half_stride = gpu_half_stride(f->q_width),
        .window = slides ? c->sliding_window : UINT32_MAX,
        .splits = g->shape.splits[kind],
        .scale = c->attention_scale,
    };
    launch(f, CUDA_ATTEND, g->tile_count, c->kv_head_count, attend.splits, CUDA_ATTEND_THREADS, 0,
           &attend);
    if (attend.splits > 1)
        launch(f, CUDA_ATTEND_JOIN, g->tile_count, c->kv_head_count, 1, CUDA_ATTEND_THREADS, 0,
               &attend);
}

/* --- logits --- */

static const void *seen_out_norm(const struct forward *f, const struct lora_group *group,
                                 const void *what)
{
    (void)what;
    return place_of(f, group, view_of(f, group)->out_norm);
}

/* Leaves the logits of the wanted rows in g->logits. */
static void compute_logits(struct forward *f, const struct batch *b, const uint32_t *rows,
                           uint32_t count)
{
    struct forward_gpu *g = f->gpu;
    const struct model_config *c = f->backbone->config;
    const struct linear_weights weights = {.weight = f->backbone->head};
    const struct linear head = {
        .weights = &weights, .y = g->logits, .y_stride = weights.weight.rows, .index = LINEAR_HEAD};
    struct lora_group groups[FORWARD_DRAW_ROWS_MAX];
    const struct batch picked = {.row_count = count,
                                 .groups = groups,
                                 .group_count = forward_pick_groups(b, rows, count, groups)};
    struct run r = {0};
    gpu_tables_send_wanted(f, rows, count);
    while (next_run(f, &picked, seen_out_norm, NULL, &r)) {
        const struct cuda_norm job = {
            .x = f->act.x,
            .half = half_of(f),
            .weight = r.data,
            .from = g->there.from,
            .width = c->hidden,
            .half_stride = gpu_half_stride(c->hidden),
            .first = r.row,
            .eps = c->norm_eps,
        };
        launch(f, CUDA_NORM, r.end - r.row, 1, 1, CUDA_NORM_THREADS, 0, &job);
    }
    apply(f, &picked, g->there.wanted, &head, 1);
}

static void gpu_logits(struct forward *f, const struct batch *b, const uint32_t *rows,
                       uint32_t count, float *ret_logits)
{
    struct forward_gpu *g = f->gpu;
    struct error ignored = {0};
    compute_logits(f, b, rows, count);
    gpu_fetch(g->device, ret_logits, (uintptr_t)g->logits,
              (uint64_t)count * f->backbone->config->vocab_count * sizeof(float));
    (void)gpu_wait(g->device, &ignored); /* kept, and told by finish */
}

static struct cuda_draw_row draw_row_of(const struct forward_draw *d)
{
    const struct engine_sampling *s = d->sampling;
    return (struct cuda_draw_row){
        .unit = sampler_unit(s->seed, d->index),
        .log_min_p = log(s->min_p),
        .temperature = s->temperature,
        .top_p = s->top_p,
        .top_k = s->top_k,
    };
}

static void gpu_draw(struct forward *f, const struct batch *b, const uint32_t *rows,
                     const struct forward_draw *draws, uint32_t count, uint32_t *ret_tokens)
{
    struct forward_gpu *g = f->gpu;
    const struct cuda_draw job = {
        .logits = g->logits,
        .rows = g->there.draws,
        .tokens = g->there.drawn,
        .vocab = f->backbone->config->vocab_count,
    };
    struct error ignored = {0};
    for (uint32_t i = 0; i < count; i++)
        g->here.draws[i] = draw_row_of(&draws[i]);
    gpu_send(g->device, (uintptr_t)g->there.draws, g->here.draws, count * sizeof(*g->here.draws));
    compute_logits(f, b, rows, count);
    launch(f, CUDA_DRAW, count, 1, 1, CUDA_DRAW_THREADS, 0, &job);
    gpu_fetch(g->device, g->here.drawn, (uintptr_t)g->there.drawn, count * sizeof(uint32_t));
    bool failed = gpu_wait(g->device, &ignored) < 0; /* kept, and told by finish */
    for (uint32_t i = 0; i < count; i++)
        ret_tokens[i] = failed ? 0 : g->here.drawn[i];
}

/* --- open and close --- */

static int wrong_form(const char *what, struct error *err)
{
    return error_set(err, -ENOTSUP,
                     "a GPU computes backbones in bf16, int8 or int4, and %s of this one is in "
                     "another form: deploy it with --quant bf16",
                     what);
}

int engine_gpu_check(const struct backbone *b, struct error *err)
{
    const struct model_config *c = b->config;
    if (c->head_dim > CUDA_HEAD_DIM_MAX || c->head_dim % 2 != 0)
        return error_set(
            err, -ENOTSUP,
            "a GPU computes heads of up to %u values, an even number, and this model's "
            "have %u: serve it with --device cpu",
            CUDA_HEAD_DIM_MAX, c->head_dim);
    if (!gpu_reads_embedding(b->embed.dtype))
        return wrong_form("the embedding", err);
    if (!gpu_reads_matrix(b->head.dtype))
        return wrong_form("the head", err);
    for (uint32_t layer = 0; layer < c->layer_count; layer++) {
        const struct linear_weights *linears = b->layers[layer].linears;
        for (uint32_t i = 0; i < LINEAR_LAYER_COUNT; i++) {
            /* Linears that read one input go through one launch. */
            if (!gpu_reads_matrix(linears[i].weight.dtype) ||
                linears[i].weight.dtype != linears[0].weight.dtype)
                return wrong_form("a matrix", err);
        }
    }
    return 0;
}

static int gpu_open(struct forward *f, const struct forward_options *o, struct error *err)
{
    f->gpu = calloc(1, sizeof(*f->gpu));
    if (!f->gpu)
        return error_set(err, -ENOMEM, "no memory for a forward pass on a GPU");
    f->gpu->device = o->gpu;
    f->gpu->backbone = o->backbone_address;
    int r = engine_gpu_check(f->backbone, err);
    if (r == 0 && f->kv_type != KERNEL_KV_BF16)
        r = error_set(err, -ENOTSUP, "a GPU keeps its KV cache in bf16");
    if (r == 0)
        r = gpu_tables_open(f, o, err);
    if (r == 0)
        gpu_fill(o->gpu, (uintptr_t)f->act.h, 0,
                 (uint64_t)((const uint8_t *)f->act.q - (const uint8_t *)f->act.h));
    return r == 0 ? gpu_wait(o->gpu, err) : r;
}

static void gpu_close(struct forward *f)
{
    if (!f->gpu)
        return;
    gpu_layers_forget(f);
    gpu_tables_close(f);
    free(f->gpu);
}

static int gpu_finish(struct forward *f, struct error *err)
{
    return gpu_wait(f->gpu->device, err);
}

static uint64_t gpu_bytes(const struct forward *f)
{
    const struct forward_gpu *g = f->gpu;
    return gpu_memory_bytes(g->memory) + (g->shrunk ? gpu_memory_bytes(g->shrunk) : 0);
}

/* Its activations stay: a worker that is to give them back ends. */
static void gpu_trim(struct forward *f)
{
    gpu_layers_forget(f);
}

const struct forward_ops forward_gpu_ops = {
    .open = gpu_open,
    .close = gpu_close,
    .begin = gpu_begin,
    .layers_begin = gpu_layers_begin,
    .layers_end = gpu_layers_end,
    .norm = gpu_norm,
    .linears = gpu_linears,
    .gated = gpu_gated,
    .attend = gpu_attend,
    .residual = gpu_residual,
    .expect = gpu_expect,
    .logits = gpu_logits,
    .draw = gpu_draw,
    .finish = gpu_finish,
    .adapter_open = gpu_adapter_open,
    .adapter_close = gpu_adapter_close,
    .bytes = gpu_bytes,
    .trim = gpu_trim,
};
