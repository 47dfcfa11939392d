/* See wire.h. */
#include "wire/wire.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static const size_t fixed_bytes_of[WIRE_TYPE_COUNT] = {
    [WIRE_FILE] = sizeof(struct wire_file),
    [WIRE_PACK] = sizeof(struct wire_pack),
    [WIRE_PROGRESS] = sizeof(struct wire_progress),
    [WIRE_PACKED] = sizeof(struct wire_packed),
    [WIRE_TARGET] = sizeof(struct wire_target),
    [WIRE_LOAD] = sizeof(struct wire_load),
    [WIRE_LOADED] = sizeof(struct wire_loaded),
    [WIRE_PREPARE] = sizeof(struct wire_prepare),
    [WIRE_PREPARED] = sizeof(struct wire_prepared),
    [WIRE_GROUP] = sizeof(struct wire_group),
    [WIRE_FORK] = sizeof(struct wire_fork),
    [WIRE_FORKED] = sizeof(struct wire_forked),
    [WIRE_EXITED] = sizeof(struct wire_exited),
    [WIRE_ATTACH] = sizeof(struct wire_attach),
    [WIRE_READY] = sizeof(struct wire_ready),
    [WIRE_BIND] = sizeof(struct wire_bind),
    [WIRE_BOUND] = sizeof(struct wire_bound),
    [WIRE_UNBIND] = sizeof(struct wire_slot),
    [WIRE_RESIZE] = sizeof(struct wire_resize),
    [WIRE_RESIZED] = sizeof(struct wire_resize),
    [WIRE_SUBMIT] = sizeof(struct wire_submit),
    [WIRE_CANCEL] = sizeof(struct wire_request),
    [WIRE_GRANT] = sizeof(struct wire_grant),
    [WIRE_REVOKE] = sizeof(struct wire_turn),
    [WIRE_ADMITTED] = sizeof(struct wire_admitted),
    [WIRE_TOKENS] = sizeof(struct wire_tokens),
    [WIRE_DONE] = sizeof(struct wire_done),
    [WIRE_TURN_ENDED] = sizeof(struct wire_turn_ended),
    [WIRE_FAILED] = sizeof(struct wire_failed),
};

/* Descriptors that a type may come with; as many as are named in wire.h. */
static const uint8_t fds_max_of[WIRE_TYPE_COUNT] = {
    [WIRE_FILE] = 1,   [WIRE_PACK] = 1,    [WIRE_TARGET] = 1, [WIRE_LOAD] = 1,
    [WIRE_LOADED] = 2, [WIRE_PREPARE] = 1, [WIRE_GROUP] = 1,  [WIRE_FORK] = 1,
    [WIRE_FORKED] = 1, [WIRE_ATTACH] = 2,  [WIRE_BIND] = 1,   [WIRE_SUBMIT] = 1,
};

size_t wire_fixed_bytes(enum wire_type type)
{
    assert(type > 0 && type < WIRE_TYPE_COUNT);
    return fixed_bytes_of[type];
}

static size_t padded(size_t n)
{
    return (n + 7) & ~(size_t)7;
}

bool wire_put_fds(struct wire_out *out, enum wire_type type, const void *fixed, size_t fixed_bytes,
                  const void *tail, size_t tail_bytes, const int *fds, uint32_t fd_count)
{
    assert(fixed_bytes == wire_fixed_bytes(type));
    assert(fd_count <= fds_max_of[type]);
    assert(tail_bytes <= CHAN_MESSAGE_BYTES_MAX);
    size_t body = fixed_bytes + tail_bytes;
    size_t need = sizeof(struct wire_header) + padded(body);
    if (need > sizeof out->bytes - out->len || fd_count > CHAN_FDS_MAX - out->fd_count)
        return false;
    struct wire_header h = {
        .type = (uint16_t)type, .fd_count = (uint16_t)fd_count, .bytes = (uint32_t)body};
    uint8_t *to = out->bytes + out->len;
    memcpy(to, &h, sizeof h);
    memcpy(to + sizeof h, fixed, fixed_bytes);
    if (tail_bytes > 0)
        memcpy(to + sizeof h + fixed_bytes, tail, tail_bytes);
    memset(to + sizeof h + body, 0, padded(body) - body);
    out->len += need;
    for (uint32_t i = 0; i < fd_count; i++)
        out->fds[out->fd_count++] = fds[i];
    return true;
}

bool wire_put(struct wire_out *out, enum wire_type type, const void *fixed, size_t fixed_bytes,
              const void *tail, size_t tail_bytes, int fd)
{
    return wire_put_fds(out, type, fixed, fixed_bytes, tail, tail_bytes, &fd, fd >= 0 ? 1 : 0);
}

void wire_begin(struct wire_cursor *c, struct chan_message *m)
{
    *c = (struct wire_cursor){.message = m};
}

int wire_next(struct wire_cursor *c, struct wire_record *ret)
{
    const struct chan_message *m = c->message;
    if (c->offset == m->len)
        return 0;
    struct wire_header h;
    if (m->len - c->offset < sizeof h)
        return -EBADMSG;
    memcpy(&h, m->bytes + c->offset, sizeof h);
    if (h.type == 0 || h.type >= WIRE_TYPE_COUNT)
        return -EBADMSG;
    size_t room = m->len - c->offset - sizeof h;
    size_t fixed = wire_fixed_bytes(h.type);
    if (h.bytes > room || padded(h.bytes) > room || h.bytes < fixed)
        return -EBADMSG;
    if (h.fd_count > m->fd_count - c->fd_next || h.fd_count > fds_max_of[h.type])
        return -EBADMSG;
    const uint8_t *body = m->bytes + c->offset + sizeof h;
    *ret = (struct wire_record){
        .type = h.type,
        .fixed = body,
        .tail = body + fixed,
        .tail_bytes = h.bytes - fixed,
        .fd_first = c->fd_next,
        .fd_count = h.fd_count,
    };
    c->offset += sizeof h + padded(h.bytes);
    c->fd_next += h.fd_count;
    return 1;
}

int wire_take_fd(struct wire_cursor *c, const struct wire_record *r, uint32_t i)
{
    if (i >= r->fd_count)
        return -1;
    int *slot = &c->message->fds[r->fd_first + i];
    int fd = *slot;
    *slot = -1;
    return fd;
}
