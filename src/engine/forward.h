/*
 * The forward pass over a ragged batch of rows. A row is one position of one sequence; rows of one
 * adapter lie together. One decision: two kinds of work that never mix. Row work is rows x weights
 * (everything but attention) and could be done for many workers in one place; sequence work (KV
 * cache, attention) is private. The border is forward_attend().
 *
 * What a device does is behind a table of operations, the boxes of the diagram: on the host's
 * processors in ops_host.c, on a GPU in ops_gpu.c.
 *
 * Nothing is allocated per step: activations are one mapping, sized from rows_max, touched lazily.
 */
#pragma once

#include "engine/attend.h"
#include "engine/kv.h"
#include "engine/rope.h"
#include "engine/sampler.h"
#include "kernels/kernels.h"
#include "kernels/pool.h"
#include "weights/adapter.h"
#include "weights/backbone.h"

#include <stdint.h>

/* Rows whose logits the host has at one time, and whose tokens a device draws at one time. */
#define FORWARD_LOGIT_ROWS_MAX 16u
#define FORWARD_DRAW_ROWS_MAX 64u

/* Multiply-adds that are not worth waking the pool for. */
#define FORWARD_INLINE_WORK 32768u

struct forward_row {
    uint32_t token;
    uint32_t position;
    bool is_long;               /* of a sequence beyond rope_long_from() */
    const struct kv_blocks *kv; /* holds the row's position */
};

/* Rows [row, row + row_count) of a batch use this adapter. */
struct lora_group {
    const struct adapter *adapter;
    float scale; /* of its effect; 1 unless it is pure LoRA */
    uint32_t row;
    uint32_t row_count;
};

struct batch {
    const struct forward_row *rows; /* rows of one sequence in ascending position */
    uint32_t row_count;
    const struct lora_group *groups; /* ascending; rows of the bare backbone are in none */
    uint32_t group_count;
};

/* What a token is drawn by. */
struct forward_draw {
    const struct engine_sampling *sampling;
    uint64_t index; /* tokens drawn before by the sequence */
};

/* y = x W^T + bias and the adapters' share, over the rows of the batch. */
struct linear {
    const struct linear_weights *weights; /* the backbone's */
    const float *x;                       /* [rows, cols] */
    float *y;                             /* [rows, y_stride], from output y_begin of each row on */
    size_t y_stride;                      /* weight rows, where y has all outputs */
    uint32_t y_begin;
    uint32_t layer;
    enum linear_index index;
};

/* What the adapter of a group does to a linear. */
struct lora_use {
    const struct lora *lora; /* NULL: no LoRA on this matrix */
    float *shrunk;           /* [rows of the group, rank]: scaled A x */
    bool shrinks;            /* no linear before it has the same A */
    bool apart; /* DoRA, or a matrix or bias of its own: its rows are multiplied apart */
    struct linear_weights own; /* the backbone's where it has none */
};

/* All in one mapping. */
struct activations {
    uint8_t *base;
    uint64_t bytes;
    float *x;           /* [rows, hidden]: the residual stream */
    float *h;           /* [rows, h_width]: what the next matrix reads */
    float *q;           /* [rows, q_width] */
    float *k;           /* [rows, kv_width] */
    float *v;           /* [rows, kv_width] */
    uint16_t *half;     /* [rows, forward_half_stride(in)]: the linears' input, as bf16 */
    uint8_t *quantised; /* [rows, kernel_quantised_bytes(in)]: likewise, as int8 */
    float *y;           /* [rows, hidden]: what attention or MLP adds to the residual stream */
    float *cos[MODEL_LAYER_KIND_COUNT]; /* [rows, rotary_dim / 2] */
    float *sin[MODEL_LAYER_KIND_COUNT]; /* [rows, rotary_dim / 2] */
    float *shrunk;         /* [3, rows, ADAPTER_RANK_MAX]: A x of up to three matrices */
    struct lora_use *uses; /* [3, rows]: of up to three matrices by as many groups as there are */
    float *gate;           /* [rows, ffn] */
    float *logits;         /* [FORWARD_LOGIT_ROWS_MAX, vocab]: where gate was, which is done then */
};

/* What one thread needs to attend and to sample. */
struct forward_scratch {
    void *attend;                  /* of kernel_attend */
    float *spans[2];               /* see attend.h: what is so far, and one span */
    union sampler_scratch *sample; /* [vocab] */
    float *up;                     /* [rows, outputs of a chunk] */
};

struct forward;
struct forward_gpu;
struct gpu_device;

struct forward_options {
    enum kernel_kv kv_type; /* what `kv` holds */
    uint32_t threads;
    uint32_t rows_max;
    uint32_t context_max;
    uint32_t sequences_max;    /* of one batch */
    struct gpu_device *gpu;    /* borrowed; NULL: the host computes */
    uint64_t backbone_address; /* of the backbone's image on it */
};

#define NORM_NONE NORM_LAYER_COUNT

/*
 * What a device does. Arrays of act are the device's own: only it reads and writes them, but for
 * act.logits, which are the host's.
 */
struct forward_ops {
    int (*open)(struct forward *f, const struct forward_options *o, struct error *err);
    void (*close)(struct forward *f);
    /* act.x: the rows' tokens as embeddings; and what follows from their positions. */
    void (*begin)(struct forward *f, const struct batch *b);
    /* Around the layers. A device that does all of them by itself says true, and is asked for none.
     */
    bool (*layers_begin)(struct forward *f, const struct batch *b);
    void (*layers_end)(struct forward *f);
    /* y = the norm of x, [rows, count, width]; y may be x. */
    void (*norm)(struct forward *f, const struct batch *b, uint32_t layer, enum norm_index norm,
                 float *y, const float *x, uint32_t width, uint32_t count);
    /* Up to three linears that read the same input. */
    void (*linears)(struct forward *f, const struct batch *b, const struct linear *linears,
                    uint32_t count);
    /* y of the first = act(first) * second */
    void (*gated)(struct forward *f, const struct batch *b, const struct linear linears[2]);
    /* The border: act.q, k, v of all rows in, attention output in act.h out. */
    void (*attend)(struct forward *f, const struct batch *b, uint32_t layer);
    /* act.x += act.y, or its post_norm; act.h = that layer's next_norm of it, if not NORM_NONE */
    void (*residual)(struct forward *f, const struct batch *b, uint32_t layer,
                     enum norm_index post_norm, uint32_t next_layer, enum norm_index next_norm);
    /* What is multiplied after the next operation; a hint. */
    void (*expect)(const struct forward *f, const struct linear_weights *first, uint32_t count,
                   bool beside);
    /* See forward_logits. */
    void (*logits)(struct forward *f, const struct batch *b, const uint32_t *rows, uint32_t count,
                   float *ret_logits);
    /* A token for each of `count` <= FORWARD_DRAW_ROWS_MAX rows, of the logits that forward_logits
     * gives, as sampler_draw draws it. NULL: the host draws. */
    void (*draw)(struct forward *f, const struct batch *b, const uint32_t *rows,
                 const struct forward_draw *draws, uint32_t count, uint32_t *ret_tokens);
    /* Waits until all is done: 0, or what failed, after which nothing that was computed counts. */
    int (*finish)(struct forward *f, struct error *err);
    /* Before the first batch with this adapter, and after the last. */
    int (*adapter_open)(struct forward *f, const struct adapter *a, struct error *err);
    void (*adapter_close)(struct forward *f, const struct adapter *a);
    uint64_t (*bytes)(const struct forward *f);
    void (*trim)(struct forward *f);
};

extern const struct forward_ops forward_host_ops;
extern const struct forward_ops forward_gpu_ops;

struct forward {
    const struct forward_ops *ops;
    struct forward_gpu *gpu;         /* of forward_gpu_ops; NULL on the host */
    const struct backbone *backbone; /* borrowed */
    const struct kernels *kernels;
    struct pool *pool;  /* owned */
    struct kv_pool *kv; /* borrowed */
    struct rope ropes[MODEL_LAYER_KIND_COUNT];
    bool has_kind[MODEL_LAYER_KIND_COUNT]; /* some layer is of this kind */
    kernel_gated_mul *gated_mul;
    enum kernel_kv kv_type;
    uint32_t rows_max;
    uint32_t q_width;  /* heads * head_dim */
    uint32_t kv_width; /* kv_heads * head_dim */
    uint32_t h_width;  /* the larger of hidden and q_width */
    struct activations act;
    struct forward_scratch *scratch; /* [threads], owned; their arrays lie in the mapping */
    struct attend attend;
    uint32_t rows_touched; /* most rows of one batch since the last trim */
    uint32_t logit_rows_touched;
};

int forward_open(struct forward *ret, const struct backbone *b, struct kv_pool *kv,
                 const struct forward_options *o, struct error *err);
void forward_close(struct forward *f);

/* Leaves the residual stream of the last layer in f->act.x, and the keys and values of the rows in
 * the cache. row_count <= rows_max. */
void forward(struct forward *f, const struct batch *b);

/* ret_logits [count, vocab] of `count` rows, ascending, of the last batch `b`; f->act.logits will
 * do for FORWARD_LOGIT_ROWS_MAX. Overwrites everything but f->act.x. */
void forward_logits(struct forward *f, const struct batch *b, const uint32_t *rows, uint32_t count,
                    float *ret_logits);

/* From a row of `half` to the next: an odd number of lines of the caches, so that many rows do not
 * fall into the same few places of them. */
static inline size_t forward_half_stride(uint32_t in)
{
    const size_t line = 64 / sizeof(uint16_t);
    return ((in + line - 1) / line | 1) * line;
}

/* Runs fn over chunks on the pool, or here when `work` multiply-adds in all are too few. */
void forward_run(struct forward *f, uint64_t work, pool_fn *fn, void *argument,
                 uint32_t chunk_count);

/* Hands out `bytes` of a mapping at *offset; only counts while base is NULL. */
void *forward_carve(uint8_t *base, uint64_t *offset, uint64_t bytes);

/* What follows from the model alone. */
struct forward forward_shape(const struct backbone *b, uint32_t rows_max);

/* The groups of `b` that the given rows fall into, over the positions of the rows in the list. */
uint32_t forward_pick_groups(const struct batch *b, const uint32_t *rows, uint32_t count,
                             struct lora_group *ret);

/* The most that activations and scratch of an engine on the host take. */
uint64_t forward_work_bytes(const struct backbone *b, uint32_t threads, uint32_t rows_max,
                            uint32_t context_max);
