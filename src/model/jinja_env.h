/*
 * The budget of one parse or one render: memory, steps, depth, and the way out on an error.
 *
 * Everything a parse or a render allocates lives in one arena with a maximum, so an error can leave
 * by longjmp from any depth to the one place that called setjmp (chat.c) and nothing leaks. This is
 * the only non-local exit of the code base; in return no operation of the language needs an error
 * path of its own, and a limit holds wherever memory or time is spent, not only where somebody
 * remembered to look.
 */
#pragma once

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct jinja_chunk;

struct jinja_env {
    jmp_buf out;
    struct error *err; /* may be NULL */
    int code;          /* -errno once failed */
    uint32_t line;     /* of the template, for messages */

    struct jinja_chunk *chunks; /* owned */
    size_t memory_bytes;
    size_t memory_bytes_max;
    uint64_t steps;
    uint64_t steps_max;
    unsigned depth;
    unsigned depth_max;
};

/* Bytes that grow inside the arena. */
struct jinja_text {
    char *data;
    size_t len;
    size_t cap;
    size_t bytes_max;
};

/* Text that somebody else owns; not NUL-terminated. Always valid UTF-8. */
struct jinja_str {
    const char *s;
    size_t len;
};

#define JINJA_STR(literal) ((struct jinja_str){literal, sizeof(literal) - 1})

void jinja_env_free(struct jinja_env *env);

/* Never NULL and zeroed; leaves by jinja_fail when the maximum is reached or memory is out. */
void *jinja_alloc(struct jinja_env *env, size_t bytes);
void *jinja_alloc_array(struct jinja_env *env, size_t count, size_t bytes);

/* "chat template, line N: ..." */
_Noreturn void jinja_fail(struct jinja_env *env, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* The template's own words (raise_exception), nothing added. */
_Noreturn void jinja_raise(struct jinja_env *env, struct jinja_str message);
_Noreturn void jinja_fail_limit(struct jinja_env *env, const char *what);

void jinja_step(struct jinja_env *env, uint64_t steps);
/* Steps for work that touches `bytes` bytes. */
void jinja_step_bytes(struct jinja_env *env, size_t bytes);
void jinja_enter(struct jinja_env *env);
void jinja_leave(struct jinja_env *env);

struct jinja_text jinja_text_begin(size_t bytes_max);
void jinja_text_add(struct jinja_env *env, struct jinja_text *t, const char *s, size_t len);
void jinja_text_add_str(struct jinja_env *env, struct jinja_text *t, struct jinja_str s);
void jinja_text_add_char(struct jinja_env *env, struct jinja_text *t, char c);
void jinja_text_add_repeat(struct jinja_env *env, struct jinja_text *t, struct jinja_str s,
                           int64_t times);
void jinja_text_printf(struct jinja_env *env, struct jinja_text *t, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
struct jinja_str jinja_text_end(const struct jinja_text *t);

bool jinja_str_equal(struct jinja_str a, struct jinja_str b);
bool jinja_str_is(struct jinja_str a, const char *b);
