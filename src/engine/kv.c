/* See kv.h. Blocks are whole pages, so that a free one can be given back by itself. */
#include "engine/kv.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/engine.h"
#include "gpu/device.h"
#include "gpu/range.h"

#define KV_PAGE_BYTES 4096u

static int open_tables(struct kv_pool *p, struct error *err)
{
    p->given_back = malloc(p->block_count * sizeof(*p->given_back));
    p->holders = calloc(p->block_count, sizeof(*p->holders));
    if (!p->given_back || !p->holders)
        return error_set(err, -ENOMEM, "no memory for a table of %u KV blocks", p->block_count);
    return p->keeps_prefixes ? prefix_open(&p->prefix, p->block_count, err) : 0;
}

static int open_range(struct kv_pool *p, const struct gpu_device *gpu, struct error *err)
{
    int rc =
        gpu_range_open(&p->range, gpu_device_context(gpu), p->block_count * p->block_bytes, err);
    if (rc == 0)
        p->base = (uint8_t *)(uintptr_t)gpu_range_address(p->range);
    return rc;
}

static int open_mapping(struct kv_pool *p, struct error *err)
{
    void *base = mmap(NULL, p->block_count * p->block_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return error_set(err, -errno, "cannot reserve %llu bytes of address space for the KV cache",
                         (unsigned long long)(p->block_count * p->block_bytes));
    p->base = base;
    return 0;
}

/* Cannot overflow: model_config_check bounds every factor. */
uint64_t kv_block_bytes(const struct model_config *c, enum kernel_kv type)
{
    uint64_t bytes = kernel_kv_block_bytes(type, c->head_dim) * c->kv_head_count * c->layer_count;
    return (bytes + KV_PAGE_BYTES - 1) / KV_PAGE_BYTES * KV_PAGE_BYTES;
}

int kv_open(struct kv_pool *ret, const struct model_config *c, enum kernel_kv type, uint64_t bytes,
            bool keeps_prefixes, const struct gpu_device *gpu, struct error *err)
{
    struct kv_pool p = {.kv_head_count = c->kv_head_count, .keeps_prefixes = keeps_prefixes};
    static_assert(ENGINE_KV_BLOCK_TOKENS == KERNEL_KV_TOKENS, "one block, one layout");

    p.head_bytes = kernel_kv_block_bytes(type, c->head_dim);
    p.block_bytes = kv_block_bytes(c, type);
    uint64_t count = bytes / p.block_bytes;
    if (count == 0)
        return error_set(err, -EINVAL,
                         "%llu bytes of KV cache hold not even one block of %u tokens: give at "
                         "least %llu",
                         (unsigned long long)bytes, ENGINE_KV_BLOCK_TOKENS,
                         (unsigned long long)p.block_bytes);
    p.block_count = count > UINT32_MAX / 2 ? UINT32_MAX / 2 : (uint32_t)count;
    p.limit_count = p.block_count;

    int rc = open_tables(&p, err);
    if (rc == 0)
        rc = gpu ? open_range(&p, gpu, err) : open_mapping(&p, err);
    if (rc < 0) {
        kv_close(&p);
        return rc;
    }
    *ret = p;
    return 0;
}

void kv_close(struct kv_pool *p)
{
    if (p->range)
        gpu_range_close(p->range);
    else if (p->base)
        munmap(p->base, p->block_count * p->block_bytes);
    free(p->given_back);
    free(p->holders);
    prefix_close(&p->prefix);
    memset(p, 0, sizeof(*p));
}

uint32_t kv_blocks_for(uint64_t token_count)
{
    return (uint32_t)((token_count + ENGINE_KV_BLOCK_TOKENS - 1) / ENGINE_KV_BLOCK_TOKENS);
}

uint32_t kv_free_count(const struct kv_pool *p)
{
    return p->limit_count > p->held_count ? p->limit_count - p->held_count : 0;
}

/* Blocks that have memory: held, idle, or given back since the last trim. */
static uint32_t present_count(const struct kv_pool *p)
{
    return p->fresh_index - p->cold_count;
}

uint64_t kv_used_bytes(const struct kv_pool *p)
{
    return p->held_count * p->block_bytes;
}

int kv_blocks_init(struct kv_blocks *b, uint64_t token_count)
{
    uint32_t capacity = kv_blocks_for(token_count);
    uint32_t *ids = malloc((capacity ? capacity : 1) * sizeof(*ids));
    if (!ids)
        return -ENOMEM;
    *b = (struct kv_blocks){.ids = ids, .capacity = capacity};
    return 0;
}

void kv_blocks_free(struct kv_pool *p, struct kv_blocks *b)
{
    kv_release(p, b);
    free(b->ids);
    memset(b, 0, sizeof(*b));
}

/* Memory for a block that has none. */
static bool warm(struct kv_pool *p, uint32_t block)
{
    struct error why = {0};
    return !p->range || gpu_range_take(p->range, block * p->block_bytes, p->block_bytes, &why) == 0;
}

static void cool(struct kv_pool *p, uint32_t block)
{
    if (p->range)
        gpu_range_give_back(p->range, block * p->block_bytes, p->block_bytes);
    else
        madvise(p->base + block * p->block_bytes, p->block_bytes, MADV_DONTNEED);
}

/* Blocks that were used before go first: their memory is already there. What is known goes last.
 * PREFIX_NONE: there is no memory. */
static uint32_t find_block(struct kv_pool *p)
{
    if (p->given_count > p->cold_count)
        return p->given_back[--p->given_count];
    if (present_count(p) >= p->limit_count)
        return prefix_take(&p->prefix);
    uint32_t block = p->given_count > 0 ? p->given_back[p->given_count - 1] : p->fresh_index;
    if (!warm(p, block))
        return p->keeps_prefixes ? prefix_take(&p->prefix) : PREFIX_NONE;
    if (p->given_count > 0) {
        p->given_count--;
        p->cold_count--;
    } else {
        p->fresh_index++;
    }
    return block;
}

static bool take(struct kv_pool *p, uint32_t *ret)
{
    uint32_t block = find_block(p);
    if (block == PREFIX_NONE)
        return false;
    assert(block < p->block_count && p->holders[block] == 0);
    p->holders[block] = 1;
    p->held_count++;
    *ret = block;
    return true;
}

static void let_go(struct kv_pool *p, uint32_t block)
{
    assert(p->holders[block] > 0);
    if (--p->holders[block] > 0)
        return;
    p->held_count--;
    if (p->keeps_prefixes && p->prefix.nodes[block].is_known)
        prefix_rest(&p->prefix, block);
    else
        p->given_back[p->given_count++] = block;
}

bool kv_grow(struct kv_pool *p, struct kv_blocks *b, uint64_t token_count)
{
    uint32_t need = kv_blocks_for(token_count);
    assert(need <= b->capacity);
    if (need <= b->count)
        return true;
    if (need - b->count > kv_free_count(p))
        return false;
    uint32_t before = b->count;
    while (b->count < need && take(p, &b->ids[b->count]))
        b->count++;
    if (b->count == need)
        return true;
    while (b->count > before)
        let_go(p, b->ids[--b->count]);
    return false;
}

void kv_hold(struct kv_pool *p, struct kv_blocks *b, uint32_t index, uint32_t block)
{
    assert(index <= b->count && index < b->capacity);
    assert(p->prefix.nodes[block].is_known);
    if (p->holders[block]++ == 0) {
        p->held_count++;
        prefix_wake(&p->prefix, block);
    }
    if (index == b->count) {
        b->count++;
    } else {
        assert(!p->prefix.nodes[b->ids[index]].is_known);
        let_go(p, b->ids[index]);
    }
    b->ids[index] = block;
}

void kv_release(struct kv_pool *p, struct kv_blocks *b)
{
    while (b->count)
        let_go(p, b->ids[--b->count]);
}

void kv_trim(struct kv_pool *p)
{
    if (p->given_count < p->fresh_index || p->range) {
        for (; p->cold_count < p->given_count; p->cold_count++)
            cool(p, p->given_back[p->cold_count]);
        return;
    }
    madvise(p->base, p->fresh_index * p->block_bytes, MADV_DONTNEED);
    p->fresh_index = p->given_count = p->cold_count = 0;
}

uint64_t kv_limit(struct kv_pool *p, uint64_t bytes)
{
    uint64_t count = bytes / p->block_bytes;
    p->limit_count = count < 1 ? 1 : count < p->block_count ? (uint32_t)count : p->block_count;
    if (p->limit_count < p->held_count)
        p->limit_count = p->held_count;
    if (present_count(p) > p->limit_count)
        kv_trim(p);
    while (present_count(p) > p->limit_count) {
        p->given_back[p->given_count++] = prefix_take(&p->prefix);
        kv_trim(p);
    }
    return p->limit_count * p->block_bytes;
}
