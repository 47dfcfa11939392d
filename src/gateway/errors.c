/* OpenAI's error object, and text that nobody vouches for made safe to put into it. See openai.h.
 * `code` is a string or null, never a number: clients compare it with strings. */
#include "gateway/openai.h"

#include <string.h>

size_t openai_utf8_length(const char *s, size_t len)
{
    const unsigned char *u = (const unsigned char *)s;
    if (len == 0)
        return 0;
    if (u[0] < 0x80)
        return 1;
    size_t n = u[0] >= 0xf0 ? 4 : u[0] >= 0xe0 ? 3 : 2;
    if (u[0] < 0xc2 || u[0] > 0xf4 || len < n)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((u[i] & 0xc0) != 0x80)
            return 0;
    bool overlong = (u[0] == 0xe0 && u[1] < 0xa0) || (u[0] == 0xf0 && u[1] < 0x90);
    bool beyond = (u[0] == 0xed && u[1] > 0x9f) || (u[0] == 0xf4 && u[1] > 0x8f);
    return overlong || beyond ? 0 : n;
}

int openai_append_text(struct buf *out, const char *bytes, size_t len)
{
    size_t start = 0;
    for (size_t i = 0; i < len;) {
        size_t n = openai_utf8_length(bytes + i, len - i);
        if (n > 0) {
            i += n;
            continue;
        }
        int r = buf_append_json(out, bytes + start, i - start);
        if (r == 0)
            r = buf_append_str(out, "\xef\xbf\xbd");
        if (r < 0)
            return r;
        start = ++i;
    }
    return buf_append_json(out, bytes + start, len - start);
}

static const char *error_type(int status)
{
    switch (status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 404:
        return "not_found_error";
    case 429:
        return "rate_limit_error";
    default:
        return status >= 500 ? "server_error" : "invalid_request_error";
    }
}

static int append_string_or_null(struct buf *out, const char *s)
{
    if (s == NULL || s[0] == '\0')
        return buf_append_str(out, "null");
    int r = buf_append_char(out, '"');
    r |= openai_append_text(out, s, strlen(s));
    return r | buf_append_char(out, '"');
}

int openai_append_error(struct buf *out, int status, const char *code, const char *param,
                        const char *message)
{
    int r = buf_append_str(out, "{\"error\":{\"message\":\"");
    r |= openai_append_text(out, message, strlen(message));
    r |= buf_append_str(out, "\",\"type\":\"");
    r |= buf_append_str(out, error_type(status));
    r |= buf_append_str(out, "\",\"param\":");
    r |= append_string_or_null(out, param);
    r |= buf_append_str(out, ",\"code\":");
    r |= append_string_or_null(out, code);
    return r | buf_append_str(out, "}}");
}
