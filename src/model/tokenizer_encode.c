/*
 * Text to ids, one road for every kind of tokenizer: repair, cut at added tokens, normalize each
 * stretch, cut at normalized added tokens, split by the pre-tokenizer's steps, turn each word into
 * ids. The steps run piece by piece, depth first, so that no list of pieces is ever made.
 */
#include "model/tokenizer_blob.h"
#include "model/tokenizer_unicode.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct encoder {
    const struct tokenizer *t;
    struct token_list *out;
    struct error *err;
    struct matcher matcher;
    struct bpe bpe;
    struct unigram unigram;
    struct buf normalized[2];
    struct buf pieces[BLOB_STEPS_MAX]; /* what a step made of its piece, where it changes it */
    bool at_start;                     /* the stretch in work begins where the text begins */
};

static int run_step(struct encoder *e, uint32_t index, struct text piece);

static int fail(struct encoder *e, int r)
{
    if (r == -E2BIG)
        return error_set(e->err, r, "the text is too long: more than %zu tokens", e->out->max);
    if (r == -EINVAL)
        return error_set(e->err, r, "tokenizer image: damaged tables; pack the backbone again");
    return error_set(e->err, r, "tokenizer: out of memory");
}

/* --- pre-tokenizer steps --- */

/* Merges segments as the split's behavior says and hands the pieces on. */
struct joiner {
    uint32_t behavior;
    bool previous; /* the last segment was a match */
    struct text held;
};

static int hand_on(struct encoder *e, uint32_t index, struct text piece)
{
    return piece.len > 0 ? run_step(e, index + 1, piece) : 0;
}

static int join(struct encoder *e, uint32_t index, struct joiner *j, struct text segment,
                bool match)
{
    bool extend = false;
    switch (j->behavior) {
    case SPLIT_REMOVED:
        return match ? 0 : hand_on(e, index, segment);
    case SPLIT_CONTIGUOUS:
        extend = match == j->previous;
        break;
    case SPLIT_MERGED_PREVIOUS:
        extend = match && !j->previous;
        break;
    case SPLIT_MERGED_NEXT: /* a match waits, and only what is none joins it */
        extend = !match && j->previous;
        break;
    default:
        return hand_on(e, index, segment);
    }
    j->previous = match;
    if (extend && j->held.p != NULL) {
        j->held.len += segment.len;
        return 0;
    }
    struct text before = j->held;
    j->held = segment;
    return hand_on(e, index, before);
}

static int step_split(struct encoder *e, uint32_t index, struct text piece)
{
    const struct blob_step *s = &e->t->split[index];
    struct joiner j = {.behavior = s->flags & ~STEP_SPLIT_INVERT};
    bool invert = (s->flags & STEP_SPLIT_INVERT) != 0;
    struct segments segments;
    struct text segment;
    bool match;
    int r;
    bool newer = unicode_has_newer(piece.p, piece.len);
    segments_init(&segments, e->t->split_code[index][newer], (struct text){0}, piece.p, piece.len);
    while ((r = segments_next(&segments, &e->matcher, &segment, &match, e->err)) > 0) {
        r = join(e, index, &j, segment, match != invert);
        if (r < 0)
            return r;
    }
    return r < 0 ? r : hand_on(e, index, j.held);
}

static int step_prefix_space(struct encoder *e, uint32_t index, struct text piece)
{
    struct buf *b = &e->pieces[index];
    if (piece.p[0] == ' ')
        return run_step(e, index + 1, piece);
    buf_clear(b);
    int r = buf_append_char(b, ' ');
    if (r == 0)
        r = buf_append(b, piece.p, piece.len);
    if (r < 0)
        return fail(e, r);
    return run_step(e, index + 1, (struct text){b->data, b->len});
}

static int step_metaspace(struct encoder *e, uint32_t index, struct text piece)
{
    const struct blob_step *s = &e->t->split[index];
    struct text mark = blob_text(e->t, s->b_offset, s->b_len);
    struct buf *b = &e->pieces[index];
    bool begins =
        piece.p[0] == ' ' || (piece.len >= mark.len && memcmp(piece.p, mark.p, mark.len) == 0);
    bool prepend = (s->flags & METASPACE_ALWAYS) || ((s->flags & METASPACE_FIRST) && e->at_start);
    int r = 0;
    buf_clear(b);
    if (prepend && !begins)
        r = buf_append(b, mark.p, mark.len);
    for (size_t i = 0; r == 0 && i < piece.len; i++)
        r = piece.p[i] == ' ' ? buf_append(b, mark.p, mark.len) : buf_append_char(b, piece.p[i]);
    if (r < 0)
        return fail(e, r);
    struct text rest = {b->data, b->len};
    while (r == 0 && rest.len > 0) {
        struct text word = rest;
        if (s->flags & METASPACE_SPLIT) {
            const char *next = memmem(rest.p + 1, rest.len - 1, mark.p, mark.len);
            word.len = next != NULL ? (size_t)(next - rest.p) : rest.len;
        }
        rest.p += word.len;
        rest.len -= word.len;
        r = run_step(e, index + 1, word);
    }
    return r;
}

static int run_step(struct encoder *e, uint32_t index, struct text piece)
{
    if (index == blob_count(e->t, SECTION_SPLIT)) {
        int r = e->t->header->flags & BLOB_UNIGRAM
                    ? unigram_encode(e->t, &e->unigram, piece.p, piece.len, e->out)
                    : bpe_encode(e->t, &e->bpe, piece.p, piece.len, e->out);
        return r < 0 ? fail(e, r) : 0;
    }
    switch (e->t->split[index].kind) {
    case STEP_PREFIX_SPACE:
        return step_prefix_space(e, index, piece);
    case STEP_METASPACE:
        return step_metaspace(e, index, piece);
    default:
        return step_split(e, index, piece);
    }
}

/* --- added tokens --- */

/* The longest added token that begins here, or NULL. */
static const struct blob_added *longest_added(const struct tokenizer *t, size_t which,
                                              const char *p, size_t len)
{
    struct prefixes all = prefixes_of(t, t->added[which], t->added_first[which], p, len);
    const struct blob_added *best = NULL;
    for (const struct blob_added *a; (a = prefixes_next(&all)) != NULL;)
        best = a;
    return best;
}

static size_t char_before(const char *p, size_t at)
{
    do
        at--;
    while (at > 0 && ((uint8_t)p[at] & 0xc0) == 0x80);
    return at;
}

static bool is_word_at(struct encoder *e, struct text s, size_t at)
{
    return pcre2_match(e->t->word_code, (PCRE2_SPTR)s.p, s.len, at,
                       PCRE2_NO_UTF_CHECK | PCRE2_ANCHORED, e->matcher.data,
                       e->matcher.context) > 0;
}

static bool is_single_word(struct encoder *e, struct text s, size_t start, size_t stop)
{
    if (start > 0 && is_word_at(e, s, char_before(s.p, start)))
        return false;
    return stop == s.len || !is_word_at(e, s, stop);
}

static bool is_space_at(struct text s, size_t at, size_t *ret_next)
{
    uint32_t c;
    int n = utf8_next(s.p + at, s.len - at, &c);
    *ret_next = at + (n > 0 ? (size_t)n : 1);
    return n > 0 && unicode_is_space(c);
}

typedef int stretch_fn(struct encoder *e, struct text stretch, bool first);

/* Cuts the text at the added tokens of one kind: their ids go out, what lies between goes on. The
 * spaces that a token takes with it do not keep the next token from being found in them. */
static int cut_added(struct encoder *e, size_t which, struct text s, bool first, stretch_fn *go_on)
{
    size_t done = 0, at = 0;
    int r = 0;
    while (r == 0 && at < s.len) {
        const struct blob_added *a = longest_added(e->t, which, s.p + at, s.len - at);
        if (a == NULL) {
            at++;
            continue;
        }
        size_t start = at, stop = at + a->len, next;
        at = stop;
        if ((a->flags & ADDED_SINGLE_WORD) && !is_single_word(e, s, start, stop))
            continue;
        while ((a->flags & ADDED_LSTRIP) && start > done &&
               is_space_at(s, char_before(s.p, start), &next))
            start = char_before(s.p, start);
        while ((a->flags & ADDED_RSTRIP) && stop < s.len && is_space_at(s, stop, &next))
            stop = next;
        if (done < start)
            r = go_on(e, (struct text){s.p + done, start - done}, first && done == 0);
        if (r == 0 && (r = token_list_append(e->out, a->id)) < 0)
            fail(e, r);
        done = stop;
    }
    if (r == 0 && done < s.len)
        r = go_on(e, (struct text){s.p + done, s.len - done}, first && done == 0);
    return r;
}

static int encode_words(struct encoder *e, struct text stretch, bool first)
{
    e->at_start = first;
    return run_step(e, 0, stretch);
}

static int encode_stretch(struct encoder *e, struct text stretch, bool first)
{
    int r = normalize_run(e->t, &e->matcher, stretch, e->normalized, &stretch, e->err);
    return r < 0 ? r : cut_added(e, 1, stretch, first, encode_words);
}

static int append_all(struct encoder *e, const uint32_t *ids, uint32_t count)
{
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < count; i++)
        r = token_list_append(e->out, ids[i]);
    return r < 0 ? fail(e, r) : 0;
}

static int encode(struct encoder *e, struct text text, unsigned flags)
{
    struct buf repaired;
    buf_init(&repaired, 3 * (size_t)TOKENIZER_TEXT_BYTES_MAX);
    int r = 0;
    if (flags & TOKENIZER_ADD_SPECIAL)
        r = append_all(e, e->t->prefix, blob_count(e->t, SECTION_PREFIX));
    if (r == 0 && !utf8_is_valid(text.p, text.len)) {
        r = utf8_repair(text.p, text.len, &repaired);
        if (r < 0)
            fail(e, r);
        text = (struct text){repaired.data, repaired.len};
    }
    if (r == 0)
        r = cut_added(e, 0, text, true, encode_stretch);
    if (r == 0 && (flags & TOKENIZER_ADD_SPECIAL))
        r = append_all(e, e->t->suffix, blob_count(e->t, SECTION_SUFFIX));
    buf_free(&repaired);
    return r;
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, unsigned flags,
                     struct token_list *ret, struct error *err)
{
    if (len > TOKENIZER_TEXT_BYTES_MAX)
        return error_set(err, -E2BIG, "the text is too long: more than %u bytes",
                         TOKENIZER_TEXT_BYTES_MAX);
    struct encoder e = {.t = t, .out = ret, .err = err};
    size_t before = ret->count;
    if (matcher_init(&e.matcher) < 0)
        return error_set(err, -ENOMEM, "tokenizer: out of memory");
    for (size_t i = 0; i < BLOB_STEPS_MAX; i++)
        buf_init(&e.pieces[i], 16 * (size_t)TOKENIZER_TEXT_BYTES_MAX);
    for (size_t i = 0; i < 2; i++)
        buf_init(&e.normalized[i], TOKENIZER_TEXT_BYTES_MAX);
    int r = encode(&e, (struct text){text, len}, flags);
    if (r < 0)
        ret->count = before;
    for (size_t i = 0; i < BLOB_STEPS_MAX; i++)
        buf_free(&e.pieces[i]);
    buf_free(&e.normalized[0]);
    buf_free(&e.normalized[1]);
    bpe_free(&e.bpe);
    unigram_free(&e.unigram);
    matcher_free(&e.matcher);
    return r;
}
