/* A PEFT adapter → an adapter image. See pack.h; what its tensors are is found in adapter_parts.c.
 */
#include "weights/adapter_parts.h"

#include "weights/codes.h"
#include "weights/pack_job.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GROUPS_SHOWN_MAX 192u /* of at most 160 bytes each: they fit PACK_META_BYTES_MAX */

struct packing {
    struct adapter_parts parts;
    void *config; /* struct adapter_config and the scales */
    struct buf meta;
    const struct backbone *backbone;
    const struct pack_options *options; /* as asked for; the job's matrices are bf16 or f32 */
    /* [modules] of those that become codes: scales of A's rows, of B's columns and the products of
     * both, [rank] each; owned. NULL: none do. */
    float **scales;
};

/* The rows of a module's tensor that belong to one of its parts. */
static struct pack_item part_item(const struct packing *p, const struct adapter_module *m,
                                  uint32_t part, struct source_tensor *source,
                                  enum tensor_part what, uint32_t rows, uint32_t cols)
{
    const struct model_config *c = p->backbone->config;
    struct pack_item item = {.source = source,
                             .role = m->name->parts[part],
                             .part = what,
                             .layer = m->layer,
                             .rows = rows,
                             .cols = cols};
    if (m->name->part_count > 1) {
        item.source_rows = names_rows(c, m->name);
        item.first_row = names_first_row(c, m->name, part);
    }
    return item;
}

/* Memory for a module's scales, which items point to before the shapes are known to fit. */
static int begin_codes(struct packing *p, const struct adapter_module *m, float **ret,
                       struct error *err)
{
    *ret = NULL;
    if (p->options->dtype != IMAGE_INT8 || m->name->kind == NAMES_EMBEDDING)
        return 0;
    float **slot = &p->scales[m - p->parts.modules];
    *slot = *ret = calloc(3 * (size_t)m->peft.rank, sizeof **slot);
    return *ret != NULL ? 0 : error_set(err, -ENOMEM, "out of memory");
}

/* The scales of a module whose tensors were found to fit: B's over all its parts, as they share
 * what A makes. */
static int find_scales(float *scales, const struct packing *p, const struct adapter_module *m,
                       struct error *err)
{
    uint32_t rank = m->peft.rank, outputs = 0, inputs = 0;
    float *of_a = scales, *of_b = scales + rank, *products = scales + 2 * (size_t)rank;
    bool present = adapter_lora_shape(p->backbone->config, m->name->parts[0], &outputs, &inputs);
    assert(present);
    if (m->name->part_count > 1)
        outputs = names_rows(p->backbone->config, m->name);
    int r = pack_job_largest(m->a, rank, inputs, false, of_a, err);
    if (r == 0)
        r = pack_job_largest(m->b, outputs, rank, true, of_b, err);
    for (uint32_t i = 0; r == 0 && i < rank; i++) {
        of_a[i] = codes_scale(of_a[i]);
        of_b[i] = codes_scale(of_b[i]);
        products[i] = of_a[i] * of_b[i];
        if (!isfinite(products[i]))
            r = error_set(err, -EINVAL,
                          "%s: tensors %s and %s hold values that int8 cannot hold: pack the "
                          "adapter with bf16",
                          m->a->file->name, m->a->tensor->name, m->b->tensor->name);
    }
    return r;
}

/* A once, B and DoRA's scales for each part. */
static int add_lora(struct pack_job *j, struct packing *p, const struct adapter_module *m,
                    struct error *err)
{
    const struct model_config *c = p->backbone->config;
    uint32_t rank = m->peft.rank;
    float *scales;
    int r = begin_codes(p, m, &scales, err);
    for (uint32_t i = 0; r == 0 && i < m->name->part_count; i++) {
        uint32_t outputs = 0;
        uint32_t inputs = 0;
        bool present = adapter_lora_shape(c, m->name->parts[i], &outputs, &inputs);
        assert(present);
        if (i == 0) {
            const struct pack_item a = {.source = m->a,
                                        .role = m->name->parts[0],
                                        .part = TENSOR_LORA_A,
                                        .layer = m->layer,
                                        .rows = rank,
                                        .cols = inputs,
                                        .scales = scales,
                                        .is_looked_up = true};
            r = pack_job_add(j, &a, err);
        }
        struct pack_item b = part_item(p, m, i, m->b, TENSOR_LORA_B, outputs, rank);
        b.scales = scales != NULL ? scales + rank : NULL;
        if (r == 0)
            r = pack_job_add(j, &b, err);
        if (r == 0 && m->dora != NULL) {
            struct pack_item d = part_item(p, m, i, NULL, TENSOR_DORA, 1, outputs);
            d.values = m->dora + d.first_row;
            r = pack_job_add(j, &d, err);
        }
    }
    if (r < 0 || scales == NULL)
        return r;
    struct pack_item products = part_item(p, m, 0, NULL, TENSOR_LORA_SCALES, 1, rank);
    products.values = scales + 2 * (size_t)rank;
    r = pack_job_add(j, &products, err);
    return r < 0 ? r : find_scales(scales, p, m, err);
}

static int add_whole(struct pack_job *j, const struct packing *p, const struct adapter_module *m,
                     struct error *err)
{
    const struct model_config *c = p->backbone->config;
    for (uint32_t i = 0; i < m->name->part_count; i++) {
        enum tensor_role role = m->name->parts[i];
        uint32_t rows = c->vocab_count; /* of a tied head, which the backbone does not have */
        uint32_t cols = c->hidden;
        bool present = backbone_shape(c, role, &rows, &cols);
        assert(present || role == TENSOR_HEAD);
        struct pack_item item = part_item(p, m, i, m->whole, TENSOR_WHOLE, rows, cols);
        item.add = m->name->kind == NAMES_NORM && c->norm_offset ? 1 : 0;
        int r = pack_job_add(j, &item, err);
        if (r < 0)
            return r;
    }
    return 0;
}

/* The module of the adapter that holds a role outside the layers, or NULL. */
static const struct adapter_module *find_role(const struct packing *p, enum tensor_role role)
{
    for (uint32_t i = 0; i < p->parts.module_count; i++)
        if (p->parts.modules[i].name->parts[0] == role)
            return &p->parts.modules[i];
    return NULL;
}

/* A weight of its own under LoRA; of a tied pair the other one gets it too, for in the checkpoint
 * they are one. */
static int add_base(struct pack_job *j, const struct packing *p, const struct adapter_module *m,
                    struct error *err)
{
    const struct model_config *c = p->backbone->config;
    struct pack_item item = part_item(p, m, 0, m->base, TENSOR_WHOLE, c->vocab_count, c->hidden);
    int r = pack_job_add(j, &item, err);
    item.role = item.role == TENSOR_EMBED ? TENSOR_HEAD : TENSOR_EMBED;
    const struct adapter_module *other = find_role(p, item.role);
    if (r < 0 || !c->tied_embeddings ||
        (other != NULL && (other->whole != NULL || other->base != NULL)))
        return r;
    return pack_job_add(j, &item, err);
}

static int add_bias(struct pack_job *j, const struct packing *p, const struct adapter_module *m,
                    struct error *err)
{
    struct pack_item item = {.source = m->bias, .part = TENSOR_WHOLE, .layer = m->layer};
    item.role = backbone_bias_role(backbone_role_linear(m->name->parts[0]));
    bool present = backbone_shape(p->backbone->config, item.role, &item.rows, &item.cols);
    assert(present); /* adapter_parts_match has seen to it */
    return pack_job_add(j, &item, err);
}

static int add_module(struct pack_job *j, struct packing *p, const struct adapter_module *m,
                      struct error *err)
{
    int r = m->whole != NULL ? add_whole(j, p, m, err) : 0;
    if (r == 0 && m->base_differs)
        r = add_base(j, p, m, err);
    if (r == 0 && m->bias != NULL)
        r = add_bias(j, p, m, err);
    if (r == 0 && m->a != NULL)
        r = add_lora(j, p, m, err);
    return r;
}

static int add_modules(struct pack_job *j, struct packing *p, struct error *err)
{
    p->scales = calloc(p->parts.module_count, sizeof *p->scales);
    if (p->scales == NULL && p->parts.module_count > 0)
        return error_set(err, -ENOMEM, "out of memory");
    for (uint32_t i = 0; i < p->parts.module_count; i++) {
        int r = add_module(j, p, &p->parts.modules[i], err);
        if (r < 0)
            return r;
    }
    if (j->writer.tensor_count == 0)
        return error_set(err, -EINVAL, "%s holds no tensors that change anything",
                         ADAPTER_PARTS_FILE);
    return 0;
}

/* --- description --- */

static bool is_alike(const struct adapter_module *a, const struct adapter_module *b)
{
    return a->name == b->name && (a->a != NULL) == (b->a != NULL) &&
           (a->dora != NULL) == (b->dora != NULL) && (a->whole != NULL) == (b->whole != NULL) &&
           a->base_differs == b->base_differs && (a->bias != NULL) == (b->bias != NULL) &&
           a->peft.rank == b->peft.rank && a->peft.scale == b->peft.scale;
}

/* One entry for modules that are treated alike, and in how many layers it is so; how many such
 * entries there was no room for. */
static int describe_modules(struct packing *p)
{
    const struct adapter_parts *parts = &p->parts;
    uint32_t groups = 0;
    uint32_t left_out = 0;
    for (uint32_t i = 0; i < parts->module_count; i++) {
        const struct adapter_module *m = &parts->modules[i];
        uint32_t before = 0;
        uint32_t same = 0;
        for (uint32_t k = 0; k < parts->module_count; k++) {
            bool alike = is_alike(m, &parts->modules[k]);
            same += alike ? 1 : 0;
            before += alike && k < i ? 1 : 0;
        }
        if (before > 0)
            continue;
        if (groups == GROUPS_SHOWN_MAX) {
            left_out++;
            continue;
        }
        int r =
            buf_printf(&p->meta, "%s{\"module\":\"%s\"", groups++ > 0 ? "," : "", m->name->name);
        if (r == 0 && m->a != NULL)
            r = buf_printf(&p->meta, ",\"rank\":%u,\"scale\":%.9g,\"dora\":%s", m->peft.rank,
                           (double)m->peft.scale, m->dora != NULL ? "true" : "false");
        if (r == 0)
            r = buf_printf(&p->meta, ",\"saved\":%s,\"bias\":%s,\"layers\":%u}",
                           m->whole != NULL || m->base_differs ? "true" : "false",
                           m->bias != NULL ? "true" : "false", names_in_layer(m->name) ? same : 0);
        if (r < 0)
            return r;
    }
    return buf_printf(&p->meta, "],\"modules_left_out\":%u}", left_out);
}

static int describe(const struct pack_job *j, struct packing *p, const struct adapter_config *c,
                    struct error *err)
{
    char backbone[DIGEST_HEX_BYTES];
    digest_hex(&c->backbone, backbone);
    int r = buf_printf(&p->meta,
                       "{\"kind\":\"adapter\",\"backbone\":\"%s\",\"dtype\":\"%s\","
                       "\"parameters\":%llu,\"tensors\":%u,\"matched\":%u,\"unmatched\":0,"
                       "\"rank_max\":%u,\"modules\":[",
                       backbone, image_quant_name(p->options->dtype),
                       (unsigned long long)c->parameter_count, j->writer.tensor_count,
                       p->parts.source.tensor_count, c->rank_max);
    if (r == 0)
        r = describe_modules(p);
    return r < 0 ? error_set(err, r, "the adapter's description is too long") : 0;
}

static void put_scales(const struct packing *p, struct adapter_config *c, float *scales)
{
    uint32_t layer_count = c->layer_count;
    for (uint32_t i = 0; i < p->parts.module_count; i++) {
        const struct adapter_module *m = &p->parts.modules[i];
        if (m->a == NULL)
            continue;
        for (uint32_t k = 0; k < m->name->part_count; k++) {
            enum linear_index l = backbone_role_linear(m->name->parts[k]);
            uint32_t at = m->name->kind == NAMES_EMBEDDING
                              ? adapter_embed_index(layer_count)
                              : adapter_linear_index(layer_count, m->layer, l);
            scales[at] = m->peft.scale;
        }
        c->rank_max = m->peft.rank > c->rank_max ? m->peft.rank : c->rank_max;
    }
}

static int make_config(struct pack_job *j, struct packing *p, const struct digest *backbone,
                       struct error *err)
{
    uint32_t layer_count = p->backbone->config->layer_count;
    size_t bytes = sizeof(struct adapter_config) + adapter_scale_count(layer_count) * sizeof(float);
    struct adapter_config *c = calloc(1, bytes);
    if (c == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    p->config = c;
    c->backbone = *backbone;
    c->layer_count = layer_count;
    c->parameter_count = j->parameter_count;
    put_scales(p, c, (float *)(c + 1));
    image_writer_section(&j->writer, IMAGE_CONFIG, c, bytes);
    int r = describe(j, p, c, err);
    image_writer_section(&j->writer, IMAGE_META, p->meta.data, p->meta.len);
    return r;
}

int pack_adapter(const struct pack_file *files, uint32_t file_count,
                 const struct pack_options *options, const struct backbone *b,
                 const struct digest *backbone_digest, int out_fd, struct pack_result *ret,
                 struct error *err)
{
    struct packing p = {.backbone = b, .options = options};
    struct pack_options others = *options; /* of what does not become codes */
    struct pack_job j;
    struct pack_result result = {0};
    others.dtype = options->dtype == IMAGE_F32 ? IMAGE_F32 : IMAGE_BF16;
    pack_job_init(&j, &others, "packing the adapter", out_fd, IMAGE_ADAPTER);
    buf_init(&p.meta, PACK_META_BYTES_MAX);
    int r = adapter_parts_open(&p.parts, files, file_count, b, options, err);
    if (r == 0)
        r = add_modules(&j, &p, err);
    if (r == 0)
        r = make_config(&j, &p, backbone_digest, err);
    if (r == 0)
        r = pack_job_run(&j, &result, err);
    if (r == 0) {
        result.meta = p.meta;
        *ret = result;
    } else {
        buf_free(&p.meta);
    }
    for (uint32_t i = 0; p.scales != NULL && i < p.parts.module_count; i++)
        free(p.scales[i]);
    free(p.scales);
    adapter_parts_close(&p.parts);
    free(p.config);
    pack_job_free(&j);
    return r;
}
