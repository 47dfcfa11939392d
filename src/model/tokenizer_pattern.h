/*
 * Regular expressions of a tokenizer.json are written for Onigmo's kin (Oniguruma). This rewrites
 * one so that PCRE2 matches the same text: \s is White_Space, Unicode classes get the code points
 * that PCRE2 does not know yet, a "possessive" interval repeats. A construct on which the two may
 * differ is refused by name rather than guessed.
 */
#pragma once

#include "base/buf.h"
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

/* Appends the PCRE2 pattern. Without `newer` it is right (and much faster) only on text that has
 * none of the characters of unicode_has_newer. -EINVAL with the construct's name; -E2BIG: too long.
 */
int pattern_translate(const char *pattern, size_t len, bool newer, struct buf *ret,
                      struct error *err);
