/* LOAD: which copy comes from where. See plan.h. */
#include "sched/plan.h"

/* What comes from the disk passes through the host, and stays there where that is worth more than
 * what is there: then the next load is a short one. Room that has to be made comes too late for
 * this load, and in time for the next. */
static struct copy *take_host_copy(struct plan *p, enum copy_kind kind, uint32_t object,
                                   uint32_t device, uint64_t bytes)
{
    struct sched *s = p->s;
    uint32_t host = sched_host_place(&s->config, s->devices[device].node);
    const struct place *m = &s->places[host];
    if (bytes <= m->budget - m->used)
        return copy_take(s, kind, object, host, SCHED_NONE, p->now_us);
    const struct forecast *f =
        kind == COPY_BACKBONE ? &s->backbones[object].forecast : &s->functions[object].forecast;
    plan_make_room_worth(p, host, bytes,
                         value_of(f, p->now_us, copy_load_us(s, kind, object, host)));
    return NULL;
}

bool plan_load(struct plan *p, enum copy_kind kind, uint32_t object, uint32_t place,
               uint32_t instance)
{
    struct sched *s = p->s;
    if (plan_room(p) == 0)
        return false;
    struct copy *c = copy_take(s, kind, object, place, instance, p->now_us);
    if (!c)
        return false;
    struct sched_action *a = plan_emit(p, SCHED_LOAD);
    a->copy = copy_index(s, c);
    a->place = place;
    a->bytes = c->bytes;
    a->backbone = kind == COPY_BACKBONE ? object : SCHED_NONE;
    a->function = kind == COPY_ADAPTER ? object : SCHED_NONE;
    if (!place_is_device(s, place))
        return true;
    struct copy *host = copy_in_host(s, kind, object, place);
    if (copy_is_ready(host)) {
        a->from = host->place;
        c->from_host = true;
        host->used_us = p->now_us;
    } else if (!host) {
        host = take_host_copy(p, kind, object, place, c->bytes);
        if (host)
            c->host_copy = a->host_copy = copy_index(s, host);
    }
    return true;
}
