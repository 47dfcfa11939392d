/*
 * The kernels for GPUs through whole models, against the scalar ones of the host: on the processor,
 * in the driver of the tests. The same comparisons run on a GPU (bench/gpu).
 */
#include "engine/engine.h"
#include "gpu/device.h"
#include "gpubench/check.h"

#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

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

/* It is found as the real one is, once it is here. */
static int load_driver(void **state)
{
    char path[512] = "";
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 32);
    (void)state;
    if (n <= 0)
        return -1;
    snprintf(strrchr(path, '/'), 32, "/fake/libcuda.so.1");
    void *driver = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (driver == NULL)
        printf("%s\n", dlerror());
    return driver != NULL ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_family_in_every_form),
    };
    return cmocka_run_group_tests(tests, load_driver, NULL);
}
