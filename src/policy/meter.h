/*
 * Who has used how much of a memory, for how long. A clock runs over some bytes; while n share them
 * each has 1 / n of what passes, while nobody does it passes for the owner alone. One number per
 * clock and one per sharer, whatever their number: what a sharer has had is the difference of the
 * clock's `each` between joining and leaving. All is exact but for rounding, and everything that
 * passed is somebody's: passed = sum over sharers + alone.
 */
#pragma once

#include <stdint.h>

struct meter_clock {
    double each;   /* byte us that every sharer present since the start would have had */
    double alone;  /* byte us while nobody shared */
    double passed; /* byte us in all */
    uint64_t bytes;
    uint64_t at_us;
    uint32_t sharers;
};

/* Lets time pass up to now; a clock that stands still or jumps back adds nothing. */
void meter_advance(struct meter_clock *m, uint64_t now_us);
void meter_set_bytes(struct meter_clock *m, uint64_t now_us, uint64_t bytes);
/* Returns the mark to leave with. */
double meter_join(struct meter_clock *m, uint64_t now_us);
/* Byte us that the sharer had since it joined with this mark. */
double meter_leave(struct meter_clock *m, uint64_t now_us, double mark);
/* What passed alone until now, and begins anew. */
double meter_take_alone(struct meter_clock *m, uint64_t now_us);
