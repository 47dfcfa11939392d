/*
 * The one error convention: functions return 0 or -errno, and where a person must understand why,
 * the sentence goes into a caller-owned struct error, the last parameter. A sentence names what is
 * wrong and how to mend it. Library code never logs; the top level logs once.
 */
#pragma once

#include <stddef.h>

#define ERROR_TEXT_BYTES 512

struct error {
    int code; /* -errno, 0 while unset */
    char text[ERROR_TEXT_BYTES];
};

/* Sets code and text and returns the code, so that `return error_set(err, -EINVAL, ...)` reads as
 * one step. `err` may be NULL. `code` must be negative. */
int error_set(struct error *err, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before the text that is there (which file, which request). Returns err->code. */
int error_prefix(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
