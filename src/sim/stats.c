/* See stats.h. */
#include "sim/stats.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

static int order(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

void stats_sort(double *values, size_t count)
{
    if (count > 1)
        qsort(values, count, sizeof *values, order);
}

double stats_percentile(const double *sorted, size_t count, double p)
{
    assert(p >= 0 && p <= 100);
    if (count == 0)
        return NAN;
    double rank = p / 100 * (double)(count - 1);
    size_t below = (size_t)rank;
    if (below + 1 >= count)
        return sorted[count - 1];
    return sorted[below] + (rank - (double)below) * (sorted[below + 1] - sorted[below]);
}

double stats_mean(const double *values, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += values[i];
    return count > 0 ? sum / (double)count : NAN;
}

struct stats_summary stats_summarise(double *values, size_t count)
{
    stats_sort(values, count);
    return (struct stats_summary){
        .count = count,
        .mean = stats_mean(values, count),
        .p50 = stats_percentile(values, count, 50),
        .p95 = stats_percentile(values, count, 95),
        .p99 = stats_percentile(values, count, 99),
        .max = stats_percentile(values, count, 100),
    };
}

size_t stats_cdf(const double *sorted, size_t count, size_t points, double *ret_x, double *ret_y)
{
    assert(points >= 2);
    size_t n = count < points ? count : points;
    for (size_t i = 0; i < n; i++) {
        size_t rank = n > 1 ? i * (count - 1) / (n - 1) : 0;
        ret_x[i] = sorted[rank];
        ret_y[i] = (double)(rank + 1) / (double)count;
    }
    return n;
}
