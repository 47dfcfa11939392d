/* See step.h. */
#include "engine/step.h"

#include <assert.h>
#include <string.h>

#include "engine/sampler.h"

/* --- outputs and ends --- */

/* Gives its blocks away. It can start over from its known tokens: the same arithmetic, so the same
 * tokens. */
static void sequence_release(struct engine *e, struct sequence *s)
{
    kv_release(&e->kv, &s->kv);
    s->computed_count = s->known_count = 0;
}

static void sequence_finish(struct engine *e, struct sequence *s)
{
    s->finished = true;
    sequence_release(e, s);
}

static void output_push(struct engine *e, const struct engine_output *o)
{
    assert(e->output_count < e->output_capacity);
    e->outputs[e->output_count++] = *o;
}

static void finish_without_kv(struct engine *e, struct sequence *s)
{
    const struct engine_output o = {.sequence = s->id, .finish = ENGINE_OUT_OF_KV};
    output_push(e, &o);
    sequence_finish(e, s);
}

/* --- known prefixes --- */

static uint32_t block_before(const struct sequence *s)
{
    return s->known_count > 0 ? s->kv.ids[s->known_count - 1] : PREFIX_NONE;
}

static const uint32_t *tokens_after(const struct sequence *s)
{
    return s->tokens + (size_t)s->known_count * ENGINE_KV_BLOCK_TOKENS;
}

/* The next block can be one that somebody else computed. The last known token is always computed:
 * its logits are wanted. So is a prompt whose tokens are rated. */
static bool can_take_block(const struct engine *e, const struct sequence *s)
{
    return e->kv.keeps_prefixes && !s->request.prompt_logprobs &&
           s->computed_count == s->known_count * ENGINE_KV_BLOCK_TOKENS &&
           s->computed_count + ENGINE_KV_BLOCK_TOKENS < s->token_count;
}

static void take_prefix(struct engine *e, struct sequence *s)
{
    while (can_take_block(e, s)) {
        uint32_t block = prefix_find(&e->kv.prefix, &s->origin, block_before(s), tokens_after(s));
        if (block == PREFIX_NONE)
            return;
        kv_hold(&e->kv, &s->kv, s->known_count++, block);
        s->computed_count += ENGINE_KV_BLOCK_TOKENS;
    }
}

/* What this step computes becomes known. Where another sequence was first, its block takes the
 * place of the own one: the same arithmetic, so the same bytes, held once. */
static void remember_prefix(struct engine *e, struct sequence *s, uint32_t computed_count)
{
    while ((s->known_count + 1) * ENGINE_KV_BLOCK_TOKENS <= computed_count) {
        const uint32_t *tokens = tokens_after(s);
        uint32_t before = block_before(s);
        uint32_t block = prefix_find(&e->kv.prefix, &s->origin, before, tokens);
        if (block != PREFIX_NONE)
            kv_hold(&e->kv, &s->kv, s->known_count, block);
        else if (!prefix_insert(&e->kv.prefix, s->kv.ids[s->known_count], &s->origin, before,
                                tokens))
            return;
        s->known_count++;
    }
}

/* A part planned before computes the sequence's next block: in the next step it is there. Each
 * sequence that is first holds another up for one step a block, and saves it that block. */
static bool is_being_computed(const struct engine *e, const struct sequence *s)
{
    uint32_t end = s->computed_count + ENGINE_KV_BLOCK_TOKENS;
    if (!can_take_block(e, s))
        return false;
    for (uint32_t i = 0; i < e->part_count; i++) {
        const struct sequence *first = e->parts[i].sequence;
        if (first->computed_count < end && end <= first->computed_count + e->parts[i].row_count &&
            first->known_count == s->known_count && block_before(first) == block_before(s) &&
            memcmp(&first->origin, &s->origin, sizeof(s->origin)) == 0 &&
            memcmp(tokens_after(first), tokens_after(s),
                   ENGINE_KV_BLOCK_TOKENS * sizeof(*s->tokens)) == 0)
            return true;
    }
    return false;
}

/* --- the plan --- */

/* Positions that must be computed before the sequence gives out a new token. */
static uint32_t rows_left(const struct sequence *s)
{
    return s->token_count - s->computed_count;
}

static bool is_decoding(const struct sequence *s)
{
    return !s->finished && s->kv.count > 0 && s->computed_count >= s->prompt_count &&
           rows_left(s) == 1;
}

static void plan_part(struct engine *e, struct sequence *s, uint32_t row_count)
{
    if (s->computed_count > s->reached_count)
        s->cached_count += s->computed_count - s->reached_count;
    if (s->computed_count + row_count > s->reached_count)
        s->reached_count = s->computed_count + row_count;
    e->parts[e->part_count++] = (struct step_part){.sequence = s, .row_count = row_count};
    e->row_count += row_count;
}

static bool is_planned(const struct engine *e, const struct sequence *s)
{
    for (uint32_t i = 0; i < e->part_count; i++) {
        if (e->parts[i].sequence == s)
            return true;
    }
    return false;
}

/* Makes room for all known tokens of sequence `index`, at the cost of the last in order that this
 * step does not compute; false when that is itself, which then waits or, alone in the pool, ends.
 */
static bool make_room(struct engine *e, uint32_t index)
{
    struct sequence *s = e->sequences[index];
    while (!kv_grow(&e->kv, &s->kv, s->token_count)) {
        uint32_t youngest = e->sequence_count - 1;
        while (youngest > index &&
               (e->sequences[youngest]->kv.count == 0 || is_planned(e, e->sequences[youngest])))
            youngest--;
        if (youngest > index) {
            sequence_release(e, e->sequences[youngest]);
            continue;
        }
        uint32_t most = e->kv_is_most ? e->kv.limit_count : e->kv.block_count;
        if (kv_blocks_for(s->token_count) > most)
            finish_without_kv(e, s);
        else
            sequence_release(e, s);
        return false;
    }
    return true;
}

/* LongRoPE rotates every position of a long sequence by other angles: one that has become long
 * computes all of it anew. */
static void plan_long(struct engine *e)
{
    uint32_t long_from = rope_long_from(e->backbone->config);
    for (uint32_t i = 0; i < e->sequence_count; i++) {
        struct sequence *s = e->sequences[i];
        if (s->finished || s->origin.is_long || s->token_count <= long_from)
            continue;
        sequence_release(e, s);
        s->origin.is_long = 1;
    }
}

static void plan_decoding(struct engine *e)
{
    for (uint32_t i = 0; i < e->sequence_count; i++) {
        if (is_decoding(e->sequences[i]) && make_room(e, i))
            plan_part(e, e->sequences[i], 1);
    }
}

/* Rows that prompts may have in this step, beside those that decode. */
static uint32_t prompt_rows_end(const struct engine *e)
{
    uint32_t most = e->options.rows_max;
    if (e->row_count == 0 || e->prompt_rows_max == 0 || e->prompt_rows_max >= most - e->row_count)
        return most;
    return e->row_count + e->prompt_rows_max;
}

/* Whoever waits takes the blocks of all known tokens at once, so that only decoding can run out;
 * nobody takes blocks before an older one has all of its own, so that nobody starves. */
static void plan_prompts(struct engine *e)
{
    uint32_t end = prompt_rows_end(e);
    for (uint32_t i = 0; i < e->sequence_count && e->row_count < end; i++) {
        struct sequence *s = e->sequences[i];
        if (s->finished || is_decoding(s)) /* those are planned */
            continue;
        take_prefix(e, s);
        if (!make_room(e, i))
            break;
        if (is_being_computed(e, s))
            continue;
        uint32_t room = end - e->row_count, rows = rows_left(s);
        plan_part(e, s, rows < room ? rows : room);
    }
}

static bool same_group(const struct engine_request *a, const struct engine_request *b)
{
    return a->adapter_slot == b->adapter_slot &&
           (a->adapter_slot < 0 || a->adapter_scale == b->adapter_scale);
}

static bool comes_after(const struct engine_request *a, const struct engine_request *b)
{
    if (a->adapter_slot != b->adapter_slot)
        return a->adapter_slot > b->adapter_slot;
    return a->adapter_slot >= 0 && a->adapter_scale > b->adapter_scale;
}

/* Rows of one adapter and scale lie together; the bare backbone's come first. */
static void sort_parts(struct engine *e)
{
    for (uint32_t i = 1; i < e->part_count; i++) {
        struct step_part part = e->parts[i];
        uint32_t at = i;
        for (; at > 0 && comes_after(&e->parts[at - 1].sequence->request, &part.sequence->request);
             at--)
            e->parts[at] = e->parts[at - 1];
        e->parts[at] = part;
    }
}

/* The part's group: the last one, or a new one. */
static struct lora_group *group_of_part(struct engine *e, struct batch *b, uint32_t index)
{
    const struct engine_request *r = &e->parts[index].sequence->request;
    if (r->adapter_slot < 0)
        return NULL;
    if (index == 0 || !same_group(r, &e->parts[index - 1].sequence->request))
        e->groups[b->group_count++] = (struct lora_group){.adapter = e->adapters[r->adapter_slot],
                                                          .scale = r->adapter_scale,
                                                          .row = b->row_count};
    return &e->groups[b->group_count - 1];
}

static struct batch make_batch(struct engine *e)
{
    struct batch b = {.rows = e->rows, .groups = e->groups};
    for (uint32_t i = 0; i < e->part_count; i++) {
        struct step_part *part = &e->parts[i];
        struct sequence *s = part->sequence;
        struct lora_group *group = group_of_part(e, &b, i);
        part->row = b.row_count;
        if (group)
            group->row_count += part->row_count;
        for (uint32_t r = 0; r < part->row_count; r++) {
            uint32_t position = s->computed_count + r;
            e->rows[b.row_count++] = (struct forward_row){
                .token = s->tokens[position],
                .position = position,
                .is_long = s->origin.is_long,
                .kv = &s->kv,
            };
        }
    }
    assert(b.row_count == e->row_count);
    return b;
}

/* --- from rows to tokens --- */

/* A row whose logits somebody wants. */
struct wanted {
    struct sequence *sequence;
    uint32_t position;
    struct engine_output output;
};

struct sample_job {
    struct engine *engine;
    const struct batch *batch;
    struct wanted wanted[FORWARD_DRAW_ROWS_MAX];
    uint32_t rows[FORWARD_DRAW_ROWS_MAX];
    uint32_t count;
    uint32_t most;       /* that are done at a time */
    bool is_drawn_there; /* by the device: nothing else is asked of the logits */
};

/* The next token; the logits are afterwards what they were before. */
static uint32_t draw(const struct forward *f, const struct sequence *s, uint32_t token_count,
                     float *logits, union sampler_scratch *scratch)
{
    uint32_t vocab_count = f->backbone->config->vocab_count;
    const struct sampler_known known = {s->tokens, token_count, s->prompt_count};
    uint32_t edits = s->saved ? sampler_edit(logits, &s->request, &known, scratch, s->saved) : 0;
    uint32_t token = sampler_draw(f->kernels, logits, vocab_count, &s->request.sampling,
                                  token_count - s->prompt_count, scratch);
    sampler_restore(logits, s->saved, edits);
    return token;
}

/* Draws the next token, or rates the prompt's own next token. */
static void sample_chunk(void *argument, uint32_t chunk, uint32_t thread)
{
    struct sample_job *job = argument;
    struct wanted *w = &job->wanted[chunk];
    const struct sequence *s = w->sequence;
    const struct engine_request *r = &s->request;
    const struct forward *f = &job->engine->forward;
    uint32_t vocab_count = f->backbone->config->vocab_count;
    float *logits = f->act.logits + (size_t)chunk * vocab_count;
    uint32_t next = w->position + 1;

    w->output = (struct engine_output){.sequence = s->id, .is_prompt = next < s->prompt_count};
    if (w->output.is_prompt) {
        w->output.token = s->tokens[next];
    } else {
        w->output.has_token = true;
        w->output.token = draw(f, s, next, logits, f->scratch[thread].sample);
    }
    w->output.has_logprob = w->output.is_prompt || r->logprobs;
    if (w->output.has_logprob || r->top_logprobs) {
        double log_sum_exp = f->kernels->log_sum_exp(logits, vocab_count);
        if (w->output.has_logprob)
            w->output.logprob = sampler_logprob(logits[w->output.token], log_sum_exp);
        w->output.top_count = sampler_top(f->kernels, logits, vocab_count, log_sum_exp,
                                          r->top_logprobs, w->output.top);
    }
}

/* The device draws. */
static void take_tokens(struct sample_job *job)
{
    struct forward *f = &job->engine->forward;
    struct forward_draw draws[FORWARD_DRAW_ROWS_MAX];
    uint32_t tokens[FORWARD_DRAW_ROWS_MAX];
    for (uint32_t i = 0; i < job->count; i++) {
        const struct sequence *s = job->wanted[i].sequence;
        draws[i] = (struct forward_draw){&s->request.sampling, s->token_count - s->prompt_count};
    }
    f->ops->draw(f, job->batch, job->rows, draws, job->count, tokens);
    for (uint32_t i = 0; i < job->count; i++)
        job->wanted[i].output = (struct engine_output){
            .sequence = job->wanted[i].sequence->id, .has_token = true, .token = tokens[i]};
}

static void take_logits(struct sample_job *job)
{
    struct forward *f = &job->engine->forward;
    forward_logits(f, job->batch, job->rows, job->count, f->act.logits);
    forward_run(f, (uint64_t)(job->count - 1) * f->backbone->config->vocab_count, sample_chunk, job,
                job->count);
}

static enum engine_finish finish_of(const struct sequence *s, uint32_t token)
{
    for (uint32_t i = 0; i < s->request.stop_token_count; i++) {
        if (s->request.stop_tokens[i] == token)
            return ENGINE_STOP_TOKEN;
    }
    return s->token_count - s->prompt_count == s->request.tokens_new_max ? ENGINE_LENGTH
                                                                         : ENGINE_GOES_ON;
}

/* Gives out one prompt token, the last one with the end where nothing is to be generated. */
static void give_prompt(struct engine *e, struct sequence *s, struct engine_output *o)
{
    s->prompt_given++;
    if (s->prompt_given == s->prompt_count && s->request.tokens_new_max == 0)
        o->finish = ENGINE_LENGTH;
    output_push(e, o);
    if (o->finish != ENGINE_GOES_ON)
        sequence_finish(e, s);
}

static void give_drawn(struct engine *e, struct sequence *s, struct engine_output *o)
{
    s->tokens[s->token_count++] = o->token;
    o->finish = finish_of(s, o->token);
    output_push(e, o);
    if (o->finish != ENGINE_GOES_ON)
        sequence_finish(e, s);
}

static void sample(struct sample_job *job)
{
    struct engine *e = job->engine;
    if (job->count == 0)
        return;
    if (job->is_drawn_there)
        take_tokens(job);
    else
        take_logits(job);
    for (uint32_t i = 0; i < job->count; i++) {
        struct wanted *w = &job->wanted[i];
        if (w->output.is_prompt)
            give_prompt(e, w->sequence, &w->output);
        else
            give_drawn(e, w->sequence, &w->output);
    }
    job->count = 0;
}

static bool wants_logits(const struct sequence *s, uint32_t position)
{
    uint32_t next = position + 1;
    if (next == s->token_count)
        return s->request.tokens_new_max > 0;
    return s->request.prompt_logprobs && next >= s->prompt_given && next < s->prompt_count;
}

/* A request's draws are all made in one place, so that its seed says what they are. */
static bool is_drawn_there(const struct engine *e, const struct sequence *s, uint32_t position)
{
    const struct engine_request *r = &s->request;
    return e->forward.ops->draw && position + 1 >= s->prompt_count && !s->saved && !r->logprobs &&
           r->top_logprobs == 0;
}

/* The logits of the wanted rows, as many at a time as there is room for. */
static void sample_parts(struct engine *e, const struct batch *b)
{
    uint32_t rows_max = e->options.rows_max;
    struct sample_job jobs[2] = {
        {.engine = e, .batch = b, .most = FORWARD_LOGIT_ROWS_MAX},
        {.engine = e, .batch = b, .most = FORWARD_DRAW_ROWS_MAX, .is_drawn_there = true}};
    for (uint32_t i = 0; i < 2; i++)
        jobs[i].most = jobs[i].most < rows_max ? jobs[i].most : rows_max;
    for (uint32_t i = 0; i < e->part_count; i++) {
        struct sequence *s = e->parts[i].sequence;
        uint32_t first = s->computed_count, row_count = e->parts[i].row_count;
        s->computed_count += row_count;
        if (s->request.prompt_logprobs && s->prompt_given == 0) {
            struct engine_output o = {.sequence = s->id, .is_prompt = true, .token = s->tokens[0]};
            give_prompt(e, s, &o);
        }
        for (uint32_t r = 0; r < row_count; r++) {
            if (!wants_logits(s, first + r))
                continue;
            struct sample_job *job = &jobs[is_drawn_there(e, s, first + r)];
            job->rows[job->count] = e->parts[i].row + r;
            job->wanted[job->count++] = (struct wanted){.sequence = s, .position = first + r};
            if (job->count == job->most)
                sample(job);
        }
    }
    sample(&jobs[0]);
    sample(&jobs[1]);
}

int step_run(struct engine *e, struct engine_step_stats *stats, struct error *err)
{
    assert(e->output_index == e->output_count);
    e->output_index = e->output_count = 0;
    e->part_count = e->row_count = 0;
    plan_long(e);
    if (e->prompts_first)
        plan_prompts(e);
    if (e->part_count == 0) {
        plan_decoding(e);
        plan_prompts(e);
    }
    if (e->part_count == 0)
        return 0;
    sort_parts(e);
    struct batch b = make_batch(e);
    forward(&e->forward, &b);
    stats->rows = b.row_count;
    stats->sequences = e->part_count;
    for (uint32_t i = 0; i < e->part_count; i++) {
        const struct sequence *s = e->parts[i].sequence;
        if (s->computed_count < s->prompt_count) {
            uint32_t left = s->prompt_count - s->computed_count;
            stats->prompt_rows += e->parts[i].row_count < left ? e->parts[i].row_count : left;
        }
        if (e->kv.keeps_prefixes)
            remember_prefix(e, e->parts[i].sequence, s->computed_count + e->parts[i].row_count);
    }
    sample_parts(e, &b);
    return e->forward.ops->finish(&e->forward, err);
}
