/* Damaged blobs: the input is a list of edits (kind and place, value) of a good one of each model.
 * Whatever opens must encode and decode without leaving the blob, whose copy is allocated exactly.
 */
#include "model/tokenizer.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EDIT_BYTES 8

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MODELS 2

static const char *const json[MODELS] = {
    "{\"added_tokens\":[{\"id\":8,\"content\":\"<s>\",\"special\":true,\"lstrip\":true,"
    "\"single_word\":true},{\"id\":9,\"content\":\"N\",\"normalized\":true,\"rstrip\":true}],"
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},"
    "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"x+\"},\"content\":\"ab\"}]},"
    "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":"
    "{\"Regex\":\"\\\\s+|\\\\p{L}+\"},\"behavior\":\"Isolated\",\"invert\":false},"
    "{\"type\":\"Metaspace\",\"replacement\":\"_\"}]},"
    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":"
    "{\"String\":\"_\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},"
    "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]},"
    "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":"
    "\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"special_tokens\":"
    "{\"<s>\":{\"id\":\"<s>\",\"ids\":[8],\"tokens\":[\"<s>\"]}}},"
    "\"model\":{\"type\":\"BPE\",\"unk_token\":\"u\",\"byte_fallback\":true,\"vocab\":{\"u\":0,"
    "\"a\":1,\"b\":2,\"_\":3,\"ab\":4,\"_ab\":5,\"<0xC3>\":6,\"<0xA9>\":7},"
    "\"merges\":[\"a b\",\"_ ab\"]}}",
    "{\"added_tokens\":[{\"id\":9,\"content\":\"<s>\",\"special\":true}],"
    "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\"},"
    "\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"_\"},"
    "\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"byte_fallback\":true,\"vocab\":[[\"u\",0],"
    "[\"a\",-1],[\"b\",-2.5],[\"_\",-3],[\"ab\",-1.5],[\"_ab\",-2],[\"<0xC3>\",-9],[\"<0xA9>\",-9],"
    "[\"abab\",-2]]}}"};

static void apply(char *blob, size_t len, const uint8_t *data, size_t size)
{
    for (size_t i = 0; i + EDIT_BYTES <= size; i += EDIT_BYTES) {
        uint32_t place, value;
        memcpy(&place, data + i, 4);
        memcpy(&value, data + i + 4, 4);
        size_t at = (place >> 1) % (len / 4) * 4;
        if (place & 1)
            blob[at] ^= (char)value;
        else
            memcpy(blob + at, &value, 4);
    }
}

static void use(const struct tokenizer *t)
{
    static const char text[] = "ab <s> xxN \xc3\xa9_ab abababababababababababababababababab u";
    struct token_list ids;
    struct detokenizer d;
    struct buf out;
    const char *p;
    size_t len;
    token_list_init(&ids, 4096);
    buf_init(&out, 1 << 20);
    detokenizer_init(&d, t, true);
    if (tokenizer_encode(t, text, strlen(text), TOKENIZER_ADD_SPECIAL, &ids, NULL) == 0)
        for (size_t i = 0; i < ids.count; i++)
            detokenizer_push(&d, ids.ids[i], &out);
    for (uint32_t id = 0; id < 16; id++) {
        detokenizer_push(&d, id, &out);
        if (tokenizer_token_text(t, id, &p, &len))
            tokenizer_find(t, p, len);
    }
    detokenizer_flush(&d, &out);
    detokenizer_free(&d);
    buf_free(&out);
    token_list_free(&ids);
}

static void damage(const struct buf *good, const uint8_t *data, size_t size)
{
    char *blob = malloc(good->len);
    struct error err = {0};
    assert(blob != NULL);
    memcpy(blob, good->data, good->len);
    apply(blob, good->len, data, size);
    struct tokenizer *t;
    if (tokenizer_open(&t, blob, good->len, &err) == 0) {
        use(t);
        tokenizer_close(t);
    }
    free(blob);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct buf good[MODELS];
    for (size_t i = 0; i < MODELS; i++) {
        struct error err = {0};
        if (good[i].data == NULL) {
            buf_init(&good[i], 1 << 20);
            if (tokenizer_compile(json[i], strlen(json[i]), &good[i], &err) < 0) {
                fprintf(stderr, "%s\n", err.text);
                abort();
            }
        }
        damage(&good[i], data, size);
    }
    return 0;
}
