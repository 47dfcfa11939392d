/* What packing a backbone and packing an adapter share: a list of tensors to bring over, and the
 * loop that streams them through one pair of small buffers. */
#pragma once

#include "weights/image_writer.h"
#include "weights/source.h"

/* One tensor of the image and where its numbers come from. */
struct pack_item {
    struct source_tensor *source; /* or NULL: `values` */
    const float *values; /* [rows * cols], owned by the caller until pack_job_run is done */
    /* Of what becomes codes, see codes.h: of the rows of lora_A, of the columns of lora_B; owned by
     * the caller, who fills them before pack_job_run. NULL: it does not. */
    const float *scales;
    enum tensor_role role;
    enum tensor_part part;
    uint32_t layer;
    uint32_t rows;
    uint32_t cols;
    uint32_t first_row;   /* of the source that this tensor takes */
    uint32_t source_rows; /* 0: rows, this tensor takes all */
    bool is_looked_up;    /* read by single rows, or by few: not for panels of bf16 */
    float add;            /* to every value: 1 where a checkpoint stores norm weights less one */
};

struct pack_job {
    const struct pack_options *options;
    const char *what; /* for the progress callback */
    struct image_writer writer;
    struct pack_item *items; /* [writer.tensor_count], owned */
    uint32_t item_cap;
    uint64_t parameter_count;
};

void pack_job_init(struct pack_job *j, const struct pack_options *o, const char *what, int out_fd,
                   enum image_kind kind);
void pack_job_free(struct pack_job *j);

/* The next tensor of the image. The source's shape must be [source_rows, cols]; a vector's, whose
 * rows are 1, may be [cols] too. */
int pack_job_add(struct pack_job *j, const struct pack_item *item, struct error *err);

/* The largest size in each row of a tensor [rows, cols], or in each column. */
int pack_job_largest(struct source_tensor *t, uint32_t rows, uint32_t cols, bool of_columns,
                     float *ret, struct error *err);

/* Lays out, streams every tensor and finishes the image. */
int pack_job_run(struct pack_job *j, struct pack_result *ret, struct error *err);

/* Refuses what is left unused in the source, naming the first few. `is_ignored` may be NULL. */
int pack_check_unused(const struct source *s, bool (*is_ignored)(const char *name), const char *why,
                      struct error *err);

/* Reads a text file that may be absent: then ret stays empty and *ret_found is false. */
int pack_read_text(const struct pack_file *files, uint32_t file_count, const char *name,
                   struct buf *ret, bool *ret_found, struct error *err);
