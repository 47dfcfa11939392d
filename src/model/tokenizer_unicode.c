/* See tokenizer_unicode.h. The tables hold what differs between the reference (regular expressions
 * of Unicode 16, normal forms of Unicode 9) and PCRE2 10.42 (Unicode 14), utf8proc 2.8 (15). */
#include "model/tokenizer_unicode.h"

#include "base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* Assigned after Unicode 14; sorted. */
static const struct unicode_range newer[] = {
    {0x897, 0x897, "Mn"},     {0xcf3, 0xcf3, "Mc"},     {0xece, 0xece, "Mn"},
    {0x1b4e, 0x1b4f, "Po"},   {0x1b7f, 0x1b7f, "Po"},   {0x1c89, 0x1c89, "Lu"},
    {0x1c8a, 0x1c8a, "Ll"},   {0x2427, 0x2429, "So"},   {0x2ffc, 0x2fff, "So"},
    {0x31e4, 0x31e5, "So"},   {0x31ef, 0x31ef, "So"},   {0xa7cb, 0xa7cc, "Lu"},
    {0xa7cd, 0xa7cd, "Ll"},   {0xa7da, 0xa7da, "Lu"},   {0xa7db, 0xa7db, "Ll"},
    {0xa7dc, 0xa7dc, "Lu"},   {0x105c0, 0x105f3, "Lo"}, {0x10d40, 0x10d49, "Nd"},
    {0x10d4a, 0x10d4d, "Lo"}, {0x10d4e, 0x10d4e, "Lm"}, {0x10d4f, 0x10d4f, "Lo"},
    {0x10d50, 0x10d65, "Lu"}, {0x10d69, 0x10d6d, "Mn"}, {0x10d6e, 0x10d6e, "Pd"},
    {0x10d6f, 0x10d6f, "Lm"}, {0x10d70, 0x10d85, "Ll"}, {0x10d8e, 0x10d8f, "Sm"},
    {0x10ec2, 0x10ec4, "Lo"}, {0x10efc, 0x10eff, "Mn"}, {0x1123f, 0x11240, "Lo"},
    {0x11241, 0x11241, "Mn"}, {0x11380, 0x11389, "Lo"}, {0x1138b, 0x1138b, "Lo"},
    {0x1138e, 0x1138e, "Lo"}, {0x11390, 0x113b5, "Lo"}, {0x113b7, 0x113b7, "Lo"},
    {0x113b8, 0x113ba, "Mc"}, {0x113bb, 0x113c0, "Mn"}, {0x113c2, 0x113c2, "Mc"},
    {0x113c5, 0x113c5, "Mc"}, {0x113c7, 0x113ca, "Mc"}, {0x113cc, 0x113cd, "Mc"},
    {0x113ce, 0x113ce, "Mn"}, {0x113cf, 0x113cf, "Mc"}, {0x113d0, 0x113d0, "Mn"},
    {0x113d1, 0x113d1, "Lo"}, {0x113d2, 0x113d2, "Mn"}, {0x113d3, 0x113d3, "Lo"},
    {0x113d4, 0x113d5, "Po"}, {0x113d7, 0x113d8, "Po"}, {0x113e1, 0x113e2, "Mn"},
    {0x116d0, 0x116e3, "Nd"}, {0x1171e, 0x1171e, "Mc"}, {0x11b00, 0x11b09, "Po"},
    {0x11bc0, 0x11be0, "Lo"}, {0x11be1, 0x11be1, "Po"}, {0x11bf0, 0x11bf9, "Nd"},
    {0x11f00, 0x11f01, "Mn"}, {0x11f02, 0x11f02, "Lo"}, {0x11f03, 0x11f03, "Mc"},
    {0x11f04, 0x11f10, "Lo"}, {0x11f12, 0x11f33, "Lo"}, {0x11f34, 0x11f35, "Mc"},
    {0x11f36, 0x11f3a, "Mn"}, {0x11f3e, 0x11f3f, "Mc"}, {0x11f40, 0x11f40, "Mn"},
    {0x11f41, 0x11f41, "Mc"}, {0x11f42, 0x11f42, "Mn"}, {0x11f43, 0x11f4f, "Po"},
    {0x11f50, 0x11f59, "Nd"}, {0x11f5a, 0x11f5a, "Mn"}, {0x1342f, 0x1342f, "Lo"},
    {0x13440, 0x13440, "Mn"}, {0x13441, 0x13446, "Lo"}, {0x13447, 0x13455, "Mn"},
    {0x13460, 0x143fa, "Lo"}, {0x16100, 0x1611d, "Lo"}, {0x1611e, 0x16129, "Mn"},
    {0x1612a, 0x1612c, "Mc"}, {0x1612d, 0x1612f, "Mn"}, {0x16130, 0x16139, "Nd"},
    {0x16d40, 0x16d42, "Lm"}, {0x16d43, 0x16d6a, "Lo"}, {0x16d6b, 0x16d6c, "Lm"},
    {0x16d6d, 0x16d6f, "Po"}, {0x16d70, 0x16d79, "Nd"}, {0x18cff, 0x18cff, "Lo"},
    {0x1b132, 0x1b132, "Lo"}, {0x1b155, 0x1b155, "Lo"}, {0x1cc00, 0x1ccef, "So"},
    {0x1ccf0, 0x1ccf9, "Nd"}, {0x1cd00, 0x1ceb3, "So"}, {0x1d2c0, 0x1d2d3, "No"},
    {0x1df25, 0x1df2a, "Ll"}, {0x1e030, 0x1e06d, "Lm"}, {0x1e08f, 0x1e08f, "Mn"},
    {0x1e4d0, 0x1e4ea, "Lo"}, {0x1e4eb, 0x1e4eb, "Lm"}, {0x1e4ec, 0x1e4ef, "Mn"},
    {0x1e4f0, 0x1e4f9, "Nd"}, {0x1e5d0, 0x1e5ed, "Lo"}, {0x1e5ee, 0x1e5ef, "Mn"},
    {0x1e5f0, 0x1e5f0, "Lo"}, {0x1e5f1, 0x1e5fa, "Nd"}, {0x1e5ff, 0x1e5ff, "Po"},
    {0x1f6dc, 0x1f6dc, "So"}, {0x1f774, 0x1f776, "So"}, {0x1f77b, 0x1f77f, "So"},
    {0x1f7d9, 0x1f7d9, "So"}, {0x1f8b2, 0x1f8bb, "So"}, {0x1f8c0, 0x1f8c1, "So"},
    {0x1fa75, 0x1fa77, "So"}, {0x1fa87, 0x1fa89, "So"}, {0x1fa8f, 0x1fa8f, "So"},
    {0x1faad, 0x1faaf, "So"}, {0x1fabb, 0x1fabf, "So"}, {0x1fac6, 0x1fac6, "So"},
    {0x1face, 0x1facf, "So"}, {0x1fada, 0x1fadc, "So"}, {0x1fadf, 0x1fadf, "So"},
    {0x1fae8, 0x1fae9, "So"}, {0x1faf7, 0x1faf8, "So"}, {0x1fbcb, 0x1fbef, "So"},
    {0x2b739, 0x2b739, "Lo"}, {0x2ebf0, 0x2ee5d, "Lo"}, {0x31350, 0x323af, "Lo"},
};

/* Marks and decompositions that are newer than the reference's normal forms: inert there. */
static const uint32_t inert[][2] = {
    {0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},
    {0xc3c, 0xc3c},     {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x1715, 0x1715},
    {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},   {0x32ff, 0x32ff},   {0xa7f2, 0xa7f4},
    {0xa82c, 0xa82c},   {0xab69, 0xab69},   {0x10781, 0x10785}, {0x10787, 0x107b0},
    {0x107b2, 0x107ba}, {0x10d24, 0x10d27}, {0x10eab, 0x10eac}, {0x10efd, 0x10eff},
    {0x10f46, 0x10f50}, {0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x1133b, 0x1133b},
    {0x1145e, 0x1145e}, {0x11839, 0x1183a}, {0x11938, 0x11938}, {0x1193d, 0x1193e},
    {0x11943, 0x11943}, {0x119e0, 0x119e0}, {0x11a34, 0x11a34}, {0x11a47, 0x11a47},
    {0x11a99, 0x11a99}, {0x11d42, 0x11d42}, {0x11d44, 0x11d45}, {0x11d97, 0x11d97},
    {0x11f41, 0x11f42}, {0x16ff0, 0x16ff1}, {0x1e030, 0x1e06d}, {0x1e08f, 0x1e08f},
    {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef},
    {0x1f16c, 0x1f16c}, {0x1fbf0, 0x1fbf9},
};

/* Capital letters newer than utf8proc: the range, and how far away their small letters are. */
static const struct {
    uint32_t first;
    uint32_t last;
    int32_t distance;
} lower[] = {
    {0x1c89, 0x1c89, 1},      {0xa7cb, 0xa7cb, 0x264 - 0xa7cb},
    {0xa7cc, 0xa7cc, 1},      {0xa7ce, 0xa7ce, 1},
    {0xa7d2, 0xa7d2, 1},      {0xa7d4, 0xa7d4, 1},
    {0xa7da, 0xa7da, 1},      {0xa7dc, 0xa7dc, 0x19b - 0xa7dc},
    {0x10d50, 0x10d65, 0x20}, {0x16ea0, 0x16eb8, 27},
};

const struct unicode_range *unicode_newer(size_t *ret_count)
{
    *ret_count = sizeof newer / sizeof newer[0];
    return newer;
}

bool unicode_has_newer(const char *p, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        uint32_t c;
        /* All of them have three bytes or more. */
        if ((uint8_t)p[i] < 0xe0 || utf8_next(p + i, len - i, &c) <= 0)
            continue;
        size_t low = 0, high = sizeof newer / sizeof newer[0];
        while (low < high) {
            size_t mid = low + (high - low) / 2;
            if (c > newer[mid].last)
                low = mid + 1;
            else
                high = mid;
        }
        if (low < sizeof newer / sizeof newer[0] && c >= newer[low].first)
            return true;
    }
    return false;
}

int utf8_next(const char *text, size_t len, uint32_t *ret)
{
    const uint8_t *p = (const uint8_t *)text;
    if (p[0] < 0x80) {
        *ret = p[0];
        return 1;
    }
    if (p[0] < 0xc2 || p[0] > 0xf4)
        return -1;
    int need = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    /* The second byte's range is what keeps surrogates, overlong forms and > U+10FFFF out. */
    uint8_t low = p[0] == 0xe0 ? 0xa0 : p[0] == 0xf0 ? 0x90 : 0x80;
    uint8_t high = p[0] == 0xed ? 0x9f : p[0] == 0xf4 ? 0x8f : 0xbf;
    uint32_t c = p[0] & (0x7fu >> need);
    for (int i = 1; i < need; i++) {
        if ((size_t)i == len)
            return 0;
        if (p[i] < low || p[i] > high)
            return -i;
        low = 0x80;
        high = 0xbf;
        c = c << 6 | (p[i] & 0x3f);
    }
    *ret = c;
    return need;
}

int utf8_put(uint32_t c, char ret[4])
{
    return (int)utf8proc_encode_char((utf8proc_int32_t)c, (utf8proc_uint8_t *)ret);
}

bool utf8_is_valid(const char *p, size_t len)
{
    uint32_t c;
    for (size_t i = 0; i < len;) {
        int n = utf8_next(p + i, len - i, &c);
        if (n <= 0)
            return false;
        i += (size_t)n;
    }
    return true;
}

int utf8_repair(const char *p, size_t len, struct buf *out)
{
    size_t start = 0;
    uint32_t c;
    for (size_t i = 0; i < len;) {
        int n = utf8_next(p + i, len - i, &c);
        if (n > 0) {
            i += (size_t)n;
            continue;
        }
        int r = buf_append(out, p + start, i - start);
        if (r == 0)
            r = buf_append_str(out, "\xef\xbf\xbd");
        if (r < 0)
            return r;
        i += n < 0 ? (size_t)-n : len - i;
        start = i;
    }
    return buf_append(out, p + start, len - start);
}

bool unicode_is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

static bool is_inert(uint32_t c)
{
    size_t low = 0, high = sizeof inert / sizeof inert[0];
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (c > inert[mid][1])
            low = mid + 1;
        else
            high = mid;
    }
    return low < sizeof inert / sizeof inert[0] && c >= inert[low][0];
}

/* One character in the work of a normal form. */
struct mark {
    utf8proc_int32_t c;
    uint32_t class; /* canonical combining class */
};

struct marks {
    struct mark *items; /* owned */
    size_t count;
    size_t cap;
};

static int marks_append(struct marks *m, utf8proc_int32_t c)
{
    if (m->count == m->cap) {
        size_t cap = m->cap < 64 ? 64 : 2 * m->cap;
        struct mark *items = realloc(m->items, cap * sizeof items[0]);
        if (items == NULL)
            return -ENOMEM;
        m->items = items;
        m->cap = cap;
    }
    uint32_t class = 0;
    if (c >= 0x300 && !is_inert((uint32_t)c))
        class = (uint32_t)utf8proc_get_property(c)->combining_class;
    m->items[m->count++] = (struct mark){c, class};
    return 0;
}

static int marks_decompose(struct marks *m, bool compat, const char *p, size_t len)
{
    utf8proc_option_t options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
    if (compat)
        options |= UTF8PROC_COMPAT;
    for (size_t i = 0; i < len;) {
        utf8proc_int32_t parts[32]; /* the longest decomposition has 18 */
        uint32_t c;
        int n = utf8_next(p + i, len - i, &c);
        if (n <= 0)
            return -EINVAL;
        i += (size_t)n;
        utf8proc_ssize_t count = 1;
        parts[0] = (utf8proc_int32_t)c;
        if (c >= 0x80 && !is_inert(c))
            count = utf8proc_decompose_char((utf8proc_int32_t)c, parts, 32, options, NULL);
        if (count < 0 || count > 32)
            return -EINVAL;
        for (utf8proc_ssize_t k = 0; k < count; k++) {
            int r = marks_append(m, parts[k]);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

/* Merge sort of one run by class; stable, as canonical ordering asks. `spare` has room for it. */
static void sort_run(struct mark *run, struct mark *spare, size_t count)
{
    for (size_t width = 1; width < count; width *= 2) {
        for (size_t at = 0; at < count; at += 2 * width) {
            size_t mid = at + width < count ? at + width : count;
            size_t end = at + 2 * width < count ? at + 2 * width : count;
            size_t a = at, b = mid;
            for (size_t k = at; k < end; k++)
                spare[k] =
                    a < mid && (b == end || run[a].class <= run[b].class) ? run[a++] : run[b++];
        }
        memcpy(run, spare, count * sizeof run[0]);
    }
}

static int marks_order(struct marks *m)
{
    cleanup_free struct mark *spare = malloc((m->count + 1) * sizeof *spare);
    if (spare == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < m->count; i++) {
        size_t start = i;
        while (i < m->count && m->items[i].class != 0)
            i++;
        if (i - start > 1)
            sort_run(m->items + start, spare, i - start);
    }
    return 0;
}

/* The one character that the two make, or -1. */
static utf8proc_int32_t compose_pair(utf8proc_int32_t first, utf8proc_int32_t second)
{
    utf8proc_int32_t pair[3] = {first, second, 0};
    if (second < 0x300 ||
        utf8proc_normalize_utf32(pair, 2, UTF8PROC_STABLE | UTF8PROC_COMPOSE) != 1)
        return -1;
    return is_inert((uint32_t)pair[0]) ? -1 : pair[0];
}

/* Canonical composition: a mark joins the last starter unless something between blocks it. */
static void marks_compose(struct marks *m)
{
    size_t starter = SIZE_MAX, out = 0;
    uint32_t last_class = 0;
    for (size_t i = 0; i < m->count; i++) {
        struct mark c = m->items[i];
        bool adjacent = starter != SIZE_MAX && starter + 1 == out;
        if (starter != SIZE_MAX && (adjacent || (last_class != 0 && last_class < c.class))) {
            utf8proc_int32_t joined = compose_pair(m->items[starter].c, c.c);
            if (joined >= 0) {
                m->items[starter].c = joined;
                continue;
            }
        }
        if (c.class == 0)
            starter = out;
        last_class = c.class;
        m->items[out++] = c;
    }
    m->count = out;
}

/* Text without a character from `limit` on is its own normal form. */
static bool all_below(const char *p, size_t len, uint8_t limit)
{
    for (size_t i = 0; i < len; i++)
        if ((uint8_t)p[i] >= limit)
            return false;
    return true;
}

int unicode_normalize(enum unicode_form form, const char *p, size_t len, struct buf *out)
{
    /* UTF-8 of U+0300, the first character that NFC changes or joins, begins with 0xCC. */
    if (all_below(p, len, form == UNICODE_NFC ? 0xcc : 0x80))
        return buf_append(out, p, len);
    struct marks m = {0};
    int r = marks_decompose(&m, form == UNICODE_NFKC || form == UNICODE_NFKD, p, len);
    if (r == 0)
        r = marks_order(&m);
    if (r == 0 && (form == UNICODE_NFC || form == UNICODE_NFKC))
        marks_compose(&m);
    for (size_t i = 0; r == 0 && i < m.count; i++) {
        char bytes[4];
        r = buf_append(out, bytes, (size_t)utf8_put((uint32_t)m.items[i].c, bytes));
    }
    free(m.items);
    return r;
}

int unicode_lowercase(const char *p, size_t len, struct buf *out)
{
    for (size_t i = 0; i < len;) {
        uint32_t c;
        int n = utf8_next(p + i, len - i, &c);
        if (n <= 0)
            return -EINVAL;
        i += (size_t)n;
        char bytes[4];
        if (c == 0x130) { /* the one capital letter whose small form is two characters */
            int r = buf_append_str(out, "i\xcc\x87");
            if (r < 0)
                return r;
            continue;
        }
        uint32_t small = (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
        for (size_t k = 0; k < sizeof lower / sizeof lower[0]; k++)
            if (c >= lower[k].first && c <= lower[k].last)
                small = (uint32_t)((int32_t)c + lower[k].distance);
        int r = buf_append(out, bytes, (size_t)utf8_put(small, bytes));
        if (r < 0)
            return r;
    }
    return 0;
}
