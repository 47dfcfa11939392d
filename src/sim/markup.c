/* See markup.h. */
#include "sim/markup.h"

#include <assert.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

void markup_init(struct markup *m, size_t max_bytes)
{
    *m = (struct markup){0};
    buf_init(&m->text, max_bytes);
}

void markup_free(struct markup *m)
{
    buf_free(&m->text);
}

void markup_fail(struct markup *m, int code)
{
    assert(code < 0);
    if (m->failed == 0)
        m->failed = code;
}

static void put_bytes(struct markup *m, const char *bytes, size_t len)
{
    if (m->failed == 0)
        m->failed = buf_append(&m->text, bytes, len);
}

void markup_put(struct markup *m, const char *html)
{
    put_bytes(m, html, strlen(html));
}

void markup_printf(struct markup *m, const char *format, ...)
{
    char small[MARKUP_PRINT_BYTES];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(small, sizeof small, format, args);
    va_end(args);
    assert(n >= 0 && (size_t)n < sizeof small);
    put_bytes(m, small, (size_t)n);
}

static bool allowed(uint32_t code)
{
    if (code < 0x20)
        return code == '\t' || code == '\n';
    if (code >= 0x7f && code < 0xa0)
        return false;
    if (code >= 0xd800 && code < 0xe000)
        return false;
    if (code >= 0xfdd0 && code < 0xfdf0)
        return false;
    return code <= 0x10ffff && (code & 0xfffe) != 0xfffe;
}

/* The bytes of the character at the front of `s`, 0 when it is none that a page may hold. */
static size_t character_bytes(const unsigned char *s, size_t len)
{
    static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000};
    size_t bytes = s[0] < 0x80 ? 1 : s[0] < 0xc0 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    if (bytes == 0 || s[0] >= 0xf8 || bytes > len)
        return 0;
    uint32_t code = bytes == 1 ? s[0] : s[0] & (0x7fu >> bytes);
    for (size_t i = 1; i < bytes; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
        code = code << 6 | (s[i] & 0x3fu);
    }
    return code >= smallest[bytes] && allowed(code) ? bytes : 0;
}

static const char *entity(char c)
{
    switch (c) {
    case '&':
        return "&amp;";
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '"':
        return "&quot;";
    default:
        return NULL;
    }
}

void markup_text_part(struct markup *m, const char *text, size_t len)
{
    size_t start = 0;
    for (size_t i = 0; i < len;) {
        size_t bytes = character_bytes((const unsigned char *)text + i, len - i);
        const char *instead = bytes == 0 ? REPLACEMENT : entity(text[i]);
        if (instead != NULL) {
            put_bytes(m, text + start, i - start);
            markup_put(m, instead);
            start = i + 1;
        }
        i += bytes == 0 ? 1 : bytes;
    }
    put_bytes(m, text + start, len - start);
}

void markup_text(struct markup *m, const char *text)
{
    markup_text_part(m, text, strlen(text));
}
