/*
 * Tokens into OpenAI's answers. The parts that stay the same over a stream are written once per
 * answer; a token then costs a few appends. See openai.h.
 */
#include "gateway/openai.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* What an answer's buffers keep between answers. */
#define KEPT_BYTES 16384u

/* The arrays of a completion's log-probabilities, in the order they are written. A chat has one
 * array, kept in the first buffer. */
enum part { PART_TOKENS, PART_LOGPROBS, PART_TOP, PART_OFFSETS, PART_COUNT };
_Static_assert(PART_COUNT == sizeof((struct openai_reply){0}.part) / sizeof(struct buf),
               "one buffer a part");

static const char *const part_names[PART_COUNT] = {"{\"tokens\":[", "],\"token_logprobs\":[",
                                                   "],\"top_logprobs\":[", "],\"text_offset\":["};

void openai_reply_init(struct openai_reply *a, size_t held_bytes_max)
{
    *a = (struct openai_reply){.held_bytes_max = held_bytes_max};
    buf_init(&a->model, 8192);
    buf_init(&a->event, 16384);
    buf_init(&a->text, held_bytes_max);
    for (int i = 0; i < PART_COUNT; i++)
        buf_init(&a->part[i], held_bytes_max);
}

void openai_reply_free(struct openai_reply *a)
{
    buf_free(&a->model);
    buf_free(&a->event);
    buf_free(&a->text);
    for (int i = 0; i < PART_COUNT; i++)
        buf_free(&a->part[i]);
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

int openai_reply_begin(struct openai_reply *a, const struct openai_request *r, const char *id,
                       uint64_t created_s)
{
    a->kind = r->infer.kind;
    a->include_usage = r->include_usage;
    a->logprobs = r->infer.logprobs;
    a->begun = false;
    a->created_s = created_s;
    a->offset_chars = 0;
    a->token_count = 0;
    snprintf(a->id, sizeof a->id, "%s%s", a->kind == INFER_CHAT ? "chatcmpl-" : "cmpl-", id);
    reset(&a->model);
    reset(&a->event);
    reset(&a->text);
    for (int i = 0; i < PART_COUNT; i++)
        reset(&a->part[i]);
    int e = openai_append_text(&a->model, r->infer.model, strlen(r->infer.model));
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
                                 const struct infer_token *tokens, uint32_t count)
{
    if (!a->logprobs || count == 0)
        return append(out, "null");
    int r = 0;
    if (a->kind == INFER_CHAT) {
        r |= append(out, "{\"content\":[");
        r |= append_chat_tokens(out, tokens, count);
        return r | append(out, "],\"refusal\":null}");
    }
    for (int i = 0; i < PART_COUNT; i++) {
        r |= append(out, part_names[i]);
        r |= append_parts(out, (enum part)i, tokens, count, a->offset_chars);
    }
    return r | append(out, "]}");
}

static void advance(struct openai_reply *a, const struct infer_token *tokens, uint32_t count)
{
    a->token_count += count;
    if (!a->logprobs)
        return;
    for (uint32_t i = 0; i < count; i++)
        a->offset_chars += count_chars(tokens[i].bytes, tokens[i].byte_count);
}

/* --- streams --- */

static int append_event_end(struct openai_reply *a, struct buf *out)
{
    return append(out, a->include_usage ? "],\"usage\":null}\n\n" : "]}\n\n");
}

/* The first event of a chat tells the role. */
static int append_role(struct openai_reply *a, struct buf *out)
{
    if (a->begun)
        return 0;
    a->begun = true;
    if (a->kind != INFER_CHAT)
        return 0;
    int r = buf_append(out, a->event.data, a->event.len);
    r |= append(out, "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
                     "\"logprobs\":null,\"finish_reason\":null}");
    return r | append_event_end(a, out);
}

int openai_reply_event(struct openai_reply *a, struct buf *out, const char *text, size_t text_bytes,
                       const struct infer_token *tokens, uint32_t token_count)
{
    if (tokens == NULL)
        token_count = 0;
    int r = append_role(a, out);
    if (text_bytes > 0 || (a->logprobs && token_count > 0)) {
        bool chat = a->kind == INFER_CHAT;
        r |= buf_append(out, a->event.data, a->event.len);
        r |= append(out,
                    chat ? "{\"index\":0,\"delta\":{\"content\":\"" : "{\"index\":0,\"text\":\"");
        r |= openai_append_text(out, text, text_bytes);
        r |= append(out, chat ? "\"},\"logprobs\":" : "\",\"logprobs\":");
        r |= append_event_logprobs(a, out, tokens, token_count);
        r |= append(out, ",\"finish_reason\":null}");
        r |= append_event_end(a, out);
    }
    advance(a, tokens, token_count);
    return r;
}

static int append_usage(struct buf *out, const struct infer_usage *usage)
{
    int r = append(out, "{\"prompt_tokens\":");
    r |= append_u64(out, usage->prompt_tokens);
    r |= append(out, ",\"completion_tokens\":");
    r |= append_u64(out, usage->completion_tokens);
    r |= append(out, ",\"total_tokens\":");
    r |= append_u64(out, (uint64_t)usage->prompt_tokens + usage->completion_tokens);
    return r | buf_append_char(out, '}');
}

int openai_reply_last_event(struct openai_reply *a, struct buf *out, const char *reason,
                            const struct infer_usage *usage)
{
    int r = append_role(a, out);
    r |= buf_append(out, a->event.data, a->event.len);
    r |= append(out, a->kind == INFER_CHAT
                         ? "{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\""
                         : "{\"index\":0,\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"");
    r |= append(out, reason);
    r |= append(out, "\"}");
    r |= append_event_end(a, out);
    if (a->include_usage) {
        r |= buf_append(out, a->event.data, a->event.len);
        r |= append(out, "],\"usage\":");
        r |= append_usage(out, usage);
        r |= append(out, "}\n\n");
    }
    return r | append(out, "data: [DONE]\n\n");
}

/* --- whole answers --- */

int openai_reply_add(struct openai_reply *a, const char *text, size_t text_bytes,
                     const struct infer_token *tokens, uint32_t token_count)
{
    if (tokens == NULL)
        token_count = 0;
    int r = openai_append_text(&a->text, text, text_bytes);
    if (a->logprobs && token_count > 0) {
        bool chat = a->kind == INFER_CHAT;
        for (int i = 0; i < (chat ? 1 : PART_COUNT); i++) {
            struct buf *b = &a->part[i];
            r |= a->token_count > 0 ? buf_append_char(b, ',') : 0;
            r |= chat ? append_chat_tokens(b, tokens, token_count)
                      : append_parts(b, (enum part)i, tokens, token_count, a->offset_chars);
        }
    }
    advance(a, tokens, token_count);
    size_t held = a->text.len;
    for (int i = 0; i < PART_COUNT; i++)
        held += a->part[i].len;
    return r == 0 && held > a->held_bytes_max ? -E2BIG : r;
}

static int append_whole_logprobs(struct openai_reply *a, struct buf *out)
{
    if (!a->logprobs)
        return append(out, "null");
    int r = 0;
    if (a->kind == INFER_CHAT) {
        r |= append(out, "{\"content\":[");
        r |= buf_append(out, a->part[0].data, a->part[0].len);
        return r | append(out, "],\"refusal\":null}");
    }
    for (int i = 0; i < PART_COUNT; i++) {
        r |= append(out, part_names[i]);
        r |= buf_append(out, a->part[i].data, a->part[i].len);
    }
    return r | append(out, "]}");
}

int openai_reply_whole(struct openai_reply *a, struct buf *out, const char *reason,
                       const struct infer_usage *usage)
{
    bool chat = a->kind == INFER_CHAT;
    int r = append_envelope(a, out, chat ? "chat.completion" : "text_completion");
    r |= append(out, chat ? "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\""
                          : "{\"index\":0,\"text\":\"");
    r |= buf_append(out, a->text.data, a->text.len);
    r |= append(out, chat ? "\",\"refusal\":null},\"logprobs\":" : "\",\"logprobs\":");
    r |= append_whole_logprobs(a, out);
    r |= append(out, ",\"finish_reason\":\"");
    r |= append(out, reason);
    r |= append(out, "\"}],\"usage\":");
    r |= append_usage(out, usage);
    return r | buf_append_char(out, '}');
}
