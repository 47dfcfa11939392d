/*
 * Template text to tokens, as Jinja's lexer does it with trim_blocks and lstrip_blocks on: the
 * newline after a block or comment goes, and so does the white space before one that is alone on
 * its line; `-` strips more, `+` keeps.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "model/jinja_ast.h"
#include "model/jinja_text.h"

static struct jinja_str normalize_lines(struct jinja_env *env, struct jinja_str s)
{
    struct jinja_text t = jinja_text_begin(SIZE_MAX);
    for (size_t i = 0, start = 0; i < s.len; i++) {
        if (s.s[i] == '\r') {
            jinja_text_add(env, &t, s.s + start, i - start);
            if (i + 1 < s.len && s.s[i + 1] == '\n')
                i++;
            jinja_text_add_char(env, &t, '\n');
            start = i + 1;
        } else if (i + 1 == s.len) {
            jinja_text_add(env, &t, s.s + start, s.len - start);
        }
    }
    struct jinja_str r = jinja_text_end(&t);
    if (r.len > 0 && r.s[r.len - 1] == '\n')
        r.len--;
    return r;
}

void jinja_lexer_begin(struct jinja_lexer *lx, struct jinja_env *env, struct jinja_str source)
{
    *lx = (struct jinja_lexer){.env = env,
                               .source = normalize_lines(env, source),
                               .line = 1,
                               .line_starting = true,
                               .mode = JINJA_TOKEN_DATA,
                               .pending = JINJA_TOKEN_END};
}

static bool at(const struct jinja_lexer *lx, size_t pos, const char *s)
{
    size_t n = strlen(s);
    return pos <= lx->source.len && lx->source.len - pos >= n &&
           memcmp(lx->source.s + pos, s, n) == 0;
}

static size_t skip_space(const struct jinja_lexer *lx, size_t pos)
{
    while (pos < lx->source.len && jinja_char_is_space(jinja_char_decode(lx->source.s + pos)))
        pos += jinja_char_bytes(lx->source.s[pos]);
    return pos;
}

static void advance(struct jinja_lexer *lx, size_t to)
{
    for (size_t i = lx->pos; i < to; i++)
        lx->line += lx->source.s[i] == '\n';
    if (to > lx->pos)
        lx->line_starting = lx->source.s[to - 1] == '\n';
    lx->pos = to;
    lx->env->line = lx->line;
}

/* The data before a tag, less what the tag's sign strips. */
static struct jinja_str strip_before(struct jinja_lexer *lx, struct jinja_str text, char sign,
                                     bool block)
{
    if (sign == '-')
        return jinja_str_strip(lx->env, text, NULL, false, true);
    if (sign == '+' || !block)
        return text;
    const char *newline = text.len > 0 ? memrchr(text.s, '\n', text.len) : NULL;
    size_t keep = newline != NULL ? (size_t)(newline - text.s) + 1 : 0;
    if (keep == 0 && !lx->line_starting)
        return text;
    struct jinja_str rest = {text.s + keep, text.len - keep};
    if (jinja_str_strip(lx->env, rest, NULL, true, false).len == 0)
        text.len = keep;
    return text;
}

/* The end of `-%}`, `+%}` or `%}` at pos, or 0. `plus` and `trim` as the kind of tag has them. */
static size_t tag_end(const struct jinja_lexer *lx, size_t pos, const char *close, bool plus,
                      bool trim)
{
    if (at(lx, pos, "-") && at(lx, pos + 1, close))
        return skip_space(lx, pos + 3);
    if (plus && at(lx, pos, "+") && at(lx, pos + 1, close))
        return pos + 3;
    if (!at(lx, pos, close))
        return 0;
    return pos + 2 + (trim && at(lx, pos + 2, "\n"));
}

static size_t raw_begin_end(const struct jinja_lexer *lx, size_t pos)
{
    pos = skip_space(lx, pos);
    if (!at(lx, pos, "raw"))
        return 0;
    return tag_end(lx, skip_space(lx, pos + 3), "%}", false, false);
}

static struct jinja_token token(struct jinja_lexer *lx, enum jinja_token_type type,
                                struct jinja_str text)
{
    return (struct jinja_token){.type = type, .line = lx->line, .text = text};
}

static char sign_at(const struct jinja_lexer *lx, size_t pos)
{
    return at(lx, pos, "-") || at(lx, pos, "+") ? lx->source.s[pos] : '\0';
}

/* pos is behind `{% raw %}`. */
static struct jinja_str read_raw(struct jinja_lexer *lx)
{
    for (size_t i = lx->pos; i < lx->source.len; i++) {
        const char *open = memmem(lx->source.s + i, lx->source.len - i, "{%", 2);
        if (open == NULL)
            break;
        i = (size_t)(open - lx->source.s);
        char sign = sign_at(lx, i + 2);
        size_t word = skip_space(lx, i + 2 + (sign != '\0'));
        jinja_step(lx->env, 1 + (word - i) / 8);
        size_t end = 0;
        if (at(lx, word, "endraw"))
            end = tag_end(lx, skip_space(lx, word + 6), "%}", true, true);
        if (end == 0)
            continue;
        struct jinja_str text = {lx->source.s + lx->pos, i - lx->pos};
        text = strip_before(lx, text, sign, true);
        advance(lx, end);
        return text;
    }
    jinja_fail(lx->env, "missing end of raw directive");
}

static void skip_comment(struct jinja_lexer *lx, size_t pos)
{
    const char *close =
        pos <= lx->source.len ? memmem(lx->source.s + pos, lx->source.len - pos, "#}", 2) : NULL;
    if (close == NULL)
        jinja_fail(lx->env, "missing end of comment tag");
    size_t end = (size_t)(close - lx->source.s);
    if (end > pos && (close[-1] == '-' || close[-1] == '+'))
        end--;
    advance(lx, tag_end(lx, end, "#}", true, true));
}

static size_t find_tag(const struct jinja_lexer *lx)
{
    for (size_t i = lx->pos; i + 1 < lx->source.len; i++) {
        const char *open = memchr(lx->source.s + i, '{', lx->source.len - 1 - i);
        if (open == NULL)
            break;
        i = (size_t)(open - lx->source.s);
        if (open[1] == '%' || open[1] == '{' || open[1] == '#')
            return i;
    }
    return lx->source.len;
}

static void begin_tag(struct jinja_lexer *lx, enum jinja_token_type type)
{
    lx->mode = type;
    lx->pending = type;
}

/* Reads up to and into the next tag; false at the end of the template. */
static bool read_data(struct jinja_lexer *lx, struct jinja_str *ret)
{
    if (lx->pos >= lx->source.len)
        return false;
    size_t tag = find_tag(lx);
    *ret = (struct jinja_str){lx->source.s + lx->pos, tag - lx->pos};
    if (tag >= lx->source.len) {
        advance(lx, lx->source.len);
        return true;
    }
    char kind = lx->source.s[tag + 1];
    char sign = sign_at(lx, tag + 2);
    size_t behind = tag + 2 + (sign != '\0');
    size_t raw = kind == '%' ? raw_begin_end(lx, behind) : 0;
    *ret = strip_before(lx, *ret, sign, kind != '{');
    advance(lx, raw != 0 ? raw : behind);
    if (raw != 0) {
        struct jinja_str inside = read_raw(lx);
        struct jinja_text t = jinja_text_begin(SIZE_MAX);
        jinja_text_add_str(lx->env, &t, *ret);
        jinja_text_add_str(lx->env, &t, inside);
        *ret = jinja_text_end(&t);
    } else if (kind == '#') {
        skip_comment(lx, behind);
    } else {
        begin_tag(lx, kind == '%' ? JINJA_TOKEN_BLOCK_BEGIN : JINJA_TOKEN_PRINT_BEGIN);
    }
    return true;
}

/* --- inside a tag --- */

static bool is_digit(const struct jinja_lexer *lx, size_t pos)
{
    return pos < lx->source.len && lx->source.s[pos] >= '0' && lx->source.s[pos] <= '9';
}

static bool is_name_char(const struct jinja_lexer *lx, size_t pos)
{
    if (pos >= lx->source.len)
        return false;
    char c = lx->source.s[pos];
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (c >= '0' && c <= '9');
}

/* Digits with single underscores between them; returns pos when there are none. */
static size_t skip_digits(const struct jinja_lexer *lx, size_t pos)
{
    if (!is_digit(lx, pos))
        return pos;
    while (is_digit(lx, pos) || (at(lx, pos, "_") && is_digit(lx, pos + 1)))
        pos++;
    return pos;
}

/* The end of a float at pos, or 0 when it is none. */
static size_t float_end(const struct jinja_lexer *lx, size_t pos)
{
    if (pos > 0 && lx->source.s[pos - 1] == '.')
        return 0;
    size_t end = skip_digits(lx, pos);
    bool real = false;
    if (at(lx, end, ".") && is_digit(lx, end + 1)) {
        end = skip_digits(lx, end + 1);
        real = true;
    }
    if (at(lx, end, "e") || at(lx, end, "E")) {
        size_t digits = end + 1 + (sign_at(lx, end + 1) != '\0');
        if (is_digit(lx, digits)) {
            end = skip_digits(lx, digits);
            real = true;
        }
    }
    return real ? end : 0;
}

static struct jinja_token read_number(struct jinja_lexer *lx)
{
    char digits[64];
    size_t n = 0;
    size_t end = float_end(lx, lx->pos);
    bool real = end != 0;
    if (!real)
        end = skip_digits(lx, lx->pos);
    if (!real && lx->source.s[lx->pos] == '0') {
        if (at(lx, lx->pos + 1, "x") || at(lx, lx->pos + 1, "b") || at(lx, lx->pos + 1, "o"))
            jinja_fail(lx->env, "numbers in hex, octal or binary are not supported");
        for (end = lx->pos; at(lx, end, "0") || (at(lx, end, "_") && at(lx, end + 1, "0"));)
            end++;
    }
    for (size_t i = lx->pos; i < end; i++) {
        if (lx->source.s[i] == '_')
            continue;
        if (n + 1 >= sizeof digits)
            jinja_fail(lx->env, "a number of more than %zu digits", sizeof digits - 1);
        digits[n++] = lx->source.s[i];
    }
    digits[n] = '\0';
    struct jinja_token t =
        token(lx, JINJA_TOKEN_NUMBER, (struct jinja_str){lx->source.s + lx->pos, end - lx->pos});
    errno = 0;
    t.value = real ? jinja_real(strtod(digits, NULL)) : jinja_int(strtoll(digits, NULL, 10));
    if (!real && errno == ERANGE)
        jinja_fail(lx->env, "the number %s does not fit 64 bits", digits);
    advance(lx, end);
    return t;
}

static uint32_t read_hex(struct jinja_lexer *lx, struct jinja_str s, size_t from, size_t digits)
{
    uint32_t c = 0;
    if (s.len - from < digits)
        jinja_fail(lx->env, "truncated escape in a string");
    for (size_t i = from; i < from + digits; i++) {
        const char *all = "0123456789abcdef0123456789ABCDEF";
        const char *p = s.s[i] != '\0' ? strchr(all, s.s[i]) : NULL;
        if (p == NULL)
            jinja_fail(lx->env, "a bad escape in a string");
        c = c << 4 | (uint32_t)((p - all) & 15);
    }
    if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
        jinja_fail(lx->env, "the escape \\u%04x in a string is not a character", c);
    return c;
}

/* What stands behind a backslash at s.s[i - 1]; returns the place behind it. */
static size_t unescape(struct jinja_lexer *lx, struct jinja_text *t, struct jinja_str s, size_t i)
{
    static const char from[] = "\\'\"abfnrtv";
    static const char to[] = "\\'\"\a\b\f\n\r\t\v";
    char bytes[4];
    char c = s.s[i];
    uint32_t code = 0;
    const char *named = c != '\0' ? strchr(from, c) : NULL;
    if (named != NULL) {
        jinja_text_add_char(lx->env, t, to[named - from]);
        return i + 1;
    }
    if (c == '\n')
        return i + 1;
    if (c == 'N')
        jinja_fail(lx->env, "the escape \\N in a string is not supported");
    if (c == 'x' || c == 'u' || c == 'U') {
        size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        code = read_hex(lx, s, i + 1, digits);
        i += 1 + digits;
    } else if (c >= '0' && c <= '7') {
        for (size_t n = 0; n < 3 && i < s.len && s.s[i] >= '0' && s.s[i] <= '7'; n++, i++)
            code = code << 3 | (uint32_t)(s.s[i] - '0');
    } else {
        jinja_text_add_char(lx->env, t, '\\'); /* Python keeps what it does not know */
        return i;
    }
    jinja_text_add(lx->env, t, bytes, jinja_char_encode(code, bytes));
    return i;
}

static struct jinja_token read_string(struct jinja_lexer *lx)
{
    char quote = lx->source.s[lx->pos];
    size_t start = lx->pos + 1, end = start;
    bool escapes = false;
    while (end < lx->source.len && lx->source.s[end] != quote) {
        escapes |= lx->source.s[end] == '\\';
        end += lx->source.s[end] == '\\' ? 2 : 1;
    }
    if (end >= lx->source.len)
        jinja_fail(lx->env, "a string has no end");
    struct jinja_str s = {lx->source.s + start, end - start};
    if (escapes) {
        struct jinja_text t = jinja_text_begin(SIZE_MAX);
        for (size_t i = 0; i < s.len;) {
            if (s.s[i] == '\\') {
                i = unescape(lx, &t, s, i + 1);
                continue;
            }
            jinja_text_add_char(lx->env, &t, s.s[i++]);
        }
        s = jinja_text_end(&t);
    }
    struct jinja_token t = token(lx, JINJA_TOKEN_STRING, s);
    advance(lx, end + 1);
    return t;
}

static void balance(struct jinja_lexer *lx, char c)
{
    if (c == '(' || c == '[' || c == '{') {
        if (lx->bracket_count == sizeof lx->brackets)
            jinja_fail_limit(lx->env, "the depth of brackets");
        lx->brackets[lx->bracket_count++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
        if (lx->bracket_count == 0 || lx->brackets[--lx->bracket_count] != c)
            jinja_fail(lx->env, "unexpected '%c'", c);
    }
}

static struct jinja_token read_op(struct jinja_lexer *lx)
{
    static const char pairs[][3] = {"//", "**", "==", "!=", ">=", "<="};
    struct jinja_token t = token(lx, JINJA_TOKEN_OP, (struct jinja_str){lx->source.s + lx->pos, 1});
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++)
        if (at(lx, lx->pos, pairs[i]))
            t.text.len = 2;
    char c = t.text.s[0];
    if (t.text.len == 1 && (c == '\0' || strchr("+-/*%~[](){}><=.:|,;", c) == NULL))
        jinja_fail(lx->env, "unexpected character (byte 0x%02x)", (unsigned char)c);
    t.op = t.text.len == 2 ? JINJA_OP2(c, t.text.s[1]) : c;
    if (t.text.len == 1)
        balance(lx, c);
    advance(lx, lx->pos + t.text.len);
    return t;
}

static struct jinja_token read_in_tag(struct jinja_lexer *lx)
{
    bool block = lx->mode == JINJA_TOKEN_BLOCK_BEGIN;
    advance(lx, lx->pos); /* the line, for messages */
    for (;;) {
        /* The end of the tag comes first: its `-` is no operator. */
        size_t end =
            lx->bracket_count > 0 ? 0 : tag_end(lx, lx->pos, block ? "%}" : "}}", block, block);
        if (end != 0) {
            struct jinja_token t = token(lx, block ? JINJA_TOKEN_BLOCK_END : JINJA_TOKEN_PRINT_END,
                                         JINJA_STR("tag end"));
            advance(lx, end);
            lx->mode = JINJA_TOKEN_DATA;
            return t;
        }
        size_t space = skip_space(lx, lx->pos);
        if (space == lx->pos)
            break;
        advance(lx, space);
    }
    if (lx->pos >= lx->source.len)
        return token(lx, JINJA_TOKEN_END, JINJA_STR("end of template"));
    char c = lx->source.s[lx->pos];
    if (is_digit(lx, lx->pos))
        return read_number(lx);
    if (c == '\'' || c == '"')
        return read_string(lx);
    if (!is_name_char(lx, lx->pos))
        return read_op(lx);
    size_t end = lx->pos;
    while (is_name_char(lx, end))
        end++;
    struct jinja_token t =
        token(lx, JINJA_TOKEN_NAME, (struct jinja_str){lx->source.s + lx->pos, end - lx->pos});
    advance(lx, end);
    return t;
}

struct jinja_token jinja_lexer_next(struct jinja_lexer *lx)
{
    jinja_step(lx->env, 1);
    if (lx->pending != JINJA_TOKEN_END) {
        struct jinja_token t = token(lx, lx->pending, JINJA_STR("tag begin"));
        lx->pending = JINJA_TOKEN_END;
        return t;
    }
    if (lx->mode != JINJA_TOKEN_DATA)
        return read_in_tag(lx);
    struct jinja_str data;
    uint32_t line = lx->line;
    while (read_data(lx, &data)) {
        if (data.len > 0)
            return (struct jinja_token){.type = JINJA_TOKEN_DATA, .line = line, .text = data};
        if (lx->pending != JINJA_TOKEN_END)
            return jinja_lexer_next(lx);
        jinja_step(lx->env, 1);
    }
    return token(lx, JINJA_TOKEN_END, JINJA_STR("end of template"));
}
