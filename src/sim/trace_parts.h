/*
 * What the makers of traces share: an order of requests; for readers, lines and fields with limits,
 * errors that name file and line, and the place where rows are gathered. Only trace*.c includes it.
 */
#pragma once

#include "base/buf.h"
#include "sim/trace_read.h"

#include <stdbool.h>

/* By time; requests of one time by function and lengths, so that every sort gives the same. */
void trace_sort(struct trace_request *requests, size_t count);

#define TRACE_LINE_BYTES_MAX (1u << 20)
#define TRACE_NAME_BYTES_MAX 512u
#define TRACE_SPAN_US_MAX (UINT64_C(3660) * 86400 * 1000000) /* ten years */
#define TRACE_COLUMNS_MAX 1600u
#define TRACE_CHUNK_BYTES 65536u
#define TRACE_SHOW_BYTES 48

struct trace_reader {
    const struct trace_options *options;
    const char *name;

    FILE *file;
    struct buf line; /* the one that is looked at, without its end; UTF-8, no NUL in it */
    uint64_t line_number;
    char chunk[TRACE_CHUNK_BYTES];
    size_t chunk_at, chunk_bytes;

    char *columns[TRACE_COLUMNS_MAX]; /* of the line, in its buffer */
    uint32_t column_count;
    uint32_t header_count; /* columns that the first line has */

    /* On whatever clock the format has: only differences count. */
    struct trace_request *rows; /* [row_cap] */
    size_t row_count, row_cap;
    uint64_t rows_seen;
    bool rows_unordered;   /* as the format is: all are held, the window is cut at the end */
    bool functions_named;  /* by the format */
    bool window_is_behind; /* no later line belongs to it */
    uint64_t begin_us;     /* of the trace, as far as it is read */
    uint64_t latest_us;    /* request; 2019: the end of the last minute */
    void *names;           /* tree of struct trace_name */
    uint32_t name_count;
    double *shares; /* [functions] of TRACE_SPREAD_ZIPF */
};

/* --- lines (trace_lines.c) --- */

/* The next line that is not blank: 1, 0 at the end, -errno. */
int trace_next_line(struct trace_reader *r, struct error *err);
/* "file:line: sentence", -EINVAL. */
int trace_refuse(const struct trace_reader *r, struct error *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Text from outside as it may stand in a sentence: short, printable. */
const char *trace_show(const char *text, char ret[TRACE_SHOW_BYTES]);

/* Cuts the line into columns, quotes removed. */
int trace_split(struct trace_reader *r, struct error *err);
/* Index of the header's column of this name (case does not matter), or -1. */
int trace_column(const struct trace_reader *r, const char *name);
/* Likewise, but its absence is an error. */
int trace_need_column(const struct trace_reader *r, const char *name, uint32_t *ret,
                      struct error *err);
/* The next row of as many columns as the header has: 1, 0 at the end, -errno. */
int trace_next_row(struct trace_reader *r, struct error *err);

/* A column's value. `what` names it in errors. */
int trace_whole(const struct trace_reader *r, const char *what, const char *text, uint64_t max,
                uint64_t *ret, struct error *err);
int trace_tokens(const struct trace_reader *r, const char *what, const char *text, uint32_t *ret,
                 struct error *err);
/* Seconds, not negative, at most ten years. */
int trace_seconds(const struct trace_reader *r, const char *what, const char *text, uint64_t *ret,
                  struct error *err);
int trace_check_seconds(const struct trace_reader *r, const char *what, double seconds,
                        uint64_t *ret, struct error *err);

/* --- rows (trace_rows.c) --- */

/* Is a request at this time wanted? 1, 0 before or behind the window, -errno out of order. Called
 * once a row, in the order of the file, before the row's function is asked for. */
int trace_place(struct trace_reader *r, uint64_t at_us, struct error *err);
/* Room for this many more rows. */
int trace_reserve(struct trace_reader *r, uint64_t more, struct error *err);
/* Adds one; lengths are cut here. */
int trace_add(struct trace_reader *r, uint64_t at_us, uint32_t function, uint32_t prompt_tokens,
              uint32_t new_tokens, struct error *err);
/* The number of the function that the format names so. */
int trace_function_named(struct trace_reader *r, const char *name, uint32_t *ret,
                         struct error *err);
/* The number of the function that this row falls to where the format names none. `session`: "" of
 * a row without one. */
uint32_t trace_function_spread(struct trace_reader *r, const char *session);
/* Sorts, cuts the window and gives the rows away. */
int trace_finish(struct trace_reader *r, struct trace *ret, struct error *err);
void trace_rows_free(struct trace_reader *r);

/* --- formats; the first line has been read --- */

int trace_read_azure_llm(struct trace_reader *r, struct error *err);
int trace_read_azure_2019(struct trace_reader *r, struct error *err);
int trace_read_azure_2021(struct trace_reader *r, struct error *err);
int trace_read_burstgpt(struct trace_reader *r, struct error *err);
int trace_read_jsonl(struct trace_reader *r, enum trace_format format, struct error *err);
/* The format whose objects have the line's keys; *ret as it was: none. */
int trace_jsonl_format(const struct trace_reader *r, enum trace_format *ret, struct error *err);
