/* Prices: the provider's defaults by hand, rounding, and what must not be billed. */
#include "policy/price.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define GB PRICE_GB_BYTES

static void test_defaults(void **state)
{
    (void)state;
    struct price_table cpu = price_table_default(PRICE_CPU, 8);
    struct price_table gpu = price_table_default(PRICE_GPU, 1);
    assert_float_equal(cpu.gb_s_active_usd, 0.000003, 1e-12);
    assert_float_equal(cpu.gb_s_idle_usd, 0.000003, 1e-12);
    assert_float_equal(cpu.device_s_usd, 0.00016, 1e-12);
    assert_float_equal(cpu.request_usd, 0.00000015, 1e-14);
    assert_float_equal(gpu.gb_s_active_usd, 0.00003, 1e-12);
    assert_float_equal(gpu.gb_s_idle_usd, 0.000005, 1e-12);
    assert_float_equal(gpu.device_s_usd, 0.00002, 1e-12);
    assert_float_equal(gpu.request_usd, 0.00000015, 1e-14);
    /* The provider knows no tokens. */
    assert_true(cpu.prompt_1k_usd == 0 && cpu.cached_1k_usd == 0 && cpu.new_1k_usd == 0);
}

/* Each number another, so that none can be taken for another. */
static const struct price_table table = {.gb_s_active_usd = 0.001,
                                         .gb_s_idle_usd = 0.0002,
                                         .device_s_usd = 0.03,
                                         .request_usd = 0.004,
                                         .prompt_1k_usd = 0.5,
                                         .cached_1k_usd = 0.06,
                                         .new_1k_usd = 0.7};

static void test_items(void **state)
{
    (void)state;
    struct price_usage u = {.own_byte_s = 2 * GB,
                            .backbone_byte_s = 0.5 * GB,
                            .device_us = 250000,
                            .prompt_tokens = 1500,
                            .cached_tokens = 500,
                            .new_tokens = 100,
                            .completed = true};
    struct price_items p = price_receipt(&table, &u);
    assert_int_equal(p.own, 2000000);
    assert_int_equal(p.backbone, 500000);
    assert_int_equal(p.device, 7500000);
    assert_int_equal(p.request, 4000000);
    assert_int_equal(p.prompt, 500000000);
    assert_int_equal(p.cached, 30000000);
    assert_int_equal(p.generated, 70000000);
    assert_int_equal(p.idle, 0);
    assert_int_equal(price_total(&p), 614000000);
    p = price_idle(&table, 3 * GB);
    assert_int_equal(p.idle, 600000);
    assert_int_equal(price_total(&p), 600000);
}

static void test_lost_costs_nothing(void **state)
{
    (void)state;
    struct price_usage u = {.own_byte_s = 2 * GB, .device_us = 250000, .new_tokens = 100};
    struct price_items p = price_receipt(&table, &u);
    assert_int_equal(price_total(&p), 0);
}

static void test_rounding_and_limits(void **state)
{
    (void)state;
    const struct price_table one = {.gb_s_active_usd = 1e-9, .device_s_usd = 1000};
    struct price_usage u = {.completed = true};
    u.own_byte_s = 0.49 * GB;
    u.backbone_byte_s = 0.5 * GB;
    struct price_items p = price_receipt(&one, &u);
    assert_int_equal(p.own, 0);
    assert_int_equal(p.backbone, 1);
    /* Meters subtract: what comes out a hair below nothing is nothing. */
    u.own_byte_s = -1e-3;
    u.backbone_byte_s = NAN;
    u.device_us = UINT64_MAX;
    p = price_receipt(&one, &u);
    assert_int_equal(p.own, 0);
    assert_int_equal(p.backbone, 0);
    assert_int_equal(p.device, PRICE_ITEM_MAX);
}

/* A worker that tells of more found than asked for changes no sign. */
static void test_cached_within_prompt(void **state)
{
    (void)state;
    struct price_usage u = {.prompt_tokens = 1000, .cached_tokens = 4000, .completed = true};
    struct price_items p = price_receipt(&table, &u);
    assert_int_equal(p.prompt, 0);
    assert_int_equal(p.cached, 60000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_items),
        cmocka_unit_test(test_lost_costs_nothing),
        cmocka_unit_test(test_rounding_and_limits),
        cmocka_unit_test(test_cached_within_prompt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
