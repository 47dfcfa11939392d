/* The model of a tokenizer.model, read in place: between sentencepiece.c, which reads and judges
 * it, and sentencepiece_json.c, which says what becomes of it. */
#pragma once

#include "base/error.h"
#include "model/tokenizer_blob.h"

#include <jansson.h>

#define SENTENCEPIECE_PIECE_BYTES_MAX 512u

enum piece_type {
    PIECE_NORMAL = 1,
    PIECE_UNKNOWN,
    PIECE_CONTROL,
    PIECE_USER_DEFINED,
    PIECE_UNUSED,
    PIECE_BYTE,
};

struct piece {
    struct text text; /* borrowed from the model */
    float score;
    uint64_t type; /* enum piece_type */
};

struct sentencepiece {
    struct piece *pieces; /* owned */
    uint32_t piece_count;
    uint32_t piece_cap;
    json_t *ids; /* text -> id; a reference */
    bool dummy_prefix;
};

/* Reads a model and refuses what it asks for beyond a Llama-2 kind of BPE. */
int sentencepiece_read(struct sentencepiece *s, const void *model, size_t len, struct error *err);
void sentencepiece_free(struct sentencepiece *s);
