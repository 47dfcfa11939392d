/* See sampler.h. */
#include "engine/sampler.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "model/config.h"

/* Tokens less likely than the best by more than e^32 are left out before anything else: all of them
 * together weigh less than 1e-8 of the best, less than one rounding of a float. */
#define SAMPLER_SPREAD 32.0

#define SAMPLER_LOGPROB_MIN (-9999.0f)

/* Logits that are weighed at a time: they and their weights stay in the nearest cache. */
#define BLOCK 1024u
#define BLOCKS_MAX ((MODEL_VOCAB_MAX + BLOCK - 1) / BLOCK)

/* So many are sorted: all that are left, or a sample of more. */
#define SORTED_MAX 256u

/* Standard deviations that a bracket reaches to each side of what a sample suggests. */
#define BRACKET_MARGIN 3.0

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
    union sampler_scratch *scratch;
    struct sampler_candidate *saved;
    uint32_t count;
};

#define EDIT_SAVED 0x80000000u

static void save(struct edits *e, uint32_t token)
{
    if (e->scratch[token].mark & EDIT_SAVED)
        return;
    e->scratch[token].mark = EDIT_SAVED;
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
                      union sampler_scratch *scratch, struct sampler_candidate *ret_saved)
{
    struct edits e = {logits, scratch, ret_saved, 0};
    bool repetition = penalises_repetition(&r->penalties);
    bool penalties = repetition || penalises_generated(&r->penalties);
    uint32_t first = !penalties ? k->token_count : repetition ? 0 : k->prompt_count;
    bool mask = k->token_count - k->prompt_count < r->tokens_new_min;
    uint32_t stop_count = mask ? r->stop_token_count : 0;

    for (uint32_t i = first; i < k->token_count; i++)
        scratch[k->tokens[i]].mark = 0;
    for (uint32_t i = 0; i < r->bias_count; i++)
        scratch[r->biases[i].token].mark = 0;
    for (uint32_t i = 0; i < stop_count; i++)
        scratch[r->stop_tokens[i]].mark = 0;

    for (uint32_t i = first; i < k->token_count; i++) {
        save(&e, k->tokens[i]);
        scratch[k->tokens[i]].mark += i >= k->prompt_count;
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
        penalise(&r->penalties, scratch[token].mark & ~EDIT_SAVED, &logits[token]);
    }
    return e.count;
}

void sampler_restore(float *logits, const struct sampler_candidate *saved, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        logits[saved[i].token] = saved[i].logit;
}

/* --- draws --- */

double sampler_unit(uint64_t seed, uint64_t draw_index)
{
    struct rng r;
    rng_seed(&r, seed);
    rng_seed(&r, rng_u64(&r) ^ draw_index);
    return rng_unit(&r);
}

/* How logits become weights: relative to the best, which weighs 1. */
struct scale {
    const struct kernels *kernels;
    float best;
    float inverse_temperature; /* 0: each weighs 1 */
};

/* What the filters keep: the logits above `least`, and of those equal to it the first `equals`. */
struct cut {
    float least;
    uint32_t equals; /* UINT32_MAX: all */
};

static uint32_t block_end(uint32_t begin, uint32_t count)
{
    return count - begin < BLOCK ? count : begin + BLOCK;
}

/* What those of x that reach `least` weigh together. */
static double weigh(const struct scale *s, const float *x, uint32_t count, float least)
{
    float weights[BLOCK];
    double sum = 0;
    for (uint32_t i = 0; i < count; i += BLOCK)
        sum += s->kernels->weigh(weights, x + i, block_end(i, count) - i, s->best,
                                 s->inverse_temperature, least);
    return sum;
}

/* --- order --- */

static void sift_down(float *heap, uint32_t count, uint32_t i)
{
    float moving = heap[i];
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= count)
            break;
        if (child + 1 < count && heap[child + 1] < heap[child])
            child++;
        if (!(heap[child] < moving))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = moving;
}

static void sort_descending(float *x, uint32_t count)
{
    for (uint32_t i = count / 2; i-- > 0;)
        sift_down(x, count, i);
    for (uint32_t i = count; i-- > 1;) {
        float least = x[0];
        x[0] = x[i];
        x[i] = least;
        sift_down(x, i, 0);
    }
}

/* Of each block; -infinity where there is no number. Returns how many blocks there are. */
static uint32_t find_maxima(const struct kernels *k, const float *logits, uint32_t vocab_count,
                            float *ret)
{
    uint32_t blocks = 0;
    for (uint32_t i = 0; i < vocab_count; i += BLOCK) {
        float largest = logits[i + k->argmax(logits + i, block_end(i, vocab_count) - i)];
        ret[blocks++] = isnan(largest) ? -INFINITY : largest;
    }
    return blocks;
}

/* What at least `count` > 0 logits reach, and not many more where the likely ones are spread over
 * the vocabulary; -infinity where there are fewer blocks. */
static float reached_by(const float *maxima, uint32_t blocks, uint32_t count)
{
    float sorted[BLOCKS_MAX];
    if (count > blocks)
        return -INFINITY;
    memcpy(sorted, maxima, blocks * sizeof(*sorted));
    sort_descending(sorted, blocks);
    return sorted[count - 1];
}

/* --- filters --- */

struct bracket {
    float least, most;
};

/* Where the least of x probably stands that is kept if those dropped are to weigh `dropped`: in a
 * sample, that is within `margin` standard deviations of what its least weigh together. A margin of
 * 0: one value of x. */
static struct bracket guess(const struct scale *s, const float *x, uint32_t count, double dropped,
                            double margin)
{
    float sample[SORTED_MAX], weights[SORTED_MAX];
    for (uint32_t i = 0; i < SORTED_MAX; i++)
        sample[i] = x[(uint64_t)i * count / SORTED_MAX];
    sort_descending(sample, SORTED_MAX);
    s->kernels->weigh(weights, sample, SORTED_MAX, s->best, s->inverse_temperature, -FLT_MAX);
    struct bracket b = {sample[0], margin > 0 ? INFINITY : sample[0]};
    double sum = 0, squares = 0;
    bool has_least = false;
    dropped *= (double)SORTED_MAX / count;
    for (uint32_t i = SORTED_MAX; i-- > 0;) {
        sum += weights[i];
        squares += (double)weights[i] * weights[i];
        double deviation = margin * sqrt(squares);
        if (!has_least && sum + deviation >= dropped) {
            b.least = sample[i];
            has_least = true;
        }
        if (sum - deviation >= dropped) {
            b.most = sample[i];
            break;
        }
    }
    return b;
}

/* The first of x [count <= SORTED_MAX] that weigh `goal` together. Sorts x. */
static struct cut cut_sorted(const struct scale *s, float *x, uint32_t count, double goal)
{
    float weights[SORTED_MAX];
    uint32_t last = 0;
    sort_descending(x, count);
    s->kernels->weigh(weights, x, count, s->best, s->inverse_temperature, -FLT_MAX);
    for (double sum = weights[0]; sum < goal && last + 1 < count;)
        sum += weights[++last];
    struct cut cut = {x[last], UINT32_MAX};
    if (last + 1 < count && x[last + 1] == x[last])
        for (cut.equals = 1; cut.equals <= last && x[last - cut.equals] == x[last];)
            cut.equals++;
    return cut;
}

/*
 * The fewest of the largest of x [count] that weigh `goal` > 0 together, of all that weigh `mass`.
 * Each round brackets the least of them and keeps what may be it: about a tenth, unless the sample
 * misleads. x is overwritten.
 */
static struct cut cut_at(const struct scale *s, float *x, uint32_t count, double mass, double goal)
{
    const struct kernels *k = s->kernels;
    double margin = BRACKET_MARGIN;
    while (count > SORTED_MAX) {
        struct bracket b = guess(s, x, count, mass - goal, margin);
        float over_most = nextafterf(b.most, INFINITY);
        double over = isinf(b.most) ? 0 : weigh(s, x, count, over_most);
        double from = weigh(s, x, count, b.least);
        uint32_t before = count;
        if (over >= goal) {
            count = k->select(x, x, count, over_most, INFINITY);
            mass = over;
        } else if (from >= goal) {
            count = k->select(x, x, count, b.least, b.most);
            mass = from - over;
            goal -= over;
            if (b.least == b.most)
                return (struct cut){b.least, (uint32_t)ceil(goal / (mass / count))};
        } else {
            count = k->select(x, x, count, -FLT_MAX, nextafterf(b.least, -INFINITY));
            mass -= from;
            goal -= from;
            if (count == 0) /* the goal is all of it, but for roundings */
                return (struct cut){b.least, UINT32_MAX};
        }
        /* One value divides x for certain, unless all are equal to it. */
        margin = count < before / 2 ? BRACKET_MARGIN : 0;
    }
    return cut_sorted(s, x, count, goal);
}

static struct cut cut_top_k(const struct scale *s, const float *logits, uint32_t vocab_count,
                            uint32_t top_k, float least, float *scratch)
{
    float maxima[BLOCKS_MAX];
    const struct scale counting = {s->kernels, s->best, 0};
    uint32_t blocks = find_maxima(s->kernels, logits, vocab_count, maxima);
    least = fmaxf(least, reached_by(maxima, blocks, top_k));
    uint32_t count = s->kernels->select(scratch, logits, vocab_count, least, INFINITY);
    if (count <= top_k)
        return (struct cut){least, UINT32_MAX};
    return cut_at(&counting, scratch, count, count, top_k);
}

/* Of what `cut` keeps, at most `kept_max`. */
static struct cut cut_top_p(const struct scale *s, const float *logits, uint32_t vocab_count,
                            double top_p, struct cut cut, uint32_t kept_max, float *scratch)
{
    uint32_t count = s->kernels->select(scratch, logits, vocab_count, cut.least, INFINITY);
    for (uint32_t i = 0; count > kept_max;) { /* more are equal to the least than are kept */
        if (scratch[i] == cut.least)
            scratch[i] = scratch[--count];
        else
            i++;
    }
    double mass = weigh(s, scratch, count, -FLT_MAX);
    struct cut narrower = cut_at(s, scratch, count, mass, top_p * mass);
    if (narrower.least == cut.least && narrower.equals > cut.equals)
        return cut;
    return narrower;
}

/* What the filters keep, in the order of transformers; top-p is a share of what top-k leaves. */
static struct cut filter(const struct scale *s, const float *logits, uint32_t vocab_count,
                         const struct engine_sampling *sampling, float *scratch)
{
    double temperature = sampling->temperature;
    struct cut cut = {(float)(s->best - SAMPLER_SPREAD * temperature), UINT32_MAX};
    uint32_t kept_max = vocab_count;
    if (sampling->top_k > 0 && sampling->top_k < vocab_count) {
        kept_max = sampling->top_k;
        cut = cut_top_k(s, logits, vocab_count, kept_max, cut.least, scratch);
    }
    if (sampling->top_p < 1)
        cut = cut_top_p(s, logits, vocab_count, sampling->top_p, cut, kept_max, scratch);
    if (sampling->min_p > 0) {
        float least = (float)(s->best + temperature * log(sampling->min_p));
        if (least > cut.least)
            cut = (struct cut){least, UINT32_MAX};
    }
    return cut;
}

/* --- draws --- */

/* Behind the last token that `cut` keeps of those equal to its least. */
static uint32_t find_equals_end(const float *logits, uint32_t vocab_count, const struct cut *cut)
{
    uint32_t end = 0;
    if (cut->equals == UINT32_MAX)
        return vocab_count;
    for (uint32_t equals = cut->equals; equals > 0 && end < vocab_count; end++)
        equals -= logits[end] == cut->least;
    return end;
}

/* The weights of a block, 0 for what is cut off; returns their sum. */
static double weigh_block(const struct scale *s, const float *logits, uint32_t begin, uint32_t end,
                          float least, uint32_t equals_end, float *ret_weights)
{
    uint32_t split = equals_end < begin ? begin : equals_end > end ? end : equals_end;
    double sum = 0;
    if (split > begin)
        sum = s->kernels->weigh(ret_weights, logits + begin, split - begin, s->best,
                                s->inverse_temperature, least);
    if (end > split)
        sum += s->kernels->weigh(ret_weights + (split - begin), logits + split, end - split,
                                 s->best, s->inverse_temperature, nextafterf(least, INFINITY));
    return sum;
}

/* First the block is drawn, then the token. */
static uint32_t draw_from(const struct scale *s, const float *logits, uint32_t vocab_count,
                          const struct cut *cut, double unit)
{
    double sums[BLOCKS_MAX], total = 0;
    float weights[BLOCK];
    uint32_t equals_end = find_equals_end(logits, vocab_count, cut);
    uint32_t begin = 0, end;
    for (uint32_t i = 0; i < vocab_count; i += BLOCK) {
        end = block_end(i, vocab_count);
        sums[i / BLOCK] = weigh_block(s, logits, i, end, cut->least, equals_end, weights);
        total += sums[i / BLOCK];
    }
    unit *= total;
    /* Roundings may leave more than there is: then it is the last that has a weight. */
    for (uint32_t i = 0; i < vocab_count; i += BLOCK) {
        double sum = sums[i / BLOCK];
        if (sum == 0)
            continue;
        begin = i;
        if (unit < sum)
            break;
        unit -= sum;
    }
    end = block_end(begin, vocab_count);
    weigh_block(s, logits, begin, end, cut->least, equals_end, weights);
    uint32_t last = begin;
    for (uint32_t i = 0; i < end - begin; i++) {
        if (weights[i] == 0)
            continue;
        last = begin + i;
        if (unit < weights[i])
            break;
        unit -= weights[i];
    }
    return last;
}

uint32_t sampler_draw(const struct kernels *k, const float *logits, uint32_t vocab_count,
                      const struct engine_sampling *s, uint64_t draw_index,
                      union sampler_scratch *scratch)
{
    assert(vocab_count <= MODEL_VOCAB_MAX);
    uint32_t best_token = k->argmax(logits, vocab_count);
    assert(best_token < vocab_count);
    float best = logits[best_token];
    if (s->temperature == 0 || !isfinite(best))
        return best_token;

    const struct scale scale = {k, best, fminf(1 / s->temperature, FLT_MAX)};
    struct cut cut = filter(&scale, logits, vocab_count, s, &scratch->logit);
    return draw_from(&scale, logits, vocab_count, &cut, sampler_unit(s->seed, draw_index));
}

float sampler_logprob(float logit, double log_sum_exp)
{
    double p = logit - log_sum_exp;
    return p >= SAMPLER_LOGPROB_MIN ? (float)p : SAMPLER_LOGPROB_MIN;
}

/* Puts a logit among the `found` of `count` largest so far; returns how many they are now. */
static uint32_t insert(struct sampler_candidate *top, uint32_t found, uint32_t count,
                       struct sampler_candidate one)
{
    if (found == count && !(one.logit > top[count - 1].logit))
        return found;
    uint32_t at = found < count ? found++ : count - 1;
    for (; at > 0 && one.logit > top[at - 1].logit; at--)
        top[at] = top[at - 1];
    top[at] = one;
    return found;
}

uint32_t sampler_top(const struct kernels *k, const float *logits, uint32_t vocab_count,
                     double log_sum_exp, uint32_t count, struct engine_logprob *ret)
{
    struct sampler_candidate top[ENGINE_TOP_LOGPROBS_MAX];
    float maxima[BLOCKS_MAX];
    uint32_t found = 0;
    assert(count <= ENGINE_TOP_LOGPROBS_MAX && vocab_count <= MODEL_VOCAB_MAX);
    if (count == 0)
        return 0;
    uint32_t blocks = find_maxima(k, logits, vocab_count, maxima);
    float least = reached_by(maxima, blocks, count);
    for (uint32_t begin = 0; begin < vocab_count; begin += BLOCK) {
        if (maxima[begin / BLOCK] < least)
            continue;
        for (uint32_t i = begin; i < block_end(begin, vocab_count); i++) {
            float logit = isnan(logits[i]) ? -INFINITY : logits[i];
            if (logit >= least)
                found = insert(top, found, count, (struct sampler_candidate){logit, i});
        }
    }
    for (uint32_t i = 0; i < found; i++) {
        ret[i].token = top[i].token;
        ret[i].logprob = sampler_logprob(top[i].logit, log_sum_exp);
    }
    return found;
}
