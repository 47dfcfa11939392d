/* See jinja_text.h. Code points, white space and case; the printing half is in jinja_print.c. */
#include "model/jinja_text.h"

#include <string.h>
#include <utf8proc.h>

size_t jinja_char_bytes(char first)
{
    unsigned char c = (unsigned char)first;
    return c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}

uint32_t jinja_char_decode(const char *s)
{
    const unsigned char *p = (const unsigned char *)s;
    switch (jinja_char_bytes(*s)) {
    case 1:
        return p[0];
    case 2:
        return (p[0] & 0x1fu) << 6 | (p[1] & 0x3fu);
    case 3:
        return (p[0] & 0x0fu) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
    default:
        return (p[0] & 0x07u) << 18 | (p[1] & 0x3fu) << 12 | (p[2] & 0x3fu) << 6 | (p[3] & 0x3fu);
    }
}

size_t jinja_char_encode(uint32_t c, char ret[4])
{
    return (size_t)utf8proc_encode_char((utf8proc_int32_t)c, (utf8proc_uint8_t *)ret);
}

bool jinja_char_is_space(uint32_t c)
{
    return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

bool jinja_utf8_is_valid(const char *s, size_t len)
{
    for (size_t i = 0; i < len;) {
        utf8proc_int32_t c;
        size_t left = len - i < 4 ? len - i : 4;
        utf8proc_ssize_t n =
            utf8proc_iterate((const utf8proc_uint8_t *)s + i, (utf8proc_ssize_t)left, &c);
        if (n <= 0)
            return false;
        i += (size_t)n;
    }
    return true;
}

int64_t jinja_str_count(struct jinja_env *env, struct jinja_str s)
{
    int64_t count = 0;
    jinja_step_bytes(env, s.len);
    for (size_t i = 0; i < s.len; i++)
        count += ((unsigned char)s.s[i] & 0xc0) != 0x80;
    return count;
}

size_t jinja_str_offset(struct jinja_env *env, struct jinja_str s, int64_t index)
{
    size_t at = 0;
    while (index > 0 && at < s.len) {
        at += jinja_char_bytes(s.s[at]);
        index--;
    }
    jinja_step_bytes(env, at);
    return at;
}

static bool strips(struct jinja_str one, const struct jinja_str *chars)
{
    if (chars == NULL)
        return jinja_char_is_space(jinja_char_decode(one.s));
    for (size_t i = 0; i < chars->len; i += jinja_char_bytes(chars->s[i]))
        if (jinja_char_bytes(chars->s[i]) == one.len && memcmp(chars->s + i, one.s, one.len) == 0)
            return true;
    return false;
}

struct jinja_str jinja_str_strip(struct jinja_env *env, struct jinja_str s,
                                 const struct jinja_str *chars, bool left, bool right)
{
    uint64_t cost = chars != NULL ? 1 + chars->len / 8 : 0;
    while (left && s.len > 0) {
        size_t n = jinja_char_bytes(s.s[0]);
        jinja_step(env, cost);
        if (!strips((struct jinja_str){s.s, n}, chars))
            break;
        s.s += n;
        s.len -= n;
    }
    while (right && s.len > 0) {
        size_t at = s.len - 1;
        while (((unsigned char)s.s[at] & 0xc0) == 0x80)
            at--;
        jinja_step(env, cost);
        if (!strips((struct jinja_str){s.s + at, s.len - at}, chars))
            break;
        s.len = at;
    }
    return s;
}

struct jinja_str jinja_str_replace(struct jinja_env *env, struct jinja_str s, struct jinja_str from,
                                   struct jinja_str to, int64_t count_max)
{
    struct jinja_text t = jinja_text_begin(SIZE_MAX);
    size_t at = 0;
    int64_t count = 0;
    jinja_step_bytes(env, s.len);
    while (count_max < 0 || count < count_max) {
        if (from.len == 0) { /* Python puts it before every character and at the end */
            jinja_text_add_str(env, &t, to);
            if (at >= s.len)
                break;
            size_t n = jinja_char_bytes(s.s[at]);
            jinja_text_add(env, &t, s.s + at, n);
            at += n;
        } else {
            const char *hit = at < s.len ? memmem(s.s + at, s.len - at, from.s, from.len) : NULL;
            if (hit == NULL)
                break;
            jinja_text_add(env, &t, s.s + at, (size_t)(hit - s.s) - at);
            jinja_text_add_str(env, &t, to);
            at = (size_t)(hit - s.s) + from.len;
        }
        jinja_step(env, 1);
        count++;
    }
    if (count == 0 && from.len > 0)
        return s;
    if (at < s.len)
        jinja_text_add(env, &t, s.s + at, s.len - at);
    return jinja_text_end(&t);
}

/* The letters whose capital is more than one letter, as far as people write them. */
static const char *upper_special(uint32_t c)
{
    static const struct {
        uint32_t c;
        const char *upper;
    } special[] = {
        {0xdf, "SS"},        {0x149, "\u02bcN"},  {0x1f0, "J\u030c"},  {0x587, "\u0535\u0552"},
        {0x1e96, "H\u0331"}, {0x1e97, "T\u0308"}, {0x1e98, "W\u030a"}, {0x1e99, "Y\u030a"},
        {0xfb00, "FF"},      {0xfb01, "FI"},      {0xfb02, "FL"},      {0xfb03, "FFI"},
        {0xfb04, "FFL"},     {0xfb05, "ST"},      {0xfb06, "ST"},
    };
    for (size_t i = 0; i < sizeof special / sizeof special[0]; i++)
        if (special[i].c == c)
            return special[i].upper;
    return NULL;
}

static bool is_cased(uint32_t c)
{
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT ||
           utf8proc_islower((utf8proc_int32_t)c) || utf8proc_isupper((utf8proc_int32_t)c);
}

static bool at_word_end(struct jinja_str s, size_t at)
{
    return at >= s.len || !is_cased(jinja_char_decode(s.s + at));
}

static void add_case(struct jinja_env *env, struct jinja_text *t, uint32_t c, bool up, bool first,
                     bool sigma_ends)
{
    char bytes[4];
    if (up) {
        const char *special = upper_special(c);
        if (special != NULL) {
            /* "SS" begins a capitalized word as "Ss". */
            size_t len = strlen(special);
            jinja_text_add(env, t, special, len);
            if (first && (unsigned char)special[len - 1] < 0x80)
                for (size_t i = 1; i < len; i++)
                    t->data[t->len - len + i] = (char)(special[i] | 0x20);
            return;
        }
        c = (uint32_t)(first ? utf8proc_totitle((utf8proc_int32_t)c)
                             : utf8proc_toupper((utf8proc_int32_t)c));
    } else if (c == 0x3a3 && sigma_ends) {
        c = 0x3c2;
    } else if (c == 0x130) {
        jinja_text_add(env, t, "i\u0307", 3);
        return;
    } else {
        c = (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
    }
    jinja_text_add(env, t, bytes, jinja_char_encode(c, bytes));
}

struct jinja_str jinja_str_case(struct jinja_env *env, struct jinja_str s, enum jinja_case to)
{
    struct jinja_text t = jinja_text_begin(SIZE_MAX);
    bool in_word = false;
    jinja_step(env, s.len / 4);
    for (size_t i = 0; i < s.len;) {
        uint32_t c = jinja_char_decode(s.s + i);
        size_t n = jinja_char_bytes(s.s[i]);
        bool first = (to == JINJA_CAPITALIZE && i == 0) || (to == JINJA_TITLE && !in_word);
        bool up = to == JINJA_UPPER || first ||
                  (to == JINJA_SWAP && utf8proc_islower((utf8proc_int32_t)c));
        bool swap_keeps = to == JINJA_SWAP && !is_cased(c);
        bool sigma_ends = c == 0x3a3 && in_word && at_word_end(s, i + n);
        if (swap_keeps)
            jinja_text_add(env, &t, s.s + i, n);
        else
            add_case(env, &t, c, up, first, sigma_ends);
        in_word = is_cased(c);
        i += n;
    }
    return jinja_text_end(&t);
}

static bool is_line_end(uint32_t c)
{
    return (c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 ||
           c == 0x2029;
}

struct jinja_value jinja_str_lines(struct jinja_env *env, struct jinja_str s, bool keep)
{
    struct jinja_value lines = jinja_list_new(env, JINJA_LIST);
    size_t start = 0;
    jinja_step_bytes(env, s.len);
    for (size_t i = 0; i < s.len;) {
        size_t n = jinja_char_bytes(s.s[i]);
        if (!is_line_end(jinja_char_decode(s.s + i))) {
            i += n;
            continue;
        }
        size_t end = i;
        i += n;
        if (s.s[end] == '\r' && i < s.len && s.s[i] == '\n')
            i++;
        jinja_list_push(env, lines.list,
                        jinja_string((struct jinja_str){s.s + start, (keep ? i : end) - start}));
        start = i;
    }
    if (start < s.len)
        jinja_list_push(env, lines.list,
                        jinja_string((struct jinja_str){s.s + start, s.len - start}));
    return lines;
}
