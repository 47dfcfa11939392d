/* A Hugging Face checkpoint → a backbone image. See pack.h. */
#include "weights/pack.h"

#include "model/jsonfile.h"
#include "model/tokenizer.h"
#include "weights/names.h"
#include "weights/pack_job.h"
#include "weights/pack_text.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG_BYTES_MAX (4u << 20)
#define CHAT_BYTES_MAX (16u << 20)
#define COMPARE_BYTES (64u << 10)

static const char index_name[] = "model.safetensors.index.json";

struct backbone_parts {
    struct model_config config;
    struct buf tokenizer;
    struct buf chat;
    struct buf meta;
    struct source source;
};

static int read_config(const struct pack_file *files, uint32_t file_count, struct model_config *ret,
                       struct error *err)
{
    struct buf config;
    struct buf generation;
    buf_init(&config, CONFIG_BYTES_MAX);
    buf_init(&generation, CONFIG_BYTES_MAX);
    bool found = false;
    int r = pack_read_text(files, file_count, "config.json", &config, &found, err);
    if (r == 0 && !found)
        r = error_set(err, -ENOENT,
                      "no config.json: a backbone is the directory of a Hugging Face checkpoint");
    if (r == 0)
        r = pack_read_text(files, file_count, "generation_config.json", &generation, &found, err);
    if (r == 0)
        r = model_config_parse(config.data, config.len, found ? generation.data : NULL,
                               generation.len, ret, err);
    buf_free(&config);
    buf_free(&generation);
    return r;
}

/* The linear whose bias this role is, as the role of its weight; other roles are themselves. */
static enum tensor_role weight_role(enum tensor_role role)
{
    for (uint32_t i = 0; i < LINEAR_LAYER_COUNT; i++)
        if (backbone_bias_role(i) == role)
            return backbone_linear_role(i);
    return role;
}

/* A role is a part of a module of the checkpoint, mostly the whole of it. */
static int add_tensor(struct pack_job *j, struct backbone_parts *p, enum tensor_role role,
                      uint32_t layer, struct error *err)
{
    struct pack_item item = {.role = role, .part = TENSOR_WHOLE, .layer = layer};
    if (!backbone_shape(&p->config, role, &item.rows, &item.cols))
        return 0;
    uint32_t part = 0;
    const struct names_module *m = names_of_role(&p->config, weight_role(role), &part);
    assert(m != NULL);
    char module[NAMES_BYTES_MAX];
    char name[NAMES_BYTES_MAX + 8];
    names_full(m, layer, module);
    snprintf(name, sizeof name, "%s.%s", module, weight_role(role) == role ? "weight" : "bias");
    item.source = source_tensor(&p->source, name);
    if (item.source == NULL)
        return error_set(err, -EINVAL, "tensor %s, which config.json asks for, is missing", name);
    item.is_looked_up = role == TENSOR_EMBED && !p->config.tied_embeddings;
    if (m->kind == NAMES_NORM)
        item.add = p->config.norm_offset ? 1 : 0;
    if (m->part_count > 1) {
        item.source_rows = names_rows(&p->config, m);
        item.first_row = names_first_row(&p->config, m, part);
    }
    return pack_job_add(j, &item, err);
}

/* In the order in which a forward pass reads them. */
static int add_tensors(struct pack_job *j, struct backbone_parts *p, struct error *err)
{
    int r = add_tensor(j, p, TENSOR_EMBED, 0, err);
    for (uint32_t layer = 0; layer < p->config.layer_count; layer++)
        for (uint32_t role = 0; r == 0 && role < TENSOR_ROLE_COUNT; role++)
            if (backbone_role_in_layer(role))
                r = add_tensor(j, p, role, layer, err);
    if (r == 0)
        r = add_tensor(j, p, TENSOR_OUT_NORM, 0, err);
    if (r == 0)
        r = add_tensor(j, p, TENSOR_HEAD, 0, err);
    return r;
}

/* A tied head may be in the file a second time; then it must be the same one. */
static int check_tied_head(struct backbone_parts *p, struct error *err)
{
    struct source_tensor *head = source_tensor(&p->source, "lm_head.weight");
    const struct source_tensor *embed = source_tensor(&p->source, "model.embed_tokens.weight");
    if (!p->config.tied_embeddings || head == NULL)
        return 0;
    assert(embed != NULL); /* it was added */
    head->used = true;
    bool same =
        head->tensor->dtype == embed->tensor->dtype && head->tensor->bytes == embed->tensor->bytes;
    char *a = malloc(2 * COMPARE_BYTES);
    int r = a != NULL ? 0 : error_set(err, -ENOMEM, "out of memory");
    for (uint64_t at = 0; same && r == 0 && at < head->tensor->bytes; at += COMPARE_BYTES) {
        uint64_t left = head->tensor->bytes - at;
        size_t n = left < COMPARE_BYTES ? (size_t)left : COMPARE_BYTES;
        r = source_read(head->file, head->tensor->offset + at, a, n, err);
        if (r == 0)
            r = source_read(embed->file, embed->tensor->offset + at, a + COMPARE_BYTES, n, err);
        same = r < 0 || memcmp(a, a + COMPARE_BYTES, n) == 0;
    }
    free(a);
    if (r == 0 && !same)
        r = error_set(err, -EINVAL,
                      "\"tie_word_embeddings\" is true, but lm_head.weight differs from "
                      "model.embed_tokens.weight: set it to false, or remove lm_head.weight");
    return r;
}

static bool is_ignored(const char *name)
{
    /* Older checkpoints store what follows from rope_theta. */
    static const char tail[] = ".rotary_emb.inv_freq";
    size_t len = strlen(name);
    return len >= sizeof tail - 1 && strcmp(name + len - (sizeof tail - 1), tail) == 0;
}

static int describe(const struct pack_job *j, struct backbone_parts *p, struct error *err)
{
    static const char *const ropes[MODEL_ROPE_KIND_COUNT] = {"plain", "llama3", "linear",
                                                             "longrope"};
    const struct model_config *c = &p->config;
    int r = buf_printf(
        &p->meta,
        "{\"kind\":\"backbone\",\"family\":\"%s\",\"dtype\":\"%s\",\"parameters\":%llu,"
        "\"tensors\":%u,\"layers\":%u,\"hidden\":%u,\"heads\":%u,\"kv_heads\":%u,\"head_dim\":%u,"
        "\"ffn\":%u,\"vocab\":%u,\"context\":%u,\"sliding_window\":%u,\"rope\":\"%s\","
        "\"rope_theta\":%.9g,\"tied_embeddings\":%s,\"tokenizer_bytes\":%zu,\"chat_template\":%s}",
        model_family_name(c->family), image_quant_name(j->options->dtype),
        (unsigned long long)j->parameter_count, j->writer.tensor_count, c->layer_count, c->hidden,
        c->head_count, c->kv_head_count, c->head_dim, c->ffn, c->vocab_count, c->context_max,
        c->sliding_window, ropes[c->ropes[MODEL_LAYER_FULL].kind],
        (double)c->ropes[MODEL_LAYER_FULL].theta, c->tied_embeddings ? "true" : "false",
        p->tokenizer.len, p->chat.data[0] != '\0' ? "true" : "false");
    return r < 0 ? error_set(err, r, "out of memory") : 0;
}

static int open_source(const struct pack_file *files, uint32_t file_count, struct source *ret,
                       struct error *err)
{
    int r = source_open(ret, files, file_count, "model.safetensors", index_name, err);
    if (r != -ENOENT || source_find(files, file_count, index_name) != NULL)
        return r;
    bool pickle = source_find(files, file_count, "pytorch_model.bin") != NULL ||
                  source_find(files, file_count, "pytorch_model.bin.index.json") != NULL;
    return error_set(err, -ENOENT, "no model.safetensors and no %s%s", index_name,
                     pickle ? ": pytorch_model.bin is a Python program rather than data, save the "
                              "model again with safe_serialization=True"
                            : "");
}

static int pack(struct pack_job *j, struct backbone_parts *p, const struct pack_file *files,
                uint32_t file_count, struct pack_result *ret, struct error *err)
{
    int r = read_config(files, file_count, &p->config, err);
    if (r == 0)
        r = open_source(files, file_count, &p->source, err);
    if (r == 0)
        r = add_tensors(j, p, err);
    if (r == 0)
        r = check_tied_head(p, err);
    if (r == 0)
        r = pack_check_unused(
            &p->source, is_ignored,
            " that this architecture does not have, so the model would be computed "
            "wrongly",
            err);
    if (r == 0)
        r = pack_tokenizer(files, file_count, p->config.vocab_count, &p->tokenizer, err);
    if (r == 0)
        r = pack_chat(files, file_count, &p->chat, err);
    if (r == 0)
        r = describe(j, p, err);
    if (r < 0)
        return r;
    image_writer_section(&j->writer, IMAGE_CONFIG, &p->config, sizeof p->config);
    image_writer_section(&j->writer, IMAGE_TOKENIZER, p->tokenizer.data, p->tokenizer.len);
    image_writer_section(&j->writer, IMAGE_CHAT, p->chat.data, p->chat.len);
    image_writer_section(&j->writer, IMAGE_META, p->meta.data, p->meta.len);
    return pack_job_run(j, ret, err);
}

int pack_backbone(const struct pack_file *files, uint32_t file_count,
                  const struct pack_options *options, int out_fd, struct pack_result *ret,
                  struct error *err)
{
    struct backbone_parts p = {0};
    struct pack_job j;
    struct pack_result result = {0};
    pack_job_init(&j, options, "packing the backbone", out_fd, IMAGE_BACKBONE);
    buf_init(&p.tokenizer, TOKENIZER_BLOB_BYTES_MAX);
    buf_init(&p.chat, CHAT_BYTES_MAX);
    buf_init(&p.meta, PACK_META_BYTES_MAX);
    int r = pack(&j, &p, files, file_count, &result, err);
    if (r == 0) {
        result.meta = p.meta;
        *ret = result;
    } else {
        buf_free(&p.meta);
    }
    buf_free(&p.tokenizer);
    buf_free(&p.chat);
    source_close(&p.source);
    pack_job_free(&j);
    return r;
}
