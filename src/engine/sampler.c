/* See sampler.h. */
#include "engine/sampler.h"

#include <assert.h>
#include <math.h>

#include "base/rng.h"

/* Tokens less likely than the best by more than e^32 are left out before anything else: all of them
 * together weigh less than 1e-8 of the best, less than one rounding of a float. */
#define SAMPLER_SPREAD 32.0

#define SAMPLER_LOGPROB_MIN (-9999.0f)

/* --- edits --- */

static bool penalises_repetition(const struct engine_penalties *p)
{
    return p->repetition != 0 && p->repetition != 1;
}

static bool penalises_generated(const struct engine_penalties *p)
{
    return p->presence != 0 || p->frequency != 0;
}

uint32_t sampler_edits_max(const struct engine_request *r, uint32_t vocab_count)
{
    uint64_t count = r->bias_count;
    if (r->tokens_new_min > 0)
        count += r->stop_token_count;
    if (penalises_repetition(&r->penalties))
        count += (uint64_t)r->token_count + r->tokens_new_max;
    else if (penalises_generated(&r->penalties))
        count += r->tokens_new_max;
    return count < vocab_count ? (uint32_t)count : vocab_count;
}

/* The logits to be edited, each once. Of a token, scratch holds whether it is among them and how
 * often it was generated. */
struct edits {
    const float *logits;
    struct sampler_candidate *scratch;
    struct sampler_candidate *saved;
    uint32_t count;
};

#define EDIT_SAVED 0x80000000u

static void save(struct edits *e, uint32_t token)
{
    if (e->scratch[token].token & EDIT_SAVED)
        return;
    e->scratch[token].token = EDIT_SAVED;
    e->saved[e->count++] = (struct sampler_candidate){e->logits[token], token};
}

static void penalise(const struct engine_penalties *p, uint32_t generated, float *logit)
{
    if (penalises_repetition(p))
        *logit = *logit > 0 ? *logit / p->repetition : *logit * p->repetition;
    *logit -= p->frequency * (float)generated;
    if (generated > 0)
        *logit -= p->presence;
}

uint32_t sampler_edit(float *logits, const struct engine_request *r, const struct sampler_known *k,
                      struct sampler_candidate *scratch, struct sampler_candidate *ret_saved)
{
    struct edits e = {logits, scratch, ret_saved, 0};
    bool repetition = penalises_repetition(&r->penalties);
    bool penalties = repetition || penalises_generated(&r->penalties);
    uint32_t first = !penalties ? k->token_count : repetition ? 0 : k->prompt_count;
    bool mask = k->token_count - k->prompt_count < r->tokens_new_min;
    uint32_t stop_count = mask ? r->stop_token_count : 0;

    for (uint32_t i = first; i < k->token_count; i++)
        scratch[k->tokens[i]].token = 0;
    for (uint32_t i = 0; i < r->bias_count; i++)
        scratch[r->biases[i].token].token = 0;
    for (uint32_t i = 0; i < stop_count; i++)
        scratch[r->stop_tokens[i]].token = 0;

    for (uint32_t i = first; i < k->token_count; i++) {
        save(&e, k->tokens[i]);
        scratch[k->tokens[i]].token += i >= k->prompt_count;
    }
    uint32_t penalised = e.count;
    for (uint32_t i = 0; i < r->bias_count; i++) {
        save(&e, r->biases[i].token);
        logits[r->biases[i].token] += r->biases[i].bias;
    }
    for (uint32_t i = 0; i < stop_count; i++) {
        save(&e, r->stop_tokens[i]);
        logits[r->stop_tokens[i]] = -INFINITY;
    }
    for (uint32_t i = 0; i < penalised; i++) {
        uint32_t token = ret_saved[i].token;
        penalise(&r->penalties, scratch[token].token & ~EDIT_SAVED, &logits[token]);
    }
    return e.count;
}

void sampler_restore(float *logits, const struct sampler_candidate *saved, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        logits[saved[i].token] = saved[i].logit;
}

/* --- draws --- */

static double draw_unit(uint64_t seed, uint64_t draw_index)
{
    struct rng r;
    rng_seed(&r, seed);
    rng_seed(&r, rng_u64(&r) ^ draw_index);
    return rng_unit(&r);
}

static bool before(struct sampler_candidate a, struct sampler_candidate b)
{
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

static void sift_down(struct sampler_candidate *heap, uint32_t count, uint32_t i)
{
    struct sampler_candidate moving = heap[i];
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= count)
            break;
        if (child + 1 < count && before(heap[child + 1], heap[child]))
            child++;
        if (!before(heap[child], moving))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = moving;
}

static void heapify(struct sampler_candidate *heap, uint32_t count)
{
    for (uint32_t i = count / 2; i-- > 0;)
        sift_down(heap, count, i);
}

/* Moves the most likely of the heap [0, count) to its end, [count - 1]. */
static void pop(struct sampler_candidate *heap, uint32_t count)
{
    struct sampler_candidate best = heap[0];
    heap[0] = heap[count - 1];
    heap[count - 1] = best;
    sift_down(heap, count - 1, 0);
}

/* Relative to the best, which weighs 1. */
static float weight(float logit, float best, double temperature)
{
    return expf((float)(((double)logit - best) / temperature));
}

/* Every token within the spread. */
static uint32_t gather(const float *logits, uint32_t vocab_count, float best, double temperature,
                       struct sampler_candidate *ret)
{
    uint32_t count = 0;
    float least = (float)(best - SAMPLER_SPREAD * temperature);
    for (uint32_t i = 0; i < vocab_count; i++) {
        if (logits[i] >= least)
            ret[count++] = (struct sampler_candidate){logits[i], i};
    }
    return count;
}

/* Draws from candidates in the order they stand, c[0], c[step], c[2 step], ..., turning their
 * logits into weights. */
static uint32_t draw_from(struct sampler_candidate *c, uint32_t count, int step, float best,
                          const struct engine_sampling *s, double unit)
{
    double sum = 0;
    uint32_t last = c[0].token;
    for (uint32_t i = 0; i < count; i++) {
        struct sampler_candidate *one = &c[(ptrdiff_t)i * step];
        float w = weight(one->logit, best, s->temperature);
        one->logit = w >= s->min_p ? w : 0;
        sum += one->logit;
    }
    unit *= sum;
    for (uint32_t i = 0; i < count; i++) {
        const struct sampler_candidate *one = &c[(ptrdiff_t)i * step];
        if (one->logit == 0)
            continue;
        last = one->token;
        unit -= one->logit;
        if (unit < 0)
            break;
    }
    return last;
}

/* How many of the most likely candidates top-k and top-p keep; leaves them at the array's end, the
 * best last. */
static uint32_t keep_most_likely(struct sampler_candidate *c, uint32_t count, float best,
                                 const struct engine_sampling *s)
{
    uint32_t limit = s->top_k && s->top_k < count ? s->top_k : count;
    uint32_t popped = 0;
    double total = 0, sum = 0;
    heapify(c, count);
    if (limit < count) { /* top-p is a share of what top-k leaves */
        for (; popped < limit; popped++) {
            pop(c, count - popped);
            total += weight(c[count - popped - 1].logit, best, s->temperature);
        }
    } else {
        for (uint32_t i = 0; i < count; i++)
            total += weight(c[i].logit, best, s->temperature);
    }
    if (s->top_p >= 1)
        return limit;
    for (uint32_t kept = 0; kept < limit;) {
        if (kept == popped)
            pop(c, count - popped++);
        sum += weight(c[count - ++kept].logit, best, s->temperature);
        if (sum >= s->top_p * total)
            return kept;
    }
    return limit;
}

uint32_t sampler_draw(const struct kernels *k, const float *logits, uint32_t vocab_count,
                      const struct engine_sampling *s, uint64_t draw_index,
                      struct sampler_candidate *scratch)
{
    uint32_t best_token = k->argmax(logits, vocab_count);
    assert(best_token < vocab_count);
    float best = logits[best_token];
    if (s->temperature == 0 || !isfinite(best))
        return best_token;

    double unit = draw_unit(s->seed, draw_index);
    uint32_t count = gather(logits, vocab_count, best, s->temperature, scratch);
    if (count == 0)
        return best_token;
    bool all = s->top_p >= 1 && (s->top_k == 0 || s->top_k >= count);
    if (all)
        return draw_from(scratch, count, 1, best, s, unit);
    uint32_t kept = keep_most_likely(scratch, count, best, s);
    return draw_from(scratch + count - 1, kept, -1, best, s, unit);
}

float sampler_logprob(float logit, double log_sum_exp)
{
    double p = logit - log_sum_exp;
    return p >= SAMPLER_LOGPROB_MIN ? (float)p : SAMPLER_LOGPROB_MIN;
}

uint32_t sampler_top(const float *logits, uint32_t vocab_count, double log_sum_exp, uint32_t count,
                     struct engine_logprob *ret)
{
    struct sampler_candidate top[ENGINE_TOP_LOGPROBS_MAX];
    uint32_t found = 0;
    assert(count <= ENGINE_TOP_LOGPROBS_MAX);
    if (count == 0)
        return 0;
    for (uint32_t i = 0; i < vocab_count; i++) {
        if (found == count && !(logits[i] > top[count - 1].logit))
            continue;
        uint32_t at = found < count ? found++ : count - 1;
        for (; at > 0 && logits[i] > top[at - 1].logit; at--)
            top[at] = top[at - 1];
        top[at] = (struct sampler_candidate){logits[i], i};
    }
    for (uint32_t i = 0; i < found; i++) {
        ret[i].token = top[i].token;
        ret[i].logprob = sampler_logprob(top[i].logit, log_sum_exp);
    }
    return found;
}
