/*
 * Rows on their way from a file to a trace. What is behind or before the window is dropped as it is
 * read, where the format is in the order of time; the exact cut is made once all are there, since a
 * late row may still move the beginning.
 */
#include "sim/trace_parts.h"

#include <assert.h>
#include <errno.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

struct trace_name {
    uint32_t number;
    char text[];
};

/* --- which are wanted --- */

static uint64_t window_end(const struct trace_reader *r, uint64_t begin_us)
{
    const struct trace_options *o = r->options;
    return o->limit_us > 0 ? begin_us + o->skip_us + o->limit_us : UINT64_MAX;
}

int trace_place(struct trace_reader *r, uint64_t at_us, struct error *err)
{
    if (r->rows_seen++ == 0)
        r->begin_us = r->latest_us = at_us;
    uint64_t latest_us = r->latest_us;
    if (at_us < r->begin_us)
        r->begin_us = at_us;
    if (at_us > r->latest_us)
        r->latest_us = at_us;
    if (r->rows_unordered)
        return 1;
    if (at_us + TRACE_DISORDER_US < latest_us)
        return trace_refuse(r, err,
                            "the row is %.3f s before an earlier one; sort the file by time",
                            (double)(latest_us - at_us) / 1e6);
    if (at_us > r->begin_us + TRACE_SPAN_US_MAX)
        return trace_refuse(r, err, "the row is ten years after the first; is its time damaged?");
    /* A late row may still move the beginning, by less than TRACE_DISORDER_US. */
    uint64_t end_us = window_end(r, r->begin_us);
    if (end_us != UINT64_MAX && at_us >= end_us + TRACE_DISORDER_US)
        r->window_is_behind = true;
    return at_us + TRACE_DISORDER_US >= r->begin_us + r->options->skip_us && at_us < end_us;
}

int trace_reserve(struct trace_reader *r, uint64_t more, struct error *err)
{
    uint64_t max = r->options->requests_max;
    if (more > max - r->row_count)
        return trace_refuse(r, err,
                            "there are more than %llu requests; take a shorter window of the trace "
                            "or raise the limit",
                            (unsigned long long)max);
    if (r->row_count + more <= r->row_cap)
        return 0;
    size_t cap = r->row_cap + r->row_cap / 2 + 1024;
    if (cap < r->row_count + more)
        cap = r->row_count + (size_t)more;
    struct trace_request *rows = realloc(r->rows, cap * sizeof *rows);
    if (rows == NULL)
        return error_set(err, -ENOMEM, "out of memory for %zu requests", cap);
    r->rows = rows;
    r->row_cap = cap;
    return 0;
}

static uint32_t cut(uint32_t tokens, uint32_t max)
{
    if (max > 0 && tokens > max)
        return max;
    return tokens > 0 ? tokens : 1;
}

int trace_add(struct trace_reader *r, uint64_t at_us, uint32_t function, uint32_t prompt_tokens,
              uint32_t new_tokens, struct error *err)
{
    int n = trace_reserve(r, 1, err);
    if (n < 0)
        return n;
    r->rows[r->row_count++] = (struct trace_request){
        .at_us = at_us,
        .function = function,
        .prompt_tokens = cut(prompt_tokens, r->options->prompt_max),
        .new_tokens = cut(new_tokens, r->options->answer_max),
    };
    return 0;
}

/* --- functions --- */

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct trace_name *)a)->text, ((const struct trace_name *)b)->text);
}

int trace_function_named(struct trace_reader *r, const char *name, uint32_t *ret, struct error *err)
{
    size_t bytes = strlen(name) + 1;
    if (bytes > TRACE_NAME_BYTES_MAX)
        return trace_refuse(r, err, "a function's name has more than %u bytes",
                            TRACE_NAME_BYTES_MAX - 1);
    struct trace_name *n = malloc(sizeof *n + bytes);
    if (n == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    n->number = r->name_count;
    memcpy(n->text, name, bytes);
    struct trace_name *const *at = tsearch(n, &r->names, compare_names);
    if (at == NULL || *at != n)
        free(n);
    if (at == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    if (*at == n && r->name_count++ == TRACE_FUNCTIONS_MAX)
        return trace_refuse(r, err, "there are more than %u functions; take a part of the file",
                            TRACE_FUNCTIONS_MAX);
    *ret = (*at)->number;
    return 0;
}

static uint64_t hash(const char *text)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (; *text != '\0'; text++)
        h = (h ^ (unsigned char)*text) * 0x100000001b3u;
    return h;
}

uint32_t trace_function_spread(struct trace_reader *r, const char *session)
{
    const struct trace_options *o = r->options;
    struct rng rng;
    if (o->spread == TRACE_SPREAD_ZIPF) {
        draw_seed(&rng, o->seed, r->line_number, 1);
        return draw_zipf(&rng, r->shares, o->functions);
    }
    if (o->spread == TRACE_SPREAD_SESSION && session[0] != '\0')
        return (uint32_t)(hash(session) % o->functions);
    return (uint32_t)((r->rows_seen - 1) % o->functions);
}

/* --- the end --- */

static int nothing_left(const struct trace_reader *r, struct error *err)
{
    const struct trace_options *o = r->options;
    if (r->rows_seen == 0)
        return error_set(err, -EINVAL, "%s holds no requests", r->name);
    char until[64] = "its end";
    if (o->limit_us > 0)
        snprintf(until, sizeof until, "%g s", (double)(o->skip_us + o->limit_us) / 1e6);
    return error_set(
        err, -EINVAL, "%s has no request from %g s to %s; it has requests until %g s at least",
        r->name, (double)o->skip_us / 1e6, until, (double)(r->latest_us - r->begin_us) / 1e6);
}

/* Functions numbered as they first appear, since the window may have left most of them out. */
static int renumber(struct trace_reader *r, uint32_t *ret_functions, struct error *err)
{
    uint32_t *numbers = calloc(r->name_count, sizeof *numbers); /* new ones, from 1 */
    uint32_t count = 0;
    if (numbers == NULL)
        return error_set(err, -ENOMEM, "out of memory");
    for (size_t i = 0; i < r->row_count; i++) {
        uint32_t *number = &numbers[r->rows[i].function];
        if (*number == 0)
            *number = ++count;
        r->rows[i].function = *number - 1;
    }
    free(numbers);
    *ret_functions = count;
    return 0;
}

/* Keeps the rows of the window and counts their time from its beginning. */
static void cut_window(struct trace_reader *r)
{
    const struct trace_options *o = r->options;
    uint64_t from_us = r->begin_us + o->skip_us;
    uint64_t end_us = window_end(r, r->begin_us);
    size_t kept = 0;
    for (size_t i = 0; i < r->row_count; i++) {
        struct trace_request row = r->rows[i];
        if (row.at_us < from_us || row.at_us >= end_us)
            continue;
        row.at_us = (uint64_t)((double)(row.at_us - from_us) / o->speed);
        r->rows[kept++] = row;
    }
    r->row_count = kept;
}

int trace_finish(struct trace_reader *r, struct trace *ret, struct error *err)
{
    const struct trace_options *o = r->options;
    uint32_t functions = o->functions;
    trace_sort(r->rows, r->row_count);
    bool reaches_behind = r->latest_us >= window_end(r, r->begin_us);
    cut_window(r);
    if (r->row_count == 0)
        return nothing_left(r, err);
    int n = r->functions_named ? renumber(r, &functions, err) : 0;
    if (n < 0)
        return n;
    *ret = (struct trace){
        .requests = r->rows,
        .count = r->row_count,
        .functions = functions,
        .span_us = reaches_behind ? (uint64_t)((double)o->limit_us / o->speed)
                                  : r->rows[r->row_count - 1].at_us,
    };
    r->rows = NULL;
    r->row_count = 0;
    return 0;
}

void trace_rows_free(struct trace_reader *r)
{
    free(r->rows);
    free(r->shares);
    tdestroy(r->names, free);
}
