/* See synthetic.h. */
#include "gpubench/synthetic.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* --- random weights --- */

struct stream {
    uint64_t state;
};

/* splitmix64 (Steele et al. 2014). */
static uint64_t next(struct stream *s)
{
    uint64_t z = s->state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* The exponent of bf16 whose numbers are about `size`, in place. */
static uint16_t exponent_of(float size)
{
    int exponent;
    frexpf(size, &exponent);
    return (uint16_t)((exponent - 1 + 127) << 7);
}

/* Numbers of either sign from `size`, a power of two, up to twice that: a word of random bits makes
 * four, so that a large model is made in seconds. */
static void fill_bf16(uint16_t *to, uint64_t count, float size, struct stream *s)
{
    const uint64_t exponents = exponent_of(size) * UINT64_C(0x0001000100010001);
    uint64_t i = 0;
    for (; i + 4 <= count; i += 4) {
        uint64_t four = (next(s) & UINT64_C(0x807f807f807f807f)) | exponents;
        memcpy(to + i, &four, sizeof four);
    }
    for (; i < count; i++)
        to[i] = (uint16_t)((next(s) & 0x807f) | exponent_of(size));
}

static void fill_bytes(uint8_t *to, uint64_t count, struct stream *s)
{
    for (uint64_t i = 0; i < count; i += 8) {
        uint64_t eight = next(s);
        memcpy(to + i, &eight, count - i < 8 ? count - i : 8);
    }
}

/* --- one tensor --- */

static uint32_t padded(uint32_t n, uint32_t to)
{
    return (n + to - 1) / to * to;
}

/* What rows and columns lack of whole panels is 0. */
static void clear_padding(uint16_t *panels, uint32_t rows, uint32_t cols)
{
    for (uint32_t r = 0; r < padded(rows, IMAGE_PANEL_ROWS); r++) {
        for (uint32_t c = r < rows ? cols : 0; c < padded(cols, 2); c++)
            panels[image_panel_index(cols, r, c)] = 0;
    }
}

/* Codes of any value, with scales that make them as large as bf16 would be. Rows that are missing
 * have a scale of 0, and so have columns, as their codes say 0. */
static void fill_groups(uint8_t *to, const struct image_tensor *t, float size, struct stream *s)
{
    bool is_int4 = t->dtype == IMAGE_INT4;
    uint32_t groups = padded(t->cols, IMAGE_GROUP_COLS) / IMAGE_GROUP_COLS;
    uint32_t word_cols = is_int4 ? 8 : 4;
    uint64_t group_bytes = image_group_bytes(t->dtype);
    for (uint32_t at = 0; at < padded(t->rows, IMAGE_PANEL_ROWS) / IMAGE_PANEL_ROWS * groups;
         at++) {
        uint16_t *scales = (uint16_t *)(to + at * group_bytes);
        uint8_t *codes = (uint8_t *)(scales + IMAGE_PANEL_ROWS);
        fill_bf16(scales, IMAGE_PANEL_ROWS, size / (is_int4 ? 4 : 64), s);
        fill_bytes(codes, group_bytes - IMAGE_PANEL_ROWS * sizeof(uint16_t), s);
        for (uint32_t r = 0; r < IMAGE_PANEL_ROWS; r++) {
            scales[r] &= 0x7fff;
            if (at / groups * IMAGE_PANEL_ROWS + r >= t->rows)
                scales[r] = 0;
        }
        for (uint32_t c = 0; c < IMAGE_GROUP_COLS; c++) {
            bool is_missing = at % groups * IMAGE_GROUP_COLS + c >= t->cols;
            for (uint32_t r = 0; is_missing && r < IMAGE_PANEL_ROWS; r++) {
                uint8_t *word = codes + (size_t)(c / word_cols * IMAGE_PANEL_ROWS + r) * 4;
                uint8_t *byte = &word[c % 4];
                if (!is_int4)
                    *byte = IMAGE_INT8_OFFSET;
                else if (c % 8 < 4)
                    *byte = (uint8_t)((*byte & 0xf0) | IMAGE_INT4_OFFSET);
                else
                    *byte = (uint8_t)((*byte & 0x0f) | IMAGE_INT4_OFFSET << 4);
            }
        }
    }
}

/* Norms and magnitudes are about 1, biases small. */
static void fill_vector(float *to, const struct image_tensor *t, struct stream *s)
{
    bool is_bias = (t->role >= TENSOR_Q_BIAS && t->role <= TENSOR_O_BIAS) ||
                   (t->role >= TENSOR_GATE_BIAS && t->role <= TENSOR_DOWN_BIAS);
    for (uint64_t i = 0; i < (uint64_t)t->rows * t->cols; i++) {
        float random = (float)(next(s) >> 40) * 0x1p-24f - 0.5f;
        to[i] = t->part == TENSOR_LORA_SCALES ? 0x1p-20f
                : is_bias                     ? random * 0.25f
                                              : 1 + random * 0.25f;
    }
}

/* A product of `cols` such numbers with others of size 1 has a size of about 1; LoRA's B adds a
 * quarter of that. */
static void fill(uint8_t *base, const struct image_tensor *t, struct stream *s)
{
    void *to = base + t->offset;
    float size = t->role == TENSOR_EMBED && t->part == TENSOR_WHOLE
                     ? 0.5f
                     : 1 / sqrtf((float)t->cols) * (t->part == TENSOR_LORA_B ? 0.25f : 1);
    switch (t->dtype) {
    case IMAGE_F32:
        fill_vector(to, t, s);
        break;
    case IMAGE_BF16:
    case IMAGE_PANELS:
        fill_bf16(to, t->bytes / sizeof(uint16_t), size, s);
        if (t->dtype == IMAGE_PANELS)
            clear_padding(to, t->rows, t->cols);
        break;
    case IMAGE_INT8:
    case IMAGE_INT4:
        fill_groups(to, t, size, s);
        break;
    default: /* codes: any bytes; their padding is read by nobody */
        fill_bytes(to, t->bytes, s);
    }
}

/* --- an image --- */

struct plan {
    struct image_tensor *tensors;
    uint32_t count;
};

static void plan_tensor(struct plan *p, uint32_t role, uint32_t part, uint32_t layer,
                        uint32_t dtype, uint32_t rows, uint32_t cols)
{
    p->tensors[p->count++] = (struct image_tensor){.role = (uint16_t)role,
                                                   .part = (uint16_t)part,
                                                   .layer = (uint16_t)layer,
                                                   .dtype = (uint16_t)dtype,
                                                   .rows = rows,
                                                   .cols = cols};
}

static uint64_t align(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}

/* Lays out the sections and the tensors, maps memory for them and writes all but the weights. */
static int write_image(struct plan *p, enum image_kind kind, const void *config,
                       uint64_t config_bytes, void **ret, uint64_t *ret_bytes, struct error *err)
{
    static const char empty[4] = "";
    struct image_header h = {.magic = IMAGE_MAGIC, .version = IMAGE_VERSION, .kind = kind};
    const void *data[IMAGE_SECTION_COUNT] = {config, p->tensors, empty, empty, "{}", NULL};
    uint64_t bytes[IMAGE_SECTION_COUNT] = {
        config_bytes, p->count * sizeof(*p->tensors), 4, 3, 2, 0};
    uint64_t at = IMAGE_ALIGN;
    for (uint32_t i = 0; i < IMAGE_SECTION_COUNT; i++) {
        at = align(at, IMAGE_ALIGN);
        h.sections[i] = (struct image_extent){at, bytes[i]};
        at += bytes[i];
    }
    for (uint32_t i = 0; i < p->count; i++) {
        struct image_tensor *t = &p->tensors[i];
        at = align(at, IMAGE_TENSOR_ALIGN);
        t->offset = at;
        (void)image_tensor_bytes(t->rows, t->cols, t->dtype, &t->bytes);
        at += t->bytes;
    }
    h.sections[IMAGE_WEIGHTS].bytes = at - h.sections[IMAGE_WEIGHTS].offset;
    h.bytes = at;
    uint8_t *base = mmap(NULL, at, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return error_set(err, -ENOMEM, "no memory for an image of %llu bytes",
                         (unsigned long long)at);
    (void)madvise(base, at, MADV_HUGEPAGE); /* a large one is made in half the time then */
    memcpy(base, &h, sizeof h);
    for (uint32_t i = 0; i < IMAGE_WEIGHTS; i++)
        memcpy(base + h.sections[i].offset, data[i], bytes[i]);
    *ret = base;
    *ret_bytes = at;
    return 0;
}

static void fill_all(uint8_t *base, const struct plan *p, uint64_t seed)
{
    for (uint32_t i = 0; i < p->count; i++) {
        struct stream s = {seed * UINT64_C(0x2545f4914f6cdd1d) + i};
        fill(base, &p->tensors[i], &s);
    }
}

static struct digest digest_of_seed(uint64_t seed)
{
    struct digest d = {0};
    memcpy(d.bytes, &seed, sizeof seed);
    return d;
}

int synthetic_backbone_open(struct synthetic_backbone *ret, const struct model_config *c,
                            enum image_dtype dtype, uint64_t seed, struct error *err)
{
    struct synthetic_backbone b = {.digest = digest_of_seed(seed)};
    struct plan p = {.tensors =
                         calloc((size_t)TENSOR_ROLE_COUNT * c->layer_count, sizeof(*p.tensors))};
    if (!p.tensors)
        return error_set(err, -ENOMEM, "no memory for a table of tensors");
    for (uint32_t role = 0; role < TENSOR_ROLE_COUNT; role++) {
        uint32_t rows, cols, layers = backbone_role_in_layer(role) ? c->layer_count : 1;
        bool is_matrix = backbone_role_is_matrix(role);
        bool is_head = role == TENSOR_EMBED || role == TENSOR_HEAD;
        uint32_t form = !is_matrix                       ? IMAGE_F32
                        : is_head && dtype == IMAGE_INT4 ? IMAGE_INT8
                                                         : dtype;
        for (uint32_t layer = 0; layer < layers && backbone_shape(c, role, &rows, &cols); layer++)
            plan_tensor(&p, role, TENSOR_WHOLE, layer, form, rows, cols);
    }
    int r = write_image(&p, IMAGE_BACKBONE, c, sizeof(*c), &b.base, &b.bytes, err);
    if (r == 0) {
        fill_all(b.base, &p, seed);
        r = backbone_open(&b.backbone, b.base, b.bytes, err);
    }
    free(p.tensors);
    if (r < 0 && b.base)
        munmap(b.base, b.bytes);
    if (r == 0)
        *ret = b;
    return r;
}

void synthetic_backbone_close(struct synthetic_backbone *b)
{
    if (!b->base)
        return;
    backbone_close(&b->backbone);
    munmap(b->base, b->bytes);
    *b = (struct synthetic_backbone){0};
}

static void plan_lora(struct plan *p, const struct model_config *c, const struct synthetic_lora *l,
                      uint32_t layer, enum linear_index index, uint64_t *parameters)
{
    uint32_t role = backbone_linear_role(index), outputs = 0, inputs = 0;
    (void)backbone_shape(c, role, &outputs, &inputs);
    plan_tensor(p, role, TENSOR_LORA_A, layer, l->is_int8 ? IMAGE_CODES : IMAGE_BF16, l->rank,
                inputs);
    plan_tensor(p, role, TENSOR_LORA_B, layer, l->is_int8 ? IMAGE_CODE_PANELS : IMAGE_PANELS,
                outputs, l->rank);
    *parameters += (uint64_t)l->rank * (inputs + outputs);
    if (l->is_int8)
        plan_tensor(p, role, TENSOR_LORA_SCALES, layer, IMAGE_F32, 1, l->rank);
    if (l->has_dora) {
        plan_tensor(p, role, TENSOR_DORA, layer, IMAGE_F32, 1, outputs);
        *parameters += outputs;
    }
}

static void plan_norms(struct plan *p, const struct model_config *c, uint32_t layer,
                       uint64_t *parameters)
{
    static const enum tensor_role norms[] = {TENSOR_ATTN_NORM,      TENSOR_MLP_NORM,
                                             TENSOR_POST_ATTN_NORM, TENSOR_POST_MLP_NORM,
                                             TENSOR_Q_NORM,         TENSOR_K_NORM};
    for (size_t i = 0; i < sizeof norms / sizeof norms[0]; i++) {
        uint32_t rows, cols;
        if (!backbone_shape(c, norms[i], &rows, &cols))
            continue;
        plan_tensor(p, norms[i], TENSOR_WHOLE, layer, IMAGE_F32, rows, cols);
        *parameters += cols;
    }
}

int synthetic_adapter_open(struct synthetic_adapter *ret, const struct synthetic_backbone *b,
                           const struct synthetic_lora *l, struct error *err)
{
    const struct model_config *c = b->backbone.config;
    uint32_t scale_count = adapter_scale_count(c->layer_count);
    uint64_t config_bytes = sizeof(struct adapter_config) + scale_count * sizeof(float);
    struct synthetic_adapter a = {.digest = digest_of_seed(l->seed)};
    struct adapter_config *config = calloc(1, config_bytes);
    struct plan p = {.tensors = calloc((size_t)c->layer_count * (4 * LINEAR_LAYER_COUNT + 6),
                                       sizeof(*p.tensors))};
    int r = config && p.tensors ? 0 : error_set(err, -ENOMEM, "no memory for an adapter");
    for (uint32_t layer = 0; r == 0 && layer < c->layer_count; layer++) {
        float *scales = (float *)(config + 1);
        for (uint32_t i = 0; i < LINEAR_LAYER_COUNT; i++) {
            plan_lora(&p, c, l, layer, i, &config->parameter_count);
            scales[adapter_linear_index(c->layer_count, layer, i)] = l->scale;
        }
        if (l->has_own_norms)
            plan_norms(&p, c, layer, &config->parameter_count);
    }
    if (r == 0) {
        config->backbone = b->digest;
        config->layer_count = c->layer_count;
        config->rank_max = l->rank;
        r = write_image(&p, IMAGE_ADAPTER, config, config_bytes, &a.base, &a.bytes, err);
    }
    if (r == 0) {
        fill_all(a.base, &p, l->seed);
        r = adapter_open(&a.adapter, a.base, a.bytes, &b->backbone, &b->digest, err);
    }
    free(config);
    free(p.tensors);
    if (r < 0 && a.base)
        munmap(a.base, a.bytes);
    if (r == 0)
        *ret = a;
    return r;
}

void synthetic_adapter_close(struct synthetic_adapter *a)
{
    if (!a->base)
        return;
    adapter_close(&a->adapter);
    munmap(a->base, a->bytes);
    *a = (struct synthetic_adapter){0};
}
