/* Any bytes as a tokenizer.json; what compiles must open, encode and decode. */
#include "model/tokenizer.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const struct tokenizer *t)
{
    static const char text[] = "Hello <s> w\xc3\xb6rld\n\n 12345 \xf0\x9f\x98\x80\xff it's  \t";
    struct token_list ids;
    struct detokenizer d;
    struct buf out;
    token_list_init(&ids, 4096);
    buf_init(&out, 1 << 20);
    detokenizer_init(&d, t, false);
    if (tokenizer_encode(t, text, strlen(text), TOKENIZER_ADD_SPECIAL, &ids, NULL) == 0)
        for (size_t i = 0; i < ids.count; i++)
            assert(detokenizer_push(&d, ids.ids[i], &out) == 0);
    detokenizer_flush(&d, &out);
    detokenizer_free(&d);
    buf_free(&out);
    token_list_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf blob;
    struct error err = {0};
    buf_init(&blob, TOKENIZER_BLOB_BYTES_MAX);
    if (tokenizer_compile((const char *)data, size, &blob, &err) == 0) {
        struct tokenizer *t;
        int r = tokenizer_open(&t, blob.data, blob.len, &err);
        assert(r == 0);
        use(t);
        tokenizer_close(t);
    } else {
        assert(err.code < 0 && err.text[0] != '\0' && blob.len == 0);
    }
    buf_free(&blob);
    return 0;
}
