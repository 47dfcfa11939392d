/* What the two halves of the compiler share: tokenizer_compile.c (vocabulary, merges, added
 * tokens, the blob) and tokenizer_compile_parts.c (the components around the model). */
#pragma once

#include "model/tokenizer_blob.h"

#include <jansson.h>

#define COMPILE_NESTING_MAX 8 /* of Sequence components */

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

/* normalizer, pre_tokenizer, decoder: steps and header fields. */
int compile_parts(struct compile *c);
/* post_processor: prefix and suffix; the ids must exist. */
int compile_post_processor(struct compile *c);
