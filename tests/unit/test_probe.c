/* The probe of a deploy: its arithmetic against distributions that can be worked out by hand, and
 * what it says of adapters that do something, nothing, or harm. */
#include "packing.h"
#include "worker/probe.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define MODEL "tests/vectors/parity/llama-mha"
#define ADAPTER MODEL "/adapters/r8-all"

static void near(double got, double want)
{
    if (!(fabs(got - want) <= 1e-6))
        fail_msg("%.9g, expected %.9g", got, want);
}

static void test_prompt(void **state)
{
    (void)state;
    uint32_t tokens[PROBE_TOKENS_MAX];
    probe_prompt(32000, tokens, 16);
    for (uint32_t i = 0; i < 16; i++)
        assert_int_equal(tokens[i], 1000 + 2000 * i);
    probe_prompt(3, tokens, 16);
    for (uint32_t i = 0; i < 16; i++)
        assert_true(tokens[i] < 3);
    probe_prompt(UINT32_MAX, tokens, 16);
    assert_true(tokens[15] > tokens[14]);
}

/* (1/2, 1/4, 1/4) against (1/4, 1/4, 1/2): KL = ln(2) / 4; shifted logits are the same
 * distribution. */
static void test_compare(void **state)
{
    (void)state;
    const float half = logf(0.5f);
    const float quarter = logf(0.25f);
    const float bare[] = {half, quarter, quarter, half, quarter, quarter, 100, 99, 0};
    const float adapted[] = {quarter,     quarter, half, half + 7, quarter + 7,
                             quarter + 7, 100,     99,   0};
    struct probe p;
    struct error err = {0};
    assert_int_equal(probe_compare(bare, adapted, 3, 3, &p, &err), 0);
    assert_int_equal(p.token_count, 3);
    assert_int_equal(p.argmax_changed, 1);
    near(p.logit_change, 7);
    near(p.mean_kl, log(2) / 4 / 3);
    assert_int_equal(probe_compare(bare, bare, 3, 3, &p, &err), 0);
    assert_int_equal(p.argmax_changed, 0);
    assert_true(p.logit_change == 0);
    assert_true(p.mean_kl == 0);
}

static void test_not_finite(void **state)
{
    (void)state;
    const float good[] = {1, 2, 3, 4};
    const float values[] = {NAN, INFINITY, -INFINITY};
    struct probe p;
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        const float bad[] = {1, 2, 3, values[i]};
        struct error err = {0};
        assert_int_equal(probe_compare(good, bad, 2, 2, &p, &err), -EDOM);
        assert_non_null(strstr(err.text, "the adapter makes logits that are not finite"));
        assert_int_equal(probe_compare(bad, good, 2, 2, &p, &err), -EDOM);
        assert_non_null(strstr(err.text, "the backbone alone computes logits"));
    }
}

/* --- images --- */

/* Every value of the adapter's B matrices becomes `value`. */
static void fill_b(struct packing_dir *d, uint32_t layer_count, float value)
{
    static const char name[] = "adapter_model.safetensors";
    size_t bytes = 0;
    char *file = packing_get(d, name, &bytes);
    uint64_t header = 0;
    uint32_t filled = 0;
    assert_non_null(file);
    memcpy(&header, file, 8);
    for (char *at = file + 8; (at = memmem(at, (size_t)(file + 8 + header - at), "lora_B", 6));) {
        unsigned long long begin = 0;
        unsigned long long end = 0;
        at = memmem(at, (size_t)(file + 8 + header - at), "\"data_offsets\":[", 16);
        assert_non_null(at);
        assert_int_equal(sscanf(at, "\"data_offsets\":[%llu,%llu", &begin, &end), 2);
        for (; begin < end; begin += 4)
            memcpy(file + 8 + header + begin, &value, 4);
        filled++;
    }
    assert_int_equal(filled, 7 * layer_count);
    packing_put(d, name, file, bytes);
    free(file);
}

/* The probe of the adapter, with B filled where `b` is not NULL. */
static int probe(const float *b, struct probe *ret, struct error *err)
{
    struct packed base;
    struct packed packed;
    struct packing_dir d;
    struct backbone backbone;
    struct adapter a;
    assert_int_equal(packing_pack(&base, MODEL, IMAGE_F32, NULL, NULL, err), 0);
    assert_int_equal(backbone_open(&backbone, base.base, base.result.bytes, err), 0);
    assert_int_equal(packing_open_dir(&d, ADAPTER), 0);
    if (b != NULL)
        fill_b(&d, backbone.config->layer_count, *b);
    if (packing_pack_files(&packed, &d, IMAGE_F32, &backbone, &base.result.digest, err) < 0)
        fail_msg("%s", err->text);
    assert_int_equal(
        adapter_open(&a, packed.base, packed.result.bytes, &backbone, &base.result.digest, err), 0);
    int r = probe_run(&backbone, &a, &packed.result.digest, ret, err);
    adapter_close(&a);
    backbone_close(&backbone);
    packing_close_dir(&d);
    packing_release(&packed);
    packing_release(&base);
    return r;
}

static void test_adapter(void **state)
{
    (void)state;
    struct probe p;
    struct probe again;
    struct error err = {0};
    assert_int_equal(probe(NULL, &p, &err), 0);
    assert_int_equal(p.token_count, PROBE_TOKENS_MAX);
    assert_true(p.logit_change > 0);
    assert_true(p.mean_kl > 0);
    assert_int_equal(probe(NULL, &again, &err), 0);
    assert_memory_equal(&p, &again, sizeof p);
}

static void test_adapter_without_effect(void **state)
{
    (void)state;
    const float zero = 0;
    struct probe p;
    struct error err = {0};
    assert_int_equal(probe(&zero, &p, &err), 0);
    assert_true(p.logit_change == 0);
    assert_true(p.mean_kl == 0);
    assert_int_equal(p.argmax_changed, 0);
}

static void test_adapter_that_overflows(void **state)
{
    (void)state;
    const float huge = 1e38f;
    struct probe p;
    struct error err = {0};
    assert_int_equal(probe(&huge, &p, &err), -EDOM);
    assert_non_null(strstr(err.text, "the adapter makes logits that are not finite"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prompt),
        cmocka_unit_test(test_compare),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_adapter),
        cmocka_unit_test(test_adapter_without_effect),
        cmocka_unit_test(test_adapter_that_overflows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
