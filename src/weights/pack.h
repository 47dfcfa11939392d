/*
 * The packer's work: the files that a user brings (a Hugging Face checkpoint, a PEFT adapter) in,
 * one image out. It sees open descriptors with names, never paths. Weights flow through in small
 * blocks (read, checked for non-finite values, converted, hashed, written), so that memory stays
 * bounded whatever the size of the model.
 *
 * What an image claims was checked here against the files; whoever opens it checks again.
 */
#pragma once

#include "base/buf.h"
#include "weights/backbone.h"

struct pack_file {
    const char *name; /* without folders: "config.json" */
    int fd;           /* a regular file, open for reading; borrowed, its offset is not used */
};

#define PACK_META_BYTES_MAX (32u << 10)

struct pack_options {
    /* Of matrices; vectors are always f32. A word of --quant, see image.h; an adapter's is bf16,
     * int8 or f32. */
    enum image_dtype dtype;
    /* Called after every block; NULL: nobody wants to know. */
    void (*progress)(void *user, const char *what, uint64_t bytes_done, uint64_t bytes_total);
    void *user;
    /* DoRA's norms, for which the packer has no arithmetic of its own: the length of every row of
     * w + scale * b a, or, with by_column, of every column of w + scale * (b a) transposed. a
     * [rank, inputs], b [outputs, rank], ret [outputs]. Used by pack_adapter only. */
    int (*adapted_norms)(const struct weight *w, bool by_column, const float *a, const float *b,
                         uint32_t rank, float scale, float *ret, struct error *err);
};

struct pack_result {
    struct digest digest; /* SHA-256 of the whole image */
    uint64_t bytes;
    struct buf meta; /* what IMAGE_META holds; owned, buf_free */
};

/*
 * Needs config.json, tokenizer.json or tokenizer.model, and model.safetensors or
 * model.safetensors.index.json with its shards; uses generation_config.json, tokenizer_config.json,
 * special_tokens_map.json, chat_template.jinja or chat_template.json where present; ignores every
 * other file. `out_fd` is an empty regular file;
 * after a failure its contents are of no use (its header is written last).
 * Every file or field that is at fault is named: -EINVAL malformed or contradictory, -ENOTSUP what
 * forward() would compute differently, -ENOENT a missing file, -E2BIG over a limit, or what reading
 * and writing returned (-EIO, -ENOSPC).
 */
int pack_backbone(const struct pack_file *files, uint32_t file_count,
                  const struct pack_options *options, int out_fd, struct pack_result *ret,
                  struct error *err);

/* Needs adapter_config.json and adapter_model.safetensors, made for `b`, whose image has the digest
 * `backbone_digest`. */
int pack_adapter(const struct pack_file *files, uint32_t file_count,
                 const struct pack_options *options, const struct backbone *b,
                 const struct digest *backbone_digest, int out_fd, struct pack_result *ret,
                 struct error *err);
