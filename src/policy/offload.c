/* See offload.h. */
#include "policy/offload.h"

uint32_t offload_victim(const struct offload_candidate *candidates, uint32_t count)
{
    uint32_t victim = OFFLOAD_NONE;
    for (uint32_t i = 0; i < count; i++) {
        if (!candidates[i].idle)
            continue;
        if (victim == OFFLOAD_NONE || candidates[i].used_us < candidates[victim].used_us)
            victim = i;
    }
    return victim;
}
