/*
 * Turns: which domain runs engine steps on a device next, and when the one that runs must yield.
 * The first policy is round robin with a bounded turn: a domain that runs alone is never
 * interrupted, and with M domains at work each waits at most (M - 1) turns.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define BATCH_NONE UINT32_MAX

/* wants[i]: domain i has admitted work. Returns the first that wants after `last` in cyclic order
 * (`last` itself only when no other does), or BATCH_NONE. */
uint32_t batch_next_turn(const bool *wants, uint32_t count, uint32_t last);

/* When the turn that began at turn_began_us must be given up: at once after turn_us when another
 * domain wants the device, never while alone (UINT64_MAX). */
uint64_t batch_turn_ends_us(uint64_t turn_began_us, uint64_t turn_us, bool another_wants);
