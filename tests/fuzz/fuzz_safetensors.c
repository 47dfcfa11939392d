/* safetensors headers: what is accepted lies inside the file, in order, without holes. */
#include "weights/safetensors.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct safetensors s;
    struct error err = {0};
    uint64_t at = 0;
    if (safetensors_head_bytes(data, size, size, &at, &err) < 0 ||
        safetensors_parse(data, size, size, &s, &err) < 0)
        return 0;
    for (uint32_t i = 0; i < s.tensor_count; i++) {
        const struct safetensors_tensor *t = &s.tensors[i];
        char shape[SAFETENSORS_SHAPE_BYTES];
        safetensors_shape(t, shape);
        if (t->offset != at || t->bytes > size - at || strlen(t->name) > SAFETENSORS_NAME_BYTES_MAX)
            abort();
        at += t->bytes;
    }
    if (at != size)
        abort();
    safetensors_free(&s);
    return 0;
}
