/* See prefix.h. */
#include "engine/prefix.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int prefix_open(struct prefix *ret, uint32_t block_count, struct error *err)
{
    struct prefix p = {.block_count = block_count,
                       .bucket_count = 1,
                       .oldest = PREFIX_NONE,
                       .newest = PREFIX_NONE};
    while (p.bucket_count < block_count)
        p.bucket_count *= 2;
    /* Zeroed by the system and touched as blocks become known, so an unused index costs nothing. */
    p.nodes = calloc(block_count, sizeof(*p.nodes));
    p.buckets = calloc(p.bucket_count, sizeof(*p.buckets));
    if (!p.nodes || !p.buckets) {
        prefix_close(&p);
        return error_set(err, -ENOMEM, "no memory for an index of %u KV blocks", block_count);
    }
    *ret = p;
    return 0;
}

void prefix_close(struct prefix *p)
{
    free(p->nodes);
    free(p->buckets);
    memset(p, 0, sizeof(*p));
}

/* --- the index --- */

static uint64_t mix(uint64_t hash, const void *words, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += 4) {
        uint32_t word;
        memcpy(&word, (const uint8_t *)words + at, 4);
        hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 29;
    }
    return hash;
}

static uint32_t *bucket_of(const struct prefix *p, const struct prefix_origin *origin,
                           uint32_t parent, const uint32_t *tokens)
{
    uint64_t hash = mix(mix(mix(0, origin, sizeof(*origin)), &parent, sizeof(parent)), tokens,
                        ENGINE_KV_BLOCK_TOKENS * sizeof(*tokens));
    return &p->buckets[hash & (p->bucket_count - 1)];
}

static bool is_of(const struct prefix_node *n, const struct prefix_origin *origin, uint32_t parent,
                  const uint32_t *tokens)
{
    return n->parent == parent && memcmp(n->tokens, tokens, sizeof(n->tokens)) == 0 &&
           memcmp(&n->origin, origin, sizeof(*origin)) == 0;
}

uint32_t prefix_find(const struct prefix *p, const struct prefix_origin *origin, uint32_t parent,
                     const uint32_t *tokens)
{
    uint32_t block = *bucket_of(p, origin, parent, tokens) - 1;
    while (block != PREFIX_NONE && !is_of(&p->nodes[block], origin, parent, tokens))
        block = p->nodes[block].next;
    return block;
}

bool prefix_insert(struct prefix *p, uint32_t block, const struct prefix_origin *origin,
                   uint32_t parent, const uint32_t *tokens)
{
    uint32_t *bucket = bucket_of(p, origin, parent, tokens), count = 0;
    struct prefix_node *n = &p->nodes[block];
    assert(!n->is_known);
    for (uint32_t b = *bucket - 1; b != PREFIX_NONE; b = p->nodes[b].next)
        count++;
    if (count == PREFIX_BUCKET_MAX)
        return false;
    *n = (struct prefix_node){
        .origin = *origin, .parent = parent, .next = *bucket - 1, .is_known = true};
    memcpy(n->tokens, tokens, sizeof(n->tokens));
    *bucket = block + 1;
    if (parent != PREFIX_NONE) {
        assert(p->nodes[parent].is_known);
        p->nodes[parent].child_count++;
    }
    return true;
}

static void forget(struct prefix *p, uint32_t block)
{
    struct prefix_node *n = &p->nodes[block];
    uint32_t *bucket = bucket_of(p, &n->origin, n->parent, n->tokens);
    assert(n->is_known);
    assert(n->child_count == 0);
    if (*bucket - 1 == block) {
        *bucket = n->next + 1;
    } else {
        uint32_t before = *bucket - 1;
        while (p->nodes[before].next != block)
            before = p->nodes[before].next;
        p->nodes[before].next = n->next;
    }
    if (n->parent != PREFIX_NONE)
        p->nodes[n->parent].child_count--;
    n->is_known = false;
}

/* --- what no sequence holds --- */

void prefix_rest(struct prefix *p, uint32_t block)
{
    struct prefix_node *n = &p->nodes[block];
    assert(n->is_known && !n->is_idle);
    n->is_idle = true;
    n->newer = PREFIX_NONE;
    n->older = p->newest;
    if (p->newest != PREFIX_NONE)
        p->nodes[p->newest].newer = block;
    else
        p->oldest = block;
    p->newest = block;
}

void prefix_wake(struct prefix *p, uint32_t block)
{
    struct prefix_node *n = &p->nodes[block];
    assert(n->is_idle);
    n->is_idle = false;
    if (n->older != PREFIX_NONE)
        p->nodes[n->older].newer = n->newer;
    else
        p->oldest = n->newer;
    if (n->newer != PREFIX_NONE)
        p->nodes[n->newer].older = n->older;
    else
        p->newest = n->older;
}

uint32_t prefix_take(struct prefix *p)
{
    uint32_t block = p->oldest;
    if (block == PREFIX_NONE)
        return PREFIX_NONE;
    prefix_wake(p, block);
    forget(p, block);
    return block;
}
