/*
 * When to look again: one moment for each of a fixed set of subjects, the earliest first. A binary
 * heap in the caller's arrays; setting, clearing and taking cost the logarithm of how many are set.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TIMERS_NEVER UINT64_MAX

struct timers {
    uint64_t *at_us;  /* [subjects] */
    uint32_t *heap;   /* [subjects] */
    uint32_t *places; /* [subjects]: where it stands in the heap, UINT32_MAX: it is not set */
    uint32_t count;
    uint32_t subjects;
};

size_t timers_bytes(uint32_t subjects);
void timers_init(struct timers *t, void *memory, uint32_t subjects);
/* TIMERS_NEVER clears. */
void timers_set(struct timers *t, uint32_t subject, uint64_t at_us);
uint64_t timers_at_us(const struct timers *t, uint32_t subject); /* TIMERS_NEVER: not set */
/* The earliest, TIMERS_NEVER when none is set. */
uint64_t timers_next_us(const struct timers *t);
/* Clears and returns the earliest that is due; false when none is. */
bool timers_take(struct timers *t, uint64_t now_us, uint32_t *ret_subject);
