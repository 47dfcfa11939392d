/* See image.h. Every check here is on bytes that this process did not write. */
#include "weights/image.h"

#include <errno.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "images map as they are");

static const char *const role_names[TENSOR_ROLE_COUNT] = {
    [TENSOR_EMBED] = "embed",
    [TENSOR_OUT_NORM] = "out_norm",
    [TENSOR_HEAD] = "head",
    [TENSOR_ATTN_NORM] = "attn_norm",
    [TENSOR_Q] = "q",
    [TENSOR_K] = "k",
    [TENSOR_V] = "v",
    [TENSOR_O] = "o",
    [TENSOR_Q_BIAS] = "q_bias",
    [TENSOR_K_BIAS] = "k_bias",
    [TENSOR_V_BIAS] = "v_bias",
    [TENSOR_O_BIAS] = "o_bias",
    [TENSOR_Q_NORM] = "q_norm",
    [TENSOR_K_NORM] = "k_norm",
    [TENSOR_MLP_NORM] = "mlp_norm",
    [TENSOR_POST_ATTN_NORM] = "post_attn_norm",
    [TENSOR_POST_MLP_NORM] = "post_mlp_norm",
    [TENSOR_GATE] = "gate",
    [TENSOR_UP] = "up",
    [TENSOR_DOWN] = "down",
    [TENSOR_GATE_BIAS] = "gate_bias",
    [TENSOR_UP_BIAS] = "up_bias",
    [TENSOR_DOWN_BIAS] = "down_bias",
};

const char *image_role_name(uint32_t role)
{
    return role < TENSOR_ROLE_COUNT ? role_names[role] : "unknown";
}

size_t image_dtype_bytes(uint32_t dtype)
{
    switch (dtype) {
    case IMAGE_F32:
        return 4;
    case IMAGE_BF16:
    case IMAGE_PANELS:
        return 2;
    case IMAGE_CODES:
    case IMAGE_CODE_PANELS:
        return 1;
    default:
        return 0;
    }
}

static uint64_t round_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}

uint64_t image_group_bytes(uint32_t dtype)
{
    uint64_t scales = IMAGE_PANEL_ROWS * sizeof(uint16_t);
    uint64_t codes = IMAGE_PANEL_ROWS * IMAGE_GROUP_COLS;
    if (dtype == IMAGE_INT8)
        return scales + codes;
    return dtype == IMAGE_INT4 ? scales + codes / 2 : 0;
}

uint64_t image_panel_bytes(uint32_t dtype, uint32_t cols)
{
    if (dtype == IMAGE_PANELS)
        return IMAGE_PANEL_ROWS * round_up(cols, 2) * sizeof(uint16_t);
    if (dtype == IMAGE_CODE_PANELS)
        return (uint64_t)IMAGE_PANEL_ROWS * cols;
    return round_up(cols, IMAGE_GROUP_COLS) / IMAGE_GROUP_COLS * image_group_bytes(dtype);
}

bool image_tensor_bytes(uint32_t rows, uint32_t cols, uint32_t dtype, uint64_t *ret)
{
    uint64_t bytes = 0;
    size_t size = image_dtype_bytes(dtype);
    uint64_t panel_bytes = image_panel_bytes(dtype, cols);
    uint64_t panels = round_up(rows, IMAGE_PANEL_ROWS) / IMAGE_PANEL_ROWS;
    if (size == 0 && panel_bytes == 0)
        return false;
    if (panel_bytes > 0 ? __builtin_mul_overflow(panels, panel_bytes, &bytes)
                        : __builtin_mul_overflow((uint64_t)rows * cols, size, &bytes))
        return false;
    if (bytes > IMAGE_BYTES_MAX)
        return false;
    *ret = bytes;
    return true;
}

static int check_header(const struct image_header *h, uint64_t bytes, enum image_kind kind,
                        struct error *err)
{
    if (memcmp(h->magic, IMAGE_MAGIC, sizeof h->magic) != 0)
        return error_set(err, -EBADMSG, "not an image: the magic number is missing");
    if (h->version != IMAGE_VERSION)
        return error_set(err, -EBADMSG,
                         "image version %u, this program reads version %u: deploy it again",
                         h->version, IMAGE_VERSION);
    if (h->kind != kind)
        return error_set(err, -EBADMSG, "image of kind %u, wanted is kind %u", h->kind, kind);
    if (h->bytes < IMAGE_ALIGN || h->bytes > bytes || h->bytes > IMAGE_BYTES_MAX)
        return error_set(err, -EBADMSG, "image of %llu bytes in a file of %llu: it is truncated",
                         (unsigned long long)h->bytes, (unsigned long long)bytes);
    uint64_t end = IMAGE_ALIGN;
    for (uint32_t i = 0; i < IMAGE_SECTION_COUNT; i++) {
        const struct image_extent *s = &h->sections[i];
        if (s->offset < end || s->offset % IMAGE_ALIGN != 0 || s->offset > h->bytes ||
            s->bytes > h->bytes - s->offset)
            return error_set(err, -EBADMSG, "section %u of the image does not lie inside it", i);
        end = s->offset + s->bytes;
    }
    return 0;
}

static int check_tensors(const struct image *im, struct error *err)
{
    const struct image_extent *weights = &im->header->sections[IMAGE_WEIGHTS];
    uint64_t end = weights->offset;
    for (uint32_t i = 0; i < im->tensor_count; i++) {
        const struct image_tensor *t = &im->tensors[i];
        uint64_t bytes = 0;
        if (t->role >= TENSOR_ROLE_COUNT || t->part >= TENSOR_PART_COUNT ||
            t->layer >= MODEL_LAYERS_MAX || t->rows == 0 || t->cols == 0 ||
            !image_tensor_bytes(t->rows, t->cols, t->dtype, &bytes) || bytes != t->bytes)
            return error_set(err, -EBADMSG, "tensor %u of the image has an impossible description",
                             i);
        if (t->offset < end || t->offset % IMAGE_TENSOR_ALIGN != 0 ||
            t->offset > weights->offset + weights->bytes ||
            t->bytes > weights->offset + weights->bytes - t->offset)
            return error_set(err, -EBADMSG, "tensor %u of the image does not lie in its weights",
                             i);
        end = t->offset + t->bytes;
    }
    return 0;
}

int image_open(struct image *ret, const void *base, uint64_t bytes, enum image_kind kind,
               struct error *err)
{
    struct image im = {.base = base};
    if ((uintptr_t)base % IMAGE_TENSOR_ALIGN != 0)
        return error_set(err, -EINVAL, "an image must be mapped, its address is not aligned");
    if (bytes < IMAGE_ALIGN)
        return error_set(err, -EBADMSG, "not an image: only %llu bytes", (unsigned long long)bytes);
    im.header = base;
    int r = check_header(im.header, bytes, kind, err);
    if (r < 0)
        return r;
    im.bytes = im.header->bytes;
    const struct image_extent *table = &im.header->sections[IMAGE_TENSORS];
    if (table->bytes % sizeof(struct image_tensor) != 0 ||
        table->bytes / sizeof(struct image_tensor) > IMAGE_TENSORS_MAX)
        return error_set(err, -EBADMSG, "the image's tensor table has %llu bytes",
                         (unsigned long long)table->bytes);
    im.tensors = (const void *)(im.base + table->offset);
    im.tensor_count = (uint32_t)(table->bytes / sizeof(struct image_tensor));
    r = check_tensors(&im, err);
    if (r < 0)
        return r;
    *ret = im;
    return 0;
}

const void *image_section(const struct image *im, enum image_section section, uint64_t *ret_bytes)
{
    const struct image_extent *s = &im->header->sections[section];
    *ret_bytes = s->bytes;
    return im->base + s->offset;
}
