/* Memory of a device that one process fills and others read: against a library that is no driver,
 * whose memory is a file that is mapped as the access says. */
#include "unit/fake_gpu.h"

#include <fcntl.h>
#include <sys/mman.h>

#include "gpu/memory.h"
#include "gpu/trial.h"

#define MIB ((uint64_t)1 << 20)

struct device {
    struct gpu_driver *driver;
    struct gpu_context *context;
};

static struct device device_open(const char *settings)
{
    struct device d;
    struct error err;
    assert_int_equal(open_fake(&d.driver, settings, &err), 0);
    if (gpu_context_open(&d.context, d.driver, 0, &err) < 0)
        fail_msg("%s", err.text);
    return d;
}

static void device_close(struct device *d)
{
    gpu_context_close(d->context);
    gpu_driver_close(d->driver);
}

static struct gpu_memory *made(const struct device *d, uint64_t bytes)
{
    struct gpu_memory *m;
    struct error err = {0};
    if (gpu_memory_create_shared(&m, d->context, bytes, &err) < 0)
        fail_msg("%s", err.text);
    return m;
}

static int exported(const struct gpu_memory *m)
{
    struct error err = {0};
    int fd;
    if (gpu_memory_export(m, &fd, &err) < 0)
        fail_msg("%s", err.text);
    assert_true(fd >= 0);
    return fd;
}

static struct gpu_memory *imported(const struct device *d, int fd, uint64_t bytes)
{
    struct gpu_memory *m;
    struct error err = {0};
    if (gpu_memory_import(&m, d->context, fd, bytes, &err) < 0)
        fail_msg("%s", err.text);
    return m;
}

static void assert_reads(const struct gpu_memory *m, uint64_t offset, const char *text)
{
    char got[64] = "";
    struct error err = {0};
    assert_int_equal(gpu_memory_read(m, offset, got, strlen(text), &err), 0);
    assert_string_equal(got, text);
}

static void write_text(struct gpu_memory *m, uint64_t offset, const char *text)
{
    struct error err = {0};
    assert_int_equal(gpu_memory_write(m, offset, text, strlen(text), &err), 0);
}

static void test_written_and_read(void **state)
{
    (void)state;
    struct device d = device_open("");
    const uint64_t bytes = 3 * MIB + 5;
    struct gpu_memory *m = made(&d, bytes);
    struct error err = {0};
    char c;
    write_text(m, 0, "first");
    write_text(m, bytes - 4, "last");
    assert_reads(m, 0, "first");
    assert_reads(m, bytes - 4, "last");
    assert_int_equal(gpu_memory_write(m, bytes - 3, "last", 4, &err), -EINVAL);
    assert_non_null(strstr(err.text, "4 bytes from 3145730 on are not in memory of 3145733"));
    assert_int_equal(gpu_memory_read(m, UINT64_MAX, &c, 2, &err), -EINVAL);
    gpu_memory_free(m);
    device_close(&d);
}

/* The reader sees what the maker writes, writes nothing itself, and keeps it when the maker goes.
 */
static void note_progress(void *context, uint64_t done, uint64_t total)
{
    uint64_t *last = context;
    assert_true(done > *last && done <= total);
    *last = done;
}

/* More than a piece, and not whole pages; where the host's memory can be pinned and where not. */
static void test_uploaded(void **state)
{
    static const char *const settings[] = {"", "pin=0"};
    const uint64_t bytes = 65 * MIB + 12345;
    uint32_t *from =
        mmap(NULL, bytes + 4, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint32_t *got = malloc(bytes + 4);
    (void)state;
    assert_true(from != MAP_FAILED && got != NULL);
    for (uint64_t i = 0; i < bytes / 4; i++)
        from[i] = (uint32_t)(i * 2654435761u);
    for (int i = 0; i < 2; i++) {
        struct device d = device_open(settings[i]);
        struct gpu_memory *m = made(&d, bytes);
        struct error err = {0};
        uint64_t last = 0;
        assert_int_equal(gpu_memory_upload(m, from, bytes, note_progress, &last, &err), 0);
        assert_true(last == bytes);
        assert_int_equal(gpu_memory_read(m, 0, got, bytes, &err), 0);
        assert_memory_equal(from, got, bytes);
        assert_int_equal(gpu_memory_upload(m, from, bytes + 1, NULL, NULL, &err), -EINVAL);
        gpu_memory_free(m);
        device_close(&d);
    }
    munmap(from, bytes + 4);
    free(got);
}

static void test_read_only(void **state)
{
    (void)state;
    struct device d = device_open("ask=800");
    struct gpu_memory *m = made(&d, 2 * MIB);
    struct error err = {0};
    write_text(m, 100, "before");
    int fd = exported(m);
    struct gpu_memory *reader = imported(&d, fd, 2 * MIB);
    close(fd);
    assert_reads(reader, 100, "before");
    write_text(m, 100, "after!");
    assert_reads(reader, 100, "after!");
    assert_int_equal(gpu_memory_write(reader, 100, "other!", 6, &err), -EACCES);
    assert_int_equal(gpu_memory_ask_to_write(reader, &err), -EACCES);
    assert_int_equal(gpu_memory_write(reader, 100, "other!", 6, &err), -EACCES);
    assert_reads(m, 100, "after!");
    gpu_memory_free(m);
    assert_reads(reader, 100, "after!");
    gpu_memory_free(reader);
    device_close(&d);
}

static void test_a_driver_that_lets_readers_ask(void **state)
{
    (void)state;
    struct device d = device_open("");
    struct gpu_memory *m = made(&d, MIB);
    struct error err = {0};
    int fd = exported(m);
    struct gpu_memory *reader = imported(&d, fd, MIB);
    assert_int_equal(gpu_memory_ask_to_write(reader, &err), 0);
    write_text(reader, 7, "theirs");
    assert_reads(m, 7, "theirs");
    close(fd);
    gpu_memory_free(reader);
    gpu_memory_free(m);
    device_close(&d);
}

static void test_descriptors_that_are_no_memory(void **state)
{
    (void)state;
    struct device d = device_open("");
    struct gpu_memory *m = made(&d, 2 * MIB), *none;
    struct error err = {0};
    int fd = exported(m), pipefd[2], file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    assert_int_equal(pipe2(pipefd, O_CLOEXEC), 0);
    const int others[] = {-1, pipefd[0], file};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        assert_int_equal(gpu_memory_import(&none, d.context, others[i], MIB, &err), -EINVAL);
        assert_null(none);
        assert_non_null(strstr(err.text, "is no memory of this GPU"));
    }
    for (int i = 0; i < 100; i++) /* more than it was made with; and nothing of it stays */
        assert_int_equal(gpu_memory_import(&none, d.context, fd, 2 * MIB + 1, &err), -EINVAL);
    assert_null(none);
    gpu_memory_free(imported(&d, fd, MIB)); /* it hands out 2 MiB at a time */
    close(fd);
    close(file);
    close(pipefd[0]);
    close(pipefd[1]);
    gpu_memory_free(m);
    device_close(&d);
}

static void test_no_more_than_there_is(void **state)
{
    (void)state;
    struct device d = device_open("free=8");
    struct gpu_memory *m = made(&d, 5 * MIB), *none;
    struct error err = {0};
    for (int i = 0; i < 100; i++)
        assert_int_equal(gpu_memory_create_shared(&none, d.context, 3 * MIB, &err), -ENOMEM);
    assert_null(none);
    assert_non_null(strstr(err.text, "has no 0.00 GiB free, but 0.00 of 150.00"));
    gpu_memory_free(m);
    m = made(&d, 8 * MIB);
    gpu_memory_free(m);
    assert_int_equal(gpu_memory_create_shared(&none, d.context, 0, &err), -EINVAL);
    assert_int_equal(gpu_memory_create_shared(&none, d.context, UINT64_MAX, &err), -EINVAL);
    device_close(&d);
}

static void test_devices_that_take_no_process(void **state)
{
    (void)state;
    static const struct {
        const char *settings;
        int code;
    } cases[] = {{"context=2", -ENOMEM}, {"context=999", -EIO}, {"dead=0", -EIO}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct gpu_driver *d;
        struct gpu_context *c;
        struct error err;
        assert_int_equal(open_fake(&d, cases[i].settings, &err), 0);
        assert_int_equal(gpu_context_open(&c, d, 0, &err), cases[i].code);
        assert_null(c);
        gpu_driver_close(d);
    }
}

/* With a driver it is tried by test_doctor.py: children find the library by the environment. */
static void test_nothing_to_try(void **state)
{
    (void)state;
    struct gpu_trial t = {.bytes = 1};
    struct error err = {0};
    int r = gpu_trial_run(&t, 99, &err);
    assert_true(r == -ENOENT || r == -ENODEV);
    assert_int_equal(t.bytes, 0);
    assert_true(err.text[0] != '\0');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_written_and_read),
        cmocka_unit_test(test_uploaded),
        cmocka_unit_test(test_read_only),
        cmocka_unit_test(test_a_driver_that_lets_readers_ask),
        cmocka_unit_test(test_descriptors_that_are_no_memory),
        cmocka_unit_test(test_no_more_than_there_is),
        cmocka_unit_test(test_devices_that_take_no_process),
        cmocka_unit_test(test_nothing_to_try),
    };
    return cmocka_run_group_tests_name("gpu memory", tests, NULL, NULL);
}
