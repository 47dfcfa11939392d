/*
 * The future of a world: events by time, those of the same moment in the order in which they were
 * put there. A binary heap that grows.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct heap_event {
    uint64_t at_us;
    uint64_t order;
    uint32_t kind;
    uint32_t index;
    uint32_t detail;
    uint32_t life; /* of what it is about: an event of an earlier life is stale */
};

struct heap {
    struct heap_event *events; /* [capacity]; owned */
    size_t count, capacity;
    uint64_t order;
};

void heap_free(struct heap *h);
/* -ENOMEM. The event's order is set here. */
int heap_put(struct heap *h, struct heap_event e);
/* UINT64_MAX when there is none. */
uint64_t heap_next_us(const struct heap *h);
/* There must be one. */
struct heap_event heap_take(struct heap *h);
