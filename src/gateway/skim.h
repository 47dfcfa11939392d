/*
 * JSON without a tree. A prompt of megabytes is not the gateway's to understand: it is checked for
 * being valid (grammar, UTF-8, depth, no key twice in an object) in one pass over the bytes, and
 * walked in place. A tree of the same body costs a hundred times the memory and stops the event
 * loop for seconds.
 */
#pragma once

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum skim_kind {
    SKIM_ABSENT,
    SKIM_NULL,
    SKIM_BOOL,
    SKIM_NUMBER,
    SKIM_STRING,
    SKIM_ARRAY,
    SKIM_OBJECT
};

/* A value in place, its brackets or quotes included. */
struct skim_span {
    enum skim_kind kind;
    const char *at;
    size_t bytes;
};

/* One valid JSON value and nothing behind it: 0, or -EINVAL with the reason. */
int skim_check(const char *json, size_t len, uint32_t depth_max, struct error *err);

/* The rest may only see what skim_check found good. */
/* The whole document, when it is an array or an object; SKIM_ABSENT otherwise. */
struct skim_span skim_document(const char *json, size_t len);
/* Walks an array's elements or an object's members: *at starts as NULL. False after the last. */
bool skim_next(const struct skim_span *in, const char **at, struct skim_span *ret_key,
               struct skim_span *ret_value);
/* A string that is spelled like this, without escapes. */
bool skim_is(const struct skim_span *s, const char *text);
/* The object's member with this name; kind SKIM_ABSENT when there is none. */
struct skim_span skim_member(const struct skim_span *object, const char *name);
