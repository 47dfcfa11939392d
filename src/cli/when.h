/*
 * Points in time as people write them: 2025-11-25T09:30:00Z (RFC 3339), 2025-11-25 (its beginning,
 * UTC), or 90s, 30m, 2h, 7d, 4w: so long before now.
 */
#pragma once

#include <stdint.h>

/* Microseconds since 1970; -EINVAL when it is none of these. */
int when_parse(const char *text, uint64_t now_us, uint64_t *ret_us);
