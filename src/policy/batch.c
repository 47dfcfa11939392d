/* See batch.h. */
#include "policy/batch.h"

#include <assert.h>

uint32_t batch_next_turn(const bool *wants, uint32_t count, uint32_t last)
{
    assert(count > 0);
    uint32_t start = last < count ? last : count - 1;
    for (uint32_t step = 1; step <= count; step++) {
        uint32_t i = (start + step) % count;
        if (wants[i])
            return i;
    }
    return BATCH_NONE;
}

uint64_t batch_turn_ends_us(uint64_t turn_began_us, uint64_t turn_us, bool another_wants)
{
    return another_wants ? turn_began_us + turn_us : UINT64_MAX;
}
