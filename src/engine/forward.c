/* See forward.h. Read forward() top-down: it is the diagram of the model. */
#include "engine/forward.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CACHE_LINE_BYTES 64u

/* --- the model --- */

static struct linear linear_of(const struct linear_weights *layer, enum linear_index index,
                               uint32_t layer_index, const float *x, float *y)
{
    return (struct linear){.weights = &layer[index],
                           .x = x,
                           .y = y,
                           .y_stride = layer[index].weight.rows,
                           .layer = layer_index,
                           .index = index};
}

static void compute_layer(struct forward *f, const struct batch *b, uint32_t i)
{
    const struct model_config *c = f->backbone->config;
    const struct activations *a = &f->act;
    const struct forward_ops *ops = f->ops;
    const struct linear_weights *w = f->backbone->layers[i].linears;
    const struct linear_weights head = {.weight = f->backbone->head};
    bool is_last = i + 1 == c->layer_count;
    const struct linear qkv[] = {
        linear_of(w, LINEAR_Q, i, a->h, a->q),
        linear_of(w, LINEAR_K, i, a->h, a->k),
        linear_of(w, LINEAR_V, i, a->h, a->v),
    };
    const struct linear o = linear_of(w, LINEAR_O, i, a->h, a->y);
    const struct linear gate_up[] = {
        linear_of(w, LINEAR_GATE, i, a->h, a->gate),
        linear_of(w, LINEAR_UP, i, a->h, NULL), /* into scratch */
    };
    const struct linear down = linear_of(w, LINEAR_DOWN, i, a->gate, a->y);

    ops->expect(f, &w[LINEAR_O], 1, false);
    ops->linears(f, b, qkv, 3);
    if (c->qk_norm) {
        ops->norm(f, b, i, NORM_Q, a->q, a->q, c->head_dim, c->head_count);
        ops->norm(f, b, i, NORM_K, a->k, a->k, c->head_dim, c->kv_head_count);
    }
    ops->attend(f, b, i);
    ops->expect(f, &w[LINEAR_GATE], 2, true);
    ops->linears(f, b, &o, 1);
    ops->residual(f, b, i, NORM_POST_ATTN, i, NORM_MLP);
    ops->expect(f, &w[LINEAR_DOWN], 1, false);
    ops->gated(f, b, gate_up);
    ops->expect(f, is_last ? &head : f->backbone->layers[i + 1].linears, is_last ? 1 : 3, false);
    ops->linears(f, b, &down, 1);
    ops->residual(f, b, i, NORM_POST_MLP, i + 1, is_last ? NORM_NONE : NORM_ATTN);
}

void forward(struct forward *f, const struct batch *b)
{
    uint32_t hidden = f->backbone->config->hidden;
    assert(b->row_count > 0 && b->row_count <= f->rows_max);
    f->rows_touched = b->row_count > f->rows_touched ? b->row_count : f->rows_touched;
    f->ops->begin(f, b);
    if (f->ops->layers_begin(f, b))
        return;
    f->ops->norm(f, b, 0, NORM_ATTN, f->act.h, f->act.x, hidden, 1);
    for (uint32_t i = 0; i < f->backbone->config->layer_count; i++)
        compute_layer(f, b, i);
    f->ops->layers_end(f);
}

uint32_t forward_pick_groups(const struct batch *b, const uint32_t *rows, uint32_t count,
                             struct lora_group *ret)
{
    uint32_t n = 0;
    for (uint32_t g = 0, i = 0; g < b->group_count; g++) {
        struct lora_group group = b->groups[g];
        uint32_t end = group.row + group.row_count;
        while (i < count && rows[i] < group.row)
            i++;
        group.row = i;
        while (i < count && rows[i] < end)
            i++;
        group.row_count = i - group.row;
        if (group.row_count > 0)
            ret[n++] = group;
    }
    return n;
}

void forward_logits(struct forward *f, const struct batch *b, const uint32_t *rows, uint32_t count,
                    float *ret_logits)
{
    assert(count > 0 && count <= FORWARD_LOGIT_ROWS_MAX && count <= f->rows_max);
    if (ret_logits == f->act.logits && count > f->logit_rows_touched)
        f->logit_rows_touched = count;
    f->ops->logits(f, b, rows, count, ret_logits);
}

void forward_run(struct forward *f, uint64_t work, pool_fn *fn, void *argument,
                 uint32_t chunk_count)
{
    if (work >= FORWARD_INLINE_WORK) {
        pool_run(f->pool, fn, argument, chunk_count);
        return;
    }
    for (uint32_t chunk = 0; chunk < chunk_count; chunk++)
        fn(argument, chunk, 0);
}

/* --- open and close --- */

void *forward_carve(uint8_t *base, uint64_t *offset, uint64_t bytes)
{
    void *at = base ? base + *offset : NULL;
    *offset += (bytes + CACHE_LINE_BYTES - 1) / CACHE_LINE_BYTES * CACHE_LINE_BYTES;
    return at;
}

struct forward forward_shape(const struct backbone *b, uint32_t rows_max)
{
    const struct model_config *c = b->config;
    struct forward f = {.backbone = b, .rows_max = rows_max};
    for (uint32_t kind = 0; kind < MODEL_LAYER_KIND_COUNT; kind++)
        rope_init(&f.ropes[kind], c, kind);
    for (uint32_t layer = 0; layer < c->layer_count; layer++)
        f.has_kind[model_layer_kind(c, layer)] = true;
    f.q_width = c->head_count * c->head_dim;
    f.kv_width = c->kv_head_count * c->head_dim;
    f.h_width = c->hidden > f.q_width ? c->hidden : f.q_width;
    return f;
}

int forward_open(struct forward *ret, const struct backbone *b, struct kv_pool *kv,
                 const struct forward_options *o, struct error *err)
{
    struct forward f = forward_shape(b, o->rows_max);
    f.kv = kv;
    f.kv_type = o->kv_type;
    f.ops = o->gpu ? &forward_gpu_ops : &forward_host_ops;
    int rc = kernels_select(&f.kernels, err);
    if (rc == 0)
        rc = pool_open(&f.pool, o->threads, err);
    if (rc < 0)
        return rc;
    uint32_t threads = pool_threads(f.pool);
    f.scratch = calloc(threads, sizeof(*f.scratch));
    rc = f.scratch ? f.ops->open(&f, o, err)
                   : error_set(err, -ENOMEM, "no memory for the scratch of %u threads", threads);
    if (rc < 0) {
        forward_close(&f);
        return rc;
    }
    *ret = f;
    return 0;
}

void forward_close(struct forward *f)
{
    if (f->ops)
        f->ops->close(f);
    free(f->scratch);
    pool_close(f->pool);
    memset(f, 0, sizeof(*f));
}
