/*
 * Characters as the reference sees them. Its parts follow different versions of Unicode, and so
 * do our libraries; the small tables of the differences live in tokenizer_unicode.c and nowhere
 * else. Everything takes and gives valid UTF-8, except utf8_next and utf8_repair.
 */
#pragma once

#include "base/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decodes one character of `len` > 0 bytes. Returns its bytes (1..4) and sets *ret; -n: the first
 * n bytes are one maximal invalid part; 0: all that is there is the beginning of a character. */
int utf8_next(const char *p, size_t len, uint32_t *ret);
int utf8_put(uint32_t c, char ret[4]); /* bytes written, 1..4 */
bool utf8_is_valid(const char *p, size_t len);
/* Appends the text with U+FFFD for every maximal invalid part. */
int utf8_repair(const char *p, size_t len, struct buf *out);

bool unicode_is_space(uint32_t c); /* White_Space */

enum unicode_form { UNICODE_NFC, UNICODE_NFD, UNICODE_NFKC, UNICODE_NFKD };
/* Append the text in a normal form, or in lower case: 0, -E2BIG, -ENOMEM. Linear time but for the
 * sorting of long runs of combining marks. */
int unicode_normalize(enum unicode_form form, const char *p, size_t len, struct buf *out);
int unicode_lowercase(const char *p, size_t len, struct buf *out);

/* Code points of a general category ("L", "Nd") that the reference knows and PCRE2 may not. */
struct unicode_range {
    uint32_t first;
    uint32_t last;
    char category[3];
};
const struct unicode_range *unicode_newer(size_t *ret_count);
bool unicode_has_newer(const char *p, size_t len);
