/* See pack_job.h. */
#include "weights/pack_job.h"

#include "model/jsonfile.h"
#include "weights/codes.h"
#include "weights/convert.h"
#include "weights/panel.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_VALUES (64u << 10) /* 256 KiB of f32: source and target stay in the L2 cache */

void pack_job_init(struct pack_job *j, const struct pack_options *o, const char *what, int out_fd,
                   enum image_kind kind)
{
    *j = (struct pack_job){.options = o, .what = what};
    image_writer_init(&j->writer, out_fd, kind);
}

void pack_job_free(struct pack_job *j)
{
    image_writer_free(&j->writer);
    free(j->items);
    j->items = NULL;
}

/* Vectors are always f32: norms, biases, DoRA's scales and those of codes. */
static bool is_vector(const struct pack_item *i)
{
    return i->part == TENSOR_DORA || i->part == TENSOR_LORA_SCALES ||
           (i->part == TENSOR_WHOLE && !backbone_role_is_matrix(i->role));
}

/* A row that is looked up costs no time worth mentioning, so it can be more exact than int4. */
static enum image_dtype dtype_of(const struct pack_job *j, const struct pack_item *i)
{
    enum image_dtype dtype = j->options->dtype;
    if (is_vector(i))
        return IMAGE_F32;
    if (i->scales != NULL)
        return i->part == TENSOR_LORA_B ? IMAGE_CODE_PANELS : IMAGE_CODES;
    if (i->is_looked_up)
        return dtype == IMAGE_INT4 ? IMAGE_INT8 : dtype;
    return dtype == IMAGE_BF16 ? IMAGE_PANELS : dtype;
}

static bool has_shape(const struct safetensors_tensor *t, const struct pack_item *i, uint32_t rows)
{
    if (is_vector(i))
        return t->dim_count == 1 && t->dims[0] == i->cols;
    return t->dim_count == 2 && t->dims[0] == rows && t->dims[1] == i->cols;
}

static int check_source(const struct pack_item *i, struct error *err)
{
    const struct source_tensor *t = i->source;
    uint32_t rows = i->source_rows > 0 ? i->source_rows : i->rows;
    if (convert_source_bytes(t->tensor->dtype) == 0)
        return error_set(err, -ENOTSUP,
                         "%s: tensor %s has dtype %s, supported are F32, F16 and BF16",
                         t->file->name, t->tensor->name, t->tensor->dtype_name);
    if (has_shape(t->tensor, i, rows))
        return 0;
    char shape[SAFETENSORS_SHAPE_BYTES];
    safetensors_shape(t->tensor, shape);
    if (is_vector(i))
        return error_set(err, -EINVAL, "%s: tensor %s has shape %s, config.json asks for [%u]",
                         t->file->name, t->tensor->name, shape, i->cols);
    return error_set(err, -EINVAL, "%s: tensor %s has shape %s, %s [%u, %u]", t->file->name,
                     t->tensor->name, shape,
                     i->part == TENSOR_WHOLE ? "config.json asks for"
                                             : "this backbone and the adapter's rank ask for",
                     rows, i->cols);
}

int pack_job_add(struct pack_job *j, const struct pack_item *item, struct error *err)
{
    int r = item->source != NULL ? check_source(item, err) : 0;
    if (r < 0)
        return r;
    uint32_t index = j->writer.tensor_count;
    if (index == j->item_cap) {
        uint32_t cap = j->item_cap == 0 ? 256 : 2 * j->item_cap;
        struct pack_item *items = reallocarray(j->items, cap, sizeof *items);
        if (items == NULL)
            return error_set(err, -ENOMEM, "out of memory");
        j->items = items;
        j->item_cap = cap;
    }
    r = image_writer_tensor(&j->writer, item->role, item->part, item->layer, dtype_of(j, item),
                            item->rows, item->cols, err);
    if (r < 0)
        return r;
    j->items[index] = *item;
    if (item->part != TENSOR_LORA_SCALES)
        j->parameter_count += (uint64_t)item->rows * item->cols;
    if (item->source != NULL)
        item->source->used = true;
    return 0;
}

static int refuse_value(const struct source_tensor *t, const void *from, size_t index,
                        uint64_t before, struct error *err)
{
    uint32_t bits = 0;
    memcpy(&bits, (const char *)from + index * 4, t->tensor->dtype == SAFETENSORS_F32 ? 4 : 0);
    /* Only an f32 value can be finite here: it is beyond the largest bf16. */
    bool overflow = t->tensor->dtype == SAFETENSORS_F32 && (bits & 0x7f800000u) != 0x7f800000u;
    return error_set(err, -EINVAL, "%s: tensor %s holds %s at index %llu%s", t->file->name,
                     t->tensor->name,
                     overflow ? "a value that bf16 cannot hold" : "a value that is not finite",
                     (unsigned long long)(before + index),
                     overflow ? ": pack it with f32" : ": the checkpoint is damaged");
}

static int refuse_size(const struct pack_item *i, enum image_dtype dtype, uint64_t index,
                       struct error *err)
{
    return error_set(err, -EINVAL,
                     "%s: tensor %s holds a value that %s cannot hold at index %llu: pack it with "
                     "f32",
                     i->source->file->name, i->source->tensor->name, image_quant_name(dtype),
                     (unsigned long long)(index + (uint64_t)i->first_row * i->cols));
}

static int write_block(struct pack_job *j, const void *values, size_t bytes, struct error *err)
{
    int r = image_writer_write(&j->writer, values, bytes, err);
    if (r == 0 && j->options->progress != NULL)
        j->options->progress(j->options->user, j->what, j->writer.offset, j->writer.header.bytes);
    return r;
}

/* `n` values of a tensor's source, from value `first` of the item on, as `dtype`. */
static int load_values(const struct pack_item *item, uint64_t first, size_t n, void *from, void *to,
                       enum image_dtype dtype, struct error *err)
{
    const struct source_tensor *t = item->source;
    size_t from_bytes = convert_source_bytes(t->tensor->dtype);
    first += (uint64_t)item->first_row * item->cols;
    int r = source_read(t->file, t->tensor->offset + first * from_bytes, from, n * from_bytes, err);
    if (r < 0)
        return r;
    size_t bad = convert_block(to, dtype, from, t->tensor->dtype, n);
    if (bad != CONVERT_ALL)
        return refuse_value(t, from, bad, first, err);
    for (size_t i = 0; item->add != 0 && i < n; i++)
        ((float *)to)[i] += item->add;
    return 0;
}

/* One tensor through the two buffers. */
static int copy_rows(struct pack_job *j, uint32_t index, void *from, void *to, struct error *err)
{
    const struct pack_item *item = &j->items[index];
    enum image_dtype dtype = j->writer.tensors[index].dtype;
    uint64_t count = (uint64_t)item->rows * item->cols;
    for (uint64_t done = 0; done < count;) {
        size_t n = count - done < BLOCK_VALUES ? (size_t)(count - done) : BLOCK_VALUES;
        int r = load_values(item, done, n, from, to, dtype, err);
        if (r == 0)
            r = write_block(j, to, n * image_dtype_bytes(dtype), err);
        if (r < 0)
            return r;
        done += n;
    }
    return 0;
}

/* As panel_make, for the rows of an item from `row` on. */
static size_t make_panel(void *panel, const struct pack_item *item, enum image_dtype dtype,
                         const void *rows, uint32_t row, uint32_t row_count)
{
    if (item->scales == NULL)
        return panel_make(panel, dtype, rows, row_count, item->cols);
    if (dtype == IMAGE_CODES)
        codes_of_rows(panel, rows, item->scales + row, row_count, item->cols);
    else
        codes_panel(panel, rows, item->scales, row_count, item->cols);
    return PANEL_ALL;
}

/* One tensor, as many rows at a time as a panel has. */
static int copy_panels(struct pack_job *j, uint32_t index, struct error *err)
{
    const struct pack_item *item = &j->items[index];
    enum image_dtype dtype = j->writer.tensors[index].dtype;
    size_t values = (size_t)IMAGE_PANEL_ROWS * item->cols;
    size_t panel_bytes = dtype == IMAGE_CODES ? values : image_panel_bytes(dtype, item->cols);
    char *from = malloc(values * sizeof(float));
    void *rows = malloc(values * sizeof(float));
    void *panel = malloc(panel_bytes);
    int r = from != NULL && rows != NULL && panel != NULL
                ? 0
                : error_set(err, -ENOMEM, "out of memory");
    for (uint32_t row = 0; r == 0 && row < item->rows; row += IMAGE_PANEL_ROWS) {
        uint32_t left = item->rows - row;
        uint32_t count = left < IMAGE_PANEL_ROWS ? left : IMAGE_PANEL_ROWS;
        uint64_t first = (uint64_t)row * item->cols;
        r = load_values(item, first, (size_t)count * item->cols, from, rows,
                        panel_source_dtype(dtype), err);
        if (r < 0)
            break;
        size_t bad = make_panel(panel, item, dtype, rows, row, count);
        size_t bytes = dtype == IMAGE_CODES ? (size_t)count * item->cols : panel_bytes;
        r = bad == PANEL_ALL ? write_block(j, panel, bytes, err)
                             : refuse_size(item, dtype, first + bad, err);
    }
    free(from);
    free(rows);
    free(panel);
    return r;
}

static int copy_item(struct pack_job *j, uint32_t index, char *block, struct error *err)
{
    if (j->items[index].source == NULL)
        return write_block(j, j->items[index].values, j->writer.tensors[index].bytes, err);
    if (j->items[index].scales != NULL ||
        image_panel_bytes(j->writer.tensors[index].dtype, j->items[index].cols) > 0)
        return copy_panels(j, index, err);
    return copy_rows(j, index, block, block + BLOCK_VALUES * sizeof(float), err);
}

int pack_job_largest(struct source_tensor *t, uint32_t rows, uint32_t cols, bool of_columns,
                     float *ret, struct error *err)
{
    const struct pack_item item = {.source = t, .cols = cols};
    uint64_t count = (uint64_t)rows * cols;
    uint32_t row = 0, col = 0;
    char *block = malloc(2 * BLOCK_VALUES * sizeof(float));
    float *values = (void *)(block + BLOCK_VALUES * sizeof(float));
    int r = block != NULL ? 0 : error_set(err, -ENOMEM, "out of memory");
    memset(ret, 0, (of_columns ? cols : rows) * sizeof *ret);
    for (uint64_t done = 0, n; r == 0 && done < count; done += n) {
        n = count - done < BLOCK_VALUES ? count - done : BLOCK_VALUES;
        r = load_values(&item, done, n, block, values, IMAGE_F32, err);
        for (uint64_t i = 0; r == 0 && i < n; i++) {
            float *largest = &ret[of_columns ? col : row];
            float size = fabsf(values[i]);
            *largest = size > *largest ? size : *largest;
            col = col + 1 < cols ? col + 1 : 0;
            row += col == 0 ? 1 : 0;
        }
    }
    free(block);
    return r;
}

int pack_job_run(struct pack_job *j, struct pack_result *ret, struct error *err)
{
    char *block = malloc(2 * BLOCK_VALUES * sizeof(float));
    if (block == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    int r = image_writer_begin(&j->writer, err);
    for (uint32_t i = 0; r == 0 && i < j->writer.tensor_count; i++)
        r = copy_item(j, i, block, err);
    free(block);
    return r < 0 ? r : image_writer_end(&j->writer, &ret->digest, &ret->bytes, err);
}

#define UNUSED_SHOWN 3

int pack_check_unused(const struct source *s, bool (*is_ignored)(const char *name), const char *why,
                      struct error *err)
{
    struct buf names;
    buf_init(&names, 4 * JSONFILE_SHOW_BYTES);
    uint32_t count = 0;
    for (uint32_t i = 0; i < s->tensor_count; i++) {
        const char *name = s->tensors[i].tensor->name;
        char shown[JSONFILE_SHOW_BYTES];
        if (s->tensors[i].used || (is_ignored != NULL && is_ignored(name)))
            continue;
        /* Names that do not fit are only counted. */
        if (count++ < UNUSED_SHOWN)
            (void)buf_printf(&names, "%s%s", count > 1 ? ", " : "",
                             jsonfile_printable(name, strlen(name), shown, sizeof shown));
    }
    int r = 0;
    if (count > 0)
        r = error_set(err, -ENOTSUP, "%u tensor%s: %s%s", count, why,
                      names.data != NULL ? names.data : "", count > UNUSED_SHOWN ? ", ..." : "");
    buf_free(&names);
    return r;
}

int pack_read_text(const struct pack_file *files, uint32_t file_count, const char *name,
                   struct buf *ret, bool *ret_found, struct error *err)
{
    const struct pack_file *f = source_find(files, file_count, name);
    int r = f != NULL ? source_read_all(f, ret, err) : 0;
    if (r == 0)
        *ret_found = f != NULL;
    return r;
}
