/*
 * From logits to a token. One decision: a draw depends only on the logits, the parameters, the seed
 * and how many tokens the sequence has drawn before: never on time, the batch or threads.
 *
 * The filters work in the order of transformers: temperature, top-k, top-p, min-p, each on the
 * renormalised rest of the one before. Nothing sorts the vocabulary: a heap gives the most likely
 * tokens one by one, only as many as the filters keep.
 */
#pragma once

#include "engine/engine.h"
#include "kernels/kernels.h"

struct sampler_candidate {
    float logit;
    uint32_t token;
};

/* `draw_index`: tokens drawn before by this sequence. scratch [vocab_count]. Logits that are not
 * numbers give some token of the vocabulary. */
uint32_t sampler_draw(const struct kernels *k, const float *logits, uint32_t vocab_count,
                      const struct engine_sampling *s, uint64_t draw_index,
                      struct sampler_candidate *scratch);

/* The `count` most likely tokens, descending, of equals the lower id first; log_sum_exp of the
 * logits. Returns how many there are: min(count, vocab_count). */
uint32_t sampler_top(const float *logits, uint32_t vocab_count, double log_sum_exp, uint32_t count,
                     struct engine_logprob *ret);

/* The log-probability of one token; never infinite or NaN, which JSON cannot say. */
float sampler_logprob(float logit, double log_sum_exp);
