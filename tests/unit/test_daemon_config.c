/* What computes and what it may take: flags of `serve` for a GPU, read and checked. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/config.h"

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

static void config_new(struct daemon_config *c)
{
    daemon_config_default(c);
    snprintf(c->data_dir, sizeof c->data_dir, "/nowhere");
    snprintf(c->worker_program, sizeof c->worker_program, "/bin/sh");
}

static void says(int r, const struct error *err, const char *words)
{
    if (r != -EINVAL || strstr(err->text, words) == NULL)
        fail_msg("%d \"%s\" instead of \"%s\"", r, err->text, words);
}

static void test_device(void **state)
{
    static const struct {
        const char *text;
        bool has_gpu;
        uint32_t gpu;
    } good[] = {{"cpu", false, 0},
                {"gpu", true, 0},
                {"gpu:0", true, 0},
                {"gpu:7", true, 7},
                {"gpu:123", true, 123}};
    static const char *const bad[] = {
        "",      "c",      "cpu:0",          "GPU",    "gpus",   "gpu:",
        "gpu:x", "gpu:-1", "gpu:4294967296", "gpu:1 ", "gpu: 1", "gpu:1:2"};
    struct daemon_config c;
    (void)state;
    config_new(&c);
    assert_false(c.has_gpu);
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct error err = {0};
        assert_int_equal(daemon_config_device(&c, good[i].text, &err), 0);
        assert_int_equal(c.has_gpu, good[i].has_gpu);
        assert_int_equal(c.gpu, good[i].gpu);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct error err = {0};
        says(daemon_config_device(&c, bad[i], &err), &err, "--device");
    }
}

static void test_budget(void **state)
{
    struct daemon_config c;
    struct error err = {0};
    (void)state;
    config_new(&c);
    assert_int_equal(daemon_config_device(&c, "gpu", &err), 0);
    assert_int_equal(daemon_config_finish(&c, &err), 0);
    assert_int_equal(daemon_config_budget(&c, 80 * GIB, &err), 0);
    assert_int_equal(c.gpu_memory_bytes, 80 * GIB / 10 * 9);
    c.gpu_memory_bytes = 80 * GIB;
    assert_int_equal(daemon_config_budget(&c, 80 * GIB, &err), 0);
    assert_int_equal(c.gpu_memory_bytes, 80 * GIB);
    c.gpu_memory_bytes = 80 * GIB + 1;
    says(daemon_config_budget(&c, 80 * GIB, &err), &err, "--gpu-memory");
    const uint64_t least = GPU_WORKER_BYTES + GPU_WORK_BYTES + c.sched.kv_step_bytes;
    c.gpu_memory_bytes = least;
    assert_int_equal(daemon_config_budget(&c, 80 * GIB, &err), 0);
    c.gpu_memory_bytes = least - 1;
    says(daemon_config_budget(&c, 80 * GIB, &err), &err, "cannot hold one worker");
}

static void test_what_goes_with_a_gpu(void **state)
{
    struct daemon_config c;
    struct error err = {0};
    (void)state;
    config_new(&c);
    c.gpu_memory_bytes = GIB;
    says(daemon_config_finish(&c, &err), &err, "--gpu-memory goes with --device gpu");
    config_new(&c);
    c.has_gpu = true;
    c.kv_dtype = 2;
    says(daemon_config_finish(&c, &err), &err, "--kv-dtype int8");
    config_new(&c);
    c.memory_bytes = MIB;
    says(daemon_config_finish(&c, &err), &err, "--memory");
    config_new(&c);
    c.has_gpu = true;
    c.memory_bytes = MIB; /* nothing is kept below it, then */
    assert_int_equal(daemon_config_finish(&c, &err), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_device),
        cmocka_unit_test(test_budget),
        cmocka_unit_test(test_what_goes_with_a_gpu),
    };
    return cmocka_run_group_tests_name("daemon_config", tests, NULL, NULL);
}
