/*
 * Figures from samples, for the load driver and the simulator alike. One definition of a
 * percentile: linear interpolation between the two nearest of the sorted samples, so that p = 0 is
 * the smallest, p = 100 the largest and p = 50 of two their mean (numpy's default). What no sample
 * decides is NAN.
 */
#pragma once

#include <stddef.h>

void stats_sort(double *values, size_t count);
/* 0 <= p <= 100 */
double stats_percentile(const double *sorted, size_t count, double p);
double stats_mean(const double *values, size_t count);

struct stats_summary {
    size_t count;
    double mean, p50, p95, p99, max;
};

/* Sorts the values. */
struct stats_summary stats_summarise(double *values, size_t count);

/* The cumulative distribution as at most `points` (>= 2) points, evenly over the samples' ranks,
 * the smallest and the largest among them: ret_y[i] of all are at most ret_x[i]. Returns how many
 * points there are. */
size_t stats_cdf(const double *sorted, size_t count, size_t points, double *ret_x, double *ret_y);
