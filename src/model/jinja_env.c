/* See jinja_env.h. The arena is a list of chunks that only grow; it is freed as a whole. */
#include "model/jinja_env.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_BYTES ((size_t)16 << 10)
#define BYTES_PER_STEP 32

struct jinja_chunk {
    struct jinja_chunk *next;
    size_t cap;
    size_t used;
    _Alignas(16) char data[];
};

void jinja_env_free(struct jinja_env *env)
{
    for (struct jinja_chunk *c = env->chunks; c != NULL;) {
        struct jinja_chunk *next = c->next;
        free(c);
        c = next;
    }
    env->chunks = NULL;
    env->memory_bytes = 0;
}

/* An error's text goes to people and into JSON, so a cut must not leave half a character. */
static void error_trim(struct error *err)
{
    size_t len = strlen(err->text);
    if (len + 1 < sizeof err->text)
        return;
    size_t end = len;
    while (end > 0 && ((unsigned char)err->text[end - 1] & 0xc0) == 0x80)
        end--;
    if (end > 0 && ((unsigned char)err->text[end - 1] & 0x80) != 0)
        end--;
    err->text[end] = '\0';
}

static _Noreturn void leave(struct jinja_env *env, int code)
{
    if (env->err != NULL)
        error_trim(env->err);
    env->code = code;
    longjmp(env->out, 1);
}

void jinja_fail(struct jinja_env *env, const char *format, ...)
{
    char text[ERROR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    error_set(env->err, -EINVAL, "chat template, line %u: %s", env->line, text);
    leave(env, -EINVAL);
}

void jinja_raise(struct jinja_env *env, struct jinja_str message)
{
    size_t len = message.len < ERROR_TEXT_BYTES ? message.len : ERROR_TEXT_BYTES;
    error_set(env->err, -EINVAL, "%.*s", (int)len, message.s != NULL ? message.s : "");
    leave(env, -EINVAL);
}

void jinja_fail_limit(struct jinja_env *env, const char *what)
{
    error_set(env->err, -E2BIG, "chat template, line %u: it needs more than %s allowed for it",
              env->line, what);
    leave(env, -E2BIG);
}

static struct jinja_chunk *chunk_add(struct jinja_env *env, size_t bytes)
{
    /* Chunks double with what is in use, so that many small ones do not pile up. */
    size_t cap = env->memory_bytes / 2 > CHUNK_BYTES ? env->memory_bytes / 2 : CHUNK_BYTES;
    size_t left = env->memory_bytes_max - env->memory_bytes;
    if (cap < bytes)
        cap = bytes;
    if (cap > left)
        cap = bytes;
    if (cap > left)
        jinja_fail_limit(env, "the memory");
    struct jinja_chunk *c = malloc(sizeof *c + cap);
    if (c == NULL) {
        error_set(env->err, -ENOMEM, "chat template: out of memory");
        leave(env, -ENOMEM);
    }
    *c = (struct jinja_chunk){.next = env->chunks, .cap = cap};
    env->chunks = c;
    env->memory_bytes += cap;
    return c;
}

static void *alloc_raw(struct jinja_env *env, size_t bytes)
{
    if (bytes > env->memory_bytes_max)
        jinja_fail_limit(env, "the memory");
    size_t rounded = (bytes + 15) & ~(size_t)15;
    struct jinja_chunk *c = env->chunks;
    if (c == NULL || c->cap - c->used < rounded)
        c = chunk_add(env, rounded);
    void *p = c->data + c->used;
    c->used += rounded;
    return p;
}

void *jinja_alloc(struct jinja_env *env, size_t bytes)
{
    void *p = alloc_raw(env, bytes);
    memset(p, 0, bytes);
    return p;
}

void *jinja_alloc_array(struct jinja_env *env, size_t count, size_t bytes)
{
    size_t total;
    if (__builtin_mul_overflow(count, bytes, &total))
        jinja_fail_limit(env, "the memory");
    jinja_step_bytes(env, total);
    return jinja_alloc(env, total);
}

void jinja_step(struct jinja_env *env, uint64_t steps)
{
    if (steps > env->steps_max - env->steps)
        jinja_fail_limit(env, "the steps");
    env->steps += steps;
}

void jinja_step_bytes(struct jinja_env *env, size_t bytes)
{
    jinja_step(env, bytes / BYTES_PER_STEP);
}

void jinja_enter(struct jinja_env *env)
{
    if (env->depth >= env->depth_max)
        jinja_fail_limit(env, "the depth of nesting");
    env->depth++;
}

void jinja_leave(struct jinja_env *env)
{
    env->depth--;
}

struct jinja_text jinja_text_begin(size_t bytes_max)
{
    return (struct jinja_text){.bytes_max = bytes_max};
}

/* Room for `more` bytes; grows in place while the text is the last thing in the arena. */
static void text_reserve(struct jinja_env *env, struct jinja_text *t, size_t more)
{
    if (more > t->bytes_max - t->len)
        jinja_fail_limit(env, "the output");
    size_t need = t->len + more;
    if (need <= t->cap)
        return;
    size_t cap = t->cap < 32 ? 32 : t->cap;
    while (cap < need)
        cap += cap / 2;
    cap = (cap + 15) & ~(size_t)15;
    struct jinja_chunk *c = env->chunks;
    if (t->cap > 0 && t->data + t->cap == c->data + c->used && c->cap - c->used >= cap - t->cap) {
        c->used += cap - t->cap;
        t->cap = cap;
        return;
    }
    jinja_step_bytes(env, t->len);
    char *data = alloc_raw(env, cap);
    if (t->len > 0)
        memcpy(data, t->data, t->len);
    t->data = data;
    t->cap = cap;
}

void jinja_text_add(struct jinja_env *env, struct jinja_text *t, const char *s, size_t len)
{
    if (len == 0)
        return;
    jinja_step_bytes(env, len);
    text_reserve(env, t, len);
    memcpy(t->data + t->len, s, len);
    t->len += len;
}

void jinja_text_add_str(struct jinja_env *env, struct jinja_text *t, struct jinja_str s)
{
    jinja_text_add(env, t, s.s, s.len);
}

void jinja_text_add_char(struct jinja_env *env, struct jinja_text *t, char c)
{
    jinja_text_add(env, t, &c, 1);
}

void jinja_text_add_repeat(struct jinja_env *env, struct jinja_text *t, struct jinja_str s,
                           int64_t times)
{
    size_t total;
    if (times <= 0 || s.len == 0)
        return;
    if (__builtin_mul_overflow(s.len, (size_t)times, &total))
        jinja_fail_limit(env, "the memory");
    jinja_step(env, (uint64_t)times / 4);
    jinja_step_bytes(env, total);
    text_reserve(env, t, total);
    for (int64_t i = 0; i < times; i++, t->len += s.len)
        memcpy(t->data + t->len, s.s, s.len);
}

void jinja_text_printf(struct jinja_env *env, struct jinja_text *t, const char *format, ...)
{
    char small[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(small, sizeof small, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof small)
        jinja_fail(env, "a formatted number is longer than %zu characters", sizeof small - 1);
    jinja_text_add(env, t, small, (size_t)n);
}

struct jinja_str jinja_text_end(const struct jinja_text *t)
{
    return (struct jinja_str){t->len > 0 ? t->data : "", t->len};
}

bool jinja_str_equal(struct jinja_str a, struct jinja_str b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.s, b.s, a.len) == 0);
}

bool jinja_str_is(struct jinja_str a, const char *b)
{
    return a.len == strlen(b) && memcmp(a.s, b, a.len) == 0;
}
