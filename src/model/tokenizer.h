/*
 * Text to token ids and back, identical to Hugging Face tokenizers. A tokenizer.json is compiled
 * once, in the packer, into one position-independent blob; a worker maps the blob read-only and
 * uses it in place: nothing is parsed at start but a few short patterns. A blob is never trusted:
 * opening it checks every section's bounds, and what is read later is checked where it is read.
 *
 * Text that is not UTF-8 reads as Python's bytes.decode("utf-8", "replace") does: every maximal
 * invalid part is one U+FFFD.
 */
#pragma once

#include "base/buf.h"
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TOKENIZER_NONE UINT32_MAX
#define TOKENIZER_JSON_BYTES_MAX (256u << 20)
#define TOKENIZER_BLOB_BYTES_MAX (512u << 20)
#define TOKENIZER_TEXT_BYTES_MAX (16u << 20) /* of one tokenizer_encode */

/* Compiles a tokenizer.json and appends the blob to ret_blob, which must be empty; its max_bytes
 * should be TOKENIZER_BLOB_BYTES_MAX. -EINVAL: malformed, or a component that would be computed
 * differently from the reference, by name; -E2BIG: over a limit. On failure ret_blob is empty. */
int tokenizer_compile(const char *json, size_t len, struct buf *ret_blob, struct error *err);

struct tokenizer; /* immutable once open: any number of threads may use it */

/* Borrows `blob` (4-byte aligned), which must stay mapped and unchanged until the close. */
int tokenizer_open(struct tokenizer **ret, const void *blob, size_t bytes, struct error *err);
void tokenizer_close(struct tokenizer *t); /* NULL is fine */

/* One more than the largest id; some ids below may have no token. */
uint32_t tokenizer_vocab_count(const struct tokenizer *t);
/* The same of the model's own vocabulary, without added tokens. */
uint32_t tokenizer_model_count(const struct tokenizer *t);
/* The id of the token with exactly this content ("</s>", "Ġthe"), or TOKENIZER_NONE. */
uint32_t tokenizer_find(const struct tokenizer *t, const char *content, size_t len);
bool tokenizer_is_special(const struct tokenizer *t, uint32_t id);
/* The token as the vocabulary spells it; false: no such id. Borrowed from the blob, no NUL. */
bool tokenizer_token_text(const struct tokenizer *t, uint32_t id, const char **ret,
                          size_t *ret_len);
/* The bytes that this token alone stands for in the output, maybe not whole characters. */
bool tokenizer_token_bytes(const struct tokenizer *t, uint32_t id, const char **ret,
                           size_t *ret_len);

/* --- text to ids --- */

struct token_list {
    uint32_t *ids; /* owned */
    size_t count;
    size_t cap;
    size_t max; /* one more fails with -E2BIG */
};

void token_list_init(struct token_list *l, size_t max);
void token_list_free(struct token_list *l);
int token_list_append(struct token_list *l, uint32_t id); /* 0, -E2BIG, -ENOMEM */

enum tokenizer_flag {
    TOKENIZER_ADD_SPECIAL = 1, /* what the post-processor adds: beginning and end of text */
};

/* Appends the ids of `text`; added tokens that are spelled in it become their ids, as in the
 * reference. On failure the list is as before. -E2BIG: too long for the list or for the limits. */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, unsigned flags,
                     struct token_list *ret, struct error *err);

/* --- ids to text, as they come --- */

struct detokenizer {
    const struct tokenizer *t;
    struct buf pending;   /* bytes whose character, or run of byte tokens, is not over yet */
    uint32_t strip_count; /* characters that may still be stripped from the beginning */
    bool skip_special;
    bool begun; /* a token was seen */
};

void detokenizer_init(struct detokenizer *d, const struct tokenizer *t, bool skip_special);
void detokenizer_free(struct detokenizer *d);
/* Appends to `out` the text that is certain now, only whole characters. All pushes and the flush
 * together give exactly what the reference's decode gives for all ids. Where a tokenizer spells
 * bytes as tokens (<0xE2>) a run of them is one unit in the reference, so it is held until it
 * ends. Unknown ids are ignored, as there. 0, or what buf_append returned. */
int detokenizer_push(struct detokenizer *d, uint32_t id, struct buf *out);
/* The end: appends what was held, U+FFFD for what stayed incomplete. Ready for new ids then. */
int detokenizer_flush(struct detokenizer *d, struct buf *out);
