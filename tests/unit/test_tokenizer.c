/*
 * The tokenizer against Hugging Face tokenizers: ids and decoded text of a megabyte of mixed bytes
 * with each kind of tokenizer (tests/vectors/tokenizer/, made by make_tokenizer_vectors.py), then
 * every component by itself, then limits and refusals.
 */
#include "model/tokenizer.h"

#include "base/digest.h"
#include "model/sentencepiece.h"
#include "model/tokenizer_unicode.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#define DIR "tests/vectors/tokenizer/"
#define CHUNK_BYTES 4096
#define TOKENS_MAX (1u << 21)

static char *read_file(const char *path, size_t *ret_len)
{
    FILE *f = fopen(path, "rb");
    if (f == NULL)
        fail_msg("cannot read %s", path);
    fseek(f, 0, SEEK_END);
    long size = ftell(f);
    rewind(f);
    char *data = malloc((size_t)size + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, (size_t)size, f), size);
    data[size] = '\0';
    fclose(f);
    *ret_len = (size_t)size;
    return data;
}

struct opened {
    struct buf blob;
    struct tokenizer *t;
};

static void open_json(struct opened *o, const char *json, size_t len, const char *name)
{
    struct error err = {0};
    buf_init(&o->blob, TOKENIZER_BLOB_BYTES_MAX);
    if (tokenizer_compile(json, len, &o->blob, &err) < 0)
        fail_msg("%s: %s", name, err.text);
    if (tokenizer_open(&o->t, o->blob.data, o->blob.len, &err) < 0)
        fail_msg("%s: %s", name, err.text);
}

/* A tokenizer.model with what stands beside it, by the road that the packer takes. *ret_json is its
 * tokenizer.json. */
static void open_model(struct opened *o, const char *name, const json_t *config, const json_t *map,
                       json_t **ret_json)
{
    char path[256];
    size_t len;
    struct buf json;
    struct error err = {0};
    snprintf(path, sizeof path, DIR "%s.model", name);
    char *model = read_file(path, &len);
    buf_init(&json, TOKENIZER_JSON_BYTES_MAX);
    if (sentencepiece_to_json(model, len, config, map, &json, &err) < 0)
        fail_msg("%s: %s", name, err.text);
    open_json(o, json.data, json.len, name);
    *ret_json = json_loadb(json.data, json.len, 0, NULL);
    assert_non_null(*ret_json);
    buf_free(&json);
    free(model);
}

static void open_kind(struct opened *o, const char *kind)
{
    char path[256];
    size_t len;
    snprintf(path, sizeof path, DIR "%s.json", kind);
    char *json = read_file(path, &len);
    open_json(o, json, len, kind);
    free(json);
}

static void close_opened(struct opened *o)
{
    tokenizer_close(o->t);
    buf_free(&o->blob);
}

/* Id by id; what is let go at each is whole characters. */
static void decode(const struct tokenizer *t, const struct token_list *ids, bool skip,
                   struct buf *out)
{
    struct detokenizer d;
    buf_clear(out);
    detokenizer_init(&d, t, skip);
    for (size_t i = 0; i < ids->count; i++) {
        size_t before = out->len;
        assert_int_equal(detokenizer_push(&d, ids->ids[i], out), 0);
        if (out->len > before)
            assert_true(utf8_is_valid(out->data + before, out->len - before));
    }
    assert_int_equal(detokenizer_flush(&d, out), 0);
    detokenizer_free(&d);
}

static void hex_of(const void *bytes, size_t len, char ret[DIGEST_HEX_BYTES])
{
    struct digest digest;
    digest_of(bytes, len, &digest);
    digest_hex(&digest, ret);
}

/* Where a chunk's ids are there in full, says which is the first that differs. */
static void compare_ids(const char *kind, size_t chunk, const struct token_list *got, char *ids)
{
    size_t i = 0;
    for (char *save, *s = strtok_r(ids, ",\n", &save); s != NULL;
         s = strtok_r(NULL, ",\n", &save)) {
        unsigned long want = strtoul(s, NULL, 10);
        if (i >= got->count || got->ids[i] != want)
            fail_msg("%s chunk %zu: id %zu is %d, want %lu", kind, chunk, i,
                     i < got->count ? (int)got->ids[i] : -1, want);
        i++;
    }
}

static void check_chunk(const struct opened *o, const char *kind, size_t chunk, const char *text,
                        size_t len, char *line)
{
    unsigned special;
    size_t count;
    char want[3][DIGEST_HEX_BYTES], got[DIGEST_HEX_BYTES];
    struct token_list ids;
    struct buf out;
    struct error err = {0};
    int used = 0;
    assert_int_equal(
        sscanf(line, "%u %zu %64s %64s %64s%n", &special, &count, want[0], want[1], want[2], &used),
        5);
    token_list_init(&ids, TOKENS_MAX);
    buf_init(&out, 1 << 24);
    if (tokenizer_encode(o->t, text, len, special ? TOKENIZER_ADD_SPECIAL : 0, &ids, &err) < 0)
        fail_msg("%s chunk %zu: %s", kind, chunk, err.text);
    compare_ids(kind, chunk, &ids, line + used + strspn(line + used, " "));
    hex_of(ids.ids, ids.count * sizeof ids.ids[0], got);
    if (ids.count != count || strcmp(got, want[0]) != 0)
        fail_msg("%s chunk %zu: other ids (%zu of them, want %zu)", kind, chunk, ids.count, count);
    for (int skip = 0; skip < 2; skip++) {
        decode(o->t, &ids, skip, &out);
        hex_of(out.data, out.len, got);
        if (strcmp(got, want[1 + skip]) != 0)
            fail_msg("%s chunk %zu: other text, skip_special %d", kind, chunk, skip);
    }
    token_list_free(&ids);
    buf_free(&out);
}

static void check_chunks(const struct opened *o, const char *kind)
{
    size_t len, chunk = 0;
    char path[256], *line = NULL;
    size_t cap = 0;
    char *text = read_file(DIR "text.bin", &len);
    snprintf(path, sizeof path, DIR "%s.chunks", kind);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_true(len >= 1 << 20);
    for (; getline(&line, &cap, f) > 0; chunk++)
        check_chunk(o, kind, chunk, text + chunk * CHUNK_BYTES, CHUNK_BYTES, line);
    assert_int_equal(chunk, len / CHUNK_BYTES);
    print_message("%s: %zu chunks\n", kind, chunk);
    free(text);
    free(line);
    fclose(f);
}

static void check_kind(const char *kind)
{
    struct opened o;
    open_kind(&o, kind);
    check_chunks(&o, kind);
    close_opened(&o);
}

static void test_gpt2(void **state)
{
    (void)state;
    check_kind("gpt2");
}

static void test_llama3(void **state)
{
    (void)state;
    check_kind("llama3");
}

static void test_qwen2(void **state)
{
    (void)state;
    check_kind("qwen2");
}

static void test_llama2(void **state)
{
    (void)state;
    check_kind("llama2");
}

static void test_mistral(void **state)
{
    (void)state;
    check_kind("mistral");
}

/* --- components --- */

static int check_case(const struct tokenizer *t, const char *name, const json_t *item)
{
    const json_t *text = json_object_get(item, "text"), *want = json_object_get(item, "ids");
    static const char *const keys[2] = {"decoded", "skipped"};
    struct token_list ids;
    struct buf out;
    struct error err = {0};
    int wrong = 0;
    token_list_init(&ids, TOKENS_MAX);
    buf_init(&out, 1 << 24);
    if (tokenizer_encode(t, json_string_value(text), json_string_length(text),
                         TOKENIZER_ADD_SPECIAL, &ids, &err) < 0)
        fail_msg("%s: %s", name, err.text);
    bool same = ids.count == json_array_size(want);
    for (size_t i = 0; same && i < ids.count; i++)
        same = ids.ids[i] == json_integer_value(json_array_get(want, i));
    if (!same) {
        wrong++;
        print_message("%s: ids of \"%s\" differ: %zu, want %zu\n", name, json_string_value(text),
                      ids.count, json_array_size(want));
        for (size_t i = 0; i < ids.count || i < json_array_size(want); i++)
            print_message("  %d/%d", i < ids.count ? (int)ids.ids[i] : -1,
                          (int)json_integer_value(json_array_get(want, i)));
        print_message("\n");
    }
    for (int skip = 0; same && skip < 2; skip++) {
        const json_t *s = json_object_get(item, keys[skip]);
        decode(t, &ids, skip, &out);
        if (out.len == json_string_length(s) &&
            memcmp(out.data != NULL ? out.data : "", json_string_value(s), out.len) == 0)
            continue;
        wrong++;
        print_message("%s: %s of \"%s\" is \"%s\", want \"%s\"\n", name, keys[skip],
                      json_string_value(text), out.data, json_string_value(s));
    }
    token_list_free(&ids);
    buf_free(&out);
    return wrong;
}

static int check_variant(const json_t *bases, const json_t *row)
{
    const char *name = json_string_value(json_object_get(row, "name"));
    const char *base = json_string_value(json_object_get(row, "base"));
    json_t *root = json_deep_copy(json_object_get(bases, base));
    const json_t *parts = json_object_get(row, "parts"), *cases = json_object_get(row, "cases");
    json_t *model = json_object_get(root, "model");
    json_t *changes = json_object_get(parts, "model");
    struct opened o;
    int wrong = 0;
    if (changes != NULL)
        json_object_update(model, changes);
    json_incref(model);
    json_object_update(root, json_object_get(row, "parts"));
    json_object_set_new(root, "model", model);
    char *json = json_dumps(root, JSON_COMPACT);
    open_json(&o, json, strlen(json), name);
    for (size_t i = 0; i < json_array_size(cases); i++)
        wrong += check_case(o.t, name, json_array_get(cases, i));
    close_opened(&o);
    free(json);
    json_decref(root);
    return wrong;
}

static void test_variants(void **state)
{
    (void)state;
    size_t len;
    char *text = read_file(DIR "variants.json", &len);
    json_t *root = json_loadb(text, len, JSON_ALLOW_NUL, NULL);
    assert_non_null(root);
    const json_t *rows = json_object_get(root, "variants");
    int wrong = 0;
    for (size_t i = 0; i < json_array_size(rows); i++)
        wrong += check_variant(json_object_get(root, "bases"), json_array_get(rows, i));
    print_message("%zu variants\n", json_array_size(rows));
    assert_int_equal(wrong, 0);
    json_decref(root);
    free(text);
}

/* --- the families as they are published, and models of SentencePiece --- */

static json_t *load_families(void)
{
    size_t len;
    char *text = read_file(DIR "families.json", &len);
    json_t *root = json_loadb(text, len, JSON_ALLOW_NUL, NULL);
    assert_non_null(root);
    free(text);
    return root;
}

static int check_cases(const struct opened *o, const char *name, const json_t *cases)
{
    int wrong = 0;
    assert_true(json_array_size(cases) > 0);
    for (size_t i = 0; i < json_array_size(cases); i++)
        wrong += check_case(o->t, name, json_array_get(cases, i));
    return wrong;
}

static void test_families(void **state)
{
    (void)state;
    static const char *const kinds[] = {"gemma3",  "phi3",          "phi4_mini", "smollm2",
                                        "unigram", "unigram_bytes", "mistral_v3"};
    json_t *root = load_families();
    const json_t *all = json_object_get(root, "kinds");
    int wrong = 0;
    assert_int_equal(json_object_size(all), sizeof kinds / sizeof kinds[0]);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        struct opened o;
        open_kind(&o, kinds[i]);
        wrong += check_cases(&o, kinds[i], json_object_get(all, kinds[i]));
        close_opened(&o);
        check_kind(kinds[i]);
    }
    assert_int_equal(wrong, 0);
    json_decref(root);
}

/* What no text may show: the flags of each added token, the merges in their order. */
static void check_file(const json_t *json, const json_t *row)
{
    const char *name = json_string_value(json_object_get(row, "name"));
    const json_t *want = json_object_get(row, "added"),
                 *got = json_object_get(json, "added_tokens");
    char hex[DIGEST_HEX_BYTES];
    size_t found = 0;
    for (size_t i = 0; i < json_array_size(want); i++)
        for (size_t k = 0; k < json_array_size(got); k++)
            found += (size_t)json_equal(json_array_get(want, i), json_array_get(got, k));
    if (found != json_array_size(want) || found != json_array_size(got))
        fail_msg("%s: %zu of %zu added tokens are as they should be", name, found,
                 json_array_size(want));
    char *merges =
        json_dumps(json_object_get(json_object_get(json, "model"), "merges"), JSON_COMPACT);
    hex_of(merges, strlen(merges), hex);
    if (strcmp(hex, json_string_value(json_object_get(row, "merges"))) != 0)
        fail_msg("%s: other merges", name);
    free(merges);
}

static void test_models(void **state)
{
    (void)state;
    json_t *root = load_families();
    const json_t *rows = json_object_get(root, "models");
    int wrong = 0;
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        const char *name = json_string_value(json_object_get(row, "name"));
        struct opened o;
        json_t *json;
        open_model(&o, json_string_value(json_object_get(row, "model")),
                   json_object_get(row, "config"), json_object_get(row, "map"), &json);
        check_file(json, row);
        json_decref(json);
        wrong += check_cases(&o, name, json_object_get(row, "cases"));
        if (strcmp(name, "llama2") == 0)
            check_chunks(&o, "llama");
        close_opened(&o);
    }
    print_message("%zu checkpoints\n", json_array_size(rows));
    assert_int_equal(wrong, 0);
    json_decref(root);
}

/* --- limits, properties, refusals --- */

static void test_byte_level_round_trip(void **state)
{
    (void)state;
    static const char *const texts[] = {"", " ",
                                        "caf\xc3\xa9 \xf0\x9f\x91\x8d\xf0\x9f\x8f\xbd\n\n\t",
                                        "a\r\nb  c", "\x01\x7f\xc2\x80"};
    struct opened o;
    struct token_list ids;
    struct buf out, bytes;
    open_kind(&o, "llama3");
    token_list_init(&ids, 1000);
    buf_init(&out, 1 << 16);
    buf_init(&bytes, 1 << 16);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        const char *p;
        size_t len;
        ids.count = 0;
        buf_clear(&bytes);
        assert_int_equal(tokenizer_encode(o.t, texts[i], strlen(texts[i]), 0, &ids, NULL), 0);
        decode(o.t, &ids, false, &out);
        for (size_t k = 0; k < ids.count; k++) {
            assert_true(tokenizer_token_bytes(o.t, ids.ids[k], &p, &len));
            assert_int_equal(buf_append(&bytes, p, len), 0);
        }
        assert_int_equal(out.len, strlen(texts[i]));
        assert_int_equal(bytes.len, out.len);
        if (out.len > 0) {
            assert_memory_equal(out.data, texts[i], out.len);
            assert_memory_equal(bytes.data, texts[i], out.len);
        }
    }
    buf_free(&out);
    buf_free(&bytes);
    token_list_free(&ids);
    close_opened(&o);
}

static void test_lookups(void **state)
{
    (void)state;
    struct opened o;
    const char *p;
    size_t len;
    open_kind(&o, "qwen2");
    uint32_t id = tokenizer_find(o.t, "<|im_start|>", 12);
    assert_true(id < tokenizer_vocab_count(o.t));
    assert_true(tokenizer_is_special(o.t, id));
    assert_true(tokenizer_token_text(o.t, id, &p, &len));
    assert_int_equal(len, 12);
    assert_memory_equal(p, "<|im_start|>", len);
    assert_false(tokenizer_is_special(o.t, tokenizer_find(o.t, "<tool>", 6)));
    assert_int_equal(tokenizer_find(o.t, "<|im_startx", 11), TOKENIZER_NONE);
    assert_false(tokenizer_token_text(o.t, tokenizer_vocab_count(o.t), &p, &len));
    for (id = 0; id < tokenizer_vocab_count(o.t); id++)
        if (tokenizer_token_text(o.t, id, &p, &len))
            assert_int_equal(tokenizer_find(o.t, p, len), id);
    assert_true(tokenizer_token_bytes(o.t, tokenizer_find(o.t, "\xc4\xa0", 2), &p, &len));
    assert_int_equal(len, 1);
    assert_int_equal(p[0], ' ');
    close_opened(&o);
}

/* A character's text comes when its last byte does; a run of byte tokens when it ends. */
static void test_streaming(void **state)
{
    (void)state;
    static const uint32_t run[] = {3 + 0xe4, 3 + 0xbd, 3 + 0xa0}; /* <0xE4> <0xBD> <0xA0> */
    struct opened o;
    struct detokenizer d;
    struct buf out;
    buf_init(&out, 1 << 16);
    open_kind(&o, "gpt2");
    detokenizer_init(&d, o.t, false);
    detokenizer_push(&d, tokenizer_find(o.t, "\xc3\x83", 2), &out); /* the byte C3 */
    assert_int_equal(out.len, 0);
    detokenizer_push(&d, tokenizer_find(o.t, "\xc2\xa9", 2), &out); /* the byte A9 */
    assert_string_equal(out.data, "\xc3\xa9");
    detokenizer_push(&d, tokenizer_find(o.t, "\xc3\x83", 2), &out);
    detokenizer_flush(&d, &out);
    assert_string_equal(out.data, "\xc3\xa9\xef\xbf\xbd");
    detokenizer_free(&d);
    close_opened(&o);

    open_kind(&o, "llama2");
    buf_clear(&out);
    detokenizer_init(&d, o.t, false);
    for (size_t i = 0; i < 3; i++)
        detokenizer_push(&d, run[i], &out);
    assert_int_equal(out.len, 0);
    detokenizer_push(&d, tokenizer_find(o.t, "a", 1), &out);
    assert_string_equal(out.data, "\xe4\xbd\xa0"
                                  "a");
    detokenizer_push(&d, run[0], &out);
    detokenizer_push(&d, run[1], &out);
    detokenizer_flush(&d, &out);
    assert_string_equal(out.data, "\xe4\xbd\xa0"
                                  "a\xef\xbf\xbd\xef\xbf\xbd");
    detokenizer_free(&d);
    close_opened(&o);
    buf_free(&out);
}

/* A megabyte without a split, and one of spaces behind a letter: no time is asserted, but a
 * quadratic way would take longer than any test may run. */
static void test_long_words(void **state)
{
    (void)state;
    static const char *const kinds[] = {"gpt2",    "qwen2",  "llama2",
                                        "mistral", "gemma3", "unigram_bytes"};
    size_t len = 1 << 20;
    char *text = malloc(len);
    assert_non_null(text);
    for (size_t k = 0; k < 2 * sizeof kinds / sizeof kinds[0]; k++) {
        struct opened o;
        struct token_list ids;
        struct buf out;
        open_kind(&o, kinds[k / 2]);
        token_list_init(&ids, TOKENS_MAX);
        buf_init(&out, 1 << 24);
        for (size_t i = 0; i < len; i++)
            text[i] = k % 2 && i > 0 ? ' ' : (char)('a' + (i * i + i / 7) % 5);
        assert_int_equal(tokenizer_encode(o.t, text, len, 0, &ids, NULL), 0);
        decode(o.t, &ids, false, &out);
        assert_int_equal(out.len, len);
        assert_memory_equal(out.data, text, len);
        buf_free(&out);
        token_list_free(&ids);
        close_opened(&o);
    }
    free(text);
}

static void test_limits(void **state)
{
    (void)state;
    struct opened o;
    struct token_list ids;
    struct error err = {0};
    open_kind(&o, "llama3");
    token_list_init(&ids, 3);
    assert_int_equal(token_list_append(&ids, 7), 0);
    assert_int_equal(tokenizer_encode(o.t, "1 2 3 4 5", 9, TOKENIZER_ADD_SPECIAL, &ids, &err),
                     -E2BIG);
    assert_non_null(strstr(err.text, "more than 3 tokens"));
    assert_int_equal(ids.count, 1);
    char *text = calloc(1, TOKENIZER_TEXT_BYTES_MAX + 1);
    assert_non_null(text);
    assert_int_equal(tokenizer_encode(o.t, text, TOKENIZER_TEXT_BYTES_MAX + 1, 0, &ids, &err),
                     -E2BIG);
    free(text);
    token_list_free(&ids);
    close_opened(&o);
}

/* A whole tokenizer.json with one part replaced. */
static void refused(const char *key, const char *value, const char *reason)
{
    static const char *const keys[] = {"added_tokens",   "normalizer", "pre_tokenizer",
                                       "post_processor", "decoder",    "model"};
    static const char *const values[] = {
        "[]",
        "null",
        "null",
        "null",
        "{\"type\":\"Fuse\"}",
        "{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}"};
    struct buf json, blob;
    struct error err = {0};
    buf_init(&json, 1 << 20);
    buf_init(&blob, TOKENIZER_BLOB_BYTES_MAX);
    for (size_t i = 0; i < 6; i++)
        buf_printf(&json, "%c\"%s\":%s", i == 0 ? '{' : ',', keys[i],
                   strcmp(keys[i], key) == 0 ? value : values[i]);
    buf_append_str(&json, "}");
    int r = tokenizer_compile(json.data, json.len, &blob, &err);
    if ((r < 0) != (reason != NULL) || (reason != NULL && strstr(err.text, reason) == NULL))
        fail_msg("%s: %s gives %d \"%s\", want \"%s\"", key, value, r, err.text, reason);
    if (r < 0)
        assert_int_equal(blob.len, 0);
    buf_free(&json);
    buf_free(&blob);
}

static void test_refusals(void **state)
{
    (void)state;
#define SPLIT(regex)                                                                               \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" regex                                          \
    "\"},\"behavior\":\"Isolated\",\"invert\":false}"
#define BPE(more) "{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2}," more "}"
    refused("", "", NULL);
    refused("model", "{\"type\":\"WordPiece\",\"vocab\":{}}", "WordPiece");
    refused("model", BPE("\"merges\":[\"a c\"]"), "merge 0");
    refused("model", BPE("\"merges\":[\"a b c\"]"), "not a pair");
    refused("model", BPE("\"merges\":[],\"dropout\":0.1"), "dropout");
    refused("model", BPE("\"merges\":[],\"unk_token\":\"?\""), "unk_token");
    refused("model", BPE("\"merges\":[],\"end_of_word_suffix\":\"</w>\""), "end_of_word_suffix");
    refused("model", "{\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}", "the id 0");
    refused("model", "{\"vocab\":{\"a\":-1},\"merges\":[]}", "not in 0..");
    refused("model", "{\"vocab\":{\"a\":4294967296},\"merges\":[]}", "not in 0..");
    refused("model", "{\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]}", "duplicate");
    refused("model", "{\"vocab\":{},\"merges\":[]}", "empty");
#define UNIGRAM(vocab, more) "{\"type\":\"Unigram\",\"vocab\":[" vocab "]" more "}"
    refused("model", UNIGRAM("[\"a\",-1.5],[\"b\",-2]", ",\"unk_id\":0"), NULL);
    refused("model", UNIGRAM("[\"a\",0]", ""), "unk_id");
    refused("model", UNIGRAM("[\"a\",0]", ",\"unk_id\":1"), "unk_id");
    refused("model", UNIGRAM("[\"a\",0]", ",\"unk_id\":-1"), "unk_id");
    refused("model", UNIGRAM("[\"a\"]", ",\"unk_id\":0"), "[piece, score]");
    refused("model", UNIGRAM("[\"a\",\"0\"]", ",\"unk_id\":0"), "[piece, score]");
    refused("model", UNIGRAM("[\"a\",0],[\"a\",0]", ",\"unk_id\":0"), "token 1 is there twice");
    refused("model", UNIGRAM("", ",\"unk_id\":0"), "unk_id");
    refused("normalizer", "{\"type\":\"BertNormalizer\"}", "BertNormalizer");
    refused("normalizer", "{\"type\":\"Precompiled\"}", "Precompiled");
    refused("pre_tokenizer", "{\"type\":\"UnicodeScripts\"}", "UnicodeScripts");
    refused("pre_tokenizer",
            "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},"
            "{\"type\":\"Digits\"}]}",
            "after ByteLevel");
    refused("pre_tokenizer", "{\"type\":\"ByteLevel\"}", "decoder Fuse");
    refused("decoder", "null", "decoder");
    refused("decoder", "{\"type\":\"WordPiece\"}", "WordPiece");
    refused("post_processor",
            "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}]}",
            "unknown token");
    refused("post_processor", "{\"type\":\"BertProcessing\",\"cls\":[\"x\",9],\"sep\":[\"x\",9]}",
            "does not exist");
    refused("added_tokens", "[{\"content\":\"x\"},{\"content\":\"x\"}]", "twice");
    refused("added_tokens", "[{\"id\":1}]", "no content");
    refused("pre_tokenizer", SPLIT("\\\\w+[a-z]{2,3}+(?i:'s)"), NULL);
    refused("pre_tokenizer", SPLIT("(a"), "open group");
    refused("pre_tokenizer", SPLIT("a**"), "quantifier");
    refused("pre_tokenizer", SPLIT("\\\\bx"), "\\b");
    refused("pre_tokenizer", SPLIT("(a)\\\\1"), "\\1");
    refused("pre_tokenizer", SPLIT("[a&&b]"), "intersection");
    refused("pre_tokenizer", SPLIT("[a[b]]"), "set inside");
    refused("pre_tokenizer", SPLIT("(?i:st)"), "ligature");
    refused("pre_tokenizer", SPLIT("(?<name>a)"), "kind of group");
    refused("pre_tokenizer", SPLIT("\\\\p{Klingon}"), "Klingon");
    refused("pre_tokenizer", SPLIT("[^\\\\P{L}]"), "negated class");
}

/* No prefix of a blob opens, nor one with any header word destroyed, unless harmlessly. */
static void test_damaged_blob(void **state)
{
    (void)state;
    struct opened o;
    struct error err = {0};
    struct tokenizer *t;
    open_kind(&o, "llama2");
    for (size_t len = 0; len < o.blob.len; len += 1 + len / 3) {
        char *copy = malloc(len + 1);
        assert_non_null(copy);
        memcpy(copy, o.blob.data, len);
        assert_int_equal(tokenizer_open(&t, copy, len, &err), -EINVAL);
        free(copy);
    }
    o.blob.data[0] ^= 1;
    assert_int_equal(tokenizer_open(&t, o.blob.data, o.blob.len, &err), -EINVAL);
    o.blob.data[0] ^= 1;
    assert_int_equal(tokenizer_open(&t, o.blob.data + 2, o.blob.len - 2, &err), -EINVAL);
    close_opened(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_variants),
        cmocka_unit_test(test_gpt2),
        cmocka_unit_test(test_llama3),
        cmocka_unit_test(test_qwen2),
        cmocka_unit_test(test_llama2),
        cmocka_unit_test(test_mistral),
        cmocka_unit_test(test_families),
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_byte_level_round_trip),
        cmocka_unit_test(test_lookups),
        cmocka_unit_test(test_streaming),
        cmocka_unit_test(test_long_words),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_damaged_blob),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
