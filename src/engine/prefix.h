/*
 * Which full KV blocks hold the keys and values of which tokens, so that a sequence with a known
 * prefix takes its blocks instead of computing them. One decision: the index is a tree and every
 * step down it compares exactly: who computed (the adapter's digest and scale), which block is
 * before it, and the block's own tokens. A hash finds a place to look, it never decides, so there
 * is no collision to fear. Adapters are known by content, never by name or slot.
 *
 * A known block that no sequence holds is idle: it keeps its content until its memory is needed,
 * the one idle longest first. A sequence that holds a block holds all before it and lets go of the
 * last one first, so the block idle longest has none behind it and the tree stays whole.
 */
#pragma once

#include "base/digest.h"
#include "engine/engine.h"

#define PREFIX_NONE UINT32_MAX

/* A lookup reads at most this many nodes; a block whose bucket is full is not remembered. */
#define PREFIX_BUCKET_MAX 16u

/* Everything but the tokens that keys and values depend on, for one backbone. No padding: it is
 * compared and hashed as bytes. */
struct prefix_origin {
    struct digest adapter;
    uint32_t scale_bits; /* of the adapter's scale as a float, which is above 0; all zeroes: the
                          * bare backbone */
    uint32_t is_long;    /* 1: computed as part of a sequence beyond rope_long_from() */
};

_Static_assert(sizeof(struct prefix_origin) == DIGEST_BYTES + 8, "compared as bytes");

/* One block of the pool, by its number. */
struct prefix_node {
    struct prefix_origin origin;
    uint32_t parent; /* the block before it, PREFIX_NONE: it begins the sequence */
    uint32_t tokens[ENGINE_KV_BLOCK_TOKENS];
    uint32_t next; /* in its bucket, or PREFIX_NONE */
    uint32_t older, newer;
    uint32_t child_count;
    bool is_known;
    bool is_idle;
};

struct prefix {
    struct prefix_node *nodes; /* [block_count], owned */
    uint32_t *buckets;         /* [bucket_count], owned: block number + 1; 0: empty */
    uint32_t block_count;
    uint32_t bucket_count;   /* a power of two */
    uint32_t oldest, newest; /* of the idle blocks, or PREFIX_NONE */
};

int prefix_open(struct prefix *ret, uint32_t block_count, struct error *err);
void prefix_close(struct prefix *p);

/* The block of these tokens behind `parent`, or PREFIX_NONE. tokens [ENGINE_KV_BLOCK_TOKENS] */
uint32_t prefix_find(const struct prefix *p, const struct prefix_origin *origin, uint32_t parent,
                     const uint32_t *tokens);
/* From now on `block`, which some sequence holds, is what prefix_find gives for these. The caller
 * has seen that there is none yet. False when there is no room for it. */
bool prefix_insert(struct prefix *p, uint32_t block, const struct prefix_origin *origin,
                   uint32_t parent, const uint32_t *tokens);

/* The last sequence let go of a known block, or one takes it again. */
void prefix_rest(struct prefix *p, uint32_t block);
void prefix_wake(struct prefix *p, uint32_t block);
/* Forgets the block that has been idle longest and gives it to the caller; PREFIX_NONE when none is
 * idle. */
uint32_t prefix_take(struct prefix *p);
