/* See image_writer.h. */
#include "weights/image_writer.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void image_writer_init(struct image_writer *w, int fd, enum image_kind kind)
{
    *w = (struct image_writer){.fd = fd};
    memcpy(w->header.magic, IMAGE_MAGIC, sizeof w->header.magic);
    w->header.version = IMAGE_VERSION;
    w->header.kind = kind;
}

void image_writer_free(struct image_writer *w)
{
    struct digest unused;
    if (w->digest != NULL)
        digest_end(w->digest, &unused);
    free(w->tensors);
    w->digest = NULL;
    w->tensors = NULL;
}

void image_writer_section(struct image_writer *w, enum image_section section, const void *data,
                          uint64_t bytes)
{
    assert(section < IMAGE_SECTION_COUNT);
    assert(section != IMAGE_TENSORS && section != IMAGE_WEIGHTS);
    w->sections[section] = data;
    w->header.sections[section].bytes = bytes;
}

int image_writer_tensor(struct image_writer *w, enum tensor_role role, enum tensor_part part,
                        uint32_t layer, enum image_dtype dtype, uint32_t rows, uint32_t cols,
                        struct error *err)
{
    assert(w->digest == NULL);
    assert(rows > 0 && cols > 0);
    struct image_tensor t = {role, part, (uint16_t)layer, dtype, rows, cols, 0, 0};
    if (!image_tensor_bytes(rows, cols, dtype, &t.bytes))
        return error_set(err, -E2BIG, "%s of layer %u, [%u, %u], is too large",
                         image_role_name(role), layer, rows, cols);
    if (w->tensor_count == IMAGE_TENSORS_MAX)
        return error_set(err, -E2BIG, "more than %u tensors", IMAGE_TENSORS_MAX);
    if (w->tensor_count == w->tensor_cap) {
        uint32_t cap = w->tensor_cap == 0 ? 256 : 2 * w->tensor_cap;
        struct image_tensor *tensors = realloc(w->tensors, cap * sizeof *tensors);
        if (tensors == NULL)
            return error_set(err, -ENOMEM, "out of memory");
        w->tensors = tensors;
        w->tensor_cap = cap;
    }
    w->tensors[w->tensor_count++] = t;
    return 0;
}

static uint64_t align(uint64_t offset, uint64_t to)
{
    return (offset + to - 1) / to * to;
}

/* Writes and hashes. Bytes of the header are hashed where they stand, but written by the end. */
static int put(struct image_writer *w, const void *data, size_t bytes, struct error *err)
{
    digest_update(w->digest, data, bytes);
    size_t done = 0;
    while (done < bytes) {
        ssize_t n =
            pwrite(w->fd, (const char *)data + done, bytes - done, (off_t)(w->offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_set(err, -errno, "cannot write the image of %llu bytes: %s",
                             (unsigned long long)w->header.bytes, strerror(errno));
        done += (size_t)n;
    }
    w->offset += bytes;
    return 0;
}

static int pad_to(struct image_writer *w, uint64_t offset, struct error *err)
{
    static const char zeros[IMAGE_ALIGN];
    assert(offset >= w->offset);
    while (w->offset < offset) {
        uint64_t n = offset - w->offset;
        int r = put(w, zeros, n < sizeof zeros ? n : sizeof zeros, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int lay_out(struct image_writer *w, struct error *err)
{
    struct image_extent *sections = w->header.sections;
    sections[IMAGE_TENSORS].bytes = (uint64_t)w->tensor_count * sizeof *w->tensors;
    uint64_t at = IMAGE_ALIGN;
    for (uint32_t i = 0; i < IMAGE_WEIGHTS; i++) {
        sections[i].offset = at;
        at = align(at + sections[i].bytes, IMAGE_ALIGN);
    }
    sections[IMAGE_WEIGHTS].offset = at;
    for (uint32_t i = 0; i < w->tensor_count; i++) {
        w->tensors[i].offset = align(at, IMAGE_TENSOR_ALIGN);
        at = w->tensors[i].offset + w->tensors[i].bytes;
        if (at > IMAGE_BYTES_MAX)
            return error_set(err, -E2BIG, "the image would be larger than %llu bytes",
                             IMAGE_BYTES_MAX);
    }
    sections[IMAGE_WEIGHTS].bytes = at - sections[IMAGE_WEIGHTS].offset;
    w->header.bytes = at;
    return 0;
}

int image_writer_begin(struct image_writer *w, struct error *err)
{
    _Static_assert(IMAGE_WEIGHTS == IMAGE_SECTION_COUNT - 1, "the weights come last");
    assert(w->tensor_count > 0);
    int r = lay_out(w, err);
    if (r < 0)
        return r;
    w->sections[IMAGE_TENSORS] = w->tensors;
    w->digest = digest_begin();
    if (w->digest == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    digest_update(w->digest, &w->header, sizeof w->header);
    w->offset = sizeof w->header;
    for (uint32_t i = 0; r == 0 && i < IMAGE_WEIGHTS; i++) {
        r = pad_to(w, w->header.sections[i].offset, err);
        if (r == 0)
            r = put(w, w->sections[i], w->header.sections[i].bytes, err);
    }
    w->tensor_left = w->tensors[0].bytes;
    return r;
}

int image_writer_write(struct image_writer *w, const void *data, size_t bytes, struct error *err)
{
    assert(w->tensor_next < w->tensor_count);
    const struct image_tensor *t = &w->tensors[w->tensor_next];
    assert(bytes <= w->tensor_left);
    int r = w->tensor_left == t->bytes ? pad_to(w, t->offset, err) : 0;
    if (r == 0)
        r = put(w, data, bytes, err);
    if (r < 0)
        return r;
    w->tensor_left -= bytes;
    if (w->tensor_left == 0 && ++w->tensor_next < w->tensor_count)
        w->tensor_left = w->tensors[w->tensor_next].bytes;
    return 0;
}

int image_writer_end(struct image_writer *w, struct digest *ret_digest, uint64_t *ret_bytes,
                     struct error *err)
{
    assert(w->tensor_next == w->tensor_count);
    assert(w->offset == w->header.bytes);
    ssize_t n = pwrite(w->fd, &w->header, sizeof w->header, 0);
    if (n != sizeof w->header)
        return error_set(err, n < 0 ? -errno : -EIO, "cannot write the image's header");
    digest_end(w->digest, ret_digest);
    w->digest = NULL;
    *ret_bytes = w->header.bytes;
    return 0;
}
