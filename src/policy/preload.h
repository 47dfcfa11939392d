/*
 * What to load ahead of need: the precedence-constrained knapsack of the paper (4.1). An artifact
 * has a value (waiting that it saves, times how often), a weight in bytes and at most one other
 * that it needs: an adapter its backbone, a started process its backbone, kernels their context. A
 * shared artifact's value counts everybody who needs it. One call plans one memory.
 *
 * Greedy by density, as in the paper, but by that of sets: an artifact is worth little without what
 * hangs on it, so what is compared are the densest sets that begin at one (Sidney's decomposition
 * of a forest, 1975). Then the same again with each of the most valuable artifacts taken first, for
 * what a knapsack loses is a large thing that did not fit any more; the best of all is the plan.
 * Deterministic: between equals the smaller index goes first.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define PRELOAD_NONE UINT32_MAX

struct preload_item {
    double value; /* >= 0 */
    uint64_t bytes;
    uint32_t needs; /* the index of an earlier item, or PRELOAD_NONE */
    bool chosen;    /* in: it is there for good and its bytes are not in the capacity any more; out:
                     * to be there, along with what it needs */
};

/* Working memory for one item. */
struct preload_node {
    double value;
    uint64_t bytes;
    uint32_t left, right, rank; /* in a leftist heap of sets */
    uint32_t next;              /* sets that follow this one: the top of a heap */
    uint32_t member, last;      /* the list of the set's items */
    bool chosen, best;
};

/* Returns the value of what was chosen beyond what was so before. */
double preload_plan(struct preload_item *items, uint32_t count, uint64_t capacity,
                    struct preload_node *nodes);
