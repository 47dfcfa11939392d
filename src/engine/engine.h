/*
 * The engine: token ids in, token ids out. It holds sequences with their paged KV cache, runs one
 * step at a time over a ragged batch of rows of different sequences and adapters, and samples.
 * It knows nothing of text, sockets, JSON, scheduling or time.
 *
 *   engine_open → adapters → engine_add per request → engine_step until done → engine_remove
 *
 * A sequence's tokens depend only on its own prompt, parameters, seed and adapter: never on what
 * else is in the batch, on what the cache holds, nor on the number of threads.
 */
#pragma once

#include "base/digest.h"
#include "base/error.h"
#include "weights/adapter.h"
#include "weights/backbone.h"

#include <stdbool.h>
#include <stdint.h>

#define ENGINE_TOP_LOGPROBS_MAX 20u
#define ENGINE_STOP_TOKENS_MAX 40u
#define ENGINE_BIASES_MAX 300u
#define ENGINE_KV_BLOCK_TOKENS 16u

/* How precise the KV cache is: auto is float32 for a backbone of float32 matrices, else bf16. int8
 * takes half of bf16's memory and two floats more for a position of a KV head. */
enum engine_kv_dtype { ENGINE_KV_AUTO, ENGINE_KV_BF16, ENGINE_KV_INT8, ENGINE_KV_DTYPE_COUNT };

struct gpu_device; /* gpu/device.h */

struct engine_options {
    uint32_t threads;       /* 0: the processors this process may use */
    uint32_t sequences_max; /* at one time */
    uint32_t rows_max;      /* token budget of one step; >= sequences_max, so that none starves */
    uint64_t kv_bytes;      /* address space of the KV pool; memory is taken as blocks are used */
    uint32_t adapters_max;  /* adapter slots */
    uint32_t context_max;   /* 0: the model's */
    enum engine_kv_dtype kv_dtype;
    bool prefix_cache; /* keep the KV blocks of known tokens for prompts that begin with them */
    struct gpu_device *gpu;    /* borrowed, as long as the engine; NULL: the host computes */
    uint64_t backbone_address; /* of the backbone's image in the GPU's memory */
};

struct engine_sampling {
    float temperature; /* 0: greedy */
    float top_p;       /* (0, 1]; 1: off */
    float min_p;       /* [0, 1); 0: off */
    uint32_t top_k;    /* 0: off */
    uint64_t seed;
};

/* Of tokens that the sequence has already. */
struct engine_penalties {
    float presence;   /* [-2, 2], once for each token generated before; 0: off */
    float frequency;  /* [-2, 2], for each time it was generated; 0: off */
    float repetition; /* (0, 100], over prompt and generated tokens; 0 or 1: off */
};

struct engine_bias {
    uint32_t token;
    float bias; /* [-100, 100], added to the token's logit */
};

struct engine_request {
    const uint32_t *tokens; /* [token_count], copied; token_count >= 1 */
    uint32_t token_count;
    uint32_t tokens_new_max; /* 0 only with prompt_logprobs: nothing is generated */
    int32_t adapter_slot;    /* -1: the bare backbone */
    float adapter_scale;     /* with an adapter: (0, 1], how much of what it adds counts */
    uint32_t tokens_new_min; /* stop tokens cannot be drawn before; <= tokens_new_max */
    struct engine_sampling sampling;
    struct engine_penalties penalties;
    const struct engine_bias *biases; /* [bias_count <= ENGINE_BIASES_MAX], copied; a token that
                                       * stands twice gets both */
    uint32_t bias_count;
    uint32_t stop_tokens[ENGINE_STOP_TOKENS_MAX]; /* end of sequence; itself given out last */
    uint32_t stop_token_count;
    uint64_t order;        /* prompts are computed in ascending order of it, then of arrival */
    uint32_t top_logprobs; /* alternatives given out with each token, <= ENGINE_TOP_LOGPROBS_MAX */
    bool logprobs;         /* compute the log-probability of each chosen token */
    bool prompt_logprobs;  /* also those of the prompt's own tokens (OpenAI's echo) */
};

struct engine_logprob {
    uint32_t token;
    float logprob; /* natural logarithm, of the model's own distribution: before bias, penalties,
                    * temperature and filters, as vLLM reports it by default */
};

enum engine_finish { ENGINE_GOES_ON, ENGINE_STOP_TOKEN, ENGINE_LENGTH, ENGINE_OUT_OF_KV };

/* One token of one sequence. */
struct engine_output {
    uint32_t sequence; /* id from engine_add */
    uint32_t token;
    bool has_token;   /* the token was generated now */
    bool is_prompt;   /* the token is one of the prompt, rated (prompt_logprobs); else, without
                       * has_token, there is only the finish */
    bool has_logprob; /* false without logprobs and for the first prompt token */
    enum engine_finish finish;
    float logprob;
    uint32_t top_count;
    struct engine_logprob top[ENGINE_TOP_LOGPROBS_MAX]; /* descending */
};

/* What one step did, for the meter and the bench. */
struct engine_step_stats {
    uint32_t rows;         /* token positions computed */
    uint32_t prompt_rows;  /* of them, prompt positions */
    uint32_t sequences;    /* in the batch */
    uint32_t output_count; /* outputs written */
};

struct engine; /* opaque */

/* A GPU with the engine's kernels, for engine_options; see gpu_device_open for the errors. Closed
 * with gpu_device_close, after the engines on it. */
int engine_gpu_open(struct gpu_device **ret, uint32_t index, struct error *err);

/* -ENOTSUP with what it is, where kernels for GPUs cannot compute this backbone. */
int engine_gpu_check(const struct backbone *b, struct error *err);

/* `b` stays open as long as the engine. */
int engine_open(struct engine **ret, const struct backbone *b, const struct engine_options *options,
                struct error *err);
void engine_close(struct engine *e);

/* The adapter stays open until engine_adapter_clear; a slot in use by a sequence cannot be cleared
 * (-EBUSY) or set again. `digest` names everything that the adapter computes with: cached keys and
 * values are found by it, in whatever slot it is, and outlive a clear. On a GPU the adapter is
 * copied there: -ENOMEM when it has no room. */
int engine_adapter_set(struct engine *e, uint32_t slot, const struct adapter *a,
                       const struct digest *digest, struct error *err);
int engine_adapter_clear(struct engine *e, uint32_t slot);

/* Refuses (-E2BIG) what exceeds the context, (-EINVAL) ids outside the vocabulary or parameters out
 * of range, (-ENOSPC) when sequences_max are in the engine or the KV pool could never hold it. */
int engine_add(struct engine *e, const struct engine_request *r, uint32_t *ret_sequence,
               struct error *err);
/* Ends a sequence at once and frees its KV blocks; finished sequences too are removed by this. */
void engine_remove(struct engine *e, uint32_t sequence);

/* Positions of the sequence whose keys and values it found in the cache when it first came to them;
 * all are of its prompt. 0 when there is no such sequence. */
uint32_t engine_cached_tokens(const struct engine *e, uint32_t sequence);

/* Positions that one sequence may have: what the options, the model and the KV pool allow. */
uint32_t engine_context_max(const struct engine *e);

/* True while some sequence has work. */
bool engine_has_work(const struct engine *e);

/* From now on at most so many rows of a step are of prompts, where others decode; 0: as many as
 * fit. The first is never held up for ever: it gets one row at least. */
void engine_prompt_rows(struct engine *e, uint32_t rows);

/* From now on nobody decodes in a step in which some row of a prompt can be computed, or no more.
 */
void engine_prompts_first(struct engine *e, bool prompts_first);

/* From now on KV blocks of so many bytes may have memory, and one in any case; what is too much and
 * no sequence holds is given back now. is_most: there will never be more, so a sequence that does
 * not fit alone ends with ENGINE_OUT_OF_KV; else it waits, and steps compute nothing meanwhile.
 * Returns the bytes that it is. Without a call kv_bytes of the options are there, and no more. */
uint64_t engine_kv_limit(struct engine *e, uint64_t bytes, bool is_most);

/* Runs one step: every decoding sequence one token, then prompt chunks in their order up to
 * rows_max. Writes at most `output_max` outputs and keeps the rest: calls that find some left give
 * those out and compute nothing. When the KV pool runs out, the youngest sequence starts over later
 * (its outputs go on where they were), or ends with ENGINE_OUT_OF_KV when even the whole pool
 * cannot hold it. 0, -EINVAL when output_max is 0, or on a GPU what failed there: then nothing
 * counts that the step computed, and the engine is of no use any more. */
int engine_step(struct engine *e, struct engine_output *outputs, uint32_t output_max,
                struct engine_step_stats *ret_stats, struct error *err);

/* What an engine takes beside its backbone, for who plans memory ahead of opening one. */
struct engine_sizes {
    uint64_t kv_token_bytes[ENGINE_KV_DTYPE_COUNT]; /* KV cache of one position */
    uint64_t row_bytes;                             /* of activations, for each row of rows_max */
    uint64_t fixed_bytes;                           /* and whatever rows_max is */
};

/* For the model's whole context; -ENOMEM. */
int engine_measure(struct engine_sizes *ret, const struct backbone *b, uint32_t threads);

/* Rows of the latest step that were the sequence's; to be asked before the next call that changes
 * anything. */
uint32_t engine_rows_of(const struct engine *e, uint32_t sequence);

/* KV bytes in use by sequences, and activation bytes touched since the last trim. */
uint64_t engine_kv_bytes(const struct engine *e);
uint64_t engine_activation_bytes(const struct engine *e);
/* Gives activation memory and free KV blocks back to the system, for an idle worker. Known prefixes
 * stay. */
void engine_trim(struct engine *e);

/* The logits of every position of a prompt, [token_count, vocab], for tests and perplexity: runs
 * outside the sequences. */
int engine_logits(struct engine *e, const uint32_t *tokens, uint32_t token_count,
                  int32_t adapter_slot, float *ret_logits, struct error *err);
