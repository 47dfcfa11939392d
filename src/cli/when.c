/* See when.h. */
#include "cli/when.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

#define SECOND_US UINT64_C(1000000)

/* Exactly `count` digits that make min to max. */
static bool take_digits(const char **p, int count, int min, int max, int *ret)
{
    int value = 0;
    for (int i = 0; i < count; i++, (*p)++) {
        if (**p < '0' || **p > '9')
            return false;
        value = 10 * value + (**p - '0');
    }
    *ret = value;
    return value >= min && value <= max;
}

static bool take_char(const char **p, const char *any)
{
    if (**p == '\0' || strchr(any, **p) == NULL)
        return false;
    (*p)++;
    return true;
}

static int parse_ago(const char *text, uint64_t now_us, uint64_t *ret_us)
{
    static const char units[] = "smhdw";
    static const uint32_t seconds[] = {1, 60, 3600, 86400, 7 * 86400};
    uint64_t value = 0;
    const char *p = text;
    for (; *p >= '0' && *p <= '9' && p - text < 9; p++)
        value = 10 * value + (uint64_t)(*p - '0');
    const char *unit = *p != '\0' ? strchr(units, *p) : NULL;
    if (p == text || unit == NULL || p[1] != '\0')
        return -EINVAL;
    uint64_t ago_us = value * seconds[unit - units] * SECOND_US;
    *ret_us = ago_us < now_us ? now_us - ago_us : 0;
    return 0;
}

static bool take_date(const char **p, struct tm *ret)
{
    int year, month;
    if (!take_digits(p, 4, 1970, 9999, &year) || !take_char(p, "-") ||
        !take_digits(p, 2, 1, 12, &month) || !take_char(p, "-") ||
        !take_digits(p, 2, 1, 31, &ret->tm_mday))
        return false;
    ret->tm_year = year - 1900;
    ret->tm_mon = month - 1;
    struct tm same = *ret;
    (void)timegm(&same); /* the 31st of a shorter month becomes another day */
    return same.tm_mday == ret->tm_mday;
}

/* What is below a microsecond is dropped. */
static bool take_fraction(const char **p, uint64_t *ret_us)
{
    uint64_t unit = SECOND_US / 10;
    int digit;
    *ret_us = 0;
    if (!take_char(p, "."))
        return true;
    if (**p < '0' || **p > '9')
        return false;
    for (; take_digits(p, 1, 0, 9, &digit); unit /= 10)
        *ret_us += unit * (uint64_t)digit;
    return true;
}

/* Seconds that the written time is ahead of UTC. */
static bool take_zone(const char **p, int *ret_s)
{
    int hours, minutes;
    *ret_s = 0;
    if (take_char(p, "Zz"))
        return true;
    int sign = **p == '-' ? -1 : 1;
    if (!take_char(p, "+-") || !take_digits(p, 2, 0, 23, &hours) || !take_char(p, ":") ||
        !take_digits(p, 2, 0, 59, &minutes))
        return false;
    *ret_s = sign * (3600 * hours + 60 * minutes);
    return true;
}

static int parse_date(const char *text, uint64_t *ret_us)
{
    struct tm tm = {0};
    const char *p = text;
    uint64_t fraction_us = 0;
    int ahead_s = 0;
    if (!take_date(&p, &tm))
        return -EINVAL;
    if (*p != '\0') {
        if (!take_char(&p, "Tt ") || !take_digits(&p, 2, 0, 23, &tm.tm_hour) ||
            !take_char(&p, ":") || !take_digits(&p, 2, 0, 59, &tm.tm_min) || !take_char(&p, ":") ||
            !take_digits(&p, 2, 0, 60, &tm.tm_sec))
            return -EINVAL;
        if (!take_fraction(&p, &fraction_us) || !take_zone(&p, &ahead_s) || *p != '\0')
            return -EINVAL;
    }
    time_t s = timegm(&tm) - ahead_s;
    *ret_us = s < 0 ? 0 : (uint64_t)s * SECOND_US + fraction_us;
    return 0;
}

int when_parse(const char *text, uint64_t now_us, uint64_t *ret_us)
{
    return parse_ago(text, now_us, ret_us) == 0 ? 0 : parse_date(text, ret_us);
}
