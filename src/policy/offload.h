/*
 * What to give up when memory is needed: the least valuable per byte first, until enough is free
 * (the paper, 4.3, equations 6 and 7). A backbone goes only with everything that hangs on it: it is
 * a candidate as a whole, beside those parts of it that may go alone. What a running batch uses is
 * never a candidate, nor is a whole that contains it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct offload_candidate {
    double value;         /* waiting that it is expected to save, by any unit that all share */
    uint64_t bytes;       /* that come free, > 0; of a whole: with all its parts */
    uint32_t kind, index; /* the caller's; they decide between equals */
    uint32_t group;       /* parts and whole have the same */
    bool is_whole;
};

/* Reorders the candidates so that the first n are to go, and returns n: in ascending density until
 * they free `bytes`, less those that turn out not to be needed beside denser ones. A part is not
 * among them where its whole is. 0 when all together do not suffice: then nothing is to go. */
uint32_t offload_choose(struct offload_candidate *candidates, uint32_t count, uint64_t bytes);
