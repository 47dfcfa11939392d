/*
 * Requests over time: read from the published traces' formats, or generated in the paper's classes.
 * The load driver (`sllora replay`) and the simulator take the same.
 */
#pragma once

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

struct trace_request {
    uint64_t at_us; /* from the beginning */
    uint32_t function;
    uint32_t prompt_tokens;
    uint32_t new_tokens;
};

struct trace {
    struct trace_request *requests; /* [count], ascending at_us; owned */
    size_t count;
    uint32_t functions; /* numbers below this occur */
    uint64_t span_us;
    char name[64]; /* for reports: the format or the class */
};

void trace_free(struct trace *t);
