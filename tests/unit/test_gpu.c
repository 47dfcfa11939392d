/* What is read from NVIDIA's driver, and why one is not used: against a library that is none. */
#include "unit/fake_gpu.h"

static void test_a_gpu(void **state)
{
    (void)state;
    struct gpu_driver *d;
    struct error err;
    struct gpu g;
    assert_int_equal(open_fake(&d, "version=12040 devices=2", &err), 0);
    assert_int_equal(gpu_driver_version(d), 12040);
    assert_int_equal(gpu_count(d), 2);
    assert_int_equal(gpu_look(d, 1, &g, &err), 0);
    assert_string_equal(g.name, "Fake GPU 1");
    assert_int_equal(g.memory_bytes, UINT64_C(150) << 30);
    assert_int_equal(g.capability, 90);
    assert_int_equal(g.multiprocessors, 132);
    assert_float_equal(g.memory_bytes_s, 4916.736e9, 1e6); /* what an H200's memory gives at most */
    assert_true(g.has_virtual_memory && g.has_fd_handles);
    assert_int_equal(gpu_check(&g, &err), 0);
    gpu_driver_close(d);
}

/* What the driver does not tell is not made up. */
static void test_a_rate_that_is_hidden(void **state)
{
    (void)state;
    struct gpu_driver *d;
    struct error err;
    struct gpu g;
    assert_int_equal(open_fake(&d, "bus=0", &err), 0);
    assert_int_equal(gpu_look(d, 0, &g, &err), 0);
    assert_true(g.memory_bytes_s <= 0);
    gpu_driver_close(d);
}

static void test_drivers_that_do_not_serve(void **state)
{
    (void)state;
    static const struct {
        const char *settings;
        int code;
        const char *says;
    } cases[] = {
        {"init=100", -ENODEV, "finds no GPU"},
        {"devices=0", -ENODEV, "finds no GPU"},
        {"init=802", -EIO, "does not start: system not yet initialized (802)"},
        {"init=9999", -EIO, "unknown error (9999)"},
        {"version=11080", -ENOTSUP, "for CUDA 11.8, which is too old"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct gpu_driver *d;
        struct error err;
        assert_int_equal(open_fake(&d, cases[i].settings, &err), cases[i].code);
        assert_null(d);
        if (strstr(err.text, cases[i].says) == NULL)
            fail_msg("%s: \"%s\" does not say \"%s\"", cases[i].settings, err.text, cases[i].says);
    }
}

static void test_no_driver(void **state)
{
    (void)state;
    struct gpu_driver *d;
    struct error err = {0};
    assert_int_equal(gpu_driver_open(&d, "libcuda-that-is-not.so", &err), -ENOENT);
    assert_int_equal(gpu_driver_open(&d, "libm.so.6", &err), -ENOTSUP); /* another's library */
    assert_non_null(strstr(err.text, "cuInit"));
}

static void test_a_gpu_that_is_gone(void **state)
{
    (void)state;
    struct gpu_driver *d;
    struct error err;
    struct gpu g;
    assert_int_equal(open_fake(&d, "devices=2 dead=1", &err), 0);
    assert_int_equal(gpu_look(d, 0, &g, &err), 0);
    assert_int_equal(gpu_look(d, 1, &g, &err), -EIO);
    assert_non_null(strstr(err.text, "GPU 1 does not answer: invalid device ordinal (101)"));
    gpu_driver_close(d);
}

static void test_gpus_that_do_not_serve(void **state)
{
    (void)state;
    static const struct {
        const char *settings, *says;
    } cases[] = {
        {"major=7 minor=5", "compute capability is 7.5, and 8.0 is needed"},
        {"mode=2", "closed to computation"},
        {"mode=3", "one process alone"},
        {"fds=0", "file descriptors"},
        {"vmm=0 fds=0", "virtual GPU"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct gpu_driver *d;
        struct error err;
        struct gpu g;
        assert_int_equal(open_fake(&d, cases[i].settings, &err), 0);
        assert_int_equal(gpu_look(d, 0, &g, &err), 0);
        assert_true(gpu_check(&g, &err) < 0);
        if (strstr(err.text, cases[i].says) == NULL)
            fail_msg("%s: \"%s\" does not say \"%s\"", cases[i].settings, err.text, cases[i].says);
        gpu_driver_close(d);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_gpu),
        cmocka_unit_test(test_a_rate_that_is_hidden),
        cmocka_unit_test(test_drivers_that_do_not_serve),
        cmocka_unit_test(test_no_driver),
        cmocka_unit_test(test_a_gpu_that_is_gone),
        cmocka_unit_test(test_gpus_that_do_not_serve),
    };
    return cmocka_run_group_tests_name("gpu", tests, NULL, NULL);
}
