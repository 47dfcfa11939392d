/*
 * Byte pair encoding of one word. The pair with the smallest rank merges first, the leftmost of
 * equals. Short words are scanned for it, long ones keep a heap, so that a megabyte without a
 * split costs n log n: heap entries go stale when their symbol merges, and are skipped when seen.
 */
#include "model/tokenizer_blob.h"
#include "model/tokenizer_unicode.h"

#include <errno.h>
#include <stdlib.h>

#define SCANNED_SYMBOLS_MAX 24

void bpe_free(struct bpe *b)
{
    free(b->symbols);
    free(b->heap);
    *b = (struct bpe){0};
}

/* --- words to symbols --- */

static int add_symbol(struct bpe *b, uint32_t id)
{
    if (b->count == b->symbol_cap) {
        size_t cap = b->symbol_cap < 64 ? 64 : b->symbol_cap * 2;
        struct bpe_symbol *symbols = realloc(b->symbols, cap * sizeof symbols[0]);
        if (symbols == NULL)
            return -ENOMEM;
        b->symbols = symbols;
        b->symbol_cap = cap;
    }
    b->symbols[b->count++] = (struct bpe_symbol){.id = id};
    return 0;
}

static uint32_t find_char(const struct tokenizer *t, const char *p, size_t len)
{
    if (t->header->flags & BLOB_BYTE_LEVEL)
        return t->header->byte_ids[(uint8_t)p[0]];
    return len == 1 ? t->ascii_ids[p[0] & 0x7f] : tokenizer_find_word(t, p, len);
}

/* The tokens of a character's bytes. 1: done; 0: one of them is missing. */
static int add_fallback(const struct tokenizer *t, struct bpe *b, const char *p, size_t len)
{
    if (!(t->header->flags & BLOB_BYTE_FALLBACK))
        return 0;
    for (size_t i = 0; i < len; i++)
        if (t->header->byte_ids[(uint8_t)p[i]] == TOKENIZER_NONE)
            return 0;
    int r = 0;
    for (size_t i = 0; r == 0 && i < len; i++)
        r = add_symbol(b, t->header->byte_ids[(uint8_t)p[i]]);
    return r < 0 ? r : 1;
}

/* As the reference does it, an unknown character waits for the next known one: fallback bytes
 * that come between overtake it. */
static int add_symbols(const struct tokenizer *t, struct bpe *b, const char *word, size_t len)
{
    bool bytes = (t->header->flags & BLOB_BYTE_LEVEL) != 0;
    uint32_t unk = t->header->unk_id;
    bool waiting = false;
    int r = 0;
    for (size_t i = 0; r >= 0 && i < len;) {
        uint32_t c;
        int n = bytes ? 1 : utf8_next(word + i, len - i, &c);
        if (n <= 0)
            return -EINVAL;
        uint32_t id = find_char(t, word + i, (size_t)n);
        const char *p = word + i;
        i += (size_t)n;
        if (id != TOKENIZER_NONE) {
            r = waiting ? add_symbol(b, unk) : 0;
            waiting = false;
            if (r == 0)
                r = add_symbol(b, id);
            continue;
        }
        r = bytes ? 0 : add_fallback(t, b, p, (size_t)n);
        if (r != 0 || unk == TOKENIZER_NONE)
            continue;
        if (waiting && !(t->header->flags & BLOB_FUSE_UNK))
            r = add_symbol(b, unk);
        waiting = true;
    }
    if (r >= 0 && waiting)
        r = add_symbol(b, unk);
    return r < 0 ? r : 0;
}

/* --- merging --- */

/* Sets rank and merged of a symbol from what stands next to it. */
static void look_up_pair(const struct tokenizer *t, struct bpe *b, uint32_t at)
{
    struct bpe_symbol *s = &b->symbols[at];
    uint32_t mask = blob_count(t, SECTION_MERGES) - 1;
    s->rank = TOKENIZER_NONE;
    if (s->next == TOKENIZER_NONE)
        return;
    uint32_t right = b->symbols[s->next].id;
    uint32_t slot = blob_hash_pair(s->id, right);
    for (uint32_t probe = 0; probe <= mask && probe < BLOB_PROBES_MAX; probe++, slot++) {
        const struct blob_merge *m = &t->merges[slot & mask];
        if (m->left == TOKENIZER_NONE)
            return;
        if (m->left == s->id && m->right == right) {
            s->rank = m->rank;
            s->merged = m->id;
            return;
        }
    }
}

/* Merges a symbol with the next one. */
static void merge(struct bpe *b, uint32_t at)
{
    struct bpe_symbol *s = &b->symbols[at], *gone = &b->symbols[s->next];
    s->id = s->merged;
    s->next = gone->next;
    if (s->next != TOKENIZER_NONE)
        b->symbols[s->next].previous = at;
    gone->rank = TOKENIZER_NONE;
}

static void merge_scanning(const struct tokenizer *t, struct bpe *b)
{
    for (;;) {
        uint32_t best = TOKENIZER_NONE, rank = TOKENIZER_NONE;
        for (uint32_t at = 0; at != TOKENIZER_NONE; at = b->symbols[at].next) {
            if (b->symbols[at].rank < rank) {
                rank = b->symbols[at].rank;
                best = at;
            }
        }
        if (best == TOKENIZER_NONE)
            return;
        merge(b, best);
        look_up_pair(t, b, best);
        if (b->symbols[best].previous != TOKENIZER_NONE)
            look_up_pair(t, b, b->symbols[best].previous);
    }
}

static int heap_push(struct bpe *b, uint32_t at)
{
    if (b->symbols[at].rank == TOKENIZER_NONE)
        return 0;
    if (b->heap_count == b->heap_cap) {
        size_t cap = b->heap_cap < 256 ? 256 : b->heap_cap * 2;
        uint64_t *heap = realloc(b->heap, cap * sizeof heap[0]);
        if (heap == NULL)
            return -ENOMEM;
        b->heap = heap;
        b->heap_cap = cap;
    }
    uint64_t key = (uint64_t)b->symbols[at].rank << 32 | at;
    size_t i = b->heap_count++;
    for (; i > 0 && b->heap[(i - 1) / 2] > key; i = (i - 1) / 2)
        b->heap[i] = b->heap[(i - 1) / 2];
    b->heap[i] = key;
    return 0;
}

static uint64_t heap_pop(struct bpe *b)
{
    uint64_t top = b->heap[0], key = b->heap[--b->heap_count];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= b->heap_count)
            break;
        if (child + 1 < b->heap_count && b->heap[child + 1] < b->heap[child])
            child++;
        if (b->heap[child] >= key)
            break;
        b->heap[i] = b->heap[child];
        i = child;
    }
    b->heap[i] = key;
    return top;
}

static int merge_heaping(const struct tokenizer *t, struct bpe *b)
{
    int r = 0;
    b->heap_count = 0;
    for (uint32_t at = 0; r == 0 && at < b->count; at++)
        r = heap_push(b, at);
    while (r == 0 && b->heap_count > 0) {
        uint64_t top = heap_pop(b);
        uint32_t at = (uint32_t)top;
        if (b->symbols[at].rank != top >> 32)
            continue;
        merge(b, at);
        look_up_pair(t, b, at);
        r = heap_push(b, at);
        uint32_t previous = b->symbols[at].previous;
        if (r == 0 && previous != TOKENIZER_NONE) {
            look_up_pair(t, b, previous);
            r = heap_push(b, previous);
        }
    }
    return r;
}

static int append(const struct tokenizer *t, struct token_list *out, uint32_t id)
{
    return id < blob_count(t, SECTION_TOKENS) ? token_list_append(out, id) : -EINVAL;
}

int bpe_encode(const struct tokenizer *t, struct bpe *b, const char *word, size_t len,
               struct token_list *out)
{
    if (t->header->flags & BLOB_IGNORE_MERGES) {
        uint32_t id = tokenizer_find_word(t, word, len);
        if (id != TOKENIZER_NONE)
            return append(t, out, id);
    }
    b->count = 0;
    int r = add_symbols(t, b, word, len);
    if (r < 0 || b->count == 0)
        return r;
    uint32_t count = (uint32_t)b->count; /* text is limited far below 2^32 */
    for (uint32_t at = 0; at < count; at++) {
        b->symbols[at].previous = at == 0 ? TOKENIZER_NONE : at - 1;
        b->symbols[at].next = at + 1 == count ? TOKENIZER_NONE : at + 1;
    }
    for (uint32_t at = 0; at < count; at++)
        look_up_pair(t, b, at);
    if (count <= SCANNED_SYMBOLS_MAX)
        merge_scanning(t, b);
    else
        r = merge_heaping(t, b);
    for (uint32_t at = 0; r == 0 && at != TOKENIZER_NONE; at = b->symbols[at].next)
        r = append(t, out, b->symbols[at].id);
    return r;
}
