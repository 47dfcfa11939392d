/* The only readers of the system's clocks. Everything below the event loops takes time as an
 * argument. */
#pragma once

#include <stdint.h>

uint64_t clock_now_us(void);  /* monotonic, microseconds */
uint64_t clock_now_ns(void);  /* monotonic, nanoseconds */
uint64_t clock_wall_us(void); /* microseconds since 1970, UTC */
