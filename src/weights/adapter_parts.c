/* See adapter_parts.h. The names are those that PEFT 0.21 saves. */
#include "weights/adapter_parts.h"

#include "weights/convert.h"
#include "weights/pack_job.h"
#include "weights/panel.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char prefix[] = "base_model.model.";

/* --- names --- */

static const char name_letters[] =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";

/* Whether `s` is `head`, then nothing or the name that PEFT knows the adapter by, then `tail`. */
static bool is_lora_name(const char *s, const char *head, const char *tail)
{
    size_t len = strlen(s);
    size_t head_bytes = strlen(head);
    size_t tail_bytes = strlen(tail);
    if (len < head_bytes + tail_bytes || strncmp(s, head, head_bytes) != 0 ||
        strcmp(s + len - tail_bytes, tail) != 0)
        return false;
    const char *name = s + head_bytes;
    size_t name_bytes = len - head_bytes - tail_bytes;
    return name_bytes == 0 ||
           (name[0] == '.' && name_bytes > 1 && strspn(name + 1, name_letters) >= name_bytes - 1);
}

/* Where a tensor of a module belongs, by what follows the module's name; NULL: nowhere. */
static struct source_tensor **slot_of(struct adapter_module *m, const char *rest)
{
    bool is_linear = m->name->kind == NAMES_LINEAR;
    bool is_embedding = m->name->kind == NAMES_EMBEDDING;
    if (strcmp(rest, "weight") == 0)
        return &m->whole;
    if (!is_linear && !is_embedding)
        return NULL;
    if (strcmp(rest, "base_layer.weight") == 0)
        return &m->base;
    if (is_lora_name(rest, "lora_magnitude_vector", ""))
        return &m->magnitude;
    if (is_embedding)
        return is_lora_name(rest, "lora_embedding_A", "")   ? &m->a
               : is_lora_name(rest, "lora_embedding_B", "") ? &m->b
                                                            : NULL;
    if (is_lora_name(rest, "lora_A", ".weight"))
        return &m->a;
    if (is_lora_name(rest, "lora_B", ".weight"))
        return &m->b;
    m->bias_in_base_layer = strcmp(rest, "base_layer.bias") == 0;
    return m->bias_in_base_layer || strcmp(rest, "bias") == 0 ? &m->bias : NULL;
}

static int compare_modules(const void *a, const void *b)
{
    const struct adapter_module *x = a;
    const struct adapter_module *y = b;
    if (x->layer != y->layer)
        return x->layer < y->layer ? -1 : 1;
    return x->name < y->name ? -1 : x->name > y->name;
}

static struct adapter_module *find_module(struct adapter_parts *p, const struct names_module *name,
                                          uint32_t layer)
{
    for (uint32_t i = p->module_count; i > 0; i--)
        if (p->modules[i - 1].name == name && p->modules[i - 1].layer == layer)
            return &p->modules[i - 1];
    struct adapter_module *m = &p->modules[p->module_count++];
    *m = (struct adapter_module){.name = name, .layer = layer};
    return m;
}

/* Tensors come sorted by name, so those of one module follow each other closely. */
static int match_tensor(struct adapter_parts *p, struct source_tensor *t,
                        const struct model_config *c, struct error *err)
{
    const char *text = t->tensor->name;
    const char *rest = NULL;
    uint32_t layer = 0;
    if (strncmp(text, prefix, sizeof prefix - 1) != 0)
        return 0;
    const struct names_module *name = names_parse(c, text + sizeof prefix - 1, &layer, &rest);
    if (name == NULL)
        return 0;
    if (layer >= c->layer_count)
        return error_set(err, -EINVAL,
                         "tensor %s is for layer %u, but the backbone has %u layers: the adapter "
                         "was made for another model",
                         text, layer, c->layer_count);
    struct source_tensor **slot = slot_of(find_module(p, name, layer), rest);
    if (slot == NULL)
        return 0;
    if (*slot != NULL)
        return error_set(err, -EINVAL, "%s and %s are for the same matrix", (*slot)->tensor->name,
                         text);
    *slot = t;
    t->used = true;
    return 0;
}

static int match_tensors(struct adapter_parts *p, const struct model_config *c, struct error *err)
{
    for (uint32_t i = 0; i < p->source.tensor_count; i++) {
        int r = match_tensor(p, &p->source.tensors[i], c, err);
        if (r < 0)
            return r;
    }
    qsort(p->modules, p->module_count, sizeof *p->modules, compare_modules);
    return pack_check_unused(
        &p->source, NULL, " that change nothing which this backbone lets an adapter change", err);
}

/* --- what the configuration says of them --- */

static int refuse(const char *name, const char *why, struct error *err)
{
    return error_set(err, -EINVAL, "%s %s", name, why);
}

static int check_bias(const struct adapter_parts *p, const struct adapter_module *m,
                      const char *name, const struct model_config *c, struct error *err)
{
    bool is_target = false;
    int r = peft_is_target(p->peft, name, &is_target, err);
    if (r < 0 || m->bias == NULL)
        return r;
    uint32_t rows = 0;
    uint32_t cols = 0;
    enum tensor_role role = backbone_bias_role(backbone_role_linear(m->name->parts[0]));
    if (m->name->part_count > 1 || role == TENSOR_ROLE_COUNT ||
        !backbone_shape(c, role, &rows, &cols))
        return refuse(name, "has a bias in the adapter, but none in the backbone", err);
    if (m->bias_in_base_layer != is_target)
        return refuse(name,
                      is_target
                          ? "has LoRA and a bias that is not named base_layer.bias: PEFT would "
                            "ignore it"
                          : "has no LoRA, but a bias named base_layer.bias: PEFT would ignore "
                            "it",
                      err);
    bool saved = peft_saves_module(p->peft, name);
    enum peft_bias bias = peft_bias(p->peft);
    if (!saved && (bias == PEFT_BIAS_NONE || (bias == PEFT_BIAS_LORA_ONLY && !is_target)))
        return refuse(name, "has a bias in the adapter, but \"bias\" does not ask for it", err);
    return 0;
}

static int check_whole(const struct adapter_parts *p, const struct adapter_module *m,
                       const char *name, const struct model_config *c, struct error *err)
{
    enum tensor_role role = m->name->parts[0];
    uint32_t rows = 0;
    uint32_t cols = 0;
    if (role != TENSOR_HEAD && !backbone_shape(c, role, &rows, &cols))
        return refuse(name, "is in the adapter, but not in the backbone", err);
    if (peft_saves_module(p->peft, name))
        return 0;
    /* The copy of a tied head that PEFT saves beside the embedding. */
    if (role == TENSOR_HEAD && c->tied_embeddings && peft_ties_weights(p->peft) &&
        peft_saves_module(p->peft, "model.embed_tokens"))
        return 0;
    return refuse(name, "is in the adapter whole, but not in \"modules_to_save\"", err);
}

static int check_lora(const struct adapter_parts *p, struct adapter_module *m, const char *name,
                      struct error *err)
{
    if (m->a == NULL && m->b == NULL) {
        if (m->magnitude != NULL || m->base != NULL)
            return refuse(name, "has no lora_A and lora_B beside its other tensors", err);
        return 0;
    }
    if (m->a == NULL || m->b == NULL)
        return error_set(err, -EINVAL, "%s has lora_%c but no lora_%c", name,
                         m->a != NULL ? 'A' : 'B', m->a != NULL ? 'B' : 'A');
    if (m->whole != NULL)
        return refuse(name, "has LoRA and is saved whole", err);
    if (peft_uses_dora(p->peft) != (m->magnitude != NULL))
        return refuse(name,
                      m->magnitude != NULL
                          ? "has a lora_magnitude_vector, but \"use_dora\" is false"
                          : "has no lora_magnitude_vector, but \"use_dora\" is true",
                      err);
    int r = peft_find_module(p->peft, name, &m->peft, err);
    if (r < 0)
        error_prefix(err, "adapter_config.json");
    return r;
}

static int check_modules(struct adapter_parts *p, const struct model_config *c, struct error *err)
{
    for (uint32_t i = 0; i < p->module_count; i++) {
        struct adapter_module *m = &p->modules[i];
        char name[NAMES_BYTES_MAX];
        names_full(m->name, m->layer, name);
        int r = check_lora(p, m, name, err);
        if (r == 0 && m->whole != NULL)
            r = check_whole(p, m, name, c, err);
        if (r == 0)
            r = check_bias(p, m, name, c, err);
        if (r < 0)
            return r;
    }
    return 0;
}

/* What "modules_to_save" names must be there: PEFT cannot load an adapter that lacks it. */
static int check_saved(struct adapter_parts *p, const struct model_config *c, struct error *err)
{
    for (const struct names_module *n = names_modules(c); n->name != NULL; n++) {
        for (uint32_t layer = 0; layer < (names_in_layer(n) ? c->layer_count : 1); layer++) {
            uint32_t rows = 0;
            uint32_t cols = 0;
            char name[NAMES_BYTES_MAX];
            names_full(n, layer, name);
            if (!peft_saves_module(p->peft, name) ||
                (n->parts[0] != TENSOR_HEAD && !backbone_shape(c, n->parts[0], &rows, &cols)))
                continue;
            const struct adapter_module key = {.name = n, .layer = layer};
            const struct adapter_module *m =
                bsearch(&key, p->modules, p->module_count, sizeof key, compare_modules);
            if (m == NULL || m->whole == NULL)
                return refuse(name, "is in \"modules_to_save\", but not in the adapter", err);
        }
    }
    return 0;
}

/* --- numbers --- */

/* All values of a tensor as f32, to be freed; NULL with *err set. */
static float *load(const struct source_tensor *t, struct error *err)
{
    size_t size = convert_source_bytes(t->tensor->dtype);
    size_t count = size > 0 ? t->tensor->bytes / size : 0;
    void *from = malloc(t->tensor->bytes + 1);
    float *to = malloc(count * sizeof *to + 1);
    int r = from != NULL && to != NULL ? 0 : error_set(err, -ENOMEM, "out of memory");
    if (r == 0 && size == 0)
        r = error_set(err, -ENOTSUP, "tensor %s has dtype %s, supported are F32, F16 and BF16",
                      t->tensor->name, t->tensor->dtype_name);
    if (r == 0)
        r = source_read(t->file, t->tensor->offset, from, t->tensor->bytes, err);
    if (r == 0 && convert_block(to, IMAGE_F32, from, t->tensor->dtype, count) != CONVERT_ALL)
        r = error_set(err, -EINVAL, "tensor %s holds a value that is not finite", t->tensor->name);
    free(from);
    if (r < 0) {
        free(to);
        return NULL;
    }
    return to;
}

static bool has_dims(const struct source_tensor *t, uint32_t count, uint64_t first, uint64_t second)
{
    return t->tensor->dim_count == count && t->tensor->dims[0] == first &&
           (count == 1 || t->tensor->dims[1] == second);
}

static bool is_vocabulary(const struct adapter_module *m)
{
    return m->name->kind == NAMES_EMBEDDING || m->name->parts[0] == TENSOR_HEAD;
}

/* Whether these would be packed to what the backbone has from `row` on: a panel's rows, or what is
 * left of them. rows and panel: space for them. */
static bool are_rows(const struct weight *w, uint32_t row, uint32_t count, const void *from,
                     enum safetensors_dtype from_dtype, void *rows, void *panel)
{
    size_t panel_bytes = image_panel_bytes(w->dtype, w->cols);
    size_t values = (size_t)count * w->cols;
    if (panel_bytes == 0) {
        size_t row_bytes = w->cols * image_dtype_bytes(w->dtype);
        (void)convert_block(rows, w->dtype, from, from_dtype, values);
        return memcmp(rows, (const char *)w->data + row * row_bytes, count * row_bytes) == 0;
    }
    return convert_block(rows, panel_source_dtype(w->dtype), from, from_dtype, values) ==
               CONVERT_ALL &&
           panel_make(panel, w->dtype, rows, count, w->cols) == PANEL_ALL &&
           memcmp(panel, (const char *)w->data + row / IMAGE_PANEL_ROWS * panel_bytes,
                  panel_bytes) == 0;
}

/* PEFT saves an embedding or head that has LoRA along with it, and on loading lets it take the
 * place of the backbone's. Mostly it is the backbone's own. */
static int check_base(struct adapter_module *m, const struct backbone *b, struct error *err)
{
    const struct weight *w = m->name->parts[0] == TENSOR_HEAD ? &b->head : &b->embed;
    const struct safetensors_tensor *t = m->base->tensor;
    size_t size = convert_source_bytes(t->dtype);
    if (!is_vocabulary(m) || !has_dims(m->base, 2, w->rows, w->cols) || size == 0)
        return error_set(err, -ENOTSUP,
                         "%s is not of the backbone's size: the adapter was made for another "
                         "vocabulary",
                         t->name);
    size_t panel_bytes = image_panel_bytes(w->dtype, w->cols);
    size_t values = (size_t)IMAGE_PANEL_ROWS * w->cols;
    char *from = malloc(values * size + 1);
    void *rows = malloc(values * sizeof(float) + 1);
    void *panel = malloc(panel_bytes + 1);
    int r = from != NULL && rows != NULL && panel != NULL
                ? 0
                : error_set(err, -ENOMEM, "out of memory");
    for (uint32_t row = 0; !m->base_differs && r == 0 && row < w->rows; row += IMAGE_PANEL_ROWS) {
        uint32_t count = w->rows - row < IMAGE_PANEL_ROWS ? w->rows - row : IMAGE_PANEL_ROWS;
        uint64_t first = (uint64_t)row * w->cols;
        r = source_read(m->base->file, t->offset + first * size, from,
                        (size_t)count * w->cols * size, err);
        m->base_differs = r == 0 && !are_rows(w, row, count, from, t->dtype, rows, panel);
    }
    free(from);
    free(rows);
    free(panel);
    return r;
}

/* What DoRA's norms are computed from; all owned. */
struct dora_inputs {
    float *a;    /* [rank, inputs] */
    float *b;    /* [outputs, rank] */
    float *base; /* the adapter's own weight, or NULL: the backbone's */
    float *norms;
};

static int load_dora(struct adapter_module *m, uint32_t outputs, struct dora_inputs *ret,
                     struct error *err)
{
    ret->a = load(m->a, err);
    ret->b = ret->a != NULL ? load(m->b, err) : NULL;
    m->dora = ret->b != NULL ? load(m->magnitude, err) : NULL;
    if (m->dora == NULL)
        return -EINVAL;
    if (m->base_differs && (ret->base = load(m->base, err)) == NULL)
        return -EINVAL;
    ret->norms = malloc(outputs * sizeof *ret->norms);
    return ret->norms != NULL ? 0 : error_set(err, -ENOMEM, "out of memory");
}

/* The norms of all parts of a module, one after the other. */
static int compute_norms(const struct adapter_module *m, const struct backbone *b,
                         const struct pack_options *options, const struct dora_inputs *in,
                         struct error *err)
{
    bool is_embedding = m->name->kind == NAMES_EMBEDDING;
    struct backbone view = *b; /* the accessor is for writers too */
    uint32_t first = 0;
    for (uint32_t i = 0; i < m->name->part_count; i++) {
        struct weight w = *backbone_matrix(&view, m->name->parts[i], m->layer);
        if (in->base != NULL)
            w = (struct weight){in->base, IMAGE_F32, w.rows, w.cols};
        int r =
            options->adapted_norms(&w, is_embedding, in->a, in->b + (size_t)first * m->peft.rank,
                                   m->peft.rank, m->peft.scale, in->norms + first, err);
        if (r < 0)
            return r;
        first += is_embedding ? w.cols : w.rows;
    }
    return 0;
}

/* Leaves magnitude / norm in m->dora. */
static int compute_dora(struct adapter_module *m, const struct backbone *b,
                        const struct pack_options *options, struct error *err)
{
    uint32_t outputs = 0;
    uint32_t inputs = 0;
    bool present = adapter_lora_shape(b->config, m->name->parts[0], &outputs, &inputs);
    assert(present);
    if (m->name->part_count > 1)
        outputs = names_rows(b->config, m->name);
    if (!has_dims(m->a, 2, m->peft.rank, inputs) || !has_dims(m->b, 2, outputs, m->peft.rank) ||
        !has_dims(m->magnitude, 1, outputs, 0))
        return error_set(err, -EINVAL,
                         "tensors of %s do not have the shapes [%u, %u], [%u, %u] and [%u]",
                         m->name->name, m->peft.rank, inputs, outputs, m->peft.rank, outputs);
    struct dora_inputs in = {0};
    int r = load_dora(m, outputs, &in, err);
    if (r == 0)
        r = compute_norms(m, b, options, &in, err);
    for (uint32_t i = 0; r == 0 && i < outputs; i++) {
        m->dora[i] /= in.norms[i];
        if (!isfinite(m->dora[i]))
            r = error_set(
                err, -EINVAL,
                "%s: output %u of the adapted matrix is all zero, and DoRA divides by its "
                "norm",
                m->name->name, i);
    }
    free(in.a);
    free(in.b);
    free(in.base);
    free(in.norms);
    return r;
}

static int compute(struct adapter_parts *p, const struct backbone *b,
                   const struct pack_options *options, struct error *err)
{
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < p->module_count; i++) {
        struct adapter_module *m = &p->modules[i];
        if (m->base != NULL)
            r = check_base(m, b, err);
        if (r == 0 && m->magnitude != NULL)
            r = compute_dora(m, b, options, err);
    }
    return r;
}

/* --- open and close --- */

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

static int open_files(struct adapter_parts *p, const struct pack_file *files, uint32_t file_count,
                      struct error *err)
{
    int r = read_peft(files, file_count, &p->peft, err);
    if (r < 0)
        return r;
    if (source_find(files, file_count, ADAPTER_PARTS_FILE) == NULL &&
        source_find(files, file_count, "adapter_model.bin") != NULL)
        return error_set(err, -ENOTSUP,
                         "no %s: adapter_model.bin is a Python program rather than data, save the "
                         "adapter again with a recent PEFT",
                         ADAPTER_PARTS_FILE);
    r = source_open(&p->source, files, file_count, ADAPTER_PARTS_FILE, NULL, err);
    if (r < 0)
        return r;
    p->modules = calloc(p->source.tensor_count + 1, sizeof *p->modules);
    return p->modules != NULL ? 0 : error_set(err, -ENOMEM, "out of memory");
}

int adapter_parts_open(struct adapter_parts *ret, const struct pack_file *files,
                       uint32_t file_count, const struct backbone *b,
                       const struct pack_options *options, struct error *err)
{
    struct adapter_parts p = {0};
    int r = open_files(&p, files, file_count, err);
    if (r == 0) {
        r = match_tensors(&p, b->config, err);
        if (r < 0)
            error_prefix(err, "%s", ADAPTER_PARTS_FILE);
    }
    if (r == 0) {
        r = check_modules(&p, b->config, err);
        if (r == 0)
            r = check_saved(&p, b->config, err);
    }
    if (r == 0)
        r = compute(&p, b, options, err);
    if (r < 0) {
        adapter_parts_close(&p);
        return r;
    }
    *ret = p;
    return 0;
}

void adapter_parts_close(struct adapter_parts *p)
{
    for (uint32_t i = 0; i < p->module_count; i++)
        free(p->modules[i].dora);
    free(p->modules);
    source_close(&p->source);
    peft_free(p->peft);
    *p = (struct adapter_parts){0};
}
