/*
 * Attention over a paged cache, of every instruction set that this processor has: what is stored,
 * and what comes out against the formula computed here in double over what the cache holds. Blocks
 * start as NaN, and so stay the positions that no row sees; blocks that no row sees are NULL. Each
 * tolerance is derived from the length of the sums.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "kernels/kernels.h"
#include "unit/kernel_checks.h"

static const uint32_t head_dims[] = {1, 2, 3, 8, 15, 16, 17, 33, 64, 80, 96, 100, 128, 129, 256};

/* --- the cache --- */

/* What stands in a block, by the layout that attention.h describes. */
static double stored(const void *block, enum kernel_kv kv, uint32_t dim, int is_value,
                     uint32_t index, uint32_t d)
{
    static const uint32_t group[] = {1, 2, 4};
    uint32_t g = group[kv];
    const char *base = (const char *)block;
    size_t at = (d / g * 16 + index) * g + d % g;
    if (is_value) {
        base += (dim + g - 1) / g * 64;
        at = (index / g * dim + d) * g + index % g;
    }
    if (kv != KERNEL_KV_INT8)
        return element(base, kv == KERNEL_KV_F32 ? KERNEL_F32 : KERNEL_BF16, at);
    const char *scales = (const char *)block + (dim + 3) / 4 * 64 + 16 / 4 * dim * 4;
    float scale;
    memcpy(&scale, scales + (is_value ? 16 + index : index) * sizeof scale, sizeof scale);
    return (double)((const int8_t *)base)[at] * (double)scale;
}

static void check_stored(const struct kernels *k, enum kernel_kv kv, const void *block,
                         uint32_t dim, uint32_t index, const float *const given[2])
{
    for (int is_value = 0; is_value < 2; is_value++) {
        double largest = 0;
        for (uint32_t d = 0; d < dim; d++)
            largest = fmax(largest, fabs((double)given[is_value][d]));
        for (uint32_t d = 0; d < dim; d++) {
            double x = given[is_value][d];
            /* Half a unit of bf16; of int8 half a step, and the roundings of x / scale * scale. */
            double tolerance = kv == KERNEL_KV_F32    ? 0
                               : kv == KERNEL_KV_BF16 ? 0x1p-8 * fabs(x)
                                                      : largest / 254 + 130 * UNIT * fabs(x);
            check_near(stored(block, kv, dim, is_value, index, d), x, tolerance,
                       "%s kv %d dim %u position %u %s %u", kernels_isa_name(k->isa), kv, dim,
                       index, is_value ? "value" : "key", d);
        }
    }
}

/* Every position stands where it belongs, whatever the order, and is the same for each instruction
 * set; the others stay as they are. */
static void cache_keeps_positions(const struct kernels *k)
{
    const struct kernels *ref = kernels_get(KERNEL_ISA_REF);
    struct rng rng;
    rng_seed(&rng, 5);
    for (size_t i = 0; i < COUNT(head_dims) * KERNEL_KV_COUNT; i++) {
        enum kernel_kv kv = i % KERNEL_KV_COUNT;
        uint32_t dim = head_dims[i / KERNEL_KV_COUNT];
        struct guarded block = guarded_make(kernel_kv_block_bytes(kv, dim));
        struct guarded same = guarded_make(block.bytes);
        struct guarded vectors = random_of(&rng, KERNEL_F32, (size_t)2 * KERNEL_KV_TOKENS * dim);
        const float *all = vectors.data;
        for (uint32_t n = 0; n < KERNEL_KV_TOKENS; n++) {
            uint32_t index = n * 7 % KERNEL_KV_TOKENS; /* each once */
            const float *given[2] = {all + (size_t)index * 2 * dim, all + (index * 2 + 1) * dim};
            k->kv_store[kv](block.data, index, given[0], given[1], dim);
            ref->kv_store[kv](same.data, index, given[0], given[1], dim);
            assert_memory_equal(block.data, same.data, block.bytes);
        }
        for (uint32_t index = 0; index < KERNEL_KV_TOKENS; index++) {
            const float *given[2] = {all + (size_t)index * 2 * dim, all + (index * 2 + 1) * dim};
            check_stored(k, kv, block.data, dim, index, given);
        }
        guarded_free(&block);
        guarded_free(&same);
        guarded_free(&vectors);
    }
}

/* int8: zeros stay zeros, tiny values are no division by zero, and what is not finite is seen. */
static void int8_survives_extremes(const struct kernels *k)
{
    enum { DIM = 8 };
    static const float extremes[] = {0, 0x1p-149f, 1e-38f, 3e38f, INFINITY, -INFINITY, NAN};
    const float ones[DIM] = {1, 1, 1, 1, 1, 1, 1, 1};
    for (size_t i = 0; i < COUNT(extremes); i++) {
        float key[DIM] = {0};
        struct guarded block = guarded_make(kernel_kv_block_bytes(KERNEL_KV_INT8, DIM));
        key[i % DIM] = extremes[i];
        k->kv_store[KERNEL_KV_INT8](block.data, 3, key, ones, DIM);
        for (uint32_t d = 0; d < DIM; d++) {
            double got = stored(block.data, KERNEL_KV_INT8, DIM, 0, 3, d);
            if (isfinite(extremes[i]))
                check_near(got, key[d], fmax(0x1p-100, 1e-6 * fabs((double)key[d])), "extreme %zu",
                           i);
            else
                assert_true(isnan(got));
            check_near(stored(block.data, KERNEL_KV_INT8, DIM, 1, 3, d), 1, 2 * UNIT, "one");
        }
        guarded_free(&block);
    }
}

/* --- attention --- */

struct attention_case {
    enum kernel_kv kv;
    uint32_t dim, heads, position, rows, window;
};

/* The cache of a case, and what its rows ask. */
struct attention_world {
    const struct attention_case *c;
    struct guarded *blocks; /* [block_count] */
    const void **pointers;  /* [block_count] */
    uint32_t block_count;
    struct guarded q; /* [rows, heads, dim] */
    float scale;
};

static uint32_t seen_from(const struct attention_case *c, uint32_t row)
{
    uint32_t end = c->position + row + 1;
    return end > c->window ? end - c->window : 0;
}

static struct attention_world make_world(const struct kernels *k, struct rng *rng,
                                         const struct attention_case *c)
{
    uint32_t end = c->position + c->rows;
    struct attention_world w = {.c = c, .scale = 1 / sqrtf((float)c->dim)};
    w.block_count = (end + KERNEL_SPAN_TOKENS - 1) / KERNEL_SPAN_TOKENS * KERNEL_SPAN_BLOCKS;
    w.blocks = calloc(w.block_count, sizeof(*w.blocks));
    w.pointers = calloc(w.block_count, sizeof(*w.pointers));
    assert_true(w.blocks != NULL && w.pointers != NULL);
    for (uint32_t p = seen_from(c, 0); p < end; p++) {
        uint32_t b = p / KERNEL_KV_TOKENS;
        if (w.pointers[b] == NULL) {
            w.blocks[b] = guarded_make(kernel_kv_block_bytes(c->kv, c->dim));
            w.pointers[b] = w.blocks[b].data;
        }
        struct guarded key = random_of(rng, KERNEL_F32, c->dim);
        struct guarded value = random_of(rng, KERNEL_F32, c->dim);
        k->kv_store[c->kv](w.blocks[b].data, p % KERNEL_KV_TOKENS, key.data, value.data, c->dim);
        guarded_free(&key);
        guarded_free(&value);
    }
    /* Numbers that bf16 holds, so that products of pairs of it see the same q. */
    w.q = random_of(rng, KERNEL_F32, (size_t)c->rows * c->heads * c->dim);
    for (size_t i = 0; i < (size_t)c->rows * c->heads * c->dim; i++)
        ((float *)w.q.data)[i] = bf16_expand(bf16_truncate(((float *)w.q.data)[i]));
    return w;
}

static void free_world(struct attention_world *w)
{
    for (uint32_t b = 0; b < w->block_count; b++)
        if (w->pointers[b] != NULL)
            guarded_free(&w->blocks[b]);
    guarded_free(&w->q);
    free(w->blocks);
    free(w->pointers);
}

/* Heads [head, head + heads) of rows [row, row + rows), span after span; out [rows, heads, dim]. */
static void attend_all(const struct kernels *k, const struct attention_world *w, uint32_t row,
                       uint32_t rows, uint32_t head, uint32_t heads, float *out)
{
    const struct attention_case *c = w->c;
    uint32_t n = rows * heads;
    struct guarded memory[6];
    for (int i = 0; i < 6; i++)
        memory[i] = guarded_floats(i % 3 == 0 ? (size_t)n * c->dim : n);
    struct kernel_attention all = {memory[0].data, memory[1].data, memory[2].data};
    struct kernel_attention one = {memory[3].data, memory[4].data, memory[5].data};
    size_t scratch_bytes = kernel_attend_scratch_bytes(n, c->dim);
    void *scratch = aligned_alloc(64, scratch_bytes);
    assert_non_null(scratch);
    uint32_t first = seen_from(c, row) / KERNEL_SPAN_TOKENS;
    uint32_t last = (c->position + row + rows - 1) / KERNEL_SPAN_TOKENS;
    for (uint32_t s = first; s <= last; s++) {
        struct kernel_attended a = {
            .blocks = w->pointers + s * KERNEL_SPAN_BLOCKS,
            .span_begin = s * KERNEL_SPAN_TOKENS,
            .position = c->position + row,
            .row_count = rows,
            .window = c->window,
            .q = (const float *)w->q.data + ((size_t)row * c->heads + head) * c->dim,
            .q_stride = c->heads * c->dim,
            .heads = heads,
            .dim = c->dim,
            .scale = w->scale,
            .scratch = scratch,
        };
        memset(scratch, 0xff, scratch_bytes);
        k->attend[c->kv](s == first ? &all : &one, &a);
        if (s > first)
            k->attend_join(&all, &one, n, c->dim);
    }
    k->attend_end(out, (size_t)heads * c->dim, &all, rows, heads, c->dim);
    for (int i = 0; i < 6; i++)
        guarded_free(&memory[i]);
    free(scratch);
}

/* out[d] and the sum of the absolute values of its terms, in double. */
static void attention_truth(const struct attention_world *w, uint32_t row, const float *q,
                            double *out, double *size, double *score_size_max)
{
    const struct attention_case *c = w->c;
    uint32_t begin = seen_from(c, row), end = c->position + row + 1;
    double *scores = calloc(end, sizeof(*scores)), largest = -INFINITY, total = 0;
    assert_non_null(scores);
    *score_size_max = 0;
    for (uint32_t p = begin; p < end; p++) {
        double score_size = 0;
        for (uint32_t d = 0; d < c->dim; d++) {
            double product =
                (double)w->scale * q[d] * stored(w->pointers[p / 16], c->kv, c->dim, 0, p % 16, d);
            scores[p] += product;
            score_size += fabs(product);
        }
        largest = fmax(largest, scores[p]);
        *score_size_max = fmax(*score_size_max, score_size);
    }
    for (uint32_t p = begin; p < end; p++)
        total += exp(scores[p] - largest);
    for (uint32_t d = 0; d < c->dim; d++) {
        out[d] = size[d] = 0;
        for (uint32_t p = begin; p < end; p++) {
            double term = exp(scores[p] - largest) / total *
                          stored(w->pointers[p / 16], c->kv, c->dim, 1, p % 16, d);
            out[d] += term;
            size[d] += fabs(term);
        }
    }
    free(scores);
}

/*
 * A score runs through its dimensions in one lane: at most dim roundings of its terms, and 3 for
 * the scales; that is the relative error of its exp, which adds 3 of its own, and enters the terms
 * and their total. The sum over n positions makes n roundings, and each join of spans 5;
 * independent as they are, they add up to a few times sqrt(n). Products of bf16 pairs take weights
 * rounded to bf16, 2^-8 of a term and at most of the total.
 */
static double attention_tolerance(const struct kernels *k, const struct attention_case *c,
                                  uint32_t row, double score_size)
{
    uint32_t end = c->position + row + 1, n = end - seen_from(c, row);
    double spans = n / KERNEL_SPAN_TOKENS + 2;
    double units = 2 * ((c->dim + 3) * score_size + 3) + 4 * sqrt(n) + 5 * sqrt(spans) + 4;
    bool rounds = k->isa == KERNEL_ISA_AVX512BF16 && c->kv != KERNEL_KV_F32;
    return units * UNIT + (rounds ? 2 * 0x1p-8 : 0);
}

static void check_row(const struct kernels *k, const struct attention_world *w, uint32_t row,
                      const float *got)
{
    const struct attention_case *c = w->c;
    struct guarded alone = guarded_floats((size_t)c->heads * c->dim);
    double *want = calloc(2 * c->dim, sizeof(*want)), *size = want + c->dim, score_size;
    assert_non_null(want);
    for (uint32_t h = 0; h < c->heads; h++) {
        const float *q = (const float *)w->q.data + ((size_t)row * c->heads + h) * c->dim;
        attention_truth(w, row, q, want, size, &score_size);
        double relative = attention_tolerance(k, c, row, score_size);
        for (uint32_t d = 0; d < c->dim; d++)
            check_near(got[(size_t)h * c->dim + d], want[d], relative * size[d],
                       "%s attention kv %d dim %u position %u window %u head %u at %u",
                       kernels_isa_name(k->isa), c->kv, c->dim, c->position + row, c->window, h, d);
        attend_all(k, w, row, 1, h, 1, (float *)alone.data + (size_t)h * c->dim);
    }
    assert_memory_equal(alone.data, got, alone.bytes);
    attend_all(k, w, row, 1, 0, c->heads, alone.data);
    assert_memory_equal(alone.data, got, alone.bytes);
    guarded_free(&alone);
    free(want);
}

/* Right, and bitwise the same for all rows together, each alone, each head alone, and in pieces. */
static void check_attention(const struct kernels *k, struct rng *rng,
                            const struct attention_case *c)
{
    size_t row_floats = (size_t)c->heads * c->dim;
    struct attention_world w = make_world(k, rng, c);
    struct guarded out = guarded_floats(c->rows * row_floats);
    struct guarded pieces = guarded_floats(c->rows * row_floats);
    attend_all(k, &w, 0, c->rows, 0, c->heads, out.data);
    for (uint32_t row = 0; row<c->rows; row += c->rows> 20 ? 7 : 1)
        check_row(k, &w, row, (const float *)out.data + row * row_floats);
    for (uint32_t row = 0, n; row < c->rows; row += n) {
        n = 1 + rng_below(rng, c->rows - row);
        attend_all(k, &w, row, n, 0, c->heads, (float *)pieces.data + row * row_floats);
    }
    assert_memory_equal(pieces.data, out.data, out.bytes);
    guarded_free(&out);
    guarded_free(&pieces);
    free_world(&w);
}

static void attention_is_right(const struct kernels *k)
{
    /* position of the first row, rows, window */
    static const uint32_t places[][3] = {
        {0, 1, UINT32_MAX},  {0, 5, UINT32_MAX},   {1, 1, UINT32_MAX},   {15, 3, UINT32_MAX},
        {40, 9, UINT32_MAX}, {255, 1, UINT32_MAX}, {250, 9, UINT32_MAX}, {256, 1, UINT32_MAX},
        {30, 7, 5},          {255, 6, 33},         {300, 4, 1},          {505, 10, 250},
    };
    struct rng rng;
    rng_seed(&rng, 3);
    for (size_t d = 0; d < COUNT(head_dims); d++) {
        for (size_t i = 0; i < COUNT(places) * KERNEL_KV_COUNT; i++) {
            const uint32_t *place = places[i / KERNEL_KV_COUNT];
            if (head_dims[d] > 100 && (d + i) % 3 != 0)
                continue;
            struct attention_case c = {i % KERNEL_KV_COUNT,
                                       head_dims[d],
                                       1 + (uint32_t)(d + i) % 9,
                                       place[0],
                                       place[1],
                                       place[2]};
            check_attention(k, &rng, &c);
        }
    }
    for (enum kernel_kv kv = 0; kv < KERNEL_KV_COUNT; kv++) {
        struct attention_case lone = {kv, 64, 7, 3999, 1, UINT32_MAX};
        struct attention_case window = {kv, 128, 3, 4097, 2, 3096};
        struct attention_case tile = {kv, 64, 2, 700, 40, UINT32_MAX};
        check_attention(k, &rng, &lone);
        check_attention(k, &rng, &window);
        check_attention(k, &rng, &tile);
    }
}

/* q is rounded as everything that becomes bf16, where products take it so; nowhere else. */
static void queries_are_rounded(const struct kernels *k)
{
    struct rng rng;
    rng_seed(&rng, 7);
    for (enum kernel_kv kv = 0; kv < KERNEL_KV_COUNT; kv++) {
        struct attention_case c = {kv, 65, 3, 290, 2, UINT32_MAX};
        size_t count = (size_t)c.rows * c.heads * c.dim;
        struct attention_world w = make_world(k, &rng, &c);
        struct guarded before = guarded_floats(count), after = guarded_floats(count);
        fill(&rng, w.q.data, KERNEL_F32, count);
        attend_all(k, &w, 0, c.rows, 0, c.heads, before.data);
        for (size_t i = 0; i < count; i++) {
            uint16_t half;
            k->store[KERNEL_BF16](&half, (float *)w.q.data + i, 1);
            ((float *)w.q.data)[i] = bf16_expand(half);
        }
        attend_all(k, &w, 0, c.rows, 0, c.heads, after.data);
        bool rounds = k->isa == KERNEL_ISA_AVX512BF16 && kv != KERNEL_KV_F32;
        assert_int_equal(memcmp(before.data, after.data, before.bytes) == 0, rounds);
        guarded_free(&before);
        guarded_free(&after);
        free_world(&w);
    }
}

/* Scores far apart, within a span and between spans: what is far below the largest weighs nothing,
 * and nothing overflows. */
static void attention_survives_large_scores(const struct kernels *k)
{
    enum { DIM = 32, TOKENS = 600 };
    static const uint32_t places[] = {0, 23, 255, 256, 480, 599};
    struct rng rng;
    rng_seed(&rng, 8);
    for (size_t i = 0; i < COUNT(places) * KERNEL_KV_COUNT; i++) {
        struct attention_case c = {i % KERNEL_KV_COUNT, DIM, 1, TOKENS - 1, 1, UINT32_MAX};
        uint32_t place = places[i / KERNEL_KV_COUNT];
        struct attention_world w = make_world(k, &rng, &c);
        float key[DIM], value[DIM], out[DIM];
        for (uint32_t p = 0; p < TOKENS; p++) {
            for (int d = 0; d < DIM; d++) {
                key[d] = p == place ? 100 : -100;
                value[d] = p == place ? 64 : (float)p;
            }
            k->kv_store[c.kv](w.blocks[p / 16].data, p % 16, key, value, DIM);
        }
        for (int d = 0; d < DIM; d++)
            ((float *)w.q.data)[d] = 100;
        attend_all(k, &w, 0, 1, 0, 1, out);
        for (int d = 0; d < DIM; d++)
            check_near(out[d], 64, c.kv == KERNEL_KV_INT8 ? 64 * 0x1p-8 : 0,
                       "%s attention to one position of kv %d", kernels_isa_name(k->isa), c.kv);
        free_world(&w);
    }
}

/* One damaged key or value must not pass for a very large or very small score, and is seen only by
 * those who look at its position. */
static void attention_passes_on_a_nan(const struct kernels *k)
{
    enum { DIM = 16, ROWS = 6, POSITION = 257 };
    static const uint32_t places[] = {0, 100, 255, 256, 257, 258, 259, 260, 262};
    struct rng rng;
    rng_seed(&rng, 9);
    for (size_t i = 0; i < COUNT(places) * KERNEL_KV_COUNT * 2; i++) {
        struct attention_case c = {i / 2 % KERNEL_KV_COUNT, DIM, 2, POSITION, ROWS, UINT32_MAX};
        uint32_t place = places[i / 2 / KERNEL_KV_COUNT];
        struct attention_world w = make_world(k, &rng, &c);
        float sound[DIM], damaged[DIM], out[ROWS * 2 * DIM];
        for (int d = 0; d < DIM; d++)
            sound[d] = damaged[d] = 1;
        damaged[3] = NAN;
        k->kv_store[c.kv](w.blocks[place / 16].data, place % 16, i % 2 ? damaged : sound,
                          i % 2 ? sound : damaged, DIM);
        attend_all(k, &w, 0, ROWS, 0, 2, out);
        for (uint32_t n = 0; n < ROWS * 2 * DIM; n++) {
            bool sees = POSITION + n / (2 * DIM) >= place;
            bool is_hit = i % 2 || c.kv == KERNEL_KV_INT8 || n % DIM == 3;
            assert_int_equal(isnan(out[n]), sees && is_hit);
        }
        free_world(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CHECK(cache_keeps_positions),
        CHECK(int8_survives_extremes),
        CHECK(attention_is_right),
        CHECK(queries_are_rounded),
        CHECK(attention_survives_large_scores),
        CHECK(attention_passes_on_a_nan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
