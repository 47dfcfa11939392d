/* See load_trace.h. */
#include "cli/load_trace.h"

static int generate(const struct load_trace *l, uint32_t functions, struct trace *ret,
                    struct error *err)
{
    struct trace_generate_options o;
    trace_generate_default(&o);
    o.class = l->class;
    o.cov = l->cov;
    o.functions = functions;
    o.zipf = l->zipf;
    o.seed = l->seed;
    if (l->rate > 0)
        o.requests_per_s = l->rate;
    if (l->duration_s > 0)
        o.duration_us = (uint64_t)(l->duration_s * 1e6);
    return trace_generate(&o, ret, err);
}

static int read_file(const struct load_trace *l, uint32_t functions, struct trace *ret,
                     struct error *err)
{
    struct trace_options o;
    trace_options_default(&o);
    o.format = l->format;
    o.functions = functions;
    o.spread = l->spread;
    o.zipf = l->zipf;
    o.seed = l->seed;
    if (l->speed > 0)
        o.speed = l->speed;
    o.skip_us = (uint64_t)(l->skip_s * 1e6);
    o.limit_us = (uint64_t)(l->duration_s * o.speed * 1e6);
    return trace_read(l->path, &o, ret, err);
}

int load_trace_make(const struct load_trace *l, uint32_t functions, struct trace *ret,
                    struct error *err)
{
    return l->class != TRACE_UNKNOWN ? generate(l, functions, ret, err)
                                     : read_file(l, functions, ret, err);
}
