/* What to give up when memory is needed: the idle candidate that was used longest ago. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define OFFLOAD_NONE UINT32_MAX

struct offload_candidate {
    bool idle; /* nothing in use hangs on it */
    uint64_t used_us;
};

/* The index of the victim (ties: the smallest index), or OFFLOAD_NONE when nothing is idle. */
uint32_t offload_victim(const struct offload_candidate *candidates, uint32_t count);
