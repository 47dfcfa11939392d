/*
 * A live run's event log through the same core again: every event applied, every plan compared
 * with what was done then. Identical actions are the proof that the core is pure.
 */
#pragma once

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

struct replay_result {
    uint64_t events;
    uint64_t plans;
    uint64_t actions;
    bool complete; /* false: the log was full, the run went on unrecorded */
    bool identical;
    uint64_t differing_plan; /* counted from 1; 0 when identical */
    char difference[256];    /* the first: what was done, what the core does now */
};

/* -EINVAL for a file that is no event log or was written by a different build's core. A log that
 * ends in the middle of a record (the daemon was killed) is compared up to there. */
int replay_log(const char *path, struct replay_result *ret, struct error *err);
