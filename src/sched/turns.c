/* Whose turn it is on a device, and for how long. See plan.h and policy/batch.h. */
#include "sched/plan.h"

#include <assert.h>

/* How fast the measured contention follows. */
#define CONTENTION_WEIGHT 0.1
/* Rows of prompts that a step takes at least: below, the step's own cost would be all there is. */
#define PROMPT_ROWS_MIN 16u

static bool wants_turn(const struct worker *w)
{
    return w->state == WORKER_READY && w->running.count > 0 && !w->stalled;
}

/* The smallest margin of what the worker runs: to the first tokens that are due, else to the next
 * ones of those that decode. */
static struct batch_contender contender(const struct plan *p, uint32_t index)
{
    const struct sched *s = p->s;
    const struct worker *w = &s->workers[index];
    const struct device *v = &s->devices[w->device];
    const struct cost_step *c = &s->backbones[w->backbone].fit.c;
    double prefill_us = 0, tpot_us = (double)s->config.slo_tpot_us;
    uint64_t deadline_us = UINT64_MAX;
    uint32_t decoding = 0;
    for (uint32_t i = w->running.head; i != SCHED_NONE; i = s->requests[i].next) {
        const struct request *r = &s->requests[i];
        const struct function *f = &s->functions[r->function];
        prefill_us += r->prefill_us;
        if (r->prefill_us > 0)
            deadline_us = r->deadline_us < deadline_us ? r->deadline_us : deadline_us;
        else
            decoding++;
        tpot_us = maths_min(tpot_us, (double)f->slo_tpot_us);
    }
    uint64_t next_us = w->turn_ended_us + maths_us(tpot_us);
    double step_us = cost_turn_us(c, 1, 0, decoding), first_us = c->step_us + prefill_us;
    struct batch_contender b = {.margin_us =
                                    batch_margin_us(next_us, p->now_us, v->contention, step_us),
                                .slack_us = batch_margin_us(next_us, p->now_us, 1, step_us),
                                .first_us = prefill_us > 0 ? first_us : 0,
                                .passed_over = w->passed_over,
                                .index = index};
    if (deadline_us == UINT64_MAX)
        return b;
    double margin_us = batch_margin_us(deadline_us, p->now_us, v->contention, first_us);
    b.margin_us = decoding > 0 ? maths_min(b.margin_us, margin_us) : margin_us;
    return b;
}

static uint32_t gather(struct plan *p, const struct device *v)
{
    struct sched *s = p->s;
    uint32_t count = 0;
    for (uint32_t i = v->workers; i != SCHED_NONE; i = s->workers[i].device_next) {
        if (wants_turn(&s->workers[i]))
            s->contenders[count++] = contender(p, i);
    }
    return count;
}

/* Rows of prompts in a step of the worker, at the pace of those that decode. */
static uint32_t prompt_rows(const struct plan *p, const struct worker *w)
{
    const struct sched *s = p->s;
    double tpot_us = (double)s->config.slo_tpot_us;
    uint32_t decoding = 0;
    for (uint32_t i = w->running.head; i != SCHED_NONE; i = s->requests[i].next) {
        const struct request *r = &s->requests[i];
        if (r->prefill_us > 0)
            continue;
        decoding++;
        tpot_us = maths_min(tpot_us, (double)s->functions[r->function].slo_tpot_us);
    }
    return batch_prompt_rows(&s->backbones[w->backbone].fit.c, tpot_us, decoding, PROMPT_ROWS_MIN,
                             s->config.step_rows_max);
}

static void grant(struct plan *p, uint32_t device, uint32_t count)
{
    struct sched *s = p->s;
    struct device *v = &s->devices[device];
    uint32_t next = batch_next_turn(s->contenders, count);
    v->contention += CONTENTION_WEIGHT * (count - v->contention);
    for (uint32_t i = 0; i < count; i++)
        s->workers[s->contenders[i].index].passed_over++;
    struct worker *w = &s->workers[s->contenders[next].index];
    w->passed_over = 0;
    v->turn_worker = s->contenders[next].index;
    v->turn_revoked = false;
    v->turn_began_us = p->now_us;
    struct sched_action *a = plan_emit(p, SCHED_GRANT);
    a->worker = v->turn_worker;
    a->turn = ++v->turn;
    a->device = device;
    a->rows = prompt_rows(p, w);
}

static bool another_wants(const struct sched *s, const struct device *v)
{
    for (uint32_t i = v->workers; i != SCHED_NONE; i = s->workers[i].device_next)
        if (i != v->turn_worker && wants_turn(&s->workers[i]))
            return true;
    return false;
}

void plan_device(struct plan *p, uint32_t device)
{
    struct sched *s = p->s;
    struct device *v = &s->devices[device];
    if (plan_room(p) < 2) {
        device_look(s, device);
        return;
    }
    if (v->turn_worker == SCHED_NONE) {
        uint32_t count = gather(p, v);
        if (count == 0)
            return;
        grant(p, device, count);
    }
    if (v->turn_revoked)
        return;
    uint64_t ends_us = batch_turn_ends_us(v->turn_began_us, s->config.turn_us, another_wants(s, v));
    if (ends_us <= p->now_us) {
        struct sched_action *a = plan_emit(p, SCHED_REVOKE);
        a->worker = v->turn_worker;
        a->turn = v->turn;
        a->device = device;
        v->turn_revoked = true;
        ends_us = TIMERS_NEVER;
    }
    timers_set(&s->timers, timer_of_device(s, device), ends_us);
}
