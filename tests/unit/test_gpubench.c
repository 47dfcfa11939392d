/*
 * The kernels for GPUs through whole models, against the scalar ones of the host: on the processor,
 * in the driver of the tests. The same comparisons run on a GPU (bench/gpu).
 */
#include "engine/engine.h"
#include "gpu/device.h"
#include "gpubench/check.h"

#include "unit/fake_gpu.h"

static uint32_t compared;

static void report(void *context, const struct check_result *r)
{
    (void)context;
    compared++;
    if (!r->passed)
        printf("  %s in %s, %s: %.3g, at most %.3g\n", r->family, r->weights, r->adapter,
               r->difference, r->bound);
}

static void test_every_family_in_every_form(void **state)
{
    struct error err = {0};
    struct check_options o = {.prompt_tokens = 70, .report = report};
    int r = engine_gpu_open(&o.gpu, 0, &err);
    (void)state;
    if (r < 0)
        fail_msg("%s", err.text);
    r = check_run(&o, &err);
    if (r < 0)
        fail_msg("%s", err.text);
    gpu_device_close(o.gpu);
    assert_int_equal(r, 0);
    assert_int_equal(compared, 9 * 7); /* models; bare, five adapters, and the batch */
}

static int load_driver(void **state)
{
    (void)state;
    load_fake();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_family_in_every_form),
    };
    return cmocka_run_group_tests(tests, load_driver, NULL);
}
