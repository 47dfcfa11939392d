/*
 * Addresses on a device of which parts have memory: reserved once, for as much as there may ever
 * be; memory comes when somebody takes a part, and goes when nobody has any of what it lies in. A
 * device hands out memory in large steps, so parts that lie in one step share it.
 */
#pragma once

#include "gpu/memory.h"

#include <stdint.h>

struct gpu_range;

int gpu_range_open(struct gpu_range **ret, const struct gpu_context *c, uint64_t bytes,
                   struct error *err);
void gpu_range_close(struct gpu_range *r);
uint64_t gpu_range_address(const struct gpu_range *r);
/* Bytes of the device that it has. */
uint64_t gpu_range_bytes(const struct gpu_range *r);

/* Each part is taken once before it is given back. -ENOMEM: the device has no room; nothing is
 * taken then. */
int gpu_range_take(struct gpu_range *r, uint64_t offset, uint64_t bytes, struct error *err);
void gpu_range_give_back(struct gpu_range *r, uint64_t offset, uint64_t bytes);
