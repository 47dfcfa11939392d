/*
 * forward() against an independent reference: the formulas of the papers in double precision, one
 * position after the other, no paging, no batching, nothing shared with the engine.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "unit/model_fixture.h"

#define PROMPT_TOKENS 40u
#define WIDTH_MAX 256u

struct reference {
    const struct fixture_model *model;
    const struct adapter *adapter; /* or NULL */
    uint32_t dtype;
    double k[4][PROMPT_TOKENS][WIDTH_MAX];
    double v[4][PROMPT_TOKENS][WIDTH_MAX];
};

static double at(const struct weight *w, uint32_t row, uint32_t col)
{
    size_t i = (size_t)row * w->cols + col;
    return w->dtype == IMAGE_F32 ? (double)((const float *)w->data)[i]
                                 : (double)fixture_float(((const uint16_t *)w->data)[i]);
}

static void reference_linear(const struct reference *ref, uint32_t layer, uint32_t module,
                             const struct weight *w, const float *bias, const double *x, double *y)
{
    const struct lora *l =
        ref->adapter ? &ref->adapter->modules[layer * ADAPTER_MODULE_COUNT + module] : NULL;
    for (uint32_t o = 0; o < w->rows; o++) {
        y[o] = bias ? (double)bias[o] : 0;
        for (uint32_t i = 0; i < w->cols; i++)
            y[o] += at(w, o, i) * x[i];
    }
    if (!l || !l->a.data)
        return;
    for (uint32_t r = 0; r < l->a.rows; r++) {
        double t = 0;
        for (uint32_t i = 0; i < w->cols; i++)
            t += at(&l->a, r, i) * x[i];
        for (uint32_t o = 0; o < w->rows; o++)
            y[o] += at(&l->b, o, r) * t * (double)l->scale;
    }
}

static void reference_norm(const double *x, const float *w, uint32_t n, double eps, double *y)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    double scale = 1 / sqrt(sum / n + eps);
    for (uint32_t i = 0; i < n; i++)
        y[i] = x[i] * scale * (double)w[i];
}

static double reference_frequency(const struct model_config *c, uint32_t i)
{
    double f = pow((double)c->rope_theta, -2.0 * i / c->head_dim);
    if (c->rope_kind == MODEL_ROPE_LINEAR)
        return f / (double)c->rope_factor;
    if (c->rope_kind != MODEL_ROPE_LLAMA3)
        return f;
    double turns = c->rope_original_context * f / (2 * M_PI); /* within the original context */
    double low = (double)c->rope_low_freq_factor, high = (double)c->rope_high_freq_factor;
    if (turns < low)
        return f / (double)c->rope_factor;
    if (turns > high)
        return f;
    double smooth = (turns - low) / (high - low);
    return (1 - smooth) * f / (double)c->rope_factor + smooth * f;
}

static void reference_rope(const struct model_config *c, double *x, uint32_t heads, uint32_t pos)
{
    uint32_t half = c->head_dim / 2;
    for (uint32_t h = 0; h < heads; h++) {
        double *head = x + h * c->head_dim;
        for (uint32_t i = 0; i < half; i++) {
            double angle = pos * reference_frequency(c, i), a = head[i], b = head[i + half];
            head[i] = a * cos(angle) - b * sin(angle);
            head[i + half] = b * cos(angle) + a * sin(angle);
        }
    }
}

static void reference_attention(const struct reference *ref, uint32_t layer, uint32_t pos,
                                const double *q, double *out)
{
    const struct model_config *c = &ref->model->config;
    for (uint32_t h = 0; h < c->head_count; h++) {
        uint32_t kv = h / (c->head_count / c->kv_head_count) * c->head_dim;
        double p[PROMPT_TOKENS], sum = 0;
        for (uint32_t t = 0; t <= pos; t++) {
            double score = 0;
            for (uint32_t d = 0; d < c->head_dim; d++)
                score += q[h * c->head_dim + d] * ref->k[layer][t][kv + d];
            p[t] = c->sliding_window && t + c->sliding_window <= pos
                       ? 0
                       : exp(score / sqrt(c->head_dim));
            sum += p[t];
        }
        for (uint32_t d = 0; d < c->head_dim; d++) {
            double mixed = 0;
            for (uint32_t t = 0; t <= pos; t++)
                mixed += p[t] / sum * ref->v[layer][t][kv + d];
            out[h * c->head_dim + d] = mixed;
        }
    }
}

/* What the cache keeps of a value. */
static double kept(const struct reference *ref, double value)
{
    return ref->dtype == IMAGE_F32 ? value : (double)fixture_float(fixture_bf16((float)value));
}

static void reference_layer(struct reference *ref, uint32_t i, uint32_t pos, double *x)
{
    const struct model_config *c = &ref->model->config;
    const struct backbone_layer *l = &ref->model->backbone.layers[i];
    double h[WIDTH_MAX], q[WIDTH_MAX], attended[WIDTH_MAX], up[WIDTH_MAX], out[WIDTH_MAX];
    double *k = ref->k[i][pos], *v = ref->v[i][pos];

    reference_norm(x, l->attn_norm, c->hidden, (double)c->norm_eps, h);
    reference_linear(ref, i, ADAPTER_Q, &l->q, l->q_bias, h, q);
    reference_linear(ref, i, ADAPTER_K, &l->k, l->k_bias, h, k);
    reference_linear(ref, i, ADAPTER_V, &l->v, l->v_bias, h, v);
    for (uint32_t n = 0; c->qk_norm && n < c->head_count; n++)
        reference_norm(q + n * c->head_dim, l->q_norm, c->head_dim, (double)c->norm_eps,
                       q + n * c->head_dim);
    for (uint32_t n = 0; c->qk_norm && n < c->kv_head_count; n++)
        reference_norm(k + n * c->head_dim, l->k_norm, c->head_dim, (double)c->norm_eps,
                       k + n * c->head_dim);
    reference_rope(c, q, c->head_count, pos);
    reference_rope(c, k, c->kv_head_count, pos);
    for (uint32_t n = 0; n < c->kv_head_count * c->head_dim; n++) {
        k[n] = kept(ref, k[n]);
        v[n] = kept(ref, v[n]);
    }
    reference_attention(ref, i, pos, q, attended);
    reference_linear(ref, i, ADAPTER_O, &l->o, l->o_bias, attended, out);
    for (uint32_t n = 0; n < c->hidden; n++)
        x[n] += out[n];
    reference_norm(x, l->mlp_norm, c->hidden, (double)c->norm_eps, h);
    reference_linear(ref, i, ADAPTER_GATE, &l->gate, l->gate_bias, h, q);
    reference_linear(ref, i, ADAPTER_UP, &l->up, l->up_bias, h, up);
    for (uint32_t n = 0; n < c->ffn; n++)
        q[n] = q[n] / (1 + exp(-q[n])) * up[n];
    reference_linear(ref, i, ADAPTER_DOWN, &l->down, l->down_bias, q, out);
    for (uint32_t n = 0; n < c->hidden; n++)
        x[n] += out[n];
}

static void reference_logits(struct reference *ref, const uint32_t *tokens, double *ret)
{
    const struct model_config *c = &ref->model->config;
    const struct backbone *b = &ref->model->backbone;
    for (uint32_t pos = 0; pos < PROMPT_TOKENS; pos++) {
        double x[WIDTH_MAX];
        for (uint32_t i = 0; i < c->hidden; i++)
            x[i] = at(&b->embed, tokens[pos], i);
        for (uint32_t i = 0; i < c->layer_count; i++)
            reference_layer(ref, i, pos, x);
        reference_norm(x, b->out_norm, c->hidden, (double)c->norm_eps, x);
        for (uint32_t t = 0; t < c->vocab_count; t++) {
            double *logit = &ret[(size_t)pos * c->vocab_count + t];
            *logit = 0;
            for (uint32_t i = 0; i < c->hidden; i++)
                *logit += at(&b->head, t, i) * x[i];
        }
    }
}

static void engine_logits_of(const struct fixture_model *m, const struct adapter *a,
                             uint32_t threads, uint32_t rows_max, const uint32_t *tokens,
                             float *ret)
{
    const struct engine_options o = {.threads = threads,
                                     .sequences_max = 1,
                                     .rows_max = rows_max,
                                     .kv_bytes = 4 << 20,
                                     .adapters_max = 1};
    struct engine *e;
    struct error err = {0};
    assert_int_equal(engine_open(&e, &m->backbone, &o, &err), 0);
    if (a)
        assert_int_equal(engine_adapter_set(e, 0, a, &(struct digest){0}, &err), 0);
    assert_int_equal(engine_logits(e, tokens, PROMPT_TOKENS, a ? 0 : -1, ret, &err), 0);
    assert_int_equal(engine_kv_bytes(e), 0);
    engine_close(e);
}

/* Compares one model, with or without an adapter, and holds chunks and threads to the same bits. */
static void compare(const struct fixture_model *m, const struct adapter *a, uint32_t dtype,
                    double tolerance)
{
    static const struct {
        uint32_t threads, rows_max;
    } ways[] = {{1, 64}, {2, 64}, {2, 7}, {3, 1}};
    uint32_t tokens[PROMPT_TOKENS];
    size_t count = (size_t)PROMPT_TOKENS * m->config.vocab_count;
    double *expect = calloc(count, sizeof(*expect));
    float *first = calloc(count, sizeof(*first)), *other = calloc(count, sizeof(*other));
    struct reference *ref = calloc(1, sizeof(*ref));
    struct rng rng;
    assert_true(expect && first && other && ref);
    rng_seed(&rng, 99);
    for (uint32_t i = 0; i < PROMPT_TOKENS; i++)
        tokens[i] = rng_below(&rng, m->config.vocab_count);
    ref->model = m;
    ref->adapter = a;
    ref->dtype = dtype;
    reference_logits(ref, tokens, expect);
    for (uint32_t w = 0; w < sizeof(ways) / sizeof(*ways); w++) {
        engine_logits_of(m, a, ways[w].threads, ways[w].rows_max, tokens, w ? other : first);
        if (w && memcmp(first, other, count * sizeof(*first)) != 0)
            fail_msg("other bits with %u threads and %u rows", ways[w].threads, ways[w].rows_max);
    }
    double worst = 0;
    for (size_t i = 0; i < count; i++)
        worst = fmax(worst, fabs((double)first[i] - expect[i]));
    if (!(worst <= tolerance))
        fail_msg("%s rank %u: logits differ by %g", model_family_name(m->config.family),
                 a ? a->config->rank_max : 0, worst);
    free(expect);
    free(first);
    free(other);
    free(ref);
}

static void test_families_match_reference(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < FIXTURE_FAMILIES; i++) {
        struct fixture_model *m = fixture_model_new(&fixture_families[i], IMAGE_F32, 10 + i);
        compare(m, NULL, IMAGE_F32, 5e-5);
        fixture_model_free(m);
    }
}

static void test_adapters_match_reference(void **state)
{
    static const uint32_t ranks[] = {1, 4, 8, 64};
    (void)state;
    for (uint32_t i = 0; i < FIXTURE_FAMILIES; i++) {
        struct fixture_model *m = fixture_model_new(&fixture_families[i], IMAGE_F32, 20 + i);
        for (uint32_t r = 0; r < 4; r++) {
            uint32_t modules = r == 0 ? 1u << ADAPTER_Q | 1u << ADAPTER_V : 0x7f;
            struct fixture_adapter *a = fixture_adapter_new(m, IMAGE_F32, ranks[r], modules, r);
            compare(m, &a->adapter, IMAGE_F32, 1e-4);
            fixture_adapter_free(a);
        }
        fixture_model_free(m);
    }
}

/* The reference rounds what goes into the cache too; what is left are values that fall to the other
 * side of a rounding. */
static void test_bf16_matches_reference(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < FIXTURE_FAMILIES; i++) {
        struct fixture_model *m = fixture_model_new(&fixture_families[i], IMAGE_BF16, 30 + i);
        struct fixture_adapter *a = fixture_adapter_new(m, IMAGE_BF16, 8, 0x7f, 5);
        compare(m, &a->adapter, IMAGE_BF16, 2e-2);
        fixture_adapter_free(a);
        fixture_model_free(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_families_match_reference),
        cmocka_unit_test(test_adapters_match_reference),
        cmocka_unit_test(test_bf16_matches_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
