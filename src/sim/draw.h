/*
 * Draws from the distributions that workloads are made of. The logarithm and the exponential are
 * this file's own: a C library picks its by the processor and may differ in the last digit, and one
 * such digit where a draw is rejected makes another trace of the same seed. Additions, products,
 * quotients and roots are the same everywhere.
 */
#pragma once

#include "base/rng.h"

#include <stdint.h>

double draw_log(double x); /* x > 0 */
double draw_exp(double x);

/* A generator for the part of a work that these numbers name: what is drawn there does not depend
 * on what was drawn elsewhere. */
void draw_seed(struct rng *ret, uint64_t seed, uint64_t part, uint64_t index);

double draw_normal(struct rng *r);
/* Gamma with this shape (> 0) and scale 1: mean `shape`, coefficient of variation 1/sqrt(shape). */
double draw_gamma(struct rng *r, double shape);

/* Lengths in tokens: log-normal, rounded, between the limits. */
struct draw_length {
    double mu, sigma; /* of the logarithm; sigma 0: all the same */
    uint32_t min, max;
};

struct draw_length draw_length_fixed(uint32_t tokens);
/* Before the limits cut, the mean is `mean`. */
struct draw_length draw_length_mean(double mean, double sigma, uint32_t min, uint32_t max);
uint32_t draw_length(struct rng *r, const struct draw_length *law);

/* Shares of `count` things of which the i-th is (i + 1)^-exponent as popular as the first, summed
 * up: ret_sums[count - 1] is 1. Exponent 0: equal shares. */
void draw_zipf_sums(double exponent, uint32_t count, double *ret_sums);
/* An index by such shares. */
uint32_t draw_zipf(struct rng *r, const double *sums, uint32_t count);
