/* See engine.h: sequences and adapters come and go here; step.c does the work. */
#include "engine/engine.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "engine/step.h"

#define ENGINE_SEQUENCES_MAX 1024u
#define ENGINE_ROWS_MAX 8192u
#define ENGINE_ADAPTERS_MAX 4096u
#define ENGINE_TEMPERATURE_MAX 100.0f
#define ENGINE_PENALTY_MAX 2.0f
#define ENGINE_REPETITION_PENALTY_MAX 100.0f
#define ENGINE_BIAS_MAX 100.0f

/* --- open and close --- */

static int check_options(const struct engine_options *o, const struct model_config *c,
                         struct error *err)
{
    if (o->sequences_max == 0 || o->sequences_max > ENGINE_SEQUENCES_MAX)
        return error_set(err, -EINVAL, "sequences_max is %u: it must be 1 to %u", o->sequences_max,
                         ENGINE_SEQUENCES_MAX);
    if (o->rows_max < o->sequences_max || o->rows_max > ENGINE_ROWS_MAX)
        return error_set(err, -EINVAL,
                         "rows_max is %u: it must be at least sequences_max (%u), a row for each, "
                         "and at most %u",
                         o->rows_max, o->sequences_max, ENGINE_ROWS_MAX);
    if (o->adapters_max > ENGINE_ADAPTERS_MAX)
        return error_set(err, -EINVAL, "adapters_max is %u: it must be at most %u", o->adapters_max,
                         ENGINE_ADAPTERS_MAX);
    if (o->kv_dtype > ENGINE_KV_INT8)
        return error_set(err, -EINVAL, "kv_dtype is %u: it must be auto, bf16 or int8",
                         o->kv_dtype);
    if (o->context_max > c->context_max)
        return error_set(err, -EINVAL, "context_max is %u: the model's context is %u tokens",
                         o->context_max, c->context_max);
    return 0;
}

static int allocate_tables(struct engine *e, struct error *err)
{
    const struct engine_options *o = &e->options;
    e->output_capacity = step_outputs_max(o);
    e->adapters = calloc(o->adapters_max ? o->adapters_max : 1, sizeof(const struct adapter *));
    e->adapter_digests = calloc(o->adapters_max ? o->adapters_max : 1, sizeof(*e->adapter_digests));
    e->sequences = calloc(o->sequences_max, sizeof(struct sequence *));
    e->parts = calloc(o->sequences_max, sizeof(*e->parts));
    e->rows = calloc(o->rows_max, sizeof(*e->rows));
    e->groups = calloc(o->sequences_max, sizeof(*e->groups));
    e->outputs = calloc(e->output_capacity, sizeof(*e->outputs));
    if (!e->adapters || !e->adapter_digests || !e->sequences || !e->parts || !e->rows ||
        !e->groups || !e->outputs)
        return error_set(err, -ENOMEM, "no memory for the engine's tables");
    return 0;
}

static enum kernel_kv kv_type(const struct backbone *b, enum engine_kv_dtype dtype)
{
    if (dtype == ENGINE_KV_AUTO)
        return b->layers[0].linears[LINEAR_K].weight.dtype == IMAGE_F32 ? KERNEL_KV_F32
                                                                        : KERNEL_KV_BF16;
    return dtype == ENGINE_KV_INT8 ? KERNEL_KV_INT8 : KERNEL_KV_BF16;
}

/* Two points of what is a line but for the width of chunks, which grows no further between them. */
#define MEASURED_ROWS_LOW 256u
#define MEASURED_ROWS_HIGH 1024u

int engine_measure(struct engine_sizes *ret, const struct backbone *b, uint32_t threads)
{
    const struct model_config *c = b->config;
    uint64_t low = forward_work_bytes(b, threads, MEASURED_ROWS_LOW, c->context_max);
    uint64_t high = forward_work_bytes(b, threads, MEASURED_ROWS_HIGH, c->context_max);
    if (low == UINT64_MAX || high == UINT64_MAX)
        return -ENOMEM;
    for (uint32_t i = 0; i < ENGINE_KV_DTYPE_COUNT; i++)
        ret->kv_token_bytes[i] = kv_block_bytes(c, kv_type(b, i)) / ENGINE_KV_BLOCK_TOKENS;
    ret->row_bytes = high > low ? (high - low) / (MEASURED_ROWS_HIGH - MEASURED_ROWS_LOW) : 0;
    uint64_t rows = MEASURED_ROWS_LOW * ret->row_bytes;
    ret->fixed_bytes = low > rows ? low - rows : 0;
    return 0;
}

int engine_open(struct engine **ret, const struct backbone *b, const struct engine_options *options,
                struct error *err)
{
    int rc = check_options(options, b->config, err);
    if (rc < 0)
        return rc;
    struct engine *e = calloc(1, sizeof(*e));
    if (!e)
        return error_set(err, -ENOMEM, "no memory for an engine");
    enum kernel_kv kv = kv_type(b, options->kv_dtype);
    e->backbone = b;
    e->options = *options;
    e->kv_is_most = true;
    if (e->options.context_max == 0)
        e->options.context_max = b->config->context_max;
    const struct forward_options work = {.kv_type = kv,
                                         .threads = e->options.threads,
                                         .rows_max = e->options.rows_max,
                                         .context_max = e->options.context_max,
                                         .sequences_max = e->options.sequences_max,
                                         .gpu = options->gpu,
                                         .backbone_address = options->backbone_address};
    rc = allocate_tables(e, err);
    if (rc == 0)
        rc = kv_open(&e->kv, b->config, kv, e->options.kv_bytes, e->options.prefix_cache,
                     options->gpu, err);
    if (rc == 0)
        rc = forward_open(&e->forward, b, &e->kv, &work, err);
    if (rc < 0) {
        engine_close(e);
        return rc;
    }
    *ret = e;
    return 0;
}

static void sequence_free(struct engine *e, struct sequence *s)
{
    kv_blocks_free(&e->kv, &s->kv);
    free(s->tokens);
    free(s->saved);
    free(s);
}

void engine_close(struct engine *e)
{
    if (!e)
        return;
    for (uint32_t i = 0; i < e->sequence_count; i++)
        sequence_free(e, e->sequences[i]);
    forward_close(&e->forward);
    kv_close(&e->kv);
    free(e->adapters);
    free(e->adapter_digests);
    free(e->sequences);
    free(e->parts);
    free(e->rows);
    free(e->groups);
    free(e->outputs);
    free(e);
}

/* --- adapters --- */

static bool slot_in_use(const struct engine *e, uint32_t slot)
{
    for (uint32_t i = 0; i < e->sequence_count; i++) {
        if (e->sequences[i]->request.adapter_slot == (int32_t)slot)
            return true;
    }
    return false;
}

/* adapter_open has checked the shapes against its backbone; here that is known to be this engine's.
 */
static bool adapter_fits(const struct adapter *a, const struct backbone *b)
{
    return a->config->layer_count == b->config->layer_count && a->view.config == b->config;
}

static void forget_adapter(struct engine *e, uint32_t slot)
{
    if (e->adapters[slot])
        e->forward.ops->adapter_close(&e->forward, e->adapters[slot]);
    e->adapters[slot] = NULL;
}

int engine_adapter_set(struct engine *e, uint32_t slot, const struct adapter *a,
                       const struct digest *digest, struct error *err)
{
    if (slot >= e->options.adapters_max)
        return error_set(err, -EINVAL, "adapter slot %u: this engine has %u", slot,
                         e->options.adapters_max);
    if (slot_in_use(e, slot))
        return error_set(err, -EBUSY, "adapter slot %u is in use by a sequence: remove it first",
                         slot);
    if (!adapter_fits(a, e->backbone))
        return error_set(err, -EINVAL, "the adapter's matrices do not have this backbone's shapes");
    int rc = e->forward.ops->adapter_open(&e->forward, a, err);
    if (rc < 0)
        return rc;
    forget_adapter(e, slot);
    e->adapters[slot] = a;
    e->adapter_digests[slot] = *digest;
    return 0;
}

int engine_adapter_clear(struct engine *e, uint32_t slot)
{
    if (slot >= e->options.adapters_max)
        return -EINVAL;
    if (slot_in_use(e, slot))
        return -EBUSY;
    forget_adapter(e, slot);
    return 0;
}

/* --- requests --- */

static int check_tokens(const struct engine *e, const uint32_t *tokens, uint32_t token_count,
                        struct error *err)
{
    uint32_t vocab_count = e->backbone->config->vocab_count;
    if (token_count == 0)
        return error_set(err, -EINVAL, "the prompt is empty: it needs at least one token");
    if (token_count > e->options.context_max)
        return error_set(err, -E2BIG, "the prompt has %u tokens: the context holds %u", token_count,
                         e->options.context_max);
    for (uint32_t i = 0; i < token_count; i++) {
        if (tokens[i] >= vocab_count)
            return error_set(err, -EINVAL, "token %u of the prompt is %u: the vocabulary has %u", i,
                             tokens[i], vocab_count);
    }
    return 0;
}

/* Written so that NaN fails the test. */
static int check_scale(const struct engine *e, const struct engine_request *r, struct error *err)
{
    if (r->adapter_slot < 0)
        return 0;
    if (!(r->adapter_scale > 0 && r->adapter_scale <= 1))
        return error_set(err, -EINVAL, "adapter_scale must be above 0 and at most 1");
    if (r->adapter_scale != 1 && !e->adapters[r->adapter_slot]->is_pure_lora)
        return error_set(err, -EINVAL,
                         "adapter_scale must be 1: this adapter has DoRA, biases or whole modules, "
                         "of which there is no part");
    return 0;
}

static int check_slot(const struct engine *e, int32_t slot, struct error *err)
{
    if (slot == -1)
        return 0;
    if (slot < 0 || (uint32_t)slot >= e->options.adapters_max || !e->adapters[slot])
        return error_set(err, -EINVAL, "there is no adapter in slot %d", slot);
    return 0;
}

/* Written so that NaN fails every test. */
static int check_sampling(const struct engine_sampling *s, struct error *err)
{
    if (!(s->temperature >= 0 && s->temperature <= ENGINE_TEMPERATURE_MAX))
        return error_set(err, -EINVAL, "temperature must be 0 to %g",
                         (double)ENGINE_TEMPERATURE_MAX);
    if (!(s->top_p > 0 && s->top_p <= 1))
        return error_set(err, -EINVAL, "top_p must be above 0 and at most 1");
    if (!(s->min_p >= 0 && s->min_p < 1))
        return error_set(err, -EINVAL, "min_p must be at least 0 and below 1");
    return 0;
}

/* What edits the logits before a draw; written so that NaN fails every test. */
static int check_edits(const struct engine *e, const struct engine_request *r, struct error *err)
{
    const struct engine_penalties *p = &r->penalties;
    uint32_t vocab_count = e->backbone->config->vocab_count;
    if (r->tokens_new_min > r->tokens_new_max)
        return error_set(err, -EINVAL, "tokens_new_min is %u: tokens_new_max is only %u",
                         r->tokens_new_min, r->tokens_new_max);
    if (!(fabsf(p->presence) <= ENGINE_PENALTY_MAX))
        return error_set(err, -EINVAL, "the presence penalty must be -2 to 2");
    if (!(fabsf(p->frequency) <= ENGINE_PENALTY_MAX))
        return error_set(err, -EINVAL, "the frequency penalty must be -2 to 2");
    if (!(p->repetition >= 0 && p->repetition <= ENGINE_REPETITION_PENALTY_MAX))
        return error_set(err, -EINVAL, "the repetition penalty must be 0 to %g",
                         (double)ENGINE_REPETITION_PENALTY_MAX);
    if (r->bias_count > ENGINE_BIASES_MAX)
        return error_set(err, -EINVAL, "%u biases: at most %u are possible", r->bias_count,
                         ENGINE_BIASES_MAX);
    for (uint32_t i = 0; i < r->bias_count; i++) {
        if (r->biases[i].token >= vocab_count)
            return error_set(err, -EINVAL, "a bias for token %u: the vocabulary has %u",
                             r->biases[i].token, vocab_count);
        if (!(fabsf(r->biases[i].bias) <= ENGINE_BIAS_MAX))
            return error_set(err, -EINVAL, "the bias of token %u must be -100 to 100",
                             r->biases[i].token);
    }
    if (r->stop_token_count > ENGINE_STOP_TOKENS_MAX)
        return error_set(err, -EINVAL, "%u stop tokens: at most %u are possible",
                         r->stop_token_count, ENGINE_STOP_TOKENS_MAX);
    for (uint32_t i = 0; i < r->stop_token_count; i++) {
        if (r->stop_tokens[i] >= vocab_count)
            return error_set(err, -EINVAL, "stop token %u: the vocabulary has %u",
                             r->stop_tokens[i], vocab_count);
    }
    return 0;
}

static int check_request(const struct engine *e, const struct engine_request *r, struct error *err)
{
    const struct engine_options *o = &e->options;
    int rc = check_tokens(e, r->tokens, r->token_count, err);
    if (rc == 0)
        rc = check_slot(e, r->adapter_slot, err);
    if (rc == 0)
        rc = check_scale(e, r, err);
    if (rc == 0)
        rc = check_sampling(&r->sampling, err);
    if (rc < 0)
        return rc;
    if (r->tokens_new_max > o->context_max - r->token_count)
        return error_set(err, -E2BIG,
                         "%u tokens of prompt and %u new ones exceed the context of %u tokens",
                         r->token_count, r->tokens_new_max, o->context_max);
    if (r->tokens_new_max == 0 && !r->prompt_logprobs)
        return error_set(err, -EINVAL, "the request asks for no new token and no prompt_logprobs");
    if (r->top_logprobs > ENGINE_TOP_LOGPROBS_MAX)
        return error_set(err, -EINVAL, "top_logprobs is %u: at most %u are given", r->top_logprobs,
                         ENGINE_TOP_LOGPROBS_MAX);
    rc = check_edits(e, r, err);
    if (rc < 0)
        return rc;
    if (e->sequence_count == o->sequences_max)
        return error_set(err, -ENOSPC, "all %u sequences of this engine are in use",
                         o->sequences_max);
    if (kv_blocks_for(r->token_count) > e->kv.block_count)
        return error_set(
            err, -ENOSPC, "the prompt's %u tokens exceed the KV cache, which holds %llu",
            r->token_count, (unsigned long long)e->kv.block_count * ENGINE_KV_BLOCK_TOKENS);
    return 0;
}

static struct sequence *find_sequence(const struct engine *e, uint32_t id, uint32_t *ret_index)
{
    for (uint32_t i = 0; i < e->sequence_count; i++) {
        if (e->sequences[i]->id == id) {
            *ret_index = i;
            return e->sequences[i];
        }
    }
    return NULL;
}

static struct prefix_origin origin_of(const struct engine *e, const struct engine_request *r)
{
    struct prefix_origin origin = {0};
    if (r->adapter_slot < 0)
        return origin;
    origin.adapter = e->adapter_digests[r->adapter_slot];
    memcpy(&origin.scale_bits, &r->adapter_scale, sizeof(origin.scale_bits));
    return origin;
}

int engine_add(struct engine *e, const struct engine_request *r, uint32_t *ret_sequence,
               struct error *err)
{
    uint32_t index;
    int rc = check_request(e, r, err);
    if (rc < 0)
        return rc;
    uint64_t token_count = (uint64_t)r->token_count + r->tokens_new_max;
    cleanup_free struct sequence *s = calloc(1, sizeof(*s));
    cleanup_free uint32_t *tokens = malloc(token_count * sizeof(*tokens));
    uint32_t edits_max = sampler_edits_max(r, e->backbone->config->vocab_count);
    cleanup_free struct sampler_candidate *saved =
        edits_max > 0 ? malloc(edits_max * sizeof(*saved)) : NULL;
    if (!s || !tokens || (edits_max > 0 && !saved) || kv_blocks_init(&s->kv, token_count) < 0)
        return error_set(err, -ENOMEM, "no memory for a sequence of %llu tokens",
                         (unsigned long long)token_count);
    memcpy(tokens, r->tokens, r->token_count * sizeof(*tokens));
    s->request = *r;
    s->request.tokens = NULL;
    s->request.biases = s->biases;
    if (r->bias_count > 0)
        memcpy(s->biases, r->biases, r->bias_count * sizeof(*s->biases));
    s->saved = steal_pointer(&saved);
    s->origin = origin_of(e, r);
    s->token_count = s->prompt_count = r->token_count;
    while (find_sequence(e, e->next_id, &index))
        e->next_id++;
    s->id = e->next_id++;
    s->tokens = steal_pointer(&tokens);
    *ret_sequence = s->id;
    index = e->sequence_count++;
    for (; index > 0 && e->sequences[index - 1]->request.order > r->order; index--)
        e->sequences[index] = e->sequences[index - 1];
    e->sequences[index] = steal_pointer(&s);
    return 0;
}

void engine_remove(struct engine *e, uint32_t sequence)
{
    uint32_t index, kept = e->output_index;
    struct sequence *s = find_sequence(e, sequence, &index);
    if (!s)
        return;
    for (uint32_t i = e->output_index; i < e->output_count; i++) {
        if (e->outputs[i].sequence != sequence)
            e->outputs[kept++] = e->outputs[i];
    }
    e->output_count = kept;
    sequence_free(e, s);
    e->sequence_count--;
    memmove(e->sequences + index, e->sequences + index + 1,
            (e->sequence_count - index) * sizeof(*e->sequences));
}

uint32_t engine_cached_tokens(const struct engine *e, uint32_t sequence)
{
    uint32_t index;
    const struct sequence *s = find_sequence(e, sequence, &index);
    return s ? s->cached_count : 0;
}

/* --- steps --- */

uint32_t engine_context_max(const struct engine *e)
{
    uint64_t pool = (uint64_t)e->kv.block_count * ENGINE_KV_BLOCK_TOKENS;
    return pool < e->options.context_max ? (uint32_t)pool : e->options.context_max;
}

bool engine_has_work(const struct engine *e)
{
    for (uint32_t i = 0; i < e->sequence_count; i++) {
        if (!e->sequences[i]->finished)
            return true;
    }
    return e->output_index < e->output_count;
}

int engine_step(struct engine *e, struct engine_output *outputs, uint32_t output_max,
                struct engine_step_stats *ret_stats, struct error *err)
{
    struct engine_step_stats stats = {0};
    if (output_max == 0)
        return error_set(err, -EINVAL, "a step needs room for at least one output");
    int rc = e->output_index == e->output_count ? step_run(e, &stats, err) : 0;
    if (rc < 0)
        return rc;
    uint32_t left = e->output_count - e->output_index;
    stats.output_count = left < output_max ? left : output_max;
    memcpy(outputs, e->outputs + e->output_index, stats.output_count * sizeof(*outputs));
    e->output_index += stats.output_count;
    *ret_stats = stats;
    return 0;
}

uint32_t engine_rows_of(const struct engine *e, uint32_t sequence)
{
    uint32_t rows = 0;
    for (uint32_t i = 0; i < e->part_count; i++)
        rows += e->parts[i].sequence->id == sequence ? e->parts[i].row_count : 0;
    return rows;
}

/* --- memory --- */

uint64_t engine_kv_bytes(const struct engine *e)
{
    return kv_used_bytes(&e->kv);
}

uint64_t engine_activation_bytes(const struct engine *e)
{
    return e->forward.ops->bytes(&e->forward);
}

void engine_prompt_rows(struct engine *e, uint32_t rows)
{
    e->prompt_rows_max = rows;
}

void engine_prompts_first(struct engine *e, bool prompts_first)
{
    e->prompts_first = prompts_first;
}

uint64_t engine_kv_limit(struct engine *e, uint64_t bytes, bool is_most)
{
    e->kv_is_most = is_most;
    return kv_limit(&e->kv, bytes);
}

void engine_trim(struct engine *e)
{
    e->forward.ops->trim(&e->forward);
    kv_trim(&e->kv);
}

/* --- logits of a whole prompt --- */

static int prompt_logits(struct engine *e, const uint32_t *tokens, uint32_t token_count,
                         const struct adapter *a, const struct kv_blocks *kv, float *ret_logits,
                         struct error *err)
{
    size_t vocab_count = e->backbone->config->vocab_count;
    uint32_t rows_max = e->options.rows_max;
    bool is_long = token_count > rope_long_from(e->backbone->config);
    for (uint32_t done = 0; done < token_count;) {
        uint32_t count = token_count - done < rows_max ? token_count - done : rows_max;
        const struct lora_group group = {.adapter = a, .scale = 1, .row_count = count};
        const struct batch b = {e->rows, count, &group, a ? 1 : 0};
        for (uint32_t r = 0; r < count; r++)
            e->rows[r] = (struct forward_row){
                .token = tokens[done + r], .position = done + r, .is_long = is_long, .kv = kv};
        forward(&e->forward, &b);
        for (uint32_t r = 0; r < count;) {
            uint32_t rows[FORWARD_LOGIT_ROWS_MAX], n = 0;
            for (; n < FORWARD_LOGIT_ROWS_MAX && r + n < count; n++)
                rows[n] = r + n;
            forward_logits(&e->forward, &b, rows, n, ret_logits + (done + r) * vocab_count);
            r += n;
        }
        int rc = e->forward.ops->finish(&e->forward, err);
        if (rc < 0)
            return rc;
        done += count;
    }
    return 0;
}

int engine_logits(struct engine *e, const uint32_t *tokens, uint32_t token_count,
                  int32_t adapter_slot, float *ret_logits, struct error *err)
{
    struct kv_blocks kv;
    int rc = check_tokens(e, tokens, token_count, err);
    if (rc == 0)
        rc = check_slot(e, adapter_slot, err);
    if (rc < 0)
        return rc;
    if (kv_blocks_init(&kv, token_count) < 0)
        return error_set(err, -ENOMEM, "no memory for a sequence of %u tokens", token_count);
    if (kv_grow(&e->kv, &kv, token_count))
        rc = prompt_logits(e, tokens, token_count,
                           adapter_slot >= 0 ? e->adapters[adapter_slot] : NULL, &kv, ret_logits,
                           err);
    else
        rc = error_set(err, -ENOSPC, "the KV cache has no room for %u tokens now", token_count);
    kv_blocks_free(&e->kv, &kv);
    return rc;
}
