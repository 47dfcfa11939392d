/*
 * When the next request of a function comes. Two pictures, as in "Serverless in the Wild" (Shahrad
 * et al., ATC 2020): an arrival rate that forgets, and a histogram of the times between requests,
 * which answers what a rate cannot: how likely one is soon, given that none has come for a while.
 */
#pragma once

#include <stdint.h>

/* Bin b is of times of [2^b, 2^(b + 1)) units of 1,024 us: from a millisecond to three days. */
#define FORECAST_BINS 28u
#define FORECAST_UNIT_US 1024u

struct forecast {
    uint64_t first_us, last_us; /* its beginning; the latest arrival, or the beginning */
    uint64_t arrivals;
    double weight; /* arrivals, each halved every FORECAST_HALF_US, at last_us */
    double error;  /* see forecast_error */
    uint16_t longer[FORECAST_BINS + 1]; /* times of bin b and above: one look for an answer */
};

#define FORECAST_HALF_US (600 * UINT64_C(1000000))

/* From now on there may be requests: until the first, one in a minute is expected, and ever fewer.
 */
void forecast_begin(struct forecast *f, uint64_t now_us);

/* A clock that stands still or jumps back counts as the same moment. */
void forecast_arrival(struct forecast *f, uint64_t now_us);

/* Arrivals a second. */
double forecast_rate(const struct forecast *f, uint64_t now_us);

/* The probability that no request comes within `within_us` from now, given that none has come since
 * the last. */
double forecast_none_within(const struct forecast *f, uint64_t now_us, uint64_t within_us);

/* The same for several times from one moment: what they share is computed once. */
struct forecast_outlook {
    const struct forecast *f;
    double rate, idle_us, weight;
};

struct forecast_outlook forecast_look(const struct forecast *f, uint64_t now_us);
double forecast_none(const struct forecast_outlook *o, uint64_t within_us);

/* How far the median forecast of the time to the next request was off, as a mean factor: 1 is
 * exact, 2 is half or double. 0 before there is one. */
double forecast_error(const struct forecast *f);
