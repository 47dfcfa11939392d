/* See protobuf.h. */
#include "model/protobuf.h"

#include <errno.h>
#include <string.h>

#define VARINT_BYTES_MAX 10

static int read_varint(struct protobuf *m, uint64_t *ret)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < VARINT_BYTES_MAX && i < m->len; i++) {
        uint8_t byte = (uint8_t)m->p[i];
        value |= (uint64_t)(byte & 0x7f) << (7 * i);
        if (byte & 0x80)
            continue;
        if (i == VARINT_BYTES_MAX - 1 && byte > 1)
            return -EINVAL;
        m->p += i + 1;
        m->len -= i + 1;
        *ret = value;
        return 0;
    }
    return -EINVAL;
}

static int take(struct protobuf *m, uint64_t len, struct protobuf *ret)
{
    if (len > m->len)
        return -EINVAL;
    *ret = (struct protobuf){m->p, (size_t)len};
    m->p += len;
    m->len -= (size_t)len;
    return 0;
}

static int read_fixed(struct protobuf *m, size_t len, uint64_t *ret)
{
    struct protobuf bytes;
    if (take(m, len, &bytes) < 0)
        return -EINVAL;
    *ret = 0;
    memcpy(ret, bytes.p, len); /* little endian, as we are */
    return 0;
}

int protobuf_next(struct protobuf *m, struct protobuf_field *ret)
{
    uint64_t tag, len;
    if (m->len == 0)
        return 0;
    if (read_varint(m, &tag) < 0 || tag >> 3 == 0 || tag >> 3 > UINT32_MAX)
        return -EINVAL;
    struct protobuf_field field = {.number = (uint32_t)(tag >> 3)};
    int r = -EINVAL;
    switch (tag & 7) {
    case 0:
        field.kind = PROTOBUF_NUMBER;
        r = read_varint(m, &field.value);
        break;
    case 1:
        field.kind = PROTOBUF_FIXED64;
        r = read_fixed(m, 8, &field.value);
        break;
    case 2:
        field.kind = PROTOBUF_BYTES;
        r = read_varint(m, &len);
        if (r == 0)
            r = take(m, len, &field.bytes);
        break;
    case 5:
        field.kind = PROTOBUF_FIXED32;
        r = read_fixed(m, 4, &field.value);
        break;
    default:
        break;
    }
    if (r < 0)
        return r;
    *ret = field;
    return 1;
}
