/* See http.h. Refusals name the rule that was broken: whoever meets one is debugging a client. */
#include "gateway/http.h"

#include <errno.h>
#include <llhttp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* A connection keeps buffers up to this size between requests. */
#define KEPT_BYTES 16384u

static int refuse(struct http *h, int status, const char *why)
{
    h->phase = HTTP_PHASE_BAD;
    h->status = status;
    error_set(&h->why, -EBADMSG, "%s", why);
    return HPE_USER;
}

static bool is(const char *name, const char *at, size_t len)
{
    return strlen(name) == len && strncasecmp(name, at, len) == 0;
}

static int on_url(llhttp_t *p, const char *at, size_t len)
{
    struct http *h = p->data;
    if (h->path == NULL)
        h->path = h->head.data + (at - h->head.data);
    h->path_bytes = (size_t)(at + len - h->path);
    return 0;
}

/* The origin form "/x?y" or the absolute form "http://host/x?y"; the query is not used. The path
 * is ended in place: the byte after a target is the space that llhttp has passed already. */
static int on_url_complete(llhttp_t *p)
{
    struct http *h = p->data;
    h->path[h->path_bytes] = '\0';
    if (strncasecmp(h->path, "http://", 7) == 0) {
        char *slash = strpbrk(h->path + 7, "/?");
        h->path = slash != NULL ? slash : strchr(h->path, '\0');
    }
    h->path[strcspn(h->path, "?#")] = '\0';
    return 0;
}

static int on_field(llhttp_t *p, const char *at, size_t len)
{
    struct http *h = p->data;
    if (h->phase == HTTP_PHASE_BODY) {
        h->trailer_bytes += len;
        if (h->trailer_bytes > h->head.max_bytes)
            return refuse(h, 431, "the trailer fields are too large");
        return 0;
    }
    if (h->name == NULL)
        h->name = at;
    h->name_bytes = (size_t)(at + len - h->name);
    return 0;
}

static int on_value(llhttp_t *p, const char *at, size_t len)
{
    struct http *h = p->data;
    if (h->phase == HTTP_PHASE_BODY)
        return on_field(p, at, len);
    if (h->value == NULL)
        h->value = at;
    h->value_bytes = (size_t)(at + len - h->value);
    return 0;
}

static int check_host(struct http *h)
{
    if (++h->host_count > 1)
        return refuse(h, 400, "the request has more than one Host field; send exactly one");
    for (size_t i = 0; i < h->value_bytes; i++) {
        unsigned char c = (unsigned char)h->value[i];
        if (c <= ' ' || c >= 0x7f || strchr("/\\?#@,;<>\"", c) != NULL)
            return refuse(h, 400, "the Host field is not a host name and a port");
    }
    return 0;
}

static int check_field(struct http *h)
{
    while (h->value_bytes > 0 && strchr(" \t", h->value[h->value_bytes - 1]) != NULL)
        h->value_bytes--;
    if (is("host", h->name, h->name_bytes))
        return check_host(h);
    if (is("expect", h->name, h->name_bytes)) {
        if (!is("100-continue", h->value, h->value_bytes))
            return refuse(h, 417, "the only expectation that is met is 100-continue");
        h->wants_continue = true;
    } else if (is("transfer-encoding", h->name, h->name_bytes)) {
        if (h->transfer_coding)
            return refuse(h, 400, "the request has more than one Transfer-Encoding field");
        if (!is("chunked", h->value, h->value_bytes))
            return refuse(h, 501, "the only transfer coding that is understood is chunked");
        h->transfer_coding = true;
    }
    return 0;
}

static int on_value_complete(llhttp_t *p)
{
    struct http *h = p->data;
    if (h->phase == HTTP_PHASE_BODY)
        return 0;
    int r = check_field(h);
    h->name = NULL;
    h->value = NULL;
    h->value_bytes = 0;
    return r;
}

static int on_headers_complete(llhttp_t *p)
{
    struct http *h = p->data;
    if (p->http_major != 1 || p->http_minor > 1)
        return refuse(h, 505, "the HTTP version is not supported; use HTTP/1.1");
    if (p->method == HTTP_CONNECT)
        return refuse(h, 501, "CONNECT is not supported: this is not a proxy");
    h->http10 = p->http_minor == 0;
    if (!h->http10 && h->host_count == 0)
        return refuse(h, 400, "an HTTP/1.1 request needs a Host field");
    if (h->transfer_coding && (h->http10 || (p->flags & F_CONTENT_LENGTH)))
        return refuse(h, 400,
                      h->http10 ? "HTTP/1.0 has no Transfer-Encoding"
                                : "the request has both Content-Length and Transfer-Encoding");
    if (p->content_length > h->body.max_bytes) {
        h->phase = HTTP_PHASE_BAD;
        h->status = 413;
        error_set(&h->why, -E2BIG, "the body has %llu bytes, more than the limit of %zu",
                  (unsigned long long)p->content_length, h->body.max_bytes);
        return HPE_USER;
    }
    p->upgrade = 0; /* an offer to change protocols may be ignored, and is */
    h->wants_continue = h->wants_continue && !h->http10;
    h->keep_alive = llhttp_should_keep_alive(p) != 0;
    h->method = llhttp_method_name(p->method);
    h->phase = HTTP_PHASE_BODY;
    return 0;
}

static int on_body(llhttp_t *p, const char *at, size_t len)
{
    struct http *h = p->data;
    int r = buf_append(&h->body, at, len);
    if (r == -E2BIG)
        return refuse(h, 413, "the body is larger than the limit");
    return r < 0 ? refuse(h, 503, "no memory for the body") : 0;
}

static int on_message_complete(llhttp_t *p)
{
    struct http *h = p->data;
    h->phase = HTTP_PHASE_DONE;
    h->wants_continue = false;
    return HPE_PAUSED;
}

static const llhttp_settings_t settings = {
    .on_url = on_url,
    .on_url_complete = on_url_complete,
    .on_header_field = on_field,
    .on_header_value = on_value,
    .on_header_value_complete = on_value_complete,
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_message_complete = on_message_complete,
};

int http_init(struct http *h, size_t head_bytes_max, size_t body_bytes_max)
{
    *h = (struct http){.parser = malloc(sizeof(llhttp_t))};
    if (h->parser == NULL)
        return -ENOMEM;
    buf_init(&h->head, head_bytes_max);
    buf_init(&h->body, body_bytes_max);
    http_next(h);
    return 0;
}

void http_free(struct http *h)
{
    free(h->parser);
    h->parser = NULL;
    buf_free(&h->head);
    buf_free(&h->body);
}

static void buf_trim(struct buf *b)
{
    if (b->cap > KEPT_BYTES)
        buf_free(b);
    else
        buf_clear(b);
}

void http_next(struct http *h)
{
    buf_trim(&h->head);
    buf_trim(&h->body);
    *h = (struct http){.parser = h->parser, .head = h->head, .body = h->body};
    llhttp_init(h->parser, HTTP_REQUEST, &settings);
    h->parser->data = h;
}

static void refuse_parse(struct http *h, int code)
{
    if (h->phase == HTTP_PHASE_BAD)
        return;
    h->phase = HTTP_PHASE_BAD;
    h->status = 400;
    if (code == HPE_INVALID_METHOD)
        h->status = 501;
    else if (code == HPE_INVALID_VERSION || code == HPE_PAUSED_H2_UPGRADE)
        h->status = 505;
    const char *reason = llhttp_get_error_reason(h->parser);
    error_set(&h->why, -EBADMSG, "the request is not valid HTTP/1.1: %s",
              reason != NULL && reason[0] != '\0' ? reason : "malformed");
}

static void parse_head(struct http *h)
{
    int code = (int)llhttp_execute(h->parser, h->head.data, h->head.len);
    bool complete = h->phase == HTTP_PHASE_DONE || h->phase == HTTP_PHASE_BODY;
    if ((code == HPE_OK || code == HPE_PAUSED) && complete) {
        h->name = NULL;
        h->value = NULL;
        if (h->path[0] == '\0')
            h->path = memcpy(h->head.data, "/", 2); /* "http://host" asks for the root */
        if (h->path[0] != '/' && strcmp(h->path, "*") != 0)
            refuse(h, 400, "the request's target is neither a path nor an http URL");
        return;
    }
    refuse_parse(h, code);
}

/* One byte of the head. Returns true when it ended the head. */
static bool take_head_byte(struct http *h, char c)
{
    char last = h->last;
    h->last = c;
    if ((last == '\r') != (c == '\n')) {
        refuse(h, 400, "a line of the request's head does not end with CR LF");
        return false;
    }
    if (c == '\r')
        return false;
    if (c == '\n') {
        bool empty = h->line_bytes == 0;
        h->line_bytes = 0;
        if (empty && h->line_count == 0) {
            if (h->blank_before)
                refuse(h, 400, "the request is empty");
            h->blank_before = true;
            return false;
        }
        h->line_count++;
        return empty;
    }
    if (((unsigned char)c < ' ' && c != '\t') || c == 0x7f)
        refuse(h, 400, "the request's head holds a control character");
    else if (h->line_bytes == 0 && (c == ' ' || c == '\t'))
        refuse(h, 400, "a line of the request's head starts with a blank (obsolete folding)");
    else if (h->line_bytes == 0 && c == ':')
        refuse(h, 400, "a field of the request has no name");
    h->line_bytes++;
    return false;
}

static void feed_head(struct http *h, const char *data, size_t len, size_t *ret_used)
{
    size_t used = 0;
    bool ended = false;
    h->phase = HTTP_PHASE_HEAD;
    while (used < len && !ended && h->phase == HTTP_PHASE_HEAD)
        ended = take_head_byte(h, data[used++]);
    *ret_used = used;
    if (h->phase == HTTP_PHASE_BAD)
        return;
    int r = buf_append(&h->head, data, used);
    if (r == -E2BIG && h->line_count == 0)
        refuse(h, 414, "the request line is too long");
    else if (r == -E2BIG)
        refuse(h, 431, "the request's head is too large");
    else if (r < 0)
        refuse(h, 503, "no memory for the request");
    else if (ended)
        parse_head(h);
}

static void feed_body(struct http *h, const char *data, size_t len, size_t *ret_used)
{
    *ret_used = len;
    if (len == 0)
        return;
    int code = (int)llhttp_execute(h->parser, data, len);
    if (code == HPE_PAUSED && h->phase == HTTP_PHASE_DONE)
        *ret_used = (size_t)(llhttp_get_error_pos(h->parser) - data);
    else if (code != HPE_OK)
        refuse_parse(h, code);
}

enum http_result http_feed(struct http *h, const char *data, size_t len, size_t *ret_used)
{
    size_t used = 0;
    if (h->phase <= HTTP_PHASE_HEAD && len > 0)
        feed_head(h, data, len, &used);
    if (h->phase == HTTP_PHASE_BODY && used < len) {
        size_t more = 0;
        h->wants_continue = false; /* the body is here: nobody waits for the word */
        feed_body(h, data + used, len - used, &more);
        used += more;
    }
    *ret_used = used;
    if (h->phase == HTTP_PHASE_BAD)
        return HTTP_RESULT_BAD;
    return h->phase == HTTP_PHASE_DONE ? HTTP_RESULT_DONE : HTTP_RESULT_MORE;
}
