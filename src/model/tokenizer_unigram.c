/*
 * Unigram: of all ways to cut a word into pieces, the one with the largest sum of scores; the first
 * found of equals, as in the reference. A character that is no piece counts as unknown with a score
 * below every piece, and neighbouring unknown ones become one token, or the tokens of their bytes.
 */
#include "model/tokenizer_blob.h"
#include "model/tokenizer_unicode.h"

#include <errno.h>
#include <stdlib.h>

void unigram_free(struct unigram *u)
{
    free(u->ends);
    *u = (struct unigram){0};
}

static int reserve(struct unigram *u, size_t count)
{
    if (count <= u->cap)
        return 0;
    size_t cap = count < 2 * u->cap ? 2 * u->cap : count;
    struct unigram_end *ends = realloc(u->ends, cap * sizeof ends[0]);
    if (ends == NULL)
        return -ENOMEM;
    u->ends = ends;
    u->cap = cap;
    return 0;
}

/* One more way to get to `end`. */
static void reach(struct unigram_end *end, double score, size_t start, uint32_t id)
{
    if (end->other == TOKENIZER_NONE || score > end->score)
        *end = (struct unigram_end){score, (uint32_t)start, id};
}

/* Sets the best last piece of every end that pieces lead to. */
static int find_ends(const struct tokenizer *t, struct unigram *u, const char *word, size_t len)
{
    double unknown = blob_score(t, blob_count(t, SECTION_SCORES) - 1);
    u->ends[0] = (struct unigram_end){0, 0, 0};
    for (size_t i = 1; i <= len; i++)
        u->ends[i].other = TOKENIZER_NONE;
    for (size_t at = 0; at < len;) {
        uint32_t c;
        int n = utf8_next(word + at, len - at, &c);
        if (n <= 0)
            return -EINVAL;
        double here = u->ends[at].score;
        bool known = false; /* some piece is exactly this character */
        struct prefixes all = prefixes_of(t, t->pieces, t->piece_first, word + at, len - at);
        for (const struct blob_added *a; (a = prefixes_next(&all)) != NULL;) {
            reach(&u->ends[at + a->len], blob_score(t, a->id) + here, at, a->id);
            known |= a->len == (size_t)n;
        }
        if (!known)
            reach(&u->ends[at + (size_t)n], unknown + here, at, t->header->unk_id);
        at += (size_t)n;
    }
    return 0;
}

/* Turns "where the last piece begins" into "where the next piece ends" along the best way. */
static void turn_round(struct unigram_end *ends, size_t len)
{
    uint32_t to = (uint32_t)len, from = ends[to].other;
    while (to > 0) {
        uint32_t before = ends[from].other;
        ends[from].other = to;
        to = from;
        from = before;
    }
}

static int append(const struct tokenizer *t, struct token_list *out, uint32_t id)
{
    return id < blob_count(t, SECTION_TOKENS) ? token_list_append(out, id) : -EINVAL;
}

/* A stretch of unknown characters, which may together be a piece after all. */
static int append_unknown(const struct tokenizer *t, const char *p, size_t len,
                          struct token_list *out)
{
    uint32_t id = tokenizer_find_word(t, p, len);
    bool bytes = id == TOKENIZER_NONE && (t->header->flags & BLOB_BYTE_FALLBACK) != 0;
    for (size_t i = 0; bytes && i < len; i++)
        bytes = t->header->byte_ids[(uint8_t)p[i]] != TOKENIZER_NONE;
    if (!bytes)
        return append(t, out, id != TOKENIZER_NONE ? id : t->header->unk_id);
    int r = 0;
    for (size_t i = 0; r == 0 && i < len; i++)
        r = append(t, out, t->header->byte_ids[(uint8_t)p[i]]);
    return r;
}

int unigram_encode(const struct tokenizer *t, struct unigram *u, const char *word, size_t len,
                   struct token_list *out)
{
    uint32_t unk = t->header->unk_id;
    int r = reserve(u, len + 1);
    if (r == 0)
        r = find_ends(t, u, word, len);
    if (r < 0)
        return r;
    turn_round(u->ends, len);
    for (size_t at = 0; r == 0 && at < len;) {
        size_t end = u->ends[at].other;
        uint32_t id = u->ends[end].id;
        while (id == unk && end < len && u->ends[u->ends[end].other].id == unk)
            end = u->ends[end].other;
        r = id == unk ? append_unknown(t, word + at, end - at, out) : append(t, out, id);
        at = end;
    }
    return r;
}
