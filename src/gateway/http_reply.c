/* The answering half of http.h. */
#include "gateway/http.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

const char *http_status_text(int status)
{
    static const struct {
        int status;
        const char *text;
    } table[] = {
        {200, "OK"},
        {201, "Created"},
        {202, "Accepted"},
        {204, "No Content"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {413, "Content Too Large"},
        {414, "URI Too Long"},
        {417, "Expectation Failed"},
        {422, "Unprocessable Content"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"},
        {507, "Insufficient Storage"},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (table[i].status == status)
            return table[i].text;
    return "Status";
}

int http_write_head(struct buf *out, const struct http_head *h)
{
    char date[40];
    char length[48];
    struct tm tm;
    time_t now = (time_t)h->now_s;
    gmtime_r(&now, &tm);
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", &tm);
    if (!h->stream)
        snprintf(length, sizeof length, "Content-Length: %llu\r\n", (unsigned long long)h->length);
    else
        snprintf(length, sizeof length, h->http10 ? "" : "Transfer-Encoding: chunked\r\n");
    const char *connection = !h->keep_alive ? "Connection: close\r\n"
                             : h->http10    ? "Connection: keep-alive\r\n"
                                            : "";
    char fixed[512];
    int n =
        snprintf(fixed, sizeof fixed, "HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Type: %s\r\n%s%s",
                 h->status, http_status_text(h->status), date, h->content_type, length, connection);
    assert(n > 0 && (size_t)n < sizeof fixed);
    int r = buf_append(out, fixed, (size_t)n);
    if (r == 0 && h->extra != NULL)
        r = buf_append_str(out, h->extra);
    return r < 0 ? r : buf_append(out, "\r\n", 2);
}

#define CHUNK_DIGITS 8

int http_chunk_begin(struct buf *out, size_t *ret_at)
{
    size_t at = out->len;
    int r = buf_append(out, "00000000\r\n", CHUNK_DIGITS + 2);
    if (r == 0)
        *ret_at = at;
    return r;
}

int http_chunk_end(struct buf *out, size_t at)
{
    size_t len = out->len - at - CHUNK_DIGITS - 2;
    assert(len <= UINT32_MAX);
    if (len == 0) {
        out->len = at;
        out->data[at] = '\0';
        return 0;
    }
    for (int i = CHUNK_DIGITS - 1; i >= 0; i--, len >>= 4)
        out->data[at + (size_t)i] = "0123456789abcdef"[len & 15];
    return buf_append(out, "\r\n", 2);
}
