/* See trace_generate.h. */
#include "sim/trace_generate.h"

#include "sim/trace_parts.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DURATION_US_MAX (UINT64_C(366) * 86400 * 1000000)
#define COV_EVEN 1e-3 /* below it, requests come at equal times */

/* What is drawn for a function's lengths; attempts at its times come before. */
#define PART_LENGTHS TRACE_ATTEMPTS

static const char *const class_names[] = {
    [TRACE_UNKNOWN] = "unknown",
    [TRACE_PREDICTABLE] = "predictable",
    [TRACE_NORMAL] = "normal",
    [TRACE_BURSTY] = "bursty",
};

const char *trace_class_name(enum trace_class class)
{
    return class <= TRACE_BURSTY ? class_names[class] : "unknown";
}

int trace_class_parse(const char *name, enum trace_class *ret)
{
    for (int i = TRACE_PREDICTABLE; i <= TRACE_BURSTY; i++) {
        if (strcmp(name, class_names[i]) == 0) {
            *ret = (enum trace_class)i;
            return 0;
        }
    }
    return -EINVAL;
}

enum trace_class trace_class_of(double cov)
{
    if (isnan(cov))
        return TRACE_UNKNOWN;
    return cov <= 1 ? TRACE_PREDICTABLE : cov <= 4 ? TRACE_NORMAL : TRACE_BURSTY;
}

/* --- measuring --- */

/* Mean and squared deviations of the times between requests, one by one (Welford). */
struct gaps {
    uint64_t requests;
    uint64_t last_us;
    double mean, squares;
};

static void gaps_add(struct gaps *g, uint64_t at_us)
{
    if (g->requests++ > 0) {
        double gap = (double)(at_us - g->last_us);
        double off = gap - g->mean;
        g->mean += off / (double)(g->requests - 1);
        g->squares += off * (gap - g->mean);
    }
    g->last_us = at_us;
}

static double gaps_cov(const struct gaps *g)
{
    if (g->requests < 3 || !(g->mean > 0))
        return NAN;
    return sqrt(g->squares / (double)(g->requests - 1)) / g->mean;
}

static struct gaps *measure(const struct trace *t)
{
    struct gaps *all = calloc(t->functions > 0 ? t->functions : 1, sizeof *all);
    for (size_t i = 0; all != NULL && i < t->count; i++)
        gaps_add(&all[t->requests[i].function], t->requests[i].at_us);
    return all;
}

int trace_cov(const struct trace *t, double *ret)
{
    struct gaps *all = measure(t);
    if (all == NULL)
        return -ENOMEM;
    for (uint32_t f = 0; f < t->functions; f++)
        ret[f] = gaps_cov(&all[f]);
    free(all);
    return 0;
}

enum trace_class trace_classify(const struct trace *t)
{
    uint64_t requests[TRACE_BURSTY + 1] = {0};
    enum trace_class best = TRACE_UNKNOWN;
    struct gaps *all = measure(t);
    for (uint32_t f = 0; all != NULL && f < t->functions; f++)
        requests[trace_class_of(gaps_cov(&all[f]))] += all[f].requests;
    free(all);
    for (int c = TRACE_PREDICTABLE; c <= TRACE_BURSTY; c++)
        if (requests[c] > requests[best] || (best == TRACE_UNKNOWN && requests[c] > 0))
            best = (enum trace_class)c;
    return best;
}

/* --- generating --- */

void trace_generate_default(struct trace_generate_options *o)
{
    *o = (struct trace_generate_options){
        .class = TRACE_PREDICTABLE,
        .requests_per_s = 1,
        .functions = 1,
        .duration_us = 60000000,
        .prompt = draw_length_mean(100, 0.3, 50, 150),
        .answer = draw_length_mean(200, 0.3, 100, 300),
        .requests_max = 8u << 20,
    };
}

static double default_cov(enum trace_class class)
{
    return class == TRACE_PREDICTABLE ? 0.7 : class == TRACE_NORMAL ? 2.5 : 8;
}

static int check(const struct trace_generate_options *o, double cov, struct error *err)
{
    if (o->class != TRACE_PREDICTABLE && o->class != TRACE_NORMAL && o->class != TRACE_BURSTY)
        return error_set(err, -EINVAL, "a class is predictable, normal or bursty");
    if (!(cov >= 0 && cov <= TRACE_COV_MAX) || trace_class_of(cov) != o->class)
        return error_set(err, -EINVAL,
                         "a CoV of %g is not that of a %s trace: predictable has at most 1, normal "
                         "above 1 to 4, bursty above 4 to %g",
                         cov, trace_class_name(o->class), TRACE_COV_MAX);
    if (!(o->requests_per_s > 0 && o->requests_per_s <= 1e6))
        return error_set(err, -EINVAL, "a rate must be above 0 and at most 1000000, not %g",
                         o->requests_per_s);
    if (o->functions < 1 || o->functions > TRACE_FUNCTIONS_MAX)
        return error_set(err, -EINVAL, "a trace has 1 to %u functions, not %u", TRACE_FUNCTIONS_MAX,
                         o->functions);
    if (!(o->zipf >= 0 && o->zipf <= 10))
        return error_set(err, -EINVAL, "the exponent of popularity must be from 0 to 10, not %g",
                         o->zipf);
    if (o->duration_us < 1 || o->duration_us > DURATION_US_MAX)
        return error_set(err, -EINVAL, "a generated trace takes at most a year");
    if (o->prompt.min > o->prompt.max || o->answer.min > o->answer.max)
        return error_set(err, -EINVAL, "the least length must not be above the greatest");
    if (o->requests_max < 1 || o->requests_max > TRACE_REQUESTS_MAX)
        return error_set(err, -EINVAL, "at most %u requests are supported", TRACE_REQUESTS_MAX);
    return 0;
}

struct generator {
    const struct trace_generate_options *o;
    double cov;
    struct trace_request *requests; /* [cap] */
    size_t count, cap;
};

/* The renewal process of one function at one attempt. */
struct process {
    struct rng rng;
    double shape, scale_us, at_us, end_us;
    bool begun;
};

static struct process process_begin(const struct generator *g, uint32_t function, uint32_t attempt,
                                    double mean_us)
{
    struct process p = {.end_us = (double)g->o->duration_us};
    bool even = g->cov < COV_EVEN;
    p.shape = even ? INFINITY : 1 / (g->cov * g->cov);
    p.scale_us = even ? mean_us : mean_us / p.shape;
    draw_seed(&p.rng, g->o->seed, function, attempt);
    return p;
}

static bool process_next(struct process *p, uint64_t *ret_us)
{
    bool even = isinf(p->shape);
    if (p->begun) {
        p->at_us += p->scale_us * (even ? 1 : draw_gamma(&p->rng, p->shape));
    } else {
        /* A watcher falls into a time between requests by its length, which makes it a Gamma with
         * a shape that is greater by 1, and anywhere inside it. */
        double whole = even ? 1 : draw_gamma(&p->rng, p->shape + 1);
        p->at_us = p->scale_us * whole * rng_unit(&p->rng);
        p->begun = true;
    }
    if (!(p->at_us < p->end_us))
        return false;
    *ret_us = (uint64_t)p->at_us;
    return true;
}

/* How far an attempt is from what is wanted: 0 is taken at once. */
static double attempt_distance(const struct generator *g, uint32_t function, uint32_t attempt,
                               double mean_us)
{
    struct process p = process_begin(g, function, attempt, mean_us);
    struct gaps gaps = {0};
    double wanted = (double)g->o->duration_us / mean_us;
    for (uint64_t at_us; gaps.requests <= g->o->requests_max && process_next(&p, &at_us);)
        gaps_add(&gaps, at_us);
    double off = fabs((double)gaps.requests - wanted) / wanted;
    bool near = off <= 0.25 || fabs((double)gaps.requests - wanted) < 1;
    bool right = trace_class_of(gaps_cov(&gaps)) == g->o->class;
    return right && near ? 0 : off + (right ? 0 : 1);
}

static uint32_t choose_attempt(const struct generator *g, uint32_t function, double mean_us)
{
    uint32_t best = 0;
    double best_distance = INFINITY;
    for (uint32_t a = 0; a < TRACE_ATTEMPTS && best_distance > 0; a++) {
        double distance = attempt_distance(g, function, a, mean_us);
        if (distance < best_distance) {
            best_distance = distance;
            best = a;
        }
    }
    return best;
}

static int add(struct generator *g, const struct trace_request *request, struct error *err)
{
    if (g->count == g->o->requests_max)
        return error_set(err, -E2BIG,
                         "the trace would have more than %llu requests; lower the rate or the "
                         "duration",
                         (unsigned long long)g->o->requests_max);
    if (g->count == g->cap) {
        size_t cap = g->cap + g->cap / 2 + 1024;
        struct trace_request *more = realloc(g->requests, cap * sizeof *more);
        if (more == NULL)
            return error_set(err, -ENOMEM, "out of memory for %zu requests", cap);
        g->requests = more;
        g->cap = cap;
    }
    g->requests[g->count++] = *request;
    return 0;
}

static uint32_t at_least_one(uint32_t tokens)
{
    return tokens > 0 ? tokens : 1;
}

static int generate_function(struct generator *g, uint32_t function, double share,
                             struct error *err)
{
    const struct trace_generate_options *o = g->o;
    double mean_us = 1e6 / (o->requests_per_s * share);
    if (mean_us > 1e6 * (double)DURATION_US_MAX)
        return 0;
    struct process p = process_begin(g, function, choose_attempt(g, function, mean_us), mean_us);
    struct trace_request request = {.function = function};
    struct rng lengths;
    draw_seed(&lengths, o->seed, function, PART_LENGTHS);
    while (process_next(&p, &request.at_us)) {
        request.prompt_tokens = at_least_one(draw_length(&lengths, &o->prompt));
        request.new_tokens = at_least_one(draw_length(&lengths, &o->answer));
        int n = add(g, &request, err);
        if (n < 0)
            return n;
    }
    return 0;
}

static int generate_all(struct generator *g, struct error *err)
{
    uint32_t functions = g->o->functions;
    double *sums = calloc(functions, sizeof *sums);
    if (sums == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    draw_zipf_sums(g->o->zipf, functions, sums);
    int n = 0;
    for (uint32_t f = 0; n == 0 && f < functions; f++)
        n = generate_function(g, f, sums[f] - (f > 0 ? sums[f - 1] : 0), err);
    free(sums);
    if (n == 0 && g->count == 0)
        return error_set(err, -EINVAL,
                         "the trace would have no request; raise the rate or the duration");
    return n;
}

int trace_generate(const struct trace_generate_options *o, struct trace *ret, struct error *err)
{
    struct generator g = {.o = o, .cov = o->cov > 0 ? o->cov : default_cov(o->class)};
    int n = check(o, g.cov, err);
    if (n == 0)
        n = generate_all(&g, err);
    if (n < 0) {
        free(g.requests);
        return n;
    }
    trace_sort(g.requests, g.count);
    *ret = (struct trace){.requests = g.requests,
                          .count = g.count,
                          .functions = o->functions,
                          .span_us = o->duration_us};
    snprintf(ret->name, sizeof ret->name, "%s", trace_class_name(o->class));
    return 0;
}
