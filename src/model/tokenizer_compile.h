/* What the parts of the compiler share: tokenizer_compile.c (vocabulary, merges, scores, the blob),
 * tokenizer_compile_added.c (added tokens), tokenizer_compile_parts.c (the components around the
 * model). */
#pragma once

#include "model/tokenizer_blob.h"

#include <jansson.h>

#define COMPILE_NESTING_MAX 8          /* of Sequence components */
#define COMPILE_TOKEN_BYTES_MAX 65536u /* of one token's text */

struct compile_steps {
    struct blob_step items[BLOB_STEPS_MAX];
    uint32_t count;
};

struct compile_affix {
    uint32_t ids[BLOB_AFFIX_MAX];
    uint32_t count;
};

/* "every `from` becomes `to`", on each token's text before it is joined. */
struct compile_replacement {
    struct text from; /* borrowed from the JSON */
    struct text to;
};

struct compile {
    const json_t *root;
    json_t *vocab; /* the model's: text -> id; a reference */
    struct error *err;
    struct buf pool;
    struct blob_header header;
    struct compile_steps normalize;
    struct compile_steps split;
    struct compile_affix prefix;
    struct compile_affix suffix;
    struct compile_replacement replacements[BLOB_STEPS_MAX];
    uint32_t replacement_count;
    bool decode_fused; /* the decoder joined the tokens: no more work on single ones */

    struct blob_token *tokens; /* owned */
    uint32_t token_count;
    uint32_t *names; /* owned */
    uint32_t name_cap;
    struct blob_merge *merges; /* owned */
    uint32_t merge_cap;
    struct blob_added *pieces; /* owned; Unigram */
    uint32_t piece_count;
    struct blob_score *scores; /* owned; Unigram */
    uint32_t score_count;
    struct blob_added *added[2]; /* owned */
    uint32_t added_count[2];
};

/* Puts text into the pool: 0 or an error with its reason. */
int compile_store(struct compile *c, const char *p, size_t len, uint32_t *ret_offset,
                  uint32_t *ret_len);
/* A member that must be there with this type: NULL, with the reason in c->err. */
const json_t *compile_member(struct compile *c, const json_t *object, const char *key,
                             json_type type);
/* A boolean member; `otherwise` where it is missing or null. */
int compile_bool(struct compile *c, const json_t *object, const char *key, bool otherwise,
                 bool *ret);
struct text compile_text(const json_t *string);
/* The id in the model's vocabulary, or TOKENIZER_NONE. */
uint32_t compile_vocab_id(const struct compile *c, const char *p, size_t len);
/* A new token with this id and text; flags are of enum blob_token_flag. */
int compile_token(struct compile *c, uint32_t id, struct text text, uint32_t flags);
/* Sets what the token decodes to, from the text that the reference decodes: mostly its own. */
int compile_set_bytes(struct compile *c, uint32_t id, struct text text);
/* By text; the tokens must lie in the pool already. */
void compile_sort(const struct compile *c, struct blob_added *items, uint32_t count);
int compile_write(struct compile *c, struct buf *out);

/* normalizer, pre_tokenizer, decoder: steps and header fields. */
int compile_parts(struct compile *c);
/* added_tokens: c->added; the model must be there. */
int compile_added(struct compile *c);
/* post_processor: prefix and suffix; the ids must exist. */
int compile_post_processor(struct compile *c);
