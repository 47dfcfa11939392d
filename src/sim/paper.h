/*
 * The paper's evaluation, simulated: 8 functions (4 on Llama2-7B, 4 on Llama2-13B), 16 GPUs, 4
 * hours, three classes of arrivals, every system of sim/systems.h, ablations, scaling, the peak of
 * 4 functions on 2 GPUs, and the load at which an always-on engine becomes cheaper. One command:
 * what the paper does not give is chosen in paper.c and marked there.
 */
#pragma once

#include "sim/systems.h"

#include <jansson.h>

struct paper_options {
    const struct profile *profile; /* with the backbones llama2-7b and llama2-13b */
    uint64_t seed;
    uint32_t traces;        /* of each class; figures are means over them */
    double hours;           /* the paper's are 4: with others, its sums of money do not compare */
    const char *report_dir; /* that exists: report.html is written there; NULL: none */
    /* One object for each run, as it is done; NULL: nobody listens. */
    void (*line)(void *context, const json_t *object);
    void *context;
};

#define PAPER_HOURS 4.0
#define PAPER_HOURS_MIN 0.05
#define PAPER_HOURS_MAX 48.0

void paper_default(struct paper_options *o, const struct profile *p);
int paper_run(const struct paper_options *o, struct error *err);
