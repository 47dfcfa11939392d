/*
 * A replay's samples as figures, for all requests or for one function's, and how they are told: a
 * table for people, one JSON object for programs. Latencies count from when a request should have
 * been sent. TTFT: to the first text, of every answer that had one. TPOT: from the first text to
 * the last, by the tokens after the first; E2E: to the answer's end; both of completed ones.
 */
#pragma once

#include "cli/replay_driver.h"
#include "cli/replay_server.h"
#include "sim/stats.h"
#include "sim/trace_generate.h"

#include <jansson.h>

#define RESULT_CODES_MAX 24u

struct result_code {
    char word[16]; /* "200", or "timeout" */
    size_t count;
};

struct result_figures {
    size_t requests; /* that were due */
    size_t completed, refused, failed, unfinished;
    size_t waited; /* for a connection */
    struct stats_summary ttft_ms, tpot_ms, e2e_ms;
    struct stats_summary late_ms; /* the driver's own */
    uint64_t tokens;              /* of completed ones */
    double slo_attainment;        /* of all requests; NAN without requests */
    double slo_tpot_attainment;   /* likewise; NAN without such an objective */
    struct result_code codes[RESULT_CODES_MAX];
    size_t code_count;
};

struct result {
    const char *trace_name; /* as it was asked for */
    const struct trace *trace;
    enum trace_class class;
    double cov; /* of the times between a function's requests, by requests; NAN: unknown */
    const struct driver_run *run;
    const struct server_names *names;
    double slo_ttft_ms, slo_tpot_ms; /* slo_tpot_ms NAN: none */
    struct result_figures figures;   /* of all */
    struct server_usage usage;       /* during the run */
};

/* Fills the figures, the CoV and, where it is unknown, the class from the rest. 0 or -ENOMEM. */
int result_finish(struct result *r);
/* Of these requests, by their places in the trace. 0 or -ENOMEM. */
int result_figures(const struct result *r, const size_t *indices, size_t count,
                   struct result_figures *ret);
/* The requests that were due by function: names[i] has those at ret_indices[ret_begin[i]] to before
 * ret_indices[ret_begin[i + 1]], in the order of time. [due] and [names->count + 1]. */
void result_group(const struct result *r, size_t *ret_indices, size_t *ret_begin);

/* The latencies of one request, NAN while there is none. */
double result_ttft_ms(const struct trace_request *q, const struct driver_sample *s);
double result_tpot_ms(const struct trace_request *q, const struct driver_sample *s);
double result_e2e_ms(const struct trace_request *q, const struct driver_sample *s);

double result_duration_s(const struct result *r);
double result_tok_s(const struct result *r);
/* 1 / (mean E2E in seconds * cost in $): the paper's cost-effectiveness. NAN: unknown. */
double result_ce(const struct result *r);
/* How many of the functions were asked. */
uint32_t result_functions(const struct result *r);

/* "bursty, CoV 7.90"; of a file "a.csv (normal, CoV 1.09)". Returns ret. */
#define RESULT_NAME_BYTES 1024
const char *result_name(const struct result *r, char ret[RESULT_NAME_BYTES]);

json_t *result_json(const struct result *r);
void result_print(const struct result *r);
