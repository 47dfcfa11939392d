/* config.json: what it means, and everything in it that is refused by name. */
#include "model/config.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SIZES                                                                                      \
    "\"hidden_size\":64,\"intermediate_size\":128,\"num_hidden_layers\":2,"                        \
    "\"num_attention_heads\":4,\"vocab_size\":300,\"num_key_value_heads\":2,"                      \
    "\"max_position_embeddings\":512"
#define LLAMA "\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\"," SIZES
#define MISTRAL "\"architectures\":[\"MistralForCausalLM\"],\"model_type\":\"mistral\"," SIZES
#define QWEN2 "\"architectures\":[\"Qwen2ForCausalLM\"],\"model_type\":\"qwen2\"," SIZES
#define QWEN3 "\"architectures\":[\"Qwen3ForCausalLM\"],\"model_type\":\"qwen3\"," SIZES

#define GEMMA3                                                                                     \
    "\"architectures\":[\"Gemma3ForCausalLM\"],\"model_type\":\"gemma3_text\",\"hidden_size\":64," \
    "\"intermediate_size\":128,\"num_hidden_layers\":7,\"num_attention_heads\":4,\"vocab_size\":"  \
    "300,"                                                                                         \
    "\"max_position_embeddings\":512"
#define PHI3                                                                                       \
    "\"architectures\":[\"Phi3ForCausalLM\"],\"model_type\":\"phi3\",\"hidden_size\":64,"          \
    "\"intermediate_size\":128,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"vocab_size\":"  \
    "300"

static struct model_config parse(const char *fields, const char *generation)
{
    char json[4096];
    struct model_config c;
    struct error err = {0};
    snprintf(json, sizeof json, "{%s}", fields);
    if (model_config_parse(json, strlen(json), generation,
                           generation != NULL ? strlen(generation) : 0, &c, &err) < 0)
        fail_msg("%s: %s", json, err.text);
    assert_int_equal(model_config_check(&c, &err), 0);
    return c;
}

/* Refused, and the sentence holds `words`. The output stays as it was. */
static void refuse_text(const char *json, size_t len, const char *words)
{
    struct model_config c;
    struct model_config before;
    struct error err = {0};
    memset(&c, 0x5a, sizeof c);
    before = c;
    int r = model_config_parse(json, len, NULL, 0, &c, &err);
    if (r >= 0 || strstr(err.text, words) == NULL)
        fail_msg("%.300s: %d \"%s\", expected \"%s\"", json, r, err.text, words);
    assert_memory_equal(&c, &before, sizeof c);
}

static void refuse(const char *fields, const char *words)
{
    char json[4096];
    snprintf(json, sizeof json, "{%s}", fields);
    refuse_text(json, strlen(json), words);
}

static void test_families(void **state)
{
    (void)state;
    struct model_config c = parse(LLAMA, NULL);
    assert_int_equal(c.family, MODEL_LLAMA);
    assert_int_equal(c.head_dim, 16);
    assert_int_equal(c.kv_head_count, 2);
    assert_int_equal(c.context_max, 512);
    assert_int_equal(c.sliding_window, 0);
    assert_int_equal(c.qkv_bias + c.o_bias + c.mlp_bias + c.qk_norm + c.tied_embeddings, 0);
    assert_true(c.ropes[MODEL_LAYER_FULL].theta == 10000.0f && c.norm_eps == 1e-6f);
    assert_int_equal(c.bos_id, UINT32_MAX);

    c = parse(LLAMA ",\"attention_bias\":true,\"mlp_bias\":true,\"tie_word_embeddings\":true,"
                    "\"head_dim\":24,\"pretraining_tp\":2",
              NULL);
    assert_int_equal(c.qkv_bias + c.o_bias + c.mlp_bias + c.tied_embeddings, 4);
    assert_int_equal(c.head_dim, 24);

    c = parse(QWEN2, NULL);
    assert_int_equal(c.qkv_bias, 1);
    assert_int_equal(c.o_bias, 0);
    c = parse(QWEN3, NULL);
    assert_int_equal(c.qk_norm, 1);
    assert_int_equal(c.head_dim, 128);
    c = parse(QWEN3 ",\"attention_bias\":true,\"head_dim\":32", NULL);
    assert_int_equal(c.qkv_bias + c.o_bias, 2);
    assert_int_equal(c.head_dim, 32);
    c = parse("\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":64,\"vocab_size\":9,"
              "\"intermediate_size\":128,\"num_hidden_layers\":2,\"num_attention_heads\":4",
              NULL);
    assert_int_equal(c.kv_head_count, 4);
    assert_int_equal(c.context_max, 2048);
}

static void test_windows(void **state)
{
    (void)state;
    assert_int_equal(parse(MISTRAL ",\"sliding_window\":100", NULL).sliding_window, 100);
    assert_int_equal(parse(MISTRAL ",\"sliding_window\":null", NULL).sliding_window, 0);
    assert_int_equal(parse(MISTRAL, NULL).sliding_window, 0); /* 4096, wider than the context */
    assert_int_equal(parse(QWEN2 ",\"sliding_window\":100", NULL).sliding_window, 0);
    assert_int_equal(
        parse(QWEN2 ",\"sliding_window\":100,\"use_sliding_window\":true,\"max_window_layers\":0",
              NULL)
            .sliding_window,
        100);
    assert_int_equal(
        parse(QWEN2 ",\"sliding_window\":100,\"use_sliding_window\":true,\"max_window_layers\":28",
              NULL)
            .sliding_window,
        0);
    assert_int_equal(parse(QWEN3 ",\"sliding_window\":100,\"use_sliding_window\":true,"
                                 "\"layer_types\":[\"sliding_attention\",\"sliding_attention\"]",
                           NULL)
                         .sliding_window,
                     100);
    struct model_config mixed = parse(
        QWEN2 ",\"sliding_window\":100,\"use_sliding_window\":true,\"max_window_layers\":1", NULL);
    assert_int_equal(mixed.sliding_window, 100);
    assert_int_equal(model_layer_kind(&mixed, 0), MODEL_LAYER_FULL);
    assert_int_equal(model_layer_kind(&mixed, 1), MODEL_LAYER_SLIDING);
    refuse(QWEN3 ",\"layer_types\":[\"full_attention\",\"linear_attention\"]",
           "\"linear_attention\"");
    refuse(QWEN3 ",\"layer_types\":[\"full_attention\"]", "layer_types");
    refuse(QWEN3 ",\"layer_types\":[\"sliding_attention\",\"sliding_attention\"]",
           "use_sliding_window");
}

static void test_rope(void **state)
{
    (void)state;
    static const char *const llama3[] = {
        "\"rope_theta\":500000.0,\"rope_scaling\":{\"rope_type\":\"llama3\",",
        "\"rope_parameters\":{\"rope_theta\":500000.0,\"rope_type\":\"llama3\","};
    for (int i = 0; i < 2; i++) {
        char json[1024];
        snprintf(json, sizeof json,
                 LLAMA ",%s\"factor\":32.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
                       "\"original_max_position_embeddings\":8192}",
                 llama3[i]);
        struct model_config c = parse(json, NULL);
        assert_int_equal(c.ropes[MODEL_LAYER_FULL].kind, MODEL_ROPE_LLAMA3);
        assert_true(c.ropes[MODEL_LAYER_FULL].theta == 500000.0f &&
                    c.ropes[MODEL_LAYER_FULL].factor == 32.0f);
        assert_true(c.ropes[MODEL_LAYER_FULL].low_freq_factor == 1.0f &&
                    c.ropes[MODEL_LAYER_FULL].high_freq_factor == 4.0f);
        assert_int_equal(c.ropes[MODEL_LAYER_FULL].original_context, 8192);
    }
    struct model_config c =
        parse(LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}", NULL);
    assert_int_equal(c.ropes[MODEL_LAYER_FULL].kind, MODEL_ROPE_LINEAR);
    assert_true(c.ropes[MODEL_LAYER_FULL].factor == 2.0f);
    c = parse(LLAMA ",\"rope_scaling\":null,\"rope_theta\":1000000", NULL);
    assert_int_equal(c.ropes[MODEL_LAYER_FULL].kind, MODEL_ROPE_PLAIN);
    assert_true(c.ropes[MODEL_LAYER_FULL].theta == 1e6f);
    refuse(LLAMA ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2}", "\"yarn\"");
    refuse(LLAMA ",\"rope_parameters\":{\"full_attention\":{}, \"rope_type\":7}", "rope type 7");
    refuse(LLAMA ",\"rope_scaling\":{\"type\":\"linear\"}", "without \"factor\"");
    refuse(LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8}", "low_freq_factor");
    refuse(LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,"
                 "\"high_freq_factor\":4,\"original_max_position_embeddings\":8192}",
           "not below");
    refuse(LLAMA ",\"rope_scaling\":\"yarn\"", "rope_scaling");
    refuse(LLAMA ",\"rope_theta\":0", "rope_theta");
    refuse(LLAMA ",\"rope_theta\":\"10000\"", "rope_theta");
    refuse(LLAMA ",\"partial_rotary_factor\":0.5", "partial_rotary_factor");
}

static void test_gemma3(void **state)
{
    (void)state;
    struct model_config c = parse(GEMMA3, NULL);
    assert_int_equal(c.head_dim, 256);
    assert_int_equal(c.tied_embeddings + c.qk_norm + c.post_norms + c.norm_offset, 4);
    assert_int_equal(c.qkv_bias + c.o_bias, 0);
    assert_int_equal(c.activation, MODEL_GELU_TANH);
    assert_true(c.attention_scale == 0.0625f && c.embed_scale == 8);
    assert_true(c.ropes[MODEL_LAYER_FULL].theta == 1e6f);
    assert_true(c.ropes[MODEL_LAYER_SLIDING].theta == 1e4f);
    assert_int_equal(c.sliding_window, 0); /* 4096, wider than the context, but the rope stays */
    for (uint32_t i = 0; i < c.layer_count; i++)
        assert_int_equal(model_layer_kind(&c, i), i == 5 ? MODEL_LAYER_FULL : MODEL_LAYER_SLIDING);
    /* The spelling of transformers 5 and the older one. */
    static const char *const spellings[] = {
        ",\"sliding_window\":8,\"layer_types\":[\"sliding_attention\",\"full_attention\","
        "\"sliding_attention\",\"full_attention\",\"sliding_attention\",\"full_attention\","
        "\"sliding_attention\"],\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"linear\","
        "\"factor\":8,\"rope_theta\":5000},\"sliding_attention\":{\"rope_theta\":300}}",
        ",\"sliding_window\":8,\"sliding_window_pattern\":2,\"rope_theta\":5000,"
        "\"rope_local_base_freq\":300,\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":8}"};
    for (int i = 0; i < 2; i++) {
        char json[2048];
        snprintf(json, sizeof json, GEMMA3 ",\"query_pre_attn_scalar\":100%s", spellings[i]);
        c = parse(json, NULL);
        assert_true(c.ropes[MODEL_LAYER_FULL].theta == 5000 &&
                    c.ropes[MODEL_LAYER_FULL].factor == 8);
        assert_int_equal(c.ropes[MODEL_LAYER_FULL].kind, MODEL_ROPE_LINEAR);
        assert_true(c.ropes[MODEL_LAYER_SLIDING].theta == 300);
        assert_int_equal(c.ropes[MODEL_LAYER_SLIDING].kind, MODEL_ROPE_PLAIN);
        assert_int_equal(c.sliding_window, 8);
        assert_true(c.sliding_layers[0] == 0x55 && c.attention_scale == 0.1f);
    }
    refuse(GEMMA3 ",\"hidden_activation\":\"gelu\"", "hidden_activation");
    refuse(GEMMA3 ",\"final_logit_softcapping\":30.0", "final_logit_softcapping");
    refuse(GEMMA3 ",\"attn_logit_softcapping\":50.0", "attn_logit_softcapping");
    refuse(GEMMA3 ",\"use_bidirectional_attention\":true", "use_bidirectional_attention");
    refuse(GEMMA3 ",\"rope_parameters\":{\"rope_theta\":5000}", "full_attention");
    refuse(GEMMA3 ",\"query_pre_attn_scalar\":0", "query_pre_attn_scalar");
}

static void test_phi3(void **state)
{
    (void)state;
    struct model_config c = parse(PHI3, NULL);
    assert_int_equal(c.fused_projections, 1);
    assert_int_equal(c.kv_head_count, 4);
    assert_int_equal(c.context_max, 4096);
    assert_int_equal(c.rotary_dim, 16);
    assert_true(c.norm_eps == 1e-5f);
    assert_int_equal(c.sliding_window, 0);
    assert_int_equal(parse(PHI3 ",\"sliding_window\":2047", NULL).sliding_window, 2047);
    static const char *const types[] = {"longrope", "su", "yarn"};
    for (int i = 0; i < 3; i++) {
        char json[2048];
        snprintf(json, sizeof json,
                 PHI3 ",\"max_position_embeddings\":131072,\"partial_rotary_factor\":0.5,"
                      "\"original_max_position_embeddings\":2048,\"rope_scaling\":{\"type\":\"%s\","
                      "\"short_factor\":[1,1.5,2,3],\"long_factor\":[4,5,6,7.25]}",
                 types[i]);
        c = parse(json, NULL);
        assert_int_equal(c.rotary_dim, 8);
        assert_int_equal(c.ropes[MODEL_LAYER_FULL].kind, MODEL_ROPE_LONG);
        assert_int_equal(c.ropes[MODEL_LAYER_FULL].original_context, 2048);
        assert_true(c.rope_short_factors[1] == 1.5f && c.rope_long_factors[3] == 7.25f);
        /* sqrt(1 + log(64) / log(2048)) */
        assert_true(fabsf(c.ropes[MODEL_LAYER_FULL].attention_factor - 1.2431631f) < 1e-6f);
    }
    refuse(PHI3 ",\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8}", "\"longrope\"");
    refuse(PHI3 ",\"rope_scaling\":{\"type\":\"longrope\",\"long_factor\":[1]}", "short_factor");
    refuse(PHI3 ",\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1]}", "list of 8");
    refuse(PHI3 ",\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1,1,1,1,1,1,1,0]}",
           "short_factor");
    refuse(PHI3 ",\"partial_rotary_factor\":0.2", "partial_rotary_factor");
    refuse(PHI3 ",\"partial_rotary_factor\":2", "partial_rotary_factor");
}

static void test_tokens(void **state)
{
    (void)state;
    struct model_config c = parse(LLAMA ",\"eos_token_id\":2,\"bos_token_id\":1",
                                  "{\"eos_token_id\":[5,2,7],\"temperature\":0.7}");
    assert_int_equal(c.eos_count, 3);
    assert_int_equal(c.eos_ids[0], 2);
    assert_int_equal(c.eos_ids[1], 5);
    assert_int_equal(c.eos_ids[2], 7);
    assert_int_equal(c.bos_id, 1);
    assert_int_equal(parse(LLAMA ",\"eos_token_id\":null", NULL).eos_count, 0);
    /* What a file without the field means to transformers. */
    assert_int_equal(parse(LLAMA, NULL).eos_count, 1);
    assert_int_equal(parse(LLAMA, NULL).eos_ids[0], 2);
    assert_int_equal(parse(LLAMA, "{\"eos_token_id\":7}").eos_ids[0], 7);
    assert_int_equal(parse(QWEN2, NULL).eos_count, 0);
    refuse(LLAMA ",\"eos_token_id\":300", "eos_token_id");
    refuse(LLAMA ",\"eos_token_id\":\"2\"", "eos_token_id");
    refuse(LLAMA ",\"eos_token_id\":1.5", "eos_token_id");
    refuse(LLAMA ",\"eos_token_id\":[1,2,3,4,5,6,7,8,9]", "more than 8");
    struct model_config unused;
    struct error err = {0};
    static const char json[] = "{" LLAMA "}";
    assert_true(model_config_parse(json, strlen(json), "{", 1, &unused, &err) < 0);
    assert_non_null(strstr(err.text, "generation_config.json"));
}

static void test_refusals(void **state)
{
    (void)state;
    refuse(SIZES, "architectures");
    refuse("\"architectures\":[\"GemmaForCausalLM\"]," SIZES, "GemmaForCausalLM");
    refuse("\"architectures\":[\"GemmaForCausalLM\"]," SIZES, "Qwen3ForCausalLM");
    refuse("\"architectures\":[]," SIZES, "architectures");
    refuse("\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"mistral\"," SIZES,
           "model_type");
    refuse(LLAMA ",\"hidden_act\":\"gelu\"", "\"gelu\"");
    refuse(LLAMA ",\"quantization_config\":{\"bits\":4}", "quantization_config");
    refuse(LLAMA ",\"head_dim\":15", "even");
    refuse(LLAMA ",\"head_dim\":1000000", "head_dim");
    refuse(LLAMA ",\"rms_norm_eps\":-1", "rms_norm_eps");
    refuse(LLAMA ",\"tie_word_embeddings\":1", "tie_word_embeddings");
    refuse("\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":64", "no \"vocab_size\"");
    static const char *const fields[] = {"hidden_size", "intermediate_size", "num_hidden_layers",
                                         "num_attention_heads", "vocab_size"};
    static const char *const values[] = {"0",    "-1",    "1.5", "4294967296",
                                         "1e30", "\"4\"", "[4]", "99999999999999999999999999"};
    for (size_t f = 0; f < sizeof fields / sizeof fields[0]; f++) {
        for (size_t v = 0; v < sizeof values / sizeof values[0]; v++) {
            char json[1024] = "{" LLAMA "}";
            char spelled[64];
            snprintf(spelled, sizeof spelled, "\"%s\":", fields[f]);
            char *at = strstr(json, spelled);
            assert_non_null(at);
            at += strlen(spelled);
            char rest[1024];
            snprintf(rest, sizeof rest, "%s", at + strcspn(at, ",}"));
            snprintf(at, sizeof json - (size_t)(at - json), "%s%s", values[v], rest);
            refuse_text(json, strlen(json), fields[f]);
        }
    }
    char json[] = "{" LLAMA "}";
    char *heads = strstr(json, "\"num_key_value_heads\":2");
    heads[22] = '3';
    refuse_text(json, strlen(json), "no multiple");
}

static void test_json(void **state)
{
    (void)state;
    refuse(LLAMA ",\"hidden_size\":64", "duplicate");
    refuse_text("", 0, "malformed");
    refuse_text("[]", 2, "not a JSON object");
    refuse_text("{\"a\":1,}", 8, "malformed");
    refuse_text("{\"a\":1} x", 9, "malformed");
    refuse_text("{\"a\":\"\xff\"}", 9, "malformed");
    refuse_text("{\"a\":NaN}", 9, "malformed");
    size_t len = 1u << 20;
    char *deep = malloc(len);
    memset(deep, '[', len);
    memcpy(deep, "{\"a\":", 5);
    refuse_text(deep, len, "nested deeper");
    memset(deep, ',', len);
    memcpy(deep, "{\"a\":[", 6);
    refuse_text(deep, len, "more than");
    free(deep);
    len = (4u << 20) + 1;
    char *large = malloc(len);
    memset(large, ' ', len);
    refuse_text(large, len, "the limit is");
    free(large);
}

/* Bytes from an image: each relation on its own. */
static void test_check(void **state)
{
    (void)state;
    const struct model_config good = parse(LLAMA, NULL);
    struct model_config bad[24];
    size_t count = 0;
    for (size_t i = 0; i < 24; i++)
        bad[i] = good;
    bad[count++].family = 0;
    bad[count++].family = 99;
    bad[count++].layer_count = MODEL_LAYERS_MAX + 1;
    bad[count++].head_count = 0;
    bad[count++].kv_head_count = 3;
    bad[count++].head_dim = 7;
    bad[count++].vocab_count = 0;
    bad[count++].rotary_dim = good.head_dim + 2;
    bad[count++].ropes[MODEL_LAYER_FULL].theta = NAN;
    bad[count++].ropes[MODEL_LAYER_SLIDING].factor = INFINITY;
    bad[count++].ropes[MODEL_LAYER_FULL].attention_factor = 0;
    bad[count++].ropes[MODEL_LAYER_FULL].kind = MODEL_ROPE_KIND_COUNT;
    bad[count++].attention_scale = NAN;
    bad[count++].embed_scale = 0;
    bad[count++].activation = MODEL_ACTIVATION_COUNT;
    bad[count++].post_norms = 2;
    bad[count++].norm_eps = 0;
    bad[count++].qkv_bias = 2;
    bad[count++].eos_count = MODEL_EOS_MAX + 1;
    bad[count++].bos_id = good.vocab_count;
    bad[count++].sliding_window = good.context_max;
    bad[count].ropes[MODEL_LAYER_FULL].kind = MODEL_ROPE_LONG;
    bad[count++].ropes[MODEL_LAYER_FULL].original_context = 64; /* and no divisors */
    for (size_t i = 0; i < count; i++) {
        struct error err = {0};
        if (model_config_check(&bad[i], &err) == 0)
            fail_msg("damage %zu was not found", i);
        assert_true(err.text[0] != '\0');
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_families), cmocka_unit_test(test_windows),
        cmocka_unit_test(test_rope),     cmocka_unit_test(test_gemma3),
        cmocka_unit_test(test_phi3),     cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_json),
        cmocka_unit_test(test_check),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
