/*
 * Lines and fields of a trace file: read in chunks, each line bounded, so that a file of any size
 * costs one line of memory. Every complaint names file and line.
 */
#include "sim/trace_parts.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define NUMBER_BYTES_MAX 64u

int trace_refuse(const struct trace_reader *r, struct error *err, const char *format, ...)
{
    char text[ERROR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return error_set(err, -EINVAL, "%s:%llu: %s", r->name, (unsigned long long)r->line_number,
                     text);
}

const char *trace_show(const char *text, char ret[TRACE_SHOW_BYTES])
{
    size_t len = strnlen(text, TRACE_SHOW_BYTES);
    size_t n = len < TRACE_SHOW_BYTES ? len : TRACE_SHOW_BYTES - 4;
    for (size_t i = 0; i < n; i++)
        ret[i] = text[i] >= 0x20 && text[i] < 0x7f ? text[i] : '?';
    memcpy(ret + n, n < len ? "..." : "", n < len ? 4 : 1);
    return ret;
}

/* --- lines --- */

static size_t utf8_length(const unsigned char *s, size_t len)
{
    if (s[0] < 0x80)
        return 1;
    size_t n = s[0] >= 0xc2 && s[0] < 0xe0   ? 2
               : s[0] >= 0xe0 && s[0] < 0xf0 ? 3
               : s[0] >= 0xf0 && s[0] < 0xf5 ? 4
                                             : 0;
    if (n == 0 || n > len)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
        (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
        return 0;
    return n;
}

/* What the beginning of a file that is no text looks like. */
static const char *disguise(const struct buf *line)
{
    static const struct {
        const char *bytes;
        const char *what;
    } known[] = {
        {"\x1f\x8b", "it is compressed (gzip); unpack it first"},
        {"\xfd\x37\x7a", "it is compressed (xz); unpack it first"},
        {"\x28\xb5\x2f\xfd", "it is compressed (zstd); unpack it first"},
        {"PK\x03\x04", "it is a zip archive; unpack it first"},
        {"Rar!", "it is a rar archive; unpack it first"},
        {"\xff\xfe", "it is UTF-16; save it as UTF-8"},
        {"\xfe\xff", "it is UTF-16; save it as UTF-8"},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strncmp(line->data, known[i].bytes, strlen(known[i].bytes)) == 0)
            return known[i].what;
    return NULL;
}

static int check_text(const struct trace_reader *r, struct error *err)
{
    const unsigned char *s = (const unsigned char *)r->line.data;
    const char *what = r->line_number == 1 ? disguise(&r->line) : NULL;
    if (what != NULL)
        return trace_refuse(r, err, "%s", what);
    for (size_t at = 0; at < r->line.len;) {
        size_t n = utf8_length(s + at, r->line.len - at);
        if (n == 0)
            return trace_refuse(r, err, "byte %zu is not UTF-8; save the file as UTF-8", at + 1);
        if (s[at] == '\0')
            return trace_refuse(r, err, "byte %zu is 0, which no text has; is the file damaged?",
                                at + 1);
        at += n;
    }
    return 0;
}

/* Fills the chunk: 1, 0 at the end. */
static int fill(struct trace_reader *r, struct error *err)
{
    errno = 0;
    r->chunk_at = 0;
    r->chunk_bytes = fread(r->chunk, 1, sizeof r->chunk, r->file);
    if (r->chunk_bytes == 0 && ferror(r->file))
        return error_set(err, errno != 0 ? -errno : -EIO, "cannot read %s: %s", r->name,
                         strerror(errno != 0 ? errno : EIO));
    return r->chunk_bytes > 0;
}

/* One line as it stands: 1, 0 at the end. */
static int read_line(struct trace_reader *r, struct error *err)
{
    buf_clear(&r->line);
    for (bool whole = false, begun = false; !whole;) {
        if (r->chunk_at == r->chunk_bytes) {
            int n = fill(r, err);
            if (n < 0 || (n == 0 && !begun))
                return n;
            if (n == 0)
                break;
        }
        if (!begun)
            r->line_number++;
        begun = true;
        const char *from = r->chunk + r->chunk_at;
        size_t rest = r->chunk_bytes - r->chunk_at;
        const char *end = memchr(from, '\n', rest);
        size_t bytes = end != NULL ? (size_t)(end - from) : rest;
        int n = buf_append(&r->line, from, bytes);
        if (n == -E2BIG)
            return trace_refuse(r, err, "the line has more than %u bytes; is this a trace?",
                                TRACE_LINE_BYTES_MAX);
        if (n < 0)
            return error_set(err, n, "out of memory");
        whole = end != NULL;
        r->chunk_at += bytes + whole;
    }
    return 1;
}

int trace_next_line(struct trace_reader *r, struct error *err)
{
    for (;;) {
        int n = read_line(r, err);
        if (n <= 0)
            return n;
        if (r->line_number == 1 && r->line.len >= 3 && memcmp(r->line.data, "\xef\xbb\xbf", 3) == 0)
            buf_consume(&r->line, 3); /* a byte order mark */
        n = check_text(r, err);
        if (n < 0)
            return n;
        while (r->line.len > 0 && strchr(" \t\r", r->line.data[r->line.len - 1]) != NULL)
            r->line.data[--r->line.len] = '\0';
        if (r->line.len > 0)
            return 1;
    }
}

/* --- columns --- */

/* The column at `s`, without quotes and blanks around it. Returns where the next one begins, or
 * NULL with *ret_ok false for a quote that does not end. */
static char *take_column(char *s, char **ret_text, bool *ret_last, bool *ret_ok)
{
    while (*s == ' ')
        s++;
    char *to = s;
    char *from = s;
    if (*s == '"') {
        for (from = s + 1; *from != '\0' && (*from != '"' || from[1] == '"'); from++) {
            from += *from == '"';
            *to++ = *from;
        }
        *ret_ok = *from == '"';
        from += *ret_ok;
        while (*from == ' ')
            from++;
        *ret_ok = *ret_ok && (*from == ',' || *from == '\0');
    } else {
        from += strcspn(s, ",");
        for (to = from; to > s && to[-1] == ' ';)
            to--;
        *ret_ok = true;
    }
    *ret_last = *from != ',';
    *to = '\0';
    *ret_text = s;
    return from + 1;
}

int trace_split(struct trace_reader *r, struct error *err)
{
    r->column_count = 0;
    bool last = false;
    for (char *at = r->line.data; !last;) {
        bool ok;
        if (r->column_count == TRACE_COLUMNS_MAX)
            return trace_refuse(r, err, "there are more than %u columns; is this a trace?",
                                TRACE_COLUMNS_MAX);
        at = take_column(at, &r->columns[r->column_count], &last, &ok);
        r->column_count++;
        if (!ok)
            return trace_refuse(r, err, "column %u has a quote that does not end before its comma",
                                r->column_count);
    }
    return 0;
}

int trace_column(const struct trace_reader *r, const char *name)
{
    for (uint32_t i = 0; i < r->column_count; i++)
        if (strcasecmp(r->columns[i], name) == 0)
            return (int)i;
    return -1;
}

int trace_need_column(const struct trace_reader *r, const char *name, uint32_t *ret,
                      struct error *err)
{
    int at = trace_column(r, name);
    if (at < 0)
        return trace_refuse(r, err, "there is no column \"%s\"; the first line must name it", name);
    *ret = (uint32_t)at;
    return 0;
}

int trace_next_row(struct trace_reader *r, struct error *err)
{
    int n = trace_next_line(r, err);
    if (n > 0 && trace_split(r, err) < 0)
        return -EINVAL;
    if (n > 0 && r->column_count != r->header_count)
        return trace_refuse(r, err,
                            "the row has %u columns, the first line %u; is the file cut off, or a "
                            "value unquoted?",
                            r->column_count, r->header_count);
    return n;
}

/* --- values --- */

int trace_whole(const struct trace_reader *r, const char *what, const char *text, uint64_t max,
                uint64_t *ret, struct error *err)
{
    char shown[TRACE_SHOW_BYTES];
    size_t digits = strspn(text, "0123456789");
    const char *rest = text + digits;
    if (*rest == '.') /* pandas writes 12.0 where a column had a gap */
        rest += 1 + strspn(rest + 1, "0");
    if (text[0] == '-')
        return trace_refuse(r, err, "%s is %s: it must not be negative", what,
                            trace_show(text, shown));
    if (digits == 0 || *rest != '\0')
        return trace_refuse(r, err, "%s is \"%s\": a whole number is needed", what,
                            trace_show(text, shown));
    uint64_t value = 0;
    for (size_t i = 0; i < digits && value <= max; i++)
        value = value * 10 + (uint64_t)(text[i] - '0');
    if (value > max)
        return trace_refuse(r, err, "%s is %s: at most %llu is supported", what,
                            trace_show(text, shown), (unsigned long long)max);
    *ret = value;
    return 0;
}

int trace_tokens(const struct trace_reader *r, const char *what, const char *text, uint32_t *ret,
                 struct error *err)
{
    uint64_t value = 0;
    int n = trace_whole(r, what, text, TRACE_TOKENS_MAX, &value, err);
    if (n == 0)
        *ret = (uint32_t)value;
    return n;
}

int trace_check_seconds(const struct trace_reader *r, const char *what, double seconds,
                        uint64_t *ret, struct error *err)
{
    if (seconds < 0)
        return trace_refuse(r, err,
                            "%s is %g: it must not be negative; add to all times what makes the "
                            "first one 0",
                            what, seconds);
    if (!(seconds * 1e6 <= (double)TRACE_SPAN_US_MAX))
        return trace_refuse(r, err, "%s is %g s, more than ten years; is it in another unit?", what,
                            seconds);
    *ret = (uint64_t)floor(seconds * 1e6 + 0.5);
    return 0;
}

int trace_seconds(const struct trace_reader *r, const char *what, const char *text, uint64_t *ret,
                  struct error *err)
{
    char shown[TRACE_SHOW_BYTES];
    char *end = NULL;
    size_t len = strspn(text, "0123456789.eE+-");
    bool plain = len > 0 && len <= NUMBER_BYTES_MAX && text[len] == '\0';
    double seconds = plain ? strtod(text, &end) : 0;
    if (!plain || *end != '\0')
        return trace_refuse(r, err, "%s is \"%s\": a number of seconds is needed", what,
                            trace_show(text, shown));
    return trace_check_seconds(r, what, seconds, ret, err);
}
