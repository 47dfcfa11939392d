/*
 * The kernels of a GPU against the scalar ones of the host, through whole models: random weights in
 * the shape of every family, in every form that the packer writes, bare and with adapters of all
 * kinds. And a row alone against the same row among others, bit for bit.
 */
#pragma once

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

struct gpu_device;

/* One comparison: of the logits of a prompt, the root mean square of the differences in that of the
 * logits; of a batch, how many log-probabilities are not the same bits as alone. */
struct check_result {
    const char *family, *weights, *adapter; /* adapter: "none", "batch" for the other kind */
    double difference, bound;
    bool passed;
};

typedef void check_report_fn(void *context, const struct check_result *r);

struct check_options {
    struct gpu_device *gpu;
    uint32_t prompt_tokens; /* of the longest prompt; <= 500 */
    bool all_forms;         /* int8 and int4 for every family, else for the first one only */
    check_report_fn *report;
    void *context;
};

/* The number of comparisons that failed, or what kept them from being made. */
int check_run(const struct check_options *o, struct error *err);
