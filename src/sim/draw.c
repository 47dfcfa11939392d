/* See draw.h. */
#include "sim/draw.h"

#include <assert.h>
#include <math.h>

#define LN2_HIGH 0x1.62e42feep-1 /* its product with a small whole number is exact */
#define LN2_LOW 0x1.a39ef35793c76p-33
#define SQRT_HALF 0x1.6a09e667f3bcdp-1
#define EXP_MAX 700.0

double draw_log(double x)
{
    assert(x > 0);
    int exponent;
    double m = frexp(x, &exponent);
    if (m < SQRT_HALF) {
        m *= 2;
        exponent--;
    }
    /* ln m = 2 artanh t, |t| < 0.172: eleven terms reach the last bit */
    double t = (m - 1) / (m + 1);
    double sum = 0;
    for (int k = 23; k >= 1; k -= 2)
        sum = sum * t * t + 1.0 / k;
    return exponent * LN2_HIGH + (exponent * LN2_LOW + 2 * t * sum);
}

double draw_exp(double x)
{
    if (x < -EXP_MAX)
        return 0;
    if (x > EXP_MAX)
        x = EXP_MAX;
    double n = floor(x / (LN2_HIGH + LN2_LOW) + 0.5);
    double r = (x - n * LN2_HIGH) - n * LN2_LOW;
    double sum = 1;
    for (int k = 16; k >= 1; k--)
        sum = 1 + r / k * sum;
    return ldexp(sum, (int)n);
}

void draw_seed(struct rng *ret, uint64_t seed, uint64_t part, uint64_t index)
{
    /* rng_seed stirs each bit of its seed; odd factors keep neighbours apart before that. */
    rng_seed(ret, seed);
    rng_seed(ret, rng_u64(ret) ^ part * 0x9e3779b97f4a7c15u ^ index * 0xd1342543de82ef95u);
}

double draw_normal(struct rng *r)
{
    /* Marsaglia's polar method: no sine, no cosine. */
    for (;;) {
        double u = 2 * rng_unit(r) - 1;
        double v = 2 * rng_unit(r) - 1;
        double s = u * u + v * v;
        if (s > 0 && s < 1)
            return u * sqrt(-2 * draw_log(s) / s);
    }
}

/* Marsaglia, Tsang: "A simple method for generating gamma variables", 2000; shape >= 1. */
static double gamma_from_one(struct rng *r, double shape)
{
    double d = shape - 1.0 / 3;
    double c = 1 / sqrt(9 * d);
    for (;;) {
        double x = draw_normal(r);
        double v = 1 + c * x;
        if (v <= 0)
            continue;
        v = v * v * v;
        double u = 1 - rng_unit(r);
        if (u < 1 - 0.0331 * x * x * x * x || draw_log(u) < 0.5 * x * x + d * (1 - v + draw_log(v)))
            return d * v;
    }
}

double draw_gamma(struct rng *r, double shape)
{
    assert(shape > 0);
    if (shape >= 1)
        return gamma_from_one(r, shape);
    double u = 1 - rng_unit(r);
    return gamma_from_one(r, shape + 1) * draw_exp(draw_log(u) / shape);
}

struct draw_length draw_length_fixed(uint32_t tokens)
{
    return (struct draw_length){.mu = draw_log(tokens), .min = tokens, .max = tokens};
}

struct draw_length draw_length_mean(double mean, double sigma, uint32_t min, uint32_t max)
{
    return (struct draw_length){
        .mu = draw_log(mean) - sigma * sigma / 2, .sigma = sigma, .min = min, .max = max};
}

uint32_t draw_length(struct rng *r, const struct draw_length *law)
{
    assert(law->min <= law->max);
    double z = law->sigma > 0 ? draw_normal(r) : 0;
    double tokens = floor(draw_exp(law->mu + law->sigma * z) + 0.5);
    if (!(tokens > law->min))
        return law->min;
    return tokens < law->max ? (uint32_t)tokens : law->max;
}

void draw_zipf_sums(double exponent, uint32_t count, double *ret_sums)
{
    double sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        sum += draw_exp(-exponent * draw_log(i + 1.0));
        ret_sums[i] = sum;
    }
    for (uint32_t i = 0; i < count; i++)
        ret_sums[i] /= sum;
}

uint32_t draw_zipf(struct rng *r, const double *sums, uint32_t count)
{
    assert(count > 0);
    double u = rng_unit(r);
    uint32_t low = 0;
    uint32_t high = count - 1;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (sums[middle] > u)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}
