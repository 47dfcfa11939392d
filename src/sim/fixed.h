/*
 * A fixed deployment as a world's policy: every device has one engine of one backbone, up before
 * the first request and for ever, with every adapter of that backbone bound. All that is decided is
 * which engine takes a request: the one with the fewest, first in, first out where all are full.
 * What the always-on systems have in common.
 *
 * Relies on the world's numbering: the lower 32 bits of a request's id are small and free again
 * when the request is over.
 */
#pragma once

#include "sim/world.h"

struct fixed;

struct fixed_options {
    uint32_t devices;
    const uint32_t *backbones; /* [devices]: whose engine runs there */
    const struct world_function *functions;
    uint32_t function_count; /* of one backbone, SCHED_SLOTS_MAX at most */
    uint32_t running_max;    /* sequences of one engine */
    uint32_t step_rows;
    uint64_t kv_bytes;   /* of one engine */
    bool keeps_together; /* a request goes where its adapter runs already, if that engine has less
                          * than twice the requests of the least busy one */
};

int fixed_open(struct fixed **ret, const struct fixed_options *o);
void fixed_close(struct fixed *f);
struct world_policy fixed_policy(struct fixed *f);
