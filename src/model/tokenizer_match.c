/* Patterns over text, as tokenizer_blob.h declares them, and the normalizer's steps. */
#include "model/tokenizer_blob.h"
#include "model/tokenizer_unicode.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* One search of a sound pattern takes a few steps a byte; what needs more is refused. */
#define MATCH_STEPS_MAX (1u << 25)
#define MATCH_HEAP_KIB_MAX (256u << 10)
#define NORMALIZED_BYTES_MAX (128u << 20)

pcre2_code *pattern_compile(const char *p, size_t len, struct error *err)
{
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (context == NULL) {
        error_set(err, -ENOMEM, "tokenizer: out of memory");
        return NULL;
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int code = 0;
    PCRE2_SIZE at = 0;
    pcre2_code *re = pcre2_compile(
        (PCRE2_SPTR)p, len, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
        &code, &at, context);
    pcre2_compile_context_free(context);
    if (re == NULL) {
        PCRE2_UCHAR text[256];
        pcre2_get_error_message(code, text, sizeof text);
        error_set(err, -EINVAL, "tokenizer: a pattern does not compile: %s", (char *)text);
    }
    return re;
}

int matcher_init(struct matcher *m)
{
    m->data = pcre2_match_data_create(1, NULL);
    m->context = pcre2_match_context_create(NULL);
    if (m->data == NULL || m->context == NULL) {
        matcher_free(m);
        return -ENOMEM;
    }
    pcre2_set_match_limit(m->context, MATCH_STEPS_MAX);
    pcre2_set_heap_limit(m->context, MATCH_HEAP_KIB_MAX);
    return 0;
}

void matcher_free(struct matcher *m)
{
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->context);
    *m = (struct matcher){0};
}

void segments_init(struct segments *s, const pcre2_code *code, struct text needle, const char *p,
                   size_t len)
{
    *s = (struct segments){
        .code = code, .needle = needle, .p = p, .len = len, .last = SIZE_MAX, .over = len == 0};
}

/* The leftmost match from s->search on: 1, 0 when there is none, or an error. */
static int search(struct segments *s, struct matcher *m, struct error *err)
{
    if (s->code == NULL) {
        const char *hit = memmem(s->p + s->search, s->len - s->search, s->needle.p, s->needle.len);
        if (hit == NULL)
            return 0;
        s->start = (size_t)(hit - s->p);
        s->end = s->start + s->needle.len;
        return 1;
    }
    int r = pcre2_match(s->code, (PCRE2_SPTR)s->p, s->len, s->search, PCRE2_NO_UTF_CHECK, m->data,
                        m->context);
    if (r == PCRE2_ERROR_NOMATCH)
        return 0;
    if (r < 0)
        return error_set(err, r == PCRE2_ERROR_NOMEMORY ? -ENOMEM : -E2BIG,
                         "tokenizer: this text takes its pattern too many steps (%d)", r);
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(m->data);
    if (span[0] > span[1] || span[0] < s->search || span[1] > s->len)
        return error_set(err, -EINVAL, "tokenizer: a pattern matches backwards");
    s->start = span[0];
    s->end = span[1];
    return 1;
}

/* Finds the next match that counts: an empty one right after the last does not. */
static int advance(struct segments *s, struct matcher *m, struct error *err)
{
    while (!s->over && s->search <= s->len) {
        int r = search(s, m, err);
        if (r < 0)
            return r;
        if (r == 0)
            break;
        if (s->start != s->end || s->end != s->last) {
            s->search = s->end;
            s->last = s->end;
            s->found = true;
            return 0;
        }
        uint32_t c;
        int n = s->search < s->len ? utf8_next(s->p + s->search, s->len - s->search, &c) : 1;
        s->search += n > 0 ? (size_t)n : 1;
    }
    s->over = true;
    return 0;
}

int segments_next(struct segments *s, struct matcher *m, struct text *ret, bool *ret_match,
                  struct error *err)
{
    if (!s->found) {
        int r = advance(s, m, err);
        if (r < 0)
            return r;
    }
    size_t until = s->found ? s->start : s->len;
    if (s->at < until) {
        *ret = (struct text){s->p + s->at, until - s->at};
        *ret_match = false;
        s->at = until;
        return 1;
    }
    if (!s->found)
        return 0;
    *ret = (struct text){s->p + s->start, s->end - s->start};
    *ret_match = true;
    s->at = s->end;
    s->found = false;
    return 1;
}

static int replace(const pcre2_code *code, struct text needle, struct text content,
                   struct matcher *m, struct text in, struct buf *out, struct error *err)
{
    struct segments segments;
    struct text piece;
    bool match;
    int r;
    segments_init(&segments, code, needle, in.p, in.len);
    while ((r = segments_next(&segments, m, &piece, &match, err)) > 0) {
        r = match ? buf_append(out, content.p, content.len) : buf_append(out, piece.p, piece.len);
        if (r < 0)
            return r;
    }
    return r;
}

/* The text without White_Space at the ends that flags name (1 left, 2 right). */
static struct text strip(struct text in, uint32_t flags)
{
    uint32_t c;
    size_t keep = 0, at = 0;
    bool leading = (flags & 1) != 0;
    struct text out = in;
    while (at < in.len) {
        int n = utf8_next(in.p + at, in.len - at, &c);
        if (n <= 0)
            return in;
        bool space = unicode_is_space(c);
        if (leading && space) {
            out.p += n;
        } else {
            leading = false;
            if (!space)
                keep = at + (size_t)n;
        }
        at += (size_t)n;
    }
    const char *end = in.p + in.len;
    if (flags & 2)
        end = in.p + keep > out.p ? in.p + keep : out.p;
    out.len = (size_t)(end - out.p);
    return out;
}

static int normalize_step(const struct tokenizer *t, uint32_t index, struct matcher *m,
                          struct text in, struct buf *out, struct error *err)
{
    const struct blob_step *s = &t->normalize[index];
    struct text a = blob_text(t, s->a_offset, s->a_len), b = blob_text(t, s->b_offset, s->b_len);
    struct text kept;
    int r = 0;
    switch (s->kind) {
    case STEP_FORM:
        return unicode_normalize((enum unicode_form)s->flags, in.p, in.len, out);
    case STEP_LOWERCASE:
        return unicode_lowercase(in.p, in.len, out);
    case STEP_STRIP:
        kept = strip(in, s->flags);
        return buf_append(out, kept.p, kept.len);
    case STEP_PREPEND:
        if (in.len > 0)
            r = buf_append(out, b.p, b.len);
        return r == 0 ? buf_append(out, in.p, in.len) : r;
    default:
        return replace(t->normalize_code[index], a, b, m, in, out, err);
    }
}

int normalize_run(const struct tokenizer *t, struct matcher *m, struct text in,
                  struct buf buffers[2], struct text *ret, struct error *err)
{
    struct error why = {0};
    for (uint32_t i = 0; i < blob_count(t, SECTION_NORMALIZE); i++) {
        struct buf *out = &buffers[i % 2];
        out->max_bytes = NORMALIZED_BYTES_MAX;
        buf_clear(out);
        int r = normalize_step(t, i, m, in, out, &why);
        if (r < 0 && why.code != 0)
            return error_set(err, r, "%s", why.text);
        if (r < 0)
            return error_set(err, r, "tokenizer: the normalized text is too long");
        in = (struct text){out->data != NULL ? out->data : "", out->len};
    }
    *ret = in;
    return 0;
}
