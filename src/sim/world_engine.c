/*
 * An engine in virtual time: sequences, steps, turns. Steps that are all alike are one segment: its
 * time is a closed form (each step reads one more token for each row than the one before), so that
 * a request costs a few events, not one a token.
 */
#include "sim/world_state.h"

#include <assert.h>
#include <math.h>

/* --- lists --- */

static void append(struct world *w, struct world_list *l, uint32_t index)
{
    struct world_request *r = &w->requests[index];
    r->next = SCHED_NONE;
    r->prev = l->tail;
    *(l->tail == SCHED_NONE ? &l->head : &w->requests[l->tail].next) = index;
    l->tail = index;
    l->count++;
}

static void take_out(struct world *w, struct world_list *l, uint32_t index)
{
    const struct world_request *r = &w->requests[index];
    *(r->prev == SCHED_NONE ? &l->head : &w->requests[r->prev].next) = r->next;
    *(r->next == SCHED_NONE ? &l->tail : &w->requests[r->next].prev) = r->prev;
    l->count--;
}

static uint32_t sequences(const struct world_worker *k)
{
    return k->prompts.count + k->decodes.count;
}

/* --- what steps take --- */

/* A step's time, without what its caches take. */
static double step_us(const struct world *w, const struct world_worker *k, uint32_t prompt_rows,
                      uint32_t decode_rows)
{
    const struct profile_step *s = &w->profile->backbones[k->backbone].steps[w->o->engine];
    return cost_turn_us(&s->linear, 1, prompt_rows, decode_rows) +
           (k->merged == SCHED_NONE ? s->lora_us : 0);
}

static uint32_t decode_rows(const struct world *w, const struct world_worker *k)
{
    if (k->prompts_first && k->segment.prompt_rows > 0)
        return 0;
    return w->o->batch == WORLD_STATIC && k->decodes.count > 0 ? k->batch_rows : k->decodes.count;
}

/* The first `steps` of a segment: n steps that decode read context, context + rows, ... */
static double segment_us(const struct world *w, const struct world_worker *k, double steps)
{
    const struct world_segment *g = &k->segment;
    const struct profile_step *s = &w->profile->backbones[k->backbone].steps[w->o->engine];
    uint32_t rows = decode_rows(w, k);
    double read = rows > 0 ? steps * (double)k->context + rows * steps * (steps - 1) / 2 : 0;
    return steps * step_us(w, k, g->prompt_rows, rows) + s->context_us * read;
}

/* --- ends --- */

static void tell_done(struct world *w, uint32_t worker, uint32_t index)
{
    struct world_worker *k = &w->workers[worker];
    struct world_request *r = &w->requests[index];
    double us = k->device_each - r->device_mark;
    if (--k->slot_running[r->slot] == 0)
        k->slots_running--;
    r->worker = SCHED_NONE;
    if (sequences(k) == 0) {
        world_release(w, k->device, w->profile->backbones[k->backbone].work_bytes);
        k->merged = SCHED_NONE;
    }
    if (r->new_tokens > 1 && !r->is_cut)
        world_apply(w, (struct sched_event){
                           .type = SCHED_TOKENS, .request = r->id, .tokens = r->new_tokens - 1});
    world_apply(w, (struct sched_event){.type = SCHED_DONE,
                                        .request = r->id,
                                        .tokens = r->prompt,
                                        .more_tokens = r->new_tokens,
                                        .us = (uint64_t)(us + 0.5)});
}

static void end_turn(struct world *w, uint32_t worker, bool is_stalled)
{
    struct world_worker *k = &w->workers[worker];
    k->has_turn = k->revoked = false;
    w->places[k->device].turn_worker = SCHED_NONE;
    world_apply(w, (struct sched_event){.type = SCHED_TURN_ENDED,
                                        .worker = worker,
                                        .us = k->turn.us,
                                        .steps = k->turn.steps,
                                        .tokens = k->turn.prompt_rows,
                                        .more_tokens = k->turn.decode_rows,
                                        .stalled = is_stalled});
}

static void find_next_end(const struct world *w, struct world_worker *k)
{
    k->ends_next = UINT64_MAX;
    for (uint32_t i = k->decodes.head; i != SCHED_NONE; i = w->requests[i].next)
        if (w->requests[i].ends_at < k->ends_next)
            k->ends_next = w->requests[i].ends_at;
}

/* --- segments --- */

static uint32_t static_prompt_rows(const struct world *w, const struct world_worker *k)
{
    uint32_t longest = 0;
    for (uint32_t i = k->prompts.head; i != SCHED_NONE; i = w->requests[i].next)
        longest = w->requests[i].prompt_left > longest ? w->requests[i].prompt_left : longest;
    return longest * k->prompts.count;
}

static uint32_t chunk_rows(const struct world *w, const struct world_worker *k)
{
    uint64_t rows = 0;
    if (w->o->batch == WORLD_STATIC)
        return k->decodes.count > 0 ? 0 : static_prompt_rows(w, k);
    for (uint32_t i = k->prompts.head; i != SCHED_NONE && rows < k->rows_max;
         i = w->requests[i].next)
        rows += w->requests[i].prompt_left;
    return rows < k->rows_max ? (uint32_t)rows : k->rows_max;
}

static void arm(struct world *w, uint32_t worker)
{
    struct world_worker *k = &w->workers[worker];
    struct world_segment *g = &k->segment;
    uint64_t us = (uint64_t)(segment_us(w, k, g->steps) + 0.5);
    world_at(w, g->began_us + g->lead_us + us, WORLD_SEGMENT, worker, ++g->number, k->life);
}

/* What fits into the granted KV memory: rows of prompts and steps. False when not even one row. */
static bool size_segment(const struct world *w, struct world_worker *k)
{
    struct world_segment *g = &k->segment;
    uint64_t most = k->kv_bytes / w->profile->backbones[k->backbone].kv_token_bytes;
    uint64_t held = k->context + k->computed, room = most > held ? most - held : 0;
    uint32_t rows = chunk_rows(w, k), decodes = k->decodes.count;
    if (w->o->batch == WORLD_STATIC)
        room = UINT64_MAX;
    if (k->prompts_first && rows > 0 && room > 0)
        decodes = 0;
    if (room < decodes)
        return false;
    g->prompt_rows = rows < room - decodes ? rows : (uint32_t)(room - decodes);
    if (g->prompt_rows == 0 && decodes == 0)
        return false;
    uint64_t steps = g->prompt_rows > 0 ? 1 : k->ends_next - k->decoded;
    if (g->prompt_rows == 0 && steps > room / decodes)
        steps = room / decodes;
    g->steps = (uint32_t)steps;
    return true;
}

/* Without more memory to come: the latest sequence starts again, or, alone, ends as it is. */
static void give_way(struct world *w, uint32_t worker)
{
    struct world_worker *k = &w->workers[worker];
    uint32_t latest = k->prompts.tail != SCHED_NONE ? k->prompts.tail : k->decodes.tail;
    struct world_request *r = &w->requests[latest];
    if (sequences(k) == 1) {
        r->is_cut = true;
        if (k->prompts.count == 0)
            k->context = 0;
        take_out(w, k->prompts.count > 0 ? &k->prompts : &k->decodes, latest);
        k->computed = 0;
        tell_done(w, worker, latest);
    } else if (k->prompts.tail == latest && r->prompt_left < r->context) {
        k->computed -= r->context - r->prompt_left;
        r->prompt_left = r->context;
    } else {
        latest = k->decodes.tail;
        r = &w->requests[latest];
        uint32_t made = r->left - (uint32_t)(r->ends_at - k->decoded);
        take_out(w, &k->decodes, latest);
        k->context -= r->context + made;
        r->context += made;
        r->prompt_left = r->context;
        r->left -= made;
        append(w, &k->prompts, latest);
        find_next_end(w, k);
    }
}

/* The slot whose adapter is to be in the weights: of the only function that runs, once nobody's
 * first token waits for that. */
static uint32_t to_merge(const struct world *w, const struct world_worker *k)
{
    bool has_prompts = k->prompts.count > 0;
    if (!(w->o->merge_us_byte > 0) || k->slots_running != 1)
        return SCHED_NONE;
    uint32_t slot = w->requests[has_prompts ? k->prompts.head : k->decodes.head].slot;
    return has_prompts && k->merged != slot ? SCHED_NONE : slot;
}

/* Before steps of whoever runs now: adapters taken in, one merged or no longer. */
static uint64_t prepare_us(const struct world *w, struct world_worker *k)
{
    uint32_t merged = to_merge(w, k);
    double us = (double)k->swaps * (double)w->o->swap_us;
    if (merged != k->merged)
        us += w->o->merge_us_byte * (double)w->profile->backbones[k->backbone].bytes;
    k->swaps = 0;
    k->merged = merged;
    return (uint64_t)(us + 0.5);
}

static void begin_segment(struct world *w, uint32_t worker, uint64_t lead_us)
{
    struct world_worker *k = &w->workers[worker];
    struct world_segment *g = &k->segment;
    bool fits;
    while (!(fits = size_segment(w, k)) && k->kv_is_most && sequences(k) > 0)
        give_way(w, worker);
    if (!fits) {
        end_turn(w, worker, sequences(k) > 0);
        return;
    }
    g->is_on = true;
    g->began_us = w->now_us;
    g->lead_us = lead_us + prepare_us(w, k);
    if (g->prompt_rows > 0 && w->o->batch == WORLD_STATIC)
        k->batch_rows = k->prompts.count;
    arm(w, worker);
}

/* The segment ends with the step that is under way. */
static void cut_short(struct world *w, uint32_t worker)
{
    struct world_worker *k = &w->workers[worker];
    struct world_segment *g = &k->segment;
    uint64_t began_us = g->began_us + g->lead_us;
    if (g->steps == 1)
        return;
    double passed = w->now_us > began_us ? (double)(w->now_us - began_us) : 0;
    uint32_t least = 1, most = g->steps; /* the smallest number of steps that take so long */
    while (least < most) {
        uint32_t middle = least + (most - least) / 2;
        if (segment_us(w, k, middle) < passed)
            least = middle + 1;
        else
            most = middle;
    }
    if (least == g->steps)
        return;
    g->steps = least;
    arm(w, worker);
}

/* --- what a segment brings --- */

/* Its prompt is computed: the next token is there. */
static void answer_next(struct world *w, uint32_t worker, uint32_t index)
{
    struct world_worker *k = &w->workers[worker];
    struct world_request *r = &w->requests[index];
    take_out(w, &k->prompts, index);
    k->computed -= r->context;
    if (!r->is_answered)
        world_apply(w, (struct sched_event){.type = SCHED_TOKENS, .request = r->id, .tokens = 1});
    r->is_answered = true;
    r->left--;
    if (r->left == 0 && w->o->batch == WORLD_CONTINUOUS) {
        tell_done(w, worker, index);
        return;
    }
    r->ends_at = k->decoded + r->left;
    append(w, &k->decodes, index);
    k->context += r->context;
}

static void spend_prompts(struct world *w, uint32_t worker)
{
    struct world_worker *k = &w->workers[worker];
    bool is_static = w->o->batch == WORLD_STATIC; /* padded rows are nobody's */
    uint32_t left = is_static ? k->batch_rows : k->segment.prompt_rows;
    for (uint32_t i = k->prompts.head, next; i != SCHED_NONE && left > 0; i = next) {
        struct world_request *r = &w->requests[i];
        uint32_t rows = is_static || r->prompt_left < left ? r->prompt_left : left;
        next = r->next;
        r->prompt_left -= rows;
        k->computed += rows;
        left -= is_static ? 1 : rows;
        if (r->prompt_left == 0)
            answer_next(w, worker, i);
    }
}

/* Those that are whole; of a static batch all of them, when the last one is. */
static void end_answers(struct world *w, uint32_t worker)
{
    struct world_worker *k = &w->workers[worker];
    bool is_static = w->o->batch == WORLD_STATIC;
    uint64_t longest = 0;
    for (uint32_t i = k->decodes.head; i != SCHED_NONE; i = w->requests[i].next)
        longest = w->requests[i].ends_at > longest ? w->requests[i].ends_at : longest;
    for (uint32_t i = k->decodes.head, next; i != SCHED_NONE; i = next) {
        struct world_request *r = &w->requests[i];
        next = r->next;
        if (is_static)
            r->ends_at = longest;
        if (r->ends_at > k->decoded)
            continue;
        take_out(w, &k->decodes, i);
        k->context -= r->context + (is_static ? 0 : r->left);
        tell_done(w, worker, i);
    }
    find_next_end(w, k);
    if (k->decodes.count == 0)
        k->context = 0; /* with what a static batch decoded beyond its answers */
}

static void count_steps(struct world *w, struct world_worker *k, double us, uint32_t rows)
{
    const struct world_segment *g = &k->segment;
    k->turn.us += (uint64_t)(us + 0.5);
    k->turn.steps += g->steps;
    k->turn.prompt_rows += g->prompt_rows;
    k->turn.decode_rows += rows * g->steps;
    k->device_each += us / sequences(k);
    w->device_us += (uint64_t)(us + 0.5);
    w->decode_sequences += (double)rows * g->steps;
    w->decode_steps += rows > 0 ? g->steps : 0;
    if (sequences(k) > w->totals.batch_peak)
        w->totals.batch_peak = sequences(k);
}

void world_segment_event(struct world *w, uint32_t worker, uint32_t number)
{
    struct world_worker *k = &w->workers[worker];
    struct world_segment *g = &k->segment;
    if (number != g->number || !g->is_on)
        return;
    uint32_t rows = decode_rows(w, k);
    g->is_on = false;
    count_steps(w, k, segment_us(w, k, g->steps), rows);
    if (rows > 0) {
        k->decoded += g->steps;
        k->context += (uint64_t)rows * g->steps;
    }
    if (g->prompt_rows > 0)
        spend_prompts(w, worker);
    end_answers(w, worker);
    if (sequences(k) == 0 || k->revoked)
        end_turn(w, worker, false);
    else
        begin_segment(w, worker, 0);
}

/* --- what the policy asks --- */

void world_submit(struct world *w, uint32_t worker, struct world_request *r)
{
    struct world_worker *k = &w->workers[worker];
    assert(r->worker == SCHED_NONE);
    if (sequences(k) == 0)
        world_charge(w, k->device, w->profile->backbones[k->backbone].work_bytes);
    r->worker = worker;
    r->device_mark = k->device_each;
    world_apply(
        w, (struct sched_event){.type = SCHED_ADMITTED, .request = r->id, .tokens = r->prompt});
    if (k->slot_running[r->slot]++ == 0) {
        k->slots_running++;
        k->swaps++;
    }
    append(w, &k->prompts, (uint32_t)(r - w->requests));
    if (k->segment.is_on)
        cut_short(w, worker);
}

void world_grant(struct world *w, uint32_t worker, uint32_t rows, bool prompts_first)
{
    struct world_worker *k = &w->workers[worker];
    assert(!k->has_turn && rows > 0);
    k->has_turn = true;
    k->rows_max = rows;
    k->prompts_first = prompts_first;
    k->turn = (struct world_turn){0};
    begin_segment(w, worker, w->profile->turn_us);
}

void world_revoke(struct world *w, uint32_t worker)
{
    struct world_worker *k = &w->workers[worker];
    assert(k->has_turn);
    k->revoked = true;
    if (k->segment.is_on)
        cut_short(w, worker);
}

void world_engine_clear(struct world *w, uint32_t worker)
{
    struct world_worker *k = &w->workers[worker];
    const struct world_list *lists[] = {&k->prompts, &k->decodes};
    if (sequences(k) > 0)
        world_release(w, k->device, w->profile->backbones[k->backbone].work_bytes);
    for (int l = 0; l < 2; l++)
        for (uint32_t i = lists[l]->head; i != SCHED_NONE; i = w->requests[i].next)
            w->requests[i].worker = SCHED_NONE;
    k->prompts.count = k->decodes.count = 0;
    k->segment.is_on = false;
}
