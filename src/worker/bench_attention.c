/*
 * Attention by itself: of each KV head of a paged cache, for the query heads that share it, one row
 * (decode) and a tile of rows (prefill) at the end of contexts of several lengths. The cache is
 * laid out as the engine's, with as many sequences as are more than the caches hold.
 */
#include "worker/bench_kernels.h"

#include "engine/kv.h"

#include <errno.h>
#include <stdlib.h>

#define TILE_ROWS 8u
#define ALIGN 64u
#define PAGE_BYTES 4096u

static const uint32_t contexts[] = {512, 2048, 8192};
static const uint32_t row_counts[] = {1, TILE_ROWS};

struct attention {
    const struct kernels *k;
    const struct model_config *c;
    enum kernel_kv kv_type;
    uint32_t heads; /* that share a KV head */
    uint32_t context;
    uint32_t rows; /* the last of the context */

    struct kv_pool pool;
    struct kv_blocks *sequences; /* [sequence_count] */
    uint32_t sequence_count;

    float *q;      /* [TILE_ROWS, heads, dim] */
    char *scratch; /* [threads, scratch_bytes] */
    size_t scratch_bytes;
};

/* Where a thread keeps what it computes, behind the kernel's own scratch. */
static struct kernel_attention result_at(float **at, uint32_t queries, uint32_t dim)
{
    struct kernel_attention r = {.values = *at};
    r.largest = r.values + (size_t)queries * dim;
    r.sum = r.largest + queries;
    *at = r.sum + queries;
    return r;
}

static size_t results_bytes(uint32_t queries, uint32_t dim)
{
    return queries * (3 * (size_t)dim + 4) * sizeof(float); /* all, a span, the output */
}

static void attend_span(const struct attention *j, struct kernel_attended *a, uint32_t span,
                        const struct kv_blocks *sequence, uint32_t layer, uint32_t kv_head,
                        struct kernel_attention *ret)
{
    const void *blocks[KERNEL_SPAN_BLOCKS] = {0};
    uint32_t first = span * KERNEL_SPAN_BLOCKS;
    for (uint32_t i = 0; i < KERNEL_SPAN_BLOCKS && first + i < sequence->count; i++)
        blocks[i] = kv_head_at(&j->pool, sequence->ids[first + i], layer, kv_head);
    a->blocks = blocks;
    a->span_begin = first * KERNEL_KV_TOKENS;
    j->k->attend[j->kv_type](ret, a);
}

/* A chunk is a KV head of a layer of a sequence. */
static void attention_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct attention *j = argument;
    uint32_t kv_head = chunk % j->c->kv_head_count;
    uint32_t layer = chunk / j->c->kv_head_count % j->c->layer_count;
    const struct kv_blocks *sequence =
        &j->sequences[chunk / j->c->kv_head_count / j->c->layer_count];
    uint32_t dim = j->c->head_dim, queries = j->rows * j->heads;
    char *scratch = j->scratch + thread * j->scratch_bytes;
    float *at = (float *)(void *)(scratch + kernel_attend_scratch_bytes(queries, dim));
    struct kernel_attention all = result_at(&at, queries, dim), span = result_at(&at, queries, dim);
    struct kernel_attended a = {
        .position = j->context - j->rows,
        .row_count = j->rows,
        .window = UINT32_MAX,
        .q = j->q,
        .q_stride = (size_t)j->heads * dim,
        .heads = j->heads,
        .dim = dim,
        .scale = j->c->attention_scale,
        .scratch = scratch,
    };
    attend_span(j, &a, 0, sequence, layer, kv_head, &all);
    for (uint32_t i = 1; i * KERNEL_SPAN_TOKENS < j->context; i++) {
        attend_span(j, &a, i, sequence, layer, kv_head, &span);
        j->k->attend_join(&all, &span, queries, dim);
    }
    j->k->attend_end(at, a.q_stride, &all, j->rows, j->heads, dim);
}

/* --- operands --- */

static void fill_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    const struct attention *j = argument;
    const struct kv_blocks *sequence = &j->sequences[chunk];
    (void)thread;
    for (uint32_t position = 0; position < j->context; position++) {
        uint32_t id = sequence->ids[position / KERNEL_KV_TOKENS];
        for (uint32_t layer = 0; layer < j->c->layer_count; layer++)
            for (uint32_t h = 0; h < j->c->kv_head_count; h++)
                j->k->kv_store[j->kv_type](
                    kv_head_at(&j->pool, id, layer, h), position % KERNEL_KV_TOKENS,
                    j->q + position % KERNEL_KV_TOKENS, j->q, j->c->head_dim);
    }
}

static int open_cache(const struct bench *b, struct attention *j, struct error *err)
{
    uint32_t blocks = kv_blocks_for(j->context);
    uint64_t block_bytes =
        kernel_kv_block_bytes(j->kv_type, j->c->head_dim) * j->c->kv_head_count * j->c->layer_count;
    uint32_t count = (uint32_t)(kernel_beyond_caches(b) / (blocks * block_bytes)) + 1;
    /* Address space: the pool's blocks are whole pages. */
    uint64_t bytes = count * blocks * (block_bytes + PAGE_BYTES);
    int r = kv_open(&j->pool, j->c, j->kv_type, bytes, false, NULL, err);
    j->sequences = r == 0 ? calloc(count, sizeof *j->sequences) : NULL;
    if (r == 0 && j->sequences == NULL)
        r = error_set(err, -ENOMEM, "no memory for %u sequences", count);
    for (; r == 0 && j->sequence_count < count; j->sequence_count++) {
        struct kv_blocks *s = &j->sequences[j->sequence_count];
        if (kv_blocks_init(s, j->context) < 0 || !kv_grow(&j->pool, s, j->context))
            r = error_set(err, -ENOMEM, "no memory for the blocks of %u positions", j->context);
    }
    return r;
}

static int open_scratch(struct attention *j, uint32_t threads, struct error *err)
{
    uint32_t dim = j->c->head_dim, queries = TILE_ROWS * j->heads;
    size_t bytes = kernel_attend_scratch_bytes(queries, dim) + results_bytes(queries, dim);
    j->scratch_bytes = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    j->scratch = aligned_alloc(ALIGN, threads * j->scratch_bytes);
    /* Keys and values are taken from it too, a few elements apart. */
    size_t count = (size_t)queries * dim + KERNEL_KV_TOKENS;
    j->q = malloc(count * sizeof *j->q);
    if (j->scratch == NULL || j->q == NULL)
        return error_set(err, -ENOMEM, "no memory for %u queries", queries);
    kernel_random(j->q, count);
    return 0;
}

static void attention_close(struct attention *j)
{
    for (uint32_t i = 0; i < j->sequence_count; i++)
        kv_blocks_free(&j->pool, &j->sequences[i]);
    free(j->sequences);
    kv_close(&j->pool);
    free(j->scratch);
    free(j->q);
}

/* --- lines --- */

static void print_attention(const struct bench *b, struct pool *pool, struct attention *j)
{
    static const char *const names[KERNEL_KV_COUNT] = {
        [KERNEL_KV_F32] = "f32", [KERNEL_KV_BF16] = "bf16", [KERNEL_KV_INT8] = "int8"};
    bool as_pairs = j->kv_type != KERNEL_KV_F32 && j->k->matmul_half[KERNEL_BF16] != NULL;
    struct kernel_case c = {
        .b = b,
        .pool = pool,
        .fn = attention_chunk,
        .job = j,
        .chunks = j->sequence_count * j->c->layer_count * j->c->kv_head_count,
        .units = j->sequence_count * j->c->layer_count * j->c->kv_head_count,
        .bytes = (double)j->context / KERNEL_KV_TOKENS *
                 (double)kernel_kv_block_bytes(j->kv_type, j->c->head_dim),
        .operations = 4.0 * j->rows * j->heads * j->c->head_dim * j->context,
        .arithmetic = as_pairs ? KERNEL_MULTIPLY_BF16 : KERNEL_MULTIPLY_F32,
    };
    json_t *line = bench_line(b, pool_threads(pool));
    bench_set_text(line, "kernel", "attention");
    bench_set_text(line, "kv_dtype", names[j->kv_type]);
    bench_set_count(line, "context", j->context);
    bench_set_count(line, "heads", j->heads);
    bench_set_count(line, "rows", j->rows);
    kernel_measure(&c, line);
    bench_print(line);
}

static int print_context(const struct bench *b, struct pool *pool, enum kernel_kv kv_type,
                         uint32_t context, struct error *err)
{
    const struct model_config *c = b->backbone.config;
    struct attention j = {.k = b->kernels,
                          .c = c,
                          .kv_type = kv_type,
                          .heads = c->head_count / c->kv_head_count,
                          .context = context};
    int r = open_scratch(&j, pool_threads(pool), err);
    if (r == 0)
        r = open_cache(b, &j, err);
    if (r == 0)
        pool_run(pool, fill_chunk, &j, j.sequence_count);
    for (size_t i = 0; r == 0 && i < sizeof row_counts / sizeof row_counts[0]; i++) {
        j.rows = row_counts[i];
        print_attention(b, pool, &j);
    }
    attention_close(&j);
    return r;
}

int kernels_attention(const struct bench *b, struct pool *pool, struct error *err)
{
    const enum kernel_kv types[] = {b->dtype == IMAGE_F32 ? KERNEL_KV_F32 : KERNEL_KV_BF16,
                                    KERNEL_KV_INT8};
    int r = 0;
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
        for (size_t i = 0; r == 0 && i < sizeof contexts / sizeof contexts[0]; i++)
            r = print_context(b, pool, types[t], contexts[i], err);
    }
    return r;
}
