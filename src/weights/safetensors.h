/*
 * The safetensors container: 8 bytes length, a JSON header, tensor bytes. Parsed as a pure function
 * of the header's bytes and the file's size. As strict as the format's specification: tensors
 * neither overlap nor leave holes, every length follows from shape and dtype.
 */
#pragma once

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

#define SAFETENSORS_HEADER_BYTES_MAX (64u << 20)
#define SAFETENSORS_TENSORS_MAX 65536u
#define SAFETENSORS_DIMS_MAX 8u
#define SAFETENSORS_NAME_BYTES_MAX 512u

enum safetensors_dtype {
    SAFETENSORS_F32,
    SAFETENSORS_F16,
    SAFETENSORS_BF16,
    SAFETENSORS_OTHER, /* integers, f8, f64...: known sizes, of no use here */
};

struct safetensors_tensor {
    const char *name; /* owned by the struct safetensors */
    enum safetensors_dtype dtype;
    char dtype_name[12]; /* as the file spells it */
    uint32_t dim_count;  /* 0: a scalar */
    uint64_t dims[SAFETENSORS_DIMS_MAX];
    uint64_t offset; /* from the start of the file */
    uint64_t bytes;
};

struct safetensors {
    struct safetensors_tensor *tensors; /* owned, in order of their offsets */
    uint32_t tensor_count;
    char *names; /* owned */
};

/* How many bytes safetensors_parse needs: the length field and the header. `data` holds the first
 * `size` bytes of the file. */
int safetensors_head_bytes(const void *data, size_t size, uint64_t file_bytes, uint64_t *ret,
                           struct error *err);

/* `data` holds at least the bytes that safetensors_head_bytes asked for; `file_bytes` is the size
 * of the whole file. */
int safetensors_parse(const void *data, size_t size, uint64_t file_bytes, struct safetensors *ret,
                      struct error *err);
void safetensors_free(struct safetensors *s);

/* "[2, 3]" for sentences. */
#define SAFETENSORS_SHAPE_BYTES 192
const char *safetensors_shape(const struct safetensors_tensor *t,
                              char ret[SAFETENSORS_SHAPE_BYTES]);
