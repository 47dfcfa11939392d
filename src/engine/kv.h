/*
 * The paged KV cache: one mapping cut into blocks of ENGINE_KV_BLOCK_TOKENS positions, given to
 * sequences as they grow. One decision: address space is reserved once, memory comes when a block
 * is first taken and goes with kv_trim, so an idle pool costs nothing. On the host it comes with
 * the first touch; on a GPU somebody has to ask.
 *
 * A block is fresh (never taken), held by one or more sequences, given back, or idle: held by none,
 * but its content is known to the prefix index. All but the held ones are free.
 *
 * A block holds [layer][kv_head] of what kernels/attention.h calls a block: keys and values of one
 * head beside each other.
 */
#pragma once

#include "base/error.h"
#include "engine/prefix.h"
#include "kernels/attention.h"
#include "model/config.h"

#include <stdbool.h>
#include <stdint.h>

struct gpu_range;
struct gpu_device;

struct kv_pool {
    uint8_t *base; /* owned mapping, block_count * block_bytes; on a GPU an address there */
    struct gpu_range *range; /* owned: that mapping on a GPU; NULL on the host */
    uint64_t block_bytes;
    uint64_t head_bytes; /* one head's keys and values in a block */
    uint32_t kv_head_count;
    uint32_t block_count;
    uint32_t limit_count; /* blocks that may have memory at one time, those held in any case */
    uint32_t fresh_index; /* blocks from here on were never taken */
    uint32_t *given_back; /* [block_count], owned: a stack of taken and returned blocks */
    uint32_t given_count;
    uint32_t cold_count; /* of given_back, from the bottom: their memory went back to the system */
    uint32_t *holders;   /* [block_count], owned: how many sequences hold it */
    uint32_t held_count;
    bool keeps_prefixes;
    struct prefix prefix; /* with keeps_prefixes */
};

/* The blocks of one sequence: block i holds positions [i * block_tokens, (i + 1) * block_tokens).
 */
struct kv_blocks {
    uint32_t *ids; /* [capacity], owned */
    uint32_t count;
    uint32_t capacity;
};

/* Of one block: whole pages. */
uint64_t kv_block_bytes(const struct model_config *c, enum kernel_kv type);

/* `bytes` is rounded down to whole blocks; less than one is refused. `gpu`: where it is to lie, or
 * NULL for the host. */
int kv_open(struct kv_pool *ret, const struct model_config *c, enum kernel_kv type, uint64_t bytes,
            bool keeps_prefixes, const struct gpu_device *gpu, struct error *err);
void kv_close(struct kv_pool *p);

/* Blocks that `token_count` positions need. */
uint32_t kv_blocks_for(uint64_t token_count);
uint32_t kv_free_count(const struct kv_pool *p);
uint64_t kv_used_bytes(const struct kv_pool *p);

/* Room for the numbers of the blocks of `token_count` positions; takes none. 0 or -ENOMEM. */
int kv_blocks_init(struct kv_blocks *b, uint64_t token_count);
void kv_blocks_free(struct kv_pool *p, struct kv_blocks *b);

/* Makes `b` hold the blocks of `token_count` positions; false, and `b` as it was, when the pool has
 * too few, or the GPU no memory for them. */
bool kv_grow(struct kv_pool *p, struct kv_blocks *b, uint64_t token_count);
/* Makes the known block `block` the block `index` of `b`: after its last, or in place of one of its
 * own that the index does not know, which goes back to the pool. */
void kv_hold(struct kv_pool *p, struct kv_blocks *b, uint32_t index, uint32_t block);
/* Lets go of all blocks of `b`, the last first. */
void kv_release(struct kv_pool *p, struct kv_blocks *b);

/* Keys and values of one head in block `id`. */
static inline void *kv_head_at(const struct kv_pool *p, uint32_t id, uint32_t layer, uint32_t head)
{
    return p->base + id * p->block_bytes +
           ((uint64_t)layer * p->kv_head_count + head) * p->head_bytes;
}

/* Gives the memory of all free blocks but the idle ones back to the system. */
void kv_trim(struct kv_pool *p);

/* From now on no more than so many bytes have memory, whole blocks, one at least. What is too much
 * goes at once, idle blocks included; held ones stay, and count. Returns the bytes that it is now.
 */
uint64_t kv_limit(struct kv_pool *p, uint64_t bytes);
