/* See keepalive.h. */
#include "policy/keepalive.h"

uint64_t keepalive_ends_us(uint64_t idle_since_us, uint64_t keep_alive_us)
{
    if (keep_alive_us > UINT64_MAX - idle_since_us)
        return UINT64_MAX;
    return idle_since_us + keep_alive_us;
}
