/*
 * A checkpoint and adapters with random weights in the shape of a real model, in the same files
 * that a user would bring: what speed and memory are like can be measured without a download.
 * The same options give the same bytes.
 */
#pragma once

#include "base/error.h"

#include <stdint.h>

#define SYNTH_ADAPTERS_MAX 4096u
#define SYNTH_RANK_MAX 1024u

struct synth_options {
    const char *dir;   /* must not exist yet; adapters go to dir/adapters/adapter-N */
    const char *shape; /* a name of synth_shape_name */
    uint32_t adapter_count;
    uint32_t rank;   /* of every adapter, on all seven projections */
    uint32_t layers; /* 0: the shape's */
    uint64_t seed;
};

typedef void (*synth_progress_fn)(void *user, uint64_t bytes_done, uint64_t bytes_total);

/* Writes into dir.partial and renames it at the end. `progress` may be NULL. -EEXIST: there is
 * something at dir; -EINVAL: an option is out of range. */
int synth_write(const struct synth_options *o, synth_progress_fn progress, void *user,
                struct error *err);

/* The names of all shapes, index 0 first; NULL behind the last. */
const char *synth_shape_name(uint32_t index);
