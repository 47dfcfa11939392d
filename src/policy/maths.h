/* The little arithmetic that policies need and that no library may bring into the pure core. */
#pragma once

#include <stdint.h>
#include <string.h>

/* e^-x for x >= 0, relative error below 1e-7. 2^-n e^-r with |r| <= ln 2 / 2. */
static inline double maths_exp_minus(double x)
{
    if (!(x < 700))
        return 0;
    if (x < 0)
        x = 0;
    uint64_t n = (uint64_t)(x * 1.4426950408889634 + 0.5);
    double r = (double)n * 0.6931471805599453 - x; /* e^-x = 2^-n e^r */
    double e = 1 + r * (1 + r / 2 * (1 + r / 3 * (1 + r / 4 * (1 + r / 5 * (1 + r / 6)))));
    uint64_t bits = (1023 - n) << 52;
    double power;
    memcpy(&power, &bits, sizeof power);
    return n < 1023 ? e * power : 0;
}

/* floor(log2(n)), n > 0 */
static inline uint32_t maths_log2(uint64_t n)
{
    return 63 - (uint32_t)__builtin_clzll(n);
}

/* The square root of x > 0, relative error below 1e-9: Newton's steps from a power of two. */
static inline double maths_sqrt(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits >> 1) + (UINT64_C(1023) << 51); /* half the exponent: within 7 % */
    double root;
    memcpy(&root, &bits, sizeof root);
    for (int i = 0; i < 4; i++)
        root = (root + x / root) / 2;
    return root;
}

static inline double maths_min(double a, double b)
{
    return a < b ? a : b;
}

static inline double maths_max(double a, double b)
{
    return a > b ? a : b;
}

/* Microseconds as a whole number: what is not one becomes 0, what is too large stays far away. */
static inline uint64_t maths_us(double us)
{
    if (!(us > 0))
        return 0;
    return us < 1e18 ? (uint64_t)us : UINT64_C(1000000000000000000);
}
