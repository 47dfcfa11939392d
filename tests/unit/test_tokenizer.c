/*
 * The tokenizer against Hugging Face tokenizers: ids and decoded text of a megabyte of mixed bytes
 * with each kind of tokenizer (tests/vectors/tokenizer/, made by make_tokenizer_vectors.py), then
 * every component by itself, then limits and refusals.
 */
#include "model/tokenizer.h"

#include "base/digest.h"

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

/* All ids at once, in whatever pieces the detokenizer lets go. */
static void decode(const struct tokenizer *t, const struct token_list *ids, bool skip,
                   struct buf *out)
{
    struct detokenizer d;
    buf_clear(out);
    detokenizer_init(&d, t, skip);
    for (size_t i = 0; i < ids->count; i++)
        assert_int_equal(detokenizer_push(&d, ids->ids[i], out), 0);
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

static void check_kind(const char *kind)
{
    struct opened o;
    size_t len, chunk = 0;
    char path[256], *line = NULL;
    size_t cap = 0;
    char *text = read_file(DIR "text.bin", &len);
    snprintf(path, sizeof path, DIR "%s.chunks", kind);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_true(len >= 1 << 20);
    open_kind(&o, kind);
    for (; getline(&line, &cap, f) > 0; chunk++)
        check_chunk(&o, kind, chunk, text + chunk * CHUNK_BYTES, CHUNK_BYTES, line);
    assert_int_equal(chunk, len / CHUNK_BYTES);
    print_message("%s: %zu chunks\n", kind, chunk);
    close_opened(&o);
    free(text);
    free(line);
    fclose(f);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_variants), cmocka_unit_test(test_gpt2),
        cmocka_unit_test(test_llama3),   cmocka_unit_test(test_qwen2),
        cmocka_unit_test(test_llama2),   cmocka_unit_test(test_mistral),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
