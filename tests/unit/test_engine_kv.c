/* The paged pool: what is taken is counted and given back to the system by a trim; blocks that no
 * index knows are never shared. And the index: it finds exactly what it was told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "base/rng.h"
#include "engine/engine.h"
#include "engine/kv.h"

#define SEQUENCES 6u

static const struct model_config config = {
    .layer_count = 3, .kv_head_count = 2, .head_dim = 10, .head_count = 4};

static void open_pool(struct kv_pool *p, enum kernel_kv type, uint32_t blocks)
{
    struct error err = {0};
    assert_int_equal(kv_open(p, &config, type, (uint64_t)blocks * 4096, false, NULL, &err), 0);
    assert_int_equal(p->block_bytes, 4096); /* 3 * 2 * 2 * 16 * 10 elements, in whole pages */
    assert_int_equal(p->block_count, blocks);
}

static void test_layout_has_no_overlap(void **state)
{
    struct kv_pool p;
    struct error err = {0};
    (void)state;
    assert_int_equal(kv_open(&p, &config, KERNEL_KV_F32, 100000, false, NULL, &err), 0);
    assert_int_equal(p.block_bytes, 8192);
    assert_int_equal(p.block_count, 12);
    uint8_t *end = p.base;
    for (uint32_t id = 0; id < p.block_count; id++) {
        assert_true(end <= p.base + id * p.block_bytes);
        end = p.base + id * p.block_bytes;
        for (uint32_t layer = 0; layer < 3; layer++)
            for (uint32_t head = 0; head < 2; head++) {
                assert_ptr_equal(kv_head_at(&p, id, layer, head), end);
                end += 2 * ENGINE_KV_BLOCK_TOKENS * 10 * 4;
            }
    }
    assert_true(end <= p.base + p.block_count * p.block_bytes);
    kv_close(&p);
}

/* Sequences grow and end at random; every block belongs to one of them or to nobody. */
static void test_blocks_are_never_shared(void **state)
{
    struct kv_pool p;
    struct kv_blocks held[SEQUENCES];
    uint64_t tokens[SEQUENCES] = {0};
    struct rng rng;
    uint32_t refused = 0;
    (void)state;
    open_pool(&p, KERNEL_KV_BF16, 20);
    rng_seed(&rng, 3);
    for (uint32_t i = 0; i < SEQUENCES; i++)
        assert_int_equal(kv_blocks_init(&held[i], 200), 0);
    for (uint32_t turn = 0; turn < 5000; turn++) {
        uint32_t i = rng_below(&rng, SEQUENCES), used = 0;
        uint8_t owners[20] = {0};
        if (rng_below(&rng, 8) == 0) {
            kv_release(&p, &held[i]);
            tokens[i] = 0;
        } else if (tokens[i] < 180) {
            uint64_t more = tokens[i] + 1 + rng_below(&rng, 20);
            uint32_t count = held[i].count, free_count = kv_free_count(&p);
            bool grown = kv_grow(&p, &held[i], more);
            assert_int_equal(grown, kv_blocks_for(more) - count <= free_count);
            if (grown)
                tokens[i] = more;
            else
                assert_int_equal(held[i].count, count);
            refused += !grown;
        }
        if (rng_below(&rng, 50) == 0)
            kv_trim(&p);
        for (uint32_t s = 0; s < SEQUENCES; s++) {
            assert_int_equal(held[s].count, kv_blocks_for(tokens[s]));
            for (uint32_t b = 0; b < held[s].count; b++) {
                assert_true(held[s].ids[b] < 20);
                assert_int_equal(owners[held[s].ids[b]]++, 0);
            }
            used += held[s].count;
        }
        assert_int_equal(kv_free_count(&p), 20 - used);
        assert_int_equal(kv_used_bytes(&p), used * 4096);
    }
    assert_true(refused > 100);
    for (uint32_t i = 0; i < SEQUENCES; i++)
        kv_blocks_free(&p, &held[i]);
    assert_int_equal(kv_used_bytes(&p), 0);
    kv_close(&p);
}

static void test_trim_keeps_what_is_used(void **state)
{
    struct kv_pool p;
    struct kv_blocks a, b;
    (void)state;
    open_pool(&p, KERNEL_KV_BF16, 4);
    assert_int_equal(kv_blocks_init(&a, 32), 0);
    assert_int_equal(kv_blocks_init(&b, 32), 0);
    assert_true(kv_grow(&p, &a, 32));
    assert_true(kv_grow(&p, &b, 32));
    memset(p.base, 7, 4 * 4096);
    uint32_t gone = a.ids[1], kept = b.ids[1];
    kv_release(&p, &a);
    kv_trim(&p);
    assert_int_equal(p.base[gone * 4096], 0); /* a page that was given back reads as zeroes */
    assert_int_equal(p.base[kept * 4096], 7);
    kv_release(&p, &b);
    kv_trim(&p);
    assert_int_equal(p.base[kept * 4096], 0);
    assert_int_equal(kv_free_count(&p), 4);
    kv_blocks_free(&p, &a);
    kv_blocks_free(&p, &b);
    kv_close(&p);
}

/* --- the index of known blocks --- */

#define NODES 24u

/* What the index should know, found by looking at everything. */
struct naive {
    struct {
        struct prefix_origin origin;
        uint32_t parent, tokens[ENGINE_KV_BLOCK_TOKENS], idle_since;
        bool is_known, is_idle;
    } blocks[NODES];
    uint32_t now;
};

static uint32_t naive_find(const struct naive *n, const struct prefix_origin *origin,
                           uint32_t parent, const uint32_t *tokens)
{
    for (uint32_t i = 0; i < NODES; i++) {
        if (n->blocks[i].is_known && n->blocks[i].parent == parent &&
            memcmp(&n->blocks[i].origin, origin, sizeof(*origin)) == 0 &&
            memcmp(n->blocks[i].tokens, tokens, sizeof(n->blocks[i].tokens)) == 0)
            return i;
    }
    return PREFIX_NONE;
}

/* The block idle longest goes. */
static void naive_take(struct naive *n, struct prefix *p)
{
    uint32_t oldest = PREFIX_NONE, block = prefix_take(p);
    for (uint32_t i = 0; i < NODES; i++) {
        if (n->blocks[i].is_idle &&
            (oldest == PREFIX_NONE || n->blocks[i].idle_since < n->blocks[oldest].idle_since))
            oldest = i;
    }
    assert_int_equal(block, oldest);
    if (block != PREFIX_NONE)
        n->blocks[block].is_known = n->blocks[block].is_idle = false;
}

static bool has_awake_child(const struct naive *n, uint32_t block)
{
    for (uint32_t i = 0; i < NODES; i++) {
        if (n->blocks[i].is_known && n->blocks[i].parent == block && !n->blocks[i].is_idle)
            return true;
    }
    return false;
}

/* A held block comes to rest after what is behind it, or is taken again after what is before it. */
static void naive_turn(struct naive *n, struct prefix *p, uint32_t block)
{
    uint32_t parent = n->blocks[block].parent;
    if (!n->blocks[block].is_known)
        return;
    if (n->blocks[block].is_idle && (parent == PREFIX_NONE || !n->blocks[parent].is_idle)) {
        prefix_wake(p, block);
        n->blocks[block].is_idle = false;
    } else if (!n->blocks[block].is_idle && !has_awake_child(n, block)) {
        prefix_rest(p, block);
        n->blocks[block].is_idle = true;
        n->blocks[block].idle_since = n->now++;
    }
}

static void naive_insert(struct naive *n, struct prefix *p, uint32_t block, struct rng *rng)
{
    struct prefix_origin origin = {.scale_bits = rng_below(rng, 2)};
    uint32_t tokens[ENGINE_KV_BLOCK_TOKENS] = {0}, parent = rng_below(rng, NODES);
    origin.adapter.bytes[rng_below(rng, 2) * 31] = (uint8_t)rng_below(rng, 2);
    tokens[rng_below(rng, 2) * 15] = rng_below(rng, 2);
    if (!n->blocks[parent].is_known || n->blocks[parent].is_idle)
        parent = PREFIX_NONE;
    uint32_t found = naive_find(n, &origin, parent, tokens);
    assert_int_equal(prefix_find(p, &origin, parent, tokens), found);
    if (found != PREFIX_NONE || n->blocks[block].is_known)
        return;
    if (!prefix_insert(p, block, &origin, parent, tokens))
        return;
    n->blocks[block].origin = origin;
    n->blocks[block].parent = parent;
    memcpy(n->blocks[block].tokens, tokens, sizeof(tokens));
    n->blocks[block].is_known = true;
}

/* Few tokens, origins and buckets, so that blocks differ in one thing only and share buckets. */
static void test_index_knows_what_it_was_told(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 40; seed++) {
        struct prefix p;
        struct naive n = {0};
        struct rng rng;
        struct error err = {0};
        rng_seed(&rng, seed);
        assert_int_equal(prefix_open(&p, NODES, &err), 0);
        p.bucket_count = 2;
        for (uint32_t turn = 0; turn < 2000; turn++) {
            uint32_t block = rng_below(&rng, NODES), what = rng_below(&rng, 10);
            if (what == 0)
                naive_take(&n, &p);
            else if (what < 5)
                naive_insert(&n, &p, block, &rng);
            else
                naive_turn(&n, &p, block);
        }
        prefix_close(&p);
    }
}

/* However prompts are chosen, a lookup ends soon. */
static void test_buckets_are_bounded(void **state)
{
    struct prefix p;
    struct error err = {0};
    const struct prefix_origin origin = {0};
    uint32_t tokens[ENGINE_KV_BLOCK_TOKENS] = {0};
    (void)state;
    assert_int_equal(prefix_open(&p, 4 * PREFIX_BUCKET_MAX, &err), 0);
    p.bucket_count = 1;
    for (uint32_t i = 0; i < 4 * PREFIX_BUCKET_MAX; i++) {
        tokens[3] = i;
        bool fits = i < PREFIX_BUCKET_MAX;
        assert_int_equal(prefix_insert(&p, i, &origin, PREFIX_NONE, tokens), fits);
        assert_int_equal(prefix_find(&p, &origin, PREFIX_NONE, tokens), fits ? i : PREFIX_NONE);
    }
    prefix_rest(&p, 7);
    assert_int_equal(prefix_take(&p), 7);
    assert_int_equal(prefix_take(&p), PREFIX_NONE);
    assert_true(prefix_insert(&p, 7, &origin, PREFIX_NONE, tokens));
    prefix_close(&p);
}

static void test_too_small_is_refused(void **state)
{
    struct kv_pool p;
    struct error err = {0};
    (void)state;
    assert_int_equal(kv_open(&p, &config, KERNEL_KV_BF16, 4095, false, NULL, &err), -EINVAL);
    assert_non_null(strstr(err.text, "at least 4096"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout_has_no_overlap),
        cmocka_unit_test(test_blocks_are_never_shared),
        cmocka_unit_test(test_trim_keeps_what_is_used),
        cmocka_unit_test(test_index_knows_what_it_was_told),
        cmocka_unit_test(test_buckets_are_bounded),
        cmocka_unit_test(test_too_small_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
