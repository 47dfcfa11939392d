/*
 * What engine_measure says beforehand is enough for what an engine takes: blocks of its KV pool to
 * the byte, and the pages of its activations that full steps have touched.
 */
#include <sys/mman.h>

#include "engine/step.h"
#include "unit/engine_fixture.h"

#define PROMPT 120u
#define SEQUENCES_MAX 18u

static struct engine *engine_full(const struct fixture_model *m, struct fixture_adapter *a,
                                  uint32_t threads, uint32_t rows_max, enum engine_kv_dtype kv)
{
    const struct engine_options o = {.threads = threads,
                                     .sequences_max =
                                         rows_max < SEQUENCES_MAX ? rows_max : SEQUENCES_MAX,
                                     .rows_max = rows_max,
                                     .kv_bytes = 64 << 20,
                                     .adapters_max = 1,
                                     .kv_dtype = kv};
    return fixture_engine(m, &o, &a, 1);
}

/* Adds prompts of `rows` tokens in all, every `bare`th one not of the adapter, and runs all of them
 * and some decoding. */
static void fill(struct engine *e, uint32_t vocab_count, uint32_t rows, uint32_t bare)
{
    uint32_t tokens[PROMPT], id[SEQUENCES_MAX], count = 0;
    struct engine_output outputs[SEQUENCES_MAX];
    struct engine_step_stats stats;
    struct error err = {0};
    for (uint32_t i = 0; i < PROMPT; i++)
        tokens[i] = i * 7 % vocab_count;
    for (; rows > 0 && count < e->options.sequences_max; count++) {
        struct engine_request r = {.tokens = tokens,
                                   .token_count = rows < PROMPT ? rows : PROMPT,
                                   .tokens_new_max = 8,
                                   .adapter_slot = count % bare == bare - 1 ? -1 : 0,
                                   .adapter_scale = 1,
                                   .sampling = {.temperature = 1, .top_p = 0.9f, .seed = count},
                                   .logprobs = true,
                                   .top_logprobs = 5};
        rows -= r.token_count;
        if (engine_add(e, &r, &id[count], &err) < 0)
            fail_msg("%s", err.text);
    }
    uint32_t computed = 0;
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(engine_step(e, outputs, SEQUENCES_MAX, &stats, &err), 0);
        computed = stats.rows > computed ? stats.rows : computed;
    }
    if (count < e->options.sequences_max)
        assert_int_equal(computed, e->options.rows_max);
}

static uint64_t resident_bytes(const struct activations *a)
{
    uint64_t pages = (a->bytes + 4095) / 4096, count = 0;
    unsigned char *in = malloc(pages);
    assert_non_null(in);
    assert_int_equal(mincore(a->base, a->bytes, in), 0);
    for (uint64_t i = 0; i < pages; i++)
        count += in[i] & 1;
    free(in);
    return count * 4096;
}

static void measured_is_enough(const struct model_config *c, uint32_t dtype, uint32_t rank,
                               uint32_t threads, uint32_t rows_max)
{
    struct fixture_model *m = fixture_model_new(c, dtype, 9);
    struct fixture_adapter *a = fixture_adapter_new(m, dtype == IMAGE_F32 ? IMAGE_F32 : IMAGE_BF16,
                                                    rank, FIXTURE_LINEARS | FIXTURE_HEAD, 3);
    struct engine *e = engine_full(m, a, threads, rows_max, ENGINE_KV_AUTO);
    struct engine_sizes sizes;
    assert_int_equal(engine_measure(&sizes, &m->backbone, threads), 0);
    (void)madvise(e->forward.act.base, e->forward.act.bytes, MADV_NOHUGEPAGE);
    fill(e, c->vocab_count, rows_max, rank == ADAPTER_RANK_MAX ? UINT32_MAX : 2);
    uint64_t measured = sizes.fixed_bytes + sizes.row_bytes * rows_max;
    uint64_t counted = engine_activation_bytes(e), resident = resident_bytes(&e->forward.act);
    if (counted > measured || resident > measured + 4096)
        fail_msg("vocabulary %u, dtype %u, rank %u, %u threads, %u rows: measured %llu bytes, the "
                 "engine counts %llu, resident are %llu",
                 c->vocab_count, dtype, rank, threads, rows_max, (unsigned long long)measured,
                 (unsigned long long)counted, (unsigned long long)resident);
    engine_close(e);
    fixture_adapter_free(a);
    fixture_model_free(m);
}

/* Few rows and many; fewer and more than those whose gate takes more room than their logits. */
static void test_activations(void **state)
{
    static const uint32_t dtypes[] = {IMAGE_F32, IMAGE_BF16, IMAGE_INT8};
    static const uint32_t rows[] = {1, 8, 9, 100, 256, 700, 2000};
    (void)state;
    for (uint32_t family = 0; family < FIXTURE_FAMILIES; family++) {
        for (uint32_t i = family % 2; i < sizeof(rows) / sizeof(*rows); i += 2)
            measured_is_enough(&fixture_families[family], dtypes[(family + i) % 3], 64, 1 + i % 3,
                               rows[i]);
    }
    struct model_config wide = fixture_families[0];
    wide.vocab_count = 20000;
    wide.ffn = 500;
    for (uint32_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
        measured_is_enough(&wide, dtypes[i % 3], 64, 1 + i % 2, rows[i]);
}

/* With the largest adapter that there may be, nearly everything is touched. */
static void test_largest_adapter(void **state)
{
    (void)state;
    measured_is_enough(&fixture_families[0], IMAGE_F32, ADAPTER_RANK_MAX, 1, 256);
    measured_is_enough(&fixture_families[2], IMAGE_BF16, ADAPTER_RANK_MAX, 2, 256);
    measured_is_enough(&fixture_families[3], IMAGE_INT8, ADAPTER_RANK_MAX, 1, 300);
}

/* Each thread has room of its own, some of it for each row. */
static void test_threads(void **state)
{
    (void)state;
    struct fixture_model *m = fixture_model_new(&fixture_families[1], IMAGE_BF16, 9);
    struct engine_sizes before = {0}, sizes;
    for (uint32_t threads = 1; threads < 64; threads *= 2) {
        assert_int_equal(engine_measure(&sizes, &m->backbone, threads), 0);
        assert_true(sizes.fixed_bytes > before.fixed_bytes);
        assert_true(sizes.row_bytes > before.row_bytes);
        before = sizes;
    }
    fixture_model_free(m);
}

/* Blocks are whole pages, and a position takes its part of one. */
static void test_kv(void **state)
{
    static const uint32_t dtypes[] = {IMAGE_F32, IMAGE_BF16, IMAGE_INT8};
    (void)state;
    for (uint32_t i = 0; i < FIXTURE_FAMILIES * 3; i++) {
        const struct model_config *c = &fixture_families[i / 3];
        struct fixture_model *m = fixture_model_new(c, dtypes[i % 3], 9);
        struct fixture_adapter *a =
            fixture_adapter_new(m, i % 3 ? IMAGE_BF16 : IMAGE_F32, 4, FIXTURE_LINEARS, 3);
        struct engine_sizes sizes;
        assert_int_equal(engine_measure(&sizes, &m->backbone, 1), 0);
        for (uint32_t kv = 0; kv < ENGINE_KV_DTYPE_COUNT; kv++) {
            struct engine *e = engine_full(m, a, 1, 300, kv);
            fill(e, c->vocab_count, 300, 2); /* 120, 120 and 60 positions, and 4 more of each */
            uint64_t positions = (8 + 8 + 4) * ENGINE_KV_BLOCK_TOKENS;
            uint64_t measured = positions * sizes.kv_token_bytes[kv];
            if (engine_kv_bytes(e) != measured)
                fail_msg("family %u, kv dtype %u: measured %llu bytes, the engine holds %llu",
                         c->family, kv, (unsigned long long)measured,
                         (unsigned long long)engine_kv_bytes(e));
            engine_close(e);
        }
        fixture_adapter_free(a);
        fixture_model_free(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_activations),
        cmocka_unit_test(test_largest_adapter),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_kv),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
