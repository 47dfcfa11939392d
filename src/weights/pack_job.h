/* What packing a backbone and packing an adapter share: a list of tensors to bring over, and the
 * loop that streams them through one pair of small buffers. */
#pragma once

#include "weights/image_writer.h"
#include "weights/source.h"

struct pack_job {
    const struct pack_options *options;
    const char *what; /* for the progress callback */
    struct image_writer writer;
    const struct source_tensor **sources; /* [writer.tensor_count], owned */
    uint32_t source_cap;
    uint64_t parameter_count;
};

void pack_job_init(struct pack_job *j, const struct pack_options *o, const char *what, int out_fd,
                   enum image_kind kind);
void pack_job_free(struct pack_job *j);

/* Takes `t` over as the next tensor. Its shape must be [rows, cols], or [cols] with rows = 1. */
int pack_job_add(struct pack_job *j, struct source_tensor *t, enum tensor_role role,
                 enum tensor_part part, uint32_t layer, uint32_t rows, uint32_t cols,
                 struct error *err);

/* Lays out, streams every tensor and finishes the image. */
int pack_job_run(struct pack_job *j, struct pack_result *ret, struct error *err);

/* Refuses what is left unused in the source, naming the first few. `is_ignored` may be NULL. */
int pack_check_unused(const struct source *s, bool (*is_ignored)(const char *name), const char *why,
                      struct error *err);

/* Reads a text file that may be absent: then ret stays empty and *ret_found is false. */
int pack_read_text(const struct pack_file *files, uint32_t file_count, const char *name,
                   struct buf *ret, bool *ret_found, struct error *err);
