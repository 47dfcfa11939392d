/*
 * Part of vector.h: attention over a paged cache (attention.h). The queries of several rows and of
 * the heads that share a KV head go through keys and values together. Scores of sixteen positions
 * are lanes of a vector, so nothing is added across lanes; a score runs through its dimensions, a
 * value through its positions, in rising order.
 */
#define LINE_VECS ((int)KERNEL_KV_TOKENS / VEC_LANES) /* that hold a word of each position */
#define LINE_BYTES ((int)(KERNEL_KV_TOKENS * sizeof(uint32_t)))
#define WORD_PARTS 4 /* most multiply-adds that a vector of words is good for */

/* Both sides of a product are bf16: exact for a cache of bf16 or int8. */
INLINE int takes_dot(const enum kernel_kv kv)
{
#ifdef DOT_LANES
    return kv != KERNEL_KV_F32;
#else
    (void)kv;
    return 0;
#endif
}

/* The largest of n values that is not a NaN, or -infinity. */
INLINE float largest_of(const float *x, uint32_t n)
{
    vec largest = vec_set1(-INFINITY);
    uint32_t i = 0;
    for (; n - i >= VEC_LANES; i += VEC_LANES)
        largest = vec_max(vec_load_f32(x + i), largest);
    float value = vec_largest(largest);
    for (; i < n; i++)
        value = x[i] > value ? x[i] : value;
    return value;
}

/* --- words of the cache and what multiplies them --- */

/* Elements of a word that one multiply-add takes, and multiply-adds that a word takes. */
INLINE int part_elements(const enum kernel_kv kv)
{
    return takes_dot(kv) ? 2 : 1;
}

INLINE int part_count(const enum kernel_kv kv)
{
    return (int)kernel_kv_group(kv) / part_elements(kv);
}

/* Part `index` of the words: floats, or pairs of bf16. */
INLINE vec part_of(vec words, const enum kernel_kv kv, const int index)
{
#ifdef DOT_LANES
    if (kv == KERNEL_KV_INT8)
        return dot_of_bytes(words, 2 * index);
    return words;
#else
    if (kv == KERNEL_KV_INT8)
        return vec_of_byte(words, index);
    if (kv == KERNEL_KV_BF16)
        return index == 0 ? vec_of_low_halves(words) : vec_of_high_halves(words);
    return words;
#endif
}

/* Elements [at, at + part_elements) of a row of floats, or of bf16, in every lane. */
INLINE vec factor_at(const float *row, const enum kernel_kv kv, size_t at)
{
#ifdef DOT_LANES
    if (takes_dot(kv)) {
        uint32_t pair;
        memcpy(&pair, (const uint16_t *)(const void *)row + at, sizeof pair);
        return dot_set1(pair);
    }
#else
    (void)kv;
#endif
    return vec_set1(row[at]);
}

INLINE vec part_multiply_add(vec factor, vec part, vec acc, const enum kernel_kv kv)
{
#ifdef DOT_LANES
    if (takes_dot(kv))
        return dot(part, factor, acc); /* the factor may come from memory */
#else
    (void)kv;
#endif
    return vec_fma(factor, part, acc);
}

/* --- q . k --- */

/* What the queries of a call share. */
struct attending {
    const struct kernel_attended *a;
    uint32_t padded_dim; /* floats (or bf16, in half of the room) of a query in `q` */
    uint32_t query_count;
    float *q;      /* [queries, padded_dim] */
    float *scores; /* [queries, KERNEL_SPAN_TOKENS]; then weights, as floats or bf16 */
};

INLINE void copy_queries(const struct attending *t, const enum kernel_kv kv)
{
    const struct kernel_attended *a = t->a;
    float *to = t->q;
    for (uint32_t r = 0; r < a->row_count; r++) {
        const float *from = a->q + r * a->q_stride;
        for (uint32_t h = 0; h < a->heads; h++, from += a->dim, to += t->padded_dim) {
            memset(to + t->padded_dim - 4, 0, 4 * sizeof(float));
            if (takes_dot(kv)) {
                memset((uint16_t *)(void *)to + t->padded_dim - 4, 0, 4 * sizeof(uint16_t));
                store_bf16(to, from, a->dim);
            } else {
                memcpy(to, from, a->dim * sizeof(float));
            }
        }
    }
}

/* Sixteen scores of each of query_count queries. */
INLINE void score_block(float *scores, const float *q, const struct attending *t, const char *block,
                        const char *ahead, const enum kernel_kv kv, const int query_count)
{
    const struct kernel_attended *a = t->a;
    uint32_t g = kernel_kv_group(kv), word_count = (a->dim + g - 1) / g;
    vec acc[SCORE_QUERIES][LINE_VECS];
#pragma GCC unroll 8
    for (int i = 0; i < query_count; i++)
#pragma GCC unroll 2
        for (int v = 0; v < LINE_VECS; v++)
            acc[i][v] = vec_set1(0);
    const size_t values_at = kernel_kv_values_at(kv, a->dim);
    const char *keys = block;
    for (size_t w = 0; w < word_count; w++, keys += LINE_BYTES, ahead += LINE_BYTES) {
        vec words[LINE_VECS];
        _mm_prefetch(ahead, _MM_HINT_T0);
        _mm_prefetch(keys + values_at, _MM_HINT_T1); /* as many lines as keys, and wanted next */
#pragma GCC unroll 2
        for (int v = 0; v < LINE_VECS; v++)
            words[v] = vec_load_f32((const float *)(const void *)keys + v * VEC_LANES);
#pragma GCC unroll 4
        for (int p = 0; p < part_count(kv); p++) {
            vec parts[LINE_VECS];
#pragma GCC unroll 2
            for (int v = 0; v < LINE_VECS; v++)
                parts[v] = part_of(words[v], kv, p);
#pragma GCC unroll 8
            for (int i = 0; i < query_count; i++) {
                vec factor = factor_at(q + (size_t)i * t->padded_dim, kv,
                                       w * g + (size_t)(p * part_elements(kv)));
#pragma GCC unroll 2
                for (int v = 0; v < LINE_VECS; v++)
                    acc[i][v] = part_multiply_add(factor, parts[v], acc[i][v], kv);
            }
        }
    }
    const char *scales = block + kernel_kv_scales_at(kv, a->dim);
#pragma GCC unroll 2
    for (int v = 0; v < LINE_VECS; v++) {
        vec factor = vec_set1(a->scale);
        if (kv == KERNEL_KV_INT8)
            factor =
                vec_mul(factor, vec_load_f32((const float *)(const void *)scales + v * VEC_LANES));
#pragma GCC unroll 8
        for (int i = 0; i < query_count; i++)
            vec_store_f32(scores + (size_t)i * KERNEL_SPAN_TOKENS + v * VEC_LANES,
                          vec_mul(acc[i][v], factor));
    }
}

INLINE void score_some(uint32_t query, uint32_t count, const struct attending *t,
                       uint32_t block_index, const char *ahead, const enum kernel_kv kv)
{
    float *scores = t->scores + (size_t)query * KERNEL_SPAN_TOKENS + block_index * KERNEL_KV_TOKENS;
    const float *q = t->q + (size_t)query * t->padded_dim;
    const char *block = t->a->blocks[block_index];
    switch (count) {
#define CASE(n)                                                                                    \
    case n:                                                                                        \
        score_block(scores, q, t, block, ahead, kv, n);                                            \
        break;
        CASE(1)
        CASE(2)
        CASE(3)
        CASE(4)
#if SCORE_QUERIES > 4
        CASE(5)
        CASE(6)
        CASE(7)
        CASE(8)
#endif
#undef CASE
    default:
        assert(0);
    }
}

/* All queries over the blocks [begin, end). */
INLINE void score(const struct attending *t, uint32_t begin, uint32_t end, const enum kernel_kv kv)
{
    for (uint32_t b = begin; b < end; b++) {
        const char *ahead = t->a->blocks[b + 1 < end ? b + 1 : b];
        for (uint32_t i = 0, count; i < t->query_count; i += count) {
            count = t->query_count - i < SCORE_QUERIES ? t->query_count - i : SCORE_QUERIES;
            score_some(i, count, t, b, ahead, kv);
        }
    }
}

/* --- softmax --- */

/* Of the scores at [begin, end), in whole vectors: 0 outside, so that it makes no difference how
 * many of those there are. Weights of int8 values take up the values' scales. */
INLINE void weigh(const struct attending *t, uint32_t query, uint32_t begin, uint32_t end,
                  float *ret_largest, float *ret_sum, const enum kernel_kv kv)
{
    float *s = t->scores + (size_t)query * KERNEL_SPAN_TOKENS;
    uint32_t first = begin / VEC_LANES * VEC_LANES;
    uint32_t last = (end + VEC_LANES - 1) / VEC_LANES * VEC_LANES;
    for (uint32_t i = first; i < begin; i++)
        s[i] = -INFINITY;
    for (uint32_t i = end; i < last; i++)
        s[i] = -INFINITY;
    float largest = largest_of(s + first, last - first);
    vec sum = vec_set1(0);
    for (uint32_t i = first; i < last; i += VEC_LANES) {
        vec e = vec_exp(vec_sub(vec_load_f32(s + i), vec_set1(largest)));
        vec weight = e;
        if (kv == KERNEL_KV_INT8) {
            const char *scales = (const char *)t->a->blocks[i / KERNEL_KV_TOKENS] +
                                 kernel_kv_scales_at(kv, t->a->dim) + LINE_BYTES;
            weight = vec_mul_or_0(
                e, vec_load_f32((const float *)(const void *)scales + i % KERNEL_KV_TOKENS));
        }
#ifdef DOT_LANES
        if (takes_dot(kv)) {
            /* Ahead of what is read next: in the same room, half as wide. */
            vec rounded = dot_store((uint16_t *)(void *)s + i, weight);
            sum = vec_add(sum, kv == KERNEL_KV_BF16 ? rounded : e);
            continue;
        }
#endif
        vec_store_f32(s + i, weight);
        sum = vec_add(sum, e);
    }
    *ret_largest = largest;
    *ret_sum = vec_sum(sum);
}

/* --- weights x values --- */

/* Bits of a word that stand for positions of [begin, end). */
INLINE uint32_t word_mask(uint32_t word, uint32_t begin, uint32_t end, const enum kernel_kv kv)
{
    uint32_t g = kernel_kv_group(kv), mask = UINT32_MAX;
    if (word * g < begin)
        mask &= UINT32_MAX << (begin - word * g) * (32 / g);
    if ((word + 1) * g > end)
        mask &= UINT32_MAX >> ((word + 1) * g - end) * (32 / g);
    return mask;
}

/* values[i][d] += sum_p weights[i][p] v[p][d], p in [begin, end), for vec_count vectors of d, or,
 * with vec_count 0, for the `part` elements that are left, starting at d. */
INLINE void mix(float *values, const float *weights, const struct kernel_attended *a,
                uint32_t begin, uint32_t end, uint32_t d, uint32_t part, const enum kernel_kv kv,
                const int query_count, const int vec_count)
{
    const int acc_count = vec_count > 0 ? vec_count : 1;
    const uint32_t g = kernel_kv_group(kv), block_words = KERNEL_KV_TOKENS / g;
    const size_t values_at = kernel_kv_values_at(kv, a->dim);
    vec acc[MIX_QUERIES][MIX_VECS];
#pragma GCC unroll 8
    for (int q = 0; q < query_count; q++)
#pragma GCC unroll 8
        for (int i = 0; i < acc_count; i++) {
            const float *from = values + (size_t)q * a->dim + d + i * VEC_LANES;
            acc[q][i] = vec_count > 0 ? vec_load_f32(from) : vec_load_f32_part(from, part);
        }
    for (uint32_t word = begin / g; word <= (end - 1) / g; word++) {
        const float *from =
            (const float *)(const void *)((const char *)a->blocks[word / block_words] + values_at) +
            (size_t)(word % block_words) * a->dim + d;
        uint32_t mask = word_mask(word, begin, end, kv);
        vec words[MIX_VECS];
#pragma GCC unroll 8
        for (int i = 0; i < acc_count; i++) {
            words[i] =
                vec_count > 0 ? vec_load_f32(from + i * VEC_LANES) : vec_load_f32_part(from, part);
            if (mask != UINT32_MAX)
                words[i] = vec_masked(words[i], mask);
        }
#pragma GCC unroll 4
        for (int p = 0; p < part_count(kv); p++) {
            vec parts[MIX_VECS];
#pragma GCC unroll 8
            for (int i = 0; i < acc_count; i++)
                parts[i] = part_of(words[i], kv, p);
#pragma GCC unroll 8
            for (int q = 0; q < query_count; q++) {
                vec weight = factor_at(weights + (size_t)q * KERNEL_SPAN_TOKENS, kv,
                                       word * g + (size_t)(p * part_elements(kv)));
#pragma GCC unroll 8
                for (int i = 0; i < acc_count; i++)
                    acc[q][i] = part_multiply_add(weight, parts[i], acc[q][i], kv);
            }
        }
    }
#pragma GCC unroll 8
    for (int q = 0; q < query_count; q++)
#pragma GCC unroll 8
        for (int i = 0; i < acc_count; i++) {
            float *to = values + (size_t)q * a->dim + d + i * VEC_LANES;
            if (vec_count > 0)
                vec_store_f32(to, acc[q][i]);
            else
                vec_store_f32_part(to, acc[q][i], part);
        }
}

/* All of d: few queries take wide pieces of it, which reads the cache in longer runs. */
INLINE void mix_all(float *values, const float *weights, const struct kernel_attended *a,
                    uint32_t begin, uint32_t end, const enum kernel_kv kv, const int query_count)
{
    const int vec_count = query_count > MIX_QUERIES / 2 ? MIX_VECS / 2 : MIX_VECS;
    const uint32_t step = (uint32_t)vec_count * VEC_LANES;
    uint32_t d = 0;
    for (; a->dim - d >= step; d += step)
        mix(values, weights, a, begin, end, d, 0, kv, query_count, vec_count);
    for (; a->dim - d >= VEC_LANES; d += VEC_LANES)
        mix(values, weights, a, begin, end, d, 0, kv, query_count, 1);
    if (d < a->dim)
        mix(values, weights, a, begin, end, d, a->dim - d, kv, query_count, 0);
}

INLINE void mix_some(struct kernel_attention *ret, const struct attending *t, uint32_t query,
                     uint32_t count, uint32_t begin, uint32_t end, const enum kernel_kv kv)
{
    float *values = ret->values + (size_t)query * t->a->dim;
    const float *weights = t->scores + (size_t)query * KERNEL_SPAN_TOKENS;
    switch (begin < end ? count : 0) {
    case 0:
        break;
#define CASE(n)                                                                                    \
    case n:                                                                                        \
        mix_all(values, weights, t->a, begin, end, kv, n);                                         \
        break;
        CASE(1)
        CASE(2)
        CASE(3)
        CASE(4)
#if MIX_QUERIES > 4
        CASE(5)
        CASE(6)
        CASE(7)
        CASE(8)
#endif
#undef CASE
    default:
        assert(0);
    }
}

/* Queries of rows that see different positions: together over whole words that all of them see,
 * each by itself over what is before and behind. */
INLINE void mix_group(struct kernel_attention *ret, const struct attending *t, uint32_t query,
                      uint32_t count, const enum kernel_kv kv)
{
    const struct kernel_attended *a = t->a;
    uint32_t g = kernel_kv_group(kv), begins[MIX_QUERIES], ends[MIX_QUERIES];
    uint32_t begin = 0, end = KERNEL_SPAN_TOKENS;
    for (uint32_t i = 0; i < count; i++) {
        kernel_seen(a, (query + i) / a->heads, &begins[i], &ends[i]);
        begin = begins[i] > begin ? begins[i] : begin;
        end = ends[i] < end ? ends[i] : end;
    }
    if (query / a->heads == (query + count - 1) / a->heads) {
        mix_some(ret, t, query, count, begin, end, kv);
        return;
    }
    begin = (begin + g - 1) / g * g;
    end = end / g * g > begin ? end / g * g : begin;
    for (uint32_t i = 0; i < count; i++)
        mix_some(ret, t, query + i, 1, begins[i], begin < ends[i] ? begin : ends[i], kv);
    mix_some(ret, t, query, count, begin, end, kv);
    for (uint32_t i = 0; i < count; i++)
        mix_some(ret, t, query + i, 1, end > begins[i] ? end : begins[i], ends[i], kv);
}

/* --- a span --- */

INLINE void attend(struct kernel_attention *ret, const struct kernel_attended *a,
                   const enum kernel_kv kv)
{
    struct attending t = {a, (a->dim + 3) / 4 * 4, a->row_count * a->heads, a->scratch, NULL};
    uint32_t first = KERNEL_SPAN_TOKENS, last = 0, begin, end;
    t.scores = t.q + (size_t)t.query_count * t.padded_dim;
    for (uint32_t r = 0; r < a->row_count; r++) {
        kernel_seen(a, r, &begin, &end);
        if (begin < end) {
            first = begin < first ? begin : first;
            last = end > last ? end : last;
        }
    }
    copy_queries(&t, kv);
    score(&t, first / KERNEL_KV_TOKENS, (last + KERNEL_KV_TOKENS - 1) / KERNEL_KV_TOKENS, kv);
    for (uint32_t i = 0; i < t.query_count; i++) {
        kernel_seen(a, i / a->heads, &begin, &end);
        ret->sum[i] = 0;
        if (begin < end)
            weigh(&t, i, begin, end, &ret->largest[i], &ret->sum[i], kv);
    }
    memset(ret->values, 0, (size_t)t.query_count * a->dim * sizeof(float));
    for (uint32_t i = 0, count; i < t.query_count; i += count) {
        uint32_t groups = (t.query_count - i + MIX_QUERIES - 1) / MIX_QUERIES;
        count = (t.query_count - i + groups - 1) / groups;
        mix_group(ret, &t, i, count, kv);
    }
}

static void attend_f32(struct kernel_attention *ret, const struct kernel_attended *a)
{
    attend(ret, a, KERNEL_KV_F32);
}

static void attend_bf16(struct kernel_attention *ret, const struct kernel_attended *a)
{
    attend(ret, a, KERNEL_KV_BF16);
}

static void attend_int8(struct kernel_attention *ret, const struct kernel_attended *a)
{
    attend(ret, a, KERNEL_KV_INT8);
}

/* --- spans into one --- */

static void attend_join(struct kernel_attention *into, const struct kernel_attention *span,
                        uint32_t queries, uint32_t dim)
{
    for (size_t i = 0; i < queries; i++) {
        float *to = into->values + i * dim;
        const float *from = span->values + i * dim;
        if (span->sum[i] == 0)
            continue;
        if (into->sum[i] == 0) {
            memcpy(to, from, dim * sizeof(float));
            into->sum[i] = span->sum[i];
            into->largest[i] = span->largest[i];
            continue;
        }
        float largest = into->largest[i] > span->largest[i] ? into->largest[i] : span->largest[i];
        vec old = vec_exp(vec_set1(into->largest[i] - largest));
        vec new = vec_exp(vec_set1(span->largest[i] - largest));
        uint32_t d = 0;
        for (; dim - d >= VEC_LANES; d += VEC_LANES)
            vec_store_f32(to + d,
                          vec_fma(vec_load_f32(from + d), new, vec_mul(vec_load_f32(to + d), old)));
        if (d < dim) {
            uint32_t n = dim - d;
            vec_store_f32_part(to + d,
                               vec_fma(vec_load_f32_part(from + d, n), new,
                                       vec_mul(vec_load_f32_part(to + d, n), old)),
                               n);
        }
        vec sums = vec_fma(vec_set1(span->sum[i]), new, vec_mul(vec_set1(into->sum[i]), old));
        vec_store_f32_part(&into->sum[i], sums, 1);
        into->largest[i] = largest;
    }
}

static void attend_end(float *out, size_t out_stride, const struct kernel_attention *all,
                       uint32_t rows, uint32_t heads, uint32_t dim)
{
    for (size_t i = 0; i < (size_t)rows * heads; i++) {
        float *to = out + i / heads * out_stride + i % heads * dim;
        const float *from = all->values + i * dim;
        float factor = 1 / all->sum[i];
        uint32_t d = 0;
        for (; dim - d >= VEC_LANES; d += VEC_LANES)
            vec_store_f32(to + d, vec_mul(vec_load_f32(from + d), vec_set1(factor)));
        if (d < dim)
            vec_store_f32_part(
                to + d, vec_mul(vec_load_f32_part(from + d, dim - d), vec_set1(factor)), dim - d);
    }
}
