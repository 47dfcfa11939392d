/*
 * Adapters with all that PEFT saves: each contradiction between adapter_config.json and the tensors
 * is refused with the name of what is wrong. What they compute is in test_parity.
 */
#include "unit/packing_checks.h"

#define MODEL "tests/vectors/parity/qwen25"
#define FILE_CONFIG "adapter_config.json"
#define FILE_MODEL "adapter_model.safetensors"

/* In a safetensors header a text is replaced by one of the same length: spaces fill it up. */
static void test_contradictions(void **state)
{
    (void)state;
    static const struct {
        const char *adapter;
        const char *file;
        const char *from;
        const char *to;
        const char *words;
    } edits[] = {
        {"dora", FILE_CONFIG, "\"use_dora\": true", "\"use_dora\": false",
         "proj has a lora_magnitude_vector, but \"use_dora\" is false"},
        {"plain", FILE_CONFIG, "\"use_dora\": false", "\"use_dora\": true",
         "has no lora_magnitude_vector, but \"use_dora\" is true"},
        {"dora", FILE_MODEL, "\"shape\":[4,48]", "\"shape\":[48,4]",
         "do not have the shapes [4, 48]"},
        {"dora", FILE_MODEL, "mlp.down_proj.lora_magnitude_vector\":{",
         "mlp.down_proj.lora_magnitude_vectar\":{", "lora_magnitude_vectar"},
        {"bias-all", FILE_CONFIG, "\"bias\": \"all\"", "\"bias\": \"none\"",
         "has a bias in the adapter, but \"bias\" does not ask for it"},
        {"bias-all", FILE_CONFIG, "\"bias\": \"all\"", "\"bias\": \"lora_only\"",
         "k_proj has a bias in the adapter, but \"bias\" does not ask for it"},
        {"bias-all", FILE_MODEL, "0.self_attn.q_proj.base_layer.bias\":{",
         "0.self_attn.q_proj.bias\":           {",
         "has LoRA and a bias that is not named base_layer.bias"},
        {"bias-all", FILE_MODEL, "0.self_attn.q_proj.base_layer.bias\":{",
         "0.self_attn.o_proj.base_layer.bias\":{", "o_proj has a bias in the adapter, but none"},
        {"save-norms", FILE_CONFIG, "\"modules_to_save\": [", "\"exclude_modules\": [",
         "duplicate"},
        {"save-norms", FILE_MODEL, "0.input_layernorm.weight\":{", "0.input_layernorm.height\":{",
         "input_layernorm.height"},
        {"save-head", FILE_MODEL, "lm_head.weight\":{", "lm_heed.weight\":{", "lm_heed.weight"},
        {"save-head", FILE_CONFIG, "\"lm_head\"", "\"ln_head\"",
         "lm_head is in the adapter whole, but not in \"modules_to_save\""},
        {"save-head", FILE_CONFIG, "\"lm_head\"", "\"lm_head\", \"model.norm\"",
         "model.norm is in \"modules_to_save\", but not in the adapter"},
        {"save-head", FILE_CONFIG, "\"lm_head\"", "\"lm_head\", \"q_proj\"", "q_proj"},
        {"lora-embed", FILE_CONFIG, "\"embed_tokens\"", "\"embed_tokans\"",
         "\"target_modules\" leaves it out"},
        {"lora-embed", FILE_MODEL, "embed_tokens.lora_embedding_A\":{",
         "embed_tokens.lora_embedding_C\":{", "lora_embedding_C"},
        {"lora-embed", FILE_MODEL, "\"shape\":[112,32]", "\"shape\":[32,112]",
         "is not of the backbone's size"},
        {"exclude", FILE_CONFIG, "\"exclude_modules\": [", "\"exclude_modules\": [\"q_proj\", ",
         "\"exclude_modules\" leaves it out"},
        {"plain", FILE_CONFIG, "\"layers_to_transform\": null", "\"layers_to_transform\": [77]",
         "\"layers_to_transform\" leaves it out"},
        {"plain", FILE_CONFIG, "\"lora_bias\": false", "\"lora_bias\": true",
         "\"lora_bias\" is true"},
        {"plain", FILE_CONFIG, "\"alora_invocation_tokens\": null",
         "\"alora_invocation_tokens\": [1]", "alora_invocation_tokens"},
        {"plain", FILE_CONFIG, "\"peft_type\": \"LORA\"", "\"peft_type\": \"LOHA\"", "\"LOHA\""},
    };
    struct packed base;
    pack(&base, MODEL, IMAGE_F32);
    for (size_t i = 0; i < sizeof edits / sizeof edits[0]; i++) {
        struct packing_dir d;
        char path[128];
        snprintf(path, sizeof path, MODEL "/adapters/%s", edits[i].adapter);
        open_dir(&d, path);
        edit(&d, edits[i].file, edits[i].from, edits[i].to);
        refuse(&d, IMAGE_F32, &base, edits[i].words);
    }
    packing_release(&base);
}

/* An embedding that came along with its LoRA and is the backbone's is not stored again; another one
 * takes its place, in a tied model as the head too. */
static void check_base_layer(const struct packed *base, enum image_dtype dtype, bool differs)
{
    struct packed p;
    struct packing_dir d;
    struct backbone b;
    struct adapter a;
    struct error err = {0};
    const uint16_t other = 0x4040; /* 3 */
    assert_int_equal(backbone_open(&b, base->base, base->result.bytes, &err), 0);
    assert_int_equal(b.config->tied_embeddings, 1);
    open_dir(&d, MODEL "/adapters/lora-embed");
    if (differs)
        patch_value(&d, FILE_MODEL, "embed_tokens.base_layer.weight", 2, &other, 2);
    assert_int_equal(packing_pack_files(&p, &d, dtype, &b, &base->result.digest, &err), 0);
    assert_int_equal(adapter_open(&a, p.base, p.result.bytes, &b, &base->result.digest, &err), 0);
    assert_int_equal(a.is_pure_lora, !differs);
    assert_int_equal(a.view.embed.data != b.embed.data, differs);
    assert_int_equal(a.view.head.data != b.head.data, differs);
    if (dtype == IMAGE_F32)
        assert_true(((const float *)a.view.head.data)[1] ==
                    (differs ? 3 : ((const float *)b.head.data)[1]));
    adapter_close(&a);
    packing_release(&p);
    packing_close_dir(&d);
    backbone_close(&b);
}

static void test_base_layer(void **state)
{
    (void)state;
    static const enum image_dtype dtypes[] = {IMAGE_F32, IMAGE_BF16, IMAGE_INT8, IMAGE_INT4};
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        struct packed base;
        pack(&base, MODEL, dtypes[i]);
        for (int differs = 0; differs < 2; differs++)
            check_base_layer(&base, dtypes[i] == IMAGE_F32 ? IMAGE_F32 : IMAGE_BF16, differs);
        packing_release(&base);
    }
}

/* The same adapter has the same name however its configuration is written down. */
static void test_identity(void **state)
{
    (void)state;
    static const struct {
        const char *from;
        const char *to;
        bool same;
    } edits[] = {
        {"\"task_type\"", "  \"task_type\"", true},
        {"\"base_model_name_or_path\": \"", "\"base_model_name_or_path\": \"other/", true},
        {"\"inference_mode\": true", "\"inference_mode\": false", true},
        {"\"rank_pattern\": {}", "\"rank_pattern\": {\"nothing\": 3}", true},
        {"\"lora_alpha\": ", "\"lora_alpha\": 1", false},
        {"\"use_rslora\": false", "\"use_rslora\": true", false},
    };
    struct packed base;
    struct packed p;
    struct backbone b;
    struct error err = {0};
    pack(&base, MODEL, IMAGE_F32);
    assert_int_equal(backbone_open(&b, base.base, base.result.bytes, &err), 0);
    assert_int_equal(
        packing_pack(&p, MODEL "/adapters/plain", IMAGE_F32, &b, &base.result.digest, &err), 0);
    struct digest first = p.result.digest;
    packing_release(&p);
    for (size_t i = 0; i < sizeof edits / sizeof edits[0]; i++) {
        struct packing_dir d;
        open_dir(&d, MODEL "/adapters/plain");
        edit(&d, FILE_CONFIG, edits[i].from, edits[i].to);
        assert_int_equal(packing_pack_files(&p, &d, IMAGE_F32, &b, &base.result.digest, &err), 0);
        assert_int_equal(digest_equal(&first, &p.result.digest), edits[i].same);
        packing_release(&p);
        packing_close_dir(&d);
    }
    backbone_close(&b);
    packing_release(&base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contradictions),
        cmocka_unit_test(test_base_layer),
        cmocka_unit_test(test_identity),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
