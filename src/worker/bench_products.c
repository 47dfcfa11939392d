/*
 * Matrix products by themselves: every kernel that takes the model's matrices, and an adapter's,
 * over numbers of rows. A matrix is there in as many copies as are more than the caches hold, taken
 * in turn, so that its weights come from memory as in a step of the engine.
 */
#include "worker/bench_kernels.h"

#include "base/rng.h"
#include "engine/forward.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_BYTES 131072u /* of weights; see kernel_matmul */
#define MANY_ROWS 8u
#define CHUNK_OUTPUTS_MANY_ROWS 64u
#define CALL_BYTES (4u << 20)
#define COPY_ALIGN 256u
#define RANK 16u

static const uint32_t row_counts[] = {1, 2, 4, 8, 16, 64, 256};

#define ROWS_MAX 256u

/* In which form a product takes its rows. */
enum form { AS_FLOAT, AS_HALF, AS_QUANTISED };

struct shape {
    const char *weights; /* how they are kept */
    uint32_t dtype, in, out;
    const void *data; /* [out, in] of the dtype, or NULL: random */
    uint32_t rows_max;
};

struct product {
    const struct bench *b;
    const struct onednn *peer;
    const struct kernels *k;
    const struct shape *shape;
    enum form form;
    uint32_t rows;
    uint32_t chunk_outputs;
    uint32_t chunks; /* of one matrix */

    char *weights; /* [copies, copy_bytes] */
    size_t copy_bytes;
    uint32_t copies;
    uint32_t copies_per_call;
    uint32_t at; /* the first copy of the next call */

    float *x;        /* [rows, in] */
    uint16_t *half;  /* the same as bf16 */
    char *quantised; /* and as int8 */
    float *y;        /* [threads, rows, out]: a chunk's outputs stay with its thread */
};

static void product_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct product *p = argument;
    const struct shape *s = p->shape;
    uint32_t copy = (p->at + chunk / p->chunks) % p->copies;
    uint32_t begin = chunk % p->chunks * p->chunk_outputs, end = begin + p->chunk_outputs;
    const void *w = p->weights + copy * p->copy_bytes;
    float *y = p->y + (size_t)thread * ROWS_MAX * s->out;
    end = end < s->out ? end : s->out;
    if (p->form == AS_FLOAT)
        p->k->matmul[s->dtype](y, s->out, p->x, s->in, w, NULL, p->rows, s->in, begin, end, 0);
    else if (p->form == AS_HALF)
        p->k->matmul_half[s->dtype](y, s->out, p->half, s->in, w, NULL, p->rows, s->in, begin, end,
                                    0);
    else
        p->k->matmul_quantised[s->dtype](y, s->out, p->quantised, w, NULL, p->rows, s->in, begin,
                                         end, 0);
}

static void next_copies(void *argument)
{
    struct product *p = argument;
    p->at = (p->at + p->copies_per_call) % p->copies;
}

/* The same product of a peer, whose int8 has one scale where ours has one for each group. */
static double peer_us(void *argument)
{
    const struct product *p = argument;
    const struct shape *s = p->shape;
    const char *type = p->form == AS_HALF                                   ? "bf16"
                       : p->form == AS_FLOAT && s->dtype == KERNEL_F32      ? "f32"
                       : p->form == AS_QUANTISED && s->dtype == KERNEL_INT8 ? "int8"
                                                                            : NULL;
    if (type == NULL)
        return 0;
    return onednn_us(p->peer, type, p->rows, s->in, s->out, kernel_beyond_caches(p->b));
}

/* --- operands --- */

static int open_rows(struct product *p, uint32_t threads, struct error *err)
{
    size_t in = p->shape->in, quantised_bytes = kernel_quantised_bytes(p->shape->in);
    p->x = malloc(ROWS_MAX * in * sizeof *p->x);
    p->half = malloc(ROWS_MAX * in * sizeof *p->half);
    p->quantised = malloc(ROWS_MAX * quantised_bytes);
    p->y = malloc(sizeof *p->y * threads * ROWS_MAX * p->shape->out);
    if (p->x == NULL || p->half == NULL || p->quantised == NULL || p->y == NULL)
        return error_set(err, -ENOMEM, "no memory for %u rows", ROWS_MAX);
    kernel_random(p->x, ROWS_MAX * in);
    p->k->store[KERNEL_BF16](p->half, p->x, (uint32_t)(ROWS_MAX * in));
    for (size_t row = 0; row < ROWS_MAX; row++)
        p->k->quantise(p->quantised + row * quantised_bytes, p->x + row * in, (uint32_t)in);
    return 0;
}

/* Random bytes will do as weights of an adapter when no exponent is extreme. */
static void random_matrix(const struct shape *s, void *to, size_t bytes)
{
    struct rng rng;
    rng_seed(&rng, 3);
    for (size_t i = 0; i < bytes / sizeof(float); i++) {
        float value = (float)(rng_unit(&rng) - 0.5);
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        if (s->dtype != KERNEL_F32)
            bits = bits >> 16 | (bits & 0xffff0000u); /* the same bf16 twice */
        memcpy((char *)to + i * sizeof bits, &bits, sizeof bits);
    }
}

static int open_weights(const struct bench *b, struct product *p, struct error *err)
{
    const struct shape *s = p->shape;
    uint64_t bytes;
    if (!image_tensor_bytes(s->out, s->in, s->dtype, &bytes))
        return error_set(err, -EINVAL, "no matrix has %u x %u values", s->out, s->in);
    p->copy_bytes = (bytes + COPY_ALIGN - 1) / COPY_ALIGN * COPY_ALIGN;
    p->copies = (uint32_t)(kernel_beyond_caches(b) / p->copy_bytes) + 1;
    p->copies_per_call = (uint32_t)(CALL_BYTES / p->copy_bytes) + 1;
    if (p->copies_per_call > p->copies)
        p->copies_per_call = p->copies;
    p->weights = kernel_memory(p->copies * p->copy_bytes, err);
    if (p->weights == NULL)
        return err->code;
    for (uint32_t i = 0; i < p->copies; i++) {
        char *copy = p->weights + i * p->copy_bytes;
        if (s->data != NULL)
            memcpy(copy, s->data, bytes);
        else if (i == 0)
            random_matrix(s, copy, bytes);
        else
            memcpy(copy, p->weights, bytes);
    }
    return 0;
}

static void product_close(struct product *p)
{
    kernel_memory_free(p->weights, p->copies * p->copy_bytes);
    free(p->x);
    free(p->half);
    free(p->quantised);
    free(p->y);
}

/* --- lines --- */

/* As the engine cuts: many rows are read again for each chunk, so that it takes more outputs. */
static uint32_t chunk_outputs(const struct product *p)
{
    uint32_t least = p->rows > MANY_ROWS ? CHUNK_OUTPUTS_MANY_ROWS : KERNEL_PANEL_OUTS;
    uint64_t outputs = (uint64_t)CHUNK_BYTES * p->shape->out / p->copy_bytes;
    outputs -= outputs % KERNEL_PANEL_OUTS;
    return outputs > least ? (uint32_t)outputs : least;
}

static void print_product(const struct bench *b, struct pool *pool, struct product *p)
{
    static const struct {
        const char *name;
        enum kernel_arithmetic arithmetic;
    } forms[] = {
        [AS_FLOAT] = {"matmul", KERNEL_MULTIPLY_F32},
        [AS_HALF] = {"matmul_half", KERNEL_MULTIPLY_BF16},
        [AS_QUANTISED] = {"matmul_quantised", KERNEL_MULTIPLY_INT8},
    };
    const struct shape *s = p->shape;
    p->chunk_outputs = chunk_outputs(p);
    p->chunks = (s->out + p->chunk_outputs - 1) / p->chunk_outputs;
    struct kernel_case c = {
        .b = b,
        .pool = pool,
        .fn = product_chunk,
        .job = p,
        .chunks = p->chunks * p->copies_per_call,
        .advance = next_copies,
        .units = p->copies_per_call,
        .bytes = (double)p->copy_bytes,
        .operations = 2.0 * p->rows * s->in * s->out,
        .arithmetic = forms[p->form].arithmetic,
        .peer_us = peer_us,
        .peer = "onednn",
    };
    json_t *line = bench_line(b, pool_threads(pool));
    bench_set_text(line, "kernel", forms[p->form].name);
    bench_set_text(line, "weights", s->weights);
    bench_set_count(line, "in", s->in);
    bench_set_count(line, "out", s->out);
    bench_set_count(line, "rows", p->rows);
    kernel_measure(&c, line);
    bench_print(line);
}

static bool has_form(const struct kernels *k, uint32_t dtype, enum form form)
{
    return form == AS_FLOAT  ? k->matmul[dtype] != NULL
           : form == AS_HALF ? k->matmul_half[dtype] != NULL
                             : k->matmul_quantised[dtype] != NULL;
}

static int print_shape(const struct bench *b, struct pool *pool, const struct onednn *peer,
                       const struct shape *s, struct error *err)
{
    struct product p = {.b = b, .peer = peer, .k = b->kernels, .shape = s};
    bench_progress(b, "%u -> %u, %s", s->in, s->out, s->weights);
    int r = open_rows(&p, pool_threads(pool), err);
    if (r == 0)
        r = open_weights(b, &p, err);
    for (enum form form = AS_FLOAT; r == 0 && form <= AS_QUANTISED; form++) {
        for (size_t i = 0; i < sizeof row_counts / sizeof row_counts[0]; i++) {
            p.form = form;
            p.rows = row_counts[i];
            if (p.rows <= s->rows_max && has_form(b->kernels, s->dtype, form))
                print_product(b, pool, &p);
        }
    }
    product_close(&p);
    return r;
}

static const char *weights_name(uint32_t dtype)
{
    switch (dtype) {
    case IMAGE_PANELS:
        return "bf16 panels";
    case IMAGE_CODES:
        return "codes";
    case IMAGE_CODE_PANELS:
        return "code panels";
    default:
        return image_quant_name(dtype);
    }
}

static uint32_t add_shape(struct shape *shapes, uint32_t count, const struct weight *w,
                          uint32_t rows_max)
{
    for (uint32_t i = 0; i < count; i++)
        if (shapes[i].in == w->cols && shapes[i].out == w->rows && shapes[i].dtype == w->dtype)
            return count;
    shapes[count] =
        (struct shape){weights_name(w->dtype), w->dtype, w->cols, w->rows, w->data, rows_max};
    return count + 1;
}

int kernels_products(const struct bench *b, struct pool *pool, const struct onednn *peer,
                     struct error *err)
{
    struct shape shapes[LINEAR_COUNT + 8];
    uint32_t count = 0, hidden = b->backbone.config->hidden, ffn = b->backbone.config->ffn;
    for (uint32_t i = 0; i < LINEAR_LAYER_COUNT; i++)
        count = add_shape(shapes, count, &b->backbone.layers[0].linears[i].weight, ROWS_MAX);
    count = add_shape(shapes, count, &b->backbone.head, FORWARD_LOGIT_ROWS_MAX);
    /* An adapter's: what shrinks lies in rows, what expands in panels. */
    uint32_t rows = b->dtype == IMAGE_F32 ? IMAGE_F32 : IMAGE_BF16;
    uint32_t panels = b->dtype == IMAGE_F32 ? IMAGE_F32 : IMAGE_PANELS;
    const struct weight adapter[] = {{NULL, rows, RANK, hidden},
                                     {NULL, rows, RANK, ffn},
                                     {NULL, panels, hidden, RANK},
                                     {NULL, panels, ffn, RANK},
                                     {NULL, IMAGE_CODES, RANK, hidden},
                                     {NULL, IMAGE_CODES, RANK, ffn},
                                     {NULL, IMAGE_CODE_PANELS, hidden, RANK},
                                     {NULL, IMAGE_CODE_PANELS, ffn, RANK}};
    for (size_t i = 0; i < sizeof adapter / sizeof adapter[0]; i++)
        count = add_shape(shapes, count, &adapter[i], ROWS_MAX);
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < count; i++)
        r = print_shape(b, pool, peer, &shapes[i], err);
    return r;
}
