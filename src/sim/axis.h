/*
 * Numbers along an axis: which range is shown, where the ticks stand and what they say. Every
 * input gives an axis that can be drawn; the rules for the odd ones:
 *
 * - not shown at all: what is not finite or beyond 1e300, on a log axis also what is below 1e-300;
 * - all values equal: from zero to twice the value; on a log axis a decade to either side;
 * - all values zero: from 0 to 1; no value: no tick.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define AXIS_TICKS_MAX 96
#define AXIS_LABELS_MIN 5 /* how many may be asked for; with fewer an axis may get one tick */
#define AXIS_LABELS_MAX 12
#define AXIS_LABEL_BYTES 32

struct axis_range {
    double lo, hi; /* lo > hi: no value yet */
};

struct axis_tick {
    double value;
    char label[AXIS_LABEL_BYTES]; /* "": between two with a name, on a log axis */
};

struct axis {
    bool log;
    double lo, hi; /* lo < hi; > 0 on a log axis */
    struct axis_tick ticks[AXIS_TICKS_MAX];
    size_t tick_count; /* ascending */
};

enum axis_ends {
    AXIS_TIGHT, /* at the first and last value */
    AXIS_ROUND, /* at ticks around them; from zero where that costs less than half of the room */
    AXIS_ZERO,  /* at ticks, zero included; on a log axis as AXIS_ROUND */
};

bool axis_shows(double value, bool log);
void axis_range_init(struct axis_range *r);
void axis_range_add(struct axis_range *r, double value, bool log); /* if it is shown */
bool axis_range_empty(const struct axis_range *r);

/* About `labels` ticks with a name, and two at least. */
void axis_fit(struct axis *ret, const struct axis_range *range, bool log, enum axis_ends ends,
              size_t labels);
/* 0 at lo, 1 at hi. `value` is one that axis_shows. */
double axis_place(const struct axis *a, double value);

/* A value in three digits and a letter: 12.3, 1.25k, 2.5M. */
void axis_short_number(double value, char ret[AXIS_LABEL_BYTES]);
