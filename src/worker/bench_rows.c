/* The kernels that go over rows of numbers: their operands stream through memory, so the share is
 * of the read ceiling, and 1 would mean that the arithmetic hides behind memory. */
#include "worker/bench_kernels.h"

#include "base/rng.h"

#define CHUNK_BYTES 131072u
#define NORMALS 4096u

struct row_job {
    const struct kernels *k;
    const struct model_config *config;
    const struct weight *embed;
    float *a, *b; /* [values]: the rows that change, and what they meet */
    uint32_t n;   /* of a row */
    uint32_t rows_per_chunk;
    uint32_t row_count;
    void (*run)(const struct row_job *j, float *a, float *b, size_t row);
};

/* Angles of a rotation: whatever turns, keeps its length. */
static const float cosine[512] = {[0 ... 511] = 0.6f};
static const float sine[512] = {[0 ... 511] = 0.8f};

static void run_rms_norm(const struct row_job *j, float *a, float *b, size_t row)
{
    (void)row;
    j->k->rms_norm(a, a, b, j->n, 1e-6f);
}

static void run_rope(const struct row_job *j, float *a, float *b, size_t row)
{
    (void)b;
    (void)row;
    j->k->rope(a, cosine, sine, j->n / j->config->head_dim, j->config->head_dim,
               j->config->rotary_dim);
}

static void run_silu_mul(const struct row_job *j, float *a, float *b, size_t row)
{
    (void)row;
    j->k->silu_mul(a, b, j->n);
}

static void run_gelu_mul(const struct row_job *j, float *a, float *b, size_t row)
{
    (void)row;
    j->k->gelu_mul(a, b, j->n);
}

static void run_add(const struct row_job *j, float *a, float *b, size_t row)
{
    (void)row;
    j->k->add(a, b, j->n);
}

static void run_store(const struct row_job *j, float *a, float *b, size_t row)
{
    (void)row;
    j->k->store[KERNEL_BF16](b, a, j->n);
}

static void run_load(const struct row_job *j, float *a, float *b, size_t row)
{
    (void)row;
    j->k->load[KERNEL_BF16](a, b, j->n);
}

static void run_quantise(const struct row_job *j, float *a, float *b, size_t row)
{
    (void)row;
    j->k->quantise(b, a, j->n);
}

static void run_load_row(const struct row_job *j, float *a, float *b, size_t row)
{
    (void)b;
    j->k->load_row[j->embed->dtype](a, j->embed->data, j->n,
                                    (uint32_t)(row * 7919 % j->embed->rows));
}

static void run_argmax(const struct row_job *j, float *a, float *b, size_t row)
{
    (void)row;
    b[0] = (float)j->k->argmax(a, j->n);
}

static void run_log_sum_exp(const struct row_job *j, float *a, float *b, size_t row)
{
    (void)row;
    b[0] = (float)j->k->log_sum_exp(a, j->n);
}

static void run_weigh(const struct row_job *j, float *a, float *b, size_t row)
{
    (void)row;
    j->k->weigh(b, a, j->n, 100, 1, -100);
}

static void run_select(const struct row_job *j, float *a, float *b, size_t row)
{
    (void)row;
    j->k->select(b, a, j->n, 0, 100);
}

static void row_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct row_job *j = argument;
    uint32_t begin = chunk * j->rows_per_chunk, end = begin + j->rows_per_chunk;
    (void)thread;
    for (uint32_t row = begin; row < end && row < j->row_count; row++)
        j->run(j, j->a + (size_t)row * j->n, j->b + (size_t)row * j->n, row);
}

/* Random numbers, the largest of a row in its middle; what they meet lets nothing vanish. */
static void fill(const struct row_job *j)
{
    float normals[NORMALS];
    struct rng rng;
    rng_seed(&rng, 1);
    for (uint32_t i = 0; i < NORMALS; i++)
        normals[i] = (float)rng_normal(&rng);
    for (size_t i = 0; i < (size_t)j->row_count * j->n; i++) {
        j->a[i] = normals[i % NORMALS];
        j->b[i] = 2;
    }
    for (size_t row = 0; row < j->row_count; row++)
        j->a[row * j->n + j->n / 2] = 100;
}

struct row_kernel {
    const char *name;
    void (*run)(const struct row_job *j, float *a, float *b, size_t row);
    uint32_t n;
    double value_bytes; /* read and written for each value */
};

static void print_rows(const struct bench *b, struct pool *pool, struct row_job *j,
                       const struct row_kernel *kernel)
{
    size_t values = kernel_beyond_caches(b) / sizeof(float);
    j->n = kernel->n;
    j->run = kernel->run;
    j->row_count = (uint32_t)(values / kernel->n);
    j->rows_per_chunk = CHUNK_BYTES / (kernel->n * (uint32_t)sizeof(float)) + 1;
    fill(j);
    struct kernel_case c = {
        .b = b,
        .pool = pool,
        .fn = row_chunk,
        .job = j,
        .chunks = (j->row_count + j->rows_per_chunk - 1) / j->rows_per_chunk,
        .units = j->row_count,
        .bytes = kernel->value_bytes * kernel->n,
        .arithmetic = KERNEL_MULTIPLY_F32,
    };
    json_t *line = bench_line(b, pool_threads(pool));
    bench_set_text(line, "kernel", kernel->name);
    bench_set_count(line, "values", kernel->n);
    kernel_measure(&c, line);
    bench_print(line);
}

int kernels_rows(const struct bench *b, struct pool *pool, struct error *err)
{
    const struct model_config *c = b->backbone.config;
    const struct weight *embed = &b->backbone.embed;
    size_t bytes = kernel_beyond_caches(b);
    double weight_bytes = 0;
    uint64_t embed_bytes;
    if (image_tensor_bytes(embed->rows, embed->cols, embed->dtype, &embed_bytes))
        weight_bytes = (double)embed_bytes / embed->rows / embed->cols;
    const struct row_kernel kernels[] = {
        {"rms_norm", run_rms_norm, c->hidden, 8},
        {"rope", run_rope, c->head_count * c->head_dim, 8},
        {"silu_mul", run_silu_mul, c->ffn, 12},
        {"gelu_mul", run_gelu_mul, c->ffn, 12},
        {"add", run_add, c->hidden, 12},
        {"store_bf16", run_store, c->hidden, 6},
        {"load_bf16", run_load, c->hidden, 6},
        {"quantise", run_quantise, c->hidden, 5.125},
        {"load_row", run_load_row, c->hidden, 4 + weight_bytes},
        {"argmax", run_argmax, c->vocab_count, 4},
        {"log_sum_exp", run_log_sum_exp, c->vocab_count, 4},
        {"weigh", run_weigh, c->vocab_count, 8},
        {"select", run_select, c->vocab_count, 6},
    };
    struct row_job j = {.k = b->kernels, .config = c, .embed = embed};
    j.a = kernel_memory(bytes, err);
    j.b = kernel_memory(bytes, err);
    for (size_t i = 0; j.a != NULL && j.b != NULL && i < sizeof kernels / sizeof kernels[0]; i++)
        print_rows(b, pool, &j, &kernels[i]);
    kernel_memory_free(j.a, bytes);
    kernel_memory_free(j.b, bytes);
    return j.a != NULL && j.b != NULL ? 0 : err->code;
}
