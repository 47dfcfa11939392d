/*
 * Part of vector.h: attention over a paged cache. The query heads that share a KV head go through
 * keys and values together.
 */
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

/* x[i] = exp(x[i] - largest); returns their sum. */
INLINE float exp_in_place(float *x, uint32_t n, float largest)
{
    vec sum = vec_set1(0);
    uint32_t i = 0;
    for (; n - i >= VEC_LANES; i += VEC_LANES) {
        vec e = vec_exp(vec_sub(vec_load_f32(x + i), vec_set1(largest)));
        vec_store_f32(x + i, e);
        sum = vec_add(sum, e);
    }
    if (i < n) {
        vec e = vec_exp(vec_sub(vec_load_f32_part(x + i, n - i), vec_set1(largest)));
        vec_store_f32_part(x + i, e, n - i);
        sum = vec_add(sum, vec_load_f32_part(x + i, n - i));
    }
    return vec_sum(sum);
}

/* What attention reads, and for which positions. */
struct attended {
    const void *const *key_blocks;
    const void *const *value_blocks;
    enum kernel_dtype dtype;
    uint32_t block_tokens;
    uint32_t begin;
    uint32_t end;
    uint32_t dim;
};

/* scores[h][p - begin] = q[h] . k[p] for head_count heads */
INLINE void score(float *scores, const float *q, const struct attended *a, const int head_count)
{
    for (uint32_t p = a->begin, count; p < a->end; p += count) {
        uint32_t row = p % a->block_tokens;
        count = a->block_tokens - row < a->end - p ? a->block_tokens - row : a->end - p;
        const void *keys =
            element_at(a->key_blocks[p / a->block_tokens], a->dtype, (size_t)row * a->dim);
        strip(scores + (p - a->begin), a->end - a->begin, q, a->dim, keys,
              (struct operands){KERNEL_F32, a->dtype},
              element_at(keys, a->dtype, (size_t)count * a->dim), NULL, a->dim, count, 0,
              head_count, TILE_OUTS);
    }
}

/* out[h][d] = factors[h] * sum_p weights[h][p - begin] * v[p][d] for vec_count vectors of d, or,
 * with vec_count 0, for the `part` elements that are left, starting at d. */
INLINE void mix(float *out, const float *weights, const struct attended *a, uint32_t d,
                const float *factors, const int head_count, const int vec_count, uint32_t part)
{
    const int acc_count = vec_count > 0 ? vec_count : 1;
    size_t n = a->end - a->begin;
    vec acc[MIX_HEADS][MIX_VECS];
#pragma GCC unroll 8
    for (int h = 0; h < head_count; h++)
#pragma GCC unroll 8
        for (int i = 0; i < acc_count; i++)
            acc[h][i] = vec_set1(0);
    for (uint32_t p = a->begin; p < a->end;) {
        const void *block = a->value_blocks[p / a->block_tokens];
        uint32_t row = p % a->block_tokens;
        for (; row < a->block_tokens && p < a->end; row++, p++) {
            size_t index = (size_t)row * a->dim + d;
            vec values[MIX_VECS];
#pragma GCC unroll 8
            for (int i = 0; i < acc_count; i++)
                values[i] = vec_count > 0 ? vec_load(block, a->dtype, index + (size_t)i * VEC_LANES)
                                          : vec_load_part(block, a->dtype, index, part);
#pragma GCC unroll 8
            for (int h = 0; h < head_count; h++) {
                vec weight = vec_set1(weights[h * n + (p - a->begin)]);
#pragma GCC unroll 8
                for (int i = 0; i < acc_count; i++)
                    acc[h][i] = vec_fma(weight, values[i], acc[h][i]);
            }
        }
    }
#pragma GCC unroll 8
    for (int h = 0; h < head_count; h++) {
        float *to = out + (size_t)h * a->dim + d;
#pragma GCC unroll 8
        for (int i = 0; i < acc_count; i++) {
            vec result = vec_mul(acc[h][i], vec_set1(factors[h]));
            if (vec_count > 0)
                vec_store_f32(to + (size_t)i * VEC_LANES, result);
            else
                vec_store_f32_part(to, result, part);
        }
    }
}

/* All of d. */
INLINE void mix_heads(float *out, const float *weights, const struct attended *a,
                      const float *factors, const int head_count)
{
    uint32_t d = 0;
    for (; a->dim - d >= MIX_VECS * VEC_LANES; d += MIX_VECS * VEC_LANES)
        mix(out, weights, a, d, factors, head_count, MIX_VECS, 0);
    for (; a->dim - d >= VEC_LANES; d += VEC_LANES)
        mix(out, weights, a, d, factors, head_count, 1, 0);
    if (d < a->dim)
        mix(out, weights, a, d, factors, head_count, 0, a->dim - d);
}

/* At most MIX_HEADS heads. */
INLINE void attend(float *out, const float *q, const struct attended *a, float scale, float *scores,
                   const int head_count)
{
    size_t n = a->end - a->begin;
    float factors[MIX_HEADS];
    score(scores, q, a, head_count);
    for (int h = 0; h < head_count; h++) {
        float *s = scores + h * n;
        for (uint32_t i = 0; i < n; i++)
            s[i] *= scale;
        factors[h] = 1 / exp_in_place(s, (uint32_t)n, largest_of(s, (uint32_t)n));
    }
    mix_heads(out, scores, a, factors, head_count);
}

INLINE void attention(float *out, const float *q, const void *const *key_blocks,
                      const void *const *value_blocks, enum kernel_dtype dtype,
                      uint32_t block_tokens, uint32_t begin, uint32_t end, uint32_t dim,
                      uint32_t heads, float scale, float *scores)
{
    const struct attended a = {key_blocks, value_blocks, dtype, block_tokens, begin, end, dim};
    uint32_t group_count = heads / MIX_HEADS + (heads % MIX_HEADS != 0);
    for (uint32_t g = 0, h = 0, count; g < group_count; g++, h += count) {
        count = (heads - h + group_count - g - 1) / (group_count - g);
        float *to = out + (size_t)h * dim;
        const float *from = q + (size_t)h * dim;
        switch (count) {
#define CASE(n)                                                                                    \
    case n:                                                                                        \
        attend(to, from, &a, scale, scores, n);                                                    \
        break;
            CASE(1)
            CASE(2)
#if MIX_HEADS > 2
            CASE(3)
            CASE(4)
#endif
#undef CASE
        default:
            assert(0);
        }
    }
}

static void attention_f32(float *out, const float *q, const void *const *key_blocks,
                          const void *const *value_blocks, uint32_t block_tokens, uint32_t begin,
                          uint32_t end, uint32_t dim, uint32_t heads, float scale, float *scores)
{
    attention(out, q, key_blocks, value_blocks, KERNEL_F32, block_tokens, begin, end, dim, heads,
              scale, scores);
}

static void attention_bf16(float *out, const float *q, const void *const *key_blocks,
                           const void *const *value_blocks, uint32_t block_tokens, uint32_t begin,
                           uint32_t end, uint32_t dim, uint32_t heads, float scale, float *scores)
{
    attention(out, q, key_blocks, value_blocks, KERNEL_BF16, block_tokens, begin, end, dim, heads,
              scale, scores);
}
