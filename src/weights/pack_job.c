/* See pack_job.h. */
#include "weights/pack_job.h"

#include "model/jsonfile.h"
#include "weights/convert.h"

#include <assert.h>
#include <errno.h>
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
    free(j->sources);
    j->sources = NULL;
}

static bool has_shape(const struct safetensors_tensor *t, uint32_t rows, uint32_t cols,
                      enum tensor_role role, enum tensor_part part)
{
    if (part == TENSOR_WHOLE && !backbone_role_is_matrix(role))
        return t->dim_count == 1 && t->dims[0] == cols;
    return t->dim_count == 2 && t->dims[0] == rows && t->dims[1] == cols;
}

static int check_source(const struct source_tensor *t, enum tensor_role role, enum tensor_part part,
                        uint32_t rows, uint32_t cols, struct error *err)
{
    if (convert_source_bytes(t->tensor->dtype) == 0)
        return error_set(err, -ENOTSUP,
                         "%s: tensor %s has dtype %s, supported are F32, F16 and BF16",
                         t->file->name, t->tensor->name, t->tensor->dtype_name);
    char shape[SAFETENSORS_SHAPE_BYTES];
    safetensors_shape(t->tensor, shape);
    if (has_shape(t->tensor, rows, cols, role, part))
        return 0;
    if (part == TENSOR_WHOLE && !backbone_role_is_matrix(role))
        return error_set(err, -EINVAL, "%s: tensor %s has shape %s, config.json asks for [%u]",
                         t->file->name, t->tensor->name, shape, cols);
    return error_set(err, -EINVAL, "%s: tensor %s has shape %s, %s [%u, %u]", t->file->name,
                     t->tensor->name, shape,
                     part == TENSOR_WHOLE ? "config.json asks for"
                                          : "this backbone and the adapter's rank ask for",
                     rows, cols);
}

int pack_job_add(struct pack_job *j, struct source_tensor *t, enum tensor_role role,
                 enum tensor_part part, uint32_t layer, uint32_t rows, uint32_t cols,
                 struct error *err)
{
    int r = check_source(t, role, part, rows, cols, err);
    if (r < 0)
        return r;
    uint32_t index = j->writer.tensor_count;
    if (index == j->source_cap) {
        uint32_t cap = j->source_cap == 0 ? 256 : 2 * j->source_cap;
        const struct source_tensor **sources = reallocarray(j->sources, cap, sizeof *sources);
        if (sources == NULL)
            return error_set(err, -ENOMEM, "out of memory");
        j->sources = sources;
        j->source_cap = cap;
    }
    bool is_vector = part == TENSOR_WHOLE && !backbone_role_is_matrix(role);
    r = image_writer_tensor(&j->writer, role, part, layer,
                            is_vector ? IMAGE_F32 : j->options->dtype, rows, cols, err);
    if (r < 0)
        return r;
    j->sources[index] = t;
    j->parameter_count += (uint64_t)rows * cols;
    t->used = true;
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

/* One tensor through the two buffers. */
static int copy_tensor(struct pack_job *j, uint32_t index, void *from, void *to, struct error *err)
{
    const struct source_tensor *t = j->sources[index];
    enum image_dtype dtype = j->writer.tensors[index].dtype;
    size_t from_bytes = convert_source_bytes(t->tensor->dtype);
    uint64_t count = t->tensor->bytes / from_bytes;
    for (uint64_t done = 0; done < count;) {
        size_t n = count - done < BLOCK_VALUES ? (size_t)(count - done) : BLOCK_VALUES;
        int r =
            source_read(t->file, t->tensor->offset + done * from_bytes, from, n * from_bytes, err);
        if (r < 0)
            return r;
        size_t bad = convert_block(to, dtype, from, t->tensor->dtype, n);
        if (bad != CONVERT_ALL)
            return refuse_value(t, from, bad, done, err);
        r = image_writer_write(&j->writer, to, n * image_dtype_bytes(dtype), err);
        if (r < 0)
            return r;
        done += n;
        if (j->options->progress != NULL)
            j->options->progress(j->options->user, j->what, j->writer.offset,
                                 j->writer.header.bytes);
    }
    return 0;
}

int pack_job_run(struct pack_job *j, struct pack_result *ret, struct error *err)
{
    char *block = malloc(2 * BLOCK_VALUES * sizeof(float));
    if (block == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    int r = image_writer_begin(&j->writer, err);
    for (uint32_t i = 0; r == 0 && i < j->writer.tensor_count; i++)
        r = copy_tensor(j, i, block, block + BLOCK_VALUES * sizeof(float), err);
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
