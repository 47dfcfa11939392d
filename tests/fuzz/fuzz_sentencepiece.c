/* Any bytes as a tokenizer.model: the first byte chooses the tokenizer_config.json. What converts
 * must compile, open, encode and decode. */
#include "model/sentencepiece.h"
#include "model/tokenizer.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const configs[] = {
    "{\"add_bos_token\":true,\"added_tokens_decoder\":{\"2\":{\"content\":\"</"
    "s>\",\"rstrip\":true}}}",
    "{\"add_bos_token\":true,\"add_prefix_space\":false,\"pad_token\":\"<pad>\"}",
    "{\"add_bos_token\":false,\"add_eos_token\":true,\"legacy\":true,"
    "\"additional_special_tokens\":[\"ab\",\"<s>\"]}",
};

static void use(const struct tokenizer *t)
{
    static const char text[] = "ab <s> xw\xc3\xb6rld</s> \n\n 12345 \xf0\x9f\x98\x80\xff it's  \t";
    struct token_list ids;
    struct detokenizer d;
    struct buf out;
    token_list_init(&ids, 4096);
    buf_init(&out, 1 << 20);
    detokenizer_init(&d, t, false);
    int r = tokenizer_encode(t, text, strlen(text), TOKENIZER_ADD_SPECIAL, &ids, NULL);
    assert(r == 0);
    for (size_t i = 0; i < ids.count; i++)
        assert(detokenizer_push(&d, ids.ids[i], &out) == 0);
    detokenizer_flush(&d, &out);
    detokenizer_free(&d);
    buf_free(&out);
    token_list_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf json, blob;
    struct error err = {0};
    if (size == 0)
        return 0;
    json_t *config = json_loads(configs[data[0] % (sizeof configs / sizeof configs[0])], 0, NULL);
    assert(config != NULL);
    buf_init(&json, 64u << 20);
    buf_init(&blob, TOKENIZER_BLOB_BYTES_MAX);
    int r = sentencepiece_to_json((const char *)data + 1, size - 1, config, NULL, &json, &err);
    assert(r == 0 || (err.code < 0 && err.text[0] != '\0' && json.len == 0));
    if (r == 0) {
        struct tokenizer *t;
        r = tokenizer_compile(json.data, json.len, &blob, &err);
        assert(r == 0);
        assert(tokenizer_open(&t, blob.data, blob.len, &err) == 0);
        use(t);
        tokenizer_close(t);
    }
    json_decref(config);
    buf_free(&json);
    buf_free(&blob);
    return 0;
}
