/* Azure's traces: LLM inference of 2023 and 2024, functions of 2019 and of 2021. */
#include "sim/trace_parts.h"

#include <stdlib.h>
#include <string.h>

#define MINUTE_US 60000000u
#define MINUTES_MAX 1440u
#define COUNT_MAX 100000000u

/* What is drawn for a row is drawn apart from what is drawn for another purpose. */
#define DRAW_LENGTHS 2u
#define DRAW_MINUTES 16u

/* --- LLM inference --- */

/* So many digits as a number; advances *at. */
static bool take_digits(const char **at, uint32_t count, uint32_t max, uint32_t *ret)
{
    uint32_t value = 0;
    for (uint32_t i = 0; i < count; i++) {
        char c = (*at)[i];
        if (c < '0' || c > '9')
            return false;
        value = value * 10 + (uint32_t)(c - '0');
    }
    *at += count;
    *ret = value;
    return value <= max;
}

static bool take_char(const char **at, char c)
{
    if (**at != c)
        return false;
    (*at)++;
    return true;
}

/* Days since 1970 of a date of the Gregorian calendar: years begin in March, so that the day that
 * a leap year has more is the last. */
static uint64_t days_of(uint32_t year, uint32_t month, uint32_t day)
{
    uint32_t y = month > 2 ? year : year - 1;
    uint32_t m = month > 2 ? month - 3 : month + 9;
    return (uint64_t)y * 365 + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719468;
}

static bool take_date(const char **at, uint64_t *ret_days)
{
    static const uint8_t lengths[] = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    uint32_t year, month, day;
    bool ok = take_digits(at, 4, 2999, &year) && year >= 1971 && take_char(at, '-') &&
              take_digits(at, 2, 12, &month) && month >= 1 && take_char(at, '-') &&
              take_digits(at, 2, lengths[month - 1], &day) && day >= 1;
    bool leap = ok && year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    if (!ok || (month == 2 && day == 29 && !leap))
        return false;
    *ret_days = days_of(year, month, day);
    return true;
}

/* "18:15:46.6805900" */
static bool take_time(const char **at, uint64_t *ret_us)
{
    uint32_t hour, minute, second;
    if (!take_digits(at, 2, 23, &hour) || !take_char(at, ':') || !take_digits(at, 2, 59, &minute) ||
        !take_char(at, ':') || !take_digits(at, 2, 59, &second))
        return false;
    uint64_t us = ((uint64_t)hour * 3600 + minute * 60 + second) * 1000000;
    if (take_char(at, '.')) {
        size_t digits = strspn(*at, "0123456789");
        uint32_t unit = 100000;
        for (size_t i = 0; i < digits; i++, unit /= 10)
            us += (uint64_t)((*at)[i] - '0') * unit;
        *at += digits;
        if (digits == 0 || digits > 12)
            return false;
    }
    *ret_us = us;
    return true;
}

/* "Z", "+00:00", or nothing, which is UTC too. */
static bool take_zone(const char **at, int64_t *ret_us)
{
    uint32_t hour, minute;
    int sign = **at == '-' ? -1 : 1;
    *ret_us = 0;
    if (**at == '\0' || take_char(at, 'Z'))
        return **at == '\0';
    if (!take_char(at, '+') && !take_char(at, '-'))
        return false;
    if (!take_digits(at, 2, 14, &hour) || !take_char(at, ':') || !take_digits(at, 2, 59, &minute))
        return false;
    *ret_us = sign * ((int64_t)hour * 60 + minute) * MINUTE_US;
    return **at == '\0';
}

static int read_timestamp(const struct trace_reader *r, const char *text, uint64_t *ret_us,
                          struct error *err)
{
    char shown[TRACE_SHOW_BYTES];
    const char *at = text;
    uint64_t days, us;
    int64_t zone_us;
    if (!take_date(&at, &days) || !(take_char(&at, ' ') || take_char(&at, 'T')) ||
        !take_time(&at, &us) || !take_zone(&at, &zone_us))
        return trace_refuse(r, err,
                            "TIMESTAMP is \"%s\": a time as 2023-11-16 18:15:46.6805900 is needed",
                            trace_show(text, shown));
    *ret_us = days * 86400 * 1000000 + us - (uint64_t)zone_us;
    return 0;
}

int trace_read_azure_llm(struct trace_reader *r, struct error *err)
{
    uint32_t time, context, generated;
    int n = trace_need_column(r, "TIMESTAMP", &time, err);
    n = n == 0 ? trace_need_column(r, "ContextTokens", &context, err) : n;
    n = n == 0 ? trace_need_column(r, "GeneratedTokens", &generated, err) : n;
    if (n < 0)
        return n;
    while (!r->window_is_behind && (n = trace_next_row(r, err)) > 0) {
        uint32_t prompt_tokens = 0, new_tokens = 0;
        uint64_t at_us = 0;
        n = read_timestamp(r, r->columns[time], &at_us, err);
        n = n == 0 ? trace_tokens(r, "ContextTokens", r->columns[context], &prompt_tokens, err) : n;
        n = n == 0 ? trace_tokens(r, "GeneratedTokens", r->columns[generated], &new_tokens, err)
                   : n;
        n = n == 0 ? trace_place(r, at_us, err) : n;
        n = n > 0
                ? trace_add(r, at_us, trace_function_spread(r, ""), prompt_tokens, new_tokens, err)
                : n;
        if (n < 0)
            return n;
    }
    return n < 0 ? n : 0;
}

/* --- functions, 2019 --- */

/* The minutes' columns: how many there are, and the first one. They are named 1, 2, 3, ... */
static int find_minutes(struct trace_reader *r, uint32_t *ret_first, uint32_t *ret_count,
                        struct error *err)
{
    char name[16];
    int n = trace_need_column(r, "1", ret_first, err);
    if (n < 0)
        return n;
    uint32_t count = r->header_count - *ret_first;
    if (count > MINUTES_MAX)
        count = MINUTES_MAX;
    for (uint32_t i = 0; i < count; i++) {
        snprintf(name, sizeof name, "%u", i + 1);
        if (strcmp(r->columns[*ret_first + i], name) != 0)
            return trace_refuse(r, err,
                                "column %u should be minute %u: minutes must be named 1, 2, 3, ... "
                                "without a gap",
                                *ret_first + i + 1, i + 1);
    }
    *ret_count = count;
    return 0;
}

/* So many requests somewhere in this minute, each with drawn lengths. */
static int add_minute(struct trace_reader *r, uint32_t function, uint32_t minute, uint64_t count,
                      struct error *err)
{
    const struct trace_options *o = r->options;
    struct rng rng;
    int n = trace_reserve(r, count, err);
    draw_seed(&rng, o->seed, r->line_number, DRAW_MINUTES + minute);
    for (uint64_t i = 0; n == 0 && i < count; i++) {
        uint64_t at_us = (uint64_t)minute * MINUTE_US + rng_below(&rng, MINUTE_US);
        uint32_t prompt_tokens = draw_length(&rng, &o->prompt);
        uint32_t new_tokens = draw_length(&rng, &o->answer);
        n = trace_add(r, at_us, function, prompt_tokens, new_tokens, err);
    }
    return n;
}

static int add_minutes(struct trace_reader *r, const char *function, uint32_t first,
                       uint32_t minute_count, struct error *err)
{
    const struct trace_options *o = r->options;
    uint64_t end_us = o->limit_us > 0 ? o->skip_us + o->limit_us : UINT64_MAX;
    uint32_t number = 0;
    bool numbered = false;
    for (uint32_t minute = 0; minute < minute_count; minute++) {
        char what[32];
        uint64_t count;
        snprintf(what, sizeof what, "minute %u", minute + 1);
        int n = trace_whole(r, what, r->columns[first + minute], COUNT_MAX, &count, err);
        if (n < 0)
            return n;
        r->rows_seen += count;
        uint64_t begin_us = (uint64_t)minute * MINUTE_US;
        if (count == 0 || begin_us + MINUTE_US <= o->skip_us || begin_us >= end_us)
            continue;
        if (!numbered)
            n = trace_function_named(r, function, &number, err);
        numbered = true;
        if (n == 0)
            n = add_minute(r, number, minute, count, err);
        if (n < 0)
            return n;
    }
    return 0;
}

int trace_read_azure_2019(struct trace_reader *r, struct error *err)
{
    uint32_t owner = 0, app = 0, function = 0, first = 0, count = 0;
    int n = trace_need_column(r, "HashOwner", &owner, err);
    n = n == 0 ? trace_need_column(r, "HashApp", &app, err) : n;
    n = n == 0 ? trace_need_column(r, "HashFunction", &function, err) : n;
    n = n == 0 ? find_minutes(r, &first, &count, err) : n;
    if (n < 0)
        return n;
    r->rows_unordered = true;
    r->functions_named = true;
    r->latest_us = (uint64_t)count * MINUTE_US;
    while ((n = trace_next_row(r, err)) > 0) {
        char name[TRACE_NAME_BYTES_MAX + 1];
        int bytes = snprintf(name, sizeof name, "%s/%s/%s", r->columns[owner], r->columns[app],
                             r->columns[function]);
        if (bytes >= (int)sizeof name)
            return trace_refuse(r, err, "the function's names have more than %u bytes together",
                                TRACE_NAME_BYTES_MAX - 1);
        n = add_minutes(r, name, first, count, err);
        if (n < 0)
            return n;
    }
    return n;
}

/* --- functions, 2021 --- */

static int read_invocation(struct trace_reader *r, const uint32_t columns[4], struct error *err)
{
    const struct trace_options *o = r->options;
    char name[TRACE_NAME_BYTES_MAX + 1];
    uint64_t end_us = 0, duration_us = 0;
    uint32_t function = 0;
    int n = trace_seconds(r, "end_timestamp", r->columns[columns[2]], &end_us, err);
    n = n == 0 ? trace_seconds(r, "duration", r->columns[columns[3]], &duration_us, err) : n;
    if (n < 0)
        return n;
    int bytes =
        snprintf(name, sizeof name, "%s/%s", r->columns[columns[0]], r->columns[columns[1]]);
    if (bytes >= (int)sizeof name)
        return trace_refuse(r, err, "app and func have more than %u bytes together",
                            TRACE_NAME_BYTES_MAX - 1);
    /* What ran when the trace began had arrived before its zero. */
    uint64_t at_us = TRACE_SPAN_US_MAX + end_us - duration_us;
    n = trace_place(r, at_us, err);
    n = n > 0 ? trace_function_named(r, name, &function, err) : n;
    if (n < 0)
        return n;
    struct rng rng;
    draw_seed(&rng, o->seed, r->line_number, DRAW_LENGTHS);
    uint32_t prompt_tokens = draw_length(&rng, &o->prompt);
    uint32_t new_tokens = draw_length(&rng, &o->answer);
    return trace_add(r, at_us, function, prompt_tokens, new_tokens, err);
}

int trace_read_azure_2021(struct trace_reader *r, struct error *err)
{
    static const char *const names[] = {"app", "func", "end_timestamp", "duration"};
    uint32_t columns[4];
    int n = 0;
    for (int i = 0; n == 0 && i < 4; i++)
        n = trace_need_column(r, names[i], &columns[i], err);
    r->rows_unordered = true;
    r->functions_named = true;
    while (n >= 0 && (n = trace_next_row(r, err)) > 0)
        n = read_invocation(r, columns, err);
    return n;
}
