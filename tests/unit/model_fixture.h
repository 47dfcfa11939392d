/*
 * Tiny random models and adapters made directly in memory, for tests of the engine's own
 * properties. (That the arithmetic is transformers' is what the parity vectors show.)
 */
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/digest.h"
#include "base/rng.h"
#include "weights/adapter.h"
#include "weights/backbone.h"

#define FIXTURE_ALLOCATIONS_MAX 4096

struct fixture_memory {
    void *allocations[FIXTURE_ALLOCATIONS_MAX];
    uint32_t count;
    struct rng rng;
};

struct fixture_model {
    struct model_config config;
    struct backbone backbone;
    struct fixture_memory memory;
};

struct fixture_adapter {
    struct adapter_config config;
    struct adapter adapter;
    struct digest digest; /* of what it was made from */
    struct fixture_memory memory;
};

static inline void *fixture_alloc(struct fixture_memory *m, size_t bytes)
{
    void *p = calloc(1, bytes ? bytes : 1);
    if (!p || m->count == FIXTURE_ALLOCATIONS_MAX)
        abort();
    m->allocations[m->count++] = p;
    return p;
}

static inline void fixture_release(struct fixture_memory *m)
{
    while (m->count)
        free(m->allocations[--m->count]);
}

static inline uint16_t fixture_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float fixture_float(uint16_t bf16)
{
    uint32_t bits = (uint32_t)bf16 << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* n values around `mean`, spread `sigma`. */
static inline float *fixture_vector(struct fixture_memory *m, uint32_t n, double mean, double sigma)
{
    float *v = fixture_alloc(m, n * sizeof(*v));
    for (uint32_t i = 0; i < n; i++)
        v[i] = (float)(mean + sigma * rng_normal(&m->rng));
    return v;
}

static inline struct weight fixture_weight(struct fixture_memory *m, uint32_t dtype, uint32_t rows,
                                           uint32_t cols, double sigma)
{
    size_t n = (size_t)rows * cols;
    struct weight w = {.dtype = dtype, .rows = rows, .cols = cols};
    void *data = fixture_alloc(m, n * (dtype == IMAGE_F32 ? 4 : 2));
    for (size_t i = 0; i < n; i++) {
        float value = (float)(sigma * rng_normal(&m->rng));
        if (dtype == IMAGE_F32)
            ((float *)data)[i] = value;
        else
            ((uint16_t *)data)[i] = fixture_bf16(value);
    }
    w.data = data;
    return w;
}

static inline void fixture_layer(struct fixture_model *m, struct backbone_layer *l, uint32_t dtype)
{
    const struct model_config *c = &m->config;
    struct fixture_memory *mem = &m->memory;
    uint32_t q = c->head_count * c->head_dim, kv = c->kv_head_count * c->head_dim;
    double in = 1.5 / sqrt(c->hidden);
    l->attn_norm = fixture_vector(mem, c->hidden, 1, 0.1);
    l->mlp_norm = fixture_vector(mem, c->hidden, 1, 0.1);
    l->q = fixture_weight(mem, dtype, q, c->hidden, in);
    l->k = fixture_weight(mem, dtype, kv, c->hidden, in);
    l->v = fixture_weight(mem, dtype, kv, c->hidden, in);
    l->o = fixture_weight(mem, dtype, c->hidden, q, 1 / sqrt(q));
    l->gate = fixture_weight(mem, dtype, c->ffn, c->hidden, in);
    l->up = fixture_weight(mem, dtype, c->ffn, c->hidden, in);
    l->down = fixture_weight(mem, dtype, c->hidden, c->ffn, 1 / sqrt(c->ffn));
    if (c->qk_norm) {
        l->q_norm = fixture_vector(mem, c->head_dim, 1, 0.1);
        l->k_norm = fixture_vector(mem, c->head_dim, 1, 0.1);
    }
    if (c->qkv_bias) {
        l->q_bias = fixture_vector(mem, q, 0, 0.3);
        l->k_bias = fixture_vector(mem, kv, 0, 0.3);
        l->v_bias = fixture_vector(mem, kv, 0, 0.3);
    }
    if (c->o_bias)
        l->o_bias = fixture_vector(mem, c->hidden, 0, 0.3);
    if (c->mlp_bias) {
        l->gate_bias = fixture_vector(mem, c->ffn, 0, 0.3);
        l->up_bias = fixture_vector(mem, c->ffn, 0, 0.3);
        l->down_bias = fixture_vector(mem, c->hidden, 0, 0.3);
    }
}

static inline struct fixture_model *fixture_model_new(const struct model_config *c, uint32_t dtype,
                                                      uint64_t seed)
{
    struct fixture_model *m = calloc(1, sizeof(*m));
    if (!m)
        abort();
    rng_seed(&m->memory.rng, seed);
    m->config = *c;
    m->backbone.config = &m->config;
    m->backbone.layers = fixture_alloc(&m->memory, c->layer_count * sizeof(struct backbone_layer));
    m->backbone.embed = fixture_weight(&m->memory, dtype, c->vocab_count, c->hidden, 1);
    m->backbone.head = c->tied_embeddings ? m->backbone.embed
                                          : fixture_weight(&m->memory, dtype, c->vocab_count,
                                                           c->hidden, 2 / sqrt(c->hidden));
    m->backbone.out_norm = fixture_vector(&m->memory, c->hidden, 1, 0.1);
    for (uint32_t i = 0; i < c->layer_count; i++)
        fixture_layer(m, &m->backbone.layers[i], dtype);
    return m;
}

static inline void fixture_model_free(struct fixture_model *m)
{
    fixture_release(&m->memory);
    free(m);
}

/* `modules`: bit m set where enum adapter_module m is adapted. Every second adapted matrix has half
 * the rank, as PEFT's rank_pattern allows. */
static inline struct fixture_adapter *fixture_adapter_new(const struct fixture_model *model,
                                                          uint32_t dtype, uint32_t rank,
                                                          uint32_t modules, uint64_t seed)
{
    const struct model_config *c = &model->config;
    struct fixture_adapter *a = calloc(1, sizeof(*a));
    if (!a)
        abort();
    rng_seed(&a->memory.rng, seed);
    const uint64_t made_from[] = {dtype, rank, modules, seed};
    digest_of(made_from, sizeof(made_from), &a->digest);
    a->config = (struct adapter_config){.layer_count = c->layer_count, .rank_max = rank};
    a->adapter.config = &a->config;
    a->adapter.modules = fixture_alloc(&a->memory, c->layer_count * ADAPTER_MODULE_COUNT *
                                                       sizeof(*a->adapter.modules));
    for (uint32_t i = 0; i < c->layer_count; i++) {
        const struct backbone_layer *l = &model->backbone.layers[i];
        const struct weight *weights[ADAPTER_MODULE_COUNT] = {&l->q,    &l->k,  &l->v,   &l->o,
                                                              &l->gate, &l->up, &l->down};
        for (uint32_t m = 0; m < ADAPTER_MODULE_COUNT; m++) {
            struct lora *lora = &a->adapter.modules[i * ADAPTER_MODULE_COUNT + m];
            uint32_t r = (i + m) % 2 && rank > 1 ? rank / 2 : rank;
            if (!(modules >> m & 1))
                continue;
            lora->a =
                fixture_weight(&a->memory, dtype, r, weights[m]->cols, 1 / sqrt(weights[m]->cols));
            lora->b = fixture_weight(&a->memory, dtype, weights[m]->rows, r, 1 / sqrt(r));
            lora->scale = 0.25f + 0.5f * (float)rng_unit(&a->memory.rng);
        }
    }
    return a;
}

static inline void fixture_adapter_free(struct fixture_adapter *a)
{
    fixture_release(&a->memory);
    free(a);
}

#define FIXTURE_FAMILIES 5u

/* All four families and what tells them apart, each as odd as it may be. */
static const struct model_config fixture_families[FIXTURE_FAMILIES] = {
    {/* Llama 2: multi-head, own head */
     .family = MODEL_LLAMA,
     .vocab_count = 101,
     .hidden = 36,
     .layer_count = 3,
     .head_count = 3,
     .kv_head_count = 3,
     .head_dim = 12,
     .ffn = 50,
     .context_max = 256,
     .rope_theta = 10000,
     .norm_eps = 1e-5f,
     .bos_id = 1},
    {/* Llama 3.1: grouped, scaled rope, tied, biases on o and MLP */
     .family = MODEL_LLAMA,
     .vocab_count = 131,
     .hidden = 40,
     .layer_count = 2,
     .head_count = 10,
     .kv_head_count = 2,
     .head_dim = 16,
     .ffn = 72,
     .context_max = 512,
     .rope_kind = MODEL_ROPE_LLAMA3,
     .rope_original_context = 64,
     .rope_theta = 500,
     .rope_factor = 8,
     .rope_low_freq_factor = 1,
     .rope_high_freq_factor = 4,
     .norm_eps = 1e-6f,
     .tied_embeddings = 1,
     .o_bias = 1,
     .mlp_bias = 1,
     .bos_id = 1},
    {/* Mistral: sliding window, one key head, head_dim not hidden / heads */
     .family = MODEL_MISTRAL,
     .vocab_count = 97,
     .hidden = 33,
     .layer_count = 2,
     .head_count = 5,
     .kv_head_count = 1,
     .head_dim = 10,
     .ffn = 41,
     .context_max = 256,
     .sliding_window = 7,
     .rope_theta = 10000,
     .norm_eps = 1e-5f,
     .bos_id = 1},
    {/* Qwen2: biases on q, k, v, tied; linear rope */
     .family = MODEL_QWEN2,
     .vocab_count = 120,
     .hidden = 48,
     .layer_count = 2,
     .head_count = 6,
     .kv_head_count = 2,
     .head_dim = 8,
     .ffn = 90,
     .context_max = 256,
     .rope_kind = MODEL_ROPE_LINEAR,
     .rope_theta = 1000000,
     .rope_factor = 2.5f,
     .norm_eps = 1e-6f,
     .tied_embeddings = 1,
     .qkv_bias = 1,
     .bos_id = UINT32_MAX},
    {/* Qwen3: norms on q and k */
     .family = MODEL_QWEN3,
     .vocab_count = 111,
     .hidden = 32,
     .layer_count = 2,
     .head_count = 7,
     .kv_head_count = 7,
     .head_dim = 18,
     .ffn = 64,
     .context_max = 256,
     .rope_theta = 1000000,
     .norm_eps = 1e-6f,
     .qk_norm = 1,
     .bos_id = UINT32_MAX},
};
