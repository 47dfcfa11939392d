/*
 * A SOCK_SEQPACKET channel between the daemon and one of its processes: whole messages, with file
 * descriptors beside the bytes. A message is a sequence of records (wire.h).
 */
#pragma once

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

#define CHAN_MESSAGE_BYTES_MAX (64u << 10)
#define CHAN_FDS_MAX 16u

struct chan_message {
    _Alignas(8) uint8_t bytes[CHAN_MESSAGE_BYTES_MAX];
    size_t len;
    int fds[CHAN_FDS_MAX]; /* owned until taken (set to -1) or chan_message_clear */
    uint32_t fd_count;
};

/* Two connected ends, both close-on-exec; the daemon's end is made non-blocking by its owner. */
int chan_pair(int ret_fds[2], struct error *err);

/* Sends one message. 0, -EAGAIN when the peer has not read enough (the message is untouched),
 * -EPIPE when the peer is gone. Descriptors stay the caller's. flags: 0 or MSG_DONTWAIT. */
int chan_send(int fd, const void *bytes, size_t len, const int *fds, uint32_t fd_count, int flags);

/* Receives one message into m: 1; 0 when the peer closed; -EAGAIN; -EBADMSG when it was truncated
 * (then nothing is kept). m must be clear. */
int chan_receive(int fd, struct chan_message *m, int flags);

/* Closes the descriptors that nobody took, and empties the message. */
void chan_message_clear(struct chan_message *m);
