/* See forward.h. Read forward() top-down: it is the diagram of the model. */
#include "engine/forward.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/lora.h"

#define CACHE_LINE_BYTES 64u

/* Weights that one chunk of a matrix product reads: enough that claiming it costs nothing beside
 * it, few enough that threads end together. */
#define CHUNK_WEIGHTS 65536u
#define CHUNK_OUTPUTS_MIN 16u
#define CHUNK_OUTPUTS_MIN_MANY_ROWS 64u /* rows are read again for each chunk */
#define CHUNK_MANY_ROWS 8u

/* --- row work: rows x weights, the residual stream --- */

struct linear_job {
    struct forward *forward;
    const struct batch *batch;
    const struct linear *linears;
    uint32_t count;
    uint32_t layer;
    uint32_t chunk_outputs;
};

struct norm_job {
    struct forward *forward;
    float *y;
    const float *x;
    const float *weight;
    uint32_t width;
    uint32_t count;
    uint32_t chunk_rows;
};

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

static uint32_t chunk_outputs(uint32_t rows, uint32_t in)
{
    uint32_t least = rows > CHUNK_MANY_ROWS ? CHUNK_OUTPUTS_MIN_MANY_ROWS : CHUNK_OUTPUTS_MIN;
    uint32_t outputs = CHUNK_WEIGHTS / in / CHUNK_OUTPUTS_MIN * CHUNK_OUTPUTS_MIN;
    return outputs > least ? outputs : least;
}

/* One linear's outputs [begin, end) for all rows. */
static void linear_range(const struct linear_job *job, uint32_t index, uint32_t begin, uint32_t end)
{
    const struct linear *l = &job->linears[index];
    uint32_t in = l->weight->cols, out = l->weight->rows;
    job->forward->kernels->matmul[l->weight->dtype](l->y, out, l->x, in, l->weight->data, l->bias,
                                                    job->batch->row_count, in, begin, end,
                                                    l->accumulate);
    lora_expand(job->forward, job->batch, job->layer, l, index, begin, end);
}

/* Chunks count through the outputs of the first linear, then of the second, and so on. */
static void linear_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct linear_job *job = argument;
    uint32_t index = 0, begin = chunk * job->chunk_outputs;
    (void)thread;
    for (;; index++) {
        uint32_t out = job->linears[index].weight->rows;
        uint32_t chunks = (out + job->chunk_outputs - 1) / job->chunk_outputs;
        if (chunk < chunks) {
            uint32_t end = begin + job->chunk_outputs;
            linear_range(job, index, begin, end < out ? end : out);
            return;
        }
        chunk -= chunks;
        begin = chunk * job->chunk_outputs;
    }
}

/* The same outputs of gate and up, and the activation that joins them, while both are in cache. */
static void gated_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct linear_job *job = argument;
    const struct linear *gate = &job->linears[0], *up = &job->linears[1];
    uint32_t ffn = gate->weight->rows;
    uint32_t begin = chunk * job->chunk_outputs;
    uint32_t end = begin + job->chunk_outputs < ffn ? begin + job->chunk_outputs : ffn;
    (void)thread;
    linear_range(job, 0, begin, end);
    linear_range(job, 1, begin, end);
    for (size_t r = 0; r < job->batch->row_count; r++)
        job->forward->kernels->silu_mul(gate->y + r * ffn + begin, up->y + r * ffn + begin,
                                        end - begin);
}

static uint64_t linear_work(const struct batch *b, const struct linear *linears, uint32_t count)
{
    uint64_t work = 0;
    for (uint32_t i = 0; i < count; i++)
        work += (uint64_t)b->row_count * linears[i].weight->rows * linears[i].weight->cols;
    return work;
}

/* Up to three linears that read the same input, in one pass. */
static void apply_linears(struct forward *f, const struct batch *b, uint32_t layer,
                          const struct linear *linears, uint32_t count)
{
    struct linear_job job = {f, b, linears, count, layer, 0};
    uint32_t chunks = 0;
    job.chunk_outputs = chunk_outputs(b->row_count, linears[0].weight->cols);
    for (uint32_t i = 0; i < count; i++)
        chunks += (linears[i].weight->rows + job.chunk_outputs - 1) / job.chunk_outputs;
    lora_shrink(f, b, layer, linears, count);
    forward_run(f, linear_work(b, linears, count), linear_chunk, &job, chunks);
}

/* gate = silu(gate) * up */
static void apply_gated(struct forward *f, const struct batch *b, uint32_t layer,
                        const struct linear linears[2])
{
    struct linear_job job = {f, b, linears, 2, layer, 0};
    uint32_t ffn = linears[0].weight->rows;
    job.chunk_outputs = chunk_outputs(b->row_count, linears[0].weight->cols);
    lora_shrink(f, b, layer, linears, 2);
    forward_run(f, linear_work(b, linears, 2), gated_chunk, &job,
                (ffn + job.chunk_outputs - 1) / job.chunk_outputs);
}

static void norm_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct norm_job *job = argument;
    const struct forward *f = job->forward;
    uint32_t begin = chunk * job->chunk_rows;
    uint32_t end = begin + job->chunk_rows < job->count ? begin + job->chunk_rows : job->count;
    (void)thread;
    for (size_t r = begin; r < end; r++)
        f->kernels->rms_norm(job->y + r * job->width, job->x + r * job->width, job->weight,
                             job->width, f->backbone->config->norm_eps);
}

/* y, x [count, width]; y may be x. */
static void apply_norm(struct forward *f, float *y, const float *x, const float *weight,
                       uint32_t width, uint32_t count)
{
    struct norm_job job = {f, y, x, weight, width, count, FORWARD_INLINE_WORK / width + 1};
    forward_run(f, (uint64_t)width * count, norm_chunk, &job,
                (count + job.chunk_rows - 1) / job.chunk_rows);
}

static void embed(struct forward *f, const struct batch *b)
{
    const struct weight *w = &f->backbone->embed;
    size_t row_bytes = w->cols * image_dtype_bytes(w->dtype);
    for (size_t r = 0; r < b->row_count; r++)
        f->kernels->load[w->dtype](f->act.x + r * w->cols,
                                   (const uint8_t *)w->data + b->rows[r].token * row_bytes,
                                   w->cols);
}

/* --- sequence work: positions, KV cache, attention; private to the sequence's owner --- */

struct attend_job {
    struct forward *forward;
    const struct batch *batch;
    uint32_t layer;
};

static uint32_t window_begin(const struct model_config *c, uint32_t position)
{
    uint32_t window = c->sliding_window;
    return window && position + 1 > window ? position + 1 - window : 0;
}

static void angles(struct forward *f, const struct batch *b)
{
    size_t half = f->rope.half_dim;
    for (size_t r = 0; r < b->row_count; r++)
        rope_angles(&f->rope, b->rows[r].position, f->act.cos + r * half, f->act.sin + r * half);
}

/* Rotates q and k of one row and stores k and v in the cache. */
static void remember_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct attend_job *job = argument;
    const struct forward *f = job->forward;
    const struct model_config *c = f->backbone->config;
    const struct forward_row *row = &job->batch->rows[chunk];
    const float *cos = f->act.cos + (size_t)chunk * f->rope.half_dim;
    const float *sin = f->act.sin + (size_t)chunk * f->rope.half_dim;
    float *k = f->act.k + (size_t)chunk * f->kv_width;
    const float *v = f->act.v + (size_t)chunk * f->kv_width;
    (void)thread;

    f->kernels->rope(f->act.q + (size_t)chunk * f->q_width, cos, sin, c->head_count, c->head_dim);
    f->kernels->rope(k, cos, sin, c->kv_head_count, c->head_dim);
    assert(row->position / ENGINE_KV_BLOCK_TOKENS < row->kv->count);
    uint32_t block = row->kv->ids[row->position / ENGINE_KV_BLOCK_TOKENS];
    size_t in_block = (size_t)(row->position % ENGINE_KV_BLOCK_TOKENS) * f->kv->row_bytes;
    for (uint32_t h = 0; h < c->kv_head_count; h++) {
        uint8_t *keys = kv_head_at(f->kv, block, job->layer, KV_KEY, h);
        uint8_t *values = kv_head_at(f->kv, block, job->layer, KV_VALUE, h);
        f->kernels->store[f->kv_dtype](keys + in_block, k + h * c->head_dim, c->head_dim);
        f->kernels->store[f->kv_dtype](values + in_block, v + h * c->head_dim, c->head_dim);
    }
}

/* The query heads of one row that share one KV head; chunks of one head follow each other. */
static void attend_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct attend_job *job = argument;
    const struct forward *f = job->forward;
    const struct model_config *c = f->backbone->config;
    const struct forward_scratch *s = &f->scratch[thread];
    uint32_t kv_head = chunk / job->batch->row_count, r = chunk % job->batch->row_count;
    const struct forward_row *row = &job->batch->rows[r];
    uint32_t begin = window_begin(c, row->position), end = row->position + 1;
    uint32_t group = c->head_count / c->kv_head_count;

    for (uint32_t i = begin / ENGINE_KV_BLOCK_TOKENS; i <= row->position / ENGINE_KV_BLOCK_TOKENS;
         i++) {
        s->key_blocks[i] = kv_head_at(f->kv, row->kv->ids[i], job->layer, KV_KEY, kv_head);
        s->value_blocks[i] = kv_head_at(f->kv, row->kv->ids[i], job->layer, KV_VALUE, kv_head);
    }
    for (uint32_t h = kv_head * group; h < (kv_head + 1) * group; h++) {
        size_t at = (size_t)r * f->q_width + (size_t)h * c->head_dim;
        f->kernels->attention[f->kv_dtype](
            f->act.h + at, f->act.q + at, s->key_blocks, s->value_blocks, ENGINE_KV_BLOCK_TOKENS,
            begin, end, c->head_dim, 1.0f / sqrtf((float)c->head_dim), s->scores);
    }
}

/* The border: q, k, v of all rows in, attention output [rows, heads * head_dim] in act.h out. */
static void forward_attend(struct forward *f, const struct batch *b, uint32_t layer)
{
    struct attend_job job = {f, b, layer};
    const struct model_config *c = f->backbone->config;
    uint64_t positions = 0;
    for (uint32_t r = 0; r < b->row_count; r++)
        positions += b->rows[r].position + 1 - window_begin(c, b->rows[r].position);
    forward_run(f, (uint64_t)b->row_count * (f->q_width + 2 * f->kv_width), remember_chunk, &job,
                b->row_count);
    forward_run(f, positions * f->q_width * 2, attend_chunk, &job, b->row_count * c->kv_head_count);
}

/* --- the model --- */

void forward(struct forward *f, const struct batch *b)
{
    const struct model_config *c = f->backbone->config;
    const struct activations *a = &f->act;
    uint32_t rows = b->row_count;
    assert(rows > 0 && rows <= f->rows_max);
    f->rows_touched = rows > f->rows_touched ? rows : f->rows_touched;

    embed(f, b);
    angles(f, b);
    for (uint32_t i = 0; i < c->layer_count; i++) {
        const struct backbone_layer *l = &f->backbone->layers[i];
        const struct linear qkv[] = {
            {&l->q, l->q_bias, a->h, a->q, ADAPTER_Q, 0},
            {&l->k, l->k_bias, a->h, a->k, ADAPTER_K, 0},
            {&l->v, l->v_bias, a->h, a->v, ADAPTER_V, 0},
        };
        const struct linear o = {&l->o, l->o_bias, a->h, a->x, ADAPTER_O, 1};
        const struct linear gate_up[] = {
            {&l->gate, l->gate_bias, a->h, a->gate, ADAPTER_GATE, 0},
            {&l->up, l->up_bias, a->h, a->up, ADAPTER_UP, 0},
        };
        const struct linear down = {&l->down, l->down_bias, a->gate, a->x, ADAPTER_DOWN, 1};

        apply_norm(f, a->h, a->x, l->attn_norm, c->hidden, rows);
        apply_linears(f, b, i, qkv, 3);
        if (c->qk_norm) {
            apply_norm(f, a->q, a->q, l->q_norm, c->head_dim, rows * c->head_count);
            apply_norm(f, a->k, a->k, l->k_norm, c->head_dim, rows * c->kv_head_count);
        }
        forward_attend(f, b, i);
        apply_linears(f, b, i, &o, 1);
        apply_norm(f, a->h, a->x, l->mlp_norm, c->hidden, rows);
        apply_gated(f, b, i, gate_up);
        apply_linears(f, b, i, &down, 1);
    }
}

void forward_logits(struct forward *f, const uint32_t *rows, uint32_t count, float *ret_logits)
{
    const struct model_config *c = f->backbone->config;
    const struct activations *a = &f->act;
    const struct linear head = {&f->backbone->head,   NULL, a->h, ret_logits,
                                ADAPTER_MODULE_COUNT, 0};
    const struct batch bare = {.row_count = count};
    assert(count > 0 && count <= FORWARD_LOGIT_ROWS_MAX && count <= f->rows_max);
    if (ret_logits == a->logits && count > f->logit_rows_touched)
        f->logit_rows_touched = count;
    for (size_t i = 0; i < count; i++)
        f->kernels->rms_norm(a->h + i * c->hidden, a->x + (size_t)rows[i] * c->hidden,
                             f->backbone->out_norm, c->hidden, c->norm_eps);
    apply_linears(f, &bare, 0, &head, 1);
}

/* --- memory --- */

uint32_t forward_kv_dtype(const struct backbone *b)
{
    return b->layers[0].k.dtype == IMAGE_F32 ? KERNEL_F32 : KERNEL_BF16;
}

/* Hands out `bytes` of the mapping at *offset; only counts while base is NULL. */
static void *carve(uint8_t *base, uint64_t *offset, uint64_t bytes)
{
    void *at = base ? base + *offset : NULL;
    *offset += (bytes + CACHE_LINE_BYTES - 1) / CACHE_LINE_BYTES * CACHE_LINE_BYTES;
    return at;
}

static uint64_t logits_bytes(const struct forward *f, uint64_t rows)
{
    return rows * f->backbone->config->vocab_count * sizeof(float);
}

/* Lays everything out from `base` and returns the bytes it takes. */
static uint64_t lay_out(struct forward *f, uint8_t *base, uint32_t threads, uint32_t context_max)
{
    const struct model_config *c = f->backbone->config;
    struct activations *a = &f->act;
    uint64_t row = f->rows_max * sizeof(float), at = 0;
    uint64_t blocks_bytes = kv_blocks_for(context_max) * sizeof(void *);
    a->x = carve(base, &at, row * c->hidden);
    a->h = carve(base, &at, row * f->h_width);
    a->q = carve(base, &at, row * f->q_width);
    a->k = carve(base, &at, row * f->kv_width);
    a->v = carve(base, &at, row * f->kv_width);
    a->cos = carve(base, &at, row * f->rope.half_dim);
    a->sin = carve(base, &at, row * f->rope.half_dim);
    a->shrunk = carve(base, &at, row * ADAPTER_RANK_MAX * 3);
    for (uint32_t t = 0; t < threads; t++) {
        struct forward_scratch *s = &f->scratch[t];
        s->scores = carve(base, &at, context_max * sizeof(float));
        s->key_blocks = carve(base, &at, blocks_bytes);
        s->value_blocks = carve(base, &at, blocks_bytes);
        s->candidates = carve(base, &at, c->vocab_count * sizeof(*s->candidates));
    }
    /* The layers are done with gate and up before there are logits. */
    uint64_t shared = at;
    a->gate = carve(base, &at, row * c->ffn);
    a->up = carve(base, &at, row * c->ffn);
    a->logits = carve(base, &shared, logits_bytes(f, FORWARD_LOGIT_ROWS_MAX));
    return at > shared ? at : shared;
}

int forward_open(struct forward *ret, const struct backbone *b, struct kv_pool *kv,
                 uint32_t threads, uint32_t rows_max, uint32_t context_max, struct error *err)
{
    const struct model_config *c = b->config;
    struct forward f = {.backbone = b, .kv = kv, .rows_max = rows_max};
    int rc = kernels_select(&f.kernels, err);
    if (rc == 0)
        rc = pool_open(&f.pool, threads, err);
    if (rc < 0)
        return rc;
    threads = pool_threads(f.pool);
    rope_init(&f.rope, c);
    f.kv_dtype = forward_kv_dtype(b);
    f.q_width = c->head_count * c->head_dim;
    f.kv_width = c->kv_head_count * c->head_dim;
    f.h_width = c->hidden > f.q_width ? c->hidden : f.q_width;
    f.scratch = calloc(threads, sizeof(*f.scratch));
    if (!f.scratch) {
        forward_close(&f);
        return error_set(err, -ENOMEM, "no memory for the scratch of %u threads", threads);
    }
    f.act.bytes = lay_out(&f, NULL, threads, context_max);
    void *base = mmap(NULL, f.act.bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
        rc = error_set(err, -errno, "cannot reserve %llu bytes of address space for activations",
                       (unsigned long long)f.act.bytes);
        forward_close(&f);
        return rc;
    }
    f.act.base = base;
    lay_out(&f, base, threads, context_max);
    *ret = f;
    return 0;
}

void forward_close(struct forward *f)
{
    if (f->act.base)
        munmap(f->act.base, f->act.bytes);
    free(f->scratch);
    pool_close(f->pool);
    memset(f, 0, sizeof(*f));
}

uint64_t forward_bytes(const struct forward *f)
{
    const struct model_config *c = f->backbone->config;
    uint64_t layers = 2ull * f->rows_touched * c->ffn * sizeof(float);
    uint64_t logits = logits_bytes(f, f->logit_rows_touched);
    uint64_t row = c->hidden + f->h_width + f->q_width + 2ull * f->kv_width + c->head_dim;
    return row * f->rows_touched * sizeof(float) + (layers > logits ? layers : logits);
}

void forward_trim(struct forward *f)
{
    madvise(f->act.base, f->act.bytes, MADV_DONTNEED);
    f->rows_touched = f->logit_rows_touched = 0;
}
