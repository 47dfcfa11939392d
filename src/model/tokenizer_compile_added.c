/* Added tokens: which ids they get, by which text they are matched, and in which order. */
#include "model/tokenizer_compile.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A tokenizer of the normalizer alone, with one empty token. */
static int open_normalizer(const struct compile *c, struct buf *blob, struct tokenizer **ret)
{
    struct compile only = {.err = c->err, .pool = c->pool, .normalize = c->normalize};
    struct blob_token token = {0};
    struct blob_merge merge = {TOKENIZER_NONE, TOKENIZER_NONE, 0, 0};
    uint32_t name = TOKENIZER_NONE;
    only.header.unk_id = TOKENIZER_NONE;
    only.tokens = &token;
    only.names = &name;
    only.merges = &merge;
    only.token_count = only.name_cap = only.merge_cap = 1;
    int r = compile_write(&only, blob);
    return r == 0 ? tokenizer_open(ret, blob->data, blob->len, c->err) : r;
}

/* The id that the reference gives: the model's, or the next free one behind the vocabulary. */
static int assign_id(struct compile *c, struct text content, uint32_t *next, uint32_t *ret)
{
    uint32_t id = compile_vocab_id(c, content.p, content.len);
    if (id == TOKENIZER_NONE) {
        id = (*next)++;
        if (id >= BLOB_VOCAB_MAX)
            return error_set(c->err, -E2BIG, "tokenizer.json: more than %u tokens", BLOB_VOCAB_MAX);
        int r = compile_token(c, id, content, 0);
        if (r < 0)
            return r;
    }
    *ret = id;
    return 0;
}

struct added_flags {
    bool special;
    bool normalized;
    uint32_t flags; /* enum blob_added_flag */
};

static int read_added_flags(struct compile *c, const json_t *item, struct added_flags *ret)
{
    bool lstrip, rstrip, single;
    int r = compile_bool(c, item, "special", false, &ret->special);
    if (r == 0)
        r = compile_bool(c, item, "normalized", !ret->special, &ret->normalized);
    if (r == 0)
        r = compile_bool(c, item, "lstrip", false, &lstrip);
    if (r == 0)
        r = compile_bool(c, item, "rstrip", false, &rstrip);
    if (r == 0)
        r = compile_bool(c, item, "single_word", false, &single);
    if (r == 0)
        ret->flags = (lstrip ? (uint32_t)ADDED_LSTRIP : 0) | (rstrip ? (uint32_t)ADDED_RSTRIP : 0) |
                     (single ? (uint32_t)ADDED_SINGLE_WORD : 0);
    return r;
}

/* One added token. The reference matches and decodes a normalized one by its normalized text, and
 * then no longer knows it as special. */
static int add_added(struct compile *c, const json_t *item, struct text content, uint32_t id,
                     const struct tokenizer *normalizer, struct matcher *matcher)
{
    struct added_flags f;
    struct buf buffers[2];
    struct text text = content;
    int r = read_added_flags(c, item, &f);
    if (r < 0)
        return r;
    buf_init(&buffers[0], COMPILE_TOKEN_BYTES_MAX);
    buf_init(&buffers[1], COMPILE_TOKEN_BYTES_MAX);
    if (f.normalized)
        r = normalize_run(normalizer, matcher, content, buffers, &text, c->err);
    bool changed = text.len != content.len || memcmp(text.p, content.p, text.len) != 0;
    struct blob_token *token = &c->tokens[id];
    struct blob_added *added = &c->added[f.normalized][c->added_count[f.normalized]];
    *added = (struct blob_added){token->text_offset, token->text_len, id, f.flags};
    if (r == 0 && (text.len == 0 || text.len > BLOB_ADDED_BYTES_MAX))
        r = error_set(c->err, -E2BIG, "tokenizer.json: added token %u is empty or longer than %u",
                      id, BLOB_ADDED_BYTES_MAX);
    if (r == 0 && changed && (c->header.flags & BLOB_BYTE_LEVEL))
        r = error_set(c->err, -EINVAL,
                      "tokenizer.json: added token %u, which the normalizer changes, is not "
                      "supported",
                      id);
    if (r == 0 && changed) {
        r = compile_store(c, text.p, text.len, &added->offset, &added->len);
        if (r == 0)
            r = compile_set_bytes(c, id, text);
    }
    if (f.special && !changed)
        token->flags |= TOKEN_SPECIAL;
    c->added_count[f.normalized]++;
    buf_free(&buffers[0]);
    buf_free(&buffers[1]);
    return r;
}

static int compare_added(const void *a, const void *b, void *pool)
{
    const struct blob_added *x = a, *y = b;
    const char *text = pool;
    uint32_t len = x->len < y->len ? x->len : y->len;
    int order = memcmp(text + x->offset, text + y->offset, len);
    if (order != 0)
        return order;
    return x->len < y->len ? -1 : x->len > y->len;
}

void compile_sort(const struct compile *c, struct blob_added *items, uint32_t count)
{
    if (count > 0)
        qsort_r(items, count, sizeof items[0], compare_added, c->pool.data);
}

static int sort_added(struct compile *c)
{
    for (int kind = 0; kind < 2; kind++) {
        struct blob_added *added = c->added[kind];
        uint32_t count = c->added_count[kind];
        compile_sort(c, added, count);
        for (uint32_t i = 1; i < count; i++)
            if (compare_added(&added[i - 1], &added[i], c->pool.data) == 0)
                return error_set(c->err, -EINVAL,
                                 "tokenizer.json: added tokens %u and %u match the same text",
                                 added[i - 1].id, added[i].id);
    }
    return 0;
}

static int add_all_added(struct compile *c, const json_t *items, const struct tokenizer *normalizer,
                         struct matcher *matcher)
{
    uint32_t next = (uint32_t)json_object_size(c->vocab);
    json_t *seen = json_object();
    int r = seen == NULL ? error_set(c->err, -ENOMEM, "tokenizer: out of memory") : 0;
    for (size_t i = 0; r == 0 && i < json_array_size(items); i++) {
        const json_t *item = json_array_get(items, i);
        struct text content = compile_text(json_object_get(item, "content"));
        uint32_t id = TOKENIZER_NONE;
        if (content.p == NULL)
            r = error_set(c->err, -EINVAL, "tokenizer.json: added token %zu has no content", i);
        else if (content.len == 0)
            continue;
        else if (json_object_getn(seen, content.p, content.len) != NULL)
            r = error_set(c->err, -EINVAL, "tokenizer.json: added token %zu is there twice", i);
        if (r == 0)
            r = assign_id(c, content, &next, &id);
        if (r == 0 && json_object_setn_new(seen, content.p, content.len, json_true()) < 0)
            r = error_set(c->err, -ENOMEM, "tokenizer: out of memory");
        if (r == 0)
            r = add_added(c, item, content, id, normalizer, matcher);
    }
    json_decref(seen);
    return r == 0 ? sort_added(c) : r;
}

int compile_added(struct compile *c)
{
    const json_t *items = json_object_get(c->root, "added_tokens");
    struct tokenizer *normalizer = NULL;
    struct matcher matcher = {0};
    struct buf blob;
    size_t count = json_array_size(items);
    if (count == 0)
        return 0;
    if (count > BLOB_ADDED_MAX)
        return error_set(c->err, -E2BIG, "tokenizer.json: more than %u added tokens",
                         BLOB_ADDED_MAX);
    buf_init(&blob, TOKENIZER_BLOB_BYTES_MAX);
    c->added[0] = calloc(count, sizeof c->added[0][0]);
    c->added[1] = calloc(count, sizeof c->added[1][0]);
    int r = 0;
    if (c->added[0] == NULL || c->added[1] == NULL || matcher_init(&matcher) < 0)
        r = error_set(c->err, -ENOMEM, "tokenizer: out of memory");
    if (r == 0)
        r = open_normalizer(c, &blob, &normalizer);
    if (r == 0)
        r = add_all_added(c, items, normalizer, &matcher);
    tokenizer_close(normalizer);
    matcher_free(&matcher);
    buf_free(&blob);
    return r;
}
