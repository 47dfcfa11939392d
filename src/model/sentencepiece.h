/*
 * A checkpoint that has a tokenizer.model and no tokenizer.json: SentencePiece's model is rewritten
 * as the tokenizer.json that transformers (5) would save for it, and goes the one road from there.
 * Only what LlamaTokenizer and SentencePiece compute alike is taken; the rest is refused by the
 * name of its field.
 */
#pragma once

#include "base/buf.h"
#include "base/error.h"

#include <jansson.h>

#define SENTENCEPIECE_BYTES_MAX (64u << 20)

/* `config` and `map` are tokenizer_config.json and special_tokens_map.json, or NULL. Appends to
 * ret_json, which must be empty. -EINVAL: malformed, or not supported; -E2BIG: over a limit. */
int sentencepiece_to_json(const void *model, size_t len, const json_t *config, const json_t *map,
                          struct buf *ret_json, struct error *err);
