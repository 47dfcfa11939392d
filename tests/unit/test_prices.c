/* The operator's price file: read whole, or refused with the key that is wrong. */
#include "store/prices.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static int read_text(const char *text, size_t len, struct price_table *ret, struct error *err)
{
    char path[] = "/tmp/sllora-prices-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, len), len);
    close(fd);
    int r = prices_read(path, ret, err);
    unlink(path);
    if (r < 0)
        assert_non_null(strstr(err->text, path));
    return r;
}

#define REST                                                                                       \
    "\"gb_s_idle_usd\": 0.25, \"device_s_usd\": 2e-5, \"request_usd\": 0, \"prompt_1k_usd\": 3, "  \
    "\"cached_1k_usd\": 4, \"new_1k_usd\": 5}"
#define WHOLE "{\"gb_s_active_usd\": 0.5, " REST

static void test_whole(void **state)
{
    (void)state;
    struct error err = {0};
    struct price_table t;
    int r = read_text(WHOLE, strlen(WHOLE), &t, &err);
    if (r < 0)
        fail_msg("%s", err.text);
    assert_true(t.gb_s_active_usd == 0.5 && t.gb_s_idle_usd == 0.25 && t.device_s_usd == 2e-5);
    assert_true(t.request_usd == 0 && t.prompt_1k_usd == 3 && t.cached_1k_usd == 4);
    assert_true(t.new_1k_usd == 5);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *says;
    } cases[] = {
        {"{\"gb_s_active_usd\": -0.5, " REST, "gb_s_active_usd must be a number from 0 to 1000, "
                                              "USD per GB second of device memory while a request "
                                              "runs, not -0.5"},
        {"{\"gb_s_active_usd\": 1001, " REST, "not 1001"},
        {"{\"gb_s_active_usd\": \"0.5\", " REST, "not \"0.5\""},
        {"{\"gb_s_active_usd\": null, " REST, "not null"},
        {"{\"gb_s_active_usd\": [1, 2], " REST, "not [1, 2]"},
        {"{" REST, "gb_s_active_usd must be a number from 0 to 1000, USD per GB second of device "
                   "memory while a request runs; it is missing"},
        {"{\"gb_s_active_usd\": 1, \"gb_s\": 2, " REST, "there is no price \"gb_s\"; there are "
                                                        "gb_s_active_usd, gb_s_idle_usd, "},
        {"{\"gb_s_activ_usd\": 1, " REST, "there is no price \"gb_s_activ_usd\""},
        {"{\"gb_s_active_usd\": NaN, " REST, "gb_s_active_usd must be a number from 0 to 1000"},
        {"{\"gb_s_active_usd\": 1e999, " REST, "gb_s_active_usd must be a number from 0 to 1000"},
        {"{\"gb_s_active_usd\": Infinity, " REST, "gb_s_active_usd must be a number"},
        {"{\"gb_s_active_usd\": 1, \"gb_s_active_usd\": 2, " REST, "duplicate object key"},
        {"{\"gb_s_active_usd\": 1\n, \"gb_s_idle_usd\": }", "line 2: "},
        {WHOLE " x", "line 1: "},
        {"[1]", "one JSON object"},
        {"", "line 1: "},
        {"\xff\xfe", "line 1: "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error err = {0};
        struct price_table t = {.request_usd = 77};
        if (read_text(cases[i].text, strlen(cases[i].text), &t, &err) != -EINVAL)
            fail_msg("taken: %s", cases[i].text);
        if (strstr(err.text, cases[i].says) == NULL)
            fail_msg("%s: \"%s\" does not say \"%s\"", cases[i].text, err.text, cases[i].says);
        assert_true(t.request_usd == 77);
    }
}

static void test_files(void **state)
{
    (void)state;
    struct error err = {0};
    struct price_table t;
    assert_int_equal(prices_read("/tmp/sllora-prices-none", &t, &err), -ENOENT);
    assert_int_equal(prices_read("/tmp", &t, &err), -EISDIR);
    char *large = malloc(PRICES_FILE_BYTES_MAX + 1);
    memset(large, ' ', PRICES_FILE_BYTES_MAX + 1);
    memcpy(large, WHOLE, strlen(WHOLE));
    assert_int_equal(read_text(large, PRICES_FILE_BYTES_MAX, &t, &err), 0);
    assert_int_equal(read_text(large, PRICES_FILE_BYTES_MAX + 1, &t, &err), -EFBIG);
    free(large);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
