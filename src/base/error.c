/* See error.h. */
#include "base/error.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int error_set(struct error *err, int code, const char *format, ...)
{
    assert(code < 0);
    if (err == NULL)
        return code;
    va_list args;
    va_start(args, format);
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    err->code = code;
    return code;
}

int error_prefix(struct error *err, const char *format, ...)
{
    if (err == NULL)
        return -1;
    char prefix[ERROR_TEXT_BYTES / 2];
    char rest[ERROR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(prefix, sizeof prefix, format, args);
    va_end(args);
    memcpy(rest, err->text, sizeof rest);
    int n = snprintf(err->text, sizeof err->text, "%s: ", prefix);
    if (n >= 0 && (size_t)n < sizeof err->text) {
        size_t room = sizeof err->text - (size_t)n - 1;
        size_t len = strnlen(rest, room);
        memcpy(err->text + n, rest, len);
        err->text[(size_t)n + len] = '\0';
    }
    return err->code;
}
