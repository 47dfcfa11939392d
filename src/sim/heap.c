/* See heap.h. */
#include "sim/heap.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

void heap_free(struct heap *h)
{
    free(h->events);
    *h = (struct heap){0};
}

static bool is_before(const struct heap_event *a, const struct heap_event *b)
{
    return a->at_us < b->at_us || (a->at_us == b->at_us && a->order < b->order);
}

int heap_put(struct heap *h, struct heap_event e)
{
    if (h->count == h->capacity) {
        size_t capacity = h->capacity > 0 ? 2 * h->capacity : 256;
        struct heap_event *events = realloc(h->events, capacity * sizeof *events);
        if (events == NULL)
            return -ENOMEM;
        h->events = events;
        h->capacity = capacity;
    }
    e.order = h->order++;
    size_t at = h->count++;
    for (size_t up; at > 0 && is_before(&e, &h->events[up = (at - 1) / 2]); at = up)
        h->events[at] = h->events[up];
    h->events[at] = e;
    return 0;
}

uint64_t heap_next_us(const struct heap *h)
{
    return h->count > 0 ? h->events[0].at_us : UINT64_MAX;
}

struct heap_event heap_take(struct heap *h)
{
    assert(h->count > 0);
    struct heap_event first = h->events[0], last = h->events[--h->count];
    size_t at = 0;
    for (size_t down; (down = 2 * at + 1) < h->count; at = down) {
        if (down + 1 < h->count && is_before(&h->events[down + 1], &h->events[down]))
            down++;
        if (!is_before(&h->events[down], &last))
            break;
        h->events[at] = h->events[down];
    }
    if (h->count > 0)
        h->events[at] = last;
    return first;
}
