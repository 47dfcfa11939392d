/*
 * An image: one immutable, aligned, validated file that maps straight into memory; its SHA-256 is
 * its name. The packer makes it once; keeper and workers only ever map it read-only.
 *
 *   0     struct image_header
 *   4096  sections, each aligned to IMAGE_ALIGN; the weights last
 *
 * All integers little endian. Nothing in an image is trusted by the process that maps it:
 * image_open() checks every offset against the size before anything is used.
 */
#pragma once

#include "base/digest.h"
#include "base/error.h"
#include "model/config.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define IMAGE_MAGIC "SLLORAIM"
#define IMAGE_VERSION 6u
#define IMAGE_ALIGN 4096u
#define IMAGE_TENSOR_ALIGN 256u
#define IMAGE_TENSORS_MAX 65536u
#define IMAGE_BYTES_MAX (1ull << 40)

enum image_kind { IMAGE_BACKBONE = 1, IMAGE_ADAPTER = 2 };

enum image_section {
    IMAGE_CONFIG = 0,    /* struct model_config (backbone), struct adapter_config (adapter) */
    IMAGE_TENSORS = 1,   /* struct image_tensor[] */
    IMAGE_TOKENIZER = 2, /* compiled tokenizer, backbone only */
    IMAGE_CHAT = 3,      /* backbone only: three NUL-terminated UTF-8 strings, each may be empty:
                            chat template, bos token, eos token */
    IMAGE_META = 4,      /* JSON for people: source, parameters, adapter scale per module */
    IMAGE_WEIGHTS = 5,
    IMAGE_SECTION_COUNT = 6,
};

struct image_extent {
    uint64_t offset; /* from the start of the image */
    uint64_t bytes;
};

struct image_header {
    char magic[8];
    uint32_t version;
    uint32_t kind;
    uint64_t bytes; /* of the whole image */
    struct image_extent sections[IMAGE_SECTION_COUNT];
};

enum image_dtype {
    IMAGE_F32 = 0,
    IMAGE_BF16 = 1,
    /* bf16 as the kernels read it: panels of IMAGE_PANEL_ROWS rows; in a panel, for each pair of
     * columns in turn, the pair of each row. What rows and columns lack is 0. */
    IMAGE_PANELS = 2,
    /*
     * Quantised: panels of IMAGE_PANEL_ROWS rows over groups of IMAGE_GROUP_COLS columns; rows and
     * columns that are missing have the value 0. A panel is, for each group in turn,
     *   scales  bf16 [IMAGE_PANEL_ROWS]
     *   codes   [words, IMAGE_PANEL_ROWS] of 4 bytes: what one row has of some columns
     * and a value is scale * (code - offset).
     * IMAGE_INT8: offset 128; a word is 4 columns, a byte each.
     * IMAGE_INT4: offset 8; a word is 8 columns: the low halves of its bytes are the first 4, the
     * high halves the other 4.
     */
    IMAGE_INT8 = 3,
    IMAGE_INT4 = 4,
    /* Of adapters in int8: signed bytes, in rows (lora_A), and in panels of IMAGE_PANEL_ROWS rows
     * with, for each column in turn, the byte of each row (lora_B). What a rank's bytes are worth
     * is its TENSOR_LORA_SCALES. */
    IMAGE_CODES = 5,
    IMAGE_CODE_PANELS = 6,
    IMAGE_DTYPE_COUNT,
};

/* How matrices are kept in the words of people (`--quant`): what packers are asked for. Here in
 * full, because daemon and CLI link nothing that knows weights. */
#define IMAGE_QUANT_WORDS "bf16, int8, int4 or f32"

static inline const char *image_quant_name(uint32_t dtype)
{
    static const char *const words[IMAGE_DTYPE_COUNT] = {
        [IMAGE_F32] = "f32", [IMAGE_BF16] = "bf16", [IMAGE_INT8] = "int8", [IMAGE_INT4] = "int4"};
    return dtype < IMAGE_DTYPE_COUNT ? words[dtype] : NULL; /* NULL too: not asked for by name */
}

static inline bool image_quant_parse(const char *word, uint32_t *ret_dtype)
{
    for (uint32_t dtype = 0; dtype < IMAGE_DTYPE_COUNT; dtype++) {
        const char *name = image_quant_name(dtype);
        if (name == NULL || strcmp(word, name) != 0)
            continue;
        *ret_dtype = dtype;
        return true;
    }
    return false;
}

/* How an adapter is kept: unless asked otherwise in bf16, on a backbone in f32 in f32. */
#define IMAGE_ADAPTER_QUANT_WORDS "bf16, int8 or f32"

static inline uint32_t image_adapter_quant(uint32_t backbone_dtype)
{
    return backbone_dtype == IMAGE_F32 ? IMAGE_F32 : IMAGE_BF16;
}

static inline bool image_adapter_quant_parse(const char *word, uint32_t *ret_dtype)
{
    return image_quant_parse(word, ret_dtype) && *ret_dtype != IMAGE_INT4;
}

static inline bool image_is_codes(uint32_t dtype)
{
    return dtype == IMAGE_CODES || dtype == IMAGE_CODE_PANELS;
}

#define IMAGE_PANEL_ROWS 32u
#define IMAGE_GROUP_COLS 64u
#define IMAGE_INT8_OFFSET 128u
#define IMAGE_INT4_OFFSET 8u

/* Where the value of a row and column stands in panels of `cols` columns, in values. */
static inline uint64_t image_panel_index(uint32_t cols, uint32_t row, uint32_t col)
{
    uint64_t pair = (uint64_t)(row / IMAGE_PANEL_ROWS) * ((cols + 1) / 2) + col / 2;
    return (pair * IMAGE_PANEL_ROWS + row % IMAGE_PANEL_ROWS) * 2 + col % 2;
}

/* What a tensor is in the forward pass; the layer says where. */
enum tensor_role {
    TENSOR_EMBED = 0, /* [vocab, hidden] */
    TENSOR_OUT_NORM,  /* [hidden], always f32 */
    TENSOR_HEAD,      /* [vocab, hidden]; absent when tied */
    TENSOR_ATTN_NORM, /* [hidden], f32 */
    TENSOR_Q,         /* [heads * head_dim, hidden] */
    TENSOR_K,         /* [kv_heads * head_dim, hidden] */
    TENSOR_V,
    TENSOR_O,      /* [hidden, heads * head_dim] */
    TENSOR_Q_BIAS, /* [rows of Q], f32, like every bias */
    TENSOR_K_BIAS,
    TENSOR_V_BIAS,
    TENSOR_O_BIAS,
    TENSOR_Q_NORM,         /* [head_dim], f32 */
    TENSOR_K_NORM,         /* [head_dim], f32 */
    TENSOR_MLP_NORM,       /* [hidden], f32 */
    TENSOR_POST_ATTN_NORM, /* [hidden], f32; of what attention adds to the residual (Gemma) */
    TENSOR_POST_MLP_NORM,
    TENSOR_GATE, /* [ffn, hidden] */
    TENSOR_UP,   /* [ffn, hidden] */
    TENSOR_DOWN, /* [hidden, ffn] */
    TENSOR_GATE_BIAS,
    TENSOR_UP_BIAS,
    TENSOR_DOWN_BIAS,
    TENSOR_ROLE_COUNT,
};

enum tensor_part {
    TENSOR_WHOLE = 0,
    TENSOR_LORA_A = 1,      /* [rank, inputs], adapters only */
    TENSOR_LORA_B = 2,      /* [outputs, rank] */
    TENSOR_DORA = 3,        /* [outputs], f32: magnitude / norm of the adapted row */
    TENSOR_LORA_SCALES = 4, /* [rank], f32: of codes of A times codes of B, where they are codes */
    TENSOR_PART_COUNT,
};

struct image_tensor {
    uint16_t role;  /* enum tensor_role */
    uint16_t part;  /* enum tensor_part */
    uint16_t layer; /* 0 where the role is not part of a layer */
    uint16_t dtype; /* enum image_dtype */
    uint32_t rows;
    uint32_t cols;   /* row-major, rows packed without padding; 1-dimensional: rows = 1 */
    uint64_t offset; /* from the start of the image, aligned to IMAGE_TENSOR_ALIGN */
    uint64_t bytes;  /* image_tensor_bytes() */
};

_Static_assert(sizeof(struct image_header) == 24 + 16 * IMAGE_SECTION_COUNT, "fixed layout");
_Static_assert(sizeof(struct image_tensor) == 32, "fixed layout");

/* A validated image in memory; borrowed from whoever mapped it. */
struct image {
    const uint8_t *base;
    uint64_t bytes;
    const struct image_header *header;
    const struct image_tensor *tensors;
    uint32_t tensor_count;
};

/* Checks magic, version, kind, that every section and tensor lies inside and is aligned, that none
 * overlap and that tensors are in order of their offsets. `bytes` may exceed the image's own size
 * (a mapping padded to its pages); ret->bytes is the image's. */
int image_open(struct image *ret, const void *base, uint64_t bytes, enum image_kind kind,
               struct error *err);

/* The bytes of a section; *ret_bytes may be 0. */
const void *image_section(const struct image *im, enum image_section section, uint64_t *ret_bytes);

size_t image_dtype_bytes(uint32_t dtype); /* of one value; 0: no such dtype, or in groups */
/* Bytes of a panel, 0 for a dtype that has none; of one group of it, likewise. */
uint64_t image_panel_bytes(uint32_t dtype, uint32_t cols);
uint64_t image_group_bytes(uint32_t dtype);
/* Bytes of a tensor; false when that is no number of bytes an image can hold. */
bool image_tensor_bytes(uint32_t rows, uint32_t cols, uint32_t dtype, uint64_t *ret);
const char *image_role_name(uint32_t role); /* "q", "gate", ... as in errors and certificates */
