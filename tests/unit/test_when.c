/* Points in time as the command line takes them. Expected seconds are those of `date -u -d`. */
#include "cli/when.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define NOW_US UINT64_C(1764064800000000) /* 2025-11-25T10:00:00Z */

static void test_taken(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t us;
    } cases[] = {
        {"2025-11-25", 1764028800000000},
        {"1970-01-01", 0},
        {"2024-02-29", 1709164800000000},
        {"2025-11-25T10:00:00Z", NOW_US},
        {"2025-11-25t10:00:00z", NOW_US},
        {"2025-11-25 10:00:00Z", NOW_US},
        {"2025-11-25T11:30:00+01:30", NOW_US},
        {"2025-11-25T02:00:00-08:00", NOW_US},
        {"2025-11-25T10:00:00.5Z", NOW_US + 500000},
        {"2025-11-25T10:00:00.1234567899Z", NOW_US + 123456},
        {"2025-11-25T09:59:60Z", NOW_US},
        {"9999-12-31", 253402214400000000},
        {"1970-01-01T00:00:00+05:00", 0},
        {"0s", NOW_US},
        {"90s", NOW_US - 90000000},
        {"30m", NOW_US - 1800000000},
        {"2h", NOW_US - 7200000000},
        {"7d", NOW_US - 604800000000},
        {"4w", NOW_US - 2419200000000},
        {"999999999w", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint64_t us = 1;
        if (when_parse(cases[i].text, NOW_US, &us) < 0)
            fail_msg("refused: %s", cases[i].text);
        if (us != cases[i].us)
            fail_msg("%s: %llu, not %llu", cases[i].text, (unsigned long long)us,
                     (unsigned long long)cases[i].us);
    }
}

static void test_refused(void **state)
{
    (void)state;
    static const char *const cases[] = {
        "",
        "h",
        "2",
        "2y",
        "-2h",
        "2 h",
        "2h ",
        "1000000000s",
        "2025",
        "2025-11",
        "2025-13-01",
        "2025-02-29",
        "2025-04-31",
        "2025-00-01",
        "2025-11-00",
        "1969-12-31",
        "25-11-25",
        "2025-11-25T",
        "2025-11-25T10:00Z",
        "2025-11-25T10:00:00",
        "2025-11-25T24:00:00Z",
        "2025-11-25T10:60:00Z",
        "2025-11-25T10:00:61Z",
        "2025-11-25T10:00:00+1:00",
        "2025-11-25T10:00:00Zx",
        "2025-11-25x",
        "2025-11-25T10:00:00+24:00",
        "now",
        "2025-11-25T10:00:00.Z",
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint64_t us = 1;
        if (when_parse(cases[i], NOW_US, &us) != -EINVAL)
            fail_msg("taken: \"%s\" as %llu", cases[i], (unsigned long long)us);
        assert_int_equal(us, 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_taken),
                                       cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
