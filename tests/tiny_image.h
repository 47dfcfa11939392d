/* The smallest backbone and adapter images that there can be, made by the product's own writer, for
 * tests that damage them. Header-only. */
#pragma once

#include "weights/adapter.h"
#include "weights/image_writer.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct tiny_image {
    uint8_t *bytes; /* page-aligned, private and writable */
    uint64_t size;
    struct digest digest;
};

static const struct model_config tiny_config = {
    .family = MODEL_LLAMA,
    .vocab_count = 4,
    .hidden = 4,
    .layer_count = 1,
    .head_count = 2,
    .kv_head_count = 1,
    .head_dim = 2,
    .rotary_dim = 2,
    .attention_scale = 0.5f,
    .embed_scale = 1,
    .ffn = 3,
    .context_max = 16,
    .ropes = {{.theta = 10000, .factor = 1, .attention_factor = 1},
              {.theta = 10000, .factor = 1, .attention_factor = 1}},
    .norm_eps = 1e-5f,
    .bos_id = UINT32_MAX,
    .qkv_bias = 1,
};

static inline void tiny_check(int r)
{
    if (r < 0)
        abort();
}

static inline struct tiny_image tiny_finish(struct image_writer *w, int fd)
{
    struct tiny_image t;
    tiny_check(image_writer_begin(w, NULL));
    for (uint32_t i = 0; i < w->tensor_count; i++) {
        uint8_t data[256];
        /* The small numbers 0x3e3e... in both dtypes. */
        memset(data, 0x3e, sizeof data);
        if (w->tensors[i].bytes > sizeof data)
            abort();
        tiny_check(image_writer_write(w, data, w->tensors[i].bytes, NULL));
    }
    tiny_check(image_writer_end(w, &t.digest, &t.size, NULL));
    t.bytes = mmap(NULL, t.size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    if (t.bytes == MAP_FAILED)
        abort();
    image_writer_free(w);
    close(fd);
    return t;
}

static inline struct tiny_image tiny_backbone(void)
{
    struct image_writer w;
    int fd = memfd_create("tiny", MFD_CLOEXEC);
    image_writer_init(&w, fd, IMAGE_BACKBONE);
    image_writer_section(&w, IMAGE_CONFIG, &tiny_config, sizeof tiny_config);
    image_writer_section(&w, IMAGE_TOKENIZER, "none", 4);
    image_writer_section(&w, IMAGE_CHAT, "{{ 1 }}\0<s>\0</s>", sizeof "{{ 1 }}\0<s>\0</s>");
    image_writer_section(&w, IMAGE_META, "{}", 2);
    for (uint32_t role = 0; role < TENSOR_ROLE_COUNT; role++) {
        uint32_t rows = 0;
        uint32_t cols = 0;
        if (backbone_shape(&tiny_config, role, &rows, &cols))
            tiny_check(image_writer_tensor(&w, role, TENSOR_WHOLE, 0,
                                           backbone_role_is_matrix(role) ? IMAGE_BF16 : IMAGE_F32,
                                           rows, cols, NULL));
    }
    return tiny_finish(&w, fd);
}

/* Rank 2 on q, down and, in int8, on up. */
static inline struct tiny_image tiny_adapter(const struct digest *backbone)
{
    struct {
        struct adapter_config config;
        float scales[LINEAR_LAYER_COUNT + 2];
    } c = {.config = {*backbone, 1, 2, 2 * (4 + 4) + 2 * (3 + 4) + 2 * (4 + 3)}};
    struct image_writer w;
    int fd = memfd_create("tiny", MFD_CLOEXEC);
    c.scales[LINEAR_Q] = 2;
    c.scales[LINEAR_DOWN] = 0.5f;
    c.scales[LINEAR_UP] = 1;
    image_writer_init(&w, fd, IMAGE_ADAPTER);
    image_writer_section(&w, IMAGE_CONFIG, &c, sizeof c.config + sizeof c.scales);
    image_writer_section(&w, IMAGE_META, "{}", 2);
    tiny_check(image_writer_tensor(&w, TENSOR_Q, TENSOR_LORA_A, 0, IMAGE_BF16, 2, 4, NULL));
    tiny_check(image_writer_tensor(&w, TENSOR_Q, TENSOR_LORA_B, 0, IMAGE_BF16, 4, 2, NULL));
    tiny_check(image_writer_tensor(&w, TENSOR_DOWN, TENSOR_LORA_A, 0, IMAGE_F32, 2, 3, NULL));
    tiny_check(image_writer_tensor(&w, TENSOR_DOWN, TENSOR_LORA_B, 0, IMAGE_F32, 4, 2, NULL));
    tiny_check(image_writer_tensor(&w, TENSOR_UP, TENSOR_LORA_A, 0, IMAGE_CODES, 2, 4, NULL));
    tiny_check(image_writer_tensor(&w, TENSOR_UP, TENSOR_LORA_B, 0, IMAGE_CODE_PANELS, 3, 2, NULL));
    tiny_check(image_writer_tensor(&w, TENSOR_UP, TENSOR_LORA_SCALES, 0, IMAGE_F32, 1, 2, NULL));
    return tiny_finish(&w, fd);
}
