/* The requests that `sllora replay` sends and `sllora sim` simulates: the same options give the
 * same ones. */
#pragma once

#include "sim/trace_generate.h"
#include "sim/trace_read.h"

struct load_trace {
    const char *path;
    enum trace_class class;   /* TRACE_UNKNOWN: the file at path */
    enum trace_format format; /* of a file, like spread, speed and skip_s */
    enum trace_spread spread;
    double rate, cov; /* of a generated one; 0: its class's, as with what follows */
    double duration_s, speed, skip_s, zipf;
    uint64_t seed;
};

int load_trace_make(const struct load_trace *l, uint32_t functions, struct trace *ret,
                    struct error *err);
