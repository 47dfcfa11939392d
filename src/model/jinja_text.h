/*
 * Text as Python sees it, on UTF-8: code points, white space, case, repr(), str(), float's shortest
 * form, JSON, and the % operator. All strings in and out are valid UTF-8.
 */
#pragma once

#include "model/jinja_value.h"

size_t jinja_char_bytes(char first);       /* 1 to 4, of valid UTF-8 */
uint32_t jinja_char_decode(const char *s); /* of valid UTF-8 */
size_t jinja_char_encode(uint32_t c, char ret[4]);
bool jinja_char_is_space(uint32_t c); /* str.isspace */
bool jinja_utf8_is_valid(const char *s, size_t len);

int64_t jinja_str_count(struct jinja_env *env, struct jinja_str s); /* code points */
/* The byte where code point `index` begins; s.len when past the end. */
size_t jinja_str_offset(struct jinja_env *env, struct jinja_str s, int64_t index);
struct jinja_str jinja_str_strip(struct jinja_env *env, struct jinja_str s,
                                 const struct jinja_str *chars, bool left, bool right);
struct jinja_str jinja_str_replace(struct jinja_env *env, struct jinja_str s, struct jinja_str from,
                                   struct jinja_str to, int64_t count_max);
enum jinja_case { JINJA_LOWER, JINJA_UPPER, JINJA_CAPITALIZE, JINJA_TITLE, JINJA_SWAP };
struct jinja_str jinja_str_case(struct jinja_env *env, struct jinja_str s, enum jinja_case to);
/* Splits at line borders; the borders are kept with `keep`. */
struct jinja_value jinja_str_lines(struct jinja_env *env, struct jinja_str s, bool keep);

struct jinja_str jinja_to_str(struct jinja_env *env, struct jinja_value v); /* str(v) */
void jinja_print(struct jinja_env *env, struct jinja_text *t, struct jinja_value v);
void jinja_repr(struct jinja_env *env, struct jinja_text *t, struct jinja_value v);
/* text % args, as Python's str.__mod__ */
struct jinja_str jinja_format_percent(struct jinja_env *env, struct jinja_str text,
                                      struct jinja_value args);

struct jinja_json_options {
    bool ascii;
    bool sort_keys;
    bool has_indent;
    struct jinja_str indent;
    struct jinja_str item_separator;
    struct jinja_str key_separator;
};
/* json.dumps */
void jinja_dump_json(struct jinja_env *env, struct jinja_text *t, struct jinja_value v,
                     const struct jinja_json_options *o, int64_t level);
