/* See meter.h. */
#include "policy/meter.h"

#include <assert.h>

void meter_advance(struct meter_clock *m, uint64_t now_us)
{
    if (now_us <= m->at_us)
        return;
    double passed = (double)m->bytes * (double)(now_us - m->at_us);
    m->passed += passed;
    if (m->sharers > 0)
        m->each += passed / m->sharers;
    else
        m->alone += passed;
    m->at_us = now_us;
}

void meter_set_bytes(struct meter_clock *m, uint64_t now_us, uint64_t bytes)
{
    meter_advance(m, now_us);
    m->bytes = bytes;
}

double meter_join(struct meter_clock *m, uint64_t now_us)
{
    meter_advance(m, now_us);
    m->sharers++;
    return m->each;
}

double meter_leave(struct meter_clock *m, uint64_t now_us, double mark)
{
    assert(m->sharers > 0);
    meter_advance(m, now_us);
    m->sharers--;
    return m->each - mark;
}

double meter_take_alone(struct meter_clock *m, uint64_t now_us)
{
    meter_advance(m, now_us);
    double alone = m->alone;
    m->alone = 0;
    return alone;
}
