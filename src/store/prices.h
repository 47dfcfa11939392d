/*
 * The operator's prices: one JSON object that names every field of struct price_table and nothing
 * else. A price that is left out is a mistake, not a zero: what is free says so.
 *
 *   {"gb_s_active_usd": 0.000003, "gb_s_idle_usd": 0.000003, "device_s_usd": 0.00002,
 *    "request_usd": 0.00000015, "prompt_1k_usd": 0, "cached_1k_usd": 0, "new_1k_usd": 0}
 */
#pragma once

#include "base/error.h"
#include "policy/price.h"

#define PRICES_FILE_BYTES_MAX 65536

/* Reads the file; -EINVAL names the file, the key that is wrong and what it may be. */
int prices_read(const char *path, struct price_table *ret, struct error *err);
