/* See timers.h. */
#include "sched/timers.h"

#include <assert.h>

size_t timers_bytes(uint32_t subjects)
{
    return subjects * (sizeof(uint64_t) + 2 * sizeof(uint32_t));
}

void timers_init(struct timers *t, void *memory, uint32_t subjects)
{
    t->at_us = memory;
    t->heap = (uint32_t *)(void *)(t->at_us + subjects);
    t->places = t->heap + subjects;
    t->count = 0;
    t->subjects = subjects;
    for (uint32_t i = 0; i < subjects; i++)
        t->places[i] = UINT32_MAX;
}

/* Earlier, or of a smaller number at the same time. */
static bool is_before(const struct timers *t, uint32_t a, uint32_t b)
{
    return t->at_us[a] < t->at_us[b] || (t->at_us[a] == t->at_us[b] && a < b);
}

static void put(struct timers *t, uint32_t place, uint32_t subject)
{
    t->heap[place] = subject;
    t->places[subject] = place;
}

static void settle(struct timers *t, uint32_t place)
{
    uint32_t subject = t->heap[place];
    for (uint32_t up; place > 0 && is_before(t, subject, t->heap[up = (place - 1) / 2]); place = up)
        put(t, place, t->heap[up]);
    for (uint32_t down; (down = 2 * place + 1) < t->count; place = down) {
        if (down + 1 < t->count && is_before(t, t->heap[down + 1], t->heap[down]))
            down++;
        if (!is_before(t, t->heap[down], subject))
            break;
        put(t, place, t->heap[down]);
    }
    put(t, place, subject);
}

static void clear(struct timers *t, uint32_t subject)
{
    uint32_t place = t->places[subject];
    t->places[subject] = UINT32_MAX;
    if (place == UINT32_MAX || place == --t->count)
        return;
    put(t, place, t->heap[t->count]);
    settle(t, place);
}

void timers_set(struct timers *t, uint32_t subject, uint64_t at_us)
{
    assert(subject < t->subjects);
    if (at_us == TIMERS_NEVER) {
        clear(t, subject);
        return;
    }
    t->at_us[subject] = at_us;
    if (t->places[subject] == UINT32_MAX)
        put(t, t->count++, subject);
    settle(t, t->places[subject]);
}

uint64_t timers_at_us(const struct timers *t, uint32_t subject)
{
    return t->places[subject] == UINT32_MAX ? TIMERS_NEVER : t->at_us[subject];
}

uint64_t timers_next_us(const struct timers *t)
{
    return t->count > 0 ? t->at_us[t->heap[0]] : TIMERS_NEVER;
}

bool timers_take(struct timers *t, uint64_t now_us, uint32_t *ret_subject)
{
    if (t->count == 0 || t->at_us[t->heap[0]] > now_us)
        return false;
    *ret_subject = t->heap[0];
    clear(t, *ret_subject);
    return true;
}
