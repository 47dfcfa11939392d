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

/* How a matrix lies that is multiplied as a whole. */
static inline uint32_t fixture_multiplied(uint32_t dtype)
{
    return dtype == IMAGE_BF16 ? IMAGE_PANELS : dtype;
}

/* n values around `mean`, spread `sigma`. */
static inline float *fixture_vector(struct fixture_memory *m, uint32_t n, double mean, double sigma)
{
    float *v = fixture_alloc(m, n * sizeof(*v));
    for (uint32_t i = 0; i < n; i++)
        v[i] = (float)(mean + sigma * rng_normal(&m->rng));
    return v;
}

/* Any codes are a matrix: those of a panel's padding too. 74 and 4.6 are their spreads. */
static inline void fixture_codes(struct fixture_memory *m, uint32_t dtype, uint8_t *data,
                                 uint64_t bytes, double sigma)
{
    for (uint64_t i = 0; i < bytes; i++)
        data[i] = (uint8_t)rng_u64(&m->rng);
    for (uint64_t at = 0; at < bytes; at += image_group_bytes(dtype))
        for (uint32_t row = 0; row < IMAGE_PANEL_ROWS; row++)
            ((uint16_t *)(void *)(data + at))[row] = fixture_bf16((
                float)(sigma * (0.8 + 0.4 * rng_unit(&m->rng)) / (dtype == IMAGE_INT8 ? 74 : 4.6)));
}

/* One value of a matrix, by the definitions in image.h. */
static inline double fixture_value(const struct weight *w, uint32_t row, uint32_t col)
{
    const uint16_t *halves = w->data;
    const int8_t *codes = w->data;
    if (w->dtype == IMAGE_CODES)
        return codes[(size_t)row * w->cols + col];
    if (w->dtype == IMAGE_CODE_PANELS)
        return codes[((size_t)(row / IMAGE_PANEL_ROWS) * w->cols + col) * IMAGE_PANEL_ROWS +
                     row % IMAGE_PANEL_ROWS];
    if (w->dtype == IMAGE_F32)
        return (double)((const float *)w->data)[(size_t)row * w->cols + col];
    if (w->dtype == IMAGE_BF16)
        return (double)fixture_float(halves[(size_t)row * w->cols + col]);
    if (w->dtype == IMAGE_PANELS)
        return (double)fixture_float(halves[image_panel_index(w->cols, row, col)]);
    const uint8_t *group = (const uint8_t *)w->data +
                           row / IMAGE_PANEL_ROWS * image_panel_bytes(w->dtype, w->cols) +
                           col / IMAGE_GROUP_COLS * image_group_bytes(w->dtype);
    uint32_t lane = row % IMAGE_PANEL_ROWS, in_word = w->dtype == IMAGE_INT8 ? 4 : 8;
    uint8_t code =
        group[IMAGE_PANEL_ROWS * 2 +
              (col % IMAGE_GROUP_COLS / in_word * IMAGE_PANEL_ROWS + lane) * 4 + col % 4];
    int value = w->dtype == IMAGE_INT8
                    ? code - (int)IMAGE_INT8_OFFSET
                    : (col % 8 < 4 ? code & 15 : code >> 4) - (int)IMAGE_INT4_OFFSET;
    return (double)fixture_float(((const uint16_t *)(const void *)group)[lane]) * value;
}

static inline struct weight fixture_weight(struct fixture_memory *m, uint32_t dtype, uint32_t rows,
                                           uint32_t cols, double sigma)
{
    uint64_t bytes = 0;
    struct weight w = {.dtype = dtype, .rows = rows, .cols = cols};
    if (!image_tensor_bytes(rows, cols, dtype, &bytes))
        abort();
    void *data = fixture_alloc(m, bytes);
    w.data = data;
    for (uint64_t i = 0; image_is_codes(dtype) && i < bytes; i++)
        ((int8_t *)data)[i] = (int8_t)(rng_below(&m->rng, 255) - 127);
    if (image_is_codes(dtype))
        return w;
    if (image_group_bytes(dtype) > 0) {
        fixture_codes(m, dtype, data, bytes, sigma);
        return w;
    }
    for (size_t i = 0; i < (size_t)rows * cols; i++) {
        float value = (float)(sigma * rng_normal(&m->rng));
        size_t at = i;
        if (dtype == IMAGE_PANELS)
            at = image_panel_index(cols, (uint32_t)(i / cols), (uint32_t)(i % cols));
        if (dtype == IMAGE_F32)
            ((float *)data)[i] = value;
        else
            ((uint16_t *)data)[at] = fixture_bf16(value);
    }
    return w;
}

static inline bool fixture_is_bias(enum tensor_role role)
{
    for (uint32_t i = 0; i < LINEAR_COUNT; i++)
        if (backbone_bias_role(i) == role)
            return true;
    return false;
}

static inline void fixture_layer(struct fixture_model *m, uint32_t layer, uint32_t dtype)
{
    const struct model_config *c = &m->config;
    for (uint32_t role = 0; role < TENSOR_ROLE_COUNT; role++) {
        uint32_t rows, cols;
        if (!backbone_role_in_layer(role) || !backbone_shape(c, role, &rows, &cols))
            continue;
        if (backbone_role_is_matrix(role))
            *backbone_matrix(&m->backbone, role, layer) =
                fixture_weight(&m->memory, fixture_multiplied(dtype), rows, cols,
                               (role == TENSOR_O || role == TENSOR_DOWN ? 1 : 1.5) / sqrt(cols));
        else
            *backbone_vector(&m->backbone, role, layer) = fixture_vector(
                &m->memory, cols, fixture_is_bias(role) ? 0 : 1, fixture_is_bias(role) ? 0.3 : 0.1);
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
    uint32_t multiplied = fixture_multiplied(dtype);
    uint32_t looked_up = dtype == IMAGE_F32 ? IMAGE_F32 : IMAGE_BF16;
    m->backbone.embed = fixture_weight(&m->memory, c->tied_embeddings ? multiplied : looked_up,
                                       c->vocab_count, c->hidden, 1);
    m->backbone.head = c->tied_embeddings ? m->backbone.embed
                                          : fixture_weight(&m->memory, multiplied, c->vocab_count,
                                                           c->hidden, 2 / sqrt(c->hidden));
    m->backbone.out_norm = fixture_vector(&m->memory, c->hidden, 1, 0.1);
    for (uint32_t i = 0; i < c->layer_count; i++)
        fixture_layer(m, i, dtype);
    return m;
}

static inline void fixture_model_free(struct fixture_model *m)
{
    fixture_release(&m->memory);
    free(m);
}

/* What a fixture adapter has: bit i for LoRA on linear i of every layer, and these. */
#define FIXTURE_LINEARS ((1u << LINEAR_LAYER_COUNT) - 1)
#define FIXTURE_HEAD (1u << LINEAR_HEAD)
#define FIXTURE_EMBED (1u << 16)
#define FIXTURE_DORA (1u << 17)
#define FIXTURE_WHOLE (1u << 18) /* norms, biases, the embedding and one o matrix of its own */

#define FIXTURE_CODES_SIGMA 73.6 /* of whole numbers from -127 to 127 */

/* LoRA on `outputs` x `inputs`; `modules` as above. */
static inline void fixture_lora(struct fixture_adapter *a, struct lora *l, uint32_t dtype,
                                uint32_t rank, uint32_t outputs, uint32_t inputs, uint32_t modules)
{
    bool codes = dtype == IMAGE_INT8;
    l->a = fixture_weight(&a->memory, codes ? IMAGE_CODES : dtype, rank, inputs, 1 / sqrt(inputs));
    l->b = fixture_weight(&a->memory, codes ? IMAGE_CODE_PANELS : fixture_multiplied(dtype),
                          outputs, rank, 1 / sqrt(rank));
    double unit = 1 / sqrt((double)inputs * rank) / FIXTURE_CODES_SIGMA / FIXTURE_CODES_SIGMA;
    l->rank_scales = codes ? fixture_vector(&a->memory, rank, unit, unit / 5) : NULL;
    l->rank_scale_count = codes ? rank : 0;
    l->scale = 0.25f + 0.5f * (float)rng_unit(&a->memory.rng);
    if (modules & FIXTURE_DORA)
        l->dora = fixture_vector(&a->memory, outputs, 1, 0.2);
}

/* Tensors that take the place of the backbone's. */
static inline void fixture_whole(struct fixture_adapter *a, uint32_t dtype)
{
    const struct model_config *c = a->adapter.view.config;
    a->adapter.view.out_norm = fixture_vector(&a->memory, c->hidden, 1, 0.2);
    a->adapter.view.embed = fixture_weight(&a->memory, dtype, c->vocab_count, c->hidden, 1);
    for (uint32_t i = 0; i < c->layer_count; i++) {
        struct backbone_layer *l = &a->adapter.view.layers[i];
        for (uint32_t n = 0; n < NORM_LAYER_COUNT; n++)
            if (l->norms[n] && (i + n) % 2)
                l->norms[n] = fixture_vector(
                    &a->memory, n == NORM_Q || n == NORM_K ? c->head_dim : c->hidden, 1, 0.2);
        for (uint32_t n = 0; n < LINEAR_LAYER_COUNT; n++)
            if (l->linears[n].bias)
                l->linears[n].bias = fixture_vector(&a->memory, l->linears[n].weight.rows, 0, 0.4);
    }
    struct weight *o = &a->adapter.view.layers[0].linears[LINEAR_O].weight;
    *o = fixture_weight(&a->memory, fixture_multiplied(dtype), o->rows, o->cols, 1 / sqrt(o->cols));
}

/* Every second adapted matrix has half the rank, as PEFT's rank_pattern allows. In IMAGE_INT8 A
 * and B are codes, all else is bf16. */
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
    a->adapter.is_pure_lora = !(modules & (FIXTURE_DORA | FIXTURE_WHOLE));
    a->adapter.loras =
        fixture_alloc(&a->memory, adapter_scale_count(c->layer_count) * sizeof(struct lora));
    a->adapter.view = model->backbone;
    a->adapter.view.layers =
        fixture_alloc(&a->memory, c->layer_count * sizeof(struct backbone_layer));
    memcpy(a->adapter.view.layers, model->backbone.layers,
           c->layer_count * sizeof(struct backbone_layer));
    for (uint32_t i = 0; i < c->layer_count; i++)
        for (uint32_t l = 0; l < LINEAR_LAYER_COUNT; l++) {
            const struct weight *w = &model->backbone.layers[i].linears[l].weight;
            if (modules >> l & 1)
                fixture_lora(a, &a->adapter.loras[adapter_linear_index(c->layer_count, i, l)],
                             dtype, (i + l) % 2 && rank > 1 ? rank / 2 : rank, w->rows, w->cols,
                             modules);
        }
    if (modules & FIXTURE_HEAD)
        fixture_lora(a, &a->adapter.loras[adapter_linear_index(c->layer_count, 0, LINEAR_HEAD)],
                     dtype, rank, c->vocab_count, c->hidden, modules);
    uint32_t others = dtype == IMAGE_INT8 ? IMAGE_BF16 : dtype;
    if (modules & FIXTURE_EMBED)
        fixture_lora(a, &a->adapter.loras[adapter_embed_index(c->layer_count)], others, rank,
                     c->hidden, c->vocab_count, modules);
    if (modules & FIXTURE_WHOLE)
        fixture_whole(a, others);
    return a;
}

static inline void fixture_adapter_free(struct fixture_adapter *a)
{
    fixture_release(&a->memory);
    free(a);
}

#define FIXTURE_FAMILIES 7u
#define FIXTURE_LONG_FROM 20u /* tokens from which the LongRoPE model has other angles */

/* All families and what tells them apart, each as odd as it may be. */
static const struct model_config fixture_families[FIXTURE_FAMILIES] = {
    {/* Llama 2: multi-head, own head */
     .family = MODEL_LLAMA,
     .vocab_count = 101,
     .hidden = 36,
     .layer_count = 3,
     .head_count = 3,
     .kv_head_count = 3,
     .head_dim = 12,
     .rotary_dim = 12,
     .attention_scale = 0.288675135f,
     .embed_scale = 1,
     .ffn = 50,
     .context_max = 256,
     .ropes = {{.theta = 10000, .factor = 1, .attention_factor = 1}},
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
     .rotary_dim = 16,
     .attention_scale = 0.25f,
     .embed_scale = 1,
     .ffn = 72,
     .context_max = 512,
     .ropes = {{.kind = MODEL_ROPE_LLAMA3,
                .original_context = 64,
                .theta = 500,
                .factor = 8,
                .low_freq_factor = 1,
                .high_freq_factor = 4,
                .attention_factor = 1}},
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
     .rotary_dim = 10,
     .attention_scale = 0.316227766f,
     .embed_scale = 1,
     .ffn = 41,
     .context_max = 256,
     .sliding_window = 7,
     .sliding_layers = {3},
     .ropes = {[MODEL_LAYER_SLIDING] = {.theta = 10000, .factor = 1, .attention_factor = 1}},
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
     .rotary_dim = 8,
     .attention_scale = 0.353553391f,
     .embed_scale = 1,
     .ffn = 90,
     .context_max = 256,
     .ropes =
         {{.kind = MODEL_ROPE_LINEAR, .theta = 1000000, .factor = 2.5f, .attention_factor = 1}},
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
     .rotary_dim = 18,
     .attention_scale = 0.23570226f,
     .embed_scale = 1,
     .ffn = 64,
     .context_max = 256,
     .ropes = {{.theta = 1000000, .factor = 1, .attention_factor = 1}},
     .norm_eps = 1e-6f,
     .qk_norm = 1,
     .bos_id = UINT32_MAX},
    {/* Gemma 3: two kinds of layers with a rope each, norms around, GELU, scaled embeddings */
     .family = MODEL_GEMMA3,
     .vocab_count = 107,
     .hidden = 38,
     .layer_count = 4,
     .head_count = 4,
     .kv_head_count = 2,
     .head_dim = 14,
     .rotary_dim = 14,
     .attention_scale = 0.2f,
     .embed_scale = 6.164414f,
     .ffn = 66,
     .context_max = 256,
     .sliding_window = 6,
     .sliding_layers = {5},
     .ropes = {{.kind = MODEL_ROPE_LINEAR, .theta = 100000, .factor = 3, .attention_factor = 1},
               {.theta = 900, .factor = 1, .attention_factor = 1}},
     .norm_eps = 1e-6f,
     .activation = MODEL_GELU_TANH,
     .tied_embeddings = 1,
     .qk_norm = 1,
     .post_norms = 1,
     .bos_id = 2},
    {/* Phi-4-mini: LongRoPE over a part of each head; q, k, v share LoRA's A, gate and up too */
     .family = MODEL_PHI3,
     .vocab_count = 99,
     .hidden = 48,
     .layer_count = 2,
     .head_count = 3,
     .kv_head_count = 1,
     .head_dim = 16,
     .rotary_dim = 12,
     .attention_scale = 0.25f,
     .embed_scale = 1,
     .ffn = 57,
     .context_max = 256,
     .ropes = {{.kind = MODEL_ROPE_LONG,
                .theta = 10000,
                .factor = 1,
                .original_context = FIXTURE_LONG_FROM,
                .attention_factor = 1.19f}},
     .rope_short_factors = {1, 1.1f, 1.2f, 1.3f, 1.4f, 1.5f},
     .rope_long_factors = {1, 2, 3.5f, 5, 7, 11},
     .norm_eps = 1e-5f,
     .tied_embeddings = 1,
     .fused_projections = 1,
     .bos_id = UINT32_MAX},
};
