/*
 * Sequence work of the forward pass: positions, KV cache, attention. One decision: rows of one
 * sequence at successive positions are a tile and go through the cache together; where there are
 * too few tiles for the threads, each span of positions is a chunk of its own. Neither shows in a
 * result (kernels/attention.h).
 */
#pragma once

#include <stdint.h>

struct batch;
struct forward;

struct attend_tile {
    uint32_t row;
    uint32_t row_count;
};

/* The numbers of a kernel_attention of n queries lie together: values [n, dim], largest [n], sum
 * [n]. All memory is of the activations' mapping. */
struct attend {
    struct attend_tile *tiles; /* [rows_max]: the rows of the batch at work */
    uint32_t tile_count;
    uint32_t tile_rows_max;
    uint32_t split_max; /* fewer tiles x KV heads than this are cut into spans */
    uint32_t spans_max; /* of a context */
    float *spans;       /* [split_max, spans_max] for the queries of a row: when cut */
};

/* Sizes, from what else `f` holds; then its part of the mapping (forward_carve). */
void attend_init(struct forward *f, uint32_t threads, uint32_t context_max);
void attend_lay_out(struct forward *f, uint32_t threads, uint8_t *base, uint64_t *offset);

/* Before the first layer of a batch. */
void attend_begin(struct forward *f, const struct batch *b);

/* The border: q, k, v of all rows in, attention output [rows, heads * head_dim] in act.h out. */
void forward_attend(struct forward *f, const struct batch *b, uint32_t layer);
