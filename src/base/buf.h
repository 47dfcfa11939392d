/*
 * A growable byte buffer with a hard maximum. Every buffer that outside input can grow is one of
 * these, so "too big" is an ordinary error at one place and never an allocation out of control.
 */
#pragma once

#include <stddef.h>

struct buf {
    char *data;       /* owned; NULL while empty; always NUL-terminated when not NULL */
    size_t len;       /* bytes in use, the NUL not counted */
    size_t cap;       /* bytes allocated */
    size_t max_bytes; /* appends that would exceed it fail with -E2BIG */
};

void buf_init(struct buf *b, size_t max_bytes);
void buf_free(struct buf *b);                /* back to the state after buf_init */
void buf_clear(struct buf *b);               /* len = 0, keeps the memory */
int buf_reserve(struct buf *b, size_t more); /* 0, -E2BIG, -ENOMEM */
int buf_append(struct buf *b, const void *bytes, size_t len);
int buf_append_str(struct buf *b, const char *s);
int buf_append_char(struct buf *b, char c);
int buf_printf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Drops the first `len` bytes. */
void buf_consume(struct buf *b, size_t len);
/* Appends `len` bytes of valid UTF-8 as the inside of a JSON string, escapes included. */
int buf_append_json(struct buf *b, const char *s, size_t len);
