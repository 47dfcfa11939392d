/*
 * The proof that an adapter does something: the logits of a fixed prompt with and without it. The
 * prompt is made of the vocabulary alone, so that a certificate can be computed again anywhere.
 */
#pragma once

#include "weights/adapter.h"

#include <stdint.h>

#define PROBE_TOKENS_MAX 16u

struct probe {
    uint32_t token_count;
    uint32_t argmax_changed; /* positions with another most likely token */
    double logit_change; /* largest |adapted - bare| of one logit; 0: the adapter does nothing */
    double mean_kl;      /* over the positions, KL(bare || adapted) in nats */
};

/* `count` ids spread evenly over the vocabulary. */
void probe_prompt(uint32_t vocab_count, uint32_t *ret_tokens, uint32_t count);

/* Both [count, vocab]. -EDOM when a logit is not finite: err says which side. */
int probe_compare(const float *bare, const float *adapted, uint32_t count, uint32_t vocab,
                  struct probe *ret, struct error *err);

/* Runs both on one thread; `digest` is the adapter's. PROBE_TOKENS_MAX tokens, or as many as the
 * context holds. */
int probe_run(const struct backbone *b, const struct adapter *a, const struct digest *digest,
              struct probe *ret, struct error *err);
