/*
 * What every figure is taken on: a model of random weights, in host memory and on the GPU as a
 * keeper would hold it, and what the card itself reaches beside it.
 */
#pragma once

#include "gpubench/figures.h"
#include "gpubench/synthetic.h"

#define ROUNDS_MAX 64u
#define RANK 16u /* of all adapters here, on every linear of the layers */

struct bed {
    const struct figure_options *o;
    struct model_config config;
    struct synthetic_backbone b;
    struct gpu_memory *memory;
    double copy_bytes_s; /* measured here */
    double host_bytes_s; /* likewise: from pinned memory of the host */
};

/* The ceilings, told, then the model. The caller closes it, whatever this returned. */
int bed_open(struct bed *ret, const struct figure_options *o, struct error *err);
void bed_close(struct bed *b);

uint32_t bed_rounds(const struct bed *b);
void bed_tell(const struct bed *b, const struct figure *f);
/* Sorts them. */
double bed_median(double *values, uint32_t count);
/* Of the prompt of the i-th sequence. */
void bed_prompt(uint32_t *ret, uint32_t count, uint32_t i, uint32_t vocab);
