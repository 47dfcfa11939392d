/* adapter_config.json: ranks and scales as PEFT has them, and refusals by name. */
#include "weights/peft.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define BASE "\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16"
#define TARGETS ",\"target_modules\":[\"q_proj\",\"down_proj\"]"

static struct peft *parse(const char *fields)
{
    char json[8192];
    struct peft *p = NULL;
    struct error err = {0};
    snprintf(json, sizeof json, "{%s}", fields);
    if (peft_parse(json, strlen(json), &p, &err) < 0)
        fail_msg("%s: %s", json, err.text);
    return p;
}

/* rank 0: PEFT would not adapt this module. */
static void expect(const char *fields, const char *name, uint32_t rank, double scale)
{
    struct peft *p = parse(fields);
    struct peft_module m = {0};
    struct error err = {0};
    int r = peft_find_module(p, name, &m, &err);
    if ((r < 0) != (rank == 0) || m.rank != rank || fabs((double)m.scale - scale) > 1e-6)
        fail_msg("%s %s: %d %s, rank %u, scale %g", fields, name, r, err.text, m.rank,
                 (double)m.scale);
    peft_free(p);
}

static void refuse_text(const char *json, size_t len, const char *words)
{
    struct peft *p = NULL;
    struct error err = {0};
    int r = peft_parse(json, len, &p, &err);
    if (r >= 0 || strstr(err.text, words) == NULL)
        fail_msg("%.300s: %d \"%s\", expected \"%s\"", json, r, err.text, words);
    assert_null(p);
}

static void refuse(const char *fields, const char *words)
{
    char json[4096];
    snprintf(json, sizeof json, "{%s}", fields);
    refuse_text(json, strlen(json), words);
}

static const char q0[] = "model.layers.0.self_attn.q_proj";
static const char q11[] = "model.layers.11.self_attn.q_proj";
static const char k0[] = "model.layers.0.self_attn.k_proj";
static const char down1[] = "model.layers.1.mlp.down_proj";

static void test_scale(void **state)
{
    (void)state;
    expect(BASE TARGETS, q0, 8, 2);
    expect(BASE TARGETS, down1, 8, 2);
    expect(BASE TARGETS ",\"use_rslora\":true", q0, 8, 16 / sqrt(8));
    expect("\"peft_type\":\"LORA\"" TARGETS, q0, 8, 1); /* PEFT's defaults */
    expect("\"peft_type\":\"LORA\",\"r\":3,\"lora_alpha\":0.5" TARGETS, q0, 3, 0.5 / 3);
}

static void test_targets(void **state)
{
    (void)state;
    expect(BASE TARGETS, k0, 0, 0);
    expect(BASE ",\"target_modules\":[\"proj\"]", q0, 0, 0); /* whole names only */
    expect(BASE ",\"target_modules\":[\"model.layers.0.self_attn.q_proj\"]", q0, 8, 2);
    expect(BASE ",\"target_modules\":[\"model.layers.0.self_attn.q_proj\"]", q11, 0, 0);
    expect(BASE ",\"target_modules\":\"all-linear\"", k0, 8, 2);
    expect(BASE ",\"target_modules\":\".*q_proj\"", q0, 8, 2);
    expect(BASE ",\"target_modules\":\"q_proj\"", q0, 0, 0); /* a full match */
    expect(BASE ",\"target_modules\":\"model|.*q_proj\"", q0, 8, 2);
    expect(BASE ",\"target_modules\":\"model\\\\.layers\\\\.1\\\\d\\\\..*\"", q11, 8, 2);
    expect(BASE ",\"target_modules\":\"model\\\\.layers\\\\.1\\\\d\\\\..*\"", q0, 0, 0);
    expect(BASE, q0, 0, 0);
    expect(BASE TARGETS ",\"exclude_modules\":[\"down_proj\"]", down1, 0, 0);
    expect(BASE TARGETS ",\"exclude_modules\":\".*down_proj\"", down1, 0, 0);
    expect(BASE TARGETS ",\"exclude_modules\":[\"down_proj\"]", q0, 8, 2);
    expect(BASE TARGETS ",\"layers_to_transform\":[1,11]", q11, 8, 2);
    expect(BASE TARGETS ",\"layers_to_transform\":[1,11]", q0, 0, 0);
    expect(BASE TARGETS ",\"layers_to_transform\":11,\"layers_pattern\":\"layers\"", q11, 8, 2);
    expect(BASE TARGETS ",\"layers_to_transform\":11", q0, 0, 0);
    expect(BASE TARGETS ",\"layers_to_transform\":[],\"layers_pattern\":[]", q0, 8, 2);
}

/* Which of a name's numbers is its layer, and what goes before it. */
static void test_layers(void **state)
{
    (void)state;
#define LAYERS                                                                                     \
    BASE ",\"target_modules\":[\"q_proj\",\"lm_head\",\"model.embed_tokens\"],"                    \
         "\"layers_to_transform\":[11]"
    expect(LAYERS ",\"layers_pattern\":[\"h\",\"layers\"]", q11, 8, 2);
    expect(LAYERS ",\"layers_pattern\":\"l(ay)?ers\"", q11, 8, 2);
    expect(LAYERS ",\"layers_pattern\":\"h\"", q11, 0, 0);
    expect(LAYERS, q0, 0, 0);
    /* A module named in full is adapted whatever the layers. */
    expect(LAYERS, "lm_head", 8, 2);
    expect(LAYERS, "model.embed_tokens", 8, 2);
    expect(BASE ",\"target_modules\":[\"embed_tokens\"],\"layers_to_transform\":[11]",
           "model.embed_tokens", 0, 0);
#undef LAYERS
}

static void check_saved(const char *fields, const char *name, bool saved, bool target)
{
    struct peft *p = parse(fields);
    struct error err = {0};
    bool is_target = false;
    assert_int_equal(peft_saves_module(p, name), saved);
    assert_int_equal(peft_is_target(p, name, &is_target, &err), 0);
    assert_int_equal(is_target, target);
    peft_free(p);
}

static void test_saved(void **state)
{
    (void)state;
#define SAVED(names) BASE TARGETS ",\"modules_to_save\":[" names "]"
    check_saved(SAVED("\"lm_head\""), "lm_head", true, false);
    check_saved(SAVED("\"lm_head\""), "model.norm", false, false);
    /* The end of a name is enough to save a module, but not to keep LoRA away from it. */
    check_saved(SAVED("\"norm\""), "model.layers.3.input_layernorm", true, false);
    check_saved(SAVED("\"oj\""), q0, true, true);
    check_saved(SAVED("\"q_proj\""), q0, true, false);
    check_saved(SAVED("\"self_attn\""), q0, true, false);
    check_saved(SAVED("\"self_attn\""), down1, false, true);
#undef SAVED
    /* A tied head follows the embedding. */
    expect(BASE ",\"target_modules\":[\"embed_tokens\"]", "lm_head", 0, 0);
    expect(BASE ",\"target_modules\":[\"embed_tokens\"],\"ensure_weight_tying\":true", "lm_head", 8,
           2);
    expect(BASE ",\"target_modules\":\"all-linear\"", "lm_head", 0, 0);
    expect(BASE ",\"target_modules\":\"all-linear\"", "model.embed_tokens", 0, 0);
    struct peft *p = parse(BASE ",\"bias\":\"lora_only\",\"use_dora\":true");
    assert_int_equal(peft_bias(p), PEFT_BIAS_LORA_ONLY);
    assert_true(peft_uses_dora(p));
    assert_false(peft_ties_weights(p));
    peft_free(p);
}

static void test_patterns(void **state)
{
    (void)state;
    expect(BASE TARGETS ",\"rank_pattern\":{\"q_proj\":4}", q0, 4, 4);
    expect(BASE TARGETS ",\"rank_pattern\":{\"q_proj\":4}", down1, 8, 2);
    expect(BASE TARGETS ",\"rank_pattern\":{\"model.layers.1.mlp.down_proj\":2}", down1, 2, 8);
    expect(BASE TARGETS ",\"rank_pattern\":{\"proj\":4}", q0, 8, 2); /* from a dot on */
    expect(BASE TARGETS ",\"rank_pattern\":{\".*_proj\":4}", q0, 4, 4);
    expect(BASE TARGETS ",\"rank_pattern\":{\"q_proj\":4,\".*q_proj\":2}", q0, 4, 4);
    expect(BASE TARGETS ",\"rank_pattern\":{\".*q_proj\":2,\"q_proj\":4}", q0, 2, 8);
    expect(BASE TARGETS ",\"alpha_pattern\":{\"layers.0.self_attn.q_proj\":4}", q0, 8, 0.5);
    expect(BASE TARGETS ",\"alpha_pattern\":{\"layers.0.self_attn.q_proj\":4}", q11, 8, 2);
    expect(BASE TARGETS ",\"alpha_pattern\":{\"layers\\\\.(0|11)\\\\..*\":4},\"use_rslora\":true,"
                        "\"rank_pattern\":{\"q_proj\":16}",
           q11, 16, 1);
    /* An expression that explodes is stopped. */
    struct peft *p = parse(BASE TARGETS ",\"rank_pattern\":{\"(([a-z_.0-9]+)+)+[!?]\":4}");
    struct peft_module m;
    struct error err = {0};
    assert_true(peft_find_module(p, q11, &m, &err) < 0);
    assert_non_null(strstr(err.text, "takes too long"));
    peft_free(p);
}

static void test_harmless(void **state)
{
    (void)state;
    expect(BASE TARGETS
           ",\"task_type\":\"CAUSAL_LM\",\"bias\":\"none\",\"fan_in_fan_out\":true,"
           "\"use_dora\":false,\"modules_to_save\":null,\"inference_mode\":true,"
           "\"lora_dropout\":0.1,\"init_lora_weights\":true,\"auto_mapping\":null,"
           "\"base_model_name_or_path\":\"x/y\",\"revision\":\"main\",\"loftq_config\":{},"
           "\"megatron_core\":\"megatron.core\",\"megatron_config\":null,\"peft_version\":\"0.18\","
           "\"qalora_group_size\":16,\"use_qalora\":false,\"trainable_token_indices\":null,"
           "\"runtime_config\":{\"ephemeral_gpu_offload\":false},\"layer_replication\":null,"
           "\"target_parameters\":null,\"lora_bias\":false,\"future_field\":[]",
           q0, 8, 2);
    expect(BASE TARGETS ",\"init_lora_weights\":\"gaussian\"", q0, 8, 2);
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *fields;
        const char *words;
    } cases[] = {
        {"\"r\":8", "peft_type"},
        {"\"peft_type\":\"IA3\"", "\"IA3\""},
        {BASE ",\"task_type\":\"SEQ_CLS\"", "\"SEQ_CLS\""},
        {BASE ",\"bias\":\"some\"", "\"bias\" is \"some\""},
        {BASE ",\"use_dora\":1", "use_dora"},
        {BASE ",\"modules_to_save\":{}", "modules_to_save"},
        {BASE ",\"modules_to_save\":[\"(\"]", "no regular expression"},
        {BASE ",\"target_modules\":\".*\",\"layers_to_transform\":[1]", "layers_to_transform"},
        {BASE ",\"target_modules\":\".*\",\"layers_pattern\":\"layers\"", "layers_pattern"},
        {BASE ",\"lora_bias\":true", "lora_bias"},
        {BASE ",\"layer_replication\":[[0,4]]", "layer_replication"},
        {BASE ",\"trainable_token_indices\":[1]", "trainable_token_indices"},
        {BASE ",\"alora_invocation_tokens\":[1]", "alora_invocation_tokens"},
        {BASE ",\"megatron_config\":{\"a\":1}", "megatron_config"},
        {BASE ",\"future_field\":1", "future_field"},
        {BASE ",\"init_lora_weights\":\"pissa_niter_4\"", "pissa_niter_4"},
        {BASE ",\"init_lora_weights\":\"olora\"", "olora"},
        {BASE ",\"layers_to_transform\":\"1\"", "layers_to_transform"},
        {BASE ",\"layers_to_transform\":[1],\"layers_pattern\":[7]", "layers_pattern"},
        {BASE ",\"target_modules\":7", "target_modules"},
        {BASE ",\"target_modules\":[7]", "target_modules"},
        {BASE ",\"target_modules\":\"(\"", "no regular expression"},
        {BASE ",\"rank_pattern\":[]", "rank_pattern"},
        {BASE ",\"rank_pattern\":{\"a\":0}", "rank_pattern"},
        {BASE ",\"rank_pattern\":{\"a\":100000}", "rank_pattern"},
        {BASE ",\"rank_pattern\":{\"(\":4}", "no regular expression"},
        {BASE ",\"alpha_pattern\":{\"a\":\"4\"}", "alpha_pattern"},
        {"\"peft_type\":\"LORA\",\"r\":0", "\"r\" is 0"},
        {"\"peft_type\":\"LORA\",\"r\":100000", "\"r\" is 100000"},
        {"\"peft_type\":\"LORA\",\"r\":2.5", "\"r\" is 2.5"},
        {"\"peft_type\":\"LORA\",\"lora_alpha\":\"16\"", "lora_alpha"},
        {"\"peft_type\":\"LORA\",\"lora_alpha\":1e300", "lora_alpha"},
        {BASE ",\"use_rslora\":1", "use_rslora"},
        {BASE ",\"r\":4", "duplicate"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        refuse(cases[i].fields, cases[i].words);
    refuse_text("", 0, "malformed");
    refuse_text("[1]", 3, "not a JSON object");
    char deep[300] = "{\"a\":";
    memset(deep + 5, '[', sizeof deep - 5);
    refuse_text(deep, sizeof deep, "nested deeper");
    struct peft *p = parse(BASE TARGETS ",\"rank_pattern\":{\"q_proj\":2.5}");
    struct peft_module m;
    struct error err = {0};
    assert_true(peft_find_module(p, q0, &m, &err) < 0);
    peft_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scale),    cmocka_unit_test(test_targets),
        cmocka_unit_test(test_layers),   cmocka_unit_test(test_saved),
        cmocka_unit_test(test_patterns), cmocka_unit_test(test_harmless),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
