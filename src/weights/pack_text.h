/* The text side of a backbone: the compiled tokenizer and the chat section of its image. */
#pragma once

#include "weights/pack.h"

/* Compiles tokenizer.json, or where there is none tokenizer.model with tokenizer_config.json, into
 * `ret` (max_bytes TOKENIZER_BLOB_BYTES_MAX). Refuses missing files and a vocabulary larger than
 * `vocab_count`, the rows of the embedding; added tokens may lie behind it. */
int pack_tokenizer(const struct pack_file *files, uint32_t file_count, uint32_t vocab_count,
                   struct buf *ret, struct error *err);

/* Fills `ret` with the three strings of IMAGE_CHAT, from chat_template.jinja, chat_template.json
 * and tokenizer_config.json, whichever are there. A template that cannot be parsed is refused. */
int pack_chat(const struct pack_file *files, uint32_t file_count, struct buf *ret,
              struct error *err);
