/* See skim.h. Recursion goes no deeper than depth_max. */
#include "gateway/skim.h"

#include "gateway/openai.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define KEYS_INLINE 64u
/* More keys than a chat of the longest context has messages. */
#define KEYS_MAX 131072u

struct checker {
    const char *start;
    const char *at;
    const char *end;
    uint32_t depth;
    uint32_t depth_max;
    /* Hashes of (object, key), open addressing, 0 is free. The seed is where this stands in memory:
     * which keys meet in a slot is not for a client to choose. */
    uint64_t seed;
    uint64_t object_count;
    uint64_t *slots; /* `few`, or owned */
    size_t slot_count;
    size_t used;
    uint64_t few[KEYS_INLINE];
    struct error *err;
};

static int bad(struct checker *c, const char *what)
{
    return error_set(c->err, -EINVAL, "the body is not valid JSON: %s at byte %zu", what,
                     (size_t)(c->at - c->start));
}

static void skip_blanks(struct checker *c)
{
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\n' || *c->at == '\t' || *c->at == '\r'))
        c->at++;
}

/* --- keys --- */

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* False when it was there before. */
static bool add_slot(uint64_t *slots, size_t count, uint64_t hash)
{
    size_t i = hash & (count - 1);
    for (; slots[i] != 0; i = (i + 1) & (count - 1))
        if (slots[i] == hash)
            return false;
    slots[i] = hash;
    return true;
}

static int grow_keys(struct checker *c)
{
    size_t count = c->slot_count * 4;
    uint64_t *slots = calloc(count, sizeof *slots);
    if (slots == NULL)
        return error_set(c->err, -ENOMEM, "no memory to check the body");
    for (size_t i = 0; i < c->slot_count; i++)
        if (c->slots[i] != 0)
            add_slot(slots, count, c->slots[i]);
    if (c->slots != c->few)
        free(c->slots);
    c->slots = slots;
    c->slot_count = count;
    return 0;
}

static int add_key(struct checker *c, uint64_t hash)
{
    if (c->used == KEYS_MAX)
        return error_set(c->err, -EINVAL, "the body has more than %u keys", KEYS_MAX);
    if (c->used * 2 >= c->slot_count) {
        int r = grow_keys(c);
        if (r < 0)
            return r;
    }
    hash = mix(hash);
    if (!add_slot(c->slots, c->slot_count, hash != 0 ? hash : 1))
        return bad(c, "a key stands twice in one object");
    c->used++;
    return 0;
}

/* --- strings --- */

static void hash_byte(uint64_t *hash, unsigned char byte)
{
    *hash = (*hash ^ byte) * 0x9e3779b97f4a7c15u;
    *hash ^= *hash >> 29;
}

static void hash_code_point(uint64_t *hash, uint32_t cp)
{
    if (cp < 0x80) {
        hash_byte(hash, (unsigned char)cp);
        return;
    }
    int more = cp < 0x800 ? 1 : cp < 0x10000 ? 2 : 3;
    static const unsigned char lead[] = {0, 0xc0, 0xe0, 0xf0};
    hash_byte(hash, (unsigned char)(lead[more] | cp >> (6 * more)));
    while (more-- > 0)
        hash_byte(hash, (unsigned char)(0x80 | (cp >> (6 * more) & 0x3f)));
}

/* Four hexadecimal digits at c->at, which moves behind them; UINT32_MAX when they are not. */
static uint32_t take_hex(struct checker *c)
{
    uint32_t value = 0;
    if (c->end - c->at < 4)
        return UINT32_MAX;
    for (int i = 0; i < 4; i++) {
        char d = *c->at++;
        if (d >= '0' && d <= '9')
            value = value << 4 | (uint32_t)(d - '0');
        else if ((d | 0x20) >= 'a' && (d | 0x20) <= 'f')
            value = value << 4 | (uint32_t)((d | 0x20) - 'a' + 10);
        else
            return UINT32_MAX;
    }
    return value;
}

static int check_escape(struct checker *c, uint64_t *hash)
{
    static const char from[] = "\"\\/bfnrt";
    static const char to[] = "\"\\/\b\f\n\r\t";
    if (++c->at == c->end)
        return bad(c, "the body ends");
    char kind = *c->at++;
    const char *simple = kind != '\0' ? strchr(from, kind) : NULL;
    if (simple != NULL) {
        if (hash != NULL)
            hash_byte(hash, (unsigned char)to[simple - from]);
        return 0;
    }
    uint32_t cp = kind == 'u' ? take_hex(c) : UINT32_MAX;
    if (cp >= 0xd800 && cp <= 0xdbff && c->end - c->at >= 6 && c->at[0] == '\\' &&
        c->at[1] == 'u') {
        c->at += 2;
        uint32_t low = take_hex(c);
        cp = low >= 0xdc00 && low <= 0xdfff ? 0x10000 + ((cp - 0xd800) << 10) + (low - 0xdc00)
                                            : UINT32_MAX;
    }
    if (cp == UINT32_MAX || (cp >= 0xd800 && cp <= 0xdfff))
        return bad(c, "an escape that is none");
    if (hash != NULL && cp == 0)
        return bad(c, "a key with NUL");
    if (hash != NULL)
        hash_code_point(hash, cp);
    return 0;
}

/* Eight bytes at a time over what is plain in a string: ASCII, no control, quote or backslash. A
 * byte is marked in its top bit by subtracting 1 where it is to be found as 0, or 0x20 where it is
 * to be below it; a borrow can only mark a byte too many, behind one that was marked rightly. */
static const char *skip_plain(const char *at, const char *end)
{
    const uint64_t each = 0x0101010101010101u;
    while (end - at >= 8) {
        uint64_t x;
        memcpy(&x, at, 8);
        uint64_t quote = x ^ each * '"';
        uint64_t backslash = x ^ each * '\\';
        uint64_t marks = x | (x - each * 0x20) | (quote - each) | (backslash - each);
        if (marks & each * 0x80)
            break;
        at += 8;
    }
    return at;
}

/* c->at is at the opening quote. With a hash it is a key. */
static int check_string(struct checker *c, uint64_t *hash)
{
    c->at++;
    for (;;) {
        if (hash == NULL)
            c->at = skip_plain(c->at, c->end);
        if (c->at == c->end || *c->at == '"')
            break;
        unsigned char u = (unsigned char)*c->at;
        if (u == '\\') {
            int r = check_escape(c, hash);
            if (r < 0)
                return r;
            continue;
        }
        size_t n = u < 0x80 ? 1 : openai_utf8_length(c->at, (size_t)(c->end - c->at));
        if (u < 0x20)
            return bad(c, "a control character in a string");
        if (n == 0)
            return bad(c, "a string that is not UTF-8");
        for (size_t i = 0; hash != NULL && i < n; i++)
            hash_byte(hash, (unsigned char)c->at[i]);
        c->at += n;
    }
    if (c->at == c->end)
        return bad(c, "the body ends");
    c->at++;
    return 0;
}

/* --- values --- */

static size_t take_digits(struct checker *c)
{
    const char *from = c->at;
    while (c->at < c->end && *c->at >= '0' && *c->at <= '9')
        c->at++;
    return (size_t)(c->at - from);
}

static bool take(struct checker *c, char wanted)
{
    if (c->at == c->end || *c->at != wanted)
        return false;
    c->at++;
    return true;
}

static int check_number(struct checker *c)
{
    take(c, '-');
    if (!take(c, '0') && take_digits(c) == 0)
        return bad(c, "no value");
    if (take(c, '.') && take_digits(c) == 0)
        return bad(c, "a number without digits");
    if (take(c, 'e') || take(c, 'E')) {
        if (!take(c, '+'))
            take(c, '-');
        if (take_digits(c) == 0)
            return bad(c, "a number without digits");
    }
    return 0;
}

static int check_word(struct checker *c, const char *word)
{
    size_t len = strlen(word);
    if ((size_t)(c->end - c->at) < len || memcmp(c->at, word, len) != 0)
        return bad(c, "no value");
    c->at += len;
    return 0;
}

static int check_value(struct checker *c);

static int check_key(struct checker *c, uint64_t object)
{
    uint64_t hash = mix(c->seed + object);
    skip_blanks(c);
    if (c->at == c->end || *c->at != '"')
        return bad(c, "no key");
    int r = check_string(c, &hash);
    if (r == 0)
        r = add_key(c, hash);
    skip_blanks(c);
    if (r == 0 && !take(c, ':'))
        r = bad(c, "no colon");
    return r;
}

static int check_container(struct checker *c, bool object)
{
    char close = object ? '}' : ']';
    uint64_t id = ++c->object_count;
    if (++c->depth > c->depth_max)
        return error_set(c->err, -EINVAL, "the body is nested deeper than %u levels", c->depth_max);
    c->at++;
    skip_blanks(c);
    if (!take(c, close)) {
        do {
            int r = object ? check_key(c, id) : 0;
            if (r == 0)
                r = check_value(c);
            if (r < 0)
                return r;
            skip_blanks(c);
        } while (take(c, ','));
        if (!take(c, close))
            return bad(c, object ? "an object that does not end" : "an array that does not end");
    }
    c->depth--;
    return 0;
}

static int check_value(struct checker *c)
{
    skip_blanks(c);
    if (c->at == c->end)
        return bad(c, "the body ends");
    switch (*c->at) {
    case '{':
        return check_container(c, true);
    case '[':
        return check_container(c, false);
    case '"':
        return check_string(c, NULL);
    case 't':
        return check_word(c, "true");
    case 'f':
        return check_word(c, "false");
    case 'n':
        return check_word(c, "null");
    default:
        return check_number(c);
    }
}

int skim_check(const char *json, size_t len, uint32_t depth_max, struct error *err)
{
    struct checker c = {.start = json,
                        .at = json,
                        .end = json + len,
                        .depth_max = depth_max,
                        .slot_count = KEYS_INLINE,
                        .err = err};
    c.slots = c.few;
    if (len == 0)
        return error_set(err, -EINVAL, "the request has no body; send a JSON object");
    c.seed = mix((uintptr_t)&c ^ (uintptr_t)json << 20);
    int r = check_value(&c);
    skip_blanks(&c);
    if (r == 0 && c.at != c.end)
        r = bad(&c, "something behind the value");
    if (c.slots != c.few)
        free(c.slots);
    return r;
}

/* --- walking what is known to be valid --- */

static const char *skip_to_value(const char *at)
{
    while (*at == ' ' || *at == '\n' || *at == '\t' || *at == '\r' || *at == ',' || *at == ':')
        at++;
    return at;
}

static const char *end_of_string(const char *at, const char *end)
{
    for (at = skip_plain(at + 1, end); *at != '"'; at = skip_plain(at + 1, end))
        if (*at == '\\')
            at++;
    return at + 1;
}

static const char *end_of_container(const char *at, const char *end)
{
    uint32_t depth = 0;
    do {
        if (*at == '"') {
            at = end_of_string(at, end);
            continue;
        }
        if (*at == '[' || *at == '{')
            depth++;
        else if (*at == ']' || *at == '}')
            depth--;
        at++;
    } while (depth > 0);
    return at;
}

/* The value at `at`, not looking at `end` or beyond. */
static struct skim_span span_at(const char *at, const char *end)
{
    struct skim_span s = {.at = at};
    const char *to = at + 1;
    switch (*at) {
    case '{':
    case '[':
        s.kind = *at == '{' ? SKIM_OBJECT : SKIM_ARRAY;
        to = end_of_container(at, end);
        break;
    case '"':
        s.kind = SKIM_STRING;
        to = end_of_string(at, end);
        break;
    default:
        s.kind = *at == 'n' ? SKIM_NULL : *at == 't' || *at == 'f' ? SKIM_BOOL : SKIM_NUMBER;
        while (to<end && * to> ' ' && *to != ',' && *to != ']' && *to != '}')
            to++;
    }
    s.bytes = (size_t)(to - at);
    return s;
}

struct skim_span skim_document(const char *json, size_t len)
{
    struct skim_span s = {.at = skip_to_value(json)};
    while (json[len - 1] == ' ' || json[len - 1] == '\n' || json[len - 1] == '\t' ||
           json[len - 1] == '\r')
        len--;
    s.kind = *s.at == '{' ? SKIM_OBJECT : *s.at == '[' ? SKIM_ARRAY : SKIM_ABSENT;
    s.bytes = (size_t)(json + len - s.at);
    return s;
}

bool skim_next(const struct skim_span *in, const char **at, struct skim_span *ret_key,
               struct skim_span *ret_value)
{
    const char *end = in->at + in->bytes;
    const char *next = skip_to_value(*at != NULL ? *at : in->at + 1);
    if (*next == ']' || *next == '}')
        return false;
    if (in->kind == SKIM_OBJECT) {
        *ret_key = span_at(next, end);
        next = skip_to_value(next + ret_key->bytes);
    }
    *ret_value = span_at(next, end);
    *at = next + ret_value->bytes;
    return true;
}

bool skim_is(const struct skim_span *s, const char *text)
{
    size_t len = strlen(text);
    return s->kind == SKIM_STRING && s->bytes == len + 2 && memcmp(s->at + 1, text, len) == 0;
}

struct skim_span skim_member(const struct skim_span *object, const char *name)
{
    struct skim_span key;
    struct skim_span value;
    for (const char *at = NULL;
         object->kind == SKIM_OBJECT && skim_next(object, &at, &key, &value);)
        if (skim_is(&key, name))
            return value;
    return (struct skim_span){.kind = SKIM_ABSENT};
}
