/* See probe.h. */
#include "worker/probe.h"

#include "base/cleanup.h"
#include "engine/engine.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

/* Address space for one block of KV of any model that there is; touched as it is used. */
#define KV_BYTES (UINT64_C(256) << 20)

void probe_prompt(uint32_t vocab_count, uint32_t *ret_tokens, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        ret_tokens[i] = (uint32_t)((uint64_t)vocab_count * (2 * i + 1) / (2 * count));
}

/* log(sum(exp(x))), and the index of the largest x. */
static double log_sum(const float *x, uint32_t count, uint32_t *ret_top)
{
    uint32_t top = 0;
    for (uint32_t i = 1; i < count; i++)
        top = x[i] > x[top] ? i : top;
    double sum = 0;
    for (uint32_t i = 0; i < count; i++)
        sum += exp((double)x[i] - (double)x[top]);
    *ret_top = top;
    return (double)x[top] + log(sum);
}

static bool all_finite(const float *x, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(x[i]))
            return false;
    }
    return true;
}

int probe_compare(const float *bare, const float *adapted, uint32_t count, uint32_t vocab,
                  struct probe *ret, struct error *err)
{
    struct probe p = {.token_count = count};
    if (!all_finite(bare, (size_t)count * vocab))
        return error_set(err, -EDOM,
                         "the backbone alone computes logits that are not finite on the probe "
                         "prompt: its weights are damaged, or it needs --quant f32");
    if (!all_finite(adapted, (size_t)count * vocab))
        return error_set(err, -EDOM,
                         "the adapter makes logits that are not finite on the probe prompt: its "
                         "weights or its scale (lora_alpha / r) are damaged");
    for (uint32_t row = 0; row < count; row++, bare += vocab, adapted += vocab) {
        uint32_t bare_top = 0;
        uint32_t adapted_top = 0;
        double bare_sum = log_sum(bare, vocab, &bare_top);
        double adapted_sum = log_sum(adapted, vocab, &adapted_top);
        double kl = 0;
        for (uint32_t i = 0; i < vocab; i++) {
            double logprob = (double)bare[i] - bare_sum;
            kl += exp(logprob) * (logprob - ((double)adapted[i] - adapted_sum));
            p.logit_change = fmax(p.logit_change, fabs((double)adapted[i] - (double)bare[i]));
        }
        p.mean_kl += fmax(kl, 0) / count; /* rounding may leave less than nothing */
        p.argmax_changed += bare_top != adapted_top ? 1 : 0;
    }
    *ret = p;
    return 0;
}

static int compute(struct engine *e, uint32_t vocab, uint32_t count, struct probe *ret,
                   struct error *err)
{
    uint32_t tokens[PROBE_TOKENS_MAX];
    cleanup_free float *bare = calloc((size_t)count * vocab, sizeof *bare);
    cleanup_free float *adapted = calloc((size_t)count * vocab, sizeof *adapted);
    if (bare == NULL || adapted == NULL)
        return error_set(err, -ENOMEM, "no memory for the logits of the probe prompt");
    probe_prompt(vocab, tokens, count);
    int r = engine_logits(e, tokens, count, -1, bare, err);
    if (r == 0)
        r = engine_logits(e, tokens, count, 0, adapted, err);
    return r < 0 ? r : probe_compare(bare, adapted, count, vocab, ret, err);
}

int probe_run(const struct backbone *b, const struct adapter *a, const struct digest *digest,
              struct probe *ret, struct error *err)
{
    uint32_t context = b->config->context_max;
    uint32_t count = context < PROBE_TOKENS_MAX ? context : PROBE_TOKENS_MAX;
    const struct engine_options options = {.threads = 1,
                                           .sequences_max = 1,
                                           .rows_max = count,
                                           .kv_bytes = KV_BYTES,
                                           .adapters_max = 1,
                                           .context_max = count};
    struct engine *e;
    int r = engine_open(&e, b, &options, err);
    if (r < 0)
        return r;
    r = engine_adapter_set(e, 0, a, digest, err);
    if (r == 0)
        r = compute(e, b->config->vocab_count, count, ret, err);
    engine_close(e);
    return r;
}
