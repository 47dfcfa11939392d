/*
 * The boxes of forward() on the processors of the host: rows x weights in chunks over the pool. See
 * forward.h.
 */
#include "engine/forward.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/lora.h"

/* Weights that one chunk of a matrix product reads: enough that claiming it costs nothing beside
 * it, few enough that threads end together. */
#define CHUNK_WEIGHTS 65536u
#define CHUNK_OUTPUTS_MIN KERNEL_PANEL_OUTS
#define CHUNK_OUTPUTS_MIN_MANY_ROWS 64u /* rows are read again for each chunk */
#define CHUNK_MANY_ROWS 8u
#define CHUNK_INPUT_BYTES (UINT32_C(2) << 20)
#define CHUNK_OUTPUTS_LARGE 256u

_Static_assert((int)IMAGE_F32 == KERNEL_F32 && (int)IMAGE_BF16 == KERNEL_BF16 &&
                   (int)IMAGE_PANELS == KERNEL_PANELS && (int)IMAGE_INT8 == KERNEL_INT8 &&
                   (int)IMAGE_INT4 == KERNEL_INT4 && (int)IMAGE_CODES == KERNEL_CODES &&
                   (int)IMAGE_CODE_PANELS == KERNEL_CODE_PANELS &&
                   (int)IMAGE_DTYPE_COUNT == KERNEL_DTYPE_COUNT,
               "a weight's dtype indexes the table of kernels");
_Static_assert(IMAGE_PANEL_ROWS == KERNEL_PANEL_OUTS && IMAGE_GROUP_COLS == KERNEL_GROUP,
               "kernels read what the packer wrote");

struct linear_job {
    struct forward *forward;
    const struct batch *batch;
    const struct linear *linears;
    uint32_t count;
    uint32_t chunk_outputs;
};

/* `count` vectors of `width` values in each row. */
struct norm_job {
    struct forward *forward;
    const struct batch *batch;
    float *y;
    const float *x;
    uint32_t layer;
    enum norm_index norm;
    uint32_t width;
    uint32_t count;
};

struct residual_job {
    struct forward *forward;
    const struct batch *batch;
    uint32_t layer, next_layer;
    enum norm_index post_norm; /* of what is added, in models that have post_norms */
    enum norm_index next_norm; /* or NORM_NONE */
};

static uint32_t chunk_outputs(uint32_t rows, uint32_t in)
{
    uint32_t least = rows > CHUNK_MANY_ROWS ? CHUNK_OUTPUTS_MIN_MANY_ROWS : CHUNK_OUTPUTS_MIN;
    uint32_t outputs = CHUNK_WEIGHTS / in / CHUNK_OUTPUTS_MIN * CHUNK_OUTPUTS_MIN;
    return outputs > least ? outputs : least;
}

/* Inputs in bf16 that are more than the second level of the caches holds come anew for each chunk:
 * then there are few, as many for each thread. */
static uint32_t chunk_outputs_of(const struct forward *f, uint32_t rows, const struct weight *w)
{
    uint32_t outputs = chunk_outputs(rows, w->cols), threads = pool_threads(f->pool);
    if (f->kernels->matmul_half[w->dtype] == NULL ||
        rows * forward_half_stride(w->cols) * sizeof(uint16_t) < CHUNK_INPUT_BYTES)
        return outputs;
    uint32_t chunks = (w->rows + CHUNK_OUTPUTS_LARGE - 1) / CHUNK_OUTPUTS_LARGE;
    chunks = (chunks + threads - 1) / threads * threads;
    uint32_t each = (w->rows + chunks - 1) / chunks;
    each = (each + CHUNK_OUTPUTS_MIN - 1) / CHUNK_OUTPUTS_MIN * CHUNK_OUTPUTS_MIN;
    return each > outputs ? each : outputs;
}

/* Chunks count through the outputs of the first linear, then of the second, and so on. */
static void linear_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct linear_job *job = argument;
    uint32_t index = 0, begin = chunk * job->chunk_outputs;
    (void)thread;
    for (;; index++) {
        uint32_t out = job->linears[index].weights->weight.rows;
        uint32_t chunks = (out + job->chunk_outputs - 1) / job->chunk_outputs;
        if (chunk < chunks) {
            uint32_t end = begin + job->chunk_outputs;
            lora_apply(job->forward, job->batch, job->linears, index, begin, end < out ? end : out);
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
    const struct forward *f = job->forward;
    uint32_t ffn = job->linears[0].weights->weight.rows;
    uint32_t begin = chunk * job->chunk_outputs;
    uint32_t end = begin + job->chunk_outputs < ffn ? begin + job->chunk_outputs : ffn;
    struct linear gate_up[2] = {job->linears[0], job->linears[1]};
    float *up = f->scratch[thread].up;
    gate_up[1].y = up;
    gate_up[1].y_stride = end - begin;
    gate_up[1].y_begin = begin;
    lora_apply(f, job->batch, gate_up, 0, begin, end);
    lora_apply(f, job->batch, gate_up, 1, begin, end);
    for (size_t r = 0; r < job->batch->row_count; r++)
        f->gated_mul(gate_up[0].y + r * ffn + begin, up + r * (end - begin), end - begin);
}

/* In which forms products take the rows that linears read; see product() in lora.c. */
struct round_job {
    struct forward *forward;
    const float *x;
    uint32_t in;
    bool as_half;
    bool as_quantised;
};

static void round_chunk(void *argument, uint32_t row, uint32_t thread)
{
    const struct round_job *job = argument;
    const struct activations *a = &job->forward->act;
    const struct kernels *k = job->forward->kernels;
    const float *x = job->x + (size_t)row * job->in;
    (void)thread;
    if (job->as_half)
        k->store[KERNEL_BF16](a->half + row * forward_half_stride(job->in), x, job->in);
    if (job->as_quantised)
        k->quantise(a->quantised + row * kernel_quantised_bytes(job->in), x, job->in);
}

/* What adapters bring is bf16, in rows, or whole matrices in panels, whatever the backbone is; or
 * codes, which take x as it is. */
static void round_inputs(struct forward *f, const struct batch *b, const struct linear *linears,
                         uint32_t count)
{
    const struct kernels *k = f->kernels;
    struct round_job job = {f, linears[0].x, linears[0].weights->weight.cols, false, false};
    job.as_half = b->group_count > 0 &&
                  (k->matmul_half[KERNEL_BF16] != NULL || k->matmul_half[KERNEL_PANELS] != NULL);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t dtype = linears[i].weights->weight.dtype;
        job.as_half |= k->matmul_half[dtype] != NULL;
        job.as_quantised |= k->matmul_quantised[dtype] != NULL;
    }
    if (job.as_half || job.as_quantised)
        forward_run(f, (uint64_t)b->row_count * job.in, round_chunk, &job, b->row_count);
}

static uint64_t linear_work(const struct batch *b, const struct linear *linears, uint32_t count)
{
    uint64_t work = 0;
    for (uint32_t i = 0; i < count; i++)
        work += (uint64_t)b->row_count * linears[i].weights->weight.rows *
                linears[i].weights->weight.cols;
    return work;
}

/* Says what is multiplied after the next pass, so that memory is not idle until then. `beside`: the
 * second linear goes through its outputs along with the first, not after it. */
static void host_expect(const struct forward *f, const struct linear_weights *first, uint32_t count,
                        bool beside)
{
    struct pool_part parts[POOL_PARTS_MAX] = {0};
    for (uint32_t i = 0; i < count; i++) {
        const struct weight *w = &first[i].weight;
        uint64_t bytes = 0;
        uint32_t part = beside ? i : 0;
        if (parts[part].data == NULL)
            parts[part].data = w->data;
        if (image_tensor_bytes(w->rows, w->cols, w->dtype, &bytes))
            parts[part].bytes += bytes;
    }
    pool_expect(f->pool, parts, beside ? count : 1);
}

/* Up to three linears that read the same input, in one pass. */
static void host_linears(struct forward *f, const struct batch *b, const struct linear *linears,
                         uint32_t count)
{
    struct linear_job job = {f, b, linears, count, 0};
    uint32_t chunks = 0;
    job.chunk_outputs = chunk_outputs_of(f, b->row_count, &linears[0].weights->weight);
    for (uint32_t i = 0; i < count; i++)
        chunks += (linears[i].weights->weight.rows + job.chunk_outputs - 1) / job.chunk_outputs;
    round_inputs(f, b, linears, count);
    lora_shrink(f, b, linears, count);
    forward_run(f, linear_work(b, linears, count), linear_chunk, &job, chunks);
}

/* gate = act(gate) * up */
static void host_gated(struct forward *f, const struct batch *b, const struct linear linears[2])
{
    struct linear_job job = {f, b, linears, 2, 0};
    uint32_t ffn = linears[0].weights->weight.rows;
    job.chunk_outputs = chunk_outputs(b->row_count, linears[0].weights->weight.cols);
    round_inputs(f, b, linears, 2);
    lora_shrink(f, b, linears, 2);
    forward_run(f, linear_work(b, linears, 2), gated_chunk, &job,
                (ffn + job.chunk_outputs - 1) / job.chunk_outputs);
}

static void norm_chunk(void *argument, uint32_t row, uint32_t thread)
{
    const struct norm_job *job = argument;
    const struct forward *f = job->forward;
    const float *weight = lora_view(f, job->batch, row)->layers[job->layer].norms[job->norm];
    (void)thread;
    for (size_t i = (size_t)row * job->count; i < ((size_t)row + 1) * job->count; i++)
        f->kernels->rms_norm(job->y + i * job->width, job->x + i * job->width, weight, job->width,
                             f->backbone->config->norm_eps);
}

/* y, x [rows, count, width]; y may be x. */
static void host_norm(struct forward *f, const struct batch *b, uint32_t layer,
                      enum norm_index norm, float *y, const float *x, uint32_t width,
                      uint32_t count)
{
    struct norm_job job = {f, b, y, x, layer, norm, width, count};
    forward_run(f, (uint64_t)width * count * b->row_count, norm_chunk, &job, b->row_count);
}

static void residual_chunk(void *argument, uint32_t row, uint32_t thread)
{
    const struct residual_job *job = argument;
    const struct forward *f = job->forward;
    const struct model_config *c = f->backbone->config;
    const struct backbone_layer *layers = lora_view(f, job->batch, row)->layers;
    float *x = f->act.x + (size_t)row * c->hidden, *y = f->act.y + (size_t)row * c->hidden;
    (void)thread;
    if (c->post_norms)
        f->kernels->rms_norm(y, y, layers[job->layer].norms[job->post_norm], c->hidden,
                             c->norm_eps);
    f->kernels->add(x, y, c->hidden);
    if (job->next_norm != NORM_NONE)
        f->kernels->rms_norm(f->act.h + (size_t)row * c->hidden, x,
                             layers[job->next_layer].norms[job->next_norm], c->hidden, c->norm_eps);
}

/* The residual stream takes up what attention or MLP found; the norm that comes next leaves in
 * act.h what it makes of the stream. */
static void host_residual(struct forward *f, const struct batch *b, uint32_t layer,
                          enum norm_index post_norm, uint32_t next_layer, enum norm_index next_norm)
{
    struct residual_job job = {f, b, layer, next_layer, post_norm, next_norm};
    forward_run(f, (uint64_t)b->row_count * f->backbone->config->hidden, residual_chunk, &job,
                b->row_count);
}

static void host_begin(struct forward *f, const struct batch *b)
{
    lora_embed(f, b);
    attend_begin(f, b);
}

static bool host_layers_begin(struct forward *f, const struct batch *b)
{
    (void)f;
    (void)b;
    return false;
}

static void host_layers_end(struct forward *f)
{
    (void)f;
}

static void host_logits(struct forward *f, const struct batch *b, const uint32_t *rows,
                        uint32_t count, float *ret_logits)
{
    const struct model_config *c = f->backbone->config;
    const struct activations *a = &f->act;
    const struct linear_weights weights = {.weight = f->backbone->head};
    const struct linear head = {.weights = &weights,
                                .x = a->h,
                                .y = ret_logits,
                                .y_stride = weights.weight.rows,
                                .index = LINEAR_HEAD};
    struct lora_group groups[FORWARD_LOGIT_ROWS_MAX];
    const struct batch picked = {.row_count = count,
                                 .groups = groups,
                                 .group_count = forward_pick_groups(b, rows, count, groups)};
    for (size_t i = 0; i < count; i++)
        f->kernels->rms_norm(a->h + i * c->hidden, a->x + (size_t)rows[i] * c->hidden,
                             lora_view(f, b, rows[i])->out_norm, c->hidden, c->norm_eps);
    host_linears(f, &picked, &head, 1);
}

/* --- memory --- */

static uint64_t logits_bytes(const struct forward *f, uint64_t rows)
{
    return rows * f->backbone->config->vocab_count * sizeof(float);
}

/* The widest input of a linear. */
static uint32_t input_width(const struct forward *f)
{
    uint32_t ffn = f->backbone->config->ffn;
    return ffn > f->h_width ? ffn : f->h_width;
}

/* Outputs of up that one chunk has at a time, at most. */
static uint32_t up_width(const struct forward *f)
{
    const struct model_config *c = f->backbone->config;
    uint32_t outputs = chunk_outputs(f->rows_max, c->hidden);
    return outputs < c->ffn ? outputs : c->ffn;
}

/* Lays everything out from `base` and returns the bytes it takes. */
static uint64_t lay_out(struct forward *f, uint8_t *base, uint32_t threads)
{
    const struct model_config *c = f->backbone->config;
    struct activations *a = &f->act;
    uint64_t row = (uint64_t)f->rows_max * sizeof(float), at = 0;
    a->x = forward_carve(base, &at, row * c->hidden);
    a->h = forward_carve(base, &at, row * f->h_width);
    a->half = forward_carve(
        base, &at, (uint64_t)f->rows_max * forward_half_stride(input_width(f)) * sizeof(uint16_t));
    a->quantised = forward_carve(base, &at, f->rows_max * kernel_quantised_bytes(input_width(f)));
    a->q = forward_carve(base, &at, row * f->q_width);
    a->k = forward_carve(base, &at, row * f->kv_width);
    a->v = forward_carve(base, &at, row * f->kv_width);
    a->y = forward_carve(base, &at, row * c->hidden);
    for (uint32_t kind = 0; kind < MODEL_LAYER_KIND_COUNT; kind++) {
        a->cos[kind] = forward_carve(base, &at, row * f->ropes[kind].half_dim);
        a->sin[kind] = forward_carve(base, &at, row * f->ropes[kind].half_dim);
    }
    a->shrunk = forward_carve(base, &at, row * ADAPTER_RANK_MAX * 3);
    a->uses = forward_carve(base, &at, 3 * (uint64_t)f->rows_max * sizeof(*a->uses));
    for (uint32_t t = 0; t < threads; t++) {
        struct forward_scratch *s = &f->scratch[t];
        s->sample = forward_carve(base, &at, c->vocab_count * sizeof(*s->sample));
        s->up = forward_carve(base, &at, row * up_width(f));
    }
    attend_lay_out(f, threads, base, &at);
    /* The layers are done with gate before there are logits. */
    uint64_t shared = at;
    a->gate = forward_carve(base, &at, row * c->ffn);
    a->logits = forward_carve(base, &shared, logits_bytes(f, FORWARD_LOGIT_ROWS_MAX));
    return at > shared ? at : shared;
}

uint64_t forward_work_bytes(const struct backbone *b, uint32_t threads, uint32_t rows_max,
                            uint32_t context_max)
{
    struct forward f = forward_shape(b, rows_max);
    struct forward_scratch *scratch = calloc(threads, sizeof(*scratch));
    if (!scratch)
        return UINT64_MAX;
    f.scratch = scratch;
    attend_init(&f, threads, context_max);
    uint64_t bytes = lay_out(&f, NULL, threads);
    free(scratch);
    return bytes;
}

static int host_open(struct forward *f, const struct forward_options *o, struct error *err)
{
    uint32_t threads = pool_threads(f->pool);
    bool is_gelu = f->backbone->config->activation == MODEL_GELU_TANH;
    f->gated_mul = is_gelu ? f->kernels->gelu_mul : f->kernels->silu_mul;
    attend_init(f, threads, o->context_max);
    uint64_t bytes = lay_out(f, NULL, threads);
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return error_set(err, -errno, "cannot reserve %llu bytes of address space for activations",
                         (unsigned long long)bytes);
    f->act.base = base;
    f->act.bytes = bytes;
    lay_out(f, base, threads);
    return 0;
}

static void host_close(struct forward *f)
{
    if (f->act.base)
        munmap(f->act.base, f->act.bytes);
}

static uint64_t host_bytes(const struct forward *f)
{
    const struct model_config *c = f->backbone->config;
    uint64_t layers = (uint64_t)f->rows_touched * c->ffn * sizeof(float);
    uint64_t logits = logits_bytes(f, f->logit_rows_touched);
    uint64_t row = (uint64_t)pool_threads(f->pool) * up_width(f) + 2ull * c->hidden + f->h_width +
                   f->q_width + 2ull * f->kv_width + 2ull * c->rotary_dim;
    uint64_t rounded = image_group_bytes(f->backbone->layers[0].linears[LINEAR_Q].weight.dtype) > 0
                           ? kernel_quantised_bytes(input_width(f))
                           : forward_half_stride(input_width(f)) * sizeof(uint16_t);
    return (row * sizeof(float) + rounded) * f->rows_touched + (layers > logits ? layers : logits);
}

static void host_trim(struct forward *f)
{
    madvise(f->act.base, f->act.bytes, MADV_DONTNEED);
    f->rows_touched = f->logit_rows_touched = 0;
}

/* Adapters are read where they are mapped. */
static int host_adapter_open(struct forward *f, const struct adapter *a, struct error *err)
{
    (void)f;
    (void)a;
    (void)err;
    return 0;
}

static void host_adapter_close(struct forward *f, const struct adapter *a)
{
    (void)f;
    (void)a;
}

/* Everything is done when a call returns, and nothing fails. */
static int host_finish(struct forward *f, struct error *err)
{
    (void)f;
    (void)err;
    return 0;
}

const struct forward_ops forward_host_ops = {
    .open = host_open,
    .close = host_close,
    .begin = host_begin,
    .layers_begin = host_layers_begin,
    .layers_end = host_layers_end,
    .norm = host_norm,
    .linears = host_linears,
    .gated = host_gated,
    .attend = forward_attend,
    .residual = host_residual,
    .expect = host_expect,
    .logits = host_logits,
    .finish = host_finish,
    .adapter_open = host_adapter_open,
    .adapter_close = host_adapter_close,
    .bytes = host_bytes,
    .trim = host_trim,
};
