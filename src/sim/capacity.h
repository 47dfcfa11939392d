/*
 * The capacity question: what share of requests meets its objective, and what is the bill, with K
 * devices? The same requests again with each K, by this system or another.
 */
#pragma once

#include "sim/systems.h"

#define CAPACITY_POINTS_MAX 64u

struct capacity_point {
    uint32_t devices;
    struct figures figures;
};

/* options->devices is not looked at. A K that is too small for a backbone is an error. */
int capacity_run(const struct system *system, const struct system_options *options,
                 const uint32_t *devices, size_t count, struct capacity_point *ret,
                 struct error *err);

/* DIR/capacity.html, in a DIR that exists: a table and plots over K. `what` describes the requests.
 */
int capacity_page(const char *dir, const struct system *system, const char *what,
                  const struct capacity_point *points, size_t count, struct error *err);
