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

/* What a worker runs. */
struct work {
    double prompts_us;     /* of prompts that are not computed */
    uint64_t first_due_us; /* of their first tokens the one that is due first, */
    uint64_t next_due_us;  /* of the next tokens of those that decode, */
    uint64_t paced_due_us; /* and of those at their pace */
    double tpot_us;        /* the pace */
    uint32_t decoding;
};

/* Each token of an answer has a time from the arrival on, as if the first had come just in time. At
 * its pace it comes TPOT after the one before; one that is late has its pace still. */
static void look_at_answer(const struct sched *s, const struct request *r, struct work *k)
{
    const struct worker *w = &s->workers[r->worker];
    uint64_t tpot_us = s->functions[r->function].slo_tpot_us;
    uint64_t last_us = r->receipt.arrived_us + r->receipt.first_us;
    last_us = w->decoded_us > last_us ? w->decoded_us : last_us;
    uint64_t paced_us = last_us + tpot_us;
    uint64_t due_us = r->deadline_us + (w->decoded - r->decoded_mark + 1) * tpot_us;
    due_us = due_us > paced_us ? due_us : paced_us;
    k->next_due_us = due_us < k->next_due_us ? due_us : k->next_due_us;
    k->paced_due_us = paced_us < k->paced_due_us ? paced_us : k->paced_due_us;
    k->tpot_us = maths_min(k->tpot_us, (double)tpot_us);
    k->decoding++;
}

static struct work look_at_work(const struct sched *s, const struct worker *w)
{
    struct work k = {.first_due_us = UINT64_MAX,
                     .next_due_us = UINT64_MAX,
                     .paced_due_us = UINT64_MAX,
                     .tpot_us = (double)s->config.slo_tpot_us};
    for (uint32_t i = w->running.head; i != SCHED_NONE; i = s->requests[i].next) {
        const struct request *r = &s->requests[i];
        if (r->prefill_us <= 0) {
            look_at_answer(s, r, &k);
            continue;
        }
        k.prompts_us += r->prefill_us;
        k.first_due_us = r->deadline_us < k.first_due_us ? r->deadline_us : k.first_due_us;
    }
    return k;
}

/* The smallest margin of what the worker runs: to the first tokens that are due, else to the next
 * ones of those that decode, at their pace. */
static struct batch_contender contender(const struct plan *p, uint32_t index)
{
    const struct sched *s = p->s;
    const struct worker *w = &s->workers[index];
    const struct cost_step *c = &s->backbones[w->backbone].fit.c;
    struct work k = look_at_work(s, w);
    double contention = s->devices[w->device].contention;
    double step_us = cost_turn_us(c, 1, 0, k.decoding), first_us = c->step_us + k.prompts_us;
    struct batch_contender b = {.margin_us =
                                    batch_margin_us(k.paced_due_us, p->now_us, contention, step_us),
                                .slack_us = batch_margin_us(k.next_due_us, p->now_us, 1, step_us),
                                .first_us = k.prompts_us > 0 ? first_us : 0,
                                .passed_over = w->passed_over,
                                .index = index};
    if (k.prompts_us <= 0)
        return b;
    double margin_us = batch_margin_us(k.first_due_us, p->now_us, contention, first_us);
    b.margin_us = k.decoding > 0 ? maths_min(b.margin_us, margin_us) : margin_us;
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

/* How a worker's steps are made up. */
struct pace {
    bool prompts_first;
    uint32_t rows;     /* of prompts in a step */
    uint64_t until_us; /* then the next token of who waits for prompts is due */
};

/* Beside those that decode prompts take what the pace leaves, as long as that brings their first
 * tokens in time. Where it does not, those that decode wait, until a token of theirs is due; where
 * they do already, until no prompt is left. */
static struct pace pace_of(const struct plan *p, const struct worker *w, bool is_first)
{
    const struct sched *s = p->s;
    const struct cost_step *c = &s->backbones[w->backbone].fit.c;
    struct work k = look_at_work(s, w);
    uint32_t most = s->config.step_rows_max;
    uint32_t rows = batch_prompt_rows(c, k.tpot_us, k.decoding, PROMPT_ROWS_MIN, most);
    struct pace pace = {.rows = rows, .until_us = UINT64_MAX};
    if (k.prompts_us <= 0 || k.decoding == 0)
        return pace;
    double paced_us = batch_paced_us(c, k.prompts_us, rows, k.decoding, most);
    double contention = s->devices[w->device].contention;
    double wait_us = cost_turn_us(c, 1, most, 0) + cost_turn_us(c, 1, 0, k.decoding);
    uint64_t last_us = p->now_us + maths_us(wait_us); /* of a step more, and one of theirs */
    bool is_short =
        is_first || batch_margin_us(k.first_due_us, p->now_us, contention, paced_us) < 0;
    if (is_short && k.next_due_us > last_us)
        pace = (struct pace){true, most, p->now_us + (k.next_due_us - last_us)};
    return pace;
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
    struct pace pace = pace_of(p, w, false);
    a->rows = pace.rows;
    a->prompts_first = v->prompts_first = pace.prompts_first;
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
    struct pace pace = pace_of(p, &s->workers[v->turn_worker], v->prompts_first);
    if (pace.prompts_first != v->prompts_first)
        ends_us = p->now_us; /* the next turn is of the other kind */
    else if (pace.until_us < ends_us)
        ends_us = pace.until_us;
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
