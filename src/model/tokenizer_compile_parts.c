/* The components around the model: each is translated into steps, or refused by its name. */
#include "model/tokenizer_compile.h"
#include "model/tokenizer_pattern.h"
#include "model/tokenizer_unicode.h"

#include <errno.h>
#include <string.h>

static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
/* Digits and Punctuation follow the newest and a very old version of Unicode. */
static const char digits_pattern[] = "[\\p{N}\\x{11de0}-\\x{11de9}\\x{16ff4}-\\x{16ff6}]";
static const char punctuation_pattern[] =
    "(?![\\x{61d}\\x{9fd}\\x{a76}\\x{c77}\\x{c84}\\x{1b4e}-\\x{1b4f}\\x{1b7d}-\\x{1b7f}"
    "\\x{2e43}-\\x{2e4f}\\x{2e52}-\\x{2e5d}\\x{10d6e}\\x{10ead}\\x{10f55}-\\x{10f59}"
    "\\x{10f86}-\\x{10f89}\\x{113d4}-\\x{113d5}\\x{113d7}-\\x{113d8}\\x{1144b}-\\x{1144f}"
    "\\x{1145a}-\\x{1145b}\\x{1145d}\\x{11660}-\\x{1166c}\\x{116b9}\\x{1183b}"
    "\\x{11944}-\\x{11946}\\x{119e2}\\x{11a3f}-\\x{11a46}\\x{11a9a}-\\x{11a9c}"
    "\\x{11a9e}-\\x{11aa2}\\x{11b00}-\\x{11b09}\\x{11be1}\\x{11c41}-\\x{11c45}"
    "\\x{11c70}-\\x{11c71}\\x{11ef7}-\\x{11ef8}\\x{11f43}-\\x{11f4f}\\x{11fff}"
    "\\x{12ff1}-\\x{12ff2}\\x{16d6d}-\\x{16d6f}\\x{16e97}-\\x{16e9a}\\x{16fe2}\\x{1e5ff}"
    "\\x{1e95e}-\\x{1e95f}])[\\p{P}$+<=>\\^`|~\\x{166d}\\x{111c9}]";

static const char *type_of(const json_t *part)
{
    const char *type = json_string_value(json_object_get(part, "type"));
    return type != NULL ? type : "(without a type)";
}

static int refuse(struct compile *c, const char *role, const json_t *part, const char *why)
{
    return error_set(c->err, -EINVAL, "tokenizer.json: %s %.80s is not supported%s%s", role,
                     type_of(part), why[0] != '\0' ? ": " : "", why);
}

/* --- steps --- */

static int add_step(struct compile *c, struct compile_steps *steps, struct blob_step step)
{
    if (steps->count == BLOB_STEPS_MAX)
        return error_set(c->err, -E2BIG, "tokenizer.json: more than %u steps in one component",
                         BLOB_STEPS_MAX);
    steps->items[steps->count++] = step;
    return 0;
}

static int store_pattern(struct compile *c, struct text pattern, bool newer, uint32_t *ret_offset,
                         uint32_t *ret_len)
{
    struct buf out;
    buf_init(&out, BLOB_STRING_BYTES_MAX * 4);
    int r = pattern.len > BLOB_STRING_BYTES_MAX
                ? error_set(c->err, -E2BIG, "tokenizer.json: a pattern is too long")
                : pattern_translate(pattern.p, pattern.len, newer, &out, c->err);
    if (r == 0)
        r = compile_store(c, out.data, out.len, ret_offset, ret_len);
    buf_free(&out);
    return r;
}

static int store_content(struct compile *c, const json_t *string, struct blob_step *step)
{
    struct text s = compile_text(string);
    if (s.len > BLOB_STRING_BYTES_MAX)
        return error_set(c->err, -E2BIG, "tokenizer.json: a replacement is too long");
    return compile_store(c, s.p, s.len, &step->b_offset, &step->b_len);
}

/* A pattern member, {"String": ...} or {"Regex": ...}: exactly one of the two is set. */
static int read_pattern(struct compile *c, const json_t *part, struct text *string,
                        struct text *regex)
{
    const json_t *pattern = compile_member(c, part, "pattern", JSON_OBJECT);
    if (pattern == NULL)
        return -EINVAL;
    *string = compile_text(json_object_get(pattern, "String"));
    *regex = compile_text(json_object_get(pattern, "Regex"));
    if ((string->p == NULL) == (regex->p == NULL) || string->len + regex->len == 0)
        return error_set(c->err, -EINVAL, "tokenizer.json: a bad \"pattern\" in %.80s",
                         type_of(part));
    return 0;
}

/* --- normalizer --- */

static int add_replace(struct compile *c, const json_t *part)
{
    struct blob_step step = {.kind = STEP_REPLACE};
    struct text string, regex;
    const json_t *content = compile_member(c, part, "content", JSON_STRING);
    int r = content == NULL ? -EINVAL : read_pattern(c, part, &string, &regex);
    if (r == 0)
        r = store_content(c, content, &step);
    if (r == 0 && string.p != NULL) {
        step.flags = 1;
        if (string.len > BLOB_STRING_BYTES_MAX)
            return refuse(c, "normalizer", part, "the string is too long");
        r = compile_store(c, string.p, string.len, &step.a_offset, &step.a_len);
    } else if (r == 0) {
        r = store_pattern(c, regex, true, &step.a_offset, &step.a_len);
    }
    return r == 0 ? add_step(c, &c->normalize, step) : r;
}

static int add_strip(struct compile *c, const json_t *part)
{
    bool left, right;
    int r = compile_bool(c, part, "strip_left", false, &left);
    if (r == 0)
        r = compile_bool(c, part, "strip_right", false, &right);
    if (r < 0)
        return r;
    struct blob_step step = {.kind = STEP_STRIP, .flags = (left ? 1u : 0) | (right ? 2u : 0)};
    return add_step(c, &c->normalize, step);
}

static int add_normalizer(struct compile *c, const json_t *part, int nesting)
{
    static const char *const forms[] = {"NFC", "NFD", "NFKC", "NFKD"};
    const char *type = type_of(part);
    if (strcmp(type, "Sequence") == 0 && nesting < COMPILE_NESTING_MAX) {
        const json_t *items = compile_member(c, part, "normalizers", JSON_ARRAY);
        int r = items == NULL ? -EINVAL : 0;
        for (size_t i = 0; r == 0 && i < json_array_size(items); i++)
            r = add_normalizer(c, json_array_get(items, i), nesting + 1);
        return r;
    }
    for (uint32_t i = 0; i < 4; i++)
        if (strcmp(type, forms[i]) == 0)
            return add_step(c, &c->normalize, (struct blob_step){.kind = STEP_FORM, .flags = i});
    if (strcmp(type, "Lowercase") == 0)
        return add_step(c, &c->normalize, (struct blob_step){.kind = STEP_LOWERCASE});
    if (strcmp(type, "Strip") == 0)
        return add_strip(c, part);
    if (strcmp(type, "Replace") == 0)
        return add_replace(c, part);
    if (strcmp(type, "Prepend") == 0) {
        struct blob_step step = {.kind = STEP_PREPEND};
        const json_t *prepend = compile_member(c, part, "prepend", JSON_STRING);
        int r = prepend == NULL ? -EINVAL : store_content(c, prepend, &step);
        return r == 0 ? add_step(c, &c->normalize, step) : r;
    }
    return refuse(c, "normalizer", part, "");
}

/* --- pre-tokenizer --- */

static int add_split(struct compile *c, const char *pattern, size_t len, uint32_t flags)
{
    struct blob_step step = {.kind = STEP_SPLIT, .flags = flags};
    struct text text = {pattern, len};
    int r = store_pattern(c, text, true, &step.a_offset, &step.a_len);
    if (r == 0)
        r = store_pattern(c, text, false, &step.b_offset, &step.b_len);
    return r == 0 ? add_step(c, &c->split, step) : r;
}

/* Plain text as a pattern. */
static int add_split_string(struct compile *c, struct text s, uint32_t flags)
{
    struct blob_step step = {.kind = STEP_SPLIT, .flags = flags};
    struct buf out;
    int r = 0;
    buf_init(&out, BLOB_STRING_BYTES_MAX * 4);
    for (size_t i = 0; r == 0 && i < s.len;) {
        uint32_t ch;
        int n = utf8_next(s.p + i, s.len - i, &ch);
        r = n > 0 ? buf_printf(&out, "\\x{%x}", ch) : -EINVAL;
        i += n > 0 ? (size_t)n : s.len;
    }
    if (r == 0)
        r = compile_store(c, out.data, out.len, &step.a_offset, &step.a_len);
    else
        error_set(c->err, r, "tokenizer.json: a bad string in Split");
    buf_free(&out);
    step.b_offset = step.a_offset;
    step.b_len = step.a_len;
    return r == 0 ? add_step(c, &c->split, step) : r;
}

static int read_behavior(struct compile *c, const json_t *part, uint32_t *ret)
{
    static const char *const names[SPLIT_BEHAVIOR_COUNT] = {
        [SPLIT_ISOLATED] = "Isolated",          [SPLIT_REMOVED] = "Removed",
        [SPLIT_CONTIGUOUS] = "Contiguous",      [SPLIT_MERGED_PREVIOUS] = "MergedWithPrevious",
        [SPLIT_MERGED_NEXT] = "MergedWithNext",
    };
    const json_t *behavior = compile_member(c, part, "behavior", JSON_STRING);
    if (behavior == NULL)
        return -EINVAL;
    for (uint32_t i = 0; i < SPLIT_BEHAVIOR_COUNT; i++) {
        if (strcmp(json_string_value(behavior), names[i]) == 0) {
            *ret = i;
            return 0;
        }
    }
    return refuse(c, "pre_tokenizer", part, "unknown behavior");
}

static int add_split_part(struct compile *c, const json_t *part)
{
    struct text string, regex;
    uint32_t flags;
    bool invert;
    int r = read_pattern(c, part, &string, &regex);
    if (r == 0)
        r = read_behavior(c, part, &flags);
    if (r == 0)
        r = compile_bool(c, part, "invert", false, &invert);
    if (r < 0)
        return r;
    if (invert)
        flags |= STEP_SPLIT_INVERT;
    return regex.p != NULL ? add_split(c, regex.p, regex.len, flags)
                           : add_split_string(c, string, flags);
}

static int add_byte_level(struct compile *c, const json_t *part)
{
    bool prefix_space, use_regex;
    int r = compile_bool(c, part, "add_prefix_space", true, &prefix_space);
    if (r == 0)
        r = compile_bool(c, part, "use_regex", true, &use_regex);
    if (r == 0 && prefix_space)
        r = add_step(c, &c->split, (struct blob_step){.kind = STEP_PREFIX_SPACE});
    if (r == 0 && use_regex)
        r = add_split(c, gpt2_pattern, strlen(gpt2_pattern), SPLIT_ISOLATED);
    c->header.flags |= BLOB_BYTE_LEVEL;
    return r;
}

/* The original text's beginning is what "first" means; a normalizer that can drop characters
 * there, or a split before, would move it. */
static int check_metaspace_first(struct compile *c, const json_t *part)
{
    bool moved = c->split.count > 0;
    for (uint32_t i = 0; i < c->normalize.count; i++) {
        const struct blob_step *s = &c->normalize.items[i];
        moved |= s->kind == STEP_STRIP || (s->kind == STEP_REPLACE && s->b_len == 0);
    }
    return moved ? refuse(c, "pre_tokenizer", part, "prepend_scheme first after another step") : 0;
}

static int read_metaspace(struct compile *c, const json_t *part, const json_t **mark,
                          uint32_t *ret_flags)
{
    bool split, prefix_space;
    uint32_t ch, flags = METASPACE_ALWAYS;
    *mark = compile_member(c, part, "replacement", JSON_STRING);
    int r = *mark == NULL ? -EINVAL : compile_bool(c, part, "split", true, &split);
    if (r == 0)
        r = compile_bool(c, part, "add_prefix_space", true, &prefix_space);
    if (r < 0)
        return r;
    struct text s = compile_text(*mark);
    if (s.len == 0 || utf8_next(s.p, s.len, &ch) != (int)s.len)
        return refuse(c, "component", part, "replacement must be one character");
    const char *scheme = json_string_value(json_object_get(part, "prepend_scheme"));
    if (scheme != NULL && strcmp(scheme, "first") == 0)
        flags = METASPACE_FIRST;
    else if (scheme != NULL && strcmp(scheme, "never") == 0)
        flags = 0;
    else if (scheme != NULL && strcmp(scheme, "always") != 0)
        return refuse(c, "component", part, "unknown prepend_scheme");
    if (!prefix_space && flags != 0)
        return refuse(c, "component", part, "add_prefix_space contradicts prepend_scheme");
    *ret_flags = flags | (split ? (uint32_t)METASPACE_SPLIT : 0);
    return 0;
}

static int add_metaspace(struct compile *c, const json_t *part)
{
    struct blob_step step = {.kind = STEP_METASPACE};
    const json_t *mark;
    int r = read_metaspace(c, part, &mark, &step.flags);
    if (r == 0 && (step.flags & METASPACE_FIRST))
        r = check_metaspace_first(c, part);
    if (r == 0)
        r = store_content(c, mark, &step);
    return r == 0 ? add_step(c, &c->split, step) : r;
}

static int add_pre_tokenizer(struct compile *c, const json_t *part, int nesting)
{
    const char *type = type_of(part);
    if (c->header.flags & BLOB_BYTE_LEVEL)
        return refuse(c, "pre_tokenizer", part, "it comes after ByteLevel");
    if (strcmp(type, "Sequence") == 0 && nesting < COMPILE_NESTING_MAX) {
        const json_t *items = compile_member(c, part, "pretokenizers", JSON_ARRAY);
        int r = items == NULL ? -EINVAL : 0;
        for (size_t i = 0; r == 0 && i < json_array_size(items); i++)
            r = add_pre_tokenizer(c, json_array_get(items, i), nesting + 1);
        return r;
    }
    if (strcmp(type, "ByteLevel") == 0)
        return add_byte_level(c, part);
    if (strcmp(type, "Split") == 0)
        return add_split_part(c, part);
    if (strcmp(type, "Metaspace") == 0)
        return add_metaspace(c, part);
    if (strcmp(type, "WhitespaceSplit") == 0)
        return add_split(c, "\\s", 2, SPLIT_REMOVED);
    if (strcmp(type, "Digits") == 0) {
        bool single;
        int r = compile_bool(c, part, "individual_digits", false, &single);
        uint32_t behavior = single ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS;
        return r < 0 ? r : add_split(c, digits_pattern, strlen(digits_pattern), behavior);
    }
    if (strcmp(type, "Punctuation") == 0) {
        uint32_t behavior = SPLIT_ISOLATED;
        int r = 0;
        if (json_object_get(part, "behavior") != NULL)
            r = read_behavior(c, part, &behavior);
        return r < 0 ? r : add_split(c, punctuation_pattern, strlen(punctuation_pattern), behavior);
    }
    return refuse(c, "pre_tokenizer", part, "");
}

/* --- decoder --- */

static int add_replacement(struct compile *c, const json_t *part, struct text from, struct text to)
{
    if (c->decode_fused || (c->header.flags & BLOB_DECODE_RUNS) ||
        c->replacement_count == BLOB_STEPS_MAX)
        return refuse(c, "decoder", part, "in this order");
    c->replacements[c->replacement_count++] = (struct compile_replacement){from, to};
    return 0;
}

static int add_decoder_metaspace(struct compile *c, const json_t *part)
{
    const json_t *mark;
    uint32_t flags;
    int r = read_metaspace(c, part, &mark, &flags);
    if (r < 0)
        return r;
    struct text s = compile_text(mark);
    utf8_next(s.p, s.len, &c->header.metaspace);
    if (c->replacement_count > 0)
        return refuse(c, "decoder", part, "in this order");
    if (flags & (METASPACE_FIRST | METASPACE_ALWAYS))
        c->header.flags |= BLOB_DECODE_METASPACE;
    return add_replacement(c, part, s, (struct text){" ", 1});
}

static int add_decoder_strip(struct compile *c, const json_t *part)
{
    struct text content = compile_text(json_object_get(part, "content"));
    const json_t *start = compile_member(c, part, "start", JSON_INTEGER);
    const json_t *stop = start != NULL ? compile_member(c, part, "stop", JSON_INTEGER) : NULL;
    uint32_t ch;
    if (stop == NULL)
        return -EINVAL;
    if (content.len == 0 || utf8_next(content.p, content.len, &ch) != (int)content.len)
        return refuse(c, "decoder", part, "content must be one character");
    if (!c->decode_fused || c->header.strip_count != 0 || json_integer_value(stop) != 0)
        return refuse(c, "decoder", part, "other than once, at the start, after Fuse");
    if (json_integer_value(start) < 0 || json_integer_value(start) > BLOB_STRIP_MAX)
        return refuse(c, "decoder", part, "start is out of range");
    c->header.strip_count = (uint32_t)json_integer_value(start);
    c->header.strip_char = ch;
    return 0;
}

static int add_decoder(struct compile *c, const json_t *part, int nesting)
{
    const char *type = type_of(part);
    bool runs = (c->header.flags & BLOB_DECODE_RUNS) != 0;
    if (strcmp(type, "Sequence") == 0 && nesting < COMPILE_NESTING_MAX) {
        const json_t *items = compile_member(c, part, "decoders", JSON_ARRAY);
        int r = items == NULL ? -EINVAL : 0;
        for (size_t i = 0; r == 0 && i < json_array_size(items); i++)
            r = add_decoder(c, json_array_get(items, i), nesting + 1);
        return r;
    }
    if (strcmp(type, "Metaspace") == 0)
        return add_decoder_metaspace(c, part);
    if (strcmp(type, "Strip") == 0)
        return add_decoder_strip(c, part);
    if (strcmp(type, "Fuse") == 0) {
        c->decode_fused = true;
        return 0;
    }
    if (strcmp(type, "ByteFallback") == 0 && !c->decode_fused && !runs) {
        c->header.flags |= BLOB_DECODE_RUNS;
        return 0;
    }
    if (strcmp(type, "Replace") == 0 && !(c->header.flags & BLOB_DECODE_METASPACE)) {
        struct text string, regex;
        const json_t *content = compile_member(c, part, "content", JSON_STRING);
        int r = content == NULL ? -EINVAL : read_pattern(c, part, &string, &regex);
        if (r == 0 && regex.p != NULL)
            r = refuse(c, "decoder", part, "with a pattern");
        return r == 0 ? add_replacement(c, part, string, compile_text(content)) : r;
    }
    return refuse(c, "decoder", part, "here");
}

/* A decoder that is ByteLevel and nothing else, maybe inside a Sequence of one. */
static bool is_byte_level(const json_t *decoder)
{
    const json_t *items = json_object_get(decoder, "decoders");
    if (strcmp(type_of(decoder), "Sequence") == 0 && json_array_size(items) == 1)
        decoder = json_array_get(items, 0);
    return strcmp(type_of(decoder), "ByteLevel") == 0;
}

int compile_parts(struct compile *c)
{
    const json_t *normalizer = json_object_get(c->root, "normalizer");
    const json_t *pre_tokenizer = json_object_get(c->root, "pre_tokenizer");
    const json_t *decoder = json_object_get(c->root, "decoder");
    int r = 0;
    if (normalizer != NULL && !json_is_null(normalizer))
        r = add_normalizer(c, normalizer, 0);
    if (r == 0 && pre_tokenizer != NULL && !json_is_null(pre_tokenizer))
        r = add_pre_tokenizer(c, pre_tokenizer, 0);
    if (r < 0)
        return r;
    if (!(c->header.flags & BLOB_BYTE_LEVEL))
        return add_decoder(c, decoder, 0);
    return is_byte_level(decoder) ? 0
                                  : refuse(c, "decoder", decoder, "with pre_tokenizer ByteLevel");
}

/* --- post-processor --- */

static int add_affix(struct compile *c, struct compile_affix *affix, const json_t *id)
{
    json_int_t value = json_integer_value(id);
    if (!json_is_integer(id) || value < 0 || value >= c->token_count ||
        !(c->tokens[value].flags & TOKEN_PRESENT))
        return error_set(c->err, -EINVAL,
                         "tokenizer.json: post_processor names a token that does not exist");
    if (affix->count == BLOB_AFFIX_MAX)
        return error_set(c->err, -E2BIG, "tokenizer.json: post_processor adds more than %u tokens",
                         BLOB_AFFIX_MAX);
    affix->ids[affix->count++] = (uint32_t)value;
    return 0;
}

static int add_template_piece(struct compile *c, const json_t *part, const json_t *piece,
                              bool *seen, struct compile_affix around[2])
{
    const json_t *special = json_object_get(piece, "SpecialToken");
    const json_t *sequence = json_object_get(piece, "Sequence");
    if (sequence != NULL) {
        const char *id = json_string_value(json_object_get(sequence, "id"));
        if (*seen || id == NULL || strcmp(id, "A") != 0)
            return refuse(c, "post_processor", part, "a template other than one $A");
        *seen = true;
        return 0;
    }
    const char *name = json_string_value(json_object_get(special, "id"));
    const json_t *known = json_object_get(part, "special_tokens");
    const json_t *ids = name != NULL ? json_object_get(json_object_get(known, name), "ids") : NULL;
    if (!json_is_array(ids))
        return refuse(c, "post_processor", part, "a template with an unknown token");
    int r = 0;
    for (size_t i = 0; r == 0 && i < json_array_size(ids); i++)
        r = add_affix(c, &around[*seen], json_array_get(ids, i));
    return r;
}

static int add_post_processor(struct compile *c, const json_t *part, int nesting)
{
    const char *type = type_of(part);
    struct compile_affix around[2] = {0};
    int r = 0;
    if (strcmp(type, "Sequence") == 0 && nesting < COMPILE_NESTING_MAX) {
        const json_t *items = compile_member(c, part, "processors", JSON_ARRAY);
        r = items == NULL ? -EINVAL : 0;
        for (size_t i = 0; r == 0 && i < json_array_size(items); i++)
            r = add_post_processor(c, json_array_get(items, i), nesting + 1);
        return r;
    }
    if (strcmp(type, "ByteLevel") == 0)
        return 0; /* it moves offsets only */
    if (strcmp(type, "TemplateProcessing") == 0) {
        const json_t *single = compile_member(c, part, "single", JSON_ARRAY);
        bool seen = false;
        r = single == NULL ? -EINVAL : 0;
        for (size_t i = 0; r == 0 && i < json_array_size(single); i++)
            r = add_template_piece(c, part, json_array_get(single, i), &seen, around);
        if (r == 0 && !seen)
            r = refuse(c, "post_processor", part, "a template without $A");
    } else if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0) {
        r = add_affix(c, &around[0], json_array_get(json_object_get(part, "cls"), 1));
        if (r == 0)
            r = add_affix(c, &around[1], json_array_get(json_object_get(part, "sep"), 1));
    } else {
        r = refuse(c, "post_processor", part, "");
    }
    if (r == 0 && c->prefix.count + c->suffix.count > 0)
        r = refuse(c, "post_processor", part, "after another that adds tokens");
    if (r == 0) {
        c->prefix = around[0];
        c->suffix = around[1];
    }
    return r;
}

int compile_post_processor(struct compile *c)
{
    const json_t *part = json_object_get(c->root, "post_processor");
    if (part == NULL || json_is_null(part))
        return 0;
    return add_post_processor(c, part, 0);
}
