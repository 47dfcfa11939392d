/* A replay as one HTML page: what came of it in tables, latencies over time and as distributions,
 * arrivals by function. */
#pragma once

#include "cli/replay_result.h"
#include "sim/page.h"

/* 0 or -ENOMEM; what the page itself cannot take is told by page_close. */
int replay_page_write(struct page *p, const struct result *r);
