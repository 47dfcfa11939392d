/*
 * Writes an image front to back, hashing on the way: the layout follows from the shapes, so it is
 * known before the first weight. The header goes to the file last: a file that was left unfinished
 * has no magic number and opens as nothing.
 *
 *   init → section*, tensor* → begin → write* (tensors in order, in any pieces) → end
 */
#pragma once

#include "weights/image.h"

struct image_writer {
    int fd; /* borrowed; an empty regular file */
    struct image_header header;
    const void *sections[IMAGE_SECTION_COUNT]; /* borrowed until begin */
    struct image_tensor *tensors;              /* owned */
    uint32_t tensor_count;
    uint32_t tensor_cap;
    uint32_t tensor_next; /* the one that the next bytes belong to */
    uint64_t tensor_left; /* bytes that it still lacks */
    uint64_t offset;      /* of the next byte in the file */
    struct digest_state *digest;
};

void image_writer_init(struct image_writer *w, int fd, enum image_kind kind);
void image_writer_free(struct image_writer *w);

/* Any section but the tensors and the weights. */
void image_writer_section(struct image_writer *w, enum image_section section, const void *data,
                          uint64_t bytes);
/* Appends to the table; rows and cols > 0. */
int image_writer_tensor(struct image_writer *w, enum tensor_role role, enum tensor_part part,
                        uint32_t layer, enum image_dtype dtype, uint32_t rows, uint32_t cols,
                        struct error *err);

/* Fixes the layout; writes everything but the header and the weights. */
int image_writer_begin(struct image_writer *w, struct error *err);
/* The next bytes of the weights; a piece never reaches over the border of two tensors. */
int image_writer_write(struct image_writer *w, const void *data, size_t bytes, struct error *err);
/* All tensors must be complete. */
int image_writer_end(struct image_writer *w, struct digest *ret_digest, uint64_t *ret_bytes,
                     struct error *err);
