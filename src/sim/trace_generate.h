/*
 * Generated traces in the paper's classes, which tell how evenly a function is asked: by the
 * coefficient of variation (CoV: deviation over mean) of the times between its requests.
 *
 * Each function's requests are a renewal process with Gamma distributed times between them, as it
 * looks to who begins to watch at any moment: a trace does not begin with a burst of all functions.
 * A short run of a bursty process is often none at all, or far from its rate. So each function is
 * drawn up to TRACE_ATTEMPTS times, until what was drawn is of the class and within a quarter of
 * the rate, else the nearest is taken; n requests cannot have a CoV above sqrt(n - 2).
 *
 * The same options give the same trace on every machine. A function's requests depend on the seed,
 * its number, its rate and the duration only.
 */
#pragma once

#include "sim/draw.h"
#include "sim/trace.h"

#define TRACE_ATTEMPTS 64u
#define TRACE_COV_MAX 20.0

enum trace_class {
    TRACE_UNKNOWN,     /* too few requests to tell */
    TRACE_PREDICTABLE, /* CoV <= 1 */
    TRACE_NORMAL,      /* 1 < CoV <= 4 */
    TRACE_BURSTY,      /* 4 < CoV */
};

const char *trace_class_name(enum trace_class class);
/* 0 or -EINVAL: one of the three classes by name */
int trace_class_parse(const char *name, enum trace_class *ret);
enum trace_class trace_class_of(double cov); /* NAN: unknown */

struct trace_generate_options {
    enum trace_class class;
    double cov;            /* of this class; 0: 0.7, 2.5, 8; below 0.001: all times alike */
    double requests_per_s; /* of all functions together, on average */
    uint32_t functions;
    double zipf; /* function i has a share like (i + 1)^-zipf; 0: equal */
    uint64_t duration_us;
    uint64_t seed;
    struct draw_length prompt, answer;
    uint64_t requests_max; /* more are refused */
};

/* Bursty or not is the caller's; one function, one request a second, a minute; prompts of 50 to 150
 * tokens and answers of 100 to 300, as questions of GSM8K have. */
void trace_generate_default(struct trace_generate_options *o);

int trace_generate(const struct trace_generate_options *o, struct trace *ret, struct error *err);

/* The CoV of the times between each function's requests, in ret[t->functions]; NAN of fewer than
 * three requests. -ENOMEM. */
int trace_cov(const struct trace *t, double *ret);
/* The class that most requests' functions are of. */
enum trace_class trace_classify(const struct trace *t);
