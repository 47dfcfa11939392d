/*
 * Text of a page in the making. The first failure is remembered and what follows is dropped, so
 * that the hundred small appends of a drawing need no check each; who began it asks at the end.
 */
#pragma once

#include "base/buf.h"

#define MARKUP_PRINT_BYTES 256

struct markup {
    struct buf text;
    int failed; /* 0, or the first of -E2BIG, -ENOMEM */
};

void markup_init(struct markup *m, size_t max_bytes);
void markup_free(struct markup *m);
void markup_fail(struct markup *m, int code); /* keeps the first */

void markup_put(struct markup *m, const char *html); /* as it stands */
/* Numbers and our own words: less than MARKUP_PRINT_BYTES of it. */
void markup_printf(struct markup *m, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Text that came from somewhere: fit for an element and for a quoted attribute. What is not UTF-8,
 * or not allowed in HTML, becomes U+FFFD. */
void markup_text(struct markup *m, const char *text);
void markup_text_part(struct markup *m, const char *text, size_t len);
