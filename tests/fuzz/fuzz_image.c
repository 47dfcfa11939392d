/*
 * Images from a hostile hand. The input patches a good backbone image and a good adapter image:
 * two bytes of length to cut off, then entries of four bytes (which image, where, the new byte).
 * Whatever opens must be readable to the last byte that it claims.
 */
#include "tiny_image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint8_t sink;

static void touch(const void *data, uint64_t bytes)
{
    const uint8_t *p = data;
    if (bytes > 0)
        sink = p[0] ^ p[bytes - 1];
}

static void touch_weight(const struct weight *w)
{
    uint64_t bytes = 0;
    if (w->data == NULL)
        return;
    if (!image_tensor_bytes(w->rows, w->cols, w->dtype, &bytes))
        abort();
    touch(w->data, bytes);
}

static void touch_backbone(const struct backbone *b)
{
    touch_weight(&b->embed);
    touch_weight(&b->head);
    touch(b->out_norm, b->config->hidden * sizeof(float));
    touch(b->chat_template, strlen(b->chat_template) + 1);
    touch(b->eos_token, strlen(b->eos_token) + 1);
    touch(b->tokenizer, b->tokenizer_bytes);
    for (uint32_t i = 0; i < b->config->layer_count; i++) {
        const struct backbone_layer *l = &b->layers[i];
        for (uint32_t k = 0; k < LINEAR_LAYER_COUNT; k++) {
            touch_weight(&l->linears[k].weight);
            if (l->linears[k].bias != NULL)
                touch(l->linears[k].bias, l->linears[k].weight.rows * sizeof(float));
        }
        for (uint32_t k = 0; k < NORM_Q; k++)
            if (l->norms[k] != NULL)
                touch(l->norms[k], b->config->hidden * sizeof(float));
    }
}

static void touch_adapter(const struct adapter *a)
{
    for (uint32_t i = 0; i < adapter_scale_count(a->config->layer_count); i++) {
        touch_weight(&a->loras[i].a);
        touch_weight(&a->loras[i].b);
        if (a->loras[i].dora != NULL)
            touch(a->loras[i].dora, a->loras[i].b.rows * sizeof(float));
        if (a->loras[i].rank_scales != NULL)
            touch(a->loras[i].rank_scales, a->loras[i].a.rows * sizeof(float));
    }
    touch_backbone(&a->view);
}

/* The bytes that matter are the header and the beginnings of the sections. */
static uint64_t place_of(const struct tiny_image *t, uint8_t high, uint8_t low)
{
    return (((uint64_t)(high >> 4) * IMAGE_ALIGN) + ((uint64_t)(high & 15) << 8) + low) % t->size;
}

static uint8_t *patched(const struct tiny_image *t, uint8_t which, const uint8_t *data, size_t size,
                        uint64_t *ret_size)
{
    uint64_t cut = size >= 2 ? (uint64_t)data[0] | (uint64_t)data[1] << 8 : 0;
    uint64_t bytes = cut < t->size ? t->size - cut : 1;
    void *copy = NULL;
    if (posix_memalign(&copy, IMAGE_ALIGN, bytes) != 0)
        abort();
    memcpy(copy, t->bytes, bytes);
    for (size_t i = 2; i + 4 <= size; i += 4) {
        uint64_t at = place_of(t, data[i + 1], data[i + 2]);
        if ((data[i] & 1) == which && at < bytes)
            ((uint8_t *)copy)[at] = data[i + 3];
    }
    *ret_size = bytes;
    return copy;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tiny_image backbone;
    static struct tiny_image adapter;
    if (backbone.bytes == NULL) {
        backbone = tiny_backbone();
        adapter = tiny_adapter(&backbone.digest);
    }
    struct backbone good;
    struct backbone b;
    struct adapter a;
    uint64_t bytes = 0;
    uint8_t *image = patched(&backbone, 0, data, size, &bytes);
    if (backbone_open(&b, image, bytes, NULL) == 0) {
        touch_backbone(&b);
        backbone_close(&b);
    }
    free(image);
    if (backbone_open(&good, backbone.bytes, backbone.size, NULL) < 0)
        abort();
    image = patched(&adapter, 1, data, size, &bytes);
    if (adapter_open(&a, image, bytes, &good, &backbone.digest, NULL) == 0) {
        touch_adapter(&a);
        adapter_close(&a);
    }
    free(image);
    backbone_close(&good);
    return 0;
}
