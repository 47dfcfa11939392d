/*
 * Tokens into OpenAI's answers. The parts that stay the same over a stream are written once per
 * answer; a token then costs a few appends. See openai.h.
 */
#include "gateway/openai.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What an answer's buffers keep between answers. */
#define KEPT_BYTES 16384u

/* The arrays of a completion's log-probabilities, in the order they are written. A chat has one
 * array, kept in the first buffer. */
enum part { PART_TOKENS, PART_LOGPROBS, PART_TOP, PART_OFFSETS, PART_COUNT };
_Static_assert(PART_COUNT == OPENAI_PARTS, "one buffer a part");

static const char *const part_names[PART_COUNT] = {"{\"tokens\":[", "],\"token_logprobs\":[",
                                                   "],\"top_logprobs\":[", "],\"text_offset\":["};

void openai_reply_init(struct openai_reply *a, size_t held_bytes_max)
{
    *a = (struct openai_reply){.held_bytes_max = held_bytes_max};
    buf_init(&a->model, 8192);
    buf_init(&a->event, 16384);
}

static void choice_free(struct openai_choice *c)
{
    buf_free(&c->text);
    for (int i = 0; i < PART_COUNT; i++)
        buf_free(&c->part[i]);
}

void openai_reply_free(struct openai_reply *a)
{
    buf_free(&a->model);
    buf_free(&a->event);
    for (uint32_t i = 0; i < a->choice_count; i++)
        choice_free(&a->choices[i]);
    free(a->choices);
}

static void reset(struct buf *b)
{
    if (b->cap > KEPT_BYTES)
        buf_free(b);
    else
        buf_clear(b);
}

static int append(struct buf *b, const char *s)
{
    return buf_append(b, s, strlen(s));
}

static int append_u64(struct buf *b, uint64_t value)
{
    char digits[20];
    size_t at = sizeof digits;
    do
        digits[--at] = (char)('0' + value % 10);
    while ((value /= 10) > 0);
    return buf_append(b, digits + at, sizeof digits - at);
}

/* JSON knows no infinity: what is not a number is told as a very small log-probability. */
static int append_logprob(struct buf *b, float logprob)
{
    char text[32];
    int n = snprintf(text, sizeof text, "%.9g", isfinite(logprob) ? (double)logprob : -9999.0);
    return buf_append(b, text, (size_t)n);
}

/* {"id":"...","object":"...","created":...,"model":"..." and the start of choices */
static int append_envelope(struct openai_reply *a, struct buf *out, const char *object)
{
    int r = append(out, "{\"id\":\"");
    r |= append(out, a->id);
    r |= append(out, "\",\"object\":\"");
    r |= append(out, object);
    r |= append(out, "\",\"created\":");
    r |= append_u64(out, a->created_s);
    r |= append(out, ",\"model\":\"");
    r |= buf_append(out, a->model.data, a->model.len);
    return r | append(out, "\",\"choices\":[");
}

/* Exactly `count` choices, empty; the first one's buffers are kept. */
static int resize_choices(struct openai_reply *a, uint32_t count)
{
    uint32_t kept = a->choice_count < 1 ? 0 : 1;
    for (; a->choice_count > kept; a->choice_count--)
        choice_free(&a->choices[a->choice_count - 1]);
    struct openai_choice *choices = realloc(a->choices, count * sizeof *choices);
    if (choices == NULL)
        return -ENOMEM;
    a->choices = choices;
    for (; a->choice_count < count; a->choice_count++) {
        struct openai_choice *c = &choices[a->choice_count];
        buf_init(&c->text, a->held_bytes_max);
        for (int i = 0; i < PART_COUNT; i++)
            buf_init(&c->part[i], a->held_bytes_max);
    }
    reset(&choices[0].text);
    for (int i = 0; i < PART_COUNT; i++)
        reset(&choices[0].part[i]);
    for (uint32_t i = 0; i < count; i++) {
        choices[i].begun = false;
        choices[i].finish = NULL;
        choices[i].offset_chars = 0;
        choices[i].token_count = 0;
    }
    return 0;
}

int openai_reply_begin(struct openai_reply *a, const struct openai_request *r, const char *id,
                       uint64_t created_s)
{
    a->kind = r->infer.kind;
    a->include_usage = r->include_usage;
    a->continuous_usage = r->continuous_usage;
    a->logprobs = r->infer.logprobs;
    a->created_s = created_s;
    a->held_bytes = 0;
    snprintf(a->id, sizeof a->id, "%s%s", a->kind == INFER_CHAT ? "chatcmpl-" : "cmpl-", id);
    reset(&a->model);
    reset(&a->event);
    int e = resize_choices(a, r->infer.choices);
    if (e == 0)
        e = openai_append_text(&a->model, r->name, strlen(r->name));
    if (e < 0 || !r->infer.stream)
        return e;
    e = append(&a->event, "data: ");
    return e | append_envelope(a, &a->event,
                               a->kind == INFER_CHAT ? "chat.completion.chunk" : "text_completion");
}

/* --- log-probabilities --- */

static uint64_t count_chars(const char *s, size_t len)
{
    uint64_t count = 0;
    for (size_t i = 0; i < len; i++)
        count += ((unsigned char)s[i] & 0xc0) != 0x80;
    return count;
}

/* NUL is no text here: as a key of an object it would be more than many JSON readers take. */
static bool is_text(const char *s, size_t len)
{
    size_t at = 0;
    for (size_t n; at < len && s[at] != '\0' && (n = openai_utf8_length(s + at, len - at)) > 0;)
        at += n;
    return at == len;
}

/* A completion names a token that is no text by itself as OpenAI does: bytes:\xe2\x80 */
static int append_token_name(struct buf *b, const char *bytes, size_t len)
{
    int r = buf_append_char(b, '"');
    if (is_text(bytes, len)) {
        r |= openai_append_text(b, bytes, len);
        return r | buf_append_char(b, '"');
    }
    r |= append(b, "bytes:");
    for (size_t i = 0; i < len; i++)
        r |= buf_printf(b, "\\\\x%02x", (unsigned char)bytes[i]);
    return r | buf_append_char(b, '"');
}

static bool same_bytes(const char *a, uint32_t a_bytes, const char *b, uint32_t b_bytes)
{
    return a_bytes == b_bytes && (a_bytes == 0 || memcmp(a, b, a_bytes) == 0);
}

/* {"token":logprob,...}: the most likely ones and the one that was chosen. Names are kept unique,
 * the more likely wins. */
static int append_top_object(struct buf *b, const struct infer_token *t)
{
    if (!t->has_logprob)
        return append(b, "null");
    int r = buf_append_char(b, '{');
    bool chosen_told = false;
    bool first = true;
    for (uint32_t i = 0; i < t->top_count; i++) {
        const struct infer_alternative *x = &t->top[i];
        bool told = false;
        for (uint32_t j = 0; j < i && !told; j++)
            told = same_bytes(t->top[j].bytes, t->top[j].byte_count, x->bytes, x->byte_count);
        if (told)
            continue;
        chosen_told |= same_bytes(t->bytes, t->byte_count, x->bytes, x->byte_count);
        r |= first ? 0 : buf_append_char(b, ',');
        r |= append_token_name(b, x->bytes, x->byte_count);
        r |= buf_append_char(b, ':');
        r |= append_logprob(b, x->logprob);
        first = false;
    }
    if (!chosen_told) {
        r |= first ? 0 : buf_append_char(b, ',');
        r |= append_token_name(b, t->bytes, t->byte_count);
        r |= buf_append_char(b, ':');
        r |= append_logprob(b, t->logprob);
    }
    return r | buf_append_char(b, '}');
}

static int append_part(struct buf *b, enum part part, const struct infer_token *t, uint64_t offset)
{
    switch (part) {
    case PART_TOKENS:
        return append_token_name(b, t->bytes, t->byte_count);
    case PART_LOGPROBS:
        return t->has_logprob ? append_logprob(b, t->logprob) : append(b, "null");
    case PART_TOP:
        return append_top_object(b, t);
    default:
        return append_u64(b, offset);
    }
}

static int append_parts(struct buf *b, enum part part, const struct infer_token *tokens,
                        uint32_t count, uint64_t offset)
{
    int r = 0;
    for (uint32_t i = 0; i < count; i++) {
        r |= i > 0 ? buf_append_char(b, ',') : 0;
        r |= append_part(b, part, &tokens[i], offset);
        offset += count_chars(tokens[i].bytes, tokens[i].byte_count);
    }
    return r;
}

/* "token":"...","logprob":...,"bytes":[...] */
static int append_chat_alternative(struct buf *b, const char *bytes, uint32_t byte_count,
                                   float logprob)
{
    int r = append(b, "{\"token\":\"");
    r |= openai_append_text(b, bytes, byte_count);
    r |= append(b, "\",\"logprob\":");
    r |= append_logprob(b, logprob);
    r |= append(b, ",\"bytes\":[");
    for (uint32_t i = 0; i < byte_count; i++) {
        r |= i > 0 ? buf_append_char(b, ',') : 0;
        r |= append_u64(b, (unsigned char)bytes[i]);
    }
    return r | buf_append_char(b, ']');
}

static int append_chat_tokens(struct buf *b, const struct infer_token *tokens, uint32_t count)
{
    int r = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct infer_token *t = &tokens[i];
        r |= i > 0 ? buf_append_char(b, ',') : 0;
        r |= append_chat_alternative(b, t->bytes, t->byte_count, t->has_logprob ? t->logprob : NAN);
        r |= append(b, ",\"top_logprobs\":[");
        for (uint32_t j = 0; j < t->top_count; j++) {
            r |= j > 0 ? buf_append_char(b, ',') : 0;
            r |= append_chat_alternative(b, t->top[j].bytes, t->top[j].byte_count,
                                         t->top[j].logprob);
            r |= buf_append_char(b, '}');
        }
        r |= append(b, "]}");
    }
    return r;
}

static int append_event_logprobs(struct openai_reply *a, struct buf *out,
                                 const struct infer_piece *p)
{
    if (!a->logprobs || p->token_count == 0)
        return append(out, "null");
    int r = 0;
    if (a->kind == INFER_CHAT) {
        r |= append(out, "{\"content\":[");
        r |= append_chat_tokens(out, p->tokens, p->token_count);
        return r | append(out, "],\"refusal\":null}");
    }
    uint64_t offset = a->choices[p->choice].offset_chars;
    for (int i = 0; i < PART_COUNT; i++) {
        r |= append(out, part_names[i]);
        r |= append_parts(out, (enum part)i, p->tokens, p->token_count, offset);
    }
    return r | append(out, "]}");
}

static void advance(struct openai_reply *a, const struct infer_piece *p)
{
    struct openai_choice *c = &a->choices[p->choice];
    c->finish = p->finish;
    c->token_count += p->token_count;
    for (uint32_t i = 0; a->logprobs && i < p->token_count; i++)
        c->offset_chars += count_chars(p->tokens[i].bytes, p->tokens[i].byte_count);
}

static int append_usage(struct buf *out, const struct infer_usage *usage, bool is_last)
{
    int r = append(out, "{\"prompt_tokens\":");
    r |= append_u64(out, usage->prompt_tokens);
    r |= append(out, ",\"completion_tokens\":");
    r |= append_u64(out, usage->completion_tokens);
    r |= append(out, ",\"total_tokens\":");
    r |= append_u64(out, (uint64_t)usage->prompt_tokens + usage->completion_tokens);
    if (is_last) {
        r |= append(out, ",\"prompt_tokens_details\":{\"cached_tokens\":");
        r |= append_u64(out, usage->cached_tokens);
        r |= buf_append_char(out, '}');
    }
    return r | buf_append_char(out, '}');
}

/* --- streams --- */

static int append_choice(struct buf *out, uint32_t choice, const char *rest)
{
    int r = append(out, "{\"index\":");
    r |= append_u64(out, choice);
    return r | append(out, rest);
}

static int append_event_begin(struct openai_reply *a, struct buf *out, uint32_t choice,
                              const char *rest)
{
    int r = buf_append(out, a->event.data, a->event.len);
    return r | append_choice(out, choice, rest);
}

static int append_event_end(struct openai_reply *a, struct buf *out,
                            const struct infer_usage *usage)
{
    if (!a->include_usage)
        return append(out, "]}\n\n");
    int r = append(out, "],\"usage\":");
    r |= a->continuous_usage ? append_usage(out, usage, false) : append(out, "null");
    return r | append(out, "}\n\n");
}

/* The first event of a chat's choice tells the role. */
static int append_role(struct openai_reply *a, struct buf *out, const struct infer_piece *p)
{
    struct openai_choice *c = &a->choices[p->choice];
    if (c->begun)
        return 0;
    c->begun = true;
    if (a->kind != INFER_CHAT)
        return 0;
    int r = append_event_begin(a, out, p->choice,
                               ",\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
                               "\"logprobs\":null,\"finish_reason\":null}");
    return r | append_event_end(a, out, &p->usage);
}

static int append_finish(struct openai_reply *a, struct buf *out, const struct infer_piece *p)
{
    int r = append_event_begin(a, out, p->choice,
                               a->kind == INFER_CHAT
                                   ? ",\"delta\":{},\"logprobs\":null,\"finish_reason\":\""
                                   : ",\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"");
    r |= append(out, p->finish);
    r |= append(out, "\"}");
    return r | append_event_end(a, out, &p->usage);
}

int openai_reply_event(struct openai_reply *a, struct buf *out, const struct infer_piece *p)
{
    assert(p->choice < a->choice_count);
    assert(a->choices[p->choice].finish == NULL);
    int r = append_role(a, out, p);
    if (p->text_bytes > 0 || (a->logprobs && p->token_count > 0)) {
        bool chat = a->kind == INFER_CHAT;
        r |= append_event_begin(a, out, p->choice,
                                chat ? ",\"delta\":{\"content\":\"" : ",\"text\":\"");
        r |= openai_append_text(out, p->text, p->text_bytes);
        r |= append(out, chat ? "\"},\"logprobs\":" : "\",\"logprobs\":");
        r |= append_event_logprobs(a, out, p);
        r |= append(out, ",\"finish_reason\":null}");
        r |= append_event_end(a, out, &p->usage);
    }
    if (p->finish != NULL)
        r |= append_finish(a, out, p);
    advance(a, p);
    return r;
}

int openai_reply_last_event(struct openai_reply *a, struct buf *out,
                            const struct infer_usage *usage)
{
    int r = 0;
    if (a->include_usage) {
        r |= buf_append(out, a->event.data, a->event.len);
        r |= append(out, "],\"usage\":");
        r |= append_usage(out, usage, true);
        r |= append(out, "}\n\n");
    }
    return r | append(out, "data: [DONE]\n\n");
}

/* --- whole answers --- */

static size_t held_bytes(const struct openai_choice *c)
{
    size_t held = c->text.len;
    for (int i = 0; i < PART_COUNT; i++)
        held += c->part[i].len;
    return held;
}

int openai_reply_add(struct openai_reply *a, const struct infer_piece *p)
{
    assert(p->choice < a->choice_count);
    struct openai_choice *c = &a->choices[p->choice];
    assert(c->finish == NULL);
    size_t before = held_bytes(c);
    int r = openai_append_text(&c->text, p->text, p->text_bytes);
    if (a->logprobs && p->token_count > 0) {
        bool chat = a->kind == INFER_CHAT;
        for (int i = 0; i < (chat ? 1 : PART_COUNT); i++) {
            struct buf *b = &c->part[i];
            r |= c->token_count > 0 ? buf_append_char(b, ',') : 0;
            r |= chat ? append_chat_tokens(b, p->tokens, p->token_count)
                      : append_parts(b, (enum part)i, p->tokens, p->token_count, c->offset_chars);
        }
    }
    advance(a, p);
    a->held_bytes += held_bytes(c) - before;
    return r == 0 && a->held_bytes > a->held_bytes_max ? -E2BIG : r;
}

static int append_whole_logprobs(const struct openai_reply *a, const struct openai_choice *c,
                                 struct buf *out)
{
    if (!a->logprobs)
        return append(out, "null");
    int r = 0;
    if (a->kind == INFER_CHAT) {
        r |= append(out, "{\"content\":[");
        r |= buf_append(out, c->part[0].data, c->part[0].len);
        return r | append(out, "],\"refusal\":null}");
    }
    for (int i = 0; i < PART_COUNT; i++) {
        r |= append(out, part_names[i]);
        r |= buf_append(out, c->part[i].data, c->part[i].len);
    }
    return r | append(out, "]}");
}

int openai_reply_whole(struct openai_reply *a, struct buf *out, const struct infer_usage *usage)
{
    bool chat = a->kind == INFER_CHAT;
    int r = append_envelope(a, out, chat ? "chat.completion" : "text_completion");
    for (uint32_t i = 0; i < a->choice_count; i++) {
        const struct openai_choice *c = &a->choices[i];
        assert(c->finish != NULL);
        r |= i > 0 ? buf_append_char(out, ',') : 0;
        r |= append_choice(
            out, i, chat ? ",\"message\":{\"role\":\"assistant\",\"content\":\"" : ",\"text\":\"");
        r |= buf_append(out, c->text.data, c->text.len);
        r |= append(out, chat ? "\",\"refusal\":null},\"logprobs\":" : "\",\"logprobs\":");
        r |= append_whole_logprobs(a, c, out);
        r |= append(out, ",\"finish_reason\":\"");
        r |= append(out, c->finish);
        r |= append(out, "\"}");
    }
    r |= append(out, "],\"usage\":");
    r |= append_usage(out, usage, true);
    return r | buf_append_char(out, '}');
}
