/* A PEFT adapter → an adapter image. See pack.h. */
#include "weights/pack.h"

#include "weights/adapter.h"
#include "weights/pack_job.h"
#include "weights/peft.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODULE_NAME_BYTES 64
#define GROUPS_SHOWN_MAX 64u

static const char prefix[] = "base_model.model.";
static const char model_file[] = "adapter_model.safetensors";

static const char *const module_names[ADAPTER_MODULE_COUNT] = {
    [ADAPTER_Q] = "self_attn.q_proj", [ADAPTER_K] = "self_attn.k_proj",
    [ADAPTER_V] = "self_attn.v_proj", [ADAPTER_O] = "self_attn.o_proj",
    [ADAPTER_GATE] = "mlp.gate_proj", [ADAPTER_UP] = "mlp.up_proj",
    [ADAPTER_DOWN] = "mlp.down_proj",
};

/* The tensors of one adapted matrix. */
struct pair {
    struct source_tensor *a;
    struct source_tensor *b;
    struct peft_module module;
};

struct adapter_parts {
    struct peft *peft;
    struct source source;
    struct pair *pairs; /* [layer_count * ADAPTER_MODULE_COUNT] */
    void *config;       /* struct adapter_config and the scales */
    struct buf meta;
    const struct backbone *backbone;
};

/* "model.layers.N." at *s: the number, and *s behind it. */
static bool eat_layer(const char **s, uint32_t *ret)
{
    static const char head[] = "model.layers.";
    if (strncmp(*s, head, sizeof head - 1) != 0)
        return false;
    const char *digits = *s + sizeof head - 1;
    uint32_t layer = 0;
    size_t n = 0;
    while (digits[n] >= '0' && digits[n] <= '9' && n < 6)
        layer = layer * 10 + (uint32_t)(digits[n++] - '0');
    if (n == 0 || digits[n] != '.' || (digits[0] == '0' && n > 1))
        return false;
    *s = digits + n + 1;
    *ret = layer;
    return true;
}

static const char name_letters[] =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";

/* "lora_A.weight", "lora_B.default.weight": the part, or TENSOR_WHOLE when it is neither. */
static enum tensor_part part_of(const char *s)
{
    static const char tail[] = ".weight";
    size_t len = strlen(s);
    if (len < 6 + sizeof tail - 1 || strcmp(s + len - (sizeof tail - 1), tail) != 0)
        return TENSOR_WHOLE;
    /* Between them nothing, or the name of the adapter in PEFT. */
    const char *name = s + 6;
    size_t name_bytes = len - 6 - (sizeof tail - 1);
    if (name_bytes > 0 &&
        (name[0] != '.' || name_bytes == 1 || strspn(name + 1, name_letters) < name_bytes - 1))
        return TENSOR_WHOLE;
    if (strncmp(s, "lora_A", 6) == 0)
        return TENSOR_LORA_A;
    return strncmp(s, "lora_B", 6) == 0 ? TENSOR_LORA_B : TENSOR_WHOLE;
}

struct place {
    uint32_t layer;
    enum adapter_module module;
    enum tensor_part part;
};

static bool parse_name(const char *name, struct place *ret)
{
    if (strncmp(name, prefix, sizeof prefix - 1) != 0)
        return false;
    const char *s = name + sizeof prefix - 1;
    if (!eat_layer(&s, &ret->layer))
        return false;
    for (uint32_t m = 0; m < ADAPTER_MODULE_COUNT; m++) {
        size_t len = strlen(module_names[m]);
        if (strncmp(s, module_names[m], len) != 0 || s[len] != '.')
            continue;
        ret->module = m;
        ret->part = part_of(s + len + 1);
        return ret->part != TENSOR_WHOLE;
    }
    return false;
}

/* Sorts the tensors that fit into pairs, and marks them; pack_check_unused refuses the rest. */
static int match_tensors(struct adapter_parts *p, struct error *err)
{
    uint32_t layer_count = p->backbone->config->layer_count;
    for (uint32_t i = 0; i < p->source.tensor_count; i++) {
        struct source_tensor *t = &p->source.tensors[i];
        struct place place;
        if (!parse_name(t->tensor->name, &place))
            continue;
        if (place.layer >= layer_count)
            return error_set(err, -EINVAL,
                             "tensor %s is for layer %u, but the backbone has %u layers: the "
                             "adapter was made for another model",
                             t->tensor->name, place.layer, layer_count);
        struct pair *pair = &p->pairs[place.layer * ADAPTER_MODULE_COUNT + place.module];
        struct source_tensor **slot = place.part == TENSOR_LORA_A ? &pair->a : &pair->b;
        if (*slot != NULL)
            return error_set(err, -EINVAL, "%s and %s are for the same matrix",
                             (*slot)->tensor->name, t->tensor->name);
        *slot = t;
        t->used = true;
    }
    return pack_check_unused(&p->source, NULL,
                             " that change nothing which this backbone lets an adapter change (the "
                             "q, k, v, o, gate, up and down projections of its layers)",
                             err);
}

static int add_pair(struct pack_job *j, struct adapter_parts *p, uint32_t layer,
                    enum adapter_module m, struct error *err)
{
    struct pair *pair = &p->pairs[layer * ADAPTER_MODULE_COUNT + m];
    if (pair->a == NULL && pair->b == NULL)
        return 0;
    char name[MODULE_NAME_BYTES];
    snprintf(name, sizeof name, "model.layers.%u.%s", layer, module_names[m]);
    if (pair->a == NULL || pair->b == NULL)
        return error_set(err, -EINVAL, "%s has lora_%c but no lora_%c", name,
                         pair->a != NULL ? 'A' : 'B', pair->a != NULL ? 'B' : 'A');
    int r = peft_find_module(p->peft, name, layer, &pair->module, err);
    if (r < 0) {
        error_prefix(err, "adapter_config.json");
        return r;
    }
    uint32_t outputs = 0;
    uint32_t inputs = 0;
    enum tensor_role role = adapter_module_role(m);
    bool present = backbone_shape(p->backbone->config, role, &outputs, &inputs);
    assert(present);
    r = pack_job_add(j, pair->a, role, TENSOR_LORA_A, layer, pair->module.rank, inputs, err);
    if (r == 0)
        r = pack_job_add(j, pair->b, role, TENSOR_LORA_B, layer, outputs, pair->module.rank, err);
    return r;
}

static int add_pairs(struct pack_job *j, struct adapter_parts *p, struct error *err)
{
    for (uint32_t layer = 0; layer < p->backbone->config->layer_count; layer++) {
        for (uint32_t m = 0; m < ADAPTER_MODULE_COUNT; m++) {
            int r = add_pair(j, p, layer, m, err);
            if (r < 0)
                return r;
        }
    }
    if (j->writer.tensor_count == 0)
        return error_set(err, -EINVAL, "%s holds no LoRA tensors", model_file);
    return 0;
}

/* One entry for each module with the same rank and scale, and in how many layers it is so. */
static int describe_modules(struct adapter_parts *p)
{
    uint32_t layer_count = p->backbone->config->layer_count;
    uint32_t groups = 0;
    for (uint32_t m = 0; m < ADAPTER_MODULE_COUNT; m++) {
        for (uint32_t layer = 0; layer < layer_count; layer++) {
            const struct pair *pair = &p->pairs[layer * ADAPTER_MODULE_COUNT + m];
            uint32_t same_before = 0;
            uint32_t same = 0;
            for (uint32_t k = 0; k < layer_count && pair->a != NULL; k++) {
                const struct pair *other = &p->pairs[k * ADAPTER_MODULE_COUNT + m];
                bool is_same = other->a != NULL && other->module.rank == pair->module.rank &&
                               other->module.scale == pair->module.scale;
                same += is_same ? 1 : 0;
                same_before += is_same && k < layer ? 1 : 0;
            }
            if (pair->a == NULL || same_before > 0 || groups == GROUPS_SHOWN_MAX)
                continue;
            int r = buf_printf(&p->meta,
                               "%s{\"module\":\"%s\",\"rank\":%u,\"scale\":%.9g,\"layers\":%u}",
                               groups++ > 0 ? "," : "", image_role_name(adapter_module_role(m)),
                               pair->module.rank, (double)pair->module.scale, same);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

static int describe(const struct pack_job *j, struct adapter_parts *p,
                    const struct adapter_config *c, struct error *err)
{
    char backbone[DIGEST_HEX_BYTES];
    digest_hex(&c->backbone, backbone);
    const char *base = peft_base_model(p->peft);
    size_t base_bytes = strlen(base);
    int r = buf_printf(&p->meta,
                       "{\"kind\":\"adapter\",\"backbone\":\"%s\",\"dtype\":\"%s\","
                       "\"parameters\":%llu,\"tensors\":%u,\"rank_max\":%u,\"base_model\":\"",
                       backbone, j->options->dtype == IMAGE_F32 ? "f32" : "bf16",
                       (unsigned long long)c->parameter_count, j->writer.tensor_count, c->rank_max);
    if (r == 0)
        r = buf_append_json(&p->meta, base, base_bytes < 512 ? base_bytes : 0);
    if (r == 0)
        r = buf_append_str(&p->meta, "\",\"modules\":[");
    if (r == 0)
        r = describe_modules(p);
    if (r == 0)
        r = buf_append_str(&p->meta, "]}");
    return r < 0 ? error_set(err, r, "the adapter's description is too long") : 0;
}

static int make_config(struct pack_job *j, struct adapter_parts *p, const struct digest *backbone,
                       struct error *err)
{
    uint32_t count = p->backbone->config->layer_count * ADAPTER_MODULE_COUNT;
    size_t bytes = sizeof(struct adapter_config) + count * sizeof(float);
    struct adapter_config *c = calloc(1, bytes);
    if (c == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    p->config = c;
    float *scales = (float *)(c + 1);
    c->backbone = *backbone;
    c->layer_count = p->backbone->config->layer_count;
    c->parameter_count = j->parameter_count;
    for (uint32_t i = 0; i < count; i++) {
        scales[i] = p->pairs[i].module.scale;
        if (p->pairs[i].module.rank > c->rank_max)
            c->rank_max = p->pairs[i].module.rank;
    }
    image_writer_section(&j->writer, IMAGE_CONFIG, c, bytes);
    int r = describe(j, p, c, err);
    image_writer_section(&j->writer, IMAGE_META, p->meta.data, p->meta.len);
    return r;
}

static int read_peft(const struct pack_file *files, uint32_t file_count, struct peft **ret,
                     struct error *err)
{
    static const char name[] = "adapter_config.json";
    struct buf text;
    buf_init(&text, PEFT_JSON_BYTES_MAX);
    bool found = false;
    int r = pack_read_text(files, file_count, name, &text, &found, err);
    if (r == 0 && !found)
        r = error_set(err, -ENOENT, "no %s: an adapter is a directory that PEFT saved", name);
    else if (r == 0 && (r = peft_parse(text.data, text.len, ret, err)) < 0)
        error_prefix(err, "%s", name);
    buf_free(&text);
    return r;
}

static int pack(struct pack_job *j, struct adapter_parts *p, const struct pack_file *files,
                uint32_t file_count, const struct digest *backbone, struct pack_result *ret,
                struct error *err)
{
    int r = read_peft(files, file_count, &p->peft, err);
    if (r < 0)
        return r;
    if (source_find(files, file_count, model_file) == NULL &&
        source_find(files, file_count, "adapter_model.bin") != NULL)
        return error_set(err, -ENOTSUP,
                         "no %s: adapter_model.bin is a Python program rather than data, save the "
                         "adapter again with a recent PEFT",
                         model_file);
    p->pairs =
        calloc((size_t)p->backbone->config->layer_count * ADAPTER_MODULE_COUNT, sizeof *p->pairs);
    if (p->pairs == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    r = source_open(&p->source, files, file_count, model_file, NULL, err);
    if (r == 0) {
        r = match_tensors(p, err);
        if (r < 0)
            error_prefix(err, "%s", model_file);
    }
    if (r == 0)
        r = add_pairs(j, p, err);
    if (r == 0)
        r = make_config(j, p, backbone, err);
    return r < 0 ? r : pack_job_run(j, ret, err);
}

int pack_adapter(const struct pack_file *files, uint32_t file_count,
                 const struct pack_options *options, const struct backbone *b,
                 const struct digest *backbone_digest, int out_fd, struct pack_result *ret,
                 struct error *err)
{
    struct adapter_parts p = {.backbone = b};
    struct pack_job j;
    struct pack_result result = {0};
    pack_job_init(&j, options, "packing the adapter", out_fd, IMAGE_ADAPTER);
    buf_init(&p.meta, PACK_META_BYTES_MAX);
    int r = pack(&j, &p, files, file_count, backbone_digest, &result, err);
    if (r == 0) {
        result.meta = p.meta;
        *ret = result;
    } else {
        buf_free(&p.meta);
    }
    source_close(&p.source);
    peft_free(p.peft);
    free(p.pairs);
    free(p.config);
    pack_job_free(&j);
    return r;
}
