/* What the files of paper.h share; private to paper*.c. */
#pragma once

#include "sim/page.h"
#include "sim/paper.h"

#define PAPER_CLASSES 3u
#define PAPER_SYSTEMS_MAX 16u
#define PAPER_STEPS_MAX 16u
#define PAPER_PRICES 6u
#define PAPER_TRACES_MAX 16u
#define PAPER_NORMAL 1u /* the class of rows 9 and 10 */

enum paper_ablation {
    PAPER_WHOLE,
    PAPER_NO_SHARING,
    PAPER_NO_PRELOAD,
    PAPER_NO_OFFLOAD,
    PAPER_NO_BATCHING,
    PAPER_ABLATIONS,
};

/* Some systems over some steps of one thing: devices, requests a second, a price. */
struct paper_sweep {
    const struct system *systems[PAPER_SYSTEMS_MAX];
    size_t system_count, step_count;
    double x[PAPER_STEPS_MAX];
    struct figures figures[PAPER_SYSTEMS_MAX][PAPER_STEPS_MAX];
};

struct paper {
    const struct paper_options *o;
    uint32_t backbones[2]; /* of the profile: 7B, 13B */
    const struct system *systems[PAPER_SYSTEMS_MAX];
    size_t system_count;
    struct figures whole[PAPER_SYSTEMS_MAX][PAPER_CLASSES];
    struct figures published[PAPER_ABLATIONS][PAPER_CLASSES];
    struct figures ours[PAPER_ABLATIONS][PAPER_CLASSES];
    struct figures peak[PAPER_SYSTEMS_MAX];
    struct paper_sweep strong, weak, load;
    struct paper_sweep price[PAPER_CLASSES];
    size_t requests[PAPER_CLASSES]; /* of one trace, on average */
};

extern const char *const paper_class_names[PAPER_CLASSES];
extern const char *const paper_ablation_names[PAPER_ABLATIONS];

/* This system, of whatever variant. */
bool paper_is_ours(const struct system *s);
/* The figures of a system by its name. */
const struct figures *paper_whole(const struct paper *p, const char *name, uint32_t class);
const struct figures *paper_peak(const struct paper *p, const char *name);

/* --- paper_rows.c --- */

/* A number of the paper and what became of it. */
struct paper_row {
    const char *number; /* in the paper's list of results */
    const char *what;
    const char *unit;
    double paper;     /* NAN: a claim without a number */
    double published; /* simulated */
    double ours;      /* NAN: has no counterpart here */
    bool is_bound;    /* "up to", "at most": the largest over classes is compared */
    char why[640];    /* where published is more than 20 % off; else "" */
};

#define PAPER_ROWS_MAX 40u
#define PAPER_OFF 0.20

/* Returns how many. */
size_t paper_rows(const struct paper *p, struct paper_row *ret);

/* --- paper_page.c --- */

int paper_page(const struct paper *p, struct error *err);
