/*
 * The bytes of a load driver's request: a prompt of the wanted length, and as many tokens to
 * generate as the trace says. A completion's prompt are token ids, so that its length is exact; a
 * chat's are short words, of about one token each. Both are drawn anew for every request: equal
 * beginnings would be found in a server's cache.
 */
#pragma once

#include "base/buf.h"
#include "sim/trace.h"

#include <stdbool.h>
#include <stdint.h>

struct replay_request {
    const char *host;
    const char *model;
    bool chat;
    uint64_t seed, index; /* of what is drawn */
    uint32_t prompt_tokens, new_tokens;
};

/* Appends head and body; 0, -E2BIG, -ENOMEM. */
int replay_request_write(const struct replay_request *q, struct buf *out);
