/* See tokenizer_pattern.h: one pass over the pattern, one function per kind of construct. */
#include "model/tokenizer_pattern.h"

#include "model/tokenizer_unicode.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#define GROUPS_MAX 32

static const char white_space[] = "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}"
                                  "\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";
static const char not_white_space[] =
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}"
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}"
    "\\x{3001}-\\x{10ffff}";
/* What \w has in Oniguruma beside its general categories. */
static const char word_others[] = "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}\\x{24b6}-\\x{24e9}"
                                  "\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}";

struct translator {
    const char *p;
    size_t len;
    size_t at;
    struct buf *out;
    struct error *err;
    bool newer;                     /* with the characters that PCRE2 does not know */
    size_t group_start[GROUPS_MAX]; /* where each open group began in out */
    bool group_caseless[GROUPS_MAX];
    size_t depth;
    bool caseless;
    bool has_atom; /* something that a quantifier can follow */
    size_t atom_start;
    char last_letter; /* the literal before, in small letters; 0: none */
};

static int put(struct translator *x, const char *s)
{
    return buf_append_str(x->out, s);
}

static int put_code(struct translator *x, uint32_t c)
{
    return buf_printf(x->out, "\\x{%x}", c);
}

static int refuse(struct translator *x, const char *what)
{
    return error_set(x->err, -EINVAL, "pattern at byte %zu: %s is not supported", x->at, what);
}

static bool looking_at(const struct translator *x, const char *s)
{
    size_t n = strlen(s);
    return x->len - x->at >= n && memcmp(x->p + x->at, s, n) == 0;
}

static void begin_atom(struct translator *x)
{
    x->atom_start = x->out->len;
    x->has_atom = true;
    x->last_letter = 0;
}

/* The class of a general category, without brackets. */
static int put_category(struct translator *x, const char *category)
{
    int r = buf_printf(x->out, "\\p{%s}", category);
    size_t count;
    const struct unicode_range *newer = unicode_newer(&count);
    for (size_t i = 0; r == 0 && x->newer && i < count; i++)
        if (strncmp(newer[i].category, category, strlen(category)) == 0)
            r = buf_printf(x->out, "\\x{%x}-\\x{%x}", newer[i].first, newer[i].last);
    return r;
}

/* The scripts whose extent is known to agree, with what PCRE2 lacks. */
static int put_script(struct translator *x, const char *name)
{
    static const struct {
        const char *name;
        const char *text;
    } scripts[] = {
        {"Han", "\\p{sc:Han}\\x{2b739}\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}"},
        {"Hiragana", "\\p{sc:Hiragana}\\x{1b132}"},
        {"Katakana", "\\p{sc:Katakana}\\x{1b155}"},
        {"Hangul", "\\p{sc:Hangul}"},
        {"Thai", "\\p{sc:Thai}"},
        {"Greek", "\\p{sc:Greek}"},
    };
    for (size_t i = 0; i < sizeof scripts / sizeof scripts[0]; i++)
        if (strcmp(scripts[i].name, name) == 0)
            return put(x, scripts[i].text);
    return error_set(x->err, -EINVAL, "pattern: the class \\p{%s} is not supported", name);
}

static int put_class_name(struct translator *x, const char *name)
{
    static const char categories[] =
        " L Lu Ll Lt Lm Lo M Mn Mc Me N Nd Nl No P Pc Pd Ps Pe Pi Pf Po S Sm Sc Sk So ";
    char quoted[8];
    if (strlen(name) <= 2) {
        size_t n = strlen(name);
        quoted[0] = ' ';
        memcpy(quoted + 1, name, n);
        quoted[n + 1] = ' ';
        quoted[n + 2] = '\0';
        bool cased = strcmp(name, "Lu") == 0 || strcmp(name, "Ll") == 0 || strcmp(name, "Lt") == 0;
        if (cased && x->caseless)
            return refuse(x, "a cased class where case is ignored");
        if (strstr(categories, quoted) != NULL)
            return put_category(x, name);
    }
    if (strcmp(name, "White_Space") == 0 || strcmp(name, "Space") == 0)
        return put(x, white_space);
    return put_script(x, name);
}

/* \p{...}, \P{...}, \p{^...}: x->at is behind the p. */
static int parse_property(struct translator *x, char name[32], bool *negated)
{
    if (x->at >= x->len || x->p[x->at] != '{')
        return refuse(x, "\\p without braces");
    x->at++;
    if (looking_at(x, "^")) {
        *negated = !*negated;
        x->at++;
    }
    size_t n = 0;
    while (x->at < x->len && x->p[x->at] != '}' && n < 31)
        name[n++] = x->p[x->at++];
    name[n] = '\0';
    if (x->at >= x->len || x->p[x->at] != '}' || n == 0)
        return refuse(x, "this \\p{...}");
    x->at++;
    return 0;
}

/* Up to `max` hexadecimal digits. */
static int parse_hex(struct translator *x, size_t min, size_t max, uint32_t *ret)
{
    uint32_t value = 0;
    size_t n = 0;
    for (; n < max && x->at < x->len; n++, x->at++) {
        char c = x->p[x->at];
        if (c >= '0' && c <= '9')
            value = value << 4 | (uint32_t)(c - '0');
        else if ((c | 32) >= 'a' && (c | 32) <= 'f')
            value = value << 4 | (uint32_t)((c | 32) - 'a' + 10);
        else
            break;
    }
    if (n < min || value > 0x10ffff || (value >= 0xd800 && value < 0xe000))
        return refuse(x, "this character number");
    *ret = value;
    return 0;
}

/* An escape that means one character: x->at is behind the backslash and `c`. 1: it is none. */
static int parse_escaped_char(struct translator *x, char c, uint32_t *ret)
{
    static const char from[] = "tnrfae", to[] = "\t\n\r\f\a\x1b";
    const char *known = c != '\0' ? strchr(from, c) : NULL;
    if (known != NULL) {
        *ret = (uint32_t)to[known - from];
        return 0;
    }
    if (c == 'u')
        return parse_hex(x, 4, 4, ret);
    if (c == 'x') {
        if (!looking_at(x, "{")) {
            int r = parse_hex(x, 2, 2, ret);
            return r == 0 && *ret >= 0x80 ? refuse(x, "\\x80 and above without braces") : r;
        }
        x->at++;
        int r = parse_hex(x, 1, 8, ret);
        if (r == 0 && !looking_at(x, "}"))
            r = refuse(x, "this \\x{...}");
        x->at++;
        return r;
    }
    if ((c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
        (c >= '{' && c <= '~') || c == ' ') {
        *ret = (uint32_t)c;
        return 0;
    }
    return 1;
}

/* A set that an escape names. */
struct set {
    char kind; /* s, d, w, p */
    bool negated;
    char name[32]; /* of kind p */
};

static int parse_escaped_set(struct translator *x, char c, struct set *ret)
{
    *ret = (struct set){.kind = (char)(c | 32), .negated = c >= 'A' && c <= 'Z'};
    if (ret->kind == 'p')
        return parse_property(x, ret->name, &ret->negated);
    if (ret->kind == 's' || ret->kind == 'd' || ret->kind == 'w')
        return 0;
    char name[3] = {'\\', c >= ' ' && c <= '~' ? c : '?', '\0'};
    return refuse(x, name);
}

/* The set without its negation, as the inside of brackets. */
static int put_set(struct translator *x, const struct set *set)
{
    static const char *const word_parts[] = {"L", "M", "Nd", "Pc", "Nl"};
    if (set->kind == 's')
        return put(x, white_space);
    if (set->kind == 'd')
        return put_category(x, "Nd");
    if (set->kind == 'p')
        return put_class_name(x, set->name);
    int r = put(x, word_others);
    for (size_t i = 0; r == 0 && i < sizeof word_parts / sizeof word_parts[0]; i++)
        r = put_category(x, word_parts[i]);
    return r;
}

static int put_literal(struct translator *x, uint32_t c)
{
    /* Pairs that one character folds to (the ligatures st, ff, fi, fl and sharp s). */
    static const char *const folds[] = {"ss", "st", "ff", "fi", "fl"};
    char letter = 0;
    if (c < 0x80)
        letter = (char)(c >= 'A' && c <= 'Z' ? c | 32 : c);
    if (x->caseless) {
        if (c >= 0x80)
            return refuse(x, "a character beyond ASCII where case is ignored");
        for (size_t i = 0; i < sizeof folds / sizeof folds[0]; i++)
            if (x->last_letter == folds[i][0] && letter == folds[i][1])
                return refuse(x, "a pair of letters with a ligature where case is ignored");
    }
    begin_atom(x);
    x->last_letter = letter;
    return put_code(x, c);
}

static int translate_escape(struct translator *x)
{
    x->at++;
    if (x->at >= x->len)
        return refuse(x, "a backslash at the end");
    char c = x->p[x->at++];
    if (c == 'A' || c == 'z' || c == 'Z') {
        x->has_atom = false;
        x->last_letter = 0;
        return buf_printf(x->out, "\\%c", c);
    }
    uint32_t code;
    int r = parse_escaped_char(x, c, &code);
    if (r <= 0)
        return r < 0 ? r : put_literal(x, code);
    begin_atom(x);
    struct set set;
    r = parse_escaped_set(x, c, &set);
    bool alone = set.kind == 'p' && strlen(set.name) <= 2 && !x->newer;
    if (r == 0 && alone && !set.negated) /* PCRE2 repeats a property faster than a set */
        return put_set(x, &set);
    if (r == 0)
        r = put(x, set.negated ? "[^" : "[");
    if (r == 0)
        r = put_set(x, &set);
    return r == 0 ? put(x, "]") : r;
}

/* One end of a range, or a single character, inside brackets. 1: it was a set, already put. */
static int parse_class_item(struct translator *x, uint32_t *ret)
{
    char c = x->p[x->at];
    if (c == '\\') {
        x->at++;
        if (x->at >= x->len)
            return refuse(x, "a backslash at the end");
        char e = x->p[x->at++];
        int r = parse_escaped_char(x, e, ret);
        if (r <= 0)
            return r;
        struct set set;
        r = parse_escaped_set(x, e, &set);
        if (r == 0 && set.kind == 's' && set.negated)
            r = put(x, not_white_space);
        else if (r == 0 && set.negated)
            r = refuse(x, "a negated class inside brackets");
        else if (r == 0)
            r = put_set(x, &set);
        return r < 0 ? r : 1;
    }
    if (looking_at(x, "[:space:]")) {
        x->at += strlen("[:space:]");
        int r = put(x, white_space);
        return r < 0 ? r : 1;
    }
    if (c == '[')
        return refuse(x, "a set inside a set");
    if (looking_at(x, "&&"))
        return refuse(x, "an intersection of sets");
    int n = utf8_next(x->p + x->at, x->len - x->at, ret);
    if (n <= 0)
        return refuse(x, "broken UTF-8");
    if (*ret >= 0x80 && x->caseless)
        return refuse(x, "a character beyond ASCII where case is ignored");
    x->at += (size_t)n;
    return 0;
}

static int translate_class(struct translator *x)
{
    begin_atom(x);
    x->at++;
    int r = put(x, "[");
    if (r == 0 && looking_at(x, "^")) {
        x->at++;
        r = put(x, "^");
    }
    if (r == 0 && looking_at(x, "]"))
        return refuse(x, "an empty set");
    while (r >= 0) {
        if (x->at >= x->len)
            return refuse(x, "a set without an end");
        if (looking_at(x, "]"))
            break;
        uint32_t first, last;
        r = parse_class_item(x, &first);
        if (r != 0)
            continue;
        last = first;
        if (looking_at(x, "-") && x->at + 1 < x->len && x->p[x->at + 1] != ']') {
            x->at++;
            r = parse_class_item(x, &last);
            if (r > 0 || last < first)
                return refuse(x, "this range");
        }
        if (r == 0)
            r = buf_printf(x->out, first == last ? "\\x{%x}" : "\\x{%x}-\\x{%x}", first, last);
    }
    x->at++;
    return r < 0 ? r : put(x, "]");
}

static int translate_group(struct translator *x)
{
    static const char *const kinds[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
    if (x->depth == GROUPS_MAX)
        return refuse(x, "so deep a nesting of groups");
    if (looking_at(x, "(?i)") && x->at == 0) {
        x->at += 4;
        x->caseless = true;
        return put(x, "(?i)");
    }
    x->group_start[x->depth] = x->out->len;
    x->group_caseless[x->depth++] = x->caseless;
    x->has_atom = false;
    x->last_letter = 0;
    if (looking_at(x, "(?i:") || looking_at(x, "(?-i:")) {
        x->caseless = x->p[x->at + 2] == 'i';
        x->at += x->caseless ? 4 : 5;
        return put(x, x->caseless ? "(?i:" : "(?-i:");
    }
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (!looking_at(x, kinds[i]))
            continue;
        x->at += strlen(kinds[i]);
        return put(x, kinds[i]);
    }
    if (looking_at(x, "(?") || looking_at(x, "(*"))
        return refuse(x, "this kind of group");
    x->at++;
    return put(x, "(?:");
}

static int translate_group_end(struct translator *x)
{
    if (x->depth == 0)
        return refuse(x, "a closing parenthesis without an opening one");
    x->depth--;
    x->caseless = x->group_caseless[x->depth];
    x->atom_start = x->group_start[x->depth];
    x->has_atom = true;
    x->last_letter = 0;
    x->at++;
    return put(x, ")");
}

/* {n}, {n,}, {,m}, {n,m}. */
static int translate_interval(struct translator *x, bool *fixed)
{
    uint32_t bound[2] = {0, 0};
    bool given[2] = {false, false};
    bool comma = false;
    size_t start = x->at++;
    for (; x->at < x->len && x->p[x->at] != '}'; x->at++) {
        char c = x->p[x->at];
        if (c == ',' && !comma) {
            comma = true;
        } else if (c >= '0' && c <= '9' && bound[comma] < 1000) {
            bound[comma] = bound[comma] * 10 + (uint32_t)(c - '0');
            given[comma] = true;
        } else {
            break;
        }
    }
    bool sound = x->at < x->len && x->p[x->at] == '}' && (given[0] || given[1]) &&
                 (!given[1] || bound[1] >= bound[0]);
    if (!sound) {
        x->at = start;
        return refuse(x, "this use of {");
    }
    x->at++;
    *fixed = !comma;
    if (!comma)
        return buf_printf(x->out, "{%u}", bound[0]);
    if (!given[1])
        return buf_printf(x->out, "{%u,}", bound[0]);
    return buf_printf(x->out, "{%u,%u}", bound[0], bound[1]);
}

static int translate_quantifier(struct translator *x)
{
    if (!x->has_atom)
        return refuse(x, "a quantifier after nothing");
    bool interval = x->p[x->at] == '{', fixed = false;
    int r = interval ? translate_interval(x, &fixed) : buf_append_char(x->out, x->p[x->at++]);
    x->has_atom = false;
    x->last_letter = 0;
    if (r < 0)
        return r;
    if (looking_at(x, "?")) {
        if (fixed)
            return refuse(x, "{n}?");
        x->at++;
        return put(x, "?");
    }
    if (!looking_at(x, "+"))
        return 0;
    x->at++;
    if (!interval)
        return put(x, "+");
    /* In Oniguruma {n,m}+ repeats the interval, in PCRE2 it would be possessive. */
    r = put(x, "(?:");
    if (r == 0) {
        char *atom = x->out->data + x->atom_start;
        memmove(atom + 3, atom, x->out->len - 3 - x->atom_start);
        memcpy(atom, "(?:", 3);
        r = put(x, ")+");
    }
    return r;
}

static int translate_one(struct translator *x)
{
    uint32_t c;
    int n;
    switch (x->p[x->at]) {
    case '\\':
        return translate_escape(x);
    case '[':
        return translate_class(x);
    case '(':
        return translate_group(x);
    case ')':
        return translate_group_end(x);
    case '*':
    case '+':
    case '?':
    case '{':
        return translate_quantifier(x);
    case '.':
        begin_atom(x);
        return buf_append_char(x->out, x->p[x->at++]);
    case '|':
    case '^':
    case '$':
        x->has_atom = false;
        x->last_letter = 0;
        return buf_append_char(x->out, x->p[x->at++]);
    default:
        n = utf8_next(x->p + x->at, x->len - x->at, &c);
        if (n <= 0)
            return refuse(x, "broken UTF-8");
        x->at += (size_t)n;
        return put_literal(x, c);
    }
}

int pattern_translate(const char *pattern, size_t len, bool newer, struct buf *ret,
                      struct error *err)
{
    struct translator x = {.p = pattern, .len = len, .newer = newer, .out = ret, .err = err};
    size_t before = ret->len;
    int r = 0;
    while (r == 0 && x.at < x.len)
        r = translate_one(&x);
    if (r == 0 && x.depth > 0)
        r = refuse(&x, "an open group at the end");
    if (r == -E2BIG)
        error_set(err, r, "pattern: longer than the limit");
    if (r < 0)
        ret->len = before;
    return r;
}
