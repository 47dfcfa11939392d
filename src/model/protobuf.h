/*
 * The wire format of protocol buffers, read in place: a message is a row of fields, each a number
 * or bytes. Nothing is allocated and nothing nested is entered unless the caller does it, so
 * hostile bytes cost at most one walk.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct protobuf { /* a message that is being read; both move on */
    const char *p;
    size_t len;
};

enum protobuf_kind {
    PROTOBUF_NUMBER,  /* a varint: integers, booleans, enumerations */
    PROTOBUF_FIXED32, /* float */
    PROTOBUF_FIXED64, /* double */
    PROTOBUF_BYTES,   /* strings and nested messages */
};

struct protobuf_field {
    uint32_t number;
    enum protobuf_kind kind;
    uint64_t value; /* of all but bytes; fixed ones as their bits */
    struct protobuf bytes;
};

/* 1: a field; 0: the end; -EINVAL: not a protocol buffer (or one with groups). */
int protobuf_next(struct protobuf *m, struct protobuf_field *ret);
