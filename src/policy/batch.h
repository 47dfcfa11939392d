/*
 * Batching and turns (the paper, 4.2). Within a function prefills are admitted fill-or-expire: when
 * as many wait as its objective allows in one batch, or when the oldest can wait no longer. Across
 * domains the device goes to the one with the smallest deadline margin. Two things are added: an
 * idle device is never kept waiting (the caller's part), and nobody waits for ever, whatever the
 * deadlines say.
 */
#pragma once

#include "policy/cost.h"

#include <stdbool.h>

#define BATCH_NONE UINT32_MAX

/* N = floor((SLO - T0) / alpha) + 1, from 1 to most: the largest batch within the objective. */
uint32_t batch_limit(double slo_us, const struct cost_batch *b, uint32_t most);

/* Until when `count` queued requests may wait for more: d = SLO - M T(count) after the oldest came,
 * and no longer than window_us. */
uint64_t batch_due_us(uint64_t oldest_us, double slo_us, const struct cost_batch *b, uint32_t count,
                      double contention, uint64_t window_us);

/* Delta = deadline - now - M T, in us; below 0 it is missed already. */
double batch_margin_us(uint64_t deadline_us, uint64_t now_us, double contention, double batch_us);

struct batch_contender {
    double margin_us;
    double slack_us;      /* how long it can be put off, were it next then, and no token is late */
    double first_us;      /* what it takes until its first tokens; 0: it only decodes */
    uint32_t passed_over; /* turns of others since it last had, or began to want, the device */
    uint32_t index;       /* the caller's */
};

/* After so many turns of others for each contender, it is its turn. */
#define BATCH_PASSED_OVER_MAX 4u

/* Which contender is next; BATCH_NONE of none. Those passed over BATCH_PASSED_OVER_MAX * count
 * times come first, the longest of them. Else, of those who wait for a first token the one with the
 * smallest margin, as long as everybody who decodes can be put off for so long: a deadline is no
 * reason to let somebody wait. Else the smallest margin of all, then the smaller index. So with M
 * contenders nobody waits for more than BATCH_PASSED_OVER_MAX * M + M - 1 turns. */
uint32_t batch_next_turn(const struct batch_contender *contenders, uint32_t count);

/* When the turn that began at turn_began_us must be given up: after turn_us when another domain
 * wants the device, never while alone (UINT64_MAX). */
uint64_t batch_turn_ends_us(uint64_t turn_began_us, uint64_t turn_us, bool another_wants);

/* Rows of prompts that a step may take beside decode_rows so that it ends within tpot_us, from
 * least to most: chunked prefill at the pace that those who decode were promised. */
uint32_t batch_prompt_rows(const struct cost_step *c, double tpot_us, uint32_t decode_rows,
                           uint32_t least, uint32_t most);

/* How long prompts take, prompts_us in steps of `most` rows of theirs alone, when a step has `rows`
 * of them beside decode_rows. */
double batch_paced_us(const struct cost_step *c, double prompts_us, uint32_t rows,
                      uint32_t decode_rows, uint32_t most);
