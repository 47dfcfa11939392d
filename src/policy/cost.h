/*
 * What things will cost, learned from what they did cost. Two models: the time of an engine step is
 * linear in its rows, fitted online to the turns that ended; loads and starts take the decayed mean
 * of what they took. All are seeded (from a calibration, or by a guess that the first samples
 * replace).
 *
 * The paper's batch latency follows from the step: T_i(b) = T0_i + alpha_i (b - 1) (4.2), with T0_i
 * the prefill of one prompt of function i and alpha_i that of one more in the same steps.
 */
#pragma once

#include <stdint.h>

/* time = step_us * steps + prompt_us * rows of prompts + decode_us * rows that decode */
struct cost_step {
    double step_us;
    double prompt_us;
    double decode_us;
};

/* A Kalman filter of the relative error: costs drift slowly, each turn tells a sum of them. */
struct cost_fit {
    struct cost_step c;
    double p[3][3]; /* covariance */
    double error;   /* decayed mean of |predicted - seen| / seen */
    uint64_t samples;
};

/* A turn that ended. */
struct cost_turn {
    uint64_t us;
    uint32_t steps;
    uint32_t prompt_rows;
    uint32_t decode_rows;
};

void cost_fit_seed(struct cost_fit *f, const struct cost_step *seed);
/* Turns without time or steps teach nothing. */
void cost_fit_add(struct cost_fit *f, const struct cost_turn *t);

double cost_turn_us(const struct cost_step *c, double steps, double prompt_rows,
                    double decode_rows);

struct cost_batch {
    double t0_us;
    double alpha_us;
};

/* chunk: rows of prompts that a step takes. */
struct cost_batch cost_batch_of(const struct cost_step *c, double prompt_tokens, uint32_t chunk);
/* T(b), b >= 1 */
double cost_batch_us(const struct cost_batch *b, double count);

/* A decayed mean: of microseconds, of microseconds a byte, of what requests are like. */
struct cost_mean {
    double value;
    uint64_t samples;
};

void cost_mean_seed(struct cost_mean *m, double value);
/* The first sample replaces the seed; each later one moves the mean by a quarter of the way. */
void cost_mean_add(struct cost_mean *m, double sample);
/* As that, of a time: one that is above COST_OUTLIER times the mean counts for so much, because
 * what was held up once is not what the next costs. What has become longer is followed all the
 * same, by half with each sample. */
#define COST_OUTLIER 3
void cost_mean_add_time(struct cost_mean *m, double us);
