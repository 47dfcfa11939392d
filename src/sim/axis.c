/* See axis.h. */
#include "sim/axis.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define VALUE_MAX 1e300
#define VALUE_MIN 1e-300
/* Below this part of its size a difference is rounding, and ticks would stand on one another. */
#define RELATIVE_MIN 1e-12
/* A quotient this near to a whole number is one. */
#define NEAR 1e-9
#define MINOR_DECADES_MAX 6 /* of at most eight unnamed ticks each */

bool axis_shows(double value, bool log)
{
    if (!isfinite(value) || fabs(value) > VALUE_MAX)
        return false;
    return !log || value >= VALUE_MIN;
}

void axis_range_init(struct axis_range *r)
{
    *r = (struct axis_range){.lo = INFINITY, .hi = -INFINITY};
}

void axis_range_add(struct axis_range *r, double value, bool log)
{
    if (!axis_shows(value, log))
        return;
    r->lo = fmin(r->lo, value);
    r->hi = fmax(r->hi, value);
}

bool axis_range_empty(const struct axis_range *r)
{
    return r->lo > r->hi;
}

/* --- what a tick says --- */

static int exponent_of(double positive)
{
    return (int)floor(log10(positive) + NEAR);
}

/* The letter that keeps `size` short, its worth in *ret_unit. */
static const char *unit_of(double size, double *ret_unit)
{
    static const struct {
        double worth;
        const char *letter;
    } units[] = {{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "k"}};
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (size >= units[i].worth * (1 - NEAR)) {
            *ret_unit = units[i].worth;
            return units[i].letter;
        }
    }
    *ret_unit = 1;
    return "";
}

static void cut_zeros(char *number)
{
    if (strchr(number, '.') == NULL)
        return;
    size_t len = strlen(number);
    while (number[len - 1] == '0')
        len--;
    if (number[len - 1] == '.')
        len--;
    number[len] = '\0';
}

/* `value` to the digit that a step of 10^step_exponent needs, as short as that can be said. */
static void name_value(double value, int step_exponent, char ret[AXIS_LABEL_BYTES])
{
    double size = fabs(value);
    if (size == 0) {
        snprintf(ret, AXIS_LABEL_BYTES, "0");
        return;
    }
    char digits[AXIS_LABEL_BYTES - 8];
    int exponent = exponent_of(size);
    if (exponent < -4 || exponent >= 15) {
        int decimals = exponent > step_exponent ? exponent - step_exponent : 0;
        snprintf(digits, sizeof digits, "%.*f", decimals > 12 ? 12 : decimals,
                 value / pow(10, exponent));
        cut_zeros(digits);
        snprintf(ret, AXIS_LABEL_BYTES, "%se%d", digits, exponent);
        return;
    }
    double unit;
    const char *letter = unit_of(size, &unit);
    int decimals = (int)lround(log10(unit)) - step_exponent;
    if (unit > 1 && decimals > 2) { /* 1234 is easier to read than 1.234k */
        unit = 1;
        letter = "";
        decimals = -step_exponent;
    }
    snprintf(digits, sizeof digits, "%.*f",
             decimals < 0    ? 0
             : decimals > 12 ? 12
                             : decimals,
             value / unit);
    cut_zeros(digits);
    snprintf(ret, AXIS_LABEL_BYTES, "%s%s", digits, letter);
}

void axis_short_number(double value, char ret[AXIS_LABEL_BYTES])
{
    if (!isfinite(value)) {
        snprintf(ret, AXIS_LABEL_BYTES, "%g", value);
        return;
    }
    if (fabs(value) < VALUE_MIN) {
        snprintf(ret, AXIS_LABEL_BYTES, "0");
        return;
    }
    char rounded[AXIS_LABEL_BYTES];
    double three = value;
    snprintf(rounded, sizeof rounded, "%.2e", value);
    sscanf(rounded, "%lf", &three); /* 999.9 is of the size of 1000, and gets its letter */
    name_value(three, exponent_of(fabs(three)) - 2, ret);
}

static void add_tick(struct axis *a, double value, int step_exponent)
{
    assert(a->tick_count < AXIS_TICKS_MAX);
    struct axis_tick *tick = &a->ticks[a->tick_count++];
    *tick = (struct axis_tick){.value = value};
    name_value(value, step_exponent, tick->label);
}

/* --- linear --- */

/* The smallest of 1, 2, 5 times a power of ten that takes at most `count` steps over `width`. */
static double nice_step(double width, size_t count, int *ret_exponent)
{
    double raw = width / (double)count;
    int exponent = exponent_of(raw);
    double power = pow(10, exponent);
    double digit = raw / power;
    double nice = digit <= 1 + NEAR ? 1 : digit <= 2 + NEAR ? 2 : digit <= 5 + NEAR ? 5 : 10;
    *ret_exponent = nice == 10 ? exponent + 1 : exponent;
    return nice * power;
}

static void linear_ticks(struct axis *a, double step, int step_exponent)
{
    double first = ceil(a->lo / step - NEAR);
    double last = floor(a->hi / step + NEAR);
    for (double i = first; i <= last; i++)
        add_tick(a, i == 0 ? 0 : i * step, step_exponent);
}

static void fit_linear(struct axis *a, enum axis_ends ends, size_t labels)
{
    double size = fmax(fabs(a->lo), fabs(a->hi));
    if (size < VALUE_MIN) {
        a->lo = 0;
        a->hi = 1;
    } else if (a->hi - a->lo <= size * RELATIVE_MIN) {
        double middle = a->lo;
        a->lo = fmin(0, 2 * middle);
        a->hi = fmax(0, 2 * middle);
    }
    if (a->lo > 0 && (ends == AXIS_ZERO || (ends == AXIS_ROUND && a->lo <= a->hi / 2)))
        a->lo = 0;
    if (a->hi < 0 && (ends == AXIS_ZERO || (ends == AXIS_ROUND && a->hi >= a->lo / 2)))
        a->hi = 0;
    int exponent;
    double step = nice_step(a->hi - a->lo, labels, &exponent);
    if (ends != AXIS_TIGHT) {
        a->lo = floor(a->lo / step + NEAR) * step;
        a->hi = ceil(a->hi / step - NEAR) * step;
    }
    linear_ticks(a, step, exponent);
}

/* --- logarithmic --- */

static double round_down(double value)
{
    double power = pow(10, exponent_of(value));
    double digit = value / power;
    return power * (digit >= 5 - NEAR ? 5 : digit >= 2 - NEAR ? 2 : 1);
}

static double round_up(double value)
{
    double power = pow(10, exponent_of(value));
    double digit = value / power;
    return power * (digit <= 1 + NEAR ? 1 : digit <= 2 + NEAR ? 2 : digit <= 5 + NEAR ? 5 : 10);
}

static bool inside(const struct axis *a, double value)
{
    return value >= a->lo * (1 - NEAR) && value <= a->hi * (1 + NEAR);
}

/* Each decade's 1, 2 and 5 get a name when `all_named`, otherwise its 1. */
static void decade_ticks(struct axis *a, bool all_named, int every)
{
    int first = exponent_of(a->lo);
    int last = exponent_of(a->hi);
    bool minor = every == 1 && last - first <= MINOR_DECADES_MAX;
    for (int exponent = first; exponent <= last; exponent++) {
        for (int digit = 1; digit < 10; digit++) {
            double value = digit * pow(10, exponent);
            if (!inside(a, value))
                continue;
            bool decade = digit == 1 && exponent % every == 0;
            if (decade || (all_named && (digit == 2 || digit == 5))) {
                add_tick(a, value, exponent);
            } else if (minor) {
                add_tick(a, value, exponent);
                a->ticks[a->tick_count - 1].label[0] = '\0';
            }
        }
    }
}

static size_t named_ticks(const struct axis *a)
{
    size_t count = 0;
    for (size_t i = 0; i < a->tick_count; i++)
        count += a->ticks[i].label[0] != '\0';
    return count;
}

static void fit_log(struct axis *a, enum axis_ends ends, size_t labels)
{
    if (a->hi - a->lo <= a->hi * RELATIVE_MIN) {
        a->lo /= 10;
        a->hi *= 10;
    }
    if (ends != AXIS_TIGHT) {
        a->lo = round_down(a->lo);
        a->hi = round_up(a->hi);
    }
    double decades = log10(a->hi) - log10(a->lo);
    int every = (int)fmax(1, ceil(decades / (double)labels));
    decade_ticks(a, decades * 3 <= (double)labels + 1, every);
    for (; named_ticks(a) < 3 && every > 1; every /= 2) {
        a->tick_count = 0;
        decade_ticks(a, false, every / 2);
    }
    if (named_ticks(a) >= 3)
        return;
    a->tick_count = 0;
    if (decades >= 1) {
        decade_ticks(a, true, 1);
    } else { /* few of 1, 2, 5 in it: ticks evenly apart in value */
        int exponent;
        double step = nice_step(a->hi - a->lo, labels, &exponent);
        linear_ticks(a, step, exponent);
    }
}

void axis_fit(struct axis *ret, const struct axis_range *range, bool log, enum axis_ends ends,
              size_t labels)
{
    assert(labels >= AXIS_LABELS_MIN);
    assert(labels <= AXIS_LABELS_MAX);
    *ret = (struct axis){.log = log, .lo = range->lo, .hi = range->hi};
    if (axis_range_empty(range)) {
        ret->lo = log ? 1 : 0;
        ret->hi = log ? 10 : 1;
    } else if (log) {
        fit_log(ret, ends, labels);
    } else {
        fit_linear(ret, ends, labels);
    }
}

double axis_place(const struct axis *a, double value)
{
    assert(isfinite(value));
    assert(!a->log || value > 0);
    if (!a->log)
        return (value - a->lo) / (a->hi - a->lo);
    return (log10(value) - log10(a->lo)) / (log10(a->hi) - log10(a->lo));
}
