/*
 * What a tokenizer.model may ask for and is refused, by name; the ids and text of those that are
 * taken are compared with LlamaTokenizer in test_tokenizer.c. A field that is appended to a message
 * of protocol buffers overrides the one before, so one good model makes all the bad ones.
 */
#include "model/sentencepiece.h"

#include "model/protobuf.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#define MODEL "tests/vectors/tokenizer/control.model"
#define GOOD "\"add_bos_token\":true"

static void read_model(struct buf *ret)
{
    char block[4096];
    size_t n;
    FILE *f = fopen(MODEL, "rb");
    if (f == NULL)
        fail_msg("cannot read %s", MODEL);
    buf_init(ret, 1u << 20);
    while ((n = fread(block, 1, sizeof block, f)) > 0)
        assert_int_equal(buf_append(ret, block, n), 0);
    fclose(f);
}

/* `config` and `map` are the insides of JSON objects; NULL: no such file. */
static void convert(const struct buf *model, const char *config, const char *map, const char *want)
{
    struct buf text;
    struct error err = {0};
    json_t *files[2] = {NULL, NULL};
    buf_init(&text, 8u << 20);
    const char *insides[2] = {config, map};
    for (size_t i = 0; i < 2; i++) {
        if (insides[i] == NULL)
            continue;
        buf_clear(&text);
        assert_int_equal(buf_printf(&text, "{%s}", insides[i]), 0);
        files[i] = json_loads(text.data, 0, NULL);
        assert_non_null(files[i]);
    }
    buf_clear(&text);
    int r = sentencepiece_to_json(model->data, model->len, files[0], files[1], &text, &err);
    if ((r < 0) != (want != NULL) || (want != NULL && strstr(err.text, want) == NULL))
        fail_msg("%s gives %d \"%s\", want \"%s\"", config, r, err.text, want);
    assert_true((text.len > 0) == (r == 0));
    json_decref(files[0]);
    json_decref(files[1]);
    buf_free(&text);
}

static void refuse_appended(const char *bytes, size_t len, const char *want)
{
    struct buf model;
    read_model(&model);
    assert_int_equal(buf_append(&model, bytes, len), 0);
    convert(&model, GOOD, NULL, want);
    buf_free(&model);
}

static void test_specs(void **state)
{
    (void)state;
#define APPENDED(bytes, want) refuse_appended(bytes, sizeof bytes - 1, want)
    APPENDED("", NULL);
    APPENDED("\x12\x02\x18\x02", NULL); /* trainer_spec: model_type BPE, as before */
    APPENDED("\x12\x02\x18\x01", "model_type UNIGRAM");
    APPENDED("\x12\x02\x18\x04", "model_type other than BPE");
    APPENDED("\x12\x03\x98\x02\x00", "byte_fallback");
    APPENDED("\x12\x03\xc0\x01\x01", "treat_whitespace_as_suffix");
    APPENDED("\x1a\x03\x12\x01x", "precompiled_charsmap"); /* normalizer_spec */
    APPENDED("\x1a\x02\x18\x00", "add_dummy_prefix of tokenizer.model is false");
    APPENDED("\x1a\x02\x20\x01", "remove_extra_whitespaces");
    APPENDED("\x1a\x02\x28\x00", "escape_whitespaces");
    APPENDED("\x2a\x03\x12\x01x", "precompiled_charsmap"); /* denormalizer_spec */
}

static void test_pieces(void **state)
{
    (void)state;
    /* text "zqz", score -1e6, type */
    APPENDED("\x0a\x0c\x0a\x03zqz\x15\x00\x24\x74\xc9\x18\x01", NULL);
    APPENDED("\x0a\x0c\x0a\x03zqz\x15\x00\x24\x74\xc9\x18\x05", "is of type 5");
    APPENDED("\x0a\x0c\x0a\x03zqz\x15\x00\x24\x74\xc9\x18\x07", "is of type 7");
    APPENDED("\x0a\x05\x0a\x03zqz", "not below that of the piece before"); /* score 0 */
    APPENDED("\x0a\x0a\x0a\x03zqz\x15\x00\x00\xc0\x7f", "not below");      /* not a number */
    APPENDED("\x0a\x05\x0a\x03<s>", "is there twice");
    APPENDED("\x0a\x02\x0a\x00", "is empty");
    APPENDED("\x0a\x03\x0a\x01\xff", "not UTF-8");
    APPENDED("\x0a\x04\x0a\x02z\0", "holds a NUL");
    APPENDED("\x0a\x02\x08\x00", "not a SentencePiece model"); /* text that is a number */
}

static void test_bytes(void **state)
{
    (void)state;
    struct buf model;
    static const char tiktoken[] = "IQ== 0\nIg== 1\n";
    APPENDED("\x0a", "not a SentencePiece model");
    APPENDED("\x0a\x05", "not a SentencePiece model");
    APPENDED("\x0b", "not a SentencePiece model"); /* a group */
    APPENDED("\x00\x00", "not a SentencePiece model");
    APPENDED("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "not a SentencePiece model");
    APPENDED("\x12\x01\x18", "not a SentencePiece model");
    buf_init(&model, 1u << 20);
    convert(&model, GOOD, NULL, "not a SentencePiece model");
    assert_int_equal(buf_append_str(&model, tiktoken), 0);
    convert(&model, GOOD, NULL, "a tiktoken vocabulary is not supported");
    buf_free(&model);
    /* Whatever is cut off, what is left is refused: the specs stand at the end. */
    read_model(&model);
    for (size_t len = 0; len < model.len; len += 1 + len / 7) {
        struct buf cut = {.data = malloc(len + 1), .len = len};
        assert_non_null(cut.data);
        memcpy(cut.data, model.data, len);
        convert(&cut, GOOD, NULL, "not ");
        free(cut.data);
    }
    buf_free(&model);
}

static void test_configs(void **state)
{
    (void)state;
    static const struct {
        const char *config;
        const char *map;
        const char *want;
    } cases[] = {
        {GOOD ",\"tokenizer_class\":\"LlamaTokenizerFast\",\"legacy\":null", NULL, NULL},
        {NULL, NULL, "\"add_bos_token\" is missing"},
        {"\"add_bos_token\":1", NULL, "tokenizer_config.json: \"add_bos_token\""},
        {GOOD ",\"legacy\":\"no\"", NULL, "\"legacy\""},
        {GOOD ",\"tokenizer_class\":\"GemmaTokenizer\"", NULL, "GemmaTokenizer"},
        {GOOD ",\"add_prefix_space\":false", NULL, "add_dummy_prefix of tokenizer.model is true"},
        {GOOD ",\"split_special_tokens\":true", NULL, "split_special_tokens"},
        {GOOD ",\"eos_token\":7", NULL, "\"eos_token\" is not a token"},
        {GOOD ",\"eos_token\":\"\"", NULL, "\"eos_token\" is not a token"},
        {GOOD ",\"eos_token\":{\"content\":\"</s>\",\"rstrip\":true}", NULL, "the strip flags of"},
        {GOOD ",\"image_token\":\"<image>\"", NULL, "\"image_token\" is not in"},
        {GOOD ",\"extra_special_tokens\":[\"[INST]\",\"[/INST]\",\"<tool>\"]", NULL, NULL},
        {GOOD ",\"extra_special_tokens\":[\"[INST]\"]", NULL, "lacks piece 4"},
        {GOOD ",\"additional_special_tokens\":[]", NULL, "lacks piece 3"},
        {GOOD ",\"additional_special_tokens\":[4]", NULL, "is not a token"},
        {GOOD ",\"added_tokens_decoder\":[]", NULL, "is not a table"},
        {GOOD ",\"added_tokens_decoder\":{\"x\":{\"content\":\"a\"}}", NULL, "no id"},
        {GOOD ",\"added_tokens_decoder\":{\"900\":\"a\"}", NULL, "900 is not a token"},
        {GOOD ",\"added_tokens_decoder\":{\"900\":{\"content\":\"<x>\"}}", NULL, NULL},
        {GOOD ",\"added_tokens_decoder\":{\"902\":{\"content\":\"<x>\"}}", NULL,
         "the token \"<x>\" the id 902, but behind the pieces of tokenizer.model it is 900"},
        {GOOD ",\"added_tokens_decoder\":{\"3\":{\"content\":\"<s>\"}}", NULL, "it is 1"},
        {GOOD, "\"additional_special_tokens\":[\"[INST]\"]", NULL},
        {GOOD, "\"additional_special_tokens\":[\"<q>\"]", "special_tokens_map.json"},
    };
    struct buf model;
    read_model(&model);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        convert(&model, cases[i].config, cases[i].map, cases[i].want);
    buf_free(&model);
}

static void test_fields(void **state)
{
    (void)state;
    static const char bytes[] = "\x08\x96\x01\x11\x01\x00\x00\x00\x00\x00\x00\x80\x1a\x03"
                                "abc\x25\x00\x00\x80\x3f\xf8\xff\xff\xff\x7f\x00";
    struct protobuf m = {bytes, sizeof bytes - 1};
    struct protobuf_field f;
    assert_int_equal(protobuf_next(&m, &f), 1);
    assert_true(f.number == 1 && f.kind == PROTOBUF_NUMBER && f.value == 150);
    assert_int_equal(protobuf_next(&m, &f), 1);
    assert_true(f.number == 2 && f.kind == PROTOBUF_FIXED64 && f.value == 0x8000000000000001u);
    assert_int_equal(protobuf_next(&m, &f), 1);
    assert_true(f.number == 3 && f.kind == PROTOBUF_BYTES && f.bytes.len == 3);
    assert_memory_equal(f.bytes.p, "abc", 3);
    assert_int_equal(protobuf_next(&m, &f), 1);
    assert_true(f.number == 4 && f.kind == PROTOBUF_FIXED32 && f.value == 0x3f800000u);
    assert_int_equal(protobuf_next(&m, &f), 1);
    assert_int_equal(f.number, UINT32_MAX);
    assert_int_equal(protobuf_next(&m, &f), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_specs),   cmocka_unit_test(test_pieces), cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_configs), cmocka_unit_test(test_fields),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
