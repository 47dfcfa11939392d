/*
 * What a GPU gives: the ceilings of the card, then how near the engine comes to them, on models of
 * random weights. Each figure has the bound that it is measured against and, where there is one,
 * its goal. Medians of five rounds or more.
 */
#pragma once

#include "base/error.h"

#include <stdint.h>

struct gpu_device;

struct figure {
    const char *cell; /* "decode", "batch", ... */
    const char *what; /* in words */
    const char *unit;
    double value;
    double ceiling; /* in the same unit; 0: there is none */
    double goal;    /* of value / ceiling, or of value where there is no ceiling; 0: none */
    int is_cost;    /* less is better */
};

typedef void figure_report_fn(void *context, const struct figure *f);

struct figure_options {
    struct gpu_device *gpu;
    uint32_t index; /* of that GPU */
    const char *shape;
    const char *weights;    /* "bf16", "int8", "int4" */
    double matrix_flops_s;  /* the card's bf16 rate, measured in the same run; 0: not known */
    uint32_t context;       /* tokens that decoding sequences have before */
    uint32_t prompt_tokens; /* of the prefill */
    uint32_t batch;         /* sequences that decode at a time, and adapters */
    uint32_t steps, rounds;
    uint32_t stages; /* of figures_stage; 0: all */
    figure_report_fn *report;
    void *context_of_report;
};

#define FIGURES_CEILINGS (1u << 31) /* in place of stages: the ceilings alone */
/* "decode", "batch", "prefill", "start", "upload", as a bit; 0: there is none of that name. */
uint32_t figures_stage(const char *name);

/* The ceilings, then the stages in order; stops at the first that cannot be taken. */
int figures_run(const struct figure_options *o, struct error *err);
