/*
 * The kernels for NVIDIA GPUs, as the host sees them: their names, what each is told, and how it is
 * launched. Included by C and by CUDA C++, so that both see one layout. A kernel takes one of these
 * structs by value; every pointer in one is an address on the device. Nothing is allocated, and no
 * kernel looks at what another row of the batch is: a row's numbers depend on that row alone,
 * however many there are, and every sum has one order.
 *
 * Matrices are read as the packer left them (weights/image.h): panels of 32 outputs, in which a
 * warp's lanes are the outputs, or the pairs of columns that a tensor core takes.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* In the order of cuda_kernel_names. */
enum cuda_kernel {
    CUDA_EMBED,
    CUDA_EMBED_LORA,
    CUDA_NORM,
    CUDA_RESIDUAL,
    CUDA_GATED,
    CUDA_LINEARS, /* up to CUDA_SKINNY_ROWS_MAX rows */
    CUDA_TILES,   /* the same for any number of rows, to the last bit */
    CUDA_SHRINK,
    CUDA_EXPAND,
    CUDA_RESCALE,
    CUDA_ROPE_STORE,
    CUDA_ATTEND,
    CUDA_ATTEND_JOIN,
    CUDA_DRAW,
    CUDA_KERNEL_COUNT
};

#define CUDA_KERNEL_NAMES                                                                          \
    {                                                                                              \
        "sllora_embed", "sllora_embed_lora", "sllora_norm", "sllora_residual", "sllora_gated",     \
            "sllora_linears", "sllora_tiles", "sllora_shrink", "sllora_expand", "sllora_rescale",  \
            "sllora_rope_store", "sllora_attend", "sllora_attend_join", "sllora_draw"              \
    }

#define CUDA_GROUP_NONE UINT32_MAX

/* A row of the batch. */
struct cuda_row {
    uint32_t token;
    uint32_t position;
    uint32_t blocks; /* where in the table of blocks those of its sequence begin */
    uint32_t group;  /* of rows with the same adapter; CUDA_GROUP_NONE: the bare backbone */
};

struct cuda_weight {
    const void *data;
    uint32_t dtype; /* enum image_dtype */
    uint32_t rows;  /* outputs */
    uint32_t cols;  /* inputs */
    uint32_t reserved;
};

/* x[r] = E[token of r] * scale, for rows [row, row + grid). Blocks: a row each. */
#define CUDA_EMBED_THREADS 256
struct cuda_embed {
    float *x; /* [rows, cols] */
    const struct cuda_row *rows;
    struct cuda_weight embed;
    float scale;
    uint32_t row;
};

/* x[r] = dora * (x[r] + B (A[:, token of r] * scale)), for rows [row, row + grid); A and B bf16, A
 * in rows, B in rows or in panels. Blocks: a row each. Shared memory: A.rows floats. */
#define CUDA_EMBED_LORA_THREADS 256
struct cuda_embed_lora {
    float *x; /* [rows, B.rows] */
    const struct cuda_row *rows;
    struct cuda_weight a, b;
    const float *dora; /* [B.rows] or NULL */
    float scale;
    uint32_t row;
};

/*
 * RMS norm of the vectors [first, first + grid) of `width` values each: x * weight / sqrt(mean of
 * squares + eps). Blocks: a vector each. y in float may be x. y in bf16 (round to nearest even):
 * rows are half_stride apart.
 */
#define CUDA_NORM_THREADS 256
struct cuda_norm {
    const float *x;       /* [vectors, width] */
    float *y;             /* [vectors, width] or NULL */
    uint16_t *half;       /* [vectors, half_stride] or NULL */
    const float *weight;  /* [width] */
    const uint32_t *from; /* the vector of x that vector i reads, or NULL: i */
    uint32_t width, half_stride, first;
    float eps;
};

/* x[r] += y[r], or its norm with post; then half[r] = the norm of x[r] with next, where there is
 * one. For rows [row, row + grid). Blocks: a row each. */
struct cuda_residual {
    float *x;          /* [rows, width] */
    const float *y;    /* [rows, width] */
    const float *post; /* [width] or NULL */
    const float *next; /* [width] or NULL */
    uint16_t *half;    /* [rows, half_stride] */
    uint32_t width, half_stride, row;
    float eps;
};

/* half[r][i] = activation(gate[r][i]) * up[r][i], in bf16. Blocks: CUDA_GATED_THREADS values of a
 * row; grid (ceil(width / CUDA_GATED_THREADS), rows). */
#define CUDA_GATED_THREADS 256
struct cuda_gated {
    const float *gate, *up; /* [rows, width] */
    uint16_t *half;         /* [rows, half_stride] */
    uint32_t width, half_stride;
    uint32_t is_gelu; /* else SiLU; GELU is tanh's approximation */
};

/*
 * Up to three linears that read the same rows: y[r] = W x[r] + bias, x in bf16, sums in float32.
 * Weights: IMAGE_PANELS, IMAGE_INT8 or IMAGE_INT4, all three of one kind. x is 0 beyond cols, up to
 * half_stride, which is a multiple of 64, and begins at a multiple of 16 bytes. Grid:
 * (cuda_linears_blocks(), ceil(rows / CUDA_TILE_ROWS)); the second is 1 for CUDA_LINEARS.
 *
 * Both kernels sum an output's products in one order, so that a row's result is the same whichever
 * of them computes it.
 */
#define CUDA_LINEARS_MAX 3
#define CUDA_SKINNY_ROWS_MAX 64
#define CUDA_TILE_ROWS 128
#define CUDA_LINEARS_THREADS 256
#define CUDA_TILES_THREADS 256
#define CUDA_TILE_OUTS 128
#define CUDA_TILES_SHARED_BYTES (96u << 10) /* dynamic, of a block of CUDA_TILES */
struct cuda_linear {
    struct cuda_weight w;
    const float *bias; /* [w.rows] or NULL */
    float *y;          /* [rows, y_stride] */
    size_t y_stride;
};
struct cuda_linears {
    const uint16_t *x; /* [rows, half_stride] */
    uint32_t half_stride, row_count, count, reserved;
    struct cuda_linear linears[CUDA_LINEARS_MAX];
};

/*
 * LoRA of up to three linears that read the same rows. A use says what the adapter of a group does
 * to one of them; uses are [count, group_count]. t = scale * (A x), or scale * rank_scales * (A x):
 * [count, rows, rank_stride]. Then y += B t.
 */
struct cuda_lora_use {
    const void *a;            /* [rank, cols], bf16 in rows, or codes; NULL: nothing */
    const void *b;            /* [outputs, rank], bf16 in panels, or panels of codes */
    const float *rank_scales; /* [rank]; NULL where a and b are bf16 */
    uint32_t rank;
    float scale;
};

/* Grid: (ceil(rank_max / CUDA_SHRINK_RANKS), rows, count); rows [row, row + grid.y). A block sums
 * CUDA_SHRINK_RANKS ranks, each of its threads some columns of all of them. */
#define CUDA_SHRINK_RANKS 8
#define CUDA_SHRINK_THREADS 256
struct cuda_shrink {
    float *t;
    const uint16_t *x; /* [rows, half_stride] */
    const struct cuda_row *rows;
    const struct cuda_lora_use *uses;
    uint32_t half_stride, cols, group_count, rank_stride, row, row_count /* of t */;
};

/* Grid: (ceil(most outputs / CUDA_EXPAND_THREADS), rows, count), likewise. A thread is an output;
 * the sum over the rank is made first, and then added to y. */
#define CUDA_EXPAND_THREADS 128
struct cuda_expand {
    float *y[CUDA_LINEARS_MAX];
    size_t y_stride[CUDA_LINEARS_MAX];
    uint32_t outputs[CUDA_LINEARS_MAX];
    const float *t;
    const struct cuda_row *rows;
    const struct cuda_lora_use *uses;
    uint32_t group_count, rank_stride, row, row_count;
};

/* y[r][i] = y[r][i] * dora[i] + bias[i] for rows [row, row + grid.y); grid.x: ceil(outputs /
 * CUDA_EXPAND_THREADS). */
struct cuda_rescale {
    float *y; /* [rows, y_stride] */
    size_t y_stride;
    const float *dora, *bias; /* [outputs]; bias may be NULL */
    uint32_t outputs, row;
};

/* The paged KV cache, laid out as kernels/attention.h says for bf16: a block has [layer][kv_head]
 * of head_bytes. */
struct cuda_kv {
    uint8_t *base;
    const uint32_t *blocks; /* the table of blocks: of each sequence in turn, those it has */
    uint64_t block_bytes, head_bytes;
    uint32_t layer, kv_heads, dim, reserved;
};

/* Rotates q (in place) and k of every row by its angles, halves of a head against each other
 * (rotary_dim of its values), and stores k and v in the cache, rounded to bf16. Grid: rows. */
#define CUDA_ROPE_THREADS 128
struct cuda_rope_store {
    float *q;               /* [rows, heads * dim] */
    const float *k, *v;     /* [rows, kv_heads * dim] */
    const float *cos, *sin; /* [rows, rotary_dim / 2] */
    const struct cuda_row *rows;
    struct cuda_kv kv;
    uint32_t heads, rotary_dim;
};

/*
 * Attention of queries over the cache. A tile is rows of one sequence at successive positions, up
 * to CUDA_TILE_QUERIES / (heads / kv_heads) of them and one at least; a query sees the positions
 * (p - window, p]. Positions are cut into spans at absolute multiples of CUDA_SPAN_TOKENS. A span's
 * result: values = sum of exp(s - largest) v, with s = scale * q . k, its largest, and sum; those
 * of later spans join it in ascending order, one by one. q is rounded to bf16, and so are the
 * weights exp(s - largest) that multiply v (not those that are summed).
 *
 * Grid: (tiles, kv_heads, splits). splits = 1: a block goes through all spans of its tile and
 * writes half. Else block (t, h, s) does the s-th span of the tile, counted from the first it sees,
 * and leaves it in `spans`: [tile, kv_head, split, query of CUDA_SPAN_QUERIES(group)] of dim + 2
 * floats (values, largest, sum); CUDA_ATTEND_JOIN (grid: tiles, kv_heads) joins them and writes
 * half. Both ways give the same bits. dim is even; what writes half also writes the zeros behind
 * the heads.
 */
#define CUDA_SPAN_TOKENS 256
#define CUDA_TILE_QUERIES 16
/* What `spans` has room for; of `group` query heads that share a KV head. */
#define CUDA_SPAN_QUERIES(group) ((group) > CUDA_TILE_QUERIES ? (group) : CUDA_TILE_QUERIES)
#define CUDA_ATTEND_THREADS 128
#define CUDA_HEAD_DIM_MAX 256
struct cuda_tile {
    uint32_t row, row_count;
};
struct cuda_attend {
    const float *q; /* [rows, heads * dim], rotated */
    uint16_t *half; /* [rows, half_stride]: heads * dim values in bf16 */
    float *spans;
    const struct cuda_row *rows;
    const struct cuda_tile *tiles;
    struct cuda_kv kv;
    uint32_t heads, half_stride, window /* UINT32_MAX: everything */, splits;
    float scale;
};

/*
 * A token for each row, drawn from its logits as engine/sampler.h says: temperature, top-k, top-p,
 * min-p, each on what the one before leaves. A token weighs exp((logit - largest) / temperature) in
 * whole 2^-CUDA_DRAW_WEIGHT_BITS, so that sums are the same in whatever order they are made; what
 * rounds to 0 is never drawn. Of what is kept, in the order of the vocabulary, the token that
 * unit * (sum of weights) falls into. Temperature 0, or a largest logit that is not finite: the
 * first of the largest, and token 0 where no logit is a number above -infinity. Blocks: a row each.
 */
#define CUDA_DRAW_THREADS 1024
#define CUDA_DRAW_WEIGHT_BITS 44 /* 2^18 tokens that weigh 1 are less than 2^64 */
#define CUDA_DRAW_SPREAD 32.0f   /* temperatures below the largest, where weights are 0 */
struct cuda_draw_row {
    double unit;      /* [0, 1) */
    double log_min_p; /* -infinity: no limit */
    float temperature;
    float top_p;    /* 1: no limit */
    uint32_t top_k; /* 0: no limit */
    uint32_t reserved;
};
struct cuda_draw {
    const float *logits;              /* [rows, vocab] */
    const struct cuda_draw_row *rows; /* [rows] */
    uint32_t *tokens;                 /* [rows] */
    uint32_t vocab, reserved;
};

/* Outputs that one block of CUDA_LINEARS computes, and blocks that all linears of a job take: of
 * the first one first. */
#define CUDA_LINEARS_OUTS 32
static inline uint32_t cuda_linears_blocks(const struct cuda_linears *j, uint32_t outs)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < j->count; i++)
        n += (j->linears[i].w.rows + outs - 1) / outs;
    return n;
}

#ifdef __cplusplus
}
#endif
