/*
 * tokenizer.json to blob: vocabulary, merges and scores into tables that need no building at run
 * time. Runs in the packer on untrusted bytes; what the reference would read differently
 * is refused here, so that a blob that exists is right.
 */
#include "model/tokenizer_compile.h"
#include "model/tokenizer_unicode.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define POOL_BYTES_MAX (256u << 20)

struct text compile_text(const json_t *string)
{
    return (struct text){json_string_value(string), json_string_length(string)};
}

int compile_store(struct compile *c, const char *p, size_t len, uint32_t *ret_offset,
                  uint32_t *ret_len)
{
    uint32_t offset = (uint32_t)c->pool.len;
    int r = buf_append(&c->pool, p, len);
    if (r < 0)
        return error_set(c->err, r, "tokenizer.json: more than %u bytes of text", POOL_BYTES_MAX);
    *ret_offset = offset;
    *ret_len = (uint32_t)len;
    return 0;
}

const json_t *compile_member(struct compile *c, const json_t *object, const char *key,
                             json_type type)
{
    const json_t *member = json_object_get(object, key);
    if (member != NULL && json_typeof(member) == type)
        return member;
    error_set(c->err, -EINVAL, "tokenizer.json: \"%s\" is missing or of a wrong type", key);
    return NULL;
}

int compile_bool(struct compile *c, const json_t *object, const char *key, bool otherwise,
                 bool *ret)
{
    const json_t *member = json_object_get(object, key);
    *ret = otherwise;
    if (member == NULL || json_is_null(member))
        return 0;
    if (!json_is_boolean(member))
        return error_set(c->err, -EINVAL, "tokenizer.json: \"%s\" is not a boolean", key);
    *ret = json_is_true(member);
    return 0;
}

static uint32_t power_of_two(uint32_t at_least)
{
    uint32_t n = 1;
    while (n < at_least)
        n *= 2;
    return n;
}

/* --- tokens --- */

static int grow_tokens(struct compile *c, uint32_t count)
{
    if (count <= c->token_count)
        return 0;
    struct blob_token *tokens = realloc(c->tokens, count * sizeof tokens[0]);
    if (tokens == NULL)
        return error_set(c->err, -ENOMEM, "tokenizer: out of memory");
    memset(tokens + c->token_count, 0, (count - c->token_count) * sizeof tokens[0]);
    c->tokens = tokens;
    c->token_count = count;
    return 0;
}

/* What is left of a token's text after the decoder's replacements. */
static int replace_all(struct compile *c, struct text in, struct buf *a, struct buf *b,
                       struct text *ret)
{
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < c->replacement_count; i++) {
        const struct compile_replacement *rule = &c->replacements[i];
        struct buf *out = i % 2 == 0 ? a : b;
        buf_clear(out);
        while (r == 0 && in.len > 0) {
            const char *hit = memmem(in.p, in.len, rule->from.p, rule->from.len);
            size_t before = hit != NULL ? (size_t)(hit - in.p) : in.len;
            size_t used = hit != NULL ? before + rule->from.len : in.len;
            r = buf_append(out, in.p, before);
            if (r == 0 && hit != NULL)
                r = buf_append(out, rule->to.p, rule->to.len);
            in = (struct text){in.p + used, in.len - used};
        }
        in = (struct text){out->data != NULL ? out->data : "", out->len};
    }
    *ret = in;
    return r;
}

/* "<0xE2>", as the reference's from_str_radix reads it: "<0x+5>" is one too. */
static bool is_byte_token(struct text s, uint8_t *ret)
{
    unsigned value = 0;
    if (s.len != 6 || memcmp(s.p, "<0x", 3) != 0 || s.p[5] != '>')
        return false;
    for (int i = 3; i < 5; i++) {
        char ch = s.p[i];
        if (ch >= '0' && ch <= '9')
            value = value << 4 | (unsigned)(ch - '0');
        else if ((ch | 32) >= 'a' && (ch | 32) <= 'f')
            value = value << 4 | (unsigned)((ch | 32) - 'a' + 10);
        else if (i != 3 || ch != '+')
            return false;
    }
    *ret = (uint8_t)value;
    return true;
}

int compile_set_bytes(struct compile *c, uint32_t id, struct text text)
{
    struct blob_token *token = &c->tokens[id];
    struct buf a, b;
    buf_init(&a, COMPILE_TOKEN_BYTES_MAX * 16);
    buf_init(&b, COMPILE_TOKEN_BYTES_MAX * 16);
    struct text out = text;
    uint8_t byte;
    int r = 0;
    token->flags &= ~(uint32_t)(TOKEN_BYTES | TOKEN_RUN);
    if (c->header.flags & BLOB_BYTE_LEVEL) {
        r = buf_reserve(&a, text.len);
        if (r == 0 && byte_alphabet_decode(text.p, text.len, a.data, &out.len)) {
            out.p = a.data;
            token->flags |= TOKEN_BYTES;
        }
    } else {
        r = replace_all(c, text, &a, &b, &out);
        if (r == 0 && (c->header.flags & BLOB_DECODE_RUNS) && is_byte_token(out, &byte)) {
            token->flags |= TOKEN_RUN;
            out = (struct text){(const char *)&byte, 1};
        }
    }
    if (r < 0)
        error_set(c->err, r, "tokenizer.json: a token decodes to too much text");
    else
        r = compile_store(c, out.p, out.len, &token->bytes_offset, &token->bytes_len);
    buf_free(&a);
    buf_free(&b);
    return r;
}

int compile_token(struct compile *c, uint32_t id, struct text text, uint32_t flags)
{
    int r = grow_tokens(c, id + 1);
    if (r < 0)
        return r;
    struct blob_token *token = &c->tokens[id];
    if (token->flags & TOKEN_PRESENT)
        return error_set(c->err, -EINVAL, "tokenizer.json: two tokens have the id %u", id);
    if (text.len > COMPILE_TOKEN_BYTES_MAX)
        return error_set(c->err, -E2BIG, "tokenizer.json: token %u is longer than %u bytes", id,
                         COMPILE_TOKEN_BYTES_MAX);
    token->flags = TOKEN_PRESENT | flags;
    r = compile_store(c, text.p, text.len, &token->text_offset, &token->text_len);
    return r == 0 ? compile_set_bytes(c, id, text) : r;
}

static int add_vocab(struct compile *c)
{
    json_t *items = c->vocab;
    int r = json_object_size(items) == 0
                ? error_set(c->err, -EINVAL, "tokenizer.json: the vocabulary is empty")
                : 0;
    uint32_t largest = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (void *i = json_object_iter(items); r == 0 && i != NULL;
             i = json_object_iter_next(items, i)) {
            const json_t *value = json_object_iter_value(i);
            json_int_t id = json_integer_value(value);
            if (!json_is_integer(value) || id < 0 || id >= BLOB_VOCAB_MAX)
                r = error_set(c->err, -EINVAL, "tokenizer.json: an id is not in 0..%u",
                              BLOB_VOCAB_MAX - 1);
            else if (pass == 0)
                largest = id > largest ? (uint32_t)id : largest;
            else
                r = compile_token(
                    c, (uint32_t)id,
                    (struct text){json_object_iter_key(i), json_object_iter_key_len(i)},
                    TOKEN_MODEL);
        }
        if (r == 0)
            r = grow_tokens(c, largest + 1);
    }
    return r;
}

uint32_t compile_vocab_id(const struct compile *c, const char *p, size_t len)
{
    const json_t *id = json_object_getn(c->vocab, p, len);
    return id != NULL ? (uint32_t)json_integer_value(id) : TOKENIZER_NONE;
}

/* --- merges --- */

static int insert_merge(struct compile *c, struct blob_merge merge)
{
    uint32_t at = blob_hash_pair(merge.left, merge.right);
    for (uint32_t probe = 0; probe < BLOB_PROBES_MAX; probe++, at++) {
        struct blob_merge *slot = &c->merges[at & (c->merge_cap - 1)];
        if (slot->left != TOKENIZER_NONE &&
            (slot->left != merge.left || slot->right != merge.right))
            continue;
        *slot = merge; /* of two equal pairs the reference keeps the last */
        return 0;
    }
    return error_set(c->err, -E2BIG, "tokenizer.json: the merges do not fit their hash table");
}

/* The halves of "a b" or ["a", "b"]. */
static int read_merge(struct compile *c, const json_t *item, struct text *a, struct text *b)
{
    if (json_is_array(item) && json_array_size(item) == 2) {
        *a = compile_text(json_array_get(item, 0));
        *b = compile_text(json_array_get(item, 1));
        if (a->p != NULL && b->p != NULL)
            return 0;
    }
    struct text both = compile_text(item);
    const char *space = both.p != NULL ? memchr(both.p, ' ', both.len) : NULL;
    if (space != NULL) {
        *a = (struct text){both.p, (size_t)(space - both.p)};
        *b = (struct text){space + 1, both.len - a->len - 1};
        if (memchr(b->p, ' ', b->len) == NULL)
            return 0;
    }
    return error_set(c->err, -EINVAL, "tokenizer.json: a merge is not a pair");
}

static int add_merge(struct compile *c, const json_t *item, uint32_t rank, struct buf *joined)
{
    struct text a = {0}, b = {0};
    int r = read_merge(c, item, &a, &b);
    if (r < 0)
        return r;
    buf_clear(joined);
    r = buf_append(joined, a.p, a.len);
    if (r == 0)
        r = buf_append(joined, b.p, b.len);
    if (r < 0)
        return error_set(c->err, r, "tokenizer.json: merge %u is too long", rank);
    struct blob_merge merge = {compile_vocab_id(c, a.p, a.len), compile_vocab_id(c, b.p, b.len),
                               rank, compile_vocab_id(c, joined->data, joined->len)};
    if (merge.left == TOKENIZER_NONE || merge.right == TOKENIZER_NONE || merge.id == TOKENIZER_NONE)
        return error_set(c->err, -EINVAL,
                         "tokenizer.json: merge %u names a token that is not in the vocabulary",
                         rank);
    return insert_merge(c, merge);
}

/* `merges` is NULL where the model has none. */
static int add_merges(struct compile *c, const json_t *merges)
{
    size_t count = json_array_size(merges);
    if (count > BLOB_MERGES_MAX)
        return error_set(c->err, -E2BIG, "tokenizer.json: more than %u merges", BLOB_MERGES_MAX);
    c->merge_cap = power_of_two(2 * (uint32_t)count);
    c->merges = malloc(c->merge_cap * sizeof c->merges[0]);
    if (c->merges == NULL)
        return error_set(c->err, -ENOMEM, "tokenizer: out of memory");
    memset(c->merges, 0xff, c->merge_cap * sizeof c->merges[0]);
    struct buf joined;
    buf_init(&joined, 2 * (size_t)COMPILE_TOKEN_BYTES_MAX);
    uint32_t rank = 0;
    int r = 0;
    for (size_t i = 0; r == 0 && i < count; i++) {
        const json_t *item = json_array_get(merges, i);
        const char *line = json_string_value(item);
        if (line != NULL && strncmp(line, "#version", 8) == 0)
            continue;
        r = add_merge(c, item, rank++, &joined);
    }
    buf_free(&joined);
    return r;
}

/* --- model --- */

static int set_byte_ids(struct compile *c)
{
    bool level = (c->header.flags & BLOB_BYTE_LEVEL) != 0, complete = true;
    for (unsigned byte = 0; byte < 256; byte++) {
        char text[8];
        int n = level ? byte_alphabet_put((uint8_t)byte, text)
                      : snprintf(text, sizeof text, "<0x%02X>", byte);
        c->header.byte_ids[byte] = compile_vocab_id(c, text, (size_t)n);
        complete &= c->header.byte_ids[byte] != TOKENIZER_NONE;
    }
    if (level && !complete && (c->header.flags & BLOB_BYTE_FALLBACK))
        return error_set(c->err, -EINVAL,
                         "tokenizer.json: byte_fallback with ByteLevel and an incomplete alphabet "
                         "is not supported");
    return 0;
}

static int set_model_flags(struct compile *c, const json_t *model)
{
    static const struct {
        const char *key;
        uint32_t flag;
    } flags[] = {{"fuse_unk", BLOB_FUSE_UNK},
                 {"byte_fallback", BLOB_BYTE_FALLBACK},
                 {"ignore_merges", BLOB_IGNORE_MERGES}};
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        bool set;
        int r = compile_bool(c, model, flags[i].key, false, &set);
        if (r < 0)
            return r;
        if (set)
            c->header.flags |= flags[i].flag;
    }
    for (size_t i = 0; i < sizeof affixes / sizeof affixes[0]; i++)
        if (json_string_length(json_object_get(model, affixes[i])) > 0)
            return error_set(c->err, -EINVAL, "tokenizer.json: %s is not supported", affixes[i]);
    const json_t *dropout = json_object_get(model, "dropout");
    if (json_is_number(dropout) && json_number_value(dropout) != 0)
        return error_set(c->err, -EINVAL, "tokenizer.json: dropout is not supported");
    return 0;
}

static int compile_bpe(struct compile *c, const json_t *model)
{
    const json_t *vocab = compile_member(c, model, "vocab", JSON_OBJECT);
    const json_t *merges = vocab != NULL ? compile_member(c, model, "merges", JSON_ARRAY) : NULL;
    int r = merges == NULL ? -EINVAL : set_model_flags(c, model);
    if (r < 0)
        return r;
    c->vocab = json_incref((json_t *)(uintptr_t)vocab);
    r = add_vocab(c);
    if (r == 0)
        r = add_merges(c, merges);
    if (r == 0)
        r = set_byte_ids(c);
    struct text unk = compile_text(json_object_get(model, "unk_token"));
    if (r == 0 && unk.p != NULL) {
        c->header.unk_id = compile_vocab_id(c, unk.p, unk.len);
        if (c->header.unk_id == TOKENIZER_NONE)
            r = error_set(c->err, -EINVAL, "tokenizer.json: unk_token is not in the vocabulary");
    }
    return r;
}

/* --- Unigram --- */

/* What the reference takes off the smallest score for a character that no piece covers. */
#define UNKNOWN_PENALTY 10.0

/* The vocabulary of Unigram is a list of [piece, score]; c->vocab becomes piece -> id, as in BPE.
 */
static int read_pieces(struct compile *c, const json_t *list)
{
    size_t count = json_array_size(list);
    if (count > BLOB_VOCAB_MAX)
        return error_set(c->err, -E2BIG, "tokenizer.json: more than %u tokens", BLOB_VOCAB_MAX);
    c->vocab = json_object();
    c->scores = calloc(count + 1, sizeof c->scores[0]);
    if (c->vocab == NULL || c->scores == NULL)
        return error_set(c->err, -ENOMEM, "tokenizer: out of memory");
    double smallest = INFINITY;
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(list, i), *value = json_array_get(item, 1);
        struct text piece = compile_text(json_array_get(item, 0));
        double score = json_number_value(value);
        if (piece.p == NULL || !json_is_number(value) || json_array_size(item) != 2)
            return error_set(c->err, -EINVAL,
                             "tokenizer.json: item %zu of the vocabulary is not [piece, score]", i);
        if (piece.len > BLOB_ADDED_BYTES_MAX)
            return error_set(c->err, -E2BIG, "tokenizer.json: token %zu is longer than %u bytes", i,
                             BLOB_ADDED_BYTES_MAX);
        if (json_object_getn(c->vocab, piece.p, piece.len) != NULL)
            return error_set(c->err, -EINVAL, "tokenizer.json: token %zu is there twice", i);
        if (json_object_setn_new(c->vocab, piece.p, piece.len, json_integer((json_int_t)i)) < 0)
            return error_set(c->err, -ENOMEM, "tokenizer: out of memory");
        smallest = score < smallest ? score : smallest;
        blob_put_score(&c->scores[i], score);
    }
    blob_put_score(&c->scores[count], smallest - UNKNOWN_PENALTY);
    c->score_count = (uint32_t)count + 1;
    return 0;
}

static int sort_pieces(struct compile *c)
{
    struct blob_added *pieces = calloc(c->token_count, sizeof pieces[0]);
    if (pieces == NULL)
        return error_set(c->err, -ENOMEM, "tokenizer: out of memory");
    c->pieces = pieces;
    for (uint32_t id = 0; id < c->token_count; id++) {
        const struct blob_token *token = &c->tokens[id];
        if (token->text_len > 0) /* the reference's search never finds the empty piece */
            pieces[c->piece_count++] =
                (struct blob_added){token->text_offset, token->text_len, id, 0};
    }
    compile_sort(c, pieces, c->piece_count);
    return 0;
}

static int compile_unigram(struct compile *c, const json_t *model)
{
    const json_t *list = compile_member(c, model, "vocab", JSON_ARRAY);
    const json_t *unk = list != NULL ? compile_member(c, model, "unk_id", JSON_INTEGER) : NULL;
    bool fallback;
    if (unk == NULL || compile_bool(c, model, "byte_fallback", false, &fallback) < 0)
        return -EINVAL;
    if (c->header.flags & BLOB_BYTE_LEVEL)
        return error_set(c->err, -EINVAL,
                         "tokenizer.json: model Unigram with ByteLevel is not supported");
    json_int_t unk_id = json_integer_value(unk);
    if (unk_id < 0 || (size_t)unk_id >= json_array_size(list))
        return error_set(c->err, -EINVAL, "tokenizer.json: unk_id is not in the vocabulary");
    c->header.unk_id = (uint32_t)unk_id;
    c->header.flags |= BLOB_UNIGRAM | (fallback ? (uint32_t)BLOB_BYTE_FALLBACK : 0);
    int r = read_pieces(c, list);
    if (r == 0)
        r = add_vocab(c);
    if (r == 0)
        r = add_merges(c, NULL);
    if (r == 0)
        r = set_byte_ids(c);
    return r == 0 ? sort_pieces(c) : r;
}

static int compile_model(struct compile *c)
{
    const json_t *model = compile_member(c, c->root, "model", JSON_OBJECT);
    if (model == NULL)
        return -EINVAL;
    const char *type = json_string_value(json_object_get(model, "type"));
    if (type == NULL) /* older files do not say it */
        type = json_is_array(json_object_get(model, "vocab")) ? "Unigram" : "BPE";
    c->header.unk_id = TOKENIZER_NONE;
    if (strcmp(type, "BPE") == 0)
        return compile_bpe(c, model);
    if (strcmp(type, "Unigram") == 0)
        return compile_unigram(c, model);
    return error_set(c->err, -EINVAL,
                     "tokenizer.json: model %.80s is not supported, only BPE and Unigram", type);
}

/* --- the blob --- */

static int put_section(struct compile *c, struct buf *out, enum blob_section which,
                       const void *records, uint32_t count, size_t record_bytes)
{
    int r = 0;
    c->header.sections[which] = (struct blob_section_range){(uint32_t)out->len, count};
    if (count > 0)
        r = buf_append(out, records, count * record_bytes);
    while (r == 0 && out->len % 4 != 0)
        r = buf_append_char(out, 0);
    return r;
}

int compile_write(struct compile *c, struct buf *out)
{
    const struct {
        const void *records;
        uint32_t count;
        size_t record_bytes;
    } sections[SECTION_COUNT] = {
        [SECTION_POOL] = {c->pool.data, (uint32_t)c->pool.len, 1},
        [SECTION_TOKENS] = {c->tokens, c->token_count, sizeof c->tokens[0]},
        [SECTION_NAMES] = {c->names, c->name_cap, sizeof c->names[0]},
        [SECTION_MERGES] = {c->merges, c->merge_cap, sizeof c->merges[0]},
        [SECTION_ADDED_RAW] = {c->added[0], c->added_count[0], sizeof c->added[0][0]},
        [SECTION_ADDED_NORM] = {c->added[1], c->added_count[1], sizeof c->added[1][0]},
        [SECTION_NORMALIZE] = {c->normalize.items, c->normalize.count, sizeof(struct blob_step)},
        [SECTION_SPLIT] = {c->split.items, c->split.count, sizeof(struct blob_step)},
        [SECTION_PREFIX] = {c->prefix.ids, c->prefix.count, sizeof(uint32_t)},
        [SECTION_SUFFIX] = {c->suffix.ids, c->suffix.count, sizeof(uint32_t)},
        [SECTION_PIECES] = {c->pieces, c->piece_count, sizeof c->pieces[0]},
        [SECTION_SCORES] = {c->scores, c->score_count, sizeof c->scores[0]},
    };
    int r = buf_append(out, &c->header, sizeof c->header);
    for (int i = 0; r == 0 && i < SECTION_COUNT; i++)
        r = put_section(c, out, i, sections[i].records, sections[i].count,
                        sections[i].record_bytes);
    if (r < 0)
        return error_set(c->err, r, "tokenizer: the compiled form is too large");
    c->header.magic = BLOB_MAGIC;
    c->header.version = BLOB_VERSION;
    c->header.bytes = (uint32_t)out->len;
    memcpy(out->data, &c->header, sizeof c->header);
    return 0;
}

/* --- everything --- */

static int build_names(struct compile *c)
{
    c->name_cap = power_of_two(2 * c->token_count);
    c->names = malloc(c->name_cap * sizeof c->names[0]);
    if (c->names == NULL)
        return error_set(c->err, -ENOMEM, "tokenizer: out of memory");
    memset(c->names, 0xff, c->name_cap * sizeof c->names[0]);
    for (uint32_t id = 0; id < c->token_count; id++) {
        const struct blob_token *token = &c->tokens[id];
        if (!(token->flags & TOKEN_PRESENT))
            continue;
        bool bytes = (c->header.flags & BLOB_BYTE_LEVEL) != 0;
        const char *key = c->pool.data + (bytes ? token->bytes_offset : token->text_offset);
        uint32_t at = blob_hash(key, bytes ? token->bytes_len : token->text_len);
        uint32_t probe = 0;
        while (probe < BLOB_PROBES_MAX && c->names[at & (c->name_cap - 1)] != TOKENIZER_NONE) {
            probe++;
            at++;
        }
        if (probe == BLOB_PROBES_MAX)
            return error_set(c->err, -E2BIG,
                             "tokenizer.json: the vocabulary does not fit its "
                             "hash table");
        c->names[at & (c->name_cap - 1)] = id;
    }
    return 0;
}

/* The workers will open what was written; what they would refuse is refused now. */
static int check_opens(const struct buf *blob, struct error *err)
{
    struct tokenizer *t;
    int r = tokenizer_open(&t, blob->data, blob->len, err);
    if (r == 0)
        tokenizer_close(t);
    return r;
}

static json_t *load(const char *json, size_t len, struct error *err)
{
    json_error_t why;
    if (len > TOKENIZER_JSON_BYTES_MAX) {
        error_set(err, -E2BIG, "tokenizer.json: larger than %u bytes", TOKENIZER_JSON_BYTES_MAX);
        return NULL;
    }
    json_t *root = json_loadb(json, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
    if (root == NULL)
        error_set(err, -EINVAL, "tokenizer.json, line %d: %s", why.line, why.text);
    return root;
}

int tokenizer_compile(const char *json, size_t len, struct buf *ret_blob, struct error *err)
{
    struct error local = {0};
    json_t *root = load(json, len, &local);
    struct compile c = {.root = root, .err = &local};
    buf_init(&c.pool, POOL_BYTES_MAX);
    int r = root == NULL ? local.code : compile_parts(&c);
    if (r == 0)
        r = compile_model(&c);
    if (r == 0)
        r = compile_added(&c);
    if (r == 0)
        r = compile_post_processor(&c);
    if (r == 0)
        r = build_names(&c);
    if (r == 0)
        r = compile_write(&c, ret_blob);
    if (r == 0)
        r = check_opens(ret_blob, &local);
    if (r < 0) {
        buf_clear(ret_blob);
        error_set(err, r, "%s", local.text);
    }
    json_decref(c.vocab);
    json_decref(root);
    buf_free(&c.pool);
    free(c.tokens);
    free(c.names);
    free(c.merges);
    free(c.pieces);
    free(c.scores);
    free(c.added[0]);
    free(c.added[1]);
    return r;
}
