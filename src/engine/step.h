/*
 * The engine's state, and one step over it: plan the batch, run it, draw tokens. engine.c lets
 * sequences in and out; nothing else looks in here.
 */
#pragma once

#include "engine/engine.h"
#include "engine/forward.h"
#include "engine/kv.h"

/* One request on its way. Known tokens are the prompt and what was drawn; the positions before
 * computed_count have their keys and values in the cache. */
struct sequence {
    struct engine_request request; /* its tokens pointer is NULL */
    uint32_t id;
    uint32_t *tokens;                             /* [prompt + tokens_new_max], owned */
    struct engine_bias biases[ENGINE_BIASES_MAX]; /* what request.biases points to */
    struct sampler_candidate *saved; /* for sampler_edit, owned; NULL: nothing to edit */
    uint32_t token_count;
    uint32_t prompt_count;
    uint32_t computed_count;
    uint32_t prompt_given; /* prompt tokens given out (prompt_logprobs) */
    bool finished;
    struct kv_blocks kv; /* none while it waits for its first step, or again after a preemption */
    struct prefix_origin origin;
    uint32_t known_count;   /* its first blocks, which the prefix index knows */
    uint32_t reached_count; /* positions that its steps have come to, over all its starts */
    uint32_t cached_count;  /* of them, found in the cache when it first came to them */
};

/* Part of a batch: the next row_count positions of a sequence, from row on. */
struct step_part {
    struct sequence *sequence;
    uint32_t row;
    uint32_t row_count;
};

struct engine {
    const struct backbone *backbone; /* borrowed */
    struct engine_options options;   /* with every default filled in */
    struct forward forward;
    struct kv_pool kv;
    const struct adapter **adapters; /* [adapters_max], borrowed; NULL: empty slot */
    struct digest *adapter_digests;  /* [adapters_max] */

    struct sequence **sequences; /* [sequences_max] by request.order, then by arrival */
    uint32_t sequence_count;
    uint32_t next_id;
    uint32_t prompt_rows_max; /* 0: what rows_max leaves */
    bool prompts_first;       /* who decodes waits for prompts */
    bool kv_is_most;          /* the KV pool's limit will not be raised */

    /* The batch of one step, sized once. */
    struct step_part *parts; /* [sequences_max] */
    uint32_t part_count;
    struct forward_row *rows; /* [rows_max] */
    uint32_t row_count;
    struct lora_group *groups; /* [sequences_max] */

    /* What the last step gave out and its caller had no room for yet. */
    struct engine_output *outputs; /* [output_capacity] */
    uint32_t output_capacity;
    uint32_t output_index; /* the next to go out */
    uint32_t output_count;
};

/* Most outputs of one step: one a row, the first token of each prompt, and an end without token. */
static inline uint32_t step_outputs_max(const struct engine_options *o)
{
    return o->rows_max + 2 * o->sequences_max;
}

/* Plans, runs and fills e->outputs, which is empty before. 0, or what failed on the device. */
int step_run(struct engine *e, struct engine_step_stats *stats, struct error *err);
