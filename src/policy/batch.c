/* See batch.h. */
#include "policy/batch.h"

#include "policy/maths.h"

uint32_t batch_limit(double slo_us, const struct cost_batch *b, uint32_t most)
{
    if (slo_us <= b->t0_us)
        return 1;
    if (b->alpha_us <= 0)
        return most;
    double n = (slo_us - b->t0_us) / b->alpha_us + 1;
    return n < most ? (uint32_t)n : most;
}

uint64_t batch_due_us(uint64_t oldest_us, double slo_us, const struct cost_batch *b, uint32_t count,
                      double contention, uint64_t window_us)
{
    double delay = slo_us - contention * cost_batch_us(b, count);
    return oldest_us + maths_us(maths_min(delay, (double)window_us));
}

double batch_margin_us(uint64_t deadline_us, uint64_t now_us, double contention, double batch_us)
{
    return (double)deadline_us - (double)now_us - contention * batch_us;
}

static bool is_before(const struct batch_contender *a, const struct batch_contender *b,
                      uint32_t passed_over_max)
{
    bool a_starves = a->passed_over >= passed_over_max;
    bool b_starves = b->passed_over >= passed_over_max;
    if (a_starves != b_starves)
        return a_starves;
    if (a_starves && a->passed_over != b->passed_over)
        return a->passed_over > b->passed_over;
    if (a->margin_us < b->margin_us || a->margin_us > b->margin_us)
        return a->margin_us < b->margin_us;
    return a->index < b->index;
}

/* All who only decode can be put off until this one's first tokens are there. */
static bool can_wait(const struct batch_contender *contenders, uint32_t count,
                     const struct batch_contender *first)
{
    for (uint32_t i = 0; i < count; i++)
        if (contenders[i].first_us <= 0 && contenders[i].slack_us < first->first_us)
            return false;
    return true;
}

uint32_t batch_next_turn(const struct batch_contender *contenders, uint32_t count)
{
    uint32_t best = BATCH_NONE, first = BATCH_NONE, starving = BATCH_PASSED_OVER_MAX * count;
    for (uint32_t i = 0; i < count; i++) {
        const struct batch_contender *c = &contenders[i];
        if (best == BATCH_NONE || is_before(c, &contenders[best], starving))
            best = i;
        if (c->first_us > 0 && (first == BATCH_NONE || is_before(c, &contenders[first], starving)))
            first = i;
    }
    bool is_starved = best != BATCH_NONE && contenders[best].passed_over >= starving;
    if (is_starved || first == BATCH_NONE || !can_wait(contenders, count, &contenders[first]))
        return best;
    return first;
}

uint64_t batch_turn_ends_us(uint64_t turn_began_us, uint64_t turn_us, bool another_wants)
{
    return another_wants ? turn_began_us + turn_us : UINT64_MAX;
}

uint32_t batch_prompt_rows(const struct cost_step *c, double tpot_us, uint32_t decode_rows,
                           uint32_t least, uint32_t most)
{
    if (decode_rows == 0 || c->prompt_us <= 0)
        return most;
    double left = tpot_us - cost_turn_us(c, 1, 0, decode_rows);
    double rows = left / c->prompt_us;
    return rows <= least ? least : rows >= most ? most : (uint32_t)rows;
}

double batch_paced_us(const struct cost_step *c, double prompts_us, uint32_t rows,
                      uint32_t decode_rows, uint32_t most)
{
    double paced_us = cost_turn_us(c, 1, rows, decode_rows) / rows;
    double alone_us = cost_turn_us(c, 1, most, 0) / most;
    return alone_us > 0 ? prompts_us * paced_us / alone_us : prompts_us;
}
