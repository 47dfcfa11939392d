/* See source.h. */
#include "weights/source.h"

#include "model/jsonfile.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define INDEX_BYTES_MAX (16u << 20)

static const struct jsonfile_limits index_limits = {
    .bytes_max = INDEX_BYTES_MAX, .depth_max = 8, .values_max = 4 * SAFETENSORS_TENSORS_MAX};

const struct pack_file *source_find(const struct pack_file *files, uint32_t file_count,
                                    const char *name)
{
    for (uint32_t i = 0; i < file_count; i++)
        if (strcmp(files[i].name, name) == 0)
            return &files[i];
    return NULL;
}

int source_read(const struct pack_file *f, uint64_t offset, void *to, size_t len, struct error *err)
{
    size_t done = 0;
    while (done < len) {
        ssize_t n = pread(f->fd, (char *)to + done, len - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_set(err, -errno, "cannot read %s: %s", f->name, strerror(errno));
        if (n == 0)
            return error_set(err, -EIO, "%s became shorter while it was read", f->name);
        done += (size_t)n;
    }
    return 0;
}

static int file_bytes(const struct pack_file *f, uint64_t *ret, struct error *err)
{
    struct stat st;
    if (fstat(f->fd, &st) < 0)
        return error_set(err, -errno, "cannot read %s: %s", f->name, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return error_set(err, -EINVAL, "%s is no regular file", f->name);
    *ret = (uint64_t)st.st_size;
    return 0;
}

int source_read_all(const struct pack_file *f, struct buf *ret, struct error *err)
{
    uint64_t bytes = 0;
    int r = file_bytes(f, &bytes, err);
    if (r < 0)
        return r;
    assert(ret->len == 0);
    if (bytes > ret->max_bytes)
        return error_set(err, -E2BIG, "%s has %llu bytes, the limit is %zu", f->name,
                         (unsigned long long)bytes, ret->max_bytes);
    r = buf_reserve(ret, bytes);
    if (r < 0)
        return error_set(err, r, "out of memory for %s", f->name);
    r = source_read(f, 0, ret->data, bytes, err);
    if (r < 0)
        return r;
    ret->len = bytes;
    ret->data[bytes] = '\0';
    return 0;
}

static int open_shard(struct source *s, const struct pack_file *f, struct error *err)
{
    uint64_t bytes = 0;
    uint64_t head_bytes = 0;
    uint8_t length[8];
    int r = file_bytes(f, &bytes, err);
    if (r < 0)
        return r;
    if (bytes < sizeof length)
        return error_set(err, -EINVAL, "%s: truncated: only %llu bytes", f->name,
                         (unsigned long long)bytes);
    r = source_read(f, 0, length, sizeof length, err);
    if (r < 0)
        return r;
    r = safetensors_head_bytes(length, sizeof length, bytes, &head_bytes, err);
    if (r < 0) {
        error_prefix(err, "%s", f->name);
        return r;
    }
    char *head = malloc(head_bytes);
    if (head == NULL)
        return error_set(err, -ENOMEM, "out of memory for the header of %s", f->name);
    r = source_read(f, 0, head, head_bytes, err);
    if (r == 0) {
        r = safetensors_parse(head, head_bytes, bytes, &s->shards[s->shard_count], err);
        if (r == 0)
            s->shard_count++;
        else
            error_prefix(err, "%s", f->name);
    }
    free(head);
    return r;
}

static int by_name(const void *a, const void *b)
{
    const struct source_tensor *x = a;
    const struct source_tensor *y = b;
    return strcmp(x->tensor->name, y->tensor->name);
}

/* One sorted table over all shards. shard_files[i] is the file of shard i. */
static int make_table(struct source *s, const struct pack_file *const *shard_files,
                      struct error *err)
{
    size_t count = 0;
    for (uint32_t i = 0; i < s->shard_count; i++)
        count += s->shards[i].tensor_count;
    if (count > SAFETENSORS_TENSORS_MAX)
        return error_set(err, -E2BIG, "%zu tensors, the limit is %u", count,
                         SAFETENSORS_TENSORS_MAX);
    s->tensors = calloc(count + 1, sizeof *s->tensors);
    if (s->tensors == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    for (uint32_t i = 0; i < s->shard_count; i++)
        for (uint32_t k = 0; k < s->shards[i].tensor_count; k++)
            s->tensors[s->tensor_count++] =
                (struct source_tensor){shard_files[i], &s->shards[i].tensors[k], false};
    qsort(s->tensors, s->tensor_count, sizeof *s->tensors, by_name);
    for (uint32_t i = 1; i < s->tensor_count; i++) {
        const struct source_tensor *t = &s->tensors[i];
        char shown[JSONFILE_SHOW_BYTES];
        if (strcmp(t[-1].tensor->name, t->tensor->name) == 0)
            return error_set(
                err, -EINVAL, "tensor %s is in both %s and %s",
                jsonfile_printable(t->tensor->name, strlen(t->tensor->name), shown, sizeof shown),
                t[-1].file->name, t->file->name);
    }
    return 0;
}

struct source_tensor *source_tensor(struct source *s, const char *name)
{
    const struct safetensors_tensor key_tensor = {.name = name};
    const struct source_tensor key = {.tensor = &key_tensor};
    if (s->tensor_count == 0)
        return NULL;
    return bsearch(&key, s->tensors, s->tensor_count, sizeof *s->tensors, by_name);
}

/* Fills shard_files with the files that the map names, each once. */
static int find_shards(json_t *map, const struct pack_file *files, uint32_t file_count,
                       const struct pack_file **shard_files, uint32_t *ret_count, struct error *err)
{
    uint32_t count = 0;
    const char *tensor = NULL;
    json_t *value = NULL;
    json_object_foreach(map, tensor, value)
    {
        const char *name = json_string_value(value);
        char shown[JSONFILE_SHOW_BYTES];
        if (name == NULL)
            return error_set(err, -EINVAL, "\"weight_map\" holds %s, a file name is needed",
                             jsonfile_show(value, shown));
        /* Tensors of one shard mostly follow each other, so the last one is tried first. */
        uint32_t i = count;
        while (i > 0 && strcmp(shard_files[i - 1]->name, name) != 0)
            i--;
        if (i > 0)
            continue;
        const struct pack_file *f = source_find(files, file_count, name);
        if (f == NULL)
            return error_set(err, -ENOENT, "the shard %s that it lists is missing",
                             jsonfile_printable(name, strlen(name), shown, sizeof shown));
        if (count == SOURCE_SHARDS_MAX)
            return error_set(err, -E2BIG, "more than %u shards", SOURCE_SHARDS_MAX);
        shard_files[count++] = f;
    }
    if (count == 0)
        return error_set(err, -EINVAL, "no \"weight_map\", or it is empty");
    *ret_count = count;
    return 0;
}

static int check_map(struct source *s, json_t *map, struct error *err)
{
    const char *name = NULL;
    json_t *value = NULL;
    json_object_foreach(map, name, value)
    {
        const struct source_tensor *t = source_tensor(s, name);
        char shown[JSONFILE_SHOW_BYTES];
        if (t == NULL || strcmp(t->file->name, json_string_value(value)) != 0)
            return error_set(err, -EINVAL, "tensor %s is not in %s",
                             jsonfile_printable(name, strlen(name), shown, sizeof shown),
                             json_string_value(value));
    }
    return 0;
}

static int open_files(struct source *s, const struct pack_file *const *shard_files, uint32_t count,
                      struct error *err)
{
    s->shards = calloc(count, sizeof *s->shards);
    if (s->shards == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    for (uint32_t i = 0; i < count; i++) {
        int r = open_shard(s, shard_files[i], err);
        if (r < 0)
            return r;
    }
    return make_table(s, shard_files, err);
}

static int open_index(struct source *s, const struct pack_file *files, uint32_t file_count,
                      const struct pack_file *index, struct error *err)
{
    struct buf text;
    buf_init(&text, INDEX_BYTES_MAX);
    json_t *root = NULL;
    const struct pack_file **shard_files = calloc(SOURCE_SHARDS_MAX, sizeof *shard_files);
    uint32_t count = 0;
    int r = shard_files != NULL ? source_read_all(index, &text, err)
                                : error_set(err, -ENOMEM, "out of memory");
    if (r == 0)
        r = jsonfile_parse(text.data, text.len, &index_limits, &root, err);
    json_t *map = r == 0 ? json_object_get(root, "weight_map") : NULL;
    if (r == 0)
        r = find_shards(map, files, file_count, shard_files, &count, err);
    if (r < 0)
        error_prefix(err, "%s", index->name);
    if (r == 0)
        r = open_files(s, shard_files, count, err);
    if (r == 0) {
        r = check_map(s, map, err);
        if (r < 0)
            error_prefix(err, "%s", index->name);
    }
    json_decref(root);
    buf_free(&text);
    free(shard_files);
    return r;
}

int source_open(struct source *ret, const struct pack_file *files, uint32_t file_count,
                const char *single, const char *index, struct error *err)
{
    struct source s = {0};
    const struct pack_file *f = source_find(files, file_count, single);
    const struct pack_file *list = NULL;
    int r = 0;
    if (f == NULL && index != NULL)
        list = source_find(files, file_count, index);
    if (f != NULL)
        r = open_files(&s, &f, 1, err);
    else if (list != NULL)
        r = open_index(&s, files, file_count, list, err);
    else
        r = error_set(err, -ENOENT, "no %s%s%s", single, index != NULL ? " and no " : "",
                      index != NULL ? index : "");
    if (r < 0) {
        source_close(&s);
        return r;
    }
    *ret = s;
    return 0;
}

void source_close(struct source *s)
{
    for (uint32_t i = 0; i < s->shard_count; i++)
        safetensors_free(&s->shards[i]);
    free(s->shards);
    free(s->tensors);
    *s = (struct source){0};
}
