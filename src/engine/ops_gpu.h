/*
 * What forward passes on a GPU have there, and what is told to it before each. One decision: a
 * batch is described by one block of tables, put together in host memory that the GPU reads by
 * itself and sent in one copy; kernels find in them what their rows need.
 */
#pragma once

#include "engine/forward.h"
#include "gpu/device.h"
#include "kernels/cuda/cuda.h"

/* An adapter's image, copied to the GPU. */
struct gpu_adapter {
    const struct adapter *adapter; /* NULL: the place is free */
    struct gpu_memory *memory;
    uint32_t users; /* slots that have it */
};

/* The tables of a batch, at the same places in the host's block and in the GPU's. */
struct gpu_tables {
    struct cuda_row *rows;       /* [rows_max] */
    struct cuda_row *wanted;     /* [FORWARD_DRAW_ROWS_MAX]: those of which logits are wanted */
    uint32_t *from;              /* [FORWARD_DRAW_ROWS_MAX]: which rows they are */
    struct cuda_draw_row *draws; /* [FORWARD_DRAW_ROWS_MAX] */
    uint32_t *drawn;             /* [FORWARD_DRAW_ROWS_MAX]: tokens, of the GPU */
    struct cuda_tile *tiles;     /* [rows_max] */
    float *cos[MODEL_LAYER_KIND_COUNT]; /* [rows_max, rotary_dim / 2] */
    float *sin[MODEL_LAYER_KIND_COUNT]; /* likewise */
    uint32_t *blocks;                   /* [sequences_max, blocks of a context] */
    struct cuda_lora_use *uses;         /* [linears, groups] */
};

#define GPU_GRAPHS_MAX 16u

/* What the launches of a batch's layers follow from, beside what never changes. Scales of adapters
 * and positions are in tables. */
struct gpu_shape {
    uint32_t row_count, tile_count, group_count;
    uint32_t splits[MODEL_LAYER_KIND_COUNT]; /* of attention */
    struct {
        const struct adapter *adapter;
        uint32_t row, row_count;
    } groups[CUDA_SKINNY_ROWS_MAX];
};

/* The layers of a batch of one shape, recorded. */
struct gpu_layers {
    struct gpu_shape shape;
    struct gpu_graph *graph; /* NULL: the place is free */
    uint64_t used;           /* number of the batch that had it last */
};

struct forward_gpu {
    struct gpu_device *device; /* borrowed */
    uint64_t backbone;         /* address of its image */
    struct gpu_memory *memory; /* activations and tables */
    struct gpu_memory *shrunk; /* A x of up to three linears: [3, rows_max, rank_max] */
    uint8_t *host;             /* tables and logits, the device reads and writes them */
    struct gpu_tables here, there;
    float *up;     /* [rows, ffn] */
    float *logits; /* [FORWARD_DRAW_ROWS_MAX, vocab] */
    float *spans;  /* of cuda_attend */
    uint64_t spans_bytes;
    uint64_t tables_bytes;              /* but for uses */
    uint32_t sequences_max, blocks_max; /* of one batch, of one sequence */
    uint32_t rank_max;                  /* of any adapter here */
    uint32_t tile_count, tile_rows_max;
    uint32_t adapter_count;
    struct gpu_adapter *adapters; /* [adapter_count], owned */
    /* The groups that the GPU's table of uses is about, and the most ranks of each linear. */
    struct lora_group *groups; /* [sequences_max] */
    uint32_t group_count;
    uint32_t *ranks; /* [linears] */
    struct gpu_layers layers[GPU_GRAPHS_MAX];
    struct gpu_shape shape; /* of the batch at work, and of the one before */
    struct gpu_shape before;
    struct gpu_layers *recording; /* where the launches at work go to; NULL: to the GPU */
    uint64_t batch_number;
};

/* Does the layers of the batch as they were recorded: true. Else the caller asks for them, between
 * this and gpu_layers_end; a shape that comes the second time in a row is recorded on the way. */
bool gpu_layers_begin(struct forward *f, const struct batch *b);
void gpu_layers_end(struct forward *f);
void gpu_layers_forget(struct forward *f);

/* Blocks for each tile in layers of this kind: the spans that any tile of the batch sees, where
 * tiles alone leave processors idle and the results have room. 1: a block goes through all spans of
 * its tile. */
uint32_t gpu_splits(const struct forward *f, const struct batch *b, enum model_layer_kind kind);

/* As many linears as adapters have LoRA for: those of the layers, then the head. */
uint32_t gpu_linear_count(const struct forward *f);
uint32_t gpu_linear_at(const struct forward *f, uint32_t layer, enum linear_index index);

/* From a row of act.h to the next: `width` values of bf16 and zeros behind them. */
static inline uint32_t gpu_half_stride(uint32_t width)
{
    return (width + 63) / 64 * 64;
}

int gpu_tables_open(struct forward *f, const struct forward_options *o, struct error *err);
void gpu_tables_close(struct forward *f);

/* Puts the tables of a batch together and sends them. */
void gpu_tables_send(struct forward *f, const struct batch *b);
/* And those of the rows that logits are wanted of. */
void gpu_tables_send_wanted(struct forward *f, const uint32_t *rows, uint32_t count);

/* Matrices of linears, and of the embeddings, that there are kernels for. */
bool gpu_reads_matrix(uint32_t dtype);
bool gpu_reads_embedding(uint32_t dtype);

int gpu_adapter_open(struct forward *f, const struct adapter *a, struct error *err);
void gpu_adapter_close(struct forward *f, const struct adapter *a);

/* Where on the GPU lies what `data` points to: in the backbone's image, or in the adapter's (NULL:
 * none). NULL stays NULL. */
const void *gpu_place(const struct forward *f, const struct adapter *a, const void *data);
