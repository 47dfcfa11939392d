/*
 * Ids to text as they come. Two kinds: tokens that stand for bytes, where only the tail of an
 * unfinished character waits; and tokens that are text with single bytes among them, where a run
 * of such bytes waits for its end, because the reference judges the run as a whole.
 */
#include "model/tokenizer_blob.h"
#include "model/tokenizer_unicode.h"

#include <errno.h>
#include <string.h>

#define REPLACEMENT "\xef\xbf\xbd"
#define PENDING_BYTES_MAX (64u << 20)

void detokenizer_init(struct detokenizer *d, const struct tokenizer *t, bool skip_special)
{
    *d = (struct detokenizer){
        .t = t, .strip_count = t->header->strip_count, .skip_special = skip_special};
    buf_init(&d->pending, PENDING_BYTES_MAX);
}

void detokenizer_free(struct detokenizer *d)
{
    buf_free(&d->pending);
}

/* Appends text of a decoder's end, less what is stripped from the very beginning. */
static int emit(struct detokenizer *d, const char *p, size_t len, struct buf *out)
{
    char mark[4];
    size_t n = (size_t)utf8_put(d->t->header->strip_char, mark);
    while (d->strip_count > 0 && len > 0) {
        if (len < n || memcmp(p, mark, n) != 0) {
            d->strip_count = 0;
            break;
        }
        d->strip_count--;
        p += n;
        len -= n;
    }
    return buf_append(out, p, len);
}

/* Emits the whole characters among the pending bytes; keeps the beginning of one. */
static int emit_pending(struct detokenizer *d, bool flush, struct buf *out)
{
    struct buf *b = &d->pending;
    size_t at = 0, start = 0;
    int r = 0;
    uint32_t c;
    while (r == 0 && at < b->len) {
        int n = utf8_next(b->data + at, b->len - at, &c);
        if (n > 0) {
            at += (size_t)n;
            continue;
        }
        if (n == 0 && !flush)
            break;
        r = emit(d, b->data + start, at - start, out);
        if (r == 0)
            r = emit(d, REPLACEMENT, strlen(REPLACEMENT), out);
        at = n < 0 ? at + (size_t)-n : b->len;
        start = at;
    }
    if (r == 0)
        r = emit(d, b->data + start, at - start, out);
    if (at > 0)
        buf_consume(b, at);
    return r;
}

/* The end of a run of byte tokens: their text, or U+FFFD for every one of them. */
static int end_run(struct detokenizer *d, struct buf *out)
{
    struct buf *b = &d->pending;
    int r = 0;
    if (b->len > 0 && utf8_is_valid(b->data, b->len))
        r = emit(d, b->data, b->len, out);
    else
        for (size_t i = 0; r == 0 && i < b->len; i++)
            r = emit(d, REPLACEMENT, strlen(REPLACEMENT), out);
    buf_clear(b);
    return r;
}

/* A token of the kind that is text. */
static int push_text(struct detokenizer *d, const struct blob_token *token, struct buf *out)
{
    struct text bytes = blob_text(d->t, token->bytes_offset, token->bytes_len);
    if (token->flags & TOKEN_RUN)
        return buf_append(&d->pending, bytes.p, bytes.len);
    int r = end_run(d, out);
    if (r < 0)
        return r;
    if (d->begun || !(d->t->header->flags & BLOB_DECODE_METASPACE))
        return emit(d, bytes.p, bytes.len, out);
    struct text text = blob_text(d->t, token->text_offset, token->text_len);
    for (size_t i = 0; r == 0 && i < text.len;) {
        uint32_t c = TOKENIZER_NONE;
        int n = utf8_next(text.p + i, text.len - i, &c);
        n = n > 0 ? n : 1;
        if (c != d->t->header->metaspace)
            r = emit(d, text.p + i, (size_t)n, out);
        i += (size_t)n;
    }
    return r;
}

int detokenizer_push(struct detokenizer *d, uint32_t id, struct buf *out)
{
    const struct tokenizer *t = d->t;
    if (id >= tokenizer_vocab_count(t))
        return 0;
    const struct blob_token *token = &t->tokens[id];
    if (!(token->flags & TOKEN_PRESENT) || (d->skip_special && (token->flags & TOKEN_SPECIAL)))
        return 0;
    int r;
    if (t->header->flags & BLOB_BYTE_LEVEL) {
        struct text bytes = blob_text(t, token->bytes_offset, token->bytes_len);
        r = buf_append(&d->pending, bytes.p, bytes.len);
        if (r == 0)
            r = emit_pending(d, false, out);
    } else {
        r = push_text(d, token, out);
    }
    d->begun = true;
    return r;
}

int detokenizer_flush(struct detokenizer *d, struct buf *out)
{
    bool bytes = (d->t->header->flags & BLOB_BYTE_LEVEL) != 0;
    int r = bytes ? emit_pending(d, true, out) : end_run(d, out);
    buf_clear(&d->pending);
    d->strip_count = d->t->header->strip_count;
    d->begun = false;
    return r;
}
