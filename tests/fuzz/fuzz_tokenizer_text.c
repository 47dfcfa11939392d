/* Any bytes as text: the first byte chooses the tokenizer. What is encoded decodes to valid
 * UTF-8, and at byte level without a normalizer to the text itself. */
#include "model/tokenizer.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KINDS 9
#define IDS_MAX (4u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct tokenizer *open_kind(const char *kind)
{
    char path[128];
    struct buf blob;
    struct error err = {0};
    struct tokenizer *t = NULL;
    char *json = malloc(1 << 20);
    snprintf(path, sizeof path, "tests/vectors/tokenizer/%s.json", kind);
    FILE *f = fopen(path, "rb");
    if (f == NULL || json == NULL) {
        fprintf(stderr, "cannot read %s: run from the repository root\n", path);
        abort();
    }
    size_t len = fread(json, 1, 1 << 20, f);
    fclose(f);
    buf_init(&blob, TOKENIZER_BLOB_BYTES_MAX); /* borrowed by the tokenizer until the end */
    if (tokenizer_compile(json, len, &blob, &err) < 0 ||
        tokenizer_open(&t, blob.data, blob.len, &err) < 0)
        abort();
    free(json);
    return t;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[KINDS] = {"gpt2",      "llama3",  "qwen2",
                                             "llama2",    "mistral", "gemma3",
                                             "phi4_mini", "unigram", "unigram_bytes"};
    static struct tokenizer *kinds[KINDS];
    struct token_list ids, again;
    struct detokenizer d;
    struct buf out;
    if (size == 0)
        return 0;
    unsigned kind = data[0] % KINDS;
    if (kinds[kind] == NULL)
        kinds[kind] = open_kind(names[kind]);
    token_list_init(&ids, IDS_MAX);
    token_list_init(&again, IDS_MAX);
    buf_init(&out, 1 << 26);
    detokenizer_init(&d, kinds[kind], false);
    int r = tokenizer_encode(kinds[kind], (const char *)data + 1, size - 1, 0, &ids, NULL);
    assert(r == 0);
    for (size_t i = 0; i < ids.count; i++)
        assert(detokenizer_push(&d, ids.ids[i], &out) == 0);
    assert(detokenizer_flush(&d, &out) == 0);
    if (kind == 0 && strstr(out.data != NULL ? out.data : "", "<mask>") == NULL) {
        /* Repaired text is a fixed point. (<mask> takes spaces with it.) */
        r = tokenizer_encode(kinds[0], out.data != NULL ? out.data : "", out.len, 0, &again, NULL);
        assert(r == 0 && again.count == ids.count);
        assert(ids.count == 0 || memcmp(ids.ids, again.ids, ids.count * sizeof ids.ids[0]) == 0);
    }
    detokenizer_free(&d);
    buf_free(&out);
    token_list_free(&ids);
    token_list_free(&again);
    return 0;
}
