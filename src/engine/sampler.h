/*
 * From logits to a token. One decision: a draw depends only on the logits, the request, its seed
 * and the tokens that the sequence has so far: never on time, the batch or threads.
 *
 * First the logits are edited, in the order of vLLM: logit_bias is added, stop tokens are masked
 * until tokens_new_min, then penalties: repetition (transformers' rule, over prompt and generated
 * tokens), frequency and presence (OpenAI's, over generated ones). The edits are found from the
 * sequence's tokens anew for each draw, so that there is no state that could differ after a
 * preemption, and taken back after it, so that log-probabilities are the model's own. A request
 * without edits pays nothing; the logits are never copied.
 *
 * Then the filters work in the order of transformers: temperature, top-k, top-p, min-p, each on the
 * renormalised rest of the one before. Nothing sorts the vocabulary: what they keep is all above
 * some logit and the first of those equal to it, and that logit is bracketed, by samples and by
 * what weighs more, until few are left. A draw finds its block of the vocabulary and then its
 * token.
 */
#pragma once

#include "engine/engine.h"
#include "kernels/kernels.h"

struct sampler_candidate {
    float logit;
    uint32_t token;
};

/* What is needed of each token for the time of a call. */
union sampler_scratch {
    float logit;
    uint32_t mark;
};

/* What is known of a sequence before a draw. */
struct sampler_known {
    const uint32_t *tokens; /* [token_count]: prompt, then generated */
    uint32_t token_count;
    uint32_t prompt_count;
};

/* The most logits that the request ever edits at one time; 0: it edits none. */
uint32_t sampler_edits_max(const struct engine_request *r, uint32_t vocab_count);
/* Edits logits for one draw; what they were goes to ret_saved [sampler_edits_max]. Returns how many
 * there are. scratch [vocab_count]. */
uint32_t sampler_edit(float *logits, const struct engine_request *r, const struct sampler_known *k,
                      union sampler_scratch *scratch, struct sampler_candidate *ret_saved);
void sampler_restore(float *logits, const struct sampler_candidate *saved, uint32_t count);

/* The number in [0, 1) that a draw follows; `draw_index`: tokens drawn before by this sequence. */
double sampler_unit(uint64_t seed, uint64_t draw_index);

/* scratch [vocab_count]. Logits that are not
 * numbers give some token of the vocabulary. */
uint32_t sampler_draw(const struct kernels *k, const float *logits, uint32_t vocab_count,
                      const struct engine_sampling *s, uint64_t draw_index,
                      union sampler_scratch *scratch);

/* The `count` most likely tokens, descending, of equals the lower id first; log_sum_exp of the
 * logits. A NaN counts as -infinity. Returns how many there are: min(count, vocab_count). */
uint32_t sampler_top(const struct kernels *k, const float *logits, uint32_t vocab_count,
                     double log_sum_exp, uint32_t count, struct engine_logprob *ret);

/* The log-probability of one token; never infinite or NaN, which JSON cannot say. */
float sampler_logprob(float logit, double log_sum_exp);
