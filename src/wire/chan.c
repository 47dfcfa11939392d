/* See chan.h. */
#include "wire/chan.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int chan_pair(int ret_fds[2], struct error *err)
{
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ret_fds) < 0)
        return error_set(err, -errno, "cannot make a socket pair: %s", strerror(errno));
    return 0;
}

union control {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(CHAN_FDS_MAX * sizeof(int))];
};

int chan_send(int fd, const void *bytes, size_t len, const int *fds, uint32_t fd_count, int flags)
{
    assert(len > 0);
    assert(len <= CHAN_MESSAGE_BYTES_MAX);
    assert(fd_count <= CHAN_FDS_MAX);
    union control control;
    struct iovec iov = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (fd_count > 0) {
        memset(&control, 0, sizeof control);
        msg.msg_control = control.bytes;
        msg.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
        memcpy(CMSG_DATA(c), fds, fd_count * sizeof(int));
    }
    ssize_t n;
    do {
        n = sendmsg(fd, &msg, flags | MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == ECONNRESET ? -EPIPE : -errno;
    assert((size_t)n == len);
    return 0;
}

static void take_fds(struct msghdr *msg, struct chan_message *m)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        uint32_t count = (uint32_t)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        for (uint32_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
            if (m->fd_count < CHAN_FDS_MAX)
                m->fds[m->fd_count++] = fd;
            else
                close(fd);
        }
    }
}

int chan_receive(int fd, struct chan_message *m, int flags)
{
    assert(m->len == 0);
    assert(m->fd_count == 0);
    union control control;
    struct iovec iov = {.iov_base = m->bytes, .iov_len = sizeof m->bytes};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = sizeof control.bytes};
    ssize_t n;
    do {
        n = recvmsg(fd, &msg, flags | MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == ECONNRESET ? 0 : -errno;
    take_fds(&msg, m);
    if (n == 0) {
        chan_message_clear(m);
        return 0;
    }
    if (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
        chan_message_clear(m);
        return -EBADMSG;
    }
    m->len = (size_t)n;
    return 1;
}

void chan_message_clear(struct chan_message *m)
{
    for (uint32_t i = 0; i < m->fd_count; i++) {
        if (m->fds[i] >= 0)
            close(m->fds[i]);
    }
    m->fd_count = 0;
    m->len = 0;
}
