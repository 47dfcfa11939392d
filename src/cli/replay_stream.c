/* See replay_stream.h. */
#include "cli/replay_stream.h"

#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define HEADERS_MAX 256u
#define ERROR_BYTES_MAX 16384u /* of a body that tells of one */

void stream_init(struct stream *a)
{
    *a = (struct stream){0};
    buf_init(&a->line, STREAM_LINE_BYTES_MAX);
    buf_init(&a->event, STREAM_LINE_BYTES_MAX);
}

void stream_free(struct stream *a)
{
    buf_free(&a->line);
    buf_free(&a->event);
}

void stream_reset(struct stream *a)
{
    struct buf line = a->line;
    struct buf event = a->event;
    buf_clear(&line);
    buf_clear(&event);
    *a = (struct stream){.line = line, .event = event};
}

/* --- events --- */

/* A chunk's text: of a completion, or of a chat. */
static const char *text_of(const json_t *choice)
{
    const char *text = json_string_value(json_object_get(choice, "text"));
    if (text != NULL)
        return text;
    return json_string_value(json_object_get(json_object_get(choice, "delta"), "content"));
}

/* {"error":{"message":"..."}}, made fit for a terminal. */
static void take_error(struct stream *a, const json_t *document)
{
    const char *text =
        json_string_value(json_object_get(json_object_get(document, "error"), "message"));
    if (text == NULL || a->message[0] != '\0')
        return;
    snprintf(a->message, sizeof a->message, "%s", text);
    for (char *c = a->message; *c != '\0'; c++)
        if ((unsigned char)*c < 0x20 || (unsigned char)*c >= 0x7f)
            *c = '?';
}

static void take_chunk(struct stream *a, const json_t *chunk, uint64_t now_us)
{
    const json_t *choice = json_array_get(json_object_get(chunk, "choices"), 0);
    const json_t *tokens = json_object_get(json_object_get(chunk, "usage"), "completion_tokens");
    const char *text = text_of(choice);
    a->broken = a->broken || json_is_object(json_object_get(chunk, "error"));
    take_error(a, chunk);
    bool has_text = text != NULL && text[0] != '\0';
    bool finishes = json_is_string(json_object_get(choice, "finish_reason"));
    a->pieces += has_text;
    a->finished = a->finished || finishes;
    if (has_text || finishes) {
        a->last_us = now_us;
        if (a->first_us == 0)
            a->first_us = now_us;
    }
    if (json_is_integer(tokens) && json_integer_value(tokens) >= 0 &&
        json_integer_value(tokens) <= INT32_MAX) {
        a->has_usage = true;
        a->tokens = (uint32_t)json_integer_value(tokens);
    }
}

/* "data: {...}"; comments and other fields are none of ours. */
static void take_event_line(struct stream *a, const char *line, size_t len, uint64_t now_us)
{
    if (len > 0 && line[len - 1] == '\r')
        len--;
    if (len < 5 || memcmp(line, "data:", 5) != 0)
        return;
    line += 5;
    len -= 5;
    if (len > 0 && *line == ' ') {
        line++;
        len--;
    }
    if (len == 6 && memcmp(line, "[DONE]", 6) == 0)
        return;
    json_t *chunk = json_loadb(line, len, JSON_REJECT_DUPLICATES, NULL);
    if (chunk == NULL)
        a->broken = true;
    else
        take_chunk(a, chunk, now_us);
    json_decref(chunk);
}

static int take_body(struct stream *a, const char *bytes, size_t len, uint64_t now_us,
                     struct error *err)
{
    if (!a->is_events && a->status != 200 && len <= ERROR_BYTES_MAX - a->event.len)
        return buf_append(&a->event, bytes, len) < 0 ? error_set(err, -ENOMEM, "out of memory") : 0;
    while (a->is_events && len > 0) {
        const char *end = memchr(bytes, '\n', len);
        size_t n = end != NULL ? (size_t)(end - bytes) : len;
        bool whole = end != NULL && a->event.len == 0;
        if (whole) {
            take_event_line(a, bytes, n, now_us);
        } else {
            int r = buf_append(&a->event, bytes, n);
            if (r < 0)
                return error_set(err, r, "an event of the answer is longer than %u bytes",
                                 STREAM_LINE_BYTES_MAX);
            if (end != NULL) {
                take_event_line(a, a->event.data, a->event.len, now_us);
                buf_clear(&a->event);
            }
        }
        n += end != NULL;
        bytes += n;
        len -= n;
    }
    return 0;
}

/* --- HTTP --- */

static int finish(struct stream *a)
{
    a->state = STREAM_DONE;
    if (!a->has_usage)
        a->tokens = a->pieces;
    if (!a->is_events && a->event.len > 0) {
        json_t *document = json_loadb(a->event.data, a->event.len, JSON_REJECT_DUPLICATES, NULL);
        take_error(a, document);
        json_decref(document);
    }
    return 1;
}

/* "HTTP/1.1 200 OK" */
static int take_status(struct stream *a, const char *line, struct error *err)
{
    bool ok = strncmp(line, "HTTP/1.", 7) == 0 && isdigit((unsigned char)line[7]) &&
              line[8] == ' ' && isdigit((unsigned char)line[9]) &&
              isdigit((unsigned char)line[10]) && isdigit((unsigned char)line[11]) &&
              (line[12] == ' ' || line[12] == '\0');
    if (!ok)
        return error_set(err, -EINVAL, "the answer does not begin with an HTTP/1 status");
    a->status = (line[9] - '0') * 100 + (line[10] - '0') * 10 + (line[11] - '0');
    a->keep_alive = line[7] != '0';
    a->state = STREAM_HEADERS;
    return 0;
}

/* The value when the line is a header of this name, NULL otherwise. */
static const char *value_of(const char *line, const char *name)
{
    size_t len = strlen(name);
    if (strncasecmp(line, name, len) != 0 || line[len] != ':')
        return NULL;
    return line + len + 1 + strspn(line + len + 1, " \t");
}

static int take_length(struct stream *a, const char *value, struct error *err)
{
    char *end;
    errno = 0;
    unsigned long long n = strtoull(value, &end, 10);
    if (!isdigit((unsigned char)*value) || *end != '\0' || errno != 0 || n > UINT64_MAX / 2)
        return error_set(err, -EINVAL, "the answer's Content-Length is no length");
    a->has_length = true;
    a->rest = n;
    return 0;
}

/* The empty line: how the body goes on. */
static int take_headers_end(struct stream *a)
{
    if (a->status < 200) { /* 100 Continue: the answer is yet to come */
        a->state = STREAM_STATUS;
        a->status = 0;
        return 0;
    }
    if (a->status == 204 || a->status == 304)
        return finish(a);
    if (a->chunked)
        a->state = STREAM_CHUNK_SIZE;
    else if (!a->has_length)
        a->state = STREAM_UNTIL_CLOSE;
    else if (a->rest == 0)
        return finish(a);
    else
        a->state = STREAM_BODY;
    return 0;
}

static int take_chunk_size(struct stream *a, const char *line, struct error *err)
{
    size_t digits = strspn(line, "0123456789abcdefABCDEF");
    if (digits == 0 || digits > 15 || (line[digits] != '\0' && line[digits] != ';'))
        return error_set(err, -EINVAL, "a chunk of the answer has no size");
    a->rest = strtoull(line, NULL, 16);
    a->state = a->rest > 0 ? STREAM_CHUNK : STREAM_TRAILER;
    return 0;
}

static int take_header(struct stream *a, const char *line, struct error *err)
{
    const char *value;
    if (line[0] == '\0')
        return take_headers_end(a);
    if (++a->header_count > HEADERS_MAX)
        return error_set(err, -E2BIG, "the answer has more than %u headers", HEADERS_MAX);
    if ((value = value_of(line, "Content-Length")) != NULL)
        return take_length(a, value, err);
    if ((value = value_of(line, "Transfer-Encoding")) != NULL)
        a->chunked = strcasecmp(value, "chunked") == 0;
    else if ((value = value_of(line, "Connection")) != NULL)
        a->keep_alive = strcasecmp(value, "close") != 0;
    else if ((value = value_of(line, "Content-Type")) != NULL)
        a->is_events = strncasecmp(value, "text/event-stream", 17) == 0;
    return 0;
}

/* A whole line of the protocol. */
static int take_line(struct stream *a, const char *line, struct error *err)
{
    switch (a->state) {
    case STREAM_STATUS:
        return take_status(a, line, err);
    case STREAM_HEADERS:
        return take_header(a, line, err);
    case STREAM_CHUNK_SIZE:
        return take_chunk_size(a, line, err);
    case STREAM_CHUNK_END:
        a->state = STREAM_CHUNK_SIZE;
        return line[0] == '\0' ? 0 : error_set(err, -EINVAL, "a chunk is longer than its size");
    default: /* the trailer */
        return line[0] == '\0' ? finish(a) : 0;
    }
}

/* Takes up to the end of a line; *ret_used of the bytes are gone. */
static int feed_line(struct stream *a, const char *bytes, size_t len, size_t *ret_used,
                     struct error *err)
{
    const char *end = memchr(bytes, '\n', len);
    size_t n = end != NULL ? (size_t)(end - bytes) : len;
    int r = buf_append(&a->line, bytes, n);
    *ret_used = n + (end != NULL);
    if (r < 0)
        return error_set(err, r, "a header of the answer is longer than %u bytes",
                         STREAM_LINE_BYTES_MAX);
    if (end == NULL)
        return 0;
    if (a->line.len > 0 && a->line.data[a->line.len - 1] == '\r')
        a->line.data[--a->line.len] = '\0';
    if (memchr(a->line.data, '\0', a->line.len) != NULL)
        return error_set(err, -EINVAL, "a header of the answer has a byte 0");
    r = take_line(a, a->line.data, err);
    buf_clear(&a->line);
    return r;
}

/* Takes what belongs to the body or to the chunk. */
static int feed_body(struct stream *a, const char *bytes, size_t len, uint64_t now_us,
                     size_t *ret_used, struct error *err)
{
    bool bounded = a->state != STREAM_UNTIL_CLOSE;
    size_t n = bounded && a->rest < len ? (size_t)a->rest : len;
    int r = take_body(a, bytes, n, now_us, err);
    *ret_used = n;
    if (r < 0 || !bounded)
        return r;
    a->rest -= n;
    if (a->rest > 0)
        return 0;
    if (a->state == STREAM_BODY)
        return finish(a);
    a->state = STREAM_CHUNK_END;
    return 0;
}

int stream_feed(struct stream *a, const char *bytes, size_t len, uint64_t now_us, struct error *err)
{
    int r = a->state == STREAM_DONE;
    while (len > 0 && r == 0) {
        size_t used;
        a->begun = true;
        bool body =
            a->state == STREAM_BODY || a->state == STREAM_CHUNK || a->state == STREAM_UNTIL_CLOSE;
        r = body ? feed_body(a, bytes, len, now_us, &used, err)
                 : feed_line(a, bytes, len, &used, err);
        bytes += used;
        len -= used;
    }
    if (r > 0 && len > 0)
        return error_set(err, -EINVAL, "bytes came behind the answer");
    return r;
}

int stream_close(struct stream *a, struct error *err)
{
    a->keep_alive = false;
    if (a->state == STREAM_DONE || a->state == STREAM_UNTIL_CLOSE)
        return finish(a);
    return error_set(err, -EPIPE, "the connection ended before the answer");
}
