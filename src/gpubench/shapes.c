/* See shapes.h. */
#include "gpubench/shapes.h"

#include <errno.h>
#include <math.h>
#include <string.h>

static const struct {
    const char *name;
    struct model_config config;
} shapes[] = {
    {"llama-2-7b",
     {.family = MODEL_LLAMA,
      .vocab_count = 32000,
      .hidden = 4096,
      .layer_count = 32,
      .head_count = 32,
      .kv_head_count = 32,
      .head_dim = 128,
      .ffn = 11008,
      .context_max = 4096,
      .ropes = {{.theta = 10000}}}},
    {"llama-3.2-1b",
     {.family = MODEL_LLAMA,
      .vocab_count = 128256,
      .hidden = 2048,
      .layer_count = 16,
      .head_count = 32,
      .kv_head_count = 8,
      .head_dim = 64,
      .ffn = 8192,
      .context_max = 131072,
      .ropes = {{.kind = MODEL_ROPE_LLAMA3,
                 .theta = 500000,
                 .factor = 32,
                 .low_freq_factor = 1,
                 .high_freq_factor = 4,
                 .original_context = 8192}},
      .tied_embeddings = 1}},
    {"qwen2.5-0.5b",
     {.family = MODEL_QWEN2,
      .vocab_count = 151936,
      .hidden = 896,
      .layer_count = 24,
      .head_count = 14,
      .kv_head_count = 2,
      .head_dim = 64,
      .ffn = 4864,
      .context_max = 32768,
      .ropes = {{.theta = 1000000}},
      .tied_embeddings = 1,
      .qkv_bias = 1}},
};

/* What the shapes leave out. */
static void complete(struct model_config *c)
{
    c->rotary_dim = c->rotary_dim > 0 ? c->rotary_dim : c->head_dim;
    c->attention_scale = 1 / sqrtf((float)c->head_dim);
    c->embed_scale = c->embed_scale > 0 ? c->embed_scale : 1;
    c->norm_eps = 1e-5f;
    c->bos_id = UINT32_MAX;
    for (uint32_t i = 0; i < MODEL_LAYER_KIND_COUNT; i++) {
        if (!(c->ropes[i].theta > 0))
            c->ropes[i] = c->ropes[0];
        c->ropes[i].factor = c->ropes[i].factor > 0 ? c->ropes[i].factor : 1;
        c->ropes[i].attention_factor = 1;
    }
}

int shape_find(const char *name, struct model_config *ret, struct error *err)
{
    if (strcmp(name, "small") == 0) {
        (void)shape_small(0, ret);
        return 0;
    }
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        if (strcmp(shapes[i].name, name) == 0) {
            *ret = shapes[i].config;
            complete(ret);
            return 0;
        }
    }
    return error_set(err, -EINVAL,
                     "no shape \"%s\": there are llama-2-7b, llama-3.2-1b and qwen2.5-0.5b", name);
}

/* --- small ones --- */

static void make_llama3(struct model_config *c)
{
    c->ropes[0] = (struct model_rope){.kind = MODEL_ROPE_LLAMA3,
                                      .theta = 10000,
                                      .factor = 8,
                                      .low_freq_factor = 1,
                                      .high_freq_factor = 4,
                                      .original_context = 64};
}

static void make_mistral(struct model_config *c)
{
    c->family = MODEL_MISTRAL;
    c->sliding_window = 40;
    c->sliding_layers[0] = 3;
}

static void make_qwen2(struct model_config *c)
{
    c->family = MODEL_QWEN2;
    c->qkv_bias = 1;
    c->tied_embeddings = 1;
    c->hidden = 98;
    c->ffn = 161;
}

static void make_qwen3(struct model_config *c)
{
    c->family = MODEL_QWEN3;
    c->qk_norm = 1;
    c->head_dim = 40;
}

/* Wide heads, one for keys and values, two kinds of layers with a rope each. */
static void make_gemma3(struct model_config *c)
{
    c->family = MODEL_GEMMA3;
    c->qk_norm = c->post_norms = c->tied_embeddings = 1;
    c->activation = MODEL_GELU_TANH;
    c->embed_scale = sqrtf((float)c->hidden);
    c->head_count = 2;
    c->kv_head_count = 1;
    c->head_dim = 256;
    c->sliding_window = 33;
    c->sliding_layers[0] = 1;
    c->ropes[MODEL_LAYER_SLIDING] = (struct model_rope){.theta = 1000};
}

/* Part of a head is rotated, by divisors; q, k and v have one A. */
static void make_phi3(struct model_config *c)
{
    c->family = MODEL_PHI3;
    c->fused_projections = 1;
    c->head_dim = 32;
    c->rotary_dim = 24;
    c->ropes[0] =
        (struct model_rope){.kind = MODEL_ROPE_LONG, .theta = 10000, .original_context = 64};
    for (uint32_t i = 0; i < c->rotary_dim / 2; i++) {
        c->rope_short_factors[i] = 1 + (float)i / 16;
        c->rope_long_factors[i] = 1 + (float)i;
    }
}

const char *shape_small(uint32_t i, struct model_config *ret)
{
    static const struct {
        const char *name;
        void (*make)(struct model_config *c);
    } families[SHAPE_FAMILIES] = {
        {"llama", NULL},       {"llama3", make_llama3}, {"mistral", make_mistral},
        {"qwen2", make_qwen2}, {"qwen3", make_qwen3},   {"gemma3", make_gemma3},
        {"phi3", make_phi3},
    };
    *ret = (struct model_config){.family = MODEL_LLAMA,
                                 .vocab_count = 300,
                                 .hidden = 96,
                                 .layer_count = 2,
                                 .head_count = 6,
                                 .kv_head_count = 2,
                                 .head_dim = 16,
                                 .ffn = 160,
                                 .context_max = 512,
                                 .ropes = {{.theta = 10000}}};
    if (families[i].make)
        families[i].make(ret);
    complete(ret);
    return families[i].name;
}
