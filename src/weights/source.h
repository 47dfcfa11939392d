/*
 * The files of a checkpoint or adapter, found by name among open descriptors, and their safetensors
 * tensors as one table, whether they come in one file or in shards.
 */
#pragma once

#include "weights/pack.h"
#include "weights/safetensors.h"

#define SOURCE_SHARDS_MAX 1024u

const struct pack_file *source_find(const struct pack_file *files, uint32_t file_count,
                                    const char *name);

/* Reads exactly `len` bytes at `offset`; -EIO with the file's name when it is shorter. */
int source_read(const struct pack_file *f, uint64_t offset, void *to, size_t len,
                struct error *err);
/* Reads a whole small file into `ret`, whose max_bytes is the limit. Empty until then. */
int source_read_all(const struct pack_file *f, struct buf *ret, struct error *err);

struct source_tensor {
    const struct pack_file *file;
    const struct safetensors_tensor *tensor;
    bool used; /* for the caller: what was asked for, so that the rest can be refused */
};

struct source {
    struct safetensors *shards; /* owned */
    uint32_t shard_count;
    struct source_tensor *tensors; /* owned, sorted by name */
    uint32_t tensor_count;
};

/* Opens file `single`, or, when it is absent and `index` is not NULL, the shards that `index`
 * lists. The files must outlive the source. */
int source_open(struct source *ret, const struct pack_file *files, uint32_t file_count,
                const char *single, const char *index, struct error *err);
void source_close(struct source *s);

/* The tensor of that name, or NULL. */
struct source_tensor *source_tensor(struct source *s, const char *name);
