/* How long a domain's worker stays after its last request. The first policy is a fixed time; scale
 * to zero is the normal end. */
#pragma once

#include <stdint.h>

/* The moment at which a worker idle since idle_since_us is ended. */
uint64_t keepalive_ends_us(uint64_t idle_since_us, uint64_t keep_alive_us);
