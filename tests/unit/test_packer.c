/* The packer over whole directories: what comes out is what went in, and bad files are refused with
 * a sentence that names what is wrong. The good files are those of the parity vectors. */
#include "cli/synth.h"
#include "cli/synth_shape.h"
#include "model/tokenizer.h"
#include "unit/packing_checks.h"
#include "weights/convert.h"
#include "weights/pack_text.h"
#include "weights/peft.h"

#include <errno.h>
#include <ftw.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define ROOT "tests/vectors/parity/"
#define MODEL ROOT "llama-mha"
#define ADAPTER MODEL "/adapters/r8-all"

/* --- what comes out --- */

static void test_images(void **state)
{
    (void)state;
    struct packed p;
    struct packed again;
    struct backbone b;
    struct error err = {0};
    struct digest digest;
    pack(&p, MODEL, IMAGE_F32);
    pack(&again, MODEL, IMAGE_F32);
    digest_of(p.base, p.result.bytes, &digest);
    assert_true(digest_equal(&digest, &p.result.digest));
    assert_true(digest_equal(&again.result.digest, &p.result.digest));
    assert_non_null(strstr(p.result.meta.data, "\"family\":\"llama\""));
    assert_int_equal(backbone_open(&b, p.base, p.result.bytes, &err), 0);
    assert_int_equal(b.embed.dtype, IMAGE_F32);
    assert_non_null(strstr(b.chat_template, "<|im_start|>"));
    assert_string_equal(b.bos_token, "<|endoftext|>");
    assert_string_equal(b.eos_token, "<|im_end|>");

    struct packed half;
    struct backbone h;
    pack(&half, MODEL, IMAGE_BF16);
    assert_int_equal(backbone_open(&h, half.base, half.result.bytes, &err), 0);
    assert_int_equal(h.embed.dtype, IMAGE_BF16);
    assert_false(digest_equal(&half.result.digest, &p.result.digest));
    const struct weight *down = &h.layers[1].linears[LINEAR_DOWN].weight;
    const float *wide = b.layers[1].linears[LINEAR_DOWN].weight.data;
    const uint16_t *narrow = down->data;
    assert_int_equal(down->dtype, IMAGE_PANELS);
    for (uint32_t i = 0; i < down->rows * down->cols; i++) {
        uint32_t bits =
            (uint32_t)narrow[image_panel_index(down->cols, i / down->cols, i % down->cols)] << 16;
        float value;
        memcpy(&value, &bits, 4);
        if (!(fabsf(value - wide[i]) <= fabsf(wide[i]) / 256))
            fail_msg("value %u: %g became %g", i, (double)wide[i], (double)value);
    }
    assert_memory_equal(b.layers[1].norms[NORM_MLP], h.layers[1].norms[NORM_MLP],
                        48 * sizeof(float));
    backbone_close(&b);
    backbone_close(&h);
    packing_release(&p);
    packing_release(&again);
    packing_release(&half);
}

static void test_templates(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        const char *words; /* NULL: there is none */
    } models[] = {
        {"llama3-gqa", "assistant"}, {"llama-bias", "assistant"}, {"mistral-headdim", NULL}};
    struct error err = {0};
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        char path[256];
        struct packed p;
        struct backbone b;
        snprintf(path, sizeof path, ROOT "%s", models[i].name);
        pack(&p, path, IMAGE_BF16);
        assert_int_equal(backbone_open(&b, p.base, p.result.bytes, &err), 0);
        if (models[i].words == NULL)
            assert_string_equal(b.chat_template, "");
        else
            assert_non_null(strstr(b.chat_template, models[i].words));
        backbone_close(&b);
        packing_release(&p);
    }
    struct packing_dir d;
    open_dir(&d, MODEL);
    packing_put(&d, "chat_template.jinja", "{% for %}", 9);
    refuse(&d, IMAGE_BF16, NULL, "chat_template.jinja");
    open_dir(&d, MODEL);
    packing_put(&d, "chat_template.jinja", "a\0b", 3);
    refuse(&d, IMAGE_BF16, NULL, "NUL");
    open_dir(&d, MODEL);
    packing_put(&d, "tokenizer_config.json", "{\"a\":1,\"a\":2}", 13);
    refuse(&d, IMAGE_BF16, NULL, "tokenizer_config.json: malformed");
}

static void test_conversions(void **state)
{
    (void)state;
    static const struct {
        uint32_t from; /* f32 bits */
        uint16_t to;
    } rounding[] = {{0x3f800000, 0x3f80}, {0x3f807fff, 0x3f80}, {0x3f808000, 0x3f80},
                    {0x3f808001, 0x3f81}, {0x3f818000, 0x3f82}, {0xbf818000, 0xbf82},
                    {0x00000001, 0x0000}, {0x80000000, 0x8000}, {0x7f7f7fff, 0x7f7f}};
    for (size_t i = 0; i < sizeof rounding / sizeof rounding[0]; i++) {
        uint16_t got = 0;
        assert_true(convert_block(&got, IMAGE_BF16, &rounding[i].from, SAFETENSORS_F32, 1) ==
                    CONVERT_ALL);
        assert_int_equal(got, rounding[i].to);
    }
    /* Every f16 number, against its definition. */
    for (uint32_t h = 0; h < 65536; h++) {
        uint16_t from = (uint16_t)h;
        float got = 0;
        uint32_t exponent = h >> 10 & 31;
        size_t r = convert_block(&got, IMAGE_F32, &from, SAFETENSORS_F16, 1);
        assert_int_equal(r == CONVERT_ALL, exponent != 31);
        double want =
            exponent == 0 ? ldexp(h & 1023, -24) : ldexp(1024 + (h & 1023), (int)exponent - 25);
        if (exponent != 31 && (double)got != (h & 0x8000 ? -want : want))
            fail_msg("f16 %04x became %g", h, (double)got);
    }
    uint32_t many[1000] = {0};
    uint16_t narrow[1000];
    many[777] = 0x7f7fffff; /* finite, but rounds to infinity */
    assert_int_equal(convert_block(narrow, IMAGE_BF16, many, SAFETENSORS_F32, 1000), 777);
    many[776] = 0x7fffffff; /* a NaN whose rounding carries into the sign */
    assert_int_equal(convert_block(narrow, IMAGE_BF16, many, SAFETENSORS_F32, 1000), 776);
    narrow[999] = 0xff80;
    memset(narrow, 0, 999 * 2);
    assert_int_equal(convert_block(many, IMAGE_F32, narrow, SAFETENSORS_BF16, 1000), 999);
}

/* --- bad backbones --- */

static void test_missing(void **state)
{
    (void)state;
    static const struct {
        const char *dir;
        const char *file;
        const char *words;
    } cases[] = {
        {MODEL, "config.json", "no config.json"},
        {MODEL, "tokenizer.json", "no tokenizer.json"},
        {MODEL, "model.safetensors", "no model.safetensors and no model.safetensors.index.json"},
        {ROOT "llama3-gqa", "model.safetensors.index.json", "no model.safetensors and no"},
        {ROOT "llama3-gqa", "model-00002-of-00003.safetensors",
         "the shard model-00002-of-00003.safetensors that it lists is missing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct packing_dir d;
        open_dir(&d, cases[i].dir);
        packing_remove(&d, cases[i].file);
        refuse(&d, IMAGE_BF16, NULL, cases[i].words);
    }
    struct packing_dir d;
    open_dir(&d, MODEL);
    packing_remove(&d, "model.safetensors");
    packing_put(&d, "pytorch_model.bin", "x", 1);
    refuse(&d, IMAGE_BF16, NULL, "pytorch_model.bin is a Python program");
    open_dir(&d, ROOT "llama3-gqa");
    edit(&d, "model.safetensors.index.json", "model-00001-of", "model-00002-of");
    refuse(&d, IMAGE_BF16, NULL, "is not in model-00002-of");
    open_dir(&d, ROOT "llama3-gqa");
    packing_put(&d, "model.safetensors.index.json", "{\"weight_map\":{}}", 17);
    refuse(&d, IMAGE_BF16, NULL, "weight_map");
}

static void test_damaged(void **state)
{
    (void)state;
    struct packing_dir d;
    open_dir(&d, MODEL);
    size_t bytes = 0;
    char *file = packing_get(&d, "model.safetensors", &bytes);
    packing_close_dir(&d);
    const size_t cuts[] = {0, 7, 8, 100, bytes / 2, bytes - 1};
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        open_dir(&d, MODEL);
        packing_put(&d, "model.safetensors", file, cuts[i]);
        refuse(&d, IMAGE_BF16, NULL, "model.safetensors: ");
    }
    open_dir(&d, MODEL);
    packing_put(&d, "model.safetensors", file, bytes + 1); /* its NUL */
    refuse(&d, IMAGE_BF16, NULL, "belong to none");
    free(file);

    static const struct {
        const char *from; /* of the same length, so that only this is wrong */
        const char *to;
        const char *words;
    } edits[] = {
        {"model.norm.weight", "model.norm.weighT", "model.norm.weight, which config.json"},
        {"\"shape\":[263,48]", "\"shape\":[48,263]", "has shape [48, 263], config.json asks"},
        {"\"F32\"", "\"I32\"", "dtype I32"},
        {"\"F32\"", "\"F64\"", "do not fill"},
    };
    for (size_t i = 0; i < sizeof edits / sizeof edits[0]; i++) {
        open_dir(&d, MODEL);
        edit(&d, "model.safetensors", edits[i].from, edits[i].to);
        refuse(&d, IMAGE_BF16, NULL, edits[i].words);
    }
    static const struct {
        const char *from;
        const char *to;
        const char *words;
    } configs[] = {
        {"LlamaForCausalLM", "PhiForCausalLM", "PhiForCausalLM"},
        {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1", "that this architecture"},
        {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", "model.layers.2."},
        {"\"attention_bias\": false", "\"attention_bias\": true", "q_proj.bias"},
        {"\"intermediate_size\": 64", "\"intermediate_size\": 32", "config.json asks for"},
        {"\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true",
         "lm_head.weight differs"},
    };
    for (size_t i = 0; i < sizeof configs / sizeof configs[0]; i++) {
        open_dir(&d, MODEL);
        edit(&d, "config.json", configs[i].from, configs[i].to);
        refuse(&d, IMAGE_BF16, NULL, configs[i].words);
    }
}

/* Some writers store a tied head a second time: fine while it is the same matrix. */
static void test_tied_twice(void **state)
{
    (void)state;
    struct packing_dir d;
    struct packed p;
    struct backbone b;
    struct error err = {0};
    size_t bytes = 0;
    open_dir(&d, MODEL);
    char *file = packing_get(&d, "model.safetensors", &bytes);
    const char *embed = file + data_of(file, "model.embed_tokens.weight");
    patch_value(&d, "model.safetensors", "lm_head.weight", 0, embed, 263 * 48 * 4);
    edit(&d, "config.json", "\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
    if (packing_pack_files(&p, &d, IMAGE_BF16, NULL, NULL, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(backbone_open(&b, p.base, p.result.bytes, &err), 0);
    assert_ptr_equal(b.head.data, b.embed.data);
    backbone_close(&b);
    packing_release(&p);
    free(file);
    packing_close_dir(&d);
}

static void test_numbers(void **state)
{
    (void)state;
    static const uint32_t values[] = {0x7fc00000, 0x7f800000, 0xff800000, 0x7f800001};
    struct packing_dir d;
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        open_dir(&d, MODEL);
        patch_value(&d, "model.safetensors", "model.layers.1.mlp.up_proj.weight", 100 * 4,
                    &values[i], 4);
        refuse(&d, i % 2 == 0 ? IMAGE_BF16 : IMAGE_F32, NULL,
               "model.layers.1.mlp.up_proj.weight holds a value that is not finite at index 100");
    }
    const uint32_t largest = 0x7f7fffff;
    open_dir(&d, MODEL);
    patch_value(&d, "model.safetensors", "lm_head.weight", 0, &largest, 4);
    refuse(&d, IMAGE_BF16, NULL, "bf16 cannot hold at index 0: pack it with f32");
    /* The same, as f32, is fine; and norms are f32 always. */
    struct packed p;
    struct error err = {0};
    open_dir(&d, MODEL);
    patch_value(&d, "model.safetensors", "lm_head.weight", 0, &largest, 4);
    assert_int_equal(packing_pack_files(&p, &d, IMAGE_F32, NULL, NULL, &err), 0);
    packing_release(&p);
    packing_close_dir(&d);
}

static void test_tokenizers(void **state)
{
    (void)state;
    struct packing_dir d;
    struct buf text;
    struct synth_shape shape = *synth_shape_find("tiny");
    buf_init(&text, 1u << 20);
    shape.vocab = 264; /* one more than the embedding has rows */
    assert_int_equal(synth_tokenizer_json(&shape, &text), 0);
    open_dir(&d, MODEL);
    packing_put(&d, "tokenizer.json", text.data, text.len);
    refuse(&d, IMAGE_BF16, NULL, "the tokenizer has 264 tokens, but the embedding has only 263");
    buf_free(&text);
    open_dir(&d, MODEL);
    packing_put(&d, "tokenizer.json", "{}", 2);
    refuse(&d, IMAGE_BF16, NULL, "tokenizer.json: ");
}

static void put_file(struct packing_dir *d, const char *name, const char *path)
{
    struct stat st;
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0 && fstat(fd, &st) == 0);
    char *data = malloc((size_t)st.st_size);
    assert_int_equal(read(fd, data, (size_t)st.st_size), st.st_size);
    packing_put(d, name, data, (size_t)st.st_size);
    free(data);
    close(fd);
}

/* A checkpoint's text files alone: packs its tokenizer for an embedding of `rows`. */
static void tokenize(struct packing_dir *d, uint32_t rows, uint32_t want_count, const char *refusal)
{
    struct buf blob;
    struct tokenizer *t;
    struct error err = {0};
    buf_init(&blob, TOKENIZER_BLOB_BYTES_MAX);
    int r = pack_tokenizer(d->files, d->count, rows, &blob, &err);
    if ((r < 0) != (refusal != NULL) || (refusal != NULL && strstr(err.text, refusal) == NULL))
        fail_msg("%d \"%s\", expected \"%s\"", r, err.text, refusal);
    if (r == 0) {
        assert_int_equal(tokenizer_open(&t, blob.data, blob.len, &err), 0);
        assert_int_equal(tokenizer_vocab_count(t), want_count);
        tokenizer_close(t);
    }
    buf_free(&blob);
}

#define VECTORS "tests/vectors/tokenizer/"
#define PUT(name, text) packing_put(&d, name, text, strlen(text))

static void test_tokenizer_model(void **state)
{
    (void)state;
    struct packing_dir d = {0};
    struct buf chat;
    struct error err = {0};
    put_file(&d, "tokenizer.model", VECTORS "llama.model");
    tokenize(&d, 900, 0, "\"add_bos_token\" is missing");
    PUT("tokenizer_config.json",
        "{\"add_bos_token\":true,\"pad_token\":\"<pad>\",\"eos_token\":null}");
    tokenize(&d, 900, 901, NULL);
    tokenize(&d, 899, 0, "the tokenizer has 900 tokens, but the embedding has only 899 rows");
    buf_init(&chat, 1u << 20);
    assert_int_equal(pack_chat(d.files, d.count, &chat, &err), 0);
    assert_int_equal(chat.len, 1 + 4 + 1); /* no template, <s> by default, no end */
    assert_memory_equal(chat.data, "\0<s>\0", chat.len);
    buf_free(&chat);
    PUT("special_tokens_map.json", "{\"cls_token\":\"<cls>\"}");
    tokenize(&d, 900, 902, NULL);
    PUT("special_tokens_map.json", "[");
    tokenize(&d, 900, 0, "special_tokens_map.json");
    packing_remove(&d, "special_tokens_map.json");
    PUT("added_tokens.json", "{\"<x>\":900}");
    tokenize(&d, 900, 0, "added_tokens.json");
    PUT("tokenizer_config.json", "{\"add_bos_token\":true,\"added_tokens_decoder\":{\"900\":"
                                 "{\"content\":\"<x>\"}}}");
    tokenize(&d, 900, 901, NULL);
    PUT("tokenizer.model", "IQ== 0\n");
    tokenize(&d, 900, 0, "tokenizer.model: a tiktoken vocabulary is not supported");
    /* The other file decides where both are; one added token stands behind its vocabulary. */
    put_file(&d, "tokenizer.json", VECTORS "gemma3.json");
    tokenize(&d, 1782, 0, "the tokenizer has 1783 tokens");
    tokenize(&d, 1783, 1784, NULL);
    packing_close_dir(&d);
}

static void test_full_disk(void **state)
{
    (void)state;
    struct packing_dir d;
    struct pack_result result;
    struct error err = {0};
    const struct pack_options options = {.dtype = IMAGE_BF16};
    int fd = open("/dev/full", O_RDWR | O_CLOEXEC);
    open_dir(&d, MODEL);
    assert_int_equal(pack_backbone(d.files, d.count, &options, fd, &result, &err), -ENOSPC);
    assert_non_null(strstr(err.text, "cannot write the image"));
    close(fd);
    packing_close_dir(&d);
}

/* --- adapters --- */

static void test_adapter_files(void **state)
{
    (void)state;
    struct packed base;
    struct packing_dir d;
    static const char model[] = "adapter_model.safetensors";
    static const char config[] = "adapter_config.json";
    pack(&base, MODEL, IMAGE_BF16);
    open_dir(&d, ADAPTER);
    packing_remove(&d, config);
    refuse(&d, IMAGE_BF16, &base, "no adapter_config.json");
    open_dir(&d, ADAPTER);
    packing_remove(&d, model);
    refuse(&d, IMAGE_BF16, &base, "no adapter_model.safetensors");
    open_dir(&d, ADAPTER);
    packing_remove(&d, model);
    packing_put(&d, "adapter_model.bin", "x", 1);
    refuse(&d, IMAGE_BF16, &base, "adapter_model.bin is a Python program");

    static const struct {
        const char *file;
        const char *from;
        const char *to;
        const char *words;
    } edits[] = {
        {model, "layers.1.self_attn.q_proj.lora_B", "layers.1.self_attn.x_proj.lora_B",
         "1 tensor that change"},
        {model, "layers.1.self_attn.q_proj.lora_B", "layers.7.self_attn.q_proj.lora_B",
         "layer 7, but the backbone has 2 layers"},
        {model, "layers.1.self_attn.q_proj.lora_B", "layers.1.self_attn.q_proj.lora_C",
         "q_proj.lora_C.weight"},
        {model, "\"shape\":[8,48]", "\"shape\":[48,8]", "has shape [48, 8], this backbone"},
        {config, "\"r\": 8", "\"r\": 4", "this backbone and the adapter's rank ask for [4, 48]"},
        {config, "\"use_dora\": false", "\"use_dora\": true", "use_dora"},
        {config, "\"modules_to_save\": null", "\"modules_to_save\": [\"lm_head\"]",
         "lm_head is in \"modules_to_save\", but not in the adapter"},
        {config, "\"o_proj\"", "\"x_proj\"", "leaves it out"},
    };
    for (size_t i = 0; i < sizeof edits / sizeof edits[0]; i++) {
        open_dir(&d, ADAPTER);
        edit(&d, edits[i].file, edits[i].from, edits[i].to);
        refuse(&d, IMAGE_BF16, &base, edits[i].words);
    }
    const uint16_t infinite = 0x7f80;
    open_dir(&d, ADAPTER);
    patch_value(&d, model, "layers.1.mlp.down_proj.lora_B.weight", 6, &infinite, 2);
    refuse(&d, IMAGE_F32, &base,
           "down_proj.lora_B.weight holds a value that is not finite at index 3");
    packing_release(&base);
}

static void test_other_backbone(void **state)
{
    (void)state;
    struct packed base;
    struct packing_dir d;
    pack(&base, ROOT "llama3-gqa", IMAGE_BF16);
    open_dir(&d, ADAPTER);
    refuse(&d, IMAGE_BF16, &base, "this backbone and the adapter's rank ask for");
    packing_release(&base);
    pack(&base, ROOT "mistral-headdim", IMAGE_BF16);
    open_dir(&d, ADAPTER);
    refuse(&d, IMAGE_BF16, &base, "made for another model");
    packing_release(&base);
}

/* Half a pair: a safetensors file with lora_A only. */
static void test_half_pair(void **state)
{
    (void)state;
    static const char header[] =
        "{\"base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight\":"
        "{\"dtype\":\"F32\",\"shape\":[8,48],\"data_offsets\":[0,1536]}}";
    uint8_t file[8 + sizeof header - 1 + 1536] = {0};
    uint64_t length = sizeof header - 1;
    struct packed base;
    struct packing_dir d;
    memcpy(file, &length, 8);
    memcpy(file + 8, header, length);
    pack(&base, MODEL, IMAGE_BF16);
    open_dir(&d, ADAPTER);
    packing_put(&d, "adapter_model.safetensors", file, sizeof file);
    refuse(&d, IMAGE_BF16, &base, "q_proj has lora_A but no lora_B");
    open_dir(&d, ADAPTER);
    packing_put(&d, "adapter_model.safetensors", "\2\0\0\0\0\0\0\0{}", 10);
    refuse(&d, IMAGE_BF16, &base, "holds no tensors that change anything");
    packing_release(&base);
}

/* --- synth --- */

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st;
    (void)kind;
    (void)ftw;
    return remove(path);
}

static void remove_tree(const char *path)
{
    assert_int_equal(nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

static void test_synth(void **state)
{
    (void)state;
    char top[] = "/tmp/sllora-synth-XXXXXX";
    char dir[128];
    char path[256];
    struct error err = {0};
    assert_non_null(mkdtemp(top));
    snprintf(dir, sizeof dir, "%s/tiny", top);
    struct synth_options o = {
        .dir = dir, .shape = "tiny", .adapter_count = 2, .rank = 4, .seed = 7};
    if (synth_write(&o, NULL, NULL, &err) < 0)
        fail_msg("%s", err.text);
    struct packed base;
    struct packed adapter;
    struct backbone b;
    struct adapter a;
    pack(&base, dir, IMAGE_BF16);
    assert_int_equal(backbone_open(&b, base.base, base.result.bytes, &err), 0);
    snprintf(path, sizeof path, "%s/adapters/adapter-1", dir);
    if (packing_pack(&adapter, path, IMAGE_BF16, &b, &base.result.digest, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(
        adapter_open(&a, adapter.base, adapter.result.bytes, &b, &base.result.digest, &err), 0);
    assert_int_equal(a.config->rank_max, 4);
    assert_true(adapter_linear(&a, 0, LINEAR_UP)->scale == 2);
    /* About normal: mean 0, deviation 0.02. */
    double sum = 0;
    double squares = 0;
    const uint16_t *w = b.embed.data;
    uint32_t count = b.embed.rows * b.embed.cols;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t bits = (uint32_t)w[i] << 16;
        float value;
        memcpy(&value, &bits, 4);
        sum += (double)value;
        squares += (double)value * (double)value;
    }
    assert_true(fabs(sum / count) < 1e-4);
    assert_true(fabs(sqrt(squares / count) - 0.02) < 2e-4);
    assert_true(b.layers[0].norms[NORM_ATTN][63] == 1.0f);

    assert_int_equal(synth_write(&o, NULL, NULL, &err), -EEXIST);
    o.shape = "gpt-5";
    assert_int_equal(synth_write(&o, NULL, NULL, &err), -EINVAL);
    assert_non_null(strstr(err.text, "qwen2.5-0.5b"));
    /* The same seed, the same bytes. */
    struct packed again;
    remove_tree(dir);
    o.shape = "tiny";
    o.adapter_count = 0;
    assert_int_equal(synth_write(&o, NULL, NULL, &err), 0);
    pack(&again, dir, IMAGE_BF16);
    assert_true(digest_equal(&again.result.digest, &base.result.digest));
    remove_tree(top);
    adapter_close(&a);
    backbone_close(&b);
    packing_release(&base);
    packing_release(&adapter);
    packing_release(&again);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_images),          cmocka_unit_test(test_templates),
        cmocka_unit_test(test_conversions),     cmocka_unit_test(test_missing),
        cmocka_unit_test(test_damaged),         cmocka_unit_test(test_tied_twice),
        cmocka_unit_test(test_numbers),         cmocka_unit_test(test_tokenizers),
        cmocka_unit_test(test_tokenizer_model), cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_adapter_files),   cmocka_unit_test(test_other_backbone),
        cmocka_unit_test(test_half_pair),       cmocka_unit_test(test_synth),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
